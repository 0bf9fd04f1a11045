"""A construction as a folder: weights.safetensors and construction.json, all that any later tool needs.

A tensor is stored dense under its name, or sparse as NAME.index (places in the flattened tensor, ascending) and
NAME.value, whichever is smaller. Folders are written whole or not at all.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from construct.errors import ArtifactError, InputError
from construct.prompts import Layout
from construct.residual_stream import Array, ResidualStream
from construct.sparse import Sparse, sparse_matrix
from construct.task_file import task_set_from_json, task_set_to_json
from construct.theorems import Circuit, Construction
from construct.transformer import AttentionWeights, LayerWeights, MlpWeights, TransformerWeights

FORMAT = "task-superposition construction"
FORMAT_VERSION = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "construction.json"
CERTIFICATE = "certificate.json"
NOT_VERIFIED = "not verified"
VECTORS, SEVEN_VECTORS = "vectors", "seven-layer vectors"
ON_VECTORS = (VECTORS, SEVEN_VECTORS)
"""The theorems whose folders `construct.vector_artifact` reads."""
OWN_FILES = {WEIGHTS, DESCRIPTION, CERTIFICATE}

T = TypeVar("T")


class HasWeights(Protocol):
    """A construction of any kind."""

    @property
    def weights(self) -> TransformerWeights:
        """Its weights."""
        ...


_SPARSE_PARTS = {"embedding.token", "embedding.position", "unembedding", "w_in", "w_out"}
"""Tensors that are sparse in memory; the others are dense there."""


def save(construction: Construction, directory: Path, *, dense: bool = False, verification: str = NOT_VERIFIED) -> None:
    """Write the construction's folder, whole or not at all; an earlier construction there is replaced.

    Args:
        construction: what to write.
        directory: the folder; its parents are made.
        dense: store every tensor dense.
        verification: what is said of the proof of these weights, in words; nothing relies on it.

    Raises:
        ArtifactError: the folder holds something else, or cannot be written.
    """
    save_parts(construction.weights, describe(construction), directory, dense=dense, verification=verification)


def save_parts(
    model: TransformerWeights, parts: Mapping[str, Any], directory: Path, *, dense: bool, verification: str
) -> None:
    """Write weights and a description, without its tensors and hashes, as `save` does."""
    check_free(directory)
    tensors: dict[str, np.ndarray] = {}
    shapes = {}
    for name, tensor in model.tensors():
        stored = _stored(name, tensor, dense=dense)
        tensors |= stored
        shapes[name] = {"shape": list(tensor.shape), "stored": "dense" if name in stored else "sparse"}
    weights = save_safetensors(tensors, metadata={"format": FORMAT})
    description = {**parts, "verification": verification, "tensors": shapes}
    hashes = {WEIGHTS: _sha256(weights), "description": _description_hash(description)}
    text = json.dumps(description | {"sha256": hashes}, ensure_ascii=False, indent=1)
    try:
        _write_folder(directory, {WEIGHTS: weights, DESCRIPTION: text.encode()})
    except OSError as error:
        raise ArtifactError(f"cannot write {directory}: {error.strerror or error}: choose another --out") from error


def write_file(path: Path, content: bytes) -> None:
    """Write one file whole or not at all. Raises ArtifactError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}") from error


def check_free(directory: Path) -> None:
    """Raise ArtifactError unless the folder is absent, empty, or holds nothing but an earlier construction."""
    try:
        if not directory.exists() and not directory.is_symlink():
            return
        if not directory.is_dir():
            raise ArtifactError(f"{directory} is not a folder: choose another --out")
        others = sorted(entry.name for entry in directory.iterdir() if entry.name not in OWN_FILES)
        found = any(directory.iterdir())
    except OSError as error:
        raise ArtifactError(f"cannot look into {directory}: {error.strerror or error}") from error
    if directory.resolve() == Path.cwd():
        raise ArtifactError(f"{directory} is the current folder, which cannot be replaced: choose another --out")
    if others:
        raise ArtifactError(f"{directory} holds something else ({others[0]}): choose another --out or empty it")
    if found and not _is_ours(directory / DESCRIPTION):
        raise ArtifactError(f"{directory} holds files that are no construction: choose another --out or empty it")


def load(directory: Path, *, check_hashes: bool = True) -> Construction:
    """Read a construction's folder.

    Args:
        directory: the folder.
        check_hashes: refuse files that are not as `save` wrote them. Verification turns this off and judges the
            weights by what they compute.

    Raises:
        ArtifactError: a file is missing, truncated, altered, of a newer format, or its parts do not fit.
    """
    if theorem_of(directory) in ON_VECTORS:
        raise ArtifactError(f"{directory} holds a construction on vectors, which this command does not take")
    return load_parts(directory, _construction, check_hashes=check_hashes)


def theorem_of(directory: Path) -> str:
    """The theorem that a folder says it holds. Raises ArtifactError when it holds no description."""
    return str(_read_description(directory).get("theorem"))


