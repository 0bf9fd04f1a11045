"""The figure `simplex`: every mixture, errors within the bound, colours of the corners."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from construct.errors import InputError
from paper_figures import (
    simplex_figure,
)
from paper_figures.inputs import Inputs
from paper_figures.style import PALETTE, task_colour

pytestmark = pytest.mark.usefixtures("style")


def test_there_is_a_mixture_for_each_way_to_share_the_examples(made: Any) -> None:
    record = made("simplex")
    counts = {tuple(mixture.counts) for mixture in record.mixtures}
    assert len(counts) == len(record.mixtures) == math.comb(record.examples + 2, 2)
    for mixture in record.mixtures:
        assert mixture.target == [float(Fraction(count, record.examples)) for count in mixture.counts]
        for form in simplex_figure.FORMATS:
            assert mixture.error[form] <= record.bounds[form]
            apart = sum(abs(a - b) for a, b in zip(mixture.output[form], mixture.target, strict=True))
            assert apart <= mixture.error[form] + 1e-12


def test_a_corner_has_the_colour_of_its_task(made: Any) -> None:
    for task in range(3):
        corner = [float(task == each) for each in range(3)]
        assert simplex_figure._blend(corner) == pytest.approx(to_rgb(PALETTE[task]))
    figure = simplex_figure.draw(made("simplex"))
    names = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert names == {name: task_colour(index) for index, name in enumerate(made("simplex").tasks)}


def test_the_dots_are_coloured_by_the_error_in_the_unit_of_the_bar(made: Any) -> None:
    record = made("simplex")
    figure = simplex_figure.draw(record)
    (points,) = figure.axes[1].collections
    errors = np.array([mixture.error["float32"] for mixture in record.mixtures])
    power = math.floor(math.log10(errors.max()))
    assert np.allclose(points.get_array(), errors / 10.0**power, rtol=1e-12, atol=0)
    assert any(f"10^{{{power}}}" in axes.get_xlabel() for axes in figure.axes)


def test_tasks_without_enough_rows_are_refused(tmp_path: Any) -> None:
    from construct.artifact import save
    from construct.suites import build_suite
    from construct.theorems import two_layer

    save(two_layer(build_suite("retrieval", tasks=3, alphabet_size=5, inputs=3), examples=7), tmp_path / "a")
    with pytest.raises(InputError, match="the figure simplex needs"):
        simplex_figure.collect(Inputs(tmp_path / "a"))
