"""Figure `resources`: layers, heads, width and parameters against K, V, n and m, beside compilers of weights."""

import math
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from construct.seven_layer import seven_layer
from construct.suites import build_suite
from construct.theorems import two_layer
from construct.transformer import TransformerWeights
from construct.vector_suites import random_vector_tasks
from construct.vector_theorem import vectors
from paper_figures.inputs import Inputs
from paper_figures.records import Record, from_json
from paper_figures.style import BLACK, GREY, PAGE, PALETTE, new_figure, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Axis = Literal["K", "V", "n", "m"]
BASE: dict[Axis, int] = {"K": 8, "V": 32, "n": 8, "m": 16}
"""What the compilers were measured at; one of the four grows at a time."""

GROWN: dict[Axis, tuple[int, ...]] = {
    "K": (1, 2, 4, 8, 16, 32, 64),
    "V": (8, 16, 32, 64, 128, 256),
    "n": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "m": (4, 16, 64, 256, 1024),
}
CONSTRUCTIONS = ("two-layer", "vectors", "seven-layer")
COLOURS = {"two-layer": BLACK, "vectors": PALETTE[5], "seven-layer": PALETTE[3]}
MARKERS = {"two-layer": "o", "vectors": "s", "seven-layer": "^"}
SIZES = {"two-layer": 3.6, "vectors": 2.6, "seven-layer": 2.2}
PEERS = {"Tracr": "*", "ALTA": "X"}
PEER_COLOUR = PALETTE[4]
AXES: dict[Axis, str] = {"K": "tasks K", "V": "tokens V (dimension d)", "n": "inputs n", "m": "examples m"}
ROWS = {
    "layers": "layers (number)",
    "heads": "heads (number)",
    "width": "width (coordinates)",
    "parameters": "parameters (number)",
}
LAYERS_OF_THEOREM = 7
Count = Annotated[int, msgspec.Meta(ge=1)]


class Size(Record, frozen=True, kw_only=True):
    """One construction, built and counted.

    Args:
        construction: which.
        grown: which of K, V, n, m differs from the base.
        at: its value.
        layers: their number.
        heads: over all layers.
        width: d_model.
        parameters: entries of all matrices.
        nonzero: those that are not 0.
    """

    construction: Literal["two-layer", "vectors", "seven-layer"]
    grown: Axis
    at: Count
    layers: Count
    heads: Count
    width: Count
    parameters: Count
    nonzero: Count


class Peer(Record, frozen=True, kw_only=True):
    """A model that a compiler of weights made, as measured."""

    tool: Literal["Tracr", "ALTA"]
    program: str
    tasks: Count
    alphabet_size: Count
    inputs: Count
    examples: Count
    layers: Count
    heads: Count
    width: Count
    parameters: Count
    note: str = ""


class Peers(Record, frozen=True, kw_only=True):
    """The compilers' models and where they come from."""

    source: str
    programs: Annotated[list[Peer], msgspec.Meta(min_length=1)]


class ResourcesRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: the base, the constructions' sizes and the peers."""

    base: dict[Axis, Count]
    sizes: Annotated[list[Size], msgspec.Meta(min_length=4)]
    peers: Peers

    def __post_init__(self) -> None:
        """Refuse peers of other sizes than the base, which would stand at the wrong places."""
        for peer in self.peers.programs:
            given = {"K": peer.tasks, "V": peer.alphabet_size, "n": peer.inputs, "m": peer.examples}
            if given != self.base:
                raise ValueError(f"{peer.tool} was measured at {given}, the base is {self.base}")


RECORD = ResourcesRecord


def collect(inputs: Inputs) -> ResourcesRecord:
    """Build each construction at each size, and count."""
    sizes: list[Size] = []
    wanted = [(grown, at, name) for grown, values in GROWN.items() for at in values for name in CONSTRUCTIONS]
    for done, (grown, at, name) in enumerate(wanted):
        inputs.report("resources", done / len(wanted))
        weights = _built(name, {**BASE, grown: at})
        sizes.append(_size(name, grown, at, weights))
    text = files("paper_figures").joinpath("peers.json").read_bytes()
    return ResourcesRecord(base=BASE, sizes=sizes, peers=from_json(Peers, text, "peers.json"))


def _size(name: Any, grown: Axis, at: int, weights: TransformerWeights) -> Size:
    return Size(
        construction=name,
        grown=grown,
        at=at,
        layers=len(weights.layers),
        heads=sum(weights.heads),
        width=weights.d_model,
        parameters=weights.parameters,
        nonzero=weights.nonzero_parameters,
    )


