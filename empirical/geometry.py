"""Where the vector of a mixture lies among those of its tasks.

V_1 .. V_K are the tasks' vectors, V the vector of prompts that show the mixture D, C = sum_k D_k V_k the convex
prediction. kappa = cos(V, C) alone says little: large parts that all prompts share bring it near 1 whatever the
mixture is. So beside it stand

- sin of the same angle, and its noise floor: the sin of the angle between the means of two random halves of the
  mixture's own prompts. Halves are noisier than the whole, so a V on the convex prediction is below the floor;
- the mixture recovered: the lambda with sum 1 that minimises |V - sum_k lambda_k V_k|, and what is left;
- the exact permutation null: of all ways to give the weights D to the tasks, the share that predict V at least
  as well. 1/K! is the least that it can be, and 1 what it is for a uniform mixture, of which it can say nothing.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from construct.errors import InputError
from empirical.measures import Floats, Integers

SPLITS = 20
MOST_TASKS = 8
"""8! = 40,320 permutations are listed; more tasks are refused."""


@dataclass(frozen=True)
class Geometry:
    """The figures of one mixture at one layer; see the top of the file.

    Args:
        kappa: cos of the angle between V and C.
        sine: sin of that angle.
        floor: the split-half noise floor of the sine, a mean over random splits.
        recovered: the mixture by least squares, one weight a task.
        residual: |V - sum lambda_k V_k| over the largest distance between two of the V_k.
        permutation: the share of permutations that do at least as well.
    """

    kappa: float
    sine: float
    floor: float
    recovered: tuple[float, ...]
    residual: float
    permutation: float


def geometry(single: Floats, states: Floats, mixture: Sequence[float], *, seed: int = 0) -> Geometry:
    """The geometry of one mixture at one layer.

    Args:
        single: the tasks' vectors, shape [K, d_model].
        states: the states of the mixture's prompts, shape [N, d_model], N at least 4.
        mixture: D.
        seed: of the random splits.

    Raises:
        InputError: there are more tasks than permutations can be listed for.
    """
    if len(single) > MOST_TASKS:
        raise InputError(f"{len(single)} tasks: the permutations of at most {MOST_TASKS} are listed; name fewer")
    vector, predicted = states.mean(0), np.asarray(mixture) @ single
    generator = np.random.default_rng(seed)
    floors = []
    for _ in range(SPLITS):
        order = generator.permutation(len(states))
        half = len(states) // 2
        floors.append(sine(states[order[:half]].mean(0), states[order[half : 2 * half]].mean(0)))
    recovered, residual = recover(single, vector)
    return Geometry(
        kappa=math.copysign(math.sqrt(max(0.0, 1 - sine(vector, predicted) ** 2)), float(vector @ predicted)),
        sine=sine(vector, predicted),
        floor=float(np.mean(floors)),
        recovered=recovered,
        residual=residual,
        permutation=permutation_null(single, vector, mixture),
    )


def sine(one: Floats, other: Floats) -> float:
    """sin of the angle between two vectors, exact also where it is small; NaN where one of them is 0."""
    lengths = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    if min(lengths) == 0:
        return math.nan
    first, second = one / lengths[0], other / lengths[1]
    # |a - b| |a + b| = 2 sin for unit vectors: no cancellation, unlike sqrt(1 - cos^2).
    return min(1.0, float(np.linalg.norm(first - second) * np.linalg.norm(first + second)) / 2)


def recover(single: Floats, vector: Floats) -> tuple[tuple[float, ...], float]:
    """The weights with sum 1 that come nearest, and the relative distance that is left."""
    away = (single[1:] - single[0]).T
    found, *_ = np.linalg.lstsq(away, vector - single[0], rcond=1e-10)
    weights = (1 - float(found.sum()), *(float(weight) for weight in found))
    scale = max((float(np.linalg.norm(one - other)) for one, other in itertools.combinations(single, 2)), default=0.0)
    left = float(np.linalg.norm(vector - np.asarray(weights) @ single))
    return weights, left / scale if scale > 0 else math.nan


def permutation_null(single: Floats, vector: Floats, mixture: Sequence[float]) -> float:
    """The share of all K! ways to deal the weights out that come at least as near to the vector."""
    # Distances by the Gram matrix of the tasks' vectors about V: |sum_k D_k (V_k - V)|^2, as the weights sum to 1.
    away = single - vector
    gram = away @ away.T
    ways = np.array([[mixture[place] for place in order] for order in itertools.permutations(range(len(mixture)))])
    distances = np.einsum("wi,ij,wj->w", ways, gram, ways)
    # Equal weights give equal distances but for rounding.
    return float((distances <= distances[0] + 1e-9 * max(float(np.trace(gram)), 1e-300)).mean())


@dataclass(frozen=True)
class Projection:
    """States in the plane.

    Args:
        points: shape [N, 2].
        labels: the group of each point.
        kept: for PCA the share of the variance along each axis; for LDA the ratio of the variances between and
            within groups along it, of points that the axes were not fitted to.
    """

    points: Floats
    labels: Integers
    kept: tuple[float, float]


def principal_components(states: Floats, labels: Integers) -> Projection:
    """PCA: the two directions of the largest variance."""
    centred = states - states.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    shares = values**2 / max(float((values**2).sum()), 1e-300)
    kept = (float(shares[0]), float(shares[1]) if len(shares) > 1 else 0.0)
    return Projection(centred @ directions[:2].T, labels, kept)


def linear_discriminants(states: Floats, labels: Integers, groups: Sequence[int]) -> Projection:
    """LDA: the two directions that tell some groups apart best.

    It is fitted to every other point, and the points returned are the rest: with more coordinates than points, LDA
    separates any labels on the points it was fitted to, random ones too. The within-group covariance is shrunk
    towards its mean variance by a tenth.

    Args:
        states: shape [N, d_model].
        labels: the group of each state.
        groups: the groups that the directions are to tell apart; others are projected alone.
    """
    even = np.arange(len(states)) % 2 == 0
    fitted = even & np.isin(labels, groups)
    centre = states[fitted].mean(0)
    _, values, directions = np.linalg.svd(states[fitted] - centre, full_matrices=False)
    axes = directions[values > 1e-9 * max(float(values[0]), 1e-300)].T
    inner = (states[fitted] - centre) @ axes
    own = labels[fitted]
    within: Floats = np.sum([_scatter(inner[own == group]) for group in groups], axis=0) / len(inner)
    means = np.stack([inner[own == group].mean(0) for group in groups])
    shrunk = 0.9 * within + 0.1 * np.trace(within) / len(within) * np.eye(len(within))
    shrunk = shrunk + 1e-9 * max(float(np.trace(means.T @ means)), 1e-300) * np.eye(len(within))
    lower = np.linalg.cholesky(shrunk)
    whitened = np.linalg.solve(lower, (means - means.mean(0)).T)
    left, _, _ = np.linalg.svd(whitened, full_matrices=False)
    plane = axes @ np.linalg.solve(lower.T, left[:, :2])
    points = (states[~even] - centre) @ plane
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    ratios = [_ratio(points[:, axis], labels[~even], groups) for axis in range(2)]
    return Projection(points, labels[~even], (ratios[0], ratios[1]))


def _scatter(points: Floats) -> Floats:
    away = points - points.mean(0)
    product: Floats = away.T @ away
    return product


def _ratio(values: Floats, labels: Integers, groups: Sequence[int]) -> float:
    """The variance of the groups' means over the mean variance within them."""
    parts = [values[labels == group] for group in groups]
    within = float(np.mean([part.var() for part in parts]))
    between = float(np.var([part.mean() for part in parts]))
    return between / within if within > 0 else math.inf if between > 0 else 0.0
