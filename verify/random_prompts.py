"""Random prompts of several kinds, which stress different parts of a construction: where a search begins."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from construct.errors import PromptError
from construct.prompts import Layout
from construct.sampling import PromptSampler
from construct.tasks import TableTask, TaskSet
from verify.exhaustive import Ids, task_answers

CANDIDATES = 24
"""At most so many tokens are tried in one place at a time."""

SAMPLER_SHARE = 8
"""One in so many random prompts is drawn by the sampler of the demonstrations, which is careful and slow."""

BLOCK_ANSWERS = 2**21
"""Random prompts are drawn so many at a time that the tasks have about so many answers to their examples."""

DRAWS = 8
"""How often inputs are drawn in the search of some that a task answers, or on which many tasks agree."""


def slot_count(layout: Layout, examples: int) -> int:
    """The tokens that can be chosen in a prompt of so many examples; they come first in a longer prompt too."""
    return examples * (layout.inputs + 1) + layout.inputs


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


class RandomPrompts:
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
        return np.array(rows, dtype=np.int64).reshape(-1, slot_count(self._layout, self._layout.examples))

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


KINDS: tuple[Callable[[RandomPrompts, int], _Drawn], ...] = (
    RandomPrompts._consistent,
    RandomPrompts._random,
    RandomPrompts._noisy,
    RandomPrompts._few_tokens,
    RandomPrompts._ambiguous,
    RandomPrompts._repeated,
    RandomPrompts._switched,
)
"""The kinds of random prompts, beside those of the sampler and the all-equal ones."""
