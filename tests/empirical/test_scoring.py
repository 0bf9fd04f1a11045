"""Scores by a shared prefill equal scores by one full forward pass a candidate."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from construct.errors import InputError
from construct.suites import build_suite
from empirical.language_model import Options, load_pretrained
from empirical.runtime import Runtime
from empirical.scoring import Scorer
from empirical.settings import Cell, Question, Rules, draw
from empirical.tokenizing import Encoder
from tests.empirical.tiny_models import FAMILIES, WITH_BOS

CPU = Runtime("cpu", "float32")
TOLERANCE = 1e-4
"""The project's target for float32; sums over paddings of different lengths round differently."""


def _questions(suite: str, *examples: int) -> list[Question]:
    task_set = build_suite(suite)
    count = len(task_set.tasks)
    return [
        question
        for place, shown in enumerate(examples)
        for question in draw(task_set, Cell((1 / count,) * count, shown), 2, Rules(), place=place)
    ]


def _plain(model: Any, ids: tuple[int, ...], start: int) -> float:
    """The log-probability of ids[start:], from one forward pass in float64 without cache, mask or padding."""
    with torch.no_grad():
        logits = model.double()(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logits[place - 1, ids[place]]) for place in range(start, len(ids)))


@pytest.fixture
def scorer(tiny: Callable[[str], Path]) -> Callable[[str], Scorer]:
    def make(family: str) -> Scorer:
        model, encoder, _ = load_pretrained(str(tiny(family)), CPU, Options())
        return Scorer(model, encoder)

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefill_gives_what_a_full_pass_per_candidate_gives(
    family: str, scorer: Callable[[str], Scorer]
) -> None:
    made = scorer(family)
    questions = _questions("letters", 3, 11)  # of different lengths: padding is at work
    batch = [made.encoder.encode(one.text, one.candidates, "\n") for one in questions]
    assert len({len(encoded.stem) for encoded in batch}) > 1
    assert max(len(tail) for encoded in batch for tail in encoded.tails) > 3
    found = made.score(batch)
    for question, encoded, scores in zip(questions, batch, found, strict=True):
        assert encoded.rest == ""
        for candidate, value in zip(question.candidates, scores.log_probabilities, strict=True):
            ids = made.encoder.ids(question.text + candidate + "\n")
            expected = _plain(made.model, ids, len(made.encoder.ids(question.text)))
            assert value == pytest.approx(expected, abs=TOLERANCE)


def test_without_a_usual_cache_the_scores_are_the_same(scorer: Callable[[str], Scorer]) -> None:
    made = scorer("gpt2")
    batch = [made.encoder.encode(one.text, one.candidates, "\n") for one in _questions("letters", 2, 7)]
    prefilled = made.prefill([encoded.stem for encoded in batch])
    found = made.score_prefilled(prefilled, batch)
    fields = {**vars(prefilled), "cache": None}
    again = made.score_prefilled(type(prefilled)(**fields), batch)
    for one, other in zip(found, again, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=TOLERANCE)


@pytest.mark.parametrize("family", ["sliding window", "recurrent", "both kinds"])
def test_models_with_other_memories_are_scored_too(family: str, tiny: Callable[[str], Path]) -> None:
    import transformers

    _, encoder, _ = load_pretrained(str(tiny("gpt2")), CPU, Options())
    sizes = {"vocab_size": len(encoder.tokenizer), "hidden_size": 24, "num_hidden_layers": 3, "initializer_range": 0.3}
    attention = {"intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    configuration: Any = {
        "sliding window": lambda: transformers.MistralConfig(**sizes, **attention, sliding_window=16),
        "recurrent": lambda: transformers.MambaConfig(**sizes, state_size=4),
        "both kinds": lambda: transformers.Lfm2Config(
            **sizes, **attention, layer_types=["conv", "full_attention", "conv"]
        ),
    }[family]()
    torch.manual_seed(1)
    made = Scorer(transformers.AutoModelForCausalLM.from_config(configuration).eval(), encoder)
    questions = _questions("letters", 3, 9)
    batch = [encoder.encode(one.text, one.candidates, "\n") for one in questions]
    found = made.score_prefilled(made.prefill([encoded.stem for encoded in batch]), batch)
    for question, encoded, scores in zip(questions, batch, found, strict=True):
        for candidate, value in zip(question.candidates, scores.log_probabilities, strict=True):
            expected = _plain(made.model, encoder.ids(question.text + candidate + "\n"), len(encoded.stem))
            assert value == pytest.approx(expected, abs=TOLERANCE)


