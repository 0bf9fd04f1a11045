"""How time and memory grow with K, V, n and m."""

import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import linear_regression

from benchmarks.measure import Case, measure
from benchmarks.report import Record, Report, Table, mib, seconds

BASE = Case(tasks=8, alphabet_size=32, inputs=8, examples=60)
LARGEST = {"tasks": 512, "alphabet_size": 512, "inputs": 128, "examples": 1920}
"""Each size is doubled from the base up to this, the others staying as in the base."""

FULL = Case(tasks=512, alphabet_size=512, inputs=16, examples=512)
SYMBOLS = {"tasks": "K", "alphabet_size": "V", "inputs": "n", "examples": "m"}
STEPS = ("build", "save", "load", "predict")
DOUBLINGS_FITTED = 2
SMALLEST_MIB = 2.0
"""Below this, peak memory is the allocator's noise."""


def run(*, quick: bool) -> Report:
    """Double each size in turn, then the full case."""
    cases = {name: list(doubled(name, 2 if quick else 99)) for name in SYMBOLS}
    every = [BASE, *(case for row in cases.values() for case in row[1:]), *([] if quick else [FULL])]
    measured = {case: _all_steps(case) for case in every}
    records = [record for steps in measured.values() for record in steps.values()]
    fits = [_fit(name, step, what, cases[name], measured) for name in SYMBOLS for step in STEPS for what in _MEASURES]
    return Report(
        "Growth with K, V, n and m",
        [_sizes_table(measured), _steps_table(measured), _fit_table(cases, fits)],
        [*records, *fits],
    )


def doubled(name: str, doublings: int) -> Iterable[Case]:
    """The base, then one size doubled again and again."""
    value = first = getattr(BASE, name)
    while value <= min(LARGEST[name], first * 2**doublings):
        yield replace(BASE, **{name: value})
        value *= 2


def _all_steps(case: Case) -> dict[str, Record]:
    with tempfile.TemporaryDirectory() as folder:
        return {step: measure(step, case, **({} if step == "build" else {"directory": folder})) for step in STEPS}


_MEASURES = {
    "time": lambda record: record["seconds"],
    "memory": lambda record: record["peak_mib"] - record["start_mib"],
}


def _fit(name: str, step: str, what: str, cases: list[Case], measured: Mapping[Case, Mapping[str, Record]]) -> Record:
    """The slope of log(measure) over log(size), through the last points."""
    last = cases[-1 - DOUBLINGS_FITTED :]
    sizes = [getattr(case, name) for case in last]
    values = [_MEASURES[what](measured[case][step]) for case in last]
    exponent = None
    if what == "time" or min(values) >= SMALLEST_MIB:
        exponent = linear_regression([math.log(size) for size in sizes], [math.log(value) for value in values]).slope
    return {"fit": what, "in": SYMBOLS[name], "step": step, "sizes": sizes, "exponent": exponent}


def _sizes_table(measured: Mapping[Case, Mapping[str, Record]]) -> Table:
    rows = []
    for case, steps in measured.items():
        built = steps["build"]
        units = sum(built["mlp_width"])
        counts = (case.tokens, built["d_model"], units, built["parameters"], built["nonzero_parameters"])
        rows.append([str(case), *(f"{count:,}" for count in counts), mib(steps["save"]["artifact_mib"])])
    columns = ["`lookup`", "tokens", "d_model", "MLP units", "parameters, dense", "not 0", "artifact MiB"]
    return Table(columns, rows, "Sizes.")


def _steps_table(measured: Mapping[Case, Mapping[str, Record]]) -> Table:
    rows = []
    for case, steps in measured.items():
        cells = [(seconds(steps[step]["seconds"]), mib(steps[step]["peak_mib"])) for step in STEPS]
        rows.append([str(case), *(text for pair in cells for text in pair)])
    columns = ["`lookup`", *(text for step in STEPS for text in (step, "MiB"))]
    imports = [record["start_mib"] for steps in measured.values() for record in steps.values()]
    note = (
        "Time, and the peak of a process that does this alone (the one that saves has built first, the one that "
        f"predicts has loaded; the imports take {min(imports):.0f} to {max(imports):.0f} MiB of it). Prediction: one "
        "prompt of m examples, float32, CPU, 2 threads, "
        "without making the torch module (`module_seconds` in the records)."
    )
    return Table(columns, rows, note)


def _fit_table(cases: Mapping[str, list[Case]], fits: list[Record]) -> Table:
    found = {(fit["in"], fit["step"], fit["fit"]): fit["exponent"] for fit in fits}
    rows = []
    for name, symbol in SYMBOLS.items():
        last = cases[name][-1 - DOUBLINGS_FITTED :]
        span = f"{symbol} = {getattr(last[0], name)} to {getattr(last[-1], name)}"
        exponents = (found[symbol, step, what] for step in STEPS for what in _MEASURES)
        rows.append([span, *("-" if exponent is None else f"{exponent:.2f}" for exponent in exponents)])
    columns = ["doubled", *(f"{step}, {what}" for step in STEPS for what in _MEASURES)]
    note = (
        f"Exponents: the log-log slope over the last {DOUBLINGS_FITTED} doublings of one size, the others as in the "
        f"base ({BASE}); memory is counted above the imports, and not below {SMALLEST_MIB:g} MiB (-)."
    )
    return Table(columns, rows, note)
