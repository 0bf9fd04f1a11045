"""The two-layer theorem: its lemmas, its sizes and its bounds, worked out on the weights and compared."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from verify.check.compare import check_real, compare, frame, near
from verify.check.exact import require
from verify.check.files import Task, most_consistent, read_task, read_weights
from verify.check.formats import FORMATS, check_exact, rounded_bound
from verify.check.lemmas import add_up, sum_answer, sum_evidence, table_losses
from verify.check.model import Model

PAIRS = 4_000_000
"""With more pairs of positions the prover's leaks are looser than what is found here."""


def find_lemmas(model: Model) -> tuple[dict[str, dict[str, Any]], int]:
    """Check every lemma. Returns the least figures that hold, by lemma, and how many sums a leak can raise from 0."""
    model.check_form()
    average = model.average_leaks()
    losses: list[list[list[Fraction]]] = [[], []]
    raised, slopes = 0, []
    for layer, role in ((0, "y"), (1, "eq")):
        of: dict[int, list[Any]] = {at: [] for at in model.evidence}
        for unit in model.units[layer]:
            for at in unit.out.keys() & of.keys() if layer == 0 else unit.column.keys() & of.keys():
                of[at] += [unit] * bool(unit.out)
        for task, units in zip(model.tasks, of.values(), strict=True):
            if task.values is None:
                loss = table_losses(model, task, units, role)
            elif layer == 0:
                loss, more = sum_evidence(model, task, units)
                raised += more
            else:
                loss = sum_answer(model, task, units)
            # Where no inputs reach a sum of a row, the units of a sum are never on.
            off = bool(units) and task.values is not None and task.sums.isdisjoint(s for (s, *_) in task.rows)
            slopes.append(Fraction(not off))
            losses[layer].append([Fraction(loss.get(h, 0)) for h in range(len(model.heads))])
    nothing = [Fraction(0)] * len(model.tasks)
    figures: dict[str, dict[str, Any]] = {
        "reads": {name: [getattr(head, name) for head in model.heads] for name in ("targets", "leak_eq", "leak_y")},
        "evidence": {"error": nothing, "per_head": losses[0]},
        "average": {"leak": average, "uneven": Fraction(0)},
        "answer": {"error": nothing, "per_head": losses[1], "slope": slopes[len(nothing) :]},
        "superposition": {"bounds": nothing, "together": most_consistent(model.tasks), "rest": Fraction(0)},
    }
    return figures, raised


def find_sizes(model: Model, claimed_prompts: object) -> dict[str, Any]:
    """The sizes, as the weights have them; log10 of the number of prompts, that has few digits, if it is near."""
    tensors = model.tensors
    queries, widths = (
        [tensors[f"layers.{layer}.{name}"].shape for layer in range(model.depth)]
        for name in ("attention.query", "mlp.w_in")
    )
    prompts = (model.examples * (model.inputs + 1) + model.inputs) * math.log10(model.alphabet)
    near = type(claimed_prompts) is float and abs(claimed_prompts - prompts) < 0.00051
    return {
        "tasks": len(model.tasks),
        "alphabet": model.alphabet,
        "inputs": model.inputs,
        "examples": model.examples,
        "log10_prompts": claimed_prompts if near else prompts,
        "layers": model.depth,
        "heads": [shape[0] for shape in queries],
        "d_model": queries[0][1],
        "mlp_width": [shape[1] for shape in widths],
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "nonzero_parameters": sum(len(row) for tensor in tensors.values() for row in tensor.rows),
    }


def read_model(described: Any, content: bytes, *, depth: int = 2, reading: tuple[int, ...] = (0,)) -> Model:
    """The model that construction.json describes, with its weights."""
    task_set, evidence = described["task_set"], described["subspaces"]["evidence"]
    ids = {token: number for number, token in enumerate(task_set["alphabet"])}
    sizes = (len(ids), task_set["inputs"], described["layout"]["examples"])
    numbers = (*sizes, evidence["start"], evidence["size"])
    require(all(type(number) is int for number in numbers) and min(sizes) >= 1, "construction.json has no sizes")
    require(len(ids) == len(task_set["alphabet"]), "the alphabet holds a token twice")
    tasks: list[Task] = [read_task(task, ids, task_set["inputs"]) for task in task_set["tasks"]]
    place = range(evidence["start"], evidence["start"] + evidence["size"])
    return Model(read_weights(content, described["tensors"]), tasks, sizes, place, depth=depth, reading=reading)


def check_two_layer(claimed: dict[str, Any], described: Any, content: bytes, say: Callable[[str], object]) -> None:
    """Check a certificate of the two-layer construction. Raises whatever hinders it."""
    model = read_model(described, content)
    say(f"model: {len(model.heads)} read heads, what they attend to and write; {sum(map(len, model.units))} units")
    lemmas, raised = find_lemmas(model)
    stated = claimed["lemmas"][-1]["figures"]["bounds"]  # checked below
    lemmas["superposition"]["bounds"] = stated
    found = frame(claimed, find_sizes(model, claimed["sizes"]["log10_prompts"]), lemmas, list(FORMATS))
    compare(claimed, found, "certificate", loose=(model.examples + 1) * len(model.place) > PAIRS)
    say(f"lemmas: every unit of {len(model.tasks)} tasks against their rows; nothing else is written anywhere")

    real = add_up({lemma["name"]: lemma["figures"] for lemma in claimed["lemmas"]}, raised)
    check_real(claimed, stated, real)
    bounds = claimed["error_bound"]
    say(f"real: |q_hat - q|_1 <= {bounds['real']:.3g} for every prompt")
    for form in FORMATS:
        if bounds[form] is not None:
            check_exact(model, form, lemmas["average"]["leak"])
            near(bounds[form], rounded_bound(model, form, real, most_consistent(model.tasks)), f"the bound in {form}")
        say(f"{form}: " + ("no claim" if bounds[form] is None else f"<= {bounds[form]:.3g}"))
