"""The figure `in-context-learning-curve`: shares counted over the examples seen, in the colours of the tasks."""

from typing import Any

import msgspec
import pytest

from paper_figures import (
    learning_curve_figure,
)
from paper_figures.style import task_colour, tint

pytestmark = pytest.mark.usefixtures("style")


def test_two_examples_are_explained_by_no_task_and_shaded(made: Any) -> None:
    record = made("in-context-learning-curve")
    unexplained = [at for at, step in enumerate(record.steps) if at and not step.explained_by]
    assert [record.steps[at].example for at in unexplained] == ["Spain->Tokyo", "Cuba->Europe"]
    explained = learning_curve_figure.draw(record).axes[2]
    assert [patch.get_x() + 0.5 for patch in explained.patches] == unexplained


def test_the_bars_of_an_answer_have_the_colour_of_its_task_and_the_height_of_its_share(made: Any) -> None:
    record = made("in-context-learning-curve")
    _, mixture, _ = learning_curve_figure.draw(record).axes
    for bars, name, task in zip(mixture.containers, record.answers, record.answer_tasks, strict=True):
        assert [bar.get_height() for bar in bars] == [step.mixture[name] for step in record.steps]
        assert {bar.get_facecolor()[:3] for bar in bars} == {tint(task_colour(task))}


def test_evidence_is_counted_over_the_examples_seen(made: Any) -> None:
    record = made("in-context-learning-curve")
    for seen, step in enumerate(record.steps):
        counts = [sum(task in each.explained_by for each in record.steps[1 : seen + 1]) for task in range(3)]
        assert step.exact == [count / seen if seen else 0.0 for count in counts]
        # Each answer to this query is one task's weight, so the certified |q_hat - q|_1 bounds that weight's error.
        assert step.model == pytest.approx(step.exact, abs=made("superposition").bounds["float32"])


def test_a_step_that_speaks_of_other_tasks_is_refused(made: Any) -> None:
    record = made("in-context-learning-curve")
    with pytest.raises(ValueError, match="evidence of 3 tasks, expected 2"):
        msgspec.structs.replace(record, tasks=record.tasks[1:])
    with pytest.raises(ValueError, match="other answers"):
        msgspec.structs.replace(record, answers=record.answers[1:])
