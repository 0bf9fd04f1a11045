"""What a process does that measures training: `python -m benchmarks.training_steps STEP REQUEST`, as in steps.py.

The plain loop follows what nanoGPT's train.py does (karpathy/nanoGPT, MIT licence); the text is ours.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import Case
from benchmarks.report import Record
from benchmarks.steps import resident_mib, run_step
from construct.suites import build_suite
from empirical.training.checkpoint import identity
from empirical.training.loop import Trainer, accelerated
from empirical.training.settings import Settings

WARM_UP = 3
VOCABULARY = 64


class _Block(nn.Module):
    """Attention and an MLP, each after a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.joined, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, stream: Tensor) -> Tensor:
        """Stream [batch, T, width] -> the same."""
        batch, length, width = stream.shape
        parts = self.joined(self.norm_1(stream)).split(width, dim=2)
        query, key, value = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        read = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.outward(read.transpose(1, 2).reshape(batch, length, width))
        found: Tensor = stream + self.mlp(self.norm_2(stream))
        return found


class _PlainModel(nn.Module):
    """A GPT with learned positions and a tied unembedding."""

    def __init__(self, layers: int, heads: int, width: int, positions: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, width), nn.Embedding(positions, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The loss at every position."""
        stream = self.token(ids) + self.position(torch.arange(ids.shape[1]))
        logits = self.norm(self.blocks(stream)) @ self.token.weight.T
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class _PlainLoop:
    """Batches cut out of one long array of tokens, AdamW, a clipped gradient."""

    def __init__(self, layers: int, heads: int, width: int, positions: int, batch: int) -> None:
        torch.manual_seed(0)
        self.data = np.random.default_rng(0).integers(VOCABULARY, size=2**20).astype(np.uint16)
        self.positions, self.batch = positions, batch
        self.model = _PlainModel(layers, heads, width, positions)
        matrices = [one for one in self.model.parameters() if one.dim() >= 2]
        others = [one for one in self.model.parameters() if one.dim() < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))

    def step(self) -> None:
        """One step."""
        starts = torch.randint(len(self.data) - self.positions, (self.batch,)).tolist()
        ids = torch.stack([self._cut(start) for start in starts])
        targets = torch.stack([self._cut(start + 1) for start in starts])
        loss = self.model(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def _cut(self, start: int) -> Tensor:
        return torch.from_numpy(self.data[start : start + self.positions].astype(np.int64))


def train(
    case: Case, *, architecture: str, layers: int, heads: int, width: int, batch: int, rounds: int, mlp_width: int
) -> Record:
    """A step of each loop in turn, in one process and on one thread."""
    torch.set_num_threads(1)
    started = resident_mib()
    task_set = build_suite(case.suite, tasks=case.tasks, alphabet_size=case.alphabet_size, inputs=case.inputs)
    settings = Settings(
        architecture=architecture,
        layers=layers,
        heads=heads,
        width=width,
        mlp_width=mlp_width,
        batch=batch,
        examples=case.examples,
        rate=1e-3,
        threads=1,
    )
    positions = settings.layout(task_set).positions
    plain = _PlainLoop(layers, heads, width, positions, batch)
    with tempfile.TemporaryDirectory() as folder, accelerated(settings) as accelerator:
        wanted = identity(task_set, settings)
        own = Trainer(task_set, settings, Path(folder), wanted, accelerator, None)
        for _ in range(WARM_UP):
            own.step()
            plain.step()
        # In turn, so that a busy moment of the machine does not fall on one of them alone.
        pairs = [(_timed(own.step), _timed(plain.step)) for _ in range(rounds)]
    ratios = sorted(slow / fast for fast, slow in pairs)
    low, _, high = quantiles(ratios, n=4)
    times = [median(column) for column in zip(*pairs, strict=True)]
    tokens = batch * positions
    return {
        "seconds": times[0],
        "plain_seconds": times[1],
        "tokens_per_second": tokens / times[0],
        "plain_tokens_per_second": tokens / times[1],
        "ratio": median(ratios),
        "ratio_low": low,
        "ratio_high": high,
        "parameters": own.parameters,
        "plain_parameters": sum(one.numel() for one in plain.model.parameters()),
        "vocabulary": own.raw.config.vocab_size,
        "plain_vocabulary": VOCABULARY,
        "positions": positions,
        "plain_positions": plain.positions,
        "start_mib": started,
    }


def _timed(action: Callable[[], None]) -> float:
    """Seconds of this process: with one thread they do not depend on what else runs."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


STEPS: dict[str, Callable[..., Record]] = {"train": train}

if __name__ == "__main__":
    run_step(STEPS)
