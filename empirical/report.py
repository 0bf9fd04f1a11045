"""Tables of finished runs: what `construct report` and `construct compare` print.

Every figure stands with its bootstrap interval. The superposition index comes first: without it, probabilities that
follow the mixture on average say nothing about any single answer.
"""

import csv
import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from construct.commands.table import bar
from construct.commands.table import table as text_table
from construct.errors import InputError
from empirical.measures import (
    Estimate,
    Floats,
    Sample,
    calibration,
    distance_to_oracle,
    entropy,
    estimate,
    kl_normalised,
    kl_of_paper,
    mean,
    total_variation,
)
from empirical.records import Results
from empirical.superposition_index import (
    BINS,
    PREDICTORS,
    distributions,
    histogram,
    index,
    oracle_index,
    regression,
    superposition_index,
    variance_split,
)


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        title: its heading.
        columns: the headings of its columns.
        rows: its cells, as text.
        note: what stands under the heading.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def text(self) -> str:
        """For the terminal."""
        parts = [self.title, *textwrap.wrap(self.note, 118), text_table(self.rows, header=self.columns)]
        return "\n".join(parts)

    def markdown(self) -> str:
        """In Markdown."""
        lines = [f"## {self.title}", ""] + ([self.note, ""] if self.note else [])
        cells = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return "\n".join(
            [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)]
        )


def condition(results: Results, cell: int) -> str:
    """A condition in words."""
    found = results.cells[cell]
    names = results.header["tasks"]
    if max(found.mixture) - min(found.mixture) < 1e-9:
        mixed = f"uniform over {len(names)}"
    else:
        mixed = " ".join(f"{name}={weight:.3g}" for name, weight in zip(names, found.mixture, strict=True) if weight)
    return f"{mixed}, m={found.examples}"


def report(runs: Sequence[Results]) -> list[Table]:
    """All tables of some runs."""
    tables = [headline(runs), divergences(runs), task_table(runs)]
    calibrated = calibration_table(runs)
    tables += [calibrated] if calibrated.rows else []
    return [*tables, variance_table(runs), regression_table(runs), histogram_table(runs)]


def headline(runs: Sequence[Results]) -> Table:
    """Superposed or committed, and how near to the mixture."""
    rows = []
    for run in runs:
        for cell in range(len(run.cells)):
            sample = run.sample(cell)
            exact = oracle_index(sample)
            completed = mean(sample.correct)
            unsure = int((~sample.exact).sum())
            ambiguous = int(sample.ambiguous.sum())
            rows.append(
                (
                    run.model,
                    condition(run, cell),
                    f"{len(sample)}" + (f" ({ambiguous} ambiguous)" if ambiguous else ""),
                    str(superposition_index(sample)),
                    _number(exact),
                    str(mean(total_variation(sample))),
                    str(mean(distance_to_oracle(sample))),
                    "not measured"
                    if math.isnan(completed.value)
                    else f"{completed} of {sample.log_probability.shape[1]}"
                    + (f" ({unsure} searches unfinished)" if unsure else ""),
                )
            )
    return Table(
        "Superposed or committed?",
        ("model", "mixture", "prompts", "S", "S if exact", "TV to mixture", "TV to exact", "r"),
        tuple(rows),
        "S is 1 where every prompt's answer is the same mixture, 0 where each prompt commits to one task; `S if exact` "
        "is that of the exact superposition of the same prompts. A model that guesses among the tasks whatever the "
        "examples has S = 1 too, but is far from exact, or flat over lambda. r is how many of the K correct answers "
        "are among the K most probable completions.",
    )


