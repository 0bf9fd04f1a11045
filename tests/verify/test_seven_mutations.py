"""Altered weights of the seven layers: none that is wrong is certified, and few that are not wrong are refused."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from construct.seven_circuits import prediction_of
from construct.seven_layer import seven_layer
from construct.suites import build_suite
from construct.tasks import TableTask
from construct.theorems import Construction
from construct.transformer import AttentionWeights
from tests.verify.conftest import edited, pair_and_table, sum_and_table, tables, with_tensors, with_unit
from verify.adversary import confirm, search
from verify.exhaustive import exhaust
from verify.mutations import Classifier, classify, mutants
from verify.seven_theorem import prove_seven

EPS = 1e-6
TERMS = 64
"""No sum in the small models of this file has more terms: float64 is off by at most TERMS * Worst.rounding."""

MUTANTS = 40


def small_artifacts() -> dict[str, Construction]:
    """Constructions whose prompts can all be run: tables, two reads of a table, a sum."""
    return {
        "tables": seven_layer(tables(), examples=2),
        "lookup": seven_layer(build_suite("lookup", tasks=2, alphabet_size=3, inputs=2, seed=0), examples=1),
        "sum": seven_layer(sum_and_table(), examples=1),
        "pair": seven_layer(pair_and_table(), examples=1),
    }


def test_no_harmful_mutant_is_accepted_no_bound_is_too_low_and_few_harmless_ones_are_refused() -> None:
    refused: Counter[bool] = Counter()
    harmful = 0
    for name, construction in small_artifacts().items():
        classifier = Classifier(construction)
        for mutant in islice(mutants(construction, 17), MUTANTS):
            judgement, proof = classify(mutant, EPS, classifier), prove_seven(mutant.construction)
            worst = judgement.worst
            assert judgement.exhaustive
            accepted = proof.real is not None and proof.real <= EPS
            assert not (accepted and judgement.harmful), (name, str(mutant))
            if proof.real is not None:
                assert worst.error <= proof.real + TERMS * worst.rounding, (name, str(mutant))
            harmful += judgement.harmful
            if not judgement.harmful:
                refused[not accepted] += 1
            # Where a weight is wrong beyond any doubt, a claim of the program as executed would be absurd.
            assert accepted or all(bound is None or bound > EPS for bound in proof.rounded.values())
    assert harmful > 80
    assert refused.total() > 40
    assert refused[True] <= 0.2 * refused.total()


def test_accepted_mutants_are_within_the_bound_as_executed() -> None:
    construction = seven_layer(tables(), examples=2)
    tried = 0
    for mutant in islice(mutants(construction, 4), 40):
        proof = prove_seven(mutant.construction)
        for dtype, bound in proof.rounded.items():
            if bound is not None:
                tried += 1
                assert search(mutant.construction, samples=40, dtype=dtype).error <= bound, (str(mutant), dtype)
    assert tried > 5


# Attacks by hand, one a layer.


def weight(construction: Construction, task: int = 0) -> int:
    return construction.stream["weight"].start + task


def at(construction: Construction, name: str) -> int:
    return construction.stream[name].start


def row_moved(construction: Construction) -> Construction:
    """One number of the code that a unit of layer 2 predicts, to the next coordinate."""
    w_out = construction.weights.layers[1].mlp.w_out
    start = prediction_of(construction.stream, 0).start
    place = next(column for column in range(start, start + 4) if w_out[0, column])
    to = start + (place + 1 - start) % 4
    return edited(construction, {"layers.1.mlp.w_out": {(0, place): 0.0, (0, to): w_out[0, place]}})


def codes_swapped(construction: Construction) -> Construction:
    """The codes with which layer 3 reads two tokens, exchanged for one task."""
    w_in = construction.weights.layers[2].mlp.w_in.toarray()
    token = at(construction, "token")
    w_in[[token, token + 1], :8] = w_in[[token + 1, token], :8]
    return with_tensors(construction, {"layers.2.mlp.w_in": type(construction.weights.unembedding)(w_in)})


def credit_raised(construction: Construction) -> Construction:
    """The threshold of one task's credit, so far down that every example explains it."""
    bias = construction.weights.layers[3].mlp.bias_in
    return edited(construction, {"layers.3.mlp.bias_in": {(0,): bias[0] + 8, (1,): bias[1] + 8}})


