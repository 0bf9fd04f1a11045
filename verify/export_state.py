"""What stands in the stream of a stock model at one role, layer by layer, as far as its layer norms care.

A layer norm subtracts the mean. Every row that is written sums to 0, so the mean is what rounding, and rows that do not
sum to 0 (`Stock.imbalance`), leave of it. `Ledger` keeps count of both: the sum of absolute values and the sum of what
the coordinates were rounded by.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.transformer import MlpWeights
from verify.boxes import Roles
from verify.exact import INFLATION, Float
from verify.export_arithmetic import MEAN, Arithmetic, Norm
from verify.export_places import columns_of
from verify.export_weights import Stock

Units = NDArray[np.int_]


@dataclass(frozen=True)
class Group:
    """Units whose hidden values add up to at most `total`, for every prompt."""

    units: Units
    total: float


@dataclass
class Ledger:
    """The stream at a role.

    Args:
        size: the most that the absolute values of all coordinates add up to.
        column: the most in each coordinate, shape [width].
        skew: how far the sum of all coordinates can be off 0.
        whole: which coordinates are integers that the format holds, without error, shape [width].
        partner: by coordinate, which other one holds its negative, -1 for none, shape [width].
    """

    size: float
    column: Float
    skew: float
    whole: NDArray[np.bool_]
    partner: NDArray[np.int_]

    def norm(self, stock: Stock, arithmetic: Arithmetic) -> Norm:
        """The layer norm of this stream."""
        variance = self.size**2 / stock.width * stock.scale**2 / stock.epsilon
        shift = (self.skew + MEAN * arithmetic.sums * self.size) / stock.width
        return Norm((stock.gain + variance) * INFLATION, shift * INFLATION, arithmetic)

    def write(
        self,
        rows: Float,
        groups: Iterable[Group],
        imbalance: Float,
        arithmetic: Arithmetic,
        *,
        exact: bool = False,
        terms: Float | None = None,
        matrix: Float | None = None,
    ) -> None:
        """Add what units (or tokens that are attended to) write: at most one row for each unit of a group's total.

        Args:
            rows: the rows written, shape [units, width].
            groups: disjoint groups of them.
            imbalance: by how much rows do not sum to 0, shape [units].
            arithmetic: the arithmetic.
            exact: whether the results are integers that the format holds.
            terms: how many numbers are summed in each coordinate, shape [width]; None: as many as rows that write it.
            matrix: the matrix that writes, if it is not `rows`: its mirrored columns are rounded alike (B5).
        """
        size = np.abs(rows)
        partner = mirrored(rows if matrix is None else matrix)
        alone = partner < 0
        terms = (rows != 0).sum(axis=0) if terms is None else terms
        added, column, lost, crooked, stored = 0.0, np.zeros(rows.shape[1]), 0.0, 0.0, 0.0
        for group in groups:
            if not len(group.units) or not group.total:
                continue
            mine = size[group.units]
            added += group.total * float(mine.sum(axis=1).max())
            column += group.total * mine.max(axis=0)
            lost += group.total * float((mine @ (terms * alone)).max())
            stored += group.total * float((mine @ alone).max())
            crooked += group.total * float(imbalance[group.units].max())
        # What was mirrored and is again, by the same coordinate, is rounded alike when it is added up, too.
        fresh = self.column == 0
        same = (fresh | (self.partner == partner)) & ~alone
        whole = self.whole & ((column == 0) | (exact & (self.column + column <= 2.0**8)))
        self.skew += crooked * INFLATION
        if not (exact and (not arithmetic.narrow or column.max() <= 2.0**8)):
            self.skew += (arithmetic.sums * lost + arithmetic.storage * stored) * INFLATION
        both = ~fresh & (column > 0) & ~same & ~whole
        self.skew += (arithmetic.storage or arithmetic.sums) * float((self.column + column)[both].sum()) * INFLATION
        self.partner = np.where(column == 0, self.partner, np.where(same, partner, -1))
        self.whole = whole
        self.size = (self.size + added) * INFLATION
        self.column = (self.column + column) * INFLATION


def mirrored(matrix: Float) -> NDArray[np.int_]:
    """For each column, the column that is its negative, -1 for none; in pairs."""
    found = np.full(matrix.shape[1], -1)
    waiting: dict[bytes, int] = {}
    for at in np.flatnonzero(matrix.any(axis=0)):
        column = matrix[:, at] + 0.0
        partner = waiting.pop((0.0 - column).tobytes(), None)
        if partner is None:
            waiting[column.tobytes()] = int(at)
        else:
            found[partner], found[at] = at, partner
    return found


def embedded(stock: Stock, roles: Roles, role: str, arithmetic: Arithmetic) -> Ledger:
    """The stream at a role before the first layer: a token's row plus a position's."""
    places = roles.positions(role)
    layout = roles.layout
    tokens = {"bos": np.array([layout.bos]), "eq": np.array([layout.eq])}.get(role, np.arange(layout.alphabet_size))
    position, token = np.abs(roles.position[places].toarray()), np.abs(roles.token[tokens].toarray())
    if not len(places):
        return Ledger(
            0.0,
            np.zeros(stock.width),
            0.0,
            whole=np.ones(stock.width, dtype=np.bool_),
            partner=np.full(stock.width, -1),
        )
    column = position.max(axis=0) + token.max(axis=0)
    size = float(position.sum(axis=1).max() + token.sum(axis=1).max()) * INFLATION
    skew = float(stock.imbalance["transformer.wpe.weight"][places].max())
    skew += float(stock.imbalance["transformer.wte.weight"][tokens].max())
    whole = (position == np.round(position)).all(axis=0) & (token == np.round(token)).all(axis=0) & (column <= 2.0**8)
    both = (position.max(axis=0) > 0) & (token.max(axis=0) > 0) & ~whole
    skew += (arithmetic.storage or arithmetic.sums) * float(column[both].sum())
    return Ledger(size, column, skew * INFLATION, whole, np.full(stock.width, -1))


def dense_out(mlp: MlpWeights) -> Float:
    """W2, dense, float64."""
    return np.asarray(mlp.w_out.toarray(), dtype=np.float64)


def integral(mlp: MlpWeights, units: Units) -> bool:
    """Whether all weights of some units are integers."""
    parts = (mlp.w_in.tocsc()[:, units].data, mlp.bias_in[units], mlp.w_out[units].data)
    return all(bool((part == np.round(part)).all()) for part in parts)


def written_columns(stock: Stock, layers: int) -> Units:
    """The coordinates that the first layers write."""
    found = [columns_of(layer) for layer in stock.weights.layers[:layers]]
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int_), *found])).astype(np.int_)
