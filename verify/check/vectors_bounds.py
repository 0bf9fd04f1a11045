"""Vectors: the figures of the lemmas, and the bounds, from the free numbers of weights that have the form.

The argument is that of docs/theory/vectors.md. Here are floats: each figure is worked out with an error far below
2^-34 of it (math.exp, log and sqrt are taken to be off by less than 2^-45) and then raised, or lowered, by 2^-34. A
figure of the certificate must be on the safe side of that, and hardly beyond. One analysis serves real arithmetic (u =
0) and float32 (u = 2^-24), in any order of summation: a sum of n products loses at most n u of the absolute values, or
u sum_i (depth_i + 1) |t_i| with the largest terms deepest; a term far below the sum costs at most itself once more; exp
is off by (8 + 4 |t|) u, relatively, and by a factor of 2 at the most below t = -24; a division by 2 u.
"""

import math
from functools import cached_property
from typing import Any, NamedTuple

from verify.check.exact import require
from verify.check.vectors_form import Claim, Free, single

OUTWARD = 1 + 2.0**-34
ROOM = 1 + 2.0**-20
"""Vectors may be so much longer than their bounds, and y: room for rounding them to float32."""
UNIT = 2.0**-24


class Up(NamedTuple):
    """A figure that may not be below this, and only a little above."""

    value: float
    near: float = 1e-3
    more: float = 5e-13


class Down(NamedTuple):
    """A figure that may not be above this, and only a little below."""

    value: float


def pin(claimed: Any, found: Any, where: str) -> None:
    """Refuse a figure that is not on the safe side of what was found, or that is too far beyond.

    `near` (relatively) and `more` are the prover's own float64 slack: a figure so little above is true all the same.
    """
    if isinstance(found, list):
        require(type(claimed) is list and len(claimed) == len(found), f"{where} is no list of {len(found)}")
        for place, part in enumerate(found):
            pin(claimed[place], part, f"{where}[{place}]")
    elif isinstance(found, Up | Down):
        require(type(claimed) is float and math.isfinite(claimed), f"{where} is no number")
        near, more = (found.near, found.more) if isinstance(found, Up) else (1e-4, 0.0)
        slack = near * abs(found.value) + more
        raised = found.value + abs(found.value) * (OUTWARD - 1) * (1 if isinstance(found, Up) else -1)
        away = claimed - raised if isinstance(found, Up) else raised - claimed
        require(0 <= away <= slack, f"{where} is {claimed!r}, but {found.value!r} was found")
    else:
        require(type(claimed) is type(found) and claimed == found, f"{where} is {claimed!r:.60}, not {found!r:.60}")


def norm(row: list[float]) -> float:
    """The Euclidean norm."""
    return math.sqrt(math.fsum(number * number for number in row))


def summed(terms: list[float]) -> float:
    """sum_i (depth_i + 1) t_i for n terms above 0: n times the largest, then n, n - 1, .. 2 times the others."""
    falling = sorted((term for term in terms if term > 0), reverse=True)
    count = len(falling)
    return math.fsum(term * (count if place < 1 else count - place + 1) for place, term in enumerate(falling))


class Weight(NamedTuple):
    """Of one task's head after m' examples of which c follow: what the input gets at most, how far from c/m' that is.

    `elsewhere` is what other inputs, BOS and EQ get at most.
    """

    most: float
    error: float
    elsewhere: float


