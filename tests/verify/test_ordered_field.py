"""The ordered field against exact evaluation at small points, against sympy's roots, and by its own laws."""

import math
from fractions import Fraction

import mpmath  # type: ignore[import-untyped]
import pytest
import sympy  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from verify.ordered_field import Element, OrderedField
from verify.polynomials import Polynomial, polynomial
from verify.thresholds import log_upper_bound, threshold

TINY = Fraction(1, 10**12)
"""Far below the roots of every numerator that is drawn here: they have coefficients below 10^6 and an end that is
no 0, so none is below 10^-6 (Cauchy)."""

coefficients = st.lists(st.integers(-9, 9), max_size=7)
numerators = st.builds(polynomial, coefficients, st.sampled_from([1, 2, 8]))
denominators = st.builds(
    lambda first, rest: polynomial([first, *rest]), st.integers(1, 5), st.lists(st.integers(0, 3), max_size=3)
)
fractions = st.lists(st.tuples(numerators, denominators), max_size=3)
variable = sympy.Symbol("t")


def element(field: OrderedField, parts: list[tuple[Polynomial, Polynomial]]) -> Element:
    return field.combine((1, 1, field.fraction(top, bottom)) for top, bottom in parts)


def roots_inside(top: Polynomial, low: Fraction, high: Fraction) -> int:
    """How many roots a polynomial has in [low, high], by sympy."""
    shown = sympy.Poly(list(top.coefficients[::-1]), variable)
    return int(shown.count_roots(*(sympy.Rational(end.numerator, end.denominator) for end in (low, high))))


def test_polynomials_are_in_lowest_terms() -> None:
    assert polynomial([2, -4, 0], 6) == Polynomial((1, -2), 3)
    assert polynomial([0, 0], 7) == Polynomial(())
    assert polynomial([1]) + polynomial([1, 1], 2) == Polynomial((3, 1), 2)
    assert polynomial([1, 1]) * polynomial([-1, 1], 2) == Polynomial((-1, 0, 1), 2)
    assert polynomial([1, -3, 5], 7).at(Fraction(2, 3)) == Fraction(11, 63)


@pytest.mark.parametrize("bottom", [[], [0, 1], [-1, 2], [3, -1]])
def test_denominators_that_could_vanish_are_refused(bottom: list[int]) -> None:
    with pytest.raises(ValueError, match="constant term"):
        OrderedField().fraction(polynomial([1]), polynomial(bottom))


@given(fractions, fractions, st.integers(-5, 5), st.integers(1, 5))
def test_arithmetic_agrees_with_exact_values_at_a_point(
    left: list[tuple[Polynomial, Polynomial]],
    right: list[tuple[Polynomial, Polynomial]],
    above: int,
    below: int,
) -> None:
    field, point = OrderedField(), Fraction(3, 7)
    first, second = element(field, left), element(field, right)
    values = [sum((top.at(point) / bottom.at(point) for top, bottom in parts), Fraction(0)) for parts in (left, right)]
    assert first.at(point) == values[0]
    assert (first + second).at(point) == sum(values)
    assert (first - second).at(point) == values[0] - values[1]
    assert field.combine([(above, below, first)]).at(point) == Fraction(above, below) * values[0]
    factor = polynomial([0, 2, 1]), polynomial([3, 1])
    expected = values[0] * factor[0].at(point) / factor[1].at(point)
    assert field.times(first, *factor).at(point) == expected
    top, bottom = first.over_one_denominator()
    assert top.at(point) / bottom.at(point) == values[0]
    with mpmath.workdps(40):
        near = first.near(mpmath.mpf(3) / 7)
        assert abs(near - mpmath.mpf(values[0].numerator) / values[0].denominator) < mpmath.mpf(10) ** -36


