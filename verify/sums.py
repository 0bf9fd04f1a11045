"""The lemmas on sum tasks: units that depend on the inputs through a sum of token values alone.

Such a unit's argument is slope * s + a constant, s an integer, plus what its own token gives. Units are added up as
one piecewise linear function of s; where all share the same dependence on the heads, a leak shifts s for all of
them alike, and the function's own slope near the integers says what that does: the hinges' large values cancel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.sparse import Sparse
from construct.tasks import SumTask
from verify.certificate import Violation
from verify.exact import INFLATION, Float, rounding_slack
from verify.facts import TaskFacts, refuted
from verify.linear import Layer
from verify.rows import NotProvableError, head_parts
from verify.tables import weight_errors, weight_reach

MOST_SHIFT = 8
"""By so much, at most, may leaks shift a sum for the units to be looked at together."""

NEAR_INTEGER = 1e-9


@dataclass(frozen=True)
class Affine:
    """Arguments of units as functions of the sum: base + slope * s where every token has a value.

    Args:
        base: shape [units].
        slope: shape [units].
        radius: what is not of this form, shape [units].
        ranges: by head, how far the part of the head can range, shape [heads, units].
        common: whether all units depend on the heads alike (then a leak shifts all arguments alike).
        undefined: the most that base + slope * s is replaced by when a token has no value, shape [units], or None
            where every token has one.
        reach: a bound of |slope * s|, whatever the heads attend to, shape [units].
        high: the most, whatever the heads attend to, shape [units].
    """

    base: Float
    slope: Float
    radius: Float
    ranges: Float
    common: bool
    undefined: Float | None
    reach: Float
    high: Float


def affine_arguments(
    layer: Layer, role: str, task: SumTask, units: NDArray[np.int_], without: NDArray[np.int_] | None = None
) -> Affine:
    """Write the arguments of units at a role as functions of the task's sum.

    Raises:
        NotProvableError: they depend on the inputs otherwise.
    """
    size, heads = layer.roles.layout.alphabet_size, len(layer.heads)
    block = layer.w_in[:, units].toarray()
    base, radius = layer.base(role, units, without)
    positions = sorted(task.positions)
    tokens = np.array(sorted(task.values))
    values = np.array([task.values[token] for token in tokens.tolist()], dtype=np.float64)
    others = np.setdiff1d(np.arange(size), tokens)
    parts = {position: np.zeros((size, len(units))) for position in positions}
    ranges = np.zeros((heads, len(units)))
    reach, most_of_all = np.zeros(len(units)), base + radius
    for number, table, low, high in head_parts(layer.heads, block):
        targets = layer.heads[number].targets
        ranges[number] = high - low
        most_of_all = most_of_all + high
        reach += np.maximum(np.abs(low), np.abs(high))
        if (high == low).all():
            base = base + low
        elif targets and set(targets) <= set(positions):
            for position in targets:
                parts[position] += table[:size] / len(targets)
            radius = radius + np.maximum(high - table.max(axis=0), 0.0)
        else:
            base, radius = base + (high + low) / 2, radius + (high - low) / 2 * INFLATION
            ranges[number] = 0.0
    slope, least, most = np.zeros(len(units)), int(values.argmin()), int(values.argmax())
    undefined = np.full(len(units), -np.inf) if len(others) else None
    best, best_undefined = [], []
    for place, position in enumerate(positions):
        part = parts[position][tokens]
        span = values[most] - values[least]
        mine = (part[most] - part[least]) / span if span else np.zeros(len(units))
        slope = mine if place == 0 else slope
        offset = part[least] - slope * values[least]
        base = base + offset
        reach += np.abs(offset)
        radius = radius + np.abs(part - offset - values[:, None] * slope).max(axis=0)
        best.append(part.max(axis=0))
        best_undefined.append(parts[position][others].max(axis=0) if len(others) else np.zeros(len(units)))
    if undefined is not None:
        constant = base - sum(parts[position][tokens][least] - slope * values[least] for position in positions)
        for place in range(len(positions)):
            rest = sum(
                (np.maximum(best[other], best_undefined[other]) for other in range(len(positions)) if other != place),
                start=np.zeros(len(units)),
            )
            undefined = np.maximum(undefined, constant + best_undefined[place] + rest)
    first = ranges[:, :1]
    same = _same_tables(layer, block)
    return Affine(base, slope, radius, ranges, same and bool((ranges == first).all()), undefined, reach, most_of_all)


def _same_tables(layer: Layer, block: Float) -> bool:
    """Whether every unit reads the heads' coordinates with the same weights."""
    columns = np.unique(np.concatenate([head.columns for head in layer.heads]))
    return bool((block[columns] == block[columns, :1]).all())


