"""The gallery: every picture is on the page, every figure of the theory has one, and every command exists."""

import re
from pathlib import Path

import pytest

from paper_figures import gallery
from paper_figures.registry import FIGURES, entry

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "figures.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^!\[[^\]]+\]\(figures/([a-z0-9-]+)\.png\)$", PAGE, re.MULTILINE)
LARGEST = 300_000
"""Bytes of a picture on the page."""


def test_the_pictures_on_the_page_are_those_in_its_folder() -> None:
    assert sorted(SHOWN) == sorted(path.stem for path in (DOCS / "figures").iterdir())
    assert {figure.name for figure in FIGURES if figure.kind == "theory"} <= set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_is_small_and_its_command_is_beside_it(name: str) -> None:
    assert entry(name).shows in PAGE
    assert f"```console\n$ construct figures {name}\n```" in PAGE
    content = (DOCS / "figures" / f"{name}.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) <= LARGEST


def test_the_page_is_in_the_order_of_the_registry_and_leaves_out_what_was_not_drawn() -> None:
    last, first = FIGURES[-1], FIGURES[0]
    written = gallery.page({figure.name: gallery.section(figure, "Said.") for figure in (last, first)})
    assert written.index(f"### {first.name}") < written.index(f"### {last.name}")
    assert re.findall(r"^### (.*)$", written, re.MULTILINE) == [first.name, last.name]


def test_no_path_of_a_machine_is_on_the_page() -> None:
    assert not re.search(r"(^|[\s`(])/(work|tmp|home|root)\b", PAGE)
