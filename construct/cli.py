"""The command `construct`: a group whose subcommands are imported only when they are called."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

import click

from construct.errors import InputError


# The group is the one place that names modules of packages above this one, as text: nothing here imports them.
@dataclass(frozen=True)
class _Entry:
    """Where a subcommand is, and its line in the help, known without importing it."""

    module: str
    summary: str


COMMANDS: Mapping[str, _Entry] = {
    "build": _Entry("verify.commands.build", "Build the weights of K tasks in superposition."),
    "superpose": _Entry("verify.commands.superpose", "Make one model of transformers that perform one task each."),
    "show": _Entry("construct.commands.show", "Show the circuit: what each head and unit reads and writes."),
    "predict": _Entry("construct.commands.predict", "Answer a prompt with the mixture of the tasks' answers."),
    "verify": _Entry("verify.commands.verify", "Prove for every prompt that the weights answer within the error."),
    "export": _Entry("verify.commands.export", "Turn weights into a stock GPT-2, a plain torch file, or ONNX."),
    "sample": _Entry("construct.commands.sample", "Draw a prompt from a mixture of a construction's tasks."),
    "suites": _Entry("construct.commands.suites", "List the named suites, or print one as a task file."),
    "train": _Entry("empirical.commands.train", "Train a small model from scratch, one task a prompt."),
    "evaluate": _Entry("empirical.commands.evaluate", "Measure task superposition in any causal language model."),
    "report": _Entry("empirical.commands.report", "Print the tables of what evaluate measured."),
    "compare": _Entry("empirical.commands.compare", "Put several models, asked the same, side by side."),
    "task-vectors": _Entry("empirical.commands.task_vectors", "Find, mix and put in a model's task vectors."),
    "mechanism": _Entry("empirical.commands.mechanism", "Look in models for what the construction does."),
    "figures": _Entry("paper_figures.commands.figures", "Draw the figures of the theory and of the comparisons."),
    "explore": _Entry("paper_figures.commands.explore", "Make a page for the browser that runs a construction."),
}


class LazyGroup(click.Group):
    """A group that knows its subcommands by name and turns unusable input into exit status 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = import_module(entry.module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, without importing a subcommand."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; what a user can cause ends in one line."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.UsageError(str(error)) from error
        except MemoryError as error:
            raise click.UsageError("out of memory: choose smaller sizes or a machine with more memory") from error


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="task-superposition", prog_name="construct")
@click.pass_context
def construct(context: click.Context) -> None:
    """Build transformer weights by hand that run K in-context tasks in superposition, and use them.

    Exit status: 0 success, 1 a claim that was refuted or not proved, 2 input that cannot be used.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """The console entry point."""
    _warn_of_namesake()
    try:
        # What a command gives to Context.exit comes back as the value, where click does not end the process itself.
        status = construct.main(standalone_mode=False)
    except click.UsageError as error:
        # click would print the usage before the line that matters.
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        # Files that a user names are named where they are read and written: what is left is the output.
        click.echo(f"error: cannot write the output: {error.strerror or error}", err=True)
        _drop_output()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    if isinstance(status, int) and status:
        sys.exit(status)


def _drop_output() -> None:
    """Let the interpreter's last flush of standard output go nowhere, rather than fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn_of_namesake() -> None:
    """PyPI's unrelated library `construct` takes the same import name."""
    try:
        metadata.version("construct")
    except metadata.PackageNotFoundError:
        return
    click.echo(
        "warning: the unrelated library `construct` is installed in the same environment and takes the same import "
        "name: install task-superposition in an environment of its own",
        err=True,
    )


if __name__ == "__main__":
    main()
