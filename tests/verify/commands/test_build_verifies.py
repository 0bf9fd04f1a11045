"""`construct build` proves what it has built before it says that it is done."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from construct.artifact import CERTIFICATE, DESCRIPTION, WEIGHTS, load
from construct.constructions import KINDS
from construct.theorems import Construction, two_layer
from tests.construct.conftest import Command
from tests.verify.conftest import edited
from verify.certify import digest, file_sha256
from verify.commands import build

SIZES = ("--suite", "lookup", "--tasks", 2, "--alphabet-size", 3, "--inputs", 2, "--examples", 5)


def recorded(folder: Path) -> str:
    return str(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["verification"])


def test_a_build_is_certified_and_holds_its_certificate(construct: Command, tmp_path: Path) -> None:
    out = tmp_path / "made"
    ran = construct("build", *SIZES, "--out", out, "--json")
    assert (ran.status, ran.err) == (0, "")
    report = json.loads(ran.out)
    assert report["verification"] == recorded(out) == "certified when built"
    assert 0 < report["certified_bound"]["real"] <= report["error_bound"]
    assert report["certified_bound"].keys() == {"real", "float32", "bfloat16", "float16"}
    assert report["verify_seconds"] > 0
    body = json.loads((out / CERTIFICATE).read_text(encoding="utf-8"))
    assert body["certified"] is True
    assert body["weights_sha256"] == file_sha256(out / WEIGHTS)
    assert body["error_bound"] == report["certified_bound"]
    assert body.pop("certificate_sha256") == digest(body)


def test_the_summary_of_the_proof_is_printed(construct: Command, tmp_path: Path) -> None:
    ran = construct("build", *SIZES, "--out", tmp_path / "made")
    assert ran.out.count("holds") == 5
    assert "proof over about 10^" in ran.out


def test_the_certificate_of_a_build_is_the_one_that_verify_writes(construct: Command, tmp_path: Path) -> None:
    out = tmp_path / "made"
    construct("build", *SIZES, "--out", out)
    built = json.loads((out / CERTIFICATE).read_text(encoding="utf-8"))
    assert construct("verify", out).status == 0
    verified = json.loads((out / CERTIFICATE).read_text(encoding="utf-8"))
    changing = {"seconds", "certificate_sha256"}
    assert {key: value for key, value in built.items() if key not in changing} == {
        key: value for key, value in verified.items() if key not in changing
    }


def test_a_dense_build_is_certified_too(construct: Command, tmp_path: Path) -> None:
    assert construct("build", *SIZES, "--dense", "--out", tmp_path / "made").status == 0
    assert recorded(tmp_path / "made") == "certified when built"
    assert construct("verify", tmp_path / "made").status == 0


def test_without_verification_it_is_recorded_and_said(construct: Command, tmp_path: Path) -> None:
    out = tmp_path / "made"
    ran = construct("build", *SIZES, "--no-verify", "--out", out)
    assert (ran.status, ran.err) == (0, "")
    assert recorded(out) == "skipped by --no-verify"
    assert f"not verified: skipped by --no-verify; `construct verify {out}` does it" in ran.out
    assert not (out / CERTIFICATE).exists()
    report = json.loads(construct("build", *SIZES, "--no-verify", "--out", out, "--json").out)
    assert report["verify_seconds"] is None
    assert "certified_bound" not in report
    assert construct("verify", out).status == 0


def test_an_earlier_certificate_goes_with_its_weights(construct: Command, tmp_path: Path) -> None:
    out = tmp_path / "made"
    construct("build", *SIZES, "--out", out)
    assert (out / CERTIFICATE).exists()
    construct("build", *SIZES, "--no-verify", "--out", out)
    assert not (out / CERTIFICATE).exists()


def test_a_sharpness_too_low_for_a_claim_is_built_and_said(construct: Command, tmp_path: Path) -> None:
    out = tmp_path / "made"
    ran = construct("build", *SIZES, "--sharpness", 0.5, "--out", out)
    assert (ran.status, ran.err) == (0, "")
    assert "no claim: the sharpness is too low for one" in ran.out
    assert recorded(out) == "no claim: the sharpness is too low for one"
    assert not (out / CERTIFICATE).exists()


@pytest.mark.parametrize("sharpness", [2.0, 3.5, 12.0])
def test_a_sharpness_of_ones_own_is_certified_where_it_has_a_claim(
    sharpness: float, construct: Command, tmp_path: Path
) -> None:
    ran = construct("build", *SIZES, "--sharpness", sharpness, "--out", tmp_path / "made", "--json")
    assert ran.status == 0
    report = json.loads(ran.out)
    assert report["certified_bound"]["real"] <= report["error_bound"]


@pytest.mark.parametrize("existing", [False, True])
def test_what_cannot_be_certified_is_not_written(
    existing: bool, construct: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "made"
    if existing:
        construct("build", *SIZES, "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()} if existing else {}

    def broken(*arguments: Any, **options: Any) -> Construction:
        built = two_layer(*arguments, **options)
        return edited(built, {"layers.0.mlp.bias_in": {(0,): 0.5}})

    with monkeypatch.context() as patched:
        patched.setattr(build, "KINDS", dict(KINDS) | {"two-layer": replace(KINDS["two-layer"], build=broken)})
        ran = construct("build", *SIZES, "--out", out)
        assert ran.status == 1
        assert ran.out == ""
        assert "not certified" in ran.err
        assert "nothing was written" in ran.err
        assert ran.err.count("\n") == 1
    if existing:
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        assert load(out).task_set.name == "lookup"
    else:
        assert not out.exists()
