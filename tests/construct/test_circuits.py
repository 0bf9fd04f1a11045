"""Each circuit's lemma by itself: the leak of a head, what units write, the codes, the estimate of memory."""

import math
import tracemalloc
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.attention import AVERAGE_MARGIN, Written, average_head, read_head, set_flag
from construct.bounds import average_leak, read_leak
from construct.mlp import (
    MlpBuilder,
    read_subspace,
    sum_answer,
    sum_code,
    sum_evidence,
    sum_subspaces,
    table_answer,
    table_evidence,
)
from construct.prompts import Layout
from construct.reads import ReadPlan, plan_reads
from construct.residual_stream import ResidualStream, binary_code, code_length, gray_code
from construct.sizes import estimated_bytes
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import two_layer
from construct.transformer import MlpWeights
from tests.construct.strategies import sum_tasks, table_tasks, task_sets

# Codes and subspaces.


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 13, 32, 67])
def test_two_binary_codes_differ_and_their_product_is_at_least_2_below_the_length(count: int) -> None:
    codes = binary_code(count)
    length = (count - 1).bit_length()
    assert codes.shape == (count, length) == (count, code_length(count))
    assert set(np.unique(codes)) <= {-1.0, 1.0}
    products = codes @ codes.T
    assert (products.diagonal() == length).all()
    assert (products[~np.eye(count, dtype=bool)] <= length - 2).all()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 13, 32, 67])
def test_neighbours_in_the_gray_code_differ_in_one_bit(count: int) -> None:
    codes = gray_code(count)
    assert (np.count_nonzero(np.diff(codes, axis=0), axis=1) == 1).all()
    assert len({tuple(code) for code in codes.tolist()}) == count


def test_subspaces_are_disjoint_and_fill_the_stream() -> None:
    stream = ResidualStream({"token": 5, "empty": 0, "evidence": 3, "role_y": 1})
    covered = [at for space in stream.values() for at in range(space.start, space.stop)]
    assert covered == list(range(9)) == list(range(stream.d_model))
    assert list(stream) == ["token", "empty", "evidence", "role_y"]


# Layer 1, attention.

SIZES = [(1, 1), (2, 1), (1, 3), (3, 2), (5, 3), (6, 2), (11, 4), (4, 5)]  # m, n
LEAKY = [0.75, 2.0, 5.0]


def _stream(layout: Layout, sets: tuple[tuple[int, ...], ...] = ()) -> ResidualStream:
    roles = {f"role_{role}": 1 for role in ("bos", "x", "eq", "y")}
    codes = {"example_index": code_length(layout.examples + 1), "input_index": code_length(layout.inputs)}
    flags = {set_flag(positions): 1 for positions in sets}
    return ResidualStream({"token": layout.alphabet_size, **roles, **codes, **flags, "written": 2, "evidence": 2})


def _positions(layout: Layout, stream: ResidualStream) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """The position embedding, written out, and the (role, example, place) of each position."""
    embedding = np.zeros((layout.positions, stream.d_model))
    roles = [("bos", -1, -1)]
    embedding[0, stream["role_bos"].start] = 1
    for position in range(1, layout.positions):
        example, place = divmod(position - 1, layout.inputs + 2)
        role = "x" if place < layout.inputs else "eq" if place == layout.inputs else "y"
        roles.append((role, example, place))
        embedding[position, stream[f"role_{role}"].start] = 1
        for bit in range(stream["example_index"].size):
            embedding[position, stream["example_index"].start + bit] = 2 * (example >> bit & 1) - 1
        if role == "x":
            for bit in range(stream["input_index"].size):
                embedding[position, stream["input_index"].start + bit] = 2 * (place >> bit & 1) - 1
            for name, space in stream.items():
                if name.startswith("in_set") and str(place) in name[7:-1].split(","):
                    embedding[position, space.start] = 1
    return embedding, roles


def _reads(inputs: int) -> list[tuple[int, ...]]:
    """Every set of input positions of one, two and all, those of one first as a position and then as a set."""
    chosen = [(0,), (inputs - 1,), tuple(range(inputs)), (0, inputs - 1)]
    return sorted({positions for positions in chosen if len(set(positions)) == len(positions)})


