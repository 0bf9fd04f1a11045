"""`construct explore`."""

from pathlib import Path

import click

from construct.artifact import ON_VECTORS, load, theorem_of, write_file
from construct.errors import ArtifactError, InputError, PromptError
from construct.prompts import parse_prompt
from paper_figures.explore.page import MARK, explore_page


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page to write.  [default: DIRECTORY.html]")
@click.option("--prompt", type=click.Path(path_type=Path), help="A file with the prompt to begin with.")
@click.option("--force", is_flag=True, help="Replace whatever the file holds.")
def command(directory: Path, out: Path | None, prompt: Path | None, force: bool) -> None:
    """Make a page for the browser from the construction in DIRECTORY.

    One HTML file that needs no server and no network: change the examples, their order and the mixture, and see the
    evidence, the attention and the output, computed in the page from the actual weights.
    """
    if theorem_of(directory) in ON_VECTORS:
        raise InputError(
            f"{directory} holds a construction on vectors: a page is of one on tokens, such as "
            "`construct build --suite country` makes"
        )
    construction = load(directory)
    place = directory.resolve()
    target = place.with_name(f"{place.name}.html") if out is None else out
    if not force:
        _check_replaceable(target)
    start = None
    if prompt is not None:
        try:
            start = parse_prompt(prompt.read_text(encoding="utf-8"), construction.task_set)
        except (OSError, UnicodeDecodeError) as error:
            raise PromptError(f"cannot read {prompt}: {getattr(error, 'strerror', None) or error}") from error
    page = explore_page(construction, start=start)
    write_file(target, (page + "\n").encode())
    click.echo(f"{target}: open it in a browser ({len(page) / 2**20:.1f} MiB, nothing else is needed)")


def _check_replaceable(target: Path) -> None:
    """Raise ArtifactError when something stands there that is no such page."""
    try:
        if not target.exists():
            return
        text = target.read_text(encoding="utf-8", errors="replace") if target.is_file() else ""
    except OSError as error:
        raise ArtifactError(f"cannot look at {target}: {error.strerror or error}") from error
    if MARK not in text[:2000]:
        raise ArtifactError(f"{target} exists and is no such page: choose another --out, or --force to replace it")
