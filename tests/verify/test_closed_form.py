"""The closed form against the builder's floats, against the scores of real weights, and against alterations."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import sympy  # type: ignore[import-untyped]

from construct.attention import AVERAGE_MARGIN
from construct.bounds import average_leak, read_leak, real_bound
from construct.prompts import Example, Layout, Prompt
from construct.reads import plan_reads
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from construct.theorems import two_layer
from verify import closed_form, closed_form_sums, derivation
from verify.closed_form import (
    average_score,
    derive,
    error_bound,
    error_bound_expression,
    leading_term,
    read_score,
    statement_latex,
    steps_latex,
)
from verify.closed_form_sums import set_score
from verify.derivation import SIZES, B, DerivationError, K, S, V, b1, b2, m, n, r, sharpness, z
from verify.symbolic import execute
from verify.theorem import prove

CASES = [
    (tasks, size, inputs, examples, lam)
    for tasks, size in ((1, 1), (1, 2), (3, 5), (7, 31), (11, 64), (2, 1009))
    for inputs, examples in ((1, 1), (2, 5), (5, 3), (8, 16), (13, 100))
    for lam in (2.5, 5.0, 12.0, 17.25)
]


def lookup(tasks: int, size: int, inputs: int) -> TaskSet:
    if size == 1:
        only = tuple(TableTask(f"task {number}", (0,), {(0,): 0}) for number in range(tasks))
        return TaskSet("one token", ("a",), inputs, Format(), only)
    return build_suite("lookup", tasks=tasks, alphabet_size=size, inputs=inputs, seed=1)


def two_reads() -> TaskSet:
    tasks = (
        TableTask("one", (1,), {(0,): 1, (3,): 2}),
        TableTask("two", (0, 2), {(0, 4): 1, (1, 1): 3}),
        TableTask("three", (2, 0, 1), {(0, 1, 2): 4}),
    )
    return TaskSet("reads", tuple("abcde"), 3, Format(), tasks)


def built(task_set: TaskSet, examples: int, lam: float) -> float | None:
    layout = Layout(len(task_set.alphabet), task_set.inputs, examples)
    return real_bound(task_set, plan_reads(task_set), layout, lam)


def test_the_closed_form_is_the_builders_bound_to_12_digits() -> None:
    claimed = 0
    for tasks, size, inputs, examples, lam in CASES:
        mine = error_bound(
            alphabet_size=size, inputs=inputs, examples=examples, tasks=tasks, reads=1, sharpness_value=lam
        )
        theirs = built(lookup(tasks, size, inputs), examples, lam)
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            claimed += 1
            assert abs(mine / theirs - 1) < 1e-12
    assert claimed > len(CASES) / 2


@pytest.mark.parametrize("lam", [3.5, 9.0])
def test_tables_of_several_reads_have_the_bound_of_their_mean(lam: float) -> None:
    mine = error_bound(alphabet_size=5, inputs=3, examples=6, tasks=3, reads=2, sharpness_value=lam)
    theirs = built(two_reads(), 6, lam)
    assert theirs is not None
    assert abs(mine / theirs - 1) < 1e-12


def test_there_is_no_claim_where_a_read_gives_half_of_its_attention_away() -> None:
    assert error_bound(alphabet_size=5, inputs=3, examples=6, tasks=3, reads=1, sharpness_value=0.5) is None
    assert built(lookup(3, 5, 3), 6, 0.5) is None


def alterations() -> Iterator[tuple[str, Any]]:
    bound = error_bound_expression(in_sharpness=False)
    yield "another bit", bound.subs(B, B + 1)
    yield "a longer example index", bound.subs(b1, b1 + 1)
    yield "a shorter input index", bound.subs(b2, b2 - 1)
    yield "half of the reads' loss", bound.subs(r, r / 2)
    yield "one key fewer in the average", bound.subs(n, n - sympy.Rational(1, 2))
    yield "another margin of the average", bound.subs(z**AVERAGE_MARGIN, z ** (AVERAGE_MARGIN + 1))
    yield "BOS left out", bound.subs(z ** (b1 + b2 + 4), 0)
    yield "EQ and y left out", bound.subs(z ** (b2 + 2), 0)
    yield "the leading term alone", leading_term()


@pytest.mark.parametrize("what", [what for what, _ in alterations()])
def test_an_altered_formula_is_not_the_builders(what: str) -> None:
    formula = dict(alterations())[what]
    tasks, size, inputs, examples, lam = 3, 5, 2, 5, 2.5
    numbers: dict[Any, Any] = {V: size, n: inputs, m: examples, K: tasks, r: 1}
    numbers |= {symbol: value.subs(numbers) for symbol, value in SIZES.items()}
    theirs = built(lookup(tasks, size, inputs), examples, lam)
    assert theirs is not None
    with mpmath.workdps(30):
        altered = sympy.lambdify(z, formula.subs(numbers), "mpmath")(mpmath.exp(-lam))
        right = sympy.lambdify(z, error_bound_expression(in_sharpness=False).subs(numbers), "mpmath")(mpmath.exp(-lam))
    assert abs(right / theirs - 1) < 1e-12
    assert abs(altered / theirs - 1) > 1e-9


def test_the_scores_of_the_derivation_are_those_of_the_weights() -> None:
    task_set, examples = lookup(2, 3, 3), 4
    construction = two_layer(task_set, examples=examples)
    stream, layout = construction.stream, construction.layout
    positions = construction.weights.position_embedding.toarray()
    sizes = {b1: stream["example_index"].size, b2: stream["input_index"].size}
    roles = ("bos", "x", "eq", "y")
    role_of = [
        next(role for role in roles if positions[at, stream[f"role_{role}"].start]) for at in range(layout.positions)
    ]
    reads, average = construction.weights.layers[0].attention, construction.weights.layers[1].attention
    seen = set()
    for head, circuit in enumerate(circuit for circuit in construction.circuits if circuit.kind == "attention"):
        for at in range(layout.positions):
            if role_of[at] not in ("eq", "y"):
                continue
            for other in range(layout.positions):
                if circuit.layer == 1:
                    wanted = read_score(
                        ((at - 1) // 5 ^ (other - 1) // 5).bit_count() if other else 0,
                        ((other - 1) % 5 ^ int(circuit.name[5:-1])).bit_count(),
                        role_of[other],
                    ).subs(sizes)
                    score = positions[at] @ reads.query[head] @ (positions[other] @ reads.key[head])
                elif role_of[at] == "eq":
                    wanted = average_score(role_of[other])
                    score = positions[at] @ average.query[0] @ (positions[other] @ average.key[0])
                else:
                    continue
                seen.add((circuit.layer, role_of[other]))
                assert float(score) == construction.sharpness * float(wanted)
    assert seen == {(layer, role) for layer in (1, 2) for role in roles}


@pytest.mark.parametrize("change", [-2, 2])
def test_a_derivation_from_other_scores_fails(change: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(example_bits: Any, input_bits: Any, role: str) -> Any:
        return read_score(example_bits, input_bits, role) + (change if role == "bos" else 0)

    monkeypatch.setattr(closed_form, "read_score", other)
    with pytest.raises(DerivationError, match="BOS"):
        derive.__wrapped__()


def test_a_derivation_with_a_wrong_sum_over_distances_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivation, "binomial", lambda length, index: sympy.binomial(length + 1, index))
    with pytest.raises(DerivationError, match="over the distance"):
        derive.__wrapped__()


def test_a_derivation_with_an_average_that_prefers_bos_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "average_score", lambda role: sympy.Integer({"y": 4, "bos": 1}.get(role, 0)))
    with pytest.raises(DerivationError, match="BOS"):
        derive.__wrapped__()


@pytest.mark.parametrize(("inputs", "one_input"), [(1, True), (2, False), (5, False), (8, False)])
def test_the_bound_tends_to_its_leading_term(inputs: int, one_input: bool) -> None:
    numbers: dict[Any, Any] = {V: 7, n: inputs, m: 11, K: 3, r: 1}
    numbers |= {symbol: value.subs(numbers) for symbol, value in SIZES.items()}
    ratio = (error_bound_expression(in_sharpness=False) / leading_term(one_input=one_input)).subs(numbers)
    for exponent in (10, 20):
        value = sympy.N(ratio.subs(z, sympy.Rational(1, 10**exponent)), 60)
        assert abs(value - 1) < 1000 * sympy.Rational(1, 10**exponent)


def test_no_prompt_has_a_larger_leading_term_than_the_theorem() -> None:
    examples, numbers = 5, {B: 3, b1: 3, b2: 2, r: 1, K: 3}
    task_set = build_suite("retrieval", tasks=3, alphabet_size=7, inputs=3)
    construction = two_layer(task_set, examples=examples)
    sampler, generator = PromptSampler(task_set), np.random.default_rng(11)
    allowed = Fraction(int((leading_term() / z**2).subs(numbers)))
    drawn = [sampler.prompt(examples, generator) for _ in range(6)]
    # Every task explains every example, and the answer is the complement of what all the others hold.
    drawn.append(Prompt(tuple(Example((6,) * 3, 6) for _ in range(examples)), (0,) * 3))
    for prompt in drawn:
        found = execute(construction, prompt)
        assert found.error_order == 2
        assert 0 < found.error_coefficient <= allowed


def test_the_bound_falls_with_the_sharpness() -> None:
    numbers: dict[Any, Any] = {V: 32, n: 8, m: 16, K: 8, r: 1}
    numbers |= {symbol: value.subs(numbers) for symbol, value in SIZES.items()}
    bound = sympy.lambdify(sharpness, error_bound_expression().subs(numbers), "mpmath")
    values = [bound(mpmath.mpf(step) / 4) for step in range(1, 60)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("name", ["copy_add", "add_translate"])
def test_what_sum_tasks_lose_is_in_the_builders_bound(name: str) -> None:
    task_set = build_suite(name)
    plan = plan_reads(task_set)
    layout = Layout(len(task_set.alphabet), task_set.inputs, 11)
    lam = 13.0
    leaks = {derivation.rho: read_leak(plan, layout, lam), derivation.rho2: average_leak(layout, lam)}
    bits = (layout.alphabet_size - 1).bit_length()
    total = 0.0
    for task in task_set.tasks:
        if isinstance(task, TableTask):
            total += 4 * leaks[derivation.rho] * len(task.reads) * bits + leaks[derivation.rho2]
            continue
        read = plan.sum_of(task)
        sizes = {derivation.S: len(read.positions), derivation.M: read.largest_value, derivation.C: read.gate}
        total += float(closed_form.derive().sum_loss.subs({**leaks, **sizes}))
    bound = real_bound(task_set, plan, layout, lam)
    assert bound == pytest.approx(total, rel=1e-12)
    assert bound != pytest.approx(total * 1.001, rel=1e-12)


SUMS = [(inputs, size, examples) for inputs in (2, 3, 5) for size in range(2, inputs + 1) for examples in (1, 4, 11)]


def sum_over(size: int, inputs: int) -> TaskSet:
    """One sum over the first `size` inputs, modulo 3, of tokens worth 0 to 2: read by one head that averages."""
    sums = {total: total % 3 for total in range(2 * size + 1)}
    task = SumTask("sum", tuple(range(size)), {token: token for token in range(3)}, sums)
    return TaskSet("sums", tuple("abc"), inputs, Format(), (task,))


@pytest.mark.parametrize("lam", [3.5, 6.0, 12.0])
def test_the_leak_of_an_average_over_a_set_is_the_builders(lam: float) -> None:
    for inputs, size, examples in SUMS:
        task_set = sum_over(size, inputs)
        plan, layout = plan_reads(task_set), Layout(3, inputs, examples)
        assert plan.sets == (tuple(range(size)),)
        numbers: dict[Any, Any] = {V: 3, n: inputs, m: examples, S: size}
        numbers |= {symbol: value.subs(numbers) for symbol, value in SIZES.items()}
        with mpmath.workdps(30):
            leak = sympy.lambdify(z, derive().set_leak.subs(numbers), "mpmath")(mpmath.exp(-lam))
        assert abs(leak / read_leak(plan, layout, lam) - 1) < 1e-12


@pytest.mark.parametrize(("inputs", "size", "examples"), SUMS)
def test_the_bound_certified_on_weights_of_a_sum_is_within_the_closed_form(
    inputs: int, size: int, examples: int
) -> None:
    lam = 9.0
    construction = two_layer(sum_over(size, inputs), examples=examples, sharpness=lam)
    read = plan_reads(construction.task_set).sums[0]
    numbers: dict[Any, Any] = {V: 3, n: inputs, m: examples, S: size}
    numbers |= {symbol: value.subs(numbers) for symbol, value in SIZES.items()}
    numbers |= {derivation.M: read.largest_value, derivation.C: read.gate}
    whole = derive().sum_loss.subs({derivation.rho: derive().set_leak, derivation.rho2: derive().average_leak})
    with mpmath.workdps(30):
        bound = sympy.lambdify(z, whole.subs(numbers), "mpmath")(mpmath.exp(-lam))
    certified = prove(construction).real
    assert certified is not None
    assert 0 < certified <= bound * (1 + 2**-30)


def test_the_scores_of_an_average_over_a_set_are_those_of_the_weights() -> None:
    construction = two_layer(sum_over(2, 3), examples=4)
    stream, layout = construction.stream, construction.layout
    positions = construction.weights.position_embedding.toarray()
    attention = construction.weights.layers[0].attention
    (head,) = range(construction.weights.heads[0])
    roles = ("bos", "x", "eq", "y")
    role_of = [
        next(role for role in roles if positions[at, stream[f"role_{role}"].start]) for at in range(layout.positions)
    ]
    seen = set()
    for at, other in itertools.product(range(layout.positions), repeat=2):
        if role_of[at] in ("eq", "y"):
            inside = role_of[other] == "x" and (other - 1) % 5 < 2
            bits = ((at - 1) // 5 ^ (other - 1) // 5).bit_count() if other else 0
            wanted = set_score(bits, inside=inside, role=role_of[other]).subs(b1, stream["example_index"].size)
            score = positions[at] @ attention.query[head] @ (positions[other] @ attention.key[head])
            assert float(score) == construction.sharpness * float(wanted)
            seen.add((role_of[other], inside))
    assert len(seen) == 5


@pytest.mark.parametrize("role", ["bos", "eq"])
def test_a_derivation_from_other_scores_of_a_set_fails(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(example_bits: Any, *, inside: bool, role: str, changed: str = role) -> Any:
        return set_score(example_bits, inside=inside, role=role) + (2 if role == changed else 0)

    monkeypatch.setattr(closed_form_sums, "set_score", other)
    with pytest.raises(DerivationError):
        derive.__wrapped__()


def test_every_step_can_be_read_in_latex() -> None:
    derivation = derive()
    assert len(derivation.steps) >= 15
    text = steps_latex()
    assert text.count(r"\text") == len(derivation.steps)
    statement = statement_latex()
    for part in (r"4 B K r \rho + K \rho_{2}", r"z = e^{-\lambda}", r"\rho_2 = "):
        assert part in statement
