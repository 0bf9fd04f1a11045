"""The tokenizer of an export: text, ids and back, as the project's own parser has it."""

import string
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from construct.errors import PromptError, TaskError
from construct.export.tokenizer import BRACKETS, LINE_BREAKS, WHITE_SPACE, special_tokens, word_level_tokenizer
from construct.prompts import Layout, Prompt, format_prompt, parse_prompt
from construct.suites import SUITES, build_suite
from construct.task_file import load_task_file
from construct.tasks import Format, TableTask, TaskSet
from tests.construct.strategies import formats, prompts, task_sets

MOST = 4
"""Examples in a drawn prompt."""


def _set(alphabet: str, inputs: int, separator: str, arrow: str) -> TaskSet:
    first = TableTask("first", (0,), {(0,): 0})
    return TaskSet("set", tuple(alphabet.split("|")), inputs, Format(separator, arrow), (first,))


def _layout(task_set: TaskSet) -> Layout:
    return Layout(len(task_set.alphabet), task_set.inputs, MOST)


def _ids(task_set: TaskSet, prompt: Prompt) -> list[int]:
    return _layout(task_set).ids(prompt)


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def _beginnings(task_set: TaskSet, prompt: Prompt) -> list[str]:
    """The text of the prompt's first 1, 2, .. tokens after BOS."""
    form = task_set.format
    pieces: list[tuple[str, str]] = []  # a token, and what stands between it and the next
    for inputs, answer in [*((one.inputs, one.answer) for one in prompt.examples), (prompt.query, None)]:
        pieces += [(task_set.alphabet[token], form.separator) for token in inputs[:-1]]
        pieces += [(task_set.alphabet[inputs[-1]], ""), (form.arrow, "")]
        pieces += [] if answer is None else [(task_set.alphabet[answer], "\n")]
    texts, before = [], ""
    for token, after in pieces:
        texts.append((before + token).rstrip())
        before += token + after
    return texts


def _reads_and_writes(task_set: TaskSet, prompt: Prompt) -> None:
    """Assert that the tokenizer reads the prompt's text and all its beginnings, and writes them again."""
    tokenizer, ids, whole = word_level_tokenizer(task_set), _ids(task_set, prompt), format_prompt(prompt, task_set)
    assert _encode(tokenizer, whole) == ids
    saved = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    assert saved.encode(whole).ids == ids
    assert saved.decode(ids) == whole
    texts = _beginnings(task_set, prompt)
    assert texts[-1] == whole
    for length, text in enumerate(texts, start=2):
        assert _encode(tokenizer, text) == ids[:length]
        assert tokenizer.decode(ids[:length], skip_special_tokens=True) == text


def test_the_example_of_the_readme_is_read() -> None:
    task_set = build_suite("country")
    tokenizer = word_level_tokenizer(task_set)
    text = "France->Paris\nJapan->JAPAN\nPeru->South America\nPeru->"
    ids = _encode(tokenizer, text)
    assert ids == _ids(task_set, parse_prompt(text, task_set))
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode(ids) == "<s>" + text


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_read_as_by_the_parser_and_written_again(name: str) -> None:
    task_set = build_suite(name)

    @settings(max_examples=5)
    @given(prompts(task_set, MOST))
    def check(prompt: Prompt) -> None:
        _reads_and_writes(task_set, prompt)

    check()


@pytest.mark.parametrize("name", SUITES)
def test_each_token_of_an_alphabet_is_one_id_that_decodes_to_itself(name: str) -> None:
    task_set = build_suite(name)
    tokenizer = word_level_tokenizer(task_set)
    assert len(tokenizer) == len(task_set.alphabet) + 4
    for index, token in enumerate(task_set.alphabet):
        assert _encode(tokenizer, token) == [len(task_set.alphabet), index]
        assert tokenizer.decode([index]) == token


@given(st.data())
def test_every_task_set_is_read_as_by_the_parser_and_written_again(data: st.DataObject) -> None:
    task_set = data.draw(st.one_of(formats(), task_sets()))
    _reads_and_writes(task_set, data.draw(prompts(task_set, MOST)))


