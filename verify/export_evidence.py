"""Steps 1 to 3 of an exported two-layer construction: reads, evidence and average, behind layer norms.

The lemmas of verify/theorem.py decide on the weights without norms, with boxes that hold what the norms and rounding
do. So what they prove holds of the program as executed. Then, at every EQ, the weight of task k is off
w_k = c_k/m' by at most `relative` w_k + `absolute`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from construct.tasks import TableTask
from construct.theorems import Construction
from construct.transformer import AttentionWeights, MlpWeights
from verify.attention import HeadFacts, average_facts, read_head_facts
from verify.boxes import Box, Roles, box_of_rows, roles_of
from verify.exact import INFLATION, Float, exp_upper
from verify.export_arithmetic import Arithmetic, Norm
from verify.export_reads import HALF, executed_average, executed_head, exp_factor, reads_embeddings, score_error
from verify.export_state import Group, Ledger, dense_out, embedded, integral, written_columns
from verify.export_weights import RefusedError, Stock
from verify.facts import TaskFacts
from verify.linear import Layer
from verify.sums import code_columns, sum_evidence
from verify.tables import table_evidence
from verify.theorem import ROLES, _after_first, _copied, _spill, most_consistent


@dataclass(frozen=True)
class ExecutedLayer(Layer):
    """A layer whose units' arguments are off by a little more, shape [units]."""

    more: Float

    def base(
        self, role: str, units: NDArray[np.int_] | slice, without: NDArray[np.int_] | None = None
    ) -> tuple[Float, Float]:
        """As for a layer, with what norms and rounding add."""
        centre, radius = super().base(role, units, without)
        return centre, radius + self.more[units]


@dataclass(frozen=True)
class Weighed:
    """What enters the MLP of the last layer of the construction.

    Args:
        roles: the positions.
        heads: the read heads, as executed.
        inner: the first layer's MLP, as executed.
        codes: the coordinates of the codes of sums.
        spills: what the first MLP can write besides evidence at y, by role and coordinate.
        strays: what the heads of the last layer can add besides evidence, by coordinate.
        ledgers: the stream by role.
        norms: the norms that follow, by role.
        relative: how far a task's weight is off w_k, relatively.
        absolute: and by how much besides.
        empty: the most that a weight is without an example.
        together: the most that the tasks' weights add up to.
        others: by role, the most that the coordinate of a task's weight holds, besides `spills`.
    """

    roles: Roles
    heads: Sequence[HeadFacts]
    inner: Layer
    codes: NDArray[np.int_]
    spills: Mapping[str, Float]
    strays: Float
    ledgers: Mapping[str, Ledger]
    norms: Mapping[str, Norm]
    relative: float
    absolute: float
    empty: float
    together: float
    others: Mapping[str, float]


def summing(mlp: MlpWeights, column: Float, arithmetic: Arithmetic) -> Float:
    """What summing can lose in the arguments of units, where the stream is at most `column`: shape [units]."""
    block = abs(mlp.w_in.astype(np.float64)).tocsc()
    size = np.asarray(column @ block) + np.abs(mlp.bias_in.astype(np.float64))
    return np.asarray((np.diff(block.indptr) + 1) * arithmetic.sums * size * INFLATION)


