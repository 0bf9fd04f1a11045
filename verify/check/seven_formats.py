"""The bound of the seven layers executed in a format: what must hold for it, and what rounds.

Predictions, mismatches and credits are sums of integers, exact as long as these fit; so are the leaks' remains lost in
them, but for a number that a leak moves from 0, which the unit that reads it must not have at its threshold.
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from verify.check.exact import Number, columns, require
from verify.check.formats import (
    FORMATS,
    add_rounding,
    ceil_log2,
    check_leaks,
    check_scores,
    check_weights,
    sizes,
    spread,
)
from verify.check.model import Model

LARGEST = 2**24
"""float32 holds integers to this."""


def check_seven_exact(model: Model, form: str, average: Sequence[Fraction], reach: Number, mismatch: Number) -> None:
    """What the bound needs of a format; `reach` is how much a leak moves a unit, `mismatch` the largest mismatch.

    Layer 3 adds up numbers of codes, no more than a mismatch; layer 4 twice a mismatch and 3; layers 6 and 7 a weight
    and what `seven_rounded` counts.
    """
    bits, fail = FORMATS[form][0], f"{form} is not proved: "
    check_leaks(model, form, average, [max(reach, spread(head)) for head in model.heads])
    check_weights(model, form)
    check_scores(model, form, (0, 1, 4))
    from_zero = {c for head in model.heads for row in head.values for c in columns(head.values) if not row.get(c)}
    size, written = sizes(model), Counter[int]()
    for unit in model.units[1]:
        if unit.column.keys() & from_zero:
            even = all(weight % 2 == 0 for weight in unit.column.values())
            require(even and unit.bias % 2 == 1, fail + "a unit may have its threshold at a number that a leak moves")
        most = max(0, model.most(unit, "eq"), model.most(unit, "y"))
        terms = abs(unit.bias) + sum(abs(weight) * size[c] for c, weight in unit.column.items())
        require(terms <= LARGEST and most <= 2**bits, fail + "units of layer 2 reach too far")
        for c, weight in unit.out.items():
            written[c] += most * abs(weight)
    read = [size[c] for unit in model.units[1] for c in unit.column]
    require(max([0, *written.values()]) <= LARGEST and max([0, *read]) <= 2**bits, fail + "sums reach too far")
    require(mismatch <= 2**bits and 2 * mismatch + 3 <= LARGEST, fail + "a mismatch is too large")


def seven_rounded(model: Model, form: str, real: Sequence[Fraction], together: int, squared: int) -> Fraction:
    """Twice the real bound, and what rounds: the average, and a weight among integers up to 2 N in layer 7.

    The gate adds 0 to a weight. A partial sum of the terms +-2 c_i^2 and -2 N, N the squared length of a code, is at
    most 2 N; with the weight it enters the binades up to the first power of two above 2 N + 1.
    """
    top = (2 * squared + 1).bit_length()
    exact = 2 * squared + 1 <= 2 ** max(0, 24 - FORMATS[form][0] - ceil_log2(model.examples) - 1)
    return add_rounding(form, real, together, [2**top - 1] * len(model.tasks), exact=exact)
