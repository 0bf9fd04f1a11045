"""The log of a run: log.jsonl in its folder, a header and then a line at every validation.

    {"record": "run", "format": ..., "identity": {"settings": {...}, "suite": ..., "tasks_sha256": ..., "code": {...}},
     "tasks": [names], "parameters": ..., "processes": ...}
    {"record": "step", "step": ..., "tokens": ..., "seconds": ..., "loss": ..., "rate": ..., "tokens_per_second": ...,
     "share_of_peak": ..., "accuracy": {...}, ...}

The fields of a step are those of `Row`, and of `empirical.training.validation.Validated`. When a run that was killed
goes on, lines beyond its checkpoint are taken away, as they are written anew: but for `seconds` and `tokens_per_second`
the log is that of a run that was not killed.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from construct.artifact import write_file
from construct.errors import ArtifactError
from empirical.training.validation import Validated

LOG = "log.jsonl"
FORMAT = "task-superposition training log"
FORMAT_VERSION = 1

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12, "T4": 65e12}
"""Dense floating-point operations a second with 16-bit inputs, by the makers' data sheets; the first match counts."""


@dataclass(frozen=True)
class Row:
    """A line of the log.

    Args:
        step: steps done.
        tokens: tokens read so far, over all processes: step * batch * (m+1)(n+2).
        seconds: of training so far, over all its parts where it was killed.
        loss: the mean training loss since the line before; nats an answer.
        rate: the learning rate of the last step.
        tokens_per_second: since the line before, without validation.
        share_of_peak: of the GPUs' peak with 16-bit inputs; None on other devices.
        validated: what the model does with pure and mixed prompts.
    """

    step: int
    tokens: int
    seconds: float
    loss: float
    rate: float
    tokens_per_second: float
    share_of_peak: float | None
    validated: Validated

    def to_json(self) -> dict[str, Any]:
        """The line."""
        own = {name: value for name, value in vars(self).items() if name != "validated"}
        return {"record": "step", **own, **self.validated.to_json()}


class Log:
    """Appends to a run's log.

    Args:
        directory: the run's folder.
        header: the first line.
        step: the step that the run goes on from; lines beyond it are dropped.

    Raises:
        ArtifactError: it cannot be written.
    """

    def __init__(self, directory: Path, header: Mapping[str, Any], *, step: int) -> None:
        self._path = directory / LOG
        kept = [row for row in read_log(directory)[1] if row["step"] <= step] if self._path.exists() else []
        write_file(self._path, b"".join(map(_encoded, [header, *kept])))

    def append(self, row: Row) -> None:
        """Append a line and see it on disk."""
        try:
            with self._path.open("ab") as file:
                file.write(_encoded(row.to_json()))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ArtifactError(f"cannot write {self._path}: {error.strerror or error}") from error


def header(identity: Mapping[str, Any], *, tasks: Sequence[str], parameters: int, processes: int) -> dict[str, Any]:
    """The first line of a log."""
    return {
        "record": "run",
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "identity": dict(identity),
        "tasks": list(tasks),
        "parameters": parameters,
        "processes": processes,
    }


def read_log(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the lines of a run's log, up to one that was cut off.

    Raises:
        ArtifactError: there is none, or it is no log of a run.
    """
    path = directory / LOG
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    lines: list[dict[str, Any]] = []
    for line in content.splitlines(keepends=True):
        try:
            found = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            break
        lines.append(found)
    if not lines or lines[0].get("format") != FORMAT or not all(isinstance(row.get("step"), int) for row in lines[1:]):
        raise ArtifactError(f"{path} is no log of `construct train`: choose another folder")
    return lines[0], lines[1:]


def operations_per_token(parameters: int, layers: int, width: int, positions: int) -> float:
    """Floating-point operations of a training step for each token: 6 N, and 12 layers width T for attention.

    Each parameter takes part in a product and a sum forwards, and in twice as many backwards; queries meet keys, and
    weights meet values, over T positions (counted whole, though half of them are masked). N leaves embeddings out that
    are looked up alone.
    """
    return 6.0 * parameters + 12.0 * layers * width * positions


def share_of_peak(
    device_name: str | None, *, tokens_per_second: float, operations: float, devices: int
) -> float | None:
    """The share of the devices' peak that a speed makes use of; None where the peak is not known."""
    peak = next((peak for name, peak in PEAKS.items() if name in (device_name or "")), None)
    return None if peak is None else tokens_per_second * operations / (peak * devices)


def _encoded(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, ensure_ascii=False) + "\n").encode()
