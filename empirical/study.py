"""The study of trained models: `python -m empirical.study`, or `make study`. docs/training-study.md says what it found.

Each run is trained by `empirical.training`, as `construct train` does it, and then asked the study's prompts. What is
finished is kept in the work folder: a study that was stopped, at any moment, goes on where it was when it is started
again, in the middle of a training run too. When all is there, the record is written.
"""

import datetime
import json
import multiprocessing
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import torch

from construct.artifact import write_file
from construct.errors import ArtifactError, InputError
from construct.suites import SUITES, build_suite
from construct.tasks import TaskSet
from empirical.strict_json import built
from empirical.study_measures import answers_of, weights_of
from empirical.study_predictions import Learner, learners, prediction, replies
from empirical.study_prompts import Probes, make_probes
from empirical.study_records import (
    RECORD,
    Emergence,
    Environment,
    Moment,
    Point,
    Prediction,
    Run,
    Setup,
    Study,
    write_study,
)
from empirical.training.checkpoint import CHECKPOINT
from empirical.training.loop import train
from empirical.training.models import library
from empirical.training.presets import PRESETS
from empirical.training.progress import read_log
from empirical.training.settings import GPT2, Settings

WORK = Path(".training-study")
PACKAGES = ("task-superposition", "torch", "transformers", "accelerate", "numpy")
PROMPTS, KEPT = 1000, 200
TOLD_APART, LEARNED, FOLLOWS, COMMITS = 0.5, 0.9, 0.5, 0.5
"""The thresholds of `empirical.study_records.Emergence`."""
WELL = 0.8
"""The least accuracy of a run that has learned its tasks."""
T = TypeVar("T")

PRESET = PRESETS["cpu"]
MAIN_SETUP = Setup(PRESET.suite, PRESET.tasks, PRESET.alphabet_size, PRESET.inputs, PRESET.settings.examples)
MAIN = replace(PRESET.settings, threads=1, validate_every=100)


@dataclass(frozen=True)
class Plan:
    """A model to be trained and measured.

    Args:
        group: what it differs in from the main one.
        label: how, for a legend.
        setup: tasks and prompts.
        settings: of the training.
    """

    group: str
    label: str
    setup: Setup
    settings: Settings

    @property
    def name(self) -> str:
        """Of its own among the plans."""
        return f"{self.group}: {self.label}, seed {self.settings.seed}"

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return re.sub("[^a-z0-9.]+", "-", self.name.lower())

    @property
    def task_set(self) -> TaskSet:
        """The tasks."""
        return task_set_of(self.setup)


def task_set_of(setup: Setup) -> TaskSet:
    """The tasks of a setup. A suite that fixes the inputs is not asked for them."""
    sizes = {"tasks": setup.tasks, "alphabet_size": setup.alphabet_size, "inputs": setup.inputs}
    return build_suite(
        setup.suite, **{name: size for name, size in sizes.items() if name in SUITES[setup.suite].defaults}
    )


def _plan(group: str, label: str, setup: Setup = MAIN_SETUP, **changes: Any) -> Plan:
    return Plan(group, label, setup, replace(MAIN, examples=setup.examples, **changes))


def plans() -> tuple[Plan, ...]:
    """Every run."""
    deeper: dict[str, Any] = {"layers": 3, "heads": 4, "width": 48, "mlp_width": 96, "rate": 3e-3, "steps": 1500}
    plus = Setup("plus", tasks=8, alphabet_size=32, inputs=1, examples=16)
    return (
        *(_plan("main", "preset cpu", seed=seed) for seed in range(3)),
        *(_plan("size", "3 layers, width 48", **deeper, seed=seed) for seed in range(3)),
        _plan("size", "1 layer", layers=1),
        _plan("size", "width 64", width=64, mlp_width=128),
        _plan("steps", "6,000 steps", steps=6000, validate_every=200),
        _plan("tasks", "K = 2", replace(MAIN_SETUP, tasks=2, inputs=2)),
        _plan("tasks", "K = 4, 3 layers", replace(MAIN_SETUP, tasks=4, inputs=4), **deeper),
        _plan("tasks", "plus, K = 8", plus),
        _plan("examples", "m = 6", replace(MAIN_SETUP, examples=6)),
        _plan("examples", "m = 24", replace(MAIN_SETUP, examples=24)),
        _plan("noise", "noise 0.2", label_noise=0.2),
        _plan("noise", "noise 0.1, 3 layers", **deeper, label_noise=0.1),
        _plan("mixed", "mixed 0.5", mixed=0.5),
        _plan("mixed", "mixed 0.5, 3 layers", **deeper, mixed=0.5),
        _plan("mixed", "mixed 1", mixed=1.0),
        _plan("mixed", "plus, K = 8, mixed 0.5", plus, mixed=0.5),
        _plan("architecture", "GPT-2", architecture=GPT2, rate=2e-3),
        _plan("architecture", "GPT-2, plus, K = 8", plus, architecture=GPT2, rate=3e-3),
    )


