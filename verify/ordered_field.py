"""Exact arithmetic in Q(z), ordered by the sign as z -> 0+, where z = exp(-sharpness).

A score s in units of the sharpness gives exp(score) = z^-s, so every activation of a construction is a rational
function of z. An `Element` is held as a sum of fractions, sum_i P_i / D_i, that is never put over one denominator
unless asked: all D_i are products of softmax sums (coefficients >= 0, constant term > 0), so they are positive
for z > 0 and units among the power series, and linear maps act on the P_i alone.

ReLU needs a sign. `OrderedField.sign` decides each rigorously and remembers the arguments that could change their
sign at some z in (0, 1); `OrderedField.threshold` is then the z up to which all of them keep it.

Exponents are integers in steps of z^(1/steps): the variable below is t = z^(1/steps). Nothing here knows of
transformers, and denominators that vanish at 0 are refused.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import mpmath  # type: ignore[import-untyped]
import sympy  # type: ignore[import-untyped]

from construct.errors import InputError

TOLERANCE = Fraction(1, 2**20)
"""How closely a root is enclosed, relative to it."""

LARGEST_SEARCH, LARGEST_NARROW_SEARCH = 20_000, 500
"""How many intervals a search for a root looks at, and how many that are narrower than TOLERANCE, before it asks for
exact root isolation."""


class SymbolicError(InputError):
    """The weights cannot be executed over Q(z): the message says which scores, and why."""


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
class Threshold:
    """Up to which z every sign holds.

    Args:
        low: every decided sign holds for 0 < t <= low (for 0 < t < 1 where it is 1).
        high: at some point in (low, high] an argument is 0; 1 with low = 1 where none is 0 in (0, 1).
        steps: t = z^(1/steps).
        where: the argument that is 0 there, as it was named; None where there is none.
    """

    low: Fraction
    high: Fraction
    steps: int
    where: str | None

    @cached_property
    def least_sharpness(self) -> Fraction:
        """A rational lambda_0 >= -ln z: all signs hold for every sharpness > 0 that is at least lambda_0."""
        return self.steps * log_upper_bound(1 / self.low)


@dataclass(frozen=True)
class _Decision:
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
        self._decisions: dict[object, _Decision] = {}

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
        Post: element has this sign for all z > 0 small enough; in (0, 1) it keeps it at least up to `threshold`.
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
                    self._decisions[name] = _Decision(simple, sign, where)
            return sign
        bounded = self._sign_everywhere(element)
        if bounded is not None:
            return bounded
        leading = element.leading()
        if leading is None:
            return 0
        sign = 1 if leading[1] > 0 else -1
        self._decisions.setdefault(frozenset(element.parts.items()), _Decision(element, sign, where))
        return sign

    def threshold(self) -> Threshold:
        """Lemma: where the first of all the decided signs ends.

        Pre: none.
        Post: for 0 < t <= low (t < 1 where low is 1) every element given to `sign` has the sign it was given; unless
        high is 1, one of them is 0 at a point in (low, high], and (high - low) <= TOLERANCE * high.
        Cost: one look at each decision; a search for a root in few of them, those that seem to end first.
        """
        low = high = Fraction(1)
        where: str | None = None
        decisions = list(self._decisions.values())
        guessed = [_guess_root(decision) for decision in decisions]
        for number in sorted(range(len(decisions)), key=guessed.__getitem__):
            root = _first_root(decisions[number], low)
            if root is not None:
                low, high = root[0], min(high, root[1])
                where = decisions[number].where
        return Threshold(low, high, self.steps, where)

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


def _guess_root(decision: _Decision) -> float:
    """About where the sign ends, in floats: only the order of the search depends on it."""
    pairs = [
        (_floats(part), _floats(decision.element.field.product(key))) for key, part in decision.element.parts.items()
    ]
    for step in range(64, -1, -1):
        point = math.pow(2.0, -step / 4)
        bottoms = [_float_at(bottom, point) for _, bottom in pairs]
        if all(bottoms):
            value = sum(_float_at(top, point) / bottom for (top, _), bottom in zip(pairs, bottoms, strict=True))
            if value * decision.sign < 0:
                return point
    return 2.0


def _floats(part: Polynomial) -> list[float]:
    try:
        return [coefficient / part.scale for coefficient in reversed(part.coefficients)]
    except OverflowError:
        return [math.nan]


def _float_at(coefficients: Sequence[float], point: float) -> float:
    value = 0.0
    for coefficient in coefficients:
        value = value * point + coefficient
    return value


class _UndecidedError(Exception):
    """Intervals do not tell whether there is a root."""


def _first_root(decision: _Decision, end: Fraction) -> tuple[Fraction, Fraction] | None:
    """Lemma: the first root of an element in (0, end], enclosed as (low, high], or None.

    Pre: decision.sign is the sign of the element as z -> 0+, not 0.
    Post: None: the sign is kept on (0, end), and at end unless end is 1. Else it is kept on (0, low], and the
    element is 0 in (low, high], with high - low <= TOLERANCE * high.
    Cost: some evaluations on intervals; where they do not tell (a root of even order, or a value 0 at z = 0 with
    several denominators), the numerator is formed, and in the worst case its roots are isolated by sympy.
    """
    element = decision.element
    if element.limit:
        try:
            return _search(_Enclosure(element, decision.sign), end)
        except _UndecidedError:
            pass
    numerator = element.over_one_denominator()[0]
    simple = element.field.fraction(polynomial(numerator.coefficients[numerator.order :]))
    try:
        return _search(_Enclosure(simple, decision.sign), end)
    except _UndecidedError:
        return _isolate(simple.parts[()], end)


class _Enclosure:
    """Bounds of sign * element over intervals of t >= 0.

    Each P = P+ - P- with coefficients >= 0; P+, P- and D grow with t, so over [a, b] the value is at least
    (P+(a) - P-(b)) / D, with D(b) where that is positive and D(a) where it is negative.
    """

    def __init__(self, element: Element, sign: int) -> None:
        self._element, self._sign = element, sign
        self._parts = []
        for key, part in element.parts.items():
            signed = [sign * coefficient for coefficient in part.coefficients]
            grows = polynomial([max(coefficient, 0) for coefficient in signed], part.scale)
            falls = polynomial([max(-coefficient, 0) for coefficient in signed], part.scale)
            self._parts.append((grows, falls, element.field.product(key)))

    def at_least(self, low: Fraction, high: Fraction) -> Fraction:
        """A lower bound of sign * element on [low, high]."""
        total = Fraction(0)
        for grows, falls, bottom in self._parts:
            top = grows.at(low) - falls.at(high)
            total += top / bottom.at(high if top > 0 else low)
        return total

    def ends(self, point: Fraction) -> bool:
        """Whether the element is 0 at a point or has the opposite sign there."""
        return self._element.at(point) * self._sign <= 0


def _search(enclosure: _Enclosure, end: Fraction) -> tuple[Fraction, Fraction] | None:
    """The first root in (0, end], by halving, or None.

    Raises:
        _UndecidedError: LARGEST_SEARCH intervals were not enough, or LARGEST_NARROW_SEARCH as narrow as TOLERANCE
            in which the sign is neither shown to be kept nor seen to end.
    """
    waiting, narrow = [(Fraction(0), end)], 0
    for _ in range(LARGEST_SEARCH):
        if not waiting:
            return None
        low, high = waiting.pop()
        if enclosure.at_least(low, high) > 0:
            continue
        if high - low <= TOLERANCE * high:
            # The intervals before this one are done: the sign is kept on (0, low].
            if enclosure.ends(high):
                return low, high
            # Just before a simple root a few intervals must be narrower still; beside a double root, ever more.
            narrow += 1
            if narrow > LARGEST_NARROW_SEARCH:
                raise _UndecidedError
        middle = (low + high) / 2
        waiting += [(middle, high), (low, middle)]
    raise _UndecidedError


def _isolate(numerator: Polynomial, end: Fraction) -> tuple[Fraction, Fraction] | None:
    """The first root in (0, end] of a polynomial that is not 0 at 0, by sympy's real root isolation."""
    variable = sympy.Symbol("t")
    exact = sympy.Poly(list(numerator.coefficients[::-1]), variable, domain=sympy.ZZ).sqf_part()
    last = sympy.Rational(end.numerator, end.denominator)
    if not exact.count_roots(0, last):
        return None
    width = TOLERANCE
    while True:
        found = exact.intervals(eps=sympy.Rational(width.numerator, width.denominator), inf=0)
        roots = [(Fraction(int(low.p), int(low.q)), Fraction(int(high.p), int(high.q))) for (low, high), _ in found]
        low, high = min((low, high) for low, high in roots if high > 0)
        if low == high:
            low = high * (1 - TOLERANCE / 2)
        if low > 0 and high - low <= TOLERANCE * high:
            return low, min(high, end)
        width /= 2**10


def log_upper_bound(number: Fraction) -> Fraction:
    """Lemma: a rational L >= ln(number), a multiple of 2^-30 and at most about 1e-8 too large.

    Pre: number >= 1.
    Post: ln(number) <= L, since a partial sum of the series of exp(L), all of whose terms are positive, reaches it.
    Cost: some dozens of rational products.

    >>> log_upper_bound(Fraction(1))
    Fraction(0, 1)
    """
    if number == 1:
        return Fraction(0)
    guess = math.log(number.numerator) - math.log(number.denominator)
    bound = Fraction(math.ceil(guess * 2**30) + 1, 2**30)
    while True:
        term = total = Fraction(1)
        place = 0
        while term * 2**60 > total or place < bound:
            place += 1
            term = term * bound / place
            total += term
            if total >= number:
                return bound
        bound += Fraction(1, 2**30)
