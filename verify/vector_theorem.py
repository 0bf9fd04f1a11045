"""The theorem on vectors, decided on weights: a bound on |q_hat - q|_max for every prompt in the domain.

    reads        every y attends to one input of its own example (a head), or compares with it (attention)
    excess       its excess is 0 for the tasks that the example follows, and positive a margin away
    tally        every EQ finds 1/(1 + c) by the attention of BOS beside the c examples that follow a task
    agreement    every y knows of each task whether its example follows it; every EQ knows log c
    superpose    every EQ gives the query's input the weight c/m' and writes (c/m') g_k(query)

The states between are an ideal and a box around it (`verify.vector_state`); the same analysis gives the bound in real
arithmetic and that of float32 as executed (`verify.vector_machine`). What is looked at where is a hint of the
description's (which coordinates hold what); what the weights do there is decided.
"""

from dataclasses import replace

import numpy as np

from construct.vector_comparison import ATTENTION
from construct.vector_mlp import least_excess
from construct.vector_theorem import VectorConstruction
from verify.boxes import Box
from verify.certificate import Lemma, Proof, Violation
from verify.exact import INFLATION, Float
from verify.vector_answer import Contribution, contribution, output_rounding, remainder
from verify.vector_compare import Excess, Read, erased, excesses, forms_at_answers, read_at_answers
from verify.vector_doubt import doubts
from verify.vector_machine import FLOAT32, REAL, Machine
from verify.vector_state import States, after_attention, after_mlp, embedded
from verify.vector_tally import Count, counts
from verify.vector_weights import Weighing, weighing

NARROW = {
    "bfloat16": "the places 1/(1+j) of the logarithm, and the tasks' numbers, need more than its 8 bits",
    "float16": "the places 1/(1+j) of the logarithm, and the tasks' numbers, need more than its 11 bits",
}
"""Why no claim is made in narrow formats."""

LOST = 1.4
"""In float32 an example that does not follow a task has so many times the least excess, or there is no claim."""

ROOM = 1 + 2.0**-30
"""Figures are stated so much on the safe side, that a checker with other arithmetic finds them to be safe too."""

ROOM32 = 1 + 2.0**-12
"""The same for the bound in float32, in which what is lost in the rounding may be counted one way or another."""


def prove_vectors(construction: VectorConstruction) -> Proof:
    """Bound |q_hat - q|_max over all prompts in the domain, in real arithmetic and as executed in float32.

    Returns:
        A proof whose `real` is the bound, or None with the reason among the violations.
    """
    layers = len(construction.weights.layers)
    if layers != 3:
        return Proof(None, violations=(Violation("shape", "the model", "3 layers", f"{layers}"),))
    for name, tensor in construction.weights.tensors():
        if not np.isfinite(tensor if isinstance(tensor, np.ndarray) else tensor.data).all():
            return Proof(None, violations=(Violation("finite weights", name, "finite numbers", "others"),))
    with np.errstate(all="ignore"):  # what is no number in the end is no proof
        real = _prove(construction, REAL)
        refusals = dict(NARROW)
        if real.real is None:
            refusals["float32"] = "the proof in real arithmetic found weights that are off"
            rounded: dict[str, float | None] = dict.fromkeys(("float32", *NARROW))
            return replace(real, rounded=rounded, refusals=refusals)
        single = _prove(construction, FLOAT32)
    # Where rounding is not lost in the excess a bound may come out that says nothing.
    trivial = sum(construction.task_set.reach(task) for task in construction.task_set.tasks)
    # And where an example that does not follow is felt in the tally, rounding decides how much: nothing is claimed.
    least = next((lemma.figures["least"] for lemma in single.lemmas if lemma.name == "excess"), [0.0])
    felt = min(least) < LOST * least_excess(construction.comparison)
    if single.real is None or single.real > trivial or felt:
        refusals["float32"] = "; ".join(f"{v.lemma}: {v.got}" for v in single.violations[:1]) or (
            "the margin is so small that rounding may hide whether an example follows a task"
        )
        return replace(real, rounded=dict.fromkeys(("float32", *NARROW)), refusals=refusals)
    return replace(real, rounded={"float32": single.real * ROOM32, **dict.fromkeys(NARROW)}, refusals=refusals)


