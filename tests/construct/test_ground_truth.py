"""The answer key against the weights: patterns, ablations and patches come out as it predicts, and no other way."""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from construct.constructions import KINDS
from construct.errors import InputError, TaskError
from construct.ground_truth import answer_as_if, expected_pattern, ground_truth, role_of
from construct.oracle import answer
from construct.prompts import Example, Prompt
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction
from construct.transformer import LayerWeights, TransformerWeights, forward, forward_from
from tests.construct.comparison import Floats
from tests.construct.strategies import Case, cases, task_sets

theorems = st.sampled_from(sorted(KINDS))


def made(case: Case, theorem: str) -> Construction:
    try:
        return KINDS[theorem].build(case.task_set, examples=case.examples)
    except TaskError:
        reject()


@st.composite
def sums_among(draw: DrawFn) -> TaskSet:
    """Task sets in which at least one task is a sum."""
    task_set = draw(task_sets())
    assume(any(isinstance(task, SumTask) for task in task_set.tasks))
    return task_set


def without_head(weights: TransformerWeights, layer: int, head: int) -> TransformerWeights:
    attention = weights.layers[layer].attention
    output = attention.output.copy()
    output[head] = 0
    return with_layer(weights, layer, replace(weights.layers[layer], attention=replace(attention, output=output)))


def without_units(weights: TransformerWeights, places: Iterable[dict[str, Any]]) -> TransformerWeights:
    for place in places:
        mlp = weights.layers[place["layer"]].mlp
        first, last = place["units"]
        kept = mlp.w_out.copy()
        kept.data[kept.indptr[first] : kept.indptr[last]] = 0
        layer = replace(weights.layers[place["layer"]], mlp=replace(mlp, w_out=kept))
        weights = with_layer(weights, place["layer"], layer)
    return weights


def with_layer(weights: TransformerWeights, place: int, layer: LayerWeights) -> TransformerWeights:
    return replace(weights, layers=(*weights.layers[:place], layer, *weights.layers[place + 1 :]))


def target(construction: Construction, prompt: Prompt, removed: Iterable[str]) -> Floats:
    """The oracle's q, with tasks taken out."""
    gone, found = set(removed), np.zeros(construction.layout.alphabet_size)
    shares = answer(construction.task_set, prompt).evidence
    for task, share in zip(construction.task_set.tasks, shares, strict=True):
        token = task.answer(prompt.query)
        if task.name not in gone and token is not None:
            found[token] += float(share)
    return found


def output(construction: Construction, weights: TransformerWeights, prompt: Prompt) -> Floats:
    return forward(weights, construction.layout.ids(prompt)).output[-1]


@settings(max_examples=25)
@given(cases(), theorems)
def test_heads_attend_where_the_key_says(case: Case, theorem: str) -> None:
    construction = made(case, theorem)
    ids = construction.layout.ids(case.prompt)
    trace = forward(construction.weights, ids)
    for head in ground_truth(construction)["heads"]:
        found = trace.patterns[head["layer"]][head["head"]]
        assert np.abs(found - expected_pattern(head, construction.layout, len(ids))).max() < 1e-4, head["name"]


@settings(max_examples=40)
@given(cases(), theorems, st.data())
def test_a_head_set_to_0_removes_the_tasks_that_the_key_names_and_no_other(
    case: Case, theorem: str, data: st.DataObject
) -> None:
    construction = made(case, theorem)
    ablations = ground_truth(construction)["interventions"]["ablate_head"]
    ablation = data.draw(st.sampled_from([part for part in ablations if not part["alters"]] or [None]))
    if ablation is None:
        reject()
    weights = without_head(construction.weights, *ablation["head"])
    found = output(construction, weights, case.prompt)
    assert found == pytest.approx(target(construction, case.prompt, ablation["removes"]), abs=1e-4)


def target_as_if(construction: Construction, prompt: Prompt, ablation: dict[str, Any]) -> Floats:
    """The q of the tasks that an ablation leaves, with the sums that it alters answering as if."""
    found, shown = np.zeros(construction.layout.alphabet_size), len(prompt.examples)
    for task in construction.task_set.tasks:
        if task.name in ablation["removes"]:
            continue
        altered = ablation["as_if"].get(task.name)
        say = task.answer if altered is None else partial(answer_as_if, task, altered)
        explained = sum(say(example.inputs) == example.answer for example in prompt.examples)
        token = say(prompt.query)
        if token is not None and shown:
            found[token] += explained / shown
    return found


