"""Figure `settings`: the paper's four settings, each task's probability in boxes over prompts, by model."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from construct.errors import InputError
from empirical.records import Results
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.runs import Bar, Model, Positive, Share, absent, evaluations, is_uniform, mean_bar, model_of
from paper_figures.style import BLACK, GREY, PAGE, new_figure, panel, plain, task_colour, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETTINGS = ("add_translate", "country", "copy_add", "letters")
"""The four settings of Xiong et al. (arXiv 2410.05603, section 3), as suites; others follow."""
COLUMNS = 3
COMMAND = "make settings"


class Boxes(Record, frozen=True, kw_only=True):
    """A model in a setting: [K] lists of one probability a prompt, their means, and r where it was measured."""

    model: Model
    probabilities: Annotated[list[Annotated[list[Share], msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)]
    mean: Annotated[list[Bar], msgspec.Meta(min_length=1)]
    completion: Bar

    def __post_init__(self) -> None:
        """Refuse tasks with other numbers of prompts, or without a mean."""
        if len({len(each) for each in self.probabilities}) > 1 or len(self.mean) != len(self.probabilities):
            raise ValueError(f"{self.model.label!r} has not as many prompts for each task, or not a mean for each")


class Setting(Record, frozen=True, kw_only=True):
    """A suite with a uniform mixture: its tasks, m, and the models that were asked, all on the same prompts."""

    suite: str
    tasks: Annotated[list[str], msgspec.Meta(min_length=1)]
    examples: Positive
    models: Annotated[list[Boxes], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Refuse models with other numbers of tasks."""
        for boxes in self.models:
            if len(boxes.probabilities) != len(self.tasks):
                raise ValueError(f"{boxes.model.label!r} has {len(boxes.probabilities)} tasks of {len(self.tasks)}")


class SettingsRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: the paper's settings first, then others."""

    settings: Annotated[list[Setting], msgspec.Meta(min_length=1)]


RECORD = SettingsRecord


def collect(inputs: Inputs) -> SettingsRecord:
    """Read the evaluations of uniform mixtures, those on the same prompts together."""
    found: dict[tuple[str, str], list[Results]] = {}
    for run in evaluations(inputs, COMMAND):
        if is_uniform(run):
            found.setdefault((run.header["suite"], run.header["prompts_sha256"]), []).append(run)
    if not any(suite in SETTINGS for suite, _ in found):
        folders = " or ".join(str(folder) for folder in inputs.folders)
        raise InputError(f"no run in {folders} asks one of {', '.join(SETTINGS)}: `{COMMAND}` makes them")
    rank = {suite: place for place, suite in enumerate(SETTINGS)}
    ordered = sorted(found.items(), key=lambda item: (rank.get(item[0][0], len(rank)), item[0]))
    return SettingsRecord(
        settings=[
            Setting(
                suite=suite,
                tasks=runs[0].header["tasks"],
                examples=runs[0].cells[0].examples,
                models=[_boxes(run) for run in runs],
            )
            for (suite, _), runs in ordered
        ]
    )


def _boxes(run: Results) -> Boxes:
    sample = run.sample(0)
    shown = sample.probability
    return Boxes(
        model=model_of(run.header["model"]),
        probabilities=[[round(float(value), 6) for value in shown[:, task]] for task in range(shown.shape[1])],
        mean=[mean_bar(shown[:, task]) for task in range(shown.shape[1])],
        completion=mean_bar(sample.correct),
    )


def draw(record: SettingsRecord) -> "Figure":
    """A panel a setting; in it the models one after another, a box a task; the mixture dotted."""
    count = len(record.settings)
    columns = min(COLUMNS, count)
    lines = -(-count // columns)
    figure = new_figure(PAGE, 0.3 + 1.8 * lines)
    grid: Any = figure.subplots(lines, columns, squeeze=False, sharey=True)
    places = list(grid.ravel())
    for letter, axes, setting in zip("abcdefghijklmnopqrstuvwxyz", places, record.settings, strict=False):
        _panel(axes, setting)
        panel(axes, letter, plain(f"{setting.suite}, {setting.examples} examples"))
    for axes in places[count:]:
        axes.remove()
    for row in grid:
        row[0].set_ylabel("probability of the answer")
    return figure


def _panel(axes: "Axes", setting: Setting) -> None:
    tasks = len(setting.tasks)
    for place, boxes in enumerate(setting.models):
        for task, values in enumerate(boxes.probabilities):
            colour = task_colour(task)
            drawn = axes.boxplot(
                [values],
                positions=[place * (tasks + 1) + task],
                medianprops={"color": BLACK, "linewidth": 1.0},
                boxprops={"facecolor": tint(colour), "edgecolor": colour, "linewidth": 0.8},
                whiskerprops={"color": colour, "linewidth": 0.7},
                capprops={"color": colour, "linewidth": 0.7},
                flierprops={"marker": ".", "markersize": 1.8, "markerfacecolor": colour, "markeredgewidth": 0},
                widths=0.6,
                patch_artist=True,
            )
            if place == 0:
                drawn["boxes"][0].set_label(plain(setting.tasks[task]))
    axes.axhline(1 / tasks, color=GREY, linestyle=":", linewidth=0.8, zorder=0)
    middles = [place * (tasks + 1) + (tasks - 1) / 2 for place in range(len(setting.models))]
    names = [plain(boxes.model.label).replace(", ", ",\n").replace(" (", "\n(") for boxes in setting.models]
    axes.set_xticks(middles, names, fontsize=6)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("model")
    axes.set_xlim(-1, len(setting.models) * (tasks + 1) - 1)
    axes.set_ylim(-0.03, 1.3)
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1))
    axes.legend(loc="upper left", ncols=2 if tasks == 4 else 3, handlelength=1.0, columnspacing=1.0, borderpad=0)


def caption(record: SettingsRecord) -> str:
    """What is measured, on what, with n and r."""
    counts = sorted({len(boxes.probabilities[0]) for setting in record.settings for boxes in setting.models})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    missing = [suite for suite in SETTINGS if suite not in {setting.suite for setting in record.settings}]
    others = [setting.suite for setting in record.settings if setting.suite not in SETTINGS]
    completed = "; ".join(
        f"{setting.suite}: "
        + ", ".join(f"{boxes.model.label} {_of(boxes.completion, len(setting.tasks))}" for boxes in setting.models)
        for setting in record.settings
    )
    models = [boxes.model for setting in record.settings for boxes in setting.models]
    return (
        "The settings of Xiong et al. (arXiv 2410.05603, section 3), uniform mixtures. Measured: the probability of "
        f"each task's answer, over {n} prompts a model. Boxes: quartiles and median; whiskers: to 1.5 times the "
        "quartiles' distance; points: prompts beyond. Dotted: the mixture. Where a box is a line, the prompts agree "
        "to its width. An output that commits prompt by prompt has boxes from 0 to 1. r, the number of the tasks' "
        "answers among as many most probable completions, with 95% bootstrap intervals: " + completed + "."
        + (f" Also: {', '.join(others)}, the tasks of the models trained here." if others else "")
        + (f" Not in the records: {', '.join(missing)}." if missing else "")
        + absent(models)
    )  # fmt: skip


def _of(found: Bar, tasks: int) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "not measured"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] of {tasks}"
