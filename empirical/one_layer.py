"""How well one layer does as the number of examples grows: `python -m empirical.one_layer`, or `make depth`.

The task is the theorem's own (docs/theory/depth.md): V = 2 tokens, n = 1 input, K = 1 task, the identity; the target
at the final EQ is (c/m) u[query], c the examples with y = x. The models are trained from scratch at the two-layer
construction's d_model, with at least its heads and MLP width, and measured beside it on the same prompts.

Each prompt draws a share uniformly from [0, 1], and each example agrees with this probability, so c is uniform over
0 .. m: without that, c/m would gather around 1/2 and every constant guess would look good.
"""

import dataclasses
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from construct.artifact import write_file
from construct.bounds import rounding_bound
from construct.errors import ArtifactError, InputError
from construct.prompts import Layout
from construct.reads import plan_reads
from construct.suites import build_suite
from construct.theorems import Construction, two_layer
from construct.torch_model import TorchTransformer
from empirical.small_model import Shape, SmallTransformer

Record = dict[str, Any]

OUT = Path("benchmarks/one_layer.json")
PACKAGES = ("task-superposition", "torch", "numpy")
TEST_SEED = 2**31


@dataclass(frozen=True)
class Settings:
    """What the experiment runs; a run that was made with other settings is not taken up again.

    Args:
        one_layer: the numbers of examples m of the one-layer models.
        two_layer: the numbers of examples m of the two-layer models (the attention of all positions is costly).
        one_layer_rates: their learning rates.
        two_layer_rates: likewise.
        one_layer_seeds: how many seeds.
        two_layer_seeds: likewise.
        heads: of every layer.
        mlp_width: of every layer; the construction's own is 2.
        steps: of Adam.
        one_layer_batch: prompts a step, with the loss at the final EQ, where the error is measured.
        two_layer_batch: prompts a step, with the loss at every EQ.
        test_prompts: how many prompts the error is measured on.
        ascent_starts: the prompts that the search for a bad one starts from.
        ascent_rounds: the changes that it may make to a prompt.
    """

    one_layer: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    two_layer: tuple[int, ...] = (4, 8, 16, 32)
    one_layer_rates: tuple[float, ...] = (3e-3, 1e-2)
    two_layer_rates: tuple[float, ...] = (1e-2,)
    one_layer_seeds: int = 3
    two_layer_seeds: int = 2
    heads: int = 2
    mlp_width: int = 64
    steps: int = 1200
    one_layer_batch: int = 128
    two_layer_batch: int = 64
    test_prompts: int = 4096
    ascent_starts: int = 4
    ascent_rounds: int = 64


QUICK = Settings(
    one_layer=(2, 5),
    two_layer=(2,),
    one_layer_rates=(1e-2,),
    one_layer_seeds=1,
    two_layer_seeds=1,
    steps=40,
    test_prompts=64,
    ascent_rounds=3,
)


@dataclass(frozen=True)
class Run:
    """One model to be trained."""

    layers: int
    examples: int
    rate: float
    seed: int


def runs(settings: Settings) -> Iterator[Run]:
    """Every run, in order."""
    for layers, sizes, rates, seeds in (
        (1, settings.one_layer, settings.one_layer_rates, settings.one_layer_seeds),
        (2, settings.two_layer, settings.two_layer_rates, settings.two_layer_seeds),
    ):
        for examples in sizes:
            for rate in rates:
                for seed in range(seeds):
                    yield Run(layers, examples, rate, seed)


def identity_construction(examples: int) -> Construction:
    """The two-layer construction of the task: V = 2, n = 1, K = 1."""
    return two_layer(build_suite("retrieval", tasks=1, alphabet_size=2, inputs=1), examples=examples)


