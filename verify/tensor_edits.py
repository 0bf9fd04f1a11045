"""Weights by the names of their tensors, dense or sparse: entries read, entries set, rows taken in another order."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from construct.residual_stream import Array
from construct.sparse import Sparse, sparse_matrix
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights

Tensor = Array | Sparse
Index = tuple[int, ...]


def nonzero_places(tensor: Tensor) -> NDArray[np.int64]:
    """The indices of the nonzero entries, shape [entries, dimensions]."""
    if isinstance(tensor, np.ndarray):
        return np.argwhere(tensor)
    entries = tensor.tocoo()
    kept = entries.data != 0
    return np.stack([np.asarray(axis, dtype=np.int64)[kept] for axis in entries.coords], axis=1)


def stored_values(tensor: Tensor) -> Array:
    """The entries that are stored: all of a dense tensor, those not 0 of a sparse one."""
    return tensor if isinstance(tensor, np.ndarray) else tensor.data


def entry(tensor: Tensor, index: Index) -> float:
    """One entry."""
    return float(tensor[index])  # type: ignore[arg-type]  # an index of as many axes as the tensor has


def with_entries(tensor: Tensor, entries: Mapping[Index, np.float32]) -> Tensor:
    """A copy with some entries set."""
    if isinstance(tensor, np.ndarray):
        copy = tensor.copy()
        for index, value in entries.items():
            copy[index] = value
        return copy
    old = tensor.tocoo()
    rows, columns = (np.asarray(axis, dtype=np.int64) for axis in old.coords)
    flat = np.array([row * tensor.shape[1] + column for row, column in entries], dtype=np.int64)
    kept = ~np.isin(rows * tensor.shape[1] + columns, flat)
    set_rows, set_columns = np.array(list(entries), dtype=np.int64).T
    values = np.array(list(entries.values()), dtype=np.float32)
    new = values != 0
    return sparse_matrix(
        np.concatenate([old.data[kept], values[new]]),
        np.concatenate([rows[kept], set_rows[new]]),
        np.concatenate([columns[kept], set_columns[new]]),
        tensor.shape,
    )


def taken(tensor: Tensor, order: NDArray[np.int_], axis: int) -> Tensor:
    """A copy whose row (or column) i is row order[i] of the tensor."""
    if isinstance(tensor, np.ndarray):
        return np.take(tensor, order, axis=axis)
    # Through the list of entries, whose order of axes is a matter of names.
    entries = tensor.tocoo() if axis == 0 else coo_array(tensor.T)
    by_row = entries.tocsr()[order].tocoo()
    rows, columns = by_row.coords if axis == 0 else by_row.coords[::-1]
    return sparse_matrix(by_row.data, np.asarray(rows), np.asarray(columns), tensor.shape)


def changes(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> bool:
    """Whether some bit of some entry differs."""
    return any(not equal_tensors(old[name], tensor) for name, tensor in new.items())


def equal_tensors(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one kind and equal entry by entry."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    if isinstance(other, np.ndarray):
        return False
    same = one.nnz == other.nnz and np.array_equal(one.indptr, other.indptr)
    return same and np.array_equal(one.indices, other.indices) and np.array_equal(one.data, other.data)


def replaced_tensors(weights: TransformerWeights, new: Mapping[str, Tensor]) -> TransformerWeights:
    """The weights with some tensors replaced, by their names in the artifact."""
    tensors = dict(weights.tensors()) | dict(new)
    layers = []
    for number in range(len(weights.layers)):
        attention, mlp = (
            {name: tensors[f"layers.{number}.{part}.{name}"] for name in kind.__dataclass_fields__}
            for part, kind in (("attention", AttentionWeights), ("mlp", MlpWeights))
        )
        layers.append(LayerWeights(AttentionWeights(**attention), MlpWeights(**mlp)))  # type: ignore[arg-type]
    return TransformerWeights(
        tensors["embedding.token"],  # type: ignore[arg-type]  # each tensor is of the kind of the one it replaces
        tensors["embedding.position"],  # type: ignore[arg-type]
        tuple(layers),
        tensors["unembedding"],  # type: ignore[arg-type]
    )
