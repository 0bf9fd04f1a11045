"""The tables' weights applied sparsely, as by default, and densely."""

import tempfile

from benchmarks.measure import Case, measure
from benchmarks.report import Report, Table, mib, seconds

CASES = (Case(8, 32, 8, 60), Case(64, 64, 16, 60), Case(128, 128, 16, 60), Case(256, 256, 16, 60))


ROUNDS = 2
"""The two ways take turns, as the machine may be busier at one time than at another; the best counts."""


def run(*, quick: bool) -> Report:
    """Predict one prompt both ways at a few sizes."""
    records, rows = [], []
    for case in CASES[: 2 if quick else None]:
        with tempfile.TemporaryDirectory() as folder:
            measure("save", case, directory=folder)
            both = [
                [measure("predict", case, directory=folder, dense=dense) for dense in (False, True)]
                for _ in range(ROUNDS)
            ]
        records += [record for pair in both for record in pair]
        memory = [min(record["peak_mib"] - record["start_mib"] for record in way) for way in zip(*both, strict=True)]
        times = [min(record["seconds"] for record in way) for way in zip(*both, strict=True)]
        cells = [*map(seconds, times), f"{times[1] / times[0]:.1f}", *map(mib, memory), f"{memory[1] / memory[0]:.1f}"]
        rows.append([str(case), *cells])
    columns = ["`lookup`", "sparse", "dense", "ratio", "sparse MiB", "dense MiB", "ratio of MiB"]
    note = "Predicting one prompt of m examples (float32, CPU, 2 threads); memory is the peak above the imports."
    return Report("Tables applied sparsely and densely", [Table(columns, rows, note)], records)
