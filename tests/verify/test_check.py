"""The independent checker accepts what was proved, and refuses whatever was changed since."""

import ast
import copy
import hashlib
import json
import math
import random
import shutil
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from construct.artifact import load, save
from construct.errors import ArtifactError
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, Task, TaskSet
from construct.theorems import two_layer
from tests.construct.strategies import task_sets
from verify.certify import digest, judge_folder, write_certificate
from verify.check import certificate as checker
from verify.check import two_layer as two_layer_check
from verify.exhaustive import exhaust
from verify.mutations import mutants


def task_set(alphabet_size: int, inputs: int, *tasks: Task) -> TaskSet:
    alphabet = tuple(f"t{number}" for number in range(alphabet_size))
    return TaskSet("some tasks", alphabet, inputs, Format(" ", "->"), tasks)


PAIR = TableTask("pair", (0, 2), {(i, j): (i + j) % 5 for i in range(5) for j in range(5) if i != 3})
TRIPLE = TableTask("triple", (2, 0, 1), {(1, 2, 3): 4, (0, 0, 0): 0})
ONE = TableTask("one", (1,), {(1,): 2})
VALUES = {token: token for token in range(7)}
CASES: dict[str, tuple[TaskSet, int]] = {
    "the smallest": (task_set(2, 1, TableTask("a", (0,), {(0,): 1, (1,): 0})), 1),
    "one token": (task_set(1, 1, TableTask("a", (0,), {(0,): 0})), 1),
    "one row": (task_set(3, 2, TableTask("a", (1,), {(2,): 0})), 2),
    "tables over 1 to 3 reads, partial": (task_set(5, 3, PAIR, TRIPLE, ONE), 3),
    "a sum with undefined tokens": (
        task_set(7, 3, SumTask("s", (0, 2), {i: i for i in range(4)}, {s: s for s in range(7)}), ONE),
        3,
    ),
    "a sum over three, all defined": (
        task_set(7, 3, SumTask("s", (0, 2, 1), {i: i - 2 for i in range(7)}, {s: s * s % 7 for s in range(-6, 13)})),
        5,
    ),
    "sums that ride along": (
        task_set(
            7,
            2,
            SumTask("s", (0, 1), {i: 3 * i for i in range(4)}, {s: s % 7 for s in range(19)}),
            ONE,
            TableTask("c", (0,), {(3,): 2}),
            SumTask("t", (1,), VALUES, {s: s % 7 for s in range(7)}),
        ),
        4,
    ),
    "a sum of one value": (task_set(4, 2, SumTask("s", (0, 1), dict.fromkeys(range(4), 5), {10: 3})), 2),
    "a sum of one value or none": (task_set(4, 2, SumTask("s", (0, 1), {1: 5, 2: 5}, {10: 3})), 2),
    "sums far apart": (task_set(4, 2, SumTask("s", (0, 1), {0: -5, 1: 100}, {-10: 3, 95: 0, 200: 1, 7: 2})), 2),
    "a sum without a row that is reached": (task_set(4, 2, SumTask("s", (0, 1), {0: 0, 1: 2}, {3: 1}), ONE), 2),
    "a sum with no row in its range": (task_set(4, 2, SumTask("s", (0, 1), {0: 0, 1: 2}, {30: 1}), ONE), 2),
    "nothing but a sum without rows": (task_set(4, 2, SumTask("s", (0, 1), {0: 0, 1: 2}, {3: 1})), 2),
    "a sum over one token": (task_set(1, 2, SumTask("s", (0, 1), {0: 4}, {8: 0})), 2),
    "two lists of one": (task_set(3, 1, TableTask("a", (0,), {(0,): 1}), TableTask("b", (0,), {(0,): 1, (1,): 0})), 2),
    "retrieval": (build_suite("retrieval", tasks=8, alphabet_size=32, inputs=8), 16),
    "an example no power of two": (build_suite("retrieval", tasks=2, alphabet_size=4, inputs=2), 129),
    "lookup": (build_suite("lookup", tasks=12, alphabet_size=9, inputs=3, seed=2), 5),
    "country": (build_suite("country", tasks=2), 4),
    "copy_add": (build_suite("copy_add"), 3),
    "add_translate": (build_suite("add_translate", tasks=2), 3),
    "numbers": (build_suite("numbers"), 8),
}
SMALL = "a small pair"
CASES[SMALL] = (task_set(3, 2, TableTask("a", (1,), {(0,): 1, (1,): 0, (2,): 2}), TableTask("b", (0,), {(0,): 2})), 2)
SUM = "a small sum"
CASES[SUM] = (task_set(3, 2, SumTask("s", (0, 1), {0: 0, 1: 1}, {0: 2, 1: 0}), TableTask("b", (1,), {(2,): 1})), 2)

