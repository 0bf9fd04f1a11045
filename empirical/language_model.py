"""One protocol for every model that is measured, and its adapters.

A model is a construction's folder, a folder in Hugging Face's form (exported constructions among them), the folder of a
run of `construct train`, a file in llama.cpp's form (GGUF), or the name of a model on the Hugging Face hub.
"""

import hashlib
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from socket import create_connection
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

from construct.artifact import DESCRIPTION, VECTORS, WEIGHTS, load, theorem_of
from construct.errors import InputError
from construct.prediction import Predictor
from construct.prompts import parse_prompt
from construct.theorems import Construction
from empirical.runtime import Runtime, halving
from empirical.scoring import Scorer
from empirical.search import Completion, Completions, Endings, Search
from empirical.settings import Question
from empirical.tokenizing import Encoder
from empirical.training.checkpoint import checkpoint_folder

PACKAGES = ("task-superposition", "torch", "transformers", "tokenizers", "numpy")
QUANTIZATION = {"8bit": "load_in_8bit", "4bit": "load_in_4bit"}
CONSTRUCTION, PRETRAINED = "construction", "hugging-face"
GGUF = ".gguf"

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What a model says to one question.

    Args:
        log_probabilities: one for each of the question's candidates.
        completions: the model's most probable completions, None where they were not asked for.
    """

    log_probabilities: tuple[float, ...]
    completions: Completions | None


class LanguageModel(Protocol):
    """A model that can be asked."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What is needed to know the model again: JSON."""
        ...

    def answer(self, questions: Sequence[Question], *, completions: int = 0) -> list[Answer]:
        """Answer some questions, which are run together.

        Args:
            questions: a batch.
            completions: how many of the most probable completions to look for.

        Raises:
            InputError: a prompt does not fit into the context, a candidate cannot be expressed, or memory ran out.
        """
        ...


@dataclass(frozen=True)
class Options:
    """How a pretrained model is loaded and asked.

    Args:
        revision: of a hub model: a branch, a tag or a commit.
        terminator: the text that ends an answer; empty for none.
        bos: see `empirical.tokenizing`.
        quantization: None, "8bit" or "4bit" (bitsandbytes).
        device_map: None, or "auto" to spread a model over devices (accelerate).
    """

    revision: str | None = None
    terminator: str = "\n"
    bos: str = "auto"
    quantization: str | None = None
    device_map: str | None = None


def open_model(name: str, runtime: Runtime, options: Options, *, warn: Warn) -> LanguageModel:
    """Open a model by its folder, its file or its name on the hub.

    Raises:
        InputError: there is no such model, it cannot be read, or it is of no known architecture.
    """
    if (Path(name) / DESCRIPTION).is_file():
        return ConstructedModel(Path(name), runtime)
    model, encoder, found = load_pretrained(name, runtime, options)
    return PretrainedModel(model, encoder, terminator=options.terminator, provenance=found, warn=warn)


class ConstructedModel:
    """A construction's folder; an answer is one token of its alphabet.

    A probability is q_hat of the token divided by the sum of q_hat (`construct.prediction`), 0 where that is
    negative; where no example is explained there is no answer, and every candidate has probability 0.

    Args:
        directory: the folder.
        runtime: where it runs.

    Raises:
        InputError: the folder cannot be read, or holds a construction on vectors.
    """

    def __init__(self, directory: Path, runtime: Runtime) -> None:
        if theorem_of(directory) == VECTORS:
            raise InputError(f"{directory} is a construction on vectors: its answers are no text; give another one")
        self.construction = load(directory)
        self._predictor = Predictor(self.construction, dtype=runtime.dtype, device=runtime.device)
        self.provenance: Mapping[str, Any] = provenance_of(directory, self.construction, runtime)

    def answer(self, questions: Sequence[Question], *, completions: int = 0) -> list[Answer]:
        """Answer some questions."""
        task_set = self.construction.task_set
        prompts = [parse_prompt(question.text, task_set) for question in questions]
        answers = []
        for question, prediction in zip(questions, self._predictor.predict(prompts), strict=True):
            shares = prediction.distribution
            values = tuple(_log(shares.get(candidate.strip(), 0.0)) for candidate in question.candidates)
            ranked = tuple(Completion(token, _log(share)) for token, share in list(shares.items())[:completions])
            answers.append(Answer(values, Completions(ranked, exact=True) if completions else None))
        return answers


