"""Frozen dataclasses from JSON, each field checked: none missing, none unknown, each of its declared type.

Types may be dataclasses, tuples of one type and any length, dicts with names as keys, `| None`, int, float, str, bool
and Any. An int is taken for a float; NaN and infinities are refused.
"""

import math
import types
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def built(kind: type[T], data: Any, where: str) -> T:
    """A value of a type from what JSON holds. Raises ValueError naming the place where it does not fit."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        names = [field.name for field in fields(kind)]
        if not isinstance(data, dict) or sorted(data) != sorted(names):
            found = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"{where} has {found}, expected the fields {sorted(names)}")
        return kind(**{name: built(hints[name], data[name], f"{where}.{name}") for name in names})
    value: Any = _plain(kind, data, where)
    return value  # type: ignore[no-any-return]


def _plain(kind: Any, data: Any, where: str) -> Any:
    """A value of a type that is no dataclass."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if origin in (types.UnionType, Union):
        return None if data is None else built(arguments[0], data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise ValueError(f"{where} is {type(data).__name__}, expected a list")
        return tuple(built(arguments[0], one, f"{where}[{place}]") for place, one in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict):
            raise ValueError(f"{where} is {type(data).__name__}, expected an object")
        return {name: built(arguments[1], one, f"{where}[{name!r}]") for name, one in data.items()}
    fits = type(data) is kind or (kind is float and type(data) is int)
    if not fits or (kind is float and not math.isfinite(data)):
        raise ValueError(f"{where} is {data!r}, expected {kind.__name__}")
    return float(data) if kind is float else data
