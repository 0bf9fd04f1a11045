"""Exhaustion against the plain forward pass and the exact oracle, prompt by prompt."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.errors import TooLargeError
from construct.oracle import answer
from construct.prompts import Example, Layout, Prompt
from construct.sparse import Sparse
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, Task, TaskSet
from construct.theorems import Construction, two_layer
from construct.transformer import forward
from verify import exhaustive
from verify.exhaustive import Exhauster, exhaust, mixture, prompts_count, task_answers

TERMS = 64
"""No sum in the models of this file has more terms, so that a sum is off by at most TERMS * Worst.rounding."""


@st.composite
def task_sets(draw: st.DrawFn, *, largest_alphabet: int = 7, largest_inputs: int = 3) -> TaskSet:
    size = draw(st.integers(1, largest_alphabet))
    n = draw(st.integers(1, largest_inputs))
    token = st.integers(0, size - 1)

    def task(number: int) -> Task:
        positions = tuple(draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True)))
        if draw(st.booleans()):
            key = st.tuples(*[token] * len(positions))
            rows = draw(st.dictionaries(key, token, min_size=1, max_size=size ** len(positions)))
            return TableTask(f"task{number}", positions, rows)
        values = draw(st.dictionaries(token, st.integers(-2, 3), min_size=1))
        rows_of_sums = draw(st.dictionaries(st.integers(-3, 5), token, min_size=1))
        return SumTask(f"task{number}", positions, values, rows_of_sums)

    tasks = tuple(task(number) for number in range(draw(st.integers(1, 3))))
    return TaskSet("drawn", tuple(f"t{index}" for index in range(size)), n, Format(), tasks)


def sum_and_table() -> TaskSet:
    """One sum of two positions, in which one token of three has no value, beside a partial table."""
    total = SumTask("sum", (0, 1), {0: -1, 2: 1}, {0: 1, 2: 0})
    table = TableTask("table", (1,), {(0,): 1, (1,): 1})
    return TaskSet("sum and table", ("a", "b", "c"), 2, Format(), (total, table))


def two_reads() -> TaskSet:
    table = TableTask("table", (1, 0), {(0, 1): 1, (1, 1): 0, (1, 0): 1})
    other = TableTask("other", (0,), {(0,): 0, (1,): 1})
    return TaskSet("two reads", ("a", "b"), 2, Format(), (table, other))


def every_prompt(layout: Layout) -> Iterator[Prompt]:
    tokens, n = range(layout.alphabet_size), layout.inputs
    examples = [Example(slots[:n], slots[n]) for slots in product(tokens, repeat=n + 1)]
    for shown in range(layout.examples + 1):
        for chosen in product(examples, repeat=shown):
            for query in product(tokens, repeat=n):
                yield Prompt(chosen, query)


def plain_error(construction: Construction, prompt: Prompt) -> float:
    output = forward(construction.weights, construction.layout.ids(prompt)).output[-1]
    target = np.zeros(construction.layout.alphabet_size)
    for token, weight in answer(construction.task_set, prompt).target.items():
        target[token] = float(weight)
    return float(np.abs(output - target).sum())


def with_noise(construction: Construction, size: float, seed: int) -> Construction:
    """Every entry shifted at random, by multiples of 2^-10: weights that have no structure left to agree by."""
    generator = np.random.default_rng(seed)

    def shifted(tensor: np.ndarray) -> np.ndarray:
        noise = size * generator.standard_normal(tensor.shape)
        return (tensor + np.round(noise * 2**10) / 2**10).astype(np.float32)

    def sparse_shifted(matrix: Sparse) -> Sparse:
        return Sparse(shifted(matrix.toarray()))

    weights = construction.weights
    layers = [
        replace(
            layer,
            attention=type(layer.attention)(**{name: shifted(part) for name, part in vars(layer.attention).items()}),
            mlp=type(layer.mlp)(
                sparse_shifted(layer.mlp.w_in),
                shifted(layer.mlp.bias_in),
                sparse_shifted(layer.mlp.w_out),
                shifted(layer.mlp.bias_out),
            ),
        )
        for layer in weights.layers
    ]
    noisy = replace(
        weights,
        token_embedding=sparse_shifted(weights.token_embedding),
        position_embedding=sparse_shifted(weights.position_embedding),
        layers=tuple(layers),
        unembedding=sparse_shifted(weights.unembedding),
    )
    return replace(construction, weights=noisy)


TINY = [
    pytest.param(build_suite("lookup", tasks=2, alphabet_size=3, inputs=1), 2, id="V=3 n=1 m=2"),
    pytest.param(two_reads(), 1, id="V=2 n=2 m=1"),
    pytest.param(sum_and_table(), 1, id="sum"),
]


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize(("task_set", "examples"), TINY)
def test_every_prompt_run_by_itself_gives_the_same_worst_error(task_set: TaskSet, examples: int, noise: float) -> None:
    built = with_noise(two_layer(task_set, examples=examples, sharpness=3), noise, seed=11)
    by_examples = [0.0] * (examples + 1)
    count = 0
    for prompt in every_prompt(built.layout):
        count += 1
        shown = len(prompt.examples)
        by_examples[shown] = max(by_examples[shown], plain_error(built, prompt))
    worst = exhaust(built)
    assert worst.prompts == prompts_count(built) == count
    tolerance = TERMS * worst.rounding
    assert tolerance < 1e-9
    assert worst.by_examples == pytest.approx(by_examples, abs=tolerance)
    assert worst.error == max(worst.by_examples)
    assert plain_error(built, worst.prompt) == pytest.approx(worst.error, abs=tolerance)


@given(st.data())
@settings(max_examples=25)
def test_the_answer_at_an_earlier_eq_is_that_to_the_shorter_prompt(data: st.DataObject) -> None:
    built = with_noise(two_layer(two_reads(), examples=3, sharpness=3), 0.1, seed=3)
    n, layout = 2, built.layout
    token = st.integers(0, 1)
    example = st.builds(Example, st.tuples(token, token), token)
    prompt = Prompt(tuple(data.draw(st.lists(example, min_size=3, max_size=3))), data.draw(st.tuples(token, token)))
    output = forward(built.weights, layout.ids(prompt)).output
    for shown, query in enumerate(example.inputs for example in prompt.examples):
        shorter = layout.ids(Prompt(prompt.examples[:shown], query))
        assert len(shorter) == layout.eq_position(shown) + 1 == (shown + 1) * (n + 2)
        alone = forward(built.weights, shorter).output[-1]
        # Both are sums of the same terms of size below 2^10, of which there are at most TERMS.
        assert output[layout.eq_position(shown)] == pytest.approx(alone, abs=TERMS * 2.0**-42)


def test_the_number_of_prompts_is_that_of_the_formula() -> None:
    built = two_layer(build_suite("lookup", tasks=2, alphabet_size=3, inputs=2), examples=2)
    assert prompts_count(built) == 3**2 + 3**5 + 3**8 == 6813


def test_more_prompts_than_the_limit_are_refused_with_their_number() -> None:
    built = two_layer(build_suite("retrieval", tasks=3, alphabet_size=5, inputs=3), examples=7)
    assert prompts_count(built) == sum(5 ** (4 * shown + 3) for shown in range(8))
    with pytest.raises(TooLargeError, match=r"4\.66e\+21 prompts .* 7 examples.* 2,000,000"):
        exhaust(built)
    small = two_layer(build_suite("lookup", tasks=2, alphabet_size=3, inputs=1), examples=2)
    with pytest.raises(TooLargeError, match=r"273 prompts .* limit is 272"):
        exhaust(small, limit=272)
    assert exhaust(small, limit=273).prompts == 273


@given(task_sets(), st.data())
def test_the_vectorised_answers_are_those_of_the_tasks(task_set: TaskSet, data: st.DataObject) -> None:
    row = st.lists(st.integers(0, len(task_set.alphabet) - 1), min_size=task_set.inputs, max_size=task_set.inputs)
    rows = data.draw(st.lists(row, min_size=1, max_size=30))
    expected = [[-1 if (out := task.answer(inputs)) is None else out for task in task_set.tasks] for inputs in rows]
    assert task_answers(task_set, np.array(rows)).tolist() == expected
    assert task_answers(task_set, np.array([rows])).tolist() == [expected]


def test_a_table_of_many_reads_has_no_room_to_overflow() -> None:
    n, size = 11, 1009  # 1009^11 keys are possible
    generator = np.random.default_rng(5)
    keys = generator.integers(size, size=(60, n))
    rows = {tuple(key): int(generator.integers(size)) for key in keys.tolist()}
    order = tuple(generator.permutation(n).tolist())
    tasks = (TableTask("wide", order, rows),)
    task_set = TaskSet("wide", tuple(f"t{index}" for index in range(size)), n, Format(), tasks)
    inputs = np.zeros_like(keys)
    inputs[:, order] = keys
    near = inputs.copy()
    near[:, 4] = (near[:, 4] + 1) % size
    assert task_answers(task_set, inputs)[:, 0].tolist() == list(rows.values())
    assert set(task_answers(task_set, near)[:, 0].tolist()) == {-1}


@given(task_sets(largest_alphabet=3, largest_inputs=2))
@settings(max_examples=30)
def test_the_targets_are_those_of_the_oracle_on_every_prompt(task_set: TaskSet) -> None:
    layout = Layout(len(task_set.alphabet), task_set.inputs, 1)
    rows = {}
    batch = exhaustive._Batch(task_set, layout, exhaustive._all_choices(layout))
    for row, target in enumerate(batch.targets):
        rows[batch.prompt(row)] = target
    assert set(rows) == set(every_prompt(layout))
    for prompt, target in rows.items():
        exact = answer(task_set, prompt).target
        assert target.tolist() == [float(exact.get(token, 0)) for token in range(layout.alphabet_size)]


def test_the_mixture_is_rounded_once() -> None:
    answers, counts = np.array([[1, 1, -1], [0, 2, 0]]), np.array([[1, 3, 7], [1, 1, 1]])
    assert mixture(answers, counts, np.array([7, 3]), 3).tolist() == [[0, 4 / 7, 0], [2 / 3, 0, 1 / 3]]


@given(task_sets(largest_alphabet=3, largest_inputs=2), st.sampled_from([4.0, 5.5, 8.0]))
@settings(max_examples=30)
def test_no_prompt_passes_the_bound_in_closed_form(task_set: TaskSet, sharpness: float) -> None:
    built = two_layer(task_set, examples=1, sharpness=sharpness)
    if built.error_bound is not None:
        worst = exhaust(built)
        assert worst.error <= built.error_bound + TERMS * worst.rounding


@pytest.mark.parametrize("size", [1, 2**10, 2**12])
def test_the_size_of_batches_changes_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    built = two_layer(build_suite("lookup", tasks=2, alphabet_size=3, inputs=1), examples=2, sharpness=3)
    whole = exhaust(built)
    monkeypatch.setattr(exhaustive, "BATCH_BYTES", size)
    monkeypatch.setattr(exhaustive, "DENSE_ENTRIES", 0)
    shares: list[float] = []
    parts = exhaust(built, progress=shares.append)
    assert parts.prompts == whole.prompts
    assert parts.by_examples == pytest.approx(whole.by_examples, abs=TERMS * whole.rounding)
    assert plain_error(built, parts.prompt) == pytest.approx(whole.error, abs=TERMS * whole.rounding)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) >= 3


def test_one_exhauster_judges_many_weights() -> None:
    built = two_layer(sum_and_table(), examples=1, sharpness=4)
    exhauster = Exhauster(built.task_set, built.layout)
    for seed in range(3):
        noisy = with_noise(built, 0.02, seed)
        assert exhauster.worst(noisy.weights) == exhaust(noisy)


def without_answer_row(construction: Construction, unit: int) -> Construction:
    """The output of one row of the answers removed."""
    first, last = construction.weights.layers
    w_out = last.mlp.w_out.tolil()
    w_out[unit] = 0
    mlp = replace(last.mlp, w_out=w_out.tocsr())
    weights = replace(construction.weights, layers=(first, replace(last, mlp=mlp)))
    return replace(construction, weights=weights)


def test_a_row_that_is_missing_is_found() -> None:
    built = two_layer(build_suite("lookup", tasks=2, alphabet_size=3, inputs=1), examples=2)
    assert built.error_bound is not None
    for unit in range(6):
        worst = exhaust(without_answer_row(built, unit))
        # Where all examples are consistent with the task, its whole weight 1 is missing.
        assert worst.error == pytest.approx(1, abs=built.error_bound)
        task, row = divmod(unit, 3)
        assert worst.prompt.query == (row,)
        assert all(built.task_set.tasks[task].answer(ex.inputs) == ex.answer for ex in worst.prompt.examples)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_infinitely_wrong(value: float) -> None:
    built = two_layer(build_suite("lookup", tasks=2, alphabet_size=3, inputs=1), examples=2)
    embedding = built.weights.position_embedding.copy()
    embedding.data[3] = value
    broken = replace(built, weights=replace(built.weights, position_embedding=embedding))
    worst = exhaust(broken)
    assert worst.error == math.inf
    assert worst.rounding == math.inf


def test_huge_weights_are_said_to_be_beyond_float64() -> None:
    built = two_layer(build_suite("lookup", tasks=2, alphabet_size=3, inputs=1), examples=2)
    assert exhaust(built).rounding < 1e-12
    embedding = built.weights.position_embedding.copy()
    embedding.data[3] = 2.0**60
    assert exhaust(replace(built, weights=replace(built.weights, position_embedding=embedding))).rounding > 1


def test_an_alphabet_of_one_token_has_one_prompt_a_length() -> None:
    task_set = TaskSet("one", ("a",), 2, Format(), (TableTask("same", (1,), {(0,): 0}),))
    built = two_layer(task_set, examples=3)
    worst = exhaust(built)
    assert worst.prompts == 4
    assert built.error_bound is not None
    assert worst.error <= built.error_bound + TERMS * worst.rounding
