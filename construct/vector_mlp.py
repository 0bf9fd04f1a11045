"""The ReLU circuits of the three-layer construction on vectors.

Layer 1, at y: the excess of each task's difference over half the margin, and the answer erased. Layer 2: a bit a task
at y, and at EQ the logarithm of the number of examples that follow it. Layer 3 has no units: its softmax multiplies.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """At EQ: L_k = log(c_k/c0) from the share s_k = 1/(1 + c_k), one unit a count; below -2 sharpness for c_k = 0.

        L = sum_{c > c0} D_c relu(s_(c-1) - s) + sum_{c < c0} D_c relu(s - s_(c+1)) - 8 sharpness relu(s - 3/4)

    with s_c = 1/(1 + c) and c0 = floor(sqrt(m)): the interpolation between the counts, from c0 outwards. Each D_c is
    chosen such that the sum is log(c/c0) at s = 1/(1 + c), with the float32 numbers as they are (`log_table`). Towards
    the larger counts all terms are positive (log c is convex in s), so that nothing cancels, and only |c - c0| terms
    are added up; the last head adds log c0. That keeps the rounding small. A leak that makes s smaller by e moves L by
    at most e log(1 + 1/c) (c+1)(c+2): at most 3 (c+1) times e. For s = 1 the last unit gives -2 sharpness, and the
    others are on the line through the values at 2 and at 1 example, no higher than 0.
    """
    stream = mlp.stream
    table = log_table(examples)
    share = stream["share"].start + index
    count = len(table.places)
    mlp.units(
        bias=np.concatenate([-table.signs * table.places, np.full(1, -FORGOTTEN, dtype=np.float32)]),
        inputs=[(np.full(count + 1, share), np.concatenate([table.signs, np.ones(1, dtype=np.float32)]))],
        outputs=[
            (
                np.full(count + 1, stream["log_count"].start + index),
                np.concatenate([table.steps, np.full(1, -8 * sharpness, dtype=np.float32)]),
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


@dataclass(frozen=True)
class LogTable:
    """log c at s = 1/(1 + c) as constant + sum_j steps_j relu(signs_j (s - places_j)).

    Args:
        constant: log c0, float32.
        places: the bends, float32.
        signs: -1 for a unit that is on below its bend, 1 above.
        steps: the weights, float32.
    """

    constant: float
    places: Array
    signs: Array
    steps: Array

    def at(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum at some shares, in float64."""
        apart = self.signs.astype(np.float64) * (shares[:, None] - self.places.astype(np.float64))
        return np.asarray(self.constant + np.maximum(apart, 0.0) @ self.steps.astype(np.float64))


def log_table(examples: int) -> LogTable:
    """The table for counts 1 to m; each step makes good what the rounding of those before it left.

    >>> table = log_table(5)
    >>> table.signs.tolist(), [round(float(place), 3) for place in table.places]
    ([-1.0, -1.0, -1.0, 1.0], [0.333, 0.25, 0.2, 0.333])
    """
    middle = math.isqrt(examples)
    constant = float(np.float32(math.log(middle)))
    counts = [*range(middle + 1, examples + 1), *range(middle - 1, 0, -1)]
    places = np.array([1 / (1 + (c - 1 if c > middle else c + 1)) for c in counts], dtype=np.float32)
    signs = np.array([-1.0 if c > middle else 1.0 for c in counts], dtype=np.float32)
    steps = np.zeros(len(counts), dtype=np.float32)
    for index, c in enumerate(counts):
        share = 1.0 / (1 + c)
        done = LogTable(constant, places[:index], signs[:index], steps[:index]).at(np.array([share]))[0]
        steps[index] = (math.log(c) - done) / (float(signs[index]) * (share - float(places[index])))
    return LogTable(constant, places, signs, steps)


def log_table_error(examples: int) -> float:
    """The largest |L - log c| over c = 1 to m at s = 1/(1 + c), in real arithmetic, rounded up."""
    counts = np.arange(1.0, examples + 1)
    return float(np.abs(log_table(examples).at(1 / (1 + counts)) - np.log(counts)).max()) + 2.0**-44
