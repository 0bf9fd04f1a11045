"""What the seven layers read, and in which of the first two layers, within the budget of K heads a layer.

Each input position that a table needs is a read, by one head, as the four numbers of its token's code; tasks share
reads. A sum is one number: each head of its positions adds its token's value, or one head of its own reads them all.
Layers 1 and 2 both read before anything is predicted, so 2 K reads are within the budget.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.errors import TaskError
from construct.reads import ReadPlan
from construct.residual_stream import Array
from construct.tasks import SumTask, TableTask, TaskSet


@dataclass(frozen=True)
class SumScalar:
    """The sum over `positions` of token values, as one number that is 0 where nothing is read.

    Values are shifted so that the least is 1: s' = s - |S| (least - 1) is at least |S|. A token without a value counts
    more than the greatest sum of others, |S| (span + 1) + 1, so that a sum with one is off every row.

    Args:
        index: the place among the sums, for names.
        positions: the set S of input positions, ascending.
        values: shape [V]: what each token counts.
        shift: s - s', for sums of tokens that all have values.
        high: the greatest s' of these.
    """

    index: int
    positions: tuple[int, ...]
    values: NDArray[np.int_]
    shift: int
    high: int

    @property
    def largest(self) -> int:
        """U: the most that a token counts."""
        return int(self.values.max())

    def rows(self, task: SumTask) -> dict[int, int]:
        """s' -> answer, for the rows that some example can reach."""
        shifted = {total - self.shift: out for total, out in task.rows.items()}
        return {total: shifted[total] for total in sorted(shifted) if len(self.positions) <= total <= self.high}


@dataclass(frozen=True)
class SevenReads:
    """The reads, and the heads that fetch them.

    Args:
        codes: the input positions fetched as codes, ascending.
        sums: the distinct sums.
        layers: for layers 1 and 2, the heads: the input positions that each reads.
        sum_of: the place among `sums` of each sum task's, by its name.
    """

    codes: tuple[int, ...]
    sums: tuple[SumScalar, ...]
    layers: tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]
    sum_of: dict[str, int]

    @property
    def heads(self) -> tuple[tuple[int, ...], ...]:
        """The heads of both layers."""
        return self.layers[0] + self.layers[1]

    @property
    def sets(self) -> tuple[tuple[int, ...], ...]:
        """The sets of several positions that one head reads together: they need a flag each."""
        return tuple(positions for positions in self.heads if len(positions) > 1)

    @property
    def plan(self) -> ReadPlan:
        """The same as the two-layer construction's record, for the leaks of its heads."""
        singles = sorted(positions[0] for positions in self.heads if len(positions) == 1)
        return ReadPlan(tuple(singles), (), self.sets)

    def adds_up(self, positions: tuple[int, ...], scalar: SumScalar) -> bool:
        """Whether the head of these positions writes to the sum."""
        if scalar.positions in self.sets:
            return positions == scalar.positions
        return set(positions) <= set(scalar.positions)


def seven_reads(task_set: TaskSet) -> SevenReads:
    """The reads of a task set in two layers of at most K heads.

    One head a position, where that is within the budget: the attention is then on one key, and exact in every format.
    Otherwise sums of positions that no table reads get a head each.

    Raises:
        TaskError: the tables alone, with the sums, need more than 2 K heads.
    """
    budget = len(task_set.tasks)
    sums, sum_of = _sums(task_set)
    codes = sorted({at for task in task_set.tasks if isinstance(task, TableTask) for at in task.reads})
    every = sorted({*codes, *(at for scalar in sums for at in scalar.positions)})
    heads: list[tuple[int, ...]] = [(position,) for position in every]
    if len(heads) > 2 * budget:
        own = sorted({scalar.positions for scalar in sums if not set(scalar.positions) <= set(codes)})
        heads = sorted([(position,) for position in codes] + own, key=lambda positions: (len(positions), positions))
    if len(heads) > 2 * budget:
        raise TaskError(
            f"{budget} task(s) read {len(heads)} inputs or sums of inputs: the seven layers have {budget} head(s) a "
            f"layer and read in two of them, so at most {2 * budget}; use the two-layer construction, which has a head "
            "for each"
        )
    return SevenReads(tuple(codes), sums, (tuple(heads[:budget]), tuple(heads[budget:])), sum_of)


def _sums(task_set: TaskSet) -> tuple[tuple[SumScalar, ...], dict[str, int]]:
    tasks = [task for task in task_set.tasks if isinstance(task, SumTask)]
    keys = {task.name: (tuple(sorted(task.positions)), tuple(sorted(task.values.items()))) for task in tasks}
    distinct = list(dict.fromkeys(keys.values()))
    sums = []
    for index, (positions, items) in enumerate(distinct):
        least, most = min(value for _, value in items), max(value for _, value in items)
        high = len(positions) * (most - least + 1)
        values = np.full(len(task_set.alphabet), high + 1, dtype=np.int_)
        for token, value in items:
            values[token] = value - least + 1
        sums.append(SumScalar(index, positions, values, len(positions) * (least - 1), high))
    return tuple(sums), {name: distinct.index(key) for name, key in keys.items()}


def interpolation(places: NDArray[np.int_], values: Array) -> tuple[NDArray[np.int_], Array]:
    """Hinges of the function of an integer that is values[i], a row, at places[i] and 0 elsewhere.

    Returns:
        The places v where the slope changes, ascending, and the changes: the function is the sum of change *
        relu(s - v), at the integers and linear between them.

    >>> interpolation(np.array([3]), np.array([[5.0]], dtype=np.float32))[0].tolist()
    [2, 3, 4]
    """
    around, inverse = np.unique(np.concatenate([places - 1, places, places + 1]), return_inverse=True)
    changes = np.zeros((len(around), values.shape[1]), dtype=np.float32)
    np.add.at(changes, inverse, np.concatenate([values, -2 * values, values]))
    kept = changes.any(axis=1)
    return around[kept], changes[kept]
