"""The record of the study of trained models: records/training-study.json, as frozen dataclasses.

    Study
      environment, command, budget, prompts, kept
      predictions: Prediction(name, setup, label_noise, answers)   what exact learners would answer on the same prompts
      runs: Run(name, group, seed, setup, settings, moments, answers, ...)   the trained models

`Answers` has one shape for a model and for a prediction, so that they can be drawn over each other: the accuracy on
pure prompts, a `Condition` for each lambda of the curve and one for each K' of the uniform mixtures. A prediction and a
run with equal `setup` were asked the very same prompts, in the same order: their `probabilities` correspond row by row.

Mixed prompts show each task exactly its share of the m examples, in random order; inputs are random, and the query has
a different answer by every task. P_k is the probability of task k's answer among the answers of the tasks of the
mixture (p_k / sum_j p_j), p_k that among all tokens. Divergences are in nats. A figure that is undefined is None.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from construct.artifact import write_file
from construct.errors import ArtifactError
from empirical.strict_json import built

FORMAT = "task-superposition training study"
FORMAT_VERSION = 1
RECORD = Path("records/training-study.json")

EXACT, ONE_TASK, LAST = "exact superposition", "one task a prompt", "last example"
MIXING, ASSUMED = "mixed prompts", "training distribution"
"""The names of the predictions: see `Prediction`."""
QUARTERS = (0.25, 0.5, 0.75)
GROUPS = ("main", "steps", "size", "tasks", "examples", "noise", "mixed", "architecture")
"""What varies from `main` in a run: see `Run.group`."""


@dataclass(frozen=True)
class Interval:
    """A figure over prompts with its bootstrap interval (95%); None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Environment:
    """What the study was run with.

    Args:
        date: when the record was written, ISO 8601, UTC.
        python: its version.
        versions: package -> version.
        system: operating system and processor architecture.
        cpu: the processor's name.
        cores: how many the machine has.
        threads: of torch, in each run.
        device: "cpu" or the GPU's name.
    """

    date: str
    python: str
    versions: dict[str, str]
    system: str
    cpu: str
    cores: int
    threads: int
    device: str


@dataclass(frozen=True)
class Setup:
    """Which tasks, and how prompts are made of them.

    Args:
        suite: its name (`construct suites`).
        tasks: K.
        alphabet_size: V.
        inputs: n.
        examples: m.
    """

    suite: str
    tasks: int
    alphabet_size: int
    inputs: int
    examples: int


@dataclass(frozen=True)
class Condition:
    """The answers to prompts of one mixture of K' tasks (the first K' of the suite).

    Args:
        mixture: the tasks' exact shares of the m examples, [K'].
        mean: mean over prompts of P_k, [K'].
        other: mean of the mass on anything but the K' answers, 1 - sum_k p_k.
        kl: mean of sum_k D_k log(D_k / p_k), as the paper computes it; D is the mixture.
        kl_normalised: the same of P.
        kl_of_mean: of the mean of P over the prompts: what averages over prompts can show.
        kl_per_prompt: the KL of single prompts, for the first `Study.kept`; empty where probabilities are.
        completion: the paper's r over K': the share of the K' answers that are among the K' most probable tokens; only
            tasks with a share above 0 count.
        index: the superposition index S (empirical.superposition_index): 1 superposed, 0 committed.
        between: Var(P_1) / (E[P_1(1-P_1)] + Var(P_1)): the share of task 1's variance that lies between prompts: 0
            superposed, 1 committed.
        distance: mean total variation to the exact superposition of each prompt's own examples.
        distances: prediction name -> mean total variation between P and that prediction's P on the same prompt.
        histogram: how many prompts give their most probable task a P in [0, .1), ..., [.9, 1].
        probabilities: P of the first `Study.kept` prompts, [kept][K'], 4 digits: the histograms of one task's
            probability are drawn from these. Empty but for uniform mixtures and the lambdas nearest to 1/4, 1/2, 3/4.
    """

    mixture: tuple[float, ...]
    mean: tuple[Interval, ...]
    other: Interval
    kl: Interval
    kl_normalised: Interval
    kl_of_mean: float
    kl_per_prompt: tuple[float, ...]
    completion: Interval
    index: Interval
    between: Interval
    distance: Interval
    distances: dict[str, Interval]
    histogram: tuple[int, ...]
    probabilities: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Answers:
    """All that a model, or a prediction, answers.

    Args:
        accuracy: task -> the share of pure prompts answered rightly after 0, 1, ..., m examples, [m+1].
        curve: mixtures of the first two tasks, by rising share lambda of the first (`mixture[0]`), from 0 to 1.
        uniform: the uniform mixtures of the first K' = 2, ..., K tasks (shares as near to 1/K' as m allows).
    """

    accuracy: dict[str, tuple[float, ...]]
    curve: tuple[Condition, ...]
    uniform: tuple[Condition, ...]


