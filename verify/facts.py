"""What the lemmas hand on about one task."""

from dataclasses import dataclass

import numpy as np

from verify.certificate import Violation
from verify.exact import Float


@dataclass(frozen=True)
class TaskFacts:
    """How one task's evidence, or its answer, is off, for every prompt.

    Args:
        error: the most it is off without leak.
        per_head: how much a unit of leak of each read head adds, shape [heads].
        slope: for an answer, how much an error of the weight w_k is multiplied, in |.|_1; 1 for evidence.
        violation: where the error is largest, if it is not 0.
        always: whether a leak can make it wrong even where the example is not consistent, or the weight 0.
    """

    error: float
    per_head: Float
    slope: float = 1.0
    violation: Violation | None = None
    always: bool = False


def refuted(lemma: str, where: str, expected: str, got: str, heads: int) -> TaskFacts:
    """A task whose circuit does not exist: nothing bounds how wrong it is."""
    return TaskFacts(np.inf, np.zeros(heads), 1.0, Violation(lemma, where, expected, got), always=True)
