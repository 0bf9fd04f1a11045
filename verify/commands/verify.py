"""`construct verify`."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from construct.artifact import CERTIFICATE, ON_VECTORS, theorem_of
from construct.commands.progress import progress_line
from construct.commands.table import table
from construct.errors import InputError
from construct.prompts import format_prompt, parse_prompt
from construct.sampling import PromptSampler
from construct.theorems import Construction
from verify.certificate import Proof
from verify.certify import Verdict, judge_folder, log10_prompts, write_certificate
from verify.commands.export_verify import verify_export
from verify.commands.vector_verify import verify_vectors
from verify.export_certificate import is_export

COUNTEREXAMPLE_SAMPLES = 400
"""Random prompts of the search for a prompt that refutes a claim that was not proved."""

SHOWN = 8
"""Violations that are listed before the rest is only counted."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--error", type=float, help="The claim on the error.  [default: the artifact's own]")
@click.option("--symbolic", is_flag=True, help="Also run prompts with the sharpness as a symbol.")
@click.option(
    "--prompt", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="For --symbolic: a prompt."
)
@click.option("--exhaustive", is_flag=True, help="Also run every prompt, where their number allows.")
@click.option("--limit", type=int, default=2_000_000, show_default=True, help="For --exhaustive: the most prompts.")
@click.option("--sample", type=int, metavar="N", help="Also search for the worst prompt, from N random ones.")
@click.option("--dtype", type=click.Choice(["float64", "float32", "bfloat16", "float16"]), default="float32")
@click.option("--device", default="cpu", show_default=True, help="For --sample: a torch device.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of drawn prompts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    directory: Path,
    error: float | None,
    symbolic: bool,
    prompt: Path | None,
    exhaustive: bool,
    limit: int,
    sample: int | None,
    dtype: str,
    device: str,
    seed: int,
    as_json: bool,
) -> None:
    """Prove, for EVERY prompt, that the weights in DIRECTORY answer within the error; write certificate.json.

    DIRECTORY is a construction's folder, or that of a stock GPT-2 made by `construct export`: there --error is a claim
    on the total variation. Exit status: 0 certified, 1 refuted or not provable (it says which), 2 unusable input.
    """
    if prompt is not None and not symbolic:
        raise InputError("--prompt is for --symbolic: give that too")
    if sample is not None and sample < 1:
        raise InputError(f"--sample is {sample}: expected at least 1")
    if seed < 0:
        raise InputError(f"--seed is {seed}: expected 0 or more")
    if is_export(directory):
        _refuse_modes_of_exports(symbolic=symbolic, exhaustive=exhaustive, sample=sample)
        context.exit(0 if verify_export(directory, claim=error, as_json=as_json) else 1)
    if theorem_of(directory) in ON_VECTORS:
        _refuse_token_modes(context, symbolic=symbolic, exhaustive=exhaustive)
        certified = verify_vectors(directory, error=error, sample=sample, device=device, seed=seed, as_json=as_json)
        context.exit(0 if certified else 1)
    verdict = judge_folder(directory, error)
    report: dict[str, Any] = verdict.to_json()
    if verdict.certified:
        write_certificate(verdict, directory)
    elif (counterexample := _counterexample(verdict, seed)) is not None:
        report["counterexample"] = counterexample
    if symbolic:
        report["symbolic"] = _symbolic(verdict.construction, prompt, seed)
    if exhaustive:
        report["exhaustive"] = _exhaustive(verdict.construction, limit)
    if sample is not None:
        report["sampled"] = _sampled(verdict, sample, dtype, device, seed)
    contradicted = _contradictions(report, verdict)
    if contradicted:
        report["violations"] = [*report["violations"], *contradicted]
        report["certified"] = False
    click.echo(json.dumps(report) if as_json else _text(verdict, report, directory))
    context.exit(0 if report["certified"] else 1)


def _refuse_modes_of_exports(*, symbolic: bool, exhaustive: bool, sample: int | None) -> None:
    """Raise InputError for what is not there for an exported model."""
    if symbolic or exhaustive or sample is not None:
        raise InputError(
            "--symbolic, --exhaustive and --sample are for a construction's own folder: of an export the proof is run"
        )


