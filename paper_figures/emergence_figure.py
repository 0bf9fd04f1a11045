"""Figure `emergence`: accuracy, the mean's slope, the superposition index and commitment over training steps."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from construct.errors import InputError
from empirical.study_records import Moment, Run
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.runs import Positive, Share, run_label, study_of
from paper_figures.style import BLACK, GREY, LIGHT, PAGE, new_figure, panel, plain, task_colour, task_marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLOPE, INDEX = "#882255", "#117733"
EVENTS = (
    ("told_apart", "tasks told apart", "o", BLACK),
    ("learned", "accuracy near its last", "s", "#999933"),
    ("follows", "mean follows the mixture", "^", SLOPE),
    ("commits", "commits prompt by prompt", "D", INDEX),
)
"""Fields of `empirical.study_records.Emergence`, in words."""
ABOVE, ROW = 2.3, 0.18
"""Inches: of the upper panels, and of a run below."""
LANE, MARK = 0.24, 3.0
"""The lanes of a row, in rows, and the marks in points: 0.24 * 0.18 inches are 3.1 points."""
Step = Annotated[int, msgspec.Meta(ge=0)]


class At(Record, frozen=True, kw_only=True):
    """A model during training: the fields of `empirical.study_records.Moment`."""

    step: Step
    accuracy: Annotated[dict[str, Share], msgspec.Meta(min_length=1)]
    slope: float
    kl: float
    kl_of_mean: float
    index: float | None
    histogram: Annotated[list[Step], msgspec.Meta(min_length=10, max_length=10)]


class Training(Record, frozen=True, kw_only=True):
    """One run of the main setup, moment by moment."""

    label: str
    moments: Annotated[list[At], msgspec.Meta(min_length=2)]

    def __post_init__(self) -> None:
        """Refuse steps that do not rise, and other tasks on the way."""
        steps = [at.step for at in self.moments]
        if steps != sorted(set(steps)):
            raise ValueError(f"{self.label!r} has the steps {steps}: expected rising ones")
        if any(set(at.accuracy) != set(self.moments[0].accuracy) for at in self.moments):
            raise ValueError(f"{self.label!r} has other tasks at some step")


class Events(Record, frozen=True, kw_only=True):
    """When things appear in one run; null where they never do."""

    label: str
    steps: Positive
    told_apart: Positive | None
    learned: Positive | None
    follows: Positive | None
    commits: Positive | None


class EmergenceRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: sizes of the main setup, its runs, and the events of all runs."""

    suite: str
    tasks: Positive
    alphabet_size: Positive
    examples: Positive
    prompts: Positive
    trainings: Annotated[list[Training], msgspec.Meta(min_length=1)]
    events: Annotated[list[Events], msgspec.Meta(min_length=1)]


RECORD = EmergenceRecord


def collect(inputs: Inputs) -> EmergenceRecord:
    """Read the study of trained models."""
    study = study_of(inputs)
    main = study.group("main")
    if not main:
        raise InputError("the study has no run of the group main: `make study` makes it")
    setup = main[0].setup
    return EmergenceRecord(
        suite=setup.suite,
        tasks=setup.tasks,
        alphabet_size=setup.alphabet_size,
        examples=setup.examples,
        prompts=int(main[0].settings["validation_prompts"]),
        trainings=[Training(label=run_label(run), moments=[_at(moment) for moment in run.moments]) for run in main],
        events=[_events(run) for run in study.runs],
    )


def _at(moment: Moment) -> At:
    return At(
        step=moment.step,
        accuracy=moment.accuracy,
        slope=moment.slope,
        kl=moment.kl,
        kl_of_mean=moment.kl_of_mean,
        index=moment.index,
        histogram=list(moment.histogram),
    )


def _events(run: Run) -> Events:
    found = run.emergence
    return Events(
        label=run_label(run),
        steps=run.moments[-1].step,
        told_apart=found.told_apart,
        learned=found.learned,
        follows=found.follows,
        commits=found.commits,
    )


def draw(record: EmergenceRecord) -> "Figure":
    """Above: accuracy; slope and index; the histogram over steps. Below: when things appear, a row a run."""
    rows = len(record.events)
    lower = 0.8 + ROW * rows
    figure = new_figure(PAGE, ABOVE + lower)
    parts: Any = figure.subfigures(2, 1, height_ratios=(ABOVE, lower))
    above, below = parts
    grid: Any = above.subplots(1, 3)
    _accuracy(grid[0], record)
    _indices(grid[1], record)
    _certainty(grid[2], record, above)
    axes: Any = below.subplots()
    _timeline(axes, record.events)
    below.legend(loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def _lines(
    axes: "Axes", record: EmergenceRecord, pick: str, task: str | None, look: dict[str, Any], label: str
) -> None:
    """A line a run, the first one thicker."""
    for place, training in enumerate(record.trainings):
        values = [at.accuracy[task] if task is not None else getattr(at, pick) for at in training.moments]
        steps = [at.step for at in training.moments]
        shown = [np.nan if value is None else value for value in values]
        width, words = (1.2, label) if place == 0 else (0.45, None)
        axes.plot(steps, shown, linewidth=width, label=words, zorder=3 if place == 0 else 2, **look)


def _accuracy(axes: "Axes", record: EmergenceRecord) -> None:
    first = record.trainings[0].moments
    for task, name in enumerate(first[0].accuracy):
        _lines(axes, record, "", name, {"color": task_colour(task)}, plain(name))
        steps = [at.step for at in first]
        axes.plot(steps[::5], [at.accuracy[name] for at in first][::5], task_marker(task), color=task_colour(task))
    axes.axhline(1 / record.alphabet_size, color=GREY, linestyle=":", linewidth=0.8)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("training step")
    axes.set_ylabel("accuracy on pure prompts")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.08))
    panel(axes, "a", "tasks learned")


