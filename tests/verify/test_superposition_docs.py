"""The examples of docs/theory/composition.md print what is written there."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.construct.conftest import Command

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "theory" / "composition.md"
BLOCK = re.compile(r"<<'END'\n(?P<code>.*?)\nEND\n(?P<printed>.*?)\n(?=\$ |```)", re.DOTALL)
PREDICTED = re.compile(r"\$ printf '(?P<prompt>[^']*)' \| construct predict mixed -\n(?P<printed>.*?)\n```", re.DOTALL)


def examples() -> list[re.Match[str]]:
    """Those that take seconds and train nothing: training depends on the machine."""
    found = list(BLOCK.finditer(DOCUMENT.read_text(encoding="utf-8")))
    return [match for match in found if "trained_network" not in match["code"] and "mutants" not in match["code"]]


def run(code: str) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, str(DOCUMENT), "exec"), {"__name__": "example"})
    return printed.getvalue()


def test_there_are_the_examples_that_the_document_had_when_this_was_written() -> None:
    assert len(examples()) == 2


@pytest.mark.parametrize("number", [0, 1])
def test_an_example_prints_what_stands_below_it(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, construct: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    example = examples()[number]
    assert run(example["code"]) == example["printed"] + "\n"
    if "mixed" in example["code"]:
        shown = PREDICTED.search(DOCUMENT.read_text(encoding="utf-8"))
        assert shown is not None
        ran = construct("predict", "mixed", "-", stdin=shown["prompt"].replace("\\n", "\n"))
        assert ran.status == 0
        assert ran.out == shown["printed"] + "\n"
