"""What the tests of `verify` share: the command in this process, small artifacts, and ways to break them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from construct.artifact import save
from construct.sparse import Sparse, sparse_matrix
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights
from tests.construct.conftest import construct as construct  # the command, as a fixture here too

Index = tuple[int, ...]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are run slower by many threads, and much slower where others want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tables() -> TaskSet:
    """Two tables on one input."""
    first, second = {(0,): 1, (1,): 2, (2,): 0}, {(0,): 0, (1,): 1, (2,): 1}
    return TaskSet("tables", ("a", "b", "c"), 1, Format(), (TableTask("p", (0,), first), TableTask("q", (0,), second)))


def sum_and_table() -> TaskSet:
    """A sum over two positions with a token that has no value, and a table on one of them."""
    total = SumTask("sum", (0, 1), {0: -1, 2: 1}, {0: 1, 2: 0, -2: 2})
    return TaskSet("sum and table", ("a", "b", "c"), 2, Format(), (total, TableTask("p", (1,), {(0,): 1, (1,): 1})))


def pair_and_table() -> TaskSet:
    """A partial table on two positions, in an order of its own, and one on one of them."""
    pair = TableTask("pair", (1, 0), {(0, 0): 2, (1, 2): 1, (2, 2): 0, (2, 1): 1})
    table = TableTask("p", (0,), {(0,): 1, (1,): 2, (2,): 0})
    return TaskSet("pair and table", ("a", "b", "c"), 2, Format(), (pair, table))


def small_artifacts() -> dict[str, Construction]:
    """Four constructions whose prompts can all be run."""
    return {
        "lookup n=1": two_layer(build_suite("lookup", tasks=2, alphabet_size=3, inputs=1), examples=2),
        "lookup n=2": two_layer(build_suite("lookup", tasks=2, alphabet_size=3, inputs=2, seed=0), examples=1),
        "sum": two_layer(sum_and_table(), examples=1),
        "pair": two_layer(pair_and_table(), examples=1),
    }


def edited(construction: Construction, changes: Mapping[str, Mapping[Index, float]]) -> Construction:
    """A copy with entries set, by the name of the tensor in the artifact."""
    tensors: dict[str, np.ndarray | Sparse] = dict(construction.weights.tensors())
    for name, entries in changes.items():
        tensor = tensors[name]
        dense = tensor.copy() if isinstance(tensor, np.ndarray) else tensor.toarray()
        for index, value in entries.items():
            dense[index] = value
        tensors[name] = dense if isinstance(tensor, np.ndarray) else sparse(dense)
    return with_tensors(construction, tensors)


def with_tensors(construction: Construction, tensors: Mapping[str, np.ndarray | Sparse]) -> Construction:
    """A copy with tensors replaced, by their names in the artifact."""
    every = dict(construction.weights.tensors()) | dict(tensors)
    layers = []
    for number in range(len(construction.weights.layers)):
        attention, mlp = (
            {name: every[f"layers.{number}.{part}.{name}"] for name in kind.__dataclass_fields__}
            for part, kind in (("attention", AttentionWeights), ("mlp", MlpWeights))
        )
        layers.append(LayerWeights(AttentionWeights(**attention), MlpWeights(**mlp)))
    weights = TransformerWeights(
        every["embedding.token"], every["embedding.position"], tuple(layers), every["unembedding"]
    )
    return replace(construction, weights=weights)


def with_unit(
    construction: Construction, layer: int, reads: Mapping[int, float], bias: float, writes: Mapping[int, float]
) -> Construction:
    """A copy with one more hidden unit in a layer."""
    mlp = construction.weights.layers[layer].mlp
    column, row = np.zeros((mlp.w_in.shape[0], 1), np.float32), np.zeros((1, mlp.w_out.shape[1]), np.float32)
    for at, value in reads.items():
        column[at, 0] = value
    for at, value in writes.items():
        row[0, at] = value
    name = f"layers.{layer}.mlp"
    return with_tensors(
        construction,
        {
            f"{name}.w_in": sparse(np.concatenate([mlp.w_in.toarray(), column], axis=1)),
            f"{name}.bias_in": np.append(mlp.bias_in, np.float32(bias)),
            f"{name}.w_out": sparse(np.concatenate([mlp.w_out.toarray(), row], axis=0)),
        },
    )


def sparse(dense: np.ndarray) -> Sparse:
    """A sparse copy."""
    rows, columns = np.nonzero(dense)
    return sparse_matrix(dense[rows, columns], rows, columns, dense.shape)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A construction's folder of the test's own, of two tables on one input."""
    save(two_layer(tables(), examples=2), tmp_path / "made")
    return tmp_path / "made"
