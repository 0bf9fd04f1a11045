"""The gallery: `python -m paper_figures.gallery` draws every figure and writes docs/figures.md (`make figures`)."""

import io
import textwrap
from pathlib import Path

import click

from construct.artifact import write_file
from construct.errors import InputError
from paper_figures.inputs import ROOT, Inputs
from paper_figures.make import pictures
from paper_figures.records import fitted
from paper_figures.registry import FIGURES, Entry

DOCUMENT, FOLDER = "figures.md", "figures"
RESOLUTION = 150
"""Dots an inch: a page's width is about 1,000 dots."""

HEADER = """\
# The figures

`construct figures NAME` draws a figure as PDF, SVG and PNG, with its data (NAME.json) and its caption (NAME.txt)
beside it; `construct figures --list` says what each shows, from what, and how long it takes; `construct figures
--theory` draws all that need no records of models, in about a minute. `--artifact DIR` and `--prompt FILE` draw
another construction or prompt, and `--data NAME.json` draws a figure again from its data. The same data give the same
bytes.

How they are drawn: `paper_figures/style.py`. The widths are those of a column and of a page of ICML (3.25 and 6.75
inches), a task has one colour in all of them, and fonts are embedded. This page is written by `make figures`.
"""
LARGEST = 200_000
"""Bytes: a larger picture is kept with 256 colours."""

KINDS = {"theory": "Theory", "comparison": "Models compared"}


def section(figure: Entry, caption: str) -> str:
    """A figure's part of the page."""
    text = textwrap.fill(caption, 120, break_on_hyphens=False)
    return (
        f"### {figure.name}\n\n![{figure.shows}]({FOLDER}/{figure.name}.png)\n\n{text}\n\n"
        f"```console\n$ construct figures {figure.name}\n```\n"
    )


def page(sections: dict[str, str]) -> str:
    """The page of the sections that there are, by name, in the order of the registry."""
    parts = [HEADER]
    for kind, title in KINDS.items():
        drawn = [sections[figure.name] for figure in FIGURES if figure.kind == kind and figure.name in sections]
        if drawn:
            parts += [f"## {title}\n", *drawn]
    return "\n".join(parts)


def small(content: bytes) -> bytes:
    """A PNG of at most LARGEST bytes as it is, and a larger one with 256 colours; the same bytes for the same one."""
    if len(content) <= LARGEST:
        return content
    from PIL import Image

    stream = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").quantize(256, kmeans=4).save(stream, format="png", optimize=True)
    return stream.getvalue()


@click.command()
@click.option("--docs", type=click.Path(path_type=Path), default=ROOT / "docs", help="The folder of the documents.")
def command(docs: Path) -> None:
    """Draw every figure into docs/figures, and write docs/figures.md; say which have no records."""
    inputs, sections = Inputs(), {}
    for figure in FIGURES:
        module = figure.load()
        try:
            record = fitted(module.RECORD, module.collect(inputs), figure.name)
        except InputError as error:
            click.echo(f"{figure.name} is left out: {error}", err=True)
            continue
        content = small(pictures(module, record, ["png"], resolution=RESOLUTION)["png"])
        (docs / FOLDER).mkdir(parents=True, exist_ok=True)
        write_file(docs / FOLDER / f"{figure.name}.png", content)
        sections[figure.name] = section(figure, module.caption(record))
        click.echo(f"{figure.name}  {len(content) // 1000} kB")
    write_file(docs / DOCUMENT, page(sections).encode())


if __name__ == "__main__":
    command()
