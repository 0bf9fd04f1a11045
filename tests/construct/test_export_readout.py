"""Logits whose softmax is the mixture: on random tasks and prompts, at every position, circuit by circuit."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from scipy.special import softmax

from construct.constructions import KINDS
from construct.errors import InputError, TaskError
from construct.export.readout import NEGLIGIBLE, Readout, answer_codes, lowest_logit, readout
from construct.oracle import Answer, curve
from construct.prompts import Example, Prompt
from construct.residual_stream import Subspace
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction
from construct.transformer import Residual, forward
from tests.construct.strategies import Case, cases

theorems = st.sampled_from(sorted(KINDS))


def made(case: Case, theorem: str) -> Construction:
    try:
        return KINDS[theorem].build(case.task_set, examples=case.examples)
    except TaskError:
        reject()


def expected(answer: Answer, model: Readout) -> Residual:
    """The distribution that is due at an EQ."""
    due = np.zeros(model.vocabulary_size)
    alphabet = model.construction.layout.alphabet_size
    for token, share in answer.distribution.items():
        due[token] = float(share)
    if not answer.target:
        due[:alphabet] = 1 / alphabet
    return due


def distance(found: Residual, due: Residual) -> float:
    return float(np.abs(found - due).sum() / 2)


def bound(construction: Construction) -> float:
    """The bound of the module, with eps the error of the weights relative to the least of them, 1/m."""
    assert construction.error_bound is not None
    spread = 2 * math.log(2) * construction.error_bound * construction.layout.examples
    return math.expm1(spread) / 2 + NEGLIGIBLE


@settings(max_examples=60)
@given(cases(), theorems)
def test_softmax_of_the_logits_is_the_mixture_at_every_eq(case: Case, theorem: str) -> None:
    model = readout(made(case, theorem))
    layout = model.construction.layout
    probabilities = softmax(forward(model.weights, layout.ids(case.prompt)).output, axis=1)
    for index, answer in enumerate(curve(case.task_set, case.prompt)):
        found = probabilities[layout.eq_position(index)]
        assert distance(found, expected(answer, model)) <= bound(model.construction)


@settings(max_examples=40)
@given(cases(), theorems)
def test_elsewhere_the_arrow_follows_the_last_input_and_any_token_everything_else(case: Case, theorem: str) -> None:
    model = readout(made(case, theorem))
    layout = model.construction.layout
    ids = layout.ids(case.prompt)
    probabilities = softmax(forward(model.weights, ids).output, axis=1)
    for position in range(len(ids)):
        place = (position - 1) % (layout.inputs + 2)
        if position and place == layout.inputs:
            continue
        due = np.zeros(model.vocabulary_size)
        if position and place == layout.inputs - 1:
            due[layout.eq] = 1
        else:
            due[: layout.alphabet_size] = 1 / layout.alphabet_size
        assert distance(probabilities[position], due) <= NEGLIGIBLE


@settings(max_examples=30)
@given(cases(), theorems)
def test_the_construction_inside_is_untouched(case: Case, theorem: str) -> None:
    construction = made(case, theorem)
    model = readout(construction)
    ids = construction.layout.ids(case.prompt)
    alone, inside = forward(construction.weights, ids), forward(model.weights, ids)
    for layer, stream in enumerate(alone.after_mlp):
        assert np.array_equal(inside.after_mlp[layer][:, : construction.weights.d_model], stream)


def retrieval() -> Construction:
    return KINDS["two-layer"].build(build_suite("retrieval", tasks=3, alphabet_size=5, inputs=4), examples=7)


def test_without_evidence_all_tokens_of_the_alphabet_have_the_same_logit_exactly() -> None:
    model = readout(retrieval())
    layout = model.construction.layout
    # The answer is a token that no task gives on these inputs.
    unexplained = Prompt((Example((0, 1, 2, 3), 4),), (3, 2, 1, 0))
    logits = forward(model.weights, layout.ids(unexplained)).output
    for at in (layout.eq_position(0), layout.eq_position(1)):
        assert logits[at, : layout.alphabet_size].tolist() == [-model.low] * layout.alphabet_size
        assert (logits[at, layout.alphabet_size :] == -2 * model.low).all()


def test_tasks_that_agree_on_the_query_are_counted_together_and_written_once() -> None:
    model = readout(retrieval())
    layout = model.construction.layout
    # On a query of one character all three tasks agree; each example is explained by one task.
    shown = (Example((0, 1, 2, 3), 0), Example((0, 1, 2, 3), 1), Example((1, 2, 0, 3), 0))
    trace = forward(model.weights, layout.ids(Prompt(shown, (4, 4, 4, 4))))
    at = layout.eq_position(3)
    stream = model.stream
    assert trace.after_mlp[-1][at, stream["agreeing"].coordinates] == pytest.approx([3, 3, 3], rel=1e-6)
    silent = trace.after_mlp[-1][at, stream["silent"].coordinates]
    assert silent[0] == 0
    assert (silent[1:] >= 1).all()
    assert softmax(trace.output[at])[4] == pytest.approx(1, abs=1e-6)


def test_an_arrow_out_of_place_is_reported_as_unknown() -> None:
    model = readout(retrieval())
    layout = model.construction.layout
    ids = layout.ids(Prompt((Example((0, 1, 2, 3), 0),), (4, 4, 4, 4)))
    shifted = forward(model.weights, [layout.bos, *ids]).output
    for position in (layout.eq_position(0) + 1, layout.eq_position(1) + 1):
        assert shifted[position].argmax() == model.unk
        assert softmax(shifted[position])[model.unk] >= 1 - NEGLIGIBLE


def test_the_table_of_the_logarithm_is_exact_at_every_count() -> None:
    model = readout(retrieval())
    layer = model.weights.layers[-2].mlp
    at, to = model.stream["agreeing"].start, model.stream["shortfall"].start
    stream = np.zeros((model.largest, model.weights.d_model))
    stream[:, at] = np.arange(1, model.largest + 1)
    hidden = np.maximum(stream @ layer.w_in.astype(np.float64) + layer.bias_in, 0)
    found = (hidden @ layer.w_out.astype(np.float64))[:, to]
    exact = math.log(model.largest) - np.log(np.arange(1, model.largest + 1))
    # Each of the S positive terms has a weight rounded to 2^-24 of itself.
    assert np.abs(found - exact).max() <= 2.0**-24 * math.log(model.largest)
    assert (np.diff(found) < 0).all()


@given(st.integers(1, 10**6), st.integers(1, 10**7))
def test_the_lowest_logit_leaves_nothing_that_counts_and_is_the_least_even_one(alphabet: int, largest: int) -> None:
    low = lowest_logit(alphabet, largest)
    left = Fraction(alphabet + 4) * largest
    assert low % 2 == 0
    assert float(left) * math.exp(-low) <= NEGLIGIBLE * (1 + 1e-9)
    assert float(left) * math.exp(-(low - 2)) > NEGLIGIBLE


def test_the_code_of_an_answer_is_never_that_of_none() -> None:
    for size in (1, 2, 3, 9):
        codes = answer_codes(size)
        assert codes.shape[0] == size
        assert (np.abs(codes) == 1).all()
        assert codes.shape[1] >= 1
        assert len({tuple(code) for code in codes.tolist()}) == size


def test_each_circuit_left_out_or_turned_round_moves_some_answer() -> None:
    """The claims above can fail: no group of units of the readout can go, or change its sign, unnoticed."""
    construction = retrieval()
    model = readout(construction)
    layout = construction.layout
    shown = tuple(Example((0, 1, 2, 3), answer) for answer in (0, 1, 2, 2))
    prompt = Prompt(shown, (1, 4, 3, 0))
    ids, at = layout.ids(prompt), layout.eq_position(4)
    due = expected(curve(construction.task_set, prompt)[-1], model)
    right = softmax(forward(model.weights, ids).output, axis=1)
    assert distance(right[at], due) <= bound(construction)
    first = len(construction.weights.layers) - 1
    for layer, groups in enumerate(model.groups, start=first):
        mlp = model.weights.layers[layer].mlp
        kept = mlp.w_out.data.copy()
        for group in groups:
            rows = slice(mlp.w_out.indptr[group.start], mlp.w_out.indptr[group.start + group.units])
            moved = 0.0
            for factor in (0, -1):
                mlp.w_out.data[rows] = factor * kept[rows]
                altered = softmax(forward(model.weights, ids).output, axis=1)
                moved = max(moved, *map(distance, altered, right))
            mlp.w_out.data[:] = kept
            assert moved > 0.01, group.name


def test_a_partial_sum_and_a_table_share_a_readout() -> None:
    values = {0: 1, 1: 2, 2: 5}
    tasks = (
        SumTask("sum", (0, 1), values, {2: 3, 3: 0, 7: 2}),
        TableTask("table", (1,), {(0,): 1, (1,): 0, (4,): 4}),
    )
    task_set = TaskSet("mixed", tuple("abcde"), 2, Format(), tasks)
    for theorem in sorted(KINDS):
        model = readout(KINDS[theorem].build(task_set, examples=6))
        shown = (Example((0, 1), 0), Example((0, 0), 3), Example((3, 4), 4))
        for query in ((1, 0), (1, 2), (3, 3), (0, 1)):
            prompt = Prompt(shown, query)
            ids = model.construction.layout.ids(prompt)
            found = softmax(forward(model.weights, ids).output[-1])
            due = expected(curve(task_set, prompt)[-1], model)
            assert distance(found, due) <= bound(model.construction)


def test_other_theorems_are_refused_by_name() -> None:
    construction = retrieval()
    other = Construction(**{**vars(construction), "theorem": "superposition"})
    with pytest.raises(InputError, match=r"'superposition'.*two-layer"):
        readout(other)


def test_subspaces_of_the_readout_follow_those_of_the_construction() -> None:
    construction = retrieval()
    model = readout(construction)
    names = list(construction.stream)
    assert list(model.stream)[: len(names)] == names
    spaces: list[Subspace] = list(model.stream.values())
    assert all(one.stop == other.start for one, other in pairwise(spaces))
    assert model.weights.d_model == spaces[-1].stop
