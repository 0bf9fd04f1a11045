"""Exact sums of stored floats, and rigorous upper bounds where a number is not a float.

Stored floats are dyadic rationals. On a common grid 2^g, sums of products whose absolute values add up to less
than 2^53 grid steps are exact in float64, in any order of summation, fused or not: every intermediate number is a
float64. `Exactness` keeps count of the grid; where it is too fine, a slack covers the rounding instead.
"""

import math
from collections.abc import Iterable, Sequence

import mpmath  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

INFLATION = 1 + 2.0**-40
"""A factor that covers the rounding of fewer than 2^11 float64 operations on nonnegative numbers."""


def lowest_bit(values: NDArray[np.floating]) -> int:
    """The exponent g of the coarsest grid 2^g that holds all values; 0 where all are 0."""
    nonzero = np.unique(np.abs(values[values != 0]).astype(np.float64))
    return int(_lowest_bits(nonzero).min()) if len(nonzero) else 0


def _lowest_bits(values: Float) -> NDArray[np.int64]:
    """The exponent of the lowest bit of each value; large for a 0."""
    mantissa, exponent = np.frexp(values)
    whole = (np.abs(mantissa) * 2.0**53).astype(np.int64)
    trailing = np.log2(np.maximum(whole & -whole, 1).astype(np.float64)).astype(np.int64)
    return np.where(values == 0, 2000, exponent.astype(np.int64) - 53 + trailing)


def largest(values: NDArray[np.floating]) -> float:
    """The largest absolute value, 0 for none."""
    return float(np.abs(values).max(initial=0.0))


def rounding_slack(factors: Iterable[NDArray[np.floating]], terms: int) -> float:
    """0 where a sum of `terms` products of one entry of each factor is exact in float64, else a bound on its error."""
    return common_slack([(factors, terms)])


def common_slack(products: Iterable[tuple[Iterable[NDArray[np.floating]], int]]) -> float:
    """0 where a sum of products of several kinds is exact in float64, else a bound on its error.

    Each kind is as in `rounding_slack`: factors, and how many products of one entry of each there are.
    """
    finest, total, count = 0, 0.0, 0
    for factors, terms in products:
        grid, magnitude = 0, float(max(terms, 1))
        for factor in factors:
            grid += lowest_bit(factor)
            magnitude *= largest(factor)
        if magnitude:
            finest, total, count = min(finest, grid), total + magnitude, count + terms
    if not total or math.log2(total) - finest < 53:
        return 0.0
    return total * (count + 8) * 2.0**-52


def sum_loss(parts: Sequence[Float]) -> Float:
    """What adding up vectors, and halving, can lose in float64, by coordinate: 0 where all are on a coarse grid."""
    together = np.stack(parts)
    size = np.abs(together).sum(axis=0)
    steps = np.ldexp(size, np.minimum(1 - _lowest_bits(together).min(axis=0), 1000))
    return np.where(steps < 2.0**53, 0.0, size * (len(parts) + 2) * 2.0**-52)


def exp_upper(exponents: Float) -> Float:
    """Upper bounds of exp(exponents), each from a rigorous enclosure (mpmath.iv), the same shape.

    With very many distinct exponents they are first rounded up to multiples of 2^-8.
    """
    distinct, inverse = np.unique(exponents, return_inverse=True)
    if len(distinct) > 20_000:
        distinct, inverse = np.unique(np.ceil(exponents * 256) / 256, return_inverse=True)
    upper = np.array([_exp_upper(float(value)) for value in distinct])
    return np.asarray(upper[inverse].reshape(exponents.shape), dtype=np.float64)


def _exp_upper(exponent: float) -> float:
    if exponent == 0:
        return 1.0
    if exponent > 700:
        return math.inf
    if exponent < -700:
        return math.nextafter(1e-300, math.inf)
    enclosure = mpmath.iv.exp(mpmath.iv.mpf(exponent))
    return math.nextafter(float(enclosure.b), math.inf)
