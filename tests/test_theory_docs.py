"""What docs/theory states: its examples print what stands below them, and its lemmas hold where they can be tried."""

import io
import itertools
import math
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from construct.bounds import average_leak, read_leak
from construct.few_heads import few_heads
from construct.four_squares import code_norm
from construct.prompts import Layout
from construct.reads import plan_reads
from construct.residual_stream import code_length
from construct.seven_layer import seven_layer
from construct.suites import build_suite
from construct.superpose import superpose
from construct.superpose_tables import table_component
from construct.theorems import two_layer
from construct.transformer import TransformerWeights
from construct.vector_suites import random_vector_tasks
from construct.vector_theorem import vectors
from verify import summaries

THEORY = Path(__file__).resolve().parents[1] / "docs" / "theory"
BLOCK = re.compile(r"<<'END'\n(?P<code>.*?)\nEND\n(?P<printed>.*?)\n```", re.DOTALL)
CONSOLE = re.compile(r"^```console\n(?P<block>.*?)\n```", re.MULTILINE | re.DOTALL)


def text(name: str) -> str:
    return (THEORY / name).read_text(encoding="utf-8")


def without_times(printed: str) -> str:
    """How long it took is left out."""
    return re.sub(r"(?<=in )[\d.]+ s\b|(?<=seconds       )[\d.]+", "-", printed)


@pytest.mark.parametrize(
    ("name", "examples"),
    [("depth.md", 1), ("heads.md", 1), ("two-layer.md", 1), ("README.md", 1), ("probabilities.md", 1)],
)
def test_the_examples_of_a_page_print_what_stands_below_them(name: str, examples: int) -> None:
    found = list(BLOCK.finditer(text(name)))
    assert len(found) == examples
    for example in found:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(example["code"], name, "exec"), {"__name__": "example"})
        assert printed.getvalue() == example["printed"] + "\n"


@pytest.mark.parametrize(("name", "heads"), [("heads.md", "1 + 1"), ("two-layer.md", "8 + 1")])
def test_what_a_page_builds_is_certified_with_the_heads_that_it_states(name: str, heads: str, tmp_path: Path) -> None:
    (session,) = (match["block"] for match in CONSOLE.finditer(text(name)) if "construct build" in match["block"])
    programs = {"construct": ["-m", "construct.cli"], "python": []}
    steps = re.findall(r"^\$ (\S+) ([^\n]*)\n(.*?)(?=\n\$ |\Z)", session, re.MULTILINE | re.DOTALL)
    assert [program for program, _, _ in steps] == ["construct", "python"]
    assert f"  heads         {heads}\n" in session
    for program, arguments, printed in steps:
        command = [sys.executable, *programs[program], *arguments.split()]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert without_times(ran.stdout) == without_times(printed) + "\n"


def test_the_table_of_summaries_is_what_the_command_prints() -> None:
    result = CliRunner().invoke(summaries.command)
    assert result.exit_code == 0
    assert f"$ .venv/bin/python -m verify.summaries\n{result.output}```" in text("depth.md")


@pytest.mark.parametrize(("m", "pairs"), [(2, 1), (3, 1), (6, 3), (7, 3), (11, 2), (13, 5)])
def test_the_points_of_theorem_3_are_told_apart_by_every_sign_pattern(m: int, pairs: int) -> None:
    width = m // (2 * pairs)
    rest = [1] * (m - 2 * pairs * width)
    for signs in itertools.product((-1, 1), repeat=pairs):
        bob = [value for sign in signs for value in [sign] * width + [-sign] * width] + rest
        for j in range(pairs):
            alice = [value for i in range(pairs) for value in [1] * width + [-1 if i == j else 1] * width] + rest
            agree = sum(x == y for x, y in zip(alice, bob, strict=True))
            assert agree == m - pairs * width + width * signs[j]


@given(st.integers(1, 64), st.integers(1, 2**20), st.integers(1, 10**9))
def test_theorem_3_follows_from_the_inequality_before_it_is_simplified(heads: int, units: int, scale: int) -> None:
    # The largest t with t <= 1 + 2 log2 t + 2 log2(2eH) + log2 W, by iteration from above.
    constant = 1 + 2 * math.log2(2 * math.e * heads) + math.log2(units)
    t = 17 + 4 * math.log2(heads) + 2 * math.log2(units)
    for beyond in (t, t * (1 + scale / 100), t + scale):
        assert beyond >= constant + 2 * math.log2(beyond), "nothing above the bound satisfies the inequality"


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.integers(1, 5)), min_size=2, max_size=5),
    st.floats(1e-3, 1.0),
    st.integers(0, 2**32 - 1),
)
def test_rounding_the_blocks_of_a_head_moves_it_by_no_more_than_the_lemma(
    blocks: list[tuple[float, int]], delta: float, seed: int
) -> None:
    generator, largest = np.random.default_rng(seed), 2.0
    log_weight, average = [], []
    for score, size in blocks:
        scores, values = generator.uniform(-3, 3, size) + score, generator.uniform(-largest, largest, (size, 2))
        weights = np.exp(scores)
        log_weight.append(math.log(weights.sum()))
        average.append(weights @ values / weights.sum())
    exact = np.exp(log_weight) @ np.array(average) / np.exp(log_weight).sum()
    moved = np.array(log_weight) + generator.choice([-1, 1], len(blocks)) * delta / 2
    rounded = np.array(average) + generator.choice([-1, 1], (len(blocks), 2)) * delta * largest
    found = np.exp(moved) @ rounded / np.exp(moved).sum()
    assert np.abs(found - exact).max() <= 1.5 * delta * largest + 1e-12


