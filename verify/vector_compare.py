"""Lemmas 1 and 2: at every y, what each task makes of its input, and the excess of the difference.

At the y of an example the state after the reads is a linear form in y and the example's inputs, and a box. With D_k =
g_k(x) - y, every unit that writes an excess is written as alpha <F_i, D_k> + constant + rest, where the rest is bounded
over all inputs and answers in the domain. Nothing is assumed of which unit does what: alpha and i are read off the
weights, and what does not fit is in the rest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.vector_comparison import ATTENTION
from verify.boxes import Box
from verify.certificate import Violation
from verify.exact import INFLATION, Float, exp_upper
from verify.vector_machine import ABSENT, SLACK, add, project, reach
from verify.vector_scores import halves, scores, side
from verify.vector_state import States


@dataclass(frozen=True)
class Excess:
    """What was proved of the excess of one task, at every y of every prompt.

    Args:
        low: the excess of an example that follows the task is at least this,
        high: and at most this: both 0 in a construction as built.
        least: the excess of an example that does not follow it is at least this.
    """

    low: float
    high: float
    least: float


@dataclass(frozen=True)
class Read:
    """A head of layer 1 as seen from every y.

    Args:
        place: the input that is read, -1 where there is none.
        leak: the most attention that goes elsewhere.
    """

    place: int
    leak: float


def read_at_answers(states: States, head: int) -> Read:
    """Lemma 1: every y attends to one input of its own example, up to a leak.

    Post: attention elsewhere is at most `leak`, in every prompt. Cost: O(m T d_qk).
    """
    layout, attention = states.construction.layout, states.construction.weights.layers[0].attention
    query, key = halves(attention, head)
    asked = side(states, query, "y")
    if not len(asked.box.centre):
        return Read(0, 0.0)
    m, n = layout.examples, layout.inputs
    inputs = scores(states, asked, side(states, key, "x"))
    centre = inputs.centre.reshape(m, m + 1, n)
    own = centre[np.arange(m), np.arange(m)]
    place = int(own.sum(axis=0).argmax())
    target = np.arange(m) * n + place
    least = (inputs.centre - inputs.radius)[np.arange(m), target]
    total = np.zeros(m)
    at = states.positions("y")
    for role in ("bos", "x", "eq", "y"):
        found = inputs if role == "x" else scores(states, asked, side(states, key, role))
        above = found.centre + found.radius - least[:, None]
        seen = states.positions(role)[None, :] <= at[:, None]
        if role == "x":
            seen[np.arange(m), target] = False
        total += np.where(seen, exp_upper(np.where(seen, np.minimum(above, 700.0), -700.0)), 0.0).sum(axis=1)
    leak = float((total / (1 + total)).max()) * INFLATION * states.machine.far
    return Read(place, min(1.0, leak))


@dataclass(frozen=True)
class Forms:
    """The state at y after the reads: y L[-1] + sum_j x_j L[j] + box.

    Args:
        linear: source -> L, shape [d, d_model]; -1 is y, others are input places.
        rest: the box.
    """

    linear: dict[int, Float]
    rest: Box


def forms_at_answers(states: States, reads: list[Read]) -> Forms:
    """The state at y after the attention of layer 1, for heads that read one input each.

    A head adds (1 - leak) x L + leak (any other value): the leak moves it by at most leak times the sum of both sizes.
    """
    attention = states.construction.weights.layers[0].attention
    machine, roles = states.machine, ("bos", "x", "eq", "y")
    linear = {-1: states.embedding}
    parts = [states.fixed("y")]
    for head, read in enumerate(reads):
        value, output = attention.value[head].astype(np.float64), attention.output[head].astype(np.float64)
        form = states.embedding @ value @ output
        linear[read.place] = linear.get(read.place, 0.0) + form
        # The rest of the target's value, and what everything else could be.
        inner = project(machine, states.fixed("x"), value, states.grid)
        parts.append(project(machine, inner, output, np.full(len(output), ABSENT)))
        longest = max(states.bounds.values())
        norms = np.linalg.norm(form, axis=0)
        size = np.max([_most(states, value, output, role) for role in roles], axis=0)
        moved = read.leak * 2 * size + 2 * SLACK * longest * norms * len(value)
        if machine.unit:
            # The value is copied or summed, weighed (twice 2 u and the leak's sums), and summed over d_value terms.
            spread = longest * np.linalg.norm(np.abs(states.embedding) @ np.abs(value), axis=0)
            terms = (value != 0).sum(axis=0)
            copied = (np.where(terms <= 1, 0.0, terms + 1) + 6) * machine.unit * spread
            moved = moved + copied @ np.abs(output) + 2 * read.leak * size
            wide = _norm_through(states, value, output) * longest
            moved = moved + ((output != 0).sum(axis=0) + 1) * machine.unit * wide
        parts.append(Box(np.zeros_like(moved), moved * INFLATION))
    rest = add(parts)
    if machine.unit:
        written = np.any([np.any(form != 0, axis=0) for place, form in linear.items() if place >= 0], axis=0)
        size = reach(rest) + sum(
            states.bounds["y" if place < 0 else "x"] * np.linalg.norm(form, axis=0) for place, form in linear.items()
        )
        stored = np.where(written, (len(reads) + 1) * machine.unit * size, 0.0)
        rest = Box(rest.centre, rest.radius + stored * INFLATION)
    return Forms(linear, rest)


def _most(states: States, value: Float, output: Float, role: str) -> Float:
    """The largest that a key's value of a role can be, by coordinate, its vector taken by its norm."""
    inner = project(states.machine, states.fixed(role), value, states.grid)
    fixed = reach(project(states.machine, inner, output, np.full(len(output), ABSENT)))
    form = states.embedding @ value @ output
    return np.asarray(fixed + states.bounds[role] * np.linalg.norm(form, axis=0) * INFLATION)


