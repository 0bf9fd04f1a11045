"""The figures by name: what each shows, from what, how long it takes, and the module that has it.

A figure is a module `paper_figures.MODULE` with four names:

- `RECORD`: the `Record` class that it is drawn from;
- `collect(inputs) -> RECORD`: what is run or read for it; InputError, with the command that makes them, where records
  are missing (`Inputs.file` and `Inputs.files` do that);
- `draw(record) -> Figure`: a pure function of the record, called inside `paper_figures.style.styled`;
- `caption(record) -> str`: what is proved and what is measured, with n and intervals.

A new figure is one entry in FIGURES. Nothing is imported before it is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, cast

from construct.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from paper_figures.inputs import Inputs
    from paper_figures.records import Record


class FigureModule(Protocol):
    """What a figure's module has."""

    RECORD: "type[Record]"

    def collect(self, inputs: "Inputs") -> "Record":
        """The record."""
        ...

    def draw(self, record: "Record") -> "Figure":
        """The figure of a record."""
        ...

    def caption(self, record: "Record") -> str:
        """The caption of a record."""
        ...


@dataclass(frozen=True)
class Entry:
    """A figure.

    Args:
        name: what it is asked for by.
        module: its module in this package.
        kind: "theory" needs no records but this checkout's; "comparison" reads records of models.
        shows: what it shows, in a line.
        source: what it is drawn from, and the command that makes it where it is a file.
        seconds: about how long it takes on one core.
    """

    name: str
    module: str
    kind: Literal["theory", "comparison"]
    shows: str
    source: str
    seconds: int

    def load(self) -> FigureModule:
        """Import its module."""
        return cast("FigureModule", import_module(f"paper_figures.{self.module}"))


FIGURES: tuple[Entry, ...] = (
    Entry(
        "superposition",
        "superposition_figure",
        "theory",
        "target and output per answer on one prompt, and the certified error",
        "a construction and a prompt",
        3,
    ),
    Entry(
        "residual-stream",
        "residual_stream_figure",
        "theory",
        "the named subspaces, and what each layer reads and writes",
        "a construction's weights",
        2,
    ),
    Entry(
        "attention",
        "attention_figure",
        "theory",
        "what the heads attend to on a prompt, and the subspaces their matrices join",
        "a construction and a prompt",
        3,
    ),
    Entry(
        "error-vs-sharpness",
        "sharpness_figure",
        "theory",
        "worst error found and certified bound against lambda, by format",
        "models built, proved and searched",
        15,
    ),
    Entry(
        "resources",
        "resources_figure",
        "theory",
        "layers, heads, width and parameters against K, V, n and m, with compilers as points",
        "constructions built and counted, and measured peers",
        25,
    ),
    Entry(
        "precision-frontier",
        "precision_figure",
        "theory",
        "sizes certified and not at eps = 1e-2, by format",
        "benchmarks/results.json (make bench)",
        3,
    ),
    Entry(
        "in-context-learning-curve",
        "learning_curve_figure",
        "theory",
        "evidence and mixture after each example, two of them unexplained",
        "a construction and a prompt",
        3,
    ),
    Entry(
        "depth",
        "depth_figure",
        "theory",
        "one layer against two, trained and built, and what one layer must carry",
        "benchmarks/one_layer.json (make depth)",
        6,
    ),
    Entry(
        "simplex",
        "simplex_figure",
        "theory",
        "three tasks, every mixture, target, output and error",
        "a construction",
        5,
    ),
    Entry(
        "mixture-curve",
        "mixture_curve_figure",
        "comparison",
        "output probability against the mixture: constructions, trained models, a pretrained one",
        "records/**/*.jsonl (make evaluations, make pretrained), training-study.json (make study), or one of them",
        12,
    ),
    Entry(
        "settings",
        "settings_figure",
        "comparison",
        "the paper's four settings by model, boxes over prompts",
        "records/**/*.jsonl (make settings, make pretrained, make evaluations)",
        10,
    ),
    Entry(
        "completion",
        "completion_figure",
        "comparison",
        "divergence from the mixture and completion r, by tasks mixed and by size",
        "records/training-study.json (make study)",
        4,
    ),
    Entry(
        "task-vectors",
        "task_vectors_figure",
        "comparison",
        "states by task with the convex prediction, and what combinations of task vectors put out",
        "records/**/task-vectors*.json (make evaluations, make settings, make pretrained)",
        4,
    ),
    Entry(
        "emergence",
        "emergence_figure",
        "comparison",
        "accuracy, mixture and commitment over training steps",
        "records/training-study.json (make study)",
        5,
    ),
    Entry(
        "superposed-or-committed",
        "superposed_or_committed_figure",
        "comparison",
        "one task's probability prompt by prompt, by mixture and model, with the superposition index",
        "records/**/*.jsonl (make evaluations, make pretrained), training-study.json (make study), or one of them",
        12,
    ),
    Entry(
        "mechanism",
        "mechanism_figure",
        "comparison",
        "probes and head scores, constructions beside trained models",
        "records/mechanism*.json (make evaluations)",
        3,
    ),
)
"""In the order of the gallery."""


def entry(name: str) -> Entry:
    """A figure by name. Raises InputError, with the names there are."""
    for figure in FIGURES:
        if figure.name == name:
            return figure
    raise InputError(f"there is no figure {name!r}: choose from {', '.join(each.name for each in FIGURES)}")


def chosen(names: Sequence[str]) -> list[Entry]:
    """The figures of some names, each once, in the order given. Raises InputError."""
    return [entry(name) for name in dict.fromkeys(names)]
