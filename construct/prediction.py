"""Answers of a construction to prompts, by the torch module."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from construct.prompts import Prompt
from construct.theorems import Construction
from construct.torch_model import Progress, TorchTransformer

BATCH_TOKENS = 2**14
"""Prompts are run together as long as they have at most so many tokens, padding included."""


@dataclass(frozen=True)
class Prediction:
    """The model's answer at one EQ.

    Args:
        query: the input tokens of the query, as text.
        distribution: token -> probability, the most probable first; empty where there is no answer.
        evidence: task -> w_k, the model's share of the examples consistent with the task.
        explained: the sum of the output q; below 1 where examples are explained by no task, above 1 where
            some are explained by several.
        examples: m', the examples before this EQ.
    """

    query: str
    distribution: dict[str, float]
    evidence: dict[str, float]
    explained: float
    examples: int

    @property
    def verdict(self) -> str:
        """One of "answer", "no evidence" (no task explains an example), "no answer" (none answers the query)."""
        if self.distribution:
            return "answer"
        return "no evidence" if max(self.evidence.values()) < self.threshold else "no answer"

    @property
    def threshold(self) -> float:
        """Weights are multiples of 1/m': what is below half of that is none."""
        return 0.5 / max(self.examples, 1)


class Predictor:
    """Runs a construction on prompts.

    Args:
        construction: the construction.
        dtype: "float64", "float32", "bfloat16" or "float16".
        device: a torch device.
        dense: apply the tables' weights densely.

    Raises:
        InputError: the dtype or device cannot be used.
    """

    def __init__(
        self, construction: Construction, *, dtype: str = "float32", device: str = "cpu", dense: bool = False
    ) -> None:
        self.construction = construction
        self.model = TorchTransformer(construction.weights, dtype=dtype, device=device, dense=dense)
        self.device = device

    def predict(self, prompts: Sequence[Prompt], progress: Progress | None = None) -> list[Prediction]:
        """The answer to each prompt's query. Raises PromptError for a prompt with more than m examples."""
        layout = self.construction.layout
        encoded = [layout.ids(prompt) for prompt in prompts]
        longest_first = sorted(range(len(prompts)), key=lambda index: -len(encoded[index]))
        answers: dict[int, Prediction] = {}
        start = 0
        while start < len(prompts):
            batch_size = max(1, BATCH_TOKENS // len(encoded[longest_first[start]]))
            batch = longest_first[start : start + batch_size]
            final = [[len(encoded[index]) - 1] for index in batch]
            share = None if progress is None else _share(progress, start, len(batch), len(prompts))
            for index, row in zip(batch, self._run([encoded[index] for index in batch], final, share), strict=True):
                prompt = prompts[index]
                answers[index] = self._prediction(prompt.query, len(prompt.examples), *row[0])
            start += len(batch)
        return [answers[index] for index in range(len(prompts))]

    def curve(self, prompt: Prompt, progress: Progress | None = None) -> list[Prediction]:
        """The in-context learning curve: the answers at every EQ, from one forward pass."""
        layout = self.construction.layout
        ids = layout.ids(prompt)
        queries = [example.inputs for example in prompt.examples] + [prompt.query]
        at = [layout.eq_position(index) for index in range(len(queries))]
        (row,) = self._run([ids], [at], progress)
        return [
            self._prediction(query, seen, *values)
            for seen, (query, values) in enumerate(zip(queries, row, strict=True))
        ]

    def _run(
        self, ids: list[list[int]], at: list[list[int]], progress: Progress | None
    ) -> list[list[tuple[list[float], list[float]]]]:
        """For each prompt and position asked for: the evidence and the output, as floats."""
        longest = max(map(len, ids))
        padded = [row + [self.construction.layout.eq] * (longest - len(row)) for row in ids]
        result = self.model(
            torch.tensor(padded, device=self.device), torch.tensor(at, device=self.device), progress=progress
        )
        evidence = result.stream[..., self.construction.stream["evidence"].coordinates].double().tolist()
        answer = result.answer.double().tolist()
        return [list(zip(*pair, strict=True)) for pair in zip(evidence, answer, strict=True)]

    def _prediction(
        self, query: tuple[int, ...], examples: int, evidence: list[float], answer: list[float]
    ) -> Prediction:
        task_set = self.construction.task_set
        text = task_set.format.separator.join(task_set.alphabet[token] for token in query)
        weights = {task.name: weight for task, weight in zip(task_set.tasks, evidence, strict=True)}
        explained = sum(answer)
        prediction = Prediction(text, {}, weights, explained, examples)
        if explained < prediction.threshold:
            return prediction
        ranked = sorted((token for token, mass in enumerate(answer) if mass > 0), key=lambda token: -answer[token])
        distribution = {task_set.alphabet[token]: answer[token] / explained for token in ranked}
        return Prediction(text, distribution, weights, explained, examples)


def _share(progress: Progress, start: int, size: int, total: int) -> Progress:
    return lambda share: progress((start + share * size) / total)
