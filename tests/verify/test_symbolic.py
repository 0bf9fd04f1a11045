"""The symbolic forward pass against the oracle, and against a forward pass in 60 digits written here."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import sympy  # type: ignore[import-untyped]
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from construct.errors import InputError, PromptError
from construct.oracle import answer
from construct.prompts import Example, Prompt
from construct.sampling import PromptSampler
from construct.sparse import Sparse
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, Task, TaskSet
from construct.theorems import Construction, two_layer
from construct.transformer import TransformerWeights, forward
from verify.ordered_field import SymbolicError
from verify.symbolic import execute
from verify.symbolic_answer import SymbolicAnswer

DIGITS = 60
AGREES = mpmath.mpf(10) ** -40
"""Sums of less than 10^5 terms below 10^4 in 60 digits are off by less than 10^-50."""


@st.composite
def task_sets(draw: DrawFn) -> TaskSet:
    """1 to 3 tasks, tables of one or two reads and sums, total and partial, over 1 to 5 tokens."""
    size, inputs = draw(st.sampled_from([1, 2, 3, 5])), draw(st.integers(1, 3))
    tokens = st.integers(0, size - 1)
    tasks: list[Task] = []
    for number in range(draw(st.integers(1, 3))):
        places = tuple(draw(st.permutations(range(inputs)))[: draw(st.integers(1, min(2, inputs)))])
        if draw(st.booleans()):
            keys = st.tuples(*[tokens] * len(places))
            tasks.append(TableTask(f"task {number}", places, draw(st.dictionaries(keys, tokens, min_size=1))))
        else:
            values = draw(st.dictionaries(tokens, st.integers(-3, 4), min_size=1))
            rows = draw(st.dictionaries(st.integers(-4, 6), tokens, min_size=1))
            tasks.append(SumTask(f"task {number}", places, values, rows))
    return TaskSet("drawn", tuple("abcde"[:size]), inputs, Format(), tuple(tasks))


@st.composite
def cases(draw: DrawFn) -> tuple[Construction, Prompt]:
    """A construction for at most 3 examples, and a prompt: examples of a task, or with any answer."""
    task_set, most = draw(task_sets()), draw(st.integers(1, 3))
    inputs = st.tuples(*[st.integers(0, len(task_set.alphabet) - 1)] * task_set.inputs)
    examples = []
    for _ in range(draw(st.integers(0, most))):
        drawn = draw(inputs)
        known = [out for task in task_set.tasks if (out := task.answer(drawn)) is not None]
        examples.append(
            Example(drawn, draw(st.sampled_from(known or [0]) | st.integers(0, len(task_set.alphabet) - 1)))
        )
    return two_layer(task_set, examples=most), Prompt(tuple(examples), draw(inputs))


def number(value: float | Fraction) -> Any:
    exact = Fraction(value)
    return mpmath.mpf(exact.numerator) / exact.denominator


def numbers(array: Any) -> Any:
    dense = array if isinstance(array, np.ndarray) else array.toarray()
    result = np.empty(dense.shape, dtype=np.object_)
    for place in np.ndindex(dense.shape):
        result[place] = mpmath.mpf(float(dense[place]))
    return result


def high_precision(weights: TransformerWeights, ids: list[int], factor: Any) -> list[Any]:
    """The output at the last position in mpmath, with the scores times `factor`."""
    stream = numbers((weights.token_embedding[ids] + weights.position_embedding[: len(ids)]).toarray())
    exp = np.frompyfunc(mpmath.exp, 1, 1)
    for layer in weights.layers:
        written = 0
        for query, key, value, output in zip(*map(numbers, vars(layer.attention).values()), strict=True):
            scores = factor * ((stream @ query) @ (stream @ key).T)
            for place in range(len(ids)):
                scores[place, place + 1 :] = -mpmath.inf
            pattern = exp(scores - scores.max(axis=1, keepdims=True))
            pattern = pattern / pattern.sum(axis=1, keepdims=True)
            written = written + pattern @ ((stream @ value) @ output)
        stream = stream + written
        w_in, w_out = layer.mlp.w_in.tocoo(), layer.mlp.w_out.tocoo()
        hidden = np.tile(numbers(layer.mlp.bias_in), (len(ids), 1))
        for row, column, weight in zip(w_in.row, w_in.col, w_in.data, strict=True):
            hidden[:, column] += stream[:, row] * mpmath.mpf(float(weight))
        hidden = np.maximum(hidden, mpmath.mpf(0))
        stream = stream + numbers(layer.mlp.bias_out)
        for row, column, weight in zip(w_out.row, w_out.col, w_out.data, strict=True):
            stream[:, column] += hidden[:, row] * mpmath.mpf(float(weight))
    return list(stream[-1] @ numbers(weights.unembedding))


def distance(construction: Construction, prompt: Prompt, found: SymbolicAnswer, sharpness: Fraction) -> Any:
    """Between the formula and the forward pass, at a sharpness."""
    with mpmath.workdps(DIGITS):
        factor = number(sharpness) / number(construction.sharpness)
        expected = high_precision(construction.weights, construction.layout.ids(prompt), factor)
        return max(abs(left - right) for left, right in zip(found.at(sharpness, digits=DIGITS), expected, strict=True))


def retrieval() -> tuple[Construction, Prompt]:
    """Two tasks, three examples: of both tasks, of one, of none."""
    task_set = build_suite("retrieval", tasks=2, alphabet_size=5, inputs=3)
    examples = (Example((4, 4, 1), 4), Example((2, 3, 0), 3), Example((1, 0, 2), 2))
    return two_layer(task_set, examples=3), Prompt(examples, (3, 1, 4))


def with_dense(matrix: Sparse, place: tuple[int, ...], value: float) -> Sparse:
    changed = matrix.tolil()
    changed[place] = value
    return changed.tocsr()


def always(value: float) -> Callable[[float], float]:
    return lambda _: value


def altered(
    construction: Construction, name: str, place: tuple[int, ...], change: Callable[[float], float]
) -> Construction:
    """The construction with one weight changed, named as in the artifact."""

    def new(tensor: Any) -> Any:
        value = np.float32(change(float(tensor[place])))
        if not isinstance(tensor, np.ndarray):
            return with_dense(tensor, place, float(value))
        copy = tensor.copy()
        copy[place] = value
        return copy

    weights, parts = construction.weights, name.split(".")
    if parts[0] == "layers":
        layers = list(weights.layers)
        layer = layers[int(parts[1])]
        block = getattr(layer, parts[2])
        block = replace(block, **{parts[3]: new(getattr(block, parts[3]))})
        layers[int(parts[1])] = replace(layer, **{parts[2]: block})
        return replace(construction, weights=replace(weights, layers=tuple(layers)))
    field = {"embedding.token": "token_embedding", "embedding.position": "position_embedding"}.get(name, name)
    return replace(construction, weights=replace(weights, **{field: new(getattr(weights, field))}))


@given(cases())
def test_at_z_0_the_answer_is_the_oracles_exactly(case: tuple[Construction, Prompt]) -> None:
    construction, prompt = case
    found = execute(construction, prompt)
    expected = answer(construction.task_set, prompt).target
    assert found.exact
    assert {token: value for token, value in enumerate(found.limit) if value} == expected
    assert found.error_order is None or found.error_order >= 1
    assert (found.error_order is None) == (found.error_coefficient == 0)


@given(cases())
@settings(max_examples=12)
def test_from_lambda_0_on_the_formula_is_the_forward_pass_in_60_digits(case: tuple[Construction, Prompt]) -> None:
    construction, prompt = case
    found = execute(construction, prompt)
    least = max(found.least_sharpness, Fraction(1, 64))
    for sharpness in (least, least + Fraction(1, 3), least + 2, Fraction(construction.sharpness)):
        if sharpness >= found.least_sharpness:
            assert distance(construction, prompt, found, sharpness) < AGREES


def test_lambda_0_is_a_bound_on_a_grid_above_it_and_no_looser_than_it_must_be() -> None:
    construction, prompt = retrieval()
    found = execute(construction, prompt)
    least = found.least_sharpness
    assert least > 1
    for step in range(12):
        assert distance(construction, prompt, found, least + Fraction(step * step, 16)) < AGREES
    assert distance(construction, prompt, found, least - Fraction(1, 10**4)) > mpmath.mpf(10) ** -12
    assert found.threshold.where is not None
    assert found.threshold.where.startswith("layer 2, position ")


@given(cases())
def test_the_error_is_within_the_builders_bound_and_near_its_leading_term(case: tuple[Construction, Prompt]) -> None:
    construction, prompt = case
    found = execute(construction, prompt)
    assert construction.error_bound is not None
    assert found.holds
    assert found.error <= construction.error_bound
    if found.error_order is not None:
        # At z below 10^-20 the next term is smaller by a factor of at most 10^6 z.
        sharpness = 50
        with mpmath.workdps(300):
            term = number(found.error_coefficient) * mpmath.exp(-sharpness * number(found.error_order))
            ratio = found.error_at(sharpness, digits=250) / term
        assert abs(ratio - 1) < 1e-12


def test_a_small_answer_is_known_in_closed_form() -> None:
    # One token, one task: no bit is read, and only the average leaks. One example: y, of weight 1, beside BOS, of
    # z^8, and x, EQ, x, EQ, of z^4 each.
    task_set = TaskSet("one", ("a",), 1, Format(), (TableTask("same", (0,), {(0,): 0}),))
    found = execute(two_layer(task_set, examples=1), Prompt((Example((0,), 0),), (0,)))
    z = sympy.Symbol("z", positive=True)
    assert sympy.simplify(found.expression(0) - 1 / (1 + 4 * z**4 + z**8)) == 0
    assert (found.error_order, found.error_coefficient) == (Fraction(4), Fraction(4))
    assert found.limit == (Fraction(1),)


def test_the_expression_is_the_function_in_lowest_terms() -> None:
    construction, prompt = retrieval()
    found = execute(construction, prompt)
    sharpness = found.least_sharpness + 1
    z = sympy.Symbol("z", positive=True)
    for token, value in enumerate(found.at(sharpness)):
        expression = found.expression(token)
        assert expression.subs(z, 0) == sympy.Rational(*found.target[token].as_integer_ratio())
        point = sympy.exp(-sympy.Rational(*sharpness.as_integer_ratio()))
        assert abs(sympy.N(expression.subs(z, point), 50) - sympy.Float(value, 50)) < 1e-45


def test_values_at_the_constructions_sharpness_are_those_of_the_float64_pass() -> None:
    construction, prompt = retrieval()
    found = execute(construction, prompt)
    expected = forward(construction.weights, construction.layout.ids(prompt)).output[-1]
    # float64 with sums of less than 10^3 terms below 10.
    assert np.abs(np.array(found.values) - expected).max() < 1e4 * 2.0**-53
    assert found.error == pytest.approx(sum(abs(v - float(q)) for v, q in zip(found.values, found.target, strict=True)))


def test_without_examples_the_answer_is_0_for_every_z() -> None:
    construction, prompt = retrieval()
    found = execute(construction, Prompt((), prompt.query))
    assert found.exact
    assert found.error_order is None
    assert found.error == 0


def test_a_construction_below_its_lambda_0_is_said_not_to_hold() -> None:
    construction, prompt = retrieval()
    low = two_layer(construction.task_set, examples=3, sharpness=1.0)
    found = execute(low, prompt)
    assert found.exact
    assert not found.holds
    assert found.least_sharpness == execute(construction, prompt).least_sharpness


def test_a_suite_of_tables_and_sums_is_exact_and_its_progress_is_told() -> None:
    task_set = build_suite("copy_add")
    construction = two_layer(task_set, examples=3)
    prompt = PromptSampler(task_set).prompt(3, np.random.default_rng(5))
    told: list[float] = []
    found = execute(construction, prompt, progress=told.append)
    assert found.exact
    assert told == sorted(told)
    assert told[-1] == 1


def unit(construction: Construction, name: str, inputs: int) -> int:
    """The unit of a table that reads token `inputs`."""
    circuit = next(circuit for circuit in construction.circuits if circuit.name == name)
    before = [other.units for other in construction.circuits if other.layer == circuit.layer and other.kind == "mlp"]
    names = [other.name for other in construction.circuits if other.layer == circuit.layer and other.kind == "mlp"]
    return sum(before[: names.index(name)]) + inputs


ALTERED: dict[str, tuple[str, Callable[[Construction], tuple[int, ...]], Callable[[float], float]]] = {
    "an answer's bias": ("layers.1.mlp.bias_in", lambda c: (unit(c, "answer[ret_1]", 3),), lambda v: v + 2**-10),
    "an evidence's weight": (
        "layers.0.mlp.w_out",
        lambda c: (unit(c, "evidence[ret_1]", 4), c.stream["evidence"].start),
        lambda v: -v,
    ),
    "an answer's token": (
        "layers.1.mlp.w_out",
        lambda c: (unit(c, "answer[ret_2]", 1), c.stream["token"].start + 1),
        always(0.0),
    ),
    "a read's value": ("layers.0.attention.value", lambda c: (0, c.stream["token"].start + 4, 2), lambda v: -v),
    "a read's key": ("layers.0.attention.key", lambda c: (1, c.stream["input_index"].start, 2), lambda v: -v),
    "a read's query": ("layers.0.attention.query", lambda c: (0, c.stream["role_y"].start, 2), lambda v: -v),
    "the average's value": ("layers.1.attention.value", lambda c: (0, c.stream["evidence"].start, 0), lambda v: 2 * v),
    "a position's role": ("embedding.position", lambda c: (10, c.stream["role_y"].start), always(0.0)),
    "an output": ("unembedding", lambda c: (c.stream["token"].start + 1, 3), always(1e-3)),
    "an output bias": ("layers.0.mlp.bias_out", lambda c: (c.stream["token"].start,), always(1e-3)),
}


@pytest.mark.parametrize("what", ALTERED)
def test_one_altered_weight_is_seen_as_not_exact(what: str) -> None:
    construction, prompt = retrieval()
    name, place, change = ALTERED[what]
    changed = altered(construction, name, place(construction), change)
    found = execute(changed, prompt)
    assert not found.exact
    assert found.error_order == 0
    assert found.error_coefficient == sum(abs(a - b) for a, b in zip(found.limit, found.target, strict=True))
    assert distance(changed, prompt, found, found.least_sharpness + 1) < AGREES


@st.composite
def mutants(draw: DrawFn) -> Construction:
    """The small retrieval with one weight changed, anywhere."""
    construction, _ = retrieval()
    name, tensor = draw(st.sampled_from(list(construction.weights.tensors())))
    where = np.argwhere(tensor if isinstance(tensor, np.ndarray) else tensor.toarray())
    anywhere = st.tuples(*(st.integers(0, size - 1) for size in tensor.shape))
    known = st.sampled_from([tuple(map(int, place)) for place in where]) if len(where) else anywhere
    changes: list[Callable[[float], float]] = [
        lambda v: -v,
        lambda v: v + 1,
        lambda v: v / 2,
        lambda v: v + 0.25,
        lambda v: v + 1e-3,
        always(0.0),
    ]
    return altered(construction, name, draw(known | anywhere), draw(st.sampled_from(changes)))


@given(mutants())
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_weights_are_the_formula_is_what_they_compute(mutant: Construction) -> None:
    _, prompt = retrieval()
    try:
        found = execute(mutant, prompt)
    except SymbolicError as error:
        # Only altered scores may be refused.
        event(f"refused: {str(error).split(': ')[1][:20]}")
        return
    event("executed")
    sharpness = max(found.least_sharpness, Fraction(1, 8)) + Fraction(1, 2)
    assert distance(mutant, prompt, found, sharpness) < AGREES


@pytest.mark.parametrize("order", [(0, 1, 1), (0, 0, 1), (1, 0, 1, 1)])
def test_deeper_transformers_of_the_same_layers_are_executed_exactly(order: tuple[int, ...]) -> None:
    construction, prompt = retrieval()
    layers = construction.weights.layers
    deeper = replace(construction.weights, layers=tuple(layers[number] for number in order))
    deep = replace(construction, weights=deeper)
    found = execute(deep, prompt)
    for step in (0, 1, 3):
        assert distance(deep, prompt, found, found.least_sharpness + step) < AGREES


@pytest.mark.parametrize("part", ["query", "key"])
def test_a_coordinate_that_only_a_score_reads_is_kept(part: str) -> None:
    construction, prompt = retrieval()
    bit = construction.stream["example_index"].start
    value = construction.sharpness if part == "query" else 1.0
    changed = altered(construction, f"layers.1.attention.{part}", (0, bit, 0), always(value))
    found = execute(changed, prompt)
    assert distance(changed, prompt, found, found.least_sharpness + 1) < AGREES
    assert found.expression(3) != execute(construction, prompt).expression(3)


def test_scores_on_thirds_of_the_sharpness_are_executed_in_third_steps() -> None:
    _, prompt = retrieval()
    task_set = build_suite("retrieval", tasks=2, alphabet_size=5, inputs=3)
    construction = two_layer(task_set, examples=3, sharpness=12.0)
    role = construction.stream["role_y"].start
    changed = altered(construction, "layers.0.attention.query", (0, role, 2), always(-4.0))
    found = execute(changed, prompt)
    assert found.threshold.steps == 3
    assert distance(changed, prompt, found, found.least_sharpness + 1) < AGREES


def test_scores_on_halves_of_the_sharpness_are_executed_in_half_steps() -> None:
    construction, prompt = retrieval()
    role = construction.stream["role_y"].start
    changed = altered(construction, "layers.0.attention.query", (0, role, 2), lambda v: v / 2)
    found = execute(changed, prompt)
    assert found.threshold.steps == 2
    assert distance(changed, prompt, found, found.least_sharpness + 1) < AGREES


def test_scores_off_every_small_grid_are_refused() -> None:
    construction, prompt = retrieval()
    role = construction.stream["role_y"].start
    changed = altered(construction, "layers.0.attention.query", (0, role, 2), lambda v: v * 1.001)
    with pytest.raises(SymbolicError, match=r"layer 1, head 0: scores .* no small common denominator") as caught:
        execute(changed, prompt)
    assert isinstance(caught.value, InputError)


def test_scores_far_apart_are_refused() -> None:
    construction, prompt = retrieval()
    role = construction.stream["role_y"].start
    changed = altered(construction, "layers.0.attention.query", (0, role, 2), lambda v: v * 1e6)
    with pytest.raises(SymbolicError, match="differ by"):
        execute(changed, prompt)


def test_scores_that_depend_on_z_are_refused() -> None:
    construction, prompt = retrieval()
    read = construction.stream["read[0]"].start
    changed = altered(construction, "layers.1.attention.key", (0, read, 0), always(1.0))
    with pytest.raises(SymbolicError, match="which depends on z"):
        execute(changed, prompt)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    construction, prompt = retrieval()
    changed = altered(construction, "layers.1.mlp.bias_in", (0,), always(value))
    with pytest.raises(SymbolicError, match="finite"):
        execute(changed, prompt)


def test_too_many_examples_are_refused() -> None:
    construction, prompt = retrieval()
    with pytest.raises(PromptError, match="at most 3"):
        execute(construction, Prompt((*prompt.examples, prompt.examples[0]), prompt.query))


def test_retrieval_of_eight_tasks_takes_seconds() -> None:
    task_set = build_suite("retrieval", tasks=8, alphabet_size=32, inputs=8)
    construction = two_layer(task_set, examples=16)
    prompt = PromptSampler(task_set).prompt(16, np.random.default_rng(0))
    found = execute(construction, prompt)
    assert found.exact
    assert found.holds
    assert found.error_order == 2
    assert construction.error_bound is not None
    assert 0 < found.error <= construction.error_bound
