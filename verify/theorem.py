"""The theorem, for all prompts, on the weights as they are: the lemmas, put together.

For every prompt of at most m examples, at every EQ: |q_hat - q|_1 <= bound. Nothing that the builder says of its
circuits is used but hints of where to look (which coordinates hold the evidence): each lemma is decided on the
weights, and where they do something else the proof fails.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from construct.sparse import Sparse
from construct.tasks import TableTask
from construct.theorems import Construction
from construct.transformer import AttentionWeights, TransformerWeights
from verify.attention import AverageFacts, HeadFacts, average_facts, read_head_facts
from verify.boxes import Box, Roles, box_of_rows, roles_of
from verify.certificate import Lemma, Proof, Violation
from verify.exact import INFLATION, Float, sum_loss
from verify.facts import TaskFacts
from verify.linear import CHUNK, Layer
from verify.rounding import BITS, bounds_and_refusals, rounded_bounds
from verify.rows import NotProvableError
from verify.slots import reordered
from verify.sums import code_columns, sum_answer, sum_evidence
from verify.tables import table_answer, table_evidence

ROLES = ("bos", "x", "eq", "y")


def prove(construction: Construction) -> Proof:
    """Bound |q_hat - q|_1 over all prompts, in real arithmetic.

    The tasks may stand in the evidence in any order, which changes no answer; the lemmas number them as the weights do.

    Returns:
        A proof whose `real` is the bound, or None with the reason among the violations.
    """
    if len(construction.weights.layers) != 2:
        layers = len(construction.weights.layers)
        return Proof(None, violations=(Violation("shape", "the model", "2 layers", f"{layers}"),))
    for name, tensor in construction.weights.tensors():
        if not np.isfinite(tensor if isinstance(tensor, np.ndarray) else tensor.data).all():
            return Proof(None, violations=(Violation("finite weights", name, "finite numbers", "others"),))
    try:
        with np.errstate(all="ignore"):  # what is no number in the end is no proof
            return _prove_in_order(construction)
    except (OverflowError, ValueError) as error:
        # Only numbers far beyond those of a construction get here; what cannot be computed is not proved.
        return Proof(None, violations=(Violation("not provable", "the model", "numbers of ordinary size", str(error)),))
    except NotProvableError as error:
        return Proof(None, violations=(Violation("not provable", "the model", "the form of the lemmas", str(error)),))


def _prove_in_order(construction: Construction) -> Proof:
    """The proof for the tasks as they are given or, where that fails, in the order that the weights have."""
    proof = _prove(construction)
    other = reordered(construction) if proof.violations else None
    again = None if other is None else _prove(other)
    return proof if again is None or again.violations else again


def _prove(construction: Construction) -> Proof:
    weights, task_set = construction.weights, construction.task_set
    first, second = weights.layers
    roles = roles_of(weights, construction.layout)
    evidence = np.arange(weights.d_model)[construction.stream["evidence"].coordinates]

    # Lemma 1: reads.
    heads = [read_head_facts(roles, first.attention, head) for head in range(weights.heads[0])]
    # At x and y the token's part is taken token by token, so the state that enters is the position alone.
    alone = {role: box_of_rows(roles.position[roles.positions(role)]) for role in ("x", "y")}
    inner = Layer(first.mlp, roles, {role: alone.get(role, roles.state(role)) for role in ROLES}, heads)
    # Lemma 2: evidence.
    codes = code_columns(inner, task_set.tasks, evidence)
    found = [
        table_evidence(inner, task, int(at)) if isinstance(task, TableTask) else sum_evidence(inner, task, int(at))
        for task, at in zip(task_set.tasks, evidence, strict=True)
    ]
    spills = {role: _spill(inner, role, evidence) for role in ROLES}
    states = {role: _after_first(inner, role, spills[role]) for role in ROLES}
    # What stands in the evidence coordinates besides evidence, at y and elsewhere: 0 in a construction as built.
    beside = {role: float((np.abs(box.centre) + box.radius)[evidence].max()) for role, box in states.items()}
    most = 1 + max(fact.error + float(fact.per_head @ _leaks(heads)) for fact in found) + beside["y"]
    # Lemma 3: average.
    states["y"].radius[evidence] += most
    averages = [average_facts(roles, second.attention, head, states) for head in range(weights.heads[1])]
    copying, strays = _copied(second.attention, evidence, states, averages)
    average = averages[copying]
    averaged = sum(float(average.shares[role].max()) * beside[role] for role in ("bos", "x", "eq"))
    # Lemma 4: answers.
    output = (second.mlp.w_out.astype(np.float64) @ weights.unembedding.astype(np.float64)).tocsr()
    stray_weight = averaged + beside["eq"] + beside["y"] + float(strays[evidence].max())
    weight_range = most + stray_weight
    before = _before_second(roles, inner, spills["eq"] + strays, evidence, weight_range)
    outer = Layer(second.mlp, roles, {"eq": before}, heads)
    answers = [
        table_answer(outer, task, int(at), output, weight_range)
        if isinstance(task, TableTask)
        else sum_answer(outer, inner, task, int(at), output, weight_range, codes, strays)
        for task, at in zip(task_set.tasks, evidence, strict=True)
    ]
    baseline = _baseline(weights, roles, inner, outer, spills["eq"] + strays, evidence, output)
    together = most_consistent(construction)
    stray = stray_weight * len(evidence)
    bounds = _by_examples(heads, found, average, answers, baseline, stray, together)
    violations = [fact.violation for fact in (*found, *answers) if fact.violation is not None]
    lemmas = _lemmas(heads, found, average, answers, baseline, together, bounds)
    largest = float(bounds.max()) if np.isfinite(bounds).all() else None
    if violations or largest is None:
        refusals = dict.fromkeys(BITS, "the proof in real arithmetic found weights that are off")
        return Proof(largest, dict.fromkeys(BITS), refusals, lemmas, tuple(violations))
    rounded, refusals = bounds_and_refusals(
        rounded_bounds(construction, roles, heads, (inner, outer), average, bounds, together)
    )
    return Proof(largest, rounded, refusals, lemmas)


def _leaks(heads: list[HeadFacts]) -> Float:
    return np.array([head.largest_leak for head in heads])


def _spill(layer: Layer, role: str, evidence: NDArray[np.int_]) -> Float:
    """How much layer 1's units can write to each coordinate at a role; evidence at y, proved apart, is left out."""
    result = np.zeros(layer.roles.position.shape[1])
    out = abs(layer.w_out)
    columns = np.unique(out.tocoo().coords[1]).astype(np.int_)
    units = layer.writers(columns[~np.isin(columns, evidence)] if role == "y" else columns)
    for start in range(0, len(units), CHUNK):
        part = units[start : start + CHUNK]
        result += np.maximum(layer.upper(role, part), 0.0) @ out[part] * INFLATION
    if role == "y":
        result[evidence] = 0.0
    return result


