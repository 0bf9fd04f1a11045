"""Checkpoints: OUT/checkpoint is a Hugging Face model's folder with all that a run needs to go on.

    config.json, model.safetensors, tokenizer.json, ...   what transformers reads
    tasks.json                                            the task set, as a task file
    training.safetensors                                  the optimiser's moments, the state of the prompts' generator
    training.json                                         what run this is, and how far it has come

A checkpoint is made beside its place, seen on disk, and renamed: the old one steps aside first and goes last, so that
at any moment a whole one is there under one of the two names. No file is a pickle.
"""

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from construct.errors import ArtifactError
from construct.task_file import task_set_to_json
from construct.tasks import TaskSet
from empirical.training.models import library
from empirical.training.progress import LOG, read_log
from empirical.training.settings import Settings

CHECKPOINT, EVALUATION = "checkpoint", "evaluation"
TASKS, STATE, STATE_TENSORS = "tasks.json", "training.json", "training.safetensors"
FORMAT = "task-superposition training checkpoint"
CODE_VERSION = 1
"""To be raised when a change of this package changes what a run computes or a checkpoint holds."""

_PART, _OLD = ".checkpoint.part", ".checkpoint.old"
OWN_ENTRIES = {CHECKPOINT, LOG, EVALUATION, _PART, _OLD, f".{LOG}.part"}
PACKAGES = ("task-superposition", "torch", "transformers")


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Args:
        step: steps done.
        steps: steps in all; 0 while a run by minutes has not settled them.
        seconds: of training so far.
        loss_count: steps since the last line of the log.
        scaler: the state of the loss's scale in float16, None in other formats.
    """

    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    loss_count: int = 0
    scaler: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return 0 < self.steps <= self.step


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read, but for the weights.

    Args:
        directory: its folder.
        progress: how far it has come.
        tensors: "moment.PLACE.NAME" for the optimiser's state of each parameter, "generator", "loss_sum".
    """

    directory: Path
    progress: Progress
    tensors: dict[str, Tensor]


def identity(task_set: TaskSet, settings: Settings) -> dict[str, Any]:
    """What a run is: two with the same identity are the same run."""
    return {
        "settings": settings.to_json(),
        "suite": task_set.name,
        "tasks_sha256": sha256(_tasks_json(task_set)).hexdigest(),
        "code": {"version": CODE_VERSION, **{name: metadata.version(name) for name in PACKAGES}},
    }


def _tasks_json(task_set: TaskSet) -> bytes:
    return (json.dumps(task_set_to_json(task_set), ensure_ascii=False) + "\n").encode()


def make_folder(directory: Path) -> None:
    """Make a run's folder. Raises ArtifactError where it cannot be made."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot use {directory}: {error.strerror or error}: choose another --out") from error


def prepare_folder(directory: Path, wanted: Mapping[str, Any]) -> None:
    """See that a folder is empty or this run's, and put back a checkpoint that was being replaced.

    Raises:
        ArtifactError: it holds something else, another run, or one of other code.
    """
    try:
        others = sorted(entry.name for entry in directory.iterdir() if entry.name not in OWN_ENTRIES)
        if others:
            raise ArtifactError(f"{directory} holds something else ({others[0]}): choose another --out")
        if (directory / _OLD).exists() and not (directory / CHECKPOINT).exists():
            (directory / _OLD).rename(directory / CHECKPOINT)
        for leftover in (_PART, _OLD):
            shutil.rmtree(directory / leftover, ignore_errors=True)
    except OSError as error:
        raise ArtifactError(f"cannot use {directory}: {error.strerror or error}: choose another --out") from error
    if (directory / LOG).exists():
        _check_same(directory, read_log(directory)[0].get("identity"), wanted)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Within this, no other process of this machine trains in the folder; what a killed one held is free again.

    Raises:
        ArtifactError: another process does.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # not on this system
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(
                f"another process is training in {directory}: wait for it, or choose another --out"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def read(directory: Path, wanted: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint of a run's folder; None where there is none yet.

    Raises:
        ArtifactError: it is another run's, of other code, or damaged.
    """
    folder = directory / CHECKPOINT
    if not folder.exists():
        return None
    try:
        data = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"its format is {data['format']!r}")
        _check_same(folder, data["identity"], wanted)
        progress = Progress(**data["progress"])
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / STATE_TENSORS).items()}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} is no checkpoint of `construct train` or is damaged ({error}): choose another --out, or delete "
            "it to start anew"
        ) from error
    return Checkpoint(folder, progress, tensors)


