"""What the answers to one condition's prompts say about the model, each figure with a bootstrap interval.

K tasks, N prompts. P_k is the probability of task k's answer, D_k the mixture's weight of task k (tasks with one
answer are one event, whose weights are added). KL is in nats.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Sample:
    """The answers to the prompts of one condition.

    Args:
        mixture: D, shape [K].
        log_probability: log P, shape [N, K].
        answer_of: for each prompt and task the place of its answer among the prompt's distinct answers, [N, K].
        evidence: c_k/m, the share of the prompt's examples that are consistent with each task, shape [N, K].
        drawn: for each example the task that it was drawn by, shape [N, m].
        correct: how many of the tasks' answers are among as many most probable completions, shape [N], NaN where
            that was not measured.
        exact: whether the search for these completions came to its end, shape [N].
    """

    mixture: Floats
    log_probability: Floats
    answer_of: Integers
    evidence: Floats
    drawn: Integers
    correct: Floats
    exact: Booleans

    def __len__(self) -> int:
        """N."""
        return len(self.log_probability)

    @property
    def probability(self) -> Floats:
        """P, shape [N, K]."""
        return np.exp(self.log_probability)

    @property
    def first(self) -> Booleans:
        """Whether a task is the first with its answer: sums over answers are sums over these, shape [N, K]."""
        places = np.arange(self.answer_of.shape[1])
        earlier = (self.answer_of[:, :, None] == self.answer_of[:, None, :]) & (places[None, :] < places[:, None])
        found: Booleans = np.logical_not(earlier.any(-1))
        return found

    @property
    def ambiguous(self) -> Booleans:
        """Whether two tasks give one answer, shape [N]."""
        found: Booleans = np.logical_not(self.first.all(-1))
        return found

    def over_answers(self, weights: Floats) -> Floats:
        """Weights of tasks, [K] or [N, K], added up over the tasks with one answer; 0 but for the first. [N, K]."""
        same = self.answer_of[:, :, None] == self.answer_of[:, None, :]
        added = (same * np.broadcast_to(weights, self.answer_of.shape)[:, None, :]).sum(-1)
        return np.where(self.first, added, 0.0)

    @property
    def normalised(self) -> Floats:
        """P divided by its sum over the answers, shape [N, K]; NaN where that is 0."""
        total = (self.probability * self.first).sum(-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, self.probability / total, np.nan)

    @property
    def other(self) -> Floats:
        """The mass on anything but the tasks' answers, shape [N]."""
        left: Floats = 1 - (self.probability * self.first).sum(-1)
        return left

    @property
    def oracle(self) -> Floats:
        """The exact superposition: the evidence over the answers, summing to 1; NaN without evidence. [N, K]."""
        added = self.over_answers(self.evidence)
        total = added.sum(-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, added / total, np.nan)


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval, in which 95% of the figures of resampled prompts lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Such as 0.512 [0.480, 0.541]."""
        if math.isnan(self.value):
            return "undefined"
        return f"{_written(self.value)} [{_written(self.low)}, {_written(self.high)}]"


def _written(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # without the sign of a rounded -0.0


def estimate(count: int, statistic: Callable[[Integers], float], *, seed: int = 0) -> Estimate:
    """A statistic of prompts with its percentile bootstrap interval.

    Args:
        count: N; the statistic is given places from 0 to N-1, with repeats.
        statistic: its value on all places, in order, is the estimate.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    value = statistic(np.arange(count))
    found = np.array([statistic(generator.integers(count, size=count)) for _ in range(RESAMPLES)])
    found = found[~np.isnan(found)]
    if not len(found) or math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    if np.isinf(found).any():  # quantiles between a number and infinity are infinite
        low, high = np.sort(found)[
            [int((1 - LEVEL) / 2 * len(found)), min(int((1 + LEVEL) / 2 * len(found)), len(found) - 1)]
        ]
    else:
        low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def mean(values: Floats, *, seed: int = 0) -> Estimate:
    """The mean over prompts of one value a prompt; NaN values are left out."""
    kept = values[~np.isnan(values)]
    if not len(kept):
        return Estimate(math.nan, math.nan, math.nan)
    return estimate(len(kept), lambda places: float(kept[places].mean()), seed=seed)


