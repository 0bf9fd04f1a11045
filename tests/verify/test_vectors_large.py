"""The sizes of the issue on vectors: d = 64, K = 16, n = 8, m = 64, certified in float32 to 1e-4."""

import pytest

from construct.vector_comparison import ATTENTION, FINGERPRINT
from construct.vector_suites import random_vector_tasks
from construct.vector_theorem import vectors
from verify.vector_adversary import VectorSearcher
from verify.vector_theorem import prove_vectors


@pytest.mark.parametrize("comparison", [FINGERPRINT, ATTENTION])
def test_the_sizes_that_were_asked_for_are_certified_in_float32(comparison: str) -> None:
    tasks = random_vector_tasks("orthogonal", tasks=16, dim=64, inputs=8)
    construction = vectors(tasks, examples=64, comparison=comparison)
    proof = prove_vectors(construction)
    assert proof.violations == ()
    assert proof.real is not None
    assert proof.real <= (construction.error_bound or 0)
    bound = proof.rounded["float32"]
    assert bound is not None
    assert bound <= 1e-4
    searcher = VectorSearcher(tasks, construction.comparison, construction.layout)
    assert 0 < searcher.search(construction.weights, samples=2, dtype="float32").error <= bound
