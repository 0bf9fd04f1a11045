"""Any number of tasks with two heads, then one, then one: the relay, in three layers.

The two-layer construction (`construct.theorems.two_layer`) has a head a distinct read, because one position, the y,
looks at every input of its example. Here no position looks at more than one. The input at place j of the next example
looks back at the input at place j and at the y of the example before it, and so becomes the place where the tasks
that read j are judged; it averages what its own kind has found, answers for itself, and EQ adds the answers up. So
the number of heads does not grow with the tasks K nor with the inputs n (docs/theory/heads.md).

It takes tasks that read one input each. This module proves the bound on paper, beside the weights; the prover for
all prompts (`verify.theorem`) is for two layers and does not take it.

Notation: z = exp(-sharpness); b1, b2 and B are the bits of the codes of the example, the input place and the token.
A LATER x is an input of an example that another one precedes.
"""

import math
from dataclasses import dataclass

import numpy as np

from construct.attention import AVERAGE_MARGIN, Head, stack_heads
from construct.bounds import SIGNIFICANT_BITS, SUMMED, round_sharpness
from construct.errors import InputError, TaskError
from construct.mlp import MlpBuilder
from construct.prompts import Layout
from construct.residual_stream import Array, ResidualStream, Subspace, binary_code, code_length
from construct.sparse import Sparse, sparse_matrix
from construct.tasks import TableTask, TaskSet
from construct.theorems import DEFAULT_ERROR, Circuit, Construction
from construct.transformer import LayerWeights, TransformerWeights

NAME = "few-heads"


def few_heads(
    task_set: TaskSet, *, examples: int, error: float = DEFAULT_ERROR, sharpness: float | None = None
) -> Construction:
    """K tasks that read one input each, in superposition, by 2 + 1 + 1 heads in three layers.

    For every prompt of at most m = `examples` examples, at every EQ, |q_hat - q|_1 <= error_bound in real arithmetic
    (`bound`). d_model = 2 V + 5 + 2 (b1 + B + K') + b2, K' the most tasks that read one place; MLPs: a unit a row.

    Args:
        task_set: K tables, each of one input.
        examples: m, at least 1.
        error: the wanted bound; chooses the sharpness unless that is given.
        sharpness: lambda, to be used instead.

    Raises:
        TaskError: a task reads several inputs, or examples < 1.
        InputError: error or sharpness are out of range.
    """
    if examples < 1:
        raise TaskError(f"examples is {examples}: a construction takes at least 1 in-context example")
    tasks = _single_reads(task_set)
    layout = Layout(len(task_set.alphabet), task_set.inputs, examples)
    slots = _slots(tasks)
    stream = _subspaces(layout, max(slots) + 1)
    chosen = _choose_sharpness(tasks, layout, error) if sharpness is None else round_sharpness(sharpness)
    circuit = _Circuits(stream, layout, chosen)

    # Layer 1: every later x fetches the input at its own place and the answer, of the example before ...
    fetch = [circuit.previous_input(), circuit.previous_answer()]
    # ... and notes for the tasks that read this place whether that example is consistent with them.
    evidence = MlpBuilder(stream)
    for slot, task in zip(slots, tasks, strict=True):
        judge(evidence, task, slot)
    # Layer 2: every later x averages what the later x at its place have noted, and answers for itself.
    average = [circuit.average()]
    answer = MlpBuilder(stream)
    for slot, task in zip(slots, tasks, strict=True):
        respond(answer, task, slot)
    # Layer 3: every EQ adds up the answers of its own example's inputs.
    gather = [circuit.gather()]

    nothing = MlpBuilder(stream)
    layers = ((fetch, evidence), (average, answer), (gather, nothing))
    token = stream["token"]
    weights = TransformerWeights(
        token_embedding=_unit_rows(token, (layout.vocabulary_size, stream.d_model)),
        position_embedding=_position_embedding(stream, layout),
        layers=tuple(LayerWeights(stack_heads(heads), mlp.weights()) for heads, mlp in layers),
        unembedding=_unit_rows(token, (layout.alphabet_size, stream.d_model)).T.tocsr(),
    )
    circuits: list[Circuit] = []
    for number, (heads, mlp) in enumerate(layers, start=1):
        circuits += (Circuit(number, "attention", h.name, 1, h.reads, h.writes, h.margin, h.says) for h in heads)
        circuits += (Circuit(number, "mlp", g.name, g.units, g.reads, g.writes, g.margin, g.says) for g in mlp.groups)
    real = bound(tasks, layout, chosen)
    claim = None if real is None else real * SUMMED
    return Construction(NAME, task_set, layout, stream, weights, chosen, claim, tuple(circuits))