def weigh(construction: Construction, stock: Stock, arithmetic: Arithmetic) -> Weighed:
    """Reads, evidence and average of a two-layer construction in a stock model.

    Args:
        construction: the tasks, the sizes and where to look; its weights are not used.
        stock: the model.
        arithmetic: the arithmetic.

    Raises:
        RefusedError: a lemma fails.
        NotProvableError: the weights are of another form.
    """
    task_set, layout, weights = construction.task_set, construction.layout, stock.weights
    first, second = weights.layers[:2]
    if not len(second.attention.query):
        raise RefusedError("heads", "layer 2", "a head that averages", "none")
    roles = roles_of(weights, layout)
    space = construction.stream["evidence"]
    evidence = np.arange(space.start, space.stop)
    ledgers = {role: embedded(stock, roles, role, arithmetic) for role in ROLES}

    # Reads.
    norms = {role: ledger.norm(stock, arithmetic) for role, ledger in ledgers.items()}
    errors = {role: norms[role].error(ledgers[role].column) for role in ROLES}
    found = [
        executed_head(read_head_facts(roles, first.attention, head), roles, first.attention, head, norms, errors)
        for head in range(len(first.attention.query))
    ]
    heads = [facts for facts, _ in found]
    at = "transformer.h.0.attn.c_proj.weight"
    outward = np.asarray(first.attention.output, dtype=np.float64).reshape(-1, stock.width)
    for number, (facts, exact) in enumerate(found):
        value = np.abs(roles.token @ np.asarray(first.attention.value[number], dtype=np.float64)).sum(axis=1)
        crooked = value * float(stock.imbalance[at].max())
        terms = (np.asarray(first.attention.output[number]) != 0).sum(axis=0) + 1.0
        for ledger in ledgers.values():
            total = Group(np.arange(len(facts.values)), 1.0 + 2.0**-10)
            ledger.write(facts.values, [total], crooked, arithmetic, exact=exact, terms=terms, matrix=outward)
            if not exact:
                ledger.size += float(facts.spread.sum())
                ledger.column = ledger.column + facts.spread

    # Evidence.
    norms = {role: ledger.norm(stock, arithmetic) for role, ledger in ledgers.items()}
    alone = {
        role: box_of_rows(roles.position[roles.positions(role)]) if role in ("x", "y") else roles.state(role)
        for role in ROLES
    }
    widened = {role: wider(alone[role], norms[role].error(ledgers[role].column)) for role in ROLES}
    largest = np.max([ledger.column for ledger in ledgers.values()], axis=0)
    inner = ExecutedLayer(first.mlp, roles, widened, heads, summing(first.mlp, largest, arithmetic))
    exact_layer = Layer(first.mlp, roles, alone, [replace(head, spread=head.spread * 0) for head in heads])
    consistent, beside_evidence = 0.0, 0.0
    for task, column in zip(task_set.tasks, evidence, strict=True):
        fact = _evidence(inner, task, int(column))
        units = inner.writers(np.array([column]))
        wrong, none = _stored(fact, _evidence(exact_layer, task, int(column)), first.mlp, units, heads, arithmetic)
        consistent, beside_evidence = max(consistent, wrong), max(beside_evidence, none)
    if not consistent < 1:
        raise RefusedError(
            "evidence", "layer 1 at y", "1 where a task explains the example", f"up to {consistent:.3g} off"
        )
    codes = code_columns(inner, task_set.tasks, evidence)
    spills = {role: _spill(inner, role, evidence) for role in ROLES}
    states = {role: _after_first(inner, role, spills[role]) for role in ROLES}
    together = most_consistent(construction)
    _write_evidence(stock, inner, ledgers, evidence, (len(task_set.tasks), consistent), arithmetic)

    # Average.
    norms = {role: ledger.norm(stock, arithmetic) for role, ledger in ledgers.items()}
    errors = {role: norms[role].error(ledgers[role].column) for role in ROLES}
    beside = {role: float((np.abs(box.centre) + box.radius)[evidence].max()) for role, box in states.items()}
    states["y"].radius[evidence] += 1 + consistent + beside["y"]
    boxes = {role: wider(states[role], errors[role]) for role in ROLES}
    written = written_columns(stock, 1)
    averages = [
        executed_average(
            average_facts(roles, second.attention, head, states), roles, second.attention, head, norms, errors, written
        )
        for head in range(len(second.attention.query))
    ]
    copying, strays = _copied(second.attention, evidence, boxes, averages)
    average = averages[copying]
    # At y: what stands beside the evidence, and the norm. Elsewhere: the same, times the attention there.
    near = norms["y"]
    at_one = float(near.error(1 + consistent, consistent)) + beside["y"]
    at_none = float(near.error(beside_evidence + beside["y"], beside_evidence)) + beside["y"]
    most = 1 + at_one
    elsewhere = sum(
        float(average.shares[role][1:].max()) * (beside[role] + float(errors[role][evidence].max()))
        for role in ("bos", "x", "eq")
    )
    leak = float(average.leak[1:].max())
    stored = 2 if _copies(second.attention.value[copying]) and _copies(second.attention.output[copying]) else 4
    unit = (16 + 2 * layout.examples) * arithmetic.sums + stored * arithmetic.storage
    relative = ((1 + at_one) * (1 + average.uneven) * (1 + unit) - 1 + leak) * INFLATION
    absolute = at_none * (1 + average.uneven) * (1 + unit) + elsewhere + beside["eq"] + float(strays[evidence].max())
    absolute = (absolute * (1 + unit) + leak * most * unit) * INFLATION
    others = {"eq": 1 + relative + absolute}
    for role in ("bos", "x", "y"):
        delta, _, size = score_error(roles, second.attention, copying, norms, errors, written, (role,))
        away = _idle(roles, second.attention, role, written, exp_factor(delta, size, arithmetic))
        near_bos = beside["bos"] + float(errors["bos"][evidence].max())
        others[role] = ((most if role == "y" else 0.0) + away * most + near_bos) * (1 + unit) + float(
            strays[evidence].max()
        )
    # Without an example there is no y: any position may be attended to.
    empty = max(beside[role] + float(errors[role][evidence].max()) for role in ("bos", "x", "eq")) + absolute
    if not relative < 0.5 or not absolute * layout.examples < 0.25:
        got = f"off by {relative:.3g} of it and {absolute:.3g}"
        raise RefusedError("average", "layer 2 at eq", "the share of the examples that a task explains", got)
    weighed = together * (1 + relative) + len(evidence) * max(absolute, empty)
    _write_average(stock, second.attention, ledgers, boxes, evidence, arithmetic, weighed)
    norms = {role: ledger.norm(stock, arithmetic) for role, ledger in ledgers.items()}
    return Weighed(
        roles=roles,
        heads=heads,
        inner=inner,
        codes=codes,
        spills=spills,
        strays=strays,
        ledgers=ledgers,
        norms=norms,
        relative=relative,
        absolute=absolute,
        empty=empty,
        together=float(together),
        others=others,
    )