@dataclass(frozen=True)
class Prediction:
    """What an exact learner would answer on the prompts of a setup (empirical.bayes).

    Args:
        name: "exact superposition": the oracle of the constructions, c_k/m over the answers. "one task a prompt": the
            Bayesian learner that believes in one task a prompt, with label noise. "last example": the same learner
            where it sees the last example alone. "mixed prompts": the one that believes in weights uniform on the
            simplex, and each example's task drawn by them. "training distribution": the one that believes in a run's
            `mixed` share of mixed prompts and in its label noise.
        setup: of the prompts.
        label_noise: believed.
        mixed: believed share of mixed prompts.
        answers: to these prompts.
    """

    name: str
    setup: Setup
    label_noise: float
    mixed: float
    answers: Answers


@dataclass(frozen=True)
class Point:
    """One lambda of the curve during training.

    Args:
        share: lambda.
        mean: mean over prompts of P_1 (of the first two tasks).
        deviation: the standard deviation of P_1 over prompts.
    """

    share: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Moment:
    """A model during training, measured on `validation_prompts` prompts of each kind (setting of the run).

    Args:
        step: of the optimiser.
        tokens: read so far.
        loss: mean training loss since the moment before, nats an answer.
        accuracy: task -> on pure prompts, after m examples.
        curve: lambda = 0, .25, .5, .75, 1.
        slope: of the least-squares line of the curve's means on lambda; 1 is a perfect mixture on average.
        kl, kl_of_mean, index, histogram: on the uniform mixture of all K tasks, as in `Condition`.
    """

    step: int
    tokens: int
    loss: float
    accuracy: dict[str, float]
    curve: tuple[Point, ...]
    slope: float
    kl: float
    kl_of_mean: float
    index: float | None
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class Emergence:
    """When things appear in training: the first step of the log from which they hold; None where they never do.

    Args:
        told_apart: every task's accuracy on pure prompts is above 0.5.
        learned: it is above 0.9 of the last one.
        follows: the slope of the mean probability on lambda is above 0.5.
        commits: the superposition index of the uniform mixture is below 0.5.
    """

    told_apart: int | None
    learned: int | None
    follows: int | None
    commits: int | None


@dataclass(frozen=True)
class Weights:
    """What a prompt's commitment goes with: logit of P_1 (of two tasks) by least squares on the evidence.

    The prompts are `Study.prompts` others, whose examples are each drawn by one of two tasks with probability 1/2, so
    their counts differ. Logits are cut at -10 and 10. The evidence of example i is +1 where it is consistent with task
    1 alone, -1 with task 2 alone, else 0. A Bayesian learner has equal weights; one that follows the last example has
    all weight there.

    Args:
        by_position: the weight of the example at each place, first to last, [m], in nats.
        explained: R^2.
        agreement: for each place the share of the prompts whose more probable task is that of the example there, [m],
            among those where its evidence is not 0. Chance: 1/2, and a little more.
        majority: the same of the sign of the summed evidence; None where that is 0 in every prompt.
    """

    by_position: tuple[Interval, ...]
    explained: float
    agreement: tuple[float, ...]
    majority: float | None


@dataclass(frozen=True)
class Run:
    """A trained model.

    Args:
        name: of its own, such as "main, seed 0".
        group: "main": the `cpu` preset; else what differs from it: "steps" (of training), "size" (of the model),
            "tasks" (K, or the suite), "examples" (m), "noise" (of labels), "mixed" (training prompts that mix tasks),
            "architecture".
        label: what it varies, short, for a legend, such as "width 32".
        setup: tasks and prompts.
        settings: `empirical.training.settings.Settings`, every field.
        parameters: how many numbers the model has.
        tokens: read in training.
        seconds: of training.
        loss: the last one of the log.
        learned: whether every task's accuracy on pure prompts of m examples is at least 0.8.
        moments: during training, in order.
        emergence: when things appear.
        answers: of the trained model.
        weights: what commitment goes with; None where K = 1.
    """

    name: str
    group: str
    label: str
    setup: Setup
    settings: dict[str, Any]
    parameters: int
    tokens: int
    seconds: float
    loss: float
    learned: bool
    moments: tuple[Moment, ...]
    emergence: Emergence
    answers: Answers
    weights: Weights


