"""What exact learners answer to the study's prompts (`empirical.bayes`), in the form in which models' answers stand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from construct.tasks import TaskSet
from empirical import bayes
from empirical.measures import Booleans, Floats
from empirical.study_measures import DIGITS, Reply, condition, ranks
from empirical.study_prompts import Probe, Probes
from empirical.study_records import ASSUMED, EXACT, LAST, MIXING, ONE_TASK, Answers, Prediction, Setup
from empirical.training.pools import task_tensors

LEAST_NOISE = 0.01
"""The label noise that a learner of one task believes in where training had none. Mixed prompts are impossible to one
that believes in none; in the limit of little noise it answers as here, but that divergences are infinite there."""


MIXED_TASKS = 4
"""The learner of mixed prompts is asked where there are at most so many tasks: its sums run over all ways to divide
examples among the tasks that they fit."""


@dataclass(frozen=True)
class Learner:
    """A learner.

    Args:
        name: of the prediction.
        label_noise: believed.
        mixed: the believed share of mixed prompts.
    """

    name: str
    label_noise: float = 0.0
    mixed: float = 0.0

    def posterior(self, consistent: Booleans, alphabet_size: int) -> Floats:
        """The weights of the tasks after the examples [N, m, K]: [N, K]; all alike without examples."""
        count, shown, tasks = consistent.shape
        if not shown:
            return np.full((count, tasks), 1 / tasks)
        if self.name == EXACT:
            counts = consistent.sum(1)
            return np.asarray(counts / counts.sum(-1, keepdims=True), dtype=np.float64)
        if self.name in (ONE_TASK, LAST):
            seen = consistent[:, -1:] if self.name == LAST else consistent
            return bayes.one_task(seen, label_noise=self.label_noise, alphabet_size=alphabet_size)
        if self.name == MIXING:
            return bayes.mixed_prompts(consistent, label_noise=self.label_noise, alphabet_size=alphabet_size)
        return bayes.training_distribution(
            consistent, mixed=self.mixed, label_noise=self.label_noise, alphabet_size=alphabet_size
        )

    def reply(self, probe: Probe, alphabet_size: int) -> Reply:
        """The answers to a probe."""
        whole = self._tokens(probe.consistent, probe.answers, alphabet_size)
        own = np.take_along_axis(whole, probe.answers, 1)
        above, level = ranks(torch.tensor(whole), torch.tensor(own))
        with np.errstate(divide="ignore"):
            return Reply(np.log(own), above.numpy(), level.numpy())

    def accuracy(self, task_set: TaskSet, probes: Probes) -> dict[str, tuple[float, ...]]:
        """The chance of a right answer to pure prompts after each number of examples; ties are broken at random."""
        tensors, size = task_tensors(task_set), len(task_set.alphabet)
        found = {}
        for name, ids in probes.pure.items():
            blocks = ids[:, 1:].reshape(len(ids), len(probes.positions), task_set.inputs + 2)
            every = tensors.all_answers(blocks[..., : task_set.inputs])
            right = blocks[..., -1].numpy()
            consistent, answers = (every == blocks[..., -1:]).numpy(), every.numpy()
            shares = []
            for shown in range(len(probes.positions)):
                whole = self._tokens(consistent[:, :shown], answers[:, shown], size)
                best = whole > whole.max(-1, keepdims=True) - 1e-12
                hit = np.take_along_axis(best, right[:, shown, None], 1)[:, 0] / best.sum(-1)
                shares.append(round(float(hit.mean()), DIGITS))
            found[name] = tuple(shares)
        return found

    def _tokens(self, consistent: Booleans, answers: np.ndarray, alphabet_size: int) -> Floats:
        """The probabilities of all tokens of the alphabet, [N, V]; tasks may have one answer."""
        posterior = self.posterior(consistent, alphabet_size)
        whole = np.full((len(posterior), alphabet_size), self.label_noise / alphabet_size)
        rows = np.arange(len(posterior))[:, None]
        np.add.at(whole, (rows, answers), (1 - self.label_noise) * posterior)
        return whole


def learners(setup: Setup, *, label_noise: float, mixed: float) -> tuple[Learner, ...]:
    """The learners that a model trained with a label noise and a share of mixed prompts is compared with."""
    found = [Learner(EXACT), *(Learner(name, max(label_noise, LEAST_NOISE)) for name in (ONE_TASK, LAST))]
    if setup.tasks <= MIXED_TASKS:
        found.append(Learner(MIXING, label_noise, 1.0))
    return (*found, Learner(ASSUMED, label_noise, mixed)) if mixed else tuple(found)


def replies(found: Sequence[Learner], task_set: TaskSet, probes: Probes) -> dict[str, tuple[Reply, ...]]:
    """The learners' answers to each probe of the curve and of the uniform mixtures."""
    every = (*probes.curve, *probes.uniform)
    return {one.name: tuple(one.reply(probe, len(task_set.alphabet)) for probe in every) for one in found}


def prediction(learner: Learner, task_set: TaskSet, setup: Setup, probes: Probes, *, kept: int) -> Prediction:
    """The prediction of a learner as it stands in the record."""
    others = replies(learners(setup, label_noise=0.0, mixed=0.0), task_set, probes)
    every = [
        condition(
            learner.reply(probe, len(task_set.alphabet)),
            probe,
            {name: answers[place] for name, answers in others.items() if name != learner.name},
            kept=kept,
        )
        for place, probe in enumerate((*probes.curve, *probes.uniform))
    ]
    cut = len(probes.curve)
    answers = Answers(learner.accuracy(task_set, probes), tuple(every[:cut]), tuple(every[cut:]))
    return Prediction(learner.name, setup, learner.label_noise, learner.mixed, answers)
