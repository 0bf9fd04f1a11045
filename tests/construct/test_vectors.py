"""The construction on vectors: the plain model against the exact oracle, within the closed-form bound."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.errors import InputError, TaskError
from construct.vector_bounds import real_bounds
from construct.vector_comparison import ATTENTION, FINGERPRINT
from construct.vector_model import forward_vectors
from construct.vector_oracle import example_distances, vector_answer
from construct.vector_pool import draw_pool
from construct.vector_prediction import VectorPredictor
from construct.vector_prompts import VectorPrompt
from construct.vector_suites import KINDS, random_vector_tasks
from construct.vector_tasks import AffineTask, VectorTaskSet
from construct.vector_theorem import VectorConstruction, vectors
from tests.construct.vector_cases import SIZES, VectorCase, built_case, random_prompt, vector_cases


def rounding(construction: VectorConstruction) -> float:
    """What float64 itself may lose, far below any bound: 2^-40 of what a task's answer can be, a task."""
    return 2.0**-40 * len(construction.task_set.tasks) * construction.task_set.answer_bound


def errors(construction: VectorConstruction, prompt: VectorPrompt) -> tuple[float, float]:
    """How far vector and weights are off at the last EQ, in float64."""
    trace = forward_vectors(construction.weights, construction.layout.vectors(prompt))
    answer = vector_answer(construction.task_set, construction.comparison, prompt)
    assert not answer.outside
    weights = trace.after_mlp[-1][-1, construction.stream["weight"].coordinates]
    exact = np.array([float(share) for share in answer.evidence])
    return float(np.abs(trace.output[-1] - answer.target).max()), float(np.abs(weights - exact).max())


@settings(max_examples=40)
@given(vector_cases())
def test_every_prompt_is_answered_within_the_bound(case: VectorCase) -> None:
    construction = case.construction
    bounds = real_bounds(construction.task_set, construction.comparison, construction.layout, construction.sharpness)
    assert bounds is not None
    assert construction.error_bound == bounds[0] <= 1e-3
    vector, weight = errors(construction, case.prompt)
    assert vector <= bounds[0] + rounding(construction)
    assert weight <= bounds[1] + rounding(construction)


@settings(max_examples=15)
@given(vector_cases())
def test_one_pass_answers_at_every_eq_as_the_prompts_that_end_there(case: VectorCase) -> None:
    construction, prompt = case.construction, case.prompt
    trace = forward_vectors(construction.weights, construction.layout.vectors(prompt))
    for count in range(len(prompt.answers) + 1):
        answer = vector_answer(construction.task_set, construction.comparison, prompt.head(count))
        output = trace.output[construction.layout.eq_position(count)]
        assert np.abs(output - answer.target).max() <= (construction.error_bound or 0) + rounding(construction)


def test_no_example_and_no_task_that_explains_give_zero() -> None:
    construction = built_case(tasks=2, dim=3, inputs=1, examples=5)
    prompt = random_prompt(construction, 0, 1)
    assert errors(construction, prompt)[0] <= (construction.error_bound or 0)
    assert not vector_answer(construction.task_set, construction.comparison, prompt).target.any()
    far = np.zeros((4, 3), dtype=np.float32)
    inputs = np.tile(np.eye(3, dtype=np.float32)[:1], (4, 1, 1))
    asked = VectorPrompt(inputs, far, inputs[0])
    assert not any(vector_answer(construction.task_set, construction.comparison, asked).evidence)
    trace = forward_vectors(construction.weights, construction.layout.vectors(asked))
    assert np.abs(trace.output[-1]).max() <= (construction.error_bound or 0)


@pytest.mark.parametrize("comparison", [FINGERPRINT, ATTENTION])
@pytest.mark.parametrize("beyond", [False, True])
def test_the_margin_is_where_it_is_said_to_be(comparison: str, beyond: bool) -> None:
    """Just within the tolerance an example counts whole, just beyond the margin not at all."""
    construction = built_case(tasks=1, dim=3, inputs=2, examples=3, comparison=comparison)
    distance = construction.comparison
    x = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]], dtype=np.float32)
    exact = construction.task_set.tasks[0].answer(x.astype(np.float64))
    size = distance.margin * (1 + 2.0**-14) if beyond else distance.tolerance * (1 - 2.0**-14)
    if comparison == ATTENTION:
        aside = np.cross(exact, [0.0, 0.0, 1.0])
        aside /= np.linalg.norm(aside)
        cosine = 1 - size**2 / 2
        moved = cosine * exact + np.sqrt(1 - cosine**2) * aside
    else:
        moved = exact + size * np.array([0.0, 0.0, -1.0])
    answers = np.array([exact, moved, exact], dtype=np.float32)
    prompt = VectorPrompt(np.repeat(x[None], 3, axis=0), answers, x)
    answer = vector_answer(construction.task_set, distance, prompt)
    assert not answer.outside
    assert float(answer.evidence[0]) == pytest.approx(2 / 3 if beyond else 1)
    assert errors(construction, prompt)[0] <= (construction.error_bound or 0)


