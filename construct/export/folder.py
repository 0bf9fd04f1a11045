"""An export's folder, written whole or not at all, and the folder of a stock model in particular."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from construct.errors import ArtifactError
from construct.export.card import model_card
from construct.export.gpt2 import StockModel
from construct.export.provenance import HUGGINGFACE, RECORD, Source, record
from construct.export.shape import sizes
from construct.export.tokenizer import special_tokens, word_level_tokenizer

WEIGHTS = "model.safetensors"
CARD = "README.md"


def check_absent(directory: Path) -> None:
    """Raise ArtifactError when something stands where a folder is to be made: nothing is ever overwritten."""
    try:
        found = directory.exists() or directory.is_symlink()
    except OSError as error:
        raise ArtifactError(f"cannot look into {directory}: {error.strerror or error}") from error
    if found:
        raise ArtifactError(f"{directory} exists, and an export overwrites nothing: choose another --out")


@contextmanager
def new_folder(directory: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name when it is full; if filling it fails, nothing is left.

    Raises:
        ArtifactError: the folder exists, or it cannot be written.
    """
    check_absent(directory)
    place = directory.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise ArtifactError(f"cannot write {directory}: {error.strerror or error}: choose another --out") from error
    try:
        content = made / "content"
        content.mkdir()
        yield content
        check_absent(directory)
        content.rename(place)
    except OSError as error:
        raise ArtifactError(f"cannot write {directory}: {error.strerror or error}: choose another --out") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON file, indented."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def save_tensors(tensors: Mapping[str, NDArray[np.floating]], path: Path) -> None:
    """Write a safetensors file as transformers expects it.

    safetensors (0.8) writes an array's memory as it lies there, so an array in Fortran's order has to be copied.
    """
    in_order = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    path.write_bytes(save(in_order, metadata={"format": "pt"}))


def file_hash(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finish(content: Path, make_record: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Write export.json into a folder that is full but for it, with the hashes of its files, and return it."""
    hashes = {path.name: file_hash(path) for path in sorted(content.iterdir())}
    found = make_record({"sha256": hashes})
    write_json(content / RECORD, found)
    return found


def write_huggingface(model: StockModel, source: Source, directory: Path) -> dict[str, Any]:
    """Write a stock model's folder, which transformers loads with no code of ours.

    Returns:
        What export.json holds.

    Raises:
        InputError: transformers is not installed.
        ArtifactError: the folder exists, or cannot be written.
    """
    task_set = source.construction.task_set
    tokenizer = word_level_tokenizer(task_set, positions=model.shape.positions)
    with new_folder(directory) as content:
        save_tensors(model.tensors, content / WEIGHTS)
        write_json(content / "config.json", model.config)
        write_json(content / "generation_config.json", generation_config(model))
        tokenizer.save_pretrained(content)
        (content / CARD).write_text(model_card(model, source, special_tokens(task_set)), encoding="utf-8")
        return finish(
            content,
            lambda hashes: record(
                source,
                HUGGINGFACE,
                {"normalization": model.normalization, "sizes": dict(sizes(model.shape)), **hashes},
            ),
        )


def generation_config(model: StockModel) -> dict[str, Any]:
    """One token, drawn from softmax(logits) as it is: an answer in the mixture's proportions."""
    return {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": 1,
        "bos_token_id": model.config["bos_token_id"],
        "eos_token_id": None,
        "pad_token_id": model.config["pad_token_id"],
    }
