"""What the figures of the theory draw is what their records say, and the records are what the theory says."""

import json
import math
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scipy.stats import linregress

from construct.errors import InputError
from construct.oracle import answer
from construct.residual_stream import code_length
from construct.transformer import forward
from paper_figures import (
    attention_figure,
    depth_figure,
    learning_curve_figure,
    precision_figure,
    residual_stream_figure,
    resources_figure,
    sharpness_figure,
    simplex_figure,
    superposition_figure,
)
from paper_figures.inputs import Inputs
from paper_figures.style import PALETTE, task_colour, tint

pytestmark = pytest.mark.usefixtures("style")


def _lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """The places and values of the labelled lines."""
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}


# superposition


def test_the_target_of_the_prompt_is_the_exact_answer(made: Any, inputs: Inputs) -> None:
    record = made("superposition")
    exact = answer(inputs.construction.task_set, inputs.prompt)
    shares = {inputs.construction.task_set.alphabet[token]: str(share) for token, share in exact.target.items()}
    assert {row.token: row.target for row in record.answers} == shares
    assert shares == {"Lima": "6/11", "South America": "3/11", "PERU": "2/11"}


def test_bars_are_targets_in_the_colour_of_their_task_and_points_are_outputs(made: Any) -> None:
    record = made("superposition")
    left, right = superposition_figure.draw(record).axes
    assert [bar.get_width() for bar in left.patches] == [row.share for row in record.answers]
    for bar, row in zip(left.patches, record.answers, strict=True):
        assert bar.get_facecolor()[:3] == pytest.approx(tint(task_colour(row.tasks[0])))
    assert _lines(left)["output, float32"][0] == [row.output["float32"] for row in record.answers]
    for form in ("float64", "float32"):
        errors = [abs(row.output[form] - row.share) for row in record.answers]
        assert _lines(right)[f"error here, {form}"][0] == pytest.approx([max(each, 1e-12) for each in errors])


def test_the_intervals_end_at_the_certified_bounds_and_hold_the_error(made: Any) -> None:
    record = made("superposition")
    _, right = superposition_figure.draw(record).axes
    ends = sorted({round(bar.get_x() + bar.get_width(), 15) for bar in right.patches})
    assert ends == pytest.approx(sorted(record.bounds.values()))
    assert sum(abs(row.output["float32"] - row.share) for row in record.answers) <= record.bounds["float32"]


# residual-stream


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


# attention


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


# error-vs-sharpness


def test_nothing_found_is_above_what_is_certified(made: Any) -> None:
    for point in made("error-vs-sharpness").points:
        # float64 rounds: the bound is in real arithmetic, and the slack is its rounding at so few operations.
        assert point.found["float64"] <= point.bounds["real"] + 1e-12
        for form in ("float32", "float16", "bfloat16"):
            assert point.bounds[form] is None or point.found[form] <= point.bounds[form]


def test_the_points_found_and_the_bounds_are_drawn(made: Any) -> None:
    record = made("error-vs-sharpness")
    left, right = sharpness_figure.draw(record).axes
    at = [point.sharpness for point in record.points]
    assert _lines(left)["worst found, float64"] == (at, [point.found["float64"] for point in record.points])
    assert _lines(left)["certified, real arithmetic"] == (at, [point.bounds["real"] for point in record.points])
    for form in ("float32", "float16", "bfloat16"):
        drawn = _lines(right)[f"certified, {form}"][1]
        for value, point in zip(drawn, record.points, strict=True):
            assert value == point.bounds[form] or (math.isnan(value) and point.bounds[form] is None)


@pytest.mark.parametrize("rate", [1.5, 2.0])
def test_the_rate_fitted_is_the_rate_of_the_points(rate: float, made: Any) -> None:
    record = made("error-vs-sharpness")
    points = [
        msgspec.structs.replace(point, found={**point.found, "float64": 7 * math.exp(-rate * point.sharpness)})
        for point in record.points
    ]
    found, half = sharpness_figure.fitted_rate(msgspec.structs.replace(record, points=points))
    assert found == pytest.approx(rate)
    assert half < 1e-9


def test_what_was_found_falls_at_the_rate_of_the_theorem(made: Any) -> None:
    # The next term of the bound is smaller by z^2 <= e^-6, and the points span 9 in lambda.
    assert sharpness_figure.fitted_rate(made("error-vs-sharpness"))[0] == pytest.approx(sharpness_figure.RATE, abs=0.05)


