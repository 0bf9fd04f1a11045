"""Through the path of pretrained models, constructions as stock GPT-2 give the answers that are known."""

from collections.abc import Callable
from pathlib import Path

import pytest

from construct.artifact import save
from construct.seven_layer import seven_layer
from construct.suites import build_suite
from construct.theorems import Construction, two_layer
from empirical.language_model import Options
from empirical.measures import distance_to_oracle, kl_normalised, kl_of_paper, mean
from empirical.open_model import open_inside
from empirical.records import Results, load_results
from empirical.runtime import Runtime
from empirical.superposition_index import oracle_index, regression, superposition_index
from empirical.task_vectors import Plan, combine, extract, transfer
from tests.empirical.conftest import Command

SUITE = build_suite("plus", tasks=3, alphabet_size=17)  # no two tasks agree anywhere
M = 6
CLOSE = 1e-5
"""The total variation to the oracle that exports are held to in float32 (tests/construct/test_export_gpt2.py)."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Constructions in their own folders and as GPT-2."""
    from construct.export.folder import write_huggingface
    from construct.export.gpt2 import stock_model
    from construct.export.provenance import Source

    made: dict[str, Construction] = {
        "two": two_layer(SUITE, examples=M),
        "seven": seven_layer(SUITE, examples=M),
    }
    root, found = tmp_path_factory.mktemp("known"), {}
    for name, construction in made.items():
        save(construction, root / name)
        stock = f"{name} as gpt2"
        write_huggingface(stock_model(construction), Source(construction, "0" * 64, None), root / stock)
        found |= {name: root / name, stock: root / stock}
    return found


@pytest.fixture
def run(construct: Command, folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    def evaluated(name: str, *arguments: object) -> Path:
        tasks = [] if name in ("two", "seven") else ["--task-file", tmp_path / "tasks.json"]
        (tmp_path / "tasks.json").write_text(_task_file(), encoding="utf-8")
        out = tmp_path / f"out-{name.replace(' ', '-')}"
        ran = construct("evaluate", folders[name], *tasks, "--examples", M, *arguments, "--out", out)
        assert ran.status == 0, ran.err
        return out

    return evaluated


def _task_file() -> str:
    import json

    from construct.task_file import task_set_to_json

    return json.dumps(task_set_to_json(SUITE))


def test_the_pretrained_path_gives_the_oracles_distribution(run: Callable[..., Path]) -> None:
    results: Results = load_results(run("two as gpt2", "--prompts", 20))
    sample = results.sample(0)
    assert results.header["model"]["architecture"] == "GPT2LMHeadModel"
    assert distance_to_oracle(sample).max() < CLOSE
    assert kl_of_paper(sample).max() < CLOSE  # two examples of each task: the mixture is the exact superposition
    assert kl_normalised(sample).max() < CLOSE
    assert mean(sample.correct).value == 3
    assert sample.exact.all()
    assert superposition_index(sample).value == pytest.approx(1, abs=CLOSE)


def test_each_prompts_own_frequencies_are_what_its_answer_follows(run: Callable[..., Path]) -> None:
    sample = load_results(run("two as gpt2", "--prompts", 40, "--counts", "sampled")).sample(0)
    assert distance_to_oracle(sample).max() < CLOSE
    assert superposition_index(sample).value == pytest.approx(oracle_index(sample), abs=CLOSE)
    assert oracle_index(sample) < 0.95
    found = regression(sample)
    assert found.coefficients["frequency"].value == pytest.approx(1, abs=10 * CLOSE)
    assert found.coefficients["recency"].value == pytest.approx(0, abs=10 * CLOSE)


def test_a_construction_and_its_stock_form_are_compared_as_equal(run: Callable[..., Path], construct: Command) -> None:
    ran = construct("compare", run("two", "--prompts", 8), run("two as gpt2", "--prompts", 8))
    assert ran.status == 0, ran.err
    differences = ran.out[ran.out.index("Differences to") :].splitlines()[2:]
    assert len(differences) == 4
    assert all(line.endswith("0.000 [0.000, 0.000]") for line in differences)


def test_the_mechanism_is_found_in_the_stock_form_where_the_construction_has_it(
    construct: Command, folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "tasks.json").write_text(_task_file(), encoding="utf-8")
    models = (folders["seven"], folders["seven as gpt2"])
    run_ = ("--task-file", tmp_path / "tasks.json", "--examples", M, "--prompts", 100)
    ran = construct("mechanism", *models, *run_)
    assert ran.status == 0, ran.err
    own, stock = (next(line for line in ran.out.splitlines() if line.strip().startswith(str(one))) for one in models)
    for row in (own, stock):
        assert "1.000 after 4 of" in row  # credit
        assert "1.1 1.000, " in row  # the read head
        assert "5.1 1.000, " in row  # the averaging head


def test_the_task_vectors_of_the_stock_form_are_those_of_theory(folders: dict[str, Path]) -> None:
    opened = open_inside(str(folders["seven as gpt2"]), Runtime("cpu", "float32"), Options()).model
    assert opened.layers == 11
    plan = Plan(SUITE, M, 8)
    vectors = extract(opened, plan)
    found = transfer(opened, plan, vectors)
    assert found.layer == 4
    assert found.accuracy[:4] == (0.0,) * 4
    assert found.probability[4] == pytest.approx(1, abs=10 * CLOSE)
    # Halves and thirds of six are on the grid of the logits, where they are exact.
    for outputs in combine(opened, plan, vectors, 4, [(1 / 2, 1 / 3, 1 / 6), (2 / 3, 1 / 3, 0.0)]):
        assert [one.value for one in outputs.probability] == pytest.approx(outputs.weights, abs=10 * CLOSE)
