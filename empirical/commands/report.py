"""`construct report` and `construct compare`."""

from collections.abc import Sequence
from pathlib import Path

import click

from construct.artifact import write_file
from empirical.records import load_results
from empirical.report import Table, as_csv, comparison, report

_files = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
_markdown = click.option("--markdown", type=click.Path(path_type=Path), help="Write the tables in Markdown too.")
_csv = click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the tables as CSV too.")


@click.command()
@_files
@_markdown
@_csv
def command(files: tuple[Path, ...], markdown: Path | None, csv_path: Path | None) -> None:
    """Print the tables of finished runs: FILES are folders, or results.jsonl files, of `construct evaluate`."""
    _put(report([load_results(path) for path in files]), markdown, csv_path)


@click.command()
@_files
@_markdown
@_csv
def compare(files: tuple[Path, ...], markdown: Path | None, csv_path: Path | None) -> None:
    """Put several models side by side: FILES are finished runs of `construct evaluate` on the same prompts."""
    _put(comparison([load_results(path) for path in files]), markdown, csv_path)


def _put(tables: Sequence[Table], markdown: Path | None, csv_path: Path | None) -> None:
    if markdown is not None:
        write_file(markdown, ("\n\n".join(table.markdown() for table in tables) + "\n").encode())
    if csv_path is not None:
        write_file(csv_path, as_csv(tables).encode())
    click.echo("\n\n".join(table.text() for table in tables))
