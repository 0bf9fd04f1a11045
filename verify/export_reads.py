"""Step 1 of an export as executed: the heads of the construction behind layer norms.

The lemmas of verify/attention.py hold of the weights without norms. Here their figures are widened by what the norms
and rounding can change: a score by at most `delta`, so a weight relative to another's by a factor of exp(2 delta), and
what is written by the errors of values and weights.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from construct.transformer import AttentionWeights
from verify.attention import AverageFacts, HeadFacts
from verify.boxes import Roles
from verify.exact import INFLATION, Float
from verify.export_arithmetic import Arithmetic, Norm

Units = NDArray[np.int_]

HALF = 2.0**-9
"""In bfloat16 half the distance of neighbours is at least so much of a number's size."""


def sides(roles: Roles, matrix: Float, names: tuple[str, ...]) -> Float:
    """The most, in absolute values of terms, that each column of a query or key matrix gives: shape [columns]."""
    size = np.abs(matrix)
    used = np.flatnonzero(size.any(axis=1))
    most = np.zeros(matrix.shape[1])
    for role in names:
        places = roles.positions(role)
        if len(places):
            position = (abs(roles.position[places][:, used]) @ size[used]).max(axis=0)
            token = (abs(roles.tokens(role)[:, used]) @ size[used]).max(axis=0)
            most = np.maximum(most, position + token)
    return np.asarray(most)


def image_error(
    roles: Roles,
    matrix: Float,
    names: tuple[str, ...],
    norms: Mapping[str, Norm],
    errors: Mapping[str, Float],
    *,
    plain: bool,
) -> Float:
    """How far the norms put a query, key or value off, by column, before its sum is rounded.

    Where all that is read are embeddings (`plain`), the shift of a norm meets the columns' sums. In bfloat16 it stays
    with the coordinates that are 0: it meets the column's sum less what is not 0, integers, which stay as they are.
    """
    size = np.abs(matrix)
    total = np.abs(matrix.sum(axis=0))
    worst = np.zeros(matrix.shape[1])
    for role in names:
        norm, general = norms[role], errors[role] @ size
        if plain:
            most = sides(roles, matrix, (role,))
            if not norm.arithmetic.narrow:
                common = norm.gain * most + norm.shift * (total + 8 * norm.arithmetic.sums * size.sum(axis=0))
            elif float(norm.error(1.0)) < np.inf and norm.shift < 2.0**-12 and norm.keeps(1.0):
                common = norm.shift * (1 + 2 * norm.arithmetic.storage) * (total + most)
            else:
                common = general
            general = np.minimum(general, common)
        worst = np.maximum(worst, general)
    return np.asarray(worst * INFLATION)


def reads_embeddings(roles: Roles, matrix: Float, written: Units) -> bool:
    """Whether a matrix reads integers of the embeddings alone, which no layer has written over."""
    used = np.flatnonzero(matrix.any(axis=1))
    parts = (roles.position[:, used].tocoo().data, roles.token[:, used].tocoo().data)
    return not np.intersect1d(used, written).size and all(bool((part == np.round(part)).all()) for part in parts)


def score_error(
    roles: Roles,
    weights: AttentionWeights,
    head: int,
    norms: Mapping[str, Norm],
    errors: Mapping[str, Float],
    written: Units,
    asked: tuple[str, ...],
) -> tuple[float, float, float]:
    """How far a score can be off, how far by the key alone, and the most that its terms add up to.

    Args:
        roles: the positions.
        weights: the layer's heads.
        head: which.
        norms: the norms before it, by role.
        errors: how far the coordinates are off, by role.
        written: the coordinates that layers before have written.
        asked: the roles of the queries.
    """
    arithmetic = norms["eq"].arithmetic
    sizes, offs = [], []
    for matrix, names in ((weights.query[head], asked), (weights.key[head], tuple(errors))):
        dense = np.asarray(matrix, dtype=np.float64)
        into = image_error(roles, dense, names, norms, errors, plain=reads_embeddings(roles, dense, written))
        most = sides(roles, dense, names) + into
        sizes.append(most)
        offs.append(into + ((dense != 0).sum(axis=0) * arithmetic.sums + arithmetic.storage) * most)
    (query, key), (dq, dk) = sizes, offs
    size = float(query @ key)
    rounded = size * (2.0**-50 + (len(query) + 6) * arithmetic.sums + 3 * arithmetic.storage)
    by_key = float((query + dq) @ dk) + rounded
    return (by_key + float(dq @ key)) * INFLATION, by_key * INFLATION, size * INFLATION


def exp_factor(delta: float, size: float, arithmetic: Arithmetic) -> float:
    """By how much a weight relative to another's can grow: scores off by delta, exp (B2), storing."""
    if delta > 300:
        return np.inf
    unit = (8 + 8 * size) * arithmetic.sums
    return (
        float(np.exp(2 * delta) * (1 + 2 * unit) * (1 + arithmetic.storage) ** 2 * INFLATION) if unit < 0.5 else np.inf
    )


