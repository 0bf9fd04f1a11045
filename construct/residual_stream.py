"""The residual stream as named, disjoint subspaces, and the +-1 codes that are written into it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Subspace:
    """Coordinates `start` to `start + size - 1` of the residual stream, under a name."""

    name: str
    start: int
    size: int

    @property
    def stop(self) -> int:
        """One past the last coordinate."""
        return self.start + self.size

    @property
    def coordinates(self) -> slice:
        """The coordinates, to index the last axis of a residual stream."""
        return slice(self.start, self.stop)


class ResidualStream(Mapping[str, Subspace]):
    """Subspaces side by side, in the order given, so that none overlaps another.

    >>> stream = ResidualStream({"token": 5, "role_y": 1})
    >>> stream["role_y"].start, stream.d_model
    (5, 6)
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._subspaces: dict[str, Subspace] = {}
        start = 0
        for name, size in sizes.items():
            self._subspaces[name] = Subspace(name, start, size)
            start += size
        self.d_model = start

    def __getitem__(self, name: str) -> Subspace:
        return self._subspaces[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._subspaces)

    def __len__(self) -> int:
        return len(self._subspaces)


def code_length(count: int) -> int:
    """ceil(log2(count)): the bits that tell `count` things apart; 0 for a single one."""
    return (count - 1).bit_length()


def binary_code(count: int) -> Array:
    """+-1 codes of 0 to count-1, shape [count, code_length(count)], the lowest bit first.

    Two codes differ in h >= 1 bits, so their inner product is length - 2h <= length - 2: the margin of every
    match in the construction is 2.

    >>> binary_code(3).tolist()
    [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]
    """
    return _signs(np.arange(count), code_length(count))


def gray_code(count: int) -> Array:
    """+-1 codes in which neighbours differ in one bit, shape [count, code_length(count)].

    A value between v and v+1, interpolated, is then wrong in that one bit only.

    >>> gray_code(3).tolist()
    [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    index = np.arange(count)
    return _signs(index ^ (index >> 1), code_length(count))


def _signs(index: NDArray[np.int_], length: int) -> Array:
    bits = (index[:, None] >> np.arange(length)) & 1
    return (2 * bits - 1).astype(np.float32)
