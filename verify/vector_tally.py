"""Lemmas 3 and 4: at every EQ the share of BOS beside c examples, and the logarithm of c; at every y the agreement."""

from dataclasses import dataclass, replace

import numpy as np

from verify.boxes import Box
from verify.certificate import Violation
from verify.exact import INFLATION, Float, exp_upper
from verify.vector_compare import Excess
from verify.vector_machine import ABSENT, SLACK, project, reach, sum_loss
from verify.vector_scores import halves
from verify.vector_state import ROLES, States, hidden, value_box


@dataclass(frozen=True)
class Count:
    """What was proved of one task's count, at every EQ of every prompt.

    Args:
        share: the box of s_k at the EQ where c examples follow the task, c = 0 to m, shape [m + 1].
        logarithm: the box of L_k = log(c/c0), likewise; the last head adds log c0.
        agree: the box of a_k at the y of an example that follows the task, shape [].
        disagree: the same for one that does not.
    """

    share: Box
    logarithm: Box
    agree: Box
    disagree: Box


def counts(
    after_first: States, after_second_attention: States, excesses: list[Excess]
) -> tuple[list[Count], list[Violation]]:
    """Lemmas 3 and 4 for every task."""
    construction = after_first.construction
    found, violations = [], []
    values = [_values(after_first, head) for head in range(construction.weights.heads[1])]
    moved = _written(after_first)
    for index, task in enumerate(construction.task_set.tasks):
        own = [{role: Box(box.centre[index], box.radius[index]) for role, box in value.items()} for value in values]
        share, reason = _share(after_first, index, excesses[index], own)
        if reason:
            where = f"layer 2, attention, task {task.name!r}"
            violations.append(Violation("tally", where, "BOS beside the examples that follow the task", reason))
        logarithm = _logarithm(after_second_attention, index, share)
        agree, disagree = (
            _agreement(after_second_attention, index, excesses[index], moved, follows=f) for f in (True, False)
        )
        if agree.centre - agree.radius < 0.5 or disagree.centre + disagree.radius > 0.5:
            where = f"layer 2, mlp, task {task.name!r}"
            got = f"{agree.centre:.3g} and {disagree.centre:.3g}"
            violations.append(Violation("agreement", where, "1 where an example follows, 0 where not", got))
        found.append(Count(share, logarithm, agree, disagree))
    return found, violations


def _share(states: States, index: int, excess: Excess, values: list[dict[str, Box]]) -> tuple[Box, str]:
    """Lemma 3: s_k from the scores of the roles, relative to BOS.

    The excess of examples is the one coordinate that the boxes are too coarse for: it is `excess` where an example
    follows the task; where it does not, its weight is that of the least excess, provided that more excess scores less.
    """
    construction = states.construction
    layout, attention = construction.layout, construction.weights.layers[1].attention
    at, to = construction.stream["excess"].start + index, construction.stream["share"].start + index
    head = int(np.argmax([abs(value["bos"].centre) for value in values]))
    query, key = halves(attention, head)
    asked = project(states.machine, states.box("eq"), query, states.grid)
    boxes = {role: states.box(role) for role in ("bos", "x", "eq")}
    boxes["follows"] = _with(states.box("y"), at, excess.low, excess.high)
    boxes["not"] = _with(states.box("y"), at, excess.least, excess.least)
    scores = {}
    for name, box in boxes.items():
        scores[name] = _score(states, asked, box, key)
    slope = asked.centre @ key[at] + asked.radius @ np.abs(key[at])
    m = layout.examples
    nothing = Box(np.full(m + 1, 0.5), np.full(m + 1, 0.5))
    if slope > 0:
        return nothing, "a larger excess gives more attention"
    sink = scores["bos"]
    above = {name: high - sink[0] for name, (_, high) in scores.items()}
    below = scores["follows"][0] - sink[1]
    if max(above.values()) > 50 or below < -50:
        return nothing, f"scores differ from that of BOS by {max(above.values()):.3g} and {below:.3g}"
    weigh = {name: float(exp_upper(np.array([value]))[0]) for name, value in above.items()}
    far = states.machine.far
    extra = far * (m * weigh["not"] + (m + 1) * layout.inputs * weigh["x"] + (m + 1) * weigh["eq"]) * INFLATION
    c = np.arange(m + 1.0)
    # Rounding: two exponentials near 0, their sum (every partial sum is at most the whole), and the division.
    unit = states.machine.unit
    relative = (
        2 * states.machine.exponential(1.0) * (abs(above["follows"]) + abs(below) > 0) + 2 * unit
    ) + c * unit * ((abs(above["follows"]) + abs(below) > 0) + 0.0)
    # A handful of float64 operations each, so that SLACK covers them; more would be felt in the logarithm.
    most = 1 / (1 + c * np.exp(below)) * (1 + relative) * (1 + SLACK)
    twice = 2.0 if unit else 1.0  # rounding the sum loses of a tiny term no more than the term
    least = 1 / (1 + c * weigh["follows"] + twice * extra) * (1 - relative) / (1 + SLACK)
    others = [values[number] for number in range(len(values)) if number != head]
    prior = float(reach(states.box("eq"))[to]) + sum(_size(value) for value in others)
    own = values[head]
    bos = own["bos"]
    high = most * (bos.centre + bos.radius) + (1 - np.minimum(least, 1.0)) * max(_top(own[r]) for r in ("x", "eq", "y"))
    low = least * (bos.centre - bos.radius) - (1 - np.minimum(least, 1.0)) * max(_top(own[r]) for r in ("x", "eq", "y"))
    if bos.centre - bos.radius < 0:
        return nothing, f"BOS has the value {bos.centre:.3g}"
    high, low = high * (1 + 4 * unit) + prior, low * (1 - 4 * unit) - prior
    return Box((high + low) / 2, (high - low) / 2 * INFLATION + SLACK), ""


