"""States of the residual stream by role: position, own vector, and a box around what the layers add.

At a position of a role the state is P[position] + v E + Z: P and E are the embeddings as stored, v the vector that
stands there (none at BOS and EQ), no longer than the role's bound, and Z lies in the role's box.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from construct.transformer import AttentionWeights, MlpWeights
from construct.vector_prompts import VectorLayout
from construct.vector_theorem import VectorConstruction
from verify.boxes import Box, box_of_rows
from verify.exact import INFLATION, Float, lowest_bit
from verify.vector_machine import (
    ABSENT,
    SLACK,
    Machine,
    add,
    hull,
    interval,
    live_terms,
    project,
    reach,
    signed_image,
)

ROLES = ("bos", "x", "eq", "y")

ROOM = 1 + 2.0**-20
"""Inputs and answers may be so much longer than their bounds: room for rounding a vector to float32."""


@dataclass(frozen=True)
class States:
    """The states of all roles at one point of the model.

    Args:
        construction: what is judged.
        machine: the arithmetic.
        embedding: E, shape [d, d_model].
        position: P, shape [T, d_model].
        bounds: the largest norm of the vector at each role.
        places: the box of P over the positions of each role.
        added: Z by role.
        grid: by coordinate, the exponent of the dyadic grid of its values, ABSENT where there may be others.
    """

    construction: VectorConstruction
    machine: Machine
    embedding: Float
    position: Float
    bounds: dict[str, float]
    places: dict[str, Box]
    added: dict[str, Box]
    grid: NDArray[np.int_]

    def positions(self, role: str) -> NDArray[np.int_]:
        """The positions of a role."""
        return role_positions(self.construction.layout, role)

    def fixed(self, role: str) -> Box:
        """The box of position and Z, without the vector."""
        return add([self.places[role], self.added[role]])

    def box(self, role: str) -> Box:
        """The box of the whole state, coordinate by coordinate."""
        fixed = self.fixed(role)
        own = self.bounds[role] * np.linalg.norm(self.embedding, axis=0) * INFLATION
        return Box(fixed.centre, fixed.radius + own)

    def with_added(self, added: dict[str, Box], written: NDArray[np.bool_]) -> "States":
        """The states with other boxes; coordinates `written` to are on no known grid."""
        return replace(self, added=added, grid=np.where(written, ABSENT, self.grid))


def role_positions(layout: VectorLayout, role: str) -> NDArray[np.int_]:
    """The positions of a role."""
    every = np.arange(layout.positions)
    place = (every - 1) % (layout.inputs + 2)
    later = every > 0
    at = {"bos": ~later, "x": later & (place < layout.inputs), "eq": later & (place == layout.inputs)}
    return np.flatnonzero(at[role] if role in at else later & (place == layout.inputs + 1))


def embedded(construction: VectorConstruction, machine: Machine) -> States:
    """The states before the first layer."""
    weights, tasks = construction.weights, construction.task_set
    embedding = weights.token_embedding.astype(np.float64).toarray()
    position = weights.position_embedding.astype(np.float64).toarray()
    d_model = weights.d_model
    nothing = Box(np.zeros(d_model), np.zeros(d_model))
    # The embedding of a vector is a sum of products, exact where it copies.
    lost = np.zeros(d_model)
    if machine.unit:
        terms = (embedding != 0).sum(axis=0)
        copies = (terms <= 1) & (np.abs(embedding).max(axis=0, initial=0.0) == np.where(terms > 0, 1.0, 0.0))
        longest = max(tasks.bound, tasks.answer_bound) * ROOM
        lost = np.where(copies, 0.0, (terms + 2) * machine.unit * longest * np.linalg.norm(embedding, axis=0))
        both = (position.any(axis=0)) & (terms > 0)
        lost = lost + np.where(both, machine.unit * (np.abs(position).max(axis=0) + longest * terms), 0.0)
    added = {role: Box(nothing.centre, lost if role in ("x", "y") else nothing.radius) for role in ROLES}
    rows = weights.position_embedding.astype(np.float64)
    places = {role: box_of_rows(rows[role_positions(construction.layout, role)]) for role in ROLES}
    grid = np.array([_grid(position[:, at]) for at in range(d_model)])
    grid = np.where(embedding.any(axis=0), ABSENT, grid)
    bounds = {"bos": 0.0, "x": tasks.bound * ROOM, "eq": 0.0, "y": tasks.answer_bound * ROOM}
    return States(construction, machine, embedding, position, bounds, places, added, grid)


def _grid(values: Float) -> int:
    return lowest_bit(values) if values.any() else 900


def value_box(states: States, attention: AttentionWeights, head: int, role: str) -> Box:
    """What a key of a role, fully attended, adds to the stream: a box by coordinate."""
    value, output = attention.value[head].astype(np.float64), attention.output[head].astype(np.float64)
    inner = project(states.machine, states.box(role), value, states.grid)
    # The attention itself may round a value twice.
    inner = Box(inner.centre, inner.radius + 4 * states.machine.unit * reach(inner))
    return project(states.machine, inner, output, np.full(len(output), ABSENT))


def after_attention(states: States, attention: AttentionWeights, roles: tuple[str, ...] = ROLES) -> States:
    """The states after a layer's attention, whatever it attends to: any average over earlier positions.

    BOS attends to itself alone. What is exact of a head is for its lemma; here is only what any head cannot exceed.
    """
    heads = range(len(attention.query))
    values = {role: [value_box(states, attention, head, role) for head in heads] for role in ROLES}
    added = dict(states.added)
    for role in roles:
        seen = ("bos",) if role == "bos" else ROLES
        each = [hull([values[key][head] for key in seen]) for head in heads]
        written = add(each)
        total = add([states.added[role], written])
        size = np.sum([reach(box) for box in each], axis=0)
        lost = states.machine.unit * ((len(each) + 1) * size + reach(states.box(role)))
        added[role] = Box(total.centre, total.radius + np.where(size > 0, lost, 0.0) * INFLATION)
    touched = np.any([reach(values[role][head]) > 0 for role in ROLES for head in heads], axis=0)
    return states.with_added(added, touched)


@dataclass(frozen=True)
class Units:
    """The hidden units of an MLP at one role: bounds on what goes into the ReLU.

    Args:
        low: shape [width].
        high: shape [width].
    """

    low: Float
    high: Float


def hidden(states: States, mlp: MlpWeights, role: str) -> Units:
    """Bounds on every hidden unit at a role, with the own vector taken by its norm and not by coordinates."""
    w_in, bias = mlp.w_in.astype(np.float64), mlp.bias_in.astype(np.float64)
    fixed = states.fixed(role)
    loss = _loss(states, mlp, role)
    low, high = signed_image(fixed.centre - fixed.radius, fixed.centre + fixed.radius, w_in, loss)
    bound = states.bounds[role]
    own = bound * _norms(states.embedding @ w_in) + loss * bound * _norms(np.abs(states.embedding) @ abs(w_in))
    bias_low, bias_high = bias - np.abs(bias) * loss, bias + np.abs(bias) * loss
    return Units(low + bias_low - own * INFLATION, high + bias_high + own * INFLATION)


def _loss(states: States, mlp: MlpWeights, role: str) -> Float:
    """By hidden unit, how far each of its products can be off, relatively: by its terms that can be other than 0."""
    size = reach(states.box(role))
    terms, even = live_terms(size, mlp.w_in.astype(np.float64))
    terms = terms + (mlp.bias_in != 0)
    unit = np.where((terms <= 1) & even, 0.0, (terms + 1) * states.machine.unit)
    return np.asarray(unit * INFLATION + (terms + 2) * SLACK)


def after_mlp(states: States, mlp: MlpWeights) -> States:
    """The states after an MLP, unit by unit whatever the others do."""
    added = {}
    bias = mlp.bias_out.astype(np.float64)
    w_out = mlp.w_out.astype(np.float64)
    unit = states.machine.unit
    for role in ROLES:
        units = hidden(states, mlp, role)
        active = np.maximum(units.low, 0.0), np.maximum(units.high, 0.0)
        terms, even = live_terms(active[1], w_out)
        loss = np.where((terms <= 1) & even & (bias == 0), 0.0, (terms + 2) * unit) + (terms + 2) * SLACK
        low, high = signed_image(*active, w_out, loss)
        constant = np.abs(bias) * loss
        written = interval(low + bias - constant, high + bias + constant)
        total = add([states.added[role], written])
        # The residual addition rounds its result, where there was something before.
        both = (reach(states.box(role)) > 0) & (reach(written) > 0)
        stored = np.where(both, unit * (reach(states.box(role)) + reach(written)), 0.0)
        added[role] = Box(total.centre, total.radius + stored * INFLATION)
    touched = np.asarray(abs(w_out).sum(axis=0)).ravel() + np.abs(bias) > 0
    return states.with_added(added, touched)


def _norms(columns: Float) -> Float:
    return np.asarray(np.linalg.norm(columns, axis=0))
