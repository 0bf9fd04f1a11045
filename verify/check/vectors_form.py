"""Vectors: the weights are those of the three-layer construction, entry by entry, but for numbers that are read off.

The form is written down here from its description alone (docs/theory/vectors.md). Free are: the fingerprint maps, the
thresholds of the excess and their gates, the table of the logarithm, the strength of the tally and the constant log c0.
What follows from these numbers is in vectors_bounds.py. Weights of any other form are refused, right or not.
"""

import struct
from fractions import Fraction
from typing import Any, NamedTuple

from verify.check.exact import Number, Row, require
from verify.check.files import Tensor


class Affine(NamedTuple):
    """A task: the input that it reads, the rows of its matrix, its offset; all float32 numbers."""

    place: int
    matrix: list[list[float]]
    offset: list[float]


class Sizes(NamedTuple):
    """K, d, n, m, the bits of the indices of examples and of inputs, and r."""

    tasks: int
    dim: int
    inputs: int
    examples: int
    bits: int
    input_bits: int
    width: int


class Claim(NamedTuple):
    """What is claimed of which function: construction.json says it, and the certificate repeats it."""

    tasks: list[Affine]
    size: Sizes
    sharpness: float
    attention: bool
    rows: list[list[float]]  # F
    margin: float
    bound: float
    answer_bound: float
    domain: dict[str, Any]


class Free(NamedTuple):
    """The numbers that are read off the weights, by task."""

    maps: list[list[list[float]]]  # F A as stored
    thresholds: list[list[tuple[float, float]]]  # by coordinate: the biases of the units of + and of -
    strength: list[float]  # what an excess takes from a score of the tally
    logarithm: list[list[tuple[float, float, float]]]  # by unit: slope, bias, weight
    constants: list[float]  # log c0


