"""Figure `precision-frontier`: how large a model stays certified at eps in each format, as m, n, V or K grows."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from construct.errors import InputError
from paper_figures.inputs import Inputs
from paper_figures.records import Record, read
from paper_figures.style import ERROR, FORMAT_COLOURS, FORMAT_MARKERS, GREY, PAGE, new_figure, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMMAND = "make bench"
FILE = "results.json"
EPS = 1e-2
"""What `benchmarks.precision` asks: the largest size certified at eps."""

FORMATS = ("float32", "float16", "bfloat16")
Axis = Literal["m", "n", "V", "K"]
Form = Literal["float32", "float16", "bfloat16"]
BASE: dict[Axis, int] = {"m": 15, "n": 3, "V": 7, "K": 2}
"""The sizes of the benchmark that do not grow."""

SPREAD = 1.12
"""A bar reaches so far beyond its outer sizes, so that one size alone is seen."""

TASKS = BASE["K"]
FIELDS: dict[Axis, str] = {"m": "examples", "n": "inputs", "V": "alphabet_size", "K": "tasks"}
AXES: dict[Axis, str] = {"m": "examples m", "n": "inputs n", "V": "tokens V", "K": "tasks K"}
Count = Annotated[int, msgspec.Meta(ge=1)]


class _Sizes(msgspec.Struct, frozen=True):
    """The sizes of a record of the benchmark; its other fields are not read."""

    tasks: int
    alphabet_size: int
    inputs: int
    examples: int


class _Proof(_Sizes, frozen=True):
    bounds: dict[str, float | None]
    seconds: float


class _Search(_Sizes, frozen=True):
    dtype: Form
    worst: float
    samples: int


class _Groups(msgspec.Struct, frozen=True):
    precision: list[dict[str, Any]]


class _Results(msgspec.Struct, frozen=True):
    records: _Groups


class Proved(Record, frozen=True, kw_only=True):
    """A bound for every prompt: which size grows and its value, K where it does not grow, and the bound by format."""

    axis: Axis
    size: Count
    tasks: Count
    bounds: dict[str, float | None]


class Ran(Record, frozen=True, kw_only=True):
    """The worst error found in a format at a size, over random prompts and an ascent from them."""

    axis: Axis
    size: Count
    tasks: Count
    form: Form
    worst: Annotated[float, msgspec.Meta(ge=0)]
    samples: Count


class PrecisionRecord(Record, frozen=True, kw_only=True):
    """What the figure shows: eps, the other sizes, the proofs and the runs."""

    eps: Annotated[float, msgspec.Meta(gt=0)]
    base: dict[Axis, Count]
    longest_proof: Annotated[float, msgspec.Meta(gt=0)]
    proofs: Annotated[list[Proved], msgspec.Meta(min_length=4)]
    runs: list[Ran]

    def __post_init__(self) -> None:
        """Refuse proofs that leave a format out, and a size that nothing was asked about."""
        for proof in self.proofs:
            if missing := [form for form in FORMATS if form not in proof.bounds]:
                raise ValueError(f"the proof at {proof.axis} = {proof.size} says nothing of {missing[0]}")
        if missing := [axis for axis in AXES if all(proof.axis != axis for proof in self.proofs)]:
            raise ValueError(f"there is no proof for growing {missing[0]}")


RECORD = PrecisionRecord


def collect(inputs: Inputs) -> PrecisionRecord:
    """Sort the benchmark's records by the size that grows."""
    path = inputs.file(FILE, COMMAND)
    rows = read(_Results, path).records.precision
    try:
        proofs = [msgspec.convert(row, _Proof) for row in rows if row.get("step") == "prove"]
        searches = [msgspec.convert(row, _Search) for row in rows if row.get("step") == "search"]
    except msgspec.ValidationError as error:
        raise InputError(f"{path} does not hold the benchmark of precision ({error}): `{COMMAND}` makes it") from error
    found = [
        Proved(axis=axis, size=_of(proof, axis), tasks=proof.tasks, bounds=_rounded(proof.bounds))
        for proof in proofs
        for axis in _grown(proof)
    ]
    ran = [
        Ran(axis=axis, size=_of(row, axis), tasks=row.tasks, form=row.dtype, worst=row.worst, samples=row.samples)
        for row in searches
        for axis in _grown(row)
    ]
    longest = max((proof.seconds for proof in proofs), default=0.0)
    return PrecisionRecord(
        eps=EPS,
        base=BASE,
        longest_proof=round(longest, 1) or 0.1,
        proofs=sorted(found, key=lambda each: (each.axis, each.tasks, each.size)),
        runs=sorted(ran, key=lambda each: (each.axis, each.form, each.size)),
    )


def _rounded(bounds: dict[str, float | None]) -> dict[str, float | None]:
    return {form: bounds[form] for form in FORMATS if form in bounds}


def _of(row: _Sizes, axis: Axis) -> int:
    return int(getattr(row, FIELDS[axis]))


def _grown(row: _Sizes) -> list[Axis]:
    """The sizes along which a record lies: all others as in the base, K as it is or 1."""
    found: list[Axis] = []
    for axis in AXES:
        others = [name for name in AXES if name not in (axis, "K")]
        tasks = axis == "K" or row.tasks in (1, TASKS)
        if tasks and all(_of(row, name) == BASE[name] for name in others):
            found.append(axis)
    return found


def lines(axis: str) -> list[tuple[str, int]]:
    """The format and K of each line of a panel: one task is drawn for bfloat16, which has no claim for two."""
    if axis == "K":
        return [(form, 0) for form in FORMATS]
    return [*((form, TASKS) for form in FORMATS), ("bfloat16", 1)]


