"""Exact sums of stored floats, and rigorous upper bounds where a number is not a float.

Stored floats are dyadic rationals. On a common grid 2^g, sums of products whose absolute values add up to less
than 2^53 grid steps are exact in float64, in any order of summation, fused or not: every intermediate number is a
float64. `Exactness` keeps count of the grid; where it is too fine, a slack covers the rounding instead.
"""

import math
from collections.abc import Iterable

import mpmath  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

INFLATION = 1 + 2.0**-40
"""A factor that covers the rounding of fewer than 2^11 float64 operations on nonnegative numbers."""


def lowest_bit(values: NDArray[np.floating]) -> int:
    """The exponent g of the coarsest grid 2^g that holds all values; 0 where all are 0."""
    nonzero = np.unique(np.abs(values[values != 0]).astype(np.float64))
    if not len(nonzero):
        return 0
    mantissa, exponent = np.frexp(nonzero)
    whole = (mantissa * 2.0**53).astype(np.int64)
    trailing = np.log2((whole & -whole).astype(np.float64)).astype(np.int64)
    return int((exponent.astype(np.int64) - 53 + trailing).min())


def largest(values: NDArray[np.floating]) -> float:
    """The largest absolute value, 0 for none."""
    return float(np.abs(values).max(initial=0.0))


def rounding_slack(factors: Iterable[NDArray[np.floating]], terms: int) -> float:
    """0 where a sum of `terms` products of one entry of each factor is exact in float64, else a bound on its error."""
    grid, magnitude = 0, float(max(terms, 1))
    for factor in factors:
        grid += lowest_bit(factor)
        magnitude *= max(largest(factor), 2.0**-60)
    if math.log2(magnitude) - grid < 53:
        return 0.0
    return magnitude * 2.0**-50


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
