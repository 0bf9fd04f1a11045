"""The ReLU circuits of the seven layers: predict, compare, credit, gate, superpose; one step of the argument each.

Codes are those of `construct.four_squares`: c_a in Z^4 with <c_a, c_a> = N and <c_a, c_b> <= N - 1. rho is the largest
leak of the read heads, and every derivation needs rho <= 1/2. Task k has its own four numbers of `prediction`, P_k,
and one number each of `unanswered` (n_k), `mismatch`, `evidence` (e_k) and `weight` (g_k).
"""

import numpy as np
from numpy.typing import NDArray

from construct.four_squares import NUMBERS, code_norm, four_square_code
from construct.mlp import MlpBuilder, read_subspace
from construct.residual_stream import ResidualStream, Subspace
from construct.seven_reads import SumScalar, interpolation
from construct.tasks import SumTask, TableTask


def sum_subspace(index: int) -> str:
    """The name of the coordinate of a sum."""
    return f"sum[{index}]"


def prediction_of(stream: ResidualStream, index: int) -> Subspace:
    """The four coordinates of task `index`'s predicted code."""
    return Subspace(f"prediction[{index}]", stream["prediction"].start + NUMBERS * index, NUMBERS)


def predict_table(mlp: MlpBuilder, task: TableTask, index: int) -> None:
    """Step 2, everywhere: P_k = c[g_k(inputs)] and n_k = 0 where a table has an answer, else 0 and 1; a unit a row.

    With r reads of codes r_hat_j, the row of inputs v with answer a is

        relu(2 sum_j <r_hat_j, c[v_j]> - 2 r N + 1), written as c_a to P_k and as -1 to n_k, whose constant is 1.

    Row read, without leak: 1. r_hat_j is a convex combination of codes and 0 with at least 1 - rho on its target, so
    <r_hat_j, c> <= N always, >= N - 2 N rho where the token is v_j, and <= N - 1 + rho where it is not. Row read: the
    unit is in [1 - beta, 1], beta = 4 N r rho. Another row: the sum is at most 2 r N - 2 + 2 rho, the argument at most
    2 rho - 1 <= 0, the unit exactly 0. Where nothing is read (x, BOS): likewise 0. QED: P_k = u c_a and n_k = 1 - u,
    with one u in [1 - beta, 1], or exactly P_k = 0 and n_k = 1.
    """
    stream, codes = mlp.stream, four_square_code(mlp.stream["token"].size)
    norm = float(code_norm(len(codes)))
    keys, answers = np.array(list(task.rows), dtype=np.int_), np.array(list(task.rows.values()), dtype=np.int_)
    reads = [read_subspace(position) for position in task.reads]
    mlp.units(
        bias=np.full(len(keys), 1.0 - 2.0 * norm * len(reads), dtype=np.float32),
        inputs=[(stream[name], 2.0 * codes[keys[:, place]]) for place, name in enumerate(reads)],
        outputs=[
            (prediction_of(stream, index), codes[answers]),
            (_each(stream["unanswered"].start + index, len(keys)), -1.0),
        ],
    )
    mlp.constant(_one(stream, "unanswered", index), np.ones(1, dtype=np.float32))
    mlp.close_group(
        f"predict[{task.name}]",
        reads=reads,
        writes=["prediction", "unanswered"],
        margin=1.0,
        says="the code of the task's answer on the inputs read, 0 where it has none",
    )


def predict_sum(mlp: MlpBuilder, scalar: SumScalar, task: SumTask, index: int) -> None:
    """Step 2, everywhere: the same for a sum, by hinges that interpolate f(s') = (c[row of s'], -1), 0 without a row.

    f is written as the sum of (change of slope at v) * relu(s_hat - v): exact at integers. s' is 0 where nothing is
    read, and f(0) = 0 as every row is at s' >= |S| >= 1. Each position's value is off by at most U rho, U the largest,
    so |s_hat - s'| <= delta = |S| U rho; between integers f is linear, and with delta <= 1

        (P_k, n_k - 1) = f(s') + t (f(s' +- 1) - f(s')), for some t in [0, delta].

    A token without a value makes s' larger than every row's: f = 0.
    """
    stream, codes = mlp.stream, four_square_code(mlp.stream["token"].size)
    rows = scalar.rows(task)
    sums, answers = np.array(list(rows), dtype=np.int_), np.array(list(rows.values()), dtype=np.int_)
    answered = np.full((len(rows), 1), -1.0, dtype=np.float32)
    places, changes = interpolation(sums, np.concatenate([codes[answers], answered], axis=1))
    mlp.units(
        bias=-places.astype(np.float32),
        inputs=[(stream[sum_subspace(scalar.index)], 1.0)],
        outputs=[
            (prediction_of(stream, index), changes[:, :NUMBERS]),
            (_each(stream["unanswered"].start + index, len(places)), changes[:, NUMBERS]),
        ],
    )
    mlp.constant(_one(stream, "unanswered", index), np.ones(1, dtype=np.float32))
    mlp.close_group(
        f"predict[{task.name}]",
        reads=[sum_subspace(scalar.index)],
        writes=["prediction", "unanswered"],
        margin=1.0,
        says="the code of the task's answer on the sum read, 0 where it has none",
    )