def sample(layout: Layout, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random prompts of m examples, and the exact targets at every EQ.

    Returns:
        Ids of shape [count, 3 (m+1)], and q of shape [count, m+1, 2].
    """
    m = layout.examples
    inputs = torch.randint(0, 2, (count, m + 1), generator=generator)
    agree = torch.rand(count, m, generator=generator) < torch.rand(count, 1, generator=generator)
    answers = torch.where(agree, inputs[:, :m], 1 - inputs[:, :m])
    ids = torch.full((count, layout.positions), layout.eq)
    ids[:, 0] = layout.bos
    ids[:, 1::3] = inputs
    ids[:, 3::3] = answers
    return ids, targets(layout, ids)


def targets(layout: Layout, ids: Tensor) -> Tensor:
    """The exact q at every EQ, shape [count, m+1, 2]; 0 at the first, which no example precedes."""
    inputs, answers = ids[:, 1::3], ids[:, 3::3]
    agree = (inputs[:, : layout.examples] == answers).to(torch.float32).cumsum(1)
    share = torch.cat([torch.zeros(len(ids), 1), agree / torch.arange(1, layout.examples + 1)], dim=1)
    code: Tensor = torch.nn.functional.one_hot(inputs, 2)
    return code * share[..., None]


def constant_error(examples: int) -> float:
    """The mean |q_hat - q|_1 of the answer u[query]/2, always: the mean of |c/m - 1/2| over c uniform on 0 .. m."""
    return sum(abs(count / examples - 0.5) for count in range(examples + 1)) / (examples + 1)


def train(run: Run, settings: Settings, layout: Layout, d_model: int) -> SmallTransformer:
    """Adam on the squared error, the rate rising over a tenth of the steps and falling to 0 as a cosine."""
    shape = Shape(
        run.layers,
        settings.heads,
        d_model,
        settings.mlp_width,
        layout.vocabulary_size,
        layout.positions,
        layout.alphabet_size,
    )
    model = SmallTransformer(shape, seed=run.seed)
    generator = torch.Generator().manual_seed(run.seed + 1)
    every = torch.arange(layout.examples + 1) * 3 + 2
    at, batch = (every[-1:], settings.one_layer_batch) if run.layers == 1 else (every, settings.two_layer_batch)
    optimiser = torch.optim.Adam(model.parameters(), lr=run.rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, run.rate, total_steps=settings.steps, pct_start=0.1, cycle_momentum=False
    )
    for _ in range(settings.steps):
        ids, wanted = sample(layout, batch, generator)
        loss = (model(ids, at) - wanted[:, -len(at) :]).square().sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model


@torch.no_grad()
def errors(model: SmallTransformer | TorchTransformer, layout: Layout, ids: Tensor) -> Tensor:
    """|q_hat - q|_1 at the final EQ, shape [count]."""
    final, found = torch.tensor([layout.positions - 1]), []
    for start in range(0, len(ids), 512):
        part = ids[start : start + 512]
        if isinstance(model, TorchTransformer):
            answer = model(part, final.expand(len(part), 1)).answer
        else:
            answer = model(part, final)
        found.append((answer[:, 0] - targets(layout, part)[:, -1]).abs().sum(-1))
    return torch.cat(found)


def changed(layout: Layout, prompt: Tensor) -> Tensor:
    """Every prompt that differs from this one, shape [3 (m+1)], in one x, one y, or the x and the y of one example."""
    places = torch.arange(layout.examples) * 3
    masks = torch.zeros(3 * layout.examples + 1, layout.positions, dtype=torch.bool)
    for kind, columns in enumerate(([1], [3], [1, 3])):
        rows = torch.arange(layout.examples) + kind * layout.examples
        for column in columns:
            masks[rows, places + column] = True
    masks[-1, layout.positions - 2] = True
    return torch.where(masks, 1 - prompt, prompt)


def worst_found(model: SmallTransformer, layout: Layout, ids: Tensor, settings: Settings) -> float:
    """The largest error that coordinate ascent finds from the worst of some prompts: a lower bound of the largest."""
    before = errors(model, layout, ids)
    largest = 0.0
    for start in before.topk(min(settings.ascent_starts, len(ids))).indices:
        prompt, error = ids[start], float(before[start])
        for _ in range(settings.ascent_rounds):
            near = changed(layout, prompt)
            found = errors(model, layout, near)
            if float(found.max()) <= error:
                break
            prompt, error = near[found.argmax()], float(found.max())
        largest = max(largest, error)
    return largest


def execute(run: Run, settings: Settings) -> Record:
    """Train one model and measure it on the test prompts, which are the same for all models of one m."""
    started = time.perf_counter()
    built = identity_construction(run.examples)
    layout = built.layout
    model = train(run, settings, layout, built.weights.d_model)
    ids, _ = sample(layout, settings.test_prompts, torch.Generator().manual_seed(TEST_SEED + run.examples))
    found = errors(model, layout, ids)
    return {
        **asdict(run),
        "d_model": built.weights.d_model,
        "mean_error": float(found.mean()),
        "largest_error": float(found.max()),
        "searched_error": worst_found(model, layout, ids, settings),
        "seconds": round(time.perf_counter() - started, 2),
    }


def exact_record(examples: int, settings: Settings) -> Record:
    """The two-layer construction on the same prompts, in float32, and its bounds for all prompts."""
    built = identity_construction(examples)
    ids, _ = sample(built.layout, settings.test_prompts, torch.Generator().manual_seed(TEST_SEED + examples))
    found = errors(TorchTransformer(built.weights), built.layout, ids)
    plan = plan_reads(built.task_set)
    return {
        "examples": examples,
        "d_model": built.weights.d_model,
        "heads": built.weights.heads,
        "mlp_width": built.weights.mlp_width,
        "sharpness": built.sharpness,
        "mean_error": float(found.mean()),
        "largest_error": float(found.max()),
        "bound_real": built.error_bound,
        "bound_float32": rounding_bound(built.task_set, plan, built.layout, built.sharpness, "float32"),
        "constant_error": constant_error(examples),
    }


def table(record: Record) -> str:
    """The table of docs/theory/depth.md, in Markdown: the best mean error over the runs of each kind."""
    heading = (
        "| m | d_model | constant answer: mean | one layer, trained: mean | largest found | two layers, trained: mean "
        "| largest found | two layers, built: largest | proved in float32 |"
    )
    lines = [heading, "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for built in record["constructions"]:
        cells = [f"{built['examples']}", f"{built['d_model']}", f"{built['constant_error']:.3f}"]
        for layers in (1, 2):
            best = best_run(record["runs"], layers, built["examples"])
            cells += ["-", "-"] if best is None else [f"{best['mean_error']:.3f}", f"{best['searched_error']:.3f}"]
        cells += [f"{built['largest_error']:.1e}", f"{built['bound_float32']:.1e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def best_run(found: Sequence[Record], layers: int, examples: int) -> Record | None:
    """The run of least mean error."""
    own = [run for run in found if (run["layers"], run["examples"]) == (layers, examples)]
    return min(own, key=lambda run: float(run["mean_error"]), default=None)


def environment() -> Record:
    """Versions, machine and date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": 1,
    }


