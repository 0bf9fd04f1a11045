"""The last four MLPs of an export, circuit by circuit on the weights: answers, distances, sums, logarithms, logits.

Each unit has to be of a kind that a lemma speaks of; its thresholds and weights are taken as they are. The errors that
enter are those of `verify.export_counts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mpmath  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from verify.exact import INFLATION, Float
from verify.export_arithmetic import Arithmetic, Norm
from verify.export_counts import Counted
from verify.export_places import Places
from verify.export_state import Group, Ledger, dense_out
from verify.export_weights import RefusedError, Stock

Units = NDArray[np.int_]


@dataclass(frozen=True)
class Block:
    """One of the readout's MLPs, dense, and the norm before it by role.

    Args:
        number: the layer, from 0.
        w_in: shape [width, units].
        bias: shape [units].
        w_out: shape [units, width].
        norms: by role.
        arithmetic: the arithmetic.
    """

    number: int
    w_in: Float
    bias: Float
    w_out: Float
    norms: Mapping[str, Norm]
    arithmetic: Arithmetic

    @property
    def eq(self) -> Norm:
        """The norm at EQ."""
        return self.norms["eq"]

    def refuse(self, what: str, expected: str, got: str) -> RefusedError:
        """An error that names the layer."""
        return RefusedError(what, f"layer {self.number + 1}", expected, got)

    def argument(self, unit: int, values: Mapping[int, tuple[float, float]]) -> tuple[float, float]:
        """A unit's argument where what it reads has these values, each with its error; and how far it is off."""
        read = np.flatnonzero(self.w_in[:, unit])
        weights = self.w_in[read, unit]
        ideal = np.array([values[int(at)][0] for at in read])
        off = np.array([values[int(at)][1] for at in read])
        terms = weights * ideal
        size = float(np.abs(terms).sum() + np.abs(weights) @ off + abs(self.bias[unit]))
        error = float(self.eq.argument(weights, ideal, off)) + (len(read) + 1) * self.arithmetic.sums * size
        return float(terms.sum() + self.bias[unit]), (error + 2.0**-50 * size) * INFLATION


@dataclass(frozen=True)
class Sums:
    """Of the sums s_k: how far they are off, and what silences a task.

    Args:
        relative: for s >= 1.
        absolute: for s = 0.
        silent: the least that a task is silenced with by another that agrees.
    """

    relative: float
    absolute: float
    silent: float


@dataclass(frozen=True)
class Logarithms:
    """Of the shortfalls n_k = log S - log s_k.

    Args:
        error: for s from 1 on.
        most: the greatest, whatever s.
        silent: the least that a task is silenced with.
    """

    error: float
    most: float
    silent: float


def block_of(stock: Stock, number: int, ledgers: Mapping[str, Ledger], arithmetic: Arithmetic) -> Block:
    """Layer `number`, behind its norm. Its attention adds 0.

    Raises:
        RefusedError: it has heads, or a constant.
    """
    layer = stock.weights.layers[number]
    if len(layer.attention.query):
        raise RefusedError("heads", f"layer {number + 1}", "no head that writes", f"{len(layer.attention.query)}")
    if layer.mlp.bias_out.any():
        raise RefusedError("biases", f"layer {number + 1}", "no constant", "one")
    norms = {role: ledger.norm(stock, arithmetic) for role, ledger in ledgers.items()}
    w_in = np.asarray(layer.mlp.w_in.toarray(), dtype=np.float64)
    return Block(number, w_in, layer.mlp.bias_in.astype(np.float64), dense_out(layer.mlp), norms, arithmetic)


def crooked(stock: Stock, number: int, units: int) -> Float:
    """By how much the rows of a layer's MLP do not sum to 0, at the most, for each unit."""
    name = f"transformer.h.{number}.mlp.c_proj.weight"
    return np.full(units, float(stock.imbalance[name].max(initial=0.0)))