def _prove(construction: VectorConstruction, machine: Machine) -> Proof:
    weights = construction.weights
    first, second, third = weights.layers
    start = embedded(construction, machine)

    # Lemmas 1 and 2: reads, excess, and the answers erased.
    attended = after_attention(start, first.attention)
    reads: list[Read] = []
    if construction.comparison.kind == ATTENTION:
        found, violations = doubts(start)
    else:
        reads = [read_at_answers(start, head) for head in range(len(first.attention.query))]
        found, violations = excesses(start, reads)
    compared = _erase(start, attended, after_mlp(attended, first.mlp), reads)
    # Lemmas 3 and 4: the tally, the logarithm and the agreement.
    tallied = after_attention(compared, second.attention)
    counted, more = counts(compared, tallied, found)
    violations += more
    settled = after_mlp(tallied, second.mlp)
    # Lemma 5: the superposition.
    final = after_attention(settled, third.attention, roles=("eq",))
    weighings, parts, read_out, more = _superpose(settled, counted)
    violations += more
    outputs = weights.unembedding.astype(np.float64).toarray()
    rest = remainder(settled, outputs, final)
    bounds = _bound(settled, outputs, parts, rest)
    told = _bound(
        settled, _weight_outputs(construction), read_out, remainder(settled, _weight_outputs(construction), final)
    )
    largest = float(bounds.max())
    proved = not violations and np.isfinite(largest)
    lemmas = _lemmas(construction, reads, found, counted, weighings, parts, rest, bounds, told)
    return Proof(largest if proved else None, lemmas=lemmas, violations=tuple(violations))


def _erase(start: States, attended: States, compared: States, reads: list[Read]) -> States:
    """The states after layer 1, where y's vector is what Lemma 2 leaves of it.

    The embedding's coordinates at y hold the vector less what was erased: as a whole they lie in a box, and the vector
    itself is no longer counted there.
    """
    if start.construction.comparison.kind == ATTENTION:
        forms = forms_at_answers(start, [])
        forms = replace(forms, rest=attended.fixed("y"))
    else:
        forms = forms_at_answers(start, reads)
    left = erased(start, forms)
    box = compared.added["y"]
    at = start.embedding.any(axis=0)
    position = start.position[start.positions("y")]
    own = np.abs(position).max(axis=0, initial=0.0)
    y = Box(np.where(at, 0.0, box.centre), np.where(at, left + own, box.radius))
    bounds = {**compared.bounds, "y": 0.0}
    return replace(compared, added={**compared.added, "y": y}, bounds=bounds)


def _superpose(
    states: States, counted: list[Count]
) -> tuple[list[Weighing], list[Contribution], list[Contribution], list[Violation]]:
    construction = states.construction
    attention, stream = construction.weights.layers[2].attention, construction.stream
    heads = range(len(attention.query))
    role_x = stream["role_x"].start
    writes = np.array([attention.value[head][role_x].astype(np.float64) @ attention.output[head] for head in heads])
    outputs = construction.weights.unembedding.astype(np.float64).toarray()
    weight_outputs = _weight_outputs(construction)
    weighings, parts, read_out, violations, taken = [], [], [], [], set()
    for index, task in enumerate(construction.task_set.tasks):
        head = int(np.abs(writes[:, stream["weight"].start + index]).argmax())
        where = f"layer 3, head {head}, task {task.name!r}"
        if head in taken:
            violations.append(Violation("superpose", where, "a head of its own", "one that serves another task"))
        taken.add(head)
        weighed = weighing(states, head, index, counted[index])
        if weighed.reason:
            violations.append(Violation("superpose", where, f"attention on input {task.position}", weighed.reason))
        elif weighed.place != task.position:
            got = f"input {weighed.place}"
            violations.append(Violation("superpose", where, f"attention on input {task.position}", got))
        weighings.append(weighed)
        parts.append(contribution(states, head, index, weighed, outputs, "vector"))
        read_out.append(contribution(states, head, index, weighed, weight_outputs, "weight"))
    violations += [
        Violation("superpose", f"layer 3, head {head}", "no more heads than tasks", "a head that writes")
        for head in heads
        if head not in taken and np.abs(attention.value[head]).any() and np.abs(attention.output[head]).any()
    ]
    return weighings, parts, read_out, violations


