"""`construct build`."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from construct.artifact import VECTORS, WEIGHTS, check_free, save, sizes
from construct.commands.table import table
from construct.constructions import KINDS
from construct.errors import InputError
from construct.seven_layer import THEOREM as SEVEN
from construct.suites import SUITES, build_suite
from construct.task_file import load_task_file
from construct.tasks import TaskSet
from construct.theorems import DEFAULT_ERROR, Construction
from construct.vector_comparison import COMPARISONS
from construct.vector_suites import KINDS as VECTOR_KINDS
from construct.vector_theorem import DEFAULT_VECTOR_ERROR
from verify.certify import Verdict, file_sha256, judge, write_certificate
from verify.commands.vector_build import DEFAULT_KIND, VectorOptions, build_vectors, vector_task_set
from verify.commands.verify import summary

DEFAULT_SUITE = "retrieval"
DEFAULT_THEOREM = "two-layer"


@click.command()
@click.option(
    "--theorem",
    type=click.Choice([*KINDS, VECTORS]),
    default=DEFAULT_THEOREM,
    show_default=True,
    help="Two layers; the argument of Theorem 1 a step a layer; affine tasks on vectors. With a `Vectors:` option or "
    "such a task file, seven-layer is on vectors too.",
)
@click.option("--tasks", type=int, help="K, the number of tasks of a suite, or of random tasks on vectors.")
@click.option("--suite", help=f"A named suite: {', '.join(SUITES)}.  [default: {DEFAULT_SUITE}]")
@click.option(
    "--task-file",
    type=click.Path(path_type=Path),
    help="Tasks of your own, instead of a suite: JSON, for vectors also .npz.",
)
@click.option("--alphabet-size", type=int, help="V, the number of tokens of a suite that takes any.")
@click.option("--inputs", type=int, help="n, the input tokens of an example, of a suite that takes any.")
@click.option("--examples", type=int, default=60, show_default=True, help="m, the most examples in a prompt.")
@click.option(
    "--error",
    type=float,
    help=f"The wanted bound on |q_hat - q|_1, for vectors on |q_hat - q|_max.  [default: {DEFAULT_ERROR:g}, "
    f"for vectors {DEFAULT_VECTOR_ERROR:g}]",
)
@click.option("--sharpness", type=float, help="lambda, the scale of the attention scores, instead of --error.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write.  [default: NAME-of-the-tasks]")
@click.option("--seed", type=int, help="Of a suite with random tables, or of random tasks on vectors.  [default: 0]")
@click.option("--dim", type=int, help="Vectors: d, their length.  [default: 8]")
@click.option(
    "--kind", type=click.Choice(list(VECTOR_KINDS)), help=f"Vectors: matrices drawn.  [default: {DEFAULT_KIND}]"
)
@click.option("--offsets", type=float, help="Vectors: the norm of the random tasks' offsets.  [default: 0]")
@click.option("--bound", type=float, help="Vectors: R, the largest norm of an input.  [default: 1]")
@click.option(
    "--margin", type=float, help="Vectors: how far an example is from tasks it does not follow.  [default: 1/8]"
)
@click.option("--width", type=int, help="Vectors: r, the coordinates of a fingerprint.  [default: d]")
@click.option("--comparison", type=click.Choice(list(COMPARISONS)), help="Vectors: how examples are compared.")
@click.option("--dense", is_flag=True, help="Store every tensor dense.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Prove the bound for every prompt.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    theorem: str,
    tasks: int | None,
    suite: str | None,
    task_file: Path | None,
    alphabet_size: int | None,
    inputs: int | None,
    examples: int,
    error: float | None,
    sharpness: float | None,
    out: Path | None,
    seed: int | None,
    dim: int | None,
    kind: str | None,
    offsets: float | None,
    bound: float | None,
    margin: float | None,
    width: int | None,
    comparison: str | None,
    dense: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Build the weights of K tasks in superposition.

    `construct build --tasks 3` builds retrieval: task j answers the j-th character of a string. The folder holds
    weights.safetensors and construction.json, all that the other commands need, and certificate.json, the proof for
    every prompt. Exit status: 0 built, 1 built but not proved (nothing is written), 2 unusable input.
    """
    start = time.perf_counter()
    if error is not None and sharpness is not None:
        raise InputError("--error and --sharpness are both given: the one chooses the other, give one")
    if seed is not None and seed < 0:
        raise InputError(f"seed is {seed}: expected at least 0")
    options = VectorOptions(dim, kind, offsets, bound, margin, width, comparison)
    if theorem == VECTORS or (theorem == SEVEN and (options.any_given or _is_vector_file(task_file))):
        for name, value in (("--suite", suite), ("--alphabet-size", alphabet_size)):
            if value is not None:
                raise InputError(f"{name} {value} is for tasks on tokens, not on vectors: leave it out")
        on_vectors = vector_task_set(task_file, tasks, inputs, seed, options)
        build_vectors(
            on_vectors,
            options,
            seven=theorem == SEVEN,
            examples=examples,
            error=error,
            sharpness=sharpness,
            directory=out if out is not None else Path(_folder_name(on_vectors.name)),
            dense=dense,
            verify=verify,
            as_json=as_json,
        )
        return
    options.refuse_any(theorem)
    task_set = _task_set(tasks, suite, task_file, alphabet_size, inputs, seed)
    directory = out if out is not None else Path(f"{_folder_name(task_set.name)}-{len(task_set.tasks)}")
    check_free(directory)
    wanted = DEFAULT_ERROR if error is None else error
    construction = KINDS[theorem].build(task_set, examples=examples, error=wanted, sharpness=sharpness)
    built = time.perf_counter() - start
    verdict = _verdict(construction) if verify else None
    if verdict is not None and not verdict.certified:
        bounds = f"the bound proved is {verdict.proof.real}, the claim {verdict.eps:g}"
        raise click.ClickException(f"what was built is not certified ({bounds}); nothing was written, please report it")
    start = time.perf_counter()
    save(construction, directory, dense=dense, verification=_VERIFICATION[verify, construction.error_bound is not None])
    report = _report(construction, verdict, directory, built + time.perf_counter() - start)
    if verdict is not None:
        write_certificate(replace(verdict, weights_sha256=file_sha256(directory / WEIGHTS)), directory)
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo(_summary(construction, report))
    if verdict is not None:
        click.echo(summary(verdict.proof, construction, verdict.seconds, verdict.eps))
    else:
        click.echo(f"not verified: {report['verification']}; `construct verify {directory}` does it")


