"""Attention scores for all prompts: pairs of positions, with boxes for what the prompt's vectors and the layers add.

A score is (P[i] + a) Wq Wk' (P[j] + b)': exact at the positions, bounded for the rest. `at` names coordinates that are
taken out of the box, to be put back as an unknown by the caller.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.transformer import AttentionWeights
from verify.boxes import Box
from verify.exact import INFLATION, Float
from verify.vector_machine import SLACK, project, reach
from verify.vector_state import States


@dataclass(frozen=True)
class Side:
    """Queries, or keys, of some positions: a box for each, shape [positions, d_qk], and the rows of the matrix."""

    box: Box
    matrix: Float


def side(states: States, matrix: Float, role: str, without: tuple[int, ...] = ()) -> Side:
    """The queries or keys of all positions of a role, with the coordinates `without` set to 0."""
    rows = states.position[states.positions(role)].copy()
    # The box of the role less its position: what the vector and the layers add.
    own = states.bounds[role] * np.linalg.norm(states.embedding, axis=0) * INFLATION
    extra = states.added[role]
    centre, radius = extra.centre.copy(), extra.radius + own
    for at in without:
        rows[:, at] = 0.0
        centre[at] = radius[at] = 0.0
    full = Box(rows + centre, np.broadcast_to(radius, rows.shape))
    used = np.flatnonzero(matrix.any(axis=1))
    part = Box(full.centre[:, used], full.radius[:, used])
    return Side(project(states.machine, part, matrix[used], states.grid[used]), matrix)


def scores(states: States, queries: Side, keys: Side, more: float = 0.0, terms: int = 0) -> Box:
    """The scores of every query with every key, shape [queries, keys].

    `more` and `terms` say how large and how many the products are that the caller adds: they are in the same sum.
    """
    asked, held = queries.box, keys.box
    centre = asked.centre @ held.centre.T
    sizes = reach(held)
    most = reach(asked) @ sizes.T
    radius = (np.abs(asked.centre) @ held.radius.T + asked.radius @ sizes.T) * INFLATION
    count = (reach(asked) > 0).astype(np.float64) @ (sizes > 0).astype(np.float64).T + terms
    radius = radius + (count + 2) * SLACK * most
    if states.machine.unit:
        whole = (held.radius == 0).all(axis=1) & _signs(held.centre).all(axis=1)
        products = np.where(whole, 0.0, 1.0)[None, :]
        lost = np.maximum(count - 1, 0.0) + products * (count > 0)
        radius = radius + lost * states.machine.unit * (most + more) * INFLATION
    return Box(centre, radius)


def coefficient(matrix: Float, coordinate: int, other: Side) -> Box:
    """What an unknown of 1 in one coordinate, on this side, adds to the scores with each of the other side."""
    row = matrix[coordinate]
    radius = other.box.radius @ np.abs(row) * INFLATION
    return Box(other.box.centre @ row, radius + SLACK * len(row) * (reach(other.box) @ np.abs(row)))


def halves(attention: AttentionWeights, head: int) -> tuple[Float, Float]:
    """Wq and Wk of a head, in float64."""
    return attention.query[head].astype(np.float64), attention.key[head].astype(np.float64)


def _signs(values: Float) -> NDArray[np.bool_]:
    return np.asarray((values == 0) | (np.abs(values) == 1))
