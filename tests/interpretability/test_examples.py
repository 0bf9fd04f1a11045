"""docs/interpretability.md: its examples run, find what they state, and print what stands below them."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from tests.construct.conftest import Command, construct

__all__ = ["construct"]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "interpretability.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```(?P<kind>console|python|text)\n(?P<block>.*?)\n```", re.MULTILINE | re.DOTALL)


def test_the_examples_find_what_they_state_and_print_what_stands_below_them(
    construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shown, printed = 0, ""
    with torch.enable_grad():  # puts back what the examples set
        for match in BLOCKS.finditer(PAGE):
            if match["kind"] == "console":
                for line in match["block"].removeprefix("$ ").split("\n$ "):
                    ran = construct(*line.split()[1:])
                    assert ran.status == 0, ran
            elif match["kind"] == "python":
                Path("example.py").write_text(match["block"], encoding="utf-8")  # nnsight reads its block's source
                with redirect_stdout(StringIO()) as out:
                    exec(compile(match["block"], str(Path("example.py").resolve()), "exec"), {"__name__": "__main__"})
                printed = out.getvalue()
            else:
                shown += 1
                assert printed == match["block"] + "\n"
    assert shown == 3
