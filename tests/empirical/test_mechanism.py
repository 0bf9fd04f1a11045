"""Probes and heads find the construction's mechanism where it is known to be, and nothing elsewhere."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from construct.seven_layer import STEPS, seven_layer
from construct.suites import build_suite
from construct.theorems import two_layer
from empirical.heads import Ablation, TracedConstruction, TracedPretrained, score_heads
from empirical.language_model import Options
from empirical.mechanism import Mechanism, examine, held_out_r2, mixed_questions
from empirical.open_model import OpenConstruction, OpenPretrained, open_inside
from empirical.positions import Spots
from empirical.runtime import Runtime

CPU = Runtime("cpu", "float32")
TASKS = build_suite("retrieval", tasks=2, alphabet_size=5, inputs=3)
M = 7
LAYER = {name: place for place, (name, _) in enumerate(STEPS)}


@pytest.fixture(scope="module")
def two() -> TracedConstruction:
    return TracedConstruction(OpenConstruction(two_layer(TASKS, examples=M), CPU))


@pytest.fixture(scope="module")
def found(two: TracedConstruction) -> Mechanism:
    return examine(two, TASKS, examples=M, prompts=120)


def test_the_evidence_is_at_the_answers_after_the_first_layer_and_the_mixture_at_the_end_after_the_second(
    found: Mechanism,
) -> None:
    # A ridge of 1e-6 of the variance leaves about that of what is there; rows of 60 prompts identify 40 coordinates.
    assert found.probes.evidence[0] > 0.999
    assert found.probes.mixture[1] > 0.99
    assert found.probes.mixture[0] < 0.2  # before averaging, the last position has seen the query alone


def test_the_seven_layers_have_each_thing_after_the_layer_that_makes_it() -> None:
    traced = TracedConstruction(OpenConstruction(seven_layer(TASKS, examples=M), CPU))
    found = examine(traced, TASKS, examples=M, prompts=100)
    assert found.probes.evidence[LAYER["credit"]] > 0.999
    assert found.probes.evidence[LAYER["read"]] < 0.9
    assert found.probes.mixture[LAYER["average"]] > 0.99
    assert found.probes.mixture[LAYER["credit"]] < 0.2
    assert (found.read.layer, found.average.layer) == (LAYER["read"], LAYER["average"])


def test_the_read_and_averaging_heads_have_the_ideal_patterns(found: Mechanism) -> None:
    assert (found.read.layer, found.average.layer, found.average.head) == (0, 1, 0)
    # The heads leak at most (T-1) z^2 with z = exp(-lambda), which the construction chooses far below 1e-5.
    assert found.read.score == pytest.approx(1, abs=1e-5)
    assert found.average.score == pytest.approx(1, abs=1e-5)
    assert max(found.chance) < 0.5


def test_without_a_read_head_its_task_is_lost_and_without_the_averaging_head_everything(
    two: TracedConstruction, found: Mechanism
) -> None:
    questions = mixed_questions(TASKS, M, 12, 5)
    plain = two.probabilities(questions)
    for head in range(2):
        without = two.probabilities(questions, Ablation(0, head))
        # Each read head serves one task: that task explains nothing any more, the other has all that it had.
        lost = without < 1e-5
        assert lost.all(0).sum() == 1
    assert two.probabilities(questions, Ablation(1, 0)) == pytest.approx(np.zeros_like(plain), abs=1e-5)
    assert two.probabilities(questions) == pytest.approx(plain, abs=0)  # the head is back
    assert found.average.without.value == pytest.approx(1, abs=1e-4)


def test_patterns_are_scored_as_written() -> None:
    spots = Spots(answers=(2, 4), inputs=(((1,), (0,)), ((3,), (0,))), last=5)
    read = np.zeros((2, 6, 6))
    read[0, 2, 1], read[0, 2, 0], read[0, 4, 3] = 0.5, 0.5, 1.0  # the first input: (0.5 + 1) / 2
    read[1, 5, 2], read[1, 5, 0] = 0.5, 0.5  # TV to (1/2 at 2, 1/2 at 4) is 1/2
    scores = score_heads([read], spots)
    assert scores.read[0] == pytest.approx([0.75, 0.0])
    assert scores.average[0] == pytest.approx([0.5, 0.5])  # the first head pays no attention at 5: |0 - u| / 2
    # Uniform: at 2 a third, at 4 a fifth; over the last row 2/6 of the answers' mass.
    assert scores.chance == (pytest.approx((1 / 3 + 1 / 5) / 2), pytest.approx(1 / 3))


def test_a_probe_finds_what_is_linear_and_not_what_is_random() -> None:
    generator = np.random.default_rng(6)
    states = [generator.normal(size=(3, 5)) for _ in range(40)]
    weights = generator.normal(size=(5, 2))
    assert held_out_r2(states, [state @ weights + 3 for state in states]) == pytest.approx(1, abs=1e-4)
    assert held_out_r2(states, [generator.normal(size=(3, 2)) for _ in states]) < 0.1
    assert held_out_r2([np.ones((3, 5))] * 4, [generator.normal(size=(3, 2)) for _ in range(4)]) == 0


def test_a_probe_finds_the_same_in_a_stream_of_another_scale() -> None:
    generator = np.random.default_rng(7)
    states = [generator.normal(size=(3, 5)) for _ in range(40)]
    targets = [state[:, :2] + generator.normal(size=(3, 2)) for state in states]
    assert 0.2 < held_out_r2(states, targets) < 0.8
    assert held_out_r2([state * 2.0**-50 for state in states], targets) == pytest.approx(held_out_r2(states, targets))


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox", "opt", "gemma"])
def test_the_heads_of_every_family_are_looked_at_and_taken_out(family: str, tiny: Callable[[str], Path]) -> None:
    opened = open_inside(str(tiny(family)), CPU, Options(), patterns=True).model
    assert isinstance(opened, OpenPretrained)
    traced = TracedPretrained(opened)
    letters = build_suite("letters", tasks=2)
    questions = mixed_questions(letters, 3, 3, 0)
    trace = traced.trace(questions[0], letters)
    assert trace.scores.read.shape == (3, 4)
    assert trace.answers.shape == (3, 3, 24)
    plain = traced.probabilities(questions)
    changed = np.abs(np.log(traced.probabilities(questions, Ablation(1, 2)) / plain)).max()
    assert changed > 1e-3
    assert traced.probabilities(questions) == pytest.approx(plain)
    # All heads of a layer taken out one after the other is the attention of that layer gone: each is another part.
    effects = [traced.probabilities(questions, Ablation(0, head)) for head in range(4)]
    assert all(np.abs(one - other).max() > 0 for place, one in enumerate(effects) for other in effects[:place])
