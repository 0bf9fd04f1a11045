"""The bounds of the program as executed: what rounds, what does not, and why there is no claim."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from tests.verify.conftest import edited, sum_and_table, tables, with_tensors
from verify.adversary import search
from verify.rounding import V, _fits, _partial_sums
from verify.theorem import prove

FORMATS = ("float32", "bfloat16", "float16")


@given(st.integers(1, 2000))
def test_adding_equal_shares_one_by_one_rounds_no_more_than_is_said(count: int) -> None:
    share = np.float32(1) / np.float32(count)
    total, exact = np.float32(0), 0.0
    for _ in range(count):
        total, exact = np.float32(total + share), exact + float(share)
    assert abs(float(total) - exact) <= V * _partial_sums(count, 1 / count) + 2.0**-50


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=200))
def test_adding_any_weights_in_any_order_rounds_no_more_than_is_said(weights: list[float]) -> None:
    allowed = V * _partial_sums(len(weights), 1.0) + 2.0**-45
    exact = float(np.sum(np.array(weights, dtype=np.float64)))
    orders = [weights, weights[::-1], sorted(weights), sorted(weights, reverse=True)]
    for order in orders:
        total = np.float32(0)
        for weight in order:
            total = np.float32(total + np.float32(weight))
        assert abs(float(total) - exact) <= allowed
    # Pairs of pairs, as on a device.
    values = np.array(weights, dtype=np.float32)
    while len(values) > 1:
        values = np.append(values, np.float32(0)) if len(values) % 2 else values
        values = (values[::2] + values[1::2]).astype(np.float32)
    assert abs(float(values[0]) - exact) <= allowed


def test_one_term_does_not_round_and_each_partial_sum_rounds_by_half_a_unit_of_its_binade() -> None:
    assert _partial_sums(1, 1.0) == 0
    # Partial sums 2, 3, 4, 5 in binades of half units 2, 2, 4, 4 (1 is V).
    assert _partial_sums(5, 1.0) == 2 + 2 + 4 + 4
    assert _partial_sums(4, 0.25) == 0.5 + 0.5 + 1


def test_what_fits_a_format_is_what_a_cast_keeps() -> None:
    generator = np.random.default_rng(3)
    values = np.concatenate([generator.normal(size=50), [0, 1, -3, 2.0**-24, 2.0**-25, 255, 257, 2049, 2.0**15, 6e4]])
    for value in values.astype(np.float32):
        kept = np.float32(np.float16(value)) == value
        # At the ends of the range, what fits may be refused.
        assert kept or not _fits(np.array([value]), 11, -24)
        if value == 0 or 2.0**-14 <= abs(value) < 2.0**15:
            assert kept == _fits(np.array([value]), 11, -24)


def claims(construction: Construction) -> dict[str, bool]:
    return {form: bound is not None for form, bound in prove(construction).rounded.items()}


def three_inputs() -> Construction:
    task = SumTask("three", (0, 1, 2), {0: 0, 1: 1}, {1: 0, 2: 1})
    return two_layer(TaskSet("three", ("a", "b"), 3, Format(), (task,)), examples=2)


def blunt() -> Construction:
    return two_layer(tables(), examples=5, sharpness=4)


def blunt_average() -> Construction:
    built = two_layer(tables(), examples=5)
    query = built.weights.layers[1].attention.query * np.float32(2.0**-3)
    return with_tensors(built, {"layers.1.attention.query": query})


def fraction() -> Construction:
    """A pair of weights whose product is 1 and of which one is no integer."""
    built = two_layer(tables(), examples=2)
    token = built.weights.unembedding.toarray() * np.float32(2)
    w_out = built.weights.layers[1].mlp.w_out.toarray() * np.float32(0.5)
    kind = type(built.weights.unembedding)
    return with_tensors(built, {"unembedding": kind(token), "layers.1.mlp.w_out": kind(w_out)})


def wide_sum() -> Construction:
    """Sums from -300 to 300."""
    task = SumTask("wide", (0,), {0: -300, 1: 300, 2: 7}, {300: 0, 7: 1})
    return two_layer(TaskSet("wide", ("a", "b", "c"), 1, Format(), (task,)), examples=2)


def fine_sharpness() -> Construction:
    """A sharpness of 12 bits: times an integer it is exact in float32 alone."""
    return two_layer(tables(), examples=2, sharpness=12 + 2.0**-8)


def spread_scores() -> Construction:
    """Scores that need more than 24 bits: a large key where it does not matter, and a fine one."""
    built = two_layer(tables(), examples=2)
    row = built.stream["example_index"].start
    return edited(built, {"layers.0.attention.key": {(0, row, 0): 1.0 + 2.0**-20}})


REFUSED: dict[str, tuple[Callable[[], Construction], tuple[str, ...], str]] = {
    "a set of three inputs": (three_inputs, FORMATS, "averages over 3 inputs, no power of two"),
    "a low sharpness": (blunt, FORMATS, "too much to be lost in the rounding of float32, raise the sharpness"),
    "a blunt average": (blunt_average, FORMATS, "the average leaks more than is lost"),
    "a weight that is no integer": (fraction, FORMATS, "has a weight that is no integer"),
    "a sum of a wide range": (wide_sum, ("bfloat16",), "bits of bfloat16"),
    "a sharpness of many bits": (fine_sharpness, ("bfloat16", "float16"), "bits"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_says_why_and_the_rest_is_claimed(what: str) -> None:
    make, formats, reason = REFUSED[what]
    proof = prove(make())
    assert proof.violations == ()
    assert proof.real is not None
    assert {form for form in FORMATS if proof.rounded[form] is None} == set(formats)
    assert proof.refusals.keys() == set(formats)
    for form in formats:
        assert reason in proof.refusals[form], proof.refusals


def test_scores_on_a_grid_that_is_too_fine_are_refused_in_every_format() -> None:
    proof = prove(spread_scores())
    assert proof.rounded == dict.fromkeys(FORMATS)


def test_integers_up_to_256_are_claimed_in_bfloat16_and_beyond_are_not() -> None:
    for largest, claimed in ((60, True), (400, False)):
        task = SumTask("sum", (0,), {0: 0, 1: largest}, {0: 1, largest: 0})
        built = two_layer(TaskSet("sum", ("a", "b"), 1, Format(), (task,)), examples=2)
        assert claims(built) == {"float32": True, "bfloat16": claimed, "float16": True}


@pytest.mark.parametrize("examples", [2, 3, 7, 8, 40])
def test_the_bound_grows_with_the_examples_and_is_larger_in_a_narrower_format(examples: int) -> None:
    proof, more = (prove(two_layer(tables(), examples=number)) for number in (examples, examples + 23))
    bounds = [proof.rounded[form] for form in ("float32", "float16", "bfloat16")]
    assert None not in bounds
    assert sorted(bounds) == bounds  # type: ignore[type-var]  # none is None
    for form in FORMATS:
        assert proof.rounded[form] <= more.rounded[form]  # type: ignore[operator]


def test_the_bound_is_within_ten_times_of_what_a_search_finds() -> None:
    built = two_layer(build_suite("lookup", tasks=3, alphabet_size=11, inputs=2), examples=11)
    bounds = prove(built).rounded
    for form in FORMATS:
        found = search(built, samples=200, dtype=form, seed=1).error
        bound = bounds[form]
        assert bound is not None
        assert found <= bound <= 10 * found


def test_the_retrieval_of_the_first_figure_is_claimed_at_1e_5_in_float32() -> None:
    built = two_layer(build_suite("retrieval", tasks=8, alphabet_size=32, inputs=8), examples=16)
    proof = prove(built)
    assert proof.real is not None
    assert proof.real <= 1e-6
    assert proof.rounded["float32"] is not None
    assert proof.rounded["float32"] <= 1e-5
    for form in ("bfloat16", "float16"):
        assert proof.rounded[form] is not None or proof.refusals[form]


def test_a_table_and_a_sum_are_claimed_in_every_format() -> None:
    assert claims(two_layer(sum_and_table(), examples=3)) == dict.fromkeys(FORMATS, True)
    mixed = TaskSet("table", ("a", "b"), 1, Format(), (TableTask("t", (0,), {(0,): 1}),))
    assert claims(two_layer(mixed, examples=1)) == dict.fromkeys(FORMATS, True)
