"""Models are looked into by structure, and changed where that is asked for and nowhere else."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from construct.artifact import load
from construct.errors import InputError
from construct.oracle import answer
from construct.suites import build_suite
from empirical.language_model import Options
from empirical.open_model import ADD, REPLACE, Edit, OpenConstruction, find_blocks, open_inside
from empirical.runtime import Runtime
from empirical.settings import Cell, Question, Rules, draw

CPU = Runtime("cpu", "float32")
needed = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "opt", "gemma")


def _questions(count: int, examples: int, seed: int = 0) -> list[Question]:
    task_set = build_suite("letters", tasks=3)
    return list(draw(task_set, Cell((1 / 3,) * 3, examples), count, Rules(seed=seed)))


class _Odd(nn.Module):
    """Two lists that look like blocks by name and are not, and one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 7), nn.Linear(7, 5)])
        self.h = nn.ModuleList([nn.Linear(5, 5)])
        self.strange_name = nn.ModuleList([nn.Linear(5, 5) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.strange_name:
            x = block(x)
        x = self.layers[1](self.layers[0](x))
        return self.h[0](x)


def test_blocks_are_found_by_what_they_do_and_not_by_their_name() -> None:
    model = _Odd()
    assert find_blocks(model, lambda: model(torch.zeros(2, 3, 5))) is model.strange_name
    bare = nn.Linear(5, 5)
    with pytest.raises(InputError, match="no list of decoder blocks was found in Linear"):
        find_blocks(bare, lambda: bare(torch.zeros(2, 3, 5)))


@needed
@pytest.mark.parametrize("family", FAMILIES)
def test_the_three_blocks_of_every_family_are_found(family: str, tiny: Callable[[str], Path]) -> None:
    opened = open_inside(str(tiny(family)), CPU, Options(), patterns=True).model
    assert opened.layers == 3
    assert opened.states(_questions(2, 3)).shape == (2, 3, 24)


@needed
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_state_put_where_it_was_changes_nothing_and_another_one_does(
    family: str, tiny: Callable[[str], Path]
) -> None:
    opened = open_inside(str(tiny(family)), CPU, Options(), patterns=True).model
    questions = _questions(1, 4)
    plain = opened.probabilities(questions)
    states = opened.states(questions)
    same = opened.probabilities(questions, Edit(1, states[0, 1], REPLACE))
    # Put back in float32 from float64, the state is the same number.
    assert same == pytest.approx(plain, rel=1e-6)
    assert opened.probabilities(questions, Edit(1, np.zeros(24), ADD)) == pytest.approx(plain, rel=1e-6)
    other = opened.states(_questions(1, 4, seed=1))
    assert np.abs(opened.probabilities(questions, Edit(1, other[0, 1], REPLACE)) / plain - 1).max() > 1e-2
    assert opened.probabilities(questions) == pytest.approx(plain, rel=1e-6)


@needed
def test_later_tokens_of_an_answer_see_the_change_through_the_cache(tiny: Callable[[str], Path]) -> None:
    """After the last block nothing is cached any more, so only the first token's probability can change."""
    opened = open_inside(str(tiny("gpt2")), CPU, Options()).model
    questions = _questions(1, 4)
    shift = np.zeros(24)
    shift[3] = 5.0
    plain = np.log(opened.probabilities(questions))
    early = np.log(opened.probabilities(questions, Edit(0, shift, ADD))) - plain
    last = np.log(opened.probabilities(questions, Edit(2, shift, ADD))) - plain
    scorer = opened.scorer
    (encoded,) = opened._encoded(questions)
    first = scorer.prefill([encoded.stem]).next_log_probabilities[0]
    with_edit = _first_tokens(opened, encoded, Edit(2, shift, ADD))
    changes = [float(with_edit[tail[0]] - first[tail[0]]) for tail in encoded.tails]
    assert last[0] == pytest.approx(changes, abs=1e-4)
    early_first = _first_tokens(opened, encoded, Edit(0, shift, ADD))
    early_changes = [float(early_first[tail[0]] - first[tail[0]]) for tail in encoded.tails]
    assert np.abs(early[0] - early_changes).max() > 1e-2


def _first_tokens(opened: object, encoded: object, edit: Edit) -> Tensor:
    from empirical.open_model import edited

    with edited(opened.blocks, edit):  # type: ignore[attr-defined]
        found: Tensor = opened.scorer.prefill([encoded.stem]).next_log_probabilities[0]  # type: ignore[attr-defined]
    return found


def test_a_construction_answers_with_the_oracles_distribution(letters: Path) -> None:
    construction = load(letters)
    opened = OpenConstruction(construction, CPU)
    assert opened.layers == 2
    questions = _questions(5, 11)
    for question, found in zip(questions, opened.probabilities(questions), strict=True):
        exact = answer(construction.task_set, question.prompt).distribution
        outputs = [task.answer(question.prompt.query) for task in construction.task_set.tasks]
        # |q_hat - q|_1 <= 1e-6 in real arithmetic; float32 adds rounding of about 1e-6 a number of order 1.
        assert found == pytest.approx([float(exact[output or 0]) for output in outputs], abs=1e-5)
