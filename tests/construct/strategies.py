"""Hypothesis strategies: random task sets, and prompts of a mix of explained and unexplained examples.

What they must be able to draw is tested in `test_strategies.py`, so that none silently draws too little.
"""

from dataclasses import dataclass, replace
from itertools import product

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from construct.errors import TaskError
from construct.prompts import Example, Prompt
from construct.tasks import Format, SumTask, TableTask, Task, TaskSet

LETTERS = "abcdefghijklm"
ALPHABET_SIZES = (1, 2, 3, 5, 7, 8, 11)
MOST_INPUTS, MOST_TASKS, MOST_EXAMPLES, MOST_ROWS = 4, 4, 9, 13
VALUE_RANGES = ((-5, 5), (0, 7), (-9, -2), (90, 101), (-300, 300))


@dataclass(frozen=True)
class Case:
    """A task set, the size m of a construction for it, and a prompt that fits."""

    task_set: TaskSet
    examples: int
    prompt: Prompt


@st.composite
def table_tasks(draw: DrawFn, name: str, alphabet_size: int, inputs: int) -> TableTask:
    """A table, partial or total, that reads 1 to 3 positions in any order."""
    reads = tuple(draw(st.permutations(range(inputs)))[: draw(st.integers(1, min(inputs, 3)))])
    tokens = st.integers(0, alphabet_size - 1)
    if len(reads) == 1 and draw(st.booleans()):
        answers = draw(st.lists(tokens, min_size=alphabet_size, max_size=alphabet_size))
        return TableTask(name, reads, {(token,): answer for token, answer in enumerate(answers)})
    keys = st.tuples(*[tokens] * len(reads))
    return TableTask(name, reads, draw(st.dictionaries(keys, tokens, min_size=1, max_size=MOST_ROWS)))


@st.composite
def sum_tasks(draw: DrawFn, name: str, alphabet_size: int, inputs: int) -> SumTask:
    """A lookup of a sum over 1 to n positions; its values may be partial, and its rows out of reach."""
    positions = tuple(draw(st.permutations(range(inputs)))[: draw(st.integers(1, inputs))])
    low, high = draw(st.sampled_from(VALUE_RANGES))
    tokens = st.integers(0, alphabet_size - 1)
    if draw(st.booleans()):
        valued = list(range(alphabet_size))
    else:
        valued = draw(st.lists(tokens, min_size=1, max_size=alphabet_size, unique=True))
    values = {token: draw(st.integers(low, high)) for token in valued}
    totals = st.integers(len(positions) * min(values.values()) - 1, len(positions) * max(values.values()) + 1)
    return SumTask(name, positions, values, draw(st.dictionaries(totals, tokens, min_size=1, max_size=MOST_ROWS)))


@st.composite
def _tasks(draw: DrawFn, name: str, alphabet_size: int, inputs: int, earlier: list[Task]) -> Task:
    """A new task, an earlier one again, or one that shares an earlier one's read with rows of its own."""
    kind = draw(st.sampled_from(["table", "sum", "again", "same read"] if earlier else ["table", "sum"]))
    if kind == "table":
        return draw(table_tasks(name, alphabet_size, inputs))
    if kind == "sum":
        return draw(sum_tasks(name, alphabet_size, inputs))
    other = draw(st.sampled_from(earlier))
    if kind == "again":
        return replace(other, name=name)
    return replace(other, name=name, rows={key: draw(st.integers(0, alphabet_size - 1)) for key in other.rows})


@st.composite
def task_sets(
    draw: DrawFn, alphabet_sizes: SearchStrategy[int] | None = None, most_inputs: int = MOST_INPUTS
) -> TaskSet:
    """1 to 4 tasks on 1 to 4 inputs over an alphabet of 1 to 11 tokens."""
    alphabet_size = draw(st.sampled_from(ALPHABET_SIZES) if alphabet_sizes is None else alphabet_sizes)
    inputs = draw(st.integers(1, most_inputs))
    tasks: list[Task] = []
    for index in range(draw(st.integers(1, MOST_TASKS))):
        tasks.append(draw(_tasks(f"task {index}", alphabet_size, inputs, tasks)))
    return TaskSet("random", tuple(LETTERS[:alphabet_size]), inputs, Format(), tuple(tasks))


