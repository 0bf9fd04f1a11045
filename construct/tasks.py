"""Tasks g_k : A^n -> A.

A task looks its answer up in a table (`TableTask`), keyed by the tokens at the positions that it reads, or by
the sum of their integer values (`SumTask`). Tables may be partial: where a task has no row it has no answer, is
consistent with nothing and contributes nothing. Tokens are held as ids, their places in the alphabet.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from construct.errors import TaskError

LARGEST_VALUE = 2**20
"""The largest |value| of a token in a sum: sums over 16 positions stay exact integers in float32."""


@dataclass(frozen=True)
class Format:
    """How a prompt is written: inputs joined by `separator`, then `arrow`, then the answer."""

    separator: str = " "
    arrow: str = "->"


@dataclass(frozen=True)
class TableTask:
    """A lookup keyed by the tokens at the positions `reads`.

    Args:
        name: what the task is called in the output.
        reads: distinct input positions, counted from 0.
        rows: (ids at `reads`) -> id of the answer.
    """

    name: str
    reads: tuple[int, ...]
    rows: Mapping[tuple[int, ...], int]

    def answer(self, inputs: Sequence[int]) -> int | None:
        """The id of g(inputs), or None outside the table. `inputs` are n ids."""
        return self.rows.get(tuple(inputs[position] for position in self.reads))


@dataclass(frozen=True)
class SumTask:
    """A lookup keyed by the sum, over `positions`, of the integer values of the tokens there.

    Args:
        name: what the task is called in the output.
        positions: distinct input positions, counted from 0.
        values: token id -> integer; a token without a value has no sum, so the task no answer.
        rows: sum -> id of the answer.
    """

    name: str
    positions: tuple[int, ...]
    values: Mapping[int, int]
    rows: Mapping[int, int]

    def answer(self, inputs: Sequence[int]) -> int | None:
        """The id of g(inputs), or None outside the table. `inputs` are n ids."""
        values = [self.values.get(inputs[position]) for position in self.positions]
        if any(value is None for value in values):
            return None
        return self.rows.get(sum(value for value in values if value is not None))


Task = TableTask | SumTask


@dataclass(frozen=True)
class TaskSet:
    """K tasks over one alphabet, read in one format: what a task file holds and a suite produces.

    Args:
        name: the name of the set.
        alphabet: V distinct tokens; an id is a place in it.
        inputs: n, the number of input tokens of an example.
        format: how prompts are written.
        tasks: the K tasks.

    Raises:
        TaskError: the parts do not fit each other (the message names the part).
    """

    name: str
    alphabet: tuple[str, ...]
    inputs: int
    format: Format
    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        """Check that the parts fit; everything built later relies on it."""
        _check_alphabet(self.alphabet)
        if self.inputs < 1:
            raise TaskError(f"inputs is {self.inputs}: an example needs at least 1 input token")
        _check_format(self.format, self.alphabet, self.inputs)
        if not self.tasks:
            raise TaskError("there are no tasks: give at least one")
        repeated = [name for name, count in Counter(task.name for task in self.tasks).items() if count > 1]
        if repeated:
            raise TaskError(f"two tasks are called {repeated[0]!r}: give each task a name of its own")
        for task in self.tasks:
            _check_task(task, len(self.alphabet), self.inputs)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id."""
        return {token: index for index, token in enumerate(self.alphabet)}


def _check_alphabet(alphabet: Sequence[str]) -> None:
    if not alphabet:
        raise TaskError("the alphabet is empty: give at least one token")
    repeated = [token for token, count in Counter(alphabet).items() if count > 1]
    if repeated:
        raise TaskError(f"the alphabet holds {repeated[0]!r} twice: list each token once")


