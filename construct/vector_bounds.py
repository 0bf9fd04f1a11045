"""The closed-form error bound of the construction on vectors in real arithmetic, and the sharpness that reaches it.

With z = exp(-sharpness) and the leaks A1, A2, A3 of `construct.vector_heads`, for every prompt in the domain:

  reads      2 rho of the reach (and of Y, from y), at most delta/8 of a fingerprint;
  log_count  |L_k - log c_k| <= table + (3/2) A2 for c_k >= 1: the leak moves s by at most A2/(1+c)^2, the slope there
             is at most (c+1)(c+2)/c;
  weights    dw = w (1-w) dL, so |w_k - c_k/m'| <= e_w = (e^(table + 3 A2/2) - 1)/4 + A3 + 2 z;
  answer     other inputs get at most A3: |q_hat - q|_max <= sum_k (e_w + 2 A3) reach_k.

reach_k bounds every coordinate of g_k(x).
"""

import math

from construct.errors import InputError
from construct.residual_stream import code_length
from construct.vector_comparison import ATTENTION, Comparison
from construct.vector_mlp import log_table_error
from construct.vector_prompts import VectorLayout
from construct.vector_tasks import VectorTaskSet

SHARPNESSES = (8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 28.0, 32.0, 40.0, 48.0)
"""What is tried; few bits, so that products with small integers are exact in every format."""

LOST = 2.0**-30
"""A leak below this is lost in the rounding of float32."""

SUMMED = 1 + 2.0**-10
"""A claim is the bound times this: room for the proof on the weights, which bounds some sums less sharply."""


def leaks(layout: VectorLayout, sharpness: float) -> tuple[float, float, float]:
    """A1, A2 and A3, relative to a weight of 1."""
    z, m, n = math.exp(-sharpness), layout.examples, layout.inputs
    bits = code_length(m + 1) + code_length(n)
    inputs = math.expm1(bits * math.log1p(z))
    return inputs + (2 * m + 2) * z**2, m * z + (m + 1) * (n + 1) * z**2, inputs + z + (2 * m + 1) * z**2


def real_bounds(
    task_set: VectorTaskSet, comparison: Comparison, layout: VectorLayout, sharpness: float
) -> tuple[float, float] | None:
    """The bounds on |q_hat - q|_max and on each |w_k - c_k/m'|, or None where the sharpness is too low for a claim."""
    first, second, third = leaks(layout, sharpness)
    reach = [task_set.reach(task) for task in task_set.tasks]
    if comparison.kind == ATTENTION:
        if math.exp(5.1) * first > 0.1:
            return None
    else:
        # Rows of F are no longer than 1: a fingerprint's coordinates are at most Y.
        spread = 2 * first / (1 + first) * 2 * task_set.answer_bound * longest(task_set)
        if spread > task_set.margin / 8:
            return None
    if 8 * sharpness * second > 0.5:
        return None
    weight = math.expm1(log_table_error(layout.examples) + 1.5 * second) / 4 + third + 2 * math.exp(-sharpness)
    return SUMMED * sum((weight + 2 * third) * each for each in reach), SUMMED * weight


def longest(task_set: VectorTaskSet) -> float:
    """The most that a task's matrix can lengthen what is attended by mistake: max(1, Y/R)."""
    return max(1.0, task_set.answer_bound / task_set.bound)


def choose_sharpness(task_set: VectorTaskSet, comparison: Comparison, layout: VectorLayout, error: float) -> float:
    """The least sharpness whose bound is at most `error` and whose leaks are lost in the rounding of float32.

    Raises:
        InputError: no sharpness reaches the error: the tables of the logarithm are float32 numbers.
    """
    if not 0 < error < float("inf"):
        raise InputError(f"the error wanted is {error:g}: expected a positive number")
    best = float("inf")
    for sharpness in SHARPNESSES:
        bounds = real_bounds(task_set, comparison, layout, sharpness)
        if bounds is None:
            continue
        best = min(best, bounds[0])
        if bounds[0] <= error and max(leaks(layout, sharpness)) <= LOST:
            return sharpness
    raise InputError(
        f"no sharpness reaches the error {error:g}: the least is {best:.3g} for these tasks, as weights are float32 "
        "numbers; ask for more than that, or scale the tasks down"
    )
