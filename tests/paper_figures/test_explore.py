"""The page of `construct explore`: it computes what the float64 pass does, and can be used by keyboard and phone."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from construct.artifact import save
from construct.constructions import KINDS
from construct.errors import TooLargeError
from construct.oracle import answer
from construct.prompts import Layout, format_prompt, parse_prompt
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.superpose import superpose
from construct.superpose_tables import table_component
from construct.theorems import Construction
from construct.transformer import forward
from paper_figures.explore import page as pages
from paper_figures.explore.page import TOLERANCE, explore_page
from tests.construct.conftest import Command
from tests.paper_figures.browser import ALT, CHROMIUM, DOWN, DRIVER, ENTER, Browser, browser

NODE = shutil.which("node")
MODEL = Path(pages.__file__).with_name("model.js")
SCRIPT = """
const model = require(process.argv[1]);
let text = "";
process.stdin.on("data", (part) => (text += part)).on("end", () => {
  const { data, prompts } = JSON.parse(text);
  const weights = model.decodeModel(data), tasks = model.indexTasks(data);
  console.log(JSON.stringify({
    check: model.selfCheck(weights, data),
    prompts: prompts.map(({ examples, query }) => {
      const ids = model.promptIds(data, examples, query), result = model.forward(weights, ids);
      const exact = model.oracle(tasks, examples, query);
      return {
        ids, output: result.output.map((row) => [...row]), stream: [...result.stream.at(-1)],
        patterns: result.patterns.map((layer) => layer.map((head) => [...head.at(-1)])),
        shares: exact.shares, target: [...exact.target],
      };
    }),
  }));
});
"""


def built(suite: str, theorem: str = "two-layer", examples: int = 5, **sizes: int) -> Construction:
    return KINDS[theorem].build(build_suite(suite, **sizes), examples=examples)


def superposed() -> Construction:
    """A composition, whose weights are another theorem's."""
    tables, layout = build_suite("lookup", tasks=2, alphabet_size=5, inputs=3), Layout(5, 3, 4)
    made = superpose([table_component(task, layout) for task in tables.tasks], layout)
    return made.construction(alphabet=tables.alphabet, written=tables.format)


CONSTRUCTIONS = {
    "tables": lambda: built("retrieval", tasks=3, alphabet_size=7, inputs=4),
    "sums": lambda: built("plus", tasks=2, alphabet_size=11),
    "words": lambda: built("letters", examples=3),
    "composition": superposed,
    "seven layers": lambda: built("retrieval", "seven-layer", tasks=3, alphabet_size=6, inputs=3),
}


