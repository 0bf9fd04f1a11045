"""The figure `residual-stream`: marks stand where the weights read and write."""

from typing import Any

import numpy as np
import pytest

from paper_figures import (
    residual_stream_figure,
)
from paper_figures.inputs import Inputs

pytestmark = pytest.mark.usefixtures("style")


def test_marks_stand_where_a_matrix_reads_or_writes(made: Any) -> None:
    record = made("residual-stream")
    (axes,) = residual_stream_figure.draw(record).axes
    marks = {
        (line.get_marker(), round(line.get_xdata()[0]), line.get_ydata()[0])
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
    reads = {
        ("o", touch.stage, touch.subspace) for touch in record.touches if touch.part in residual_stream_figure.READS
    }
    writes = {("s", touch.stage, touch.subspace) for touch in record.touches} - {
        ("s", touch.stage, touch.subspace) for touch in record.touches if touch.part in residual_stream_figure.READS
    }
    assert reads <= marks
    assert writes <= marks
    assert {mark[0] for mark in marks} == {"o", "s"}


def test_the_weights_counted_are_those_of_the_matrices(made: Any, inputs: Inputs) -> None:
    record = made("residual-stream")
    names = [space.name for space in record.subspaces]
    stream, first = inputs.construction.stream, inputs.construction.weights.layers[0]
    written = {
        names[touch.subspace]: touch.weights for touch in record.touches if (touch.stage, touch.part) == (2, "W2")
    }
    dense = first.mlp.w_out.toarray()
    assert written == {"evidence": np.count_nonzero(dense[:, stream["evidence"].coordinates])}
    read = {names[touch.subspace] for touch in record.touches if (touch.stage, touch.part) == (1, "V")}
    assert read == {"token"}


def test_the_stages_are_named_by_their_circuits(made: Any) -> None:
    record = made("residual-stream")
    steps = [residual_stream_figure.step(names) for names in record.circuits]
    assert steps == ["", "read", "evidence", "average", "answer", ""]
