"""A construction as a TransformerLens model, without normalisation: its heads, units and stream under hooks.

TransformerLens 4 makes a TransformerBridge around a network of its own (`boot_native`), which may have no normalisation
and any head size: the construction fits in as it is. Only narrower heads, missing heads and missing units are padded
with zeros. The scores are divided by a number that must not be 1: it is 2, and the queries are doubled, which is exact.
"""

from typing import Any

import numpy as np
import torch

from construct.errors import InputError
from construct.memory import refuse_beyond_memory
from construct.residual_stream import Array
from construct.transformer import TransformerWeights

SCORES_DIVIDED_BY = 2.0


def transformer_lens_model(weights: TransformerWeights, *, dtype: torch.dtype = torch.float64) -> Any:
    """A TransformerBridge that computes what `construct.transformer.forward` does; its logits are the output X U.

    Block l, head h and unit u are those of the weights, the residual stream has their d_model coordinates. Where a
    layer has fewer heads than another, the heads beyond them are zeros, and so are its units.

    Args:
        weights: a construction's, or a readout's (`construct.export.readout`), whose logits are then real logits.
        dtype: the format of all weights.

    Raises:
        InputError: transformer-lens is not installed.
        TooLargeError: the dense weights do not fit into memory.
    """
    try:
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge
        from transformer_lens.model_bridge.sources import native
    except ImportError as error:
        raise InputError(
            "transformer-lens (4 or newer) is not installed: it comes with the extra interpretability, as in "
            "pip install 'task-superposition[interpretability]'"
        ) from error
    assert native, "importing the source gives TransformerBridge its boot_native"
    heads = max(weights.heads)
    used = [layer.attention for layer in weights.layers if len(layer.attention.query)]
    size = max(max(attention.query.shape[2], attention.value.shape[2]) for attention in used)
    width = max(weights.mlp_width)
    d = weights.d_model
    total = len(weights.layers) * (4 * d * heads * size + 2 * d * width)
    total += d * (weights.token_embedding.shape[0] + weights.position_embedding.shape[0] + weights.unembedding.shape[1])
    # The float64 arrays that are copied, and the model.
    refuse_beyond_memory((8 + dtype.itemsize) * total, f"a TransformerBridge of {total:,} parameters, all dense,")
    config = TransformerBridgeConfig(
        d_model=weights.d_model,
        d_head=size,
        n_heads=heads,
        n_layers=len(weights.layers),
        n_ctx=int(weights.position_embedding.shape[0]),
        d_vocab=int(weights.token_embedding.shape[0]),
        d_vocab_out=int(weights.unembedding.shape[1]),
        d_mlp=width,
        act_fn="relu",
        normalization_type=None,
        attn_scale=SCORES_DIVIDED_BY,
        init_weights=False,
        dtype=dtype,
    )
    bridge = TransformerBridge.boot_native(config, dtype=dtype, device="cpu")
    with torch.no_grad():
        for name, value in _parameters(weights, heads, size, width).items():
            parameter = bridge.original_model.get_parameter(name)
            parameter.copy_(torch.from_numpy(value))
    return bridge.eval()


def _parameters(weights: TransformerWeights, heads: int, size: int, width: int) -> dict[str, Any]:
    """By the names of transformer_lens' NativeModel; a linear layer's weight has shape [outputs, inputs]."""
    d = weights.d_model
    found: dict[str, Any] = {
        "tok_embed.weight": weights.token_embedding.toarray(),
        "pos.weight": weights.position_embedding.toarray(),
        "head.weight": weights.unembedding.toarray().T,
    }
    for place, layer in enumerate(weights.layers):
        attention, mlp, at = layer.attention, layer.mlp, f"layers.{place}"
        query = attention.query.astype(np.float64) * SCORES_DIVIDED_BY
        for name, part in (("q", query), ("k", attention.key), ("v", attention.value)):
            wide = np.zeros((heads, size, d))
            wide[: len(part), : part.shape[2]] = part.transpose(0, 2, 1)
            found |= {f"{at}.attn.{name}.weight": wide.reshape(-1, d), f"{at}.attn.{name}.bias": np.zeros(heads * size)}
        out = np.zeros((heads, size, d))
        out[: len(attention.output), : attention.output.shape[1]] = attention.output
        found |= {f"{at}.attn.o.weight": out.reshape(-1, d).T, f"{at}.attn.o.bias": np.zeros(d)}
        units = mlp.w_in.shape[1]
        w_in, w_out = np.zeros((width, d)), np.zeros((d, width))
        w_in[:units], w_out[:, :units] = mlp.w_in.toarray().T, mlp.w_out.toarray().T
        found |= {f"{at}.mlp.fc_in.weight": w_in, f"{at}.mlp.fc_in.bias": _padded(mlp.bias_in, width)}
        found |= {f"{at}.mlp.fc_out.weight": w_out, f"{at}.mlp.fc_out.bias": mlp.bias_out}
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def _padded(vector: Array, size: int) -> Array:
    return np.pad(vector, (0, size - len(vector)))
