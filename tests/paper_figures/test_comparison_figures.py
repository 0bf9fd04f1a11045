"""What the figures that compare models draw is what the records of the models say."""

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from empirical.records import load_results
from empirical.study_records import EXACT, ONE_TASK, Study, read_study
from paper_figures import (
    completion_figure,
    emergence_figure,
    mechanism_figure,
    mixture_curve_figure,
    settings_figure,
    superposed_or_committed_figure,
    task_vectors_figure,
)
from paper_figures.emergence_figure import EVENTS
from paper_figures.registry import FIGURES, entry
from paper_figures.runs import run_label
from paper_figures.style import task_colour
from tests.paper_figures import test_make

RECORDS = Path(__file__).resolve().parents[2] / "records"
PRETRAINED = "SmolLM2-135M-Instruct (Llama Q4_1)"
COMPARISONS = [figure.name for figure in FIGURES if figure.kind == "comparison"]
DRAWN_TWICE = ("settings", "emergence", "mechanism")
"""Of every kind of layout one, to save time."""
CLOSE = 2e-5
"""Constructions in float32 are within 1e-5 of the exact answer, and records are rounded to six digits."""

pytestmark = pytest.mark.usefixtures("style")


@pytest.fixture(scope="module")
def study() -> Study:
    """The record of the study."""
    return read_study(RECORDS / "training-study.json")


