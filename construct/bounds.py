"""The closed-form error bound of the two-layer construction, and the sharpness that reaches a wanted error.

In real arithmetic, for every prompt of at most m examples, at every EQ: |q_hat - q|_1 <= `real_bound`. With z =
exp(-sharpness), rho the largest leak of a read head and rho2 that of the average (construct.attention), each task
contributes what its lookups lose (construct.mlp):

  a table of r reads of B bits: the evidence loses at most beta = 2 rho r B, the answer beta again;
  a sum over S, |v'| <= M, gate C: delta = 2 |S| M rho, the evidence is off by at most delta + C |S| rho, the
    answer loses at most 2 delta + 2 |S| rho;
  and the average loses at most rho2 of a weight.

Where an evidence is exactly 0 it stays so, for tables. It needs rho <= 1/2, delta <= 1/2 and C rho <= 1; otherwise
there is no claim.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from construct.attention import AVERAGE_MARGIN
from construct.errors import InputError
from construct.prompts import Layout
from construct.reads import ReadPlan
from construct.residual_stream import code_length
from construct.tasks import TableTask, TaskSet

EXACT_READ = 2.0**-28
"""A leak that, times what it multiplies, is below this is lost in the rounding of float32 and narrower formats."""

SUMMED = 1 + 2.0**-30
"""A claim is the bound times this: it covers the rounding of this sum, and of the one that is proved on the weights."""

SIGNIFICANT_BITS = 3
"""A chosen sharpness has so few bits that its products with integers below 32 are exact in bfloat16 (8 bits)."""

SMALLEST_ERROR, LARGEST_ERROR = 1e-15, 0.5


@dataclass(frozen=True)
class Precision:
    """A floating-point format as the fast model uses it.

    Args:
        storage: unit roundoff of stored weights and activations.
        accumulation: unit roundoff in which products are summed.
    """

    storage: float
    accumulation: float

    @property
    def largest_exact_integer(self) -> float:
        """All integers up to this one are stored exactly."""
        return 1 / self.storage


PRECISIONS = {
    "float64": Precision(2.0**-53, 2.0**-53),
    "float32": Precision(2.0**-24, 2.0**-24),
    "float16": Precision(2.0**-11, 2.0**-24),
    "bfloat16": Precision(2.0**-8, 2.0**-24),
}


def read_leak(plan: ReadPlan, layout: Layout, sharpness: float) -> float:
    """rho: the largest attention that a read head gives away, over all prompts (`attention.read_head`)."""
    z = math.exp(-sharpness)
    b1, b2, n = code_length(layout.examples + 1), code_length(layout.inputs), layout.inputs
    grown = math.exp(b1 * math.log1p(z**2))
    single = math.expm1((b1 + b2) * math.log1p(z**2)) + 2 * z ** (b2 + 2) * grown
    # A set of one position is read by the codes too.
    alone = plan.positions or any(len(positions) == 1 for positions in plan.sets)
    leaks = [single + z ** (b1 + b2 + 4)] if alone else []
    for positions in plan.sets:
        if len(positions) == 1:
            continue
        size = len(positions)
        outside = ((n - size) * z**2 + 2 * z**4) * grown / size
        leaks.append(math.expm1(b1 * math.log1p(z**2)) + outside + z ** (b1 + 6) / size)
    return max(leak / (1 + leak) for leak in leaks)


def read_reach(plan: ReadPlan) -> float:
    """What a leak is multiplied by at the most: 2 between two codes, the range of a sum times its gate."""
    sums = (2 * len(read.positions) * read.largest_value * read.gate for read in plan.sums)
    return float(max([2, *sums]))


def average_leak(layout: Layout, sharpness: float) -> float:
    """rho2: the largest attention that the average gives away (`attention.average_head`)."""
    weight = (2 * layout.inputs + 3) * math.exp(-AVERAGE_MARGIN * sharpness)
    return weight / (1 + weight)


def real_bound(task_set: TaskSet, plan: ReadPlan, layout: Layout, sharpness: float) -> float | None:
    """The bound on |q_hat - q|_1 in real arithmetic, or None where the sharpness is too low for a claim."""
    rho = read_leak(plan, layout, sharpness)
    if rho > 0.5:
        return None
    bits = code_length(layout.alphabet_size)
    total = 0.0
    for task in task_set.tasks:
        if isinstance(task, TableTask):
            total += 4 * rho * len(task.reads) * bits
            continue
        read = plan.sum_of(task)
        size = len(read.positions)
        delta = 2 * size * read.largest_value * rho
        if delta > 0.5 or read.gate * rho * size > 1:
            return None
        total += 3 * delta + (read.gate + 2) * size * rho
    return total + len(task_set.tasks) * average_leak(layout, sharpness)


def choose_sharpness(task_set: TaskSet, plan: ReadPlan, layout: Layout, error: float) -> float:
    """The least sharpness of `SIGNIFICANT_BITS` bits whose bound is at most `error`, and whose reads are exact.

    Raises:
        InputError: the error wanted is not between SMALLEST_ERROR and LARGEST_ERROR.
    """

    def good(sharpness: float) -> bool:
        bound = real_bound(task_set, plan, layout, sharpness)
        lost = read_leak(plan, layout, sharpness) * read_reach(plan)
        return bound is not None and bound * SUMMED <= error and lost <= EXACT_READ

    return least_sharpness(good, error)


def least_sharpness(good: Callable[[float], bool], error: float) -> float:
    """The least sharpness of `SIGNIFICANT_BITS` bits that is good for the error wanted.

    Raises:
        InputError: the error wanted is not between SMALLEST_ERROR and LARGEST_ERROR.
    """
    if not SMALLEST_ERROR <= error <= LARGEST_ERROR:
        raise InputError(f"the error wanted is {error:g}: expected a number from {SMALLEST_ERROR} to {LARGEST_ERROR}")
    steps = 2 ** (SIGNIFICANT_BITS - 1)
    for exponent in range(2, 12):
        for significand in range(steps, 2 * steps):
            sharpness = math.ldexp(significand / steps, exponent)
            if good(sharpness):
                return sharpness
    raise InputError(f"no sharpness reaches the error {error:g}")


def round_sharpness(sharpness: float) -> float:
    """A sharpness given by hand, rounded to 12 significant bits: the scores are then exact in float32.

    Raises:
        InputError: it is not a number from 2^-10 to 2^10.
    """
    if not 2.0**-10 <= sharpness <= 2.0**10:
        raise InputError(f"the sharpness is {sharpness:g}: expected a number from {2.0**-10} to {2.0**10:g}")
    mantissa, exponent = math.frexp(sharpness)
    return math.ldexp(round(mantissa * 2**12), exponent - 12)


def rounding_bound(task_set: TaskSet, plan: ReadPlan, layout: Layout, sharpness: float, precision: str) -> float | None:
    """A bound on |q_hat - q|_1 of the program as executed in a format, whatever the order of summation.

    Assumed: weights and activations are stored in the format; products are summed in it or in float32, whichever is
    more exact, in any order; exp and the division of the softmax have a relative error of at most 4 units of the
    accumulation. u is the roundoff of storage, v that of accumulation, p = 1/v.

    With rho * read_reach <= EXACT_READ every read of one position is exactly +-1 (the target's weight rounds to 1, the
    rest is
    below half a unit of it), and rho2 m' < v/4 makes the softmax sum of the average exactly m'. Then all evidence of
    tables is exactly 0 or 1, w_k = fl(c_k fl(1/m')) is off by (m + 6) v + 2 u relatively, and the answer's unit adds
    integers of at most 2 (r B + 2) to w_k: sums of integers are exact, and one number off the integers rounds at
    most once in each binade, 2 v (2 r B + 4) in all. Adding up the tasks' answers rounds K v + u times the sum.
    A sum read by heads of its own for single positions is exact as long as its integers are; averaged over |S|
    positions, no power of two, it is off by M |S| ((|S| + 6) v + 2 u).

    In float64 the reads are not exact, and each of the sums of at most T terms of size at most 1 is off by
    (2 T + 8) v; the same lines follow.

    Returns:
        The bound, or None: the sharpness is too low, or integers of a sum exceed what the format holds.
    """
    real = real_bound(task_set, plan, layout, sharpness)
    form = PRECISIONS[precision]
    u, v = form.storage, form.accumulation
    if real is None:
        return None
    exact_reads = precision != "float64"
    if exact_reads and (
        read_leak(plan, layout, sharpness) * read_reach(plan) > EXACT_READ
        or average_leak(layout, sharpness) * layout.examples > v / 4
    ):
        return None
    read_error = 0.0 if exact_reads else (2 * layout.positions + 8) * v
    weight_error = (layout.examples + 6) * v + 2 * u if exact_reads else (2 * layout.positions + 8) * v + 2 * u
    total = 0.0
    for task in task_set.tasks:
        if isinstance(task, TableTask):
            bits = len(task.reads) * code_length(layout.alphabet_size)
            lookups = 2 * bits * read_error
        else:
            read = plan.sum_of(task)
            size, bits = len(read.positions), read.code_length
            largest = max(read.gate, read.high - read.low + 2, size * read.largest_value)
            if largest > form.largest_exact_integer:
                return None
            scale_error = 0.0
            if not plan.shared(read) and size & (size - 1):
                scale_error = ((size + 6) * v + 2 * u) * read.largest_value * size
            shift = scale_error + 2 * size * read.largest_value * read_error
            if shift > 0.25:
                return None
            # Hinges as large as the gate carry the shift and its rounding, in the evidence and in the code.
            off_integers = shift > 0 or not exact_reads
            lookups = 3 * shift + (16 * (u + v) * (read.gate + 2) * (bits + 2) if off_integers else 0.0)
            lookups += 2 * read.gate * size * read_error
        total += lookups + weight_error + 2 * v * (2 * bits + 4)
    tasks = len(task_set.tasks)
    return real * SUMMED + total + tasks * (tasks * v + u)
