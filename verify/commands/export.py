"""`construct export`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from construct.artifact import ON_VECTORS, WEIGHTS, load, theorem_of
from construct.commands.table import table
from construct.errors import InputError
from construct.export.folder import WEIGHTS as MODEL
from construct.export.folder import check_absent, write_huggingface
from construct.export.gpt2 import NORMALIZATIONS, stock_model
from construct.export.provenance import HUGGINGFACE, KINDS, ONNX, TORCH, Certified, Source, at_most
from construct.export.readout import readout
from construct.export.shape import check_dense, stock_shape
from construct.export.tokenizer import check_packages
from construct.export.torch_file import check_plain, write_torch
from construct.superpose import THEOREM as SUPERPOSE
from construct.theorems import Construction
from verify.certify import file_sha256, judge, write_certificate
from verify.export import PROVED
from verify.export_certificate import verdict_of

SAID = {
    HUGGINGFACE: 'AutoModelForCausalLM.from_pretrained("{out}") loads it; README.md is its card',
    TORCH: "python {out}/model.py PROMPT.txt answers a prompt; model.py needs torch and nothing else",
    ONNX: "{out}/model.onnx was run by onnxruntime on random prompts and agrees with the torch model",
}


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(KINDS), default=HUGGINGFACE, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make; it must not exist.")
@click.option(
    "--normalization",
    type=click.Choice(NORMALIZATIONS),
    help=f"How GPT-2's layer norms are made to do nothing.  [default: {NORMALIZATIONS[0]}]",
)
@click.option("--uncertified", is_flag=True, help="Export without a proof; the export says so.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(directory: Path, kind: str, out: Path, normalization: str | None, uncertified: bool, as_json: bool) -> None:
    """Export the construction in DIRECTORY for other people's tools.

    huggingface: an unmodified GPT-2 with its tokenizer; softmax(logits) after an arrow is the mixture. torch: one file
    of plain torch, and the weights. onnx: a graph. The construction is proved before it is exported, whatever
    certificate lies beside it; so are the weights of a stock GPT-2, which get a certificate of their own. Exit status:
    0 exported, 2 unusable input or a construction that is not proved.
    """
    check_absent(out)
    if normalization is not None and kind != HUGGINGFACE:
        raise InputError(
            f"--normalization {normalization} is for --format {HUGGINGFACE}: {kind} has none, leave it out"
        )
    _check_theorem(directory)
    _check_kind(kind)
    construction = load(directory, check_hashes=uncertified)  # a proof is of the weights as they are
    _check_size(construction, kind)
    if uncertified:
        source = Source(construction, file_sha256(directory / WEIGHTS), None)
    else:
        source = _proved(construction, directory)
    source, report = _write(source, kind, normalization or NORMALIZATIONS[0], out)
    if as_json:
        click.echo(json.dumps({"directory": str(out), **{key: report[key] for key in report if key != "source"}}))
        return
    click.echo(_text(report, source, kind, out))


def _check_theorem(directory: Path) -> None:
    """Raise InputError for a construction whose answers are no tokens, or are in no table."""
    theorem = theorem_of(directory)
    if theorem in ON_VECTORS:
        raise InputError(
            f"{directory} holds a construction on vectors: an export predicts tokens, and it has none; build one on "
            "tokens (construct build --theorem two-layer or seven-layer)"
        )
    if theorem == SUPERPOSE:
        raise InputError(
            f"{directory} holds a composition: its answers come from its components' own weights, and the logits of an "
            "export are looked up in the tasks' tables; `construct predict` runs it as it is"
        )


def _check_kind(kind: str) -> None:
    """Raise InputError before anything is built when a package that the export needs is not installed."""
    if kind == HUGGINGFACE:
        check_packages()
    if kind == ONNX:
        from construct.export import onnx_file

        onnx_file.check_packages()


def _check_size(construction: Construction, kind: str) -> None:
    """Raise TooLargeError, with the figure, before anything is proved or allocated."""
    model = readout(construction)
    if kind == HUGGINGFACE:
        check_dense(stock_shape(model))
    else:
        check_plain(model)


def _proved(construction: Construction, directory: Path) -> Source:
    """The construction with what is proved of it, decided anew on the weights.

    Raises:
        InputError: it is not proved, or nothing is claimed of it.
    """
    remedy = "--uncertified exports it all the same, and says so"
    if construction.error_bound is None:
        raise InputError(f"{directory} states no error bound (its sharpness is too low), so none is proved: {remedy}")
    verdict = judge(construction, file_sha256(directory / WEIGHTS))
    if not verdict.certified:
        found = "none" if verdict.proof.real is None else f"{verdict.proof.real:.3g}"
        raise InputError(
            f"{directory} is not certified: the bound proved is {found}, the claim {verdict.eps:.3g}; {remedy}"
        )
    return Source(
        construction, verdict.weights_sha256, Certified({"real": verdict.proof.real, **verdict.proof.rounded})
    )


def _write(source: Source, kind: str, normalization: str, out: Path) -> tuple[Source, dict[str, Any]]:
    """Write the export. Returns what it says that it is made of, with what is proved of it, and its record."""
    if kind == HUGGINGFACE:
        return _write_stock(source, normalization, out)
    model = readout(source.construction)
    if kind == TORCH:
        return source, write_torch(model, source, out)
    from construct.export.onnx_file import write_onnx

    return source, write_onnx(model, source, out)


def _write_stock(source: Source, normalization: str, out: Path) -> tuple[Source, dict[str, Any]]:
    """Write a stock GPT-2 with a certificate of its own weights, where there is a proof for its theorem.

    Raises:
        InputError: the exported weights are not proved.
    """
    model = stock_model(source.construction, normalization=normalization)
    if source.certified is None or source.construction.theorem not in PROVED:
        return source, write_huggingface(model, source, out)
    verdict = verdict_of(source.construction, model.config, model.tensors, "")
    if not verdict.certified:
        reason = verdict.proof.refusals["real"]
        raise InputError(f"the exported weights are not certified ({reason}): --uncertified exports them, and says so")
    source = replace(source, certified=replace(source.certified, export=verdict.proof.answer))
    report = write_huggingface(model, source, out)
    write_certificate(replace(verdict, weights_sha256=report["sha256"][MODEL]), out)
    return source, report


def _text(report: dict[str, Any], source: Source, kind: str, out: Path) -> str:
    sizes = report["sizes"]
    heads = sizes["heads"] if isinstance(sizes["heads"], int) else max(sizes["heads"])
    parts = [
        f"{out}: {source.construction.theorem} construction of {source.construction.task_set.name!r} as {kind}, "
        f"{sizes['layers']} layers of {heads} head(s), {sizes['width']:,} wide, {sizes['parameters']:,} parameters"
        + (f", {report['normalization']}" if "normalization" in report else ""),
        SAID[kind].format(out=out),
    ]
    if source.certified is None:
        parts.append("NOT certified: no proof was asked for, and the card says so")
    else:
        bounds = source.certified.construction.items()
        rows = ((name, "no claim" if bound is None else at_most(bound)) for name, bound in bounds)
        parts.append(f"certified: the construction\n{table(rows, header=('bound on |q_hat - q|_1', ''))}")
        if export := source.certified.export:
            own = [(name, "no claim" if bound is None else at_most(bound)) for name, bound in export.items()]
            parts.append(f"certified: these very weights\n{table(own, header=('bound on the total variation', ''))}")
    return "\n".join(parts)