class Bounds:
    """The lemmas in order."""

    def __init__(self, claim: Claim, free: Free) -> None:
        self.claim, self.free = claim, free
        self.z = math.exp(-claim.sharpness)
        self.reach = claim.bound * ROOM
        self.longest = max(claim.bound, claim.answer_bound) * ROOM
        self.found: dict[float, list[float]] = {}  # what `least` found
        self.read_leaks()

    def differing(self, example: int, place: int) -> list[tuple[int, int]]:
        """The mismatches (of examples, of inputs) of every input before the EQ or y of an example but its target."""
        n = self.claim.size.inputs
        pairs = [(other, j) for other in range(example + 1) for j in range(n) if (other, j) != (example, place)]
        return [((other ^ example).bit_count(), (j ^ place).bit_count()) for other, j in pairs]

    def leak(self, place: int, example: int) -> float:
        """Lemma 1: the weight of all but the target at the y of an example, relative to that of the target."""
        inputs = math.fsum(self.z ** (one + two) for one, two in self.differing(example, place))
        return inputs + (2 * example + 3) * self.z**2

    def read_leaks(self) -> None:
        """Lemma 1: the most attention that goes elsewhere, by the input that is read."""
        self.leaks: dict[int, float] = {}
        if self.claim.attention:
            return
        for place in sorted({task.place for task in self.claim.tasks}):
            worst = max(self.leak(place, example) for example in range(self.claim.size.examples))
            self.leaks[place] = worst / (1 + worst)

    def least(self, unit: float) -> list[float]:
        """Lemma 2 for every task: the excess that an example has at least which does not follow it."""
        if unit not in self.found:
            one = self.by_attention if self.claim.attention else self.by_fingerprint
            self.found[unit] = [one(number, unit) for number in range(len(self.claim.tasks))]
        return self.found[unit]

    def by_fingerprint(self, number: int, unit: float) -> float:
        """Lemma 2: D_i = F_i (g(x) - y) is seen up to `rest`: the stored map, the leak, and rounding."""
        claim, task = self.claim, self.claim.tasks[number]
        d, least = claim.size.dim, math.inf
        for row, stored, both in zip(claim.rows, self.free.maps[number], self.free.thresholds[number], strict=True):
            mapped = [math.fsum(row[i] * task.matrix[i][j] for i in range(d)) for j in range(d)]
            offset = math.fsum(a * b for a, b in zip(row, task.offset, strict=True))
            size = norm(stored) * self.longest
            rest = self.reach * norm([a - b for a, b in zip(mapped, stored, strict=True)])
            rest += (4 if unit else 2) * self.leaks[task.place] * size + 2.0**-49 * (abs(offset) + claim.margin)
            own, entries = self.reach * norm(stored), sum(1 for number in row if number)
            # The vector is attended (12 roundings are enough), d products are added up, and then what a unit reads.
            rest += unit * (
                (d + 12) * own + (entries + 4) * (own + norm(row) * self.longest + abs(offset) + claim.margin)
            )
            for sign, bias in zip((1, -1), both, strict=True):
                middle = bias - sign * offset
                require(claim.margin / 4 + middle + rest <= 0, f"an example that follows task {number} has an excess")
                least = min(least, claim.margin + middle - rest)
        require(least >= 0.75 * claim.margin / 4, f"an example a margin from task {number} has too small an excess")
        return least

    def by_attention(self, number: int, unit: float) -> float:
        """Lemma 2': the doubt is the attention on BOS beside the input, and is below 1/2 or above it."""
        claim, task = self.claim, self.claim.tasks[number]
        d, nu = claim.size.dim, claim.margin**2 / 16
        top, a = 1 + nu, task.matrix
        asked = [[_single_product(claim, number) for number in row] for row in a]
        scale = math.fsum(x * y for r, s in zip(asked, a, strict=True) for x, y in zip(r, s, strict=True))
        scale /= math.fsum(x * x for r in a for x in r)
        gram = (
            norm([math.fsum(row[i] * row[j] for row in a) - (i == j) for i in range(d) for j in range(d)])
            + 2.0**-50 * d * d
        )
        off = norm([x - scale * y for r, s in zip(asked, a, strict=True) for x, y in zip(r, s, strict=True)]) * top
        low = (2 - 2 * nu - top * gram - (claim.margin / 4) ** 2) / 2
        high = (2 + 2 * nu + top * gram - claim.margin**2) / 2
        most = scale * math.sqrt(1 + gram) * top + off
        edge = _edge(claim)
        lost = unit * self._products(scale, edge, gram, a)
        ahead, behind = scale * low - off - edge - 2 * lost, edge - scale * high - off - 2 * lost
        others = 0.0
        for example in range(claim.size.examples):
            inputs = [math.exp(-claim.sharpness * sum(pair)) for pair in self.differing(example, task.place)]
            rest = math.fsum(inputs) + (2 * example + 2) * self.z**2
            others = max(others, rest * math.exp(min(most - edge + 2 * lost, 700.0)))
        others *= 2 if unit else 1
        stray, slack = others / (1 + others), 200 * unit
        near = 1 / (1 + math.exp(min(ahead, 700.0))) + 2 * stray + slack
        far = 1 / (1 + math.exp(min(-behind, 700.0)) + others) - 2 * stray - slack
        require(near - 0.5 + 4 * unit <= 0, f"an example that follows task {number} has an excess")
        least = far - 0.5 - 4 * unit
        require(least >= 0.75 * 0.25, f"an example a margin from task {number} has too small an excess")
        return least

    def _products(self, scale: float, edge: float, gram: float, a: list[list[float]]) -> float:
        """What rounding moves a score of layer 1 by, in units of u; queries sum d products a column, keys few."""
        _, d, _, _, bits, input_bits, _ = self.claim.size
        fixed = 4 * self.claim.sharpness * (2 * bits + input_bits + 2) + edge
        row_sums = [math.fsum(abs(entry) for entry in row) for row in a]
        column_sums = [math.fsum(abs(row[j]) for row in a) for j in range(d)]
        # The largest singular value of |A|: at most the root of its largest sums, and at most sqrt(d).
        wide = min(math.sqrt(max(row_sums) * max(column_sums)), math.sqrt(d) * (1 + gram))
        top = 1 + self.claim.margin**2 / 16
        both, once = fixed + top * scale * wide, fixed + top * scale * (1 + gram)
        return ((max(d, 2) + 1) * both + (2 * bits + d + input_bits + 8) * once) * 1.001

    def tally(self, number: int, unit: float) -> list[tuple[float, float]]:
        """Lemmas 3 and 4: the logarithm at EQ for c = 0 .. m as (value, radius)."""
        _, _, n, m, *_ = self.claim.size
        differ = math.exp(-self.free.strength[number] * self.least(unit)[number] * (1 - 2.0**-40))
        twice = 2.0 if unit else 1.0
        extra = twice * (m * differ + (m + 1) * (n + 1) * self.z**2)
        units, found = self.free.logarithm[number], []
        for c in range(m + 1):
            share = 1 / (1 + c)
            apart = max(
                share * (1 + 2 * unit) * (1 + 4 * unit) - share,
                share - (1 - 2 * unit) * (1 - 4 * unit) / (1 + c + twice * extra),
            )
            value, radius, sizes = [], [], []
            for slope, bias, weight in units:
                argument = slope * share + bias
                upper = argument + apart
                if upper > 0:
                    value.append(max(argument, 0.0) * weight)
                    radius.append((apart + unit * upper) * abs(weight))
                    sizes.append(upper * abs(weight))
            found.append((math.fsum(value), math.fsum(radius) + unit * summed(sizes)))
        return found

    def weigh(self, number: int, unit: float) -> list[list[Weight]]:
        """Lemma 5: by m' and c <= m', with T the target, S = 1 an example that differs, and everything else tiny."""
        claim, constant = self.claim, self.free.constants[number]
        m, bits, z, u = claim.size.examples, claim.size.bits, self.z, unit
        far, twice = (2.0, 2.0) if unit else (1.0, 1.0)
        logs, held = self.tally(number, unit), constant != 0
        largest = max(abs(value) + radius for value, radius in logs)
        targets = []
        for value, radius in logs:
            lost = u * (held + 1) * (abs(value) + radius) + u * abs(constant)
            targets.append((math.exp(constant + value - radius - lost), math.exp(constant + value + radius + lost)))
        table = []
        for shown in range(m + 1):
            others = 0.0
            for one, two in self.differing(shown, claim.tasks[number].place):
                count, most = one + (two > 0) + held, claim.sharpness * (one + two) + abs(constant)
                moved = u * (count * most + abs(constant) + (2 * bits + 5) * 2 * largest)
                others += math.exp(-claim.sharpness * (one + two) + moved)
            others *= far
            row = []
            for c in range(shown + 1):
                apart, (low_t, high_t) = shown - c, targets[c]
                tiny = twice * far * (c * z**2 + z + (shown + 1) * z**2)
                if c:
                    high, low = high_t / (high_t + apart), low_t / (low_t * (1 + twice * others) + apart + tiny)
                else:
                    high, low = high_t / (apart or z) * far**2, 0.0
                high, whole = min(high, 1.0), low_t + apart
                if u and c:
                    e = (8 + 4 * min(abs(math.log(high_t)), 24.0)) * u
                    both = e * max(high * (1 - high), low * (1 - low)) * (1 + e) + e**2 if apart else 0.0
                    terms = apart * max(high_t, 1.0) + apart * (apart + 1) / 2
                    lost = (both + high * (terms / whole + 2) * u) * 1.001
                    high, low = high + lost, low - lost
                wanted = c / max(shown, 1)
                elsewhere = min(1.0, others + tiny / whole) if c else 1.0
                row.append(Weight(high, max(high - wanted, wanted - low) + 2.0**-51, elsewhere))
            table.append(row)
        return table

    @cached_property
    def real_weights(self) -> list[list[list[Weight]]]:
        """Lemma 5 in real arithmetic, by task."""
        return [self.weigh(number, 0.0) for number in range(len(self.claim.tasks))]

    def answer(self, number: int, i: int | None, table: list[list[Weight]], unit: float) -> list[tuple[float, float]]:
        """What a task adds to coordinate i (None: to its weight) by m': how far off, and how large, at most."""
        task = self.claim.tasks[number]
        row, offset = ([], 1.0) if i is None else (task.matrix[i], task.offset[i])
        most, wrong = self.reach * norm(row) + abs(offset), 0.0
        if unit:
            entries = sorted((abs(entry) for entry in row if entry), reverse=True)
            count = len(entries) + (offset != 0)
            wrong = 3 * unit * most
            if not (count == 1 and [*entries, abs(offset)][0] == 1) and count:
                deep = [entry * (count if j < 1 else count - j + 1) for j, entry in enumerate(entries)]
                wrong += unit * (self.reach * norm(deep) + abs(offset) * (count + 1))
        found = []
        for weights in table:
            errors, sizes = [], []
            for c, weight in enumerate(weights):
                error = weight.error * most + weight.most * wrong + 2 * weight.elsewhere * most
                if not c:  # everything is elsewhere, where BOS and EQ have no value
                    error = weight.most * (2 * most + wrong)
                errors.append(error)
                sizes.append(weight.most * (most + wrong) + error)
            found.append((max(errors), max(sizes)))
        return found

    def rows(self, number: int) -> list[tuple[list[float], float]]:
        """The rows of a task's matrix, each with its offset."""
        return list(zip(self.claim.tasks[number].matrix, self.claim.tasks[number].offset, strict=True))

    def together(self, tables: list[list[list[Weight]]], unit: float) -> list[float]:
        """|q_hat - q|_max at the most, by m'."""
        tasks, m = range(len(self.claim.tasks)), self.claim.size.examples
        bounds = [0.0] * (m + 1)
        for i in range(self.claim.size.dim):
            parts = [self.answer(number, i, tables[number], unit) for number in tasks]
            for shown in range(m + 1):
                total = math.fsum(part[shown][0] for part in parts)
                sizes = [part[shown][1] for part in parts]
                lost = unit * (summed(sizes) - math.fsum(sizes)) if unit else 0.0
                bounds[shown] = max(bounds[shown], total + lost)
        return bounds

    def lemmas(self) -> dict[str, dict[str, Any]]:
        """The figures of every lemma."""
        tasks = range(len(self.claim.tasks))
        zeros = [0.0 for _ in tasks]
        logs = [self.tally(number, 0.0) for number in tasks]
        off = []
        for found in logs:
            first = found[1][0]
            worst = max(abs(v - first - math.log(c)) + r for c, (v, r) in enumerate(found) if c)
            off.append(Up(worst + (2.0**-49 if len(found) > 2 else 0.0), 1e-4))
        tables = self.real_weights
        told = [self.answer(number, None, tables[number], 0.0) for number in tasks]
        reach = math.fsum(max(self.reach * norm(r) + abs(b) for r, b in self.rows(number)) for number in tasks)
        own = [max(part[shown][0] for part in told) for shown in range(self.claim.size.examples + 1)]
        return {
            "reads": {"inputs": list(self.leaks), "leak": [Up(leak, 1e-6, 0.0) for leak in self.leaks.values()]},
            "excess": {"low": zeros, "high": zeros, "least": [Down(least) for least in self.least(0.0)]},
            "tally": {"off": off, "none": [Up(found[0][0] + found[0][1], 1e-6) for found in logs]},
            "agreement": {"agree": [Down(1.0) for _ in tasks], "disagree": zeros},
            "weights": {
                "inputs": [task.place for task in self.claim.tasks],
                "error": [Up(max(weight.error for row in table for weight in row), 1e-4) for table in tables],
            },
            "superposition": {
                "bounds": [Up(bound, more=5e-13 * reach) for bound in self.together(tables, 0.0)],
                "weights": [Up(bound) for bound in own],
                "matrix": zeros,
                "offset": zeros,
                "rest": 0.0,
            },
        }

    def float32(self) -> Up:
        """The bound of the program as executed in float32; refused where layer 1 is not sure of its bits."""
        tables = [self.weigh(number, UNIT) for number in range(len(self.claim.tasks))]
        return Up(max(self.together(tables, UNIT)), 1e-3)


def _single_product(claim: Claim, number: float) -> float:
    """What stands in the query for an entry of a matrix: Lambda times it, in float32."""
    return single(single(16 / claim.margin**2) * number)


def _edge(claim: Claim) -> float:
    """The score of BOS in the comparison by attention."""
    return single(single(16 / claim.margin**2) * single(1 - claim.margin**2 / 4))
