"""A search for the prompt on which a construction is most wrong: what stands below every bound that is proved.

Random prompts of several kinds first, each of m examples: as the model is causal, the answers at all their EQs judge
the prompts of 0 to m examples that they begin with. Then, from the worst of them, coordinate ascent: one token after
the other (an input or an answer of an example, or an input of the query) is set to whatever makes the error at the
same EQ largest, and from a maximum the climb goes on after a few random changes.

What is found is a lower bound on the worst error. That nothing is found proves nothing.
"""

import numpy as np
import torch

from construct.prompts import Example, Layout, Prompt
from construct.tasks import TaskSet
from construct.theorems import Construction
from construct.torch_model import TorchTransformer
from construct.transformer import TransformerWeights
from verify.exhaustive import Float, Ids, Progress, Worst, mixture, task_answers
from verify.random_prompts import CANDIDATES, RandomPrompts, slot_count

BATCH_TOKENS = 2**15
"""Prompts are run together as long as they have at most so many tokens."""

STARTS = 8
"""Coordinate ascent begins at so many of the worst random prompts."""

ASCENT_SHARE = 4
"""Coordinate ascent takes so many times the evaluations of the random prompts."""


def search(
    construction: Construction,
    *,
    samples: int = 1000,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Worst:
    """The worst prompt found; the same for the same arguments on the same machine.

    Args:
        construction: its weights, as they are, against its tasks.
        samples: the number of random prompts; the ascent runs ASCENT_SHARE times as many more.
        dtype: the format to run in: "float64", "float32", "bfloat16" or "float16".
        device: a torch device.
        seed: of all random choices.
        progress: told the share of the largest number of evaluations that is done.

    Returns:
        The worst found. Its `prompts` counts the answers judged: m + 1 for each prompt that was run.

    Raises:
        InputError: the dtype or device cannot be used.
    """
    return Searcher(construction.task_set, construction.layout).search(
        construction.weights, samples=max(samples, 1), dtype=dtype, device=device, seed=seed, progress=progress
    )


def confirm(construction: Construction, prompt: Prompt, *, dtype: str = "float64", device: str = "cpu") -> float:
    """|q_hat - q|_1 of one prompt, run in a format; infinite where the output is not a finite number.

    Raises:
        PromptError: the prompt has more than m examples.
        InputError: the dtype or device cannot be used.
    """
    construction.layout.ids(prompt)  # refuses a prompt that is too long
    slots = [token for example in prompt.examples for token in (*example.inputs, example.answer)]
    tokens = np.array([[*slots, *prompt.query]], dtype=np.int64)
    judge = _Judge(construction.task_set, construction.layout, construction.weights, dtype, device)
    return float(judge.errors(tokens)[0, -1])


class Searcher:
    """Draws the random prompts of a set of tasks once, to search any number of weights.

    Args:
        task_set: the tasks.
        layout: V, n and m.
    """

    def __init__(self, task_set: TaskSet, layout: Layout) -> None:
        self.task_set, self.layout = task_set, layout
        self._drawn: dict[tuple[int, int], Ids] = {}

    def search(
        self,
        weights: TransformerWeights,
        *,
        samples: int,
        dtype: str = "float32",
        device: str = "cpu",
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Worst:
        """As the function `search`."""
        judge = _Judge(self.task_set, self.layout, weights, dtype, device)
        if (seed, samples) not in self._drawn:
            drawn = RandomPrompts(self.task_set, self.layout, np.random.default_rng([seed, 0])).draw(samples)
            self._drawn = {(seed, samples): drawn}
        tokens = self._drawn[seed, samples]
        total = samples * (1 + ASCENT_SHARE)
        found = _Found(self.layout)
        starts = _Starts(self.layout.examples + 1)
        for start in range(0, samples, judge.batch_size):
            part = tokens[start : start + judge.batch_size]
            errors = judge.errors(part)
            found.add(part, errors)
            starts.add(part, errors)
            if progress is not None:
                progress(found.runs / total)
        ascent = _Ascent(judge, found, np.random.default_rng([seed, 1]))
        ascent.climb(*starts.best(STARTS), runs=samples * ASCENT_SHARE, progress=progress, total=total)
        if progress is not None:
            progress(1.0)
        return found.worst()


class _Judge:
    """Runs prompts, given as the tokens that can be chosen, and compares each EQ with the exact target."""

    def __init__(self, task_set: TaskSet, layout: Layout, weights: TransformerWeights, dtype: str, device: str) -> None:
        self.task_set, self.layout = task_set, layout
        self._device = device
        self._model = TorchTransformer(weights, dtype=dtype, device=device)

    @property
    def batch_size(self) -> int:
        """How many prompts of m examples to run at once."""
        return int(max(1, BATCH_TOKENS // self.layout.positions))

    def errors(self, tokens: Ids) -> Float:
        """|q_hat - q|_1 at every EQ, shape [prompts, slots] -> [prompts, m' + 1], batch by batch."""
        return np.concatenate(
            [self._errors(tokens[start : start + self.batch_size]) for start in range(0, len(tokens), self.batch_size)]
        )

    def _errors(self, tokens: Ids) -> Float:
        n, layout = self.layout.inputs, self.layout
        examples = (tokens.shape[1] - n) // (n + 1)
        inputs, given = self._split(tokens)
        ids = np.full((len(tokens), (examples + 1) * (n + 2)), layout.bos, dtype=np.int64)
        at_eq = np.array([layout.eq_position(shown) for shown in range(examples + 1)])
        ids[:, at_eq] = layout.eq
        for place in range(n):
            ids[:, at_eq - n + place] = inputs[:, :, place]
        ids[:, at_eq[:-1] + 1] = given
        at = np.broadcast_to(at_eq, (len(tokens), examples + 1)).copy()
        output = self._model(torch.from_numpy(ids).to(self._device), torch.from_numpy(at).to(self._device)).answer.to(
            "cpu", torch.float64
        )
        errors = np.abs(output.numpy() - self._targets(inputs, given)).sum(axis=2)
        errors[~np.isfinite(errors)] = np.inf
        return np.asarray(errors, dtype=np.float64)

    def _split(self, tokens: Ids) -> tuple[Ids, Ids]:
        """The inputs of examples and query, shape [prompts, m' + 1, n], and the answers, shape [prompts, m']."""
        n = self.layout.inputs
        padded = np.concatenate([tokens, np.zeros((len(tokens), 1), dtype=np.int64)], axis=1)
        parts = padded.reshape(len(tokens), -1, n + 1)
        return parts[:, :, :n], parts[:, :-1, n]

    def _targets(self, inputs: Ids, given: Ids) -> Float:
        answers = task_answers(self.task_set, inputs)
        counts = np.zeros_like(answers)
        counts[:, 1:] = np.cumsum(answers[:, :-1] == given[:, :, None], axis=1)
        prompts, queries, tasks = answers.shape
        shown = np.broadcast_to(np.arange(queries), (prompts, queries)).ravel()
        flat = mixture(answers.reshape(-1, tasks), counts.reshape(-1, tasks), shown, self.layout.alphabet_size)
        return flat.reshape(prompts, queries, self.layout.alphabet_size)


class _Found:
    """The worst of all that was judged so far."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._by_examples = np.full(layout.examples + 1, -1.0)
        self._error = -1.0
        self._tokens: Ids = np.zeros(0, dtype=np.int64)
        self.runs = 0

    def add(self, tokens: Ids, errors: Float) -> None:
        self.runs += len(tokens)
        self._by_examples = np.maximum(self._by_examples, errors.max(axis=0))
        row, shown = np.unravel_index(int(errors.argmax()), errors.shape)
        if errors[row, shown] > self._error:
            self._error = float(errors[row, shown])
            self._tokens = tokens[row, : slot_count(self._layout, int(shown))].copy()

    def worst(self) -> Worst:
        return Worst(
            error=self._error,
            prompt=_prompt(self._tokens.tolist(), self._layout.inputs),
            prompts=self.runs * (self._layout.examples + 1),
            by_examples=tuple(self._by_examples.tolist()),
        )


def _prompt(slots: list[int], inputs: int) -> Prompt:
    parts = [slots[start : start + inputs + 1] for start in range(0, len(slots), inputs + 1)]
    return Prompt(tuple(Example(tuple(part[:-1]), part[-1]) for part in parts[:-1]), tuple(parts[-1]))


class _Starts:
    """The random prompts from which to climb: the worst at each EQ, the worst of those first."""

    def __init__(self, queries: int) -> None:
        self._kept: list[list[tuple[float, Ids]]] = [[] for _ in range(queries)]

    def add(self, tokens: Ids, errors: Float) -> None:
        for shown, kept in enumerate(self._kept):
            for row in np.argsort(-errors[:, shown], kind="stable")[:STARTS]:
                kept.append((float(errors[row, shown]), tokens[row].copy()))
            kept.sort(key=lambda pair: -pair[0])
            del kept[STARTS:]

    def best(self, count: int) -> tuple[Ids, Ids, Float]:
        """Tokens, numbers of examples and errors: half the starts at distinct EQs, the rest whatever is worst."""
        ranked = [
            (error, rank, shown, tokens)
            for shown, kept in enumerate(self._kept)
            for rank, (error, tokens) in enumerate(kept)
        ]
        ranked.sort(key=lambda entry: -entry[0])
        first = [entry for entry in ranked if entry[1] == 0][: max(1, count // 2)]
        taken = {(entry[1], entry[2]) for entry in first}
        chosen = (first + [entry for entry in ranked if (entry[1], entry[2]) not in taken])[:count]
        return (
            np.stack([entry[3] for entry in chosen]),
            np.array([entry[2] for entry in chosen]),
            np.array([entry[0] for entry in chosen]),
        )


class _Ascent:
    """Coordinate ascent from several prompts at once, so that each batch is worth its overhead."""

    def __init__(self, judge: _Judge, found: _Found, generator: np.random.Generator) -> None:
        self._judge, self._found, self._generator = judge, found, generator

    def climb(
        self, tokens: Ids, shown: Ids, errors: Float, *, runs: int, progress: Progress | None, total: int
    ) -> None:
        """Climb until `runs` prompts were run; where no single token improves a prompt, go on from near its best.

        Args:
            tokens: the starts, shape [starts, slots].
            shown: the EQ of each whose error is to grow: the number of examples before it.
            errors: their errors there.
            runs: how many prompts to run at most.
            progress: told the share of `total` prompts that were run.
            total: see progress.
        """
        layout = self._judge.layout
        limit = self._found.runs + runs
        if layout.alphabet_size == 1:
            return
        # A slot of each start's own prompt at a time, in an order of its own; `stale` counts those tried in vain.
        slots = [slot_count(layout, int(count)) for count in shown]
        queues: list[list[int]] = [[] for _ in tokens]
        stale = np.zeros(len(tokens), dtype=np.int64)
        tops, top_errors = tokens.copy(), errors.copy()
        while self._found.runs < limit:
            tried = []
            for index in range(len(tokens)):
                if stale[index] >= slots[index]:
                    # A local maximum: keep it if it is the best so far, and set out again from near the best.
                    if errors[index] > top_errors[index]:
                        tops[index], top_errors[index] = tokens[index], errors[index]
                    tokens[index], errors[index], stale[index] = self._near(tops[index], slots[index]), -1.0, 0
                if not queues[index]:
                    queues[index] = self._generator.permutation(slots[index]).tolist()
                tried.append(self._candidates(tokens[index], queues[index].pop()))
            batch = np.concatenate(tried)[: limit - self._found.runs]
            owner = np.repeat(np.arange(len(tried)), [len(part) for part in tried])[: len(batch)]
            all_errors = self._judge.errors(batch)
            self._found.add(batch, all_errors)
            for index in np.unique(owner):
                rows = np.flatnonzero(owner == index)
                here = all_errors[rows, shown[index]]
                stale[index] += 1
                if here.max() > errors[index]:
                    errors[index], tokens[index], stale[index] = here.max(), batch[rows[int(here.argmax())]], 0
            if progress is not None:
                progress(self._found.runs / total)

    def _near(self, tokens: Ids, slots: int) -> Ids:
        """The prompt with a few of its first `slots` tokens drawn anew, from itself or from the alphabet."""
        near = tokens.copy()
        count = int(self._generator.integers(1, 2 + slots // 2))
        changed = self._generator.permutation(slots)[:count]
        anew = self._generator.integers(self._judge.layout.alphabet_size, size=len(changed))
        own = self._generator.choice(tokens, size=len(changed))
        near[changed] = np.where(self._generator.random(len(changed)) < 0.5, anew, own)
        return near

    def _candidates(self, tokens: Ids, slot: int) -> Ids:
        """The prompt with each other token at a slot, or with some of them where they are many."""
        size = self._judge.layout.alphabet_size
        others = np.delete(np.arange(size), tokens[slot])
        if len(others) > CANDIDATES:
            # Half of them from the prompt itself or the answers of the tasks to the example: where things happen.
            n = self._judge.layout.inputs
            first = slot - slot % (n + 1)
            answers = task_answers(self._judge.task_set, tokens[None, first : first + n])[0]
            likely = np.setdiff1d(np.concatenate([tokens, answers[answers >= 0]]), tokens[slot])
            likely = self._generator.permutation(likely)[: CANDIDATES // 2]
            rest = self._generator.permutation(np.setdiff1d(others, likely))[: CANDIDATES - len(likely)]
            others = np.concatenate([likely, rest])
        candidates = np.repeat(tokens[None], len(others), axis=0)
        candidates[:, slot] = others
        return candidates