_VERIFICATION = {
    (True, True): "certified when built",
    (True, False): "no claim: the sharpness is too low for one",
    (False, True): "skipped by --no-verify",
    (False, False): "skipped by --no-verify",
}


def _verdict(construction: Construction) -> Verdict | None:
    """The proof of what was built, None where no error is claimed."""
    if construction.error_bound is None:
        return None
    if sys.stderr.isatty():
        click.echo("proving the bound for every prompt ...", err=True)
    return judge(construction, "")


def _task_set(
    tasks: int | None,
    suite: str | None,
    task_file: Path | None,
    alphabet_size: int | None,
    inputs: int | None,
    seed: int | None,
) -> TaskSet:
    if task_file is None:
        name = suite or DEFAULT_SUITE
        seeded = name not in SUITES or "seed" in SUITES[name].defaults
        return build_suite(
            name, tasks=tasks, alphabet_size=alphabet_size, inputs=inputs, seed=(seed or 0) if seeded else 0
        )
    given = {"--suite": suite, "--tasks": tasks, "--alphabet-size": alphabet_size}
    given |= {"--inputs": inputs, "--seed": seed}
    for option, value in given.items():
        if value is not None:
            raise InputError(f"{option} {value} does not go with --task-file, which says all: leave it out")
    return load_task_file(task_file)


def _is_vector_file(task_file: Path | None) -> bool:
    """Whether a task file is one of affine tasks: an archive, or JSON whose tasks have matrices."""
    if task_file is None or task_file.suffix == ".npz":
        return task_file is not None
    try:
        tasks = json.loads(task_file.read_text(encoding="utf-8"))["tasks"]
        return any("matrix" in task for task in tasks)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # whoever loads it says what is wrong


def _folder_name(name: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
    return kept.strip("-") or "construction"


def _report(construction: Construction, verdict: Verdict | None, directory: Path, seconds: float) -> dict[str, Any]:
    proved = {} if verdict is None else {"certified_bound": {"real": verdict.proof.real, **verdict.proof.rounded}}
    claimed = construction.error_bound is not None
    return {
        "directory": str(directory),
        "theorem": construction.theorem,
        **sizes(construction),
        "sharpness": construction.sharpness,
        "error_bound": construction.error_bound,
        "seconds": round(seconds, 4),
        "verification": _VERIFICATION[verdict is not None or not claimed, claimed],
        **proved,
        "verify_seconds": None if verdict is None else round(verdict.seconds, 3),
    }


def _summary(construction: Construction, report: dict[str, Any]) -> str:
    layout, bound = construction.layout, construction.error_bound
    rows = [
        ("tasks (K)", len(construction.task_set.tasks)),
        ("alphabet (V)", layout.alphabet_size),
        ("inputs (n)", layout.inputs),
        ("examples (m)", layout.examples),
        ("layers", report["layers"]),
        ("heads", " + ".join(map(str, report["heads"]))),
        ("d_model", report["d_model"]),
        ("MLP units", " + ".join(map(str, report["mlp_width"]))),
        ("parameters", f"{report['parameters']:,} dense, {report['nonzero_parameters']:,} not 0"),
        ("sharpness", f"{construction.sharpness:g}"),
        ("error bound", "none: the sharpness is too low" if bound is None else f"{bound:.2e} (real arithmetic)"),
        ("seconds", f"{report['seconds']:.2f}"),
    ]
    title = f"{construction.theorem} construction of {construction.task_set.name!r} in {report['directory']}"
    return f"{title}\n{table(rows)}"
