"""Lemmas 5 and 6 of a superposition: the weight of each component at EQ, and its product with the prediction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from verify.attention import AverageFacts, average_facts
from verify.boxes import Box, Roles
from verify.certificate import Violation
from verify.exact import INFLATION, Float, rounding_slack
from verify.superposition_balls import at_most, image, plus
from verify.superposition_blocks import Block, Judged
from verify.superposition_credit import CreditFacts
from verify.superposition_hinges import Hinge, Rectangle, farthest
from verify.superposition_state import constants, readers, written_by


@dataclass(frozen=True)
class WeightFacts:
    """What stands in the evidence at EQ before the last MLP.

    Args:
        average: what the head attends to.
        error: how far the weight of each component is from c_k/m', by m': shape [m + 1, K].
        low: the least weight of each component, shape [K].
        high: the greatest, shape [K].
        strays: what else the head can write at EQ, shape [d_model].
    """

    average: AverageFacts
    error: Float
    low: Float
    high: Float
    strays: Float


def weight_facts(judged: Judged, roles: Roles, credit: CreditFacts) -> WeightFacts:
    """Lemma 5: at every EQ the weight of component k is c_k/m', up to `error`.

    With the shares of `verify.attention.average_facts`: the y have all but `leak`, evenly up to `uneven`, and their
    credit is [y = g_k(x)] up to its error; the other roles add at most their share of their range, and the EQ its own.
    """
    attention = judged.weights.layers[-1].attention
    query, key, value, output = (
        part[0].astype(np.float64) for part in (attention.query, attention.key, attention.value, attention.output)
    )
    # Only coordinates that enter a score decide how finely the numbers lie.
    used = np.flatnonzero(query.any(axis=1) | key.any(axis=1))
    narrow = replace(attention, query=attention.query[:, used], key=attention.key[:, used])
    boxes = {role: Box(box.centre[used], box.radius[used]) for role, box in credit.states.items()}
    average = average_facts(roles, narrow, 0, boxes)
    evidence = judged.stream["evidence"]
    at = np.arange(evidence.start, evidence.stop)
    product: Float = value @ output
    lost = rounding_slack([value, output], value.shape[1])
    product[at, at] -= 1.0
    strays = np.zeros(len(product))
    for role, box in credit.states.items():
        within = at_most(box)
        share = float(average.shares[role].max())
        strays += share * (within @ np.abs(product) + within.sum() * lost) * INFLATION
    down, up = np.zeros((2, len(average.leak), len(at)))
    for role in ("bos", "x", "eq"):
        part = average.shares[role][:, None]
        down = down + part * np.maximum(-credit.low[role], 0.0)
        up = up + part * np.maximum(credit.high[role], 0.0)
    own_down, own_up = np.maximum(-credit.low["eq"], 0.0), np.maximum(credit.high["eq"], 0.0)
    astray = credit.error + strays[at]
    low = -(down + own_down + astray)
    high = up + own_up + astray + average.uneven
    missed = (average.leak + average.uneven)[:, None]
    missed[0] = 0.0  # without an example there is nothing to miss
    error = np.maximum(missed - low, high) * INFLATION
    return WeightFacts(average, error, low.min(axis=0) * INFLATION, 1 + high.max(axis=0) * INFLATION, strays)


@dataclass(frozen=True)
class GateFacts:
    """What the last MLP writes to the output at EQ.

    Args:
        error: for each component, how far what it adds is from w_k u[g_k(query)], in |.|_1.
        rest: what else is in the output at EQ, in |.|_1.
        violations: units of another form.
    """

    error: Float
    rest: float
    violations: tuple[Violation, ...]


def gate_facts(
    judged: Judged,
    blocks: Sequence[Block],
    before: Box,
    credit: CreditFacts,
    weight: WeightFacts,
    levels: tuple[Float, Float],
) -> GateFacts:
    """Lemma 6: at every EQ, component k adds its weight to its prediction and nothing elsewhere, up to `error`.

    Args:
        judged: what is judged.
        blocks: the components.
        before: the stream at EQ before the last two layers, over all EQ, shape [d_model].
        credit: of the layer before.
        weight: of the head before.
        levels: low and high of the components' contracts.

    A unit may read the weight of one component and its output at one token v: its weights on the block are a multiple
    of the functional that gives that output, and what they differ by goes into the error. So a component adds a
    sum over v of functions of (o_v, w_k), piecewise linear, whose largest difference to the claim is found exactly.
    """
    mlp = judged.weights.layers[-1].mlp
    evidence = judged.stream["evidence"]
    evidence_at = np.arange(evidence.start, evidence.stop)
    inside = np.concatenate([block.coordinates for block in blocks])
    state = plus(credit.states["eq"], Box(np.zeros(len(weight.strays)), weight.strays))
    moved = at_most(plus(credit.moved, Box(np.zeros(len(weight.strays)), weight.strays)))
    rows = np.setdiff1d(np.arange(judged.weights.d_model), np.concatenate([inside, evidence_at]))
    form = constants(mlp, state, rows, np.zeros((1, judged.weights.d_model)))
    output = (mlp.w_out.astype(np.float64) @ judged.weights.unembedding.astype(np.float64)).toarray()
    parts = _Parts(
        mlp.w_in.toarray().astype(np.float64), output, form.centre[0], form.slack, at_most(before), moved, evidence_at
    )
    violations, errors = [], []
    lost = rounding_slack([mlp.w_out.data, judged.weights.unembedding.data], 1 + output.shape[1])
    if lost:
        violations.append(Violation("gate", "the output of the last layer", "weights on a coarse grid", "finer ones"))
    taken = np.zeros(len(output), dtype=np.bool_)
    for number, block in enumerate(blocks):
        units = np.union1d(readers(mlp, evidence_at[[number]]), readers(mlp, block.coordinates))
        if taken[units].any():
            violations.append(Violation("gate", f"a unit of {block.name}", "one component a unit", "two"))
        taken[units] = True
        low, high = float(levels[0][number]), float(levels[1][number])
        errors.append(parts.error(number, block, units, (low, high), (weight.low[number], weight.high[number])))
    box = Box(state.centre.copy(), state.radius.copy())
    box.centre[evidence_at] = (weight.low + weight.high) / 2
    box.radius[evidence_at] = (weight.high - weight.low) / 2 * INFLATION
    rest = _rest(judged, box, np.flatnonzero(~taken))
    return GateFacts(np.array(errors), rest, tuple(violations))


def _rest(judged: Judged, state: Box, units: NDArray[np.int_]) -> float:
    """The output that is no component's: the stream, the bias, and units that read no component."""
    mlp, unembedding = judged.weights.layers[-1].mlp, judged.weights.unembedding.astype(np.float64)
    bias = mlp.bias_out.astype(np.float64)
    total = plus(plus(state, written_by(mlp, units, state)), Box(bias, np.zeros(len(bias))))
    read = np.flatnonzero(np.asarray(abs(unembedding).sum(axis=1)).ravel())
    return float(at_most(image(Box(total.centre[read], total.radius[read]), unembedding[read])).sum()) * INFLATION


