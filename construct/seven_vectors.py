"""The seven-layer edition on vectors: the three layers of `vectors`, one step of the argument a layer."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from construct.artifact import SEVEN_VECTORS
from construct.errors import TaskError
from construct.residual_stream import ResidualStream
from construct.seven_bounds import WIDTH_CONSTANT, Budget
from construct.sparse import sparse_matrix
from construct.theorems import Circuit
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights
from construct.vector_comparison import FINGERPRINT
from construct.vector_prompts import VectorLayout
from construct.vector_tasks import VectorTaskSet
from construct.vector_theorem import DEFAULT_VECTOR_ERROR, VectorConstruction, vectors

VECTOR_STEPS = (
    ("read", "every y fetches what each task makes of its example's input, or compares with it at once"),
    ("compare", "at y: how far beyond the margin each task's answer is from the answer given"),
    ("forget", "at y: the answer is erased, so that nothing but inputs is superposed later"),
    ("tally", "at =: BOS beside the examples that follow a task has the share 1/(1 + c_k)"),
    ("agree", "at y: one number a task, whether the example follows it"),
    ("count", "at =: log c_k, from that share"),
    ("superpose", "at =: the softmax gives the query's input the weight c_k/m' and writes (c_k/m') g_k(query)"),
)
"""The argument on vectors, a step a layer."""

WIDEST_FINGERPRINT = 8
"""Fingerprints are so wide unless another width is asked for: up to 11 any construction is within the budget."""


def seven_layer_vectors(
    task_set: VectorTaskSet,
    *,
    examples: int,
    delta: float | None = None,
    error: float = DEFAULT_VECTOR_ERROR,
    sharpness: float | None = None,
    width: int | None = None,
    comparison: str = FINGERPRINT,
) -> VectorConstruction:
    """K affine tasks on vectors by seven layers of at most K heads, on O(d + log(m n)) numbers a position.

    The theorem is that of `construct.vector_theorem.vectors`, with the same bound: the weights are the same. What a
    layer of it does at once, two steps by attention and MLP or two parts of an MLP, stands in layers of its own here:
    parts of an MLP may follow each other, as neither reads or writes what the other writes. A layer without heads or
    without units adds nothing.

    The width is d + 4 + 2 b1 + b2 + K (r + 5), with b1 <= log2 m + 1, b2 <= log2 n + 1 and r <= 11 at most
    d + 7 + 16 K + 2 log2(m n) <= 24 (max(d, K) + log2(m n)).

    Args:
        task_set: K tasks on n inputs in R^d.
        examples: m, the largest number of in-context examples, at least 1.
        delta: the margin, instead of the task set's own.
        error: the wanted bound in real arithmetic; chooses the sharpness unless that is given.
        sharpness: lambda, to be used instead.
        width: r, the coordinates of a fingerprint; None is d, but at most `WIDEST_FINGERPRINT`.
        comparison: "fingerprint" or "attention".

    Raises:
        TaskError: as `vectors`, or the width is beyond the budget.
        InputError: error or sharpness are out of range.
        TooLargeError: the weights do not fit into memory.
    """
    if width is None and comparison == FINGERPRINT:
        width = min(task_set.dim, WIDEST_FINGERPRINT)
    built = vectors(
        task_set,
        examples=examples,
        delta=delta,
        error=error,
        sharpness=sharpness,
        width=width,
        comparison=comparison,
    )
    allowed = vector_budget(built.task_set, built.layout)
    if built.stream.d_model > allowed.width:
        raise TaskError(
            f"fingerprints of width {built.comparison.width} make {built.stream.d_model} numbers a position, and the "
            f"budget of the seven layers is {allowed.width:.0f}: choose a width of at most 11"
        )
    return spread(built)


def vector_budget(task_set: VectorTaskSet, layout: VectorLayout) -> Budget:
    """The budget for these tasks: seven layers, K heads in each, C (max(d, K) + log2(m n)) numbers a position."""
    count = len(task_set.tasks)
    return Budget(7, count, WIDTH_CONSTANT * (max(layout.dim, count) + math.log2(layout.examples * layout.inputs)))


def spread(construction: VectorConstruction) -> VectorConstruction:
    """The same construction, one step a layer.

    Units of the first MLP that write to `vector` erase, the others compare; units of the second that write to
    `agreement` agree, the others count.
    """
    first, second, third = construction.weights.layers
    stream, d_model = construction.stream, construction.stream.d_model
    compare, forget = _parted(first.mlp, stream, "vector")
    count, agree = _parted(second.mlp, stream, "agreement")
    nothing, silent = _no_units(d_model), _no_heads(d_model)
    layers = (
        LayerWeights(first.attention, nothing),
        LayerWeights(silent, compare),
        LayerWeights(silent, forget),
        LayerWeights(second.attention, nothing),
        LayerWeights(silent, agree),
        LayerWeights(silent, count),
        LayerWeights(third.attention, third.mlp),
    )
    circuits = sorted((_moved(circuit) for circuit in construction.circuits), key=lambda circuit: circuit.layer)
    weights = replace(construction.weights, layers=layers)
    return replace(construction, theorem=SEVEN_VECTORS, weights=weights, circuits=tuple(circuits))


def _parted(mlp: MlpWeights, stream: ResidualStream, name: str) -> tuple[MlpWeights, MlpWeights]:
    """The MLP without the units and constants that write to a subspace, and these alone."""
    space = stream[name]
    inside = np.zeros(stream.d_model, dtype=bool)
    inside[space.start : space.stop] = True
    entries = mlp.w_out.tocoo()
    chosen = np.zeros(mlp.w_in.shape[1], dtype=bool)
    chosen[entries.coords[0][inside[entries.coords[1]]]] = True
    return _part(mlp, ~chosen, ~inside), _part(mlp, chosen, inside)


def _part(mlp: MlpWeights, units: NDArray[np.bool_], columns: NDArray[np.bool_]) -> MlpWeights:
    at = np.flatnonzero(units)
    bias_out = np.where(columns, mlp.bias_out, np.float32(0))
    return MlpWeights(mlp.w_in.tocsr()[:, at].tocsr(), mlp.bias_in[at], mlp.w_out.tocsr()[at].tocsr(), bias_out)


def _no_units(d_model: int) -> MlpWeights:
    empty = np.zeros(0, dtype=np.float32)
    nowhere = np.zeros(0, dtype=np.int_)
    return MlpWeights(
        sparse_matrix(empty, nowhere, nowhere, (d_model, 0)),
        empty,
        sparse_matrix(empty, nowhere, nowhere, (0, d_model)),
        np.zeros(d_model, dtype=np.float32),
    )


def _no_heads(d_model: int) -> AttentionWeights:
    query, key, value = np.zeros((3, 0, d_model, 1), dtype=np.float32)
    return AttentionWeights(query, key, value, np.zeros((0, 1, d_model), dtype=np.float32))


def _moved(circuit: Circuit) -> Circuit:
    """The circuit in its layer of the seven."""
    if circuit.kind == "attention":
        return replace(circuit, layer={1: 1, 2: 4, 3: 7}[circuit.layer])
    later = "vector" in circuit.writes or "log_count" in circuit.writes
    return replace(circuit, layer={1: 2, 2: 5}[circuit.layer] + later)
