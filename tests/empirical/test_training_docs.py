"""docs/training.md: its commands exist with their options, and what it says of the presets is so."""

import re
from importlib import import_module
from pathlib import Path

from construct.cli import COMMANDS
from empirical.training.presets import PRESETS
from tests.construct.test_docs import commands_in

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_commands_exist_with_their_options() -> None:
    found = commands_in(PAGE)
    launched = [line.split("construct.cli ")[1].split() for line in PAGE.splitlines() if "construct.cli train" in line]
    found += [["construct", *words] for words in launched]
    assert len(found) >= 5
    for words in found:
        command = import_module(COMMANDS[words[1]].module).command
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words
    options = {
        option for parameter in import_module(COMMANDS["train"].module).command.params for option in parameter.opts
    }
    named = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--multi", "--cpu"}  # of accelerate
    assert named <= options | {"--no-compile"}, named - options


def test_the_presets_are_as_the_table_says() -> None:
    rows = {cells[0].strip(" `"): cells for line in PAGE.splitlines() if len(cells := line.split("|")[1:-1]) == 5}
    for name, preset in PRESETS.items():
        _, _, suite, model, steps = map(str.strip, rows[name])
        own = preset.settings
        assert suite == f"{preset.suite}, K={preset.tasks} V={preset.alphabet_size} n={preset.inputs}"
        kind = {"gpt2": "GPT-2", "llama": "Llama"}[own.architecture]
        assert model == f"{kind}, {own.layers} layers, {own.heads} heads, {own.width} wide"
        assert steps == f"{own.steps:,} x {own.batch}"
