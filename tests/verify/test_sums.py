"""The lemmas on sums: arguments as functions of the sum, and what a leak does to them."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from construct.prompts import Example, Prompt
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from construct.transformer import forward
from tests.verify.conftest import edited, sum_and_table
from verify import theorem
from verify.attention import read_head_facts
from verify.boxes import box_of_rows, roles_of
from verify.facts import TaskFacts
from verify.linear import Layer
from verify.sums import affine_arguments, reachable_sums, sum_evidence
from verify.theorem import prove


@given(st.dictionaries(st.integers(0, 4), st.integers(-7, 7), min_size=1), st.integers(1, 3), st.integers(0, 3))
def test_the_sums_that_can_be_reached_are_those_of_all_choices(values: dict[int, int], count: int, row: int) -> None:
    task = SumTask("sum", tuple(range(count)), values, {row: 0})
    every = {sum(chosen) for chosen in itertools.product(values.values(), repeat=count)}
    assert reachable_sums(task).tolist() == sorted(every)


def first_layer(construction: Construction) -> Layer:
    roles = roles_of(construction.weights, construction.layout)
    first = construction.weights.layers[0]
    heads = [read_head_facts(roles, first.attention, head) for head in range(len(first.attention.query))]
    alone = {role: box_of_rows(roles.position[roles.positions(role)]) for role in ("x", "y")}
    states = {role: alone.get(role, roles.state(role)) for role in ("bos", "x", "eq", "y")}
    return Layer(first.mlp, roles, states, heads)


def sets() -> TaskSet:
    """A partial sum over two of three positions by a head of its own, a total one by shared heads."""
    own = SumTask("own", (0, 2), {0: -3, 2: 4, 3: 1}, {-6: 0, 1: 1, 8: 4, 5: 2})
    shared = SumTask("shared", (1,), {token: 2 * token for token in range(5)}, {0: 3, 4: 1, 8: 0})
    return TaskSet("sets", ("a", "b", "c", "d", "e"), 3, Format(), (own, shared, TableTask("t", (1,), {(4,): 2})))


@pytest.mark.parametrize("number", [0, 1])
def test_arguments_are_base_and_slope_times_the_sum_on_every_example(number: int) -> None:
    built = two_layer(sets(), examples=1, sharpness=30)  # a leak of 1e-25 is lost
    task = built.task_set.tasks[number]
    assert isinstance(task, SumTask)
    layer = first_layer(built)
    units = layer.writers(np.array([built.stream["evidence"].start + number]))
    form = affine_arguments(layer, "y", task, units)
    assert form.common
    assert form.radius.max() < 1e-9
    assert (form.undefined is not None) == (number == 0)
    mlp = built.weights.layers[0].mlp
    answer = 3
    for inputs in np.ndindex(5, 5, 5):
        state = forward(built.weights, built.layout.ids(Prompt((Example(inputs, answer),), (0, 0, 0)))).after_attention[
            0
        ]
        argument = (state[built.layout.answer_position(0)] @ mlp.w_in + mlp.bias_in)[units]
        argument = argument - layer.token_part(units)[answer]
        values = [task.values.get(inputs[position]) for position in task.positions]
        if None in values:
            assert form.undefined is not None
            assert (argument <= form.undefined + form.radius + 1e-9).all()
        else:
            expected = form.base + form.slope * sum(value for value in values if value is not None)
            assert argument == pytest.approx(expected, abs=1e-9)
            assert (np.abs(form.slope * sum(value for value in values if value is not None)) <= form.reach + 1e-9).all()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TaskFacts]]:
    """The facts of evidence of sums that a proof used."""
    found: list[TaskFacts] = []

    def evidence(*arguments: Any) -> TaskFacts:
        found.append(sum_evidence(*arguments))
        return found[-1]

    monkeypatch.setattr(theorem, "sum_evidence", evidence)
    return found


@pytest.mark.parametrize("sharpness", [2, 2.5, 3, 4, 6])
def test_evidence_is_within_its_facts_on_every_example(sharpness: float, seen: list[TaskFacts]) -> None:
    built = two_layer(sum_and_table(), examples=1, sharpness=sharpness)
    proof = prove(built)
    reads = next(lemma for lemma in proof.lemmas if lemma.name == "reads").figures
    leak = np.array([max(*one, *other) for one, other in zip(reads["leak_eq"], reads["leak_y"], strict=True)])
    (fact,) = seen
    assert not fact.always  # no sum that inputs reach is next to another
    for inputs in np.ndindex(3, 3):
        for answer in range(3):
            ids = built.layout.ids(Prompt((Example(inputs, answer),), (0, 0)))
            state = forward(built.weights, ids).after_mlp[0][built.layout.answer_position(0)]
            wanted = float(built.task_set.tasks[0].answer(inputs) == answer)
            off = abs(state[built.stream["evidence"].start] - wanted)
            assert off <= fact.error + fact.per_head @ leak + 1e-12


@pytest.mark.parametrize(("largest", "raised"), [(1, True), (2, False)])
def test_a_leak_raises_evidence_only_at_a_sum_beside_a_row(largest: int, raised: bool, seen: list[TaskFacts]) -> None:
    task = SumTask("sum", (0, 1), {0: 0, 1: largest}, {0: 2})
    prove(two_layer(TaskSet("one sum", ("a", "b", "c"), 2, Format(), (task,)), examples=1))
    assert [fact.always for fact in seen] == [raised]


def test_a_sum_as_built_is_exact_without_leak(seen: list[TaskFacts]) -> None:
    proof = prove(two_layer(sets(), examples=3))
    assert proof.violations == ()
    assert [fact.error for fact in seen] == [0, 0]


def test_a_hinge_that_is_wrong_is_an_error_at_a_sum_that_is_named(seen: list[TaskFacts]) -> None:
    built = two_layer(sum_and_table(), examples=1)
    at = built.stream["evidence"].start
    unit = int(np.flatnonzero(built.weights.layers[0].mlp.w_out.toarray()[:, at] == -2)[0])
    proof = prove(edited(built, {"layers.0.mlp.w_out": {(unit, at): -1.5}}))
    violation = proof.violations[0]
    assert violation.lemma == "evidence at y"
    assert "'sum', sum " in violation.where
    assert seen[0].error >= 0.5
    assert proof.real is not None
    assert proof.real >= 0.5


def test_a_token_without_a_value_that_counts_is_an_error(seen: list[TaskFacts]) -> None:
    built = two_layer(sum_and_table(), examples=1)
    row = built.stream["undefined[0]"].start
    w_in = built.weights.layers[0].mlp.w_in.toarray()
    units = np.flatnonzero(w_in[row])
    assert len(units) > 0
    proof = prove(edited(built, {"layers.0.mlp.w_in": {(row, int(unit)): 0.0 for unit in units}}))
    assert any("a token without a value" in violation.where for violation in proof.violations)
    assert seen[0].error >= 1


def test_a_code_that_is_wrong_is_an_error_of_the_answer() -> None:
    built = two_layer(sum_and_table(), examples=1)
    code = built.stream["sum_code[0]"]
    bias = built.weights.layers[0].mlp.bias_out[code.start]
    proof = prove(edited(built, {"layers.0.mlp.bias_out": {(code.start,): -float(bias)}}))
    assert proof.violations[0].lemma == "answer at eq"
    assert "'sum'" in proof.violations[0].where
    assert proof.real is None or proof.real >= 1


def test_code_units_that_read_the_sum_differently_are_not_provable() -> None:
    built = two_layer(sum_and_table(), examples=1)
    row, code = built.stream["sum[0]"].start, built.stream["sum_code[0]"]
    w_out = built.weights.layers[0].mlp.w_out.toarray()
    unit = int(np.flatnonzero(w_out[:, code.start : code.stop].any(axis=1))[0])
    proof = prove(edited(built, {"layers.0.mlp.w_in": {(row, unit): 2.0}}))
    assert proof.real is None
    assert proof.violations[0].lemma == "not provable"
    assert "'sum'" in proof.violations[0].got
    assert "do not read it alike" in proof.violations[0].got
    assert proof.rounded == {}


@pytest.mark.parametrize(
    ("rows", "refuted"), [({99: 1}, False), ({0: 1, 99: 1}, True)], ids=["out of reach", "within reach"]
)
def test_a_sum_without_units_is_right_if_no_row_can_be_reached(rows: dict[int, int], refuted: bool) -> None:
    values = {0: -1, 2: 1}
    task_set = TaskSet(
        "far", ("a", "b", "c"), 2, Format(), (SumTask("sum", (0, 1), values, {99: 1}), sum_and_table().tasks[1])
    )
    built = two_layer(task_set, examples=1)
    told = TaskSet("told", task_set.alphabet, 2, Format(), (SumTask("sum", (0, 1), values, rows), task_set.tasks[1]))
    proof = prove(replace(built, task_set=told))
    assert (proof.real is None) == refuted
    assert bool(proof.violations) == refuted
