"""Is a model doing what the construction does? Probes, heads, and what happens without them.

The construction's mechanism, in three facts to look for in any model:
- evidence: at the answer of example i, the stream says for each task k whether the example is consistent with it (e_k);
- mixture: at the last position, it says the share c_k/m of the examples that are;
- heads: some read an example's inputs at its answer; one averages over all answers at the last position.

A probe is a ridge regression from the stream after one block, fitted to half of the prompts and judged on the others:
R^2 = 1 - (squared error) / (variance), 1 where the stream has it linearly, 0 or less where it has not. Mixtures differ
from prompt to prompt, so that there is something to tell. With fewer prompts than coordinates even what is there
linearly has an R^2 below 1: the probe cannot tell it from the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from construct.tasks import TaskSet
from empirical.heads import Ablation, HeadScores, Trace, Traced
from empirical.measures import Estimate, Floats, mean
from empirical.settings import Cell, Question, Rules, draw

RIDGE = 1e-6
"""Of the mean variance of the stream's coordinates, added to each: small, so that what is there exactly is found."""

CONSTANT = 1e-18
"""A variance below so much of the mean square is rounding: the same for a stream of any scale, such as that of an
export (2^-50 of its construction's)."""


@dataclass(frozen=True)
class Probes:
    """R^2 on held-out prompts after each block.

    Args:
        evidence: of e_k at the answers.
        mixture: of c_k/m at the last position.
    """

    evidence: tuple[float, ...]
    mixture: tuple[float, ...]


@dataclass(frozen=True)
class Head:
    """A head and its score.

    Args:
        layer: from 0.
        head: from 0.
        score: see `empirical.heads`.
        without: the total variation by which the answers change when the head is taken out.
    """

    layer: int
    head: int
    score: float
    without: Estimate


@dataclass(frozen=True)
class Mechanism:
    """What was found in one model.

    Args:
        probes: after each block.
        read: the best read head.
        average: the best averaging head.
        control: of the other heads the one of the least scores, and what taking it out changes; None without others.
        chance: the scores of attention that is uniform over what a position may see: read, average.
    """

    probes: Probes
    read: Head
    average: Head
    control: Head | None
    chance: tuple[float, float]


def mixed_questions(task_set: TaskSet, examples: int, prompts: int, seed: int) -> list[Question]:
    """Prompts, each of a random mixture of its own."""
    generator = np.random.default_rng(seed)
    tasks = len(task_set.tasks)
    found: list[Question] = []
    for place in range(prompts):
        weights = generator.dirichlet(np.ones(tasks))
        cell = Cell(tuple(float(weight) for weight in weights), examples)
        found += draw(task_set, cell, 1, Rules(seed=seed + place, counts="sampled"), place=place)
    return found


def examine(model: Traced, task_set: TaskSet, *, examples: int, prompts: int, seed: int = 0) -> Mechanism:
    """Look for the construction's mechanism in a model."""
    questions = mixed_questions(task_set, examples, prompts, seed)
    traces = [model.trace(question, task_set) for question in questions]
    scores = HeadScores.mean([trace.scores for trace in traces])
    plain = model.probabilities(questions)

    def head(values: Floats, at: int) -> Head:
        layer, place = divmod(at, values.shape[1])
        changed = model.probabilities(questions, Ablation(layer, place))
        return Head(layer, place, float(values[layer, place]), mean(_difference(plain, changed)))

    reads, averages = int(np.nanargmax(scores.read)), int(np.nanargmax(scores.average))
    both = np.fmax(scores.read, scores.average)  # NaN where a layer has fewer heads
    others = both.copy()
    others.ravel()[[reads, averages]] = np.nan
    return Mechanism(
        probes=probes(questions, traces),
        read=head(scores.read, reads),
        average=head(scores.average, averages),
        control=None if np.isnan(others).all() else head(both, int(np.nanargmin(others))),
        chance=scores.chance,
    )


def _difference(one: Floats, other: Floats) -> Floats:
    """Total variation of two distributions over the tasks' answers and the rest. Shape [N]."""
    inside = np.abs(one - other).sum(-1)
    distance: Floats = (inside + np.abs(one.sum(-1) - other.sum(-1))) / 2
    return distance


def probes(questions: Sequence[Question], traces: Sequence[Trace]) -> Probes:
    """R^2 of both probes after each block."""
    tasks = len(questions[0].answer_of)
    evidence = [
        np.array([[float(task in consistent) for task in range(tasks)] for consistent in question.consistent])
        for question in questions
    ]
    shares = [np.array([question.evidence]) for question in questions]
    layers = range(traces[0].answers.shape[0])
    return Probes(
        tuple(held_out_r2([trace.answers[layer] for trace in traces], evidence) for layer in layers),
        tuple(held_out_r2([trace.last[layer][None] for trace in traces], shares) for layer in layers),
    )


def held_out_r2(states: Sequence[Floats], targets: Sequence[Floats]) -> float:
    """R^2 on every second prompt of a ridge regression that was fitted to the others.

    Args:
        states: for each prompt, shape [positions, d_model].
        targets: for each prompt, shape [positions, K].
    """
    fitted_x, fitted_y = np.concatenate(states[::2]), np.concatenate(targets[::2])
    held_x, held_y = np.concatenate(states[1::2]), np.concatenate(targets[1::2])
    centre_x, centre_y = fitted_x.mean(0), fitted_y.mean(0)
    x, y = fitted_x - centre_x, fitted_y - centre_y
    variance = float((x**2).mean())
    if variance <= CONSTANT * float((fitted_x**2).mean()):
        return 0.0
    # Ridge by the singular values, for more coordinates than positions and fewer alike.
    left, values, right = np.linalg.svd(x, full_matrices=False)
    shrunk = values / (values**2 + RIDGE * variance * len(x))
    weights = right.T @ (shrunk[:, None] * (left.T @ y))
    wrong = float(((held_y - centre_y - (held_x - centre_x) @ weights) ** 2).sum())
    whole = float(((held_y - held_y.mean(0)) ** 2).sum())
    return 1 - wrong / whole if whole > 0 else 0.0