def _weight_outputs(construction: VectorConstruction) -> Float:
    space = construction.stream["weight"]
    return np.asarray(np.eye(construction.weights.d_model)[:, space.start : space.stop])


def _bound(states: States, outputs: Float, parts: list[Contribution], rest: Float) -> Float:
    """The bound at the EQ after m' examples, for m' = 0 .. m: shape [m + 1]."""
    total = np.sum([part.error for part in parts], axis=0) + output_rounding(states, outputs, parts) + rest
    return np.asarray(total.max(axis=1)) * INFLATION * ROOM


def _lemmas(
    construction: VectorConstruction,
    reads: list[Read],
    found: list[Excess],
    counted: list[Count],
    weighings: list[Weighing],
    parts: list[Contribution],
    rest: Float,
    bounds: Float,
    told: Float,
) -> tuple[Lemma, ...]:
    """The chain with the figures that the theorem uses."""
    logs = np.log(np.maximum(np.arange(construction.layout.examples + 1.0), 1e-300))
    # The logarithm is that of c, up to a constant that the last head adds.
    off = [
        float((np.abs(c.logarithm.centre - c.logarithm.centre[1] - logs) + c.logarithm.radius)[1:].max())
        for c in counted
    ]
    return (
        Lemma(
            "reads",
            "every y attends to one input of its own example; elsewhere at most leak",
            {"inputs": [read.place for read in reads], "leak": [read.leak * ROOM for read in reads]},
            all(read.leak < 0.5 for read in reads),
        ),
        Lemma(
            "excess",
            "at every y, the excess of a task is in [low, high] where the example follows it, at least `least` "
            "where it is a margin away",
            {
                "low": [excess.low * ROOM for excess in found],
                "high": [excess.high * ROOM for excess in found],
                "least": [excess.least / ROOM for excess in found],
            },
            all(excess.least > 0 for excess in found),
        ),
        Lemma(
            "tally",
            "every EQ knows log c for c >= 1 up to a constant and `off`, and c = 0 as `none` or less",
            {
                "off": [figure * ROOM for figure in off],
                "none": [float(c.logarithm.centre[0] + c.logarithm.radius[0]) / ROOM for c in counted],
            },
            bool(np.isfinite(off).all()),
        ),
        Lemma(
            "agreement",
            "at every y, at least `agree` where the example follows the task, at most `disagree` where not",
            {
                "agree": [float(c.agree.centre - c.agree.radius) / ROOM for c in counted],
                "disagree": [float(c.disagree.centre + c.disagree.radius) * ROOM for c in counted],
            },
            all(c.agree.centre - c.agree.radius > 0.5 > c.disagree.centre + c.disagree.radius for c in counted),
        ),
        Lemma(
            "weights",
            "every EQ gives the query's input the weight c/m', up to `error`",
            {
                "inputs": [w.place for w in weighings],
                "error": [float(w.error.max()) * ROOM for w in weighings],
            },
            all(not w.reason for w in weighings),
        ),
        Lemma(
            "superposition",
            "for every prompt in the domain, at the EQ after m' examples, |q_hat - q|_max <= bounds[m'], and each "
            "weight that is written is within weights[m'] of c/m'; `matrix` and `offset` are how far the values are "
            "from A_k x and b_k, `rest` is what else is in the output",
            {
                "bounds": bounds.tolist(),
                "weights": told.tolist(),
                "matrix": [part.matrix for part in parts],
                "offset": [part.offset for part in parts],
                "rest": float(rest.max()),
            },
            bool(np.isfinite(bounds).all()),
        ),
    )
