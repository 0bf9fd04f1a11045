"""From a folder to a certificate: judged by what the weights compute, refused where they cannot be used."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from construct.artifact import CERTIFICATE, DESCRIPTION, WEIGHTS, load, save
from construct.errors import ArtifactError, InputError
from construct.theorems import two_layer
from tests.verify.conftest import edited, sum_and_table, tables
from verify.certify import digest, file_sha256, judge, judge_folder, log10_prompts, write_certificate

KEYS = {"certified", "error_bound", "lemmas", "violations", "weights_sha256", "seconds"}


def tampered(folder: Path, name: str, change: Any) -> None:
    """Rewrite one stored tensor; every hash stays as it was."""
    tensors = load_file(folder / WEIGHTS)
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / WEIGHTS)


def described(folder: Path, change: Any) -> None:
    data = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    change(data)
    (folder / DESCRIPTION).write_text(json.dumps(data), encoding="utf-8")


def test_an_artifact_is_certified_at_its_own_claim(folder: Path) -> None:
    verdict = judge_folder(folder)
    assert verdict.certified
    assert verdict.eps == load(folder).error_bound
    assert verdict.weights_sha256 == file_sha256(folder / WEIGHTS)
    assert verdict.seconds > 0


def test_the_json_object_has_what_is_promised(folder: Path) -> None:
    body = judge_folder(folder).to_json()
    assert body.keys() >= KEYS
    assert body["error_bound"].keys() == {"real", "float32", "bfloat16", "float16"}
    assert [lemma["name"] for lemma in body["lemmas"]] == ["reads", "evidence", "average", "answer", "superposition"]
    assert all(lemma.keys() == {"name", "claim", "figures", "holds"} for lemma in body["lemmas"])
    assert body["violations"] == []
    assert body["sizes"]["tasks"] == 2
    assert json.loads(json.dumps(body, allow_nan=False)) == body


def test_the_digest_is_of_everything_else(folder: Path) -> None:
    body = judge_folder(folder).to_json()
    kept = body.pop("certificate_sha256")
    assert kept == digest(body)
    assert digest(dict(reversed(body.items()))) == kept
    for name in body:
        assert digest(body | {name: "other"}) != kept
        assert digest({key: value for key, value in body.items() if key != name}) != kept


def test_the_worst_of_the_bounds_by_examples_is_the_bound(folder: Path) -> None:
    body = judge_folder(folder).to_json()
    assert max(body["lemmas"][-1]["figures"]["bounds"]) == body["error_bound"]["real"]


def test_the_claim_decides_and_not_the_bound(folder: Path) -> None:
    real = judge_folder(folder).proof.real
    assert real is not None
    assert judge_folder(folder, real).certified
    assert not judge_folder(folder, math.nextafter(real, 0)).certified
    assert judge_folder(folder, 0.5).certified


@pytest.mark.parametrize("eps", [0.0, -1e-3, math.inf, -math.inf, math.nan])
def test_a_claim_that_is_no_positive_number_cannot_be_judged(eps: float, folder: Path) -> None:
    with pytest.raises(InputError, match="expected a positive number"):
        judge_folder(folder, eps)


def test_without_any_claim_there_is_nothing_to_judge() -> None:
    blunt = two_layer(tables(), examples=2, sharpness=0.5)
    with pytest.raises(InputError, match="states no error bound"):
        judge(blunt, "")
    assert not judge(blunt, "", 0.1).certified


def test_changed_weights_are_judged_by_what_they_compute(folder: Path) -> None:
    before = file_sha256(folder / WEIGHTS)
    names = load_file(folder / WEIGHTS).keys()
    bias = next(name for name in ("layers.0.mlp.bias_in", "layers.0.mlp.bias_in.value") if name in names)
    # The first unit of the first task's evidence is larger by 2^-22 on its row.
    tampered(
        folder, bias, lambda stored: stored + np.where(np.arange(len(stored)) == 0, 2.0**-22, 0).astype(np.float32)
    )
    assert file_sha256(folder / WEIGHTS) != before
    with pytest.raises(ArtifactError, match="altered"):
        load(folder)
    verdict = judge_folder(folder, 1e-6)
    assert verdict.certified
    assert verdict.weights_sha256 != before
    assert verdict.proof.real is not None
    assert verdict.proof.real >= 2.0**-22
    assert not judge_folder(folder, 2.0**-23).certified


def test_a_description_that_says_otherwise_is_not_believed(folder: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["sha256"] = {"weights.safetensors": "0" * 64, "description": ""}
        data["circuits"] = []
        data["sharpness"] = 3.5
        data["error_bound"] = 1e-15
        data["verification"] = "certified when built"

    described(folder, change)
    assert not judge_folder(folder).certified
    assert judge_folder(folder, 1e-6).certified


def test_other_tasks_than_the_weights_perform_are_refuted(folder: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        row = data["task_set"]["tasks"][0]["rows"][0]
        row[-1] = "b" if row[-1] != "b" else "c"

    described(folder, change)
    verdict = judge_folder(folder, 1e-6)
    assert not verdict.certified
    assert verdict.proof.violations


def first(value: float) -> Any:
    def change(stored: np.ndarray) -> np.ndarray:
        changed = stored.copy()
        changed.flat[0] = value
        return changed

    return change


UNUSABLE: dict[str, tuple[Any, str]] = {
    "a denormal number": (first(1e-40), "denormal"),
    "a NaN": (first(math.nan), "not a finite number"),
    "an infinity": (first(-math.inf), "not a finite number"),
    "another dtype": (lambda stored: stored.astype(np.float16), "float16, expected float32"),
    "doubles": (lambda stored: stored.astype(np.float64), "float64, expected float32"),
    "another shape": (lambda stored: stored.ravel()[:-1], "shape"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_weights_that_cannot_be_used_are_refused(what: str, tmp_path: Path) -> None:
    save(two_layer(tables(), examples=2), tmp_path / "made", dense=True)
    change, message = UNUSABLE[what]
    tampered(tmp_path / "made", "unembedding", change)
    with pytest.raises(InputError, match=message) as caught:
        judge_folder(tmp_path / "made")
    assert "\n" not in str(caught.value)


def another_alphabet(data: dict[str, Any]) -> None:
    data["task_set"]["alphabet"].append("z")


def fewer_examples(data: dict[str, Any]) -> None:
    data["layout"]["examples"] = 1


def no_evidence(data: dict[str, Any]) -> None:
    del data["subspaces"]["evidence"]


def one_task_fewer(data: dict[str, Any]) -> None:
    data["task_set"]["tasks"].pop()


def newer(data: dict[str, Any]) -> None:
    data["format_version"] = 99


def absent_tensor(data: dict[str, Any]) -> None:
    del data["tensors"]["unembedding"]


@pytest.mark.parametrize(
    "change", [another_alphabet, fewer_examples, no_evidence, one_task_fewer, newer, absent_tensor]
)
def test_parts_that_do_not_fit_are_refused(change: Any, folder: Path) -> None:
    described(folder, change)
    with pytest.raises(InputError) as caught:
        judge_folder(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match="cannot read"):
        judge_folder(folder)
    with pytest.raises(ArtifactError, match="cannot read"):
        file_sha256(folder / WEIGHTS)


def test_the_certificate_is_written_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = judge_folder(folder)
    path = write_certificate(verdict, folder)
    assert path == folder / CERTIFICATE
    written = path.read_text(encoding="utf-8")
    assert json.loads(written) == verdict.to_json()
    other = replace(verdict, weights_sha256="0" * 64)

    def full(self: Path, _: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(ArtifactError, match=r"certificate.json.*No space left"):
            write_certificate(other, folder)
    assert path.read_text(encoding="utf-8") == written
    assert {entry.name for entry in folder.iterdir()} == {WEIGHTS, DESCRIPTION, CERTIFICATE}


def test_the_number_of_prompts_is_that_of_the_longest(folder: Path) -> None:
    built = load(folder)  # V = 3, n = 1, m = 2: 3^5 prompts of two examples
    assert 10 ** log10_prompts(built) == pytest.approx(3**5)


def test_a_refuted_verdict_can_be_written_as_json() -> None:
    broken = edited(two_layer(sum_and_table(), examples=1), {"layers.0.mlp.bias_in": {(0,): 9.0}})
    body = judge(broken, "").to_json()
    assert body["certified"] is False
    assert body["violations"]
    assert set(body["violations"][0]) == {"lemma", "where", "expected", "got"}
    text = json.dumps(body)
    assert digest({key: body[key] for key in body if key != "certificate_sha256"}) == body["certificate_sha256"]
    assert "Infinity" not in text
    assert "NaN" not in text
