"""Figure `task-vectors`: states by task and the convex prediction, combinations of vectors, and where they transfer."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from construct.errors import InputError
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.runs import Bar, Model, Positive, Share, absent, broken, finite, model_of, read_loose
from paper_figures.style import BLACK, GREY, PAGE, new_figure, panel, plain, task_colour, task_marker, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILES = "**/task-vectors*.json"
COMMAND = "make evaluations"
TALLEST = 8.9
"""Inches of a page for all rows."""
MOST_TICKS = 8
"""Layers that are all named below the axis."""
SMALLEST = 1e-6
"""Sines are drawn from here on: smaller ones are rounding."""
Point = Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)]


class _Estimate(msgspec.Struct, frozen=True):
    value: float
    low: float
    high: float


class _Combination(msgspec.Struct, frozen=True):
    weights: list[float]
    probability: list[_Estimate]


class _Geometry(msgspec.Struct, frozen=True):
    sine: float
    floor: float
    recovered: list[float]


class _Transfer(msgspec.Struct, frozen=True):
    accuracy: list[float]
    before: Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)]


class _Plan(msgspec.Struct, frozen=True):
    examples: int
    prompts: int
    mode: str


class _Projection(msgspec.Struct, frozen=True):
    points: list[Point]
    labels: list[int]


class _File(msgspec.Struct, frozen=True):
    """What is read of `construct task-vectors --json`."""

    model: dict[str, Any]
    tasks: list[str]
    mixture: list[float]
    plan: _Plan
    layer: int
    transfer: _Transfer
    geometry: list[_Geometry]
    combinations: list[_Combination]
    projections: dict[str, _Projection]


class Combination(Record, frozen=True, kw_only=True):
    """What sum_k weights_k V_k makes the model answer: the probability of each task's answer, [K]."""

    weights: list[float]
    probability: list[Bar]


class Vectors(Record, frozen=True, kw_only=True):
    """One model.

    Args:
        model: its name.
        tasks, mixture: [K].
        examples, prompts: in a prompt, and behind each mean.
        mode: how vectors are put in.
        layer: used for the projection and the combinations, from 1.
        accuracy: of a task when its vector is put in, by layer.
        before: without it.
        sine: of the angle between the mixture's vector and the convex prediction, by layer; null where one is 0.
        floor: the noise of that: between the means of halves of the mixture's own prompts.
        recovered: the mixture by least squares after `layer`, [K].
        points: single prompts in the plane that tells the tasks apart best, fitted to others.
        labels: of the points: the task, or K for the mixture.
        combinations: of the first two tasks' vectors.
    """

    model: Model
    tasks: Annotated[list[str], msgspec.Meta(min_length=2)]
    mixture: list[Share]
    examples: Positive
    prompts: Positive
    mode: str
    layer: Positive
    accuracy: Annotated[list[Share], msgspec.Meta(min_length=1)]
    before: Share
    sine: list[float | None]
    floor: list[float | None]
    recovered: list[float]
    points: Annotated[list[Point], msgspec.Meta(min_length=1)]
    labels: list[int]
    combinations: Annotated[list[Combination], msgspec.Meta(min_length=2)]

    def __post_init__(self) -> None:
        """Refuse layers, tasks and points that do not fit each other."""
        name, tasks, layers = self.model.label, len(self.tasks), len(self.accuracy)
        if not len(self.sine) == len(self.floor) == layers or self.layer > layers:
            raise ValueError(f"{name!r} has figures for other layers than its {layers}")
        if len(self.mixture) != tasks or len(self.recovered) != tasks:
            raise ValueError(f"{name!r} has not a weight for each of its {tasks} tasks")
        if len(self.labels) != len(self.points) or set(self.labels) != set(range(tasks + 1)):
            raise ValueError(f"{name!r} has not a point of each task and of the mixture, each with its label")
        for one in self.combinations:
            if not len(one.weights) == len(one.probability) == tasks:
                raise ValueError(f"{name!r} has a combination of other tasks than its {tasks}")


class TaskVectorsRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: a row a model."""

    models: Annotated[list[Vectors], msgspec.Meta(min_length=1)]


RECORD = TaskVectorsRecord


def collect(inputs: Inputs) -> TaskVectorsRecord:
    """Read every record of `construct task-vectors`; constructions first, pretrained models last."""
    found = [_vectors(read_loose(_File, path), str(path)) for path in inputs.files(FILES, COMMAND)]
    return TaskVectorsRecord(
        models=sorted(
            found,
            key=lambda one: (not one.model.label.startswith("construction"), one.model.pretrained, one.model.label),
        )
    )


def _vectors(found: _File, source: str) -> Vectors:
    if "lda" not in found.projections or not 1 <= found.layer <= len(found.geometry):
        raise InputError(f"{source} has no projection, or no such layer: write it again with `construct task-vectors`")
    return Vectors(
        model=model_of(found.model),
        tasks=found.tasks,
        mixture=found.mixture,
        examples=found.plan.examples,
        prompts=found.plan.prompts,
        mode=found.plan.mode,
        layer=found.layer,
        accuracy=found.transfer.accuracy,
        before=found.transfer.before[0],
        sine=[finite(one.sine) for one in found.geometry],
        floor=[finite(one.floor) for one in found.geometry],
        recovered=found.geometry[found.layer - 1].recovered,
        points=[[round(part, 6) for part in point] for point in found.projections["lda"].points],
        labels=found.projections["lda"].labels,
        combinations=[
            Combination(
                weights=one.weights,
                probability=[
                    Bar(value=finite(p.value), low=finite(p.low), high=finite(p.high)) for p in one.probability
                ],
            )
            for one in found.combinations
        ],
    )


def prediction(one: Vectors) -> tuple[list[float], list[float]]:
    """The mean of the mixture's points, and the convex combination of the tasks' means, in the plane."""
    points, labels = np.array(one.points), np.array(one.labels)
    centres = np.stack([points[labels == task].mean(0) for task in range(len(one.tasks))])
    found, wanted = points[labels == len(one.tasks)].mean(0), np.array(one.mixture) @ centres
    return [float(part) for part in found], [float(part) for part in wanted]


def draw(record: TaskVectorsRecord) -> "Figure":
    """A row a model: the plane, the combinations' outputs, the layers."""
    rows = len(record.models)
    figure = new_figure(PAGE, 0.1 + rows * min(2.0, TALLEST / rows))
    grid: Any = figure.subplots(rows, 3, squeeze=False)
    letters = iter("abcdefghijklmnopqrstuvwxyz" * rows)
    for one, (plane, outputs, layers) in zip(record.models, grid, strict=True):
        _plane(plane, one)
        panel(plane, next(letters), plain(broken(one.model.label)))
        _outputs(outputs, one)
        panel(outputs, next(letters), "combinations put in")
        _layers(layers, one)
        panel(layers, next(letters), "by layer")
    return figure


def _plane(axes: "Axes", one: Vectors) -> None:
    points, labels = np.array(one.points), np.array(one.labels)
    for task, name in enumerate(one.tasks):
        own = points[labels == task]
        colour = task_colour(task)
        axes.plot(own[:, 0], own[:, 1], task_marker(task), color=tint(colour, 0.5), markersize=2, label=plain(name))
    own = points[labels == len(one.tasks)]
    axes.plot(own[:, 0], own[:, 1], ".", color=GREY, markersize=2.4, label="mixture")
    found, wanted = prediction(one)
    axes.plot(*wanted, "o", markersize=8, markerfacecolor="none", markeredgecolor=BLACK, label="predicted mean")
    axes.plot(*found, "+", color=BLACK, markersize=6, label="mixture's mean")
    axes.set_xlabel(f"LDA 1, after layer {one.layer} (no unit)")
    axes.set_ylabel("LDA 2 (no unit)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.36), ncols=3, fontsize=5.5, handletextpad=0.1,
                columnspacing=0.6)  # fmt: skip


