"""A small transformer of the model class, trained in torch on one-example prompts: weights that nobody designed."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from construct.residual_stream import Array
from construct.sparse import Sparse, sparse_matrix
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights


@dataclass(frozen=True)
class Sizes:
    """What is trained, and how.

    Args:
        alphabet: V.
        inputs: n.
        layers: the layers.
        heads: of each layer.
        width: hidden units of each layer.
        steps: of Adam, each on all V^n inputs.
        loss: "squares" to the one-hot code, or "entropy" of the softmax.
    """

    alphabet: int
    inputs: int
    layers: int
    heads: int
    width: int
    steps: int
    loss: str = "squares"


D_MODEL, D_HEAD = 16, 4


def train(function: Callable[[tuple[int, ...]], int], sizes: Sizes, *, seed: int) -> TransformerWeights:
    """The weights, rounded to float32, after training on BOS x_1 .. x_n EQ -> the answer at EQ."""
    generator = torch.Generator().manual_seed(seed)

    def parameter(*shape: int, scale: float) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).requires_grad_()

    v, n, h, w = sizes.alphabet, sizes.inputs, sizes.heads, sizes.width
    keys = list(product(range(v), repeat=n))
    ids = torch.tensor([[v, *key, v + 1] for key in keys])
    answers = torch.tensor([function(key) for key in keys])
    token, position = parameter(v + 2, D_MODEL, scale=0.5), parameter(n + 2, D_MODEL, scale=0.5)
    layers = [
        {
            "query": parameter(h, D_MODEL, D_HEAD, scale=0.3),
            "key": parameter(h, D_MODEL, D_HEAD, scale=0.3),
            "value": parameter(h, D_MODEL, D_HEAD, scale=0.3),
            "output": parameter(h, D_HEAD, D_MODEL, scale=0.3),
            "w_in": parameter(D_MODEL, w, scale=D_MODEL**-0.5),
            "bias_in": parameter(w, scale=0.1),
            "w_out": parameter(w, D_MODEL, scale=w**-0.5),
            "bias_out": parameter(D_MODEL, scale=0.01),
        }
        for _ in range(sizes.layers)
    ]
    unembedding = parameter(D_MODEL, v, scale=D_MODEL**-0.5)
    optimizer = torch.optim.Adam(
        [token, position, unembedding, *(t for part in layers for t in part.values())], lr=0.01
    )
    later = torch.triu(torch.ones(n + 2, n + 2, dtype=torch.bool), 1)
    goal = functional.one_hot(answers, v).float()
    for _ in range(sizes.steps):
        stream = token[ids] + position
        for part in layers:
            query, key, value = (
                torch.einsum("btd,hdk->bhtk", stream, part[name]) for name in ("query", "key", "value")
            )
            pattern = (query @ key.transpose(-1, -2)).masked_fill(later, -torch.inf).softmax(-1)
            stream = stream + torch.einsum("bhtk,hkd->btd", pattern @ value, part["output"])
            hidden = torch.relu(stream @ part["w_in"] + part["bias_in"])
            stream = stream + hidden @ part["w_out"] + part["bias_out"]
        output = stream[:, -1] @ unembedding
        squares = sizes.loss == "squares"
        loss = ((output - goal) ** 2).sum(-1).mean() if squares else functional.cross_entropy(output, answers)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return TransformerWeights(
        _sparse(token),
        _sparse(position),
        tuple(
            LayerWeights(
                AttentionWeights(*(_array(part[name]) for name in ("query", "key", "value", "output"))),
                MlpWeights(
                    _sparse(part["w_in"]), _array(part["bias_in"]), _sparse(part["w_out"]), _array(part["bias_out"])
                ),
            )
            for part in layers
        ),
        _sparse(unembedding),
    )


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float32)


def _sparse(tensor: Tensor) -> Sparse:
    matrix = _array(tensor)
    where = np.nonzero(matrix)
    return sparse_matrix(matrix[where], where[0], where[1], (matrix.shape[0], matrix.shape[1]))
