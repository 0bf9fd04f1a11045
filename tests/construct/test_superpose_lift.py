"""Components made of transformers that were not built as such: lifted to many examples, and sharpened."""

from dataclasses import replace

import numpy as np
import pytest

from construct.errors import TaskError
from construct.prompts import Example, Layout, Prompt
from construct.superpose_component import Component, magnitudes, reach
from construct.superpose_lift import LOST, in_context, sharpen
from construct.transformer import TransformerWeights, forward
from tests.construct.superposed import mixed_digits, trained_network

LAYOUT = Layout(5, 3, 7)
SINGLE = Layout(5, 3, 0)


def random_prompt(seed: int) -> Prompt:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(5, size=(8, 4)).tolist()
    return Prompt(tuple(Example(tuple(row[:3]), row[3]) for row in tokens[:7]), tuple(tokens[7][:3]))


def alone(inputs: tuple[int, ...]) -> np.ndarray:
    return forward(trained_network(), SINGLE.ids(Prompt((), inputs))).output[-1]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_lifted_network_answers_every_example_as_it_does_alone(seed: int) -> None:
    lifted = in_context(trained_network(), LAYOUT)
    prompt = random_prompt(seed)
    output = forward(lifted, LAYOUT.ids(prompt)).output
    for index, inputs in enumerate([example.inputs for example in prompt.examples] + [prompt.query]):
        # The leak moves the stream by at most LOST times a few thousand, as does the rounding of float64.
        assert np.abs(output[LAYOUT.eq_position(index)] - alone(inputs)).max() <= 1e5 * LOST


def test_without_locality_other_examples_would_be_heard() -> None:
    lifted = in_context(trained_network(), LAYOUT, locality=0.0)
    prompt = random_prompt(0)
    output = forward(lifted, LAYOUT.ids(prompt)).output[-1]
    assert np.abs(output - alone(prompt.query)).max() > 0.1


def test_the_trained_network_alone_has_learnt_its_task() -> None:
    for inputs in ((0, 3, 4), (2, 0, 2), (4, 4, 4)):
        assert int(alone(inputs).argmax()) == mixed_digits(inputs)


def test_lifting_adds_a_code_and_two_flags_and_no_layer() -> None:
    single = trained_network()
    lifted = in_context(single, LAYOUT)
    assert lifted.d_model == single.d_model + 3 + 2
    assert len(lifted.layers) == len(single.layers)
    assert lifted.mlp_width == single.mlp_width


def test_magnitudes_bound_every_position_of_random_sequences() -> None:
    lifted = in_context(trained_network(), LAYOUT)
    bounds, generator = magnitudes(lifted), np.random.default_rng(4)
    for _ in range(5):
        trace = forward(lifted, generator.integers(7, size=LAYOUT.positions).tolist())
        assert (np.abs(trace.embedded) <= bounds[0]).all()
        assert (np.abs(trace.after_mlp[0]) <= bounds[1]).all()
        assert np.abs(trace.output).max() <= reach(lifted)


def logits(scale: float, lift: float) -> TransformerWeights:
    """The trained network with its outputs scaled, and shifted alike at every token by what one coordinate holds."""
    single = trained_network()
    unembedding = (single.unembedding * np.float32(scale)).toarray()
    unembedding[0] += lift
    places = np.nonzero(unembedding)
    return replace(single, unembedding=type(single.unembedding)((unembedding[places], places), shape=(16, 5)))


def test_sharpened_logits_are_1_at_the_largest_and_at_most_0_elsewhere() -> None:
    raw = logits(0.05, 3.0)
    outputs = [forward(raw, SINGLE.ids(Prompt((), (a, 1, b)))).output[-1] for a in range(5) for b in range(5)]
    ordered = np.sort(np.array(outputs), axis=1)
    gap = float((ordered[:, -1] - ordered[:, -2]).min())
    assert ordered[:, -1].min() < ordered[:, -2].max()  # no threshold parts these logits
    sharp = sharpen(raw, gap * 0.99)
    for a in range(5):
        for b in range(5):
            output = forward(sharp, SINGLE.ids(Prompt((), (a, 1, b)))).output[-1]
            answer = mixed_digits((a, 1, b))
            # 2 V units, each off by float64 rounding of numbers below 1/gap times 100.
            assert output[answer] == pytest.approx(1.0, abs=1e-12 / gap)
            assert np.delete(output, answer).max() <= 1e-12 / gap


def test_sharpening_adds_a_layer_without_heads() -> None:
    sharp = sharpen(trained_network(), 0.5)
    assert sharp.heads == [2, 0]
    assert sharp.mlp_width == [48, 2 * 5 * 4]
    assert Component(_Task(), sharp).depth == 2


class _Task:
    name, reads = "any", (0,)

    def answer(self, inputs: object) -> int:
        return 0


def test_what_cannot_be_lifted_or_sharpened_is_refused() -> None:
    with pytest.raises(TaskError, match="7 tokens and 5 positions"):
        in_context(trained_network(), Layout(5, 4, 7))
    large = replace(trained_network(), token_embedding=trained_network().token_embedding * np.float32(1e3))
    with pytest.raises(TaskError, match="give a smaller one by hand"):
        in_context(large, LAYOUT)
    for gap in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(TaskError, match="gap"):
            sharpen(trained_network(), gap)
