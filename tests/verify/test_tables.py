"""The lemmas on tables: their pieces against brute force, and what they say of wrong tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from construct.prompts import Example, Prompt
from construct.tasks import Format, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from construct.transformer import forward
from tests.verify.conftest import edited, pair_and_table, sparse, tables, with_unit
from verify import theorem
from verify.facts import TaskFacts
from verify.rows import NotProvableError
from verify.tables import _radix, _tokens, table_answer, table_evidence, weight_errors, weight_reach
from verify.theorem import prove

small = st.integers(-3, 3).map(float)


@st.composite
def unit_sets(draw: st.DrawFn) -> dict[str, Any]:
    """Units of up to three keys with small arguments, slopes and outputs over three tokens."""
    keys = draw(st.integers(1, 3))
    units = draw(st.integers(1, 6))
    number = st.lists(small, min_size=units, max_size=units)
    place = draw(st.lists(st.integers(0, keys - 1), min_size=units, max_size=units))
    output = np.array([draw(st.lists(small, min_size=3, max_size=3)) for _ in range(units)], dtype=np.float32)
    answers = draw(st.dictionaries(st.integers(0, keys - 1), st.integers(0, 2)))
    return {
        "keys": keys,
        "place": np.array(place),
        "argument": np.array(draw(number)) / 2,
        "slope": np.array(draw(number)),
        "output": output,
        "answers": answers,
        "range": draw(st.sampled_from([1.0, 1.25])),
    }


@given(unit_sets())
def test_weight_errors_are_the_largest_over_a_grid_of_weights(drawn: dict[str, Any]) -> None:
    errors = weight_errors(
        np.arange(drawn["keys"]),
        drawn["place"],
        drawn["argument"],
        drawn["slope"],
        sparse(drawn["output"]).astype(np.float64),
        drawn["answers"],
        drawn["range"],
    )
    # Arguments are halves and slopes at most 3, so a grid of 1/120 has every switch, and twice finer the rest.
    grid = np.arange(0, drawn["range"] + 1e-9, 1 / 240)
    for key in range(drawn["keys"]):
        mine = drawn["place"] == key
        if not mine.any():
            assert errors[key] == 0  # such a key is not listed
            continue
        hidden = np.maximum(drawn["argument"][mine] + drawn["slope"][mine] * grid[:, None], 0)
        difference = hidden @ drawn["output"][mine]
        if key in drawn["answers"]:
            difference[:, drawn["answers"][key]] -= grid
        assert errors[key] == pytest.approx(np.abs(difference).sum(axis=1).max(), abs=1e-9)


@given(small, st.floats(1.0, 1.5), st.floats(0.0, 1.0))
def test_no_weight_raises_an_argument_beyond_its_reach(slope: float, most: float, share: float) -> None:
    weight = (1 - most) + share * (2 * most - 1)  # from 1 - most to most
    assert slope * weight <= weight_reach(np.array([slope]), most)[0] + 1e-15


@given(st.integers(1, 7), st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_keys_of_tokens_read_back(size: int, drawn: list[int]) -> None:
    tokens = [token % size for token in drawn]
    radix = _radix(size, len(tokens))
    if size > 1:
        assert _tokens(int(np.array(tokens) @ radix), radix) == tokens


def test_keys_that_int64_cannot_count_are_not_proved() -> None:
    with pytest.raises(NotProvableError, match="more combinations than int64"):
        _radix(2**16, 4)


@dataclass
class Seen:
    """The facts of a proof, in the order of the tasks."""

    evidence: list[TaskFacts]
    answers: list[TaskFacts]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    found = Seen([], [])

    def evidence(*arguments: Any) -> TaskFacts:
        found.evidence.append(table_evidence(*arguments))
        return found.evidence[-1]

    def answer(*arguments: Any) -> TaskFacts:
        found.answers.append(table_answer(*arguments))
        return found.answers[-1]

    monkeypatch.setattr(theorem, "table_evidence", evidence)
    monkeypatch.setattr(theorem, "table_answer", answer)
    return found


@pytest.mark.parametrize("task_set", [tables(), pair_and_table()], ids=["tables", "pair"])
def test_a_table_as_built_is_exact_but_for_two_a_bit_and_a_unit_of_leak(task_set: TaskSet, seen: Seen) -> None:
    prove(two_layer(task_set, examples=3))
    for task, evidence, answer in zip(task_set.tasks, seen.evidence, seen.answers, strict=True):
        assert isinstance(task, TableTask)
        for fact in (evidence, answer):
            assert fact.error == 0
            assert fact.violation is None
            assert not fact.always
            # A read of 3 tokens has 2 bits, each of which moves by 2 for a unit of leak.
            assert fact.per_head.sum() == pytest.approx(len(task.reads) * 2 * 2)
            assert fact.slope == pytest.approx(1)


@pytest.mark.parametrize("sharpness", [1.5, 3])
def test_evidence_is_within_its_facts_on_every_prompt_of_one_example(sharpness: float, seen: Seen) -> None:
    built = two_layer(pair_and_table(), examples=1, sharpness=sharpness)
    proof = prove(built)
    reads = next(lemma for lemma in proof.lemmas if lemma.name == "reads").figures
    leak = np.array([max(*one, *other) for one, other in zip(reads["leak_eq"], reads["leak_y"], strict=True)])
    space = built.stream["evidence"]
    for inputs in np.ndindex(3, 3):
        for answer in range(3):
            ids = built.layout.ids(Prompt((Example(inputs, answer),), (0, 0)))
            state = forward(built.weights, ids).after_mlp[0][built.layout.answer_position(0), space.coordinates]
            for task, fact, value in zip(built.task_set.tasks, seen.evidence, state, strict=True):
                wanted = float(task.answer(inputs) == answer)
                assert abs(value - wanted) <= fact.error + fact.per_head @ leak + 1e-12


def evidence_unit(built: Construction, entries: dict[str, float]) -> Construction:
    """One more unit that writes the first task's evidence."""
    reads = {built.stream[name].start: value for name, value in entries.items()}
    return with_unit(built, 0, reads, 0.0, {built.stream["evidence"].start: 1.0})


