"""The three-layer construction on vectors: the theorem as one short function, a call per lemma."""

from dataclasses import dataclass, replace

import numpy as np

from construct.attention import Head, stack_heads
from construct.bounds import round_sharpness
from construct.errors import TaskError
from construct.memory import refuse_beyond_memory
from construct.mlp import MlpBuilder, UnitGroup
from construct.residual_stream import ResidualStream, code_length
from construct.sparse import Sparse, sparse_matrix
from construct.theorems import Circuit
from construct.transformer import LayerWeights, TransformerWeights
from construct.vector_bounds import choose_sharpness, real_bounds
from construct.vector_comparison import ATTENTION, FINGERPRINT, Comparison, check_told_apart, compare
from construct.vector_heads import (
    ROLES,
    comparing_head,
    index_bits,
    input_read_head,
    superposing_head,
    tally_head,
)
from construct.vector_mlp import (
    agreement,
    doubt_excess,
    erase_answers,
    fingerprint_excess,
    least_excess,
    log_count,
)
from construct.vector_prompts import VectorLayout
from construct.vector_tasks import VectorTaskSet

THEOREM = "vectors"
DEFAULT_VECTOR_ERROR = 1e-5
LARGEST_EXAMPLES = 2**14
"""Counts up to here are told apart by their shares 1/(1 + c) in float32, with room to spare."""


@dataclass(frozen=True)
class VectorConstruction:
    """Weights with everything needed to use them.

    Args:
        theorem: "vectors".
        task_set: the tasks and their domain.
        comparison: the distance in which examples follow tasks.
        layout: d, n, m and the positions.
        stream: the named subspaces.
        weights: the weights; the vector embedding stands in the place of a token embedding, shape [d, d_model].
        sharpness: lambda, the scale of the attention scores.
        error_bound: the bound on |q_hat - q|_max in real arithmetic for every prompt in the domain, None for none.
        circuits: every head and group of units, in order.
    """

    theorem: str
    task_set: VectorTaskSet
    comparison: Comparison
    layout: VectorLayout
    stream: ResidualStream
    weights: TransformerWeights
    sharpness: float
    error_bound: float | None
    circuits: tuple[Circuit, ...]


def vectors(
    task_set: VectorTaskSet,
    *,
    examples: int,
    delta: float | None = None,
    error: float = DEFAULT_VECTOR_ERROR,
    sharpness: float | None = None,
    width: int | None = None,
    comparison: str = FINGERPRINT,
) -> VectorConstruction:
    """K affine tasks on vectors in superposition, by three layers of finite softmax attention and ReLU.

    For every prompt of at most m = `examples` examples whose inputs are no longer than R and answers no longer than Y,
    and in which each example either follows task k (within delta/4) or is at least delta away from it, for every k: at
    every EQ the `vector` subspace holds q_hat with |q_hat - q|_max <= error_bound, where q = sum_k (c_k/m') g_k(query),
    and the `weight` subspace holds c_k/m'.

    A reconstruction of the setting of Theorem 1 of Xiong et al. (arXiv 2410.05603), which has seven layers; the three
    layers, and the disagreeing examples as the sink of the last one, are this project's own.

    Args:
        task_set: K tasks on n inputs in R^d.
        examples: m, the largest number of in-context examples, at least 1.
        delta: the margin, instead of the task set's own.
        error: the wanted bound in real arithmetic; chooses the sharpness unless that is given.
        sharpness: lambda, to be used instead.
        width: r, the coordinates of a fingerprint; None is d.
        comparison: "fingerprint" or "attention".

    Raises:
        TaskError: examples, margin, width or comparison do not fit the tasks, or no example tells two of them apart.
        InputError: error or sharpness are out of range.
        TooLargeError: the weights do not fit into memory.
    """
    if not 1 <= examples <= LARGEST_EXAMPLES:
        raise TaskError(f"examples is {examples}: this construction takes 1 to {LARGEST_EXAMPLES} in-context examples")
    tasks = task_set if delta is None else replace(task_set, margin=delta)
    layout = VectorLayout(tasks.dim, tasks.inputs, examples)
    distance = compare(tasks, comparison, width)
    check_told_apart(tasks, distance)
    stream = _subspaces(tasks, layout, distance)
    _check_memory(tasks, layout, distance, stream.d_model)
    chosen = choose_sharpness(tasks, distance, layout, error) if sharpness is None else round_sharpness(sharpness)
    least = least_excess(distance)

    # Lemma 1: every y fetches what each task makes of its example's input, or compares with it at once.
    reads = _first_heads(stream, tasks, distance, chosen)
    # Lemma 2: the excess over the margin is 0 for the tasks that the example follows; the answer is erased.
    compared = MlpBuilder(stream)
    for index, task in enumerate(tasks.tasks):
        if distance.kind == ATTENTION:
            doubt_excess(compared, task, index)
        else:
            fingerprint_excess(compared, distance, task, index)
    erase_answers(compared, tasks)
    # Lemma 3: at every EQ, the softmax over BOS and the examples that follow task k gives BOS the share 1/(1 + c_k).
    tallies = [tally_head(stream, index, task.name, least, chosen) for index, task in enumerate(tasks.tasks)]
    # Lemma 4: at every EQ, log c_k; at every y, whether the example follows task k.
    counted = MlpBuilder(stream)
    for index, task in enumerate(tasks.tasks):
        agreement(counted, distance, task, index)
        log_count(counted, task, index, examples=examples, sharpness=chosen)
    # Lemma 5: the input weighs c_k and each example that does not follow the task 1: the softmax writes (c_k/m') g_k.
    answers = [
        superposing_head(stream, tasks, index, examples=examples, sharpness=chosen) for index in range(len(tasks.tasks))
    ]
    nothing = MlpBuilder(stream)

    weights = TransformerWeights(
        token_embedding=_unit_rows(stream, tasks.dim),
        position_embedding=_position_embedding(stream, layout),
        layers=(
            LayerWeights(stack_heads(reads), compared.weights()),
            LayerWeights(stack_heads(tallies), counted.weights()),
            LayerWeights(stack_heads(answers), nothing.weights()),
        ),
        unembedding=_unit_rows(stream, tasks.dim).T.tocsr(),
    )
    circuits = tuple(
        circuit
        for layer, (heads, groups) in enumerate(
            ((reads, compared.groups), (tallies, counted.groups), (answers, nothing.groups)), start=1
        )
        for circuit in _describe(layer, heads, groups)
    )
    bounds = real_bounds(tasks, distance, layout, chosen)
    claim = None if bounds is None else bounds[0]
    return VectorConstruction(THEOREM, tasks, distance, layout, stream, weights, chosen, claim, circuits)


