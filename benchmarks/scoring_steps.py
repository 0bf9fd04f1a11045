"""What a process does that measures scoring: `python -m benchmarks.scoring_steps STEP REQUEST`, as in steps.py.

A case is K candidates, a vocabulary of V, m examples of five tokens each. The model is a Llama with random weights,
of a size that the vocabulary decides: what is timed does not depend on the weights.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch

from benchmarks.measure import THREADS, Case
from benchmarks.report import Record
from benchmarks.steps import best_of, resident_mib, run_step
from empirical.scoring import Scorer
from empirical.tokenizing import Encoded, Encoder

TOKENS = 5
"""Tokens of an example, and of the longest candidate; the first candidate has one."""


def score(case: Case, *, width: int, layers: int) -> Record:
    """One prefill with a shared cache, against one full forward pass a candidate, in one process and in turn."""
    torch.set_num_threads(THREADS)
    started = resident_mib()
    model, encoder = _model(case, width, layers)
    scorer = Scorer(model, encoder)
    encoded = _question(case, encoder)

    def shared() -> Sequence[float]:
        return scorer.score([encoded])[0].log_probabilities

    def full() -> Sequence[float]:
        return full_passes(model, encoded)

    differences = [abs(one - other) for one, other in zip(shared(), full(), strict=True)]
    # In turn, so that a busy moment of the machine does not fall on one of them alone.
    rounds = [(best_of(shared)[1], best_of(full)[1]) for _ in range(3)]
    fast, slow = (min(times) for times in zip(*rounds, strict=True))
    return {
        "seconds": fast,
        "full_seconds": slow,
        "ratio": slow / fast,
        "difference": max(differences),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "prompt_tokens": len(encoded.stem),
        "start_mib": started,
    }


def full_passes(model: Any, encoded: Encoded) -> list[float]:
    """As the paper's code does it: the whole prompt again for each candidate, and all of its logits."""
    found = []
    for tail in encoded.tails:
        ids = torch.tensor([[*encoded.stem, *tail]])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        begin = len(encoded.stem)
        found.append(sum(float(logits[begin + place - 1, token]) for place, token in enumerate(tail)))
    return found


def _model(case: Case, width: int, layers: int) -> tuple[Any, Encoder]:
    transformers, tokenizers = import_module("transformers"), import_module("tokenizers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({f"t{place}": place for place in range(case.alphabet_size)}, unk_token="t0")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=case.alphabet_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    return model, Encoder(transformers.PreTrainedTokenizerFast(tokenizer_object=words))


def _question(case: Case, encoder: Encoder) -> Encoded:
    generator = torch.Generator().manual_seed(1)

    def words(count: int) -> str:
        return " ".join(f"t{int(at)}" for at in torch.randint(1, case.alphabet_size, (count,), generator=generator))

    prompt = "\n".join(words(TOKENS) for _ in range(case.examples))
    return encoder.encode(prompt, [f" {words(1 + place % TOKENS)}" for place in range(case.tasks)], "")


STEPS: dict[str, Callable[..., Record]] = {"score": score}

if __name__ == "__main__":
    run_step(STEPS)
