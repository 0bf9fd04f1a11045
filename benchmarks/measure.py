"""Measurements, each in a fresh process, so that its peak memory is its own."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Record

THREADS = 2
"""The threads that torch and the linear algebra may use: a small machine's cores, on whatever machine this runs."""

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """One construction.

    Args:
        tasks: K.
        alphabet_size: V.
        inputs: n.
        examples: m.
        suite: the suite that makes the tasks.
    """

    tasks: int
    alphabet_size: int
    inputs: int
    examples: int
    suite: str = "lookup"

    @property
    def tokens(self) -> int:
        """T = (m+1)(n+2): the length of the longest prompt."""
        return (self.examples + 1) * (self.inputs + 2)

    def __str__(self) -> str:
        return f"K={self.tasks} V={self.alphabet_size} n={self.inputs} m={self.examples}"


class StepError(RuntimeError):
    """A measurement that failed, with the last line that it wrote."""


def measure(step: str, case: Case, *, module: str = "benchmarks.steps", **options: Any) -> Record:
    """Run one of `benchmarks.steps.STEPS`, or of another module's, in a fresh process.

    Raises:
        StepError: the process failed.
    """
    said = " ".join(f"{name}={value}" for name, value in options.items() if name != "directory")
    print(f"  {step:<8} {case} {said}".rstrip(), end="", file=sys.stderr, flush=True)
    request = json.dumps({"case": asdict(case), "options": options})
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(THREADS))
    done = subprocess.run(
        [sys.executable, "-m", module, step, request],
        cwd=ROOT,
        env=os.environ | threads,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        print(f": failed: {reason}", file=sys.stderr)
        raise StepError(f"{step} {case}: {reason}")
    found: Record = json.loads(done.stdout)
    print(f": {found.get('seconds', 0):.4g} s, {found['peak_mib']:,.0f} MiB", file=sys.stderr)
    options.pop("directory", None)
    return {"step": step, **asdict(case), **options, **found, "load_average": round(os.getloadavg()[0], 2)}
