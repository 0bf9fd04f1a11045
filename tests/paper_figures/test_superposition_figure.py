"""The figure `superposition`: the exact answer, the output, and errors within certified intervals."""

from typing import Any

import pytest

from construct.oracle import answer
from paper_figures import (
    superposition_figure,
)
from paper_figures.inputs import Inputs
from paper_figures.style import task_colour, tint
from tests.paper_figures.drawn import lines

pytestmark = pytest.mark.usefixtures("style")


def test_the_target_of_the_prompt_is_the_exact_answer(made: Any, inputs: Inputs) -> None:
    record = made("superposition")
    exact = answer(inputs.construction.task_set, inputs.prompt)
    shares = {inputs.construction.task_set.alphabet[token]: str(share) for token, share in exact.target.items()}
    assert {row.token: row.target for row in record.answers} == shares
    assert shares == {"Lima": "6/11", "South America": "3/11", "PERU": "2/11"}


def test_bars_are_targets_in_the_colour_of_their_task_and_points_are_outputs(made: Any) -> None:
    record = made("superposition")
    left, right = superposition_figure.draw(record).axes
    assert [bar.get_width() for bar in left.patches] == [row.share for row in record.answers]
    for bar, row in zip(left.patches, record.answers, strict=True):
        assert bar.get_facecolor()[:3] == pytest.approx(tint(task_colour(row.tasks[0])))
    assert lines(left)["output, float32"][0] == [row.output["float32"] for row in record.answers]
    for form in ("float64", "float32"):
        errors = [abs(row.output[form] - row.share) for row in record.answers]
        assert lines(right)[f"error here, {form}"][0] == pytest.approx([max(each, 1e-12) for each in errors])


def test_the_intervals_end_at_the_certified_bounds_and_hold_the_error(made: Any) -> None:
    record = made("superposition")
    _, right = superposition_figure.draw(record).axes
    ends = sorted({round(bar.get_x() + bar.get_width(), 15) for bar in right.patches})
    assert ends == pytest.approx(sorted(record.bounds.values()))
    assert sum(abs(row.output["float32"] - row.share) for row in record.answers) <= record.bounds["float32"]
