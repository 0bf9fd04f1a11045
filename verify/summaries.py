"""How many summaries of the inputs must there be? Counted by enumeration: `python -m verify.summaries`.

Alice holds the inputs x^1 .. x^m of m examples, Bob their answers y^1 .. y^m and the query; Alice sends one message,
a summary of what she holds, from which Bob must give the exact target q = sum_k (c_k/m) u[g_k(query)] to within eps
in |.|_1. A head of a one-layer transformer is such a message (docs/theory/depth.md). Two of Alice's inputs can share
one only if no input of Bob's makes their targets differ by more than 2 eps: else some answer is off by more than eps.

Everything here is decided on the targets themselves, for all of Alice's and all of Bob's inputs. Nothing of the
theory is used: no Hamming distance, no bound. So it can be compared with the theory.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import click
import numpy as np
from numpy.typing import NDArray

from construct.errors import InputError, TooLargeError
from construct.suites import build_suite
from construct.tasks import TaskSet

Counts = NDArray[np.int64]

LARGEST_ENTRIES = 2**25
"""The largest table of targets, in entries of 8 bytes."""

SEARCH_NODES = 200_000
"""After so many steps a search for the largest set gives what it has, as a lower bound."""


@dataclass(frozen=True)
class Found:
    """The size of a largest set, or of a large one.

    Args:
        size: how many.
        exact: whether there is no larger one; else the search was cut short.
    """

    size: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.size}" if self.exact else f">= {self.size}"


@dataclass(frozen=True)
class Summaries:
    """What enumeration finds of one instance.

    Args:
        inputs: V^(n m), how many inputs Alice can hold.
        classes: how many of them Bob can tell apart, one from the other, at eps = 0: the messages that are needed.
        apart: the largest set of inputs that are pairwise distinguishable at eps: as many messages are needed.
        alike: the largest set of inputs of which no two are distinguishable at eps.
    """

    inputs: int
    classes: int
    apart: Found
    alike: Found

    @property
    def needed(self) -> int:
        """A lower bound of the number of messages at eps.

        The inputs of one message are pairwise not distinguishable, so a message serves at most `alike` of them.
        """
        return max(self.apart.size, -(-self.inputs // self.alike.size) if self.alike.exact else 1)


def targets(task_set: TaskSet, examples: int) -> Counts:
    """m q for every input of Alice's and of Bob's, as integers, shape [V^(n m), V^m V^n, V].

    Raises:
        InputError: examples < 1.
        TooLargeError: the table would have more than LARGEST_ENTRIES entries.
    """
    if examples < 1:
        raise InputError(f"examples is {examples}: the count takes at least 1")
    size = len(task_set.alphabet)
    entries = size ** (task_set.inputs * examples + examples + task_set.inputs + 1)
    if entries > LARGEST_ENTRIES:
        raise TooLargeError(
            f"there are {entries:,} targets of {examples} examples: at most {LARGEST_ENTRIES:,} are "
            "enumerated, choose fewer examples"
        )
    every = list(itertools.product(range(size), repeat=task_set.inputs))
    # consistent[a, y, k]: whether the example of inputs a and answer y is consistent with task k.
    answers = [[task.answer(inputs) for task in task_set.tasks] for inputs in every]
    consistent = np.array([[[out == y for out in row] for y in range(size)] for row in answers], dtype=np.int64)
    says = np.array([[[out == v for v in range(size)] for out in row] for row in answers], dtype=np.int64)
    held = np.array(list(itertools.product(range(len(every)), repeat=examples)))
    shown = np.array(list(itertools.product(range(size), repeat=examples)))
    counts = sum(consistent[held[:, None, i], shown[None, :, i]] for i in range(examples))
    # counts: [Alice, answers, tasks]; says: [query, tasks, V].
    found: Counts = np.einsum("ayk,qkv->ayqv", counts, says)
    return found.reshape(len(held), -1, size)


def differences(found: Counts) -> Counts:
    """For each two of Alice's inputs the largest m |q - q'|_1 over Bob's inputs, shape [inputs, inputs]."""
    return np.array([np.abs(found - row).sum(axis=2).max(axis=1) for row in found])


