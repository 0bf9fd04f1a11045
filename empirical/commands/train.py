"""`construct train`."""

import os
import signal
from pathlib import Path
from typing import Any

import click
import torch

from construct.errors import InputError
from construct.suites import SUITES, build_suite
from construct.task_file import load_task_file
from construct.tasks import TaskSet
from empirical import runtime
from empirical.training.checkpoint import CHECKPOINT
from empirical.training.loop import Diverged, Interrupted, Told, train
from empirical.training.presets import PRESETS, Preset
from empirical.training.settings import ARCHITECTURES, PRECISIONS, changed
from empirical.training.validation import in_words

OF_PRESET = "[default: the preset's]"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder of the run.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="cpu",
    show_default=True,
    help="; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items()) + ".",
)
@click.option("--suite", help=f"A named suite: {', '.join(SUITES)}.  {OF_PRESET}")
@click.option("--task-file", type=click.Path(path_type=Path), help="Tasks of your own (JSON).")
@click.option("--tasks", type=int, help="K, the number of tasks of the suite.")
@click.option("--alphabet-size", type=int, help="V, of the suite.")
@click.option("--inputs", type=int, help="n, the input tokens of an example.")
@click.option("--architecture", type=click.Choice(ARCHITECTURES), help="Absolute or rotary positions.")
@click.option("--layers", type=int)
@click.option("--heads", type=int)
@click.option("--width", type=int, help="Of the residual stream.")
@click.option("--mlp-width", type=int, help="[default: 4 times the width]")
@click.option("--context", type=int, help="Positions of the model.  [default: what the examples take]")
@click.option("--examples", type=int, help="m, the examples of a prompt before its query.")
@click.option("--batch", type=int, help="Prompts a step, over all processes.")
@click.option("--accumulate", type=int, help="Parts that a batch is computed in.")
@click.option("--steps", type=int, help="Of the optimiser.")
@click.option("--minutes", type=float, help="Train for about so long, instead of --steps.")
@click.option("--rate", type=float, help="The highest learning rate.")
@click.option("--warmup", type=int, help="Steps over which the rate rises; then it falls as a cosine.")
@click.option("--weight-decay", type=float)
@click.option("--mixed", type=float, help="The share of training prompts that mix tasks.  [default: 0]")
@click.option("--label-noise", type=float, help="The probability that an answer is a random token.  [default: 0]")
@click.option("--seed", type=int, help="Of weights and prompts.")
@click.option("--validate-every", type=int, help="Steps.  [default: a fortieth of them]")
@click.option("--validation-prompts", type=int, help="Of each kind.")
@click.option("--save-every", type=float, default=60.0, show_default=True, help="Seconds between two checkpoints.")
@click.option("--threads", type=int, help="Of torch on CPU; 0: as torch chooses.")
@click.option("--device", default=runtime.AUTO, show_default=True, help="A torch device, such as cuda.")
@click.option("--precision", type=click.Choice([runtime.AUTO, *PRECISIONS]), default=runtime.AUTO, show_default=True)
@click.option("--compile/--no-compile", "compiled", default=None, help="Let torch compile the model.")
def command(
    out: Path,
    preset: str,
    suite: str | None,
    task_file: Path | None,
    tasks: int | None,
    alphabet_size: int | None,
    inputs: int | None,
    save_every: float,
    device: str,
    precision: str,
    compiled: bool | None,
    **given: Any,
) -> None:
    """Train a small language model from scratch on in-context tasks, each training prompt with examples of one task.

    OUT becomes a folder with log.jsonl and checkpoint/, a Hugging Face model's folder: `construct evaluate OUT` asks
    it. Run the same again after a kill, and it goes on to the same weights. `accelerate launch -m construct.cli
    train ...` shares each batch among processes.
    """
    if not save_every >= 0:
        raise InputError(f"--save-every is {save_every}: expected seconds, at least 0")
    chosen = PRESETS[preset]
    task_set = _task_set(chosen, suite, task_file, tasks, alphabet_size, inputs)
    where = runtime.choose(device, "float32", local_rank=runtime.local_rank())
    if where.device.startswith("cuda"):
        torch.cuda.set_device(where.device)  # accelerate takes the current one
    settings = changed(
        chosen.settings,
        **given,
        device=where.device.partition(":")[0],
        precision=_precision(where.device, precision),
        compile=compiled,
    )
    try:
        done = train(task_set, settings, out, save_every=save_every, tell=_tell)
    except Diverged as error:
        last = f"the last good checkpoint is in {out / CHECKPOINT}" if (out / CHECKPOINT).exists() else "none was saved"
        raise click.ClickException(f"{error}: {last}; try a lower --rate, with another --out") from error
    except Interrupted as error:
        name = signal.Signals(error.number).name
        click.echo(f"{name} after step {error.step}, which is saved: run the same command to go on", err=True)
        raise click.exceptions.Exit(128 + error.number) from error
    except KeyboardInterrupt as error:
        click.echo("interrupted: run the same command to go on from the last checkpoint", err=True)
        raise click.exceptions.Exit(128 + signal.SIGINT) from error
    if int(os.environ.get("RANK", "0")) == 0:
        click.echo(f"trained for {done.step:,} steps: {out / CHECKPOINT}; `construct evaluate {out}` asks it")


def _task_set(
    preset: Preset,
    suite: str | None,
    task_file: Path | None,
    tasks: int | None,
    alphabet_size: int | None,
    inputs: int | None,
) -> TaskSet:
    """The tasks; a preset's sizes are for its own suite."""
    sizes = {"tasks": tasks, "alphabet_size": alphabet_size, "inputs": inputs}
    if task_file is not None:
        for name, value in {"suite": suite, **sizes}.items():
            if value is not None:
                raise InputError(f"--{name.replace('_', '-')} and --task-file are both given: the file says it")
        return load_task_file(task_file)
    if suite is None or suite == preset.suite:
        sizes = {name: getattr(preset, name) if value is None else value for name, value in sizes.items()}
    given = {name: value for name, value in sizes.items() if value is not None}
    return build_suite(suite or preset.suite, **given)


def _precision(device: str, asked: str) -> str:
    """What "auto" stands for: what `accelerate launch` says, else bfloat16 on CUDA devices that compute in it."""
    if asked != runtime.AUTO:
        return asked
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched in PRECISIONS and launched != "no":
        return launched
    if not device.startswith("cuda"):
        return "no"
    return {"bfloat16": "bf16", "float16": "fp16"}[runtime.choose(device).dtype]


def _tell(told: Told) -> None:
    row = told.row
    minutes, seconds = divmod(round(told.seconds_left), 60)
    figures = [
        f"step {row.step:,} of {told.steps:,}",
        f"loss {row.loss:.4f}",
        *in_words(row.validated),
        f"{row.tokens_per_second:,.0f} tokens/s"
        + ("" if row.share_of_peak is None else f" ({row.share_of_peak:.0%} of the peak)"),
        f"{minutes} min {seconds:02d} s left",
    ]
    click.echo(", ".join(figures), err=True)
