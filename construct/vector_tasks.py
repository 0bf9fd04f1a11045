"""Affine tasks on vectors: g_k(x) = A_k x_{j_k} + b_k, for examples of n inputs in R^d.

A task set also states where its theorem applies (`Domain`): how long inputs and answers may be, and how far an example
must be from a task that it does not follow. Numbers are float32: what a model's weights can hold exactly.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from construct.errors import TaskError
from construct.residual_stream import Array

DEFAULT_MARGIN = 0.125
LARGEST = 2.0**16
"""The largest bound on inputs and answers; the smallest margin is the largest bound times 2^-20."""
FINEST = 2.0**-20


@dataclass(frozen=True, eq=False)
class AffineTask:
    """g(x) = A x_j + b.

    Args:
        name: what the task is called in the output.
        position: j, the input that is read, counted from 0.
        matrix: A, shape [d, d], float32.
        offset: b, shape [d], float32.
    """

    name: str
    position: int
    matrix: Array
    offset: Array

    def answer(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """g(inputs) in float64, shape [d], for n inputs of shape [n, d]."""
        return np.asarray(self.matrix.astype(np.float64) @ inputs[self.position] + self.offset)

    def __eq__(self, other: object) -> bool:
        """Equal names, positions and numbers."""
        return (
            isinstance(other, AffineTask)
            and (self.name, self.position) == (other.name, other.position)
            and np.array_equal(self.matrix, other.matrix)
            and np.array_equal(self.offset, other.offset)
        )

    def __hash__(self) -> int:
        return hash((self.name, self.position, self.matrix.tobytes(), self.offset.tobytes()))


@dataclass(frozen=True)
class VectorTaskSet:
    """K affine tasks on n inputs in R^d, with the domain of their theorem.

    Args:
        name: what the set is called.
        inputs: n.
        tasks: the tasks, K of them.
        bound: R, the largest Euclidean norm of an input.
        margin: delta: an example that does not follow a task is at least so far away from it.

    Raises:
        TaskError: there is no task, two have one name, a matrix has the wrong shape or a number that is not finite, a
            position is not below n, or bound and margin are out of range.
    """

    name: str
    inputs: int
    tasks: tuple[AffineTask, ...]
    bound: float = 1.0
    margin: float = DEFAULT_MARGIN

    def __post_init__(self) -> None:
        if not self.tasks:
            raise TaskError(f"task set {self.name!r} has no tasks: give at least one")
        if self.inputs < 1:
            raise TaskError(f"task set {self.name!r} has {self.inputs} inputs: expected at least 1")
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise TaskError(f"two tasks are called {repeated!r}: give each its own name")
        for task in self.tasks:
            self._check(task)
        if not 1 / LARGEST <= self.bound <= LARGEST:
            raise TaskError(f"bound is {self.bound:g}: expected a norm from {1 / LARGEST:g} to {LARGEST:g}")
        if self.answer_bound > LARGEST:
            raise TaskError(f"answers can be {self.answer_bound:g} long: expected at most {LARGEST:g}, scale them down")
        largest = max(self.bound, self.answer_bound)
        if not largest * FINEST <= self.margin <= largest:
            raise TaskError(
                f"margin is {self.margin:g}: expected a distance from {largest * FINEST:.2g} (finer is lost in "
                f"float32) to {largest:g} (the longest answer)"
            )

    def _check(self, task: AffineTask) -> None:
        if not 0 <= task.position < self.inputs:
            raise TaskError(f"task {task.name!r} reads input {task.position}: the inputs are 0 to {self.inputs - 1}")
        if task.matrix.shape != (self.dim, self.dim) or task.offset.shape != (self.dim,) or self.dim < 1:
            raise TaskError(
                f"task {task.name!r} has a matrix of shape {task.matrix.shape} and an offset of shape "
                f"{task.offset.shape}: expected ({self.dim}, {self.dim}) and ({self.dim},), with d at least 1"
            )
        if task.matrix.dtype != np.float32 or task.offset.dtype != np.float32:
            raise TaskError(f"task {task.name!r} has numbers of type {task.matrix.dtype}: expected float32")
        if not (np.isfinite(task.matrix).all() and np.isfinite(task.offset).all()):
            raise TaskError(f"task {task.name!r} has a number that is not finite: correct it")
        for part in (task.matrix, task.offset):
            if ((part != 0) & (np.abs(part) < np.finfo(np.float32).tiny)).any():
                raise TaskError(f"task {task.name!r} has a denormal number, which some devices read as 0: write 0")

    @property
    def dim(self) -> int:
        """d, the length of every vector."""
        return int(self.tasks[0].offset.shape[0])

    @cached_property
    def answer_bound(self) -> float:
        """Y, the largest Euclidean norm of an answer: a power of two above every |A_k| R + |b_k|."""
        reach = [
            float(np.linalg.norm(task.matrix.astype(np.float64), 2)) * self.bound
            + float(np.linalg.norm(task.offset.astype(np.float64)))
            for task in self.tasks
        ]
        # The factor leaves room for rounding, so that every machine finds the same power of two.
        return 2.0 ** math.ceil(math.log2(max(1.01 * max(reach), 2.0**-20)))

    @property
    def tolerance(self) -> float:
        """tau = delta/4: an example at most so far from a task follows it."""
        return self.margin / 4

    def reach(self, task: AffineTask) -> float:
        """A bound on every coordinate of g(x): the largest row norm of A times R, and |b|."""
        rows = np.linalg.norm(task.matrix.astype(np.float64), axis=1) * self.bound
        return float((rows + np.abs(task.offset.astype(np.float64))).max()) * (1 + 2.0**-40)
