"""Claims that altered provers broke unnoticed: each test here was made for a mutant of `make mutants-prover`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from construct.artifact import save
from construct.prompts import Example, Prompt
from construct.sampling import PromptSampler
from construct.tasks import Format, SumTask, TaskSet
from construct.theorems import Construction, two_layer
from construct.transformer import forward
from tests.verify.conftest import edited, sum_and_table
from tests.verify.test_sums import first_layer
from verify.certify import judge_folder, write_certificate
from verify.check import certificate as checker
from verify.exhaustive import exhaust
from verify.rounding import _exact_units
from verify.sums import affine_arguments
from verify.theorem import prove


def two_sums() -> TaskSet:
    """Sums over different inputs, each by a head of its own; no value is the opposite of another."""
    first = SumTask("first", (0,), {0: 0, 1: 1, 2: 2}, {0: 1, 2: 0})
    second = SumTask("second", (1, 2), {0: 1, 1: 3, 2: 4}, {2: 2, 5: 1, 7: 0})
    return TaskSet("two sums", ("a", "b", "c"), 3, Format(), (first, second))


def test_what_a_units_of_a_sum_reads_of_another_sum_is_in_its_radius() -> None:
    built = two_layer(two_sums(), examples=1, sharpness=30)  # a leak of 1e-25 is lost
    task, number = built.task_set.tasks[0], 0
    assert isinstance(task, SumTask)
    units = first_layer(built).writers(np.array([built.stream["evidence"].start + number]))
    other = next(space for name, space in built.stream.items() if name.startswith("sum[1]") and space.size == 1)
    altered = edited(built, {"layers.0.mlp.w_in": {(other.start, int(unit)): 0.25 for unit in units}})
    layer = first_layer(altered)
    form = affine_arguments(layer, "y", task, units)
    mlp = altered.weights.layers[0].mlp
    for inputs in np.ndindex(3, 3, 3):
        ids = built.layout.ids(Prompt((Example(inputs, 2),), (0, 0, 0)))
        state = forward(altered.weights, ids).after_attention[0]
        argument = (state[built.layout.answer_position(0)] @ mlp.w_in + mlp.bias_in)[units]
        argument = argument - layer.token_part(units)[2]
        expected = form.base + form.slope * task.values[inputs[0]]
        assert (np.abs(argument - expected) <= form.radius + 1e-9).all()
    assert form.radius.max() < 1.0


def raised(sharpness: float) -> Construction:
    """A sum's evidence that is a little above 0 at a sum without a row, whatever the leaks."""
    built = two_layer(sum_and_table(), examples=2, sharpness=sharpness)
    evidence = built.stream["evidence"].start
    units = first_layer(built).writers(np.array([evidence]))
    token = built.stream["token"].start
    mlp = built.weights.layers[0].mlp.w_in.toarray()
    # The gate on the answer is opened a little: wherever a hat is up, another answer counts too.
    changes = {(token + 1, int(unit)): float(mlp[token + 1, unit]) + 2.0**-7 for unit in units}
    return edited(built, {"layers.0.mlp.w_in": changes})


@pytest.mark.parametrize("sharpness", [3.0, 6.0, 12.0])
def test_evidence_that_is_off_without_leaks_is_in_the_bound(sharpness: float) -> None:
    altered = raised(sharpness)
    proof, truth = prove(altered), exhaust(altered).error
    assert truth > 1e-4
    assert proof.real is None or proof.real >= truth


def test_a_value_finer_than_the_grid_costs_slack_and_one_on_it_does_not() -> None:
    built = two_layer(sum_and_table(), examples=2)
    assert first_layer(built).slack == 0
    token = built.stream["token"].start
    value = built.weights.layers[0].attention.value
    head, at = (int(place) for place in np.argwhere(value[:, token, :])[0])
    fine: dict[str, Any] = {"layers.0.attention.value": {(head, token, at): float(value[head, token, at]) + 2.0**-20}}
    finest: dict[str, Any] = {"layers.0.attention.value": {(head, token, at): 2.0**-100}}
    assert first_layer(edited(built, fine)).slack == 0
    assert first_layer(edited(built, finest)).slack > 0