def test_scoring_does_not_change_the_prefill(scorer: Callable[[str], Scorer]) -> None:
    made = scorer("llama")
    batch = [made.encoder.encode(one.text, one.candidates, "\n") for one in _questions("letters", 2)]
    prefilled = made.prefill([encoded.stem for encoded in batch])
    first, second = (made.score_prefilled(prefilled, batch) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("family", FAMILIES)
def test_the_beginning_of_the_sequence_is_as_the_tokenizer_has_it(family: str, scorer: Callable[[str], Scorer]) -> None:
    encoder = scorer(family).encoder
    assert encoder.prefix == ((1,) if family in WITH_BOS else ())
    assert encoder.ids("4->5") == tuple(encoder.tokenizer("4->5").input_ids)
    assert Encoder(encoder.tokenizer, bos="never").prefix == ()
    assert Encoder(encoder.tokenizer, bos="always").prefix == (1,)


# The boundary: an answer whose first character merges with the prompt's end.

PROMPT = "4->-4\n7->-7\n5->"


def test_where_the_boundary_merges_the_condition_is_still_the_whole_prompt(
    scorer: Callable[[str], Scorer],
) -> None:
    made = scorer("gpt2")
    encoder = made.encoder
    encoded = encoder.encode(PROMPT, ("-5", "10"), "\n")
    assert encoded.rest == "->"
    merged = next(token for token, text in enumerate(encoder.token_texts) if text == "->-")
    assert encoded.tails[0][0] == merged
    assert encoded.crossings[0] == 1
    (scores,) = made.score([encoded])
    # The text goes on with "->" by one token that begins with it, or by "-" and then a token that begins with ">".
    begin = len(encoded.stem)
    singles = [token for token, text in enumerate(encoder.token_texts) if text.startswith("->")]
    events = [_plain(made.model, (*encoded.stem, token), begin) for token in singles]
    expected_rest = math.log(sum(map(math.exp, events)))
    assert scores.log_rest == pytest.approx(expected_rest, abs=TOLERANCE)
    for candidate, value in zip(("-5", "10"), scores.log_probabilities, strict=True):
        joint = _plain(made.model, encoder.ids(PROMPT + candidate + "\n"), begin)
        assert value == pytest.approx(joint - expected_rest, abs=TOLERANCE)


def test_a_rest_of_several_tokens_can_go_on_in_its_own_way_too() -> None:
    """Where `->b` is one token and `->` is two, the text goes on with `->` by `->b`, or by `-` and then `>`."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = {text: place for place, text in enumerate(["a", "b", "-", ">", "\n", ">b", "->b"])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[(">", "b"), ("-", ">b")]))
    made.decoder = decoders.Fuse()
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=7, n_embd=8, n_layer=2, n_head=2, n_positions=32, initializer_range=0.6,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    scorer = Scorer(GPT2LMHeadModel(config).eval(), Encoder(PreTrainedTokenizerFast(tokenizer_object=made)))
    encoded = scorer.encoder.encode("b->b\na->", ("b", "a"), "\n")
    assert (encoded.rest, encoded.rest_ids, encoded.tails) == ("->", (2, 3), ((6, 4), (2, 3, 0, 4)))
    (scores,) = scorer.score([encoded])
    begin = len(encoded.stem)
    ways = [_plain(scorer.model, (*encoded.stem, *tail), begin) for tail in ((6,), (2, 3))]
    rest = math.log(sum(map(math.exp, ways)))
    assert scores.log_rest == pytest.approx(rest, abs=TOLERANCE)
    for tail, value in zip(encoded.tails, scores.log_probabilities, strict=True):
        assert value == pytest.approx(_plain(scorer.model, (*encoded.stem, *tail), begin) - rest, abs=TOLERANCE)
    (alone,) = scorer.score([scorer.encoder.encode("b->b\na->", ("b",), "\n")])  # no candidate goes that way
    assert alone.log_rest == pytest.approx(rest, abs=TOLERANCE)


def test_a_candidate_swallowed_by_the_prompt_is_not_certain(scorer: Callable[[str], Scorer]) -> None:
    """Cut at the prompt's number of tokens, `->-` would leave nothing of the answer `-` to be scored."""
    made = scorer("gpt2")
    alone, joint = made.encoder.ids(PROMPT), made.encoder.ids(PROMPT + "-")
    assert len(alone) == len(joint)
    encoded = made.encoder.encode(PROMPT, ("-", "9"), "")
    (scores,) = made.score([encoded])
    assert scores.log_probabilities[0] < math.log(0.999)


def test_candidates_have_at_most_probability_one_in_total(scorer: Callable[[str], Scorer]) -> None:
    made = scorer("gpt2")
    candidates = tuple(str(number) for number in range(-99, 100))
    (scores,) = made.score([made.encoder.encode(PROMPT, candidates, "\n")])
    assert 0 < sum(map(math.exp, scores.log_probabilities)) <= 1 + TOLERANCE


# What cannot be scored.


def test_an_answer_that_the_tokenizer_has_no_tokens_for_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "->": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"))
    assert encoder.encode("a -> b\nb ->", ("a",), "\n").tails == ((1,),)
    assert not encoder.expresses("\n")
    with pytest.raises(InputError, match="cannot express the answer 'c'"):
        encoder.encode("a -> b\nb ->", ("c",), "")


def test_a_tokenizer_that_drops_characters_or_their_case_is_refused() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: place for place, letter in enumerate("abcdefgh->\n")}
    for normalizer, answer, reason in (
        (None, "z", "cannot express the answer 'z'"),
        (normalizers.Lowercase(), "B", "cannot express the answer 'B'"),
    ):
        made = Tokenizer(models.BPE(vocab=letters, merges=[]))
        made.decoder = decoders.Fuse()
        if normalizer is not None:
            made.normalizer = normalizer
        encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=made))
        with pytest.raises(InputError, match=reason):
            encoder.encode("a->b\nb->", ("c", answer), "\n")


def test_a_prompt_longer_than_the_context_is_refused_with_both_figures(scorer: Callable[[str], Scorer]) -> None:
    made = scorer("gpt2")
    encoded = made.encoder.encode("a->b\n" * 400 + "c->", ("d",), "\n")
    with pytest.raises(InputError, match=f"takes {len(encoded.stem) + len(encoded.tails[0]) - 1} tokens .* has 512"):
        made.check_context(encoded)
