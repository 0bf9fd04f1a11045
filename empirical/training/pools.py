"""A task set as tensors: the lookup of answers, and the pools that inputs are drawn from.

Lookup. A task's answer depends on one number: for a table sum_j V^j x_(reads j), for a sum the sum of the tokens'
values. Both are sum_i contribution[k, i, x_i], so one gather, one sum and one binary search among the rows of all tasks
answer any number of examples of any tasks at once.

Pools. A pool holds inputs: pool k those that task k answers, pool K those that every task answers. It has a list of
rows, of which -1 entries are filled in independently from the tokens of their position. A table that has every
combination of its tokens, and a sum that answers all of them, need no list: one row of -1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from itertools import product

import torch
from torch import Tensor

from construct.errors import TaskError
from construct.tasks import TableTask, Task, TaskSet
from empirical.settings import input_tokens

LISTED = 2**20
"""Inputs are listed where there are at most so many combinations."""
NO_VALUE = 2**40
"""What a token without a value adds to a sum: more than any sum of values, which are below 2^20 in size."""

Tokens = list[list[int]]


@dataclass(frozen=True)
class TaskTensors:
    """Tensors of K tasks over V tokens and n inputs; P = K + 1 pools.

    Args:
        contribution: int64, [K, n, V].
        span: int64, [K]: keys of task k are 0 .. span_k - 1.
        offset: int64, [K]: where they begin among the keys of all tasks.
        keys: int64, [R], ascending: the keys of all rows, with their offsets.
        answers: int64, [R].
        rows: int64, [L, n]: -1 stands for any token of its position.
        row_start: int64, [P].
        row_count: int64, [P].
        tokens: int64, [P, n, W], padded with 0.
        token_count: int64, [P, n].
    """

    contribution: Tensor
    span: Tensor
    offset: Tensor
    keys: Tensor
    answers: Tensor
    rows: Tensor
    row_start: Tensor
    row_count: Tensor
    tokens: Tensor
    token_count: Tensor

    @property
    def tasks(self) -> int:
        """K."""
        return self.contribution.shape[0]

    @property
    def inputs(self) -> int:
        """n."""
        return self.contribution.shape[1]

    @property
    def alphabet_size(self) -> int:
        """V."""
        return self.contribution.shape[2]

    def to(self, device: torch.device | str) -> "TaskTensors":
        """The same on a device."""
        return TaskTensors(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def answer(self, task: Tensor, inputs: Tensor) -> Tensor:
        """The answers of tasks [...] to inputs [..., n], -1 where there is none."""
        places = torch.arange(self.inputs, device=inputs.device)
        key = self.contribution[task[..., None], places, inputs].sum(-1)
        inside = (key >= 0) & (key < self.span[task])
        key = key + self.offset[task]
        at = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
        return torch.where(inside & (self.keys[at] == key), self.answers[at], -1)

    def all_answers(self, inputs: Tensor) -> Tensor:
        """The answers of all tasks to inputs [..., n]: [..., K]."""
        tasks = torch.arange(self.tasks, device=inputs.device).expand(*inputs.shape[:-1], self.tasks)
        return self.answer(tasks, inputs[..., None, :].expand(*inputs.shape[:-1], self.tasks, self.inputs))


@dataclass(frozen=True)
class _Pool:
    """The tokens of each position, and rows; one row of -1: all combinations of the tokens."""

    tokens: Tokens
    rows: list[tuple[int, ...]]

    @property
    def free(self) -> bool:
        return self.rows == [(-1,) * len(self.tokens)]


def task_tensors(task_set: TaskSet) -> TaskTensors:
    """The tensors of a task set, on the CPU.

    Raises:
        TaskError: a task reads so much that its inputs cannot be numbered or listed, or no input has an answer by
            every task.
    """
    found = [_lookup(task, task_set) for task in task_set.tasks]
    offsets, total = [], 0
    for _, span, _ in found:
        offsets.append(total)
        total += span
    if total >= 2**62:
        raise TaskError(f"the tasks of {task_set.name!r} read too many positions: their inputs cannot be numbered")
    pairs = sorted(
        (key + offset, answer)
        for (_, _, rows), offset in zip(found, offsets, strict=True)
        for key, answer in rows.items()
    )
    if not pairs:
        raise TaskError(f"the tasks of {task_set.name!r} answer no input: their rows hold no sum that occurs")
    own = [_pool(task, task_set) for task in task_set.tasks]
    pools = [*own, _common(own, task_set)]
    counts = [len(pool.rows) for pool in pools]
    widest = max(len(tokens) for pool in pools for tokens in pool.tokens)
    padded = [[tokens + [0] * (widest - len(tokens)) for tokens in pool.tokens] for pool in pools]
    return TaskTensors(
        contribution=torch.stack([contribution for contribution, _, _ in found]),
        span=torch.tensor([span for _, span, _ in found]),
        offset=torch.tensor(offsets),
        keys=torch.tensor([key for key, _ in pairs]),
        answers=torch.tensor([answer for _, answer in pairs]),
        rows=torch.tensor([row for pool in pools for row in pool.rows]),
        row_start=torch.tensor([sum(counts[:place]) for place in range(len(counts))]),
        row_count=torch.tensor(counts),
        tokens=torch.tensor(padded),
        token_count=torch.tensor([[len(tokens) for tokens in pool.tokens] for pool in pools]),
    )


def _lookup(task: Task, task_set: TaskSet) -> tuple[Tensor, int, dict[int, int]]:
    """What each token adds to the key at each position, how many keys there are, and key -> answer."""
    size = len(task_set.alphabet)
    if isinstance(task, TableTask):
        if size ** len(task.reads) >= 2**62:
            raise TaskError(
                f"task {task.name!r} reads {len(task.reads)} of {size} tokens: its inputs cannot be numbered"
            )
        contribution = torch.zeros(task_set.inputs, size, dtype=torch.int64)
        for place, position in enumerate(task.reads):
            contribution[position] = torch.arange(size) * size**place
        rows = {sum(token * size**place for place, token in enumerate(key)): out for key, out in task.rows.items()}
        return contribution, size ** len(task.reads), rows
    least, most = min(task.values.values()), max(task.values.values())
    row = torch.full((size,), NO_VALUE)
    row[list(task.values)] = torch.tensor([value - least for value in task.values.values()])
    contribution = torch.zeros(task_set.inputs, size, dtype=torch.int64)
    contribution[list(task.positions)] = row
    span = (most - least) * len(task.positions) + 1
    shifted = {total - least * len(task.positions): out for total, out in task.rows.items()}
    return contribution, span, {key: out for key, out in shifted.items() if 0 <= key < span}


def _pool(task: Task, task_set: TaskSet) -> _Pool:
    """The inputs that one task answers."""
    tokens = input_tokens(task_set.tasks, task_set.inputs)
    if isinstance(task, TableTask):
        for place, position in enumerate(task.reads):
            tokens[position] = sorted({key[place] for key in task.rows})
        if len(task.rows) == _product(tokens, task.reads):
            return _Pool(tokens, [(-1,) * task_set.inputs])
        return _Pool(tokens, [_placed(key, task.reads, task_set.inputs) for key in task.rows])
    for position in task.positions:
        tokens[position] = sorted(task.values)
    sums = reduce(_sums, [set(task.values.values())] * len(task.positions), {0})
    if sums <= task.rows.keys():
        return _Pool(tokens, [(-1,) * task_set.inputs])
    if _product(tokens, task.positions) > LISTED:
        raise TaskError(f"task {task.name!r} has no answer to some sums and too many inputs to list: add the rows")
    return _made([tokens[position] for position in task.positions], task.positions, tokens, [task], task_set)


def _common(own: Sequence[_Pool], task_set: TaskSet) -> _Pool:
    """The inputs that every task answers."""
    together = [
        sorted(set.intersection(*(set(pool.tokens[position]) for pool in own))) for position in range(task_set.inputs)
    ]
    if all(together) and all(pool.free for pool in own):
        return _Pool(together, [(-1,) * task_set.inputs])
    positions = tuple(range(task_set.inputs))
    if not all(together):
        raise TaskError(f"no input has an answer by every task of {task_set.name!r}: choose other tasks")
    if _product(together, positions) > LISTED:
        raise TaskError(f"the inputs that every task of {task_set.name!r} answers are too many to list")
    return _made(together, positions, together, task_set.tasks, task_set)


def _made(choices: Tokens, positions: Sequence[int], tokens: Tokens, tasks: Sequence[Task], task_set: TaskSet) -> _Pool:
    """The pool of the combinations at some positions that all of the tasks answer."""
    kept = []
    for key in product(*choices):
        row = _placed(key, positions, task_set.inputs)
        if all(task.answer(row) is not None for task in tasks):
            kept.append(row)
    if not kept:
        raise TaskError(f"no input has an answer by every task of {task_set.name!r}: choose other tasks")
    if task_set.inputs == 1:
        return _Pool([[token for (token,) in kept]], [(-1,)])
    return _Pool(tokens, kept)


def _sums(totals: set[int], values: set[int]) -> set[int]:
    return {total + value for total in totals for value in values}


def _product(tokens: Tokens, positions: Sequence[int]) -> int:
    return reduce(lambda total, position: total * len(tokens[position]), positions, 1)


def _placed(key: Sequence[int], positions: Sequence[int], inputs: int) -> tuple[int, ...]:
    row = [-1] * inputs
    for position, token in zip(positions, key, strict=True):
        row[position] = token
    return tuple(row)
