"""From an exported folder to its certificate: read, judged, written beside it."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from construct.errors import ArtifactError, InputError
from construct.export.provenance import FORMAT as EXPORT_FORMAT
from construct.export.provenance import HUGGINGFACE, RECORD
from construct.prompts import Layout
from construct.residual_stream import ResidualStream
from construct.sparse import sparse_matrix
from construct.task_file import task_set_from_json
from construct.theorems import Construction
from construct.transformer import TransformerWeights
from verify.certify import FORMAT_VERSION, digest, file_sha256, log10_prompts, versions
from verify.export import ExportProof, certify_export
from verify.export_weights import Tensors

FORMAT = "task-superposition certificate of an export"
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"

CLAIM = (
    "for every prompt of at most m examples over the alphabet, at every EQ, the total variation of softmax(logits) to "
    "q / sum(q), q = sum_k (c_k/m') u[g_k(query)], uniform over the alphabet where sum(q) = 0, is at most "
    "total_variation_bound; after the last input that to EQ, and at every other position that to the uniform "
    "distribution over the alphabet, is at most elsewhere_bound. real: of the weights in real arithmetic; float32, "
    "bfloat16: of the logits as executed in that format, under the assumptions B1 to B5 of verify/export_arithmetic.py"
)


@dataclass(frozen=True)
class ExportVerdict:
    """What was decided of an exported folder.

    Args:
        certified: whether a bound was proved in real arithmetic, at most the claim if there is one.
        claim: the claim on the total variation at every EQ; None: any bound below 1.
        proof: the proof.
        weights_sha256: of model.safetensors.
        construction: the tasks and sizes.
        seconds: how long it took.
    """

    certified: bool
    claim: float | None
    proof: ExportProof
    weights_sha256: str
    construction: Construction
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The certificate as a JSON object, with a digest of itself."""
        layout, task_set = self.construction.layout, self.construction.task_set
        body = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "claim": CLAIM,
            "certified": self.certified,
            "eps": self.claim,
            "theorem": self.construction.theorem,
            "weights_sha256": self.weights_sha256,
            "sizes": {
                "tasks": len(task_set.tasks),
                "alphabet": layout.alphabet_size,
                "inputs": layout.inputs,
                "examples": layout.examples,
                "log10_prompts": round(log10_prompts(self.construction), 3),
            },
            "total_variation_bound": self.proof.answer,
            "elsewhere_bound": self.proof.elsewhere,
            "refusals": self.proof.refusals,
            "figures": self.proof.figures,
            "violations": [asdict(violation) for violation in self.proof.violations],
            "versions": versions(),
            "seconds": round(self.seconds, 3),
        }
        return body | {"certificate_sha256": digest(body)}


def judge_export(directory: Path, claim: float | None = None) -> ExportVerdict:
    """Decide what an exported folder's stored weights predict, whatever its hashes say.

    Raises:
        ArtifactError: the folder cannot be read, or its parts do not fit.
        InputError: the claim is not positive.
    """
    if claim is not None and not 0 < claim < float("inf"):
        raise InputError(f"--error is {claim:g}: expected a positive number")
    construction = described(directory)
    config, tensors = _json(directory / CONFIG), _tensors(directory / WEIGHTS)
    check_tokens(directory, construction)
    return verdict_of(construction, config, tensors, file_sha256(directory / WEIGHTS), claim)


def verdict_of(
    construction: Construction, config: Mapping[str, Any], tensors: Tensors, sha256: str, claim: float | None = None
) -> ExportVerdict:
    """Decide what a stock model predicts."""
    start = time.perf_counter()
    proof = certify_export(construction, config, tensors)
    real = proof.answer["real"]
    certified = real is not None and (claim is None or real <= claim)
    return ExportVerdict(certified, claim, proof, sha256, construction, time.perf_counter() - start)


def is_export(directory: Path) -> bool:
    """Whether a folder holds an export."""
    return (directory / RECORD).is_file()


def described(directory: Path) -> Construction:
    """The tasks, sizes and subspaces of an export, without weights.

    Raises:
        ArtifactError: export.json cannot be read, or is not of a stock GPT-2.
    """
    record = _json(directory / RECORD)
    if record.get("format") != EXPORT_FORMAT:
        raise ArtifactError(f"{directory / RECORD} is no record of an export: export the construction again")
    if record.get("kind") != HUGGINGFACE:
        raise ArtifactError(
            f"{directory} holds an export as {record.get('kind')}: of exports a stock GPT-2 is proved "
            f"(construct export --format {HUGGINGFACE}), of others the construction that they were made of"
        )
    try:
        source = record["source"]
        task_set = task_set_from_json(source["task_set"])
        layout = Layout(len(task_set.alphabet), task_set.inputs, int(source["layout"]["examples"]))
        stream = ResidualStream({name: int(space["size"]) for name, space in source["subspaces"].items()})
        sizes = {"evidence": len(task_set.tasks), "token": layout.alphabet_size, "role_eq": 1}
        if layout.examples < 1 or any(stream[name].size != size for name, size in sizes.items()):
            raise ValueError("its subspaces or its layout do not fit the tasks")
        theorem = str(source["theorem"])
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{directory / RECORD}: {reason}: export the construction again") from error
    nothing = sparse_matrix(np.zeros(0, np.float32), np.zeros(0, np.int_), np.zeros(0, np.int_), (1, 1))
    weights = TransformerWeights(nothing, nothing, (), nothing)
    return Construction(theorem, task_set, layout, stream, weights, 0.0, None, ())


def check_tokens(directory: Path, construction: Construction) -> None:
    """Raise ArtifactError where the tokenizer's ids are not the alphabet's order, if a tokenizer is there."""
    if not (directory / TOKENIZER).exists():
        return
    try:
        vocabulary = _json(directory / TOKENIZER)["model"]["vocab"]
        ids = sorted(vocabulary.values())
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{directory / TOKENIZER} is no word-level tokenizer: export the construction again"
        ) from error
    layout = construction.layout
    wrong = [token for at, token in enumerate(construction.task_set.alphabet) if vocabulary.get(token) != at]
    if wrong or ids != list(range(layout.vocabulary_size + 2)):
        what = repr(wrong[0]) if wrong else "a special token"
        raise ArtifactError(f"{directory / TOKENIZER}: the id of {what} is not its place in the alphabet of {RECORD}")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} holds no JSON object: export the construction again")
    return found


def _tensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_safetensors(path.read_bytes()))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): export the construction again") from error
