"""The lemmas on table tasks: evidence at y (layer 1) and answers at EQ (layer 2), row by row."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from construct.sparse import Sparse
from construct.tasks import TableTask
from verify.certificate import Violation
from verify.exact import INFLATION, Float
from verify.facts import TaskFacts, refuted
from verify.linear import CHUNK, Layer
from verify.rows import Combinations, NotProvableError, Source, combinations, table_sources


def table_evidence(layer: Layer, task: TableTask, coordinate: int) -> TaskFacts:
    """Lemma 2 for a table: at y, the evidence is 1 on the rows of the table with their answers and 0 elsewhere.

    Pre: the read heads attend as `layer.heads` say, the state at y lies in `layer.states["y"]`.
    Post: |e - [consistent]| <= error + sum over heads of per_head times the head's leak, for all tokens.
    Cost: K V cases: each unit against each token of each read on its own, then what is still open.
    """
    size, heads = layer.roles.layout.alphabet_size, len(layer.heads)
    units = layer.writers(np.array([coordinate]))
    weight = layer.w_out_columns[:, [coordinate]].toarray().ravel()
    radix = _radix(size, len(task.reads) + 1)
    keys, values, deviations = [np.zeros(0, dtype=np.int64)], [np.zeros(0)], [np.zeros((0, heads + 1))]
    for start in range(0, len(units), CHUNK):
        part = units[start : start + CHUNK]
        found = _combinations(layer, "y", task.reads, part, own_token=True)
        if found is None:
            return _no_read(task, "evidence at y", heads)
        combined, sources, radius = found
        out = np.asarray(weight[part][combined.unit], dtype=np.float64)
        keys.append(combined.options @ radix)
        values.append(out * np.maximum(combined.argument, 0.0))
        deviations.append(_by_head(combined, sources, np.abs(out), radius, heads))
    key, place = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.bincount(place, np.concatenate(values), minlength=len(key))
    deviation = _sum_rows(np.concatenate(deviations), place, len(key))
    rows = np.array([(*inputs, answer) for inputs, answer in task.rows.items()], dtype=np.int64) @ radix
    wanted = np.isin(key, rows)
    wrong = np.abs(total - wanted) + deviation[:, heads]
    missing = np.setdiff1d(rows, key)
    per_head = deviation[:, :heads].max(axis=0, initial=0.0) * INFLATION
    always = not bool(wanted.all())
    if len(missing):
        tokens = _tokens(int(missing[0]), radix)
        error = max(1.0, float(wrong.max(initial=0.0))) * INFLATION
        unlit = _violation(task, "evidence at y", tokens, "1", "0: no unit is on")
        return TaskFacts(error, per_head, 1.0, unlit, always)
    error = float(wrong.max(initial=0.0))
    violation = None
    if error > 0:
        at = int(wrong.argmax())
        tokens = _tokens(int(key[at]), radix)
        violation = _violation(task, "evidence at y", tokens, str(int(wanted[at])), f"{total[at]:.9g}")
    return TaskFacts(error * INFLATION, per_head, 1.0, violation, always)


def table_answer(layer: Layer, task: TableTask, coordinate: int, output: Sparse, weight_range: float) -> TaskFacts:
    """Lemma 4 for a table: at EQ, the task adds w_k to the output of its answer and nothing elsewhere.

    Pre: as for the evidence, at EQ; w_k in [1 - weight_range, weight_range]. `output` is W2 U by rows, [units, V].
    Post: for every w_k in that range the task's units add, in |.|_1, what they should up to error + sum over heads
        of per_head times the leak; an error of w_k is multiplied by at most slope.
    Cost: as for the evidence.
    """
    size, heads = layer.roles.layout.alphabet_size, len(layer.heads)
    units = layer.readers(np.array([coordinate]))
    slopes = np.asarray(layer.w_in_rows[[coordinate]].toarray()).ravel()
    mass = np.asarray(abs(output).sum(axis=1), dtype=np.float64).ravel()
    radix = _radix(size, len(task.reads))
    keys, arguments, at_units = [np.zeros(0, dtype=np.int64)], [np.zeros(0)], [np.zeros(0, dtype=np.int_)]
    deviations = [np.zeros((0, heads + 1))]
    always = False
    for start in range(0, len(units), CHUNK):
        part = units[start : start + CHUNK]
        reach = weight_reach(slopes[part], weight_range)
        found = _combinations(layer, "eq", task.reads, part, without=np.array([coordinate]), reach=reach)
        if found is None:
            return _no_read(task, "answer at eq", heads)
        combined, sources, radius = found
        keys.append(combined.options @ radix)
        arguments.append(combined.argument)
        at_units.append(part[combined.unit])
        deviations.append(_by_head(combined, sources, mass[part][combined.unit], radius, heads))
        always = always or bool((_highest(combined, sources) + radius[combined.unit] > 0).any())
    key, place = np.unique(np.concatenate(keys), return_inverse=True)
    argument, unit = np.concatenate(arguments), np.concatenate(at_units)
    deviation = _sum_rows(np.concatenate(deviations), place, len(key))
    rows = {int(np.array(inputs) @ radix): answer for inputs, answer in task.rows.items()}
    wrong = weight_errors(key, place, argument, slopes[unit], output[unit], rows, weight_range) + deviation[:, heads]
    slope = float(np.bincount(place, mass[unit] * np.abs(slopes[unit]), minlength=len(key)).max(initial=0.0))
    per_head = deviation[:, :heads].max(axis=0, initial=0.0) * INFLATION
    missing = sorted(rows.keys() - set(key.tolist()))
    if missing:
        tokens = _tokens(missing[0], radix)
        error = (weight_range + float(wrong.max(initial=0.0))) * INFLATION
        unit_missing = _violation(task, "answer at eq", tokens, "its weight", "no unit is on")
        return TaskFacts(error, per_head, slope, unit_missing)
    error, violation = float(wrong.max(initial=0.0)), None
    if error > 0:
        tokens = _tokens(int(key[int(wrong.argmax())]), radix)
        violation = _violation(task, "answer at eq", tokens, "its weight", f"up to {error:.3g} off")
    return TaskFacts(error * INFLATION, per_head, slope * INFLATION, violation, always)


def weight_reach(slopes: Float, weight_range: float) -> Float:
    """How far a weight in [1 - weight_range, weight_range] can raise arguments of these slopes.

    A weight is in [0, 1] but for errors, so it can be as far below 0 as above 1.
    """
    return np.asarray(np.maximum(slopes * weight_range, -slopes * (weight_range * INFLATION - 1)) * INFLATION)


def weight_errors(
    key: NDArray[np.int64],
    place: NDArray[np.int_],
    argument: Float,
    slope: Float,
    output: Sparse,
    answers: dict[int, int],
    weight_range: float,
) -> Float:
    """For each key, the largest |sum over its units of output relu(argument + slope w) - w u[answer]|_1, w in range.

    The difference is piecewise linear in w, so its norm is largest at 0, at the end, or where a unit switches.
    """
    count = np.bincount(place, minlength=len(key))
    errors = np.zeros(len(key))
    entries = output.tocsr()
    for at in np.flatnonzero(count > 1):
        mine = np.flatnonzero(place == at)
        errors[at] = _error(argument[mine], slope[mine], entries[mine], answers.get(int(key[at])), weight_range)
    alone = np.flatnonzero(count[place] == 1)
    if len(alone):
        expected = np.array([answers.get(int(key[at]), -1) for at in place[alone]])
        chosen = entries[alone]
        mass = np.asarray(abs(chosen).sum(axis=1)).ravel()
        listed = chosen.tocoo()
        row, column = listed.coords
        main = np.bincount(row, np.where(column == expected[row], listed.data, 0.0), minlength=len(alone))
        with np.errstate(divide="ignore", invalid="ignore"):
            switch = np.nan_to_num(-argument[alone] / slope[alone])
        worst = np.zeros(len(alone))
        for weight in (np.zeros(len(alone)), np.full(len(alone), weight_range), np.clip(switch, 0, weight_range)):
            on = np.maximum(argument[alone] + slope[alone] * weight, 0.0)
            off = np.abs(main * on - np.where(expected < 0, 0.0, weight))
            worst = np.maximum(worst, off + (mass - np.abs(main)) * on)
        errors[place[alone]] = worst
    return errors


def _error(argument: Float, slope: Float, output: Sparse, answer: int | None, weight_range: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        switch = np.clip(np.nan_to_num(-argument / slope), 0.0, weight_range)
    worst = 0.0
    for weight in (0.0, weight_range, *switch.tolist()):
        difference = np.asarray(np.maximum(argument + slope * weight, 0.0) @ output)
        if answer is not None:
            difference[answer] -= weight
        worst = max(worst, float(np.abs(difference).sum()))
    return worst


def _combinations(
    layer: Layer,
    role: str,
    reads: Sequence[int],
    units: NDArray[np.int_],
    *,
    own_token: bool = False,
    without: NDArray[np.int_] | None = None,
    reach: Float | None = None,
) -> tuple[Combinations, list[Source], Float] | None:
    base, radius = layer.base(role, units, without)
    block = layer.w_in[:, units].toarray()
    sources, centre, more = table_sources(reads, layer.heads, block, layer.roles.layout.alphabet_size)
    if len(sources) < len(reads):
        return None
    if own_token:
        part = layer.token_part(units)
        sources.append(Source("own token", part, part.min(axis=0), part.max(axis=0), 0.0, -1))
    radius = radius + more
    ceiling = radius if reach is None else radius + reach
    return combinations(base + centre, ceiling, sources), sources, radius


def _by_head(combined: Combinations, sources: list[Source], out: Float, radius: Float, heads: int) -> Float:
    """Deviations by head, and the units' own radius in the last column, times |output|."""
    result = np.zeros((len(combined.unit), heads + 1))
    for place, source in enumerate(sources):
        if source.head >= 0:
            result[:, source.head] += combined.deviation[:, place] * out
    result[:, heads] = radius[combined.unit] * out
    return result


