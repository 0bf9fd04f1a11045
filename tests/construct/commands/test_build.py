"""`construct build`: each option, the report, the folder."""

import json
import re
from pathlib import Path

import pytest

from construct.artifact import load
from construct.suites import build_suite
from construct.task_file import task_set_to_json
from construct.theorems import two_layer
from tests.construct.conftest import Command

KEYS = [
    "directory",
    "theorem",
    "layers",
    "heads",
    "d_model",
    "mlp_width",
    "parameters",
    "nonzero_parameters",
    "sharpness",
    "error_bound",
    "seconds",
]


def test_json_is_one_object_of_the_promised_keys(construct: Command, tmp_path: Path) -> None:
    out = tmp_path / "made"
    ran = construct(
        "build", "--tasks", 8, "--alphabet-size", 32, "--inputs", 8, "--examples", 16, "--out", out, "--json"
    )
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.count("\n") == 1
    report = json.loads(ran.out)
    assert list(report)[: len(KEYS)] == KEYS  # later keys may say more
    assert report["directory"] == str(out)
    assert report["theorem"] == "two-layer"
    assert report["layers"] == 2
    assert report["heads"] == [8, 1]
    assert report["d_model"] == 92
    assert report["mlp_width"] == [256, 256]
    assert report["nonzero_parameters"] < report["parameters"] <= 150_000
    assert 0 < report["error_bound"] <= 1e-6
    assert 0 < report["seconds"] < 1
    assert load(out).layout.examples == 16


