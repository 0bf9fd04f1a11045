"""The induction component: the input after the first input's next occurrence, and silence where there is none."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.errors import InputError, TaskError
from construct.induction import InductionTask, induction_component, induction_error
from construct.prompts import Example, Layout, Prompt
from construct.transformer import forward


@pytest.mark.parametrize(
    ("letters", "answer"),
    [
        ("bacbd", "d"),
        ("bbacd", "a"),  # the next occurrence may follow at once
        ("bcbab", "a"),  # the last b has nothing after it; the first other one counts
        ("bcbbd", "b"),
        ("bacdb", None),
        ("bacde", None),
        ("bbbbb", "b"),
        ("acbcb", None),  # another input's repetition is not the first one's
    ],
)
def test_the_task_is_what_its_definition_says(letters: str, answer: str | None) -> None:
    found = InductionTask(5).answer(["abcde".index(letter) for letter in letters])
    assert found == (None if answer is None else "abcde".index(answer))


def deviation(layout: Layout, sharpness: float, prompt: Prompt) -> float:
    """The largest entry, over the EQs, of the component's output less the code of the answer."""
    component = induction_component(layout, sharpness=sharpness)
    output = forward(component.weights, layout.ids(prompt)).output
    worst = 0.0
    for seen, inputs in enumerate([example.inputs for example in prompt.examples] + [prompt.query]):
        expected = np.zeros(layout.alphabet_size)
        # Another way to say the task than InductionTask.answer: cut the text at the second occurrence.
        tail = inputs[1:-1]
        if inputs[0] in tail:
            expected[inputs[2 + tail.index(inputs[0])]] = 1.0
        worst = max(worst, float(np.abs(output[layout.eq_position(seen)] - expected).max()))
    return worst


@st.composite
def prompts(draw: st.DrawFn) -> tuple[Layout, Prompt]:
    layout = Layout(draw(st.sampled_from([1, 2, 3, 5, 7])), draw(st.integers(3, 6)), draw(st.integers(1, 6)))
    token = st.integers(0, layout.alphabet_size - 1)
    inputs = st.tuples(*[token] * layout.inputs)
    shown = draw(st.integers(0, layout.examples))
    return layout, Prompt(tuple(Example(draw(inputs), draw(token)) for _ in range(shown)), draw(inputs))


@given(prompts(), st.sampled_from([4.0, 5.0, 8.0]))
@settings(max_examples=60)
def test_the_output_is_one_hot_within_its_derived_error_after_any_examples(
    drawn: tuple[Layout, Prompt], sharpness: float
) -> None:
    layout, prompt = drawn
    # 2^-40 covers the float64 rounding of sums of fewer than 60 numbers below 1000.
    assert deviation(layout, sharpness, prompt) <= induction_error(layout, sharpness) + 2.0**-40


def test_all_inputs_of_a_small_alphabet_are_right_and_the_error_is_no_gross_overestimate() -> None:
    layout, sharpness = Layout(3, 5, 1), 4.0
    worst = max(deviation(layout, sharpness, Prompt((), inputs)) for inputs in product(range(3), repeat=layout.inputs))
    assert worst <= induction_error(layout, sharpness) <= 3 * worst


def test_it_has_two_layers_of_one_head_and_no_hidden_unit() -> None:
    component = induction_component(Layout(5, 4, 7))
    assert component.weights.heads == [1, 1]
    assert component.weights.mlp_width == [0, 0]
    assert component.depth == 2


def test_one_layer_of_it_does_not_do() -> None:
    layout = Layout(5, 4, 2)
    weights = induction_component(layout).weights
    first = type(weights)(weights.token_embedding, weights.position_embedding, weights.layers[:1], weights.unembedding)
    output = forward(first, layout.ids(Prompt((), (0, 0, 3, 1)))).output[-1]
    assert np.abs(output - np.eye(5)[3]).max() >= 0.5


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(TaskError, match="at least 3"):
        induction_component(Layout(5, 2, 1))
    with pytest.raises(InputError, match="sharpness"):
        induction_component(Layout(5, 4, 1), sharpness=0.5)
