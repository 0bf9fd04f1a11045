"""Small models of several families with trained tokenizers, made on the spot and saved as any model is."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.utils import logging

from construct.prompts import format_prompt
from construct.suites import build_suite
from empirical.settings import Cell, Rules, draw

SPECIAL = ["<pad>", "<s>", "</s>"]
CONTEXT = 512
SUITES = ("numbers", "letters", "copy_add")


def corpus() -> Iterator[str]:
    """Prompts of some suites; in those of `numbers` the arrow often merges with a minus sign."""
    for name in SUITES:
        task_set = build_suite(name)
        count = len(task_set.tasks)
        for question in draw(task_set, Cell((1 / count,) * count, 13), 30, Rules(ambiguous="count")):
            yield format_prompt(question.prompt, task_set) + question.candidates[0] + "\n"


def byte_level(vocabulary: int, *, bos: bool) -> PreTrainedTokenizerFast:
    """As GPT-2's, and with `bos` OPT's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    made.train_from_iterator(corpus(), trainer)
    return _wrapped(made, bos=bos)


def sentence_piece(vocabulary: int) -> PreTrainedTokenizerFast:
    """As Llama-2's and Gemma's: spaces as a visible sign, one in front, bytes for what is unknown, BOS."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[*SPECIAL, *bytes_], show_progress=False, max_token_length=5
    )
    lines = (line for text in corpus() for line in text.splitlines(keepends=True))
    made.train_from_iterator(lines, trainer)
    # The trainer makes the bytes special; in such tokenizers they are ordinary ids, which are read back.
    state = json.loads(made.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    return _wrapped(Tokenizer.from_str(json.dumps(state)), bos=True)


def _wrapped(made: Tokenizer, *, bos: bool) -> PreTrainedTokenizerFast:
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def configuration(family: str, vocabulary: int) -> Any:
    """A configuration with a hidden size of 24 and three layers, and weights large enough to have opinions."""
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    common = {"vocab_size": vocabulary, "max_position_embeddings": CONTEXT, "initializer_range": 0.3, **ids}
    llama = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, **common}
    if family == "llama":
        return LlamaConfig(**llama, num_key_value_heads=2)
    if family == "qwen2":
        return Qwen2Config(**llama, num_key_value_heads=2, use_sliding_window=False)
    if family == "gemma":
        return GemmaConfig(**llama, num_key_value_heads=1, head_dim=6)
    if family == "gpt_neox":
        return GPTNeoXConfig(**llama)
    if family == "opt":
        return OPTConfig(
            hidden_size=24, ffn_dim=40, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=24,
            init_std=0.3, dropout=0.0, **{key: value for key, value in common.items() if key != "initializer_range"},
        )  # fmt: skip
    if family == "gpt2":
        return GPT2Config(
            vocab_size=vocabulary, n_embd=24, n_layer=3, n_head=4, n_positions=CONTEXT, initializer_range=0.3, **ids
        )
    raise ValueError(family)


FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "opt", "gemma")
WITH_BOS = ("llama", "opt", "gemma")


def make(family: str, directory: Path) -> Path:
    """Save a model of a family, with its tokenizer, in a folder."""
    logging.disable_progress_bar()
    pieces = family in ("llama", "gemma")
    tokenizer = sentence_piece(600) if pieces else byte_level(420, bos=family in WITH_BOS)
    tokenizer.save_pretrained(directory)
    torch.manual_seed(FAMILIES.index(family))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising is no part of what is tested
        model = AutoModelForCausalLM.from_config(configuration(family, len(tokenizer)))
    model.save_pretrained(directory)
    return directory