def _refuse_token_modes(context: click.Context, *, symbolic: bool, exhaustive: bool) -> None:
    """Raise InputError for what is asked of a construction on vectors and has no meaning there."""
    if symbolic:
        raise InputError("--symbolic is for tokens: on vectors weights are no exact numbers; --sample N runs prompts")
    if exhaustive:
        raise InputError(
            "--exhaustive is for tokens: there are infinitely many prompts of vectors; --sample N runs some"
        )
    given = context.get_parameter_source("dtype")
    if given is not None and given.name == "COMMANDLINE":
        raise InputError("--dtype is for tokens: vectors are sampled in float64 and float32 both, leave it out")


def _counterexample(verdict: Verdict, seed: int) -> dict[str, Any] | None:
    """A prompt on which the weights are off by more than the claim, confirmed by running it; None if none is found."""
    from verify.adversary import confirm, search

    worst = search(verdict.construction, samples=COUNTEREXAMPLE_SAMPLES, dtype="float64", seed=seed)
    if not worst.error > verdict.eps:
        return None
    confirmed = confirm(verdict.construction, worst.prompt)
    if not confirmed > verdict.eps:
        return None
    return {"prompt": format_prompt(worst.prompt, verdict.construction.task_set), "error": confirmed}


def _symbolic(construction: Construction, path: Path | None, seed: int) -> dict[str, Any]:
    from verify.ordered_field import SymbolicError
    from verify.symbolic import execute

    if path is not None:
        try:
            prompt = parse_prompt(path.read_text(encoding="utf-8"), construction.task_set)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the prompt {path}: {error}") from error
    else:
        examples = min(construction.layout.examples, 5)
        prompt = PromptSampler(construction.task_set).prompt(examples, np.random.default_rng(seed))
    try:
        answer = execute(construction, prompt, progress=progress_line())
    except SymbolicError as error:
        # The weights' scores are no multiples of the sharpness: nothing is claimed of them here.
        return {"prompt": format_prompt(prompt, construction.task_set), "refused": str(error)}
    token = construction.task_set.alphabet.__getitem__
    return {
        "prompt": format_prompt(prompt, construction.task_set),
        "limit": {token(at): str(value) for at, value in enumerate(answer.limit) if value},
        "target": {token(at): str(value) for at, value in enumerate(answer.target) if value},
        "exact": answer.exact,
        "error_order": None if answer.error_order is None else str(answer.error_order),
        "error_coefficient": str(answer.error_coefficient),
        "least_sharpness": float(answer.least_sharpness),
        "holds": answer.holds,
        "error": answer.error,
    }


def _exhaustive(construction: Construction, limit: int) -> dict[str, Any]:
    from verify.exhaustive import exhaust

    worst = exhaust(construction, limit=limit, progress=progress_line())
    return {
        "prompts": worst.prompts,
        "error": worst.error,
        "rounding": worst.rounding,
        "prompt": format_prompt(worst.prompt, construction.task_set),
    }


def _sampled(verdict: Verdict, samples: int, dtype: str, device: str, seed: int) -> dict[str, Any]:
    from verify.adversary import search

    worst = search(
        verdict.construction, samples=samples, dtype=dtype, device=device, seed=seed, progress=progress_line()
    )
    bound = verdict.proof.real if dtype == "float64" else verdict.proof.rounded.get(dtype)
    ratio = bound / worst.error if bound is not None and worst.error > 0 else None
    prompt = format_prompt(worst.prompt, verdict.construction.task_set)
    return {
        "dtype": dtype,
        "device": device,
        "answers": worst.prompts,
        "error": worst.error,
        "bound": bound,
        "ratio": ratio,
        "prompt": prompt,
    }


def _contradictions(report: dict[str, Any], verdict: Verdict) -> list[dict[str, str]]:
    """What another mode found that the proof excludes: there must be nothing."""
    found = []
    real = verdict.proof.real
    if "exhaustive" in report and real is not None:
        worst = report["exhaustive"]
        # float64 itself may be off by its rounding.
        if worst["error"] > real + 64 * worst["rounding"]:
            found.append(("exhaustive", worst["prompt"], f"at most {real:.6g}", f"{worst['error']:.6g}"))
    if "sampled" in report and report["sampled"]["dtype"] != "float64" and report["sampled"]["bound"] is not None:
        worst = report["sampled"]
        if worst["error"] > worst["bound"]:
            found.append(("sampled", worst["prompt"], f"at most {worst['bound']:.6g}", f"{worst['error']:.6g}"))
    if "symbolic" in report and not report["symbolic"].get("exact", True):
        worst = report["symbolic"]
        found.append(("symbolic", worst["prompt"], str(worst["target"]), str(worst["limit"])))
    return [dict(zip(("lemma", "where", "expected", "got"), entry, strict=True)) for entry in found]


