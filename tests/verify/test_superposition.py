"""The proof for superpositions: certified as built, the bound holds for every prompt, and wrong weights are refused."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.artifact import load, save
from construct.errors import InputError, TooLargeError
from construct.induction import induction_component, induction_error
from construct.prompts import Layout
from construct.superpose import superpose
from construct.superpose_tables import table_component
from construct.tasks import TableTask, TaskSet
from construct.theorems import Construction, two_layer
from tests.construct.conftest import Command
from tests.construct.strategies import task_sets
from tests.construct.superposed import (
    allowance,
    error,
    exact_outputs,
    four_components,
    plain_outputs,
    random_prompt,
)
from tests.verify.conftest import edited, tables
from verify.exhaustive import exhaust
from verify.mutations import Classifier, mutants
from verify.superposition import Contract, SuperpositionProof, prove_superposition

SMALL = Layout(3, 3, 1)
EPS = 1e-6


def small_components() -> list:
    first = TableTask("first", (0,), {(0,): 1, (1,): 2, (2,): 0})
    return [table_component(first, SMALL), induction_component(SMALL)]


@pytest.fixture(scope="module")
def small() -> Construction:
    return superpose(small_components(), SMALL).construction(alphabet="abc")


@pytest.fixture(scope="module")
def mixed() -> Construction:
    layout = Layout(5, 3, 7)
    return superpose(four_components(layout), layout).construction(alphabet="abcde")


def refusal(construction: Construction) -> str:
    """The lemma at which the proof fails."""
    proof = prove_superposition(construction)
    assert proof.real is None
    assert proof.violations
    return proof.violations[0].lemma


def test_induction_tables_a_sum_and_a_trained_network_are_certified_with_no_assumption(mixed: Construction) -> None:
    proof = prove_superposition(mixed)
    assert proof.violations == ()
    assert proof.assumptions == ()
    assert all(lemma.holds for lemma in proof.lemmas)
    assert mixed.error_bound is not None
    assert proof.real is not None
    assert mixed.error_bound / 4 <= proof.real <= mixed.error_bound


@given(task_sets(st.sampled_from([2, 3, 5]), most_inputs=3), st.integers(1, 5))
@settings(max_examples=15)
def test_superpositions_of_random_small_tables_and_sums_are_certified(task_set: TaskSet, examples: int) -> None:
    layout = Layout(len(task_set.alphabet), task_set.inputs, examples)
    built = superpose([table_component(task, layout) for task in task_set.tasks], layout)
    proof = prove_superposition(built)
    assert proof.violations == ()
    assert proof.real is not None
    assert proof.real <= built.error_bound


def test_the_bound_holds_for_every_prompt_of_a_small_superposition(small: Construction) -> None:
    worst = exhaust(small)
    proof = prove_superposition(small)
    assert worst.prompts == 3**3 + 3**7
    assert proof.real is not None
    assert worst.error <= proof.real + allowance(small_components(), SMALL, 2.0**-53)


def test_with_a_low_sharpness_the_bound_is_near_the_truth() -> None:
    blunt = superpose(small_components(), SMALL, sharpness=3.5).construction(alphabet="abc")
    worst, proof = exhaust(blunt), prove_superposition(blunt)
    assert proof.real is not None
    assert worst.error <= proof.real <= 3 * worst.error
    assert blunt.error_bound is not None
    assert proof.real <= blunt.error_bound


def test_a_loaded_artifact_is_certified_as_well(small: Construction, tmp_path: Path) -> None:
    save(small, tmp_path / "small")
    assert prove_superposition(load(tmp_path / "small")).real == prove_superposition(small).real


def test_the_command_certifies_a_folder_in_real_arithmetic_and_refuses_altered_weights(
    construct: Command, small: Construction, tmp_path: Path
) -> None:
    save(small, tmp_path / "small")
    ran = construct("verify", tmp_path / "small", "--exhaustive", "--json")
    assert ran.status == 0, ran
    certificate = json.loads((tmp_path / "small" / "certificate.json").read_text())
    assert certificate["theorem"] == "superpose"
    assert certificate["error_bound"]["real"] == prove_superposition(small).real
    assert certificate["error_bound"]["float32"] is None
    assert "real arithmetic" in certificate["refusals"]["float32"]
    weight = small.stream["evidence"].start
    save(edited(small, {"layers.3.mlp.w_in": {(weight, 0): 2.0}}), tmp_path / "altered")
    ran = construct("verify", tmp_path / "altered")
    assert ran.status == 1, ran
    assert "REFUTED" in ran.out


def test_an_assumed_contract_is_not_proved_and_is_named(small: Construction) -> None:
    assumed = {"induction": Contract(0.25, 0.75)}
    proof = prove_superposition(small, assumed=assumed, limit=3)
    assert proof.assumptions == ("induction",)
    assert proof.real == prove_superposition(small).real
    with pytest.raises(TooLargeError, match="induction"):
        prove_superposition(small, limit=3)


def test_what_is_too_large_for_tables_is_certified_relative_to_its_derived_contract() -> None:
    layout = Layout(29, 11, 5)
    table = TableTask("last", (10,), {(token,): (token + 1) % 29 for token in range(29)})
    parts = [induction_component(layout), table_component(table, layout)]
    built = superpose(parts, layout)
    assert layout.alphabet_size**layout.inputs > 10**15
    with pytest.raises(TooLargeError):
        built.construction(alphabet=[f"t{token}" for token in range(29)])
    eta = induction_error(layout, 8.0)
    proof = prove_superposition(built, assumed={"induction": Contract(eta, 1 - eta)})
    assert proof.assumptions == ("induction",)
    assert proof.real is not None
    assert proof.real <= built.error_bound
    generator, allowed = np.random.default_rng(0), built.error_bound + allowance(parts, layout, 2.0**-53)
    for _ in range(3):
        prompt = random_prompt(parts, layout, 5, generator)
        assert error(plain_outputs(built, prompt), exact_outputs(parts, layout, prompt)) <= allowed


def test_a_contract_assumed_for_no_task_is_refused(small: Construction) -> None:
    with pytest.raises(InputError, match="'inducton', which is no task"):
        prove_superposition(small, assumed={"inducton": Contract(0.25, 0.75)})


def test_the_last_two_layers_stand_up_to_the_whole_contract_and_no_more(small: Construction) -> None:
    def bound(low: float, high: float) -> float | None:
        return prove_superposition(small, assumed={"induction": Contract(low, high), "first": Contract(low, high)}).real

    # Slope 4 and threshold 5/8 for levels 1/4 and 3/4: exact up to 3/8 and from 5/8, but for what the fetch moves.
    assert bound(0.374, 0.626) == bound(0.0, 1.0)
    beyond = bound(0.376, 0.75), bound(0.25, 0.624)
    assert all(error is not None and error > 1e-3 for error in beyond)
    assert bound(0.75, 0.25) is None


def test_no_wrong_mutant_is_certified(small: Construction) -> None:
    classifier = Classifier(small)
    certified, refused = 0, 0
    for mutant in islice(mutants(small, seed=7), 110):
        if not mutant.finite:
            continue
        proof: SuperpositionProof = prove_superposition(mutant.construction)
        judged = classifier.judge(mutant.construction, EPS)
        if proof.real is not None:
            # Larger errors than the bound refute it; 1e-12 covers the float64 of the exhaustive pass.
            assert judged.worst.error <= proof.real + 1e-12 + judged.worst.rounding, str(mutant)
        if proof.real is not None and proof.real <= EPS:
            assert not judged.harmful, str(mutant)
            certified += 1
        refused += judged.harmful
    # Most mutants are wrong, and most of the others are certified: the test has something to find on both sides.
    assert refused >= 50
    assert certified >= 20


def test_a_component_that_reads_anothers_block_is_refused(small: Construction) -> None:
    block, other = small.stream["component[induction]"], small.stream["component[first]"]
    tensor = "layers.0.attention.key"
    crossed = edited(small, {tensor: {(0, block.start, 0): 1e-6}})
    assert refusal(crossed) == "disjoint"
    crossed = edited(small, {"layers.0.mlp.w_in": {(block.start, 0): 1e-6}})
    assert refusal(crossed) == "disjoint"
    crossed = edited(small, {"layers.0.mlp.w_out": {(0, block.start): 1e-6}})
    assert refusal(crossed) == "disjoint"
    crossed = edited(small, {"layers.1.mlp.bias_out": {(small.stream["token"].start,): 1e-6}})
    assert refusal(crossed) == "disjoint"
    assert other.size > 0


def test_a_component_altered_in_its_own_block_loses_its_contract(small: Construction) -> None:
    query = small.weights.layers[0].attention.query.copy()
    query[0] *= np.float32(0.05)
    layers = list(small.weights.layers)
    layers[0] = replace(layers[0], attention=replace(layers[0].attention, query=query))
    altered = replace(small, weights=replace(small.weights, layers=tuple(layers)))
    assert refusal(altered) == "contract"


def test_a_fetch_from_anywhere_is_refused(small: Construction) -> None:
    layers = list(small.weights.layers)
    blunt = replace(layers[-2].attention, query=layers[-2].attention.query * np.float32(0.01))
    layers[-2] = replace(layers[-2], attention=blunt)
    assert refusal(replace(small, weights=replace(small.weights, layers=tuple(layers)))) == "contract"


def test_swapped_tasks_are_refused(small: Construction) -> None:
    task_set = small.task_set
    swapped = tuple(
        replace(task, name=other.name) for task, other in zip(task_set.tasks, task_set.tasks[::-1], strict=True)
    )
    assert refusal(replace(small, task_set=replace(task_set, tasks=swapped))) == "contract"


def test_what_is_no_superposition_is_refused() -> None:
    assert refusal(two_layer(tables(), examples=2)) == "shape"


def test_a_weight_that_is_no_number_is_refused(small: Construction) -> None:
    assert refusal(edited(small, {"layers.0.mlp.bias_in": {(0,): np.nan}})) == "finite weights"
