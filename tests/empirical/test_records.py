"""What several processes leave behind becomes one file, or none."""

import json
from pathlib import Path

import pytest

from construct.errors import ArtifactError
from construct.suites import build_suite
from empirical.language_model import Answer
from empirical.records import Row, Writer, header, load_results, prompts_sha256, row
from empirical.search import Completion, Completions
from empirical.settings import Cell, Question, Rules, draw

TASKS = build_suite("letters", tasks=2)
CELL = Cell((0.5, 0.5), 4)
NAMES = [task.name for task in TASKS.tasks]


def _questions(seed: int = 0) -> list[Question]:
    return list(draw(TASKS, CELL, 3, Rules(seed=seed)))


def _header(questions: list[Question], model: str = "m") -> Row:
    return header(
        suite="letters", tasks=NAMES, cells=[CELL], prompts=3, asked={"seed": 0}, questions=questions,
        model={"model": model},
    )  # fmt: skip


def _rows(questions: list[Question]) -> list[Row]:
    found = Completions((Completion("x", -0.25),), exact=False)
    return [row(question, Answer((-0.5, float("-inf")), found)) for question in questions]


def test_parts_are_put_together_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    questions = _questions()
    first, rows = _header(questions), _rows(questions)
    one, two = (Writer(tmp_path, rank, first) for rank in (0, 1))
    one.open()
    two.open()
    two.append([rows[1]])
    one.append([rows[2]])
    with pytest.raises(ArtifactError, match="1 prompts have no answer yet"):
        one.finish([(0, 0), (0, 1), (0, 2)])
    assert list(tmp_path.glob("results.jsonl")) == []
    one.append([rows[0]])
    one.finish([(0, 0), (0, 1), (0, 2)])
    results = load_results(tmp_path)
    assert [json.dumps(one) for one in results.rows] == [json.dumps(one) for one in rows]
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_a_probability_of_zero_survives_the_file(tmp_path: Path) -> None:
    questions = _questions()
    writer = Writer(tmp_path, 0, _header(questions))
    writer.open()
    writer.append(_rows(questions))
    writer.finish([(0, index) for index in range(3)])
    sample = load_results(tmp_path).sample(0)
    assert sample.probability[:, 1].tolist() == [0, 0, 0]
    assert sample.log_probability[:, 0].tolist() == [-0.5] * 3
    assert sample.correct.tolist() == [0, 0, 0]
    assert not sample.exact.any()


def test_a_part_of_another_run_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    Writer(tmp_path, 0, _header(_questions())).open()
    with pytest.raises(ArtifactError, match=r"differs in model\.model"):
        Writer(tmp_path, 1, _header(_questions(), "n"))
    with pytest.raises(ArtifactError, match="prompts_sha256"):
        Writer(tmp_path, 1, _header(_questions(1)))


def test_the_hash_of_the_prompts_changes_with_any_of_them() -> None:
    questions = _questions()
    assert prompts_sha256(questions) == prompts_sha256(_questions())
    assert prompts_sha256(questions) != prompts_sha256(_questions(1))
    assert prompts_sha256(questions) != prompts_sha256(questions[:2])


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ArtifactError, match="cannot make"):
        Writer(tmp_path / "file", 0, _header(_questions()))