@dataclass(frozen=True)
class Leaks:
    """The largest attention that goes elsewhere than to the targets, over all prompts, head by head."""

    previous_input: float
    previous_answer: float
    average: float
    gather: float


def leaks(layout: Layout, sharpness: float) -> Leaks:
    """The leaks, as the heads' docstrings derive them: each is A / (1 + A) of the weight A beside the targets."""
    z, n = math.exp(-sharpness), layout.inputs
    b1, b2 = code_length(layout.examples + 1), code_length(n)
    others, examples = math.expm1(b1 * math.log1p(z**2)), math.exp(b1 * math.log1p(z**2))
    both = math.expm1((b1 + b2) * math.log1p(z**2))
    s = z**AVERAGE_MARGIN
    places = math.exp(b2 * math.log1p(s**2))
    beside = (
        both + 2 * z ** (b2 + 2) * examples + z ** (b1 + b2 + 4),
        others + (n + 1) * z**2 * examples + z ** (b1 + 4),
        math.expm1(b2 * math.log1p(s**2)) + s**2 * places + 2 * s ** (b2 + 2) + s ** (b2 + 4),
        others + 2 * z**2 * examples / n + z ** (b1 + 4) / n,
    )
    return Leaks(*(weight / (1 + weight) for weight in beside))


def bound(tasks: tuple[TableTask, ...], layout: Layout, sharpness: float) -> float | None:
    """|q_hat - q|_1 <= K (2 B (rho_x + rho_y) + rho_w + rho_g) + n K' rho_g, or None: too low a sharpness.

    rho_x, rho_y, rho_w, rho_g are the `leaks`, K' is the most tasks that read one place. An evidence loses at most
    2 B (rho_x + rho_y) (`judge`), a weight is off by another rho_w (`average`), the answer loses nothing (`respond`).
    The places' answers have |.|_1 at most K in all and K' each; adding them up loses rho_g of them, and lets in n rho_g
    times one of them (`gather`).
    """
    found = leaks(layout, sharpness)
    if max(found.previous_input, found.previous_answer) > 0.5:
        return None
    reads = [task.reads[0] for task in tasks]
    most, bits = max(reads.count(place) for place in set(reads)), code_length(layout.alphabet_size)
    each = 2 * bits * (found.previous_input + found.previous_answer) + found.average + found.gather
    return len(tasks) * each + layout.inputs * most * found.gather


