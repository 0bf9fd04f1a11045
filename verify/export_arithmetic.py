"""What a stock GPT-2 adds to the exact function of its weights: the layer norms' gain and shift, and rounding.

Three arithmetics: real numbers, float32, bfloat16. Assumed of the machine as executed (nothing else is):
  B1 weights and activations are stored in the format, a product with a matrix is summed in float32 (no TF32), in any
     order, with or without fused multiply-add, its bias added before the result is stored; conversions round to
     nearest; a sum of two stored numbers is rounded once;
  B2 the softmax takes exp(x), x <= 0, off by at most (4 + 2 |x|) units of float32, and divides by the sum with an
     error of at most 2 units; scores and weights are held in float32 or stored in the format;
  B3 a layer norm works in float32; its mean is off by at most `MEAN` units of float32 times the average size of the
     numbers (Welford's updates in chunks, or sums by parts), 1/sqrt(var + eps) and its two products by 2 units each;
  B4 a layer norm maps equal numbers at one position to equal numbers;
  B5 the columns of one product with a matrix are summed in one order, so that columns whose weights are each other's
     negatives give each other's negatives.
softmax(logits) is that of the logits as computed, in exact arithmetic.

A layer norm takes x to (x + s)(1 + d), with |s| <= shift common to all coordinates and |d| <= gain. In bfloat16 the
numbers x that enter are stored ones. If gain < 2^-9, rounding takes x (1 + d) back to x, and x + s to x where |s| <
(2^-9 - gain) |x|. Else |x| is so small that the result is off x by at most

    2 (shift + gain |x|) <= 2 shift (1 + gain / (2^-9 - gain)).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.exact import INFLATION, Float

V = 2.0**-24
MEAN = 64


@dataclass(frozen=True)
class Arithmetic:
    """How numbers are rounded.

    Args:
        name: "real", "float32" or "bfloat16".
        sums: the unit roundoff of sums, 0 in real arithmetic.
        storage: the unit roundoff of storing a sum, 0 where sums are stored as they are.
    """

    name: str
    sums: float
    storage: float

    @property
    def narrow(self) -> bool:
        """Whether numbers are stored in fewer bits than they are summed in."""
        return self.storage > 0

    def cast(self, values: NDArray[np.floating]) -> Float:
        """Weights as they are stored in the format, float64."""
        if self.name == "real":
            return values.astype(np.float64)
        single = values.astype(np.float32)
        if not self.narrow:
            return single.astype(np.float64)
        bits = single.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


REAL = Arithmetic("real", 0.0, 0.0)
FLOAT32 = Arithmetic("float32", V, 0.0)
BFLOAT16 = Arithmetic("bfloat16", V, 2.0**-8)
ARITHMETICS = (REAL, FLOAT32, BFLOAT16)


@dataclass(frozen=True)
class Norm:
    """One layer norm at one class of positions.

    Args:
        gain: the relative error of what it multiplies by.
        shift: the most that is added to all coordinates alike.
        arithmetic: how it is computed.
    """

    gain: float
    shift: float
    arithmetic: Arithmetic

    @property
    def _small(self) -> float:
        """In a narrow format: how far a stored number can be off after the norm, whatever it is."""
        room = self.arithmetic.storage / 2 - self.gain
        return 2 * self.shift * (1 + self.gain / room) * INFLATION if room > 0 else np.inf

    def keeps(self, size: float) -> bool:
        """In a narrow format: whether a stored number of at least this size is the same after the norm."""
        room = self.arithmetic.storage / 2 - self.gain
        return room > 0 and size > self.shift / room * INFLATION

    def error(self, size: Float | float, off: Float | float = 0.0) -> Float:
        """How far a coordinate of ideal value `size` at most, off by `off`, can be off after the norm."""
        most = np.asarray(size, dtype=np.float64) + off
        plain = (self.gain * most + self.shift) * INFLATION
        if not self.arithmetic.narrow:
            return np.asarray(off + plain)
        stored = plain + self.arithmetic.storage * (most + plain)
        return np.asarray(off + np.minimum(stored, self._small))

    def argument(self, weights: Float, ideal: Float, off: Float) -> Float:
        """How far sum_i w_i x_i, over the last axis, can be off: the shift is common to all coordinates.

        In a narrow format numbers that are large enough stay as they are, and the shift is common to those that are
        exactly 0; or it is common to all, and each is rounded. The better of the two counts.

        Args:
            weights: w, shape [..., coordinates].
            ideal: x, without errors.
            off: how far x is off before the norm.
        """
        size = np.abs(weights)
        # The shift is common, and each number is off by the gain, and by being stored, on its own.
        own = (self.gain + self.arithmetic.storage * (1 + self.gain)) * INFLATION
        each = off * (1 + own) + own * np.abs(ideal) + (8 * self.arithmetic.sums + own) * self.shift
        alike = (self.shift * np.abs(weights.sum(axis=-1)) + (size * each).sum(axis=-1)) * INFLATION
        if not self.arithmetic.narrow:
            return np.asarray(alike)
        room = self.arithmetic.storage / 2 - self.gain
        if room <= 0:
            return np.asarray(alike)
        zero = (ideal == 0) & (off == 0)
        together = np.abs((weights * zero).sum(axis=-1)) * self.shift * (1 + 2 * self.arithmetic.storage)
        stays = np.abs(ideal) - off > self.shift / room * INFLATION
        each = np.where(zero, 0.0, off + np.where(stays, 0.0, self.error(np.abs(ideal), off) - off))
        return np.asarray(np.minimum(alike, (together + (size * each).sum(axis=-1)) * INFLATION))


def accumulated(arithmetic: Arithmetic, terms: Float | int, size: Float | float) -> Float:
    """What summing `terms` numbers, of absolute values `size` in all, can lose in any order."""
    return np.asarray(np.asarray(terms, dtype=np.float64) * arithmetic.sums * size * INFLATION)
