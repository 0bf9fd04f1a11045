"""The superposition of components, checked relative to their contracts: lemmas 1 to 6 of docs/theory/composition.md.

The contracts are taken from the certificate and tried out, not proved (`verify.check.superposition_blocks`). What the
last two layers do with them is decided by their form, exactly: weights of another form are refused, right or not. The
frame is what is in no block: the tokens' one-hot codes, flags and codes of positions, predictions and evidence.
"""

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from verify.check.compare import check_real, compare, frame
from verify.check.exact import Row, columns, dot, exp_above, require, rounded_up, times, used
from verify.check.files import Task, read_task, read_weights
from verify.check.formats import FORMATS
from verify.check.superposition_blocks import Alone, Part, Weights, reach, take_apart, try_out

Pair = tuple[Fraction, Fraction]


class Whole:
    """A superposition: its blocks and frame, and what its last two layers do."""

    def __init__(self, described: Any, content: bytes) -> None:
        task_set, spaces = described["task_set"], described["subspaces"]
        ids = {token: number for number, token in enumerate(task_set["alphabet"])}
        self.alphabet, self.inputs, self.examples = V, n, m = (
            len(ids),
            task_set["inputs"],
            described["layout"]["examples"],
        )
        require(type(n) is type(m) is int and min(V, n, m) >= 1, "construction.json has no sizes")
        require(len(ids) == len(task_set["alphabet"]), "the alphabet holds a token twice")
        self.tasks: list[Task] = [read_task(task, ids, n) for task in task_set["tasks"]]
        self.names = [task["name"] for task in task_set["tasks"]]
        blocks = n + 2
        self.roles = {"bos": [0], "x": [1 + i * blocks + j for i in range(m + 1) for j in range(n)]}
        self.roles |= {"eq": [1 + i * blocks + n for i in range(m + 1)], "y": [(i + 1) * blocks for i in range(m)]}
        self.weights = Weights(read_weights(content, described["tensors"]), V, (m + 1) * blocks)
        require(self.weights.depth >= 3, "there are fewer than three layers")
        self.inner = self.weights.depth - 2
        places = {name: range(space["start"], space["start"] + space["size"]) for name, space in spaces.items()}
        self.blocks = [places[f"component[{name}]"] for name in self.names]
        self.prediction, self.evidence = places["prediction"], places["evidence"]
        self.flag = places["role_y"].start
        self.check_frame()
        self.parts: list[list[Part]] = take_apart(self.weights, self.blocks, self.inner)
        (self.fetch,), (self.average,) = (self.weights.heads(self.inner + layer) for layer in (0, 1))
        self.outputs = self.find_outputs()
        self.reach = [reach(self.weights, *each) for each in zip(self.blocks, self.parts, self.outputs, strict=True)]

    def check_frame(self) -> None:
        """What stands in the frame: tokens one-hot at x and y alone; flags and codes; nothing where layers write."""
        d, K, V = self.weights.d_model, len(self.tasks), self.alphabet
        require((len(self.prediction), len(self.evidence)) == (K * V, K), "predictions or evidence have another size")
        inside, written = set().union(*self.blocks), {*self.prediction, *self.evidence}
        require(inside | written | {self.flag} <= set(range(d)), "a subspace is not in the stream")
        outside = [{c: weight for c, weight in row.items() if c not in inside} for row in self.weights.token]
        require(not outside[V] and not outside[V + 1], "BOS or EQ has an embedding in the frame")
        require(all(list(row.values()) == [1] for row in outside[:V]), "a token has no one-hot code")
        self.code = [next(iter(row)) for row in outside[:V]]
        self.place = [{c: weight for c, weight in row.items() if c not in inside} for row in self.weights.place]
        require(len(set(self.code)) == V and not inside & (written | {self.flag}), "the subspaces overlap")
        require(not written & {*self.code, self.flag} and self.flag not in self.code, "the subspaces overlap")
        require(not set(self.prediction) & set(self.evidence), "the subspaces overlap")
        require(not columns(self.place) & (written | set(self.code)), "a position stands where layers write")
        for role, at in self.roles.items():
            require(
                {self.place[position].get(self.flag, 0) for position in at} == {role == "y"}, "role_y is no flag of y"
            )
        unembedding = self.weights.tensors["unembedding"].rows
        require(used(unembedding) == set(self.code), "the output is not the tokens' coordinates")
        require(
            all(unembedding[c] == {v: 1} for v, c in enumerate(self.code)), "the output is not the tokens' coordinates"
        )
        for layer in (self.inner, self.inner + 1):
            require(not self.weights.bias(layer), "a bias of the last two layers writes")
            require(len(self.weights.heads(layer)) == 1, "the last two layers have more than one head")

    def positional(self, query: list[Row], key: list[Row]) -> None:
        """Refuse scores that depend on more than positions: the frame without tokens, predictions and evidence."""
        fixed = set().union(*self.blocks) | {*self.prediction, *self.evidence, *self.code}
        require(not (used(query) | used(key)) & fixed, "a score of the last two layers depends on more than positions")

    def find_outputs(self) -> list[list[Row]]:
        """What the fetch head reads for each prediction (k, v): of block k alone. It writes nothing else."""
        query, key, value, output = self.fetch
        self.positional(query, key)
        found: list[list[Row]] = [[{} for _ in range(self.alphabet)] for _ in self.tasks]
        for c in used(value):
            for at, weight in times(value[c], output).items():
                require(at in self.prediction, "the fetch head writes elsewhere than to the predictions")
                k, v = divmod(at - self.prediction.start, self.alphabet)
                require(c in self.blocks[k], "a prediction is not of its own component")
                found[k][v][c] = weight
        return found

    def fetch_leaks(self) -> list[Fraction]:
        """Lemma 2: at the y of each example, the most attention elsewhere than at the EQ before it."""
        query, key, _, _ = self.fetch
        keys = [times(row, key) for row in self.place]
        leaks = []
        for y in self.roles["y"]:
            asked = times(self.place[y], query)
            scores = [Fraction(dot(asked, shown)) for shown in keys[: y + 1]]
            gaps = Counter(scores[y - 1] - score for score in [*scores[: y - 1], scores[y]])
            require(min(gaps) > 0, "a y attends elsewhere as much as to its EQ")
            weight = sum((count * exp_above(gap) for gap, count in gaps.items()), Fraction(0))
            leaks.append(rounded_up(weight / (1 + weight)))
        return leaks

    def credit_pairs(self) -> dict[tuple[int, int], Pair]:
        """Lemma 4, the form: two units for each task k and token v, with and without the token's flag.

        Returns (slope, offset) by task and token: at y the one reads t = slope p + offset, the other t + [y = v].
        """
        pairs: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        for unit in self.weights.units(self.inner):
            if not unit.out:
                continue
            ((at, slope),) = ((c, weight) for c, weight in unit.column.items() if c in self.prediction)
            k, v = divmod(at - self.prediction.start, self.alphabet)
            flagged = self.code[v] in unit.column
            wanted = {at: slope, self.flag: 1} | ({self.code[v]: 1} if flagged else {})
            form = unit.column == wanted and unit.out == {self.evidence[k]: 1 if flagged else -1} and slope > 0
            require(form, f"a unit of layer {self.inner + 1} has another form")
            pairs.setdefault((k, v), []).append((slope, unit.bias + 1, flagged))
        return self.matched(pairs)

    def answer_pairs(self) -> dict[tuple[int, int], Pair]:
        """Lemma 6, the form: two units for each task k and token v, with and without the weight of the task."""
        pairs: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        for unit in self.weights.units(self.inner + 1):
            if not unit.out:
                continue
            ((at, sign),) = unit.out.items()
            require(at in self.code, "an answer is written to no token")
            v, read = self.code.index(at), {c: weight for c, weight in unit.column.items() if c not in self.evidence}
            (k,) = (k for k, block in enumerate(self.blocks) if read and set(read) <= set(block))
            flagged, output = unit.column.keys() != read.keys(), self.outputs[k][v]
            slope = Fraction(next(iter(read.values()))) / output[next(iter(read))]
            same = read == {c: slope * weight for c, weight in output.items()} and slope > 0
            form = {c: unit.column[c] for c in unit.column.keys() - read.keys()} == (
                {self.evidence[k]: 1} if flagged else {}
            )
            require(same and form and sign == (1 if flagged else -1), "a unit of the last layer has another form")
            pairs.setdefault((k, v), []).append((slope, unit.bias, flagged))
        return self.matched(pairs)

    def matched(self, pairs: dict[tuple[int, int], list[tuple[Any, ...]]]) -> dict[tuple[int, int], Pair]:
        """One of each kind, of one slope and offset, for every task and token."""
        wanted = {(k, v) for k in range(len(self.tasks)) for v in range(self.alphabet)}
        require(pairs.keys() == wanted, "a task has no units for some token")
        for units in pairs.values():
            alike = len({unit[:2] for unit in units}) == 1 and sorted(unit[2] for unit in units) == [False, True]
            require(alike, "two units are no pair")
        return {at: (Fraction(units[0][0]), Fraction(units[0][1])) for at, units in pairs.items()}

    def average_leaks(self) -> tuple[list[Fraction], list[Fraction]]:
        """Lemma 5: by m', the most attention of an EQ elsewhere than at the y before it, and at inputs.

        The evidence is copied as it is, and nothing else; the y have one score, and it is the largest.
        """
        query, key, value, output = self.average
        self.positional(query, key)
        copied = {c: times(value[c], output) for c in used(value)}
        require(copied == {c: {c: 1} for c in self.evidence}, "the last head does not copy the evidence as it is")
        asked = {tuple(sorted(times(self.place[at], query).items())) for at in self.roles["eq"]}
        require(len(asked) == 1, "the average's scores are not by role")
        question, scores = dict(asked.pop()), {}
        for role, at in self.roles.items():
            found = {Fraction(dot(question, times(self.place[position], key))) for position in at}
            require(len(found) == 1, "the average's scores are not by role")
            scores[role] = found.pop()
        require(scores["y"] == max(scores.values()), "the average attends elsewhere more than to y")
        bos, x, eq = (exp_above(scores["y"] - scores[role]) for role in ("bos", "x", "eq"))
        leaks, inputs = [], []
        for shown in range(self.examples + 1):
            own, rest = (shown + 1) * self.inputs * x, bos + (shown + 1) * eq + shown
            leaks.append(rounded_up((own + rest - shown) / (own + rest)) if shown else Fraction(1))
            inputs.append(rounded_up(own / (own + rest)))
        return leaks, inputs

    def sizes(self, claimed_prompts: object) -> dict[str, Any]:
        """The sizes, as the weights have them; log10 of the number of prompts, that has few digits, if it is near."""
        tensors, layers = self.weights.tensors, range(self.weights.depth)
        prompts = (self.examples * (self.inputs + 1) + self.inputs) * math.log10(self.alphabet)
        near = type(claimed_prompts) is float and abs(claimed_prompts - prompts) < 0.00051
        return {
            "tasks": len(self.tasks),
            "alphabet": self.alphabet,
            "inputs": self.inputs,
            "examples": self.examples,
            "log10_prompts": claimed_prompts if near else prompts,
            "layers": len(layers),
            "heads": [tensors[f"layers.{layer}.attention.query"].shape[0] for layer in layers],
            "d_model": self.weights.d_model,
            "mlp_width": [tensors[f"layers.{layer}.mlp.w_in"].shape[1] for layer in layers],
            "parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
            "nonzero_parameters": sum(len(row) for tensor in tensors.values() for row in tensor.rows),
        }


