"""Prompts of vectors as files: JSON, or an .npz archive of arrays.

    {"examples": [{"inputs": [[0.6, 0.8], [1, 0]], "answer": [0.8, 0.6]}], "query": [[0, 1], [1, 0]]}

The archive holds `inputs` [m', n, d], `answers` [m', d] and `query` [n, d]; without examples `query` is enough.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from construct.errors import InputError, PromptError
from construct.vector_prompts import VectorPrompt, vector_prompt
from construct.vector_task_file import read_json, read_npz
from construct.vector_tasks import VectorTaskSet


def load_vector_prompt(source: str, task_set: VectorTaskSet) -> VectorPrompt:
    """Read a prompt: a .npz or JSON file, or - for JSON on standard input.

    Raises:
        PromptError: it cannot be read, or does not fit the tasks.
    """
    try:
        if source == "-":
            return prompt_from_json(_standard_input(), task_set)
        path = Path(source)
        if path.suffix == ".npz":
            return _from_arrays(read_npz(path), task_set)
        return prompt_from_json(read_json(path), task_set)
    except PromptError as error:
        raise PromptError(f"the prompt {source}: {error}") from error
    except InputError as error:
        raise PromptError(f"the prompt {error}") from error


def prompt_from_json(data: Any, task_set: VectorTaskSet) -> VectorPrompt:
    """Make a prompt of a JSON object. Raises PromptError naming the field."""
    sketch = 'an object such as {"examples": [{"inputs": [[..], ..], "answer": [..]}], "query": [[..], ..]}'
    if not isinstance(data, dict) or "query" not in data or data.keys() - {"examples", "query"}:
        raise PromptError(f"expected {sketch}")
    examples = data.get("examples", [])
    if not isinstance(examples, list):
        raise PromptError(f"examples is no list: expected {sketch}")
    for place, example in enumerate(examples):
        if not isinstance(example, dict) or example.keys() != {"inputs", "answer"}:
            raise PromptError(f"examples[{place}]: expected an object with inputs and answer, in {sketch}")
    inputs = [example["inputs"] for example in examples]
    return vector_prompt(inputs, [example["answer"] for example in examples], data["query"], task_set)


def prompt_to_json(prompt: VectorPrompt) -> dict[str, Any]:
    """The object that a JSON prompt holds; `prompt_from_json` is its inverse."""
    examples = [
        {"inputs": _lists(inputs), "answer": _lists(answer)}
        for inputs, answer in zip(prompt.inputs, prompt.answers, strict=True)
    ]
    return {"examples": examples, "query": _lists(prompt.query)}


def _lists(array: np.ndarray) -> Any:
    """Nested lists of numbers whose text is the shortest that gives the same float32 again."""
    return [_lists(row) for row in array] if array.ndim > 1 else [float(str(number)) for number in array]


def _from_arrays(arrays: dict[str, np.ndarray], task_set: VectorTaskSet) -> VectorPrompt:
    for unknown in sorted(arrays.keys() - {"inputs", "answers", "query"}):
        raise PromptError(f"it has an unknown array {unknown!r}: expected inputs, answers and query")
    if "query" not in arrays:
        raise PromptError("it has no array 'query': add it, of shape [n, d]")
    if ("inputs" in arrays) != ("answers" in arrays):
        raise PromptError("it has only one of the arrays 'inputs' and 'answers': give both, or neither")
    n, d = task_set.inputs, task_set.dim
    inputs, answers = arrays.get("inputs", np.zeros((0, n, d))), arrays.get("answers", np.zeros((0, d)))
    return vector_prompt(inputs, answers, arrays["query"], task_set)


def _standard_input() -> Any:
    if sys.stdin is None:
        raise PromptError("standard input is closed: pipe the prompt to it as JSON, or give a file")
    try:
        return json.loads(sys.stdin.buffer.read().decode("utf-8"))
    except OSError as error:
        raise PromptError(f"standard input cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise PromptError(f"it is not JSON ({error}): an .npz archive is given as a file") from error
