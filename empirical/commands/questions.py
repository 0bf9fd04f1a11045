"""The options of the commands that ask questions: which tasks, which mixtures, how many examples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from construct.artifact import DESCRIPTION, load
from construct.errors import InputError
from construct.suites import SUITES, build_suite
from construct.task_file import load_task_file
from construct.tasks import TaskSet
from empirical.runtime import AUTO, DTYPES
from empirical.settings import EXAMPLES_PER_TASK, MIXTURES, Cell, curve_cells, mixture_weights, select_tasks
from empirical.training.checkpoint import TASKS, checkpoint_folder

Decorated = Callable[..., Any]


def task_options(function: Decorated) -> Decorated:
    """--suite, --task-file, --tasks."""
    for option in (
        click.option("--tasks", help="The tasks by name, with commas between them.  [default: all of the suite]"),
        click.option("--task-file", type=click.Path(path_type=Path), help="Tasks of your own (JSON)."),
        click.option("--suite", help=f"A named suite: {', '.join(SUITES)}.  [default: a model's own tasks]"),
    ):
        function = option(function)
    return function


def runtime_options(function: Decorated) -> Decorated:
    """--device, --dtype."""
    for option in (
        click.option("--dtype", type=click.Choice([AUTO, *DTYPES]), default=AUTO, show_default=True),
        click.option("--device", default=AUTO, show_default=True, help="A torch device, such as cuda."),
    ):
        function = option(function)
    return function


def task_set(model: str, suite: str | None, task_file: Path | None, tasks: str | None) -> TaskSet:
    """The tasks that the options name; a construction brings its own, and so does a model of `construct train`."""
    if suite is not None and task_file is not None:
        raise InputError("--suite and --task-file are both given: give one")
    if task_file is not None:
        found = load_task_file(task_file)
    elif suite is not None:
        found = build_suite(suite)
    elif (Path(model) / DESCRIPTION).is_file():
        found = load(Path(model)).task_set
    elif (trained := checkpoint_folder(Path(model))) is not None:
        found = load_task_file(trained / TASKS)
    else:
        raise InputError("give the tasks: --suite NAME or --task-file FILE")
    if tasks is None:
        return found
    return select_tasks(found, [name.strip() for name in tasks.split(",")])


def cells(
    found: TaskSet, *, mixture: str | None, curve: int | None, shots: str | None, examples: int | None
) -> tuple[Cell, ...]:
    """The conditions that the options name."""
    names = [task.name for task in found.tasks]
    if curve is not None and (mixture is not None or shots is not None):
        raise InputError("--curve goes over mixtures: leave --mixture and --shots out")
    if shots is not None and examples is not None:
        raise InputError("--shots goes over numbers of examples: leave --examples out")
    shown = EXAMPLES_PER_TASK * len(names) if examples is None else examples
    if curve is not None:
        if len(names) != 2:
            raise InputError(f"--curve mixes two tasks and {len(names)} are chosen: name two with --tasks")
        return curve_cells(curve, shown)
    weights = mixture_weights(mixture, names)
    if shots is None:
        return (Cell(weights, shown),)
    try:
        counts = [int(part) for part in shots.split(",")]
    except ValueError as error:
        raise InputError(f"--shots is {shots!r}: expected whole numbers with commas between them") from error
    return tuple(Cell(weights, count) for count in counts)


MIXTURE_HELP = f"{', '.join(MIXTURES)}, or weights such as capital=2,upper=1.  [default: uniform]"
