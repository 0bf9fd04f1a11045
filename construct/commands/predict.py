"""`construct predict`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from construct.artifact import ON_VECTORS, load, theorem_of
from construct.bounds import PRECISIONS
from construct.commands.progress import progress_line
from construct.commands.table import bar, table
from construct.commands.vector_predict import predict_vectors
from construct.constructions import KINDS
from construct.errors import InputError, PromptError
from construct.prediction import Prediction, Predictor
from construct.prompts import Prompt, parse_prompt
from construct.theorems import Construction

SHOWN = 12
"""Answers, and tasks, that the table lists before the rest is only counted."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option("--jsonl", type=click.Path(path_type=Path), help='A file with one {"prompt": ...} a line.')
@click.option("--curve", is_flag=True, help="Answer after each example: the in-context learning curve.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw answer and exact target (.png, .pdf, .svg).")
@click.option("--dtype", type=click.Choice(list(PRECISIONS)), default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="A torch device, such as cuda.")
@click.option("--dense", is_flag=True, help="Apply the tables' weights densely.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a prompt (a list with --curve).")
def command(
    directory: Path,
    prompt: str | None,
    jsonl: Path | None,
    curve: bool,
    picture: Path | None,
    dtype: str,
    device: str,
    dense: bool,
    as_json: bool,
) -> None:
    """Answer PROMPT with the mixture of the tasks' answers, by the construction in DIRECTORY.

    PROMPT is a file, or - for standard input: one example a line (France->Paris), the last line the query (Peru->).
    For a construction on vectors it is a .npz archive (inputs, answers, query) or JSON.
    """
    if theorem_of(directory) in ON_VECTORS:
        if jsonl is not None or picture is not None:
            raise InputError("--jsonl and --picture are for tokens: a construction on vectors takes one .npz or JSON")
        predict_vectors(directory, prompt, curve=curve, dtype=dtype, device=device, dense=dense, as_json=as_json)
        return
    if (prompt is None) == (jsonl is None):
        raise InputError("give one prompt: a file, - for standard input, or --jsonl FILE")
    if jsonl is not None and (curve or picture is not None):
        raise InputError("--jsonl answers many prompts: --curve and --picture take one, give it as a file or -")
    if curve and picture is not None:
        raise InputError("--picture draws one answer: leave --curve out")
    construction = load(directory)
    _warn_where_unproved(construction, dtype)
    if jsonl is not None:
        prompts = _read_jsonl(jsonl, construction)
        predictor = Predictor(construction, dtype=dtype, device=device, dense=dense)
        for prediction in predictor.predict(prompts, progress_line()):
            click.echo(json.dumps(_as_json(prediction), ensure_ascii=False))
        return
    assert prompt is not None
    parsed = parse_prompt(_read(prompt), construction.task_set)
    construction.layout.ids(parsed)
    if picture is not None:
        from construct.picture import check_picture

        check_picture(picture)
    predictor = Predictor(construction, dtype=dtype, device=device, dense=dense)
    if curve:
        predictions = predictor.curve(parsed, progress_line())
        click.echo(
            json.dumps([_as_json(p) for p in predictions], ensure_ascii=False) if as_json else _curve(predictions)
        )
        return
    (prediction,) = predictor.predict([parsed], progress_line())
    click.echo(json.dumps(_as_json(prediction), ensure_ascii=False) if as_json else _answer(prediction))
    if picture is not None:
        from construct.picture import draw_answer

        draw_answer(construction.task_set, parsed, prediction, picture)
        click.echo(f"picture: {picture}", err=True)


def _warn_where_unproved(construction: Construction, dtype: str) -> None:
    """Say so on standard error where no bound holds: integers too large for the format, or too low a sharpness."""
    kind = KINDS.get(construction.theorem)
    proved = [name for name in PRECISIONS if kind is not None and kind.rounding(construction, name) is not None]
    if dtype not in proved:
        remedy = f"--dtype {' or '.join(proved)} has one" if proved else "build one with --error to have one"
        remedy = remedy if kind is not None else "what is proved of it holds in real arithmetic"
        click.echo(f"warning: there is no error bound for this construction in {dtype}: {remedy}", err=True)


