"""Records of models, for the comparison figures: evaluations, and the study of trained models.

Models that were not run are not drawn; `absent` says so in the captions. Colours here are of models: those of tasks
(`style.task_colour`) stay with the tasks.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import numpy as np

from construct.errors import InputError
from empirical.measures import Estimate, Floats, Sample, mean
from empirical.records import Results, load_results
from empirical.study_records import Interval, Run, Study, read_study
from empirical.training.progress import LOG
from paper_figures.inputs import Inputs
from paper_figures.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVALUATIONS = "make evaluations"
STUDY, STUDY_FILE = "make study", "training-study.json"
GGUF = ".gguf"
"""The ending of llama.cpp's files, of pretrained models."""
LONGEST_TITLE = 26
"""Letters of a title over a quarter of a page."""
SAME = 1e-9
"""Weights that differ by less are equal."""

MODEL_COLOURS = ("#000000", "#882255", "#117733", "#AA4499", "#999933", "#332288", "#44AA99", "#CC6677")
"""Paul Tol's muted colours (https://sronpersonalpages.nl/~pault/), which colour-blind readers tell apart."""
MODEL_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
MODEL_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (7, 2)), (0, (3, 3)))

Share = Annotated[float, msgspec.Meta(ge=-1e-6, le=1.001)]
"""A probability; a little above 1 is rounding."""
Positive = Annotated[int, msgspec.Meta(ge=1)]

T = TypeVar("T")


class Bar(Record, frozen=True, kw_only=True):
    """A figure with its 95% bootstrap interval over prompts; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


class Model(Record, frozen=True, kw_only=True):
    """A model as legends name it, and whether it is known to be a pretrained one: from a hub, or a GGUF file."""

    label: str
    pretrained: bool


def finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: null."""
    return None if value is None or not math.isfinite(value) else value


def bar(found: Estimate | Interval) -> Bar:
    """An estimate as it stands in a figure's record."""
    return Bar(value=finite(found.value), low=finite(found.low), high=finite(found.high))


def model_of(provenance: dict[str, Any]) -> Model:
    """A model by the provenance in a record of it: its folder's, file's or hub name, with what it is."""
    name = str(provenance["model"])
    if provenance.get("kind") == "construction":
        return Model(label=f"construction, {provenance['theorem']}", pretrained=False)
    architecture = str(provenance["architecture"]).removesuffix("LMHeadModel").removesuffix("ForCausalLM")
    if name.endswith(GGUF):
        stem, _, quantised = Path(name).stem.partition(".")
        about = f"{architecture} {quantised}" if quantised else architecture
        return Model(label=f"{stem} ({about})", pretrained=True)
    hub = "revision" in provenance
    return Model(label=f"{name if hub else Path(name).name} ({architecture})", pretrained=hub)


def evaluations(inputs: Inputs, made_by: str = EVALUATIONS) -> list[Results]:
    """Every finished run of `construct evaluate` in the folders of records: constructions first, then by name.

    Args:
        inputs: the folders.
        made_by: the command that makes them.

    Raises:
        InputError: there is none, or one is damaged.
    """
    paths = [path for path in inputs.files("**/*.jsonl", made_by) if not _other(path)]
    if not paths:
        raise InputError(f"there are no records of finished runs of construct evaluate: `{made_by}` makes them")
    found = [load_results(path) for path in paths]
    return sorted(found, key=lambda run: (run.header["model"]["kind"] != "construction", run.model))


def _other(path: Path) -> bool:
    """Whether a file is a part of an unfinished run, or the log of a training run."""
    return path.name.startswith("part-") or path.name == LOG


def is_curve(run: Results) -> bool:
    """Whether a run goes over mixtures of two tasks, with one number of examples."""
    shares = {cell.mixture[0] for cell in run.cells}
    return len(run.header["tasks"]) == 2 and len(shares) >= 2 and len({cell.examples for cell in run.cells}) == 1


def is_uniform(run: Results) -> bool:
    """Whether a run has one condition, the uniform mixture."""
    return len(run.cells) == 1 and max(run.cells[0].mixture) - min(run.cells[0].mixture) < SAME


def of_first(sample: Sample) -> Floats:
    """The first task's probability among the tasks' answers, prompt by prompt; those without ambiguity. [N]."""
    shown = sample.normalised[~sample.ambiguous, 0]
    kept: Floats = shown[~np.isnan(shown)]
    return kept


def mean_bar(values: Floats) -> Bar:
    """The mean over prompts."""
    return bar(mean(values))


def study_of(inputs: Inputs) -> Study:
    """The study of trained models. Raises InputError, with the command that makes it, where it is not there."""
    return read_study(inputs.file(STUDY_FILE, STUDY))


def either(inputs: Inputs) -> tuple[list[Results], Study | None]:
    """The evaluations and the study, where one of them may be missing.

    Raises:
        InputError: both are missing, or one is damaged.
    """
    runs: list[Results] = []
    if any(any(folder.glob("**/*.jsonl")) for folder in inputs.folders):
        runs = evaluations(inputs)
    study = study_of(inputs) if any((folder / STUDY_FILE).is_file() for folder in inputs.folders) else None
    if not runs and study is None:
        places = " or ".join(str(folder) for folder in inputs.folders)
        raise InputError(
            f"there are no records of models in {places}: `{EVALUATIONS}` asks models, and `{STUDY}` trains them"
        )
    return runs, study


def run_label(run: Run) -> str:
    """A trained model in a legend."""
    seed = run.settings["seed"]
    name = f"{run.label}, seed {seed}" if run.group == "main" or seed else run.label
    return name if run.learned else f"{name} *"


def read_loose(kind: type[T], path: Path) -> T:
    """Read a record of a command whose JSON may hold NaN, and more than the figure reads.

    Raises:
        InputError: it cannot be read, or does not fit.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(data, type=kind)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} does not hold the records of this figure: {error}") from error


def absent(models: Sequence[Model]) -> str:
    """That no pretrained model is drawn, where none is."""
    return "" if any(model.pretrained for model in models) else " There is no pretrained model among its records."


def broken(label: str) -> str:
    """A long label in two lines, for a title."""
    return label if len(label) <= LONGEST_TITLE else label.replace(" (", "\n(", 1)


def turned(index: int) -> int:
    """The place of a model's marker: models of one colour have different ones."""
    return index + index // len(MODEL_COLOURS)


def whiskers(axes: "Axes", x: Sequence[float], bars: Sequence[Bar], index: int, label: str, **more: Any) -> None:
    """Points of a model's with their intervals; undefined ones are left out."""
    kept = [(at, one) for at, one in zip(x, bars, strict=True) if one.value is not None]
    values = [one.value or 0.0 for _, one in kept]
    errors = [
        [value - (one.low if one.low is not None else value) for value, (_, one) in zip(values, kept, strict=True)],
        [(one.high if one.high is not None else value) - value for value, (_, one) in zip(values, kept, strict=True)],
    ]
    look: dict[str, Any] = {
        "color": MODEL_COLOURS[index % len(MODEL_COLOURS)],
        "marker": MODEL_MARKERS[turned(index) % len(MODEL_MARKERS)],
        "linestyle": MODEL_LINES[turned(index) % len(MODEL_LINES)],
        "linewidth": 0.9,
        "elinewidth": 0.7,
        "capsize": 1.5,
    }
    axes.errorbar([at for at, _ in kept], values, yerr=np.maximum(errors, 0), label=label, **(look | more))
