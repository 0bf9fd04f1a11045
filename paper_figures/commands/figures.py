"""`construct figures`."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from construct.errors import InputError
from paper_figures.registry import FIGURES, Entry, chosen


@click.command()
@click.argument("names", nargs=-1)
@click.option("--list", "list_them", is_flag=True, help="Say what each figure shows, from what, and how long it takes.")
@click.option("--all", "all_of_them", is_flag=True, help="Draw every figure.")
@click.option("--theory", is_flag=True, help="Draw the figures that need no records of models.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("figures"), help="Folder.", show_default=True)
@click.option("--format", "formats", default="pdf,svg,png", help="Of pdf, svg, png.", show_default=True)
@click.option("--artifact", type=click.Path(path_type=Path), help="A construction's folder; else one is built.")
@click.option("--prompt", type=click.Path(path_type=Path), help="A file with the prompt to draw.")
@click.option(
    "--records", type=click.Path(path_type=Path), help="Folder of records; else this checkout's records, benchmarks."
)
@click.option("--data", type=click.Path(path_type=Path), help="Draw again from the NAME.json beside a figure.")
def command(
    names: tuple[str, ...],
    list_them: bool,
    all_of_them: bool,
    theory: bool,
    out: Path,
    formats: str,
    artifact: Path | None,
    prompt: Path | None,
    records: Path | None,
    data: Path | None,
) -> None:
    """Draw figures by NAME: of the theory, and of models compared.

    Each comes as a picture in every format asked for, with its data (NAME.json) and its caption (NAME.txt). The same
    data give the same bytes.
    """
    if list_them:
        click.echo("\n".join(_listed()))
        return
    endings = _formats(formats)
    if data is not None:
        if all_of_them or theory or artifact or prompt or records:
            raise InputError("--data says all that is drawn: leave --all, --theory and the other inputs out")
        from paper_figures.make import redraw

        _say_written(redraw(data, names, out, endings))
        return
    _draw(_wanted(names, all_of_them=all_of_them, theory=theory), artifact, prompt, records, out, endings)


def _draw(
    wanted: Sequence[Entry],
    artifact: Path | None,
    prompt: Path | None,
    records: Path | None,
    out: Path,
    endings: Sequence[str],
) -> None:
    """Draw each; what cannot be drawn does not keep the others from it, and is said at the end."""
    from paper_figures.inputs import Inputs
    from paper_figures.make import make

    report = _Progress(len(wanted))
    inputs = Inputs(artifact, prompt, records, report=report.share)
    failed: list[str] = []
    for figure in wanted:
        report.begin(figure)
        try:
            paths = make(figure, inputs, out, endings)
        except InputError as error:
            report.end(figure, ", not drawn")
            failed.append(f"{figure.name}: {error}")
        else:
            report.end(figure)
            _say_written(paths)
    if failed:
        raise InputError("\n       ".join(failed))


def _listed() -> list[str]:
    lines = []
    for figure in FIGURES:
        lines += [f"{figure.name}  ({figure.kind}, about {figure.seconds} s)", f"  shows {figure.shows}"]
        lines.append(f"  from {figure.source}")
    return lines


def _wanted(names: Sequence[str], *, all_of_them: bool, theory: bool) -> list[Entry]:
    if (bool(names), all_of_them, theory).count(True) != 1:
        raise InputError("name some figures, or give --all or --theory, one of the three; --list says which there are")
    if names:
        return chosen(names)
    return [figure for figure in FIGURES if all_of_them or figure.kind == "theory"]


def _formats(text: str) -> list[str]:
    from paper_figures.style import METADATA

    endings = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for ending in endings:
        if ending not in METADATA:
            raise InputError(f"--format has {ending!r}: choose from {', '.join(METADATA)}, with commas between")
    return endings


def _say_written(paths: Sequence[Path]) -> None:
    for path in paths:
        click.echo(str(path))


class _Progress:
    """On a terminal, lines on standard error: which figure of how many, the share done, and the time at the end."""

    def __init__(self, total: int) -> None:
        self._total, self._number, self._started = total, 0, 0.0
        self._watched = sys.stderr is not None and sys.stderr.isatty()

    def begin(self, figure: Entry) -> None:
        self._number += 1
        self._started = time.monotonic()
        self.share(figure.name, 0.0)

    def share(self, name: str, share: float) -> None:
        self._tell(f"{name}  {100 * share:3.0f} %", end="")

    def end(self, figure: Entry, remark: str = "") -> None:
        self._tell(f"{figure.name}  {time.monotonic() - self._started:.1f} s{remark}", end="\n")

    def _tell(self, text: str, *, end: str) -> None:
        if self._watched:
            click.echo(f"\r\033[K[{self._number}/{self._total}] {text}{end}", nl=False, err=True)
