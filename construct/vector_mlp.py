"""The ReLU circuits of the three-layer construction on vectors.

Layer 1, at y: the excess of each task's difference over half the margin, and the answer erased. Layer 2: a bit a task
at y, and at EQ the logarithm of the number of examples that follow it. Layer 3 has no units: its softmax multiplies.
"""

import math

import numpy as np

from construct.mlp import MlpBuilder
from construct.residual_stream import Array
from construct.vector_comparison import ATTENTION, Comparison
from construct.vector_tasks import AffineTask, VectorTaskSet

FORGOTTEN = 0.75
"""A share from here on is that of no example: it is 1, and 1/2 for one example."""


def least_excess(comparison: Comparison) -> float:
    """The excess that an example has which does not follow a task: delta/4 by fingerprints, 1/4 by attention."""
    return 0.25 if comparison.kind == ATTENTION else comparison.margin / 4


def fingerprint_excess(mlp: MlpBuilder, comparison: Comparison, task: AffineTask, index: int) -> None:
    """At y: E_k = sum_i relu(|D_i| - delta/2), with D = F (A_k x + b_k - y), two units a coordinate.

        relu(+-(f_i + (F b)_i - (F y)_i) - delta/2 - G [role bos]),     f = F A_k x as read, off by at most eta.

    Follows the task: |D_i| <= delta/4 and eta <= delta/4, so every unit is at most 0: E_k is exactly 0, in real
    arithmetic and in any floating-point one whose rounding is part of eta. A margin away: some |D_i| >= delta, and that
    unit is at least delta - eta - delta/2 >= delta/4. No unit is negative, so neither is E_k, at any position. At BOS,
    which holds neither fingerprint nor vector, G >= |F b|_max closes all units: E_k = 0 there.
    """
    stream, r = mlp.stream, comparison.width
    offset = comparison.rows.astype(np.float64) @ task.offset.astype(np.float64)
    gate = 2.0 ** math.ceil(math.log2(max(float(np.abs(offset).max()), 2.0**-20)))
    fingerprint = np.arange(r) + stream[f"fingerprint[{index}]"].start
    for sign in (1.0, -1.0):
        mlp.units(
            bias=(sign * offset - comparison.margin / 2).astype(np.float32),
            inputs=[
                (fingerprint, np.full(r, sign, dtype=np.float32)),
                (stream["vector"], (-sign * comparison.rows).astype(np.float32)),
                (stream["role_bos"], -gate),
            ],
            outputs=[(np.full(r, stream["excess"].start + index), 1.0)],
        )
    mlp.close_group(
        f"excess[{task.name}]",
        reads=[f"fingerprint[{index}]", "vector", "role_bos"],
        writes=["excess"],
        margin=comparison.margin / 4,
        says="at y: 0 if the answer is the task's, else at least a quarter of the margin",
    )


def doubt_excess(mlp: MlpBuilder, task: AffineTask, index: int) -> None:
    """At y: E_k = relu(doubt + [role y] - 3/2), one unit.

    The doubt of `comparing_head` is below 1/12 where the example follows the task, and E_k exactly 0; above 3/4 where
    it is a margin away, and E_k >= 1/4. At other positions the doubt is at most 1, and E_k exactly 0.
    """
    stream = mlp.stream
    mlp.units(
        bias=np.full(1, -1.5, dtype=np.float32),
        inputs=[(stream[f"fingerprint[{index}]"], 1.0), (stream["role_y"], 1.0)],
        outputs=[(np.full(1, stream["excess"].start + index), 1.0)],
    )
    mlp.close_group(
        f"excess[{task.name}]",
        reads=[f"fingerprint[{index}]", "role_y"],
        writes=["excess"],
        margin=0.25,
        says="at y: 0 if the answer is the task's, else at least 1/4",
    )


def erase_answers(mlp: MlpBuilder, task_set: VectorTaskSet) -> None:
    """At y: the vector becomes 0, so that y can be a sink of layer 3.

        relu(v_i - G [role x]) - relu(-v_i - G [role x]) is subtracted from v_i, with G >= R.

    At y it is exactly v_i, and v_i - v_i = 0 in every arithmetic. At x both units are at most |v_i| - G <= 0 and the
    vector stays; BOS and EQ hold 0 already.
    """
    stream, d = mlp.stream, task_set.dim
    vector = np.arange(d) + stream["vector"].start
    gate = 2.0 ** math.ceil(math.log2(task_set.bound * (1 + 2.0**-16)))
    for sign in (1.0, -1.0):
        mlp.units(
            bias=np.zeros(d, dtype=np.float32),
            inputs=[(vector, np.full(d, sign, dtype=np.float32)), (stream["role_x"], -gate)],
            outputs=[(vector, np.full(d, -sign, dtype=np.float32))],
        )
    mlp.close_group(
        "erase", reads=["vector", "role_x"], writes=["vector"], margin=0.0, says="at y: the answer is erased"
    )


