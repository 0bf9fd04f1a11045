"""A construction on vectors as a folder, in the form of `construct.artifact`: weights and description."""

from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from construct.artifact import (
    FORMAT,
    FORMAT_VERSION,
    NOT_VERIFIED,
    ON_VECTORS,
    load_parts,
    save_parts,
    sizes,
    weights_of,
)
from construct.residual_stream import ResidualStream
from construct.theorems import Circuit
from construct.vector_comparison import COMPARISONS, Comparison
from construct.vector_prompts import VectorLayout
from construct.vector_task_file import float32_array, vector_task_set_from_json, vector_task_set_to_json
from construct.vector_theorem import VectorConstruction


def save_vectors(
    construction: VectorConstruction, directory: Path, *, dense: bool = False, verification: str = NOT_VERIFIED
) -> None:
    """Write the construction's folder, whole or not at all; see `construct.artifact.save`."""
    save_parts(construction.weights, _describe(construction), directory, dense=dense, verification=verification)


def load_vectors(directory: Path, *, check_hashes: bool = True) -> VectorConstruction:
    """Read the folder of a construction on vectors; see `construct.artifact.load`."""
    return load_parts(directory, _construction, check_hashes=check_hashes)


def _describe(construction: VectorConstruction) -> dict[str, Any]:
    layout, comparison = construction.layout, construction.comparison
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "made_by": f"task-superposition {metadata.version('task-superposition')}",
        "theorem": construction.theorem,
        "sharpness": construction.sharpness,
        "error_bound": construction.error_bound,
        "sizes": sizes(construction),
        "layout": {
            "dim": layout.dim,
            "inputs": layout.inputs,
            "examples": layout.examples,
            "positions": layout.positions,
        },
        "domain": {
            "comparison": comparison.kind,
            "distance": comparison.says,
            "tolerance": comparison.tolerance,
            "margin": comparison.margin,
            "norm_slack": comparison.norm_slack,
            "input_bound": construction.task_set.bound,
            "answer_bound": construction.task_set.answer_bound,
            "fingerprint": None if comparison.full else [[float(str(x)) for x in row] for row in comparison.rows],
        },
        "subspaces": {name: {"start": space.start, "size": space.size} for name, space in construction.stream.items()},
        "circuits": [asdict(circuit) for circuit in construction.circuits],
        "task_set": vector_task_set_to_json(construction.task_set),
    }


def _construction(data: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> VectorConstruction:
    if data["theorem"] not in ON_VECTORS:
        raise ValueError(f"the theorem is {data['theorem']!r}, not one of {', '.join(ON_VECTORS)}")
    task_set = vector_task_set_from_json(data["task_set"])
    layout = VectorLayout(task_set.dim, task_set.inputs, data["layout"]["examples"])
    written = {"dim": layout.dim, "inputs": layout.inputs, "positions": layout.positions}
    for name, expected in written.items():
        if data["layout"][name] != expected:
            raise ValueError(f"layout.{name} is {data['layout'][name]}, the tasks give {expected}")
    comparison = _comparison(data["domain"], layout.dim)
    for name, stated in (("margin", task_set.margin), ("tolerance", task_set.tolerance)):
        if data["domain"][name] != stated:
            raise ValueError(f"domain.{name} is {data['domain'][name]}, the tasks give {stated}")
    for name, stated in (("input_bound", task_set.bound), ("answer_bound", task_set.answer_bound)):
        if data["domain"][name] != stated:
            raise ValueError(f"domain.{name} is {data['domain'][name]}, the tasks give {stated}")
    stream = ResidualStream({name: space["size"] for name, space in data["subspaces"].items()})
    for name, space in stream.items():
        if data["subspaces"][name]["start"] != space.start:
            raise ValueError(f"subspace {name} starts at {data['subspaces'][name]['start']}, not {space.start}")
    count = len(task_set.tasks)
    expected_sizes = {"vector": layout.dim, **dict.fromkeys(("excess", "share", "agreement", "log_count"), count)}
    expected_sizes |= {"weight": count}
    expected_sizes |= {f"fingerprint[{index}]": comparison.width for index in range(count)}
    for name, size in expected_sizes.items():
        if stream[name].size != size:
            raise ValueError(f"subspace {name} has size {stream[name].size}, the tasks need {size}")
    weights = weights_of(data, tensors, (layout.dim, layout.positions, layout.dim), stream.d_model)
    circuits = tuple(
        Circuit(**{**circuit, "reads": tuple(circuit["reads"]), "writes": tuple(circuit["writes"])})
        for circuit in data["circuits"]
    )
    error_bound = data["error_bound"]
    return VectorConstruction(
        data["theorem"],
        task_set,
        comparison,
        layout,
        stream,
        weights,
        float(data["sharpness"]),
        None if error_bound is None else float(error_bound),
        circuits,
    )


def _comparison(domain: Mapping[str, Any], dim: int) -> Comparison:
    kind, fingerprint = domain["comparison"], domain["fingerprint"]
    if kind not in COMPARISONS:
        raise ValueError(f"domain.comparison is {kind!r}, expected one of {', '.join(COMPARISONS)}")
    rows = np.eye(dim, dtype=np.float32)
    if fingerprint is not None:
        rows = float32_array(fingerprint, "domain.fingerprint", 2)
    if rows.shape[1] != dim or not 1 <= len(rows) <= dim:
        raise ValueError(f"domain.fingerprint has the shape {rows.shape}, expected at most {dim} rows of {dim}")
    slack = float(domain["norm_slack"])
    return Comparison(kind, rows, float(domain["tolerance"]), float(domain["margin"]), slack)