def along(record: PrecisionRecord, axis: str, form: str, tasks: int) -> list[tuple[int, float]]:
    """The sizes and bounds of a line, ascending; tasks 0 stands for every K. Sizes without a claim have infinity."""
    points = []
    for proof in record.proofs:
        if proof.axis == axis and tasks in (0, proof.tasks):
            bound = proof.bounds[form]
            points.append((proof.size, float("inf") if bound is None else bound))
    return sorted(points)


def draw(record: PrecisionRecord) -> "Figure":
    """Above: the bounds by size, with eps. Below: the sizes certified at eps (filled) and not (hatched)."""
    figure = new_figure(PAGE, 3.7)
    grid: Any = figure.subplots(2, len(AXES), sharex="col", sharey="row", height_ratios=(2.2, 1))
    for column, (axis, label) in enumerate(AXES.items()):
        above, below = grid[0][column], grid[1][column]
        _bounds(above, record, axis)
        _regions(below, record, axis)
        below.set_xlabel(label)
        panel(above, "abcd"[column], f"{axis} grows")
    grid[0][0].set_ylabel(f"error {ERROR}")
    grid[1][0].set_ylabel("format")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _name(form: str, tasks: int) -> str:
    return form if tasks != 1 else f"{form}, K = 1"


def _bounds(axes: "Axes", record: PrecisionRecord, axis: str) -> None:
    for form, tasks in lines(axis):
        points = [(size, bound) for size, bound in along(record, axis, form, tasks) if bound < float("inf")]
        colour = FORMAT_COLOURS[form]
        sizes, bounds = [size for size, _ in points], [bound for _, bound in points]
        style = ":" if tasks == 1 else "-"
        axes.plot(sizes, bounds, style, color=colour, linewidth=0.9, label=f"certified, {_name(form, tasks)}")
        for face, certified in ((colour, True), ("white", False)):
            some = [(size, bound) for size, bound in points if (bound <= record.eps) == certified]
            at, high = [size for size, _ in some], [bound for _, bound in some]
            axes.plot(at, high, FORMAT_MARKERS[form], color=colour, markerfacecolor=face, markersize=2.4)
    for form in FORMATS:
        runs = [run for run in record.runs if (run.axis, run.form) == (axis, form) and run.worst > 0]
        places, worst = [run.size for run in runs], [run.worst for run in runs]
        axes.plot(places, worst, "x", color=FORMAT_COLOURS[form], markersize=3.4, zorder=4)
    axes.plot([], [], "x", color=GREY, label="worst found")
    axes.axhline(record.eps, color=GREY, linestyle="--", linewidth=0.9, zorder=0)
    axes.plot([], [], "--", color=GREY, linewidth=0.9, label=f"eps = {record.eps:g}")
    axes.set_xscale("log")
    axes.set_yscale("log")


def _regions(axes: "Axes", record: PrecisionRecord, axis: str) -> None:
    """Bars over the sizes asked about: what is between two sizes of one kind is taken to be of that kind."""
    rows = [*((form, TASKS) for form in FORMATS), ("bfloat16", 1)]
    for place, (form, tasks) in enumerate(rows):
        if axis == "K" and tasks == 1:
            continue
        points = along(record, axis, form, 0 if axis == "K" else tasks)
        colour = FORMAT_COLOURS[form]
        good = [size for size, bound in points if bound <= record.eps]
        bad = [size for size, bound in points if bound > record.eps]
        if good:
            axes.plot(
                [min(good) / SPREAD, max(good) * (1 if bad else SPREAD)],
                [place, place],
                color=colour,
                linewidth=5,
                solid_capstyle="butt",
            )
        if bad:
            first = min(bad) if good else min(bad) / SPREAD
            axes.barh(
                place,
                max(bad) * SPREAD - first,
                left=first,
                height=0.42,
                color="white",
                edgecolor=GREY,
                hatch="//////",
                linewidth=0.4,
            )
    sizes = [proof.size for proof in record.proofs if proof.axis == axis]
    axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    axes.set_yticks(range(len(rows)), [_name(form, tasks) for form, tasks in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)


def caption(record: PrecisionRecord) -> str:
    """What is proved and what is measured."""
    base = ", ".join(f"{axis} = {size}" for axis in AXES for size in [record.base[axis]])
    ends = []
    for axis in AXES:
        for form, tasks in lines(axis):
            points = along(record, axis, form, tasks)
            good = [size for size, bound in points if bound <= record.eps]
            bad = [size for size, bound in points if bound > record.eps]
            if bad and good:
                ends.append(f"{_name(form, tasks)}: {axis} = {max(good):,}, not {min(bad):,}")
    sizes = [run.samples for run in record.runs]
    runs = f"{min(sizes)} to {max(sizes)} random prompts and an ascent from them" if sizes else "no runs"
    return (
        f"How large a model stays certified at eps = {record.eps:g}, by format. Random tables; one size grows, the "
        f"others stay at {base} (dotted, and the last row: K = 1). Above, proved: the bound on |q_hat - q|_1 for "
        "every prompt as executed in the format, filled where it is at most eps, open where it is not. Crosses, "
        f"measured: the worst of {runs} (0 is not drawn). Below: the sizes asked about that are certified (filled) and "
        "that are not (hatched); not certified does not mean wrong. A bar without a hatched part ends where the next "
        f"proof would have taken more than a minute (the longest took {record.longest_proof:.0f} s). Edges: "
        f"{'; '.join(ends)}. The records: "
        f"`{COMMAND}`."
    )
