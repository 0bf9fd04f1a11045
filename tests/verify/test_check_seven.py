"""The independent checker on the seven layers: it accepts what was proved, and refuses whatever was changed since."""

import copy
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
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from construct.artifact import load, save
from construct.errors import ArtifactError, TaskError
from construct.seven_layer import seven_layer
from construct.suites import build_suite
from construct.tasks import TaskSet
from tests.construct.strategies import task_sets
from tests.verify.conftest import with_unit
from tests.verify.test_check import CASES as TWO_LAYER_CASES
from tests.verify.test_check import accepted, changes, flipped, may_pass, places, replaced, run, signed
from tests.verify.test_seven import SMALL
from verify.certify import judge_folder, write_certificate
from verify.check import certificate as checker
from verify.check import seven
from verify.exhaustive import exhaust
from verify.mutations import mutants

CASES: dict[str, tuple[TaskSet, int]] = SMALL | {
    "retrieval": (build_suite("retrieval", tasks=8, alphabet_size=32, inputs=8), 16),
    "lookup": (build_suite("lookup", tasks=7, alphabet_size=9, inputs=3, seed=2), 5),
    **{
        case: TWO_LAYER_CASES[case]
        for case in (
            "a sum with undefined tokens",
            "sums that ride along",
            "a sum of one value or none",
            "sums far apart",
            "a sum without a row that is reached",
            "a sum with no row in its range",
            "a sum over one token",
            "country",
            "copy_add",
            "add_translate",
            "numbers",
        )
    },
}
TABLES, SUM = "two tables", "a sum and a table"

Artifacts = Callable[[str], Path]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """A case, built, with its certificate; not to be written to."""
    root, made = tmp_path_factory.mktemp("artifacts"), dict[str, Path]()

    def make(case: str) -> Path:
        if case not in made:
            made[case] = root / str(len(made))
            tasks, examples = CASES[case]
            save(seven_layer(tasks, examples=examples), made[case])
            verdict = judge_folder(made[case])
            assert verdict.certified
            write_certificate(verdict, made[case])
        return made[case]

    return make


