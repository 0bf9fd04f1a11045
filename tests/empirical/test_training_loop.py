"""The loop: what decides the weights, what a run leaves behind, and how it goes on."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from construct.errors import ArtifactError, InputError
from construct.suites import build_suite

if find_spec("transformers") is None or find_spec("accelerate") is None:
    pytest.skip("transformers and accelerate are not installed", allow_module_level=True)

from empirical.training import checkpoint, loop
from empirical.training.loop import Diverged, Told, train
from empirical.training.models import answer_loss, make_model
from empirical.training.presets import PRESETS
from empirical.training.progress import operations_per_token, read_log, share_of_peak
from empirical.training.settings import ARCHITECTURES, Settings, changed

TASKS = build_suite("retrieval", tasks=2, alphabet_size=7, inputs=2)
TINY = Settings(
    layers=1,
    heads=1,
    width=8,
    examples=3,
    batch=6,
    steps=13,
    warmup=3,
    validate_every=4,
    validation_prompts=5,
    threads=1,
)


class Stop(Exception):  # noqa: N818
    """Ends a run from outside."""


def _weights(directory: Path) -> bytes:
    return (directory / "checkpoint" / "model.safetensors").read_bytes()


def _stopping_at(step: int) -> Callable[[Told], None]:
    def tell(told: Told) -> None:
        if told.row.step == step:
            raise Stop

    return tell


def _rows(directory: Path) -> list[dict[str, Any]]:
    """The lines of the log, less what clocks decide."""
    clocks = ("seconds", "tokens_per_second")
    return [{name: value for name, value in row.items() if name not in clocks} for row in read_log(directory)[1]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal_settings_end_with_equal_weights_and_the_seed_decides_them(architecture: str, tmp_path: Path) -> None:
    settings = changed(TINY, architecture=architecture)
    for name in ("one", "two"):
        train(TASKS, settings, tmp_path / name)
    assert _weights(tmp_path / "one") == _weights(tmp_path / "two")
    assert _rows(tmp_path / "one") == _rows(tmp_path / "two")
    train(TASKS, changed(settings, seed=1), tmp_path / "three")
    assert _weights(tmp_path / "one") != _weights(tmp_path / "three")


@pytest.mark.parametrize("stop", [4, 8, 12])
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_weights_and_log(stop: int, tmp_path: Path) -> None:
    settings = changed(TINY, mixed=0.5, label_noise=0.1)
    train(TASKS, settings, tmp_path / "whole")
    with pytest.raises(Stop):
        train(TASKS, settings, tmp_path / "cut", save_every=0.0, tell=_stopping_at(stop))
    # The line of the step was written and its checkpoint was not: the line must not stand there twice.
    train(TASKS, settings, tmp_path / "cut")
    assert _weights(tmp_path / "whole") == _weights(tmp_path / "cut")
    assert _rows(tmp_path / "whole") == _rows(tmp_path / "cut")
    assert [row["step"] for row in _rows(tmp_path / "cut")] == [4, 8, 12, 13]


def test_a_checkpoint_that_was_being_replaced_is_put_back(tmp_path: Path) -> None:
    train(TASKS, TINY, tmp_path / "whole")
    with pytest.raises(Stop):
        train(TASKS, TINY, tmp_path / "cut", save_every=0.0, tell=_stopping_at(8))
    folder = tmp_path / "cut"
    (folder / "checkpoint").rename(folder / ".checkpoint.old")  # as a kill between the two renames leaves it
    shutil.copytree(folder / ".checkpoint.old", folder / ".checkpoint.part")
    train(TASKS, TINY, folder)
    assert _weights(tmp_path / "whole") == _weights(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "log.jsonl"]


def test_what_is_read_lies_in_memory_as_what_is_made(tmp_path: Path) -> None:
    train(TASKS, TINY, tmp_path)
    found = checkpoint.read(tmp_path, checkpoint.identity(TASKS, TINY))
    assert found is not None
    made = [one.data_ptr() % 64 for one in make_model(TINY, TINY.layout(TASKS)).parameters()]
    assert [one.data_ptr() % 64 for one in checkpoint.read_model(found).parameters()] == made == [0] * len(made)
    assert {one.data_ptr() % 64 for one in found.tensors.values()} == {0}


def test_a_finished_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(TASKS, TINY, tmp_path)
    monkeypatch.setattr(loop, "Trainer", None)  # would fail if it were called
    assert train(TASKS, TINY, tmp_path).step == 13


def test_a_step_lowers_the_loss_of_its_own_batch_and_training_learns(tmp_path: Path) -> None:
    task_set = build_suite("plus", tasks=1, alphabet_size=5)
    train(task_set, changed(TINY, width=16, batch=32, steps=120, rate=2e-2, validate_every=30), tmp_path)
    losses = [row["loss"] for row in _rows(tmp_path)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.3
    assert _rows(tmp_path)[-1]["accuracy"]["plus_1"] > 0.95


def test_parts_of_a_batch_give_the_loss_of_the_whole(tmp_path: Path) -> None:
    for parts in (1, 3):
        train(TASKS, changed(TINY, accumulate=parts), tmp_path / str(parts))
    one, three = (_rows(tmp_path / str(parts)) for parts in (1, 3))
    # Sums in another order: float32 keeps 7 digits, and 13 steps amplify what is lost.
    assert [row["loss"] for row in three] == pytest.approx([row["loss"] for row in one], rel=1e-4)


def test_the_loss_is_that_of_the_answers_alone() -> None:
    model = make_model(TINY, TINY.layout(TASKS))
    ids = torch.randint(7, (4, 17), generator=torch.Generator().manual_seed(0))
    eq = torch.tensor([3, 7, 11, 15])
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.log_softmax(-1)
    wanted = -torch.stack([logits[row, at, ids[row, at + 1]] for row in range(4) for at in eq]).mean()
    assert answer_loss(model, ids, eq).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = loop.answer_loss, []

    def broken(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return loss(*arguments) * (float("nan") if len(calls) == 7 else 1.0)

    monkeypatch.setattr(loop, "answer_loss", broken)
    with pytest.raises(Diverged, match="the loss is nan at step 7"):
        train(TASKS, TINY, tmp_path, save_every=0.0)
    monkeypatch.undo()
    kept = checkpoint.read(tmp_path, checkpoint.identity(TASKS, TINY))
    assert kept is not None
    assert kept.progress.step == 6
    assert all(torch.isfinite(one).all() for one in checkpoint.read_model(kept).parameters())


def test_weights_that_are_no_numbers_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.AdamW.step

    def broken(self: torch.optim.AdamW, closure: None = None) -> None:
        step(self, closure)
        self.param_groups[0]["params"][0].data[0, 0] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(Diverged, match="a weight is no number after step 1"):
        train(TASKS, TINY, tmp_path, save_every=0.0)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("name", ["save_file", "_sync"])
def test_a_full_disk_is_said_and_the_last_checkpoint_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop):
        train(TASKS, TINY, tmp_path, save_every=0.0, tell=_stopping_at(4))
    before = _weights(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, name, full)
    with pytest.raises(ArtifactError, match=r"No space left on device; the last one is kept: make room"):
        train(TASKS, TINY, tmp_path, save_every=0.0)
    assert _weights(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "log.jsonl"]


def test_minutes_settle_the_steps_once_for_all(tmp_path: Path) -> None:
    settings = changed(TINY, minutes=0.02, validate_every=50)
    with pytest.raises(Stop):
        train(TASKS, settings, tmp_path, tell=lambda _: (_ for _ in ()).throw(Stop()))
    kept = checkpoint.read(tmp_path, checkpoint.identity(TASKS, settings))
    assert kept is not None
    assert kept.progress.step == loop.TIMED
    assert kept.progress.steps > loop.TIMED
    assert train(TASKS, settings, tmp_path).step == kept.progress.steps


def test_other_settings_other_tasks_and_other_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(TASKS, TINY, tmp_path)
    with pytest.raises(ArtifactError, match=r"another run \(rate 0.002, now 0.001; steps 13, now 14\)"):
        train(TASKS, changed(TINY, rate=1e-3, steps=14), tmp_path)
    with pytest.raises(ArtifactError, match=r"another run \(tasks_sha256\)"):
        train(build_suite("retrieval", tasks=2, alphabet_size=8, inputs=2), TINY, tmp_path)
    monkeypatch.setattr(checkpoint, "CODE_VERSION", 99)
    with pytest.raises(ArtifactError, match=r"other code \(version 1.*here version 99"):
        train(TASKS, TINY, tmp_path)


def test_a_run_without_a_checkpoint_is_known_by_its_log(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(TASKS, TINY, tmp_path, tell=_stopping_at(4))
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    with pytest.raises(ArtifactError, match=r"another run \(seed 0, now 1\)"):
        train(TASKS, changed(TINY, seed=1), tmp_path)
    train(TASKS, TINY, tmp_path)
    assert [row["step"] for row in _rows(tmp_path)] == [4, 8, 12, 13]


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(ArtifactError, match=r"holds something else \(thesis.tex\)"):
        train(TASKS, TINY, tmp_path)
    with pytest.raises(ArtifactError, match="cannot use"):
        train(TASKS, TINY, tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with checkpoint.held(tmp_path), pytest.raises(ArtifactError, match="another process is training in"):
        train(TASKS, TINY, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert train(TASKS, TINY, tmp_path).step == 13  # it is free again


@pytest.mark.parametrize("name", ["training.json", "training.safetensors", "model.safetensors"])
def test_a_damaged_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(TASKS, TINY, tmp_path, save_every=0.0, tell=_stopping_at(8))
    path = tmp_path / "checkpoint" / name
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtifactError, match="damaged"):
        train(TASKS, TINY, tmp_path)


def test_a_checkpoint_holds_no_pickle_and_says_what_it_is(tmp_path: Path) -> None:
    train(TASKS, TINY, tmp_path)
    found = sorted(path.suffix for path in (tmp_path / "checkpoint").iterdir())
    assert set(found) == {".json", ".safetensors"}
    data = json.loads((tmp_path / "checkpoint" / "training.json").read_text(encoding="utf-8"))
    assert data["identity"]["settings"] == TINY.to_json()
    assert {"task-superposition", "torch", "transformers", "version"} == data["identity"]["code"].keys()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layers": 0}, "layers is 0: expected at least 1"),
        ({"width": 9, "heads": 2}, "the width must be a multiple of the heads"),
        ({"width": 9, "heads": 3}, "rotary positions need an even width of each head, not 3"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"mixed": 1.5}, "mixed is 1.5: expected a number from 0 to 1"),
        ({"accumulate": 4}, "batch is 6 and accumulate 4"),
        ({"steps": 0}, "steps is 0 and minutes 0.0: give one of them"),
        ({"steps": 3, "minutes": 1.0}, "steps is 3 and minutes 1.0: give one of them"),
        ({"architecture": "mamba"}, "expected gpt2 or llama"),
        ({"seed": 2**31}, "expected less than 2\\^31"),
        ({"beta2": 1.0}, "beta2 is 1.0"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"precision": "fp16"}, "precision is 'fp16' on cpu"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        changed(TINY, **given)


def test_a_context_too_short_for_the_examples_is_refused_with_the_number_that_fits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"take 16 positions; use --context 16 or --examples 2"):
        train(TASKS, changed(TINY, context=15), tmp_path)
    train(TASKS, changed(TINY, context=40, steps=1), tmp_path)
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    assert config["max_position_embeddings"] == 40


def test_processes_that_do_not_divide_the_batch_are_refused() -> None:
    assert changed(TINY, accumulate=2).share(3) == 1
    with pytest.raises(InputError, match="4 processes of 1 parts do not divide it; use a multiple of 4"):
        TINY.share(4)


def test_bfloat16_trains_nearly_alike(tmp_path: Path) -> None:
    for precision in ("no", "bf16"):
        train(TASKS, changed(TINY, precision=precision), tmp_path / precision)
    losses = [[row["loss"] for row in _rows(tmp_path / precision)] for precision in ("no", "bf16")]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_rate_rises_and_falls_as_it_is_said() -> None:
    settings = changed(TINY, rate=1.0, warmup=4, final_rate=0.25)
    rates = [settings.rate_at(step, 14) for step in range(14)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx(1.0)
    assert rates[13] == pytest.approx(0.25)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert [settings.rate_at(step, 0) for step in (1, 9)] == [0.5, 1.0]


def test_the_log_knows_speed_and_share_of_the_peak(tmp_path: Path) -> None:
    train(TASKS, TINY, tmp_path)
    head, rows = read_log(tmp_path)
    assert (head["tasks"], head["processes"]) == (["ret_1", "ret_2"], 1)
    assert rows[-1]["tokens"] == 13 * 6 * 16
    assert rows[-1]["tokens_per_second"] > 0
    assert rows[-1]["share_of_peak"] is None  # of a CPU it is not known
    operations = operations_per_token(1000, 2, 8, 16)
    assert operations == 6 * 1000 + 12 * 2 * 8 * 16
    whole = share_of_peak(
        "NVIDIA H100 80GB HBM3", tokens_per_second=989e12 / operations, operations=operations, devices=2
    )
    assert whole == pytest.approx(0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_their_suites(name: str) -> None:
    preset = PRESETS[name]
    task_set = build_suite(preset.suite, tasks=preset.tasks, alphabet_size=preset.alphabet_size, inputs=preset.inputs)
    layout = preset.settings.layout(task_set)
    assert layout.positions == (preset.settings.examples + 1) * (preset.inputs + 2)
    assert len(task_set.tasks) == preset.tasks >= 3
