"""A readout as the weights of an unmodified GPT-2: nothing but its layer norms and its one width differ.

A norm-free transformer inside a stock one needs every layer norm to be the identity:

    norm(x) = (x - mean(x)) / sqrt(var(x) + eps) * weight.

The mean is 0: balance coordinates, which nothing reads, get minus the sum of everything else that is written. What
counts in integers (tokens, roles, codes) goes to one of them, exact as long as integers are. Weights, counts and
logarithms are rounded, so each has a mirror coordinate, which is rounded alike. The outputs, too many for that, are
shared by several: a sum rounded to u of its size moves the mean of d coordinates by u/d of it at most. The variance
is drowned:

  large-eps   eps = 2^60 and weight 2^30. var + eps rounds to eps (var < 2^36 in float32), and both scalings are powers
              of two: exact.
  scale-down  the ordinary eps = 1e-5: the whole stream is stored times 2^-50, weight = 2^50 sqrt(eps). var is 2^-100
              times that of the stream: nothing beside eps. The gain 2^50 sqrt(eps) / sqrt(eps) is 1 up to the rounding
              of the two roots, at most 3 u (and where it is off, all scores are, by one common factor).

Attention: GPT-2 divides the scores by sqrt(head size), so sqrt(head size), an integer here, is put into Wq. Heads and
units that a layer does not have are 0. The forms are this project's own; what they cost is measured by
`python -m benchmarks.run --only exporting`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from construct.errors import InputError
from construct.export.readout import Readout, readout
from construct.export.shape import MIRRORED, StockShape, check_dense, stock_shape
from construct.residual_stream import Array, Subspace
from construct.sparse import Sparse
from construct.theorems import Construction

NORMALIZATIONS = ("scale-down", "large-eps")
LARGE_EPSILON = 2.0**60
ORDINARY_EPSILON = 1e-5
SCALE = 2.0**-50

OUTPUTS = ("token", "logit")
"""Subspaces of one number a token of the alphabet, which share their balance where a layer writes them."""


@dataclass(frozen=True)
class StockModel:
    """An unmodified GPT2LMHeadModel, as its configuration and weights.

    Args:
        readout: the same function without normalisation.
        shape: the sizes.
        normalization: "scale-down" or "large-eps".
        config: the content of config.json.
        tensors: the weights by GPT2LMHeadModel's names, float32; the norms' weights float64, as they hold a root.
    """

    readout: Readout
    shape: StockShape
    normalization: str
    config: Mapping[str, Any]
    tensors: Mapping[str, NDArray[np.floating]]


def stream_scale(normalization: str) -> float:
    """What the residual stream of a stock model is multiplied by, compared with that of its readout."""
    if normalization not in NORMALIZATIONS:
        raise InputError(f"the normalization is {normalization!r}: expected one of {', '.join(NORMALIZATIONS)}")
    return SCALE if normalization == "scale-down" else 1.0


def stock_model(construction: Construction, *, normalization: str = "scale-down") -> StockModel:
    """The construction as a GPT-2: softmax(logits) at every EQ is the mixture.

    Block l and head h are the construction's; the first coordinates of the residual stream are its d_model
    coordinates (times `stream_scale`), the first units of each MLP are its units.

    Raises:
        InputError: the normalization is unknown, or the construction has no readout.
        TooLargeError: the dense weights do not fit into memory.
    """
    scale = stream_scale(normalization)
    model = readout(construction)
    shape = stock_shape(model)
    check_dense(shape)
    return StockModel(model, shape, normalization, _config(model, shape, normalization), _tensors(model, shape, scale))


def _config(model: Readout, shape: StockShape, normalization: str) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": shape.vocabulary,
        "n_positions": shape.positions,
        "n_embd": shape.width,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_inner": shape.inner,
        "activation_function": "relu",
        "layer_norm_epsilon": ORDINARY_EPSILON if normalization == "scale-down" else LARGE_EPSILON,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "scale_attn_weights": True,
        "tie_word_embeddings": False,
        "bos_token_id": model.construction.layout.bos,
        "eos_token_id": None,
        "pad_token_id": model.pad,
        "dtype": "float32",
    }


def _tensors(model: Readout, shape: StockShape, scale: float) -> dict[str, NDArray[np.floating]]:
    weights, width, inner = model.weights, shape.width, shape.inner
    d, root = weights.d_model, math.isqrt(shape.head_size)
    gain = 1.0 / scale * math.sqrt(ORDINARY_EPSILON) if scale != 1.0 else math.sqrt(LARGE_EPSILON)
    norm = np.full(width, gain, dtype=np.float64)
    nothing = np.zeros(width, dtype=np.float32)

    def written(matrix: Array | Sparse, *, by_a_layer: bool = True) -> Array:
        return np.float32(scale) * balanced(matrix, model, shape, by_a_layer=by_a_layer)

    embedded = (weights.token_embedding, weights.position_embedding)
    token, position = (written(matrix, by_a_layer=False) for matrix in embedded)
    found: dict[str, NDArray[np.floating]] = {
        "transformer.wte.weight": np.pad(token, ((0, shape.vocabulary - len(token)), (0, 0))),
        "transformer.wpe.weight": position,
        "transformer.ln_f.weight": norm,
        "transformer.ln_f.bias": nothing,
        "lm_head.weight": np.pad(weights.unembedding.toarray().T, ((0, 0), (0, width - d))),
    }
    for place, layer in enumerate(weights.layers):
        attention, mlp, at = layer.attention, layer.mlp, f"transformer.h.{place}"
        joined = np.zeros((width, 3, shape.heads, shape.head_size), dtype=np.float32)
        outward = np.zeros((shape.heads, shape.head_size, width), dtype=np.float32)
        for part, matrix in enumerate((attention.query * np.float32(root), attention.key, attention.value)):
            joined[:d, part, : matrix.shape[0], : matrix.shape[2]] = matrix.transpose(1, 0, 2)
        heads, size = attention.output.shape[:2]
        outward[:heads, :size] = written(attention.output.reshape(heads * size, d)).reshape(heads, size, width)
        units = mlp.w_in.shape[1]
        w_in, bias_in = np.zeros((width, inner), dtype=np.float32), np.zeros(inner, dtype=np.float32)
        w_out = np.zeros((inner, width), dtype=np.float32)
        w_in[:d, :units], bias_in[:units] = mlp.w_in.toarray(), mlp.bias_in
        w_out[:units] = written(mlp.w_out)
        found |= {f"{at}.{name}.weight": norm for name in ("ln_1", "ln_2")}
        found |= {f"{at}.{name}.bias": nothing for name in ("ln_1", "ln_2", "attn.c_proj")}
        found |= {
            f"{at}.attn.c_attn.weight": joined.reshape(width, 3 * width),
            f"{at}.attn.c_attn.bias": np.zeros(3 * width, dtype=np.float32),
            f"{at}.attn.c_proj.weight": outward.reshape(width, width),
            f"{at}.mlp.c_fc.weight": w_in,
            f"{at}.mlp.c_fc.bias": bias_in,
            f"{at}.mlp.c_proj.weight": w_out,
            f"{at}.mlp.c_proj.bias": written(mlp.bias_out[None, :])[0],
        }
    return found


def mirrors(model: Readout, shape: StockShape) -> dict[str, Subspace]:
    """Where the negatives of mirrored subspaces stand: whoever patches such a subspace patches its mirror too."""
    found, start = {}, model.weights.d_model + 1 + shape.shared
    for name in MIRRORED:
        if name in model.stream:
            found[name] = Subspace(f"minus[{name}]", start, model.stream[name].size)
            start = found[name].stop
    return found


def balanced(matrix: Array | Sparse, model: Readout, shape: StockShape, *, by_a_layer: bool) -> Array:
    """Rows that are added to the stream, shape [rows, d_model], widened to n_embd so that each sums to 0.

    After d_model: minus the sum of what is an integer; `shared` equal shares of minus the sum of the outputs; the
    mirrors, in the order of `MIRRORED`. Embeddings write integers alone.
    """
    d = model.weights.d_model
    wide = np.zeros((matrix.shape[0], shape.width), dtype=np.float32)
    wide[:, :d] = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
    integers = np.ones(d, dtype=np.bool_)
    for name, mirror in mirrors(model, shape).items():
        wide[:, mirror.coordinates] = -wide[:, model.stream[name].coordinates]
        integers[model.stream[name].coordinates] = False
    outputs = np.zeros(d, dtype=np.bool_)
    for name in OUTPUTS if by_a_layer else ():
        outputs[model.stream[name].coordinates] = True
    wide[:, d] = -wide[:, :d][:, integers & ~outputs].sum(axis=1, dtype=np.float64)
    shares = -wide[:, :d][:, outputs].sum(axis=1, dtype=np.float64) / shape.shared
    wide[:, d + 1 : d + 1 + shape.shared] = shares[:, None]
    return wide
