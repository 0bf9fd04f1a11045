"""What the tests of `construct` share: the command in this process, and one small construction's folder."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from construct import cli
from construct.artifact import save
from construct.suites import build_suite
from construct.theorems import two_layer

NEED_TRANSFORMERS = ["test_export_files.py", "test_export_tokenizer.py", "commands/test_export.py"]
collect_ignore = NEED_TRANSFORMERS if find_spec("transformers") is None else []


@dataclass(frozen=True)
class Ran:
    """What one run of the command gave."""

    status: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """Assert exit status 2 and one line on standard error that holds each of the words."""
        assert self.status == 2, self
        assert self.out == "", self
        assert self.err.startswith("error: "), self
        assert self.err.endswith("\n"), self
        assert self.err.count("\n") == 1, self
        for word in words:
            assert word in self.err, self


Command = Callable[..., Ran]


@pytest.fixture
def construct(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `construct` with arguments, and text or bytes as standard input, through its entry point."""

    def run(*arguments: object, stdin: str | bytes = b"") -> Ran:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "argv", ["construct", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
        capfd.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as end:  # any other exception would be a traceback, and fails the test
            status = end.code if isinstance(end.code, int) else 1
        out, err = capfd.readouterr()
        return Ran(status, out, err)

    return run


@pytest.fixture(scope="session")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a construction of the suite `country` with m = 7; to be read only."""
    directory = tmp_path_factory.mktemp("built") / "country"
    save(two_layer(build_suite("country"), examples=7), directory)
    return directory
