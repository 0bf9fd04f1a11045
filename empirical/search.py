r"""The most probable completions of a prompt, with exact probabilities up to the terminator.

A completion is the text before the first terminator (or the end of the text). Log-probabilities only fall along a
sequence of tokens, so a best-first search meets completed sequences in order: the first is the most probable one. All
tokens that bring the terminator at one place (`\n`, `\n\n`, the end of the text) are one event, whose probabilities are
added. A text can be cut into tokens in several ways; the most probable one counts.

A node keeps its `WIDTH` best children and one mark for the others, with the probability of the best of these: should
the search come to a mark, or to its budget, it says that what it found is not known to be all.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count as counter

import torch
from torch import Tensor

from empirical.scoring import Prefilled, Scorer
from empirical.tokenizing import Encoded

WIDTH = 128
FRONTIER = 8
BUDGET = 256
LONGEST = 32


@dataclass(frozen=True)
class Completion:
    """A text before the terminator, and its log-probability."""

    text: str
    log_probability: float


@dataclass(frozen=True)
class Completions:
    """What a search found.

    Args:
        found: the most probable first.
        exact: whether these are known to be the most probable.
    """

    found: tuple[Completion, ...]
    exact: bool


class Endings:
    """The tokens that bring the terminator, and the text before it in each.

    Args:
        texts: the text of each id.
        ends: the ids that end a text by themselves.
        terminator: where a completion stops; empty: after one token.
    """

    def __init__(self, texts: Sequence[str], ends: Sequence[int], terminator: str) -> None:
        self.texts = texts
        before: dict[str, list[int]] = {}
        for token, text in enumerate(texts):
            if token in ends:
                before.setdefault("", []).append(token)
            elif terminator and terminator in text:
                before.setdefault(text.partition(terminator)[0], []).append(token)
        self.before = list(before)
        self._tokens = torch.tensor([token for tokens in before.values() for token in tokens], dtype=torch.long)
        self._group = torch.tensor([place for place, tokens in enumerate(before.values()) for _ in tokens])
        self.after_one = not terminator
        self.open = torch.ones(len(texts), dtype=torch.bool)
        self.open[self._tokens] = False

    def probabilities(self, following: Tensor) -> list[float]:
        """The probability of an end after each of the texts in `before`."""
        if not self.before:
            return []
        sums = torch.zeros(len(self.before), dtype=torch.float64)
        found: list[float] = sums.index_add(0, self._group, following[self._tokens].double().exp()).tolist()
        return found


@dataclass(order=True)
class _Node:
    cost: float
    order: int
    kind: str = field(compare=False)  # "open", "complete" or "mark"
    tail: tuple[int, ...] = field(compare=False, default=())
    text: str = field(compare=False, default="")
    rest: str = field(compare=False, default="")


class Search:
    """Best-first search for one prompt, whose stem was run already.

    Args:
        scorer: the model.
        prefilled: the batch that the prompt is in.
        row: its place there.
        encoded: the prompt.
        log_rest: log Z (`empirical.scoring`).
        endings: the tokens that end a completion.
    """

    def __init__(
        self, scorer: Scorer, prefilled: Prefilled, row: int, encoded: Encoded, log_rest: float, endings: Endings
    ) -> None:
        self._scorer, self._prefilled, self._row = scorer, prefilled, row
        self._encoded, self._log_rest, self._endings = encoded, log_rest, endings
        self._before = len(scorer.encoder.text(encoded.stem)) + len(encoded.rest)
        self._heap: list[_Node] = []
        self._order = counter()

    def run(self, count: int, *, budget: int = BUDGET) -> Completions:
        """The `count` most probable completions; `budget` bounds the nodes that are looked into."""
        root = _Node(0.0, next(self._order), "open", rest=self._encoded.rest)
        self._expand(root, self._prefilled.next_log_probabilities[self._row])
        found: dict[str, float] = {}
        looked_into = 1
        while self._heap and len(found) < count:
            best = heapq.heappop(self._heap)
            if best.kind == "mark":
                break
            if best.kind == "complete":
                found.setdefault(best.text, -best.cost - self._log_rest)
                continue
            nodes = [best]
            while self._heap and self._heap[0].kind == "open" and len(nodes) < FRONTIER:
                nodes.append(heapq.heappop(self._heap))
            looked_into += len(nodes)
            if looked_into > budget:
                break
            tails = [node.tail for node in nodes]
            logits = self._scorer.continue_from(self._prefilled, [self._row] * len(nodes), tails)
            for place, node in enumerate(nodes):
                self._expand(node, logits[place, len(node.tail) - 1].float().log_softmax(-1))
        exact = len(found) == count or not self._heap
        return Completions(tuple(Completion(text, value) for text, value in found.items()), exact)

    def _expand(self, node: _Node, following: Tensor) -> None:
        """Push what can come after a node, given the log-probabilities of the next token."""
        texts = self._endings.texts
        following = following.to("cpu")[: len(texts)]  # embeddings may be padded beyond the vocabulary
        rest = node.rest
        if rest:
            # The ways on that log Z counts: one token that begins with the rest, or the rest's own tokens.
            fits = torch.tensor([not node.tail and text.startswith(rest) for text in texts])
            fits[self._encoded.rest_ids[len(node.tail)]] = True
            following = following.masked_fill(~fits, -torch.inf)
        self._end(node, following)
        values, tokens_ = following.masked_fill(~self._endings.open, -torch.inf).topk(min(WIDTH + 1, len(texts)))
        for place, (value, token) in enumerate(zip(values.tolist(), tokens_.tolist(), strict=True)):
            if value == -torch.inf:
                break
            too_long = len(node.tail) + 1 >= LONGEST
            left = rest[len(texts[token]) :] if rest else ""
            tail = (*node.tail, token)
            whole = self._endings.after_one and not left and len(texts[token]) > len(rest)
            kind = "mark" if place == WIDTH or too_long else "complete" if whole else "open"
            text = self._text(tail, left) if kind == "complete" else ""
            heapq.heappush(self._heap, _Node(node.cost - value, next(self._order), kind, tail, text, left))
            if kind == "mark":
                break

    def _end(self, node: _Node, following: Tensor) -> None:
        """Push the completions that end after a node, the `WIDTH` most probable and a mark for the others."""
        shown = self._endings.before
        likely = [
            (probability, place)
            for place, probability in enumerate(self._endings.probabilities(following))
            if probability > 0 and len(shown[place]) >= len(node.rest)
        ]
        base = self._text(node.tail, node.rest)
        for rank, (probability, place) in enumerate(heapq.nlargest(WIDTH + 1, likely)):
            kind = "mark" if rank == WIDTH else "complete"
            text = base + shown[place][len(node.rest) :]
            cost = node.cost - math.log(probability)
            heapq.heappush(self._heap, _Node(cost, next(self._order), kind, text=text))

    def _text(self, tail: tuple[int, ...], rest: str) -> str:
        """What a tail adds to the prompt; empty while a part of the prompt is still to come."""
        if rest or not tail:
            return ""
        return self._scorer.encoder.text([*self._encoded.stem, *tail])[self._before :]