def credit_at_x(construction: Construction) -> Construction:
    """A unit that gives the first task credit at every input, where nothing should have any: x is not averaged.

    It is made to matter: the average's head is made to attend to inputs as well.
    """
    unit = with_unit(construction, 3, {at(construction, "role_x"): 1.0}, 0.0, {at(construction, "evidence"): 1.0})
    attention = unit.weights.layers[4].attention
    key = attention.key.copy()
    key[0, at(construction, "role_x")] = key[0, at(construction, "role_y")]
    return with_tensors(unit, {"layers.4.attention.key": key})


def gate_opened(construction: Construction) -> Construction:
    """The gate's bias: the weight passes where the task has no answer, too, and a constant with it."""
    return edited(construction, {"layers.5.mlp.bias_in": {(0,): 1.0}})


def gate_ignored(construction: Construction) -> Construction:
    """The gate reads nothing of whether there is an answer: and layer 7, with that of a code, adds one."""
    opened = edited(construction, {"layers.5.mlp.w_in": {(at(construction, "unanswered"), 0): 0.0}})
    return edited(opened, {"layers.6.mlp.bias_in": {(0,): 0.0}})


def answer_moved(construction: Construction) -> Construction:
    """What the first unit of layer 7 adds, to the next token."""
    w_out = construction.weights.layers[6].mlp.w_out.toarray()
    token = int(w_out[0, :3].argmax())
    return edited(construction, {"layers.6.mlp.w_out": {(0, token): 0.0, (0, (token + 1) % 3): 1.0}})


def unit_added(construction: Construction) -> Construction:
    """Credit for the first task at every y."""
    return with_unit(construction, 3, {at(construction, "role_y"): 1.0}, 0.0, {at(construction, "evidence"): 1.0})


def more_heads(construction: Construction, layer: int, value: tuple[int, float], output: int) -> Construction:
    """A copy with one more head, that attends to everything alike and copies one coordinate to another."""
    attention = construction.weights.layers[layer].attention
    parts = {name: np.zeros((1, *getattr(attention, name).shape[1:]), np.float32) for name in ("query", "key")}
    parts["value"] = np.zeros((1, *attention.value.shape[1:]), np.float32)
    parts["output"] = np.zeros((1, *attention.output.shape[1:]), np.float32)
    parts["value"][0, value[0], 0] = value[1]
    parts["output"][0, 0, output] = 1.0
    grown = AttentionWeights(**{name: np.concatenate([getattr(attention, name), part]) for name, part in parts.items()})
    layers = list(construction.weights.layers)
    layers[layer] = replace(layers[layer], attention=grown)
    return replace(construction, weights=replace(construction.weights, layers=tuple(layers)))


def extra_reader(construction: Construction) -> Construction:
    """A head of layer 5 that adds the share of inputs among all positions to the first task's weight."""
    return more_heads(construction, 4, (at(construction, "role_x"), 1.0), at(construction, "evidence"))


def tasks_exchanged(construction: Construction) -> Construction:
    """Each of two tasks gets the other's credit."""
    w_out = construction.weights.layers[3].mlp.w_out.toarray()
    here = at(construction, "evidence")
    w_out[:, [here, here + 1]] = w_out[:, [here + 1, here]]
    return with_tensors(construction, {"layers.3.mlp.w_out": type(construction.weights.unembedding)(w_out)})


REFUTED: dict[str, tuple[Callable[[Construction], Construction], str]] = {
    "a number of a code moved": (row_moved, "predict"),
    "the codes of two tokens exchanged": (codes_swapped, "credit"),
    "every example given credit": (credit_raised, "credit"),
    "credit at y without a reason": (unit_added, "credit"),
    "two tasks' credits exchanged": (tasks_exchanged, "credit"),
    "a gate's bias": (gate_opened, "gate"),
    "an answer moved": (answer_moved, "superpose"),
}


