"""An export as an ONNX graph: that of `construct.export.plain_model`, run by onnxruntime before it is handed over."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from construct.errors import ArtifactError, InputError
from construct.export.folder import new_folder
from construct.export.plain_model import Transformer
from construct.export.provenance import ONNX, Source
from construct.export.readout import Readout
from construct.export.torch_file import plain_tensors, write_plain
from construct.sampling import PromptSampler

GRAPH = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_GRAPH = 2**31 - 2**20
"""A file of protobuf, such as a graph with its weights, ends at 2 GiB; a larger one has its weights beside it."""

CHECKED = 4
"""Lengths of prompts, besides the query alone, on which the graph is compared with the model that it was made of."""

USE = """\
`model.onnx` takes `ids`, int64 of shape [batch, length], and gives `logits` [batch, length, vocabulary] and `mixture`
[batch, length, alphabet]:

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
logits, mixture = session.run(None, {"ids": [ids]})
```"""


def check_packages() -> None:
    """Raise InputError when a package that is needed is not installed."""
    for name in PACKAGES:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise InputError(
                f"an ONNX export needs the package {error.name}: pip install 'task-superposition[onnx]'"
            ) from error


def write_onnx(model: Readout, source: Source, directory: Path) -> dict[str, Any]:
    """Write model.onnx, vocabulary.json, README.md and export.json.

    Args:
        model: the readout.
        source: where it comes from.
        directory: the folder to make.

    Returns:
        What export.json holds.

    Raises:
        InputError: a package is not installed.
        TooLargeError: the dense weights do not fit into memory.
        ArtifactError: the folder exists or cannot be written, or the graph does not compute what the model does.
    """
    check_packages()
    made = Transformer({name: torch.from_numpy(tensor) for name, tensor in plain_tensors(model).items()}).eval()
    with new_folder(directory) as content:
        _export(made, content / GRAPH)
        check_graph(made, model, content / GRAPH)
        return write_plain(content, model, source, kind=ONNX, use=USE)


def _export(model: Transformer, path: Path) -> None:
    """Trace the model for batches and lengths of any size, up to its positions."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=len(model.embedding["position"]))
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    with warnings.catch_warnings(), _silent("torch.onnx._internal.exporter"):
        warnings.simplefilter("ignore")  # of the exporter's own parts, about each other
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, dtype=torch.int64),),
            path,
            dynamo=True,
            dynamic_shapes={"ids": {0: batch, 1: length}},
            input_names=["ids"],
            output_names=["logits", "mixture"],
            external_data=size > LARGEST_GRAPH,
            verbose=False,
        )


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """A logger lets only errors pass: the exporter complains of packages that nothing here uses."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_graph(model: Transformer, source: Readout, path: Path) -> None:
    """Raise ArtifactError unless onnxruntime gives the model's distributions on random prompts of several lengths.

    The entries of q are multiples of 1/m', so one that is wrong is off by 1/m at least; rounding is far below that.
    """
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    construction, generator = source.construction, np.random.default_rng(0)
    most, sampler = construction.layout.examples, PromptSampler(construction.task_set)
    for shown in sorted({round(share * most / CHECKED) for share in range(CHECKED + 1)}):
        prompts = [sampler.prompt(shown, generator) for _ in range(2)]
        off = difference(model, session, [construction.layout.ids(prompt) for prompt in prompts])
        if not off <= 1 / (4 * most):
            raise ArtifactError(f"the graph's answers differ by {off:.3g} from the model's: please report it")


def difference(model: Transformer, session: Any, ids: Sequence[Sequence[int]]) -> float:
    """The largest difference at any position between a torch model and an onnxruntime session.

    Of the sums of |q - q'| and the total variations of softmax(logits). `ids` are prompts of one length.
    """
    with torch.inference_mode():
        expected = model(torch.tensor(ids))
    logits, mixture = (torch.from_numpy(found) for found in session.run(None, {"ids": np.array(ids, dtype=np.int64)}))
    variation = (logits.softmax(-1) - expected.logits.softmax(-1)).abs().sum(-1).max() / 2
    return max(float(variation), float((mixture - expected.mixture).abs().sum(-1).max()))
