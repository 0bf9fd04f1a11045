"""Ball arithmetic on arrays: what a layer does to boxes, with every rounding of float64 counted.

A box is a centre and a radius per entry (`verify.boxes.Box`). Each function returns a box that holds the exact result
for all points of its arguments. A sum of n products, in any order, fused or not, is within n u sum |a b| / (1 - n u) of
the exact one, u = 2^-53. Where a factor is exactly 0 nothing is added, so what is exact stays so.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from construct.sparse import Sparse
from verify.boxes import Box
from verify.exact import Float

UNIT = 2.0**-53
UNDERFLOW = 1e-300
"""Covers all that fewer than 10^23 operations lose to underflow, of at most 2^-1074 each."""

LN2_HIGH, LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
"""ln 2 as a sum of two floats, to 2^-86; the first has 32 bits, so its products with integers below 2^21 are exact."""

EXP_ERROR = 2.0**-40
"""The relative error allowed to `_exp`; it is below 2^-44 (there)."""

TAYLOR = 15


def image(box: Box, matrix: Float | Sparse) -> Box:
    """The box of X W, for X in a box of shape [..., n] and W of shape [n, m]."""
    weights: Any = matrix
    terms, shape = weights.shape[0], (*box.centre.shape[:-1], weights.shape[1])
    centre, radius = (part.reshape(math.prod(shape[:-1]), terms) for part in (box.centre, box.radius))
    size = np.asarray(np.abs(centre) @ abs(weights))
    lost = np.where(size > 0, size * ((terms + 2) * UNIT) + UNDERFLOW, 0.0)
    spread = (np.asarray(radius @ abs(weights)) + lost) * (1 + (terms + 8) * 2 * UNIT)
    return Box(np.asarray(centre @ weights).reshape(shape), spread.reshape(shape))


def plus(one: Box, other: Box) -> Box:
    """The box of a sum, entry by entry."""
    centre = one.centre + other.centre
    lost = np.where((one.centre != 0) & (other.centre != 0), np.abs(centre) * UNIT, 0.0)
    return Box(centre, (one.radius + other.radius + lost) * (1 + 8 * UNIT))


def rectified(box: Box) -> Box:
    """The box of relu(X): itself where it is positive, 0 where it is negative, else from 0 to its upper end."""
    half = np.maximum(box.centre + box.radius, 0.0) / 2 * (1 + 8 * UNIT)
    positive, negative = box.centre >= box.radius, -box.centre >= box.radius
    centre = np.where(negative, 0.0, np.where(positive, box.centre, half))
    radius = np.where(negative, 0.0, np.where(positive, box.radius, half * (1 + 8 * UNIT)))
    return Box(centre, radius)


def between(low: Float, high: Float) -> Box:
    """The box from `low` to `high`; a point where they are equal."""
    centre = (low + high) / 2
    return Box(centre, np.maximum(high - centre, centre - low) * (1 + 8 * UNIT) + np.abs(centre) * UNIT * (low != high))


def ends(box: Box) -> tuple[Float, Float]:
    """Lower and upper ends, rounded outwards where there is a radius."""
    slack = np.where(box.radius > 0, (np.abs(box.centre) + box.radius) * (4 * UNIT), 0.0)
    return box.centre - box.radius - slack, box.centre + box.radius + slack


def hull(box: Box, axis: int = 0) -> Box:
    """The least box that holds all rows along an axis."""
    low, high = ends(box)
    return between(low.min(axis=axis), high.max(axis=axis))


def hull_so_far(box: Box) -> Box:
    """Row t: the least box that holds the rows 0 to t."""
    low, high = ends(box)
    return between(np.minimum.accumulate(low, axis=0), np.maximum.accumulate(high, axis=0))


def at_most(box: Box) -> Float:
    """A bound on |X|, entry by entry."""
    return np.asarray((np.abs(box.centre) + box.radius) * (1 + 4 * UNIT))


def exp_upper(exponents: Float) -> Float:
    """Upper bounds of exp."""
    clipped = np.clip(exponents, -700.0, 700.0)
    bound = np.where(exponents < -700, 2 * UNDERFLOW, _exp(clipped) * (1 + EXP_ERROR))
    return np.where(exponents > 700, np.inf, bound)


def exp_lower(exponents: Float) -> Float:
    """Lower bounds of exp."""
    return np.where(exponents < -700, 0.0, _exp(np.clip(exponents, -700.0, 700.0)) * (1 - EXP_ERROR))


def _exp(x: Float) -> Float:
    """exp(x) for |x| <= 700, within 2^-44 relatively, by arithmetic that IEEE 754 defines.

    x = k ln 2 + r with an integer k and |r| <= 0.36. k LN2_HIGH and its difference to x are exact (32 bits times 10
    bits; numbers within a factor 2 of each other), so r is off by at most 2^-54 + 2^-75. The Taylor sum to r^15/15!
    leaves 0.36^16/16! < 2^-67. Horner's scheme makes 2 roundings in each of 15 steps, of numbers below 2: at
    most 30 * 2^-52 < 2^-47 in all, as later steps multiply by |r| < 1. And exp(r) > 2^-1.
    """
    k = np.rint(x * (1 / np.log(2.0)))
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    total = np.ones_like(r)
    for step in range(TAYLOR, 0, -1):
        total = 1 + r * total / step
    scaled: NDArray[np.float64] = np.ldexp(total, k.astype(np.int32))
    return scaled
