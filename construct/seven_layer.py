"""The seven-layer construction: one step of the argument a layer, within the budget of Theorem 1."""

from collections.abc import Sequence

import numpy as np

from construct.attention import Head, Written, average_head, read_head, set_flag, stack_heads
from construct.bounds import SUMMED, round_sharpness
from construct.errors import TaskError
from construct.four_squares import NUMBERS, four_square_code
from construct.mlp import MlpBuilder, read_subspace
from construct.prompts import Layout
from construct.residual_stream import ResidualStream, code_length
from construct.seven_bounds import check_seven_memory, seven_bound, seven_sharpness
from construct.seven_circuits import compare, credit, gate, predict_sum, predict_table, sum_subspace, superpose
from construct.seven_reads import SevenReads, seven_reads
from construct.tasks import TableTask, TaskSet
from construct.theorems import DEFAULT_ERROR, Construction, describe_layer, position_embedding, unit_rows
from construct.transformer import AttentionWeights, LayerWeights, TransformerWeights

THEOREM = "seven-layer"

STEPS = (
    ("read", "every = and every y fetches the inputs of its own example"),
    ("predict", "run every task in parallel: the code of its answer on these inputs"),
    ("compare", "at y: how far each task's answer is from the answer given"),
    ("credit", "at y: one bit a task, 1 if it explains the example"),
    ("average", "at =: the average of these bits over the examples before, w_k = c_k/m'"),
    ("gate", "at =: the weight w_k passes if task k has an answer for the query"),
    ("superpose", "at =: add each weight to its task's answer, q = sum_k w_k u[g_k(query)]"),
)
"""The argument, a step a layer."""


def seven_layer(
    task_set: TaskSet, *, examples: int, error: float = DEFAULT_ERROR, sharpness: float | None = None
) -> Construction:
    """K tasks in superposition by seven layers of at most K heads, on O(d + log(m n)) numbers a position.

    For every prompt of at most m = `examples` examples, at every EQ, the `token` subspace holds q_hat with
    |q_hat - q|_1 <= error_bound (`construct.seven_bounds.seven_bound`), where q = sum_k (c_k/m') u[g_k(query)]. For
    K <= d: d_model <= 24 (d + log2(m n)), d = V the dimension of the output code (`construct.seven_bounds.Budget`).

    A reconstruction of the argument of Theorem 1 of Xiong et al. (arXiv 2410.05603), for finite alphabets: run every
    task (1, 2), find out which explain each example (3, 4), average that (5), answer with all of them (6, 7).

    Args:
        task_set: K tasks on n inputs over V tokens.
        examples: m, the largest number of in-context examples, at least 1.
        error: the wanted bound in real arithmetic; chooses the sharpness unless that is given.
        sharpness: lambda, to be used instead; rounded to 12 significant bits.

    Raises:
        TaskError: examples < 1, or the tasks need more than 2 K reads.
        InputError: error or sharpness are out of range.
        TooLargeError: the weights do not fit into memory.
    """
    if examples < 1:
        raise TaskError(f"examples is {examples}: a construction takes at least 1 in-context example")
    layout = Layout(len(task_set.alphabet), task_set.inputs, examples)
    reads = seven_reads(task_set)
    stream = _subspaces(task_set, layout, reads)
    check_seven_memory(task_set, reads, layout, stream.d_model)
    chosen = seven_sharpness(task_set, reads, layout, error) if sharpness is None else round_sharpness(sharpness)
    heads: list[list[Head]] = [[] for _ in range(7)]
    mlps = [MlpBuilder(stream) for _ in range(7)]

    # 1. Read: every EQ and y fetches the inputs of its own example. More than K reads go on in layer 2.
    heads[0], heads[1] = (_read_heads(stream, layout, reads, layer, chosen) for layer in reads.layers)
    for index, task in enumerate(task_set.tasks):
        # 2. Predict: the code of each task's answer on these inputs.
        if isinstance(task, TableTask):
            predict_table(mlps[1], task, index)
        else:
            predict_sum(mlps[1], reads.sums[reads.sum_of[task.name]], task, index)
        # 3. Compare: at y, how far each prediction is from the answer given.
        compare(mlps[2], task.name, index)
        # 4. Credit: at y, one bit a task: whether it explains the example.
        credit(mlps[3], task.name, index)
    # 5. Average: at every EQ, the average of these bits is w_k = c_k/m'.
    heads[4] = [average_head(stream, sharpness=chosen)]
    for index, task in enumerate(task_set.tasks):
        # 6. Gate: at EQ, w_k passes where the task has an answer for the query.
        gate(mlps[5], task.name, index)
        # 7. Superpose: each weight is added to the answer that its task predicts.
        superpose(mlps[6], task, index)

    weights = TransformerWeights(
        # A content token is one-hot in `token`; BOS and EQ are 0, their role is in the position.
        token_embedding=unit_rows(stream["token"], (layout.vocabulary_size, stream.d_model)),
        position_embedding=position_embedding(stream, layout, reads.sets),
        layers=tuple(
            LayerWeights(_attention(stream, layer), mlp.weights()) for layer, mlp in zip(heads, mlps, strict=True)
        ),
        unembedding=unit_rows(stream["token"], (layout.alphabet_size, stream.d_model)).T.tocsr(),
    )
    circuits = [
        circuit
        for number, (layer, mlp) in enumerate(zip(heads, mlps, strict=True), start=1)
        for circuit in describe_layer(number, layer, mlp.groups)
    ]
    bound = seven_bound(task_set, reads, layout, chosen)
    claim = None if bound is None else bound * SUMMED
    return Construction(THEOREM, task_set, layout, stream, weights, chosen, claim, tuple(circuits))


