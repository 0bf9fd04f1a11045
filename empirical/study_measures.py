"""What a model answers to the study's prompts, and the figures of answers.

Models and predictions answer the same probes with probabilities of the tasks' answers. From these one function,
`condition`, works out all figures in the record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from empirical.measures import (
    Estimate,
    Floats,
    Integers,
    Sample,
    distance_to_oracle,
    divergence,
    kl_normalised,
    kl_of_paper,
    mean,
)
from empirical.study_prompts import Probe, Probes
from empirical.study_records import Answers, Condition, Interval, Weights, is_kept
from empirical.superposition_index import distributions, histogram, superposition_index, variance_split
from empirical.training.models import logits_at

DIGITS = 4
LARGEST_LOGIT = 10.0
"""Logits beyond it are cut in the fit of weights: odds of 22,000 : 1 and of 10^12 : 1 are both certainty."""
BATCH = 200


@dataclass(frozen=True)
class Reply:
    """What a model or a learner answers to a probe's prompts.

    Args:
        log_probability: of the answers of the K tasks, [N, K].
        above: for each of these how many tokens are more probable, [N, K].
        level: how many tokens are as probable, itself among them, [N, K].
    """

    log_probability: Floats
    above: Integers
    level: Integers


@torch.no_grad()
def ask(model: Any, probes: Probes, probe: Probe) -> Reply:
    """A model's answers to a probe."""
    parts = []
    answers = torch.tensor(probe.answers)
    for place in range(0, len(answers), BATCH):
        logits = logits_at(model, probe.ids[place : place + BATCH], probes.positions[-1:])[:, 0].double()
        mine = answers[place : place + BATCH]
        own = logits.gather(1, mine)
        parts.append((logits.log_softmax(-1).gather(1, mine), *ranks(logits, own)))
    logs, above, level = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return Reply(logs, above, level)


