"""`construct evaluate`: what it writes, how it goes on after a kill, what it refuses."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from empirical import language_model
from empirical.language_model import Answer, ConstructedModel
from empirical.measures import distance_to_oracle, mean
from empirical.records import load_results
from empirical.settings import Question
from empirical.superposition_index import oracle_index, superposition_index
from tests.empirical.conftest import Command, launched

NEEDED = find_spec("transformers") is not None and find_spec("accelerate") is not None
transformers_needed = pytest.mark.skipif(not NEEDED, reason="transformers and accelerate are not installed")
LETTERS = ("--suite", "letters", "--tasks", "first_letter,last_letter,lower")
SMALL = ("--examples", 6, "--prompts", 11, "--batch", 3)


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_construction_gives_the_exact_superposition(construct: Command, letters: Path, tmp_path: Path) -> None:
    ran = construct("evaluate", letters, "--examples", 17, "--prompts", 13, "--out", tmp_path / "out")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("Superposed or committed?")
    results = load_results(tmp_path / "out")
    sample = results.sample(0)
    # The construction claims |q_hat - q|_1 <= 1e-6; the files keep six digits of the logarithm.
    assert distance_to_oracle(sample).max() <= 1e-5
    assert superposition_index(sample).value == pytest.approx(oracle_index(sample), abs=1e-5)
    assert mean(sample.correct).value == 3
    assert sample.exact.all()


def test_every_line_has_what_is_needed_to_know_it_again(construct: Command, letters: Path, tmp_path: Path) -> None:
    construct("evaluate", letters, *SMALL, "--seed", 5, "--out", tmp_path / "out")
    header, *rows = _lines(tmp_path / "out")
    assert len(header["model"]["sha256"]) == 64
    assert header["model"]["theorem"] == "two-layer"
    assert {"python", "torch", "numpy", "task-superposition"} <= header["model"]["versions"].keys()
    assert (header["seed"], header["model"]["device"], header["model"]["dtype"]) == (5, "cpu", "float32")
    assert [(row["cell"], row["index"]) for row in rows] == [(0, index) for index in range(11)]


def test_a_killed_run_goes_on_and_ends_with_the_same_file(
    construct: Command, letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    construct("evaluate", letters, *SMALL, "--out", tmp_path / "whole")
    answer, asked = ConstructedModel.answer, []

    def killed(self: ConstructedModel, questions: Sequence[Question], *, completions: int = 0) -> list[Answer]:
        asked.append(len(questions))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(self, questions, completions=completions)

    monkeypatch.setattr(ConstructedModel, "answer", killed)
    ran = construct("evaluate", letters, *SMALL, "--out", tmp_path / "killed")
    assert ran.status == 130
    part = tmp_path / "killed" / "part-0.jsonl"
    assert len(part.read_text(encoding="utf-8").splitlines()) == 1 + 2 * 3
    with part.open("ab") as file:
        file.write(b'{"record": "prompt", "cell": 0, "ind')  # as a write that was cut off leaves it
    construct("report", tmp_path / "killed").refused("unfinished run")
    asked.clear()
    asked.extend([0] * 5)
    assert construct("evaluate", letters, *SMALL, "--out", tmp_path / "killed").status == 0
    assert asked[5:] == [3, 2]  # only the batches that were not whole
    whole, again = ((tmp_path / name / "results.jsonl").read_bytes() for name in ("whole", "killed"))
    assert whole == again
    assert not part.exists()


def test_a_finished_run_is_not_run_again(
    construct: Command, letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    construct("evaluate", letters, *SMALL, "--out", tmp_path / "out")
    monkeypatch.setattr(ConstructedModel, "answer", None)  # would fail if it were called
    assert construct("evaluate", letters, *SMALL, "--out", tmp_path / "out").status == 0


def test_another_runs_results_are_not_mixed_in(construct: Command, letters: Path, tmp_path: Path) -> None:
    construct("evaluate", letters, *SMALL, "--out", tmp_path / "out")
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    ran = construct("evaluate", letters, *SMALL, "--seed", 1, "--out", tmp_path / "out")
    ran.refused("another run", "seed", "--out")
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before


def test_a_curve_and_shots_make_conditions(construct: Command, letters: Path, tmp_path: Path) -> None:
    two = ("--tasks", "lower,last_letter")
    assert construct("evaluate", letters, *two, "--curve", 3, *SMALL, "--out", tmp_path / "curve").status == 0
    cells = load_results(tmp_path / "curve").cells
    assert [cell.mixture for cell in cells] == [(0, 1), (0.5, 0.5), (1, 0)]
    ran = construct("evaluate", letters, "--shots", "0,2,5", "--prompts", 3, "--out", tmp_path / "shots")
    assert ran.status == 0
    assert [cell.examples for cell in load_results(tmp_path / "shots").cells] == [0, 2, 5]


@transformers_needed
def test_tasks_of_a_file_are_asked_of_any_model(
    construct: Command, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [["aa", "b"], ["bb", "c"], ["cc", "a"]]
    tasks = [
        {"name": "next", "reads": [0], "rows": rows},
        {"name": "twice", "reads": [0], "rows": [[key, key * 2] for key, _ in rows]},
    ]
    alphabet = sorted({token for task in tasks for row in task["rows"] for token in row})  # type: ignore[attr-defined]
    data = {"name": "own", "alphabet": alphabet, "inputs": 1, "format": {"arrow": " => "}, "tasks": tasks}
    (tmp_path / "tasks.json").write_text(json.dumps(data), encoding="utf-8")
    run = ("--task-file", tmp_path / "tasks.json", "--examples", 2, "--prompts", 4, "--out", tmp_path / "out")
    assert construct("evaluate", tiny("qwen2"), *run).status == 0
    header, *lines = _lines(tmp_path / "out")
    assert (header["suite"], header["tasks"]) == ("own", ["next", "twice"])
    assert all(candidate.startswith(" ") for line in lines for candidate in line["candidates"])


@transformers_needed
def test_two_processes_write_the_file_that_one_writes(
    construct: Command, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = ["evaluate", str(tiny("gpt2")), *LETTERS, *map(str, SMALL), "--no-completions", "--out"]
    assert construct(*arguments, tmp_path / "one").status == 0
    done = launched(2, *arguments, str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Superposed or committed?") == 1
    one, two = ((tmp_path / name / "results.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["results.jsonl"]


@transformers_needed
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_a_pretrained_model_is_measured_with_its_tokenizer_and_architecture_on_record(
    family: str, construct: Command, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    ran = construct("evaluate", tiny(family), *LETTERS, "--examples", 4, "--prompts", 2, "--out", tmp_path / "out")
    assert ran.status == 0, ran.err
    header, *rows = _lines(tmp_path / "out")
    assert header["model"]["architecture"].lower().startswith(family)
    assert {len(header["model"][name]) for name in ("sha256", "tokenizer")} == {64}
    assert all(np.isfinite(row["log_probability"]).all() for row in rows)


@transformers_needed
def test_where_memory_runs_out_the_batch_is_halved_and_that_is_said(
    construct: Command, tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from empirical.scoring import Prefilled, Scorer

    prefill, sizes = Scorer.prefill, []

    def short(self: Scorer, stems: Sequence[Sequence[int]]) -> Prefilled:
        sizes.append(len(stems))
        if len(stems) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return prefill(self, stems)

    command = ("evaluate", tiny("gpt2"), *LETTERS, "--examples", 3, "--prompts", 5, "--batch", 5, "--no-completions")
    assert construct(*command, "--out", tmp_path / "plenty").status == 0
    monkeypatch.setattr(Scorer, "prefill", short)
    ran = construct(*command, "--out", tmp_path / "short")
    assert ran.status == 0
    assert "warning: out of memory: going on with batches of 3\n" in ran.err
    assert sizes == [5, 3, 2, 2, 1]
    plenty, few = (load_results(tmp_path / name).sample(0).log_probability for name in ("plenty", "short"))
    assert few == pytest.approx(plenty, abs=1e-4)
    monkeypatch.setattr(Scorer, "prefill", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
    ran = construct(*command, "--out", tmp_path / "none")
    assert ran.status == 2
    assert "error: out of memory with a single prompt" in ran.err


@transformers_needed
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_gpu_gives_what_the_cpu_gives(construct: Command, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    command = ("evaluate", tiny("llama"), *LETTERS, "--examples", 5, "--prompts", 3, "--dtype", "float32")
    for device in ("cpu", "cuda"):
        assert construct(*command, "--device", device, "--out", tmp_path / device).status == 0
    cpu, gpu = (load_results(tmp_path / name).sample(0).log_probability for name in ("cpu", "cuda"))
    assert gpu == pytest.approx(cpu, abs=1e-2)  # with TF32 the products have 10 bits


# What cannot be used.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--examples", 18], ("has 18 examples", "at most 17")),
        (["--suite", "letters", "--task-file", "x"], ("--suite and --task-file",)),
        (["--suite", "letter"], ("no suite 'letter'",)),
        (["--suite", "country", "--examples", 3], ("unknown token",)),
        (["--tasks", "first"], ("no task 'first'", "first_letter")),
        (["--curve", 3], ("two tasks", "3 are chosen")),
        (["--tasks", "lower,last_letter", "--curve", 1, "--examples", 3], ("at least 2",)),
        (["--curve", 3, "--mixture", "uniform"], ("leave --mixture",)),
        (["--shots", "1,x"], ("'1,x'", "whole numbers")),
        (["--shots", "1", "--examples", 2], ("leave --examples",)),
        (["--mixture", "lower=x"], ("'lower=x'", "task=weight")),
        (["--prompts", 0, "--examples", 3], ("0 prompts",)),
        (["--examples", -1], ("-1 examples",)),
        (["--batch", 0], ("--batch is 0",)),
        (["--seed", -1], ("seed is -1",)),
        (["--device", "warp", "--examples", 3], ("'warp'", "--device cpu")),
    ],
)
def test_unusable_input_ends_in_one_line(
    arguments: list[object], words: tuple[str, ...], construct: Command, letters: Path, tmp_path: Path
) -> None:
    construct("evaluate", letters, *arguments, "--out", tmp_path / "out").refused(*words)


def test_a_model_that_is_not_there_is_refused(construct: Command, tmp_path: Path) -> None:
    run = ("--suite", "letters", "--out", tmp_path / "out")
    construct("evaluate", tmp_path / "nothing", *run).refused("no folder of a model")
    (tmp_path / "empty").mkdir()
    construct("evaluate", tmp_path / "empty", *run).refused("no construction.json", "no config.json")
    construct("evaluate", tmp_path / "empty", "--out", tmp_path / "out").refused("--suite NAME or --task-file")


def test_without_its_library_a_pretrained_model_is_refused_with_what_to_install(
    construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "transformers", None)
    ran = construct("evaluate", tmp_path, "--suite", "letters", "--out", tmp_path / "out")
    ran.refused("the package transformers", "pip install 'task-superposition[pretrained]'")


@transformers_needed
def test_a_hub_name_without_a_network_is_refused(
    construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")  # where nothing listens
    ran = construct("evaluate", "nobody/no-such-model", "--suite", "letters", "--out", tmp_path / "out")
    ran.refused("'nobody/no-such-model'", "hub did not give it", "Without a network")


@transformers_needed
def test_an_unknown_architecture_is_refused(construct: Command, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "strange"
    folder.mkdir()
    for path in tiny("gpt2").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"model_type": "oracle-of-delphi"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    ran = construct("evaluate", folder, "--suite", "letters", "--out", tmp_path / "out")
    ran.refused("cannot be loaded", "oracle-of-delphi")


@transformers_needed
def test_a_prompt_beyond_the_context_is_refused(
    construct: Command, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    ran = construct("evaluate", tiny("gpt2"), *LETTERS, "--examples", 150, "--prompts", 1, "--out", tmp_path / "out")
    ran.refused("context has 512", "fewer examples")


@transformers_needed
def test_a_format_that_overflows_is_refused(construct: Command, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in tiny("gpt2").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("mlp.c_fc.weight"))
    weights[name] = weights[name] * 1e5  # beyond float16's 65,504
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    run = ("evaluate", tmp_path, *LETTERS, "--examples", 3, "--prompts", 2, "--no-completions")
    construct(*run, "--dtype", "float16", "--out", tmp_path / "16").refused("no numbers", "float16", "--dtype bfloat16")
    assert construct(*run, "--dtype", "float32", "--out", tmp_path / "32").status == 0


@transformers_needed
def test_quantization_without_its_library_says_what_to_install(
    construct: Command, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    if find_spec("bitsandbytes") is not None:
        pytest.skip("bitsandbytes is installed here")
    run = ("evaluate", tiny("gpt2"), *LETTERS, "--examples", 3, "--quantization", "4bit", "--out", tmp_path / "out")
    construct(*run).refused("pip install bitsandbytes")


def test_the_list_of_commands_is_there_without_torch() -> None:
    code = "import sys; from construct import cli; cli.construct(['--help'], standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("evaluate", "report", "compare"))


def test_open_model_needs_transformers_for_pretrained_models_only(letters: Path) -> None:
    code = "import sys; from pathlib import Path; from empirical.language_model import *; "
    code += f"open_model({str(letters)!r}, Runtime('cpu', 'float32'), Options(), warn=print); "
    code += "sys.exit('transformers' in sys.modules)"
    assert language_model.CONSTRUCTION == "construction"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
