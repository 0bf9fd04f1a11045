"""Every prompt, by a plain float64 forward pass: the oracle that the proofs are measured against at small sizes.

The model is causal: the states of a prompt's first t tokens depend on these tokens alone, and the answer at the EQ of
example i is the answer to the prompt of the i examples before it. So it is enough to run the prompts of exactly m
examples and to look at every EQ, and each prefix needs to be run once only, whatever follows it. A batch is a tree of
prefixes: `choices[t]` are the ids that may stand at position t, and each path down the tree is a prompt.

Neither the forward pass nor the target shares code with the torch module or with `construct.oracle`. All results are
those of float64; `Worst.rounding` says how much that may matter.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from construct.errors import TooLargeError
from construct.prompts import Example, Layout, Prompt
from construct.residual_stream import Array
from construct.sparse import Sparse
from construct.tasks import TableTask, Task, TaskSet
from construct.theorems import Construction
from construct.transformer import AttentionWeights, MlpWeights, TransformerWeights

Float = NDArray[np.float64]
Ids = NDArray[np.int64]
Progress = Callable[[float], None]
"""Called with the share of the work that is done, from 0 to 1."""

LIMIT = 2_000_000
"""The largest number of prompts that is run unless another is asked for."""

BATCH_BYTES = 2**25
"""A batch is cut so that its states, and the scores of one head over them, take about this much memory each."""

DENSE_ENTRIES = 2**20
"""An MLP's matrices are multiplied densely up to this many entries."""


@dataclass(frozen=True)
class Worst:
    """The worst answer among the prompts that were judged.

    Args:
        error: |q_hat - q|_1; infinite where the output is not a finite number.
        prompt: the prompt that has it.
        prompts: how many prompts were judged; each EQ of a longer prompt is one.
        by_examples: the worst error among the prompts of m' = 0, 1, .., m examples.
        rounding: 2^-52 times the largest product that was summed, an indication of what the arithmetic itself may
            have changed. It stays around 1e-13 in constructions; altered weights can make it as large as they are.
    """

    error: float
    prompt: Prompt
    prompts: int
    by_examples: tuple[float, ...]
    rounding: float = 0.0


def prompts_count(construction: Construction) -> int:
    """The number of prompts of 0 to m examples, any answers y: sum over m' of V^(m'(n+1) + n)."""
    return Exhauster.count(construction.layout)


def exhaust(construction: Construction, *, limit: int = LIMIT, progress: Progress | None = None) -> Worst:
    """Judge every prompt of at most m examples.

    Args:
        construction: its weights, as they are, against its tasks.
        limit: the largest number of prompts to run.
        progress: told the share of the prompts that is done.

    Raises:
        TooLargeError: there are more prompts than the limit.
    """
    return Exhauster(construction.task_set, construction.layout, limit=limit).worst(construction.weights, progress)