def test_the_interval_of_the_rate_is_that_of_a_linear_regression(made: Any) -> None:
    record = made("error-vs-sharpness")
    points = sharpness_figure.fitted_points(record)
    logs = [math.log(point.found["float64"]) for point in points]
    fit = linregress([point.sharpness for point in points], logs)
    rate, half = sharpness_figure.fitted_rate(record)
    # Student's t at 0.975 with 2 degrees of freedom, from a table.
    assert len(points) == 4
    assert rate == pytest.approx(-fit.slope)
    assert half == pytest.approx(4.30265 * fit.stderr, rel=1e-5)


def test_points_without_a_format_or_without_errors_to_fit_are_refused(made: Any) -> None:
    record = made("error-vs-sharpness")
    less = msgspec.structs.replace(record.points[0], found={"float64": 0.1})
    with pytest.raises(ValueError, match="says nothing of float32"):
        msgspec.structs.replace(record, points=[less, *record.points])
    zero = [msgspec.structs.replace(point, found={**point.found, "float64": 0.0}) for point in record.points]
    with pytest.raises(ValueError, match="fewer than two points"):
        msgspec.structs.replace(record, points=zero)


# resources


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
        lines = _lines(axes)
        for name in resources_figure.CONSTRUCTIONS:
            sizes = [size for size in record.sizes if (size.construction, size.grown) == (name, grown)]
            assert lines[name] == ([size.at for size in sizes], [size.parameters for size in sizes])
            assert lines[f"{name}, not 0"][1] == [size.nonzero for size in sizes]
        for peer in record.peers.programs:
            (at,), (value,) = lines[f"{peer.tool}, measured"]
            assert (at, value) == (record.base[grown], peer.parameters)


def test_a_peer_measured_at_other_sizes_is_refused(made: Any) -> None:
    record = made("resources")
    with pytest.raises(ValueError, match="the base is"):
        msgspec.structs.replace(record, base={**record.base, "m": 17})


def test_the_budget_of_the_theorem_is_seven_layers_of_k_heads() -> None:
    sizes: Any = {"K": 5, "V": 11, "n": 2, "m": 16}
    assert [resources_figure.budget(name, sizes) for name in resources_figure.ROWS] == [7, 35, 16, None]


# precision-frontier


def test_every_proof_of_the_benchmark_that_lies_on_an_axis_is_drawn(made: Any) -> None:
    record = made("precision-frontier")
    figure = precision_figure.draw(record)
    for axes, axis in zip(figure.axes[:4], precision_figure.AXES, strict=True):
        for form, tasks in precision_figure.lines(axis):
            points = precision_figure.along(record, axis, form, tasks)
            name = form if tasks != 1 else f"{form}, K = 1"
            assert _lines(axes)[f"certified, {name}"] == ([at for at, _ in points], [bound for _, bound in points])


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


# in-context-learning-curve


def test_two_examples_are_explained_by_no_task_and_shaded(made: Any) -> None:
    record = made("in-context-learning-curve")
    unexplained = [at for at, step in enumerate(record.steps) if at and not step.explained_by]
    assert [record.steps[at].example for at in unexplained] == ["Spain->Tokyo", "Cuba->Europe"]
    explained = learning_curve_figure.draw(record).axes[2]
    assert [patch.get_x() + 0.5 for patch in explained.patches] == unexplained


def test_the_bars_of_an_answer_have_the_colour_of_its_task_and_the_height_of_its_share(made: Any) -> None:
    record = made("in-context-learning-curve")
    _, mixture, _ = learning_curve_figure.draw(record).axes
    for bars, name, task in zip(mixture.containers, record.answers, record.answer_tasks, strict=True):
        assert [bar.get_height() for bar in bars] == [step.mixture[name] for step in record.steps]
        assert {bar.get_facecolor()[:3] for bar in bars} == {tint(task_colour(task))}