def _indices(axes: "Axes", record: EmergenceRecord) -> None:
    _lines(axes, record, "slope", None, {"color": SLOPE}, r"slope of mean $P_1$ on $\lambda$")
    _lines(axes, record, "index", None, {"color": INDEX, "linestyle": "--"}, "superposition index S")
    axes.axhline(1, color=GREY, linestyle=":", linewidth=0.8)
    axes.set_ylim(min(-0.05, *(at.slope for one in record.trainings for at in one.moments)), 1.3)
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1))
    axes.set_xlabel("training step")
    axes.set_ylabel("slope; index (no unit)")
    axes.legend(loc="upper left", borderpad=0.1)
    panel(axes, "b", "means and prompts")


def _certainty(axes: "Axes", record: EmergenceRecord, figure: Any) -> None:
    moments = record.trainings[0].moments
    steps = [at.step for at in moments]
    counts = np.array([at.histogram for at in moments], dtype=float).T
    shares = counts / np.maximum(counts.sum(0), 1)
    middles = [(low + high) / 2 for low, high in pairwise(steps)]
    edges = [2 * steps[0] - middles[0], *middles, 2 * steps[-1] - middles[-1]]
    image = axes.pcolormesh(edges, np.linspace(0, 1, 11), shares, cmap="Greys", vmin=0, vmax=1, rasterized=True)
    axes.axhline(1 / record.tasks, color=SLOPE, linestyle=":", linewidth=0.8)
    axes.set_xlabel("training step")
    axes.set_ylabel("likeliest task's probability")
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("share of the prompts")
    bar.outline.set_linewidth(0.4)
    panel(axes, "c", "uniform mixture")


def _timeline(axes: "Axes", events: Sequence[Events]) -> None:
    seen = [step for run in events for name, *_ in EVENTS if (step := getattr(run, name)) is not None]
    first = 0.6 * min(seen, default=1)
    for place, run in enumerate(events):
        axes.plot((first, run.steps), (place, place), color=LIGHT, linewidth=1.6, solid_capstyle="butt", zorder=1)
        for order, (name, _, marker, colour) in enumerate(EVENTS):
            step = getattr(run, name)
            if step is not None:
                # A lane each, as high as a mark: events of one step hide nothing of one another.
                at = place + LANE * (order - 1.5)
                axes.plot(step, at, marker, color=colour, markersize=MARK, markeredgewidth=0, zorder=3)
    for _, words, marker, colour in EVENTS:
        axes.plot([], [], marker, color=colour, label=words)
    axes.set_yticks(range(len(events)), [plain(run.label) for run in events], fontsize=6)
    axes.set_ylim(len(events) - 0.4, -0.6)
    axes.set_ylabel("model")
    longest = 1.1 * max(run.steps for run in events)
    ticks = [digit * 10**power for power in range(9) for digit in (1, 2, 5) if first <= digit * 10**power <= longest]
    axes.set_xscale("log")
    axes.set_xlim(first, longest)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training step, log scale (grey: how long the model was trained)")
    panel(axes, "d", "when things appear")


def caption(record: EmergenceRecord) -> str:
    """What is measured, on what, with n."""
    first = record.trainings[0]
    last = first.moments[-1]
    index = "undefined" if last.index is None else f"{last.index:.2f}"
    never = [run.label for run in record.events if run.commits is None]
    starred = any(run.label.endswith("*") for run in record.events)
    return (
        f"Emergence over training. (a) to (c): models trained on a CPU, each prompt with examples of one task "
        f"({record.suite}, K = {record.tasks}, V = {record.alphabet_size}, m = {record.examples}); measured during "
        f"training on n = {record.prompts} prompts of each kind. Thick: {first.label}; thin: "
        f"{len(record.trainings) - 1} other seeds. (a) Accuracy on pure prompts after m examples, by task; dotted: "
        "1/V. (b) Slope of the mean probability of task 1 on the share lambda of its examples, 1 for a mixture on "
        "average; and the superposition index S of uniform mixtures, 1 superposed, 0 committed. (c) Uniform mixtures "
        f"of {first.label}: the prompts by the probability of their likeliest task; dotted: the exact mixture's. "
        f"At the end its slope is {last.slope:.2f}, S is {index}, KL to the mixture {last.kl:.2f} nats a prompt, and "
        f"{last.kl_of_mean:.2f} of the mean over prompts. (d) The first step from which things hold: tasks told "
        "apart, every accuracy above 0.5; near its last, above 0.9 of the last one; mean, slope above 0.5; commits, S "
        "below 0.5."
        + (f" Never committed: {'; '.join(never)}." if never else "")
        + (" * did not learn its tasks (accuracy below 0.8)." if starred else "")
        + " Single figures have no intervals; the seeds show their spread."
    )
