"""Examples of every kind that is in the domain of a construction on vectors, the extreme ones among them.

A prompt made of them is in the domain whatever their order, so that a search can exchange one for another. Inputs are
as long as they may be, or shorter, in random directions or along a row of a task's matrix; an answer is a task's own,
moved to just within the tolerance or just beyond the margin, or one that follows no task.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.errors import InputError
from construct.residual_stream import Array
from construct.vector_comparison import ATTENTION, Comparison
from construct.vector_prompts import VectorPrompt
from construct.vector_tasks import VectorTaskSet

Float = NDArray[np.float64]

EACH = 24
"""Examples drawn for each task, and as many that are meant to follow none."""

DRAWS = 40
"""How often examples are drawn before the tasks are called too near each other."""

INSIDE, OUTSIDE = 1 - 2.0**-12, 1 + 2.0**-12
"""How near the edges of the domain answers are moved: the rounding of a vector to float32 must not pass them."""


@dataclass(frozen=True, eq=False)
class ExamplePool:
    """P examples, and what the tasks make of them.

    Args:
        inputs: shape [P, n, d].
        answers: shape [P, d].
        meant: the task that an example was drawn for, K for none, shape [P].
        follows: which tasks it follows, shape [P, K].
        values: the tasks' answers to its inputs, shape [P, K, d].
    """

    inputs: Array
    answers: Array
    meant: NDArray[np.int_]
    follows: NDArray[np.bool_]
    values: Float

    def prompt(self, chosen: NDArray[np.int_], query: Array) -> VectorPrompt:
        """The prompt of the chosen examples."""
        return VectorPrompt(self.inputs[chosen], self.answers[chosen], query)


def draw_pool(
    task_set: VectorTaskSet, comparison: Comparison, generator: np.random.Generator, *, each: int = EACH
) -> ExamplePool:
    """Draw examples until there are some for each task; those out of the domain are left out.

    Raises:
        InputError: for some task none was found: the tasks are too near each other for the margin.
    """
    count = len(task_set.tasks)
    parts: list[tuple[Array, Array, NDArray[np.int_]]] = []
    found = np.zeros(count + 1, dtype=np.int_)
    for _ in range(DRAWS):
        meant = np.repeat(np.arange(count + 1), each)
        inputs = _inputs(task_set, comparison, generator, len(meant))
        given = task_values(task_set, inputs)
        # What follows none is near the answer of some task, too.
        near = np.where(meant == count, generator.integers(count, size=len(meant)), meant)
        exact = given[np.arange(len(meant)), near]
        answers = _answers(task_set, comparison, generator, exact, meant == count)
        distances = comparison.distance(answers.astype(np.float64)[:, None] - given)
        clear = ((distances <= comparison.tolerance) | (distances >= comparison.margin)).all(axis=1)
        clear &= np.linalg.norm(answers.astype(np.float64), axis=1) <= task_set.answer_bound
        own = distances[np.arange(len(meant)), np.minimum(meant, count - 1)] <= comparison.tolerance
        follows_none = (distances >= comparison.margin).all(axis=1)
        clear &= np.where(meant == count, follows_none, own)
        if comparison.kind == ATTENTION:
            clear &= np.abs((answers.astype(np.float64) ** 2).sum(axis=1) - 1) <= comparison.norm_slack
        parts.append((inputs[clear], answers[clear], meant[clear]))
        found += np.bincount(meant[clear], minlength=count + 1)
        # Where every vector follows some task (in one dimension, say) there is no example of none.
        if found[:count].min() >= max(1, each // 3):
            break
    if not found[:count].all():
        name = task_set.tasks[int(found[:count].argmin())].name
        raise InputError(
            f"no example of task {name!r} that is within {comparison.tolerance:g} or beyond {comparison.margin:g} of "
            "every task was found: the tasks are too near each other, choose a smaller margin"
        )
    inputs, answers, meant = (np.concatenate(part) for part in zip(*parts, strict=True))
    given = task_values(task_set, inputs)
    distances = comparison.distance(answers.astype(np.float64)[:, None] - given)
    return ExamplePool(inputs, answers, meant, distances <= comparison.tolerance, given)


def task_values(task_set: VectorTaskSet, inputs: Array) -> Float:
    """Every task's answer, shape [prompts, n, d] -> [prompts, K, d]."""
    wide = inputs.astype(np.float64)
    return np.stack(
        [wide[:, task.position] @ task.matrix.T.astype(np.float64) + task.offset for task in task_set.tasks], axis=1
    )


