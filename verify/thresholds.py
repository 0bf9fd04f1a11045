"""Up to which z the signs hold that an ordered field has decided: the first root of each argument, rigorously."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import sympy  # type: ignore[import-untyped]

from verify.ordered_field import Decision, Element, OrderedField
from verify.polynomials import Polynomial, polynomial

TOLERANCE = Fraction(1, 2**20)
"""How closely a root is enclosed, relative to it."""

LARGEST_SEARCH, LARGEST_NARROW_SEARCH = 20_000, 500
"""How many intervals a search for a root looks at, and how many that are narrower than TOLERANCE, before it asks for
exact root isolation."""


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


def threshold(field: OrderedField) -> Threshold:
    """Lemma: where the first of all the decided signs ends.

    Pre: none.
    Post: for 0 < t <= low (t < 1 where low is 1) every element given to `sign` has the sign it was given; unless
    high is 1, one of them is 0 at a point in (low, high], and (high - low) <= TOLERANCE * high.
    Cost: one look at each decision; a search for a root in few of them, those that seem to end first.
    """
    low = high = Fraction(1)
    where: str | None = None
    decisions = field.decisions
    guessed = [_guess_root(decision) for decision in decisions]
    for number in sorted(range(len(decisions)), key=guessed.__getitem__):
        root = _first_root(decisions[number], low)
        if root is not None:
            low, high = root[0], min(high, root[1])
            where = decisions[number].where
    return Threshold(low, high, field.steps, where)


def _guess_root(decision: Decision) -> float:
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


def _first_root(decision: Decision, end: Fraction) -> tuple[Fraction, Fraction] | None:
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
