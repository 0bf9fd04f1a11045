"""How soon `construct --help` answers, and whether it imports torch."""

import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from statistics import median

from benchmarks.measure import ROOT
from benchmarks.report import Report, Table, seconds

RUNS = 10
_IMPORTED = """
import sys
from construct.cli import main
sys.argv = ["construct", "--help"]
try:
    main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


def run(*, quick: bool) -> Report:
    """The median of some runs, after one that fills the caches."""
    command = [str(Path(sysconfig.get_path("scripts")) / "construct"), "--help"]
    runs = 3 if quick else RUNS
    print(f"  construct --help, {runs} runs", file=sys.stderr)
    times = [_timed(command) for _ in range(runs + 1)][1:]
    asked = subprocess.run([sys.executable, "-c", _IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = asked.stderr.strip().endswith("True")
    record = {
        "step": "help",
        "runs": runs,
        "seconds": times,
        "median_seconds": median(times),
        "imports_torch": imported,
    }
    row = ["`construct --help`", seconds(median(times)), seconds(min(times)), seconds(max(times))]
    columns = ["", f"median of {runs}", "best", "worst", "imports torch"]
    return Report("Start of the command", [Table(columns, [[*row, "yes" if imported else "no"]])], [record])


def _timed(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - begun
