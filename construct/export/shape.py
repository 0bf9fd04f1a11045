"""How large a stock model becomes: one width for all heads and one for all MLPs, every matrix dense."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from construct.errors import TooLargeError
from construct.export.readout import Readout
from construct.memory import refuse_beyond_memory

MIRRORED = ("evidence", "weight", "count", "distance", "agreeing", "silent", "shortfall")
"""Subspaces whose every coordinate is balanced by one of its own, which holds its negative, equally rounded."""

BYTES_WHILE_WRITING = 9
"""Per parameter: the tensors, the file made of them, and a little."""


@dataclass(frozen=True)
class StockShape:
    """The sizes of a GPT-2.

    Args:
        width: n_embd: the readout's d_model, what keeps the mean at 0 (1 + shared + mirrors), and padding.
        shared: coordinates that share the balance of the outputs; a power of two, so that dividing by it is exact.
        mirrors: coordinates that hold the negative of one other each.
        layers: n_layer.
        heads: n_head, of every layer.
        inner: n_inner, of every layer.
        positions: n_positions.
        vocabulary: vocab_size.
    """

    width: int
    shared: int
    mirrors: int
    layers: int
    heads: int
    inner: int
    positions: int
    vocabulary: int

    @property
    def head_size(self) -> int:
        """n_embd / n_head: a square, so that the scaling of the scores by its root can be undone exactly."""
        return self.width // self.heads

    @property
    def parameters(self) -> int:
        """The number of parameters, all of them dense."""
        d = self.width
        layer = 4 * d * d + 4 * d + 2 * d * self.inner + self.inner + d + 4 * d
        return self.layers * layer + (2 * self.vocabulary + self.positions) * d + 2 * d


def stock_shape(model: Readout) -> StockShape:
    """The smallest GPT-2 that holds a readout."""
    weights = model.weights
    heads = max(1, *weights.heads)
    widest = max(
        max(layer.attention.query.shape[2], layer.attention.value.shape[2])
        for layer in weights.layers
        if layer.attention.query.shape[0]
    )
    # The logits add up to -L V, which is to be spread thin: a float64 mean then stays below 1e-12.
    shared = 2 ** max(4, (model.construction.layout.alphabet_size // 8).bit_length())
    mirrors = sum(model.stream[name].size for name in MIRRORED if name in model.stream)
    needed = max(widest, -(-(weights.d_model + 1 + shared + mirrors) // heads))
    return StockShape(
        width=heads * (math.isqrt(needed - 1) + 1) ** 2,
        shared=shared,
        mirrors=mirrors,
        layers=len(weights.layers),
        heads=heads,
        inner=max(weights.mlp_width),
        positions=model.construction.layout.positions,
        vocabulary=model.vocabulary_size,
    )


def check_dense(shape: StockShape) -> None:
    """Raise TooLargeError, with the figure, when the dense model does not fit into memory."""
    try:
        refuse_beyond_memory(
            BYTES_WHILE_WRITING * shape.parameters, f"a stock model of {shape.parameters:,} parameters"
        )
    except TooLargeError as error:
        raise TooLargeError(
            f"{error} (dense: {shape.layers} layers, {shape.width:,} wide, MLPs {shape.inner:,} wide)"
        ) from error


def sizes(shape: StockShape) -> Mapping[str, int]:
    """The sizes, as they are reported."""
    return vars(shape) | {"head_size": shape.head_size, "parameters": shape.parameters}