def _norm_through(states: States, value: Float, output: Float) -> Float:
    """A bound, for a vector of norm 1, of the sum over the value's coordinates of |v| |output|, by coordinate."""
    form = np.abs(states.embedding @ value)
    if (np.count_nonzero(form, axis=0) <= 1).all() and (np.count_nonzero(form, axis=1) <= 1).all():
        # The value is a copy: |v| is as long as the vector.
        return np.asarray(np.linalg.norm(form.max(axis=0)[:, None] * np.abs(output), axis=0))
    return np.asarray(np.linalg.norm(form @ np.abs(output), axis=0))


def excesses(states: States, reads: list[Read]) -> tuple[list[Excess], list[Violation]]:
    """Lemma 2 for comparison by fingerprints: the excess of every task at every y."""
    construction = states.construction
    mlp, forms = construction.weights.layers[0].mlp, forms_at_answers(states, reads)
    w_in = mlp.w_in.astype(np.float64)
    units = {place: np.asarray(form @ w_in) for place, form in forms.linear.items()}
    weight = abs(w_in)
    constant = np.asarray(forms.rest.centre @ w_in + mlp.bias_in.astype(np.float64))
    radius = forms.rest.radius @ weight + 40 * SLACK * (reach(forms.rest) @ weight + np.abs(mlp.bias_in))
    radius = (radius + _unit_lost(states, forms)) * INFLATION
    found, violations = [], []
    for index, task in enumerate(construction.task_set.tasks):
        if construction.comparison.kind != ATTENTION and task.position not in {read.place for read in reads}:
            violations.append(
                Violation("reads", "layer 1", f"a head that reads input {task.position} at every y", "none")
            )
        excess, reason = _excess(states, forms, units, constant, radius, index)
        found.append(excess)
        if excess.least <= 0 or reason:
            got = reason or f"an example a margin away has an excess of {excess.least:.3g}"
            where = f"layer 1, mlp, task {task.name!r}"
            violations.append(Violation("excess", where, "above 0 for each example that does not follow", got))
    return found, violations


