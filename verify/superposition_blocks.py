"""Lemma 1 of a superposition: the components run in disjoint blocks, exactly; each is cut out as it is stored."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from construct.prompts import Layout
from construct.residual_stream import ResidualStream, Subspace
from construct.superpose_component import InExampleTask, selected
from construct.tasks import SumTask
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights
from verify.certificate import Violation
from verify.exact import Float


@dataclass(frozen=True)
class Judged:
    """What is judged.

    Args:
        weights: the whole.
        layout: V, n, m and the positions.
        stream: the named subspaces: where to look.
        tasks: what the components should compute, in order.
    """

    weights: TransformerWeights
    layout: Layout
    stream: ResidualStream
    tasks: tuple[InExampleTask | SumTask, ...]


@dataclass(frozen=True)
class Block:
    """A component as it stands in the weights.

    Args:
        name: of its task.
        coordinates: where it runs.
        weights: embeddings, heads and units, restricted to these coordinates; its unembedding is that which the
            fetch head applies, in float64.
        lost: a bound on the rounding of each entry of that unembedding, shape [size, V].
    """

    name: str
    coordinates: NDArray[np.int_]
    weights: TransformerWeights
    lost: Float


def check_disjoint(judged: Judged, spaces: list[Subspace], layers: int) -> list[Violation]:
    """Every head and unit of the first layers reads and writes within one block; nothing else is written.

    Post: if there is no violation, the stream of the whole on a block is the stream of that block's component alone,
        and on all other coordinates it stays E + P, exactly, up to layer `layers`. Heads and units that write nothing
        may read anything.
    """
    violations = []
    owner = _owners(judged, spaces)
    for index, layer in enumerate(judged.weights.layers[:layers]):
        for head in range(layer.attention.query.shape[0]):
            where = f"layer {index + 1}, head {head}"
            violations += _check_parts(where, _head_owners(layer.attention, head, owner))
        reads, writes = _unit_owners(layer.mlp, owner)
        for unit in np.flatnonzero(_mixed(reads, writes)):
            got = f"reads {_named(reads[unit], spaces)}, writes {_named(writes[unit], spaces)}"
            violations.append(Violation("disjoint", f"layer {index + 1}, unit {unit}", "one block", got))
        stray = np.flatnonzero((layer.mlp.bias_out != 0) & (owner < 0))
        if len(stray):
            got = f"the output bias writes coordinate {stray[0]}"
            violations.append(Violation("disjoint", f"layer {index + 1}", "nothing outside the blocks", got))
    return violations


def cut_out(judged: Judged, spaces: list[Subspace], layers: int) -> list[Block]:
    """The components, given that the blocks are disjoint."""
    weights = judged.weights
    owner = _owners(judged, spaces)
    fetch = weights.layers[layers].attention
    value, output = fetch.value[0].astype(np.float64), fetch.output[0].astype(np.float64)
    predictions = judged.stream["prediction"]
    alphabet = judged.layout.alphabet_size
    blocks = []
    for number, space in enumerate(spaces):
        at = np.arange(space.start, space.stop)
        columns = np.arange(alphabet) + predictions.start + number * alphabet
        functional = value[at] @ output[:, columns]
        size = np.abs(value[at]) @ np.abs(output[:, columns])
        # One term that is not 0 and no other is exact; more are within the bound of a sum.
        terms = (value[at] != 0).astype(np.int_) @ (output[:, columns] != 0).astype(np.int_)
        exact = (terms <= 1) & _single_products_exact(value, output)
        lost = np.where(exact, 0.0, size * ((value.shape[1] + 2) * 2.0**-53) * (1 + 2.0**-40))
        own = TransformerWeights(
            weights.token_embedding[:, at].tocsr(),
            weights.position_embedding[:, at].tocsr(),
            tuple(_cut_layer(layer, owner, number, at) for layer in weights.layers[:layers]),
            csr_array(functional),
        )
        blocks.append(Block(judged.tasks[number].name, at, own, lost))
    return blocks


def _single_products_exact(value: Float, output: Float) -> bool:
    """Whether the product of one entry of each is exact: 24 bits times 24 bits fit 53."""
    return bool((value == value.astype(np.float32)).all() and (output == output.astype(np.float32)).all())


def _cut_layer(layer: LayerWeights, owner: NDArray[np.int_], number: int, at: NDArray[np.int_]) -> LayerWeights:
    attention = layer.attention
    mine = [
        head for head in range(attention.query.shape[0]) if number in _head_owners(attention, head, owner)["writes"]
    ]
    _, writes = _unit_owners(layer.mlp, owner)
    units = [unit for unit, wrote in enumerate(writes) if number in wrote]
    mlp = selected(layer.mlp, units)
    return LayerWeights(
        AttentionWeights(
            attention.query[mine][:, at],
            attention.key[mine][:, at],
            attention.value[mine][:, at],
            attention.output[mine][:, :, at],
        ),
        MlpWeights(mlp.w_in[at].tocsr(), mlp.bias_in, mlp.w_out[:, at].tocsr(), mlp.bias_out[at]),
    )


def _owners(judged: Judged, spaces: list[Subspace]) -> NDArray[np.int_]:
    """The block of each coordinate, -1 for none."""
    owner = np.full(judged.weights.d_model, -1)
    for number, space in enumerate(spaces):
        owner[space.coordinates] = number
    return owner


def _head_owners(attention: AttentionWeights, head: int, owner: NDArray[np.int_]) -> dict[str, set[int]]:
    """The blocks that a head reads and writes; one that writes nothing reads nothing that matters."""
    writes = set(owner[attention.output[head].any(axis=0)].tolist())
    if not writes or not attention.value[head].any():
        return {"reads": set(), "writes": set()}
    read = attention.query[head].any(axis=1) | attention.key[head].any(axis=1) | attention.value[head].any(axis=1)
    return {"reads": set(owner[read].tolist()), "writes": writes}


def _unit_owners(mlp: MlpWeights, owner: NDArray[np.int_]) -> tuple[list[set[int]], list[set[int]]]:
    """The blocks that each unit reads, and writes."""
    w_in, w_out = mlp.w_in.T.tocsr(), mlp.w_out
    sides = []
    for matrix in (w_in, w_out):
        entries = matrix.tocoo()
        found: list[set[int]] = [set() for _ in range(matrix.shape[0])]
        kept = entries.data != 0
        for unit, coordinate in zip(entries.coords[0][kept].tolist(), entries.coords[1][kept].tolist(), strict=True):
            found[unit].add(int(owner[coordinate]))
        sides.append(found)
    reads, writes = sides
    return [read if wrote else set() for read, wrote in zip(reads, writes, strict=True)], writes


def _mixed(reads: list[set[int]], writes: list[set[int]]) -> list[bool]:
    return [bool(wrote) and (-1 in (r | wrote) or len(r | wrote) != 1) for r, wrote in zip(reads, writes, strict=True)]


def _check_parts(where: str, owners: dict[str, set[int]]) -> list[Violation]:
    together = owners["reads"] | owners["writes"]
    if not owners["writes"] or (len(together) == 1 and -1 not in together):
        return []
    return [Violation("disjoint", where, "one block", f"reads {owners['reads']}, writes {owners['writes']}")]


def _named(found: set[int], spaces: list[Subspace]) -> str:
    return (
        ", ".join(spaces[number].name if number >= 0 else "outside the blocks" for number in sorted(found)) or "nothing"
    )
