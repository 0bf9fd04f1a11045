"""The exact answer to a prompt of vectors, in float64: q = sum_k (c_k/m') g_k(query)."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from construct.vector_comparison import ATTENTION, Comparison
from construct.vector_prompts import VectorPrompt
from construct.vector_tasks import VectorTaskSet


@dataclass(frozen=True)
class VectorAnswer:
    """The exact answer to one prompt.

    Args:
        evidence: c_k/m' for each task in order; all 0 when there are no examples.
        target: q, shape [d].
        outside: (example, task) pairs that are neither within the tolerance nor a margin away: of a prompt with one
            the theorem says nothing, and here they count as not following the task.
    """

    evidence: tuple[Fraction, ...]
    target: NDArray[np.float64]
    outside: tuple[tuple[int, int], ...]


def vector_answer(task_set: VectorTaskSet, comparison: Comparison, prompt: VectorPrompt) -> VectorAnswer:
    """The exact evidence and target of a prompt."""
    distances = example_distances(task_set, comparison, prompt)
    follows = distances <= comparison.tolerance
    between = ~follows & (distances < comparison.margin)
    count = len(prompt.answers)
    evidence = tuple(Fraction(int(c), max(count, 1)) for c in follows.sum(axis=0))
    query = prompt.query.astype(np.float64)
    target = np.zeros(task_set.dim)
    for weight, task in zip(evidence, task_set.tasks, strict=True):
        target += float(weight) * task.answer(query)
    outside = [(int(example), int(task)) for example, task in np.argwhere(between)]
    return VectorAnswer(evidence, target, tuple(outside))


def example_distances(task_set: VectorTaskSet, comparison: Comparison, prompt: VectorPrompt) -> NDArray[np.float64]:
    """The distance of each example's answer from each task's, shape [m', K]."""
    inputs, answers = prompt.inputs.astype(np.float64), prompt.answers.astype(np.float64)
    columns = []
    for task in task_set.tasks:
        given = inputs[:, task.position] @ task.matrix.T.astype(np.float64) + task.offset
        columns.append(comparison.distance(answers - given))
    return np.stack(columns, axis=1)


def not_unit(comparison: Comparison, prompt: VectorPrompt) -> str | None:
    """Which vector of the examples is not a unit vector where the comparison needs that, in words; None if all are."""
    if comparison.kind != ATTENTION:
        return None
    for name, rows in (("input", prompt.inputs.reshape(-1, prompt.query.shape[1])), ("answer", prompt.answers)):
        off = np.abs((rows.astype(np.float64) ** 2).sum(axis=1) - 1)
        if len(off) and off.max() > comparison.norm_slack:
            return (
                f"an {name} of an example has norm {np.sqrt((rows[off.argmax()].astype(np.float64) ** 2).sum()):.6g}: "
                "the comparison by attention is for unit vectors"
            )
    return None
