"""What a measuring process does: `python -m benchmarks.steps STEP REQUEST` prints one JSON object.

Times are the best of a few repeats, since other work on the machine only ever adds to them; what takes longer than
`REPEAT_SECONDS` is measured once. Memory is the peak of the process (resident, on Linux and macOS), with what the
imports took beside it. What a step prepares (the construction to be saved, the artifact to predict with) is not
timed, but is in its peak.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil

from benchmarks.measure import THREADS, Case
from benchmarks.report import Record
from construct.artifact import load, save, sizes
from construct.bounds import rounding_bound
from construct.oracle import answer
from construct.prompts import Prompt
from construct.reads import plan_reads
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.tasks import TaskSet
from construct.theorems import Construction, two_layer

REPEATS, REPEAT_SECONDS = 25, 1.5

Result = TypeVar("Result")


def build(case: Case) -> Record:
    """The tasks and the construction."""
    started = resident_mib()
    construction, taken = best_of(lambda: _construction(case))
    return {"seconds": taken, "start_mib": started, **sizes(construction)}


def save_it(case: Case, directory: str) -> Record:
    """The artifact, written."""
    started, path = resident_mib(), Path(directory)
    construction = _construction(case)
    _, taken = best_of(lambda: save(construction, path))
    written = sum(file.stat().st_size for file in path.iterdir())
    return {"seconds": taken, "start_mib": started, "artifact_mib": written / 2**20}


def load_it(case: Case, directory: str) -> Record:
    """The artifact, read and checked."""
    started = resident_mib()
    construction, taken = best_of(lambda: load(Path(directory)))
    assert construction.layout.examples == case.examples
    return {"seconds": taken, "start_mib": started}


def predict(case: Case, directory: str, *, dense: bool = False, dtype: str = "float32") -> Record:
    """One prompt of m examples; the torch module is made before, and timed apart."""
    import torch

    from construct.prediction import Predictor

    torch.set_num_threads(THREADS)
    started = resident_mib()
    construction = load(Path(directory))
    begun = time.perf_counter()
    predictor = Predictor(construction, dtype=dtype, dense=dense)
    module_seconds = time.perf_counter() - begun
    prompt = PromptSampler(construction.task_set).prompt(case.examples, np.random.default_rng(0))
    (prediction,), taken = best_of(lambda: predictor.predict([prompt]))
    error = total_variation(construction.task_set, prompt, prediction.distribution)
    return {"seconds": taken, "module_seconds": module_seconds, "start_mib": started, "total_variation": error}


def accuracy(case: Case, dtype: str, prompts: int, *, any_length: bool = False) -> Record:
    """The worst total variation to the oracle over random prompts, each of a random mixture.

    The prompts have m examples, or any number from 1 to m.
    """
    import torch

    from construct.prediction import Predictor

    torch.set_num_threads(THREADS)
    started, begun = resident_mib(), time.perf_counter()
    construction = _construction(case)
    task_set = construction.task_set
    predictor = Predictor(construction, dtype=dtype)
    generator = np.random.default_rng(0)
    names, errors = [task.name for task in task_set.tasks], []
    for _ in range(prompts):
        mixture = generator.dirichlet(np.ones(case.tasks)).tolist()
        sampler = PromptSampler(task_set, dict(zip(names, mixture, strict=True)))
        shown = int(generator.integers(1, case.examples, endpoint=True)) if any_length else case.examples
        prompt = sampler.prompt(shown, generator)
        (prediction,) = predictor.predict([prompt])
        errors.append(total_variation(task_set, prompt, prediction.distribution))
    bound = rounding_bound(task_set, plan_reads(task_set), construction.layout, construction.sharpness, dtype)
    return {
        "worst": max(errors),
        "median": float(np.median(errors)),
        "bound": bound,
        "seconds": time.perf_counter() - begun,
        "start_mib": started,
    }


def total_variation(task_set: TaskSet, prompt: Prompt, distribution: dict[str, float]) -> float:
    """The distance of a model's distribution to the oracle's, half their difference in the 1-norm."""
    exact = {task_set.alphabet[token]: p for token, p in answer(task_set, prompt).distribution.items()}
    tokens = exact.keys() | distribution.keys()
    gaps = (abs(Fraction(distribution.get(token, 0.0)) - exact.get(token, Fraction(0))) for token in tokens)
    return float(sum(gaps, Fraction(0)) / 2)


STEPS: dict[str, Callable[..., Record]] = {
    "build": build,
    "save": save_it,
    "load": load_it,
    "predict": predict,
    "accuracy": accuracy,
}


def _construction(case: Case) -> Construction:
    task_set = build_suite(case.suite, tasks=case.tasks, alphabet_size=case.alphabet_size, inputs=case.inputs)
    return two_layer(task_set, examples=case.examples)


def best_of(action: Callable[[], Result]) -> tuple[Result, float]:
    """The last result, and the shortest of the times taken; a result is given up before the next is made."""
    begun = time.perf_counter()
    result = action()
    best = time.perf_counter() - begun
    for _ in range(REPEATS - 1):
        if time.perf_counter() - begun + best > REPEAT_SECONDS:
            break
        del result
        at = time.perf_counter()
        result = action()
        best = min(best, time.perf_counter() - at)
    return result, best


def resident_mib() -> float:
    """Resident now, in MiB."""
    return float(psutil.Process().memory_info().rss) / 2**20


def _peak_memory() -> float:
    """The most that was resident, in MiB; macOS counts bytes, Linux KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def run_step(steps: Mapping[str, Callable[..., Record]]) -> None:
    """Run the step that the command line names, and print what it found."""
    step, text = sys.argv[1:]
    request: dict[str, Any] = json.loads(text)
    found = steps[step](Case(**request["case"]), **request["options"])
    print(json.dumps(found | {"peak_mib": _peak_memory()}))


if __name__ == "__main__":
    run_step(STEPS)