def _outputs(axes: "Axes", one: Vectors) -> None:
    axes.plot((0, 1), (0, 1), ":", color=GREY, linewidth=0.8)
    axes.plot((0, 1), (1, 0), ":", color=GREY, linewidth=0.8)
    shares = [combination.weights[0] for combination in one.combinations]
    for task, name in enumerate(one.tasks):
        bars = [combination.probability[task] for combination in one.combinations]
        kept = [(share, bar) for share, bar in zip(shares, bars, strict=True) if bar.value is not None]
        values = [bar.value or 0.0 for _, bar in kept]
        ends = [[getattr(bar, end) for _, bar in kept] for end in ("low", "high")]
        errors = np.maximum([np.subtract(values, ends[0]), np.subtract(ends[1], values)], 0)
        axes.errorbar(
            [share for share, _ in kept],
            values,
            yerr=errors,
            color=task_colour(task),
            marker=task_marker(task),
            label=plain(name),
            linewidth=0.9,
            elinewidth=0.7,
            capsize=1.5,
        )
    axes.set_ylim(-0.04, 1.04)
    axes.set_xlabel(r"$\lambda$ in $\lambda V_1 + (1 - \lambda) V_2$")
    axes.set_ylabel("answer's probability")


def _layers(axes: "Axes", one: Vectors) -> None:
    from matplotlib.ticker import MaxNLocator

    places = range(1, len(one.accuracy) + 1)
    size = 3.2 if len(places) <= MOST_TICKS else 1.8
    axes.plot(places, one.accuracy, "o-", color=BLACK, label="accuracy, vector put in", markersize=size, zorder=3)
    axes.axhline(one.before, color=BLACK, linestyle=":", linewidth=0.8, label="accuracy before")
    axes.set_ylim(-0.04, 1.04)
    axes.set_xlim(0.6, len(one.accuracy) + 0.4)
    if len(places) > MOST_TICKS:
        axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS, integer=True))
    else:
        axes.set_xticks(places)
    axes.set_xlabel("after layer")
    axes.set_ylabel("transfer accuracy")
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    for values, style, words in ((one.sine, "s--", "sin, to prediction"), (one.floor, "^:", "sin, noise floor")):
        shown = [np.nan if value is None else max(value, SMALLEST) for value in values]
        right.semilogy(places, shown, style, color="#882255", label=words, markersize=0.8 * size, linewidth=0.8)
    right.set_ylim(SMALLEST / 2, 2)
    right.set_ylabel("sin of the angle", color="#882255")
    handles, labels = axes.get_legend_handles_labels()
    more, words_too = right.get_legend_handles_labels()
    axes.legend([*handles, *more], [*labels, *words_too], loc="upper center", bbox_to_anchor=(0.5, -0.36), ncols=2,
                fontsize=5.5, columnspacing=0.8, handlelength=1.8)  # fmt: skip


def caption(record: TaskVectorsRecord) -> str:
    """What is measured, on what, with n and intervals."""
    about = "; ".join(
        f"{one.model.label}: n = {one.prompts} prompts of {one.examples} examples a vector, mixture "
        f"{' : '.join(f'{weight:.2f}' for weight in one.mixture)} recovered as "
        f"{' : '.join(f'{weight:.2f}' for weight in one.recovered)} by least squares"
        for one in record.models
    )
    built = {one.model.label for one in record.models}
    theory = ""
    if "construction, two-layer" in built:
        theory = " In the two-layer construction evidence and query meet in one layer: vectors put in transfer nothing."
    if "construction, seven-layer" in built:
        theory += (
            " In the seven-layer one they are apart from layer 5 until layer 7, and the outputs are lambda itself, "
        )
        theory += "but for examples that are consistent with more than one task."
    modes = " or ".join(sorted({one.mode for one in record.models}))
    return (
        f"Task vectors, a row a model; all measured. {about}. Left: states of single prompts at the last position, in "
        "the plane of the two linear discriminants of the tasks, fitted to every other prompt and shown on the rest; "
        "the ring is the convex prediction, the mixture's weights applied to the means of the tasks, the cross the "
        "mean of the mixture's prompts. Middle: the combination lambda V_1 + (1 - lambda) V_2 of two tasks' vectors "
        f"put into held-out prompts ({modes}); means over as many prompts with 95% bootstrap intervals; dotted: lambda "
        "itself. Right: how often a prompt answers by the task whose vector is put in, by layer; and the sine of the "
        "angle between the mixture's vector and the prediction, with its noise floor between halves of the prompts "
        f"(from {SMALLEST:g} on). A sine below the floor is on the prediction; before the examples are averaged it is "
        "small in any model, as the states do not depend on them yet."
        + theory
        + absent([one.model for one in record.models])
    )
