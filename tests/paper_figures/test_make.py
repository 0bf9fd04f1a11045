"""What every figure of the theory keeps: bytes that repeat, embedded fonts, labelled axes, records that fit."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from construct.errors import InputError
from paper_figures.make import FORMATS, data_file, redraw, write
from paper_figures.records import fitted, from_json, to_json
from paper_figures.registry import FIGURES, entry
from paper_figures.style import COLUMN, PAGE, STYLE

THEORY = [figure.name for figure in FIGURES if figure.kind == "theory"]
IN_ALL_FORMATS = {"superposition", "simplex"}
"""Drawn twice as PDF, SVG and PNG; the others as PDF, to save time: layout and record are the same for each."""

SMALLEST = 4.8
"""Points: the smallest letters that may stand in a figure."""

SIDES = 0.03
"""Inches: what a line's width and the sides of letters may reach over the edge."""


@pytest.mark.parametrize("name", THEORY)
def test_a_figure_drawn_again_from_its_data_has_the_same_bytes(
    name: str, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STYLE, "savefig.dpi", 72)  # fewer dots in the PNG, to save time
    record, formats = made(name), FORMATS if name in IN_ALL_FORMATS else ("pdf",)
    before = to_json(record)
    first = write(name, entry(name).load(), record, tmp_path / "first", formats)
    assert to_json(record) == before
    again = redraw(first[0], [name], tmp_path / "again", formats)
    assert [path.name for path in first] == [f"{name}.{ending}" for ending in ("json", "txt", *formats)]
    for path, other in zip(first, again, strict=True):
        assert path.read_bytes() == other.read_bytes(), path.name
    _says_not_when_it_was_made({path.suffix: path.read_bytes() for path in first})


def _says_not_when_it_was_made(files: dict[str, bytes]) -> None:
    """And embeds its fonts."""
    assert b"/FontFile2" in files[".pdf"]
    assert b"/Type3" not in files[".pdf"]
    assert b"CreationDate" not in files[".pdf"]
    assert b"<dc:date>" not in files.get(".svg", b"")
    assert b"tEXtSoftware" not in files.get(".png", b"")
    assert json.loads(files[".json"]).keys() == {"figure", "record"}


@pytest.mark.parametrize("name", THEORY)
@pytest.mark.usefixtures("style")
def test_every_axis_has_a_label_and_every_letter_is_on_the_page_and_can_be_read(name: str, made: Any) -> None:
    from matplotlib.text import Text

    figure = entry(name).load().draw(made(name))
    assert figure.get_figwidth() in (COLUMN, PAGE)
    for axes in figure.axes:
        if not axes.axison:
            continue
        if getattr(axes, "_colorbar", None) is not None:
            assert axes.get_xlabel() or axes.get_ylabel(), axes
            continue
        for group, label in (
            (axes.get_shared_x_axes(), lambda each: each.get_xlabel()),
            (axes.get_shared_y_axes(), lambda each: each.get_ylabel()),
        ):
            assert any(label(each) for each in [axes, *group.get_siblings(axes)]), axes.get_title(loc="left")
    for text in figure.findobj(Text):
        assert not text.get_text() or text.get_fontsize() >= SMALLEST, text
    figure.set_dpi(STYLE["savefig.dpi"])  # letters are as wide as in the file
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -SIDES


@pytest.mark.parametrize("name", THEORY)
def test_a_caption_says_what_is_proved_measured_or_counted(name: str, made: Any) -> None:
    caption = entry(name).load().caption(made(name))
    assert any(word in caption for word in ("Proved", "proved", "Measured", "measured", "Read off", "counted"))
    assert caption.endswith(".")
    assert "  " not in caption


@pytest.mark.parametrize("name", THEORY)
def test_a_record_of_another_figure_is_refused(name: str, made: Any, tmp_path: Path) -> None:
    other = THEORY[(THEORY.index(name) + 1) % len(THEORY)]
    with pytest.raises(InputError, match=f"the figure {name} is drawn from"):
        write(name, entry(name).load(), made(other), tmp_path, ["svg"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", THEORY)
def test_a_record_that_lacks_a_field_or_has_another_is_refused(name: str, made: Any) -> None:
    kind = entry(name).load().RECORD
    fields = json.loads(to_json(made(name)))
    for field in fields:
        if field in {each.name for each in msgspec.structs.fields(kind) if not each.required}:
            continue
        less = {key: value for key, value in fields.items() if key != field}
        with pytest.raises(InputError, match="does not hold the records"):
            from_json(kind, json.dumps(less).encode(), "x.json")
        with pytest.raises(InputError, match="does not hold the records"):
            from_json(kind, json.dumps({**fields, field: {"a": "wrong"}}).encode(), "x.json")
    with pytest.raises(InputError, match="unknown field"):
        from_json(kind, json.dumps({**fields, "more": 1}).encode(), "x.json")


def test_a_record_made_by_hand_is_checked_field_by_field(made: Any) -> None:
    record = made("superposition")
    wrong = msgspec.structs.replace(record, examples="eleven")
    with pytest.raises(InputError, match="do not fit the figure superposition"):
        fitted(type(record), wrong, "superposition")


def test_the_data_name_their_figure_and_hold_the_record(made: Any) -> None:
    record = made("superposition")
    data = json.loads(data_file("superposition", record))
    assert data == {"figure": "superposition", "record": json.loads(to_json(record))}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"no json", "is not data that"),
        (b'{"figure": "simplex"}', "is not data that"),
        (b'{"figure": "nosuch", "record": {}}', "no figure 'nosuch'"),
        (b'{"figure": "simplex", "record": {}}', "does not hold the records"),
        (b'{"figure": "simplex", "record": {}, "more": 1}', "is not data that"),
    ],
)
def test_data_that_are_no_figure_are_refused(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_bytes(text)
    with pytest.raises(InputError, match=said):
        redraw(tmp_path / "data.json", [], tmp_path, ["svg"])


def test_the_type_of_the_fonts_and_the_salt_are_set() -> None:
    assert (STYLE["pdf.fonttype"], STYLE["ps.fonttype"], STYLE["svg.hashsalt"]) == (42, 42, "task-superposition")
