"""`construct predict`: the answer as table, JSON, curve and picture, and what cannot be answered."""

import json
from pathlib import Path

import pytest

from construct.artifact import save
from construct.bounds import PRECISIONS
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import two_layer
from tests.construct.conftest import Command

MIXED = "France->Paris\nKenya->Africa\nJapan->Tokyo\nPeru->"
"""Of three examples two are capitals and one is a continent."""

LIMITS = {"float64": 1e-6, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


def test_json_is_one_object_of_the_promised_keys(construct: Command, country: Path) -> None:
    ran = construct("predict", country, "-", "--json", stdin=MIXED)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.count("\n") == 1
    answer = json.loads(ran.out)
    assert list(answer) == ["query", "distribution", "evidence", "explained", "examples"]
    assert answer["query"] == "Peru"
    assert answer["distribution"] == pytest.approx({"Lima": 2 / 3, "South America": 1 / 3}, abs=1e-5)
    assert list(answer["distribution"]) == ["Lima", "South America"]
    assert answer["evidence"] == pytest.approx({"capital": 2 / 3, "continent": 1 / 3, "upper": 0}, abs=1e-5)
    assert answer["explained"] == pytest.approx(1, abs=1e-5)
    assert answer["examples"] == 3


def test_the_table_has_bars_and_the_evidence(construct: Command, country: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text(MIXED, encoding="utf-8")
    ran = construct("predict", country, tmp_path / "prompt.txt")
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "Peru  after 3 example(s)"
    assert lines[1].split() == ["Lima", "0.6667", "█" * 20]
    assert lines[2].split()[:3] == ["South", "America", "0.3333"]
    assert lines[4].split()[:2] == ["capital", "0.6667"]
    assert lines[6].split() == ["upper", "0.0000"]
    assert lines[7].startswith("explained: 1.0000")


@pytest.mark.parametrize("dense", [[], ["--dense"]], ids=["sparse", "dense"])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_every_format_answers(dtype: str, dense: list[str], construct: Command, country: Path) -> None:
    ran = construct("predict", country, "-", "--json", "--dtype", dtype, "--device", "cpu", *dense, stdin=MIXED)
    assert (ran.status, ran.err) == (0, "")
    answer = json.loads(ran.out)
    assert answer["distribution"]["Lima"] == pytest.approx(2 / 3, abs=LIMITS[dtype])
    assert answer["evidence"]["continent"] == pytest.approx(1 / 3, abs=LIMITS[dtype])


def test_the_curve_answers_after_each_example(construct: Command, country: Path) -> None:
    ran = construct("predict", country, "-", "--curve", stdin=MIXED)
    assert (ran.status, ran.err) == (0, "")
    header, *rows = ran.out.splitlines()
    assert header.split() == ["examples", "query", "explained", "answer", "evidence"]
    assert [row.split()[:2] for row in rows] == [["0", "France"], ["1", "Kenya"], ["2", "Japan"], ["3", "Peru"]]
    assert "no evidence" in rows[0]
    assert rows[1].split() == ["1", "Kenya", "1.000", "Nairobi", "1.000", "capital", "1.000"]
    assert rows[3].split("  ")[-1].strip() == "continent 0.333"


def test_the_curve_as_json_is_a_list_whose_last_entry_is_the_answer(construct: Command, country: Path) -> None:
    curve = json.loads(construct("predict", country, "-", "--curve", "--json", stdin=MIXED).out)
    assert [entry["examples"] for entry in curve] == [0, 1, 2, 3]
    assert curve[0]["distribution"] == {}
    answer = json.loads(construct("predict", country, "-", "--json", stdin=MIXED).out)
    assert curve[-1]["distribution"] == pytest.approx(answer["distribution"], abs=1e-5)


def test_jsonl_gives_one_object_a_prompt_in_order(construct: Command, country: Path, tmp_path: Path) -> None:
    texts = [MIXED, "Peru->", "France->FRANCE\nJapan->"]
    lines = [json.dumps({"prompt": text, "id": 1}) for text in texts]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    ran = construct("predict", country, "--jsonl", tmp_path / "prompts.jsonl")
    answers = [json.loads(line) for line in ran.out.splitlines()]
    assert [answer["query"] for answer in answers] == ["Peru", "Peru", "Japan"]
    assert [answer["examples"] for answer in answers] == [3, 0, 1]
    assert answers[2]["distribution"] == pytest.approx({"JAPAN": 1}, abs=1e-5)


def test_a_prompt_without_evidence_gets_no_guess(construct: Command, country: Path) -> None:
    for prompt in ("Peru->", "France->Tokyo\nPeru->", "Paris->France\nLima->"):
        ran = construct("predict", country, "-", stdin=prompt)
        assert ran.status == 0
        assert "no evidence: no task explains any of the examples" in ran.out
        answer = json.loads(construct("predict", country, "-", "--json", stdin=prompt).out)
        assert answer["distribution"] == {}
        assert answer["explained"] == pytest.approx(0, abs=1e-6)


def test_a_query_that_no_task_answers_is_told_apart_from_no_evidence(construct: Command, country: Path) -> None:
    ran = construct("predict", country, "-", stdin="France->Paris\nLima->")
    assert "no answer: the tasks that explain the examples have none for this query" in ran.out


def test_unexplained_examples_lower_the_explained_mass_and_ambiguous_ones_count_for_each_task(
    construct: Command, country: Path
) -> None:
    half = construct("predict", country, "-", "--json", stdin="France->Paris\nFrance->Lima\nPeru->")
    assert json.loads(half.out)["explained"] == pytest.approx(0.5, abs=1e-5)
    both = json.loads(construct("predict", country, "-", "--json", stdin="Singapore->Singapore\nPeru->").out)
    assert both["evidence"]["capital"] == pytest.approx(1, abs=1e-5)
    assert both["evidence"]["upper"] == pytest.approx(0, abs=1e-5)


def test_a_prompt_may_be_full(construct: Command, country: Path) -> None:
    ran = construct("predict", country, "-", "--json", stdin="France->Paris\n" * 7 + "Peru->")
    assert json.loads(ran.out)["examples"] == 7


def test_many_answers_and_tasks_are_counted(construct: Command, tmp_path: Path) -> None:
    save(two_layer(build_suite("lookup", tasks=17, alphabet_size=32, inputs=1), examples=17), tmp_path / "made")
    prompt = construct("sample", tmp_path / "made", "--seed", 4).out
    out = construct("predict", tmp_path / "made", "-", stdin=prompt).out
    assert "  and 5 more tasks: --json lists them" in out


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_picture_is_drawn(suffix: str, construct: Command, country: Path, tmp_path: Path) -> None:
    path = tmp_path / f"answer.{suffix}"
    ran = construct("predict", country, "-", "--picture", path, stdin=MIXED)
    assert ran.status == 0
    assert ran.err == f"picture: {path}\n"
    assert ran.out.startswith("Peru  after 3")
    begins = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}
    assert path.read_bytes().startswith(begins[suffix])
    assert path.stat().st_size > 1000
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_picture_of_no_evidence_is_drawn(construct: Command, country: Path, tmp_path: Path) -> None:
    assert construct("predict", country, "-", "--picture", tmp_path / "none.png", stdin="Peru->").status == 0
    assert (tmp_path / "none.png").stat().st_size > 1000


def test_a_picture_shows_dollars_and_backslashes_as_they_are(construct: Command, tmp_path: Path) -> None:
    alphabet = ("$\\frac$", "$x^$", "_^{")
    task_set = TaskSet("$\\sqrt$", alphabet, 1, Format(), (TableTask("$\\int$ ^", (0,), {(0,): 1, (1,): 2}),))
    save(two_layer(task_set, examples=2), tmp_path / "made")
    path = tmp_path / "answer.png"
    ran = construct("predict", tmp_path / "made", "-", "--picture", path, stdin="$x^$->_^{\n$\\frac$->")
    assert (ran.status, ran.err) == (0, f"picture: {path}\n")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("answer.gif", ("answer.gif", "choose one of .png, .pdf, .svg")),
        ("answer", ("answer", "choose one of .png, .pdf, .svg")),
        ("absent/answer.png", ("absent", "does not exist, make it first")),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_before_the_work(
    name: str, words: tuple[str, ...], construct: Command, country: Path, tmp_path: Path
) -> None:
    construct("predict", country, "-", "--picture", tmp_path / name, stdin=MIXED).refused(*words)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_leaves_nothing_half_written(
    construct: Command, country: Path, tmp_path: Path
) -> None:
    (tmp_path / "answer.png").mkdir()
    ran = construct("predict", country, "-", "--picture", tmp_path / "answer.png", stdin=MIXED)
    assert ran.status == 2
    assert ran.err.startswith("error: cannot write the picture")
    assert ran.err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["answer.png"]


def _wide(directory: Path) -> Path:
    """A sum whose integers, up to 1200, are not exact in bfloat16."""
    task = SumTask("wide", (0,), {0: -600, 1: 600}, {-600: 0, 600: 1})
    save(two_layer(TaskSet("wide", ("a", "b"), 1, Format(), (task,)), examples=2), directory)
    return directory


def test_a_format_without_a_bound_is_warned_of(construct: Command, tmp_path: Path) -> None:
    wide = _wide(tmp_path / "wide")
    for dtype in PRECISIONS:
        ran = construct("predict", wide, "-", "--json", "--dtype", dtype, stdin="b->b\nb->")
        assert ran.status == 0
        if dtype == "bfloat16":
            expected = "warning: there is no error bound for this construction in bfloat16: --dtype float64 or float32"
            assert ran.err.startswith(expected)
            assert ran.err.count("\n") == 1
        else:
            assert ran.err == ""
            assert json.loads(ran.out)["distribution"] == pytest.approx({"b": 1}, abs=1e-2)


def test_too_low_a_sharpness_is_warned_of(construct: Command, tmp_path: Path) -> None:
    save(two_layer(build_suite("plus"), examples=2, sharpness=0.5), tmp_path / "made")
    ran = construct("predict", tmp_path / "made", "-", "--json", stdin="1->2\n5->")
    assert ran.status == 0
    assert ran.err.startswith("warning: there is no error bound for this construction in float32: build one with --err")


WRONG_PROMPTS: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "an unknown token": ("Frence->Paris\nPeru->", ("line 1", "'Frence'", "did you mean 'France'")),
    "an unknown answer": ("France->Pariss\nPeru->", ("line 1", "'Pariss'", "did you mean 'Paris'")),
    "too many examples": ("France->Paris\n" * 8 + "Peru->", ("has 8 examples", "at most 7", "--examples 8")),
    "no input": ("->Paris\nPeru->", ("line 1", "0 inputs", "expected 1")),
    "no arrow": ("France Paris\nPeru->", ("line 1", "no arrow '->'", "write it as")),
    "nothing": ("", ("prompt is empty", "give examples, then a query")),
    "nothing but space": (" \n\t\n", ("prompt is empty", "give examples, then a query")),
    "a query that comes first": ("Peru->\nFrance->Paris", ("line 1", "has no answer", "only the last line")),
    "no query": ("France->Paris", ("line 1", "is the last line", "end the prompt with a query")),
    "bytes that are no text": (b"\xff\xfe->\n", ("not UTF-8",)),
}


