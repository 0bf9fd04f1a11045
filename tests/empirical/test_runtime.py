"""Devices, formats, and batches that do not fit."""

import sys

import pytest
import torch

from construct.errors import InputError
from empirical.runtime import choose, halving, is_out_of_memory, local_rank, ranks


def test_without_a_gpu_the_choice_is_the_cpu_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    found = choose()
    assert (found.device, found.dtype, found.torch_dtype) == ("cpu", "float32", torch.float32)


@pytest.mark.parametrize(
    ("device", "dtype", "words"),
    [("warp", "float32", "'warp' cannot be used"), ("meta", "float32", "without numbers"), ("cpu", "int8", "'int8'")],
)
def test_unknown_devices_and_formats_are_refused(device: str, dtype: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose(device, dtype)


def test_a_process_that_was_started_alone_is_alone() -> None:
    assert local_rank() == 0
    with ranks() as found:
        assert (found.rank, found.count) == (0, 1)
        found.wait()


def test_several_processes_without_their_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InputError, match="need the package accelerate"), ranks():
        pass


def test_what_does_not_fit_is_done_in_halves_and_in_order() -> None:
    said: list[str] = []

    def work(items: list[int]) -> list[int]:
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item**2 for item in items]

    assert list(halving(work, [1, 2, 3, 4, 5, 6, 7], warn=said.append)) == [1, 4, 9, 16, 25, 36, 49]
    assert said == ["out of memory: going on with batches of 4", "out of memory: going on with batches of 2"]


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(_items: list[int]) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(halving(broken, [1, 2], warn=lambda _: None))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 bytes"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_single_item_that_does_not_fit_ends_with_what_to_do() -> None:
    def never(_items: list[int]) -> list[int]:
        raise MemoryError

    with pytest.raises(InputError, match="single prompt: use fewer examples"):
        list(halving(never, [1, 2, 3], warn=lambda _: None))
