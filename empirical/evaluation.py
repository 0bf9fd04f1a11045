"""A run: every question asked, in batches that are the same however the run is cut, shared among processes."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from construct.tasks import TaskSet
from empirical.language_model import LanguageModel
from empirical.records import Writer, finished, header, row
from empirical.runtime import Ranks
from empirical.settings import Cell, Question, Rules, draw


@dataclass(frozen=True)
class Plan:
    """What is asked of a model.

    Args:
        task_set: the tasks.
        cells: the conditions.
        prompts: how many prompts each has.
        rules: how they are drawn.
        completions: look for the most probable completions too, as many as there are answers.
        batch: prompts that are run together.
    """

    task_set: TaskSet
    cells: tuple[Cell, ...]
    prompts: int
    rules: Rules
    completions: bool = True
    batch: int = 8

    def questions(self) -> list[Question]:
        """Every question, condition by condition."""
        return [
            question
            for place, cell in enumerate(self.cells)
            for question in draw(self.task_set, cell, self.prompts, self.rules, place=place)
        ]

    @property
    def asked(self) -> dict[str, Any]:
        """What the header says of it."""
        return {**vars(self.rules), "completions": self.completions, "batch": self.batch}


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Args:
        done: prompts answered.
        total: prompts in all.
        seconds_left: an estimate, by the speed of this process so far.
    """

    done: int
    total: int
    seconds_left: float


def evaluate(
    model: LanguageModel,
    plan: Plan,
    directory: Path,
    ranks: Ranks,
    *,
    tell: Callable[[Progress], None] | None = None,
) -> Path:
    """Ask a model every question of a plan, and write results.jsonl; a run that was killed is taken up again.

    Batches are fixed parts of the list of questions, dealt out to the processes in turn. A batch is written at once or
    not at all, so that it has the same prompts, and the same rounding, whoever runs it and whenever.

    Raises:
        InputError: what the model raises; the folder holds another run's results.
    """
    questions = plan.questions()
    first = header(
        suite=plan.task_set.name,
        tasks=[task.name for task in plan.task_set.tasks],
        cells=plan.cells,
        prompts=plan.prompts,
        asked=plan.asked,
        questions=questions,
        model=model.provenance,
    )
    keys = [(question.cell, question.index) for question in questions]
    if not finished(directory, first):
        writer = Writer(directory, ranks.rank, first)
        done = writer.done
        ranks.wait()
        writer.open()
        _ask(model, plan, _batches(questions, plan.batch, done), writer, ranks, tell)
        ranks.wait()
        if ranks.rank == 0:
            writer.finish(keys)
    ranks.wait()
    return directory / "results.jsonl"


def _batches(questions: Sequence[Question], size: int, done: Mapping[tuple[int, int], Any]) -> list[list[Question]]:
    """The batches that are not whole yet."""
    batches = [list(questions[start : start + size]) for start in range(0, len(questions), size)]
    return [batch for batch in batches if any((one.cell, one.index) not in done for one in batch)]


def _ask(
    model: LanguageModel,
    plan: Plan,
    batches: Sequence[Sequence[Question]],
    writer: Writer,
    ranks: Ranks,
    tell: Callable[[Progress], None] | None,
) -> None:
    mine = batches[ranks.rank :: ranks.count]
    total = plan.prompts * len(plan.cells)
    begun, answered, left = time.monotonic(), 0, sum(map(len, mine))
    for batch in mine:
        answers = model.answer(batch, completions=len(plan.task_set.tasks) if plan.completions else 0)
        writer.append([row(question, answer) for question, answer in zip(batch, answers, strict=True)])
        answered += len(batch)
        if tell is not None:
            seconds = (time.monotonic() - begun) / answered * (left - answered)
            tell(Progress(total - (left - answered) * ranks.count, total, seconds))
