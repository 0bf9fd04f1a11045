"""What K tasks need to know of an example's inputs, each thing once: the distinct reads.

A read is a position, fetched as the +-1 code of its token, or a sum of token values over a set of positions. Tasks
that look at the same input share the read, so the heads of layer 1 are as many as the distinct reads (or fewer: a
sum whose positions are all read on their own is added up by those heads and needs none of its own).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.residual_stream import Array, code_length, gray_code
from construct.tasks import SumTask, TableTask, TaskSet


@dataclass(frozen=True)
class SumRead:
    """The sum over `positions` of token values, held as a scalar around 0.

    Values are shifted by an integer `shift` to lie around 0, so that the scalar s' = s - shift * |positions| is a
    small integer: exact in bfloat16 up to 256, in float16 up to 2048. A token without a value counts 0 here and 1
    in a second scalar, the number of undefined tokens.

    Args:
        index: the place among the sums, for names.
        positions: the set S of input positions.
        values: shape [V]: the shifted value of each token, 0 where it has none.
        defined: shape [V]: whether the token has a value.
        shift: what was subtracted from every value.
    """

    index: int
    positions: tuple[int, ...]
    values: NDArray[np.int_]
    defined: NDArray[np.bool_]
    shift: int

    @property
    def low(self) -> int:
        """The least s' over examples whose tokens all have values."""
        return len(self.positions) * int(self.values[self.defined].min())

    @property
    def high(self) -> int:
        """The greatest s' over examples whose tokens all have values."""
        return len(self.positions) * int(self.values[self.defined].max())

    @property
    def largest_value(self) -> int:
        """The largest |v'| of a token."""
        return int(np.abs(self.values).max())

    @property
    def partial(self) -> bool:
        """Whether some token has no value, so that the count of undefined tokens is needed."""
        return not bool(self.defined.all())

    @property
    def gate(self) -> int:
        """C = |S| max(v', 0) - low + 2: more than any hinge s' - v + 1 can reach at any position."""
        return len(self.positions) * max(int(self.values.max()), 0) - self.low + 2

    @property
    def code_length(self) -> int:
        """The bits of the Gray code of s'."""
        return code_length(self.high - self.low + 1)

    @property
    def codes(self) -> Array:
        """The Gray codes of s' = low .. high, shape [high - low + 1, code_length]."""
        return gray_code(self.high - self.low + 1)

    def rows(self, task: SumTask) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        """The values s' and answers of the rows that some example can reach, in order of s'."""
        offset = self.shift * len(self.positions)
        reached = sorted((total - offset, out) for total, out in task.rows.items())
        kept = [(total, out) for total, out in reached if self.low <= total <= self.high]
        return np.array([row[0] for row in kept], dtype=np.int_), np.array([row[1] for row in kept], dtype=np.int_)


@dataclass(frozen=True)
class ReadPlan:
    """The distinct reads of a task set, and the heads that fetch them.

    Args:
        positions: positions fetched as a code, ascending.
        sums: the distinct sums.
        sets: the sets of positions that a head of its own averages, for the sums that need one.
    """

    positions: tuple[int, ...]
    sums: tuple[SumRead, ...]
    sets: tuple[tuple[int, ...], ...]

    @property
    def heads(self) -> int:
        """The heads of layer 1."""
        return len(self.positions) + len(self.sets)

    def sum_of(self, task: SumTask) -> SumRead:
        """The read that a sum task uses."""
        key = _sum_key(task)
        return next(read for read in self.sums if _read_key(read) == key)

    def shared(self, read: SumRead) -> bool:
        """Whether the sum is added up by the heads of its positions."""
        return set(read.positions) <= set(self.positions)


def plan_reads(task_set: TaskSet) -> ReadPlan:
    """The distinct reads of the tasks."""
    positions = sorted({at for task in task_set.tasks if isinstance(task, TableTask) for at in task.reads})
    keys = dict.fromkeys(_sum_key(task) for task in task_set.tasks if isinstance(task, SumTask))
    sums = tuple(_sum_read(index, key, len(task_set.alphabet)) for index, key in enumerate(keys))
    own = sorted({read.positions for read in sums if not set(read.positions) <= set(positions)})
    return ReadPlan(tuple(positions), sums, tuple(own))


_SumKey = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]


def _sum_key(task: SumTask) -> _SumKey:
    return tuple(sorted(task.positions)), tuple(sorted(task.values.items()))


def _read_key(read: SumRead) -> _SumKey:
    tokens: Sequence[int] = np.flatnonzero(read.defined).tolist()
    return read.positions, tuple((token, int(read.values[token]) + read.shift) for token in tokens)


def _sum_read(index: int, key: _SumKey, alphabet_size: int) -> SumRead:
    positions, items = key
    shift = (min(value for _, value in items) + max(value for _, value in items)) // 2
    values = np.zeros(alphabet_size, dtype=np.int_)
    defined = np.zeros(alphabet_size, dtype=np.bool_)
    for token, value in items:
        values[token] = value - shift
        defined[token] = True
    return SumRead(index, positions, values, defined, shift)
