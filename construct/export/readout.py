"""The mixture as next-token probabilities: MLPs that turn the weights of the tasks into logits.

A construction ends with w_k = c_k/m' and the answers g_k(query) at every EQ. A language model is to give logits with
softmax(logits) = q / sum(q): the logit of a token v is log s_v up to a shift, s_v = sum of c_k over the tasks that
answer v. A table of the logarithm for every token would take V units for each count; here every *task* looks its
logarithm up, K units for each count, and the first of the tasks that agree writes it. In the last layer of the
construction, further units write (`recall`, `count`), and four MLPs without heads follow:

    L      a_k = code(g_k(query)), roughly                  c_k = m' w_k
    L + 1  a'_k = a_k rounded to a code                     h_kj = 0 iff k and j agree (`clean`, `distance`)
    L + 2  s_k = sum of the c_j of the j that agree with k  silent_k > 0 if an earlier task agrees (`merge`)
    L + 3  n_k = log S - log s_k                            silent_k > 0 if s_k = 0 (`logarithm`)
    L + 4  logit[g_k] = -n_k where k is not silent, all other tokens -L (`write_logits`)

The largest logits are small numbers (n_k is log S - log m' - log p), since a number of bfloat16 is off by 2^-9 of
its size. A layer norm may leave a small common shift in all coordinates. What would enlarge it is made insensitive:
the weights of a unit on codes of answers add up to 0 (a code stands there with its negative), and large weights on a
number that is to be 0 (a distance, `silent`) are taken back on the coordinate `zero`, which nothing writes. The
readout is this project's own; the paper (Xiong et al., arXiv 2410.05603) stops at the mixture.

Error. All codes are exact from L + 1 on: `clean` and `distance` have dead zones of 1/4 and `recall` is off by less.
So the only numbers that carry an error are the c_k. With c_k off by at most eps c_k, s_k is off by at most eps s_k,
and n_k by at most 2 log(2) eps: between s - 1 and s the table has slope log(s/(s-1)), times s at most 2 log 2.
Elsewhere at most V tokens have e^-L each and 4 others e^-2L, where the rest has at least 1/S: with (V + 4) S e^-L <=
2^-30 that is at most 2^-30 in all. So the total variation to q / sum(q) is at most (e^d - 1)/2 + 2^-30, with d = 2
log(2) eps.

No evidence (m' = 0, or no example that a task explains): all c_k are exactly 0, every task is silent, all tokens of
the alphabet have the logit -L exactly: uniform.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import block_array

from construct.errors import InputError
from construct.four_squares import code_norm, four_square_code
from construct.mlp import MlpBuilder, UnitGroup, read_subspace, sum_subspaces
from construct.reads import plan_reads
from construct.residual_stream import Array, ResidualStream, Subspace, binary_code
from construct.seven_circuits import prediction_of
from construct.sparse import Sparse, sparse_matrix
from construct.tasks import TableTask
from construct.theorems import Construction
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights

UNK, PAD = "<unk>", "<pad>"
"""Two tokens that a tokenizer needs and a construction has no use for; their ids follow those of BOS and EQ."""

EXTRA_TOKENS = 2
NEGLIGIBLE = 2.0**-30
"""The largest total of the probabilities that an answer leaves to tokens that no task answers."""

DEAD_ZONE = 0.25

FORGETTING = ((1.0, 0.0, 1.0), (-1.0, 0.5, -1.0), (-1.0, 0.25, 2.0))
"""Slope, bias and weight of three units that take a number up to 1/4 to 0, and leave it from 1/2 on as it is."""

Inputs = list[tuple[Subspace | NDArray[np.int_], Array | float]]


@dataclass(frozen=True)
class Readout:
    """A construction that ends in logits, still without normalisation.

    Args:
        construction: where it comes from.
        stream: the construction's subspaces, and after them those of the readout.
        weights: the weights. Their unembedding has shape [d_model, V + 4]: the logits of the alphabet, BOS, EQ,
            UNK and PAD.
        groups: the units that were added, per layer of the weights (the last of the construction and four more).
        low: L, a tokens' logit is -L where no task answers it.
        largest: S, the largest s_k.
    """

    construction: Construction
    stream: ResidualStream
    weights: TransformerWeights
    groups: tuple[tuple[UnitGroup, ...], ...]
    low: float
    largest: int

    @property
    def unk(self) -> int:
        """The id of UNK."""
        return self.construction.layout.vocabulary_size

    @property
    def pad(self) -> int:
        """The id of PAD."""
        return self.construction.layout.vocabulary_size + 1

    @property
    def vocabulary_size(self) -> int:
        """V + 4."""
        return self.construction.layout.vocabulary_size + EXTRA_TOKENS


def pairs_that_can_agree(construction: Construction) -> list[tuple[int, int]]:
    """The pairs k < j of tasks that have an answer in common."""
    answers = [set(task.rows.values()) for task in construction.task_set.tasks]
    count = len(answers)
    return [(k, j) for k in range(count) for j in range(k + 1, count) if not answers[k].isdisjoint(answers[j])]


def largest_count(construction: Construction, pairs: Sequence[tuple[int, int]]) -> int:
    """S = m times the most tasks that can agree with one of them."""
    partners = np.bincount(np.array(pairs, dtype=np.int_).ravel(), minlength=len(construction.task_set.tasks))
    return construction.layout.examples * (1 + int(partners.max()))


def readout(construction: Construction) -> Readout:
    """The construction with the MLPs that make softmax(logits) the mixture at every EQ.

    Elsewhere: after the last input the logit of EQ is L and every other at most -L; after BOS, an input that is not
    the last, and an answer, all tokens of the alphabet have -L and the rest at most -2L: uniform, as any token may
    come. An EQ that stands elsewhere than its position says (shifted positions) has UNK at 2L.

    Raises:
        InputError: the theorem is not one of those whose tasks' answers can be read off ("two-layer", "seven-layer").
    """
    if construction.theorem not in _RECALL:
        raise InputError(
            f"a construction of the theorem {construction.theorem!r} has no readout: expected "
            f"{' or '.join(map(repr, _RECALL))}"
        )
    layout = construction.layout
    pairs = pairs_that_can_agree(construction)
    largest = largest_count(construction, pairs)
    low = lowest_logit(layout.alphabet_size, largest)
    stream = _stream(construction, pairs)

    recalled = MlpBuilder(stream)
    for index in range(len(construction.task_set.tasks)):
        recall(recalled, construction, index)
    count(recalled, construction)
    cleaned, merged, looked_up, written = (MlpBuilder(stream) for _ in range(4))
    clean(cleaned)
    distance(cleaned, pairs)
    merge(merged, pairs, layout.examples)
    logarithm(looked_up, largest)
    for index in range(len(construction.task_set.tasks)):
        write_logits(written, construction, index, low=low, largest=largest)
    base(written, low)

    builders = (cleaned, merged, looked_up, written)
    first, last = construction.weights.layers[:-1], construction.weights.layers[-1]
    layers = [_widen(layer, stream.d_model) for layer in first]
    joined = _widen(last, stream.d_model)
    layers.append(LayerWeights(joined.attention, _beside(joined.mlp, recalled.weights())))
    layers += [LayerWeights(_no_heads(stream.d_model), builder.weights()) for builder in builders]
    weights = TransformerWeights(
        token_embedding=_token_embedding(construction, stream),
        position_embedding=_wider(construction.weights.position_embedding, columns=stream.d_model),
        layers=tuple(layers),
        unembedding=_unembedding(construction, stream, low),
    )
    start = int(last.mlp.w_in.shape[1])
    groups = tuple(_moved(group, start) for group in recalled.groups)
    return Readout(
        construction, stream, weights, (groups, *(tuple(builder.groups) for builder in builders)), low, largest
    )


def lowest_logit(alphabet_size: int, largest: int) -> float:
    """L: the least even integer with (V + 4) S e^-L <= NEGLIGIBLE; the 4 are the tokens outside the alphabet."""
    return 2.0 * math.ceil(math.log((alphabet_size + 4) * largest / NEGLIGIBLE) / 2)


def recall(mlp: MlpBuilder, construction: Construction, index: int) -> None:
    """At EQ: a_k = u code(g_k(query)) with u in [1 - beta, 1], and 0 where the task has no answer; a unit a row.

    Two layers, a table of r reads of B bits: relu(<r_hat, code(v)> + [role eq] - r B), of which <r_hat, code(v)> is
    in [r B (1 - 2 rho), r B] on the row read and at most r B - 2 + 2 rho on another (`construct.mlp`): u in
    [1 - 2 rho r B, 1], else 0. A sum: relu(<code_hat, code(v)> + [role eq] - 2 t_hat - B), likewise. Seven layers, a
    unit a distinct answer a: relu(2 <P_k, c_a> + [role eq] - 2 N), with <c_a, c_a> = N and <c_b, c_a> <= N - 1.
    Without the role all are at most 0. QED.
    """
    stream = mlp.stream
    inputs, bias, answers, reads = _RECALL[construction.theorem](stream, construction, index)
    mlp.units(
        bias=bias,
        inputs=[*inputs, (stream["role_eq"], 1.0)],
        outputs=[(_part(stream, "recalled", index), answer_codes(construction.layout.alphabet_size)[answers])],
    )
    mlp.close_group(
        f"recall[{construction.task_set.tasks[index].name}]",
        reads=[*reads, "role_eq"],
        writes=["recalled"],
        margin=1.0,
        says="at eq: the code of the task's answer on the query",
    )


def answer_codes(alphabet_size: int) -> Array:
    """The +-1 codes of answers, at least one bit: 0 is the code of none."""
    return binary_code(max(alphabet_size, 2))[:alphabet_size]


def _two_layer_rows(
    stream: ResidualStream, construction: Construction, index: int
) -> tuple[Inputs, Array, NDArray[np.int_], list[str]]:
    task_set, task = construction.task_set, construction.task_set.tasks[index]
    if isinstance(task, TableTask):
        keys = np.array(list(task.rows), dtype=np.int_)
        codes = binary_code(len(task_set.alphabet))
        reads = [read_subspace(position) for position in task.reads]
        inputs: Inputs = [(stream[name], codes[keys[:, place]]) for place, name in enumerate(reads)]
        bias = np.full(len(keys), -float(len(reads) * codes.shape[1]), dtype=np.float32)
        return inputs, bias, np.array(list(task.rows.values()), dtype=np.int_), reads
    read = plan_reads(task_set).sum_of(task)
    _, undefined, code = sum_subspaces(read)
    values, answers = read.rows(task)
    inputs = [(stream[code], read.codes[values - read.low])]
    if read.partial:
        inputs.append((stream[undefined], -2.0))
    bias = np.full(len(values), -float(read.code_length), dtype=np.float32)
    return inputs, bias, answers, [code, *([undefined] if read.partial else [])]


def _seven_layer_rows(
    stream: ResidualStream, construction: Construction, index: int
) -> tuple[Inputs, Array, NDArray[np.int_], list[str]]:
    codes = four_square_code(construction.layout.alphabet_size)
    answers = _answers(construction, index)
    inputs: Inputs = [(prediction_of(stream, index), 2.0 * codes[answers])]
    bias = np.full(len(answers), -2.0 * code_norm(len(codes)), dtype=np.float32)
    return inputs, bias, answers, ["prediction"]


_RECALL = {"two-layer": _two_layer_rows, "seven-layer": _seven_layer_rows}


def count(mlp: MlpBuilder, construction: Construction) -> None:
    """At EQ: c_k = m' w_k, the product of the weight and the number of examples before; m units a task.

        relu(w_k + <index, code(i)> + [role eq] - (b1 + 1)), i = 1 .. m, written i times.

    The index of the query's example is m'. At i = m' and role eq it is w_k; at another i at most w_k - 2 < 0;
    without the role at most w_k - 1 <= 0. With m' = 0 there is no unit: 0.
    """
    stream, examples = mlp.stream, construction.layout.examples
    codes = binary_code(examples + 1)[1:]
    for index, task in enumerate(construction.task_set.tasks):
        mlp.units(
            bias=np.full(examples, -(codes.shape[1] + 1.0), dtype=np.float32),
            inputs=[
                (stream["example_index"], codes),
                (_number(stream, "evidence", index), 1.0),
                (stream["role_eq"], 1.0),
            ],
            outputs=[(_number(stream, "count", index), np.arange(1, examples + 1, dtype=np.float32)[:, None])],
        )
        mlp.close_group(
            f"count[{task.name}]",
            reads=["example_index", "evidence", "role_eq"],
            writes=["count"],
            margin=1.0,
            says="at eq: how many of the examples the task explains",
        )


def clean(mlp: MlpBuilder) -> None:
    """Everywhere: a'_k = each bit of a_k rounded to -1, 0 or 1, and its negative after it; four units a bit.

        2 relu(a - 1/4) - 2 relu(a - 3/4) - 2 relu(-a - 1/4) + 2 relu(-a - 3/4)

    is 1 from a = 3/4 on, 0 for |a| <= 1/4, -1 up to -3/4. With beta <= 1/4 it is exact.
    """
    stream = mlp.stream
    raw, exact = stream["recalled"], stream["answer"]
    for sign in (1.0, -1.0):
        for edge, slope in ((DEAD_ZONE, 2.0), (1 - DEAD_ZONE, -2.0)):
            mlp.units(
                bias=np.full(raw.size, -edge, dtype=np.float32),
                inputs=[(np.arange(raw.start, raw.stop), sign)],
                outputs=[
                    (np.arange(exact.start, exact.stop, 2), sign * slope),
                    (np.arange(exact.start + 1, exact.stop, 2), -sign * slope),
                ],
            )
    mlp.close_group(
        "clean", reads=["recalled"], writes=["answer"], margin=DEAD_ZONE, says="at eq: the codes of the answers, exact"
    )


def distance(mlp: MlpBuilder, pairs: Sequence[tuple[int, int]]) -> None:
    """Everywhere: h_kj = sum over the bits of relu(|a_k - a_j| - 1/4), two units a bit and pair.

    The same answer, or none both: |u - u'| <= beta <= 1/4 a bit, exactly 0. Two answers: at least 2 - 2 beta - 1/4 > 1
    in some bit. An answer and none: at least 1 - beta - 1/4 >= 1/2 in each bit.
    """
    stream = mlp.stream
    for number, (first, second) in enumerate(pairs):
        a, b = _part(stream, "recalled", first), _part(stream, "recalled", second)
        for one, other in ((a, b), (b, a)):
            mlp.units(
                bias=np.full(one.size, -DEAD_ZONE, dtype=np.float32),
                inputs=[(np.arange(one.start, one.stop), 1.0), (np.arange(other.start, other.stop), -1.0)],
                outputs=[(_number(stream, "distance", number), np.ones((one.size, 1), dtype=np.float32))],
            )
    if pairs:
        mlp.close_group(
            "distance", reads=["recalled"], writes=["distance"], margin=DEAD_ZONE, says="at eq: 0 where two tasks agree"
        )


def merge(mlp: MlpBuilder, pairs: Sequence[tuple[int, int]], examples: int) -> None:
    """At EQ: s_k = c_k + the c_j of the tasks j that agree with k; silent_k > 0 where one of them has j < k.

    With x = c_j - 2 m (h_kj - zero), or x = c_k for the task itself, three units add

        f = relu(x) - relu(1/2 - c - 2 m (h - zero)) + 2 relu(1/4 - c - 2 m (h - zero))

    to s_k, and likewise to s_j. At h = 0: f = c for c >= 1/2, the last two being 0, and f = 0 for 0 <= c <= 1/4: what
    leaks into a count of 0 is forgotten, and every other count stays as it is in any format. At h >= 1/2 all three are
    0, as c_j <= m. One more unit a pair, relu(2 - 4 (h - zero)) to silent_j, j > k: 2 at h = 0, 0 at h >= 1/2.
    """
    stream = mlp.stream
    counts, sums, silent = stream["count"], stream["agreeing"], stream["silent"]
    tasks = np.arange(counts.size)
    for slope, bias, weight in FORGETTING:
        mlp.units(
            bias=np.full(counts.size, bias, dtype=np.float32),
            inputs=[(counts.start + tasks, slope)],
            outputs=[(sums.start + tasks, weight)],
        )
    if pairs:
        low, high = np.array(pairs, dtype=np.int_).T
        apart = stream["distance"].start + np.arange(len(pairs))
        gate = 2.0 * examples
        for to, added in ((low, high), (high, low)):
            for slope, bias, weight in FORGETTING:
                mlp.units(
                    bias=np.full(len(pairs), bias, dtype=np.float32),
                    inputs=[(counts.start + added, slope), (apart, -gate), (stream["zero"], gate)],
                    outputs=[(sums.start + to, weight)],
                )
        mlp.units(
            bias=np.full(len(pairs), 2.0, dtype=np.float32),
            inputs=[(apart, -4.0), (stream["zero"], 4.0)],
            outputs=[(silent.start + high, 1.0)],
        )
    mlp.close_group(
        "merge",
        reads=["count", *(["distance", "zero"] if pairs else [])],
        writes=["agreeing", *(["silent"] if pairs else [])],
        margin=1.0,
        says="at eq: the count of a task and those that agree with it; all but the first of them fall silent",
    )


def logarithm(mlp: MlpBuilder, largest: int) -> None:
    """n_k = log S - log s_k, exact at the integers 1 .. S and linear between; a unit each from 2 to S and task.

    From the right: sum_j d_j relu(j - s), d_S = log(S/(S-1)), d_j = log(j/(j-1)) - log((j+1)/j). All terms are
    positive, so that none cancels: the sum is as exact as its terms, relative to n_k. Below 1 it goes on at the slope
    of 1 to 2: at most log S + log 2. And relu(2 - 4 s_k) to silent_k: at least 1 where s_k <= 1/4, 0 from 1/2 on.
    """
    stream = mlp.stream
    places = np.arange(2, largest + 1)
    slopes = np.log1p(1.0 / (places - 1.0))
    changes = slopes - np.append(slopes[1:], 0.0)
    sums, silent = stream["agreeing"], stream["silent"]
    for index in range(sums.size):
        mlp.units(
            bias=places.astype(np.float32),
            inputs=[(_number(stream, "agreeing", index), -1.0)],
            outputs=[(_number(stream, "shortfall", index), changes.astype(np.float32)[:, None])],
        )
    tasks = np.arange(sums.size)
    mlp.units(
        bias=np.full(sums.size, 2.0, dtype=np.float32),
        inputs=[(sums.start + tasks, -4.0)],
        outputs=[(silent.start + tasks, 1.0)],
    )
    mlp.close_group(
        "logarithm",
        reads=["agreeing"],
        writes=["shortfall", "silent"],
        margin=1.0,
        says="at eq: log S - log s_k; a task without evidence falls silent",
    )


def write_logits(mlp: MlpBuilder, construction: Construction, index: int, *, low: float, largest: int) -> None:
    """At EQ: L - n_k to the logit of the task's answer a unless the task is silent; two units a distinct answer.

        L relu(x + 1) - relu(G x + n_k),  x = <a'_k, (code(a), -code(a))> - 2 B - 2 (silent_k - zero)

    a'_k = code(a): x = 0 where silent_k = 0, so 1 and n_k; x <= -2 where silent_k >= 1. Another code: x <= -4; none
    (and wherever the role is not EQ): x <= -2 B <= -2. n_k <= log(2 S): with 2 G >= log(2 S),
    x <= -2 makes both units exactly 0. L and -L (`base`) add up to 0 inside the one product.
    """
    stream = mlp.stream
    answers = _answers(construction, index)
    codes = np.repeat(answer_codes(construction.layout.alphabet_size)[answers], 2, axis=1)
    codes[:, 1::2] *= -1
    gate = 2.0 ** math.ceil(math.log2(max(math.log(2 * largest) / 2, 1)))
    to = stream["logit"].start + answers
    code, silent = _part(stream, "answer", index), _number(stream, "silent", index)
    for slope, bias, weight in ((1.0, 1.0, low), (gate, 0.0, -1.0)):
        shortfall = [(_number(stream, "shortfall", index), 1.0)] if weight < 0 else []
        mlp.units(
            bias=np.full(len(answers), bias - slope * codes.shape[1], dtype=np.float32),
            inputs=[(code, slope * codes), (silent, -2 * slope), (stream["zero"], 2 * slope), *shortfall],
            outputs=[(to, weight)],
        )
    mlp.close_group(
        f"logit[{construction.task_set.tasks[index].name}]",
        reads=["answer", "silent", "zero", "shortfall"],
        writes=["logit"],
        margin=1.0,
        says="at eq: the logarithm of the share of the tasks that agree, to the logit of their answer",
    )


def base(mlp: MlpBuilder, low: float) -> None:
    """Everywhere: -L to every logit, by one unit that is always 1, so that L - L cancels inside the product."""
    mlp.units(
        bias=np.ones(1, dtype=np.float32),
        inputs=[],
        outputs=[(mlp.stream["logit"], np.full((1, mlp.stream["logit"].size), -low, dtype=np.float32))],
    )
    mlp.close_group(
        "base", reads=[], writes=["logit"], margin=1.0, says="everywhere: the logit of what no task answers"
    )


def _stream(construction: Construction, pairs: Sequence[tuple[int, int]]) -> ResidualStream:
    """The construction's subspaces, then: the arrow token, `zero`, K (3 B + 4), the pairs that can agree, V logits."""
    tasks, bits = len(construction.task_set.tasks), answer_codes(construction.layout.alphabet_size).shape[1]
    sizes = {name: space.size for name, space in construction.stream.items()}
    sizes |= {"arrow": 1, "zero": 1, "recalled": tasks * bits, "count": tasks, "answer": 2 * tasks * bits}
    sizes |= {"distance": len(pairs)}
    sizes |= {"agreeing": tasks, "silent": tasks, "shortfall": tasks}
    return ResidualStream(sizes | {"logit": construction.layout.alphabet_size})


