"""Lemma 5, the attention: at every EQ each task's head gives the query's own input the weight c_k/m'."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.boxes import Box
from verify.exact import INFLATION, Float
from verify.vector_machine import SLACK, reach
from verify.vector_scores import Side, coefficient, copies, halves, products, scores, side
from verify.vector_state import ROLES, States
from verify.vector_tally import Count

EXP = 1 + 2.0**-45
"""What numpy's exp can be off (a few units of 2^-53), and the exponent's own rounding."""


@dataclass(frozen=True)
class Weighing:
    """What was proved of one task's head at the EQ after m' examples of which c follow the task, c <= m'.

    Args:
        place: the input that is read, of the query's own.
        high: the most attention that it gets, shape [m + 1, m + 1], by m' and c.
        error: how far it is from c/m' (0 for m' = 0) at the most, the same shape.
        elsewhere: the most attention on other inputs, on BOS and on EQ, the same shape.
        reason: why nothing was proved, empty otherwise.
    """

    place: int
    high: Float
    error: Float
    elsewhere: Float
    reason: str = ""


def weighing(states: States, head: int, index: int, count: Count) -> Weighing:
    """The attention of one head at every EQ.

    Pre: `states` before layer 3; `count` of the task. Post: as `Weighing` says, in every prompt. Cost: O(m T d_qk).
    """
    construction, machine = states.construction, states.machine
    layout, stream = construction.layout, construction.stream
    m, n = layout.examples, layout.inputs
    log_at = tuple(range(stream["log_count"].start + index, stream["log_count"].start + index + 1))
    agree_at = stream["agreement"].start + index
    query, key = halves(construction.weights.layers[2].attention, head)
    asked = side(states, query, "eq", without=log_at)
    # The logarithm is in the scores as an unknown times `slope`; at the target the slope is 1.
    logs = count.logarithm
    largest = float(reach(logs).max())
    found, slopes, held = {}, {}, {}
    for role in ROLES:
        held[role] = side(states, key, role, without=(agree_at,) if role == "y" else ())
        slopes[role] = coefficient(query, log_at[0], held[role])
        moved = float(reach(slopes[role]).max(initial=0.0)) * largest
        # At the inputs the rounding of the logarithm's product is added by `_product`.
        found[role] = scores(states, asked, held[role], more=0.0 if role == "x" else moved)
    at, rows = states.positions("eq"), np.arange(m + 1)
    own = found["x"].centre.reshape(m + 1, m + 1, n)[rows, rows]
    place = int(own.sum(axis=0).argmax())
    target = rows * n + place
    base = Box(found["x"].centre[rows, target], found["x"].radius[rows, target])
    slope = Box(slopes["x"].centre[target], slopes["x"].radius[target])
    together = products(asked, held["x"])[rows, target] + np.where(copies(held["x"])[target], 0.0, 1.0)
    low, high = _product(slope, logs, together * machine.unit)
    target_low, target_high = (base.centre - base.radius)[:, None] + low, (base.centre + base.radius)[:, None] + high
    # Other inputs hold the same logarithm, up to a difference of slopes: relative to the target it cancels.
    apart = np.abs(slopes["x"].centre - slope.centre[:, None]) + slopes["x"].radius + slope.radius[:, None]
    above = found["x"].centre + found["x"].radius - (base.centre - base.radius)[:, None] + apart * largest
    above = above + (query.shape[1] + 2) * machine.unit * 2 * largest * reach(slopes["x"]).max()
    seen = states.positions("x") <= at[:, None]
    seen[rows, target] = False
    others = _sum_exp(above, seen) * machine.far
    tops = {role: found[role].centre + found[role].radius + _most(slopes[role], logs) for role in ROLES}
    bottoms = {role: found[role].centre - found[role].radius - _most(slopes[role], logs) for role in ROLES}
    agreed = _unknown(asked, key[agree_at])
    agree, disagree = _times(agreed, count.agree), _times(agreed, count.disagree)
    earlier = states.positions("y") <= at[:, None]
    top_y = np.where(earlier, tops["y"], -np.inf).max(axis=1, initial=-np.inf)
    bottom_y = np.where(earlier, bottoms["y"], np.inf).min(axis=1, initial=np.inf)
    seen_eq = at <= at[:, None]
    sinks = _sum_exp(tops["bos"], np.ones_like(tops["bos"], dtype=np.bool_)) + _sum_exp(tops["eq"], seen_eq)
    if not (others.max() < 0.5 and np.abs(target_high).max() < 600 and (top_y + disagree[1]).max() < 600):
        worst = np.full((m + 1, m + 1), 1.0)
        got = f"other inputs than {place} get {others.max():.3g} of its weight, scores reach {target_high.max():.3g}"
        return Weighing(place, worst, worst, worst, got)
    with np.errstate(over="ignore"):
        follow = np.exp(top_y + agree[1]) * EXP
        differ = np.exp(bottom_y + disagree[0]) / EXP, np.exp(top_y + disagree[1]) * EXP
        bos = np.exp(bottoms["bos"][:, 0]) / EXP
        targets = np.exp(target_low) / EXP, np.exp(target_high) * EXP
    return _weigh(states, place, targets, differ, (follow * machine.far, sinks * machine.far, bos), others)


def _weigh(
    states: States,
    place: int,
    target: tuple[Float, Float],
    differ: tuple[Float, Float],
    rest: tuple[Float, Float, Float],
    others: Float,
) -> Weighing:
    """w = T / (T (1 + others) + (m' - c) S + c F + G), T the target, S an example that differs, F one that follows.

    As executed: one of the exponentials T and S is exact, the other off by e, so w by w (1 - w) e; the sum, over one T
    and m' - c times S,
    by `sum_weights` of its terms; the division by 2 u. What is tiny (others, F, G) counts twice.
    """
    m, machine = len(others) - 1, states.machine
    shown, c = np.arange(m + 1.0)[:, None], np.arange(m + 1.0)[None, :]
    valid = c <= shown
    apart = np.where(valid, shown - c, 0.0)
    follow, sinks, bos = (np.where(np.isfinite(part), part, 0.0)[:, None] for part in rest)
    least, most = (np.where(np.isfinite(part), part, 0.0)[:, None] for part in differ)
    # Rounding a sum loses of a term no more than the term itself.
    twice = 2.0 if machine.unit else 1.0
    tiny = twice * (c * follow + sinks) * INFLATION
    t_low, t_high = target
    s_low, s_high = apart * least, apart * most
    # For c = 0 the target is tiny itself; what stands against it is m' times S, or BOS alone.
    against = np.where(shown > 0, s_low, bos)
    high = np.where(c > 0, t_high / (t_high + s_low), t_high / np.maximum(against, 1e-300) * machine.far**2)
    low = np.where(c > 0, t_low / (t_low * (1 + twice * others[:, None]) + s_high + tiny), 0.0)
    high = np.minimum(high * (1 + SLACK), 1.0)
    if machine.unit:
        exponent = np.abs(np.log(t_high) - np.log(np.maximum(most, 1e-300)))
        e = (8 + 4 * np.minimum(exponent, 24.0)) * machine.unit
        both = e * np.maximum(high * (1 - high), low * (1 - low)) * (1 + e) + e**2
        # T once and S (m' - c) times, relative to their sum; one by one, the larger terms first, loses most.
        one, many = np.maximum(t_high, most), np.where(apart > 0, most, 0.0)
        summed = (apart * one + many * apart * (apart + 1) / 2) / (t_low + s_low + np.where(t_low + s_low > 0, 0, 1))
        lost = np.where(c > 0, np.where(apart > 0, both, 0.0) + high * (summed + 2) * machine.unit, 0.0)
        high, low = high + lost * 1.001, low - lost * 1.001
    wanted = np.where(valid, c / np.maximum(shown, 1.0), 0.0)
    error = np.where(valid, np.maximum(high - wanted, wanted - low), 0.0) * INFLATION + SLACK
    whole = np.maximum(t_low + s_low, 1e-300)
    elsewhere = np.where(c > 0, np.minimum(1.0, others[:, None] + tiny / whole), 1.0)
    return Weighing(place, np.where(valid, high, 0.0), error, np.where(valid, elsewhere, 0.0))


def _product(slope: Box, logs: Box, loss: Float) -> tuple[Float, Float]:
    """Bounds on slope times logarithm, each off by `loss` relatively, shape [m + 1, m + 1], by m' and c."""
    low, high = logs.centre - logs.radius, logs.centre + logs.radius
    corners = [
        (slope.centre + sign * slope.radius)[:, None] * part[None, :] for sign in (-1.0, 1.0) for part in (low, high)
    ]
    lost = (loss * reach(slope))[:, None] * reach(logs)[None, :] * INFLATION
    return np.min(corners, axis=0) - lost, np.max(corners, axis=0) + lost


def _most(slope: Box, logs: Box) -> Float:
    """How far the logarithm can move the scores of keys that should not hold it."""
    return reach(slope) * float(reach(logs).max()) * INFLATION


def _unknown(asked: Side, row: Float) -> Box:
    """What an unknown of 1 in one coordinate of a key adds to its scores, by query."""
    radius = asked.box.radius @ np.abs(row) * INFLATION + SLACK * len(row) * (reach(asked.box) @ np.abs(row))
    return Box(asked.box.centre @ row, radius)


def _times(factor: Box, unknown: Box) -> tuple[Float, Float]:
    corners = [
        (factor.centre + sign * factor.radius) * (unknown.centre + other * unknown.radius)
        for sign in (-1.0, 1.0)
        for other in (-1.0, 1.0)
    ]
    return np.min(corners, axis=0), np.max(corners, axis=0)


def _sum_exp(above: Float, seen: NDArray[np.bool_]) -> Float:
    """The sum over the keys that are seen of exp(above), rounded up."""
    with np.errstate(over="ignore"):
        return np.asarray(np.where(seen, np.exp(np.where(seen, above, -np.inf)), 0.0).sum(axis=1) * EXP * INFLATION)
