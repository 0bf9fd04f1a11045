"""The closed-form error bound of the seven-layer construction, its sharpness, and the budget of Theorem 1.

In real arithmetic, for every prompt of at most m examples, at every EQ: |q_hat - q|_1 <= `seven_bound`. rho is the
largest leak of a read head, rho2 that of the average (construct.attention), N the squared length of a code. The credit
is exact, so a task contributes what its prediction for the query loses (construct.seven_circuits):

  a table of r reads: beta = 4 N r rho, so (4 N + 1) beta;
  a sum over S whose tokens count at most U: delta = |S| U rho, so (8 N + 1) delta;
  and the average loses at most rho2 of a weight.

That is with each number of a prediction in an interval of its own, of radius sqrt(N) beta or 2 sqrt(N) delta, as the
proof on the weights has it; the derivations beside the circuits keep them together and lose half. The credit forgets
errors of the mismatch up to 1/2, which takes 16 times that radius: 16 sqrt(N) beta <= 1/2 and 32 sqrt(N) delta <= 1/2
are needed, and rho <= 1/2. Otherwise there is no claim.
"""

import math
from dataclasses import dataclass

from construct.bounds import EXACT_READ, PRECISIONS, SUMMED, average_leak, least_sharpness, read_leak
from construct.four_squares import NUMBERS, code_norm
from construct.memory import refuse_beyond_memory
from construct.prompts import Layout
from construct.residual_stream import code_length
from construct.seven_reads import SevenReads
from construct.sizes import BYTES_PER_ENTRY
from construct.tasks import TableTask, TaskSet

WIDTH_CONSTANT = 24
"""C of d_model <= C (d + log2(m n)), for K <= d: see `Budget`."""


@dataclass(frozen=True)
class Budget:
    """What Theorem 1 of Xiong et al. allows, and what a construction takes of it.

    The width is V + 4 + ceil(log2(m+1)) + ceil(log2 n) + (flags of sets, at most K) + 4 (inputs read as codes) + (sums)
    + 8 K. There are at most 2 K read heads, so at most 2 K inputs are read as codes; a task is a table or a sum, so
    codes, sums and flags together take at most 8 K + K. With ceil(log2(m+1)) <= log2 m + 1 and ceil(log2 n) <= log2 n +
    1, and K <= d = V: d_model <= 18 d + 6 + log2(m n) <= 24 (d + log2(m n)). With a single-input table each, as in the
    paper, 4 K codes, no sums and no flags: d_model <= 13 d + 6 + log2(m n).

    Args:
        layers: 7.
        most_heads: K.
        width: C (d + log2(m n)) with d the larger of V and K.
    """

    layers: int
    most_heads: int
    width: float


def budget(task_set: TaskSet, layout: Layout) -> Budget:
    """The budget for these tasks: seven layers, K heads in each, C (d + log2(m n)) numbers a position."""
    tasks = len(task_set.tasks)
    dimension = max(layout.alphabet_size, tasks)
    return Budget(7, tasks, WIDTH_CONSTANT * (dimension + math.log2(layout.examples * layout.inputs)))


def seven_bound(task_set: TaskSet, reads: SevenReads, layout: Layout, sharpness: float) -> float | None:
    """The bound on |q_hat - q|_1 in real arithmetic, or None where the sharpness is too low for a claim."""
    rho = read_leak(reads.plan, layout, sharpness)
    if rho > 0.5:
        return None
    norm = code_norm(layout.alphabet_size)
    total = 0.0
    for task in task_set.tasks:
        if isinstance(task, TableTask):
            beta = 4 * norm * len(task.reads) * rho
            off, lost = 16 * math.sqrt(norm) * beta, (4 * norm + 1) * beta
        else:
            delta = len(task.positions) * reads.sums[reads.sum_of[task.name]].largest * rho
            off, lost = 32 * math.sqrt(norm) * delta, (8 * norm + 1) * delta
        if off > 0.5:
            return None
        total += lost
    return total + len(task_set.tasks) * average_leak(layout, sharpness)


def read_reach(task_set: TaskSet, reads: SevenReads, layout: Layout) -> float:
    """What a leak is multiplied by at the most, in the argument of a unit that predicts."""
    norm = code_norm(layout.alphabet_size)
    tables = [4 * norm * len(task.reads) for task in task_set.tasks if isinstance(task, TableTask)]
    return float(max([*tables, *(len(scalar.positions) * scalar.largest for scalar in reads.sums)]))