def agreement(mlp: MlpBuilder, comparison: Comparison, task: AffineTask, index: int) -> None:
    """At y: a_k = relu([role y] - (2/least excess) E_k): exactly 1 where E_k = 0, exactly 0 where E_k >= least excess.

    At other positions it is exactly 0, since no excess is negative. Rounding cannot matter: 1 - 0 is 1, and 1 - 2 is
    well below 0.
    """
    stream = mlp.stream
    mlp.units(
        bias=np.zeros(1, dtype=np.float32),
        inputs=[
            (np.full(1, stream["excess"].start + index), -2 / least_excess(comparison)),
            (stream["role_y"], 1.0),
        ],
        outputs=[(np.full(1, stream["agreement"].start + index), 1.0)],
    )
    mlp.close_group(
        f"agreement[{task.name}]",
        reads=["excess", "role_y"],
        writes=["agreement"],
        margin=1.0,
        says="at y: 1 if the example follows the task, else 0",
    )


def log_count(mlp: MlpBuilder, task: AffineTask, index: int, *, examples: int, sharpness: float) -> None:
    """At EQ: L_k = log c_k from the share s_k = 1/(1 + c_k), one unit a count; -2 sharpness for c_k = 0.

        L = sum_{j=1}^{m-1} D_j relu(s_j - s)  -  8 sharpness relu(s - 3/4),      s_j = 1/(1 + j).

    All terms of the sum are at least 0, so nothing cancels: its relative rounding error is that of adding up c - 1
    numbers of one sign. It is 0 for c = 1 (s = 1/2: every unit is off) and D_j is chosen, one after the other, such
    that the sum is log(j + 1) at s = 1/(2 + j), with the float32 numbers s_j and D_j as they are (`log_table`). A
    relative error e of s moves the sum by at most 3 e: between s_(c+1) and s_c the slope is log(1 + 1/c) (c+1)(c+2), at
    most (c+1)(c+2)/c <= 3 (c+1). At s = 1, L = -8 sharpness/4.
    """
    stream = mlp.stream
    places, steps = log_table(examples)
    share = stream["share"].start + index
    count = len(places)
    mlp.units(
        bias=np.concatenate([places, np.full(1, -FORGOTTEN, dtype=np.float32)]),
        inputs=[(np.full(count + 1, share), np.concatenate([np.full(count, -1.0), np.ones(1)]).astype(np.float32))],
        outputs=[
            (
                np.full(count + 1, stream["log_count"].start + index),
                np.concatenate([steps, np.full(1, -8 * sharpness)]).astype(np.float32),
            )
        ],
    )
    mlp.close_group(
        f"log[{task.name}]",
        reads=["share"],
        writes=["log_count"],
        margin=0.25,
        says="at eq: the logarithm of the number of examples that follow the task",
    )


def log_table(examples: int) -> tuple[Array, Array]:
    """s_j and D_j for j = 1 to m-1, float32; each D_j makes good what those before it left.

    >>> places, steps = log_table(3)
    >>> places.tolist(), [round(float(step), 3) for step in steps]
    ([0.5, 0.3333333432674408], [4.159, 0.703])
    """
    places = (1 / np.arange(2, examples + 1)).astype(np.float32)
    steps = np.zeros(len(places), dtype=np.float32)
    for index in range(len(places)):
        at = 1.0 / (index + 3)
        before = float((steps[:index].astype(np.float64) * (places[:index].astype(np.float64) - at)).sum())
        steps[index] = (math.log(index + 2) - before) / (float(places[index]) - at)
    return places, steps


def log_table_error(examples: int) -> float:
    """The largest |L - log c| over c = 1 to m at s = 1/(1 + c), in real arithmetic, rounded up."""
    places, steps = (part.astype(np.float64) for part in log_table(examples))
    shares = 1 / np.arange(2.0, examples + 2)
    sums = (np.maximum(places - shares[:, None], 0.0) * steps).sum(axis=1)
    return float(np.abs(sums - np.log(np.arange(1.0, examples + 1))).max()) + 2.0**-44