@pytest.mark.parametrize("case", CASES)
def test_certificates_of_unchanged_constructions_are_verified(
    case: str, artifact: Artifacts, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = artifact(case)
    assert run(directory / "certificate.json", directory, capsys) == (0, "VERIFIED")


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(task_sets(), st.integers(1, 6), st.sampled_from([1e-9, 1e-6, 1e-2, 0.3]))
def test_whatever_is_built_and_certified_is_verified(tasks: TaskSet, examples: int, error: float) -> None:
    try:
        construction = seven_layer(tasks, examples=examples, error=error)
    except TaskError:
        reject()  # more reads than two layers of K heads have
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "made"
        save(construction, directory)
        write_certificate(judge_folder(directory), directory)
        checker.check(directory / "certificate.json", directory, str)


@pytest.fixture
def worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from weights that do not change is worked out once, for the tests that change certificates."""
    models: dict[bytes, Any] = {}
    read = seven.read_model

    def read_once(described: Any, content: bytes, **form: Any) -> Any:
        key = content + json.dumps(described).encode()
        if key not in models:
            models[key] = read(described, content, **form)
        return copy.copy(models[key])

    monkeypatch.setattr(seven, "read_model", read_once)


@pytest.mark.usefixtures("worked_out_once")
@pytest.mark.parametrize("case", ["one row", SUM])
def test_every_change_of_every_field_is_refused(case: str, artifact: Artifacts, tmp_path: Path) -> None:
    """As it is, and with a digest made anew; what passes then is wording, the time, or a weaker claim."""
    directory = artifact(case)
    body = json.loads((directory / "certificate.json").read_text())
    tried = passed = 0
    for path, value in list(places(body)):
        for number, other in enumerate(changes(value)):
            changed = replaced(body, path, lambda _, other=other: other)
            if number % 5 == 0:
                assert not accepted(changed, directory, tmp_path / "c.json"), (path, value, other)
            if not isinstance(changed, dict) or signed(changed) == body:
                continue
            tried += 1
            if accepted(signed(changed), directory, tmp_path / "c.json"):
                passed += 1
                assert may_pass(path, value, other, body["error_bound"]["real"]), (path, value, other)
    assert tried > 400
    assert passed > 5, "text may change where the digest is made again"


@pytest.mark.usefixtures("worked_out_once")
def test_every_figure_is_refused_a_little_below_and_above_what_follows(artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact(SUM)
    body = json.loads((directory / "certificate.json").read_text())
    for path, value in list(places(body["lemmas"], ("lemmas",))) + list(places(body["error_bound"], ("error_bound",))):
        if isinstance(value, float) and value:
            for factor in (1 - 1e-8, 1 + 1e-8):
                changed = replaced(body, path, lambda old, factor=factor: old * factor)
                assert not accepted(signed(changed), directory, tmp_path / "c.json"), (path, factor)


def test_other_tasks_or_more_examples_are_refused(artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact(TABLES)
    body = json.loads((directory / "certificate.json").read_text())
    shutil.copytree(directory, tmp_path / "a")
    described = json.loads((directory / "construction.json").read_text())
    rows = described["task_set"]["tasks"][0]["rows"]
    tasks = described["task_set"]["tasks"]
    for task in ({**tasks[0], "rows": [[rows[0][0], rows[1][1]], *rows[1:]]}, {**tasks[0], "rows": rows[1:]}):
        described["task_set"]["tasks"] = [task, *tasks[1:]]
        (tmp_path / "a" / "construction.json").write_text(json.dumps(described))
        assert not accepted(body, tmp_path / "a", tmp_path / "c.json")
    described["task_set"]["tasks"] = tasks[::-1]
    (tmp_path / "a" / "construction.json").write_text(json.dumps(described))
    assert not accepted(body, tmp_path / "a", tmp_path / "c.json")
    described["task_set"]["tasks"] = tasks
    described["layout"]["examples"] += 1
    (tmp_path / "a" / "construction.json").write_text(json.dumps(described))
    assert not accepted(body, tmp_path / "a", tmp_path / "c.json")


@pytest.mark.parametrize("moved", ["prediction", "unanswered", "mismatch", "evidence", "weight"])
def test_places_that_are_somewhere_else_are_refused(moved: str, artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact(TABLES)
    body = json.loads((directory / "certificate.json").read_text())
    shutil.copytree(directory, tmp_path / "a")
    original = (directory / "construction.json").read_text()
    for change in ({"start": 1}, {"start": -1}, {"size": 1}, {"start": 2.0}, {"start": 10**6}):
        described = json.loads(original)
        described["subspaces"][moved] |= change
        (tmp_path / "a" / "construction.json").write_text(json.dumps(described))
        assert not accepted(body, tmp_path / "a", tmp_path / "c.json")


def renewed(body: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The certificate with hash and digest made right for the weights that are there now."""
    sha256 = hashlib.sha256((directory / "weights.safetensors").read_bytes()).hexdigest()
    return signed(body | {"weights_sha256": sha256})


@pytest.mark.parametrize("case", [TABLES, SUM])
def test_a_certificate_moved_to_altered_weights_is_refused_or_still_true(
    case: str, artifact: Artifacts, tmp_path: Path
) -> None:
    """Every kind of mutation; the hash and the digest are made right, so that only what the weights compute decides."""
    directory = artifact(case)
    body, original = json.loads((directory / "certificate.json").read_text()), load(directory)
    kinds, verified = Counter[str](), 0
    for mutant in islice(mutants(original, seed=5), 200):
        kinds[mutant.kind] += 1
        save(mutant.construction, tmp_path / "a")
        if accepted(renewed(body, tmp_path / "a"), tmp_path / "a", tmp_path / "c.json"):
            verified += 1
            assert exhaust(mutant.construction).error <= body["error_bound"]["real"], mutant
    assert len(kinds) > 10
    assert verified < 20


@pytest.mark.parametrize("case", [TABLES, SUM])
def test_flipped_bits_of_the_weights_are_refused_or_harmless(case: str, artifact: Artifacts, tmp_path: Path) -> None:
    """With hash and digest made right, all but flips of weights that no answer feels, as every prompt shows."""
    directory = artifact(case)
    body = json.loads((directory / "certificate.json").read_text())
    content = (directory / "weights.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    shutil.copytree(directory, tmp_path / "a")
    draw = random.Random(3)
    passed = []
    for bit in draw.sample(range(8 * start, 8 * len(content)), 500) + draw.sample(range(8 * start), 50):
        changed = flipped(content, bit)
        (tmp_path / "a" / "weights.safetensors").write_bytes(changed)
        assert not accepted(body, tmp_path / "a", tmp_path / "c.json")
        if accepted(renewed(body, tmp_path / "a"), tmp_path / "a", tmp_path / "c.json"):
            passed.append(changed)
    bound = body["error_bound"]["real"]
    for changed in islice(passed, 8):
        (tmp_path / "a" / "weights.safetensors").write_bytes(changed)
        try:
            construction = load(tmp_path / "a", check_hashes=False)
        except ArtifactError:
            assert changed[:start] != content[:start]  # a header that this program reads and the other does not
            continue
        assert exhaust(construction).error <= bound
    assert len(passed) < 60


def test_units_that_are_of_no_step_are_refused(artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact(TABLES)
    body, original = json.loads((directory / "certificate.json").read_text()), load(directory)
    start = {name: space.start for name, space in original.stream.items()}
    eq, y = {start["role_eq"]: 1.0}, {start["role_y"]: 1.0}
    extra = {
        "a constant answer": (6, eq, {start["token"]: 1.0}),
        "credit at every y": (3, y, {start["evidence"]: 1.0}),
        "weight at every =": (5, eq, {start["weight"]: 1.0}),
        "a prediction at every =": (1, eq, {start["prediction"]: 1.0}),
        "a unit before anything was read": (0, eq, {start["unanswered"]: -1.0}),
        "a unit beside the average": (4, eq, {start["evidence"]: 1.0}),
        "a mismatch less": (2, y, {start["mismatch"]: -1.0}),
    }
    wrong = 0
    for layer, reads, writes in extra.values():
        broken = with_unit(original, layer, reads, 0.0, writes)
        wrong += exhaust(broken).error > 0.01
        save(broken, tmp_path / "a")
        changed = renewed(body, tmp_path / "a")
        # The sizes count the unit, so that they are not what refuses it.
        changed["sizes"]["mlp_width"][layer] += 1
        weights = load(tmp_path / "a").weights
        changed["sizes"]["parameters"], changed["sizes"]["nonzero_parameters"] = (
            weights.parameters,
            weights.nonzero_parameters,
        )
        assert not accepted(signed(changed), tmp_path / "a", tmp_path / "c.json")
    assert wrong >= 4, "others are harmless, but of another form"
