"""Best-first search finds what exhaustive enumeration finds."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from empirical.language_model import Options, load_pretrained
from empirical.runtime import Runtime
from empirical.scoring import Scorer
from empirical.search import Completions, Endings, Search
from empirical.tokenizing import Encoder

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def few() -> Scorer:
    """A small model of eleven tokens, two of which bring a line's end."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = {
        text: place for place, text in enumerate(["a", "b", "c", "-", ">", "\n", "ab", "->", "->b", "a\n", "</s>"])
    }
    merges = [("a", "b"), ("-", ">"), ("->", "b"), ("a", "\n")]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=8, n_layer=2, n_head=2, n_positions=64, initializer_range=0.6,
        bos_token_id=10, eos_token_id=10,
    )  # fmt: skip
    return Scorer(GPT2LMHeadModel(config).eval(), Encoder(tokenizer))


def _enumerated(scorer: Scorer, prompt: str, depth: int) -> dict[str, float]:
    """Completions of at most `depth` tokens with the probability of their most probable cut into tokens."""
    texts = scorer.encoder.token_texts
    stem = scorer.encoder.ids(prompt)
    ends = [token for token, text in enumerate(texts) if "\n" in text or token == 10]
    others = [token for token in range(len(texts)) if token not in ends]
    found: dict[str, float] = {}
    for length in range(depth):
        for tail in itertools.product(others, repeat=length):
            with torch.no_grad():
                logits = scorer.model.double()(input_ids=torch.tensor([[*stem, *tail]])).logits[0].log_softmax(-1)
            before = sum(float(logits[len(stem) - 1 + place, token]) for place, token in enumerate(tail))
            sums: dict[str, float] = {}
            for token in ends:
                text = "".join(texts[one] for one in tail) + texts[token].partition("\n")[0]
                sums[text] = sums.get(text, 0.0) + math.exp(before + float(logits[-1, token]))
            for text, value in sums.items():
                found[text] = max(found.get(text, 0.0), value)
    scorer.model.float()
    return found


def _search(scorer: Scorer, prompt: str, count: int, *candidates: str, budget: int = 1000) -> Completions:
    encoded = scorer.encoder.encode(prompt, candidates, "\n")
    prefilled = scorer.prefill([encoded.stem])
    (scores,) = scorer.score_prefilled(prefilled, [encoded])
    endings = Endings(scorer.encoder.token_texts, [10], "\n")
    return Search(scorer, prefilled, 0, encoded, scores.log_rest, endings).run(count, budget=budget)


def test_the_search_finds_the_most_probable_completions_with_their_probabilities(few: Scorer) -> None:
    prompt, count = "a->c\nb->", 5
    found = _search(few, prompt, count, "a")
    expected = sorted(_enumerated(few, prompt, 4).items(), key=lambda item: -item[1])[:count]
    assert found.exact
    assert [one.text for one in found.found] == [text for text, _ in expected]
    for one, (_, value) in zip(found.found, expected, strict=True):
        assert math.exp(one.log_probability) == pytest.approx(value, rel=TOLERANCE)


def test_a_merging_candidate_is_found_beside_those_that_do_not_merge(few: Scorer) -> None:
    prompt = "a->c\nb->"
    encoded = few.encoder.encode(prompt, ("b", "c"), "\n")
    assert encoded.rest == "->"
    (scores,) = few.score([encoded])
    found = {one.text: one.log_probability for one in _search(few, prompt, 60, "b", "c", budget=4000).found}
    # Beside the terminator, the end of the text ends a completion.
    text_end = few.encoder.encode(prompt, ("b", "c"), "")
    (open_,) = few.score([text_end])
    with torch.no_grad():
        after = few.model(input_ids=torch.tensor([[*text_end.stem, *text_end.tails[1]]])).logits[0, -1].log_softmax(-1)
    ended = math.exp(open_.log_probabilities[1] + float(after[10]))
    assert math.exp(found["c"]) == pytest.approx(math.exp(scores.log_probabilities[1]) + ended, rel=TOLERANCE)
    assert found["b"] >= scores.log_probabilities[0]
    assert sum(map(math.exp, found.values())) <= 1 + TOLERANCE


def test_a_search_that_runs_out_of_its_budget_says_so(few: Scorer) -> None:
    found = _search(few, "a->c\nb->", 9, "a", budget=3)
    assert not found.exact
    assert len(found.found) < 9


def test_without_a_terminator_a_completion_is_one_token(tiny: Callable[[str], Path]) -> None:
    model, encoder, _ = load_pretrained(str(tiny("gpt2")), Runtime("cpu", "float32"), Options())
    scorer = Scorer(model, encoder)
    encoded = encoder.encode("Welsh->", ("h",), "")
    prefilled = scorer.prefill([encoded.stem])
    found = Search(scorer, prefilled, 0, encoded, 0.0, Endings(encoder.token_texts, [2], "")).run(3)
    best = prefilled.next_log_probabilities[0].topk(60)
    ranked = {}
    for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if encoder.token_texts[token] or token == 2:
            ranked.setdefault(encoder.token_texts[token], value)
    expected = list(ranked.items())[:3]
    assert [(one.text, pytest.approx(one.log_probability, abs=TOLERANCE)) for one in found.found] == expected


def test_what_a_narrow_search_leaves_out_is_not_passed_over_in_silence(
    few: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = _search(few, "a->c\nb->", 6, "a")
    monkeypatch.setattr("empirical.search.WIDTH", 1)
    narrow = _search(few, "a->c\nb->", 6, "a")
    assert wide.exact
    assert not narrow.exact
    assert len(narrow.found) < 6
    for one, other in zip(narrow.found, wide.found, strict=False):
        assert (one.text, one.log_probability) == (other.text, pytest.approx(other.log_probability, abs=TOLERANCE))