def reachable_sums(task: SumTask) -> NDArray[np.int_]:
    """Every sum of values over the task's positions, ascending."""
    distinct = sorted(set(task.values.values()))
    sums = {0}
    for _ in task.positions:
        sums = {total + value for total in sums for value in distinct}
    return np.array(sorted(sums), dtype=np.int_)


def sum_evidence(layer: Layer, task: SumTask, coordinate: int) -> TaskFacts:
    """Lemma 2 for a sum: at y, the evidence is 1 where the row of the sum has this answer, 0 elsewhere.

    Pre, post: as for a table; the error allows for evidence that is not 0 without consistency.
    Cost: the number of units times the number of sums, for each answer whose units can be on.
    """
    heads, lemma = len(layer.heads), "evidence at y"
    units = layer.writers(np.array([coordinate]))
    weight = np.asarray(layer.w_out_columns[:, [coordinate]].toarray()).ravel()[units]
    if not len(units):
        where = f"task {task.name!r}"
        if task.rows.keys().isdisjoint(reachable_sums(task).tolist()):
            return TaskFacts(0.0, np.zeros(heads))
        return refuted(lemma, where, "units that write its evidence", "none", heads)
    form = affine_arguments(layer, "y", task, units)
    sums = reachable_sums(task)
    token_part = layer.token_part(units)
    leak = np.array([head.largest_leak for head in layer.heads])
    shift = leak @ form.ranges + form.radius
    upper = np.maximum(form.base + form.slope * sums[0], form.base + form.slope * sums[-1]) + shift
    error, per_head, always = 0.0, np.zeros(heads), False
    violation = None
    wanted = {answer: np.array([task.rows.get(int(s)) == answer for s in sums]) for answer in set(task.rows.values())}
    for token in range(layer.roles.layout.alphabet_size):
        on = np.flatnonzero(upper + token_part[token] > 0)
        expected = wanted.get(token, np.zeros(len(sums), dtype=np.bool_))
        if not len(on) and not expected.any():
            continue
        value, deviation = _function(form, on, token_part[token], weight[:, None], sums, leak)
        wrong = np.nan_to_num(np.abs(value[:, 0] - expected) + deviation.constant, nan=np.inf, posinf=np.inf)
        per_head = np.maximum(per_head, deviation.per_head)
        # Off its rows the evidence is 0 in spite of the leaks, unless some sum that is reached lies beside a row.
        can_move = (deviation.per_head_each.sum(axis=(0, 2)) + deviation.constant > 0) | (wrong > 0)
        always = always or bool((can_move & ~expected).any())
        if wrong.max() > error:
            error = float(wrong.max())
            at = int(wrong.argmax())
            where = f"task {task.name!r}, sum {int(sums[at])} and answer id {token}"
            violation = Violation(lemma, where, str(int(expected[at])), f"{value[at, 0]:.9g}")
    if form.undefined is not None:
        spurious = form.undefined + token_part.max(axis=0) + form.radius + _rise(form, leak)
        amount = float((np.abs(weight) * np.maximum(spurious, 0.0)).sum())
        if not amount <= error:
            where = f"task {task.name!r}, a token without a value"
            error, violation = amount, Violation(lemma, where, "0", f"up to {amount:.3g}")
        always = always or not amount <= 0
    return TaskFacts(error * INFLATION, per_head * INFLATION, 1.0, violation, always)


