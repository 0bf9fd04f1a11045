"""The bound of the seven layers as executed in float32, bfloat16 or float16: verify/rounding.py, for seven steps.

The same is assumed of the machine (A1 to A3 there). Checked on the weights: scores are exact, leaks are lost in the
rounding, all weights but the queries' are integers, and every integer on the way to the credits fits. Then:

  a read number is the exact integer where its target's is not 0; where that is 0, what is left of the leak stays, and
    the unit that reads it must not have its threshold at an integer: such units have even weights and an odd bias, so
    their argument is an odd integer plus what is left, and the sum rounds to the integer, in any order;
  so predictions, mismatches and credits are exact: each is a sum of integers of at most 2^24 in all;
  the average rounds as in verify/rounding.py; then a weight passes two units, the gate's and the superposition's,
    each of which adds integers to it; and the tasks' answers are added up.

A unit that should be off has an argument of at most -1 plus roundings, so it is off.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from construct.theorems import Construction
from verify.attention import AverageFacts, HeadFacts
from verify.boxes import Roles
from verify.exact import INFLATION, Float
from verify.linear import Layer
from verify.rounding import BITS, READ, SMALLEST, Rounded, V, _fits, _inexact_scores, _partial_sums


@dataclass(frozen=True)
class Executed:
    """What was proved in real arithmetic, for the bound as executed.

    Args:
        construction: the construction.
        roles: its positions.
        heads: step 1.
        layer: layer 2's MLP as step 2 saw it.
        reach: what a leak is multiplied by at the most, in an argument of layer 2.
        entering: the largest absolute value of each coordinate before layer 2's MLP, at EQ and y.
        sizes: for layers 3 and 4, the largest number that is stored and the largest sum of absolute values of terms.
        average: step 5.
        gate: for each task, how far the integers that are added to its weight reach in the gate.
        answer: the same in the superposition.
        real: the bound in real arithmetic after m' = 0 .. m examples.
        together: the most tasks that one example is consistent with.
    """

    construction: Construction
    roles: Roles
    heads: Sequence[HeadFacts]
    layer: Layer
    reach: float
    entering: Float
    sizes: Sequence[tuple[float, float]]
    average: AverageFacts
    gate: Sequence[float]
    answer: Sequence[float]
    real: Float
    together: int


def seven_rounded(facts: Executed) -> dict[str, Rounded]:
    """The bound in each format, or why there is none."""
    result = {}
    for form in BITS:
        reason = _reason(facts, form)
        result[form] = Rounded(None, reason) if reason else Rounded(_bound(facts, form))
    return result


def _bound(facts: Executed, form: str) -> float:
    """The bound over m', as `verify.rounding._bound`, with one more unit between average and answer."""
    construction = facts.construction
    tasks, storage, narrow = len(construction.task_set.tasks), 2.0 ** -BITS[form], form != "float32"
    steps = [_binades(gate) + _binades(answer) for gate, answer in zip(facts.gate, facts.answer, strict=True)]
    exact = narrow and _exact_units(facts, BITS[form])
    units_that_round = 1.0 + any(_binades(gate) for gate in facts.gate)
    largest = np.concatenate([[0.0], np.cumsum(np.sort(np.array(steps))[::-1])])
    worst = 2 * float(facts.real[0])
    for count in range(1, construction.layout.examples + 1):
        active = min(tasks, count * facts.together)
        weights = min(facts.together, active)
        dyadic = count & (count - 1) == 0 and count <= 2 ** BITS[form]
        average = 0.0 if dyadic else 2.0 + _partial_sums(count, 1 / count)
        units = 0.0 if exact else largest[active]
        total = V * (weights * average + units + _partial_sums(active, 1.0))
        if narrow:
            stored = (0.0 if dyadic else 2.0) + (0.0 if exact else units_that_round) + (1.0 if active > 1 else 0.0)
            total += storage * weights * stored
        worst = max(worst, 2 * float(facts.real[count]) + total * (1 + 16 * storage))
    return float(worst * INFLATION)


def _binades(integers: float) -> float:
    """How far a weight of at most 1 and a rounding rounds, in units of V, with integers whose sums reach so far added.

    A sum rounds by half a unit of the binade it enters: 1 V for [1, 2), 2 V for [2, 4), and so on; adding 0 does not.
    """
    # What reaches here are integers, but for the inflation of bounds.
    whole = round(integers)
    return 2.0 ** (math.floor(math.log2(whole + 1)) + 1) - 1 if whole else 0.0