def data_of(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_the_page_computes_what_the_float64_pass_computes(name: str) -> None:
    construction = CONSTRUCTIONS[name]()
    generator, sampler = np.random.default_rng(5), PromptSampler(construction.task_set)
    prompts = [sampler.prompt(count, generator) for count in (0, 1, construction.layout.examples)]
    asked = [
        {
            "examples": [{"inputs": example.inputs, "answer": example.answer} for example in prompt.examples],
            "query": prompt.query,
        }
        for prompt in prompts
    ]
    request = json.dumps({"data": data_of(explore_page(construction)), "prompts": asked})
    assert NODE is not None
    ran = subprocess.run([NODE, "-e", SCRIPT, str(MODEL)], input=request, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert found["check"] <= TOLERANCE
    for prompt, one in zip(prompts, found["prompts"], strict=True):
        assert one["ids"] == construction.layout.ids(prompt)
        trace = forward(construction.weights, one["ids"])
        assert np.abs(np.array(one["output"]) - trace.output).max() <= TOLERANCE
        assert np.abs(np.array(one["stream"]) - trace.after_mlp[-1][-1]).max() <= TOLERANCE
        for layer, pattern in zip(one["patterns"], trace.patterns, strict=True):
            assert np.abs(np.array(layer).reshape(pattern[:, -1].shape) - pattern[:, -1]).max(initial=0) <= TOLERANCE
        exact = answer(construction.task_set, prompt)
        assert one["shares"] == [float(share) for share in exact.evidence]
        assert {token: pytest.approx(share) for token, share in one["target"]} == {
            token: float(share) for token, share in exact.target.items()
        }


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_an_altered_weight_fails_the_self_check() -> None:
    data = data_of(explore_page(CONSTRUCTIONS["tables"]()))
    other = data_of(explore_page(built("retrieval", tasks=3, alphabet_size=7, inputs=4, examples=6)))
    data["checks"] = other["checks"]
    data["weights"]["layers"][1]["heads"] = []  # type: ignore[index]
    assert NODE is not None
    request = json.dumps({"data": data, "prompts": []})
    ran = subprocess.run([NODE, "-e", SCRIPT, str(MODEL)], input=request, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)["check"] > 0.01


class Links(HTMLParser):
    """What a page would load, its ids, and the fields and buttons without a name."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.loads += [value for name in ("src", "href", "action") if (value := known.get(name)) and value[0] != "#"]
        self.ids += [value for name, value in attrs if name == "id" and value]


def test_the_page_loads_nothing_and_repeats_byte_for_byte() -> None:
    construction = CONSTRUCTIONS["tables"]()
    page = explore_page(construction)
    assert page == explore_page(construction)
    links = Links()
    links.feed(page)
    assert links.loads == []
    assert len(links.ids) == len(set(links.ids))
    for part in ("@import", "url(", "http://", "fetch(", "XMLHttpRequest"):
        assert part not in page


def test_a_token_that_looks_like_markup_stays_text() -> None:
    task_set = build_suite("retrieval", tasks=2, alphabet_size=3, inputs=2)
    alphabet = ("</script><b>", "@view@", "&amp;")
    strange = type(task_set)("<i>strange</i>", alphabet, 2, type(task_set.format)(separator=" "), task_set.tasks[:2])
    page = explore_page(KINDS["two-layer"].build(strange, examples=2))
    assert page.count("</script>") == 4
    assert "<i>strange" not in page
    assert data_of(page)["alphabet"] == list(alphabet)


def test_weights_beyond_what_a_page_holds_are_refused_with_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LARGEST_BYTES", 2**10)
    with pytest.raises(TooLargeError, match=r"weights take \d+ MiB in a page, and 0 MiB are the most"):
        explore_page(CONSTRUCTIONS["tables"]())


def test_the_command_writes_a_page_and_replaces_only_pages(construct: Command, tmp_path: Path) -> None:
    save(CONSTRUCTIONS["tables"](), tmp_path / "made")
    ran = construct("explore", tmp_path / "made")
    assert (ran.status, ran.err) == (0, "")
    page = tmp_path / "made.html"
    first = page.read_bytes()
    assert construct("explore", tmp_path / "made").status == 0
    assert page.read_bytes() == first
    page.write_text("mine", encoding="utf-8")
    construct("explore", tmp_path / "made").refused("is no such page", "--force")
    assert page.read_text(encoding="utf-8") == "mine"
    assert construct("explore", tmp_path / "made", "--force").status == 0
    assert page.read_bytes() == first


def test_a_prompt_to_begin_with_stands_in_the_page(construct: Command, tmp_path: Path) -> None:
    construction = CONSTRUCTIONS["tables"]()
    save(construction, tmp_path / "made")
    (tmp_path / "prompt.txt").write_text("abcd->b\ncabb->c\ndcba->", encoding="utf-8")
    out = tmp_path / "page.html"
    assert construct("explore", tmp_path / "made", "--prompt", tmp_path / "prompt.txt", "--out", out).status == 0
    start = data_of(out.read_text(encoding="utf-8"))["start"]
    assert start == {"lines": ["abcd->b", "cabb->c"], "query": "dcba->"}


def test_unusable_input_is_refused(construct: Command, tmp_path: Path) -> None:
    save(CONSTRUCTIONS["tables"](), tmp_path / "made")
    construct("explore", tmp_path / "absent").refused("absent", "is no folder")
    construct("explore", tmp_path / "made", "--prompt", tmp_path / "absent.txt").refused("cannot read", "absent.txt")
    (tmp_path / "wrong.txt").write_text("xyzw->x\nabcd->", encoding="utf-8")
    construct("explore", tmp_path / "made", "--prompt", tmp_path / "wrong.txt").refused("unknown token 'x'")
    construct("explore", tmp_path / "made", "--out", tmp_path / "no" / "page.html").refused("cannot write")
    construct("explore", tmp_path / "made", "--out", tmp_path).refused("is no such page")
    construct("build", "--theorem", "vectors", "--dim", 3, "--tasks", 2, "--out", tmp_path / "vectors", "--no-verify")
    construct("explore", tmp_path / "vectors").refused("on vectors", "on tokens")


# In a browser.

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver (Debian: chromium-driver) are not installed"
)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as made:
        yield made


@pytest.fixture(scope="module")
def retrieval_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Construction, Path]:
    construction = CONSTRUCTIONS["tables"]()
    start = parse_prompt("abcd->a\nbade->a\ncbad->a\nebcd->", construction.task_set)
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(explore_page(construction, start=start), encoding="utf-8")
    return construction, path


@needs_browser
def test_the_page_runs_without_complaint_and_agrees(window: Browser, retrieval_page: tuple[Construction, Path]) -> None:
    window.open(retrieval_page[1])
    assert window.run("return document.getElementById('check').dataset.state") == "good"
    assert "agrees with the float64" in window.text("#check")
    assert window.complaints() == []
    summary = window.text("#summary")
    # One example each of the three tasks; the query has e, b and c.
    for token in "ebc":
        assert f"{token} 0.3333 (exact 0.3333)" in summary


@needs_browser
def test_everything_can_be_done_by_keyboard(window: Browser, retrieval_page: tuple[Construction, Path]) -> None:
    window.open(retrieval_page[1])
    window.focus("#line-0")
    window.type(DOWN, hold=ALT)
    lines = "return [...document.querySelectorAll('#examples input')].map((line) => line.value)"
    assert window.run(lines) == ["bade->a", "abcd->a", "cbad->a"]
    assert window.run("return document.activeElement.id") == "line-1"
    window.focus("#examples li:last-child button:last-of-type")
    window.type(ENTER)
    assert window.run(lines) == ["bade->a", "abcd->a"]
    assert "e 0.5000" in window.text("#summary")
    assert "b 0.5000" in window.text("#summary")
    window.focus("#query")
    window.run("document.activeElement.select()")
    window.type("ggxg")
    assert "“x” is not in the alphabet" in window.text("#problem")
    assert window.run("return document.getElementById('query').getAttribute('aria-invalid')") == "true"
    window.run("document.activeElement.select()")
    window.type("ggdg->")
    assert window.text("#problem") == ""
    assert "g 1.0000" in window.text("#summary")
    window.focus("#add")
    window.type(ENTER)
    assert len(window.run(lines)) == 3
    window.focus("#down-0")
    window.type(ENTER)
    assert window.run("return document.activeElement.id") == "down-1"
    window.type(ENTER)
    assert window.run("return document.activeElement.id") == "line-2"  # no line is below: its button is off


@needs_browser
def test_an_example_is_added_from_the_list_of_a_tasks_inputs(
    window: Browser, retrieval_page: tuple[Construction, Path]
) -> None:
    construction, path = retrieval_page
    window.open(path)
    window.focus("#new-task")
    window.type(DOWN)
    listed = window.run("return [...document.querySelectorAll('#new-input option')].map((one) => one.textContent)")
    assert listed == ["any input", *(f"·{token}··" for token in construction.task_set.alphabet)]
    window.focus("#new-input")
    window.type(3 * DOWN)
    window.focus("#add")
    window.type(ENTER)
    added = window.run("return [...document.querySelectorAll('#examples input')].at(-1).value")
    assert re.fullmatch(r"[a-g]c[a-g]{2}->c", added)


@needs_browser
def test_an_unreadable_prompt_says_that_the_answer_is_an_older_one(
    window: Browser, retrieval_page: tuple[Construction, Path]
) -> None:
    window.open(retrieval_page[1])
    hidden = "return document.getElementById('stale').hidden"
    assert window.run(hidden) is True
    window.focus("#query")
    window.run("document.activeElement.select()")
    window.type("x")
    assert window.run(hidden) is False
    window.run("document.activeElement.select()")
    window.type("abcd")
    assert window.run(hidden) is True


@needs_browser
def test_each_answer_names_the_tasks_that_give_it(window: Browser, retrieval_page: tuple[Construction, Path]) -> None:
    window.open(retrieval_page[1])
    window.focus("#query")
    window.run("document.activeElement.select()")
    window.type("eebb")
    labels = "[...document.querySelectorAll('#bars .label')]"
    names = window.run(f"return {labels}.map((one) => [...one.childNodes].map((part) => part.textContent))")
    assert dict(names) == {"e": "ret_1, ret_2", "b": "ret_3"}


@needs_browser
def test_the_mixture_moves_the_answer(window: Browser, retrieval_page: tuple[Construction, Path]) -> None:
    construction, path = retrieval_page
    window.open(path)
    script = """
      for (const [index, weight] of arguments[0].entries()) {
        document.getElementById(`weight-${index}`).value = weight;
      }
      document.getElementById("count").value = 5;
      document.getElementById("weight-0").dispatchEvent(new Event("input"));
      return [...document.querySelectorAll("#examples input")].map((line) => line.value);
    """
    lines = window.run(script, [3, 2, 0])
    prompt = parse_prompt("\n".join([*lines, "ebcd->"]), construction.task_set)
    assert format_prompt(prompt, construction.task_set).split("\n")[:-1] == lines
    exact = answer(construction.task_set, prompt)
    assert exact.evidence[0] >= 3 / 5
    assert exact.evidence[1] >= 2 / 5
    assert f"e {float(exact.target[4]):.4f}" in window.text("#summary")


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)])
def test_nothing_overflows_and_every_field_has_a_name(
    window: Browser, retrieval_page: tuple[Construction, Path], width: int, dark: bool
) -> None:
    window.emulate(width=width, dark=dark)
    window.open(retrieval_page[1])
    assert window.run("return innerWidth") == width
    assert window.run("return document.documentElement.scrollWidth") <= width
    nameless = """
      return [...document.querySelectorAll("input, select, button, canvas")].filter((field) =>
        !(field.labels && field.labels.length) && !field.getAttribute("aria-label") && !field.textContent.trim()
      ).map((field) => field.outerHTML);
    """
    assert window.run(nameless) == []
    # WCAG's contrast ratio of text and background, at least 4.5.
    contrast = """
      const light = (text) => {
        const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const card = getComputedStyle(document.querySelector("section")).backgroundColor;
      return ["h2", ".hint", "#summary", "#problem", "th", "button"].map((name) => {
        const text = getComputedStyle(document.querySelector(name)).color;
        const [one, other] = [text, card].map(light).sort((a, b) => b - a);
        return (one + 0.05) / (other + 0.05);
      });
    """
    assert min(window.run(contrast)) >= 4.5