@given(fractions)
def test_a_sign_is_that_of_the_value_at_a_tiny_point(parts: list[tuple[Polynomial, Polynomial]]) -> None:
    field = OrderedField()
    drawn = element(field, parts)
    value = drawn.at(TINY)
    assert field.sign(drawn) == (value > 0) - (value < 0)
    assert field.is_zero(drawn) == (value == 0)
    leading = drawn.leading()
    if leading is None:
        assert value == 0
    else:
        # value = c t^v (1 + O(t)), with a factor of O(t) far below 10^9.
        assert abs(value / (leading[1] * TINY ** leading[0]) - 1) < Fraction(1, 1000)


@given(fractions)
def test_an_element_less_itself_written_otherwise_is_0(parts: list[tuple[Polynomial, Polynomial]]) -> None:
    field = OrderedField()
    drawn = element(field, parts)
    difference = drawn - field.fraction(*drawn.over_one_denominator())
    assert field.sign(difference) == 0
    assert field.is_zero(difference)
    assert difference.leading() is None
    shifted = difference + field.constant(Fraction(-2, 3))
    assert shifted.constant() == Fraction(-2, 3)
    assert field.sign(shifted) == -1


def test_a_sign_that_shows_only_in_a_high_order_is_found() -> None:
    field = OrderedField()
    bottom = polynomial([1, 1])
    # 1/(1+t) = 1 - t + t^2 - .. - t^19 + t^20/(1+t)
    start = polynomial([(-1) ** place for place in range(20)])
    rest = field.fraction(polynomial([1]), bottom) - field.fraction(start)
    other = field.fraction(polynomial([0] * 20 + [1]), polynomial([1, 2]))
    assert rest.leading() == (20, Fraction(1))
    assert field.sign(rest) == 1
    assert (rest - other).leading() == (21, Fraction(1))
    assert field.sign(other - rest) == -1


@given(fractions, st.integers(0, 9))
def test_a_series_leaves_a_remainder_of_its_order(parts: list[tuple[Polynomial, Polynomial]], terms: int) -> None:
    field = OrderedField()
    drawn = element(field, parts)
    series = drawn.series(terms)
    assert len(series) == terms
    start = sum((coefficient * TINY**place for place, coefficient in enumerate(series)), Fraction(0))
    assert abs(drawn.at(TINY) - start) <= TINY**terms * 10**9


@given(st.lists(coefficients, min_size=1, max_size=4))
def test_the_threshold_of_polynomials_is_the_least_root_that_sympy_isolates(drawn: list[list[int]]) -> None:
    field = OrderedField()
    tops = [polynomial(entries) for entries in drawn]
    for top in tops:
        field.sign(field.fraction(top))
    found = threshold(field)
    shown = [sympy.Poly(list(top.coefficients[::-1]), variable) for top in tops if top.coefficients]
    roots = [root for top in shown for root in top.real_roots() if 0 < root <= 1]
    least = min(roots, default=None)
    if least is None or (least == 1 and found.low == 1):
        assert (found.low, found.high) == (Fraction(1), Fraction(1))
        assert found.where is None
        assert found.least_sharpness == 0
    else:
        assert sympy.Rational(found.low.numerator, found.low.denominator) < least
        assert sympy.Rational(found.high.numerator, found.high.denominator) >= least
        assert found.high - found.low <= found.high * Fraction(1, 2**20)


@given(st.lists(fractions, min_size=1, max_size=3))
def test_below_the_threshold_no_sign_changes_and_at_it_one_does(
    drawn: list[list[tuple[Polynomial, Polynomial]]],
) -> None:
    field = OrderedField()
    elements = [element(field, parts) for parts in drawn]
    for place, one in enumerate(elements):
        field.sign(one, f"number {place}")
    found = threshold(field)
    shown = [one.over_one_denominator()[0] for one in elements if not field.is_zero(one)]
    reduced = [polynomial(top.coefficients[top.order :]) for top in shown]
    end = found.low if found.where else 1 - Fraction(1, 2**40)
    assert all(roots_inside(top, Fraction(0), end) == 0 for top in reduced)
    if found.where is not None:
        named = elements[int(found.where.split()[1])].over_one_denominator()[0]
        assert roots_inside(named, found.low, found.high) >= 1


