"""What stands in the stream of the seven layers, by role: intervals that hold it for every prompt, layer by layer.

Sums of numbers on a coarse common grid are exact in float64 (verify/exact.py), so an interval that ends at 0 stays so;
elsewhere the ends are moved outwards by what float64 may lose.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.sparse import Sparse
from construct.transformer import AttentionWeights, MlpWeights
from verify.attention import HeadFacts
from verify.boxes import Box, Roles
from verify.exact import INFLATION, Float, common_slack
from verify.rows import NotProvableError

ROLES = ("bos", "x", "eq", "y")
ALONE = "y alone"
"""The stream at y without the token's own embedding, for lemmas that take the token one by one."""

Columns = NDArray[np.int_]
GRID = 2.0**20
"""Ranges that a lemma states are rounded outwards to multiples of 1/GRID."""


@dataclass(frozen=True)
class Interval:
    """All vectors between `low` and `high`, coordinate by coordinate; both of one shape."""

    low: Float
    high: Float

    def plus(self, other: "Interval") -> "Interval":
        """The sum, rounded outwards where it is not exact."""
        return Interval(_sum(self.low, other.low, -np.inf), _sum(self.high, other.high, np.inf))

    @property
    def most(self) -> Float:
        """The largest absolute value, coordinate by coordinate."""
        return np.asarray(np.maximum(np.abs(self.low), np.abs(self.high)))

    @property
    def box(self) -> Box:
        """The same as centre and radius."""
        centre = (self.low + self.high) / 2
        apart = self.low != self.high
        return Box(centre, ((self.high - self.low) / 2 * INFLATION + np.abs(centre) * 2.0**-50) * apart)


def _sum(first: Float, second: Float, outwards: float) -> Float:
    total = first + second
    back = total - first
    exact = (first == total - back) & (second == back)
    return np.asarray(np.where(exact, total, np.nextafter(total, outwards)))


class Stream:
    """The stream's intervals by role as the layers are gone through, and what drifted since a lemma spoke of it."""

    def __init__(self, roles: Roles) -> None:
        self.at = {role: _hull(roles.position[roles.positions(role)]) for role in ROLES}
        self.at[ALONE] = self.at["y"]
        for role in ROLES:
            self.at[role] = self.at[role].plus(_hull(roles.tokens(role)))
        self.drift = {role: np.zeros(roles.position.shape[1]) for role in self.at}

    def add(self, role: str, written: Interval) -> None:
        """Add what a layer writes at a role."""
        for name in (role, ALONE) if role == "y" else (role,):
            self.at[name] = self.at[name].plus(written)
            self.drift[name] = (self.drift[name] + written.most) * INFLATION

    def settle(self, role: str, columns: Columns, low: Float, high: Float) -> None:
        """Take over what a lemma proved: the coordinates lie in [low, high]; their drift starts anew."""
        for name in (role, ALONE) if role == "y" else (role,):
            stream = self.at[name]
            least, most = stream.low.copy(), stream.high.copy()
            least[columns], most[columns] = np.floor(low * GRID) / GRID, np.ceil(high * GRID) / GRID
            self.at[name] = Interval(least, most)
            self.drift[name][columns] = 0.0


def _hull(rows: Sparse) -> Interval:
    if rows.shape[0] == 0:
        return Interval(np.zeros(rows.shape[1]), np.zeros(rows.shape[1]))
    low, high = rows.min(axis=0).toarray(), rows.max(axis=0).toarray()
    return Interval(np.asarray(low, dtype=np.float64).ravel(), np.asarray(high, dtype=np.float64).ravel())


def heads_range(heads: Sequence[HeadFacts], d_model: int) -> Interval:
    """What the read heads can write anywhere: convex combinations of what tokens give."""
    total = Interval(np.zeros(d_model), np.zeros(d_model))
    for head in heads:
        spread = Interval(-head.spread, head.spread)
        total = total.plus(Interval(head.values.min(axis=0), head.values.max(axis=0)).plus(spread))
    return total