def check_levels(whole: Whole, low: list[float], high: list[float], leaks: list[Fraction]) -> None:
    """Lemma 3: in both layers t <= -1 for an output of at most `low`, t >= 0 for one of at least `high`.

    What y fetches is moved by the leak times twice the largest output. So relu(t + w) - relu(t), 0 <= w <= 1, is w at
    the answer and 0 elsewhere. Without a token or a weight the units of a pair cancel; at inputs a pair is in [0, 1].
    """
    for pairs, moved in ((whole.credit_pairs(), max(leaks)), (whole.answer_pairs(), Fraction(0))):
        for (k, _), (slope, offset) in pairs.items():
            shift = 2 * moved * whole.reach[k]
            apart = (
                slope * (Fraction(low[k]) + shift) + offset <= -1 and slope * (Fraction(high[k]) - shift) + offset >= 0
            )
            require(apart, f"the levels of {whole.names[k]!r:.60} are not told apart")


def check_superposition(claimed: dict[str, Any], described: Any, content: bytes, say: Callable[[str], object]) -> None:
    """Check a certificate of a superposition, relative to the contracts that it states. Raises whatever hinders it."""
    whole = Whole(described, content)
    count = len(whole.tasks)
    say(f"blocks: {count} components, {whole.inner} layers, none reads or writes outside its own")
    contracts = {lemma["name"]: lemma["figures"] for lemma in claimed["lemmas"]}["contracts"]
    low, high = contracts["low"], contracts["high"]
    for levels in (low, high):
        require(type(levels) is list and len(levels) == count, "there is not one contract for each component")
        require(all(type(level) is float for level in levels), "a level is no number")
    leaks, (average, inputs) = whole.fetch_leaks(), whole.average_leaks()
    check_levels(whole, low, high, leaks)
    missed = [max(leak if shown else Fraction(0), inputs[shown]) for shown, leak in enumerate(average)]
    nothing, real = [Fraction(0)] * count, [count * error for error in missed]
    stated = claimed["lemmas"][-1]["figures"]["bounds"]  # checked below
    lemmas: dict[str, dict[str, Any]] = {
        "disjoint": {},
        "contracts": {"low": low, "high": high, "assumed": []},
        "fetch": {"leak": leaks},
        "credit": {"error": nothing, "x": [nothing, [Fraction(1)] * count]},
        "average": {"leak": average, "uneven": Fraction(0), "error": [[error] * count for error in missed]},
        "product": {"error": nothing},
        "superposition": {"bounds": stated, "rest": Fraction(0)},
    }
    require(all(claimed["error_bound"].get(form) is None for form in FORMATS), "a bound of a format is not known here")
    sizes = whole.sizes(claimed["sizes"]["log10_prompts"])
    compare(claimed, frame(claimed, sizes, lemmas, list(FORMATS)), "certificate")
    check_real(claimed, stated, real)
    shape = (whole.alphabet, whole.inputs, whole.examples)
    for k, task in enumerate(whole.tasks):
        alone = Alone(whole.weights, whole.blocks[k], whole.parts[k], whole.outputs[k])
        tried = try_out(alone, task, shape, low[k], high[k], whole.reach[k])
        levels = f"at most {low[k]:.6g}, at its answer at least {high[k]:.6g}"
        say(f"ASSUMED, not proved here: {whole.names[k]} gives {levels}; {tried} outputs were tried")
    say(f"real: |q_hat - q|_1 <= {claimed['error_bound']['real']:.3g} for every prompt, if the contracts hold")
