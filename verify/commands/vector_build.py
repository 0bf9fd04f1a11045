"""What `construct build` does with tasks on vectors."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from construct.artifact import WEIGHTS, check_free, sizes
from construct.commands.table import table
from construct.errors import InputError
from construct.seven_vectors import seven_layer_vectors
from construct.vector_artifact import save_vectors
from construct.vector_comparison import FINGERPRINT
from construct.vector_suites import random_vector_tasks
from construct.vector_task_file import load_vector_task_file
from construct.vector_tasks import DEFAULT_MARGIN, VectorTaskSet
from construct.vector_theorem import DEFAULT_VECTOR_ERROR, VectorConstruction, vectors
from verify.certify import file_sha256, write_certificate
from verify.commands.vector_verify import vector_summary
from verify.vector_certify import VectorVerdict, judge_vectors

DEFAULT_KIND = "orthogonal"
DEFAULT_TASKS, DEFAULT_DIM = 3, 8


@dataclass(frozen=True)
class VectorOptions:
    """The options of `construct build` that only vectors have; None is not given.

    Args:
        dim: d.
        kind: of random tasks.
        offsets: the norm of the offsets of random tasks.
        bound: R.
        margin: delta.
        width: r, the coordinates of a fingerprint.
        comparison: "fingerprint" or "attention".
    """

    dim: int | None = None
    kind: str | None = None
    offsets: float | None = None
    bound: float | None = None
    margin: float | None = None
    width: int | None = None
    comparison: str | None = None

    @property
    def any_given(self) -> bool:
        """Whether one is given."""
        return any(value is not None for value in vars(self).values())

    def refuse_any(self, theorem: str) -> None:
        """Raise InputError if one is given, for a theorem on tokens."""
        for name, value in vars(self).items():
            if value is not None:
                raise InputError(f"--{name} {value} is for tasks on vectors, not {theorem}: leave it out")


def vector_task_set(
    task_file: Path | None, tasks: int | None, inputs: int | None, seed: int | None, options: VectorOptions
) -> VectorTaskSet:
    """The tasks of a file, with the margin given instead of its own, or random ones."""
    if task_file is not None:
        given: Mapping[str, object] = {
            "--tasks": tasks,
            "--inputs": inputs,
            "--seed": seed,
            "--dim": options.dim,
            "--kind": options.kind,
            "--offsets": options.offsets,
            "--bound": options.bound,
        }
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} {value} does not go with --task-file, which says all: leave it out")
        loaded = load_vector_task_file(task_file)
        return loaded if options.margin is None else replace(loaded, margin=options.margin)
    count = DEFAULT_TASKS if tasks is None else tasks
    return random_vector_tasks(
        options.kind or DEFAULT_KIND,
        tasks=count,
        dim=DEFAULT_DIM if options.dim is None else options.dim,
        inputs=min(max(count, 1), 4) if inputs is None else inputs,
        seed=seed or 0,
        offsets=options.offsets or 0.0,
        bound=1.0 if options.bound is None else options.bound,
        margin=DEFAULT_MARGIN if options.margin is None else options.margin,
    )


def build_vectors(
    task_set: VectorTaskSet,
    options: VectorOptions,
    *,
    seven: bool,
    examples: int,
    error: float | None,
    sharpness: float | None,
    directory: Path,
    dense: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Build, prove and write a construction on vectors, and report; nothing is written that is not certified.

    `seven`: one step of the argument a layer, instead of three layers.
    """
    start = time.perf_counter()
    check_free(directory)
    build = seven_layer_vectors if seven else vectors
    construction = build(
        task_set,
        examples=examples,
        error=DEFAULT_VECTOR_ERROR if error is None else error,
        sharpness=sharpness,
        width=options.width,
        comparison=options.comparison or FINGERPRINT,
    )
    built = time.perf_counter() - start
    verdict = _verdict(construction) if verify else None
    if verdict is not None and not verdict.certified:
        bounds = f"the bound proved is {verdict.proof.real}, the claim {verdict.eps:g}"
        raise click.ClickException(f"what was built is not certified ({bounds}); nothing was written, please report it")
    start = time.perf_counter()
    claimed = construction.error_bound is not None
    says = "skipped by --no-verify"
    if verify:
        says = "certified when built" if claimed else "no claim: the sharpness is too low for one"
    save_vectors(construction, directory, dense=dense, verification=says)
    seconds = built + time.perf_counter() - start
    if verdict is not None:
        verdict = replace(verdict, weights_sha256=file_sha256(directory / WEIGHTS))
        write_certificate(verdict, directory)
    report = _report(construction, verdict, directory, seconds) | {"verification": says}
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo(_summary(construction, report))
    if verdict is not None:
        click.echo(vector_summary(verdict))
    else:
        click.echo(f"not verified: {says}; `construct verify {directory}` does it")


def _verdict(construction: VectorConstruction) -> VectorVerdict | None:
    """The proof of what was built, None where no error is claimed."""
    if construction.error_bound is None:
        return None
    if sys.stderr.isatty():
        click.echo("proving the bound for every prompt ...", err=True)
    return judge_vectors(construction, "")


def _report(
    construction: VectorConstruction, verdict: VectorVerdict | None, directory: Path, seconds: float
) -> dict[str, Any]:
    proved = {} if verdict is None else {"certified_bound": {"real": verdict.proof.real, **verdict.proof.rounded}}
    return {
        "directory": str(directory),
        "theorem": construction.theorem,
        **sizes(construction),
        "sharpness": construction.sharpness,
        "error_bound": construction.error_bound,
        "seconds": round(seconds, 4),
        **proved,
        "verify_seconds": None if verdict is None else round(verdict.seconds, 3),
    }


def _summary(construction: VectorConstruction, report: dict[str, Any]) -> str:
    layout, comparison, bound = construction.layout, construction.comparison, construction.error_bound
    task_set = construction.task_set
    rows = [
        ("tasks (K)", len(task_set.tasks)),
        ("dimension (d)", layout.dim),
        ("inputs (n)", layout.inputs),
        ("examples (m)", layout.examples),
        ("input, answer bound", f"{task_set.bound:g}, {task_set.answer_bound:g} (Euclidean norms)"),
        ("compared by", f"{comparison.kind}: {comparison.says}"),
        ("follows within", f"{comparison.tolerance:g}, does not beyond the margin {comparison.margin:g}"),
        ("layers", report["layers"]),
        ("heads", " + ".join(map(str, report["heads"]))),
        ("d_model", report["d_model"]),
        ("MLP units", " + ".join(map(str, report["mlp_width"]))),
        ("parameters", f"{report['parameters']:,} dense, {report['nonzero_parameters']:,} not 0"),
        ("sharpness", f"{construction.sharpness:g}"),
        ("error bound", "none: the sharpness is too low" if bound is None else f"{bound:.2e} (real arithmetic)"),
        ("seconds", f"{report['seconds']:.2f}"),
    ]
    return f"{construction.theorem} construction of {task_set.name!r} in {report['directory']}\n{table(rows)}"
