"""What is proved of the heads, against the attention of the plain forward pass."""

from collections.abc import Iterator

import numpy as np
import pytest

from construct.bounds import average_leak, read_leak
from construct.prompts import Example, Prompt
from construct.reads import plan_reads
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from construct.transformer import forward
from tests.verify.conftest import edited, sum_and_table, with_tensors
from verify import attention, theorem
from verify.attention import AverageFacts, HeadFacts, average_facts, read_head_facts
from verify.boxes import roles_of


def sums_over_sets() -> TaskSet:
    """Sums over two and three of five positions, and a table on another."""
    two = SumTask("two", (1, 3), {0: 1, 1: 2, 2: 5}, {3: 0, 6: 1})
    three = SumTask("three", (0, 2, 3), {0: -1, 1: 0, 2: 1}, {0: 2})
    return TaskSet("sets", ("a", "b", "c"), 5, Format(), (two, three, TableTask("t", (4,), {(0,): 1, (2,): 2})))


CASES = {
    "lookup": (build_suite("lookup", tasks=3, alphabet_size=7, inputs=5), 11),
    "one input": (build_suite("lookup", tasks=2, alphabet_size=3, inputs=1), 5),
    "sets": (sums_over_sets(), 7),
    "one example": (sum_and_table(), 1),
}


def facts(construction: Construction) -> list[HeadFacts]:
    roles = roles_of(construction.weights, construction.layout)
    first = construction.weights.layers[0].attention
    return [read_head_facts(roles, first, head) for head in range(len(first.query))]


def random_prompt(construction: Construction, generator: np.random.Generator) -> Prompt:
    layout = construction.layout
    size, n = layout.alphabet_size, layout.inputs
    inputs = generator.integers(size, size=(layout.examples + 1, n)).tolist()
    answers = generator.integers(size, size=layout.examples).tolist()
    examples = [Example(tuple(given), answer) for given, answer in zip(inputs[:-1], answers, strict=True)]
    return Prompt(tuple(examples), tuple(inputs[-1]))


