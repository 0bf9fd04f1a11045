"""How few heads: what docs/theory/heads.md says, where it can be run."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from construct.artifact import load
from construct.cli import construct
from construct.reads import plan_reads
from construct.suites import build_suite
from construct.theorems import two_layer
from verify.theorem import prove


def test_64_tasks_that_look_at_one_input_are_built_and_certified_with_one_read_head(tmp_path: Path) -> None:
    words = "build --suite lookup --tasks 64 --alphabet-size 16 --inputs 1 --examples 32 --out".split()
    built = CliRunner().invoke(construct, [*words, str(tmp_path / "one-read")])
    assert built.exit_code == 0, built.output
    construction = load(tmp_path / "one-read")
    tables = {tuple(task.rows.items()) for task in construction.task_set.tasks}
    assert len(tables) == 64, "the tasks are distinct"
    assert construction.weights.heads == [1, 1]
    verified = CliRunner().invoke(construct, ["verify", str(tmp_path / "one-read")])
    assert verified.exit_code == 0, verified.output
    assert "CERTIFIED" in verified.output


def test_that_model_is_not_certified_without_its_read_head() -> None:
    construction = two_layer(build_suite("lookup", tasks=5, alphabet_size=16, inputs=1), examples=3)
    construction.weights.layers[0].attention.value[0] = 0.0
    proof = prove(construction)
    assert proof.real is None or proof.violations


@pytest.mark.parametrize(("tasks", "inputs", "reads"), [(7, 2, 2), (7, 7, 7), (3, 5, 3), (64, 3, 3)])
def test_heads_are_the_distinct_inputs_that_the_tasks_read(tasks: int, inputs: int, reads: int) -> None:
    task_set = build_suite("lookup", tasks=tasks, alphabet_size=4, inputs=inputs)
    assert plan_reads(task_set).heads == reads
    assert two_layer(task_set, examples=2).weights.heads == [reads, 1]


@pytest.mark.parametrize(("inputs", "examples"), [(1, 3), (1, 2), (2, 2), (3, 1)])
def test_contexts_in_which_a_combination_of_weights_vanishes_are_rare(inputs: int, examples: int) -> None:
    """The lemma of docs/theory/heads.md, over all sets X of the examples' inputs, with the largest Y for each."""
    held = np.array(list(itertools.product((-1, 1), repeat=inputs * examples))).reshape(-1, examples, inputs)
    shown = np.array(list(itertools.product((-1, 1), repeat=examples)))
    agree = (held[:, None] == shown[None, :, :, None]).sum(axis=2)  # c_k for each x and y
    for sigma in itertools.product((-1, 0, 1), repeat=inputs):
        if not any(sigma):
            continue
        vanishes = agree @ np.array(sigma) == 0
        masks = [int("".join("01"[bit] for bit in row), 2) for row in vanishes.tolist()]
        common = [(1 << len(shown)) - 1] + [0] * ((1 << len(held)) - 1)
        for chosen in range(1, 1 << len(held)):
            lowest = chosen & -chosen
            common[chosen] = common[chosen ^ lowest] & masks[lowest.bit_length() - 1]
        most = max(chosen.bit_count() * both.bit_count() for chosen, both in enumerate(common))
        assert most <= len(held) * len(shown) / 2**examples


def layer_one_read(tokens: np.ndarray) -> np.ndarray:
    """What one head of layer 1 can read at once: token t weighs t + 1, place j's value is e_j, and BOS's is e_0."""
    weights = np.concatenate([[1.0], 1.0 + tokens])
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize(("inputs", "alphabet_size"), [(2, 3), (3, 2), (5, 2), (3, 4)])
def test_one_head_of_wide_values_reads_all_inputs_and_one_hidden_layer_undoes_its_normaliser(
    inputs: int, alphabet_size: int
) -> None:
    """The proposition on one head of wide values: along one direction all (token, normaliser) are told apart."""
    every = np.array(list(itertools.product(range(alphabet_size), repeat=inputs)))
    reads = np.array([layer_one_read(tokens) for tokens in every])
    totals = 1 + inputs + every.sum(axis=1)
    largest = 1 + inputs * alphabet_size
    for place in range(inputs):
        direction = largest * reads[:, 1 + place] + reads[:, 0]
        # (largest (t + 1) + 1) / Z, by integers: equal only where token and normaliser are.
        scaled = {
            (int(t), int(z)): (largest * (int(t) + 1) + 1) / int(z)
            for t, z in zip(every[:, place], totals, strict=True)
        }
        assert np.allclose(direction, [scaled[int(t), int(z)] for t, z in zip(every[:, place], totals, strict=True)])
        values = sorted(scaled.values())
        # At least 1 / Z Z' apart, and Z < 1 + n V for all but the largest.
        assert min(np.diff(values), default=1.0) >= (1 - 1e-9) / largest**2
