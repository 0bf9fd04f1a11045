"""The model class, and its plain forward pass in float64.

    X = E[token] + P[position]
    in each layer:  X += sum_h softmax(mask(X Wq Wk' X')) X Wv Wo,  then  X += relu(X W1 + b1) W2 + b2

with a causal mask, a finite softmax temperature (held in Wq) and no normalisation layer; the answer is X U.
This is the model class of Xiong et al. (arXiv 2410.05603, Theorem 1) with ReLU MLPs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.residual_stream import Array
from construct.sparse import Sparse


@dataclass(frozen=True)
class AttentionWeights:
    """The heads of one layer, dense; narrower heads are padded with zeros.

    Args:
        query: Wq, shape [n_heads, d_model, d_qk]; the sharpness is in it.
        key: Wk, shape [n_heads, d_model, d_qk].
        value: Wv, shape [n_heads, d_model, d_value].
        output: Wo, shape [n_heads, d_value, d_model].
    """

    query: Array
    key: Array
    value: Array
    output: Array


@dataclass(frozen=True)
class MlpWeights:
    """One MLP, sparse in memory.

    Args:
        w_in: W1, shape [d_model, width].
        bias_in: b1, shape [width].
        w_out: W2, shape [width, d_model].
        bias_out: b2, shape [d_model].
    """

    w_in: Sparse
    bias_in: Array
    w_out: Sparse
    bias_out: Array


@dataclass(frozen=True)
class LayerWeights:
    """One layer: attention, then MLP."""

    attention: AttentionWeights
    mlp: MlpWeights


@dataclass(frozen=True)
class TransformerWeights:
    """All weights of a transformer of the model class; every entry is exact in float32.

    Args:
        token_embedding: E, shape [vocabulary, d_model].
        position_embedding: P, shape [positions, d_model].
        layers: the layers in order.
        unembedding: U, shape [d_model, alphabet]: the output coordinates.
    """

    token_embedding: Sparse
    position_embedding: Sparse
    layers: tuple[LayerWeights, ...]
    unembedding: Sparse

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return int(self.token_embedding.shape[1])

    @property
    def heads(self) -> list[int]:
        """The number of heads, per layer."""
        return [layer.attention.query.shape[0] for layer in self.layers]

    @property
    def mlp_width(self) -> list[int]:
        """The number of hidden units, per layer."""
        return [int(layer.mlp.w_in.shape[1]) for layer in self.layers]

    def tensors(self) -> Iterator[tuple[str, Array | Sparse]]:
        """Every tensor with its name in the artifact."""
        yield "embedding.token", self.token_embedding
        yield "embedding.position", self.position_embedding
        for index, layer in enumerate(self.layers):
            for part, weights in (("attention", layer.attention), ("mlp", layer.mlp)):
                for name, tensor in vars(weights).items():
                    yield f"layers.{index}.{part}.{name}", tensor
        yield "unembedding", self.unembedding

    @property
    def parameters(self) -> int:
        """The number of parameters, counted dense."""
        return sum(int(np.prod(tensor.shape)) for _, tensor in self.tensors())

    @property
    def nonzero_parameters(self) -> int:
        """The number of parameters that are not 0."""
        return sum(
            int(np.count_nonzero(tensor)) if isinstance(tensor, np.ndarray) else int(tensor.count_nonzero())
            for _, tensor in self.tensors()
        )


Residual = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """What one forward pass computed; T is the length of the prompt.

    Args:
        embedded: X before the first layer, shape [T, d_model].
        patterns: attention probabilities, per layer, shape [n_heads, T, T], queries first.
        after_attention: X after each layer's attention, shape [T, d_model].
        after_mlp: X after each layer's MLP, shape [T, d_model].
        output: X U, shape [T, alphabet].
    """

    embedded: Residual
    patterns: tuple[Residual, ...]
    after_attention: tuple[Residual, ...]
    after_mlp: tuple[Residual, ...]
    output: Residual


def forward(weights: TransformerWeights, ids: Sequence[int]) -> Trace:
    """The plain forward pass of one prompt in float64, to be read and to check the fast one against."""
    length = len(ids)
    token, position = weights.token_embedding[list(ids)], weights.position_embedding[:length]
    return forward_from(weights, (token.astype(np.float64) + position.astype(np.float64)).toarray())


def forward_from(weights: TransformerWeights, stream: Residual) -> Trace:
    """The layers and the output, from an embedded prompt of shape [T, d_model]."""
    embedded, patterns, after_attention, after_mlp = stream, [], [], []
    for layer in weights.layers:
        pattern, written = _attention(layer.attention, stream)
        stream = stream + written
        patterns.append(pattern)
        after_attention.append(stream)
        stream = stream + _mlp(layer.mlp, stream)
        after_mlp.append(stream)
    output = stream @ weights.unembedding.astype(np.float64)
    return Trace(embedded, tuple(patterns), tuple(after_attention), tuple(after_mlp), np.asarray(output))


def _attention(weights: AttentionWeights, stream: Residual) -> tuple[Residual, Residual]:
    query, key, value = (stream @ part.astype(np.float64) for part in (weights.query, weights.key, weights.value))
    scores = query @ key.transpose(0, 2, 1)
    later = np.triu(np.ones(scores.shape[1:], dtype=np.bool_), k=1)
    scores[:, later] = -np.inf
    pattern = np.exp(scores - scores.max(axis=-1, keepdims=True))
    pattern /= pattern.sum(axis=-1, keepdims=True)
    return pattern, (pattern @ value @ weights.output.astype(np.float64)).sum(axis=0)


def _mlp(weights: MlpWeights, stream: Residual) -> Residual:
    hidden = np.maximum(stream @ weights.w_in.astype(np.float64) + weights.bias_in, 0.0)
    return np.asarray(hidden @ weights.w_out.astype(np.float64) + weights.bias_out)
