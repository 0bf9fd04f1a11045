"""Sizes that cannot fit are refused before the attempt."""

import psutil

from construct.errors import TooLargeError


def refuse_beyond_memory(needed: int, what: str) -> None:
    """Raise TooLargeError when `needed` bytes are not free; `what` says what for."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise TooLargeError(
            f"{what} takes about {needed / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free: "
            "choose fewer tasks, examples or inputs, or a smaller alphabet"
        )
