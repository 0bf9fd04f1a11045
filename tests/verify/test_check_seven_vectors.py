"""The independent checker on the seven layers on vectors: what holds for the three layers holds for them."""

import hashlib
import json
import random
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from construct.artifact import CERTIFICATE
from construct.errors import ArtifactError
from construct.seven_vectors import seven_layer_vectors
from construct.transformer import LayerWeights, MlpWeights
from construct.vector_artifact import load_vectors, save_vectors
from construct.vector_suites import random_vector_tasks
from construct.vector_theorem import VectorConstruction
from tests.verify.test_check import accepted, changes, flipped, places, replaced, run, signed
from tests.verify.test_check_vectors import still_true, worked_out_once
from verify.certify import write_certificate
from verify.check.files import Tensor
from verify.check.seven_vectors import merge
from verify.vector_adversary import VectorSearcher
from verify.vector_certify import judge_vector_folder
from verify.vector_mutations import vector_mutants

__all__ = ["worked_out_once"]  # a fixture

Artifacts = Callable[[str], Path]

CASES: dict[str, dict[str, Any]] = {
    "fingerprints": {"kind": "general", "tasks": 2, "dim": 3, "inputs": 4, "examples": 2},
    "attention": {"kind": "rotation", "tasks": 2, "dim": 3, "inputs": 1, "examples": 3, "comparison": "attention"},
    "larger": {"kind": "orthogonal", "tasks": 5, "dim": 13, "inputs": 3, "examples": 11, "width": 7},
}
SMALL = ("fingerprints", "attention")


def built(kind: str, tasks: int, dim: int, inputs: int, **options: Any) -> VectorConstruction:
    return seven_layer_vectors(random_vector_tasks(kind, tasks=tasks, dim=dim, inputs=inputs), **options)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """The folder of a case, made once; to be read only."""
    made: dict[str, Path] = {}

    def of(case: str) -> Path:
        if case not in made:
            made[case] = tmp_path_factory.mktemp("seven") / "made"
            save_vectors(built(**CASES[case]), made[case])
            verdict = judge_vector_folder(made[case])
            assert verdict.certified
            write_certificate(verdict, made[case])
        return made[case]

    return of


