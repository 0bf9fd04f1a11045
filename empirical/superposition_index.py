"""Superposed or committed: is each answer a mixture, or only their average?

A model that picks one task per prompt, in the mixture's proportions, has the same mean probabilities as one that
superposes. What tells them apart is each prompt's own distribution p_i over the tasks' answers (normalised to sum 1):

    S = (mean over prompts of H(p_i)) / H(mean over prompts of p_i).

Entropy is concave, so 0 <= S <= 1. S = 1 just where all p_i are equal: every prompt is superposed alike. S = 0 just
where every p_i is certain: each prompt is committed. S is undefined where the mean itself is certain. The exact
superposition of prompts whose own frequencies differ has an S a little below 1, which reports show beside.

S says nothing of whether the answers follow the examples: a model that guesses among the tasks whatever it is shown has
S = 1 too (models stay there for long in training). The distance to the exact superposition and the calibration over
lambda tell that one apart.

The same as a split of variance: let I_k say whether an answer drawn from the model is task k's. Then

    Var(I_k) = E[p_k (1 - p_k)]  (within prompts)  +  Var(p_k)  (between prompts).

Prompts with an ambiguous query have no distribution over the tasks and are left out.
"""

import math
from dataclasses import dataclass

import numpy as np

from empirical.measures import LEVEL, Estimate, Floats, Integers, Sample, entropy, estimate

BINS = 10
RECENT = 0.25
"""The share of the examples, at the end of the prompt, that counts as recent."""
PREDICTORS = ("frequency", "recency", "position")
REGRESSION_RESAMPLES = 300


@dataclass(frozen=True)
class Split:
    """The variance of one task's probability.

    Args:
        within: E[p (1 - p)].
        between: Var(p).
        share_between: between / (within + between): 0 superposed, 1 committed.
    """

    within: float
    between: float
    share_between: Estimate


@dataclass(frozen=True)
class Regression:
    """Least squares of the tasks' probabilities on what the prompt shows of each task, with an intercept a task.

    Args:
        coefficients: of frequency (the share of the examples drawn by the task), recency (its share of the last
            quarter) and position (the mean place of its examples, from 0 first to 1 last); NaN where a predictor does
            not vary from prompt to prompt.
        explained: R^2, the share of the variance between prompts.
    """

    coefficients: dict[str, Estimate]
    explained: float


def usable(probabilities: Floats) -> Floats:
    """The prompts with a distribution over all tasks."""
    kept: Floats = probabilities[~np.isnan(probabilities).any(-1)]
    return kept


def distributions(sample: Sample) -> Floats:
    """p_i of the prompts whose tasks have answers of their own, shape [prompts, K]."""
    return usable(sample.normalised[~sample.ambiguous])


def index(probabilities: Floats) -> float:
    """S of distributions over the tasks, shape [prompts, K]; NaN where it is undefined."""
    if not len(probabilities):
        return math.nan
    whole = float(entropy(probabilities.mean(0)))
    # A mean that is certain but for rounding has nothing to be divided.
    if whole < 1e-9:
        return math.nan
    return float(entropy(probabilities).mean()) / whole


def superposition_index(sample: Sample, *, seed: int = 0) -> Estimate:
    """S with its interval."""
    found = distributions(sample)
    if not len(found):
        return Estimate(math.nan, math.nan, math.nan)
    return estimate(len(found), lambda places: index(found[places]), seed=seed)


def oracle_index(sample: Sample) -> float:
    """S of the exact superposition on the same prompts."""
    return index(usable(sample.oracle[~sample.ambiguous]))


def variance_split(sample: Sample, task: int, *, seed: int = 0) -> Split:
    """The variance of one task's probability within and between prompts."""
    shares = distributions(sample)[:, task]

    def parts(places: Integers) -> tuple[float, float]:
        values = shares[places]
        return float((values * (1 - values)).mean()), float(values.var())

    def between(places: Integers) -> float:
        inside, outside = parts(places)
        return outside / (inside + outside) if inside + outside > 0 else math.nan

    if not len(shares):
        return Split(math.nan, math.nan, Estimate(math.nan, math.nan, math.nan))
    return Split(*parts(np.arange(len(shares))), estimate(len(shares), between, seed=seed))


def predictors(sample: Sample) -> Floats:
    """Frequency, recency and position of each task in each prompt, shape [N, K, 3]."""
    tasks = np.arange(len(sample.mixture))
    shown = sample.drawn[:, :, None] == tasks  # [N, m, K]
    m = sample.drawn.shape[1]
    if m == 0:
        return np.zeros((len(sample), len(tasks), len(PREDICTORS)))
    recent = shown[:, m - max(1, math.ceil(RECENT * m)) :].mean(1)
    places = np.arange(m) / max(m - 1, 1)
    counts = shown.sum(1)
    position = np.where(counts > 0, (shown * places[:, None]).sum(1) / np.maximum(counts, 1), 0.5)
    return np.stack([shown.mean(1), recent, position], -1)


def regression(sample: Sample, *, seed: int = 0) -> Regression:
    """What the differences between prompts go with."""
    kept = ~sample.ambiguous & ~np.isnan(sample.normalised).any(-1)
    targets, inputs = sample.normalised[kept], predictors(sample)[kept]
    nothing = Estimate(math.nan, math.nan, math.nan)
    varied = [place for place in range(len(PREDICTORS)) if np.ptp(inputs[:, :, place], axis=0).max(initial=0) > 1e-9]
    if len(targets) < 3 or not varied:
        return Regression(dict.fromkeys(PREDICTORS, nothing), math.nan)

    def fit(places: Integers) -> tuple[Floats, float]:
        # Less its mean over prompts, a task's own level is gone: what is left is differences between prompts.
        y = targets[places] - targets[places].mean(0)
        x = inputs[places][:, :, varied] - inputs[places][:, :, varied].mean(0)
        flat = x.reshape(-1, len(varied))
        found, *_ = np.linalg.lstsq(flat, y.ravel(), rcond=1e-10)
        whole = float((y**2).sum())
        left = float(((y.ravel() - flat @ found) ** 2).sum())
        return found, 1 - left / whole if whole > 1e-18 else math.nan

    values, explained = fit(np.arange(len(targets)))
    generator = np.random.default_rng(seed)
    again = np.array([fit(generator.integers(len(targets), size=len(targets)))[0] for _ in range(REGRESSION_RESAMPLES)])
    coefficients = dict.fromkeys(PREDICTORS, nothing)
    for column, place in enumerate(varied):
        low, high = np.quantile(again[:, column], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        coefficients[PREDICTORS[place]] = Estimate(float(values[column]), float(low), float(high))
    return Regression(coefficients, explained)


def histogram(sample: Sample) -> list[int]:
    """How many prompts give their most probable task a probability in [0, .1), [.1, .2), ..., [.9, 1]."""
    largest = distributions(sample).max(-1, initial=0.0)
    counts, _ = np.histogram(np.minimum(largest, 1.0), bins=BINS, range=(0.0, 1.0))
    return [int(count) for count in counts]
