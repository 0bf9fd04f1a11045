"""The parts of a prompt are found among its tokens."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from construct.prompts import Layout
from construct.suites import build_suite
from empirical.language_model import Options, load_pretrained
from empirical.positions import spots_of_layout, spots_of_text
from empirical.runtime import Runtime
from empirical.settings import Cell, Rules, draw


def test_in_a_constructions_layout_they_are_where_the_layout_has_them() -> None:
    task_set = build_suite("copy_add")
    (question,) = draw(task_set, Cell((1 / 3,) * 3, 2), 1, Rules())
    # BOS a b = y a b = y a b =
    spots = spots_of_layout(Layout(len(task_set.alphabet), 2, 5), question.prompt)
    assert spots.answers == (4, 8)
    assert spots.inputs == (((1,), (2,)), ((5,), (6,)))
    assert spots.last == 11


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("suite", ["numbers", "letters", "copy_add"])
def test_in_a_tokenizers_text_the_tokens_hold_what_is_said(
    family: str, suite: str, tiny: Callable[[str], Path]
) -> None:
    _, encoder, _ = load_pretrained(str(tiny(family)), Runtime("cpu", "float32"), Options())
    task_set = build_suite(suite)
    count = len(task_set.tasks)
    (question,) = draw(task_set, Cell((1 / count,) * count, 7), 1, Rules())
    ids, spots = spots_of_text(encoder, question, task_set)
    assert ids == encoder.ids(question.text)
    assert spots.last == len(ids) - 1
    text = {place: encoder.text([token]) for place, token in enumerate(ids)}
    for example, answer, places in zip(question.prompt.examples, spots.answers, spots.inputs, strict=True):
        written = task_set.alphabet[example.answer]
        assert text[answer].strip().endswith(written[-1])
        for token, tokens in zip(example.inputs, places, strict=True):
            assert task_set.alphabet[token] in "".join(text[place] for place in tokens)
        assert max(max(tokens) for tokens in places) <= answer
