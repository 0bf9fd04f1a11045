"""What a measuring process does of exports: `python -m benchmarks.exporting_steps STEP REQUEST`."""

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import THREADS, Case
from benchmarks.report import Record
from benchmarks.steps import resident_mib, run_step
from construct.constructions import KINDS
from construct.export.gpt2 import stock_model, stream_scale
from construct.oracle import Answer, curve
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.transformer import Residual, forward


def agree(case: Case, normalization: str, prompts: int, *, theorem: str = "two-layer") -> Record:
    """Random prompts through the stock class in three formats, at every EQ, with the oracle and the plain pass."""
    import torch
    from safetensors.numpy import save_file
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(THREADS)
    started = resident_mib()
    # A suite of real words has sizes of its own: 0 asks for none.
    given = {"alphabet_size": case.alphabet_size, "inputs": case.inputs} if case.alphabet_size else {}
    task_set = build_suite(case.suite, tasks=case.tasks, **given)
    construction = KINDS[theorem].build(task_set, examples=case.examples)
    begun = time.perf_counter()
    model = stock_model(construction, normalization=normalization)
    seconds = time.perf_counter() - begun
    layout, generator, sampler = construction.layout, np.random.default_rng(0), PromptSampler(task_set)
    shown = [case.examples, *generator.integers(0, case.examples, size=prompts - 1, endpoint=True)]
    asked = [sampler.prompt(int(count), generator) for count in shown]
    found: Record = {
        "seconds": seconds,
        "start_mib": started,
        "parameters": model.shape.parameters,
        "width": model.shape.width,
        "layers": model.shape.layers,
        "variation": {},
    }
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(model.config))
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in model.tensors.items()}
        save_file(tensors, Path(directory) / "model.safetensors", metadata={"format": "pt"})
        for precision in ("float64", "float32", "bfloat16"):
            network = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, precision))
            worst, logits_off, states_off = 0.0, 0.0, 0.0
            # bfloat16 is slow on a CPU.
            for prompt in asked[: 4 if precision == "bfloat16" else None]:
                ids = layout.ids(prompt)
                with torch.no_grad():
                    result = network(torch.tensor([ids]), output_hidden_states=True)
                logits = result.logits[0].double()
                shares = torch.softmax(logits, dim=-1).numpy()
                for index, exact in enumerate(curve(task_set, prompt)):
                    at = layout.eq_position(index)
                    worst = max(worst, _variation(shares[at], exact, layout.alphabet_size))
                if precision != "float64":
                    continue
                logits_off = max(
                    logits_off, float(abs(logits.numpy() - forward(model.readout.weights, ids).output).max())
                )
                for layer, stream in enumerate(forward(construction.weights, ids).after_mlp, start=1):
                    state = result.hidden_states[layer][0, :, : stream.shape[1]].numpy() / stream_scale(normalization)
                    states_off = max(states_off, float(abs(state - stream).max()))
            found["variation"][precision] = worst
            if precision == "float64":
                found |= {"logits": logits_off, "states": states_off}
    return found


def _variation(shares: Residual, exact: Answer, alphabet_size: int) -> float:
    due = np.zeros_like(shares)
    for token, share in exact.distribution.items():
        due[token] = float(share)
    if not exact.target:
        due[:alphabet_size] = 1 / alphabet_size
    return float(np.abs(shares - due).sum() / 2)


if __name__ == "__main__":
    run_step({"agree": agree})
