"""The same weights as a torch module: batched, causal, on CPU or GPU, in four formats.

Table weights are applied sparsely where that takes less memory (a hand-built model is mostly zeros); a sparse
product in float16 or bfloat16 takes its operands in that format, sums in float32 and rounds once, as a dense one
does. No gradient is kept: the weights are a proof, not a starting point.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from construct.bounds import PRECISIONS
from construct.errors import InputError
from construct.residual_stream import Array
from construct.sparse import Sparse
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights

DTYPES = {name: getattr(torch, name) for name in PRECISIONS}

CHUNK_BYTES = 2**27
"""The hidden units of an MLP are computed for so many positions at a time that they take this much memory."""

Progress = Callable[[float], None]
"""Called with the share of the work that is done, from 0 to 1."""


@dataclass(frozen=True)
class Output:
    """What the model computed at the positions asked for.

    Args:
        stream: the residual stream after the last layer, shape [batch, positions, d_model].
        answer: the output q_hat over the alphabet, shape [batch, positions, alphabet].
    """

    stream: Tensor
    answer: Tensor


class TorchTransformer(nn.Module):
    """A transformer of the model class (`construct.transformer`) in torch.

    Args:
        weights: the weights.
        dtype: "float64", "float32", "bfloat16" or "float16".
        device: a torch device such as "cpu" or "cuda".
        dense: apply every matrix densely, whatever the memory.

    Raises:
        InputError: the dtype or the device is not known here.
    """

    def __init__(
        self, weights: TransformerWeights, *, dtype: str = "float32", device: str = "cpu", dense: bool = False
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise InputError(f"the dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
        form = DTYPES[dtype]
        self.token_embedding = _Embedding(weights.token_embedding, form)
        self.position_embedding = _Embedding(weights.position_embedding, form)
        self.layers = nn.ModuleList(_Layer(layer, form, dense=dense) for layer in weights.layers)
        self.unembedding = _Linear(weights.unembedding, None, form, dense=dense)
        self._move(device)

    def _move(self, device: str) -> None:
        try:
            if torch.device(device).type == "meta":
                raise RuntimeError("it holds shapes without numbers")
            self.to(torch.device(device))
        except (RuntimeError, AssertionError, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"the device {device!r} cannot be used: {reason}; --device cpu always can") from error

    @torch.no_grad()
    def forward(self, ids: Tensor, at: Tensor | None = None, progress: Progress | None = None) -> Output:
        """Run a batch of prompts.

        Args:
            ids: token ids, shape [batch, length]. Shorter prompts are padded on the right with any id: the mask
                is causal, so padding changes nothing before it.
            at: the positions whose output is wanted, shape [batch, positions]; None is all of them.
            progress: told how far the last layers have come.
        """
        with float32_sums():
            tokens: Tensor = self.token_embedding(ids)
            return self.run(tokens, at, progress)

    def run(self, content: Tensor, at: Tensor | None, progress: Progress | None) -> Output:
        """Run the layers on what stands at each position, shape [batch, length, d_model], without its position."""
        length = torch.arange(content.shape[1], device=content.device)
        stream = content + self.position_embedding(length)
        place = length.expand(content.shape[:2])
        for index, layer in enumerate(self.layers):
            context = stream
            if at is not None and index == len(self.layers) - 1:
                # Nothing later reads the other positions of the last layer.
                place = at
                stream = stream.gather(1, at[..., None].expand(-1, -1, stream.shape[-1]))
            share = None if progress is None else _part(progress, index, len(self.layers))
            stream = layer(stream, context, place, share)
        return Output(stream, self.unembedding(stream))


@contextmanager
def float32_sums() -> Iterator[None]:
    """On CUDA torch may add up narrow products in their own format; the bounds assume float32 (verify/rounding.py)."""
    settings = torch.backends.cuda.matmul
    names = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    before = {name: getattr(settings, name) for name in names}
    try:
        for name in names:
            setattr(settings, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


def _part(progress: Progress, index: int, count: int) -> Progress:
    return lambda share: progress((index + share) / count)


class _Layer(nn.Module):
    """Attention, then MLP, each added to the residual stream."""

    def __init__(self, weights: LayerWeights, form: torch.dtype, *, dense: bool) -> None:
        super().__init__()
        self.attention = _Attention(weights.attention, form)
        self.mlp = _Mlp(weights.mlp, form, dense=dense)

    def forward(self, stream: Tensor, context: Tensor, place: Tensor, progress: Progress | None) -> Tensor:
        """Queries at `stream`, whose positions are `place`; keys and values at `context`."""
        stream = stream + self.attention(stream, context, place)
        written: Tensor = self.mlp(stream, progress)
        return stream + written


class _Embedding(nn.Module):
    """Rows with few entries, kept as (coordinate, value) pairs padded with zeros to the longest row."""

    index: Tensor
    value: Tensor

    def __init__(self, matrix: Sparse, form: torch.dtype) -> None:
        super().__init__()
        counts = np.diff(matrix.indptr)
        longest = int(counts.max(initial=0))
        index = np.zeros((matrix.shape[0], longest), dtype=np.int64)
        value = np.zeros((matrix.shape[0], longest), dtype=np.float32)
        filled = np.arange(longest)[None, :] < counts[:, None]
        index[filled], value[filled] = matrix.indices, matrix.data
        self.d_model = int(matrix.shape[1])
        self.register_buffer("index", torch.from_numpy(index))
        self.register_buffer("value", torch.from_numpy(value).to(form))

    def forward(self, rows: Tensor) -> Tensor:
        empty = torch.zeros(*rows.shape, self.d_model, dtype=self.value.dtype, device=rows.device)
        return empty.scatter_add_(-1, self.index[rows], self.value[rows])


class _Linear(nn.Module):
    """x W + b, with W held dense or sparse, whichever is smaller."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, matrix: Sparse, bias: Array | None, form: torch.dtype, *, dense: bool) -> None:
        super().__init__()
        rows, columns = matrix.shape
        self.form = form
        # torch multiplies sparse matrices in float32 and float64 alone; products of narrower numbers fit float32.
        compute = torch.float64 if form == torch.float64 else torch.float32
        # Dense: the format's bytes an entry. Sparse: a value and an int32 column each, a row pointer a column of W.
        sparse_bytes = matrix.nnz * (compute.itemsize + 4) + 4 * (columns + 1)
        self.is_sparse = not dense and sparse_bytes < rows * columns * form.itemsize
        if self.is_sparse:
            transposed = matrix.T.tocsr()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
                weight = torch.sparse_csr_tensor(
                    torch.from_numpy(transposed.indptr.astype(np.int32)),
                    torch.from_numpy(transposed.indices.astype(np.int32)),
                    torch.from_numpy(transposed.data).to(form).to(compute),
                    size=(columns, rows),
                    check_invariants=True,
                )
        else:
            weight = torch.from_numpy(matrix.toarray().T.copy()).to(form)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if bias is None else torch.from_numpy(bias).to(form))

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_sparse:
            return functional.linear(x, self.weight, self.bias)
        flat = x.reshape(-1, x.shape[-1]).to(self.weight.dtype)
        product = (self.weight @ flat.T).T
        if self.bias is not None:
            product = product + self.bias.to(product.dtype)
        return product.to(self.form).reshape(*x.shape[:-1], -1)