def test_between_tolerance_and_margin_nothing_is_claimed_and_a_prompt_is_found_that_is_wrong() -> None:
    """The doubtful zone is no figure of speech: inside it a weight is neither 0 nor 1."""
    construction = built_case(tasks=1, dim=3, inputs=1, examples=2)
    x = np.array([[1.0, 0.0, 0.0]], dtype=np.float32)
    exact = construction.task_set.tasks[0].answer(x.astype(np.float64))
    inside, outside, found = construction.comparison.tolerance, construction.comparison.margin, []
    for _ in range(20):
        size = (inside + outside) / 2
        answers = np.array([exact + np.array([size, 0.0, 0.0])], dtype=np.float32)
        prompt = VectorPrompt(x[None], answers, x)
        assert vector_answer(construction.task_set, construction.comparison, prompt).outside == ((0, 0),)
        trace = forward_vectors(construction.weights, construction.layout.vectors(prompt))
        found.append(trace.after_mlp[-1][-1, construction.stream["weight"].start])
        inside, outside = (size, outside) if found[-1] > 0.5 else (inside, size)
    assert max(min(abs(weight), abs(weight - 1)) for weight in found) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_three_layers_with_the_stated_heads_and_widths(kind: str) -> None:
    tasks, dim, inputs, examples, width = 4, 7, 3, 11, 2
    construction = built_case(kind, tasks=tasks, dim=dim, inputs=inputs, examples=examples, width=width)
    weights = construction.weights
    assert weights.heads == [inputs, tasks, tasks]
    assert weights.mlp_width == [2 * tasks * width + 2 * dim, tasks * (examples + 1), 0]
    assert weights.d_model == dim + 4 + 2 * 4 + 2 + tasks * (width + 5)


def test_comparison_by_attention_stores_one_number_a_task() -> None:
    construction = built_case("rotation", tasks=3, dim=7, inputs=2, examples=5, comparison=ATTENTION)
    assert construction.weights.heads == [3, 3, 3]
    assert construction.weights.d_model == 7 + 4 + 2 * 3 + 1 + 3 * (1 + 5)
    assert construction.weights.mlp_width == [3 + 2 * 7, 3 * 6, 0]


@settings(max_examples=20)
@given(st.sampled_from(list(KINDS)), st.sampled_from(SIZES), st.integers(0, 99))
def test_random_tasks_are_what_they_are_called_and_the_same_for_the_same_seed(kind: str, dim: int, seed: int) -> None:
    made = random_vector_tasks(kind, tasks=3, dim=dim, inputs=2, seed=seed)
    assert made == random_vector_tasks(kind, tasks=3, dim=dim, inputs=2, seed=seed)
    assert [task.position for task in made.tasks] == [0, 1, 0]
    for task in made.tasks:
        wide = task.matrix.astype(np.float64)
        if kind != "general":
            assert np.abs(wide @ wide.T - np.eye(dim)).max() < 2.0**-20
        if kind == "permutation":
            assert set(task.matrix.ravel().tolist()) <= {0.0, 1.0}
        if kind == "rotation":
            assert np.linalg.det(wide) == pytest.approx(1)


def test_a_pool_holds_examples_at_both_edges_of_the_domain() -> None:
    for comparison in (FINGERPRINT, ATTENTION):
        construction = built_case(tasks=3, dim=5, inputs=2, comparison=comparison)
        distance = construction.comparison
        pool = draw_pool(construction.task_set, distance, np.random.default_rng(3))
        prompt = pool.prompt(np.arange(len(pool.meant)), pool.inputs[0])
        found = example_distances(construction.task_set, distance, prompt)
        assert ((found <= distance.tolerance) == pool.follows).all()
        assert ((found <= distance.tolerance) | (found >= distance.margin)).all()
        assert (np.abs(found / distance.tolerance - 1) < 0.01).any()
        assert (np.abs(found / distance.margin - 1) < 0.01).any()
        assert set(pool.meant) == {0, 1, 2, 3}


def test_fingerprints_of_one_coordinate_do_not_see_the_rest() -> None:
    """The distance is that of the fingerprints: an answer that differs only where F is blind follows the task."""
    construction = built_case(tasks=1, dim=5, inputs=1, examples=1, width=1)
    row = construction.comparison.rows[0].astype(np.float64)
    unseen = np.linalg.svd(row[None])[2][1] * 0.5
    x = np.eye(5, dtype=np.float32)[:1]
    exact = construction.task_set.tasks[0].answer(x.astype(np.float64))
    prompt = VectorPrompt(x[None], (exact + unseen).astype(np.float32)[None], x)
    assert vector_answer(construction.task_set, construction.comparison, prompt).evidence == (1,)
    assert errors(construction, prompt)[0] <= (construction.error_bound or 0)


