"""Prompts are drawn as they are said to be."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from construct.errors import InputError
from construct.prompts import parse_prompt
from construct.suites import build_suite
from construct.tasks import Format, TableTask, TaskSet
from empirical.settings import Cell, Rules, curve_cells, draw, mixture_weights, select_tasks

PAPER = ("add_translate", "country", "copy_add", "letters")
NAMES = ("one", "two", "three", "four", "five", "six")


@pytest.mark.parametrize("suite", PAPER)
def test_a_setting_of_the_paper_has_twenty_examples_of_each_task_in_random_order(suite: str) -> None:
    task_set = build_suite(suite)
    count = len(task_set.tasks)
    drawn = list(draw(task_set, Cell((1 / count,) * count, 20 * count), 11, Rules()))
    for question in drawn:
        assert Counter(question.drawn) == dict.fromkeys(range(count), 20)
        assert parse_prompt(question.text, task_set) == question.prompt
    assert len({question.drawn for question in drawn}) == len(drawn)
    assert len({question.text for question in drawn}) == len(drawn)


@given(
    seed=st.integers(0, 10**6), examples=st.integers(0, 24), suite=st.sampled_from(["letters", "numbers", "copy_add"])
)
def test_no_input_repeats_and_the_query_is_none_of_them(seed: int, examples: int, suite: str) -> None:
    task_set = build_suite(suite)
    count = len(task_set.tasks)
    for question in draw(task_set, Cell((1 / count,) * count, examples), 2, Rules(seed=seed)):
        inputs = [example.inputs for example in question.prompt.examples]
        assert len({*inputs, question.prompt.query}) == examples + 1
        for example, task, consistent in zip(
            question.prompt.examples, question.drawn, question.consistent, strict=True
        ):
            assert task_set.tasks[task].answer(example.inputs) == example.answer
            assert task in consistent
        assert len(set(question.candidates)) == count
        for task, place in zip(task_set.tasks, question.answer_of, strict=True):
            assert task_set.alphabet[task.answer(question.prompt.query) or 0] == question.candidates[place]


def test_inputs_may_return_with_other_answers_where_there_are_too_few_of_them() -> None:
    task_set = build_suite("numbers")  # 25 inputs
    (question,) = draw(task_set, Cell((1 / 6,) * 6, 60), 1, Rules())
    shown = [(example.inputs, example.answer) for example in question.prompt.examples]
    assert len(set(shown)) == 60
    assert question.prompt.query not in {inputs for inputs, _ in shown}


def test_examples_repeat_only_where_that_is_asked_for() -> None:
    task_set = build_suite("numbers")
    cell = Cell((1.0, 0, 0, 0, 0, 0), 30)
    with pytest.raises(InputError, match=r"no fresh example left for a prompt of 30.*--repeat"):
        list(draw(task_set, cell, 1, Rules()))
    (question,) = draw(task_set, cell, 1, Rules(repeat=True))
    assert len(question.prompt.examples) == 30


def test_ambiguous_queries_are_left_out_or_counted() -> None:
    task_set = select_tasks(build_suite("numbers"), ["identity", "double", "square"])
    cell = Cell((1 / 3,) * 3, 5)
    assert not any(question.ambiguous for question in draw(task_set, cell, 40, Rules()))
    counted = [question for question in draw(task_set, cell, 40, Rules(ambiguous="count")) if question.ambiguous]
    assert {question.query for question in counted} <= {"0", "1", "2"}  # 0 = 2*0 = 0*0, 1 = 1*1, 2*2 = 2*2
    assert counted
    same = TaskSet("same", ("a", "b"), 1, Format(), tuple(TableTask(name, (0,), {(0,): 1, (1,): 0}) for name in "pq"))
    with pytest.raises(InputError, match="--ambiguous count"):
        list(draw(same, Cell((0.5, 0.5), 1), 1, Rules()))


def test_equal_seeds_give_equal_questions_and_others_do_not() -> None:
    task_set, cell = build_suite("country"), Cell((1 / 3,) * 3, 7)
    first, again, other = (list(draw(task_set, cell, 5, Rules(seed=seed))) for seed in (3, 3, 4))
    assert first == again != other
    elsewhere = list(draw(task_set, cell, 5, Rules(seed=3), place=1))
    assert {question.text for question in elsewhere}.isdisjoint(question.text for question in first)
    assert [question.query for question in elsewhere] == [question.query for question in first]


def test_no_prompt_is_drawn_twice() -> None:
    task_set = select_tasks(build_suite("letters"), ["lower", "upper"])
    texts = [question.text for question in draw(task_set, Cell((0.5, 0.5), 0), 150, Rules())]
    assert len(set(texts)) == 150
    with pytest.raises(InputError, match="different prompts of 0 examples"):
        list(draw(task_set, Cell((0.5, 0.5), 0), 1000, Rules()))


def test_counts_are_the_mixture_to_the_nearest_example_or_sampled() -> None:
    task_set = build_suite("letters", tasks=3)
    cell = Cell((0.5, 0.3, 0.2), 11)
    exact = [Counter(question.drawn) for question in draw(task_set, cell, 20, Rules())]
    for counts in exact:
        for task, weight in enumerate(cell.mixture):
            assert abs(counts[task] - 11 * weight) < 1
    sampled = {Counter(question.drawn)[0] for question in draw(task_set, cell, 20, Rules(counts="sampled"))}
    assert len(sampled) > 3


def test_the_evidence_is_the_share_of_consistent_examples() -> None:
    task_set = build_suite("country")
    for question in draw(task_set, Cell((1 / 3,) * 3, 13), 9, Rules()):
        for task, share in enumerate(question.evidence):
            assert share == sum(task in tasks for tasks in question.consistent) / 13


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, (1 / 6,) * 6),
        ("uniform", (1 / 6,) * 6),
        ("one-heavy", (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)),
        ("alternating", (0.25, 1 / 12, 0.25, 1 / 12, 0.25, 1 / 12)),
        ("two=3, five=1", (0, 0.75, 0, 0, 0.25, 0)),
    ],
)
def test_a_mixture_is_a_word_or_weights_by_name(given: str | None, expected: tuple[float, ...]) -> None:
    assert mixture_weights(given, NAMES) == pytest.approx(expected)


@pytest.mark.parametrize("given", ["half", "one=x", "seven=1", "one=0", "one=-1,two=2", "one=nan", "one=inf", "=1"])
def test_an_unreadable_mixture_is_refused(given: str) -> None:
    with pytest.raises(InputError, match="mixture"):
        mixture_weights(given, NAMES)


def test_a_curve_runs_from_none_of_the_first_task_to_all_of_it() -> None:
    assert [cell.mixture for cell in curve_cells(3, 7)] == [(0, 1), (0.5, 0.5), (1, 0)]
    with pytest.raises(InputError, match="at least 2"):
        curve_cells(1, 7)


def test_an_arrow_with_a_space_after_it_leaves_the_space_to_the_answer() -> None:
    rows = {(0,): 1, (1,): 0}
    task_set = TaskSet("spaced", ("a", "b"), 1, Format(arrow=" -> "), (TableTask("swap", (0,), rows),))
    (question,) = draw(task_set, Cell((1.0,), 1), 1, Rules())
    assert question.text.endswith(" ->")
    assert question.candidates[0] in (" a", " b")