def count(task_set: TaskSet, examples: int, tolerance: Fraction = Fraction(0), nodes: int = SEARCH_NODES) -> Summaries:
    """Count by enumeration.

    Args:
        task_set: the tasks.
        examples: m.
        tolerance: eps, exactly.
        nodes: the steps of each of the two searches.

    Raises:
        InputError: examples < 1, or the tolerance is negative.
        TooLargeError: the instance is too large.
    """
    if tolerance < 0:
        raise InputError(f"the tolerance is {tolerance}: expected a number that is not negative")
    found = targets(task_set, examples)
    classes = len(np.unique(found.reshape(len(found), -1), axis=0))
    # Integers against a rational: m |q - q'|_1 > 2 eps m, without rounding.
    apart = differences(found) * tolerance.denominator > 2 * tolerance.numerator * examples
    alike = ~apart
    np.fill_diagonal(alike, val=False)
    return Summaries(len(found), classes, largest_clique(apart, nodes), largest_clique(alike, nodes))


def largest_clique(joined: NDArray[np.bool_], nodes: int = SEARCH_NODES) -> Found:
    """The largest set of vertices that are pairwise joined, by branch and bound.

    A set of vertices that can be coloured with c colours, joined ones differently, holds no clique above c
    (Tomita and Seki 2003). `joined` is symmetric, with False on the diagonal.
    """
    neighbours = [sum(1 << int(other) for other in np.flatnonzero(row)) for row in joined]
    best, left = 0, nodes

    def coloured(among: int) -> list[tuple[int, int]]:
        """The vertices `among` with the colours needed up to each, in order of colour."""
        order, colour = [], 0
        while among:
            colour += 1
            free = among
            while free:
                vertex = (free & -free).bit_length() - 1
                order.append((vertex, colour))
                free &= ~neighbours[vertex] & ~(1 << vertex)
                free &= among
                among &= ~(1 << vertex)
        return order

    def extend(size: int, among: int) -> None:
        nonlocal best, left
        best = max(best, size)
        for vertex, colours in reversed(coloured(among)):
            if size + colours <= best or left <= 0:
                return
            left -= 1
            extend(size + 1, among & neighbours[vertex])
            among &= ~(1 << vertex)

    extend(0, (1 << len(neighbours)) - 1)
    return Found(best, exact=left > 0)


@dataclass(frozen=True)
class Case:
    """One row of the table: a suite in given sizes."""

    suite: str
    tasks: int
    alphabet_size: int
    inputs: int
    examples: int
    tolerance: Fraction = Fraction(0)


def _cases() -> Sequence[Case]:
    identity = [
        Case("retrieval", 1, 2, 1, examples, Fraction(tolerance))
        for tolerance, largest in (("0", 8), ("1/8", 7), ("1/4", 8), ("3/8", 6))
        for examples in range(1 if tolerance == "0" else 4, largest + 1)
    ]
    others = [(1, 3, 1, 4), (1, 4, 1, 3), (1, 2, 2, 3), (2, 2, 2, 3), (3, 2, 3, 2), (2, 3, 2, 2)]
    return [*identity, *(Case("retrieval", *sizes) for sizes in others), Case("lookup", 2, 3, 1, 4)]


def row(case: Case) -> str:
    """One row of the table, in Markdown."""
    task_set = build_suite(case.suite, tasks=case.tasks, alphabet_size=case.alphabet_size, inputs=case.inputs)
    found = count(task_set, case.examples, case.tolerance)
    cells = (case.suite, case.tasks, case.alphabet_size, case.inputs, case.examples, case.tolerance)
    results = (found.inputs, found.classes, found.apart, found.alike, found.needed)
    return "| " + " | ".join(map(str, cells + results)) + " |"


@click.command()
def command() -> None:
    """Count the distinguishable summaries of small instances, and print the table of docs/theory/depth.md."""
    click.echo("| suite | K | V | n | m | eps | inputs | classes | pairwise apart | pairwise alike | summaries >= |")
    click.echo("| --- " + "| ---: " * 10 + "|")
    for case in _cases():
        click.echo(row(case))


if __name__ == "__main__":
    command()
