"""docs/export.md: its commands exist with their options, and its examples print what stands below them."""

import re
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest

from construct.cli import COMMANDS
from tests.construct.conftest import Command
from tests.construct.test_docs import commands_in

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```(?P<kind>console|python|text)\n(?P<block>.*?)\n```", re.MULTILINE | re.DOTALL)


def without_times(printed: str) -> str:
    return re.sub(r"(?<= in )[\d.]+ s\b", "-", printed)


def test_the_commands_exist_with_their_options() -> None:
    inline = "\n".join(f"```\n{code}\n```" for code in re.findall(r"`(construct [^`]+)`", PAGE))
    found = commands_in(PAGE) + commands_in(inline)
    assert len(found) > 5
    for words in found:
        command = import_module(COMMANDS[words[1]].module).command
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words


def test_the_examples_print_what_stands_below_them(
    construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    shown, printed = 0, ""
    for match in BLOCKS.finditer(PAGE):
        if match["kind"] == "python":
            with redirect_stdout(StringIO()) as out:
                exec(match["block"], {})
            printed = out.getvalue()
        elif match["kind"] == "text":
            shown += 1
            assert printed == match["block"] + "\n"
        else:
            for part in match["block"].removeprefix("$ ").split("\n$ "):
                line, _, expected = part.partition("\n")
                ran = construct(*line.split()[1:])
                assert ran.status == 0, ran
                if expected:
                    shown += 1
                    assert without_times(ran.out.rstrip("\n")) == without_times(expected)
    assert shown == 4
