"""The probability of each candidate answer: one prefill of what they share, and its cache for all of them.

For a prompt whose stem is s (`empirical.tokenizing`) and a candidate with tokens t_1 .. t_n after it,

    log p(candidate | prompt) = sum_i log p(t_i | s t_1 .. t_(i-1)) - log Z,

where Z = 1 when the stem is the whole prompt, and otherwise the probability that the text goes on with the rest of the
prompt: the sum over single tokens that begin with the rest, over the rest's own tokens, and over the candidates'
tokens up to the one that crosses the prompt's end. These are different events, and each candidate is part of one, so
the candidates' probabilities sum to at most 1 (where none is a prefix of another: a terminator sees to that).

The stems of a batch are run once, padded on the left; t_1 needs only their last logits. For the tokens after it the
cache's rows are repeated, not the computation. Logits are made float32 before the logarithm of the softmax.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from construct.errors import InputError
from empirical.tokenizing import Encoded, Encoder

KEYS_AND_VALUES = {"DynamicLayer", "DynamicSlidingWindowLayer"}
"""The kinds of cache whose rows can be chosen without touching the original; others hold states changed in place."""

LOGIT_BYTES = 2**28
"""Logits are made for so many rows at a time that they take about this much memory in float32."""


@dataclass(frozen=True)
class Scores:
    """The candidates of one prompt.

    Args:
        log_probabilities: one a candidate.
        log_rest: log Z, 0 where the stem is the whole prompt.
    """

    log_probabilities: tuple[float, ...]
    log_rest: float


@dataclass(frozen=True)
class Prefilled:
    """A batch of stems after their one forward pass.

    Args:
        cache: keys and values, a row a stem; None where the model keeps none of the usual kind.
        mask: 1 where a stem's token stands, shape [batch, longest].
        lengths: the stems' numbers of tokens, shape [batch].
        ids: the padded stems, shape [batch, longest].
        next_log_probabilities: float32, shape [batch, vocabulary].
    """

    cache: Any
    mask: Tensor
    lengths: Tensor
    ids: Tensor
    next_log_probabilities: Tensor


class Scorer:
    """Scores with a Hugging Face causal language model.

    Args:
        model: the model, in evaluation mode.
        encoder: its tokenizer.
    """

    def __init__(self, model: Any, encoder: Encoder) -> None:
        self.model, self.encoder = model, encoder
        self._accepts = set(inspect.signature(model.forward).parameters)
        self.device = model.get_input_embeddings().weight.device

    @property
    def context(self) -> int | None:
        """The most tokens that the model takes, None where its configuration does not say."""
        config = self.model.config.get_text_config()
        found = getattr(config, "max_position_embeddings", None)
        return int(found) if found else None

    def check_context(self, encoded: Encoded) -> None:
        """Raise InputError when a prompt with its candidates is longer than the model's context."""
        # The last token of an answer is predicted, not read.
        needed = len(encoded.stem) + max(map(len, encoded.tails), default=1) - 1
        if self.context is not None and needed > self.context:
            raise InputError(
                f"a prompt with its answers takes {needed} tokens and the model's context has {self.context}: use "
                "fewer examples"
            )

    @torch.no_grad()
    def prefill(self, stems: Sequence[Sequence[int]]) -> Prefilled:
        """Run a batch of stems once, padded on the left."""
        longest = max(map(len, stems))
        ids = torch.zeros(len(stems), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, stem in enumerate(stems):
            ids[row, longest - len(stem) :] = torch.tensor(stem)
            mask[row, longest - len(stem) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        found = self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), keep=1)
        cache = getattr(found, "past_key_values", None)
        if {type(layer).__name__ for layer in getattr(cache, "layers", [None])} - KEYS_AND_VALUES:
            cache = None
        # A model spread over devices has its logits on the last one.
        following = found.logits[:, -1].float().log_softmax(-1).to(self.device)
        return Prefilled(cache, mask, mask.sum(-1), ids, following)

    @torch.no_grad()
    def continue_from(self, prefilled: Prefilled, rows: Sequence[int], tails: Sequence[Sequence[int]]) -> Tensor:
        """The logits after each token of some tails, each a continuation of the stem in its row.

        Returns:
            Shape [tails, longest tail, vocabulary] in the model's own format; beyond a tail's end they mean nothing.
        """
        longest = max(map(len, tails))
        ids = torch.zeros(len(tails), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tail in enumerate(tails):
            ids[row, : len(tail)] = torch.tensor(tail)
            mask[row, : len(tail)] = 1
        at = torch.tensor(rows, device=self.device)
        ids, mask = ids.to(self.device), torch.cat([prefilled.mask[at], mask.to(self.device)], dim=1)
        positions = prefilled.lengths[at, None] + torch.arange(longest, device=self.device)
        if prefilled.cache is not None:
            found = self._forward(ids, mask, positions, cache=_selected(prefilled.cache, at))
        else:
            whole = torch.cat([prefilled.ids[at], ids], dim=1)
            before = (prefilled.mask[at].cumsum(-1) - 1).clamp(min=0)
            found = self._forward(whole, mask, torch.cat([before, positions], dim=1), keep=longest)
        logits: Tensor = found.logits[:, -longest:]
        return logits

    def _forward(
        self, ids: Tensor, mask: Tensor, positions: Tensor, *, cache: Any = None, keep: int | None = None
    ) -> Any:
        options: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in self._accepts:
            options["position_ids"] = positions
        if keep is not None and "logits_to_keep" in self._accepts:
            options["logits_to_keep"] = keep
        if cache is not None:
            options["past_key_values"] = cache
        if "use_cache" in self._accepts:
            options["use_cache"] = True
        return self.model(**options)

    def score(self, batch: Sequence[Encoded]) -> list[Scores]:
        """The candidates' log-probabilities for a batch of prompts."""
        return self.score_prefilled(self.prefill([encoded.stem for encoded in batch]), batch)

    def score_prefilled(self, prefilled: Prefilled, batch: Sequence[Encoded]) -> list[Scores]:
        """As `score`, for stems that were run already."""
        # What to score: each row's candidates, then the rest of its prompt where it has one.
        wanted = [(row, tail) for row, encoded in enumerate(batch) for tail in _sequences(encoded)]
        steps = self._steps(prefilled, wanted)
        results, start = [], 0
        for row, encoded in enumerate(batch):
            count = len(_sequences(encoded))
            found = steps[start : start + count]
            start += count
            log_rest = self._log_rest(prefilled.next_log_probabilities[row], encoded, found) if encoded.rest else 0.0
            results.append(Scores(tuple(float(sum(one)) - log_rest for one in found[: len(encoded.tails)]), log_rest))
        return results

    def _steps(self, prefilled: Prefilled, wanted: Sequence[tuple[int, Sequence[int]]]) -> list[list[float]]:
        """The log-probability of each token of each sequence."""
        rows = torch.tensor([row for row, _ in wanted], device=self.device)
        first = torch.tensor([tail[0] for _, tail in wanted], device=self.device)
        begun = prefilled.next_log_probabilities[rows, first].tolist()
        found = [[value] for value in begun]
        longer = sorted(
            (place for place, (_, tail) in enumerate(wanted) if len(tail) > 1), key=lambda p: len(wanted[p][1])
        )
        vocabulary = prefilled.next_log_probabilities.shape[-1]
        while longer:
            # The longest are last: a group is as large as its longest member allows.
            size = max(1, LOGIT_BYTES // (4 * vocabulary * len(wanted[longer[-1]][1])))
            group, longer = longer[-size:], longer[:-size]
            tails = [wanted[place][1] for place in group]
            logits = self.continue_from(prefilled, [wanted[place][0] for place in group], [tail[:-1] for tail in tails])
            for row, (place, tail) in enumerate(zip(group, tails, strict=True)):
                own = logits[row, : len(tail) - 1].float()
                targets = torch.tensor(tail[1:], device=own.device)
                values = own.gather(-1, targets[:, None])[:, 0] - own.logsumexp(-1)
                found[place] += values.tolist()
        return found

    def _log_rest(self, following: Tensor, encoded: Encoded, steps: Sequence[Sequence[float]]) -> float:
        """log Z: see the top of the file."""
        texts = self.encoder.token_texts[: len(following)]
        single = [token for token, text in enumerate(texts) if text.startswith(encoded.rest)]
        events: dict[tuple[int, ...], float] = {(token,): float(following[token]) for token in single}
        events[encoded.rest_ids] = float(sum(steps[-1]))
        for tail, crossing, values in zip(encoded.tails, encoded.crossings, steps, strict=False):
            events[tail[:crossing]] = float(sum(values[:crossing]))
        return float(torch.tensor(list(events.values()), dtype=torch.float64).logsumexp(0))


def _sequences(encoded: Encoded) -> list[tuple[int, ...]]:
    return [*encoded.tails, *([encoded.rest_ids] if encoded.rest else [])]


def _selected(cache: Any, rows: Tensor) -> Any:
    """The rows of a cache as a new one; the old one stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in chosen.layers:
        layer.batch_select_indices(rows.to(layer.keys.device) if layer.get_seq_length() > 0 else rows)
    return chosen
