"""What is superposed: a causal transformer that performs one task inside each example, with its contract.

Contract of a component M with task g, in a layout (V, n, m): M is a transformer of the model class
(`construct.transformer`) over the same vocabulary and positions as the whole. For every prompt of at most m examples
and every EQ in it, with x the inputs before that EQ, its output o = X U, in R^V, separates g(x) from the rest:

    o_v >= high  for v = g(x),      o_v <= low  for every other v  (every v, where g has no answer on x),

with low < high. An output within eta of the one-hot code of the answer (of 0 where there is none), in the sup norm,
is such a contract with low = eta and high = 1 - eta: it needs eta < 1/2. No more can be allowed: at eta = 1/2 the
vector (1/2, .., 1/2) is both "no answer" and half of every answer, and no function of the output tells them apart.
Logits of any scale are a contract as well, if one threshold parts them. Nothing is asked of M elsewhere than at EQ.

A contract is a claim of whoever makes the component. `verify.superposition_contract` decides it on the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from construct.errors import TaskError, TooLargeError
from construct.prompts import Layout
from construct.tasks import SumTask, TableTask
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights

LOW, HIGH = 0.25, 0.75
"""The contract of a component whose output is one-hot up to eta = 1/4, as the hand-built ones are by far."""

NARROWEST = 2.0**-16
"""The least gap of a contract relative to its levels: thresholds are stored in float32."""

LARGEST_TABLE = 2**20
"""The most inputs that are run through to write a task as a table."""


class InExampleTask(Protocol):
    """A function of the inputs of one example."""

    @property
    def name(self) -> str:
        """What the task is called."""

    @property
    def reads(self) -> tuple[int, ...]:
        """The input positions that the answer depends on."""

    def answer(self, inputs: Sequence[int]) -> int | None:
        """The id of g(inputs), None where it has none; `inputs` are n ids."""


@dataclass(frozen=True)
class Component:
    """A transformer that performs one task, with its contract.

    Args:
        task: what it computes.
        weights: the transformer, as it is; its positions may go beyond those of the whole.
        low: the most that its output is at any token that is not the answer.
        high: the least that its output is at the answer.

    Raises:
        TaskError: low and high are no numbers with low well below high.
    """

    task: InExampleTask | SumTask
    weights: TransformerWeights
    low: float = LOW
    high: float = HIGH

    def __post_init__(self) -> None:
        """Check the levels."""
        largest = max(abs(self.low), abs(self.high))
        if not (np.isfinite(largest) and self.high - self.low > NARROWEST * largest):
            raise TaskError(
                f"component {self.task.name!r} has low {self.low:g} and high {self.high:g}: expected numbers with high "
                f"above low by more than {NARROWEST:.1e} of them; `sharpen` widens the gap of logits"
            )

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.weights.layers)


def check_fits(component: Component, layout: Layout) -> None:
    """Raise TaskError unless the component's vocabulary, positions and outputs are those of the layout."""
    weights, name = component.weights, component.task.name
    vocabulary, positions = int(weights.token_embedding.shape[0]), int(weights.position_embedding.shape[0])
    outputs = int(weights.unembedding.shape[1])
    for what, given, expected in (
        ("tokens", vocabulary, layout.vocabulary_size),
        ("outputs", outputs, layout.alphabet_size),
    ):
        if given != expected:
            raise TaskError(f"component {name!r} has {given} {what}, the layout {expected}: build it for this alphabet")
    if positions < layout.positions:
        raise TaskError(
            f"component {name!r} has {positions} positions, the layout {layout.positions}: build it for "
            f"{layout.examples} examples of {layout.inputs} inputs, or lift it with `in_context`"
        )
    if not component.depth:
        raise TaskError(f"component {name!r} has no layer: give it at least one, `no_heads` with no hidden units")


def reads_of(task: InExampleTask | SumTask) -> tuple[int, ...]:
    """The input positions that a task's answer depends on."""
    return task.positions if isinstance(task, SumTask) else task.reads


def as_table(task: InExampleTask | SumTask, layout: Layout) -> TableTask | SumTask:
    """The task as an artifact holds it: as it is, or as the table of all its answers.

    Raises:
        TooLargeError: there are more than LARGEST_TABLE inputs to run through.
    """
    if isinstance(task, TableTask | SumTask):
        return task
    count = layout.alphabet_size ** len(task.reads)
    if count > LARGEST_TABLE:
        raise TooLargeError(
            f"task {task.name!r} has {count:.3g} inputs, at most {LARGEST_TABLE:,} are written as a table: use the "
            "superposition itself and `superposed_answer`"
        )
    inputs, rows = [0] * layout.inputs, {}
    for key in product(range(layout.alphabet_size), repeat=len(task.reads)):
        for position, token in zip(task.reads, key, strict=True):
            inputs[position] = token
        answer = task.answer(inputs)
        if answer is not None:
            rows[key] = answer
    return TableTask(task.name, task.reads, rows)


def magnitudes(weights: TransformerWeights) -> list[NDArray[np.float64]]:
    """Bounds on |X| by coordinate, before each layer and after the last, at every position of all sequences of tokens.

    Per coordinate, |E| + |P| bounds the embedded stream. An attention head writes convex combinations of values, so
    at most a |Wv| |Wo| where a bounds the stream; a hidden unit is at most a |W1| + b1.
    """
    a = np.asarray(abs(weights.token_embedding).max(axis=0).toarray(), dtype=np.float64).ravel()
    a = a + np.asarray(abs(weights.position_embedding).max(axis=0).toarray(), dtype=np.float64).ravel()
    bounds = [a]
    for layer in weights.layers:
        written = np.zeros(len(a))
        for value, output in zip(layer.attention.value, layer.attention.output, strict=True):
            written += (a @ np.abs(value.astype(np.float64))) @ np.abs(output.astype(np.float64))
        a = a + written
        hidden = np.maximum(a @ abs(layer.mlp.w_in.astype(np.float64)) + layer.mlp.bias_in, 0.0)
        a = a + hidden @ abs(layer.mlp.w_out.astype(np.float64)) + np.abs(layer.mlp.bias_out)
        bounds.append(a)
    return bounds


def reach(weights: TransformerWeights) -> float:
    """A bound on |X U|_max at every position of every sequence of tokens, for the choice of a sharpness."""
    return float((magnitudes(weights)[-1] @ abs(weights.unembedding.astype(np.float64))).max(initial=0.0))


def no_heads(d_model: int) -> AttentionWeights:
    """The attention of a layer without heads."""
    wide, narrow = np.zeros((0, d_model, 1), dtype=np.float32), np.zeros((0, 1, d_model), dtype=np.float32)
    return AttentionWeights(wide, wide, wide, narrow)


def with_layers(weights: TransformerWeights, layers: Sequence[LayerWeights]) -> TransformerWeights:
    """The same embeddings and unembedding around other layers."""
    return TransformerWeights(weights.token_embedding, weights.position_embedding, tuple(layers), weights.unembedding)


def selected(mlp: MlpWeights, units: Sequence[int]) -> MlpWeights:
    """The MLP with some of its hidden units only."""
    chosen = np.asarray(units, dtype=np.int_)
    return MlpWeights(mlp.w_in[:, chosen].tocsr(), mlp.bias_in[chosen], mlp.w_out[chosen], mlp.bias_out)
