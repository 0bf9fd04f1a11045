"""What an arithmetic adds to a sum, and boxes of states under affine maps and ReLU.

One analysis serves real arithmetic (u = 0) and float32 (u = 2^-24). Assumed of a machine, beside A1 and A3 of
`verify.rounding` (products summed in float32 in any order, fused or not; conversions to nearest):
  A2' each unnormalised weight of the softmax, exp(score - largest score) in one step or rescaled block by block, has a
      relative error of at most (8 + 4 |t|) u, t the exponent, for t >= -24, and is at most twice too large below; that
      of the largest score is exactly 1. The division, and the product with a value, are off by at most 2 u each.

A sum of n products is off by at most n u times the sum of absolute values; by nothing if it has one term and the weight
is a power of two, or if all terms lie on one dyadic grid and their absolute values add up to less than 2^24 steps. A
term that is 0 counts for nothing. This analysis itself is in float64: what that can lose is added likewise (`SLACK`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.sparse import Sparse
from verify.boxes import Box
from verify.exact import INFLATION, Float, lowest_bit

SLACK = 2.0**-50
"""What a product and its addition in float64 can lose, relative to the absolute values; 4 times what it does."""

ABSENT = 2000
"""The grid exponent of a coordinate whose values lie on no known grid."""


@dataclass(frozen=True)
class Machine:
    """An arithmetic.

    Args:
        name: "real" or "float32".
        unit: u, 0 for real arithmetic.
    """

    name: str
    unit: float

    def exponential(self, exponent: float) -> float:
        """The relative error of exp(exponent) as a weight of the softmax."""
        return (8 + 4 * abs(exponent)) * self.unit

    @property
    def far(self) -> float:
        """How much too large a weight far below the largest can be."""
        return 2.0 if self.unit else 1.0


REAL, FLOAT32 = Machine("real", 0.0), Machine("float32", 2.0**-24)


def powers_of_two(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which values are 0 or a power of two, up to sign."""
    mantissa, _ = np.frexp(np.abs(values).astype(np.float64))
    return np.asarray((mantissa == 0.5) | (mantissa == 0.0))


def reach(box: Box) -> Float:
    """The largest absolute value, by coordinate."""
    return np.asarray(np.abs(box.centre) + box.radius)


def project(machine: Machine, box: Box, matrix: Float, grid: NDArray[np.int_]) -> Box:
    """The box of the image of one or more boxes, shape [..., a], under a matrix [a, l], as computed.

    `grid` holds, by coordinate, the exponent of a dyadic grid on which its values lie, or ABSENT.
    """
    size = reach(box)
    used = np.flatnonzero(matrix.any(axis=1) & (size.reshape(-1, len(matrix)) > 0).any(axis=0))
    part, sizes = matrix[used], size[..., used]
    weight = np.abs(part)
    most = sizes @ weight
    terms = (sizes > 0).astype(np.float64) @ (weight > 0).astype(np.float64)
    radius = box.radius[..., used] @ weight * INFLATION
    finest = _finest(grid[used], part)
    single = (terms <= 1) & powers_of_two(part).all(axis=0)
    exact = {bits: single | (most < np.ldexp(1.0, np.clip(bits + finest, -1000, 1000))) for bits in (24, 52)}
    radius = radius + np.where(exact[52], 0.0, (terms + 2) * SLACK * most)
    if machine.unit:
        radius = radius + np.where(exact[24], 0.0, (terms + 1) * machine.unit * most * INFLATION)
    return Box(box.centre[..., used] @ part, radius)


def _finest(grid: NDArray[np.int_], part: Float) -> NDArray[np.int_]:
    """By column, the exponent of the grid of all products; very low where there is none."""
    result = np.full(part.shape[1], 900)
    for column in range(part.shape[1]):
        rows = np.flatnonzero(part[:, column])
        if len(rows):
            known = grid[rows].max() < ABSENT
            result[column] = grid[rows].min() + lowest_bit(part[rows, column]) if known else -900
    return result