Artifacts = Callable[[str], Path]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """A case, built, with its certificate; not to be written to."""
    root, made = tmp_path_factory.mktemp("artifacts"), dict[str, Path]()

    def make(case: str) -> Path:
        if case not in made:
            made[case] = root / str(len(made))
            tasks, examples = CASES[case]
            save(two_layer(tasks, examples=examples), made[case])
            verdict = judge_folder(made[case])
            assert verdict.certified
            write_certificate(verdict, made[case])
        return made[case]

    return make


def run(certificate: Path, directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status, and the last line that was said."""
    status = checker.main([str(certificate), str(directory)])
    said, errors = capsys.readouterr()
    assert not errors
    return status, said.splitlines()[-1]


def accepted(body: Any, directory: Path, at: Path) -> bool:
    """Whether a certificate passes: whatever else the check ends with, the command says that it is refused."""
    at.write_text(json.dumps(body))
    try:
        checker.check(at, directory, str)
    except Exception:  # noqa: BLE001 - of which there are many kinds
        return False
    return True


def signed(body: dict[str, Any]) -> dict[str, Any]:
    """The certificate with its digest made right."""
    rest = {name: value for name, value in body.items() if name != "certificate_sha256"}
    return rest | {"certificate_sha256": digest(rest)}


@pytest.mark.parametrize("case", CASES)
def test_certificates_of_unchanged_constructions_are_verified(
    case: str, artifact: Artifacts, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = artifact(case)
    assert run(directory / "certificate.json", directory, capsys) == (0, "VERIFIED")


def test_tensors_stored_dense_are_read_as_well(
    artifact: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(load(artifact(SUM)), tmp_path / "dense", dense=True)
    write_certificate(judge_folder(tmp_path / "dense"), tmp_path / "dense")
    assert run(tmp_path / "dense" / "certificate.json", tmp_path / "dense", capsys) == (0, "VERIFIED")


def test_the_checker_shares_no_code_and_needs_no_package() -> None:
    files = list(Path(checker.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        others = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
        assert {".".join(name.split(".")[:2]) for name in others} <= {"verify.check"}


@pytest.fixture
def worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from weights that do not change is worked out once, for the tests that change certificates."""
    models: dict[bytes, Any] = {}
    lemmas: dict[int, Any] = {}
    read, find = two_layer_check.read_model, two_layer_check.find_lemmas

    def read_once(described: Any, content: bytes) -> Any:
        key = content + json.dumps(described).encode()
        if key not in models:
            models[key] = read(described, content)
        return models[key]

    def find_once(model: Any) -> Any:
        if id(model) not in lemmas:
            lemmas[id(model)] = find(model)
        return copy.deepcopy(lemmas[id(model)])

    monkeypatch.setattr(two_layer_check, "read_model", read_once)
    monkeypatch.setattr(two_layer_check, "find_lemmas", find_once)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value inside a JSON value, with its path."""
    yield path, value
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy in which the value at a path is changed."""
    if not path:
        return change(value)
    result = value.copy()
    result[path[0]] = replaced(result[path[0]], path[1:], change)
    return result


def changes(value: Any) -> list[Any]:
    """What else could stand in a place."""
    others: list[Any] = [None, [value], {"value": value}]
    if isinstance(value, bool):
        others += [not value, int(value), str(value)]
    elif isinstance(value, int):
        others += [value + 1, value - 1, 0, -value, float(value), str(value), value == 1]
    elif isinstance(value, float):
        others += [value * 1.01, value / 1.01, value + 1, 0.0, -value, -1e-300, str(value)]
        others += [float("nan"), float("inf"), int(value), bool(value)]
    elif isinstance(value, str):
        others += [value + "x", value[:-1], "", 1, True]
    elif isinstance(value, list):
        others += [[*value, 1.0], [*value, *value[-1:]], value[:-1], value[1:], [], {}]
        others += [value[::-1]]
    elif isinstance(value, dict):
        others += [value | {"more": 1}, [], {}]
        others += [{name: part for name, part in value.items() if name != left} for left in value]
    return [other for other in others if json.dumps(other) != json.dumps(value)]


def close(one: Any, other: Any) -> bool:
    """Whether two values are alike, but for 2e-9 of a figure, as where two near figures are exchanged."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    return type(one) is type(other) is float and math.isclose(one, other, rel_tol=2e-9, abs_tol=1e-300)


def may_pass(path: tuple[Any, ...], before: Any, after: Any, bound: float) -> bool:
    """Changes that a right digest makes good: what the checker takes for text, the time, and a weaker claim."""
    if close(before, after):
        return True
    text = isinstance(after, str) and after != ""
    if path[0] in ("claim", "arithmetic", "versions", "refusals") or path[-1:] == ("claim",):
        return text  # wording
    if path == ("seconds",):
        return isinstance(after, float) and after >= 0
    if path == ("eps",):
        return isinstance(after, float) and after >= bound  # what is not above the bound is a true claim
    return path[-1:] == ("log10_prompts",) and isinstance(after, float) and abs(after - before) < 0.001


@pytest.mark.usefixtures("worked_out_once")
@pytest.mark.parametrize("case", [SMALL, SUM, "one token"])
def test_every_change_of_every_field_is_refused(case: str, artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact(case)
    body = json.loads((directory / "certificate.json").read_text())
    tried = passed = 0
    for path, value in list(places(body)):
        for other in changes(value):
            changed = replaced(body, path, lambda _, other=other: other)
            assert not accepted(changed, directory, tmp_path / "c.json"), (path, value, other)
            if not isinstance(changed, dict) or signed(changed) == body:
                continue
            tried += 1
            if accepted(signed(changed), directory, tmp_path / "c.json"):
                passed += 1
                assert may_pass(path, value, other, body["error_bound"]["real"]), (path, value, other)
    assert tried > 500
    assert passed > 5, "text may change where the digest is made again"


@pytest.mark.usefixtures("worked_out_once")
def test_every_figure_is_refused_a_little_below_and_above_what_follows(artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact(SMALL)
    body = json.loads((directory / "certificate.json").read_text())
    for path, value in list(places(body["lemmas"], ("lemmas",))) + list(places(body["error_bound"], ("error_bound",))):
        if isinstance(value, float) and value:
            for factor in (1 - 1e-8, 1 + 1e-8):
                changed = replaced(body, path, lambda old, factor=factor: old * factor)
                assert not accepted(signed(changed), directory, tmp_path / "c.json"), (path, factor)


@pytest.mark.usefixtures("worked_out_once")
def test_no_claim_needs_its_reason_and_a_claim_has_none(artifact: Artifacts, tmp_path: Path) -> None:
    directory = artifact(SMALL)
    body = json.loads((directory / "certificate.json").read_text())
    at = tmp_path / "c.json"
    silent = replaced(body, ("error_bound", "float16"), lambda _: None)
    assert not accepted(signed(silent), directory, at)
    assert not accepted(signed(replaced(silent, ("refusals",), lambda _: {"float16": ""})), directory, at)
    assert accepted(signed(replaced(silent, ("refusals",), lambda _: {"float16": "not now"})), directory, at)
    assert not accepted(signed(replaced(body, ("refusals",), lambda _: {"float16": "not now"})), directory, at)


def test_a_certificate_is_refused_for_other_weights_or_other_tasks(
    artifact: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, other = artifact(SMALL), artifact(SUM)
    assert run(small / "certificate.json", other, capsys)[0] == 1
    body = json.loads((small / "certificate.json").read_text())
    body["weights_sha256"] = hashlib.sha256((other / "weights.safetensors").read_bytes()).hexdigest()
    assert not accepted(signed(body), other, tmp_path / "c.json")
    # The same weights are no proof for tasks with a row changed, left out, or added.
    shutil.copytree(small, tmp_path / "changed")
    described = json.loads((small / "construction.json").read_text())
    rows = described["task_set"]["tasks"][0]["rows"]
    for others in ([["t0", "t2"], *rows[1:]], rows[1:]):
        described["task_set"]["tasks"][0]["rows"] = others
        (tmp_path / "changed" / "construction.json").write_text(json.dumps(described))
        status, said = run(small / "certificate.json", tmp_path / "changed", capsys)
        assert status == 1
        assert said.startswith("REFUSED: ")


def test_more_examples_than_were_certified_are_refused(
    artifact: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(artifact(SMALL), tmp_path / "a")
    described = json.loads((tmp_path / "a" / "construction.json").read_text())
    described["layout"]["examples"] += 1
    (tmp_path / "a" / "construction.json").write_text(json.dumps(described))
    assert run(tmp_path / "a" / "certificate.json", tmp_path / "a", capsys)[0] == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": NaN}', b"[" * 100_000])
@pytest.mark.parametrize("name", ["certificate.json", "construction.json", "weights.safetensors"])
def test_files_that_are_something_else_end_in_a_word_and_a_status(
    name: str, content: bytes, artifact: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(artifact(SMALL), tmp_path / "a")
    (tmp_path / "a" / name).write_bytes(content)
    status, said = run(tmp_path / "a" / "certificate.json", tmp_path / "a", capsys)
    assert status in (1, 2)
    assert said.startswith(("REFUSED: ", "UNREADABLE: "))


@pytest.mark.parametrize("name", ["certificate.json", "construction.json", "weights.safetensors"])
def test_files_cut_short_or_missing_end_in_a_word_and_a_status(
    name: str, artifact: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(artifact(SMALL), tmp_path / "a")
    at = tmp_path / "a" / name
    content = at.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 40)):
        at.write_bytes(content[:length])
        assert run(tmp_path / "a" / "certificate.json", tmp_path / "a", capsys)[0] in (1, 2)
    at.unlink()
    assert run(tmp_path / "a" / "certificate.json", tmp_path / "a", capsys)[0] == 2


def test_a_key_that_stands_twice_is_refused(
    artifact: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = artifact(SMALL)
    text = (directory / "certificate.json").read_text()
    (tmp_path / "c.json").write_text(text.replace('"certified": true', '"certified": false, "certified": true'))
    assert run(tmp_path / "c.json", directory, capsys)[0] == 1


def test_a_wrong_command_line_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert checker.main([]) == 2
    assert "usage" in capsys.readouterr().err


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("case", [SMALL, SUM])
def test_flipped_bits_of_the_weights_are_refused_or_harmless(case: str, artifact: Artifacts, tmp_path: Path) -> None:
    """With the certificate as it is, every flip; with hash and digest made right, all but what changes no answer.

    A flip that passes must change weights that no answer feels: the size of a weight that only keeps off what is
    off anyway, or with which the queries of BOS and inputs, of which nothing is used, choose what they attend to.
    That is not left to reasoning: every prompt is run, and none may be farther off than the certificate says.
    """
    directory = artifact(case)
    body = json.loads((directory / "certificate.json").read_text())
    content = (directory / "weights.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    shutil.copytree(directory, tmp_path / "a")
    draw = random.Random(3)
    passed = []
    for bit in draw.sample(range(8 * start, 8 * len(content)), 700) + draw.sample(range(8 * start), 100):
        changed = flipped(content, bit)
        (tmp_path / "a" / "weights.safetensors").write_bytes(changed)
        assert not accepted(body, tmp_path / "a", tmp_path / "c.json")
        renewed = signed(body | {"weights_sha256": hashlib.sha256(changed).hexdigest()})
        if accepted(renewed, tmp_path / "a", tmp_path / "c.json"):
            passed.append(changed)
    bound = body["error_bound"]["real"]
    for changed in islice(passed, 12):
        (tmp_path / "a" / "weights.safetensors").write_bytes(changed)
        try:
            construction = load(tmp_path / "a", check_hashes=False)
        except ArtifactError:
            assert changed[:start] != content[:start]  # a header that this program reads and the other does not
            continue
        assert exhaust(construction).error <= bound
    assert len(passed) < 120


@pytest.mark.parametrize("case", [SMALL, SUM])
def test_a_certificate_moved_to_altered_weights_is_refused_or_still_true(
    case: str, artifact: Artifacts, tmp_path: Path
) -> None:
    """Every kind of mutation; the hash and the digest are made right, so that only what the weights compute decides."""
    directory = artifact(case)
    body, original = json.loads((directory / "certificate.json").read_text()), load(directory)
    kinds, verified = Counter[str](), 0
    for mutant in islice(mutants(original, seed=5), 250):
        kinds[mutant.kind] += 1
        save(mutant.construction, tmp_path / "a")
        sha256 = hashlib.sha256((tmp_path / "a" / "weights.safetensors").read_bytes()).hexdigest()
        if accepted(signed(body | {"weights_sha256": sha256}), tmp_path / "a", tmp_path / "c.json"):
            verified += 1
            assert exhaust(mutant.construction).error <= body["error_bound"]["real"], mutant
    assert len(kinds) > 10
    assert verified < 40


@given(task_sets(), st.integers(1, 6), st.sampled_from([1e-9, 1e-6, 1e-2]))
def test_whatever_is_built_and_certified_is_verified(tasks: TaskSet, examples: int, error: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "made"
        save(two_layer(tasks, examples=examples, error=error), directory)
        write_certificate(judge_folder(directory), directory)
        checker.check(directory / "certificate.json", directory, str)
