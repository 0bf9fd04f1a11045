"""What a construction will weigh, said before it is built."""

from construct.memory import refuse_beyond_memory
from construct.prompts import Layout
from construct.reads import ReadPlan
from construct.residual_stream import code_length
from construct.tasks import TableTask, TaskSet

BYTES_PER_ENTRY = 48
"""A sparse entry at its costliest: a triplet of two int64 and a float32, and their copies while it is sorted."""


def estimated_bytes(task_set: TaskSet, layout: Layout, plan: ReadPlan, d_model: int) -> int:
    """An upper estimate of the memory that building takes, in bytes."""
    bits = code_length(layout.alphabet_size)
    entries = 2 * layout.alphabet_size
    entries += layout.positions * (2 + code_length(layout.examples + 1) + code_length(layout.inputs) + len(plan.sets))
    for read in plan.sums:
        entries += (read.high - read.low + 1) * (4 + read.code_length)
    for task in task_set.tasks:
        if isinstance(task, TableTask):
            entries += 2 * len(task.rows) * (len(task.reads) * bits + 4)
        else:
            read = plan.sum_of(task)
            entries += min(len(task.rows), read.high - read.low + 1) * (3 * 8 + read.code_length + 5)
    score_size = code_length(layout.examples + 1) + code_length(layout.inputs) + 2
    dense = plan.heads * d_model * (2 * score_size + 2 * (bits + 2 * len(plan.sums) + 1))
    dense += 2 * d_model * (len(task_set.tasks) + 1)
    dense += 3 * layout.alphabet_size * bits  # the codes of all tokens, while they are made
    return BYTES_PER_ENTRY * entries + 2 * 4 * dense


def check_memory(task_set: TaskSet, layout: Layout, plan: ReadPlan, d_model: int) -> None:
    """Raise TooLargeError when building would take more memory than is free."""
    refuse_beyond_memory(estimated_bytes(task_set, layout, plan, d_model), "building this construction")
