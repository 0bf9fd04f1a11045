"""`construct figures`: what it writes and what it refuses."""

import json
from pathlib import Path

import pytest

from paper_figures.commands import figures
from paper_figures.registry import FIGURES
from tests.construct.conftest import Command


def test_a_figure_comes_with_its_data_and_its_caption(construct: Command, tmp_path: Path) -> None:
    ran = construct("figures", "residual-stream", "--out", tmp_path / "new" / "out", "--format", "svg,png,svg")
    assert (ran.status, ran.err) == (0, "")
    names = ["residual-stream.json", "residual-stream.txt", "residual-stream.svg", "residual-stream.png"]
    assert ran.out.splitlines() == [str(tmp_path / "new" / "out" / name) for name in names]
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == sorted(names)


def test_an_artifact_is_drawn_in_place_of_the_suite(construct: Command, tmp_path: Path) -> None:
    sizes = ("--tasks", 3, "--alphabet-size", 7, "--inputs", 5, "--examples", 11)
    assert construct("build", *sizes, "--out", tmp_path / "a").status == 0
    ran = construct("figures", "residual-stream", "--artifact", tmp_path / "a", "--out", tmp_path, "--format", "svg")
    assert ran.status == 0
    assert "suite retrieval" in (tmp_path / "residual-stream.txt").read_text(encoding="utf-8")


def test_what_cannot_be_drawn_is_said_with_the_command_and_the_rest_is_drawn(
    construct: Command, tmp_path: Path
) -> None:
    names = ("precision-frontier", "residual-stream", "depth")
    (tmp_path / "none").mkdir()
    ran = construct("figures", *names, "--records", tmp_path / "none", "--out", tmp_path / "o", "--format", "svg")
    assert ran.status == 2
    first, second = ran.err.splitlines()
    assert first.startswith("error: precision-frontier: there are no records results.json")
    assert first.endswith("`make bench` makes them")
    assert second.strip().startswith("depth: there are no records one_layer.json")
    assert second.endswith("`make depth` makes them")
    assert {path.stem for path in (tmp_path / "o").iterdir()} == {"residual-stream"}


@pytest.mark.parametrize("content", ["[]", '{"records": {"precision": [{"step": "prove"}]}}', "no json"])
def test_records_of_another_form_are_refused(content: str, construct: Command, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    ran = construct("figures", "precision-frontier", "--records", tmp_path, "--out", tmp_path / "o")
    ran.refused("precision-frontier", "results.json")
    assert not (tmp_path / "o").exists()


def test_a_prompt_that_a_figure_cannot_show_is_refused(construct: Command, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("Peru->\n", encoding="utf-8")
    (tmp_path / "odd.txt").write_text("Spain->Tokyo\nPeru->\n", encoding="utf-8")
    for figure, prompt in (
        ("superposition", "none"),
        ("superposition", "odd"),
        ("in-context-learning-curve", "none"),
    ):
        ran = construct("figures", figure, "--prompt", tmp_path / f"{prompt}.txt", "--out", tmp_path / "o")
        ran.refused(f"the figure {figure} needs a prompt")


def test_a_prompt_of_the_users_is_drawn_as_it_is(construct: Command, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text(
        "France->Paris\nSpain->Tokyo\nChad->Africa\nOman->OMAN\nPeru->\n", encoding="utf-8"
    )
    names = ("in-context-learning-curve", "attention")
    ran = construct("figures", *names, "--prompt", tmp_path / "own.txt", "--out", tmp_path, "--format", "svg")
    assert ran.status == 0
    steps = json.loads((tmp_path / "in-context-learning-curve.json").read_bytes())["record"]["steps"]
    assert [step["example"] for step in steps] == ["", "France->Paris", "Spain->Tokyo", "Chad->Africa", "Oman->OMAN"]


def test_names_or_one_of_the_sets_must_be_given(construct: Command, tmp_path: Path) -> None:
    for arguments in ((), ("--all", "--theory"), ("simplex", "--all")):
        construct("figures", *arguments, "--out", tmp_path).refused("--list")


def test_an_unknown_figure_format_or_artifact_is_refused(construct: Command, tmp_path: Path) -> None:
    construct("figures", "simplx", "--out", tmp_path).refused("simplx", "simplex")
    construct("figures", "simplex", "--format", "pdf,gif", "--out", tmp_path).refused("gif", "pdf, svg, png")
    construct("figures", "simplex", "--artifact", tmp_path, "--out", tmp_path).refused("simplex", "construction.json")
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_made_is_refused(construct: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    ran = construct("figures", "residual-stream", "--out", tmp_path / "file", "--format", "svg")
    ran.refused("cannot make the folder")


def test_data_are_drawn_again_and_take_no_other_input(construct: Command, tmp_path: Path) -> None:
    assert construct("figures", "residual-stream", "--out", tmp_path / "a", "--format", "svg").status == 0
    data = tmp_path / "a" / "residual-stream.json"
    again = ("figures", "--data", data, "--out", tmp_path / "b", "--format", "svg")
    assert construct(*again).status == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    construct(*again, "--all").refused("--data")
    construct(*again, "--prompt", data).refused("--data")
    construct("figures", "simplex", *again[1:]).refused("residual-stream")
    construct("figures", "--data", tmp_path / "none.json").refused("none.json")


def test_the_theory_set_is_the_figures_that_need_no_models() -> None:
    wanted = figures._wanted((), all_of_them=False, theory=True)
    assert [figure.name for figure in wanted] == [figure.name for figure in FIGURES if figure.kind == "theory"]
    assert figures._wanted((), all_of_them=True, theory=False) == list(FIGURES)
