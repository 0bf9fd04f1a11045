"""The contract of a component, proved on its weights: by every input of an example, and a box around all the rest.

For the example of index i, whatever stands in the others, the stream at BOS and at the example's own positions is
followed in ball arithmetic for every choice of the inputs that the task reads; what it does not read is a box over
all tokens. Positions of the examples before enter as boxes over all that they can hold (`Outside`). A head's
attention to them is bounded by their scores: if it is a small leak the contract follows with the leak in the radius; if
it is not the radius is large and no contract follows. So locality is not assumed: it is part of what is found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from construct.errors import TooLargeError
from construct.prompts import Layout
from construct.superpose_component import InExampleTask, reads_of
from construct.tasks import SumTask
from construct.transformer import AttentionWeights, TransformerWeights
from verify.boxes import Box
from verify.superposition_balls import (
    UNDERFLOW,
    UNIT,
    at_most,
    between,
    ends,
    exp_lower,
    exp_upper,
    hull,
    hull_so_far,
    image,
    plus,
)
from verify.superposition_outside import Followed, Outside, after_mlp

LIMIT = 2**16
"""The most inputs of a task that are run through."""

BATCH = 2**20
"""Inputs are taken so many at a time that their scores are about this many."""


@dataclass(frozen=True)
class ContractFacts:
    """What was proved of a component's output at every EQ of every prompt.

    Args:
        low: the most that it is at any token that is not the answer.
        high: the least that it is at the answer; infinite for a task without answers.
        gap: the least difference between the answer's and another's, on the same input.
        leak: the most attention that a head gives at an EQ to other examples.
        inputs: the inputs run through, for each example's index.
    """

    low: float
    high: float
    gap: float
    leak: float
    inputs: int


def prove_contract(
    weights: TransformerWeights, task: InExampleTask | SumTask, layout: Layout, *, limit: int = LIMIT
) -> ContractFacts:
    """Bounds on the output at the EQ of every example of every prompt of at most m examples.

    The answers are those of the task's own function, called on every input that it reads.

    Cost: (m + 1) V^r forward passes of one example, r the number of positions read.

    Raises:
        TooLargeError: there are more than `limit` inputs.
    """
    reads = reads_of(task)
    count = layout.alphabet_size ** len(reads)
    if count > limit:
        raise TooLargeError(
            f"task {task.name!r} reads {len(reads)} inputs, {count:.3g} cases, and the limit is {limit:,}: raise the "
            "limit, or assume its contract"
        )
    batches = [(rows, _answers(task, rows)) for rows in _batches(task, layout)]
    low, high, gap, leak = -np.inf, np.inf, np.inf, 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        outside = Outside(weights, layout)
        for example in range(layout.examples + 1):
            followed = Followed(layout, reads)
            for rows, answers in batches:
                streams, lost = _streams(weights, layout, example, rows, reads, outside)
                followed.add(rows, streams)
                final = Box(streams[-1].centre[:, -1], streams[-1].radius[:, -1])
                below, above = ends(image(final, weights.unembedding.astype(np.float64)))
                right = np.arange(layout.alphabet_size) == answers[:, None]
                wrong = np.where(right, -np.inf, np.where(np.isnan(above), np.inf, above)).max(axis=1)
                correct = np.where(right, np.where(np.isnan(below), -np.inf, below), np.inf).min(axis=1)
                low, high = max(low, float(wrong.max())), min(high, float(correct.min()))
                gap, leak = min(gap, float((correct - wrong).min())), max(leak, lost)
            outside.follow(example, followed)
    return ContractFacts(low, high, gap * (1 - 2 * UNIT) if gap > 0 else gap, leak, count)


def _answers(task: InExampleTask | SumTask, rows: NDArray[np.int_]) -> NDArray[np.int_]:
    """The answer to each row, -1 for none."""
    return np.array([-1 if (answer := task.answer(row)) is None else answer for row in rows.tolist()])


def _batches(task: InExampleTask | SumTask, layout: Layout) -> Iterator[NDArray[np.int_]]:
    """All inputs of the task, shape [batch, n]; positions that it does not read hold token 0."""
    reads = reads_of(task)
    size = max(1, BATCH // (layout.positions * layout.alphabet_size * (layout.inputs + 2)))
    keys = product(range(layout.alphabet_size), repeat=len(reads))
    while part := list(islice(keys, size)):
        rows = np.zeros((len(part), layout.inputs), dtype=np.int_)
        rows[:, list(reads)] = part
        yield rows


def _streams(
    weights: TransformerWeights,
    layout: Layout,
    example: int,
    rows: NDArray[np.int_],
    reads: Sequence[int],
    outside: Outside,
) -> tuple[list[Box], float]:
    """BOS and an example's own positions, before each layer and after the last: [batch, n + 2, d]; the largest leak."""
    start = layout.input_position(example, 0)
    own = np.array([0, *range(start, start + layout.inputs + 1)])
    first = Box(outside.boxes[0].centre[own], outside.boxes[0].radius[own])
    anything = hull(first, axis=1)
    stream = Box(*(np.tile(part, (len(rows), 1, 1)) for part in (anything.centre, anything.radius)))
    for place in reads:
        token = rows[:, place]
        stream.centre[:, 1 + place] = first.centre[1 + place, token]
        stream.radius[:, 1 + place] = first.radius[1 + place, token]
    leak, streams = 0.0, [stream]
    for layer, others in zip(weights.layers, outside.others(example), strict=False):
        written = stream
        for head in range(layer.attention.query.shape[0]):
            out, lost = _head(layer.attention, head, stream, others, start - 1)
            written, leak = plus(written, out), max(leak, lost)
        stream = after_mlp(layer, written)
        streams.append(stream)
    return streams, leak


