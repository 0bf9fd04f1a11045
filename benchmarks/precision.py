"""How large a model stays certified at eps = 1e-2 in each format, and what the model does just inside and just outside.

One size grows at a time, over numbers that are no powers of two (averages of so many examples would round less), until
the claim is lost in every format or the proof takes too long; then the edge is narrowed down. A size past the edge is
not certified; that it is wrong by more than eps is for the runs beside it to say, and mostly it is not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.growth import SYMBOLS
from benchmarks.measure import Case, StepError, measure
from benchmarks.report import Record, Report, Table

MODULE = "benchmarks.proof_steps"
EPS = 1e-2
FORMATS = ("float32", "bfloat16", "float16")
BASE = Case(tasks=2, alphabet_size=7, inputs=3, examples=15)
BASES: tuple[tuple[Case, tuple[str, ...]], ...] = (
    (BASE, FORMATS),
    (replace(BASE, tasks=1), ("bfloat16",)),
)
"""With a second task, bfloat16 has no claim at eps beyond very few examples: it is asked about one task too."""

SECONDS = 60.0
"""The longest proof that is started, as foreseen from the one before."""

GROWTH = 4.0
"""What twice the size is expected to cost at the most."""

NARROW = 1.05
"""The edge is narrowed down to a size certified and one that is not, at most so many times as large."""

TOKENS = 4_000
"""The longest prompts that are run."""


@dataclass(frozen=True)
class Edge:
    """Where one format loses its claim as one size grows.

    Args:
        base: the other sizes.
        name: the size that grows.
        form: the format.
        inside: the largest size certified, None if none is.
        outside: the least size found that is not, None if none was reached.
        reason: why it is not; or, if none was reached, why the search ended.
    """

    base: Case
    name: str
    form: str
    inside: int | None
    outside: int | None
    reason: str


class _Prover:
    """Proofs, each made once."""

    def __init__(self) -> None:
        self.records: dict[Case, Record | None] = {}

    def __call__(self, case: Case) -> Record | None:
        """The record; None where the model could not be built or proved for want of memory."""
        if case not in self.records:
            try:
                self.records[case] = measure("prove", case, module=MODULE)
            except StepError:
                self.records[case] = None
        return self.records[case]


def run(*, quick: bool) -> Report:
    """The edges, the runs beside them, and the bound over m."""
    prover = _Prover()
    limit = 1.0 if quick else SECONDS
    edges = [
        edge
        for base, forms in BASES[: 1 if quick else None]
        for name in ("examples", "inputs", "alphabet_size", "tasks")
        if not (base.tasks == 1 and name == "tasks")
        for edge in _edges(prover, base, name, forms, limit)
    ]
    runs = {
        (edge, size): _run(_sized(edge.base, edge.name, size), edge.form, quick=quick)
        for edge in edges
        for size in (edge.inside, edge.outside)
        if size is not None
    }
    records = [record for record in prover.records.values() if record is not None]
    records += [record for record in runs.values() if record is not None]
    records += [{"edge": edge.form, "in": SYMBOLS[edge.name], **vars(edge), "base": str(edge.base)} for edge in edges]
    return Report("Precision: how large at eps = 1e-2", [_edge_table(edges, runs, limit), _curve(prover)], records)


def _sizes(name: str) -> Iterable[int]:
    """1, 3, 7, 15, ...: no powers of two but 1, which a vocabulary and the reads of two tasks cannot have."""
    size = {"examples": 1, "inputs": 1, "alphabet_size": 3, "tasks": 1}[name]
    while True:
        yield size
        size = 2 * size + 1


def _edges(prover: _Prover, base: Case, name: str, forms: tuple[str, ...], limit: float) -> list[Edge]:
    good: dict[str, int] = {}
    bad: dict[str, int] = {}
    ended = ""
    for size in _sizes(name):
        record = prover(_sized(base, name, size))
        if record is None:
            ended = "no more memory"
            break
        for form in forms:
            if form not in bad:
                (good if _certified(record, form) else bad)[form] = size
        if len(bad) == len(forms):
            break
        if record["seconds"] * GROWTH > limit:
            ended = f"the proof takes {record['seconds']:.0f} s there"
            break
    for form in bad:
        while form in good and bad[form] > max(good[form] + 1, NARROW * good[form]):
            middle = (good[form] + bad[form]) // 2
            record = prover(_sized(base, name, middle))
            (good if record is not None and _certified(record, form) else bad)[form] = middle
    return [
        Edge(
            base,
            name,
            form,
            good.get(form),
            bad.get(form),
            _why(prover(_sized(base, name, bad[form])), form) if form in bad else f"not reached: {ended}",
        )
        for form in forms
    ]


def _sized(base: Case, name: str, size: Any) -> Case:
    return replace(base, **{name: size})


def _certified(record: Record, form: str) -> bool:
    bound = record["bounds"][form]
    return bound is not None and bound <= EPS


def _why(record: Record | None, form: str) -> str:
    if record is None:
        return "no more memory"
    bound = record["bounds"][form]
    if bound is not None:
        return f"bound {bound:.2e}"
    return str(record["refusals"].get(form) or ", ".join(record["violations"]))


def _run(case: Case, form: str, *, quick: bool) -> Record | None:
    """The worst found in the format; None where prompts are too long to run."""
    if case.tokens > TOKENS:
        return None
    samples = 8 if quick else max(16, min(200, 40_000 // case.tokens, 100_000 // (case.tasks * case.alphabet_size)))
    return measure("search", case, module=MODULE, dtype=form, samples=samples)


def _edge_table(edges: list[Edge], runs: Mapping[tuple[Edge, int], Record | None], limit: float) -> Table:
    rows = []
    for edge in edges:
        inside = "none" if edge.inside is None else f"{SYMBOLS[edge.name]} = {edge.inside:,}"
        outside = "-" if edge.outside is None else f"{SYMBOLS[edge.name]} = {edge.outside:,}"
        cells = [_beside(edge, size, runs) for size in (edge.inside, edge.outside)]
        rows.append([f"{edge.form}, {edge.base}", SYMBOLS[edge.name], inside, cells[0], outside, cells[1], edge.reason])
    columns = ["`lookup`", "grows", "certified", "worst run / bound", "not certified", "worst run", "why not"]
    note = (
        f"The largest size certified at eps = {EPS:g} in a format (narrowed down to {NARROW:g} times), the least found "
        f"that is not, and the worst error found when both are run in that format (prompts of at most {TOKENS:,} "
        f"tokens). No proof was started that was expected to take over {limit:.0f} s."
    )
    return Table(columns, rows, note)


def _beside(edge: Edge, size: int | None, runs: Mapping[tuple[Edge, int], Record | None]) -> str:
    if size is None:
        return "-"
    record = runs[edge, size]
    if record is None:
        return "not run"
    bound = record["bound"]
    return f"{record['worst']:.1e}" + ("" if bound is None else f" / {bound:.1e}")


def _curve(prover: _Prover) -> Table:
    sizes = sorted(case.examples for case in prover.records if replace(case, examples=BASE.examples) == BASE)
    doubling = [size for size in sizes if size & (size + 1) == 0]
    rows = []
    for size in doubling:
        record = prover.records[replace(BASE, examples=size)]
        if record is not None:
            cells = ("no claim" if bound is None else f"{bound:.2e}" for bound in record["bounds"].values())
            rows.append([f"{size:,}", f"{record['tokens']:,}", *cells, f"{record['seconds']:.3g} s"])
    note = f"The bound over m, the other sizes as in the base ({BASE})."
    return Table(["m", "tokens", "real", *FORMATS, "proof"], rows, note)
