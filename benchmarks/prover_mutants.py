"""`make mutants-prover`: altered provers and checkers; do their tests notice?

cosmic-ray (https://pypi.org/project/cosmic-ray) alters one place of one module, in a copy of the repository, and the
module's tests are run until the first fails. All places are too many: a sample is drawn, the same number of each
module, each time one of the operators that the module has places for and then one of its places. A survivor is
equivalent, or only loosens a bound or a message, or shows a hole: docs/verification-measurements.md judges each. A run
that is interrupted is taken up again.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from difflib import unified_diff
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import click
import numpy as np

from benchmarks.measure import ROOT
from benchmarks.report import Table
from benchmarks.run import environment, write_whole

PROVED = ("test_prover_holes.py", "test_theorem.py", "test_mutations.py")
TESTS: Mapping[str, tuple[str, ...]] = {
    "attention": ("test_attention.py", "test_heads.py", *PROVED),
    "rows": ("test_rows.py", "test_tables.py", *PROVED),
    "tables": ("test_tables.py", *PROVED),
    "sums": ("test_sums.py", *PROVED),
    "linear": ("test_tables.py", "test_sums.py", *PROVED),
    "boxes": ("test_boxes.py", *PROVED),
    "theorem": PROVED,
    "rounding": ("test_rounding.py", *PROVED),
    "exact": ("test_exact.py", *PROVED),
    **{f"check/{name}": ("test_check.py",) for name in ("certificate", "compare", "exact", "files", "formats")},
    **{f"check/{name}": ("test_check.py",) for name in ("lemmas", "model", "two_layer")},
}
"""The modules of verify/ that are altered, and the tests that are asked, in this order."""

OPERATORS = (
    *(
        "AddNot",
        "NumberReplacer",
        "ReplaceAndWithOr",
        "ReplaceOrWithAnd",
        "ReplaceTrueWithFalse",
        "ZeroIterationForLoop",
    ),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_Gt", "Gt_Lt")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("LtE_GtE", "GtE_LtE", "Eq_NotEq", "NotEq_Eq")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul")),
    *("ReplaceFalseWithTrue", "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_USub_UAdd"),
)
SECONDS = 180.0
"""What the tests of one mutant may take; those of the unaltered code take less than half on a free machine."""


@dataclass(frozen=True)
class Mutant:
    """A change: the module, the operator, which of its places, the difference, and what became of it."""

    module: str
    operator: str
    occurrence: int
    change: str
    fate: str
    seconds: float


def _places(module: str) -> dict[str, int]:
    """How many places each operator has in a module."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    nodes = list(ast_nodes(get_ast((ROOT / "verify" / f"{module}.py").read_text(encoding="utf-8"))))
    found = {}
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        count = sum(1 for node in nodes for _ in operator.mutation_positions(node))
        if count:
            found[name] = count
    return found


def _sample(each: int, seed: int) -> Iterator[tuple[str, str, int]]:
    generator = np.random.default_rng(seed)
    for module in TESTS:
        places, seen = _places(module), set[tuple[str, int]]()
        while len(seen) < min(each, sum(places.values())):
            operator = str(generator.choice(list(places)))
            seen.add((operator, int(generator.integers(places[operator]))))
        yield from ((module, *change) for change in sorted(seen))