class Exhauster:
    """Every prompt of a set of tasks with its target, to run any number of weights on.

    Args:
        task_set: the tasks.
        layout: V, n and m.
        limit: the largest number of prompts to run.

    Raises:
        TooLargeError: there are more prompts than the limit.
    """

    def __init__(self, task_set: TaskSet, layout: Layout, *, limit: int = LIMIT) -> None:
        self.task_set, self.layout = task_set, layout
        self.prompts = self.count(layout)
        if self.prompts > limit:
            number = f"{self.prompts:,}" if self.prompts < 10**15 else f"{self.prompts:.3g}"
            raise TooLargeError(
                f"there are {number} prompts of at most {layout.examples} examples, and the limit is {limit:,}: "
                "raise the limit, choose fewer examples or inputs or a smaller alphabet, or sample prompts"
            )
        self._kept: _Batch | None = None

    @staticmethod
    def count(layout: Layout) -> int:
        """As `prompts_count`."""
        n, size = layout.inputs, layout.alphabet_size
        return int(sum(size ** _slots(shown, n) for shown in range(layout.examples + 1)))

    def worst(self, weights: TransformerWeights, progress: Progress | None = None) -> Worst:
        """The worst answer of these weights over all prompts; weights that are not finite are allowed."""
        model = _Model(weights)
        by_examples = [-1.0] * (self.layout.examples + 1)
        worst, prompt, done = -1.0, None, 0
        with np.errstate(all="ignore"):
            for batch in self._batches(model):
                errors = np.abs(model.answers(batch) - batch.targets).sum(axis=1)
                errors[~np.isfinite(errors)] = np.inf
                for shown, rows in enumerate(batch.eq_rows):
                    by_examples[shown] = max(by_examples[shown], float(errors[rows].max()))
                at = int(errors.argmax())
                if errors[at] > worst:
                    worst, prompt = float(errors[at]), batch.prompt(at)
                done += batch.leaves
                if progress is not None:
                    progress(done / self._leaves)
        assert prompt is not None, "there is at least one prompt, and no error is below 0"
        return Worst(worst, prompt, self.prompts, tuple(by_examples), model.rounding)

    @property
    def _leaves(self) -> int:
        return int(self.layout.alphabet_size ** _slots(self.layout.examples, self.layout.inputs))

    def _batches(self, model: "_Model") -> Iterator["_Batch"]:
        """Batches that hold every prompt; a single batch is kept for the next weights."""
        if self._kept is not None:
            yield self._kept
            return
        choices = _all_choices(self.layout)
        free = [position for position, ids in enumerate(choices) if len(ids) > 1]
        fixed = 0
        leaves = self._leaves
        while fixed < len(free) and leaves > max(1, BATCH_BYTES // (8 * model.numbers_per_state(self.layout))):
            leaves //= self.layout.alphabet_size
            fixed += 1
        # The first tokens are the same throughout a batch; the states of that stem are computed anew in each.
        for stem in np.ndindex(*[len(choices[position]) for position in free[:fixed]]):
            for position, token in zip(free, stem, strict=False):
                choices[position] = np.array([token])
            batch = _Batch(self.task_set, self.layout, choices)
            if not fixed:
                self._kept = batch
            yield batch


def _slots(examples: int, inputs: int) -> int:
    """The number of tokens of a prompt that can be any of the alphabet."""
    return examples * (inputs + 1) + inputs


def _all_choices(layout: Layout) -> list[Ids]:
    """The ids that may stand at each position of a prompt of m examples."""
    choices = [np.arange(layout.alphabet_size) for _ in range(layout.positions)]
    choices[0] = np.array([layout.bos])
    for example in range(layout.examples + 1):
        choices[layout.eq_position(example)] = np.array([layout.eq])
    return choices


class _Batch:
    """All prompts whose id at position t is one of `choices[t]`, as a tree of prefixes, with their targets.

    States are ordered by position, and at one position by their tokens, the first token counting most. So the state
    that number i of the N states at position t passes at an earlier position of N' states is number i // (N / N').

    Attributes:
        ids: the id of each state, shape [states].
        position: its position, shape [states].
        earlier: the states on the way to it, itself included, shape [states, T], padded with state 0.
        visible: where `earlier` is no padding, shape [states, T].
        eq: the states at an EQ, all of 0 examples first, then of 1, ...
        eq_rows: for each number of examples, the rows of `eq` that have it.
        targets: the exact q at each state of `eq`, shape [len(eq), V].
        leaves: the number of prompts of m examples.
    """

    def __init__(self, task_set: TaskSet, layout: Layout, choices: Sequence[Ids]) -> None:
        self._layout = layout
        sizes = np.cumprod([len(ids) for ids in choices])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        total, length = int(starts[-1]), len(choices)
        self.ids, self.position = np.zeros((2, total), dtype=np.int64)
        self.earlier = np.zeros((total, length), dtype=np.int64)
        for place, allowed in enumerate(choices):
            here = slice(starts[place], starts[place + 1])
            number = np.arange(sizes[place])
            self.ids[here], self.position[here] = allowed[number % len(allowed)], place
            fan_out = sizes[place] // sizes[: place + 1]
            self.earlier[here, : place + 1] = starts[: place + 1] + number[:, None] // fan_out
        self.visible = np.arange(length) <= self.position[:, None]
        at_eq = [layout.eq_position(shown) for shown in range(layout.examples + 1)]
        self.eq = np.concatenate([np.arange(starts[place], starts[place + 1]) for place in at_eq])
        bounds = np.concatenate([[0], np.cumsum(sizes[at_eq])])
        self.eq_rows = [slice(int(first), int(stop)) for first, stop in pairwise(bounds)]
        self.leaves = int(sizes[-1])
        self.targets = self._targets(task_set)

    def prompt(self, row: int) -> Prompt:
        """The prompt that ends at row `row` of `eq`."""
        state = self.eq[row]
        ids = self.ids[self.earlier[state, : self.position[state] + 1]].tolist()
        n = self._layout.inputs
        parts = [ids[start : start + n + 2] for start in range(1, len(ids), n + 2)]
        return Prompt(tuple(Example(tuple(part[:n]), part[-1]) for part in parts[:-1]), tuple(parts[-1][:n]))

    def _targets(self, task_set: TaskSet) -> Float:
        """q = sum_k (c_k/m') u[g_k(query)], the counts c_k carried down the tree from y to y."""
        n = self._layout.inputs
        counts: Ids = np.zeros((1, len(task_set.tasks)), dtype=np.int64)
        targets = []
        for shown, rows in enumerate(self.eq_rows):
            states = self.eq[rows]
            first = self._layout.input_position(shown, 0)
            answers = task_answers(task_set, self.ids[self.earlier[states, first : first + n]])
            counts = np.repeat(counts, len(states) // len(counts), axis=0)
            targets.append(mixture(answers, counts, np.full(len(states), shown), self._layout.alphabet_size))
            if shown < self._layout.examples:
                given = self.ids[self.position == self._layout.answer_position(shown)]
                fan_out = len(given) // len(states)
                consistent = np.repeat(answers, fan_out, axis=0) == given[:, None]
                counts = np.repeat(counts, fan_out, axis=0) + consistent
        return np.concatenate(targets)


def mixture(answers: Ids, counts: Ids, shown: Ids, alphabet_size: int) -> Float:
    """The exact targets, rounded once: q = sum_k (c_k/m') u[g_k(query)].

    Args:
        answers: g_k(query), -1 where the task has none, shape [prompts, K].
        counts: c_k, shape [prompts, K].
        shown: m', shape [prompts].
        alphabet_size: V.
    """
    total = np.zeros((len(answers), alphabet_size), dtype=np.int64)
    for task in range(answers.shape[1]):
        answered = np.flatnonzero(answers[:, task] >= 0)
        total[answered, answers[answered, task]] += counts[answered, task]
    return total / np.maximum(shown, 1)[:, None]


def task_answers(task_set: TaskSet, inputs: Ids) -> Ids:
    """g_k of each row of inputs, shape [..., n] -> [..., K]; -1 where the task has no answer."""
    flat = inputs.reshape(-1, inputs.shape[-1])
    answers = np.stack([_answers(task, flat, len(task_set.alphabet)) for task in task_set.tasks], axis=-1)
    return answers.reshape(*inputs.shape[:-1], len(task_set.tasks))


def _answers(task: Task, inputs: Ids, alphabet_size: int) -> Ids:
    if isinstance(task, TableTask):
        # The rows as a trie: `node` numbers the distinct beginnings of keys, `found` the one that an input follows.
        keys = np.array(list(task.rows), dtype=np.int64)
        node, found = np.zeros(len(keys), dtype=np.int64), np.zeros(len(inputs), dtype=np.int64)
        for place, position in enumerate(task.reads):
            known, node = np.unique(node * alphabet_size + keys[:, place], return_inverse=True)
            found = _lookup(known, np.arange(len(known)), found * alphabet_size + inputs[:, position], found >= 0)
        return _lookup(node, np.array(list(task.rows.values())), found, found >= 0)
    values, defined = np.zeros(alphabet_size, dtype=np.int64), np.zeros(alphabet_size, dtype=np.bool_)
    for token, value in task.values.items():
        values[token], defined[token] = value, True
    tokens = inputs[:, task.positions]
    sums, answers = np.array(list(task.rows)), np.array(list(task.rows.values()))
    return _lookup(sums, answers, values[tokens].sum(axis=1), np.asarray(defined[tokens].all(axis=1)))


def _lookup(keys: Ids, values: Ids, asked: Ids, valid: NDArray[np.bool_]) -> Ids:
    """The value whose key is asked for; -1 where there is none, or where `valid` is false."""
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys[order], asked), len(keys) - 1)
    hit = valid & (keys[order][place] == asked)
    return np.where(hit, values[order][place], -1).astype(np.int64)