def clean(stock: Stock, places: Places, counted: Counted, arithmetic: Arithmetic) -> float:
    """The answers become exact, and the distance of two tasks is 0 where they agree, else at least the figure returned.

    A bit of an answer is taken to -1, 0 or 1 by units of one input each, with weights of size 1 and thresholds that are
    multiples of 1/4 between 0 and 1. Two of them are on, and subtracting such a threshold from a stored number of
    nearly 1 is exact, as the result is a smaller number on the same grid; so is the difference of the two.
    """
    block = block_of(stock, 2, counted.ledgers, arithmetic)
    off = max(float(norm.error(1 + counted.recalled, counted.recalled)) for norm in block.norms.values())
    if not off < 0.25:
        raise block.refuse("clean", "bits off by less than 1/4", f"{off:.3g}")
    reads = [np.flatnonzero(column) for column in block.w_in.T]
    writes = [np.flatnonzero(row[: places.width]) for row in block.w_out]
    bit_of = {int(at): place for place, at in enumerate(places.recalled.ravel())}
    pair_of = {int(at): place for place, at in enumerate(places.distance)}
    answer = places.answer.reshape(-1, 2)
    of_bit: dict[int, list[int]] = {bit: [] for bit in range(len(answer))}
    of_pair: dict[int, dict[tuple[int, int], float]] = {pair: {} for pair in range(len(places.pairs))}
    for unit, (read, written) in enumerate(zip(reads, writes, strict=True)):
        if len(read) == 1 and int(read[0]) in bit_of and set(written) == set(answer[bit_of[int(read[0])]]):
            of_bit[bit_of[int(read[0])]].append(unit)
        elif len(read) == 2 and len(written) == 1 and int(written[0]) in pair_of and set(read) <= bit_of.keys():
            weights, threshold = block.w_in[read, unit], -block.bias[unit]
            out = block.w_out[unit, written[0]]
            slip = 2 * off + 8 * arithmetic.sums
            if sorted(weights) != [-1.0, 1.0] or not slip < threshold < 1 - slip or not out > 0:
                raise block.refuse("distance", "the difference of two bits beyond a threshold", "other weights")
            plus, minus = (int(read[weights == sign][0]) for sign in (1.0, -1.0))
            key = bit_of[plus], bit_of[minus]
            found = of_pair[pair_of[int(written[0])]]
            found[key] = found.get(key, 0.0) + float(out * (1 - threshold - slip)) * (1 - 4 * arithmetic.storage)
        else:
            raise block.refuse("clean", "units that round a bit, or compare two", f"another: unit {unit}")
    for bit, units in of_bit.items():
        _rounds(block, np.array(units, dtype=np.int_), answer[bit], off)
    least = np.inf
    bits = places.recalled.shape[1]
    for pair, (first, second) in enumerate(places.pairs):
        expected = {
            key
            for bit in range(bits)
            for key in ((first * bits + bit, second * bits + bit), (second * bits + bit, first * bits + bit))
        }
        if of_pair[pair].keys() != expected:
            raise block.refuse("distance", f"a comparison of each bit of tasks {first} and {second}", "others")
        least = min(least, *of_pair[pair].values())
    # Every bit that differs by 2 counts twice and more; sums of absolute values for the mean.
    rounding = [Group(np.array(units), 1 + 4 * off) for units in of_bit.values()]
    comparing = [np.flatnonzero(block.w_out[:, at]) for at in places.distance]
    for ledger in counted.ledgers.values():
        ledger.write(block.w_out, rounding, crooked(stock, 2, len(reads)), arithmetic, exact=True)
        groups = [Group(units, bits * (2 + 2 * off)) for units in comparing]
        ledger.write(block.w_out, groups, crooked(stock, 2, len(reads)), arithmetic)
    return float(least)


def _rounds(block: Block, units: Units, to: Units, off: float) -> None:
    """Raise unless the units take z + e, |e| <= off, to z and -z exactly, for z = -1, 0, 1."""
    given = np.array([block.w_in[np.flatnonzero(block.w_in[:, unit])[0], unit] for unit in units])
    bias, out = block.bias[units], block.w_out[units][:, to]
    exact = (np.abs(given) == 1).all() and (bias * 4 == np.round(bias * 4)).all() and ((bias < 0) & (bias > -1)).all()
    if not len(units) or not exact or not (np.frexp(np.abs(out))[0] == 0.5).all():
        raise block.refuse("clean", "weights of size 1, thresholds of quarters", "others")
    for z in (-1.0, 0.0, 1.0):
        low, high = given * z + bias - off, given * z + bias + off
        on = low > 0
        if ((high > 0) != on).any() or on.sum() not in ({0} if z == 0 else {2}):
            raise block.refuse("clean", f"units that are on or off at {z:g}, with errors of {off:.3g}", "others")
        slope, value = (given * on) @ out, (bias * on) @ out
        if slope.any() or not np.array_equal(value, [z, -z]):
            raise block.refuse("clean", f"{z:g} and {-z:g}", f"{value.tolist()}, slope {slope.tolist()}")


