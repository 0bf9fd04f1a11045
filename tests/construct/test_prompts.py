"""Prompts: text, ids and back, and what is wrong with a line, by its number."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.errors import PromptError, TaskError
from construct.prompts import Example, Layout, Prompt, format_prompt, parse_prompt
from construct.tasks import Format, TableTask, TaskSet
from tests.construct.strategies import ARROWS, SEPARATORS, Case, cases, formats, prompts


def _set(alphabet: str, inputs: int, separator: str, arrow: str) -> TaskSet:
    first = TableTask("first", (0,), {(0,): 0})
    return TaskSet("set", tuple(alphabet.split("|")), inputs, Format(separator, arrow), (first,))


SPACED = _set("a|b|c", 2, " ", " -> ")
JOINED = _set("a|b|-|>", 3, "", "->")
WORDS = _set("Peru|New York|Lima", 1, " ", "->")
COMMAS = _set("x|y y|z", 3, ", ", " = ")


@pytest.mark.parametrize(
    ("task_set", "text", "expected"),
    [
        (SPACED, "a b -> c\nc c -> a\nb a ->", Prompt((Example((0, 1), 2), Example((2, 2), 0)), (1, 0))),
        (SPACED, "  a   b->c \n\n\tb a  ->\n\n", Prompt((Example((0, 1), 2),), (1, 0))),
        (SPACED, "a b -> c\r\nb a ->\r\n", Prompt((Example((0, 1), 2),), (1, 0))),
        (SPACED, "c a ->", Prompt((), (2, 0))),
        (JOINED, "ab>->>\n->-->-\n>a-->", Prompt((Example((0, 1, 3), 3), Example((2, 3, 2), 2)), (3, 0, 2))),
        (WORDS, "Peru->Lima\nNew York -> Lima\nNew York->", Prompt((Example((0,), 2), Example((1,), 2)), (1,))),
        (COMMAS, "x,y y ,z=x\nz, z, z =", Prompt((Example((0, 1, 2), 0),), (2, 2, 2))),
    ],
)
def test_a_text_reads_as_it_looks(task_set: TaskSet, text: str, expected: Prompt) -> None:
    assert parse_prompt(text, task_set) == expected


def test_a_prompt_is_written_one_example_a_line() -> None:
    prompt = Prompt((Example((0, 1), 2), Example((2, 2), 0)), (1, 0))
    assert format_prompt(prompt, SPACED) == "a b -> c\nc c -> a\nb a ->"


@given(cases())
def test_a_prompt_reads_back_as_it_was_written(case: Case) -> None:
    assert parse_prompt(format_prompt(case.prompt, case.task_set), case.task_set) == case.prompt


@settings(max_examples=300)
@given(st.data())
def test_a_prompt_reads_back_in_every_format_that_is_accepted(data: st.DataObject) -> None:
    try:
        task_set = data.draw(formats())
    except TaskError:
        return  # refused: that enough are accepted is checked below
    prompt = data.draw(prompts(task_set, 4))
    assert parse_prompt(format_prompt(prompt, task_set), task_set) == prompt


@settings(max_examples=300)
@given(st.text("-=>b a", min_size=1, max_size=4), st.text("-=>b ", max_size=4), st.data())
def test_no_format_of_few_characters_is_accepted_and_misread(arrow: str, separator: str, data: st.DataObject) -> None:
    inputs = data.draw(st.integers(1, 4))
    tokens = data.draw(st.lists(st.text("-=>ab", min_size=1, max_size=2), min_size=1, max_size=4, unique=True))
    try:
        task_set = _set("|".join(tokens), inputs, separator, arrow)
    except TaskError:
        return
    prompt = data.draw(prompts(task_set, 3))
    assert parse_prompt(format_prompt(prompt, task_set), task_set) == prompt


def test_separators_and_arrows_go_together_unless_one_holds_the_other() -> None:
    refused = set()
    for separator, arrow, inputs in product(SEPARATORS, ARROWS, (1, 3)):
        try:
            _set("ab|cd|é1", inputs, separator, arrow)
        except TaskError:
            refused.add((separator, arrow, inputs))
    assert refused == {("::", ": ", 3)}


@pytest.mark.parametrize(("alphabet", "inputs", "separator"), [("=", 1, ""), ("=|a", 2, ",")])
def test_an_arrow_that_begins_with_its_space_in_a_token_is_refused(alphabet: str, inputs: int, separator: str) -> None:
    # "=" and " = =" make "= = =", which begins with the arrow "= =".
    with pytest.raises(TaskError, match="token '=' contains the arrow '= ='"):
        _set(alphabet, inputs, separator, " = =")


LAYOUT = Layout(alphabet_size=5, inputs=3, examples=2)


def test_the_layout_of_a_small_prompt_is_written_out() -> None:
    prompt = Prompt((Example((0, 1, 2), 3), Example((4, 4, 0), 1)), (2, 2, 3))
    assert LAYOUT.ids(prompt) == [5, 0, 1, 2, 6, 3, 4, 4, 0, 6, 1, 2, 2, 3, 6]
    assert LAYOUT.positions == 15
    assert [LAYOUT.eq_position(index) for index in range(3)] == [4, 9, 14]
    assert [LAYOUT.answer_position(index) for index in range(2)] == [5, 10]
    assert [LAYOUT.input_position(1, place) for place in range(3)] == [6, 7, 8]
    assert LAYOUT.ids(replace(prompt, examples=())) == [5, 2, 2, 3, 6]


@given(cases())
def test_each_part_of_a_prompt_stands_where_the_layout_says(case: Case) -> None:
    layout = Layout(len(case.task_set.alphabet), case.task_set.inputs, case.examples)
    ids = layout.ids(case.prompt)
    assert len(ids) == (len(case.prompt.examples) + 1) * (layout.inputs + 2) <= layout.positions
    assert ids[0] == layout.bos
    for index, example in enumerate(case.prompt.examples):
        assert [ids[layout.input_position(index, place)] for place in range(layout.inputs)] == list(example.inputs)
        assert ids[layout.eq_position(index)] == layout.eq
        assert ids[layout.answer_position(index)] == example.answer
    assert ids[-1] == layout.eq
    assert len(ids) - 1 == layout.eq_position(len(case.prompt.examples))


def test_more_examples_than_fit_are_refused_with_the_remedy() -> None:
    prompt = Prompt((Example((0, 0, 0), 0),) * 3, (0, 0, 0))
    with pytest.raises(PromptError, match="has 3 examples: this construction takes at most 2; build one with"):
        LAYOUT.ids(prompt)


@pytest.mark.parametrize(
    ("task_set", "text", "words"),
    [
        (SPACED, "", "the prompt is empty: give examples"),
        (SPACED, " \n\n\t", "the prompt is empty: give examples"),
        (SPACED, "a b -> c\na z ->", "line 2: unknown token 'z'.*alphabet of 'set' has 3 tokens, such as 'a', 'b'"),
        (WORDS, "Pero->Lima\nPeru->", "line 1: unknown token 'Pero'.*did you mean 'Peru'"),
        (WORDS, "Peru->Limo\nPeru->", "line 1: unknown token 'Limo'.*did you mean 'Lima'"),
        (SPACED, "a b -> c\na b c ->", "line 2: 'a b c ->' has 3 inputs: expected 2 .*`x1 x2 -> y`"),
        (SPACED, "a -> c\na b ->", "line 1: 'a -> c' has 1 inputs: expected 2"),
        (SPACED, "-> c\na b ->", "line 1: '-> c' has 0 inputs: expected 2"),
        (WORDS, "->", "line 1: '->' has 0 inputs: expected 1"),
        (COMMAS, "x,,z=x\nx,x,x=", "line 1: unknown token ''"),
        (JOINED, "aba->a\nab->", "line 2: 'ab->' does not have 3 inputs before '->'"),
        (JOINED, "aaaa->a\naba->", "line 1: 'aaaa->a' does not have 3 inputs before '->'"),
        (JOINED, "aba", "line 1: 'aba' has no arrow '->': write it as an example `x1x2x3->y`, the query `x1x2x3->`"),
        (SPACED, "a b c\na b ->", "line 1: 'a b c' has no arrow '->': write it as"),
        (SPACED, "a b -> c\na b", "line 2: 'a b' has no arrow"),
        (SPACED, "a b ->\na b -> c", "line 1: 'a b ->' has no answer: only the last line is a query"),
        (SPACED, "a b -> c\nb b -> c", "line 2: 'b b -> c' is the last line and has an answer: end the prompt with"),
        (SPACED, "a b -> c -> a\na b ->", "line 1: unknown token 'c -> a'"),
        (SPACED, "a b -> c c\na b ->", "line 1: unknown token 'c c'"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(task_set: TaskSet, text: str, words: str) -> None:
    with pytest.raises(PromptError, match=words) as caught:
        parse_prompt(text, task_set)
    assert "\n" not in str(caught.value)
