"""Figure `residual-stream`: the named subspaces, and which part of each layer reads and writes them."""

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np

from construct.sparse import Sparse
from construct.theorems import Construction
from construct.transformer import TransformerWeights
from paper_figures.inputs import Inputs
from paper_figures.records import Record
from paper_figures.style import GREY, LIGHT, PAGE, PALETTE, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Part = Literal["E", "P", "Q", "K", "V", "O", "W1", "W2", "U"]
READS = ("Q", "K", "V", "W1", "U")


class Touch(Record, frozen=True, kw_only=True):
    """One matrix that has entries other than 0 at a subspace.

    Args:
        stage: the index of the stage.
        subspace: the index of the subspace.
        part: which matrix: it reads (Q, K, V, W1, U) or writes (E, P, O, W2).
        weights: how many entries are not 0 there.
    """

    stage: Annotated[int, msgspec.Meta(ge=0)]
    subspace: Annotated[int, msgspec.Meta(ge=0)]
    part: Part
    weights: Annotated[int, msgspec.Meta(ge=1)]


class SpaceRow(Record, frozen=True, kw_only=True):
    """A subspace: its name and the number of its coordinates."""

    name: str
    size: Annotated[int, msgspec.Meta(ge=1)]


class ResidualStreamRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: subspaces from top to bottom, stages from left to right."""

    suite: str
    theorem: str
    d_model: int
    stages: Annotated[list[str], msgspec.Meta(min_length=3)]
    circuits: list[list[str]]
    subspaces: Annotated[list[SpaceRow], msgspec.Meta(min_length=1)]
    touches: list[Touch]


RECORD = ResidualStreamRecord


def collect(inputs: Inputs) -> ResidualStreamRecord:
    """Read the weights: what is not 0 where."""
    construction = inputs.construction
    stream, weights = construction.stream, construction.weights
    names = [name for name, space in stream.items() if space.size]
    stages, matrices = _stages(weights)
    touches = []
    for stage, parts in enumerate(matrices):
        for part, counts in parts:
            for index, name in enumerate(names):
                inside = int(counts[stream[name].coordinates].sum())
                if inside:
                    touches.append(Touch(stage=stage, subspace=index, part=part, weights=inside))
    return ResidualStreamRecord(
        suite=construction.task_set.name,
        theorem=construction.theorem,
        d_model=stream.d_model,
        stages=stages,
        circuits=_circuits(construction, len(stages)),
        subspaces=[SpaceRow(name=name, size=stream[name].size) for name in names],
        touches=touches,
    )


def _stages(weights: TransformerWeights) -> tuple[list[str], list[list[tuple[Part, "NDArray[np.int_]"]]]]:
    """The stages, and for each its matrices with the number of entries that are not 0, by coordinate."""
    stages = ["embed"]
    matrices: list[list[tuple[Part, NDArray[np.int_]]]] = [
        [("E", _columns(weights.token_embedding)), ("P", _columns(weights.position_embedding))]
    ]
    for number, layer in enumerate(weights.layers, start=1):
        attention, mlp = layer.attention, layer.mlp
        if weights.heads[number - 1]:
            heads = weights.heads[number - 1]
            stages.append(f"layer {number}\nattention\n{heads} head{'s' * (heads > 1)}")
            parts: list[tuple[Part, NDArray[np.int_]]] = [
                ("Q", np.count_nonzero(attention.query, axis=(0, 2))),
                ("K", np.count_nonzero(attention.key, axis=(0, 2))),
                ("V", np.count_nonzero(attention.value, axis=(0, 2))),
                ("O", np.count_nonzero(attention.output, axis=(0, 1))),
            ]
            matrices.append(parts)
        if weights.mlp_width[number - 1]:
            stages.append(f"layer {number}\nMLP\n{weights.mlp_width[number - 1]:,} units")
            written = _columns(mlp.w_out) + (mlp.bias_out != 0)
            matrices.append([("W1", _columns(mlp.w_in.T.tocsr())), ("W2", written)])
    stages.append("unembed")
    matrices.append([("U", _columns(weights.unembedding.T.tocsr()))])
    return stages, matrices


def _columns(matrix: Sparse) -> "NDArray[np.int_]":
    """Entries that are not 0, by column."""
    return np.bincount(matrix.tocoo().coords[1][matrix.tocoo().data != 0], minlength=matrix.shape[1])


def _circuits(construction: Construction, stages: int) -> list[list[str]]:
    """What the circuits of each stage are called, as the construction describes them."""
    found: dict[tuple[int, str], list[str]] = {}
    for circuit in construction.circuits:
        found.setdefault((circuit.layer, circuit.kind), []).append(circuit.name)
    inner = [found[key] for key in sorted(found, key=lambda key: (key[0], key[1] != "attention"))]
    return [[], *inner, []] if len(inner) == stages - 2 else [[] for _ in range(stages)]


def step(names: list[str]) -> str:
    """What a stage does: the names of its circuits without what tells them apart."""
    return ", ".join(list(dict.fromkeys(name.split("[")[0] for name in names))[:2])


def draw(record: ResidualStreamRecord) -> "Figure":
    """A grid of subspaces by stages: filled squares where a stage writes, open circles where it reads."""
    rows, columns = len(record.subspaces), len(record.stages)
    figure = new_figure(PAGE, 1.15 + 0.235 * rows)
    axes = figure.subplots()
    size = 6.0 if columns <= 7 else 4.8
    first: dict[int, int] = {}
    for touch in record.touches:
        if touch.part not in READS:
            first[touch.subspace] = min(touch.stage, first.get(touch.subspace, columns))
    for row in range(rows):
        axes.plot(
            [first.get(row, 0), columns - 1], [row, row], color=LIGHT, linewidth=3.5, solid_capstyle="round", zorder=0
        )
    for row in range(rows):
        for stage in range(columns):
            parts = [touch.part for touch in record.touches if (touch.subspace, touch.stage) == (row, stage)]
            read = [part for part in parts if part in READS]
            written = [part for part in parts if part not in READS]
            if read:
                axes.plot(stage - 0.16, row, "o", color=PALETTE[0], markerfacecolor="white", markersize=5, zorder=2)
                axes.annotate(
                    ",".join(read),
                    (stage - 0.21, row),
                    (-4, 0),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    fontsize=size,
                    color=PALETTE[0],
                )
            if written:
                axes.plot(stage + 0.16, row, "s", color=PALETTE[1], markersize=5, zorder=2)
                axes.annotate(
                    ",".join(written),
                    (stage + 0.21, row),
                    (4, 0),
                    textcoords="offset points",
                    ha="left",
                    va="center",
                    fontsize=size,
                    color=PALETTE[1],
                )
    axes.set_yticks(range(rows), [plain(f"{space.name}  ({space.size})") for space in record.subspaces])
    axes.set_ylabel("subspace (coordinates)")
    axes.set_xticks(range(columns), record.stages)
    axes.set_xlabel("part of the forward pass, from left to right (size)")
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    axes.set_xlim(-0.55, columns - 0.45)
    axes.set_ylim(rows - 0.1, -0.6)
    for stage, names in enumerate(record.circuits):
        axes.annotate(plain(step(names)), (stage, rows - 0.35), ha="center", va="center", style="italic", color=GREY)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for stage in range(columns - 1):
        axes.axvline(stage + 0.5, color=GREY, linewidth=0.4, linestyle=":")
    read_label = axes.plot(
        [], [], "o", color=PALETTE[0], markerfacecolor="white", label="read: query, key, value, MLP in, unembedding"
    )
    written_label = axes.plot([], [], "s", color=PALETTE[1], label="written: token, position, attention out, MLP out")
    axes.legend(handles=[*read_label, *written_label], loc="upper center", bbox_to_anchor=(0.45, -0.01), ncols=2)
    return figure


def caption(record: ResidualStreamRecord) -> str:
    """What is drawn."""
    stages = [
        f"{stage.splitlines()[0]} {stage.splitlines()[1]}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
        for stage, names in zip(record.stages, record.circuits, strict=True)
        if names
    ]
    return (
        f"The residual stream of the {record.theorem} construction of the suite {record.suite}: its named, disjoint "
        f"subspaces (rows, with the number of coordinates; d_model = {record.d_model}) and the stages of a forward "
        "pass (columns). A circle marks a subspace that a matrix reads, a square one that it writes; a bar begins "
        "where a subspace is first written. Read off the stored weights: a mark stands where a matrix has an entry "
        "other than "
        f"0. Circuits: {'; '.join(stages)}."
    )