class _Mlp(nn.Module):
    """relu(x W1 + b1) W2 + b2, some positions at a time."""

    def __init__(self, weights: MlpWeights, form: torch.dtype, *, dense: bool) -> None:
        super().__init__()
        self.inward = _Linear(weights.w_in, weights.bias_in, form, dense=dense)
        self.outward = _Linear(weights.w_out, weights.bias_out, form, dense=dense)
        self.width = int(weights.w_in.shape[1])

    def forward(self, stream: Tensor, progress: Progress | None) -> Tensor:
        flat = stream.reshape(-1, stream.shape[-1])
        step = max(1, CHUNK_BYTES // (4 * max(self.width, 1)))
        written = torch.empty_like(flat)
        for start in range(0, len(flat), step):
            hidden = torch.relu(self.inward(flat[start : start + step]))
            written[start : start + step] = self.outward(hidden)
            if progress is not None:
                progress(min(1.0, (start + step) / len(flat)))
        return written.reshape(stream.shape)


class _Attention(nn.Module):
    """All heads of a layer; the scale of the scores is in the weights, not 1/sqrt(d_head)."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor

    def __init__(self, weights: AttentionWeights, form: torch.dtype) -> None:
        super().__init__()
        self.heads, d_model, d_qk = weights.query.shape
        # The fused kernels want one width for queries, keys and values: pad with zeros.
        self.width = max(d_qk, weights.value.shape[2], 1)
        for name in ("query", "key", "value"):
            part = getattr(weights, name)
            padded = np.zeros((self.heads, d_model, self.width), dtype=np.float32)
            padded[..., : part.shape[2]] = part
            together = padded.transpose(0, 2, 1).reshape(self.heads * self.width, d_model)
            self.register_buffer(name, torch.from_numpy(together.copy()).to(form))
        padded = np.zeros((self.heads, self.width, d_model), dtype=np.float32)
        padded[:, : weights.output.shape[1]] = weights.output
        together = padded.reshape(self.heads * self.width, d_model).T
        self.register_buffer("output", torch.from_numpy(together.copy()).to(form))

    def forward(self, stream: Tensor, context: Tensor, place: Tensor) -> Tensor:
        """Queries from `stream`, whose positions are `place`; keys and values from `context`."""
        query = self._split(functional.linear(stream, self.query))
        key, value = (self._split(functional.linear(context, part)) for part in (self.key, self.value))
        if stream is context:
            read = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0)
        else:
            earlier = torch.arange(context.shape[1], device=place.device) <= place[:, None, :, None]
            read = functional.scaled_dot_product_attention(query, key, value, attn_mask=earlier, scale=1.0)
        return functional.linear(read.transpose(1, 2).flatten(-2), self.output)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, self.width).transpose(1, 2)