def _score(states: States, asked: Box, box: Box, key: Float) -> tuple[float, float]:
    """Bounds on the score of one box of queries with the keys of one box of states.

    Key and score are sums of products, each off by a share of itself: where no product can be positive the score is
    not, however large it may be. (At inputs an excess may be anything from 0 on, and only takes from the score.)
    """
    low, high = _products(states, box.centre - box.radius, box.centre + box.radius, key)
    corners = [(asked.centre + sign * asked.radius) * part for sign in (-1.0, 1.0) for part in (low, high)]
    bottom, top = np.min(corners, axis=0), np.max(corners, axis=0)
    first, last = _products(states, bottom, top, np.ones((len(bottom), 1)))
    return float(first[0]), float(last[0])


def _products(states: States, low: Float, high: Float, matrix: Float) -> tuple[Float, Float]:
    """Bounds on sums of products of x in [low, high] with a matrix, as computed, each column a sum of its own."""
    live = ((low != 0) | (high != 0)).astype(np.float64)
    terms = live @ (matrix != 0).astype(np.float64)
    loss = (terms + 2) * (SLACK + states.machine.unit)

    def upper(bottom: Float, top: Float) -> Float:
        positive, negative = np.maximum(matrix, 0.0), np.maximum(-matrix, 0.0)
        gains = np.maximum(top, 0.0) @ positive + np.maximum(-bottom, 0.0) @ negative
        losses = np.maximum(-top, 0.0) @ positive + np.maximum(bottom, 0.0) @ negative
        return np.asarray(gains * (1 + loss) - losses * np.maximum(1 - loss, 0.0))

    return -upper(-high, -low), upper(low, high)


def _logarithm(states: States, index: int, share: Box) -> Box:
    """Lemma 4 at EQ: L_k as a function of the share, the units as they are, and what else goes into them as a rest."""
    construction = states.construction
    mlp, stream = construction.weights.layers[1].mlp, construction.stream
    at, to = stream["share"].start + index, stream["log_count"].start + index
    column = mlp.w_out.astype(np.float64)[:, [to]].tocoo()
    writers, out = column.coords[0].astype(np.int_), column.data
    w_in = mlp.w_in.astype(np.float64).tocsc()
    box = states.box("eq")
    fixed = _with(box, at, 0.0, 0.0)
    part = w_in[:, writers]
    weight = abs(part)
    constant = fixed.centre @ part + mlp.bias_in[writers]
    size = reach(fixed) @ weight + np.abs(mlp.bias_in[writers])
    slope = np.asarray(w_in[[at]][:, writers].toarray()).ravel()
    live = (reach(fixed) > 0).astype(np.float64)
    pattern = weight.copy()
    pattern.data = np.ones_like(pattern.data)
    terms = live @ pattern + 1
    # In float64: `terms` additions, the share, its product and its addition, 2^-53 each.
    rest = fixed.radius @ weight + SLACK * (terms + 1) / 4 * (size + np.abs(slope))
    shares = 1.0 / (1.0 + np.arange(construction.layout.examples + 1.0))
    apart = np.abs(share.centre - shares) + share.radius
    middle = np.maximum(shares[:, None] * slope + constant, 0.0)
    upper = np.maximum(shares[:, None] * slope + constant + apart[:, None] * np.abs(slope) + rest, 0.0)
    active = (upper > 0).astype(np.float64)
    centre = middle @ out
    radius = apart * (active @ np.abs(out * slope)) + active @ (np.abs(out) * rest)
    radius = radius + SLACK * (active.sum(axis=1) + 4) * (upper @ np.abs(out))
    if states.machine.unit:
        # A unit sums the share and its bias, and whatever else is not 0 there; then the active units are added up.
        each = (terms + 1) * (size + shares[:, None] * np.abs(slope)) * states.machine.unit
        each = np.where((np.abs(slope) == 1) & (terms == 1), states.machine.unit * upper, each)
        radius = radius + (active * each) @ np.abs(out)
        constant_out = np.full((len(shares), 1), abs(float(mlp.bias_out[to])))
        radius = radius + states.machine.unit * sum_loss(np.concatenate([upper * np.abs(out), constant_out], axis=1))
    prior = box.centre[to] + mlp.bias_out[to]
    stored = states.machine.unit * reach(box)[to] * 4
    return Box(centre + prior, (radius + box.radius[to] + stored) * INFLATION)


