"""From an artifact's folder to its certificate: decided by what the weights compute, not by what is written of them.

No hash kept in the artifact decides anything, and nothing is believed of the builder: the weights, the tasks and the
sizes go in, a bound for all prompts comes out.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from construct.artifact import CERTIFICATE, WEIGHTS, load, sizes, write_file
from construct.errors import ArtifactError, InputError
from construct.theorems import Construction
from construct.transformer import TransformerWeights
from verify.certificate import Proof
from verify.seven_theorem import prove_seven
from verify.superposition import superposition_proof
from verify.theorem import prove

FORMAT = "task-superposition certificate"
FORMAT_VERSION = 1
PROVERS: Mapping[str, Callable[[Construction], Proof]] = {"superpose": superposition_proof, "seven-layer": prove_seven}
"""The theorems with a prover of their own; which is asked decides how a proof is sought, not whether one is found."""

ARITHMETIC = (
    "sums of stored floats exact in float64 on a common dyadic grid, a slack where the grid is too fine; exp by "
    "interval enclosures (mpmath.iv), rounded up; sums of bounds inflated by 1 + 2^-40"
)
CLAIM = (
    "for every prompt of at most m examples over the alphabet, at every EQ, |q_hat - q|_1 <= error_bound, where q = "
    "sum_k (c_k/m') u[g_k(query)]; real: in real arithmetic; float32, bfloat16, float16: of the program as executed, "
    "with sums in float32 (no TF32), in any order, under the assumptions A1 to A3 of verify/rounding.py"
)


@dataclass(frozen=True)
class Verdict:
    """What was decided of an artifact.

    Args:
        certified: whether the bound in real arithmetic was proved to be at most eps.
        eps: the claim.
        proof: the proof, or how far it went.
        weights_sha256: of weights.safetensors.
        construction: what was judged.
        seconds: how long it took.
    """

    certified: bool
    eps: float
    proof: Proof
    weights_sha256: str
    construction: Construction
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The certificate as a JSON object, with a digest of itself."""
        construction = self.construction
        layout = construction.layout
        body = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "claim": CLAIM,
            "certified": self.certified,
            "eps": self.eps,
            "theorem": construction.theorem,
            "weights_sha256": self.weights_sha256,
            "sizes": {
                "tasks": len(construction.task_set.tasks),
                "alphabet": layout.alphabet_size,
                "inputs": layout.inputs,
                "examples": layout.examples,
                "log10_prompts": round(log10_prompts(construction), 3),
                **sizes(construction),
            },
            **self.proof.to_json(),
            "arithmetic": ARITHMETIC,
            "versions": versions(),
            "seconds": round(self.seconds, 3),
        }
        return body | {"certificate_sha256": digest(body)}


def digest(body: dict[str, Any]) -> str:
    """sha256 of the object as JSON with sorted keys and no spaces."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def log10_prompts(construction: Construction) -> float:
    """log10 of the number of prompts of at most m examples: the last length dominates."""
    layout = construction.layout
    tokens = layout.examples * (layout.inputs + 1) + layout.inputs
    return float(tokens * np.log10(layout.alphabet_size))


def file_sha256(path: Path) -> str:
    """The sha256 of a file. Raises ArtifactError when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error


def versions() -> dict[str, str]:
    """What made a certificate."""
    return {
        "task-superposition": metadata.version("task-superposition"),
        "numpy": np.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def refuse_denormal(weights: TransformerWeights) -> None:
    """Raise ArtifactError where a weight is a denormal number."""
    for name, tensor in weights.tensors():
        values = tensor if isinstance(tensor, np.ndarray) else tensor.data
        if ((values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)).any():
            raise ArtifactError(f"{name} holds a denormal number, which some devices read as 0: build it again")


def judge(construction: Construction, weights_sha256: str, eps: float | None = None) -> Verdict:
    """Decide whether |q_hat - q|_1 <= eps for every prompt.

    Args:
        construction: what to judge.
        weights_sha256: of its weights file.
        eps: the claim; None is the error bound that the artifact states.

    Raises:
        InputError: no eps is given and the artifact states none, or eps is not positive.
        ArtifactError: a weight is a denormal number.
    """
    claim = construction.error_bound if eps is None else eps
    if claim is None:
        raise InputError("the artifact states no error bound (its sharpness is too low): give one with --error")
    if not 0 < claim < float("inf"):
        raise InputError(f"--error is {claim:g}: expected a positive number")
    refuse_denormal(construction.weights)
    start = time.perf_counter()
    proof = PROVERS.get(construction.theorem, prove)(construction)
    certified = proof.real is not None and proof.real <= claim
    return Verdict(certified, claim, proof, weights_sha256, construction, time.perf_counter() - start)


def judge_folder(directory: Path, eps: float | None = None) -> Verdict:
    """`judge` for an artifact's folder, whatever its hashes say.

    Raises:
        ArtifactError: the folder cannot be read, or its parts do not fit.
    """
    construction = load(directory, check_hashes=False)
    return judge(construction, file_sha256(directory / WEIGHTS), eps)


class Certified(Protocol):
    """A verdict of any kind."""

    def to_json(self) -> dict[str, Any]:
        """The certificate as a JSON object."""
        ...


def write_certificate(verdict: Certified, directory: Path) -> Path:
    """Write certificate.json into the artifact's folder, whole or not at all.

    Raises:
        ArtifactError: it cannot be written.
    """
    path = directory / CERTIFICATE
    write_file(path, json.dumps(verdict.to_json(), indent=1).encode())
    return path
