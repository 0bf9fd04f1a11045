"""What `construct verify` does with a construction on vectors."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from construct.artifact import CERTIFICATE
from construct.commands.progress import progress_line
from construct.commands.table import table
from construct.errors import InputError
from construct.vector_oracle import vector_answer
from construct.vector_prompt_file import prompt_to_json
from verify.certify import write_certificate
from verify.vector_certify import VectorVerdict, judge_vector_folder

if TYPE_CHECKING:
    from verify.vector_adversary import VectorSearcher  # imports torch

COUNTEREXAMPLE_SAMPLES = 60
"""Random prompts of the search for a prompt that refutes a claim that was not proved."""

SHOWN = 8
"""Violations, and numbers of a vector, that are listed before the rest is only counted."""

ROUNDING = 2.0**-44
"""What a float64 forward pass may be off, relative to the longest answer: its own rounding, with room to spare."""


def verify_vectors(
    directory: Path, *, error: float | None, sample: int | None, device: str, seed: int, as_json: bool
) -> bool:
    """Prove the bound of the folder's weights, write certificate.json, and report. Returns whether it is certified."""
    verdict = judge_vector_folder(directory, error)
    report = verdict.to_json()
    if not verdict.certified and (counterexample := _counterexample(verdict, seed)) is not None:
        report["counterexample"] = counterexample
    if sample is not None:
        report["sampled"] = _sampled(verdict, sample, device, seed)
        contradicted = _contradictions(verdict, report["sampled"])
        if contradicted:
            report |= {"violations": [*report["violations"], *contradicted], "certified": False}
    if report["certified"]:
        write_certificate(verdict, directory)
    click.echo(json.dumps(report) if as_json else _text(verdict, report, directory))
    return bool(report["certified"])


def _searcher(verdict: VectorVerdict, seed: int) -> "VectorSearcher":
    from verify.vector_adversary import VectorSearcher

    construction = verdict.construction
    return VectorSearcher(construction.task_set, construction.comparison, construction.layout, seed)


def _counterexample(verdict: VectorVerdict, seed: int) -> dict[str, Any] | None:
    """A prompt on which the weights are off by more than the claim, confirmed by the oracle; None if none is found."""
    from verify.vector_adversary import confirm_vectors

    construction = verdict.construction
    try:
        worst = _searcher(verdict, seed).search(construction.weights, samples=COUNTEREXAMPLE_SAMPLES, seed=seed)
    except InputError:
        return None  # there is no prompt in the domain to be found
    if not worst.error > verdict.eps:
        return None
    answer = vector_answer(construction.task_set, construction.comparison, worst.prompt)
    confirmed = confirm_vectors(construction.layout, construction.weights, answer.target, worst.prompt)
    if answer.outside or not confirmed > verdict.eps + ROUNDING * construction.task_set.answer_bound:
        return None
    return {"prompt": prompt_to_json(worst.prompt), "error": confirmed if math.isfinite(confirmed) else None}


def _sampled(verdict: VectorVerdict, samples: int, device: str, seed: int) -> dict[str, Any]:
    """The worst of random and adversarial prompts in both formats, and how far the bounds are above it."""
    searcher, progress = _searcher(verdict, seed), progress_line()
    bounds: Mapping[str, float | None] = {
        "float64": verdict.proof.real,
        "float32": verdict.proof.rounded.get("float32"),
    }
    found: dict[str, Any] = {"device": device}
    for dtype, bound in bounds.items():
        worst = searcher.search(
            verdict.construction.weights, samples=samples, dtype=dtype, device=device, seed=seed, progress=progress
        )
        finite = math.isfinite(worst.error)
        found[dtype] = {
            "answers": worst.answers,
            "error": worst.error if finite else None,
            "bound": bound,
            "ratio": bound / worst.error if bound is not None and finite and worst.error > 0 else None,
            "prompt": prompt_to_json(worst.prompt),
        }
    return found


def _contradictions(verdict: VectorVerdict, sampled: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the search found that the proof excludes: there must be nothing."""
    found = []
    for dtype in ("float64", "float32"):
        part = sampled[dtype]
        bound, error = part["bound"], part["error"]
        room = ROUNDING * verdict.construction.task_set.answer_bound if dtype == "float64" else 0.0
        if bound is not None and (error is None or error > bound + room):
            got = "no finite number" if error is None else f"{error:.6g}"
            at = f"{len(part['prompt']['examples'])} examples"
            found.append({"lemma": "sampled", "where": at, "expected": f"at most {bound:.6g}", "got": got})
    return found


def vector_summary(verdict: VectorVerdict) -> str:
    """The outcome of the proof in a few lines."""
    proof, comparison = verdict.proof, verdict.construction.comparison
    bounds = {"real arithmetic": proof.real, **proof.rounded}
    rows = [
        (name, "no claim" if bound is None else f"{bound:.3g}", proof.refusals.get(name, ""))
        for name, bound in bounds.items()
    ]
    lemmas = ", ".join(f"{lemma.name} {'holds' if lemma.holds else 'FAILS'}" for lemma in proof.lemmas)
    title = (
        f"proof over all prompts whose examples are within {comparison.tolerance:g} or beyond {comparison.margin:g} of "
        f"each task, in {verdict.seconds:.2f} s, claim {verdict.eps:.3g}"
    )
    return f"{title}\n  lemmas: {lemmas or 'none'}\n{table(rows, header=('bound on |q_hat - q|_max', '', ''))}"


def _text(verdict: VectorVerdict, report: Mapping[str, Any], directory: Path) -> str:
    parts = [vector_summary(verdict)]
    for dtype in ("float64", "float32") if "sampled" in report else ():
        part = report["sampled"][dtype]
        error = "no finite number" if part["error"] is None else f"{part['error']:.3g}"
        ratio = "" if part["ratio"] is None else f", the bound {part['bound']:.3g} is {part['ratio']:.3g} times that"
        parts.append(f"sampled in {dtype}: {part['answers']:,} answers, the worst error found is {error}{ratio}")
    violations = report["violations"]
    parts += [
        f"  {violation['lemma']}: {violation['where']}: expected {violation['expected']}, got {violation['got']}"
        for violation in violations[:SHOWN]
    ]
    if len(violations) > SHOWN:
        parts.append(f"  and {len(violations) - SHOWN} more: --json lists them")
    real, eps = verdict.proof.real, verdict.eps
    if report["certified"]:
        parts.append(f"CERTIFIED: for every prompt |q_hat - q|_max <= {eps:.3g}; see {directory / CERTIFICATE}")
    elif "counterexample" in report:
        parts.append(_refutation(report["counterexample"], eps))
    elif real is not None and real <= eps:
        parts.append("REFUTED: the sampled prompts contradict the proof, as said above")
    else:
        got = "none" if real is None else f"{real:.6g}"
        parts.append(f"NOT PROVED: the bound found is {got}, the claim {eps:.3g}; no wrong prompt was found either")
    return "\n".join(parts)


def _refutation(example: Mapping[str, Any], eps: float) -> str:
    prompt = example["prompt"]
    off = "is no finite number" if example["error"] is None else f"is off by {example['error']:.6g} > {eps:.3g}"
    query = "; ".join(" ".join(f"{number:.4g}" for number in row[:SHOWN]) for row in prompt["query"][:SHOWN])
    return (
        f"REFUTED: the model {off} after {len(prompt['examples'])} example(s), on the query {query}; "
        "--json has the whole prompt, which `construct predict` takes"
    )