def merge(stock: Stock, places: Places, counted: Counted, apart: float, examples: int, arithmetic: Arithmetic) -> Sums:
    """s_k is the sum of the counts of the tasks that agree; a task is silenced by an earlier one that agrees."""
    block = block_of(stock, 3, counted.ledgers, arithmetic)
    norm = block.eq
    pair_of = {int(at): place for place, at in enumerate(places.distance)}
    task_of = {int(at): place for place, at in enumerate(places.count)}
    needed = {(task, task) for task in range(len(places.count))}
    needed |= {pair for k, j in places.pairs.tolist() for pair in ((k, j), (j, k))}
    silences = {(k, j) for k, j in places.pairs.tolist()}
    silent = np.inf
    adding: dict[tuple[int, int], list[int]] = {}
    spread = apart * 2.0**-10 + float(norm.error(apart))  # an error of the distance, beyond its least
    least = apart - spread if len(places.pairs) else 0.0
    for unit in range(len(block.bias)):
        read = np.flatnonzero(block.w_in[:, unit])
        written = np.flatnonzero(block.w_out[unit, : places.width])
        counts = [int(at) for at in read if int(at) in task_of]
        pairs = [int(at) for at in read if int(at) in pair_of]
        if len(written) != 1 or len(pairs) > 1 or len(counts) > 1:
            raise block.refuse("merge", "units of one count or one distance, or of both", f"another: unit {unit}")
        out, to = float(block.w_out[unit, written[0]]), int(written[0])
        gates = [float(block.w_in[at, unit]) for at in (*pairs, places.zero)]
        expected = {*counts, *pairs} | ({places.zero} if pairs else set())
        if set(read.tolist()) != expected or (pairs and (gates[0] != -gates[1] or not gates[0] < 0)):
            raise block.refuse("merge", "distances taken back on the coordinate `zero`", f"other weights: unit {unit}")
        gate = -gates[0] if pairs else 0.0
        if counts:
            own, other = np.flatnonzero(places.agreeing == to), task_of[counts[0]]
            if not len(own):
                raise block.refuse("merge", "counts added to sums", f"other weights: unit {unit}")
            task = int(own[0])
            ends = sorted((task, other)) if pairs else [task, task]
            if (task, other) not in needed or (pairs and places.pairs[pair_of[pairs[0]]].tolist() != ends):
                raise block.refuse("merge", "the counts of tasks that can agree", f"unit {unit}")
            if pairs == [] and task != other:
                raise block.refuse("merge", "a distance with the count of another task", f"none: unit {unit}")
            adding.setdefault((task, other), []).append(unit)
            if pairs:
                # What differs adds nothing: each unit is off, whatever the count.
                slope = float(block.w_in[counts[0], unit])
                top = examples * (1 + counted.relative) if slope > 0 else 0.0
                off = counted.relative * top if slope > 0 else 0.0
                gone = {counts[0]: (top, off), pairs[0]: (least, spread), places.zero: (0.0, 0.0)}
                argument, error = block.argument(unit, gone)
                if argument + error > 0:
                    raise block.refuse("merge", "no count of a task that answers otherwise", f"unit {unit}")
        else:
            later = np.flatnonzero(places.silent == to)
            key = tuple(places.pairs[pair_of[pairs[0]]].tolist()) if pairs else (-1, -1)
            if not len(later) or key not in silences or key[1] != int(later[0]) or not out > 0:
                raise block.refuse("merge", "the later of two tasks that agree is silenced", f"unit {unit}")
            argument, error = block.argument(unit, {pairs[0]: (0.0, 0.0), places.zero: (0.0, 0.0)})
            silent = min(silent, (argument - error) * out * (1 - 4 * arithmetic.storage))
            argument, error = block.argument(unit, {pairs[0]: (least, spread), places.zero: (0.0, 0.0)})
            if gate * least <= 0 or argument + error > 0:
                raise block.refuse("merge", "tasks that differ are not silenced", f"unit {unit}")
            silences.remove(key)
    if needed != adding.keys() or silences:
        missing = len((needed - adding.keys()) | silences)
        raise block.refuse("merge", "units for each pair of tasks that can agree", f"{missing} missing")
    passed: dict[bytes, tuple[float, float]] = {}
    relative = absolute = 0.0
    for (task, other), units in adding.items():
        count, into = int(places.count[other]), int(places.agreeing[task])
        form = [block.w_in[count, units], block.w_in[places.zero, units], block.bias[units], block.w_out[units, into]]
        same = np.vstack(form).tobytes()
        if same not in passed:
            passed[same] = _passes(block, units, count, into, counted, examples)
        relative, absolute = max(relative, passed[same][0]), max(absolute, passed[same][1])
    partners = 1 + int(np.bincount(places.pairs.ravel(), minlength=1).max(initial=0)) if len(places.pairs) else 1
    terms = max(map(len, adding.values())) * partners
    stored = terms * arithmetic.sums + arithmetic.storage
    # A sum of s >= 1 has at most `partners` counts, those of 0 with their own errors.
    relative = ((relative + partners * absolute) * (1 + stored) + stored) * INFLATION
    absolute = partners * absolute * (1 + stored) * INFLATION
    if not relative < 0.25 or not absolute < 0.25:
        raise block.refuse("merge", "sums off by less than 1/4", f"{relative:.3g} of it, {absolute:.3g} where it is 0")
    rows, slanted = block.w_out, crooked(stock, 3, len(block.bias))
    for role, ledger in counted.ledgers.items():
        top = float(ledger.column[places.count].max()) if role != "eq" else examples * (1 + counted.relative)
        groups = [Group(np.array([unit]), top if row[places.agreeing].any() else 2.0) for unit, row in enumerate(rows)]
        ledger.write(rows, groups, slanted, arithmetic)
    return Sums(relative, absolute, float(silent))


