"""Lemmas 1 and 2 for comparison by attention: the doubt at every y, and its excess.

The score of y with the input x of its own example is bilinear: y Q x with Q = (E Wq)(E Wk)', compared with Lambda A_k.
With | |v|^2 - 1 | <= nu for both, and G = A'A - I,

    <y, A x> = (|y|^2 + |x|^2 + x'G x - |y - A x|^2) / 2,

so the distance decides it, up to nu and |G|; Q - Lambda A_k and all other parts of the score are bounded by their
norms.
"""

import math

import numpy as np

from verify.boxes import Box
from verify.certificate import Violation
from verify.exact import INFLATION, Float, exp_upper
from verify.vector_compare import Excess
from verify.vector_machine import ABSENT, SLACK, project, reach
from verify.vector_scores import halves
from verify.vector_state import States


def doubts(states: States) -> tuple[list[Excess], list[Violation]]:
    """The excess of every task at every y."""
    construction = states.construction
    excesses, violations = [], []
    for index, task in enumerate(construction.task_set.tasks):
        at = construction.stream[f"fingerprint[{index}]"].start
        near, far = _doubt(states, index, at)
        excess = _excess(states, index, at, near, far)
        excesses.append(excess)
        if excess.least <= 0:
            got = f"a doubt of {far.centre - far.radius:.3g} or more, an excess of {excess.least:.3g}"
            where = f"layer 1, head and mlp of task {task.name!r}"
            violations.append(Violation("excess", where, "above 0 for each example that does not follow", got))
    return excesses, violations


def _doubt(states: States, index: int, at: int) -> tuple[Box, Box]:
    """What stands in a task's doubt at y: for an example that follows it, and for one a margin away."""
    construction, attention = states.construction, states.construction.weights.layers[0].attention
    task, comparison = construction.task_set.tasks[index], construction.comparison
    values = [_values(states, head, at) for head in range(len(attention.query))]
    head = int(np.argmax([abs(value["bos"].centre - value["x"].centre) for value in values]))
    query, key = halves(attention, head)
    asked, held = states.embedding @ query, states.embedding @ key
    bilinear = asked @ held.T
    matrix = task.matrix.astype(np.float64)
    scale = float((bilinear * matrix).sum() / (matrix**2).sum())
    gram = float(np.linalg.norm(matrix.T @ matrix - np.eye(len(matrix)))) + SLACK * matrix.size
    nu = comparison.norm_slack
    top = math.sqrt(1 + nu)
    off = float(np.linalg.norm(bilinear - scale * matrix)) * top**2 * INFLATION + SLACK * matrix.size * abs(scale)
    low = (2 - 2 * nu - (1 + nu) * gram - comparison.tolerance**2) / 2
    high = (2 + 2 * nu + (1 + nu) * gram - comparison.margin**2) / 2
    if scale <= 0:
        return Box(np.array(0.5), np.array(0.5)), Box(np.array(0.5), np.array(0.5))
    own_low, own_high = scale * low - off, scale * high + off
    most = (abs(scale) * math.sqrt(1 + gram) * top**2 + off) * INFLATION
    edges = _edges(states, query, key, task.position, asked, held, top)
    rounding = _score_rounding(states, query, key, top)
    target = Box(edges["target"].centre, edges["target"].radius + rounding)
    sink = Box(edges["bos"].centre, edges["bos"].radius + rounding)
    # Relative to BOS: every key but BOS and the target, and the target itself, near or far.
    others = float(
        sum(
            exp_upper(np.minimum(edges[name].centre + edges[name].radius + rounding + most - _low(sink), 700.0)).sum(
                axis=1
            )
            for name in ("x", "y", "eq")
        ).max(initial=0.0)
    )
    others *= states.machine.far * INFLATION
    ahead = float((target.centre - target.radius + own_low - sink.centre - sink.radius).min())
    behind = float((sink.centre - sink.radius - target.centre - target.radius - own_high).min())
    near_most = 1 / (1 + math.exp(min(ahead, 700.0)) / INFLATION) * INFLATION
    far_least = 1 / (1 + float(exp_upper(np.array([-behind]))[0]) + others) / INFLATION
    slack = 0.0 if not states.machine.unit else 200 * states.machine.unit
    # The leak takes from both; what it carries is among the other values.
    stray = others / (1 + others) if math.isfinite(others) else 1.0
    own = values[head]
    rest = sum(_size(value) for number, value in enumerate(values) if number != head)
    base = float(reach(states.fixed("y"))[at] + states.bounds["y"] * np.linalg.norm(states.embedding[:, at])) + rest
    return (
        _mixed(own, 0.0, near_most, stray, base + slack),
        _mixed(own, max(0.0, far_least), 1.0, stray, base + slack),
    )


