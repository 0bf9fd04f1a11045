"""The two-layer theorem: on random tasks and prompts, every answer is within its bound of the oracle's."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.artifact import sizes
from construct.bounds import PRECISIONS, read_leak, real_bound
from construct.errors import InputError, TaskError, TooLargeError
from construct.oracle import curve
from construct.prompts import Prompt
from construct.reads import plan_reads
from construct.residual_stream import code_length
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import Construction, two_layer
from construct.torch_model import TorchTransformer
from construct.transformer import LayerWeights, forward
from tests.construct.comparison import bound_in, eq_positions, exact_answers, excess, plain_answers, torch_answers
from tests.construct.strategies import Case, cases, task_sets

errors_wanted = st.sampled_from([0.3, 1e-2, 1e-4, 1e-6, 1e-9, 1e-13])


# The error at every EQ.


@settings(max_examples=150)
@given(cases(), errors_wanted)
def test_the_plain_pass_is_within_its_bound_of_the_oracle_at_every_eq(case: Case, error: float) -> None:
    construction = two_layer(case.task_set, examples=case.examples, error=error)
    assert excess(construction, case.prompt) <= 1


@settings(max_examples=150)
@given(cases(), st.floats(2.0, 8.0))
def test_at_a_low_sharpness_the_error_is_still_within_the_bound_where_there_is_one(
    case: Case, sharpness: float
) -> None:
    construction = two_layer(case.task_set, examples=case.examples, sharpness=sharpness)
    if construction.error_bound is None:
        return
    distance = plain_answers(construction, case.prompt).distance(exact_answers(construction, case.prompt))
    bound = bound_in(construction, "float64")
    assert bound is not None
    assert construction.error_bound <= bound  # the rest is the rounding of float64
    assert distance <= bound


def test_most_random_tasks_have_a_bound_at_a_low_sharpness() -> None:
    with_bound = []

    @settings(max_examples=100, derandomize=True, database=None)
    @given(task_sets(), st.integers(1, 9), st.floats(2.0, 8.0))
    def count(task_set: TaskSet, examples: int, sharpness: float) -> None:
        with_bound.append(two_layer(task_set, examples=examples, sharpness=sharpness).error_bound is not None)

    count()
    assert 0.5 < sum(with_bound) / len(with_bound) < 1


@given(task_sets(), st.integers(1, 40), errors_wanted)
def test_the_bound_is_at_most_the_error_wanted(task_set: TaskSet, examples: int, error: float) -> None:
    construction = two_layer(task_set, examples=examples, error=error)
    assert construction.error_bound is not None
    assert construction.error_bound <= error


@given(task_sets(), st.integers(1, 40))
def test_a_higher_sharpness_never_has_a_larger_bound(task_set: TaskSet, examples: int) -> None:
    bounds = [two_layer(task_set, examples=examples, sharpness=sharpness).error_bound for sharpness in (3, 5, 8, 13)]
    numbers = [float("inf") if bound is None else bound for bound in bounds]
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=60)
@given(case=cases())
def test_the_torch_module_is_within_the_bound_of_its_format(precision: str, dense: bool, case: Case) -> None:
    construction = two_layer(case.task_set, examples=case.examples)
    bound = bound_in(construction, precision)
    if bound is None:
        assert precision in ("float16", "bfloat16"), "the wide formats always have a bound here"
        return
    model = TorchTransformer(construction.weights, dtype=precision, dense=dense)
    answers = torch_answers(construction, case.prompt, model)
    assert answers.distance(exact_answers(construction, case.prompt)) <= bound


@pytest.mark.parametrize(("precision", "least"), [("float16", 0.9), ("bfloat16", 0.8)])
def test_most_random_tasks_have_a_bound_in_a_narrow_format(precision: str, least: float) -> None:
    with_bound = []

    @settings(max_examples=100, derandomize=True, database=None)
    @given(cases())
    def count(case: Case) -> None:
        construction = two_layer(case.task_set, examples=case.examples)
        with_bound.append(bound_in(construction, precision) is not None)

    count()
    assert least <= sum(with_bound) / len(with_bound) < 1  # integers above 256 are not exact in bfloat16


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@settings(max_examples=60)
@given(case=cases())
def test_torch_in_float64_computes_the_residual_stream_of_the_plain_pass(dense: bool, case: Case) -> None:
    construction = two_layer(case.task_set, examples=case.examples)
    ids = construction.layout.ids(case.prompt)
    plain = forward(construction.weights, ids)
    fast = TorchTransformer(construction.weights, dtype="float64", dense=dense)(torch.tensor([ids]))
    # Both round in float64: at most some hundred terms of at most 1200 each (the widest sum), 2^-53 a term.
    assert np.abs(fast.stream[0].numpy() - plain.after_mlp[-1]).max() <= 1e-9
    assert np.abs(fast.answer[0].numpy() - plain.output).max() <= 1e-9


# Causality, order and names.


@given(cases(least=1), st.data())
def test_a_later_token_changes_no_earlier_output(case: Case, data: st.DataObject) -> None:
    construction = two_layer(case.task_set, examples=case.examples)
    ids = construction.layout.ids(case.prompt)
    changed = data.draw(st.integers(1, len(ids) - 1), label="position")
    other = [*ids]
    other[changed] = data.draw(st.integers(0, construction.layout.vocabulary_size - 1), label="token")
    before, after = forward(construction.weights, ids), forward(construction.weights, other)
    assert np.array_equal(before.output[:changed], after.output[:changed])
    assert np.array_equal(before.after_mlp[-1][:changed], after.after_mlp[-1][:changed])


@given(cases(least=2), st.randoms(use_true_random=False))
def test_the_order_of_the_examples_changes_nothing_beyond_twice_the_bound(case: Case, random: Random) -> None:
    construction = two_layer(case.task_set, examples=case.examples)
    order = list(case.prompt.examples)
    random.shuffle(order)
    shuffled = replace(case.prompt, examples=tuple(order))
    bound = bound_in(construction, "float64")
    assert bound is not None
    before, after = plain_answers(construction, case.prompt), plain_answers(construction, shuffled)
    assert np.abs(before.output[-1] - after.output[-1]).sum() <= 2 * bound
    assert np.abs(before.evidence[-1] - after.evidence[-1]).sum() <= 2 * bound


@given(cases())
def test_names_of_tasks_change_no_weight(case: Case) -> None:
    named = replace(case.task_set, tasks=tuple(replace(task, name=f"new {task.name}") for task in case.task_set.tasks))
    before = two_layer(case.task_set, examples=case.examples)
    after = two_layer(named, examples=case.examples)
    for (name, old), (_, new) in zip(before.weights.tensors(), after.weights.tensors(), strict=True):
        dense = (part if isinstance(part, np.ndarray) else part.toarray() for part in (old, new))
        assert np.array_equal(*dense), name


@given(cases(), st.data())
def test_the_order_of_the_tasks_is_the_order_of_the_evidence(case: Case, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(case.task_set.tasks))))
    reordered = replace(case.task_set, tasks=tuple(case.task_set.tasks[index] for index in order))
    before = plain_answers(two_layer(case.task_set, examples=case.examples), case.prompt)
    construction = two_layer(reordered, examples=case.examples)
    after = plain_answers(construction, case.prompt)
    # The same numbers, added up in another order: the rounding of float64 alone may differ.
    real, rounded = construction.error_bound, bound_in(construction, "float64")
    assert real is not None
    assert rounded is not None
    rounding = 2 * (rounded - real)
    assert np.abs(after.evidence - before.evidence[:, order]).sum(axis=1).max() <= rounding
    assert np.abs(after.output - before.output).sum(axis=1).max() <= rounding


@st.composite
def _several_prompts(draw: st.DrawFn) -> tuple[Case, list[Prompt]]:
    """A case, and prompts of other lengths that fit the same construction."""
    case = draw(cases())
    shown = case.prompt.examples
    kept = draw(st.lists(st.integers(0, len(shown)), min_size=1, max_size=3))
    return case, [case.prompt, *(replace(case.prompt, examples=shown[:count]) for count in kept)]


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=40)
@given(drawn=_several_prompts())
def test_a_batch_with_padding_answers_as_single_prompts_do(precision: str, drawn: tuple[Case, list[Prompt]]) -> None:
    case, prompts = drawn
    construction = two_layer(case.task_set, examples=case.examples)
    bound = bound_in(construction, precision)
    if bound is None:
        return
    model = TorchTransformer(construction.weights, dtype=precision)
    ids = [construction.layout.ids(prompt) for prompt in prompts]
    longest = max(map(len, ids))
    together = model(torch.tensor([row + [0] * (longest - len(row)) for row in ids]))
    for row, prompt in enumerate(prompts):
        at = eq_positions(construction, prompt)
        single = torch_answers(construction, prompt, model)
        batched = together.answer[row, at].double().numpy()
        assert np.abs(batched - exact_answers(construction, prompt).output).sum(axis=1).max() <= bound
        # In real arithmetic they are equal; each is rounded by at most the bound of the format.
        assert np.abs(batched - single.output).sum(axis=1).max() <= 2 * bound


# Sizes.


@given(task_sets(), st.integers(1, 20))
def test_the_width_is_the_sum_of_what_is_kept_and_the_heads_are_the_distinct_reads(
    task_set: TaskSet, examples: int
) -> None:
    construction = two_layer(task_set, examples=examples)
    alphabet_size = len(task_set.alphabet)
    read = {at for task in task_set.tasks if isinstance(task, TableTask) for at in task.reads}
    sums = {
        (frozenset(task.positions), tuple(sorted(task.values.items()))): task
        for task in task_set.tasks
        if isinstance(task, SumTask)
    }
    sets = {positions for positions, _ in sums if not positions <= read}
    width = alphabet_size + 4 + (examples).bit_length() + (task_set.inputs - 1).bit_length()
    width += len(read) * (alphabet_size - 1).bit_length() + len(sets) + len(task_set.tasks)
    for task in sums.values():
        span = len(task.positions) * (max(task.values.values()) - min(task.values.values())) + 1
        width += 1 + (len(task.values) < alphabet_size) + code_length(span)
    assert construction.weights.d_model == construction.stream.d_model == width
    assert construction.weights.heads == [len(read) + len(sets), 1]
    assert len(construction.weights.layers) == 2


def test_retrieval_has_the_sizes_that_were_promised() -> None:
    construction = two_layer(build_suite("retrieval", tasks=8, alphabet_size=32, inputs=8), examples=16)
    found = sizes(construction)
    assert found["layers"] == 2
    assert found["heads"] == [8, 1]
    assert found["d_model"] == 92 <= 100
    assert found["parameters"] <= 150_000
    assert found["nonzero_parameters"] < 0.1 * found["parameters"]


def test_every_head_and_every_unit_is_described_once() -> None:
    construction = two_layer(build_suite("copy_add"), examples=3)
    for layer in (1, 2):
        heads = [c for c in construction.circuits if (c.layer, c.kind) == (layer, "attention")]
        groups = [c for c in construction.circuits if (c.layer, c.kind) == (layer, "mlp")]
        assert len(heads) == construction.weights.heads[layer - 1]
        assert sum(c.units for c in groups) == construction.weights.mlp_width[layer - 1]
        assert len({c.name for c in heads + groups}) == len(heads) + len(groups)
        assert {space for c in heads + groups for space in c.reads + c.writes} <= set(construction.stream)


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        ({"examples": 0}, TaskError, "examples is 0"),
        ({"examples": -3}, TaskError, "examples is -3"),
        ({"examples": 2, "error": 0.0}, InputError, "error wanted is 0"),
        ({"examples": 2, "error": 0.7}, InputError, "error wanted is 0.7"),
        ({"examples": 2, "error": float("nan")}, InputError, "error wanted is nan"),
        ({"examples": 2, "sharpness": 0.0}, InputError, "sharpness is 0"),
        ({"examples": 2, "sharpness": -1.0}, InputError, "sharpness is -1"),
        ({"examples": 2, "sharpness": float("inf")}, InputError, "sharpness is inf"),
        ({"examples": 10**12}, TooLargeError, "GiB"),
        ({"examples": 10**400}, TooLargeError, "GiB"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, float], expected: type[InputError], words: str) -> None:
    with pytest.raises(expected, match=words):
        two_layer(build_suite("plus", tasks=2, alphabet_size=5), **options)  # type: ignore[arg-type]


# Total variation, at lengths that are no powers of two, which would flatter narrow formats.

LIMITS = {"float64": 2e-6, "float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3}


def _total_variation(construction: Construction, precision: str, prompts: Sequence[Prompt]) -> float:
    model = TorchTransformer(construction.weights, dtype=precision)
    worst = 0.0
    for prompt in prompts:
        at = [construction.layout.eq_position(len(prompt.examples))]
        output = model(torch.tensor([construction.layout.ids(prompt)]), torch.tensor([at])).answer[0, 0].double()
        expected = np.zeros(construction.layout.alphabet_size)
        for token, share in curve(construction.task_set, prompt)[-1].distribution.items():
            expected[token] = float(share)
        worst = max(worst, 0.5 * float(np.abs((output / output.sum()).numpy() - expected).sum()))
    return worst


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("most", [11, 250])
def test_total_variation_is_small_and_does_not_grow_with_the_prompt(most: int, precision: str) -> None:
    task_set = build_suite("retrieval", tasks=8, alphabet_size=32, inputs=8)
    construction = two_layer(task_set, examples=most)
    generator = np.random.default_rng(most)
    lengths = [most, most - 1, *(int(n) for n in generator.integers(2, most, size=10) if n & (n - 1))]
    sampler = PromptSampler(task_set)
    prompts = [sampler.prompt(count, generator) for count in lengths]
    assert _total_variation(construction, precision, prompts) <= LIMITS[precision]


# The comparison rejects what is wrong.


def _mixed() -> TaskSet:
    values = {0: -1, 1: 0, 2: 2, 3: 5}
    tasks = (
        TableTask("first", (0,), {(token,): (token + 1) % 5 for token in range(5)}),
        TableTask("pair", (1, 2), {(a, b): (2 * a + b) % 5 for a in range(4) for b in range(3)}),
        SumTask("outer", (0, 2), values, {total: total % 5 for total in range(-2, 11)}),
        SumTask("ride along", (0, 1), dict(enumerate((1, 0, 2, 3, -1))), {total: total % 3 for total in range(-2, 7)}),
    )
    return TaskSet("mixed", tuple("abcde"), 3, Format(), tasks)


def _prompts(construction: Construction, count: int = 40) -> Iterator[Prompt]:
    generator = np.random.default_rng(7)
    sampler = PromptSampler(construction.task_set)
    for _ in range(count):
        yield sampler.prompt(int(generator.integers(0, construction.layout.examples + 1)), generator)


def _worst(construction: Construction) -> float:
    return max(excess(construction, prompt) for prompt in _prompts(construction))


def _with_layer(construction: Construction, index: int, layer: LayerWeights) -> Construction:
    layers = [*construction.weights.layers]
    layers[index] = layer
    return replace(construction, weights=replace(construction.weights, layers=tuple(layers)))


def test_the_comparison_accepts_what_is_right() -> None:
    assert _worst(two_layer(_mixed(), examples=6)) <= 1


def test_the_comparison_rejects_an_answer_that_moved_in_one_row() -> None:
    construction = two_layer(_mixed(), examples=6)
    layer = construction.weights.layers[1]
    w_out = layer.mlp.w_out.tolil()
    unit = next(c for c in construction.circuits if c.name == "answer[pair]")
    first = sum(c.units for c in construction.circuits if (c.layer, c.kind) == (2, "mlp") and c.name < unit.name)
    row = w_out[first + 5].toarray().ravel()
    assert np.count_nonzero(row) == 1
    w_out[first + 5] = np.roll(row, 1)[None, :]
    moved = _with_layer(construction, 1, replace(layer, mlp=replace(layer.mlp, w_out=w_out.tocsr())))
    assert _worst(moved) > 1


NEGATED = [name for name, _ in two_layer(_mixed(), examples=6).weights.tensors() if not name.endswith("bias_out")]


@pytest.mark.parametrize("name", [*NEGATED, "layers.0.mlp.bias_out"])
def test_the_comparison_rejects_a_weight_that_was_negated(name: str) -> None:
    construction = two_layer(_mixed(), examples=6)
    tensor = dict(construction.weights.tensors())[name]
    entries = tensor.ravel() if isinstance(tensor, np.ndarray) else tensor.data
    places = np.flatnonzero(entries)
    if name == "layers.1.attention.query":
        # What the average writes at other positions than EQ nothing reads: only the weight of EQ is in the claim.
        places = np.array([construction.stream["role_eq"].start])
    # A few weights act only on rare inputs, or not alone; that most are caught is what makes the check worth having.
    chosen = np.random.default_rng(3).choice(places, size=min(10, len(places)), replace=False)
    caught = []
    for at in chosen:
        entries[at] = -entries[at]
        caught.append(_worst(construction) > 1)
        entries[at] = -entries[at]
    assert np.mean(caught) >= 0.7
    assert _worst(construction) <= 1


def test_the_comparison_rejects_a_sharpness_that_is_too_low() -> None:
    right = two_layer(_mixed(), examples=6)
    blunt = two_layer(_mixed(), examples=6, sharpness=0.5)
    assert blunt.error_bound is None
    assert _worst(replace(right, weights=blunt.weights)) > 1


def test_a_claim_of_a_tenth_of_the_leak_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    construction = two_layer(_mixed(), examples=6, sharpness=4.0)
    plan = plan_reads(construction.task_set)
    assert read_leak(plan, construction.layout, 4.0) > 1e-4
    monkeypatch.setattr("construct.bounds.read_leak", _tenth(read_leak))
    assert real_bound(construction.task_set, plan, construction.layout, 4.0) is not None
    assert _worst(construction) > 1


def _tenth(function: Callable[..., float]) -> Callable[..., float]:
    return lambda *args: function(*args) / 10