def read_model(found: Checkpoint) -> Any:
    """The model of a checkpoint, in float32. Raises ArtifactError where it is damaged.

    A tensor that is read from a file lies where it lies there, and on a CPU the order of a product's sums can depend on
    its place in memory. So weights, like moments, are copied to where torch has those of a new model.
    """
    transformers = library("transformers")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(found.directory, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        return model
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{found.directory} is damaged ({reason}): delete it to start anew") from error


def restore_optimiser(optimiser: torch.optim.Optimizer, found: Checkpoint) -> None:
    """Put the moments back. Raises ArtifactError where they are not those of the model."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in found.tensors.items():
        if name.startswith("moment."):
            _, place, field = name.split(".", 2)
            state.setdefault(int(place), {})[field] = tensor
    try:
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    except (ValueError, KeyError) as error:
        raise ArtifactError(f"{found.directory} is damaged ({error}): delete it to start anew") from error


def write(
    directory: Path,
    *,
    wanted: Mapping[str, Any],
    task_set: TaskSet,
    tokenizer: Any,
    model: Any,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    loss_sum: Tensor,
    progress: Progress,
) -> None:
    """Write the checkpoint of a run's folder, whole or not at all.

    Raises:
        ArtifactError: it cannot be written, as where the disk is full; the one before is kept.
    """
    part = directory / _PART
    tensors = {"generator": generator.get_state(), "loss_sum": loss_sum.detach().cpu().reshape(1)}
    for place, state in optimiser.state_dict()["state"].items():
        tensors |= {f"moment.{place}.{name}": value.detach().cpu().contiguous() for name, value in state.items()}
    with _written(directory):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        save_file(tensors, part / STATE_TENSORS)
        (part / TASKS).write_bytes(_tasks_json(task_set))
        said = {"format": FORMAT, "identity": wanted, "progress": asdict(progress), "python": platform.python_version()}
        (part / STATE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        for path in [*part.iterdir(), part]:
            _sync(path)
        _swap(directory)


def _swap(directory: Path) -> None:
    place, part, old = (directory / name for name in (CHECKPOINT, _PART, _OLD))
    if place.exists():
        place.rename(old)
    part.rename(place)
    _sync(directory)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """See a file or a folder on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems do not sync folders
            raise
    finally:
        os.close(handle)


@contextmanager
def _written(directory: Path) -> Iterator[None]:
    """What goes wrong while a checkpoint is written, in words; what was written of it goes."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            shutil.rmtree(directory / _PART)
        reason = getattr(error, "strerror", None) or error
        kept = "the last one is kept" if (directory / CHECKPOINT).exists() else "there is none before it"
        raise ArtifactError(
            f"cannot write a checkpoint to {directory}: {reason}; {kept}: make room and run the same command to go on"
        ) from error


def checkpoint_folder(path: Path) -> Path | None:
    """The checkpoint that a path stands for: it is one, or a run's folder that has one; else None."""
    for folder in (path, path / CHECKPOINT):
        if (folder / STATE).is_file() and (folder / TASKS).is_file():
            return folder
    return None


def evaluation_folder(path: Path) -> Path | None:
    """Where `construct evaluate` puts its results of a run, given the run's folder or its checkpoint; else None."""
    folder = checkpoint_folder(path)
    if folder is None or not (folder.parent / LOG).is_file():
        return None
    return folder.parent / EVALUATION


def trained_examples(folder: Path) -> int:
    """m, the examples of the prompts that a checkpoint was trained on. Raises ArtifactError where it is damaged."""
    try:
        data = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return int(data["identity"]["settings"]["examples"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / STATE} is damaged ({error}): train again") from error


def _check_same(where: Path, found: Any, wanted: Mapping[str, Any]) -> None:
    """Refuse another run's folder, naming what differs."""
    if found == wanted:
        return
    parts: dict[str, Any] = found if isinstance(found, dict) else {}
    code = parts.get("code")
    if code != wanted["code"]:
        raise ArtifactError(
            f"{where} was made by other code ({_said(code)}; here {_said(wanted['code'])}): go on with that code, or "
            "choose another --out"
        )
    old, new = parts.get("settings") or {}, wanted["settings"]
    differs = [
        f"{name} {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    differs += [name for name in ("suite", "tasks_sha256") if parts.get(name) != wanted[name]]
    raise ArtifactError(f"{where} is of another run ({'; '.join(differs)}): choose another --out")


def _said(code: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in code.items()) if isinstance(code, dict) else "unknown"
