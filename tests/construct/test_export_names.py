"""The map of names onto an exported GPT-2 against its weights, and TransformerLens where it cannot be had."""

import sys

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from construct.constructions import KINDS
from construct.errors import InputError, TaskError
from construct.export.gpt2 import stock_model
from construct.export.transformer_lens import transformer_lens_model
from construct.ground_truth import ground_truth
from construct.suites import build_suite
from construct.theorems import two_layer
from tests.construct.strategies import Case, cases


@settings(max_examples=25)
@given(cases(), st.sampled_from(sorted(KINDS)))
def test_the_names_are_those_of_the_exports_weights(case: Case, theorem: str) -> None:
    try:
        construction = KINDS[theorem].build(case.task_set, examples=case.examples)
    except TaskError:
        reject()
    stock = stock_model(construction, normalization="large-eps")
    names, tensors = ground_truth(construction)["readout"]["gpt2"], stock.tensors
    assert (names["width"], names["heads"]) == (stock.config["n_embd"], stock.config["n_head"])
    for name, (start, stop) in names["mirrors"].items():
        space = stock.readout.stream[name]
        assert stop - start == space.size
        for block in range(stock.config["n_layer"]):
            for part in ("attn", "mlp"):
                out = tensors[f"transformer.h.{block}.{part}.c_proj.weight"]
                assert (out[:, start:stop] == -out[:, space.coordinates]).all(), (name, block, part)


def test_evidence_is_written_to_its_mirror() -> None:
    construction = two_layer(build_suite("plus"), examples=2)
    start, stop = ground_truth(construction)["readout"]["gpt2"]["mirrors"]["evidence"]
    out = stock_model(construction).tensors["transformer.h.0.mlp.c_proj.weight"]
    assert out[:, start:stop].any(axis=0).all()


def test_the_scale_of_the_stream_is_that_of_the_embedding() -> None:
    construction = two_layer(build_suite("plus"), examples=2)
    for normalization, scale in ground_truth(construction)["readout"]["gpt2"]["stream_scale"].items():
        tensors = stock_model(construction, normalization=normalization).tensors
        assert tensors["transformer.wte.weight"].max() == scale


def test_without_transformer_lens_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformer_lens.config", None)
    with pytest.raises(InputError, match=r"pip install 'task-superposition\[interpretability\]'"):
        transformer_lens_model(two_layer(build_suite("plus"), examples=2).weights)