@pytest.mark.parametrize("what", REFUTED)
def test_a_wrong_weight_is_refuted_by_its_step_with_its_task(what: str) -> None:
    breaks, lemma = REFUTED[what]
    broken = breaks(seven_layer(tables(), examples=2))
    proof = prove_seven(broken)
    assert lemma in [violation.lemma for violation in proof.violations], proof.violations
    first = next(violation for violation in proof.violations if violation.lemma == lemma)
    assert "task 'p'" in first.where
    assert first.expected != first.got
    assert proof.rounded == dict.fromkeys(("float32", "bfloat16", "float16"))
    found = search(broken, samples=100, dtype="float64", seed=1)
    assert found.error > 0.1
    assert confirm(broken, found.prompt) == pytest.approx(found.error, abs=1e-9)
    assert proof.real is None or found.error <= proof.real


@pytest.mark.parametrize("breaks", [credit_at_x, extra_reader, gate_ignored])
def test_weights_that_break_several_steps_together_are_not_certified(
    breaks: Callable[[Construction], Construction],
) -> None:
    task_set = replace(pair_and_table(), tasks=(TableTask("half", (0,), {(1,): 2}), *pair_and_table().tasks[1:]))
    broken = breaks(seven_layer(task_set, examples=2))
    proof, truth = prove_seven(broken), exhaust(broken)
    assert truth.error > 0.01
    assert proof.real is None or proof.real >= truth.error


def test_a_blunt_head_has_a_bound_that_says_so() -> None:
    built = seven_layer(tables(), examples=2)
    query = built.weights.layers[0].attention.query * np.float32(0.5)
    blunt = with_tensors(built, {"layers.0.attention.query": query})
    proof, truth = prove_seven(blunt), exhaust(blunt)
    assert proof.violations == ()
    assert proof.real is not None
    assert EPS < truth.error <= proof.real <= 3.01 * truth.error
    assert "raise the sharpness" in proof.refusals["float32"]


# What a sceptic would try: weights made so that the proof looks away.


def test_a_unit_that_a_negative_weight_switches_on_is_found() -> None:
    # A weight that is a little below 0 by a unit of layer 6, and a unit of layer 7 that multiplies what is below 0.
    built = seven_layer(tables(), examples=2)
    below = with_unit(built, 5, {}, 1.0, {weight(built): -(2.0**-27)})
    trap = with_unit(below, 6, {weight(built): -(2.0**19)}, 0.0, {at(built, "token"): 1.0})
    proof, truth = prove_seven(trap), exhaust(trap)
    assert truth.error > 1e-3
    assert proof.real is None or proof.real >= truth.error


def test_a_position_s_own_weight_is_found_in_the_average() -> None:
    built = seven_layer(tables(), examples=2)
    layout = built.layout
    own = {(layout.eq_position(index), at(built, "evidence")): 2.0**-8 for index in range(3)}
    trap = edited(built, {"embedding.position": own})
    proof, truth = prove_seven(trap), exhaust(trap)
    assert truth.error > 1e-3
    assert proof.real is None or proof.real >= truth.error


def test_a_unit_of_layer_1_that_moves_what_layer_2_predicts_is_found() -> None:
    built = seven_layer(tables(), examples=2)
    trap = with_unit(built, 0, {at(built, "token") + 2: 1.0}, 0.0, {prediction_of(built.stream, 0).start: 1.0})
    trap = with_unit(trap, 0, {at(built, "role_eq"): 1.0}, 0.0, {prediction_of(built.stream, 1).start: 0.5})
    proof, truth = prove_seven(trap), exhaust(trap)
    assert truth.error > 0.1
    assert proof.real is None or proof.real >= truth.error


def test_what_an_answer_s_neighbour_adds_late_is_found() -> None:
    """Layer 6 writes to the coordinates that layer 7 compares, after they were proved."""
    built = seven_layer(tables(), examples=2)
    at_eq = {at(built, "role_eq"): 1.0}
    trap = with_unit(built, 5, at_eq, 0.0, {prediction_of(built.stream, 0).start: -1.0})
    proof, truth = prove_seven(trap), exhaust(trap)
    assert truth.error > 0.1
    assert proof.real is None or proof.real >= truth.error
