"""The figure `depth`: counts above the theorem, and the runs drawn."""

import math
from typing import Any

import msgspec
import pytest

from paper_figures import (
    depth_figure,
)
from tests.paper_figures.drawn import lines

pytestmark = pytest.mark.usefixtures("style")


def test_the_bits_needed_are_those_of_theorem_1() -> None:
    assert depth_figure.bits("0", 7) == 7
    # h(1/4) = 2 - (3/4) log2 3
    assert depth_figure.bits("1/4", 9) == pytest.approx((1 - (2 - 0.75 * math.log2(3))) * 8)


def test_no_count_is_below_the_theorem(made: Any) -> None:
    record = made("depth")
    assert {need.eps for need in record.needed} == {"0", "1/4"}
    for need in record.needed:
        assert need.counted >= need.bound
        if need.eps == "0":
            assert need.counted == need.examples
    wrong = msgspec.structs.replace(record.needed[-1], counted=0.0)
    with pytest.raises(ValueError, match="fewer than theorem 1"):
        msgspec.structs.replace(record, needed=[wrong])
    with pytest.raises(ValueError, match="where nothing was built"):
        msgspec.structs.replace(record, built=record.built[1:])


def test_the_line_goes_through_the_best_run_of_each_m(made: Any) -> None:
    record = made("depth")
    mean, largest, _ = depth_figure.draw(record).axes
    places, values = lines(mean)["one layer, trained"]
    for at, value in zip(places, values, strict=True):
        assert value == min(run.mean for run in record.trained if (run.layers, run.examples) == (1, at))
    assert lines(mean)["two layers, built"][1] == [built.mean for built in record.built]
    assert lines(largest)["two layers, built"][1] == [built.largest for built in record.built]
