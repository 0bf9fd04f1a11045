"""`construct show`."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from construct.artifact import ON_VECTORS, SEVEN_VECTORS, load, sizes, theorem_of, write_file
from construct.commands.table import table
from construct.errors import InputError
from construct.ground_truth import ground_truth
from construct.seven_layer import STEPS, THEOREM
from construct.seven_vectors import VECTOR_STEPS
from construct.theorems import Circuit, Construction
from construct.vector_artifact import load_vectors
from construct.vector_theorem import VectorConstruction

ARGUMENTS = {THEOREM: STEPS, SEVEN_VECTORS: VECTOR_STEPS}
"""The constructions with one step a layer, and their steps."""

SHOWN = 12
"""Circuits of one layer and kind that are listed before the rest is only counted."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--all", "show_all", is_flag=True, help="List every circuit, however many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--ground-truth",
    "answer_key",
    is_flag=True,
    help="Print what every head and unit does, in TransformerLens names, as one JSON object.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the ground truth to this file.")
def command(directory: Path, show_all: bool, as_json: bool, answer_key: bool, out: Path | None) -> None:
    """Show the circuit of the construction in DIRECTORY, layer by layer.

    --ground-truth is an answer key for interpretability tools: heads, units, subspaces, which of them serve which
    task, and what ablations and patches do.
    """
    if out is not None and not answer_key:
        raise InputError("--out goes with --ground-truth: everything else is printed")
    vectors = theorem_of(directory) in ON_VECTORS
    if answer_key:
        if vectors:
            raise InputError(
                f"{directory} holds a construction on vectors: a ground truth is of one on tokens, such as "
                "`construct build --suite country` makes"
            )
        _write_ground_truth(load(directory), out)
        return
    construction = load_vectors(directory) if vectors else load(directory)
    if as_json:
        subspaces = {name: [space.start, space.stop] for name, space in construction.stream.items()}
        circuits = [asdict(circuit) for circuit in construction.circuits]
        data = {"theorem": construction.theorem, **sizes(construction), "sharpness": construction.sharpness}
        data |= {"error_bound": construction.error_bound, "subspaces": subspaces, "circuits": circuits}
        click.echo(json.dumps(data))
        return
    click.echo(_text(construction, show_all=show_all))


def _write_ground_truth(construction: Construction, out: Path | None) -> None:
    text = json.dumps(ground_truth(construction), ensure_ascii=False, indent=1)
    if out is None:
        click.echo(text)
        return
    write_file(out, (text + "\n").encode())
    click.echo(f"the ground truth of {construction.task_set.name!r} is in {out}")


def _text(construction: Construction | VectorConstruction, *, show_all: bool) -> str:
    layout, bound = construction.layout, construction.error_bound
    size = (
        f"d={construction.layout.dim}"
        if isinstance(construction, VectorConstruction)
        else f"V={construction.layout.alphabet_size}"
    )
    parts = [
        f"{construction.theorem} construction of {construction.task_set.name!r}: K={len(construction.task_set.tasks)}, "
        f"{size}, n={layout.inputs}, m={layout.examples}; sharpness {construction.sharpness:g}, "
        + ("no error bound" if bound is None else f"error bound {bound:.2e}"),
        f"residual stream, d_model = {construction.stream.d_model}:\n"
        + table(
            (
                (name, f"{space.start} to {space.stop - 1}" if space.size else "empty")
                for name, space in construction.stream.items()
            ),
            header=("subspace", "coordinates"),
        ),
    ]
    if construction.theorem in ARGUMENTS:
        parts.insert(1, f"the argument, one step a layer:\n{table(_steps(construction))}")
    layers = sorted({circuit.layer for circuit in construction.circuits})
    for layer in layers:
        for kind in ("attention", "mlp"):
            circuits = [circuit for circuit in construction.circuits if (circuit.layer, circuit.kind) == (layer, kind)]
            if not circuits:
                continue
            parts.append(_section(layer, kind, circuits, show_all=show_all))
    return "\n\n".join(parts)


def _steps(construction: Construction | VectorConstruction) -> list[tuple[str, ...]]:
    """Layer, step, what it takes, and what it does, of the seven-layer construction."""
    weights = construction.weights
    rows: list[tuple[str, ...]] = []
    for number, (name, says) in enumerate(ARGUMENTS[construction.theorem]):
        heads, units = weights.heads[number], weights.mlp_width[number]
        takes = [f"{heads} head(s)"] * bool(heads) + [f"{units} unit(s)"] * bool(units)
        rows.append((str(number + 1), name, " + ".join(takes), says))
    return rows


def _section(layer: int, kind: str, circuits: list[Circuit], *, show_all: bool) -> str:
    shown = circuits if show_all or len(circuits) <= SHOWN else circuits[:SHOWN]
    count = sum(circuit.units for circuit in circuits)
    title = f"layer {layer}, {kind}: {count} " + ("head(s)" if kind == "attention" else "unit(s)")
    rows = (
        (
            circuit.name,
            circuit.units,
            " ".join(circuit.reads),
            " ".join(circuit.writes),
            f"{circuit.margin:g}",
            circuit.says,
        )
        for circuit in shown
    )
    header = ("head" if kind == "attention" else "circuit", "units", "reads", "writes", "margin", "what it does")
    rest = len(circuits) - len(shown)
    return f"{title}\n{table(rows, header=header)}" + (f"\n  and {rest} more: --all lists them" if rest else "")
