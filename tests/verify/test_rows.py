"""Every combination of tokens that can switch a unit on is listed."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify import rows
from verify.attention import HeadFacts
from verify.rows import NotProvableError, Source, combinations, head_parts, table_sources

integers = st.integers(-4, 4)


@st.composite
def layers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[Source]]:
    """Units of small integers, with sources of 1 to 3 tokens and leaks."""
    units = draw(st.integers(1, 5))
    row = st.lists(integers, min_size=units, max_size=units)
    sources = []
    for number in range(draw(st.integers(1, 3))):
        values = np.array(draw(st.lists(row, min_size=1, max_size=3)), dtype=np.float64)
        beyond = np.array([draw(row), draw(row)], dtype=np.float64)
        both = np.concatenate([values, beyond])
        leak = draw(st.sampled_from([0.0, 0.125, 0.5]))
        sources.append(Source(f"source {number}", values, both.min(axis=0), both.max(axis=0), leak, number))
    return np.array(draw(row), dtype=np.float64), np.array(draw(row), dtype=np.float64) ** 2 / 8, sources


@given(layers())
def test_exactly_what_brute_force_finds_on_is_listed(drawn: tuple[np.ndarray, np.ndarray, list[Source]]) -> None:
    base, radius, sources = drawn
    found = combinations(base, radius, sources)
    listed = {(int(unit), *options) for unit, options in zip(found.unit, found.options.tolist(), strict=True)}
    assert len(listed) == len(found.unit)
    for unit in range(len(base)):
        for options in itertools.product(*[range(len(source.values)) for source in sources]):
            argument, highest = base[unit], base[unit] + radius[unit]
            for source, option in zip(sources, options, strict=True):
                value = source.values[option, unit]
                argument += value
                # Attention 1 - leak on the option, the rest where it adds most.
                highest += (1 - source.leak) * value + source.leak * source.high[unit]
            # A leak that is a power of two leaves the sums exact but for INFLATION.
            if highest > 0:
                assert (unit, *options) in listed
            elif highest < -1e-9:
                assert (unit, *options) not in listed
            if (unit, *options) in listed:
                at = [(int(u), *o) for u, o in zip(found.unit, found.options.tolist(), strict=True)].index(
                    (unit, *options)
                )
                assert found.argument[at] == argument
                for place, (source, option) in enumerate(zip(sources, options, strict=True)):
                    value = source.values[option, unit]
                    assert found.deviation[at, place] == max(source.high[unit] - value, value - source.low[unit])


def test_what_no_combination_switches_on_is_not_listed() -> None:
    source = Source("one", np.zeros((3, 2)), np.zeros(2), np.zeros(2), 0.5, 0)
    found = combinations(np.array([0.0, 1.0]), np.zeros(2), [source])
    assert found.unit.tolist() == [1, 1, 1]
    assert found.options.tolist() == [[0], [1], [2]]


def test_too_many_combinations_are_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_COMBINATIONS", 10)
    source = Source("one", np.ones((7, 2)), np.zeros(2), np.ones(2), 0.0, 0)
    with pytest.raises(NotProvableError, match="more than 10 combinations"):
        combinations(np.ones(2), np.zeros(2), [source])


def head(targets: tuple[int, ...], values: list[list[float]], spread: list[float], leak: float = 0.25) -> HeadFacts:
    return HeadFacts(targets, np.full(2, leak), np.full(1, leak), np.array(values), np.array(spread), 2.0)


def test_a_heads_part_is_its_values_times_the_weights_within_low_and_high() -> None:
    heads = [
        head((1,), [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], [0.0, 0.5]),
        head((0,), [[0.0, 0.0]] * 3, [0.0, 0.0]),
    ]
    weights = np.array([[3.0], [2.0]])
    ((number, values, low, high),) = head_parts(heads, weights)
    assert number == 0
    assert values.tolist() == [[3.0], [-3.0], [0.0]]
    assert low == pytest.approx(-4)
    assert high == pytest.approx(4)
    assert low <= -4 <= 4 <= high


def test_a_table_reads_its_own_positions_once_each_and_the_rest_is_a_box() -> None:
    bits = [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    heads = [
        head((1,), bits, [0.0] * 3),
        head((0,), np.roll(bits, 1, axis=1).tolist(), [0.0] * 3),
        head((0,), np.roll(bits, 2, axis=1).tolist(), [0.0] * 3),  # the same input again
    ]
    weights = np.array([[2.0], [3.0], [0.5]])
    sources, centre, radius = table_sources((0, 1), heads, weights, 2)
    assert [source.name for source in sources] == ["input 0", "input 1"]
    assert sources[0].values.tolist() == [[3.0], [-3.0]]
    assert sources[1].values.tolist() == [[2.0], [-2.0]]
    assert [source.head for source in sources] == [1, 0]
    assert sources[0].leak == 0.25
    assert centre.tolist() == [0]
    assert radius == pytest.approx(0.5)
    assert radius >= 0.5
    sources, _, _ = table_sources((0, 2), heads, weights, 2)
    assert [source.name for source in sources] == ["input 0"]  # no head fetches input 2


def test_an_alphabet_of_one_token_needs_no_head() -> None:
    sources, _, _ = table_sources((3,), [], np.ones((2, 5)), 1)
    assert sources[0].values.shape == (1, 5)
    assert not sources[0].values.any()