def _built(name: str, sizes: dict[Axis, int]) -> TransformerWeights:
    """The weights: random tables of one input each, or orthogonal maps of R^V compared by attention."""
    if name == "vectors":
        affine = random_vector_tasks("orthogonal", tasks=sizes["K"], dim=sizes["V"], inputs=sizes["n"])
        return vectors(affine, examples=sizes["m"], comparison="attention").weights
    tables = build_suite("lookup", tasks=sizes["K"], alphabet_size=sizes["V"], inputs=sizes["n"])
    build = two_layer if name == "two-layer" else seven_layer
    return build(tables, examples=sizes["m"]).weights


def budget(quantity: str, sizes: dict[Axis, int]) -> float | None:
    """What Theorem 1 of the paper allows: 7 layers, K heads in each, width of the order d + log(mn), drawn as it is."""
    if quantity == "layers":
        return LAYERS_OF_THEOREM
    if quantity == "heads":
        return LAYERS_OF_THEOREM * sizes["K"]
    if quantity == "width":
        return sizes["V"] + math.log2(sizes["m"] * sizes["n"])
    return None


def draw(record: ResourcesRecord) -> "Figure":
    """A row a quantity, a column a size that grows."""
    figure = new_figure(PAGE, 5.6)
    grid: Any = figure.subplots(len(ROWS), len(AXES), sharex="col", sharey="row")
    for row, (quantity, label) in enumerate(ROWS.items()):
        for column, grown in enumerate(AXES):
            axes = grid[row][column]
            _cell(axes, record, quantity, grown)
            if column == 0:
                axes.set_ylabel(label)
            if row == len(ROWS) - 1:
                axes.set_xlabel(AXES[grown])
    for column, grown in enumerate(AXES):
        panel(grid[0][column], "abcd"[column], f"{grown} grows")
    handles, labels = grid[2][0].get_legend_handles_labels()
    more, names = grid[3][0].get_legend_handles_labels()
    for handle, name in zip(more, names, strict=True):
        if name not in labels:
            handles.append(handle)
            labels.append(name)
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _cell(axes: "Axes", record: ResourcesRecord, quantity: str, grown: Axis) -> None:
    from matplotlib.ticker import NullFormatter

    for name in CONSTRUCTIONS:
        points = [size for size in record.sizes if (size.construction, size.grown) == (name, grown)]
        places = [size.at for size in points]
        axes.plot(
            places,
            [getattr(size, quantity) for size in points],
            MARKERS[name] + "-",
            color=COLOURS[name],
            markersize=SIZES[name],
            linewidth=0.9,
            label=name,
        )
        if quantity == "parameters":
            counts = [size.nonzero for size in points]
            axes.plot(places, counts, ":", color=COLOURS[name], linewidth=0.9, label=f"{name}, not 0")
    first = [size.at for size in record.sizes if (size.construction, size.grown) == (CONSTRUCTIONS[0], grown)]
    allowed = [(at, budget(quantity, {**record.base, grown: at})) for at in first]
    values = [value for _, value in allowed if value is not None]
    if values:
        label = "budget of Theorem 1, its constant 1"
        axes.plot(first, values, "--", color=GREY, linewidth=0.9, zorder=3, label=label)
    for peer in record.peers.programs:
        value = getattr(peer, quantity)
        marker, label = PEERS[peer.tool], f"{peer.tool}, measured"
        axes.plot(
            record.base[grown], value, marker, color=PEER_COLOUR, markersize=6, markeredgecolor=BLACK,
            markeredgewidth=0.4, linestyle="none", label=label, zorder=4,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    if quantity == "layers":
        axes.set_ylim(0, 8)
        axes.set_yticks([0, 2, 4, 6, 8])
    else:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())


def caption(record: ResourcesRecord) -> str:
    """What is counted, measured and not known."""
    base = ", ".join(f"{name} = {value}" for name in AXES for value in [record.base[name]])
    at_base = [size for size in record.sizes if size.grown == "m" and size.at == record.base["m"]]
    said = "; ".join(f"{size.construction} {size.parameters:,} ({size.nonzero:,} not 0)" for size in at_base)
    notes = "; ".join(f"{peer.tool}: {peer.note}" for peer in record.peers.programs if peer.note)
    programs = "; ".join(sorted({peer.program for peer in record.peers.programs}))
    return (
        "What the constructions cost. Layers, heads (over all layers), width (d_model) and parameters, counted on the "
        f"weights as built, where one of K, V, n, m grows and the others stay at {base}. Two-layer and seven-layer: "
        "random tables of one input each on V tokens; vectors: orthogonal maps of R^d with d = V, compared by "
        "attention. Solid: all entries of the matrices; dotted: those that are not 0. Dashed: the budget of Theorem 1 "
        "of the paper (7 layers, K heads in each, width of the order d + log(mn)); its constant is not known to us, "
        f"and drawn as 1. Parameters at the base: {said}. Stars and crosses, measured: {programs}, which return one "
        f"answer and not the mixture; {record.peers.source}." + (f" {notes}." if notes else "")
    )