def seven_sharpness(task_set: TaskSet, reads: SevenReads, layout: Layout, error: float) -> float:
    """The least sharpness of few bits whose bound is at most `error`, and whose reads are exact in float32.

    Raises:
        InputError: the error wanted is out of range.
    """
    reach = read_reach(task_set, reads, layout)

    def good(sharpness: float) -> bool:
        bound = seven_bound(task_set, reads, layout, sharpness)
        lost = read_leak(reads.plan, layout, sharpness) * reach
        return bound is not None and bound * SUMMED <= error and lost <= EXACT_READ

    return least_sharpness(good, error)


def seven_rounding_bound(
    task_set: TaskSet, reads: SevenReads, layout: Layout, sharpness: float, precision: str
) -> float | None:
    """A bound on |q_hat - q|_1 of the program as executed in a format, whatever the order of summation.

    Assumed, as in `construct.bounds.rounding_bound`: storage in the format (roundoff u), sums in it or in float32
    (roundoff v), a softmax good to 4 units. In float32 and narrower formats leaks are lost in the rounding, so reads,
    predictions and credits are exact integers where these fit the format, and a gate adds nothing but 0 to a weight.
    What rounds is the average, (m + 6) v + 2 u relatively, then one number of at most 1 among integers of at most 4 N +
    2 (the superposition), and the sum over tasks. A head that averages over a set whose size is no power of two is not
    exact: no claim.

    In float64 reads are off by (2 T + 8) v of a number of at most N or U, and every later sum rounds.

    Returns:
        The bound, or None: the sharpness is too low, integers do not fit, or a set has an odd size.
    """
    real = seven_bound(task_set, reads, layout, sharpness)
    form = PRECISIONS[precision]
    u, v = form.storage, form.accumulation
    if real is None:
        return None
    norm, tasks = code_norm(layout.alphabet_size), len(task_set.tasks)
    exact = precision != "float64"
    if exact and (
        read_leak(reads.plan, layout, sharpness) * read_reach(task_set, reads, layout) > EXACT_READ
        or average_leak(layout, sharpness) * layout.examples > v / 4
        or any(len(positions) & (len(positions) - 1) for positions in reads.sets)
    ):
        return None
    steps = layout.examples if exact else 2 * layout.positions
    each = (steps + 8) * v + 4 * u + 2 * v * (4 * norm + 2)
    total = 0.0
    for task in task_set.tasks:
        if isinstance(task, TableTask):
            magnitude = hidden = 2.0 * norm * len(task.reads) + 1
        else:
            scalar = reads.sums[reads.sum_of[task.name]]
            hidden = float(len(scalar.positions) * scalar.largest)
            # Three hinges a row, slopes of at most 2 (sqrt(N) + 1), none with more before it than rows.
            magnitude = 6.0 * (math.sqrt(norm) + 1) * max(1, len(scalar.rows(task))) * hidden
        if exact and (max(hidden, 8.0 * math.sqrt(norm)) > form.largest_exact_integer or magnitude > 1 / v):
            return None
        total += each
        if not exact:
            total += (4 * norm + 2) * (2 * layout.positions + 8) * 8 * norm * (magnitude + 8) * v
    return real * SUMMED + total + tasks * (tasks * v + u)


def check_seven_memory(task_set: TaskSet, reads: SevenReads, layout: Layout, d_model: int) -> None:
    """Raise TooLargeError when building would take more memory than is free."""
    size, tasks = layout.alphabet_size, len(task_set.tasks)
    entries = 2 * size + layout.positions * (2 + code_length(layout.examples + 1) + code_length(layout.inputs))
    entries += tasks * (2 * NUMBERS * (size + 2) + 10)
    for task in task_set.tasks:
        arity = len(task.reads) if isinstance(task, TableTask) else 1
        entries += 3 * len(task.rows) * (NUMBERS * arity + NUMBERS + 2) + min(len(task.rows), size) * (NUMBERS + 3)
    score_size = code_length(layout.examples + 1) + code_length(layout.inputs) + 2
    dense = len(reads.heads) * d_model * 2 * (score_size + NUMBERS + len(reads.sums)) + 2 * d_model * (tasks + 1)
    refuse_beyond_memory(BYTES_PER_ENTRY * entries + 8 * dense, "building this construction")
