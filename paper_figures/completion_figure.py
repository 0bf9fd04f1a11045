"""Figure `completion`: KL to the mixture and the completion r, by the number of tasks mixed and the model's size."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from empirical.study_records import EXACT, ONE_TASK, Answers, Run, Study
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.runs import Bar, Positive, bar, run_label, study_of, whiskers
from paper_figures.style import GREY, PAGE, new_figure, panel, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINEAR = 0.1
"""KL below is drawn on a linear scale: 0 is exact."""
SIZED = ("main", "size", "architecture")


class Mixed(Record, frozen=True, kw_only=True):
    """One number of tasks, mixed uniformly: KL of the paper in nats, that of the mean over prompts, and r."""

    tasks: Annotated[int, msgspec.Meta(ge=2)]
    kl: Bar
    kl_of_mean: float | None
    completion: Bar


class Series(Record, frozen=True, kw_only=True):
    """A trained model or a learner.

    Args:
        label: its name.
        suite: of its tasks.
        size: how many numbers the model has; null for learners.
        learned: whether it learned its tasks.
        sized: whether it stands among those compared by size, all of one setup.
        varied: whether it stands among those compared by the number of tasks.
        mixed: for K' = 2, 3, ...
    """

    label: str
    suite: str
    size: Positive | None
    learned: bool
    sized: bool
    varied: bool
    mixed: Annotated[list[Mixed], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Refuse numbers of tasks that do not rise, and learners with a size."""
        counts = [one.tasks for one in self.mixed]
        if counts != sorted(set(counts)):
            raise ValueError(f"{self.label!r} has the numbers of tasks {counts}: expected rising ones")
        if self.sized and self.size is None:
            raise ValueError(f"{self.label!r} has no size and stands among models by size")


class CompletionRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: prompts a condition, K of the models by size, the models, and learners."""

    prompts: Positive
    tasks: Annotated[int, msgspec.Meta(ge=2)]
    models: Annotated[list[Series], msgspec.Meta(min_length=1)]
    learners: list[Series]


RECORD = CompletionRecord


def collect(inputs: Inputs) -> CompletionRecord:
    """Read the study of trained models."""
    study = study_of(inputs)
    setup = study.runs[0].setup
    models = [
        _series(
            run_label(run),
            run.setup.suite,
            run.answers,
            run=run,
            sized=run.setup == setup and run.group in SIZED,
            varied=_varied(study, run),
        )
        for run in study.runs
    ]
    largest = max((run.setup for run in study.runs), key=lambda one: one.tasks)
    learners = [(name, study.predicted(name, largest)) for name in (EXACT, ONE_TASK)]
    return CompletionRecord(
        prompts=study.prompts,
        tasks=setup.tasks,
        models=[one for one in models if one.sized or one.varied],
        learners=[
            _series(name, largest.suite, one.answers, run=None, sized=False, varied=True)
            for name, one in learners
            if one is not None
        ],
    )


def _varied(study: Study, run: Run) -> bool:
    """One model of the main setup, and those with other tasks."""
    first = next(each for each in study.runs if each.setup == study.runs[0].setup)
    return run is first or run.setup.tasks != first.setup.tasks


def _series(label: str, suite: str, answers: Answers, *, run: Run | None, sized: bool, varied: bool) -> Series:
    return Series(
        label=label,
        suite=suite,
        size=None if run is None else run.parameters,
        learned=run is None or run.learned,
        sized=sized,
        varied=varied,
        mixed=[
            Mixed(tasks=len(one.mixture), kl=bar(one.kl), kl_of_mean=one.kl_of_mean, completion=bar(one.completion))
            for one in answers.uniform
        ],
    )


def draw(record: CompletionRecord) -> "Figure":
    """KL and r against K', and against the parameters at the largest K'."""
    varied = [one for one in record.models if one.varied]
    sized = [one for one in record.models if one.sized]
    rows = 2 if sized else 1
    figure = new_figure(PAGE, 2.15 * rows)
    grid: Any = figure.subplots(rows, 2, squeeze=False, sharey="col")
    above = grid[0]
    for axes, letter, pick, title in (
        (above[0], "a", _kl, "divergence from the uniform mixture"),
        (above[1], "b", _completion, "completion"),
    ):
        _by_tasks(axes, varied, record.learners, pick)
        panel(axes, letter, title)
    above[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="models and learners", title_fontsize=6.5)
    if sized:
        for axes, letter, pick in ((grid[1][0], "c", _kl), (grid[1][1], "d", _completion)):
            for index, one in enumerate(sized):
                # Models of one size stand side by side.
                alike = [other.label for other in sized if other.size == one.size]
                at = (one.size or 0) * 1.04 ** (alike.index(one.label) - (len(alike) - 1) / 2)
                whiskers(axes, [at], [pick(one.mixed[-1])], index, plain(one.label), linestyle="none")
            axes.set_xscale("log")
            _thousands(axes, [one.size or 1 for one in sized])
            axes.set_xlabel("parameters of the model")
            panel(axes, letter, f"by size, {record.tasks} tasks mixed")
        grid[1][1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="models", title_fontsize=6.5)
    for row in grid:
        row[0].set_yscale("symlog", linthresh=LINEAR)
        row[0].set_ylim(0, 2 * max(LINEAR, _largest(record)))
        row[0].set_ylabel("KL(mixture || output), nats")
        row[1].set_ylim(-0.03, 1.06)
        row[1].set_ylabel("r, share of the tasks' answers")
    return figure


def _largest(record: CompletionRecord) -> float:
    """Of the KL drawn."""
    bars = [mixed.kl for one in (*record.models, *record.learners) for mixed in one.mixed]
    return max(one.high or one.value or 0.0 for one in bars)


def _thousands(axes: "Axes", sizes: Sequence[int]) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten around the sizes."""
    low, high = min(sizes) / 1.5, max(sizes) * 1.5
    ticks = [digit * 10**power for power in range(13) for digit in (1, 2, 5) if low <= digit * 10**power <= high]
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def _kl(one: Mixed) -> Bar:
    return one.kl


