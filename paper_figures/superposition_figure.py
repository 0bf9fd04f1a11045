"""Figure `superposition`: target and output per answer on one mixed prompt, with the certified error."""

from typing import TYPE_CHECKING, Annotated

import msgspec

from construct.errors import InputError
from construct.oracle import answer
from construct.prediction import Predictor
from construct.prompts import format_prompt
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.style import (
    BLACK,
    FORMAT_COLOURS,
    FORMAT_MARKERS,
    GREY,
    PAGE,
    new_figure,
    panel,
    plain,
    task_colour,
    tint,
)
from verify.certify import log10_prompts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("float64", "float32")
SHOWN = 8
"""Answers drawn, the largest first."""

FLOOR = 1e-12
"""Smaller errors are drawn at the left edge."""

Share = Annotated[float, msgspec.Meta(ge=0.0)]


class AnswerRow(Record, frozen=True, kw_only=True):
    """One answer of the alphabet.

    Args:
        token: the answer.
        target: q at it, exact, as text (a fraction) and as a number.
        share: the same as a number.
        tasks: the indices of the tasks that give it.
        output: format -> the model's output at it.
    """

    token: str
    target: str
    share: Share
    tasks: list[int]
    output: dict[str, float]


class SuperpositionRecord(Record, frozen=True, kw_only=True):
    """What the figure shows.

    Args:
        suite: the tasks' name.
        tasks: their names.
        prompt: the prompt as text.
        query: the query's input.
        examples: m'.
        answers: those of a task with evidence, the largest target first.
        bounds: "real" and "float32" -> the certified bound on |q_hat - q|_1 over all prompts; null where none is.
        log10_prompts: of the number of prompts that the bound is for.
        largest_examples: m.
    """

    suite: str
    tasks: list[str]
    prompt: str
    query: str
    examples: int
    answers: Annotated[list[AnswerRow], msgspec.Meta(min_length=1)]
    bounds: dict[str, float | None]
    log10_prompts: float
    largest_examples: int


RECORD = SuperpositionRecord


def collect(inputs: Inputs) -> SuperpositionRecord:
    """Run the prompt in both formats, and prove the bound."""
    construction, prompt = inputs.construction, inputs.prompt
    task_set, exact = construction.task_set, answer(construction.task_set, prompt)
    if not exact.target:
        raise InputError(
            "the figure superposition needs a prompt with an example that some task explains: give another"
        )
    outputs = {}
    for form in FORMATS:
        (prediction,) = Predictor(construction, dtype=form).predict([prompt])
        outputs[form] = {token: share * prediction.explained for token, share in prediction.distribution.items()}
    given = [task.answer(prompt.query) for task in task_set.tasks]
    rows = [
        AnswerRow(
            token=task_set.alphabet[token],
            target=str(share),
            share=float(share),
            tasks=[index for index, each in enumerate(given) if each == token and exact.evidence[index]],
            output={form: outputs[form].get(task_set.alphabet[token], 0.0) for form in FORMATS},
        )
        for token, share in sorted(exact.target.items(), key=lambda item: -item[1])
    ]
    bounds = inputs.verdict.proof
    return SuperpositionRecord(
        suite=task_set.name,
        tasks=[task.name for task in task_set.tasks],
        prompt=format_prompt(prompt, task_set),
        query=task_set.format.separator.join(task_set.alphabet[token] for token in prompt.query),
        examples=len(prompt.examples),
        answers=rows,
        bounds={"real": bounds.real, "float32": bounds.rounded.get("float32")},
        log10_prompts=round(log10_prompts(construction), 1),
        largest_examples=construction.layout.examples,
    )


def draw(record: SuperpositionRecord) -> "Figure":
    """Bars of the target with the output's points; beside them the errors, with the certified bounds."""
    rows = record.answers[:SHOWN]
    figure = new_figure(PAGE, 1.05 + 0.26 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    for place, row in zip(places, rows, strict=True):
        colour = task_colour(row.tasks[0]) if row.tasks else GREY
        left.barh(place, row.share, height=0.62, color=tint(colour), edgecolor=colour, linewidth=0.6)
        label = f"{row.target}  {' + '.join(record.tasks[index] for index in row.tasks)}"
        left.annotate(plain(label), (row.share, place), (5, 0), textcoords="offset points", va="center", fontsize=6.5)
    left.plot([row.output["float32"] for row in rows], places, "D", color=BLACK, label="output, float32", zorder=3)
    left.set_yticks(list(places), [plain(row.token) for row in rows])
    left.invert_yaxis()
    left.set_xlim(0, max(row.share for row in rows) * 1.45)
    left.set_xlabel("weight of the answer (bars: exact target q)")
    left.set_ylabel(plain(f"answer to {record.query}"))
    panel(left, "a", f"target and output, {record.examples} examples")
    claims = (("float64", "real", "real arithmetic", -0.15), ("float32", "float32", "float32", 0.15))
    for form, claim, words, shift in claims:
        errors = [max(abs(row.output[form] - row.share), FLOOR) for row in rows]
        at = [place + shift for place in places]
        colour = FORMAT_COLOURS[form]
        right.plot(errors, at, FORMAT_MARKERS[form], color=colour, label=f"error here, {form}", zorder=3, clip_on=False)
        bound = record.bounds.get(claim)
        if bound is not None:
            intervals = right.barh(at, [bound - FLOOR] * len(at), left=FLOOR, height=0.24, color=tint(colour, 0.25))
            intervals.set_label(f"certified interval, {words}")
    right.set_xscale("log")
    right.set_xlim(left=FLOOR)
    right.tick_params(labelleft=False)
    right.set_xlabel("distance of output and target at the answer")
    panel(right, "b", "error here, and certified for every prompt")
    handles, labels = (
        left_part + right_part
        for left_part, right_part in zip(
            left.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True
        )
    )
    figure.legend(handles, labels, loc="outside lower center", ncols=5, columnspacing=1.0, handletextpad=0.4)
    return figure


def caption(record: SuperpositionRecord) -> str:
    """What is proved and what is measured."""
    real, single = record.bounds["real"], record.bounds["float32"]
    proved = "not proved" if real is None else f"at most {real:.2g} in real arithmetic"
    executed = "no claim in float32" if single is None else f"at most {single:.2g} as executed in float32"
    missing = len(record.answers) - SHOWN
    return (
        "Superposition on one prompt. (a) Exact target q (bars, with the tasks that give the answer) and output of the "
        f"construction (points, float32) for the query {record.query!r} after {record.examples} examples of the suite "
        f"{record.suite}. (b) Measured: the error at each answer on this prompt, n = 1. Proved: the sum of the errors "
        f"over all answers, |q_hat - q|_1, is {proved} and {executed}, for each of the about "
        f"10^{record.log10_prompts:g} prompts of at most {record.largest_examples} examples: the certified intervals "
        f"begin at 0, left of the scale, where errors below {FLOOR:g} are drawn (the float64 "
        "points round, which the bound in real arithmetic leaves out)."
        + (f" {missing} smaller answers are not drawn." if missing > 0 else "")
    )
