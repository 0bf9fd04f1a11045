"""The seven-layer theorem, for all prompts, on the weights as they are: the steps, put together.

For every prompt of at most m examples, at every EQ: |q_hat - q|_1 <= bound. The names of subspaces say where to look;
each step is decided on the weights, and what they do besides goes into the intervals of the stream (seven_state).
"""

from dataclasses import dataclass

import numpy as np

from construct.four_squares import NUMBERS, four_square_code
from construct.seven_bounds import budget
from construct.theorems import Construction
from construct.transformer import AttentionWeights, LayerWeights
from verify.attention import AverageFacts, HeadFacts, average_facts, read_head_facts
from verify.boxes import Roles, roles_of
from verify.certificate import Lemma, Proof, Violation
from verify.exact import INFLATION, Float
from verify.linear import Layer
from verify.rounding import BITS, bounds_and_refusals
from verify.rows import NotProvableError
from verify.seven_predict import Predicted, predict_facts
from verify.seven_rounding import Executed, seven_rounded
from verify.seven_state import (
    ALONE,
    ROLES,
    Columns,
    Interval,
    Stream,
    columns_written,
    heads_range,
    rows_read,
    written_range,
)
from verify.seven_steps import (
    Cases,
    Credited,
    Mismatch,
    Passed,
    baseline,
    compare_facts,
    credit_facts,
    gate_facts,
    superpose_facts,
    tasks_units,
)
from verify.theorem import most_consistent

LAYERS = 7
AVERAGING = 4
"""The layer whose heads average, from 0; layers 0 and 1 read, the others have no heads."""


@dataclass(frozen=True)
class _Averaged:
    """What the average hands on: its head's facts, and what else it can add to each coordinate at EQ."""

    facts: AverageFacts
    strays: Float


def prove_seven(construction: Construction) -> Proof:
    """Bound |q_hat - q|_1 over all prompts, in real arithmetic and as executed.

    Returns:
        A proof whose `real` is the bound, or None with the reason among the violations.
    """
    weights = construction.weights
    expected = f"{LAYERS} layers, with heads in layers 1, 2 and 5 alone"
    if len(weights.layers) != LAYERS or any(weights.heads[2:4] + weights.heads[5:]) or not weights.heads[AVERAGING]:
        return Proof(None, violations=(Violation("shape", "the model", expected, f"heads {weights.heads}"),))
    for name, tensor in weights.tensors():
        if not np.isfinite(tensor if isinstance(tensor, np.ndarray) else tensor.data).all():
            return Proof(None, violations=(Violation("finite weights", name, "finite numbers", "others"),))
    try:
        with np.errstate(all="ignore"):  # what is no number in the end is no proof
            return _prove(construction)
    except (OverflowError, ValueError) as error:
        # Only numbers far beyond those of a construction get here; what cannot be computed is not proved.
        return Proof(None, violations=(Violation("not provable", "the model", "numbers of ordinary size", str(error)),))
    except NotProvableError as error:
        return Proof(None, violations=(Violation("not provable", "the model", "the form of the lemmas", str(error)),))


