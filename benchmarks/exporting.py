"""Constructions as stock models: how far they are from the oracle, and from the project's own forward pass."""

from typing import Any

from benchmarks.measure import Case, measure
from benchmarks.report import Report, Table

MODULE = "benchmarks.exporting_steps"
PROMPTS = 25
CASES: tuple[tuple[Case, dict[str, Any]], ...] = (
    (Case(3, 11, 3, 12, suite="retrieval"), {"theorem": "seven-layer"}),
    (Case(8, 32, 8, 16, suite="retrieval"), {}),
    (Case(8, 32, 8, 64, suite="retrieval"), {}),
    (Case(3, 0, 0, 11, suite="country"), {}),
    (Case(3, 0, 0, 11, suite="copy_add"), {}),
)
WANTED = {"float32": 1e-5, "bfloat16": 2e-2}
WANTED_STATES = 1e-12


def run(*, quick: bool) -> Report:
    """Both forms of normalisation, all formats."""
    records, rows = [], []
    for case, options in CASES[: 1 if quick else None]:
        for normalization in ("scale-down", "large-eps"):
            prompts = 3 if quick else PROMPTS
            found = measure("agree", case, module=MODULE, normalization=normalization, prompts=prompts, **options)
            records.append(found)
            rows.append(
                [
                    f"{case.suite} K={case.tasks} m={case.examples}, {options.get('theorem', 'two-layer')}",
                    normalization,
                    f"{found['layers']} x {found['width']:,}, {found['parameters'] / 1e6:.1f} M",
                    *(f"{found['variation'][name]:.1e}" for name in ("float64", "float32", "bfloat16")),
                    f"{found['logits']:.1e}",
                    f"{found['states']:.1e}",
                ]
            )
    columns = ["construction", "normalisation", "GPT-2", "float64", "float32", "bfloat16", "logits", "states"]
    note = (
        f"{PROMPTS} random prompts (4 in bfloat16), one of m examples, the others of 0 to m, through an unmodified "
        "GPT2LMHeadModel, at every EQ. float64 to bfloat16: the largest total variation of softmax(logits) to the "
        f"oracle; wanted: at most {WANTED['float32']:g} in float32 and {WANTED['bfloat16']:g} in bfloat16. logits, "
        "states: the largest difference to the project's own float64 pass, in float64; wanted: at most "
        f"{WANTED_STATES:g}."
    )
    return Report("Exports", [Table(columns, rows, note)], records)
