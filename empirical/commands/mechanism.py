"""`construct mechanism`."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import click

from construct.artifact import write_file
from construct.errors import InputError
from empirical import runtime
from empirical.commands.questions import runtime_options, task_options, task_set
from empirical.heads import traced
from empirical.language_model import Options
from empirical.mechanism import Head, Mechanism, examine
from empirical.open_model import open_inside
from empirical.report import Table


@click.command()
@click.argument("models", nargs=-1, required=True)
@task_options
@click.option("--examples", type=int, default=12, show_default=True, help="m, the examples in a prompt.")
@click.option("--prompts", type=int, default=100, show_default=True, help="Half to fit the probes, half to judge them.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@runtime_options
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every layer's figures (JSON).")
def command(
    models: tuple[str, ...],
    suite: str | None,
    task_file: Path | None,
    tasks: str | None,
    examples: int,
    prompts: int,
    seed: int,
    device: str,
    dtype: str,
    json_path: Path | None,
) -> None:
    """Look in MODELS for what the construction does: evidence, mixture, read heads, averaging heads.

    Each of MODELS is a construction's folder, a Hugging Face model's folder, a GGUF file, or a hub name; the first may
    bring the tasks. The models should be small: every attention pattern is looked at.
    """
    if examples < 2 or prompts < 4:
        raise InputError(f"{prompts} prompts of {examples} examples: expected at least 4 prompts and 2 examples")
    found = task_set(models[0], suite, task_file, tasks)
    where = runtime.choose(device, dtype)
    results, known = {}, {}
    for name in models:
        inside = open_inside(name, where, Options(), patterns=True)
        results[name] = examine(traced(inside.model), found, examples=examples, prompts=prompts, seed=seed)
        known[name] = inside.provenance
    click.echo(_table(results).text())
    if json_path is not None:
        data = {name: {"model": known[name], **asdict(result)} for name, result in results.items()}
        write_file(json_path, (json.dumps(data, indent=1) + "\n").encode())


def _table(results: dict[str, Mechanism]) -> Table:
    rows = []
    for name, result in results.items():
        evidence, mixture = (_best(values) for values in (result.probes.evidence, result.probes.mixture))
        heads = (_head(result.read), _head(result.average), _head(result.control))
        chance = f"{result.chance[0]:.2f}, {result.chance[1]:.2f}"
        rows.append((name, evidence, mixture, *heads, chance))
    return Table(
        "Does it do what the construction does?",
        ("model", "evidence", "mixture", "read head", "averaging head", "control head", "chance"),
        tuple(rows),
        "Evidence and mixture: the best R^2 of a linear probe on held-out prompts, and after which layer (how many). "
        "Heads: layer.head, score (1: the construction's pattern), and the total variation by which the answers change "
        "without it; the control is the least like either of the others. Chance: the scores of uniform attention.",
    )


def _best(values: tuple[float, ...]) -> str:
    best = max(range(len(values)), key=lambda layer: (round(values[layer], 3), -layer))
    return f"{values[best]:.3f} after {best + 1} of {len(values)}"


def _head(head: Head | None) -> str:
    if head is None:
        return "none"
    change = "undefined" if math.isnan(head.without.value) else f"{head.without.value:.3f}"
    return f"{head.layer + 1}.{head.head + 1} {head.score:.3f}, {change}"