@st.composite
def _inputs(draw: DrawFn, task_set: TaskSet) -> tuple[int, ...]:
    """Random inputs, or inputs on which some task has an answer."""
    tokens = st.integers(0, len(task_set.alphabet) - 1)
    inputs = [draw(tokens) for _ in range(task_set.inputs)]
    task = draw(st.sampled_from([None, *task_set.tasks]))
    if isinstance(task, TableTask):
        for position, token in zip(task.reads, draw(st.sampled_from(sorted(task.rows))), strict=True):
            inputs[position] = token
    elif isinstance(task, SumTask):
        for position in task.positions:
            inputs[position] = draw(st.sampled_from(sorted(task.values)))
    return tuple(inputs)


@st.composite
def _examples(draw: DrawFn, task_set: TaskSet) -> Example:
    """An example of some task, one on which as many tasks as possible agree, or one of a random answer."""
    inputs = draw(_inputs(task_set))
    answers = [answer for task in task_set.tasks if (answer := task.answer(inputs)) is not None]
    kind = draw(st.sampled_from(["task", "task", "agreed", "random"] if answers else ["random"]))
    if kind == "task":
        return Example(inputs, draw(st.sampled_from(answers)))
    if kind == "agreed":
        return Example(inputs, max(answers, key=answers.count))
    return Example(inputs, draw(st.integers(0, len(task_set.alphabet) - 1)))


@st.composite
def prompts(draw: DrawFn, task_set: TaskSet, most: int, least: int = 0) -> Prompt:
    """A prompt of `least` to `most` examples; examples may repeat, and the query may be one of them."""
    shown = draw(st.integers(least, most))
    examples = tuple(draw(_examples(task_set)) for _ in range(shown))
    return Prompt(examples, draw(_inputs(task_set)))


@st.composite
def cases(
    draw: DrawFn, sets: SearchStrategy[TaskSet] | None = None, most_examples: int = MOST_EXAMPLES, least: int = 0
) -> Case:
    """A task set, a number m of examples from 1, and a prompt of at most m."""
    task_set = draw(task_sets() if sets is None else sets)
    examples = draw(st.integers(max(1, least), most_examples))
    return Case(task_set, examples, draw(prompts(task_set, examples, least)))


# Alphabets and formats in which prompts must read back.

SEPARATORS = (" ", "", ",", ", ", "@", " + ", "::", "\t")
ARROWS = ("->", " -> ", "=", " =", ": ", "⇒", " => ")
NAMES = ("Peru", "New York", "-3", "a b c", "x", "é", "¿qué?", "日本", "0", "1.5", "(", "'", '"', "\\n", "ẞ", "%s")


@st.composite
def formats(draw: DrawFn) -> TaskSet:
    """A task set of an unusual alphabet and format whose only task reads position 0; what does not fit is redrawn."""
    separator, arrow = draw(st.sampled_from(SEPARATORS)), draw(st.sampled_from(ARROWS))
    inputs = draw(st.integers(1, MOST_INPUTS))
    length = draw(st.integers(1, 2))
    of_one_length = ["".join(letters) for letters in product("ab1é-", repeat=length)]
    pool = of_one_length if inputs > 1 and not separator else list(NAMES)
    alphabet = tuple(draw(st.lists(st.sampled_from(pool), min_size=1, max_size=7, unique=True)))
    if inputs > 1 and separator.isspace():
        alphabet = tuple(token for token in alphabet if len(token.split()) == 1) or ("only",)
    form = Format(separator=separator, arrow=arrow)
    try:
        return TaskSet("formats", alphabet, inputs, form, (TableTask("first", (0,), {(0,): 0}),))
    except TaskError:
        reject()  # a separator that reads as the arrow, say: refused by its own tests