@dataclass(frozen=True)
class _Parts:
    """The last MLP, taken apart.

    Args:
        w_in: W1, shape [d_model, units].
        output: W2 U, shape [units, V].
        constant: the units' constants at EQ, shape [units].
        slack: what they may be off, shape [units].
        before: a bound on the stream at EQ before the last two layers, shape [d_model].
        moved: a bound on what these layers write to it, shape [d_model].
        evidence: the coordinates of the evidence.
    """

    w_in: Float
    output: Float
    constant: Float
    slack: Float
    before: Float
    moved: Float
    evidence: NDArray[np.int_]

    def error(
        self,
        number: int,
        block: Block,
        units: NDArray[np.int_],
        levels: tuple[float, float],
        weights: tuple[float, float],
    ) -> float:
        """How far the component's units are from w_k u[g_k(query)], in |.|_1."""
        functional = block.weights.unembedding.toarray()
        alphabet = functional.shape[1]
        read = self.w_in[block.coordinates][:, units]
        which, factor, apart = _matched(read, functional, self.before[block.coordinates])
        slack = self.slack[units] + apart + np.abs(read).T @ self.moved[block.coordinates]
        total = float(np.abs(self.output[units]).sum(axis=1) @ slack) * INFLATION
        reach = self.before[block.coordinates] @ np.abs(functional) * INFLATION
        weight = self.w_in[self.evidence[number], units]
        on, off = [], []
        for v in range(-1, alphabet):
            chosen = np.flatnonzero(which == v)
            columns = np.union1d(np.flatnonzero(self.output[units[chosen]].any(axis=0)), [v] if v >= 0 else []).astype(
                int
            )
            hinges = tuple(
                Hinge(
                    float(factor[u]),
                    float(weight[u]),
                    float(self.constant[units[u]]),
                    tuple(self.output[units[u], columns].tolist()),
                )
                for u in chosen.tolist()
            )
            nothing = ((0.0, 0.0),) * len(columns)
            if v < 0:
                total += _far(hinges, Rectangle(0.0, 0.0, *weights), nothing)
                continue
            answer = tuple((0.0, float(column == v)) for column in columns.tolist())
            most = float(reach[v])
            low, high = min(levels[0], most), min(levels[1], most + 1)
            off.append(_far(hinges, Rectangle(-most, low, *weights), nothing))
            on.append(_far(hinges, Rectangle(high, most, *weights), answer))
        others = sum(off)
        return (total + others + max(max(0.0, one - other) for one, other in zip(on, off, strict=True))) * INFLATION


def _matched(read: Float, functional: Float, bound: Float) -> tuple[NDArray[np.int_], Float, Float]:
    """For each unit the token whose output it reads, the factor, and how far the rest of its weights can reach.

    -1 stands for a unit that reads nothing of the block.
    """
    which, factor = np.full(read.shape[1], -1), np.zeros(read.shape[1])
    apart = bound @ np.abs(read) * INFLATION
    for v in range(functional.shape[1]):
        at = int(np.abs(functional[:, v]).argmax())
        if not functional[at, v]:
            continue
        scale = read[at] / functional[at, v]
        multiple = functional[:, [v]] * scale
        exact = multiple == read
        # A product that is not exactly the weight is off by its own rounding too.
        difference = np.where(
            exact & _exactly(functional[:, [v]], scale), 0.0, np.abs(read - multiple) + np.abs(multiple) * 2.0**-52
        )
        left = bound @ difference * INFLATION
        better = (scale != 0) & ((left < apart) | ((which < 0) & (left == apart)))
        which[better], factor[better], apart[better] = v, scale[better], left[better]
    return which, factor, apart


def _exactly(column: Float, scale: Float) -> NDArray[np.bool_]:
    """Whether column * scale is exact: one of them is a power of two, or both fit 26 bits."""
    power = np.abs(np.frexp(scale)[0]) == 0.5
    short = (column == column.astype(np.float32)) & (scale == scale.astype(np.float32))
    return np.asarray(power | short | (scale == 0))


@lru_cache(maxsize=4096)
def _far(hinges: tuple[Hinge, ...], where: Rectangle, target: tuple[tuple[float, float], ...]) -> float:
    return float(farthest(hinges, where, target)) * INFLATION
