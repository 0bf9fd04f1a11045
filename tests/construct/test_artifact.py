"""The folder of a construction: exact, whole or not at all, and never trusted."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from construct.artifact import DESCRIPTION, FORMAT_VERSION, WEIGHTS, load, save
from construct.errors import ArtifactError
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from tests.construct.strategies import Case, cases

SUM = SumTask("sum", (0, 2), {0: -2, 1: 5, 2: 1}, {-4: 1, 3: 0, 10: 2})
PARTS = TaskSet("parts", ("a", "b", "c"), 3, Format(), (TableTask("first", (0,), {(0,): 1, (2,): 2}), SUM))


def _built(examples: int = 5) -> Construction:
    return two_layer(PARTS, examples=examples)


def _dense(tensor: Any) -> np.ndarray:
    return tensor if isinstance(tensor, np.ndarray) else tensor.toarray()


def _same(one: Construction, other: Construction) -> None:
    for (name, before), (other_name, after) in zip(one.weights.tensors(), other.weights.tensors(), strict=True):
        assert name == other_name
        assert type(before) is type(after), name
        old, new = _dense(before), _dense(after)
        assert old.dtype == new.dtype == np.float32, name
        assert old.shape == new.shape, name
        assert old.tobytes() == new.tobytes(), name
    assert one.task_set == other.task_set
    assert one.layout == other.layout
    assert dict(one.stream) == dict(other.stream)
    assert (one.theorem, one.sharpness, one.error_bound) == (other.theorem, other.sharpness, other.error_bound)
    assert one.circuits == other.circuits


@settings(max_examples=40)
@given(cases(), st.booleans(), st.sampled_from([None, 0.3, 5.1]))
def test_what_is_loaded_is_what_was_saved_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, case: Case, dense: bool, sharpness: float | None
) -> None:
    built = two_layer(case.task_set, examples=case.examples, sharpness=sharpness)
    directory = tmp_path_factory.mktemp("saved") / "folder"
    save(built, directory, dense=dense)
    _same(built, load(directory))


@pytest.mark.parametrize("name", ["country", "copy_add", "add_translate"])
def test_suites_are_loaded_as_they_were_saved(name: str, tmp_path: Path) -> None:
    built = two_layer(build_suite(name), examples=3)
    save(built, tmp_path / "made" / "on" / "the" / "way")
    _same(built, load(tmp_path / "made" / "on" / "the" / "way"))


def test_sparse_storage_is_smaller_and_means_the_same(tmp_path: Path) -> None:
    built = two_layer(build_suite("country"), examples=3)
    save(built, tmp_path / "sparse")
    save(built, tmp_path / "dense", dense=True)
    sparse, dense = ((tmp_path / name / WEIGHTS).stat().st_size for name in ("sparse", "dense"))
    assert sparse < 0.1 * dense
    assert set(load_safetensors((tmp_path / "dense" / WEIGHTS).read_bytes())) == {n for n, _ in built.weights.tensors()}
    _same(load(tmp_path / "sparse"), load(tmp_path / "dense"))


def test_the_same_construction_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(_built(), tmp_path / name)
    for part in (WEIGHTS, DESCRIPTION):
        assert (tmp_path / "one" / part).read_bytes() == (tmp_path / "two" / part).read_bytes()


def test_the_folder_holds_the_two_files_and_nothing_is_beside_it(tmp_path: Path) -> None:
    save(_built(), tmp_path / "folder")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder"]
    assert sorted(entry.name for entry in (tmp_path / "folder").iterdir()) == [DESCRIPTION, WEIGHTS]


def test_the_description_says_what_a_later_tool_needs(tmp_path: Path) -> None:
    save(_built(), tmp_path / "folder")
    data = json.loads((tmp_path / "folder" / DESCRIPTION).read_text(encoding="utf-8"))
    assert data["format_version"] == FORMAT_VERSION
    assert data["task_set"]["tasks"][0]["rows"] == [["a", "b"], ["c", "c"]]
    assert data["layout"] == {"alphabet_size": 3, "inputs": 3, "examples": 5, "positions": 30, "bos": 3, "eq": 4}
    assert data["subspaces"]["token"] == {"start": 0, "size": 3}
    assert data["sizes"]["layers"] == 2


# Written whole or not at all.


def _listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _DiskFull:
    """Lets `allowed` writes pass, then fails as a full disk does."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.write_bytes = Path.write_bytes

    def __call__(self, path: Path, data: bytes) -> int:
        if self.allowed == 0:
            self.write_bytes(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        self.allowed -= 1
        return self.write_bytes(path, data)


@pytest.mark.parametrize("allowed", [0, 1])
@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a construction"])
def test_a_failure_in_the_middle_of_writing_leaves_what_was_there(
    before: str, allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    if before == "an empty folder":
        folder.mkdir()
    elif before == "a construction":
        save(_built(examples=2), folder)
    present, held = sorted(tmp_path.iterdir()), _listing(tmp_path)
    full = _DiskFull(allowed)
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: full(path, data))
    with pytest.raises(ArtifactError, match=r"cannot write .*folder: No space left on device: choose another"):
        save(_built(), folder)
    assert sorted(tmp_path.iterdir()) == present
    assert _listing(tmp_path) == held


def test_a_failure_of_the_last_step_puts_the_earlier_construction_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    save(_built(examples=2), folder)
    held = _listing(tmp_path)

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(ArtifactError, match="Input/output error"):
        save(_built(), folder)
    assert _listing(tmp_path) == held
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(_built(), tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_construction_is_replaced(tmp_path: Path) -> None:
    save(_built(examples=2), tmp_path / "folder")
    save(_built(examples=6), tmp_path / "folder")
    assert load(tmp_path / "folder").layout.examples == 6
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder"]


# An --out that cannot be used.


def _other_file(at: Path) -> None:
    at.mkdir()
    (at / "thesis.tex").write_text("all of it", encoding="utf-8")


def _other_file_beside_a_construction(at: Path) -> None:
    save(_built(), at)
    (at / "thesis.tex").write_text("all of it", encoding="utf-8")


def _weights_of_another_program(at: Path) -> None:
    at.mkdir()
    (at / WEIGHTS).write_bytes(b"a trained model")


def _json_of_another_program(at: Path) -> None:
    at.mkdir()
    (at / DESCRIPTION).write_text('{"format": "bridges"}', encoding="utf-8")


OCCUPIED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder of something else": (_other_file, "holds something else .thesis.tex.: choose another --out or empty it"),
    "a construction and more": (_other_file_beside_a_construction, "holds something else .thesis.tex."),
    "weights alone": (_weights_of_another_program, "holds files that are no construction"),
    "a description of something else": (_json_of_another_program, "holds files that are no construction"),
    "a file": (lambda at: at.write_text("text", encoding="utf-8"), "is not a folder: choose another --out"),
    "a link to nowhere": (lambda at: at.symlink_to("nowhere"), "is not a folder: choose another --out"),
}


@pytest.mark.parametrize("occupied", OCCUPIED)
def test_a_folder_that_holds_something_else_is_left_alone(occupied: str, tmp_path: Path) -> None:
    make, words = OCCUPIED[occupied]
    folder = tmp_path / "folder"
    make(folder)
    present, held = sorted(tmp_path.iterdir()), _listing(tmp_path)
    with pytest.raises(ArtifactError, match=words):
        save(_built(), folder)
    assert sorted(tmp_path.iterdir()) == present
    assert _listing(tmp_path) == held


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"cannot write .*folder: .*: choose another --out"):
        save(_built(), tmp_path / "file" / "folder")
    assert _listing(tmp_path) == {"file": b"text"}


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(0o555)
    if os.access(parent, os.W_OK):
        parent.chmod(0o755)
        pytest.skip("this user may write anywhere, as root may")
    yield parent
    parent.chmod(0o755)


