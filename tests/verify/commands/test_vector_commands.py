"""`construct build --theorem vectors`, `verify`, `show` and `predict` on its folder: each option, each refusal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from construct.artifact import CERTIFICATE
from construct.vector_artifact import load_vectors, save_vectors
from construct.vector_prompt_file import prompt_to_json
from construct.vector_suites import KINDS, random_vector_tasks
from construct.vector_task_file import vector_task_set_to_json
from tests.construct.conftest import Command
from tests.construct.vector_cases import built_case, random_prompt
from verify.certify import digest
from verify.mutations import mutants

BUILD = ("build", "--theorem", "vectors")
SMALL = (*BUILD, "--tasks", 3, "--dim", 5, "--inputs", 2, "--examples", 7)
KEYS = {"certified", "error_bound", "lemmas", "violations", "weights_sha256", "seconds"}


@pytest.fixture
def made(construct: Command, tmp_path: Path) -> Path:
    assert construct(*SMALL, "--out", tmp_path / "made").status == 0
    return tmp_path / "made"


def test_what_is_built_is_certified_and_says_its_domain(construct: Command, tmp_path: Path) -> None:
    ran = construct(*SMALL, "--out", tmp_path / "made")
    assert (ran.status, ran.err) == (0, "")
    assert "does not beyond the margin 0.125" in ran.out
    body = json.loads((tmp_path / "made" / CERTIFICATE).read_text())
    assert body["certified"] is True
    assert body["theorem"] == "vectors"
    assert body["domain"]["margin"] == 0.125
    assert body.pop("certificate_sha256") == digest(body)


def test_json_is_one_object(construct: Command, tmp_path: Path) -> None:
    ran = construct(*SMALL, "--kind", "general", "--offsets", 0.5, "--width", 3, "--out", tmp_path / "made", "--json")
    assert (ran.status, ran.err) == (0, "")
    report = json.loads(ran.out)
    assert report["heads"] == [2, 3, 3]
    assert report["layers"] == 3
    assert report["certified_bound"]["real"] <= report["error_bound"] <= 1e-5
    assert report["certified_bound"]["float32"] < 1e-4
    assert report["certified_bound"]["bfloat16"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tasks_is_certified(kind: str, construct: Command, tmp_path: Path) -> None:
    ran = construct(*SMALL, "--kind", kind, "--seed", 3, "--out", tmp_path / "made")
    assert (ran.status, ran.err) == (0, "")
    ran = construct("verify", tmp_path / "made", "--json")
    report = json.loads(ran.out)
    assert (ran.status, ran.err, report["certified"]) == (0, "", True)
    assert report.keys() >= KEYS
    assert report["error_bound"].keys() == {"real", "float32", "bfloat16", "float16"}
    assert 0 < report["error_bound"]["real"] <= report["eps"]


def test_task_files_of_both_forms_build_the_same(construct: Command, tmp_path: Path) -> None:
    tasks = random_vector_tasks("general", tasks=3, dim=5, inputs=2, offsets=0.3)
    (tmp_path / "tasks.json").write_text(json.dumps(vector_task_set_to_json(tasks)))
    np.savez(
        tmp_path / "tasks.npz",
        matrices=np.stack([task.matrix for task in tasks.tasks]),
        offsets=np.stack([task.offset for task in tasks.tasks]),
        positions=np.array([task.position for task in tasks.tasks]),
    )
    for form in ("json", "npz"):
        given = ("--task-file", tmp_path / f"tasks.{form}", "--out", tmp_path / form)
        ran = construct(*BUILD, *given, "--examples", 5, "--margin", 0.1)
        assert (ran.status, ran.err) == (0, "")
    one, other = (load_vectors(tmp_path / form) for form in ("json", "npz"))
    assert one.comparison.margin == 0.1
    for (name, tensor), (_, same) in zip(one.weights.tensors(), other.weights.tensors(), strict=True):
        dense = (part if isinstance(part, np.ndarray) else part.toarray() for part in (tensor, same))
        assert np.array_equal(*dense), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tasks", 0), "tasks is 0"),
        (("--dim", 0), "dim is 0"),
        (("--dim", -3), "dim is -3"),
        (("--inputs", 0), "inputs is 0"),
        (("--examples", 0), "examples is 0"),
        (("--examples", 10**9), "examples is 1000000000"),
        (("--tasks", 60000, "--dim", 60000), "GiB are free"),
        (("--seed", -1), "seed is -1"),
        (("--kind", "taste"), "'taste' is not one of"),
        (("--comparison", "taste"), "'taste' is not one of"),
        (("--margin", 0), "margin is 0"),
        (("--margin", "nan"), "margin is nan"),
        (("--margin", "inf"), "margin is inf"),
        (("--margin", 7), "margin is 7"),
        (("--bound", 0), "bound is 0"),
        (("--bound", "nan"), "bound is nan"),
        (("--offsets", -1), "offsets is -1"),
        (("--offsets", "nan"), "offsets is nan"),
        (("--width", 0), "width is 0"),
        (("--width", 9), "width is 9"),
        (("--width", 2, "--comparison", "attention"), "width 2 does not go"),
        (("--kind", "general", "--comparison", "attention"), "orthogonal matrices"),
        (("--offsets", 1, "--comparison", "attention"), "takes no offset"),
        (("--error", 0), "error wanted is 0"),
        (("--error", "nan"), "error wanted is nan"),
        (("--error", 1e-15), "no sharpness reaches"),
        (("--error", 1e-5, "--sharpness", 24), "give one"),
        (("--sharpness", -4), "sharpness"),
        (("--suite", "retrieval"), "--suite retrieval is for tasks on tokens"),
        (("--alphabet-size", 4), "--alphabet-size 4 is for tasks on tokens"),
        (("--task-file", "/nowhere/tasks.json"), "cannot be read"),
    ],
)
def test_options_that_cannot_be_used_are_refused_in_one_line(
    options: tuple[object, ...], words: str, construct: Command, tmp_path: Path
) -> None:
    ran = construct(*BUILD, *options, "--out", tmp_path / "made")
    ran.refused(words)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--tasks", 3), ("--dim", 5), ("--inputs", 2), ("--seed", 1), ("--kind", "general")]
)
def test_a_task_file_says_all(option: str, value: object, construct: Command, tmp_path: Path) -> None:
    construct(*BUILD, "--task-file", tmp_path / "t.json", option, value).refused(f"{option} {value} does not go with")


@pytest.mark.parametrize("option", ["--dim", "--bound", "--margin", "--offsets", "--width"])
def test_options_of_vectors_are_refused_for_tokens(option: str, construct: Command, tmp_path: Path) -> None:
    construct("build", "--tasks", 2, option, 1, "--out", tmp_path / "made").refused(
        f"{option} 1", "is for tasks on vectors"
    )


def test_tasks_that_no_example_tells_apart_are_refused(construct: Command, tmp_path: Path) -> None:
    data = vector_task_set_to_json(random_vector_tasks("orthogonal", tasks=2, dim=3, inputs=1))
    data["tasks"][1]["matrix"] = data["tasks"][0]["matrix"]
    data["tasks"][1]["offset"] = [0.05, 0, 0]
    (tmp_path / "t.json").write_text(json.dumps(data))
    construct(*BUILD, "--task-file", tmp_path / "t.json", "--out", tmp_path / "made").refused("no example tells them")


def test_a_folder_that_holds_something_else_is_left_alone(construct: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    construct(*SMALL, "--out", tmp_path).refused("holds something else")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_no_verify_writes_no_certificate_and_too_low_a_sharpness_no_claim(construct: Command, tmp_path: Path) -> None:
    ran = construct(*SMALL, "--no-verify", "--out", tmp_path / "one")
    assert (ran.status, ran.err) == (0, "")
    assert not (tmp_path / "one" / CERTIFICATE).exists()
    assert construct("verify", tmp_path / "one").status == 0
    assert (tmp_path / "one" / CERTIFICATE).exists()
    ran = construct(*SMALL, "--sharpness", 2, "--out", tmp_path / "two")
    assert (ran.status, ran.err) == (0, "")
    assert "no claim: the sharpness is too low" in ran.out
    construct("verify", tmp_path / "two").refused("states no error bound")


def test_sampling_runs_in_both_formats_and_stays_below_the_bounds(construct: Command, made: Path) -> None:
    ran = construct("verify", made, "--sample", 20, "--json")
    assert (ran.status, ran.err) == (0, "")
    sampled = json.loads(ran.out)["sampled"]
    for dtype in ("float64", "float32"):
        found = sampled[dtype]
        assert 0 < found["error"] <= found["bound"]
        assert found["ratio"] == pytest.approx(found["bound"] / found["error"])
        assert found["answers"] >= 20 * 8
    ran = construct("verify", made, "--sample", 20)
    assert ran.out.count("sampled in float") == 2
    assert "CERTIFIED: for every prompt" in ran.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--symbolic",), "--symbolic is for tokens"),
        (("--exhaustive",), "--exhaustive is for tokens"),
        (("--dtype", "float32", "--sample", 3), "--dtype is for tokens"),
        (("--sample", 0), "--sample is 0"),
        (("--seed", -1), "--seed is -1"),
        (("--error", "nan"), "--error is nan"),
        (("--error", 0), "--error is 0"),
        (("--sample", 3, "--device", "meta"), "cannot be used"),
        (("--prompt", __file__), "--prompt is for --symbolic"),
    ],
)
def test_modes_that_do_not_apply_are_refused(
    options: tuple[object, ...], words: str, construct: Command, made: Path
) -> None:
    construct("verify", made, *options).refused(words)


def test_a_claim_below_the_truth_is_refuted_by_a_prompt_that_predict_takes(
    construct: Command, made: Path, tmp_path: Path
) -> None:
    ran = construct("verify", made, "--error", 1e-12, "--json")
    report = json.loads(ran.out)
    assert (ran.status, report["certified"]) == (1, False)
    assert report["counterexample"]["error"] > 1e-12
    (tmp_path / "p.json").write_text(json.dumps(report["counterexample"]["prompt"]))
    assert construct("predict", made, tmp_path / "p.json").status == 0
    assert "REFUTED: the model is off by" in construct("verify", made, "--error", 1e-12).out


def test_altered_weights_are_refuted_and_get_no_certificate(construct: Command, made: Path) -> None:
    original = load_vectors(made)
    matrix = original.weights.layers[2].attention.value.copy()
    matrix[0, 0] *= -1
    layers = list(original.weights.layers)
    layers[2] = replace(layers[2], attention=replace(layers[2].attention, value=matrix))
    (made / CERTIFICATE).unlink()
    save_vectors(replace(original, weights=replace(original.weights, layers=tuple(layers))), made)
    ran = construct("verify", made)
    assert (ran.status, ran.err) == (1, "")
    assert "REFUTED" in ran.out
    assert not (made / CERTIFICATE).exists()


def test_a_failed_proof_prints_json_without_nan(construct: Command, tmp_path: Path) -> None:
    construction: Any = built_case(tasks=2, dim=3, inputs=1, examples=2)
    seen = 0
    for number, mutant in zip(range(9), mutants(construction, 3), strict=False):
        if not mutant.finite:
            continue
        save_vectors(mutant.construction, tmp_path / str(number))  # type: ignore[arg-type]
        ran = construct("verify", tmp_path / str(number), "--json")
        if ran.status == 2:
            ran.refused("denormal")
            continue
        json.loads(ran.out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
        seen += ran.status == 1
    assert seen > 3


def test_show_and_predict_take_the_folder(construct: Command, made: Path, tmp_path: Path) -> None:
    assert "superpose" in construct("show", made).out
    construction = load_vectors(made)
    prompt = random_prompt(construction, 5, 1)
    (tmp_path / "p.json").write_text(json.dumps(prompt_to_json(prompt)))
    np.savez(tmp_path / "p.npz", inputs=prompt.inputs, answers=prompt.answers, query=prompt.query)
    runs = [construct("predict", made, tmp_path / f"p.{form}", "--json") for form in ("json", "npz")]
    assert [ran.status for ran in runs] == [0, 0]
    assert runs[0].out == runs[1].out
    assert len(json.loads(runs[0].out)["vector"]) == 5
    assert construct("predict", made, "-", stdin=json.dumps(prompt_to_json(prompt))).status == 0
    curve = json.loads(construct("predict", made, tmp_path / "p.json", "--curve", "--json").out)
    assert [row["examples"] for row in curve] == [0, 1, 2, 3, 4, 5]


def prompt(answer: list[float], x: list[float] | None = None) -> str:
    inputs = [[1, 0, 0, 0, 0] if x is None else x, [0, 1, 0, 0, 0]]
    return json.dumps({"examples": [{"inputs": inputs, "answer": answer}], "query": inputs})


def test_prompts_outside_the_domain_are_refused_in_one_line(construct: Command, made: Path) -> None:
    tasks = load_vectors(made).task_set.tasks
    exact = tasks[0].answer(np.eye(5)[:2])
    assert construct("predict", made, "-", stdin=prompt(exact.tolist())).status == 0
    construct("predict", made, "-", stdin=prompt(exact.tolist(), [2, 0, 0, 0, 0])).refused("has norm 2", "at most 1")
    construct("predict", made, "-", stdin=prompt([9, 0, 0, 0, 0])).refused("an answer of example 0 has norm 9")
    doubtful = (exact + 0.06 * np.eye(5)[0]).tolist()
    construct("predict", made, "-", stdin=prompt(doubtful)).refused("example 0 is 0.06 from task", "--margin")
    construct("predict", made, "-", stdin=prompt([float("nan")] * 5)).refused("not finite")
    construct("predict", made, "-", stdin=prompt([0.0] * 4)).refused("answers has the shape [1, 4]")
    construct("predict", made, "-", stdin="a->b").refused("not JSON")
    construct("predict", made).refused("takes one prompt")
    construct("predict", made, "--jsonl", "x").refused("--jsonl")


def test_prompts_that_are_no_unit_vectors_are_refused_for_comparison_by_attention(
    construct: Command, tmp_path: Path
) -> None:
    assert construct(*SMALL, "--comparison", "attention", "--out", tmp_path / "made").status == 0
    exact = load_vectors(tmp_path / "made").task_set.tasks[0].answer(np.eye(5)[:2])
    given = prompt((exact * 0.5).tolist(), [0.5, 0, 0, 0, 0])
    construct("predict", tmp_path / "made", "-", stdin=given).refused("unit vectors")


def test_sample_and_other_commands_say_that_they_take_tokens(construct: Command, made: Path) -> None:
    construct("sample", made).refused("a construction on vectors")