def single(value: float) -> float:
    """To float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def read_claim(described: Any) -> Claim:
    """The tasks, the sizes and the domain. Raises RefusedError, or whatever a wrong description makes fail."""
    data, domain, m = described["task_set"], described["domain"], described["layout"]["examples"]
    tasks = []
    for task in data["tasks"]:
        matrix = [[single(number) for number in row] for row in task["matrix"]]
        tasks.append(Affine(task["position"], matrix, [single(number) for number in task["offset"]]))
    d, n, kind = len(tasks[0].offset), data["inputs"], domain["comparison"]
    require(all(type(number) is int for number in (n, m, *(task.place for task in tasks))), "a size is no integer")
    require(min(n, m, d) >= 1 and all(0 <= task.place < n for task in tasks), "a size is below 1, or there is no input")
    square = all(len(t.matrix) == len(t.offset) == d and all(len(row) == d for row in t.matrix) for t in tasks)
    require(square, "a matrix or an offset has another size than d")
    given = domain["fingerprint"]
    unit = [[float(i == j) for j in range(d)] for i in range(d)]
    rows = unit if given is None else [[single(number) for number in row] for row in given]
    require(kind in ("fingerprint", "attention") and 1 <= len(rows) <= d, "there is no such comparison")
    require(all(len(row) == d for row in rows), "a row of the fingerprint has another length than d")
    attention, margin, bound = kind == "attention", float(data["margin"]), float(data["bound"])
    answers, sharpness = float(domain["answer_bound"]), float(described["sharpness"])
    require(min(margin, bound, answers, sharpness) > 0 and sharpness < 1000, "the domain is empty")
    width = 1 if attention else len(rows)
    stated = {"tolerance": margin / 4, "margin": margin, "input_bound": bound, "answer_bound": answers}
    stated |= {"norm_slack": margin**2 / 16 if attention else 0.0}
    require(all(domain[name] == value for name, value in stated.items()), "the domain is not that of the tasks")
    if attention:
        plain = bound == 1 and margin <= 1 and not any(number for task in tasks for number in task.offset)
        require(plain and given is None, "the comparison by attention is for unit vectors, without offsets")
    size = Sizes(len(tasks), d, n, m, m.bit_length(), (n - 1).bit_length(), width)
    return Claim(tasks, size, sharpness, attention, rows, margin, bound, answers, {"comparison": kind, **stated})


class Form:
    """The tensors as they should be, with the free numbers taken from the weights."""

    def __init__(self, claim: Claim, tensors: dict[str, Tensor]) -> None:
        self.claim, self.found = claim, tensors
        k, d, _, _, bits, input_bits, width = claim.size
        names = [("vector", d), *((f"role_{role}", 1) for role in ("bos", "x", "eq", "y"))]
        names += [("asked", bits), ("held", bits), ("input", input_bits)]
        names += [(f"print{task}", width) for task in range(k)]
        names += [(name, k) for name in ("excess", "share", "agreement", "log", "weight")]
        self.at: dict[str, int] = {}
        self.width = 0
        for name, count in names:
            self.at[name], self.width = self.width, self.width + count
        self.made: dict[str, tuple[tuple[int, ...], dict[tuple[int, ...], Number]]] = {}
        self.free = Free([], [], [], [], [])

    def need(self, name: str, shape: tuple[int, ...], entries: dict[tuple[int, ...], Number]) -> None:
        """Refuse unless the tensor has just these entries other than 0."""
        require(name in self.found, f"there is no {name}")
        tensor, stride = self.found[name], shape[-2] if len(shape) > 1 else 1
        require(tensor.shape == shape, f"{name} has the shape {tensor.shape}, the form has {shape}")
        wanted: list[Row] = [{} for _ in tensor.rows]
        for index, value in entries.items():
            if value:
                lead = index[:-1]
                row = lead[0] * stride + lead[1] if len(lead) == 2 else (lead[0] if lead else 0)
                wanted[row][index[-1]] = Fraction(value)
        for row, (one, other) in enumerate(zip(tensor.rows, wanted, strict=True)):
            require(one == other, f"{name} is not as the form has it in row {row}")
        self.made[name] = shape, entries

    def take(self, name: str, row: int, column: int) -> float:
        """A free number."""
        rows = self.found[name].rows
        require(row < len(rows), f"{name} has too few rows")
        return float(rows[row].get(column, 0))

    def own_input(
        self, head: int, place: int, asking: tuple[str, ...], query: dict[tuple[int, ...], Number], key: Any
    ) -> None:
        """Query and key of "input `place` of my own example": 2 b1 columns of mismatches, `place`, `idle`."""
        at, b1, scale = self.at, self.claim.size.bits, self.claim.sharpness
        for bit in range(b1):
            query[head, at["asked"] + bit, bit], query[head, at["asked"] + bit, b1 + bit] = scale, -scale
            key[head, at["held"] + bit, bit], key[head, at["held"] + bit, b1 + bit] = 1, -1
            key[head, at["role_x"], bit] = -1
        for role in ("bos", "x", "eq", "y"):
            row = at[f"role_{role}"]
            if role in asking:
                query |= {(head, row, column): scale for column in range(b1, 2 * b1 + 1)}
            else:
                query[head, row, 2 * b1 + 1] = scale
            if role != "x":
                key[head, row, 2 * b1] = -2
            if role != "bos":
                key[head, row, 2 * b1 + 1] = -2
        wanted = [place >> bit & 1 for bit in range(self.claim.size.input_bits)]
        key[head, at["role_x"], 2 * b1] = -sum(wanted)
        for bit, one in enumerate(wanted):
            key[head, at["input"] + bit, 2 * b1] = 1 if one else -1

    def check(self) -> Free:
        """Every tensor, in turn. Returns the free numbers."""
        self.embeddings()
        self.first_comparing() if self.claim.attention else self.first_reading()
        self.first_units()
        self.second()
        self.third()
        require(self.found.keys() == self.made.keys(), "there are tensors that the form does not have")
        return self.free

    def embeddings(self) -> None:
        """E and U copy the vector; P holds the role, the index asked for at EQ and y, and those held at x."""
        _, d, n, m, bits, input_bits, _ = self.claim.size
        copied: dict[tuple[int, ...], Number] = {(i, i): 1 for i in range(d)}
        self.need("embedding.token", (d, self.width), copied)
        self.need("unembedding", (self.width, d), copied)
        entries: dict[tuple[int, ...], Number] = {(0, self.at["role_bos"]): 1}
        for position in range(1, (m + 1) * (n + 2)):
            example, place = divmod(position - 1, n + 2)
            role, index = ("eq", "asked") if place == n else ("y", "asked") if place > n else ("x", "held")
            entries[position, self.at[f"role_{role}"]] = 1
            entries |= {(position, self.at[index] + bit): example >> bit & 1 for bit in range(bits)}
            if role == "x":
                entries |= {(position, self.at["input"] + bit): place >> bit & 1 for bit in range(input_bits)}
        self.need("embedding.position", ((m + 1) * (n + 2), self.width), entries)

    def heads(self, layer: int, sizes: tuple[int, int, int], parts: dict[str, dict[tuple[int, ...], Number]]) -> None:
        """Wq, Wk, Wv and Wo of a layer, with (heads, d_qk, d_value)."""
        heads, d_qk, d_value = sizes
        shapes = {"query": (heads, self.width, d_qk), "key": (heads, self.width, d_qk)}
        shapes |= {"value": (heads, self.width, d_value), "output": (heads, d_value, self.width)}
        for name, shape in shapes.items():
            self.need(f"layers.{layer}.attention.{name}", shape, parts[name])

    def first_reading(self) -> None:
        """Layer 1 by fingerprints: a head a distinct input, that writes F A x for each task that reads it."""
        (_, d, *_, width), name = self.claim.size, "layers.0.attention.output"
        places = sorted({task.place for task in self.claim.tasks})
        parts: dict[str, dict[tuple[int, ...], Number]] = {part: {} for part in ("query", "key", "value", "output")}
        for head, place in enumerate(places):
            self.own_input(head, place, ("eq", "y"), parts["query"], parts["key"])
            parts["value"] |= {(head, i, i): 1 for i in range(d)}
        for number, task in enumerate(self.claim.tasks):
            head, start = places.index(task.place), self.at[f"print{number}"]
            stored = [[self.take(name, head * d + j, start + i) for j in range(d)] for i in range(width)]
            self.free.maps.append(stored)
            parts["output"] |= {(head, j, start + i): stored[i][j] for i in range(width) for j in range(d)}
        self.heads(0, (len(places), 2 * self.claim.size.bits + 2, d), parts)

    def first_comparing(self) -> None:
        """Layer 1 by attention: a head a task; y asks with y Lambda A, x answers with itself, BOS competes."""
        (k, d, _, _, bits, *_), at = self.claim.size, self.at
        scale, edge = single(16 / self.claim.margin**2), single(1 - self.claim.margin**2 / 4)
        parts: dict[str, dict[tuple[int, ...], Number]] = {part: {} for part in ("query", "key", "value", "output")}
        first = 2 * bits + 2
        for number, task in enumerate(self.claim.tasks):
            self.own_input(number, task.place, ("y",), parts["query"], parts["key"])
            parts["key"][number, at["role_bos"], 2 * bits] = 0
            for i in range(d):
                parts["query"] |= {(number, i, first + j): single(scale * task.matrix[i][j]) for j in range(d)}
                parts["key"][number, i, first + i] = 1
            parts["query"][number, at["role_y"], first + d] = single(scale * edge)
            parts["key"][number, at["role_bos"], first + d] = 1
            parts["value"][number, at["role_bos"], 0] = 1
            parts["output"][number, 0, at[f"print{number}"]] = 1
        self.heads(0, (k, first + d + 1, 1), parts)

    def mlp(self, layer: int, units: list[tuple[dict[int, Number], Number, dict[int, Number]]]) -> None:
        """W1, b1, W2, b2 of a layer, of units (reads, bias, writes)."""
        name, count = f"layers.{layer}.mlp", len(units)
        reads: dict[tuple[int, ...], Number] = {}
        writes: dict[tuple[int, ...], Number] = {}
        for unit, (read, _, written) in enumerate(units):
            reads |= {(at, unit): value for at, value in read.items()}
            writes |= {(unit, at): value for at, value in written.items()}
        self.need(f"{name}.w_in", (self.width, count), reads)
        self.need(f"{name}.bias_in", (count,), {(unit,): bias for unit, (_, bias, _) in enumerate(units)})
        self.need(f"{name}.w_out", (count, self.width), writes)
        self.need(f"{name}.bias_out", (self.width,), {})

    def first_units(self) -> None:
        """Excess k from two units a coordinate (from the doubt, one unit); then y is erased."""
        (_, d, *_, width), at, claim = self.claim.size, self.at, self.claim
        units: list[tuple[dict[int, Number], Number, dict[int, Number]]] = []
        for number in range(len(claim.tasks)):
            start, to = at[f"print{number}"], at["excess"] + number
            if claim.attention:
                units.append(({start: 1, at["role_y"]: 1}, -1.5, {to: 1}))
                continue
            both = []
            for sign in (1, -1):
                first = len(units)
                both.append([self.take("layers.0.mlp.bias_in", 0, first + i) for i in range(width)])
                for i in range(width):
                    gate = -self.take("layers.0.mlp.w_in", at["role_bos"], first + i)
                    require(both[-1][i] <= gate, f"excess {number} is not shut at BOS")
                    row = {j: -sign * claim.rows[i][j] for j in range(d)}
                    units.append((row | {start + i: sign, at["role_bos"]: -gate}, both[-1][i], {to: 1}))
            self.free.thresholds.append(list(zip(*both, strict=True)))
        gate = -self.take("layers.0.mlp.w_in", at["role_x"], len(units))
        require(gate >= claim.bound * (1 + 2.0**-20), "inputs can be erased")
        for sign in (1, -1):
            units += [({i: sign, at["role_x"]: -gate}, 0, {i: -sign}) for i in range(d)]
        self.mlp(0, units)

    def second(self) -> None:
        """Layer 2: BOS beside the examples that follow; agreement at y, the logarithm at EQ."""
        (k, _, _, m, *_), at, scale = self.claim.size, self.at, self.claim.sharpness
        parts: dict[str, dict[tuple[int, ...], Number]] = {part: {} for part in ("query", "key", "value", "output")}
        units: list[tuple[dict[int, Number], Number, dict[int, Number]]] = []
        least = 0.25 if self.claim.attention else self.claim.margin / 4
        for number in range(k):
            strength = -self.take("layers.1.attention.key", number * self.width + at["excess"] + number, 0)
            self.free.strength.append(strength)
            parts["query"][number, at["role_eq"], 0], parts["key"][number, at["excess"] + number, 0] = 1, -strength
            parts["key"] |= {(number, at[f"role_{role}"], 0): -2 * scale for role in ("x", "eq")}
            parts["query"] |= {(number, at[f"role_{role}"], 1): scale for role in ("bos", "x", "y")}
            parts["key"] |= {(number, at[f"role_{role}"], 1): -2 for role in ("x", "eq", "y")}
            parts["value"][number, at["role_bos"], 0] = parts["output"][number, 0, at["share"] + number] = 1
            units.append(
                ({at["excess"] + number: single(-2 / least), at["role_y"]: 1}, 0, {at["agreement"] + number: 1})
            )
            table, share = [], at["share"] + number
            for unit in range(len(units), len(units) + m):
                slope = self.take("layers.1.mlp.w_in", share, unit)
                bias = self.take("layers.1.mlp.bias_in", 0, unit)
                weight = self.take("layers.1.mlp.w_out", unit, at["log"] + number)
                require(abs(slope) == 1, "a unit of a logarithm does not copy the share")
                # At every y, x and BOS the logarithm may be anything: it is read at EQ alone.
                table.append((slope, bias, weight))
                units.append(({share: slope}, bias, {at["log"] + number: weight}))
            self.free.logarithm.append(table)
        self.heads(1, (k, 2, 1), parts)
        self.mlp(1, units)

    def third(self) -> None:
        """Layer 3: the input weighs c, each example that does not follow 1; no units."""
        (k, d, _, _, bits, *_), at = self.claim.size, self.at
        parts: dict[str, dict[tuple[int, ...], Number]] = {part: {} for part in ("query", "key", "value", "output")}
        place, last = 2 * bits, 2 * bits + 2
        for number, task in enumerate(self.claim.tasks):
            self.own_input(number, task.place, ("eq",), parts["query"], parts["key"])
            parts["key"][number, at["role_bos"], place] = -1
            parts["key"][number, at["role_y"], place] = 0
            parts["key"][number, at["agreement"] + number, place] = -2
            constant = self.take("layers.2.attention.query", number * self.width + at["role_eq"], last)
            self.free.constants.append(constant)
            parts["query"] |= {(number, at["log"] + number, last): 1, (number, at["role_eq"], last): constant}
            parts["key"][number, at["role_x"], last] = 1
            for i in range(d):
                parts["value"] |= {(number, j, i): task.matrix[i][j] for j in range(d)}
                parts["value"][number, at["role_x"], i] = task.offset[i]
                parts["output"][number, i, i] = 1
            parts["value"][number, at["role_x"], d] = parts["output"][number, d, at["weight"] + number] = 1
        self.heads(2, (k, last + 1, d + 1), parts)
        self.mlp(2, [])
