"""One layer's MLP as the proof sees it: columns by task, arguments by role, bounds by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from construct.sparse import Sparse
from construct.transformer import MlpWeights
from verify.attention import HeadFacts
from verify.boxes import Box, Roles
from verify.exact import INFLATION, Float, common_slack

CHUNK = 4096
"""Units looked at together."""


@dataclass(frozen=True)
class Layer:
    """The MLP of one layer, in float64, with the states that enter it.

    Args:
        weights: the MLP.
        roles: the positions.
        states: by role, the box of the stream apart from what the read heads wrote.
        heads: the read heads.
    """

    weights: MlpWeights
    roles: Roles
    states: Mapping[str, Box]
    heads: Sequence[HeadFacts]

    @cached_property
    def w_in(self) -> Any:
        """W1 by columns."""
        return self.weights.w_in.astype(np.float64).tocsc()

    @cached_property
    def w_in_rows(self) -> Sparse:
        """W1 by rows."""
        return self.weights.w_in.astype(np.float64).tocsr()

    @cached_property
    def w_out(self) -> Sparse:
        """W2 by rows."""
        return self.weights.w_out.astype(np.float64)

    @cached_property
    def w_out_columns(self) -> Any:
        """W2 by columns."""
        return self.w_out.tocsc()

    @cached_property
    def slack(self) -> float:
        """What float64 can lose in an argument: 0 where the weights are on a common grid that is coarse enough."""
        used = self.weights.w_in.data
        values = [head.values for head in self.heads]
        together = np.concatenate([part.ravel() for part in values]) if values else np.zeros(0)
        terms = 64 + int(np.diff(self.w_in.indptr).max(initial=0))
        read = ([used, part] for part in (together, self.roles.position.data, self.roles.token.data))
        return common_slack([*((factors, terms) for factors in read), ([self.weights.bias_in], 1)])

    def base(
        self, role: str, units: NDArray[np.int_] | slice, without: NDArray[np.int_] | None = None
    ) -> tuple[Float, Float]:
        """The argument's part from the role's state and the bias: centre and radius, shape [units].

        Coordinates in `without` are left to the caller, as what the read heads write and, at x and y, the token.
        """
        box = self.states[role]
        centre, radius = box.centre, box.radius
        if without is not None:
            centre, radius = centre.copy(), radius.copy()
            centre[without] = radius[without] = 0.0
        block = self.w_in[:, units]
        return (
            np.asarray(centre @ block) + self.weights.bias_in.astype(np.float64)[units],
            np.asarray(radius @ abs(block)) * INFLATION + self.slack,
        )

    def token_part(self, units: NDArray[np.int_] | slice) -> Float:
        """E W1 over the alphabet, shape [V, units]."""
        return np.asarray((self.roles.content @ self.w_in[:, units]).toarray())

    def upper(self, role: str, units: NDArray[np.int_]) -> Float:
        """An upper bound of the units' arguments at a role, whatever the heads attend to, shape [units]."""
        centre, radius = self.base(role, units)
        total = centre + radius
        if role in ("x", "y"):
            total = total + self.token_part(units).max(axis=0)
        return np.asarray(total + self.heads_high[units])

    @cached_property
    def heads_high(self) -> Float:
        """The most that the read heads can add to each unit's argument, whatever they attend to, shape [units]."""
        total = np.zeros(self.w_in.shape[1])
        for head in self.heads:
            block = self.w_in_rows[head.columns]
            units = np.unique(block.indices).astype(np.int_)
            for start in range(0, len(units), CHUNK):
                part = units[start : start + CHUNK]
                weights = block[:, part].toarray()
                spread = head.spread[head.columns] @ np.abs(weights) * INFLATION
                total[part] += (head.values[:, head.columns] @ weights).max(axis=0) + spread
        return total

    def writers(self, columns: NDArray[np.int_]) -> NDArray[np.int_]:
        """The units that write one of the coordinates."""
        block = self.w_out_columns[:, columns]
        return np.unique(block.indices[block.data != 0]).astype(np.int_)

    def readers(self, rows: NDArray[np.int_]) -> NDArray[np.int_]:
        """The units that read one of the coordinates."""
        block = self.w_in_rows[rows]
        return np.unique(block.indices[block.data != 0]).astype(np.int_)
