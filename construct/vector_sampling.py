"""Random prompts of vectors, from a mixture of a construction's tasks."""

import numpy as np

from construct.errors import InputError
from construct.vector_comparison import ATTENTION, Comparison
from construct.vector_oracle import vector_answer
from construct.vector_prompts import VectorPrompt, vector_prompt
from construct.vector_tasks import VectorTaskSet

TRIES = 1000
"""Examples drawn anew where one is neither near a task nor a margin away from it."""


def sample_vector_prompt(
    task_set: VectorTaskSet,
    comparison: Comparison,
    examples: int,
    generator: np.random.Generator,
    *,
    noise: float = 0.0,
) -> VectorPrompt:
    """A prompt in the domain: inputs of norm R in random directions, each answer that of a random task.

    Args:
        task_set: the tasks.
        comparison: its distance decides what is in the domain.
        examples: m'.
        generator: of the draw.
        noise: the share of examples whose answer is a random vector, which follows no task.

    Raises:
        InputError: the tasks are so near each other that no example in the domain was found.
    """
    n, d = task_set.inputs, task_set.dim
    shown = np.zeros((examples, n, d))
    answers = np.zeros((examples, d))
    for index in range(examples):
        for _ in range(TRIES):
            shown[index] = _directions(generator, (n, d)) * task_set.bound
            if generator.random() < noise:
                size = 1.0 if comparison.kind == ATTENTION else task_set.answer_bound * generator.random()
                answers[index] = _directions(generator, (d,)) * size
            else:
                answers[index] = task_set.tasks[generator.integers(len(task_set.tasks))].answer(shown[index])
            one = vector_prompt(shown[index : index + 1], answers[index : index + 1], shown[index], task_set)
            if not vector_answer(task_set, comparison, one).outside:
                break
        else:
            raise InputError(
                f"no example that is within {comparison.tolerance:g} or beyond {comparison.margin:g} of every task was "
                f"found in {TRIES} draws: the tasks are too near each other, choose a smaller margin"
            )
    return vector_prompt(shown, answers, _directions(generator, (n, d)) * task_set.bound, task_set)


def _directions(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    vectors = generator.standard_normal(shape)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-300))