def _passes(
    block: Block, units: list[int], count: int, into: int, counted: Counted, examples: int
) -> tuple[float, float]:
    """Units that read one count c and no more, what else they read being 0: they add up to c.

    With f(c) = sum_u w_u relu(a_u c + b_u) exactly: f = 0 on [0, A], A the most that a count of 0 is (counts are sums
    of what is not negative, `count`), and f(c) = c by one unit, the others off, for c from 1 - r to m (1 + r), r the
    relative error. So an error of a count of 0 is forgotten, and that of another is handed on; each unit adds its own
    rounding.

    Returns:
        How far the sum of the units is off: relatively for c >= 1, and at the most where the count is 0.

    Raises:
        RefusedError: f is another function.
    """
    arithmetic = block.arithmetic
    slopes, bias, out = block.w_in[count, units], block.bias[units], block.w_out[units, into]
    low = 1 - counted.relative
    # f is linear between the edges of its units; all of these are dyadic numbers, and so are their products.
    edges = [-b / a for a, b in zip(slopes, bias, strict=True) if a and 0 < -b / a < counted.absolute]
    nothing = [float(np.maximum(slopes * c + bias, 0.0) @ out) for c in (0.0, *edges, counted.absolute)]
    on = slopes * low + bias > 0
    if max(map(abs, nothing)) > 2.0**-48 * (1 + float(np.abs(out).sum())):
        raise block.refuse("merge", "a count of 0 adds nothing", f"{max(map(abs, nothing)):.3g}")
    if out[on] @ slopes[on] != 1 or out[on] @ bias[on] or (slopes[on] < 0).any() or (slopes[~on] >= 0).any():
        raise block.refuse("merge", "a count of at least 1 is added as it is", "another multiple, or a constant")
    others = np.flatnonzero(block.w_in[:, units].any(axis=1))
    relative, small = 0.0, np.zeros(len(units))
    for place, unit in enumerate(units):
        size = abs(float(out[place]))
        for value in (1.0, float(examples)):
            values = dict.fromkeys(map(int, others), (0.0, 0.0)) | {count: (value, counted.relative * value)}
            argument, error = block.argument(unit, values)
            if on[place]:
                error += arithmetic.storage * (argument + error)
                relative = max(relative, size * error / value)
            elif argument + error > 0:
                raise block.refuse("merge", "units that stay off for a count of at least 1", f"unit {unit} is on")
        # f is 0 wherever the count is in [0, A]: what counts is the error of the unit's own argument there.
        for value in (0.0, counted.absolute):
            values = dict.fromkeys(map(int, others), (0.0, 0.0)) | {count: (value, 0.0)}
            argument, error = block.argument(unit, values)
            stored = arithmetic.storage * max(0.0, argument + error)
            if np.frexp(abs(bias[place]))[0] in (0.0, 0.5):
                # 0 and powers of two are stored as they are, so what lies near one is rounded by no more than that.
                stored = min(stored, abs(float(slopes[place])) * counted.absolute + error)
            small[place] = max(small[place], size * (error + stored))
    if on.sum() != 1:
        raise block.refuse("merge", "one unit that is on for a count of at least 1", f"{int(on.sum())}")
    return relative, float(small.sum()) * INFLATION


