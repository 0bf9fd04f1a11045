"""What exact Bayesian learners answer to a prompt: the learner of one task a prompt commits, that of mixtures does not.

Let a_ik say whether example i of a prompt is consistent with task k, y_i = g_k(x_i); let V be the size of the alphabet,
e the label noise (an answer is replaced by a random token with probability e), and the inputs independent of the task.
Given that task k drew it, example i has its answer with probability

    l_ik = (1 - e) a_ik + e/V.

One task a prompt. The task is uniform over K and draws all m examples: the posterior is

    P(k | examples) = prod_i l_ik / sum_j prod_i l_ij  =  b^(c_k) / sum_j b^(c_j),   b = 1 + (1 - e) V / e,

since each of the c_k consistent examples has a likelihood b times that of another one. So it depends on the counts
alone, and a lead of one example makes odds of b : 1. With little noise b is large (1,585 for e = .01, V = 16): the
learner commits to the majority, whose share of the examples need be a little above the next one's only. On prompts with
equal counts it superposes. Averaged over prompts with a share lambda of examples of the first of two tasks, its
probability is near a step at lambda = 1/2. A model whose average follows lambda, and which is certain on each prompt,
is therefore neither this learner nor the exact superposition.

Mixed prompts. Weights pi are uniform on the simplex, and each example's task is drawn by them. The posterior mean is

    E[pi_k | examples] = E[pi_k prod_i f_i(pi)] / E[prod_i f_i(pi)],   f_i(pi) = (1 - e) sum_k pi_k a_ik + e/V.

The products are polynomials in pi, and E[prod_k pi_k^(c_k)] = (K-1)! prod_k c_k! / (K-1 + sum_k c_k)!. Without noise,
and where each example is consistent with one task alone, this is Laplace's rule: (c_k + 1) / (m + K).

The training distribution of `construct train --mixed r` has a share r of mixed prompts: both learners' answers,
weighted by the probabilities that they gave the examples.

The answer to the query g_k(x) then has the probability (1 - e) P(k | examples) + e/V.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from construct.errors import InputError

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Pattern = tuple[bool, ...]


def odds_of_an_example(label_noise: float, alphabet_size: int) -> float:
    """b: how many times likelier an example is by a task that it is consistent with. Infinite without noise."""
    return 1 + (1 - label_noise) * alphabet_size / label_noise if label_noise else math.inf


def one_task(consistent: Booleans, *, label_noise: float, alphabet_size: int) -> Floats:
    """The posterior of the learner that believes in one task a prompt.

    Args:
        consistent: a, shape [N, m, K].
        label_noise: e. 0 stands for the limit of little noise: the tasks with the most consistent examples, alike.
        alphabet_size: V.

    Returns:
        Shape [N, K], summing to 1.
    """
    _check(label_noise)
    counts = consistent.sum(1)
    lead = counts - counts.max(-1, keepdims=True)
    weights = (lead == 0).astype(np.float64)
    if label_noise:
        weights = np.exp(lead * math.log(odds_of_an_example(label_noise, alphabet_size)))
    found: Floats = weights / weights.sum(-1, keepdims=True)
    return found


def mixed_prompts(consistent: Booleans, *, label_noise: float, alphabet_size: int) -> Floats:
    """The posterior mean of the weights, of the learner that believes in mixed prompts; as `one_task`.

    Without noise an example that no task is consistent with is impossible; it is passed over.
    """
    _check(label_noise)
    return np.array([_weights(_patterns(prompt, label_noise), label_noise, alphabet_size)[1] for prompt in consistent])


def training_distribution(consistent: Booleans, *, mixed: float, label_noise: float, alphabet_size: int) -> Floats:
    """The posterior of the next example's task, of the learner that believes in a share of mixed prompts.

    Args:
        consistent: a, shape [N, m, K].
        mixed: the share of prompts that mix tasks; above 0.
        label_noise: e.
        alphabet_size: V.

    Returns:
        Shape [N, K], summing to 1.
    """
    _check(label_noise)
    if not 0 < mixed <= 1:
        raise InputError(f"mixed is {mixed}: expected a share above 0, at most 1; use one_task for 0")
    tasks = consistent.shape[2]
    floor = label_noise / alphabet_size
    with np.errstate(divide="ignore"):
        share_alone = np.log((1 - mixed) / tasks)
        alone = np.log((1 - label_noise) * consistent + floor).sum(1) + share_alone
    found = []
    for prompt, separate in zip(consistent, alone, strict=True):
        evidence, weights = _weights(_patterns(prompt, label_noise), label_noise, alphabet_size)
        together = evidence + math.log(mixed)
        largest = max(float(separate.max()), together)
        parts = np.exp(separate - largest) + math.exp(together - largest) * weights
        found.append(parts / parts.sum())
    return np.array(found)


def answer_probabilities(posterior: Floats, *, label_noise: float, alphabet_size: int) -> Floats:
    """The probabilities of the tasks' answers to a query that they answer differently, shape [N, K]."""
    found: Floats = (1 - label_noise) * posterior + label_noise / alphabet_size
    return found


def _check(label_noise: float) -> None:
    if not 0 <= label_noise < 1:
        raise InputError(f"label_noise is {label_noise}: expected a number from 0, less than 1")


def _patterns(prompt: Booleans, label_noise: float) -> tuple[Pattern, ...]:
    """The examples as the tasks that they are consistent with; their order does not matter."""
    rows = [tuple(map(bool, row)) for row in prompt]
    return tuple(sorted(row for row in rows if label_noise or any(row)))


@lru_cache(maxsize=2**16)
def _weights(patterns: tuple[Pattern, ...], label_noise: float, alphabet_size: int) -> tuple[float, Floats]:
    """log E[prod_i f_i(pi)] and E[pi_k | examples], by the polynomial in pi as count vectors with coefficients."""
    tasks = len(patterns[0]) if patterns else 0
    if not patterns:
        raise InputError("no example is consistent with a task: give examples, or label noise above 0")
    polynomial = {(0,) * tasks: 1.0}
    for pattern in patterns:
        grown: dict[tuple[int, ...], float] = {}
        for counts, coefficient in polynomial.items():
            if label_noise:
                grown[counts] = grown.get(counts, 0.0) + coefficient * label_noise / alphabet_size
            for k in range(tasks):
                if pattern[k]:
                    raised = (*counts[:k], counts[k] + 1, *counts[k + 1 :])
                    grown[raised] = grown.get(raised, 0.0) + coefficient * (1 - label_noise)
        polynomial = grown
    logs = np.array([math.log(c) + _log_moment(counts) for counts, c in polynomial.items()])
    total = np.exp(logs - logs.max())
    # E[pi_k prod_j pi_j^(c_j)] is (c_k + 1) / (K + sum_j c_j) times E[prod_j pi_j^(c_j)].
    raised_counts = np.array(list(polynomial), dtype=np.float64)
    means = (raised_counts + 1) / (tasks + raised_counts.sum(-1, keepdims=True))
    return float(logs.max() + math.log(total.sum())), (total[:, None] * means).sum(0) / total.sum()


def _log_moment(counts: tuple[int, ...]) -> float:
    """log E[prod_k pi_k^(c_k)] of weights uniform on the simplex."""
    return math.lgamma(len(counts)) + sum(math.lgamma(c + 1) for c in counts) - math.lgamma(len(counts) + sum(counts))