def probabilities(path: Path, cell: int) -> np.ndarray:
    """Of each task's answer, [prompts, K], read from the lines themselves."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    logs = [[one["log_probability"][place] for place in one["answer_of"]] for one in rows if one["cell"] == cell]
    return np.array([[0.0 if value is None else math.exp(value) for value in each] for each in logs])


def shown(axes: Any) -> list[Any]:
    """The lines with a marker and more than one point, or a label."""
    return [line for line in axes.lines if line.get_marker() not in ("None", ".", "_", "|") and len(line.get_xdata())]


@pytest.mark.parametrize("name", DRAWN_TWICE)
def test_a_figure_drawn_again_has_the_same_bytes(
    name: str, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_make, "IN_ALL_FORMATS", ())
    test_make.test_a_figure_drawn_again_from_its_data_has_the_same_bytes(name, made, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_axis_has_a_label_and_every_letter_can_be_read(name: str, made: Any) -> None:
    test_make.test_every_axis_has_a_label_and_every_letter_is_on_the_page_and_can_be_read(name, made)


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_caption_says_what_is_measured_and_whether_a_pretrained_model_is_drawn(name: str, made: Any) -> None:
    record = made(name)
    said = entry(name).load().caption(record)
    assert "easured" in said
    assert "n = " in said or "on prompts" in said
    shown = b'"pretrained":true' in msgspec.json.encode(record)
    assert shown == (name in ("mixture-curve", "settings", "task-vectors", "superposed-or-committed"))
    assert said.endswith("There is no pretrained model among its records.") == (name == "mechanism")


# mixture-curve


def test_means_are_those_of_the_lines_with_an_interval_around_them(made: Any) -> None:
    record = made("mixture-curve")
    by_name = {(one.suite, one.model.label): one for one in record.asked}
    for file, suite, label in (
        ("curve-construction", "retrieval", "construction, two-layer"),
        ("curve-trained", "retrieval", "trained (Llama)"),
        ("pretrained/curve-letters-pretrained", "letters", PRETRAINED),
    ):
        path = RECORDS / f"{file}.jsonl"
        for cell, point in enumerate(by_name[suite, label].points):
            expected = probabilities(path, cell).mean(0)
            assert [bar.value for bar in point.mean] == pytest.approx(list(expected))
            assert all(bar.low <= bar.value <= bar.high for bar in point.mean)


def test_a_model_is_drawn_by_task_in_its_colour_and_runs_of_the_study_by_what_varies(made: Any, study: Study) -> None:
    record = made("mixture-curve")
    axes = mixture_curve_figure.draw(record).axes
    visible = [each for each in axes if each.get_visible()]
    for one, each in zip(record.asked, visible, strict=False):
        for task in range(2):
            (line,) = [
                line for line in shown(each)
                if len(line.get_xdata()) == len(one.points) and to_rgb(line.get_color()) == to_rgb(task_colour(task))
            ]  # fmt: skip
            assert list(line.get_xdata()) == [point.share for point in one.points]
            assert list(line.get_ydata()) == [point.mean[task].value for point in one.points]
    drawn = {
        str(line.get_label()): list(line.get_ydata()) for each in visible[len(record.asked) :] for line in each.lines
    }
    for run in study.runs:
        assert drawn[run_label(run)] == [one.mean[0].value for one in run.answers.curve]


def test_suites_of_two_models_share_a_row_and_none_is_cut() -> None:
    bars = [{"value": 0.5, "low": 0.4, "high": 0.6}] * 2
    points = [{"share": share, "mean": bars, "prompts": [[0.5], [0.5]]} for share in (0.0, 1.0)]
    asked = [
        {"model": {"label": str(place), "pretrained": False}, "suite": suite, "tasks": ["one", "two"], "examples": 3,
         "points": points}
        for suite, count in (("first", 3), ("second", 2), ("third", 2), ("fourth", 5))
        for place in range(count)
    ]  # fmt: skip
    record = msgspec.convert({"asked": asked, "trained": None}, type=mixture_curve_figure.RECORD)
    rows = mixture_curve_figure.rows_of(record.asked)
    assert [[one.suite for one in row] for row in rows] == [
        ["first"] * 3,
        ["second"] * 2 + ["third"] * 2,
        ["fourth"] * 4,
        ["fourth"],
    ]


# settings


def test_boxes_are_quartiles_of_the_prompts_and_the_paper_s_settings_come_first(made: Any) -> None:
    record = made("settings")
    assert [one.suite for one in record.settings][:4] == list(settings_figure.SETTINGS)
    axes = [each for each in settings_figure.draw(record).axes if each.get_visible()]
    for setting, each in zip(record.settings, axes, strict=True):
        medians = [line for line in each.lines if line.get_color() == "#000000" and len(line.get_ydata()) == 2]
        expected = [np.median(values) for boxes in setting.models for values in boxes.probabilities]
        assert [line.get_ydata()[0] for line in medians] == pytest.approx(expected)
        assert len(each.patches) == len(expected)
    values = probabilities(RECORDS / "settings" / "country.jsonl", 0)
    (country,) = [one for one in record.settings if one.suite == "country"]
    found = np.array(country.models[0].probabilities).T
    assert found == pytest.approx(values, abs=1e-6)
    assert values == pytest.approx(1 / 3, abs=CLOSE), "the construction superposes on every prompt"


def test_a_pretrained_model_is_asked_the_prompts_of_the_constructions(made: Any) -> None:
    for setting in made("settings").settings[:4]:
        (found,) = [boxes for boxes in setting.models if boxes.model.pretrained]
        assert found.model.label == PRETRAINED
        values = probabilities(RECORDS / "pretrained" / f"setting-{setting.suite}.jsonl", 0)
        assert pytest.approx(values, abs=1e-6) == np.array(found.probabilities).T


def test_the_construction_answers_each_prompt_by_its_evidence(made: Any) -> None:
    run = load_results(RECORDS / "evaluate-construction.jsonl")
    (own,) = [one for one in made("settings").settings if one.suite == run.header["suite"]]
    boxes = {one.model.label: np.array(one.probabilities).T for one in own.models}
    oracle = run.sample(0).oracle
    assert boxes["construction, two-layer"] == pytest.approx(oracle, abs=CLOSE)
    assert boxes["export (GPT2)"] == pytest.approx(oracle, abs=CLOSE)
    assert np.abs(boxes["trained (Llama)"] - oracle).max() > 0.5


# completion


def test_divergence_and_completion_are_those_of_the_study(made: Any, study: Study) -> None:
    record = made("completion")
    for series in record.models:
        (run,) = [run for run in study.runs if series.label == run_label(run)]
        assert series.size == run.parameters
        assert [one.kl.value for one in series.mixed] == [one.kl.value for one in run.answers.uniform]
        assert [one.completion.value for one in series.mixed] == [one.completion.value for one in run.answers.uniform]
        assert series.label.endswith(" *") != run.learned
    assert {one.label for one in record.learners} == {EXACT, ONE_TASK}
    exact = next(one for one in record.learners if one.label == EXACT)
    assert all(one.kl.value == 0 and one.completion.value == 1 for one in exact.mixed)


def test_models_of_one_setup_stand_by_their_size(made: Any) -> None:
    record = made("completion")
    axes = completion_figure.draw(record).axes
    sized = [one for one in record.models if one.sized]
    points = [line for line in shown(axes[3]) if len(line.get_xdata()) == 1]
    assert [line.get_ydata()[0] for line in points] == [one.mixed[-1].completion.value for one in sized]
    for line, one in zip(points, sized, strict=True):
        alike = sum(other.size == one.size for other in sized)
        assert line.get_xdata()[0] == pytest.approx(one.size, rel=0.04 * (alike - 1) / 2 + 1e-9)
        assert 0 <= line.get_ydata()[0] <= axes[3].get_ylim()[1]


# task-vectors


def test_the_ring_is_the_convex_combination_and_combinations_are_as_recorded(made: Any) -> None:
    record = made("task-vectors")
    axes = task_vectors_figure.draw(record).axes
    for place, one in enumerate(record.models):
        plane, outputs = axes[3 * place], axes[3 * place + 1]
        points = {name: np.array([p for p, label in zip(one.points, one.labels, strict=True) if label == at])
                  for at, name in enumerate([*one.tasks, "mixture"])}  # fmt: skip
        wanted = sum(weight * points[name].mean(0) for weight, name in zip(one.mixture, one.tasks, strict=True))
        drawn = {str(line.get_label()): line for line in plane.lines}
        assert drawn["predicted mean"].get_xydata()[0] == pytest.approx(wanted)
        assert drawn["mixture's mean"].get_xydata()[0] == pytest.approx(points["mixture"].mean(0))
        for task, name in enumerate(one.tasks):
            assert len(drawn[name].get_xdata()) == len(points[name])
            (line,) = [line for line in shown(outputs) if line.get_color() == task_colour(task)
                       and len(line.get_xdata()) == len(one.combinations)]  # fmt: skip
            assert list(line.get_ydata()) == [each.probability[task].value for each in one.combinations]


def test_the_seven_layer_construction_s_mixture_lies_on_the_prediction(made: Any) -> None:
    (one,) = [one for one in made("task-vectors").models if one.model.label == "construction, seven-layer"]
    assert one.accuracy[one.layer - 1] == 1 > one.before
    assert one.sine[one.layer - 1] < one.floor[one.layer - 1] / 10
    found, wanted = task_vectors_figure.prediction(one)
    spread = np.ptp(np.array(one.points), axis=0).max()
    assert np.linalg.norm(np.subtract(found, wanted)) < 0.1 * spread


# emergence


def test_lines_are_the_moments_of_training_and_marks_the_steps_at_which_things_appear(made: Any, study: Study) -> None:
    record = made("emergence")
    accuracy, indices, certainty, *_, timeline = emergence_figure.draw(record).axes
    first = study.group("main")[0]
    drawn = {str(line.get_label()): list(line.get_ydata()) for line in (*accuracy.lines, *indices.lines)}
    for name in first.moments[0].accuracy:
        assert drawn[name] == [moment.accuracy[name] for moment in first.moments]
    assert drawn["superposition index S"] == [moment.index for moment in first.moments]
    (mesh,) = certainty.collections
    shares = np.array([moment.histogram for moment in first.moments]).T / sum(first.moments[0].histogram)
    assert np.asarray(mesh.get_array()).reshape(shares.shape) == pytest.approx(shares)
    for place, run in enumerate(study.runs):
        for name, _, marker, colour in emergence_figure.EVENTS:
            steps = [line.get_xdata()[0] for line in timeline.lines
                     if line.get_marker() == marker and line.get_color() == colour
                     and len(line.get_xdata()) and abs(line.get_ydata()[0] - place) < 0.5]  # fmt: skip
            assert steps == [step for step in [getattr(run.emergence, name)] if step is not None]


def test_events_of_one_step_hide_nothing_of_one_another(made: Any) -> None:
    record = made("emergence")
    figure = emergence_figure.draw(record)
    figure.draw_without_rendering()
    timeline = figure.axes[-1]
    marks = [line for line in timeline.lines if line.get_marker() != "None" and len(line.get_xdata())]
    assert len(marks) == sum(getattr(run, name) is not None for run in record.events for name, *_ in EVENTS)
    points = 72 / figure.dpi
    places = [points * timeline.transData.transform((line.get_xdata()[0], line.get_ydata()[0])) for line in marks]
    apart = [np.abs(first - second).max() for first, second in combinations(places, 2)]
    assert min(apart) >= max(line.get_markersize() for line in marks)


def test_an_event_before_training_is_refused(made: Any) -> None:
    data = msgspec.to_builtins(made("emergence"))
    data["events"][0]["follows"] = 0
    with pytest.raises(msgspec.ValidationError, match=">= 1"):
        msgspec.convert(data, type=emergence_figure.RECORD)


# superposed-or-committed


def test_bars_count_the_prompts_and_tell_superposed_from_committed(made: Any) -> None:
    record = made("superposed-or-committed")
    axes = superposed_or_committed_figure.draw(record).axes
    cells = [cell for row in record.rows for cell in row.cells]
    for cell, each in zip(cells, axes, strict=True):
        assert sum(bar.get_height() for bar in each.patches) == pytest.approx(1)
        last = each.patches[-1]
        at_one = np.mean(np.array(cell.probabilities) >= 1 - 1 / superposed_or_committed_figure.BINS)
        assert last.get_height() == pytest.approx(at_one, abs=1e-9)
    named = superposed_or_committed_figure.named
    rows = {named(row, record): row for row in record.rows}
    assert len(rows) == len(record.rows)
    for label, superposes in (
        ("retrieval: construction, two-layer", True),
        ("letters: construction, two-layer", True),
        ("learner: last example", False),
    ):
        values = np.array(rows[label].cells[1].probabilities)
        middle = float(((values > 0.1) & (values < 0.9)).mean())
        assert (middle > 0.9) == superposes
        assert (rows[label].cells[1].index.value > 0.9) == superposes


# mechanism


def test_probes_and_heads_are_as_recorded_and_what_is_below_the_edge_is_written(made: Any) -> None:
    record = made("mechanism")
    recorded = json.loads((RECORDS / "mechanism.json").read_text(encoding="utf-8"))
    axes = mechanism_figure.draw(record).axes
    for one, found in zip(record.models, recorded.values(), strict=True):
        assert one.evidence == found["probes"]["evidence"]
        assert (one.read.layer, one.read.head) == (found["read"]["layer"] + 1, found["read"]["head"] + 1)
        (line,) = [line for line in axes[1].lines if str(line.get_label()) == one.model.label]
        assert list(line.get_ydata()) == [max(value, mechanism_figure.LEAST) for value in one.mixture]
    below = [f"{value:.1f}" for one in record.models for value in one.mixture if value < mechanism_figure.LEAST]
    assert below, "the trained model's probe"
    assert [text.get_text() for text in axes[1].texts] == below
    bars = sorted(bar.get_height() for bar in axes[3].patches)
    assert bars == sorted(head.without.value for one in record.models
                          for head in (one.read, one.average, one.control) if head is not None)  # fmt: skip
