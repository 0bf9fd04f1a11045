"""How a model tells whether an example follows a task: in which distance, and by which part of layer 1.

fingerprint   |F (y - g_k(x))|_max, with F of r rows, r <= d; F is the identity for r = d, and the distance then the
              largest coordinate. Kept in r coordinates a task.
attention     |y - g_k(x)|_2, for orthogonal A_k, b_k = 0 and unit vectors: the score itself compares. Kept in one
              coordinate a task.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.errors import TaskError
from construct.residual_stream import Array
from construct.vector_suites import orthogonal
from construct.vector_tasks import AffineTask, VectorTaskSet

FINGERPRINT, ATTENTION = "fingerprint", "attention"
COMPARISONS = (FINGERPRINT, ATTENTION)
ORTHOGONAL = 2.0**-16
"""How far A'A of an orthogonal matrix of float32 numbers may be from the identity, by entry."""

ROUNDED = 0.5
"""How much of the scores' margin of 2.5, in the comparison by attention, rounding the matrices may take."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The distance between an answer and a task's, and what the theorem says of it.

    Args:
        kind: "fingerprint" or "attention".
        rows: F, shape [r, d]; for "attention" the identity, which is not used.
        tolerance: tau: an example at most so far away follows the task.
        margin: delta: an example at least so far away does not. In between nothing is claimed.
        norm_slack: nu: for "attention", inputs and answers of examples have | |v|^2 - 1 | <= nu.
    """

    kind: str
    rows: Array
    tolerance: float
    margin: float
    norm_slack: float

    @property
    def width(self) -> int:
        """r, the coordinates that a task's comparison takes in the residual stream."""
        return int(self.rows.shape[0]) if self.kind == FINGERPRINT else 1

    @property
    def full(self) -> bool:
        """Whether F is the identity."""
        return np.array_equal(self.rows, np.eye(*self.rows.shape))

    def distance(self, difference: NDArray[np.float64]) -> NDArray[np.float64]:
        """The distance of y from g(x), for differences of shape [..., d]."""
        if self.kind == ATTENTION:
            return np.asarray(np.linalg.norm(difference, axis=-1))
        return np.asarray(np.abs(difference @ self.rows.T.astype(np.float64)).max(axis=-1))

    @property
    def says(self) -> str:
        """The distance in words."""
        if self.kind == ATTENTION:
            return "|y - g(x)|_2"
        return "|y - g(x)|_max" if self.full else f"|F (y - g(x))|_max, F of {self.width} rows"


def compare(task_set: VectorTaskSet, kind: str, width: int | None = None) -> Comparison:
    """The comparison of a task set, in the given way.

    With r < d the rows of F are orthonormal, drawn with a fixed seed: |F v|_max <= |v|_2, and an example that is far
    away in R^d is near in this distance only if its difference is nearly orthogonal to all of F's rows.

    Raises:
        TaskError: the kind is unknown, the width is not 1 to d or given for "attention", or "attention" is asked for
            tasks that are not orthogonal, have an offset, or are not on unit vectors.
    """
    d, margin = task_set.dim, task_set.margin
    if kind not in COMPARISONS:
        raise TaskError(f"comparison is {kind!r}: expected one of {', '.join(COMPARISONS)}")
    if kind == ATTENTION:
        if width is not None:
            raise TaskError(f"width {width} does not go with comparison by attention, which stores no fingerprint")
        _check_orthogonal(task_set)
        return Comparison(kind, np.eye(d, dtype=np.float32), task_set.tolerance, margin, margin**2 / 16)
    r = d if width is None else width
    if not 1 <= r <= d:
        raise TaskError(f"width is {r}: expected 1 to {d}, the length of the vectors")
    rows = np.eye(d) if r == d else orthogonal(d, np.random.default_rng(0))[:r]
    return Comparison(kind, rows.astype(np.float32), task_set.tolerance, margin, 0.0)


def _check_orthogonal(task_set: VectorTaskSet) -> None:
    remedy = "use --comparison fingerprint"
    if task_set.bound != 1:
        raise TaskError(f"comparison by attention is for unit vectors, and the bound is {task_set.bound:g}: {remedy}")
    if task_set.margin > 1:
        raise TaskError(f"comparison by attention takes a margin of at most 1, not {task_set.margin:g}: {remedy}")
    for task in task_set.tasks:
        if task.offset.any():
            raise TaskError(f"comparison by attention takes no offset, and task {task.name!r} has one: {remedy}")
        if gram_error(task) > ORTHOGONAL:
            raise TaskError(f"comparison by attention takes orthogonal matrices, not {task.name!r}'s: {remedy}")
        # Scores are scaled by 16/delta^2, and so is what rounding the matrix to float32 took from its orthogonality.
        matrix = task.matrix.astype(np.float64)
        gram = float(np.linalg.norm(matrix.T @ matrix - np.eye(len(matrix))))
        if 16 / task_set.margin**2 * (gram / 2 + 2.0**-24 * np.sqrt(len(matrix))) > ROUNDED:
            raise TaskError(
                f"comparison by attention cannot tell distances of {task_set.margin:g} with the float32 numbers of "
                f"{task.name!r}: choose a larger margin, or {remedy}"
            )


def gram_error(task: AffineTask) -> float:
    """The largest entry of |A'A - I|."""
    matrix = task.matrix.astype(np.float64)
    return float(np.abs(matrix.T @ matrix - np.eye(len(matrix))).max())


def check_told_apart(task_set: VectorTaskSet, comparison: Comparison) -> None:
    """Raise TaskError for two different tasks that are nowhere a margin apart: no example follows only one of them.

    Tasks that are the same function are let pass: each example follows both or none. In the distance of fingerprints
    two tasks on one input are at most max_i |F_i (A - A')| R + |F_i (b - b')| apart, and reach it; on different inputs
    the norms of F_i A and F_i A' take the place of that of the difference. For the comparison by attention, on unit
    vectors, it is the largest singular value of A - A'; on different inputs it is 2.
    """
    rows = comparison.rows.astype(np.float64)
    maps = [rows @ task.matrix.astype(np.float64) for task in task_set.tasks]
    offsets = [rows @ task.offset.astype(np.float64) for task in task_set.tasks]
    for index, (task, mapped, offset) in enumerate(zip(task_set.tasks, maps, offsets, strict=True)):
        for other, other_mapped, other_offset in zip(
            task_set.tasks[:index], maps[:index], offsets[:index], strict=True
        ):
            same_input = task.position == other.position
            if same_input and np.array_equal(task.matrix, other.matrix) and np.array_equal(task.offset, other.offset):
                continue
            if comparison.kind == ATTENTION:
                apart = float(np.linalg.norm(mapped - other_mapped, 2)) if same_input else 2.0
            else:
                parts = (mapped - other_mapped,) if same_input else (mapped, other_mapped)
                lengths = np.sum([np.linalg.norm(part, axis=1) for part in parts], axis=0)
                apart = float((lengths * task_set.bound + np.abs(offset - other_offset)).max())
            if apart < comparison.margin:
                raise TaskError(
                    f"tasks {other.name!r} and {task.name!r} are nowhere more than {apart:.3g} apart, below the margin "
                    f"{comparison.margin:g}: no example tells them apart; choose a smaller margin, or leave one out"
                )
