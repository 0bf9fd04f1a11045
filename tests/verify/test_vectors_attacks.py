"""Altered weights on vectors: mutants and attacks by hand; nothing that is wrong is certified."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from construct.vector_comparison import ATTENTION
from construct.vector_theorem import VectorConstruction
from tests.construct.vector_cases import built_case
from tests.verify.conftest import edited, with_tensors, with_unit
from verify.vector_adversary import VectorSearcher
from verify.vector_mutations import campaign
from verify.vector_theorem import prove_vectors

MUTATED: dict[str, dict[str, Any]] = {
    "fingerprints": {"kind": "general", "tasks": 3, "dim": 4, "inputs": 2, "examples": 5, "offsets": 0.5},
    "two coordinates": {"kind": "orthogonal", "tasks": 2, "dim": 5, "inputs": 3, "examples": 3, "width": 2},
    "attention": {"kind": "rotation", "tasks": 3, "dim": 3, "inputs": 2, "examples": 4, "comparison": ATTENTION},
}


@pytest.mark.parametrize("which", MUTATED)
def test_no_mutant_that_is_wrong_is_certified(which: str) -> None:
    result = campaign(built_case(**MUTATED[which]), 18, seed=11, samples=10)
    assert result.wrong == ()
    assert result.harmful > 5
    assert sum(result.harmless.values()) > 2
    assert sum(result.refused.values()) <= 0.6 * sum(result.harmless.values())


Attack = Callable[[Any], Any]


def attention(layer: int, name: str) -> str:
    return f"layers.{layer}.attention.{name}"


def other_input(built: Any) -> Any:
    """A read head attends to the other input."""
    query, key = (built.weights.layers[0].attention.__dict__[name].copy() for name in ("query", "key"))
    query[[0, 1]], key[[0, 1]] = query[[1, 0]], key[[1, 0]]
    return with_tensors(built, {attention(0, "query"): query, attention(0, "key"): key})


def other_answer(built: Any) -> Any:
    """A superposing head writes what another task answers."""
    value = built.weights.layers[2].attention.value.copy()
    value[0, :, :4] = value[2, :, :4]
    return with_tensors(built, {attention(2, "value"): value})


def unseen_coordinate(built: Any) -> Any:
    """The units of one coordinate of one task do not write: examples that differ there only count as following."""
    w_out = built.weights.layers[0].mlp.w_out.toarray()
    units = np.flatnonzero(w_out[:, built.stream["excess"].start])
    return edited(
        built, {"layers.0.mlp.w_out": {(int(unit), built.stream["excess"].start): 0.0 for unit in units[1::4]}}
    )


def one_sided(built: Any) -> Any:
    """Differences of one sign are not seen."""
    w_out = built.weights.layers[0].mlp.w_out.toarray()
    units = np.flatnonzero(w_out[:, built.stream["excess"].start])[:4]
    return edited(built, {"layers.0.mlp.w_out": {(int(unit), built.stream["excess"].start): 0.0 for unit in units}})


def late_threshold(built: Any) -> Any:
    """A difference counts from twice the margin on."""
    bias = built.weights.layers[0].mlp.bias_in.copy()
    bias[: 2 * 4 * 3] -= 2 * built.comparison.margin
    return with_tensors(built, {"layers.0.mlp.bias_in": bias})


def early_threshold(built: Any) -> Any:
    """A difference counts at once: an example within the tolerance does not follow."""
    bias = built.weights.layers[0].mlp.bias_in.copy()
    bias[: 2 * 4 * 3] += built.comparison.margin / 2
    return with_tensors(built, {"layers.0.mlp.bias_in": bias})


def answers_kept(built: Any) -> Any:
    """Answers are not erased, and the disagreeing ones are superposed too."""
    w_out = built.weights.layers[0].mlp.w_out.toarray()
    w_out[:, built.stream["vector"].coordinates] = 0.0
    at = {tuple(index): 0.0 for index in np.argwhere(built.weights.layers[0].mlp.w_out.toarray() != w_out).tolist()}
    return edited(built, {"layers.0.mlp.w_out": at})


def biased_tally(built: Any) -> Any:
    """BOS votes with weight e instead of 1."""
    key = built.weights.layers[1].attention.key.copy()
    key[0, built.stream["role_bos"].start, 0] = 1.0
    return with_tensors(built, {attention(1, "key"): key})


def bent_logarithm(built: Any) -> Any:
    """One step of the logarithm is 1 in a thousand too large."""
    w_out = built.weights.layers[1].mlp.w_out.toarray()
    unit = int(np.flatnonzero(w_out[:, built.stream["log_count"].start])[0])
    value = float(w_out[unit, built.stream["log_count"].start])
    return edited(built, {"layers.1.mlp.w_out": {(unit, built.stream["log_count"].start): value * 1.001}})


def half_agreement(built: Any) -> Any:
    """Examples that follow a task are kept off by half of what they should be."""
    key = built.weights.layers[2].attention.key.copy()
    key[0, built.stream["agreement"].start] *= 0.05
    return with_tensors(built, {attention(2, "key"): key})


def constant_in_the_output(built: Any) -> Any:
    """Every EQ adds a little to the output."""
    return with_unit(built, 2, {built.stream["role_eq"].start: 1.0}, 0.0, {built.stream["vector"].start: 1e-3})


def trigger(built: Any) -> Any:
    """A back door: a unit that is on only where all examples that there can be follow one task."""
    reads = {built.stream["share"].start: -64.0, built.stream["role_eq"].start: 64.0 / 5.5}
    return with_unit(built, 2, reads, 0.0, {built.stream["vector"].start: 0.25})


def turned_output(built: Any) -> Any:
    return edited(built, {"unembedding": {(1, 0): 2.0**-7}})


def tally_elsewhere(built: Any) -> Any:
    """The tally's head writes what it found to the excess too, which every y has from BOS."""
    return edited(built, {attention(1, "output"): {(0, 0, built.stream["excess"].start): 1.0}})


