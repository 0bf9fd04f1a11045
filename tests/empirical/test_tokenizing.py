"""What holds of every prompt and every candidate, whatever merges."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from construct.errors import InputError
from empirical.language_model import Options, load_pretrained
from empirical.runtime import Runtime
from empirical.tokenizing import Encoded, Encoder

TEXT = st.text(st.sampled_from("0123456789->=ab A\n"), min_size=1, max_size=12)
ANSWER = st.text(st.sampled_from("0123456789->=abAé"), min_size=1, max_size=6)


@pytest.fixture(params=["gpt2", "llama", "opt"])
def encoder(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Encoder:
    _, made, _ = load_pretrained(str(tiny(request.param)), Runtime("cpu", "float32"), Options())
    return made


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=TEXT, answers=st.lists(ANSWER, min_size=1, max_size=4, unique=True))
def test_stem_and_tails_are_the_joint_tokens_and_the_rest_is_what_the_stem_lacks(
    encoder: Encoder, prompt: str, answers: list[str]
) -> None:
    prompt = "3->4\n" + prompt  # so that not all of it merges
    encoded = encoder.encode(prompt, answers, "\n")
    for answer, tail in zip(answers, encoded.tails, strict=True):
        assert (*encoded.stem, *tail) == encoder.ids(prompt + answer + "\n")
    assert (*encoded.stem, *encoded.rest_ids) == encoder.ids(prompt)
    assert bool(encoded.rest) == bool(encoded.rest_ids)
    assert prompt.endswith(encoded.rest)
    if encoded.rest:
        _crossings_are_minimal(encoder, encoded)


def _crossings_are_minimal(encoder: Encoder, encoded: Encoded) -> None:
    before = len(encoder.text(encoded.stem))
    for tail, crossing in zip(encoded.tails, encoded.crossings, strict=True):
        lengths = [len(encoder.text([*encoded.stem, *tail[:count]])) - before for count in range(len(tail) + 1)]
        assert lengths[crossing] >= len(encoded.rest)
        assert lengths[crossing - 1] < len(encoded.rest)


def test_two_answers_with_the_same_tokens_are_refused() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate("ab->\n")}, merges=[]))
    made.decoder = decoders.Fuse()
    made.normalizer = normalizers.Replace(" ", "")
    own = Encoder(PreTrainedTokenizerFast(tokenizer_object=made))
    with pytest.raises(InputError, match="the same tokens"):
        own.encode("a->", ("ab", "a b"), "\n")


def test_unknown_policies_and_missing_tokens_are_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="'sometimes'"):
        Encoder(encoder.tokenizer, bos="sometimes")
    encoder.tokenizer.bos_token = None
    with pytest.raises(InputError, match="no beginning-of-sequence token"):
        Encoder(encoder.tokenizer, bos="always")
