"""Exact bounds of sums of ReLUs in one or two variables, by rational arithmetic on the stored floats.

A sum of hinges out_j relu(a_j p + b_j w + g_j) is linear between the lines on which a hinge starts. So is the
difference to a target that is linear, and a 1-norm of such differences is convex there: its maximum over a rectangle
is at a corner of the pieces that the lines cut it into. Stored floats are rationals, so nothing is rounded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations


@dataclass(frozen=True)
class Hinge:
    """relu(a p + b w + g), written with the weights `out`.

    Args:
        a: of the first variable.
        b: of the second.
        g: the constant.
        out: what it is multiplied by, an entry an output.
    """

    a: float
    b: float
    g: float
    out: tuple[float, ...]


@dataclass(frozen=True)
class Rectangle:
    """p in [p_low, p_high], w in [w_low, w_high]; no point where p_low > p_high."""

    p_low: float
    p_high: float
    w_low: float = 0.0
    w_high: float = 0.0


def farthest(hinges: Sequence[Hinge], where: Rectangle, target: Sequence[tuple[float, float]]) -> Fraction:
    """max |sum of hinges - (constant + slope w)|_1 over a rectangle, exactly; 0 if it is empty.

    Args:
        hinges: what is added up.
        where: the rectangle.
        target: (constant, slope) for each output.
    """
    goals = [(Fraction(constant), Fraction(slope)) for constant, slope in target]
    worst = Fraction(0)
    for p, w in _corners(hinges, where):
        totals = [-constant - slope * w for constant, slope in goals]
        for hinge in hinges:
            value = _argument(hinge, p, w)
            if value > 0:
                totals = [total + value * Fraction(out) for total, out in zip(totals, hinge.out, strict=True)]
        worst = max(worst, sum((abs(total) for total in totals), Fraction(0)))
    return worst


def extremes(hinges: Sequence[Hinge], where: Rectangle) -> tuple[Fraction, Fraction]:
    """The least and the greatest value of the first output over a rectangle, exactly."""
    values = []
    for p, w in _corners(hinges, where):
        parts = (max(_argument(hinge, p, w), Fraction(0)) * Fraction(hinge.out[0]) for hinge in hinges)
        values.append(sum(parts, Fraction(0)))
    return min(values, default=Fraction(0)), max(values, default=Fraction(0))


def _argument(hinge: Hinge, p: Fraction, w: Fraction) -> Fraction:
    return Fraction(hinge.a) * p + Fraction(hinge.b) * w + Fraction(hinge.g)


def _corners(hinges: Sequence[Hinge], where: Rectangle) -> Iterator[tuple[Fraction, Fraction]]:
    """The corners of the rectangle, where a hinge starts on its edges, and where two start inside."""
    p_low, p_high, w_low, w_high = map(Fraction, (where.p_low, where.p_high, where.w_low, where.w_high))
    if p_low > p_high or w_low > w_high:
        return
    yield from {(p, w) for p in (p_low, p_high) for w in (w_low, w_high)}
    lines = {(Fraction(h.a), Fraction(h.b), Fraction(h.g)) for h in hinges}
    for a, b, g in lines:
        if a:
            yield from ((p, w) for w in {w_low, w_high} if p_low <= (p := -(b * w + g) / a) <= p_high)
        if b:
            yield from ((p, w) for p in {p_low, p_high} if w_low <= (w := -(a * p + g) / b) <= w_high)
    for (a, b, g), (c, d, h) in combinations(lines, 2):
        determinant = a * d - b * c
        if determinant:
            p, w = (b * h - d * g) / determinant, (c * g - a * h) / determinant
            if p_low <= p <= p_high and w_low <= w <= w_high:
                yield p, w
