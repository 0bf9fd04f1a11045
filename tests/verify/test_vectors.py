"""The prover on vectors: what is built is certified, and no run is farther off than what was proved."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.errors import InputError
from construct.vector_model import forward_vectors
from construct.vector_oracle import vector_answer
from construct.vector_prediction import VectorPredictor
from construct.vector_theorem import VectorConstruction
from tests.construct.vector_cases import VectorCase, built_case, constructions, vector_cases
from verify.certificate import Proof
from verify.vector_adversary import VectorSearcher
from verify.vector_theorem import prove_vectors


def figures(proof: Proof, lemma: str) -> dict[str, Any]:
    return next(found.figures for found in proof.lemmas if found.name == lemma)


@settings(max_examples=15)
@given(vector_cases())
def test_no_run_is_farther_off_than_what_was_proved(case: VectorCase) -> None:
    construction, prompt = case.construction, case.prompt
    proof = prove_vectors(construction)
    assert proof.violations == ()
    assert proof.real is not None
    assert proof.real <= (construction.error_bound or 0)
    answer = vector_answer(construction.task_set, construction.comparison, prompt)
    count, weights_at = len(prompt.answers), construction.stream["weight"].coordinates
    trace = forward_vectors(construction.weights, construction.layout.vectors(prompt))
    own = 2.0**-44 * construction.task_set.answer_bound * len(construction.task_set.tasks)
    found = figures(proof, "superposition")
    assert np.abs(trace.output[-1] - answer.target).max() <= found["bounds"][count] + own
    evidence = np.array([float(share) for share in answer.evidence])
    assert np.abs(trace.after_mlp[-1][-1, weights_at] - evidence).max() <= found["weights"][count] + own
    single = proof.rounded["float32"]
    assert single is not None
    executed = VectorPredictor(construction, dtype="float32").predict(prompt)
    assert np.abs(executed.vector - answer.target).max() <= single


@settings(max_examples=6)
@given(constructions(), st.integers(0, 99))
def test_no_search_finds_more_than_what_was_proved(construction: VectorConstruction, seed: int) -> None:
    try:
        searcher = VectorSearcher(construction.task_set, construction.comparison, construction.layout, seed)
    except InputError:
        return  # every example of some task is too near another one
    proof = prove_vectors(construction)
    room = 2.0**-44 * construction.task_set.answer_bound * len(construction.task_set.tasks)
    for dtype, bound in (("float64", proof.real), ("float32", proof.rounded["float32"])):
        assert bound is not None
        assert searcher.search(construction.weights, samples=12, dtype=dtype).error <= bound + room


def test_the_bound_is_within_a_factor_of_the_truth_on_a_small_model() -> None:
    """Not far above what a search finds, so that it is a measure of the model and not of the prover."""
    construction = built_case(tasks=2, dim=2, inputs=1, examples=4)
    bound = prove_vectors(construction).real
    assert bound is not None
    searcher = VectorSearcher(construction.task_set, construction.comparison, construction.layout)
    assert bound <= 6 * searcher.search(construction.weights, samples=60).error


def test_a_narrower_domain_is_no_part_of_the_claim_of_another() -> None:
    """The same weights are refused for a wider tolerance, a smaller margin, longer vectors or more distant offsets."""
    built = built_case("general", tasks=2, dim=3, inputs=2, examples=4, offsets=0.5)
    assert prove_vectors(built).real is not None
    wider = (
        replace(built, comparison=replace(built.comparison, tolerance=built.comparison.margin / 1.5)),
        replace(built, comparison=replace(built.comparison, margin=built.comparison.margin / 2.5)),
        replace(built, task_set=replace(built.task_set, bound=3.0)),
    )
    for construction in wider:
        bound = prove_vectors(construction).real
        assert bound is None or bound > (built.error_bound or 0)
