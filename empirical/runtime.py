"""Where models run: device, number format, and this process's place among several.

This is the only file that picks a device. Several processes are started by `accelerate launch`; a process that
was not started so is alone, and then accelerate is not imported.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from construct.errors import InputError

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Runtime:
    """Where and in which format a model runs.

    Args:
        device: a torch device, such as "cpu" or "cuda:1".
        dtype: one of `DTYPES`.
    """

    device: str
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The format as torch has it."""
        return DTYPES[self.dtype]


@dataclass(frozen=True)
class Ranks:
    """This process's place.

    Args:
        rank: from 0.
        count: the number of processes.
        wait: returns when every process has called it.
    """

    rank: int
    count: int
    wait: Callable[[], None]


def choose(device: str = AUTO, dtype: str = AUTO, *, local_rank: int = 0) -> Runtime:
    """Settle device and format.

    "auto" is the first of CUDA (the device of this process's rank on its machine), Apple's MPS, CPU that there is;
    and bfloat16 on a CUDA device that computes in it, float16 on another, float32 elsewhere.

    Raises:
        InputError: the device cannot be used, or the format is unknown.
    """
    if device == AUTO:
        if torch.cuda.is_available():
            device = f"cuda:{local_rank % torch.cuda.device_count()}"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype == AUTO:
        cuda = device.startswith("cuda")
        dtype = "float32" if not cuda else "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if dtype not in DTYPES:
        raise InputError(f"the dtype is {dtype!r}: expected {AUTO} or one of {', '.join(DTYPES)}")
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds shapes without numbers")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the device {device!r} cannot be used: {reason}; --device cpu always can") from error
    return Runtime(device, dtype)


@contextmanager
def ranks() -> Iterator[Ranks]:
    """This process's place among those that `accelerate launch` started; the group is left at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield Ranks(0, 1, lambda: None)
        return
    try:
        from accelerate import PartialState  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        raise InputError(
            "several processes need the package accelerate: pip install 'task-superposition[pretrained]'"
        ) from error
    state = PartialState(cpu=not torch.cuda.is_available())
    try:
        yield Ranks(state.process_index, state.num_processes, state.wait_for_everyone)
    finally:
        state.destroy_process_group()


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def halving(work: Callable[[list[T]], list[R]], items: list[T], *, warn: Callable[[str], None]) -> Iterator[R]:
    """The results of `work` on the items, in order; where memory runs out it gets half as many at a time.

    Args:
        work: takes a batch and returns a result for each item.
        items: what to work on, at first all at once.
        warn: told, in words, of each halving.

    Raises:
        InputError: one item alone does not fit.
    """
    size, start = len(items), 0
    while start < len(items):
        try:
            found = work(items[start : start + size])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise InputError(
                    "out of memory with a single prompt: use fewer examples, a smaller --dtype, --quantization, or "
                    "--device-map auto to spread the model over several GPUs"
                ) from error
            size = (size + 1) // 2
        else:
            yield from found
            start += size
            continue
        # Outside the except block: its traceback would keep the batch that did not fit.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warn(f"out of memory: going on with batches of {size}")
