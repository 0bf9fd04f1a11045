"""Prompts of vectors: BOS, m' examples x_1 .. x_n EQ y, then the query x_1 .. x_n EQ, with x and y in R^d.

BOS and EQ are the vector 0; their role is in the position. The layout of positions is that of `construct.prompts`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.errors import PromptError
from construct.residual_stream import Array
from construct.vector_tasks import VectorTaskSet


@dataclass(frozen=True)
class VectorLayout:
    """Where each part of a prompt stands; example `examples` (= m) is the query of a full prompt.

    Args:
        dim: d.
        inputs: n.
        examples: m, the largest number of in-context examples.
    """

    dim: int
    inputs: int
    examples: int

    @property
    def positions(self) -> int:
        """T = (m+1)(n+2): the length of the longest prompt."""
        return (self.examples + 1) * (self.inputs + 2)

    def input_position(self, example: int, place: int) -> int:
        """The position of input `place` of example `example`, both from 0."""
        return 1 + example * (self.inputs + 2) + place

    def eq_position(self, example: int) -> int:
        """The position of the EQ of example `example`, where its answer is due."""
        return (example + 1) * (self.inputs + 2) - 1

    def vectors(self, prompt: "VectorPrompt") -> Array:
        """What stands at each position, shape [(m'+1)(n+2), d]. Raises PromptError when it has more than m examples."""
        count = len(prompt.answers)
        if count > self.examples:
            raise PromptError(
                f"the prompt has {count} examples: this construction takes at most {self.examples}; "
                f"build one with --examples {count}"
            )
        rows = np.zeros((count + 1, self.inputs + 2, self.dim), dtype=np.float32)
        rows[:count, : self.inputs] = prompt.inputs
        rows[count, : self.inputs] = prompt.query
        # An answer stands two places after its inputs, at the first place of the next row.
        flat = np.concatenate([np.zeros((1, self.dim), dtype=np.float32), rows.reshape(-1, self.dim)])
        for example in range(count):
            flat[self.eq_position(example) + 1] = prompt.answers[example]
        return flat[: self.eq_position(count) + 1]


@dataclass(frozen=True, eq=False)
class VectorPrompt:
    """m' in-context examples and a query.

    Args:
        inputs: shape [m', n, d].
        answers: shape [m', d].
        query: shape [n, d].
    """

    inputs: Array
    answers: Array
    query: Array

    def head(self, count: int) -> "VectorPrompt":
        """The prompt that ends at the EQ after `count` examples."""
        query = self.query if count == len(self.answers) else self.inputs[count]
        return VectorPrompt(self.inputs[:count], self.answers[:count], query)


def vector_prompt(inputs: object, answers: object, query: object, task_set: VectorTaskSet) -> VectorPrompt:
    """A prompt of nested lists or arrays of numbers, rounded to float32.

    Raises:
        PromptError: a shape does not fit the tasks, or a number is not finite.
    """
    n, d = task_set.inputs, task_set.dim
    asked = _numbers(query, "query", (n, d))
    given = _numbers(answers, "answers", (-1, d))
    shown = _numbers(inputs, "inputs", (len(given), n, d))
    return VectorPrompt(shown, given, asked)


def _numbers(value: object, name: str, shape: tuple[int, ...]) -> Array:
    expected = "[" + ", ".join("m'" if size < 0 else str(size) for size in shape) + "]"
    try:
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "iuf":
            raise ValueError("it holds something that is not a number")
        wide: NDArray[np.float64] = numbers.astype(np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise PromptError(f"{name} is no array of numbers ({error}): expected shape {expected}") from error
    if wide.size == 0 and 0 in (shape[0], wide.shape[0]) and shape[0] <= 0:
        return np.zeros((0, *shape[1:]), dtype=np.float32)
    if wide.ndim != len(shape) or any(size >= 0 and size != got for size, got in zip(shape, wide.shape, strict=True)):
        raise PromptError(f"{name} has the shape {list(wide.shape)}: expected {expected}")
    with np.errstate(over="ignore"):
        rounded = wide.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise PromptError(f"{name} holds a number that is not finite in float32: correct it")
    rounded[np.abs(rounded) < np.finfo(np.float32).tiny] = 0.0
    return rounded


def first_outside(prompt: VectorPrompt, task_set: VectorTaskSet) -> str | None:
    """What of a prompt is longer than the tasks' domain allows, in words; None if nothing is."""
    limits = (
        ("an input", prompt.inputs.reshape(-1, task_set.dim), task_set.bound, task_set.inputs),
        ("the query's input", prompt.query, task_set.bound, task_set.inputs),
        ("an answer", prompt.answers, task_set.answer_bound, 1),
    )
    for name, rows, limit, each in limits:
        norms = np.linalg.norm(rows.astype(np.float64), axis=-1)
        if len(norms) and norms.max() > limit * (1 + 2.0**-20):
            at = int(norms.argmax())
            place = f" {at % each}" if each > 1 else ""
            example = "" if name.startswith("the query") else f" of example {at // each}"
            return f"{name}{place}{example} has norm {norms[at]:.6g}: these tasks allow at most {limit:g}"
    return None
