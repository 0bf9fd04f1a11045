"""Attention heads: how near their patterns are to those of the construction, and answers without one of them.

- A read head's score is the attention that the answers pay to one input of their own example: the mean over examples of
  the mass on its tokens, for the input place where that is largest.
- An averaging head's score is 1 - TV(a, u): a the attention of the last position, u uniform over the answers.

Heads are found by what they do: a module inside a block that returns attention of shape [batch, heads, length, length]
is its attention, and the last matrix that it applies takes the heads' outputs side by side. Taking a head out sets
its part of that input to 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from construct.errors import InputError
from construct.prompts import parse_prompt
from construct.tasks import TaskSet
from empirical.measures import Floats
from empirical.open_model import PROBE, OpenConstruction, OpenPretrained, recorded
from empirical.positions import Spots, spots_of_layout, spots_of_text
from empirical.settings import Question


@dataclass(frozen=True)
class Ablation:
    """A head to be taken out: layer and head from 0."""

    layer: int
    head: int


@dataclass(frozen=True)
class HeadScores:
    """The scores of all heads, shape [layers, heads] each, NaN where a layer has fewer, and of uniform attention."""

    read: Floats
    average: Floats
    chance: tuple[float, float]

    @staticmethod
    def mean(several: "Sequence[HeadScores]") -> "HeadScores":
        """The means over prompts."""
        chance = np.array([one.chance for one in several]).mean(0)
        return HeadScores(
            np.mean([one.read for one in several], axis=0),
            np.mean([one.average for one in several], axis=0),
            (float(chance[0]), float(chance[1])),
        )


@dataclass(frozen=True)
class Trace:
    """What one prompt leaves.

    Args:
        answers: the stream at the examples' answers after each block, shape [layers, m, d_model].
        last: the stream at the last position after each block, shape [layers, d_model].
        scores: of the heads.
    """

    answers: Floats
    last: Floats
    scores: HeadScores


class Traced(Protocol):
    """A model whose heads can be looked at and taken out."""

    def trace(self, question: Question, task_set: TaskSet) -> Trace:
        """Run one prompt and look."""
        ...

    def probabilities(self, questions: Sequence[Question], without: Ablation | None = None) -> Floats:
        """The probability of each task's answer, shape [N, K]."""
        ...


def score_heads(attention: Sequence[Floats], spots: Spots) -> HeadScores:
    """The scores of all heads on one prompt; `attention` is [heads, length, length] a layer."""
    length = attention[0].shape[-1]
    allowed = np.tril(np.ones((length, length)))
    uniform = (allowed / allowed.sum(-1, keepdims=True))[None]
    patterns = [*attention, uniform]
    most = max(len(one) for one in patterns)
    read, average = np.full((2, len(patterns), most), np.nan)
    ideal = np.zeros(length)
    ideal[list(spots.answers)] = 1 / max(len(spots.answers), 1)
    for layer, pattern in enumerate(patterns):
        places = [
            np.mean(
                [_mass(pattern, at, own[place]) for at, own in zip(spots.answers, spots.inputs, strict=True)], axis=0
            )
            for place in range(len(spots.inputs[0]))
        ]
        read[layer, : len(pattern)] = np.max(places, axis=0)
        average[layer, : len(pattern)] = 1 - np.abs(pattern[:, spots.last] - ideal).sum(-1) / 2
    return HeadScores(read[:-1], average[:-1], (float(read[-1, 0]), float(average[-1, 0])))


def _mass(pattern: Floats, at: int, tokens: Sequence[int]) -> Floats:
    mass: Floats = pattern[:, at, list(tokens)].sum(-1)
    return mass


class TracedConstruction:
    """The heads of a construction."""

    def __init__(self, opened: OpenConstruction) -> None:
        self.opened = opened

    def trace(self, question: Question, task_set: TaskSet) -> Trace:
        """Run one prompt and look."""
        (ids,) = self.opened.batches([question])
        construction = self.opened.construction
        spots = spots_of_layout(construction.layout, parse_prompt(question.text, construction.task_set))
        patterns: list[Floats] = []

        def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            patterns.append(_pattern(module, inputs[0]))

        handles = [block.attention.register_forward_pre_hook(note) for block in self._blocks()]
        try:
            with recorded(self.opened.blocks, every=True) as kept:
                self.opened.model(ids)
        finally:
            for handle in handles:
                handle.remove()
        return _trace(kept, patterns, spots)

    def _blocks(self) -> list[Any]:
        return list(self.opened.blocks)

    def probabilities(self, questions: Sequence[Question], without: Ablation | None = None) -> Floats:
        """The probability of each task's answer."""
        if without is None:
            return self.opened.probabilities(questions)
        attention = self._blocks()[without.layer].attention
        kept = attention.output.clone()
        if without.head < attention.heads:
            attention.output[:, without.head * attention.width : (without.head + 1) * attention.width] = 0
        try:
            return self.opened.probabilities(questions)
        finally:
            attention.output.copy_(kept)