def _prove(construction: Construction) -> Proof:
    weights, space = construction.weights, construction.stream
    roles = roles_of(weights, construction.layout)
    layers = weights.layers
    columns = {
        name: np.arange(space[name].start, space[name].stop)
        for name in ("prediction", "unanswered", "mismatch", "evidence", "weight")
    }
    cases = _cases(construction, columns)

    # Step 1: reads.
    heads = _reads(roles, layers)
    stream = Stream(roles)
    # Step 2: predictions.
    predicted, layer, entering = _predict(construction, roles, layers, heads, stream, cases)
    errors = {role: [fact.error for fact in facts] for role, facts in predicted.items()}
    # Steps 3 and 4: mismatches and credits, at y.
    compared, credited = _credit(roles, layers, stream, cases, errors["y"], columns)
    # Step 5: averages.
    averaged = _average(roles, layers[AVERAGING], stream, columns["evidence"])
    stray = _stray(averaged, stream, columns["evidence"])
    off = np.array([fact.error for fact in credited])
    _after_average(layers[AVERAGING], stream, averaged, columns["evidence"], off + stray)
    # Step 6: gates.
    passed = []
    for index, case in enumerate(cases):
        at = int(columns["evidence"][index]), int(columns["weight"][index])
        error = np.append(errors["eq"][index], 0.0) + stream.drift["eq"][[*case.columns, at[0]]]
        passed.append(gate_facts(layers[5].mlp, stream.at["eq"], case, error, at))
    _add(stream, layers[5], ("eq",))
    gated = np.array([fact.error + fact.slope * (each + stray) for fact, each in zip(passed, off, strict=True)])
    stream.settle("eq", columns["weight"], -gated, 1 + gated)
    # Step 7: superposition.
    output = (layers[6].mlp.w_out.astype(np.float64) @ weights.unembedding.astype(np.float64)).tocsr()
    owned, others = tasks_units(layers[6].mlp, columns["weight"])
    answered = []
    for index, (case, units) in enumerate(zip(cases, owned, strict=True)):
        error = errors["eq"][index] + stream.drift["eq"][case.columns]
        column, most = int(columns["weight"][index]), 1 + float(gated[index])
        answered.append(superpose_facts(layers[6].mlp, stream.at["eq"], case, error, column, units, output, most))
    rest = baseline(layers[6].mlp, stream.at["eq"], others, weights.unembedding, output)
    together = most_consistent(construction)
    bounds = _by_examples(credited, averaged, stray, passed, answered, rest, together)

    found = [fact.violation for fact in (*predicted["eq"], *predicted["y"])]
    found += [fact.violation for fact in credited] + [fact.violation for fact in (*passed, *answered)]
    violations = [violation for violation in found if violation is not None]
    allowed = budget(construction.task_set, construction.layout)
    if weights.d_model > allowed.width or max(weights.heads) > allowed.most_heads:
        got = f"d_model {weights.d_model}, heads {weights.heads}"
        expected = f"at most {allowed.width:.1f}, and {allowed.most_heads} heads a layer"
        violations.append(Violation("budget", "the model", expected, got))
    lemmas = _lemmas(
        construction, heads, predicted, credited, averaged, stray, passed, answered, rest, together, bounds
    )
    largest = float(bounds.max()) if np.isfinite(bounds).all() else None
    if violations or largest is None:
        refusals = dict.fromkeys(BITS, "the proof in real arithmetic found weights that are off")
        return Proof(largest, dict.fromkeys(BITS), refusals, lemmas, tuple(violations))
    executed = Executed(
        construction,
        roles,
        heads,
        layer,
        max(fact.reach for facts in predicted.values() for fact in facts),
        entering,
        [tuple(map(max, zip(*(fact.sizes for fact in step), strict=True))) for step in (compared, credited)],
        averaged.facts,
        [fact.steps for fact in passed],
        [fact.steps for fact in answered],
        bounds,
        together,
    )
    rounded, refusals = bounds_and_refusals(seven_rounded(executed))
    return Proof(largest, rounded, refusals, lemmas)


def _cases(construction: Construction, columns: dict[str, Columns]) -> list[Cases]:
    codes = four_square_code(construction.layout.alphabet_size).astype(np.float64)
    cases = []
    for index, task in enumerate(construction.task_set.tasks):
        answers = np.unique(np.array(list(task.rows.values()), dtype=np.int_))
        rows = np.append(codes[answers], np.zeros((len(answers), 1)), axis=1)
        nothing = np.append(np.zeros(NUMBERS), 1.0)[None]
        at = np.append(columns["prediction"][NUMBERS * index : NUMBERS * (index + 1)], columns["unanswered"][index])
        cases.append(Cases(task.name, answers, np.append(rows, nothing, axis=0), at))
    return cases


def _reads(roles: Roles, layers: tuple[LayerWeights, ...]) -> list[HeadFacts]:
    """Step 1: the read heads of layers 1 and 2. Those of layer 2 must not read what layer 1 writes."""
    first, second = layers[0].attention, layers[1].attention
    heads = [read_head_facts(roles, first, head) for head in range(len(first.query))]
    touched = [head.columns for head in heads] + [columns_written(layers[0].mlp)]
    if len(np.intersect1d(np.concatenate(touched), rows_read(second))):
        raise NotProvableError("heads of layer 2 read what layer 1 writes")
    return heads + [read_head_facts(roles, second, head) for head in range(len(second.query))]


def _add(stream: Stream, layer: LayerWeights, names: tuple[str, ...] = ROLES) -> None:
    """Add what a layer's MLP can write, at the roles named."""
    for role, written in {role: written_range(layer.mlp, stream.at[role]) for role in names}.items():
        stream.add(role, written)


