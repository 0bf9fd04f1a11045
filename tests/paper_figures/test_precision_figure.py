"""The figure `precision-frontier`: every proof of the benchmark, and its edges."""

import json
from typing import Any

import msgspec
import pytest

from paper_figures import (
    precision_figure,
)
from paper_figures.inputs import Inputs
from tests.paper_figures.drawn import lines

pytestmark = pytest.mark.usefixtures("style")


def test_every_proof_of_the_benchmark_that_lies_on_an_axis_is_drawn(made: Any) -> None:
    record = made("precision-frontier")
    figure = precision_figure.draw(record)
    for axes, axis in zip(figure.axes[:4], precision_figure.AXES, strict=True):
        for form, tasks in precision_figure.lines(axis):
            points = precision_figure.along(record, axis, form, tasks)
            name = form if tasks != 1 else f"{form}, K = 1"
            assert lines(axes)[f"certified, {name}"] == ([at for at, _ in points], [bound for _, bound in points])


def test_regions_end_at_the_edges_that_the_benchmark_found(made: Any, inputs: Inputs) -> None:
    caption = precision_figure.caption(made("precision-frontier"))
    records = json.loads(inputs.file("results.json", "make bench").read_bytes())["records"]["precision"]
    edges = [record for record in records if "edge" in record and None not in (record["inside"], record["outside"])]
    assert len(edges) > 3
    for edge in edges:
        name = edge["form"] + (", K = 1" if edge["base"].startswith("K=1") else "")
        assert f"{name}: {edge['in']} = {edge['inside']:,}, not {edge['outside']:,}" in caption


def test_nothing_run_is_above_what_is_certified_there(made: Any) -> None:
    record = made("precision-frontier")
    for run in record.runs:
        bounds = dict(precision_figure.along(record, run.axis, run.form, run.tasks))
        assert run.worst <= bounds[run.size]


def test_proofs_that_leave_an_axis_or_a_format_out_are_refused(made: Any) -> None:
    record = made("precision-frontier")
    with pytest.raises(ValueError, match="no proof for growing n"):
        msgspec.structs.replace(record, proofs=[proof for proof in record.proofs if proof.axis != "n"])
    silent = msgspec.structs.replace(record.proofs[0], bounds={"float32": 1e-3})
    with pytest.raises(ValueError, match="says nothing of float16"):
        msgspec.structs.replace(record, proofs=[silent, *record.proofs])
