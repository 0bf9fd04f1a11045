"""From the folder of a construction on vectors to its certificate; see `verify.certify`, whose form it has."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from construct.artifact import SEVEN_VECTORS, VECTORS, WEIGHTS, sizes
from construct.errors import InputError
from construct.vector_artifact import load_vectors
from construct.vector_theorem import VectorConstruction
from verify.certificate import Proof
from verify.certify import FORMAT, FORMAT_VERSION, digest, file_sha256, refuse_denormal, versions
from verify.seven_vectors import prove_seven_vectors
from verify.vector_theorem import prove_vectors

PROVERS: Mapping[str, Callable[[VectorConstruction], Proof]] = {
    VECTORS: prove_vectors,
    SEVEN_VECTORS: prove_seven_vectors,
}
"""The theorems on vectors, each with its prover."""

CLAIM = (
    "for every prompt of at most m examples whose inputs have norm at most input_bound and answers norm at most "
    "answer_bound, and in which every example is within tolerance of each task that it follows and at least margin "
    "away from each other task, in the stated distance: at every EQ, |q_hat - q|_max <= error_bound, where q = sum_k "
    "(c_k/m') g_k(query); real: in real arithmetic; float32: of the program as executed, with sums in float32 (no "
    "TF32), in any order, under the assumptions A1, A2' and A3 of verify/vector_machine.py"
)
UNIT_CLAIM = "; inputs and answers of examples are unit vectors, up to norm_slack in their squares"
"""What comparison by attention asks besides."""

ARITHMETIC = (
    "float64 with a slack for its own rounding, sums exact where they fit a common dyadic grid; exp by interval "
    "enclosures (mpmath.iv), rounded up, or numpy's with 2^-45 added; sums of bounds inflated by 1 + 2^-40"
)


@dataclass(frozen=True)
class VectorVerdict:
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
    construction: VectorConstruction
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The certificate as a JSON object, with a digest of itself."""
        construction, layout = self.construction, self.construction.layout
        comparison, task_set = construction.comparison, construction.task_set
        body = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "claim": CLAIM + (UNIT_CLAIM if comparison.norm_slack else ""),
            "certified": self.certified,
            "eps": self.eps,
            "theorem": construction.theorem,
            "weights_sha256": self.weights_sha256,
            "domain": {
                "comparison": comparison.kind,
                "distance": comparison.says,
                "tolerance": comparison.tolerance,
                "margin": comparison.margin,
                "norm_slack": comparison.norm_slack,
                "input_bound": task_set.bound,
                "answer_bound": task_set.answer_bound,
            },
            "sizes": {
                "tasks": len(task_set.tasks),
                "dim": layout.dim,
                "inputs": layout.inputs,
                "examples": layout.examples,
                "fingerprint": comparison.width,
                **sizes(construction),
            },
            **_finite(self.proof.to_json()),
            "arithmetic": ARITHMETIC,
            "versions": versions(),
            "seconds": round(self.seconds, 3),
        }
        return body | {"certificate_sha256": digest(body)}


def _finite(value: Any) -> Any:
    """The same with null for what is no finite number, of which JSON has none; only a failed proof has such figures."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def judge_vectors(construction: VectorConstruction, weights_sha256: str, eps: float | None = None) -> VectorVerdict:
    """Decide whether |q_hat - q|_max <= eps for every prompt in the domain; raises what `verify.certify.judge` does."""
    claim = construction.error_bound if eps is None else eps
    if claim is None:
        raise InputError("the artifact states no error bound (its sharpness is too low): give one with --error")
    if not 0 < claim < float("inf"):
        raise InputError(f"--error is {claim:g}: expected a positive number")
    refuse_denormal(construction.weights)
    start = time.perf_counter()
    proof = PROVERS[construction.theorem](construction)
    certified = proof.real is not None and proof.real <= claim
    return VectorVerdict(certified, claim, proof, weights_sha256, construction, time.perf_counter() - start)


def judge_vector_folder(directory: Path, eps: float | None = None) -> VectorVerdict:
    """`judge_vectors` for an artifact's folder, whatever its hashes say. Raises ArtifactError for a broken one."""
    return judge_vectors(load_vectors(directory, check_hashes=False), file_sha256(directory / WEIGHTS), eps)
