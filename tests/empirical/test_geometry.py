"""The geometry, against vectors written out and random ones."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from construct.errors import InputError
from empirical.geometry import geometry, linear_discriminants, permutation_null, recover, sine


@given(st.floats(1e-9, math.pi / 2 - 1e-3), st.floats(0.1, 50))
def test_the_sine_is_exact_for_small_angles_and_has_no_length(angle: float, length: float) -> None:
    one, other = np.array([1.0, 0.0, 0.0]), length * np.array([math.cos(angle), math.sin(angle), 0.0])
    assert sine(one, other) == pytest.approx(math.sin(angle), rel=1e-6)
    assert math.isnan(sine(one, np.zeros(3)))


@given(st.integers(0, 10**6))
def test_least_squares_recovers_any_mixture_also_outside_the_simplex(seed: int) -> None:
    generator = np.random.default_rng(seed)
    single = generator.normal(size=(3, 7))
    weights = generator.normal(size=3)
    weights[2] = 1 - weights[0] - weights[1]
    found, residual = recover(single, weights @ single)
    assert found == pytest.approx(weights, abs=1e-6 * max(1, *np.abs(weights)))
    assert residual < 1e-9 * max(1, *np.abs(weights))
    assert sum(found) == pytest.approx(1)


def test_the_permutation_null_lists_every_way_to_deal_the_weights_out() -> None:
    single = np.eye(4)
    # |weights - D|: of the 24 ways only D itself is at no distance.
    assert permutation_null(single, np.array([0.4, 0.3, 0.2, 0.1]), (0.4, 0.3, 0.2, 0.1)) == pytest.approx(1 / 24)
    assert permutation_null(single, np.array([0.1, 0.2, 0.3, 0.4]), (0.4, 0.3, 0.2, 0.1)) == pytest.approx(1)
    # Of a uniform mixture it can say nothing; with two equal weights, two of 24 ways are the same.
    assert permutation_null(single, np.full(4, 0.25), (0.25,) * 4) == 1
    assert permutation_null(single, np.array([0.4, 0.2, 0.2, 0.2]), (0.4, 0.2, 0.2, 0.2)) == pytest.approx(6 / 24)


def test_a_vector_off_the_prediction_is_told_from_noise_by_the_split_half_floor() -> None:
    generator = np.random.default_rng(4)
    single = generator.normal(size=(3, 40)) + 3
    noise = generator.normal(scale=0.5, size=(60, 40))
    mixture = (0.5, 0.3, 0.2)
    on, off = np.array(mixture) @ single + noise, np.array([0.1, 0.1, 0.8]) @ single + noise
    assert geometry(single, on, mixture).sine < geometry(single, on, mixture).floor
    assert geometry(single, off, mixture).sine > 2 * geometry(single, off, mixture).floor
    assert geometry(single, off, mixture).kappa > 0.9


def test_too_many_tasks_for_all_permutations_are_refused() -> None:
    with pytest.raises(InputError, match="9 tasks"):
        geometry(np.eye(9), np.ones((4, 9)), (1 / 9,) * 9)


def test_lda_does_not_separate_random_labels_on_points_that_it_has_not_seen() -> None:
    generator = np.random.default_rng(2)
    states, labels = generator.normal(size=(60, 200)), np.repeat(np.arange(3), 20)
    assert max(linear_discriminants(states, labels, (0, 1, 2)).kept) < 1  # fitted to all it would be far above
    states[:, 0] += 30 * (labels == 1)
    assert linear_discriminants(states, labels, (0, 1, 2)).kept[0] > 5