def test_tasks_alone_build_retrieval_in_a_folder_named_after_it(
    construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = construct("build", "--tasks", 3)
    assert (ran.status, ran.err) == (0, "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["retrieval-3"]
    built = load(tmp_path / "retrieval-3")
    assert [task.name for task in built.task_set.tasks] == ["ret_1", "ret_2", "ret_3"]
    assert built.layout.examples == 60


def test_the_summary_names_sizes_and_bound(construct: Command, tmp_path: Path) -> None:
    ran = construct("build", "--suite", "plus", "--tasks", 2, "--alphabet-size", 11, "--out", tmp_path / "made")
    assert ran.out.startswith(f"two-layer construction of 'plus' in {tmp_path / 'made'}\n")
    for pattern in (r"tasks \(K\) +2\n", r"alphabet \(V\) +11\n", r"inputs \(n\) +1\n", r"examples \(m\) +60\n"):
        assert re.search(pattern, ran.out), pattern
    assert re.search(r"heads +1 \+ 1\n", ran.out)
    assert re.search(r"error bound +\d\.\d\de-\d\d \(real arithmetic\)\n", ran.out)


def test_a_suite_is_built_with_its_seed(construct: Command, tmp_path: Path) -> None:
    for seed in (0, 5):
        sizes = ("--tasks", 3, "--alphabet-size", 7, "--inputs", 2, "--examples", 2)
        assert (
            construct("build", "--suite", "lookup", *sizes, "--seed", seed, "--out", tmp_path / str(seed)).status == 0
        )
        expected = build_suite("lookup", tasks=3, alphabet_size=7, inputs=2, seed=seed)
        assert load(tmp_path / str(seed)).task_set == expected
    assert load(tmp_path / "0").task_set != load(tmp_path / "5").task_set


def test_a_task_file_is_built(construct: Command, tmp_path: Path) -> None:
    task_set = build_suite("copy_add", tasks=2)
    (tmp_path / "tasks.json").write_text(json.dumps(task_set_to_json(task_set)), encoding="utf-8")
    assert construct("build", "--task-file", tmp_path / "tasks.json", "--out", tmp_path / "made").status == 0
    assert load(tmp_path / "made").task_set == task_set


@pytest.mark.parametrize(("name", "folder"), [("my tasks/2", "my-tasks-2-1"), ("../..", "construction-1")])
def test_the_default_folder_is_a_safe_name(
    name: str, folder: str, construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = task_set_to_json(build_suite("plus", tasks=1, alphabet_size=3)) | {"name": name}
    (tmp_path / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert construct("build", "--task-file", "../tasks.json").status == 0
    assert [entry.name for entry in (tmp_path / "here").iterdir()] == [folder]


@pytest.mark.parametrize("error", ["0.1", "1e-4", "1e-12"])
def test_the_error_wanted_is_reached(error: str, construct: Command, tmp_path: Path) -> None:
    report = json.loads(construct("build", "--error", error, "--out", tmp_path / "made", "--json").out)
    assert report["error_bound"] <= float(error)
    assert report["sharpness"] >= 4


def test_a_given_sharpness_is_used_and_has_no_bound_where_it_is_too_low(construct: Command, tmp_path: Path) -> None:
    report = json.loads(construct("build", "--sharpness", 14, "--out", tmp_path / "sharp", "--json").out)
    assert report["sharpness"] == 14
    assert report["error_bound"] < 1e-6
    blunt = json.loads(construct("build", "--sharpness", 0.5, "--out", tmp_path / "blunt", "--json").out)
    assert blunt["error_bound"] is None
    summary = construct("build", "--sharpness", 0.5, "--out", tmp_path / "blunt").out
    assert "none: the sharpness is too low" in summary


def test_dense_storage_holds_the_same_construction(construct: Command, tmp_path: Path) -> None:
    sizes = []
    for name, options in (("sparse", []), ("dense", ["--dense"])):
        assert construct("build", *options, "--out", tmp_path / name).status == 0
        sizes.append((tmp_path / name / "weights.safetensors").stat().st_size)
    assert sizes[0] < sizes[1]
    assert load(tmp_path / "sparse").circuits == load(tmp_path / "dense").circuits


def test_an_earlier_construction_is_replaced_by_a_new_one(construct: Command, tmp_path: Path) -> None:
    for examples in (2, 3):
        assert construct("build", "--examples", examples, "--out", tmp_path / "made").status == 0
    assert load(tmp_path / "made").layout.examples == 3


def test_the_command_builds_what_the_library_builds(construct: Command, tmp_path: Path) -> None:
    assert construct("build", "--suite", "numbers", "--examples", 5, "--out", tmp_path / "made").status == 0
    built = two_layer(build_suite("numbers"), examples=5)
    loaded = load(tmp_path / "made")
    assert (loaded.task_set, loaded.circuits, loaded.sharpness) == (built.task_set, built.circuits, built.sharpness)
    assert loaded.weights.nonzero_parameters == built.weights.nonzero_parameters


WRONG: dict[str, tuple[list[object], tuple[str, ...]]] = {
    "K of 0": (["--tasks", 0], ("tasks is 0", "at least 1")),
    "negative K": (["--tasks", -1], ("tasks is -1", "at least 1")),
    "K that is no number": (["--tasks", "many"], ("'--tasks'", "'many'", "integer")),
    "more tasks than the suite has": (["--suite", "country", "--tasks", 4], ("tasks is 4", "has 3", "at most")),
    "more tasks than inputs": (["--tasks", 5, "--inputs", 3], ("tasks is 5 and inputs is 3", "at most 3 tasks")),
    "an alphabet of 0": (["--alphabet-size", 0], ("alphabet_size is 0", "at least 2")),
    "an alphabet of 1": (["--alphabet-size", 1], ("alphabet_size is 1", "at least 2")),
    "a negative alphabet": (["--alphabet-size", -5], ("alphabet_size is -5", "at least 2")),
    "no inputs": (["--inputs", 0], ("inputs is 0", "at least 1")),
    "no examples": (["--examples", 0], ("examples is 0", "at least 1")),
    "negative examples": (["--examples", -4], ("examples is -4", "at least 1")),
    "an unknown suite": (["--suite", "towns"], ("'towns'", "choose one of retrieval", "country")),
    "a size that the suite does not take": (["--suite", "letters", "--inputs", 2], ("inputs is 2", "leave inputs out")),
    "a negative seed": (["--suite", "lookup", "--seed", -1], ("seed is -1", "at least 0")),
    "an error of 0": (["--error", 0], ("error wanted is 0", "from 1e-15 to 0.5")),
    "a large error": (["--error", 3], ("error wanted is 3", "from 1e-15 to 0.5")),
    "an error that is no number": (["--error", "nan"], ("error wanted is nan", "from 1e-15")),
    "a sharpness of 0": (["--sharpness", 0], ("sharpness is 0", "expected a number from")),
    "a negative sharpness": (["--sharpness", -8], ("sharpness is -8", "expected a number from")),
    "an endless sharpness": (["--sharpness", "inf"], ("sharpness is inf", "to 1024")),
    "error and sharpness": (["--error", 0.1, "--sharpness", 8], ("--error and --sharpness", "give one")),
    "examples beyond memory": (["--examples", 10**11], ("GiB", "choose fewer tasks, examples")),
    "examples beyond any number": (["--examples", "9" * 400], ("GiB", "choose fewer tasks, examples")),
    "tasks beyond memory": (["--tasks", 10**12], ("GiB", "choose fewer tasks")),
    "an alphabet beyond memory": (["--alphabet-size", 10**13], ("GiB", "smaller alphabet")),
    "inputs beyond memory": (["--inputs", 10**12], ("GiB", "inputs")),
    "an absent task file": (["--task-file", "absent.json"], ("absent.json", "No such file")),
    "a task file and a suite": (["--task-file", "t.json", "--suite", "plus"], ("--suite plus", "leave it out")),
    "a task file and sizes": (["--task-file", "t.json", "--inputs", 2], ("--inputs 2", "leave it out")),
    "an unknown option": (["--task", 3], ("'--task'",)),
    "an argument too many": (["three"], ("unexpected extra argument", "three")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_input_that_cannot_be_used_is_one_line_and_leaves_nothing(
    wrong: str, construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options, words = WRONG[wrong]
    construct("build", *options, "--out", "made/deep").refused(*words)
    construct("build", *options, "--json").refused(*words)
    assert list(tmp_path.iterdir()) == []


TASKS = {
    "name": "tasks",
    "alphabet": ["a", "b"],
    "inputs": 1,
    "tasks": [{"name": "same", "reads": [0], "rows": [["a", "a"], ["b", "b"]]}],
}
ROWS = TASKS["tasks"]
WRONG_FILES: dict[str, tuple[object, tuple[str, ...]]] = {
    "an alphabet entry twice": (TASKS | {"alphabet": ["a", "b", "a"]}, ("'a' twice", "once")),
    "contradictory rows": (
        TASKS | {"tasks": [{"name": "t", "reads": [0], "rows": [["a", "a"], ["a", "b"]]}]},
        ("task 't'", "different answers", "remove one"),
    ),
    "an answer outside the alphabet": (
        TASKS | {"tasks": [{"name": "t", "reads": [0], "rows": [["a", "z"]]}]},
        ("'z' is not in the alphabet", "add it"),
    ),
    "a read out of range": (
        TASKS | {"tasks": [{"name": "t", "reads": [1], "rows": [["a", "a"]]}]},
        ("reads position 1", "0 to 0"),
    ),
    "no tasks": (TASKS | {"tasks": []}, ("no tasks", "at least one")),
    "no inputs": (TASKS | {"inputs": 0}, ("inputs is 0", "at least 1")),
    "a negative number of inputs": (TASKS | {"inputs": -2}, ("inputs is -2", "at least 1")),
    "inputs beyond memory": (TASKS | {"inputs": 10**12}, ("GiB", "fewer")),
    "half a character": (TASKS | {"alphabet": ["a", "b", "\ud800"]}, ("\\ud800", "whole character")),
    "not an object": ([], ("the task file is []",)),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_wrong_task_file_is_one_line_and_leaves_nothing(
    wrong: str, construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = WRONG_FILES[wrong]
    Path("tasks.json").write_text(json.dumps(content), encoding="utf-8")
    construct("build", "--task-file", "tasks.json").refused(*words)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tasks.json"]


def test_a_folder_of_something_else_is_left_alone(construct: Command, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it", encoding="utf-8")
    construct("build", "--out", tmp_path).refused("thesis.tex", "choose another --out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    construct("build", "--out", tmp_path / "thesis.tex").refused("not a folder", "choose another --out")
    construct("build", "--out", tmp_path / "thesis.tex" / "made").refused("cannot", "choose another --out")
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "all of it"
