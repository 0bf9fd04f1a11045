"""Task vectors: what the state at a prompt's last position says about the task, and what changing it does.

A task's vector V_k(l) is the mean, over prompts that show task k alone, of the residual stream at the last position
after block l; each prompt has a query of its own, a dummy. It is put into other prompts in one of two ways:

- replace (Hendel, Geva, Globerson 2023, arXiv 2310.15916): the state of a prompt without examples becomes V_k;
- shift: V_k - V_0 is added to the state of a prompt that shows the uniform mixture, V_0 being the mean state of such
  prompts. What the dummy queries put into both means cancels.

In a construction that keeps its evidence apart from the query until a later layer, such as the seven-layer one
after its fifth layer, the state is (parts of the query) + sum_k w_k a_k with fixed vectors a_k. Then the vectors of
mixtures are exactly the convex combinations of those of the tasks, and the shift moves the mixture exactly; while the
replaced state also has the dummy queries' parts in the place of the query's own, so replacing does not transfer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from construct.errors import InputError
from construct.tasks import TaskSet
from empirical.measures import Estimate, Floats, mean
from empirical.open_model import ADD, REPLACE, Edit, OpenModel
from empirical.settings import Cell, Question, Rules, draw

SHIFT = "shift"
MODES = (REPLACE, SHIFT)


@dataclass(frozen=True)
class Vectors:
    """What was extracted.

    Args:
        single: V_k, shape [K, layers, d_model].
        base: V_0, the mean state of the prompts that are patched, shape [layers, d_model].
        mode: how they are put into other prompts.
    """

    single: Floats
    base: Floats
    mode: str

    def edit(self, layer: int, weights: Sequence[float]) -> Edit:
        """The change that puts the convex combination sum_k lambda_k V_k into a prompt."""
        vector = np.tensordot(np.asarray(weights), self.single[:, layer], 1)
        if self.mode == REPLACE:
            return Edit(layer, vector, REPLACE)
        return Edit(layer, vector - self.base[layer], ADD)


@dataclass(frozen=True)
class Plan:
    """How vectors are extracted and tried.

    Args:
        task_set: the tasks.
        examples: m, in each prompt that a vector is taken from.
        prompts: how many prompts a vector is the mean of, and how many it is tried on.
        mode: "replace" or "shift".
        seed: of the draws.
    """

    task_set: TaskSet
    examples: int
    prompts: int
    mode: str = SHIFT
    seed: int = 0

    def questions(self, mixture: Sequence[float], *, held_out: bool = False) -> list[Question]:
        """Prompts of a mixture; those held out have other queries and examples."""
        seed = 2 * self.seed + held_out
        return list(draw(self.task_set, Cell(tuple(mixture), self.examples), self.prompts, Rules(seed=seed)))

    def held_out(self) -> list[Question]:
        """The prompts that vectors are tried on."""
        examples = 0 if self.mode == REPLACE else self.examples
        cell = Cell(self.uniform, examples)
        return list(draw(self.task_set, cell, self.prompts, Rules(seed=2 * self.seed + 1)))

    @property
    def uniform(self) -> tuple[float, ...]:
        """The uniform mixture."""
        count = len(self.task_set.tasks)
        return (1 / count,) * count

    def alone(self, task: int) -> tuple[float, ...]:
        """The mixture of one task."""
        return tuple(float(task == other) for other in range(len(self.task_set.tasks)))


def extract(model: OpenModel, plan: Plan) -> Vectors:
    """The vectors of the tasks, and of the prompts that they are put into."""
    if plan.mode not in MODES:
        raise InputError(f"the mode is {plan.mode!r}: expected one of {', '.join(MODES)}")
    if plan.prompts < 4:
        raise InputError(f"{plan.prompts} prompts: a vector's noise needs at least 4")
    tasks = range(len(plan.task_set.tasks))
    single = [model.states(plan.questions(plan.alone(task))).mean(0) for task in tasks]
    base = model.states(plan.questions(plan.uniform)).mean(0)
    return Vectors(np.stack(single), base, plan.mode)


@dataclass(frozen=True)
class Transfer:
    """What putting in a vector does.

    Args:
        accuracy: for each layer, how often the patched prompt's most probable task is the vector's, over all tasks.
        probability: for each layer, the mean probability of that task's answer.
        before: both without the patch: the accuracy is what chance and the prompts' own mixture give.
    """

    accuracy: tuple[float, ...]
    probability: tuple[float, ...]
    before: tuple[float, float]

    @property
    def layer(self) -> int:
        """The layer that transfers best; the earliest of equals."""
        ranked = list(zip(self.accuracy, self.probability, strict=True))
        # Accuracies are multiples of 1/prompts; probabilities that differ by rounding are equal.
        return max(range(len(ranked)), key=lambda at: (ranked[at][0], round(ranked[at][1], 4), -at))


def transfer(model: OpenModel, plan: Plan, vectors: Vectors) -> Transfer:
    """Put each task's vector into held-out prompts, layer by layer."""
    questions = plan.held_out()
    tasks = len(plan.task_set.tasks)
    plain = model.probabilities(questions)
    accuracy, probability = [], []
    for layer in range(model.layers):
        patched = [model.probabilities(questions, vectors.edit(layer, plan.alone(task))) for task in range(tasks)]
        accuracy.append(float(np.mean([_wins(found, task) for task, found in enumerate(patched)])))
        probability.append(float(np.mean([found[:, task].mean() for task, found in enumerate(patched)])))
    before = float(np.mean([_wins(plain, task) for task in range(tasks)]))
    return Transfer(tuple(accuracy), tuple(probability), (before, float(plain.mean())))


def _wins(probabilities: Floats, task: int) -> float:
    """How often one task's answer is more probable than every other's by a thousandth: rounding decides nothing."""
    others = np.delete(probabilities, task, axis=1).max(1, initial=0.0)
    return float((probabilities[:, task] > 1.001 * others).mean())


@dataclass(frozen=True)
class Outputs:
    """What one convex combination of the vectors makes the model answer.

    Args:
        weights: lambda.
        probability: of each task's answer.
        other: the mass elsewhere.
    """

    weights: tuple[float, ...]
    probability: tuple[Estimate, ...]
    other: Estimate


def combine(
    model: OpenModel, plan: Plan, vectors: Vectors, layer: int, mixtures: Sequence[Sequence[float]]
) -> list[Outputs]:
    """Put V = sum_k lambda_k V_k into held-out prompts, for several lambda."""
    questions = plan.held_out()
    found = []
    for weights in mixtures:
        shown = model.probabilities(questions, vectors.edit(layer, weights))
        each = tuple(mean(shown[:, task]) for task in range(shown.shape[1]))
        found.append(Outputs(tuple(weights), each, mean(1 - shown.sum(1))))
    return found
