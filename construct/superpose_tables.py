"""Components for tasks that are given as tables: the two-layer construction of one task, with its weight cut off."""

from dataclasses import replace

import numpy as np

from construct.errors import TaskError
from construct.prompts import Layout
from construct.residual_stream import Array
from construct.sparse import sparse_matrix
from construct.superpose_component import Component, no_heads, selected, with_layers
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from construct.transformer import LayerWeights, MlpWeights


def table_component(task: TableTask | SumTask, layout: Layout) -> Component:
    """One layer for a table, two for a sum: `cut_component` of the two-layer construction of this task alone."""
    names = tuple(str(token) for token in range(layout.alphabet_size))
    alone = TaskSet(task.name, names, layout.inputs, Format(), (replace(task, name="task"),))
    return replace(cut_component(two_layer(alone, examples=layout.examples)), task=task)


def cut_component(built: Construction) -> Component:
    """The reads of a two-layer construction of one task, as built or loaded, then its answers, by the same weights.

    In the two-layer construction the unit of a row answers

        relu(<r_hat, code(v)> + w + [role eq] - (r B + 1)),

    w being the averaged evidence. Here w is the constant 1, moved into the bias, and no evidence is left. So at EQ
    (`construct.mlp.table_answer` with w = 1): the unit of the row read is in [1 - 2 rho r B, 1], every other exactly
    0; the output is one-hot up to eta = 2 rho r B, and exactly 0 where the table has no row. For a sum
    (`construct.mlp.sum_answer`) eta = 2 delta + 2 |S| rho. The sharpness that `two_layer` chooses keeps four times
    that below 1e-6, so the contract eta = 1/4 holds by far.

    A table needs nothing of layer 1's MLP, so its answers stand there: one layer. A sum needs its Gray code first.

    Raises:
        TaskError: it is another construction, or has several tasks.
    """
    tasks = built.task_set.tasks
    if built.theorem != "two-layer" or len(tasks) != 1:
        raise TaskError(
            f"{built.task_set.name!r} is a construction {built.theorem!r} of {len(tasks)} tasks: expected a two-layer "
            "construction of one task; a task file gives a component for each of its tasks"
        )
    (task,) = tasks
    first, second = built.weights.layers
    answer = _unweighted(second.mlp, built)
    if isinstance(task, TableTask):
        return Component(task, with_layers(built.weights, [LayerWeights(first.attention, answer)]))
    codes = [circuit for circuit in built.circuits if (circuit.layer, circuit.kind) == (1, "mlp")]
    count = sum(circuit.units for circuit in codes if circuit.name.startswith("code["))
    inner = selected(first.mlp, range(count))  # the codes are built before the evidence
    layers = [LayerWeights(first.attention, inner), LayerWeights(no_heads(built.weights.d_model), answer)]
    return Component(task, with_layers(built.weights, layers))


def _unweighted(mlp: MlpWeights, built: Construction) -> MlpWeights:
    """The answers with the weight 1, in the bias, where the evidence was read."""
    evidence = built.stream["evidence"].start
    entries = mlp.w_in.tocoo()
    rows, columns = entries.coords
    kept = rows != evidence
    weight: Array = np.zeros(mlp.w_in.shape[1], dtype=np.float32)
    weight[columns[~kept]] = entries.data[~kept]
    w_in = sparse_matrix(entries.data[kept], rows[kept], columns[kept], mlp.w_in.shape)
    return MlpWeights(w_in, (mlp.bias_in + weight).astype(np.float32), mlp.w_out, mlp.bias_out)
