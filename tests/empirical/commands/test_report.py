"""`construct report` and `construct compare`."""

import csv
import json
from pathlib import Path

import pytest

from tests.empirical.conftest import Command

RUN = ("--examples", 6, "--prompts", 12)


@pytest.fixture
def run(construct: Command, letters: Path, tmp_path: Path) -> Path:
    assert construct("evaluate", letters, *RUN, "--out", tmp_path / "run").status == 0
    return tmp_path / "run"


def test_the_index_is_the_headline(construct: Command, run: Path) -> None:
    ran = construct("report", run)
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "Superposed or committed?"
    row = next(line for line in lines if "uniform over 3, m=6" in line)
    # Six examples of three tasks, two each: the exact superposition is uniform for every prompt, S = 1.
    assert "1.000 [1.000, 1.000]  1.000" in row
    assert "3.000 [3.000, 3.000] of 3" in row
    for title in ("Divergence from the mixture", "Probability per task", "Variance within", "Prompts by the"):
        assert any(line.startswith(title) for line in lines)


def test_calibration_is_reported_for_a_curve(construct: Command, letters: Path, tmp_path: Path) -> None:
    two = ("--tasks", "lower,last_letter", "--curve", 5, "--examples", 8, "--prompts", 4)
    construct("evaluate", letters, *two, "--out", tmp_path / "curve")
    ran = construct("report", tmp_path / "curve")
    row = ran.out[ran.out.index("Calibration over lambda") :].splitlines()
    figures = next(line for line in row if "lower, m=8" in line)
    # At multiples of 1/4, eight examples have the mixture exactly: slope 1, intercept 0, no gap.
    assert figures.split("m=8")[1].split() == "1.000 [1.000, 1.000] 0.000 [0.000, 0.000] 0.000 [0.000, 0.000]".split()


def test_markdown_and_csv_hold_the_same_tables(construct: Command, run: Path, tmp_path: Path) -> None:
    ran = construct("report", run, "--markdown", tmp_path / "r.md", "--csv", tmp_path / "r.csv")
    assert ran.status == 0
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    heads = [row for row in rows if row[0] == "table"]
    titles = {row[0] for row in rows} - {"table"}
    assert len(heads) == len(titles) == text.count("\n## ") + 1
    for row in rows:
        if row[0] != "table":
            assert "| " + " | ".join(cell.replace("|", "\\|") for cell in row[1:]) + " |" in text


def test_runs_on_the_same_prompts_are_compared_pairwise(construct: Command, run: Path, letters: Path) -> None:
    other = run.parent / "bfloat16"
    construct("evaluate", letters, *RUN, "--dtype", "bfloat16", "--out", other)
    ran = construct("compare", run, other)
    assert ran.status == 0
    assert f"{letters} (1)" in ran.out
    assert f"Differences to {letters} (1), prompt by prompt" in ran.out


def test_runs_on_different_prompts_are_not_compared(construct: Command, run: Path, letters: Path) -> None:
    other = run.parent / "other"
    construct("evaluate", letters, *RUN, "--seed", 9, "--out", other)
    ran = construct("compare", run, other)
    ran.refused("not asked the same prompts", "prompts_sha256", "seed")
    construct("compare", run).refused("at least two")


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        (0, "tasks", ["first_letter"]),
        (0, "tasks", [1, 2, 3]),
        (0, "cells", []),
        (0, "cells", [{"mixture": [1, 1, 1], "examples": 6}]),
        (0, "cells", [{"mixture": [1, 0, 0], "examples": 5}]),
        (0, "prompts", 11),
        (0, "prompts_sha256", None),
        (0, "model", "x"),
        (1, "answer_of", [0, 1]),
        (1, "answer_of", [0, 1, 3]),
        (1, "answer_of", [0, 0, 0]),
        (1, "log_probability", [-1.0, -1.0]),
        (1, "log_probability", [-1.0, -1.0, 0.5]),
        (1, "log_probability", [-1.0, -1.0, float("nan")]),
        (1, "log_probability", [-1.0, -1.0, "x"]),
        (1, "evidence", [0.5, 0.5, 2]),
        (1, "drawn", [0, 1, 2, 0, 1, 3]),
        (1, "drawn", [0]),
        (1, "candidates", [1, 2, 3]),
        (1, "completions", [["a"]]),
        (1, "index", 1),
    ],
)
def test_a_file_with_one_field_changed_is_refused(
    line: int, field: str, value: object, construct: Command, run: Path, tmp_path: Path
) -> None:
    lines = (run / "results.jsonl").read_text(encoding="utf-8").splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | {field: value})
    (tmp_path / "changed").write_text("\n".join(lines) + "\n", encoding="utf-8")
    construct("report", tmp_path / "changed").refused("is damaged or cut off")


def test_files_that_are_no_results_are_refused(construct: Command, run: Path, tmp_path: Path) -> None:
    construct("report", tmp_path / "nothing").refused("is not there")
    (tmp_path / "text").write_text("hello\n", encoding="utf-8")
    construct("report", tmp_path / "text").refused("no file of results")
    (tmp_path / "json").write_text('{"a": 1}\n', encoding="utf-8")
    construct("report", tmp_path / "json").refused("no results of `construct evaluate`")
    lines = (run / "results.jsonl").read_bytes().splitlines(keepends=True)
    for name, content in {
        "shorter": b"".join(lines[:-1]),
        "swapped": b"".join([lines[0], lines[2], lines[1], *lines[3:]]),
        "newer": lines[0].replace(b'"format_version": 1', b'"format_version": 2') + b"".join(lines[1:]),
        "fields": b"".join([lines[0], lines[1].replace(b'"drawn"', b'"shown"'), *lines[2:]]),
        "cut": b"".join(lines)[:-5],
    }.items():
        (tmp_path / name).write_bytes(content)
        ran = construct("report", tmp_path / name)
        assert (ran.status, ran.out) == (2, ""), name
