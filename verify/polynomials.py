"""Polynomials over the rationals, on integers: what the elements of `verify.ordered_field` are made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Polynomial:
    """sum_j coefficients[j] t^j / scale, in lowest terms: the last coefficient is not 0, the scale is positive.

    Make one with `polynomial`, which brings it to that form.
    """

    coefficients: tuple[int, ...]
    scale: int = 1

    @property
    def degree(self) -> int:
        """The degree; -1 for 0."""
        return len(self.coefficients) - 1

    @property
    def constant(self) -> Fraction:
        """The value at 0."""
        return Fraction(self.coefficients[0], self.scale) if self.coefficients else Fraction(0)

    @property
    def order(self) -> int:
        """The place of the first coefficient that is not 0. Pre: not 0."""
        return next(place for place, coefficient in enumerate(self.coefficients) if coefficient)

    def __add__(self, other: "Polynomial") -> "Polynomial":
        scale = math.lcm(self.scale, other.scale)
        left, right = scale // self.scale, scale // other.scale
        longest = max(len(self.coefficients), len(other.coefficients))
        total = [0] * longest
        for place, coefficient in enumerate(self.coefficients):
            total[place] = left * coefficient
        for place, coefficient in enumerate(other.coefficients):
            total[place] += right * coefficient
        return polynomial(total, scale)

    def __mul__(self, other: "Polynomial") -> "Polynomial":
        if not self.coefficients or not other.coefficients:
            return ZERO
        product = [0] * (len(self.coefficients) + len(other.coefficients) - 1)
        for start, left in enumerate(self.coefficients):
            if left:
                for place, right in enumerate(other.coefficients, start):
                    product[place] += left * right
        return polynomial(product, self.scale * other.scale)

    def at(self, point: Fraction) -> Fraction:
        """The value at a rational point, by Horner's scheme on integers."""
        top, bottom = point.numerator, point.denominator
        value, power = 0, 1
        for coefficient in reversed(self.coefficients):
            value = value * top + coefficient * power
            power *= bottom
        return Fraction(value * bottom, power * self.scale) if self.coefficients else Fraction(0)


def polynomial(coefficients: Sequence[int], scale: int = 1) -> Polynomial:
    """The polynomial sum_j coefficients[j] t^j / scale."""
    kept = len(coefficients)
    while kept and not coefficients[kept - 1]:
        kept -= 1
    if not kept:
        return ZERO
    trimmed = tuple(coefficients[:kept])
    if scale == 1:
        return Polynomial(trimmed)
    divisor = math.gcd(scale, *trimmed)
    return Polynomial(tuple(coefficient // divisor for coefficient in trimmed), scale // divisor)


ZERO = Polynomial(())
ONE = Polynomial((1,))