def _token_embedding(construction: Construction, stream: ResidualStream) -> Sparse:
    """The construction's, with a mark on the arrow, and nothing for UNK and PAD."""
    wide = _wider(construction.weights.token_embedding, columns=stream.d_model, rows=EXTRA_TOKENS).tolil()
    wide[construction.layout.eq, stream["arrow"].start] = 1.0
    return Sparse(wide.tocsr())


def _unembedding(construction: Construction, stream: ResidualStream, low: float) -> Sparse:
    """The logits, shape [d_model, V + 4].

    Exactly one of the four roles is 1. BOS, UNK and PAD: -2 L on each role. EQ: the same, and 3 L after the last
    input: 3 L / 2 times <place, code(n-1)> - (b2 - 2) [role x], 2 there and at most 0 elsewhere. UNK: 4 L more where
    the token is an arrow and the role is not EQ, 4 L less where the role is EQ and the token no arrow. `zero` takes
    the sum of these weights back, so that a common shift changes nothing.
    """
    layout = construction.layout
    wide = np.zeros((stream.d_model, layout.vocabulary_size + EXTRA_TOKENS), dtype=np.float32)
    wide[range(stream["logit"].start, stream["logit"].stop), range(layout.alphabet_size)] = 1.0
    for role in ("bos", "x", "eq", "y"):
        wide[stream[f"role_{role}"].start, layout.alphabet_size :] = -2 * low
    place = stream["input_index"]
    wide[place.coordinates, layout.eq] = 1.5 * low * binary_code(layout.inputs)[-1]
    wide[stream["role_x"].start, layout.eq] -= 1.5 * low * (place.size - 2.0)
    wide[stream["arrow"].start, layout.vocabulary_size] += 4 * low
    wide[stream["role_eq"].start, layout.vocabulary_size] -= 4 * low
    wide[stream["zero"].start, layout.alphabet_size :] = -wide[:, layout.alphabet_size :].sum(axis=0)
    rows, columns = np.nonzero(wide)
    return sparse_matrix(wide[rows, columns], rows, columns, (wide.shape[0], wide.shape[1]))


