"""`construct build --theorem seven-layer`, and what the other commands do with its folder."""

import json
from pathlib import Path

import pytest

from construct.artifact import CERTIFICATE, load, save
from construct.seven_layer import seven_layer
from tests.construct.conftest import Command
from tests.verify.conftest import edited, tables
from verify.exhaustive import exhaust

STEPS = ("read", "predict", "compare", "credit", "average", "gate", "superpose")


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    """A folder of the test's own, of two tables on one input."""
    save(seven_layer(tables(), examples=2), tmp_path / "made")
    return tmp_path / "made"


def test_build_proves_and_writes_the_model_of_the_issue(construct: Command, tmp_path: Path) -> None:
    sizes = ("--tasks", 8, "--alphabet-size", 32, "--inputs", 8, "--examples", 16)
    ran = construct("build", "--theorem", "seven-layer", *sizes, "--out", tmp_path / "seven")
    assert (ran.status, ran.err) == (0, "")
    body = json.loads((tmp_path / "seven" / CERTIFICATE).read_text(encoding="utf-8"))
    assert body["certified"] is True
    assert body["theorem"] == "seven-layer"
    assert body["error_bound"]["real"] <= 1e-5
    assert body["error_bound"]["float32"] <= 1e-5
    assert body["sizes"]["layers"] == 7
    assert "8 + 0 + 0 + 0 + 1 + 0 + 0" in ran.out


def test_show_lists_the_argument_a_step_a_layer(construct: Command, seven: Path) -> None:
    ran = construct("show", seven)
    assert ran.status == 0
    lines = ran.out.split("the argument, one step a layer:\n")[1].splitlines()[:7]
    assert [line.split()[:2] for line in lines] == [[str(at), step] for at, step in enumerate(STEPS, start=1)]


def test_every_mode_of_verify_agrees(construct: Command, seven: Path) -> None:
    ran = construct("verify", seven, "--json", "--exhaustive", "--symbolic", "--sample", 40)
    assert (ran.status, ran.err) == (0, "")
    report = json.loads(ran.out)
    assert report["certified"] is True
    assert report["exhaustive"]["error"] <= report["error_bound"]["real"] + 64 * report["exhaustive"]["rounding"]
    assert report["exhaustive"]["prompts"] == 3 + 3**3 + 3**5
    assert report["symbolic"]["exact"] is True
    assert report["symbolic"]["holds"] is True
    assert report["symbolic"]["error"] <= report["error_bound"]["real"]
    assert report["sampled"]["error"] <= report["error_bound"]["float32"]


def test_every_prompt_of_many_is_refused_in_one_line(construct: Command, tmp_path: Path) -> None:
    save(seven_layer(tables(), examples=30), tmp_path / "long")
    construct("verify", tmp_path / "long", "--exhaustive").refused("prompts", "limit")


def test_wrong_weights_are_refuted_with_the_step_and_a_prompt(construct: Command, seven: Path, tmp_path: Path) -> None:
    built = load(seven)
    w_out = built.weights.layers[6].mlp.w_out.toarray()
    token = int(w_out[0, :3].argmax())
    moved = {"layers.6.mlp.w_out": {(0, token): 0.0, (0, (token + 1) % 3): 1.0}}
    broken = edited(built, moved)
    assert exhaust(broken).error > 0.1
    save(broken, tmp_path / "broken")
    ran = construct("verify", tmp_path / "broken")
    assert ran.status == 1
    assert "superpose FAILS" in ran.out
    assert "superpose: layer 7" in ran.out
    assert "REFUTED: the model is off by" in ran.out
    assert not (tmp_path / "broken" / CERTIFICATE).exists()


def test_tasks_that_need_more_reads_than_two_layers_have_are_unusable_input(construct: Command, tmp_path: Path) -> None:
    task = {"name": "wide", "reads": [0, 1, 2], "rows": [["a", "b", "a", "b"]]}
    (tmp_path / "tasks.json").write_text(
        json.dumps({"name": "wide", "alphabet": ["a", "b"], "inputs": 3, "tasks": [task]})
    )
    ran = construct(
        "build", "--theorem", "seven-layer", "--task-file", tmp_path / "tasks.json", "--out", tmp_path / "wide"
    )
    ran.refused("at most 2", "two-layer")
