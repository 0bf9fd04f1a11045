"""An export as one file of plain torch, its weights, and the vocabulary: no transformers, no normalisation.

model.py is `construct.export.plain_model`, word for word.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from construct.export.card import certified_section
from construct.export.folder import CARD, WEIGHTS, finish, new_folder, save_tensors, write_json
from construct.export.provenance import ONNX, TORCH, Source, claims, record
from construct.export.readout import Readout
from construct.export.tokenizer import special_tokens
from construct.memory import refuse_beyond_memory
from construct.prompts import Layout
from construct.tasks import TaskSet
from construct.theorems import unit_rows

PROGRAM, VOCABULARY = "model.py", "vocabulary.json"

BYTES_WHILE_WRITING = 9
"""Per parameter: the tensors, the file made of them, and a little."""

PLAIN_CARD = """\
# {name}: {tasks} tasks in superposition, in {kind}

{use}

{certified}

What softmax(logits) is:

{claims}

`mixture`, the second output, is q itself, not normalised. A prompt has at most {examples} examples, {positions} tokens,
and starts at position 0: pad on the right, if at all. `vocabulary.json` holds the tokens by id. `export.json` says
where the weights come from, and what every head and unit of the construction is for.
"""

USE = """\
`model.py` is one file, which needs torch and nothing else: read it, paste it, import it. `python model.py PROMPT.txt`
answers a prompt, one example a line, the query last."""


def check_plain(model: Readout) -> None:
    """Raise TooLargeError, with the figure, when the dense weights do not fit into memory."""
    total = plain_sizes(model)["parameters"]
    refuse_beyond_memory(BYTES_WHILE_WRITING * total, f"a plain model of {total:,} parameters, all dense,")


def plain_tensors(model: Readout) -> dict[str, NDArray[np.floating]]:
    """The readout's weights, dense, by the names of `construct.export.plain_model.Transformer`.

    A layer without heads has no attention tensors. Raises TooLargeError where they do not fit into memory.
    """
    check_plain(model)
    weights, token = model.weights, model.stream["token"]
    found: dict[str, Any] = {}
    for name, tensor in weights.tensors():
        if name == "unembedding":
            found["unembedding.logits"] = tensor
        elif np.prod(tensor.shape):
            found[name] = tensor
    found["unembedding.mixture"] = unit_rows(token, (token.size, weights.d_model)).T
    return {name: _dense(tensor) for name, tensor in found.items()}


def _dense(tensor: Any) -> NDArray[np.floating]:
    return np.ascontiguousarray(tensor if isinstance(tensor, np.ndarray) else tensor.toarray(), dtype=np.float32)


def vocabulary(task_set: TaskSet, layout: Layout) -> dict[str, Any]:
    """The content of vocabulary.json."""
    special = special_tokens(task_set)
    return {
        "tokens": [*task_set.alphabet, special.bos, special.eq, special.unknown, special.pad],
        "alphabet": layout.alphabet_size,
        "bos": layout.bos,
        "eq": layout.eq,
        "inputs": layout.inputs,
        "examples": layout.examples,
        "separator": task_set.format.separator,
        "arrow": task_set.format.arrow,
    }


def write_plain(content: Path, model: Readout, source: Source, *, kind: str, use: str) -> dict[str, Any]:
    """Write what plain exports share into a folder that is being made: vocabulary.json, README.md, export.json.

    Args:
        content: the folder.
        model: what is exported.
        source: where it comes from.
        kind: of the export.
        use: what the card says of how to use it.

    Returns:
        What export.json holds.
    """
    construction = source.construction
    card = PLAIN_CARD.format(
        kind={TORCH: "plain torch", ONNX: "ONNX"}[kind],
        use=use,
        name=construction.task_set.name,
        tasks=len(construction.task_set.tasks),
        examples=construction.layout.examples,
        positions=construction.layout.positions,
        certified=certified_section(source.certified),
        claims="\n".join(f"- {claim.where}: {claim.says}" for claim in claims()),
    )
    write_json(content / VOCABULARY, vocabulary(construction.task_set, construction.layout))
    (content / CARD).write_text(card, encoding="utf-8")
    return finish(content, lambda hashes: record(source, kind, {"sizes": plain_sizes(model), **hashes}))


def plain_sizes(model: Readout) -> dict[str, Any]:
    """Layers, heads and widths of the readout without normalisation."""
    weights = model.weights
    return {
        "layers": len(weights.layers),
        "heads": weights.heads,
        "width": weights.d_model,
        "inner": weights.mlp_width,
        "positions": model.construction.layout.positions,
        "vocabulary": model.vocabulary_size,
        "parameters": weights.parameters + weights.d_model * model.stream["token"].size,
    }


def write_torch(model: Readout, source: Source, directory: Path) -> dict[str, Any]:
    """Write model.py, model.safetensors, vocabulary.json, README.md and export.json.

    Returns:
        What export.json holds.

    Raises:
        TooLargeError: the dense weights do not fit into memory.
        ArtifactError: the folder exists, or cannot be written.
    """
    tensors = plain_tensors(model)
    program = Path(__file__).with_name("plain_model.py").read_text(encoding="utf-8")
    with new_folder(directory) as content:
        (content / PROGRAM).write_text(program, encoding="utf-8")
        save_tensors(tensors, content / WEIGHTS)
        return write_plain(content, model, source, kind=TORCH, use=USE)
