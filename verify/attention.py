"""The attention lemmas: what every head attends to, for all prompts, from the scores of classes of positions."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from construct.transformer import AttentionWeights
from verify.boxes import Box, Roles
from verify.exact import INFLATION, Float, common_slack, exp_upper, rounding_slack

NEAR = 1.0
"""An input whose score is within this of an example's best is a target of the head, not a leak."""

PAIRS = 4_000_000
"""Up to so many pairs of positions the leak is added up pair by pair; beyond, by a product over coordinates."""


@dataclass(frozen=True)
class HeadFacts:
    """What was proved of one read head, for every prompt.

    Args:
        targets: the input places it attends to, in the query's own example; empty where none is common to all.
        leak_eq: for the EQ of each example, an upper bound of the attention elsewhere, shape [m + 1].
        leak_y: the same for each y, shape [m].
        values: what a token's attended position adds to the stream, shape [V + 2, d_model].
        spread: how far the attended position itself can change that, shape [d_model].
        margin: the least score of a target less any other's (the pair-by-pair sum only), else NaN.
    """

    targets: tuple[int, ...]
    leak_eq: Float
    leak_y: Float
    values: Float
    spread: Float
    margin: float

    @cached_property
    def columns(self) -> NDArray[np.int_]:
        """The coordinates that the head writes."""
        return np.flatnonzero(np.abs(self.values).max(axis=0) + self.spread)

    @property
    def largest_leak(self) -> float:
        """The largest leak at any EQ or y."""
        return float(max(self.leak_eq.max(), self.leak_y.max(initial=0.0)))


def read_head_facts(roles: Roles, weights: AttentionWeights, head: int) -> HeadFacts:
    """Lemma 1: every EQ and y attends to fixed inputs of its own example, up to a leak.

    Pre: the stream is X = E + P, exactly.
    Post: for the EQ or y of example i, in every prompt, attention on the inputs `targets` of example i is spread
        evenly (up to what is counted as leak) and attention elsewhere is at most leak_eq[i] or leak_y[i].
    Cost: O(T d_qk n) for the product, O(m T d_qk) pair by pair where that is small.

    The score of a key is at most (centre . centre) + slack, where the boxes hold what depends on the tokens. Keys
    are weighed relative to the target, by upper bounds of exp; causality only removes keys.
    """
    query = weights.query[head].astype(np.float64)
    key = weights.key[head].astype(np.float64)
    position_query, position_key = roles.position @ query, roles.position @ key
    content_query, content_key = _box(roles.content @ query), _box(roles.content @ key)
    special_query, special_key = roles.token[roles.layout.bos :] @ query, roles.token[roles.layout.bos :] @ key

    keys = position_key.copy()
    keys[roles.x] += content_key.centre
    keys[roles.y] += content_key.centre
    keys[0] += special_key[0]
    keys[roles.eq] += special_key[1]
    asked_eq = position_query[roles.eq] + special_query[1]
    asked_y = position_query[roles.y] + content_query.centre
    stream = np.concatenate([roles.position.data, roles.token.data])
    slack = rounding_slack([query, key, stream, stream], 4 * len(query) ** 2)
    slack_eq = np.abs(asked_eq) @ content_key.radius * INFLATION + slack
    slack_y = np.abs(asked_y) @ content_key.radius + content_query.radius @ (np.abs(keys).max(axis=0))
    slack_y = (slack_y + content_query.radius @ content_key.radius) * INFLATION + slack

    own_eq = np.einsum("id,ijd->ij", asked_eq, keys[roles.x])
    own_y = np.einsum("id,ijd->ij", asked_y, keys[roles.x[:-1]])
    targets = _targets(own_eq, own_y)
    value = weights.value[head].astype(np.float64)
    output = weights.output[head].astype(np.float64)
    values = (roles.token @ value) @ output
    position_values = roles.position @ value
    spread = np.abs(position_values @ output).max(axis=0) if position_values.any() else np.zeros(output.shape[1])
    spread = spread + rounding_slack([value, output, stream], 2 * value.size) * output.any(axis=0)
    if not targets:
        return HeadFacts((), np.ones(len(own_eq)), np.ones(len(own_y)), values, spread, 0.0)
    places = np.array(targets)
    leaks, margins = [], []
    for asked, own, extra, at in (
        (asked_eq, own_eq, slack_eq, roles.eq),
        (asked_y, own_y, slack_y, roles.y),
    ):
        best = own[:, places].min(axis=1, initial=np.inf) if len(own) else np.zeros(0)
        uneven = np.zeros(len(own))
        if len(places) > 1 and len(own):
            apart: Float = own[:, places].max(axis=1) - best + 2 * extra
            uneven = np.expm1(apart)
        if len(asked) * len(keys) <= PAIRS:
            weight, margin = _pairwise(roles, asked, keys, best, at, places)
        else:
            weight, margin = _product(roles, asked, keys, best, places), float("nan")
        weight = weight * exp_upper(2 * extra) / len(places) * INFLATION
        leaks.append(np.minimum(1.0, (weight / (1 + weight) + uneven) * INFLATION))
        margins.append(margin)
    return HeadFacts(targets, leaks[0], leaks[1], values, spread, min(margins))


def _targets(own_eq: Float, own_y: Float) -> tuple[int, ...]:
    """The inputs whose scores are near the best in every example, if they are the same ones in each."""
    scores = np.concatenate([own_eq, own_y])
    near = scores >= scores.max(axis=1, keepdims=True) - NEAR
    return tuple(np.flatnonzero(near[0]).tolist()) if (near == near[0]).all() else ()