def _exact_units(facts: Executed, bits: int) -> bool:
    """Whether a weight of `bits` bits, at least 1/(2m), added to the integers of a unit fits 24 bits."""
    integers = math.log2(max([1.0, *facts.gate, *facts.answer]) + 1)
    smallest = math.ceil(math.log2(facts.construction.layout.examples)) + 1
    return integers + smallest + bits <= 24


def _reason(facts: Executed, form: str) -> str:
    """Why nothing is claimed of a format, or an empty text."""
    construction = facts.construction
    for number, head in enumerate(facts.heads):
        ranges = head.values.max(axis=0) - head.values.min(axis=0)
        if head.largest_leak * max(1.0, float(ranges.max(initial=0.0)), facts.reach) > READ:
            return (
                f"read head {number} leaks {head.largest_leak:.2g}: too much to be lost in the rounding of float32, "
                "raise the sharpness"
            )
        if len(head.targets) & (len(head.targets) - 1):
            return f"read head {number} averages over {len(head.targets)} inputs, no power of two"
        if head.spread.any():
            return f"read head {number} writes what depends on the position"
    counts = np.arange(1, construction.layout.examples + 1)
    if (facts.average.leak[1:] * counts > V / 4).any() or facts.average.uneven > 0:
        return "the average leaks more than is lost in the rounding of float32: raise the sharpness"
    for at in (0, 1, 4):
        if reason := _inexact_scores(facts.roles, construction.weights.layers[at].attention, form):
            return f"layer {at + 1}: {reason}"
    return _odd(facts) or _unfit(facts, form)


def _odd(facts: Executed) -> str:
    """Why a unit of layer 2 may have its threshold at an integer and read what is left of a leak, or an empty text."""
    size = facts.roles.layout.alphabet_size
    left = [head.columns[(head.values[:size, head.columns] == 0).any(axis=0)] for head in facts.heads]
    columns = np.unique(np.concatenate([np.zeros(0, dtype=np.int_), *left])).astype(np.int_)
    units = facts.layer.readers(columns)
    weights = facts.layer.w_in[:, units]
    bias = facts.layer.weights.bias_in[units]
    if (weights.data % 2 != 0).any() or (bias % 2 != 1).any():
        return "a unit of layer 2 reads numbers that a leak can move from 0, and has its threshold at an integer"
    return ""


def _unfit(facts: Executed, form: str) -> str:
    """Why weights or integers do not fit a format exactly, or an empty text."""
    bits, weights = BITS[form], facts.construction.weights
    for name, tensor in weights.tensors():
        distinct = np.unique(tensor if isinstance(tensor, np.ndarray) else tensor.data)
        if not _fits(distinct, bits, SMALLEST[form]):
            return f"{name} has a weight that needs more than the {bits} bits of {form}"
        if not name.endswith("attention.query") and not np.array_equal(distinct, np.round(distinct)):
            return f"{name} has a weight that is no integer: the analysis of {form} is for integers"
    if any(weights.mlp_width[at] for at in (0, 4)):
        return "layers 1 and 5 have hidden units: the analysis is for the seven steps alone"
    for at, (stored, summed) in zip((2, 3, 4), (_predicting(facts), *facts.sizes), strict=True):
        if summed > 2.0**24:
            return f"sums of layer {at} can exceed the integers that float32 holds exactly"
        if stored > 2.0**bits + 0.5:
            return f"numbers of layer {at} reach {stored:g}: {form} holds integers to {2**bits} exactly"
    return ""


def _predicting(facts: Executed) -> tuple[float, float]:
    """For layer 2, the largest number that is stored, and the largest sum of absolute values of terms."""
    layer = facts.layer
    inward, outward = abs(layer.w_in), abs(layer.w_out)
    every = np.arange(inward.shape[1])
    hidden = np.maximum(np.maximum(layer.upper("eq", every), layer.upper("y", every)), 0.0)
    read = facts.entering[np.diff(layer.w_in_rows.indptr) > 0]
    arguments = np.asarray(facts.entering @ inward) + np.abs(layer.weights.bias_in)
    summed = max(arguments.max(initial=0.0), np.asarray(hidden @ outward).max(initial=0.0))
    return float(max(hidden.max(initial=0.0), read.max(initial=0.0))), float(summed)