def executed_head(
    facts: HeadFacts,
    roles: Roles,
    weights: AttentionWeights,
    head: int,
    norms: Mapping[str, Norm],
    errors: Mapping[str, Float],
) -> tuple[HeadFacts, bool]:
    """A read head's facts with norms and rounding, and whether what it writes from its target is exact.

    Args:
        facts: of the weights alone.
        roles: the positions.
        weights: the layer's heads.
        head: which.
        norms: the norms before it, by role.
        errors: how far the coordinates are off, by role.
    """
    arithmetic, nothing = norms["eq"].arithmetic, np.zeros(0, dtype=np.int_)
    delta, _, size = score_error(roles, weights, head, norms, errors, nothing, ("eq", "y"))
    factor = exp_factor(delta, size, arithmetic)
    uneven = factor - 1 if len(facts.targets) > 1 else 0.0
    leaks = [np.minimum(1.0, leak * factor + uneven) for leak in (facts.leak_eq, facts.leak_y)]
    leak = max(float(part.max(initial=0.0)) for part in leaks)
    value = np.asarray(weights.value[head], dtype=np.float64)
    output = np.asarray(weights.output[head], dtype=np.float64)
    plain = reads_embeddings(roles, value, nothing)
    into = image_error(roles, value, tuple(errors), norms, errors, plain=plain)
    most = sides(roles, value, tuple(errors)) + into
    given = np.asarray(roles.content @ value)
    lost = (into + (value != 0).sum(axis=0) * arithmetic.sums * most) * INFLATION
    weighing = (leak + (8 + len(facts.targets)) * arithmetic.sums) * most
    snaps = (
        arithmetic.narrow
        and len(facts.targets) == 1
        and bool((given == np.round(given)).all() and (np.abs(given[:, value.any(axis=0)]) >= 1).all())
        and bool((2 * (lost + weighing) < HALF).all() and (most <= 2.0**8).all())
        and bool((output == np.round(output)).all() and (most @ np.abs(output) <= 2.0**8).all())
    )
    if snaps or arithmetic.name == "real":
        each = np.zeros_like(lost) if snaps else lost
    else:
        each = (lost + weighing) * (1 + arithmetic.storage) + 2 * arithmetic.storage * most
    spread = facts.spread + each @ np.abs(output) * INFLATION
    if not snaps:
        unit = (output != 0).sum(axis=0) * arithmetic.sums + arithmetic.storage
        spread = spread + unit * (most @ np.abs(output))
    return replace(facts, leak_eq=leaks[0], leak_y=leaks[1], spread=spread), snaps


def executed_average(
    facts: AverageFacts,
    roles: Roles,
    weights: AttentionWeights,
    head: int,
    norms: Mapping[str, Norm],
    errors: Mapping[str, Float],
    written: Units,
) -> AverageFacts:
    """The averaging head's facts with norms and rounding: one query meets all keys, so that only keys are uneven."""
    arithmetic = norms["eq"].arithmetic
    delta, by_key, size = score_error(roles, weights, head, norms, errors, written, ("eq",))
    factor = exp_factor(delta, size, arithmetic)
    alike = arithmetic.narrow and _alike(roles, weights, head, norms, errors, written)
    uneven = (1 + facts.uneven) * exp_factor(by_key, 2 * by_key, arithmetic) - 1
    leak = np.minimum(1.0, facts.leak * factor)
    shares = {role: np.minimum(1.0, share * factor) for role, share in facts.shares.items()}
    return AverageFacts(leak, 0.0 if alike else uneven, shares)


def _alike(
    roles: Roles,
    weights: AttentionWeights,
    head: int,
    norms: Mapping[str, Norm],
    errors: Mapping[str, Float],
    written: Units,
) -> bool:
    """In bfloat16, whether all y give the same key exactly, and so the same score.

    It is taken back to what it is without errors, if that is not 0, is stored exactly and is the same at every y.
    """
    key = np.asarray(weights.key[head], dtype=np.float64)
    used = np.flatnonzero(key.any(axis=1))
    token = np.asarray(roles.tokens("y")[:, used] @ key[used])
    position = np.asarray(roles.position[roles.positions("y")][:, used] @ key[used])
    # With one number a key there is nothing to sum, in whatever order.
    if key.shape[1] != 1 or not len(position) or token.any() or not (position == position[0]).all():
        return False
    least = float(abs(position[0, 0]))
    mantissa = float(np.frexp(least)[0]) * 2.0**8
    plain = reads_embeddings(roles, key, written)
    off = 2 * float(image_error(roles, key, ("y",), norms, errors, plain=plain)[0])
    return least > 0 and mantissa == round(mantissa) and off < HALF * least
