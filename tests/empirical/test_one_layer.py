"""The experiment on one layer: that it measures what it says, can be taken up again, and can fail."""

import dataclasses
import itertools
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from construct.errors import InputError
from construct.oracle import curve
from construct.prompts import Example, Layout, Prompt
from construct.suites import build_suite
from construct.torch_model import TorchTransformer
from empirical import one_layer
from empirical.one_layer import (
    QUICK,
    Run,
    Settings,
    best_run,
    changed,
    command,
    constant_error,
    errors,
    exact_record,
    execute,
    experiment,
    identity_construction,
    runs,
    sample,
    table,
    worst_found,
)
from empirical.small_model import Shape, SmallTransformer

ROOT = Path(__file__).resolve().parents[2]


def test_targets_at_every_eq_are_those_of_the_oracle() -> None:
    layout = Layout(2, 1, 5)
    ids, found = sample(layout, 7, torch.Generator().manual_seed(1))
    task_set = build_suite("retrieval", tasks=1, alphabet_size=2, inputs=1)
    for row, target in zip(ids.tolist(), found, strict=True):
        examples = tuple(Example((row[1 + 3 * i],), row[3 + 3 * i]) for i in range(5))
        prompt = Prompt(examples, (row[-2],))
        assert row == layout.ids(prompt)
        for at_eq, exact in zip(target, curve(task_set, prompt), strict=True):
            assert {v: pytest.approx(float(w)) for v, w in exact.target.items()} == {
                v: float(w) for v, w in enumerate(at_eq) if w
            }


def test_the_share_of_agreeing_examples_is_spread_evenly() -> None:
    m = 4
    _, found = sample(Layout(2, 1, m), 20_000, torch.Generator().manual_seed(2))
    counts = torch.bincount((found[:, -1].sum(-1) * m).round().long(), minlength=m + 1) / len(found)
    # Five standard deviations of a frequency of 1/5 among 20,000.
    assert (counts - 1 / (m + 1)).abs().max() < 5 * (0.16 / 20_000) ** 0.5


@pytest.mark.parametrize("examples", [1, 4, 9])
def test_no_constant_answer_is_better_than_one_half(examples: int) -> None:
    shares = [Fraction(count, examples) for count in range(examples + 1)]
    means = [sum(abs(share - Fraction(guess, 100)) for share in shares) / len(shares) for guess in range(101)]
    assert constant_error(examples) == pytest.approx(float(min(means)))


def test_a_trained_model_is_causal_and_of_the_shape_asked_for() -> None:
    shape = Shape(layers=2, heads=3, d_model=7, mlp_width=11, vocabulary=4, positions=12, alphabet=2)
    model = SmallTransformer(shape, seed=0)
    torch.nn.init.normal_(model.unembedding, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(0, 4, (2, 12), generator=torch.Generator().manual_seed(2))
    other = ids.clone()
    other[:, 8:] = 3 - other[:, 8:]
    every = torch.arange(12)
    before, after = model(ids, every), model(other, every)
    assert before.shape == (2, 12, 2)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])
    assert torch.allclose(model(ids, torch.tensor([5])), before[:, 5:6], atol=1e-5)


def test_one_layer_reaches_the_answer_through_one_pass_over_the_embeddings() -> None:
    shape = Shape(layers=1, heads=2, d_model=5, mlp_width=3, vocabulary=4, positions=9, alphabet=2)
    model = SmallTransformer(shape, seed=4)
    torch.nn.init.normal_(model.unembedding, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[2, 0, 3, 1, 1, 3, 1, 0, 3]])
    layer = model.layers[0]
    stream = model.token[ids[0]] + model.position
    last, summed = stream[-1], stream[-1]
    for head in range(2):
        scores = (stream @ layer.key[head]) @ (last @ layer.query[head]) / 5**0.5
        summed = summed + scores.softmax(0) @ stream @ layer.value[head] @ layer.output[head]
    answer = (
        summed + torch.relu(summed @ layer.w_in + layer.bias_in) @ layer.w_out + layer.bias_out
    ) @ model.unembedding
    assert torch.allclose(model(ids, torch.tensor([8]))[0, 0], answer, atol=1e-5)


def test_changed_prompts_are_all_with_one_token_or_one_example_flipped() -> None:
    layout = Layout(2, 1, 3)
    ids, _ = sample(layout, 1, torch.Generator().manual_seed(3))
    near = changed(layout, ids[0])
    differing = {tuple((row != ids[0]).nonzero()[:, 0].tolist()) for row in near}
    assert differing == {(1,), (4,), (7,), (3,), (6,), (9,), (1, 3), (4, 6), (7, 9), (10,)}
    assert set(near[:, [0, 2, 5]].unique().tolist()) == {2, 3}


