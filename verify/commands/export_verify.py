"""`construct verify` on the folder of an exported GPT-2."""

import json
from pathlib import Path

import click

from construct.artifact import CERTIFICATE
from construct.commands.table import table
from verify.certify import log10_prompts, write_certificate
from verify.export import ExportProof
from verify.export_certificate import ExportVerdict, judge_export


def verify_export(directory: Path, *, claim: float | None, as_json: bool) -> bool:
    """Judge the folder, say what was found, and write certificate.json into it where the proof goes through."""
    verdict = judge_export(directory, claim)
    if verdict.certified:
        write_certificate(verdict, directory)
    click.echo(json.dumps(verdict.to_json()) if as_json else _text(verdict, directory))
    return verdict.certified


def bounds_table(proof: ExportProof) -> str:
    """The bounds on the total variation, by arithmetic."""
    rows = [
        (name, _figure(bound), _figure(proof.elsewhere[name]), proof.refusals.get(name, ""))
        for name, bound in proof.answer.items()
    ]
    return table(rows, header=("total variation", "after an arrow", "elsewhere", ""))


def _text(verdict: ExportVerdict, directory: Path) -> str:
    about = f"about 10^{log10_prompts(verdict.construction):.0f} prompts in {verdict.seconds:.2f} s"
    parts = [f"proof of an exported model over {about}", bounds_table(verdict.proof)]
    for violation in verdict.proof.violations:
        where = f"  {violation.lemma}: {violation.where}"
        parts.append(f"{where}: expected {violation.expected}, got {violation.got}")
    real = verdict.proof.answer["real"]
    if verdict.certified and real is not None:
        bound = real if verdict.claim is None else verdict.claim
        said = f"softmax(logits) is within {bound:.3g} of the mixture, in total variation"
        parts.append(f"CERTIFIED: for every prompt {said}; see {directory / CERTIFICATE}")
    else:
        wanted = "below 1" if verdict.claim is None else f"at most {verdict.claim:.3g}"
        parts.append(f"NOT PROVED: the bound found is {_figure(real)}, wanted {wanted}")
    return "\n".join(parts)


def _figure(bound: float | None) -> str:
    return "no claim" if bound is None else f"{bound:.3g}"
