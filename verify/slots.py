"""Which task stands in which coordinate of the evidence, where weights hold the tasks in another order.

The target q = sum_k (c_k/m') u[g_k(query)] does not depend on the order of the tasks. Weights in which two tasks have
changed places throughout (two read heads that write where the other did, say) compute the same answers, and are proved
for the tasks in the order that the weights have. What is found here is a guess from a few runs; the proof decides.
"""

from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from construct.errors import InputError
from construct.sampling import PromptSampler
from construct.theorems import Construction
from construct.transformer import forward

PROMPTS, EXAMPLES = 6, 12
"""Runs, and the most examples in each."""

NEAR = 0.25
"""An evidence so near to 0 or 1 is taken for it."""


def reordered(construction: Construction) -> Construction | None:
    """The construction with its tasks in the order of the evidence, None where it has them so or none fits.

    Cost: `PROMPTS` forward passes in float64.
    """
    task_set, layout = construction.task_set, construction.layout
    evidence = construction.stream["evidence"].coordinates
    generator = np.random.default_rng(0)
    try:
        sampler = PromptSampler(task_set)
        prompts = [sampler.prompt(min(EXAMPLES, layout.examples), generator) for _ in range(PROMPTS)]
    except InputError:
        return None
    seen, expected = [], []
    for prompt in prompts:
        with np.errstate(all="ignore"):
            stream = forward(construction.weights, layout.ids(prompt)).after_mlp[0]
        seen.append(stream[[layout.answer_position(index) for index in range(len(prompt.examples))], evidence])
        expected.append(
            [[task.answer(example.inputs) == example.answer for task in task_set.tasks] for example in prompt.examples]
        )
    found, wanted = np.concatenate(seen), np.concatenate(expected).astype(np.float64)
    if not np.isfinite(found).all():
        return None
    apart = np.array([np.abs(found - column[:, None]).max(axis=0) for column in wanted.T])
    tasks, slots = linear_sum_assignment(np.minimum(apart, 1.0))
    if (apart[tasks, slots] > NEAR).any() or (tasks == slots).all():
        return None
    order = tasks[np.argsort(slots)]
    return replace(construction, task_set=replace(task_set, tasks=tuple(task_set.tasks[index] for index in order)))
