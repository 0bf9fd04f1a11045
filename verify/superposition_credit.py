"""Lemmas 3 and 4 of a superposition: what y fetches, and the credit of each component, exactly 0 or 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from verify.boxes import Box, Roles
from verify.certificate import Violation
from verify.exact import INFLATION, Float
from verify.superposition_balls import at_most, ends, exp_upper, hull_so_far, image, plus
from verify.superposition_blocks import Block, Judged
from verify.superposition_hinges import Hinge, Rectangle, extremes, farthest
from verify.superposition_state import Affine, by_role, constants, writers, written_by


@dataclass(frozen=True)
class FetchFacts:
    """What the fetch head does.

    Args:
        leak: at the y of each example, the most attention elsewhere than at its EQ, shape [m].
        shift: for each component, how far a fetched prediction can be from the output at that EQ.
        reach: for each component, a bound on what stands in its predictions at any position.
        after: the stream after this attention, shape [T, d_model].
        written: what the head wrote, shape [T, d_model].
    """

    leak: Float
    shift: Float
    reach: Float
    after: Box
    written: Box


def fetch_facts(judged: Judged, roles: Roles, blocks: Sequence[Block], before: Box) -> FetchFacts:
    """Lemma 3: at every y, the outputs of the components at the EQ before, up to `shift`.

    The attention elsewhere than at the target is at most A/(1 + A), A the sum over the other positions before of exp of
    their score less the target's. The values of the predictions are in a box at every position, so a leak moves
    them by at most the leak times twice the largest.
    """
    attention = judged.weights.layers[-2].attention
    query, key, value, output = (
        part[0].astype(np.float64) for part in (attention.query, attention.key, attention.value, attention.output)
    )
    values = image(before, value)
    written = image(hull_so_far(values), output)
    after = plus(before, written)
    asked, keys = image(before, query), image(before, key)
    leaks = []
    for y, target in zip(roles.y, roles.eq[:-1], strict=True):
        # One query meets all keys: the differences of keys count.
        others = np.delete(np.arange(y + 1), target)
        difference = plus(
            Box(keys.centre[others], keys.radius[others]), Box(-keys.centre[[target]], keys.radius[[target]])
        )
        question = Box(asked.centre[y], asked.radius[y])
        score = image(Box(difference.centre, difference.radius), question.centre[:, None])
        spread = score.radius[:, 0] + at_most(difference) @ question.radius * INFLATION
        weight = float(exp_upper(ends(Box(score.centre[:, 0], spread))[1]).sum()) * INFLATION
        leaks.append(weight / (1 + weight) * INFLATION if np.isfinite(weight) else 1.0)
    leak = np.array(leaks)
    columns = predictions(judged)
    largest = at_most(image(values, output[:, columns.ravel()])).max(axis=0).reshape(columns.shape)
    already = at_most(Box(before.centre[roles.y], before.radius[roles.y]))[:, columns].max(axis=0)
    at_eq = at_most(Box(before.centre[roles.eq], before.radius[roles.eq])).max(axis=0)
    lost = np.array([at_eq[block.coordinates] @ block.lost for block in blocks])
    shift = (2 * float(leak.max()) * largest + already + lost).max(axis=1) * INFLATION
    return FetchFacts(leak, shift, at_most(after)[:, columns].max(axis=(0, 2)), after, written)


def predictions(judged: Judged) -> NDArray[np.int_]:
    """The coordinates of the predictions, shape [K, V]."""
    start, tasks = judged.stream["prediction"].start, len(judged.tasks)
    return start + np.arange(tasks * judged.layout.alphabet_size).reshape(tasks, -1)


@dataclass(frozen=True)
class CreditFacts:
    """What the first of the two MLPs writes.

    Args:
        error: for each component, how far the credit at y is from [y = g_k(x)].
        low: by role but y, the least evidence, shape [K].
        high: by role but y, the greatest evidence, shape [K].
        states: by role, the stream after this layer, the evidence as found.
        moved: what this layer writes at EQ, but for the evidence, shape [d_model].
        violations: units of another form.
    """

    error: Float
    low: dict[str, Float]
    high: dict[str, Float]
    states: dict[str, Box]
    moved: Box
    violations: tuple[Violation, ...]


def credit_facts(judged: Judged, roles: Roles, fetch: FetchFacts, low: Float, high: Float) -> CreditFacts:
    """Lemma 4: at y the credit of component k is [y = g_k(x)], up to `error`; elsewhere in a range.

    Each unit that writes the evidence of k may read one prediction of k, tokens, and what is the same at all positions
    of a role. So the credit is a sum over tokens v of functions of one prediction, piecewise linear, and its largest
    difference to the claim on p <= low + shift and on p >= high - shift is found exactly.
    """
    mlp = judged.weights.layers[-2].mlp
    alphabet, columns = judged.layout.alphabet_size, predictions(judged)
    evidence = judged.stream["evidence"]
    evidence_at = np.arange(evidence.start, evidence.stop)
    states = by_role(fetch.after, roles)
    affine = {role: _affine(judged, roles, fetch, role, columns) for role in states}
    w_in, w_out = mlp.w_in.toarray().astype(np.float64), mlp.w_out.toarray().astype(np.float64)
    stored = at_most(fetch.after)
    error, violations = np.zeros(len(columns)), []
    lows, highs = ({role: np.zeros(len(columns)) for role in ("bos", "x", "eq")} for _ in range(2))
    for task, at in enumerate(evidence_at):
        units = np.flatnonzero(w_out[:, at])
        read = w_in[columns.ravel()][:, units] != 0
        own = w_in[columns[task]][:, units]
        if (read.sum(axis=0) > 1).any() or (read.sum(axis=0) != (own != 0).sum(axis=0)).any():
            name = judged.tasks[task].name
            violations.append(
                Violation("credit", f"the units of {name}", "one prediction of this component each", "others")
            )
            continue
        which = np.where((own != 0).any(axis=0), (own != 0).argmax(axis=0), -1)
        group = _Credit(own.sum(axis=0), w_out[units, at], which, float(mlp.bias_out[at]), alphabet)
        reach = float(fetch.reach[task])
        off, on = float(low[task] + fetch.shift[task]), float(high[task] - fetch.shift[task])
        for role, form in affine.items():
            here = Affine(form.centre[:, units], form.slack[units])
            slack = float(np.abs(group.out) @ here.slack) * INFLATION
            slack += float(stored[roles.positions(role), at].max())
            if role == "y":
                error[task] = group.error(here.centre, -reach, off, min(on, reach + 1), reach) + slack
            else:
                lowest, highest = group.range(here.centre, reach)
                lows[role][task], highs[role][task] = lowest - slack, highest + slack
    # Lemma 4 says [0, 1]: what small outputs keep below that would be gained for prompts without examples alone.
    lows["x"], highs["x"] = np.minimum(lows["x"], 0.0), np.maximum(highs["x"], 1.0)
    other = np.ones(mlp.w_out.shape[1], dtype=np.bool_)
    other[evidence_at] = False
    strays = writers(mlp, np.flatnonzero(other))
    bias = np.where(other, mlp.bias_out.astype(np.float64), 0.0)
    fetched = by_role(fetch.written, roles)["eq"]
    final, moved = {}, fetched
    for role, state in states.items():
        more = written_by(mlp, strays, state)
        more.centre[evidence_at] = more.radius[evidence_at] = 0.0
        more = plus(more, Box(bias, np.zeros(len(bias))))
        box = plus(state, more)
        bottom, top = (-error, 1 + error) if role == "y" else (lows[role], highs[role])
        box.centre[evidence_at], box.radius[evidence_at] = (bottom + top) / 2, (top - bottom) / 2 * INFLATION
        final[role] = box
        if role == "eq":
            moved = plus(fetched, more)
    return CreditFacts(error, lows, highs, final, moved, tuple(violations))


def _affine(judged: Judged, roles: Roles, fetch: FetchFacts, role: str, columns: NDArray[np.int_]) -> Affine:
    """The constant parts at a role. Outside the blocks the stream is E + P + what the head wrote; E is kept apart."""
    weights = judged.weights
    blocks = np.zeros(weights.d_model, dtype=np.bool_)
    for name, space in judged.stream.items():
        blocks[space.coordinates] = name.startswith("component[")
    direct = np.where(blocks, 0.0, roles.tokens(role).toarray())
    place = roles.position.toarray()
    apart = plus(fetch.written, Box(place, np.zeros_like(place)))
    box = Box(np.where(blocks, fetch.after.centre, apart.centre), np.where(blocks, fetch.after.radius, apart.radius))
    rows = np.setdiff1d(np.arange(weights.d_model), columns.ravel())
    return constants(weights.layers[-2].mlp, by_role(box, roles)[role], rows, direct)


@dataclass(frozen=True)
class _Credit:
    """The units that write one component's evidence.

    Args:
        slope: of the prediction that each reads, shape [units].
        out: what it writes, shape [units].
        which: the token whose prediction it reads, -1 for none, shape [units].
        bias: what is added at every position.
        alphabet: V.
    """

    slope: Float
    out: Float
    which: NDArray[np.int_]
    bias: float
    alphabet: int

    def error(self, constant: Float, least: float, off: float, on: float, most: float) -> float:
        """Over all tokens y and all predictions, how far the credit can be from [y = v and v is predicted].

        Predictions are in [least, off] but for one, at most, in [on, most].
        """
        worst = 0.0
        for token in range(self.alphabet):
            total = abs(self._alone(constant[token]))
            for v in range(self.alphabet):
                hinges, goal = self._hinges(constant[token], v), float(v == token)
                total += max(_far(hinges, least, off, 0.0), _far(hinges, on, most, goal))
            worst = max(worst, total)
        return worst * INFLATION

    def range(self, constant: Float, reach: float) -> tuple[float, float]:
        """The least and the greatest credit over the tokens, for predictions in [-reach, reach]."""
        low, high = np.inf, -np.inf
        for row in constant:
            ranges = [_range(self._hinges(row, v), reach) for v in range(self.alphabet)]
            alone = self._alone(row)
            low = min(low, alone + sum(least for least, _ in ranges))
            high = max(high, alone + sum(most for _, most in ranges))
        return low * INFLATION if low < 0 else low / INFLATION, high * INFLATION if high > 0 else high / INFLATION

    def _alone(self, constant: Float) -> float:
        """What is written whatever is predicted."""
        none = self.which < 0
        return float(self.out[none] @ np.maximum(constant[none], 0.0)) + self.bias

    def _hinges(self, constant: Float, v: int) -> tuple[Hinge, ...]:
        chosen = np.flatnonzero(self.which == v)
        return tuple(
            Hinge(float(self.slope[u]), 0.0, float(constant[u]), (float(self.out[u]),)) for u in chosen.tolist()
        )


@lru_cache(maxsize=4096)
def _far(hinges: tuple[Hinge, ...], low: float, high: float, goal: float) -> float:
    return float(farthest(hinges, Rectangle(low, high), [(goal, 0.0)])) * INFLATION


@lru_cache(maxsize=4096)
def _range(hinges: tuple[Hinge, ...], reach: float) -> tuple[float, float]:
    low, high = extremes(hinges, Rectangle(-reach, reach))
    return float(low), float(high)