@settings(max_examples=150)
@given(st.text("-=>b a", min_size=1, max_size=4), st.text("-=>b ", max_size=4), st.data())
def test_every_format_of_few_characters_is_read_and_written_again(
    arrow: str, separator: str, data: st.DataObject
) -> None:
    inputs = data.draw(st.integers(1, 4))
    tokens = data.draw(st.lists(st.text("-=>ab", min_size=1, max_size=2), min_size=1, max_size=4, unique=True))
    try:
        task_set = _set("|".join(tokens), inputs, separator, arrow)
    except TaskError:
        return
    _reads_and_writes(task_set, data.draw(prompts(task_set, 3)))


@settings(max_examples=150)
@given(st.data())
def test_any_text_that_the_parser_takes_is_read_as_by_the_parser_and_any_unknown_token_is_unk(
    data: st.DataObject,
) -> None:
    task_set = data.draw(formats())
    form = task_set.format
    spaces = st.sampled_from(["", " ", "\t", "\xa0", "\x1f"])
    arrows = st.sampled_from([form.arrow, form.arrow.strip()])
    separators = st.sampled_from([form.separator, form.separator.strip() or form.separator])
    tokens = st.sampled_from([*task_set.alphabet] * 4 + ["zz"])
    text = ""
    for shown in range(rows := data.draw(st.integers(1, MOST))):
        text += data.draw(st.sampled_from(["", "\n", "\r\n", "\x0b"])) if not text else ""
        for place in range(task_set.inputs):
            between = data.draw(separators) if place else ""
            loose = place and form.separator
            text += (data.draw(spaces) if loose else "") + between + (data.draw(spaces) if loose else "")
            text += data.draw(tokens)
        text += data.draw(spaces) + data.draw(arrows) + data.draw(spaces)
        if shown + 1 < rows:
            text += data.draw(tokens) + data.draw(st.sampled_from(["\n", "\r\n", "\n \n", "\u2028"]))
    tokenizer = word_level_tokenizer(task_set)
    try:
        expected = _ids(task_set, parse_prompt(text, task_set))
    except PromptError as error:
        if "unknown token" in str(error):
            assert tokenizer.unk_token_id in _encode(tokenizer, text)
        return
    assert _encode(tokenizer, text) == expected


@pytest.mark.parametrize(
    ("task_set", "text", "tokens"),
    [
        (_set("a|b|-|>", 3, "", "->"), "ab>->>\n->-->-\n>a-->", "a b > -> > - > - -> - > a - ->"),
        (_set("aa|ab", 2, "", "="), "aaab=ab\nabab =", "aa ab = ab ab ab ="),
        (_set("x|y y|z", 3, ", ", " = "), "x,y y ,z=x\nz, z, z =", "x y y z = x z z z ="),
        (_set("x=|y", 2, "=-", "->"), "y=-x=->y", "y x= -> y"),
        (_set("Peru|Lima", 1, " ", "->"), "Fooland->Lima\nPeru->", "<unk> -> Lima Peru ->"),
        (_set("1|2", 2, "@", "="), "1@2=1@2\n1@1=", "1 2 = <unk> 1 1 ="),
        (_set("1|2", 2, "@", "="), "1@2=1=2\n1@1=", "1 2 = <unk> 1 1 ="),
        (_set("1|2", 2, "@", "="), "", ""),
        (_set("1|2", 2, "@", "="), "1@2=1\n1@", "1 2 = 1 1"),
    ],
)
def test_a_text_is_cut_as_it_looks(task_set: TaskSet, text: str, tokens: str) -> None:
    tokenizer = word_level_tokenizer(task_set)
    assert " ".join(tokenizer.convert_ids_to_tokens(_encode(tokenizer, text))) == f"<s> {tokens}".strip()


def test_unknown_tokens_show_when_special_tokens_are_not_skipped() -> None:
    tokenizer = word_level_tokenizer(_set("Peru|Lima", 1, " ", "->"))
    ids = _encode(tokenizer, "Fooland->Lima\nPeru->")
    assert tokenizer.decode(ids) == "<s><unk>->Lima\nPeru->"
    assert ids.count(tokenizer.unk_token_id) == 1


