"""What a model does with pure and mixed prompts while it learns: on the device, all prompts of a kind at once.

Three kinds of prompts, the same at every validation of a run. Pure: all examples of one task; the accuracy by the
number of examples is read off all EQs of one pass. Curve: of two tasks, the first with a share lambda of the examples.
Uniform: all K tasks alike. Mixed prompts show each task exactly its share of the m examples (to the nearest), in random
order, with inputs and a query that every task answers, the query with K different answers.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from empirical.superposition_index import index
from empirical.training.models import logits_at
from empirical.training.prompts import Sampler

LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
BINS = 10
ROUNDS = 200
"""Queries with K different answers are looked for in so many draws."""


@dataclass(frozen=True)
class Validated:
    """What one validation found. Fields are None where no query has a different answer by every task, or K = 1.

    p_k is the probability of task k's answer among all tokens, and P_k that among the K answers: p_k / sum_j p_j.

    Args:
        accuracy: task -> the share of pure prompts of m examples whose query it answers rightly.
        by_examples: task -> the same after 0, 1, ..., m examples.
        mixture: for each lambda the mean p of the first two tasks' answers, and the means of P_1 and of its square.
        kl: mean over uniform prompts of sum_k (1/K) log((1/K) / p_k), as the paper computes it.
        kl_normalised: the same of P.
        kl_of_mean: the same of the mean of P over the prompts.
        other: the mean of 1 - sum_k p_k.
        index: the superposition index of the uniform prompts (`empirical.superposition_index`).
        histogram: how many uniform prompts give their most probable task a P in [0, .1), ..., [.9, 1].
    """

    accuracy: dict[str, float]
    by_examples: dict[str, list[float]]
    mixture: list[dict[str, float]] | None
    kl: float | None
    kl_normalised: float | None
    kl_of_mean: float | None
    other: float | None
    index: float | None
    histogram: list[int] | None

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON has it."""
        return asdict(self)


class Validation:
    """The prompts of a run's validations.

    Args:
        sampler: draws them; the noise of its answers and its mixing are left out.
        names: of the tasks.
        prompts: how many of each kind, and of each task or lambda.
        batch: prompts that are run together.
        seed: of the draw, which is apart from the training prompts'.
    """

    def __init__(self, sampler: Sampler, names: tuple[str, ...], *, prompts: int, batch: int, seed: int) -> None:
        self._sampler = Sampler(sampler.tensors, sampler.layout)
        self._names, self._prompts, self._batch = names, prompts, batch
        self._generator = torch.Generator(device=sampler.device).manual_seed(2**32 + seed)
        tasks = sampler.tensors.tasks
        self._pure = torch.stack([self._of_one(task) for task in range(tasks)])
        queries = self._queries() if tasks > 1 else None
        self._uniform = self._curve = None
        if queries is not None:
            self._uniform = self._mixed(queries, [1 / tasks] * tasks)
            rest = [0.0] * (tasks - 2)
            self._curve = [self._mixed(queries, [share, 1 - share, *rest]) for share in LAMBDAS]

    def _of_one(self, task: int) -> Tensor:
        """Pure prompts [prompts, T+1]."""
        pool = torch.full((self._prompts,), task, device=self._sampler.device)
        inputs = self._sampler.inputs(pool, self._generator)
        return self._sampler.assemble(
            inputs, self._sampler.tensors.answer(pool[:, None].expand(inputs.shape[:2]), inputs)
        )

    def _queries(self) -> Tensor | None:
        """Inputs of m examples and a query with K different answers: [found, m+1, n]; None where there are none."""
        tensors, kept = self._sampler.tensors, []
        pool = torch.full((self._prompts,), tensors.tasks, device=self._sampler.device)
        wanted = self._prompts
        for _ in range(ROUNDS):
            inputs = self._sampler.inputs(pool, self._generator)
            ordered = tensors.all_answers(inputs[:, -1]).sort(-1).values
            kept.append(inputs[(ordered[:, 1:] != ordered[:, :-1]).all(-1)])
            wanted -= len(kept[-1])
            if wanted <= 0:
                break
        found = torch.cat(kept)[: self._prompts]
        return found if len(found) else None

    def _mixed(self, inputs: Tensor, weights: list[float]) -> Tensor:
        """Prompts [found, T+1] whose first m examples have the tasks' shares; the last answer is the first task's."""
        count, shown, _ = inputs.shape
        labels = torch.tensor(_shares(weights, shown - 1), device=self._sampler.device)
        # Which of equal fractions gets the example left over is the first task's luck; the order is random.
        order = torch.rand(count, shown - 1, generator=self._generator, device=self._sampler.device).argsort(-1)
        task = torch.cat([labels[order], torch.zeros(count, 1, dtype=torch.int64, device=order.device)], dim=1)
        return self._sampler.assemble(inputs, self._sampler.tensors.answer(task, inputs))

    @torch.no_grad()
    def measure(self, model: Any) -> Validated:
        """Ask a model; it is left in the mode that it was in."""
        training = model.training
        model.eval()
        try:
            by_examples = self._accuracy(model)
            curve = None if self._curve is None else [self._probabilities(model, ids).cpu() for ids in self._curve]
            uniform = None if self._uniform is None else self._probabilities(model, self._uniform).cpu()
        finally:
            model.train(training)
        return Validated(
            accuracy={name: shares[-1] for name, shares in by_examples.items()},
            by_examples=by_examples,
            mixture=None if curve is None else [_point(*pair) for pair in zip(LAMBDAS, curve, strict=True)],
            **_divergences(None if uniform is None else uniform.double().numpy()),
        )

    def _accuracy(self, model: Any) -> dict[str, list[float]]:
        positions = self._sampler.eq_positions
        right = []
        for ids in self._pure:
            parts = [
                logits_at(model, part[:, :-1], positions).argmax(-1) == part[:, positions + 1]
                for part in torch.split(ids, self._batch)
            ]
            right.append(torch.cat(parts).float().mean(0).tolist())
        return {name: [round(share, 6) for share in shares] for name, shares in zip(self._names, right, strict=True)}

    def _probabilities(self, model: Any, ids: Tensor) -> Tensor:
        """The probabilities of the K tasks' answers to the queries: [prompts, K]."""
        n, last, found = self._sampler.tensors.inputs, self._sampler.eq_positions[-1:], []
        for part in torch.split(ids, self._batch):
            answers = self._sampler.tensors.all_answers(part[:, -n - 2 : -2])
            found.append(logits_at(model, part[:, :-1], last)[:, 0].float().softmax(-1).gather(1, answers))
        return torch.cat(found)


