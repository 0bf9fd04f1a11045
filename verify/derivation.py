"""What the derivations of `verify.closed_form` are made with: the symbols, and steps that sympy checks one by one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]
from sympy import Sum, binomial, ceiling, expand, log, simplify

Expression = Any
"""A sympy expression; sympy has no types."""

V, n, m, K, r = sympy.symbols("V n m K r", integer=True, positive=True)
B, b1, b2 = sympy.symbols("B b_1 b_2", integer=True, nonnegative=True)
T = sympy.Symbol("T", integer=True, positive=True)
z, sharpness = sympy.symbols("z lambda", positive=True)
rho, rho2 = sympy.symbols("rho rho_2", nonnegative=True)
S, M, C = sympy.symbols("S M C", integer=True, positive=True)
"""Of a sum: how many positions, the largest |v'| of a token, the gate (`construct.reads.SumRead`)."""

SIZES: dict[Expression, Expression] = {
    B: ceiling(log(V, 2)),
    b1: ceiling(log(m + 1, 2)),
    b2: ceiling(log(n, 2)),
    T: (m + 1) * (n + 2),
}
"""What the symbols stand for: bits of a token, of the example index, of the input index; the longest prompt."""

Z_OF_SHARPNESS = sympy.exp(-sharpness)


class DerivationError(Exception):
    """A step of the derivation does not hold: the statement and the proof no longer fit each other."""


@dataclass(frozen=True)
class Step:
    """One step of the derivation.

    Args:
        says: the step in words.
        left: the left side.
        relation: "=" or "<=".
        right: the right side.
    """

    says: str
    left: Expression
    relation: str
    right: Expression

    @property
    def latex(self) -> str:
        """The step in LaTeX."""
        relation = {"=": "=", "<=": r"\leq"}[self.relation]
        text: str = f"{sympy.latex(self.left)} {relation} {sympy.latex(self.right)}"
        return text


class Proof:
    """Collects steps and checks each."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def equal(self, says: str, left: Expression, right: Expression, *, check: Callable[[], bool] | None = None) -> Any:
        """left = right, by sympy's simplification or by the check given."""
        holds = check() if check else simplify(expand(left - right)) == 0
        return self._kept(Step(says, left, "=", right), holds=holds)

    def at_most(
        self,
        says: str,
        left: Expression,
        right: Expression,
        *,
        gap: Expression,
        meaning: Mapping[Expression, Expression] | None = None,
    ) -> Any:
        """left <= right, as right - left = gap, and gap is >= 0 by the signs of its symbols.

        `meaning` says what symbols of the gap stand for that are >= 0 though their expression does not show it.
        """
        difference = expand(right - left - gap.subs(meaning or {}))
        holds = simplify(difference) == 0 and gap.is_nonnegative is True
        return self._kept(Step(says, left, "<=", right), holds=holds)

    def _kept(self, step: Step, *, holds: bool) -> Any:
        if not holds:
            raise DerivationError(f"{step.says}: {step.left} {step.relation} {step.right} does not hold")
        self.steps.append(step)
        return step.right


def binomial_sum(proof: Proof, says: str, index: Expression, length: Expression) -> Expression:
    """sum_h C(length, h) z^(2h) = (1 + z^2)^length, by sympy's summation where z <= 1."""
    left = Sum(binomial(length, index) * z ** (2 * index), (index, 0, length))
    right = (1 + z**2) ** length
    summed = left.doit()
    closed = [value for value, _ in getattr(summed, "args", ()) if not value.has(Sum)]
    return proof.equal(says, left, right, check=lambda: len(closed) == 1 and simplify(closed[0] - right) == 0)
