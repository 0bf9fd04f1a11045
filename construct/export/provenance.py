"""What an export is made of, what is proved of it, and what it predicts where: export.json.

export.json holds the whole description of the construction, its tasks too, so that an exported folder can be judged
without the folder that it came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context
from importlib import metadata
from typing import Any

from construct.artifact import describe
from construct.export.readout import NEGLIGIBLE
from construct.theorems import Construction

FORMAT = "task-superposition export"
FORMAT_VERSION = 1
RECORD = "export.json"
HUGGINGFACE, TORCH, ONNX = "huggingface", "torch", "onnx"
KINDS = (HUGGINGFACE, TORCH, ONNX)


@dataclass(frozen=True)
class Certified:
    """What is proved, for every prompt of at most m examples; None where no bound is claimed.

    Args:
        construction: arithmetic ("real", "float32", ..) -> the bound on |q_hat - q|_1 of the construction's weights.
        export: format -> the bound on the total variation between softmax(logits) of the exported weights and the
            mixture; empty where the exported weights themselves were not judged.
    """

    construction: Mapping[str, float | None]
    export: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where an export comes from.

    Args:
        construction: the construction.
        weights_sha256: of its weights.safetensors.
        certified: what is proved; None: nothing is.
    """

    construction: Construction
    weights_sha256: str
    certified: Certified | None


@dataclass(frozen=True)
class Claim:
    """What softmax(logits) is at one kind of position.

    Args:
        where: the positions.
        says: the distribution.
    """

    where: str
    says: str


def at_most(bound: float) -> str:
    """A bound as text of three digits, rounded up."""
    return f"{Context(prec=3, rounding=ROUND_CEILING).create_decimal_from_float(bound):.2e}"


def claims() -> tuple[Claim, ...]:
    """What is predicted where (`construct.export.readout`, docs/theory/probabilities.md)."""
    others = f"all other tokens together have at most {at_most(NEGLIGIBLE)}"
    return (
        Claim(
            "after an arrow",
            "the mixture p = q / sum(q) over the alphabet, q = sum_k (c_k/m') u[g_k(query)], where c_k of the m' "
            f"examples before follow task k; {others}",
        ),
        Claim(
            "after an arrow, without evidence",
            "the uniform distribution over the alphabet: no example, or none that a task explains, or the tasks that "
            f"explain one have no answer to the query; {others}",
        ),
        Claim("after the last input", f"the arrow; {others}"),
        Claim(
            "after the beginning, after other inputs, after an answer",
            f"the uniform distribution over the alphabet, since any token may follow; {others}",
        ),
        Claim(
            "after an arrow out of place",
            f"`<unk>`: a line has too many or too few inputs, or padding has shifted the positions; {others}",
        ),
    )


def record(source: Source, kind: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The content of export.json; `extra` is what only this kind has: sizes, normalisation, the files' hashes."""
    certified = source.certified
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "made_by": f"task-superposition {metadata.version('task-superposition')}",
        "certified": certified is not None,
        "error_bound": None if certified is None else dict(certified.construction),
        "total_variation_bound": None if certified is None or not certified.export else dict(certified.export),
        "predicts": [{"where": claim.where, "what": claim.says} for claim in claims()],
        **extra,
        "source": {"weights_sha256": source.weights_sha256, **describe(source.construction)},
    }
