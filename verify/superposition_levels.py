"""A network as a component: the levels that its output is proved to have, whatever it was trained to."""

from itertools import product

from construct.prompts import Layout, Prompt
from construct.superpose_component import HIGH, LOW, NARROWEST, Component
from construct.superpose_lift import sharpen
from construct.superpose_network import Network
from construct.tasks import SumTask
from construct.transformer import forward
from verify.certificate import Violation
from verify.superposition_contract import prove_contract


def network_component(network: Network, layout: Layout) -> Component | Violation:
    """The network with the levels found by `prove_contract`, or where it does not perform its task.

    The levels are 1/4 and 3/4 if the output keeps to them, else those found. Where no threshold parts the outputs but
    on each input the answer's is above the others by a proved gap, one more layer sharpens them by it.

    Raises:
        TaskError: the network cannot be lifted to the layout.
        TooLargeError: its task has too many inputs to run through.
    """
    weights = network.lifted(layout)
    facts = prove_contract(weights, network.task, layout)
    if facts.low <= LOW and facts.high >= HIGH:
        return Component(network.task, weights)
    if facts.high - facts.low > 2 * NARROWEST * max(abs(facts.low), abs(facts.high)):
        return Component(network.task, weights, facts.low, facts.high)
    if facts.gap > NARROWEST:
        return Component(network.task, sharpen(weights, facts.gap))
    return _reason(network, layout)


def _reason(network: Network, layout: Layout) -> Violation:
    """An input that the network gets wrong by itself; if there is none, that it was not shown to be local."""
    task, alphabet = network.task, network.task_set.alphabet
    reads = task.positions if isinstance(task, SumTask) else task.reads
    wrong, first = 0, None
    keys = list(product(range(layout.alphabet_size), repeat=len(reads)))
    for key in keys:
        inputs = [0] * layout.inputs
        for place, token in zip(reads, key, strict=True):
            inputs[place] = token
        found = int(forward(network.weights, layout.ids(Prompt((), tuple(inputs)))).output[-1].argmax())
        answer = task.answer(inputs)
        if found != answer:
            wrong += 1
            first = first or (inputs, answer, found)
    where = f"the network of {task.name!r}"
    if first is None:
        return Violation(
            "contract", where, "its answers told apart among other examples too", "no levels; try another locality"
        )
    inputs, answer, found = first
    shown = network.task_set.format.separator.join(alphabet[token] for token in inputs)
    expected = "no answer" if answer is None else alphabet[answer]
    return Violation(
        "contract", f"{where} on {shown}", expected, f"{alphabet[found]}; {wrong} of {len(keys)} inputs are wrong"
    )
