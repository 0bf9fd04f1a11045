"""Compare what a certificate claims with what was found: its frame, its words and its figures."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from verify.check.exact import Number, require

TEXT = object()
"""Stands for any text in what a certificate should be."""

ABOVE = 1 + Fraction(1, 10**9), Fraction(1, 10**280)
"""A figure may exceed what is found by this, relatively and absolutely: the prover rounds up."""


def frame(
    claimed: dict[str, Any], sizes: dict[str, Any], lemmas: dict[str, dict[str, Any]], formats: Sequence[str]
) -> dict[str, Any]:
    """What a certificate should be, whatever its theorem; bounds, eps and the time are the claimed ones still.

    The digests and the theorem's name have been compared before.
    """
    bounds = {name: claimed["error_bound"].get(name) for name in ("real", *formats)}
    same = {name: claimed[name] for name in ("theorem", "weights_sha256", "certificate_sha256", "eps", "seconds")}
    return same | {
        "format": "task-superposition certificate",
        "format_version": 1,
        "claim": TEXT,
        "certified": True,
        "sizes": sizes,
        "error_bound": bounds,
        "refusals": {form: TEXT for form in formats if bounds[form] is None},
        "lemmas": [{"name": name, "claim": TEXT, "figures": part, "holds": True} for name, part in lemmas.items()],
        "violations": [],
        "arithmetic": TEXT,
        "versions": dict.fromkeys(("task-superposition", "numpy", "python"), TEXT),
    }


def compare(claimed: Any, found: Any, where: str, *, loose: bool = False, most: Fraction = ABOVE[1]) -> None:
    """Refuse a claim that is not, in all its parts, of the form and the size of what was found.

    A figure (a Fraction) may be a little above what was found; a loose one up to twice the largest of its list, `most`.
    """
    if isinstance(found, dict):
        require(type(claimed) is dict and claimed.keys() == found.keys(), f"{where} has not just {sorted(found)}")
        for name, part in found.items():
            compare(claimed[name], part, f"{where}.{name}", loose=loose)
    elif isinstance(found, list):
        require(type(claimed) is list and len(claimed) == len(found), f"{where} is no list of {len(found)}")
        most = max([most, *(part for part in found if isinstance(part, Fraction))])
        for place, part in enumerate(found):
            compare(claimed[place], part, f"{where}[{place}]", loose=loose, most=most)
    elif isinstance(found, Fraction):
        near(claimed, found, where, 2 * most if loose else 0)
    elif found is TEXT:
        require(type(claimed) is str and claimed, f"{where} is no text")
    else:
        same = type(claimed) is type(found) and claimed == found
        require(same, f"{where} is {claimed!r:.60}, but {found!r:.60} was found")


def near(claimed: Any, found: Fraction, what: str, more: Number = 0) -> None:
    """Refuse a figure that is not what was found, or hardly (or by `more`) above it."""
    good = type(claimed) is float and found <= Fraction(claimed) <= found * ABOVE[0] + ABOVE[1] + more
    require(good, f"{what} is {claimed!r:.60}, but {float(found)!r} was found")


def check_real(claimed: dict[str, Any], stated: Sequence[float], real: Sequence[Fraction]) -> None:
    """The bound in real arithmetic by the number of examples, the largest of them, eps and the time."""
    require(len(stated) == len(real), "there is not one bound for each number of examples")
    for shown, bound in enumerate(real):
        near(stated[shown], bound, f"the bound after {shown} examples")
    bounds = claimed["error_bound"]
    require(type(bounds["real"]) is type(claimed["eps"]) is float, "the bound or eps is no number")
    require(type(claimed["seconds"]) is float and claimed["seconds"] >= 0, "the time is none")
    require(max(stated) <= bounds["real"] <= claimed["eps"], "the bound is below what was found, or above eps")
    near(bounds["real"], max(real), "the bound in real arithmetic")
