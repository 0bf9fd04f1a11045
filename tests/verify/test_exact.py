"""Grids, slacks and enclosures, against rational arithmetic and mpmath."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from verify.exact import common_slack, exp_upper, largest, lowest_bit, rounding_slack, sum_loss

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
some = hnp.arrays(np.float32, st.integers(0, 7), elements=finite)


@given(some)
def test_all_values_lie_on_the_grid_of_the_lowest_bit_and_on_no_coarser_one(values: np.ndarray) -> None:
    grid = lowest_bit(values)
    steps = [Fraction(float(value)) / Fraction(2) ** grid for value in values]
    assert all(step.denominator == 1 for step in steps)
    if any(steps):
        assert any(step.numerator % 2 for step in steps)
    else:
        assert grid == 0


def test_the_largest_of_nothing_is_0() -> None:
    assert largest(np.zeros(0)) == 0
    assert largest(np.array([-3.0, 2.0])) == 3


moderate = st.floats(-(2.0**30), 2.0**30, width=32).filter(lambda value: value == 0 or abs(value) > 2.0**-30)
factors = hnp.arrays(np.float64, st.integers(1, 13), elements=moderate)


@given(factors, st.data())
def test_what_a_sum_of_products_is_off_is_within_the_slack_and_0_where_it_says_exact(
    first: np.ndarray, data: st.DataObject
) -> None:
    second = data.draw(hnp.arrays(np.float64, len(first), elements=moderate))
    slack = rounding_slack([first, second], len(first))
    exact = sum((Fraction(a) * Fraction(b) for a, b in zip(first.tolist(), second.tolist(), strict=True)), Fraction(0))
    for order in (slice(None), slice(None, None, -1)):
        computed = 0.0
        for a, b in zip(first[order].tolist(), second[order].tolist(), strict=True):
            computed += a * b
        assert abs(Fraction(computed) - exact) <= Fraction(slack)


def test_integers_need_no_slack_and_fine_or_mixed_grids_do() -> None:
    integers = np.arange(-7.0, 8.0)
    assert rounding_slack([integers, integers, integers], 1000) == 0
    assert rounding_slack([np.array([1.0 + 2.0**-40]), np.array([1.0 + 2.0**-40])], 3) > 0
    # Each kind is exact alone, and not beside the other.
    large, small = np.array([2.0**40]), np.array([2.0**-40])
    assert rounding_slack([large], 1) == rounding_slack([small], 1) == 0
    assert common_slack([([large], 1), ([small], 1)]) >= 2.0**-40
    assert common_slack([([large], 1), ([np.zeros(3)], 5)]) == 0
    assert common_slack([]) == 0


@given(st.lists(hnp.arrays(np.float64, 3, elements=moderate), min_size=1, max_size=5))
def test_what_adding_vectors_loses_is_within_the_loss(parts: list[np.ndarray]) -> None:
    loss = sum_loss(parts)
    total = np.zeros(3)
    for part in parts:
        total = total + part
    for at in range(3):
        exact = sum((Fraction(float(part[at])) for part in parts), Fraction(0))
        assert abs(Fraction(float(total[at])) - exact) <= Fraction(float(loss[at]))


def test_each_coordinate_has_a_loss_of_its_own() -> None:
    loss = sum_loss([np.array([1.0, 2.0**60]), np.array([-1.0, 1.0])])
    assert loss[0] == 0
    assert loss[1] >= 1


@given(hnp.arrays(np.float64, st.integers(1, 11), elements=st.floats(-800, 800)))
def test_exp_upper_is_above_exp_and_hardly_more(exponents: np.ndarray) -> None:
    upper = exp_upper(exponents)
    with mpmath.workdps(60):
        for exponent, bound in zip(exponents.tolist(), upper.tolist(), strict=True):
            exact = mpmath.exp(mpmath.mpf(exponent))
            assert bound >= exact
            if abs(exponent) < 700:
                assert bound <= exact * (1 + mpmath.mpf(2) ** -50)


def test_exp_upper_at_the_ends() -> None:
    upper = exp_upper(np.array([[0.0, -np.inf], [np.inf, -1e4]]))
    assert upper[0, 0] == 1
    assert 0 < upper[0, 1] == upper[1, 1] < 1e-299
    assert upper[1, 0] == math.inf


def test_very_many_exponents_are_rounded_up_by_little() -> None:
    exponents = np.random.default_rng(2).uniform(-30, 1, size=20_011)
    upper = exp_upper(exponents)
    assert (upper >= np.exp(exponents)).all()
    assert (upper <= np.exp(exponents + 2.0**-7)).all()
    assert upper.shape == exponents.shape


@pytest.mark.parametrize("exponent", [-699.9, -1e-9, 1e-9, 12.0, 699.9])
def test_one_exponent_is_as_many(exponent: float) -> None:
    assert exp_upper(np.array(exponent)) == exp_upper(np.array([exponent, 3.0]))[0]