def logarithm(stock: Stock, places: Places, counted: Counted, sums: Sums, arithmetic: Arithmetic) -> Logarithms:
    """n_k = log S - log s_k at the integers, convex between; a task whose sum is 0 is silenced."""
    block = block_of(stock, 4, counted.ledgers, arithmetic)
    norm, largest = block.eq, places.largest
    tasks = len(places.agreeing)
    tables: list[list[tuple[float, float]]] = [[] for _ in range(tasks)]
    silent = [0.0] * tasks
    for unit in range(len(block.bias)):
        read = np.flatnonzero(block.w_in[:, unit])
        written = np.flatnonzero(block.w_out[unit, : places.width])
        task = (
            int(np.flatnonzero(places.agreeing == read[0])[0]) if len(read) == 1 and read[0] in places.agreeing else -1
        )
        weight = float(block.w_in[read[0], unit]) if task >= 0 else 0.0
        out = float(block.w_out[unit, written[0]]) if len(written) == 1 else 0.0
        if task < 0 or len(written) != 1 or not out > 0 or not weight < 0:
            raise block.refuse("logarithm", "units that fall with one sum", f"another: unit {unit}")
        threshold = float(block.bias[unit])
        if written[0] == places.shortfall[task] and weight == -1:
            tables[task].append((threshold, out))
        elif written[0] == places.silent[task]:
            none, error = block.argument(unit, {int(read[0]): (0.0, sums.absolute)})
            some, slip = block.argument(unit, {int(read[0]): (1.0, sums.relative)})
            if some + slip > 0 or weight * largest * (1 - sums.relative) + threshold > 0:
                raise block.refuse("logarithm", "a task with evidence is not silenced", f"unit {unit}")
            silent[task] += (none - error) * out * (1 - 4 * arithmetic.storage) if none > error else 0.0
        else:
            raise block.refuse("logarithm", "units that write a logarithm or silence a task", f"another: unit {unit}")
    if tasks and not min(silent) > 0:
        raise block.refuse("logarithm", "a task without evidence is silenced", "one that is not")
    error = most = 0.0
    known: dict[tuple[tuple[float, float], ...], tuple[float, float]] = {}
    for table in tables:
        key = tuple(sorted(table))
        if key not in known:
            known[key] = _table(np.array(key).reshape(-1, 2), largest, sums, norm, arithmetic)
        error, most = max(error, known[key][0]), max(most, known[key][1])
    rows, slanted = block.w_out, crooked(stock, 4, len(block.bias))
    writers = [np.flatnonzero(rows[:, at]) for at in places.shortfall]
    for ledger in counted.ledgers.values():
        table_size = [np.array([unit]) for units in writers for unit in units]
        groups = [Group(unit, float(block.bias[unit[0]]) + 1.0) for unit in table_size]
        silencing = np.setdiff1d(np.arange(len(rows)), np.concatenate([*writers, np.zeros(0, dtype=np.int_)]))
        groups += [Group(np.array([unit]), float(block.bias[unit]) + 1.0) for unit in silencing]
        ledger.write(rows, groups, slanted, arithmetic)
    return Logarithms(error, most, min(silent, default=np.inf))


def _table(table: Float, largest: int, sums: Sums, norm: Norm, arithmetic: Arithmetic) -> tuple[float, float]:
    """The error of sum_j d_j relu(j - s) against log S - log s for s = 1 .. S, and its greatest value."""
    places, steps = table.T
    top = mpmath.iv.log(largest)
    worst = 0.0
    order = np.argsort(places)
    places, steps = places[order], steps[order]
    for s in range(1, largest + 1):
        off = sums.relative * s
        moved = float(norm.argument(np.array([-1.0]), np.array([float(s)]), np.array([off])))
        on = places > s - moved - 1e-6
        value = float(np.maximum(places - s, 0.0) @ steps)
        exact = top - mpmath.iv.log(s)
        wrong = max(abs(value - float(exact.a)), abs(value - float(exact.b))) + 2.0**-45
        # Convex and falling: steepest on the left; each argument is rounded on its own.
        slope = float(steps[on].sum())
        rounding = float(steps[on] @ (2 * arithmetic.sums * (places[on] + s)))
        size = value + slope * moved + rounding
        rounding += ((int(on.sum()) + 1) * arithmetic.sums + 2 * arithmetic.storage) * size
        worst = max(worst, (wrong + slope * moved + rounding) * INFLATION)
    below = float(norm.error(0.0, sums.absolute)) + 2.0**-10
    unit = (len(places) + 4) * arithmetic.sums + 2 * arithmetic.storage
    most = float((places + below) @ steps) * (1 + unit)
    return worst, most * INFLATION
