"""The training of one model: `train`.

Every process draws the same whole batch from the same generator and computes its own part of it, so that prompts, and
the loss but for rounding, do not depend on how many processes there are. The weights are a function of settings, tasks
and versions alone: times decide only when checkpoints are written.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from construct.errors import InputError
from construct.tasks import TaskSet
from empirical.training import checkpoint, progress
from empirical.training.checkpoint import Checkpoint, Progress
from empirical.training.models import answer_loss, library, make_model, make_optimiser
from empirical.training.pools import task_tensors
from empirical.training.prompts import Sampler
from empirical.training.settings import VALIDATIONS, Settings
from empirical.training.validation import Validation

TIMED = 20
"""Steps after which a run by minutes settles how many it has; the first fifth of them warm up and are not timed."""
LOOKS = 25
"""Steps between looks at the loss on devices that would have to be waited for."""


class Diverged(Exception):  # noqa: N818
    """The loss is no number any more."""


class Interrupted(Exception):  # noqa: N818
    """A signal ended the run; its checkpoint was written.

    Args:
        number: of the signal.
        step: the steps done.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(number, step)
        self.number, self.step = number, step


@dataclass(frozen=True)
class Told:
    """What is said at every line of the log.

    Args:
        row: the line.
        steps: steps in all.
        seconds_left: an estimate, by the speed so far.
    """

    row: progress.Row
    steps: int
    seconds_left: float


def train(
    task_set: TaskSet,
    settings: Settings,
    directory: Path,
    *,
    save_every: float = 60.0,
    tell: Callable[[Told], None] = lambda _: None,
) -> Progress:
    """Train a model, or go on with one, and leave its checkpoint in the folder.

    Args:
        task_set: the tasks.
        settings: what decides the weights.
        directory: the run's folder.
        save_every: seconds between two checkpoints.
        tell: told of every line of the log, on the first process.

    Returns:
        How far it has come: to its end.

    Raises:
        InputError: the settings do not fit the tasks or the device, the folder holds something else, a file cannot be
            written.
        Diverged: the loss became NaN or infinite; the last checkpoint is kept.
        Interrupted: by SIGINT or SIGTERM, after a checkpoint.
    """
    settings.layout(task_set)
    wanted = checkpoint.identity(task_set, settings)
    with accelerated(settings) as accelerator:
        settings.share(accelerator.num_processes)
        with ExitStack() as kept:
            if accelerator.is_main_process:
                checkpoint.make_folder(directory)
                kept.enter_context(checkpoint.held(directory))
                checkpoint.prepare_folder(directory, wanted)
            accelerator.wait_for_everyone()
            found = checkpoint.read(directory, wanted)
            if found is not None and found.progress.finished:
                return found.progress
            if settings.threads:
                torch.set_num_threads(settings.threads)
            run = Trainer(task_set, settings, directory, wanted, accelerator, found)
            accelerator.wait_for_everyone()  # all have read before the first writes
            return run.go(save_every, tell)


@contextmanager
def accelerated(settings: Settings) -> Iterator[Any]:
    """accelerate's view of the processes and devices; its settings, which are the process's, are taken back after."""
    accelerate = library("accelerate")
    try:
        made = accelerate.Accelerator(
            cpu=settings.device == "cpu",
            mixed_precision=settings.precision,
            gradient_accumulation_steps=settings.accumulate,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"precision {settings.precision} on {settings.device} cannot be used: {str(error).splitlines()[0]}"
        ) from error
    try:
        if made.gradient_accumulation_steps != settings.accumulate:
            raise InputError(
                f"accelerate launch sets {made.gradient_accumulation_steps} parts of a batch and --accumulate "
                f"{settings.accumulate}: give --accumulate alone"
            )
        yield made
    finally:
        made.end_training()
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


