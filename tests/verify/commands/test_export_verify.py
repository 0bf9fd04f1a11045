"""`construct verify` on an exported folder: what it says, what it writes, and its exit status."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from construct.artifact import CERTIFICATE, save
from construct.theorems import two_layer
from tests.construct.conftest import Command
from tests.construct.conftest import construct as construct
from tests.verify.conftest import tables
from verify.certify import digest, file_sha256

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("built") / "tables"
    save(two_layer(tables(), examples=3), directory)
    return directory


@pytest.fixture
def exported(construct: Command, built: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    assert construct("export", built, "--out", out).status == 0
    return out


def _edit(folder: Path, name: str, factor: float) -> None:
    tensors = {key: np.array(value) for key, value in load_file(folder / WEIGHTS).items()}
    tensors[name] = tensors[name] * tensors[name].dtype.type(factor)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def test_an_export_is_certified_when_it_is_made_and_again(construct: Command, exported: Path) -> None:
    first = json.loads((exported / CERTIFICATE).read_text())
    card = (exported / "README.md").read_text()
    assert "These very weights are certified too" in card
    (exported / CERTIFICATE).unlink()
    ran = construct("verify", exported)
    assert (ran.status, ran.err) == (0, "")
    assert "CERTIFIED: for every prompt softmax(logits)" in ran.out
    again = json.loads((exported / CERTIFICATE).read_text())
    record = json.loads((exported / "export.json").read_text())
    for found in (first, again):
        assert found["weights_sha256"] == file_sha256(exported / WEIGHTS)
        assert found["total_variation_bound"] == record["total_variation_bound"]
        assert found["certificate_sha256"] == digest({key: found[key] for key in found if key != "certificate_sha256"})
    assert again["total_variation_bound"]["real"] < 1e-6


def test_altered_weights_are_refused_with_status_1_and_no_certificate(construct: Command, exported: Path) -> None:
    (exported / CERTIFICATE).unlink()
    _edit(exported, "lm_head.weight", 1.5)
    ran = construct("verify", exported)
    assert ran.status == 1
    assert "NOT PROVED" in ran.out
    assert "unembedding" in ran.out
    assert not (exported / CERTIFICATE).exists()


def test_a_claim_below_the_bound_is_not_proved(construct: Command, exported: Path) -> None:
    assert construct("verify", exported, "--error", "1e-12").status == 1
    ran = construct("verify", exported, "--error", "1e-6", "--json")
    assert ran.status == 0
    assert json.loads(ran.out)["eps"] == 1e-6


@pytest.mark.parametrize("broken", ["export.json", "config.json", WEIGHTS, "tokenizer.json"])
def test_a_damaged_folder_is_unusable(construct: Command, exported: Path, broken: str) -> None:
    (exported / broken).write_bytes(b"{")
    ran = construct("verify", exported)
    assert ran.status == 2
    assert broken in ran.err
    assert "Traceback" not in ran.err


def test_a_tokenizer_with_other_ids_is_unusable(construct: Command, exported: Path) -> None:
    path = exported / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    ran = construct("verify", exported)
    assert ran.status == 2
    assert "the id of 'a'" in ran.err


def test_what_an_export_has_not_is_refused(construct: Command, exported: Path, built: Path, tmp_path: Path) -> None:
    assert construct("verify", exported, "--exhaustive").status == 2
    assert construct("verify", exported, "--error", "0").status == 2
    other = tmp_path / "torch"
    assert construct("export", built, "--format", "torch", "--out", other).status == 0
    ran = construct("verify", other)
    assert ran.status == 2
    assert "as torch" in ran.err
    shutil.rmtree(other)


def test_an_export_without_a_proof_has_no_certificate(construct: Command, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "bare"
    assert construct("export", built, "--out", out, "--uncertified").status == 0
    assert not (out / CERTIFICATE).exists()
    assert construct("verify", out).status == 0