def provenance_of(directory: Path, construction: Construction, runtime: Runtime) -> dict[str, Any]:
    """What is needed to know a construction's folder again."""
    return {
        "kind": CONSTRUCTION,
        "model": str(directory),
        "theorem": construction.theorem,
        "sha256": _sha256([directory / WEIGHTS, directory / DESCRIPTION]),
        **_environment(runtime),
    }


class PretrainedModel:
    """A Hugging Face causal language model with its tokenizer.

    Args:
        model: the model.
        encoder: its tokenizer.
        terminator: the text that ends an answer. Where the tokenizer drops it, as it may drop white space, answers
            end by themselves and a completion is one token.
        provenance: what `load_pretrained` said.
        warn: told, in words, where memory ran out.
    """

    def __init__(
        self, model: Any, encoder: Encoder, *, terminator: str, provenance: Mapping[str, Any], warn: Warn
    ) -> None:
        self.scorer = Scorer(model, encoder)
        self.terminator = terminator if terminator and encoder.expresses(terminator) else ""
        self.provenance = {**provenance, "terminator": self.terminator}
        self._warn = warn
        self._endings: Endings | None = None

    def answer(self, questions: Sequence[Question], *, completions: int = 0) -> list[Answer]:
        """Answer some questions; where memory runs out, half as many at a time."""
        return list(halving(lambda some: self._answer(some, completions), list(questions), warn=self._warn))

    def _answer(self, questions: Sequence[Question], completions: int) -> list[Answer]:
        scorer = self.scorer
        batch = [scorer.encoder.encode(one.text, one.candidates, self.terminator) for one in questions]
        for encoded in batch:
            scorer.check_context(encoded)
        prefilled = scorer.prefill([encoded.stem for encoded in batch])
        answers = []
        for row, (encoded, scores) in enumerate(zip(batch, scorer.score_prefilled(prefilled, batch), strict=True)):
            if any(map(math.isnan, scores.log_probabilities)):
                raise InputError(
                    f"the model's probabilities are no numbers (its dtype is {self.provenance['dtype']}): its "
                    "activations do not fit this format, use --dtype bfloat16 or float32"
                )
            found = None
            if completions:
                search = Search(scorer, prefilled, row, encoded, scores.log_rest, self._ends())
                found = search.run(completions)
            answers.append(Answer(scores.log_probabilities, found))
        return answers

    def _ends(self) -> Endings:
        if self._endings is None:
            model, encoder = self.scorer.model, self.scorer.encoder
            said = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
            ends = {encoder.tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])} - {None}
            # A tokenizer can know tokens that the model has no embedding for.
            texts = encoder.token_texts[: model.get_input_embeddings().weight.shape[0]]
            self._endings = Endings(texts, sorted(ends), self.terminator)
        return self._endings


