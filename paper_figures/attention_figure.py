"""Figure `attention`: what the heads attend to on a prompt, and which subspaces their matrices join."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from construct.prompts import Layout, Prompt
from construct.residual_stream import ResidualStream
from construct.transformer import AttentionWeights, forward
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.style import GREY, PAGE, new_figure, panel, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

EXAMPLES = 4
"""Examples kept of the prompt, so that every position can be labelled."""

HEADS = 2
"""Heads of a layer that are drawn: the first ones."""

Matrix = Annotated[list[list[float]], msgspec.Meta(min_length=1)]


class HeadRecord(Record, frozen=True, kw_only=True):
    """One head.

    Args:
        name: its layer and what it does.
        pattern: attention probabilities, a row a query, over all positions; 0 after the query.
        query_key: by subspace of the query and of the key, the entry of Wq Wk' that is largest in absolute value.
        value_output: by subspace read and written, the same of Wv Wo.
    """

    name: str
    pattern: Matrix
    query_key: Matrix
    value_output: Matrix


class AttentionRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: positions by role and token, subspaces, and the heads."""

    suite: str
    theorem: str
    sharpness: float
    positions: Annotated[list[str], msgspec.Meta(min_length=2)]
    subspaces: Annotated[list[str], msgspec.Meta(min_length=2)]
    heads: Annotated[list[HeadRecord], msgspec.Meta(min_length=1)]
    heads_left_out: int

    def __post_init__(self) -> None:
        """Refuse matrices of another shape than the positions and subspaces say."""
        for head in self.heads:
            for matrix, size in (
                (head.pattern, len(self.positions)),
                (head.query_key, len(self.subspaces)),
                (head.value_output, len(self.subspaces)),
            ):
                if len(matrix) != size or any(len(row) != size for row in matrix):
                    raise ValueError(f"a matrix of {head.name} is not {size} x {size}")


RECORD = AttentionRecord


def collect(inputs: Inputs) -> AttentionRecord:
    """Run the first examples of the prompt in float64; multiply the matrices of each head."""
    construction = inputs.construction
    stream, layout = construction.stream, construction.layout
    prompt = Prompt(inputs.prompt.examples[:EXAMPLES], inputs.prompt.query)
    trace = forward(construction.weights, layout.ids(prompt))
    names = [name for name, space in stream.items() if space.size]
    described: dict[int, list[str]] = {}
    for circuit in construction.circuits:
        if circuit.kind == "attention":
            described.setdefault(circuit.layer, []).append(circuit.name)
    heads, left_out = [], 0
    for index, layer in enumerate(construction.weights.layers):
        for head in range(min(HEADS, construction.weights.heads[index])):
            query_key, value_output = _blocks(layer.attention, head, stream, names)
            heads.append(
                HeadRecord(
                    name=f"layer {index + 1}, {described[index + 1][head]}",
                    pattern=trace.patterns[index][head].tolist(),
                    query_key=query_key.tolist(),
                    value_output=value_output.tolist(),
                )
            )
        left_out += max(0, construction.weights.heads[index] - HEADS)
    return AttentionRecord(
        suite=construction.task_set.name,
        theorem=construction.theorem,
        sharpness=construction.sharpness,
        positions=_labels(prompt, layout, construction.task_set.alphabet),
        subspaces=names,
        heads=heads,
        heads_left_out=left_out,
    )


def _labels(prompt: Prompt, layout: Layout, alphabet: tuple[str, ...]) -> list[str]:
    labels = ["BOS"]
    for number, example in enumerate(prompt.examples, start=1):
        places = [""] if layout.inputs == 1 else [str(place + 1) for place in range(layout.inputs)]
        labels += [f"x{number}{at and f',{at}'} {alphabet[t]}" for at, t in zip(places, example.inputs, strict=True)]
        labels += [f"EQ{number}", f"y{number} {alphabet[example.answer]}"]
    return [*labels, *(f"x? {alphabet[token]}" for token in prompt.query), "EQ?"]


def _blocks(
    attention: AttentionWeights, head: int, stream: ResidualStream, names: list[str]
) -> tuple["NDArray[np.float64]", "NDArray[np.float64]"]:
    """The entry of Wq Wk' and of Wv Wo that is largest in absolute value, with its sign, by subspaces."""
    query, key, value, output = (
        part[head].astype(np.float64) for part in (attention.query, attention.key, attention.value, attention.output)
    )
    starts = [stream[name].start for name in names]
    found = []
    for left, right in ((query, key.T), (value, output)):
        product = left @ right
        most, least = (
            best.reduceat(best.reduceat(product, starts, axis=0), starts, axis=1) for best in (np.maximum, np.minimum)
        )
        found.append(np.where(most >= -least, most, least))
    return found[0], found[1]


