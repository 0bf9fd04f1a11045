"""Altered copies of a construction, to see whether a verifier notices what they compute.

A mutant differs from the original in one place: an entry, a row or column, a head. `mutants` draws a kind uniformly
from those that the construction has places for, then a place uniformly from those of the kind. What is drawn again,
because nothing changed (two equal rows swapped), is no mutant. Whether a mutant is wrong is for `classify` to find.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from construct.residual_stream import Subspace
from construct.theorems import Construction
from verify.adversary import Searcher
from verify.exhaustive import Exhauster, Worst
from verify.tensor_edits import (
    Index,
    Tensor,
    changes,
    entry,
    nonzero_places,
    replaced_tensors,
    stored_values,
    taken,
    with_entries,
)

ATTEMPTS = 50
"""How often a mutation is drawn anew when it changed nothing."""

EXHAUSTIVE_PROMPTS = 20_000
"""Mutants with at most so many prompts are judged by all of them."""

SEARCH_SAMPLES = 400
"""The random prompts of the search that judges the others."""

EXTRA_VALUES = (1.0, -1.0, 1e-3, -1e-3, 2.0**-10, 0.25)
"""What a zero entry is set to."""

BIAS_CHANGES = (1.0, -1.0, 0.5, -0.5, 1e-3, -1e-3)
"""What is added to a bias."""

SHARPNESS_FACTORS = (0.9, 0.75, 0.5, 0.25, 0.1)
"""What the queries of a head or a layer are scaled by."""


@dataclass(frozen=True)
class Mutant:
    """A construction with one thing changed.

    Args:
        kind: one of `KINDS`.
        tensor: the name of the tensor, as in the artifact; of a layer's attention where all of a head is meant.
        index: the entry; for rows, columns and heads, the one that changed and the one it was taken from.
        before: the entry's value, None where more than one changed.
        after: the entry's new value, likewise.
        finite: whether all weights are finite numbers; no artifact may hold others.
        construction: the mutant; its tasks, layout and all else are the original's.
    """

    kind: str
    tensor: str
    index: Index
    before: float | None
    after: float | None
    finite: bool
    construction: Construction

    def __str__(self) -> str:
        change = "" if self.before is None else f": {self.before!r} -> {self.after!r}"
        return f"{self.kind} of {self.tensor}{list(self.index)}{change}"


@dataclass(frozen=True)
class Judgement:
    """How wrong a mutant is.

    Args:
        worst: the worst error with its prompt.
        exhaustive: whether that is over all prompts; otherwise it is the worst that a search found.
        harmful: whether it passes eps.
    """

    worst: Worst
    exhaustive: bool
    harmful: bool


class Classifier:
    """Judges any number of mutants of one construction, or of any weights for its tasks and layout.

    Args:
        construction: the original.
        limit: up to so many prompts, all are run; beyond, a search is made.
        samples: the random prompts of the search.
        seed: of the search.
    """

    def __init__(
        self,
        construction: Construction,
        *,
        limit: int = EXHAUSTIVE_PROMPTS,
        samples: int = SEARCH_SAMPLES,
        seed: int = 0,
    ) -> None:
        task_set, layout = construction.task_set, construction.layout
        self._seed, self._samples = seed, samples
        self._judge: Exhauster | Searcher = Searcher(task_set, layout)
        if Exhauster.count(layout) <= limit:
            self._judge = Exhauster(task_set, layout, limit=limit)

    def judge(self, construction: Construction, eps: float) -> Judgement:
        """The worst error of a mutant's weights, in float64, and whether it passes eps."""
        if isinstance(self._judge, Exhauster):
            worst = self._judge.worst(construction.weights)
        else:
            worst = self._judge.search(construction.weights, samples=self._samples, dtype="float64", seed=self._seed)
        return Judgement(worst, isinstance(self._judge, Exhauster), not worst.error <= eps)


def classify(mutant: Mutant, eps: float, classifier: Classifier | None = None) -> Judgement:
    """How wrong a mutant is: over all prompts where these are few, else by a search.

    Args:
        mutant: the mutant.
        eps: the error that is allowed.
        classifier: one made for the original, so that a campaign enumerates the prompts once.
    """
    return (classifier or Classifier(mutant.construction)).judge(mutant.construction, eps)


def mutants(construction: Construction, seed: int = 0) -> Iterator[Mutant]:
    """Mutants without end, the same for the same seed; the original is left as it is."""
    places = _Places(construction)
    generator = np.random.default_rng(seed)
    kinds = list(KINDS)
    while kinds:
        kind = kinds[int(generator.integers(len(kinds)))]
        for _ in range(ATTEMPTS):
            edit = KINDS[kind](places, generator)
            if edit is not None and changes(places.tensors, edit.tensors):
                break
        else:
            kinds.remove(kind)  # the construction has no place for it
            continue
        finite = all(np.isfinite(stored_values(tensor)).all() for tensor in edit.tensors.values())
        mutated = replace(construction, weights=replaced_tensors(construction.weights, edit.tensors))
        yield Mutant(kind, edit.where, edit.index, edit.before, edit.after, finite, mutated)


