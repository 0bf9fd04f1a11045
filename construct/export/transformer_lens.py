"""The plain form of a construction in TransformerLens: a TransformerBridge of TransformerLens' own model class.

That class without normalisation is ours but for three things. It divides the scores by a number, and refuses 1: it
divides by 2 here, and Wq is doubled, which is exact. All layers have as many heads, of one size, and as many units:
what a layer does not have is 0 and writes nothing. The unembedding gives no logits but the mixture q itself.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from construct.errors import InputError
from construct.memory import refuse_beyond_memory
from construct.residual_stream import Array
from construct.sparse import Sparse
from construct.theorems import Construction
from construct.transformer import TransformerWeights

SCORES_DIVIDED_BY = 2.0

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def transformer_lens(construction: Construction, *, precision: str = "float64") -> Any:
    """A TransformerBridge that computes what `construct.transformer.forward` does.

    Layers and units have the construction's places, its heads the first of each layer; hook names are those of
    `construct.ground_truth`. It takes token ids, shape [batch, T], and gives q, shape [batch, T, V].

    Args:
        construction: the construction; of any theorem on tokens.
        precision: "float64" or "float32".

    Raises:
        InputError: TransformerLens 4 is not installed, or the precision is unknown.
        TooLargeError: the dense weights do not fit into memory.
    """
    if precision not in DTYPES:
        raise InputError(f"the precision is {precision!r}: expected one of {', '.join(DTYPES)}")
    weights = construction.weights
    size = _Size(weights)
    dtype = DTYPES[precision]
    # The model, and the state that is copied into it.
    refuse_beyond_memory(2 * size.parameters(weights) * dtype.itemsize, "a model of TransformerLens, all dense,")
    lens, config = _package()
    bridge = lens.boot_native(
        config(
            d_model=weights.d_model,
            d_head=size.head,
            n_heads=size.heads,
            n_layers=len(weights.layers),
            n_ctx=construction.layout.positions,
            d_mlp=size.units,
            d_vocab=construction.layout.vocabulary_size,
            d_vocab_out=construction.layout.alphabet_size,
            act_fn="relu",
            normalization_type=None,
            attn_scale=SCORES_DIVIDED_BY,
            init_weights=False,
            dtype=dtype,
        ),
        device="cpu",
        dtype=dtype,
        model_name=construction.task_set.name,
    )
    state = {name: torch.from_numpy(np.ascontiguousarray(tensor)).to(dtype) for name, tensor in _state(weights, size)}
    bridge.load_state_dict(state)
    return bridge.eval()


def _package() -> tuple[Any, Any]:
    """TransformerBridge and the class of its configuration."""
    try:
        package, configuration = (
            import_module("transformer_lens.model_bridge"),
            import_module("transformer_lens.config"),
        )
        import_module("transformer_lens.model_bridge.sources.native")
        return package.TransformerBridge, configuration.TransformerBridgeConfig
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"TransformerLens 4 is needed ({error}): pip install 'task-superposition[interpretability]'"
        ) from error


class _Size:
    """One number of heads, one head size and one number of units for all layers, at least 1 each."""

    def __init__(self, weights: TransformerWeights) -> None:
        attention = [layer.attention for layer in weights.layers]
        self.heads = max(1, *weights.heads)
        self.head = max(1, *(max(part.query.shape[2], part.value.shape[2]) for part in attention))
        self.units = max(1, *weights.mlp_width)

    def parameters(self, weights: TransformerWeights) -> int:
        d, together = weights.d_model, self.heads * self.head
        layer = 4 * d * together + 3 * together + d + 2 * d * self.units + self.units + d
        embedded = weights.token_embedding.shape[0] + weights.position_embedding.shape[0]
        return int(len(weights.layers) * layer + d * (embedded + weights.unembedding.shape[1]))


def _state(weights: TransformerWeights, size: _Size) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The weights by TransformerLens' names; its matrices are [out, in]."""
    d, together = weights.d_model, size.heads * size.head
    yield "embed.weight", _dense(weights.token_embedding)
    yield "pos_embed.weight", _dense(weights.position_embedding)
    yield "unembed.weight", _dense(weights.unembedding).T
    yield "unembed.bias", np.zeros(weights.unembedding.shape[1])
    for place, layer in enumerate(weights.layers):
        at, attention, mlp = f"blocks.{place}", layer.attention, layer.mlp
        query = SCORES_DIVIDED_BY * _dense(attention.query)
        for name, part in (("q", query), ("k", _dense(attention.key)), ("v", _dense(attention.value))):
            wide = np.zeros((size.heads, size.head, d))
            wide[: part.shape[0], : part.shape[2]] = part.transpose(0, 2, 1)
            yield f"{at}.attn.{name}.weight", wide.reshape(together, d)
            yield f"{at}.attn.{name}.bias", np.zeros(together)
        outward = np.zeros((size.heads, size.head, d))
        outward[: attention.output.shape[0], : attention.output.shape[1]] = attention.output
        yield f"{at}.attn.o.weight", outward.reshape(together, d).T
        yield f"{at}.attn.o.bias", np.zeros(d)
        units = size.units - len(mlp.bias_in)
        yield f"{at}.mlp.in.weight", np.pad(_dense(mlp.w_in).T, ((0, units), (0, 0)))
        yield f"{at}.mlp.in.bias", np.pad(_dense(mlp.bias_in), (0, units))
        yield f"{at}.mlp.out.weight", np.pad(_dense(mlp.w_out).T, ((0, 0), (0, units)))
        yield f"{at}.mlp.out.bias", _dense(mlp.bias_out)


def _dense(matrix: Array | Sparse) -> NDArray[np.float64]:
    dense: Array = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
    return dense.astype(np.float64)
