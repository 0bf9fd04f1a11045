"""The attention heads of the three-layer construction on vectors.

Notation: z = exp(-sharpness). Every score is 0 at what a head is to attend to, up to what it is to weigh by, and at
least one sharpness less elsewhere; so nothing large is added to what matters, and nothing of it is rounded away.

Positions are told apart by MISMATCHES. Bits are 0 or 1, `asked_index` stands at EQ and y, `held_index` at x, and

    mismatch(i, i') = sum_l  a_l (1 - h_l) + (1 - a_l) h_l,      a = bits(i) asked, h = bits(i') held,

which is 0 for i = i', each product being 0 by itself, and the number of differing bits otherwise. Where no index is
held (BOS, EQ, y) it is 0 too: such keys are kept away by their roles.
"""

import numpy as np

from construct.attention import Head
from construct.residual_stream import Array, ResidualStream, code_length
from construct.vector_comparison import Comparison
from construct.vector_mlp import log_table
from construct.vector_tasks import AffineTask, VectorTaskSet

ROLES = ("role_bos", "role_x", "role_eq", "role_y")


def index_bits(count: int) -> Array:
    """The bits of 0 to count-1 as 0 and 1, shape [count, code_length(count)], the lowest first."""
    return ((np.arange(count)[:, None] >> np.arange(code_length(count))) & 1).astype(np.float32)


def input_read_head(
    stream: ResidualStream, task_set: VectorTaskSet, comparison: Comparison, position: int, sharpness: float
) -> Head:
    """At every EQ and y: F A_k x_j for each task k that reads input j = `position` of the same example.

    In units of the sharpness the score at the EQ or y of example i is - mismatch(i, i') - mismatch(j, j') at input j'
    of example i', -2 at BOS, EQ and y. It is 0 at x_j of example i. Of the other inputs at most C(b1 + b2, h) have h
    mismatches, and there are at most 2m + 2 other keys: the weight elsewhere, relative to the target's, is at most

        A1 = (1 + z)^(b1 + b2) - 1 + (2m + 2) z^2,    the leak rho = A1/(1 + A1).

    Other queries score 0 at BOS and -2 elsewhere; BOS has no value. What is written is off by at most
    2 rho (the largest row norm of F A_k) R in each coordinate, since no input is longer than R and the values elsewhere
    are no longer than the longest vector: with Y for R where an answer is attended, weight (2m + 2) z^2.
    """
    d_model, vector = stream.d_model, stream["vector"]
    query, key = _own_input(stream, task_set, position, sharpness, asking=("role_eq", "role_y"))
    value = np.zeros((d_model, vector.size), dtype=np.float32)
    value[vector.coordinates] = np.eye(vector.size)
    output = np.zeros((vector.size, d_model), dtype=np.float32)
    writes = []
    for index, task in enumerate(task_set.tasks):
        if task.position == position:
            written = stream[f"fingerprint[{index}]"]
            output[:, written.coordinates] = fingerprint_map(comparison, task).T
            writes.append(written.name)
    return Head(
        name=f"read[{position}]",
        query=query,
        key=key,
        value=value,
        output=output,
        reads=("asked_index", "held_index", "input_index", "vector"),
        writes=tuple(writes),
        margin=sharpness,
        says=f"at eq and y: F A x of input {position} of the same example, for each task that reads it",
    )


def fingerprint_map(comparison: Comparison, task: AffineTask) -> Array:
    """F A, shape [r, d], rounded to float32; exactly A where F is the identity."""
    if comparison.full:
        return task.matrix
    return (comparison.rows.astype(np.float64) @ task.matrix.astype(np.float64)).astype(np.float32)


