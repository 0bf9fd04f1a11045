"""An unmodified GPT-2 that computes a construction: in four formats, with a cache, in both forms of normalisation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from construct.constructions import KINDS
from construct.errors import InputError, TooLargeError
from construct.export import shape as shapes
from construct.export.gpt2 import NORMALIZATIONS, StockModel, stock_model, stream_scale
from construct.export.readout import readout
from construct.oracle import curve
from construct.prompts import Prompt
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.tasks import TaskSet
from construct.theorems import Construction
from construct.transformer import forward
from tests.construct.test_export_readout import distance, expected

transformers = pytest.importorskip("transformers")

FORMATS = {"float32": (torch.float32, 1e-5), "bfloat16": (torch.bfloat16, 2e-2)}
"""The total variations that are to be kept to."""

MODELS = {
    "two-layer": ("two-layer", "retrieval", {"tasks": 5, "alphabet_size": 13, "inputs": 6}, 8),
    "seven-layer": ("seven-layer", "retrieval", {"tasks": 3, "alphabet_size": 11, "inputs": 4}, 6),
    "sums": ("two-layer", "plus", {"tasks": 2, "alphabet_size": 19}, 5),
    "one input": ("two-layer", "lookup", {"tasks": 4, "alphabet_size": 17, "inputs": 1}, 7),
}


def built(name: str) -> Construction:
    theorem, suite, sizes, examples = MODELS[name]
    return KINDS[theorem].build(build_suite(suite, **sizes), examples=examples)


def folder(model: StockModel, directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(model.config))
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in model.tensors.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def loaded(directory: Path, dtype: torch.dtype, **options: str) -> transformers.GPT2LMHeadModel:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, **options)


def prompts(task_set: TaskSet, examples: int, count: int = 6) -> list[Prompt]:
    generator = np.random.default_rng(3)
    sampler = PromptSampler(task_set)
    sizes = [0, 1, examples, *generator.integers(2, examples + 1, size=count - 3)]
    return [sampler.prompt(int(size), generator) for size in sizes]


@pytest.fixture(scope="module", params=[(name, form) for name in MODELS for form in NORMALIZATIONS], ids="-".join)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[StockModel, Path]:
    name, normalization = request.param
    model = stock_model(built(name), normalization=normalization)
    return model, folder(model, tmp_path_factory.mktemp("gpt2") / "model")


def run(network: torch.nn.Module, ids: list[int], **options: object) -> tuple[np.ndarray, list[np.ndarray]]:
    with torch.no_grad():
        result = network(torch.tensor([ids]), output_hidden_states=True, **options)
    return result.logits[0].double().numpy(), [state[0].double().numpy() for state in result.hidden_states]


def test_the_class_is_stock_and_every_weight_is_used(exported: tuple[StockModel, Path]) -> None:
    model, directory = exported
    network = loaded(directory, torch.float32)
    assert type(network) is transformers.GPT2LMHeadModel
    assert {name for name, _ in network.named_parameters()} == set(model.tensors)
    assert sum(parameter.numel() for parameter in network.parameters()) == model.shape.parameters
    for name, parameter in network.named_parameters():
        assert np.array_equal(parameter.detach().numpy(), model.tensors[name].astype(np.float32))


def test_in_float64_logits_and_states_are_those_of_the_plain_pass(exported: tuple[StockModel, Path]) -> None:
    model, directory = exported
    construction = model.readout.construction
    network = loaded(directory, torch.float64)
    for prompt in prompts(construction.task_set, construction.layout.examples):
        ids = construction.layout.ids(prompt)
        logits, states = run(network, ids)
        plain, alone = forward(model.readout.weights, ids), forward(construction.weights, ids)
        assert np.abs(logits - plain.output).max() <= 1e-12
        for layer, stream in enumerate(alone.after_mlp, start=1):
            state = states[layer][:, : construction.weights.d_model] / stream_scale(model.normalization)
            assert np.abs(state - stream).max() <= 1e-12


def test_in_float64_a_cache_changes_nothing(exported: tuple[StockModel, Path]) -> None:
    model, directory = exported
    construction = model.readout.construction
    network = loaded(directory, torch.float64)
    ids = construction.layout.ids(prompts(construction.task_set, construction.layout.examples)[2])
    plain = forward(model.readout.weights, ids).output
    cut = len(ids) // 3
    with torch.no_grad():
        start = network(torch.tensor([ids[:cut]]), use_cache=True)
        found, cache = [start.logits[0]], start.past_key_values
        for token in ids[cut:]:
            step = network(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            found.append(step.logits[0])
            cache = step.past_key_values
    assert np.abs(torch.cat(found).numpy() - plain).max() <= 1e-12


@pytest.mark.parametrize(("precision", "attention"), [("float32", "eager"), ("float32", "sdpa"), ("bfloat16", "sdpa")])
def test_the_total_variation_to_the_oracle(exported: tuple[StockModel, Path], precision: str, attention: str) -> None:
    model, directory = exported
    construction, layout = model.readout.construction, model.readout.construction.layout
    dtype, allowed = FORMATS[precision]
    network = loaded(directory, dtype, attn_implementation=attention)
    asked = prompts(construction.task_set, layout.examples)
    ids = torch.full((len(asked), layout.positions), model.readout.pad)
    for row, prompt in zip(ids, asked, strict=True):
        given = layout.ids(prompt)
        row[: len(given)] = torch.tensor(given)
    with torch.no_grad():
        found = torch.softmax(network(ids).logits.double(), dim=-1).numpy()
    for row, prompt in zip(found, asked, strict=True):
        for index, answer in enumerate(curve(construction.task_set, prompt)):
            assert distance(row[layout.eq_position(index)], expected(answer, model.readout)) <= allowed


def test_the_mean_of_everything_written_is_0(exported: tuple[StockModel, Path]) -> None:
    model, _ = exported
    written = [name for name in model.tensors if "wte" in name or "wpe" in name or "c_proj" in name]
    assert len(written) == 2 + 4 * model.shape.layers
    for name in written:
        # Every row is made of a few numbers of 24 bits, so that float64 adds them up exactly.
        assert not model.tensors[name].astype(np.float64).sum(axis=-1).any(), name


def test_nothing_reads_the_balance(exported: tuple[StockModel, Path]) -> None:
    model, _ = exported
    d = model.readout.weights.d_model
    assert not model.tensors["lm_head.weight"][:, d:].any()
    for layer in range(model.shape.layers):
        assert not model.tensors[f"transformer.h.{layer}.attn.c_attn.weight"][d:].any()
        assert not model.tensors[f"transformer.h.{layer}.mlp.c_fc.weight"][d:].any()


UNITS = {torch.float32: 3, torch.bfloat16: 0}
"""What scaling down may change a number of 8 bits by, in units of the roundoff."""


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_norm_is_the_identity_on_every_number_of_8_bits(normalization: str, dtype: torch.dtype) -> None:
    model = stock_model(built("one input"), normalization=normalization)
    scale = stream_scale(normalization)
    numbers = torch.arange(128, 256, dtype=torch.float64) / 128
    stream = torch.cat([numbers, -numbers])[None]
    width = stream.shape[1]
    units = UNITS[dtype] if normalization == "scale-down" else 0
    for exponent in (-6, 0, 1, 6):
        scaled = (stream * 2.0**exponent * scale).to(dtype)
        weight = torch.from_numpy(model.tensors["transformer.ln_f.weight"][:1]).to(dtype).expand(width)
        norm = torch.nn.functional.layer_norm(
            scaled, (width,), weight, torch.zeros(width, dtype=dtype), model.config["layer_norm_epsilon"]
        )
        off = (norm.double() / 2.0**exponent - stream).abs() / stream.abs()
        assert off.max() <= units * torch.finfo(dtype).eps / 2


def test_an_unknown_normalization_is_refused() -> None:
    with pytest.raises(InputError, match="'none': expected one of scale-down, large-eps"):
        stock_model(built("one input"), normalization="none")


def test_what_memory_does_not_hold_is_refused_with_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    construction = built("one input")
    needed = shapes.stock_shape(readout(construction)).parameters

    def free(needed: int, what: str) -> None:
        raise TooLargeError(f"{what} takes {needed}")

    monkeypatch.setattr(shapes, "refuse_beyond_memory", free)
    with pytest.raises(TooLargeError, match=rf"{needed:,} parameters takes {9 * needed} \(dense: 6 layers"):
        stock_model(construction)
