"""`construct superpose`: folders of one task, trained networks, task files and induction become one proved model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from construct.artifact import load
from construct.errors import ArtifactError
from construct.prompts import Layout
from construct.superpose_component import Component, as_table
from construct.superpose_network import Network, load_network, save_network
from construct.task_file import task_set_to_json
from construct.tasks import Format, SumTask, TableTask, TaskSet
from tests.construct.conftest import Command
from tests.construct.superposed import FunctionTask, deep_trained_network, median, mixed_digits, trained_network
from verify.certificate import Violation
from verify.superposition_levels import network_component

ALPHABET = ("a", "b", "c", "d", "e")
TOTAL = SumTask("total", (0, 2), {token: token for token in range(5)}, {total: total % 5 for total in range(9)})
LAST = TableTask("last", (2,), {(token,): token for token in range(5)})


def tasks(*given: TableTask | SumTask) -> TaskSet:
    return TaskSet("given", ALPHABET, 3, Format(separator=""), given)


def network(name: str = "trained") -> Network:
    function, weights, locality = {
        "trained": (mixed_digits, trained_network(), None),
        "median": (median, deep_trained_network(), 512.0),
        "logits": (median, deep_trained_network("entropy"), 2048.0),
        "deaf": (median, deep_trained_network(), 1.0),
        "wrong": (median, trained_network(), None),
    }[name]
    table = as_table(FunctionTask(name, (0, 1, 2), function), Layout(5, 3, 0))
    return Network(tasks(table), weights, locality)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with task files and a network, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name, given in (("total", (TOTAL,)), ("last", (LAST,)), ("both", (LAST, TOTAL))):
        (tmp_path / f"{name}.json").write_text(json.dumps(task_set_to_json(tasks(*given))))
    save_network(network(), tmp_path / "network")
    return tmp_path


def test_a_folder_of_ours_a_trained_network_a_task_file_and_induction_are_superposed(
    construct: Command, here: Path
) -> None:
    assert construct("build", "--task-file", "total.json", "--examples", 7, "--out", "ours").status == 0
    ran = construct("superpose", "induction", "ours", "network", "last.json", "--out", "mixed", "--json")
    assert ran.status == 0, ran
    report = json.loads(ran.out)
    assert [part["task"] for part in report["components"]] == ["induction", "total", "trained", "last"]
    assert [part["depth"] for part in report["components"]] == [2, 2, 1, 1]
    assert report["layers"] == 4
    assert report["examples"] == 7  # what the folder was built for
    assert report["certified_bound"]["real"] <= report["error_bound"] <= 1e-6
    certificate = json.loads((here / "mixed" / "certificate.json").read_text())
    assert certificate["certified"]
    assert certificate["theorem"] == "superpose"
    # bbd -> d: induction and last; abd -> d: total and last, (0 + 3) mod 5; eae -> e: last, and nothing else.
    ran = construct("predict", "mixed", "-", "--json", stdin="bbd->d\nabd->d\neae->e\nccb->\n")
    assert ran.status == 0, ran
    answered = json.loads(ran.out)
    shares = {"induction": 1 / 3, "total": 1 / 3, "trained": 0.0, "last": 1.0}
    assert answered["evidence"] == pytest.approx(shares, abs=1e-5)
    ran = construct("verify", "mixed", "--sample", 20)
    assert ran.status == 0, ran
    assert "component[trained]" in construct("show", "mixed").out


def test_the_weights_of_a_folder_and_of_a_network_are_taken_as_they_are(construct: Command, here: Path) -> None:
    assert construct("build", "--task-file", "last.json", "--examples", 3, "--out", "ours").status == 0
    assert construct("superpose", "ours", "network", "--out", "both").status == 0
    both, ours, single = load(here / "both"), load(here / "ours"), load_network(here / "network").weights
    block = both.stream["component[last]"]
    own = slice(block.start, block.start + ours.stream.d_model)
    inner, first = both.weights.layers[0].attention, ours.weights.layers[0].attention
    assert np.array_equal(inner.query[0, own, : first.query.shape[2]], first.query[0])
    start = both.stream["component[trained]"].start
    own = slice(start, start + single.d_model)
    assert np.array_equal(both.weights.token_embedding.toarray()[:, own], single.token_embedding.toarray())
    head = single.layers[0].attention
    assert np.array_equal(inner.query[1:, own, : head.query.shape[2]], head.query)
    w_in = both.weights.layers[0].mlp.w_in.toarray()[own]
    assert np.array_equal(w_in[:, 5:], single.layers[0].mlp.w_in.toarray())  # 5 units answer for `last`


def test_a_network_of_two_layers_keeps_the_levels_that_are_proved_of_it() -> None:
    layout = Layout(5, 3, 2)
    found = network_component(network("median"), layout)
    assert isinstance(found, Component)
    assert found.depth == 2
    sharpened = network_component(network("logits"), layout)
    assert isinstance(sharpened, Component)
    assert sharpened.depth == 3


def test_a_blurred_network_gets_the_levels_that_it_has() -> None:
    blurred = network()
    halved = replace(blurred.weights, unembedding=blurred.weights.unembedding * np.float32(0.5))
    found = network_component(replace(blurred, weights=halved), Layout(5, 3, 2))
    assert isinstance(found, Component)
    assert 0 < found.low < 0.05
    assert 0.4 < found.high < 0.5


@pytest.mark.parametrize(
    ("name", "reason"), [("wrong", "of 125 inputs are wrong"), ("deaf", "no levels; try another locality")]
)
def test_a_network_that_does_not_perform_its_task_is_no_component(
    name: str, reason: str, construct: Command, here: Path
) -> None:
    found = network_component(network(name), Layout(5, 3, 2))
    assert isinstance(found, Violation)
    assert reason in found.got
    save_network(network(name), here / "bad")
    ran = construct("superpose", "bad", "--examples", 2, "--out", "mixed")
    assert ran.status == 1, ran
    assert reason in ran.err
    assert not (here / "mixed").exists()


def test_altered_answers_of_a_folder_are_not_proved_and_nothing_is_written(construct: Command, here: Path) -> None:
    ran = construct("build", "--task-file", "last.json", "--examples", 3, "--sharpness", 0.5, "--out", "dull")
    assert ran.status == 0, ran
    ran = construct("superpose", "dull", "--out", "mixed")
    assert ran.status == 1, ran
    assert "not proved" in ran.err
    assert not (here / "mixed").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "'nothing' is no component"),
        (("induction",), "no alphabet"),
        (("last.json", "both.json"), "names that differ"),
        (("last.json", "short.json"), "differ in the number of inputs"),
        (("last.json", "other.json"), "differ in the alphabet"),
        (("short.json", "induction"), "needs at least 3"),
        (("last.json", "--examples", 0), "--examples is 0"),
        (("last.json", "--error", 2), "error wanted is 2"),
        (("last.json", "--sharpness", 0.1), "too low"),
        (("last.json", "--error", 1e-3, "--sharpness", 3), "give one"),
        (("last.json", "--name", "a/b"), "--name"),
        (("last.json", "--out", "last.json"), "is not a folder"),
        (("folder",), "has no construction.json"),
        ((), "Missing argument"),
    ],
)
def test_unusable_components_end_in_one_line(
    arguments: tuple[str, ...], words: str, construct: Command, here: Path
) -> None:
    short = {**task_set_to_json(tasks(LAST)), "inputs": 2, "tasks": [{"name": "s", "reads": [1], "rows": [["a", "b"]]}]}
    (here / "short.json").write_text(json.dumps(short))
    other = json.dumps(task_set_to_json(TaskSet("other", ("v", "w", "x", "y", "z"), 3, Format(), (LAST,))))
    (here / "other.json").write_text(other)
    (here / "folder").mkdir()
    ran = construct("superpose", *arguments)
    assert ran.status == 2, ran
    assert words in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.usefixtures("here")
def test_a_folder_of_several_tasks_or_of_a_superposition_is_refused(construct: Command) -> None:
    assert construct("build", "--task-file", "both.json", "--examples", 2, "--out", "two").status == 0
    assert construct("superpose", "last.json", "--examples", 2, "--out", "one").status == 0
    for name, words in (("two", "of 2 tasks"), ("one", "'superpose' of 1 tasks")):
        ran = construct("superpose", name)
        assert ran.status == 2, ran
        assert words in ran.err


def test_a_network_is_read_as_it_was_written(here: Path) -> None:
    given = network("median")
    save_network(given, here / "median")
    read = load_network(here / "median")
    assert read.locality == 512.0
    assert read.task_set == given.task_set
    for (name, one), (_, other) in zip(read.weights.tensors(), given.weights.tensors(), strict=True):
        dense = [part if isinstance(part, np.ndarray) else part.toarray() for part in (one, other)]
        assert np.array_equal(*dense), name


def test_damaged_networks_are_refused_with_the_reason(here: Path) -> None:
    folder = here / "network"
    tensors, text = load_file(folder / "weights.safetensors"), (folder / "network.json").read_text()
    data = json.loads(text)
    for change, reason in (
        ({"format": "other"}, "no description of a network"),
        ({"format_version": 2}, "no description of a network"),
        ({"localty": 1.0}, "'localty'"),
        ({"locality": "far"}, "locality is 'far'"),
        ({"locality": True}, "locality is True"),
        ({"task_set": {}}, "cannot be used"),
        ({"task_set": task_set_to_json(tasks(LAST, TOTAL))}, "2 tasks"),
        (
            {"task_set": task_set_to_json(TaskSet("g", ALPHABET[:4], 1, Format(), (TableTask("o", (0,), {(0,): 0}),)))},
            "shape",
        ),
    ):
        (folder / "network.json").write_text(json.dumps(data | change))
        with pytest.raises(ArtifactError, match=reason):
            load_network(folder)
    (folder / "network.json").write_text(text)
    for name, changed, reason in (
        ("unembedding", None, "there is no 'unembedding'"),
        ("unembedding", tensors["unembedding"].astype(np.float64), "float64"),
        ("unembedding", tensors["unembedding"] * np.float32(np.nan), "finite"),
        ("unembedding", tensors["unembedding"][:-1].copy(), "shape"),
        ("embedding.position", tensors["embedding.position"][0].copy(), "unpack"),
        ("layers.0.mlp.bias_in", tensors["layers.0.mlp.bias_in"][1:].copy(), "shape"),
        ("layers.0.attention.query", None, "there is no 'layers.0.attention.query'"),
        ("layers.2.mlp.w_in", tensors["layers.0.mlp.w_in"], "layers"),
        ("other", tensors["unembedding"], "other, which is no tensor"),
    ):
        kept = {key: value for key, value in tensors.items() if key != name}
        save_file(kept if changed is None else kept | {name: changed}, folder / "weights.safetensors")
        with pytest.raises(ArtifactError, match=reason):
            load_network(folder)
    (folder / "weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ArtifactError, match="cannot be used"):
        load_network(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match="cannot read"):
        load_network(folder)
    (folder / "network.json").write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        load_network(folder)
