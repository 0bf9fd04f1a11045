"""The task file: what it says is what is made, and every mistake is named."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from construct.errors import TaskError
from construct.prompts import parse_prompt
from construct.task_file import load_task_file, task_set_from_json, task_set_to_json
from construct.tasks import Format, SumTask, TableTask, TaskSet
from tests.construct.strategies import formats, task_sets

DEMO = """
{"name": "demo", "alphabet": ["a","b","c"], "inputs": 2, "format": {"separator": " ", "arrow": " -> "},
  "tasks": [{"name": "first", "reads": [0], "rows": [["a","a"],["b","b"],["c","c"]]},
            {"name": "pair", "reads": [0,1], "rows": [["a","b","c"],["b","a","c"]]},
            {"name": "add", "sum": {"positions": [0,1], "values": {"a":0,"b":1,"c":2}},
             "rows": [[0,"a"],[1,"b"],[2,"c"]]}]}
"""


def _demo() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(DEMO)
    return data


def test_a_task_file_makes_the_tasks_that_it_says(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(DEMO, encoding="utf-8")
    assert load_task_file(path) == TaskSet(
        "demo",
        ("a", "b", "c"),
        2,
        Format(" ", " -> "),
        (
            TableTask("first", (0,), {(0,): 0, (1,): 1, (2,): 2}),
            TableTask("pair", (0, 1), {(0, 1): 2, (1, 0): 2}),
            SumTask("add", (0, 1), {0: 0, 1: 1, 2: 2}, {0: 0, 1: 1, 2: 2}),
        ),
    )
    assert len(parse_prompt("a b -> c\nb b -> c\na b ->", load_task_file(path)).examples) == 2


def test_the_format_has_a_default() -> None:
    data = _demo()
    del data["format"]
    assert task_set_from_json(data).format == Format(" ", "->")
    data["format"] = {"arrow": "=>"}
    assert task_set_from_json(data).format == Format(" ", "=>")


def test_a_row_may_stand_twice_where_it_says_the_same() -> None:
    data = _demo()
    data["tasks"][0]["rows"].append(["a", "a"])
    assert task_set_from_json(data) == task_set_from_json(_demo())


@given(task_sets())
def test_a_task_set_survives_its_json(task_set: TaskSet) -> None:
    assert task_set_from_json(json.loads(json.dumps(task_set_to_json(task_set)))) == task_set


@given(formats())
def test_alphabet_and_format_survive_their_json(task_set: TaskSet) -> None:
    text = json.dumps(task_set_to_json(task_set), ensure_ascii=False)
    assert task_set_from_json(json.loads(text)) == task_set


# Where in the demo to write what; the message must name the first and say the second.
WRONG: dict[str, tuple[tuple[str | int, ...], Any, str, str]] = {
    "a list as the file": ((), [], "the task file is []", "expected an object"),
    "an unknown field": (("extra",), 1, "unknown field 'extra'", "expected alphabet"),
    "a name that is no text": (("name",), 3, "name is 3", "expected text"),
    "a name of half a character": (("name",), "x\ud800", r"'x\ud800'", "whole character"),
    "a token of half a character": (("alphabet", 1), "\udfff", r"'\udfff'", "whole character"),
    "an alphabet that is no list": (("alphabet",), "abc", 'alphabet is "abc"', "expected a list"),
    "a token that is no text": (("alphabet", 0), 7, "alphabet is 7", "expected text"),
    "a token twice": (("alphabet",), ["a", "b", "c", "b"], "'b' twice", "list each token once"),
    "inputs that are no number": (("inputs",), "2", 'inputs is "2"', "expected an integer"),
    "inputs that are a fraction": (("inputs",), 2.0, "inputs is 2.0", "expected an integer"),
    "inputs that are true": (("inputs",), True, "inputs is true", "expected an integer"),
    "no inputs": (("inputs",), 0, "inputs is 0", "at least 1"),
    "a format that is no object": (("format",), "->", 'format is "->"', "expected an object"),
    "an unknown part of the format": (("format", "comma"), ",", "unknown field 'comma'", "arrow, separator"),
    "an arrow that is no text": (("format", "arrow"), None, "format.arrow is null", "expected text"),
    "tasks that are no list": (("tasks",), {}, "tasks is {}", "expected a list"),
    "no tasks": (("tasks",), [], "no tasks", "give at least one"),
    "a task that is no object": (("tasks", 1), 5, "tasks[1] is 5", "expected an object"),
    "an unknown field of a task": (("tasks", 0, "row"), [], "tasks[0] has an unknown field 'row'", "expected"),
    "a task's name that is no text": (("tasks", 2, "name"), [], "tasks[2].name is []", "expected text"),
    "both reads and sum": (("tasks", 2, "reads"), [0], "task 'add'", "not both or none"),
    "reads that are no list": (("tasks", 0, "reads"), 0, "task 'first': reads is 0", "expected a list"),
    "a read that is no number": (("tasks", 0, "reads"), ["0"], "task 'first': reads is \"0\"", "expected an integer"),
    "a read out of range": (("tasks", 0, "reads"), [2], "task 'first' reads position 2", "0 to 1"),
    "rows that are no list": (("tasks", 0, "rows"), "aa", "task 'first': rows is \"aa\"", "expected a list"),
    "a row that is no list": (("tasks", 0, "rows", 1), "bb", "task 'first': a row is \"bb\"", "expected a list"),
    "a row too long": (("tasks", 0, "rows", 1), ["b", "b", "b"], "has 3 entries", "1 inputs and an answer"),
    "a row too short": (("tasks", 1, "rows", 0), ["a", "b"], "has 2 entries", "2 inputs and an answer"),
    "a row of a number": (("tasks", 0, "rows", 0), ["a", 1], "task 'first': a token is 1", "expected text"),
    "an answer outside the alphabet": (("tasks", 0, "rows", 0), ["a", "z"], "task 'first': 'z'", "add it there"),
    "an input outside the alphabet": (("tasks", 1, "rows", 0), ["z", "a", "b"], "'z' is not in the alphabet", "add"),
    "contradictory rows": (("tasks", 0, "rows", 2), ["a", "b"], "task 'first': two rows", "remove one"),
    "contradictory sums": (("tasks", 2, "rows", 2), [0, "b"], "task 'add': two rows", "remove one"),
    "a sum that is no object": (("tasks", 2, "sum"), [0, 1], "task 'add': sum is [0, 1]", "expected an object"),
    "an unknown part of a sum": (("tasks", 2, "sum", "places"), [0], "unknown field 'places'", "positions, values"),
    "values that are no object": (("tasks", 2, "sum", "values"), [1], "sum.values is [1]", "token: integer"),
    "a value that is no integer": (("tasks", 2, "sum", "values", "a"), 0.5, "values is 0.5", "expected an integer"),
    "a value of an unknown token": (("tasks", 2, "sum", "values", "z"), 1, "'z' is not in the alphabet", "add it"),
    "a value too large": (("tasks", 2, "sum", "values", "a"), 10**7, "value 10000000", "at most 1048576"),
    "positions that are no list": (("tasks", 2, "sum", "positions"), 0, "positions is 0", "expected a list"),
    "a sum's row of three": (("tasks", 2, "rows", 0), [0, 0, "a"], "has 3 entries", "a sum and an answer"),
    "a sum that is a token": (("tasks", 2, "rows", 0), ["a", "a"], 'the sum of a row is "a"', "expected an integer"),
    "a long thing": (("inputs",), "x" * 500, "xxx...", "expected an integer"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_field_is_named_with_what_was_expected(wrong: str, tmp_path: Path) -> None:
    where, what, given_part, remedy = WRONG[wrong]
    data: Any = deepcopy(_demo())
    if where:
        target = data
        for step in where[:-1]:
            target = target[step]
        target[where[-1]] = what
    else:
        data = what
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(TaskError) as caught:
        load_task_file(path)
    message = str(caught.value)
    assert given_part in message
    assert remedy in message
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


@pytest.mark.parametrize("field", ["name", "alphabet", "inputs", "tasks"])
def test_a_missing_field_is_named(field: str) -> None:
    data = _demo()
    del data[field]
    with pytest.raises(TaskError, match=f"no field '{field}': add it"):
        task_set_from_json(data)


@pytest.mark.parametrize("field", ["name", "rows", "reads"])
def test_a_missing_field_of_a_task_is_named(field: str) -> None:
    data = _demo()
    del data["tasks"][0][field]
    with pytest.raises(TaskError, match="reads .* or sum" if field == "reads" else f"no field '{field}': add it"):
        task_set_from_json(data)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe", "cannot read the task file"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b'{"name": "a", "name": "b"}', "'name' stands twice"),
        (b'{"inputs": NaN}', "has no field 'alphabet'"),
    ],
    ids=["empty", "cut off", "an endless number", "too deep", "not UTF-8", "a byte order mark", "a key twice", "NaN"],
)
def test_a_file_that_is_no_object_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=words) as caught:
        load_task_file(path)
    assert str(path) in str(caught.value)


def test_a_value_given_twice_is_refused_deep_inside(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(DEMO.replace('"a":0', '"a":0,"a":1'), encoding="utf-8")
    with pytest.raises(TaskError, match="'a' stands twice in one object: keep one"):
        load_task_file(path)


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot read the task file"):
        load_task_file(tmp_path / name)
