"""The measures, against values written out and other ways to compute them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from empirical.measures import (
    Floats,
    Sample,
    calibration,
    correct_among,
    distance_to_oracle,
    entropy,
    estimate,
    kl_normalised,
    kl_of_paper,
    mean,
    total_variation,
)


def sample(probability: Floats, mixture: list[float], **others: object) -> Sample:
    """A sample of prompts whose tasks have answers of their own."""
    count, tasks = probability.shape
    fields: dict[str, object] = {
        "mixture": np.array(mixture),
        "log_probability": np.log(probability),
        "answer_of": np.tile(np.arange(tasks), (count, 1)),
        "evidence": np.tile(np.array(mixture), (count, 1)),
        "drawn": np.zeros((count, 0), dtype=np.int64),
        "correct": np.full(count, np.nan),
        "exact": np.ones(count, dtype=bool),
    }
    return Sample(**(fields | others))  # type: ignore[arg-type]


def test_both_divergences_are_as_written() -> None:
    found = sample(np.array([[0.5, 0.25]]), [0.5, 0.5])
    # 1/2 log(1) + 1/2 log(2); normalised the probabilities are 2/3 and 1/3: 1/2 log(3/4) + 1/2 log(3/2).
    assert kl_of_paper(found) == pytest.approx([0.5 * math.log(2)])
    assert kl_normalised(found) == pytest.approx([0.5 * math.log(9 / 8)])
    assert found.other == pytest.approx([0.25])
    # (|1/2-1/2| + |1/2-1/4| + 1/4) / 2
    assert total_variation(found) == pytest.approx([0.25])


@given(arrays(np.float64, (5, 3), elements=st.floats(1e-6, 1)), arrays(np.float64, 3, elements=st.floats(1e-3, 1)))
def test_the_papers_divergence_is_the_normalised_one_less_the_log_of_the_answers_mass(
    weights: Floats, mixture: Floats
) -> None:
    found = sample(weights / 4, list(mixture / mixture.sum()))
    mass = 1 - found.other
    assert kl_of_paper(found) == pytest.approx(kl_normalised(found) - np.log(mass), abs=1e-9)
    assert (kl_normalised(found) >= -1e-9).all()


def test_one_answer_without_probability_makes_the_divergence_infinite_unless_it_has_no_weight() -> None:
    with np.errstate(divide="ignore"):
        assert kl_of_paper(sample(np.array([[0.0, 1.0]]), [0.5, 0.5])) == math.inf
        assert kl_of_paper(sample(np.array([[0.0, 1.0]]), [0.0, 1.0])) == pytest.approx([0.0])
        assert mean(kl_of_paper(sample(np.array([[0.0, 1.0], [0.5, 0.5]]), [0.5, 0.5]))).value == math.inf


def test_tasks_with_one_answer_are_one_event() -> None:
    # Tasks 0 and 2 give the same answer, of probability 0.6; together they have the weight 0.7.
    found = sample(np.array([[0.6, 0.3, 0.6]]), [0.4, 0.3, 0.3], answer_of=np.array([[0, 1, 0]]))
    assert found.ambiguous.tolist() == [True]
    assert found.other == pytest.approx([0.1])
    assert kl_of_paper(found) == pytest.approx([0.7 * math.log(0.7 / 0.6)])
    assert found.oracle == pytest.approx(np.array([[0.7, 0.3, 0.0]]))
    assert total_variation(found) == pytest.approx([(0.1 + 0 + 0.1) / 2])


def test_the_distance_to_the_oracle_is_to_each_prompts_own_examples() -> None:
    evidence = np.array([[0.25, 0.75], [0.75, 0.25]])
    found = sample(np.array([[0.25, 0.75], [0.25, 0.75]]), [0.5, 0.5], evidence=evidence)
    assert distance_to_oracle(found) == pytest.approx([0.0, 0.5])


def test_without_evidence_there_is_no_oracle() -> None:
    found = sample(np.array([[0.5, 0.5]]), [0.5, 0.5], evidence=np.zeros((1, 2)))
    assert np.isnan(distance_to_oracle(found)).all()


def test_entropy_of_a_uniform_distribution_is_the_log_of_its_size() -> None:
    assert entropy(np.full((2, 7), 1 / 7)) == pytest.approx([math.log(7)] * 2)
    assert entropy(np.array([[1.0, 0.0]])) == pytest.approx([0.0])


def test_r_counts_the_answers_among_as_many_completions() -> None:
    assert correct_among(["Lima", "PERU", "Peru"], ["Lima", "South America", "PERU"]) == 2
    assert correct_among(["Lima", "x", "y", "PERU"], ["Lima", "South America", "PERU"]) == 1
    assert correct_among([" Lima"], ["Lima"]) == 1


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for seed in range(60):
        found = mean(generator.normal(3.0, 1.0, size=50), seed=seed)
        covered += found.low <= 3.0 <= found.high
    # Of 60 intervals at 95%, fewer than 50 would have a probability below 1e-3 (percentile intervals at N = 50: 94%).
    assert 50 <= covered <= 60


def test_equal_values_have_an_interval_of_no_width_and_equal_seeds_equal_intervals() -> None:
    found = mean(np.full(11, 0.25))
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)
    values = np.arange(13.0)
    assert estimate(13, lambda at: float(values[at].mean()), seed=2) == mean(values, seed=2)


def test_calibration_recovers_a_line() -> None:
    generator = np.random.default_rng(3)
    samples = []
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        first = 0.1 + 0.7 * weight + generator.normal(0, 0.02, size=40)
        samples.append(sample(np.stack([first, 1 - first], -1), [weight, 1 - weight]))
    found = calibration(samples)
    assert found is not None
    assert found.slope.low <= 0.7 <= found.slope.high
    assert found.intercept.low <= 0.1 <= found.intercept.high
    assert found.worst_gap.value == pytest.approx(0.2, abs=0.01)  # at lambda = 1: 0.8; its mean errs by 0.02/sqrt(40)
    assert calibration(samples[:1]) is None