def _unit_lost(states: States, forms: Forms) -> Float:
    """The rounding of the hidden units at y, terms and sizes taken from the forms."""
    mlp, unit = states.construction.weights.layers[0].mlp, states.machine.unit
    if not unit:
        return np.zeros(mlp.w_in.shape[1])
    w_in, bias = abs(mlp.w_in.astype(np.float64)), np.abs(mlp.bias_in.astype(np.float64))
    norms = {place: np.linalg.norm(form, axis=0) for place, form in forms.linear.items()}
    live = reach(forms.rest) > 0
    most = reach(forms.rest) @ w_in + bias
    for place, norm in norms.items():
        live = live | (norm > 0)
        bound = states.bounds["y" if place < 0 else "x"]
        # A unit sums the absolute values of a form's coordinates: by norms, at most |form @ |w|| of unit columns.
        most = most + bound * np.linalg.norm(np.abs(forms.linear[place]) @ w_in, axis=0)
    pattern = w_in.copy()
    pattern.data = np.ones_like(pattern.data)
    terms = live.astype(np.float64) @ pattern + (bias > 0)
    return np.asarray((terms + 1) * unit * most * INFLATION)


def _excess(
    states: States, forms: Forms, units: dict[int, Float], constant: Float, radius: Float, index: int
) -> tuple[Excess, str]:
    """The excess of one task: its units matched with the rows of F."""
    construction = states.construction
    task, comparison, stream = construction.task_set.tasks[index], construction.comparison, construction.stream
    at = stream["excess"].start + index
    mlp = construction.weights.layers[0].mlp
    column = mlp.w_out.astype(np.float64)[:, [at]].tocoo()
    writers, out = column.coords[0].astype(np.int_), column.data
    base = Box(forms.rest.centre[at] + float(mlp.bias_out[at]), forms.rest.radius[at])
    stray = sum(
        states.bounds["y" if place < 0 else "x"] * float(np.linalg.norm(form[:, at]))
        for place, form in forms.linear.items()
    )
    base = Box(base.centre, base.radius + stray * INFLATION)
    if not len(writers):
        return Excess(0.0, 0.0, 0.0), "no unit writes the excess"
    rows = comparison.rows.astype(np.float64)
    lengths = (rows**2).sum(axis=1)
    own = units[-1][:, writers]
    projections = -(rows @ own) / lengths[:, None]
    matched = np.abs(projections).argmax(axis=0)
    alpha = projections[matched, np.arange(len(writers))]
    used = rows[matched].T
    rest = states.bounds["y"] * np.linalg.norm(own + alpha * used, axis=0)
    wanted = task.matrix.astype(np.float64).T @ used * alpha
    for place, form in units.items():
        if place >= 0:
            expected = wanted if place == task.position else 0.0
            rest = rest + states.bounds["x"] * np.linalg.norm(form[:, writers] - expected, axis=0)
    if task.position not in units:
        rest = rest + states.bounds["x"] * np.linalg.norm(wanted, axis=0)
    offset = (task.offset.astype(np.float64) @ used) * alpha
    size = 64 * SLACK * np.abs(alpha) * (np.abs(used).sum(axis=0) + 1) * states.bounds["y"] * len(used)
    rest = (rest + radius[writers] + size + 8 * SLACK * np.abs(offset)) * INFLATION
    middle = constant[writers] - offset
    upper_near = np.abs(alpha) * comparison.tolerance + middle + rest
    near = np.maximum(upper_near, 0.0)
    # Far away in coordinate i with one sign: that unit's lower bound; negative writers may take away their upper one.
    far = np.abs(alpha) * comparison.margin + middle - rest
    positive = out > 0
    largest = _largest_difference(states, index, matched)
    taken = float((np.maximum(np.abs(alpha) * largest + middle + rest, 0.0) * np.maximum(-out, 0.0)).sum())
    reached = [
        float((np.maximum(far, 0.0) * out)[(matched == row) & (alpha * sign > 0) & positive].sum())
        for row in range(len(rows))
        for sign in (1.0, -1.0)
    ]
    lost = states.machine.unit * (len(writers) + 2)
    bound, floor = float(base.centre + base.radius), float(base.centre - base.radius)
    high = max(0.0, bound) + float((near * np.maximum(out, 0.0)).sum()) * (1 + lost)
    low = floor - float((near * np.maximum(-out, 0.0)).sum()) * (1 + lost)
    least = (min(reached) * (1 - lost) + floor) - taken * (1 + lost)
    return Excess(min(0.0, low) * INFLATION, high * INFLATION, least / INFLATION), ""