def divergence(weights: Floats, log_probability: Floats) -> Floats:
    """sum_k D_k log(D_k / P_k) over the last axis; infinite where a P_k is 0 and its D_k is not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(weights > 0, weights * (np.log(weights) - log_probability), 0.0)
    summed: Floats = terms.sum(-1)
    return summed


def kl_of_paper(sample: Sample) -> Floats:
    """KL(D || P) as the paper's code computes it, P not normalised over the answers. Shape [N]."""
    return divergence(sample.over_answers(sample.mixture), sample.log_probability)


def kl_normalised(sample: Sample) -> Floats:
    """KL(D || P / sum P): what the other mass does not enter. Shape [N]."""
    with np.errstate(divide="ignore"):
        return divergence(sample.over_answers(sample.mixture), np.log(sample.normalised))


def total_variation(sample: Sample) -> Floats:
    """Half the sum of |D - P| over the answers and of the other mass. Shape [N]."""
    return _variation(sample, sample.over_answers(sample.mixture))


def distance_to_oracle(sample: Sample) -> Floats:
    """Total variation to the exact superposition of each prompt's own examples. Shape [N]."""
    return _variation(sample, sample.oracle)


def _variation(sample: Sample, target: Floats) -> Floats:
    shown = sample.probability * sample.first
    distance: Floats = (np.abs(target - shown).sum(-1) + np.abs(sample.other)) / 2
    return distance


def entropy(probabilities: Floats) -> Floats:
    """-sum p log p over the last axis, in nats."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probabilities > 0, -probabilities * np.log(probabilities), 0.0)
    summed: Floats = np.where(np.isnan(probabilities).any(-1), np.nan, terms.sum(-1))
    return summed


def correct_among(completions: Sequence[str], answers: Sequence[str]) -> int:
    """r: how many of the distinct answers are among as many of the most probable completions."""
    wanted = {text.strip() for text in answers}
    return len(wanted & {text.strip() for text in completions[: len(wanted)]})


@dataclass(frozen=True)
class Calibration:
    """How the probability of the first of two tasks follows its weight lambda.

    Args:
        slope: of the least-squares line of the normalised probability on lambda; 1 is perfect.
        intercept: its value at lambda = 0; 0 is perfect.
        worst_gap: the largest distance of a mean probability to its lambda.
    """

    slope: Estimate
    intercept: Estimate
    worst_gap: Estimate


def calibration(samples: Sequence[Sample], *, seed: int = 0) -> Calibration | None:
    """The calibration over conditions of two tasks with different lambda; None where there are less than two."""
    usable = [
        sample
        for sample in samples
        if len(sample.mixture) == 2 and not np.isnan(sample.normalised[~sample.ambiguous]).all()
    ]
    if len({float(sample.mixture[0]) for sample in usable}) < 2:
        return None
    weights = np.array([sample.mixture[0] for sample in usable])
    shown = [sample.normalised[~sample.ambiguous, 0] for sample in usable]
    shown = [values[~np.isnan(values)] for values in shown]
    generator = np.random.default_rng(seed)

    def figures(means: Floats) -> tuple[float, float, float]:
        slope, intercept = np.polyfit(weights, means, 1)
        return float(slope), float(intercept), float(np.abs(means - weights).max())

    value = figures(np.array([values.mean() for values in shown]))
    resampled = np.array(
        [
            figures(np.array([values[generator.integers(len(values), size=len(values))].mean() for values in shown]))
            for _ in range(RESAMPLES)
        ]
    )
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    slope, intercept, gap = (
        Estimate(one, float(least), float(most)) for one, least, most in zip(value, low, high, strict=True)
    )
    return Calibration(slope, intercept, gap)
