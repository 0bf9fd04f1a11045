"""The constructions: each theorem as one short function, a call per lemma in the order of the argument."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from construct.attention import Head, Written, average_head, read_head, set_flag, stack_heads
from construct.bounds import SUMMED, choose_sharpness, real_bound, round_sharpness
from construct.errors import TaskError
from construct.mlp import MlpBuilder, UnitGroup, read_subspace, sum_code, sum_subspaces, task_answer, task_evidence
from construct.prompts import Layout
from construct.reads import ReadPlan, plan_reads
from construct.residual_stream import Array, ResidualStream, Subspace, binary_code, code_length
from construct.sizes import check_memory
from construct.sparse import Sparse, sparse_matrix
from construct.tasks import TaskSet
from construct.transformer import LayerWeights, TransformerWeights

DEFAULT_ERROR = 1e-6


@dataclass(frozen=True)
class Circuit:
    """One head or group of hidden units, with what it is for.

    Args:
        layer: counted from 1.
        kind: "attention" or "mlp".
        name: unique within the layer.
        units: 1 for a head, the number of hidden units for a group.
        reads: the subspaces read.
        writes: the subspaces written.
        margin: for a head, the score of a target less any other's; for units, the distance to 0 of what is off.
        says: one line in words.
    """

    layer: int
    kind: str
    name: str
    units: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    margin: float
    says: str


@dataclass(frozen=True)
class Construction:
    """Weights with everything needed to use them.

    Args:
        theorem: the name of the construction.
        task_set: the tasks.
        layout: V, n, m and the positions.
        stream: the named subspaces.
        weights: the weights.
        sharpness: lambda, the scale of the attention scores.
        error_bound: the bound on |q_hat - q|_1 in real arithmetic for every prompt, None where there is none.
        circuits: every head and group of units, in order.
    """

    theorem: str
    task_set: TaskSet
    layout: Layout
    stream: ResidualStream
    weights: TransformerWeights
    sharpness: float
    error_bound: float | None
    circuits: tuple[Circuit, ...]


def two_layer(
    task_set: TaskSet, *, examples: int, error: float = DEFAULT_ERROR, sharpness: float | None = None
) -> Construction:
    """K tasks in superposition by two layers of finite softmax attention and ReLU.

    For every prompt of at most m = `examples` examples, at every EQ, the `token` subspace holds q_hat with
    |q_hat - q|_1 <= error_bound (`construct.bounds.real_bound`), where q = sum_k (c_k/m') u[g_k(query)]. Layer 1
    has a head a distinct read, layer 2 one head; d_model = V + 4 + b1 + b2 + the reads + K.

    A reconstruction of the argument of Theorem 1 of Xiong et al. (arXiv 2410.05603), which has seven layers and K
    heads in each; that two suffice for finite alphabets, and a head a distinct read, is this project's own.

    Args:
        task_set: K tasks on n inputs over V tokens.
        examples: m, the largest number of in-context examples, at least 1.
        error: the wanted bound in real arithmetic; chooses the sharpness unless that is given.
        sharpness: lambda, to be used instead; rounded to 12 significant bits.

    Raises:
        TaskError: examples < 1.
        InputError: error or sharpness are out of range.
        TooLargeError: the weights do not fit into memory.
    """
    if examples < 1:
        raise TaskError(f"examples is {examples}: a construction takes at least 1 in-context example")
    layout = Layout(len(task_set.alphabet), task_set.inputs, examples)
    plan = plan_reads(task_set)
    stream = _subspaces(task_set, layout, plan)
    check_memory(task_set, layout, plan, stream.d_model)
    chosen = choose_sharpness(task_set, plan, layout, error) if sharpness is None else round_sharpness(sharpness)

    # Lemma 1: every EQ and y fetches the inputs of its own example, each distinct read once.
    reads = _read_heads(stream, layout, plan, chosen)
    # Lemma 2: at every y, the evidence of task k is 1 if the example is consistent with it, else 0.
    evidence = MlpBuilder(stream)
    for read in plan.sums:
        sum_code(evidence, read)
    for index, task in enumerate(task_set.tasks):
        task_evidence(evidence, plan, task, index)
    # Lemma 3: at every EQ, the average of the evidence over the examples before it is w_k = c_k/m'.
    average = [average_head(stream, sharpness=chosen)]
    # Lemma 4: at every EQ, one unit a row adds w_k to the output code of g_k(query).
    answer = MlpBuilder(stream)
    for index, task in enumerate(task_set.tasks):
        task_answer(answer, plan, task, index)

    weights = TransformerWeights(
        # A content token is one-hot in `token`; BOS and EQ are 0, their role is in the position.
        token_embedding=unit_rows(stream["token"], (layout.vocabulary_size, stream.d_model)),
        position_embedding=position_embedding(stream, layout, plan.sets),
        layers=(
            LayerWeights(stack_heads(reads), evidence.weights()),
            LayerWeights(stack_heads(average), answer.weights()),
        ),
        unembedding=unit_rows(stream["token"], (layout.alphabet_size, stream.d_model)).T.tocsr(),
    )
    circuits = (
        *describe_layer(1, reads, evidence.groups),
        *describe_layer(2, average, answer.groups),
    )
    bound = real_bound(task_set, plan, layout, chosen)
    claim = None if bound is None else bound * SUMMED
    return Construction("two-layer", task_set, layout, stream, weights, chosen, claim, circuits)


def _subspaces(task_set: TaskSet, layout: Layout, plan: ReadPlan) -> ResidualStream:
    """The residual stream: d_model = V + 4 + b1 + b2 + (flags of sets) + (reads) + K."""
    sizes = {"token": layout.alphabet_size, "role_bos": 1, "role_x": 1, "role_eq": 1, "role_y": 1}
    sizes["example_index"] = code_length(layout.examples + 1)
    sizes["input_index"] = code_length(layout.inputs)
    sizes |= {set_flag(positions): 1 for positions in plan.sets}
    sizes |= {read_subspace(position): code_length(layout.alphabet_size) for position in plan.positions}
    for read in plan.sums:
        scalar, undefined, code = sum_subspaces(read)
        sizes |= {scalar: 1} | ({undefined: 1} if read.partial else {}) | {code: read.code_length}
    return ResidualStream(sizes | {"evidence": len(task_set.tasks)})


def _read_heads(stream: ResidualStream, layout: Layout, plan: ReadPlan, sharpness: float) -> list[Head]:
    codes = binary_code(layout.alphabet_size)
    heads = []
    for positions in [(position,) for position in plan.positions] + list(plan.sets):
        written = []
        if len(positions) == 1 and positions[0] in plan.positions:
            written.append(Written(codes, read_subspace(positions[0])))
        for read in plan.sums:
            adds_up = plan.shared(read) and set(positions) <= set(read.positions)
            if positions == read.positions or adds_up:
                scalar, undefined, _ = sum_subspaces(read)
                written.append(Written(read.values[:, None].astype(np.float32), scalar))
                if read.partial:
                    written.append(Written((~read.defined[:, None]).astype(np.float32), undefined))
        heads.append(read_head(stream, layout, positions=positions, written=written, sharpness=sharpness))
    return heads


def unit_rows(subspace: Subspace, shape: tuple[int, int]) -> Sparse:
    """Row i is coordinate i of the subspace; rows beyond its size are 0."""
    rows = np.arange(subspace.size)
    return sparse_matrix(np.ones(subspace.size, dtype=np.float32), rows, subspace.start + rows, shape)


def position_embedding(stream: ResidualStream, layout: Layout, sets: Sequence[tuple[int, ...]]) -> Sparse:
    """P: the role of each position, the code of its example, and the code and set flags of its input place."""
    n, positions = layout.inputs, np.arange(layout.positions)
    example, place = np.divmod(positions - 1, n + 2)
    # Position 0 is BOS; then each example is n inputs, EQ and y, and the last example (the query) has no y.
    bos, x, eq, y = positions == 0, (positions > 0) & (place < n), place == n, (positions > 0) & (place == n + 1)
    rows, columns, values = [], [], []

    def write(at: np.ndarray, where: Subspace, entries: Array) -> None:
        rows.append(np.repeat(positions[at], where.size))
        columns.append(np.tile(np.arange(where.start, where.stop), int(at.sum())))
        values.append(entries.ravel())

    for role, at in (("bos", bos), ("x", x), ("eq", eq), ("y", y)):
        write(at, stream[f"role_{role}"], np.ones(int(at.sum()), dtype=np.float32))
    write(~bos, stream["example_index"], binary_code(layout.examples + 1)[example[~bos]])
    write(x, stream["input_index"], binary_code(n)[place[x]])
    for members in sets:
        at = x & np.isin(place, members)
        write(at, stream[set_flag(members)], np.ones(int(at.sum()), dtype=np.float32))
    entries = np.concatenate(values), np.concatenate(rows), np.concatenate(columns)
    return sparse_matrix(*entries, (layout.positions, stream.d_model))


def describe_layer(layer: int, heads: Sequence[Head], groups: Sequence[UnitGroup]) -> list[Circuit]:
    """The circuits of a layer, counted from 1."""
    return [
        *(Circuit(layer, "attention", h.name, 1, h.reads, h.writes, h.margin, h.says) for h in heads),
        *(Circuit(layer, "mlp", g.name, g.units, g.reads, g.writes, g.margin, g.says) for g in groups),
    ]
