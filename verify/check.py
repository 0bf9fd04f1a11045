"""Check a certificate again, trusting neither who built the weights nor who proved: python -m verify.check CERT DIR.

This file is meant to be read by a sceptic. It uses the standard library alone and shares no code with the rest of the
project. It believes what says which claim is made of which function: the tasks, m, the shapes of the tensors and the
place of the evidence in construction.json, and the weights. From these it works out the certificate anew, in exact
rational arithmetic (exp rounded up), and compares field by field. A figure must be no less than what is found here,
and no more than a tolerance above it. Weights of another form than the two-layer construction's are refused, right or
not: each unit serves one task, and nothing is written where nothing should be.

V tokens, n inputs, m examples, K tasks, T positions; q_hat is the output at an EQ, q = sum_k (c_k/m') u[g_k(query)]. A
head's leak is the attention that does not go to its targets. Exit status: 0 verified, 1 refused, 2 unreadable files.
"""

import hashlib
import heapq
import json
import math
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise
from operator import mul
from pathlib import Path
from typing import Any

Number = Any  # an int or a Fraction: exact
Row = dict[int, Number]  # of a matrix: its nonzero entries
Key = tuple[int, ...]
Pattern = tuple[tuple[int, Number], ...]  # (coordinate, weight): how a unit reads what a head writes

TEXT = object()  # stands for any text in what a certificate should be
FORMATS = {"float32": (24, -149), "bfloat16": (8, -133), "float16": (11, -24)}  # bits, exponent of the least number
TINY = Fraction(1, 10**280)
PAIRS = 4_000_000  # with more pairs of positions, the prover's leaks are looser than what is found here


class RefusedError(Exception):
    """The certificate does not hold for these weights, or that could not be shown."""


class UnreadableError(Exception):
    """A file cannot be read."""


def require(condition: object, reason: str) -> None:
    """Refuse unless the condition is true."""
    if not condition:
        raise RefusedError(reason)


def compare(claimed: Any, found: Any, where: str, *, loose: bool, most: Fraction = TINY) -> None:
    """Refuse a claim that is not, in all its parts, of the form and the size of what was found.

    A figure may exceed what was found by 1e-9 of it; a loose one may be twice the largest of its list, `most`.
    """
    if isinstance(found, dict):
        require(type(claimed) is dict and claimed.keys() == found.keys(), f"{where} has not just {sorted(found)}")
        for name, part in found.items():
            compare(claimed[name], part, f"{where}.{name}", loose=loose)
    elif isinstance(found, list):
        require(type(claimed) is list and len(claimed) == len(found), f"{where} is no list of {len(found)}")
        most = max([TINY, *(part for part in found if isinstance(part, Fraction))])
        for place, part in enumerate(found):
            compare(claimed[place], part, f"{where}[{place}]", loose=loose, most=most)
    elif found is TEXT:
        require(type(claimed) is str and claimed, f"{where} is no text")
    elif isinstance(found, Fraction):
        above = 2 * max(found, most) if loose else found * (1 + Fraction(1, 10**9)) + TINY
        require(
            type(claimed) is float and found <= Fraction(claimed) <= above,
            f"{where} is {claimed!r:.60}, but {float(found)!r} was found",
        )
    else:
        same = type(claimed) is type(found) and claimed == found
        require(same, f"{where} is {claimed!r:.60}, but {found!r:.60} was found")


# Files.


