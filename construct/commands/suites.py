"""`construct suites`."""

import json

import click

from construct.commands.table import table
from construct.suites import SUITES, build_suite
from construct.task_file import task_set_to_json


@click.command()
@click.argument("name", required=False)
@click.option("--tasks", type=int, help="K, the number of tasks.")
@click.option("--alphabet-size", type=int, help="V, of a suite that takes any.")
@click.option("--inputs", type=int, help="n, of a suite that takes any.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of a suite with random tables.")
def command(name: str | None, tasks: int | None, alphabet_size: int | None, inputs: int | None, seed: int) -> None:
    """List the named suites; with NAME, print it as a task file to start your own from."""
    if name is None:
        rows = ((suite.name, suite.description) for suite in SUITES.values())
        click.echo(table(rows, header=("suite", "what its tasks do"), indent=""))
        return
    task_set = build_suite(name, tasks=tasks, alphabet_size=alphabet_size, inputs=inputs, seed=seed)
    click.echo(json.dumps(task_set_to_json(task_set), ensure_ascii=False))
