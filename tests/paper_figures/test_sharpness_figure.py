"""The figure `error-vs-sharpness`: what is found is below what is certified, at the rate of the theorem."""

import math
from typing import Any

import msgspec
import pytest
from scipy.stats import linregress

from paper_figures import (
    sharpness_figure,
)
from tests.paper_figures.drawn import lines

pytestmark = pytest.mark.usefixtures("style")


def test_nothing_found_is_above_what_is_certified(made: Any) -> None:
    for point in made("error-vs-sharpness").points:
        # float64 rounds: the bound is in real arithmetic, and the slack is its rounding at so few operations.
        assert point.found["float64"] <= point.bounds["real"] + 1e-12
        for form in ("float32", "float16", "bfloat16"):
            assert point.bounds[form] is None or point.found[form] <= point.bounds[form]


def test_the_points_found_and_the_bounds_are_drawn(made: Any) -> None:
    record = made("error-vs-sharpness")
    left, right = sharpness_figure.draw(record).axes
    at = [point.sharpness for point in record.points]
    assert lines(left)["worst found, float64"] == (at, [point.found["float64"] for point in record.points])
    assert lines(left)["certified, real arithmetic"] == (at, [point.bounds["real"] for point in record.points])
    for form in ("float32", "float16", "bfloat16"):
        drawn = lines(right)[f"certified, {form}"][1]
        for value, point in zip(drawn, record.points, strict=True):
            assert value == point.bounds[form] or (math.isnan(value) and point.bounds[form] is None)


@pytest.mark.parametrize("rate", [1.5, 2.0])
def test_the_rate_fitted_is_the_rate_of_the_points(rate: float, made: Any) -> None:
    record = made("error-vs-sharpness")
    points = [
        msgspec.structs.replace(point, found={**point.found, "float64": 7 * math.exp(-rate * point.sharpness)})
        for point in record.points
    ]
    found, half = sharpness_figure.fitted_rate(msgspec.structs.replace(record, points=points))
    assert found == pytest.approx(rate)
    assert half < 1e-9


def test_what_was_found_falls_at_the_rate_of_the_theorem(made: Any) -> None:
    # The next term of the bound is smaller by z^2 <= e^-6, and the points span 9 in lambda.
    assert sharpness_figure.fitted_rate(made("error-vs-sharpness"))[0] == pytest.approx(sharpness_figure.RATE, abs=0.05)


def test_the_interval_of_the_rate_is_that_of_a_linear_regression(made: Any) -> None:
    record = made("error-vs-sharpness")
    points = sharpness_figure.fitted_points(record)
    logs = [math.log(point.found["float64"]) for point in points]
    fit = linregress([point.sharpness for point in points], logs)
    rate, half = sharpness_figure.fitted_rate(record)
    # Student's t at 0.975 with 2 degrees of freedom, from a table.
    assert len(points) == 4
    assert rate == pytest.approx(-fit.slope)
    assert half == pytest.approx(4.30265 * fit.stderr, rel=1e-5)


def test_points_without_a_format_or_without_errors_to_fit_are_refused(made: Any) -> None:
    record = made("error-vs-sharpness")
    less = msgspec.structs.replace(record.points[0], found={"float64": 0.1})
    with pytest.raises(ValueError, match="says nothing of float32"):
        msgspec.structs.replace(record, points=[less, *record.points])
    zero = [msgspec.structs.replace(point, found={**point.found, "float64": 0.0}) for point in record.points]
    with pytest.raises(ValueError, match="fewer than two points"):
        msgspec.structs.replace(record, points=zero)
