"""ReLU circuits: row matches that give evidence, and row matches that multiply a weight with an answer.

Each circuit adds units to an `MlpBuilder`; none computes anything but relu(affine). rho is the largest leak of the
read heads, and every derivation needs rho <= 1/2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from construct.reads import ReadPlan, SumRead
from construct.residual_stream import Array, ResidualStream, Subspace, binary_code
from construct.sparse import Sparse, sparse_matrix
from construct.tasks import SumTask, TableTask
from construct.transformer import MlpWeights


@dataclass(frozen=True)
class UnitGroup:
    """Consecutive hidden units that form one circuit.

    Args:
        name: unique within the layer.
        start: the first unit.
        units: how many.
        reads: the subspaces read.
        writes: the subspaces written.
        margin: how far below 0 every unit that should be off stays, apart from the leak.
        says: one line in words.
    """

    name: str
    start: int
    units: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    margin: float
    says: str


@dataclass
class _Entries:
    """(row, column, value) triplets of a sparse matrix under construction."""

    rows: list[NDArray[np.int_]] = field(default_factory=list)
    columns: list[NDArray[np.int_]] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)

    def add(self, rows: NDArray[np.int_], columns: NDArray[np.int_], values: Array) -> None:
        kept = np.broadcast_to(values, rows.shape) != 0
        self.rows.append(rows[kept])
        self.columns.append(np.broadcast_to(columns, rows.shape)[kept])
        self.values.append(np.broadcast_to(values, rows.shape)[kept].astype(np.float32))

    def matrix(self, shape: tuple[int, int]) -> Sparse:
        nothing = np.zeros(0, dtype=np.int_)
        rows, columns = np.concatenate([nothing, *self.rows]), np.concatenate([nothing, *self.columns])
        values = np.concatenate([np.zeros(0, dtype=np.float32), *self.values])
        return sparse_matrix(values, rows, columns, shape)


class MlpBuilder:
    """Collects the units of one layer's MLP."""

    def __init__(self, stream: ResidualStream) -> None:
        self.stream = stream
        self.groups: list[UnitGroup] = []
        self._in, self._out = _Entries(), _Entries()
        self._bias_in: list[Array] = []
        self._bias_out = np.zeros(stream.d_model, dtype=np.float32)
        self._width = 0

    def units(
        self,
        bias: Array,
        inputs: Sequence[tuple[Subspace | NDArray[np.int_], Array | float]],
        outputs: Sequence[tuple[Subspace | NDArray[np.int_], Array | float]],
    ) -> None:
        """Append len(bias) units.

        `inputs` and `outputs` are pairs (where, weights): `where` a subspace, with weights of shape [units, size],
        or one coordinate a unit, shape [units]; a number stands for equal weights.
        """
        count = len(bias)
        unit = np.arange(self._width, self._width + count)
        for entries, parts, unit_first in ((self._in, inputs, False), (self._out, outputs, True)):
            for where, weights in parts:
                at = np.arange(where.start, where.stop)[None, :] if isinstance(where, Subspace) else where[:, None]
                at = np.broadcast_to(at, (count, at.shape[1]))
                values = np.asarray(weights, dtype=np.float32)
                values = np.broadcast_to(values[:, None] if values.ndim == 1 else values, at.shape)
                units = np.broadcast_to(unit[:, None], at.shape)
                rows, columns = (units, at) if unit_first else (at, units)
                entries.add(rows.ravel(), columns.ravel(), values.ravel())
        self._bias_in.append(bias.astype(np.float32) + 0.0)  # a -0 becomes 0, which sparse storage keeps as it is
        self._width += count

    def constant(self, where: Subspace, values: Array) -> None:
        """Add constants to the output bias."""
        self._bias_out[where.coordinates] += values

    def close_group(self, name: str, *, reads: Sequence[str], writes: Sequence[str], margin: float, says: str) -> None:
        """Name the units appended since the last group."""
        start = self.groups[-1].start + self.groups[-1].units if self.groups else 0
        group = UnitGroup(name, start, self._width - start, tuple(reads), tuple(writes), margin, says)
        self.groups.append(group)

    def weights(self) -> MlpWeights:
        """The MLP's weights."""
        d_model, width = self.stream.d_model, self._width
        bias_in = np.concatenate([*self._bias_in, np.zeros(0, dtype=np.float32)])
        return MlpWeights(
            self._in.matrix((d_model, width)), bias_in, self._out.matrix((width, d_model)), self._bias_out
        )


def read_subspace(position: int) -> str:
    """The name of the subspace that holds the code of the token at an input position."""
    return f"read[{position}]"


def sum_subspaces(read: SumRead) -> tuple[str, str, str]:
    """The names of a sum's scalar, its count of undefined tokens, and its Gray code."""
    return f"sum[{read.index}]", f"undefined[{read.index}]", f"sum_code[{read.index}]"