def load_pretrained(
    name: str, runtime: Runtime, options: Options, *, attention: str | None = None
) -> tuple[Any, Encoder, dict[str, Any]]:
    """A model, its tokenizer and its provenance.

    A GGUF file's quantised weights become numbers of the format asked for: what is measured is the quantised model.

    Args:
        name: a folder, a GGUF file, or a name on the hub.
        runtime: where it runs.
        options: how it is loaded.
        attention: the implementation of attention to ask for; None leaves it to the library.

    Raises:
        InputError: it is not there, cannot be read, or is of no known architecture.
    """
    trained = checkpoint_folder(Path(name))
    folder = trained or Path(name)
    source = name if trained is None else str(trained)
    one_file = folder.suffix == GGUF and folder.is_file()
    local = one_file or folder.is_dir()
    if not local and (
        folder.exists() or folder.suffix == GGUF or name.startswith((".", "/", "~")) or name.count("/") > 1
    ):
        raise InputError(
            f"{name} is no folder of a model: give a construction's, a Hugging Face model's, a GGUF file, or a hub name"
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(
            f"{name} has no {DESCRIPTION} (a construction) and no config.json (a Hugging Face model): give another "
            "folder"
        )
    library = _transformers()
    library.utils.logging.disable_progress_bar()
    if not local:
        _offline_where_unreachable()
    file = _gguf(folder) if one_file else {}
    source = str(folder.parent) if one_file else source
    settings: dict[str, Any] = {"dtype": runtime.torch_dtype, **_quantized(options, runtime)}
    settings |= {} if attention is None else {"attn_implementation": attention}
    settings |= {} if options.device_map is None else {"device_map": options.device_map}
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(source, revision=options.revision, **file)
        model = library.AutoModelForCausalLM.from_pretrained(source, revision=options.revision, **file, **settings)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise InputError(_why_not(name, error, local=local)) from error
    if options.device_map is None and options.quantization is None:
        model.to(runtime.device)
    model.eval()
    found = {"kind": PRETRAINED, "model": name, "architecture": type(model).__name__, **_identity(folder, model)}
    found |= {"tokenizer": _tokenizer_sha256(tokenizer), "bos": options.bos, "quantization": options.quantization}
    return model, Encoder(tokenizer, bos=options.bos), found | _environment(runtime)


def _transformers() -> Any:
    """The library, whose own types do not fit its dynamic classes."""
    try:
        return import_module("transformers")
    except ModuleNotFoundError as error:
        raise InputError(
            f"a pretrained model needs the package {error.name}: pip install 'task-superposition[pretrained]'"
        ) from error


def _gguf(path: Path) -> dict[str, str]:
    if find_spec("gguf") is None:
        raise InputError("a GGUF file needs the package gguf: pip install 'task-superposition[pretrained]'")
    return {"gguf_file": path.name}


def _offline_where_unreachable() -> None:
    """Without a network take a hub model from the cache at once, where it is, rather than after many retries."""
    constants: Any = import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE or getproxies():
        return
    hub = urlsplit(constants.ENDPOINT)
    try:
        create_connection((hub.hostname or "", hub.port or (80 if hub.scheme == "http" else 443)), timeout=5).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True


def _quantized(options: Options, runtime: Runtime) -> dict[str, Any]:
    if options.quantization is None:
        return {}
    try:
        metadata.version("bitsandbytes")
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"--quantization {options.quantization} needs the package bitsandbytes: pip install bitsandbytes"
        ) from error
    return {
        "quantization_config": _transformers().BitsAndBytesConfig(**{QUANTIZATION[options.quantization]: True}),
        "device_map": options.device_map or {"": runtime.device},
    }


def _why_not(name: str, error: Exception, *, local: bool) -> str:
    reason = " ".join(str(error).split())
    reason = reason if len(reason) <= 300 else reason[:297] + "..."
    if local:
        return f"{name} cannot be loaded as a causal language model: {reason}"
    return (
        f"{name!r} is no folder here, and the Hugging Face hub did not give it: {reason} Without a network, give "
        "the folder of a downloaded model"
    )


def _identity(folder: Path, model: Any) -> dict[str, Any]:
    """The commit of a hub model, the hash of a folder's files or of a file."""
    if folder.is_file():
        return {"sha256": _sha256([folder])}
    if not folder.is_dir():
        return {"revision": getattr(model.config, "_commit_hash", None)}
    kept = {".json", ".safetensors", ".model", ".txt", ".jinja"}
    return {"sha256": _sha256(sorted(path for path in folder.iterdir() if path.suffix in kept))}


def _sha256(paths: Sequence[Path]) -> str:
    """One hash over files, each preceded by its name and size."""
    total = hashlib.sha256()
    try:
        for path in paths:
            total.update(f"{path.name}:{path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while block := file.read(2**20):
                    total.update(block)
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror or error}") from error
    return total.hexdigest()


def _tokenizer_sha256(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _environment(runtime: Runtime) -> dict[str, Any]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    versions["python"] = platform.python_version()
    # The device's kind: the number of a GPU is no part of what was measured.
    return {"device": runtime.device.partition(":")[0], "dtype": runtime.dtype, "versions": versions}


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf
