"""Records that are missing are named with the command that makes them, and those that do not fit are refused."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from construct.errors import InputError
from paper_figures import gallery
from paper_figures.inputs import Inputs
from paper_figures.records import fitted
from paper_figures.registry import FIGURES, entry
from paper_figures.runs import Bar, model_of

RECORDS = Path(__file__).resolve().parents[2] / "records"
COMPARISONS = [figure.name for figure in FIGURES if figure.kind == "comparison"]


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """The record of the study with its first run alone, and what learners answer to that one's prompts."""
    data: dict[str, Any] = json.loads((RECORDS / "training-study.json").read_text(encoding="utf-8"))
    data["runs"] = data["runs"][:1]
    data["predictions"] = [one for one in data["predictions"] if one["setup"] == data["runs"][0]["setup"]]
    return data


def collected(name: str, folder: Path) -> Any:
    return entry(name).load().collect(Inputs(records=folder))


def copied(folder: Path, *names: str) -> Path:
    for name in names:
        shutil.copy(RECORDS / name, folder / Path(name).name)
    return folder


@pytest.mark.parametrize("name", COMPARISONS)
def test_missing_records_are_named_with_their_command(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no records .*`make (evaluations|study|settings)`"):
        collected(name, tmp_path)


@pytest.mark.parametrize("name", ["mixture-curve", "superposed-or-committed"])
def test_runs_without_a_curve_do_not_serve_and_the_command_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mixtures of two tasks.*`make evaluations`"):
        collected(name, copied(tmp_path, "evaluate-construction.jsonl"))


def test_runs_of_other_suites_are_not_the_paper_s_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="add_translate, country, copy_add, letters: `make settings`"):
        collected("settings", copied(tmp_path, "evaluate-construction.jsonl", "curve-construction.jsonl"))


def test_either_kind_of_records_is_enough_for_a_mixture_curve(small: dict[str, Any], tmp_path: Path) -> None:
    asked = collected("mixture-curve", copied(tmp_path, "curve-construction.jsonl"))
    assert asked.trained is None
    assert len(asked.asked) == 1
    (tmp_path / "curve-construction.jsonl").unlink()
    (tmp_path / "training-study.json").write_text(json.dumps(small))
    trained = collected("mixture-curve", tmp_path)
    assert trained.asked == []
    assert trained.trained is not None


def test_without_evaluations_the_exact_learner_stands_for_the_construction(
    small: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "training-study.json").write_text(json.dumps(small))
    record = collected("superposed-or-committed", tmp_path)
    first = record.rows[0]
    assert first.model.label == "learner: exact superposition"
    for cell in first.cells:
        # Some examples are consistent with both tasks.
        assert np.mean(cell.probabilities) == pytest.approx(cell.share, abs=0.06)
        assert cell.index.value > 0.98


def test_a_damaged_run_is_refused_by_name(tmp_path: Path) -> None:
    copied(tmp_path, "curve-construction.jsonl")
    path = tmp_path / "curve-construction.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"curve-construction\.jsonl is no file of results, or is damaged"):
        collected("mixture-curve", tmp_path)


def test_the_log_of_a_training_run_is_no_evaluation_and_does_not_disturb(tmp_path: Path) -> None:
    copied(tmp_path, "curve-construction.jsonl")
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    assert len(collected("mixture-curve", tmp_path).asked) == 1


@pytest.mark.parametrize("name", ["completion", "emergence"])
def test_a_study_with_a_field_too_few_is_refused(name: str, small: dict[str, Any], tmp_path: Path) -> None:
    run = {field: value for field, value in small["runs"][0].items() if field != "emergence"}
    data = {**small, "runs": [run]}
    (tmp_path / "training-study.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"is damaged: .*emergence"):
        collected(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "field"),
    [("task-vectors", "task-vectors-trained.json", "transfer"), ("mechanism", "mechanism.json", "trained")],
)
def test_records_of_a_command_that_lack_a_field_are_refused(name: str, file: str, field: str, tmp_path: Path) -> None:
    data = json.loads((RECORDS / file).read_text(encoding="utf-8"))
    data[field] = {}
    (tmp_path / file).write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"{file} does not hold the records of this figure: .*missing required field"):
        collected(name, tmp_path)


