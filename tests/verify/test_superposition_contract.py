"""A component's contract is found on its weights: levels, and whether it attends to its own example only."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.errors import TooLargeError
from construct.induction import InductionTask, induction_component, induction_error
from construct.prompts import Example, Layout, Prompt
from construct.superpose import superpose
from construct.superpose_component import Component
from construct.superpose_lift import LOST, in_context, sharpen
from construct.superpose_tables import table_component
from construct.tasks import TableTask
from construct.transformer import LayerWeights, TransformerWeights, forward
from tests.construct.strategies import table_tasks
from tests.construct.superposed import FunctionTask, deep_trained_network, median, mixed_digits, trained_network
from verify.superposition import prove_superposition
from verify.superposition_balls import ends
from verify.superposition_contract import prove_contract
from verify.superposition_outside import contexts

LAYOUT = Layout(5, 3, 4)
TRAINED = FunctionTask("trained", (0, 1, 2), mixed_digits)


def levels(component: Component, layout: Layout, prompts: int = 40, seed: int = 0) -> tuple[float, float]:
    """The largest output off the answer and the least at it, over every EQ of random prompts."""
    generator = np.random.default_rng(seed)
    low, high = -np.inf, np.inf
    for _ in range(prompts):
        rows = generator.integers(layout.alphabet_size, size=(layout.examples + 1, layout.inputs + 1)).tolist()
        prompt = Prompt(tuple(Example(tuple(row[:-1]), row[-1]) for row in rows[:-1]), tuple(rows[-1][:-1]))
        output = forward(component.weights, layout.ids(prompt)).output
        for index, row in enumerate(rows):
            at_eq, answer = output[layout.eq_position(index)], component.task.answer(row[:-1])
            low = max(low, float(np.delete(at_eq, [] if answer is None else [answer]).max()))
            high = min(high, np.inf if answer is None else float(at_eq[answer]))
    return low, high


def test_the_trained_networks_levels_are_proved_to_be_those_that_it_has_alone() -> None:
    single, layout = trained_network(), Layout(5, 3, 0)
    facts = prove_contract(in_context(single, LAYOUT), TRAINED, LAYOUT)
    low, high = -np.inf, np.inf
    for inputs in product(range(5), repeat=3):
        output = forward(single, layout.ids(Prompt((), inputs))).output[-1]
        high = min(high, output[mixed_digits(inputs)])
        low = max(low, np.delete(output, mixed_digits(inputs)).max())
    assert facts.inputs == 125
    assert facts.leak <= LOST
    assert low <= facts.low <= low + 1e-6
    assert high - 1e-6 <= facts.high <= high
    assert facts.low < 0.25 < 0.75 < facts.high  # the contract that the component states
    assert facts.high - facts.low <= facts.gap + 1e-6


def test_induction_keeps_the_contract_that_its_derivation_says() -> None:
    layout = Layout(5, 4, 3)
    component = induction_component(layout)
    facts = prove_contract(component.weights, component.task, layout)
    eta = induction_error(layout, 8.0)
    assert facts.low <= 2 * eta
    assert facts.high >= 1 - 2 * eta
    low, high = levels(component, layout)
    assert low <= facts.low
    assert facts.high <= high


@given(table_tasks("table", 3, 3), st.integers(1, 4))
@settings(max_examples=15)
def test_the_levels_of_random_tables_hold_on_random_prompts(task: TableTask, examples: int) -> None:
    layout = Layout(3, 3, examples)
    component = table_component(task, layout)
    facts = prove_contract(component.weights, task, layout)
    low, high = levels(component, layout, prompts=6)
    assert low <= facts.low <= 1e-6
    assert 1 - 1e-6 <= facts.high <= high


def test_inputs_that_a_task_does_not_read_are_not_run_through() -> None:
    layout = Layout(7, 12, 2)
    task = TableTask("one", (5,), {(token,): 0 for token in range(7)})
    facts = prove_contract(table_component(task, layout).weights, task, layout)
    assert facts.inputs == 7
    assert facts.high > 1 - 1e-6


def test_another_task_than_the_one_performed_has_no_contract() -> None:
    lifted = in_context(trained_network(), LAYOUT)
    facts = prove_contract(lifted, FunctionTask("other", (0, 1, 2), lambda inputs: inputs[0]), LAYOUT)
    assert facts.high < facts.low
    assert facts.gap < 0


def test_a_wrong_answer_on_a_single_input_is_found() -> None:
    lifted = in_context(trained_network(), LAYOUT)
    task = FunctionTask("once", (0, 1, 2), lambda x: 0 if x == (4, 2, 4) else mixed_digits(x))
    assert mixed_digits((4, 2, 4)) != 0
    facts = prove_contract(lifted, task, LAYOUT)
    assert facts.high < facts.low


def test_a_component_that_hears_other_examples_has_no_contract() -> None:
    heard = in_context(trained_network(), LAYOUT, locality=0.0)
    facts = prove_contract(heard, TRAINED, LAYOUT)
    assert facts.leak > 0.5
    assert facts.high < facts.low
    alone = Layout(5, 3, 0)  # with no other example there is nothing to hear
    assert prove_contract(in_context(trained_network(), alone, locality=0.0), TRAINED, alone).high > 0.75


def test_a_blunted_head_is_noticed() -> None:
    task = TableTask("one", (1,), {(token,): token for token in range(5)})
    weights = table_component(task, LAYOUT).weights
    (layer,) = weights.layers
    blunt = replace(layer.attention, query=layer.attention.query * np.float32(0.05))
    facts = prove_contract(replace(weights, layers=(LayerWeights(blunt, layer.mlp),)), task, LAYOUT)
    assert facts.high < 0.75


def test_unread_inputs_that_matter_are_noticed() -> None:
    facts = prove_contract(in_context(trained_network(), LAYOUT), FunctionTask("t", (0, 1), mixed_of_two), LAYOUT)
    assert facts.high < facts.low


def mixed_of_two(inputs: tuple[int, ...]) -> int:
    return inputs[0]


def test_sharpening_by_the_proved_gap_gives_levels_0_and_1() -> None:
    lifted = in_context(trained_network(), LAYOUT)
    gap = prove_contract(lifted, TRAINED, LAYOUT).gap
    facts = prove_contract(sharpen(lifted, gap), TRAINED, LAYOUT)
    assert facts.low <= 1e-9
    assert facts.high >= 1 - 1e-9


def test_two_trained_layers_are_proved_local_from_the_states_that_occur() -> None:
    task = FunctionTask("median", (0, 1, 2), median)
    lifted = in_context(deep_trained_network(), LAYOUT, locality=512.0)
    facts = prove_contract(lifted, task, LAYOUT)
    assert facts.leak < 1e-12
    assert facts.low < facts.high
    low, high = levels(Component(task, lifted), LAYOUT)
    assert low <= facts.low
    assert facts.high <= high
    parts = [Component(task, lifted, facts.low, facts.high), induction_component(LAYOUT)]
    proof = prove_superposition(superpose(parts, LAYOUT).construction(alphabet="abcde"))
    assert proof.real is not None
    assert proof.real < 1e-6
    deaf = in_context(deep_trained_network(), LAYOUT, locality=8.0)
    assert prove_contract(deaf, task, LAYOUT).high < 0  # too little: no contract follows


def test_logits_of_two_trained_layers_that_no_threshold_parts_are_sharpened_by_their_proved_gap() -> None:
    task = FunctionTask("median", (0, 1, 2), median)
    lifted = in_context(deep_trained_network("entropy"), LAYOUT, locality=2048.0)
    facts = prove_contract(lifted, task, LAYOUT)
    assert facts.high < facts.low
    assert facts.gap > 1
    sharp = prove_contract(sharpen(lifted, facts.gap), task, LAYOUT)
    # The contract that `Component` states. Ball arithmetic cannot cancel the two units of a step, so the proved levels
    # are a little off the 0 and 1 that they are.
    assert sharp.low <= 0.25
    assert sharp.high >= 0.75


def test_contexts_hold_the_stream_of_random_prompts() -> None:
    layout = Layout(5, 4, 3)
    weights: TransformerWeights = induction_component(layout).weights
    boxes, generator = contexts(weights, layout), np.random.default_rng(0)
    for _ in range(10):
        rows = generator.integers(5, size=(4, 5)).tolist()
        prompt = Prompt(tuple(Example(tuple(row[:4]), row[4]) for row in rows[:3]), tuple(rows[3][:4]))
        ids = layout.ids(prompt)
        trace = forward(weights, ids)
        for box, stream in zip(boxes, (trace.embedded, *trace.after_mlp), strict=True):
            low, high = ends(box)
            for position, token in enumerate(ids):
                row = low[position, token % 5], high[position, token % 5]  # BOS and EQ have the same box at all tokens
                # The forward pass rounds too: sums of numbers below 100.
                assert (row[0] - 1e-10 <= stream[position]).all()
                assert (stream[position] <= row[1] + 1e-10).all()


def test_too_many_inputs_are_refused_before_the_attempt() -> None:
    layout = Layout(5, 4, 1)
    with pytest.raises(TooLargeError, match="assume its contract"):
        prove_contract(induction_component(layout).weights, InductionTask(4), layout, limit=624)
