"""What the units of each task compute, what a leak costs them, and the sum of it all.

Lemma 2, evidence at y: 1 where the example is consistent with the task, else 0. Lemma 4, answers at EQ: w_k where the
row is read, else nothing. Each function checks the units of one task, and returns what a unit of leak of each head
costs, the largest over the rows. Evidence, and so w_k, stays in [0, 1].
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from operator import mul
from typing import Any, NamedTuple

from verify.check.exact import Number, Row, require
from verify.check.files import Task
from verify.check.model import Model, Part, Unit


def table_losses(model: Model, task: Task, units: Sequence[Unit], role: str) -> Row:
    """Each row has one unit, each unit one row: on it 1 at y, and its weight at EQ; a leak only lowers that.

    Beside its row a unit is off, whatever the leak: with one source at less than its best, it is not above 0.
    """
    seen: set[object] = set()
    losses: Row = defaultdict(int)
    most = int(role == "y")  # beside the weight w_k <= 1, which comes on top at EQ
    for unit in units:
        heads = {model.heads[h].targets[0]: h for h in unit.heads if len(model.heads[h].targets) == 1}
        fits = len(heads) == len(unit.heads) and heads.keys() <= set(task.positions)
        require(fits and not unit.column.keys() & model.codes, "a unit of a table reads something else than its inputs")
        require(len(heads) == len(task.positions) or model.alphabet == 1, "a unit does not read all its inputs")
        (end, out), argument, drops, key = next(iter(unit.out.items())), unit.fixed[role], [2], []
        for position in task.positions:
            part = unit.heads[heads[position]] if position in heads else Part([0], 0, 0)
            first, second = heapq.nlargest(2, [*part.by_token, min(part.by_token) - 2])
            require(first == part.high > second, "a unit is best for no token, or several")
            leak = model.heads[heads[position]].leak if position in heads else 0
            drops.append(first - second - leak * (first - second))
            key.append(part.by_token.index(first))
            argument += first
        if role == "y":
            own = [unit.own.get(token, 0) for token in range(model.alphabet)]
            first, second = heapq.nlargest(2, [*own, min(own) - 2])
            end, argument, drops = own.index(first), argument + first, [*drops, first - second]
        require(argument == most and out == 1 and min(drops) >= 1, f"a unit is not as its row {key} needs it")
        require(task.rows.get(tuple(key)) == end, f"a unit stands for {key}, which is no row, or has another answer")
        require(tuple(key) not in seen, f"two units stand for the row {key}")
        seen.add(tuple(key))
        for h, part in unit.heads.items():
            losses[h] = max(losses[h], part.high - part.low)
    require(len(seen) == len(task.rows), "a row of a table has no unit")
    return losses


class Linear(NamedTuple):
    """What the heads give a unit where all tokens have values: slope * (the sum) + base.

    `ranges` is how far each head's part ranges, `rise` how far the leaks shift it; `undefined` is the most, without
    leak, where a token has no value (None where each has one).
    """

    base: Number
    ranges: Row
    rise: Number
    undefined: Number | None


def linear(model: Model, task: Task, heads: Mapping[int, Part], slope: int) -> Linear:
    """Write what a unit gets of the heads in that form. Refuses where it has another."""
    values = task.values or {}
    parts = {position: [Fraction(0)] * model.alphabet for position in task.positions}
    ranges = {h: part.high - part.low for h, part in heads.items() if part.low < part.high}
    for h in ranges:
        targets = model.heads[h].targets
        require(set(targets) <= set(task.positions), "a unit of a sum reads other inputs")
        for position in targets:
            parts[position] = [
                a + Fraction(b) / len(targets) for a, b in zip(parts[position], heads[h].by_token, strict=True)
            ]
    offsets = [{part[token] - slope * value for token, value in values.items()} for part in parts.values()]
    require(all(len(offset) == 1 for offset in offsets), "a unit reads no sum")
    lost = [max(part) - value for part in parts.values() for token, value in enumerate(part) if token not in values]
    rise = sum(model.heads[h].leak * part for h, part in ranges.items())
    require(rise <= 1, "leaks shift a sum by more than a step")
    return Linear(sum(map(sum, offsets)), ranges, rise, sum(map(max, parts.values())) - min(lost) if lost else None)


def sum_evidence(model: Model, task: Task, units: Sequence[Unit]) -> tuple[Row, bool]:
    """A sum's units at y: for each answer, together, a hat of height 1 and half-width 1 around each row's sum.

    All read the sum alike, so that a leak shifts it alike for all; then a hat's slope says what it costs. Without the
    answer, and where a token has no value, every unit is off. Returns also whether a leak can raise the evidence from
    0: whether some sum that is reached lies beside a row.
    """
    bends: dict[int, Counter[Number]] = defaultdict(Counter)
    form = linear(model, task, units[0].heads if units else {}, int(bool(units)))
    for unit in units:
        (answer, part), (out,) = next(iter(unit.own.items()), (0, 0)), unit.out.values()
        require(len(unit.own) == 1 and unit.heads == units[0].heads, "the units of a sum are not alike")
        require(model.most(unit, "y") - part <= 0 or model.alphabet == 1, "a unit is on without its answer")
        most = unit.fixed["y"] + part
        require(form.undefined is None or most + form.undefined + form.rise <= 0, "a unit is on without a sum")
        bends[answer][-(most + form.base)] += out
    cost, raised, inside = 0, False, range(min(task.sums), max(task.sums) + 1)
    for answer in bends.keys() | task.rows.values():
        rows, hats = {s for (s,), other in task.rows.items() if other == answer and s in inside}, Counter[Number]()
        for s in rows:
            hats.update({s - 1: 1, s: -2, s + 1: 1})
        bent, wanted = ({s: bend for s, bend in each.items() if bend} for each in (bends[answer], hats))
        require(bent == wanted, "the evidence of a sum is not that of its rows")
        # From a sum that is reached, the leaks lead no farther than to its neighbours.
        steps = [s for s in task.sums for d in (-1, 1) if (s in rows) != (s + d in rows)]
        cost, raised = max(cost, bool(steps)), raised or not rows.issuperset(steps)
    return {h: part * cost for h, part in form.ranges.items()}, raised and any(form.ranges.values())


def sum_codes(model: Model, task: Task, bits: Sequence[int]) -> tuple[dict[int, list[Number]], Linear]:
    """The code of every sum, and of the integers between and beside, that layer 1 writes at EQ; how it reads the sum.

    Each bit is linear between integers and constant beyond them.
    """
    first, last = min(task.sums), max(task.sums)
    writers = [unit for unit in model.units[0] if unit.out.keys() & set(bits)]
    if not writers:
        return {s: [0] * len(bits) for s in range(first - 1, last + 2)}, Linear(0, {}, 0, None)
    form = linear(model, task, writers[0].heads, 1)
    bends: dict[int, list[Number]] = {s: [0] * len(bits) for s in range(first - 2, last + 2)}
    for unit in writers:
        kink = -(unit.fixed["eq"] + form.base)
        require(unit.heads == writers[0].heads and first <= kink <= last, "the units of a code are not alike")
        require(kink == int(kink), "a code bends between two integers")
        bends[int(kink)] = [a + unit.out.get(c, 0) for a, c in zip(bends[int(kink)], bits, strict=True)]
    values, slopes, code = [model.mlp(0, "bias_out")[0].get(c, 0) for c in bits], [0] * len(bits), {}
    for s, bend in bends.items():
        slopes = [a + b for a, b in zip(slopes, bend, strict=True)]
        values = [a + b for a, b in zip(values, slopes, strict=True)]
        code[s + 1] = values
    require(not any(slopes) and max(max(map(abs, each)) for each in code.values()) <= 1, "a code leaves [-1, 1]")
    require(all(abs(bit) == 1 for s in task.sums for bit in code[s]), "the code of a sum is not of +-1")
    return code, form


def sum_answer(model: Model, task: Task, units: Sequence[Unit]) -> Row:
    """A sum's units at EQ: one each sum of a row, that matches its +-1 code of B bits.

    A unit gets B of its own sum, at most B - 2 of another, and what a shift by the leaks adds; never more than B.
    Where a token has no value it is off.
    """
    reached = {s for (s,) in task.rows if s in task.sums}
    require(units or not reached, "a sum has no units")
    if not units:
        return {}
    bits = sorted({c for unit in units for c in unit.column.keys() & model.codes})
    code, form = sum_codes(model, task, bits)
    by_code = {tuple(code[s]): s for s in task.sums}
    require(len(by_code) == len(task.sums), "two sums have one code")
    step = max(sum(abs(a - b) for a, b in zip(code[s], code[s + 1], strict=True)) for s in list(code)[:-1])
    seen: set[int] = set()
    losses: Row = defaultdict(int)
    forms: dict[object, Linear] = {}
    for unit in units:
        alike = tuple((h, id(part)) for h, part in unit.heads.items())  # of most units, so the work is done once
        if alike not in forms:
            forms[alike] = linear(model, task, unit.heads, 0)
        direct, wanted, (answer,) = forms[alike], [unit.column.get(c, 0) for c in bits], unit.out
        require(all(abs(bit) == 1 for bit in wanted), "a unit matches no code")
        most, s = unit.fixed["eq"] + len(bits), by_code.get(tuple(wanted))
        require(
            most + sum(part.high for part in unit.heads.values()) <= 0, "a unit of an answer is on without a weight"
        )
        off = direct.undefined is None or most + direct.undefined + direct.rise + 1 <= 0
        require(off, "a unit of an answer is on without a sum")
        alone = len(task.sums) == 1 or 1 + direct.rise + step * form.rise <= 2
        require(alone and most + direct.base == 0, "a unit is on for two sums, or for none")
        if s is None:
            continue  # it stands for a sum that no inputs reach
        require(task.rows.get((s,)) == answer and s not in seen, f"a unit is not as the sum {s} needs it")
        seen.add(s)
        cost = max(abs(sum(map(mul, wanted, code[s + d])) - len(bits)) for d in (-1, 1))
        for h in direct.ranges.keys() | form.ranges.keys():
            losses[h] = max(losses[h], direct.ranges.get(h, 0) + form.ranges.get(h, 0) * cost)
    require(seen == reached, "a sum of a row has no unit")
    return losses


def add_up(figures: Mapping[str, Any], raised: int) -> list[Fraction]:
    """The bounds by m', from the figures: what leaks cost the evidence (on the average), the average, the answers.

    At one example only the evidence of at most `together` tasks can be off, and that of the `raised` sums, whose
    evidence a leak can raise from 0; after m' examples at most m' times `together` tasks have a weight. So that many of
    the losses add up at most, and the largest are taken. A task of weight 0 adds no more than its weight is off.
    """

    def largest(lemma: str, role: str, at: int, count: int) -> Fraction:
        """The largest losses of `count` tasks, with the leaks at the EQ or y of an example."""
        leaks = [leak[at] for leak in figures["reads"][role]]
        return Fraction(sum(heapq.nlargest(count, (sum(map(mul, loss, leaks)) for loss in losses[lemma]))))

    figures = exactly(figures)
    together, average, tasks = (
        figures["superposition"]["together"],
        figures["average"]["leak"],
        len(figures["evidence"]["error"]),
    )
    losses = {lemma: figures[lemma]["per_head"] for lemma in ("evidence", "answer")}
    at_once, slope = min(tasks, together + raised), max(figures["answer"]["slope"])
    before, bounds = Fraction(0), [Fraction(0)]
    for shown in range(1, len(average)):
        before += largest("evidence", "leak_y", shown - 1, at_once)
        weights = before / shown + average[shown] * at_once
        bounds.append(slope * weights + largest("answer", "leak_eq", shown, shown * together))
    return bounds


def exactly(value: Any) -> Any:
    """A value of JSON with every float as the fraction that it is."""
    if isinstance(value, dict):
        return {name: exactly(part) for name, part in value.items()}
    if isinstance(value, list):
        return [exactly(part) for part in value]
    return Fraction(value) if isinstance(value, float) else value
