"""`construct sample`: prompts that `construct predict` takes."""

import json
from pathlib import Path

import pytest

from construct.artifact import load
from construct.prompts import Prompt, parse_prompt
from tests.construct.conftest import Command


def _prompt(text: str, directory: Path) -> Prompt:
    return parse_prompt(text, load(directory).task_set)


def test_a_sample_is_a_prompt_of_as_many_examples_as_fit(construct: Command, country: Path) -> None:
    ran = construct("sample", country)
    assert (ran.status, ran.err) == (0, "")
    assert len(_prompt(ran.out, country).examples) == 7


@pytest.mark.parametrize("examples", [0, 1, 5, 7])
def test_a_sample_has_the_examples_asked_for(examples: int, construct: Command, country: Path) -> None:
    ran = construct("sample", country, "--examples", examples)
    assert len(_prompt(ran.out, country).examples) == examples


def test_a_mixture_of_one_task_gives_its_examples_only(construct: Command, country: Path) -> None:
    text = construct("sample", country, "--mixture", "upper=2, capital=0").out
    task_set = load(country).task_set
    upper = next(task for task in task_set.tasks if task.name == "upper")
    for example in _prompt(text, country).examples:
        assert upper.answer(example.inputs) == example.answer


def test_a_seed_gives_the_same_prompt_each_time(construct: Command, country: Path) -> None:
    first, again, other = (construct("sample", country, "--seed", seed).out for seed in (3, 3, 4))
    assert first == again != other


def test_jsonl_is_what_predict_takes(construct: Command, country: Path, tmp_path: Path) -> None:
    lines = construct("sample", country, "--jsonl", "--prompts", 3, "--examples", 2).out
    assert [list(json.loads(line)) for line in lines.splitlines()] == [["prompt"]] * 3
    (tmp_path / "prompts.jsonl").write_text(lines, encoding="utf-8")
    ran = construct("predict", country, "--jsonl", tmp_path / "prompts.jsonl")
    assert [json.loads(line)["examples"] for line in ran.out.splitlines()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--examples", 8], ("--examples is 8", "takes 0 to 7")),
        (["--examples", -1], ("--examples is -1", "takes 0 to 7")),
        (["--prompts", 0], ("--prompts is 0", "at least 1")),
        (["--prompts", 2], ("--prompts is 2", "need --jsonl")),
        (["--seed", -1], ("--seed is -1", "0 or more")),
        (["--mixture", "upper"], ("'upper'", "expected task=weight")),
        (["--mixture", "upper=much"], ("'upper=much'", "expected task=weight")),
        (["--mixture", "lower=1"], ("'lower'", "the tasks are capital, continent, upper")),
        (["--mixture", "upper=-1"], ("'upper'", "-1", "a number >= 0")),
        (["--mixture", "upper=nan"], ("'upper'", "nan", "a number >= 0")),
        (["--mixture", "upper=0"], ("all zero", "positive weight")),
        (["--mixture", ""], ("--mixture has ''", "expected task=weight")),
    ],
)
def test_what_cannot_be_sampled_is_refused(
    arguments: list[object], words: tuple[str, ...], construct: Command, country: Path
) -> None:
    construct("sample", country, *arguments).refused(*words)


def test_a_folder_that_is_no_construction_is_refused(construct: Command, tmp_path: Path) -> None:
    construct("sample", tmp_path).refused("construction.json", "construct build")
