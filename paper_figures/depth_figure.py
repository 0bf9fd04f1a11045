"""Figure `depth`: one layer against two, trained and built, as m grows; and what one layer must carry."""

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from construct.suites import build_suite
from paper_figures.inputs import Inputs
from paper_figures.records import Record, read
from paper_figures.style import BLACK, ERROR, GREY, PAGE, PALETTE, new_figure, panel
from verify.summaries import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMMAND = "make depth"
FILE = "one_layer.json"
CONSTANT_WORST = 0.5
"""The largest error of the answer u[x]/2, whatever the examples say."""

TOLERANCES = {"0": range(1, 9), "1/8": range(4, 8), "1/4": range(4, 9)}
"""eps, and the m at which summaries are counted: as in `verify.summaries`."""

LARGEST = 128
ONE, TWO = PALETTE[1], PALETTE[0]
STYLES = {"0": ("-", "o"), "1/8": ("--", "s"), "1/4": (":", "^")}
Error = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class _Built(msgspec.Struct, frozen=True):
    examples: int
    mean_error: float
    largest_error: float
    bound_float32: float
    constant_error: float


class _Run(msgspec.Struct, frozen=True):
    layers: int
    examples: int
    rate: float
    seed: int
    mean_error: float
    searched_error: float


class _Settings(msgspec.Struct, frozen=True):
    heads: int
    mlp_width: int
    steps: int
    test_prompts: int


class _Experiment(msgspec.Struct, frozen=True):
    settings: _Settings
    constructions: list[_Built]
    runs: list[_Run]


class Built(Record, frozen=True, kw_only=True):
    """The two-layer construction at m: measured in float32, proved in float32, and the constant answer's mean error."""

    examples: Count
    mean: Error
    largest: Error
    proved: Error
    constant: Error


class Trained(Record, frozen=True, kw_only=True):
    """One trained model: its mean error, and the largest that a search found."""

    layers: Annotated[int, msgspec.Meta(ge=1, le=2)]
    examples: Count
    rate: float
    seed: int
    mean: Error
    largest: Error


class Needed(Record, frozen=True, kw_only=True):
    """The bits that a message needs at eps: log2 of the summaries counted, and theorem 1's bound."""

    eps: str
    examples: Count
    counted: float
    bound: float


class DepthRecord(Record, frozen=True, kw_only=True):
    """What the figure shows."""

    heads: Count
    mlp_width: Count
    steps: Count
    test_prompts: Count
    built: Annotated[list[Built], msgspec.Meta(min_length=2)]
    trained: Annotated[list[Trained], msgspec.Meta(min_length=2)]
    needed: Annotated[list[Needed], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Refuse a count below the theorem's bound, or trained models without a construction beside them."""
        for need in self.needed:
            if need.counted < need.bound - 1e-9:
                raise ValueError(f"{need.counted} bits at m = {need.examples} are fewer than theorem 1's {need.bound}")
        known = {built.examples for built in self.built}
        if other := sorted({run.examples for run in self.trained} - known):
            raise ValueError(f"a model was trained at m = {other[0]}, where nothing was built")


RECORD = DepthRecord


def collect(inputs: Inputs) -> DepthRecord:
    """Read the experiment, and count the summaries of small instances."""
    experiment = read(_Experiment, inputs.file(FILE, COMMAND))
    identity = build_suite("retrieval", tasks=1, alphabet_size=2, inputs=1)
    wanted = [(eps, examples) for eps, sizes in TOLERANCES.items() for examples in sizes]
    needed = []
    for done, (eps, examples) in enumerate(wanted):
        inputs.report("depth", done / len(wanted))
        counted = math.log2(count(identity, examples, Fraction(eps)).needed)
        needed.append(Needed(eps=eps, examples=examples, counted=counted, bound=bits(eps, examples)))
    return DepthRecord(
        heads=experiment.settings.heads,
        mlp_width=experiment.settings.mlp_width,
        steps=experiment.settings.steps,
        test_prompts=experiment.settings.test_prompts,
        built=[
            Built(
                examples=each.examples,
                mean=each.mean_error,
                largest=each.largest_error,
                proved=each.bound_float32,
                constant=each.constant_error,
            )
            for each in experiment.constructions
        ],
        trained=[
            Trained(
                layers=run.layers,
                examples=run.examples,
                rate=run.rate,
                seed=run.seed,
                mean=run.mean_error,
                largest=run.searched_error,
            )
            for run in experiment.runs
        ],
        needed=needed,
    )


def bits(eps: str, examples: int) -> float:
    """Theorem 1 of docs/theory/depth.md: the bits of the message, m at eps = 0 and (1 - h(eps)) (m - 1) above."""
    share = float(Fraction(eps))
    if share == 0:
        return float(examples)
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    return (1 - entropy) * (examples - 1)


def draw(record: DepthRecord) -> "Figure":
    """Mean error, largest error found, and the bits that one layer must carry, over m."""
    figure = new_figure(PAGE, 2.6)
    grid: Any = figure.subplots(1, 3)
    mean, largest, carried = grid
    places = [built.examples for built in record.built]
    mean.plot(places, [built.constant for built in record.built], "--", color=GREY, label="constant answer")
    largest.axhline(CONSTANT_WORST, linestyle="--", color=GREY)
    for axes, quantity in ((mean, "mean"), (largest, "largest")):
        for layers, colour, marker, name in ((1, ONE, "s", "one layer, trained"), (2, TWO, "^", "two layers, trained")):
            _trained(axes, record, layers, quantity, colour, marker, name)
        values = [getattr(built, quantity) for built in record.built]
        axes.plot(places, values, "o-", color=BLACK, label="two layers, built", clip_on=False, zorder=5)
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [str(place) for place in places])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("examples m")
    mean.set_ylabel(f"mean error {ERROR}")
    largest.set_ylabel(f"largest error {ERROR} found")
    panel(mean, "a", "mean over prompts")
    panel(largest, "b", "worst prompt found")
    _carried(carried, record)
    panel(carried, "c", "what one layer must carry")
    handles, labels = mean.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _trained(
    axes: "Axes", record: DepthRecord, layers: int, quantity: str, colour: str, marker: str, name: str
) -> None:
    """Every run as a point; a line through the run that is best by its mean error."""
    runs = [run for run in record.trained if run.layers == layers]
    axes.plot(
        [run.examples for run in runs], [getattr(run, quantity) for run in runs], marker, color=colour,
        markerfacecolor="none", markersize=2.6, markeredgewidth=0.5, alpha=0.7,
    )  # fmt: skip
    best = [
        min((run for run in runs if run.examples == examples), key=lambda run: run.mean)
        for examples in sorted({run.examples for run in runs})
    ]
    places = [run.examples for run in best]
    axes.plot(places, [getattr(run, quantity) for run in best], marker + "-", color=colour, label=name)


