"""Work out the certificate of the artifact in a folder, compare it with the one given, and say so: the command."""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from verify.check.exact import Number, RefusedError, require
from verify.check.files import Task, UnreadableError, most_consistent, read_bytes, read_json, read_task, read_weights
from verify.check.formats import FORMATS, check_exact, rounded_bound
from verify.check.lemmas import add_up, sum_answer, sum_evidence, table_losses
from verify.check.model import Model

TEXT = object()
"""Stands for any text in what a certificate should be."""

ABOVE = 1 + Fraction(1, 10**9), Fraction(1, 10**280)
"""A figure may exceed what is found by this, relatively and absolutely: the prover rounds up."""

PAIRS = 4_000_000
"""With more pairs of positions the prover's leaks are looser than what is found here."""


def compare(claimed: Any, found: Any, where: str, *, loose: bool, most: Fraction = ABOVE[1]) -> None:
    """Refuse a claim that is not, in all its parts, of the form and the size of what was found.

    A figure (a Fraction) may be a little above what was found; a loose one up to twice the largest of its list, `most`.
    """
    if isinstance(found, dict):
        require(type(claimed) is dict and claimed.keys() == found.keys(), f"{where} has not just {sorted(found)}")
        for name, part in found.items():
            compare(claimed[name], part, f"{where}.{name}", loose=loose)
    elif isinstance(found, list):
        require(type(claimed) is list and len(claimed) == len(found), f"{where} is no list of {len(found)}")
        most = max([most, *(part for part in found if isinstance(part, Fraction))])
        for place, part in enumerate(found):
            compare(claimed[place], part, f"{where}[{place}]", loose=loose, most=most)
    elif isinstance(found, Fraction):
        near(claimed, found, where, 2 * most if loose else 0)
    elif found is TEXT:
        require(type(claimed) is str and claimed, f"{where} is no text")
    else:
        same = type(claimed) is type(found) and claimed == found
        require(same, f"{where} is {claimed!r:.60}, but {found!r:.60} was found")


def near(claimed: Any, found: Fraction, what: str, more: Number = 0) -> None:
    """Refuse a figure that is not what was found, or hardly (or by `more`) above it."""
    good = type(claimed) is float and found <= Fraction(claimed) <= found * ABOVE[0] + ABOVE[1] + more
    require(good, f"{what} is {claimed!r:.60}, but {float(found)!r} was found")


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
        [tensors[f"layers.{layer}.{name}"].shape for layer in (0, 1)] for name in ("attention.query", "mlp.w_in")
    )
    prompts = (model.examples * (model.inputs + 1) + model.inputs) * math.log10(model.alphabet)
    near = type(claimed_prompts) is float and abs(claimed_prompts - prompts) < 0.00051
    return {
        "tasks": len(model.tasks),
        "alphabet": model.alphabet,
        "inputs": model.inputs,
        "examples": model.examples,
        "log10_prompts": claimed_prompts if near else prompts,
        "layers": 2,
        "heads": [shape[0] for shape in queries],
        "d_model": queries[0][1],
        "mlp_width": [shape[1] for shape in widths],
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "nonzero_parameters": sum(len(row) for tensor in tensors.values() for row in tensor.rows),
    }


def read_model(described: Any, content: bytes) -> Model:
    """The model that construction.json describes, with its weights."""
    task_set, evidence = described["task_set"], described["subspaces"]["evidence"]
    ids = {token: number for number, token in enumerate(task_set["alphabet"])}
    sizes = (len(ids), task_set["inputs"], described["layout"]["examples"])
    numbers = (*sizes, evidence["start"], evidence["size"])
    require(all(type(number) is int for number in numbers) and min(sizes) >= 1, "construction.json has no sizes")
    require(len(ids) == len(task_set["alphabet"]), "the alphabet holds a token twice")
    tasks: list[Task] = [read_task(task, ids, task_set["inputs"]) for task in task_set["tasks"]]
    place = range(evidence["start"], evidence["start"] + evidence["size"])
    return Model(read_weights(content, described["tensors"]), tasks, sizes, place)


