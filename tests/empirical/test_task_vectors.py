"""On a construction the task vectors are known: the instruments find what is there, and nothing where nothing is."""

import numpy as np
import pytest

from construct.errors import InputError
from construct.seven_layer import STEPS, seven_layer
from construct.suites import build_suite
from construct.theorems import two_layer
from empirical.geometry import geometry, linear_discriminants, principal_components
from empirical.open_model import REPLACE, OpenConstruction
from empirical.runtime import Runtime
from empirical.task_vectors import Plan, combine, extract, transfer

TASKS = build_suite("letters", tasks=3)
AVERAGED = [name for name, _ in STEPS].index("average")
M, PROMPTS = 9, 10
MIXTURE = (4 / 9, 3 / 9, 2 / 9)
EXACT = 1e-5
"""|q_hat - q|_1 <= 1e-6 in real arithmetic; float32 adds about 1e-6 to numbers of order 1, means and all."""


@pytest.fixture(scope="module")
def seven() -> OpenConstruction:
    return OpenConstruction(seven_layer(TASKS, examples=M), Runtime("cpu", "float32"))


def test_a_shift_by_a_tasks_vector_moves_the_whole_answer_to_that_task(seven: OpenConstruction) -> None:
    plan = Plan(TASKS, M, PROMPTS)
    found = transfer(seven, plan, extract(seven, plan))
    # Until the evidence is averaged, the last position knows nothing of the examples.
    assert found.accuracy[:AVERAGED] == pytest.approx([0] * AVERAGED)
    assert found.probability[:AVERAGED] == pytest.approx([1 / 3] * AVERAGED, abs=EXACT)
    assert found.layer == AVERAGED
    assert (found.accuracy[AVERAGED], found.probability[AVERAGED]) == (1.0, pytest.approx(1.0, abs=EXACT))


def test_a_replaced_state_brings_the_dummy_queries_along_and_does_not_transfer(seven: OpenConstruction) -> None:
    plan = Plan(TASKS, M, PROMPTS, REPLACE)
    found = transfer(seven, plan, extract(seven, plan))
    assert found.accuracy[AVERAGED] == 0
    assert found.probability[AVERAGED] == pytest.approx(0, abs=EXACT)


def test_convex_combinations_put_out_their_own_weights(seven: OpenConstruction) -> None:
    plan = Plan(TASKS, M, PROMPTS)
    wanted = [MIXTURE, (0.25, 0.75, 0.0), (0.0, 0.0, 1.0)]
    for outputs in combine(seven, plan, extract(seven, plan), AVERAGED, wanted):
        assert [one.value for one in outputs.probability] == pytest.approx(outputs.weights, abs=EXACT)
        assert outputs.other.value == pytest.approx(0, abs=EXACT)


def test_two_layers_have_no_layer_where_a_vector_transfers() -> None:
    """Averaging and answering share a layer there: before it there is no mixture, after it no query to answer."""
    opened = OpenConstruction(two_layer(TASKS, examples=M), Runtime("cpu", "float32"))
    plan = Plan(TASKS, M, PROMPTS)
    found = transfer(opened, plan, extract(opened, plan))
    assert max(found.probability) < 0.5


def test_the_mixtures_vector_is_the_convex_combination_exactly(seven: OpenConstruction) -> None:
    plan = Plan(TASKS, M, PROMPTS)
    vectors = extract(seven, plan)
    states = seven.states(plan.questions(MIXTURE))[:, AVERAGED]
    found = geometry(vectors.single[:, AVERAGED], states, MIXTURE)
    assert found.recovered == pytest.approx(MIXTURE, abs=EXACT)
    assert found.residual < EXACT
    assert found.sine < EXACT < found.floor
    assert found.kappa == pytest.approx(1)
    assert found.permutation == pytest.approx(1 / 6)


def test_the_geometry_does_not_believe_a_wrong_mixture(seven: OpenConstruction) -> None:
    plan = Plan(TASKS, M, PROMPTS)
    single = extract(seven, plan).single[:, AVERAGED]
    states = seven.states(plan.questions(MIXTURE))[:, AVERAGED]
    found = geometry(single, states, MIXTURE[::-1])
    assert found.recovered == pytest.approx(MIXTURE, abs=EXACT)  # whatever is claimed
    assert found.permutation > 1 / 6
    assert found.kappa > 0.9  # which is why kappa alone says little
    assert found.sine > 100 * EXACT


def test_projections_tell_the_tasks_apart_just_where_their_evidence_is(seven: OpenConstruction) -> None:
    plan = Plan(TASKS, M, 12)
    states = np.concatenate([seven.states(plan.questions(plan.alone(task))) for task in range(3)])
    labels = np.repeat(np.arange(3), 12)
    before = linear_discriminants(states[:, AVERAGED - 1], labels, (0, 1, 2))
    after = linear_discriminants(states[:, AVERAGED], labels, (0, 1, 2))
    assert min(after.kept) > 100 * max(before.kept)
    mixed = seven.states(plan.questions(MIXTURE))[:, AVERAGED]
    both = linear_discriminants(
        np.concatenate([states[:, AVERAGED], mixed]), np.concatenate([labels, np.full(12, 3)]), (0, 1, 2)
    )
    centres = np.stack([both.points[both.labels == group].mean(0) for group in range(4)])
    scale = np.abs(centres).max()
    # A projection is affine, so it keeps convex combinations; the same queries are held out of every group.
    assert centres[3] == pytest.approx(np.array(MIXTURE) @ centres[:3], abs=1e-3 * scale)
    flat = principal_components(states[:, AVERAGED], labels)
    assert flat.points.shape == (36, 2)
    assert 0 < flat.kept[1] <= flat.kept[0] <= 1


def test_an_unknown_mode_is_refused(seven: OpenConstruction) -> None:
    with pytest.raises(InputError, match="'move': expected one of replace, shift"):
        extract(seven, Plan(TASKS, M, PROMPTS, "move"))
