"""Classes of residual states by role: a centre and a radius per coordinate, read off the embeddings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.prompts import Layout
from construct.sparse import Sparse
from construct.transformer import TransformerWeights
from verify.exact import INFLATION, Float


@dataclass(frozen=True)
class Box:
    """All vectors within `radius` of `centre`, coordinate by coordinate; radius 0 is exact.

    Args:
        centre: shape [..., size].
        radius: the same shape.
    """

    centre: Float
    radius: Float


def box_of_rows(rows: Sparse) -> Box:
    """The least box that holds all rows of a matrix, rounded outwards."""
    if rows.shape[0] == 0:
        return Box(np.zeros(rows.shape[1]), np.zeros(rows.shape[1]))
    high = np.asarray(rows.max(axis=0).toarray(), dtype=np.float64).ravel()
    low = np.asarray(rows.min(axis=0).toarray(), dtype=np.float64).ravel()
    return Box((high + low) / 2, (high - low) / 2 * INFLATION)


@dataclass(frozen=True)
class Roles:
    """The positions of each role, and the embeddings in float64.

    Args:
        layout: V, n, m.
        x: the positions of inputs, shape [m + 1, n].
        eq: the positions of EQ, shape [m + 1].
        y: the positions of answers, shape [m].
        token: E, shape [V + 2, d_model].
        position: P, shape [T, d_model].
    """

    layout: Layout
    x: NDArray[np.int_]
    eq: NDArray[np.int_]
    y: NDArray[np.int_]
    token: Sparse
    position: Sparse

    @property
    def content(self) -> Sparse:
        """The rows of E for the alphabet."""
        return self.token[: self.layout.alphabet_size]

    def positions(self, role: str) -> NDArray[np.int_]:
        """The positions of a role, flat."""
        return {"bos": np.zeros(1, dtype=np.int_), "x": self.x.ravel(), "eq": self.eq, "y": self.y}[role]

    def tokens(self, role: str) -> Sparse:
        """The rows of E that can stand at a role."""
        bos = self.layout.bos
        return {"bos": self.token[[bos]], "eq": self.token[[bos + 1]]}.get(role, self.content)

    def state(self, role: str) -> Box:
        """The box of X = E + P over all positions and tokens of a role."""
        position, token = box_of_rows(self.position[self.positions(role)]), box_of_rows(self.tokens(role))
        return Box(position.centre + token.centre, position.radius + token.radius)


def roles_of(weights: TransformerWeights, layout: Layout) -> Roles:
    """The roles of a layout's positions, with the embeddings that stand there."""
    examples = np.arange(layout.examples + 1)
    eq = (examples + 1) * (layout.inputs + 2) - 1
    x = 1 + examples[:, None] * (layout.inputs + 2) + np.arange(layout.inputs)
    return Roles(
        layout,
        x,
        eq,
        eq[:-1] + 1,
        weights.token_embedding.astype(np.float64),
        weights.position_embedding.astype(np.float64),
    )