def read_bytes(path: Path) -> bytes:
    """The content of a file."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path.name}: {error}") from error


def read_json(content: bytes, what: str) -> Any:
    """Parse JSON in which no key stands twice and every number is finite."""

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require(len(dict(pairs)) == len(pairs), f"{what} has a key twice in one object")
        return dict(pairs)

    def finite(text: str) -> float:
        require(math.isfinite(float(text)), f"{what} holds {text:.60}, which is no finite number")
        return float(text)

    try:
        return json.loads(content, object_pairs_hook=no_repeats, parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{what} is not JSON: {error}") from error


@dataclass(frozen=True)
class Tensor:
    """A tensor as rows along its last axis."""

    shape: Key
    rows: list[Row]


def read_weights(content: bytes, described: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read a safetensors file: the header's length (8 bytes, little-endian), a JSON header, the data.

    A tensor is stored whole, or as NAME.index (places in the flattened tensor, ascending) and NAME.value.
    """
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header, stored, end = read_json(content[8:start], "the header of the weights"), {}, start
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items(), key=lambda item: int(item[1]["data_offsets"][0])):
        code, first = {"F32": "f", "I32": "i", "I64": "q"}[entry["dtype"]], end
        form, end = f"<{math.prod(entry['shape'])}{code}", start + entry["data_offsets"][1]
        require(start + entry["data_offsets"][0] == first, "the weights have a gap, or overlap")
        stored[name] = code, tuple(entry["shape"]), struct.unpack(form, content[first:end])
    require(end == len(content), "the weights have data that belongs to no tensor")
    tensors = {}
    for name, entry in described.items():
        shape, size = tuple(entry["shape"]), math.prod(entry["shape"])
        require(all(type(length) is int and length >= 0 for length in shape), f"{name} has no shape")
        if entry["stored"] == "dense":
            code, real, values = stored.pop(name)
            require(code == "f" and real == shape, f"{name} has another shape or type than described")
            places: Sequence[int] = range(size)
        else:
            (index, _, places), (code, _, values) = stored.pop(f"{name}.index"), stored.pop(f"{name}.value")
            require(index != "f" and code == "f" and len(places) == len(values), f"{name} is stored wrongly")
            ascending = all(a < b for a, b in zip((-1, *places), (*places, size), strict=True))
            require(ascending, f"{name} has places out of order")
        rows: list[Row] = [{} for _ in range(math.prod(shape[:-1]))]
        for at, value in zip(places, values, strict=True):
            if value:
                # A denormal number is read as 0 by some devices.
                require(math.isfinite(value) and abs(value) >= 2.0**-126, f"{name} holds {value}")
                rows[at // shape[-1]][at % shape[-1]] = int(value) if value.is_integer() else Fraction(value)
        tensors[name] = Tensor(shape, rows)
    require(not stored, f"the weights hold a tensor that is not described: {next(iter(stored), '')}")
    return tensors


@dataclass(frozen=True)
class Task:
    """A table over `positions`; or, for a sum, over the sums of the tokens' values there, keys of one number."""

    positions: Key
    rows: dict[Key, int]
    values: dict[int, int] | None

    @cached_property
    def sums(self) -> set[int]:
        """Every sum of the values of tokens that have one."""
        found, each = {0}, set((self.values or {}).values())
        for _ in self.positions:
            found = {total + value for total in found for value in each}
        return found

    @cached_property
    def reached(self) -> dict[int, int]:
        """The rows of a sum that some inputs reach."""
        return {s: self.rows[s,] for s in self.sums if (s,) in self.rows}


def read_task(data: Mapping[str, Any], ids: Mapping[str, int], inputs: int) -> Task:
    """One task of the task set."""
    place = data.get("sum", data)
    values = {ids[token]: value for token, value in place["values"].items()} if "sum" in data else None
    positions = tuple(place["positions"] if "sum" in data else place["reads"])
    rows: dict[Key, int] = {}
    for *key, answer in data["rows"]:
        read = tuple(key) if "sum" in data else tuple(ids[token] for token in key)
        require(len(read) == (1 if "sum" in data else len(positions)), "a row has a wrong length")
        require(rows.setdefault(read, ids[answer]) == ids[answer], "a task contradicts itself")
    numbers = [*positions, *(part for read in rows for part in read), *(values or {}).values()]
    require(all(type(number) is int for number in numbers), "a task holds what is no integer")
    require(set(positions) <= set(range(inputs)) and len(set(positions)) == len(positions), "a task reads no input")
    require(positions and rows and values != {}, "a task is empty")
    return Task(positions, rows, values)


def most_consistent(tasks: Iterable[Task]) -> int:
    """How many tasks one example can be consistent with, at most.

    Tasks that look up the same (positions, values) are counted key by key, others as if they were independent.
    """
    groups: dict[object, Counter[tuple[Key, int]]] = defaultdict(Counter)
    for task in tasks:
        looked_up = (
            (task.positions, None)
            if task.values is None
            else (tuple(sorted(task.positions)), frozenset(task.values.items()))
        )
        groups[looked_up].update(task.rows.items())
    by_answer: Counter[int] = Counter()
    for group in groups.values():
        best: dict[int, int] = {}
        for (_, answer), count in group.items():
            best[answer] = max(best.get(answer, 0), count)
        by_answer.update(best)
    return max(by_answer.values())


# Arithmetic.


@cache
def exp_above(gap: Fraction) -> Fraction:
    """An upper bound of exp(-gap), gap >= 0. Decimal's exp is correctly rounded, to 40 digits: take the next number."""
    context = Context(prec=40, rounding="ROUND_FLOOR")
    least = context.divide(Decimal(gap.numerator), Decimal(gap.denominator))
    return rounded_up(Fraction(context.next_plus(context.exp(-least))))


def rounded_up(value: Fraction) -> Fraction:
    """A number of few bits, at least the value and hardly above it, so that long sums stay short."""
    grid = 2 ** max(0, 128 + value.denominator.bit_length() - value.numerator.bit_length())
    return Fraction(math.ceil(value * grid), grid)


def total(numbers: Iterable[Number]) -> Number:
    """Their sum."""
    return sum(numbers, Fraction(0))


def dot(row: Mapping[int, Number], other: Mapping[int, Number]) -> Number:
    """The inner product of two rows."""
    return sum(value * other[at] for at, value in row.items() if at in other)


def times(row: Row, matrix: Sequence[Row]) -> Row:
    """A row times a matrix."""
    result: Row = defaultdict(int)
    for at, value in row.items():
        for column, weight in matrix[at].items():
            result[column] += value * weight
    return {column: value for column, value in result.items() if value}


def columns(rows: Iterable[Row]) -> set[int]:
    """The columns in which some row is not 0."""
    return {at for row in rows for at in row}


def used(matrix: Sequence[Row]) -> set[int]:
    """The rows that are not 0."""
    return {at for at, row in enumerate(matrix) if row}


def ceil_log2(value: Number) -> int:
    """The least e with value <= 2^e, for value >= 1."""
    return int(math.ceil(value) - 1).bit_length()


# The model.


@dataclass(frozen=True, eq=False)
class Head:
    """A read head of layer 1: its targets, its leaks, what it writes for each token (for BOS and EQ nothing)."""

    targets: list[int]
    leak_eq: list[Fraction]
    leak_y: list[Fraction]
    values: list[Row]

    @cached_property
    def leak(self) -> Fraction:
        """The largest."""
        return max(self.leak_eq + self.leak_y)


@cache
def fetched(head: Head, pattern: Pattern) -> tuple[list[Number], Number, Number]:
    """For each token, what a unit with these weights gets of the head; and the least and most, of any position."""
    weights = dict(pattern)
    found = [dot(row, weights) for row in head.values]
    return found, min(0, *found), max(0, *found)


@dataclass(frozen=True)
class Peak:
    """The token that gives a unit most, how much, what another gives at most (with the leak), and the whole range."""

    token: int
    best: Number
    second: Number
    range: Number


@cache
def peak(head: Head, pattern: Pattern) -> Peak:
    """The peak of what a unit with these weights gets of the head."""
    found, low, high = fetched(head, pattern)
    token, best = found.index(max(found)), max(found)
    second = max(found[:token] + found[token + 1 :], default=best - 1)
    require(best == high, "a unit gets most of a head that reads no token")
    return Peak(token, best, second + head.leak * (high - second), best - low)


@dataclass(frozen=True)
class Unit:
    """A hidden unit's argument: a constant by role, what its own token adds, what each head adds through its weights.

    And, for layer 1, what it writes; for layer 2, what it adds to the output.
    """

    column: Row
    bias: Number
    fixed: dict[str, Number]
    own: Row
    reads: dict[int, Pattern]
    out: Row


class Model:
    """The weights, and what stands at the positions of each role."""

    def __init__(self, tensors: dict[str, Tensor], tasks: list[Task], sizes: Key, evidence: range) -> None:
        self.tensors, self.tasks, self.evidence = tensors, tasks, evidence
        self.alphabet, self.inputs, self.examples = V, n, m = sizes
        self.heads: list[Head] = []
        self.x = [[1 + i * (n + 2) + j for j in range(n)] for i in range(m + 1)]
        self.eq = [(i + 1) * (n + 2) - 1 for i in range(m + 1)]
        self.y = [at + 1 for at in self.eq[:-1]]
        self.place, self.token = tensors["embedding.position"].rows, tensors["embedding.token"].rows[:V]
        self.output = tensors["unembedding"].rows
        self._check_shapes()
        # What a position gives depends on its role alone, but for the coordinates that vary.
        roles = {"bos": [0], "x": [at for row in self.x for at in row], "eq": self.eq, "y": self.y}
        self.fixed = {role: self.place[at[0]] for role, at in roles.items()}
        pairs = [(self.place[at].items(), self.fixed[role].items()) for role, places in roles.items() for at in places]
        self.varying = {c for here, first in pairs for c, _ in here ^ first}

    def _check_shapes(self) -> None:
        d = self.tensors["embedding.token"].shape[1]
        expected: dict[str, Key] = {}
        expected["embedding.token"] = (self.alphabet + 2, d)
        expected["embedding.position"] = ((self.examples + 1) * (self.inputs + 2), d)
        expected["unembedding"] = (d, self.alphabet)
        for layer in ("layers.0", "layers.1"):
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

    def attention(self, layer: int, head: int) -> list[list[Row]]:
        """Wq, Wk, Wv, Wo of a head."""
        names = (f"layers.{layer}.attention.{name}" for name in ("query", "key", "value", "output"))
        sizes = ((self.tensors[name].shape[1], self.tensors[name].rows) for name in names)
        return [rows[head * size : (head + 1) * size] for size, rows in sizes]

    def mlp(self, layer: int, name: str) -> list[Row]:
        """W1 (w_in), W2 (w_out), or a bias as a matrix of one row."""
        return self.tensors[f"layers.{layer}.mlp.{name}"].rows

    @cached_property
    def codes(self) -> set[int]:
        """The coordinates, other than evidence, that units of layer 1 write."""
        return columns(self.mlp(0, "w_out")) - set(self.evidence)

    @cached_property
    def writers(self) -> dict[int, list[int]]:
        """Coordinate -> the heads that write it."""
        found: dict[int, list[int]] = defaultdict(list)
        for number, head in enumerate(self.heads):
            for c in columns(head.values):
                found[c].append(number)
        return found

    @cached_property
    def units(self) -> list[list[Unit]]:
        """The hidden units of both layers."""
        owners: dict[int, list[tuple[int, Number]]] = defaultdict(list)
        for token, row in enumerate(self.token):
            for c, value in row.items():
                owners[c].append((token, value))
        result = []
        for layer in (0, 1):
            w_in: list[Row] = [{} for _ in self.mlp(layer, "w_out")]
            for c, row in enumerate(self.mlp(layer, "w_in")):
                for unit, weight in row.items():
                    w_in[unit][c] = weight
            units = []
            for at, (column, out) in enumerate(zip(w_in, self.mlp(layer, "w_out"), strict=True)):
                bias = self.mlp(layer, "bias_in")[0].get(at, 0)
                fixed = {role: bias + dot(column, row) for role, row in self.fixed.items()}
                own: Row = defaultdict(int)
                reads: dict[int, Row] = defaultdict(dict)
                for c, weight in column.items():
                    for token, value in owners.get(c, ()):
                        own[token] += value * weight
                    for number in self.writers.get(c, ()):
                        reads[number][c] = weight
                patterns = {number: tuple(sorted(part.items())) for number, part in reads.items()}
                units.append(Unit(column, bias, fixed, own, patterns, out if layer == 0 else times(out, self.output)))
            result.append(units)
        return result

    def most_own(self, unit: Unit) -> Number:
        """The most that the token at its own position gives a unit."""
        return max([*unit.own.values(), *[0] * (len(unit.own) < self.alphabet)])

    def most(self, unit: Unit, role: str) -> Number:
        """The most that the argument of a unit of layer 1 can be at a role, whatever the heads attend to."""
        own = self.most_own(unit) if role in ("x", "y") else 0
        return unit.fixed[role] + own + sum(fetched(self.heads[h], part)[2] for h, part in unit.reads.items())


# Lemma 1: reads. Lemma 3: average. And that nothing else is written anywhere.


def read_heads(model: Model) -> None:
    """Find the heads of layer 1, and that scores and values depend on nothing else than they should."""
    for number in range(model.tensors["layers.0.attention.query"].shape[0]):
        query, key, value, output = model.attention(0, number)
        require(not columns(model.token) & (used(query) | used(key)), f"scores of head {number} depend on tokens")
        require(not columns(model.place) & used(value), f"values of head {number} depend on positions")
        targets, leak_eq, leak_y = find_leaks(model, query, key)
        model.heads.append(Head(targets, leak_eq, leak_y, [times(times(row, value), output) for row in model.token]))


def find_leaks(model: Model, query: list[Row], key: list[Row]) -> tuple[list[int], list[Fraction], list[Fraction]]:
    """The inputs that every EQ and y attends to in its own example, and upper bounds of the attention elsewhere.

    Pair by pair, with all keys up to the query's own place; a key that scores g less than a target weighs exp(-g).
    """
    size = max((at + 1 for at in columns(query)), default=0)
    scale = math.lcm(*(weight.denominator for row in query for weight in row.values()), 1)
    keys = [[row.get(d, 0) for d in range(size)] for row in (times(row, key) for row in model.place)]
    asked = {
        at: tuple(int(row.get(d, 0) * scale) for d in range(size))
        for at in model.eq + model.y
        for row in [times(model.place[at], query)]
    }
    # In coordinates in which all queries agree, a key's part of the score is a constant of the key.
    agreed = [len(set(values)) == 1 for values in zip(*asked.values(), strict=True)]
    first, differ = asked[model.eq[0]], [d for d in range(size) if not agreed[d]]
    classes = [
        (tuple(row[d] for d in differ), sum(first[d] * row[d] for d in range(size) if agreed[d])) for row in keys
    ]
    blocks = [Counter(classes[row[0] : row[-1] + 3]) for row in model.x]
    inner = cache(lambda question, part: sum(map(mul, question, part)))
    weigh = cache(lambda gap: exp_above(Fraction(gap, scale)))

    @cache
    def before(i: int, question: Key) -> Counter[Number]:
        """How many keys before example i have which score."""
        found: Counter[Number] = Counter()
        for block in (Counter(classes[:1]), *blocks[:i]):
            for (part, constant), count in block.items():
                found[inner(question, part) + constant] += count
        return found

    targets: list[int] = []
    leaks: list[list[Fraction]] = []
    for places in (model.eq, model.y):
        leaks.append([])
        for i, at in enumerate(places):
            question = tuple(asked[at][d] for d in differ)
            scores = [inner(question, part) + constant for part, constant in classes[model.x[i][0] : at + 1]]
            best = max(scores[: model.inputs])
            near = [j for j, score in enumerate(scores[: model.inputs]) if score == best]
            targets = targets or near
            others = before(i, question) + Counter(score for j, score in enumerate(scores) if j not in near)
            require(near == targets, "a head attends to different inputs in different examples")
            require(max(others) + scale < best, "a head attends elsewhere almost as much as to its targets")
            weight = total(count * weigh(best - score) for score, count in others.items()) / len(near)
            leaks[-1].append(rounded_up(weight / (1 + weight)))
    return targets, leaks[0], leaks[1]


def check_shape(model: Model) -> None:
    """Coordinates are written only by what should write them, so that the lemmas need not look elsewhere."""
    evidence, heads, places, tokens = (
        set(model.evidence),
        set(model.writers),
        columns(model.place),
        columns(model.token),
    )
    constants, codes = set(model.mlp(0, "bias_out")[0]), model.codes
    written = heads | codes | evidence | constants
    require(not evidence & (heads | places | tokens | constants), "more than its units write the evidence")
    require(not codes & (heads | places | tokens) and constants <= codes, "more than its units write a code")
    more = places | written | set(model.mlp(1, "bias_out")[0])
    require(not used(model.output) & more, "more than the answers is in the output")
    require(not model.varying & (used(model.mlp(0, "w_in")) | used(model.mlp(1, "w_in"))), "a unit reads its place")
    for number, unit in enumerate(model.units[0]):
        if unit.out.keys() & evidence:
            off = max(model.most(unit, role) for role in ("bos", "x", "eq")) <= 0
            require(off and len(unit.out) == 1, f"unit {number} of layer 1 writes elsewhere than it should")
    require(model.tensors["layers.1.attention.query"].shape[0] == 1, "layer 2 has more than one head")
    query, key, value, output = model.attention(1, 0)
    require(not (used(query) | used(key)) & (model.varying | tokens | written), "the average's scores are not by role")
    copied = {c: times(value[c], output) for c in used(value)}
    require(copied == {c: {c: 1} for c in evidence}, "layer 2 does not copy the evidence as it is")


def average_leaks(model: Model) -> list[Fraction]:
    """Every EQ attends to the y before it, to all alike; elsewhere at most so much, by m' (all of it where m' = 0)."""
    query, key, _, _ = model.attention(1, 0)
    asked = times(model.fixed["eq"], query)
    scores = {role: Fraction(dot(asked, times(row, key))) for role, row in model.fixed.items()}
    require(scores["y"] == max(scores.values()), "the average attends elsewhere more than to y")
    bos, x, eq = (exp_above(scores["y"] - scores[role]) for role in ("bos", "x", "eq"))
    elsewhere = [bos + (shown + 1) * (model.inputs * x + eq) for shown in range(model.examples + 1)]
    return [rounded_up(weight / (weight + shown)) for shown, weight in enumerate(elsewhere)]


# Lemma 2: evidence. Lemma 4: answers.


def units_of(model: Model, k: int) -> tuple[list[Unit], list[Unit]]:
    """The units that write a task's evidence, and those that read it.

    The latter write to one output, 1 / the weight with which they read it: where all else in its argument adds up to
    0 such a unit adds w_k. (Where errors make w_k < 0 it adds 0, which is nearer to the true weight.)
    """
    at = model.evidence[k]
    answers = [unit for unit in model.units[1] if unit.out and at in unit.column]
    for unit in answers:
        require(len(unit.column.keys() & set(model.evidence)) == len(unit.out) == 1, "a unit serves several tasks")
        out = next(iter(unit.out.values()))
        require(unit.column[at] > 0 and unit.column[at] * out == 1, "a unit does not add its task's weight")
    return [unit for unit in model.units[0] if at in unit.out], answers


def check_table(model: Model, task: Task, units: Sequence[Unit], at: int, weight: Fraction | None) -> Row:
    """A table's units at y (no weight), or at EQ, where its weight is at most `weight`: one row each, one each row.

    Beside its row a unit is off, whatever the leak. On it, it adds 1 at y, and its weight at EQ; a leak only lowers
    that. Returns, by head, what a unit of leak costs, the largest over the rows.
    """
    seen: set[tuple[Key, int]] = set()
    losses: Row = defaultdict(int)
    for unit in units:
        heads = {tuple(model.heads[h].targets): h for h in unit.reads}
        parts = {read[0]: peak(model.heads[h], unit.reads[h]) for read, h in heads.items() if len(read) == 1}
        require(len(parts) == len(unit.reads) and parts.keys() <= set(task.positions), "a unit reads other inputs")
        require(parts.keys() == set(task.positions) or model.alphabet == 1, "a unit does not read all its inputs")
        require(not unit.column.keys() & model.codes, "a unit of a table reads a code")
        peaks = [parts.get(position, Peak(0, 0, 0, 0)) for position in task.positions]
        reach, (end, out), wanted = Fraction(0), next(iter(unit.out.items())), Fraction(0)
        if weight is None:
            end = max(unit.own, key=lambda token: unit.own[token], default=0)
            others = [part for token, part in unit.own.items() if token != end] + [0] * (len(unit.own) < model.alphabet)
            peaks.append(Peak(end, unit.own.get(end, 0), max(others, default=0), 0))
            wanted = Fraction(1) / out
        else:
            reach = unit.column[at] * weight
        argument = unit.fixed["y" if weight is None else "eq"] + sum(part.best for part in peaks)
        if argument + reach <= 0:
            continue
        alone = all(argument + reach - part.best + part.second <= 0 for part in peaks) or model.alphabet == 1
        row = tuple(part.token for part in peaks[: len(task.positions)]), end
        require(alone and argument == wanted, f"a unit is not as its row {row} needs it")
        require(task.rows.get(row[0]) == end and row not in seen, f"a unit stands for {row}, no row of the table")
        seen.add(row)
        for h, pattern in unit.reads.items():
            losses[h] = max(losses[h], abs(out) * peak(model.heads[h], pattern).range)
    require(len(seen) == len(task.rows), "a row of a table has no unit")
    return losses


@dataclass(frozen=True)
class Linear:
    """What the heads give a unit: slope * s + base, s the sum of a task, where all tokens have values.

    Where there is but one sum the slope is 1: the base is what it is.

    `ranges` is how far each head's part ranges, `rise` how far the leaks shift it; `undefined` is the most, without
    leak, where a token has no value (None where each has one).
    """

    slope: Number
    base: Number
    ranges: Row
    rise: Number
    undefined: Number | None

    @property
    def steps(self) -> int:
        """How many steps of s the leaks shift it at most, and a trifle, rounded up."""
        return max(1, math.ceil(self.rise / self.slope * (1 + Fraction(1, 2**40)))) if self.slope else 1


def linear(model: Model, task: Task, reads: Mapping[int, Pattern]) -> Linear:
    """Write what a unit gets of the heads in that form. Refuses where it has another."""
    values = task.values or {}
    parts = {position: [Fraction(0)] * model.alphabet for position in task.positions}
    ranges: Row = {}
    base = Fraction(0)
    for h, pattern in reads.items():
        found, low, high = fetched(model.heads[h], pattern)
        targets = model.heads[h].targets
        if low < high:
            require(set(targets) <= set(task.positions), "a unit of a sum reads other inputs")
            ranges[h] = high - low
            for position in targets:
                shares = (Fraction(part) / len(targets) for part in found)
                parts[position] = [part + more for part, more in zip(parts[position], shares, strict=True)]
    least, most = min(values, key=lambda token: values[token]), max(values, key=lambda token: values[token])
    first, span = parts[task.positions[0]], values[most] - values[least]
    slope = (first[most] - first[least]) / span if span else Fraction(1)
    for part in parts.values():
        offset = part[least] - slope * values[least]
        require(all(part[token] == offset + slope * value for token, value in values.items()), "a unit reads no sum")
        base += offset
    best = {position: max(part) for position, part in parts.items()}
    others = [token for token in range(model.alphabet) if token not in values]
    lost = [best[position] - part[token] for position, part in parts.items() for token in others]
    rise = total(model.heads[h].leak * part for h, part in ranges.items())
    return Linear(slope, base, ranges, rise, total(best.values()) - min(lost) if lost else None)


def hinges(bends: Iterable[tuple[Number, Number]], start: Number, last: int) -> tuple[int, list[Number]]:
    """start + the sum of weight * max(s - kink, 0), the bends being pairs (kink, weight), at integers s.

    Returns the first kink, and the values from there to one past `last` and every kink. All kinks must be integers.
    """
    bend: Row = defaultdict(int)
    for kink, weight in bends:
        require(Fraction(kink).denominator == 1, "a hinge bends between two integers")
        bend[int(kink)] += weight
    first, value, slope, values = min(bend, default=last), start, Fraction(0), []
    for s in range(first, max([last, *bend]) + 2):
        values.append(value)
        slope += bend.get(s, 0)
        value += slope
    return first, values


def sum_evidence(model: Model, task: Task, units: Sequence[Unit], at: int, _: Fraction | None) -> Row:
    """A sum's units at y: all read the sum alike, so that leaks shift it alike for all, and their own token.

    For each own token they add up to a piecewise linear function of the sum: 1 on the rows with this answer, 0 on
    other sums; its steps say what a shift costs. Where a token has no value every unit is off.
    """
    require(units or not task.reached, "a sum has no units")
    if not units:
        return {}
    require(all(unit.reads == units[0].reads for unit in units), "units do not read a sum alike")
    form = linear(model, task, units[0].reads)
    require(form.slope > 0, "a sum is not read")
    top, last = form.base + form.slope * max(task.sums) + form.rise, max(task.sums) + form.steps
    bends: dict[int, list[tuple[Number, Number]]] = {answer: [] for answer in task.rows.values()}
    for unit in units:
        fixed, most = unit.fixed["y"], model.most_own(unit)
        require(form.undefined is None or fixed + most + form.undefined + form.rise <= 0, "a unit is on without a sum")
        require(fixed + top <= 0 or len(unit.own) == model.alphabet, "a unit is on without its answer")
        for token, part in unit.own.items():
            if fixed + part + top > 0:
                kink = -(fixed + part + form.base) / form.slope
                bends.setdefault(token, []).append((kink, unit.out[at] * form.slope))
    cost: Number = 0
    for token, on in bends.items():
        first, values = hinges(on, 0, last)
        for s, step in enumerate((b - a for a, b in pairwise(values)), start=first):
            # A step is felt from sums so near that the leaks reach it.
            near = range(s + 1 - form.steps, s + 1 + form.steps)
            if abs(step) > cost * form.slope and not task.sums.isdisjoint(near):
                cost = abs(step) / form.slope
        found = {s: value for s, value in enumerate(values, start=first) if value and s in task.sums}
        wanted = {s: 1 for s, answer in task.reached.items() if answer == token}
        require(found == wanted, f"the evidence for the answer {token} is not that of its rows")
    return {h: part * cost for h, part in form.ranges.items()}


def sum_codes(model: Model, task: Task, bits: Sequence[int]) -> tuple[dict[int, list[Number]], Linear]:
    """The code of every sum, and of the integers near, that layer 1 writes at EQ; and how its units read the sum."""
    first, last = min(task.sums), max(task.sums)
    if not bits:
        return {s: [] for s in range(first - 1, last + 2)}, Linear(0, 0, {}, 0, None)
    units = [unit for unit in model.units[0] if unit.out.keys() & set(bits)]
    require(all(unit.reads == units[0].reads for unit in units), "units do not read a sum alike")
    form = linear(model, task, units[0].reads)
    require(form.slope > 0, "a code does not read its sum")
    first, last = first - form.steps, last + form.steps
    code: dict[int, list[Number]] = {s: [] for s in range(first, last + 1)}
    for c in bits:
        start = model.mlp(0, "bias_out")[0].get(c, 0)
        on = ((-(unit.fixed["eq"] + form.base) / form.slope, unit.out.get(c, 0) * form.slope) for unit in units)
        kink, values = hinges(on, start, last)
        require(values[-1] == values[-2] and max(map(abs, values)) <= 1, "a code leaves [-1, 1]")
        for s in code:
            code[s].append(values[s - kink] if s >= kink else start)
    require(all(abs(bit) == 1 for s in task.sums for bit in code[s]), "the code of a sum is not of +-1")
    return code, form


def sum_answer(model: Model, task: Task, units: Sequence[Unit], at: int, weight: Number) -> Row:
    """A sum's units at EQ: one each sum of a row, that matches its +-1 code of B bits.

    A unit gets B of its own sum, at most B - 2 of another, and what a shift by the leaks adds; never more than B.
    Where a token has no value it is off.
    """
    require(units or not task.reached, "a sum has no units")
    if not units:
        return {}
    bits = sorted({c for unit in units for c in unit.column.keys() & model.codes})
    code, form = sum_codes(model, task, bits)
    by_code = {tuple(code[s]): s for s in task.sums}
    require(len(by_code) == len(task.sums), "two sums have one code")
    step = max(sum(abs(a - b) for a, b in zip(code[s], code[s + 1], strict=True)) for s in list(code)[:-1])
    shifts = {h: part / form.slope for h, part in form.ranges.items()}
    shift = total(model.heads[h].leak * part for h, part in shifts.items())
    seen: set[int] = set()
    losses: Row = defaultdict(int)
    forms: dict[object, Linear] = {}
    for unit in units:
        reads, (answer, out) = tuple(unit.reads.items()), next(iter(unit.out.items()))
        if reads not in forms:  # mostly all are alike
            forms[reads] = linear(model, task, unit.reads)
        direct, reach, wanted = forms[reads], unit.column[at] * weight, [unit.column.get(c, 0) for c in bits]
        require(all(abs(bit) == 1 for bit in wanted), "a unit matches no code")
        require(not direct.slope or len(task.sums) == 1, "a unit of an answer reads the sum itself")
        most, s = unit.fixed["eq"] + len(bits), by_code.get(tuple(wanted))
        off = direct.undefined is None or most + direct.undefined + direct.rise + reach <= 0
        require(off, "a unit of an answer is on without a sum")
        most += direct.base + direct.slope * min(task.sums)
        alone = most - 2 + direct.rise + step * shift + reach <= 0 or (s is not None and len(task.sums) == 1)
        require(alone, "a unit is on for two sums")
        if s is None:
            continue
        require(most == 0 and task.reached.get(s) == answer and s not in seen, f"a unit is not as the sum {s} needs it")
        seen.add(s)
        near = [sum(map(mul, wanted, code[s + d])) for d in range(-form.steps, form.steps + 1)]
        cost = max(abs(a - b) for a, b in pairwise(near))
        for h in direct.ranges.keys() | shifts.keys():
            losses[h] = max(losses[h], abs(out) * (direct.ranges.get(h, 0) + shifts.get(h, 0) * cost))
    require(seen == task.reached.keys(), "a sum of a row has no unit")
    return losses


# The theorem.


def real_bounds(
    model: Model, losses: Sequence[list[Row]], sums: Sequence[int], average: Sequence[Fraction]
) -> list[Fraction]:
    """The bound by m': what leaks cost the evidence, on the average over the examples, the average, and the answers.

    At one example only the evidence of at most `together` tables can be off, and that of all sums; after m' examples
    at most m' times as many tasks have a weight, or are such sums. So that many of the losses add up at most, and the
    largest are taken.
    """
    together, tasks = most_consistent(model.tasks), len(model.tasks)

    def largest(lemma: int, leaks: Sequence[Fraction], count: int) -> Fraction:
        each = [total(part * leaks[h] for h, part in loss.items()) for loss in losses[lemma]]
        return Fraction(total(heapq.nlargest(count, each) if count < len(each) else each))

    at_once, before, bounds = min(tasks, together + sums[0]), Fraction(0), [Fraction(0)]
    for shown in range(1, model.examples + 1):
        before += largest(0, [head.leak_y[shown - 1] for head in model.heads], at_once)
        active = min(tasks, shown * together + sums[1])
        answered = largest(1, [head.leak_eq[shown] for head in model.heads], active)
        bounds.append(before / shown + average[shown] * at_once + answered)
    return bounds


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
        spread = max(
            (
                max(0, *part) - min(0, *part)
                for c in columns(head.values)
                for part in [[row.get(c, 0) for row in head.values]]
            ),
            default=0,
        )
        gate = max([1, *(abs(weight) for c in columns(head.values) for weight in model.mlp(0, "w_in")[c].values())])
        require(head.leak * max(1, spread) * gate <= Fraction(1, 2**28), fail + "a read leaks too much")
        require(not len(head.targets) & (len(head.targets) - 1), fail + "a read divides by no power of two")
    require(max(leak * shown for shown, leak in enumerate(average)) <= Fraction(1, 2**26), fail + "the average leaks")
    for name, tensor in model.tensors.items():
        for over, under in {
            (abs(weight.numerator), weight.denominator) for row in tensor.rows for weight in row.values()
        }:
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


def rounded_bound(model: Model, form: str, real: Sequence[Fraction]) -> Fraction:
    """Twice the real bound, and three things that round: the average, a unit's integers and one weight, the answers.

    u is the unit of the format, v that of sums in float32. A unit's sum rounds in each binade that it enters.
    """
    u, v, tasks, together = (
        Fraction(1, 2 ** FORMATS[form][0]),
        Fraction(1, 2**24),
        len(model.tasks),
        most_consistent(model.tasks),
    )
    steps = []
    for at in model.evidence:
        units = [unit for unit in model.units[1] if at in unit.column]
        terms = [max(sum(abs(w) for c, w in unit.column.items() if c != at), abs(unit.bias)) for unit in units]
        steps.append(2 ** ceil_log2(max(terms) + 1) - 1 if terms else 0)
    steps.sort(reverse=True)
    used_bits = (steps[0] + 1).bit_length() - 1 + ceil_log2(model.examples) + 1 + FORMATS[form][0]
    exact, narrow = form != "float32" and used_bits <= 24, form != "float32"

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


# The certificate.


def find_lemmas(model: Model, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """Check every lemma on the weights, and return the figures that follow."""
    read_heads(model)
    heads, count = model.heads, len(model.tasks)
    say(f"reads: scores, targets and leaks of {len(heads)} heads, at every EQ and y")
    check_shape(model)
    average = average_leaks(model)
    say("average: the scores of layer 2 by role, what it copies, its leak; nothing else is written anywhere")
    units = [units_of(model, k) for k in range(count)]
    losses: list[list[Row]] = [[], []]
    checks = (check_table, check_table), (sum_evidence, sum_answer)
    weight: Fraction | None = None
    for lemma in (0, 1):
        for k, (task, at) in enumerate(zip(model.tasks, model.evidence, strict=True)):
            check = checks[task.values is not None][lemma]
            losses[lemma].append(check(model, task, units[k][lemma], at, weight))
        # No weight is above 1 by more than a leak can put the evidence above 1.
        weight = 1 + max(total(part * heads[h].leak for h, part in loss.items()) for loss in losses[0])
    per_head = [[[Fraction(loss.get(h, 0)) for h in range(len(heads))] for loss in part] for part in losses]
    say(f"evidence, answer: every unit of {count} tasks against their rows, and what a leak costs")
    sums = [
        sum(task.values is not None and bool(used[lemma]) for task, used in zip(model.tasks, units, strict=True))
        for lemma in (0, 1)
    ]
    # A sum has a unit of an answer for each row, but for rows that no inputs reach those are never on.
    slopes = [
        Fraction(int(task.values is None or bool(task.reached) or not used[1]))
        for task, used in zip(model.tasks, units, strict=True)
    ]
    bounds = [max(slopes) * bound for bound in real_bounds(model, losses, sums, average)]
    nothing = [Fraction(0)] * count
    figures = {
        "reads": {name: [getattr(head, name) for head in heads] for name in ("targets", "leak_eq", "leak_y")},
        "evidence": {"error": nothing, "per_head": per_head[0]},
        "average": {"leak": average, "uneven": Fraction(0)},
        "answer": {"error": nothing, "per_head": per_head[1], "slope": slopes},
        "superposition": {"bounds": bounds, "together": most_consistent(model.tasks), "rest": Fraction(0)},
    }
    return [{"name": name, "claim": TEXT, "figures": part, "holds": True} for name, part in figures.items()]


def find_sizes(model: Model, claimed_prompts: object) -> dict[str, Any]:
    """The sizes, as the weights have them; log10 of the number of prompts, that has few digits, if it is near."""
    tensors = model.tensors
    queries, widths = (
        [tensors[f"layers.{layer}.{name}"].shape for layer in (0, 1)] for name in ("attention.query", "mlp.w_in")
    )
    prompts = (model.examples * (model.inputs + 1) + model.inputs) * math.log10(model.alphabet)
    near = type(claimed_prompts) is float and abs(claimed_prompts - prompts) < 0.00051
    return {
        "tasks": len(model.tasks),
        "alphabet": model.alphabet,
        "inputs": model.inputs,
        "examples": model.examples,
        "log10_prompts": claimed_prompts if near else prompts,
        "layers": 2,
        "heads": [shape[0] for shape in queries],
        "d_model": queries[0][1],
        "mlp_width": [shape[1] for shape in widths],
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "nonzero_parameters": sum(len(row) for tensor in tensors.values() for row in tensor.rows),
    }


def check(certificate: Path, directory: Path, say: Callable[[str], object]) -> None:
    """Work out the certificate of the artifact in a folder, and compare. Raises what ever hinders it."""
    claimed = read_json(read_bytes(certificate), "the certificate")
    require(type(claimed) is dict, "the certificate is no object")
    body = {name: value for name, value in claimed.items() if name != "certificate_sha256"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    require(claimed.get("certificate_sha256") == digest, "the certificate was changed: its digest is another")
    content = read_bytes(directory / "weights.safetensors")
    sha256 = hashlib.sha256(content).hexdigest()
    require(claimed.get("weights_sha256") == sha256, "the certificate is of other weights")
    described = read_json(read_bytes(directory / "construction.json"), "construction.json")
    say("certificate: its digest, and that of the weights, are right")

    task_set, evidence = described["task_set"], described["subspaces"]["evidence"]
    ids = {token: number for number, token in enumerate(task_set["alphabet"])}
    sizes = (len(ids), task_set["inputs"], described["layout"]["examples"])
    numbers = (*sizes, evidence["start"], evidence["size"])
    require(all(type(number) is int for number in numbers) and min(sizes) >= 1, "construction.json has no sizes")
    require(len(ids) == len(task_set["alphabet"]), "the alphabet holds a token twice")
    tasks = [read_task(task, ids, task_set["inputs"]) for task in task_set["tasks"]]
    place = range(evidence["start"], evidence["start"] + evidence["size"])
    model = Model(read_weights(content, described["tensors"]), tasks, sizes, place)
    lemmas = find_lemmas(model, say)
    real: list[Fraction] = lemmas[-1]["figures"]["bounds"]
    bounds: dict[str, Fraction | None] = {"real": max(real)}
    for form in FORMATS:
        bounds[form] = None
        if claimed["error_bound"][form] is not None:
            check_exact(model, form, lemmas[2]["figures"]["leak"])
            bounds[form] = rounded_bound(model, form, real)
    found = dict.fromkeys(("claim", "arithmetic"), TEXT) | {
        "format": "task-superposition certificate",
        "format_version": 1,
        "certified": True,
        "theorem": "two-layer",
        "weights_sha256": sha256,
        "certificate_sha256": digest,
        "sizes": find_sizes(model, claimed["sizes"]["log10_prompts"]),
        "error_bound": bounds,
        "refusals": {form: TEXT for form, bound in bounds.items() if bound is None},
        "lemmas": lemmas,
        "violations": [],
        "versions": dict.fromkeys(("task-superposition", "numpy", "python"), TEXT),
        "eps": claimed["eps"],
        "seconds": claimed["seconds"],
    }
    large = (model.examples + 1) * len(model.place) > PAIRS
    compare(claimed, found, "certificate", loose=large)
    require(type(claimed["eps"]) is type(claimed["seconds"]) is float and claimed["seconds"] >= 0, "no eps or seconds")
    require(claimed["error_bound"]["real"] <= claimed["eps"], "the bound is above eps")
    for form, bound in claimed["error_bound"].items():
        say(f"{form}: " + ("no claim" if bound is None else f"|q_hat - q|_1 <= {bound:.3g} for every prompt"))


def main(arguments: Sequence[str]) -> int:
    """The command. Returns the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m verify.check certificate.json DIR\n")
        return 2
    try:
        check(Path(arguments[0]), Path(arguments[1]), lambda line: sys.stdout.write(line + "\n"))
    except UnreadableError as error:
        sys.stdout.write(f"UNREADABLE: {error}\n")
        return 2
    except RefusedError as error:
        sys.stdout.write(f"REFUSED: {error}\n")
        return 1
    except Exception as error:  # noqa: BLE001 - whatever went wrong, nothing was verified
        sys.stdout.write(f"REFUSED: the check broke off: {type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write("VERIFIED\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
