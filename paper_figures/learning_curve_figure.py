"""Figure `in-context-learning-curve`: evidence and mixture after each example of one prompt."""

from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from construct.errors import InputError
from construct.oracle import answer
from construct.prediction import Predictor
from construct.prompts import Example, Prompt
from construct.theorems import Construction
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.style import BLACK, GREY, LIGHT, PAGE, new_figure, panel, plain, task_colour, task_marker, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNEXPLAINED = (("Spain", "Tokyo"), ("Cuba", "Europe"))
"""Put after the third and the seventh example of the country prompt: no task of the suite explains them."""


class Step(Record, frozen=True, kw_only=True):
    """What is known after some examples, for the query of the prompt.

    Args:
        example: the last example as text; empty at the start.
        explained_by: the indices of the tasks that explain it.
        exact: by task, c_k/m'.
        model: by task, the evidence that the model has, float32.
        explained: the sum of the exact answer.
        mixture: by answer, the exact target q.
        output: by answer, the model's output.
    """

    example: str
    explained_by: list[int]
    exact: list[float]
    model: list[float]
    mixture: dict[str, float]
    output: dict[str, float]


class LearningCurveRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: the steps, from no example on."""

    suite: str
    query: str
    tasks: Annotated[list[str], msgspec.Meta(min_length=1)]
    answers: list[str]
    answer_tasks: list[int]
    steps: Annotated[list[Step], msgspec.Meta(min_length=2)]

    def __post_init__(self) -> None:
        """Refuse steps that speak of other tasks or answers."""
        for step in self.steps:
            if not len(step.exact) == len(step.model) == len(self.tasks):
                raise ValueError(f"a step has the evidence of {len(step.exact)} tasks, expected {len(self.tasks)}")
            if not set(step.mixture) == set(step.output) == set(self.answers):
                raise ValueError(f"a step has other answers than {self.answers}")


RECORD = LearningCurveRecord


def collect(inputs: Inputs) -> LearningCurveRecord:
    """Answer the query after 0, 1, 2, ... examples."""
    construction = inputs.construction
    task_set = construction.task_set
    prompt = _with_unexplained(construction, inputs.prompt) if inputs.shows_country else inputs.prompt
    if not prompt.examples:
        raise InputError("the figure in-context-learning-curve needs a prompt with examples: this one has none")
    given = [task.answer(prompt.query) for task in task_set.tasks]
    tokens = list(dict.fromkeys(token for token in given if token is not None))
    prompts = [Prompt(prompt.examples[:seen], prompt.query) for seen in range(len(prompt.examples) + 1)]
    predictions = Predictor(construction).predict(prompts)
    text, separator = task_set.alphabet.__getitem__, task_set.format.separator
    steps = []
    for part, prediction in zip(prompts, predictions, strict=True):
        exact, last = answer(task_set, part), part.examples[-1] if part.examples else None
        steps.append(
            Step(
                example="" if last is None else f"{separator.join(map(text, last.inputs))}->{text(last.answer)}",
                explained_by=[]
                if last is None
                else [i for i, task in enumerate(task_set.tasks) if task.answer(last.inputs) == last.answer],
                exact=[float(share) for share in exact.evidence],
                model=list(prediction.evidence.values()),
                mixture={text(token): float(exact.target.get(token, Fraction(0))) for token in tokens},
                output={
                    text(token): prediction.distribution.get(text(token), 0.0) * prediction.explained
                    for token in tokens
                },
            )
        )
    return LearningCurveRecord(
        suite=task_set.name,
        query=separator.join(map(text, prompt.query)),
        tasks=[task.name for task in task_set.tasks],
        answers=[text(token) for token in tokens],
        answer_tasks=[given.index(token) for token in tokens],
        steps=steps,
    )


def _with_unexplained(construction: Construction, prompt: Prompt) -> Prompt:
    """The prompt of the country suite with two examples that no task explains, where there is room for them."""
    task_set, examples = construction.task_set, list(prompt.examples)
    if len(examples) + len(UNEXPLAINED) > construction.layout.examples:
        return prompt
    for place, (left, right) in zip((3, 8), UNEXPLAINED, strict=True):
        examples.insert(place, Example((task_set.ids[left],), task_set.ids[right]))
    return Prompt(tuple(examples), prompt.query)


def draw(record: LearningCurveRecord) -> "Figure":
    """Over the examples seen: evidence per task, the mixture as stacked bars, and which task explains what."""
    steps = record.steps
    figure = new_figure(PAGE, 4.0 + 0.12 * len(record.tasks))
    ratios = (1.5, 1.5, 0.16 * len(record.tasks) + 0.1)
    grid: Any = figure.subplots(3, 1, sharex=True, height_ratios=ratios)
    evidence, mixture, explained = grid
    _evidence(evidence, record)
    _mixture(mixture, record)
    _explained(explained, record)
    explained.set_xlim(-0.5, len(steps) - 0.5)
    labels = ["no example", *(plain(step.example) for step in steps[1:])]
    explained.set_xticks(
        range(len(steps)),
        [f"{at}  {label}" for at, label in enumerate(labels)],
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    explained.set_xlabel("examples seen, and the last of them (shaded: explained by no task)")
    for axes in grid:
        for at, step in enumerate(steps[1:], start=1):
            if not step.explained_by:
                axes.axvspan(at - 0.5, at + 0.5, color=tint(LIGHT, 0.6), linewidth=0, zorder=0)
    return figure


def _evidence(axes: "Axes", record: LearningCurveRecord) -> None:
    shown = range(len(record.steps))
    for index, name in enumerate(record.tasks):
        colour = task_colour(index)
        axes.plot(shown, [step.exact[index] for step in record.steps], color=colour, linewidth=0.9)
        values = [step.model[index] for step in record.steps]
        axes.plot(shown, values, task_marker(index), color=colour, label=plain(name))
    axes.set_ylim(-0.04, 1.04)
    axes.set_ylabel("evidence (share)")
    axes.legend(title="task", loc="center left", bbox_to_anchor=(1.0, 0.5), title_fontsize=6.5)
    panel(axes, "a", "evidence: exact (line), model (points)")


def _mixture(axes: "Axes", record: LearningCurveRecord) -> None:
    steps, shown = record.steps, range(len(record.steps))
    base, output_base = [0.0] * len(steps), [0.0] * len(steps)
    for name, task in zip(record.answers, record.answer_tasks, strict=True):
        heights = [step.mixture[name] for step in steps]
        axes.bar(shown, heights, bottom=base, width=0.75, color=tint(task_colour(task)), label=plain(name))
        base = [low + height for low, height in zip(base, heights, strict=True)]
        output_base = [low + step.output[name] for low, step in zip(output_base, steps, strict=True)]
        tops = [(at, top) for at, top, height in zip(shown, output_base, heights, strict=True) if height > 0]
        axes.plot([at for at, _ in tops], [top for _, top in tops], "_", color=BLACK, markersize=9)
    axes.set_ylim(0, max(1.04, *(low * 1.04 for low in base)))
    axes.axhline(1.0, color=GREY, linewidth=0.5, linestyle=":")
    axes.set_ylabel("weights q, stacked")
    title = plain(f"answer to {record.query}")
    axes.legend(title=title, loc="center left", bbox_to_anchor=(1.0, 0.5), title_fontsize=6.5, reverse=True)
    panel(axes, "b", "target (bars), output (dashes)")


def _explained(axes: "Axes", record: LearningCurveRecord) -> None:
    for at, step in enumerate(record.steps[1:], start=1):
        for index in range(len(record.tasks)):
            hit = index in step.explained_by
            face = task_colour(index) if hit else GREY
            size = 3.2 if hit else 1.2
            axes.plot(at, index, task_marker(index) if hit else ".", color=face, markersize=size)
    axes.set_yticks(range(len(record.tasks)), [plain(name) for name in record.tasks])
    axes.set_ylim(len(record.tasks) - 0.5, -0.5)
    axes.set_ylabel("task")
    panel(axes, "c", "which tasks explain the example")


def caption(record: LearningCurveRecord) -> str:
    """What is drawn."""
    seen = len(record.steps) - 1
    none = sum(not step.explained_by for step in record.steps[1:])
    worst = max(sum(abs(step.mixture[name] - step.output[name]) for name in record.answers) for step in record.steps)
    return (
        f"In-context learning on one prompt of the suite {record.suite}, after each of its {seen} examples, {none} of "
        "which no task explains. (a) Evidence of each task: the exact share c_k/m' (line) and what the construction "
        f"holds in its residual stream, float32 (points). (b) The answers to {record.query!r}: exact target q, stacked "
        "(bars), and the model's output (dashes). What is missing to 1 belongs to examples that no task explains, or "
        "to tasks without an answer; more than 1 comes from examples that several tasks explain. (c) Which tasks "
        "explain which example. Measured: the largest distance of output "
        f"and target, summed over the answers, is {worst:.1g} on this prompt."
    )
