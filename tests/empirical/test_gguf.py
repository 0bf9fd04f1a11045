"""A model in llama.cpp's form gives the answers of the folder that it was made from, with its weights as quantised."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("transformers") is None or find_spec("gguf") is None:
    pytest.skip("transformers and gguf are not installed", allow_module_level=True)

import gguf
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from construct.errors import InputError
from construct.suites import build_suite
from empirical import language_model, runtime
from empirical.language_model import Options, open_model
from empirical.open_model import open_inside
from empirical.settings import Cell, Rules, draw
from tests.empirical.tiny_models import byte_level

LAYERS, HEADS, SHARED, WIDTH, MLP = 3, 4, 2, 32, 64
"""Quantised rows are cut into blocks of 32."""


def _heads_last(weight: Any, heads: int) -> Any:
    """The rows of queries or keys in the order of llama.cpp, which turns neighbours where transformers turns halves."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _write(path: Path, model: Any, tokenizer: Any, quantised: Any) -> dict[str, Any]:
    """Write a file; returns the weights as they are once the file is read."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(model.config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(len(tokenizer))
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in vocabulary])
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token, _ in vocabulary]
    writer.add_token_types(kinds)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    read = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        kept = array
        kind = quantised if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        heads = {"q_proj": HEADS, "k_proj": SHARED}.get(name.split(".")[-2])
        stored = array if heads is None else _heads_last(array, heads)
        packed = gguf.quants.quantize(np.ascontiguousarray(stored), kind)
        if kind != gguf.GGMLQuantizationType.F32:
            # Rows are quantised one by one: their order is no matter.
            kept = gguf.quants.dequantize(gguf.quants.quantize(np.ascontiguousarray(array), kind), kind)
        read[name] = torch.from_numpy(np.array(kept, dtype=np.float32))
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A file with weights of a type, and the folder of a model with the weights as they are read."""
    directory = tmp_path_factory.mktemp("gguf")
    tokenizer = byte_level(420, bos=False)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=SHARED, max_position_embeddings=256, initializer_range=0.3,
            bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
        )
    )  # fmt: skip

    def make(kind: str) -> tuple[Path, Path]:
        path, folder = directory / f"{kind}.gguf", directory / kind
        read = _write(path, model, tokenizer, gguf.GGMLQuantizationType[kind])
        twin = AutoModelForCausalLM.from_config(model.config)
        twin.load_state_dict(read)
        twin.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return path, folder

    return make


def _answers(model: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    task_set = build_suite("copy_add")
    questions = list(draw(task_set, Cell((0.5, 0.3, 0.2), 7), 5, Rules()))
    found = open_model(str(model), runtime.choose("cpu"), Options(), warn=pytest.fail).answer(questions)
    return np.array([one.log_probabilities for one in found])


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_file_answers_as_its_weights_do(kind: str, made: Callable[[str], tuple[Path, Path]]) -> None:
    path, folder = made(kind)
    np.testing.assert_allclose(_answers(path), _answers(folder), rtol=0, atol=1e-4)


def test_what_is_measured_is_the_quantised_model(made: Callable[[str], tuple[Path, Path]]) -> None:
    exact, quantised = (_answers(made(kind)[0]) for kind in ("F32", "Q8_0"))
    assert np.abs(exact - quantised).max() > 1e-3


def test_the_file_is_known_again_and_can_be_looked_into(made: Callable[[str], tuple[Path, Path]]) -> None:
    (path, _), (other, _) = made("F32"), made("Q8_0")
    opened = open_inside(str(path), runtime.choose("cpu"), Options())
    assert opened.model.layers == LAYERS
    assert opened.provenance["model"] == str(path)
    assert opened.provenance["sha256"] != open_inside(str(other), runtime.choose("cpu"), Options()).provenance["sha256"]


def test_files_that_are_no_model_are_refused(made: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    whole = made("F32")[0].read_bytes()
    for name, content in (("empty", b""), ("text", b"hello"), ("cut", whole[: len(whole) // 2])):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.gguf cannot be loaded"):
            open_inside(str(path), runtime.choose("cpu"), Options())
    with pytest.raises(InputError, match="a GGUF file"):
        open_inside("missing.gguf", runtime.choose("cpu"), Options())


def test_without_the_package_its_name_is_said(
    made: Callable[[str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = made("F32")
    monkeypatch.setattr(language_model, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match="needs the package gguf"):
        open_inside(str(path), runtime.choose("cpu"), Options())