def _predict(
    construction: Construction,
    roles: Roles,
    layers: tuple[LayerWeights, ...],
    heads: list[HeadFacts],
    stream: Stream,
    cases: list[Cases],
) -> tuple[dict[str, list[Predicted]], Layer, Float]:
    """Step 2, and the stream after layer 2."""
    first, second = (len(layers[at].attention.query) for at in (0, 1))
    before = dict(stream.at)
    for role in ROLES:
        stream.add(role, heads_range(heads[:first], construction.weights.d_model))
    for role, written in {role: written_range(layers[0].mlp, stream.at[role]) for role in ROLES}.items():
        stream.add(role, written)
        before[role] = before[role].plus(written)
    for role in ROLES:
        stream.add(role, heads_range(heads[first : first + second], construction.weights.d_model))
    entering = np.maximum(stream.at["eq"].most, stream.at["y"].most)
    layer = Layer(layers[1].mlp, roles, {role: before[role].box for role in ("eq", "y")}, heads)
    codes = four_square_code(construction.layout.alphabet_size)
    predicted: dict[str, list[Predicted]] = {}
    for role in ("eq", "y"):
        facts = []
        for task, case in zip(construction.task_set.tasks, cases, strict=True):
            fact = predict_facts(layer, role, task, case.columns, codes)
            already = stream.at[role].most[case.columns]
            facts.append(Predicted((fact.error + already) * INFLATION, fact.violation, fact.reach))
        predicted[role] = facts
    _add(stream, layers[1])
    for role, facts in predicted.items():
        for case, fact in zip(cases, facts, strict=True):
            low, high = case.codes.min(axis=0), case.codes.max(axis=0)
            stream.settle(role, case.columns, low - fact.error, high + fact.error)
    return predicted, layer, entering


def _credit(
    roles: Roles,
    layers: tuple[LayerWeights, ...],
    stream: Stream,
    cases: list[Cases],
    errors: list[Float],
    columns: dict[str, Columns],
) -> tuple[list[Mismatch], list[Credited]]:
    """Steps 3 and 4, and the stream after layer 4."""
    mismatches = [
        compare_facts(layers[2].mlp, stream.at[ALONE], roles, case, error, int(column))
        for case, error, column in zip(cases, errors, columns["mismatch"], strict=True)
    ]
    _add(stream, layers[2])
    low = np.array([mismatch.low.min() for mismatch in mismatches])
    high = np.array([mismatch.high.max() for mismatch in mismatches])
    stream.settle("y", columns["mismatch"], low, high)
    credited = [
        credit_facts(layers[3].mlp, stream.at["y"], case, mismatch, (int(at), int(to)))
        for case, mismatch, at, to in zip(cases, mismatches, columns["mismatch"], columns["evidence"], strict=True)
    ]
    _add(stream, layers[3])
    low, high = np.array([fact.low for fact in credited]), np.array([fact.high for fact in credited])
    stream.settle("y", columns["evidence"], low, high)
    return mismatches, credited


def _average(roles: Roles, layer: LayerWeights, stream: Stream, evidence: Columns) -> _Averaged:
    """Step 5: which head copies the evidence from the y, how evenly, and what else the heads write at EQ."""
    attention: AttentionWeights = layer.attention
    states = {role: stream.at[role].box for role in ROLES}
    pairs = [
        (value.astype(np.float64), output.astype(np.float64))
        for value, output in zip(attention.value, attention.output, strict=True)
    ]
    copies = [float(np.abs(np.einsum("kd,dk->k", v[evidence], o[:, evidence])).sum()) for v, o in pairs]
    copying = int(np.argmax(copies))
    every = [average_facts(roles, attention, head, states) for head in range(len(pairs))]
    strays = np.zeros(attention.output.shape[2])
    for head, (value, output) in enumerate(pairs):
        used = np.union1d(np.flatnonzero(value.any(axis=1)), evidence if head == copying else evidence[:0])
        product = value[used] @ output
        if head == copying:
            product[np.searchsorted(used, evidence), evidence] -= 1.0
        for role in ROLES:
            share = float(every[head].shares[role].max())
            strays += share * (stream.at[role].most[used] @ np.abs(product)) * INFLATION
    # Evidence that stands elsewhere than at y is copied too.
    beside = sum(
        float(every[copying].shares[role].max()) * stream.at[role].most[evidence] for role in ("bos", "x", "eq")
    )
    strays[evidence] += beside * INFLATION
    return _Averaged(every[copying], strays)


def _stray(averaged: _Averaged, stream: Stream, evidence: Columns) -> float:
    """The most that is in an average besides evidence from y: what was there, and what heads add."""
    return float((stream.at["eq"].most[evidence] + averaged.strays[evidence]).max()) * INFLATION