def judge(mlp: MlpBuilder, task: TableTask, slot: int) -> None:
    """At a later x at the place that the task reads: e_k = [the example before is consistent with it].

    One unit a row, of input v and answer a, at the place j that the task reads:

        relu(<x_hat, code(v)> + <y_hat, code(a)> + <code(place), code(j)> + [later x] - (2 B + b2)).

    x_hat and y_hat are convex combinations of +-1 codes and 0, so a product with a code is at most B. Row read, answer
    given, place j: at least 1 - 2 B (rho_x + rho_y), at most 1. Otherwise exactly 0: where it is no later x, the rest
    is at most 2 B + b2; at another place it is at most 2 B + b2 - 2 + 1; on another row or answer some bit is at most
    -(1 - 2 rho), so the sum is at most 2 rho - 1 <= 0 for rho <= 1/2. QED.
    """
    stream = mlp.stream
    codes, place, rows = _place_and_rows(stream, task)
    bits = 2 * codes.shape[1] + len(place)
    mlp.units(
        bias=np.full(len(rows), -float(bits), dtype=np.float32),
        inputs=[
            (stream["previous_x"], codes[rows[:, 0]]),
            (stream["previous_y"], codes[rows[:, 1]]),
            (stream["input_index"], np.tile(place, (len(rows), 1))),
            (stream["later_x"], 1.0),
        ],
        outputs=[(np.full(len(rows), stream["evidence"].start + slot), 1.0)],
    )
    mlp.close_group(
        f"evidence[{task.name}]",
        reads=["previous_x", "previous_y", "input_index", "later_x"],
        writes=["evidence"],
        margin=1.0,
        says=f"at x, place {task.reads[0]}: 1 where a row of the table fits the example before",
    )


def respond(mlp: MlpBuilder, task: TableTask, slot: int) -> None:
    """At a later x at the place that the task reads: w_k u[g_k(x)], one unit a row.

        relu([token is v] + w_k + <code(place), code(j)> + [later x] - (b2 + 2)), written to the answer's coordinate.

    Token v, place j: exactly w_k. Otherwise exactly 0, as w_k <= 1: another token or no later x takes 1 away, another
    place 2. The token is its own, one-hot and exact, so nothing is lost here.
    """
    stream = mlp.stream
    _, place, rows = _place_and_rows(stream, task)
    mlp.units(
        bias=np.full(len(rows), -(len(place) + 2.0), dtype=np.float32),
        inputs=[
            (stream["token"].start + rows[:, 0], 1.0),
            (np.full(len(rows), stream["weight"].start + slot), 1.0),
            (stream["input_index"], np.tile(place, (len(rows), 1))),
            (stream["later_x"], 1.0),
        ],
        outputs=[(stream["answer"].start + rows[:, 1], 1.0)],
    )
    mlp.close_group(
        f"answer[{task.name}]",
        reads=["token", "weight", "input_index", "later_x"],
        writes=["answer"],
        margin=1.0,
        says=f"at x, place {task.reads[0]}: the weight of the task, to its answer on this input",
    )