def test_a_root_of_even_order_is_where_a_sign_ends() -> None:
    field = OrderedField(steps=2)
    touching = polynomial([1, -6, 9])
    assert field.sign(field.fraction(touching), "touches at 1/3") == 1
    found = threshold(field)
    assert found.where == "touches at 1/3"
    assert found.low < Fraction(1, 3) <= found.high
    # t = z^(1/2), so the sharpness is twice the logarithm.
    assert 0 <= found.least_sharpness - 2 * Fraction(math.log(3)) < Fraction(1, 10**5)


def test_a_sum_of_two_denominators_that_vanishes_at_0_has_its_threshold_too() -> None:
    field = OrderedField()
    # t/(1+t) - 3 t^2/(1+2t): 0 at 0 and where 1 + 2t = 3t + 3t^2.
    drawn = field.fraction(polynomial([0, 1]), polynomial([1, 1])) - field.fraction(
        polynomial([0, 0, 3]), polynomial([1, 2])
    )
    assert field.sign(drawn) == 1
    found, root = threshold(field), (math.sqrt(13) - 1) / 6
    assert found.low <= root <= found.high


def test_arguments_of_one_sign_for_all_z_put_no_limit_on_it() -> None:
    field = OrderedField()
    bottom, other = polynomial([1, 0, 4]), polynomial([2, 1])
    # -5 + 4t^2/(1 + 4t^2) + (2 + t)/(2 + t) is at most -3.
    drawn = field.combine(
        [
            (-5, 1, field.constant(1)),
            (1, 1, field.fraction(polynomial([0, 0, 4]), bottom)),
            (1, 1, field.fraction(other, other)),
        ]
    )
    assert field.sign(drawn) == -1
    assert threshold(field).low == 1


def test_a_numerator_where_the_denominator_has_no_term_can_change_the_sign() -> None:
    field = OrderedField()
    # 2 t/(1 + t^2) - 1/2 - t/(4 + t): below 0 at 0, 1/2 - 1/5 at 1.
    drawn = field.combine(
        [
            (2, 1, field.fraction(polynomial([0, 1]), polynomial([1, 0, 1]))),
            (-1, 2, field.constant(1)),
            (-1, 1, field.fraction(polynomial([0, 1]), polynomial([4, 1]))),
        ]
    )
    assert field.sign(drawn) == -1
    found = threshold(field)
    assert found.where is not None
    assert drawn.at(found.low) < 0 <= drawn.at(found.high)


def test_a_repeated_denominator_with_a_scale_is_kept_apart_from_a_single_one() -> None:
    field, point = OrderedField(), Fraction(2, 5)
    bottom = polynomial([1, 3, 2], 2)
    single = field.fraction(polynomial([1, 1]), bottom)
    squared = field.times(single, polynomial([2]), bottom)
    drawn = squared - single
    value = bottom.at(point)
    assert drawn.at(point) == 2 * (1 + point) / value**2 - (1 + point) / value
    top, under = drawn.over_one_denominator()
    assert top.at(point) / under.at(point) == drawn.at(point)
    assert under == bottom * bottom
    # 1/bottom = 2/((1+t)(1+2t)), so single = 2/(1+2t) = 2 - 4t + 8t^2 - ..
    assert single.series(4) == [2, -4, 8, -16]
    assert drawn.limit == 6


@given(st.fractions(1, 10**9))
def test_a_logarithm_is_bounded_from_above_and_closely(number: Fraction) -> None:
    bound = log_upper_bound(number)
    with mpmath.workdps(40):
        exact = mpmath.log(mpmath.mpf(number.numerator) / number.denominator)
        given = mpmath.mpf(bound.numerator) / bound.denominator
        assert 0 <= given - exact < mpmath.mpf(10) ** -8
