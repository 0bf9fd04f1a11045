"""Hidden units as additive functions of what they read: which combinations switch a unit on, and by how much.

A unit's argument at a position is base + sum over sources of a number that depends on that source's token alone.
Sources are the inputs that the read heads fetch and, at y, the position's own token. A combination of tokens is
listed for a unit when the argument can exceed 0 there; everywhere else the unit is exactly 0, for all prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.attention import HeadFacts
from verify.exact import INFLATION, Float

MOST_COMBINATIONS = 5_000_000


class NotProvableError(Exception):
    """The proof does not go through; nothing is said of the claim."""


@dataclass(frozen=True)
class Source:
    """One thing that units read.

    Args:
        name: for messages.
        values: the argument's part for each option and unit, shape [options, units].
        low: the least part that any attended position can give, shape [units].
        high: the greatest.
        leak: the largest leak of the head behind it, 0 for the position's own token.
        head: the head behind it, -1 for the position's own token.
    """

    name: str
    values: Float
    low: Float
    high: Float
    leak: float
    head: int

    @property
    def upper(self) -> Float:
        """The greatest part with the option attended and the rest of the attention anywhere."""
        return self.values + self.leak * (self.high - self.values) * INFLATION

    @property
    def deviation(self) -> Float:
        """How far the part can move, per unit of leak: shape [options, units]."""
        return np.maximum(self.high - self.values, self.values - self.low)


@dataclass(frozen=True)
class Combinations:
    """The combinations that can switch units on.

    Args:
        options: one option a source, shape [combinations, sources].
        unit: the unit's number, shape [combinations].
        argument: the unit's argument without leak, shape [combinations].
        deviation: per source, how far it can move by a unit of leak, shape [combinations, sources].
    """

    options: NDArray[np.int_]
    unit: NDArray[np.int_]
    argument: Float
    deviation: Float


def combinations(base: Float, radius: Float, sources: Sequence[Source]) -> Combinations:
    """List every combination of options on which base + radius + the sources' upper values exceed 0.

    Pre: base and radius have shape [units].
    Post: on a combination that is not listed the unit's argument is at most 0, so the unit is exactly 0.
    Cost: O(options x units) for the first source, then what is still open times the options of the next.

    Raises:
        NotProvableError: more than MOST_COMBINATIONS are open.
    """
    uppers = [source.upper for source in sources]
    best = [upper.max(axis=0) for upper in uppers]
    rest = [sum(best[place + 1 :], start=np.zeros(len(base))) for place in range(len(sources))]
    unit = np.arange(len(base))
    unit = unit[base + radius + sum(best, start=np.zeros(len(base))) > 0]
    chosen = np.zeros((len(unit), 0), dtype=np.int_)
    partial = (base + radius)[unit]
    for place, upper in enumerate(uppers):
        found: list[tuple[NDArray[np.int_], NDArray[np.int_]]] = []
        step = max(1, MOST_COMBINATIONS // max(len(upper), 1))
        total = 0
        for start in range(0, len(unit), step):
            part = slice(start, start + step)
            open_ = partial[part, None] + upper[:, unit[part]].T + rest[place][unit[part], None] > 0
            row, option = np.nonzero(open_)
            total += len(row)
            if total > MOST_COMBINATIONS:
                raise NotProvableError(f"units are on for more than {MOST_COMBINATIONS:,} combinations of tokens")
            found.append((row + start, option))
        row = np.concatenate([part[0] for part in found]) if found else np.zeros(0, dtype=np.int_)
        option = np.concatenate([part[1] for part in found]) if found else np.zeros(0, dtype=np.int_)
        partial = partial[row] + upper[option, unit[row]]
        chosen = np.concatenate([chosen[row], option[:, None]], axis=1)
        unit = unit[row]
    argument = base[unit] + sum(
        (source.values[chosen[:, place], unit] for place, source in enumerate(sources)), start=np.zeros(len(unit))
    )
    deviation = np.zeros((len(unit), len(sources)))
    for place, source in enumerate(sources):
        if source.head >= 0:
            deviation[:, place] = source.deviation[chosen[:, place], unit]
    return Combinations(chosen, unit, argument, deviation)


def head_parts(heads: Sequence[HeadFacts], weights: Float) -> list[tuple[int, Float, Float, Float]]:
    """The heads that these units read: (head, values [V + 2, units], low [units], high [units]).

    `weights` is W1 restricted to the units, shape [d_model, units].
    """
    parts = []
    for number, head in enumerate(heads):
        columns = head.columns
        block = weights[columns]
        if not block.any():
            continue
        values = head.values[:, columns] @ block
        spread = head.spread[columns] @ np.abs(block) * INFLATION
        parts.append((number, values, values.min(axis=0) - spread, values.max(axis=0) + spread))
    return parts


def table_sources(
    reads: Sequence[int],
    heads: Sequence[HeadFacts],
    weights: Float,
    alphabet_size: int,
) -> tuple[list[Source], Float, Float]:
    """The sources of a table's units: one an input position that it reads, and what else they read as a box.

    Returns:
        The sources in the order of `reads` (a read that no head fetches has no source), and the centre and radius,
        shape [units] each, of all other parts.
    """
    units = weights.shape[1]
    centre, radius = np.zeros(units), np.zeros(units)
    sources: dict[int, Source] = {}
    for number, values, low, high in head_parts(heads, weights):
        targets = heads[number].targets
        if len(targets) == 1 and targets[0] in reads and targets[0] not in sources:
            spread = (high - values.max(axis=0)).max(initial=0.0)
            leak = heads[number].largest_leak
            radius += spread
            sources[targets[0]] = Source(f"input {targets[0]}", values[:alphabet_size], low, high, leak, number)
            continue
        constant = (high == low).all()
        centre += low if constant else (high + low) / 2
        radius += 0.0 if constant else (high - low) / 2 * INFLATION
    if alphabet_size == 1:
        # One token needs no code and no head.
        nothing = np.zeros(units)
        for position in set(reads) - set(sources):
            sources[position] = Source(f"input {position}", np.zeros((1, units)), nothing, nothing, 0.0, -1)
    return [sources[position] for position in reads if position in sources], centre, radius
