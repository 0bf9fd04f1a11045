"""Tasks and task sets: what they answer, and what is refused, by name and with a remedy."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from construct.errors import TaskError
from construct.tasks import LARGEST_VALUE, Format, SumTask, TableTask, Task, TaskSet
from tests.construct.strategies import sum_tasks, table_tasks

FIRST = TableTask("first", (0,), {(0,): 1, (2,): 2})
SUM = SumTask("sum", (2, 0), {0: -3, 1: 4}, {-6: 0, 1: 2})
RIGHT = TaskSet("right", ("a", "b", "c"), 3, Format(), (FIRST, SUM))


def test_a_table_answers_where_it_has_a_row_and_nowhere_else() -> None:
    assert [FIRST.answer((token, 1, 1)) for token in range(3)] == [1, None, 2]
    pair = TableTask("pair", (2, 0), {(0, 1): 2})
    assert pair.answer((1, 2, 0)) == 2
    assert pair.answer((0, 2, 1)) is None


def test_a_sum_answers_where_each_token_has_a_value_and_the_total_a_row() -> None:
    assert SUM.answer((0, 2, 0)) == 0
    assert SUM.answer((0, 2, 1)) == SUM.answer((1, 2, 0)) == 2
    assert SUM.answer((1, 2, 1)) is None  # 8 has no row
    assert SUM.answer((2, 2, 0)) is None  # token 2 has no value


@given(st.data())
def test_a_task_ignores_what_it_does_not_read(data: st.DataObject) -> None:
    task: Task = data.draw(st.one_of(table_tasks("task", 3, 4), sum_tasks("task", 3, 4)))
    inputs = data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    read = task.reads if isinstance(task, TableTask) else task.positions
    other = [token if place in read else (token + 1) % 3 for place, token in enumerate(inputs)]
    assert task.answer(inputs) == task.answer(other)


def test_ids_are_places_in_the_alphabet() -> None:
    assert RIGHT.ids == {"a": 0, "b": 1, "c": 2}


WRONG_SETS = {
    "no alphabet": ({"alphabet": ()}, "alphabet is empty", "give at least one"),
    "a token twice": ({"alphabet": ("a", "b", "a")}, "'a' twice", "list each token once"),
    "no inputs": ({"inputs": 0}, "inputs is 0", "at least 1"),
    "negative inputs": ({"inputs": -2}, "inputs is -2", "at least 1"),
    "no tasks": ({"tasks": ()}, "no tasks", "give at least one"),
    "a name twice": ({"tasks": (FIRST, replace(SUM, name="first"))}, "'first'", "a name of its own"),
    "an empty token": ({"alphabet": ("a", "", "c")}, "token ''", "not empty"),
    "a token with a space at its end": ({"alphabet": ("a", "b ", "c")}, "token 'b '", "no space at its ends"),
    "a token with a line break": ({"alphabet": ("a", "b\nb", "c")}, r"token 'b\\nb'", "no line break"),
    "a token with the arrow": ({"alphabet": ("a", "b->", "c")}, "'b->' contains the arrow '->'", "another arrow"),
    "a token with the separator": (
        {"alphabet": ("a", "b,", "c"), "format": Format(",", "->")},
        "'b,' contains the separator ','",
        "another separator",
    ),
    "a space in a token between spaces": ({"alphabet": ("a", "b b", "c")}, "'b b' contains a space", "another"),
    "tokens of two lengths without a separator": (
        {"alphabet": ("a", "bb", "c"), "format": Format("", "->")},
        "differ in length",
        "give a separator",
    ),
    "no arrow": ({"format": Format(" ", "  ")}, "arrow is '  '", "not white space"),
    "an arrow of two lines": ({"format": Format(" ", "-\n>")}, r"arrow is '-\\n>'", "one line"),
    "an arrow that ends the line": ({"format": Format(" ", "->\n")}, r"arrow is '->\\n'", "one line"),
    "a separator that ends the line": ({"format": Format("\n", "->")}, r"separator is '\\n'", "one line"),
    "a separator beside a token that reads as the arrow": (
        {"alphabet": ("=", "b", "c"), "format": Format("@", "=@")},
        "separator '@'",
        "choose another",
    ),
    "a separator that holds part of the arrow": (
        {"alphabet": ("b", "c", "d"), "format": Format("--", "b-")},
        "separator '--'",
        "choose another",
    ),
    "two separators around a token that read as the arrow": (
        {"format": Format("@", "@a@")},
        "separator '@'",
        "choose another",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_SETS)
def test_a_task_set_whose_parts_do_not_fit_is_refused(wrong: str) -> None:
    change, given_part, remedy = WRONG_SETS[wrong]
    with pytest.raises(TaskError, match=given_part) as caught:
        replace(RIGHT, **change)  # type: ignore[arg-type]
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


WRONG_TASKS: dict[str, tuple[Task, str, str]] = {
    "no reads": (replace(FIRST, reads=(), rows={(): 1}), "reads nothing", "at least one position"),
    "a read twice": (replace(FIRST, reads=(1, 1), rows={(0, 0): 1}), r"a position twice \(\[1, 1\]\)", "list each"),
    "a read out of range": (replace(FIRST, reads=(3,)), "reads position 3", "0 to 2"),
    "a negative read": (replace(FIRST, reads=(-1,)), "reads position -1", "0 to 2"),
    "no rows": (replace(FIRST, rows={}), "has no rows", "leave the task out"),
    "a row too short": (replace(FIRST, reads=(0, 1)), r"row \(0,\) has 1 inputs", "reads 2 positions"),
    "an answer outside": (replace(FIRST, rows={(0,): 3}), "token id 3", "alphabet of 3"),
    "an input outside": (replace(FIRST, rows={(-1,): 0}), "token id -1", "alphabet of 3"),
    "a sum of nothing": (replace(SUM, positions=()), "reads nothing", "at least one position"),
    "a sum of a position twice": (replace(SUM, positions=(2, 2)), "a position twice", "list each"),
    "a sum out of range": (replace(SUM, positions=(0, 7)), "reads position 7", "0 to 2"),
    "no values": (replace(SUM, values={}), "no token has a value", "at least one"),
    "a value too large": (
        replace(SUM, values={0: -LARGEST_VALUE - 1}),
        f"value {LARGEST_VALUE + 1}",
        f"at most {LARGEST_VALUE}",
    ),
    "a value of a token outside": (replace(SUM, values={5: 1}), "token id 5", "alphabet of 3"),
    "a sum without rows": (replace(SUM, rows={}), "has no rows", "leave the task out"),
    "a sum with an answer outside": (replace(SUM, rows={0: 9}), "token id 9", "alphabet of 3"),
}


@pytest.mark.parametrize("wrong", WRONG_TASKS)
def test_a_task_that_does_not_fit_is_refused_by_name(wrong: str) -> None:
    task, given_part, remedy = WRONG_TASKS[wrong]
    with pytest.raises(TaskError, match=given_part) as caught:
        replace(RIGHT, tasks=(task,))
    assert repr(task.name) in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("separator", "arrow"),
    [("-", "->"), ("@", "="), ("=", "=>"), ("+", "->"), (" ", " -> "), ("--", "->"), (" ", "- >")],
)
def test_a_separator_may_share_characters_with_the_arrow_where_no_line_is_ambiguous(separator: str, arrow: str) -> None:
    assert replace(RIGHT, format=Format(separator, arrow)).format == Format(separator, arrow)


def test_a_large_alphabet_is_checked_in_under_a_second() -> None:
    alphabet = tuple(f"t{number}-" for number in range(40_000))
    start = time.perf_counter()
    TaskSet("large", alphabet, 2, Format("=", "=>"), (TableTask("first", (0,), {(0,): 1}),))
    assert time.perf_counter() - start < 1
