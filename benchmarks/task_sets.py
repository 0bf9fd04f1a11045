"""The task set of a case: a suite of the package, or one of a few small sets of this project's own benchmarks."""

from collections.abc import Mapping

from benchmarks.measure import Case
from construct.suites import SUITES, build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet

TABLE = TableTask("table", (1,), {(0,): 1, (1,): 2, (2,): 0})
SUM = SumTask("sum", (0, 1), {0: -1, 1: 0, 2: 2}, {0: 1, -1: 2, 1: 0, 4: 1})
PAIR = TableTask("pair", (1, 0), {(i, j): (i + 2 * j) % 3 for i in range(3) for j in range(3)})
PARTIAL_TABLE = TableTask("table", (1,), {(0,): 1, (1,): 1})
PARTIAL_SUM = SumTask("sum", (0, 1), {0: -1, 2: 1}, {0: 1, 2: 0})

OWN: Mapping[str, tuple[SumTask | TableTask, ...]] = {
    "sum and table": (SUM, TABLE),
    "pair and table": (PAIR, TABLE),
    "partial sum and table": (PARTIAL_SUM, PARTIAL_TABLE),
}
"""Sets of two tasks on two inputs over three tokens; in the last, one token has no value and one no row."""

SMALL = (
    Case(2, 3, 1, 2),
    Case(2, 3, 2, 1),
    Case(2, 3, 2, 1, suite="retrieval"),
    *(Case(2, 3, 2, 1, suite=name) for name in OWN),
    Case(2, 3, 2, 2, suite="sum and table"),
)
"""Artifacts of several kinds of task, with so few prompts that all can be run, for each of thousands of mutants."""


def task_set_of(case: Case) -> TaskSet:
    """The tasks of a case."""
    if case.suite in OWN:
        own = TaskSet(case.suite, ("a", "b", "c"), 2, Format(), OWN[case.suite])
        assert (case.tasks, case.alphabet_size, case.inputs) == (2, 3, 2), f"{case.suite} comes in one size"
        return own
    sizes = {"tasks": case.tasks, "alphabet_size": case.alphabet_size, "inputs": case.inputs}
    task_set = build_suite(case.suite, **{name: sizes[name] for name in sizes if name in SUITES[case.suite].defaults})
    assert (len(task_set.alphabet), task_set.inputs) == (case.alphabet_size, case.inputs), (
        f"{case} is not {task_set.name}"
    )
    return task_set