def hidden_range(mlp: MlpWeights, stream: Interval) -> Interval:
    """The least and the greatest value of every hidden unit, for every stream in the interval."""
    inward = mlp.w_in.astype(np.float64)
    arguments = _image(inward, mlp.bias_in.astype(np.float64), stream)
    return Interval(np.maximum(arguments.low, 0.0), np.maximum(arguments.high, 0.0))


def written_range(mlp: MlpWeights, stream: Interval) -> Interval:
    """What an MLP writes, for every stream in the interval."""
    return _image(mlp.w_out.astype(np.float64), mlp.bias_out.astype(np.float64), hidden_range(mlp, stream))


def _image(matrix: Sparse, bias: Float, source: Interval) -> Interval:
    """The interval of x matrix + bias."""
    used = np.flatnonzero(np.diff(matrix.indptr))
    low, high = source.low[used], source.high[used]
    rows = matrix[used]
    positive, negative = rows.maximum(0), rows.minimum(0)
    least = np.asarray(low @ positive + high @ negative) + bias
    most = np.asarray(high @ positive + low @ negative) + bias
    if not (np.isfinite(least).all() and np.isfinite(most).all()):
        raise NotProvableError("the stream cannot be bounded")
    terms = int(np.diff(rows.tocsc().indptr).max(initial=0))
    lost = common_slack([([rows.data, low], terms), ([rows.data, high], terms), ([bias], 1)])
    loss = lost * (np.diff(rows.tocsc().indptr) > 0)
    return Interval(least - loss, most + loss)


@dataclass(frozen=True)
class Arguments:
    """The arguments of some units of an MLP where some coordinates are known case by case.

    Args:
        base: the part of the bias and of all other coordinates, shape [units].
        radius: how far that, and the known coordinates, may be off, shape [units].
        known: W1 on the known coordinates, shape [known, units].
        size: the sum of the absolute values of the terms of `base`, at the most, shape [units].
    """

    base: Float
    radius: Float
    known: Float
    size: Float


def arguments(
    mlp: MlpWeights, stream: Interval, units: Columns, columns: Columns, error: Float, values: Sequence[Float]
) -> Arguments:
    """The arguments of `units` with the coordinates `columns` left to be enumerated, each off by at most `error`.

    `values` are the numbers that the caller will multiply with weights, for what float64 may lose on them.
    """
    block = mlp.w_in.astype(np.float64)[:, units]
    known = np.asarray(block[columns].toarray())
    kept = np.ones(block.shape[0])
    kept[columns] = 0.0
    bias = mlp.bias_in.astype(np.float64)[units]
    rest = _image(block, bias, Interval(stream.low * kept, stream.high * kept))
    middle = rest.box
    terms = int(np.diff(block.tocsc().indptr).max(initial=0))
    lost = common_slack([*(([block.data, part], terms) for part in values), ([middle.centre], 1)])
    size = (np.asarray((stream.most * kept) @ abs(block)) + np.abs(bias)) * INFLATION
    return Arguments(middle.centre, (middle.radius + error @ np.abs(known)) * INFLATION + lost, known, size)


def writers(mlp: MlpWeights, column: int) -> Columns:
    """The units that write a coordinate."""
    block = mlp.w_out[:, [column]].tocoo()
    return np.unique(block.coords[0][block.data != 0]).astype(np.int_)


def outputs(mlp: MlpWeights, units: Columns, column: int) -> Float:
    """What the units write to a coordinate, shape [units]."""
    return np.asarray(mlp.w_out.astype(np.float64)[units][:, [column]].toarray()).ravel()


def rows_read(attention: AttentionWeights) -> Columns:
    """The coordinates that the heads of a layer read, as queries, keys or values."""
    used = [part.any(axis=(0, 2)) for part in (attention.query, attention.key, attention.value)]
    return np.flatnonzero(np.any(used, axis=0)).astype(np.int_)


def columns_written(mlp: MlpWeights) -> Columns:
    """The coordinates that an MLP can write."""
    return np.union1d(np.unique(mlp.w_out.indices), np.flatnonzero(mlp.bias_out)).astype(np.int_)
