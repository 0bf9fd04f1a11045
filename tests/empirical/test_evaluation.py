"""Whole runs with models whose behaviour is known: one that superposes and one that commits."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from construct.suites import build_suite
from empirical.evaluation import Plan, Progress, evaluate
from empirical.language_model import Answer
from empirical.measures import calibration, mean, total_variation
from empirical.records import load_results
from empirical.runtime import Ranks
from empirical.settings import Question, Rules, curve_cells
from empirical.superposition_index import superposition_index

ALONE = Ranks(0, 1, lambda: None)
TASKS = build_suite("letters", tasks=2)
PROMPTS = 60


class _Known:
    """Has 0.9 on the two answers: "superposes" as the evidence, "commits" to one answer by it, or "guesses"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.provenance: Mapping[str, Any] = {"kind": "test", "model": kind}

    def answer(self, questions: Sequence[Question], *, completions: int = 0) -> list[Answer]:
        answers = []
        for question in questions:
            shares = np.array(question.evidence)
            if self.kind == "guesses":
                shares = np.full(2, 0.5)
            if self.kind == "commits":
                generator = np.random.default_rng([question.cell, question.index])
                shares = np.eye(2)[int(generator.random() >= shares[0])]
            logs = tuple(math.log(0.9 * share) if share > 0 else -math.inf for share in shares)
            answers.append(Answer(logs, None))
        return answers


@pytest.mark.parametrize("kind", ["superposes", "commits", "guesses"])
def test_averages_do_not_tell_the_three_apart_and_the_index_with_the_calibration_does(
    kind: str, tmp_path: Path
) -> None:
    plan = Plan(TASKS, curve_cells(5, 8), PROMPTS, Rules(), completions=False)
    seen: list[Progress] = []
    results = load_results(evaluate(_Known(kind), plan, tmp_path, ALONE, tell=seen.append))
    samples = [results.sample(cell) for cell in range(5)]
    middle = samples[2]
    # At lambda = 1/2 all have the same mean; of 60 draws of one half the mean errs by 0.065.
    assert mean(middle.normalised[:, 0]).value == pytest.approx(0.5, abs=0.2 if kind == "commits" else 1e-5)
    assert superposition_index(middle).value == pytest.approx(0 if kind == "commits" else 1, abs=1e-5)
    found = calibration(samples)
    assert found is not None
    # Over five weights the slope errs by less than twice what one mean does.
    slope = 0 if kind == "guesses" else 1
    assert found.slope.value == pytest.approx(slope, abs=0.3 if kind == "commits" else 1e-5)
    assert mean(middle.other).value == pytest.approx(0.1, abs=1e-5)
    # Superposed: |1/2 - 0.45| twice and 0.1 elsewhere; committed: |1/2 - 0.9|, 1/2 and 0.1; both halved.
    expected = (0.4 + 0.5 + 0.1) / 2 if kind == "commits" else (0.05 + 0.05 + 0.1) / 2
    assert mean(total_variation(middle)).value == pytest.approx(expected, abs=1e-5)
    assert (seen[-1].done, seen[-1].total, seen[-1].seconds_left) == (300, 300, 0)
    assert [one.done for one in seen] == sorted(one.done for one in seen)


def test_processes_deal_the_batches_out_among_them(tmp_path: Path) -> None:
    plan = Plan(TASKS, curve_cells(2, 4), 10, Rules(), completions=False, batch=3)  # 20 questions, 7 batches
    barrier, asked = Barrier(2), [0, 0]

    class Counted(_Known):
        def __init__(self, rank: int) -> None:
            super().__init__("superposes")
            self.rank = rank

        def answer(self, questions: Sequence[Question], *, completions: int = 0) -> list[Answer]:
            asked[self.rank] += 1
            return super().answer(questions, completions=completions)

    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(evaluate, Counted(rank), plan, tmp_path, Ranks(rank, 2, lambda: barrier.wait(60) and None))
            for rank in range(2)
        ]
        assert {run.result(timeout=60) for run in runs} == {tmp_path / "results.jsonl"}
    assert asked == [4, 3]
    assert len(load_results(tmp_path).rows) == 20
