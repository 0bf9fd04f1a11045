"""Lemma 5, the values, and the bound: what every head writes at every EQ, and the output."""

from dataclasses import dataclass

import numpy as np

from verify.boxes import Box
from verify.exact import INFLATION, Float
from verify.vector_machine import ABSENT, SLACK, project, reach, sum_loss, sum_weights
from verify.vector_state import ROLES, States, hidden
from verify.vector_weights import Weighing


@dataclass(frozen=True)
class Contribution:
    """What one task's head adds to the output at the EQ after m' examples, for the worst c and query.

    Args:
        error: how far from (c/m') g_k(query) at the most, shape [m + 1, outputs].
        size: how large at the most, the same shape.
        matrix: how far the linear part of the value is from A_k, as a norm times R.
        offset: how far the rest of the value is from b_k.
    """

    error: Float
    size: Float
    matrix: float
    offset: float


def contribution(
    states: States, head: int, index: int, weighed: Weighing, outputs: Float, columns: str
) -> Contribution:
    """One head's part of the output coordinates `outputs`, shape [d_model, outputs].

    `columns` says what is wanted there: "vector" g_k(query), "weight" the indicator of task k.
    """
    construction, machine = states.construction, states.machine
    task = construction.task_set.tasks[index]
    attention = construction.weights.layers[2].attention
    value = attention.value[head].astype(np.float64)
    output = attention.output[head].astype(np.float64) @ outputs
    form = states.embedding @ value @ output
    bound = states.bounds["x"]
    if columns == "vector":
        matrix, offset = task.matrix.astype(np.float64).T, task.offset.astype(np.float64)
    else:
        matrix = np.zeros((len(form), outputs.shape[1]))
        offset = (np.arange(outputs.shape[1]) == index).astype(np.float64)
    inner = project(machine, states.fixed("x"), value, states.grid)
    rest = project(machine, inner, output, np.full(len(output), ABSENT))
    off_matrix = bound * np.linalg.norm(form - matrix, axis=0) * INFLATION
    if not (_copying(states.embedding) and _copying(output)):
        off_matrix = off_matrix + SLACK * len(value) * bound * (
            np.abs(states.embedding) @ np.abs(value) @ np.abs(output)
        ).sum(0)
    off_offset = np.abs(rest.centre - offset) + rest.radius
    wrong = off_matrix + off_offset + _value_rounding(states, value, output)
    most = bound * np.linalg.norm(matrix, axis=0) * INFLATION + np.abs(offset)
    # What is attended besides: other inputs, BOS and EQ, and the answers, which hold nothing if they were erased.
    beside = {role: _most(states, value, output, role) for role in ROLES}
    strays = np.max([beside[role] for role in ("bos", "x", "eq")], axis=0)
    share_y = np.clip(1 - (weighed.high - 2 * weighed.error), 0.0, 1.0)
    error = (
        weighed.error[..., None] * most
        + weighed.high[..., None] * wrong
        + 2 * weighed.elsewhere[..., None] * strays * (1 + 0 * most)
        + share_y[..., None] * beside["y"]
    )
    # For c = 0 everything is elsewhere, and BOS and EQ have no value: only inputs and answers count.
    none = weighed.high[:, :1] * (most + wrong) + beside["y"] + np.maximum(beside["bos"], beside["eq"])
    none = none + weighed.high[:, :1] * strays
    error[:, 0] = none
    size = weighed.high[..., None] * (most + wrong) + error
    return Contribution(
        error.max(axis=1) * INFLATION,
        size.max(axis=1) * INFLATION,
        float(off_matrix.max()),
        float(off_offset.max()),
    )


def _copying(matrix: Float) -> bool:
    """Whether a product with the matrix only copies: no row or column has more than one entry, and that is +-1."""
    entries = np.abs(matrix)
    one = np.isin(entries, (0.0, 1.0)).all()
    return bool(one and (entries.sum(axis=0) <= 1).all() and (entries.sum(axis=1) <= 1).all())


