"""Weights that hold the tasks in another order: what they compute is the same, and is proved to be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from construct.artifact import save
from construct.residual_stream import Array
from construct.suites import build_suite
from construct.tasks import TableTask, TaskSet
from construct.theorems import Construction, two_layer
from verify.certify import judge_folder, write_certificate
from verify.check import certificate as checker
from verify.exhaustive import exhaust
from verify.slots import reordered
from verify.theorem import prove


def with_outputs(construction: Construction, order: list[int]) -> Construction:
    """Read head i writes what head order[i] wrote."""
    weights = construction.weights
    layer = weights.layers[0]
    output: Array = layer.attention.output[order]
    first = replace(layer, attention=replace(layer.attention, output=output))
    return replace(construction, weights=replace(weights, layers=(first, weights.layers[1])))


def retrieval(tasks: int = 3, alphabet_size: int = 4, examples: int = 2) -> Construction:
    return two_layer(
        build_suite("retrieval", tasks=tasks, alphabet_size=alphabet_size, inputs=tasks), examples=examples
    )


@pytest.mark.parametrize("order", [[1, 0, 2], [1, 2, 0], [2, 1, 0]])
def test_reads_that_change_places_with_their_tasks_are_proved_at_the_same_bound(order: list[int]) -> None:
    construction = retrieval()
    found, built = prove(with_outputs(construction, order)), prove(construction)
    assert found.violations == ()
    assert found.real == pytest.approx(built.real, rel=1e-9)
    assert found.rounded == pytest.approx(built.rounded, rel=1e-9)


def test_the_bound_holds_for_every_prompt() -> None:
    altered = with_outputs(retrieval(2, 3, 2), [1, 0])
    proved = prove(altered).real
    assert proved is not None
    assert exhaust(altered).error <= proved


def test_the_order_is_that_of_the_weights() -> None:
    found = reordered(with_outputs(retrieval(), [1, 2, 0]))
    assert found is not None
    assert [task.name for task in found.task_set.tasks] == ["ret_3", "ret_1", "ret_2"]


def test_weights_as_built_have_no_other_order() -> None:
    assert reordered(retrieval()) is None


def test_reads_that_change_places_without_their_tasks_are_refused() -> None:
    construction = retrieval(2, 3, 2)
    first, second = construction.task_set.tasks
    assert isinstance(second, TableTask)
    other = replace(second, rows={(0,): 1, (1,): 2, (2,): 0})
    tasks: TaskSet = replace(construction.task_set, tasks=(first, other))
    built = two_layer(tasks, examples=2)
    assert prove(built).violations == ()
    altered = with_outputs(built, [1, 0])
    assert reordered(altered) is None
    assert prove(altered).violations
    assert exhaust(altered).error > 0.1


def test_numbers_that_are_none_give_no_order() -> None:
    construction = retrieval()
    layer = construction.weights.layers[0]
    bias = layer.mlp.bias_out.copy()
    bias[construction.stream["evidence"].start] = np.inf
    first = replace(layer, mlp=replace(layer.mlp, bias_out=bias))
    weights = replace(construction.weights, layers=(first, construction.weights.layers[1]))
    assert reordered(replace(construction, weights=weights)) is None


def test_the_independent_checker_knows_no_other_order_and_refuses_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(with_outputs(retrieval(), [1, 0, 2]), tmp_path / "altered")
    verdict = judge_folder(tmp_path / "altered")
    assert verdict.certified
    path = write_certificate(verdict, tmp_path / "altered")
    assert checker.main([str(path), str(tmp_path / "altered")]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("REFUSED")