@pytest.mark.parametrize(("m", "n", "kept"), [(3, 2, 40), (4, 1, 9), (2, 4, 100)])
def test_some_answers_make_the_counts_many(m: int, n: int, kept: int) -> None:
    """Step (4) of theorem 3 of heads.md, on a set F of random X."""
    generator = np.random.default_rng(m)
    every = np.array(list(itertools.product(range(2), repeat=m * n))).reshape(-1, m, n)
    chosen = every[generator.permutation(len(every))[:kept]]
    answers = np.concatenate([np.zeros((1, m), dtype=int), np.eye(m, dtype=int)])
    counts = (chosen[:, None] == answers[None, :, :, None]).sum(axis=2)  # [X, Y, n]
    assert len(np.unique(counts.reshape(len(chosen), -1), axis=0)) == len(chosen), "together they determine X"
    numbers = [len(np.unique(counts[:, y], axis=0)) for y in range(m + 1)]
    assert max(numbers) >= len(chosen) ** (1 / (m + 1))


def cells(construction: str) -> list[str]:
    """The row of a construction in the first table of README.md that has one, without its name."""
    row = re.search(rf"^\| {re.escape(construction)} \|(.*)\|$", text("README.md"), re.MULTILINE)
    assert row is not None
    return [cell.strip() for cell in row[1].split("|")]


def value(formula: str, sizes: dict[str, int]) -> int:
    """A formula of the page: a number or a name beside a name or a bracket is a product."""
    spelled = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", formula)
    result = eval(spelled, {"__builtins__": {}}, sizes)
    assert isinstance(result, int)
    return result


def stated(construction: str, sizes: dict[str, int]) -> tuple[int, list[int], int, list[int]]:
    layers, heads, d_model, units = cells(construction)
    per_layer = [[value(part, sizes) for part in column.split(",")] for column in (heads, units)]
    return int(layers), per_layer[0], value(d_model, sizes), per_layer[1]


def built(weights: TransformerWeights) -> tuple[int, list[int], int, list[int]]:
    return len(weights.layers), weights.heads, weights.d_model, weights.mlp_width


def test_a_formula_with_products_unwritten_is_read_as_one() -> None:
    assert value("2 b1 + K (V + 5) + R B", {"b1": 3, "K": 2, "V": 4, "R": 5, "B": 7}) == 6 + 18 + 35


# K, V, n, m: more tasks than inputs, fewer, one of each, and sizes at and beyond powers of two.
@pytest.mark.parametrize(("K", "V", "n", "m"), [(5, 7, 3, 11), (2, 8, 5, 3), (1, 2, 1, 4), (3, 17, 2, 16)])
def test_constructions_on_tokens_have_the_sizes_that_the_page_states(K: int, V: int, n: int, m: int) -> None:
    tasks, layout = build_suite("lookup", tasks=K, alphabet_size=V, inputs=n), Layout(V, n, m)
    reads = min(K, n)
    sizes = {"K": K, "V": V, "n": n, "m": m, "R": reads, "S": -(-K // n), "B": code_length(V)}
    sizes |= {"b1": code_length(m + 1), "b2": code_length(n)}
    two, seven = two_layer(tasks, examples=m), seven_layer(tasks, examples=m)
    together = superpose([table_component(task, layout) for task in tasks.tasks], layout)
    assert built(two.weights) == stated("two-layer", sizes)
    assert built(few_heads(tasks, examples=m).weights) == stated("few-heads", sizes)
    assert built(seven.weights) == stated("seven-layer", sizes)
    assert built(together.weights) == stated("superpose", sizes)
    # The claims, from the leaks. What covers the rounding of sums is below 1e-8 of them.
    rho, rho2 = read_leak(plan_reads(tasks), layout, two.sharpness), average_leak(layout, two.sharpness)
    assert two.error_bound == pytest.approx(K * (4 * sizes["B"] * rho + rho2), rel=1e-8)
    norm = code_norm(V)
    rho, rho2 = read_leak(plan_reads(tasks), layout, seven.sharpness), average_leak(layout, seven.sharpness)
    assert seven.error_bound == pytest.approx(K * (4 * norm * (4 * norm + 1) * rho + rho2), rel=1e-8)
    assert together.error_bound == pytest.approx(K * (n + 1) * math.exp(-4 * together.sharpness), rel=1e-8)


@pytest.mark.parametrize(("K", "d", "n", "m"), [(5, 7, 3, 11), (2, 6, 5, 3)])
@pytest.mark.parametrize(("comparison", "row"), [("fingerprint", "fingerprints"), ("attention", "attention")])
def test_constructions_on_vectors_have_the_sizes_that_the_page_states(
    K: int, d: int, n: int, m: int, comparison: str, row: str
) -> None:
    tasks = random_vector_tasks("orthogonal", tasks=K, dim=d, inputs=n)
    sizes = {"K": K, "d": d, "r": d, "m": m, "R": min(K, n), "b1": code_length(m + 1), "b2": code_length(n)}
    weights = vectors(tasks, examples=m, comparison=comparison).weights
    assert built(weights) == stated(f"vectors, {row}", sizes)


@pytest.mark.parametrize("name", sorted(path.name for path in THEORY.glob("*.md")))
def test_the_links_of_a_page_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text(name)):
        assert (THEORY / target).exists(), target