def _value_rounding(states: States, value: Float, output: Float) -> Float:
    """The rounding of the value at the query's input: a sum of products, weighed, copied out."""
    unit = states.machine.unit
    if not unit:
        return np.zeros(output.shape[1])
    fixed = reach(states.fixed("x"))
    own = np.abs(states.embedding)
    # By coordinate of the stream, the part of the vector in it; a value coordinate sums them in any order.
    copied = (np.count_nonzero(own, axis=0) <= 1).all() and (np.count_nonzero(own, axis=1) <= 1).all()
    result = np.zeros(value.shape[1])
    for column in range(value.shape[1]):
        used = np.flatnonzero(value[:, column] * (fixed + own.sum(axis=0)))
        if not len(used):
            continue
        falling = -np.sort(-np.abs(value[used, column]) * own[:, used].sum(axis=0))
        if len(used) == 1 and abs(value[used[0], column]) == 1:
            continue
        norm = float(np.linalg.norm(sum_weights(len(used)) * falling)) if copied else len(used) * float(falling.sum())
        constant = float(fixed[used] @ np.abs(value[used, column])) * (len(used) + 1)
        result[column] = unit * (states.bounds["x"] * norm + constant) * INFLATION
    size = states.bounds["x"] * np.linalg.norm(states.embedding @ value, axis=0) + fixed @ np.abs(value)
    # Weighed by the attention, and rescaled: three more roundings.
    result = result + 3 * unit * size
    terms = np.count_nonzero(output, axis=0)
    single = (terms <= 1) & np.isin(np.abs(output).max(axis=0), (0.0, 1.0))
    through = result @ np.abs(output)
    return np.asarray(through + np.where(single, 0.0, (terms + 1) * unit * (size @ np.abs(output))))


def _most(states: States, value: Float, output: Float, role: str) -> Float:
    """The largest that a key of a role can add to an output coordinate."""
    inner = project(states.machine, states.fixed(role), value, states.grid)
    fixed = reach(project(states.machine, inner, output, np.full(len(output), ABSENT)))
    form = states.embedding @ value @ output
    return np.asarray(fixed + states.bounds[role] * np.linalg.norm(form, axis=0) * INFLATION)


def remainder(states: States, outputs: Float, after: States) -> Float:
    """What is in the output coordinates at EQ apart from the heads of layer 3: all earlier writing, and the last MLP.

    Args:
        states: before layer 3.
        outputs: shape [d_model, outputs].
        after: after the attention of layer 3, whatever it attends to.
    """
    box = states.box("eq")
    used = np.flatnonzero(outputs.any(axis=1))
    total = reach(Box(box.centre[used] @ outputs[used], box.radius[used] @ np.abs(outputs[used])))
    total = total + SLACK * len(used) * (reach(box)[used] @ np.abs(outputs[used]))
    mlp = states.construction.weights.layers[2].mlp
    active = np.maximum(hidden(after, mlp, "eq").high, 0.0)
    size = active @ abs(mlp.w_out.astype(np.float64)) + np.abs(mlp.bias_out.astype(np.float64))
    lost = 1 + states.machine.unit * (mlp.w_in.shape[1] + 4)
    return np.asarray(total + size[used] @ np.abs(outputs[used]) * lost) * INFLATION


def output_rounding(states: States, outputs: Float, parts: list[Contribution]) -> Float:
    """The rounding of adding up the heads and of the output, by m' and output: shape [m + 1, outputs]."""
    unit = states.machine.unit
    sizes = np.stack([part.size for part in parts], axis=-1)
    if not unit:
        return np.zeros(sizes.shape[:-1])
    terms = np.count_nonzero(outputs, axis=0)
    single = (terms <= 1) & np.isin(np.abs(outputs).max(axis=0), (0.0, 1.0))
    whole = sizes.sum(axis=-1)
    # The products with the output matrix are copies; a sum of K terms in any order loses what `sum_loss` says.
    lost = (sum_loss(sizes) - sizes.sum(axis=-1)) * unit
    return np.asarray(lost + np.where(single, 0.0, (terms + 2) * unit * whole)) * INFLATION
