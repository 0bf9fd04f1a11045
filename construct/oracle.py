"""The exact answer to a prompt, as rationals: what every construction is measured and certified against.

c_k = the number of examples with g_k(x) = y. The target at the final EQ is q = sum_k (c_k/m') u[g_k(query)] with u
one-hot over the alphabet, an unnormalised mixture; as a distribution p = q / sum(q).
(Xiong et al., arXiv 2410.05603, section 5: the mixture of the tasks' answers, weighted by the examples.)
"""

from dataclasses import dataclass
from fractions import Fraction

from construct.prompts import Prompt
from construct.tasks import TaskSet


@dataclass(frozen=True)
class Answer:
    """The exact answer to one prompt.

    Args:
        evidence: c_k/m' for each task in order; all 0 when there are no examples.
        target: answer id -> q, where q > 0.
    """

    evidence: tuple[Fraction, ...]
    target: dict[int, Fraction]

    @property
    def explained(self) -> Fraction:
        """sum(q): above 1 where examples are consistent with several tasks, 0 where there is no answer."""
        return sum(self.target.values(), Fraction(0))

    @property
    def distribution(self) -> dict[int, Fraction]:
        """The distribution p = q / sum(q); empty where sum(q) is 0: then there is nothing to say."""
        explained = self.explained
        return {token: weight / explained for token, weight in self.target.items()}


def answer(task_set: TaskSet, prompt: Prompt) -> Answer:
    """The exact evidence and target of a prompt."""
    shown = len(prompt.examples)
    evidence = []
    target: dict[int, Fraction] = {}
    for task in task_set.tasks:
        consistent = sum(task.answer(example.inputs) == example.answer for example in prompt.examples)
        share = Fraction(consistent, shown) if shown else Fraction(0)
        evidence.append(share)
        output = task.answer(prompt.query)
        if share and output is not None:
            target[output] = target.get(output, Fraction(0)) + share
    return Answer(tuple(evidence), target)


def curve(task_set: TaskSet, prompt: Prompt) -> list[Answer]:
    """The answers at every EQ: entry i treats example i as the query after the i examples before it."""
    queries = [example.inputs for example in prompt.examples] + [prompt.query]
    return [answer(task_set, Prompt(prompt.examples[:seen], query)) for seen, query in enumerate(queries)]
