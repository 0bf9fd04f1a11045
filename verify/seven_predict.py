"""Step 2 on the weights: the predicted codes at EQ and y, row by row for tables, sum by sum for sums."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.residual_stream import Array
from construct.tasks import SumTask, TableTask
from verify.certificate import Violation
from verify.exact import INFLATION, Float, common_slack, rounding_slack
from verify.linear import CHUNK, Layer
from verify.rows import NotProvableError, combinations, head_parts, table_sources

MOST_SUMS = 2_000_000
"""Sums times units that are evaluated at the most."""


@dataclass(frozen=True)
class Predicted:
    """What was proved of one task's prediction at one role.

    Args:
        error: for each of its coordinates, the most that it is off its ideal, shape [5].
        violation: the worst case, where the error does not come from leaks alone.
        reach: the most by which leaks are multiplied in an argument.
    """

    error: Float
    violation: Violation | None
    reach: float


def predict_facts(
    layer: Layer, role: str, task: TableTask | SumTask, columns: NDArray[np.int_], codes: Array
) -> Predicted:
    """At a role, the task's coordinates hold (code of its answer, 0), or (0, 1) where it has none, up to `error`.

    Pre: the read heads attend as `layer.heads` say, all else at the role lies in `layer.states[role]`.
    Post: for all tokens of the example. What was in the coordinates before is not counted.
    Cost: as for evidence in verify/tables.py: each unit against each token of each read on its own, then what is open.

    Args:
        layer: layer 2's MLP with the read heads of layers 1 and 2.
        role: "eq" or "y".
        task: the task.
        columns: its five coordinates: four of the code, and `unanswered`.
        codes: the code of each token, shape [V, 4].
    """
    constant = layer.weights.bias_out.astype(np.float64)[columns]
    nothing = np.append(np.zeros(codes.shape[1]), 1.0) - constant
    wanted = {row: np.append(codes[answer].astype(np.float64), 0.0) - constant for row, answer in task.rows.items()}
    if isinstance(task, TableTask):
        return _table(layer, role, task, columns, wanted, nothing)  # type: ignore[arg-type]  # keyed by tokens
    return _sum(layer, role, task, columns, wanted, nothing)  # type: ignore[arg-type]  # keyed by sums


def _table(
    layer: Layer,
    role: str,
    task: TableTask,
    columns: NDArray[np.int_],
    wanted: dict[tuple[int, ...], Float],
    nothing: Float,
) -> Predicted:
    """What the units write on the rows is `wanted`, on all other inputs `nothing`."""
    size = layer.roles.layout.alphabet_size
    if size ** len(task.reads) >= 2**62:
        raise NotProvableError(f"{len(task.reads)} tokens of an alphabet of {size} are too many combinations")
    radix = np.array([size**place for place in range(len(task.reads))], dtype=np.int64)
    units = layer.writers(columns)
    out = np.asarray(layer.w_out_columns[:, columns].toarray())
    keys, values, errors = [np.zeros(0, dtype=np.int64)], [np.zeros((0, len(columns)))], [np.zeros((0, len(columns)))]
    arguments: list[Float] = [np.zeros(0)]
    reach = 0.0
    for start in range(0, len(units), CHUNK):
        part = units[start : start + CHUNK]
        base, radius = layer.base(role, part)
        block = layer.w_in[:, part].toarray()
        sources, centre, more = table_sources(task.reads, layer.heads, block, size)
        if len(sources) < len(task.reads):
            return _no_read(task, role, len(columns))
        found = combinations(base + centre, radius + more, sources)
        deviation = (radius + more)[found.unit]
        for number, source in enumerate(sources):
            deviation = deviation + found.deviation[:, number] * source.leak
            reach = max(reach, float(found.deviation[:, number].max(initial=0.0)))
        written = out[part][found.unit]
        keys.append(found.options @ radix)
        arguments.append(found.argument)
        values.append(np.maximum(found.argument, 0.0)[:, None] * written)
        errors.append(deviation[:, None] * np.abs(written) * INFLATION)
    key, place = np.unique(np.concatenate(keys), return_inverse=True)
    total, error = (_by_key(rows, place, len(key)) for rows in (values, errors))
    expected = {int(np.array(row) @ radix): code for row, code in wanted.items()}
    ideal = np.array([expected.get(int(at), nothing) for at in key]).reshape(total.shape)
    listed = set(key.tolist())
    missing = [row for row in expected if row not in listed]
    off = np.abs(total - ideal)
    # Where no unit is on, they write 0: that is `nothing` of the units, unless the constant is off.
    lost = rounding_slack([np.concatenate(arguments), out], len(units))
    worst = np.maximum((off + error).max(axis=0, initial=0.0) + lost, np.abs(nothing)) * INFLATION
    if missing:
        worst = np.maximum(worst, np.max([np.abs(expected[row]) for row in missing], axis=0))
    violation = None
    if nothing.any():
        violation = _violation(task, role, "the constant", f"{np.abs(nothing).max():.3g} off", units)
    elif missing:
        violation = _violation(task, role, f"inputs {_tokens(missing[0], size, radix)}", "no unit is on", units)
    elif off.max(initial=0.0) > 0:
        worst_key = int(off.max(axis=1).argmax())
        where = f"inputs {_tokens(int(key[worst_key]), size, radix)}"
        violation = _violation(task, role, where, f"{off[worst_key].max():.3g} off", units)
    return Predicted(worst, violation, reach)


def _by_key(rows: list[Float], place: NDArray[np.int_], count: int) -> Float:
    together = np.concatenate(rows)
    total = np.zeros((count, together.shape[1]))
    np.add.at(total, place, together)
    return total


def _tokens(key: int, size: int, radix: NDArray[np.int64]) -> list[int]:
    return [int(key // step) % size for step in radix]


@dataclass(frozen=True)
class _Scalar:
    """Units that depend on the inputs through one number: base + slope * sigma, sigma a sum over positions.

    Args:
        counts: by position, what each token adds to sigma, shape [V].
        base: shape [units].
        slope: shape [units].
        radius: what is not of this form, shape [units].
        shift: how far leaks can shift sigma.
        reach: the ranges of what the heads give, together.
    """

    counts: dict[int, Float]
    base: Float
    slope: Float
    radius: Float
    shift: float
    reach: float


def _sum(
    layer: Layer,
    role: str,
    task: SumTask,
    columns: NDArray[np.int_],
    wanted: dict[int, Float],
    nothing: Float,
) -> Predicted:
    """What the units write at the sums of rows is `wanted`, at all others `nothing`."""
    units = layer.writers(columns)
    form = _scalar(layer, role, task, units)
    sigma, total = _reachable(form, task)
    ideal = np.array([wanted.get(int(s), nothing) if s is not None else nothing for s in total])
    if len(sigma) * max(len(units), 1) > MOST_SUMS * 20:
        raise NotProvableError(f"task {task.name!r}: {len(sigma):,} sums for {len(units):,} units are too many")
    out = np.asarray(layer.w_out_columns[:, columns].toarray())[units]
    lost = rounding_slack([np.concatenate([form.base, form.slope * np.abs(sigma).max(initial=0.0)]), out], len(units))
    constant = np.abs(out).T @ form.radius * INFLATION + lost

    def value(points: Float) -> Float:
        rows = [np.zeros((0, len(columns)))]
        step = max(1, MOST_SUMS // max(len(units), 1))
        for start in range(0, len(points), step):
            part = points[start : start + step, None]
            rows.append(np.maximum(form.base + form.slope * part, 0.0) @ out)
        return np.concatenate(rows)

    # Leaks move sigma by at most `shift`: what is written then moves by at most that times the steepest slope on the
    # way. The differences themselves would be lost in float64.
    exact = np.abs(value(sigma) - ideal)
    far = exact + form.shift * _steepest(form, out, sigma) * INFLATION
    far = far.max(axis=0, initial=0.0)
    violation = None
    if exact.max(initial=0.0) > 0:
        at = int(exact.max(axis=1).argmax())
        where = "a token without a value" if total[at] is None else f"the sum {total[at]}"
        violation = _violation(task, role, where, f"{exact[at].max():.3g} off", units)
    return Predicted((far + constant) * INFLATION, violation, form.reach)


NEARBY = 2.0**-30
"""Kinks within so much of where leaks lead are counted as on the way."""


def _steepest(form: _Scalar, out: Float, sigma: Float) -> Float:
    """For each sigma, the steepest slope within `shift` of it of what units write: shape [sums, columns].

    Between kinks the slope is constant, and read off in the middle. Kinks are taken apart by more than float64 may be
    off them; where they are not, every unit counts.
    """
    used = form.slope != 0
    kinks = np.unique(-form.base[used] / form.slope[used])
    gaps = np.diff(kinks)
    ends = [kinks[:1] - 1, (kinks[1:] + kinks[:-1]) / 2, kinks[-1:] + 1] if len(kinks) else [np.zeros(1)]
    middles = np.concatenate(ends)
    step = max(1, MOST_SUMS // max(len(form.base), 1))
    slopes = np.zeros((len(middles), out.shape[1]))
    for start in range(0, len(middles), step):
        points = middles[start : start + step, None]
        slopes[start : start + step] = (form.base + form.slope * points > 0) @ (form.slope[:, None] * out)
    slopes = np.abs(slopes)
    if (gaps < NEARBY * (1 + np.abs(kinks).max(initial=0.0))).any():
        slopes[:] = np.abs(form.slope) @ np.abs(out)
    reach = form.shift + NEARBY
    first, last = np.searchsorted(kinks, sigma - reach), np.searchsorted(kinks, sigma + reach)
    steepest = slopes[first]
    for more in range(1, int((last - first).max(initial=0)) + 1):
        steepest = np.maximum(steepest, slopes[np.minimum(first + more, last)])
    return np.asarray(steepest)


def _scalar(layer: Layer, role: str, task: SumTask, units: NDArray[np.int_]) -> _Scalar:
    """Write the units' arguments as functions of one number. Raises NotProvableError where they are not."""
    base, radius = layer.base(role, units)
    block = layer.w_in[:, units].toarray()
    positions = sorted(task.positions)
    size = layer.roles.layout.alphabet_size
    counts = {position: np.zeros(size) for position in positions}
    parts = []
    for number, table, low, high in head_parts(layer.heads, block):
        targets = layer.heads[number].targets
        if (high == low).all():
            base = base + low
        elif targets and set(targets) <= set(positions):
            parts.append((number, table, low, high))
        else:
            base, radius = base + (high + low) / 2, radius + (high - low) / 2 * INFLATION
    slope = np.zeros(len(units))
    shift = reach = 0.0
    if parts:
        together = np.concatenate([table for _, table, _, _ in parts])
        reference = int(np.abs(together).max(axis=0).argmax())
        main = together[:, reference]
        top = int(np.abs(main).argmax())
        slope = together[top] / main[top]
        if not np.array_equal(main[:, None] * slope, together):
            raise NotProvableError(f"task {task.name!r}: the units that predict do not read one sum alike")
        for number, table, low, high in parts:
            head = layer.heads[number]
            for position in head.targets:
                counts[position] += table[:size, reference] / len(head.targets)
            radius = radius + np.maximum(high - table.max(axis=0), 0.0)
            span = float(high[reference] - low[reference])
            shift, reach = shift + head.largest_leak * span * INFLATION, reach + span
    return _Scalar(counts, base, slope, radius, shift * INFLATION, reach)


