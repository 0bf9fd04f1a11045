"""What docs/theory/seven-layer.md prints is what its commands print."""

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "theory" / "seven-layer.md"
BLOCK = re.compile(r"<<'END'\n(?P<code>.*?)\nEND\n(?P<printed>.*?)\n```", re.DOTALL)
SESSION = re.compile(r"^```console\n(\$ construct build.*?)\n```", re.MULTILINE | re.DOTALL)


def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def without_times(printed: str) -> str:
    """How long it took is left out."""
    return re.sub(r"(?<=in )[\d.]+ s\b|(?<=seconds       )[\d.]+", "-", printed)


def test_the_examples_that_take_seconds_print_what_stands_below_them() -> None:
    found = [block for block in BLOCK.finditer(text()) if "mutants" not in block["code"]]  # those take minutes
    assert len(found) >= 1
    for example in found:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(example["code"], "seven-layer.md", "exec"), {"__name__": "example"})
        assert printed.getvalue() == example["printed"] + "\n"


def test_what_the_page_builds_is_certified_and_checked_as_it_says(tmp_path: Path) -> None:
    (session,) = SESSION.findall(text())
    programs = {"construct": ["-m", "construct.cli"], "python": []}
    steps = re.findall(r"^\$ (\S+) ([^\n]*)\n(.*?)(?=\n\$ |\Z)", session, re.MULTILINE | re.DOTALL)
    assert [program for program, _, _ in steps] == ["construct", "python"]
    for program, arguments, printed in steps:
        command = [sys.executable, *programs[program], *arguments.split()]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert without_times(ran.stdout) == without_times(printed) + "\n"


def test_the_mutants_of_the_page_add_up() -> None:
    """The run takes minutes; what it prints must at least be of so many models, and none wrong and certified."""
    (found,) = (block["printed"] for block in BLOCK.finditer(text()) if "mutants" in block["code"])
    counts = {what: int(number) for number, what in (line.split(" ", 1) for line in found.splitlines())}
    assert set(counts) == {"harmless and certified", "harmless and refused", "wrong and refused"}
    assert sum(counts.values()) == 4 * 500
