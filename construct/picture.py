"""A picture of one answer beside the exact target."""

import warnings
from pathlib import Path

from construct.errors import InputError
from construct.oracle import answer
from construct.prediction import Prediction
from construct.prompts import Prompt
from construct.tasks import TaskSet

SUFFIXES = (".png", ".pdf", ".svg")
SHOWN = 12
"""The answers drawn, the most probable first."""

# Okabe and Ito's palette, told apart by colour-blind readers.
TARGET_COLOUR, MODEL_COLOUR = "#56B4E9", "#D55E00"


def check_picture(path: Path) -> None:
    """Raise InputError unless the picture can be drawn there."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"the picture {path} has no ending that is known: choose one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise InputError(f"the picture {path}: the folder {path.parent} does not exist, make it first")


def draw_answer(task_set: TaskSet, prompt: Prompt, prediction: Prediction, path: Path) -> None:
    """Draw the model's distribution (points) over the exact target (bars), and the evidence per task.

    Raises:
        InputError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    exact = answer(task_set, prompt)
    target = {task_set.alphabet[token]: float(share) for token, share in exact.distribution.items()}
    tokens = sorted(target | prediction.distribution, key=lambda token: -target.get(token, 0.0))[:SHOWN]
    tasks = sorted(range(len(task_set.tasks)), key=lambda index: -exact.evidence[index])[:SHOWN]

    figure = Figure(figsize=(7.0, 0.9 + 0.32 * max(len(tokens), len(tasks), 2)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _bars(left, tokens, [target.get(token, 0.0) for token in tokens], "exact target p")
    _points(left, [prediction.distribution.get(token, 0.0) for token in tokens], "model")
    left.set_xlabel("probability of the answer")
    left.set_title(
        f"{prediction.query}{task_set.format.arrow.rstrip()}  after {prediction.examples} examples",
        fontsize=9,
        parse_math=False,
    )
    left.legend(fontsize=8, frameon=False, loc="lower right")
    names = [task_set.tasks[index].name for index in tasks]
    _bars(right, names, [float(exact.evidence[index]) for index in tasks], "exact c/m'")
    _points(right, [prediction.evidence[name] for name in names], "model")
    right.set_xlabel("evidence: share of examples")
    right.set_title("tasks", fontsize=9)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with warnings.catch_warnings():
            # A glyph that the font lacks is drawn as a box; the numbers stay right.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(temporary, dpi=200)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write the picture {path}: {error.strerror or error}") from error


def _bars(axes, labels: list[str], values: list[float], label: str) -> None:  # type: ignore[no-untyped-def]
    axes.barh(range(len(labels)), values, color=TARGET_COLOUR, height=0.7, label=label)
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _points(axes, values: list[float], label: str) -> None:  # type: ignore[no-untyped-def]
    axes.plot(values, range(len(values)), "D", color=MODEL_COLOUR, markersize=4.5, label=label)
