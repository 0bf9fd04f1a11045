"""An exported GPT-2 as the transformer without layer norms that it is, and what its norms need to be harmless.

With N(x) = (x - mean(x)) / sqrt(var(x) + eps) * weight, scale * weight / sqrt(eps) = 1 and every row that is written
summing to 0, the stock model computes, up to the figures kept here, a transformer of the class of
`construct.transformer` as wide as itself, with Wq / sqrt(head size) and everything that is written divided by scale.
What is not of this form is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from construct.prompts import Layout
from construct.sparse import sparse_matrix
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights
from verify.certificate import Violation
from verify.exact import Float
from verify.export_arithmetic import Arithmetic, V

Tensors = Mapping[str, NDArray[np.floating]]

REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "architectures": (["GPT2LMHeadModel"],),
    "activation_function": ("relu",),
    "scale_attn_weights": (True, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "reorder_and_upcast_attn": (False, None),
    "add_cross_attention": (False, None),
    "tie_word_embeddings": (False,),
    "pruned_heads": ({}, None),
}
"""What config.json has to say; None stands for an absent entry, whose default is the first."""


class RefusedError(Exception):
    """The weights are not of the form that is proved."""

    def __init__(self, lemma: str, where: str, expected: str, got: str) -> None:
        super().__init__(f"{lemma}: {where}")
        self.violation = Violation(lemma, where, expected, got)


@dataclass(frozen=True)
class Stock:
    """An exported model in one arithmetic.

    Args:
        weights: the transformer without norms, float32 but for the queries (float64), as wide as the stock model.
        width: n_embd.
        scale: what the stream is multiplied by.
        epsilon: of the norms.
        gain: how far scale * weight / sqrt(eps) is off 1 at the most.
        root: sqrt(head size).
        imbalance: by how much the rows of each matrix that is written are off 0, by name, shape [rows], unscaled.
    """

    weights: TransformerWeights
    width: int
    scale: float
    epsilon: float
    gain: float
    root: float
    imbalance: Mapping[str, Float]


def check_config(config: Mapping[str, Any], layout: Layout) -> None:
    """Raise RefusedError unless config.json asks for the model that is analysed."""
    for name, allowed in REQUIRED.items():
        if config.get(name) not in allowed:
            raise RefusedError("config", f"config.json, {name}", repr(allowed[0]), repr(config.get(name)))
    for name, expected in (("vocab_size", layout.vocabulary_size + 2), ("n_positions", layout.positions)):
        if config.get(name) != expected:
            raise RefusedError("config", f"config.json, {name}", str(expected), repr(config.get(name)))
    for name in ("n_embd", "n_head", "n_layer", "n_inner"):
        if type(config.get(name)) is not int or config[name] < 1:
            raise RefusedError("config", f"config.json, {name}", "an integer from 1 on", repr(config.get(name)))
    epsilon = config.get("layer_norm_epsilon")
    if not isinstance(epsilon, int | float) or not 0 < epsilon < math.inf:
        raise RefusedError("config", "config.json, layer_norm_epsilon", "a positive number", repr(epsilon))
    if config["n_embd"] % config["n_head"]:
        raise RefusedError("config", "config.json, n_embd", f"a multiple of {config['n_head']}", str(config["n_embd"]))


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a GPT2LMHeadModel with this configuration."""
    d, inner = config["n_embd"], config["n_inner"]
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config["vocab_size"], d),
        "transformer.wpe.weight": (config["n_positions"], d),
        "lm_head.weight": (config["vocab_size"], d),
        "transformer.ln_f.weight": (d,),
        "transformer.ln_f.bias": (d,),
    }
    for place in range(config["n_layer"]):
        at = f"transformer.h.{place}"
        found |= {f"{at}.{norm}.{part}": (d,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
        for name, (rows, columns) in {
            "attn.c_attn": (d, 3 * d),
            "attn.c_proj": (d, d),
            "mlp.c_fc": (d, inner),
            "mlp.c_proj": (inner, d),
        }.items():
            found |= {f"{at}.{name}.weight": (rows, columns), f"{at}.{name}.bias": (columns,)}
    return found


def check_tensors(tensors: Tensors, config: Mapping[str, Any]) -> None:
    """Raise RefusedError unless the tensors are those of the configuration, finite and of no denormal numbers."""
    expected = shapes(config)
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise RefusedError("tensors", name, "every tensor of the model and no other", "it is missing or unknown")
        tensor = tensors[name]
        if tensor.shape != expected[name]:
            raise RefusedError("tensors", name, f"the shape {expected[name]}", str(tensor.shape))
        if tensor.dtype not in (np.float32, np.float64):
            raise RefusedError("tensors", name, "float32, or float64 for the norms", str(tensor.dtype))
        if tensor.dtype == np.float64 and "ln_" not in name:
            raise RefusedError("tensors", name, "float32", "float64")
        size = np.abs(tensor)
        if not np.isfinite(tensor).all() or ((size != 0) & (size < 2.0**-120)).any() or (size > 2.0**100).any():
            raise RefusedError("tensors", name, "finite numbers, none denormal", "others")


def stock(tensors: Tensors, config: Mapping[str, Any], arithmetic: Arithmetic) -> Stock:
    """The transformer without norms of a stock model, its weights stored in the format of an arithmetic.

    Raises:
        RefusedError: the model is not of the form.
    """
    width, heads, layers = config["n_embd"], config["n_head"], config["n_layer"]
    size = width // heads
    scale, gain = _norms(tensors, float(config["layer_norm_epsilon"]), arithmetic)
    cast = {name: arithmetic.cast(tensor) for name, tensor in tensors.items() if "ln_" not in name}
    imbalance: dict[str, Float] = {}

    def written(name: str) -> Float:
        matrix = cast[name] / scale
        rows = matrix if matrix.ndim == 2 else matrix[None, :]
        imbalance[name] = np.array([abs(math.fsum(row[row != 0])) for row in rows])
        return matrix

    token, position = written("transformer.wte.weight"), written("transformer.wpe.weight")
    found = []
    for place in range(layers):
        at = f"transformer.h.{place}"
        for name in ("attn.c_attn.bias", "attn.c_proj.bias"):
            if cast[f"{at}.{name}"].any():
                raise RefusedError("biases", f"{at}.{name}", "0", "others")
        joined = cast[f"{at}.attn.c_attn.weight"].reshape(width, 3, heads, size).transpose(1, 2, 0, 3)
        outward = written(f"{at}.attn.c_proj.weight").reshape(heads, size, width)
        found.append(
            LayerWeights(
                _attention(joined, outward, math.sqrt(size)),
                _mlp(
                    cast[f"{at}.mlp.c_fc.weight"],
                    cast[f"{at}.mlp.c_fc.bias"],
                    written(f"{at}.mlp.c_proj.weight"),
                    written(f"{at}.mlp.c_proj.bias"),
                ),
            )
        )
    weights = TransformerWeights(_sparse(token), _sparse(position), tuple(found), _sparse(cast["lm_head.weight"].T))
    return Stock(weights, width, scale, float(config["layer_norm_epsilon"]), gain, math.sqrt(size), imbalance)


def _norms(tensors: Tensors, epsilon: float, arithmetic: Arithmetic) -> tuple[float, float]:
    """The scale, a power of two, and how far the gain of a norm can be off 1 without its variance."""
    weights = {name: tensors[name] for name in tensors if "ln_" in name and name.endswith(".weight")}
    for name, weight in weights.items():
        bias = name.removesuffix("weight") + "bias"
        if tensors[bias].any():
            raise RefusedError("norms", bias, "0", "others")
        if not (weight == weight[0]).all() or not weight[0] > 0:
            raise RefusedError("norms", name, "one positive number throughout", "others")
    first = float(tensors["transformer.ln_f.weight"][0])
    scale = 2.0 ** round(math.log2(math.sqrt(epsilon) / first))
    off = 0.0
    for weight in weights.values():
        exact = arithmetic.cast(weight[:1])[0]
        off = max(off, abs(float(exact) * scale / math.sqrt(epsilon) - 1))
    if arithmetic.narrow:  # torch may convert float64 by way of float32 or at once
        off += 2.0**-30
    # Real arithmetic: the roots taken here. Executed: eps in float32, the root, two products (B3).
    return scale, off + 2.0**-50 + (8 * V if arithmetic.sums else 0.0)


def _attention(joined: Float, outward: Float, root: float) -> AttentionWeights:
    """The heads that do anything, cut to the columns that are not 0; scores are divided by `root`."""
    query, key, value = joined
    # A head that attends counts though it should write nothing, as those of a sum do whose values are all 0.
    writes = value.any(axis=(1, 2)) & outward.any(axis=(1, 2))
    used = np.flatnonzero(writes | (query.any(axis=(1, 2)) & key.any(axis=(1, 2)))).tolist()
    width = query.shape[1]
    scores = [np.flatnonzero(query[head].any(axis=0) & key[head].any(axis=0)) for head in used]
    values = [np.flatnonzero(value[head].any(axis=0) & outward[head].any(axis=1)) for head in used]
    d_qk, d_value = max(map(len, scores), default=1) or 1, max(map(len, values), default=1) or 1
    parts = [
        np.zeros((len(used), width, d_qk)),
        np.zeros((len(used), width, d_qk)),
        np.zeros((len(used), width, d_value)),
    ]
    out = np.zeros((len(used), d_value, width))
    for place, (head, mine, theirs) in enumerate(zip(used, scores, values, strict=True)):
        parts[0][place, :, : len(mine)] = query[head][:, mine] / root
        parts[1][place, :, : len(mine)] = key[head][:, mine]
        parts[2][place, :, : len(theirs)] = value[head][:, theirs]
        out[place, : len(theirs)] = outward[head][theirs]
    made: list[Any] = [*parts, out]  # float64, as a quotient by the root may be
    return AttentionWeights(made[0], made[1], made[2], made[3])


def _mlp(w_in: Float, bias_in: Float, w_out: Float, bias_out: Float) -> MlpWeights:
    """The units that write anything."""
    used = np.flatnonzero(w_out.any(axis=1))
    return MlpWeights(
        _sparse(w_in[:, used]), bias_in[used].astype(np.float32), _sparse(w_out[used]), bias_out.astype(np.float32)
    )


def _sparse(matrix: Float) -> Any:
    rows, columns = np.nonzero(matrix)
    return sparse_matrix(matrix[rows, columns].astype(np.float32), rows, columns, (matrix.shape[0], matrix.shape[1]))
