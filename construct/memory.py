"""Sizes that cannot fit are refused before the attempt."""

from decimal import Decimal

import psutil

from construct.errors import TooLargeError


def refuse_beyond_memory(needed: int, what: str) -> None:
    """Raise TooLargeError when `needed` bytes are not free; `what` says what for."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise TooLargeError(
            f"{what} takes about {_gib(needed)} GiB and {_gib(free)} GiB are free: "
            "choose fewer tasks, examples or inputs, or a smaller alphabet"
        )


def _gib(count: int) -> str:
    """A number of bytes in GiB; a number of any size, which a float would not hold."""
    gib = Decimal(count) / 2**30
    return f"{gib:,.1f}" if gib < 10**9 else f"{gib:.1e}"