@pytest.mark.parametrize("wrong", WRONG_PROMPTS)
def test_a_prompt_that_cannot_be_read_is_refused(wrong: str, construct: Command, country: Path, tmp_path: Path) -> None:
    prompt, words = WRONG_PROMPTS[wrong]
    content = prompt.encode() if isinstance(prompt, str) else prompt
    construct("predict", country, "-", stdin=prompt).refused(*words)
    (tmp_path / "prompt.txt").write_bytes(content)
    construct("predict", country, tmp_path / "prompt.txt", "--json").refused(*words)
    if isinstance(prompt, str):
        (tmp_path / "prompts.jsonl").write_text(
            json.dumps({"prompt": "Peru->"}) + "\n" + json.dumps({"prompt": prompt}), encoding="utf-8"
        )
        construct("predict", country, "--jsonl", tmp_path / "prompts.jsonl").refused("line 2", *words)


def test_a_wrong_number_of_inputs_is_refused(construct: Command, tmp_path: Path) -> None:
    save(two_layer(build_suite("copy_add"), examples=2), tmp_path / "made")
    construct("predict", tmp_path / "made", "-", stdin="12@34@56=46\n1@2=").refused("line 1", "3 inputs", "expected 2")
    construct("predict", tmp_path / "made", "-", stdin="12=46\n1@2=").refused("line 1", "1 inputs", "expected 2")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("holds no prompt", '{"prompt": ...}')),
        ("\n\n", ("holds no prompt", '{"prompt": ...}')),
        ("{", ("line 1", "not JSON")),
        ("[]", ("line 1", "expected an object")),
        ('{"text": "Peru->"}', ("line 1", "expected an object")),
        ('{"prompt": 3}', ("line 1", "expected an object")),
        ("9" * 5000, ("line 1", "not JSON")),
    ],
)
def test_a_jsonl_file_that_cannot_be_read_is_refused(
    content: str, words: tuple[str, ...], construct: Command, country: Path, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content, encoding="utf-8")
    construct("predict", country, "--jsonl", path).refused(str(path), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ("give one prompt", "--jsonl")),
        (["-", "--jsonl", "file"], ("give one prompt", "--jsonl")),
        (["--jsonl", "absent.jsonl"], ("'absent.jsonl'", "No such file")),
        (["--jsonl", "file", "--curve"], ("--curve", "--jsonl")),
        (["--jsonl", "file", "--picture", "a.png"], ("--picture", "--jsonl")),
        (["-", "--curve", "--picture", "a.png"], ("--picture", "leave --curve out")),
        (["absent.txt"], ("'absent.txt'", "No such file")),
        (["France->Paris\nPeru->"], ("No such file", "pipe it to -")),
        (["."], ("'.'", "directory")),
        (["-", "--dtype", "int8"], ("'--dtype'", "float64")),
        (["-", "--device", "abacus"], ("'abacus'", "--device cpu")),
        (["-", "--device", "meta"], ("'meta'", "--device cpu")),
        (["-", "--device", "hpu"], ("'hpu'", "--device cpu")),
        (["-", "--device", "cuda:977"], ("'cuda:977'", "--device cpu")),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    arguments: list[object], words: tuple[str, ...], construct: Command, country: Path
) -> None:
    construct("predict", country, *arguments, stdin=MIXED).refused(*words)


def test_a_folder_that_is_no_construction_is_refused(construct: Command, tmp_path: Path) -> None:
    construct("predict", tmp_path / "absent", "-", stdin=MIXED).refused("absent", "is no folder", "construct build")
    construct("predict", tmp_path, "-", stdin=MIXED).refused("construction.json", "construct build")
    construct("predict", stdin=MIXED).refused("DIRECTORY")


def test_an_altered_construction_is_refused(construct: Command, tmp_path: Path) -> None:
    save(two_layer(build_suite("plus"), examples=2), tmp_path / "made")
    weights = tmp_path / "made" / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    construct("predict", tmp_path / "made", "-", stdin="1->2\n5->").refused("weights.safetensors", "build the")
    weights.write_bytes(content[:-4] + b"\x00\x00\x00\x7f")
    construct("predict", tmp_path / "made", "-", stdin="1->2\n5->").refused("was altered", "build the construction")
