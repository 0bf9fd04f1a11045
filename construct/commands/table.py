"""Plain text tables and bars for the terminal."""

from collections.abc import Iterable, Sequence

BAR_WIDTH = 30
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def table(rows: Iterable[Sequence[object]], *, header: Sequence[str] | None = None, indent: str = "  ") -> str:
    """Rows in aligned columns; a column of numbers is right-aligned under its header."""
    cells = [[str(cell) for cell in row] for row in rows]
    lines = ([list(header)] if header else []) + cells
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = (indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def bar(share: float) -> str:
    """A horizontal bar for a share from 0 to 1, in eighths of a character."""
    eighths = round(max(0.0, min(1.0, share)) * BAR_WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return (_EIGHTHS[8] * full + (_EIGHTHS[rest] if rest else "")).ljust(BAR_WIDTH)
