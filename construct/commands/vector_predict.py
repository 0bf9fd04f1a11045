"""What `construct predict` does with a construction on vectors."""

import json
from pathlib import Path
from typing import Any

import click

from construct.commands.table import bar, table
from construct.errors import InputError, PromptError
from construct.vector_artifact import load_vectors
from construct.vector_prediction import VectorPrediction, VectorPredictor, check_domain, unclear_examples
from construct.vector_prompt_file import load_vector_prompt

SHOWN = 12
"""Tasks, and coordinates, that the text lists before the rest is only counted."""

EXPECTED_WEIGHT = 5e-5
"""Weights are shown to four digits."""


def predict_vectors(
    directory: Path, prompt: str | None, *, curve: bool, dtype: str, device: str, dense: bool, as_json: bool
) -> None:
    """Answer a prompt of vectors, a .npz or JSON file or - for JSON on standard input."""
    if prompt is None:
        raise InputError("a construction on vectors takes one prompt: a .npz or JSON file, or - for JSON")
    construction = load_vectors(directory)
    parsed = load_vector_prompt(prompt, construction.task_set)
    construction.layout.vectors(parsed)
    check_domain(construction, parsed)
    comparison = construction.comparison
    unclear = unclear_examples(construction, parsed)
    if unclear:
        example, task, distance = unclear[0]
        more = f" (and {len(unclear) - 1} more)" if len(unclear) > 1 else ""
        raise PromptError(
            f"example {example} is {distance:.4g} from task {task!r}{more}, neither within {comparison.tolerance:g} "
            f"(it follows the task) nor beyond {comparison.margin:g} (it does not): nothing is proved of it; "
            "leave the example out, or build with another --margin"
        )
    predictor = VectorPredictor(construction, dtype=dtype, device=device, dense=dense)
    if curve:
        predictions = predictor.curve(parsed)
        click.echo(json.dumps([_as_json(one) for one in predictions]) if as_json else _curve(predictions))
        return
    prediction = predictor.predict(parsed)
    click.echo(json.dumps(_as_json(prediction)) if as_json else _text(prediction))


def _as_json(prediction: VectorPrediction) -> dict[str, Any]:
    return {
        "vector": prediction.vector.tolist(),
        "weights": prediction.weights,
        "explained": prediction.explained,
        "examples": prediction.examples,
    }


def _text(prediction: VectorPrediction) -> str:
    vector = prediction.vector
    shown = " ".join(f"{number:.5f}" for number in vector[:SHOWN])
    rest = f" and {len(vector) - SHOWN} more: --json has all" if len(vector) > SHOWN else ""
    ranked = sorted(prediction.weights.items(), key=lambda item: -item[1])
    visible = [item for item in ranked if item[1] >= EXPECTED_WEIGHT][:SHOWN]
    parts = [
        f"after {prediction.examples} example(s), the superposed vector:",
        f"  {shown}{rest}",
        "weights: the share of the examples that follow each task",
        table((task, f"{weight:.4f}", bar(weight)) for task, weight in visible) or "  none follows any task",
    ]
    if visible and len(ranked) > len(visible):
        parts.append(f"  and {len(ranked) - len(visible)} more tasks: --json lists them")
    parts.append(f"explained: {prediction.explained:.4f} (the sum of the weights)")
    return "\n".join(parts)


def _curve(predictions: list[VectorPrediction]) -> str:
    rows = []
    for prediction in predictions:
        ranked = sorted(prediction.weights.items(), key=lambda item: -item[1])[:4]
        weights = "  ".join(f"{task} {weight:.3f}" for task, weight in ranked if weight >= EXPECTED_WEIGHT)
        norm = float((prediction.vector**2).sum() ** 0.5)
        rows.append((prediction.examples, f"{prediction.explained:.3f}", f"{norm:.4f}", weights))
    return table(rows, header=("examples", "explained", "norm", "weights"), indent="")
