"""The bound of the program as executed in float32, bfloat16 or float16, in any order of summation, on any device.

Assumed of the machine (nothing else is):
  A1 weights and activations are stored in the format, products are summed in float32 (in float32 itself: no TF32),
     in any order, with or without fused multiply-add; a bias is added before the result is stored;
  A2 the softmax takes exp(score - largest score), exp(0) = 1, with a relative error of at most 2^-10 elsewhere, and
     divides by the sum with a relative error of at most 2 units;
  A3 conversions round to nearest.
u is the unit roundoff of the format (2^-24, 2^-8, 2^-11), v = 2^-24 that of the sums.

Checked on the weights: everything that enters a score lies on one dyadic grid, with sums of absolute values below
2^24 steps, and queries, keys and scores fit the format, so the computed scores are the exact ones; and the leaks
times what they multiply are below half a unit, so that a read is exactly the target's value and the sum of the
average's weights exactly m'. Then integers stay exact, and three things round: the average, the answer's unit and
the sum of the answers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from construct.theorems import Construction
from construct.transformer import AttentionWeights
from verify.attention import AverageFacts, HeadFacts
from verify.boxes import Roles
from verify.exact import INFLATION, Float, largest, lowest_bit
from verify.linear import Layer

V = 2.0**-24
BITS = {"float32": 24, "bfloat16": 8, "float16": 11}
SMALLEST = {"float32": -149, "bfloat16": -133, "float16": -24}
"""The exponent of the smallest positive number of each format."""

READ = 2.0**-28
"""Leak times the range of what it multiplies: below a quarter of half a unit of the accumulation."""


@dataclass(frozen=True)
class Rounded:
    """The bound in one format, or why there is none.

    Args:
        bound: on |q_hat - q|_1 over all prompts; None where no claim is made.
        refusal: why not, empty where there is a claim.
    """

    bound: float | None
    refusal: str = ""


def rounded_bounds(
    construction: Construction,
    roles: Roles,
    heads: Sequence[HeadFacts],
    layers: tuple[Layer, Layer],
    average: AverageFacts,
    real: Float,
    together: int,
) -> dict[str, Rounded]:
    """The bound in each format.

    Args:
        construction: the construction.
        roles: its positions.
        heads: Lemma 1.
        layers: the two MLPs.
        average: Lemma 3.
        real: the bound in real arithmetic after m' = 0 .. m examples.
        together: the most tasks that one example is consistent with.
    """
    reasons = _reasons(construction, roles, heads, layers, average)
    evidence = construction.stream["evidence"]
    steps = [_answer_steps(layers[1], at) for at in range(evidence.start, evidence.stop)]
    return {
        form: Rounded(None, reasons[form])
        if reasons[form]
        else Rounded(_bound(construction, form, steps, real, together))
        for form in BITS
    }


def _bound(construction: Construction, form: str, steps: Sequence[float], real: Float, together: int) -> float:
    """The bound over m', from the real one and what rounds.

    After m' examples at most a = min(K, m' together) tasks have a weight, the weights add up to at most `together`:
      the average: fl(1/m') is off by 2 v, relatively, or not at all where m' is a power of two; adding it up c times
        rounds at most half a unit of each partial sum j/m', and adding up one by one is the worst order;
      the answer's unit: integers and one weight; a sum rounds only when it enters a higher binade: `steps` v. A
        weight stored in few bits is on a grid so coarse that nothing rounds (`_exact_units`);
      the sum over tasks: half a unit of each partial sum, of at most j <= a weights of at most 1;
      in a narrow format the probability (unless m' is a power of two), the weight (likewise), the unit (unless
        exact) and the output (unless of one task) are stored with a relative error of u each.
    What the leak leaves beside an integer is lost or at most doubled: twice the real bound covers it.
    """
    tasks, storage, narrow = len(construction.task_set.tasks), 2.0 ** -BITS[form], form != "float32"
    exact = narrow and _exact_units(construction, BITS[form], steps)
    largest_steps = np.concatenate([[0.0], np.cumsum(np.sort(np.array(steps))[::-1])])
    worst = 2 * float(real[0])
    for count in range(1, construction.layout.examples + 1):
        active = min(tasks, count * together)
        weights = min(together, active)
        dyadic = count & (count - 1) == 0 and count <= 2 ** BITS[form]
        average = 0.0 if dyadic else 2.0 + _partial_sums(count, 1 / count)
        units = 0.0 if exact else largest_steps[active]
        total = V * (weights * average + units + _partial_sums(active, 1.0))
        if narrow:
            stored = (0.0 if dyadic else 2.0) + (0.0 if exact else 1.0) + (1.0 if active > 1 else 0.0)
            total += storage * weights * stored
        worst = max(worst, 2 * float(real[count]) + total * (1 + 16 * storage))
    return float(worst * INFLATION)


def _exact_units(construction: Construction, bits: int, steps: Sequence[float]) -> bool:
    """Whether a weight of `bits` bits, at least 1/(2m), added to the integers of a unit fits 24 bits."""
    integers = math.log2(max(steps, default=0.0) + 1)
    smallest = math.ceil(math.log2(construction.layout.examples)) + 1
    return integers + smallest + bits <= 24


def _partial_sums(count: int, share: float) -> float:
    """The sum of half a unit of each partial sum of `count` terms of `share`, one by one, in units of v."""
    return sum(2.0 ** math.floor(math.log2(number * share * (1 + 2.0**-7))) for number in range(2, count + 1))


def _answer_steps(layer: Layer, coordinate: int) -> float:
    """How far adding integers to a weight of at most 1 can round, in units of v: a half unit of each binade entered."""
    units = layer.readers(np.array([coordinate]))
    if not len(units):
        return 0.0
    weights = np.abs(layer.w_in[:, units].toarray())
    weights[coordinate] = 0.0
    bias = np.abs(layer.weights.bias_in.astype(np.float64)[units])
    most = float(np.maximum(weights.sum(axis=0), bias).max()) + 1
    return 2.0 ** math.ceil(math.log2(most)) - 1


def _reasons(
    construction: Construction,
    roles: Roles,
    heads: Sequence[HeadFacts],
    layers: tuple[Layer, Layer],
    average: AverageFacts,
) -> dict[str, str]:
    """For each format the first condition that fails, or an empty text."""
    first, second = (layer.attention for layer in construction.weights.layers)
    general = ""
    for number, head in enumerate(heads):
        ranges = head.values.max(axis=0) - head.values.min(axis=0)
        if head.largest_leak * max(1.0, float(ranges.max(initial=0.0))) * _gate(layers[0], head) > READ:
            general = general or (
                f"read head {number} leaks {head.largest_leak:.2g}: "
                "too much to be lost in the rounding of float32, raise the sharpness"
            )
        if len(head.targets) & (len(head.targets) - 1):
            general = general or f"read head {number} averages over {len(head.targets)} inputs, no power of two"
    counts = np.arange(1, construction.layout.examples + 1)
    if (average.leak[1:] * counts > V / 4).any() or average.uneven > 0:
        general = general or "the average leaks more than is lost in the rounding of float32: raise the sharpness"
    result = {}
    for form in BITS:
        reason = general or _inexact_scores(roles, first, form) or _inexact_scores(roles, second, form)
        result[form] = reason or _unfit(construction, layers[0], form)
    return result


def _gate(layer: Layer, head: HeadFacts) -> float:
    """The largest weight with which a unit reads what the head writes, at least 1."""
    block = layer.w_in_rows[head.columns]
    return max(1.0, largest(block.data))


def _inexact_scores(roles: Roles, attention: AttentionWeights, form: str) -> str:
    """Why scores may not be exact in a format, or an empty text.

    Queries and keys are sums of entries of a row of E + P times a weight: on the product of the grids, at most the
    sum of absolute values. Scores are on the product of theirs.
    """
    bits = BITS[form]
    for head in range(len(attention.query)):
        sides = []
        for matrix in (attention.query[head], attention.key[head]):
            rows = matrix.astype(np.float64)
            used = np.flatnonzero(rows.any(axis=1))
            grid = lowest_bit(rows) + min(0, lowest_bit(roles.position.data), lowest_bit(roles.token.data))
            magnitude = abs(roles.position[:, used]) @ np.abs(rows[used])
            token = (abs(roles.token[:, used]) @ np.abs(rows[used])).max(axis=0)
            most = magnitude.max(axis=0) + token
            sides.append((grid, most))
        (query_grid, query), (key_grid, key) = sides
        for name, grid, most in (("query", query_grid, query), ("key", key_grid, key)):
            if most.max() * 2.0**-grid > 2.0**bits:
                return f"a {name} of head {head} needs more than the {bits} bits of {form}"
        if float(query @ key) * 2.0 ** -(query_grid + key_grid) > 2.0 ** min(24, 24 if form == "float32" else bits):
            return f"scores of head {head} need more than {bits} bits in {form}"
    return ""


def _unfit(construction: Construction, first: Layer, form: str) -> str:
    """Why weights or activations do not fit a format exactly, or an empty text."""
    bits = BITS[form]
    for name, tensor in construction.weights.tensors():
        values = tensor if isinstance(tensor, np.ndarray) else tensor.data
        distinct = np.unique(values)
        if not _fits(distinct, bits, SMALLEST[form]):
            return f"{name} has a weight that needs more than the {bits} bits of {form}"
        if not name.endswith("attention.query") and not np.array_equal(distinct, np.round(distinct)):
            return f"{name} has a weight that is no integer: the analysis of {form} is for integers"
    # The units of layer 2 are in [0, w_k], by Lemma 4; those of layer 1 hold integers.
    every = np.arange(first.w_in.shape[1])
    for role in ("y", "eq"):
        hidden = np.maximum(first.upper(role, every), 0.0)
        if hidden.max(initial=0.0) > 2.0**bits:
            return f"units of layer 1 reach {hidden.max():g}: {form} holds integers to {2**bits} exactly"
        if (hidden @ abs(first.w_out)).max(initial=0.0) > 2.0**24:
            return "sums over the units of layer 1 can exceed the integers that float32 holds exactly"
    return ""


def _fits(values: Float, bits: int, smallest: int) -> bool:
    mantissa, exponent = np.frexp(np.abs(values[values != 0]).astype(np.float64))
    scaled = mantissa * 2.0**bits
    return bool((scaled == np.round(scaled)).all() and (exponent - bits >= smallest).all() and (exponent <= 15).all())


def bounds_and_refusals(rounded: Mapping[str, Rounded]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The bounds by format, and the reasons where there is none."""
    bounds = {form: result.bound for form, result in rounded.items()}
    return bounds, {form: result.refusal for form, result in rounded.items() if result.refusal}
