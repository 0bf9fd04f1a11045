"""The figure `attention`: patterns of the forward pass, and the blocks of the matrices."""

from typing import Any

import msgspec
import numpy as np
import pytest

from construct.transformer import forward
from paper_figures import (
    attention_figure,
)
from paper_figures.inputs import Inputs

pytestmark = pytest.mark.usefixtures("style")


def test_the_patterns_drawn_are_those_of_the_forward_pass(made: Any, inputs: Inputs) -> None:
    record = made("attention")
    figure = attention_figure.draw(record)
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(images) == len(record.heads) == 2
    for image, head in zip(images, record.heads, strict=True):
        assert np.array_equal(image, head.pattern)
        assert np.asarray(head.pattern).sum(axis=1) == pytest.approx(1)
    prompt = type(inputs.prompt)(inputs.prompt.examples[:4], inputs.prompt.query)
    trace = forward(inputs.construction.weights, inputs.construction.layout.ids(prompt))
    assert np.array_equal(record.heads[1].pattern, trace.patterns[1][0])
    # At the last EQ the second layer averages over the answers: a quarter each, up to the leak.
    assert [round(share, 6) for share in record.heads[1].pattern[-1] if share > 1e-6] == [0.25] * 4


def test_the_entry_of_a_block_is_the_largest_in_absolute_value_with_its_sign(made: Any, inputs: Inputs) -> None:
    record = made("attention")
    attention, stream = inputs.construction.weights.layers[0].attention, inputs.construction.stream
    product = attention.query[0].astype(float) @ attention.key[0].astype(float).T
    for row, down in enumerate(record.subspaces):
        for column, across in enumerate(record.subspaces):
            block = product[stream[down].coordinates][:, stream[across].coordinates].ravel()
            assert abs(record.heads[0].query_key[row][column]) == np.abs(block).max()
            assert record.heads[0].query_key[row][column] in block
    assert attention_figure.joined(np.array([[0.0, 0, 0], [0, 0, -2]])) == ([1], [2])


def test_a_pattern_of_another_size_is_refused(made: Any) -> None:
    record = made("attention")
    with pytest.raises(ValueError, match="is not 14 x 14"):
        msgspec.structs.replace(record, positions=record.positions[1:])