def divergences(runs: Sequence[Results]) -> Table:
    """KL both ways, other mass, entropy."""
    rows = []
    for run in runs:
        for cell in range(len(run.cells)):
            sample = run.sample(cell)
            own = sample.normalised
            rows.append(
                (
                    run.model,
                    condition(run, cell),
                    str(mean(kl_of_paper(sample))),
                    str(kl_of_mean(sample)),
                    str(mean(kl_normalised(sample))),
                    str(mean(sample.other)),
                    str(mean(entropy(np.where(sample.first, own, 0.0)))),
                    _number(float(entropy(distributions(sample).mean(0))) if len(distributions(sample)) else math.nan),
                )
            )
    return Table(
        "Divergence from the mixture",
        ("model", "mixture", "KL", "KL of mean", "KL normalised", "other mass", "entropy", "entropy of mean"),
        tuple(rows),
        "KL(mixture || model) in nats, the mean over prompts: as the paper computes it (probabilities not normalised "
        "over the answers; of the mean probabilities in the next column), and normalised.",
    )


def kl_of_mean(sample: Sample) -> Estimate:
    """KL(D || mean P), P not normalised, over the prompts without ambiguity."""
    kept = sample.probability[~sample.ambiguous]
    if not len(kept):
        return Estimate(math.nan, math.nan, math.nan)

    def value(places: np.ndarray) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            weights = sample.mixture
            terms = np.where(weights > 0, weights * (np.log(weights) - np.log(kept[places].mean(0))), 0.0)
        return float(terms.sum())

    return estimate(len(kept), value)


def task_table(runs: Sequence[Results]) -> Table:
    """The probability of each task's answer."""
    rows = []
    for run in runs:
        for cell, found in enumerate(run.cells):
            sample = run.sample(cell)
            for task, name in enumerate(run.header["tasks"]):
                shown, own = mean(sample.probability[:, task]), mean(sample.normalised[:, task])
                rows.append((run.model, condition(run, cell), name, f"{found.mixture[task]:.3f}", str(shown), str(own)))
    columns = ("model", "mixture", "task", "weight", "probability", "normalised")
    return Table("Probability per task", columns, tuple(rows))


def calibration_table(runs: Sequence[Results]) -> Table:
    """How the first of two tasks follows its weight; a row a run that has several weights."""
    rows = []
    for run in runs:
        for examples in sorted({cell.examples for cell in run.cells}):
            samples = [run.sample(place) for place, cell in enumerate(run.cells) if cell.examples == examples]
            found = calibration(samples)
            if found is not None:
                figures = (str(found.slope), str(found.intercept), str(found.worst_gap))
                rows.append((run.model, f"{run.header['tasks'][0]}, m={examples}", *figures))
    return Table(
        "Calibration over lambda",
        ("model", "task", "slope", "intercept", "worst gap"),
        tuple(rows),
        "The normalised probability of the first task against its weight in the mixture: 1, 0 and 0 are perfect.",
    )


def variance_table(runs: Sequence[Results]) -> Table:
    """Within and between prompts."""
    rows = []
    for run in runs:
        for cell in range(len(run.cells)):
            sample = run.sample(cell)
            for task, name in enumerate(run.header["tasks"]):
                split = variance_split(sample, task)
                parts = (_number(split.within, 4), _number(split.between, 4), str(split.share_between))
                rows.append((run.model, condition(run, cell), name, *parts))
    return Table(
        "Variance within and between prompts",
        ("model", "mixture", "task", "within", "between", "share between"),
        tuple(rows),
        "Of an answer drawn from the model being the task's: 0 between prompts is superposed, 1 committed.",
    )


def regression_table(runs: Sequence[Results]) -> Table:
    """What the differences between prompts go with."""
    rows = []
    for run in runs:
        for cell in range(len(run.cells)):
            found = regression(run.sample(cell))
            shown = [found.coefficients[name] for name in PREDICTORS]
            words = ["does not vary" if math.isnan(one.value) else str(one) for one in shown]
            rows.append((run.model, condition(run, cell), *words, _number(found.explained)))
    return Table(
        "What differences between prompts go with",
        ("model", "mixture", *PREDICTORS, "R^2"),
        tuple(rows),
        "Least squares of each task's probability on its share of the prompt's examples, its share of the last quarter "
        "of them, and their mean place (0 first, 1 last).",
    )