def test_a_parent_that_is_read_only_is_refused(read_only: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write .*folder: Permission denied: choose another --out"):
        save(_built(), read_only / "folder")
    assert list(read_only.iterdir()) == []


# A folder that is not as it was saved. With `check_hashes=False`, as verification reads it, the structure still
# has to hold; what is a valid construction of other numbers is for verification to judge.


def _change_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = {name: tensor.copy() for name, tensor in load_safetensors((folder / WEIGHTS).read_bytes()).items()}
    change(tensors)
    (folder / WEIGHTS).write_bytes(save_safetensors(tensors))


def _change_description(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / DESCRIPTION
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def _set(name: str, value: float) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors[name].__setitem__(0, value)


def _reversed(tensors: dict[str, np.ndarray]) -> None:
    tensors["layers.0.mlp.w_in.index"] = tensors["layers.0.mlp.w_in.index"][::-1].copy()


def _outside(tensors: dict[str, np.ndarray]) -> None:
    tensors["layers.0.mlp.w_in.index"][-1] = 10**6


def _one_short(tensors: dict[str, np.ndarray]) -> None:
    tensors["layers.0.mlp.w_in.value"] = tensors["layers.0.mlp.w_in.value"][:-1]


def _cut_shape(tensors: dict[str, np.ndarray]) -> None:
    tensors["layers.1.mlp.bias_in"] = tensors["layers.1.mlp.bias_in"][:-1]


def _as_type(name: str, dtype: Any) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors.__setitem__(name, tensors[name].astype(dtype))


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _truncated(name: str, kept: float) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: int(kept * (folder / name).stat().st_size)]
    )


