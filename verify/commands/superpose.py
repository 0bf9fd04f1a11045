"""`construct superpose`."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from construct.artifact import WEIGHTS, check_free, load, save, sizes
from construct.commands.table import table
from construct.errors import InputError
from construct.induction import induction_component
from construct.prompts import Layout
from construct.superpose import superpose
from construct.superpose_component import Component
from construct.superpose_network import Network, is_network, load_network
from construct.superpose_tables import cut_component, table_component
from construct.task_file import load_task_file
from construct.tasks import TaskSet
from construct.theorems import DEFAULT_ERROR, Construction
from verify.certify import file_sha256, judge, write_certificate
from verify.commands.verify import summary
from verify.superposition_levels import network_component

INDUCTION = "induction"
DEFAULT_EXAMPLES = 60


@dataclass(frozen=True)
class Source:
    """What one argument names: a construction of ours, a network, or a task file (neither of the two is given).

    Args:
        argument: as given.
        task_set: its tasks, alphabet and inputs.
        built: the two-layer construction of one task.
        network: the network.
    """

    argument: str
    task_set: TaskSet
    built: Construction | None = None
    network: Network | None = None


@click.command()
@click.argument("components", nargs=-1, required=True, metavar="COMPONENT...")
@click.option("--examples", type=int, help="m, the most examples in a prompt.  [default: as the folders allow, or 60]")
@click.option("--error", type=float, help=f"The wanted bound on |q_hat - q|_1.  [default: {DEFAULT_ERROR:g}]")
@click.option("--sharpness", type=float, help="lambda, the scale of the last two layers' scores, instead of --error.")
@click.option("--name", default="superposition", show_default=True, help="What the tasks are called together.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write.  [default: the name]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    components: tuple[str, ...],
    examples: int | None,
    error: float | None,
    sharpness: float | None,
    name: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Superpose transformers that perform one task each: they become one that performs them all.

    Each COMPONENT is a folder that `construct build` made for one task; a folder with network.json and
    weights.safetensors, a network trained elsewhere, taken as it is; a task file, whose tasks become a component each;
    or the word induction: the input that follows the first input's next occurrence.

    What is built is proved for every prompt, the components included. Exit status: 0 built, 1 not proved (nothing is
    written), 2 unusable input.
    """
    if error is not None and sharpness is not None:
        raise InputError("--error and --sharpness are both given: the one chooses the other, give one")
    if not name.strip() or Path(name).name != name:
        raise InputError(f"--name is {name!r}: expected a word that can name a folder")
    directory = out if out is not None else Path(name)
    check_free(directory)
    start = time.perf_counter()
    sources = [_source(argument) for argument in components if argument != INDUCTION]
    first = _common(sources)
    layout = Layout(len(first.alphabet), first.inputs, _examples(sources, examples))
    left = iter(sources)
    parts: list[Component] = []
    for argument in components:
        parts += [induction_component(layout)] if argument == INDUCTION else _components(next(left), layout)
    built = superpose(parts, layout, error=DEFAULT_ERROR if error is None else error, sharpness=sharpness)
    construction = built.construction(alphabet=first.alphabet, name=name, written=first.format)
    verdict = judge(construction, "")
    if not verdict.certified:
        found = [f"{v.where}: expected {v.expected}, got {v.got}" for v in verdict.proof.violations[:1]]
        reason = found[0] if found else f"the bound proved is {verdict.proof.real}, the claim {verdict.eps:g}"
        raise click.ClickException(f"the superposition is not proved ({reason}); nothing was written")
    seconds = time.perf_counter() - start
    save(construction, directory, verification="certified when built")
    write_certificate(replace(verdict, weights_sha256=file_sha256(directory / WEIGHTS)), directory)
    report = {
        "directory": str(directory),
        "theorem": construction.theorem,
        "components": [{"task": p.task.name, "depth": p.depth, "low": p.low, "high": p.high} for p in parts],
        **sizes(construction),
        "examples": layout.examples,
        "sharpness": construction.sharpness,
        "error_bound": construction.error_bound,
        "certified_bound": {"real": verdict.proof.real, **verdict.proof.rounded},
        "seconds": round(seconds, 3),
    }
    if as_json:
        click.echo(json.dumps(report))
        return
    rows = [(p.task.name, f"{p.depth} layer" + "s" * (p.depth > 1), f"{p.low:.4g}", f"{p.high:.4g}") for p in parts]
    click.echo(f"superposition of {len(parts)} components in {directory}")
    click.echo(table(rows, header=("component", "", "at most", "at its answer at least")))
    numbers = f"{report['layers']} layers, heads {report['heads']}, units {report['mlp_width']}"
    click.echo(f"{numbers}, d_model {report['d_model']}, m = {layout.examples}")
    click.echo(summary(verdict.proof, construction, verdict.seconds, verdict.eps))


def _source(argument: str) -> Source:
    path = Path(argument)
    if path.is_file():
        return Source(argument, load_task_file(path))
    if not path.is_dir():
        raise InputError(
            f"{argument!r} is no component: expected a folder of one, a task file, or the word {INDUCTION}"
        )
    if is_network(path):
        network = load_network(path)
        return Source(argument, network.task_set, network=network)
    built = load(path)
    cut_component(built)  # raises where it is no construction of one task
    return Source(argument, built.task_set, built=built)


def _common(sources: Sequence[Source]) -> TaskSet:
    """The first task set; raises InputError unless all have the same alphabet and inputs."""
    if not sources:
        raise InputError(f"{INDUCTION} alone has no alphabet: give a folder or a task file beside it")
    first = sources[0].task_set
    for source in sources[1:]:
        for what, one, other in (
            ("alphabet", source.task_set.alphabet, first.alphabet),
            ("number of inputs", source.task_set.inputs, first.inputs),
        ):
            if one != other:
                raise InputError(
                    f"{source.argument} and {sources[0].argument} differ in the {what}: {one!r:.60} and {other!r:.60}; "
                    "components share it"
                )
    return first


def _examples(sources: Sequence[Source], given: int | None) -> int:
    """m: as given, or the most that every folder of a construction allows."""
    built = [source.built.layout.examples for source in sources if source.built is not None]
    examples = min(built, default=DEFAULT_EXAMPLES) if given is None else given
    if examples < 1:
        raise InputError(f"--examples is {examples}: expected at least 1")
    return examples


def _components(source: Source, layout: Layout) -> list[Component]:
    if source.built is not None:
        return [cut_component(source.built)]
    if source.network is None:
        return [table_component(task, layout) for task in source.task_set.tasks]
    component = network_component(source.network, layout)
    if isinstance(component, Component):
        return [component]
    raise click.ClickException(
        f"{source.argument} does not perform its task: {component.where}: expected {component.expected}, "
        f"got {component.got}; nothing was written"
    )