def histogram_table(runs: Sequence[Results]) -> Table:
    """How certain single prompts are."""
    rows = []
    for run in runs:
        for cell in range(len(run.cells)):
            counts = histogram(run.sample(cell))
            for place, count in enumerate(counts):
                if count:
                    between = f"{place / BINS:.1f} to {(place + 1) / BINS:.1f}"
                    share = bar(count / sum(counts)).rstrip()
                    rows.append((run.model, condition(run, cell), between, str(count), share))
    return Table(
        "Prompts by the probability of their most probable task",
        ("model", "mixture", "probability", "prompts", "share"),
        tuple(rows),
    )


def comparison(runs: Sequence[Results]) -> list[Table]:
    """Several models on the same prompts, side by side, with paired differences to the first.

    Raises:
        InputError: the runs are less than two, or asked different prompts.
    """
    if len(runs) < 2:
        raise InputError("one run was given: a comparison takes at least two")
    for run in runs[1:]:
        for field in ("suite", "tasks", "cells", "prompts", "prompts_sha256"):
            if run.header[field] != runs[0].header[field]:
                raise InputError(
                    f"{runs[0].model} and {run.model} were not asked the same prompts (their {field} differ): evaluate "
                    "both with the same tasks, mixtures, examples, prompts and seed"
                )
    names = _distinct([run.model for run in runs])
    rows: list[tuple[str, ...]] = []
    for cell in range(len(runs[0].cells)):
        samples = [run.sample(cell) for run in runs]
        where = condition(runs[0], cell)
        rows.append((where, "S", *(str(superposition_index(sample)) for sample in samples)))
        for name, values in (
            ("TV to mixture", [total_variation(sample) for sample in samples]),
            ("TV to exact", [distance_to_oracle(sample) for sample in samples]),
            ("KL", [kl_of_paper(sample) for sample in samples]),
            ("KL normalised", [kl_normalised(sample) for sample in samples]),
            ("other mass", [sample.other for sample in samples]),
            ("r", [sample.correct for sample in samples]),
        ):
            rows.append((where, name, *(str(mean(one)) for one in values)))
    tables = [Table("Side by side", ("mixture", "figure", *names), tuple(rows)), _differences(runs, names)]
    calibrated = calibration_table(runs)
    return [*tables, *([calibrated] if calibrated.rows else [])]


def _differences(runs: Sequence[Results], names: Sequence[str]) -> Table:
    """Each run less the first, prompt by prompt."""
    rows: list[tuple[str, ...]] = []
    for cell in range(len(runs[0].cells)):
        samples = [run.sample(cell) for run in runs]
        shares = [sample.normalised for sample in samples]
        kept = ~samples[0].ambiguous & ~np.isnan(np.stack(shares)).any((0, 2))
        where = condition(runs[0], cell)
        rows.append((where, "S", *(_paired_index(shares[0][kept], one[kept]) for one in shares[1:])))
        for name, values in (
            ("TV to exact", [distance_to_oracle(sample) for sample in samples]),
            ("other mass", [sample.other for sample in samples]),
            ("r", [sample.correct for sample in samples]),
        ):
            rows.append((where, name, *(str(mean(one - values[0])) for one in values[1:])))
    title = f"Differences to {names[0]}, prompt by prompt"
    return Table(title, ("mixture", "figure", *names[1:]), tuple(rows))


def _paired_index(base: Floats, other: Floats) -> str:
    if not len(base):
        return "undefined"
    return str(estimate(len(base), lambda places: index(other[places]) - index(base[places])))


def as_csv(tables: Sequence[Table]) -> str:
    """The tables as one CSV, each with its title in the first column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for table in tables:
        writer.writerow(["table", *table.columns])
        writer.writerows([table.title, *row] for row in table.rows)
    return out.getvalue()


def _distinct(names: Sequence[str]) -> list[str]:
    """Equal names are numbered."""
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _number(value: float, digits: int = 3) -> str:
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"