def _pattern(module: Any, stream: Tensor) -> Floats:
    """The attention of one layer of a construction, shape [heads, length, length], for a batch of one."""
    query, key = (
        functional.linear(stream, part).reshape(*stream.shape[:-1], module.heads, module.width).transpose(1, 2)
        for part in (module.query, module.key)
    )
    scores = (query @ key.transpose(-1, -2))[0]
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    found: Floats = scores.masked_fill(later, -torch.inf).softmax(-1).cpu().double().numpy()
    return found


class TracedPretrained:
    """The heads of a Hugging Face model.

    Raises:
        InputError: its attention is not of the usual kind, or was not made to show itself ("eager").
    """

    def __init__(self, opened: OpenPretrained) -> None:
        self.opened = opened
        self._attention, self._outward = self._find()

    def _find(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """For each block its attention, and the last matrix in that."""
        shown: dict[int, list[nn.Module]] = {place: [] for place in range(self.opened.layers)}
        order: list[nn.Module] = []
        handles = []

        def matrix(module: nn.Module, _inputs: Any, _output: Any) -> None:
            order.append(module)

        def attends(place: int) -> Any:
            def note(module: nn.Module, _inputs: Any, output: Any) -> None:
                if _weights(output) is not None:
                    shown[place].append(module)

            return note

        for place, block in enumerate(self.opened.blocks):
            for module in block.modules():
                weight = getattr(module, "weight", None)
                if torch.is_tensor(weight) and weight.ndim == 2:
                    handles.append(module.register_forward_hook(matrix))
                if module is not block:
                    handles.append(module.register_forward_hook(attends(place)))
        try:
            self.opened.scorer.prefill([PROBE])
        finally:
            for handle in handles:
                handle.remove()
        attention, outward = [], []
        for place in range(self.opened.layers):
            if not shown[place]:
                raise InputError(
                    f"block {place + 1} shows no attention of the usual kind: this model's heads cannot be looked at"
                )
            attention.append(shown[place][0])
            inside = {id(module) for module in shown[place][0].modules()}
            outward.append([module for module in order if id(module) in inside][-1])
        return attention, outward

    def trace(self, question: Question, task_set: TaskSet) -> Trace:
        """Run one prompt and look."""
        scorer = self.opened.scorer
        ids, spots = spots_of_text(scorer.encoder, question, task_set)
        patterns: list[Floats] = []

        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            weights = _weights(output)
            assert weights is not None, "the module was chosen for what it returns"
            patterns.append(weights[0].cpu().double().numpy())

        handles = [module.register_forward_hook(note) for module in self._attention]
        try:
            with recorded(self.opened.blocks, every=True) as kept:
                scorer.prefill([ids])
        finally:
            for handle in handles:
                handle.remove()
        return _trace(kept, patterns, spots)

    def probabilities(self, questions: Sequence[Question], without: Ablation | None = None) -> Floats:
        """The probability of each task's answer."""
        with self._taken_out(without):
            return self.opened.probabilities(questions)

    @contextmanager
    def _taken_out(self, without: Ablation | None) -> Iterator[None]:
        if without is None:
            yield
            return
        heads: list[int] = []

        def count(_module: nn.Module, _inputs: Any, output: Any) -> None:
            weights = _weights(output)
            assert weights is not None, "the module was chosen for what it returns"
            heads.append(weights.shape[1])

        seen = self._attention[without.layer].register_forward_hook(count)
        self.opened.scorer.prefill([PROBE])
        seen.remove()

        def cut(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            given = inputs[0].clone()
            width = given.shape[-1] // heads[0]
            given[..., without.head * width : (without.head + 1) * width] = 0
            return (given, *inputs[1:])

        handle = self._outward[without.layer].register_forward_pre_hook(cut)
        try:
            yield
        finally:
            handle.remove()


def _weights(output: Any) -> Tensor | None:
    """The attention in what a module returns."""
    if not isinstance(output, (tuple, list)):
        return None
    found = [one for one in output if torch.is_tensor(one) and one.ndim == 4 and one.shape[-1] == one.shape[-2]]
    return found[0] if found else None


def _trace(kept: Sequence[Tensor], patterns: Sequence[Floats], spots: Spots) -> Trace:
    states = torch.stack([one[0] for one in kept]).numpy()
    return Trace(states[:, list(spots.answers)], states[:, spots.last], score_heads(patterns, spots))


def traced(opened: OpenConstruction | OpenPretrained) -> Traced:
    """The heads of an open model."""
    return TracedConstruction(opened) if isinstance(opened, OpenConstruction) else TracedPretrained(opened)
