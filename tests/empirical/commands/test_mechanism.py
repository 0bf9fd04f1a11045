"""`construct mechanism`."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.empirical.conftest import Command


def test_the_constructions_heads_are_named(construct: Command, letters: Path, tmp_path: Path) -> None:
    ran = construct("mechanism", letters, "--examples", 6, "--prompts", 20, "--json", tmp_path / "m.json")
    assert (ran.status, ran.err) == (0, "")
    row = next(line for line in ran.out.splitlines() if str(letters) in line)
    assert "1.1 1.000, 1.000  2.1 1.000, 1.000  none" in row
    (found,) = json.loads((tmp_path / "m.json").read_text(encoding="utf-8")).values()
    assert len(found["probes"]["evidence"]) == 2
    assert len(found["model"]["sha256"]) == 64


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_models_of_several_kinds_stand_in_one_table(
    construct: Command, letters: Path, tiny: Callable[[str], Path]
) -> None:
    ran = construct("mechanism", letters, tiny("qwen2"), "--examples", 4, "--prompts", 6)
    assert ran.status == 0, ran.err
    assert all(any(str(name) in line for line in ran.out.splitlines()) for name in (letters, tiny("qwen2")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--examples", 1], ("of 1 examples", "2 examples")),
        (["--prompts", 3], ("3 prompts",)),
        (["--examples", 18], ("has 18 examples", "at most 17")),
        (["--suite", "country"], ("unknown token",)),
    ],
)
def test_unusable_input_ends_in_one_line(
    arguments: list[object], words: tuple[str, ...], construct: Command, letters: Path
) -> None:
    construct("mechanism", letters, *arguments).refused(*words)
