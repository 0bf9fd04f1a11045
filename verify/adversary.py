"""A search for the prompt on which a construction is most wrong: what stands below every bound that is proved.

Random prompts of several kinds first, each of m examples: as the model is causal, the answers at all their EQs judge
the prompts of 0 to m examples that they begin with. Then, from the worst of them, coordinate ascent: one token after
the other (an input or an answer of an example, or an input of the query) is set to whatever makes the error at the
same EQ largest, and from a maximum the climb goes on after a few random changes.

What is found is a lower bound on the worst error. That nothing is found proves nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from construct.errors import PromptError
from construct.prompts import Example, Layout, Prompt
from construct.sampling import PromptSampler
from construct.tasks import TableTask, TaskSet
from construct.theorems import Construction
from construct.torch_model import TorchTransformer
from construct.transformer import TransformerWeights
from verify.exhaustive import Float, Ids, Progress, Worst, mixture, task_answers

BATCH_TOKENS = 2**15
"""Prompts are run together as long as they have at most so many tokens."""

STARTS = 8
"""Coordinate ascent begins at so many of the worst random prompts."""

CANDIDATES = 24
"""At most so many tokens are tried in one place at a time."""

ASCENT_SHARE = 4
"""Coordinate ascent takes so many times the evaluations of the random prompts."""

SAMPLER_SHARE = 8
"""One in so many random prompts is drawn by the sampler of the demonstrations, which is careful and slow."""

BLOCK_ANSWERS = 2**21
"""Random prompts are drawn so many at a time that the tasks have about so many answers to their examples."""

DRAWS = 8
"""How often inputs are drawn in the search of some that a task answers, or on which many tasks agree."""


def search(
    construction: Construction,
    *,
    samples: int = 1000,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Worst:
    """The worst prompt found; the same for the same arguments on the same machine.

    Args:
        construction: its weights, as they are, against its tasks.
        samples: the number of random prompts; the ascent runs ASCENT_SHARE times as many more.
        dtype: the format to run in: "float64", "float32", "bfloat16" or "float16".
        device: a torch device.
        seed: of all random choices.
        progress: told the share of the largest number of evaluations that is done.

    Returns:
        The worst found. Its `prompts` counts the answers judged: m + 1 for each prompt that was run.

    Raises:
        InputError: the dtype or device cannot be used.
    """
    return Searcher(construction.task_set, construction.layout).search(
        construction.weights, samples=max(samples, 1), dtype=dtype, device=device, seed=seed, progress=progress
    )


def confirm(construction: Construction, prompt: Prompt, *, dtype: str = "float64", device: str = "cpu") -> float:
    """|q_hat - q|_1 of one prompt, run in a format; infinite where the output is not a finite number.

    Raises:
        PromptError: the prompt has more than m examples.
        InputError: the dtype or device cannot be used.
    """
    construction.layout.ids(prompt)  # refuses a prompt that is too long
    slots = [token for example in prompt.examples for token in (*example.inputs, example.answer)]
    tokens = np.array([[*slots, *prompt.query]], dtype=np.int64)
    judge = _Judge(construction.task_set, construction.layout, construction.weights, dtype, device)
    return float(judge.errors(tokens)[0, -1])


class Searcher:
    """Draws the random prompts of a set of tasks once, to search any number of weights.

    Args:
        task_set: the tasks.
        layout: V, n and m.
    """

    def __init__(self, task_set: TaskSet, layout: Layout) -> None:
        self.task_set, self.layout = task_set, layout
        self._drawn: dict[tuple[int, int], Ids] = {}

    def search(
        self,
        weights: TransformerWeights,
        *,
        samples: int,
        dtype: str = "float32",
        device: str = "cpu",
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Worst:
        """As the function `search`."""
        judge = _Judge(self.task_set, self.layout, weights, dtype, device)
        if (seed, samples) not in self._drawn:
            drawn = _RandomPrompts(self.task_set, self.layout, np.random.default_rng([seed, 0])).draw(samples)
            self._drawn = {(seed, samples): drawn}
        tokens = self._drawn[seed, samples]
        total = samples * (1 + ASCENT_SHARE)
        found = _Found(self.layout)
        starts = _Starts(self.layout.examples + 1)
        for start in range(0, samples, judge.batch_size):
            part = tokens[start : start + judge.batch_size]
            errors = judge.errors(part)
            found.add(part, errors)
            starts.add(part, errors)
            if progress is not None:
                progress(found.runs / total)
        ascent = _Ascent(judge, found, np.random.default_rng([seed, 1]))
        ascent.climb(*starts.best(STARTS), runs=samples * ASCENT_SHARE, progress=progress, total=total)
        if progress is not None:
            progress(1.0)
        return found.worst()


def _slot_count(layout: Layout, examples: int) -> int:
    """The tokens that can be chosen in a prompt of so many examples; they come first in a longer prompt too."""
    return examples * (layout.inputs + 1) + layout.inputs


class _Judge:
    """Runs prompts, given as the tokens that can be chosen, and compares each EQ with the exact target."""

    def __init__(self, task_set: TaskSet, layout: Layout, weights: TransformerWeights, dtype: str, device: str) -> None:
        self.task_set, self.layout = task_set, layout
        self._device = device
        self._model = TorchTransformer(weights, dtype=dtype, device=device)

    @property
    def batch_size(self) -> int:
        """How many prompts of m examples to run at once."""
        return int(max(1, BATCH_TOKENS // self.layout.positions))

    def errors(self, tokens: Ids) -> Float:
        """|q_hat - q|_1 at every EQ, shape [prompts, slots] -> [prompts, m' + 1], batch by batch."""
        return np.concatenate(
            [self._errors(tokens[start : start + self.batch_size]) for start in range(0, len(tokens), self.batch_size)]
        )

    def _errors(self, tokens: Ids) -> Float:
        n, layout = self.layout.inputs, self.layout
        examples = (tokens.shape[1] - n) // (n + 1)
        inputs, given = self._split(tokens)
        ids = np.full((len(tokens), (examples + 1) * (n + 2)), layout.bos, dtype=np.int64)
        at_eq = np.array([layout.eq_position(shown) for shown in range(examples + 1)])
        ids[:, at_eq] = layout.eq
        for place in range(n):
            ids[:, at_eq - n + place] = inputs[:, :, place]
        ids[:, at_eq[:-1] + 1] = given
        at = np.broadcast_to(at_eq, (len(tokens), examples + 1)).copy()
        output = self._model(torch.from_numpy(ids).to(self._device), torch.from_numpy(at).to(self._device)).answer.to(
            "cpu", torch.float64
        )
        errors = np.abs(output.numpy() - self._targets(inputs, given)).sum(axis=2)
        errors[~np.isfinite(errors)] = np.inf
        return np.asarray(errors, dtype=np.float64)

    def _split(self, tokens: Ids) -> tuple[Ids, Ids]:
        """The inputs of examples and query, shape [prompts, m' + 1, n], and the answers, shape [prompts, m']."""
        n = self.layout.inputs
        padded = np.concatenate([tokens, np.zeros((len(tokens), 1), dtype=np.int64)], axis=1)
        parts = padded.reshape(len(tokens), -1, n + 1)
        return parts[:, :, :n], parts[:, :-1, n]

    def _targets(self, inputs: Ids, given: Ids) -> Float:
        answers = task_answers(self.task_set, inputs)
        counts = np.zeros_like(answers)
        counts[:, 1:] = np.cumsum(answers[:, :-1] == given[:, :, None], axis=1)
        prompts, queries, tasks = answers.shape
        shown = np.broadcast_to(np.arange(queries), (prompts, queries)).ravel()
        flat = mixture(answers.reshape(-1, tasks), counts.reshape(-1, tasks), shown, self.layout.alphabet_size)
        return flat.reshape(prompts, queries, self.layout.alphabet_size)


class _Found:
    """The worst of all that was judged so far."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._by_examples = np.full(layout.examples + 1, -1.0)
        self._error = -1.0
        self._tokens: Ids = np.zeros(0, dtype=np.int64)
        self.runs = 0

    def add(self, tokens: Ids, errors: Float) -> None:
        self.runs += len(tokens)
        self._by_examples = np.maximum(self._by_examples, errors.max(axis=0))
        row, shown = np.unravel_index(int(errors.argmax()), errors.shape)
        if errors[row, shown] > self._error:
            self._error = float(errors[row, shown])
            self._tokens = tokens[row, : _slot_count(self._layout, int(shown))].copy()

    def worst(self) -> Worst:
        return Worst(
            error=self._error,
            prompt=_prompt(self._tokens.tolist(), self._layout.inputs),
            prompts=self.runs * (self._layout.examples + 1),
            by_examples=tuple(self._by_examples.tolist()),
        )


def _prompt(slots: list[int], inputs: int) -> Prompt:
    parts = [slots[start : start + inputs + 1] for start in range(0, len(slots), inputs + 1)]
    return Prompt(tuple(Example(tuple(part[:-1]), part[-1]) for part in parts[:-1]), tuple(parts[-1]))


class _Starts:
    """The random prompts from which to climb: the worst at each EQ, the worst of those first."""

    def __init__(self, queries: int) -> None:
        self._kept: list[list[tuple[float, Ids]]] = [[] for _ in range(queries)]

    def add(self, tokens: Ids, errors: Float) -> None:
        for shown, kept in enumerate(self._kept):
            for row in np.argsort(-errors[:, shown], kind="stable")[:STARTS]:
                kept.append((float(errors[row, shown]), tokens[row].copy()))
            kept.sort(key=lambda pair: -pair[0])
            del kept[STARTS:]

    def best(self, count: int) -> tuple[Ids, Ids, Float]:
        """Tokens, numbers of examples and errors: half the starts at distinct EQs, the rest whatever is worst."""
        ranked = [
            (error, rank, shown, tokens)
            for shown, kept in enumerate(self._kept)
            for rank, (error, tokens) in enumerate(kept)
        ]
        ranked.sort(key=lambda entry: -entry[0])
        first = [entry for entry in ranked if entry[1] == 0][: max(1, count // 2)]
        taken = {(entry[1], entry[2]) for entry in first}
        chosen = (first + [entry for entry in ranked if (entry[1], entry[2]) not in taken])[:count]
        return (
            np.stack([entry[3] for entry in chosen]),
            np.array([entry[2] for entry in chosen]),
            np.array([entry[0] for entry in chosen]),
        )


class _Ascent:
    """Coordinate ascent from several prompts at once, so that each batch is worth its overhead."""

    def __init__(self, judge: _Judge, found: _Found, generator: np.random.Generator) -> None:
        self._judge, self._found, self._generator = judge, found, generator

    def climb(
        self, tokens: Ids, shown: Ids, errors: Float, *, runs: int, progress: Progress | None, total: int
    ) -> None:
        """Climb until `runs` prompts were run; where no single token improves a prompt, go on from near its best.

        Args:
            tokens: the starts, shape [starts, slots].
            shown: the EQ of each whose error is to grow: the number of examples before it.
            errors: their errors there.
            runs: how many prompts to run at most.
            progress: told the share of `total` prompts that were run.
            total: see progress.
        """
        layout = self._judge.layout
        limit = self._found.runs + runs
        if layout.alphabet_size == 1:
            return
        # A slot of each start's own prompt at a time, in an order of its own; `stale` counts those tried in vain.
        slots = [_slot_count(layout, int(count)) for count in shown]
        queues: list[list[int]] = [[] for _ in tokens]
        stale = np.zeros(len(tokens), dtype=np.int64)
        tops, top_errors = tokens.copy(), errors.copy()
        while self._found.runs < limit:
            tried = []
            for index in range(len(tokens)):
                if stale[index] >= slots[index]:
                    # A local maximum: keep it if it is the best so far, and set out again from near the best.
                    if errors[index] > top_errors[index]:
                        tops[index], top_errors[index] = tokens[index], errors[index]
                    tokens[index], errors[index], stale[index] = self._near(tops[index], slots[index]), -1.0, 0
                if not queues[index]:
                    queues[index] = self._generator.permutation(slots[index]).tolist()
                tried.append(self._candidates(tokens[index], queues[index].pop()))
            batch = np.concatenate(tried)[: limit - self._found.runs]
            owner = np.repeat(np.arange(len(tried)), [len(part) for part in tried])[: len(batch)]
            all_errors = self._judge.errors(batch)
            self._found.add(batch, all_errors)
            for index in np.unique(owner):
                rows = np.flatnonzero(owner == index)
                here = all_errors[rows, shown[index]]
                stale[index] += 1
                if here.max() > errors[index]:
                    errors[index], tokens[index], stale[index] = here.max(), batch[rows[int(here.argmax())]], 0
            if progress is not None:
                progress(self._found.runs / total)

    def _near(self, tokens: Ids, slots: int) -> Ids:
        """The prompt with a few of its first `slots` tokens drawn anew, from itself or from the alphabet."""
        near = tokens.copy()
        count = int(self._generator.integers(1, 2 + slots // 2))
        changed = self._generator.permutation(slots)[:count]
        anew = self._generator.integers(self._judge.layout.alphabet_size, size=len(changed))
        own = self._generator.choice(tokens, size=len(changed))
        near[changed] = np.where(self._generator.random(len(changed)) < 0.5, anew, own)
        return near

    def _candidates(self, tokens: Ids, slot: int) -> Ids:
        """The prompt with each other token at a slot, or with some of them where they are many."""
        size = self._judge.layout.alphabet_size
        others = np.delete(np.arange(size), tokens[slot])
        if len(others) > CANDIDATES:
            # Half of them from the prompt itself or the answers of the tasks to the example: where things happen.
            n = self._judge.layout.inputs
            first = slot - slot % (n + 1)
            answers = task_answers(self._judge.task_set, tokens[None, first : first + n])[0]
            likely = np.setdiff1d(np.concatenate([tokens, answers[answers >= 0]]), tokens[slot])
            likely = self._generator.permutation(likely)[: CANDIDATES // 2]
            rest = self._generator.permutation(np.setdiff1d(others, likely))[: CANDIDATES - len(likely)]
            others = np.concatenate([likely, rest])
        candidates = np.repeat(tokens[None], len(others), axis=0)
        candidates[:, slot] = others
        return candidates


@dataclass(frozen=True)
class _Drawn:
    """Prompts of m examples: inputs of shape [prompts, m + 1, n], answers of shape [prompts, m]."""

    inputs: Ids
    answers: Ids

    @property
    def tokens(self) -> Ids:
        """The tokens that can be chosen, in their order in the prompt: shape [prompts, slots]."""
        examples = np.concatenate([self.inputs[:, :-1], self.answers[:, :, None]], axis=2)
        slots = examples.shape[1] * examples.shape[2]
        return np.concatenate([examples.reshape(len(examples), slots), self.inputs[:, -1]], axis=1)


class _RandomPrompts:
    """Prompts of m examples, of kinds that stress different parts of a construction."""

    def __init__(self, task_set: TaskSet, layout: Layout, generator: np.random.Generator) -> None:
        self._task_set, self._layout, self._generator = task_set, layout, generator

    def draw(self, count: int) -> Ids:
        """The tokens of `count` prompts, shape [count, slots]."""
        block = max(len(KINDS) + 1, BLOCK_ANSWERS // ((self._layout.examples + 1) * len(self._task_set.tasks)))
        return np.concatenate([self._block(min(block, count - start)) for start in range(0, count, block)])

    def _block(self, count: int) -> Ids:
        """Some prompts of each kind, and the all-equal ones."""
        sampled = self._sampled(count // SAMPLER_SHARE)
        shares = np.diff(np.linspace(0, count - len(sampled), len(KINDS) + 1).round().astype(int))
        parts = [sampled, *(kind(self, int(share)).tokens for kind, share in zip(KINDS, shares, strict=True))]
        tokens = np.concatenate(parts)
        # All-equal tokens, as many as there is room for, in place of the last.
        equal = min(self._layout.alphabet_size, max(1, count // 16))
        chosen = self._generator.permutation(self._layout.alphabet_size)[:equal]
        tokens[count - equal :] = chosen[:, None]
        return tokens

    def _sampled(self, count: int) -> Ids:
        """By the sampler: uniform mixtures. None where it finds no inputs that the tasks answer."""
        sampler = PromptSampler(self._task_set)
        rows = []
        try:
            for _ in range(count):
                prompt = sampler.prompt(self._layout.examples, self._generator)
                slots = [token for example in prompt.examples for token in (*example.inputs, example.answer)]
                rows.append([*slots, *prompt.query])
        except PromptError:
            pass
        return np.array(rows, dtype=np.int64).reshape(-1, _slot_count(self._layout, self._layout.examples))

    def _random(self, count: int) -> _Drawn:
        """Any tokens anywhere."""
        size, m, n = self._layout.alphabet_size, self._layout.examples, self._layout.inputs
        inputs = self._generator.integers(size, size=(count, m + 1, n))
        return _Drawn(inputs, self._generator.integers(size, size=(count, m)))

    def _consistent(self, count: int, tasks: Ids | None = None) -> _Drawn:
        """Each example by a task of a small set of tasks of the prompt, on inputs that the task answers."""
        m = self._layout.examples
        if tasks is None:
            few = self._generator.integers(len(self._task_set.tasks), size=(count, 3))
            tasks = np.take_along_axis(few, self._generator.integers(3, size=(count, m + 1)), axis=1)
        drawn = self._random(count)
        inputs = drawn.inputs
        for index in np.unique(tasks):
            rows = tasks == index
            inputs[rows] = self._answered(int(index), inputs[rows])
        answers = np.take_along_axis(task_answers(self._task_set, inputs), tasks[:, :, None], axis=2)[:, :-1, 0]
        return _Drawn(inputs, np.where(answers >= 0, answers, drawn.answers))

    def _answered(self, index: int, inputs: Ids) -> Ids:
        """The inputs, changed where the task reads so that it answers; for a sum, where such inputs are found."""
        task = self._task_set.tasks[index]
        if isinstance(task, TableTask):
            keys = np.array(list(task.rows), dtype=np.int64)
            inputs[:, task.reads] = keys[self._generator.integers(len(keys), size=len(inputs))]
            return inputs
        alone = TaskSet("one", self._task_set.alphabet, self._task_set.inputs, self._task_set.format, (task,))
        valued = np.array(list(task.values))
        for _ in range(DRAWS):
            missing = np.flatnonzero(task_answers(alone, inputs)[:, 0] < 0)
            if not len(missing):
                break
            drawn = self._generator.choice(valued, size=(len(missing), len(task.positions)))
            inputs[missing[:, None], list(task.positions)] = drawn
        return inputs

    def _noisy(self, count: int) -> _Drawn:
        """As `_consistent`, with some of the answers random."""
        drawn, other = self._consistent(count), self._random(count)
        noise = self._generator.random((count, 1))
        return _Drawn(
            drawn.inputs, np.where(self._generator.random(drawn.answers.shape) < noise, other.answers, drawn.answers)
        )

    def _few_tokens(self, count: int) -> _Drawn:
        """Only two tokens in the whole prompt."""
        drawn = self._random(count)
        pair = self._generator.integers(self._layout.alphabet_size, size=(count, 2))
        inputs = np.take_along_axis(pair[:, :, None], drawn.inputs % 2, axis=1)
        return _Drawn(inputs, np.take_along_axis(pair, drawn.answers % 2, axis=1))

    def _ambiguous(self, count: int) -> _Drawn:
        """Of several draws of each example's inputs, those on which most tasks agree, with their common answer."""
        best = self._consistent(count)
        answers, agree = self._common(best.inputs)
        inputs = best.inputs
        for _ in range(DRAWS):
            other = self._consistent(count).inputs
            other_answers, other_agree = self._common(other)
            better = other_agree > agree
            inputs = np.where(better[:, :, None], other, inputs)
            answers, agree = np.where(better, other_answers, answers), np.maximum(agree, other_agree)
        return _Drawn(inputs, np.where(answers[:, :-1] >= 0, answers[:, :-1], best.answers))

    def _common(self, inputs: Ids) -> tuple[Ids, Ids]:
        """The most common of the answers of up to CANDIDATES tasks (-1: none), and how many tasks give it."""
        answers = task_answers(self._task_set, inputs)
        common, most = np.full((2, *answers.shape[:-1]), -1)
        for task in self._generator.permutation(answers.shape[-1])[:CANDIDATES]:
            one = answers[..., task]
            agree = np.where(one >= 0, (answers == one[..., None]).sum(axis=-1), -1)
            common, most = np.where(agree > most, one, common), np.maximum(agree, most)
        return common, most

    def _repeated(self, count: int) -> _Drawn:
        """One example again and again, and as the query; in half of the prompts the last example differs."""
        drawn = self._noisy(count)
        inputs, answers = drawn.inputs.copy(), drawn.answers.copy()
        inputs[:], answers[:] = inputs[:, -1:], answers[:, :1]
        tasks = task_answers(self._task_set, inputs[:, 0])
        chosen = tasks[np.arange(count), self._generator.integers(tasks.shape[1], size=count)]
        answers[chosen >= 0] = chosen[chosen >= 0, None]
        half = count // 2
        inputs[:half, -2], answers[:half, -1] = drawn.inputs[:half, -2], drawn.answers[:half, -1]
        return _Drawn(inputs, answers)

    def _switched(self, count: int) -> _Drawn:
        """One task up to some example, another from there on."""
        m = self._layout.examples
        pair = self._generator.integers(len(self._task_set.tasks), size=(count, 2))
        late = np.arange(m + 1) >= self._generator.integers(m + 2, size=(count, 1))
        return self._consistent(count, np.where(late, pair[:, 1:], pair[:, :1]))


KINDS: tuple[Callable[[_RandomPrompts, int], _Drawn], ...] = (
    _RandomPrompts._consistent,
    _RandomPrompts._random,
    _RandomPrompts._noisy,
    _RandomPrompts._few_tokens,
    _RandomPrompts._ambiguous,
    _RandomPrompts._repeated,
    _RandomPrompts._switched,
)
"""The kinds of random prompts, beside those of the sampler and the all-equal ones."""
