"""What the weights compute: what heads attend to and write, what each hidden unit reads, where nothing is written."""

import math
from collections import Counter, defaultdict
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from verify.check.exact import Number, Row, columns, dot, exp_above, require, rounded_up, times, used
from verify.check.files import Task, Tensor

Pattern = tuple[tuple[int, Number], ...]  # (coordinate, weight): how a unit reads what a head writes


class Head(NamedTuple):
    """A read head of layer 1: its targets, its leaks, what it writes for each token (for BOS and EQ nothing)."""

    targets: list[int]
    leak_eq: list[Fraction]  # by example
    leak_y: list[Fraction]
    leak: Fraction  # the largest
    values: list[Row]


class Part(NamedTuple):
    """What a unit gets of one head: for each token that the head may attend to, and the range over all positions."""

    by_token: list[Number]
    low: Number
    high: Number


class Unit(NamedTuple):
    """A hidden unit: its weights, and what each role (bias and position), its own token and the heads give it.

    `out` is what it writes; for the last layer, what it adds to the output.
    """

    column: Row
    bias: Number
    fixed: dict[str, Number]
    own: Row
    heads: dict[int, Part]
    out: Row


class Model:
    """The weights, and what stands at the positions of each role; the layers in `reading` have the read heads."""

    def __init__(
        self,
        tensors: dict[str, Tensor],
        tasks: list[Task],
        sizes: tuple[int, ...],
        evidence: range,
        *,
        depth: int = 2,
        reading: tuple[int, ...] = (0,),
    ) -> None:
        self.tensors, self.tasks, self.evidence, self.depth = tensors, tasks, evidence, depth
        self.alphabet, self.inputs, self.examples = V, n, m = sizes
        self.place, self.token = tensors["embedding.position"].rows, tensors["embedding.token"].rows[:V]
        self.output = tensors["unembedding"].rows
        self.check_shapes()
        blocks = [range(1 + i * (n + 2), 1 + (i + 1) * (n + 2)) for i in range(m + 1)]
        self.blocks = [[at for at in block if at < len(self.place)] for block in blocks]
        roles = {"bos": [0], "x": [at for block in blocks for at in block[:n]]}
        roles |= {"eq": [block[n] for block in blocks], "y": [block[n + 1] for block in blocks[:-1]]}
        # What a position gives depends on its role alone, but for the coordinates that vary.
        self.fixed = {role: self.place[at[0]] for role, at in roles.items()}
        pairs = [(self.place[at].items(), self.fixed[role].items()) for role, places in roles.items() for at in places]
        self.varying = {c for here, first in pairs for c, _ in here ^ first}
        self.heads = [self.read_head(layer, number) for layer in reading for number in range(self.head_count(layer))]
        self.read = {c for head in self.heads for c in columns(head.values)}
        self.codes = columns(self.mlp(0, "w_out")) - set(evidence)
        self.units = [self.find_units(layer) for layer in range(depth)]

    def check_shapes(self) -> None:
        """Every tensor is there, with the shape that V, n, m and the other tensors ask for."""
        d = self.tensors["embedding.token"].shape[1]
        expected: dict[str, tuple[int, ...]] = {"embedding.token": (self.alphabet + 2, d)}
        expected["embedding.position"] = ((self.examples + 1) * (self.inputs + 2), d)
        expected["unembedding"] = (d, self.alphabet)
        for layer in (f"layers.{number}" for number in range(self.depth)):
            h, _, d_qk = self.tensors[f"{layer}.attention.query"].shape
            d_value, width = (self.tensors[f"{layer}.{name}"].shape[-1] for name in ("attention.value", "mlp.w_in"))
            expected |= {f"{layer}.attention.{name}": (h, d, d_qk) for name in ("query", "key")}
            expected |= {f"{layer}.attention.value": (h, d, d_value), f"{layer}.attention.output": (h, d_value, d)}
            expected |= {f"{layer}.mlp.w_in": (d, width), f"{layer}.mlp.bias_in": (width,)}
            expected |= {f"{layer}.mlp.w_out": (width, d), f"{layer}.mlp.bias_out": (d,)}
        require({name: tensor.shape for name, tensor in self.tensors.items()} == expected, "the tensors do not fit")
        require(self.evidence.start >= 0 and self.evidence.stop <= d, "there is no place for the evidence")
        require(len(self.evidence) == len(self.tasks), "there is not one evidence for each task")
        require(not any(self.tensors["embedding.token"].rows[self.alphabet :]), "BOS or EQ has an embedding")

    def head_count(self, layer: int) -> int:
        """The heads of a layer."""
        return self.tensors[f"layers.{layer}.attention.query"].shape[0]

    def attention(self, layer: int, head: int) -> list[list[Row]]:
        """Wq, Wk, Wv, Wo of a head."""
        tensors = [self.tensors[f"layers.{layer}.attention.{name}"] for name in ("query", "key", "value", "output")]
        return [rows[head * shape[1] : (head + 1) * shape[1]] for shape, rows in tensors]

    def mlp(self, layer: int, name: str) -> list[Row]:
        """W1 (w_in), W2 (w_out), or a bias as a matrix of one row."""
        return self.tensors[f"layers.{layer}.mlp.{name}"].rows

    def read_head(self, layer: int, number: int) -> Head:
        """Lemma 1: every EQ and y attends to the same inputs of its own example, elsewhere at most the leaks.

        The key of input (or EQ, y) p in example i is key(0, p) + key(i, 0) - key(0, 0), exactly. So the scores of a
        query are a number for each p plus one for each example; a key that scores g less weighs exp(-g) of a target.
        """
        query, key, value, output = self.attention(layer, number)
        require(not columns(self.token) & (used(query) | used(key)), f"scores of head {number} depend on tokens")
        require(not columns(self.place) & used(value), f"values of head {number} depend on positions")
        width = self.tensors[f"layers.{layer}.attention.query"].shape[2]
        scale = math.lcm(*(weight.denominator for row in query for weight in row.values()), 1)
        keys = [[row.get(d, 0) for d in range(width)] for row in (times(row, key) for row in self.place)]
        block = [keys[at] for at in self.blocks[0]]
        steps = [[a - b for a, b in zip(keys[places[0]], block[0], strict=True)] for places in self.blocks]
        for step, places in zip(steps, self.blocks, strict=True):
            sums = ([a + b for a, b in zip(first, step, strict=True)] for first in block)
            require(all(keys[at] == row for at, row in zip(places, sums)), "keys are not by example and place")  # noqa: B905
        weigh = cache(lambda gap: exp_above(Fraction(gap, scale)))
        targets: list[int] = []
        leaks: list[list[Fraction]] = []
        for place, count in ((self.inputs, self.examples + 1), (self.inputs + 1, self.examples)):  # EQ, y
            leaks.append([])
            for i in range(count):
                asked = times(self.place[self.blocks[i][place]], query)
                pairs = [(d, int(weight * scale)) for d, weight in asked.items()]
                bos, *scores = (sum(row[d] * weight for d, weight in pairs) for row in (keys[0], *block))
                jumps = [sum(step[d] * weight for d, weight in pairs) for step in steps[: i + 1]]
                own = [score + jumps[i] for score in scores[: place + 1]]
                best = max(own[: self.inputs])
                near = [j for j, score in enumerate(own[: self.inputs]) if score == best]
                targets = targets or near
                require(near == targets, f"head {number} attends to different inputs in different examples")
                others = Counter([bos, *(score for j, score in enumerate(own) if j not in near)])
                for jump, often in Counter(jumps[:i]).items():
                    for score in scores:
                        others[score + jump] += often
                require(max(others) + scale < best, f"head {number} attends elsewhere almost as much as to its targets")
                each = (often * weigh(best - score) for score, often in others.items())
                weight = sum(each, Fraction(0)) / len(near)
                leaks[-1].append(rounded_up(weight / (1 + weight)))
        values = [times(times(row, value), output) for row in self.token]
        return Head(targets, leaks[0], leaks[1], max(leaks[0] + leaks[1]), values)

    def find_units(self, layer: int) -> list[Unit]:
        """The hidden units of a layer."""
        w_in: list[Row] = [{} for _ in self.mlp(layer, "w_out")]
        for c, row in enumerate(self.mlp(layer, "w_in")):
            for unit, weight in row.items():
                w_in[unit][c] = weight
        writers, tokens = defaultdict(list), defaultdict(list)
        for number, head in enumerate(self.heads):
            for c in columns(head.values):
                writers[c].append(number)
        for token, row in enumerate(self.token):
            for c, value in row.items():
                tokens[c].append((token, value))

        @cache
        def part(number: int, pattern: Pattern) -> Part:
            weights = dict(pattern)
            found = [dot(row, weights) for row in self.heads[number].values]
            return Part(found, min(0, *found), max(0, *found))

        units = []
        for at, (column, out) in enumerate(zip(w_in, self.mlp(layer, "w_out"), strict=True)):
            bias = self.mlp(layer, "bias_in")[0].get(at, 0)
            patterns: dict[int, Row] = defaultdict(dict)
            own: Row = defaultdict(int)
            for c, weight in column.items():
                for number in writers.get(c, ()):
                    patterns[number][c] = weight
                for token, value in tokens.get(c, ()):
                    own[token] += value * weight
            units.append(
                Unit(
                    column,
                    bias,
                    {role: bias + dot(column, row) for role, row in self.fixed.items()},
                    dict(own),
                    {number: part(number, tuple(sorted(weights.items()))) for number, weights in patterns.items()},
                    out if layer < self.depth - 1 else times(out, self.output),
                )
            )
        return units

    def most_own(self, unit: Unit) -> Number:
        """The most that the token at its own position gives a unit."""
        return max([*unit.own.values(), *[0] * (len(unit.own) < self.alphabet)])

    def most(self, unit: Unit, role: str) -> Number:
        """The most that the argument of a unit of layer 1 can be at a role, whatever the heads attend to."""
        own = self.most_own(unit) if role in ("x", "y") else 0
        return unit.fixed[role] + own + sum(part.high for part in unit.heads.values())

    def check_form(self) -> None:
        """Coordinates are written only by what should write them, so that the lemmas need not look elsewhere."""
        evidence, places, tokens = set(self.evidence), columns(self.place), columns(self.token)
        constants = set(self.mlp(0, "bias_out")[0])
        written = self.read | self.codes | evidence
        require(not evidence & (self.read | places | tokens | constants), "more than its units write the evidence")
        require(not self.codes & (self.read | places | tokens), "more than its units write a code")
        require(constants <= self.codes, "a constant is written to what is no code")
        more = places | written | set(self.mlp(1, "bias_out")[0])
        require(not used(self.output) & more, "more than the answers is in the output")
        require(not self.varying & (used(self.mlp(0, "w_in")) | used(self.mlp(1, "w_in"))), "a unit reads its place")
        for number, unit in enumerate(self.units[0]):
            if unit.out.keys() & evidence:
                off = max(self.most(unit, role) for role in ("bos", "x", "eq")) <= 0
                require(off and len(unit.out) == 1, f"unit {number} of layer 1 writes elsewhere than it should")
        for number, unit in enumerate(self.units[1]):
            weights = [unit.column[c] for c in unit.column.keys() & evidence]
            one = not unit.out or weights == list(unit.out.values()) == [1]
            require(one, f"unit {number} of layer 2 does not add the weight of one task to one answer")

    def average_leaks(self, layer: int = 1) -> list[Fraction]:
        """Lemma 3: every EQ attends to the y before it, alike, elsewhere at most so much, by m'; evidence is copied."""
        require(self.head_count(layer) == 1, f"layer {layer + 1} has not one head")
        query, key, value, output = self.attention(layer, 0)
        apart = self.varying | columns(self.token) | self.read | self.codes | set(self.evidence)
        require(not (used(query) | used(key)) & apart, "the average's scores are not by role")
        copied = {c: times(value[c], output) for c in used(value)}
        require(copied == {c: {c: 1} for c in self.evidence}, "the average does not copy the evidence as it is")
        asked = times(self.fixed["eq"], query)
        scores = {role: Fraction(dot(asked, times(row, key))) for role, row in self.fixed.items()}
        require(scores["y"] == max(scores.values()), "the average attends elsewhere more than to y")
        bos, x, eq = (exp_above(scores["y"] - scores[role]) for role in ("bos", "x", "eq"))
        elsewhere = [bos + (shown + 1) * (self.inputs * x + eq) for shown in range(self.examples + 1)]
        return [rounded_up(weight / (weight + shown)) for shown, weight in enumerate(elsewhere)]