@settings(max_examples=60)
@given(cases(sums_among()), theorems)
def test_a_sum_that_misses_a_head_answers_as_the_key_says(case: Case, theorem: str) -> None:
    construction = made(case, theorem)
    for ablation in ground_truth(construction)["interventions"]["ablate_head"]:
        assert set(ablation["as_if"]) == set(ablation["alters"])
        assert not {*ablation["removes"]} & {*ablation["alters"]}
        found = output(construction, without_head(construction.weights, *ablation["head"]), case.prompt)
        assert found == pytest.approx(target_as_if(construction, case.prompt, ablation), abs=1e-4)


@pytest.mark.parametrize("theorem", sorted(KINDS))
def test_a_number_that_is_missing_makes_another_sum(theorem: str) -> None:
    tasks = (
        TableTask("first", (0,), {(0,): 0}),
        TableTask("second", (1,), {(0,): 0}),
        SumTask("sum", (0, 1), {0: 5, 1: 6, 2: 9}, {total: total % 3 for total in range(10, 19)}),
    )
    construction = KINDS[theorem].build(TaskSet("sums", tuple("abc"), 2, Format(), tasks), examples=3)
    read = ground_truth(construction)["interventions"]["ablate_head"][0]
    assert (read["removes"], read["alters"]) == (["first"], ["sum"])
    count = {"two-layer": 7, "seven-layer": 4}[theorem]  # the middle of 5 .. 9, and one less than the least
    assert read["as_if"]["sum"] == {"inputs": [0], "count": count, "totals": [10, 18]}
    assert answer_as_if(tasks[2], read["as_if"]["sum"], (0, 2)) == (count + 9) % 3


@settings(max_examples=25)
@given(cases(), theorems, st.data())
def test_units_set_to_0_remove_their_task_and_no_other(case: Case, theorem: str, data: st.DataObject) -> None:
    construction = made(case, theorem)
    part = data.draw(st.sampled_from(ground_truth(construction)["interventions"]["ablate_units"]))
    found = output(construction, without_units(construction.weights, part["units"]), case.prompt)
    assert found == pytest.approx(target(construction, case.prompt, part["removes"]), abs=1e-4)


@settings(max_examples=25)
@given(cases(), theorems, st.data())
def test_evidence_put_at_the_y_moves_the_mixture_as_predicted(case: Case, theorem: str, data: st.DataObject) -> None:
    construction = made(case, theorem)
    shown = len(case.prompt.examples)
    patch = ground_truth(construction)["interventions"]["patch_evidence"]
    layer = int(patch["hook"].split(".")[1]) + 1
    weights, layout = construction.weights, construction.layout
    put = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 1), min_size=len(patch["coordinates"]),
                                    max_size=len(patch["coordinates"])), min_size=shown, max_size=shown)),
        dtype=float,
    ).reshape(shown, len(patch["coordinates"]))  # fmt: skip
    stream = forward(weights, layout.ids(case.prompt)).after_mlp[layer - 1].copy()
    for example, row in enumerate(put):
        stream[layout.answer_position(example), patch["coordinates"]] = row
    found = forward_from(replace(weights, layers=weights.layers[layer:]), stream).output[-1]
    due = np.zeros(layout.alphabet_size)
    for index, task in enumerate(case.task_set.tasks):
        token = task.answer(case.prompt.query)
        if token is not None and shown:
            due[token] += put[:, index].mean()
    assert found == pytest.approx(due, abs=1e-4)


def retrieval(theorem: str = "two-layer") -> Construction:
    return KINDS[theorem].build(build_suite("retrieval", tasks=3, alphabet_size=7, inputs=4), examples=5)


