"""Seven layers on vectors: one step each, the same answers as three layers give, within the budget."""

import math

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from construct.errors import TaskError
from construct.seven_vectors import SEVEN_VECTORS, VECTOR_STEPS, seven_layer_vectors, spread, vector_budget
from construct.vector_model import forward_vectors
from construct.vector_oracle import vector_answer
from construct.vector_suites import random_vector_tasks
from construct.vector_theorem import vectors
from tests.construct.vector_cases import VectorCase, built_case, vector_cases

HEADS, UNITS = (0, 3, 6), (1, 2, 4, 5)


@settings(max_examples=40)
@given(vector_cases())
def test_seven_layers_answer_as_three_do_and_within_the_bound(case: VectorCase) -> None:
    three, seven = case.construction, spread(case.construction)
    rows = three.layout.vectors(case.prompt)
    at = three.layout.eq_position(len(case.prompt.answers))
    before, after = (forward_vectors(built.weights, rows) for built in (three, seven))
    scale = 1 + np.abs(before.after_mlp[-1]).max()
    assert np.abs(before.after_mlp[-1] - after.after_mlp[-1]).max() <= 2**-40 * scale, "the same sums in other orders"
    answer = vector_answer(three.task_set, three.comparison, case.prompt)
    if three.error_bound is not None and not answer.outside:
        assert np.abs(after.output[at] - answer.target).max() <= three.error_bound + 2**-40 * scale


@given(
    st.integers(1, 7), st.integers(1, 9), st.integers(1, 5), st.integers(1, 40), st.sampled_from([1, 2, 8, 11, None])
)
@settings(max_examples=40)
def test_any_sizes_with_fingerprints_of_at_most_11_are_within_the_budget(
    tasks: int, dim: int, inputs: int, examples: int, width: int | None
) -> None:
    task_set = random_vector_tasks("general", tasks=tasks, dim=dim, inputs=inputs)
    try:
        built = seven_layer_vectors(task_set, examples=examples, width=None if width is None else min(width, dim))
    except TaskError:
        reject()  # tasks that no example tells apart
    assert len(built.weights.layers) == 7
    assert max(built.weights.heads) <= tasks
    width_allowed = 24 * (max(dim, tasks) + math.log2(examples * inputs))
    assert built.weights.d_model <= width_allowed
    assert vector_budget(task_set, built.layout).width == width_allowed


@pytest.mark.parametrize("comparison", ["fingerprint", "attention"])
def test_each_layer_is_one_step(comparison: str) -> None:
    task_set = random_vector_tasks("orthogonal", tasks=3, dim=5, inputs=2)
    built = seven_layer_vectors(task_set, examples=7, comparison=comparison)
    assert built.theorem == SEVEN_VECTORS
    assert [step for step, _ in VECTOR_STEPS] == ["read", "compare", "forget", "tally", "agree", "count", "superpose"]
    assert [at for at, heads in enumerate(built.weights.heads) if heads] == list(HEADS)
    assert [at for at, width in enumerate(built.weights.mlp_width) if width] == list(UNITS)
    three = vectors(task_set, examples=7, comparison=comparison)
    assert sum(built.weights.mlp_width) == sum(three.weights.mlp_width)
    assert built.error_bound == three.error_bound
    # The list of circuits says in which layer each is, and counts what is there.
    for layer in range(7):
        units = sum(c.units for c in built.circuits if (c.layer, c.kind) == (layer + 1, "mlp"))
        assert units == built.weights.mlp_width[layer]
        assert sum((c.layer, c.kind) == (layer + 1, "attention") for c in built.circuits) == built.weights.heads[layer]
    written = [{name for c in built.circuits if c.layer == layer for name in c.writes} for layer in range(1, 8)]
    assert written[1:6] == [{"excess"}, {"vector"}, {"share"}, {"agreement"}, {"log_count"}]


def test_the_answers_are_forgotten_in_the_third_layer_and_not_before() -> None:
    built = spread(built_case("rotation", tasks=2, dim=3, inputs=2, examples=4))
    layout, given = built.layout, np.array([0.5, -0.25, 0.125], dtype=np.float32)
    y = layout.eq_position(0) + 1
    rows = np.zeros((y + 1, 3), dtype=np.float32)
    rows[y] = given
    trace = forward_vectors(built.weights, rows)
    vector = built.stream["vector"].coordinates
    assert np.abs(trace.after_mlp[1][y][vector] - given).max() < 1e-6
    assert np.abs(trace.after_mlp[2][y][vector]).max() < 1e-6


def test_fingerprints_too_wide_for_the_budget_are_refused() -> None:
    task_set = random_vector_tasks("orthogonal", tasks=20, dim=20, inputs=1)
    with pytest.raises(TaskError, match="at most 11"):
        seven_layer_vectors(task_set, examples=2, width=20)
