"""docs/interpretability.md, as far as it can be tested without the extra: its commands, its code, its table."""

import re
from importlib import import_module
from pathlib import Path

from construct.cli import COMMANDS
from construct.ground_truth import ground_truth
from construct.suites import build_suite
from construct.theorems import two_layer
from tests.construct.test_docs import commands_in

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "interpretability.md").read_text(encoding="utf-8")
ABOUT_THE_KEY_ITSELF = {"format", "format_version", "theorem", "layers", "d_model"}


def test_the_commands_exist_with_their_options() -> None:
    inline = "\n".join(f"```\n{code}\n```" for code in re.findall(r"`(construct [^`]+)`", PAGE))
    found = commands_in(PAGE) + commands_in(inline)
    assert len(found) > 3
    for words in found:
        command = import_module(COMMANDS[words[1]].module).command
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words


def test_the_table_lists_what_the_key_holds() -> None:
    key = ground_truth(two_layer(build_suite("plus"), examples=2))
    listed = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert len(set(listed)) == len(listed)
    assert set(listed) | ABOUT_THE_KEY_ITSELF == set(key)


def test_every_example_is_python_and_its_output_stands_below_it() -> None:
    kinds = re.findall(r"^```(python|text)$", PAGE, re.MULTILINE)
    assert kinds == ["python", "text"] * 3
    for number, block in enumerate(re.findall(r"^```python\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL)):
        compile(block, f"example {number}", "exec")


def test_the_make_target_and_the_extra_that_are_named_exist() -> None:
    assert "make test-interpretability" in PAGE
    assert re.search(r"^test-interpretability:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert "task-superposition[interpretability]" in PAGE
    assert re.search(r"^interpretability = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
