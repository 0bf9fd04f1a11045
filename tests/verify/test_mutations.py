"""Mutants are what they say, and are judged by what they compute."""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from construct.artifact import load, save
from construct.errors import ArtifactError
from construct.sparse import Sparse
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from verify.exhaustive import exhaust
from verify.mutations import KINDS, Classifier, Mutant, classify, mutants

EPS = 1e-6

SINGLE = {
    "sign flip",
    "doubled",
    "halved",
    "scaled by 1.001",
    "bit flip",
    "zeroed",
    "plus 1",
    "plus 0.001",
    "extra nonzero",
    "bias changed",
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small are run slower by many threads, and much slower where others want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def construction() -> Construction:
    """Two heads in the first layer, and two tasks that read one input each."""
    tables = ({(0,): 1, (1,): 0, (2,): 2}, {(0,): 2, (1,): 2, (2,): 0})
    tasks = tuple(TableTask(f"task{place}", (place,), rows) for place, rows in enumerate(tables))
    return two_layer(TaskSet("two reads", ("a", "b", "c"), 2, Format(), tasks), examples=1)


def dense(tensor: np.ndarray | Sparse) -> np.ndarray:
    return tensor if isinstance(tensor, np.ndarray) else tensor.toarray()


def bits(construction: Construction) -> dict[str, np.ndarray]:
    """Every tensor, bit by bit."""
    tensors = construction.weights.tensors()
    return {name: np.ascontiguousarray(dense(tensor)).view(np.uint32).copy() for name, tensor in tensors}


def some(construction: Construction, count: int, seed: int = 1) -> Iterator[Mutant]:
    return islice(mutants(construction, seed), count)


def test_a_mutant_differs_where_it_says_and_the_original_not_at_all(construction: Construction) -> None:
    original = bits(construction)
    for mutant in some(construction, 800):
        changed = bits(mutant.construction)
        assert changed.keys() == original.keys()
        different = {name for name in original if not np.array_equal(changed[name], original[name])}
        assert different, mutant
        assert all(name.startswith(mutant.tensor) for name in different), mutant
        if mutant.kind in SINGLE:
            assert np.argwhere(changed[mutant.tensor] != original[mutant.tensor]).tolist() == [list(mutant.index)]
            tensors = dict(mutant.construction.weights.tensors())
            assert float(dense(tensors[mutant.tensor])[mutant.index]) == pytest.approx(mutant.after, rel=0, nan_ok=True)
        assert str(mutant).startswith(f"{mutant.kind} of {mutant.tensor}")
    assert all(np.array_equal(now, original[name]) for name, now in bits(construction).items())


def test_sparse_mutants_stay_in_canonical_form(construction: Construction) -> None:
    for mutant in some(construction, 400):
        for (name, tensor), (_, old) in zip(
            mutant.construction.weights.tensors(), construction.weights.tensors(), strict=True
        ):
            assert type(tensor) is type(old)
            assert tensor.shape == old.shape
            assert tensor.dtype == np.float32
            if not isinstance(tensor, np.ndarray):
                assert tensor.has_canonical_format, name
                assert tensor.data.all(), name


def test_all_kinds_are_drawn_equally_often(construction: Construction) -> None:
    count = 4000
    drawn = Counter(mutant.kind for mutant in some(construction, count))
    assert set(drawn) == set(KINDS)
    share = 1 / len(KINDS)
    six_sigma = 6 * math.sqrt(count * share * (1 - share))
    assert all(abs(times - count * share) < six_sigma for times in drawn.values())


def test_a_construction_of_one_head_has_none_to_exchange() -> None:
    built = two_layer(build_suite("lookup", tasks=2, alphabet_size=3, inputs=1), examples=2)
    assert {mutant.kind for mutant in some(built, 600)} == {kind for kind in KINDS if "heads" not in kind}


def test_the_same_seed_gives_the_same_mutants(construction: Construction) -> None:
    first, again, other = (list(map(str, some(construction, 50, seed))) for seed in (5, 5, 6))
    assert first == again != other


def test_a_bit_flip_flips_one_of_all_32_bits(construction: Construction) -> None:
    flipped = set()
    for mutant in some(construction, 6000):
        if mutant.kind == "bit flip":
            before, after = np.array([mutant.before, mutant.after], dtype=np.float32).view(np.uint32)
            difference = int(before ^ after)
            if math.isnan(mutant.after or 0):
                continue  # a NaN has many bit patterns, and float keeps not all
            assert difference.bit_count() == 1
            flipped.add(difference.bit_length() - 1)
    assert flipped == set(range(32))


def test_what_is_no_number_is_labelled_and_refused_by_the_artifact(construction: Construction, tmp_path: Path) -> None:
    seen: Counter[bool] = Counter()
    for mutant in some(construction, 3000):
        tensors = mutant.construction.weights.tensors()
        assert mutant.finite == all(np.isfinite(dense(tensor)).all() for _, tensor in tensors)
        seen[mutant.finite] += 1
        if seen[mutant.finite] > 2:
            continue
        folder = tmp_path / f"{mutant.finite}{seen[mutant.finite]}"
        save(mutant.construction, folder)
        if mutant.finite:
            loaded = bits(load(folder))
            assert all(np.array_equal(loaded[name], kept) for name, kept in bits(mutant.construction).items())
        else:
            with pytest.raises(ArtifactError, match="not a finite number"):
                load(folder)
    assert seen[False] > 0


def test_heads_exchanged_whole_are_harmless_and_their_outputs_alone_are_not(construction: Construction) -> None:
    classifier, truth = Classifier(construction), exhaust(construction)
    found: Counter[str] = Counter()
    for mutant in some(construction, 400):
        if mutant.kind not in ("heads exchanged", "heads' outputs exchanged"):
            continue
        found[mutant.kind] += 1
        judgement = classify(mutant, EPS, classifier)
        assert judgement.exhaustive
        assert judgement.harmful == (mutant.kind == "heads' outputs exchanged")
        if not judgement.harmful:
            # The same sums of at most 64 terms in another order.
            assert judgement.worst.error == pytest.approx(truth.error, abs=64 * truth.rounding)
    assert len(found) == 2


HARMFUL = {"units' outputs swapped", "tokens swapped", "output moved"}
"""Kinds of which every mutant of this construction is wrong by at least a half somewhere."""


def test_a_moved_entry_is_harmful_and_exhaustion_and_search_both_find_it(construction: Construction) -> None:
    exhaustion, searching = Classifier(construction), Classifier(construction, limit=0, samples=100)
    seen: Counter[str] = Counter()
    for mutant in some(construction, 300):
        if mutant.kind not in HARMFUL or seen[mutant.kind] == 5:
            continue
        seen[mutant.kind] += 1
        truth, found = classify(mutant, EPS, exhaustion), classify(mutant, EPS, searching)
        assert truth.exhaustive
        assert not found.exhaustive
        assert truth.harmful
        assert found.harmful
        assert truth.worst.error >= 0.5 - EPS, mutant
        assert 0.6 * truth.worst.error <= found.worst.error <= truth.worst.error + 64 * truth.worst.rounding
    assert set(seen) == HARMFUL


def test_exhaustion_and_search_judge_alike(construction: Construction) -> None:
    exhaustion, searching = Classifier(construction), Classifier(construction, limit=0, samples=100)
    harmful = Counter(
        (classify(mutant, EPS, exhaustion).harmful, classify(mutant, EPS, searching).harmful)
        for mutant in some(construction, 60, seed=9)
    )
    # A search can only miss what is there, never find what is not.
    assert harmful[False, True] == 0
    assert harmful[True, False] <= 2
    assert harmful[True, True] > 20
    assert harmful[False, False] > 5


def test_the_original_is_harmless_and_a_classifier_can_be_left_out(construction: Construction) -> None:
    assert not Classifier(construction).judge(construction, EPS).harmful
    mutant = next(mutants(construction, 0))
    assert classify(mutant, EPS) == classify(mutant, EPS, Classifier(construction))


def test_what_is_no_number_is_harmful(construction: Construction) -> None:
    mutant = next(mutant for mutant in mutants(construction, 3) if not mutant.finite)
    judgement = classify(mutant, 1e9)
    assert judgement.harmful
    assert judgement.worst.error == math.inf


def test_sums_and_large_tables_have_mutants_too() -> None:
    total = SumTask("sum", (0, 1), {0: -1, 2: 1}, {0: 1, 2: 0})
    table = TableTask("table", (1,), {(0,): 1, (1,): 1})
    with_sum = two_layer(TaskSet("sum", ("a", "b", "c"), 2, Format(), (total, table)), examples=1)
    classifier = Classifier(with_sum)
    harmful = Counter(classify(mutant, EPS, classifier).harmful for mutant in some(with_sum, 200))
    assert min(harmful[True], harmful[False]) > 20
    large = two_layer(build_suite("lookup", tasks=5, alphabet_size=499, inputs=2), examples=11)
    assert len(list(some(large, 100))) == 100
