"""The figure `resources`: sizes counted, peers at the base, the budget."""

from typing import Any

import msgspec
import pytest

from construct.residual_stream import code_length
from paper_figures import (
    resources_figure,
)
from tests.paper_figures.drawn import lines

pytestmark = pytest.mark.usefixtures("style")


def test_the_width_counted_is_that_of_the_theorem(made: Any) -> None:
    for size in made("resources").sizes:
        given = {**resources_figure.BASE, size.grown: size.at}
        bits, first = code_length(given["V"]), code_length(given["m"] + 1)
        reads = min(given["K"], given["n"])
        if size.construction == "two-layer":
            assert size.width == given["V"] + 4 + first + code_length(given["n"]) + reads * bits + given["K"]
            assert (size.layers, size.heads) == (2, reads + 1)
        if size.construction == "seven-layer":
            assert size.layers == 7
            assert size.heads <= 7 * given["K"]


def test_the_sizes_are_drawn_and_the_peers_stand_at_the_base(made: Any) -> None:
    record = made("resources")
    figure = resources_figure.draw(record)
    for axes, grown in zip(figure.axes[-4:], resources_figure.AXES, strict=True):
        drawn = lines(axes)
        for name in resources_figure.CONSTRUCTIONS:
            sizes = [size for size in record.sizes if (size.construction, size.grown) == (name, grown)]
            assert drawn[name] == ([size.at for size in sizes], [size.parameters for size in sizes])
            assert drawn[f"{name}, not 0"][1] == [size.nonzero for size in sizes]
        for peer in record.peers.programs:
            (at,), (value,) = drawn[f"{peer.tool}, measured"]
            assert (at, value) == (record.base[grown], peer.parameters)


def test_a_peer_measured_at_other_sizes_is_refused(made: Any) -> None:
    record = made("resources")
    with pytest.raises(ValueError, match="the base is"):
        msgspec.structs.replace(record, base={**record.base, "m": 17})


def test_the_budget_of_the_theorem_is_seven_layers_of_k_heads() -> None:
    sizes: Any = {"K": 5, "V": 11, "n": 2, "m": 16}
    assert [resources_figure.budget(name, sizes) for name in resources_figure.ROWS] == [7, 35, 16, None]
