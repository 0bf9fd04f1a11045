"""The prompts that the study asks: fixed sets, the same for every model and prediction of one setup.

A `Probe` holds prompts of one mixture. The mixtures of a setup are shown with the same inputs and queries: they differ
in the tasks that the examples are drawn by alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from construct.errors import InputError
from construct.prompts import Layout
from construct.tasks import TaskSet
from empirical.measures import Booleans, Integers
from empirical.training.pools import task_tensors
from empirical.training.prompts import Sampler

EIGHTHS = 8
ROUNDS = 500
"""Queries with K different answers are looked for in so many draws."""
SEED = 2**33
"""Apart from the seeds of training and of validation."""


@dataclass(frozen=True)
class Probe:
    """Prompts of one mixture of the first K' of K tasks.

    Args:
        shares: the tasks' exact shares of the m examples, [K'].
        ids: of the prompts, up to the query's EQ: [N, T].
        answers: of all K tasks to the query, which differ: [N, K].
        drawn: the task of each example, [N, m].
        consistent: whether an example is consistent with a task, [N, m, K].
    """

    shares: tuple[float, ...]
    ids: Tensor
    answers: Integers
    drawn: Integers
    consistent: Booleans


@dataclass(frozen=True)
class Probes:
    """All prompts of a setup.

    Args:
        task_set: the tasks.
        positions: those of the EQs.
        pure: task -> ids of whole prompts with their answers, [N, T+1].
        curve: mixtures of the first two tasks, by rising share of the first.
        uniform: uniform mixtures of the first 2, ..., K tasks.
        sampled: each example drawn by the first or the second task with probability 1/2: counts differ.
    """

    task_set: TaskSet
    positions: Tensor
    pure: Mapping[str, Tensor]
    curve: tuple[Probe, ...]
    uniform: tuple[Probe, ...]
    sampled: Probe


def make_probes(task_set: TaskSet, examples: int, prompts: int, *, seed: int) -> Probes:
    """The prompts of a setup; equal arguments give equal prompts, whatever a model was trained with."""
    layout = Layout(len(task_set.alphabet), task_set.inputs, examples)
    sampler = Sampler(task_tensors(task_set), layout)
    generator = torch.Generator().manual_seed(SEED + seed)
    tasks = len(task_set.tasks)
    pure = {}
    for place, task in enumerate(task_set.tasks):
        inputs = sampler.inputs(torch.full((prompts,), place), generator)
        pure[task.name] = sampler.assemble(inputs, sampler.tensors.answer(torch.full(inputs.shape[:2], place), inputs))
    inputs = _inputs(sampler, prompts, generator)
    counts = [[count, examples - count] for count in curve_counts(examples)]
    half = torch.randint(2, (prompts, examples), generator=generator)
    return Probes(
        task_set,
        sampler.eq_positions,
        pure,
        tuple(_probe(sampler, inputs, _shuffled(one, prompts, generator), one) for one in counts),
        tuple(
            _probe(sampler, inputs, _shuffled(one, prompts, generator), one)
            for one in (uniform_counts(examples, k) for k in range(2, tasks + 1))
        ),
        _probe(sampler, inputs, half, [1, 1]),
    )


def curve_counts(examples: int) -> tuple[int, ...]:
    """The examples of the first task on the curve: eighths of m as near as m allows, alike from both ends."""
    low = sorted({round(step * examples / EIGHTHS) for step in range(EIGHTHS // 2 + 1)})
    return tuple(sorted({*low, *(examples - count for count in low)}))


def uniform_counts(examples: int, tasks: int) -> list[int]:
    """The examples of each task; what is left over goes to the first ones."""
    return [examples // tasks + (place < examples % tasks) for place in range(tasks)]


def _inputs(sampler: Sampler, prompts: int, generator: torch.Generator) -> Tensor:
    """Inputs [N, m+1, n] that all tasks answer, the last in K different ways."""
    kept: list[Tensor] = []
    pool = torch.full((prompts,), sampler.tensors.tasks)
    for _ in range(ROUNDS):
        inputs = sampler.inputs(pool, generator)
        ordered = sampler.tensors.all_answers(inputs[:, -1]).sort(-1).values
        kept.append(inputs[(ordered[:, 1:] != ordered[:, :-1]).all(-1)])
        if sum(map(len, kept)) >= prompts:
            return torch.cat(kept)[:prompts]
    raise InputError(
        f"too few queries of {len(pool)} prompts have a different answer by every task: use a larger alphabet"
    )


def _shuffled(counts: Sequence[int], prompts: int, generator: torch.Generator) -> Tensor:
    """Tasks [N, m], each as often as it says, in random order."""
    tasks = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return tasks[torch.rand(prompts, len(tasks), generator=generator).argsort(-1)]


def _probe(sampler: Sampler, inputs: Tensor, drawn: Tensor, counts: Sequence[int]) -> Probe:
    last = torch.zeros(len(inputs), 1, dtype=torch.int64)
    ids = sampler.assemble(inputs, sampler.tensors.answer(torch.cat([drawn, last], dim=1), inputs))
    every = sampler.tensors.all_answers(inputs)
    shown = sampler.tensors.answer(drawn, inputs[:, :-1])
    return Probe(
        tuple(count / sum(counts) for count in counts),
        ids[:, :-1],
        every[:, -1].numpy(),
        drawn.numpy(),
        (every[:, :-1] == shown[..., None]).numpy(),
    )
