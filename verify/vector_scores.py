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


def scores(states: States, queries: Side, keys: Side, *, more: float = 0.0) -> Box:
    """The scores of every query with every key, shape [queries, keys].

    `more` is the size of one product that the caller adds: it is in the same sum, and rounds with it.
    """
    asked, held = queries.box, keys.box
    sizes = reach(held)
    most = reach(asked) @ sizes.T
    radius = (np.abs(asked.centre) @ held.radius.T + asked.radius @ sizes.T) * INFLATION
    count = products(queries, keys)
    radius = radius + (count + 2) * SLACK * most
    if states.machine.unit:
        copied = copies(keys)[None, :]
        lost = np.maximum(count + (more > 0) - np.where(copied, 1.0, 0.0), 0.0)
        radius = radius + lost * states.machine.unit * (most + more) * INFLATION
    return Box(asked.centre @ held.centre.T, radius)


def products(queries: Side, keys: Side) -> Float:
    """How many products of each score can be other than 0, shape [queries, keys]."""
    asked, held = reach(queries.box) > 0, reach(keys.box) > 0
    return np.asarray(asked.astype(np.float64) @ held.astype(np.float64).T)


def copies(keys: Side) -> NDArray[np.bool_]:
    """The keys whose entries are 0 or +-1, exactly: their products round nothing."""
    entries = keys.box.centre
    return np.asarray(((keys.box.radius == 0) & ((entries == 0) | (np.abs(entries) == 1))).all(axis=1))


def coefficient(matrix: Float, coordinate: int, other: Side) -> Box:
    """What an unknown of 1 in one coordinate, on this side, adds to the scores with each of the other side."""
    row = matrix[coordinate]
    radius = other.box.radius @ np.abs(row) * INFLATION
    return Box(other.box.centre @ row, radius + SLACK * len(row) * (reach(other.box) @ np.abs(row)))


def halves(attention: AttentionWeights, head: int) -> tuple[Float, Float]:
    """Wq and Wk of a head, in float64."""
    return attention.query[head].astype(np.float64), attention.key[head].astype(np.float64)