def _head(attention: AttentionWeights, head: int, stream: Box, others: Box, count: int) -> tuple[Box, float]:
    """What one head writes at each own position, shape [batch, n + 2, d], and its largest leak.

    `others` has a row for every token at each of `count` other positions.

    With own scores s_j in balls and N other keys of scores at most S, the probability of own key j is between
    low_j / (low_j + sum of the other highs + N exp(S)) and high_j / (high_j + sum of the other lows), and those of
    the others add up to at most N exp(S) / (N exp(S) + sum of the lows), everything relative to the largest s_j.
    """
    query, key, value, output = (
        part[head].astype(np.float64) for part in (attention.query, attention.key, attention.value, attention.output)
    )
    asked, keys, values = image(stream, query), image(stream, key), image(stream, value)
    scores = _products(asked, keys)
    positions = scores.centre.shape[-1]
    seen = np.tril(np.ones((positions, positions), dtype=np.bool_))
    reference = np.where(seen, scores.centre, -np.inf).max(axis=-1, keepdims=True)
    rounded = (np.abs(scores.centre) + np.abs(reference)) * UNIT
    below, above = ends(Box(scores.centre - reference, scores.radius + rounded))
    lows, highs = np.where(seen, exp_lower(below), 0.0), np.where(seen, exp_upper(above), 0.0)
    away = np.zeros(reference.shape)
    reach = np.zeros(value.shape[1])
    most_low, most_high = ends(hull_so_far(Box(np.moveaxis(values.centre, 1, 0), np.moveaxis(values.radius, 1, 0))))
    if count:
        elsewhere = _products(asked, image(others, key))
        best = ends(elsewhere)[1].max(axis=-1, keepdims=True)
        best = best - reference + (np.abs(best) + np.abs(reference)) * UNIT
        # BOS, in row 0, sees itself alone.
        away[:, 1:] = count * exp_upper(best)[:, 1:]
        fetchable = image(others, value)
        reach = at_most(fetchable).max(axis=0)
        out_low, out_high = ends(hull(fetchable))
        most_low[1:], most_high[1:] = np.minimum(most_low[1:], out_low), np.maximum(most_high[1:], out_high)
    grown = 1 + (positions + 8) * 4 * UNIT
    rest = 1 - np.eye(positions)
    with np.errstate(divide="ignore"):
        least = lows / ((lows + highs @ rest + away) * grown)
        most = np.minimum(1.0, highs / ((highs + lows @ rest) / grown))
        lost = np.minimum(1.0, away / ((away + lows.sum(axis=-1, keepdims=True)) / grown)) * grown
    # What is no number, as of scores too large for float64, is any probability.
    least = np.where(seen, np.nan_to_num(least / grown, nan=0.0), 0.0)
    most = np.where(seen, np.nan_to_num(most * grown, nan=1.0), 0.0)
    lost = np.nan_to_num(lost, nan=1.0)
    middle, spread = (least + most) / 2, (most - least) / 2 * grown + UNDERFLOW * seen
    centre = middle @ values.centre
    size = np.abs(values.centre)
    radius = spread @ size + (middle + spread) @ values.radius + middle @ size * ((positions + 4) * UNIT)
    low, high = ends(Box(centre, (radius + lost * reach) * grown + UNDERFLOW * (radius > 0)))
    # Whatever the probabilities, it is a convex combination of values.
    low = np.maximum(low, np.moveaxis(most_low, 0, 1))
    high = np.minimum(high, np.moveaxis(most_high, 0, 1))
    return image(between(low, high), output), float(lost[:, -1].max())


def _products(asked: Box, keys: Box) -> Box:
    """The scores q . k of all pairs, shape [batch, queries, keys]."""
    turned = replace(keys, centre=np.swapaxes(keys.centre, -1, -2), radius=np.swapaxes(keys.radius, -1, -2))
    size = np.abs(asked.centre) @ np.abs(turned.centre)
    terms = asked.centre.shape[-1]
    radius = np.abs(asked.centre) @ turned.radius + asked.radius @ (np.abs(turned.centre) + turned.radius)
    radius = (radius + size * ((terms + 2) * UNIT) + UNDERFLOW * (size > 0)) * (1 + (terms + 8) * 4 * UNIT)
    return Box(asked.centre @ turned.centre, radius)
