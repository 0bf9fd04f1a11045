"""The documentation: docstring examples run, and the commands that are written down exist."""

import doctest
import pkgutil
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

import construct
from construct.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
MODULES = [name for _, name, _ in pkgutil.walk_packages(construct.__path__, "construct.") if name != "construct.cli"]
WITH_EXAMPLES = [
    "construct.four_squares",
    "construct.residual_stream",
    "construct.seven_reads",
    "construct.suites",
    "construct.vector_mlp",
]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]


@pytest.mark.parametrize("name", [*MODULES, "construct.cli"])
def test_the_examples_in_docstrings_hold(name: str) -> None:
    module = import_module(name)
    result = doctest.testmod(module)
    assert result.failed == 0
    assert (result.attempted > 0) == (name in WITH_EXAMPLES), "keep the list of modules with examples as it is"


def commands_in(text: str) -> list[list[str]]:
    """The words of every `construct ...` line in the code blocks of a Markdown text, prompts and pipes left out."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split(r"\||&&|;", line.removeprefix("$ "))]
    return [shlex.split(part, comments=True) for part in parts if re.match(r"(\S*/)?construct\s", part)]


def test_commands_are_found_in_code_blocks_only() -> None:
    text = (
        "construct no\n```sh\n$ construct build \\\n  --tasks 3 # three\ncat x | .venv/bin/construct predict d -\n```\n"
    )
    assert commands_in(text) == [["construct", "build", "--tasks", "3"], [".venv/bin/construct", "predict", "d", "-"]]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_that_are_written_down_exist_with_their_options(document: str) -> None:
    for words in commands_in((ROOT / document).read_text(encoding="utf-8")):
        if words[1].startswith("-"):
            assert words[1] in ("--help", "--version", "-h"), words
            continue
        assert words[1] in COMMANDS, words
        command = import_module(COMMANDS[words[1]].module).command
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words


def test_the_readme_shows_the_commands() -> None:
    shown = {words[1] for words in commands_in((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {"build", "predict"} <= shown


def test_every_package_module_says_what_it_is_for() -> None:
    for name in [*MODULES, "construct"]:
        assert (import_module(name).__doc__ or "").strip(), name