def _highest(combined: Combinations, sources: list[Source]) -> Float:
    """The most that each combination's argument can be with the leak."""
    leaked = combined.argument
    for place, source in enumerate(sources):
        option = combined.options[:, place]
        leaked = leaked + source.upper[option, combined.unit] - source.values[option, combined.unit]
    return leaked


def _sum_rows(rows: Float, place: NDArray[np.int_], count: int) -> Float:
    total = np.zeros((count, rows.shape[1]))
    np.add.at(total, place, rows)
    return total


def _radix(size: int, places: int) -> NDArray[np.int64]:
    if size**places >= 2**62:
        raise NotProvableError(f"{places} tokens of an alphabet of {size} are more combinations than int64 counts")
    return np.array([size**place for place in range(places)], dtype=np.int64)


def _tokens(key: int, radix: NDArray[np.int64]) -> list[int]:
    return [int(key // step) % int(radix[1] if len(radix) > 1 else key + 1) for step in radix]


def _violation(task: TableTask, lemma: str, tokens: list[int], expected: str, got: str) -> Violation:
    return Violation(lemma, f"task {task.name!r}, inputs at {list(task.reads)} and answer: ids {tokens}", expected, got)


def _no_read(task: TableTask, lemma: str, heads: int) -> TaskFacts:
    return refuted(lemma, f"task {task.name!r}", f"a head for each of the inputs {list(task.reads)}", "none", heads)