def test_every_bound_of_altered_sums_is_above_the_truth() -> None:
    """Entries of units of sums moved to what another sum reads, at a sharpness where leaks count."""
    built = two_layer(replace(two_sums(), inputs=3), examples=1, sharpness=4.0)
    generator = np.random.default_rng(3)
    w_in = built.weights.layers[0].mlp.w_in
    scalars = [space.start for name, space in built.stream.items() if name.startswith("sum[") and space.size == 1]
    bounded = 0
    for _ in range(40):
        unit = int(generator.integers(w_in.shape[1]))
        value = float(generator.choice([2.0**-5, -(2.0**-5), 0.25, -0.25, 1.0]))
        altered = edited(built, {"layers.0.mlp.w_in": {(int(generator.choice(scalars)), unit): value}})
        proof = prove(altered)
        if proof.real is not None:
            bounded += 1
            assert proof.real >= exhaust(altered).error - 1e-13
    assert bounded > 10


@pytest.mark.parametrize("sharpness", [1.0, 12.0])
def test_no_argument_is_above_what_the_layer_says_of_its_role(sharpness: float) -> None:
    built = two_layer(two_sums(), examples=2, sharpness=sharpness)
    layer, mlp = first_layer(built), built.weights.layers[0].mlp
    units = np.arange(mlp.w_in.shape[1])
    upper = {role: layer.upper(role, units) for role in ("bos", "x", "eq", "y")}
    role_of = {at: role for role in upper for at in layer.roles.positions(role).tolist()}
    sampler, generator = PromptSampler(built.task_set), np.random.default_rng(2)
    highest = dict.fromkeys(upper, -np.inf)
    for _ in range(12):
        state = forward(built.weights, built.layout.ids(sampler.prompt(2, generator))).after_attention[0]
        arguments = state @ mlp.w_in + mlp.bias_in
        for at, row in enumerate(arguments):
            assert (row <= upper[role_of[at]] + 1e-9).all()
            highest[role_of[at]] = max(highest[role_of[at]], float(row.max()))
    assert highest["y"] > 0


def test_what_a_read_head_writes_to_the_output_is_in_the_bound() -> None:
    built = two_layer(sum_and_table(), examples=1)
    token = built.stream["token"].start
    output = built.weights.layers[0].attention.output
    head, column = (int(place) for place in np.argwhere(output.any(axis=2))[0])
    altered = edited(built, {"layers.0.attention.output": {(head, column, token): 2.0**-6}})
    proof, truth = prove(altered), exhaust(altered).error
    assert truth > 2.0**-8
    assert proof.real is None or proof.real >= truth


def test_units_that_need_more_than_24_bits_are_not_said_to_be_exact() -> None:
    built = two_layer(sum_and_table(), examples=3)  # weights of at least 1/6: 3 bits below 1
    for bits, most in ((8, 2.0**13 - 1), (11, 2.0**10 - 1)):
        assert _exact_units(built, bits, [0.0, most])
        assert not _exact_units(built, bits, [0.0, 2 * most + 2])


def test_a_check_that_breaks_off_is_a_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(two_layer(sum_and_table(), examples=1), tmp_path / "made")
    certificate = write_certificate(judge_folder(tmp_path / "made"), tmp_path / "made")
    assert checker.main([str(certificate), str(tmp_path / "made")]) == 0
    (tmp_path / "made" / "construction.json").write_text("{}")
    capsys.readouterr()
    assert checker.main([str(certificate), str(tmp_path / "made")]) == 1
    assert "the check broke off" in capsys.readouterr().out


def test_a_claim_that_is_the_bound_itself_is_verified(tmp_path: Path) -> None:
    save(two_layer(sum_and_table(), examples=1), tmp_path / "made")
    bound = judge_folder(tmp_path / "made").proof.real
    verdict = judge_folder(tmp_path / "made", bound)
    assert verdict.certified
    assert checker.main([str(write_certificate(verdict, tmp_path / "made")), str(tmp_path / "made")]) == 0


def test_the_checker_counts_sums_over_the_same_inputs_with_other_values_apart(tmp_path: Path) -> None:
    """One example can be consistent with both: as many tasks together as the prover counts."""
    up = SumTask("up", (0, 1), {0: 0, 1: 1, 2: 2}, {1: 0, 3: 2})
    down = SumTask("down", (0, 1), {0: 4, 1: 2, 2: 1}, {6: 0, 2: 1})  # up of (a, b) is 1, down is 6
    save(two_layer(TaskSet("sums", ("a", "b", "c"), 2, Format(), (up, down)), examples=3), tmp_path / "made")
    verdict = judge_folder(tmp_path / "made")
    together = next(lemma.figures["together"] for lemma in verdict.proof.lemmas if "together" in lemma.figures)
    assert together == 2
    assert checker.main([str(write_certificate(verdict, tmp_path / "made")), str(tmp_path / "made")]) == 0