def _after_first(layer: Layer, role: str, spill: Float) -> Box:
    """The box of the stream after layer 1 at a role, without the evidence at y."""
    state = layer.roles.state(role)
    bias = layer.weights.bias_out.astype(np.float64)
    low, high = state.centre - state.radius + bias - spill, state.centre + state.radius + bias + spill
    parts = [state.centre, state.radius, bias, spill]
    for head in layer.heads:
        parts += [np.abs(head.values).max(axis=0), head.spread]
        low = low + head.values.min(axis=0) - head.spread
        high = high + head.values.max(axis=0) + head.spread
    return Box((low + high) / 2, (high - low) / 2 * INFLATION + sum_loss(parts))


def _copied(
    attention: AttentionWeights,
    evidence: NDArray[np.int_],
    states: Mapping[str, Box],
    averages: Sequence[AverageFacts],
) -> tuple[int, Float]:
    """Which head of layer 2 copies the evidence, and what else the heads can write, by coordinate."""
    pairs = [
        (v.astype(np.float64), o.astype(np.float64)) for v, o in zip(attention.value, attention.output, strict=True)
    ]
    copies = [float(np.abs(np.einsum("kd,dk->k", v[evidence], o[:, evidence])).sum()) for v, o in pairs]
    copying = int(np.argmax(copies))
    strays = np.zeros(attention.output.shape[2])
    for head, (value, output) in enumerate(pairs):
        used = np.union1d(np.flatnonzero(value.any(axis=1)), evidence if head == copying else evidence[:0])
        product = value[used] @ output
        if head == copying:
            product[np.searchsorted(used, evidence), evidence] -= 1.0
        for role, box in states.items():
            reach = float(averages[head].shares[role].max()) * (np.abs(box.centre) + box.radius)[used]
            strays += reach @ np.abs(product) * INFLATION
    return copying, strays


