"""Figure `in-context-learning-curve`: evidence and mixture after each example of one prompt."""

from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

import msgspec

from construct.oracle import answer
from construct.prediction import Predictor
from construct.prompts import Example, Prompt
from construct.theorems import Construction
from paper_figures.inputs import SUITE, Inputs
from paper_figures.records import Record
from paper_figures.style import BLACK, GREY, LIGHT, PAGE, new_figure, panel, plain, task_colour, task_marker

if TYPE_CHECKING:
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
    prompt = _with_unexplained(construction, inputs.prompt)
    given = [task.answer(prompt.query) for task in task_set.tasks]
    tokens = list(dict.fromkeys(token for token in given if token is not None))
    prompts = [Prompt(prompt.examples[:seen], prompt.query) for seen in range(len(prompt.examples) + 1)]
    predictions = Predictor(construction).predict(prompts)
    text = task_set.alphabet.__getitem__
    steps = []
    for part, prediction in zip(prompts, predictions, strict=True):
        exact, last = answer(task_set, part), part.examples[-1] if part.examples else None
        steps.append(
            Step(
                example="" if last is None else f"{' '.join(map(text, last.inputs))}->{text(last.answer)}",
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
        query=task_set.format.separator.join(map(text, prompt.query)),
        tasks=[task.name for task in task_set.tasks],
        answers=[text(token) for token in tokens],
        answer_tasks=[given.index(token) for token in tokens],
        steps=steps,
    )


def _with_unexplained(construction: Construction, prompt: Prompt) -> Prompt:
    """The prompt with two examples that no task explains, where its tokens are those of the country suite."""
    task_set, examples = construction.task_set, list(prompt.examples)
    if task_set.name != SUITE or len(examples) + len(UNEXPLAINED) > construction.layout.examples:
        return prompt
    for place, (left, right) in zip((3, 8), UNEXPLAINED, strict=True):
        examples.insert(place, Example((task_set.ids[left],), task_set.ids[right]))
    return Prompt(tuple(examples), prompt.query)


def draw(record: LearningCurveRecord) -> "Figure":
    """Evidence per task, the mixture as stacked bars with the output as points, and which task explains what."""
    steps, shown = record.steps, range(len(record.steps))
    figure = new_figure(PAGE, 3.7)
    ratios = (2.0, 0.16 * len(record.tasks) + 0.3)
    grid = figure.subplot_mosaic([["a", "b"], ["c", "b"]], height_ratios=ratios)
    evidence, mixture, explained = grid["a"], grid["b"], grid["c"]
    for index, name in enumerate(record.tasks):
        colour = task_colour(index)
        evidence.plot(shown, [step.exact[index] for step in steps], color=colour, linewidth=0.9, drawstyle="default")
        values = [step.model[index] for step in steps]
        evidence.plot(shown, values, task_marker(index), color=colour, label=plain(name))
    evidence.set_ylim(-0.04, 1.04)
    evidence.set_ylabel("evidence (share)")
    evidence.legend(title="task", loc="upper right", title_fontsize=6.5, ncols=3)
    panel(evidence, "a", "evidence: exact (line), model (points)")
    base, output_base = [0.0] * len(steps), [0.0] * len(steps)
    for name, task in zip(record.answers, record.answer_tasks, strict=True):
        heights = [step.mixture[name] for step in steps]
        colour = task_colour(task)
        mixture.bar(shown, heights, bottom=base, width=0.75, color=colour, alpha=0.45, label=plain(name))
        base = [low + height for low, height in zip(base, heights, strict=True)]
        output_base = [low + step.output[name] for low, step in zip(output_base, steps, strict=True)]
        tops = [(at, top) for at, top, height in zip(shown, output_base, heights, strict=True) if height > 0]
        mixture.plot([at for at, _ in tops], [top for _, top in tops], "_", color=BLACK, markersize=7)
    mixture.set_ylim(0, max(1.04, *(low * 1.04 for low in base)))
    mixture.axhline(1.0, color=GREY, linewidth=0.5, linestyle=":")
    mixture.set_ylabel("weight q of the answers, stacked")
    columns = min(3, len(record.answers))
    mixture.legend(
        title=plain(f"answer to {record.query}"),
        title_fontsize=6.5,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=columns,
    )
    mixture.set_xticks(list(shown))
    mixture.set_xlabel("examples seen")
    panel(mixture, "b", "target (bars), output (dashes)")
    for at, step in enumerate(steps[1:], start=1):
        for index in range(len(record.tasks)):
            hit = index in step.explained_by
            face = task_colour(index) if hit else LIGHT
            explained.plot(at, index, task_marker(index) if hit else ".", color=face)
        if not step.explained_by:
            explained.axvspan(at - 0.5, at + 0.5, color=LIGHT, alpha=0.6, linewidth=0, zorder=0)
    explained.set_yticks(range(len(record.tasks)), [plain(name) for name in record.tasks])
    explained.set_ylim(len(record.tasks) - 0.5, -0.5)
    explained.set_xticks(
        list(shown)[1:],
        [plain(step.example) for step in steps[1:]],
        rotation=60,
        ha="right",
        rotation_mode="anchor",
        fontsize=5.5,
    )
    explained.set_xlabel("example (grey: explained by no task)")
    panel(explained, "c", "which tasks explain the example")
    for axes in (evidence, explained):
        axes.set_xlim(-0.5, len(steps) - 0.5)
    evidence.set_xticks(list(shown), [str(at) for at in shown])
    evidence.set_xlabel("examples seen")
    return figure


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
        "to tasks without an answer. (c) Which tasks explain which example. Measured: the largest distance of output "
        f"and target, summed over the answers, is {worst:.1g} on this prompt."
    )