def slope_of(points: Sequence[Point]) -> float:
    """Of the least-squares line of the means on lambda."""
    shares = np.array([point.share for point in points])
    means = np.array([point.mean for point in points])
    centred = shares - shares.mean()
    return float((centred * means).sum() / (centred**2).sum())


def moment(row: dict[str, Any]) -> Moment:
    """A line of the training log."""
    curve = tuple(
        Point(one["lambda"], one["normalised"], round(max(one["square"] - one["normalised"] ** 2, 0.0) ** 0.5, 6))
        for one in row["mixture"]
    )
    return Moment(
        step=row["step"],
        tokens=row["tokens"],
        loss=round(row["loss"], 6),
        accuracy=row["accuracy"],
        curve=curve,
        slope=round(slope_of(curve), 6),
        kl=row["kl"],
        kl_of_mean=row["kl_of_mean"],
        index=row["index"],
        histogram=tuple(row["histogram"]),
    )


def emergence(moments: Sequence[Moment]) -> Emergence:
    """When things appear: the first step after which they hold in all later moments too."""
    last = moments[-1].accuracy

    def since(held: list[bool]) -> int | None:
        first = len(held)
        while first and held[first - 1]:
            first -= 1
        return moments[first].step if first < len(held) else None

    return Emergence(
        told_apart=since([min(one.accuracy.values()) > TOLD_APART for one in moments]),
        learned=since([all(one.accuracy[name] > LEARNED * last[name] for name in last) for one in moments]),
        follows=since([one.slope > FOLLOWS for one in moments]),
        commits=since([one.index is not None and one.index < COMMITS for one in moments]),
    )


def _wanted(plan: Plan, prompts: int, kept: int) -> dict[str, Any]:
    """What a kept result must have been made with."""
    return {
        "setup": asdict(plan.setup), "settings": plan.settings.to_json(), "prompts": prompts, "kept": kept,
        "torch": metadata.version("torch"), "transformers": metadata.version("transformers"),
    }  # fmt: skip


def execute(plan: Plan, work: Path, *, prompts: int = PROMPTS, kept: int = KEPT) -> Run:
    """Train one model, or go on with it, and measure it; or read what is finished.

    Raises:
        InputError: as `empirical.training.loop.train`.
    """
    done, wanted = work / f"{plan.folder}.json", _wanted(plan, prompts, kept)
    if done.exists():
        found = _kept(done, wanted, Run)
        if found is not None:
            return found
    torch.set_num_threads(1)
    task_set = plan.task_set
    directory = work / plan.folder
    progress = train(task_set, plan.settings, directory)
    header, rows = read_log(directory)
    model = library("transformers").AutoModelForCausalLM.from_pretrained(directory / CHECKPOINT, dtype=torch.float32)
    probes = make_probes(task_set, plan.setup.examples, prompts, seed=0)
    compared = learners(plan.setup, label_noise=plan.settings.label_noise, mixed=plan.settings.mixed)
    answers = answers_of(model, probes, replies(compared, task_set, probes), kept=kept)
    moments = tuple(map(moment, rows))
    run = Run(
        name=plan.name,
        group=plan.group,
        label=plan.label,
        setup=plan.setup,
        settings=plan.settings.to_json(),
        parameters=header["parameters"],
        tokens=moments[-1].tokens,
        seconds=round(progress.seconds, 1),
        loss=moments[-1].loss,
        learned=min(shares[-1] for shares in answers.accuracy.values()) >= WELL,
        moments=moments,
        emergence=emergence(moments),
        answers=answers,
        weights=weights_of(model, probes),
    )
    write_file(done, json.dumps({"wanted": wanted, "found": asdict(run)}).encode())
    return run