def comparing_head(
    stream: ResidualStream,
    task_set: VectorTaskSet,
    comparison: Comparison,
    index: int,
    sharpness: float,
) -> Head:
    """At every y: the doubt that the example follows the orthogonal task k, by attention alone.

    y asks with y A_k Lambda, and x answers with itself: the score at x_j of the same example is

        Lambda <y, A_k x_j> = Lambda (|y|^2 + |x|^2 - |y - A_k x|^2)/2,

    A_k being orthogonal. BOS scores Lambda (1 - delta^2/4), Lambda = 16/delta^2. For unit vectors, | |v|^2 - 1 | <= nu
    = delta^2/16: within tau = delta/4 the input is ahead by at least 16 (1/4 - 1/16 - 1/32) = 2.5; a margin delta away,
    BOS is ahead by at least 16 (1/2 - 1/4 - 1/16) = 3. All other keys have the mismatches (or 2, by role) against them,
    and Lambda (nu + delta^2/4) = 5 at most for them: together at most A = e^5 A1 relative to BOS. The doubt, which is
    the attention on BOS, is so at most 1/(1 + e^2.5) < 1/12, or at least 1/(1 + e^-3 + A) > 3/4.
    """
    task, d = task_set.tasks[index], task_set.dim
    scale = np.float32(16 / comparison.margin**2)
    query, key = _own_input(stream, task_set, task.position, sharpness, asking=("role_y",))
    more = np.zeros((2, stream.d_model, d + 1), dtype=np.float32)
    vector = stream["vector"].coordinates
    more[0, vector, :d] = scale * task.matrix
    more[1, vector, :d] = np.eye(d)
    more[0, stream["role_y"].start, d] = scale * np.float32(1 - comparison.margin**2 / 4)
    more[1, stream["role_bos"].start, d] = 1.0
    key[stream["role_bos"].start, query.shape[1] - 2] = 0.0  # here BOS competes
    value, output = _copy_flag(stream, "role_bos", stream[f"fingerprint[{index}]"].start)
    return Head(
        name=f"compare[{task.name}]",
        query=np.concatenate([query, more[0]], axis=1),
        key=np.concatenate([key, more[1]], axis=1),
        value=value,
        output=output,
        reads=("asked_index", "held_index", "input_index", "vector"),
        writes=(f"fingerprint[{index}]",),
        margin=2.5,
        says=f"at y: 0 if y is A x of input {task.position}, else 1",
    )


def tally_head(stream: ResidualStream, index: int, name: str, least_excess: float, sharpness: float) -> Head:
    """At every EQ: the share s_k = 1/(1 + c_k) that BOS gets beside the c_k examples that follow task k.

    The score is 0 at BOS, -(sharpness/least_excess) E_k at y and at least 2 sharpness lower at x and EQ, as no excess
    is negative. E_k is exactly 0 where the example follows the task, and at least `least_excess` where it does not, so

        s_k = 1/(1 + c_k + A),   0 <= A <= A2 = m z + (m+1)(n+1) z^2.

    BOS votes with weight 1 and value 1; all others have value 0. Other queries attend to BOS.
    """
    d_model, excess = stream.d_model, stream["excess"].start + index
    query, key = np.zeros((2, d_model, 2), dtype=np.float32)
    query[stream["role_eq"].start, 0] = 1.0
    key[excess, 0] = -np.float32(sharpness / least_excess)
    for role in ("role_x", "role_eq"):
        key[stream[role].start, 0] = -2 * sharpness
    for role in ("role_bos", "role_x", "role_y"):
        query[stream[role].start, 1] = sharpness
    for role in ("role_x", "role_eq", "role_y"):
        key[stream[role].start, 1] = -2.0
    value, output = _copy_flag(stream, "role_bos", stream["share"].start + index)
    return Head(
        name=f"tally[{name}]",
        query=query,
        key=key,
        value=value,
        output=output,
        reads=("role_bos", "excess"),
        writes=("share",),
        margin=sharpness,
        says="at eq: 1/(1 + the number of examples that follow the task)",
    )