@dataclass(frozen=True)
class _RowMatch:
    """What the units of a table have in common: <r_hat, code(v)> - (r B + 1), a row v a unit, and the answers."""

    reads: list[str]
    inputs: list[tuple[Subspace | NDArray[np.int_], Array | float]]
    bias: Array
    answers: NDArray[np.int_]


def _row_match(stream: ResidualStream, task: TableTask) -> _RowMatch:
    keys = np.array(list(task.rows), dtype=np.int_)
    codes = binary_code(stream["token"].size)
    reads = [read_subspace(position) for position in task.reads]
    bias = np.full(len(keys), -(len(reads) * codes.shape[1] + 1.0), dtype=np.float32)
    inputs = [(stream[name], codes[keys[:, place]]) for place, name in enumerate(reads)]
    return _RowMatch(reads, [*inputs], bias, np.array(list(task.rows.values())))


def table_evidence(mlp: MlpBuilder, task: TableTask, index: int) -> None:
    """At y: e_k = [the example is consistent with the table task k], one unit a row.

    With r reads of B bits each, the row of inputs v with answer a is

        relu(<r_hat, code(v)> + [token is a] + [role y] - (r B + 1)).

    r_hat is a convex combination of +-1 codes and 0, so each of its r B bits times the code's is at most 1. Row
    read, answer a, role y: the bits are at least 1 - 2 rho each, the unit is in [1 - 2 rho r B, 1]. Otherwise it is
    exactly 0: without the answer or the role the sum is at most r B + 1 - (r B + 1) = 0; on another row some bit
    is at most -(1 - 2 rho), the sum at most r B - 2 + 2 rho + 2 - (r B + 1) = 2 rho - 1 <= 0. At most one row is
    the one read. QED: e_k in [1 - 2 rho r B, 1] where consistent, else exactly 0.
    """
    stream, match = mlp.stream, _row_match(mlp.stream, task)
    evidence = np.full(len(match.answers), stream["evidence"].start + index)
    mlp.units(
        bias=match.bias,
        inputs=[*match.inputs, (stream["token"].start + match.answers, 1.0), (stream["role_y"], 1.0)],
        outputs=[(evidence, 1.0)],
    )
    mlp.close_group(
        f"evidence[{task.name}]",
        reads=[*match.reads, "token", "role_y"],
        writes=["evidence"],
        margin=1.0,
        says="at y: 1 where a row of the table gives this answer",
    )


def table_answer(mlp: MlpBuilder, task: TableTask, index: int) -> None:
    """At EQ: add w_k u[g_k(inputs)], the product of a weight and an indicator by one unit a row.

        relu(<r_hat, code(v)> + w_k + [role eq] - (r B + 1)), written to the output code of the answer.

    Row read, role eq: in [w_k - 2 rho r B, w_k] (and >= 0). Otherwise exactly 0: another row has at most
    r B - 2 + 2 rho + w_k + 1 - (r B + 1) <= 2 rho - 1 <= 0, as w_k <= 1; without the role, at most
    r B + w_k - (r B + 1) <= 0. The code's margin 2 exceeds the largest weight 1: that is all the product needs.
    """
    stream, match = mlp.stream, _row_match(mlp.stream, task)
    evidence = np.full(len(match.answers), stream["evidence"].start + index)
    mlp.units(
        bias=match.bias,
        inputs=[*match.inputs, (evidence, 1.0), (stream["role_eq"], 1.0)],
        outputs=[(stream["token"].start + match.answers, 1.0)],
    )
    mlp.close_group(
        f"answer[{task.name}]",
        reads=[*match.reads, "evidence", "role_eq"],
        writes=["token"],
        margin=1.0,
        says="at eq: the weight of the task, to its answer on this input",
    )


def sum_code(mlp: MlpBuilder, read: SumRead) -> None:
    """Everywhere: turn the scalar s' in low .. high into its Gray code, one hinge a value.

    The bits are the piecewise linear interpolation of code(low), .., code(high) at s_hat, constant outside:
    code(low) + sum_v (d_v - d_(v-1)) relu(s_hat - v), with d_v = code(v+1) - code(v) and d = 0 outside. On integers
    every term is an integer. With |s_hat - s'| <= delta <= 1/2 only the one bit in which code(s') differs from its
    neighbour moves, by at most 2 delta. So <code_hat, code(s')> is in [B - 2 delta, B], and with any other code at
    most B - 2 + 2 delta. At every s_hat the bits stay in [-1, 1].
    """
    scalar_name, _, code_name = sum_subspaces(read)
    scalar, code = mlp.stream[scalar_name], mlp.stream[code_name]
    slopes = np.diff(read.codes, axis=0)
    nothing = np.zeros((1, code.size), dtype=np.float32)
    changes = np.diff(np.concatenate([nothing, slopes, nothing]), axis=0)
    values = np.arange(read.low, read.high + 1)
    mlp.units(bias=-values.astype(np.float32), inputs=[(scalar, 1.0)], outputs=[(code, changes)])
    mlp.constant(code, read.codes[0])
    mlp.close_group(
        f"code[{scalar.name}]", reads=[scalar.name], writes=[code.name], margin=1.0, says="the sum as a Gray code"
    )


