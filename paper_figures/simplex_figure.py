"""Figure `simplex`: three tasks, every mixture of m' examples, target and output."""

import math
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from construct.errors import InputError
from construct.oracle import answer
from construct.prediction import Predictor
from construct.prompts import Example, Prompt
from construct.tasks import TableTask, TaskSet
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.style import BLACK, ERROR, GREY, PAGE, new_figure, panel, plain, task_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXAMPLES = 12
"""m' of every prompt: 91 mixtures."""

FORMATS = ("float32", "bfloat16")


class Mixture(Record, frozen=True, kw_only=True):
    """One prompt: how many examples of each task, the exact target and the outputs at the three answers."""

    counts: Annotated[list[int], msgspec.Meta(min_length=3, max_length=3)]
    target: Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]
    output: dict[str, Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]]
    error: dict[str, float]


class SimplexRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: three tasks, the query, the bounds by format and the mixtures."""

    suite: str
    query: str
    tasks: Annotated[list[str], msgspec.Meta(min_length=3, max_length=3)]
    examples: Annotated[int, msgspec.Meta(ge=1)]
    bounds: dict[str, float | None]
    mixtures: Annotated[list[Mixture], msgspec.Meta(min_length=3)]

    def __post_init__(self) -> None:
        """Refuse mixtures of another number of examples."""
        for mixture in self.mixtures:
            if sum(mixture.counts) != self.examples:
                raise ValueError(f"a mixture has {sum(mixture.counts)} examples, expected {self.examples}")


RECORD = SimplexRecord


def collect(inputs: Inputs) -> SimplexRecord:
    """A prompt for each mixture of the first three tasks, with examples that one of them alone explains."""
    construction = inputs.construction
    task_set = construction.task_set
    size = min(EXAMPLES, construction.layout.examples)
    query, drawn = _examples(task_set, size)
    counts = [(first, second, size - first - second) for first in range(size + 1) for second in range(size + 1 - first)]
    prompts = [
        Prompt(tuple(example for task, count in enumerate(each) for example in drawn[task][:count]), query)
        for each in counts
    ]
    answers = [task.answer(query) for task in task_set.tasks[:3]]
    mixtures: list[dict[str, Any]] = [{"output": {}, "error": {}} for _ in prompts]
    for form in FORMATS:
        for prompt, mixture, found in zip(
            prompts, mixtures, Predictor(construction, dtype=form).predict(prompts), strict=True
        ):
            output = {token: share * found.explained for token, share in found.distribution.items()}
            exact = {task_set.alphabet[t]: float(share) for t, share in answer(task_set, prompt).target.items()}
            mixture["output"][form] = [output.get(task_set.alphabet[token or 0], 0.0) for token in answers]
            mixture["error"][form] = sum(
                abs(output.get(token, 0.0) - exact.get(token, 0.0)) for token in output.keys() | exact.keys()
            )
    proof = inputs.verdict.proof
    return SimplexRecord(
        suite=task_set.name,
        query=task_set.format.separator.join(task_set.alphabet[token] for token in query),
        tasks=[task.name for task in task_set.tasks[:3]],
        examples=size,
        bounds={form: proof.rounded.get(form) for form in FORMATS},
        mixtures=[
            Mixture(counts=list(each), target=[count / size for count in each], **mixture)
            for each, mixture in zip(counts, mixtures, strict=True)
        ],
    )


def _examples(task_set: TaskSet, size: int) -> tuple[tuple[int, ...], list[list[Example]]]:
    """A query with three answers, and for each task `size` examples that no other of the set explains."""
    tasks = task_set.tasks
    if len(tasks) < 3 or not all(isinstance(task, TableTask) and len(task.rows) > size for task in tasks[:3]):
        raise InputError(f"the figure simplex needs three tables of more than {size} rows: {task_set.name} has others")
    first = tasks[0]
    assert isinstance(first, TableTask)
    queries: list[tuple[int, ...]] = []
    found: list[list[Example]] = [[], [], []]
    for row in first.rows:
        inputs = _spread(row, first.reads, task_set.inputs)
        given = [task.answer(inputs) for task in tasks]
        if None in given[:3] or len(set(given[:3])) < 3:
            continue
        if not queries:
            queries.append(inputs)
            continue
        for index in range(3):
            answered = given[index]
            if given.count(answered) == 1 and answered is not None:
                found[index].append(Example(inputs, answered))
    if not queries or min(map(len, found)) < size:
        raise InputError(f"the figure simplex needs {size} examples of each task that no other explains: choose others")
    return queries[0], found


def _spread(row: tuple[int, ...], reads: tuple[int, ...], inputs: int) -> tuple[int, ...]:
    """The inputs of an example that has a row of a table at the positions read, and its first token elsewhere."""
    spread = [row[0]] * inputs
    for position, token in zip(reads, row, strict=True):
        spread[position] = token
    return tuple(spread)


def draw(record: SimplexRecord) -> "Figure":
    """Target and output over the simplex; beside it the error of each mixture in each format."""
    figure = new_figure(PAGE, 2.75)
    grid: Any = figure.subplots(1, 3, width_ratios=(1, 1, 1))
    both, *errors = grid
    _triangle(both, record)
    for mixture in record.mixtures:
        x, y = _place(mixture.target)
        both.plot(x, y, "o", markerfacecolor="none", color=GREY, markersize=5.2, markeredgewidth=0.6)
        x, y = _place([share / sum(mixture.output["bfloat16"]) for share in mixture.output["bfloat16"]])
        blend = _blend(mixture.target)
        both.plot(x, y, "o", color=blend, markersize=3)
    ring = both.plot([], [], "o", markerfacecolor="none", color=GREY, markersize=5.2, markeredgewidth=0.6)
    dot = both.plot([], [], "o", color=GREY, markersize=3)
    labels = ("exact target q", "output in bfloat16, coloured by q")
    key = both.legend([*ring, *dot], labels, loc="upper center", bbox_to_anchor=(0.5, -0.02))
    key.set_in_layout(False)  # it stands beside the colour bars
    panel(both, "a", "every mixture")
    for axes, form, letter in zip(errors, FORMATS, "bc", strict=True):
        _triangle(axes, record)
        places = [_place(mixture.target) for mixture in record.mixtures]
        values = [mixture.error[form] for mixture in record.mixtures]
        power = math.floor(math.log10(max(values))) if max(values) > 0 else 0
        scaled = [value / 10.0**power for value in values]
        points = axes.scatter([x for x, _ in places], [y for _, y in places], c=scaled, s=22, cmap="cividis", vmin=0)
        bar = figure.colorbar(points, ax=axes, orientation="horizontal", shrink=0.85, pad=0.04, aspect=25)
        bar.set_label(rf"error {ERROR}, in units of $10^{{{power}}}$")
        bar.outline.set_linewidth(0.4)
        bound = record.bounds.get(form)
        panel(axes, letter, f"{form}: " + ("no claim" if bound is None else f"certified {bound:.1e}"))
    return figure


def _triangle(axes: "Axes", record: SimplexRecord) -> None:
    corners = [_place([float(index == corner) for index in range(3)]) for corner in range(3)]
    ring = [*corners, corners[0]]
    axes.plot([x for x, _ in ring], [y for _, y in ring], color=BLACK, linewidth=0.6, zorder=0)
    offsets = ((-2, -9, "left"), (2, -9, "right"), (0, 5, "center"))
    for index, ((x, y), (right, up, side)) in enumerate(zip(corners, offsets, strict=True)):
        axes.annotate(
            plain(record.tasks[index]),
            (x, y),
            (right, up),
            textcoords="offset points",
            ha=side,
            color=task_colour(index),
            fontweight="bold",
            annotation_clip=False,
        )
    axes.set_aspect("equal")
    axes.set_xlim(-0.08, 1.08)
    axes.set_ylim(-0.16, 1.02)
    axes.set_axis_off()


def _place(shares: list[float]) -> tuple[float, float]:
    """Barycentric coordinates in the plane."""
    return shares[1] + shares[2] / 2, shares[2] * math.sqrt(3) / 2


def _blend(shares: list[float]) -> tuple[float, float, float]:
    """The colours of the tasks, mixed as the tasks are."""
    from matplotlib.colors import to_rgb

    colours = [to_rgb(task_colour(index)) for index in range(3)]
    red, green, blue = (
        sum(share * colour[channel] for share, colour in zip(shares, colours, strict=True)) for channel in range(3)
    )
    return red, green, blue


def caption(record: SimplexRecord) -> str:
    """What is proved and what is measured."""
    worst = {form: max(mixture.error[form] for mixture in record.mixtures) for form in FORMATS}
    proved = "; ".join(
        f"{form} no claim" if (bound := record.bounds.get(form)) is None else f"{form} at most {bound:.2g}"
        for form in FORMATS
    )
    return (
        f"All {len(record.mixtures)} mixtures of {record.examples} examples of three tasks ({', '.join(record.tasks)}) "
        f"of the suite {record.suite}, each example explained by one task alone; one prompt each, the query is "
        f"{record.query!r}. (a) Exact target (rings) and the model's output, bfloat16, normalised (dots, coloured by "
        "the mixture). (b, c) Measured error of the output, summed over all answers: at most "
        f"{worst['float32']:.1g} in float32 and {worst['bfloat16']:.1g} in bfloat16. Proved for every prompt: {proved}."
    )
