"""From a figure's name to its files: the data, the caption, and the picture in each format asked for."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from construct.artifact import write_file
from construct.errors import InputError
from paper_figures.inputs import Inputs
from paper_figures.records import Record, fitted, from_json, to_json
from paper_figures.registry import Entry, FigureModule, entry
from paper_figures.style import METADATA, STYLE, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = tuple(METADATA)


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure's data file: the name of the figure and its record, not read yet."""

    figure: str
    record: msgspec.Raw


def make(figure: Entry, inputs: Inputs, directory: Path, formats: Sequence[str]) -> list[Path]:
    """Collect a figure's record, draw it, and write its files.

    Args:
        figure: which one.
        inputs: what it is drawn from.
        directory: where NAME.json, NAME.txt and the pictures go; it is made.
        formats: of FORMATS.

    Returns:
        The files, in the order they were written.

    Raises:
        InputError: the inputs do not serve, or nothing can be written there.
    """
    module = figure.load()
    return write(figure.name, module, module.collect(inputs), directory, formats)


def redraw(data: Path, names: Sequence[str], directory: Path, formats: Sequence[str]) -> list[Path]:
    """Draw a figure again from the data beside it; names, where given, must be the one that it holds.

    Raises:
        InputError: the file cannot be read or does not fit, or nothing can be written there.
    """
    try:
        text = data.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the data {data}: {error.strerror or error}") from error
    try:
        envelope = msgspec.json.decode(text, type=Envelope)
    except msgspec.DecodeError as error:
        raise InputError(f"{data} is not data that `construct figures` wrote: {error}") from error
    figure = entry(envelope.figure)
    if names and list(names) != [figure.name]:
        raise InputError(f"{data} holds the figure {figure.name}, not {', '.join(names)}")
    module = figure.load()
    record = from_json(module.RECORD, bytes(envelope.record), str(data))
    return write(figure.name, module, record, directory, formats)


def write(name: str, module: FigureModule, record: Record, directory: Path, formats: Sequence[str]) -> list[Path]:
    """Draw a record and write its files, none before all are drawn."""
    record = fitted(module.RECORD, record, name)
    files = {"json": data_file(name, record), "txt": module.caption(record).encode() + b"\n"}
    files |= pictures(module, record, formats)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {directory}: {error.strerror or error}") from error
    paths = []
    for ending, content in files.items():
        paths.append(directory / f"{name}.{ending}")
        write_file(paths[-1], content)
    return paths


def pictures(
    module: FigureModule, record: Record, formats: Sequence[str], *, resolution: int | None = None
) -> dict[str, bytes]:
    """Draw a record, and give its bytes in each format; the same record gives the same bytes.

    Args:
        module: the figure's module.
        record: what it is drawn from, as `fitted` gives it.
        formats: of FORMATS.
        resolution: dots an inch of a PNG; None: the style's.
    """
    with styled(), warnings.catch_warnings():
        # A glyph that the font lacks is drawn as a box; the data beside the picture has it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = module.draw(record)
        _lay_out(figure)
        return {form: _saved(figure, form, resolution) for form in formats}


def _saved(figure: "Figure", form: str, resolution: int | None) -> bytes:
    stream = io.BytesIO()
    dots = STYLE["savefig.dpi"] if resolution is None else resolution
    figure.savefig(stream, format=form, metadata=dict(METADATA[form]), dpi=dots)
    return stream.getvalue()


def _lay_out(figure: "Figure") -> None:
    """Lay a figure out once, for all formats.

    The solver of the layout takes its constraints in an order that changes from run to run, and with it the last bits
    of the places. Rounded to 1e-6 of the page they are the same.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        box = axes.get_position(original=True)
        left, bottom, width, height = (round(part, 6) for part in box.bounds)
        axes.set_position((left, bottom, width, height))


def data_file(name: str, record: Record) -> bytes:
    """The data beside a figure, which `redraw` reads."""
    plain = msgspec.json.encode({"figure": name, "record": msgspec.Raw(to_json(record))})
    return msgspec.json.format(plain, indent=1) + b"\n"
