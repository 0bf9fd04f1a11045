"""`construct train` against a plain training loop in the manner of nanoGPT's train.py, of the same size."""

from benchmarks.measure import Case, StepError, measure
from benchmarks.report import Record, Report, Table, seconds

MODULE = "benchmarks.training_steps"
CASE = Case(3, 60, 6, 31, suite="retrieval")
"""60 tokens and four special ones; 32 examples of 8 tokens: 256 positions."""
SIZES = {"layers": 4, "heads": 8, "width": 256, "batch": 8}
MLP_WIDTHS = {"gpt2": 1024, "llama": 688}
"""A gated MLP has three matrices instead of two: two thirds of the width make as many parameters."""


def run(*, quick: bool) -> Report:
    """Both architectures, each in turn with the plain loop."""
    records: list[Record] = []
    rows = []
    for architecture, mlp_width in MLP_WIDTHS.items():
        options = {"architecture": architecture, "mlp_width": mlp_width, "rounds": 3 if quick else 15}
        found = measure("train", CASE, module=MODULE, **options, **SIZES)
        if found["vocabulary"] != found["plain_vocabulary"] or found["positions"] != found["plain_positions"]:
            raise StepError("the two loops do not have the same sizes")
        records.append(found)
        rows.append(
            [
                f"{architecture}, {found['parameters'] / 1e6:.2f} M parameters",
                f"{found['tokens_per_second']:,.0f}",
                f"{found['plain_tokens_per_second']:,.0f}",
                f"{found['ratio']:.2f} [{found['ratio_low']:.2f}, {found['ratio_high']:.2f}]",
                seconds(found["seconds"]),
            ]
        )
    columns = ["construct train", "tokens/s", "plain loop, tokens/s", "ratio", "a step"]
    note = (
        f"{SIZES['layers']} layers, {SIZES['heads']} heads, {SIZES['width']} wide, vocabulary "
        f"{records[0]['vocabulary']}, context {records[0]['positions']}, batch {SIZES['batch']}, float32, one thread, "
        "one process: a step of each in turn. The plain loop is ours, in the manner of nanoGPT's train.py: a GPT of "
        f"{records[0]['plain_parameters'] / 1e6:.2f} M parameters with a loss at every position, batches cut out of "
        "an array, AdamW, the gradient clipped, not compiled. Seconds of the process's own time, as the machine is "
        "shared; medians; the ratio is the median over pairs of steps, with their quartiles. Wanted: at least 1 for "
        "gpt2, which has the same products of matrices."
    )
    return Report("Training", [Table(columns, rows, note)], records)