class _Model:
    """Weights in float64, applied to the states of a batch."""

    def __init__(self, weights: TransformerWeights) -> None:
        self._weights = weights
        self._token = weights.token_embedding.toarray().astype(np.float64)
        self._position = weights.position_embedding.toarray().astype(np.float64)
        self._layers = [(_Heads(layer.attention), _Hidden(layer.mlp)) for layer in weights.layers]
        self._unembedding = weights.unembedding.toarray().astype(np.float64)
        self._largest = 0.0

    @property
    def rounding(self) -> float:
        """As in `Worst`."""
        return self._largest * 2.0**-52

    def numbers_per_state(self, layout: Layout) -> int:
        """About how many float64 numbers are held for each state."""
        return int(max(3 * layout.positions, 2 * self._weights.d_model))

    def answers(self, batch: _Batch) -> Float:
        """q_hat at every EQ, shape [len(batch.eq), V]."""
        stream: Float = self._token[batch.ids] + self._position[batch.position]
        for index, (heads, hidden) in enumerate(self._layers):
            # Nothing later reads the last layer but at the EQs.
            at = batch.eq if index == len(self._layers) - 1 else np.arange(len(stream))
            stream = stream[at] + heads.written(stream, batch, at)
            stream = stream + hidden.written(stream)
            self._largest = max(self._largest, heads.largest, hidden.largest)
        if not self._layers:
            stream = stream[batch.eq]
        answers: Float = stream @ self._unembedding
        return answers


