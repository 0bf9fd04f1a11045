"""`construct train`: as it is written in the documents, killed at any moment, by several processes, and refused."""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("transformers") is None or find_spec("accelerate") is None:
    pytest.skip("transformers and accelerate are not installed", allow_module_level=True)

from construct.artifact import save
from construct.suites import build_suite
from construct.theorems import two_layer
from empirical import runtime
from empirical.commands import train as train_command
from empirical.language_model import Options, open_model
from empirical.records import load_results
from empirical.settings import Cell, Rules, draw
from empirical.training.loop import Told
from empirical.training.models import logits_at
from empirical.training.progress import read_log
from tests.empirical.conftest import Command, launched

SIZES = ("--tasks", 3, "--alphabet-size", 11, "--inputs", 3, "--examples", 5, "--layers", 1, "--heads", 2, "--width", 8)
SMALL = (
    *SIZES,
    "--mlp-width",
    8,
    "--batch",
    4,
    "--steps",
    20,
    "--warmup",
    5,
    "--validation-prompts",
    5,
    "--threads",
    1,
)

# Trains in WHOLE, then in KILLED again and again, each time in a new process, which the kernel ends without a word
# after a part of the processor time that the whole run took: a slow machine and a fast one are cut at the same places.
# What is imported before the processes part makes them quick to start; nothing is computed before.
KILLER = """
import os, random, signal, sys
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast
from construct.cli import main
import empirical.commands.train, torch._dynamo
whole, killed, *arguments = sys.argv[1:]

def train(out, seconds=0):
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        sys.argv = ["construct", "train", *arguments, "--out", out]
        try:
            main()
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(0)
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime

code, seconds = train(whole)
chance, kills = random.Random(5), 0
for part in (0.5, chance.uniform(0.1, 0.5), chance.uniform(0.1, 0.5), 0):
    if not code:
        code, _ = train(killed, part * seconds)
        kills += code == -signal.SIGPROF
        code = 0 if part and code == -signal.SIGPROF else code
print("killed", kills)
sys.exit(code)
"""


def _weights(directory: Path) -> bytes:
    return (directory / "checkpoint" / "model.safetensors").read_bytes()


