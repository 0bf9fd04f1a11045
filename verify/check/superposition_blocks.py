"""The components of a superposition: each in a block of its own, how large their outputs can be, and what they answer.

A component is a transformer on the coordinates of its block. Its contract, that at every EQ its output is at least
`high` at its task's answer and at most `low` at every other token, is not proved here: it is tried out.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from verify.check.exact import Number, Row, columns, dot, require, rounded_up, times, used
from verify.check.files import Task, Tensor

WORK = 2_000_000
"""About how many pairs of positions are scored to try a contract out."""

ROUNDING = 1e-9
"""What floats may lose, relative to the largest output."""


class Unit(NamedTuple):
    """A hidden unit: what it reads, its bias, what it writes."""

    column: Row
    bias: Number
    out: Row


class Part(NamedTuple):
    """A component's heads (Wq, Wk, Wv, Wo) and units in one layer, and the bias that is written."""

    heads: list[list[list[Row]]]
    units: list[Unit]
    bias: Row


class Weights:
    """The tensors by layer."""

    def __init__(self, tensors: dict[str, Tensor], alphabet: int, positions: int) -> None:
        self.tensors = tensors
        self.depth = len({name.split(".")[1] for name in tensors if name.startswith("layers.")})
        self.token, self.place = tensors["embedding.token"].rows, tensors["embedding.position"].rows
        self.d_model = d = tensors["embedding.token"].shape[1]
        expected: dict[str, tuple[int, ...]] = {"embedding.token": (alphabet + 2, d), "unembedding": (d, alphabet)}
        expected["embedding.position"] = (positions, d)
        for layer in range(self.depth):
            at = f"layers.{layer}"
            h, _, d_qk = tensors[f"{at}.attention.query"].shape
            d_value, width = (tensors[f"{at}.{name}"].shape[-1] for name in ("attention.value", "mlp.w_in"))
            expected |= {f"{at}.attention.{name}": (h, d, d_qk) for name in ("query", "key")}
            expected |= {f"{at}.attention.value": (h, d, d_value), f"{at}.attention.output": (h, d_value, d)}
            expected |= {f"{at}.mlp.w_in": (d, width), f"{at}.mlp.bias_in": (width,)}
            expected |= {f"{at}.mlp.w_out": (width, d), f"{at}.mlp.bias_out": (d,)}
        require({name: tensor.shape for name, tensor in tensors.items()} == expected, "the tensors do not fit")

    def heads(self, layer: int) -> list[list[list[Row]]]:
        """Wq, Wk, Wv, Wo of each head."""
        tensors = [self.tensors[f"layers.{layer}.attention.{name}"] for name in ("query", "key", "value", "output")]
        count = tensors[0].shape[0]
        return [[rows[h * shape[1] : (h + 1) * shape[1]] for shape, rows in tensors] for h in range(count)]

    def units(self, layer: int) -> list[Unit]:
        """The hidden units."""
        w_in, bias, w_out = (self.tensors[f"layers.{layer}.mlp.{name}"].rows for name in ("w_in", "bias_in", "w_out"))
        read: list[Row] = [{} for _ in w_out]
        for c, row in enumerate(w_in):
            for unit, weight in row.items():
                read[unit][c] = weight
        return [Unit(column, bias[0].get(at, 0), out) for at, (column, out) in enumerate(zip(read, w_out, strict=True))]

    def bias(self, layer: int) -> Row:
        """What the MLP writes at every position."""
        return self.tensors[f"layers.{layer}.mlp.bias_out"].rows[0]


def take_apart(weights: Weights, blocks: Sequence[range], layers: int) -> list[list[Part]]:
    """Lemma 1: every head and unit of the first layers reads and writes one block. Returns them by block and layer."""
    owner = {c: k for k, block in enumerate(blocks) for c in block}
    require(len(owner) == sum(map(len, blocks)), "two blocks overlap")
    parts: list[list[Part]] = [[] for _ in blocks]
    for layer in range(layers):
        for mine, block in zip(parts, blocks, strict=True):
            mine.append(Part([], [], {c: bias for c, bias in weights.bias(layer).items() if c in block}))
        require(weights.bias(layer).keys() <= owner.keys(), f"the bias of layer {layer + 1} writes beside the blocks")
        for head in weights.heads(layer):
            query, key, value, output = head
            if columns(output) and used(value):
                owners = {owner.get(c) for c in used(query) | used(key) | used(value) | columns(output)}
                require(len(owners) == 1 and None not in owners, f"a head of layer {layer + 1} leaves its block")
                parts[owners.pop() or 0][layer].heads.append(head)
        for unit in weights.units(layer):
            if unit.out:
                owners = {owner.get(c) for c in unit.column.keys() | unit.out.keys()}
                require(len(owners) == 1 and None not in owners, f"a unit of layer {layer + 1} leaves its block")
                parts[owners.pop() or 0][layer].units.append(unit)
    return parts