def agreement_by_position(built: Any) -> Any:
    """One answer agrees with a task whatever it is."""
    at = built.layout.eq_position(0) + 1
    return edited(built, {"embedding.position": {(at, built.stream["agreement"].start): 1.0}})


def excess_by_position(built: Any) -> Any:
    """One answer follows no task whatever it is."""
    at = built.layout.eq_position(1) + 1
    return edited(built, {"embedding.position": {(at, built.stream["excess"].start + 1): 1.0}})


def one_position(built: Any) -> Any:
    """The last position of all holds another index."""
    at = built.layout.input_position(built.layout.examples - 1, 1)
    held = built.stream["held_index"].start
    old = float(built.weights.position_embedding.toarray()[at, held])
    return edited(built, {"embedding.position": {(at, held): 1.0 - old}})


def late_example(built: Any) -> Any:
    """The last example's answer has no role: it is not counted."""
    at = built.layout.eq_position(built.layout.examples - 1) + 1
    return edited(built, {"embedding.position": {(at, built.stream["role_y"].start): 0.0}})


def other_constant(built: Any) -> Any:
    query = built.weights.layers[2].attention.query.copy()
    query[1, built.stream["role_eq"].start, -1] += np.float32(2.0**-10)
    return with_tensors(built, {attention(2, "query"): query})


def offset_moved(built: Any) -> Any:
    value = built.weights.layers[2].attention.value.copy()
    value[0, built.stream["role_x"].start, 1] += np.float32(1e-3)
    return with_tensors(built, {attention(2, "value"): value})


def matrix_moved(built: Any) -> Any:
    value = built.weights.layers[2].attention.value.copy()
    value[1, built.stream["vector"].start, 2] += np.float32(1e-3)
    return with_tensors(built, {attention(2, "value"): value})


ATTACKS: tuple[Attack, ...] = (
    other_input,
    other_answer,
    unseen_coordinate,
    one_sided,
    late_threshold,
    early_threshold,
    answers_kept,
    biased_tally,
    bent_logarithm,
    half_agreement,
    constant_in_the_output,
    trigger,
    turned_output,
    tally_elsewhere,
    agreement_by_position,
    excess_by_position,
    one_position,
    late_example,
    other_constant,
    offset_moved,
    matrix_moved,
)


@pytest.fixture(scope="module")
def attacked() -> VectorConstruction:
    return built_case(**MUTATED["fingerprints"])


@pytest.fixture(scope="module")
def searcher(attacked: VectorConstruction) -> VectorSearcher:
    return VectorSearcher(attacked.task_set, attacked.comparison, attacked.layout)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_is_found_to_be_wrong_and_not_certified(
    attack: Attack, attacked: VectorConstruction, searcher: VectorSearcher
) -> None:
    claim = attacked.error_bound or 0
    broken = attack(attacked)
    error = searcher.search(broken.weights, samples=40).error
    assert error > claim, "the attack does no harm, and shows nothing"
    proof = prove_vectors(broken)
    assert proof.real is None or proof.real >= error
    assert proof.violations or (proof.real or 0) > claim


def test_what_is_no_number_or_of_another_depth_is_no_proof(attacked: VectorConstruction) -> None:
    broken: Any = edited(attacked, {"layers.1.mlp.w_out": {(0, 3): float("nan")}})  # type: ignore[arg-type]
    assert prove_vectors(broken).real is None
    shorter = replace(attacked, weights=replace(attacked.weights, layers=attacked.weights.layers[:2]))
    proof = prove_vectors(shorter)
    assert proof.real is None
    assert proof.violations[0].expected == "3 layers"
