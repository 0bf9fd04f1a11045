"""The relay: any number of tasks that read one input each, by 2 + 1 + 1 heads."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.errors import InputError, TaskError
from construct.few_heads import bound, few_heads, leaks
from construct.oracle import curve
from construct.prompts import Example, Prompt
from construct.residual_stream import code_length
from construct.suites import build_suite
from construct.tasks import Format, TableTask, TaskSet
from construct.theorems import Construction
from construct.torch_model import TorchTransformer
from construct.transformer import forward


def largest_error(construction: Construction, prompt: Prompt, output: np.ndarray) -> float:
    """The largest |q_hat - q|_1 over the EQs of a prompt; `output` has shape [length, V]."""
    worst = 0.0
    for index, exact in enumerate(curve(construction.task_set, prompt)):
        q = np.zeros(construction.layout.alphabet_size)
        for token, weight in exact.target.items():
            q[token] = float(weight)
        worst = max(worst, float(np.abs(output[construction.layout.eq_position(index)] - q).sum()))
    return worst


def plain_error(construction: Construction, prompt: Prompt) -> float:
    return largest_error(construction, prompt, forward(construction.weights, construction.layout.ids(prompt)).output)


@st.composite
def cases(draw: st.DrawFn) -> tuple[TaskSet, int, Prompt]:
    """1 to 5 tables of one input, total or partial, and a prompt with examples that tasks do and do not explain."""
    size, n, m = draw(st.sampled_from([1, 2, 3, 5, 7])), draw(st.integers(1, 5)), draw(st.integers(1, 8))
    tokens = st.integers(0, size - 1)
    tasks = []
    for index in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, n - 1))
        rows = draw(st.dictionaries(tokens, tokens, min_size=1))
        tasks.append(TableTask(f"t{index}", (place,), {(token,): answer for token, answer in rows.items()}))
    inputs = st.tuples(*[tokens] * n)
    examples = []
    for _ in range(draw(st.integers(0, m))):
        x = draw(inputs)
        answer = draw(st.sampled_from(tasks)).answer(x)
        examples.append(Example(x, answer if answer is not None and draw(st.booleans()) else draw(tokens)))
    task_set = TaskSet("drawn", tuple("abcdefg"[:size]), n, Format(" ", "->"), tuple(tasks))
    return task_set, m, Prompt(tuple(examples), draw(inputs))


# At these sharpnesses the bound is above 1e-5, far above the rounding of float64.
@given(cases(), st.sampled_from([2.5, 3.0, 4.0]))
@settings(max_examples=80)
def test_every_answer_is_within_the_bound(case: tuple[TaskSet, int, Prompt], sharpness: float) -> None:
    task_set, m, prompt = case
    construction = few_heads(task_set, examples=m, sharpness=sharpness)
    assert construction.error_bound is not None
    assert plain_error(construction, prompt) <= construction.error_bound


def test_every_prompt_of_a_small_model_is_within_the_bound() -> None:
    task_set = build_suite("lookup", tasks=3, alphabet_size=2, inputs=2)
    construction = few_heads(task_set, examples=2, sharpness=3.0)
    inputs = list(itertools.product(range(2), repeat=2))
    shown = [Example(x, y) for x in inputs for y in range(2)]
    prompts = [
        Prompt(examples, query)
        for count in range(3)
        for examples in itertools.product(shown, repeat=count)
        for query in inputs
    ]
    assert len(prompts) == 4 * (1 + 8 + 64)
    worst = max(plain_error(construction, prompt) for prompt in prompts)
    assert construction.error_bound is not None
    assert construction.error_bound / 20 < worst <= construction.error_bound


@pytest.mark.parametrize(("tasks", "inputs"), [(1, 1), (5, 3), (64, 1), (13, 29), (128, 128)])
def test_the_heads_do_not_grow_with_the_tasks_or_the_inputs(tasks: int, inputs: int) -> None:
    task_set = build_suite("lookup", tasks=tasks, alphabet_size=7, inputs=inputs)
    construction = few_heads(task_set, examples=11)
    assert construction.weights.heads == [2, 1, 1]
    assert construction.weights.mlp_width == [7 * tasks, 7 * tasks, 0]
    bits = 2 * code_length(12) + code_length(inputs) + 2 * code_length(7)
    assert construction.weights.d_model == 2 * 7 + 5 + bits + 2 * -(-tasks // inputs)
    assert construction.error_bound is not None
    assert construction.error_bound <= 1e-6


def test_128_retrievals_are_answered_in_float32_by_four_heads() -> None:
    n, m, generator = 128, 5, np.random.default_rng(3)
    task_set = build_suite("retrieval", tasks=n, alphabet_size=11, inputs=n)
    construction = few_heads(task_set, examples=m)
    examples = []
    for _ in range(m):
        x = tuple(generator.integers(11, size=n).tolist())
        examples.append(Example(x, x[int(generator.integers(n))]))
    prompt = Prompt(tuple(examples), tuple(generator.integers(11, size=n).tolist()))
    ids = torch.tensor([construction.layout.ids(prompt)])
    found = TorchTransformer(construction.weights, dtype="float32")(ids).answer[0].double().numpy()
    # Sums of K weights of up to T terms, each rounded: T K 2^-24, on top of the bound in real arithmetic.
    rounding = construction.layout.positions * n * 2.0**-24
    assert construction.error_bound is not None
    assert largest_error(construction, prompt, found) <= construction.error_bound + rounding


@given(st.integers(1, 200), st.integers(1, 40), st.sampled_from([1.0, 2.0, 6.0]))
def test_the_leaks_are_shares_that_fall_with_the_sharpness(examples: int, inputs: int, sharpness: float) -> None:
    task_set = build_suite("retrieval", tasks=1, alphabet_size=3, inputs=inputs)
    layout = few_heads(task_set, examples=examples).layout
    dull, sharp = (vars(leaks(layout, value)) for value in (sharpness, sharpness + 1))
    for name, leak in dull.items():
        assert 0 < sharp[name] < leak < 1


def test_no_bound_is_claimed_where_the_reads_are_too_dull() -> None:
    task_set = build_suite("retrieval", tasks=2, alphabet_size=3, inputs=2)
    construction = few_heads(task_set, examples=7, sharpness=0.25)
    assert construction.error_bound is None
    assert bound(tuple(t for t in task_set.tasks if isinstance(t, TableTask)), construction.layout, 0.25) is None


def test_a_model_without_the_look_at_the_answer_is_wrong() -> None:
    task_set = build_suite("retrieval", tasks=1, alphabet_size=2, inputs=1)
    construction = few_heads(task_set, examples=2, sharpness=8.0)
    construction.weights.layers[0].attention.value[1] = 0.0
    prompt = Prompt((Example((0,), 0), Example((1,), 0)), (1,))
    assert construction.error_bound is not None
    assert plain_error(construction, prompt) > 0.4


def test_what_it_cannot_build_is_refused() -> None:
    with pytest.raises(TaskError, match="reads several inputs"):
        few_heads(build_suite("copy_add"), examples=3)
    single = build_suite("retrieval", tasks=1, alphabet_size=2, inputs=1)
    with pytest.raises(TaskError, match="examples is 0"):
        few_heads(single, examples=0)
    with pytest.raises(InputError, match="error wanted is 2"):
        few_heads(single, examples=1, error=2.0)
