"""`construct compare`."""

from pathlib import Path

import click

from empirical.commands.report import csv_option, markdown_option, put
from empirical.report import comparison
from empirical.side_by_side import results_of


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@markdown_option
@csv_option
def command(files: tuple[Path, ...], markdown: Path | None, csv_path: Path | None) -> None:
    """Put several models side by side: FILES are finished runs of `construct evaluate` on the same prompts.

    A run of `construct train` stands for its own evaluation. A construction's folder is asked here what the others
    were asked; the word `construction`, where no folder is called so, stands for the two-layer construction of a
    trained model's tasks.
    """
    put(comparison(results_of(files)), markdown, csv_path)