def _after_average(layer: LayerWeights, stream: Stream, averaged: _Averaged, evidence: Columns, off: Float) -> None:
    """The stream at EQ after layer 5; from here on no position is attended to."""
    stream.add("eq", Interval(-averaged.strays, averaged.strays))
    stream.settle("eq", evidence, -off, 1 + off)
    _add(stream, layer, ("eq",))


def _by_examples(
    credited: list[Credited],
    averaged: _Averaged,
    stray: float,
    passed: list[Passed],
    answered: list[Passed],
    rest: float,
    together: int,
) -> Float:
    """The bound at the EQ after m' examples, for m' = 0 .. m: shape [m + 1].

    A weight is off by its credit's error and `stray`; by the leak and the unevenness of the average relatively, and
    the weights add up to at most `together`. The gate and the superposition multiply that by their slopes.
    """
    slopes = np.array([first.slope * second.slope for first, second in zip(passed, answered, strict=True)])
    off = np.array([fact.error for fact in credited]) * (1 + averaged.facts.uneven) + stray
    constant = rest + float(slopes @ off)
    constant += sum(second.error + second.slope * first.error for first, second in zip(passed, answered, strict=True))
    bounds = np.full(len(averaged.facts.leak), constant)
    weights = min(together, len(credited))
    bounds[1:] += float(slopes.max()) * weights * (averaged.facts.leak[1:] + averaged.facts.uneven)
    return bounds * INFLATION


def _lemmas(
    construction: Construction,
    heads: list[HeadFacts],
    predicted: dict[str, list[Predicted]],
    credited: list[Credited],
    averaged: _Averaged,
    stray: float,
    passed: list[Passed],
    answered: list[Passed],
    rest: float,
    together: int,
    bounds: Float,
) -> tuple[Lemma, ...]:
    """The chain, with every figure that the theorem uses."""
    weights, facts = construction.weights, averaged.facts
    allowed = budget(construction.task_set, construction.layout)
    within = weights.d_model <= allowed.width and max(weights.heads) <= allowed.most_heads
    every = [*predicted["eq"], *predicted["y"]]
    return (
        Lemma(
            "budget",
            "seven layers, at most K heads in each, d_model <= 24 (max(d, K) + log2(m n))",
            {"heads": weights.heads, "d_model": weights.d_model, "allowed": allowed.width},
            within,
        ),
        Lemma(
            "read",
            "every EQ and y attends to the inputs `targets` of its example; elsewhere at most `leak`",
            {"targets": [list(head.targets) for head in heads], "leak": [head.largest_leak for head in heads]},
            all(head.targets for head in heads),
        ),
        Lemma(
            "predict",
            "at every EQ and y, the code of task k's answer and 0; 0 and 1 where it has none; off by at most `error`",
            {"error": {role: [float(fact.error.max()) for fact in facts] for role, facts in predicted.items()}},
            all(fact.violation is None for fact in every),
        ),
        Lemma(
            "credit",
            "at every y, the mismatch of prediction and answer is thresholded: 1 if task k explains it, else 0",
            {"error": [fact.error for fact in credited]},
            all(fact.violation is None for fact in credited),
        ),
        Lemma(
            "average",
            "every EQ averages the credits over the y before it, evenly up to `uneven`; elsewhere at most leak[m']; "
            "`stray` is what else is in an average",
            {"leak": facts.leak.tolist(), "uneven": facts.uneven, "stray": stray},
            bool((facts.leak[1:] < 1).all()),
        ),
        Lemma(
            "gate",
            "at every EQ, the weight passes where task k has an answer; an error of it counts slope[k] times",
            {"error": [fact.error for fact in passed], "slope": [fact.slope for fact in passed]},
            all(fact.violation is None for fact in passed),
        ),
        Lemma(
            "superpose",
            "at every EQ, task k adds its weight to its answer and nothing elsewhere; an error of it counts slope[k]",
            {"error": [fact.error for fact in answered], "slope": [fact.slope for fact in answered]},
            all(fact.violation is None for fact in answered),
        ),
        Lemma(
            "superposition",
            "for every prompt, at the EQ after m' examples, |q_hat - q|_1 <= bounds[m']; at most `together` tasks "
            "are consistent with one example, `rest` is what else is in the output",
            {"bounds": bounds.tolist(), "together": together, "rest": rest},
            bool(np.isfinite(bounds).all()),
        ),
    )
