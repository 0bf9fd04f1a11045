"""What decides the weights that a run ends with, besides its tasks."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from construct.errors import InputError
from construct.prompts import Layout
from construct.tasks import TaskSet

GPT2, LLAMA = "gpt2", "llama"
ARCHITECTURES = (GPT2, LLAMA)
PRECISIONS = ("no", "bf16", "fp16")
VALIDATIONS = 40
"""Validations in a run, unless `validate_every` says otherwise."""


@dataclass(frozen=True)
class Settings:
    """What decides a run. Equal settings, tasks and versions on one CPU end with equal weights, bit for bit.

    A training prompt has `examples` examples and a query, each with its answer: (m+1)(n+2) tokens are read, and the
    loss is the mean over the m+1 answers of -log p(answer).

    Args:
        architecture: "gpt2" (GPT2LMHeadModel) or "llama" (LlamaForCausalLM: rotary positions).
        layers: decoder blocks.
        heads: of each.
        width: of the residual stream; a multiple of heads.
        mlp_width: hidden units of each MLP; 0 stands for 4 times the width.
        context: positions of the model; 0 stands for (m+1)(n+2), what a prompt takes.
        examples: m.
        batch: prompts a step, over all processes.
        accumulate: parts that a batch is computed in, one after the other.
        steps: of the optimiser; 0 where `minutes` decides.
        minutes: of training; the first steps are timed, then the number of steps is settled once for all.
        rate: the highest learning rate.
        warmup: steps over which it rises linearly; then it falls as a cosine.
        final_rate: what it falls to, as a share of `rate`.
        weight_decay: of AdamW; of matrices, not of norms and biases.
        beta2: of AdamW; beta1 is 0.9.
        clip: the largest norm of the gradient.
        mixed: the share of training prompts that mix tasks: weights uniform on the simplex, each example's task drawn
            by them. 0: every training prompt has examples of one task.
        label_noise: the probability that an answer is replaced by a random token of the alphabet.
        seed: of the weights and the prompts.
        validate_every: steps between two lines of the log; 0: a fortieth of the run.
        validation_prompts: prompts of each kind in a validation.
        threads: of torch on CPU; 0: as torch chooses. The order of a sum depends on it.
        device: its kind: "cpu", "cuda" or "mps".
        precision: "no", "bf16" or "fp16" (mixed).
        compile: let torch compile the model.
    """

    architecture: str = LLAMA
    layers: int = 2
    heads: int = 4
    width: int = 64
    mlp_width: int = 0
    context: int = 0
    examples: int = 12
    batch: int = 64
    accumulate: int = 1
    steps: int = 2000
    minutes: float = 0.0
    rate: float = 2e-3
    warmup: int = 100
    final_rate: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip: float = 1.0
    mixed: float = 0.0
    label_noise: float = 0.0
    seed: int = 0
    validate_every: int = 0
    validation_prompts: int = 256
    threads: int = 0
    device: str = "cpu"
    precision: str = "no"
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained. Raises InputError naming the option."""
        if self.architecture not in ARCHITECTURES:
            raise InputError(f"architecture is {self.architecture!r}: expected {' or '.join(ARCHITECTURES)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}: expected one of {', '.join(PRECISIONS)}")
        if self.precision == "fp16" and self.device == "cpu":
            raise InputError("precision is 'fp16' on cpu, which has no scale of the loss: use bf16 or no")
        for name in ("layers", "heads", "width", "examples", "batch", "accumulate", "validation_prompts"):
            self._at_least(name, 1)
        for name in ("mlp_width", "context", "steps", "warmup", "seed", "validate_every", "threads"):
            self._at_least(name, 0)
        for name in ("mixed", "label_noise", "final_rate", "weight_decay"):
            self._between(name)
        if not 0 < self.beta2 < 1:
            raise InputError(f"beta2 is {self.beta2}: expected a number between 0 and 1")
        for name in ("rate", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}: expected a number above 0")
        if not (math.isfinite(self.minutes) and self.minutes >= 0) or bool(self.steps) == bool(self.minutes):
            raise InputError(f"steps is {self.steps} and minutes {self.minutes}: give one of them, above 0")
        if self.seed >= 2**31:
            raise InputError(f"seed is {self.seed}: expected less than 2^31")
        if self.width % self.heads:
            raise InputError(f"width is {self.width} and heads {self.heads}: the width must be a multiple of the heads")
        if self.architecture == LLAMA and self.width // self.heads % 2:
            raise InputError(
                f"width is {self.width} and heads {self.heads}: rotary positions need an even width of each head, "
                f"not {self.width // self.heads}"
            )
        if self.batch % self.accumulate:
            raise InputError(f"batch is {self.batch} and accumulate {self.accumulate}: the one must divide the other")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value < least:
            raise InputError(f"{name} is {value}: expected at least {least}")

    def _between(self, name: str) -> None:
        value = getattr(self, name)
        if not 0 <= value <= 1:
            raise InputError(f"{name} is {value}: expected a number from 0 to 1")

    def layout(self, task_set: TaskSet) -> Layout:
        """Where the parts of a prompt stand. Raises InputError where the context is too short for the examples."""
        layout = Layout(len(task_set.alphabet), task_set.inputs, self.examples)
        if self.context and self.context < layout.positions:
            fitting = self.context // (task_set.inputs + 2) - 1
            raise InputError(
                f"context is {self.context}: {self.examples} examples and a query of {task_set.inputs} tokens take "
                f"{layout.positions} positions; use --context {layout.positions}"
                + (f" or --examples {fitting}" if fitting >= 1 else "")
            )
        return layout

    def share(self, processes: int) -> int:
        """The prompts of one part of a batch on one process. Raises InputError where they do not divide the batch."""
        if self.batch % (self.accumulate * processes):
            raise InputError(
                f"batch is {self.batch}: {processes} processes of {self.accumulate} parts do not divide it; use a "
                f"multiple of {self.accumulate * processes}"
            )
        return self.batch // (self.accumulate * processes)

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, from 0: a linear rise, then a cosine to `final_rate` at the last step.

        While the number of steps is not settled yet, `steps` is 0 and the rate rises or stays at its highest.
        """
        if step < self.warmup or not steps:
            return self.rate * min(1.0, (step + 1) / max(self.warmup, 1))
        done = (step - self.warmup) / max(steps - 1 - self.warmup, 1)
        return self.rate * (self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))

    def interval(self, steps: int) -> int:
        """Steps between two lines of the log, for a run of so many."""
        return self.validate_every or max(1, steps // VALIDATIONS)

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON has it."""
        return asdict(self)


def changed(settings: Settings, **given: Any) -> Settings:
    """The settings with the options that were given, not None; steps take the place of minutes, and minutes theirs."""
    options = {name: value for name, value in given.items() if value is not None}
    if "steps" in options and "minutes" not in options:
        options["minutes"] = 0.0
    if "minutes" in options and "steps" not in options:
        options["steps"] = 0
    return replace(settings, **options)
