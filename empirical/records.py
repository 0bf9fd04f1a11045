"""Results as JSON lines: a header with the whole provenance, then one line a prompt.

While a run goes on, each process appends to a part file of its own, a batch of prompts at a time; what a killed run
left is taken up again, but for a line that was cut off. When all prompts are there, the parts become
results.jsonl, in the prompts' order: the same file however many processes made it and however often they were killed.
Nothing in it depends on when it was made.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from construct.artifact import write_file
from construct.errors import ArtifactError
from empirical.language_model import Answer
from empirical.measures import Sample, correct_among
from empirical.settings import Cell, Question

FORMAT = "task-superposition results"
FORMAT_VERSION = 1
RESULTS = "results.jsonl"
PART = "part-{rank}.jsonl"

Row = dict[str, Any]
Key = tuple[int, int]


def prompts_sha256(questions: Sequence[Question]) -> str:
    """One hash over all prompts and their candidates: runs with the same hash asked the same."""
    total = hashlib.sha256()
    for question in questions:
        total.update(json.dumps([question.cell, question.text, question.candidates, question.answer_of]).encode())
    return total.hexdigest()


def header(
    *, suite: str, tasks: Sequence[str], cells: Sequence[Cell], prompts: int, asked: Mapping[str, Any],
    questions: Sequence[Question], model: Mapping[str, Any],
) -> Row:  # fmt: skip
    """The first line: what was asked, how, and of which model."""
    return {
        "record": "run",
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "suite": suite,
        "tasks": list(tasks),
        "cells": [{"mixture": list(cell.mixture), "examples": cell.examples} for cell in cells],
        "prompts": prompts,
        **asked,
        "prompts_sha256": prompts_sha256(questions),
        "model": dict(model),
    }


def row(question: Question, answer: Answer) -> Row:
    """The line of one prompt."""
    found: Row = {
        "record": "prompt",
        "cell": question.cell,
        "index": question.index,
        "query": question.query,
        "candidates": list(question.candidates),
        "answer_of": list(question.answer_of),
        "drawn": list(question.drawn),
        "evidence": list(question.evidence),
        # JSON has no infinity: the logarithm of a probability of 0 is null.
        "log_probability": [_finite(value) for value in answer.log_probabilities],
    }
    if answer.completions is not None:
        found["completions"] = [[one.text, _finite(one.log_probability)] for one in answer.completions.found]
        found["completions_exact"] = answer.completions.exact
    return found


def _finite(value: float) -> float | None:
    # Six digits after the point are far below what formats and orders of summation leave undecided.
    return None if value == -math.inf else round(value, 6)


@dataclass(frozen=True)
class Results:
    """A finished run.

    Args:
        header: its first line.
        rows: a line a prompt, in order.
    """

    header: Row
    rows: tuple[Row, ...]

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.header["model"]["model"])

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The conditions."""
        return tuple(Cell(tuple(cell["mixture"]), cell["examples"]) for cell in self.header["cells"])

    def sample(self, cell: int) -> Sample:
        """The answers to one condition's prompts, as arrays."""
        rows = [one for one in self.rows if one["cell"] == cell]
        logs, correct = [], []
        for one in rows:
            values = [-math.inf if value is None else value for value in one["log_probability"]]
            logs.append([values[place] for place in one["answer_of"]])
            ranked = [text for text, _ in one.get("completions", [])]
            correct.append(correct_among(ranked, one["candidates"]) if "completions" in one else math.nan)
        return Sample(
            mixture=np.array(self.cells[cell].mixture),
            log_probability=np.array(logs, dtype=np.float64),
            answer_of=np.array([one["answer_of"] for one in rows]),
            evidence=np.array([one["evidence"] for one in rows]),
            drawn=np.array([one["drawn"] for one in rows], dtype=np.int64),
            correct=np.array(correct, dtype=np.float64),
            exact=np.array([one.get("completions_exact", True) for one in rows]),
        )


