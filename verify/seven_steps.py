"""Steps 3, 4, 6 and 7 on the weights: units that read a few numbers, which take few values, are enumerated."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from construct.sparse import Sparse
from construct.transformer import MlpWeights
from verify.boxes import Roles
from verify.certificate import Violation
from verify.exact import INFLATION, Float, common_slack
from verify.seven_state import GRID, Arguments, Columns, Interval, arguments, hidden_range, outputs, writers
from verify.tables import weight_errors


@dataclass(frozen=True)
class Cases:
    """What a task's prediction can be: the codes of its answers and 0, or 0 and 1 for no answer.

    Args:
        name: the task.
        answers: the tokens, ascending.
        codes: the five numbers of each and, last, of no answer, shape [answers + 1, 5].
        columns: the coordinates that hold them.
    """

    name: str
    answers: Columns
    codes: Float
    columns: Columns

    def named(self, case: int) -> str:
        """The case in words."""
        return f"answer id {int(self.answers[case])}" if case < len(self.answers) else "no answer"


@dataclass(frozen=True)
class Mismatch:
    """The range of a task's mismatch at y.

    Args:
        low: the least by case and token, shape [answers + 1, V].
        high: the greatest.
        sizes: the largest number stored, and the largest sum of absolute values of terms, for the rounding.
    """

    low: Float
    high: Float
    sizes: tuple[float, float]


def compare_facts(mlp: MlpWeights, alone: Interval, roles: Roles, cases: Cases, error: Float, column: int) -> Mismatch:
    """Step 3: the least and the greatest mismatch at y for every prediction and every token there.

    Args:
        mlp: layer 3's.
        alone: the stream at y before it, without the token.
        roles: the embeddings.
        cases: what the prediction can be.
        error: how far its numbers can be off, shape [5].
        column: the mismatch's coordinate; what is in it before counts.
    """
    units, content = writers(mlp, column), roles.content
    parts = arguments(mlp, alone, units, cases.columns, error, [cases.codes, content.data])
    token = np.asarray((content @ mlp.w_in.astype(np.float64)[:, units]).toarray())
    centre = parts.base + (cases.codes @ parts.known)[:, None, :] + token[None, :, :]
    out = outputs(mlp, units, column)
    least, most = np.maximum(centre - parts.radius, 0.0), np.maximum(centre + parts.radius, 0.0)
    positive, negative = np.maximum(out, 0.0), np.minimum(out, 0.0)
    before = (
        alone.low[column] + token_range(roles, column, np.min),
        alone.high[column] + token_range(roles, column, np.max),
    )
    bias = float(mlp.bias_out[column])
    low = least @ positive + most @ negative + (before[0] + bias)
    high = most @ positive + least @ negative + (before[1] + bias)
    # To a coarse grid, outwards: the credit forgets far more, and its arithmetic is exact.
    loss = (np.abs(low) + np.abs(high)) * 2.0**-40
    low, high = np.floor((low - loss) * GRID) / GRID, np.ceil((high + loss) * GRID) / GRID
    terms = parts.size + (np.abs(cases.codes) @ np.abs(parts.known))[:, None, :]
    terms = terms + np.asarray((abs(content) @ abs(mlp.w_in.astype(np.float64)[:, units])).toarray())
    summed = max(float(terms.max(initial=0.0)), float((most @ np.abs(out)).max(initial=0.0)))
    return Mismatch(low, high, (max(float(most.max(initial=0.0)), float(high.max())), summed))


@dataclass(frozen=True)
class Credited:
    """The credit of a task at y.

    Args:
        error: the most that it is off 0 or 1.
        low: the least that it can be.
        high: the most.
        violation: the worst case, if it is off at all.
        sizes: the largest number stored, and the largest sum of absolute values of terms, for the rounding.
    """

    error: float
    low: float
    high: float
    violation: Violation | None
    sizes: tuple[float, float]


def credit_facts(
    mlp: MlpWeights, stream: Interval, cases: Cases, mismatch: Mismatch, columns: tuple[int, int]
) -> Credited:
    """Step 4: at y, the credit is 1 where the prediction is the token, else 0.

    A piecewise linear function of the mismatch: on an interval it is largest and smallest at the ends or at kinks.

    Args:
        mlp: layer 4's.
        stream: the stream at y before it.
        cases: what the prediction can be.
        mismatch: step 3.
        columns: the coordinates of the mismatch and of the evidence; what is in that before counts.
    """
    units = writers(mlp, columns[1])
    ends = np.concatenate([mismatch.low.ravel(), mismatch.high.ravel()])
    parts = arguments(mlp, stream, units, np.array([columns[0]]), np.zeros(1), [ends])
    slope, out = parts.known[0], outputs(mlp, units, columns[1])
    points = [mismatch.low, mismatch.high]
    points += [
        np.clip(-base / steep, mismatch.low, mismatch.high)
        for base, steep in zip(parts.base, slope, strict=True)
        if steep
    ]
    values = [np.maximum(parts.base + slope * point[:, :, None], 0.0) @ out for point in points]
    loose = float(np.abs(out) @ parts.radius) * INFLATION + float64_loss(parts.base, slope, ends, out)
    bias = float(mlp.bias_out[columns[1]])
    low = np.min(values, axis=0) - loose + (stream.low[columns[1]] + bias)
    high = np.max(values, axis=0) + loose + (stream.high[columns[1]] + bias)
    wanted = np.zeros(low.shape)
    wanted[np.arange(len(cases.answers)), cases.answers] = 1.0
    off = np.maximum(np.abs(low - wanted), np.abs(high - wanted))
    error, violation = float(off.max(initial=0.0)), None
    if not error <= 0:
        case, token = (int(at) for at in np.unravel_index(int(off.argmax()), off.shape))
        where = f"layers 3 and 4{_named(units)}: task {cases.name!r} at y, {cases.named(case)} predicted"
        got = f"{low[case, token]:.9g} to {high[case, token]:.9g}"
        violation = Violation("credit", f"{where}, id {token} given", f"{wanted[case, token]:g}", got)
    reach = np.abs(slope) * np.abs(ends).max(initial=0.0)
    hidden = np.maximum([parts.base + slope * end for end in (ends.min(), ends.max())], 0.0).max(axis=0)
    sizes = float(hidden.max(initial=0.0)), float(max((parts.size + reach).max(initial=0.0), hidden @ np.abs(out)))
    return Credited(error * INFLATION, float(low.min()), float(high.max()), violation, sizes)


def float64_loss(base: Float, slope: Float, points: Float, out: Float) -> float:
    """What float64 may lose in sums of out * relu(base + slope * point); 0 where all are on a coarse grid.

    `base` and `slope` have a column a unit, `out` a row or an entry a unit.
    """
    terms = out.size + 1
    if common_slack([([out, slope, points], terms), ([out, base], terms), ([slope, points], 1), ([base], 1)]) == 0:
        return 0.0
    reach = float(np.abs(base).max(initial=0.0) + np.abs(slope).max(initial=0.0) * np.abs(points).max(initial=0.0))
    return (float(np.abs(out).sum()) * reach + 1.0) * 2.0**-40


@dataclass(frozen=True)
class Passed:
    """What a step hands on of one task.

    Args:
        error: the most that it is off for a true weight in [0, 1].
        slope: by how much an error of the weight that enters is multiplied.
        violation: the worst case, if it is off at all without the errors that come in.
        steps: how far the partial sums of what is added to the weight reach, in any order, for the rounding.
    """

    error: float
    slope: float
    violation: Violation | None
    steps: float


def gate_facts(mlp: MlpWeights, stream: Interval, cases: Cases, error: Float, columns: tuple[int, int]) -> Passed:
    """Step 6: at EQ, the task's `weight` is w_k where it has an answer, else 0, for every w_k in [0, 1].

    Args:
        mlp: layer 6's.
        stream: the stream at EQ before it.
        cases: what the prediction can be.
        error: how far the numbers of the prediction can be off, and what was added to w_k since, shape [6].
        columns: the coordinates of the evidence (w_k) and of the weight (g_k); what is in that before counts.
    """
    units = writers(mlp, columns[1])
    at = np.append(cases.columns, columns[0])
    parts = arguments(mlp, stream, units, at, error, [cases.codes, np.ones(1)])
    out, steep = outputs(mlp, units, columns[1]), parts.known[-1]
    base = parts.base + cases.codes @ parts.known[:-1]
    answered = np.append(np.ones(len(cases.answers)), 0.0)
    points = [np.zeros(len(base)), np.ones(len(base))]
    points += [np.clip(-base[:, unit] / steep[unit], 0.0, 1.0) for unit in np.flatnonzero(steep)]
    off = [np.abs(np.maximum(base + steep * w[:, None], 0.0) @ out - w * answered) for w in points]
    wrong = np.max(off, axis=0)
    loose = float(np.abs(out) @ parts.radius) + float64_loss(base, steep, np.ones(1), out)
    loose += float(stream.most[columns[1]]) + abs(float(mlp.bias_out[columns[1]]))
    worst, violation = float(wrong.max(initial=0.0)), None
    if not worst <= 0:
        where = f"layer 6{_named(units)}: task {cases.name!r} at eq, {cases.named(int(wrong.argmax()))}"
        violation = Violation("gate", where, "its weight if it has an answer, else 0", f"up to {worst:.3g} off")
    slope = float(np.abs(out) @ np.abs(steep)) * INFLATION
    steps = _partial_sums(parts, cases, base)[:-1]
    return Passed((worst + loose) * INFLATION, slope, violation, float(steps.max(initial=0.0)))


def superpose_facts(
    mlp: MlpWeights,
    stream: Interval,
    cases: Cases,
    error: Float,
    column: int,
    units: Columns,
    output: Sparse,
    most: float,
) -> Passed:
    """Step 7: at EQ, the task's units add its weight to its answer and nothing elsewhere, in |.|_1.

    For a true weight in [0, 1]; an error of the weight counts with the slopes of the units that can be on.

    Args:
        mlp: layer 7's.
        stream: the stream at EQ before it.
        cases: what the prediction can be.
        error: how far the numbers of the prediction can be off, shape [5].
        column: the coordinate of the weight g_k.
        units: the units that are this task's; every unit is at most one task's.
        output: W2 U by rows, shape [units of the layer, V].
        most: the weight as computed is in [1 - most, most].
    """
    at = np.append(cases.columns, column)
    parts = arguments(mlp, stream, units, at, np.append(error, 0.0), [cases.codes, np.ones(1)])
    slope = parts.known[-1]
    base = parts.base + cases.codes @ parts.known[:-1]
    reach = np.maximum(np.maximum(slope * most, slope * (1 - most)) * INFLATION, 0.0)
    case, unit = np.nonzero(base + parts.radius + reach > 0)
    mass = np.asarray(abs(output[units]).sum(axis=1)).ravel()
    key = np.arange(len(base), dtype=np.int64)
    answers = {number: int(token) for number, token in enumerate(cases.answers)}
    wrong = weight_errors(key, case, base[case, unit], slope[unit], output[units[unit]], answers, 1.0)
    # Where no unit is on, the whole weight is missing.
    lit = np.bincount(case, minlength=len(base)) > 0
    wrong[[number for number in answers if not lit[number]]] = 1.0
    loose = np.bincount(case, mass[unit] * parts.radius[unit], minlength=len(base))
    steep = float(np.bincount(case, mass[unit] * np.abs(slope[unit]), minlength=len(base)).max(initial=0.0))
    lost = float64_loss(base, slope, np.ones(1), output[units].data)
    worst, violation = float(wrong.max(initial=0.0)), None
    if not worst <= 0:
        where = f"layer 7{_named(units)}: task {cases.name!r} at eq, {cases.named(int(wrong.argmax()))}"
        violation = Violation("superpose", where, "its weight to its answer", f"up to {worst:.3g} off")
    total = (float((wrong + loose).max(initial=0.0)) + lost) * INFLATION
    steps = _partial_sums(parts, cases, base)[case, unit]
    return Passed(total, steep * INFLATION, violation, float(steps.max(initial=0.0)))


def _partial_sums(parts: Arguments, cases: Cases, total: Float) -> Float:
    """The most that the terms of one sign add up to, by case and unit: total is what all of them do."""
    size = np.abs(cases.codes) @ np.abs(parts.known[:-1]) + parts.size
    return np.asarray((size + np.abs(total)) / 2)


def tasks_units(mlp: MlpWeights, weights: Columns) -> tuple[list[Columns], Columns]:
    """Layer 7's units by the weight that they read most, and those that read none: each unit is in one list."""
    block = np.abs(mlp.w_in.astype(np.float64)[weights].toarray())
    owner = np.where(block.any(axis=0), block.argmax(axis=0), -1)
    return [np.flatnonzero(owner == task) for task in range(len(weights))], np.flatnonzero(owner < 0)


def baseline(mlp: MlpWeights, stream: Interval, others: Columns, unembedding: Sparse, output: Sparse) -> float:
    """The most, in |.|_1, that is in the output at EQ apart from what the tasks' units add."""
    mass = np.asarray(abs(unembedding.astype(np.float64)).sum(axis=1)).ravel()
    total = float((stream.most + np.abs(mlp.bias_out.astype(np.float64))) @ mass)
    if len(others):
        high = hidden_range(mlp, stream).high
        total += float(high[others] @ np.asarray(abs(output[others]).sum(axis=1)).ravel())
    return total * INFLATION


def token_range(roles: Roles, column: int, end: Callable[[Float], float]) -> float:
    """The least or the greatest entry of the tokens' embeddings at a coordinate."""
    return float(end(np.asarray(roles.content[:, [column]].toarray())))


def _named(units: Columns) -> str:
    return f", units {int(units.min())} to {int(units.max())}" if len(units) else ", no unit"