def test_what_is_undefined_in_a_record_is_drawn_as_a_gap(tmp_path: Path) -> None:
    data = json.loads((RECORDS / "task-vectors-construction.json").read_text(encoding="utf-8"))
    data["geometry"][0]["sine"] = float("nan")
    (tmp_path / "task-vectors.json").write_text(json.dumps(data))
    (one,) = collected("task-vectors", tmp_path).models
    assert one.sine[0] is None
    assert one.sine[1] is not None


CHANGES: dict[str, tuple[Any, str]] = {
    "mixture-curve": (lambda data: data["asked"][0]["points"][0]["prompts"][0].pop(), "prompts"),
    "settings": (lambda data: data["settings"][0]["tasks"].pop(), "tasks of"),
    "completion": (lambda data: data["models"][0]["mixed"].reverse(), "expected rising ones"),
    "task-vectors": (lambda data: data["models"][0]["labels"].pop(), "each with its label"),
    "emergence": (lambda data: data["trainings"][0]["moments"].reverse(), "expected rising ones"),
    "superposed-or-committed": (lambda data: data["rows"][0]["cells"].reverse(), "in the column of"),
    "mechanism": (lambda data: data["models"][0]["evidence"].pop(), "other layers"),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_record_that_contradicts_itself_is_refused(name: str, made: Any) -> None:
    change, words = CHANGES[name]
    record = made(name)
    assert fitted(type(record), record, name) == record
    data = msgspec.to_builtins(record)
    change(data)
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(data, type=type(record))


def test_a_probability_above_one_is_refused(made: Any) -> None:
    data = msgspec.to_builtins(made("superposed-or-committed"))
    data["rows"][0]["cells"][0]["probabilities"][0] = 1.2
    with pytest.raises(msgspec.ValidationError, match=r"<= 1\.001"):
        msgspec.convert(data, type=type(made("superposed-or-committed")))


def test_a_probe_that_explains_more_than_all_is_refused(made: Any) -> None:
    data = msgspec.to_builtins(made("mechanism"))
    data["models"][0]["mixture"][0] = 1.5
    with pytest.raises(msgspec.ValidationError, match="<= 1"):
        msgspec.convert(data, type=type(made("mechanism")))


def test_a_pretrained_model_is_told_by_its_revision_or_its_file() -> None:
    head = {"kind": "hugging-face", "architecture": "Qwen2ForCausalLM"}
    pretrained = model_of({**head, "model": "Qwen/Qwen1.5-0.5B", "revision": "8f445e3"})
    assert (pretrained.label, pretrained.pretrained) == ("Qwen/Qwen1.5-0.5B (Qwen2)", True)
    file = model_of({**head, "model": "runs/Small-1B.Q4_1.gguf", "sha256": "0" * 64})
    assert (file.label, file.pretrained) == ("Small-1B (Qwen2 Q4_1)", True)
    folder = model_of({**head, "model": "runs/mine", "sha256": "0" * 64})
    assert (folder.label, folder.pretrained) == ("mine (Qwen2)", False)


def test_a_caption_claims_no_absence_where_a_pretrained_model_is_drawn(tmp_path: Path) -> None:
    lines = (RECORDS / "curve-trained.jsonl").read_text(encoding="utf-8").splitlines()
    head = json.loads(lines[0])
    head["model"] |= {"revision": "8f445e3"}
    (tmp_path / "one.jsonl").write_text("\n".join([json.dumps(head), *lines[1:]]) + "\n")
    for name in ("mixture-curve", "superposed-or-committed"):
        module = entry(name).load()
        assert "No pretrained" not in module.caption(collected(name, tmp_path))


def test_an_undefined_figure_has_no_interval() -> None:
    from empirical.measures import Estimate
    from paper_figures.runs import bar

    assert bar(Estimate(float("nan"), float("nan"), float("nan"))) == Bar(value=None, low=None, high=None)


def test_a_large_picture_on_the_page_is_kept_with_few_colours_and_the_same_bytes() -> None:
    # 512 colours: more than are kept, and few enough to be told apart in little time.
    image = Image.fromarray(np.random.default_rng(0).integers(8, size=(410, 450, 3), dtype=np.uint8) * 36)
    stream = io.BytesIO()
    image.save(stream, format="png")
    large = stream.getvalue()
    kept = gallery.small(large)
    assert len(large) > gallery.LARGEST >= len(kept)
    assert gallery.small(large) == kept
    assert Image.open(io.BytesIO(kept)).size == image.size
    assert gallery.small(b"little") == b"little"
