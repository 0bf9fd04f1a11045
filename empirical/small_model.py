"""The model class of `construct.transformer`, with weights to be trained.

    X = E[token] + P[position]
    in each layer:  X += sum_h softmax(mask(X Wq Wk' X')) X Wv Wo,  then  X += relu(X W1 + b1) W2 + b2

with a causal mask and no normalisation layer; the answer is X U. Every head is as wide as the residual stream, so no
hand-built head of this width is out of its reach.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    Args:
        layers: the number of layers.
        heads: the heads of each layer; queries, keys and values are d_model wide.
        d_model: the width of the residual stream.
        mlp_width: the hidden units of each MLP.
        vocabulary: the number of tokens, BOS and EQ among them.
        positions: the length of the longest prompt.
        alphabet: the number of output coordinates.
    """

    layers: int
    heads: int
    d_model: int
    mlp_width: int
    vocabulary: int
    positions: int
    alphabet: int


class _Layer(nn.Module):
    """Attention, then MLP, each added to the residual stream."""

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        super().__init__()
        heads, width = shape.heads, shape.d_model

        def weights(*sizes: int, fan_in: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*sizes, generator=generator) / fan_in**0.5)

        self.query = weights(heads, width, width, fan_in=width)
        self.key = weights(heads, width, width, fan_in=width)
        self.value = weights(heads, width, width, fan_in=width)
        self.output = weights(heads, width, width, fan_in=heads * width)
        self.w_in = weights(width, shape.mlp_width, fan_in=width)
        self.bias_in = nn.Parameter(torch.zeros(shape.mlp_width))
        self.w_out = weights(shape.mlp_width, width, fan_in=shape.mlp_width)
        self.bias_out = nn.Parameter(torch.zeros(width))

    def forward(self, stream: Tensor, context: Tensor, place: Tensor) -> Tensor:
        """Queries at `stream`, whose positions are `place`; keys and values at `context`, [batch, length, d_model]."""
        # Query and key are multiplied with each other first: there are few queries, and many keys.
        asked = torch.einsum("bqd,hde,hke->bhqk", stream, self.query, self.key) / stream.shape[-1] ** 0.5
        scores = torch.einsum("bhqd,bkd->bhqk", asked, context)
        later = torch.arange(context.shape[1])[None, :] > place[:, None]
        pattern = scores.masked_fill(later, -torch.inf).softmax(-1)
        read = torch.einsum("bhqk,bkd->bhqd", pattern, context)
        stream = stream + torch.einsum("bhqd,hde,hef->bqf", read, self.value, self.output)
        hidden = torch.relu(stream @ self.w_in + self.bias_in)
        written: Tensor = hidden @ self.w_out + self.bias_out
        return stream + written


class SmallTransformer(nn.Module):
    """A transformer to be trained.

    Args:
        shape: its sizes.
        seed: of the first weights.
    """

    def __init__(self, shape: Shape, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.token = nn.Parameter(torch.randn(shape.vocabulary, shape.d_model, generator=generator))
        self.position = nn.Parameter(torch.randn(shape.positions, shape.d_model, generator=generator))
        self.layers = nn.ModuleList(_Layer(shape, generator) for _ in range(shape.layers))
        self.unembedding = nn.Parameter(torch.zeros(shape.d_model, shape.alphabet))

    def forward(self, ids: Tensor, at: Tensor) -> Tensor:
        """The answers at the positions `at`, shape [batch, len(at), alphabet]; `ids` are [batch, length]."""
        stream = self.token[ids] + self.position[: ids.shape[1]]
        place = torch.arange(ids.shape[1])
        for index, layer in enumerate(self.layers):
            context = stream
            if index == len(self.layers) - 1:  # nothing reads the other positions of the last layer
                stream, place = stream[:, at], at
            stream = layer(stream, context, place)
        return stream @ self.unembedding
