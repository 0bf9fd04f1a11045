"""What stands at the positions of a component's stream, whatever the prompt: boxes by position and token.

Two ways, and both hold. `contexts` follows boxes through the layers, where attention may fetch any convex combination
of the values before: crude, and cruder with every layer. `Outside` starts from that and replaces, example by example,
the positions of one whose streams were followed for every choice of its inputs (`verify.superposition_contract`):
later examples then meet states that occur, not boxes around boxes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from construct.prompts import Layout
from construct.transformer import AttentionWeights, LayerWeights, TransformerWeights
from verify.boxes import Box
from verify.exact import Float
from verify.superposition_balls import between, ends, hull, hull_so_far, image, plus, rectified


def contexts(weights: TransformerWeights, layout: Layout) -> list[Box]:
    """The stream before each layer and after the last, by position and the token there, over all contexts: [T, V, d].

    Attention writes a convex combination of the values at this position and before. At BOS and EQ the tokens are all
    the same.
    """
    stream = embedded(weights, layout)
    boxes = [stream]
    for layer in weights.layers:
        written = stream
        for value, output in _value_heads(layer.attention):
            fetched = image(hull_so_far(hull(image(stream, value), axis=1)), output)
            written = plus(written, Box(fetched.centre[:, None], fetched.radius[:, None]))
        stream = after_mlp(layer, written)
        boxes.append(stream)
    return boxes


def embedded(weights: TransformerWeights, layout: Layout) -> Box:
    """E + P, by position and the token there: shape [T, V, d]."""
    place = (np.arange(layout.positions) - 1) % (layout.inputs + 2)
    tokens = np.tile(np.arange(layout.alphabet_size), (layout.positions, 1))
    tokens[0], tokens[1:][place[1:] == layout.inputs] = layout.bos, layout.eq
    own = weights.position_embedding[: layout.positions].astype(np.float64).toarray()
    return plus(point(weights.token_embedding.astype(np.float64).toarray()[tokens]), point(own[:, None]))


def point(values: Float) -> Box:
    """The box of one vector, or array of them."""
    return Box(values, np.zeros_like(values))


def after_mlp(layer: LayerWeights, stream: Box) -> Box:
    """The stream after a layer's MLP."""
    mlp = layer.mlp
    hidden = rectified(plus(image(stream, mlp.w_in.astype(np.float64)), point(mlp.bias_in.astype(np.float64))))
    written = plus(image(hidden, mlp.w_out.astype(np.float64)), point(mlp.bias_out.astype(np.float64)))
    return plus(stream, written)


class Outside:
    """The streams at all positions, from crude to better as examples are followed.

    Args:
        weights: the component.
        layout: V, n and m.

    Attributes:
        boxes: before each layer and after the last, shape [T, V, d].
    """

    def __init__(self, weights: TransformerWeights, layout: Layout) -> None:
        self._weights, self._layout = weights, layout
        self.boxes = contexts(weights, layout)

    def others(self, example: int) -> list[Box]:
        """What the positions before an example's own can hold, BOS left out: a row each position and token."""
        start = self._layout.input_position(example, 0)
        return [Box(*(part[1:start].reshape(-1, part.shape[-1]) for part in _parts(box))) for box in self.boxes]

    def follow(self, example: int, followed: "Followed") -> None:
        """Replace an example's own positions, and find its y again from them."""
        start = self._layout.input_position(example, 0)
        for box, low, high in zip(self.boxes, followed.low, followed.high, strict=True):
            _narrow(box, slice(start, start + self._layout.inputs + 1), low, high)
        if example < self._layout.examples:
            self._find_answer(self._layout.answer_position(example))

    def _find_answer(self, position: int) -> None:
        """The streams at a y, from the values that stand before it."""
        here = slice(position, position + 1)
        for index, layer in enumerate(self._weights.layers):
            stream = Box(*(part[here] for part in _parts(self.boxes[index])))
            before = Box(*(part[: position + 1] for part in _parts(self.boxes[index])))
            written = stream
            for value, output in _value_heads(layer.attention):
                written = plus(written, image(hull(hull(image(before, value), axis=1)), output))
            _narrow(self.boxes[index + 1], here, *ends(after_mlp(layer, written)))


class Followed:
    """The least and greatest that the streams of one example were, by its own position and the token there.

    Args:
        layout: V and n.
        reads: the inputs that are known in each stream; at the others any token may stand.

    Attributes:
        low: before each layer and after the last, shape [n + 1, V, d]: the inputs, then EQ.
        high: likewise.
    """

    def __init__(self, layout: Layout, reads: Sequence[int]) -> None:
        self._layout, self._reads = layout, set(reads)
        self.low: list[Float] = []
        self.high: list[Float] = []

    def add(self, rows: NDArray[np.int_], streams: Sequence[Box]) -> None:
        """Add the streams, shape [batch, n + 2, d], of a batch of inputs."""
        shape = self._layout.inputs + 1, self._layout.alphabet_size, streams[0].centre.shape[-1]
        if not self.low:
            self.low, self.high = ([np.full(shape, edge) for _ in streams] for edge in (np.inf, -np.inf))
        for low, high, stream in zip(self.low, self.high, streams, strict=True):
            least, most = ends(stream)
            for place in range(shape[0]):
                known = place in self._reads
                for token in range(shape[1]):
                    chosen = rows[:, place] == token if known else slice(None)
                    for edge, found, join in ((low, least, np.minimum), (high, most, np.maximum)):
                        new = found[chosen, 1 + place]
                        if len(new):
                            edge[place, token] = join(edge[place, token], join.reduce(new, axis=0))


def _value_heads(attention: AttentionWeights) -> Iterator[tuple[Float, Float]]:
    """Wv and Wo of each head, in float64."""
    for value, output in zip(attention.value, attention.output, strict=True):
        yield value.astype(np.float64), output.astype(np.float64)


def _parts(box: Box) -> tuple[Float, Float]:
    return box.centre, box.radius


def _narrow(box: Box, at: slice, low: Float, high: Float) -> None:
    """Intersect some rows of a box with another; what is no number bounds nothing."""
    old_low, old_high = ends(Box(box.centre[at], box.radius[at]))
    both = between(np.fmax(old_low, low), np.fmin(old_high, high))
    old = box.radius[at]
    better = (both.radius >= 0) & ((both.radius < old) | (np.isnan(old) & np.isfinite(both.radius)))
    box.centre[at] = np.where(better, both.centre, box.centre[at])
    box.radius[at] = np.where(better, both.radius, box.radius[at])