def _pairwise(
    roles: Roles, asked: Float, keys: Float, best: Float, at: NDArray[np.int_], places: NDArray[np.int_]
) -> tuple[Float, float]:
    """The weight of all keys but the targets, relative to a target, and the least margin."""
    if not len(asked):
        return np.zeros(0), np.inf
    below = asked @ keys.T - best[:, None]
    elsewhere = np.arange(len(keys))[None, :] <= at[:, None]
    np.put_along_axis(elsewhere, roles.x[: len(asked)][:, places], values=False, axis=1)
    weights = np.where(elsewhere, exp_upper(np.where(elsewhere, below, 0.0)), 0.0)
    return weights.sum(axis=1) * INFLATION, float(-below[elsewhere].max(initial=-np.inf))


def _product(roles: Roles, asked: Float, keys: Float, best: Float, places: NDArray[np.int_]) -> Float:
    """An upper bound of the same: in each class of positions, the keys are among a product of coordinate values.

    The sum of exp(q . k) over a product set is the product over coordinates of sums over their values, so nothing
    is enumerated. A class whose rows repeat is counted as often as its most frequent row.
    """
    total = np.zeros(len(asked))
    inputs = [(place, keys[roles.x[:, place]]) for place in range(roles.layout.inputs)]
    for place, rows in [*inputs, (-1, keys[roles.eq]), (-1, keys[roles.y]), (-1, keys[:1])]:
        if not len(rows):
            continue
        frequency = int(np.unique(rows, axis=0, return_counts=True)[1].max())
        # The constant coordinates and the target's score go into one exponent; the rest is a product of sums.
        constant = rows.min(axis=0) == rows.max(axis=0)
        exponent = asked[:, constant] @ rows[0, constant] - best
        grown = np.zeros(len(asked))
        for column in np.flatnonzero(~constant):
            scores = asked[:, [column]] * np.unique(rows[:, column])[None, :]
            scores.sort(axis=1)
            exponent = exponent + scores[:, -1]
            grown = grown + np.log1p(exp_upper(scores[:, :-1] - scores[:, -1:]).sum(axis=1)) * INFLATION
        if place in places and frequency == 1:
            # Less the target itself, which is in the product with weight at least 1.
            total += np.expm1(grown + np.maximum(exponent, 0.0))
        else:
            total += frequency * np.exp(grown) * exp_upper(exponent)
    return np.asarray(total * INFLATION, dtype=np.float64)


@dataclass(frozen=True)
class AverageFacts:
    """What was proved of the averaging head, for every prompt.

    Args:
        leak: for the EQ after m' examples, an upper bound of the attention elsewhere than at y, shape [m + 1];
            entry 0 is 1.
        uneven: how far the weights of two y can differ, relatively.
        shares: by role, an upper bound of the attention that its positions get together, shape [m + 1].
    """

    leak: Float
    uneven: float
    shares: dict[str, Float]


def average_facts(roles: Roles, weights: AttentionWeights, head: int, states: dict[str, Box]) -> AverageFacts:
    """Lemma 3: every EQ spreads its attention evenly over the y before it, up to a leak.

    Pre: at every position of a role the stream lies in the role's box of `states`.
    Post: as `AverageFacts` says. One query meets all keys, so it is the differences of keys that count: relative to
        the centre of y's keys, a key of a role scores at most q . (k - k_y).
    Cost: O(d_model d_qk), by role.
    """
    query, key = weights.query[head].astype(np.float64), weights.key[head].astype(np.float64)
    asked = _image(states["eq"], query)
    rows = {role: _image(box, key) for role, box in states.items()}
    reference = rows["y"].centre
    scores = {}
    for role, box in rows.items():
        difference = box.centre - reference
        centre = float(asked.centre @ difference)
        slack = float(asked.radius @ np.abs(difference) + (np.abs(asked.centre) + asked.radius) @ box.radius)
        terms = len(reference)
        lost = common_slack([([asked.centre, box.centre], terms), ([asked.centre, reference], terms)])
        slack = slack * INFLATION + lost
        scores[role] = (centre - slack, centre + slack)
    layout, shown = roles.layout, np.arange(roles.layout.examples + 1)
    counts = {"bos": np.ones(len(shown)), "x": (shown + 1.0) * layout.inputs, "eq": shown + 1.0, "y": shown + 0.0}
    shares = {}
    for role, count in counts.items():
        # The share is largest where this role scores as high, the others as low, as they can.
        others = np.zeros(len(shown))
        for other, number in counts.items():
            if other != role:
                gap = scores[role][1] - scores[other][0]
                others += number / float(exp_upper(np.array([gap]))[0])
        with np.errstate(invalid="ignore"):
            shares[role] = np.where(count > 0, np.minimum(1.0, count / (count + others) * INFLATION), 0.0)
    away = np.minimum(1.0, shares["bos"] + shares["x"] + shares["eq"])
    away[0] = 1.0
    low, high = scores["y"]
    apart = high - low
    return AverageFacts(away, math.expm1(apart) * INFLATION if apart < 600 else math.inf, shares)


def _box(rows: Float) -> Box:
    high, low = rows.max(axis=0), rows.min(axis=0)
    return Box((high + low) / 2, (high - low) / 2 * INFLATION)


def _image(box: Box, matrix: Float) -> Box:
    """The box of a box's image under a matrix."""
    radius = box.radius @ np.abs(matrix) * INFLATION
    return Box(box.centre @ matrix, radius + rounding_slack([box.centre, matrix], len(matrix)))
