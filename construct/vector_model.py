"""Forward passes of a construction on vectors: float64 to be read, and torch.

The embedding is linear: X = V E + P with V the prompt's vectors, 0 at BOS and EQ. All else is that of the model class.
"""

import numpy as np
import torch
from torch import Tensor

from construct.residual_stream import Array
from construct.torch_model import DTYPES, Output, Progress, TorchTransformer, float32_sums
from construct.transformer import Trace, TransformerWeights, forward_from


def forward_vectors(weights: TransformerWeights, vectors: Array) -> Trace:
    """The plain forward pass in float64 of one prompt's vectors, shape [T, d]."""
    content = vectors.astype(np.float64) @ weights.token_embedding.astype(np.float64)
    position = weights.position_embedding[: len(vectors)].astype(np.float64).toarray()
    return forward_from(weights, np.asarray(content + position))


class VectorTransformer(TorchTransformer):
    """The torch module of a construction on vectors; its arguments are those of `TorchTransformer`."""

    embedding: Tensor

    def __init__(
        self, weights: TransformerWeights, *, dtype: str = "float32", device: str = "cpu", dense: bool = False
    ) -> None:
        super().__init__(weights, dtype=dtype, device=device, dense=dense)
        matrix = torch.from_numpy(weights.token_embedding.toarray()).to(DTYPES[dtype]).to(device)
        self.register_buffer("embedding", matrix)

    @torch.no_grad()
    def forward(self, ids: Tensor, at: Tensor | None = None, progress: Progress | None = None) -> Output:
        """Run a batch of prompts.

        Args:
            ids: the vectors, shape [batch, length, d]; shorter prompts are padded on the right.
            at: the positions whose output is wanted, shape [batch, positions]; None is all of them.
            progress: told how far the last layers have come.
        """
        with float32_sums():
            return self.run(ids.to(self.embedding.dtype) @ self.embedding, at, progress)