class _Heads:
    """The heads of one layer."""

    def __init__(self, weights: AttentionWeights) -> None:
        parts = weights.query, weights.key, weights.value, weights.output
        self._query, self._key, self._value, self._output = (part.astype(np.float64) for part in parts)
        self._stored = _largest(np.concatenate([part.ravel() for part in parts]))
        self.largest = 0.0

    def written(self, stream: Float, batch: _Batch, at: Ids) -> Float:
        """What the heads add at the states `at`, whose keys and values are those of the way to them."""
        if len(at) == len(batch.earlier):
            earlier, visible = batch.earlier, batch.visible
        else:
            earlier, visible = batch.earlier[at], batch.visible[at]
        result = np.zeros((len(at), stream.shape[1]))
        asking = stream[at]
        self.largest = _largest(stream) * self._stored
        for w_q, w_k, w_v, w_o in zip(self._query, self._key, self._value, self._output, strict=True):
            query, key, value = asking @ w_q, (stream @ w_k).T.copy(), (stream @ w_v).T.copy()
            scores = np.zeros(earlier.shape)
            # One coordinate after the other: arrays of [states, T] only, and none of what heads are padded with.
            for one_query, one_key in zip(query.T, key, strict=True):
                if one_query.any() and one_key.any():
                    scores += one_query[:, None] * one_key[earlier]
                    self.largest = max(self.largest, _largest(one_query) * _largest(one_key))
            scores[~visible] = -np.inf
            scores -= scores.max(axis=1, keepdims=True)
            pattern = np.exp(scores, out=scores)
            pattern /= pattern.sum(axis=1, keepdims=True)
            read = np.zeros((len(at), len(value)))
            for place, one_value in enumerate(value):
                if one_value.any():
                    read[:, place] = np.einsum("st,st->s", pattern, one_value[earlier])
            result += read @ w_o
            self.largest = max(self.largest, _largest(read) * self._stored)
        return result


class _Hidden:
    """The hidden units of one layer."""

    def __init__(self, weights: MlpWeights) -> None:
        self._in, self._out = _matrix(weights.w_in), _matrix(weights.w_out)
        self._bias_in, self._bias_out = weights.bias_in.astype(np.float64), weights.bias_out.astype(np.float64)
        self._stored_in = max(_largest(weights.w_in.data), _largest(weights.bias_in))
        self._stored_out = max(_largest(weights.w_out.data), _largest(weights.bias_out))
        self.largest = 0.0

    def written(self, stream: Float) -> Float:
        """What the units add, some states at a time."""
        result = np.zeros_like(stream)
        step = max(1, BATCH_BYTES // (8 * max(len(self._bias_in), 1)))
        self.largest = 0.0
        for start in range(0, len(stream), step):
            part = stream[start : start + step]
            hidden = np.maximum(part @ self._in + self._bias_in, 0.0)
            result[start : start + step] = hidden @ self._out + self._bias_out
            terms = max(_largest(part), 1.0) * self._stored_in, max(_largest(hidden), 1.0) * self._stored_out
            self.largest = max(self.largest, *terms)
        return result


def _matrix(matrix: Sparse) -> Float | Sparse:
    """A float64 matrix to multiply with from the right: dense if it is small."""
    if matrix.shape[0] * matrix.shape[1] <= DENSE_ENTRIES:
        return np.asarray(matrix.toarray(), dtype=np.float64)
    wide: Sparse = matrix.astype(np.float64)
    return wide


def _largest(values: Float | Array) -> float:
    """The largest absolute value; infinite where one is not a number."""
    if not values.size:
        return 0.0
    largest = max(float(values.max()), -float(values.min()))
    return largest if largest == largest else np.inf
