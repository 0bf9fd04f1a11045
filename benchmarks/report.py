"""What a benchmark hands back, and how it is printed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table in words.

    Args:
        columns: the headings; the first column is text, the others are aligned right.
        rows: the cells, as text.
        note: what stands above the table.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown, padded so that it reads as text too."""
        widths = [max(len(row[index]) for row in (self.columns, *self.rows)) for index in range(len(self.columns))]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [_line(row, widths) for row in (self.columns, rule, *self.rows)]
        return "\n".join(([self.note, ""] if self.note else []) + lines)


@dataclass(frozen=True)
class Report:
    """The outcome of one benchmark.

    Args:
        title: its heading.
        tables: for people.
        records: for programs; each is one measurement or one fit.
    """

    title: str
    tables: Sequence[Table]
    records: Sequence[Record] = field(default_factory=tuple)

    def markdown(self) -> str:
        """The heading and the tables."""
        return "\n\n".join([f"## {self.title}", *(table.markdown() for table in self.tables)])


def seconds(value: float) -> str:
    """Three significant digits, in ms below a second: '12.3 ms', '4.56 s'."""
    return f"{_three_digits(1000 * value)} ms" if value < 0.9995 else f"{_three_digits(value)} s"


def mib(value: float) -> str:
    """'12.3', in MiB."""
    return _three_digits(value)


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cells[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
    ]
    return f"| {' | '.join(padded)} |"
