"""Answers of a construction on vectors to prompts, by the torch module."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from construct.errors import PromptError
from construct.vector_model import VectorTransformer
from construct.vector_oracle import example_distances, not_unit
from construct.vector_prompts import VectorPrompt, first_outside
from construct.vector_theorem import VectorConstruction


@dataclass(frozen=True)
class VectorPrediction:
    """The model's answer at one EQ.

    Args:
        vector: q_hat, shape [d].
        weights: task -> w_k, the model's share of the examples that follow the task.
        examples: m', the examples before this EQ.
    """

    vector: NDArray[np.float64]
    weights: dict[str, float]
    examples: int

    @property
    def explained(self) -> float:
        """The sum of the weights: below 1 where examples follow no task, above 1 where some follow several."""
        return sum(self.weights.values())


class VectorPredictor:
    """Runs a construction on prompts of vectors; the arguments are those of `construct.prediction.Predictor`."""

    def __init__(
        self, construction: VectorConstruction, *, dtype: str = "float32", device: str = "cpu", dense: bool = False
    ) -> None:
        self.construction = construction
        self.model = VectorTransformer(construction.weights, dtype=dtype, device=device, dense=dense)
        self.device = device

    def predict(self, prompt: VectorPrompt) -> VectorPrediction:
        """The answer to the query. Raises PromptError for a prompt outside the domain."""
        return self._run(prompt, [len(prompt.answers)])[0]

    def curve(self, prompt: VectorPrompt) -> list[VectorPrediction]:
        """The in-context learning curve: the answers at every EQ, from one forward pass."""
        return self._run(prompt, list(range(len(prompt.answers) + 1)))

    def _run(self, prompt: VectorPrompt, counts: Sequence[int]) -> list[VectorPrediction]:
        check_domain(self.construction, prompt)
        layout, stream = self.construction.layout, self.construction.stream
        at = [[layout.eq_position(count) for count in counts]]
        vectors = torch.from_numpy(layout.vectors(prompt))[None].to(self.device)
        result = self.model(vectors, torch.tensor(at, device=self.device))
        answers = result.answer[0].double().cpu().numpy()
        weights = result.stream[0][:, stream["weight"].coordinates].double().tolist()
        names = [task.name for task in self.construction.task_set.tasks]
        return [
            VectorPrediction(answer, dict(zip(names, row, strict=True)), count)
            for count, answer, row in zip(counts, answers, weights, strict=True)
        ]


def check_domain(construction: VectorConstruction, prompt: VectorPrompt) -> None:
    """Raise PromptError for a prompt whose vectors are longer than the construction is made for."""
    outside = first_outside(prompt, construction.task_set) or not_unit(construction.comparison, prompt)
    if outside is not None:
        raise PromptError(f"{outside}; scale the vectors, or build with a larger --bound")


def unclear_examples(construction: VectorConstruction, prompt: VectorPrompt) -> list[tuple[int, str, float]]:
    """(example, task, distance) where an example neither follows a task nor is a margin away."""
    comparison = construction.comparison
    distances = example_distances(construction.task_set, comparison, prompt)
    between = (distances > comparison.tolerance) & (distances < comparison.margin)
    tasks = construction.task_set.tasks
    return [(int(example), tasks[task].name, float(distances[example, task])) for example, task in np.argwhere(between)]