def _digest() -> str:
    """sha256 of what a fate depends on: all sources and tests."""
    found = hashlib.sha256()
    for path in sorted(path for folder in ("construct", "verify", "tests") for path in (ROOT / folder).rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _tested(copy: Path, names: tuple[str, ...], seconds: float = SECONDS) -> "subprocess.CompletedProcess[bytes]":
    """Run tests in a copy until one fails. Raises TimeoutExpired."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    settings = os.environ | {"CI": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy)}
    settings["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(f"tests/verify/{name}" for name in names)],
        cwd=copy,
        env=settings,
        capture_output=True,
        timeout=seconds,
        check=False,
    )


def _judge(module: str, operator: str, occurrence: int, copies: "SimpleQueue[Path]") -> Mutant:
    """Alter a copy, run the tests, and put the copy right again."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    copy, begun = copies.get(), time.perf_counter()
    path = copy / "verify" / f"{module}.py"
    before = path.read_text(encoding="utf-8")
    after = mutate_code(before, get_operator(f"core/{operator}")(), occurrence)
    change = "\n".join(line for line in unified_diff(before.split("\n"), after.split("\n"), n=0, lineterm=""))
    try:
        path.write_text(after, encoding="utf-8")
        ran = _tested(copy, TESTS[module])
        # 1: a test failed; 2: the tests could not be collected, as the module does not import.
        fate = {0: "survived", 1: "killed", 2: "killed"}.get(ran.returncode, f"exit {ran.returncode}")
    except subprocess.TimeoutExpired:
        fate = "timed out"
    finally:
        path.write_text(before, encoding="utf-8")
        copies.put(copy)
    return Mutant(module, operator, occurrence, change, fate, round(time.perf_counter() - begun, 1))


@click.command()
@click.option("--each", default=5, show_default=True, help="Mutants of each module.")
@click.option("--seed", default=0, show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where the record goes.")
def main(each: int, seed: int, processes: int, out: Path | None) -> None:
    """Alter the prover and the checker, one place at a time; tables on standard output."""
    begun, started, digest = time.perf_counter(), environment(), _digest()
    drawn = list(_sample(each, seed))
    part = None if out is None else out.with_suffix(".part")
    mutants = [] if part is None else [mutant for mutant in _done(part, digest) if _change(mutant) in drawn]
    left = [change for change in drawn if change not in map(_change, mutants)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(processes) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(processes):
            copy = Path(folder) / str(number)
            ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", ".hypothesis")
            shutil.copytree(ROOT, copy, ignore=ignored)
            copies.put(copy)
        every = tuple(dict.fromkeys(name for names in TESTS.values() for name in names))
        if left and _tested(Path(folder) / "0", every, 10 * SECONDS).returncode:
            raise click.ClickException("the tests of the unaltered code fail: nothing can be judged")
        running = [pool.submit(_judge, *change, copies) for change in left]
        for done in as_completed(running):
            mutants.append(done.result())
            if part is not None:
                with part.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"sources": digest} | asdict(mutants[-1])) + "\n")
            alive = sum(mutant.fate == "survived" for mutant in mutants)
            print(f"\r  {len(mutants)} of {len(drawn)}, {alive} survived ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    mutants.sort(key=lambda mutant: (list(TESTS).index(mutant.module), mutant.operator, mutant.occurrence))
    click.echo(_table(mutants).markdown())
    if out is not None:
        record: dict[str, Any] = {"environment": started, "seconds": time.perf_counter() - begun}
        record |= {
            "sources_sha256": digest,
            "seed": seed,
            "each": each,
            "mutants": [asdict(mutant) for mutant in mutants],
        }
        write_whole(out, json.dumps(record, indent=1) + "\n")
    if part is not None:
        part.unlink(missing_ok=True)


def _change(mutant: Mutant) -> tuple[str, str, int]:
    return mutant.module, mutant.operator, mutant.occurrence


def _done(part: Path, digest: str) -> list[Mutant]:
    """The mutants judged by a run that was interrupted, with the same sources."""
    if not part.exists():
        return []
    lines = [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]
    return [Mutant(**line) for line in lines if line.pop("sources") == digest]


def _table(mutants: list[Mutant]) -> Table:
    fates = ("killed", "timed out", "survived")
    rows = []
    for module in [*TESTS, "together"]:
        chosen = [mutant for mutant in mutants if module in (mutant.module, "together")]
        counts = [sum(mutant.fate == fate for mutant in chosen) for fate in fates]
        rows.append([module, f"{len(chosen)}", *map(str, counts)])
    return Table(["module of verify/", "mutants", *fates], rows)


if __name__ == "__main__":
    main()