def _reachable(form: _Scalar, task: SumTask) -> tuple[Float, list[int | None]]:
    """Every sigma that inputs give, ascending, with the sum of their values, None where a token has none."""
    size = len(next(iter(form.counts.values())))
    tokens = np.arange(size)
    value = np.array([task.values.get(int(token), 0) for token in tokens], dtype=np.float64)
    undefined = np.array([int(token) not in task.values for token in tokens], dtype=np.float64)
    states = np.zeros((1, 3))
    for position in sorted(task.positions):
        options = np.unique(np.stack([form.counts[position], value, undefined], axis=1), axis=0)
        if len(states) * len(options) > MOST_SUMS:
            raise NotProvableError(f"task {task.name!r}: too many sums of {len(task.positions)} values")
        grown = (states[:, None, :] + options[None, :, :]).reshape(-1, 3)
        grown[:, 2] = np.minimum(grown[:, 2], 1.0)
        grown[grown[:, 2] > 0, 1] = 0.0  # without a sum, what the others add up to does not matter
        states = np.unique(grown, axis=0)
    if common_slack([([np.concatenate(list(form.counts.values()))], len(form.counts))]) > 0:
        raise NotProvableError(f"task {task.name!r}: what its tokens count is on no coarse grid")
    return states[:, 0], [None if row[2] else int(row[1]) for row in states]


def _violation(
    task: TableTask | SumTask, role: str, where: str, got: str, units: NDArray[np.int_] | Sequence[int]
) -> Violation:
    named = f", units {min(units)} to {max(units)}" if len(units) else ""
    return Violation("predict", f"layer 2{named}: task {task.name!r} at {role}, {where}", "the code of its answer", got)


def _no_read(task: TableTask, role: str, count: int) -> Predicted:
    where = f"layers 1 and 2: task {task.name!r} at {role}"
    expected = f"a head for each of the inputs {list(task.reads)}"
    return Predicted(np.full(count, np.inf), Violation("read", where, expected, "none"), 0.0)
