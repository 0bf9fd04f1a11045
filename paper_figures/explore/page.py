"""The page of a construction, as one string of HTML that needs nothing else."""

import base64
import html
import json
import re
from dataclasses import asdict
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from construct.errors import TooLargeError
from construct.prompts import Prompt, format_prompt
from construct.residual_stream import Array
from construct.sampling import PromptSampler
from construct.sparse import Sparse
from construct.tasks import SumTask, Task
from construct.theorems import Construction
from construct.transformer import TransformerWeights, forward
from paper_figures.style import PALETTE

MARK = 'content="task-superposition explore"'
"""What a page of ours holds, so that it may be replaced."""

LARGEST_BYTES = 2**25
"""The weights of a page, in base64: what a browser reads at once without a pause."""

CHECKS = 3
TOLERANCE = 1e-12
"""The largest difference that a page may find to the float64 pass: sums of the same numbers in another order."""


def explore_page(construction: Construction, *, start: Prompt | None = None) -> str:
    """The page.

    Args:
        construction: of tasks on tokens.
        start: the prompt shown first; None draws one.

    Raises:
        TooLargeError: the weights take more than `LARGEST_BYTES`.
        PromptError: the prompt does not fit the construction.
    """
    data = _data(construction, start)
    task_set, layout = construction.task_set, construction.layout
    parts = {
        "title": html.escape(f"{task_set.name}: tasks in superposition"),
        "heading": html.escape(f"{task_set.name}: {len(task_set.tasks)} tasks in superposition"),
        "introduction": html.escape(
            f"Hand-built transformer weights ({construction.theorem}, {len(construction.weights.layers)} layers, width "
            f"{construction.weights.d_model:,}) that run {', '.join(task.name for task in task_set.tasks)} at once, on "
            f"up to {layout.examples} examples. Change the examples, their order or the mixture, and see what moves."
        ),
        "style": _text("style.css"),
        # No "</script>" may stand inside a script.
        "data": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        "model": _text("model.js"),
        "prompt": _text("prompt.js"),
        "view": _text("view.js"),
    }
    # In one pass: a suite may be named like one of these marks.
    return re.sub("@(" + "|".join(parts) + ")@", lambda mark: parts[mark[1]], _text("page.html"))


def _text(name: str) -> str:
    return resources.files("paper_figures.explore").joinpath(name).read_text(encoding="utf-8").rstrip("\n")


def _data(construction: Construction, start: Prompt | None) -> dict[str, Any]:
    task_set, layout, weights = construction.task_set, construction.layout, construction.weights
    needed = _bytes_needed(weights)
    if needed > LARGEST_BYTES:
        raise TooLargeError(
            f"the weights take {needed / 2**20:,.0f} MiB in a page, and {LARGEST_BYTES / 2**20:,.0f} MiB are the most: "
            "choose fewer tasks, inputs or examples, or a smaller alphabet"
        )
    evidence = construction.stream["evidence"]
    heads = [
        {"layer": circuit.layer - 1, "name": circuit.name, "head": number}
        for layer in range(1, len(weights.layers) + 1)
        for number, circuit in enumerate(
            circuit for circuit in construction.circuits if (circuit.layer, circuit.kind) == (layer, "attention")
        )
    ]
    shown = start or _example_prompt(construction)
    *lines, query = format_prompt(shown, task_set).split("\n")
    layout.ids(shown)
    return {
        "alphabet": list(task_set.alphabet),
        "format": {"separator": task_set.format.separator, "arrow": task_set.format.arrow},
        "layout": {"inputs": layout.inputs, "examples": layout.examples, "bos": layout.bos, "eq": layout.eq},
        "tasks": [_task(task) for task in task_set.tasks],
        "inputs": _input_tokens(construction),
        "evidence": [evidence.start, evidence.stop],
        "bound": construction.error_bound,
        "heads": heads,
        "circuits": [asdict(circuit) for circuit in construction.circuits],
        "colours": list(PALETTE),
        "start": {"lines": lines, "query": query},
        "weights": _weights(weights),
        "checks": [_check(construction, number) for number in range(CHECKS)],
        "tolerance": TOLERANCE,
    }


def _task(task: Task) -> dict[str, Any]:
    if isinstance(task, SumTask):
        return {
            "name": task.name,
            "kind": "sum",
            "reads": list(task.positions),
            "values": [[token, value] for token, value in task.values.items()],
            "rows": [[total, answer] for total, answer in task.rows.items()],
        }
    rows = [[list(key), answer] for key, answer in task.rows.items()]
    return {"name": task.name, "kind": "table", "reads": list(task.reads), "rows": rows}


def _input_tokens(construction: Construction) -> list[int]:
    """The tokens that some task takes as an input."""
    found: set[int] = set()
    for task in construction.task_set.tasks:
        found |= set(task.values) if isinstance(task, SumTask) else {token for key in task.rows for token in key}
    return sorted(found)


def _example_prompt(construction: Construction) -> Prompt:
    examples = min(construction.layout.examples, 8)
    return PromptSampler(construction.task_set).prompt(examples, np.random.default_rng(0))


def _check(construction: Construction, number: int) -> dict[str, Any]:
    """A random prompt of another length each, with what the float64 pass makes of it at every position."""
    generator = np.random.default_rng(number)
    examples = [0, construction.layout.examples, (construction.layout.examples + 1) // 2][number % 3]
    ids = construction.layout.ids(PromptSampler(construction.task_set).prompt(min(examples, 12), generator))
    trace = forward(construction.weights, ids)
    evidence = trace.after_mlp[-1][:, construction.stream["evidence"].coordinates]
    return {"ids": ids, "output": _base64(trace.output), "evidence": _base64(evidence)}


def _weights(weights: TransformerWeights) -> dict[str, Any]:
    layers = []
    for layer in weights.layers:
        parts = {name: getattr(layer.attention, name) for name in ("query", "key", "value", "output")}
        heads = [{name: _matrix(part[head]) for name, part in parts.items()} for head in range(len(parts["query"]))]
        layers.append(
            {
                "heads": heads,
                "w_in": _matrix(layer.mlp.w_in),
                "bias_in": _base64(layer.mlp.bias_in),
                "w_out": _matrix(layer.mlp.w_out),
                "bias_out": _base64(layer.mlp.bias_out),
            }
        )
    return {
        "token": _matrix(weights.token_embedding),
        "position": _matrix(weights.position_embedding),
        "layers": layers,
        "unembedding": _matrix(weights.unembedding),
    }


def _matrix(matrix: Array | Sparse) -> dict[str, Any]:
    stored = csr_array(matrix)
    stored.sum_duplicates()
    return {
        "rows": int(stored.shape[0]),
        "columns": int(stored.shape[1]),
        "starts": _base64(stored.indptr.astype(np.int32)),
        "places": _base64(stored.indices.astype(np.int32)),
        "values": _base64(stored.data.astype(np.float32)),
    }


def _bytes_needed(weights: TransformerWeights) -> int:
    """The base64 of 8 bytes an entry, of a pointer a row, and of the biases."""
    rows = sum(int(np.prod(tensor.shape[:-1])) + 1 for _, tensor in weights.tensors())
    return 4 * (8 * weights.nonzero_parameters + 4 * rows) // 3


def _base64(values: NDArray[Any]) -> str:
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")
