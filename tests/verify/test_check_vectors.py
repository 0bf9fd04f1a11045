"""The independent checker on vectors: it verifies what is certified, and refuses whatever is changed."""

import hashlib
import json
import random
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from construct.artifact import CERTIFICATE
from construct.errors import ArtifactError
from construct.vector_artifact import load_vectors, save_vectors
from construct.vector_theorem import VectorConstruction
from tests.construct.vector_cases import built_case, constructions
from tests.verify.test_check import accepted, changes, flipped, may_pass, places, replaced, run, signed
from verify.certify import write_certificate
from verify.check import vectors as vectors_check
from verify.check.certificate import check
from verify.check.vectors_bounds import Bounds
from verify.vector_adversary import VectorSearcher
from verify.vector_certify import judge_vector_folder
from verify.vector_mutations import vector_mutants

Artifacts = Callable[[str], Path]

CASES: dict[str, dict[str, Any]] = {
    "fingerprints": {"kind": "general", "tasks": 2, "dim": 3, "inputs": 2, "examples": 2, "offsets": 0.5},
    "attention": {"kind": "rotation", "tasks": 2, "dim": 3, "inputs": 1, "examples": 3, "comparison": "attention"},
    "two coordinates": {"kind": "orthogonal", "tasks": 1, "dim": 5, "inputs": 3, "examples": 5, "width": 2},
    "no uniqueness": {"kind": "permutation", "tasks": 2, "dim": 2, "inputs": 1, "examples": 1, "twin": True},
    "narrow margin": {"kind": "general", "tasks": 1, "dim": 17, "inputs": 1, "examples": 2, "margin": 2.0**-12},
    "large": {"kind": "orthogonal", "tasks": 16, "dim": 64, "inputs": 8, "examples": 64},
}
SMALL = ("fingerprints", "attention")


def certified(construction: VectorConstruction, directory: Path) -> Path:
    save_vectors(construction, directory)
    verdict = judge_vector_folder(directory)
    assert verdict.certified
    write_certificate(verdict, directory)
    return directory