@dataclass(frozen=True)
class _Circuits:
    """The four heads. All scores are integers times the sharpness; BOS, whose values are 0, is where the rest look."""

    stream: ResidualStream
    layout: Layout
    sharpness: float

    def previous_input(self) -> Head:
        """At a later x of example i and place j: the code of the token at place j of example i-1.

        The score of key (i', j') is <code(i-1), code(i')> + <code(j), code(j')> + 2 [key is x] - 2 [key is bos], the
        same as in `construct.attention.read_head` with i-1 for i. So the leak is the same too: at most
        A = (1+z^2)^(b1+b2) - 1 + 2 z^(b2+2) (1+z^2)^b1 + z^(b1+b2+4) of weight lies beside the target.
        """
        codes = binary_code(self.layout.alphabet_size)
        return self._head(
            "previous input",
            at="later_x",
            matches=[("previous_index", "example_index"), ("input_index", "input_index")],
            bonus="role_x",
            value=("token", "previous_x", codes),
            says="at x: the input at this place of the example before",
        )

    def previous_answer(self) -> Head:
        """At a later x of example i: the code of the y of example i-1.

        The score is <code(i-1), code(i')> + 2 [key is y] - 2 [key is bos]. Another y is 2h less, h >= 1 bits away;
        an x or EQ h bits away is 2h + 2 less, n + 1 keys share a code; BOS is b1 + 4 less:
        A = (1+z^2)^b1 - 1 + (n+1) z^2 (1+z^2)^b1 + z^(b1+4).
        """
        codes = binary_code(self.layout.alphabet_size)
        return self._head(
            "previous answer",
            at="later_x",
            matches=[("previous_index", "example_index")],
            bonus="role_y",
            value=("token", "previous_y", codes),
            says="at x: the answer of the example before",
        )

    def average(self) -> Head:
        """At a later x of example i and place j: the average of the evidence at the later x of place j so far.

        In units of AVERAGE_MARGIN * sharpness the score is <code(j), code(j')> + 2 [key is later x] - 2 [key is bos];
        s = z^AVERAGE_MARGIN. The targets are the x at place j of the examples 1 .. i: as many as the examples before
        the query. Relative to these i targets, the later x at other places weigh at most (1+s^2)^b2 - 1, the x of
        example 0 at most s^2 (1+s^2)^b2, the 2 i EQ and y 2 s^(b2+2), and BOS s^(b2+4).

        At place j a coordinate of the evidence belongs to one task that reads j, elsewhere to others: it is in [0, 1].
        So w_k = (1 - rho_w) (1/i) sum of the evidence, plus rho_w times a number in [0, 1], is off by at most rho_w.
        """
        count = self.stream["evidence"].size
        return self._head(
            "average",
            at="later_x",
            matches=[("input_index", "input_index")],
            bonus="later_x",
            value=("evidence", "weight", np.eye(count, dtype=np.float32)),
            says="at x: the average evidence at this place so far",
            scale=AVERAGE_MARGIN,
        )

    def gather(self) -> Head:
        """At EQ: the sum of what stands in `answer` at the n inputs of the same example.

        The score is <code(i), code(i')> + 2 [key is x] - 2 [key is bos], the value n times the answer. Relative to the
        n targets, the x of other examples weigh at most (1+z^2)^b1 - 1, EQ and y 2 z^2 (1+z^2)^b1 / n, BOS
        z^(b1+4) / n. Only x have answers, and the targets weigh the same: the sum is (1 - rho_g) of the true one,
        plus n rho_g times an average of other x's answers. At the first EQ there are none: exactly 0.
        """
        size = self.layout.alphabet_size
        return self._head(
            "gather",
            at="role_eq",
            matches=[("example_index", "example_index")],
            bonus="role_x",
            value=("answer", "token", np.eye(size, dtype=np.float32) * self.layout.inputs),
            says="at eq: the sum of the answers of this example's inputs",
        )

    def _head(
        self,
        name: str,
        *,
        at: str,
        matches: list[tuple[str, str]],
        bonus: str,
        value: tuple[str, str, Array],
        says: str,
        scale: int = 1,
    ) -> Head:
        """Queries with the flag `at` score the matches, +2 on keys with the flag `bonus`, -2 on BOS; all others -2, +2.

        Queries without the flag score no match: what they ask with is 0 there, or is taken away (`asks` below). Then
        BOS is ahead of every other key by 2 at least.
        """
        stream, d_model = self.stream, self.stream.d_model
        sizes = [stream[asked].size for asked, _ in matches]
        d_qk = sum(sizes) + 1
        query, key = np.zeros((2, d_model, d_qk), dtype=np.float32)
        start = 0
        for (asked, shown), size in zip(matches, sizes, strict=True):
            part = slice(start, start + size)
            query[stream[asked].coordinates, part] = np.eye(size)
            key[stream[shown].coordinates, part] = np.eye(size)
            start += size
        # The last coordinate: 2 for a query that takes part, less than minus all matches for one that does not.
        outside = -(start + 2.0) if start else -2.0
        for role in ("role_bos", "role_x", "role_eq", "role_y"):
            query[stream[role].start, -1] = outside
        query[stream[at].start, -1] = 2.0 if at.startswith("role_") else 2.0 - outside
        key[stream[bonus].start, -1], key[stream["role_bos"].start, -1] = 1.0, -1.0
        source, to, table = value
        w_v = np.zeros((d_model, table.shape[1]), dtype=np.float32)
        w_o = np.zeros((table.shape[1], d_model), dtype=np.float32)
        w_v[stream[source].coordinates] = table
        w_o[:, stream[to].coordinates] = np.eye(table.shape[1])
        return Head(
            name=name,
            query=(np.float32(scale * self.sharpness) * query).astype(np.float32),
            key=key,
            value=w_v,
            output=w_o,
            reads=(*(shown for _, shown in matches), bonus, source),
            writes=(to,),
            margin=2 * scale * self.sharpness,
            says=says,
        )