def sum_answer(
    layer: Layer,
    code_layer: Layer,
    task: SumTask,
    coordinate: int,
    output: Sparse,
    weight_range: float,
    codes: NDArray[np.int_],
    strays: Float,
) -> TaskFacts:
    """Lemma 4 for a sum: at EQ, the task adds w_k to the output of the answer to the sum.

    The units of layer 2 read the sum through coordinates `codes` that units of `code_layer` (layer 1) write as
    piecewise linear functions of it; `strays` is what layer 2's heads can add to each coordinate, shape [d_model].
    """
    heads, lemma = len(layer.heads), "answer at eq"
    units = layer.readers(np.array([coordinate]))
    if not len(units):
        where = f"task {task.name!r}"
        if task.rows.keys().isdisjoint(reachable_sums(task).tolist()):
            return TaskFacts(0.0, np.zeros(heads))
        return refuted(lemma, where, "units that add its weight", "none", heads)
    rows = layer.w_in_rows
    slopes = np.asarray(rows[[coordinate]].toarray()).ravel()[units]
    read = codes[np.asarray(abs(rows[codes][:, units]).sum(axis=1)).ravel() > 0] if len(codes) else codes
    form = affine_arguments(layer, "eq", task, units, without=np.concatenate([read, [coordinate]]).astype(np.int_))
    sums = reachable_sums(task)
    leak = np.array([head.largest_leak for head in layer.heads])
    argument = form.base + form.slope * sums[:, None]
    per_unit = np.broadcast_to(form.ranges[:, None, :], (heads, len(sums), len(units))).copy()
    radius = np.broadcast_to(form.radius, argument.shape).copy()
    spurious = None if form.undefined is None else form.undefined + form.radius + _rise(form, leak)
    most = form.high
    if len(read):
        writers = code_layer.writers(read)
        inner = affine_arguments(code_layer, "eq", task, writers)
        if not inner.common:
            raise NotProvableError(f"task {task.name!r}: the units that encode the sum do not read it alike")
        out = np.asarray(code_layer.w_out[writers][:, read].toarray())
        constant = code_layer.weights.bias_out.astype(np.float64)[read]
        constant = constant + code_layer.states["eq"].centre[read]
        into = np.asarray(rows[read][:, units].toarray())
        value, deviation = _function(inner, np.arange(len(writers)), np.zeros(len(writers)), out @ into, sums, leak)
        argument = argument + value + constant @ into
        beside = (code_layer.states["eq"].radius + strays)[read] @ np.abs(into) * INFLATION
        radius = radius + deviation.constant_each + beside
        per_unit = per_unit + deviation.per_head_each
        largest = _largest_anywhere(inner, out @ into) + deviation.constant_each.max(axis=0)
        most = most + largest + constant @ into + beside
        if spurious is not None:
            spurious = spurious + largest + constant @ into + beside
    reach = weight_reach(slopes, weight_range)
    upper = argument + radius + np.tensordot(leak, per_unit, axes=1) + reach
    at, unit = np.nonzero(upper > 0)
    mass = np.asarray(abs(output).sum(axis=1)).ravel()[units]
    answers = {place: task.rows[int(s)] for place, s in enumerate(sums.tolist()) if s in task.rows}
    key = np.arange(len(sums), dtype=np.int64)
    wrong = weight_errors(key, at, argument[at, unit], slopes[unit], output[units[unit]], answers, weight_range)
    wrong = wrong + np.bincount(at, mass[unit] * radius[at, unit], minlength=len(sums))
    present = np.isin(key, at)
    wrong[[place for place in answers if not present[place]]] = weight_range
    per_head = np.zeros(heads)
    for number in range(heads):
        each = np.bincount(at, mass[unit] * per_unit[number, at, unit], minlength=len(sums))
        per_head[number] = each.max(initial=0.0) * INFLATION
    slope = np.bincount(at, mass[unit] * np.abs(slopes[unit]), minlength=len(sums)).max(initial=0.0)
    error, violation = float(wrong.max(initial=0.0)), None
    if error > 0:
        where = f"task {task.name!r}, sum {int(sums[int(wrong.argmax())])}"
        violation = Violation(lemma, where, "its weight", f"up to {error:.3g} off")
    if spurious is not None:
        amount = float((mass * np.maximum(spurious + reach, 0.0)).sum())
        if not amount <= 0:
            error += amount
            violation = violation or Violation(
                lemma, f"task {task.name!r}, a token without a value", "0", f"{amount:.3g}"
            )
    # Where no leak can switch a unit on without a weight, a task of weight 0 adds no more than what its weight is off.
    always = not bool((most <= 0).all())
    return TaskFacts(error * INFLATION, per_head, float(slope) * INFLATION, violation, always)


@dataclass(frozen=True)
class _Deviation:
    """How far a piecewise linear function of the sum can be off, at each of its outputs.

    `each` members have shape [sums, outputs], by head [heads, sums, outputs]; the others are their maxima.
    """

    constant_each: Float
    per_head_each: Float

    @property
    def constant(self) -> Float:
        return np.asarray(self.constant_each.max(axis=1))

    @property
    def per_head(self) -> Float:
        return np.asarray(self.per_head_each.max(axis=(1, 2), initial=0.0))


