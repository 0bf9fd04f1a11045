"""Seven layers, one step of the argument each: on random tasks and prompts, within the bound and within the budget."""

import math

import numpy as np
import pytest
from hypothesis import event, given, reject, settings
from hypothesis import strategies as st

from construct.constructions import KINDS
from construct.errors import TaskError
from construct.four_squares import code_norm, four_square_code
from construct.prompts import Example, Prompt
from construct.seven_bounds import WIDTH_CONSTANT, budget, seven_rounding_bound
from construct.seven_layer import STEPS, seven_layer
from construct.seven_reads import interpolation, seven_reads
from construct.suites import SUITES, build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction
from construct.torch_model import TorchTransformer
from construct.transformer import forward
from tests.construct.comparison import eq_positions, exact_answers, torch_answers
from tests.construct.strategies import Case, cases, task_sets

errors_wanted = st.sampled_from([0.3, 1e-2, 1e-4, 1e-6, 1e-9, 1e-13])


def made(task_set: TaskSet, examples: int, error: float = 1e-6, sharpness: float | None = None) -> Construction:
    """The construction; tasks that need more reads than two layers of K heads have are drawn again."""
    try:
        return seven_layer(task_set, examples=examples, error=error, sharpness=sharpness)
    except TaskError:
        reject()


def bound_in(construction: Construction, precision: str) -> float | None:
    reads = seven_reads(construction.task_set)
    return seven_rounding_bound(construction.task_set, reads, construction.layout, construction.sharpness, precision)


# The error at every EQ.


@settings(max_examples=120)
@given(cases(), errors_wanted)
def test_the_plain_pass_is_within_its_bound_of_the_oracle_at_every_eq(case: Case, error: float) -> None:
    construction = made(case.task_set, case.examples, error)
    at = eq_positions(construction, case.prompt)
    output = forward(construction.weights, construction.layout.ids(case.prompt)).output[at]
    off = np.abs(output - exact_answers(construction, case.prompt).output).sum(axis=1)
    bound = bound_in(construction, "float64")
    assert bound is not None
    assert construction.error_bound is not None
    assert construction.error_bound <= min(bound, error)
    assert off.max() <= bound


@settings(max_examples=80)
@given(cases(), st.floats(2.0, 7.0))
def test_at_a_low_sharpness_the_error_is_still_within_the_bound_where_there_is_one(
    case: Case, sharpness: float
) -> None:
    construction = made(case.task_set, case.examples, sharpness=sharpness)
    bound = bound_in(construction, "float64")
    event(f"a bound: {bound is not None}")
    if bound is None:
        return
    at = eq_positions(construction, case.prompt)
    output = forward(construction.weights, construction.layout.ids(case.prompt)).output[at]
    assert np.abs(output - exact_answers(construction, case.prompt).output).sum(axis=1).max() <= bound


def test_the_error_at_a_low_sharpness_is_large_enough_to_be_seen() -> None:
    """So that the tests above could fail: the leak of a read reaches the answer, a tenth of the bound or more."""
    task_set = build_suite("lookup", tasks=3, alphabet_size=5, inputs=2)
    construction = seven_layer(task_set, examples=4, sharpness=5.0)
    ratios = []
    generator = np.random.default_rng(2)
    for _ in range(30):
        tokens = generator.integers(5, size=(5, 2)).tolist()
        shown = [Example(tuple(x), task_set.tasks[0].answer(tuple(x)) or 0) for x in tokens[:4]]
        prompt = Prompt(tuple(shown), tuple(tokens[4]))
        output = forward(construction.weights, construction.layout.ids(prompt)).output[
            eq_positions(construction, prompt)
        ]
        off = np.abs(output - exact_answers(construction, prompt).output).sum(axis=1).max()
        assert construction.error_bound is not None
        ratios.append(off / construction.error_bound)
    assert 0.02 < max(ratios) <= 1