def signed_image(low: Float, high: Float, matrix: Sparse, loss: Float) -> tuple[Float, Float]:
    """Bounds on sums of products of x in [low, high] with a sparse matrix, each product off by `loss` relatively.

    A product is at most its largest value, times 1 + loss where that is positive and 1 - loss where it is negative; so
    a sum of products none of which can be positive is not. `loss` is by column of the matrix.
    """
    positive, negative = matrix.copy(), matrix.copy()
    positive.data, negative.data = np.maximum(matrix.data, 0.0), np.maximum(-matrix.data, 0.0)
    more, less = 1 + loss, np.maximum(1 - loss, 0.0)

    def upper(bottom: Float, top: Float) -> Float:
        gains = np.maximum(top, 0.0) @ positive + np.maximum(-bottom, 0.0) @ negative
        losses = np.maximum(-top, 0.0) @ positive + np.maximum(bottom, 0.0) @ negative
        return np.asarray(gains * more - losses * less)

    return -upper(-high, -low), upper(low, high)


def live_terms(size: Float, matrix: Sparse) -> tuple[Float, NDArray[np.bool_]]:
    """By column: how many products can be other than 0, and whether all their weights are powers of two."""
    pattern, uneven = matrix.copy(), matrix.copy()
    pattern.data = np.ones_like(matrix.data)
    uneven.data = np.where(powers_of_two(matrix.data), 0.0, 1.0)
    live = (size > 0).astype(np.float64)
    return np.asarray(live @ pattern), np.asarray(live @ uneven == 0)


def hull(boxes: list[Box]) -> Box:
    """The least box around several."""
    low = np.min([box.centre - box.radius for box in boxes], axis=0)
    high = np.max([box.centre + box.radius for box in boxes], axis=0)
    return interval(low, high)


def interval(low: Float, high: Float) -> Box:
    """The box from low to high, rounded outwards, where they are not 0: a bound of exactly 0 stays."""
    top, bottom = high + np.abs(high) * 2.0**-40, low - np.abs(low) * 2.0**-40
    centre = (bottom + top) / 2
    radius = np.where((bottom == 0) | (top == 0), np.abs(centre), np.maximum(top - centre, centre - bottom) * INFLATION)
    return Box(centre, radius)


def add(boxes: list[Box]) -> Box:
    """The box of sums of one vector of each; where all but one are 0, that one as it is."""
    sizes = [reach(box) for box in boxes]
    several = np.sum([size > 0 for size in sizes], axis=0) > 1
    centre = np.sum([box.centre for box in boxes], axis=0)
    radius = np.sum([box.radius for box in boxes], axis=0)
    grown = radius * INFLATION + SLACK * np.sum(sizes, axis=0)
    return Box(centre, np.where(several, grown, radius))


def sum_weights(terms: int) -> Float:
    """How often, at the most, the largest, second largest, .. of so many terms is rounded in a sum of products.

    A sum of n products in any order is a binary tree. What is lost is at most u sum_i (depth_i + 1) |t_i|: the
    additions above a term, and its own product. The i-th smallest inner node of a tree has at most i + 1 leaves (its
    own inner nodes are i or fewer), as in the tree that adds one by one; so with the terms in falling order that tree,
    whose depths are n-1, n-1, n-2, .., 1, loses most.
    """
    depths = np.arange(terms, 0, -1.0) - 1
    depths[1:] += 1
    return np.asarray(depths + 1)


def sum_loss(sizes: Float) -> Float:
    """The sum over the last axis of |t_i| by `sum_weights`, the largest first; a term that is 0 counts for nothing."""
    falling = -np.sort(-np.abs(sizes), axis=-1)
    absent = (falling == 0).sum(axis=-1, keepdims=True)
    times = np.maximum(sum_weights(sizes.shape[-1]) - absent, 1.0)
    return np.asarray((falling * times).sum(axis=-1)) * INFLATION
