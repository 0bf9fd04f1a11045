"""What the proof for all prompts costs as the model grows, and how tight its bounds are."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import linear_regression

from benchmarks.growth import BASE, FULL, SYMBOLS, doubled
from benchmarks.measure import Case, measure
from benchmarks.report import Record, Report, Table, mib, seconds

MODULE = "benchmarks.proof_steps"
DOUBLINGS_FITTED = 2

CLAIMS = (Case(8, 32, 8, 16, suite="retrieval"), Case(4, 26, 1, 16))
"""The models of which this project asks for a bound of at most 1e-6 in seconds."""

EVERY_PROMPT = (
    (Case(2, 3, 1, 2), None),
    (Case(2, 3, 2, 1), None),
    (Case(3, 5, 1, 3), None),
    (Case(2, 3, 3, 2, suite="retrieval"), None),
    (Case(3, 2, 3, 3), 5.0),
    (Case(2, 3, 2, 2, suite="pair and table"), None),
    (Case(2, 3, 2, 2, suite="sum and table"), None),
    (Case(2, 3, 2, 2, suite="partial sum and table"), None),
)
"""Cases with few prompts, and the sharpness where it is not the one that the builder chooses."""

SEARCHED = (
    Case(8, 32, 8, 16, suite="retrieval"),
    Case(4, 26, 1, 16),
    BASE,
    Case(15, 63, 3, 31),
    Case(3, 189, 2, 11, suite="copy_add"),
)
SAMPLES, QUICK_SAMPLES = 400, 10
WANTED_TRUTH, WANTED_FOUND = 3, 10


def run(*, quick: bool) -> Report:
    """Growth, the two models with a wanted bound, tightness."""
    series = {name: list(doubled(name, 2 if quick else 99)) for name in SYMBOLS}
    every = [BASE, *(case for row in series.values() for case in row[1:]), *([] if quick else [FULL])]
    measured = {case: measure("prove", case, module=MODULE) for case in every}
    claims = [measure("prove", case, module=MODULE) for case in CLAIMS]
    known = [
        measure("exhaust", case, module=MODULE, sharpness=sharpness)
        for case, sharpness in EVERY_PROMPT[: 2 if quick else None]
    ]
    samples = QUICK_SAMPLES if quick else SAMPLES
    found = [
        {
            dtype: measure("search", case, module=MODULE, dtype=dtype, samples=samples)
            for dtype in ("float64", "float32")
        }
        for case in SEARCHED[: 1 if quick else None]
    ]
    fits = [_fit(name, cases, measured) for name, cases in series.items()]
    tables = [
        _growth_table(measured),
        _fit_table(fits),
        _claims_table(claims),
        _truth_table(known),
        _found_table(found, samples),
    ]
    records = [*measured.values(), *fits, *claims, *known, *(record for pair in found for record in pair.values())]
    return Report("The proof for all prompts", tables, records)


def _growth_table(measured: Mapping[Case, Record]) -> Table:
    rows = []
    for case, record in measured.items():
        taken, weights = record["seconds"], record["nonzero_parameters"]
        rows.append(
            [
                str(case),
                f"{case.tokens:,}",
                f"{weights:,}",
                f"10^{record['log10_prompts']:,.0f}",
                seconds(taken),
                f"{1e6 * taken / (weights + case.tokens):.1f}",
                mib(record["peak_mib"]),
                *(_bound(record, dtype) for dtype in ("real", "float32")),
            ]
        )
    columns = ["`lookup`", "tokens", "not 0", "prompts", "proof", "µs a weight and token", "MiB", "bound", "float32"]
    imports = [record["start_mib"] for record in measured.values()]
    note = (
        "Time to prove, best of a few where it is short, and the peak of a process that builds and proves (the imports "
        f"take {min(imports):.0f} to {max(imports):.0f} MiB of it). Bounds on |q_hat - q|_1, in real arithmetic and as "
        "executed in float32."
    )
    return Table(columns, rows, note)


def _fit(name: str, cases: Sequence[Case], measured: Mapping[Case, Record]) -> Record:
    """Slopes of log(time) over log(size), nonzero weights and tokens, and of the memory above the imports."""
    last = cases[-1 - DOUBLINGS_FITTED :]
    records = [measured[case] for case in last]
    times = [record["seconds"] for record in records]
    memory = [record["peak_mib"] - record["start_mib"] for record in records]
    sizes = [getattr(case, name) for case in last]
    return {
        "fit": "prove",
        "in": SYMBOLS[name],
        "sizes": sizes,
        "time": _slope(sizes, times),
        "time_from_base": _slope(
            [getattr(case, name) for case in cases], [measured[case]["seconds"] for case in cases]
        ),
        "time_by_nonzero": _slope([record["nonzero_parameters"] for record in records], times),
        "time_by_tokens": _slope([case.tokens for case in last], times),
        "memory": _slope(sizes, memory),
    }


def _slope(sizes: Iterable[float], values: Iterable[float]) -> float | None:
    at = [math.log(size) for size in sizes]
    if max(at) - min(at) < math.log(1.5):
        return None
    return float(linear_regression(at, [math.log(value) for value in values]).slope)


def _fit_table(fits: Sequence[Record]) -> Table:
    names = ("time_from_base", "time", "time_by_nonzero", "time_by_tokens", "memory")
    rows = [
        [
            f"{fit['in']} to {fit['sizes'][-1]}",
            *("-" if fit[name] is None else f"{fit[name]:.2f}" for name in names),
        ]
        for fit in fits
    ]
    columns = ["doubled", "time, from the base on", "time", "time, by weights not 0", "time, by tokens", "memory"]
    note = (
        "Exponents: the log-log slope, over all doublings of one size in the first column, else over the last "
        f"{DOUBLINGS_FITTED}; the other sizes are as in the base ({BASE}). Memory is counted above the imports (-: the "
        "size hardly changes that). Up to 4 million pairs of query and key (m = 480 here) the leak is added up pair "
        "by pair, which costs m T and is tighter; beyond, time and memory fall, so the last exponents of m are too low."
    )
    return Table(columns, rows, note)


def _claims_table(claims: Sequence[Record]) -> Table:
    rows = []
    for record in claims:
        bounds = (_bound(record, dtype) for dtype in ("real", "float32", "bfloat16", "float16"))
        rows.append([_name(record), f"10^{record['log10_prompts']:.1f}", seconds(record["seconds"]), *bounds])
    columns = ["", "prompts", "proof", "bound", "float32", "bfloat16", "float16"]
    note = (
        "Wanted: at most 1e-6 in real arithmetic, in seconds, and for the first at most 1e-5 in float32. The claim is "
        "on |q_hat - q|_1, for every prompt."
    )
    return Table(columns, rows, note)


def _truth_table(known: Sequence[Record]) -> Table:
    rows = []
    for record in known:
        ratio = record["bound"] / record["worst"]
        numbers = (f"{record['prompts']:,}", f"{record['bound']:.3e}", f"{record['worst']:.3e}", f"{ratio:.3f}")
        rows.append([f"{_name(record)}, sharpness {record['sharpness']:g}", *numbers])
    columns = ["", "prompts", "bound", "worst of all", "ratio"]
    return Table(columns, rows, f"The bound in real arithmetic against every prompt. Wanted: at most {WANTED_TRUTH}.")


def _found_table(found: Sequence[Mapping[str, Record]], samples: int) -> Table:
    rows = []
    for pair in found:
        cells = [_name(next(iter(pair.values())))]
        for record in pair.values():
            bound, worst = record["bound"], record["worst"]
            cells += ["-" if bound is None else f"{bound:.2e}", f"{worst:.2e}"]
            cells.append("-" if bound is None or not worst else f"{bound / worst:.1f}")
        rows.append(cells)
    columns = ["", "bound", "found, float64", "ratio", "float32 bound", "found, float32", "ratio"]
    note = (
        f"Against the worst prompt that a search finds ({samples} random prompts of m examples, four times as many in "
        "the ascent from the worst of them, each judged after 0 to m examples), which is at most the truth. "
        f"Wanted: at most {WANTED_FOUND}."
    )
    return Table(columns, rows, note)


def _bound(record: Record, dtype: str) -> str:
    bound = record["bounds"][dtype]
    return "no claim" if bound is None else f"{bound:.2e}"


def _name(record: Record) -> str:
    case = Case(**{name: record[name] for name in Case.__dataclass_fields__})
    return f"copy_add K={case.tasks} m={case.examples}" if case.suite == "copy_add" else f"{case.suite} {case}"
