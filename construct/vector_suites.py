"""Random affine task sets: orthogonal, permutation, rotation and general matrices.

Task k reads input k mod n, so that tasks which share an input differ in their matrices, and others in what they read.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from construct.errors import TaskError
from construct.memory import refuse_beyond_memory
from construct.vector_tasks import DEFAULT_MARGIN, AffineTask, VectorTaskSet

Matrix = NDArray[np.float64]

LARGEST_SIZE = 2**16
"""Above this a size is a slip, and the memory that it would take is not worth working out."""


def orthogonal(dim: int, generator: np.random.Generator) -> Matrix:
    """A uniformly random orthogonal matrix: Q of a Gaussian's QR, signs fixed by R's diagonal."""
    q, r = np.linalg.qr(generator.standard_normal((dim, dim)))
    signs = np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.asarray(q * signs)


def permutation(dim: int, generator: np.random.Generator) -> Matrix:
    """A random permutation of the coordinates."""
    return np.asarray(np.eye(dim)[generator.permutation(dim)])


def rotation(dim: int, generator: np.random.Generator) -> Matrix:
    """A random rotation: orthogonal, of determinant 1."""
    matrix = orthogonal(dim, generator)
    if np.linalg.det(matrix) < 0:
        matrix[0] = -matrix[0]
    return matrix


def general(dim: int, generator: np.random.Generator) -> Matrix:
    """A Gaussian matrix with rows of norm about 1."""
    return np.asarray(generator.standard_normal((dim, dim)) / np.sqrt(dim))


KINDS: Mapping[str, Callable[[int, np.random.Generator], Matrix]] = {
    "orthogonal": orthogonal,
    "permutation": permutation,
    "rotation": rotation,
    "general": general,
}


def random_vector_tasks(
    kind: str,
    *,
    tasks: int,
    dim: int,
    inputs: int,
    seed: int = 0,
    offsets: float = 0.0,
    bound: float = 1.0,
    margin: float = DEFAULT_MARGIN,
) -> VectorTaskSet:
    """K random tasks of one kind, the same for the same arguments.

    Args:
        kind: one of `KINDS`.
        tasks: K.
        dim: d.
        inputs: n.
        seed: of the draw.
        offsets: the norm of each offset b_k, in a random direction.
        bound: R, the largest norm of an input.
        margin: delta.

    Raises:
        TaskError: the kind is unknown, a size is below 1, or they are out of range.
    """
    if kind not in KINDS:
        raise TaskError(f"the kind of tasks is {kind!r}: expected one of {', '.join(KINDS)}")
    for name, size in (("tasks", tasks), ("dim", dim), ("inputs", inputs)):
        if not 1 <= size <= LARGEST_SIZE:
            raise TaskError(f"{name} is {size}: expected 1 to {LARGEST_SIZE}")
    if seed < 0:
        raise TaskError(f"seed is {seed}: expected at least 0")
    if not 0 <= offsets < float("inf"):
        raise TaskError(f"offsets is {offsets:g}: expected the norm of the offsets, at least 0")
    refuse_beyond_memory(4 * tasks * dim * dim + 24 * dim * dim, "making these tasks")
    generator = np.random.default_rng(seed)
    made = []
    for index in range(tasks):
        matrix = KINDS[kind](dim, generator)
        direction = generator.standard_normal(dim)
        offset = offsets * direction / max(float(np.linalg.norm(direction)), 1e-300)
        made.append(AffineTask(f"{kind}-{index}", index % inputs, _float32(matrix), _float32(offset)))
    return VectorTaskSet(f"{kind}-{tasks}x{dim}", inputs, tuple(made), bound, margin)


def _float32(values: Matrix) -> NDArray[np.float32]:
    """To float32, with what would be a denormal number as 0."""
    rounded = values.astype(np.float32)
    rounded[np.abs(rounded) < np.finfo(np.float32).tiny] = 0.0
    return rounded
