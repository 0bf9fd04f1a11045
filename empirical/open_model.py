"""Models that can be looked into: the residual stream after each block, and answers with one state changed.

The blocks are found by what they do: they are the longest list of modules that, in one forward pass, are each called
with hidden states of one shape and return hidden states of that shape. No name and no architecture is asked for.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from construct.artifact import DESCRIPTION, load
from construct.errors import InputError
from construct.prompts import parse_prompt
from construct.theorems import Construction
from construct.torch_model import TorchTransformer
from empirical.language_model import Options, load_pretrained, provenance_of
from empirical.runtime import Runtime
from empirical.scoring import Scorer
from empirical.settings import Question

Floats = NDArray[np.float64]

BATCH = 8
PROBE = (0, 1, 0)
"""Any ids will do to see what a model's modules return."""
REPLACE, ADD = "replace", "add"


@dataclass(frozen=True)
class Edit:
    """A change of the residual stream at the last position of the prompt.

    Args:
        layer: after which block, from 0.
        vector: shape [d_model].
        mode: "replace" the state, or "add" to it.
    """

    layer: int
    vector: Floats
    mode: str


class OpenModel(Protocol):
    """A model that can be looked into."""

    @property
    def layers(self) -> int:
        """The number of blocks."""
        ...

    def states(self, questions: Sequence[Question]) -> Floats:
        """The residual stream at the last position after each block, shape [N, layers, d_model]."""
        ...

    def probabilities(self, questions: Sequence[Question], edit: Edit | None = None) -> Floats:
        """The probability of each task's answer, shape [N, K]."""
        ...


