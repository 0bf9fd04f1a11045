"""Figure `superposed-or-committed`: one task's probability prompt by prompt, at several mixtures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from construct.errors import InputError
from empirical.records import Results
from empirical.study_records import EXACT, LAST, MIXING, ONE_TASK, Answers, Condition, Study
from empirical.superposition_index import superposition_index
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.runs import Bar, Model, Positive, Share, absent, bar, either, is_curve, model_of, of_first, run_label
from paper_figures.style import BLACK, GREY, PAGE, new_figure, plain, task_colour, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARES = (0.25, 0.5, 0.75)
NEAR = 0.1
"""A mixture is shown for a share that is so near."""
BINS = 20
SHOWN_GROUPS = ("main", "steps", "mixed")
"""Of the study, trained models of the main setup that are shown."""


class Cell(Record, frozen=True, kw_only=True):
    """One mixture: its share of task 1, the probability of task 1 on each prompt, and the superposition index."""

    share: Share
    probabilities: Annotated[list[Share], msgspec.Meta(min_length=1)]
    index: Bar


class Row(Record, frozen=True, kw_only=True):
    """A model or a learner, with a mixture a column.

    Args:
        model: its name.
        source: "evaluation" (`construct evaluate`), "trained" or "learner" (the study).
        suite: of an evaluation; null for the study's.
        cells: one for each of SHARES.
    """

    model: Model
    source: str
    suite: str | None
    cells: Annotated[list[Cell], msgspec.Meta(min_length=len(SHARES), max_length=len(SHARES))]

    def __post_init__(self) -> None:
        """Refuse sources that are not known, and mixtures far from their column's."""
        if self.source not in ("evaluation", "trained", "learner"):
            raise ValueError(f"the source of {self.model.label!r} is {self.source!r}")
        for cell, share in zip(self.cells, SHARES, strict=True):
            if abs(cell.share - share) > NEAR:
                raise ValueError(f"{self.model.label!r} has the mixture {cell.share} in the column of {share}")


class CommittedRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: the rows, the examples of a prompt, and the prompts behind an index of the study."""

    rows: Annotated[list[Row], msgspec.Meta(min_length=1)]
    examples: Annotated[list[Positive], msgspec.Meta(min_length=1)]
    study_prompts: int | None


RECORD = CommittedRecord


def collect(inputs: Inputs) -> CommittedRecord:
    """Constructions, then the exact learners, then trained models; from the records that there are."""
    runs, study = either(inputs)
    measured = [(run, row) for run in runs if is_curve(run) and (row := _evaluated(run)) is not None]
    rows = [row for _, row in measured]
    examples = {run.cells[0].examples for run, _ in measured}
    if study is not None:
        rows += _studied(study, exact=not rows)
        examples.add(study.runs[0].setup.examples)
    if not rows:
        raise InputError(
            "no run among the records goes over mixtures of two tasks from 1/4 to 3/4: `make evaluations` makes some"
        )
    built = [row for row in rows if row.model.label.startswith("construction")]
    asked = [row for row in rows if row.source == "evaluation" and row not in built]
    learners = [row for row in rows if row.source == "learner"]
    trained = [row for row in rows if row.source == "trained"]
    return CommittedRecord(
        rows=[*built, *asked, *learners, *trained],
        examples=sorted(examples),
        study_prompts=None if study is None else study.prompts,
    )


def _nearest(shares: Sequence[float]) -> list[int] | None:
    """The places of the mixtures nearest to SHARES; None where one is too far."""
    places = [min(range(len(shares)), key=lambda at: abs(shares[at] - share)) for share in SHARES]
    far = any(abs(shares[place] - share) > NEAR for place, share in zip(places, SHARES, strict=True))
    return None if far else places


def _evaluated(run: Results) -> Row | None:
    places = _nearest([cell.mixture[0] for cell in run.cells])
    if places is None:
        return None
    samples = [run.sample(place) for place in places]
    if any(not len(of_first(sample)) for sample in samples):
        return None
    return Row(
        model=model_of(run.header["model"]),
        source="evaluation",
        suite=run.header["suite"],
        cells=[
            Cell(
                share=run.cells[place].mixture[0],
                probabilities=[round(float(value), 6) for value in of_first(sample)],
                index=bar(superposition_index(sample)),
            )
            for place, sample in zip(places, samples, strict=True)
        ],
    )


def _studied(study: Study, *, exact: bool) -> list[Row]:
    """Predictions and trained models for the setup of the study's first run."""
    setup = study.runs[0].setup
    rows = []
    for name in ((EXACT,) if exact else ()) + (MIXING, ONE_TASK, LAST):
        found = study.predicted(name, setup)
        if found is not None:
            rows.append(_row(f"learner: {name}", "learner", found.answers))
    seeds = [run for run in study.runs if run.setup == setup and run.group in SHOWN_GROUPS and run.learned]
    first = {run.label: run for run in reversed(seeds)}
    shown = [run for run in study.runs if run in first.values()]
    rows += [_row(f"study: {run_label(run)}", "trained", run.answers) for run in shown]
    return [row for row in rows if row is not None]


