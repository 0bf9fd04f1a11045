"""docs/pretrained.md: its tables are those of the records, and so are the figures of its answer."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from empirical.measures import Estimate, Sample, calibration, mean
from empirical.records import Results, load_results
from empirical.superposition_index import regression, superposition_index

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pretrained.md").read_text(encoding="utf-8")
ROWS = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in PAGE.splitlines() if line[:1] == "|"]


def _run(name: str) -> Results:
    return load_results(ROOT / "records" / "pretrained" / f"{name}.jsonl")


def _short(found: Estimate) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _two(sample: Sample) -> tuple[str, str, str, str]:
    """P_1, S, certain, other."""
    first = sample.normalised[:, 0]
    certain = ((first < 0.1) | (first > 0.9)).mean()
    return f"{first.mean():.2f}", _short(superposition_index(sample)), f"{certain:.2f}", f"{sample.other.mean():.2f}"


@pytest.mark.parametrize(("suite", "tasks"), [("copy_add", "copy_a, copy_b"), ("letters", "first_letter, lower")])
def test_the_mixtures_of_two_tasks(suite: str, tasks: str) -> None:
    run = _run(f"curve-{suite}-pretrained")
    assert [cell.examples for cell in run.cells] == [40] * 5
    wanted = [(tasks, f"{cell.mixture[0]:g}", *_two(run.sample(place))) for place, cell in enumerate(run.cells)]
    assert [row for row in ROWS if row[0] == tasks] == wanted
    exact = _run(f"curve-{suite}-construction")
    indices = [superposition_index(exact.sample(place)).value for place in (1, 2, 3)]
    assert min(indices) >= 0.999


def test_the_settings_of_the_paper() -> None:
    for suite in ("add_translate", "country", "copy_add", "letters"):
        run = _run(f"setting-{suite}")
        sample = run.sample(0)
        assert len(sample) == 100
        means = ", ".join(
            f"{name} {share:.2f}" for name, share in zip(run.header["tasks"], sample.probability.mean(0), strict=True)
        )
        right = mean(sample.correct)
        (row,) = [row for row in ROWS if row[0] == suite]
        kinds = len(run.header["tasks"])
        index = _short(superposition_index(sample))
        assert row == (suite, means, f"{sample.other.mean():.2f}", index, f"{right.value:.2f} of {kinds}")


def test_the_numbers_of_examples() -> None:
    run = _run("shots-letters")
    wanted = [(str(cell.examples), *_two(run.sample(place))) for place, cell in enumerate(run.cells)]
    assert [row for row in ROWS if row[0].isdigit()] == wanted


def test_the_answer_states_the_figures() -> None:
    letters, copies = (_run(f"curve-{suite}-pretrained") for suite in ("letters", "copy_add"))
    followed = calibration([letters.sample(place) for place in range(5)])
    missed = calibration([copies.sample(place) for place in range(5)])
    assert followed is not None
    assert missed is not None
    _, index, certain, _ = _two(letters.sample(2))
    text = re.sub(r"\s+", " ", PAGE)
    assert f"slope {_short(followed.slope)}" in text
    assert f"intercept {followed.intercept.value:.2f}" in text
    assert f"S = {index}" in text
    assert f"on {float(certain):.0%} of the prompts" in text
    assert f"worst gap {_short(followed.worst_gap)}" in text
    assert f"worst gap {_short(missed.worst_gap)}" in text
    for run, shown in ((letters, "{} and {} on `letters`"), (copies, "({} and {} on `copy_add`)")):
        first = [run.sample(place).normalised[:, 0] for place in (1, 2, 3)]
        alike = [np.corrcoef(first[place], first[place + 1])[0, 1] for place in (0, 1)]
        assert shown.format(*(f"{value:.2f}" for value in alike)) in text
    explained = [regression(letters.sample(place)).explained for place in (1, 2, 3)]
    assert f"at most {max(explained):.0%} of it" in text


def test_the_task_vectors() -> None:
    record = json.loads((ROOT / "records" / "pretrained" / "task-vectors-pretrained.json").read_text(encoding="utf-8"))
    transfer, text = record["transfer"], re.sub(r"\s+", " ", PAGE)
    at = record["layer"] - 1
    probability, accuracy, plain = transfer["probability"][at], transfer["accuracy"][at], transfer["before"][0]
    assert max(transfer["accuracy"][:18]) < plain + 0.05, "before layer 19 nothing transfers"
    assert f"after layer {at + 1} of {len(transfer['accuracy'])}" in text
    assert f"with probability {probability:.2f}" in text
    assert f"in {accuracy:.2f} of the prompts ({plain:.2f} without)" in text
    *most, last = (f"{one['probability'][0]['value']:.2f}" for one in record["combinations"])
    assert [one["weights"][0] for one in record["combinations"]] == [0, 0.25, 0.5, 0.75, 1]
    assert f"has {', '.join(most)} and {last}" in text
    found = record["geometry"][at]
    assert f"is {found['sine']:.2f}, the noise floor {found['floor']:.2f}" in text
