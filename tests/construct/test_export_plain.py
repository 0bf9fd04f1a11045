"""The file of plain torch: it needs nothing else, and computes what the plain forward pass does."""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from construct.export.plain_model import encode
from construct.export.provenance import Certified, Source
from construct.export.readout import Readout, readout
from construct.export.torch_file import vocabulary, write_torch
from construct.oracle import curve
from construct.prompts import Layout, format_prompt
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.theorems import two_layer
from construct.transformer import forward
from tests.construct.strategies import formats, prompts

M = 5


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Readout, Path]:
    model = readout(two_layer(build_suite("retrieval", alphabet_size=11, inputs=4), examples=M))
    out = tmp_path_factory.mktemp("plain") / "out"
    record = write_torch(model, Source(model.construction, "0" * 64, Certified({"real": 1e-7})), out)
    assert record["kind"] == "torch"
    return model, out


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("pasted_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _ids(model: Readout, count: int) -> Iterator[list[int]]:
    """Prompts, and ids that are none."""
    generator = np.random.default_rng(0)
    sampler, layout = PromptSampler(model.construction.task_set), model.construction.layout
    for _ in range(count):
        yield layout.ids(sampler.prompt(int(generator.integers(M + 1)), generator))
        yield generator.integers(model.vocabulary_size, size=int(generator.integers(1, layout.positions))).tolist()


def test_the_file_needs_torch_and_nothing_else(plain: tuple[Readout, Path]) -> None:
    tree = ast.parse((plain[1] / "model.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names) == {"torch"}


def test_the_file_computes_what_the_plain_forward_pass_does(plain: tuple[Readout, Path]) -> None:
    model, path = plain
    loaded, _ = _module(path / "model.py").load(path)
    loaded.double()
    token = model.stream["token"].coordinates
    for ids in _ids(model, 8):
        logits, mixture = loaded(torch.tensor([ids]))
        expected = forward(model.weights, ids)
        assert np.abs(logits[0].numpy() - expected.output).max() <= 1e-12
        assert np.abs(mixture[0].numpy() - expected.after_mlp[-1][:, token]).max() <= 1e-12


def test_the_mixture_of_the_file_is_the_oracles(plain: tuple[Readout, Path]) -> None:
    model, path = plain
    module = _module(path / "model.py")
    loaded, words = module.load(path)
    construction = model.construction
    sampler = PromptSampler(construction.task_set)
    assert construction.error_bound is not None
    for seed in range(5):
        prompt = sampler.prompt(M, np.random.default_rng(seed))
        ids = module.encode(format_prompt(prompt, construction.task_set), words)
        mixture = loaded.double()(torch.tensor([ids])).mixture[0].numpy()
        for seen, exact in enumerate(curve(construction.task_set, prompt)):
            q = np.zeros(construction.layout.alphabet_size)
            q[list(exact.target)] = [float(share) for share in exact.target.values()]
            found = mixture[construction.layout.eq_position(seen)]
            assert np.abs(found - q).sum() <= construction.error_bound + 1e-12


def test_the_file_answers_a_prompt_as_a_program(
    plain: tuple[Readout, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompt.txt").write_text("abcd->a\ndcba->c\nacdd->\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["model.py", str(tmp_path / "prompt.txt")])
    _module(plain[1] / "model.py").main()
    assert capsys.readouterr().out == "a 0.5000\nc 0.5000\n"


def test_too_long_a_prompt_is_an_error_in_the_file(plain: tuple[Readout, Path]) -> None:
    model, path = plain
    loaded, _ = _module(path / "model.py").load(path)
    positions = model.construction.layout.positions
    with pytest.raises(ValueError, match=f"has {positions + 1} tokens: at most {positions} fit"):
        loaded(torch.zeros(1, positions + 1, dtype=torch.int64))


@given(st.data())
def test_the_file_reads_a_text_as_the_parser_does(data: st.DataObject) -> None:
    task_set = data.draw(formats())
    layout = Layout(len(task_set.alphabet), task_set.inputs, M)
    prompt = data.draw(prompts(task_set, M))
    assert encode(format_prompt(prompt, task_set), vocabulary(task_set, layout)) == layout.ids(prompt)


@pytest.mark.parametrize("text", ["abcx->a\nabcd->", "abc->a\nabcd->", "abcd->z\nabcd->", "abcd\nabcd->"])
def test_an_unknown_token_is_an_error_in_the_file(plain: tuple[Readout, Path], text: str) -> None:
    with pytest.raises(ValueError, match="expected 4 of the 11 tokens"):
        encode(text, vocabulary(plain[0].construction.task_set, plain[0].construction.layout))
