"""The exact answer to one prompt as a function of z = exp(-sharpness), and what can be asked of it."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import mpmath  # type: ignore[import-untyped]
import sympy  # type: ignore[import-untyped]

from verify.ordered_field import Element
from verify.polynomials import Polynomial
from verify.thresholds import Threshold


@dataclass(frozen=True)
class SymbolicAnswer:
    """The exact answer q_hat at the final EQ as a function of z = exp(-sharpness).

    Args:
        outputs: q_hat, an element of Q(z) a token of the alphabet.
        target: q, the oracle's rationals.
        threshold: up to which z the formula is what the weights compute.
        sharpness: the construction's own.
        decided: how many ReLU arguments had their sign decided.
    """

    outputs: tuple[Element, ...]
    target: tuple[Fraction, ...]
    threshold: Threshold
    sharpness: Fraction
    decided: int

    @cached_property
    def limit(self) -> tuple[Fraction, ...]:
        """The value of q_hat at z = 0: at infinite sharpness."""
        return tuple(output.limit for output in self.outputs)

    @property
    def exact(self) -> bool:
        """Whether the value at z = 0 is the oracle's answer, exactly."""
        return self.limit == self.target

    @property
    def least_sharpness(self) -> Fraction:
        """lambda_0: the formula holds for every sharpness > 0 that is at least this."""
        return self.threshold.least_sharpness

    @property
    def holds(self) -> bool:
        """Whether the formula holds at the construction's own sharpness."""
        return self.sharpness >= self.least_sharpness

    @cached_property
    def error_order(self) -> Fraction | None:
        """The exponent of z in the leading term of |q_hat - q|_1; None where the error is 0 for all z."""
        return self._leading_error[0]

    @property
    def error_coefficient(self) -> Fraction:
        """The coefficient of that term; 0 where the error is 0 for all z."""
        return self._leading_error[1]

    def rational_function(self, token: int) -> tuple[Polynomial, Polynomial]:
        """(numerator, denominator) of q_hat[token] in z^(1/steps), not reduced."""
        return self.outputs[token].over_one_denominator()

    def expression(self, token: int) -> Any:
        """q_hat[token] as a sympy expression in the positive symbol z, in lowest terms: for small prompts."""
        steps = self.outputs[token].field.steps
        variable = sympy.Symbol("z", positive=True)
        root = variable ** sympy.Rational(1, steps)
        t = sympy.Symbol("t", positive=True)
        top, bottom = (
            sympy.Poly(part.coefficients[::-1] or [0], t) / part.scale for part in self.rational_function(token)
        )
        reduced: Any = sympy.cancel(top / bottom)
        return reduced.subs(t, root)

    def at(self, sharpness: Fraction | float, *, digits: int = 50) -> list[Any]:
        """q_hat at a sharpness as mpmath numbers, to about so many digits. The formula must hold there."""
        with mpmath.workdps(digits + 10):
            number = Fraction(sharpness)
            point = mpmath.exp(-mpmath.mpf(number.numerator) / (number.denominator * self.threshold.steps))
            return [output.near(point) for output in self.outputs]

    def error_at(self, sharpness: Fraction | float, *, digits: int = 50) -> Any:
        """|q_hat - q|_1 at a sharpness, to about so many digits."""
        with mpmath.workdps(digits + 10):
            pairs = zip(self.at(sharpness, digits=digits), self.target, strict=True)
            return mpmath.fsum(abs(value - mpmath.mpf(want.numerator) / want.denominator) for value, want in pairs)

    @cached_property
    def values(self) -> tuple[float, ...]:
        """q_hat at the construction's own sharpness, rounded to floats; what the weights compute if `holds`."""
        return tuple(float(value) for value in self.at(self.sharpness))

    @cached_property
    def error(self) -> float:
        """|q_hat - q|_1 at the construction's own sharpness, rounded to a float."""
        return float(self.error_at(self.sharpness))

    @cached_property
    def _leading_error(self) -> tuple[Fraction | None, Fraction]:
        """Near 0 the terms of lowest order of |q_hat_t - q_t|, over the tokens t, add up."""
        least, total = None, Fraction(0)
        for output, want in zip(self.outputs, self.target, strict=True):
            leading = (output - output.field.constant(want)).leading()
            if leading is None or (least is not None and leading[0] > least):
                continue
            if least is None or leading[0] < least:
                least, total = leading[0], Fraction(0)
            total += abs(leading[1])
        return (None if least is None else Fraction(least, self.threshold.steps)), total
