"""Composition: any components that keep their contracts run in superposition, in two layers more than the deepest."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.artifact import load, save
from construct.errors import InputError, TaskError, TooLargeError
from construct.induction import induction_component
from construct.oracle import curve
from construct.prompts import Example, Layout, Prompt
from construct.residual_stream import code_length
from construct.superpose import Superposition, superpose, superposed_answer
from construct.superpose_component import Component, as_table
from construct.superpose_tables import table_component
from construct.tasks import Format, SumTask, TableTask
from construct.torch_model import TorchTransformer
from construct.transformer import forward
from tests.construct.comparison import exact_answers
from tests.construct.conftest import Command
from tests.construct.strategies import Case, cases, task_sets
from tests.construct.superposed import (
    FunctionTask,
    allowance,
    error,
    exact_outputs,
    four_components,
    plain_outputs,
    random_prompt,
    torch_outputs,
)

LAYOUT = Layout(5, 3, 7)


@pytest.fixture(scope="module")
def components() -> list[Component]:
    return four_components(LAYOUT)


@pytest.fixture(scope="module")
def mixed(components: list[Component]) -> Superposition:
    return superpose(components, LAYOUT)


def small_cases() -> st.SearchStrategy[Case]:
    return cases(task_sets(st.sampled_from([2, 3, 5]), most_inputs=4), most_examples=5)


@given(small_cases())
@settings(max_examples=25)
def test_random_tables_and_sums_answer_as_the_oracle_of_task_sets_does(case: Case) -> None:
    layout = Layout(len(case.task_set.alphabet), case.task_set.inputs, case.examples)
    parts = [table_component(task, layout) for task in case.task_set.tasks]
    if layout.inputs >= 3:
        parts.append(induction_component(layout))
    built = superpose(parts, layout)
    construction = built.construction(alphabet=case.task_set.alphabet, written=case.task_set.format)
    found = plain_outputs(built, case.prompt)
    assert error(found, exact_answers(construction, case.prompt).output) <= built.error_bound + allowance(
        parts, layout, 2.0**-53
    )


@pytest.mark.parametrize("shown", [0, 1, 2, 7])
def test_induction_tables_a_sum_and_a_trained_network_answer_together(
    components: list[Component], mixed: Superposition, shown: int
) -> None:
    generator = np.random.default_rng(shown)
    allowed = mixed.error_bound + allowance(components, LAYOUT, 2.0**-53)
    for _ in range(15):
        prompt = random_prompt(components, LAYOUT, shown, generator)
        assert error(plain_outputs(mixed, prompt), exact_outputs(components, LAYOUT, prompt)) <= allowed


def test_a_longer_mixture_answers_in_float32_too() -> None:
    layout = Layout(5, 3, 29)
    parts = four_components(layout)
    built = superpose(parts, layout)
    model, generator = TorchTransformer(built.weights), np.random.default_rng(1)
    allowed = built.error_bound + allowance(parts, layout, 2.0**-24)
    # The allowance counts the trained network's largest conceivable output; it is still far below a weight, 1/29.
    assert allowed < 1 / 29
    for _ in range(8):
        prompt = random_prompt(parts, layout, 29, generator)
        assert error(torch_outputs(built, prompt, model), exact_outputs(parts, layout, prompt)) <= allowed


def test_the_answer_has_weights_of_every_kind_of_component(components: list[Component], mixed: Superposition) -> None:
    inputs = (1, 1, 4)
    answers = [component.task.answer(inputs) for component in components]
    assert answers[0] == 4  # induction: what follows the second 1
    assert answers[2] == 0  # (1 + 4) mod 5
    assert answers[3] == 4  # (1 + 2 * 4) mod 5
    prompt = Prompt((Example((2, 2, 3), 3), Example((0, 1, 4), 4)), inputs)
    evidence, target = superposed_answer(components, prompt)
    # (2, 2, 3) -> 3: induction and the trained network's (2 + 6) mod 5; (0, 1, 4) -> 4: the sum, and induction not.
    assert evidence[0] == Fraction(1, 2)
    assert evidence[2] == Fraction(1, 2)
    assert evidence[3] == Fraction(1, 2)
    assert target[4] >= 1
    assert error(
        plain_outputs(mixed, prompt), exact_outputs(components, LAYOUT, prompt)
    ) <= mixed.error_bound + allowance(components, LAYOUT, 2.0**-53)


def test_there_are_two_layers_more_than_the_deepest_component_has(
    components: list[Component], mixed: Superposition
) -> None:
    assert [component.depth for component in components] == [2, 1, 2, 1]
    assert len(mixed.weights.layers) == 4
    assert mixed.weights.heads == [1 + 2 + 1 + 2, 1, 1, 1]  # one head averages the two inputs of the sum
    units = mixed.weights.mlp_width
    assert units[2:] == [2 * 4 * 5, 2 * 4 * 5]
    own = sum(component.weights.d_model for component in components)
    assert mixed.weights.d_model == own + 5 + 3 + code_length(8) + 4 * 5 + 4


def test_a_component_runs_in_its_block_as_it_does_alone(components: list[Component], mixed: Superposition) -> None:
    prompt = random_prompt(components, LAYOUT, 5, np.random.default_rng(2))
    ids = LAYOUT.ids(prompt)
    whole = forward(mixed.weights, ids)
    for component in components:
        space = mixed.stream[f"component[{component.task.name}]"]
        alone = forward(component.weights, ids)
        for index in range(component.depth):
            # The same sums of the same numbers, with zeros between: equal up to the order of summation.
            both = whole.after_mlp[index][:, space.coordinates], alone.after_mlp[index]
            assert np.abs(both[0] - both[1]).max() <= 2.0**-40 * max(1.0, np.abs(both[1]).max())


def test_components_errors_within_the_contract_are_forgotten() -> None:
    layout = Layout(5, 2, 3)
    task = TableTask("next", (1,), {(token,): (token + 1) % 5 for token in range(5)})
    exact = table_component(task, layout)
    blurred = (
        np.full((5, 5), 0.2, dtype=np.float32) + np.eye(5, dtype=np.float32) * 0.6
    )  # 0.8 at the answer, 0.2 elsewhere
    unembedding = (exact.weights.unembedding @ blurred).astype(np.float32)
    worse = Component(task, replace(exact.weights, unembedding=type(exact.weights.unembedding)(unembedding)))
    outputs = forward(worse.weights, layout.ids(Prompt((), (0, 3)))).output[-1]
    assert outputs == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.8], abs=1e-6)
    built = superpose([worse], layout)
    prompt = Prompt((Example((4, 3), 4), Example((1, 2), 0)), (0, 0))
    found = plain_outputs(built, prompt)
    allowed = built.error_bound + allowance([worse], layout, 2.0**-53)
    assert error(found, exact_outputs([worse], layout, prompt)) <= allowed
    assert found[-1] == pytest.approx([0, 0.5, 0, 0, 0], abs=allowed)


def test_a_component_that_breaks_its_contract_gives_wrong_answers() -> None:
    layout = Layout(5, 2, 3)
    task = TableTask("next", (1,), {(token,): (token + 1) % 5 for token in range(5)})
    exact = table_component(task, layout)
    half = Component(task, replace(exact.weights, unembedding=exact.weights.unembedding * np.float32(0.5)))
    prompt = Prompt((Example((4, 3), 4),), (0, 0))
    found = plain_outputs(superpose([half], layout), prompt)
    assert error(found, exact_outputs([half], layout, prompt)) > 0.1
    kept = Component(task, half.weights, low=0.1, high=0.4)  # the contract that it does keep
    found = plain_outputs(superpose([kept], layout), prompt)
    assert error(found, exact_outputs([kept], layout, prompt)) < 1e-6


def test_the_oracle_of_components_is_that_of_their_tables(components: list[Component], mixed: Superposition) -> None:
    construction = mixed.construction(alphabet="abcde")
    prompt = random_prompt(components, LAYOUT, 7, np.random.default_rng(3))
    for seen, answer in enumerate(curve(construction.task_set, prompt)):
        query = prompt.examples[seen].inputs if seen < 7 else prompt.query
        evidence, target = superposed_answer(components, Prompt(prompt.examples[:seen], query))
        assert evidence == answer.evidence
        assert target == answer.target


def test_a_superposition_is_saved_shown_and_run_like_any_construction(
    construct: Command, mixed: Superposition, tmp_path: Path
) -> None:
    save(mixed.construction(alphabet="abcde", written=Format(separator="", arrow="->")), tmp_path / "mixed")
    assert load(tmp_path / "mixed").theorem == "superpose"
    ran = construct("predict", tmp_path / "mixed", "-", "--json", stdin="ccd->d\nabe->e\nbbe->\n")
    assert ran.status == 0, ran
    data = json.loads(ran.out)
    assert data["evidence"]["induction"] == pytest.approx(0.5)
    assert max(data["distribution"], key=data["distribution"].get) == "e"
    assert "no error bound for this construction in float32: what is proved of it holds in real arithmetic" in ran.err
    shown = construct("show", tmp_path / "mixed")
    assert "component[trained]" in shown.out
    assert "fetch" in shown.out


def components_for(*names: str) -> list[Component]:
    layout = Layout(3, 2, 2)
    return [table_component(TableTask(name, (0,), {(0,): 1}), layout) for name in names]


def test_unusable_components_are_refused_with_the_reason() -> None:
    with pytest.raises(TaskError, match="at least one"):
        superpose([], Layout(3, 2, 2))
    with pytest.raises(TaskError, match="names that differ"):
        superpose(components_for("a", "a"), Layout(3, 2, 2))
    with pytest.raises(TaskError, match="tokens"):
        superpose(components_for("a"), Layout(5, 2, 2))
    with pytest.raises(TaskError, match="positions"):
        superpose(components_for("a"), Layout(3, 2, 7))
    with pytest.raises(InputError, match="too low"):
        superpose(components_for("a"), Layout(3, 2, 2), sharpness=0.25)
    with pytest.raises(InputError, match="error wanted"):
        superpose(components_for("a"), Layout(3, 2, 2), error=0.0)
    (component,) = components_for("a")
    with pytest.raises(TaskError, match="expected numbers with high above low"):
        replace(component, low=0.5, high=0.5)
    with pytest.raises(TaskError, match="no layer"):
        superpose([replace(component, weights=replace(component.weights, layers=()))], Layout(3, 2, 2))
    with pytest.raises(TaskError, match="alphabet has 2 tokens"):
        superpose([component], Layout(3, 2, 2)).construction(alphabet="ab")


def test_a_component_built_for_more_examples_serves_fewer() -> None:
    layout = Layout(3, 2, 1)
    parts = components_for("a")
    prompt = Prompt((Example((0, 2), 1),), (0, 1))
    found = plain_outputs(superpose(parts, layout), prompt)
    assert found[-1] == pytest.approx([0, 1, 0], abs=1e-6)


def test_a_function_becomes_the_table_of_its_answers() -> None:
    task = FunctionTask("difference", (2, 0), lambda inputs: (inputs[2] - inputs[0]) % 3)
    table = as_table(task, Layout(3, 3, 1))
    assert isinstance(table, TableTask)
    assert table.rows == {(a, b): (a - b) % 3 for a in range(3) for b in range(3)}
    total = SumTask("sum", (0,), {0: 0}, {0: 0})
    assert as_table(total, Layout(3, 3, 1)) is total
    with pytest.raises(TooLargeError, match="inputs"):
        as_table(FunctionTask("all", tuple(range(30)), sum), Layout(3, 30, 1))


def test_a_sharper_superposition_has_a_smaller_bound() -> None:
    parts, layout = components_for("a", "b"), Layout(3, 2, 2)
    bounds = [superpose(parts, layout, sharpness=sharpness).error_bound for sharpness in (4.0, 6.0)]
    assert bounds[0] == pytest.approx(2 * 3 * np.exp(-16.0))
    assert bounds[1] == pytest.approx(2 * 3 * np.exp(-24.0))