def _shares(weights: list[float], examples: int) -> list[int]:
    """A task for each of m examples: each task its share, what is left over to the largest fractions."""
    wanted = np.array(weights) * examples
    counts = np.floor(wanted + 1e-9).astype(int)
    order = np.argsort(-np.round(wanted - counts, 9), kind="stable")
    counts[order[: examples - int(counts.sum())]] += 1
    return [task for task, count in enumerate(counts) for _ in range(int(count))]


def _point(share: float, probabilities: Tensor) -> dict[str, float]:
    """One point of the curve."""
    first = probabilities[:, 0] / probabilities[:, :2].sum(-1).clamp(min=1e-30)
    values = {
        "first": probabilities[:, 0].mean(),
        "second": probabilities[:, 1].mean(),
        "normalised": first.mean(),
        "square": first.square().mean(),
    }
    return {"lambda": share, **{name: round(float(value), 6) for name, value in values.items()}}


def _divergences(shares: np.ndarray | None) -> dict[str, Any]:
    """The fields of `Validated` that the uniform prompts give."""
    if shares is None:
        return dict.fromkeys(("kl", "kl_normalised", "kl_of_mean", "other", "index", "histogram"))
    shares = np.maximum(shares, 1e-30)
    tasks, total = shares.shape[1], shares.sum(-1, keepdims=True)
    normalised = shares / total
    counts, _ = np.histogram(np.minimum(normalised.max(-1), 1.0), bins=BINS, range=(0.0, 1.0))
    found = {
        "kl": -np.log(shares * tasks).mean(),
        "kl_normalised": -np.log(normalised * tasks).mean(),
        "kl_of_mean": -np.log(normalised.mean(0) * tasks).mean(),
        "other": 1 - total.mean(),
        "index": index(normalised),
    }
    rounded = {name: round(float(value), 6) for name, value in found.items()}
    # Where the mean is certain the index is undefined, which JSON has no number for.
    known = {name: value if value == value else None for name, value in rounded.items()}
    return {**known, "histogram": [int(count) for count in counts]}


def in_words(found: Validated) -> Iterator[str]:
    """The figures of a progress line."""
    yield "accuracy " + " ".join(f"{name} {share:.2f}" for name, share in found.accuracy.items())
    if found.kl is not None:
        yield f"KL {found.kl:.3f}"
    if found.index is not None:
        yield f"S {found.index:.2f}"