def draw(record: AttentionRecord) -> "Figure":
    """A row a head: its pattern, the subspaces it compares, the subspaces it copies from and to."""
    rows = len(record.heads)
    compared, copied = (
        [joined(np.array(getattr(head, name))) for head in record.heads] for name in ("query_key", "value_output")
    )
    deep = max(len(across) for across, _ in [*compared, *copied])
    wide = [max(2, *(len(down) for _, down in parts)) for parts in (compared, copied)]
    longest = max(map(len, record.positions))
    figure = new_figure(PAGE, rows * (0.75 + 0.03 * longest + 0.1 * len(record.positions)))
    share = 2.6 / max(5, sum(wide))
    grid: Any = figure.subplots(rows, 3, width_ratios=(2.6, *(share * each for each in wide)), squeeze=False)
    letters = iter("abcdefghijklmnopqrstuvwxyz" * rows)
    for head, (pattern, query_key, value_output) in zip(record.heads, grid, strict=True):
        image = pattern.imshow(np.array(head.pattern), cmap="Greys", vmin=0, vmax=1, aspect="auto")
        _ticks(pattern, record.positions, record.positions)
        pattern.spines[:].set_visible(True)
        pattern.set_xlabel("key position")
        pattern.set_ylabel("query position")
        panel(pattern, next(letters), plain(head.name))
        bar = figure.colorbar(image, ax=pattern, shrink=0.7, pad=0.02)
        bar.set_label("attention probability")
        bar.outline.set_linewidth(0.4)
        for axes, matrix, title, across, down in (
            (query_key, head.query_key, "$W_Q W_K^T$", "of the key", "of the query"),
            (value_output, head.value_output, "$W_V W_O$", "written", "read"),
        ):
            _matrix(axes, np.array(matrix), record.subspaces)
            axes.set_xlim(-0.5, wide[0 if axes is query_key else 1] - 0.5)
            axes.set_ylim(deep - 0.5, -0.5)
            axes.set_xlabel(f"subspace {across}")
            axes.set_ylabel(f"subspace {down}", loc="top")
            panel(axes, next(letters), title)
    return figure


def _ticks(axes: "Axes", across: list[str], down: list[str]) -> None:
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks(range(len(across)), [plain(label) for label in across], rotation=90, fontsize=5.5)
    axes.set_yticks(range(len(down)), [plain(label) for label in down], fontsize=5.5)
    axes.tick_params(length=1.5)


def joined(matrix: "NDArray[np.float64]") -> tuple[list[int], list[int]]:
    """The rows and the columns that hold an entry other than 0; all where there is none."""
    rows, columns = np.nonzero(matrix)
    if not len(rows):
        return list(range(matrix.shape[0])), list(range(matrix.shape[1]))
    return sorted({int(row) for row in rows}), sorted({int(column) for column in columns})


def _matrix(axes: "Axes", matrix: "NDArray[np.float64]", names: list[str]) -> None:
    """The subspaces that the matrix joins, with the entries, coloured by their sign."""
    rows, columns = joined(matrix)
    part = matrix[np.ix_(rows, columns)]
    edges = (np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5)
    axes.pcolormesh(*edges, np.sign(part), cmap="RdBu", vmin=-2.5, vmax=2.5, edgecolors=GREY, linewidth=0.3)
    axes.spines[:].set_visible(False)
    for row, column in zip(*np.nonzero(part), strict=True):
        axes.annotate(f"{part[row, column]:.3g}", (column, row), ha="center", va="center")
    _ticks(axes, [names[column] for column in columns], [names[row] for row in rows])


def caption(record: AttentionRecord) -> str:
    """What is drawn."""
    rest = f" {record.heads_left_out} more heads do the same for other inputs." if record.heads_left_out else ""
    return (
        f"The attention heads of the {record.theorem} construction of the suite {record.suite} (sharpness "
        f"{record.sharpness:g}). Left: attention probabilities on the first examples of a prompt (at most {EXAMPLES}) "
        "and its query, measured in float64; positions are labelled by role and token. Middle: the query-key matrix "
        "Wq Wk', right: the value-output matrix Wv Wo, by the named subspaces that they join; a number is the "
        "entry of a block that is largest in absolute value (blue above 0, red below); empty cells, and the "
        f"subspaces that are not named, hold zeros only.{rest}"
    )
