"""The registry: every figure's module has what a figure has, and nothing is imported to list them."""

import subprocess
import sys

import pytest

from construct.errors import InputError
from paper_figures.records import Record
from paper_figures.registry import FIGURES, chosen, entry


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_a_module_has_a_record_and_three_functions(figure: object) -> None:
    module = figure.load()  # type: ignore[attr-defined]
    assert issubclass(module.RECORD, Record)
    for name in ("collect", "draw", "caption"):
        assert callable(getattr(module, name))


def test_names_and_modules_are_all_different() -> None:
    assert len({figure.name for figure in FIGURES}) == len({figure.module for figure in FIGURES}) == len(FIGURES)


def test_a_name_given_twice_is_drawn_once() -> None:
    assert [figure.name for figure in chosen(["simplex", "depth", "simplex"])] == ["simplex", "depth"]


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match=r"no figure 'simplx': choose from superposition, .*simplex"):
        entry("simplx")


def test_listing_imports_neither_torch_nor_matplotlib() -> None:
    program = (
        "import sys; from construct.cli import construct; construct(['figures', '--list'], standalone_mode=False); "
        "sys.exit(bool({'torch', 'matplotlib', 'numpy'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran
    for figure in FIGURES:
        assert f"{figure.name}  ({figure.kind}, about {figure.seconds} s)\n  shows {figure.shows}\n" in ran.stdout
