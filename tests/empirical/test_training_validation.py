"""What a validation says of models whose every answer is known: an exact one, one that commits, one that guesses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from construct.oracle import answer
from construct.prompts import Example, Layout, Prompt
from construct.suites import build_suite
from construct.tasks import TaskSet
from empirical.training.pools import task_tensors
from empirical.training.prompts import Sampler
from empirical.training.validation import LAMBDAS, Validated, Validation

TASKS = build_suite("retrieval", tasks=3, alphabet_size=61, inputs=4)
EXAMPLES, PROMPTS = 12, 64


class _Known:
    """A model by a formula: the tasks' shares of the examples so far, [prompts, m+1, K], decide the probabilities."""

    def __init__(self, task_set: TaskSet, rule: str) -> None:
        self.tensors, self.rule, self.training = task_tensors(task_set), rule, True
        self.eq = len(task_set.alphabet) + 1

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def __call__(self, *, input_ids: Tensor, use_cache: bool, logits_to_keep: Tensor) -> SimpleNamespace:
        assert not use_cache
        assert not self.training
        n = self.tensors.inputs
        whole = torch.cat([input_ids, torch.zeros_like(input_ids[:, :1])], dim=1)
        blocks = whole[:, 1:].view(len(whole), -1, n + 2)
        assert (blocks[..., n] == self.eq).all()
        answers = self.tensors.all_answers(blocks[..., :n])
        agree = (answers == blocks[..., n + 1 :]).double()
        before = agree.cumsum(1) - agree
        shares = before / torch.arange(blocks.shape[1]).clamp(min=1)[:, None]
        if self.rule == "commit":  # to the task of the first example
            shares = agree[:, :1].expand_as(shares)
        elif self.rule == "guess":
            shares = torch.full_like(shares, 1 / shares.shape[-1])
        chances = torch.zeros(*answers.shape[:2], self.tensors.alphabet_size + 4, dtype=torch.float64)
        chances.scatter_add_(2, answers, shares)
        logits = (chances + 1e-12).log().float()
        return SimpleNamespace(logits=logits[:, (logits_to_keep + 1) // (n + 2) - 1])


def _validated(rule: str, task_set: TaskSet = TASKS, examples: int = EXAMPLES) -> Validated:
    sampler = Sampler(task_tensors(task_set), Layout(len(task_set.alphabet), task_set.inputs, examples))
    names = tuple(task.name for task in task_set.tasks)
    model = _Known(task_set, rule)
    found = Validation(sampler, names, prompts=PROMPTS, batch=24, seed=0).measure(model)
    assert model.training  # as it was before
    return found


def _exact(sampler_ids: Tensor, n: int) -> np.ndarray:
    """The oracle's probabilities of the tasks' answers to the queries, prompt by prompt."""
    rows = []
    for row in sampler_ids.tolist():
        blocks = [row[start : start + n + 2] for start in range(1, len(row), n + 2)]
        examples = tuple(Example(tuple(block[:n]), block[n + 1]) for block in blocks[:-1])
        query = tuple(blocks[-1][:n])
        target = answer(TASKS, Prompt(examples, query)).distribution
        rows.append([float(target[task.answer(query)]) for task in TASKS.tasks])  # type: ignore[index]
    return np.array(rows)


def test_the_exact_mixture_is_found_exact() -> None:
    found = _validated("exact")
    assert found.mixture is not None
    assert found.histogram is not None
    assert found.accuracy == pytest.approx({"ret_1": 1, "ret_2": 1, "ret_3": 1}, abs=0.05)
    # Twelve examples drawn of three tasks, four each; an example of one is seldom consistent with another too (1/61).
    validation = Validation(
        Sampler(task_tensors(TASKS), Layout(61, 4, EXAMPLES)),
        ("ret_1", "ret_2", "ret_3"),
        prompts=PROMPTS,
        batch=24,
        seed=0,
    )
    exact = _exact(validation._uniform, 4)  # type: ignore[arg-type]
    assert found.kl == pytest.approx(float(-np.log(exact * 3).mean()), abs=1e-5)
    assert found.kl == pytest.approx(0, abs=0.01)
    assert found.other == pytest.approx(0, abs=1e-6)
    assert found.index == pytest.approx(1, abs=0.01)
    assert [point["lambda"] for point in found.mixture] == list(LAMBDAS)
    assert [point["first"] for point in found.mixture] == pytest.approx(LAMBDAS, abs=0.03)
    assert found.histogram[3] > 0.8 * PROMPTS
    assert sum(found.histogram) == PROMPTS


def test_a_model_that_commits_has_the_mixture_on_average_and_an_index_of_0() -> None:
    found = _validated("commit")
    assert found.mixture is not None
    assert found.histogram is not None
    assert [point["first"] for point in found.mixture] == pytest.approx(LAMBDAS, abs=4 * (0.25 / PROMPTS) ** 0.5)
    assert found.index == pytest.approx(0, abs=0.03)
    assert found.kl is not None
    assert found.kl > 5
    assert found.kl_of_mean == pytest.approx(0, abs=0.1)
    assert found.histogram[-1] > 0.9 * PROMPTS
    middle = found.mixture[2]
    variance = middle["square"] - middle["normalised"] ** 2
    assert variance == pytest.approx(0.25, abs=0.02)  # as large as it can be: each prompt is certain


def test_a_model_that_guesses_is_told_apart_by_its_flat_curve() -> None:
    found = _validated("guess")
    assert found.mixture is not None
    assert found.index == pytest.approx(1, abs=1e-6)
    assert [point["normalised"] for point in found.mixture] == pytest.approx([0.5] * 5, abs=1e-5)
    assert max(found.accuracy.values()) < 1


def test_accuracy_grows_with_the_examples() -> None:
    task_set = build_suite("retrieval", tasks=3, alphabet_size=2, inputs=3)
    found = _validated("exact", task_set, examples=9)
    for shares in found.by_examples.values():
        assert len(shares) == 10
        assert shares[0] < shares[9]
        assert shares[9] > 0.8  # the letters of other positions agree by chance
    # With two letters no query has three different answers.
    assert (found.mixture, found.kl, found.index, found.histogram) == (None, None, None, None)


def test_one_task_has_no_mixture() -> None:
    found = _validated("exact", build_suite("retrieval", tasks=1, alphabet_size=7, inputs=2), examples=3)
    assert found.accuracy == {"ret_1": 1}
    assert found.mixture is None


def test_mixed_prompts_show_each_task_its_share() -> None:
    sampler = Sampler(task_tensors(TASKS), Layout(61, 4, 10))
    validation = Validation(sampler, ("a", "b", "c"), prompts=31, batch=8, seed=1)
    assert validation._uniform is not None
    assert validation._curve is not None
    for ids, least in (
        (validation._uniform, (4, 3, 3)),
        (validation._curve[1], (3, 7, 0)),
        (validation._curve[4], (10, 0, 0)),
    ):
        blocks = ids[:, 1:].view(31, 11, 6)[:, :10]
        counts = (blocks[..., :3] == blocks[..., 5:]).sum(1)
        # An example is consistent with its own task, and seldom with others too.
        assert (counts >= torch.tensor(least)).all()
        assert (counts.sum(1) <= 13).all()
    answers = sampler.tensors.all_answers(validation._uniform[:, -6:-2])
    assert all(len(set(row)) == 3 for row in answers.tolist())
