"""Prompts: the layout of positions, and text <-> examples <-> ids.

A prompt is BOS, then m' <= m examples x_1 .. x_n EQ y, then the query x_1 .. x_n EQ. As text it is one example a
line (`a b -> c`), the query last (`a b ->`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from construct.errors import PromptError
from construct.tasks import TaskSet


@dataclass(frozen=True)
class Example:
    """n input ids and the id of the answer."""

    inputs: tuple[int, ...]
    answer: int


@dataclass(frozen=True)
class Prompt:
    """m' in-context examples and the n input ids of the query."""

    examples: tuple[Example, ...]
    query: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where each part of a prompt stands; example `examples` (= m) is the query of a full prompt.

    Args:
        alphabet_size: V; ids 0 to V-1 are the alphabet, then BOS and EQ.
        inputs: n.
        examples: m, the largest number of in-context examples.
    """

    alphabet_size: int
    inputs: int
    examples: int

    @property
    def bos(self) -> int:
        """The id of BOS."""
        return self.alphabet_size

    @property
    def eq(self) -> int:
        """The id of EQ."""
        return self.alphabet_size + 1

    @property
    def vocabulary_size(self) -> int:
        """V + 2."""
        return self.alphabet_size + 2

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

    def answer_position(self, example: int) -> int:
        """The position of the answer y of example `example`."""
        return (example + 1) * (self.inputs + 2)

    def ids(self, prompt: Prompt) -> list[int]:
        """The prompt's ids, (m'+1)(n+2) of them. Raises PromptError when it has more than m examples."""
        if len(prompt.examples) > self.examples:
            raise PromptError(
                f"the prompt has {len(prompt.examples)} examples: this construction takes at most {self.examples}; "
                f"build one with --examples {len(prompt.examples)}"
            )
        ids = [self.bos]
        for example in prompt.examples:
            ids += [*example.inputs, self.eq, example.answer]
        return [*ids, *prompt.query, self.eq]


def parse_prompt(text: str, task_set: TaskSet) -> Prompt:
    """Read a prompt's text in the format of the tasks.

    White space around tokens and blank lines are ignored.

    Raises:
        PromptError: the text is empty, a line has no arrow, a token is not in the alphabet, an example has the
            wrong number of inputs, a query stands before the end, or the last line is no query.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise PromptError(f"the prompt is empty: give examples, then a query, one a line ({_sketch(task_set)})")
    *example_lines, (last_number, last_line) = lines
    examples = []
    for number, line in example_lines:
        inputs, answer = _parse_line(number, line, task_set)
        if answer is None:
            raise PromptError(f"line {number}: {line!r} has no answer: only the last line is a query")
        examples.append(Example(inputs, answer))
    query, answer = _parse_line(last_number, last_line, task_set)
    if answer is not None:
        raise PromptError(
            f"line {last_number}: {last_line!r} is the last line and has an answer: "
            f"end the prompt with a query ({_sketch(task_set)})"
        )
    return Prompt(tuple(examples), query)


def format_prompt(prompt: Prompt, task_set: TaskSet) -> str:
    """The prompt as text, one example a line; `parse_prompt` is its inverse."""
    form, token = task_set.format, task_set.alphabet.__getitem__
    lines = [
        form.separator.join(map(token, example.inputs)) + form.arrow + token(example.answer)
        for example in prompt.examples
    ]
    return "\n".join([*lines, (form.separator.join(map(token, prompt.query)) + form.arrow).rstrip()])


def _parse_line(number: int, line: str, task_set: TaskSet) -> tuple[tuple[int, ...], int | None]:
    """Input ids and the id of the answer, None for a query."""
    arrow = task_set.format.arrow.strip()
    if task_set.inputs > 1 and not task_set.format.separator:
        # Tokens of one length with nothing between them: the arrow cannot be mistaken at its known place.
        length = len(task_set.alphabet[0])
        at = task_set.inputs * length
        left, rest = line[:at], line[at:].lstrip()
        if arrow in line and not rest.startswith(arrow):
            raise PromptError(
                f"line {number}: {line!r} does not have {task_set.inputs} inputs before {arrow!r} ({_sketch(task_set)})"
            )
        found, right = rest.startswith(arrow), rest[len(arrow) :]
        parts = [left[start : start + length] for start in range(0, at, length)]
    else:
        left, cut, right = line.partition(arrow)
        found = bool(cut)
        separator = task_set.format.separator.strip()
        parts = [left.strip()] if task_set.inputs == 1 else left.split(separator or None)
        parts = [part.strip() for part in parts]
    if not found:
        raise PromptError(f"line {number}: {line!r} has no arrow {arrow!r}: write it as {_sketch(task_set)}")
    if len(parts) != task_set.inputs or (len(parts) == 1 and not parts[0]):
        count = len([part for part in parts if part])
        raise PromptError(
            f"line {number}: {line!r} has {count} inputs: expected {task_set.inputs} ({_sketch(task_set)})"
        )
    answer = right.strip()
    inputs = tuple(_token_id(number, part, task_set) for part in parts)
    return inputs, _token_id(number, answer, task_set) if answer else None


def _token_id(number: int, token: str, task_set: TaskSet) -> int:
    index = task_set.ids.get(token)
    if index is None:
        raise PromptError(
            f"line {number}: unknown token {token!r}: the alphabet of {task_set.name!r} has "
            f"{len(task_set.alphabet)} tokens{_nearest(token, task_set.alphabet)}"
        )
    return index


def _nearest(token: str, alphabet: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(token, alphabet, n=3, cutoff=0.6)
    if close:
        return ", did you mean " + " or ".join(map(repr, close)) + "?"
    return ", such as " + ", ".join(map(repr, alphabet[:3]))


def _sketch(task_set: TaskSet) -> str:
    """An example and a query in the format of the tasks, for messages."""
    form = task_set.format
    left = form.separator.join(f"x{place + 1}" for place in range(min(task_set.inputs, 3)))
    left += f"{form.separator}..x{task_set.inputs}" if task_set.inputs > 3 else ""
    return f"an example `{left}{form.arrow}y`, the query `{(left + form.arrow).rstrip()}`"
