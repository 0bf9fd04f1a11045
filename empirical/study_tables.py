"""The figures of docs/training-study.md, from the record: `python -m empirical.study_tables` puts them there."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from construct.artifact import write_file
from construct.errors import ArtifactError
from empirical.study import slope_of
from empirical.study_records import (
    EXACT,
    LAST,
    ONE_TASK,
    RECORD,
    Answers,
    Condition,
    Interval,
    Point,
    Run,
    Setup,
    Study,
)
from empirical.study_records import read_study as read

Row = Sequence[str]
PAGE = Path("docs/training-study.md")
DEEPER = "3 layers, width 48"
"""The label of the runs that learn best."""


def at(curve: Sequence[Condition], share: float) -> Condition:
    """The condition of the curve nearest to a lambda."""
    return min(curve, key=lambda one: abs(one.mixture[0] - share))


def mean_slope(curve: Sequence[Condition]) -> float:
    """Of the mean probability of the first of two tasks on lambda."""
    return slope_of([Point(one.mixture[0], one.mean[0].value or 0.0, 0.0) for one in curve])


def least_accuracy(answers: Answers) -> float:
    """Of the tasks, on pure prompts of m examples."""
    return min(shares[-1] for shares in answers.accuracy.values())


def in_between(one: Condition) -> float:
    """The share of the kept prompts that give task 1 a probability from .1 to .9."""
    return sum(0.1 <= row[0] <= 0.9 for row in one.probabilities) / len(one.probabilities)


def strongest(run: Run) -> tuple[int, float, float, float]:
    """The place of the largest weight from the end, that weight, the mean of the others, and the place's agreement."""
    weights = [one.value or 0.0 for one in run.weights.by_position]
    place = max(range(len(weights)), key=weights.__getitem__)
    others = sum(weights[:place] + weights[place + 1 :]) / max(len(weights) - 1, 1)
    return len(weights) - place, weights[place], others, run.weights.agreement[place]


def markdown(columns: Row, rows: Sequence[Row]) -> str:
    """A table, the first column to the left."""
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def figure(found: Interval | float | None, digits: int = 2) -> str:
    """A figure, or a dash where it is undefined."""
    value = found.value if isinstance(found, Interval) else found
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def title(run: Run) -> str:
    """A run in a table."""
    return f"{run.label}, seed {run.settings['seed']}" if run.group == "main" or run.label == DEEPER else run.label


def named(run: Run) -> str:
    """A run in a table, and whether it has learned its tasks."""
    return title(run) + ("" if run.learned else " (not learned)")


def commitment(study: Study) -> str:
    """Do they superpose or commit? A row a run, at lambda = 1/2."""
    columns = (
        "model", "accuracy", "slope", "S", "S, exact", "S, one task", "P in [.1, .9]", "between", "TV to exact",
        "TV to one task",
    )  # fmt: skip
    rows = []
    for run in study.runs:
        half = at(run.answers.curve, 0.5)
        predicted = [study.predicted(name, run.setup) for name in (EXACT, ONE_TASK)]
        rows.append(
            (
                named(run),
                figure(least_accuracy(run.answers), 3),
                figure(mean_slope(run.answers.curve)),
                figure(half.index),
                *(figure(at(one.answers.curve, 0.5).index if one else None) for one in predicted),
                figure(in_between(half)),
                figure(half.between),
                *(figure(half.distances.get(name)) for name in (EXACT, ONE_TASK)),
            )
        )
    return markdown(columns, rows)


def evidence(study: Study) -> str:
    """What an answer goes with: a row a run."""
    columns = (
        "model", "place of the largest weight", "that weight", "mean of the others", "R^2", "agrees with that example",
        "with the last", "with the majority",
    )  # fmt: skip
    rows = []
    for run in study.runs:
        place, largest, others, agreement = strongest(run)
        where = "last" if place == 1 else f"last but {place - 1}"
        shares = (run.weights.explained, agreement, run.weights.agreement[-1], run.weights.majority)
        rows.append((named(run), where, figure(largest), figure(others), *map(figure, shares)))
    return markdown(columns, rows)


def mixtures(study: Study) -> str:
    """KL and r for K' = 2, ..., K, of models and predictions; a row for each K' of the setups with the most tasks."""
    columns = ("who", "tasks mixed", "KL, mean", "KL of the mean", "r", "S", "other mass")
    rows: list[Row] = []
    shown = [run for run in study.runs if run.learned and not run.settings["seed"]]
    shown = [run for run in shown if run.group in ("main", "tasks", "mixed") or run.label == DEEPER]
    told: set[Setup] = set()
    for run in shown:
        rows += [_mixture(title(run), one) for one in run.answers.uniform]
        for name in (EXACT, ONE_TASK, LAST) if run.setup not in told else ():
            found = study.predicted(name, run.setup)
            rows += [] if found is None else [_mixture(f"{name} ({run.label})", found.answers.uniform[-1])]
        told.add(run.setup)
    return markdown(columns, rows)


def _mixture(who: str, one: Condition) -> Row:
    return (
        who, str(len(one.mixture)), figure(one.kl), figure(one.kl_of_mean), figure(one.completion), figure(one.index),
        figure(one.other, 3),
    )  # fmt: skip


