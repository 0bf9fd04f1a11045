"""Exact bounds of sums of hinges, and the ball arithmetic that the contracts are proved with."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.boxes import Box
from verify.superposition_balls import between, ends, exp_lower, exp_upper, hull_so_far, image, plus, rectified
from verify.superposition_hinges import Hinge, Rectangle, extremes, farthest

SMALL = st.integers(-6, 6).map(lambda value: value / 2)


def hinges(outputs: int) -> st.SearchStrategy[list[Hinge]]:
    return st.lists(st.builds(Hinge, SMALL, SMALL, SMALL, st.tuples(*[SMALL] * outputs)), max_size=4)


def value(parts: list[Hinge], p: float, w: float, output: int) -> float:
    return sum(max(h.a * p + h.b * w + h.g, 0.0) * h.out[output] for h in parts)


@given(hinges(2), st.tuples(SMALL, SMALL), st.tuples(SMALL, SMALL))
@settings(max_examples=60)
def test_the_farthest_point_is_at_least_as_far_as_any_of_a_grid_and_is_reached(
    parts: list[Hinge], constant: tuple[float, float], slope: tuple[float, float]
) -> None:
    target = list(zip(constant, slope, strict=True))
    found = farthest(parts, Rectangle(-1.0, 2.0, 0.0, 1.0), target)
    assert isinstance(found, Fraction)
    grid = [
        sum(abs(value(parts, p, w, at) - target[at][0] - target[at][1] * w) for at in (0, 1))
        for p in np.linspace(-1, 2, 37)
        for w in np.linspace(0, 1, 25)
    ]
    assert max(grid) <= float(found) * (1 + 1e-12) + 1e-12
    # A grid of steps 1/12 and 1/24 misses a corner by at most half of them; the slopes add up to 4 * 9 * 2 + 6.
    assert float(found) <= max(grid) + (4 * 9 * 2 + 6) * (1 / 24 + 1 / 48) + 1e-12


@given(hinges(1))
@settings(max_examples=40)
def test_the_extremes_hold_every_value(parts: list[Hinge]) -> None:
    low, high = extremes(parts, Rectangle(-2.0, 1.0))
    values = [value(parts, p, 0.0, 0) for p in np.linspace(-2, 1, 61)]
    assert float(low) - 1e-12 <= min(values)
    assert max(values) <= float(high) + 1e-12


def test_a_kink_inside_is_found_that_no_edge_shows() -> None:
    tent = [Hinge(1, 0, 0, (1.0,)), Hinge(1, 0, -0.3, (-2.0,)), Hinge(1, 0, -0.6, (1.0,))]
    assert farthest(tent, Rectangle(-1.0, 1.0), [(0.0, 0.0)]) == Fraction(0.3)


def test_an_empty_rectangle_has_no_error() -> None:
    assert farthest([Hinge(1, 0, 5, (1.0,))], Rectangle(1.0, 0.0), [(0.0, 0.0)]) == 0


def test_exp_is_enclosed_tightly() -> None:
    generator = np.random.default_rng(0)
    points = np.concatenate([generator.uniform(-700, 700, 300), generator.uniform(-1, 1, 300), [0.0, -700.0, 700.0]])
    with mpmath.workprec(200):
        exact = [mpmath.exp(mpmath.mpf(float(point))) for point in points]
        for true, low, high in zip(exact, exp_lower(points).tolist(), exp_upper(points).tolist(), strict=True):
            assert mpmath.mpf(low) <= true <= mpmath.mpf(high)
            assert mpmath.mpf(high) - mpmath.mpf(low) <= true * mpmath.mpf(2) ** -38
    assert exp_lower(np.array([-701.0]))[0] == 0 < exp_upper(np.array([-701.0]))[0]
    assert exp_upper(np.array([701.0]))[0] == np.inf


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_a_box_holds_the_exact_result_of_a_layer_for_its_points(seed: int) -> None:
    generator = np.random.default_rng(seed)
    box = Box(generator.normal(size=5), np.abs(generator.normal(size=5)) * generator.choice([0.0, 1e-9, 1.0], size=5))
    weights, bias = generator.normal(size=(5, 4)), generator.normal(size=4)
    result = rectified(plus(image(box, weights), Box(bias, np.zeros(4))))
    low, high = ends(result)
    for _ in range(5):
        point = box.centre + box.radius * generator.uniform(-1, 1, 5)
        # The point is rounded itself, so the exact result of what it is, in rationals, is within its box enlarged.
        moved = [
            abs(float(Fraction(x) - Fraction(c))) <= r for x, c, r in zip(point, box.centre, box.radius, strict=True)
        ]
        exact = [
            max(sum((Fraction(x) * Fraction(w) for x, w in zip(point, column, strict=True)), Fraction(b)), Fraction(0))
            for column, b in zip(weights.T, bias, strict=True)
        ]
        if all(moved):
            assert all(Fraction(lo) <= x <= Fraction(hi) for lo, x, hi in zip(low, exact, high, strict=True))


def test_a_point_stays_a_point() -> None:
    point = between(np.array([0.5, -2.0]), np.array([0.5, -2.0]))
    assert point.radius.tolist() == [0.0, 0.0]
    assert plus(point, Box(np.array([0.0, 0.0]), np.zeros(2))).radius.tolist() == [0.0, 0.0]


def test_the_running_hull_holds_all_rows_so_far() -> None:
    rows = Box(np.array([[1.0], [3.0], [2.0]]), np.array([[0.0], [0.5], [0.0]]))
    low, high = ends(hull_so_far(rows))
    assert low.ravel() == pytest.approx([1.0, 1.0, 1.0])
    assert high.ravel() == pytest.approx([1.0, 3.5, 3.5])