def _weights(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], object]:
    return lambda folder: _change_weights(folder, change)


def _description(*steps: str | int, to: object) -> Callable[[Path], object]:
    def change(data: Any) -> None:
        for step in steps[:-1]:
            data = data[step]
        data[steps[-1]] = to

    return lambda folder: _change_description(folder, change)


def _missing(*steps: str) -> Callable[[Path], object]:
    def change(data: Any) -> None:
        for step in steps[:-1]:
            data = data[step]
        del data[steps[-1]]

    return lambda folder: _change_description(folder, change)


BIAS = "layers.1.mlp.bias_in"
DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "cannot read .*weights.safetensors: No such file"),
    "no description": (lambda folder: (folder / DESCRIPTION).unlink(), "has no construction.json: give a folder"),
    "weights cut in half": (_truncated(WEIGHTS, 0.5), "weights.safetensors is damaged .*: build the construction"),
    "weights cut in the header": (_truncated(WEIGHTS, 0.05), "weights.safetensors is damaged"),
    "empty weights": (_write(WEIGHTS, b""), "weights.safetensors is damaged"),
    "weights of another kind": (_write(WEIGHTS, b"PK\x03\x04" * 50), "weights.safetensors is damaged"),
    "weights in a format of 16 bits": (
        _weights(_as_type(BIAS, np.float16)),
        f"{BIAS} is stored as float16, expected float32",
    ),
    "weights in float64": (_weights(_as_type(BIAS, np.float64)), f"{BIAS} is stored as float64, expected float32"),
    "places that are no integers": (
        _weights(_as_type("embedding.token.index", np.float32)),
        "embedding.token has places stored as float32, expected integers",
    ),
    "a NaN": (_weights(_set(BIAS, np.nan)), f"{BIAS} holds a value that is not a finite number"),
    "an infinity": (_weights(_set("layers.0.mlp.w_in.value", -np.inf)), "w_in holds a value that is not a finite"),
    "a wrong shape": (_weights(_cut_shape), f"{BIAS} has the shape"),
    "a missing tensor": (_weights(lambda tensors: tensors.pop(BIAS)), f"no field '{BIAS}'"),
    "an extra tensor": (
        _weights(lambda tensors: tensors.__setitem__("layers.2.gate", np.ones(3, dtype=np.float32))),
        "layers.2.gate, which the description does not name",
    ),
    "entries out of order": (_weights(_reversed), "out of order"),
    "an entry outside its tensor": (_weights(_outside), "outside its shape"),
    "an entry without a value": (_weights(_one_short), "do not match"),
    "an empty description": (_write(DESCRIPTION, b""), "construction.json is damaged .*: build the construction"),
    "a description cut in half": (_truncated(DESCRIPTION, 0.5), "construction.json is damaged"),
    "a description that is no text": (_write(DESCRIPTION, b"\xff\xfe\x00"), "construction.json is damaged"),
    "a description too deep": (_write(DESCRIPTION, b"[" * 100_000), "construction.json is damaged"),
    "a list as description": (_write(DESCRIPTION, b"[]"), "is no description of a construction: give a folder"),
    "a description of something else": (_write(DESCRIPTION, b'{"format": "b"}'), "is no description of a construct"),
    "a newer format": (
        _description("format_version", to=FORMAT_VERSION + 1),
        f"format version {FORMAT_VERSION + 1}, newer than {FORMAT_VERSION}: upgrade task-superposition",
    ),
    "a format of version 0": (_description("format_version", to=0), "format version 0, expected"),
    "a format of version x": (_description("format_version", to="x"), "format version 'x', expected"),
    "no format version": (_missing("format_version"), "format version None, expected"),
    "no task set": (_missing("task_set"), "no field 'task_set'"),
    "no layout": (_missing("layout"), "no field 'layout'"),
    "no tensors": (_missing("tensors"), "no field 'tensors'"),
    "no sharpness": (_missing("sharpness"), "no field 'sharpness'"),
    "a tensor without a shape": (_missing("tensors", "unembedding", "shape"), "no field 'shape'"),
    "a wrong number of examples": (_description("layout", "examples", to=6), "layout.positions is 30, the tasks give"),
    "a number of examples that is text": (_description("layout", "examples", to="5"), "the parts do not fit"),
    "a wrong number of inputs": (_description("layout", "inputs", to=2), "layout.inputs is 2, the tasks give 3"),
    "tasks that do not fit": (_description("task_set", "inputs", to=1), "task 'sum' reads position 2"),
    "a larger alphabet": (_description("task_set", "alphabet", to=["a", "b", "c", "d"]), "alphabet_size is 3, the"),
    "a subspace elsewhere": (_description("subspaces", "role_x", "start", to=0), "subspace role_x starts at 0, not 4"),
    "a subspace of another size": (_description("subspaces", "evidence", "size", to=3), "evidence has size 3, the"),
    "a subspace of negative size": (_description("subspaces", "evidence", "size", to=-3), "evidence"),
    "a wrong number of layers": (_description("sizes", "layers", to=3), "sizes.layers is 3, the weights have 2"),
    "a shape that is not the tensor's": (_description("tensors", BIAS, "shape", to=[4]), f"{BIAS} has"),
    "a tensor without a name": (_missing("tensors", BIAS), f"the weights hold {BIAS}|no field 'layers.1.mlp.bias_in'"),
    "circuits that are no circuits": (_description("circuits", to=[{"layer": 1}]), "the parts do not fit"),
    "a sharpness that is text": (_description("sharpness", to="sharp"), "the parts do not fit"),
}


