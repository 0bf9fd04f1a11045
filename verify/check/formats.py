"""The bound of the program as executed in a format: what must hold for it, and what rounds.

verify/rounding.py states what is assumed of the machine: sums in float32, in any order; exp with a relative error of at
most 2^-10, exact at 0; conversions to nearest.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

from verify.check.exact import Row, columns, dot, require, times
from verify.check.model import Model

FORMATS = {"float32": (24, -149), "bfloat16": (8, -133), "float16": (11, -24)}
"""The bits, and the exponent of the least number, of each format."""


def check_exact(model: Model, form: str, average: Sequence[Fraction]) -> None:
    """What the bound of a program executed in a format needs (verify/rounding.py has the assumptions).

    Leaks are lost in rounding; weights are integers that fit, but for the queries; integers and scores are exact.
    """
    bits, smallest = FORMATS[form]
    fail = f"{form} is not proved: "
    size: Row = defaultdict(int)  # the most that a coordinate can be, before the units of layer 1
    for rows in (model.place, model.token, *(head.values for head in model.heads)):
        for c in columns(rows):
            size[c] += max(abs(row.get(c, 0)) for row in rows)
    for head in model.heads:
        parts = [[0, *(row.get(c, 0) for row in head.values)] for c in columns(head.values)]
        spread = max((max(part) - min(part) for part in parts), default=0)
        gate = max([1, *(abs(weight) for c in columns(head.values) for weight in model.mlp(0, "w_in")[c].values())])
        require(head.leak * max(1, spread) * gate <= Fraction(1, 2**28), fail + "a read leaks too much")
        require(not len(head.targets) & (len(head.targets) - 1), fail + "a read divides by no power of two")
    require(max(leak * shown for shown, leak in enumerate(average)) <= Fraction(1, 2**26), fail + "the average leaks")
    for name, tensor in model.tensors.items():
        distinct = {abs(weight) for row in tensor.rows for weight in row.values()}
        for over, under in ((weight.numerator, weight.denominator) for weight in distinct):
            exponent = over.bit_length() - under.bit_length() + 1
            fits = (over // (over & -over)).bit_length() <= bits and smallest + bits <= exponent <= 15
            require(fits and (under == 1 or name.endswith("attention.query")), fail + f"a weight of {name}")
    written: Row = defaultdict(int)
    for unit in model.units[0]:
        most = max(0, *(model.most(unit, role) for role in model.fixed))
        terms = abs(unit.bias) + sum(abs(weight) * size[c] for c, weight in unit.column.items())
        require(terms <= 2**24 and most <= 2**bits, fail + "units of layer 1 reach too far")
        for c, weight in unit.out.items():
            written[c] += most * abs(weight)
    require(max(size.values()) <= 2**bits and max([0, *written.values()]) <= 2**24, fail + "sums reach too far")
    for layer in (0, 1):
        for number in range(model.tensors[f"layers.{layer}.attention.query"].shape[0]):
            sides = [on_grid(model, layer, number, side) for side in (0, 1)]
            require(max(0, *sides[0].values(), *sides[1].values()) <= 2**bits, fail + "a query or key is not exact")
            require(dot(*sides) <= 2 ** (24 if form == "float32" else bits), fail + "a score is not exact")


@cache
def on_grid(model: Model, layer: int, number: int, side: int) -> Row:
    """For each column of a head's query or key, the largest sum of absolute values, in steps of its weights' grid."""
    matrix = model.attention(layer, number)[side]
    weights = [weight for row in matrix for weight in row.values()]
    scale = math.lcm(*(weight.denominator for weight in weights), 1)
    common = math.gcd(*(int(weight * scale) for weight in weights))
    step = Fraction(common & -common or 1, scale)
    absolute: list[Row] = [{d: int(abs(weight) / step) for d, weight in row.items()} for row in matrix]
    most: Row = defaultdict(int)
    for rows in (model.place, model.token):
        found = [times({c: abs(value) for c, value in row.items()}, absolute) for row in rows]
        for d in columns(found):
            most[d] += max(row.get(d, 0) for row in found)
    return most


def rounded_bound(model: Model, form: str, real: Sequence[Fraction], together: int) -> Fraction:
    """Twice the real bound, and three things that round: the average, a unit's integers and one weight, the answers.

    u is the unit of the format, v that of sums in float32. A unit's sum rounds in each binade that it enters. At one
    example at most `together` tasks have a weight.
    """
    u, v, tasks, narrow = Fraction(1, 2 ** FORMATS[form][0]), Fraction(1, 2**24), len(model.tasks), form != "float32"
    terms = dict.fromkeys(model.evidence, 0)  # the largest sum of integers beside each weight
    for unit in model.units[1]:
        for at in unit.column.keys() & terms.keys():
            beside = sum(abs(weight) for c, weight in unit.column.items() if c != at)
            terms[at] = max(terms[at], math.ceil(max(beside, abs(unit.bias))) + 1)
    binades = sorted((ceil_log2(most) if most else 0 for most in terms.values()), reverse=True)
    steps = [2**binade - 1 for binade in binades]
    exact = narrow and binades[0] + ceil_log2(model.examples) + 1 + FORMATS[form][0] <= 24

    @cache
    def partial_sums(count: int, parts: int) -> Fraction:
        """Half a unit of each partial sum of 1/parts + 1/parts + .., in units of v: 2^floor(log2(sum * 129/128))."""
        halves = 0.0  # powers of two, in floats: exact
        for over, under in ((number * 129, parts * 128) for number in range(2, count + 1)):
            power = 2.0 ** (over.bit_length() - under.bit_length())
            halves += power if over >= under * power else power / 2
        return Fraction(halves)

    worst = Fraction(0)
    for shown in range(1, len(real)):
        active, dyadic = min(tasks, shown * together), shown & (shown - 1) == 0 and shown * u <= 1
        weights = min(together, active)
        sums = weights * (0 if dyadic else 2 + partial_sums(shown, shown)) + partial_sums(active, 1)
        stored = (0 if dyadic else 2) + (not exact) + (active > 1) if narrow else 0
        rounds = v * (sums + (0 if exact else sum(steps[:active]))) + u * weights * stored
        worst = max(worst, 2 * real[shown] + rounds * (1 + 16 * u))
    return worst


def ceil_log2(value: int) -> int:
    """The least e with value <= 2^e, for value >= 1."""
    return (value - 1).bit_length()
