"""Figure `error-vs-sharpness`: the worst error found in each format, and the certified bounds, against lambda."""

import math
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
from scipy.special import stdtrit

from construct.bounds import PRECISIONS
from construct.suites import build_suite
from construct.theorems import Construction, two_layer
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.style import ERROR, FORMAT_COLOURS, FORMAT_MARKERS, GREY, PAGE, new_figure, panel
from verify.adversary import search
from verify.theorem import prove

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS, ALPHABET, EXAMPLES = 3, 5, 5
SHARPNESS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0)
SAMPLES = 16
LAMBDA = r"sharpness $\lambda$ (a scale of the scores, no unit)"
FIRST, LAST = 3.0, 12.0
"""Between which the rate is fitted."""

RATE = 2
"""The theorem: the bound is c z^2 (1 + O(z^2)) with z = exp(-lambda) (construct.attention, verify.closed_form)."""


class Point(Record, frozen=True, kw_only=True):
    """One sharpness: the worst error found by format, and the certified bounds ("real" and by format)."""

    sharpness: Annotated[float, msgspec.Meta(gt=0)]
    found: dict[str, float]
    bounds: dict[str, float | None]


class SharpnessRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: the sizes of the model and a point for each sharpness."""

    suite: str
    tasks: int
    alphabet_size: int
    inputs: int
    examples: int
    samples: int
    points: Annotated[list[Point], msgspec.Meta(min_length=3)]

    def __post_init__(self) -> None:
        """Refuse points that leave a format out, and fewer than two to fit a rate to."""
        for point in self.points:
            if missing := [form for form in PRECISIONS if form not in point.found]:
                raise ValueError(f"the point at lambda = {point.sharpness} says nothing of {missing[0]}")
        if len(fitted_points(self)) < 2:
            raise ValueError(f"fewer than two points between lambda {FIRST:g} and {LAST:g} have an error")


RECORD = SharpnessRecord


def collect(inputs: Inputs) -> SharpnessRecord:
    """Build, prove and search at each sharpness."""
    task_set = build_suite("retrieval", tasks=TASKS, alphabet_size=ALPHABET, inputs=TASKS)
    points: list[Point] = []
    for sharpness in SHARPNESS:
        inputs.report("error-vs-sharpness", len(points) / len(SHARPNESS))
        construction = two_layer(task_set, examples=EXAMPLES, sharpness=sharpness)
        proof = prove(construction)
        points.append(
            Point(
                sharpness=sharpness,
                found={form: _worst(construction, form) for form in PRECISIONS},
                bounds={"real": proof.real, **proof.rounded},
            )
        )
    return SharpnessRecord(
        suite="retrieval",
        tasks=TASKS,
        alphabet_size=ALPHABET,
        inputs=TASKS,
        examples=EXAMPLES,
        samples=SAMPLES,
        points=points,
    )


def _worst(construction: Construction, form: str) -> float:
    return search(construction, samples=SAMPLES, dtype=form).error


def fitted_points(record: SharpnessRecord) -> list[Point]:
    """The points that the rate is fitted to: where z is small, and the error far above the rounding of float64."""
    return [point for point in record.points if FIRST <= point.sharpness <= LAST and point.found["float64"] > 0]


def fitted_rate(record: SharpnessRecord) -> tuple[float, float]:
    """Minus the slope of log(worst error found in float64) over the sharpness, and half its 95% interval.

    By least squares over `fitted_points`, with Student's t for their residuals; infinite for two points.
    """
    points = fitted_points(record)
    places = np.array([point.sharpness for point in points])
    values = np.log([point.found["float64"] for point in points])
    slope, intercept = np.polyfit(places, values, 1)
    freedom = len(points) - 2
    if freedom < 1:
        return float(-slope), math.inf
    residual = np.square(values - slope * places - intercept).sum() / freedom
    error = math.sqrt(residual / np.square(places - places.mean()).sum())
    return float(-slope), float(stdtrit(freedom, 0.975) * error)


def draw(record: SharpnessRecord) -> "Figure":
    """Left: float64 against the bound in real arithmetic, with the rate. Right: the formats and their bounds."""
    figure = new_figure(PAGE, 2.5)
    left, right = figure.subplots(1, 2, sharey=True)
    places = [point.sharpness for point in record.points]
    bound = [point.bounds["real"] or math.nan for point in record.points]
    left.semilogy(places, bound, "--", color=GREY, label="certified, real arithmetic")
    found = [point.found["float64"] for point in record.points]
    colour = FORMAT_COLOURS["float64"]
    left.semilogy(places, found, FORMAT_MARKERS["float64"], color=colour, label="worst found, float64")
    middle = record.points[len(record.points) // 2]
    ends = [middle.sharpness - 3, middle.sharpness + 1]
    line = [middle.found["float64"] / 30 * math.exp(RATE * (middle.sharpness - at)) for at in ends]
    left.semilogy(ends, line, color=GREY, linewidth=0.8)
    between = (sum(ends) / 2, math.sqrt(line[0] * line[1]))
    rate, fit = rf"theorem: $e^{{-{RATE}\lambda}}$", rf"fit: $e^{{-{fitted_rate(record)[0]:.2f}\lambda}}$"
    left.annotate(f"{rate}\n{fit}", between, (-6, -4), textcoords="offset points", ha="right", va="top", color=GREY)
    left.set_xlabel(LAMBDA)
    left.set_ylabel(f"error {ERROR}")
    left.legend(loc="upper right")
    panel(left, "a", "real arithmetic")
    for form in ("float32", "float16", "bfloat16"):
        colour = FORMAT_COLOURS[form]
        bounds = [point.bounds.get(form) or math.nan for point in record.points]
        right.semilogy(places, bounds, "--", color=colour, label=f"certified, {form}")
        worst = [point.found[form] or math.nan for point in record.points]
        right.semilogy(places, worst, FORMAT_MARKERS[form], color=colour, label=f"worst found, {form}")
    right.set_xlabel(LAMBDA)
    right.tick_params(labelleft=False)
    right.legend(loc="lower left")
    panel(right, "b", "as executed")
    return figure


def caption(record: SharpnessRecord) -> str:
    """What is proved and what is measured."""
    missing = {
        form: [point.sharpness for point in record.points if point.bounds.get(form) is None]
        for form in ("real", "float32", "float16", "bfloat16")
    }
    none = "; ".join(f"{form}: lambda up to {max(places):g}" for form, places in missing.items() if places)
    rate, half = fitted_rate(record)
    ratios = [point.bounds["real"] / point.found["float64"] for point in record.points if point.bounds["real"]]
    return (
        f"Error against sharpness, for {record.suite} with K={record.tasks} tasks, V={record.alphabet_size} tokens, "
        f"n={record.inputs} inputs and m={record.examples} examples. Points, measured: the worst of {record.samples} "
        "random prompts and an ascent from them. Dashed, proved: the certified bound for every prompt, in real "
        f"arithmetic (a) and as executed (b). The theorem's rate is exp(-{RATE} lambda); the points of (a) between "
        f"lambda {FIRST:g} and {LAST:g} fit exp(-({rate:.3f} +- {half:.3f}) lambda) (n = {len(fitted_points(record))}, "
        f"95% interval), and the bound is {min(ratios):.2f} to {max(ratios):.2f} times what was found. A format's "
        "error levels off at its rounding, "
        "where leaks are lost in it." + (f" No claim ({none})." if none else "")
    )