def _taken_up(path: Path, settings: Settings) -> list[Record]:
    """The finished runs of an experiment that was interrupted, where its settings were these."""
    if not path.exists():
        return []
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        same = kept["settings"] == json.loads(json.dumps(asdict(settings)))
        return list(kept["runs"]) if same else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot take up {path} again ({error}): delete it to start anew") from error


def experiment(settings: Settings, out: Path) -> Record:
    """Every run, each kept beside `out` as soon as it is finished, then the whole record at `out`.

    Raises:
        ArtifactError: a file cannot be written.
        InputError: the runs kept of an interrupted experiment cannot be read.
    """
    torch.set_num_threads(1)
    kept = out.with_name(f"{out.name}.runs")
    found = _taken_up(kept, settings)
    done = {Run(*(record[field.name] for field in dataclasses.fields(Run))) for record in found}
    every = list(runs(settings))
    for number, run in enumerate(every, start=1):
        if run in done:
            continue
        record = execute(run, settings)
        found.append(record)
        write_file(kept, json.dumps({"settings": asdict(settings), "runs": found}).encode())
        said = f"[{number}/{len(every)}] {run}: mean {record['mean_error']:.4f}, {record['seconds']:.1f} s"
        click.echo(said, err=True)
    record = {
        "command": "python -m empirical.one_layer",
        "environment": environment(),
        "settings": asdict(settings),
        "constructions": [exact_record(examples, settings) for examples in settings.one_layer],
        "runs": found,
        "training_seconds": round(sum(run["seconds"] for run in found), 1),
    }
    write_file(out, (json.dumps(record, indent=1) + "\n").encode())
    kept.unlink(missing_ok=True)
    return record


@click.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=OUT, show_default=True)
@click.option("--quick", is_flag=True, help="Tiny sizes, to see that it works.")
def command(*, out: Path, quick: bool) -> None:
    """Train one-layer and two-layer models of the construction's width at growing m, and print the table."""
    if not out.parent.is_dir():
        raise click.UsageError(f"the folder {out.parent} of --out does not exist: make it first")
    try:
        record = experiment(QUICK if quick else Settings(), out)
    except (ArtifactError, InputError) as error:
        raise click.UsageError(str(error)) from error
    click.echo(table(record))


if __name__ == "__main__":
    sys.exit(command())
