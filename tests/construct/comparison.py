"""A construction's answers beside the exact ones of the oracle, at every EQ of a prompt."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from construct.bounds import rounding_bound
from construct.oracle import curve
from construct.prompts import Prompt
from construct.reads import plan_reads
from construct.theorems import Construction
from construct.torch_model import TorchTransformer
from construct.transformer import forward

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """The output q and the evidence at every EQ: shapes [EQs, alphabet] and [EQs, tasks]."""

    output: Floats
    evidence: Floats

    def distance(self, other: "Answers") -> float:
        """The largest 1-norm, over the EQs, of the difference of the outputs or of the evidence."""
        differences = self.output - other.output, self.evidence - other.evidence
        return max(float(np.abs(difference).sum(axis=1).max()) for difference in differences)


def exact_answers(construction: Construction, prompt: Prompt) -> Answers:
    """The oracle's answers, from rationals."""
    exact = curve(construction.task_set, prompt)
    output = np.zeros((len(exact), construction.layout.alphabet_size))
    for row, at_eq in zip(output, exact, strict=True):
        for token, weight in at_eq.target.items():
            row[token] = float(weight)
    return Answers(output, np.array([[float(share) for share in at_eq.evidence] for at_eq in exact]))


def eq_positions(construction: Construction, prompt: Prompt) -> list[int]:
    return [construction.layout.eq_position(index) for index in range(len(prompt.examples) + 1)]


def plain_answers(construction: Construction, prompt: Prompt) -> Answers:
    """The answers of the plain float64 forward pass."""
    at = eq_positions(construction, prompt)
    trace = forward(construction.weights, construction.layout.ids(prompt))
    evidence = construction.stream["evidence"].coordinates
    return Answers(trace.output[at], trace.after_mlp[-1][at][:, evidence])


def torch_answers(construction: Construction, prompt: Prompt, model: TorchTransformer) -> Answers:
    """The answers of the torch module in its format."""
    at = eq_positions(construction, prompt)
    result = model(torch.tensor([construction.layout.ids(prompt)]))
    evidence = construction.stream["evidence"].coordinates
    return Answers(result.answer[0, at].double().numpy(), result.stream[0, at][:, evidence].double().numpy())


def bound_in(construction: Construction, precision: str) -> float | None:
    """The bound of a construction as executed in a format."""
    plan = plan_reads(construction.task_set)
    return rounding_bound(construction.task_set, plan, construction.layout, construction.sharpness, precision)


def excess(construction: Construction, prompt: Prompt, exact: Answers | None = None) -> float:
    """The error of the plain forward pass over its bound: above 1 it refutes the theorem."""
    bound = bound_in(construction, "float64")
    assert bound is not None
    expected = exact_answers(construction, prompt) if exact is None else exact
    return plain_answers(construction, prompt).distance(expected) / bound
