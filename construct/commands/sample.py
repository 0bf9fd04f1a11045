"""`construct sample`."""

import json
from pathlib import Path

import click
import numpy as np

from construct.artifact import load
from construct.errors import InputError
from construct.prompts import format_prompt
from construct.sampling import PromptSampler


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--examples", type=int, help="m', the examples in a prompt.  [default: as many as fit, at most 20]")
@click.option("--mixture", help="Weights of the tasks, such as capital=2,upper=1.  [default: uniform]")
@click.option("--prompts", type=int, default=1, show_default=True, help="How many prompts.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option("--jsonl", is_flag=True, help='Print one {"prompt": ...} a line, for `construct predict --jsonl`.')
def command(directory: Path, examples: int | None, mixture: str | None, prompts: int, seed: int, jsonl: bool) -> None:
    """Draw a prompt from a mixture of the tasks of the construction in DIRECTORY."""
    construction = load(directory)
    most = construction.layout.examples
    count = min(20, most) if examples is None else examples
    if not 0 <= count <= most:
        raise InputError(f"--examples is {count}: this construction takes 0 to {most}")
    if prompts < 1:
        raise InputError(f"--prompts is {prompts}: expected at least 1")
    if prompts > 1 and not jsonl:
        raise InputError(f"--prompts is {prompts}: several prompts need --jsonl, to tell them apart")
    if seed < 0:
        raise InputError(f"--seed is {seed}: expected 0 or more")
    sampler = PromptSampler(construction.task_set, None if mixture is None else _weights(mixture))
    generator = np.random.default_rng(seed)
    for _ in range(prompts):
        text = format_prompt(sampler.prompt(count, generator), construction.task_set)
        click.echo(json.dumps({"prompt": text}, ensure_ascii=False) if jsonl else text)


def _weights(mixture: str) -> dict[str, float]:
    weights = {}
    for part in mixture.split(","):
        name, found, number = part.rpartition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            found = ""
        if not found:
            raise InputError(f"--mixture has {part!r}: expected task=weight, several with commas between them")
    return weights