def find_blocks(model: nn.Module, run: Any) -> nn.ModuleList:
    """The blocks of a decoder.

    Args:
        model: any module.
        run: calls its forward pass, on a prompt of at least two tokens.

    Raises:
        InputError: there is no such list.
    """
    called: dict[int, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        given = next((one for one in (*inputs, *named.values()) if torch.is_tensor(one)), None)
        made = hidden(output)
        if given is not None and made is not None and made.ndim == 3 and given.shape == made.shape:
            called[id(module)] = tuple(made.shape)

    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    members = {id(one): one for found in lists for one in found}
    handles = [one.register_forward_hook(note, with_kwargs=True) for one in members.values()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    fitting = [found for found in lists if len({called.get(id(one)) for one in found} | {None}) == 2]
    fitting = [found for found in fitting if all(id(one) in called for one in found)]
    if not fitting:
        raise InputError(
            f"no list of decoder blocks was found in {type(model).__name__}: its layers do not take and return "
            "hidden states of one shape"
        )
    return max(fitting, key=len)


def hidden(output: Any) -> Tensor | None:
    """The hidden states in what a block returns."""
    found = output[0] if isinstance(output, (tuple, list)) and output else output
    return found if torch.is_tensor(found) else None


@contextmanager
def edited(blocks: nn.ModuleList, edit: Edit | None) -> Iterator[None]:
    """Within this, one block's output is changed at the last position."""
    if edit is None:
        yield
        return

    def change(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        stream = hidden(output)
        assert stream is not None, "find_blocks has seen that it returns hidden states"
        stream = stream.clone()
        vector = torch.as_tensor(edit.vector, dtype=stream.dtype, device=stream.device)
        stream[:, -1] = vector if edit.mode == REPLACE else stream[:, -1] + vector
        return (stream, *output[1:]) if isinstance(output, (tuple, list)) else stream

    handle = blocks[edit.layer].register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def recorded(blocks: nn.ModuleList, *, every: bool = False) -> Iterator[list[Tensor]]:
    """Within this, each block's output is kept: at the last position, or at `every` position."""
    kept: list[Tensor] = [torch.empty(0)] * len(blocks)

    def keep(place: int) -> Any:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            stream = hidden(output)
            assert stream is not None, "find_blocks has seen that it returns hidden states"
            kept[place] = (stream if every else stream[:, -1]).detach().cpu().double()

        return note

    handles = [block.register_forward_hook(keep(place)) for place, block in enumerate(blocks)]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


class OpenPretrained:
    """A Hugging Face model that can be looked into.

    An edit is made while the prompt is read; the answers' later tokens see it through the cache.

    Args:
        scorer: the model.
        terminator: the text that ends an answer.
    """

    def __init__(self, scorer: Scorer, terminator: str) -> None:
        self.scorer, self.terminator = scorer, terminator
        self.blocks = find_blocks(scorer.model, lambda: scorer.prefill([PROBE, PROBE]))

    @property
    def layers(self) -> int:
        """The number of blocks."""
        return len(self.blocks)

    def states(self, questions: Sequence[Question]) -> Floats:
        """The residual stream at the last position after each block."""
        found = []
        for start in range(0, len(questions), BATCH):
            batch = self._encoded(questions[start : start + BATCH])
            with recorded(self.blocks) as kept:
                self.scorer.prefill([encoded.stem for encoded in batch])
            found.append(torch.stack(kept, dim=1).numpy())
        return np.concatenate(found)

    def probabilities(self, questions: Sequence[Question], edit: Edit | None = None) -> Floats:
        """The probability of each task's answer."""
        rows = []
        for start in range(0, len(questions), BATCH):
            part = questions[start : start + BATCH]
            batch = self._encoded(part)
            with edited(self.blocks, edit):
                prefilled = self.scorer.prefill([encoded.stem for encoded in batch])
            for question, scores in zip(part, self.scorer.score_prefilled(prefilled, batch), strict=True):
                rows.append(np.exp([scores.log_probabilities[place] for place in question.answer_of]))
        return np.array(rows)

    def _encoded(self, questions: Sequence[Question]) -> list[Any]:
        batch = [self.scorer.encoder.encode(one.text, one.candidates, self.terminator) for one in questions]
        for encoded in batch:
            self.scorer.check_context(encoded)
        return batch


class OpenConstruction:
    """A construction that can be looked into; it runs as `construct predict` runs it.

    Args:
        construction: on tokens.
        runtime: where it runs.
    """

    def __init__(self, construction: Construction, runtime: Runtime) -> None:
        self.construction = construction
        self.model = TorchTransformer(construction.weights, dtype=runtime.dtype, device=runtime.device)
        self._device = runtime.device
        probe = torch.tensor([PROBE, PROBE], device=self._device)
        self.blocks = find_blocks(self.model, lambda: self.model(probe))

    @property
    def layers(self) -> int:
        """The number of blocks."""
        return len(self.blocks)

    def states(self, questions: Sequence[Question]) -> Floats:
        """The residual stream at the last position after each block."""
        found = []
        for ids in self.batches(questions):
            with recorded(self.blocks) as kept:
                self.model(ids)
            found.append(torch.stack(kept, dim=1).numpy())
        return np.concatenate(found)

    def probabilities(self, questions: Sequence[Question], edit: Edit | None = None) -> Floats:
        """The probability of each task's answer: q_hat over its sum."""
        outputs = []
        for ids in self.batches(questions):
            with edited(self.blocks, edit):
                outputs.append(self.model(ids).answer[:, -1].cpu().double().numpy())
        answers = np.clip(np.concatenate(outputs), 0, None)
        tokens = self.construction.task_set.ids
        rows = []
        for question, answer in zip(questions, answers, strict=True):
            own = [answer[tokens[question.candidates[place].strip()]] for place in question.answer_of]
            rows.append(np.array(own) / max(answer.sum(), 1e-12))
        return np.array(rows)

    def batches(self, questions: Sequence[Question]) -> Iterator[Tensor]:
        """The prompts' ids, some at a time. Raises InputError where their lengths differ."""
        prompts = [parse_prompt(question.text, self.construction.task_set) for question in questions]
        encoded = [self.construction.layout.ids(prompt) for prompt in prompts]
        for start in range(0, len(encoded), BATCH):
            yield torch.tensor(encoded[start : start + BATCH], device=self._device)


@dataclass(frozen=True)
class Opened:
    """An open model, and what is needed to know it again."""

    model: OpenConstruction | OpenPretrained
    provenance: dict[str, Any]


def open_inside(name: str, runtime: Runtime, options: Options, *, patterns: bool = False) -> Opened:
    """Open a model to look into it.

    Args:
        name: a construction's folder, a Hugging Face model's folder, a GGUF file, or a hub name.
        runtime: where it runs.
        options: how a pretrained model is loaded.
        patterns: whether its attention is to show its patterns, which takes the slower implementation.

    Raises:
        InputError: it cannot be read, or has no blocks.
    """
    folder = Path(name)
    if (folder / DESCRIPTION).is_file():
        construction = load(folder)
        return Opened(OpenConstruction(construction, runtime), provenance_of(folder, construction, runtime))
    model, encoder, found = load_pretrained(name, runtime, options, attention="eager" if patterns else None)
    terminator = options.terminator if options.terminator and encoder.expresses(options.terminator) else ""
    return Opened(OpenPretrained(Scorer(model, encoder), terminator), found | {"terminator": terminator})