def _subspaces(task_set: VectorTaskSet, layout: VectorLayout, comparison: Comparison) -> ResidualStream:
    """The residual stream: d_model = d + 4 + 2 b1 + b2 + K (r + 5)."""
    count = len(task_set.tasks)
    sizes = {"vector": layout.dim, **dict.fromkeys(ROLES, 1)}
    sizes |= {"asked_index": code_length(layout.examples + 1), "held_index": code_length(layout.examples + 1)}
    sizes["input_index"] = code_length(layout.inputs)
    sizes |= {f"fingerprint[{index}]": comparison.width for index in range(count)}
    return ResidualStream(sizes | dict.fromkeys(("excess", "share", "agreement", "log_count", "weight"), count))


def _first_heads(
    stream: ResidualStream, task_set: VectorTaskSet, comparison: Comparison, sharpness: float
) -> list[Head]:
    """A head a distinct input for fingerprints, a head a task for comparison by attention."""
    if comparison.kind == ATTENTION:
        return [comparing_head(stream, task_set, comparison, index, sharpness) for index in range(len(task_set.tasks))]
    positions = sorted({task.position for task in task_set.tasks})
    return [input_read_head(stream, task_set, comparison, position, sharpness) for position in positions]


def _unit_rows(stream: ResidualStream, dim: int) -> Sparse:
    rows = np.arange(dim)
    values = np.ones(dim, dtype=np.float32)
    return sparse_matrix(values, rows, stream["vector"].start + rows, (dim, stream.d_model))


def _position_embedding(stream: ResidualStream, layout: VectorLayout) -> Sparse:
    """P: the role of each position, the index asked for at EQ and y, and the indices held at x."""
    n, positions = layout.inputs, np.arange(layout.positions)
    example, place = np.divmod(positions - 1, n + 2)
    dense = np.zeros((layout.positions, stream.d_model), dtype=np.float32)
    x, eq, y = (positions > 0) & (place < n), place == n, (positions > 0) & (place == n + 1)
    for role, at in zip(ROLES, (positions == 0, x, eq, y), strict=True):
        dense[at, stream[role].start] = 1.0
    asking, bits = eq | y, index_bits(layout.examples + 1)
    dense[asking, stream["asked_index"].coordinates] = bits[example[asking]]
    dense[x, stream["held_index"].coordinates] = bits[example[x]]
    dense[x, stream["input_index"].coordinates] = index_bits(n)[place[x]]
    rows, columns = np.nonzero(dense)
    return sparse_matrix(dense[rows, columns], rows, columns, (layout.positions, stream.d_model))


def _check_memory(task_set: VectorTaskSet, layout: VectorLayout, comparison: Comparison, d_model: int) -> None:
    """Raise TooLargeError when building would take more memory than is free."""
    count, d = len(task_set.tasks), task_set.dim
    heads = count * d_model * (2 * (2 * code_length(layout.examples + 1) + 3) + 2 * (d + 1))
    first = min(count, task_set.inputs) * d_model * 2 * d if comparison.kind == FINGERPRINT else 2 * count * d_model * d
    entries = 2 * count * comparison.width * (d + 3) + count * layout.examples * 2
    refuse_beyond_memory(2 * 4 * (heads + first + layout.positions * d_model) + 48 * entries, "this construction")


def _describe(layer: int, heads: list[Head], groups: list[UnitGroup]) -> list[Circuit]:
    return [
        *(Circuit(layer, "attention", h.name, 1, h.reads, h.writes, h.margin, h.says) for h in heads),
        *(Circuit(layer, "mlp", g.name, g.units, g.reads, g.writes, g.margin, g.says) for g in groups),
    ]
