"""The style: one colour a task, told apart by those who see fewer colours, and text that is not read as a formula."""

import itertools

import pytest
from matplotlib.colors import to_rgb

from paper_figures.style import PALETTE, new_figure, plain, styled, task_colour, task_marker, tint

# Vienot, Brettel and Mollon 1999: what a dichromat sees of linear RGB (red-green: protan and deutan).
PROTAN = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))
DEUTAN = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def _seen(colour: str, matrix: tuple[tuple[float, ...], ...]) -> list[float]:
    red, green, blue = (_linear(part) for part in to_rgb(colour))
    return [row[0] * red + row[1] * green + row[2] * blue for row in matrix]


@pytest.mark.parametrize("matrix", [PROTAN, DEUTAN], ids=["protan", "deutan"])
def test_the_first_three_tasks_are_told_apart_without_red_or_green(matrix: tuple[tuple[float, ...], ...]) -> None:
    for left, right in itertools.combinations(range(3), 2):
        first, second = _seen(task_colour(left), matrix), _seen(task_colour(right), matrix)
        assert sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5 > 0.1, (left, right)


def test_no_two_tasks_share_colour_and_marker() -> None:
    looks = {(task_colour(index), task_marker(index)) for index in range(7 * len(PALETTE))}
    assert len(looks) == 7 * len(PALETTE)


def test_a_tint_is_the_colour_or_white_at_its_ends() -> None:
    assert tint("#0072B2", 1) == pytest.approx(to_rgb("#0072B2"))
    assert tint("#0072B2", 0) == (1.0, 1.0, 1.0)


def test_a_dollar_sign_is_drawn_as_one() -> None:
    with styled():
        figure = new_figure(2, 2)
        figure.text(0, 0, plain("5$ and 6$"))
        figure.draw_without_rendering()  # an unbalanced formula would raise
    assert plain("5$") == r"5\$"


def test_the_style_is_gone_after_drawing() -> None:
    import matplotlib

    before = matplotlib.rcParams["font.size"]
    with styled():
        assert matplotlib.rcParams["font.size"] == 7.0
    assert matplotlib.rcParams["font.size"] == before
