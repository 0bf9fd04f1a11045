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

from verify import summaries

THEORY = Path(__file__).resolve().parents[1] / "docs" / "theory"
BLOCK = re.compile(r"<<'END'\n(?P<code>.*?)\nEND\n(?P<printed>.*?)\n```", re.DOTALL)
CONSOLE = re.compile(r"^```console\n(?P<block>.*?)\n```", re.MULTILINE | re.DOTALL)


def text(name: str) -> str:
    return (THEORY / name).read_text(encoding="utf-8")


def without_times(printed: str) -> str:
    """How long it took is left out."""
    return re.sub(r"(?<=in )[\d.]+ s\b|(?<=seconds       )[\d.]+", "-", printed)


@pytest.mark.parametrize(("name", "examples"), [("depth.md", 1), ("heads.md", 1)])
def test_the_examples_of_a_page_print_what_stands_below_them(name: str, examples: int) -> None:
    found = list(BLOCK.finditer(text(name)))
    assert len(found) == examples
    for example in found:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(example["code"], name, "exec"), {"__name__": "example"})
        assert printed.getvalue() == example["printed"] + "\n"


def test_64_tasks_with_one_read_are_certified_with_one_head(tmp_path: Path) -> None:
    (session,) = (match["block"] for match in CONSOLE.finditer(text("heads.md")) if "construct build" in match["block"])
    programs = {"construct": ["-m", "construct.cli"], "python": []}
    steps = re.findall(r"^\$ (\S+) ([^\n]*)\n(.*?)(?=\n\$ |\Z)", session, re.MULTILINE | re.DOTALL)
    assert [program for program, _, _ in steps] == ["construct", "python"]
    for program, arguments, printed in steps:
        command = [sys.executable, *programs[program], *arguments.split()]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert without_times(ran.stdout) == without_times(printed) + "\n"


def test_the_table_of_summaries_is_what_the_command_prints() -> None:
    result = CliRunner().invoke(summaries.command)
    assert result.exit_code == 0
    assert f"$ .venv/bin/python -m verify.summaries\n{result.output}```" in text("depth.md")


@pytest.mark.parametrize("m", [2, 3, 6, 7])
def test_the_points_of_theorem_3_are_told_apart_by_every_sign_pattern(m: int) -> None:
    pairs = m // 2
    for signs in itertools.product((-1, 1), repeat=pairs):
        bob = [value for sign in signs for value in (sign, -sign)] + [1] * (m % 2)
        for j in range(pairs):
            alice = [value for i in range(pairs) for value in ((1, -1) if i == j else (1, 1))] + [1] * (m % 2)
            agree = sum(x == y for x, y in zip(alice, bob, strict=True))
            assert agree == pairs + signs[j] + (m - 2 * pairs)
            assert agree - (m - pairs) == signs[j]


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
