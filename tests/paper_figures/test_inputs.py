"""The inputs: records are found or the command that makes them is named; the prompt fits or is refused."""

from pathlib import Path

import pytest

from construct.errors import InputError
from construct.prompts import PromptError
from paper_figures.inputs import PROMPT, Inputs


def test_records_are_looked_for_in_both_folders_of_the_checkout() -> None:
    assert [folder.name for folder in Inputs().folders] == ["records", "benchmarks"]
    assert Inputs().file("results.json", "make bench").name == "results.json"


def test_missing_records_name_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no records study/\*\.json in .*: `construct train` makes them"):
        Inputs(records=tmp_path).files("study/*.json", "construct train")


def test_a_folder_is_no_file_of_records(tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    with pytest.raises(InputError, match="no records"):
        Inputs(records=tmp_path).file("results.json", "make bench")


def test_the_prompt_is_that_of_the_readme() -> None:
    assert PROMPT in (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def test_a_prompt_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the prompt"):
        _ = Inputs(prompt=tmp_path / "none.txt").prompt


def test_a_prompt_longer_than_the_construction_takes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Peru->Lima\n" * 21 + "Peru->\n", encoding="utf-8")
    with pytest.raises(PromptError, match="21"):
        _ = Inputs(prompt=tmp_path / "prompt.txt").prompt
