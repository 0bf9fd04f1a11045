"""The task file of affine tasks: one JSON object, or an .npz archive of arrays.

    {"name": "demo", "inputs": 2, "bound": 1.0, "margin": 0.125,
     "tasks": [{"name": "swap", "position": 0, "matrix": [[0, 1], [1, 0]], "offset": [0, 0]}]}

bound (1), margin (1/8) and offset (0) may be left out. The archive holds `matrices` [K, d, d] and `positions` [K], and
may hold `offsets` [K, d], `inputs`, `bound`, `margin` and `names` [K]. Numbers are rounded to float32.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from construct.errors import InputError, TaskError
from construct.residual_stream import Array
from construct.vector_tasks import DEFAULT_MARGIN, AffineTask, VectorTaskSet

ARRAYS = {"matrices", "positions", "offsets", "inputs", "bound", "margin", "names"}
LARGEST_FILE = 2**31
"""Archives whose arrays are larger when unpacked are refused unread."""


def vector_task_set_to_json(task_set: VectorTaskSet) -> dict[str, Any]:
    """The object that a task file holds; `vector_task_set_from_json` is its inverse."""
    return {
        "name": task_set.name,
        "inputs": task_set.inputs,
        "bound": task_set.bound,
        "margin": task_set.margin,
        "tasks": [
            {
                "name": task.name,
                "position": task.position,
                "matrix": [_shortest(row) for row in task.matrix],
                "offset": _shortest(task.offset),
            }
            for task in task_set.tasks
        ],
    }


def vector_task_set_from_json(data: Any) -> VectorTaskSet:
    """Make a task set of a task file's object. Raises TaskError naming the field."""
    fields = _fields(data, "the task file", {"name", "inputs", "tasks"}, {"bound", "margin"})
    tasks = fields["tasks"]
    if not isinstance(tasks, list):
        raise TaskError("tasks is no list: give a list of objects with name, position, matrix and offset")
    made = []
    for place, task in enumerate(tasks):
        where = f"tasks[{place}]"
        parts = _fields(task, where, {"name", "position", "matrix"}, {"offset"})
        matrix = float32_array(parts["matrix"], f"{where}.matrix", 2)
        offset = float32_array(parts.get("offset", [0.0] * len(matrix)), f"{where}.offset", 1)
        made.append(
            AffineTask(
                _text(parts["name"], f"{where}.name"), _integer(parts["position"], f"{where}.position"), matrix, offset
            )
        )
    return VectorTaskSet(
        _text(fields["name"], "name"),
        _integer(fields["inputs"], "inputs"),
        tuple(made),
        _number(fields.get("bound", 1.0), "bound"),
        _number(fields.get("margin", DEFAULT_MARGIN), "margin"),
    )


def load_vector_task_file(path: Path) -> VectorTaskSet:
    """Read a task file, .npz or JSON. Raises TaskError when it cannot be read or its parts do not fit."""
    try:
        if path.suffix == ".npz":
            return _from_arrays(read_npz(path), path.stem)
        return vector_task_set_from_json(read_json(path))
    except TaskError as error:
        raise TaskError(f"the task file {path}: {error}") from error
    except InputError as error:
        raise TaskError(f"the task file {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError that begins with the path."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}): give JSON, or an .npz archive of that suffix") from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz archive, without unpickling. Raises InputError that begins with the path."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST_FILE:
            raise InputError(f"{path} holds {size} bytes: expected at most {LARGEST_FILE}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path} is no .npz archive of numbers ({error}): write it with numpy.savez") from error


def float32_array(value: Any, where: str, dimensions: int) -> Array:
    """Numbers as float32, with what would be a denormal number as 0. Raises TaskError naming the field."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise ValueError("it holds something that is not a number")
        with np.errstate(over="ignore"):
            numbers: Array = array.astype(np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise TaskError(f"{where} is no array of numbers: {error}") from error
    if numbers.ndim != dimensions:
        raise TaskError(f"{where} has the shape {list(numbers.shape)}: expected {dimensions} dimension(s)")
    if not np.isfinite(numbers).all():
        raise TaskError(f"{where} has a number that is not finite in float32: correct it")
    numbers[np.abs(numbers) < np.finfo(np.float32).tiny] = 0.0
    return numbers


def _from_arrays(arrays: Mapping[str, np.ndarray], name: str) -> VectorTaskSet:
    for unknown in sorted(arrays.keys() - ARRAYS):
        raise TaskError(f"it has an unknown array {unknown!r}: expected {', '.join(sorted(ARRAYS))}")
    for needed in ("matrices", "positions"):
        if needed not in arrays:
            raise TaskError(f"it has no array {needed!r}: add it")
    matrices = float32_array(arrays["matrices"], "matrices", 3)
    count = len(matrices)
    positions = arrays["positions"]
    if positions.dtype.kind not in "iu" or positions.shape != (count,):
        raise TaskError(f"positions has the shape {list(positions.shape)}: expected {count} integers, one a task")
    offsets = float32_array(arrays.get("offsets", np.zeros(matrices.shape[:2])), "offsets", 2)
    if len(offsets) != count:
        raise TaskError(f"offsets has {len(offsets)} rows: expected {count}, one a task")
    names = arrays.get("names", np.array([f"task-{index}" for index in range(count)]))
    if names.dtype.kind != "U" or names.shape != (count,):
        raise TaskError(f"names has the shape {list(names.shape)} and type {names.dtype}: expected {count} texts")
    tasks = tuple(
        AffineTask(str(names[index]), int(positions[index]), matrices[index], offsets[index]) for index in range(count)
    )
    inputs = _scalar(arrays, "inputs", float(positions.max(initial=0)) + 1)
    if inputs != int(inputs):
        raise TaskError(f"inputs is {inputs:g}: expected an integer")
    bound, margin = _scalar(arrays, "bound", 1.0), _scalar(arrays, "margin", DEFAULT_MARGIN)
    return VectorTaskSet(name, int(inputs), tasks, bound, margin)


def _scalar(arrays: Mapping[str, np.ndarray], name: str, default: float) -> float:
    array = arrays.get(name, np.array(default))
    if array.dtype.kind not in "iuf" or array.size != 1 or not np.isfinite(array).all():
        raise TaskError(f"{name} has the shape {list(array.shape)}: expected one finite number")
    return float(array.reshape(()))


def _shortest(row: Array) -> list[float]:
    """Numbers whose text is the shortest that gives the same float32 again."""
    return [float(str(number)) for number in row]


def _fields(data: Any, where: str, needed: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise TaskError(f"{where} is no object: expected one with {', '.join(sorted(needed))}")
    for name in sorted(data.keys() - needed - optional):
        raise TaskError(f"{where} has an unknown field {name!r}: expected {', '.join(sorted(needed | optional))}")
    for name in sorted(needed - data.keys()):
        raise TaskError(f"{where} has no field {name!r}: add it")
    return data


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TaskError(f"{where} is {json.dumps(value)[:60]}: expected an integer")
    return value


def _number(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TaskError(f"{where} is {json.dumps(value)[:60]}: expected a number")
    try:
        return float(value)
    except OverflowError as error:
        raise TaskError(f"{where} is too large a number") from error


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise TaskError(f"{where} is {json.dumps(value)[:60]}: expected text")
    return value
