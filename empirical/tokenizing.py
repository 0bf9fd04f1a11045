"""Prompts and candidates as token ids, tokenised jointly.

A candidate's tokens depend on what stands before it: after `Japan->`, the answer `-3` may become `->-` and `3`. So
prompt and candidate are tokenised as one text, and the *stem* is what these texts and the prompt alone have in
common. Where nothing merges, the stem is the prompt. Where something does, the stem ends earlier, the prompt has a
*rest* (`->`), and a candidate's probability is that of its tokens after the stem divided by the probability that
the text goes on with the rest (`empirical.scoring`): the condition is always the whole prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from construct.errors import InputError

BOS_POLICIES = ("auto", "always", "never")


@dataclass(frozen=True)
class Encoded:
    """A prompt with its candidates.

    Args:
        stem: the ids that all share, with the beginning-of-sequence token where the policy has one.
        tails: the ids of each candidate after the stem.
        rest: the text of the prompt after the stem; empty where nothing merges.
        rest_ids: the ids of the prompt alone after the stem.
        crossings: for each candidate, how many of its ids end at or beyond the prompt's end first (0 without rest).
    """

    stem: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]
    rest: str
    rest_ids: tuple[int, ...]
    crossings: tuple[int, ...]


class Encoder:
    """A tokenizer, with the policy on the beginning-of-sequence token.

    Args:
        tokenizer: a Hugging Face tokenizer.
        bos: "auto" does as the tokenizer does, "always" and "never" speak for themselves.

    Raises:
        InputError: "always", and the tokenizer has no such token.
    """

    def __init__(self, tokenizer: Any, *, bos: str = "auto") -> None:
        if bos not in BOS_POLICIES:
            raise InputError(f"the BOS policy is {bos!r}: expected one of {', '.join(BOS_POLICIES)}")
        self.tokenizer = tokenizer
        self.prefix = self._prefix(bos)

    def _prefix(self, bos: str) -> tuple[int, ...]:
        if bos == "never":
            return ()
        if bos == "always":
            if self.tokenizer.bos_token_id is None:
                raise InputError("the tokenizer has no beginning-of-sequence token: use --bos auto or never")
            return (int(self.tokenizer.bos_token_id),)
        # What the tokenizer puts before a text; a token that it puts after one is not wanted here.
        added = self.tokenizer("", add_special_tokens=True).input_ids
        ends = {self.tokenizer.eos_token_id, self.tokenizer.sep_token_id} - {self.tokenizer.bos_token_id}
        return tuple(int(token) for token in added if token not in ends)

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text, with the prefix."""
        plain = self.tokenizer(text, add_special_tokens=False).input_ids
        return (*self.prefix, *(int(token) for token in plain))

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        decoded: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded

    def expresses(self, text: str) -> bool:
        """Whether a text between others has tokens at all: a tokenizer may drop white space."""
        return self.ids(f"a{text}a") != self.ids("aa") and self.ids(f"a{text}") != self.ids("a")

    def encode(self, prompt: str, candidates: Sequence[str], terminator: str) -> Encoded:
        """Tokenise a prompt with each candidate and the terminator.

        Raises:
            InputError: the tokenizer has no tokens for a candidate, or the same for two.
        """
        alone = self.ids(prompt)
        joint = [self.ids(prompt + candidate + terminator) for candidate in candidates]
        shared = min([_common(alone, ids) for ids in joint], default=len(alone))
        # An id can hold a part of a character: the stem must end where its text is a beginning of the prompt.
        while len(self.prefix) < shared < len(alone) and not self._begins(prompt, alone[:shared]):
            shared -= 1
        if shared == 0:
            raise InputError(
                "the first token of the prompt merges with its end and there is no beginning-of-sequence token: "
                "give examples, or --bos always"
            )
        stem, rest_ids = alone[:shared], alone[shared:]
        tails = tuple(ids[shared:] for ids in joint)
        rest = prompt[len(self.text(stem)) + self._stripped(prompt, stem) :] if rest_ids else ""
        for candidate, ids, tail in zip(candidates, joint, tails, strict=True):
            self._check(candidate, terminator, ids, tail, rest)
        if len(set(tails)) < len(tails):
            first = next(index for index, tail in enumerate(tails) if tails.index(tail) < index)
            raise InputError(
                f"the tokenizer gives {candidates[tails.index(tails[first])]!r} and {candidates[first]!r} the same "
                "tokens: they cannot be told apart; use another tokenizer, or tasks without this answer"
            )
        crossings = tuple(self._crossing(stem, tail, len(rest)) if rest else 0 for tail in tails)
        return Encoded(stem, tails, rest, rest_ids, crossings)

    def _begins(self, prompt: str, ids: Sequence[int]) -> bool:
        text = self.text(ids)
        return prompt.startswith(text) or prompt.lstrip().startswith(text)

    def _stripped(self, prompt: str, stem: Sequence[int]) -> int:
        """The white space at the prompt's beginning that decoding drops."""
        return 0 if prompt.startswith(self.text(stem)) else len(prompt) - len(prompt.lstrip())

    def _crossing(self, stem: Sequence[int], tail: Sequence[int], rest: int) -> int:
        before = len(self.text(stem))
        for count in range(1, len(tail) + 1):
            if len(self.text([*stem, *tail[:count]])) - before >= rest:
                return count
        return len(tail)

    def _check(self, candidate: str, terminator: str, ids: Sequence[int], tail: Sequence[int], rest: str) -> None:
        wanted = _visible(rest + candidate + terminator)
        unknown = self.tokenizer.unk_token_id
        # An id that serves as "unknown" and as something else is judged by what it decodes to.
        reads = _visible(self.text(ids)).endswith(wanted)
        if not tail or (unknown is not None and unknown in tail and not reads) or not reads:
            raise InputError(
                f"the tokenizer cannot express the answer {candidate.strip()!r}: it reads back as "
                f"{self.text(tail)!r}; use a model whose tokenizer has these characters, or other tasks"
            )

    @cached_property
    def token_texts(self) -> list[str]:
        """The text that each id adds after others; empty for special tokens."""
        anchor = self.ids("a")[-1]
        before = len(self.text([anchor]))
        special = set(self.tokenizer.all_special_ids)
        pairs = [[anchor, token] for token in range(len(self.tokenizer))]
        decoded = self.tokenizer.batch_decode(pairs, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return ["" if token in special else text[before:] for token, text in enumerate(decoded)]


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))


def _visible(text: str) -> str:
    return "".join(text.split())
