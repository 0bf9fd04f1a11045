"""Task files, prompt files and folders of vectors: what is written is read again, the broken refused in words."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.artifact import load
from construct.errors import ArtifactError, PromptError, TaskError
from construct.vector_artifact import load_vectors, save_vectors
from construct.vector_prompt_file import load_vector_prompt, prompt_from_json, prompt_to_json
from construct.vector_suites import random_vector_tasks
from construct.vector_task_file import load_vector_task_file, vector_task_set_from_json, vector_task_set_to_json
from tests.construct.vector_cases import VectorCase, built_case, random_prompt, task_sets_equal, vector_cases

TASKS = random_vector_tasks("general", tasks=3, dim=5, inputs=2, offsets=0.3)
PROMPT = {"examples": [{"inputs": [[0.6, 0.8], [1, 0]], "answer": [0.8, 0.6]}], "query": [[0, 1], [1, 0]]}
SMALL = random_vector_tasks("orthogonal", tasks=2, dim=2, inputs=2)


def arrays() -> dict[str, np.ndarray]:
    return {
        "matrices": np.stack([task.matrix for task in TASKS.tasks]),
        "offsets": np.stack([task.offset for task in TASKS.tasks]),
        "positions": np.array([task.position for task in TASKS.tasks]),
        "names": np.array([task.name for task in TASKS.tasks]),
        "margin": np.array(TASKS.margin),
        "inputs": np.array(TASKS.inputs),
    }


@settings(max_examples=20)
@given(vector_cases())
def test_tasks_and_prompts_come_back_bit_by_bit(case: VectorCase) -> None:
    tasks = case.construction.task_set
    text = json.dumps(vector_task_set_to_json(tasks))
    assert task_sets_equal(vector_task_set_from_json(json.loads(text)), tasks)
    again = prompt_from_json(json.loads(json.dumps(prompt_to_json(case.prompt))), tasks)
    for name in ("inputs", "answers", "query"):
        assert np.array_equal(getattr(again, name), getattr(case.prompt, name))


def test_an_archive_holds_the_same_tasks_as_json(tmp_path: Path) -> None:
    np.savez(tmp_path / "general-3x5.npz", **arrays())
    (tmp_path / "tasks.json").write_text(json.dumps(vector_task_set_to_json(TASKS)))
    from_archive = load_vector_task_file(tmp_path / "general-3x5.npz")
    assert task_sets_equal(from_archive, load_vector_task_file(tmp_path / "tasks.json"))
    assert task_sets_equal(from_archive, TASKS)


def test_an_archive_of_a_prompt_is_the_json_prompt(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "p.npz",
        inputs=np.array([[[0.6, 0.8], [1, 0]]]),
        answers=np.array([[0.8, 0.6]]),
        query=np.array([[0, 1], [1, 0]]),
    )
    (tmp_path / "p.json").write_text(json.dumps(PROMPT))
    one, other = (load_vector_prompt(str(tmp_path / name), SMALL) for name in ("p.npz", "p.json"))
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("inputs", "answers", "query"))


@pytest.mark.parametrize("dense", [False, True])
def test_a_folder_comes_back_with_every_weight_and_word(dense: bool, tmp_path: Path) -> None:
    for name, construction in (
        ("fingerprint", built_case("general", dim=5, width=3, offsets=0.2)),
        ("attention", built_case("rotation", dim=3, comparison="attention")),
    ):
        save_vectors(construction, tmp_path / name, dense=dense)
        again = load_vectors(tmp_path / name)
        for (at, tensor), (_, other) in zip(construction.weights.tensors(), again.weights.tensors(), strict=True):
            one, two = (part if isinstance(part, np.ndarray) else part.toarray() for part in (tensor, other))
            assert np.array_equal(one, two), at
        assert task_sets_equal(construction.task_set, again.task_set)
        assert np.array_equal(construction.comparison.rows, again.comparison.rows)
        assert (construction.sharpness, construction.error_bound) == (again.sharpness, again.error_bound)
        assert construction.circuits == again.circuits
        with pytest.raises(ArtifactError, match="a construction on vectors"):
            load(tmp_path / name)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("theorem",), "two-layer"),
        (("layout", "dim"), 4),
        (("layout", "examples"), 8),
        (("layout", "positions"), 1),
        (("domain", "margin"), 0.25),
        (("domain", "tolerance"), 0.1),
        (("domain", "input_bound"), 2.0),
        (("domain", "answer_bound"), 1.0),
        (("domain", "comparison"), "taste"),
        (("domain", "fingerprint"), [[1.0, 0.0]]),
        (("domain", "norm_slack"), "much"),
        (("subspaces", "share", "size"), 1),
        (("subspaces", "vector", "start"), 1),
        (("sizes", "layers"), 2),
        (("task_set", "tasks"), []),
        (("task_set", "tasks"), None),
    ],
)
def test_a_description_that_does_not_fit_is_refused(path: tuple[str, ...], value: object, tmp_path: Path) -> None:
    save_vectors(built_case(dim=5), tmp_path / "made")
    described = json.loads((tmp_path / "made" / "construction.json").read_text())
    part = described
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    (tmp_path / "made" / "construction.json").write_text(json.dumps(described))
    with pytest.raises(ArtifactError):
        load_vectors(tmp_path / "made", check_hashes=False)


def test_altered_files_are_refused_where_hashes_count(tmp_path: Path) -> None:
    save_vectors(built_case(), tmp_path / "made")
    at = tmp_path / "made" / "weights.safetensors"
    content = bytearray(at.read_bytes())
    content[-3] ^= 1
    at.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="altered"):
        load_vectors(tmp_path / "made")
    at.write_bytes(bytes(content[:100]))
    with pytest.raises(ArtifactError):
        load_vectors(tmp_path / "made", check_hashes=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"matrices": None}, "no array 'matrices'"),
        ({"positions": None}, "no array 'positions'"),
        ({"matrices": np.full((3, 5, 5), np.nan)}, "not finite"),
        ({"matrices": np.full((3, 5, 5), np.inf)}, "not finite"),
        ({"matrices": np.zeros((5, 5))}, "shape"),
        ({"matrices": np.zeros((3, 5, 4))}, "shape"),
        ({"matrices": np.array([["a"]])}, "not a number"),
        ({"positions": np.array([0, 1])}, "positions"),
        ({"positions": np.array([0.0, 1.0, 0.0])}, "positions"),
        ({"positions": np.array([0, 1, 7])}, "reads input 7"),
        ({"offsets": np.zeros((2, 5))}, "offsets has 2 rows"),
        ({"offsets": np.full((3, 5), np.nan)}, "not finite"),
        ({"names": np.array(["a", "b"])}, "names"),
        ({"names": np.array(["a", "a", "b"])}, "two tasks are called 'a'"),
        ({"margin": np.array(np.nan)}, "margin"),
        ({"margin": np.array(-1.0)}, "margin is -1"),
        ({"inputs": np.array(1.5)}, "inputs is 1.5"),
        ({"bound": np.array(0.0)}, "bound is 0"),
        ({"extra": np.zeros(1)}, "unknown array 'extra'"),
    ],
)
def test_an_archive_that_is_no_task_set_is_refused_in_words(
    change: dict[str, np.ndarray | None], words: str, tmp_path: Path
) -> None:
    held = {name: array for name, array in (arrays() | change).items() if array is not None}
    np.savez(tmp_path / "tasks.npz", **held)
    with pytest.raises(TaskError, match=words) as caught:
        load_vector_task_file(tmp_path / "tasks.npz")
    assert str(tmp_path / "tasks.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"name": "a"}',
        '{"name": "a", "inputs": 1, "tasks": 3}',
        '{"name": "a", "inputs": 1, "tasks": []}',
        '{"name": "a", "inputs": "1", "tasks": [{"name": "b", "position": 0, "matrix": [[1]]}]}',
        '{"name": "a", "inputs": 1, "tasks": [{"name": "b", "position": 0, "matrix": [[NaN]]}]}',
        '{"name": "a", "inputs": 1, "tasks": [{"name": "b", "position": 0, "matrix": [[1, 2], [3]]}]}',
        '{"name": "a", "inputs": 1, "tasks": [{"name": "b", "position": 0, "matrix": [["1"]]}]}',
        '{"name": "a", "inputs": 1, "tasks": [{"name": "b", "position": true, "matrix": [[1]]}]}',
        '{"name": "a", "inputs": 1, "tasks": [{"name": "b", "position": 0, "matrix": [[1]], "ofset": [1]}]}',
        '{"name": "a", "inputs": 1, "margin": 1e999, "tasks": [{"name": "b", "position": 0, "matrix": [[1]]}]}',
        '{"name": "a", "inputs": 1, "tasks": [{"name": "b", "position": 0, "matrix": [[1e300]]}]}',
        "[" * 100_000,
    ],
)
def test_json_that_is_no_task_set_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text(text)
    with pytest.raises(TaskError) as caught:
        load_vector_task_file(tmp_path / "tasks.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04K\x01."])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tasks.npz").write_bytes(content)
    with pytest.raises(TaskError):
        load_vector_task_file(tmp_path / "tasks.npz")
    with pytest.raises(PromptError):
        load_vector_prompt(str(tmp_path / "tasks.npz"), SMALL)


def test_an_archive_of_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "tasks.npz", matrices=np.array([{"a": 1}], dtype=object), positions=np.array([0]))
    with pytest.raises(TaskError):
        load_vector_task_file(tmp_path / "tasks.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query": None}, "expected"),
        ({"query": [[0, 1]]}, "query has the shape"),
        ({"query": [[0, 1], [1, float("nan")]]}, "not finite"),
        ({"query": [[0, 1], [1, "a"]]}, "query is no array of numbers"),
        ({"examples": 3}, "no list"),
        ({"examples": [{"inputs": [[1, 0], [0, 1]]}]}, r"examples\[0\]"),
        ({"examples": [{"inputs": [[1, 0]], "answer": [1, 0]}]}, "inputs has the shape"),
        ({"examples": [{"inputs": [[1, 0], [0, 1]], "answer": [1, 0, 0]}]}, "answers has the shape"),
        ({"more": 1}, "expected"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_in_words(change: dict[str, object], words: str) -> None:
    data = {name: value for name, value in (PROMPT | change).items() if value is not None}
    with pytest.raises(PromptError, match=words):
        prompt_from_json(data, SMALL)


@given(st.binary(max_size=60))
@settings(max_examples=30)
def test_random_bytes_are_refused_as_prompts(content: bytes) -> None:
    construction = built_case(dim=2)
    try:
        data = json.loads(content.decode("utf-8"))
    except ValueError:
        return
    with pytest.raises(PromptError):
        prompt_from_json(data, construction.task_set)


def test_a_prompt_of_more_examples_than_fit_is_refused() -> None:
    construction = built_case(examples=2)
    prompt = random_prompt(built_case(examples=3), 3, 0)
    with pytest.raises(PromptError, match="build one with --examples 3"):
        construction.layout.vectors(prompt)
