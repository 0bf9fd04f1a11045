"""Composition: transformers that perform one task each become one that performs them all in superposition.

The general form of the argument of Theorem 1 of Xiong et al. (arXiv 2410.05603), as reconstructed here: whatever
computes the tasks, comparing costs one more layer, averaging and combining another. Statement and proof stand in
docs/theory/composition.md; the derivation of each circuit stands beside it below.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from construct.attention import AVERAGE_MARGIN, stack_heads
from construct.bounds import EXACT_READ, LARGEST_ERROR, SIGNIFICANT_BITS, SMALLEST_ERROR, SUMMED, round_sharpness
from construct.errors import InputError, TaskError
from construct.mlp import MlpBuilder
from construct.prompts import Layout, Prompt
from construct.residual_stream import Array, ResidualStream, binary_code, code_length
from construct.sparse import Sparse, sparse_matrix
from construct.superpose_circuits import (
    answer_units,
    average_head,
    block,
    credit_units,
    error_bound,
    fetch_head,
    fetch_leak,
)
from construct.superpose_component import Component, as_table, check_fits, reach
from construct.tasks import Format, TaskSet
from construct.theorems import DEFAULT_ERROR, Circuit, Construction
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights

THEOREM = "superpose"


@dataclass(frozen=True)
class Superposition:
    """The superposition of components.

    Args:
        components: what was superposed.
        layout: V, n, m and the positions.
        stream: the named subspaces, one block a component among them.
        weights: the weights.
        sharpness: lambda, the scale of the scores of the last two layers' heads.
        error_bound: the bound on |q_hat - q|_1 in real arithmetic for every prompt, if the contracts hold.
        circuits: every component's layer, head and group of units, in order.
    """

    components: tuple[Component, ...]
    layout: Layout
    stream: ResidualStream
    weights: TransformerWeights
    sharpness: float
    error_bound: float
    circuits: tuple[Circuit, ...]

    def construction(
        self, *, alphabet: Sequence[str], name: str = THEOREM, written: Format | None = None
    ) -> Construction:
        """The same with tasks as tables: to be saved as an artifact, run and verified like any construction.

        Raises:
            TaskError: the alphabet has another size, or a task has no answer on any input.
            TooLargeError: a task has too many inputs for a table.
        """
        if len(alphabet) != self.layout.alphabet_size:
            raise TaskError(f"the alphabet has {len(alphabet)} tokens, the layout {self.layout.alphabet_size}")
        tasks = tuple(as_table(component.task, self.layout) for component in self.components)
        task_set = TaskSet(name, tuple(alphabet), self.layout.inputs, written or Format(), tasks)
        return Construction(
            THEOREM,
            task_set,
            self.layout,
            self.stream,
            self.weights,
            self.sharpness,
            self.error_bound,
            self.circuits,
        )


def superpose(
    components: Sequence[Component], layout: Layout, *, error: float = DEFAULT_ERROR, sharpness: float | None = None
) -> Superposition:
    """K components in superposition, in L0 + 2 layers, L0 the greatest depth among them.

    If every component keeps its contract, then for every prompt of at most m examples, at every EQ, the output q_hat
    has |q_hat - q|_1 <= error_bound = K (n + 1) z^4 with z = exp(-sharpness) and q = sum_k (c_k/m') u[g_k(query)].
    The components' own errors are in it no more: the comparison and the product forget them.

    Heads: in layers 1 to L0 those of the components together, then 1 and 1. d_model = V + 3 + b1 + K V + K + the
    components' own, b1 = ceil(log2(m + 1)). The MLPs of the last two layers have 2 K V units each.

    Args:
        components: K components with distinct names; the depths may differ.
        layout: V, n, and m, at least 1.
        error: the wanted bound; chooses the sharpness unless that is given.
        sharpness: lambda, to be used instead; rounded to 12 significant bits.

    Raises:
        TaskError: there is no component, two have one name, or one does not fit the layout.
        InputError: error or sharpness are out of range, or the sharpness is too low for the comparison.
    """
    names = [component.task.name for component in components]
    if not components or len(set(names)) < len(names) or layout.examples < 1:
        raise TaskError(
            f"superpose was given the components {names} and {layout.examples} examples: expected at least one "
            "component, names that differ, and at least 1 example"
        )
    for component in components:
        check_fits(component, layout)
    stream = _subspaces(components, layout)
    chosen = _sharpness(components, layout, error, sharpness)
    depth = max(component.depth for component in components)

    # Step 1: the components run side by side, each in a block of its own, for L0 layers.
    inner = [_side_by_side(components, stream, index) for index in range(depth)]
    # Step 2: every y fetches the predictions of its own example, and credits the task whose prediction it is.
    fetch = fetch_head(components, stream, chosen)
    credit = MlpBuilder(stream)
    for index, component in enumerate(components):
        credit_units(credit, component, index)
    # Step 3: every EQ averages the credit over the y before it.
    average = average_head(stream, chosen)
    # Step 4: at every EQ, the weight of a task goes to the token that the task predicts.
    answer = MlpBuilder(stream)
    for index, component in enumerate(components):
        answer_units(answer, component, index)

    weights = TransformerWeights(
        _embedding(components, stream, layout),
        _positions(components, stream, layout),
        (
            *inner,
            LayerWeights(stack_heads([fetch]), credit.weights()),
            LayerWeights(stack_heads([average]), answer.weights()),
        ),
        _token_rows(stream, layout.alphabet_size).T.tocsr(),
    )
    circuits = [*_describe_components(components)]
    for layer, head, mlp in ((depth + 1, fetch, credit), (depth + 2, average, answer)):
        circuits.append(Circuit(layer, "attention", head.name, 1, head.reads, head.writes, head.margin, head.says))
        circuits += [Circuit(layer, "mlp", g.name, g.units, g.reads, g.writes, g.margin, g.says) for g in mlp.groups]
    bound = error_bound(len(components), layout, chosen) * SUMMED
    return Superposition(tuple(components), layout, stream, weights, chosen, bound, tuple(circuits))


def superposed_answer(
    components: Sequence[Component], prompt: Prompt
) -> tuple[tuple[Fraction, ...], dict[int, Fraction]]:
    """The exact c_k/m' and target q of a prompt, by calling each task's function: the oracle of a superposition.

    It is `construct.oracle.answer` for tasks that need not be tables.
    """
    evidence, target = [], dict[int, Fraction]()
    for component in components:
        agreed = sum(component.task.answer(example.inputs) == example.answer for example in prompt.examples)
        share = Fraction(agreed, max(len(prompt.examples), 1))
        evidence.append(share)
        output = component.task.answer(prompt.query)
        if share and output is not None:
            target[output] = target.get(output, Fraction(0)) + share
    return tuple(evidence), target


def _sharpness(components: Sequence[Component], layout: Layout, error: float, given: float | None) -> float:
    """The least sharpness of SIGNIFICANT_BITS bits that reaches the error and keeps the fetch within the slack."""
    if not SMALLEST_ERROR <= error <= LARGEST_ERROR:
        raise InputError(f"the error wanted is {error:g}: expected a number from {SMALLEST_ERROR} to {LARGEST_ERROR}")
    # A leak rho moves an output by at most 2 reach rho, which has to stay within (high - low)/4.
    allowed = min(
        (component.high - component.low) / (16 * max(1.0, reach(component.weights))) for component in components
    )
    if given is not None:
        chosen = round_sharpness(given)
        if fetch_leak(layout, chosen) > allowed or math.exp(-AVERAGE_MARGIN * chosen) > 0.25:
            raise InputError(f"the sharpness is {given:g}: too low to fetch the predictions; leave it out")
        return chosen
    steps = 2 ** (SIGNIFICANT_BITS - 1)
    for exponent in range(12):
        for significand in range(steps, 2 * steps):
            chosen = math.ldexp(significand / steps, exponent)
            reached = error_bound(len(components), layout, chosen) * SUMMED <= error
            if reached and fetch_leak(layout, chosen) <= min(allowed, EXACT_READ):
                return chosen
    raise InputError(
        f"no sharpness reaches the error {error:g} with outputs as large as the components' may be: scale them down"
    )


def _subspaces(components: Sequence[Component], layout: Layout) -> ResidualStream:
    sizes = {"token": layout.alphabet_size, "role_x": 1, "role_eq": 1, "role_y": 1}
    sizes["example_index"] = code_length(layout.examples + 1)
    sizes |= {block(component): component.weights.d_model for component in components}
    sizes["prediction"] = len(components) * layout.alphabet_size
    return ResidualStream(sizes | {"evidence": len(components)})


def _side_by_side(components: Sequence[Component], stream: ResidualStream, index: int) -> LayerWeights:
    """Layer `index` of all components: block-diagonal, so that none reads or writes another's coordinates.

    Every head and hidden unit has the rows and columns of its own component's block and zeros elsewhere. So on its
    block the stream of the whole is the stream of the component alone, exactly, in every layer. A component that
    has ended has no heads and no units in this layer: nothing is written to its block.
    """
    parts = [(stream[block(c)], c.weights.layers[index]) for c in components if index < c.depth]
    heads = sum(layer.attention.query.shape[0] for _, layer in parts)
    d_qk = max([1, *(layer.attention.query.shape[2] for _, layer in parts)])
    d_value = max([1, *(layer.attention.value.shape[2] for _, layer in parts)])
    # A layer in which no component has a head gets one of zeros: a model has at least one head a layer.
    query, key = np.zeros((2, max(heads, 1), stream.d_model, d_qk), dtype=np.float32)
    value = np.zeros((max(heads, 1), stream.d_model, d_value), dtype=np.float32)
    output = np.zeros((max(heads, 1), d_value, stream.d_model), dtype=np.float32)
    first = 0
    for at, layer in parts:
        own = layer.attention
        here = slice(first, first + own.query.shape[0])
        query[here, at.coordinates, : own.query.shape[2]] = own.query
        key[here, at.coordinates, : own.key.shape[2]] = own.key
        value[here, at.coordinates, : own.value.shape[2]] = own.value
        output[here, : own.output.shape[1], at.coordinates] = own.output
        first = here.stop
    widths = np.concatenate([[0], np.cumsum([layer.mlp.w_in.shape[1] for _, layer in parts])]).astype(np.int_)
    bias_out = np.zeros(stream.d_model, dtype=np.float32)
    for at, layer in parts:
        bias_out[at.coordinates] = layer.mlp.bias_out
    mlp = MlpWeights(
        _placed(
            [(layer.mlp.w_in, at.start, int(w)) for (at, layer), w in zip(parts, widths[:-1], strict=True)],
            (stream.d_model, int(widths[-1])),
        ),
        np.concatenate([layer.mlp.bias_in for _, layer in parts]).astype(np.float32),
        _placed(
            [(layer.mlp.w_out, int(w), at.start) for (at, layer), w in zip(parts, widths[:-1], strict=True)],
            (int(widths[-1]), stream.d_model),
        ),
        bias_out,
    )
    return LayerWeights(AttentionWeights(query, key, value, output), mlp)


def _token_rows(stream: ResidualStream, count: int) -> Sparse:
    """Row v is coordinate v of `token`."""
    rows = np.arange(count)
    return sparse_matrix(np.ones(count, dtype=np.float32), rows, stream["token"].start + rows, (count, stream.d_model))


def _embedding(components: Sequence[Component], stream: ResidualStream, layout: Layout) -> Sparse:
    """E: a content token is one-hot in `token`; each component's own embedding stands in its block."""
    own = [(component.weights.token_embedding, 0, stream[block(component)].start) for component in components]
    return _placed([(_token_rows(stream, layout.alphabet_size), 0, 0), *own], (layout.vocabulary_size, stream.d_model))


def _positions(components: Sequence[Component], stream: ResidualStream, layout: Layout) -> Sparse:
    """P: the role of each position and the code of its example; each component's own in its block."""
    shape = layout.positions, stream.d_model
    rows: Array = np.zeros(shape, dtype=np.float32)
    example, place = np.divmod(np.arange(1, layout.positions) - 1, layout.inputs + 2)
    rows[1:, stream["example_index"].coordinates] = binary_code(layout.examples + 1)[example]
    for role, at in (("x", place < layout.inputs), ("eq", place == layout.inputs), ("y", place == layout.inputs + 1)):
        rows[1:, stream[f"role_{role}"].start] = at
    where = np.nonzero(rows)
    frame = sparse_matrix(rows[where], where[0], where[1], shape)
    own = [
        (component.weights.position_embedding[: layout.positions], 0, stream[block(component)].start)
        for component in components
    ]
    return _placed([(frame, 0, 0), *own], (layout.positions, stream.d_model))


def _placed(parts: Sequence[tuple[Sparse, int, int]], shape: tuple[int, int]) -> Sparse:
    """A matrix with each part at its row and column."""
    rows, columns = [np.zeros(0, dtype=np.int_)], [np.zeros(0, dtype=np.int_)]
    values: list[NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)]
    for part, row, column in parts:
        entries = part.tocoo()
        rows.append(entries.coords[0].astype(np.int_) + row)
        columns.append(entries.coords[1].astype(np.int_) + column)
        values.append(entries.data)
    return sparse_matrix(np.concatenate(values), np.concatenate(rows), np.concatenate(columns), shape)


def _describe_components(components: Sequence[Component]) -> list[Circuit]:
    circuits = []
    for layer in range(max(component.depth for component in components)):
        for kind in ("attention", "mlp"):
            for component in components:
                if layer >= component.depth:
                    continue
                own = component.weights.layers[layer]
                units = own.attention.query.shape[0] if kind == "attention" else own.mlp.w_in.shape[1]
                where = (block(component),)
                says = f"layer {layer + 1} of {component.depth} of the component, as it is"
                if units:
                    circuits.append(Circuit(layer + 1, kind, block(component), int(units), where, where, 0.0, says))
    return circuits
