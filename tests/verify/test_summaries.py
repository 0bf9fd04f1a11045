"""The count of distinguishable summaries, against what is known otherwise."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.errors import InputError, TooLargeError
from construct.oracle import answer
from construct.prompts import Example, Prompt
from construct.suites import build_suite
from construct.tasks import Format, TableTask, TaskSet
from verify.summaries import Case, Found, Summaries, command, count, differences, largest_clique, row, targets


def identity(alphabet_size: int = 2) -> TaskSet:
    return build_suite("retrieval", tasks=1, alphabet_size=alphabet_size, inputs=1)


def words(length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(2), repeat=length)))


def ball(length: int, radius: int) -> int:
    return sum(math.comb(length, weight) for weight in range(radius + 1))


def test_targets_are_those_of_the_oracle() -> None:
    task_set, m = build_suite("lookup", tasks=3, alphabet_size=3, inputs=2, seed=5), 2
    found = targets(task_set, m)
    inputs, size = list(itertools.product(range(3), repeat=2)), 3
    held = list(itertools.product(inputs, repeat=m))
    shown = list(itertools.product(range(size), repeat=m))
    assert found.shape == (len(held), len(shown) * len(inputs), size)
    generator = np.random.default_rng(0)
    for _ in range(300):
        alice, bob, query = (int(generator.integers(len(part))) for part in (held, shown, inputs))
        examples = tuple(Example(x, y) for x, y in zip(held[alice], shown[bob], strict=True))
        target = answer(task_set, Prompt(examples, inputs[query])).target
        assert {v: Fraction(int(c), m) for v, c in enumerate(found[alice, bob * len(inputs) + query]) if c} == target


@pytest.mark.parametrize("examples", [1, 3, 6])
def test_the_identity_on_two_tokens_has_2_to_the_m_classes(examples: int) -> None:
    found = count(identity(), examples)
    assert (found.inputs, found.classes, found.apart) == (2**examples, 2**examples, Found(2**examples, exact=True))
    assert found.needed == 2**examples


def test_the_largest_difference_is_the_hamming_distance() -> None:
    m = 5
    distance = (words(m)[:, None] != words(m)[None]).sum(axis=2)
    assert (differences(targets(identity(), m)) == distance).all()


# A(m, d), the largest binary codes, from the table of Brouwer (the values are also in MacWilliams and Sloane).
@pytest.mark.parametrize(("m", "eps", "code"), [(5, "1/4", 4), (6, "1/4", 4), (7, "1/4", 8), (7, "1/8", 64)])
def test_inputs_that_are_pairwise_apart_are_a_binary_code(m: int, eps: str, code: int) -> None:
    distance = math.floor(2 * Fraction(eps) * m) + 1
    assert code == {(5, 3): 4, (6, 4): 4, (7, 4): 8, (7, 2): 64}[m, distance]
    assert count(identity(), m, Fraction(eps)).apart == Found(code, exact=True)


@pytest.mark.parametrize(("m", "eps"), [(5, "1/4"), (6, "1/4"), (8, "1/4"), (6, "3/8"), (7, "1/8")])
def test_inputs_that_are_alike_are_at_most_as_many_as_kleitman_says(m: int, eps: str) -> None:
    diameter = math.floor(2 * Fraction(eps) * m)
    most = ball(m, diameter // 2) if diameter % 2 == 0 else 2 * ball(m - 1, diameter // 2)
    assert count(identity(), m, Fraction(eps)).alike == Found(most, exact=True)


@pytest.mark.parametrize(("m", "eps"), [(5, "1/8"), (6, "1/4"), (7, "1/4"), (6, "3/8")])
def test_the_count_is_at_least_what_the_theorem_says(m: int, eps: str) -> None:
    share = float(Fraction(eps))
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    assert math.log2(count(identity(), m, Fraction(eps)).needed) >= (1 - entropy) * (m - 1)


@st.composite
def task_sets(draw: st.DrawFn) -> TaskSet:
    size, inputs = draw(st.sampled_from([(2, 1), (2, 2), (3, 1), (1, 2)]))
    tasks = []
    for index in range(draw(st.integers(1, 3))):
        reads = tuple(draw(st.permutations(range(inputs)))[: draw(st.integers(1, inputs))])
        keys = list(itertools.product(range(size), repeat=len(reads)))
        kept = draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
        tasks.append(TableTask(f"t{index}", reads, {key: draw(st.integers(0, size - 1)) for key in kept}))
    return TaskSet("drawn", tuple("abc"[:size]), inputs, Format(" ", "->"), tuple(tasks))


@given(task_set=task_sets(), examples=st.integers(1, 3))
@settings(max_examples=100)
def test_the_classes_are_the_vectors_of_answers_to_the_m(task_set: TaskSet, examples: int) -> None:
    inputs = itertools.product(range(len(task_set.alphabet)), repeat=task_set.inputs)
    vectors = {tuple(task.answer(x) for task in task_set.tasks) for x in inputs}
    assert count(task_set, examples).classes == len(vectors) ** examples


@given(st.integers(1, 9), st.integers(0, 2**36 - 1))
@settings(max_examples=60)
def test_the_largest_clique_is_that_of_exhaustion(size: int, edges: int) -> None:
    joined = np.zeros((size, size), dtype=np.bool_)
    for bit, (a, b) in enumerate(itertools.combinations(range(size), 2)):
        joined[a, b] = joined[b, a] = bool(edges >> bit & 1)
    largest = max(
        len(part)
        for chosen in range(1, size + 1)
        for part in itertools.combinations(range(size), chosen)
        if all(joined[a, b] for a, b in itertools.combinations(part, 2))
    )
    assert largest_clique(joined) == Found(largest, exact=True)


def test_a_search_that_is_cut_short_says_so_and_proves_nothing() -> None:
    m = 5
    apart = (words(m)[:, None] != words(m)[None]).sum(axis=2) >= 3
    cut = largest_clique(apart, nodes=3)
    assert not cut.exact
    assert cut.size <= 4
    assert str(cut) == f">= {cut.size}"
    assert Summaries(32, 32, cut, Found(2, exact=False)).needed == cut.size


def test_a_tolerance_of_one_half_needs_no_message_at_all() -> None:
    assert count(identity(), 4, Fraction(1, 2)).needed == 1


@pytest.mark.parametrize(
    ("examples", "tolerance", "error", "says"),
    [
        (0, "0", InputError, "examples is 0"),
        (2, "-1/8", InputError, "tolerance is -1/8"),
        (30, "0", TooLargeError, "choose fewer examples"),
    ],
)
def test_what_cannot_be_counted_is_refused(examples: int, tolerance: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        count(identity(), examples, Fraction(tolerance))


def test_a_row_of_the_table_states_the_case_and_the_counts() -> None:
    assert (
        row(Case("retrieval", 1, 2, 1, 5, Fraction(1, 4)))
        == "| retrieval | 1 | 2 | 1 | 5 | 1/4 | 32 | 32 | 4 | 6 | 6 |"
    )


def test_the_command_takes_nothing_and_explains_itself() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "distinguishable summaries" in result.output
