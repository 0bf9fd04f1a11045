"""`construct verify`: each mode, the verdict, the exit status."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from construct.artifact import CERTIFICATE, load, save
from construct.oracle import answer
from construct.prompts import parse_prompt
from construct.theorems import Construction, two_layer
from construct.transformer import forward
from tests.construct.conftest import Command
from tests.verify.conftest import edited, sum_and_table, tables, with_tensors, with_unit
from verify import exhaustive
from verify.adversary import Worst
from verify.certify import digest
from verify.commands import verify as verify_command

KEYS = {"certified", "error_bound", "lemmas", "violations", "weights_sha256", "seconds"}


def test_what_was_built_is_certified_and_the_certificate_written(construct: Command, folder: Path) -> None:
    ran = construct("verify", folder)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[-1].startswith("CERTIFIED: for every prompt |q_hat - q|_1 <= ")
    assert str(folder / CERTIFICATE) in ran.out
    for name in ("real arithmetic", "float32", "bfloat16", "float16"):
        assert re.search(rf"^ *{name} ", ran.out, re.MULTILINE), ran.out
    assert ran.out.count("holds") == 5
    body = json.loads((folder / CERTIFICATE).read_text(encoding="utf-8"))
    assert body["certified"] is True
    assert body.pop("certificate_sha256") == digest(body)


def test_json_is_one_object_of_the_promised_keys(construct: Command, folder: Path) -> None:
    ran = construct("verify", folder, "--json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.count("\n") == 1
    report = json.loads(ran.out)
    assert report.keys() >= KEYS
    assert report["certified"] is True
    assert report["error_bound"].keys() == {"real", "float32", "bfloat16", "float16"}
    assert 0 < report["error_bound"]["real"] <= report["eps"]


def test_a_claim_that_is_too_small_is_not_proved_or_refuted_and_writes_nothing(
    construct: Command, folder: Path
) -> None:
    truth = exhaustive.exhaust(load(folder)).error
    ran = construct("verify", folder, "--error", truth * 1.01)
    assert (ran.status, ran.err) == (1, "")
    assert ran.out.splitlines()[-1].startswith("NOT PROVED: the bound found is ")
    assert "no wrong prompt was found" in ran.out
    ran = construct("verify", folder, "--error", truth / 4)
    assert ran.status == 1
    assert "REFUTED: the model is off by" in ran.out
    assert not (folder / CERTIFICATE).exists()


def moved(built: Construction) -> Construction:
    w_out = built.weights.layers[1].mlp.w_out.toarray()
    token = int(w_out[0, :3].argmax())
    return edited(built, {"layers.1.mlp.w_out": {(0, token): 0.0, (0, (token + 1) % 3): 1.0}})


def blunted(built: Construction) -> Construction:
    query = built.weights.layers[0].attention.query * np.float32(0.25)
    return with_tensors(built, {"layers.0.attention.query": query})


def added(built: Construction) -> Construction:
    return with_unit(built, 1, {built.stream["role_eq"].start: 1.0}, -0.5, {1: 1.0})


BROKEN: dict[str, Callable[[Construction], Construction]] = {
    "an answer moved": moved,
    "a head blunted": blunted,
    "a unit added": added,
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_refutation_prints_a_prompt_on_which_the_model_is_wrong(
    what: str, construct: Command, tmp_path: Path
) -> None:
    broken = BROKEN[what](two_layer(tables(), examples=2))
    save(broken, tmp_path / "made")
    ran = construct("verify", tmp_path / "made")
    assert (ran.status, ran.err) == (1, "")
    found = re.search(r"^REFUTED: the model is off by (\S+) > (\S+) on\n((?:.+\n)+)", ran.out, re.MULTILINE)
    assert found is not None, ran.out
    prompt = parse_prompt(found[3], broken.task_set)
    output = forward(broken.weights, broken.layout.ids(prompt)).output[-1]
    for token, weight in answer(broken.task_set, prompt).target.items():
        output[token] -= float(weight)
    error = float(np.abs(output).sum())
    assert error > float(found[2])
    assert error == pytest.approx(float(found[1]), rel=1e-4)
    assert not (tmp_path / "made" / CERTIFICATE).exists()
    report = json.loads(construct("verify", tmp_path / "made", "--json").out)
    assert report["certified"] is False
    assert report["counterexample"]["error"] == pytest.approx(error, rel=1e-9)
    assert report["counterexample"]["prompt"].strip() == found[3].strip()


def test_a_refutation_names_the_lemma_and_the_task(construct: Command, tmp_path: Path) -> None:
    save(moved(two_layer(tables(), examples=2)), tmp_path / "made")
    assert re.search(
        r"^  answer at eq: task 'p', .*: expected its weight, got up to ",
        construct("verify", tmp_path / "made").out,
        re.MULTILINE,
    )


def test_many_violations_are_counted_unless_json_lists_them(
    construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_command, "SHOWN", 1)
    built = two_layer(tables(), examples=2)
    save(edited(built, {"layers.0.attention.value": {(0, 0, 0): 5.0}}), tmp_path / "made")
    ran = construct("verify", tmp_path / "made")
    listed = json.loads(construct("verify", tmp_path / "made", "--json").out)["violations"]
    assert len(listed) > 1
    assert f"and {len(listed) - 1} more: --json lists them" in ran.out


def test_symbolic_mode_says_what_the_answer_is_at_z_0(construct: Command, folder: Path) -> None:
    ran = construct("verify", folder, "--symbolic")
    assert ran.status == 0
    assert "symbolic, z = exp(-sharpness): at z = 0" in ran.out
    assert "is the exact target" in ran.out
    report = json.loads(construct("verify", folder, "--symbolic", "--json").out)
    assert report["symbolic"]["exact"] is True
    assert report["symbolic"]["limit"] == report["symbolic"]["target"]
    assert 0 <= report["symbolic"]["error"] <= report["error_bound"]["real"]


def test_symbolic_mode_takes_a_prompt(construct: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("a->b\nb->b\nc->", encoding="utf-8")
    ran = construct("verify", folder, "--symbolic", "--prompt", tmp_path / "prompt.txt", "--json")
    assert ran.status == 0
    report = json.loads(ran.out)["symbolic"]
    assert report["prompt"] == "a->b\nb->b\nc->"
    assert report["target"] == {"a": "1/2", "b": "1/2"}  # one example by each task
    assert report["limit"] == report["target"]


def test_exhaustive_mode_runs_every_prompt(construct: Command, folder: Path) -> None:
    ran = construct("verify", folder, "--exhaustive", "--json")
    assert ran.status == 0
    report = json.loads(ran.out)
    assert report["exhaustive"]["prompts"] == 3 + 3**3 + 3**5
    assert report["exhaustive"]["error"] <= report["error_bound"]["real"] + 1e-13
    assert "exhaustive: 273 prompts, the worst error is " in construct("verify", folder, "--exhaustive").out


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_sampled_mode_stays_below_the_bound(dtype: str, construct: Command, folder: Path) -> None:
    ran = construct("verify", folder, "--sample", 20, "--dtype", dtype, "--seed", 3, "--json")
    assert ran.status == 0
    report = json.loads(ran.out)
    sampled = report["sampled"]
    assert sampled["bound"] == report["error_bound"]["real" if dtype == "float64" else dtype]
    assert sampled["error"] <= sampled["bound"] + 1e-13
    if sampled["ratio"] is not None:
        assert sampled["ratio"] == pytest.approx(sampled["bound"] / sampled["error"])
    assert f"sampled in {dtype}" in construct("verify", folder, "--sample", 20, "--dtype", dtype).out


def test_what_contradicts_the_proof_is_a_refutation(
    construct: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = exhaustive.exhaust

    def wrong(construction: Construction, **options: Any) -> Worst:
        found = true(construction, **options)
        return Worst(0.25, found.prompt, found.prompts, found.by_examples, found.rounding)

    monkeypatch.setattr(exhaustive, "exhaust", wrong)
    ran = construct("verify", folder, "--exhaustive")
    assert ran.status == 1
    assert "REFUTED: the modes contradict each other" in ran.out
    assert re.search(r"^  exhaustive: .*expected at most .*, got 0.25$", ran.out, re.MULTILINE | re.DOTALL)
    report = json.loads(construct("verify", folder, "--exhaustive", "--json").out)
    assert report["certified"] is False
    assert report["violations"][0]["lemma"] == "exhaustive"


def test_a_sum_is_verified_in_all_modes(construct: Command, tmp_path: Path) -> None:
    save(two_layer(sum_and_table(), examples=1), tmp_path / "made")
    ran = construct("verify", tmp_path / "made", "--symbolic", "--exhaustive", "--sample", 10)
    assert ran.status == 0, ran
    for word in ("symbolic", "exhaustive", "sampled", "CERTIFIED"):
        assert word in ran.out


WRONG: dict[str, tuple[list[object], tuple[str, ...]]] = {
    "an error of 0": (["--error", 0], ("--error is 0", "positive number")),
    "a negative error": (["--error", -1], ("--error is -1", "positive number")),
    "an error that is no number": (["--error", "nan"], ("--error is nan", "positive number")),
    "an error that is a word": (["--error", "small"], ("'--error'", "'small'")),
    "a prompt without its mode": (["--prompt", __file__], ("--prompt is for --symbolic",)),
    "an absent prompt": (["--symbolic", "--prompt", "absent.txt"], ("'--prompt'", "absent.txt")),
    "a prompt of another language": (["--symbolic", "--prompt", __file__], ("line 1",)),
    "no samples": (["--sample", 0], ("--sample is 0", "at least 1")),
    "a negative seed": (["--seed", -1], ("--seed is -1", "0 or more")),
    "an unknown dtype": (["--dtype", "float8"], ("'--dtype'", "'float8'")),
    "an unknown device": (["--sample", 1, "--device", "abacus"], ("abacus",)),
    "more prompts than the limit": (["--exhaustive", "--limit", 272], ("273 prompts", "the limit is 272")),
    "an unknown option": (["--quick"], ("'--quick'",)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_options_that_cannot_be_used_are_one_line(wrong: str, construct: Command, folder: Path) -> None:
    options, words = WRONG[wrong]
    construct("verify", folder, *options).refused(*words)
    construct("verify", folder, *options, "--json").refused(*words)


def test_a_folder_that_cannot_be_used_is_one_line(construct: Command, folder: Path, tmp_path: Path) -> None:
    construct("verify", tmp_path / "absent").refused("is no folder", "construct build")
    construct("verify").refused("DIRECTORY")
    (folder / "weights.safetensors").write_bytes(b"\x00" * 64)
    construct("verify", folder).refused("weights.safetensors", "damaged")


def test_a_denormal_weight_is_one_line(construct: Command, tmp_path: Path) -> None:
    save(edited(two_layer(tables(), examples=2), {"layers.1.mlp.bias_out": {(0,): 1e-40}}), tmp_path / "made")
    construct("verify", tmp_path / "made").refused("layers.1.mlp.bias_out", "denormal")


def test_a_blunt_construction_needs_a_claim(construct: Command, tmp_path: Path) -> None:
    save(two_layer(tables(), examples=2, sharpness=0.5), tmp_path / "made")
    construct("verify", tmp_path / "made").refused("states no error bound", "--error")
    assert construct("verify", tmp_path / "made", "--error", 1e-3).status == 1
