"""The command: check the certificate of the artifact in a folder, by the theorem that it names, and say so."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verify.check.exact import RefusedError, require
from verify.check.files import UnreadableError, read_bytes, read_json
from verify.check.seven import check_seven
from verify.check.seven_vectors import check_seven_vectors
from verify.check.superposition import check_superposition
from verify.check.two_layer import check_two_layer
from verify.check.vectors import check_vectors

Say = Callable[[str], object]
Check = Callable[[dict[str, Any], Any, bytes, Say], None]
"""Is given the certificate, construction.json, the weights' file and a function to say what holds; raises what hinders.

That the digests are right, and that the certificate is of these weights, was checked before.
"""

THEOREMS: Mapping[str, Check] = {
    "two-layer": check_two_layer,
    "vectors": check_vectors,
    "seven-layer": check_seven,
    "seven-layer vectors": check_seven_vectors,
    "superpose": check_superposition,
}
"""The theorems that are checked here, by the name that the certificate gives."""


def check(certificate: Path, directory: Path, say: Say) -> None:
    """Check the certificate of the artifact in a folder. Raises whatever hinders it."""
    claimed = read_json(read_bytes(certificate), "the certificate")
    require(type(claimed) is dict, "the certificate is no object")
    body = {name: value for name, value in claimed.items() if name != "certificate_sha256"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    require(claimed.get("certificate_sha256") == digest, "the certificate was changed: its digest is another")
    content = read_bytes(directory / "weights.safetensors")
    sha256 = hashlib.sha256(content).hexdigest()
    require(claimed.get("weights_sha256") == sha256, "the certificate is of other weights")
    described = read_json(read_bytes(directory / "construction.json"), "construction.json")
    theorem = claimed.get("theorem")
    known = type(theorem) is str and theorem in THEOREMS
    require(known, f"{theorem!r:.60} is no theorem that is checked here")
    say("certificate: its digest, and that of the weights, are right")
    THEOREMS[theorem](claimed, described, content, say)


def main(arguments: Sequence[str]) -> int:
    """The command. Returns the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m verify.check certificate.json DIR\n")
        return 2
    try:
        check(Path(arguments[0]), Path(arguments[1]), lambda line: sys.stdout.write(line + "\n"))
    except UnreadableError as error:
        sys.stdout.write(f"UNREADABLE: {error}\n")
        return 2
    except RefusedError as error:
        sys.stdout.write(f"REFUSED: {error}\n")
        return 1
    except Exception as error:  # noqa: BLE001 - whatever went wrong, nothing was verified
        sys.stdout.write(f"REFUSED: the check broke off: {type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write("VERIFIED\n")
    return 0