def test_evidence_is_counted_over_the_examples_seen(made: Any) -> None:
    record = made("in-context-learning-curve")
    for seen, step in enumerate(record.steps):
        counts = [sum(task in each.explained_by for each in record.steps[1 : seen + 1]) for task in range(3)]
        assert step.exact == [count / seen if seen else 0.0 for count in counts]
        # Each answer to this query is one task's weight, so the certified |q_hat - q|_1 bounds that weight's error.
        assert step.model == pytest.approx(step.exact, abs=made("superposition").bounds["float32"])


def test_a_step_that_speaks_of_other_tasks_is_refused(made: Any) -> None:
    record = made("in-context-learning-curve")
    with pytest.raises(ValueError, match="evidence of 3 tasks, expected 2"):
        msgspec.structs.replace(record, tasks=record.tasks[1:])
    with pytest.raises(ValueError, match="other answers"):
        msgspec.structs.replace(record, answers=record.answers[1:])


# depth


def test_the_bits_needed_are_those_of_theorem_1() -> None:
    assert depth_figure.bits("0", 7) == 7
    # h(1/4) = 2 - (3/4) log2 3
    assert depth_figure.bits("1/4", 9) == pytest.approx((1 - (2 - 0.75 * math.log2(3))) * 8)


def test_no_count_is_below_the_theorem(made: Any) -> None:
    record = made("depth")
    assert {need.eps for need in record.needed} == {"0", "1/4"}
    for need in record.needed:
        assert need.counted >= need.bound
        if need.eps == "0":
            assert need.counted == need.examples
    wrong = msgspec.structs.replace(record.needed[-1], counted=0.0)
    with pytest.raises(ValueError, match="fewer than theorem 1"):
        msgspec.structs.replace(record, needed=[wrong])
    with pytest.raises(ValueError, match="where nothing was built"):
        msgspec.structs.replace(record, built=record.built[1:])


def test_the_line_goes_through_the_best_run_of_each_m(made: Any) -> None:
    record = made("depth")
    mean, largest, _ = depth_figure.draw(record).axes
    places, values = _lines(mean)["one layer, trained"]
    for at, value in zip(places, values, strict=True):
        assert value == min(run.mean for run in record.trained if (run.layers, run.examples) == (1, at))
    assert _lines(mean)["two layers, built"][1] == [built.mean for built in record.built]
    assert _lines(largest)["two layers, built"][1] == [built.largest for built in record.built]


# simplex


def test_there_is_a_mixture_for_each_way_to_share_the_examples(made: Any) -> None:
    record = made("simplex")
    counts = {tuple(mixture.counts) for mixture in record.mixtures}
    assert len(counts) == len(record.mixtures) == math.comb(record.examples + 2, 2)
    for mixture in record.mixtures:
        assert mixture.target == [float(Fraction(count, record.examples)) for count in mixture.counts]
        for form in simplex_figure.FORMATS:
            assert mixture.error[form] <= record.bounds[form]
            apart = sum(abs(a - b) for a, b in zip(mixture.output[form], mixture.target, strict=True))
            assert apart <= mixture.error[form] + 1e-12


def test_a_corner_has_the_colour_of_its_task(made: Any) -> None:
    for task in range(3):
        corner = [float(task == each) for each in range(3)]
        assert simplex_figure._blend(corner) == pytest.approx(to_rgb(PALETTE[task]))
    figure = simplex_figure.draw(made("simplex"))
    names = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert names == {name: task_colour(index) for index, name in enumerate(made("simplex").tasks)}


def test_the_dots_are_coloured_by_the_error_in_the_unit_of_the_bar(made: Any) -> None:
    record = made("simplex")
    figure = simplex_figure.draw(record)
    (points,) = figure.axes[1].collections
    errors = np.array([mixture.error["float32"] for mixture in record.mixtures])
    power = math.floor(math.log10(errors.max()))
    assert np.allclose(points.get_array(), errors / 10.0**power, rtol=1e-12, atol=0)
    assert any(f"10^{{{power}}}" in axes.get_xlabel() for axes in figure.axes)


def test_tasks_without_enough_rows_are_refused(tmp_path: Any) -> None:
    from construct.artifact import save
    from construct.suites import build_suite
    from construct.theorems import two_layer

    save(two_layer(build_suite("retrieval", tasks=3, alphabet_size=5, inputs=3), examples=7), tmp_path / "a")
    with pytest.raises(InputError, match="the figure simplex needs"):
        simplex_figure.collect(Inputs(tmp_path / "a"))
