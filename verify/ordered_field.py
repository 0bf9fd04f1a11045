"""Exact arithmetic in Q(z), ordered by the sign as z -> 0+, where z = exp(-sharpness).

A score s in units of the sharpness gives exp(score) = z^-s, so every activation of a construction is a rational
function of z. An `Element` is held as a sum of fractions, sum_i P_i / D_i, that is never put over one denominator
unless asked: all D_i are products of softmax sums (coefficients >= 0, constant term > 0), so they are positive
for z > 0 and units among the power series, and linear maps act on the P_i alone.

ReLU needs a sign. `OrderedField.sign` decides each rigorously and remembers the arguments that could change their
sign at some z in (0, 1); `verify.thresholds.threshold` is then the z up to which all of them keep it.

Exponents are integers in steps of z^(1/steps): the variable below is t = z^(1/steps). Nothing here knows of
transformers, and denominators that vanish at 0 are refused.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath  # type: ignore[import-untyped]

from construct.errors import InputError
from verify.polynomials import ONE, ZERO, Polynomial, polynomial


class SymbolicError(InputError):
    """The weights cannot be executed over Q(z): the message says which scores, and why."""


Key = tuple[int, ...]
"""A product of denominators by their numbers, ascending; () is 1."""


@dataclass(frozen=True)
class Element:
    """sum over keys of parts[key] / (product of the denominators of key); made by an `OrderedField`.

    Equal elements can be written differently: compare by `field.is_zero` of the difference.
    """

    field: "OrderedField"
    parts: dict[Key, Polynomial]

    @property
    def limit(self) -> Fraction:
        """The value at z = 0."""
        denominator = self.field.product
        return sum((part.constant / denominator(key).constant for key, part in self.parts.items()), Fraction(0))

    def constant(self) -> Fraction | None:
        """The value if it does not depend on z, else None."""
        if all(not key and part.degree <= 0 for key, part in self.parts.items()):
            return self.limit
        limit = self.limit
        return limit if self.field.is_zero(self - self.field.constant(limit)) else None

    def __sub__(self, other: "Element") -> "Element":
        return self.field.combine([(1, 1, self), (-1, 1, other)])

    def __add__(self, other: "Element") -> "Element":
        return self.field.combine([(1, 1, self), (1, 1, other)])

    def at(self, point: Fraction) -> Fraction:
        """The exact value at a rational point t > 0."""
        denominator = self.field.product
        return sum((part.at(point) / denominator(key).at(point) for key, part in self.parts.items()), Fraction(0))

    def near(self, point: Any) -> Any:
        """The value at an mpmath number t > 0, in mpmath's working precision."""

        def value(part: Polynomial) -> Any:
            return mpmath.polyval(part.coefficients[::-1], point) / part.scale

        denominator = self.field.product
        return mpmath.fsum(value(part) / value(denominator(key)) for key, part in self.parts.items())

    def series(self, terms: int) -> list[Fraction]:
        """The first coefficients of the power series in t.

        Post: element = sum_j series[j] t^j + O(t^terms).
        Cost: terms^2 rational products a key.
        """
        total = [Fraction(0)] * terms
        for key, part in self.parts.items():
            inverse = self.field.inverse_series(key, terms)
            for start, coefficient in enumerate(part.coefficients[:terms]):
                if coefficient:
                    factor = Fraction(coefficient, part.scale)
                    for place in range(start, terms):
                        total[place] += factor * inverse[place - start]
        return total

    def leading(self) -> tuple[int, Fraction] | None:
        """(exponent of t, coefficient) of the lowest term, or None where the element is 0.

        Pre: every denominator is positive at 0.
        Post: as said. Written over one denominator D, the numerator has at most the degree d computed here, and the
        series begins at the same exponent as the numerator, as D(0) is not 0: a series that vanishes up to t^d belongs
        to the numerator 0.
        Cost: the series is doubled until it shows a term; O(d^2) for 0.
        """
        if not self.parts:
            return None
        largest = self._numerator_degree()
        terms = 8
        while True:
            terms = min(terms, largest + 1)
            for place, coefficient in enumerate(self.series(terms)):
                if coefficient:
                    return place, coefficient
            if terms == largest + 1:
                return None
            terms *= 2

    def over_one_denominator(self) -> tuple[Polynomial, Polynomial]:
        """(numerator, denominator), not reduced; the denominator has coefficients >= 0 and is not 0 at 0."""
        bottom_key = self._common_key()
        top = ZERO
        for key, part in self.parts.items():
            missing = list(bottom_key)
            for number in key:
                missing.remove(number)
            top += part * self.field.product(tuple(missing))
        return top, self.field.product(bottom_key)

    def _common_key(self) -> Key:
        """The least common multiple of the keys."""
        often: dict[int, int] = {}
        for key in self.parts:
            for number in set(key):
                often[number] = max(often.get(number, 0), key.count(number))
        return tuple(number for number in sorted(often) for _ in range(often[number]))

    def _numerator_degree(self) -> int:
        """The largest degree that the numerator over the common denominator can have."""
        degree = self.field.key_degree
        bottom = degree(self._common_key())
        return max(part.degree + bottom - degree(key) for key, part in self.parts.items())