def _mixed(values: dict[str, Box], low: float, high: float, stray: float, more: float) -> Box:
    """BOS's value with a share from low to high, the target's with the rest, and up to `stray` of any other."""
    corners = [
        share * (values["bos"].centre + sign * values["bos"].radius)
        + (1 - share) * (values["x"].centre + sign * values["x"].radius)
        for share in (low, high)
        for sign in (-1.0, 1.0)
    ]
    extra = 2 * stray * max(_one(value) for value in values.values()) + more
    bottom, top = min(corners) - extra, max(corners) + extra
    return Box(np.array((bottom + top) / 2), np.array((top - bottom) / 2 * INFLATION))


def _values(states: States, head: int, at: int) -> dict[str, Box]:
    """What a key of each role, fully attended, adds to one coordinate."""
    attention = states.construction.weights.layers[0].attention
    value, output = attention.value[head].astype(np.float64), attention.output[head].astype(np.float64)[:, [at]]
    found = {}
    for role in ("bos", "x", "eq", "y"):
        inner = project(states.machine, states.box(role), value, states.grid)
        box = project(states.machine, inner, output, np.full(len(output), ABSENT))
        found[role] = Box(box.centre[0], box.radius[0])
    return found


def _edges(
    states: States, query: Float, key: Float, place: int, asked: Float, held: Float, top: float
) -> dict[str, Box]:
    """The parts of the scores at y that are not bilinear in vectors, by key: position with position and vector.

    Shapes: target and bos [m, 1], x, y and eq [m, keys], with -inf where a key is the target or comes later.
    """
    layout = states.construction.layout
    at = states.positions("y")
    images = {role: states.position[states.positions(role)] @ key for role in ("bos", "x", "eq", "y")}
    queries = states.position[at] @ query
    extra = {role: reach(states.added[role]) @ np.abs(key) for role in images}
    more_query = reach(states.added["y"]) @ np.abs(query)
    result = {}
    for role, rows in images.items():
        centre = queries @ rows.T
        vector = states.bounds[role] > 0
        radius = np.linalg.norm(rows @ asked.T, axis=1)[None, :] * top
        radius = radius + (np.linalg.norm(queries @ held.T, axis=1)[:, None] * top if vector else 0.0)
        radius = radius + np.abs(queries) @ extra[role][:, None] + (more_query @ np.abs(rows).T)[None, :]
        radius = (
            radius
            + float(more_query @ extra[role])
            + float(more_query @ np.abs(held).sum(axis=0) + np.abs(asked).sum(axis=0) @ extra[role])
        )
        radius = radius + SLACK * len(query) * (np.abs(queries) @ np.abs(rows).T)
        seen = states.positions(role)[None, :] <= at[:, None]
        result[role] = Box(np.where(seen, centre, -np.inf), np.where(seen, radius * INFLATION, 0.0))
    rows_at = np.arange(len(at))
    target = rows_at * layout.inputs + place
    x = result["x"]
    result["target"] = Box(x.centre[rows_at, target][:, None], x.radius[rows_at, target][:, None])
    x.centre[rows_at, target], x.radius[rows_at, target] = -np.inf, 0.0
    return result


def _score_rounding(states: States, query: Float, key: Float, top: float) -> float:
    """The most that rounding moves a score at y.

    A score sum_l q_l k_l is off by what q, k and the sum itself lose: with a_l = sum_i |state_i| |Wq_il| >= |q_l|
    and b_l likewise, with t products in a column of Wq or Wk, at most

        u ((t + 1) sum_l a_l b_l + (t + 1) sum_l |q_l| b_l + (n + 1) sum_l |q_l| |k_l|).

    The parts of positions are taken entry by entry; those of vectors by norms: sum_l |q_l| b_l <= |Q| | |K| |, with the
    largest singular values of Q = E Wq and of the absolute values.
    """
    unit = states.machine.unit
    if not unit:
        return 0.0
    own = np.abs(states.embedding)
    added = {role: reach(states.added[role]) for role in ("bos", "x", "eq", "y")}
    largest = np.max([*added.values()], axis=0)
    asked = (np.abs(states.position[states.positions("y")]).max(axis=0, initial=0.0) + added["y"]) @ np.abs(query)
    held = (np.abs(states.position).max(axis=0, initial=0.0) + largest) @ np.abs(key)
    wide_query, wide_key = own @ np.abs(query), own @ np.abs(key)
    positions = float(asked @ held) + top * float(np.linalg.norm(wide_key @ asked) + np.linalg.norm(wide_query @ held))
    both = positions + top**2 * float(np.linalg.norm(wide_query @ wide_key.T, 2))
    sizes = float(np.linalg.norm(states.embedding @ query, 2)) * float(np.linalg.norm(wide_key, 2))
    once = positions + top**2 * sizes
    of_query, of_key = (int((matrix != 0).sum(axis=0).max(initial=0)) for matrix in (query, key))
    total = (of_query + 1) * both + (of_key + query.shape[1] + 2) * once
    # What is lost of what is lost is less than a thousandth of it.
    return float(total * unit * 1.001 * INFLATION)