@dataclass(frozen=True)
class _Edit:
    """New tensors by name, and what `Mutant` says of them."""

    where: str
    index: Index
    before: float | None
    after: float | None
    tensors: Mapping[str, Tensor]


class _Places:
    """The tensors of a construction and the places of their nonzero entries."""

    def __init__(self, construction: Construction) -> None:
        self.construction = construction
        self.tensors: dict[str, Tensor] = dict(construction.weights.tensors())
        self.layers = range(len(construction.weights.layers))
        self._nonzero = {name: nonzero_places(tensor) for name, tensor in self.tensors.items()}

    def nonzero(self, generator: np.random.Generator, names: list[str] | None = None) -> tuple[str, Index] | None:
        """A nonzero entry, uniformly from all or from those of the named tensors; None where there is none."""
        chosen = list(self.tensors) if names is None else names
        counts = np.cumsum([len(self._nonzero[name]) for name in chosen])
        if not counts[-1]:
            return None
        number = int(generator.integers(counts[-1]))
        at = int(np.searchsorted(counts, number, side="right"))
        row = self._nonzero[chosen[at]][number - int(counts[at])]
        return chosen[at], tuple(row.tolist())

    def zero(self, generator: np.random.Generator, names: list[str]) -> tuple[str, Index] | None:
        """A zero entry of one of the named tensors, uniformly over the tensors, then over the entries."""
        name = names[int(generator.integers(len(names)))]
        shape = self.tensors[name].shape
        for _ in range(ATTEMPTS if all(shape) else 0):
            index = tuple(int(generator.integers(size)) for size in shape)
            if entry(self.tensors[name], index) == 0:
                return name, index
        return None

    def named(self, part: str) -> list[str]:
        """The tensors whose name ends so."""
        return [name for name in self.tensors if name.endswith(part)]

    def a_layer(self, generator: np.random.Generator) -> str:
        """The beginning of a layer's names."""
        return f"layers.{int(generator.integers(len(self.layers)))}"

    def subspace(self, coordinate: int) -> Subspace:
        """The subspace of a coordinate of the residual stream."""
        return next(space for space in self.construction.stream.values() if space.start <= coordinate < space.stop)


_Kind = Callable[[_Places, np.random.Generator], _Edit | None]


def _value(change: Callable[[np.float32, np.random.Generator], float]) -> _Kind:
    """A kind that changes one nonzero entry to a function of it."""

    def edit(places: _Places, generator: np.random.Generator) -> _Edit | None:
        place = places.nonzero(generator)
        if place is None:
            return None
        name, index = place
        old = np.float32(entry(places.tensors[name], index))
        return _set_entry(places, name, index, change(old, generator))

    return edit


def _set_entry(places: _Places, name: str, index: Index, value: float) -> _Edit:
    tensor = places.tensors[name]
    with np.errstate(over="ignore", invalid="ignore"):
        stored = np.float32(value)
    edited = with_entries(tensor, {index: stored})
    return _Edit(name, index, float(entry(tensor, index)), float(stored), {name: edited})


def _bit_flip(value: np.float32, generator: np.random.Generator) -> float:
    bits = np.array(value, dtype=np.float32).view(np.uint32) ^ np.uint32(1 << int(generator.integers(32)))
    with np.errstate(invalid="ignore"):
        return float(bits.view(np.float32))


def _extra(places: _Places, generator: np.random.Generator) -> _Edit | None:
    """A zero entry anywhere but in the biases, set to something."""
    place = places.zero(generator, [name for name in places.tensors if ".bias_" not in name])
    if place is None:
        return None
    return _set_entry(places, *place, EXTRA_VALUES[int(generator.integers(len(EXTRA_VALUES)))])


def _bias_changed(places: _Places, generator: np.random.Generator) -> _Edit | None:
    """Any entry of a bias of a layer's MLP, zero or not."""
    names = [name for part in (".bias_in", ".bias_out") for name in places.named(part) if places.tensors[name].size]
    if not names:
        return None
    name = names[int(generator.integers(len(names)))]
    index = (int(generator.integers(places.tensors[name].shape[0])),)
    change = BIAS_CHANGES[int(generator.integers(len(BIAS_CHANGES)))]
    return _set_entry(places, name, index, float(entry(places.tensors[name], index)) + change)


