"""The seven-layer edition on vectors is proved as what it computes, and weights of other steps are refused."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from construct.seven_vectors import seven_layer_vectors, spread
from construct.transformer import MlpWeights
from construct.vector_suites import random_vector_tasks
from construct.vector_theorem import VectorConstruction, vectors
from tests.construct.vector_cases import built_case, constructions
from tests.verify.conftest import edited, with_unit
from verify.seven_vectors import gathered, prove_seven_vectors
from verify.vector_adversary import VectorSearcher
from verify.vector_theorem import prove_vectors


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(constructions())
def test_what_is_spread_over_seven_layers_is_certified_with_the_bounds_of_three(three: VectorConstruction) -> None:
    seven, proof = spread(three), prove_vectors(three)
    again = prove_seven_vectors(seven)
    assert again.real == pytest.approx(proof.real, rel=1e-9)
    assert again.rounded["float32"] == pytest.approx(proof.rounded["float32"], rel=1e-9)
    assert [lemma.name for lemma in again.lemmas[:2]] == ["budget", "steps"]
    if seven.error_bound is not None:
        assert again.real is not None
        assert again.real <= seven.error_bound


@pytest.mark.parametrize("comparison", ["fingerprint", "attention"])
def test_at_the_sizes_of_the_issue_it_is_certified_and_no_prompt_is_found_that_is_worse(comparison: str) -> None:
    task_set = random_vector_tasks("orthogonal", tasks=8, dim=32, inputs=8)
    built = seven_layer_vectors(task_set, examples=16, comparison=comparison)
    proof = prove_seven_vectors(built)
    assert proof.violations == ()
    assert proof.real is not None
    assert proof.real <= 1e-5
    single = proof.rounded["float32"]
    assert single is not None
    assert single <= 1e-4
    searcher = VectorSearcher(built.task_set, built.comparison, built.layout)
    assert searcher.search(built.weights, samples=30, dtype="float32").error <= single


def built() -> VectorConstruction:
    return spread(built_case("orthogonal", tasks=2, dim=3, inputs=2, examples=3))


def test_three_layers_merged_again_are_those_that_were_spread() -> None:
    three = built_case("general", tasks=3, dim=5, inputs=2, examples=7, width=2)
    again = gathered(spread(three))
    for one, other in zip(three.weights.layers, again.weights.layers, strict=True):
        assert np.array_equal(one.attention.query, other.attention.query)
        orders = []
        for mlp in (one.mlp, other.mlp):
            rows = np.concatenate([mlp.w_in.toarray().T, mlp.bias_in[:, None], mlp.w_out.toarray()], axis=1)
            orders.append(rows[np.lexsort(rows.T)])
        assert np.array_equal(*orders), "the same units, in some order"


def test_a_step_that_reads_or_writes_what_the_one_before_writes_is_refused() -> None:
    seven = built()
    start = {name: space.start for name, space in seven.stream.items()}
    late = {
        "layer 3 reads what layer 2 writes": with_unit(seven, 2, {start["excess"]: 1.0}, 0.0, {start["weight"]: 1.0}),
        "write to the same coordinate": with_unit(seven, 2, {start["role_y"]: 1.0}, 0.0, {start["excess"]: 1.0}),
        "layer 1 has units": with_unit(seven, 0, {start["role_y"]: 1.0}, 0.0, {start["excess"]: 1.0}),
    }
    for says, broken in late.items():
        proof = prove_seven_vectors(broken)
        assert proof.real is None
        assert says in proof.violations[0].got


def test_models_of_another_shape_are_refused() -> None:
    seven = built()
    three = gathered(seven)
    assert "3 layers" in prove_seven_vectors(three).violations[0].got
    order = list(seven.weights.layers)
    order[1], order[3] = order[3], order[1]
    moved = replace(seven, weights=replace(seven.weights, layers=tuple(order)))
    assert "has heads" in prove_seven_vectors(moved).violations[0].got


@pytest.mark.parametrize("layer", [1, 2, 4, 5])
def test_a_unit_that_writes_nothing_is_missed_in_any_layer_or_is_not_needed(layer: int) -> None:
    """Outputs of units set to 0, one after the other: most are refused, and the others are within their bound."""
    seven = built()
    assert seven.error_bound is not None
    mlp: MlpWeights = seven.weights.layers[layer].mlp
    searcher = VectorSearcher(seven.task_set, seven.comparison, seven.layout)
    rows, columns = mlp.w_out.tocoo().coords
    refused = 0
    for row, column in islice(zip(rows.tolist(), columns.tolist(), strict=True), 4):
        broken = edited(seven, {f"layers.{layer}.mlp.w_out": {(row, column): 0.0}})
        proof = prove_seven_vectors(broken)
        if proof.real is None or proof.real > seven.error_bound:
            refused += 1
        else:
            assert searcher.search(broken.weights, samples=40, dtype="float64").error <= proof.real + 2**-40
    assert refused > 0


def test_a_model_wider_than_the_budget_is_proved_but_not_within_it() -> None:
    task_set = random_vector_tasks("orthogonal", tasks=20, dim=20, inputs=1)
    proof = prove_seven_vectors(spread(vectors(task_set, examples=2)))
    assert [violation.lemma for violation in proof.violations] == ["budget"]
    assert proof.real is not None