def test_train_evaluate_and_compare_work_as_written(
    construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = construct("train", *SMALL, "--validate-every", 10, "--out", "trained")
    assert ran.status == 0, ran.err
    assert ran.out == "trained for 20 steps: trained/checkpoint; `construct evaluate trained` asks it\n"
    assert [line.split(",")[0] for line in ran.err.splitlines()] == ["step 10 of 20", "step 20 of 20"]
    for word in ("loss", "accuracy ret_1", "KL", "S ", "tokens/s", "left"):
        assert word in ran.err
    construct("compare", "construction", "trained").refused("not evaluated yet", "construct evaluate trained")
    assert construct("evaluate", "trained", "--prompts", 12).status == 0
    results = load_results(Path("trained/evaluation"))
    # As it was trained: all tasks, five examples.
    assert (results.header["tasks"], results.cells) == (["ret_1", "ret_2", "ret_3"], (Cell((1 / 3,) * 3, 5),))
    assert results.model == "trained"
    ran = construct("compare", "construction", "trained")
    assert ran.status == 0, ran.err
    assert "construction" in ran.out.splitlines()[1]
    exact = next(line for line in ran.out.splitlines() if "TV to exact" in line)
    assert "0.000 [0.000, 0.000]" in exact  # of the construction, which was built on the spot
    save(two_layer(build_suite("retrieval", tasks=3, alphabet_size=11, inputs=3), examples=6), Path("by-hand"))
    by_hand = construct("compare", "by-hand", "trained")
    assert next(line for line in by_hand.out.splitlines() if "TV to exact" in line).split() == exact.split()
    # The checkpoint by itself is a model's folder like any other.
    assert construct("evaluate", "trained/checkpoint", "--prompts", 2, "--shots", "1,2", "--out", "again").status == 0
    assert load_results(Path("again")).cells == (Cell((1 / 3,) * 3, 1), Cell((1 / 3,) * 3, 2))


def test_its_tokenizer_gives_the_prompts_that_it_was_trained_on(construct: Command, tmp_path: Path) -> None:
    out = tmp_path / "trained"
    assert construct("train", *SMALL, "--out", out).status == 0
    task_set = build_suite("retrieval", tasks=3, alphabet_size=11, inputs=3)
    model = open_model(str(out), runtime.choose("cpu"), Options(), warn=pytest.fail)
    questions = list(draw(task_set, Cell((0.5, 0.5, 0.0), 5), 7, Rules()))
    import torch

    from construct.prompts import Layout

    layout = Layout(11, 3, 5)
    ids = torch.tensor([layout.ids(question.prompt) for question in questions])
    raw: Any = model.scorer.model  # type: ignore[attr-defined]
    logs = logits_at(raw, ids, torch.tensor([layout.positions - 1]))[:, 0].log_softmax(-1).detach().double().numpy()
    for row, question, answer in zip(logs, questions, model.answer(questions), strict=True):
        wanted = [row[task_set.ids[candidate.strip()]] for candidate in question.candidates]
        assert answer.log_probabilities == pytest.approx(wanted, abs=1e-5)
    assert np.isfinite(logs).all()


def test_a_run_killed_at_any_moment_ends_with_the_same_weights(tmp_path: Path) -> None:
    arguments = [*map(str, SMALL), "--steps", "60", "--save-every", "0.05", "--validate-every", "20"]
    command = [sys.executable, "-c", KILLER, str(tmp_path / "whole"), str(tmp_path / "killed"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 1, done.stdout
    losses = [[(row["step"], row["loss"]) for row in read_log(tmp_path / name)[1]] for name in ("whole", "killed")]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == [20, 40, 60]
    assert _weights(tmp_path / "whole") == _weights(tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_that_says_how_to_go_on(
    number: signal.Signals, construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*SMALL, "--validate-every", 5, "--out")
    assert construct("train", *arguments, tmp_path / "whole").status == 0
    tell = train_command._tell

    def send(told: Told) -> None:
        if told.row.step == 10:
            os.kill(os.getpid(), number)
        tell(told)

    monkeypatch.setattr(train_command, "_tell", send)
    ran = construct("train", *arguments, tmp_path / "cut")
    assert ran.status == 128 + number
    assert ran.err.endswith(f"{number.name} after step 10, which is saved: run the same command to go on\n")
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    ran = construct("train", *arguments, tmp_path / "cut")
    assert ran.err.startswith("step 15 of 20")
    assert _weights(tmp_path / "whole") == _weights(tmp_path / "cut")


def test_two_processes_have_the_loss_of_one(construct: Command, tmp_path: Path) -> None:
    arguments = ["train", *map(str, SMALL), "--validate-every", "5", "--accumulate", "2", "--device", "cpu", "--out"]
    assert construct(*arguments, tmp_path / "one").status == 0
    done = launched(2, *arguments, str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained for 20 steps") == 1
    (_, one), (head, two) = (read_log(tmp_path / name) for name in ("one", "two"))
    assert head["processes"] == 2
    # Sums in another order: float32 keeps 7 digits, and 20 steps amplify what is lost.
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-4)
    assert len(two) == 4


def test_a_loss_that_is_no_number_ends_with_status_1(construct: Command, tmp_path: Path) -> None:
    ran = construct("train", *SMALL, "--rate", "1e30", "--save-every", 0, "--out", tmp_path / "out")
    assert ran.status == 1
    assert "lower --rate" in ran.err
    assert "Traceback" not in ran.err


def test_tasks_of_a_file_are_trained(construct: Command, tmp_path: Path) -> None:
    rows = [["aa", "b"], ["bb", "c"], ["c", "aa"]]
    tasks = [
        {"name": "next", "reads": [0], "rows": rows},
        {"name": "same", "reads": [0], "rows": [[key, key] for key, _ in rows]},
    ]
    path = tmp_path / "tasks.json"
    alphabet = ["aa", "b", "bb", "c"]
    path.write_text(json.dumps({"name": "own", "alphabet": alphabet, "inputs": 1, "tasks": tasks}), encoding="utf-8")
    options = SMALL[6:]  # without the sizes of a suite
    ran = construct("train", "--task-file", path, *options, "--examples", 2, "--out", tmp_path / "out")
    assert ran.status == 0, ran.err
    assert "accuracy next" in ran.err
    construct("train", "--task-file", path, "--tasks", 2, "--out", tmp_path / "out").refused("--tasks and --task-file")
    construct("train", "--task-file", tmp_path, "--out", tmp_path / "out").refused("cannot read the task file")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--suite", "country", "--tasks", 9), ("tasks is 9", "has 3")),
        (("--tasks", 4, "--inputs", 3), ("tasks is 4 and inputs is 3",)),
        (("--suite", "nothing"), ("there is no suite 'nothing'",)),
        (("--context", 12), ("context is 12", "--context 30")),
        (("--heads", 3), ("the width must be a multiple of the heads",)),
        (("--batch", 0), ("batch is 0: expected at least 1",)),
        (("--steps", 5, "--minutes", 1), ("give one of them",)),
        (("--minutes", "nan"), ("give one of them",)),
        (("--mixed", -1), ("mixed is -1",)),
        (("--save-every", "nan"), ("--save-every is nan",)),
        (("--device", "abacus"), ("the device 'abacus' cannot be used",)),
        (("--preset", "huge"), ("huge",)),
        (("--precision", "fp16"), ("precision is 'fp16' on cpu",)),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(
    given: tuple[object, ...], words: tuple[str, ...], construct: Command, tmp_path: Path
) -> None:
    sizes = () if given[0] in ("--suite", "--tasks") else SMALL
    sizes = sizes[:-8] + sizes[-6:] if given[0] == "--minutes" else sizes
    ran = construct("train", *sizes, *given, "--out", tmp_path / "out")
    ran.refused(*words)
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_run_is_refused(construct: Command, tmp_path: Path) -> None:
    assert construct("train", *SMALL, "--out", tmp_path / "out").status == 0
    before = _weights(tmp_path / "out")
    construct("train", *SMALL, "--rate", 1e-3, "--out", tmp_path / "out").refused("another run", "rate", "--out")
    (tmp_path / "file").write_text("")
    construct("train", *SMALL, "--out", tmp_path / "file").refused("cannot use")
    assert _weights(tmp_path / "out") == before


def test_a_comparison_that_cannot_be_made_is_refused(
    construct: Command, letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    construct("compare", letters, letters).refused("constructions alone")
    assert construct("evaluate", letters, "--examples", 3, "--prompts", 2, "--out", "run").status == 0
    construct("compare", "construction", "run").refused("no folder construction", "construct build")
    assert construct("compare", letters, "run").status == 0
    construct("evaluate", letters).refused("--out")