@pytest.mark.parametrize("sharpness", [1, 3, 12])
@pytest.mark.parametrize("case", CASES)
def test_pair_by_pair_is_at_most_the_product_and_both_at_most_the_closed_form(
    case: str, sharpness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_set, examples = CASES[case]
    built = two_layer(task_set, examples=examples, sharpness=sharpness)
    pairwise = facts(built)
    monkeypatch.setattr(attention, "PAIRS", 0)
    product = facts(built)
    rho = read_leak(plan_reads(task_set), built.layout, built.sharpness)
    for one, other in zip(pairwise, product, strict=True):
        assert one.targets == other.targets != ()
        tolerance = 1 + 2.0**-35  # a few times INFLATION
        assert (one.leak_eq <= other.leak_eq * tolerance).all()
        assert (one.leak_y <= other.leak_y * tolerance).all()
        assert other.largest_leak <= rho * tolerance
        assert np.isnan(other.margin)
        assert one.margin == pytest.approx(2 * sharpness)


@pytest.mark.parametrize("pairs", [0, attention.PAIRS])
@pytest.mark.parametrize("sharpness", [0.5, 2, 5])
@pytest.mark.parametrize("case", CASES)
def test_the_leak_bounds_the_attention_of_every_random_prompt(
    case: str, sharpness: float, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "PAIRS", pairs)
    task_set, examples = CASES[case]
    built = two_layer(task_set, examples=examples, sharpness=sharpness)
    layout, found = built.layout, facts(built)
    generator = np.random.default_rng(5)
    for _ in range(7):
        pattern = forward(built.weights, layout.ids(random_prompt(built, generator))).patterns[0]
        for head, fact in enumerate(found):
            for example in range(examples + 1):
                for at, leak in [(layout.eq_position(example), fact.leak_eq)] + (
                    [(layout.answer_position(example), fact.leak_y)] if example < examples else []
                ):
                    targets = [layout.input_position(example, place) for place in fact.targets]
                    attended = pattern[head, at, targets]
                    assert 1 - attended.sum() <= leak[example] + 1e-14
                    share = (1 - leak[example]) / len(targets)
                    assert (attended >= share - leak[example] - 1e-14).all()


def test_targets_are_the_positions_of_the_reads() -> None:
    built = two_layer(sums_over_sets(), examples=3)
    assert {fact.targets for fact in facts(built)} == {(4,), (1, 3), (0, 2, 3)}


def test_the_leak_is_nearly_attained() -> None:
    # Attention does not depend on tokens, so one prompt of m examples has it all.
    built = two_layer(CASES["lookup"][0], examples=11, sharpness=3)
    layout = built.layout
    pattern = forward(built.weights, layout.ids(random_prompt(built, np.random.default_rng(1)))).patterns[0]
    for head, fact in enumerate(facts(built)):
        for example in range(12):
            target = pattern[head, layout.eq_position(example), layout.input_position(example, fact.targets[0])]
            assert 1 - target == pytest.approx(fact.leak_eq[example], rel=1e-9, abs=1e-15)


def test_values_are_what_a_token_adds_to_the_stream() -> None:
    built = two_layer(sum_and_table(), examples=1)
    weights = built.weights.layers[0].attention
    for head, fact in enumerate(facts(built)):
        expected = built.weights.token_embedding.toarray() @ weights.value[head] @ weights.output[head]
        assert np.array_equal(fact.values, expected)
        assert not fact.spread.any()
        assert fact.columns.tolist() == np.flatnonzero(expected.any(axis=0)).tolist()


def test_what_positions_add_to_values_is_in_the_spread() -> None:
    built = two_layer(sum_and_table(), examples=1)
    row = built.stream["role_x"].start
    shifted = edited(built, {"layers.0.attention.value": {(0, row, 0): 0.5}})
    fact = facts(shifted)[0]
    assert fact.spread.max() == 0.5 * np.abs(built.weights.layers[0].attention.output[0, 0]).max()


def test_a_head_of_no_common_target_leaks_all() -> None:
    built = two_layer(CASES["lookup"][0], examples=2)
    space = built.stream["input_index"]
    # The first bit of the wanted place differs between examples: in each, another input is best.
    query = built.weights.layers[0].attention.query.copy()
    position = built.weights.position_embedding.toarray()
    position[built.layout.eq_position(1), space.start] = 1.0
    query[0, space.start, 2] = 900.0
    blurred = with_tensors(
        built,
        {
            "layers.0.attention.query": query,
            "embedding.position": type(built.weights.position_embedding)(position),
        },
    )
    fact = facts(blurred)[0]
    assert fact.targets == () or fact.largest_leak > 0.5


# The average.


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[AverageFacts]]:
    """The facts of averages that a proof used."""
    found: list[AverageFacts] = []

    def keep(*arguments: object) -> AverageFacts:
        found.append(average_facts(*arguments))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(theorem, "average_facts", keep)
    return found


@pytest.mark.parametrize("sharpness", [1, 1.5, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_average_is_even_and_its_leak_bounds_the_attention(
    case: str, sharpness: float, seen: list[AverageFacts]
) -> None:
    task_set, examples = CASES[case]
    built = two_layer(task_set, examples=examples, sharpness=sharpness)
    theorem.prove(built)
    (fact,) = seen
    layout = built.layout
    assert fact.leak[0] == 1
    assert fact.uneven == 0
    assert (fact.leak[1:] <= average_leak(layout, built.sharpness) * (1 + 2.0**-35)).all()
    prompt = random_prompt(built, np.random.default_rng(3))
    pattern = forward(built.weights, layout.ids(prompt)).patterns[1][0]
    at_y = [layout.answer_position(example) for example in range(examples)]
    for shown in range(1, examples + 1):
        attended = pattern[layout.eq_position(shown), at_y[:shown]]
        assert 1 - attended.sum() <= fact.leak[shown] + 1e-14
        assert attended.max() == pytest.approx(attended.min())
        for role, positions in (
            ("bos", [0]),
            ("eq", [layout.eq_position(example) for example in range(shown + 1)]),
            ("y", at_y[:shown]),
        ):
            share = pattern[layout.eq_position(shown), positions].sum()
            assert share <= fact.shares[role][shown] + 1e-14


def test_keys_that_read_evidence_make_the_average_uneven(seen: list[AverageFacts]) -> None:
    built = two_layer(sum_and_table(), examples=1)
    at = built.stream["evidence"].start
    theorem.prove(edited(built, {"layers.1.attention.key": {(0, at, 0): 2.0**-20}}))
    # The score of a y can differ by the query, 4 times the sharpness, times the evidence, 0 to 1.
    assert seen[0].uneven >= np.expm1(4 * built.sharpness * 2.0**-20)
    assert seen[0].uneven < 4 * np.expm1(4 * built.sharpness * 2.0**-20)