def sum_evidence(mlp: MlpBuilder, read: SumRead, task: SumTask, index: int) -> None:
    """At y: e_k = [the example is consistent with the sum task k], three units a row.

    For the row (v, a), with the gate C of the read, t the number of undefined tokens, and s_hat, t_hat as read:

        hat(D) = relu(D + 1) - 2 relu(D) + relu(D - 1),  D = s_hat - v - C (1 - [token is a]) - C t_hat,

    but for role y, where the constants 1 - v, -v, -1 - v stand on the flag of the role and -C on that of x. hat is 1
    at 0, 0 beyond +-1, linear between: with |s_hat - s'| <= delta and t = 0 (t_hat <= |S| rho), D is off its
    integer by at most eta = delta + C |S| rho, and so is e_k off [s' = v]. Without the answer, or with t >= 1
    and C rho <= 1, or at x, D + 1 <= |S| max(v', 0) - low + 1 - C + C rho <= 0: all three units are exactly 0. At
    bos and eq no token flag is set, and the constants are not there: s_hat - C <= 0, exactly 0 too.
    """
    stream, token = mlp.stream, mlp.stream["token"]
    scalar, undefined, _ = sum_subspaces(read)
    values, answers = read.rows(task)
    count, gate = len(values), float(read.gate)
    for step, weight in ((1, 1.0), (0, -2.0), (-1, 1.0)):
        mlp.units(
            bias=np.full(count, -gate, dtype=np.float32),
            inputs=[
                (stream[scalar], 1.0),
                (token.start + answers, gate),
                (stream["role_y"], (step - values).astype(np.float32)),
                (stream["role_x"], -gate),
                *([(stream[undefined], -gate)] if read.partial else []),
            ],
            outputs=[(np.full(count, stream["evidence"].start + index), weight)],
        )
    mlp.close_group(
        f"evidence[{task.name}]",
        reads=[scalar, *([undefined] if read.partial else []), "token", "role_y", "role_x"],
        writes=["evidence"],
        margin=1.0,
        says="at y: 1 where the row of this sum gives this answer",
    )


def sum_answer(mlp: MlpBuilder, read: SumRead, task: SumTask, index: int) -> None:
    """At EQ: add w_k u[g_k(inputs)] by one unit a row, as `table_answer` does, on the Gray code of the sum.

        relu(<code_hat, code(v)> + w_k - 2 t_hat + [role eq] - (B + 1)).

    Row read, t = 0: in [w_k - 2 delta - 2 |S| rho, w_k]. Another row: at most 2 delta - 1 <= 0. With t >= 1
    undefined tokens: at most w_k - 2 (1 - rho) <= 0 as rho <= 1/2: no answer.
    """
    stream, token = mlp.stream, mlp.stream["token"]
    _, undefined, code = sum_subspaces(read)
    values, answers = read.rows(task)
    mlp.units(
        bias=np.full(len(values), -(read.code_length + 1.0), dtype=np.float32),
        inputs=[
            (stream[code], read.codes[values - read.low]),
            (np.full(len(values), stream["evidence"].start + index), 1.0),
            (stream["role_eq"], 1.0),
            *([(stream[undefined], -2.0)] if read.partial else []),
        ],
        outputs=[(token.start + answers, 1.0)],
    )
    mlp.close_group(
        f"answer[{task.name}]",
        reads=[code, *([undefined] if read.partial else []), "evidence", "role_eq"],
        writes=["token"],
        margin=1.0,
        says="at eq: the weight of the task, to its answer on this sum",
    )


def task_evidence(mlp: MlpBuilder, plan: ReadPlan, task: TableTask | SumTask, index: int) -> None:
    """The evidence of task number `index`, whichever kind it is."""
    if isinstance(task, TableTask):
        table_evidence(mlp, task, index)
    else:
        sum_evidence(mlp, plan.sum_of(task), task, index)


def task_answer(mlp: MlpBuilder, plan: ReadPlan, task: TableTask | SumTask, index: int) -> None:
    """The answer of task number `index`, whichever kind it is."""
    if isinstance(task, TableTask):
        table_answer(mlp, task, index)
    else:
        sum_answer(mlp, plan.sum_of(task), task, index)