def _excess(states: States, index: int, at: int, near: Box, far: Box) -> Excess:
    """The units that write the excess, as functions of the doubt in its interval and a rest."""
    construction = states.construction
    mlp = construction.weights.layers[0].mlp
    to = construction.stream["excess"].start + index
    column = mlp.w_out.astype(np.float64)[:, [to]].tocoo()
    writers, out = column.coords[0].astype(np.int_), column.data
    if not len(writers):
        return Excess(0.0, 0.0, 0.0)
    w_in = mlp.w_in.astype(np.float64).tocsc()[:, writers].toarray()
    fixed = states.fixed("y")
    own = states.bounds["y"] * np.linalg.norm(states.embedding @ w_in, axis=0)
    rest_centre, rest_radius = fixed.centre.copy(), reach(Box(np.zeros(len(fixed.centre)), fixed.radius))
    # What other heads write at y is anything that they can: the doubts of the other tasks among it.
    written = _written(states)
    rest_radius = rest_radius + written
    rest_centre[at] = rest_radius[at] = 0.0
    constant = rest_centre @ w_in + mlp.bias_in[writers]
    radius = rest_radius @ np.abs(w_in) + own + 16 * SLACK * (np.abs(w_in).sum(axis=0) + 2)
    size = reach(Box(rest_centre, rest_radius)) @ np.abs(w_in) + own + np.abs(mlp.bias_in[writers]) + np.abs(w_in[at])
    radius = (radius + (np.count_nonzero(w_in, axis=0) + 2) * states.machine.unit * size) * INFLATION
    base = float(fixed.centre[to] + mlp.bias_out[to])
    spread = float(fixed.radius[to] + written[to]) + states.bounds["y"] * float(np.linalg.norm(states.embedding[:, to]))

    def extremes(doubt: Box) -> tuple[float, float]:
        middle = doubt.centre * w_in[at] + constant
        apart = doubt.radius * np.abs(w_in[at]) + radius
        low, high = np.maximum(middle - apart, 0.0), np.maximum(middle + apart, 0.0)
        positive, negative = np.maximum(out, 0.0), np.maximum(-out, 0.0)
        lost = (len(writers) + 2) * states.machine.unit
        top = float(high @ positive) * (1 + lost) - float(low @ negative) * (1 - lost)
        bottom = float(low @ positive) * (1 - lost) - float(high @ negative) * (1 + lost)
        return base - spread + bottom, base + spread + top

    low, high = extremes(near)
    least, _ = extremes(far)
    return Excess(min(0.0, low) * INFLATION, max(0.0, high) * INFLATION, least / INFLATION)


def _written(states: States) -> Float:
    """The most that the heads of layer 1 can write at y, by coordinate."""
    attention = states.construction.weights.layers[0].attention
    total = np.zeros(attention.output.shape[2])
    for head in range(len(attention.query)):
        value, output = attention.value[head].astype(np.float64), attention.output[head].astype(np.float64)
        sizes = []
        for role in ("bos", "x", "eq", "y"):
            inner = project(states.machine, states.box(role), value, states.grid)
            sizes.append(reach(project(states.machine, inner, output, np.full(len(output), ABSENT))))
        total += np.max(sizes, axis=0)
    return total * INFLATION


def _low(box: Box) -> Float:
    return np.asarray(box.centre - box.radius)


def _one(box: Box) -> float:
    return float(abs(box.centre) + box.radius)


def _size(values: dict[str, Box]) -> float:
    return max(_one(value) for value in values.values())