def test_a_wrong_key_is_noticed() -> None:
    """The checks above can fail: with two heads exchanged the patterns differ, and another task goes."""
    construction = retrieval()
    first, second = (head for head in ground_truth(construction)["heads"] if head["name"] in ("read[0]", "read[1]"))
    length = construction.layout.positions
    exchanged = expected_pattern(first, construction.layout, length)
    assert np.abs(exchanged - expected_pattern(second, construction.layout, length)).max() == 1
    tasks = {task["name"]: task["read_heads"] for task in ground_truth(construction)["tasks"]}
    assert tasks == {"ret_1": [[0, 0]], "ret_2": [[0, 1]], "ret_3": [[0, 2]]}


def test_tasks_that_share_an_input_share_a_head_and_go_together() -> None:
    tasks = tuple(TableTask(name, (0,), {(0,): 1, (1,): 2}) for name in ("one", "other"))
    tasks = (*tasks, TableTask("third", (1,), {(2,): 0}))
    task_set = TaskSet("shared", tuple("abc"), 2, build_suite("plus").format, tasks)
    for theorem in sorted(KINDS):
        found = ground_truth(KINDS[theorem].build(task_set, examples=3))["interventions"]["ablate_head"]
        assert [part["removes"] for part in found] == [["one", "other"], ["third"], ["one", "other", "third"]]


def test_a_task_may_be_named_like_a_sum() -> None:
    tasks = (
        SumTask("s", (0, 1), {0: 0, 1: 1, 2: 2}, {0: 0, 1: 1}),
        TableTask("sum[0]", (1,), {(0,): 1, (1,): 2}),
    )
    construction = KINDS["two-layer"].build(TaskSet("names", tuple("abc"), 2, Format(), tasks), examples=3)
    found = {task["name"]: task for task in ground_truth(construction)["tasks"]}
    assert [unit["name"] for unit in found["s"]["shared_units"]] == ["code[sum[0]]"]
    assert [unit["name"] for unit in found["sum[0]"]["units"]] == ["evidence[sum[0]]", "answer[sum[0]]"]
    assert found["sum[0]"]["read_heads"] == [[0, 0]]


def test_a_head_that_reads_a_code_without_bits_removes_nothing() -> None:
    # The head of the table reads for a sum too, which has a coordinate, and whose only total is that of nothing.
    tasks = (TableTask("table", (0,), {(0,): 0}), SumTask("sum", (0,), {0: 5}, {5: 0}))
    task_set = TaskSet("one", ("a",), 1, Format(), tasks)
    for theorem, removed, altered in (("two-layer", [], ["sum"]), ("seven-layer", ["table", "sum"], [])):
        construction = KINDS[theorem].build(task_set, examples=2)
        read, average = ground_truth(construction)["interventions"]["ablate_head"]
        assert (read["removes"], read["alters"], average["removes"]) == (removed, altered, ["table", "sum"])
        found = output(
            construction,
            without_head(construction.weights, *read["head"]),
            Prompt((Example((0,), 0),), (0,)),
        )
        assert found == pytest.approx([0.0 if removed else 2.0], abs=1e-4)


@pytest.mark.parametrize("theorem", sorted(KINDS))
def test_every_head_and_unit_is_named_once_and_all_is_json(theorem: str) -> None:
    construction = retrieval(theorem)
    key = json.loads(json.dumps(ground_truth(construction)))
    for layer, heads in enumerate(construction.weights.heads):
        assert [head["head"] for head in key["heads"] if head["layer"] == layer] == list(range(heads))
    for layer, width in enumerate(construction.weights.mlp_width):
        units = sorted(tuple(group["units"]) for group in key["units"] if group["layer"] == layer)
        covered = [unit for first, last in units for unit in range(first, last)]
        assert covered == list(range(width))
    spaces = sorted(tuple(space["coordinates"]) for space in key["subspaces"].values())
    assert [c for first, last in spaces for c in range(first, last)] == list(range(construction.weights.d_model))


def test_roles_are_those_of_the_layout() -> None:
    layout = retrieval().layout
    assert role_of(layout, 0) == ("bos", 0)
    for example in range(layout.examples):
        assert role_of(layout, layout.input_position(example, 3)) == ("x", example)
        assert role_of(layout, layout.eq_position(example)) == ("eq", example)
        assert role_of(layout, layout.answer_position(example)) == ("y", example)


def test_another_theorem_is_refused() -> None:
    with pytest.raises(InputError, match="'superposition' is not written down: expected a construction of two-layer"):
        ground_truth(replace(retrieval(), theorem="superposition"))
