"""The last layer of the construction in an export: the answers that are recalled, and the counts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.residual_stream import Array
from construct.sparse import Sparse, sparse_matrix
from construct.tasks import SumTask, TableTask
from construct.theorems import Construction
from construct.transformer import MlpWeights
from verify.boxes import Box, box_of_rows
from verify.exact import INFLATION, Float
from verify.export_arithmetic import Arithmetic
from verify.export_evidence import ExecutedLayer, Weighed, summing, wider
from verify.export_places import Places
from verify.export_reads import HALF
from verify.export_state import Group, Ledger, dense_out, integral, written_columns
from verify.export_weights import RefusedError, Stock
from verify.facts import TaskFacts
from verify.rows import NotProvableError
from verify.sums import _largest_anywhere, affine_arguments, sum_answer
from verify.tables import table_answer

Units = NDArray[np.int_]


@dataclass(frozen=True)
class Counted:
    """What the readout starts from.

    Args:
        recalled: how far each bit of an answer is off its code, or off 0 where there is none, at EQ and elsewhere.
        relative: how far a count is off c, relatively, for c >= 1.
        absolute: the most that a count of 0 is.
        ledgers: the stream by role.
    """

    recalled: float
    relative: float
    absolute: float
    ledgers: Mapping[str, Ledger]


def count(construction: Construction, stock: Stock, places: Places, before: Weighed, arithmetic: Arithmetic) -> Counted:
    """The MLP of the last layer of a two-layer construction.

    Raises:
        RefusedError: a task's answer is not recalled, or its examples are not counted.
    """
    mlp, roles = stock.weights.layers[1].mlp, before.roles
    ledgers, norms = before.ledgers, before.norms
    evidence = np.arange(construction.stream["evidence"].start, construction.stream["evidence"].stop)
    role_eq = construction.stream["role_eq"].start
    largest = np.max([ledger.column for ledger in ledgers.values()], axis=0)
    errors = {role: norms[role].error(ledgers[role].column) for role in ledgers}
    boxes = {role: _box(before, role, evidence, errors[role]) for role in ledgers}
    recalling = _writers(mlp, places.recalled.ravel())
    counting = _writers(mlp, places.count)
    if len(np.intersect1d(recalling, counting)):
        raise RefusedError("recall", "layer 2", "units that recall or count", "units that do both")
    outside = np.concatenate([before.codes, [role_eq]]).astype(np.int_)
    more = summing(mlp, largest, arithmetic)
    block = abs(mlp.w_in.astype(np.float64)).tocsc()
    more = more + np.asarray(errors["eq"][outside] @ block[outside]) * INFLATION
    more = more + _codes_lost(before, largest, arithmetic) @ block
    facts = []
    for index, task in enumerate(construction.task_set.tasks):
        units = _writers(mlp, places.recalled[index])
        part, output = _as_answers(mlp, units, places, index)
        layer = ExecutedLayer(part, roles, boxes, before.heads, more[units])
        if isinstance(task, TableTask):
            fact = table_answer(layer, task, role_eq, output, 1.0)
        else:
            fact = sum_answer(layer, before.inner, task, role_eq, output, 1.0, before.codes, before.strays)
        facts.append(_recalled(fact, part, units, before, arithmetic, task.name))
    recalled = max(facts)
    layer = ExecutedLayer(mlp, roles, boxes, before.heads, more + _outside_more(mlp, before, block))
    beside = _elsewhere(construction, places, before, ExecutedLayer(mlp, roles, boxes, before.heads, more), arithmetic)
    relative, absolute = _counts(construction, stock, places, before, arithmetic)
    _write(construction, stock, places, before, (recalling, counting, layer, recalled), arithmetic)
    return Counted(max(recalled, beside), relative, absolute, ledgers)


def _box(before: Weighed, role: str, evidence: Units, error: Float) -> Box:
    """What enters the last MLP at a role, without the read heads and, at x and y, the token."""
    roles = before.roles
    state = box_of_rows(roles.position[roles.positions(role)]) if role in ("x", "y") else roles.state(role)
    radius = state.radius + before.spills[role] + before.strays
    radius[evidence] += before.others[role] + (before.empty if role == "eq" else 0.0)
    return wider(Box(state.centre + before.inner.weights.bias_out.astype(np.float64), radius), error)


def _writers(mlp: MlpWeights, columns: Units) -> Units:
    block = mlp.w_out[:, columns].tocoo()
    return np.unique(block.coords[0]).astype(np.int_)


def _as_answers(mlp: MlpWeights, units: Units, places: Places, index: int) -> tuple[MlpWeights, Sparse]:
    """The units that recall a task's answer, alone, and which token's code each writes, one-hot: [units, V].

    Raises:
        RefusedError: a unit writes no code of an answer.
    """
    written = mlp.w_out[units][:, places.recalled[index]].toarray()
    distance = np.abs(written[:, None, :] - places.codes[None, :, :]).max(axis=2)
    token = distance.argmin(axis=1)
    if distance[np.arange(len(units)), token].any():
        raise RefusedError("recall", f"layer 2, task {index}", "units that write codes of answers", "others")
    ones = np.ones(len(units), dtype=np.float32)
    output = sparse_matrix(ones, np.arange(len(units)), token, (len(units), len(places.codes)))
    part = MlpWeights(mlp.w_in.tocsc()[:, units].tocsr(), mlp.bias_in[units], mlp.w_out[units], mlp.bias_out * 0)
    return part, output


def _recalled(
    fact: TaskFacts, part: MlpWeights, units: Units, before: Weighed, arithmetic: Arithmetic, name: str
) -> float:
    """How far the bits of a task's answer are off.

    In a narrow format an error that is small enough is lost when the one unit that is on, at 1, is stored (as for
    evidence): integer weights, and an error of less than 1/4 of the distance to the next number.
    """
    leak = np.array([float(head.leak_eq.max()) for head in before.heads])
    off = fact.error + float(fact.per_head @ leak)
    plain = (off + (len(units) * arithmetic.sums + 2 * arithmetic.storage) * (1 + off)) * INFLATION
    if not plain < 0.25:
        raise RefusedError("recall", f"layer 2, task {name!r} at eq", "the code of its answer", f"{plain:.3g} off")
    whole = integral(part, np.arange(len(units))) and all((h.values == np.round(h.values)).all() for h in before.heads)
    return 0.0 if arithmetic.narrow and whole and 4 * off < HALF else plain


def _elsewhere(
    construction: Construction, places: Places, before: Weighed, layer: ExecutedLayer, arithmetic: Arithmetic
) -> float:
    """What the coordinates of answers hold elsewhere than at EQ, at the most: nothing, but what errors let through."""
    mlp, worst = layer.weights, 0.0
    for role in ("bos", "x", "y"):
        if not len(before.roles.positions(role)):
            continue
        for task, row in zip(construction.task_set.tasks, places.recalled, strict=True):
            units = _writers(mlp, row)
            if isinstance(task, SumTask) and len(before.codes):
                upper = _highest_of_sum(before, layer, role, task, units)
            else:
                upper = layer.upper(role, units)
            hidden = np.maximum(upper, 0.0) * (1 + 2 * arithmetic.storage + 64 * arithmetic.sums)
            worst = max(worst, float((hidden @ np.abs(mlp.w_out[units][:, row].toarray())).max(initial=0.0)))
    return worst * INFLATION


def _highest_of_sum(before: Weighed, layer: ExecutedLayer, role: str, task: SumTask, units: Units) -> Float:
    """The most that arguments can be of units that read the code of a sum, whatever the heads attend to."""
    inner, rows = before.inner, layer.w_in_rows
    read = before.codes[np.asarray(abs(rows[before.codes][:, units]).sum(axis=1)).ravel() > 0]
    most = affine_arguments(layer, role, task, units, without=read).high
    if not len(read):
        return most
    writers = inner.writers(read)
    form = affine_arguments(inner, role, task, writers)
    if inner.token_part(writers).any() or layer.token_part(units).any():
        raise NotProvableError(f"task {task.name!r}: units that encode or recall a sum read a token")
    out = np.asarray(inner.w_out[writers][:, read].toarray())
    into = np.asarray(rows[read][:, units].toarray())
    constant = inner.weights.bias_out.astype(np.float64)[read] + inner.states[role].centre[read]
    beside = (inner.states[role].radius + before.strays)[read] @ np.abs(into)
    loose = form.radius @ np.abs(out @ into)
    return np.asarray(most + _largest_anywhere(form, out @ into) + constant @ into + beside + loose)


def _codes_lost(before: Weighed, column: Float, arithmetic: Arithmetic) -> Float:
    """What writing the codes of sums can lose, by coordinate."""
    lost = np.zeros(len(column))
    if len(before.codes) and arithmetic.sums:
        every = np.arange(before.inner.weights.w_in.shape[1])
        upper = np.maximum(before.inner.upper("eq", every), 0.0)
        out = abs(before.inner.w_out_columns[:, before.codes])
        terms = np.diff(out.indptr)
        lost[before.codes] = (terms * arithmetic.sums + arithmetic.storage) * np.asarray(upper @ out) * INFLATION
    return lost


def _outside_more(mlp: MlpWeights, before: Weighed, block: object) -> Float:
    """The codes of sums are in no box: what units can read of them, besides."""
    if not len(before.codes):
        return np.zeros(mlp.w_in.shape[1])
    most = np.zeros(mlp.w_in.shape[0])
    most[before.codes] = np.max([ledger.column[before.codes] for ledger in before.ledgers.values()], axis=0)
    return np.asarray(most @ block) * INFLATION  # type: ignore[operator]


def _counts(
    construction: Construction, stock: Stock, places: Places, before: Weighed, arithmetic: Arithmetic
) -> tuple[float, float]:
    """At the EQ after m' examples, for w = c/m': what the units that write each count add up to, against c.

    Returns:
        How far counts are off: relatively where c >= 1, and the most of a count of 0.
    """
    mlp, roles, layout = stock.weights.layers[1].mlp, before.roles, construction.layout
    w_in, w_out = mlp.w_in.astype(np.float64).tocsc(), mlp.w_out.astype(np.float64).tocsc()
    eq = np.asarray(roles.position[roles.eq] + roles.token[[layout.eq]].toarray())
    fixed = np.setdiff1d(np.flatnonzero(np.abs(eq).any(axis=0)), written_columns(stock, 1))
    fixed = np.setdiff1d(fixed, np.flatnonzero(stock.weights.layers[1].attention.output.any(axis=(0, 1))))
    norm = before.norms["eq"]
    relative = absolute = 0.0
    start = construction.stream["evidence"].start
    for task in range(len(places.count)):
        units = np.unique(w_out[:, [places.count[task]]].indices)
        block = w_in[:, units].toarray()
        read = np.flatnonzero(block.any(axis=1))
        own = start + task
        if np.setdiff1d(read, np.append(fixed, own)).size or not len(units):
            raise RefusedError(
                "count", f"layer 2, task {task}", "units that read its weight and the position", "others"
            )
        out = np.asarray(w_out[units][:, [places.count[task]]].toarray()).ravel()
        if (out < 0).any() or mlp.bias_out[places.count[task]]:
            raise RefusedError("count", f"layer 2, task {task}", "sums of what is not negative", "a negative weight")
        rows = np.append(np.setdiff1d(read, [own]), own)
        weights, bias = block[rows], mlp.bias_in[units].astype(np.float64)
        terms = (weights != 0).sum(axis=0) + 1
        for shown in range(layout.examples + 1):
            ideal = eq[shown][rows]
            ideal[-1] = 0.0
            # Without the weight: what is fixed.
            base = ideal @ weights + bias
            counts = np.arange(shown + 1)
            w = counts / max(shown, 1)
            off_w = before.relative * w + before.absolute if shown else np.array([before.empty])
            case = np.repeat(ideal[None, :], len(w), axis=0)
            case[:, -1] = w
            offs = np.zeros(case.shape)
            offs[:, -1] = off_w
            reach = base + weights[-1] * (w[:, None] if shown else 0.0)
            most = np.abs(weights[-1]) * off_w[:, None]
            near = np.flatnonzero((reach + most).max(axis=0) > -0.25)
            if not len(near):
                if shown:
                    raise RefusedError(
                        "count", f"layer 2, task {task}, {shown} examples", "a unit that counts", "none is on"
                    )
                continue
            columns = weights[:, near]
            error = norm.argument(columns.T[None, :, :], case[:, None, :], offs[:, None, :])
            size = np.abs(case + offs) @ np.abs(columns) + np.abs(bias[near])
            error = (error + terms[near] * arithmetic.sums * size) * INFLATION
            argument = reach[:, near]
            high = np.maximum(argument + error, 0.0)
            value = np.maximum(argument, 0.0) @ out[near]
            on = (argument + error > 0).astype(np.float64)
            lost = (on * (error + arithmetic.storage * high)) @ np.abs(out[near])
            lost += (on.sum(axis=1) * arithmetic.sums + arithmetic.storage) * (high @ np.abs(out[near]))
            wrong = (np.abs(value - counts) + lost + 2.0**-48 * (1 + np.abs(value))) * INFLATION
            far = np.setdiff1d(np.arange(len(units)), near)
            # The others are below -1/4 before errors.
            slack = float(norm.error(np.abs(eq[shown][rows]) + 2.0).max()) * np.abs(weights).sum(axis=0)
            slack += terms * arithmetic.sums * (np.abs(eq[shown][rows]) + 2.0).sum()
            if len(far) and not (slack[far] < 0.25).all():
                raise RefusedError("count", f"layer 2, task {task}", "units that stay off", "errors of 1/4")
            absolute = max(absolute, float(wrong[0]))
            if shown:
                relative = max(relative, float((wrong[1:] / counts[1:]).max()))
    if not relative < 0.25 or not absolute < 0.25:
        got = f"off by {relative:.3g} of it, {absolute:.3g} where it is 0"
        raise RefusedError("count", "layer 2 at eq", "how many examples a task explains", got)
    return relative, absolute


def _write(
    construction: Construction,
    stock: Stock,
    places: Places,
    before: Weighed,
    parts: tuple[Units, Units, ExecutedLayer, float],
    arithmetic: Arithmetic,
) -> None:
    """The ledgers after the last layer of the construction."""
    recalling, counting, layer, recalled = parts
    mlp = stock.weights.layers[1].mlp
    rows = dense_out(mlp)
    name = "transformer.h.1.mlp.c_proj"
    crooked = np.full(len(rows), float(stock.imbalance[f"{name}.weight"].max(initial=0.0)))
    tasks = len(places.count)
    every = np.arange(len(rows))
    answering = np.setdiff1d(every, np.concatenate([recalling, counting]))
    weighed = before.together * (1 + before.relative) + tasks * max(before.absolute, before.empty)
    for role, ledger in before.ledgers.items():
        if role == "eq":
            groups = [Group(_writers(mlp, row), 1 + recalled) for row in places.recalled]
            exact = recalled == 0
            ledger.write(rows, groups, crooked, arithmetic, exact=exact)
            # One unit counts for each task: the one of the examples before; errors let no other through by 1/4.
            ledger.write(rows, [Group(counting, weighed + tasks / 4)], crooked, arithmetic)
            ledger.write(rows, _answering(construction, before, layer, answering, weighed, rows), crooked, arithmetic)
        else:
            upper = np.maximum(layer.upper(role, every), 0.0)
            groups = [Group(np.array([unit]), float(high)) for unit, high in zip(every, upper, strict=True) if high > 0]
            ledger.write(rows, groups, crooked, arithmetic)
        if mlp.bias_out.any():
            bias = mlp.bias_out.astype(np.float64)[None, :]
            ledger.write(
                bias, [Group(np.zeros(1, dtype=np.int_), 1.0)], stock.imbalance[f"{name}.bias"], arithmetic, exact=True
            )


def _answering(
    construction: Construction, before: Weighed, layer: ExecutedLayer, units: Units, weighed: float, rows: Float
) -> list[Group]:
    """What the construction's own answer units add up to: the weights of the tasks, where tables show it.

    Otherwise a bound by each unit on its own.
    """
    groups, left, total = [], units, 0.0
    start, token = construction.stream["evidence"].start, construction.stream["token"].coordinates
    together: list[Units] = []
    for index, task in enumerate(construction.task_set.tasks):
        mine = np.intersect1d(left, layer.readers(np.array([start + index])))
        written = rows[mine][:, token]
        plain = bool((written.sum(axis=1) == 1).all() and ((written != 0).sum(axis=1) == 1).all())
        if not plain or not len(mine) or not isinstance(task, TableTask):
            continue
        mlp = layer.weights
        part = MlpWeights(mlp.w_in.tocsc()[:, mine].tocsr(), mlp.bias_in[mine], mlp.w_out[mine], mlp.bias_out)
        own = ExecutedLayer(part, layer.roles, layer.states, layer.heads, layer.more[mine])
        output = sparse_matrix(*_entries(written), (len(mine), written.shape[1]))
        fact = table_answer(own, task, start + index, output, 1 + before.relative + max(before.absolute, before.empty))
        leak = np.array([float(head.leak_eq.max()) for head in before.heads])
        total += fact.error + float(fact.per_head @ leak) + before.norms["eq"].gain * 4 + before.norms["eq"].shift * 8
        together.append(mine)
        left = np.setdiff1d(left, mine)
    if together and np.isfinite(total):
        groups.append(Group(np.concatenate(together), weighed + total))
    else:
        left = units
    upper = np.maximum(layer.upper("eq", left), 0.0) if len(left) else np.zeros(0)
    return groups + [Group(np.array([unit]), float(high)) for unit, high in zip(left, upper, strict=True) if high > 0]


def _entries(matrix: Float) -> tuple[Array, Units, Units]:
    rows, columns = np.nonzero(matrix)
    return matrix[rows, columns].astype(np.float32), rows, columns