def _check_format(form: Format, alphabet: Sequence[str], inputs: int) -> None:
    """Prompts must read back as they were written: one way to cut a line into tokens."""
    separator, arrow = form.separator.strip(), form.arrow.strip()
    if not arrow:
        raise TaskError(f"the arrow is {form.arrow!r}: it needs a character that is not white space")
    for name, text in (("separator", form.separator), ("arrow", form.arrow)):
        if text.splitlines() not in ([], [text]):
            raise TaskError(f"the {name} is {text!r}: it has a line break, but an example is one line")
    for token in alphabet:
        if not token or token != token.strip() or len(token.splitlines()) > 1:
            raise TaskError(f"token {token!r}: a token is not empty, has no line break, no space at its ends")
        if any(_reads_early(token, written, arrow) for written in (arrow, form.arrow)):
            raise TaskError(f"token {token!r} contains the arrow {arrow!r}: choose another arrow")
        if inputs == 1:
            continue
        if separator and (token + separator).find(separator) != len(token):
            raise TaskError(f"token {token!r} contains the separator {separator!r}: choose another separator")
        if form.separator and not separator and len(token.split()) > 1:
            raise TaskError(f"token {token!r} contains a space, the separator: choose another separator")
        if not form.separator and len(token) != len(alphabet[0]):
            raise TaskError(
                f"the separator is empty but tokens differ in length ({alphabet[0]!r}, {token!r}): give a separator"
            )
    written = {form.separator, separator} - {""}
    if inputs > 1 and any(_reads_arrow_early(form.arrow, between, alphabet) for between in written):
        raise TaskError(
            f"the separator {form.separator!r} beside a token can read as the arrow {arrow!r}: choose another"
        )


def _reads_early(text: str, written: str, arrow: str) -> bool:
    """Whether the text and then the arrow, written with spaces before it or none, hold the arrow before its place."""
    return (text + written).find(arrow) < len(text) + len(written) - len(written.lstrip())


def _reads_arrow_early(written: str, separator: str, alphabet: Sequence[str]) -> bool:
    """Whether "token separator token .. arrow" can contain the arrow before its end.

    Reading such a line from the left, all that matters is how much of the arrow the text so far ends with.
    """
    arrow = written.strip()
    if not set(arrow) & set(separator):
        return False  # tokens alone do not contain it, as is checked first
    before_token, after_token = [0], set[int]()
    for held in before_token:  # grows on the way, to at most len(arrow) entries
        for token in alphabet:
            text = arrow[:held] + token
            ended = _overlap(text, arrow)
            if arrow in text or any(_reads_early(arrow[:ended], end, arrow) for end in (arrow, written)):
                return True
            if ended not in after_token:
                after_token.add(ended)
                text = arrow[:ended] + separator
                if arrow in text:
                    return True
                if (held_next := _overlap(text, arrow)) not in before_token:
                    before_token.append(held_next)
    return False


def _overlap(text: str, arrow: str) -> int:
    """The length of the longest proper beginning of the arrow that the text ends with."""
    return next(length for length in range(len(arrow) - 1, -1, -1) if text.endswith(arrow[:length]))


def _check_task(task: Task, alphabet_size: int, inputs: int) -> None:
    where = f"task {task.name!r}"
    positions = task.reads if isinstance(task, TableTask) else task.positions
    if not positions:
        raise TaskError(f"{where} reads nothing: give at least one position")
    if len(set(positions)) != len(positions):
        raise TaskError(f"{where} reads a position twice ({list(positions)}): list each once")
    for position in positions:
        if not 0 <= position < inputs:
            raise TaskError(f"{where} reads position {position}: with {inputs} inputs they are 0 to {inputs - 1}")
    if not task.rows:
        raise TaskError(f"{where} has no rows: give at least one, or leave the task out")
    tokens = set(task.rows.values())
    if isinstance(task, TableTask):
        for key in task.rows:
            if len(key) != len(positions):
                raise TaskError(f"{where}: row {key} has {len(key)} inputs: it reads {len(positions)} positions")
            tokens.update(key)
    else:
        if not task.values:
            raise TaskError(f"{where}: no token has a value: give at least one")
        tokens.update(task.values)
        largest = max(map(abs, task.values.values()))
        if largest > LARGEST_VALUE:
            raise TaskError(f"{where}: a token has the value {largest}: at most {LARGEST_VALUE} either way")
    for token in tokens:
        if not 0 <= token < alphabet_size:
            raise TaskError(f"{where}: token id {token} is outside the alphabet of {alphabet_size}")