def test_the_search_for_a_bad_prompt_reaches_the_worst_of_all() -> None:
    built = identity_construction(3)
    shape = Shape(1, 2, built.weights.d_model, 5, 4, built.layout.positions, 2)
    model = SmallTransformer(shape, seed=0)
    torch.nn.init.normal_(model.unembedding, generator=torch.Generator().manual_seed(1))
    bits = torch.tensor(list(itertools.product(range(2), repeat=7)))
    ids, _ = sample(built.layout, len(bits), torch.Generator().manual_seed(0))
    ids[:, 1::3], ids[:, 3::3] = bits[:, :4], bits[:, 4:]
    worst = float(errors(model, built.layout, ids).max())
    found = worst_found(model, built.layout, ids[::9], dataclasses.replace(QUICK, ascent_rounds=20, ascent_starts=20))
    assert found == pytest.approx(worst)


def test_the_constructions_error_is_within_its_bound_and_a_broken_one_is_not() -> None:
    record = exact_record(11, QUICK)
    assert record["largest_error"] <= record["bound_float32"] < 1e-5
    assert record["d_model"] == 8 + 4
    built = identity_construction(11)
    built.weights.layers[0].attention.value[:] = 0.0
    ids, _ = sample(built.layout, 50, torch.Generator().manual_seed(0))
    assert errors(TorchTransformer(built.weights), built.layout, ids).max() > 0.5


def test_training_lowers_the_error_of_two_layers_below_the_constant_answer() -> None:
    settings = dataclasses.replace(QUICK, steps=400, two_layer_batch=64, mlp_width=32)
    found = execute(Run(layers=2, examples=2, rate=1e-2, seed=0), settings)
    assert found["mean_error"] < constant_error(2) / 2
    assert found["mean_error"] <= found["largest_error"] <= found["searched_error"]


def test_equal_seeds_give_equal_models() -> None:
    run = Run(layers=1, examples=3, rate=1e-2, seed=5)
    settings = dataclasses.replace(QUICK, steps=5)
    first, second = (execute(run, settings) for _ in range(2))
    other = execute(dataclasses.replace(run, seed=6), settings)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["mean_error"] != other["mean_error"]


def test_an_interrupted_experiment_is_taken_up_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(QUICK, steps=3, test_prompts=8, ascent_rounds=1)
    every, trained = list(runs(settings)), []

    def counted(run: Run, settings: Settings) -> dict[str, object]:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(run)
        return execute(run, settings)

    monkeypatch.setattr(one_layer, "execute", counted)
    with pytest.raises(KeyboardInterrupt):
        experiment(settings, tmp_path / "record.json")
    assert not (tmp_path / "record.json").exists()
    monkeypatch.setattr(one_layer, "execute", lambda run, settings: (trained.append(run), execute(run, settings))[1])
    record = experiment(settings, tmp_path / "record.json")
    assert trained == every, "each run once"
    assert [run["layers"] for run in record["runs"]] == [run.layers for run in every]
    assert json.loads((tmp_path / "record.json").read_text()) == json.loads(json.dumps(record))
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_runs_of_other_settings_are_not_taken_up_and_unreadable_ones_are_refused(tmp_path: Path) -> None:
    kept = tmp_path / "record.json.runs"
    settings = dataclasses.replace(QUICK, one_layer=(2,), two_layer=(), steps=1, test_prompts=4, ascent_rounds=1)
    kept.write_text(json.dumps({"settings": {}, "runs": [{"layers": 1}]}))
    assert len(experiment(settings, tmp_path / "record.json")["runs"]) == 1
    kept.write_text("{")
    with pytest.raises(InputError, match="delete it to start anew"):
        experiment(settings, tmp_path / "record.json")
    result = CliRunner().invoke(command, ["--quick", "--out", str(tmp_path / "record.json")])
    assert result.exit_code == 2
    assert "delete it" in result.output


def test_a_folder_that_does_not_exist_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--quick", "--out", str(tmp_path / "none" / "record.json")])
    assert result.exit_code == 2
    assert "does not exist" in result.output


def test_the_document_shows_the_table_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "one_layer.json").read_text(encoding="utf-8"))
    assert table(record) in (ROOT / "docs" / "theory" / "depth.md").read_text(encoding="utf-8")
    settings = Settings(**{name: tuple(v) if isinstance(v, list) else v for name, v in record["settings"].items()})
    assert settings == Settings(), "the record was made with the settings that stand in the code"
    names = [field.name for field in dataclasses.fields(Run)]
    assert [Run(*(run[name] for name in names)) for run in record["runs"]] == list(runs(settings))


def test_the_best_run_is_the_one_of_least_mean_error() -> None:
    found = [{"layers": 1, "examples": 4, "mean_error": error} for error in (0.3, 0.1, 0.2)]
    assert best_run(found, 1, 4) == found[1]
    assert best_run(found, 2, 4) is None