@pytest.mark.parametrize("sharpness", LEAKY)
@pytest.mark.parametrize(("examples", "inputs"), SIZES)
def test_the_leak_of_a_read_is_at_most_its_bound(examples: int, inputs: int, sharpness: float) -> None:
    layout = Layout(3, inputs, examples)
    for positions in _reads(inputs):
        single = len(positions) == 1
        plan = ReadPlan(positions if single else (), (), () if single else (positions,))
        stream = _stream(layout, plan.sets)
        embedding, roles = _positions(layout, stream)
        head = read_head(
            stream,
            layout,
            positions=positions,
            written=[Written(np.ones((3, 2), dtype=np.float32), "written")],
            sharpness=1.0,
        )
        # At sharpness 1 all scores are integers, exactly.
        scores = (embedding @ head.query) @ (embedding @ head.key).T
        assert (scores == scores.round()).all()
        z = math.exp(-sharpness)
        for at, (role, example, _) in enumerate(roles):
            seen = scores[at, : at + 1]
            if role in ("bos", "x"):
                assert seen[0] - max(seen[1:], default=-math.inf) >= 2
                continue
            target = np.array([(r, e) == ("x", example) and p in positions for r, e, p in roles[: at + 1]])
            assert target.sum() == len(positions)
            assert len(set(seen[target])) == 1
            behind = seen[target][0] - seen[~target]
            assert behind.min() >= 2
            elsewhere = float((z**behind).sum()) / len(positions)
            # Both sides are sums of powers of z, each rounded a few hundred times at most.
            assert elsewhere / (1 + elsewhere) <= read_leak(plan, layout, sharpness) * (1 + 1e-12)


@pytest.mark.parametrize(("examples", "inputs"), [(3, 2), (7, 3)])
def test_the_bound_of_the_leak_is_not_far_from_the_leak(examples: int, inputs: int) -> None:
    # With m+1 and n powers of two every code is used: the sum over keys is the bound's, but for causality.
    layout = Layout(3, inputs, examples)
    plan = ReadPlan((0,), (), ())
    z = math.exp(-2.0)
    stream = _stream(layout)
    embedding, roles = _positions(layout, stream)
    head = read_head(
        stream,
        layout,
        positions=(0,),
        written=[Written(np.ones((3, 2), dtype=np.float32), "written")],
        sharpness=1.0,
    )
    last = (embedding @ head.query)[-1] @ (embedding @ head.key).T
    target = [(role, example, place) == ("x", examples, 0) for role, example, place in roles].index(True)
    weights = z ** (last[target] - last)
    leak = float(1 - weights[target] / weights.sum())
    assert 0.7 * read_leak(plan, layout, 2.0) <= leak <= read_leak(plan, layout, 2.0)


@pytest.mark.parametrize("positions", [(1,), (0, 2), (0, 1, 2)])
def test_a_read_writes_the_sum_of_the_tables_rows(positions: tuple[int, ...]) -> None:
    layout = Layout(5, 3, 4)
    stream = _stream(layout, (positions,))
    table = np.array([[1, -7], [2, 5], [-3, 0], [4, 4], [6, -1]], dtype=np.float32)
    head = read_head(stream, layout, positions=positions, written=[Written(table, "written")], sharpness=40.0)
    embedding, _ = _positions(layout, stream)
    tokens = np.random.default_rng(2).integers(0, 5, size=layout.positions)
    content = np.zeros_like(embedding)
    content[np.arange(layout.positions), tokens] = 1
    state = embedding + content
    scores = (state @ head.query) @ (state @ head.key).T
    for example in range(4):
        for at in (layout.eq_position(example), layout.answer_position(example)):
            pattern = np.exp(scores[at, : at + 1] - scores[at, : at + 1].max())
            pattern /= pattern.sum()
            written = (pattern @ (state[: at + 1] @ head.value)) @ head.output
            expected = sum(table[tokens[layout.input_position(example, place)]] for place in positions)
            # z^2 of a sharpness of 40 is below 2^-100: only the rounding of float64 is left.
            assert np.abs(written[stream["written"].coordinates] - expected).max() < 1e-12
            assert np.count_nonzero(np.delete(written, range(stream["written"].start, stream["written"].stop))) == 0