def body_of(directory: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((directory / CERTIFICATE).read_text())
    return body


@pytest.mark.parametrize("case", CASES)
def test_certificates_of_unchanged_constructions_are_verified(
    case: str, artifact: Artifacts, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = artifact(case)
    assert run(directory / CERTIFICATE, directory, capsys) == (0, "VERIFIED")
    assert load_vectors(directory).theorem == body_of(directory)["theorem"] == "seven-layer vectors"


@pytest.mark.usefixtures("worked_out_once")
@pytest.mark.parametrize("case", SMALL)
def test_every_change_of_every_field_is_refused(case: str, artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact(case)
    body = body_of(directory)
    tried = 0
    for path, value in list(places(body)):
        for other in changes(value):
            changed = replaced(body, path, lambda _, other=other: other)
            if not isinstance(changed, dict) or signed(changed) == body:
                continue
            tried += 1
            if tried % 7 == 0:
                assert not accepted(changed, directory, tmp_path / "c.json"), (path, value, other)
            if accepted(signed(changed), directory, tmp_path / "c.json"):
                assert still_true(path, value, other, body["error_bound"]["real"]), (path, value, other)
    assert tried > 300


def test_a_certificate_does_not_change_its_theorem(artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact("fingerprints")
    body = body_of(directory)
    for theorem in ("vectors", "seven-layer", "two-layer"):
        assert not accepted(signed(body | {"theorem": theorem}), directory, tmp_path / "c.json")


@pytest.mark.parametrize("case", SMALL)
def test_flipped_bits_of_the_weights_are_refused_or_harmless(case: str, artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact(case)
    body, content = body_of(directory), (directory / "weights.safetensors").read_bytes()
    original = load_vectors(directory)
    save_vectors(original, tmp_path / "a")
    searcher = VectorSearcher(original.task_set, original.comparison, original.layout)
    start = 8 + struct.unpack("<Q", content[:8])[0]
    draw = random.Random(3)
    for bit in draw.sample(range(8 * start, 8 * len(content)), 200) + draw.sample(range(8 * start), 30):
        changed = flipped(content, bit)
        (tmp_path / "a" / "weights.safetensors").write_bytes(changed)
        assert not accepted(body, tmp_path / "a", tmp_path / "c.json")
        renewed = signed(body | {"weights_sha256": hashlib.sha256(changed).hexdigest()})
        if accepted(renewed, tmp_path / "a", tmp_path / "c.json"):
            try:
                altered = load_vectors(tmp_path / "a", check_hashes=False)
            except ArtifactError:
                assert changed[:start] != content[:start]
                continue
            assert searcher.search(altered.weights, samples=8).error <= body["error_bound"]["real"] + 1e-12


@pytest.mark.parametrize("case", SMALL)
def test_a_certificate_moved_to_altered_weights_is_refused_or_still_true(
    case: str, artifact: Artifacts, tmp_path: Path
) -> None:
    directory = artifact(case)
    body, original = body_of(directory), load_vectors(directory)
    searcher = VectorSearcher(original.task_set, original.comparison, original.layout)
    kinds, verified = Counter[str](), 0
    for mutant in islice(vector_mutants(original, seed=2), 120):
        if not mutant.finite:
            continue
        kinds[mutant.kind] += 1
        save_vectors(mutant.construction, tmp_path / "a")
        sha256 = hashlib.sha256((tmp_path / "a" / "weights.safetensors").read_bytes()).hexdigest()
        if accepted(signed(body | {"weights_sha256": sha256}), tmp_path / "a", tmp_path / "c.json"):
            verified += 1
            error = searcher.search(mutant.construction.weights, samples=8).error
            assert error <= body["error_bound"]["real"] + 1e-12, mutant.says
    assert len(kinds) > 8
    assert verified < 20


@pytest.mark.parametrize("layer", [0, 2, 5, 6])
def test_a_constant_where_there_is_none_is_refused(layer: int, artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact("fingerprints")
    original = load_vectors(directory)
    layers = list(original.weights.layers)
    mlp = layers[layer].mlp
    constant = np.zeros(original.stream.d_model, dtype=np.float32)
    constant[original.stream["vector"].start] = 0.5
    layers[layer] = LayerWeights(layers[layer].attention, MlpWeights(mlp.w_in, mlp.bias_in, mlp.w_out, constant))
    altered = replace(original, weights=replace(original.weights, layers=tuple(layers)))
    save_vectors(altered, tmp_path / "a")
    sha256 = hashlib.sha256((tmp_path / "a" / "weights.safetensors").read_bytes()).hexdigest()
    body = signed(body_of(directory) | {"weights_sha256": sha256})
    assert not accepted(body, tmp_path / "a", tmp_path / "c.json")
    assert not judge_vector_folder(tmp_path / "a").certified


def test_a_layer_that_reads_what_the_one_before_it_writes_is_not_merged() -> None:
    def mlp(read: int, written: int) -> dict[str, Tensor]:
        w_in: list[dict[int, Any]] = [{0: 1} if at == read else {} for at in range(3)]
        return {
            "w_in": Tensor((3, 1), w_in),
            "bias_in": Tensor((1,), [{}]),
            "w_out": Tensor((1, 3), [{written: 1}]),
            "bias_out": Tensor((3,), [{}]),
        }

    assert merge(mlp(0, 1), mlp(0, 2), [1, 0])["w_out"].rows == [{2: 1}, {1: 1}]
    for other in (mlp(1, 2), mlp(0, 1)):
        with pytest.raises(Exception, match="the layer before it writes"):
            merge(mlp(0, 1), other, [0, 1])