def histograms(study: Study) -> str:
    """Task 1's probability prompt by prompt, at three mixtures: models and predictions of the main setup."""
    columns = ("who", "lambda", "mean P_1", "below .1", ".1 to .9", "above .9")
    rows: list[Row] = []
    main = study.runs[0]
    found = [(name, study.predicted(name, main.setup)) for name in (EXACT, ONE_TASK, LAST)]
    shown = [
        (title(run), run)
        for run in study.runs
        if run.setup == main.setup and (run.group in ("main", "mixed") or run.label == DEEPER)
    ]
    for name, answers in [*((name, one.answers) for name, one in found if one), *((n, r.answers) for n, r in shown)]:
        for share in (0.25, 0.5, 0.75):
            one = at(answers.curve, share)
            first = [row[0] for row in one.probabilities]
            low, high = sum(p < 0.1 for p in first) / len(first), sum(p > 0.9 for p in first) / len(first)
            rows.append((name, figure(share), figure(one.mean[0]), figure(low), figure(1 - low - high), figure(high)))
    return markdown(columns, rows)


def emergences(study: Study) -> str:
    """When things appear in training."""
    columns = ("model", "steps", "told apart", "mean follows", "commits", "learned", "KL at the first line", "KL, last")
    rows = []
    for run in study.runs:
        found = run.emergence
        steps = (found.told_apart, found.follows, found.commits, found.learned if run.learned else None)
        rows.append(
            (
                title(run),
                str(run.settings["steps"]),
                *("never" if step is None else str(step) for step in steps),
                figure(run.moments[0].kl),
                figure(run.moments[-1].kl),
            )
        )
    return markdown(columns, rows)


def findings(study: Study) -> str:
    """The main figures: the preset's models and the deeper ones, from the least to the largest over seeds."""
    main = study.group("main")
    deeper = [run for run in study.runs if run.setup == main[0].setup and run.label == DEEPER]
    others = [study.predicted(name, main[0].setup) for name in (EXACT, ONE_TASK, LAST)]
    beside = [None if one is None else one.answers for one in others]

    def row(name: str, measure: Callable[[Answers], float | None]) -> Row:
        trained = [_range([measure(run.answers) for run in runs]) for runs in (main, deeper)]
        return (name, *trained, *(figure(None if one is None else measure(one)) for one in beside))

    rows = [
        row("accuracy on pure prompts, least of the tasks", least_accuracy),
        row("slope of the mean of P_1 on lambda", lambda one: mean_slope(one.curve)),
        row("mean of P_1 at lambda = 1/4", lambda one: at(one.curve, 0.25).mean[0].value),
        row("mean of P_1 at lambda = 1/2", lambda one: at(one.curve, 0.5).mean[0].value),
        row("S at lambda = 1/2", lambda one: at(one.curve, 0.5).index.value),
        row("prompts with P_1 in [.1, .9] at lambda = 1/2", lambda one: in_between(at(one.curve, 0.5))),
        row("S, uniform over 3", lambda one: one.uniform[-1].index.value),
        row("KL, uniform over 3, mean over prompts", lambda one: one.uniform[-1].kl.value),
        row("KL of the mean, uniform over 3", lambda one: one.uniform[-1].kl_of_mean),
        row("r, uniform over 3", lambda one: one.uniform[-1].completion.value),
        *(row(f"TV to {name}, uniform over 3", partial(_apart, name)) for name in (EXACT, ONE_TASK, LAST)),
    ]
    columns = ("figure", *(f"{runs[0].label}, {len(runs)} seeds" if runs else "-" for runs in (main, deeper)))
    return markdown((*columns, EXACT, ONE_TASK, LAST), rows)


def _apart(name: str, answers: Answers) -> float | None:
    """The mean distance to a prediction, on the uniform mixture of all tasks."""
    found = answers.uniform[-1].distances.get(name)
    return None if found is None else found.value


def _range(found: Sequence[float | None]) -> str:
    values = [value for value in found if value is not None]
    if not values:
        return "-"
    low, high = figure(min(values)), figure(max(values))
    return low if low == high else f"{low} to {high}"


def tables(study: Study) -> dict[str, str]:
    """Every table of the document by its name."""
    return {
        "findings": findings(study),
        "commitment": commitment(study),
        "evidence": evidence(study),
        "histograms": histograms(study),
        "mixtures": mixtures(study),
        "emergence": emergences(study),
    }


def filled(page: str, found: Mapping[str, str]) -> str:
    """A page with each table put between `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        ArtifactError: it has no place for a table, or more than one.
    """
    for name, table in found.items():
        page, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda match, table=table: f"{match[1]}\n{table}\n\n{match[2]}",  # type: ignore[misc]
            page,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ArtifactError(f"the page has {count} places for the table {name!r}: expected one `<!-- {name} -->`")
    return page


@click.command()
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), default=RECORD, show_default=True)
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), default=PAGE, show_default=True)
def command(*, record: Path, page: Path) -> None:
    """Put the tables into the page."""
    try:
        found = filled(page.read_text(encoding="utf-8"), tables(read(record)))
        write_file(page, found.encode())
    except (ArtifactError, OSError) as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    sys.exit(command())
