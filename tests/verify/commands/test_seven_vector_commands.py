"""The seven layers on vectors by the commands: build, verify, predict and show."""

import json
from pathlib import Path

import numpy as np
import pytest

from construct.vector_suites import random_vector_tasks
from construct.vector_task_file import vector_task_set_to_json
from tests.construct.conftest import Command

SIZES = ("--theorem", "seven-layer", "--tasks", 2, "--dim", 3, "--inputs", 4, "--examples", 5)


def test_seven_layers_on_vectors_are_built_certified_and_verified(construct: Command, tmp_path: Path) -> None:
    ran = construct("build", *SIZES, "--out", tmp_path / "made", "--json")
    assert (ran.status, ran.err) == (0, "")
    report = json.loads(ran.out)
    assert report["theorem"] == "seven-layer vectors"
    assert report["layers"] == 7
    assert max(report["heads"]) <= 2
    assert report["verification"] == "certified when built"
    verified = construct("verify", tmp_path / "made", "--json", "--sample", 10)
    assert verified.status == 0
    body = json.loads(verified.out)
    assert body["certified"] is True
    assert body["error_bound"]["real"] == report["certified_bound"]["real"]
    assert [lemma["name"] for lemma in body["lemmas"]][:2] == ["budget", "steps"]


def test_show_lists_the_argument_a_step_a_layer(construct: Command, tmp_path: Path) -> None:
    construct("build", *SIZES, "--out", tmp_path / "made")
    shown = construct("show", tmp_path / "made").out
    for step in ("read", "compare", "forget", "tally", "agree", "count", "superpose"):
        assert f"  {step} " in shown


def test_predict_answers_as_the_three_layers_do(construct: Command, tmp_path: Path) -> None:
    construct("build", *SIZES, "--out", tmp_path / "seven")
    construct("build", "--theorem", "vectors", *SIZES[2:], "--out", tmp_path / "three")
    task_set = random_vector_tasks("orthogonal", tasks=2, dim=3, inputs=4)
    inputs = np.random.default_rng(0).standard_normal((3, 4, 3))
    inputs /= np.linalg.norm(inputs, axis=-1, keepdims=True)
    task = task_set.tasks[0]
    answers = [(task.matrix @ inputs[at, task.position]).tolist() for at in range(2)]
    prompt = tmp_path / "prompt.json"
    examples = [{"inputs": inputs[at].tolist(), "answer": answers[at]} for at in range(2)]
    prompt.write_text(json.dumps({"examples": examples, "query": inputs[2].tolist()}), encoding="utf-8")
    found = [json.loads(construct("predict", tmp_path / name, prompt, "--json").out) for name in ("seven", "three")]
    assert found[0]["vector"] == pytest.approx(found[1]["vector"], abs=1e-5)
    assert found[0]["vector"] == pytest.approx((task.matrix @ inputs[2, task.position]).tolist(), abs=1e-3)


def test_a_task_file_of_matrices_chooses_vectors(construct: Command, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.json"
    tasks.write_text(
        json.dumps(vector_task_set_to_json(random_vector_tasks("rotation", tasks=2, dim=2, inputs=3))), encoding="utf-8"
    )
    options = ("build", "--theorem", "seven-layer", "--examples", 3, "--out", tmp_path / "made", "--json")
    ran = construct(*options, "--task-file", tasks)
    assert ran.status == 0
    assert json.loads(ran.out)["theorem"] == "seven-layer vectors"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--suite", "country"), "--suite country is for tasks on tokens"),
        (("--width", 900), "width"),
        (("--margin", -1), "margin"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    options: tuple[object, ...], says: str, construct: Command, tmp_path: Path
) -> None:
    ran = construct("build", *SIZES, *options, "--out", tmp_path / "made")
    assert ran.status == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_a_task_file_that_is_not_there_is_named(construct: Command, tmp_path: Path) -> None:
    ran = construct("build", "--theorem", "seven-layer", "--task-file", tmp_path / "none.json", "--out", tmp_path / "a")
    assert ran.status == 2
    assert "none.json" in ran.err