def _before_second(roles: Roles, inner: Layer, more: Float, evidence: NDArray[np.int_], weight_range: float) -> Box:
    """The box, at EQ, of what enters layer 2's MLP, apart from what the read heads wrote."""
    state = roles.state("eq")
    radius = state.radius + more
    radius[evidence] += weight_range
    return Box(state.centre + inner.weights.bias_out.astype(np.float64), radius)


def _baseline(
    weights: TransformerWeights,
    roles: Roles,
    inner: Layer,
    outer: Layer,
    more: Float,
    evidence: NDArray[np.int_],
    output: Sparse,
) -> float:
    """The most, in |.|_1, that is in the output at EQ apart from the answers of the tasks."""
    unembedding = weights.unembedding.astype(np.float64)
    mass = np.asarray(abs(unembedding).sum(axis=1)).ravel()
    state = roles.state("eq")
    constant = state.centre + inner.weights.bias_out + outer.weights.bias_out
    lost = sum_loss([state.centre, *(layer.weights.bias_out.astype(np.float64) for layer in (inner, outer))])
    total = float(np.abs(np.asarray(constant @ unembedding)).sum()) + float((state.radius + more + lost) @ mass)
    total += float(outer.states["eq"].radius[evidence] @ mass[evidence])
    for head in inner.heads:
        total += float((np.abs(head.values).max(axis=0) + head.spread) @ mass)
    # Units of layer 2 that read no evidence belong to no task.
    others = np.setdiff1d(np.arange(outer.weights.w_in.shape[1]), outer.readers(evidence))
    if len(others):
        upper = np.maximum(outer.upper("eq", others), 0.0)
        total += float(upper @ np.asarray(abs(output[others]).sum(axis=1)).ravel())
    return total * INFLATION


def most_consistent(construction: Construction) -> int:
    """The largest number of tasks that one example can be consistent with, or a little more.

    Tasks that read the same positions are counted row by row; groups that read different ones as if they were
    independent. Cost: the rows of all tables.
    """
    groups: dict[tuple[object, ...], dict[tuple[object, int], int]] = {}
    for task in construction.task_set.tasks:
        if isinstance(task, TableTask):
            table = groups.setdefault(("table", task.reads), {})
        else:
            values = tuple(sorted(task.values.items()))
            table = groups.setdefault(("sum", tuple(sorted(task.positions)), values), {})
        for key, answer in task.rows.items():
            table[key, answer] = table.get((key, answer), 0) + 1
    by_answer: dict[int, int] = {}
    for table in groups.values():
        best: dict[int, int] = {}
        for (_, answer), count in table.items():
            best[answer] = max(best.get(answer, 0), count)
        for answer, count in best.items():
            by_answer[answer] = by_answer.get(answer, 0) + count
    return max(by_answer.values(), default=0)