def _kept(path: Path, wanted: dict[str, Any], kind: type[T]) -> T | None:
    """What was kept of a finished run or prediction; None where it was made with other settings."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return built(kind, data["found"], "found") if data["wanted"] == wanted else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot take up {path} again ({error}): delete it to start anew") from error


def predictions(chosen: Sequence[Plan], work: Path, *, prompts: int, kept: int) -> tuple[Prediction, ...]:
    """What the learners answer to the prompts of each setup, once for equal beliefs; what is finished is read."""
    found: dict[tuple[Learner, Setup], Prediction] = {}
    probes: dict[Setup, Probes] = {}
    for plan in chosen:
        for learner in learners(plan.setup, label_noise=plan.settings.label_noise, mixed=plan.settings.mixed):
            if (learner, plan.setup) in found:
                continue
            wanted = {"learner": asdict(learner), "setup": asdict(plan.setup), "prompts": prompts, "kept": kept}
            named = sha256(json.dumps(wanted).encode()).hexdigest()[:16]
            path = work / f"prediction-{named}.json"
            kept_one = _kept(path, wanted, Prediction) if path.exists() else None
            if kept_one is None:
                if plan.setup not in probes:
                    probes[plan.setup] = make_probes(plan.task_set, plan.setup.examples, prompts, seed=0)
                kept_one = prediction(learner, plan.task_set, plan.setup, probes[plan.setup], kept=kept)
                write_file(path, json.dumps({"wanted": wanted, "found": asdict(kept_one)}).encode())
            found[learner, plan.setup] = kept_one
    return tuple(found.values())


def environment() -> Environment:
    """Versions, machine and date."""
    return Environment(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in PACKAGES},
        system=f"{platform.system()} {platform.machine()}",
        cpu=_processor(),
        cores=os.cpu_count() or 1,
        threads=1,
        device="cpu",
    )


def _processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _task(given: tuple[Plan, Path, int, int]) -> Run:
    plan, work, prompts, kept = given
    return execute(plan, work, prompts=prompts, kept=kept)


def study(
    chosen: Sequence[Plan], work: Path, out: Path, *, jobs: int, prompts: int = PROMPTS, kept: int = KEPT
) -> Study:
    """All runs, and the record.

    Raises:
        InputError: what a run raises; a file cannot be written.
    """
    work.mkdir(parents=True, exist_ok=True)
    given = [(plan, work, prompts, kept) for plan in chosen]
    runs: list[Run] = []
    if jobs == 1:
        for one in given:
            runs.append(_task(one))
            _tell(runs, len(given))
    else:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            for run in pool.imap(_task, given):
                runs.append(run)
                _tell(runs, len(given))
    record = Study(
        environment=environment(),
        command="make study",
        prompts=prompts,
        kept=kept,
        training_seconds=round(sum(run.seconds for run in runs), 1),
        predictions=predictions(chosen, work, prompts=prompts, kept=kept),
        runs=tuple(runs),
    )
    write_study(record, out)
    return record


def _tell(runs: Sequence[Run], total: int) -> None:
    run = runs[-1]
    least = min(shares[-1] for shares in run.answers.accuracy.values())
    index = run.answers.uniform[-1].index.value
    click.echo(
        f"[{len(runs)}/{total}] {run.name}: least accuracy {least:.3f}, S {index}, {run.seconds:.0f} s", err=True
    )


@click.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=RECORD, show_default=True)
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=WORK, show_default=True,
              help="Where runs are kept until the record is written, and checkpoints after it.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Runs at a time, one thread each.")
def command(*, out: Path, work: Path, jobs: int) -> None:
    """Train and measure all models of the study, and write its record."""
    if not out.parent.is_dir():
        raise click.UsageError(f"the folder {out.parent} of --out does not exist: make it first")
    try:
        study(plans(), work, out, jobs=jobs)
    except (ArtifactError, InputError) as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    sys.exit(command())
