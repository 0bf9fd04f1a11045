"""The independent checker accepts what was proved and refuses what was changed; the full fuzz is still to come."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from construct.artifact import save
from construct.suites import build_suite
from construct.theorems import two_layer
from verify.certify import digest, judge_folder, write_certificate


def checked(folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "verify.check", str(folder / "certificate.json"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip().splitlines()[-1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    save(two_layer(build_suite("plus", tasks=2, alphabet_size=5), examples=3), made)
    write_certificate(judge_folder(made), made)
    return made


def test_a_certificate_of_these_weights_is_verified(folder: Path) -> None:
    assert checked(folder) == (0, "VERIFIED")


@pytest.mark.parametrize("factor", [0.5, 0.99, 1.01, 2.0])
def test_a_changed_bound_is_refused_though_the_digest_is_made_anew(folder: Path, factor: float) -> None:
    path = folder / "certificate.json"
    body = json.loads(path.read_text())
    del body["certificate_sha256"]
    body["error_bound"]["real"] *= factor
    path.write_text(json.dumps(body | {"certificate_sha256": digest(body)}))
    status, last = checked(folder)
    assert status == 1
    assert last.startswith("REFUSED")


def test_a_flipped_bit_of_a_weight_is_refused_though_the_hashes_are_made_anew(folder: Path) -> None:
    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[-1] ^= 0x80  # the sign of the last stored value
    (folder / "weights.safetensors").write_bytes(weights)
    path = folder / "certificate.json"
    body = json.loads(path.read_text())
    del body["certificate_sha256"]
    body["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    path.write_text(json.dumps(body | {"certificate_sha256": digest(body)}))
    status, last = checked(folder)
    assert status == 1
    assert last.startswith("REFUSED")
