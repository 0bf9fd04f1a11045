"""`construct suites`: the list, and a suite as a task file."""

import json
from pathlib import Path

import pytest

from construct.suites import SUITES, build_suite
from construct.task_file import load_task_file, task_set_from_json
from tests.construct.conftest import Command


def test_the_list_has_a_line_for_every_suite(construct: Command) -> None:
    ran = construct("suites")
    assert (ran.status, ran.err) == (0, "")
    first_words = [line.split()[0] for line in ran.out.splitlines()]
    assert first_words == ["suite", *SUITES]


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_printed_as_a_task_file(name: str, construct: Command, tmp_path: Path) -> None:
    ran = construct("suites", name)
    assert (ran.status, ran.err) == (0, "")
    (tmp_path / "tasks.json").write_text(ran.out, encoding="utf-8")
    assert load_task_file(tmp_path / "tasks.json") == build_suite(name)


def test_sizes_and_seed_are_passed_on(construct: Command) -> None:
    ran = construct("suites", "lookup", "--tasks", 3, "--alphabet-size", 5, "--inputs", 2, "--seed", 7)
    expected = build_suite("lookup", tasks=3, alphabet_size=5, inputs=2, seed=7)
    assert task_set_from_json(json.loads(ran.out)) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["towns"], ("'towns'", "choose one of")),
        (["country", "--tasks", 9], ("tasks is 9", "at most")),
        (["country", "--seed", 3], ("seed is 3", "leave seed out")),
        (["retrieval", "--tasks", 0], ("tasks is 0", "at least 1")),
        (["plus", "--tasks", 10**12], ("GiB", "fewer tasks")),
    ],
)
def test_a_suite_that_cannot_be_made_is_refused(
    arguments: list[object], words: tuple[str, ...], construct: Command
) -> None:
    construct("suites", *arguments).refused(*words)