def queries(task_set: VectorTaskSet, generator: np.random.Generator, count: int) -> Array:
    """Inputs of queries, shape [count, n, d]: they need not be unit vectors, whatever the comparison."""
    return _inputs(task_set, None, generator, count)


def _inputs(
    task_set: VectorTaskSet, comparison: Comparison | None, generator: np.random.Generator, count: int
) -> Array:
    n, d = task_set.inputs, task_set.dim
    vectors = generator.standard_normal((count, n, d))
    kind = generator.integers(6, size=(count, n))
    # Along a row of a task's matrix one coordinate of its answer is largest; so are sums of rows of several tasks.
    rows = np.concatenate([task.matrix for task in task_set.tasks]).astype(np.float64)
    along = rows[generator.integers(len(rows), size=(count, n))] * generator.choice([-1.0, 1.0], size=(count, n, 1))
    vectors = np.where(kind[..., None] == 0, along, vectors)
    vectors = np.where(kind[..., None] == 1, along + vectors[:, :1], vectors)
    axis = np.eye(d)[generator.integers(d, size=(count, n))]
    vectors = np.where(kind[..., None] == 2, axis, vectors)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors = np.where(norms > 0, vectors / np.maximum(norms, 1e-300), axis)
    if comparison is None or comparison.kind != ATTENTION:
        short = generator.random((count, n, 1))
        vectors = vectors * np.where(kind[..., None] == 3, short, 1.0)
    return _rounded(vectors * task_set.bound)


def _answers(
    task_set: VectorTaskSet,
    comparison: Comparison,
    generator: np.random.Generator,
    exact: Float,
    none: NDArray[np.bool_],
) -> Array:
    """Answers that follow the task whose answer is `exact`, and where `none` says so, such as follow no task."""
    count, d = exact.shape
    kind = generator.integers(4, size=(count, 1))
    near, far = comparison.tolerance * INSIDE, comparison.margin * OUTSIDE
    if comparison.kind == ATTENTION:
        aside = generator.standard_normal((count, d))
        aside -= (aside * exact).sum(axis=1, keepdims=True) * exact
        length = np.linalg.norm(aside, axis=1, keepdims=True)
        aside = np.where(length > 1e-9, aside / np.maximum(length, 1e-300), 0.0)

        def turned(distance: float) -> Float:
            cosine = 1 - distance**2 / 2
            return np.asarray(cosine * exact + np.sqrt(1 - cosine**2) * aside)

        random = generator.standard_normal((count, d))
        random /= np.linalg.norm(random, axis=1, keepdims=True)
        followed = np.where(kind < 2, exact, turned(near))
        left = np.where(kind < 2, random, np.where(kind == 2, turned(far), -exact))
        return _rounded(np.where(none[:, None], left, followed))
    rows = comparison.rows.astype(np.float64)
    signs = generator.choice([-1.0, 1.0], size=(count, len(rows)))
    one = np.eye(len(rows))[generator.integers(len(rows), size=count)] * signs
    # F has orthonormal rows: F (F's) = s. What F does not see may be anything.
    unseen = generator.standard_normal((count, d))
    unseen -= unseen @ rows.T @ rows
    unseen *= generator.random((count, 1)) / np.maximum(np.linalg.norm(unseen, axis=1, keepdims=True), 1e-9)
    unseen = np.zeros((count, d)) if comparison.full else unseen * task_set.answer_bound / 2
    choice = generator.random((count, 1)) < 0.5
    moved = near * np.where(choice, signs, one) @ rows + np.where(choice, unseen, 0.0)
    followed = np.where(kind < 2, exact, exact + moved)
    random = generator.standard_normal((count, d))
    random *= task_set.answer_bound * generator.random((count, 1)) / np.linalg.norm(random, axis=1, keepdims=True)
    apart = np.where(kind == 2, exact + far * one @ rows, np.where(kind == 3, 0.0, -exact))
    left = np.where(kind < 1, random, apart)
    return _rounded(np.where(none[:, None], left, followed))


def _rounded(values: Float) -> Array:
    rounded = values.astype(np.float32)
    rounded[np.abs(rounded) < np.finfo(np.float32).tiny] = 0.0
    return rounded
