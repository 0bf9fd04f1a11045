"""Four numbers for a token: integer vectors of one length in four dimensions, told apart by one affine function each.

The +-1 codes of `construct.residual_stream` take log2 V numbers a token, so K predicted answers would take K log V: too
wide for the budget d_model = O(d + log(m n)) of Theorem 1 of Xiong et al. (arXiv 2410.05603). These codes take four.

The code of V tokens is V vectors c_a in Z^4 with |c_a|^2 = N, the least N that has so many. Then, for a != b,

    <c_a, c_a> = N  and  <c_a, c_b> <= N - 1,

as |c_a - c_b|^2 = 2 N - 2 <c_a, c_b> is positive and even. So 2 <x, c_a> - 2 N is 0 at x = c_a, at most -2 at any
other code, and -2 N at x = 0, which codes nothing. On the convex hull of the codes and 0 it is never above 0. Two
different codes are at least 2 apart in |.|_1: it is not 0, and sum_i (c_ai - c_bi) is even, as each c_i^2 has the
parity of c_i.

That N is small is Jacobi's four-square theorem (1834): the number of vectors is r_4(N) = 8 times the sum of the
divisors of N that 4 does not divide, so at least 8 (N + 1) for odd N > 1, and 8 for N = 1: N <= V/8 + 1 for every V.
"""

import math

import numpy as np
from numpy.typing import NDArray

from construct.residual_stream import Array

NUMBERS = 4
"""The numbers of a code."""


def vectors_count(norm: int) -> int:
    """r_4: the number of integer vectors of squared length `norm` >= 1 in four dimensions, by Jacobi's formula.

    >>> [vectors_count(norm) for norm in (1, 2, 3, 4, 5)]
    [8, 24, 32, 24, 48]
    """
    small = [divisor for divisor in range(1, math.isqrt(norm) + 1) if norm % divisor == 0]
    divisors = {*small, *(norm // divisor for divisor in small)}
    return 8 * sum(divisor for divisor in divisors if divisor % 4)


def code_norm(count: int) -> int:
    """N: the least squared length that at least `count` integer vectors have.

    >>> code_norm(8), code_norm(9), code_norm(32), code_norm(33)
    (1, 2, 3, 5)
    """
    norm = 1
    while vectors_count(norm) < count:
        norm += 1
    return norm


def four_square_code(count: int) -> Array:
    """The codes of 0 to count - 1, in lexicographic order, shape [count, 4].

    >>> four_square_code(3).tolist()
    [[-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]
    """
    norm = code_norm(count)
    side = np.arange(-math.isqrt(norm), math.isqrt(norm) + 1)
    pairs = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    squares = (pairs**2).sum(axis=1)
    found: list[NDArray[np.int_]] = []
    listed = 0
    for pair, square in zip(pairs, squares.tolist(), strict=True):
        rest = pairs[squares == norm - square]
        found.append(np.concatenate([np.broadcast_to(pair, rest.shape), rest], axis=1))
        listed += len(rest)
        if listed >= count:
            break
    return np.concatenate(found)[:count].astype(np.float32)
