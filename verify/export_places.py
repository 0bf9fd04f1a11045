"""Where the readout of an export keeps what: hints of where to look, from the tasks alone; the weights decide."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.export.readout import answer_codes, largest_count, pairs_that_can_agree
from construct.residual_stream import Array
from construct.theorems import Construction
from construct.transformer import LayerWeights
from verify.export_weights import RefusedError, Stock

Columns = NDArray[np.int_]


@dataclass(frozen=True)
class Places:
    """Coordinates of the readout.

    Args:
        zero: the coordinate that nothing writes.
        recalled: by task, the bits of its answer, shape [tasks, bits].
        count: shape [tasks].
        answer: by task and bit, the bit and its negative, shape [tasks, bits, 2].
        distance: shape [pairs].
        agreeing: shape [tasks].
        silent: shape [tasks].
        shortfall: shape [tasks].
        logit: shape [alphabet].
        pairs: the pairs of tasks that have an answer in common, shape [pairs, 2].
        codes: the code of each answer, shape [alphabet, bits].
        answers: by task, its distinct answers, ascending.
        largest: the largest s.
        width: the coordinates of construction and readout together.
    """

    zero: int
    recalled: Columns
    count: Columns
    answer: Columns
    distance: Columns
    agreeing: Columns
    silent: Columns
    shortfall: Columns
    logit: Columns
    pairs: Columns
    codes: Array
    answers: tuple[Columns, ...]
    largest: int
    width: int


def places_of(construction: Construction) -> Places:
    """The coordinates, as `construct.export.readout` lays them out after those of the construction."""
    tasks, size = len(construction.task_set.tasks), construction.layout.alphabet_size
    codes = answer_codes(size)
    bits = codes.shape[1]
    pairs = pairs_that_can_agree(construction)
    at = max(space.stop for space in construction.stream.values()) + 1  # after the arrow's mark

    def take(*shape: int) -> Columns:
        nonlocal at
        found = np.arange(at, at + int(np.prod(shape))).reshape(shape)
        at += found.size
        return found

    zero = int(take(1)[0])
    recalled, count, answer = take(tasks, bits), take(tasks), take(tasks, bits, 2)
    distance, agreeing, silent, shortfall = take(len(pairs)), take(tasks), take(tasks), take(tasks)
    logit = take(size)
    answers = tuple(
        np.unique(np.array(list(task.rows.values()), dtype=np.int_)) for task in construction.task_set.tasks
    )
    listed = np.array(pairs, dtype=np.int_).reshape(-1, 2)
    return Places(
        zero=zero,
        recalled=recalled,
        count=count,
        answer=answer,
        distance=distance,
        agreeing=agreeing,
        silent=silent,
        shortfall=shortfall,
        logit=logit,
        pairs=listed,
        codes=codes,
        answers=answers,
        largest=largest_count(construction, pairs),
        width=at,
    )


def check_places(construction: Construction, stock: Stock, places: Places) -> None:
    """Raise RefusedError unless the readout's coordinates are 0 until its own layers write them, and EQ is marked.

    What layers 3 to 6 write is judged unit by unit (`verify.export_readout`).
    """
    weights, layout = stock.weights, construction.layout
    fresh = np.arange(places.zero, places.width)
    embeddings = {"wte": weights.token_embedding, "wpe": weights.position_embedding}
    for name, matrix in embeddings.items():
        if matrix[:, fresh].count_nonzero():
            raise RefusedError("places", name, "0 in the coordinates of the readout", "others")
    later = np.setdiff1d(fresh, np.concatenate([places.recalled.ravel(), places.count]))
    first, second = weights.layers[:2]
    written: dict[str, tuple[Columns, Columns]] = {
        "layer 1": (columns_of(first), fresh),
        "heads of layer 2": (np.flatnonzero(np.asarray(second.attention.output.any(axis=(0, 1)))), fresh),
        "layer 2": (np.unique(second.mlp.w_out.indices).astype(np.int_), later),
        "constants of layer 2": (np.flatnonzero(second.mlp.bias_out), fresh),
    }
    for where, (found, kept) in written.items():
        if np.intersect1d(found, kept).size:
            raise RefusedError("places", where, "0 in the coordinates of the readout", "others")
    mark = construction.stream["role_eq"].start
    at = np.arange(1, layout.examples + 2) * (layout.inputs + 2) - 1
    value = (
        weights.position_embedding[:, [mark]].toarray()[at] + weights.token_embedding[:, [mark]].toarray()[layout.eq]
    )
    if (value != 1).any() or mark in np.union1d(columns_of(first), written["heads of layer 2"][0]):
        raise RefusedError("places", "role_eq", "1 at every EQ", "others")


def columns_of(layer: LayerWeights) -> Columns:
    """The coordinates that a layer writes."""
    found = (layer.attention.output.any(axis=(0, 1)), layer.mlp.bias_out != 0)
    heads = [np.flatnonzero(part) for part in found]
    return np.unique(np.concatenate([*heads, layer.mlp.w_out.indices])).astype(np.int_)
