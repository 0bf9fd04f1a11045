"""The search against exhaustion where that is feasible, and against bounds where it is not."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.bounds import rounding_bound
from construct.errors import InputError, PromptError
from construct.oracle import answer
from construct.prompts import Example, Layout, Prompt
from construct.reads import plan_reads
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from construct.transformer import forward
from verify import random_prompts
from verify.adversary import ASCENT_SHARE, Searcher, confirm, search
from verify.exhaustive import exhaust
from verify.random_prompts import RandomPrompts

TERMS = 64
"""No sum in the small models of this file has more terms: float64 is off by at most TERMS * Worst.rounding."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small are run slower by many threads, and much slower where others want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def table_and_sum() -> TaskSet:
    total = SumTask("sum", (0, 1), {0: -1, 1: 0, 2: 2}, {0: 1, -1: 2, 1: 0, 4: 1})
    table = TableTask("table", (1, 0), {(0, 0): 2, (1, 2): 1, (2, 2): 0, (2, 1): 1})
    return TaskSet("table and sum", ("a", "b", "c"), 2, Format(), (table, total))


def drawn_tables(seed: int, *, tasks: int, size: int, inputs: int) -> TaskSet:
    """Random tables, each of one or two reads, that leave some keys out."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(tasks):
        reads = tuple(generator.permutation(inputs)[: int(generator.integers(1, 3))].tolist())
        keys = [key for key in np.ndindex(*[size] * len(reads)) if generator.random() < 0.8]
        rows = {key: int(generator.integers(size)) for key in keys or [(0,) * len(reads)]}
        made.append(TableTask(f"task{number}", reads, rows))
    return TaskSet("drawn", tuple(f"t{index}" for index in range(size)), inputs, Format(), tuple(made))


def plain_error(construction: Construction, prompt: Prompt) -> float:
    output = forward(construction.weights, construction.layout.ids(prompt)).output[-1]
    target = np.zeros(construction.layout.alphabet_size)
    for token, weight in answer(construction.task_set, prompt).target.items():
        target[token] = float(weight)
    return float(np.abs(output - target).sum())


SMALL = [
    pytest.param(table_and_sum(), 2, 4.0, id="table and sum"),
    pytest.param(drawn_tables(1, tasks=2, size=3, inputs=2), 2, 3.0, id="V=3 n=2 m=2"),
    pytest.param(drawn_tables(2, tasks=3, size=2, inputs=3), 3, 3.0, id="V=2 n=3 m=3"),
    pytest.param(drawn_tables(3, tasks=5, size=7, inputs=1), 2, 4.0, id="V=7 n=1 m=2"),
    pytest.param(drawn_tables(4, tasks=3, size=5, inputs=1), 3, 3.0, id="V=5 n=1 m=3"),
    pytest.param(drawn_tables(5, tasks=2, size=5, inputs=2), 1, 4.0, id="V=5 n=2 m=1"),
]


@pytest.mark.parametrize(("task_set", "examples", "sharpness"), SMALL)
def test_the_worst_found_is_close_to_the_worst_there_is(task_set: TaskSet, examples: int, sharpness: float) -> None:
    built = two_layer(task_set, examples=examples, sharpness=sharpness)
    truth = exhaust(built)
    found = search(built, samples=200, dtype="float64", seed=7)
    tolerance = TERMS * truth.rounding
    assert truth.error > 1e-4
    assert 0.6 * truth.error <= found.error <= truth.error + tolerance
    for one, most in zip(found.by_examples, truth.by_examples, strict=True):
        assert one <= most + tolerance
    assert plain_error(built, found.prompt) == pytest.approx(found.error, abs=tolerance)


def test_the_same_seed_finds_the_same() -> None:
    built = two_layer(table_and_sum(), examples=2, sharpness=4)
    assert search(built, samples=60, seed=3) == search(built, samples=60, seed=3)
    searcher = Searcher(built.task_set, built.layout)
    searcher.search(built.weights, samples=60, seed=4)
    assert searcher.search(built.weights, samples=60, seed=3) == search(built, samples=60, seed=3)


def test_the_number_of_answers_judged_is_reported() -> None:
    built = two_layer(table_and_sum(), examples=2, sharpness=4)
    shares: list[float] = []
    found = search(built, samples=50, progress=shares.append)
    assert found.prompts == 50 * (1 + ASCENT_SHARE) * 3
    assert shares == sorted(shares)
    assert shares[-1] == 1


def without_answer_row(construction: Construction, unit: int) -> Construction:
    first, last = construction.weights.layers
    w_out = last.mlp.w_out.tolil()
    w_out[unit] = 0
    layers = (first, replace(last, mlp=replace(last.mlp, w_out=w_out.tocsr())))
    return replace(construction, weights=replace(construction.weights, layers=layers))


@pytest.mark.parametrize("unit", [0, 17, 70])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_a_row_that_is_missing_is_found_where_exhaustion_is_out_of_reach(unit: int, dtype: str) -> None:
    built = two_layer(build_suite("lookup", tasks=3, alphabet_size=29, inputs=2), examples=5)
    broken = without_answer_row(built, unit)
    found = search(broken, samples=300, dtype=dtype, seed=unit)
    assert found.error > 0.15  # at least one of five examples speaks for the task whose answer is missing
    assert found.error - 0.1 < confirm(broken, found.prompt) == pytest.approx(plain_error(broken, found.prompt))
    assert confirm(built, found.prompt) <= 1e-6


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_nothing_is_found_beyond_the_bound_of_the_format(dtype: str) -> None:
    task_set = build_suite("lookup", tasks=5, alphabet_size=13, inputs=3)
    built = two_layer(task_set, examples=7)
    bound = rounding_bound(task_set, plan_reads(task_set), built.layout, built.sharpness, dtype)
    assert bound is not None
    assert search(built, samples=100, dtype=dtype).error <= bound


def test_real_errors_stand_out_from_the_rounding_of_float64() -> None:
    built = two_layer(drawn_tables(1, tasks=2, size=3, inputs=2), examples=2)
    assert built.error_bound is not None
    truth, found = exhaust(built), search(built, samples=200, dtype="float64")
    assert found.error >= 0.6 * truth.error
    assert truth.error > 1e3 * TERMS * truth.rounding


def test_a_prompt_is_confirmed_by_running_it_alone() -> None:
    built = two_layer(table_and_sum(), examples=3, sharpness=3)
    prompts = [
        Prompt((), (1, 2)),
        Prompt((Example((0, 1), 2),), (2, 2)),
        Prompt((Example((2, 2), 0), Example((0, 0), 1), Example((1, 0), 2)), (0, 2)),
    ]
    for prompt in prompts:
        assert confirm(built, prompt) == pytest.approx(plain_error(built, prompt), abs=TERMS * 2.0**-42)


def test_what_cannot_be_run_is_refused() -> None:
    built = two_layer(table_and_sum(), examples=1)
    too_long = Prompt((Example((0, 0), 0),) * 2, (0, 0))
    with pytest.raises(PromptError, match="2 examples"):
        confirm(built, too_long)
    with pytest.raises(InputError, match="float8"):
        search(built, dtype="float8")
    with pytest.raises(InputError, match="no such device"):
        search(built, device="no such device")


def test_weights_that_are_no_numbers_are_infinitely_wrong() -> None:
    built = two_layer(table_and_sum(), examples=2)
    embedding = built.weights.position_embedding.copy()
    embedding.data[3] = math.nan
    broken = replace(built, weights=replace(built.weights, position_embedding=embedding))
    found = search(broken, samples=20)
    assert found.error == math.inf
    assert confirm(broken, found.prompt) == math.inf


@given(
    size=st.sampled_from([1, 2, 5, 37]),
    inputs=st.integers(1, 3),
    examples=st.integers(1, 4),
    count=st.sampled_from([1, 2, 9, 101]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_random_prompts_of_any_sizes_are_prompts(size: int, inputs: int, examples: int, count: int, seed: int) -> None:
    total = SumTask("never", (0,), {0: 1}, {7: 0})
    table = TableTask("table", (inputs - 1,), {(size - 1,): 0})
    task_set = TaskSet("drawn", tuple(f"t{index}" for index in range(size)), inputs, Format(), (table, total))
    drawn = RandomPrompts(task_set, Layout(size, inputs, examples), np.random.default_rng(seed)).draw(count)
    assert drawn.shape == (count, examples * (inputs + 1) + inputs)
    assert drawn.min() >= 0
    assert drawn.max() < size


def test_random_prompts_are_drawn_in_blocks_where_tasks_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    built = two_layer(table_and_sum(), examples=2)
    monkeypatch.setattr(random_prompts, "BLOCK_ANSWERS", 1)
    drawn = RandomPrompts(built.task_set, built.layout, np.random.default_rng(0)).draw(53)
    assert len(drawn) == 53


def test_an_alphabet_of_one_token_is_searched_too() -> None:
    task_set = TaskSet("one", ("a",), 2, Format(), (TableTask("same", (1,), {(0,): 0}),))
    built = two_layer(task_set, examples=3)
    assert built.error_bound is not None
    assert search(built, samples=5, dtype="float64").error <= built.error_bound + 1e-12