def _completion(one: Mixed) -> Bar:
    return one.completion


def _by_tasks(axes: "Axes", models: Sequence[Series], learners: Sequence[Series], pick: Callable[[Mixed], Bar]) -> None:
    for style, learner in zip(("--", ":"), learners, strict=False):
        kept = [(one.tasks, pick(one).value) for one in learner.mixed]
        points = [(tasks, value) for tasks, value in kept if value is not None]
        axes.plot(
            [tasks for tasks, _ in points],
            [value for _, value in points],
            style,
            color=GREY,
            linewidth=1.0,
            label=plain(f"learner: {learner.label}"),
        )
    for index, one in enumerate(models):
        places = [mixed.tasks + 0.05 * (index - (len(models) - 1) / 2) for mixed in one.mixed]
        whiskers(
            axes,
            places,
            [pick(mixed) for mixed in one.mixed],
            index,
            plain(one.label if one.suite in one.label else f"{one.label} ({one.suite})"),
        )
    counts = {mixed.tasks for one in (*models, *learners) for mixed in one.mixed}
    axes.set_xticks(range(min(counts), max(counts) + 1))
    axes.set_xlim(min(counts) - 0.4, max(counts) + 0.4)
    axes.set_xlabel("tasks mixed, K'")


def caption(record: CompletionRecord) -> str:
    """What is measured, on what, with n and intervals."""
    failed = [one.label for one in record.models if not one.learned]
    shares = [(one.completion.value, series.label) for series in record.models for one in series.mixed[-1:]]
    least = min(((value, label) for value, label in shares if value is not None), default=None)
    return (
        "Calibration and completion of models trained on a CPU, one task a prompt but where it says mixed, on uniform "
        f"mixtures of K' tasks. Measured over n = {record.prompts} prompts, with 95% bootstrap intervals: (a, c) the "
        "mean of KL(mixture || output), probabilities not normalised over the answers as in the paper; linear below "
        f"{LINEAR:g} nats, and 0 where the output is the mixture; (b, d) r, the share of the K' answers that are among "
        "the K' most probable tokens. Grey: what exact learners answer to the same prompts, computed and not "
        "trained; the learner of one task believes in label noise, which bounds its KL. Neither alone shows "
        "superposition: a model that guesses among the tasks whatever the examples has r = 1 and a KL near 0."
        + (f" (c, d): all with {record.tasks} tasks." if any(one.sized for one in record.models) else "")
        + (f" The least r at a model's largest K' is {least[0]:.3f} ({least[1]})." if least else "")
        + (f" * did not learn its tasks: {'; '.join(failed)}." if failed else "")
    )
