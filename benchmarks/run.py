"""`python -m benchmarks.run`: run the benchmarks, print Markdown tables, write the records as JSON."""

import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from benchmarks import accuracy, exporting, growth, precision, proving, reach, scoring, sparse_tables, startup, training
from benchmarks.measure import ROOT, THREADS, StepError
from benchmarks.report import Report

BENCHMARKS: dict[str, Callable[..., Report]] = {
    "reach": reach.run,
    "accuracy": accuracy.run,
    "growth": growth.run,
    "sparse": sparse_tables.run,
    "startup": startup.run,
    "proving": proving.run,
    "precision": precision.run,
    "scoring": scoring.run,
    "training": training.run,
    "exporting": exporting.run,
}
RESULTS = ROOT / "benchmarks" / "results.json"
PACKAGES = ("task-superposition", "torch", "numpy", "scipy", "safetensors")


@click.command()
@click.option("--only", type=click.Choice(list(BENCHMARKS)), multiple=True, help="Run this one; can be repeated.")
@click.option("--quick", is_flag=True, help="Fewer and smaller sizes, to see that everything runs.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the records go.  [default: benchmarks/results.json; nowhere with --only or --quick]",
)
def main(only: tuple[str, ...], *, quick: bool, out: Path | None) -> None:
    """Run the benchmarks: tables on standard output, progress on standard error, records as JSON."""
    records: dict[str, Any] = {}
    missing = []
    begun, started = time.perf_counter(), environment()
    click.echo(f"# Benchmarks\n\n{_sentence(started)}")
    for name in only or BENCHMARKS:
        print(name, file=sys.stderr)
        load_before = os.getloadavg()[0]
        try:
            report = BENCHMARKS[name](quick=quick)
        except StepError as error:
            missing.append(name)
            click.echo(f"\n## {name}\n\nNot measured: {error}.")
            continue
        load = f"Load average while this ran: {load_before:.1f} before, {os.getloadavg()[0]:.1f} after."
        click.echo(f"\n{report.markdown()}\n\n{load}")
        records[name] = list(report.records)
    target = out or (None if only or quick else RESULTS)
    whole = {"environment": started, "seconds": time.perf_counter() - begun, "quick": quick, "records": records}
    if target is not None and not missing:
        write_whole(target, json.dumps(whole, indent=1) + "\n")
        print(f"records in {target}", file=sys.stderr)
    if missing:
        sys.exit(1)


def environment() -> dict[str, Any]:
    """Versions, cores and date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": THREADS,
        "load_average": round(os.getloadavg()[0], 2),
    }


def _sentence(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['date'][:10]}: Python {found['python']}, {versions}; {found['system']}, {found['cores']} cores, "
        f"of which {found['threads']} threads are used; load average {found['load_average']} at the start."
    )


def write_whole(path: Path, text: str) -> None:
    """The whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