def _copies(matrix: Float) -> bool:
    """Whether a matrix takes single numbers times powers of two, which rounds nothing, apart from the mirrors."""
    used = np.abs(np.asarray(matrix, dtype=np.float64))
    return bool(((used != 0).sum(axis=0) <= 1).all() and (np.frexp(used[used != 0])[0] == 0.5).all())


def _idle(roles: Roles, weights: AttentionWeights, role: str, written: NDArray[np.int_], factor: float) -> float:
    """How much attention a query of a role pays elsewhere than to BOS, over all heads of a layer, at the most."""
    total = 0.0
    for query, key in zip(weights.query, weights.key, strict=True):
        q, k = np.asarray(query, dtype=np.float64), np.asarray(key, dtype=np.float64)
        tokens = roles.content @ q, roles.content @ k
        if not all(reads_embeddings(roles, part, written) for part in (q, k)) or any(part.any() for part in tokens):
            return 1.0
        special = roles.token[roles.layout.bos :][:2]
        asked = np.unique(
            roles.position[roles.positions(role)] @ q + (special[[0]] @ q if role == "bos" else 0.0), axis=0
        )
        keys = roles.position @ k
        keys[roles.eq] += special[[1]] @ k
        other, often = np.unique(keys[1:], axis=0, return_counts=True)
        apart = asked @ other.T - (asked @ (keys[0] + (special[[0]] @ k)[0]))[:, None]
        total += float((exp_upper(apart) @ often).max()) * factor
    return min(total, 1.0)


def _evidence(layer: Layer, task: object, column: int) -> TaskFacts:
    if isinstance(task, TableTask):
        return table_evidence(layer, task, column)
    return sum_evidence(layer, task, column)  # type: ignore[arg-type]


