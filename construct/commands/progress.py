"""A percentage on the terminal for long work."""

import sys
from collections.abc import Callable

import click


def progress_line() -> Callable[[float], None] | None:
    """Something to tell the share that is done, from 0 to 1; None where standard error is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None

    def tell(share: float) -> None:
        click.echo(f"\r{100 * share:3.0f} %" + ("\r     \r" if share >= 1 else ""), nl=False, err=True)

    return tell
