"""Sparse matrices: weights of hand-built circuits are mostly zeros."""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

if TYPE_CHECKING:
    Sparse: TypeAlias = "csr_array[Any, tuple[int, int]]"
else:
    Sparse = csr_array  # has no parameters at run time in older releases


def sparse_matrix(
    values: NDArray[np.float32], rows: NDArray[np.int_], columns: NDArray[np.int_], shape: tuple[int, int]
) -> Sparse:
    """A matrix of the given entries, float32; entries at one place are added up."""
    entries = coo_array((values.astype(np.float32), (rows, columns)), shape=shape)
    matrix: Sparse = csr_array(entries)
    matrix.sum_duplicates()
    return matrix