def superposing_head(
    stream: ResidualStream, task_set: VectorTaskSet, index: int, *, examples: int, sharpness: float
) -> Head:
    """At every EQ: w_k g_k(query), the product of a weight and a vector by the softmax itself, and w_k.

    The score at the query's own input j_k is L_k + log c0 = log c_k, at other inputs one sharpness a mismatch less; at
    the y of an example it is -2 sharpness a_k with a_k = 1 if it follows the task, else 0; at BOS -sharpness; at EQ -2
    sharpness. So the m' - c_k examples that do NOT follow the task are the sink, each of weight 1, and the input has
    weight c_k:

        w_k = c_k / (c_k + (m' - c_k) + A),   A <= A3 m',  A3 = (1 + z)^(b1+b2) - 1 + z + (2m + 1) z^2.

    For c_k = 0 there is L_k + log c0 <= -2 sharpness + log 2 and w_k <= 2 z^2/m', and w_k <= 2 z for m' = 0, where BOS
    is the sink. The value at an input x is A_k x + b_k and the flag of its role; at y it is 0, since y was erased
    (`erase_answers`), and at BOS and EQ too.
    """
    task, d = task_set.tasks[index], task_set.dim
    query, key = _own_input(stream, task_set, task.position, sharpness, asking=("role_eq",))
    place = query.shape[1] - 2
    for role in ("role_bos", "role_eq", "role_y"):
        key[stream[role].start, place] = {"role_bos": -1.0, "role_eq": -2.0, "role_y": 0.0}[role]
    key[stream["agreement"].start + index, place] = -2.0
    count = np.zeros((2, stream.d_model, 1), dtype=np.float32)
    count[0, stream["log_count"].start + index] = 1.0
    count[0, stream["role_eq"].start] = log_table(examples).constant
    count[1, stream["role_x"].start] = 1.0
    value = np.zeros((stream.d_model, d + 1), dtype=np.float32)
    output = np.zeros((d + 1, stream.d_model), dtype=np.float32)
    value[stream["vector"].coordinates, :d] = task.matrix.T
    value[stream["role_x"].start, :d] = task.offset
    value[stream["role_x"].start, d] = 1.0
    output[:d, stream["vector"].coordinates] = np.eye(d)
    output[d, stream["weight"].start + index] = 1.0
    return Head(
        name=f"superpose[{task.name}]",
        query=np.concatenate([query, count[0]], axis=1),
        key=np.concatenate([key, count[1]], axis=1),
        value=value,
        output=output,
        reads=("asked_index", "held_index", "input_index", "agreement", "log_count", "vector"),
        writes=("vector", "weight"),
        margin=sharpness,
        says=f"at eq: w g(query), by attending to input {task.position} with weight w",
    )


def _own_input(
    stream: ResidualStream, task_set: VectorTaskSet, position: int, sharpness: float, *, asking: tuple[str, ...]
) -> tuple[Array, Array]:
    """Query and key of "input `position` of my own example": 2 b1 columns of mismatches, then `place`, then `idle`.

    The roles in `asking` ask; the others are idle: they score 0 at BOS and -2 elsewhere.
    """
    asked, held = stream["asked_index"], stream["held_index"]
    b1 = asked.size
    query, key = np.zeros((2, stream.d_model, 2 * b1 + 2), dtype=np.float32)
    place, idle = 2 * b1, 2 * b1 + 1
    query[asked.coordinates, :b1] = sharpness * np.eye(b1)
    query[asked.coordinates, b1:place] = -sharpness * np.eye(b1)
    key[held.coordinates, :b1] = np.eye(b1)
    key[held.coordinates, b1:place] = -np.eye(b1)
    key[stream["role_x"].start, :b1] = -1.0
    for role in ROLES:
        if role in asking:
            query[stream[role].start, b1:place] = sharpness
            query[stream[role].start, place] = sharpness
        else:
            query[stream[role].start, idle] = sharpness
    bits = index_bits(task_set.inputs)[position]
    key[stream["role_x"].start, place] = -bits.sum()
    key[stream["input_index"].coordinates, place] = np.where(bits > 0, 1.0, -1.0)
    for role in ("role_bos", "role_eq", "role_y"):
        key[stream[role].start, place] = -2.0
    for role in ("role_x", "role_eq", "role_y"):
        key[stream[role].start, idle] = -2.0
    return query, key


def _copy_flag(stream: ResidualStream, flag: str, to: int) -> tuple[Array, Array]:
    """Value and output that copy one coordinate to another."""
    value = np.zeros((stream.d_model, 1), dtype=np.float32)
    output = np.zeros((1, stream.d_model), dtype=np.float32)
    value[stream[flag].start, 0] = output[0, to] = 1.0
    return value, output