class Writer:
    """Appends the results of one process.

    Args:
        directory: where the results go.
        rank: this process's number.
        first: the header, which an earlier part there must have too.

    Raises:
        ArtifactError: the folder cannot be written, or holds another run's results.
    """

    def __init__(self, directory: Path, rank: int, first: Row) -> None:
        self._path = directory / PART.format(rank=rank)
        self._directory, self._first = directory, first
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"cannot make {directory}: {error.strerror or error}: choose another --out") from error
        for path in sorted(directory.glob(PART.format(rank="*"))):
            found = next(_lines(path), None)
            if found is not None:
                _check_same(path, found, first)

    @property
    def done(self) -> dict[Key, Row]:
        """The prompts that any process has answered so far."""
        found: dict[Key, Row] = {}
        for path in sorted(self._directory.glob(PART.format(rank="*"))):
            for line in _lines(path):
                if line.get("record") == "prompt":
                    found[line["cell"], line["index"]] = line
        return found

    def open(self) -> None:
        """Make this process's part ready: a line that was cut off goes, the header comes first."""
        whole = b"".join(_encoded(line) for line in _lines(self._path)) if self._path.exists() else b""
        write_file(self._path, whole or _encoded(self._first))

    def append(self, rows: Sequence[Row]) -> None:
        """Append the lines of one batch, and see them on disk before going on."""
        try:
            with self._path.open("ab") as file:
                file.write(b"".join(map(_encoded, rows)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ArtifactError(f"cannot write {self._path}: {error.strerror or error}") from error

    def finish(self, expected: Sequence[Key]) -> Path:
        """Put the parts together; every prompt must be there."""
        found = self.done
        missing = [key for key in expected if key not in found]
        if missing:
            raise ArtifactError(f"{self._directory}: {len(missing)} prompts have no answer yet: run the same again")
        target = self._directory / RESULTS
        write_file(target, b"".join(map(_encoded, [self._first, *(found[key] for key in expected)])))
        for path in self._directory.glob(PART.format(rank="*")):
            path.unlink(missing_ok=True)
        return target


def finished(directory: Path, first: Row) -> bool:
    """Whether a folder holds the whole of this very run. Raises ArtifactError when it holds another one."""
    path = directory / RESULTS
    if not path.exists():
        return False
    found = next(_lines(path), None)
    _check_same(path, found or {}, first)
    return True


def load_results(path: Path) -> Results:
    """Read a finished run: a folder or its results.jsonl.

    Raises:
        ArtifactError: it is not there, is unfinished or damaged, or is no such file.
    """
    if path.is_dir():
        if not (path / RESULTS).exists() and any(path.glob(PART.format(rank="*"))):
            raise ArtifactError(f"{path} holds an unfinished run: run the same `construct evaluate` again to finish it")
        path = path / RESULTS
    lines = list(_lines(path, strict=True))
    if not lines or lines[0].get("format") != FORMAT:
        raise ArtifactError(f"{path} holds no results of `construct evaluate`")
    version = lines[0].get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(f"{path} has the format version {version!r}, expected {FORMAT_VERSION}: run it again")
    first, rows = lines[0], tuple(lines[1:])
    if not _fits(first, rows):
        raise ArtifactError(f"{path} is damaged or cut off: run it again")
    return Results(first, rows)


def _fits(first: Row, rows: Sequence[Row]) -> bool:
    """Whether a file's lines are what a finished run writes."""
    try:
        tasks = len(first["tasks"])
        named = all(isinstance(one, str) for one in (*first["tasks"], first["suite"], first["model"]["model"]))
        shaped = all(
            len(cell["mixture"]) == tasks and abs(sum(cell["mixture"]) - 1) < 1e-6 and cell["examples"] >= 0
            for cell in first["cells"]
        )
        expected = [(cell, index) for cell in range(len(first["cells"])) for index in range(first["prompts"])]
        found = [(one["cell"], one["index"]) for one in rows]
        whole = bool(expected) and found == expected and len(first["prompts_sha256"]) == 64
        return named and shaped and whole and all(_row_fits(one, tasks, first["cells"]) for one in rows)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return False


def _row_fits(one: Row, tasks: int, cells: Sequence[Row]) -> bool:
    answers = len(one["candidates"])
    logs = [value for value in one["log_probability"] if value is not None]
    return (
        len(one["answer_of"]) == len(one["evidence"]) == tasks
        and sorted(set(one["answer_of"])) == list(range(answers))
        and len(one["log_probability"]) == answers
        # A little above 0 is rounding; NaN is not at most anything.
        and all(isinstance(value, float | int) and value <= 1e-3 for value in logs)
        and all(0 <= share <= 1 for share in one["evidence"])
        and len(one["drawn"]) == cells[one["cell"]]["examples"]
        and all(0 <= task < tasks for task in one["drawn"])
        and all(isinstance(text, str) for text in one["candidates"])
        and all(
            isinstance(text, str) and (value is None or value <= 1e-3) for text, value in one.get("completions", [])
        )
    )


def _check_same(path: Path, found: Row, first: Row) -> None:
    if found == first:
        return
    differs = sorted(key for key in found.keys() | first.keys() if found.get(key) != first.get(key))
    if "model" in differs and isinstance(found.get("model"), dict):
        inner = found["model"]
        differs += [f"model.{key}" for key in sorted(inner.keys() | first["model"].keys())
                    if inner.get(key) != first["model"].get(key)]  # fmt: skip
        differs.remove("model")
    raise ArtifactError(
        f"{path} holds the results of another run (it differs in {', '.join(differs)}): choose another --out"
    )


def _encoded(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, ensure_ascii=False) + "\n").encode()


def _lines(path: Path, *, strict: bool = False) -> Iterator[Row]:
    """The lines of a file; unless `strict`, up to one that was cut off."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is not there: give the folder or file that `construct evaluate` wrote") from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    for line in content.splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("no end of line")
            found = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            if strict:
                raise ArtifactError(f"{path} is no file of results, or is damaged: {error}") from error
            return
        yield found