def _row(label: str, source: str, answers: Answers) -> Row | None:
    kept: list[Condition] = [one for one in answers.curve if one.probabilities]
    places = _nearest([one.mixture[0] for one in kept]) if kept else None
    if places is None:
        return None
    shown = [kept[place] for place in places]
    return Row(
        model=Model(label=label, pretrained=False),
        source=source,
        suite=None,
        cells=[
            Cell(share=one.mixture[0], probabilities=[row[0] for row in one.probabilities], index=bar(one.index))
            for one in shown
        ],
    )


def draw(record: CommittedRecord) -> "Figure":
    """A row a model, a column a mixture: the share of the prompts by the probability of task 1."""
    figure = new_figure(PAGE, 0.75 + 0.56 * len(record.rows))
    grid: Any = figure.subplots(len(record.rows), len(SHARES), sharex=True, sharey=True, squeeze=False)
    for row, across in zip(record.rows, grid, strict=True):
        for cell, axes in zip(row.cells, across, strict=True):
            _histogram(axes, cell)
        across[0].set_ylabel(
            plain(named(row, record)).replace(": ", ":\n").replace(", ", ",\n").replace(" (", "\n("),
            rotation=0,
            ha="right",
            va="center",
            labelpad=18,
        )
    for share, axes in zip(SHARES, grid[0], strict=True):
        axes.set_title(rf"$\lambda \approx$ {share:g}", fontweight="bold")
    for axes in grid[-1]:
        axes.set_xlabel("probability of task 1's answer")
    grid[-1][0].annotate(
        "share of\nthe prompts", (-0.12, -0.1), xycoords="axes fraction", ha="right", va="top", fontsize=6
    )
    return figure


def named(row: Row, record: CommittedRecord) -> str:
    """A row's name, with its suite where several were asked."""
    suites = {one.suite for one in record.rows if one.suite is not None}
    return f"{row.suite}: {row.model.label}" if row.suite is not None and len(suites) > 1 else row.model.label


def _histogram(axes: "Axes", cell: Cell) -> None:
    counts, edges = np.histogram(np.clip(cell.probabilities, 0, 1), bins=BINS, range=(0, 1))
    colour = task_colour(0)
    heights = counts / len(cell.probabilities)
    axes.bar(edges[:-1], heights, 1 / BINS, align="edge", color=tint(colour, 0.6), edgecolor=colour, linewidth=0.4)
    axes.axvline(cell.share, color=GREY, linestyle=":", linewidth=0.9)
    axes.set_ylim(0, 1.05)
    axes.set_yticks((0, 0.5, 1))
    axes.set_xlim(-0.01, 1.01)
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", ".25", ".5", ".75", "1"))
    index = "undefined" if cell.index.value is None else f"{cell.index.value:.2f}"
    place, side = (0.98, "right") if cell.share <= 0.5 else (0.02, "left")
    axes.annotate(f"S = {index}", (place, 0.94), xycoords="axes fraction", ha=side, va="top", color=BLACK)


def caption(record: CommittedRecord) -> str:
    """What is measured, on what, with n and the intervals of S."""
    counts = sorted({len(cell.probabilities) for row in record.rows for cell in row.cells})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    sources = {row.source for row in record.rows}
    parts = [
        (
            "Superposed or committed? The probability of task 1's answer among the answers of two tasks, prompt by "
            f"prompt, where the share lambda of the {' or '.join(map(str, record.examples))} examples is task 1's "
            f"(dotted). Bars: the share of the prompts ({n} a panel). An answer that superposes puts every prompt at "
            "lambda; one that commits puts each at 0 or 1, and their mean may still be lambda. Measured on each "
            "prompt. S, the superposition index: 1 where every prompt has the same mixture, 0 where each is certain. "
            "It is 1 too where all prompts are certain of one task: only a bar away from lambda tells."
        ),
        "S at lambda near 1/2, with 95% bootstrap intervals over prompts: "
        + "; ".join(f"{named(row, record)} {_written(row.cells[1].index)}" for row in record.rows)
        + ".",
    ]
    if "evaluation" in sources:
        parts.append(
            "Models that are neither learners nor the study's: asked by `construct evaluate`, those of a suite the "
            "same prompts."
        )
    if "learner" in sources:
        parts.append(
            "Learners: what exact Bayesian learners with the belief named answer, computed and not trained, on the "
            "prompts of the trained models."
        )
    if record.study_prompts is not None:
        parts.append(
            f"Study, and learners: the study of models trained on a CPU; S is over {record.study_prompts} prompts, "
            "the bars over those that are kept in the record."
        )
    return " ".join(parts) + absent([row.model for row in record.rows])


def _written(found: Bar) -> str:
    if found.value is None:
        return "undefined"
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
