"""The task file: a task set as one JSON object, the same that the suites produce.

    {"name": "demo", "alphabet": ["a", "b"], "inputs": 2, "format": {"separator": " ", "arrow": " -> "},
     "tasks": [{"name": "first", "reads": [0], "rows": [["a", "a"], ["b", "b"]]},
               {"name": "add", "sum": {"positions": [0, 1], "values": {"a": 0, "b": 1}}, "rows": [[0, "a"]]}]}

Every error names the field, what stands there, and what was expected.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from construct.errors import TaskError
from construct.tasks import Format, SumTask, TableTask, Task, TaskSet

Key = TypeVar("Key")


def task_set_to_json(task_set: TaskSet) -> dict[str, Any]:
    """The object that a task file holds; `task_set_from_json` is its inverse."""
    return {
        "name": task_set.name,
        "alphabet": list(task_set.alphabet),
        "inputs": task_set.inputs,
        "format": {"separator": task_set.format.separator, "arrow": task_set.format.arrow},
        "tasks": [_task_to_json(task, task_set.alphabet) for task in task_set.tasks],
    }


def _task_to_json(task: Task, alphabet: tuple[str, ...]) -> dict[str, Any]:
    token = alphabet.__getitem__
    if isinstance(task, TableTask):
        rows: list[list[Any]] = [[*map(token, inputs), token(out)] for inputs, out in task.rows.items()]
        return {"name": task.name, "reads": list(task.reads), "rows": rows}
    values = {token(index): value for index, value in task.values.items()}
    return {
        "name": task.name,
        "sum": {"positions": list(task.positions), "values": values},
        "rows": [[total, token(out)] for total, out in task.rows.items()],
    }


def load_task_file(path: Path) -> TaskSet:
    """Read a task file (JSON). Raises TaskError when it cannot be read or its parts do not fit."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"cannot read the task file {path}: {error}") from error
    try:
        data = json.loads(text, object_pairs_hook=_object_without_repeats)
    except (ValueError, RecursionError) as error:  # a ValueError too: an integer of thousands of digits
        raise TaskError(f"the task file {path} is not JSON: {error}") from error
    except TaskError as error:
        raise TaskError(f"the task file {path}: {error}") from error
    try:
        return task_set_from_json(data)
    except TaskError as error:
        raise TaskError(f"the task file {path}: {error}") from error


def task_set_from_json(data: Any) -> TaskSet:
    """Make a TaskSet of a task file's object, field by field. Raises TaskError naming the field."""
    fields = _fields(data, "the task file", {"name", "alphabet", "inputs", "format", "tasks"}, {"format"})
    alphabet = tuple(_text(token, "alphabet") for token in _list(fields["alphabet"], "alphabet"))
    ids = {token: index for index, token in enumerate(alphabet)}
    written = _fields(fields.get("format", {}), "format", {"separator", "arrow"}, {"separator", "arrow"})
    return TaskSet(
        name=_text(fields["name"], "name"),
        alphabet=alphabet,
        inputs=_integer(fields["inputs"], "inputs"),
        format=Format(**{key: _text(value, f"format.{key}") for key, value in written.items()}),
        tasks=tuple(
            _task_from_json(task, f"tasks[{place}]", ids) for place, task in enumerate(_list(fields["tasks"], "tasks"))
        ),
    )


def _task_from_json(data: Any, where: str, ids: Mapping[str, int]) -> Task:
    fields = _fields(data, where, {"name", "reads", "sum", "rows"}, {"reads", "sum"})
    name = _text(fields["name"], f"{where}.name")
    where = f"task {name!r}"
    if ("reads" in fields) == ("sum" in fields):
        raise TaskError(f"{where}: give either reads (positions) or sum (positions and values), not both or none")
    rows = [_list(row, f"{where}: a row") for row in _list(fields["rows"], f"{where}: rows")]
    if "reads" in fields:
        reads = tuple(_integer(read, f"{where}: reads") for read in _list(fields["reads"], f"{where}: reads"))
        table = (_table_row(row, len(reads), where, ids) for row in rows)
        return TableTask(name, reads, _without_contradictions(table, where))
    parts = _fields(fields["sum"], f"{where}: sum", {"positions", "values"}, set())
    values = parts["values"]
    if not isinstance(values, dict):
        raise TaskError(f"{where}: sum.values is {_shown(values)}: expected an object of token: integer")
    sums = (_sum_row(row, where, ids) for row in rows)
    return SumTask(
        name,
        tuple(_integer(at, f"{where}: positions") for at in _list(parts["positions"], f"{where}: positions")),
        {_id(token, where, ids): _integer(value, f"{where}: values") for token, value in values.items()},
        _without_contradictions(sums, where),
    )


def _table_row(row: list[Any], reads: int, where: str, ids: Mapping[str, int]) -> tuple[tuple[int, ...], int]:
    if len(row) != reads + 1:
        raise TaskError(f"{where}: row {_shown(row)} has {len(row)} entries: expected {reads} inputs and an answer")
    *inputs, answer = (_id(token, where, ids) for token in row)
    return tuple(inputs), answer


def _sum_row(row: list[Any], where: str, ids: Mapping[str, int]) -> tuple[int, int]:
    if len(row) != 2:
        raise TaskError(f"{where}: row {_shown(row)} has {len(row)} entries: expected a sum and an answer")
    return _integer(row[0], f"{where}: the sum of a row"), _id(row[1], where, ids)


def _without_contradictions(rows: Iterable[tuple[Key, int]], where: str) -> dict[Key, int]:
    table: dict[Key, int] = {}
    for key, answer in rows:
        if table.setdefault(key, answer) != answer:
            raise TaskError(f"{where}: two rows give the same input different answers (ids {key}): remove one")
    return table


def _id(token: Any, where: str, ids: Mapping[str, int]) -> int:
    text = _text(token, f"{where}: a token")
    if text not in ids:
        raise TaskError(f"{where}: {text!r} is not in the alphabet: add it there, or correct the row")
    return ids[text]


def _fields(data: Any, where: str, known: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise TaskError(f"{where} is {_shown(data)}: expected an object with {', '.join(sorted(known))}")
    for name in data.keys() - known:
        raise TaskError(f"{where} has an unknown field {name!r}: expected {', '.join(sorted(known))}")
    for name in sorted(known - optional - data.keys()):
        raise TaskError(f"{where} has no field {name!r}: add it")
    return data


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a key stand twice and keeps the last silently; a value given twice is an error here."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise TaskError(f"the key {repeated!r} stands twice in one object: keep one")
    return fields


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise TaskError(f"{where} is {_shown(value)}: expected a list")
    return value


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TaskError(f"{where} is {_shown(value)}: expected an integer")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise TaskError(f"{where} is {_shown(value)}: expected text")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise TaskError(f"{where} is {value!a}: half of a surrogate pair is no text, write the whole character")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