def test_what_is_decoded_with_special_tokens_reads_back() -> None:
    tokenizer = word_level_tokenizer(_set("a|b|c", 2, " + ", " => "))
    batch = tokenizer(["a + b => c\nb + b =>", "c + a =>"], padding=True)["input_ids"]
    pads = [tokenizer.pad_token_id] * 4
    assert [row[:4] == pads for row in batch] == [False, True]
    assert tokenizer.decode(batch[1]) == "<pad><pad><pad><pad><s>c + a =>"
    for row in batch:
        assert tokenizer(tokenizer.decode(row), add_special_tokens=False)["input_ids"] == row


def test_no_prompt_can_be_read_as_a_special_token() -> None:
    task_set = _set("<|s|>|u", 3, "", "->")
    assert special_tokens(task_set).bos == "⟨s⟩"
    tokenizer, text = word_level_tokenizer(task_set), "<s>->u\n<s>->"
    assert tokenizer.convert_ids_to_tokens(_encode(tokenizer, text)) == "⟨s⟩ < s > -> u < s > ->".split()
    assert tokenizer.decode(_encode(tokenizer, text), skip_special_tokens=True) == text
    with pytest.raises(TaskError, match="none is left for the special tokens"):
        special_tokens(_set("|".join(pair[0] for pair in BRACKETS), 1, " ", "->"))


@pytest.mark.parametrize("name", ["retrieval", "country", "copy_add"])
def test_a_saved_tokenizer_is_read_by_the_auto_class_with_all_it_has(name: str, tmp_path: Path) -> None:
    task_set = build_suite(name)
    made = word_level_tokenizer(task_set, positions=37)
    made.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    size = len(task_set.alphabet)
    assert read.model_max_length == 37
    assert read.padding_side == "left"
    assert read.model_input_names == ["input_ids", "attention_mask"]
    assert [read.bos_token_id, read.unk_token_id, read.pad_token_id] == [size, size + 2, size + 3]
    assert read.eos_token is None
    assert read.convert_tokens_to_ids(task_set.format.arrow) == size + 1
    prompt = Prompt((), (0,) * task_set.inputs)
    text = format_prompt(prompt, task_set)
    assert _encode(read, text) == _ids(task_set, prompt)
    assert read.decode(_encode(read, text), skip_special_tokens=True) == text


def test_a_task_file_of_ones_own_is_read_in_its_format(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(
        '{"name": "own", "alphabet": ["New York", "New", "York", "¿qué?"], "inputs": 2, '
        '"format": {"separator": " | ", "arrow": " ⇒ "}, '
        '"tasks": [{"name": "first", "reads": [0], "rows": [["New", "York"]]}]}',
        encoding="utf-8",
    )
    task_set = load_task_file(path)
    tokenizer, text = word_level_tokenizer(task_set), "New York | New ⇒ ¿qué?\nYork | New ⇒"
    assert _encode(tokenizer, text) == [4, 0, 1, 5, 3, 2, 1, 5]
    assert tokenizer.decode(_encode(tokenizer, text), skip_special_tokens=True) == text


def test_white_space_and_line_breaks_are_those_of_python() -> None:
    letters = list(map(chr, range(sys.maxunicode + 1)))
    assert set(WHITE_SPACE) == {letter for letter in letters if letter.isspace()}
    assert set(LINE_BREAKS) == {letter for letter in letters if len(f"a{letter}b".splitlines()) == 2}


@pytest.mark.parametrize("letter", string.punctuation)
def test_any_printable_character_can_stand_in_a_token_a_separator_and_an_arrow(letter: str) -> None:
    token, separator, arrow = f"x{letter}", f"{letter}1", f"{letter}2"
    first = TableTask("first", (0,), {(0,): 0})
    task_set = TaskSet("set", (token, "y"), 2, Format(separator, arrow), (first,))
    tokenizer = word_level_tokenizer(task_set)
    text = f"{token}{separator}y{arrow}{token}\ny{separator}y{arrow}"
    assert _encode(tokenizer, text) == [2, 0, 1, 3, 0, 1, 1, 3]
    assert tokenizer.decode(_encode(tokenizer, text), skip_special_tokens=True) == text


def test_truncated_to_the_longest_prompt_are_the_last_examples() -> None:
    task_set = _set("a|b|c", 2, " ", "->")
    tokenizer = word_level_tokenizer(task_set, positions=Layout(3, 2, 1).positions)
    ids = tokenizer("a a->a\nb b->b\nc c->c\na b->", truncation=True)["input_ids"]
    assert tokenizer.decode(ids) == "<s>c c->c\na b->"
