"""Read the three files: JSON, safetensors and the tasks."""

import json
import math
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from verify.check.exact import Row, require


class UnreadableError(Exception):
    """A file cannot be read."""


def read_bytes(path: Path) -> bytes:
    """The content of a file."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path.name}: {error}") from error


def read_json(content: bytes, what: str) -> Any:
    """Parse JSON in which no key stands twice and every number is finite."""

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require(len(dict(pairs)) == len(pairs), f"{what} has a key twice in one object")
        return dict(pairs)

    def finite(text: str) -> float:
        require(math.isfinite(float(text)), f"{what} holds {text:.60}, which is no finite number")
        return float(text)

    try:
        return json.loads(content, object_pairs_hook=no_repeats, parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{what} is not JSON: {error}") from error


class Tensor(NamedTuple):
    """A tensor as rows along its last axis."""

    shape: tuple[int, ...]
    rows: list[Row]


def read_weights(content: bytes, described: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read a safetensors file: the header's length (8 bytes, little-endian), a JSON header, the data.

    A tensor is stored whole, or as NAME.index (places in the flattened tensor, ascending) and NAME.value.
    """
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header, stored, end = read_json(content[8:start], "the header of the weights"), {}, start
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items(), key=lambda item: int(item[1]["data_offsets"][0])):
        code, first = {"F32": "f", "I32": "i", "I64": "q"}[entry["dtype"]], end
        form, end = f"<{math.prod(entry['shape'])}{code}", start + entry["data_offsets"][1]
        require(start + entry["data_offsets"][0] == first, "the weights have a gap, or overlap")
        stored[name] = code, tuple(entry["shape"]), struct.unpack(form, content[first:end])
    require(end == len(content), "the weights have data that belongs to no tensor")
    tensors = {}
    for name, entry in described.items():
        shape, size = tuple(entry["shape"]), math.prod(entry["shape"])
        require(all(type(length) is int and length >= 0 for length in shape), f"{name} has no shape")
        if entry["stored"] == "dense":
            code, real, values = stored.pop(name)
            require(code == "f" and real == shape, f"{name} has another shape or type than described")
            places: Sequence[int] = range(size)
        else:
            (index, _, places), (code, _, values) = stored.pop(f"{name}.index"), stored.pop(f"{name}.value")
            require(index != "f" and code == "f" and len(places) == len(values), f"{name} is stored wrongly")
            require(all(a < b for a, b in pairwise((-1, *places, size))), f"{name} has places out of order")
        rows: list[Row] = [{} for _ in range(math.prod(shape[:-1]))]
        for at, value in zip(places, values, strict=True):
            if value:
                # A denormal number is read as 0 by some devices.
                require(math.isfinite(value) and abs(value) >= 2.0**-126, f"{name} holds {value}")
                rows[at // shape[-1]][at % shape[-1]] = int(value) if value.is_integer() else Fraction(value)
        tensors[name] = Tensor(shape, rows)
    require(not stored, f"the weights hold a tensor that is not described: {next(iter(stored), '')}")
    return tensors


class Task(NamedTuple):
    """A table over `positions`; or, for a sum, over the sums of the tokens' values there, keys of one number."""

    positions: tuple[int, ...]
    rows: dict[tuple[int, ...], int]
    values: dict[int, int] | None
    sums: set[int]  # every sum that some inputs reach; nothing for a table


def read_task(data: Mapping[str, Any], ids: Mapping[str, int], inputs: int) -> Task:
    """One task of the task set."""
    place = data.get("sum", data)
    values = {ids[token]: value for token, value in place["values"].items()} if "sum" in data else None
    positions = tuple(place["positions"] if "sum" in data else place["reads"])
    rows: dict[tuple[int, ...], int] = {}
    for *key, answer in data["rows"]:
        read = tuple(key) if "sum" in data else tuple(ids[token] for token in key)
        require(len(read) == (1 if "sum" in data else len(positions)), "a row has a wrong length")
        require(rows.setdefault(read, ids[answer]) == ids[answer], "a task contradicts itself")
    numbers = [*positions, *(part for read in rows for part in read), *(values or {}).values()]
    require(all(type(number) is int for number in numbers), "a task holds what is no integer")
    require(set(positions) <= set(range(inputs)) and len(set(positions)) == len(positions), "a task reads no input")
    require(positions and rows and values != {}, "a task is empty")
    sums = {0} if values else set()
    for _ in positions if values else ():
        sums = {total + value for total in sums for value in set((values or {}).values())}
    return Task(positions, rows, values, sums)


def most_consistent(tasks: Iterable[Task]) -> int:
    """How many tasks one example can be consistent with, at most.

    Tasks that look up the same thing are counted key by key, others as if they were independent.
    """
    groups: dict[object, Counter[tuple[object, int]]] = defaultdict(Counter)
    for task in tasks:
        tables = task.values is None
        looked_up = (task.positions,) if tables else (frozenset(task.positions), frozenset((task.values or {}).items()))
        groups[looked_up].update(task.rows.items())
    by_answer: Counter[int] = Counter()
    for group in groups.values():
        best: Counter[int] = Counter()
        for (_, answer), count in group.items():
            best[answer] = max(best[answer], count)
        by_answer += best
    return max(by_answer.values())