def _reordered(part: str, axis: int, *, copy: bool = False) -> _Kind:
    """A kind that swaps two rows or columns of a tensor, or copies one over another."""

    def edit(places: _Places, generator: np.random.Generator) -> _Edit | None:
        names = places.named(part)
        name = names[int(generator.integers(len(names)))] if names else ""
        if not names or places.tensors[name].shape[axis] < 2:
            return None
        tensor = places.tensors[name]
        to, source = generator.choice(tensor.shape[axis], size=2, replace=False).tolist()
        order = np.arange(tensor.shape[axis])
        order[to] = source
        if not copy:
            order[source] = to
        return _Edit(name, (to, source), None, None, {name: taken(tensor, order, axis)})

    return edit


def _output_moved(places: _Places, generator: np.random.Generator) -> _Edit | None:
    """An output of a unit, moved to another coordinate of the same subspace: to another token, for an answer."""
    place = places.nonzero(generator, places.named(".w_out"))
    if place is None:
        return None
    name, (unit, coordinate) = place
    space = places.subspace(coordinate)
    to = int(generator.integers(space.start, space.stop))
    matrix = places.tensors[name]
    value, there = np.float32(entry(matrix, (unit, coordinate))), np.float32(entry(matrix, (unit, to)))
    if to == coordinate:
        return None
    edited = with_entries(matrix, {(unit, coordinate): np.float32(0), (unit, to): there + value})
    return _Edit(name, (unit, to, coordinate), None, None, {name: edited})


def _code_replaced(places: _Places, generator: np.random.Generator) -> _Edit | None:
    """The code that a unit compares with, replaced by another: some signs of its entries in one subspace."""
    place = places.nonzero(generator, places.named(".w_in"))
    if place is None:
        return None
    name, (coordinate, unit) = place
    matrix, space = places.tensors[name], places.subspace(coordinate)
    flipped: dict[Index, np.float32] = {}
    for at in range(space.start, space.stop):
        value = entry(matrix, (at, unit))
        if value and generator.random() < 0.5:
            flipped[at, unit] = np.float32(-value)
    if space.size < 2 or not flipped:
        return None
    return _Edit(name, (coordinate, unit), None, None, {name: with_entries(matrix, flipped)})


def _heads_exchanged(*parts: str) -> _Kind:
    """A kind that exchanges two heads of a layer in some of their tensors; in all, it is harmless."""

    def edit(places: _Places, generator: np.random.Generator) -> _Edit | None:
        prefix = f"{places.a_layer(generator)}.attention"
        heads = places.tensors[f"{prefix}.query"].shape[0]
        if heads < 2:
            return None
        order = np.arange(heads)
        one, other = generator.choice(heads, size=2, replace=False).tolist()
        order[one], order[other] = other, one
        edited = {f"{prefix}.{part}": taken(places.tensors[f"{prefix}.{part}"], order, 0) for part in parts}
        return _Edit(prefix if len(parts) > 1 else next(iter(edited)), (one, other), None, None, edited)

    return edit


def _sharpness_lowered(places: _Places, generator: np.random.Generator) -> _Edit | None:
    """The queries of one head, or of all heads of a layer, scaled down."""
    name = f"{places.a_layer(generator)}.attention.query"
    query = np.asarray(places.tensors[name]).copy()
    if not len(query):
        return None
    factor = np.float32(SHARPNESS_FACTORS[int(generator.integers(len(SHARPNESS_FACTORS)))])
    heads = range(len(query)) if generator.random() < 0.5 else [int(generator.integers(len(query)))]
    for head in heads:
        query[head] *= factor
    return _Edit(name, tuple(heads), 1.0, float(factor), {name: query})


KINDS: dict[str, _Kind] = {
    "sign flip": _value(lambda value, _: -float(value)),
    "doubled": _value(lambda value, _: 2.0 * float(value)),
    "halved": _value(lambda value, _: 0.5 * float(value)),
    "scaled by 1.001": _value(lambda value, _: 1.001 * float(value)),
    "bit flip": _value(_bit_flip),
    "zeroed": _value(lambda *_: 0.0),
    "plus 1": _value(lambda value, _: float(value) + 1.0),
    "plus 0.001": _value(lambda value, _: float(value) + 1e-3),
    "units' inputs swapped": _reordered(".w_in", 1),
    "units' outputs swapped": _reordered(".w_out", 0),
    "tokens swapped": _reordered("embedding.token", 0),
    "positions swapped": _reordered("embedding.position", 0),
    "position copied": _reordered("embedding.position", 0, copy=True),
    "output moved": _output_moved,
    "code replaced": _code_replaced,
    "heads exchanged": _heads_exchanged("query", "key", "value", "output"),
    "heads' outputs exchanged": _heads_exchanged("output"),
    "sharpness lowered": _sharpness_lowered,
    "extra nonzero": _extra,
    "bias changed": _bias_changed,
}
"""What may be changed -> a function that draws such a change, or None where it finds no place."""
