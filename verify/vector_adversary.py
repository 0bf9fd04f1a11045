"""A search for the prompt of vectors on which a construction is most wrong: what stands below every proved bound.

Random prompts of examples from a pool (`construct.vector_pool`) first, judged at all their EQs at once; then a climb
from the worst of them: one example exchanged for another, or the query turned, as long as the error at that EQ grows.
What is found is a lower bound on the worst error. That nothing is found proves nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from construct.residual_stream import Array
from construct.transformer import TransformerWeights
from construct.vector_comparison import Comparison
from construct.vector_model import VectorTransformer
from construct.vector_pool import ExamplePool, draw_pool, queries, task_values
from construct.vector_prompts import VectorLayout, VectorPrompt
from construct.vector_tasks import VectorTaskSet

Float = NDArray[np.float64]
Ints = NDArray[np.int_]
Progress = Callable[[float], None]

BATCH_NUMBERS = 2**23
"""Prompts are run together as long as their scores and streams are so many numbers."""

STARTS = 6
"""The climb begins at so many of the worst prompts."""

CANDIDATES = 8
"""Changes of a prompt that are tried together."""


@dataclass(frozen=True, eq=False)
class WorstVectors:
    """What a search found.

    Args:
        error: the largest |q_hat - q|_max, infinite where an output is not a finite number.
        prompt: where it was found.
        answers: how many EQs were judged.
        by_examples: the largest error by the number of examples, shape [m + 1].
    """

    error: float
    prompt: VectorPrompt
    answers: int
    by_examples: tuple[float, ...]


class VectorSearcher:
    """Draws the examples of a set of tasks once, to search any number of weights.

    Args:
        task_set: the tasks.
        comparison: decides what is in the domain.
        layout: d, n and m.
        seed: of the examples.

    Raises:
        InputError: no example in the domain was found for some task.
    """

    def __init__(self, task_set: VectorTaskSet, comparison: Comparison, layout: VectorLayout, seed: int = 0) -> None:
        self.task_set, self.layout = task_set, layout
        self.pool = draw_pool(task_set, comparison, np.random.default_rng([seed, 0]))

    def search(
        self,
        weights: TransformerWeights,
        *,
        samples: int,
        dtype: str = "float64",
        device: str = "cpu",
        seed: int = 0,
        progress: Progress | None = None,
    ) -> WorstVectors:
        """The worst prompt found, from `samples` random ones and a climb of as many more.

        Raises:
            InputError: the dtype or device cannot be used.
        """
        judge = _Judge(self, weights, dtype, device)
        generator = np.random.default_rng([seed, 1])
        chosen, asked = self._draw(samples, generator)
        errors = np.concatenate(
            [
                judge.errors(chosen[start : start + judge.batch], asked[start : start + judge.batch])
                for start in _steps(samples, judge.batch, progress)
            ]
        )
        by_examples = errors.max(axis=0)
        row, shown = map(int, np.unravel_index(int(errors.argmax()), errors.shape))
        best = float(errors[row, shown]), chosen[row, :shown], self._query(chosen[row], asked[row], shown)
        answers = errors.size
        order = np.dstack(np.unravel_index(np.argsort(-errors, axis=None)[: 40 * STARTS], errors.shape))[0]
        starts = {(int(one), int(at)) for one, at in order[:: max(1, len(order) // STARTS)]}
        for row, shown in sorted(starts):
            runs = max(1, samples // (len(starts) * CANDIDATES))
            start = chosen[row, :shown], self._query(chosen[row], asked[row], shown)
            error, at, query = self._climb(judge, *start, float(errors[row, shown]), runs, generator)
            answers += runs * CANDIDATES * (shown + 1)
            by_examples[shown] = max(by_examples[shown], error)
            if error > best[0]:
                best = error, at, query
        if progress is not None:
            progress(1.0)
        return WorstVectors(best[0], self.pool.prompt(best[1], best[2]), answers, tuple(by_examples.tolist()))

    def _draw(self, samples: int, generator: np.random.Generator) -> tuple[Ints, Array]:
        """Random prompts of m examples: of one task, of two, of all alike, of random shares, and of none."""
        count, m = len(self.task_set.tasks), self.layout.examples
        by_task = [np.flatnonzero(self.pool.meant == task) for task in range(count + 1)]
        present = np.array([len(at) > 0 for at in by_task])
        chosen = np.zeros((samples, m), dtype=np.int_)
        for row in range(samples):
            shares = np.zeros(count + 1)
            kind = row % 5
            if kind == 0:
                shares[generator.integers(count)] = 1.0
            elif kind == 1:
                shares[generator.integers(count, size=2)] += generator.random(2)
            elif kind == 2:
                shares[:count] = 1.0
            elif kind == 3:
                shares = generator.dirichlet(np.full(count + 1, 0.3))
            else:
                shares[count] = generator.random()
                shares[generator.integers(count)] += 1 - shares[count]
            shares *= present
            shares /= shares.sum()
            tasks = generator.choice(count + 1, size=m, p=shares)
            chosen[row] = [by_task[task][generator.integers(len(by_task[task]))] for task in tasks]
        return chosen, queries(self.task_set, generator, samples)

    def _query(self, chosen: Ints, asked: Array, shown: int) -> Array:
        """The query at the EQ after `shown` examples."""
        return asked if shown == len(chosen) else self.pool.inputs[chosen[shown]]

    def _climb(
        self, judge: "_Judge", chosen: Ints, query: Array, error: float, runs: int, generator: np.random.Generator
    ) -> tuple[float, Ints, Array]:
        """Exchange one example, or turn the query, as long as that makes the error at the last EQ larger."""
        size = 0.5
        for _ in range(runs):
            trial, asked = np.repeat(chosen[None], CANDIDATES, axis=0), np.repeat(query[None], CANDIDATES, axis=0)
            for row in range(CANDIDATES):
                if len(chosen) and row % 2:
                    trial[row, generator.integers(len(chosen))] = generator.integers(len(self.pool.meant))
            fresh = queries(self.task_set, generator, CANDIDATES)
            turn = generator.standard_normal(asked.shape) * size * self.task_set.bound / np.sqrt(query.shape[1])
            near = asked + turn
            norms = np.linalg.norm(near, axis=-1, keepdims=True)
            near *= np.minimum(1.0, self.task_set.bound / np.maximum(norms, 1e-300))
            for row in range(0, CANDIDATES, 2):
                asked[row] = fresh[row] if row % 4 == 0 else near[row].astype(np.float32)
            errors = judge.errors(trial, asked)[:, -1]
            at = int(errors.argmax())
            if errors[at] > error:
                error, chosen, query = float(errors[at]), trial[at], asked[at]
            else:
                size *= 0.9
        return error, chosen, query


def _steps(total: int, step: int, progress: Progress | None) -> range:
    if progress is not None:
        progress(0.0)
    return range(0, total, step)


def confirm_vectors(layout: VectorLayout, weights: TransformerWeights, target: Float, prompt: VectorPrompt) -> float:
    """|q_hat - target|_max of one prompt in float64."""
    model = VectorTransformer(weights, dtype="float64")
    vectors = torch.from_numpy(layout.vectors(prompt))[None]
    output = model(vectors, torch.tensor([[layout.eq_position(len(prompt.answers))]])).answer[0, 0].numpy()
    error = float(np.abs(output - target).max())
    return error if np.isfinite(error) else float("inf")


class _Judge:
    """Runs prompts of the pool's examples and compares every EQ with the exact target."""

    def __init__(self, searcher: VectorSearcher, weights: TransformerWeights, dtype: str, device: str) -> None:
        self.pool: ExamplePool = searcher.pool
        self.task_set, self.layout, self.device = searcher.task_set, searcher.layout, device
        self.model = VectorTransformer(weights, dtype=dtype, device=device)
        length = self.layout.positions
        each = length * (length * max(weights.heads) + weights.d_model + max(weights.mlp_width, default=0))
        self.batch = max(1, BATCH_NUMBERS // each)

    def errors(self, chosen: Ints, asked: Array) -> Float:
        """|q_hat - q|_max at every EQ, for examples [prompts, m'] and queries [prompts, n, d]: [prompts, m' + 1]."""
        count, shown = chosen.shape
        n, d = self.layout.inputs, self.layout.dim
        rows = np.zeros((count, shown + 1, n + 2, d), dtype=np.float32)
        rows[:, :shown, :n] = self.pool.inputs[chosen]
        rows[:, shown, :n] = asked
        flat = np.concatenate([np.zeros((count, 1, d), dtype=np.float32), rows.reshape(count, -1, d)], axis=1)[:, :-1]
        at = np.array([self.layout.eq_position(example) for example in range(shown + 1)])
        flat[:, at[:-1] + 1] = self.pool.answers[chosen]
        places = torch.from_numpy(np.broadcast_to(at, (count, len(at))).copy()).to(self.device)
        output = self.model(torch.from_numpy(flat).to(self.device), places).answer.to("cpu", torch.float64).numpy()
        values = np.concatenate([self.pool.values[chosen], task_values(self.task_set, asked)[:, None]], axis=1)
        counts = np.zeros(values.shape[:3])
        counts[:, 1:] = np.cumsum(self.pool.follows[chosen], axis=1)
        counts /= np.maximum(np.arange(shown + 1.0), 1.0)[None, :, None]
        errors = np.abs(output - np.einsum("bek,bekd->bed", counts, values)).max(axis=2)
        errors[~np.isfinite(errors)] = np.inf
        return np.asarray(errors)
