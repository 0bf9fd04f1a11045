"""What is asked: mixtures, numbers of examples, and prompts drawn for them.

A question is a prompt with the tasks' answers to its query. The settings of Xiong et al. (arXiv 2410.05603,
sections 3 and 6) are the suites add_translate, country, copy_add and letters with 20 examples a task in random order,
a uniform mixture and 100 prompts, which are the defaults; and the suite numbers with several mixtures of six tasks.
The weights of `one-heavy` and `alternating` are ours.

Within a prompt no example is shown twice, no input either where the tasks have enough of them, and the query's input is
among the examples' in no case (equality of tokens, not of substrings). No prompt is drawn twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from construct.errors import InputError, PromptError
from construct.oracle import answer
from construct.prompts import Example, Prompt, format_prompt
from construct.tasks import TableTask, Task, TaskSet

EXAMPLES_PER_TASK = 20
PROMPTS = 100
ENUMERATED = 10_000
"""Inputs are listed where there are at most so many; otherwise they are drawn until one fits."""
ATTEMPTS = 1_000

Inputs = tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """One condition: what all of its prompts have in common.

    Args:
        mixture: a weight for each task, summing to 1.
        examples: m, the examples in a prompt.
    """

    mixture: tuple[float, ...]
    examples: int


@dataclass(frozen=True)
class Rules:
    """How prompts are drawn.

    Args:
        ambiguous: "exclude" queries to which two tasks give one answer, or "count" them: they are drawn as they
            come, and reports say how many.
        counts: "exact" gives each task its share of the examples, to the nearest example; "sampled" draws each
            example's task from the mixture, so that frequencies differ from prompt to prompt.
        repeat: an example may be shown twice.
        seed: of the draw.
    """

    ambiguous: str = "exclude"
    counts: str = "exact"
    repeat: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse words that are not known."""
        for name, known in (("ambiguous", ("exclude", "count")), ("counts", ("exact", "sampled"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: expected {' or '.join(known)}")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: expected 0 or more")


@dataclass(frozen=True)
class Question:
    """A prompt with the answers to look for.

    Args:
        cell: the place of its condition.
        index: its place in the condition.
        prompt: the examples and the query, as ids of the alphabet.
        text: the prompt, ending with the arrow.
        query: the query's text.
        candidates: the distinct answers of the tasks to the query, as text to append to the prompt.
        answer_of: for each task the place of its answer in `candidates`.
        drawn: for each example the task that it was drawn by.
        consistent: for each example the tasks that it is consistent with.
        evidence: c_k/m for each task: the share of the examples that it is consistent with.
    """

    cell: int
    index: int
    prompt: Prompt
    text: str
    query: str
    candidates: tuple[str, ...]
    answer_of: tuple[int, ...]
    drawn: tuple[int, ...]
    consistent: tuple[tuple[int, ...], ...]
    evidence: tuple[float, ...]

    @property
    def ambiguous(self) -> bool:
        """Whether two tasks give one answer."""
        return len(self.candidates) < len(self.answer_of)


MIXTURES = ("uniform", "one-heavy", "alternating")


def mixture_weights(given: str | None, names: Sequence[str]) -> tuple[float, ...]:
    """The weights that a mixture's text stands for, summing to 1.

    "uniform"; "one-heavy": half for the first task, the rest shared; "alternating": weights 3, 1, 3, 1, ...; or
    `task=weight,...` on any positive scale, tasks that are not named having weight 0.

    Raises:
        InputError: the text is none of these.
    """
    count = len(names)
    if given is None or given == "uniform" or (given in MIXTURES and count == 1):
        return (1 / count,) * count
    if given == "one-heavy":
        return (0.5, *(0.5 / (count - 1) for _ in names[1:]))
    if given == "alternating":
        weights = [3.0 if place % 2 == 0 else 1.0 for place in range(count)]
    else:
        found = _parse(given)
        for name in found:
            if name not in names:
                raise InputError(f"the mixture names {name!r}: the tasks are {', '.join(names)}")
        weights = [found.get(name, 0.0) for name in names]
    total = sum(weights)
    if not (total > 0 and all(weight >= 0 for weight in weights) and np.isfinite(total)):
        raise InputError(f"the mixture {given!r} has weights {weights}: expected numbers >= 0, one above 0")
    return tuple(weight / total for weight in weights)


def _parse(given: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in given.split(","):
        name, _, number = part.rpartition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise InputError(
                f"the mixture has {part!r}: expected task=weight, several with commas between them, or one of "
                + ", ".join(MIXTURES)
            )
    return weights


def curve_cells(points: int, examples: int) -> tuple[Cell, ...]:
    """Mixtures lambda of the first of two tasks, from 0 to 1 in equal steps."""
    if points < 2:
        raise InputError(f"the curve has {points} points: expected at least 2")
    return tuple(Cell((step / (points - 1), 1 - step / (points - 1)), examples) for step in range(points))


def select_tasks(task_set: TaskSet, names: Sequence[str]) -> TaskSet:
    """The task set with the named tasks alone, in the order given, on the same alphabet."""
    known = {task.name: task for task in task_set.tasks}
    for name in names:
        if name not in known:
            raise InputError(f"there is no task {name!r} in {task_set.name!r}: its tasks are {', '.join(known)}")
    return TaskSet(
        task_set.name, task_set.alphabet, task_set.inputs, task_set.format, tuple(known[name] for name in names)
    )


def draw(task_set: TaskSet, cell: Cell, prompts: int, rules: Rules, *, place: int = 0) -> Iterator[Question]:
    """Draw the questions of one condition; the same arguments give the same questions, other places the same queries.

    Args:
        task_set: the tasks; each of them answers every query.
        cell: the condition.
        prompts: how many.
        rules: how.
        place: the condition's place, which the questions carry; it also enters the seed.

    Raises:
        InputError: there are not enough inputs.
    """
    if len(cell.mixture) != len(task_set.tasks):
        raise InputError(f"the mixture has {len(cell.mixture)} weights: there are {len(task_set.tasks)} tasks")
    if cell.examples < 0 or prompts < 1:
        raise InputError(f"{prompts} prompts of {cell.examples} examples: expected at least 1 prompt, 0 examples")
    pools = [_Pool(task, task_set) for task in task_set.tasks]
    generator = np.random.default_rng([rules.seed, place])
    # Queries have a generator of their own: conditions are compared on the same ones.
    queries = np.random.default_rng(rules.seed)
    seen: set[str] = set()
    for index in range(prompts):
        for _ in range(ATTEMPTS):
            query = _query(task_set, rules, pools, queries)
            question = _question(task_set, cell, rules, pools, generator, query, place, index)
            if question.text not in seen:
                break
        else:
            raise InputError(
                f"only {index} different prompts of {cell.examples} examples were found: ask for fewer prompts or for "
                "more examples"
            )
        seen.add(question.text)
        yield question


def _question(
    task_set: TaskSet,
    cell: Cell,
    rules: Rules,
    pools: "Sequence[_Pool]",
    generator: np.random.Generator,
    query: Inputs,
    place: int,
    index: int,
) -> Question:
    shares = _counts(cell, rules, generator)
    drawn = [task for task, count in enumerate(shares) for _ in range(count)]
    generator.shuffle(drawn)
    whole = [pool.size for pool in pools]
    fresh_inputs = not rules.repeat and all(size is None or size > cell.examples for size in whole)
    taken_inputs: set[Inputs] = {query}
    taken: set[tuple[Inputs, int]] = set()
    examples = []
    for task in drawn:
        for inputs in pools[task].draw(generator):
            output = task_set.tasks[task].answer(inputs)
            assert output is not None, "pools hold what the task answers"
            if inputs not in taken_inputs and (inputs, output) not in taken:
                break
        else:
            raise InputError(
                f"the task {task_set.tasks[task].name!r} has no fresh example left for a prompt of {cell.examples}: "
                "use fewer examples, another mixture, or let examples repeat (--repeat)"
            )
        examples.append(Example(inputs, output))
        if fresh_inputs:
            taken_inputs.add(inputs)
        if not rules.repeat:
            taken.add((inputs, output))
    prompt = Prompt(tuple(examples), query)
    outputs = [task.answer(query) for task in task_set.tasks]
    distinct = list(dict.fromkeys(outputs))
    arrow = task_set.format.arrow
    before = arrow[len(arrow.rstrip()) :]  # the prompt ends with the arrow's last visible character
    return Question(
        cell=place,
        index=index,
        prompt=prompt,
        text=format_prompt(prompt, task_set),
        query=task_set.format.separator.join(task_set.alphabet[token] for token in query),
        candidates=tuple(before + task_set.alphabet[token] for token in distinct if token is not None),
        answer_of=tuple(distinct.index(output) for output in outputs),
        drawn=tuple(drawn),
        consistent=tuple(
            tuple(k for k, task in enumerate(task_set.tasks) if task.answer(example.inputs) == example.answer)
            for example in examples
        ),
        evidence=tuple(float(share) for share in answer(task_set, prompt).evidence),
    )


def _counts(cell: Cell, rules: Rules, generator: np.random.Generator) -> list[int]:
    """How many examples each task gets; a remainder goes to the largest fractions, ties at random."""
    if rules.counts == "sampled":
        return [int(count) for count in generator.multinomial(cell.examples, cell.mixture)]
    wanted = np.array(cell.mixture) * cell.examples
    counts = np.floor(wanted + 1e-9).astype(int)
    order = generator.permutation(len(counts))
    order = order[np.argsort(-np.round(wanted - counts, 9)[order], kind="stable")]
    counts[order[: cell.examples - int(counts.sum())]] += 1
    return [int(count) for count in counts]


def _query(task_set: TaskSet, rules: Rules, pools: "Sequence[_Pool]", generator: np.random.Generator) -> Inputs:
    """An input that every task answers, each in its own way unless ambiguous queries are counted."""
    for inputs in pools[int(generator.integers(len(pools)))].draw(generator):
        outputs = [task.answer(inputs) for task in task_set.tasks]
        if None not in outputs and (rules.ambiguous == "count" or len(set(outputs)) == len(outputs)):
            return inputs
    raise InputError(
        f"no query was found that every task of {task_set.name!r} answers"
        + (" differently: choose other tasks, or --ambiguous count" if rules.ambiguous == "exclude" else "")
    )


class _Pool:
    """The inputs that one task answers; `size` is None where there are too many to list."""

    def __init__(self, task: Task, task_set: TaskSet) -> None:
        self._task, self._inputs = task, task_set.inputs
        self._tokens = input_tokens(task_set.tasks, task_set.inputs)
        listed: list[Inputs] | None = None
        if np.prod([float(len(tokens)) for tokens in self._tokens]) <= ENUMERATED:
            listed = [inputs for inputs in product(*self._tokens) if task.answer(inputs) is not None]
            if not listed:
                raise PromptError(f"the task {task.name!r} answers no input of this set: leave it out")
        self._listed = listed
        self._rows: list[Inputs] = list(task.rows) if isinstance(task, TableTask) else []
        self.size = None if listed is None else len(listed)

    def draw(self, generator: np.random.Generator) -> Iterator[Inputs]:
        """Inputs in random order: all of them where they are listed, else `ATTEMPTS` draws."""
        if self._listed is not None:
            yield from (self._listed[int(place)] for place in generator.integers(len(self._listed), size=8))
            yield from (self._listed[int(place)] for place in generator.permutation(len(self._listed)))
            return
        for _ in range(ATTEMPTS):
            inputs = [tokens[int(generator.integers(len(tokens)))] for tokens in self._tokens]
            if isinstance(self._task, TableTask):
                row = self._rows[int(generator.integers(len(self._rows)))]
                for position, token in zip(self._task.reads, row, strict=True):
                    inputs[position] = token
            if self._task.answer(inputs) is not None:
                yield tuple(inputs)


def input_tokens(tasks: Sequence[Task], inputs: int) -> list[list[int]]:
    """For each position the tokens that some task reads there; where none reads, the tokens read anywhere."""
    found: list[set[int]] = [set() for _ in range(inputs)]
    for task in tasks:
        if isinstance(task, TableTask):
            for row in task.rows:
                for position, token in zip(task.reads, row, strict=True):
                    found[position].add(token)
        else:
            for position in task.positions:
                found[position].update(task.values)
    anywhere = set().union(*found)
    return [sorted(tokens or anywhere) for tokens in found]