TASKS = random_vector_tasks("orthogonal", tasks=2, dim=3, inputs=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"examples": 0}, "examples is 0"),
        ({"examples": 2**14 + 1}, "examples is 16385"),
        ({"examples": 3, "delta": 0.0}, "margin is 0"),
        ({"examples": 3, "delta": float("nan")}, "margin is nan"),
        ({"examples": 3, "delta": 5.0}, "margin is 5"),
        ({"examples": 3, "width": 0}, "width is 0"),
        ({"examples": 3, "width": 4}, "width is 4"),
        ({"examples": 3, "comparison": "taste"}, "comparison is 'taste'"),
        ({"examples": 3, "comparison": ATTENTION, "width": 2}, "width 2 does not go"),
        ({"examples": 3, "comparison": ATTENTION, "delta": 1.5}, "margin of at most 1"),
        ({"examples": 3, "error": 0.0}, "error wanted is 0"),
        ({"examples": 3, "error": 1e-12}, "no sharpness reaches the error 1e-12"),
        ({"examples": 3, "sharpness": -1.0}, "sharpness"),
        ({"examples": 3, "sharpness": float("nan")}, "sharpness"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        vectors(TASKS, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offset": np.ones(3, dtype=np.float32)}, "takes no offset"),
        ({"matrix": np.eye(3, dtype=np.float32) * 2}, "takes orthogonal matrices"),
    ],
)
def test_comparison_by_attention_is_refused_where_it_would_be_wrong(change: dict[str, object], words: str) -> None:
    tasks = replace(TASKS, tasks=(TASKS.tasks[0], replace(TASKS.tasks[1], **change)))
    with pytest.raises(TaskError, match=words):
        vectors(tasks, examples=3, comparison=ATTENTION)
    with pytest.raises(TaskError, match=r"cannot tell distances of 0\.0005"):
        vectors(replace(TASKS, margin=0.0005), examples=3, comparison=ATTENTION)
    with pytest.raises(TaskError, match="the bound is 2"):
        vectors(replace(TASKS, bound=2.0), examples=3, comparison=ATTENTION)


def test_tasks_that_no_example_tells_apart_are_refused_and_equal_ones_are_not() -> None:
    first = TASKS.tasks[0]
    near = AffineTask("near", 0, first.matrix, np.full(3, 0.1, dtype=np.float32))
    with pytest.raises(
        TaskError, match=r"'orthogonal-0' and 'near' are nowhere more than 0\.1 apart, below the margin"
    ):
        vectors(replace(TASKS, tasks=(first, near)), examples=3)
    vectors(replace(TASKS, tasks=(first, near)), examples=3, delta=0.0625)
    twin = AffineTask("twin", 0, first.matrix, first.offset)
    twins = vectors(replace(TASKS, tasks=(first, twin)), examples=3)
    prompt = random_prompt(twins, 3, 2)
    assert errors(twins, prompt)[0] <= (twins.error_bound or 0)
    turned = AffineTask("turned", 0, (first.matrix * np.float32(1 + 2.0**-20)).astype(np.float32), first.offset)
    with pytest.raises(TaskError, match="nowhere more than"):
        vectors(replace(TASKS, tasks=(first, turned)), examples=3, comparison=ATTENTION)


@pytest.mark.parametrize(
    ("position", "matrix", "offset", "words"),
    [
        (2, np.eye(3), np.zeros(3), "reads input 2"),
        (-1, np.eye(3), np.zeros(3), "reads input -1"),
        (0, np.eye(4), np.zeros(3), r"matrix of shape \(4, 4\)"),
        (0, np.ones((3, 2)), np.zeros(3), r"matrix of shape \(3, 2\)"),
        (0, np.full((3, 3), np.nan), np.zeros(3), "not finite"),
        (0, np.full((3, 3), np.inf), np.zeros(3), "not finite"),
        (0, np.eye(3), np.array([0, np.nan, 0]), "not finite"),
        (0, np.full((3, 3), 1e-40), np.zeros(3), "denormal"),
        (0, np.full((3, 3), 1e6), np.zeros(3), "scale them down"),
    ],
)
def test_tasks_that_are_none_are_refused_in_words(
    position: int, matrix: np.ndarray, offset: np.ndarray, words: str
) -> None:
    with pytest.raises(TaskError, match=words):
        VectorTaskSet("bad", 2, (AffineTask("bad", position, matrix.astype(np.float32), offset.astype(np.float32)),))


@settings(max_examples=10)
@given(vector_cases())
def test_the_torch_model_answers_as_the_plain_one(case: VectorCase) -> None:
    construction = case.construction
    prediction = VectorPredictor(construction, dtype="float64").predict(case.prompt)
    plain = forward_vectors(construction.weights, construction.layout.vectors(case.prompt)).output[-1]
    assert np.abs(prediction.vector - plain).max() <= rounding(construction)
