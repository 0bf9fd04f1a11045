"""The strategies draw what the properties need: none of these kinds is silently missing."""

from collections.abc import Callable

import pytest
from hypothesis import find, settings

from construct.reads import plan_reads
from construct.tasks import SumTask, TableTask, Task
from tests.construct.strategies import Case, cases


def _sums(case: Case) -> list[SumTask]:
    return [task for task in case.task_set.tasks if isinstance(task, SumTask)]


def _tables(case: Case) -> list[TableTask]:
    return [task for task in case.task_set.tasks if isinstance(task, TableTask)]


def _consistent(case: Case) -> list[int]:
    """The number of tasks consistent with each example."""
    tasks: tuple[Task, ...] = case.task_set.tasks
    return [sum(task.answer(shown.inputs) == shown.answer for task in tasks) for shown in case.prompt.examples]


def _shares_a_head(case: Case) -> bool:
    plan = plan_reads(case.task_set)
    return any(plan.shared(read) and len(read.positions) > 1 for read in plan.sums)


def _ambiguous_and_unexplained(case: Case) -> bool:
    counts = _consistent(case)
    return 0 in counts and 1 in counts and max(counts) > 1


KINDS: dict[str, Callable[[Case], bool]] = {
    "one token": lambda case: len(case.task_set.alphabet) == 1,
    "two tokens and two tasks": lambda case: len(case.task_set.alphabet) == 2 and len(case.task_set.tasks) == 2,
    "four inputs": lambda case: case.task_set.inputs == 4,
    "one example at most": lambda case: case.examples == 1,
    "no example": lambda case: not case.prompt.examples,
    "as many examples as fit, no power of two": lambda case: case.examples == len(case.prompt.examples) in (3, 5, 6, 7),
    "a partial table": lambda case: any(len(task.rows) < len(case.task_set.alphabet) for task in _tables(case)),
    "a table of three inputs": lambda case: any(len(task.reads) == 3 for task in _tables(case)),
    "reads out of order": lambda case: any(list(task.reads) != sorted(task.reads) for task in _tables(case)),
    "two tables at one position": lambda case: len({task.reads for task in _tables(case)}) < len(_tables(case)),
    "two equal tasks": lambda case: (
        len({str(vars(task) | {"name": ""}) for task in case.task_set.tasks}) < len(case.task_set.tasks)
    ),
    "a sum of three positions": lambda case: any(len(task.positions) == 3 for task in _sums(case)),
    "a sum of one position": lambda case: any(len(task.positions) == 1 for task in _sums(case)),
    "a sum with a token of no value": lambda case: any(
        0 < len(task.values) < len(case.task_set.alphabet) for task in _sums(case)
    ),
    "a sum of negative values": lambda case: any(max(task.values.values()) < 0 for task in _sums(case)),
    "a sum that the heads of its positions add up": _shares_a_head,
    "two sums": lambda case: len(plan_reads(case.task_set).sums) == 2,
    "examples of one task, of several and of none": _ambiguous_and_unexplained,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_strategies_draw(kind: str) -> None:
    # `find` raises NoSuchExample where the strategy does not draw one.
    quick = settings(max_examples=2000, derandomize=True, database=None, deadline=None, phases=("generate",))
    assert KINDS[kind](find(cases(), KINDS[kind], settings=quick))
