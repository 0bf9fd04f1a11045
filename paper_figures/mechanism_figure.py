"""Figure `mechanism`: probes and head scores, constructions beside trained models."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.runs import MODEL_COLOURS, MODEL_MARKERS, Bar, Model, absent, finite, model_of, read_loose, turned
from paper_figures.style import GREY, PAGE, new_figure, panel, plain, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILES = "**/mechanism*.json"
COMMAND = "make evaluations"
LEAST = -0.5
"""R^2 below is drawn at this edge."""
HEADS = ("read", "average", "control")
WORDS = {"read": "best read head", "average": "best averaging head", "control": "control head"}


class _Estimate(msgspec.Struct, frozen=True):
    value: float
    low: float
    high: float


class _Head(msgspec.Struct, frozen=True):
    layer: int
    head: int
    score: float
    without: _Estimate


class _Probes(msgspec.Struct, frozen=True):
    evidence: list[float]
    mixture: list[float]


class _Found(msgspec.Struct, frozen=True):
    """What is read of a model in `construct mechanism --json`."""

    model: dict[str, Any]
    probes: _Probes
    read: _Head
    average: _Head
    control: _Head | None
    chance: Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)]


class HeadFound(Record, frozen=True, kw_only=True):
    """A head: layer and head from 1, its score, and the total variation by which answers change without it."""

    layer: Annotated[int, msgspec.Meta(ge=1)]
    head: Annotated[int, msgspec.Meta(ge=1)]
    score: Annotated[float, msgspec.Meta(ge=-1e-6, le=1 + 1e-6)]
    without: Bar


class Examined(Record, frozen=True, kw_only=True):
    """One model: R^2 of the probes after each layer, its heads, and the scores of uniform attention."""

    model: Model
    evidence: Annotated[list[Annotated[float, msgspec.Meta(le=1 + 1e-9)]], msgspec.Meta(min_length=1)]
    mixture: Annotated[list[Annotated[float, msgspec.Meta(le=1 + 1e-9)]], msgspec.Meta(min_length=1)]
    read: HeadFound
    average: HeadFound
    control: HeadFound | None
    chance_read: float
    chance_average: float

    def __post_init__(self) -> None:
        """Refuse probes of other layers, and heads behind the last."""
        layers = len(self.evidence)
        heads = [head for head in (self.read, self.average, self.control) if head is not None]
        if len(self.mixture) != layers or any(head.layer > layers for head in heads):
            raise ValueError(f"{self.model.label!r} has probes or heads of other layers than its {layers}")


class MechanismRecord(Record, frozen=True, kw_only=True):
    """What the figure shows."""

    models: Annotated[list[Examined], msgspec.Meta(min_length=1)]


RECORD = MechanismRecord


def collect(inputs: Inputs) -> MechanismRecord:
    """Read every record of `construct mechanism`; constructions first."""
    found = []
    for path in inputs.files(FILES, COMMAND):
        found += [_examined(one) for one in read_loose(dict[str, _Found], path).values()]
    return MechanismRecord(models=sorted(found, key=lambda one: not one.model.label.startswith("construction")))


def _examined(found: _Found) -> Examined:
    return Examined(
        model=model_of(found.model),
        evidence=found.probes.evidence,
        mixture=found.probes.mixture,
        read=_head(found.read),
        average=_head(found.average),
        control=None if found.control is None else _head(found.control),
        chance_read=found.chance[0],
        chance_average=found.chance[1],
    )


def _head(found: _Head) -> HeadFound:
    without = found.without
    return HeadFound(
        layer=found.layer + 1,
        head=found.head + 1,
        score=found.score,
        without=Bar(value=finite(without.value), low=finite(without.low), high=finite(without.high)),
    )


def draw(record: MechanismRecord) -> "Figure":
    """Probes by layer, of evidence and of the mixture; scores of heads; what taking them out changes."""
    figure = new_figure(PAGE, 2.35)
    grid: Any = figure.subplots(1, 4, width_ratios=(1, 1, 0.8, 1.1))
    evidence, mixture, scores, without = grid
    for axes, name, letter, title in (
        (evidence, "evidence", "a", "evidence probe"),
        (mixture, "mixture", "b", "mixture probe"),
    ):
        _probes(axes, record, name)
        panel(axes, letter, title)
    evidence.set_ylabel("$R^2$ of a probe, held out")
    mixture.sharey(evidence)
    mixture.tick_params(labelleft=False)
    _scores(scores, record)
    panel(scores, "c", "head scores")
    _without(without, record)
    panel(without, "d", "without the head")
    handles, labels = evidence.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
    return figure


def _look(index: int) -> dict[str, Any]:
    return {
        "color": MODEL_COLOURS[index % len(MODEL_COLOURS)],
        "marker": MODEL_MARKERS[turned(index) % len(MODEL_MARKERS)],
    }


def _probes(axes: "Axes", record: MechanismRecord, name: str) -> None:
    """Layers as shares of the depth: models differ in their number."""
    for index, one in enumerate(record.models):
        values = getattr(one, name)
        places = [(layer + 1) / len(values) for layer in range(len(values))]
        shown = [max(value, LEAST) for value in values]
        look = _look(index)
        axes.plot(places, shown, label=plain(one.model.label), linewidth=0.9, **look, zorder=3, clip_on=False)
        for place, value in zip(places, values, strict=True):
            if value < LEAST:
                axes.annotate(f"{value:.1f}", (place, LEAST), (0, 4), textcoords="offset points", ha="center",
                              color=look["color"], fontsize=6)  # fmt: skip
    axes.axhline(0, color=GREY, linestyle=":", linewidth=0.8)
    axes.set_ylim(LEAST, 1.05)
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("layers done / all layers")


def _scores(axes: "Axes", record: MechanismRecord) -> None:
    models = record.models
    for place, name in enumerate(("read", "average")):
        for index, one in enumerate(models):
            head: HeadFound = getattr(one, name)
            at = place + 0.6 * ((index + 0.5) / len(models) - 0.5)
            chance = one.chance_read if name == "read" else one.chance_average
            axes.plot((at - 0.25 / len(models), at + 0.25 / len(models)), (chance, chance), color=GREY, linewidth=1.2)
            axes.plot(at, head.score, linestyle="none", **_look(index), clip_on=False)
    axes.set_xticks((0, 1), ("read", "average"))
    axes.set_xlim(-0.5, 1.5)
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlabel("kind of head")
    axes.set_ylabel("score (1: the construction's)")


def _without(axes: "Axes", record: MechanismRecord) -> None:
    models = record.models
    for place, name in enumerate(HEADS):
        for index, one in enumerate(models):
            head: HeadFound | None = getattr(one, name)
            if head is None or head.without.value is None:
                continue
            value, low, high = head.without.value, head.without.low, head.without.high
            at = place + 0.8 * ((index + 0.5) / len(models) - 0.5)
            colour = MODEL_COLOURS[index % len(MODEL_COLOURS)]
            axes.bar(at, value, 0.75 / len(models), color=tint(colour, 0.35), edgecolor=colour, linewidth=0.6)
            axes.plot(at, value, linestyle="none", **_look(index), markersize=2.4, clip_on=False)
            if low is not None and high is not None:
                errors = np.maximum([[value - low], [high - value]], 0)
                axes.errorbar(at, value, yerr=errors, color=colour, capsize=1.5, elinewidth=0.7, linestyle="none")
    axes.set_xticks(range(len(HEADS)), ("read", "average", "control"))
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("head taken out")
    axes.set_ylabel("change of the answers, TV")


def caption(record: MechanismRecord) -> str:
    """What is measured, on what, with n and intervals."""
    heads = "; ".join(
        f"{one.model.label}: "
        + ", ".join(
            f"{WORDS[name]} {head.layer}.{head.head} ({head.score:.2f})"
            for name in HEADS
            if (head := getattr(one, name)) is not None
        )
        for one in record.models
    )
    return (
        "The construction's mechanism, looked for in each model by `construct mechanism`; all measured, on prompts of "
        "random mixtures (100 of 12 examples by default). (a, b) R^2 of linear probes from the stream after each "
        "layer, fitted to half of the prompts and judged on the others: of whether an example is consistent with each "
        "task, at its answer; and of the share of the examples that are, at the last position. 1: it is there "
        f"linearly; 0 or less: it is not (below {LEAST:g}: the number). (c) Scores of the heads most like the "
        "construction's: attention of answers to one input of their own example (read), and 1 less the total variation "
        "between the last position's attention and uniform attention to the answers (average); grey: what uniform "
        "attention to everything scores. (d) Total variation by which the answers change when a head is taken out, "
        "mean over the prompts with 95% bootstrap intervals; the control is the other head with the least scores. "
        f"Heads by layer.head: {heads}. Where the control scores high, every head is like one of the construction's."
        + absent([one.model for one in record.models])
    )
