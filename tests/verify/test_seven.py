"""The seven-layer theorem on the weights: it holds for all that is built, and is near the truth."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, reject, settings
from hypothesis import strategies as st

from construct.errors import TaskError
from construct.seven_layer import seven_layer
from construct.suites import SUITES, build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from tests.construct.strategies import task_sets
from tests.verify.conftest import pair_and_table, sum_and_table, tables
from verify.certify import judge
from verify.exhaustive import exhaust
from verify.seven_theorem import prove_seven

TERMS = 64
"""No sum in the small models of this file has more terms: float64 is off by at most TERMS * Worst.rounding."""


def made(task_set: TaskSet, examples: int, error: float = 1e-6) -> Construction:
    """The construction; tasks that need more reads than two layers of K heads have are drawn again."""
    try:
        return seven_layer(task_set, examples=examples, error=error)
    except TaskError:
        reject()


def issue() -> Construction:
    return seven_layer(build_suite("retrieval", tasks=8, alphabet_size=32, inputs=8), examples=16)


SMALL: dict[str, tuple[TaskSet, int]] = {
    "two tables": (tables(), 2),
    "two tables of two inputs": (build_suite("lookup", tasks=2, alphabet_size=3, inputs=2, seed=0), 2),
    "a pair and a table": (pair_and_table(), 2),
    "a sum and a table": (sum_and_table(), 2),
    "a sum alone": (
        TaskSet("sum", ("a", "b", "c"), 2, Format(), (SumTask("s", (0, 1), {0: 0, 1: 1}, {0: 2, 1: 0}),)),
        2,
    ),
    "one token": (TaskSet("V=1", ("a",), 1, Format(), (TableTask("t", (0,), {(0,): 0}),)), 3),
    "one row": (TaskSet("V=2", ("a", "b"), 2, Format(), (TableTask("t", (1,), {(1,): 0}),)), 3),
    "four tables": (build_suite("lookup", tasks=4, alphabet_size=2, inputs=2), 3),
    "the same task twice": (
        TaskSet("twice", ("a", "b"), 1, Format(), tuple(TableTask(f"t{i}", (0,), {(0,): 1}) for i in range(2))),
        4,
    ),
}


# Whatever is built is certified.


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(task_sets(), st.integers(1, 9))
def test_all_that_is_built_is_certified_within_the_closed_form(task_set: TaskSet, examples: int) -> None:
    construction = made(task_set, examples)
    proof = prove_seven(construction)
    assert proof.violations == ()
    assert proof.real is not None
    assert construction.error_bound is not None
    assert 0 <= proof.real <= construction.error_bound
    assert all(lemma.holds for lemma in proof.lemmas)
    read = next(lemma for lemma in proof.lemmas if lemma.name == "read").figures["targets"]
    odd = any(len(targets) & (len(targets) - 1) for targets in read)
    event(f"a set that is no power of two: {odd}")
    assert (proof.rounded["float32"] is None) == odd
    if odd:
        assert "no power of two" in proof.refusals["float32"]


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(task_sets(), st.integers(1, 5), st.sampled_from([0.3, 1e-2, 1e-4, 1e-9, 1e-13]))
def test_any_error_wanted_is_proved(task_set: TaskSet, examples: int, error: float) -> None:
    proof = prove_seven(made(task_set, examples, error))
    assert proof.violations == ()
    assert proof.real is not None
    assert proof.real <= error


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_is_certified(suite: str) -> None:
    construction = seven_layer(build_suite(suite), examples=3)
    proof = prove_seven(construction)
    assert proof.violations == ()
    assert proof.real is not None
    assert construction.error_bound is not None
    assert proof.real <= construction.error_bound


def test_the_model_of_the_issue_is_certified_at_1e_5_in_real_arithmetic_and_in_float32() -> None:
    proof = prove_seven(issue())
    assert proof.real is not None
    assert proof.real <= 1e-5
    float32 = proof.rounded["float32"]
    assert float32 is not None
    assert float32 <= 1e-5
    assert proof.refusals == {}


# The bound is above the truth, and near it.


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("sharpness", [6.0, 4.5])
def test_the_bound_is_above_every_prompt_of_a_small_model_and_at_most_3_times_the_worst(
    name: str, sharpness: float
) -> None:
    task_set, examples = SMALL[name]
    construction = seven_layer(task_set, examples=examples, sharpness=sharpness)
    proof, truth = prove_seven(construction), exhaust(construction)
    assert proof.real is not None
    assert truth.error <= proof.real + TERMS * truth.rounding
    assert proof.real <= 3.01 * truth.error
    for shown, error in enumerate(truth.by_examples):
        bounds = proof.lemmas[-1].figures["bounds"]
        assert error <= bounds[shown] + TERMS * truth.rounding


@pytest.mark.parametrize("name", ["two tables of two inputs", "a pair and a table", "one row", "four tables"])
def test_on_tables_of_two_inputs_the_bound_is_the_worst_prompt(name: str) -> None:
    task_set, examples = SMALL[name]
    construction = seven_layer(task_set, examples=examples, sharpness=6.0)
    assert prove_seven(construction).real == pytest.approx(exhaust(construction).error, rel=0.002)


# Other models.


def test_models_of_another_shape_are_refused() -> None:
    built = seven_layer(tables(), examples=2)
    fewer = replace(built, weights=replace(built.weights, layers=built.weights.layers[:6]))
    exchanged = list(built.weights.layers)
    exchanged[3], exchanged[4] = exchanged[4], exchanged[3]
    moved = replace(built, weights=replace(built.weights, layers=tuple(exchanged)))
    for construction in (fewer, moved, replace(two_layer(tables(), examples=2), theorem="seven-layer")):
        proof = prove_seven(construction)
        assert proof.real is None
        assert [violation.lemma for violation in proof.violations] == ["shape"]


def test_other_tasks_than_those_of_the_weights_are_not_proved() -> None:
    built = seven_layer(tables(), examples=2)
    first, second = built.task_set.tasks
    other = replace(built, task_set=replace(built.task_set, tasks=(second, first)))
    changed = replace(first, rows={**first.rows, (0,): 2})
    for construction in (other, replace(built, task_set=replace(built.task_set, tasks=(changed, second)))):
        verdict = judge(construction, "")
        assert not verdict.certified
        assert verdict.proof.violations


def test_one_head_more_than_there_are_tasks_breaks_the_budget() -> None:
    """A head that writes nothing changes no answer: only the statement's budget is broken."""
    built = seven_layer(tables(), examples=2)
    layer = built.weights.layers[4]
    attention = replace(
        layer.attention,
        **{
            name: np.concatenate([getattr(layer.attention, name)] * 3) * np.float32([1, 0, 0])[:, None, None]
            for name in ("query", "key", "value", "output")
        },
    )
    layers = (*built.weights.layers[:4], replace(layer, attention=attention), *built.weights.layers[5:])
    construction = replace(built, weights=replace(built.weights, layers=layers))
    proof = prove_seven(construction)
    assert [violation.lemma for violation in proof.violations] == ["budget"]
    assert exhaust(construction).error <= built.error_bound  # type: ignore[operator]  # there is one


def test_the_certificate_states_each_step() -> None:
    body = json.loads(json.dumps(judge(issue(), "0" * 64).to_json()))
    steps = ["budget", "read", "predict", "credit", "average", "gate", "superpose", "superposition"]
    assert [lemma["name"] for lemma in body["lemmas"]] == steps
    assert all(lemma["holds"] for lemma in body["lemmas"])
    assert body["certified"] is True
    assert body["theorem"] == "seven-layer"