def compare(mlp: MlpBuilder, name: str, index: int) -> None:
    """Step 3, at y: mismatch_k = 2 |P_k - c_y|_1, the distance of the predicted answer to the one given; 8 units.

    c_y is linear in the token, which is one-hot: its i-th number is sum_a c_ai [token is a], and |x| = relu(x) +
    relu(-x). So it is 0 where the prediction is the answer, at least 4 where it is another (codes are 2 apart), at
    least 2 where there is none (P_k = 0, and |c_y|_1 >= 1); off by at most 2 eta where |P_k| is off by eta in |.|_1.
    """
    stream, codes = mlp.stream, four_square_code(mlp.stream["token"].size)
    predicted = prediction_of(stream, index)
    at = np.arange(predicted.start, predicted.stop)
    for sign in (1.0, -1.0):
        mlp.units(
            bias=np.zeros(NUMBERS, dtype=np.float32),
            inputs=[(at, sign), (stream["token"], -sign * codes.T)],
            outputs=[(_each(stream["mismatch"].start + index, NUMBERS), 2.0)],
        )
    mlp.close_group(
        f"compare[{name}]",
        reads=["prediction", "token"],
        writes=["mismatch"],
        margin=0.0,
        says="at y: how far the predicted answer is from the answer given",
    )


def credit(mlp: MlpBuilder, name: str, index: int) -> None:
    """Step 4, at y: e_k = 1 if the mismatch is 0, else 0, exactly; two units.

        relu(2 x) - relu(2 x - 1) with x = [role y] - mismatch_k

    is 1 from x = 1/2 on and 0 up to x = 0: a ramp between. A match has x = 1, everything else at y x <= -1, every other
    role x <= 0. So errors of the mismatch up to 1/2 are forgotten: e_k is exactly 0 or 1.
    """
    stream = mlp.stream
    at = stream["evidence"].start + index
    mlp.units(
        bias=np.array([0.0, -1.0], dtype=np.float32),
        inputs=[(_each(stream["mismatch"].start + index, 2), -2.0), (stream["role_y"], 2.0)],
        outputs=[(_each(at, 2), np.array([1.0, -1.0], dtype=np.float32))],
    )
    mlp.close_group(
        f"credit[{name}]",
        reads=["mismatch", "role_y"],
        writes=["evidence"],
        margin=1.0,
        says="at y: 1 if the task explains the example, else 0; errors are forgotten",
    )


def gate(mlp: MlpBuilder, name: str, index: int) -> None:
    """Step 6, at EQ: g_k = w_k where the task has an answer for this query, else 0; one unit.

        relu(w_k - n_k)

    is w_k with n_k = 0, and no sum rounds; with n_k = 1 it is 0 as w_k <= 1: the product of a weight and a bit. An
    error of n_k adds to that of w_k. At EQ w_k is in [0, 1]; what a gate passes elsewhere is attended to by nothing.
    """
    stream = mlp.stream
    mlp.units(
        bias=np.zeros(1, dtype=np.float32),
        inputs=[(_one(stream, "evidence", index), 1.0), (_one(stream, "unanswered", index), -1.0)],
        outputs=[(_one(stream, "weight", index), 1.0)],
    )
    mlp.close_group(
        f"gate[{name}]",
        reads=["evidence", "unanswered"],
        writes=["weight"],
        margin=0.0,
        says="at eq: the weight of the task, if it has an answer for the query",
    )


def superpose(mlp: MlpBuilder, task: TableTask | SumTask, index: int) -> None:
    """Step 7, at EQ: add g_k u[a], a the predicted answer; one unit for each answer a of the task.

        relu(g_k + 2 <P_k, c_a> - 2 N), written to a's coordinate of `token`.

    P_k = c_a: g_k. Another code: at most g_k - 2 <= 0. No answer: g_k = 0, at most -2 N. Where g_k = 0 all are 0.
    With P_k = u c_a, u in [1 - beta, 1], and n_k = 1 - u, the unit is in [w_k - (2 N + 1) beta, w_k]. With a sum's
    P_k = c_a + t (c_b - c_a): <c_b - c_a, c_a> >= -2 N, so in [w_k - (4 N + 1) delta, w_k]; at other answers a' still
    at most g_k - 2 + 2 delta <= 0.
    """
    stream, codes = mlp.stream, four_square_code(mlp.stream["token"].size)
    answers: NDArray[np.int_] = np.unique(np.array(list(task.rows.values()), dtype=np.int_))
    mlp.units(
        bias=np.full(len(answers), -2.0 * code_norm(len(codes)), dtype=np.float32),
        inputs=[
            (_each(stream["weight"].start + index, len(answers)), 1.0),
            (prediction_of(stream, index), 2.0 * codes[answers]),
        ],
        outputs=[(stream["token"].start + answers, 1.0)],
    )
    mlp.close_group(
        f"superpose[{task.name}]",
        reads=["weight", "prediction"],
        writes=["token"],
        margin=1.0,
        says="at eq: the weight of the task, to the answer that it predicts",
    )


def _one(stream: ResidualStream, name: str, index: int) -> Subspace:
    """The coordinate of task `index` in a subspace of one number a task."""
    return Subspace(f"{name}[{index}]", stream[name].start + index, 1)


def _each(coordinate: int, count: int) -> NDArray[np.int_]:
    return np.full(count, coordinate)
