"""The bound of the seven layers as executed in three formats: above what is run, or a reason why there is none."""

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from construct.constructions import KINDS
from construct.seven_layer import seven_layer
from construct.tasks import Format, SumTask, TaskSet
from tests.construct.strategies import task_sets
from tests.verify.conftest import tables
from tests.verify.test_seven import SMALL, made
from verify.adversary import search
from verify.seven_theorem import prove_seven


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["two tables of two inputs", "a sum and a table", "a pair and a table", "four tables"])
def test_no_prompt_that_a_search_finds_is_worse_than_the_bound_as_executed(name: str, dtype: str) -> None:
    task_set, _ = SMALL[name]
    construction = seven_layer(task_set, examples=7)
    bound = prove_seven(construction).rounded[dtype]
    assert bound is not None
    worst = search(construction, samples=150, dtype=dtype)
    assert worst.error <= bound
    assert worst.error > 0, "sevenths round"


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(task_sets(), st.integers(1, 9), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_random_models_are_within_the_bound_as_executed(task_set: TaskSet, examples: int, dtype: str) -> None:
    construction = made(task_set, examples)
    bound = prove_seven(construction).rounded[dtype]
    event(f"{dtype}: {'a bound' if bound is not None else 'no claim'}")
    if bound is not None:
        assert search(construction, samples=16, dtype=dtype).error <= bound


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(task_sets(), st.integers(1, 9), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_where_the_builder_states_a_bound_in_a_format_the_prover_proves_one_below_it(
    task_set: TaskSet, examples: int, dtype: str
) -> None:
    construction = made(task_set, examples)
    stated, proof = KINDS["seven-layer"].rounding(construction, dtype), prove_seven(construction)
    event(f"{dtype}: {'a bound' if stated is not None else 'no claim'}")
    if stated is not None:
        bound = proof.rounded[dtype]
        assert bound is not None, proof.refusals
        assert bound <= 2 * stated


def test_a_sum_over_three_positions_by_one_head_is_refused_in_float32_with_its_reason() -> None:
    total = SumTask("sum", (0, 1, 2), {0: 0, 1: 2}, {2: 1, 4: 0})
    proof = prove_seven(seven_layer(TaskSet("three", ("a", "b"), 3, Format(), (total,)), examples=2))
    assert proof.real is not None
    assert proof.rounded == dict.fromkeys(("float32", "bfloat16", "float16"))
    assert "no power of two" in proof.refusals["float32"]


def test_a_sharpness_at_which_leaks_are_not_lost_has_no_claim_in_float32() -> None:
    proof = prove_seven(seven_layer(tables(), examples=2, sharpness=6.0))
    assert proof.real is not None
    assert "raise the sharpness" in proof.refusals["float32"]
