"""TransformerLens' bridges compute what this project computes, under the names of the ground truth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from construct.constructions import KINDS
from construct.errors import TaskError
from construct.export.folder import write_huggingface
from construct.export.gpt2 import NORMALIZATIONS, stock_model, stream_scale
from construct.export.provenance import Source
from construct.export.readout import readout
from construct.export.transformer_lens import transformer_lens_model
from construct.ground_truth import expected_pattern, ground_truth
from construct.oracle import answer
from construct.prompts import Prompt
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.theorems import Construction
from construct.transformer import forward
from tests.construct.strategies import Case, cases, task_sets

AGREES = 1e-12

theorems = st.sampled_from(sorted(KINDS))


def made(case: Case, theorem: str) -> Construction:
    try:
        return KINDS[theorem].build(case.task_set, examples=case.examples)
    except TaskError:
        reject()


def retrieval(theorem: str = "two-layer") -> tuple[Construction, Prompt]:
    task_set = build_suite("retrieval", tasks=3, alphabet_size=7, inputs=4)
    prompt = PromptSampler(task_set).prompt(5, np.random.default_rng(0))
    return KINDS[theorem].build(task_set, examples=5), prompt


def zero_head(head: int) -> Any:
    def put_zero(z: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        z[:, :, head] = 0
        return z

    return put_zero


@settings(max_examples=15)
@given(cases(), theorems)
def test_the_plain_bridge_computes_what_the_plain_forward_pass_does(case: Case, theorem: str) -> None:
    construction = made(case, theorem)
    ids = construction.layout.ids(case.prompt)
    trace = forward(construction.weights, ids)
    with torch.no_grad():
        output, cache = transformer_lens_model(construction.weights).run_with_cache(torch.tensor([ids]))
    assert np.abs(output[0].numpy() - trace.output).max() <= AGREES
    for layer, heads in enumerate(construction.weights.heads):
        for name, states in (("mid", trace.after_attention), ("post", trace.after_mlp)):
            found = cache[f"blocks.{layer}.hook_resid_{name}"][0].numpy()
            assert np.abs(found - states[layer]).max() <= AGREES
        if heads:
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, :heads].numpy()
            assert np.abs(pattern - trace.patterns[layer]).max() <= AGREES


@settings(max_examples=15)
@given(cases(task_sets(st.sampled_from((2, 3, 7)))), theorems)
def test_ablating_through_hooks_removes_what_the_key_says_and_nothing_else(case: Case, theorem: str) -> None:
    construction = made(case, theorem)
    ids = torch.tensor([construction.layout.ids(case.prompt)])
    model, shares = transformer_lens_model(construction.weights), answer(case.task_set, case.prompt).evidence
    for ablation in ground_truth(construction)["interventions"]["ablate_head"]:
        if ablation["alters"]:
            continue
        due = np.zeros(construction.layout.alphabet_size)
        for task, share in zip(case.task_set.tasks, shares, strict=True):
            token = task.answer(case.prompt.query)
            if token is not None and task.name not in ablation["removes"]:
                due[token] += float(share)
        with torch.no_grad():
            found = model.run_with_hooks(ids, fwd_hooks=[(ablation["hook"], zero_head(ablation["head"][1]))])
        assert found[0, -1].numpy() == pytest.approx(due, abs=1e-4)


@settings(max_examples=8)
@given(cases(), theorems)
def test_the_plain_bridge_of_a_readout_predicts_the_mixture(case: Case, theorem: str) -> None:
    construction = made(case, theorem)
    ids = construction.layout.ids(case.prompt)
    with torch.no_grad():
        logits = transformer_lens_model(readout(construction).weights)(torch.tensor([ids]))
    exact = answer(case.task_set, case.prompt).distribution
    size = construction.layout.alphabet_size
    due = [float(exact.get(token, 0)) if exact else 1 / size for token in range(size)]
    assert logits[0, -1].softmax(-1)[:size].numpy() == pytest.approx(due, abs=1e-5)


def test_a_key_with_two_heads_exchanged_is_noticed() -> None:
    construction, prompt = retrieval()
    ids = construction.layout.ids(prompt)
    with torch.no_grad():
        _, cache = transformer_lens_model(construction.weights).run_with_cache(torch.tensor([ids]))
    first, second = ground_truth(construction)["heads"][:2]
    for told, tolerated in (((first, second), True), ((second, first), False)):
        for place, head in zip((first, second), told, strict=True):
            found = cache[place["hooks"]["pattern"]][0, place["head"]].numpy()
            due = expected_pattern(head, construction.layout, len(ids))
            assert (np.abs(found - due).max() < 1e-6) == tolerated


@pytest.mark.parametrize("theorem", sorted(KINDS))
def test_the_plain_bridge_fires_every_hook_of_the_key(theorem: str) -> None:
    construction, prompt = retrieval(theorem)
    with torch.no_grad():
        _, cache = transformer_lens_model(construction.weights).run_with_cache(
            torch.tensor([construction.layout.ids(prompt)])
        )
    key = ground_truth(construction)
    for part in (*key["heads"], *key["units"]):
        assert set(part["hooks"].values()) <= set(cache)
    for task in key["tasks"]:
        assert {task["evidence"]["at_y"], task["evidence"]["at_eq"]} <= set(cache)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("theorem", sorted(KINDS))
def test_the_exported_folder_agrees_and_fires_every_hook(theorem: str, normalization: str, tmp_path: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPT2LMHeadModel

    construction, prompt = retrieval(theorem)
    stock = stock_model(construction, normalization=normalization)
    write_huggingface(stock, Source(construction, "0" * 64, None), tmp_path / "gpt2")
    ids = construction.layout.ids(prompt)
    trace = forward(construction.weights, ids)
    model = TransformerBridge.boot_transformers(str(tmp_path / "gpt2"), dtype=torch.float64, device="cpu")
    model.set_use_attn_result(True)
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.tensor([ids]))
        loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2", dtype=torch.float64, attn_implementation="eager")
        assert (loaded(torch.tensor([ids])).logits - logits).abs().max() <= AGREES
    scale, first = stream_scale(normalization), construction.weights.d_model
    for layer, states in enumerate(trace.after_mlp):
        found = cache[f"blocks.{layer}.hook_resid_post"][0, :, :first].numpy() / scale
        assert np.abs(found - states).max() <= AGREES
    key = ground_truth(construction)
    for part in (*key["heads"], *key["units"], *key["readout"]["units"]):
        hooks = part.get("hooks", {"post": f"blocks.{part['layer']}.mlp.hook_post"})
        assert set(hooks.values()) <= set(cache)