@dataclass(frozen=True)
class Study:
    """The record.

    Args:
        environment: what it was run with.
        command: that makes it again.
        prompts: of each condition.
        kept: how many of them have their probabilities in the record.
        training_seconds: of all runs.
        predictions: of the setups of the runs.
        runs: those of one group stand together.
    """

    environment: Environment
    command: str
    prompts: int
    kept: int
    training_seconds: float
    predictions: tuple[Prediction, ...]
    runs: tuple[Run, ...]

    def group(self, *names: str) -> tuple[Run, ...]:
        """The runs of some groups, in order."""
        return tuple(run for run in self.runs if run.group in names)

    def predicted(self, name: str, setup: Setup) -> Prediction | None:
        """The prediction of a name for a setup, the first one where several noises are believed."""
        return next((one for one in self.predictions if one.name == name and one.setup == setup), None)


def is_kept(mixture: Sequence[float], examples: int) -> bool:
    """Whether single prompts of a mixture stand in the record: of more than two tasks, or near a quarter."""
    near = 1 / (2 * examples) + 1e-6
    return len(mixture) > 2 or any(abs(mixture[0] - share) <= near for share in QUARTERS)


def write_study(study: Study, path: Path) -> None:
    """Write the record, one run a line. Raises ArtifactError where it cannot be written."""
    write_file(path, (_outline({"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(study)}) + "\n").encode())


def _outline(data: dict[str, Any]) -> str:
    """JSON with the fields of a study a line each, and so the elements of its lists: versions are compared by lines."""
    parts = []
    for name, value in data.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, tuple | list) and value:
            lines = ",\n  ".join(json.dumps(one, ensure_ascii=False, allow_nan=False) for one in value)
            text = f"[\n  {lines}\n ]"
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}"


def read_study(path: Path = RECORD) -> Study:
    """Read and check the record.

    Raises:
        ArtifactError: it is not there, is no such record, or a field is missing, unknown, or not what it should be.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}: `make study` writes it") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is no JSON or damaged ({error}): `make study` writes it") from error
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise ArtifactError(f"{path} is no record of the study of trained models")
    if data.pop("format_version", None) != FORMAT_VERSION:
        raise ArtifactError(f"{path} has another format version than {FORMAT_VERSION}: run `make study` again")
    try:
        study = built(Study, data, "study")
        _check(study)
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    return study


def _check(study: Study) -> None:
    """What types do not say."""
    if len({run.name for run in study.runs}) < len(study.runs):
        raise ValueError("two runs have one name")
    named: list[tuple[str, Setup, Answers]] = [(run.name, run.setup, run.answers) for run in study.runs]
    named += [(one.name, one.setup, one.answers) for one in study.predictions]
    for run in study.runs:
        if run.group not in GROUPS:
            raise ValueError(f"run {run.name!r} is of the group {run.group!r}, expected one of {', '.join(GROUPS)}")
        if {len(run.weights.by_position), len(run.weights.agreement)} != {run.setup.examples}:
            raise ValueError(f"run {run.name!r} has not one weight an example")
    for name, setup, answers in named:
        if any(len(shares) != setup.examples + 1 for shares in answers.accuracy.values()):
            raise ValueError(f"{name!r} has not the accuracy after 0 to {setup.examples} examples")
        if [len(one.mixture) for one in answers.uniform] != list(range(2, setup.tasks + 1)):
            raise ValueError(f"{name!r} has not a uniform mixture for each K' from 2 to {setup.tasks}")
        for one in (*answers.curve, *answers.uniform):
            _check_condition(one, f"{name!r} at {one.mixture}", study, setup.examples)


def _check_condition(one: Condition, where: str, study: Study, examples: int) -> None:
    if abs(sum(one.mixture) - 1) > 1e-3 or len(one.mean) != len(one.mixture):
        raise ValueError(f"{where}: the mixture does not sum to 1 or a task has no mean")
    expected = study.kept if is_kept(one.mixture, examples) else 0
    if {len(one.probabilities), len(one.kl_per_prompt)} != {expected}:
        raise ValueError(f"{where}: {len(one.probabilities)} prompts are kept, expected {expected}")
    if sum(one.histogram) != study.prompts or len(one.histogram) != 10:
        raise ValueError(f"{where}: the histogram does not count {study.prompts} prompts in ten bins")
    for row in one.probabilities:
        # Rounded to four digits each.
        if len(row) != len(one.mixture) or abs(sum(row) - 1) > 1e-3 or min(row) < 0:
            raise ValueError(f"{where}: {row} is no distribution over the tasks")
