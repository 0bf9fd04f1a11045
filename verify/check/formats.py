"""The bound of the program as executed in a format: what must hold for it, and what rounds.

verify/rounding.py states what is assumed of the machine: sums in float32, in any order; exp with a relative error of at
most 2^-10, exact at 0; conversions to nearest.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

from verify.check.exact import Number, Row, columns, dot, require, times
from verify.check.model import Head, Model

FORMATS = {"float32": (24, -149), "bfloat16": (8, -133), "float16": (11, -24)}
"""The bits, and the exponent of the least number, of each format."""


def check_exact(model: Model, form: str, average: Sequence[Fraction]) -> None:
    """What the bound of the two layers executed in a format needs (verify/rounding.py has the assumptions).

    Leaks are lost in rounding; weights are integers that fit, but for the queries; integers and scores are exact.
    """
    bits = FORMATS[form][0]
    read = (columns(head.values) for head in model.heads)
    gates = [max([1, *(abs(weight) for c in at for weight in model.mlp(0, "w_in")[c].values())]) for at in read]
    check_leaks(model, form, average, [spread(head) * gate for head, gate in zip(model.heads, gates, strict=True)])
    check_weights(model, form)
    size, written = sizes(model), Counter[int]()
    for unit in model.units[0]:
        most = max(0, *(model.most(unit, role) for role in model.fixed))
        terms = abs(unit.bias) + sum(abs(weight) * size[c] for c, weight in unit.column.items())
        require(terms <= 2**24 and most <= 2**bits, f"{form} is not proved: units of layer 1 reach too far")
        for c, weight in unit.out.items():
            written[c] += most * abs(weight)
    fits = max(size.values()) <= 2**bits and max([0, *written.values()]) <= 2**24
    require(fits, f"{form} is not proved: sums reach too far")
    check_scores(model, form, (0, 1))


def spread(head: Head) -> Number:
    """How far what a read head writes to a coordinate ranges, at least 1."""
    parts = [[0, *(row.get(c, 0) for row in head.values)] for c in columns(head.values)]
    return max([1, *(max(part) - min(part) for part in parts)])


def sizes(model: Model) -> Row:
    """The most that a coordinate can be, before any unit: what positions, tokens and read heads give."""
    size: Row = defaultdict(int)
    for rows in (model.place, model.token, *(head.values for head in model.heads)):
        for c in columns(rows):
            size[c] += max(abs(row.get(c, 0)) for row in rows)
    return size


def check_leaks(model: Model, form: str, average: Sequence[Fraction], reach: Sequence[Number]) -> None:
    """Leaks are lost in the rounding: of each read head times how far it reaches, and of the average by m'."""
    fail = f"{form} is not proved: "
    for head, most in zip(model.heads, reach, strict=True):
        require(head.leak * most <= Fraction(1, 2**28), fail + "a read leaks too much")
        require(not len(head.targets) & (len(head.targets) - 1), fail + "a read divides by no power of two")
    require(max(leak * shown for shown, leak in enumerate(average)) <= Fraction(1, 2**26), fail + "the average leaks")


def check_weights(model: Model, form: str) -> None:
    """Weights fit the format; but for the queries', they are integers."""
    bits, smallest = FORMATS[form]
    for name, tensor in model.tensors.items():
        distinct = {abs(weight) for row in tensor.rows for weight in row.values()}
        for over, under in ((weight.numerator, weight.denominator) for weight in distinct):
            exponent = over.bit_length() - under.bit_length() + 1
            fits = (over // (over & -over)).bit_length() <= bits and smallest + bits <= exponent <= 15
            whole = under == 1 or name.endswith("attention.query")
            require(fits and whole, f"{form} is not proved: a weight of {name}")


def check_scores(model: Model, form: str, layers: Sequence[int]) -> None:
    """Queries, keys and scores are exact in the format."""
    bits = FORMATS[form][0]
    for layer in layers:
        for number in range(model.head_count(layer)):
            sides = [on_grid(model, layer, number, side) for side in (0, 1)]
            exact = max(0, *sides[0].values(), *sides[1].values()) <= 2**bits
            require(exact, f"{form} is not proved: a query or key is not exact")
            exact = dot(*sides) <= 2 ** (24 if form == "float32" else bits)
            require(exact, f"{form} is not proved: a score is not exact")


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
    """The bound of the two layers as executed, from what a unit's integers round beside one weight."""
    terms = dict.fromkeys(model.evidence, 0)  # the largest sum of integers beside each weight
    for unit in model.units[1]:
        for at in unit.column.keys() & terms.keys():
            beside = sum(abs(weight) for c, weight in unit.column.items() if c != at)
            terms[at] = max(terms[at], math.ceil(max(beside, abs(unit.bias))) + 1)
    binades = sorted((ceil_log2(most) if most else 0 for most in terms.values()), reverse=True)
    exact = binades[0] + ceil_log2(model.examples) + 1 + FORMATS[form][0] <= 24
    return add_rounding(form, real, together, [2**binade - 1 for binade in binades], exact=exact)


def add_rounding(form: str, real: Sequence[Fraction], together: int, steps: Sequence[int], *, exact: bool) -> Fraction:
    """Twice the real bound, and three things that round: the average, a unit's integers and one weight, the answers.

    u is the unit of the format, v that of sums in float32. A unit's sum rounds in each binade that it enters: `steps`
    by task, the largest first, in units of v; not at all in a narrow format whose weights are on so coarse a grid
    (`exact`). At one example at most `together` tasks have a weight.
    """
    u, v, tasks, narrow = Fraction(1, 2 ** FORMATS[form][0]), Fraction(1, 2**24), len(steps), form != "float32"
    exact = exact and narrow

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