def _largest_difference(states: States, index: int, matched: NDArray[np.int_]) -> Float:
    """A bound on |<F_i, D_k>| over the domain, for each unit's row."""
    construction = states.construction
    rows = np.linalg.norm(construction.comparison.rows.astype(np.float64), axis=1)
    task = construction.task_set.tasks[index]
    reach_of = np.linalg.norm(task.matrix.astype(np.float64)) * states.bounds["x"] + np.linalg.norm(task.offset)
    return np.asarray(rows[matched] * (states.bounds["y"] + float(reach_of)) * INFLATION)


def erased(states: States, forms: Forms) -> Float:
    """Lemma 2: what is left of the answer in the embedding's coordinates at y, a radius by coordinate.

    Each such coordinate, t in [-Y, Y] times the embedding's entry, and the units that write to it are functions of t
    alone, up to a rest: a piecewise linear function, largest at a bend or an end.
    """
    construction = states.construction
    mlp, embedding = construction.weights.layers[0].mlp, states.embedding
    w_in, w_out = mlp.w_in.astype(np.float64), mlp.w_out.astype(np.float64).tocsc()
    bias = mlp.bias_in.astype(np.float64)
    left = np.zeros(embedding.shape[1])
    pre = np.asarray(embedding @ w_in)
    others = np.zeros(w_in.shape[1])
    for place, form in forms.linear.items():
        if place >= 0:
            others += states.bounds["x"] * np.linalg.norm(form @ w_in, axis=0)
    box = forms.rest.centre @ w_in
    unsure = others + forms.rest.radius @ abs(w_in)
    bound = states.bounds["y"]
    for at in np.flatnonzero(embedding.any(axis=0)):
        column = slice(w_out.indptr[at], w_out.indptr[at + 1])
        writers, out = w_out.indices[column], w_out.data[column]
        along = np.abs(embedding[:, at]).argmax()
        slope = pre[along, writers]
        aside = pre[:, writers].copy()
        aside[along] = 0.0
        rest = unsure[writers] + bound * np.linalg.norm(aside, axis=0)
        constant = box[writers] + bias[writers]
        with np.errstate(divide="ignore", invalid="ignore"):
            bends = np.where(slope != 0, -constant / slope, 0.0)
        points = np.concatenate([[-bound, 0.0, bound], np.clip(bends, -bound, bound)])
        values = points * embedding[along, at] + np.maximum(points[:, None] * slope + constant, 0.0) @ out
        other = embedding[:, at].copy()
        other[along] = 0.0
        start = forms.rest.centre[at] + float(mlp.bias_out[at])
        size = float(np.abs(values + start).max()) + float(rest @ np.abs(out)) + forms.rest.radius[at]
        plain = _copies(slope, constant, out, rest, embedding[:, at])
        size += bound * float(np.linalg.norm(other)) + (0.0 if plain else len(writers) * SLACK * bound)
        size += sum(states.bounds["x"] * float(np.linalg.norm(f[:, at])) for p, f in forms.linear.items() if p >= 0)
        left[at] = size * INFLATION
        if states.machine.unit and not plain:
            left[at] += (len(writers) + 3) * states.machine.unit * bound * (1 + float(np.abs(out) @ np.abs(slope)))
    return left


def _copies(slope: Float, constant: Float, out: Float, rest: Float, entries: Float) -> bool:
    """Whether only copies are added up: units +-t without a constant, one of each sign, so that nothing rounds."""
    plain = (np.abs(slope) == 1).all() and (constant == 0).all() and (np.abs(out) == 1).all() and (rest == 0).all()
    return bool(plain and len(slope) == 2 and slope.sum() == 0 and np.count_nonzero(entries) == 1)
