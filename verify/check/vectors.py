"""Vectors: a certificate of the three-layer construction, from the form of its weights and the numbers left free.

To be read after this: vectors_form.py (what the weights are), vectors_bounds.py (what follows).
"""

import math
from collections.abc import Callable
from typing import Any

from verify.check.compare import TEXT, compare, frame
from verify.check.exact import require
from verify.check.files import Tensor, read_weights
from verify.check.vectors_bounds import Bounds, pin
from verify.check.vectors_form import Claim, Form, read_claim

FORMATS = ("float32", "bfloat16", "float16")


def find_sizes(claim: Claim, tensors: dict[str, Tensor], depth: int) -> dict[str, Any]:
    """The sizes, as the weights of so many layers have them."""
    k, d, n, m, *_, width = claim.size
    layers = range(depth)
    return {
        "tasks": k,
        "dim": d,
        "inputs": n,
        "examples": m,
        "fingerprint": width,
        "layers": depth,
        "heads": [tensors[f"layers.{layer}.attention.query"].shape[0] for layer in layers],
        "d_model": tensors["embedding.token"].shape[1],
        "mlp_width": [tensors[f"layers.{layer}.mlp.w_in"].shape[1] for layer in layers],
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "nonzero_parameters": sum(len(row) for tensor in tensors.values() for row in tensor.rows),
    }


def check_vectors(claimed: dict[str, Any], described: Any, content: bytes, say: Callable[[str], object]) -> None:
    """Check a certificate of the construction on vectors. Raises whatever hinders it."""
    claim = read_claim(described)
    tensors = read_weights(content, described["tensors"])
    check_three_layers(claimed, claim, tensors, find_sizes(claim, tensors, 3), {}, say)


def check_three_layers(
    claimed: dict[str, Any],
    claim: Claim,
    tensors: dict[str, Tensor],
    sizes: dict[str, Any],
    before: dict[str, dict[str, Any]],
    say: Callable[[str], object],
) -> None:
    """Check what is claimed of the three layers; `before` are lemmas that precede theirs, with the figures found."""
    free = Form(claim, tensors).check()
    say(f"model: every entry of {len(tensors)} tensors is that of the three-layer construction, or a free number")
    bounds = Bounds(claim, free)
    lemmas = bounds.lemmas()
    found = frame(claimed, sizes, {name: {} for name in before | lemmas}, FORMATS)
    figures_of = [lemma["figures"] for lemma in claimed["lemmas"]]
    own = [*before.values(), *figures_of[len(before) :]]
    found["lemmas"] = [part | {"figures": figures} for part, figures in zip(found["lemmas"], own, strict=True)]
    found["domain"] = claim.domain | {"distance": TEXT}
    compare(claimed, found, "certificate")
    stated = figures_of[len(before) :]
    for figures, (name, values) in zip(stated, lemmas.items(), strict=True):
        require(type(figures) is dict and figures.keys() == values.keys(), f"{name} has not just {sorted(values)}")
        for figure, value in values.items():
            pin(figures[figure], value, f"{name}.{figure}")
    say(f"lemmas: what each of {claim.size.tasks} tasks finds and weighs, for every count")
    real, single_bound = claimed["error_bound"]["real"], claimed["error_bound"]["float32"]
    require(type(claimed["eps"]) is type(real) is float and real <= claimed["eps"], "the bound is above eps")
    require(real == max(stated[-1]["bounds"]), "the bound is not the largest by the number of examples")
    require(type(claimed["seconds"]) is float and claimed["seconds"] >= 0, "the time is none")
    say(f"real: |q_hat - q|_max <= {real:.3g} for every prompt in the domain")
    require(all(claimed["error_bound"][form] is None for form in FORMATS[1:]), "narrow formats are not proved")
    if single_bound is not None:
        pin(single_bound, bounds.float32(), "the bound in float32")
    say("float32: " + ("no claim" if single_bound is None else f"<= {single_bound:.3g}"))