class Trainer:
    """One process's part of a run.

    Args:
        task_set: the tasks.
        settings: what decides the weights.
        directory: the run's folder.
        wanted: the run's identity.
        accelerator: of `accelerated`.
        found: the checkpoint to go on from; None: from the beginning.
    """

    def __init__(
        self,
        task_set: TaskSet,
        settings: Settings,
        directory: Path,
        wanted: dict[str, Any],
        accelerator: Any,
        found: Checkpoint | None,
    ) -> None:
        self.task_set, self.settings, self.directory, self.wanted = task_set, settings, directory, wanted
        self.accelerator, self.device = accelerator, accelerator.device
        layout = settings.layout(task_set)
        self.tokens_per_step = settings.batch * layout.positions
        tensors = task_tensors(task_set).to(self.device)
        self.sampler = Sampler(tensors, layout, settings.mixed, settings.label_noise)
        self.tokenizer = _tokenizer(task_set)
        self.raw = make_model(settings, layout) if found is None else checkpoint.read_model(found)
        self.raw.to(self.device).train()
        self.optimiser = make_optimiser(self.raw, settings)
        self.generator = torch.Generator(device=self.device).manual_seed(settings.seed)
        self.loss_sum = torch.zeros((), device=self.device)
        self.state = Progress(steps=settings.steps)
        if found is not None:
            self.state = found.progress
            self.generator.set_state(found.tensors["generator"])
            self.loss_sum += found.tensors["loss_sum"].to(self.device)[0]
            checkpoint.restore_optimiser(self.optimiser, found)
            if found.progress.scaler is not None and accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(found.progress.scaler)
        compiled = torch.compile(self.raw) if settings.compile else self.raw
        self.model, self.stepper = accelerator.prepare(compiled, self.optimiser)
        self.validation = (
            Validation(
                self.sampler,
                tuple(task.name for task in task_set.tasks),
                prompts=settings.validation_prompts,
                batch=settings.batch,
                seed=settings.seed,
            )
            if accelerator.is_main_process
            else None
        )
        self.parameters = sum(one.numel() for one in self.raw.parameters())
        self.log = (
            progress.Log(
                directory,
                progress.header(
                    wanted,
                    tasks=[task.name for task in task_set.tasks],
                    parameters=self.parameters,
                    processes=accelerator.num_processes,
                ),
                step=self.state.step,
            )
            if accelerator.is_main_process
            else None
        )

    def go(self, save_every: float, tell: Callable[[Told], None]) -> Progress:
        """Train to the end."""
        self._begin()
        saved = time.monotonic()
        with _signals(alone=self.accelerator.num_processes == 1) as caught:
            ended = self.state.finished
            while not ended:
                self.step()
                if not self.state.steps and self.state.step >= TIMED:
                    self._settle()
                    saved = -math.inf
                if self.state.steps and self._at_interval():
                    self._validate(tell)
                now, ended = time.monotonic(), self.state.finished
                if ended or caught or now - saved >= save_every:
                    self._save()
                    saved = now
                if caught and not ended:
                    raise Interrupted(caught[0], self.state.step)
        return self.state

    def _begin(self) -> None:
        now = time.monotonic()
        self._started = now - self.state.seconds
        self._timed, self._paused, self._row_step, self._row_at = now, 0.0, self.state.step, now

    def step(self) -> None:
        """Draw a batch and take one step of the optimiser."""
        settings, state = self.settings, self.state
        whole = self.sampler.draw(settings.batch, self.generator)
        mine = whole[self.accelerator.process_index :: self.accelerator.num_processes]
        parts = mine.chunk(settings.accumulate)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate_at(state.step, state.steps)
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = answer_loss(self.model, part, self.sampler.eq_positions)
                self.accelerator.backward(loss)  # which divides by the number of parts
            self.loss_sum += loss.detach() / len(parts)
        if self.device.type == "cpu" or state.step % LOOKS == 0:
            self._look()
        self.accelerator.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.stepper.step()
        self.stepper.zero_grad()
        self.state = replace(state, step=state.step + 1, loss_count=state.loss_count + 1)
        if self.state.step == TIMED // 5:
            self._timed = time.monotonic()

    def _look(self) -> None:
        """Raise Diverged where a loss was no finite number."""
        if not bool(torch.isfinite(self.loss_sum)):
            raise Diverged(f"the loss is {float(self.loss_sum)} at step {self.state.step + 1}")

    def _at_interval(self) -> bool:
        return self.state.finished or self.state.step % self.settings.interval(self.state.steps) == 0

    def _settle(self) -> None:
        """Say how many steps fit into the minutes, by the first ones and one validation; the same on every process."""
        a_step = (time.monotonic() - self._timed) / (self.state.step - TIMED // 5)
        steps = [0]
        if self.validation is not None:
            begun = time.monotonic()
            self.validation.measure(self.raw)
            a_validation = time.monotonic() - begun
            left = 60 * self.settings.minutes - (time.monotonic() - self._started)
            every = self.settings.validate_every
            count = left / (a_step + a_validation / every) if every else (left - VALIDATIONS * a_validation) / a_step
            steps = [max(TIMED + 1, self.state.step + int(count))]
        library("accelerate").utils.broadcast_object_list(steps)
        self.state = replace(self.state, steps=steps[0])

    def _validate(self, tell: Callable[[Told], None]) -> None:
        """Write a line of the log."""
        mean = self.accelerator.reduce(self.loss_sum / self.state.loss_count, reduction="mean")
        self._look()
        now = time.monotonic()
        if self.validation is not None and self.log is not None:
            validated = self.validation.measure(self.raw)
            done = self.state.step - self._row_step
            speed = done * self.tokens_per_step / max(now - self._row_at, 1e-9)
            seconds = time.monotonic() - self._started
            row = progress.Row(
                step=self.state.step,
                tokens=self.state.step * self.tokens_per_step,
                seconds=round(seconds, 2),
                loss=float(mean),
                rate=self.settings.rate_at(self.state.step - 1, self.state.steps),
                tokens_per_second=round(speed, 1),
                share_of_peak=self._share_of_peak(speed),
                validated=validated,
            )
            self.log.append(row)
            left = seconds / self.state.step * (self.state.steps - self.state.step)
            tell(Told(row, self.state.steps, left))
        self.loss_sum.zero_()
        self.state = replace(self.state, loss_count=0)
        self._row_step, self._row_at = self.state.step, time.monotonic()

    def _share_of_peak(self, speed: float) -> float | None:
        if self.device.type != "cuda":
            return None
        settings, layout = self.settings, self.sampler.layout
        looked_up = self.raw.get_input_embeddings().weight.numel()
        operations = progress.operations_per_token(
            self.parameters - looked_up, settings.layers, settings.width, layout.positions
        )
        return progress.share_of_peak(
            torch.cuda.get_device_name(self.device),
            tokens_per_second=speed,
            operations=operations,
            devices=self.accelerator.num_processes,
        )

    def _save(self) -> None:
        """Write a checkpoint, on the first process; weights that are no numbers are never written."""
        if not self.accelerator.is_main_process:
            return
        self._look()
        if not all(bool(torch.isfinite(one).all()) for one in self.raw.parameters()):
            raise Diverged(f"a weight is no number after step {self.state.step}")
        scaler = self.accelerator.scaler
        self.state = replace(
            self.state,
            seconds=time.monotonic() - self._started,
            scaler=None if scaler is None else scaler.state_dict(),
        )
        checkpoint.write(
            self.directory,
            wanted=self.wanted,
            task_set=self.task_set,
            tokenizer=self.tokenizer,
            model=self.raw,
            optimiser=self.optimiser,
            generator=self.generator,
            loss_sum=self.loss_sum,
            progress=self.state,
        )


def _tokenizer(task_set: TaskSet) -> Any:
    """The tokenizer of the exported constructions: the alphabet, BOS, EQ, <unk>, <pad>."""
    from construct.export.tokenizer import word_level_tokenizer

    return word_level_tokenizer(task_set)


@contextmanager
def _signals(*, alone: bool) -> Iterator[list[int]]:
    """Within this, the first SIGINT or SIGTERM is noted, for the run to end after its step; the second ends it at once.

    Several processes would not end after the same step, and threads other than the main one get no signals.
    """
    caught: list[int] = []
    if not alone or threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, _frame: Any) -> None:
        caught.append(number)
        for known, handler in before.items():
            signal.signal(known, handler)

    before = {known: signal.signal(known, note) for known in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
