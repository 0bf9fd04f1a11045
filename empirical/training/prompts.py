"""Training prompts, drawn on the device in batches: BOS, then per example x_1 .. x_n EQ y (`construct.prompts.Layout`).

A batch is a tensor of ids [batch, T+1] of m+1 whole examples: the first T of its columns are read, and the answers that
they are asked for at the EQs are among the columns after them. No part of it goes over examples one by one.

Within a prompt inputs are drawn anew for each example; where an input is one token (n = 1) and there are enough of
them, no input comes twice in a prompt, so that an answer can't be copied from an earlier example.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from construct.prompts import Layout
from empirical.training.pools import TaskTensors


@dataclass(frozen=True)
class Sampler:
    """Draws prompts.

    Args:
        tensors: the tasks, on the device.
        layout: of the prompts.
        mixed: the share of prompts that mix tasks.
        label_noise: the probability that an answer is a random token instead.
    """

    tensors: TaskTensors
    layout: Layout
    mixed: float = 0.0
    label_noise: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where prompts are made."""
        return self.tensors.keys.device

    @cached_property
    def eq_positions(self) -> Tensor:
        """The positions of the m+1 EQs."""
        return torch.tensor(
            [self.layout.eq_position(place) for place in range(self.layout.examples + 1)], device=self.device
        )

    @cached_property
    def _distinct(self) -> bool:
        """Whether inputs are one token each and every pool has enough of them for a prompt."""
        return self.tensors.inputs == 1 and int(self.tensors.token_count.min()) > self.layout.examples

    @cached_property
    def _free(self) -> bool:
        """Whether every pool is all combinations of its tokens."""
        return bool((self.tensors.rows < 0).all())

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Training prompts: ids [count, T+1]."""
        tasks, shown = self.tensors.tasks, self.layout.examples + 1
        task = torch.randint(tasks, (count,), generator=generator, device=self.device)
        each, pool = task[:, None].expand(count, shown), task
        if self.mixed:
            several = self._uniform((count,), generator) < self.mixed
            weights = -torch.log1p(-self._uniform((count, tasks), generator))  # exponentials: uniform on the simplex
            bounds = weights.cumsum(-1) / weights.sum(-1, keepdim=True)
            drawn = (self._uniform((count, shown, 1), generator) >= bounds[:, None, :-1]).sum(-1)
            each = torch.where(several[:, None], drawn, each)
            pool = torch.where(several, tasks, pool)
        inputs = self.inputs(pool, generator)
        return self.assemble(inputs, self.noisy(self.tensors.answer(each, inputs), generator))

    def inputs(self, pool: Tensor, generator: torch.Generator) -> Tensor:
        """m+1 inputs of a pool for each prompt: [count, m+1, n]."""
        tensors, shape = self.tensors, (len(pool), self.layout.examples + 1)
        if self._distinct:
            order = self._uniform((len(pool), tensors.tokens.shape[2]), generator)
            past = torch.arange(tensors.tokens.shape[2], device=self.device) >= tensors.token_count[pool]
            places = order.masked_fill(past, 2.0).topk(shape[1], largest=False).indices
            return tensors.tokens[pool, 0].gather(1, places)[..., None]
        positions = torch.arange(tensors.inputs, device=self.device)
        sizes = tensors.token_count[pool][:, None, :].expand(*shape, -1)
        free = tensors.tokens[pool[:, None, None], positions, self._below(sizes, generator)]
        return free if self._free else self._filled(pool, shape, free, generator)

    def _filled(self, pool: Tensor, shape: tuple[int, int], free: Tensor, generator: torch.Generator) -> Tensor:
        """Rows of the pools, with free tokens where they leave a position open."""
        place = self._below(self.tensors.row_count[pool][:, None].expand(shape), generator)
        rows = self.tensors.rows[self.tensors.row_start[pool][:, None] + place]
        return torch.where(rows >= 0, rows, free)

    def noisy(self, answers: Tensor, generator: torch.Generator) -> Tensor:
        """The answers, some of them replaced by random tokens of the alphabet."""
        if not self.label_noise:
            return answers
        size = self.tensors.alphabet_size
        other = torch.randint(size, answers.shape, generator=generator, device=self.device)
        return torch.where(self._uniform(tuple(answers.shape), generator) < self.label_noise, other, answers)

    def assemble(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """Ids [count, T+1] of whole examples: inputs [count, m+1, n] and answers [count, m+1]."""
        count, shown, n = inputs.shape
        ids = torch.full((count, 1 + shown * (n + 2)), self.layout.bos, device=self.device)
        blocks = ids[:, 1:].view(count, shown, n + 2)
        blocks[..., :n], blocks[..., n], blocks[..., n + 1] = inputs, self.layout.eq, answers
        return ids

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator, device=self.device)

    def _below(self, sizes: Tensor, generator: torch.Generator) -> Tensor:
        """An integer from 0 to size - 1 for each size."""
        drawn = (self._uniform(tuple(sizes.shape), generator) * sizes).long()
        return torch.minimum(drawn, sizes - 1)
