"""`construct task-vectors`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from construct.artifact import write_file
from construct.errors import InputError
from empirical import runtime
from empirical.commands.questions import MIXTURE_HELP, runtime_options, task_options, task_set
from empirical.geometry import Geometry, Projection, geometry, linear_discriminants, principal_components
from empirical.language_model import Options
from empirical.open_model import OpenModel, open_inside
from empirical.report import Table
from empirical.settings import EXAMPLES_PER_TASK, mixture_weights
from empirical.task_vectors import MODES, SHIFT, Outputs, Plan, Transfer, Vectors, combine, extract, transfer

STEPS = 5
"""Convex combinations of the first two tasks' vectors, from one to the other."""


@click.command()
@click.argument("model")
@task_options
@click.option("--mixture", help=MIXTURE_HELP)
@click.option("--examples", type=int, default=EXAMPLES_PER_TASK, show_default=True, help="m, the examples in a prompt.")
@click.option("--prompts", type=int, default=100, show_default=True, help="A vector is a mean over so many.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default=SHIFT,
    show_default=True,
    help="replace the state of a prompt without examples, or shift that of a uniform mixture.",
)
@click.option("--layer", type=int, help="After which block, from 1.  [default: the one that transfers best]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@runtime_options
@click.option("--revision", help="Of a hub model: a branch, a tag or a commit.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures and projections (JSON).")
def command(
    model: str,
    suite: str | None,
    task_file: Path | None,
    tasks: str | None,
    mixture: str | None,
    examples: int,
    prompts: int,
    mode: str,
    layer: int | None,
    seed: int,
    device: str,
    dtype: str,
    revision: str | None,
    json_path: Path | None,
) -> None:
    """Find the task vectors of MODEL, put them and their mixtures into other prompts, and measure their geometry.

    MODEL is a construction's folder, a Hugging Face model's folder, a GGUF file, or a hub name. Layers are found by
    what they do.
    """
    found = task_set(model, suite, task_file, tasks)
    names = [task.name for task in found.tasks]
    if len(names) < 2:
        raise InputError(f"{found.name!r} has one task: vectors of at least two are compared")
    weights = mixture_weights(mixture, names)
    plan = Plan(found, examples, prompts, mode, seed)
    plan.questions(weights)  # what cannot be asked is refused before a model is loaded
    inside = open_inside(model, runtime.choose(device, dtype), Options(revision=revision))
    opened = inside.model
    if layer is not None and not 1 <= layer <= opened.layers:
        raise InputError(f"--layer is {layer}: the model has blocks 1 to {opened.layers}")
    vectors = extract(opened, plan)
    transferred = transfer(opened, plan, vectors)
    at = transferred.layer if layer is None else layer - 1
    states = opened.states(plan.questions(weights))
    shapes = [geometry(vectors.single[:, one], states[:, one], weights) for one in range(opened.layers)]
    outputs = combine(opened, plan, vectors, at, [_between(len(names), step / (STEPS - 1)) for step in range(STEPS)])
    tables = [_layers(transferred, shapes, at), _recovered(names, weights, shapes[at], at), _outputs(names, outputs)]
    click.echo("\n\n".join(table.text() for table in tables))
    if json_path is not None:
        projections = _projections(opened, plan, states[:, at], at)
        data = {
            "model": inside.provenance,
            "tasks": names,
            "mixture": weights,
            "plan": {"examples": examples, "prompts": prompts, "mode": mode, "seed": seed},
            "layer": at + 1,
            "transfer": asdict(transferred),
            "geometry": [asdict(one) for one in shapes],
            "combinations": [asdict(one) for one in outputs],
            "projections": {name: _as_json(one) for name, one in projections.items()},
            "vectors": _norms(vectors),
        }
        write_file(json_path, (json.dumps(data, indent=1) + "\n").encode())


def _between(count: int, share: float) -> tuple[float, ...]:
    return (share, 1 - share, *(0.0 for _ in range(count - 2)))


def _projections(opened: OpenModel, plan: Plan, mixed: Any, layer: int) -> dict[str, Projection]:
    """PCA and LDA of single prompts' states: each task's, then (label K) the mixture's."""
    count = len(plan.task_set.tasks)
    single = [opened.states(plan.questions(plan.alone(task)))[:, layer] for task in range(count)]
    states = np.concatenate([*single, mixed])
    labels = np.repeat(np.arange(count + 1), plan.prompts)
    return {
        "pca": principal_components(states, labels),
        "lda": linear_discriminants(states, labels, tuple(range(count))),
    }


def _layers(transferred: Transfer, shapes: list[Geometry], chosen: int) -> Table:
    rows = []
    for place, shape in enumerate(shapes):
        mark = " *" if place == chosen else ""
        moved = (f"{transferred.accuracy[place]:.3f}", f"{transferred.probability[place]:.3f}")
        figures = (f"{shape.kappa:.4f}", f"{shape.sine:.2e}", f"{shape.floor:.2e}", f"{shape.permutation:.3f}")
        rows.append((f"{place + 1}{mark}", *moved, *figures))
    before = f"{transferred.before[0]:.3f}, {transferred.before[1]:.3f}"
    return Table(
        "Task vectors by layer",
        ("layer", "accuracy", "probability", "kappa", "sin", "sin, floor", "permutation p"),
        tuple(rows),
        f"Accuracy and probability of a task when its vector is put in (unpatched: {before}); kappa and sin: the angle "
        "of the mixture's vector to the convex combination of the tasks'; floor: between two halves of its own "
        "prompts; p: how many ways to deal the weights to the tasks predict it as well. * is the layer used below.",
    )


def _recovered(names: list[str], weights: tuple[float, ...], shape: Geometry, layer: int) -> Table:
    rows = [
        (name, f"{weight:.3f}", f"{found:.3f}")
        for name, weight, found in zip(names, weights, shape.recovered, strict=True)
    ]
    return Table(
        f"The mixture recovered from its vector, after layer {layer + 1}",
        ("task", "weight", "recovered"),
        tuple(rows),
        f"By least squares with sum one; what is left: {shape.residual:.2e} of the largest distance between tasks.",
    )


def _outputs(names: list[str], outputs: list[Outputs]) -> Table:
    rows = [
        (" ".join(f"{weight:.2f}" for weight in one.weights), *(str(p) for p in one.probability), str(one.other))
        for one in outputs
    ]
    return Table("What convex combinations of the vectors put out", ("lambda", *names, "other mass"), tuple(rows))


def _as_json(found: Projection) -> dict[str, Any]:
    return {"points": found.points.tolist(), "labels": found.labels.tolist(), "kept": found.kept}


def _norms(vectors: Vectors) -> dict[str, Any]:
    return {"norms": np.linalg.norm(vectors.single, axis=-1).tolist()}