def _single_reads(task_set: TaskSet) -> tuple[TableTask, ...]:
    tasks = tuple(task for task in task_set.tasks if isinstance(task, TableTask) and len(task.reads) == 1)
    for task in task_set.tasks:
        if task not in tasks:
            raise TaskError(f"the task {task.name!r} reads several inputs: with few heads each task reads one")
    return tasks


def _slots(tasks: tuple[TableTask, ...]) -> list[int]:
    """For each task its number among those that read the same place, from 0."""
    return [sum(other.reads == task.reads for other in tasks[:index]) for index, task in enumerate(tasks)]


def _subspaces(layout: Layout, slots: int) -> ResidualStream:
    size, b1 = layout.alphabet_size, code_length(layout.examples + 1)
    bits = code_length(size)
    return ResidualStream(
        {"token": size, "answer": size}
        | dict.fromkeys(("role_bos", "role_x", "role_eq", "role_y", "later_x"), 1)
        | {"example_index": b1, "previous_index": b1, "input_index": code_length(layout.inputs)}
        | {"previous_x": bits, "previous_y": bits, "evidence": slots, "weight": slots}
    )


def _choose_sharpness(tasks: tuple[TableTask, ...], layout: Layout, error: float) -> float:
    """The least sharpness of `SIGNIFICANT_BITS` bits whose bound is at most `error`."""
    if not 1e-15 <= error <= 0.5:
        raise InputError(f"the error wanted is {error:g}: expected a number from 1e-15 to 0.5")
    steps = 2 ** (SIGNIFICANT_BITS - 1)
    for exponent in range(12):
        for significand in range(steps, 2 * steps):
            sharpness = math.ldexp(significand / steps, exponent)
            found = bound(tasks, layout, sharpness)
            if found is not None and found * SUMMED <= error:
                return sharpness
    raise InputError(f"no sharpness reaches the error {error:g}")


def _place_and_rows(stream: ResidualStream, task: TableTask) -> tuple[Array, Array, np.ndarray]:
    """Codes of all tokens, the code of the place that the task reads, and its rows as (input, answer)."""
    codes, bits = binary_code(stream["token"].size), stream["input_index"].size
    place = binary_code(2**bits)[task.reads[0]]
    return codes, place, np.array([(key[0], out) for key, out in task.rows.items()], dtype=np.int_)


def _unit_rows(subspace: Subspace, shape: tuple[int, int]) -> Sparse:
    rows = np.arange(subspace.size)
    return sparse_matrix(np.ones(subspace.size, dtype=np.float32), rows, subspace.start + rows, shape)


def _position_embedding(stream: ResidualStream, layout: Layout) -> Sparse:
    """P: the role of each position, the codes of its example and of the one before, and of its input place."""
    matrix = np.zeros((layout.positions, stream.d_model), dtype=np.float32)
    examples, places = binary_code(layout.examples + 1), binary_code(layout.inputs)
    matrix[0, stream["role_bos"].start] = 1.0
    for position in range(1, layout.positions):
        example, place = divmod(position - 1, layout.inputs + 2)
        role = "x" if place < layout.inputs else ("eq" if place == layout.inputs else "y")
        row = matrix[position]
        row[stream[f"role_{role}"].start] = 1.0
        row[stream["example_index"].coordinates] = examples[example]
        if role == "x":
            row[stream["input_index"].coordinates] = places[place]
            if example:
                row[stream["later_x"].start] = 1.0
                row[stream["previous_index"].coordinates] = examples[example - 1]
    rows, columns = np.nonzero(matrix)
    return sparse_matrix(matrix[rows, columns], rows, columns, matrix.shape)