def _subspaces(task_set: TaskSet, layout: Layout, reads: SevenReads) -> ResidualStream:
    """The residual stream: d_model = V + 4 + b1 + b2 + (flags of sets) + 4 (inputs read) + (sums) + 8 K."""
    tasks = len(task_set.tasks)
    sizes = {"token": layout.alphabet_size, "role_bos": 1, "role_x": 1, "role_eq": 1, "role_y": 1}
    sizes["example_index"] = code_length(layout.examples + 1)
    sizes["input_index"] = code_length(layout.inputs)
    sizes |= {set_flag(positions): 1 for positions in reads.sets}
    sizes |= {read_subspace(position): NUMBERS for position in reads.codes}
    sizes |= {sum_subspace(scalar.index): 1 for scalar in reads.sums}
    sizes |= {"prediction": NUMBERS * tasks, "unanswered": tasks, "mismatch": tasks}
    return ResidualStream(sizes | {"evidence": tasks, "weight": tasks})


def _read_heads(
    stream: ResidualStream, layout: Layout, reads: SevenReads, layer: Sequence[tuple[int, ...]], sharpness: float
) -> list[Head]:
    """Step 1: a head writes the code of its token, and what the token counts in each sum that it is part of."""
    codes = four_square_code(layout.alphabet_size)
    heads = []
    for positions in layer:
        written = [Written(codes, read_subspace(place)) for place in positions if positions == (place,)]
        written = [part for part in written if part.to in stream]
        for scalar in reads.sums:
            if reads.adds_up(positions, scalar):
                written.append(Written(scalar.values[:, None].astype(np.float32), sum_subspace(scalar.index)))
        heads.append(read_head(stream, layout, positions=positions, written=written, sharpness=sharpness))
    return heads


def _attention(stream: ResidualStream, heads: Sequence[Head]) -> AttentionWeights:
    """The heads of a layer, which may have none."""
    if heads:
        return stack_heads(heads)
    query, key, value = np.zeros((3, 0, stream.d_model, 1), dtype=np.float32)
    return AttentionWeights(query, key, value, np.zeros((0, 1, stream.d_model), dtype=np.float32))
