"""The constructions for finite alphabets by name: how each is built, and what bound it states for a format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from construct.bounds import rounding_bound
from construct.reads import plan_reads
from construct.seven_bounds import seven_rounding_bound
from construct.seven_layer import seven_layer
from construct.seven_reads import seven_reads
from construct.tasks import TaskSet
from construct.theorems import Construction, two_layer


class Builder(Protocol):
    """Builds a construction for tasks, as `construct.theorems.two_layer` does."""

    def __call__(
        self, task_set: TaskSet, *, examples: int, error: float = ..., sharpness: float | None = ...
    ) -> Construction:
        """The construction for at most `examples` examples."""


@dataclass(frozen=True)
class Kind:
    """A construction by name.

    Args:
        build: makes the weights.
        rounding: the closed-form bound of a construction as executed in a format, None where there is none.
    """

    build: Builder
    rounding: Callable[[Construction, str], float | None]


def _two_layer_rounding(construction: Construction, precision: str) -> float | None:
    plan = plan_reads(construction.task_set)
    return rounding_bound(construction.task_set, plan, construction.layout, construction.sharpness, precision)


def _seven_layer_rounding(construction: Construction, precision: str) -> float | None:
    reads = seven_reads(construction.task_set)
    return seven_rounding_bound(construction.task_set, reads, construction.layout, construction.sharpness, precision)


KINDS: Mapping[str, Kind] = {
    "two-layer": Kind(two_layer, _two_layer_rounding),
    "seven-layer": Kind(seven_layer, _seven_layer_rounding),
}
