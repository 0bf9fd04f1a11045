"""What the page of `construct explore` reads: prompts in any format, and suites of any name."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from construct.constructions import KINDS
from construct.prompts import format_prompt
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.tasks import Format, TaskSet
from paper_figures.explore import page as pages
from paper_figures.explore.page import explore_page
from tests.paper_figures.test_explore import NODE, data_of

PROMPT = Path(pages.__file__).with_name("prompt.js")
READ = """
const { parseExample, parseQuery } = require(process.argv[1]);
let text = "";
process.stdin.on("data", (part) => (text += part)).on("end", () => {
  const tried = (read) => { try { return read(); } catch (error) { return error.message; } };
  console.log(JSON.stringify(JSON.parse(text).map(({ data, examples, query }) => ({
    examples: examples.map((line) => tried(() => parseExample(data, line))),
    query: tried(() => parseQuery(data, query)),
  }))));
});
"""


def named(name: str, alphabet: tuple[str, ...], separator: str, arrow: str) -> TaskSet:
    """Two tasks on two inputs, written in some way."""
    tasks = build_suite("retrieval", tasks=2, alphabet_size=3, inputs=2)
    return TaskSet(name, alphabet, 2, Format(separator=separator, arrow=arrow), tasks.tasks)


FORMATS = {
    "code points beyond 16 bits": named("emoji", ("😀", "🎉", "🚀"), "", "->"),
    "parts of the arrow": named("parts", ("-", "b", ">"), "", "->"),
    "tokens with spaces": named("spaces", ("a b", "c", "d e"), ", ", " => "),
    "spaces between": named("words", ("a", "b", "c"), " ", " -> "),
}


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("name", FORMATS)
def test_the_page_reads_prompts_as_python_does(name: str) -> None:
    task_set = FORMATS[name]
    prompt = PromptSampler(task_set).prompt(12, np.random.default_rng(3))
    *examples, query = format_prompt(prompt, task_set).split("\n")
    data = data_of(explore_page(KINDS["two-layer"].build(task_set, examples=12)))
    arrow = task_set.format.arrow.strip()
    wrong = [f"{query} {task_set.alphabet[0]} {task_set.alphabet[1]}", query, query[: -len(arrow)], ""]
    request = json.dumps([{"data": data, "examples": [*examples, *wrong], "query": query}])
    assert NODE is not None
    ran = subprocess.run([NODE, "-e", READ, str(PROMPT)], input=request, capture_output=True, text=True, check=True)
    [found] = json.loads(ran.stdout)
    assert found["query"] == list(prompt.query)
    assert found["examples"][:12] == [{"inputs": list(one.inputs), "answer": one.answer} for one in prompt.examples]
    for line, said in zip(wrong, found["examples"][12:], strict=True):
        assert isinstance(said, str), line


def test_a_suite_named_like_a_mark_of_the_template_fills_no_other_place() -> None:
    page = explore_page(KINDS["two-layer"].build(named("@data@ @style@", ("a", "b", "c"), "", "->"), examples=2))
    assert "<title>@data@ @style@: tasks in superposition</title>" in page
    assert data_of(page)["alphabet"] == ["a", "b", "c"]