def _read(prompt: str) -> str:
    try:
        if prompt == "-":
            if sys.stdin is None:
                raise PromptError("standard input is closed: pipe the prompt to it, or give a file")
            return sys.stdin.buffer.read().decode("utf-8")
        return Path(prompt).read_text(encoding="utf-8")
    except OSError as error:
        hint = "; to give the text itself, pipe it to -" if "->" in prompt or "\n" in prompt else ""
        raise PromptError(f"cannot read the prompt {prompt!r}: {error.strerror or error}{hint}") from error
    except ValueError as error:
        raise PromptError(f"the prompt {prompt!r} is not UTF-8 text: {error}") from error


def _read_jsonl(path: Path, construction: Construction) -> list[Prompt]:
    prompts = []
    for number, line in enumerate(_read(str(path)).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{path}, line {number} is not JSON: {error}") from error
        text = data.get("prompt") if isinstance(data, dict) else None
        if not isinstance(text, str):
            raise PromptError(f'{path}, line {number}: expected an object such as {{"prompt": "a->b\\nc->"}}')
        try:
            prompts.append(parse_prompt(text, construction.task_set))
            construction.layout.ids(prompts[-1])
        except PromptError as error:
            raise PromptError(f"{path}, line {number}: {error}") from error
    if not prompts:
        raise PromptError(f'{path} holds no prompt: give one {{"prompt": ...}} a line')
    return prompts


def _as_json(prediction: Prediction) -> dict[str, Any]:
    return {
        "query": prediction.query,
        "distribution": prediction.distribution,
        "evidence": prediction.evidence,
        "explained": prediction.explained,
        "examples": prediction.examples,
    }


def _answer(prediction: Prediction) -> str:
    answers = list(prediction.distribution.items())
    visible = [item for item in answers if item[1] >= 0.0005][:SHOWN]
    parts = [f"{prediction.query}  after {prediction.examples} example(s)"]
    if prediction.verdict == "answer":
        parts.append(table((token, f"{share:.4f}", bar(share)) for token, share in visible))
        rest = len(answers) - len(visible)
        parts.append(f"  and {rest} more, {sum(p for _, p in answers[len(visible) :]):.2g} together" if rest else "")
    else:
        parts.append(f"  {_VERDICTS[prediction.verdict]}")
    ranked = sorted(prediction.evidence.items(), key=lambda item: -item[1])
    parts.append("evidence: the share of the examples that each task explains")
    parts.append(table((task, f"{weight:.4f}", bar(weight)) for task, weight in ranked[:SHOWN]))
    parts.append(f"  and {len(ranked) - SHOWN} more tasks: --json lists them" if len(ranked) > SHOWN else "")
    parts.append(f"explained: {prediction.explained:.4f} (the sum of the tasks' weights in the answer)")
    return "\n".join(part for part in parts if part)


_VERDICTS = {
    "no evidence": "no evidence: no task explains any of the examples",
    "no answer": "no answer: the tasks that explain the examples have none for this query",
}


def _curve(predictions: list[Prediction]) -> str:
    rows = []
    for prediction in predictions:
        top = [f"{token} {share:.3f}" for token, share in list(prediction.distribution.items())[:4] if share >= 0.0005]
        ranked = sorted(prediction.evidence.items(), key=lambda item: -item[1])
        weights = [f"{task} {weight:.3f}" for task, weight in ranked[:4] if weight >= prediction.threshold]
        answer = "  ".join(top) if top else prediction.verdict
        rows.append((prediction.examples, prediction.query, f"{prediction.explained:.3f}", answer, "  ".join(weights)))
    return table(rows, header=("examples", "query", "explained", "answer", "evidence"), indent="")
