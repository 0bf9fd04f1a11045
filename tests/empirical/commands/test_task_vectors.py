"""`construct task-vectors`."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from construct.artifact import save
from construct.seven_layer import seven_layer
from construct.suites import build_suite
from tests.empirical.conftest import Command


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("built") / "seven"
    save(seven_layer(build_suite("letters", tasks=3), examples=6), directory)
    return directory


def test_the_layer_where_evidence_is_averaged_is_found(construct: Command, seven: Path, tmp_path: Path) -> None:
    run = ("--examples", 6, "--prompts", 8, "--mixture", "first_letter=3,last_letter=2,lower=1")
    ran = construct("task-vectors", seven, *run, "--json", tmp_path / "v.json")
    assert (ran.status, ran.err) == (0, "")
    assert "\n  5 *    1.000     1.000        1.0000" in ran.out
    assert "  first_letter  0.500   0.500" in ran.out
    found = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert found["layer"] == 5
    assert found["geometry"][4]["recovered"] == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=1e-5)
    assert len(found["projections"]["pca"]["points"]) == 4 * 8


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_a_pretrained_model_is_opened_too(construct: Command, tiny: Callable[[str], Path]) -> None:
    tasks = ("--suite", "letters", "--tasks", "lower,last_letter")
    ran = construct("task-vectors", tiny("opt"), *tasks, "--examples", 4, "--prompts", 5, "--mode", "replace")
    assert ran.status == 0, ran.err
    assert "Task vectors by layer" in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", 8], ("--layer is 8", "1 to 7")),
        (["--tasks", "lower"], ("one task", "at least two")),
        (["--prompts", 3], ("3 prompts", "at least 4")),
        (["--examples", 7], ("has 7 examples", "at most 6")),
    ],
)
def test_unusable_input_ends_in_one_line(
    arguments: list[object], words: tuple[str, ...], construct: Command, seven: Path
) -> None:
    small = [] if "--examples" in arguments else ["--examples", 3]
    few = [] if "--prompts" in arguments else ["--prompts", 4]
    construct("task-vectors", seven, *small, *few, *arguments).refused(*words)
