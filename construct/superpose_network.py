"""A network's folder: a transformer that was not built here, a trained one, say, with the task that it should perform.

    network.json         {"format": "task-superposition network", "format_version": 1, "task_set": {...}}
    weights.safetensors  its weights, in float32

`task_set` is what a task file holds (`construct.task_file`), with one task. The tensors are embedding.token, of shape
[V + 2, d], the tokens of the alphabet, then BOS and EQ; embedding.position [T, d]; of each layer
layers.L.attention.query, key [heads, d, d_qk], value [heads, d, d_value], output [heads, d_value, d], and
layers.L.mlp.w_in [d, width], bias_in [width], w_out [width, d], bias_out [d]; and unembedding [d, V]: what
`construct.transformer` runs. With T = n + 2 positions it answers one example, BOS x_1 .. x_n EQ, and is lifted to
prompts of many by `construct.superpose_lift.in_context`, with the number `locality` if network.json has that too. With
the positions of whole prompts it is taken to answer every example of them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from construct.artifact import WEIGHTS, weights_of, write_file
from construct.errors import ArtifactError, InputError
from construct.prompts import Layout
from construct.superpose_lift import in_context
from construct.task_file import task_set_from_json, task_set_to_json
from construct.tasks import SumTask, TableTask, TaskSet
from construct.transformer import TransformerWeights

FORMAT = "task-superposition network"
FORMAT_VERSION = 1
DESCRIPTION = "network.json"
FIELDS = {"format", "format_version", "task_set", "locality"}


@dataclass(frozen=True)
class Network:
    """A transformer and the task that it should perform.

    Args:
        task_set: one task, its alphabet and inputs.
        weights: the transformer.
        locality: how far it is kept to its own example when lifted (`in_context`), None to have it derived.
    """

    task_set: TaskSet
    weights: TransformerWeights
    locality: float | None = None

    @property
    def task(self) -> TableTask | SumTask:
        """The task."""
        return self.task_set.tasks[0]

    def lifted(self, layout: Layout) -> TransformerWeights:
        """The network at work in every example of a prompt: lifted, or as it is if it has that many positions.

        Raises:
            TaskError: it has too few positions, or its scores are too large to be lifted.
        """
        if int(self.weights.position_embedding.shape[0]) >= layout.positions:
            return self.weights
        return in_context(self.weights, layout, locality=self.locality)


def is_network(directory: Path) -> bool:
    """Whether a folder has a description of a network."""
    return (directory / DESCRIPTION).is_file()


def save_network(network: Network, directory: Path) -> None:
    """Write a network's folder, each file whole or not at all. Raises ArtifactError when it cannot be written."""
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in network.weights.tensors():
        tensors[name] = np.ascontiguousarray(tensor if isinstance(tensor, np.ndarray) else tensor.toarray())
    description: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
    description |= {"task_set": task_set_to_json(network.task_set)}
    if network.locality is not None:
        description["locality"] = network.locality
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot make the folder {directory}: {error.strerror or error}") from error
    write_file(directory / WEIGHTS, save_safetensors(tensors))
    write_file(directory / DESCRIPTION, json.dumps(description, ensure_ascii=False, indent=1).encode())


def load_network(directory: Path) -> Network:
    """Read a network's folder. Raises ArtifactError when it cannot be read, or its parts do not fit."""
    path = directory / DESCRIPTION
    try:
        data, content = json.loads(path.read_text(encoding="utf-8")), (directory / WEIGHTS).read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read the network {directory}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(f"{path} is no description of a network: expected format {FORMAT!r}, version 1")
    if unknown := sorted(data.keys() - FIELDS):
        raise ArtifactError(f"{path} has the field {unknown[0]!r}: expected {', '.join(sorted(FIELDS))}")
    try:
        return Network(_task_set(data), _weights(data, load_safetensors(content)), _locality(data))
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError, InputError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"the network {directory} cannot be used: {reason}") from error


def _task_set(data: Mapping[str, Any]) -> TaskSet:
    task_set = task_set_from_json(data["task_set"])
    if len(task_set.tasks) != 1:
        raise ValueError(f"task_set has {len(task_set.tasks)} tasks, a network performs one")
    return task_set


def _locality(data: Mapping[str, Any]) -> float | None:
    locality = data.get("locality")
    if locality is None:
        return None
    if type(locality) not in (int, float) or not 0 <= locality < math.inf:
        raise ValueError(f"locality is {locality!r:.40}, expected a number that is not negative")
    return float(locality)


def _weights(data: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> TransformerWeights:
    task_set = task_set_from_json(data["task_set"])
    named = {name.split(".")[1] for name in tensors if name.startswith("layers.")}
    described = {name: {"shape": list(tensor.shape), "stored": "dense"} for name, tensor in tensors.items()}
    positions, d_model = tensors["embedding.position"].shape
    alphabet = len(task_set.alphabet)
    weights = weights_of(
        {"tensors": described, "sizes": {"layers": len(named)}},
        tensors,
        (alphabet + 2, positions, alphabet),
        d_model,
    )
    if unknown := sorted(tensors.keys() - {name for name, _ in weights.tensors()}):
        raise ValueError(f"the weights hold {unknown[0]}, which is no tensor of such a network")
    return weights