def _written(states: States) -> Float:
    """The most that the heads of layer 2 can write at y, by coordinate, in either direction."""
    attention = states.construction.weights.layers[1].attention
    every = [
        np.max([reach(value_box(states, attention, head, role)) for role in ROLES], axis=0)
        for head in range(len(attention.query))
    ]
    total = np.sum(every, axis=0)
    lost = states.machine.unit * ((len(every) + 1) * total + reach(states.box("y")))
    return np.asarray((total + np.where(total > 0, lost, 0.0)) * INFLATION)


def _agreement(states: States, index: int, excess: Excess, moved: Float, *, follows: bool) -> Box:
    """Lemma 4 at y: a_k where an example follows the task, or where it does not, however large its excess.

    `moved` is how far the heads of layer 2 can have moved the excess.
    """
    construction = states.construction
    mlp, stream = construction.weights.layers[1].mlp, construction.stream
    at, to = stream["excess"].start + index, stream["agreement"].start + index
    column = mlp.w_out.astype(np.float64)[:, [to]].tocoo()
    writers, out = column.coords[0].astype(np.int_), column.data
    whole = states.box("y")
    largest = float(reach(whole)[at])
    apart = float(moved[at])
    least, most = (excess.low, excess.high) if follows else (excess.least, max(largest, excess.least))
    bounds = least - apart, most + apart
    # The bounds are of the whole coordinate, what stands there by the position included.
    added, places = _with(states.added["y"], at, *bounds), _with(states.places["y"], at, 0.0, 0.0)
    known = replace(states, added={**states.added, "y": added}, places={**states.places, "y": places})
    units = hidden(known, mlp, "y")
    low, high = np.maximum(units.low[writers], 0.0), np.maximum(units.high[writers], 0.0)
    lost = (len(writers) + 1) * states.machine.unit * (np.count_nonzero(high) > 1 or not (np.abs(out) == 1).all())
    positive, negative = np.maximum(out, 0.0), np.maximum(-out, 0.0)
    prior = whole
    base, spread = float(prior.centre[to] + mlp.bias_out[to]), float(prior.radius[to])
    top = base + spread + float(high @ positive - low @ negative) * 1.0 + lost * float(high @ np.abs(out))
    bottom = base - spread + float(low @ positive - high @ negative) * 1.0 - lost * float(high @ np.abs(out))
    if top == bottom == 0.0:
        return Box(np.array(0.0), np.array(0.0))
    return Box(np.array((top + bottom) / 2), np.array((top - bottom) / 2 + SLACK * (abs(top) + abs(bottom))))


def _with(box: Box, at: int, low: float, high: float) -> Box:
    """The box with one coordinate from low to high."""
    centre, radius = box.centre.copy(), box.radius.copy()
    centre[at] = (low + high) / 2
    radius[at] = max(high - centre[at], centre[at] - low) * INFLATION
    return Box(centre, radius)


def _values(states: States, head: int) -> dict[str, Box]:
    """What a key of each role, fully attended, adds to the shares of all tasks."""
    attention, space = states.construction.weights.layers[1].attention, states.construction.stream["share"]
    value = attention.value[head].astype(np.float64)
    output = attention.output[head].astype(np.float64)[:, space.start : space.stop]
    inner = {role: project(states.machine, states.box(role), value, states.grid) for role in ("bos", "x", "eq", "y")}
    return {role: project(states.machine, box, output, np.full(len(output), ABSENT)) for role, box in inner.items()}


def _top(box: Box) -> Float:
    return np.asarray(np.abs(box.centre) + box.radius)


def _size(values: dict[str, Box]) -> float:
    return float(max(_top(value) for value in values.values()))
