"""Exact arithmetic: integers and fractions, rows of matrices as dictionaries, exp rounded up."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from typing import Any

Number = Any  # an int or a Fraction: exact
Row = dict[int, Number]  # of a matrix: its nonzero entries


class RefusedError(Exception):
    """The certificate does not hold for these weights, or that could not be shown."""


def require(condition: object, reason: str) -> None:
    """Refuse unless the condition is true."""
    if not condition:
        raise RefusedError(reason)


@cache
def exp_above(gap: Fraction) -> Fraction:
    """An upper bound of exp(-gap), gap >= 0. Decimal's exp is correctly rounded, to 40 digits: take the next number."""
    gap = min(gap, Fraction(10_000))  # beyond, the number itself would be a burden
    context = Context(prec=40, rounding="ROUND_FLOOR")
    least = context.divide(Decimal(gap.numerator), Decimal(gap.denominator))
    return rounded_up(Fraction(context.next_plus(context.exp(-least))))


def rounded_up(value: Fraction) -> Fraction:
    """A number of few bits, at least the value and hardly above it, so that long sums stay short."""
    grid = 2 ** max(0, 128 + value.denominator.bit_length() - value.numerator.bit_length())
    return Fraction(math.ceil(value * grid), grid)


def dot(row: Mapping[int, Number], other: Mapping[int, Number]) -> Number:
    """The inner product of two rows."""
    return sum(value * other[at] for at, value in row.items() if at in other)


def times(row: Row, matrix: Sequence[Row]) -> Row:
    """A row times a matrix."""
    result: Row = defaultdict(int)
    for at, value in row.items():
        for column, weight in matrix[at].items():
            result[column] += value * weight
    return {column: value for column, value in result.items() if value}


def columns(rows: Iterable[Row]) -> set[int]:
    """The columns in which some row is not 0."""
    return {at for row in rows for at in row}


def used(matrix: Sequence[Row]) -> set[int]:
    """The rows that are not 0."""
    return {at for at, row in enumerate(matrix) if row}
