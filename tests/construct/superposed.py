"""What the tests of superpositions share: small components, exact answers, and the rounding that is allowed for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch

from construct.induction import induction_component
from construct.prompts import Example, Layout, Prompt
from construct.superpose import Superposition, superposed_answer
from construct.superpose_circuits import threshold
from construct.superpose_component import Component, reach
from construct.superpose_lift import in_context
from construct.superpose_tables import table_component
from construct.tasks import SumTask, TableTask
from construct.torch_model import TorchTransformer
from construct.transformer import TransformerWeights, forward
from tests.construct.comparison import Floats
from tests.construct.trained import Sizes, train


@dataclass(frozen=True)
class FunctionTask:
    """A task that is a function of some inputs."""

    name: str
    reads: tuple[int, ...]
    function: Callable[[tuple[int, ...]], int]

    def answer(self, inputs: Sequence[int]) -> int | None:
        return self.function(tuple(inputs))


def mixed_digits(inputs: tuple[int, ...]) -> int:
    """(x_0 + 2 x_2) mod 5."""
    return (inputs[0] + 2 * inputs[2]) % 5


@cache
def trained_network() -> TransformerWeights:
    """One layer trained in about 2 seconds to add digits; the seed is one with which 400 steps suffice."""
    torch.set_num_threads(1)
    return train(mixed_digits, Sizes(5, 3, layers=1, heads=2, width=48, steps=400), seed=0)


def median(inputs: tuple[int, ...]) -> int:
    """The middle one of three inputs."""
    return sorted(inputs)[1]


@cache
def deep_trained_network(loss: str = "squares") -> TransformerWeights:
    """Two layers trained in about 3 seconds to find the middle one of three inputs."""
    torch.set_num_threads(1)
    return train(median, Sizes(5, 3, layers=2, heads=2, width=32, steps=300, loss=loss), seed=0)


def trained_component(layout: Layout) -> Component:
    """The trained network, lifted to many examples. Its contract is checked by the tests of `verify`."""
    task = FunctionTask("trained", (0, 1, 2), mixed_digits)
    return Component(task, in_context(trained_network(), layout))


def four_components(layout: Layout) -> list[Component]:
    """Induction, a partial table of pairs, a sum and the trained network, for V = 5 and n = 3."""
    generator = np.random.default_rng(0)
    rows = {(a, b): int(generator.integers(5)) for a, b in product(range(5), range(4))}
    total = SumTask("sum", (0, 2), {token: token for token in range(5)}, {total: total % 5 for total in range(8)})
    tables = [table_component(task, layout) for task in (TableTask("pair", (2, 1), rows), total)]
    return [induction_component(layout), *tables, trained_component(layout)]


def random_prompt(
    components: Sequence[Component], layout: Layout, shown: int, generator: np.random.Generator
) -> Prompt:
    """Examples of random inputs; each answer is that of a random component, or in one case of four any token."""
    examples = []
    for _ in range(shown):
        inputs = tuple(generator.integers(layout.alphabet_size, size=layout.inputs).tolist())
        if generator.random() < 0.5 and layout.inputs > 2:
            inputs = (inputs[0], inputs[0], *inputs[2:])  # so that induction has an answer
        answer = components[int(generator.integers(len(components)))].task.answer(inputs)
        if answer is None or generator.random() < 0.25:
            answer = int(generator.integers(layout.alphabet_size))
        examples.append(Example(inputs, answer))
    return Prompt(tuple(examples), tuple(generator.integers(layout.alphabet_size, size=layout.inputs).tolist()))


def exact_outputs(components: Sequence[Component], layout: Layout, prompt: Prompt) -> Floats:
    """q at every EQ, by calling each component's function: shape [EQs, V]."""
    queries = [example.inputs for example in prompt.examples] + [prompt.query]
    output = np.zeros((len(queries), layout.alphabet_size))
    for seen, query in enumerate(queries):
        _, target = superposed_answer(components, Prompt(prompt.examples[:seen], query))
        for token, share in target.items():
            output[seen, token] = float(share)
    return output


def plain_outputs(superposition: Superposition, prompt: Prompt) -> Floats:
    """q_hat at every EQ by the plain float64 forward pass."""
    layout = superposition.layout
    at = [layout.eq_position(index) for index in range(len(prompt.examples) + 1)]
    return np.asarray(forward(superposition.weights, layout.ids(prompt)).output[at])


def torch_outputs(superposition: Superposition, prompt: Prompt, model: TorchTransformer) -> Floats:
    """q_hat at every EQ by the torch module."""
    layout = superposition.layout
    at = [layout.eq_position(index) for index in range(len(prompt.examples) + 1)]
    return np.asarray(model(torch.tensor([layout.ids(prompt)])).answer[0, at].double().numpy())


def error(found: Floats, exact: Floats) -> float:
    """The largest |q_hat - q|_1 over the EQs."""
    return float(np.abs(found - exact).sum(axis=1).max())


def allowance(components: Sequence[Component], layout: Layout, unit: float) -> float:
    """What rounding of the last two layers may add to |q_hat - q|_1, where that of the components stays in the slack.

    An argument of a unit that is on adds at most 6 numbers of size M = 2 + c (R + tau), so it is off by 6 M units, and
    the two of a pair by 12 M; the credit's and the answer's pair: 24 M. A unit that is off is exactly 0. Averaging T
    values of at most 1 adds (2 T + 8) units, summing up the answers one unit a component and answer.
    """
    total = 0.0
    for component in components:
        slope, level = threshold(component)
        size = 2 + slope * reach(component.weights) + abs(level)
        total += 24 * size + 2 * layout.positions + 8 + len(components)
    return total * unit
