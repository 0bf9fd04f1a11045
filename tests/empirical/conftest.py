"""What the tests of `empirical` share: the command in this process, small models, a construction's folder."""

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from construct import cli
from construct.artifact import save
from construct.suites import build_suite
from construct.theorems import two_layer

NEEDS_TRANSFORMERS = ["test_scoring.py", "test_search.py", "test_tokenizing.py", "test_known_answers.py"]
collect_ignore = NEEDS_TRANSFORMERS if find_spec("transformers") is None else []


@dataclass(frozen=True)
class Ran:
    """What one run of the command gave."""

    status: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """Assert exit status 2 and one line on standard error that holds each of the words."""
        assert self.status == 2, self
        assert self.err.startswith("error: "), self
        assert self.err.count("\n") == 1, self
        for word in words:
            assert word in self.err, self


Command = Callable[..., Ran]


@pytest.fixture(scope="session")
def _logging() -> None:
    """The log handler of transformers keeps the standard error of its import: not one that a test's end closes."""
    if find_spec("transformers") is not None:
        import_module("transformers")


@pytest.fixture
def construct(_logging: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `construct` with arguments through its entry point."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["construct", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8"))
        capfd.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as end:  # any other exception would be a traceback, and fails the test
            status = end.code if isinstance(end.code, int) else 1
        out, err = capfd.readouterr()
        return Ran(status, out, err)

    return run


def launched(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `construct` by so many processes on the CPU.

    With --cpu accelerate launch starts one process, whatever number it is told; --multi_gpu starts them all, and where
    there is no GPU they use the CPU. The port that it finds free may be taken before it is used: then once more.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "construct.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "EADDRINUSE" in done.stderr:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small model of a family; made once; to be read only."""
    from tests.empirical.tiny_models import make

    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = make(family, tmp_path_factory.mktemp("tiny") / family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a construction of the first three tasks of the suite `letters`, m = 17; to be read only."""
    directory = tmp_path_factory.mktemp("built") / "letters"
    save(two_layer(build_suite("letters", tasks=3), examples=17), directory)
    return directory
