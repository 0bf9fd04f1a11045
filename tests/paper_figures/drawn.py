"""What was drawn, read back from a figure's artists."""

from typing import Any


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """The places and values of the labelled lines."""
    labelled = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in labelled}
