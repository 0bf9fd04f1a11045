"""The independent checker on superpositions: what was proved passes, relative to the contracts; changes do not."""

import hashlib
import json
import random
import shutil
import struct
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from construct.artifact import load, save
from construct.errors import ArtifactError
from construct.prompts import Layout
from construct.superpose import superpose
from construct.superpose_component import Component
from construct.superpose_tables import table_component
from construct.tasks import SumTask, TableTask
from construct.theorems import Construction
from tests.construct.superposed import four_components
from tests.verify.conftest import edited
from tests.verify.test_check import accepted, changes, flipped, may_pass, places, replaced, run, signed
from tests.verify.test_superposition import SMALL, small_components
from verify.certify import judge_folder, write_certificate
from verify.check import superposition as checker
from verify.check.certificate import main
from verify.exhaustive import exhaust
from verify.mutations import mutants
from verify.superposition import prove_superposition

Body = dict[str, Any]


def written(construction: Construction, directory: Path) -> Path:
    """The construction's folder with its certificate."""
    save(construction, directory)
    verdict = judge_folder(directory)
    assert verdict.certified
    write_certificate(verdict, directory)
    return directory


def body_of(directory: Path) -> Body:
    body: Body = json.loads((directory / "certificate.json").read_text())
    return body


def moved(body: Body, directory: Path) -> Body:
    """The certificate, made out for the weights in a folder."""
    return signed(
        body | {"weights_sha256": hashlib.sha256((directory / "weights.safetensors").read_bytes()).hexdigest()}
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    construction = superpose(small_components(), SMALL).construction(alphabet="abc")
    return written(construction, tmp_path_factory.mktemp("superposed") / "small")


@pytest.fixture
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from weights that do not change is worked out once, for the tests that change certificates."""
    made: dict[bytes, Any] = {}
    whole = checker.Whole

    def once(described: Any, content: bytes) -> Any:
        if content not in made:
            made[content] = whole(described, content)
            leaks, shares = made[content].fetch_leaks(), made[content].average_leaks()
            made[content].fetch_leaks, made[content].average_leaks = lambda: leaks, lambda: shares
        return made[content]

    monkeypatch.setattr(checker, "Whole", once)


def test_a_mixture_with_a_trained_network_is_verified_relative_to_contracts_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verify.check.superposition_blocks.WORK", 20_000)
    layout = Layout(5, 3, 7)
    directory = written(superpose(four_components(layout), layout).construction(alphabet="abcde"), tmp_path / "mixed")
    assert main([str(directory / "certificate.json"), str(directory)]) == 0
    said = capsys.readouterr().out.splitlines()
    assumed = [line for line in said if line.startswith("ASSUMED, not proved here: ")]
    assert [line.split()[4] for line in assumed] == ["induction", "pair", "sum", "trained"]
    assert "if the contracts hold" in said[-2]
    assert said[-1] == "VERIFIED"


@pytest.mark.parametrize(
    ("task", "levels"),
    [
        (TableTask("partial", (1, 0), {(0, 1): 2, (2, 2): 1}), (0.25, 0.75)),
        (SumTask("sum", (0, 1), {0: 0, 2: 1}, {0: 1, 2: 2}), (0.25, 0.75)),
        (TableTask("wide", (0,), {(0,): 0}), (0.4, 0.6)),
        (TableTask("no less than it gives", (0,), {(0,): 0, (1,): 2}), (0.0, 1.0)),
    ],
)
def test_components_of_all_kinds_are_verified(
    task: TableTask | SumTask, levels: tuple[float, float], tmp_path: Path
) -> None:
    layout = Layout(3, 2, 3)
    part = table_component(task, layout)
    parts = [Component(task, part.weights, *levels), table_component(TableTask("other", (1,), {(1,): 1}), layout)]
    directory = written(superpose(parts, layout, error=1e-3).construction(alphabet="abc"), tmp_path / "made")
    assert accepted(body_of(directory), directory, tmp_path / "c.json")


@pytest.mark.usefixtures("built_once")
def test_every_change_of_every_field_is_refused(small: Path, tmp_path: Path) -> None:
    body = body_of(small)
    tried = passed = 0
    for path, value in list(places(body)):
        for other in changes(value):
            changed = replaced(body, path, lambda _, other=other: other)
            if not isinstance(changed, dict) or signed(changed) == body:
                continue
            tried += 1
            if accepted(signed(changed), small, tmp_path / "c.json"):
                passed += 1
                weaker = weaker_contract(path, value, other)
                assert weaker or may_pass(path, value, other, body["error_bound"]["real"]), (path, value, other)
    assert tried > 500
    assert passed > 5, "text may change where the digest is made again"


def weaker_contract(path: tuple[Any, ...], before: Any, after: Any) -> bool:
    """Whether a level was changed to one that says less, up to what floats may lose where contracts are tried out."""
    if path[:4] not in {("lemmas", 1, "figures", "low"), ("lemmas", 1, "figures", "high")}:
        return False
    before, after = (value if isinstance(value, list) else [value] for value in (before, after))
    sign = 1 if path[3] == "low" else -1
    pairs = zip(before, after, strict=False)
    return len(before) == len(after) and all(type(b) is float and sign * (b - a) >= -1e-8 for a, b in pairs)


@pytest.mark.usefixtures("built_once")
def test_every_figure_but_the_levels_is_refused_a_little_below_and_above_what_follows(
    small: Path, tmp_path: Path
) -> None:
    body = body_of(small)
    figures = [*places(body["lemmas"], ("lemmas",)), *places(body["error_bound"], ("error_bound",))]
    changed = 0
    for path, value in figures:
        if isinstance(value, float) and value and path[1] != 1:
            for factor in (1 - 1e-8, 1 + 1e-8):
                other = replaced(body, path, lambda old, factor=factor: old * factor)
                assert not accepted(signed(other), small, tmp_path / "c.json"), (path, factor)
                changed += 1
    assert changed >= 20


@pytest.mark.usefixtures("built_once")
def test_contracts_that_an_output_breaks_or_that_no_threshold_parts_are_refused(small: Path, tmp_path: Path) -> None:
    body = body_of(small)
    for level, value in (("low", -0.01), ("high", 1.01), ("low", 0.45), ("high", 0.55)):
        for component in (0, 1):
            changed = replaced(body, ("lemmas", 1, "figures", level, component), lambda _, value=value: value)
            assert not accepted(signed(changed), small, tmp_path / "c.json"), (level, value)


def test_tasks_that_the_weights_do_not_perform_are_refused(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "a")
    described = json.loads((small / "construction.json").read_text())
    for task in (0, 1):
        other = json.loads(json.dumps(described))
        row = other["task_set"]["tasks"][task]["rows"][0]
        row[-1] = "c" if row[-1] != "c" else "a"
        (tmp_path / "a" / "construction.json").write_text(json.dumps(other))
        assert not accepted(body_of(small), tmp_path / "a", tmp_path / "c.json")
        other["task_set"]["tasks"][task]["rows"] = described["task_set"]["tasks"][task]["rows"][1:]
        (tmp_path / "a" / "construction.json").write_text(json.dumps(other))
        assert not accepted(body_of(small), tmp_path / "a", tmp_path / "c.json")


def attacks(construction: Construction) -> dict[str, dict[str, dict[tuple[int, ...], float]]]:
    """Edits that a careless checker could miss, by name."""
    stream = construction.stream
    first, other = stream["component[first]"].start, stream["component[induction]"].start
    prediction, evidence, token = (stream[name].start for name in ("prediction", "evidence", "token"))
    role_x, index = stream["role_x"].start, stream["example_index"].start
    w_in = construction.weights.layers[2].mlp.w_in.toarray()
    unit = int(w_in[prediction].argmax())
    sharp = float(construction.weights.layers[2].attention.query.max())
    return {
        "a head of one component writes into the other": {"layers.0.attention.output": {(0, 0, other): 1e-3}},
        "a head of one component reads the other": {"layers.0.attention.value": {(0, other, 0): 1e-3}},
        "a unit of one component writes into the other": {"layers.0.mlp.w_out": {(0, other): 1e-3}},
        "a unit of one component reads the other": {"layers.0.mlp.w_in": {(other, 0): 1e-3}},
        "a unit of a component writes an answer": {"layers.0.mlp.w_out": {(0, token): 1e-3}},
        "a bias writes evidence": {"layers.1.mlp.bias_out": {(evidence,): 1e-3}},
        "the fetch head leaks": {"layers.2.attention.query": {(0, stream["role_y"].start, -1): sharp / 8}},
        "the fetch head looks at inputs": {"layers.2.attention.key": {(0, role_x, -1): 1.0}},
        "the fetch head reads another component": {"layers.2.attention.value": {(0, other, 0): 1e-3}},
        "the fetch head writes the evidence": {"layers.2.attention.output": {(0, 0, evidence): 1e-3}},
        "a threshold of the credit is off": {"layers.2.mlp.bias_in": {(unit,): -6.0}},
        "a credit reads its token twice": {"layers.2.mlp.w_in": {(token, unit): 2.0}},
        "a credit reads an input's role": {"layers.2.mlp.w_in": {(role_x, unit): 1.0}},
        "a credit goes to another task": {"layers.2.mlp.w_out": {(unit, evidence + 1): 1.0}},
        "the average is not uniform": {"layers.3.attention.key": {(0, index, 0): 1e-3}},
        "the average sees inputs": {"layers.3.attention.key": {(0, role_x, 0): 1.0}},
        "the average mixes the tasks": {"layers.3.attention.output": {(0, 0, evidence + 1): 1e-3}},
        "a threshold of an answer is off": {"layers.3.mlp.bias_in": {(0,): 5.0}},
        "a weight is read twice": {"layers.3.mlp.w_in": {(evidence, 0): 2.0}},
        "an answer goes to two tokens": {"layers.3.mlp.w_out": {(0, token + 1): 1e-3}},
        "the output reads a component": {"unembedding": {(first, 0): 1e-3}},
        "EQ has an embedding": {"embedding.token": {(4, token): 1e-3}},
        "a position has evidence": {"embedding.position": {(3, evidence): 1e-3}},
    }


@pytest.mark.parametrize("name", list(attacks(superpose(small_components(), SMALL).construction(alphabet="abc"))))
def test_attacks_by_hand_are_refused_by_the_checker_and_never_certified_below_the_truth(
    name: str, small: Path, tmp_path: Path
) -> None:
    original = load(small)
    changed = edited(original, attacks(original)[name])
    save(changed, tmp_path / "a")
    assert not accepted(moved(body_of(small), tmp_path / "a"), tmp_path / "a", tmp_path / "c.json")
    proof, worst = prove_superposition(changed), exhaust(changed)
    # 1e-12 covers the float64 of the exhaustive pass.
    assert proof.real is None or worst.error <= proof.real + 1e-12 + worst.rounding


def true_or_contract_broken(construction: Construction, bound: float) -> bool:
    """Whether the claim holds, by running every prompt, or the prover finds that it is a contract that fails."""
    if exhaust(construction).error <= bound + 1e-12:  # of the float64 of that pass
        return True
    proof = prove_superposition(construction)
    return proof.real is None and proof.violations[0].lemma == "contract"


def test_flipped_bits_of_the_weights_are_refused_or_harmless(small: Path, tmp_path: Path) -> None:
    """With the hash and the digest made right, what passes changes no answer, or breaks a contract that is assumed."""
    body, content = body_of(small), (small / "weights.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    shutil.copytree(small, tmp_path / "a")
    draw, passed = random.Random(3), []
    for bit in draw.sample(range(8 * start, 8 * len(content)), 200) + draw.sample(range(8 * start), 30):
        (tmp_path / "a" / "weights.safetensors").write_bytes(flipped(content, bit))
        assert not accepted(body, tmp_path / "a", tmp_path / "c.json")
        if accepted(moved(body, tmp_path / "a"), tmp_path / "a", tmp_path / "c.json"):
            passed.append(bit)
    for bit in islice(passed, 12):
        (tmp_path / "a" / "weights.safetensors").write_bytes(flipped(content, bit))
        try:
            construction = load(tmp_path / "a", check_hashes=False)
        except ArtifactError:
            assert bit < 8 * start  # a header that this program reads and the other does not
            continue
        assert true_or_contract_broken(construction, body["error_bound"]["real"]), bit
    assert len(passed) < 60


def test_a_certificate_moved_to_altered_weights_is_refused_or_still_true(small: Path, tmp_path: Path) -> None:
    body, original = body_of(small), load(small)
    kinds, verified = Counter[str](), 0
    for mutant in islice(mutants(original, seed=5), 120):
        if not mutant.finite:
            continue
        kinds[mutant.kind] += 1
        save(mutant.construction, tmp_path / "a")
        if accepted(moved(body, tmp_path / "a"), tmp_path / "a", tmp_path / "c.json"):
            verified += 1
            assert true_or_contract_broken(mutant.construction, body["error_bound"]["real"]), str(mutant)
    assert len(kinds) > 10
    assert verified < 40


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"format": NaN}'])
@pytest.mark.parametrize("name", ["certificate.json", "construction.json", "weights.safetensors"])
def test_files_that_are_something_else_end_in_a_word_and_a_status(
    name: str, content: bytes, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small, tmp_path / "a")
    (tmp_path / "a" / name).write_bytes(content)
    status, said = run(tmp_path / "a" / "certificate.json", tmp_path / "a", capsys)
    assert status in (1, 2)
    assert said.startswith(("REFUSED: ", "UNREADABLE: "))
