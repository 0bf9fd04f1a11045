"""The Bayesian learners, against their definition: sums over tasks and integrals over weights, done plainly."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from construct.errors import InputError
from construct.suites import build_suite
from empirical.bayes import (
    Booleans,
    answer_probabilities,
    mixed_prompts,
    odds_of_an_example,
    one_task,
    training_distribution,
)

V = 5


def prompts(tasks: int, examples: int) -> st.SearchStrategy[Booleans]:
    row = st.lists(st.booleans(), min_size=tasks, max_size=tasks).filter(any)
    return st.lists(row, min_size=examples, max_size=examples).map(np.array)


def factor(shares: np.ndarray, prompt: Booleans, noise: float) -> float:
    """prod_i f_i(pi)."""
    return float(np.prod((1 - noise) * prompt @ shares + noise / V))


@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_the_posterior_is_that_of_bayes_rule_on_prompts_as_they_are_made(noise: float) -> None:
    task_set = build_suite("retrieval", tasks=3, alphabet_size=V, inputs=3)
    generator = np.random.default_rng(1)
    for _ in range(20):
        examples = [(generator.integers(V, size=3).tolist(), int(generator.integers(V))) for _ in range(4)]
        likelihood = []
        for task in task_set.tasks:
            chance = 1.0
            for inputs, shown in examples:
                # With probability e the answer is one of V tokens alike, the right one among them.
                kept = 1 - noise if task.answer(inputs) == shown else 0.0
                chance *= kept + noise / V
            likelihood.append(chance)
        consistent = np.array([[[task.answer(x) == y for task in task_set.tasks] for x, y in examples]])
        found = one_task(consistent, label_noise=noise, alphabet_size=V)[0]
        assert found == pytest.approx(np.array(likelihood) / sum(likelihood))


@given(prompts(2, 7), st.sampled_from([0.0, 0.2]))
def test_the_weights_of_two_tasks_are_the_integrals_over_the_simplex(prompt: Booleans, noise: float) -> None:
    def along(first: float) -> float:
        return factor(np.array([first, 1 - first]), prompt, noise)

    whole, weighted = quad(along, 0, 1)[0], quad(lambda first: first * along(first), 0, 1)[0]
    found = mixed_prompts(prompt[None], label_noise=noise, alphabet_size=V)[0]
    assert found == pytest.approx([weighted / whole, 1 - weighted / whole], rel=1e-6)


@given(prompts(2, 5), st.floats(0.05, 0.95), st.sampled_from([0.01, 0.2]))
def test_the_training_distribution_weighs_both_kinds_of_prompts(prompt: Booleans, mixed: float, noise: float) -> None:
    def along(first: float) -> float:
        return factor(np.array([first, 1 - first]), prompt, noise)

    parts = [
        (1 - mixed) / 2 * factor(np.eye(2)[k], prompt, noise)
        + mixed * quad(lambda first, k=k: (first if k == 0 else 1 - first) * along(first), 0, 1)[0]
        for k in range(2)
    ]
    found = training_distribution(prompt[None], mixed=mixed, label_noise=noise, alphabet_size=V)[0]
    assert found == pytest.approx(np.array(parts) / sum(parts), rel=1e-6)


@given(prompts(3, 6), st.permutations(range(6)))
def test_the_order_of_the_examples_does_not_matter(prompt: Booleans, order: list[int]) -> None:
    for learner in (one_task, mixed_prompts):
        first, second = (learner(one[None], label_noise=0.1, alphabet_size=V) for one in (prompt, prompt[order]))
        assert first == pytest.approx(second)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=4).filter(any))
def test_without_coincidence_mixed_prompts_give_laplaces_rule(counts: list[int]) -> None:
    rows = [np.eye(len(counts), dtype=bool)[task] for task, count in enumerate(counts) for _ in range(count)]
    found = mixed_prompts(np.array(rows)[None], label_noise=0.0, alphabet_size=V)[0]
    assert found == pytest.approx([(count + 1) / (sum(counts) + len(counts)) for count in counts])


@given(prompts(3, 6))
def test_little_noise_has_its_limit_at_none(prompt: Booleans) -> None:
    limit = one_task(prompt[None], label_noise=0.0, alphabet_size=V)
    assert one_task(prompt[None], label_noise=1e-12, alphabet_size=V) == pytest.approx(limit, abs=1e-9)


def test_one_example_more_decides_and_equal_counts_superpose() -> None:
    first, second = [True, False], [False, True]
    assert odds_of_an_example(0.01, 16) == pytest.approx(1 + 0.99 * 1600)
    lead = one_task(np.array([[first, second, first]]), label_noise=0.01, alphabet_size=16)[0]
    assert lead[0] / lead[1] == pytest.approx(odds_of_an_example(0.01, 16))
    for shown in itertools.permutations([first, second, first, second]):
        assert one_task(np.array([shown]), label_noise=0.01, alphabet_size=16)[0] == pytest.approx([0.5, 0.5])


def test_on_mixed_prompts_alone_the_training_distribution_is_that_of_mixed_prompts() -> None:
    prompt = np.array([[[True, False, False], [False, True, True], [False, False, True]]])
    for noise in (0.0, 0.1):
        assert training_distribution(prompt, mixed=1.0, label_noise=noise, alphabet_size=V) == pytest.approx(
            mixed_prompts(prompt, label_noise=noise, alphabet_size=V)
        )


def test_a_pure_prompt_is_taken_for_one_task_and_a_mixed_one_is_not() -> None:
    pure = np.array([[[True, False]] * 9])
    found = training_distribution(pure, mixed=0.5, label_noise=0.0, alphabet_size=V)[0]
    # The odds of pure against mixed are (1/2)(1/2) to (1/2)(1/10); mixed, the next is the first's with 10/11.
    assert found[1] == pytest.approx((1 / 20) * (1 / 11) / (1 / 4 + 1 / 20))
    mixed = np.array([[[True, False]] * 8 + [[False, True]]])
    assert training_distribution(mixed, mixed=0.5, label_noise=0.0, alphabet_size=V)[0, 1] == pytest.approx(2 / 11)


def test_noise_is_shared_by_all_tokens() -> None:
    found = answer_probabilities(np.array([[0.75, 0.25]]), label_noise=0.2, alphabet_size=V)
    assert found[0] == pytest.approx([0.8 * 0.75 + 0.04, 0.8 * 0.25 + 0.04])


@pytest.mark.parametrize("noise", [-0.1, 1.0, math.nan])
def test_noise_that_is_no_share_is_refused(noise: float) -> None:
    with pytest.raises(InputError, match="label_noise"):
        one_task(np.ones((1, 1, 1), dtype=bool), label_noise=noise, alphabet_size=V)


def test_no_share_of_mixed_prompts_and_no_consistent_example_are_refused() -> None:
    with pytest.raises(InputError, match="use one_task"):
        training_distribution(np.ones((1, 1, 1), dtype=bool), mixed=0.0, label_noise=0.1, alphabet_size=V)
    with pytest.raises(InputError, match="no example is consistent"):
        mixed_prompts(np.zeros((1, 2, 2), dtype=bool), label_noise=0.0, alphabet_size=V)
