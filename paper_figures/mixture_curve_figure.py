"""Figure `mixture-curve`: output probability against the mixture's lambda, by model and by training."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise
from string import ascii_lowercase
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from construct.errors import InputError
from empirical.records import Results
from empirical.study_records import LAST, ONE_TASK, Answers, Study
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.runs import (
    EVALUATIONS,
    LONGEST_TITLE,
    MODEL_COLOURS,
    MODEL_LINES,
    Bar,
    Model,
    Positive,
    Share,
    absent,
    bar,
    broken,
    either,
    is_curve,
    mean_bar,
    model_of,
    run_label,
    turned,
)
from paper_figures.style import GREY, PAGE, new_figure, panel, plain, task_colour, task_marker, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAMBDA = r"share $\lambda$ of task 1's examples"
COLUMNS = 4
STUDY_HEIGHT = 2.0
"""Inches, of the panels of the study without their legends."""
PANELS = (
    ("seeds and steps", ("main", "steps")),
    ("sizes, architectures", ("size", "architecture")),
    ("tasks and examples", ("tasks", "examples")),
    ("noise, mixed prompts", ("noise", "mixed")),
)
"""What varies among the trained models of a panel, and their groups in the study."""


class Point(Record, frozen=True, kw_only=True):
    """One lambda: mean probability of each task's answer over prompts, and the values prompt by prompt, [2][n]."""

    share: Share
    mean: Annotated[list[Bar], msgspec.Meta(min_length=2, max_length=2)]
    prompts: Annotated[
        list[Annotated[list[Share], msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=2, max_length=2)
    ]

    def __post_init__(self) -> None:
        """Refuse tasks with other numbers of prompts."""
        if len(self.prompts[0]) != len(self.prompts[1]):
            raise ValueError(f"at lambda {self.share}, the tasks have {[len(one) for one in self.prompts]} prompts")


class Asked(Record, frozen=True, kw_only=True):
    """A model that `construct evaluate` asked: suite, two tasks, m, and a point a lambda."""

    model: Model
    suite: str
    tasks: Annotated[list[str], msgspec.Meta(min_length=2, max_length=2)]
    examples: Positive
    points: Annotated[list[Point], msgspec.Meta(min_length=2)]


class Line(Record, frozen=True, kw_only=True):
    """Of the study: a trained model's, or a learner's, mean probability of task 1 among both, by lambda."""

    label: str
    group: str
    shares: Annotated[list[Share], msgspec.Meta(min_length=2)]
    mean: Annotated[list[Bar], msgspec.Meta(min_length=2)]

    def __post_init__(self) -> None:
        """Refuse another number of means than of lambdas."""
        if len(self.shares) != len(self.mean):
            raise ValueError(f"{self.label!r} has {len(self.mean)} means for {len(self.shares)} lambdas")


class Trained(Record, frozen=True, kw_only=True):
    """The study: its prompts, the lines of its models, and those of the learners for the main setup."""

    prompts: Positive
    examples: Positive
    tasks: Positive
    runs: Annotated[list[Line], msgspec.Meta(min_length=1)]
    learners: list[Line]


class MixtureCurveRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: models that were asked, and the study where there is one."""

    asked: list[Asked]
    trained: Trained | None

    def __post_init__(self) -> None:
        """Refuse a record of nothing."""
        if not self.asked and self.trained is None:
            raise ValueError("there is no model to draw")


RECORD = MixtureCurveRecord


def collect(inputs: Inputs) -> MixtureCurveRecord:
    """Read the evaluations over mixtures of two tasks, and the study."""
    runs, study = either(inputs)
    curves = [run for run in runs if is_curve(run)]
    if not curves and study is None:
        raise InputError(f"no run among the records goes over mixtures of two tasks: `{EVALUATIONS}` makes some")
    # Suite by suite, that of more models first.
    many = Counter(run.header["suite"] for run in curves)
    curves.sort(key=lambda run: (-many[run.header["suite"]], run.header["suite"]))
    return MixtureCurveRecord(asked=[_asked(run) for run in curves], trained=None if study is None else _trained(study))


def _asked(run: Results) -> Asked:
    points = []
    for place, cell in sorted(enumerate(run.cells), key=lambda item: item[1].mixture[0]):
        sample = run.sample(place)
        kept = sample.probability[~sample.ambiguous]
        points.append(
            Point(
                share=cell.mixture[0],
                mean=[mean_bar(kept[:, task]) for task in range(2)],
                prompts=[[round(float(value), 6) for value in kept[:, task]] for task in range(2)],
            )
        )
    return Asked(
        model=model_of(run.header["model"]),
        suite=run.header["suite"],
        tasks=run.header["tasks"],
        examples=run.cells[0].examples,
        points=points,
    )


def _trained(study: Study) -> Trained:
    setup = study.runs[0].setup
    learners = [(name, study.predicted(name, setup)) for name in (ONE_TASK, LAST)]
    return Trained(
        prompts=study.prompts,
        examples=setup.examples,
        tasks=setup.tasks,
        runs=[_line(run_label(run), run.group, run.answers) for run in study.runs],
        learners=[_line(name, "learner", one.answers) for name, one in learners if one is not None],
    )


def _line(label: str, group: str, answers: Answers) -> Line:
    return Line(
        label=label,
        group=group,
        shares=[one.mixture[0] for one in answers.curve],
        mean=[bar(one.mean[0]) for one in answers.curve],
    )


def draw(record: MixtureCurveRecord) -> "Figure":
    """Above, a panel a model that was asked; below, the trained models of the study by what varies."""
    rows = rows_of(record.asked)
    heights = [1.95 if any(len(one.model.label) > LONGEST_TITLE for one in row) else 1.85 for row in rows]
    shown = [] if record.trained is None else _panels(record.trained)
    legend = 0.1 + 0.13 * max((len(lines) for _, lines in shown), default=0)
    if shown:
        heights.append(STUDY_HEIGHT + legend)
    figure = new_figure(PAGE, sum(heights) + 0.1)
    parts: Any = np.atleast_1d(np.asarray(figure.subfigures(len(heights), 1, height_ratios=heights)))
    letters = iter(ascii_lowercase * 4)
    for part, models in zip(parts, rows, strict=False):
        grid = part.subplots(1, min(COLUMNS, max(3, len(models))), sharey=True, squeeze=False)[0]
        for axes, asked in zip(grid, models, strict=False):
            _model(axes, asked, next(letters))
        for axes in grid[len(models) :]:
            axes.remove()
        grid[0].set_ylabel("probability of the answer")
    if shown and record.trained is not None:
        ratios = (STUDY_HEIGHT, legend)
        grid, below = parts[-1].subplots(2, len(shown), sharey="row", squeeze=False, height_ratios=ratios)
        for axes, place, (title, lines) in zip(grid, below, shown, strict=True):
            _study(axes, lines, record.trained.learners, title, next(letters))
            place.set_axis_off()
            place.legend(
                *axes.get_legend_handles_labels(), loc="upper center", fontsize=6, handlelength=2.4, borderpad=0
            )
        grid[0].set_ylabel("mean $P_1$ (of two tasks)")
    return figure


def rows_of(asked: Sequence[Asked]) -> list[list[Asked]]:
    """The panels of a suite stand in one row where they fit, beside those of the suite before where both fit."""
    rows: list[list[Asked]] = []
    for _, found in groupby(asked, key=lambda one: one.suite):
        models = list(found)
        if not rows or len(rows[-1]) + len(models) > COLUMNS:
            rows += [models[at : at + COLUMNS] for at in range(0, len(models), COLUMNS)]
        else:
            rows[-1] += models
    return rows


def _panels(trained: Trained) -> list[tuple[str, list[Line]]]:
    found = [(title, [line for line in trained.runs if line.group in groups]) for title, groups in PANELS]
    return [(title, lines) for title, lines in found if lines]


def _model(axes: "Axes", asked: Asked, letter: str) -> None:
    """Single prompts faint, their means with intervals; the target dotted."""
    axes.plot((0, 1), (0, 1), ":", color=GREY, linewidth=0.8)
    axes.plot((0, 1), (1, 0), ":", color=GREY, linewidth=0.8)
    shares = [point.share for point in asked.points]
    step = min((b - a for a, b in pairwise(shares)), default=0.1)
    for task, name in enumerate(asked.tasks):
        colour = task_colour(task)
        for point in asked.points:
            values = point.prompts[task]
            # Spread by order, not by chance: prompts of one probability stand side by side.
            spread = (np.argsort(np.argsort(np.arange(len(values)) * 0.618 % 1)) / len(values) - 0.5) * 0.3 * step
            at = point.share + spread + (0.5 - task) * 0.3 * step
            axes.plot(at, values, ".", color=tint(colour, 0.4), markersize=1.4, markeredgewidth=0, zorder=1)
        bars = [point.mean[task] for point in asked.points]
        values = [one.value if one.value is not None else np.nan for one in bars]
        low, high = (
            [getattr(one, end) if one.value is not None else np.nan for one in bars] for end in ("low", "high")
        )
        errors = np.maximum([np.subtract(values, low), np.subtract(high, values)], 0)
        axes.errorbar(
            shares,
            values,
            yerr=errors,
            color=colour,
            marker=task_marker(task),
            label=plain(name),
            linewidth=0.9,
            elinewidth=0.7,
            capsize=1.5,
            zorder=3,
        )
    axes.set_ylim(-0.04, 1.22)
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1))
    axes.set_xlabel(LAMBDA)
    axes.legend(loc="upper center", ncols=2, handlelength=1.2, columnspacing=0.8, borderpad=0)
    panel(axes, letter, plain(broken(asked.model.label)))


def _study(axes: "Axes", lines: list[Line], learners: list[Line], title: str, letter: str) -> None:
    axes.plot((0, 1), (0, 1), ":", color=GREY, linewidth=0.8)
    for style, learner in zip(("--", "-."), learners, strict=False):
        values = [np.nan if one.value is None else one.value for one in learner.mean]
        axes.plot(learner.shares, values, style, color=GREY, linewidth=0.8)
    for index, line in enumerate(lines):
        look: dict[str, Any] = {
            "color": MODEL_COLOURS[index % len(MODEL_COLOURS)],
            "linestyle": MODEL_LINES[turned(index) % len(MODEL_LINES)],
            "label": plain(line.label),
        }
        kept = [(share, one) for share, one in zip(line.shares, line.mean, strict=True) if one.value is not None]
        at = [share for share, _ in kept]
        low, high = ([getattr(one, end) for _, one in kept] for end in ("low", "high"))
        axes.fill_between(at, low, high, color=tint(str(look["color"]), 0.2), linewidth=0, zorder=1)
        axes.plot(at, [one.value or 0.0 for _, one in kept], linewidth=1.0, zorder=3, **look)
    axes.set_ylim(-0.04, 1.04)
    axes.set_xticks((0, 0.5, 1))
    axes.set_xlabel(LAMBDA)
    panel(axes, letter, title)


def _span(letters: Sequence[str]) -> str:
    return " and ".join(letters) if len(letters) < 3 else f"{letters[0]} to {letters[-1]}"


def caption(record: MixtureCurveRecord) -> str:
    """What is measured, on what, with n and intervals."""
    parts = ["Output probability against the mixture: share lambda of the examples by task 1, the rest by task 2."]
    if record.asked:
        counts = sorted({len(point.prompts[0]) for one in record.asked for point in one.points})
        n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
        about: dict[str, list[str]] = {}
        for letter, one in zip(ascii_lowercase * 4, record.asked, strict=False):
            about.setdefault(f"{one.suite} ({', '.join(one.tasks)}; {one.examples} examples)", []).append(f"({letter})")
        parts.append(
            "Measured: the probability of each task's answer, "
            f"{'; '.join(f'{_span(letters)} on {what}' for what, letters in about.items())}. Small points: single "
            f"prompts ({n} at each lambda); large ones: their means with 95% bootstrap intervals; dotted: the share "
            "itself. A construction follows the evidence instead: an example that another task explains too, of these "
            "or of its others, counts for each. Models in panels of one suite were asked the same prompts where their "
            "settings are the same."
        )
    if record.trained is not None:
        names = " and ".join(
            f"{'dashed' if place == 0 else 'dash-dotted'} of the learner {line.label!r}"
            for place, line in enumerate(record.trained.learners)
        )
        starred = any(line.label.endswith("*") for line in record.trained.runs)
        parts.append(
            "Lower row, measured on models trained on a CPU, one task a prompt but where it says mixed: the mean over "
            f"n = {record.trained.prompts} prompts of P_1, the probability of task 1's answer among both tasks', with "
            "95% bootstrap intervals (shaded). The first panel's setup has "
            f"K = {record.trained.tasks} tasks and {record.trained.examples} examples. Grey: the exact superposition "
            f"(dotted){', ' + names + ' on the prompts of that setup' if names else ''}."
            + (" * did not learn its tasks (accuracy below 0.8)." if starred else "")
        )
    return " ".join(parts) + absent([one.model for one in record.asked])