def _text(verdict: Verdict, report: dict[str, Any], directory: Path) -> str:
    parts = [summary(verdict.proof, verdict.construction, verdict.seconds, verdict.eps)]
    for name, says in (("symbolic", _symbolic_text), ("exhaustive", _exhaustive_text), ("sampled", _sampled_text)):
        if name in report:
            parts.append(says(report[name]))
    violations = report["violations"]
    parts += [
        f"  {violation['lemma']}: {violation['where']}: expected {violation['expected']}, got {violation['got']}"
        for violation in violations[:SHOWN]
    ]
    if len(violations) > SHOWN:
        parts.append(f"  and {len(violations) - SHOWN} more: --json lists them")
    if report["certified"]:
        parts.append(f"CERTIFIED: for every prompt |q_hat - q|_1 <= {verdict.eps:.3g}; see {directory / CERTIFICATE}")
    elif "counterexample" in report:
        example = report["counterexample"]
        parts.append(f"REFUTED: the model is off by {example['error']:.6g} > {verdict.eps:.3g} on\n{example['prompt']}")
    elif verdict.proof.real is not None and verdict.proof.real <= verdict.eps:
        parts.append("REFUTED: the modes contradict each other, as said above")
    else:
        got = "none" if verdict.proof.real is None else f"{verdict.proof.real:.6g}"
        parts.append(
            f"NOT PROVED: the bound found is {got}, the claim {verdict.eps:.3g}; no wrong prompt was found either"
        )
    return "\n".join(parts)


def summary(proof: Proof, construction: Construction, seconds: float, eps: float) -> str:
    """The outcome of the proof in a few lines."""
    bounds = {"real arithmetic": proof.real, **proof.rounded}
    rows = [
        (name, "no claim" if bound is None else f"{bound:.3g}", proof.refusals.get(name, ""))
        for name, bound in bounds.items()
    ]
    lemmas = ", ".join(f"{lemma.name} {'holds' if lemma.holds else 'FAILS'}" for lemma in proof.lemmas)
    title = f"proof over about 10^{log10_prompts(construction):.0f} prompts in {seconds:.2f} s, claim {eps:.3g}"
    return f"{title}\n  lemmas: {lemmas or 'none'}\n{table(rows, header=('bound on |q_hat - q|_1', '', ''))}"


def _symbolic_text(found: dict[str, Any]) -> str:
    if "refused" in found:
        return f"symbolic: refused, {found['refused']}"
    exact = "is the exact target" if found["exact"] else f"is NOT the target {found['target']}"
    order = (
        "0"
        if found["error_order"] is None
        else f"{float(_number(found['error_coefficient'])):.4g} z^{found['error_order']}"
    )
    holds = "which it is" if found["holds"] else "which it is NOT"
    return (
        f"symbolic, z = exp(-sharpness): at z = 0 the answer {found['limit']} {exact};\n"
        f"  error {order} + ..., here {found['error']:.3g}, "
        f"for every sharpness >= {found['least_sharpness']:.4g}, {holds}"
    )


def _number(fraction: str) -> float:
    top, _, bottom = fraction.partition("/")
    return int(top) / int(bottom or 1)


def _exhaustive_text(found: dict[str, Any]) -> str:
    return f"exhaustive: {found['prompts']:,} prompts, the worst error is {found['error']:.6g}"


def _sampled_text(found: dict[str, Any]) -> str:
    ratio = "" if found["ratio"] is None else f", the bound {found['bound']:.3g} is {found['ratio']:.3g} times that"
    answers = f"{found['answers']:,} answers"
    return f"sampled in {found['dtype']}: {answers}, the worst error found is {found['error']:.3g}{ratio}"
