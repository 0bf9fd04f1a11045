"""Altered copies of a construction on vectors, and what the prover says of them: operators of `verify.mutations`.

There is no running of all prompts on vectors: a mutant is judged by random prompts of extreme examples and a climb
from the worst of them (`verify.vector_adversary`). That finds a lower bound: a mutant that is called harmless may be
harmful somewhere, but one that is certified must not be off by more than its bound anywhere.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import cast

from construct.theorems import Construction
from construct.vector_theorem import VectorConstruction
from verify.mutations import mutants
from verify.vector_adversary import VectorSearcher
from verify.vector_theorem import prove_vectors

SAMPLES = 40
"""The random prompts that judge a mutant; the climb takes as many again."""


@dataclass(frozen=True, eq=False)
class VectorMutant:
    """A construction with one thing changed.

    Args:
        kind: one of `verify.mutations.KINDS`.
        says: what was changed, in words.
        finite: whether all weights are finite numbers; no artifact may hold others.
        construction: the mutant; its tasks, domain and all else are the original's.
    """

    kind: str
    says: str
    finite: bool
    construction: VectorConstruction


@dataclass(frozen=True)
class Campaign:
    """What became of some mutants.

    Args:
        wrong: what was certified and is off by more than its bound, in words: there must be nothing.
        harmful: how many were found to be off by more than the original's claim.
        harmful_certified: those of them whose bound, above the claim, was proved all the same; it was not exceeded.
        harmless: how many were not, by kind.
        refused: how many of those are not proved within the claim, by kind.
    """

    wrong: tuple[str, ...]
    harmful: int
    harmful_certified: int
    harmless: Counter[str]
    refused: Counter[str]


def vector_mutants(construction: VectorConstruction, seed: int = 0) -> Iterator[VectorMutant]:
    """Mutants without end, the same for the same seed; the original is left as it is."""
    # The operators look at weights and named subspaces alone, which constructions of both kinds have.
    for mutant in mutants(cast("Construction", construction), seed):
        yield VectorMutant(mutant.kind, str(mutant), mutant.finite, cast("VectorConstruction", mutant.construction))


def campaign(construction: VectorConstruction, count: int, *, seed: int = 0, samples: int = SAMPLES) -> Campaign:
    """Prove and search `count` mutants of a construction that states a claim.

    Raises:
        InputError: no example of some task is in the domain.
    """
    claim = construction.error_bound or 0.0
    searcher = VectorSearcher(construction.task_set, construction.comparison, construction.layout, seed)
    wrong, harmful, harmful_certified = [], 0, 0
    harmless, refused = Counter[str](), Counter[str]()
    for mutant in islice(vector_mutants(construction, seed), count):
        proof = prove_vectors(mutant.construction)
        bounds = {"float64": proof.real, "float32": proof.rounded.get("float32")}
        if not mutant.finite:
            wrong += [f"{mutant.says}: certified with a weight that is no number"] * (proof.real is not None)
            harmful += 1
            continue
        error = searcher.search(mutant.construction.weights, samples=samples, seed=seed).error
        for dtype, bound in bounds.items():
            if bound is None:
                continue
            found = error
            if dtype == "float32":
                found = searcher.search(mutant.construction.weights, samples=samples // 2, dtype=dtype, seed=seed).error
            if not found <= bound * (1 + 2.0**-20) + 2.0**-44 * construction.task_set.answer_bound:
                wrong.append(f"{mutant.says}: {dtype} proved {bound:.3g}, found {found:.3g}")
        if not error <= claim:
            harmful += 1
            harmful_certified += proof.real is not None
            continue
        harmless[mutant.kind] += 1
        if proof.real is None or proof.real > claim:
            refused[mutant.kind] += 1
    return Campaign(tuple(wrong), harmful, harmful_certified, harmless, refused)