def ranks(scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """How many tokens have a higher score than each answer, and how many the same: [N, K] each."""
    return (scores[:, None] > own[..., None]).sum(-1), (scores[:, None] == own[..., None]).sum(-1)


@torch.no_grad()
def accuracy(model: Any, probes: Probes) -> dict[str, tuple[float, ...]]:
    """The share of pure prompts that are answered rightly after each number of examples."""
    found = {}
    for name, ids in probes.pure.items():
        right = []
        for place in range(0, len(ids), BATCH):
            part = ids[place : place + BATCH]
            right.append(logits_at(model, part[:, :-1], probes.positions).argmax(-1) == part[:, probes.positions + 1])
        found[name] = tuple(round(share, DIGITS) for share in torch.cat(right).double().mean(0).tolist())
    return found


def answers_of(model: Any, probes: Probes, others: Mapping[str, Sequence[Reply]], *, kept: int) -> Answers:
    """All answers of a model, which is put in evaluation mode.

    Args:
        model: a causal language model.
        probes: the prompts.
        others: prediction name -> its answers to each probe of the curve, then of the uniform mixtures.
        kept: how many prompts of each condition stand in the record.
    """
    model.eval()
    conditions = [
        condition(ask(model, probes, probe), probe, {name: found[place] for name, found in others.items()}, kept=kept)
        for place, probe in enumerate((*probes.curve, *probes.uniform))
    ]
    cut = len(probes.curve)
    return Answers(accuracy(model, probes), tuple(conditions[:cut]), tuple(conditions[cut:]))


def shares(reply: Reply, tasks: int) -> Floats:
    """P over the answers of the first K' tasks, [N, K']."""
    logs = reply.log_probability[:, :tasks]
    weights = np.exp(logs - logs.max(-1, keepdims=True))
    found: Floats = weights / weights.sum(-1, keepdims=True)
    return found


def sample_of(reply: Reply, probe: Probe) -> Sample:
    """A reply as the sample that `empirical.measures` takes."""
    tasks, count = len(probe.shares), len(probe.answers)
    return Sample(
        mixture=np.array(probe.shares),
        log_probability=reply.log_probability[:, :tasks],
        answer_of=np.tile(np.arange(tasks), (count, 1)),
        evidence=probe.consistent[:, :, :tasks].mean(1),
        drawn=probe.drawn,
        correct=completed(reply, probe),
        exact=np.ones(count, dtype=bool),
    )


def completed(reply: Reply, probe: Probe) -> Floats:
    """r of each prompt: of the K' answers with a share above 0, the part among the K' most probable tokens, [N].

    Tokens of one probability are taken in random order, and r is what is expected over it.
    """
    shown = [place for place, share in enumerate(probe.shares) if share]
    above, level = reply.above[:, shown], reply.level[:, shown]
    found: Floats = np.clip((len(shown) - above) / level, 0, 1).mean(-1)
    return found


def condition(reply: Reply, probe: Probe, others: Mapping[str, Reply], *, kept: int) -> Condition:
    """The figures of one mixture.

    Args:
        reply: the answers.
        probe: the prompts.
        others: prediction name -> its answers to the same prompts.
        kept: how many prompts stand in the record.
    """
    sample, tasks = sample_of(reply, probe), len(probe.shares)
    kept = kept if is_kept(probe.shares, probe.drawn.shape[1]) else 0
    own = shares(reply, tasks)
    kl = kl_of_paper(sample)
    with np.errstate(divide="ignore"):
        of_mean = float(divergence(np.array(probe.shares), np.log(own.mean(0))))
    distances = {name: interval(mean(np.abs(own - shares(other, tasks)).sum(-1) / 2)) for name, other in others.items()}
    return Condition(
        mixture=tuple(round(share, 6) for share in probe.shares),
        mean=tuple(interval(mean(own[:, task])) for task in range(tasks)),
        other=interval(mean(sample.other)),
        kl=interval(mean(kl)),
        kl_normalised=interval(mean(kl_normalised(sample))),
        kl_of_mean=round(of_mean, DIGITS),
        kl_per_prompt=tuple(round(float(value), DIGITS) for value in kl[:kept]),
        completion=interval(mean(sample.correct)),
        index=interval(superposition_index(sample)),
        between=interval(variance_split(sample, 0).share_between),
        distance=interval(mean(distance_to_oracle(sample))),
        distances=distances,
        histogram=tuple(histogram(sample)),
        probabilities=tuple(tuple(round(float(p), DIGITS) for p in row) for row in distributions(sample)[:kept]),
    )


def interval(found: Estimate) -> Interval:
    """An estimate as it stands in the record."""
    return Interval(
        *(round(value, DIGITS) if np.isfinite(value) else None for value in (found.value, found.low, found.high))
    )


def weights_of(model: Any, probes: Probes) -> Weights:
    """What the commitment of a model goes with, on prompts whose counts differ."""
    probe = probes.sampled
    reply = ask(model, probes, probe)
    logit = np.clip(reply.log_probability[:, 0] - reply.log_probability[:, 1], -LARGEST_LOGIT, LARGEST_LOGIT)
    return fitted(logit, probe.consistent[:, :, 0].astype(np.float64) - probe.consistent[:, :, 1])


def fitted(logit: Floats, evidence: Floats) -> Weights:
    """Least squares of logits [N] on the evidence [N, m], with an intercept."""
    inputs = np.concatenate([evidence, np.ones((len(evidence), 1))], axis=1)

    def solve(places: Integers) -> Floats:
        found: Floats = np.linalg.lstsq(inputs[places], logit[places], rcond=1e-10)[0]
        return found

    count = len(logit)
    values = solve(np.arange(count))
    generator = np.random.default_rng(0)
    again = np.array([solve(generator.integers(count, size=count)) for _ in range(300)])
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    whole = float(((logit - logit.mean()) ** 2).sum())
    left = float(((logit - inputs @ values) ** 2).sum())
    return Weights(
        tuple(
            interval(Estimate(float(values[place]), float(low[place]), float(high[place])))
            for place in range(evidence.shape[1])
        ),
        round(1 - left / whole, DIGITS) if whole > 0 else 0.0,
        tuple(_agreement(logit, column) or 0.0 for column in evidence.T),
        _agreement(logit, evidence.sum(-1)),
    )


def _agreement(logit: Floats, evidence: Floats) -> float | None:
    """The share of prompts whose logit has the sign of the evidence, where that is not 0."""
    told = evidence != 0
    return round(float((np.sign(logit) == np.sign(evidence))[told].mean()), DIGITS) if told.any() else None