def load_parts(
    directory: Path, make: Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], T], *, check_hashes: bool
) -> T:
    """What `make` makes of the description and the stored tensors of a folder; raises what `load` does."""
    data = _read_description(directory)
    try:
        weights = (directory / WEIGHTS).read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {directory / WEIGHTS}: {error.strerror or error}") from error
    try:
        tensors = load_safetensors(weights)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"{directory / WEIGHTS} is damaged ({error}): build the construction again") from error
    if check_hashes:
        _check_hashes(directory, data, weights)
    try:
        return make(data, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{directory}: the parts do not fit ({reason}): build the construction again") from error


def sizes(construction: HasWeights) -> dict[str, Any]:
    """Layers, heads, widths and parameters, as `construct build --json` reports them."""
    weights = construction.weights
    return {
        "layers": len(weights.layers),
        "heads": weights.heads,
        "d_model": weights.d_model,
        "mlp_width": weights.mlp_width,
        "parameters": weights.parameters,
        "nonzero_parameters": weights.nonzero_parameters,
    }


def describe(construction: Construction) -> dict[str, Any]:
    """What construction.json says of a construction, without its tensors and hashes."""
    layout = construction.layout
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "made_by": f"task-superposition {metadata.version('task-superposition')}",
        "theorem": construction.theorem,
        "sharpness": construction.sharpness,
        "error_bound": construction.error_bound,
        "sizes": sizes(construction),
        "layout": {
            "alphabet_size": layout.alphabet_size,
            "inputs": layout.inputs,
            "examples": layout.examples,
            "positions": layout.positions,
            "bos": layout.bos,
            "eq": layout.eq,
        },
        "subspaces": {name: {"start": space.start, "size": space.size} for name, space in construction.stream.items()},
        "circuits": [asdict(circuit) for circuit in construction.circuits],
        "task_set": task_set_to_json(construction.task_set),
    }


