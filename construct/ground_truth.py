"""What every head and unit of a construction does, in the names of TransformerLens: an answer key for tools.

Interpretability methods are tried on models whose mechanism is guessed. Here it is known, by construction and proof, so
what a method finds can be marked right or wrong. Layers, heads and units count from 0, as TransformerLens does; hook
names are those of a TransformerBridge or HookedTransformer whose blocks are the construction's layers. An exported
GPT-2 (`construct.export.gpt2`) has the same blocks, heads and units in the same places, then the readout.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from construct.errors import InputError
from construct.export.gpt2 import NORMALIZATIONS, mirrors, stream_scale
from construct.export.readout import readout
from construct.export.shape import stock_shape
from construct.mlp import read_subspace
from construct.prompts import Layout
from construct.reads import plan_reads
from construct.residual_stream import ResidualStream
from construct.seven_reads import seven_reads
from construct.tasks import SumTask, TableTask
from construct.theorems import Circuit, Construction
from construct.transformer import Residual

FORMAT, FORMAT_VERSION = "task-superposition ground truth", 1
KNOWN = ("two-layer", "seven-layer")
"""The theorems whose ground truth is complete: which heads serve which task, and what interventions do."""

HOLDS = {
    "token": "one-hot: the token of the position; from the last layer on, at eq, plus the mixture q",
    "example_index": "the +-1 code of the example that the position belongs to",
    "input_index": "the +-1 code of the place among the inputs, at x",
    "evidence": "one number a task: at y whether the task explains the example, then at eq w_k = c_k/m'",
    "prediction": "four numbers a task: the code of its answer on the inputs read",
    "unanswered": "one number a task: 1 where it has no answer, else 0",
    "mismatch": "one number a task: at y how far its answer is from the one given",
    "weight": "one number a task: at eq w_k where it has an answer to the query",
}
"""What a subspace holds; those of roles, reads and sums say it in their names."""


def ground_truth(construction: Construction) -> dict[str, Any]:
    """The answer key of a construction, as it is written to JSON.

    Returns:
        format, theorem, sizes, `layout`, `subspaces`, `heads`, `units`, `tasks`, `interventions` and `readout`. Every
        number in it is an index (of a layer, head, unit, coordinate, position or token) unless it says otherwise.

    Raises:
        InputError: the theorem is not one of `KNOWN`.
    """
    if construction.theorem not in KNOWN:
        raise InputError(
            f"the ground truth of the theorem {construction.theorem!r} is not written down: expected a construction of "
            f"{' or '.join(KNOWN)}; `construct show` lists the circuits of any"
        )
    heads, units = list(_heads(construction)), list(_units(construction.circuits))
    tasks = [_task(construction, index, heads, units) for index in range(len(construction.task_set.tasks))]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "theorem": construction.theorem,
        "layers": len(construction.weights.layers),
        "d_model": construction.weights.d_model,
        "layout": _layout(construction),
        "subspaces": _subspaces(construction.stream, construction),
        "heads": heads,
        "units": units,
        "tasks": tasks,
        "interventions": _interventions(construction, heads, tasks),
        "readout": _readout(construction),
    }


def expected_pattern(head: Mapping[str, Any], layout: Layout, length: int) -> Residual:
    """The attention pattern of a head of the ground truth, shape [length, length], queries first.

    Args:
        head: an entry of `heads`.
        layout: of the construction.
        length: of the prompt, in tokens.
    """
    pattern = np.zeros((length, length))
    for position in range(length):
        role, example = role_of(layout, position)
        due = head["attends"][role]
        keys: list[int] = []
        if due["to"] == "x":
            keys = [layout.input_position(example, place) for place in due["places"]]
        elif due["to"] == "y":
            earlier = [layout.answer_position(index) for index in range(example)]
            keys = earlier or [key for key in range(1, position + 1) if role_of(layout, key)[0] in due["otherwise"]]
        for key in keys or [0]:
            pattern[position, key] = 1 / max(len(keys), 1)
    return pattern


def answer_as_if(task: SumTask, as_if: Mapping[str, Any], inputs: Sequence[int]) -> int | None:
    """The answer of a sum task that an ablation alters: as if the tokens at some inputs all counted the same.

    Args:
        task: the task.
        as_if: an entry of `as_if` of an ablation: `inputs`, what each of them counts, and the totals that have rows.
        inputs: n ids.
    """
    missing = as_if["inputs"]
    values = [as_if["count"] if at in missing else task.values.get(inputs[at]) for at in task.positions]
    if any(value is None for value in values):
        return None
    total, (least, most) = sum(value for value in values if value is not None), as_if["totals"]
    return task.rows.get(total) if least <= total <= most else None


def role_of(layout: Layout, position: int) -> tuple[str, int]:
    """The role of a position ("bos", "x", "eq" or "y") and its example, from 0; that of BOS is 0."""
    if position == 0:
        return "bos", 0
    example, place = divmod(position - 1, layout.inputs + 2)
    return ("x" if place < layout.inputs else "eq" if place == layout.inputs else "y"), example


def _heads(construction: Construction) -> Iterator[dict[str, Any]]:
    counted: dict[int, int] = {}
    for circuit in construction.circuits:
        if circuit.kind != "attention":
            continue
        layer = circuit.layer - 1
        head = counted.get(layer, 0)
        counted[layer] = head + 1
        at = f"blocks.{layer}.attn"
        yield {
            "layer": layer,
            "head": head,
            "name": circuit.name,
            "says": circuit.says,
            "reads": list(circuit.reads),
            "writes": list(circuit.writes),
            "hooks": {name: f"{at}.hook_{name}" for name in ("attn_scores", "pattern", "q", "k", "v", "z")},
            "attends": _attends(circuit.name),
        }


def _attends(name: str) -> dict[str, dict[str, Any]]:
    """Where a head attends, for each role of the query: equally to all that is named, or `otherwise` where none is."""
    nothing: dict[str, Any] = {"to": "bos"}
    if name == "average":
        earlier = {"to": "y", "of": "every earlier example", "otherwise": ["x", "eq"]}
        return {"bos": nothing, "x": nothing, "eq": earlier, "y": nothing}
    places = [int(place) for place in name.removeprefix("read[").removesuffix("]").split(",")]
    reads = {"to": "x", "of": "the same example", "places": places}
    return {"bos": nothing, "x": nothing, "eq": reads, "y": reads}


def _units(circuits: Sequence[Circuit]) -> Iterator[dict[str, Any]]:
    start: dict[int, int] = {}
    for circuit in circuits:
        if circuit.kind != "mlp":
            continue
        layer = circuit.layer - 1
        first = start.get(layer, 0)
        start[layer] = first + circuit.units
        yield {
            "layer": layer,
            "units": [first, first + circuit.units],
            "name": circuit.name,
            "says": circuit.says,
            "reads": list(circuit.reads),
            "writes": list(circuit.writes),
            "hooks": {"pre": f"blocks.{layer}.mlp.hook_pre", "post": f"blocks.{layer}.mlp.hook_post"},
        }


def _task(
    construction: Construction, index: int, heads: Sequence[Mapping[str, Any]], units: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What serves one task: its own units, the shared units that these read from, and the heads behind both."""
    task = construction.task_set.tasks[index]
    # A task may be named like anything, so names are compared whole: "code[sum[0]]" is of a sum, not of a task.
    codes = [group for group in units if group["name"].startswith("code[")]
    own = [
        group
        for group in units
        if group not in codes and group["name"] == f"{group['name'].partition('[')[0]}[{task.name}]"
    ]
    behind = {name for group in own for name in group["reads"]}
    shared = [group for group in codes if behind & set(group["writes"])]
    behind |= {name for group in shared for name in group["reads"]}
    readers = [head for head in heads if head["name"] != "average" and behind & set(head["writes"])]
    average = next(head for head in heads if head["name"] == "average")
    coordinate = construction.stream["evidence"].start + index
    written = max(group["layer"] for group in own if "evidence" in group["writes"])
    return {
        "name": task.name,
        "kind": "sum" if isinstance(task, SumTask) else "table",
        "read_heads": [[head["layer"], head["head"]] for head in readers],
        "average_head": [average["layer"], average["head"]],
        "units": [{key: group[key] for key in ("layer", "units", "name")} for group in own],
        "shared_units": [{key: group[key] for key in ("layer", "units", "name")} for group in shared],
        "evidence": {
            "coordinate": coordinate,
            "at_y": f"blocks.{written}.hook_resid_post",
            "at_eq": f"blocks.{average['layer']}.hook_resid_mid",
        },
    }


