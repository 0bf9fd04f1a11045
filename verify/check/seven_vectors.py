"""The seven layers on vectors: they compute, number by number, what three layers do, and those are checked.

To be read after vectors.py. A layer without heads, or without units, adds nothing. Two MLPs in succession are one with
the units of both, if the second reads nothing that the first writes. The order of units changes no exact sum, and the
bounds as executed hold for sums in any order.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from verify.check.compare import near
from verify.check.exact import Row, require
from verify.check.files import Tensor, read_weights
from verify.check.vectors import check_three_layers, find_sizes
from verify.check.vectors_form import Claim, read_claim

ATTENDING, THINKING = (0, 3, 6), (1, 2, 4, 5)
"""The layers that have heads, and those that have units, from 0."""

HEAD_PARTS, UNIT_PARTS = ("query", "key", "value", "output"), ("w_in", "bias_in", "w_out", "bias_out")


def check_seven_vectors(claimed: dict[str, Any], described: Any, content: bytes, say: Callable[[str], object]) -> None:
    """Check a certificate of the seven layers on vectors. Raises whatever hinders it."""
    claim = read_claim(described)
    tensors = read_weights(content, described["tensors"])
    sizes = find_sizes(claim, tensors, 7)
    k, d, n, m, *_ = claim.size
    allowed = 24 * (max(d, k) + math.log2(m * n))
    heads, d_model = sizes["heads"], sizes["d_model"]
    require(max(heads) <= k and d_model <= allowed, "the model is beyond the budget: K heads a layer, and its width")
    stated = claimed["lemmas"][0]["figures"]["allowed"]
    near(stated, Fraction(allowed) * (1 - Fraction(1, 2**50)), "the width that is allowed")
    before = {"budget": {"heads": heads, "d_model": d_model, "allowed": stated}, "steps": {"layers": 7}}
    three = gather(claim, tensors)
    say("steps: seven layers, one step each, compute what three do")
    check_three_layers(claimed, claim, three, sizes, before, say)


def gather(claim: Claim, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the three layers. Refuses seven that do not compute the same."""
    for layer in THINKING:
        require(tensors[f"layers.{layer}.attention.query"].shape[0] == 0, f"layer {layer + 1} has heads")
    for layer in ATTENDING:
        silent = (
            tensors[f"layers.{layer}.mlp.w_in"].shape[1] == 0 and not tensors[f"layers.{layer}.mlp.bias_out"].rows[0]
        )
        require(silent, f"layer {layer + 1} has units or constants")
    made = {name: tensors[name] for name in ("embedding.token", "embedding.position", "unembedding")}
    for new, layer in enumerate(ATTENDING):
        for part in HEAD_PARTS:
            made[f"layers.{new}.attention.{part}"] = tensors[f"layers.{layer}.attention.{part}"]
    made |= {f"layers.2.mlp.{part}": tensor for part, tensor in _mlp(tensors, 6).items()}
    k, m = claim.size.tasks, claim.size.examples
    counts = [tensors[f"layers.{layer}.mlp.w_in"].shape[1] for layer in THINKING]
    require(counts[2:] == [k, k * m], "there is not one unit of agreement a task, and one of its logarithm a count")
    own = [unit for task in range(k) for unit in (task, *range(k + task * m, k + (task + 1) * m))]
    for new, (one, other, order) in enumerate(((1, 2, list(range(counts[0] + counts[1]))), (4, 5, own))):
        merged = merge(_mlp(tensors, one), _mlp(tensors, other), order)
        made |= {f"layers.{new}.mlp.{part}": tensor for part, tensor in merged.items()}
    names = {f"layers.{layer}.attention.{part}" for layer in range(7) for part in HEAD_PARTS}
    names |= {f"layers.{layer}.mlp.{part}" for layer in range(7) for part in UNIT_PARTS}
    names |= {"embedding.token", "embedding.position", "unembedding"}
    require(tensors.keys() == names, "there are tensors that the form does not have")
    return made


def _mlp(tensors: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    return {part: tensors[f"layers.{layer}.mlp.{part}"] for part in UNIT_PARTS}


def merge(one: dict[str, Tensor], other: dict[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    """One MLP with the units of both, in the order given. Refuses a second that reads what the first writes."""
    count, d_model = one["w_in"].shape[1], one["w_in"].shape[0]
    written = {at for row in (*one["w_out"].rows, *one["bias_out"].rows) for at in row}
    also = {at for row in (*other["w_out"].rows, *other["bias_out"].rows) for at in row}
    read = {at for at, row in enumerate(other["w_in"].rows) if row}
    require(not written & (read | also), "a layer reads, or writes to, what the layer before it writes")
    place = {unit: at for at, unit in enumerate(order)}

    def joined(first: Row, second: Row) -> Row:
        return {place[unit]: value for unit, value in first.items()} | {
            place[count + unit]: value for unit, value in second.items()
        }

    outward = [*one["w_out"].rows, *other["w_out"].rows]
    w_in = [joined(*rows) for rows in zip(one["w_in"].rows, other["w_in"].rows, strict=True)]
    return {
        "w_in": Tensor((d_model, len(order)), w_in),
        "bias_in": Tensor((len(order),), [joined(one["bias_in"].rows[0], other["bias_in"].rows[0])]),
        "w_out": Tensor((len(order), d_model), [outward[unit] for unit in order]),
        "bias_out": Tensor((d_model,), [one["bias_out"].rows[0] | other["bias_out"].rows[0]]),
    }