def _function(
    form: Affine, on: NDArray[np.int_], token_part: Float, weight: Float, sums: NDArray[np.int_], leak: Float
) -> tuple[Float, _Deviation]:
    """The sum over units of weight * relu(argument) at every sum, shape [sums, outputs], and how far it can be off.

    `leak` is the largest of each head: how far the sum can be shifted by all of them.
    """
    base, slope, weight = form.base[on] + token_part[on], form.slope[on], weight[on]
    heads = len(form.ranges)

    def shifted(by: float) -> Float:
        return np.asarray(np.maximum(base + slope * sums[:, None] + by, 0.0) @ weight)

    value = shifted(0.0)
    shape = (len(sums), weight.shape[1])
    if not len(on):
        return value, _Deviation(np.zeros(shape), np.zeros((heads, *shape)))
    radius = float(form.radius[on].max())
    ends = [base, slope, base + slope * sums[0], base + slope * sums[-1]]
    lost = rounding_slack([np.concatenate(ends), weight], len(on))
    # Where a step of the sum shifts all arguments alike by `unit`, units switch when the sum is an integer.
    unit = float(slope[0]) or 1.0
    off_integer = np.abs(base / unit - np.round(base / unit))
    if form.common and radius < NEAR_INTEGER and (off_integer < NEAR_INTEGER).all() and (slope == slope[0]).all():
        # One shift of all arguments is one of the sum: the function's own slopes say what it does. It is linear
        # between integers, but for what `kink` covers.
        shift = form.ranges[:, on[0]] / abs(unit)
        farthest = float(leak @ shift) * INFLATION
        if farthest <= MOST_SHIFT:
            reach = math.ceil(farthest)
            steps = range(-max(reach, 1), max(reach, 1) + 1)
            around = np.abs(np.diff([shifted(step * unit) for step in steps], axis=0)).max(axis=0)
            per_head = shift[:, None, None] * around[None] * INFLATION
            kink = off_integer @ np.abs(weight) * abs(unit) * (2 + 2 * reach)
            kink = kink + radius * np.abs(weight).sum(axis=0) + lost
            return value, _Deviation(np.broadcast_to(kink, shape).copy(), per_head)
    each = form.ranges[:, on] @ np.abs(weight)
    constant = np.broadcast_to(form.radius[on] @ np.abs(weight) + lost, shape).copy()
    return value, _Deviation(constant, np.broadcast_to(each[:, None, :], (heads, *shape)).copy())


def _rise(form: Affine, leak: Float) -> Float:
    """How far the leak can raise an argument."""
    return np.asarray(leak @ form.ranges)


def _largest_anywhere(form: Affine, weight: Float) -> Float:
    """The largest value of the piecewise linear functions over every argument that the heads can give, [outputs]."""
    slope = form.slope
    if not len(slope) or not slope[0] or not (slope == slope[0]).all():
        return np.full(weight.shape[1], np.inf)
    # Piecewise linear: largest at a kink or at an end.
    end = math.ceil(float(form.reach.max()) * INFLATION / abs(float(slope[0])))
    points = np.concatenate([-form.base / slope, [-end, end]])
    arguments = form.base + form.slope * points[:, None]
    values = np.maximum(arguments, 0.0) @ weight
    lost = rounding_slack([np.concatenate([form.base, slope]), points], 2)
    if (points != np.round(points)).any():
        lost += float(np.abs(arguments).max()) * 2.0**-48
    largest = values.max(axis=0) + lost * np.abs(weight).sum(axis=0) + rounding_slack([arguments, weight], len(slope))
    return np.asarray(largest, dtype=np.float64)


def code_columns(layer: Layer, tasks: Sequence[object], evidence: NDArray[np.int_]) -> NDArray[np.int_]:
    """The coordinates, other than evidence, that layer 1's units write: codes of sums, where there are sum tasks."""
    columns = np.unique(layer.w_out.tocoo().coords[1]).astype(np.int_)
    return (
        np.setdiff1d(columns, evidence).astype(np.int_)
        if any(isinstance(task, SumTask) for task in tasks)
        else columns[:0]
    )