def _by_examples(
    heads: list[HeadFacts],
    evidence: list[TaskFacts],
    average: AverageFacts,
    answers: list[TaskFacts],
    baseline: float,
    stray: float,
    together: int,
) -> Float:
    """The bound at the EQ after m' examples, for m' = 0 .. m: shape [m + 1].

    The tasks whose evidence can be above 0 are at most `together` an example, and those whose evidence a leak can
    raise without consistency. So at most that many of the tasks' losses add up, the largest are taken. Likewise for
    the answers of the tasks that have a weight.
    """
    tasks = len(evidence)
    at_once = min(tasks, together + sum(fact.always for fact in evidence))
    leak_eq, leak_y = np.array([head.leak_eq for head in heads]), np.array([head.leak_y for head in heads])
    each_y = _largest_sum(np.array([fact.per_head for fact in evidence]) @ leak_y, at_once)
    per_answer = np.array([fact.per_head for fact in answers]) @ leak_eq
    slope = max(fact.slope for fact in answers)
    constant = baseline + sum(fact.error for fact in answers) + slope * (sum(fact.error for fact in evidence) + stray)
    shown = np.arange(leak_eq.shape[1])
    bounds = np.full(len(shown), float(constant))
    before = np.concatenate([[0.0], np.cumsum(each_y)])
    for count in shown[1:]:
        active = min(tasks, int(count) * together + sum(fact.always for fact in answers))
        weights = before[count] / count * (1 + average.uneven)
        weights += (average.leak[count] + average.uneven) * at_once
        bounds[count] += slope * weights + _largest_sum(per_answer[:, [count]], active)[0]
    return bounds * INFLATION


def _largest_sum(losses: Float, count: int) -> Float:
    """For each column, the sum of its `count` largest entries."""
    if count >= len(losses):
        return np.asarray(losses.sum(axis=0))
    if count == 0:
        return np.zeros(losses.shape[1])
    return np.asarray(np.partition(losses, len(losses) - count, axis=0)[len(losses) - count :].sum(axis=0))


def _lemmas(
    heads: list[HeadFacts],
    evidence: list[TaskFacts],
    average: AverageFacts,
    answers: list[TaskFacts],
    baseline: float,
    together: int,
    bounds: Float,
) -> tuple[Lemma, ...]:
    """The chain with every figure that the theorem uses, so that a reader can redo the sum."""
    return (
        Lemma(
            "reads",
            "every EQ and y attends to the inputs `targets` of its example; elsewhere at most leak_eq[i], leak_y[i]",
            {
                "targets": [list(head.targets) for head in heads],
                "leak_eq": [head.leak_eq.tolist() for head in heads],
                "leak_y": [head.leak_y.tolist() for head in heads],
            },
            all(head.targets for head in heads),
        ),
        Lemma(
            "evidence",
            "at every y, the evidence of task k is 1 if the example is consistent with it, else 0, up to "
            "error[k] + per_head[k] . leak",
            {
                "error": [fact.error for fact in evidence],
                "per_head": [fact.per_head.tolist() for fact in evidence],
            },
            all(fact.violation is None for fact in evidence),
        ),
        Lemma(
            "average",
            "every EQ averages the evidence over the y before it, evenly up to `uneven`; elsewhere at most leak[m']",
            {"leak": average.leak.tolist(), "uneven": average.uneven},
            bool((average.leak[1:] < 1).all()),
        ),
        Lemma(
            "answer",
            "at every EQ, task k adds its weight to its answer and nothing elsewhere, up to error[k] + per_head[k] . "
            "leak; an error of the weight counts at most slope[k] times",
            {
                "error": [fact.error for fact in answers],
                "per_head": [fact.per_head.tolist() for fact in answers],
                "slope": [fact.slope for fact in answers],
            },
            all(fact.violation is None for fact in answers),
        ),
        Lemma(
            "superposition",
            "for every prompt, at the EQ after m' examples, |q_hat - q|_1 <= bounds[m']; at most `together` tasks "
            "are consistent with one example, `rest` is what else is in the output",
            {"bounds": bounds.tolist(), "together": together, "rest": baseline},
            bool(np.isfinite(bounds).all()),
        ),
    )
