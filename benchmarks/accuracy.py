"""Total variation to the oracle as prompts grow, in each format."""

from benchmarks.measure import Case, measure
from benchmarks.report import Report, Table

EXAMPLES = (11, 60, 250, 1000)
WANTED = {"float64": None, "float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3}
"""The largest total variation that this project allows itself."""

PROMPTS, QUICK_PROMPTS = 50, 5


def run(*, quick: bool) -> Report:
    """Retrieval, K = 8, V = 32, n = 8."""
    examples = EXAMPLES[: 2 if quick else None]
    prompts = QUICK_PROMPTS if quick else PROMPTS
    cases = [Case(8, 32, 8, count, suite="retrieval") for count in examples]
    records = [measure("accuracy", case, dtype=dtype, prompts=prompts) for dtype in WANTED for case in cases]
    found = {(record["dtype"], record["examples"]): record for record in records}
    rows = []
    for dtype, wanted in WANTED.items():
        worst = [f"{found[dtype, count]['worst']:.1e}" for count in examples]
        bounds = [f"{found[dtype, count]['bound']:.1e}" for count in (examples[0], examples[-1])]
        rows.append([dtype, "-" if wanted is None else f"{wanted:.0e}", *worst, " to ".join(bounds)])
    columns = ["format", "wanted", *(f"m = {case.examples} ({case.tokens:,} tokens)" for case in cases), "bound"]
    note = (
        f"Retrieval, K=8 V=32 n=8: the worst of {prompts} random prompts of m examples, each from a random mixture of "
        "the tasks, against the exact oracle. The bound is the closed form for every prompt (a total variation, as all "
        "mass is explained here), from the least m to the largest."
    )
    return Report("Accuracy: no drift as prompts grow", [Table(columns, rows, note)], records)
