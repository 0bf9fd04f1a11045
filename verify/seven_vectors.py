"""The seven-layer edition on vectors, decided on weights: it computes what three layers do, which are proved as such.

A layer without heads, or without units and constants, adds 0 to every number, which changes none in any format. Two
MLPs in succession compute what one with the units of both does, if the second reads nothing that the first writes; and
if they write to different coordinates, then every sum is the same sum, so that the bounds as executed hold as well.
"""

from dataclasses import replace

import numpy as np
import scipy.sparse

from construct.seven_vectors import vector_budget
from construct.sparse import Sparse
from construct.transformer import LayerWeights, MlpWeights
from construct.vector_theorem import VectorConstruction
from verify.certificate import Lemma, Proof, Violation
from verify.rows import NotProvableError
from verify.seven_state import columns_written
from verify.vector_theorem import prove_vectors

ATTENDING, THINKING = (0, 3, 6), (1, 2, 4, 5)
"""The layers that have heads, and those that have units, from 0."""


def prove_seven_vectors(construction: VectorConstruction) -> Proof:
    """Bound |q_hat - q|_max over all prompts in the domain, in real arithmetic and as executed in float32.

    Returns:
        A proof whose `real` is the bound, or None with the reason among the violations.
    """
    weights = construction.weights
    allowed = vector_budget(construction.task_set, construction.layout)
    try:
        merged = gathered(construction)
    except NotProvableError as error:
        return Proof(None, violations=(Violation("steps", "the model", "seven steps, one a layer", str(error)),))
    proof = prove_vectors(merged)
    within = weights.d_model <= allowed.width and max(weights.heads) <= allowed.most_heads
    budget = Lemma(
        "budget",
        "seven layers, at most K heads in each, d_model <= 24 (max(d, K) + log2(m n))",
        {"heads": weights.heads, "d_model": weights.d_model, "allowed": allowed.width},
        within,
    )
    steps = Lemma(
        "steps", "one step a layer computes what three layers do, number by number", {"layers": 7}, holds=True
    )
    proof = replace(proof, lemmas=(budget, steps, *proof.lemmas))
    if within:
        return proof
    got = f"d_model {weights.d_model}, heads {weights.heads}"
    expected = f"at most {allowed.width:.1f}, and {allowed.most_heads} heads a layer"
    return replace(proof, violations=(*proof.violations, Violation("budget", "the model", expected, got)))


def gathered(construction: VectorConstruction) -> VectorConstruction:
    """The construction of three layers that computes the same. Raises NotProvableError where there is none."""
    layers = construction.weights.layers
    if len(layers) != len(ATTENDING) + len(THINKING):
        raise NotProvableError(f"it has {len(layers)} layers")
    for at in THINKING:
        if len(layers[at].attention.query):
            raise NotProvableError(f"layer {at + 1} has heads")
    for at in ATTENDING:
        mlp = layers[at].mlp
        if mlp.w_in.shape[1] or mlp.bias_out.any():
            raise NotProvableError(f"layer {at + 1} has units or constants")
    three = (
        LayerWeights(layers[0].attention, _merged(layers[1].mlp, layers[2].mlp, 2)),
        LayerWeights(layers[3].attention, _merged(layers[4].mlp, layers[5].mlp, 5)),
        layers[6],
    )
    return replace(construction, weights=replace(construction.weights, layers=three))


def _merged(one: MlpWeights, other: MlpWeights, number: int) -> MlpWeights:
    """One MLP in the place of two, the first of which is in layer `number`."""
    written = columns_written(one)
    read = np.flatnonzero(np.diff(other.w_in.indptr))
    if len(np.intersect1d(written, read)):
        raise NotProvableError(f"layer {number + 1} reads what layer {number} writes")
    if len(np.intersect1d(written, columns_written(other))):
        raise NotProvableError(f"layers {number} and {number + 1} write to the same coordinate")
    w_in: Sparse = scipy.sparse.hstack([one.w_in, other.w_in], format="csr")
    w_out: Sparse = scipy.sparse.vstack([one.w_out, other.w_out], format="csr")
    return MlpWeights(w_in, np.concatenate([one.bias_in, other.bias_in]), w_out, one.bias_out + other.bias_out)
