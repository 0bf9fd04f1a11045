"""Where the parts of a prompt stand among its tokens."""

from dataclasses import dataclass

from construct.errors import InputError
from construct.prompts import Layout, Prompt
from construct.tasks import TaskSet
from empirical.settings import Question
from empirical.tokenizing import Encoder


@dataclass(frozen=True)
class Spots:
    """Positions, counted from 0, the beginning-of-sequence token included.

    Args:
        answers: for each example the last token of its answer.
        inputs: for each example, for each of its n inputs the tokens that hold it.
        last: the last token of the prompt.
    """

    answers: tuple[int, ...]
    inputs: tuple[tuple[tuple[int, ...], ...], ...]
    last: int


def spots_of_layout(layout: Layout, prompt: Prompt) -> Spots:
    """The positions in a construction's own layout."""
    shown = range(len(prompt.examples))
    return Spots(
        answers=tuple(layout.answer_position(example) for example in shown),
        inputs=tuple(
            tuple((layout.input_position(example, place),) for place in range(layout.inputs)) for example in shown
        ),
        last=layout.eq_position(len(prompt.examples)),
    )


def spots_of_text(encoder: Encoder, question: Question, task_set: TaskSet) -> tuple[tuple[int, ...], Spots]:
    """The ids of a prompt, and the positions in them.

    A token that holds parts of two things, such as `->-`, belongs to both.

    Raises:
        InputError: the tokenizer does not say which characters a token holds.
    """
    try:
        found = encoder.tokenizer(question.text, add_special_tokens=False, return_offsets_mapping=True)
    except (NotImplementedError, ValueError) as error:
        raise InputError("the tokenizer does not say which characters its tokens hold: use a fast tokenizer") from error
    offsets = [(int(start), int(stop)) for start, stop in found["offset_mapping"]]
    ids = (*encoder.prefix, *(int(token) for token in found["input_ids"]))
    before = len(encoder.prefix)

    def tokens(start: int, stop: int) -> tuple[int, ...]:
        return tuple(before + at for at, (first, end) in enumerate(offsets) if first < stop and end > start)

    form, alphabet = task_set.format, task_set.alphabet
    answers, inputs, at = [], [], 0
    for example in question.prompt.examples:
        places = []
        for index, token in enumerate(example.inputs):
            at += len(form.separator) if index else 0
            places.append(tokens(at, at + len(alphabet[token])))
            at += len(alphabet[token])
        at += len(form.arrow)
        answers.append(tokens(at, at + len(alphabet[example.answer]))[-1])
        inputs.append(tuple(places))
        at += len(alphabet[example.answer]) + 1  # and the line's end
    return ids, Spots(tuple(answers), tuple(inputs), len(ids) - 1)