def reach(weights: Weights, block: range, parts: Sequence[Part], outputs: Sequence[Row]) -> Fraction:
    """The most that |output| can be, at any position of any sequence of tokens.

    Attention writes convex combinations of values, a unit at most what the absolute values of its inputs give.
    """
    size: Row = {}
    for c in block:
        token, place = (max(abs(row.get(c, 0)) for row in rows) for rows in (weights.token, weights.place))
        size[c] = Fraction(token + place)
    for part in parts:
        more: Row = defaultdict(Fraction)
        for _, _, value, output in part.heads:
            fetched = times(times(size, absolute(value)), absolute(output))
            for c, most in fetched.items():
                more[c] += most
        size = {c: rounded_up(most + more[c]) if most + more[c] else most for c, most in size.items()}
        more = defaultdict(Fraction, {c: abs(bias) for c, bias in part.bias.items()})
        for unit in part.units:
            most = max(Fraction(0), unit.bias + sum(abs(weight) * size[c] for c, weight in unit.column.items()))
            for c, weight in unit.out.items():
                more[c] += most * abs(weight)
        size = {c: rounded_up(most + more[c]) if most + more[c] else most for c, most in size.items()}
    return max((Fraction(dot(size, {c: abs(w) for c, w in out.items()})) for out in outputs), default=Fraction(0))


def absolute(matrix: Sequence[Row]) -> list[Row]:
    """The absolute values of a matrix."""
    return [{c: abs(weight) for c, weight in row.items()} for row in matrix]


def answer(task: Task, inputs: Sequence[int]) -> int | None:
    """What a task answers, None where it has no answer."""
    read = tuple(inputs[position] for position in task.positions)
    if task.values is None:
        return task.rows.get(read)
    if not set(read) <= task.values.keys():
        return None
    return task.rows.get((sum(task.values[token] for token in read),))


class Alone:
    """A component by itself, in floats."""

    def __init__(self, weights: Weights, block: range, parts: Sequence[Part], outputs: Sequence[Row]) -> None:
        self.token, self.place = (
            [floats({c: row[c] for c in row.keys() & set(block)}) for row in rows]
            for rows in (weights.token, weights.place)
        )
        self.parts = [
            Part(
                [[[floats(row) for row in matrix] for matrix in head] for head in part.heads],
                [Unit(floats(unit.column), float(unit.bias), floats(unit.out)) for unit in part.units],
                floats(part.bias),
            )
            for part in parts
        ]
        self.outputs = [floats(out) for out in outputs]

    def run(self, ids: Sequence[int], at: Sequence[int]) -> list[list[float]]:
        """The outputs at some positions of a prompt."""
        stream = [added([self.token[token], place]) for token, place in zip(ids, self.place, strict=False)]
        for part in self.parts:
            for written in [self.attend(head, stream) for head in part.heads]:
                stream = [added([x, more]) for x, more in zip(stream, written, strict=True)]
            stream = [added([x, part.bias, *self.hidden(part, x)]) for x in stream]
        return [[dot(stream[position], out) for out in self.outputs] for position in at]

    def attend(self, head: Sequence[Sequence[Row]], stream: Sequence[Row]) -> list[Row]:
        """What a head writes, by position."""
        query, key, value, output = head
        keys, values = ([times(x, matrix) for x in stream] for matrix in (key, value))
        written = []
        for position, x in enumerate(stream):
            asked = times(x, query)
            scores = [dot(asked, other) for other in keys[: position + 1]]
            best = max(scores)
            shares = [math.exp(score - best) for score in scores]
            total, mixed = sum(shares), defaultdict[int, float](float)
            for share, fetched in zip(shares, values, strict=False):
                for d, number in fetched.items():
                    mixed[d] += share / total * number
            written.append(times(mixed, output))
        return written

    def hidden(self, part: Part, x: Row) -> Iterator[Row]:
        """What each unit writes at one position."""
        for unit in part.units:
            on = unit.bias + dot(x, unit.column)
            if on > 0:
                yield {c: on * weight for c, weight in unit.out.items()}


def floats(row: Row) -> Row:
    """A row in floats."""
    return {c: float(weight) for c, weight in row.items()}


def added(rows: Sequence[Row]) -> Row:
    """The sum of rows."""
    total: Row = defaultdict(float)
    for row in rows:
        for c, number in row.items():
            total[c] += number
    return total


def try_out(alone: Alone, task: Task, sizes: tuple[int, int, int], low: float, high: float, most: Fraction) -> int:
    """Run a component on prompts in which its inputs stand in every example. Returns how many outputs were looked at.

    Refuses the contract where an output breaks it. That none was found to do so is no proof.
    """
    alphabet, inputs, examples = sizes
    total = alphabet ** len(task.positions)
    prompts = max(1, min(total, WORK // ((examples + 1) * (inputs + 2)) ** 2))
    step, slack, tried = -(-total // prompts), ROUNDING * (1 + float(most)), 0
    at = [(example + 1) * (inputs + 2) - 1 for example in range(examples + 1)]
    for first in range(0, total, step):
        ids, shown = [alphabet], []
        for example in range(examples + 1):
            number = first + example * (step + total // (examples + 1))
            chosen = [(first + example + place) % alphabet for place in range(inputs)]
            for position in task.positions:
                number, chosen[position] = divmod(number, alphabet)
            shown.append(chosen)
            ids += [*chosen, alphabet + 1, (first + example) % alphabet]
        for chosen, output in zip(shown, alone.run(ids[:-1], at), strict=True):
            right = answer(task, chosen)
            tried += 1
            for v, value in enumerate(output):
                kept = value >= high - slack if v == right else value <= low + slack
                require(kept, f"a component gives token {v} {value:.6g} on {chosen}, which breaks its contract")
    return tried
