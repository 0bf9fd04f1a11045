"""Random prompts: examples drawn from a mixture of tasks, for demonstrations and for numeric checks."""

from collections.abc import Mapping, Sequence

import numpy as np

from construct.errors import PromptError
from construct.prompts import Example, Prompt
from construct.tasks import SumTask, TableTask, Task, TaskSet

ATTEMPTS = 200
"""How often a draw is repeated in the search of an input that the tasks asked for answer."""


class PromptSampler:
    """Draws prompts whose examples come from a mixture of tasks.

    An example is drawn by a task: a row of its table, and at the positions that it does not read any token that
    some task takes as an input. The query is drawn so that every task of the mixture answers it, where such an
    input is found in `ATTEMPTS` draws, and is not among the examples where that can be helped.

    Args:
        task_set: the tasks.
        mixture: task name -> weight, any positive scale; None is uniform over all tasks.

    Raises:
        PromptError: the mixture names an unknown task, or its weights are negative or all zero.
    """

    def __init__(self, task_set: TaskSet, mixture: Mapping[str, float] | None = None) -> None:
        names = [task.name for task in task_set.tasks]
        weights = dict.fromkeys(names, 1.0) if mixture is None else dict(mixture)
        for name, weight in weights.items():
            if name not in names:
                raise PromptError(f"the mixture names {name!r}: the tasks are {', '.join(names)}")
            if not (weight >= 0 and np.isfinite(weight)):
                raise PromptError(f"the mixture gives {name!r} the weight {weight}: expected a number >= 0")
        total = sum(weights.values())
        if not total > 0:
            raise PromptError("the weights of the mixture are all zero: give one task a positive weight")
        self._task_set = task_set
        self._mixture = np.array([weights.get(name, 0.0) / total for name in names])
        self._domains = [_Domain(task) for task in task_set.tasks]
        inputs = sorted(set().union(*(domain.tokens for domain in self._domains)))
        self._input_tokens = np.array(inputs)

    def prompt(self, examples: int, generator: np.random.Generator) -> Prompt:
        """Draw a prompt of `examples` (m') examples and a query."""
        chosen = generator.choice(len(self._mixture), size=examples, p=self._mixture)
        drawn = tuple(self._example(int(index), generator) for index in chosen)
        return Prompt(drawn, self._query({example.inputs for example in drawn}, generator))

    def _example(self, index: int, generator: np.random.Generator) -> Example:
        inputs = self._inputs(index, generator)
        answer = self._task_set.tasks[index].answer(inputs)
        assert answer is not None, "a row of the task's own table was drawn"
        return Example(inputs, answer)

    def _inputs(self, index: int, generator: np.random.Generator) -> tuple[int, ...]:
        inputs = generator.choice(self._input_tokens, size=self._task_set.inputs).tolist()
        domain = self._domains[index]
        for position, token in zip(domain.positions, domain.draw(generator), strict=True):
            inputs[position] = token
        return tuple(inputs)

    def _query(self, seen: set[tuple[int, ...]], generator: np.random.Generator) -> tuple[int, ...]:
        active = [index for index, weight in enumerate(self._mixture) if weight > 0]
        best: tuple[int, ...] = ()
        best_rank = (-1, False)
        for _ in range(ATTEMPTS):
            inputs = self._inputs(active[int(generator.integers(len(active)))], generator)
            answered = sum(self._task_set.tasks[index].answer(inputs) is not None for index in active)
            rank = (answered, inputs not in seen)
            if rank > best_rank:
                best, best_rank = inputs, rank
            if rank == (len(active), True):
                break
        return best


class _Domain:
    """The inputs on which one task has an answer, at the positions that it reads."""

    def __init__(self, task: Task) -> None:
        self.positions: Sequence[int]
        if isinstance(task, TableTask):
            self.positions = task.reads
            self._rows: list[tuple[int, ...]] = list(task.rows)
            self.tokens = {token for row in self._rows for token in row}
            return
        self.positions = task.positions
        self._task: SumTask = task
        self._rows = []
        self.tokens = set(task.values)
        self._valued = np.array(sorted(task.values))

    def draw(self, generator: np.random.Generator) -> tuple[int, ...]:
        if self._rows:
            return self._rows[int(generator.integers(len(self._rows)))]
        for _ in range(ATTEMPTS):
            tokens = tuple(generator.choice(self._valued, size=len(self.positions)).tolist())
            if sum(self._task.values[token] for token in tokens) in self._task.rows:
                return tokens
        raise PromptError(
            f"no input of the task {self._task.name!r} was found in {ATTEMPTS} draws: few sums of its values have a row"
        )