@settings(max_examples=40)
@given(cases(), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_the_torch_module_is_within_its_bound_in_narrow_formats(case: Case, precision: str) -> None:
    construction = made(case.task_set, case.examples)
    bound = bound_in(construction, precision)
    event(f"{precision}: {'a bound' if bound is not None else 'no claim'}")
    if bound is None:
        return
    model = TorchTransformer(construction.weights, dtype=precision)
    off = torch_answers(construction, case.prompt, model).output - exact_answers(construction, case.prompt).output
    assert np.abs(off).sum(axis=1).max() <= bound


# The budget.


@given(task_sets(), st.integers(1, 40))
def test_seven_layers_of_at_most_k_heads_on_24_times_d_plus_log_mn_numbers(task_set: TaskSet, examples: int) -> None:
    construction = made(task_set, examples)
    tasks, (size, n) = len(task_set.tasks), (len(task_set.alphabet), task_set.inputs)
    assert len(construction.weights.layers) == 7
    assert max(construction.weights.heads) <= tasks
    width = WIDTH_CONSTANT * (max(size, tasks) + math.log2(examples * n))
    assert construction.weights.d_model <= width
    allowed = budget(task_set, construction.layout)
    assert (allowed.layers, allowed.most_heads, allowed.width) == (7, tasks, width)


@pytest.mark.parametrize(("tasks", "size", "n", "m"), [(1, 2, 1, 1), (7, 7, 3, 2), (5, 64, 9, 33), (16, 16, 5, 1000)])
def test_with_one_input_each_the_width_is_at_most_13_d_and_6_and_log_mn(tasks: int, size: int, n: int, m: int) -> None:
    task_set = build_suite("lookup", tasks=tasks, alphabet_size=size, inputs=n)
    assert seven_layer(task_set, examples=m).weights.d_model <= 13 * size + 6 + math.log2(m * n)


def test_more_reads_than_two_layers_of_k_heads_are_refused() -> None:
    task = TableTask("wide", (0, 1, 2), {(0, 1, 0): 1})
    wide = TaskSet("wide", ("a", "b"), 3, Format(), (task,))
    with pytest.raises(TaskError, match="at most 2"):
        seven_layer(wide, examples=2)
    pair = TaskSet("pair", ("a", "b"), 3, Format(), (TableTask("pair", (2, 0), {(0, 1): 1}),))
    assert seven_layer(pair, examples=2).weights.heads == [1, 1, 0, 0, 1, 0, 0]


# What each layer holds.


def test_each_layer_is_one_step_and_holds_no_other() -> None:
    construction = seven_layer(build_suite("lookup", tasks=3, alphabet_size=6, inputs=2), examples=5)
    layers = construction.weights.layers
    assert [step for step, _ in STEPS] == ["read", "predict", "compare", "credit", "average", "gate", "superpose"]
    assert [len(layer.attention.query) > 0 for layer in layers] == [True, False, False, False, True, False, False]
    assert [width > 0 for width in construction.weights.mlp_width] == [False, True, True, True, False, True, True]


@given(cases())
@settings(max_examples=40)
def test_the_stream_holds_what_each_step_says(case: Case) -> None:
    """At every EQ and y: the predicted codes, the credits, the weights; up to what the bound allows."""
    construction = made(case.task_set, case.examples, 1e-9)
    layout, codes = construction.layout, four_square_code(construction.layout.alphabet_size)
    trace = forward(construction.weights, layout.ids(case.prompt))
    space = {name: part.coordinates for name, part in construction.stream.items()}
    exact = exact_answers(construction, case.prompt).evidence
    for index in range(len(case.prompt.examples) + 1):
        done = index == len(case.prompt.examples)
        inputs = case.prompt.query if done else case.prompt.examples[index].inputs
        answers = [task.answer(inputs) for task in case.task_set.tasks]
        wanted = np.concatenate([np.zeros(4) if answer is None else codes[answer] for answer in answers])
        at = layout.eq_position(index)
        for position in (at,) if done else (at, at + 1):
            assert np.abs(trace.after_mlp[1][position][space["prediction"]] - wanted).max() < 1e-6
            silent = [float(answer is None) for answer in answers]
            assert np.abs(trace.after_mlp[1][position][space["unanswered"]] - silent).max() < 1e-6
        if not done:
            credit = [float(answer == case.prompt.examples[index].answer) for answer in answers]
            assert trace.after_mlp[3][at + 1][space["evidence"]].tolist() == credit, "the credit is exact"
        assert np.abs(trace.after_attention[4][at][space["evidence"]] - exact[index]).max() < 1e-6
        gated = np.where([answer is None for answer in answers], 0.0, exact[index])
        assert np.abs(trace.after_mlp[5][at][space["weight"]] - gated).max() < 1e-6


# Codes and hinges.


@pytest.mark.parametrize("count", [1, 2, 8, 9, 33, 144, 500])
def test_codes_have_one_length_and_two_are_told_apart_by_an_inner_product(count: int) -> None:
    codes, norm = four_square_code(count).astype(int), code_norm(count)
    products = codes @ codes.T
    assert (products.diagonal() == norm).all()
    assert (products - np.diag(products.diagonal()) <= norm - 1).all()
    assert norm <= count / 8 + 1
    assert all(np.abs(a - b).sum() >= 2 for a in codes[:40] for b in codes if (a != b).any())


@given(st.dictionaries(st.integers(1, 40), st.integers(-4, 4), min_size=1, max_size=8))
def test_hinges_take_the_values_at_integers_and_lines_between_them(rows: dict[int, int]) -> None:
    places, changes = interpolation(np.array(list(rows)), np.array(list(rows.values()), dtype=np.float32)[:, None])

    def at(point: float) -> float:
        return float(np.maximum(point - places, 0.0) @ changes[:, 0])

    for number in range(-2, 45):
        assert at(number) == rows.get(number, 0)
        assert at(number + 0.25) == 0.75 * rows.get(number, 0) + 0.25 * rows.get(number + 1, 0)


# Suites, and the size of the issue.


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_that_fits_the_budget_is_built(suite: str) -> None:
    task_set = build_suite(suite)
    construction = seven_layer(task_set, examples=3)
    assert construction.error_bound is not None
    assert construction.theorem == "seven-layer"


def test_the_builder_states_a_bound_for_float32_at_the_size_of_the_issue() -> None:
    construction = seven_layer(build_suite("retrieval", tasks=8, alphabet_size=32, inputs=8), examples=16)
    assert construction.weights.d_model == 140
    bound = KINDS["seven-layer"].rounding(construction, "float32")
    assert bound is not None
    assert bound <= 1e-4


def test_a_sum_over_three_positions_by_one_head_has_no_bound_in_float32() -> None:
    total = SumTask("sum", (0, 1, 2), {0: 0, 1: 2}, {2: 1, 4: 0})
    task_set = TaskSet("three", ("a", "b"), 3, Format(), (total,))
    construction = seven_layer(task_set, examples=2)
    assert construction.weights.heads[:2] == [1, 0]
    assert construction.error_bound is not None
    assert bound_in(construction, "float32") is None


def test_no_examples_are_refused() -> None:
    with pytest.raises(TaskError, match="at least 1"):
        seven_layer(build_suite("lookup", tasks=1, alphabet_size=2, inputs=1), examples=0)