def _answers(construction: Construction, index: int) -> NDArray[np.int_]:
    """The distinct answers of a task, ascending."""
    return np.unique(np.array(list(construction.task_set.tasks[index].rows.values()), dtype=np.int_))


def _part(stream: ResidualStream, name: str, index: int) -> Subspace:
    """The bits of task `index` in a subspace of as many for each task."""
    bits = stream[name].size // stream["count"].size
    return Subspace(f"{name}[{index}]", stream[name].start + index * bits, bits)


def _number(stream: ResidualStream, name: str, index: int) -> Subspace:
    return Subspace(f"{name}[{index}]", stream[name].start + index, 1)


def _moved(group: UnitGroup, start: int) -> UnitGroup:
    return UnitGroup(group.name, group.start + start, group.units, group.reads, group.writes, group.margin, group.says)


def _wider(matrix: Sparse, *, columns: int, rows: int = 0) -> Sparse:
    entries = matrix.tocoo()
    return sparse_matrix(
        entries.data, entries.row.astype(np.int_), entries.col.astype(np.int_), (matrix.shape[0] + rows, columns)
    )


def _widen(layer: LayerWeights, d_model: int) -> LayerWeights:
    """A layer on a stream with further coordinates, which it neither reads nor writes."""
    attention, mlp = layer.attention, layer.mlp
    more = d_model - attention.query.shape[1]
    query, key, value = (
        np.pad(part, ((0, 0), (0, more), (0, 0))) for part in (attention.query, attention.key, attention.value)
    )
    w_in = _wider(mlp.w_in, columns=mlp.w_in.shape[1], rows=more)
    return LayerWeights(
        AttentionWeights(query, key, value, np.pad(attention.output, ((0, 0), (0, 0), (0, more)))),
        MlpWeights(w_in, mlp.bias_in, _wider(mlp.w_out, columns=d_model), np.pad(mlp.bias_out, (0, more))),
    )


def _beside(one: MlpWeights, other: MlpWeights) -> MlpWeights:
    """Two MLPs as one."""
    return MlpWeights(
        Sparse(block_array([[one.w_in, other.w_in]], format="csr")),
        np.concatenate([one.bias_in, other.bias_in]),
        Sparse(block_array([[one.w_out], [other.w_out]], format="csr")),
        one.bias_out + other.bias_out,
    )


def _no_heads(d_model: int) -> AttentionWeights:
    query, key, value = np.zeros((3, 0, d_model, 1), dtype=np.float32)
    return AttentionWeights(query, key, value, np.zeros((0, 1, d_model), dtype=np.float32))
