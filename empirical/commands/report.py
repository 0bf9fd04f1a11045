"""`construct report`."""

from collections.abc import Sequence
from pathlib import Path

import click

from construct.artifact import write_file
from empirical.records import load_results
from empirical.report import Table, as_csv, report

markdown_option = click.option("--markdown", type=click.Path(path_type=Path), help="Write the tables in Markdown too.")
csv_option = click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the tables as CSV too.")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@markdown_option
@csv_option
def command(files: tuple[Path, ...], markdown: Path | None, csv_path: Path | None) -> None:
    """Print the tables of finished runs: FILES are folders, or results.jsonl files, of `construct evaluate`."""
    put(report([load_results(path) for path in files]), markdown, csv_path)


def put(tables: Sequence[Table], markdown: Path | None, csv_path: Path | None) -> None:
    """Print tables, and write them where asked."""
    if markdown is not None:
        write_file(markdown, ("\n\n".join(table.markdown() for table in tables) + "\n").encode())
    if csv_path is not None:
        write_file(csv_path, as_csv(tables).encode())
    click.echo("\n\n".join(table.text() for table in tables))