def _stored(
    fact: TaskFacts,
    ideal: TaskFacts,
    mlp: MlpWeights,
    units: NDArray[np.int_],
    heads: Sequence[HeadFacts],
    arithmetic: Arithmetic,
) -> tuple[float, float]:
    """How far the evidence of a task, as stored, is off 1 where it is due, and off 0 where not.

    Where all weights are integers and a table is exact without errors, one unit alone is above 0 without errors, at
    exactly 1; in a narrow format an error smaller than half the distance to the next number is lost when it is stored.
    """
    off = fact.error + float(fact.per_head @ np.array([head.largest_leak for head in heads]))
    plain = (off + (len(units) * arithmetic.sums + 2 * arithmetic.storage) * (1 + off)) * INFLATION
    none = plain if fact.always else 0.0
    whole = all(bool((head.values == np.round(head.values)).all()) for head in heads) and integral(mlp, units)
    if arithmetic.narrow and whole and ideal.error == 0 and 4 * off < HALF:
        return 0.0, off * (1 + 4 * arithmetic.storage) if fact.always else 0.0
    return plain, none


def wider(box: Box, more: Float) -> Box:
    """A box with a larger radius."""
    return Box(box.centre.copy(), (box.radius + more) * INFLATION)


def _write_evidence(
    stock: Stock,
    inner: Layer,
    ledgers: Mapping[str, Ledger],
    evidence: NDArray[np.int_],
    most: tuple[int, float],
    arithmetic: Arithmetic,
) -> None:
    """The ledgers after the first MLP: at y one unit of evidence a task, everything else as units can reach."""
    rows = dense_out(inner.weights)
    crooked = stock.imbalance["transformer.h.0.mlp.c_proj.weight"]
    crooked = np.full(len(rows), float(crooked.max(initial=0.0)))
    writers = inner.writers(evidence)
    exact = all(bool((rows[unit] == np.round(rows[unit])).all()) for unit in writers) and most[1] == 0
    every = np.arange(len(rows))
    for role, ledger in ledgers.items():
        others = np.setdiff1d(every, writers) if role == "y" else every
        upper = np.maximum(inner.upper(role, others), 0.0) if len(others) else np.zeros(0)
        groups = [Group(np.array([unit]), float(high)) for unit, high in zip(others, upper, strict=True) if high > 0]
        ledger.write(rows, groups, crooked, arithmetic)
        if role == "y" and len(writers):
            ledger.write(rows, [Group(writers, most[0] * (1 + most[1]))], crooked, arithmetic, exact=exact)
        bias = inner.weights.bias_out.astype(np.float64)
        if bias.any():
            name = "transformer.h.0.mlp.c_proj.bias"
            ledger.write(
                bias[None, :], [Group(np.zeros(1, dtype=np.int_), 1.0)], stock.imbalance[name], arithmetic, exact=True
            )


def _write_average(
    stock: Stock,
    attention: AttentionWeights,
    ledgers: Mapping[str, Ledger],
    boxes: Mapping[str, Box],
    evidence: NDArray[np.int_],
    arithmetic: Arithmetic,
    total: float,
) -> None:
    """The ledgers after the average: at EQ the weights, elsewhere at most what any position holds."""
    crooked = float(stock.imbalance["transformer.h.1.attn.c_proj.weight"].max())
    reach = np.max([np.abs(box.centre) + box.radius for box in boxes.values()], axis=0)
    outward = np.asarray(attention.output, dtype=np.float64).reshape(-1, stock.width)
    for one, other in zip(attention.value, attention.output, strict=True):
        value, output = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
        product = value @ output
        used = np.flatnonzero(product.any(axis=1))
        slanted = np.abs(value).sum(axis=1) * crooked
        for role, ledger in ledgers.items():
            groups = [Group(np.array([row]), float(reach[row])) for row in used]
            if role == "eq" and np.isin(used, evidence).all():
                groups = [Group(evidence, total)]
            ledger.write(product, groups, slanted, arithmetic, matrix=outward)