def _carried(axes: "Axes", record: DepthRecord) -> None:
    for eps in dict.fromkeys(need.eps for need in record.needed):
        style, marker = STYLES.get(eps, ("-.", "D"))
        places = [2**power for power in range(LARGEST.bit_length())]
        bound = [(place, bits(eps, place)) for place in places if bits(eps, place) > 0]
        xs, ys = [at for at, _ in bound], [needed for _, needed in bound]
        axes.plot(xs, ys, style, color=PALETTE[3], linewidth=1.0)
        found = [need for need in record.needed if need.eps == eps]
        axes.plot(
            [need.examples for need in found], [need.counted for need in found], marker, color=PALETTE[3],
            markerfacecolor="white",
        )  # fmt: skip
        axes.plot([], [], style + marker, color=PALETTE[3], markerfacecolor="white", label=f"eps = {eps}")
    axes.legend(title="proved (line), counted (points)", loc="upper left", title_fontsize=6.5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    places = [2**power for power in range(0, LARGEST.bit_length(), 2)]
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_yticks([0.25, 1, 4, 16, 64, 256], ["1/4", "1", "4", "16", "64", "256"])
    axes.set_ylim(0.15, 2400)
    axes.minorticks_off()
    axes.set_xlabel("examples m")
    axes.set_ylabel("bits of a message, at least")


def caption(record: DepthRecord) -> str:
    """What is proved and what is measured."""
    proved = max(built.proved for built in record.built)
    worst = max(built.largest for built in record.built)
    ones = [run for run in record.trained if run.layers == 1]
    twos = [run for run in record.trained if run.layers == 2]
    return (
        "One layer against two, on the identity of one bit (K = 1, V = 2, n = 1). (a) Measured: mean |q_hat - q|_1 "
        f"over {record.test_prompts:,} prompts, of {len(ones)} one-layer and {len(twos)} two-layer models trained for "
        f"{record.steps:,} steps ({record.heads} heads, {record.mlp_width} hidden units; open: each run, line: the "
        "best by mean error), of the constant answer (dashed), and of the two-layer construction in float32. (b) "
        "Measured: the largest error that a search over prompts found; the constant answer's is 1/2. The "
        "construction's is "
        f"{worst:.1g} on these prompts, proved at most {proved:.1g} in float32 for every prompt. (c) Proved (lines): "
        "the bits of any message about the inputs from which the answer can be given to within eps "
        "(docs/theory/depth.md, theorem 1); H heads with values of d numbers in one layer are a message of H (d + 1) p "
        "bits (theorem 2). Counted (points): log2 of the messages needed, by enumeration of all inputs. What training "
        "found is no proof; that no one-layer model of fixed size is good for all m is the theorem's part. The"
        f" records: `{COMMAND}`."
    )