def _interventions(
    construction: Construction, heads: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What is predicted of experiments, for the output q at every EQ."""
    ablated = []
    for head in heads:
        place = [head["layer"], head["head"]]
        removed: list[str] = []
        as_if: dict[str, Any] = {}
        for task, known in zip(construction.task_set.tasks, tasks, strict=True):
            if head["name"] == "average":
                removed.append(task.name)
            elif place not in known["read_heads"]:
                continue
            elif isinstance(task, TableTask):
                # A code of one token may have no bits: then there is nothing to take away.
                codes = {read_subspace(position) for position in task.reads} & set(head["writes"])
                if any(construction.stream[name].size for name in codes):
                    removed.append(task.name)
            else:
                as_if[task.name] = _sum_without(construction, task, head["attends"]["eq"]["places"])
                if not _answers_without(task, as_if[task.name]):
                    removed.append(task.name)
                    del as_if[task.name]
        ablated.append(
            {
                "head": place,
                "hook": head["hooks"]["z"],
                "set_to": 0,
                "removes": removed,
                "alters": list(as_if),
                "as_if": as_if,
            }
        )
    return {
        "ablate_head": ablated,
        "ablate_units": [
            {"task": task["name"], "units": task["units"], "set_to": 0, "removes": [task["name"]]} for task in tasks
        ],
        "patch_evidence": {
            "hook": tasks[0]["evidence"]["at_y"],
            "positions": "y",
            "coordinates": [task["evidence"]["coordinate"] for task in tasks],
            "says": "with e_k(i) put at the y of example i, w_k is its mean over the examples before, and "
            "q = sum_k w_k u[g_k(query)]",
        },
    }


def _sum_without(construction: Construction, task: SumTask, places: Sequence[int]) -> dict[str, Any]:
    """What a sum task takes a sum for when a head reads nothing: its tokens count as much as the coordinate's 0.

    A coordinate holds the sum less a shift for each of its positions, so a number that is missing counts that shift:
    the middle of the values in two layers, one less than the least in seven. Rows beyond what any example can reach
    are not in the weights.
    """
    if construction.theorem == "two-layer":
        value = plan_reads(construction.task_set).sum_of(task).shift
    else:
        reads = seven_reads(construction.task_set)
        scalar = reads.sums[reads.sum_of[task.name]]
        value = scalar.shift // len(scalar.positions)
    size = len(task.positions)
    return {
        "inputs": [place for place in places if place in task.positions],
        "count": value,
        "totals": [size * min(task.values.values()), size * max(task.values.values())],
    }


def _answers_without(task: SumTask, as_if: Mapping[str, Any]) -> bool:
    """Whether a sum task may still answer: it reads something else, or the sum of nothing has a row."""
    least, most = as_if["totals"]
    total = len(task.positions) * as_if["count"]
    return len(as_if["inputs"]) < len(task.positions) or (least <= total <= most and total in task.rows)


def _layout(construction: Construction) -> dict[str, Any]:
    layout = construction.layout
    return {
        "alphabet": list(construction.task_set.alphabet),
        "bos": layout.bos,
        "eq": layout.eq,
        "inputs": layout.inputs,
        "examples": layout.examples,
        "positions": layout.positions,
        "says": "position 0 is bos; example i has its inputs from 1 + i (n + 2) on, then eq, then y",
    }


def _subspaces(stream: ResidualStream, construction: Construction) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, space in stream.items():
        writers = [
            {"layer": circuit.layer - 1, "kind": circuit.kind, "name": circuit.name}
            for circuit in construction.circuits
            if name in circuit.writes
        ]
        found[name] = {
            "coordinates": [space.start, space.stop],
            "holds": HOLDS.get(name, name.replace("_", " ")),
            "written_by": writers or "the embeddings",
        }
    return found


def _readout(construction: Construction) -> dict[str, Any]:
    """What an export adds: subspaces behind the construction's, units behind its last layer's, and four blocks."""
    model = readout(construction)
    shape = stock_shape(model)
    first = len(construction.weights.layers) - 1
    return {
        "says": "in exports only: `construct.export.readout` derives it",
        "gpt2": {
            "width": shape.width,
            "heads": shape.heads,
            "stream_scale": {name: stream_scale(name) for name in NORMALIZATIONS},
            "mirrors": {name: [space.start, space.stop] for name, space in mirrors(model, shape).items()},
            "says": "the stream is stored times its scale; the mean is kept at 0 by minus[...] of each mirrored "
            "subspace, which a patch has to move as well",
        },
        "layers": len(model.weights.layers),
        "d_model": model.weights.d_model,
        "logit_of_nothing": -model.low,
        "largest_count": model.largest,
        "subspaces": {
            name: {"coordinates": [space.start, space.stop]}
            for name, space in model.stream.items()
            if name not in construction.stream
        },
        "units": [
            {
                "layer": layer,
                "units": [group.start, group.start + group.units],
                "name": group.name,
                "says": group.says,
                "reads": list(group.reads),
                "writes": list(group.writes),
            }
            for layer, groups in enumerate(model.groups, start=first)
            for group in groups
        ],
    }
