"""Results to be compared: read where they were measured, and measured where a construction stands among them."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from construct.artifact import DESCRIPTION, load, save
from construct.errors import InputError
from construct.task_file import load_task_file
from construct.tasks import TaskSet
from construct.theorems import two_layer
from empirical import runtime
from empirical.evaluation import Plan, evaluate
from empirical.language_model import ConstructedModel
from empirical.records import RESULTS, Results, load_results
from empirical.runtime import Ranks
from empirical.settings import Rules, select_tasks
from empirical.training.checkpoint import TASKS, checkpoint_folder, evaluation_folder

BUILT = "construction"
"""The word for a construction that is built on the spot."""


def results_of(paths: Sequence[Path]) -> list[Results]:
    """The results that some paths stand for, in their order.

    Args:
        paths: a folder or file of `construct evaluate`; a run of `construct train`, for the evaluation in it; a
            construction's folder, which is asked what the first of the others was asked; or the word "construction",
            for the two-layer construction of the tasks of the first trained model among them.

    Raises:
        InputError: one cannot be read, was not evaluated, or cannot be asked.
    """
    read = {path: load_results(_evaluated(path)) for path in paths if not _constructed(path)}
    if len(read) == len(set(paths)):
        return [read[path] for path in paths]
    if not read:
        raise InputError("constructions alone were given: evaluate one of them with `construct evaluate` first")
    first = next(iter(read.values()))
    trained = next((folder for path in read if (folder := checkpoint_folder(path)) is not None), None)
    return [read[path] if path in read else _asked(path, first, trained) for path in paths]


def _constructed(path: Path) -> bool:
    if (path / RESULTS).is_file():
        return False
    return (path / DESCRIPTION).is_file() or (str(path) == BUILT and not path.exists())


def _evaluated(path: Path) -> Path:
    """Where the results of a path are."""
    found = None if (path / RESULTS).is_file() else evaluation_folder(path)
    if found is None:
        return path
    if not found.exists():
        raise InputError(f"{path} was not evaluated yet: run `construct evaluate {path}` first")
    return found


def _asked(path: Path, first: Results, trained: Path | None) -> Results:
    """A construction, asked what another model was asked."""
    head = first.header
    with tempfile.TemporaryDirectory() as temporary:
        folder, task_set = path, _tasks(path, first, trained)
        plan = Plan(
            task_set,
            first.cells,
            int(head["prompts"]),
            Rules(head["ambiguous"], head["counts"], head["repeat"], head["seed"]),
            head["completions"],
            head["batch"],
        )
        if not (path / DESCRIPTION).is_file():
            folder = Path(temporary) / BUILT
            save(two_layer(task_set, examples=max(1, *(cell.examples for cell in first.cells))), folder)
        model = ConstructedModel(folder, runtime.choose(dtype="float32"))
        found = load_results(evaluate(model, plan, Path(temporary) / "results", Ranks(0, 1, lambda: None)))
    return replace(found, header={**found.header, "model": {**found.header["model"], "model": str(path)}})


def _tasks(path: Path, first: Results, trained: Path | None) -> TaskSet:
    """The tasks that a construction is asked for: its own, or the trained model's; those of the other run alone."""
    if (path / DESCRIPTION).is_file():
        found = load(path).task_set
    elif trained is not None:
        found = load_task_file(trained / TASKS)
    else:
        raise InputError(
            f"there is no folder {path}, and no run of `construct train` beside it whose tasks could be built: make it "
            f"with `construct build --out {path}`"
        )
    return select_tasks(found, first.header["tasks"])