def body_of(directory: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((directory / CERTIFICATE).read_text())
    return body


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """The folder of a case, made once; to be read only."""
    made: dict[str, Path] = {}

    def of(case: str) -> Path:
        if case not in made:
            made[case] = certified(built_case(**CASES[case]), tmp_path_factory.mktemp("vectors") / "made")
        return made[case]

    return of


@pytest.mark.parametrize("case", CASES)
def test_certificates_of_unchanged_constructions_are_verified(
    case: str, artifact: Artifacts, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = artifact(case)
    assert run(directory / CERTIFICATE, directory, capsys) == (0, "VERIFIED")


@settings(max_examples=25)
@given(constructions())
def test_whatever_is_built_and_certified_is_verified(construction: VectorConstruction) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = certified(construction, Path(folder) / "made")
        check(directory / CERTIFICATE, directory, str)


@pytest.fixture
def worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from weights that do not change is worked out once, for the tests that change certificates."""
    made: dict[str, Bounds] = {}

    def once(claim: Any, free: Any) -> Bounds:
        key = repr((claim, free))
        if key not in made:
            bounds = Bounds(claim, free)
            lemmas, single = bounds.lemmas(), bounds.float32()
            monkeypatch.setattr(bounds, "lemmas", lambda: lemmas)
            monkeypatch.setattr(bounds, "float32", lambda: single)
            made[key] = bounds
        return made[key]

    monkeypatch.setattr(vectors_check, "Bounds", once)


def still_true(path: tuple[Any, ...], before: Any, after: Any, bound: float) -> bool:
    """Wording, the time, a weaker claim, or a figure within the prover's own slack above what was found."""
    if path[:2] == ("domain", "distance"):
        return isinstance(after, str) and after != ""
    within = type(before) is type(after) is float and abs(after - before) <= 1e-3 * abs(before) + 1e-12
    return within or may_pass(path, before, after, bound)


@pytest.mark.usefixtures("worked_out_once")
@pytest.mark.parametrize("case", SMALL)
def test_every_change_of_every_field_is_refused(case: str, artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact(case)
    body = body_of(directory)
    tried = passed = 0
    for path, value in list(places(body)):
        for other in changes(value):
            changed = replaced(body, path, lambda _, other=other: other)
            if not isinstance(changed, dict) or signed(changed) == body:
                continue
            tried += 1
            if tried % 7 == 0:
                assert not accepted(changed, directory, tmp_path / "c.json"), (path, value, other)
            if accepted(signed(changed), directory, tmp_path / "c.json"):
                passed += 1
                assert still_true(path, value, other, body["error_bound"]["real"]), (path, value, other)
    assert tried > 300
    assert passed > 5, "text may change where the digest is made again"


@pytest.mark.usefixtures("worked_out_once")
@pytest.mark.parametrize("case", SMALL)
def test_every_figure_is_refused_where_it_is_not_on_the_safe_side_or_far_from_what_follows(
    case: str, artifact: Artifacts, tmp_path: Path
) -> None:
    directory = artifact(case)
    body = body_of(directory)
    safe_below = ("least", "agree")
    for path, value in list(places(body["lemmas"], ("lemmas",))):
        if not isinstance(value, float) or not value:
            continue
        figure = next(part for part in reversed(path) if isinstance(part, str))
        wrong_side = 1 + 1e-3 if figure in safe_below else 1 - 2e-3
        if figure == "none":
            wrong_side = 1 + 1e-3  # below 0: a lower one claims more
        far = 3.0 if figure not in safe_below else 0.3
        for factor in (wrong_side, far):
            changed = replaced(body, path, lambda old, factor=factor: old * factor)
            assert not accepted(signed(changed), directory, tmp_path / "c.json"), (path, factor)
    for name in ("real", "float32"):
        for factor in (1 - 2e-3, 1 + 2e-3):
            changed = replaced(body, ("error_bound", name), lambda old, factor=factor: old * factor)
            assert not accepted(signed(changed), directory, tmp_path / "c.json"), (name, factor)


def test_no_claim_needs_its_reason_and_narrow_formats_have_none(artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact("fingerprints")
    body, at = body_of(directory), tmp_path / "c.json"
    silent = replaced(body, ("error_bound", "float32"), lambda _: None)
    assert not accepted(signed(silent), directory, at)
    reason = {"float32": "not now", **body["refusals"]}
    assert accepted(signed(replaced(silent, ("refusals",), lambda _: reason)), directory, at)
    for form in ("bfloat16", "float16"):
        more = replaced(body, ("error_bound", form), lambda _: 1.0)
        more["refusals"] = {name: text for name, text in body["refusals"].items() if name != form}
        assert not accepted(signed(more), directory, at)


@pytest.mark.parametrize("case", SMALL)
def test_another_description_is_another_claim_and_refused(case: str, artifact: Artifacts, tmp_path: Path) -> None:
    """The weights are no proof for other tasks, more examples, longer vectors or a smaller margin."""
    shutil.copytree(artifact(case), tmp_path / "a")
    described = json.loads((tmp_path / "a" / "construction.json").read_text())
    body = body_of(tmp_path / "a")
    edits: list[tuple[tuple[Any, ...], Any]] = [
        (("layout", "examples"), described["layout"]["examples"] + 1),
        (("task_set", "inputs"), described["task_set"]["inputs"] + 1),
        (("task_set", "bound"), 2.0),
        (("domain", "input_bound"), 2.0),
        (("domain", "answer_bound"), 64.0),
        (("domain", "margin"), 0.0625),
        (("task_set", "margin"), 0.0625),
        (("domain", "tolerance"), 0.06),
        (("domain", "norm_slack"), 0.5),
        (("domain", "fingerprint"), [[1.0, 0.0, 0.0]]),
        (("domain", "comparison"), "attention" if case == "fingerprints" else "fingerprint"),
        (("sharpness",), described["sharpness"] + 1),
        (("task_set", "tasks", 0, "position"), 1),
        (("task_set", "tasks", 0, "matrix", 0, 0), described["task_set"]["tasks"][0]["matrix"][0][0] + 2.0**-10),
        (("task_set", "tasks", 0, "offset", 1), described["task_set"]["tasks"][0]["offset"][1] + 2.0**-10),
        (("task_set", "tasks"), described["task_set"]["tasks"][::-1]),
        (("task_set", "tasks"), described["task_set"]["tasks"][:1]),
    ]
    for path, value in edits:
        changed = replaced(described, path[:-1], lambda old, at=path[-1], value=value: _set(old, at, value))
        (tmp_path / "a" / "construction.json").write_text(json.dumps(changed))
        assert not accepted(body, tmp_path / "a", tmp_path / "c.json"), path


def _set(old: Any, at: Any, value: Any) -> Any:
    copy = old.copy()
    copy[at] = value
    return copy


def test_the_whole_domain_moved_at_once_is_refused(artifact: Artifacts, tmp_path: Path) -> None:
    """A smaller margin, stated alike in the description and the certificate, does not follow from the weights."""
    shutil.copytree(artifact("fingerprints"), tmp_path / "a")
    described, body = json.loads((tmp_path / "a" / "construction.json").read_text()), body_of(tmp_path / "a")
    described["task_set"]["margin"] = described["domain"]["margin"] = body["domain"]["margin"] = 0.0625
    described["domain"]["tolerance"] = body["domain"]["tolerance"] = 0.0625 / 4
    (tmp_path / "a" / "construction.json").write_text(json.dumps(described))
    assert not accepted(signed(body), tmp_path / "a", tmp_path / "c.json")


@pytest.mark.parametrize("case", SMALL)
def test_flipped_bits_of_the_weights_are_refused_or_harmless(case: str, artifact: Artifacts, tmp_path: Path) -> None:
    """Hash and digest made right: only a free number on the safe side may pass, and then nothing is wrong."""
    directory = artifact(case)
    body, content = body_of(directory), (directory / "weights.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    shutil.copytree(directory, tmp_path / "a")
    original = load_vectors(directory)
    searcher = VectorSearcher(original.task_set, original.comparison, original.layout)
    draw = random.Random(5)
    passed = 0
    for bit in draw.sample(range(8 * start, 8 * len(content)), 400) + draw.sample(range(8 * start), 60):
        changed = flipped(content, bit)
        (tmp_path / "a" / "weights.safetensors").write_bytes(changed)
        assert not accepted(body, tmp_path / "a", tmp_path / "c.json")
        renewed = signed(body | {"weights_sha256": hashlib.sha256(changed).hexdigest()})
        if accepted(renewed, tmp_path / "a", tmp_path / "c.json"):
            passed += 1
            try:
                altered = load_vectors(tmp_path / "a", check_hashes=False)
            except ArtifactError:
                assert changed[:start] != content[:start]
                continue
            assert searcher.search(altered.weights, samples=8).error <= body["error_bound"]["real"] + 1e-12
    assert passed < 60


@pytest.mark.parametrize("case", SMALL)
def test_a_certificate_moved_to_altered_weights_is_refused_or_still_true(
    case: str, artifact: Artifacts, tmp_path: Path
) -> None:
    """Every kind of mutation, hash and digest made right."""
    directory = artifact(case)
    body, original = body_of(directory), load_vectors(directory)
    searcher = VectorSearcher(original.task_set, original.comparison, original.layout)
    kinds, verified = Counter[str](), 0
    for mutant in islice(vector_mutants(original, seed=5), 200):
        if not mutant.finite:
            continue
        kinds[mutant.kind] += 1
        save_vectors(mutant.construction, tmp_path / "a")
        sha256 = hashlib.sha256((tmp_path / "a" / "weights.safetensors").read_bytes()).hexdigest()
        if accepted(signed(body | {"weights_sha256": sha256}), tmp_path / "a", tmp_path / "c.json"):
            verified += 1
            error = searcher.search(mutant.construction.weights, samples=8).error
            assert error <= body["error_bound"]["real"] + 1e-12, mutant.says
    assert len(kinds) > 10
    assert verified < 20