# Layer 2, attention.


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 4.0])
@pytest.mark.parametrize(("examples", "inputs"), SIZES)
def test_the_average_is_uniform_over_the_answers_and_leaks_at_most_its_bound(
    examples: int, inputs: int, sharpness: float
) -> None:
    layout = Layout(3, inputs, examples)
    stream = _stream(layout)
    embedding, roles = _positions(layout, stream)
    head = average_head(stream, sharpness=1 / AVERAGE_MARGIN)
    scores = (embedding @ head.query) @ (embedding @ head.key).T
    assert set(np.unique(scores)) <= {-1.0, 0.0, 1.0}
    z4 = math.exp(-AVERAGE_MARGIN * sharpness)
    for at, (role, example, _) in enumerate(roles):
        seen = scores[at, : at + 1]
        if role != "eq":
            assert seen[0] == 1 > max(seen[1:], default=-1)
            continue
        answers = np.array([key == "y" for key, _, _ in roles[: at + 1]])
        assert answers.sum() == example
        assert (seen[answers] == 1).all()
        assert (seen[~answers] <= 0).all()
        if example:
            elsewhere = float((z4 ** (1 - seen[~answers])).sum()) / example
            assert elsewhere / (1 + elsewhere) <= average_leak(layout, sharpness) * (1 + 1e-12)


# Layer 1 and 2, ReLU circuits, on states made up to the largest leak.


def _run(mlp: MlpWeights, state: np.ndarray) -> np.ndarray:
    return np.maximum(state @ mlp.w_in + mlp.bias_in, 0.0) @ mlp.w_out + mlp.bias_out


def _leaked(generator: np.random.Generator, exact: np.ndarray, leak: float) -> np.ndarray:
    """A convex combination of the exact code and other vectors in [-1, 1], with weight `leak` elsewhere."""
    return (1 - leak) * exact + leak * generator.choice([-1.0, -0.3, 0.0, 1.0], size=exact.shape)


@settings(max_examples=60)
@given(st.data(), st.sampled_from([1, 2, 3, 5, 7]), st.integers(1, 3), st.sampled_from([0.0, 2.0**-10, 0.01, 0.5]))
def test_a_row_of_a_table_gives_evidence_and_a_weighted_answer_or_exactly_nothing(
    data: st.DataObject, alphabet_size: int, inputs: int, leak: float
) -> None:
    task = data.draw(table_tasks("task", alphabet_size, inputs))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    bits = code_length(alphabet_size)
    sizes = {"token": alphabet_size, "role_eq": 1, "role_y": 1, "role_x": 1, "evidence": 3}
    stream = ResidualStream(sizes | {read_subspace(place): bits for place in range(inputs)})
    evidence, answer = MlpBuilder(stream), MlpBuilder(stream)
    table_evidence(evidence, task, 1)
    table_answer(answer, task, 1)
    on_example, on_query = evidence.weights(), answer.weights()
    codes = binary_code(alphabet_size).astype(np.float64)
    loss = 2 * leak * len(task.reads) * bits
    rounding = 1e-14 * (len(task.reads) * bits + 2)
    for inputs_read in list(product(range(alphabet_size), repeat=inputs))[:20]:
        state = np.zeros(stream.d_model)
        for place, token in enumerate(inputs_read):
            state[stream[read_subspace(place)].coordinates] = _leaked(generator, codes[token], leak)
        correct = task.answer(inputs_read)
        for given_answer in range(alphabet_size):
            at_y = state.copy()
            at_y[stream["token"].start + given_answer] = 1
            assert not _run(on_example, at_y).any()  # without the role
            at_y[stream["role_y"].start] = 1
            written = _run(on_example, at_y)
            found = written[stream["evidence"].start + 1]
            assert np.count_nonzero(np.delete(written, stream["evidence"].start + 1)) == 0
            if given_answer == correct:
                assert 1 - loss - rounding <= found <= 1 + rounding
            else:
                assert found == 0
        weight = float(generator.random())
        at_eq = state.copy()
        at_eq[stream["evidence"].start + 1] = weight
        assert not _run(on_query, at_eq).any()
        at_eq[stream["role_eq"].start] = 1
        written = _run(on_query, at_eq)
        if correct is None:
            assert not written.any()
            continue
        assert np.count_nonzero(np.delete(written, stream["token"].start + correct)) == 0
        assert weight - loss - rounding <= written[stream["token"].start + correct] <= weight + rounding