def check(certificate: Path, directory: Path, say: Callable[[str], object]) -> None:
    """Check the certificate of the artifact in a folder. Raises whatever hinders it."""
    claimed = read_json(read_bytes(certificate), "the certificate")
    require(type(claimed) is dict, "the certificate is no object")
    body = {name: value for name, value in claimed.items() if name != "certificate_sha256"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    require(claimed.get("certificate_sha256") == digest, "the certificate was changed: its digest is another")
    content = read_bytes(directory / "weights.safetensors")
    sha256 = hashlib.sha256(content).hexdigest()
    require(claimed.get("weights_sha256") == sha256, "the certificate is of other weights")
    described = read_json(read_bytes(directory / "construction.json"), "construction.json")
    require(claimed.get("theorem") == "two-layer", f"{claimed.get('theorem')!r:.60} is no theorem that is checked here")
    say("certificate: its digest, and that of the weights, are right")
    model = read_model(described, content)
    say(f"model: {len(model.heads)} read heads, what they attend to and write; {sum(map(len, model.units))} units")

    lemmas, raised = find_lemmas(model)
    found = dict.fromkeys(("claim", "arithmetic"), TEXT) | {
        "format": "task-superposition certificate",
        "format_version": 1,
        "certified": True,
        "theorem": "two-layer",
        "weights_sha256": sha256,
        "certificate_sha256": digest,
        "sizes": find_sizes(model, claimed["sizes"]["log10_prompts"]),
        "error_bound": {name: claimed["error_bound"].get(name) for name in ("real", *FORMATS)},
        "refusals": {form: TEXT for form in FORMATS if claimed["error_bound"].get(form) is None},
        "lemmas": [{"name": name, "claim": TEXT, "figures": part, "holds": True} for name, part in lemmas.items()],
        "violations": [],
        "versions": dict.fromkeys(("task-superposition", "numpy", "python"), TEXT),
        "eps": claimed["eps"],
        "seconds": claimed["seconds"],
    }
    stated = claimed["lemmas"][-1]["figures"]["bounds"]  # checked below
    lemmas["superposition"]["bounds"] = stated
    compare(claimed, found, "certificate", loose=(model.examples + 1) * len(model.place) > PAIRS)
    say(f"lemmas: every unit of {len(model.tasks)} tasks against their rows; nothing else is written anywhere")

    figures = {lemma["name"]: lemma["figures"] for lemma in claimed["lemmas"]}
    real = add_up(figures, raised)
    require(len(stated) == len(real), "there is not one bound for each number of examples")
    for shown, bound in enumerate(real):
        near(stated[shown], bound, f"the bound after {shown} examples")
    bounds = claimed["error_bound"]
    require(type(bounds["real"]) is type(claimed["eps"]) is float, "the bound or eps is no number")
    require(type(claimed["seconds"]) is float and claimed["seconds"] >= 0, "the time is none")
    require(max(stated) <= bounds["real"] <= claimed["eps"], "the bound is below what was found, or above eps")
    near(bounds["real"], max(real), "the bound in real arithmetic")
    say(f"real: |q_hat - q|_1 <= {bounds['real']:.3g} for every prompt")
    for form in FORMATS:
        if bounds[form] is not None:
            check_exact(model, form, lemmas["average"]["leak"])
            near(bounds[form], rounded_bound(model, form, real, most_consistent(model.tasks)), f"the bound in {form}")
        say(f"{form}: " + ("no claim" if bounds[form] is None else f"<= {bounds[form]:.3g}"))


def main(arguments: Sequence[str]) -> int:
    """The command. Returns the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m verify.check certificate.json DIR\n")
        return 2
    try:
        check(Path(arguments[0]), Path(arguments[1]), lambda line: sys.stdout.write(line + "\n"))
    except UnreadableError as error:
        sys.stdout.write(f"UNREADABLE: {error}\n")
        return 2
    except RefusedError as error:
        sys.stdout.write(f"REFUSED: {error}\n")
        return 1
    except Exception as error:  # noqa: BLE001 - whatever went wrong, nothing was verified
        sys.stdout.write(f"REFUSED: the check broke off: {type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write("VERIFIED\n")
    return 0