def test_evidence_without_consistency_is_marked_as_always_possible(seen: Seen) -> None:
    prove(evidence_unit(two_layer(tables(), examples=2), {"role_y": 0.25}))
    first, second = seen.evidence
    assert first.always
    assert not second.always
    assert first.error == pytest.approx(0.25)
    assert first.violation is not None
    assert first.violation.lemma == "evidence at y"


@pytest.mark.parametrize("layer", [0, 1])
def test_a_row_that_no_unit_knows_is_an_error_of_1(layer: int, seen: Seen) -> None:
    built = two_layer(tables(), examples=2)
    off = float(built.weights.layers[layer].mlp.bias_in[0]) - 4
    prove(edited(built, {f"layers.{layer}.mlp.bias_in": {(0,): off}}))
    fact = (seen.evidence, seen.answers)[layer][0]
    assert 1 <= fact.error < 1.1
    assert fact.violation is not None
    assert "no unit is on" in fact.violation.got


def test_a_table_whose_read_no_head_fetches_is_refuted() -> None:
    built = two_layer(pair_and_table(), examples=1)
    silent = edited(
        built, {"layers.0.attention.value": {(1, row, column): 0.0 for row in range(3) for column in range(2)}}
    )
    proof = prove(silent)
    assert proof.real is None
    assert any("a head for each of the inputs [1, 0]" in violation.expected for violation in proof.violations)


def test_two_units_that_share_a_row_add_up() -> None:
    # Half of the evidence by each of two units is what one gives.
    task_set = TaskSet("one", ("a", "b"), 1, Format(), (TableTask("t", (0,), {(0,): 1}),))
    built = two_layer(task_set, examples=2)
    mlp, at = built.weights.layers[0].mlp, built.stream["evidence"].start
    halved = edited(built, {"layers.0.mlp.w_out": {(0, at): 0.5}})
    reads = {row: float(mlp.w_in[row, 0]) for row in range(built.weights.d_model)}
    proof = prove(with_unit(halved, 0, reads, float(mlp.bias_in[0]), {at: 0.5}))
    original = prove(built)
    assert proof.violations == ()
    assert proof.real == pytest.approx(original.real)
    assert prove(halved).real == pytest.approx(0.5, abs=1e-6)
