"""Records as typed structures: what a figure is drawn from, read and written as JSON, refused where it does not fit."""

from pathlib import Path
from typing import TypeVar

import msgspec

from construct.errors import InputError


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A record of a figure; unknown fields and wrong types are refused when it is read."""


R = TypeVar("R", bound=Record)
S = TypeVar("S", bound=msgspec.Struct)
"""Also a structure that reads part of another program's records, which may hold more than it names."""


def to_json(record: Record) -> bytes:
    """The record as JSON, the same bytes for the same record."""
    return msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=1) + b"\n"


def from_json(kind: type[S], text: bytes, source: str) -> S:
    """Read a record.

    Raises:
        InputError: the text is not JSON, or does not fit the figure.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise InputError(f"{source} does not hold the records of this figure: {error}") from error


def fitted(kind: type[R], record: object, figure: str) -> R:
    """The record as it is read back: checked field by field, its mappings in the order in which they are written.

    Raises:
        InputError: it does not fit the figure.
    """
    if not isinstance(record, kind):
        raise InputError(f"the figure {figure} is drawn from {kind.__qualname__}, not from {type(record).__name__}")
    try:
        return msgspec.json.decode(to_json(record), type=kind)
    except msgspec.DecodeError as error:
        raise InputError(f"the records do not fit the figure {figure}: {error}") from error


def read(kind: type[S], path: Path) -> S:
    """Read a file of records.

    Raises:
        InputError: it cannot be read, or does not fit.
    """
    try:
        return from_json(kind, path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
