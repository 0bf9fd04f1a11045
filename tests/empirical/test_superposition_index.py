"""The superposition index tells a model that superposes from one that commits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from empirical.measures import Floats, Sample, mean
from empirical.superposition_index import (
    histogram,
    index,
    oracle_index,
    predictors,
    regression,
    superposition_index,
    variance_split,
)
from tests.empirical.test_measures import sample

N = 90


def _committed(weight: float) -> Sample:
    """Each prompt is certain of one task; a share `weight` of the prompts of the first."""
    first = (np.arange(N) < weight * N).astype(float)
    with np.errstate(divide="ignore"):
        return sample(np.stack([first, 1 - first], -1), [weight, 1 - weight])


def test_two_models_with_the_same_mean_are_told_apart() -> None:
    committed = _committed(1 / 3)
    superposed = sample(np.tile([1 / 3, 2 / 3], (N, 1)), [1 / 3, 2 / 3])
    assert mean(committed.probability[:, 0]).value == pytest.approx(mean(superposed.probability[:, 0]).value)
    assert superposition_index(committed).value == pytest.approx(0, abs=1e-12)
    assert superposition_index(superposed).value == pytest.approx(1, abs=1e-12)
    assert variance_split(committed, 0).share_between.value == pytest.approx(1)
    assert variance_split(superposed, 0).share_between.value == pytest.approx(0, abs=1e-12)


def test_half_committed_prompts_give_half_the_entropy() -> None:
    # Half the prompts at (1/2, 1/2), a quarter certain of each task: mean entropy log(2)/2, entropy of the mean log 2.
    rows = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
    assert index(rows) == pytest.approx(0.5)


@settings(max_examples=15)
@given(arrays(np.float64, (7, 3), elements=st.floats(1e-3, 1)))
def test_the_index_lies_between_0_and_1_and_the_variances_add_up(weights: Floats) -> None:
    rows = weights / weights.sum(-1, keepdims=True)
    assert -1e-12 <= index(rows) <= 1 + 1e-12
    found = sample(rows, [1 / 3] * 3)
    for task in range(3):
        split, level = variance_split(found, task), rows[:, task].mean()
        assert split.within + split.between == pytest.approx(level * (1 - level))


def test_where_the_mean_is_certain_the_index_is_undefined() -> None:
    with np.errstate(divide="ignore"):
        assert math.isnan(superposition_index(sample(np.tile([1.0, 0.0], (5, 1)), [1.0, 0.0])).value)
    assert math.isnan(index(np.zeros((0, 2))))


def test_the_oracles_index_is_that_of_the_prompts_own_frequencies() -> None:
    evidence = np.array([[0.25, 0.75], [0.75, 0.25]])
    found = sample(np.full((2, 2), 0.5), [0.5, 0.5], evidence=evidence)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert oracle_index(found) == pytest.approx(expected)
    assert superposition_index(found).value == pytest.approx(1)


def test_ambiguous_prompts_are_left_out() -> None:
    rows = np.array([[0.5, 0.5], [0.9, 0.9]])
    found = sample(rows / np.array([[1], [2]]), [0.5, 0.5], answer_of=np.array([[0, 1], [0, 0]]))
    assert superposition_index(found).value == pytest.approx(1)
    assert sum(histogram(found)) == 1


def test_predictors_are_frequency_recency_and_position() -> None:
    drawn = np.array([[0, 0, 0, 1, 1, 1, 0, 1]])
    ((first, second),) = predictors(sample(np.full((1, 2), 0.5), [0.5, 0.5], drawn=drawn))
    # The last quarter is two examples, one of each; places from 0 to 7.
    assert first == pytest.approx([0.5, 0.5, (0 + 1 + 2 + 6) / 4 / 7])
    assert second == pytest.approx([0.5, 0.5, (3 + 4 + 5 + 7) / 4 / 7])


def test_the_regression_recovers_what_made_the_probabilities() -> None:
    generator = np.random.default_rng(8)
    drawn = generator.integers(2, size=(150, 24))
    base = sample(np.full((150, 2), 0.5), [0.5, 0.5], drawn=drawn)
    shown = predictors(base)
    first = 0.1 + 0.6 * shown[:, 0, 0] + 0.2 * shown[:, 0, 1]  # 0.6 on frequency, 0.2 on recency, none on position
    found = regression(sample(np.stack([first, 1 - first], -1), [0.5, 0.5], drawn=drawn))
    for name, expected in (("frequency", 0.6), ("recency", 0.2), ("position", 0.0)):
        assert found.coefficients[name].value == pytest.approx(expected, abs=1e-9)
    assert found.explained == pytest.approx(1)


def test_a_predictor_that_does_not_vary_has_no_coefficient() -> None:
    generator = np.random.default_rng(9)
    drawn = np.stack([generator.permutation([0] * 8 + [1] * 8) for _ in range(30)])
    first = generator.uniform(0.2, 0.8, size=30)
    found = regression(sample(np.stack([first, 1 - first], -1), [0.5, 0.5], drawn=drawn))
    assert math.isnan(found.coefficients["frequency"].value)
    assert not math.isnan(found.coefficients["recency"].value)
    assert found.explained < 0.5


def test_the_histogram_is_of_the_most_probable_task() -> None:
    rows = np.array([[0.55, 0.45], [0.05, 0.95], [1.0, 0.0], [0.28, 0.72]])
    with np.errstate(divide="ignore"):
        assert histogram(sample(rows, [0.5, 0.5])) == [0, 0, 0, 0, 0, 1, 0, 1, 0, 2]