@dataclass(frozen=True)
class Decision:
    """A sign that was decided but is not the same for all z > 0."""

    element: Element
    sign: int
    where: str


class OrderedField:
    """Q(t) with t = z^(1/steps): makes elements, decides signs, and remembers which.

    Args:
        steps: exponents are counted in 1/steps.
    """

    def __init__(self, steps: int = 1) -> None:
        self.steps = steps
        self.decided = 0
        self._denominators: list[Polynomial] = []
        self._numbers: dict[Polynomial, int] = {}
        self._products: dict[Key, Polynomial] = {(): ONE}
        self._inverses: dict[Key, list[Fraction]] = {}
        self._decisions: dict[object, Decision] = {}

    @property
    def zero(self) -> Element:
        """0."""
        return Element(self, {})

    def constant(self, value: int | Fraction) -> Element:
        """A rational number."""
        number = Fraction(value)
        return Element(self, {(): Polynomial((number.numerator,), number.denominator)} if number else {})

    def fraction(self, top: Polynomial, bottom: Polynomial = ONE) -> Element:
        """top / bottom. Raises ValueError unless bottom has coefficients >= 0 and a constant term > 0."""
        return Element(self, {self.key(bottom): top} if top.coefficients else {})

    def key(self, bottom: Polynomial) -> Key:
        """The key of a denominator. Raises ValueError as `fraction` does."""
        if bottom == ONE:
            return ()
        if bottom not in self._numbers:
            if not bottom.coefficients or bottom.coefficients[0] <= 0 or min(bottom.coefficients) < 0:
                raise ValueError(f"a denominator needs coefficients >= 0 and a constant term > 0: {bottom}")
            self._numbers[bottom] = len(self._denominators)
            self._denominators.append(bottom)
        return (self._numbers[bottom],)

    def product(self, key: Key) -> Polynomial:
        """The product of the denominators of a key."""
        if key not in self._products:
            self._products[key] = self.product(key[:-1]) * self._denominators[key[-1]]
        return self._products[key]

    def key_degree(self, key: Key) -> int:
        """The degree of the product of the denominators of a key."""
        return sum(self._denominators[number].degree for number in key)

    def inverse_series(self, key: Key, terms: int) -> list[Fraction]:
        """At least the first coefficients of the power series of 1 / product(key)."""
        known = self._inverses.setdefault(key, [])
        bottom = self.product(key)
        first = Fraction(bottom.scale, bottom.coefficients[0])
        while len(known) < terms:
            place = len(known)
            carried = Fraction(int(place == 0))
            for step in range(1, min(place, bottom.degree) + 1):
                carried -= Fraction(bottom.coefficients[step], bottom.scale) * known[place - step]
            known.append(first * carried)
        return known

    def combine(self, terms: Iterable[tuple[int, int, Element]]) -> Element:
        """The sum of a/b times element over the (a, b, element) given; b > 0."""
        tops: dict[Key, list[int]] = {}
        scales: dict[Key, int] = {}
        for numerator, denominator, element in terms:
            for key, part in element.parts.items():
                scale, factor = part.scale * denominator, numerator
                total = tops.get(key)
                if total is None:
                    tops[key] = [factor * coefficient for coefficient in part.coefficients]
                    scales[key] = scale
                    continue
                if scale != scales[key]:
                    common = math.lcm(scale, scales[key])
                    grown, factor = common // scales[key], factor * (common // scale)
                    total[:] = [grown * coefficient for coefficient in total]
                    scales[key] = common
                if len(part.coefficients) > len(total):
                    total += [0] * (len(part.coefficients) - len(total))
                for place, coefficient in enumerate(part.coefficients):
                    total[place] += factor * coefficient
        parts = {key: polynomial(total, scales[key]) for key, total in tops.items()}
        return Element(self, {key: part for key, part in parts.items() if part.coefficients})

    def times(self, element: Element, top: Polynomial, bottom: Polynomial = ONE) -> Element:
        """element * top / bottom."""
        factor = self.key(bottom)
        return Element(self, {tuple(sorted(key + factor)): part * top for key, part in element.parts.items()})

    def is_zero(self, element: Element) -> bool:
        """Whether the element is 0, exactly."""
        bounded = self._sign_everywhere(element)
        return element.leading() is None if bounded is None else bounded == 0

    def sign(self, element: Element, where: str = "") -> int:
        """Lemma: the sign of an element as z -> 0+, one of -1, 0, 1.

        Pre: denominators have coefficients >= 0 and a constant term > 0.
        Post: element has this sign for all z > 0 small enough; in (0, 1) it keeps it at least up to the threshold.
        Cost: linear in the number of coefficients where `_sign_everywhere` or a single denominator decides; else a
        few terms of the power series.
        """
        self.decided += 1
        numerator = self._single_numerator(element)
        if numerator is not None:
            coefficients = numerator.coefficients
            if not coefficients:
                return 0
            sign = 1 if coefficients[numerator.order] > 0 else -1
            # Coefficients of one sign: by Descartes' rule no positive root.
            if min(coefficients) < 0 < max(coefficients):
                divisor = math.gcd(*coefficients)
                name = tuple(coefficient // divisor for coefficient in coefficients[numerator.order :])
                if name not in self._decisions:
                    simple = Element(self, {(): Polynomial(name)})
                    self._decisions[name] = Decision(simple, sign, where)
            return sign
        bounded = self._sign_everywhere(element)
        if bounded is not None:
            return bounded
        leading = element.leading()
        if leading is None:
            return 0
        sign = 1 if leading[1] > 0 else -1
        self._decisions.setdefault(frozenset(element.parts.items()), Decision(element, sign, where))
        return sign

    @property
    def decisions(self) -> list[Decision]:
        """The signs that were decided but are not the same for all z > 0 (`verify.thresholds`)."""
        return list(self._decisions.values())

    def _single_numerator(self, element: Element) -> Polynomial | None:
        """The numerator, where at most one key beside () is there."""
        parts = element.parts
        if len(parts) == 1:
            return next(iter(parts.values()))
        if not parts:
            return ZERO
        if len(parts) > 2 or () not in parts:
            return None
        (key,) = (key for key in parts if key)
        return parts[key] + parts[()] * self.product(key)

    def _sign_everywhere(self, element: Element) -> int | None:
        """Lemma: a sign that holds for all z > 0, or None where this bound does not show one.

        Pre: denominators D have coefficients >= 0.
        Post: with M = max_j P_j / D_j over the places where D_j > 0, and P_j = 0 at the others, P - M D has no
        coefficient > 0: P / D <= M for all z > 0, with equality somewhere only where P = M D. So sum_i M_i < 0 gives
        the sign -1; sum_i M_i = 0 gives -1 too, unless every P_i = M_i D_i: then the element is 0. Likewise below.
        Cost: one product of integers a coefficient.
        """
        upper = lower = Fraction(0)
        for key, part in element.parts.items():
            bounds = _ratio_bounds(part, self.product(key))
            if bounds is None:
                return None
            lower += bounds[0]
            upper += bounds[1]
        if upper == lower:
            return (upper > 0) - (upper < 0)
        if upper <= 0:
            return -1
        return 1 if lower >= 0 else None


def _ratio_bounds(top: Polynomial, bottom: Polynomial) -> tuple[Fraction, Fraction] | None:
    """The least and the greatest quotient of coefficients, None where one would be infinite."""
    if top.degree > bottom.degree:
        return None
    above, below = top.coefficients, bottom.coefficients
    low_top = high_top = above[0]
    low_bottom = high_bottom = below[0]
    for place, weight in enumerate(below):
        coefficient = above[place] if place < len(above) else 0
        if not weight:
            if coefficient:
                return None
            continue
        if coefficient * low_bottom < low_top * weight:
            low_top, low_bottom = coefficient, weight
        if coefficient * high_bottom > high_top * weight:
            high_top, high_bottom = coefficient, weight
    scale = Fraction(bottom.scale, top.scale)
    return Fraction(low_top, low_bottom) * scale, Fraction(high_top, high_bottom) * scale