@settings(max_examples=60)
@given(st.data(), st.sampled_from([1, 2, 3, 5, 7]), st.integers(1, 4))
def test_the_code_of_a_sum_is_exact_at_integers_and_stays_between_neighbours(
    data: st.DataObject, alphabet_size: int, inputs: int
) -> None:
    task = data.draw(sum_tasks("task", alphabet_size, inputs))
    (read,) = plan_reads(TaskSet("set", tuple("abcdefg"[:alphabet_size]), inputs, Format(), (task,))).sums
    scalar, _, code = sum_subspaces(read)
    stream = ResidualStream({scalar: 1, code: read.code_length})
    mlp = MlpBuilder(stream)
    sum_code(mlp, read)
    weights = mlp.weights()

    def interpolated(value: float) -> np.ndarray:
        return _run(weights, np.array([value, *np.zeros(read.code_length)]))[stream[code].coordinates]

    codes = gray_code(read.high - read.low + 1)
    spread = range(read.low - 2, read.high + 3)
    for value in list(spread)[:: max(1, len(spread) // 50)]:
        expected = codes[min(max(value - read.low, 0), read.high - read.low)]
        assert (interpolated(value) == expected).all()  # integers of float64: exact
        for delta in (0.5, 0.125, 0.01):
            for shifted in (value - delta, value + delta):
                found = interpolated(shifted)
                rounding = 1e-15 * (read.high - read.low + 3) * (abs(read.high) + abs(read.low) + 3)
                assert (np.abs(found) <= 1 + rounding).all()
                assert np.count_nonzero(np.abs(found - expected) > rounding) <= 1
                assert np.abs(found - expected).sum() <= 2 * delta + rounding


@settings(max_examples=60)
@given(st.data(), st.sampled_from([1, 2, 3, 5]), st.integers(1, 3), st.sampled_from([0.0, 2.0**-20, 2.0**-12]))
def test_a_row_of_a_sum_gives_evidence_and_a_weighted_answer_within_the_leak(
    data: st.DataObject, alphabet_size: int, inputs: int, leak: float
) -> None:
    task = data.draw(sum_tasks("task", alphabet_size, inputs))
    (read,) = plan_reads(TaskSet("set", tuple("abcde"[:alphabet_size]), inputs, Format(), (task,))).sums
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    scalar, undefined, code = sum_subspaces(read)
    sizes = {"token": alphabet_size, "role_eq": 1, "role_y": 1, "role_x": 1, "evidence": 2, scalar: 1, undefined: 1}
    stream = ResidualStream(sizes | {code: read.code_length})
    evidence, answer = MlpBuilder(stream), MlpBuilder(stream)
    sum_code(evidence, read)
    sum_evidence(evidence, read, task, 1)
    sum_answer(answer, read, task, 1)
    on_example, on_query = evidence.weights(), answer.weights()
    size = len(read.positions)
    delta = 2 * size * read.largest_value * leak
    assert delta <= 0.5
    rounding = 1e-14 * (read.gate + 3) ** 2
    at_e = stream["evidence"].start + 1
    for inputs_read in list(product(range(alphabet_size), repeat=inputs))[:20]:
        summed = [inputs_read[position] for position in read.positions]
        exact = sum(int(read.values[token]) for token in summed)
        unknown = sum(not read.defined[token] for token in summed)
        off = delta * float(generator.choice([-1, 0, 1]))
        less = size * leak * float(generator.choice([0, 1]))
        state = np.zeros(stream.d_model)
        state[stream[scalar].start] = exact + off
        state[stream[undefined].start] = max(unknown - less, 0.0) if unknown else less if read.partial else 0.0
        correct = task.answer(inputs_read)
        for given_answer in range(alphabet_size):
            at_y = state.copy()
            at_y[[stream["token"].start + given_answer, stream["role_y"].start]] = 1
            found = _run(on_example, at_y)[at_e]
            total = exact + read.shift * size
            near = [task.rows[row] for row in (total - 1, total, total + 1) if row in task.rows]
            if unknown or given_answer not in near:
                assert found == 0
            else:  # a row one away may come within the leak
                expected = float(given_answer == correct)
                assert abs(found - expected) <= delta + read.gate * size * leak + rounding
            at_x = state.copy()
            at_x[[stream["token"].start + given_answer, stream["role_x"].start]] = 1
            assert _run(on_example, at_x)[at_e] == 0
        for role in ("role_eq", None):
            elsewhere = state.copy()
            if role:
                elsewhere[stream[role].start] = 1
            assert _run(on_example, elsewhere)[at_e] == 0
        weight = float(generator.random())
        at_eq = state + _run(on_example, state)
        at_eq[[stream["role_eq"].start]] = 1
        at_eq[at_e] = weight
        written = _run(on_query, at_eq)
        others = np.delete(written, stream["token"].start + correct) if correct is not None else written
        assert not others.any()
        if correct is not None:
            found = written[stream["token"].start + correct]
            assert weight - 2 * delta - 2 * size * leak - rounding <= found <= weight + rounding


def test_the_average_of_no_examples_is_exactly_zero() -> None:
    layout = Layout(3, 2, 4)
    stream = _stream(layout)
    head = average_head(stream, sharpness=1.0)
    state, _ = _positions(layout, stream)
    scores = (state @ head.query) @ (state @ head.key).T
    first_eq = layout.eq_position(0)
    pattern = np.exp(scores[first_eq, : first_eq + 1])
    assert not ((pattern / pattern.sum()) @ state[: first_eq + 1] @ head.value).any()


# Memory.


@settings(max_examples=40)
@given(task_sets(), st.integers(1, 60))
def test_the_estimate_of_memory_is_above_what_building_takes(task_set: TaskSet, examples: int) -> None:
    _check_estimate(task_set, examples)


@pytest.mark.parametrize(
    "task_set",
    [
        build_suite("lookup", tasks=23, alphabet_size=211, inputs=5),
        TaskSet("wide", tuple(f"t{i}" for i in range(20_011)), 1, Format(), (TableTask("one", (0,), {(3,): 5}),)),
        TaskSet("span", ("a", "b"), 3, Format(), (SumTask("span", (0, 2), {0: -9000, 1: 11_000}, {0: 1, -18_000: 0}),)),
    ],
    ids=["many rows", "an alphabet with one row", "a sum with a wide span"],
)
def test_the_estimate_of_memory_holds_where_one_part_outweighs_the_rest(task_set: TaskSet) -> None:
    _check_estimate(task_set, 2)


def _check_estimate(task_set: TaskSet, examples: int) -> None:
    tracemalloc.start()
    try:
        construction = two_layer(task_set, examples=examples)
        _, taken = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    held = 0
    for _, tensor in construction.weights.tensors():
        parts = [tensor] if isinstance(tensor, np.ndarray) else [tensor.data, tensor.indices, tensor.indptr]
        held += sum(part.nbytes for part in parts)
    estimate = estimated_bytes(task_set, construction.layout, plan_reads(task_set), construction.stream.d_model)
    assert held <= taken <= estimate + 2**20  # Python's own objects are not estimated


def test_the_leak_agrees_with_its_formula_in_rationals() -> None:
    # V = 3, n = 2, m = 3 at z = 1/4: b1 = 2, b2 = 1; one position, then the set {0, 1}.
    z = Fraction(1, 4)
    layout, sharpness = Layout(3, 2, 3), math.log(4)
    single = (1 + z**2) ** 3 - 1 + 2 * z**3 * (1 + z**2) ** 2 + z**7
    pair = (1 + z**2) ** 2 - 1 + (0 + 2 * z**4) * (1 + z**2) ** 2 / 2 + z**8 / 2
    assert read_leak(ReadPlan((1,), (), ()), layout, sharpness) == pytest.approx(float(single / (1 + single)), 1e-12)
    assert read_leak(ReadPlan((), (), ((0, 1),)), layout, sharpness) == pytest.approx(float(pair / (1 + pair)), 1e-12)
