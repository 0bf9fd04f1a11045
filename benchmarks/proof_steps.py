"""What a process does that measures the prover: `python -m benchmarks.proof_steps STEP REQUEST`, as in steps.py."""

import time
from collections.abc import Callable

import numpy as np

from benchmarks.measure import THREADS, Case
from benchmarks.report import Record
from benchmarks.steps import best_of, resident_mib, run_step
from benchmarks.task_sets import task_set_of
from construct.artifact import sizes
from construct.theorems import Construction, two_layer
from verify.certify import judge, log10_prompts

CLAIM = 1e-6


def prove(case: Case, sharpness: float | None = None) -> Record:
    """The verdict on the weights, from the construction in memory; building it is not timed."""
    started = resident_mib()
    construction = _construction(case, sharpness)
    verdict, taken = best_of(lambda: judge(construction, "", CLAIM))
    return {
        "seconds": taken,
        "start_mib": started,
        "certified": verdict.certified,
        "log10_prompts": log10_prompts(construction),
        "tokens": case.tokens,
        "sharpness": construction.sharpness,
        "nonzero_parameters": sizes(construction)["nonzero_parameters"],
        "bounds": {"real": verdict.proof.real, **verdict.proof.rounded},
        "refusals": verdict.proof.refusals,
        "violations": [violation.lemma for violation in verdict.proof.violations],
    }


def exhaust(case: Case, sharpness: float | None = None) -> Record:
    """The proved bound against the worst of all prompts, in float64."""
    from verify.exhaustive import exhaust as exhaust_all

    started, begun = resident_mib(), time.perf_counter()
    construction = _construction(case, sharpness)
    bound = judge(construction, "", CLAIM).proof.real
    worst = exhaust_all(construction)
    return {
        "seconds": time.perf_counter() - begun,
        "start_mib": started,
        "bound": bound,
        "worst": worst.error,
        "rounding": worst.rounding,
        "prompts": worst.prompts,
        "sharpness": construction.sharpness,
    }


def search(case: Case, dtype: str, samples: int) -> Record:
    """The bound of a format against the worst prompt found in it; of real arithmetic, for float64."""
    import torch

    from verify.adversary import search as search_worst

    torch.set_num_threads(THREADS)
    started, begun = resident_mib(), time.perf_counter()
    construction = _construction(case)
    proof = judge(construction, "", CLAIM).proof
    worst = search_worst(construction, samples=samples, dtype=dtype)
    errors = np.array(worst.by_examples)
    return {
        "seconds": time.perf_counter() - begun,
        "start_mib": started,
        "bound": proof.real if dtype == "float64" else proof.rounded[dtype],
        "worst": worst.error,
        "worst_after": int(errors.argmax()),
        "answers": worst.prompts,
    }


STEPS: dict[str, Callable[..., Record]] = {"prove": prove, "exhaust": exhaust, "search": search}


def _construction(case: Case, sharpness: float | None = None) -> Construction:
    return two_layer(task_set_of(case), examples=case.examples, sharpness=sharpness)


if __name__ == "__main__":
    run_step(STEPS)
