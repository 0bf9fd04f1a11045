"""How every figure looks: widths of a column and a page, one colour a task, one a format, and files that repeat.

The colours are Okabe and Ito's, which colour-blind readers tell apart (https://jfly.uni-koeln.de/color/); each is
doubled by a marker or a label, so that nothing is said by colour alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.25, 6.75
"""Inches: a column and the text of a page in the two-column format of ICML."""

ERROR = r"$\|\hat{q} - q\|_1$"
"""The error: the sum over the answers of the distance of output and target."""

BLACK, GREY, LIGHT = "#000000", "#767676", "#D9D9D9"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMAT_COLOURS = {"float64": "#000000", "float32": "#0072B2", "float16": "#009E73", "bfloat16": "#D55E00"}
FORMAT_MARKERS = {"float64": "o", "float32": "s", "float16": "^", "bfloat16": "D"}

STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure is the same everywhere
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "pdf.fonttype": 42,  # fonts embedded as outlines that can be searched and edited
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "task-superposition",
    "savefig.dpi": 300,
    "figure.dpi": 100,
}

METADATA: Mapping[str, Mapping[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": "task-superposition", "Producer": None},
    "svg": {"Date": None, "Creator": "task-superposition"},
    "png": {"Software": None},
}
"""No dates and no versions in the files: the same records give the same bytes."""


@contextmanager
def styled() -> Iterator[None]:
    """The style, for drawing and for saving."""
    import matplotlib

    settings: dict[Any, Any] = dict(STYLE)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def new_figure(width: float, height: float) -> "Figure":
    """A figure of so many inches, without a window; inside `styled`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def task_colour(index: int) -> str:
    """The colour of a task, the same in every figure; colours repeat after seven, with other markers."""
    return PALETTE[index % len(PALETTE)]


def tint(colour: str, strength: float = 0.45) -> tuple[float, float, float]:
    """A colour mixed with white, for areas: opaque, so that nothing shines through."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def task_marker(index: int) -> str:
    """The marker of a task: tasks of one colour have different ones."""
    return MARKERS[(index + index // len(PALETTE)) % len(MARKERS)]


def plain(text: str) -> str:
    """Text of a user's, in which a dollar sign is one and starts no formula."""
    return text.replace("$", r"\$")


def panel(axes: "Axes", letter: str, title: str) -> None:
    """Name a panel: a bold letter and what it shows, at the left; in smaller letters where it takes two lines."""
    size = STYLE["xtick.labelsize"] if "\n" in title else STYLE["axes.titlesize"]
    axes.set_title(f"{letter}  {title}", loc="left", fontweight="bold", fontsize=size)