def _construction(data: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Construction:
    task_set = task_set_from_json(data["task_set"])
    layout = Layout(len(task_set.alphabet), task_set.inputs, data["layout"]["examples"])
    written = {"alphabet_size": layout.alphabet_size, "inputs": layout.inputs, "positions": layout.positions}
    for name, expected in written.items():
        if data["layout"][name] != expected:
            raise ValueError(f"layout.{name} is {data['layout'][name]}, the tasks give {expected}")
    stream = ResidualStream({name: space["size"] for name, space in data["subspaces"].items()})
    for name, space in stream.items():
        if data["subspaces"][name]["start"] != space.start:
            raise ValueError(f"subspace {name} starts at {data['subspaces'][name]['start']}, not {space.start}")
    expected_sizes = {"token": layout.alphabet_size, "evidence": len(task_set.tasks)}
    for name, size in expected_sizes.items():
        if stream[name].size != size:
            raise ValueError(f"subspace {name} has size {stream[name].size}, the tasks need {size}")
    shapes = layout.vocabulary_size, layout.positions, layout.alphabet_size
    weights = weights_of(data, tensors, shapes, stream.d_model)
    circuits = tuple(
        Circuit(**{**circuit, "reads": tuple(circuit["reads"]), "writes": tuple(circuit["writes"])})
        for circuit in data["circuits"]
    )
    return Construction(
        data["theorem"], task_set, layout, stream, weights, float(data["sharpness"]), data["error_bound"], circuits
    )


def weights_of(
    data: Mapping[str, Any], tensors: Mapping[str, np.ndarray], sizes: tuple[int, int, int], d_model: int
) -> TransformerWeights:
    """The weights of stored tensors, for (rows of the embedding, positions, outputs). Raises ValueError."""
    loaded: dict[str, Any] = {}
    used = set()
    for name, entry in data["tensors"].items():
        names = [name] if entry["stored"] == "dense" else [f"{name}.index", f"{name}.value"]
        used.update(names)
        parts = [tensors[part] for part in names]
        loaded[name] = _restored(name, tuple(entry["shape"]), parts)
    if unknown := sorted(tensors.keys() - used):
        raise ValueError(f"the weights hold {unknown[0]}, which the description does not name")
    layers: list[LayerWeights] = []
    while f"layers.{len(layers)}.mlp.w_in" in loaded:
        prefix = f"layers.{len(layers)}"
        attention = {name: loaded[f"{prefix}.attention.{name}"] for name in AttentionWeights.__dataclass_fields__}
        mlp = {name: loaded[f"{prefix}.mlp.{name}"] for name in MlpWeights.__dataclass_fields__}
        layers.append(LayerWeights(AttentionWeights(**attention), MlpWeights(**mlp)))
    weights = TransformerWeights(
        loaded["embedding.token"], loaded["embedding.position"], tuple(layers), loaded["unembedding"]
    )
    _check_shapes(weights, sizes, d_model)
    if data["sizes"]["layers"] != len(layers):
        raise ValueError(f"sizes.layers is {data['sizes']['layers']}, the weights have {len(layers)}")
    return weights


def _check_shapes(weights: TransformerWeights, sizes: tuple[int, int, int], d_model: int) -> None:
    embedded, positions, outputs = sizes
    expected: dict[str, tuple[int, ...]] = {
        "embedding.token": (embedded, d_model),
        "embedding.position": (positions, d_model),
        "unembedding": (d_model, outputs),
    }
    for index, layer in enumerate(weights.layers):
        heads, _, d_qk = layer.attention.query.shape
        d_value, width = layer.attention.value.shape[-1], layer.mlp.w_in.shape[-1]
        at = f"layers.{index}"
        expected |= {f"{at}.attention.{name}": (heads, d_model, d_qk) for name in ("query", "key")}
        expected |= {f"{at}.attention.value": (heads, d_model, d_value)}
        expected |= {f"{at}.attention.output": (heads, d_value, d_model)}
        expected |= {f"{at}.mlp.w_in": (d_model, width), f"{at}.mlp.bias_in": (width,)}
        expected |= {f"{at}.mlp.w_out": (width, d_model), f"{at}.mlp.bias_out": (d_model,)}
    for name, tensor in weights.tensors():
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, expected {expected[name]}")


def _stored(name: str, tensor: Array | Sparse, *, dense: bool) -> dict[str, np.ndarray]:
    count = int(np.prod(tensor.shape))
    if isinstance(tensor, np.ndarray):
        index = np.flatnonzero(tensor)
        value = tensor.ravel()[index]
    else:
        entries = tensor.tocoo()
        index = np.ravel_multi_index(entries.coords, tensor.shape) if entries.nnz else np.zeros(0, dtype=np.int64)
        order = np.argsort(index)
        index, value = index[order], entries.data[order]
    index = index.astype(np.int32 if count < 2**31 else np.int64)
    if not dense and index.nbytes + value.nbytes < 4 * count:
        return {f"{name}.index": index, f"{name}.value": value}
    return {name: np.ascontiguousarray(tensor if isinstance(tensor, np.ndarray) else tensor.toarray())}


def _restored(name: str, shape: tuple[int, ...], parts: list[np.ndarray]) -> Array | Sparse:
    value = parts[-1]
    if value.dtype != np.float32:
        raise ValueError(f"{name} is stored as {value.dtype}, expected float32")
    if not np.isfinite(value).all():
        raise ValueError(f"{name} holds a value that is not a finite number")
    sparse = len(shape) == 2 and any(name == part or name.endswith(f".{part}") for part in _SPARSE_PARTS)
    if len(parts) == 1:
        if value.shape != shape:
            raise ValueError(f"{name} has the shape {value.shape}, the description says {shape}")
        if not sparse:
            return value
        rows, columns = np.nonzero(value)
        return sparse_matrix(value[rows, columns], rows, columns, (shape[0], shape[1]))
    if parts[0].dtype.kind != "i":
        raise ValueError(f"{name} has places stored as {parts[0].dtype}, expected integers")
    index = parts[0].astype(np.int64)
    count = int(np.prod(shape))
    if index.shape != value.shape or index.ndim != 1 or (np.diff(index) <= 0).any():
        raise ValueError(f"{name} has places and values that do not match or are out of order")
    if len(index) and not 0 <= index[0] <= index[-1] < count:
        raise ValueError(f"{name} has an entry outside its shape {shape}")
    if sparse:
        rows, columns = np.divmod(index, shape[1])
        return sparse_matrix(value, rows, columns, (shape[0], shape[1]))
    tensor = np.zeros(count, dtype=np.float32)
    tensor[index] = value
    return tensor.reshape(shape)


def _read_description(directory: Path) -> dict[str, Any]:
    path = directory / DESCRIPTION
    if not directory.is_dir():
        raise ArtifactError(f"{directory} is no folder: give one that `construct build` made")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{directory} has no {DESCRIPTION}: give a folder that `construct build` made") from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): build the construction again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ArtifactError(f"{path} is no description of a construction: give a folder that `construct build` made")
    version = data.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ArtifactError(f"{path} has the format version {version!r}, expected {FORMAT_VERSION}: build it again")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has the format version {version}, newer than {FORMAT_VERSION}: upgrade task-superposition"
        )
    return data


def _check_hashes(directory: Path, data: Mapping[str, Any], weights: bytes) -> None:
    kept = data.get("sha256")
    hashes = kept if isinstance(kept, dict) else {}
    if hashes.get(WEIGHTS) != _sha256(weights):
        raise ArtifactError(f"{directory / WEIGHTS} was altered after it was built: build the construction again")
    if hashes.get("description") != _description_hash({key: data[key] for key in data if key != "sha256"}):
        raise ArtifactError(f"{directory / DESCRIPTION} was altered after it was built: build the construction again")


def _description_hash(description: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(description, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_ours(description: Path) -> bool:
    try:
        data = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("format") == FORMAT


def _write_folder(directory: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder beside its place, then rename it there."""
    directory = directory.resolve()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(20, f"{error.filename} is a file, not a folder") from error
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        content = made / "content"
        content.mkdir()
        for name, data in files.items():
            (content / name).write_bytes(data)
        if directory.exists() and any(directory.iterdir()):
            directory.rename(made / "replaced")
        content.replace(directory)
    finally:
        if (made / "replaced").exists() and not directory.exists():
            (made / "replaced").rename(directory)
        shutil.rmtree(made, ignore_errors=True)