@pytest.mark.parametrize("check_hashes", [True, False], ids=["as read", "as verified"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_folder_is_refused_in_one_line_that_names_it(damage: str, check_hashes: bool, tmp_path: Path) -> None:
    save(_built(), tmp_path / "folder", dense=False)
    make, words = DAMAGED[damage]
    make(tmp_path / "folder")
    held = _listing(tmp_path)
    expected = words if not check_hashes else f"{words}|was altered after it was built: build the construction again"
    with pytest.raises(ArtifactError, match=expected) as caught:
        load(tmp_path / "folder", check_hashes=check_hashes)
    message = str(caught.value)
    assert str(tmp_path / "folder") in message
    assert "\n" not in message
    assert _listing(tmp_path) == held


def _flip_a_bit_of_a_value(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")  # a safetensors file: the header's length, the header, the data
    content[start + json.loads(content[8:start])[BIAS]["data_offsets"][0]] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(content))


ALTERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (_flip_a_bit_of_a_value, "weights.safetensors was altered after it was built"),
    "a changed weight": (_weights(_set(BIAS, 0.25)), "weights.safetensors was altered"),
    "a moved answer": (_description("task_set", "tasks", 0, "rows", 0, 1, to="c"), "construction.json was altered"),
    "a better bound": (_description("error_bound", to=0.0), "construction.json was altered"),
    "a note": (_description("note", to="mine"), "construction.json was altered"),
    "no hashes": (_missing("sha256"), "weights.safetensors was altered"),
    "hashes that are none": (_description("sha256", to="none"), "weights.safetensors was altered"),
}


@pytest.mark.parametrize("alteration", ALTERED)
def test_a_folder_that_was_altered_is_refused_unless_its_weights_are_to_be_judged(
    alteration: str, tmp_path: Path
) -> None:
    save(_built(), tmp_path / "folder")
    make, words = ALTERED[alteration]
    make(tmp_path / "folder")
    with pytest.raises(ArtifactError, match=f"{words}.*build the construction again|{words}"):
        load(tmp_path / "folder")
    assert load(tmp_path / "folder", check_hashes=False).layout.examples == 5


@settings(max_examples=60)
@given(st.data())
def test_no_flipped_byte_of_either_file_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flipped") / "folder"
    save(_built(examples=1), folder)
    path = folder / data.draw(st.sampled_from([WEIGHTS, DESCRIPTION]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    before = json.loads(content) if path.name == DESCRIPTION else None
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    try:
        unchanged = before is not None and json.loads(bytes(content)) == before  # white space for white space
    except ValueError:
        unchanged = False
    if unchanged:
        load(folder)
        return
    with pytest.raises(ArtifactError):
        load(folder)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text", encoding="utf-8")
    with pytest.raises(ArtifactError, match="file is no folder: give one that `construct build` made"):
        load(tmp_path / "file")
    with pytest.raises(ArtifactError, match="absent is no folder: give one that `construct build` made"):
        load(tmp_path / "absent")
    with pytest.raises(ArtifactError, match=r"has no construction.json: give a folder that `construct build` made"):
        load(tmp_path)
