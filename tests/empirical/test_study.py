"""The study of trained models: its prompts, its figures, its record, and that it can be taken up and can fail."""

import dataclasses
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from construct.errors import ArtifactError, InputError
from construct.suites import build_suite
from empirical import measures
from empirical import study as the_study
from empirical.records import load_results
from empirical.strict_json import built
from empirical.study import Plan, command, emergence, execute, moment, plans, slope_of, study, task_set_of
from empirical.study_measures import Reply, accuracy, ask, completed, condition, fitted, ranks, shares
from empirical.study_predictions import Learner, learners, prediction
from empirical.study_prompts import Probe, curve_counts, make_probes, uniform_counts
from empirical.study_records import EXACT, LAST, MIXING, ONE_TASK, Interval, Moment, Point, Setup, read_study
from empirical.study_tables import filled, tables
from empirical.superposition_index import superposition_index
from empirical.training.models import make_model
from empirical.training.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SETUP = Setup("retrieval", tasks=3, alphabet_size=7, inputs=3, examples=8)
TASK_SET = task_set_of(SETUP)
TINY = Settings(
    layers=1, heads=1, width=8, mlp_width=8, examples=8, batch=4, steps=4, warmup=1, threads=1, validate_every=2,
    validation_prompts=6,
)  # fmt: skip
PLAN = Plan("main", "tiny", SETUP, TINY)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "RESAMPLES", 10)


def mixed_probes(prompts: int = 60) -> Any:
    return make_probes(TASK_SET, 8, prompts, seed=3)


def reply(chances: np.ndarray) -> Reply:
    whole = torch.tensor(chances)
    above, level = ranks(whole, whole)
    return Reply(np.log(chances), above.numpy(), level.numpy())


def test_mixed_prompts_show_each_task_its_share_and_a_query_with_an_answer_for_each() -> None:
    probes = mixed_probes()
    for probe in (*probes.curve, *probes.uniform):
        counts = np.stack([(probe.drawn == task).sum(1) for task in range(len(probe.shares))], -1)
        assert (counts == np.array(probe.shares) * 8).all()
        assert (np.take_along_axis(probe.consistent, probe.drawn[..., None], 2)).all(), "by the task that drew it"
        assert (np.diff(np.sort(probe.answers, -1)) > 0).all()
        orders = len({tuple(row) for row in probe.drawn.tolist()})
        assert (orders == 1) == (max(probe.shares) == 1), "in random order"
    assert [probe.shares[0] for probe in probes.curve] == [step / 8 for step in range(9)]


def test_consistency_and_answers_are_those_of_the_tasks() -> None:
    probe = mixed_probes(9).uniform[-1]
    for row, drawn, answers, consistent in zip(
        probe.ids.tolist(), probe.drawn, probe.answers, probe.consistent, strict=True
    ):
        blocks = [row[1 + 5 * place : 6 + 5 * place] for place in range(9)]
        assert [block[3] for block in blocks] == [8] * 9
        for place, task in enumerate(drawn):
            assert blocks[place][4] == TASK_SET.tasks[task].answer(blocks[place][:3])
            expected = [one.answer(blocks[place][:3]) == blocks[place][4] for one in TASK_SET.tasks]
            assert consistent[place].tolist() == expected
        assert answers.tolist() == [task.answer(blocks[8][:3]) for task in TASK_SET.tasks]


@pytest.mark.parametrize("examples", [1, 4, 6, 12, 16, 24])
def test_the_curve_is_alike_from_both_ends(examples: int) -> None:
    counts = curve_counts(examples)
    assert counts[0] == 0
    assert counts[-1] == examples
    assert [examples - count for count in reversed(counts)] == list(counts)


def test_uniform_shares_differ_by_an_example_at_most() -> None:
    assert uniform_counts(8, 3) == [3, 3, 2]


def test_equal_seeds_give_equal_prompts() -> None:
    first, second, other = (make_probes(TASK_SET, 8, 5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.uniform[0].ids, second.uniform[0].ids)
    assert not torch.equal(first.uniform[0].ids, other.uniform[0].ids)


def test_an_alphabet_too_small_for_different_answers_is_refused() -> None:
    with pytest.raises(InputError, match="larger alphabet"):
        make_probes(build_suite("retrieval", tasks=3, alphabet_size=2, inputs=3), 4, 5, seed=0)


def test_a_model_is_asked_for_the_answers_at_the_last_eq() -> None:
    probes = mixed_probes(7)
    model = make_model(TINY, TINY.layout(TASK_SET)).eval()
    probe = probes.uniform[-1]
    with torch.no_grad():
        chances = model(input_ids=probe.ids).logits[:, -1].double().softmax(-1)
    found = ask(model, probes, probe)
    own = chances.gather(1, torch.tensor(probe.answers))
    assert np.exp(found.log_probability) == pytest.approx(own.numpy(), rel=1e-5)
    assert (found.above == (chances[:, None] > own[..., None]).sum(-1).numpy()).all()
    with torch.no_grad():
        first = probes.pure["ret_2"]
        guess = model(input_ids=first[:, :4]).logits[:, -1].argmax(-1)
    assert accuracy(model, probes)["ret_2"][0] == pytest.approx(float((guess == first[:, 5]).double().mean()), abs=1e-4)


def test_exact_superposition_superposes_and_the_learner_of_one_task_commits() -> None:
    setup = Setup("plus", tasks=2, alphabet_size=20, inputs=1, examples=8)
    task_set = task_set_of(setup)
    probes = make_probes(task_set, 8, 50, seed=0)
    found = {
        one.name: prediction(one, task_set, setup, probes, kept=10).answers
        for one in learners(setup, label_noise=0.0, mixed=0.0)
    }
    exact, alone, last, mixing = (found[name].curve for name in (EXACT, ONE_TASK, LAST, MIXING))
    assert [one.mean[0].value for one in exact] == [step / 8 for step in range(9)]
    assert all(one.distance.value == 0 and one.kl.value == 0 for one in exact)
    assert [round(one.mean[0].value or 0) for one in alone] == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert alone[4].probabilities == ((0.5, 0.5),) * 10, "equal counts"
    shown_last = [(probe.drawn[:, -1] == 0).mean() for probe in probes.curve]
    assert [one.mean[0].value for one in last] == pytest.approx(shown_last, abs=0.01), "the mean follows the mixture"
    assert all((one.index.value or 1) < 0.1 for one in last[1:-1]), "and each prompt is certain"
    assert [one.mean[0].value for one in mixing] == pytest.approx([(c + 1) / 10 for c in range(9)], abs=1e-4)
    assert mixing[2].distances[EXACT].value == pytest.approx(3 / 10 - 2 / 8)
    for answers in found.values():
        assert all(shares[1:] == (1.0,) * 8 for shares in answers.accuracy.values()), "one example tells tasks apart"


def test_a_coin_thrown_for_each_prompt_has_the_mean_of_the_mixture_and_no_superposition() -> None:
    probe = mixed_probes(200).curve[4]
    heads = np.random.default_rng(0).random(200) < 0.5
    chances = np.where(heads[:, None], [[0.99, 0.005, 0.005]], [[0.005, 0.99, 0.005]])
    superposed = np.full((200, 3), 1 / 3)
    coin, even = (condition(reply(one), probe, {"even": reply(superposed)}, kept=5) for one in (chances, superposed))
    assert coin.mean[0].value == pytest.approx(0.5, abs=0.1)
    assert coin.kl_of_mean < 0.02
    assert (coin.index.value or 1) < 0.1 < 0.9 < (coin.between.value or 0)
    assert coin.histogram[-1] == 200
    assert coin.distances["even"].value == pytest.approx(0.495, abs=0.01)
    assert even.index.value == pytest.approx(1)
    assert even.between.value == pytest.approx(0)
    assert even.kl.value == pytest.approx(np.log(3 / 2), abs=1e-4), "a third is elsewhere"
    assert even.other.value == pytest.approx(1 / 3, abs=1e-4)


def test_completion_counts_the_answers_among_as_many_most_probable_tokens() -> None:
    probe = Probe((0.5, 0.5, 0.0), torch.zeros(1, 1), np.zeros((3, 3)), np.zeros((3, 2)), np.zeros((3, 2, 3)))
    above = np.array([[0, 1, 2], [0, 5, 1], [2, 3, 0]])
    level = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1]])
    assert completed(Reply(np.zeros((3, 3)), above, level), probe).tolist() == [1.0, 0.5, 0.0]
    tied = Reply(np.zeros((1, 3)), np.array([[0, 1, 1]]), np.array([[1, 4, 4]]))
    assert completed(tied, probe).tolist() == [pytest.approx((1 + 1 / 4) / 2)]


def test_the_weights_of_the_examples_are_found() -> None:
    generator = np.random.default_rng(2)
    evidence = generator.choice([-1.0, 0.0, 1.0], size=(400, 5))
    wanted = np.array([0.0, 0.5, 1.0, 0.0, 3.0])
    found = fitted(evidence @ wanted + 0.7, evidence)
    assert [one.value for one in found.by_position] == pytest.approx(wanted.tolist(), abs=1e-4)
    assert found.explained == pytest.approx(1)
    follower = fitted(4 * evidence[:, 3], evidence)
    assert follower.agreement[3] == 1.0
    assert max(follower.agreement[place] for place in (0, 1, 2, 4)) < 0.7
    assert fitted(evidence.sum(-1), evidence).majority == 1.0
    assert fitted(evidence.sum(-1), np.zeros((400, 1))).majority is None
    assert fitted(generator.normal(size=400), evidence).explained < 0.1


def moments_of(*found: tuple[float, float, float]) -> list[Moment]:
    return [
        Moment(step, step, 1.0, {"a": right, "b": 1.0}, (), slope, 0.0, 0.0, index, (0,) * 10)
        for step, (right, slope, index) in enumerate(found, start=1)
    ]


def test_a_thing_has_emerged_when_it_does_not_go_again() -> None:
    found = emergence(moments_of((0.6, 0.1, 0.9), (0.3, 0.6, 0.3), (0.6, 0.7, 0.6), (0.95, 0.8, 0.4)))
    assert (found.told_apart, found.learned, found.follows, found.commits) == (3, 4, 2, 4)
    never = emergence(moments_of((0.2, 0.1, 0.9)))
    assert (never.told_apart, never.learned, never.follows, never.commits) == (None, 1, None, None)


def test_the_slope_of_a_perfect_curve_is_one() -> None:
    assert slope_of([Point(share, share, 0.0) for share in (0, 0.25, 0.5, 0.75, 1)]) == pytest.approx(1)
    assert slope_of([Point(share, 0.4, 0.0) for share in (0, 0.5, 1)]) == pytest.approx(0)


def test_a_moment_has_the_deviation_over_prompts() -> None:
    row = {
        "step": 5, "tokens": 70, "loss": 1.5, "accuracy": {"a": 0.5}, "kl": 0.1, "kl_of_mean": 0.2, "index": None,
        "histogram": [0] * 10,
        "mixture": [{"lambda": s, "first": 0, "second": 0, "normalised": 0.5, "square": 0.34} for s in (0, 1)],
    }  # fmt: skip
    assert moment(row).curve[0] == Point(0, 0.5, pytest.approx(0.3))


def test_a_study_is_taken_up_and_its_record_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [PLAN, replace(PLAN, group="noise", settings=replace(TINY, label_noise=0.3, mixed=0.5))]
    trained = []

    def counted(*given: Any, **named: Any) -> Any:
        trained.append(given)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    real = the_study.train
    monkeypatch.setattr(the_study, "train", counted)
    out, work = tmp_path / "record.json", tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        study(chosen, work, out, jobs=1, prompts=20, kept=4)
    assert not out.exists()
    record = study(chosen, work, out, jobs=1, prompts=20, kept=4)
    assert len(trained) == 3, "the first was kept"
    assert read_study(out) == record
    assert [run.name for run in record.runs] == [plan.name for plan in chosen]
    assert [run.answers.uniform[-1].distances.keys() for run in record.runs] == [
        {one.name for one in learners(SETUP, label_noise=noise, mixed=mixed)} for noise, mixed in ((0, 0), (0.3, 0.5))
    ]
    first = record.runs[0]
    assert [one.step for one in first.moments] == [2, 4]
    assert record.predicted(EXACT, SETUP) is not None
    # What was kept of other settings is made anew; what is damaged is said.
    assert len(execute(replace(PLAN, settings=replace(TINY, seed=1)), work, prompts=20, kept=4).answers.curve) == 9
    kept = work / f"{PLAN.folder}.json"
    kept.write_text(kept.read_text().replace('"kept": 4', '"kept": 5'))
    execute(PLAN, work, prompts=20, kept=4)
    assert len(trained) == 5
    kept.write_text("{")
    with pytest.raises(InputError, match="delete it to start anew"):
        execute(PLAN, work, prompts=20, kept=4)
    _refused(out, tmp_path)


def _refused(good: Path, folder: Path) -> None:
    """Records with one thing wrong are not read."""
    data = json.loads(good.read_text())

    def broken(change: Any, said: str) -> None:
        other = json.loads(json.dumps(data))
        change(other)
        path = folder / "broken.json"
        path.write_text(json.dumps(other))
        with pytest.raises(ArtifactError, match=said):
            read_study(path)

    def at(other: Any) -> Any:
        return other["runs"][0]["answers"]["curve"][2]

    broken(lambda other: other.update(format="x"), "no record")
    broken(lambda other: other.update(format_version=0), "make study")
    broken(lambda other: other.pop("kept"), "expected the fields")
    broken(lambda other: other["runs"][0].update(more=1), "expected the fields")
    broken(lambda other: other["runs"][0].update(tokens=1.5), r"tokens is 1.5, expected int")
    broken(lambda other: other["runs"][0].update(loss=float("nan")), "loss is nan")
    broken(lambda other: other["runs"][1].update(name=data["runs"][0]["name"]), "one name")
    broken(lambda other: other["runs"][0].update(group="odd"), "the group 'odd'")
    broken(lambda other: at(other)["histogram"].__setitem__(0, 99), "does not count 20 prompts")
    broken(lambda other: at(other)["probabilities"].pop(), "3 prompts are kept")
    broken(lambda other: at(other)["probabilities"][0].__setitem__(0, 2.0), "no distribution")
    broken(lambda other: at(other)["mixture"].__setitem__(0, 0.9), "does not sum to 1")
    broken(lambda other: other["runs"][0]["answers"]["uniform"].pop(), "for each K'")
    broken(lambda other: other["runs"][0]["weights"]["by_position"].pop(), "one weight an example")
    broken(lambda other: other["runs"][0]["answers"]["accuracy"]["ret_1"].pop(), "after 0 to 8 examples")
    with pytest.raises(ArtifactError, match="make study"):
        read_study(folder / "none.json")


def test_values_of_other_types_are_refused() -> None:
    good = {"value": 1, "low": None, "high": 2.0}
    assert built(Interval, good, "x") == Interval(1.0, None, 2.0)
    for bad in ({**good, "value": "1"}, {**good, "value": True}, {"value": 1.0}, [1]):
        with pytest.raises(ValueError, match="expected"):
            built(Interval, bad, "x")
    with pytest.raises(ValueError, match=r"x\[1\] is"):
        built(tuple[int, ...], [1, "2"], "x")
    assert built(dict[str, float], {"a": 1}, "x") == {"a": 1.0}


def test_a_folder_that_does_not_exist_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "none" / "record.json")])
    assert result.exit_code == 2
    assert "does not exist" in result.output


def test_plans_have_names_of_their_own_and_fit_their_tasks() -> None:
    every = plans()
    assert len({plan.name for plan in every}) == len({plan.folder for plan in every}) == len(every)
    for plan in every:
        assert plan.settings.examples == plan.setup.examples
        assert plan.settings.layout(plan.task_set).inputs == plan.setup.inputs
        assert asdict(plan.setup)["tasks"] == len(plan.task_set.tasks)


def test_a_learner_without_examples_has_no_preference() -> None:
    nothing = np.zeros((4, 0, 3), dtype=bool)
    for name in (EXACT, ONE_TASK, MIXING):
        assert (Learner(name, 0.1).posterior(nothing, 5) == 1 / 3).all()


def test_shares_are_among_the_tasks_of_the_mixture() -> None:
    found = shares(reply(np.array([[0.1, 0.3, 0.6]])), 2)
    assert found.tolist() == [pytest.approx([0.25, 0.75])]
    assert dataclasses.is_dataclass(Reply)


def test_the_page_shows_the_figures_of_the_record() -> None:
    page = (ROOT / "docs" / "training-study.md").read_text(encoding="utf-8")
    record = read_study(ROOT / "records" / "training-study.json")
    assert filled(page, tables(record)) == page, "python -m empirical.study_tables puts them there"
    made = {plan.name: plan for plan in plans()}
    assert [run.name for run in record.runs] == list(made)
    for run in record.runs:
        assert run.setup == made[run.name].setup
        assert run.settings == made[run.name].settings.to_json(), "with the settings that stand in the code"
    assert (record.prompts, record.kept) == (the_study.PROMPTS, the_study.KEPT)


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    assert (
        filled("a\n<!-- one -->\nold\n<!-- end -->\nb", {"one": "new"}) == "a\n<!-- one -->\n\nnew\n\n<!-- end -->\nb"
    )
    with pytest.raises(ArtifactError, match="0 places for the table 'two'"):
        filled("<!-- one -->\n<!-- end -->", {"two": "new"})


def test_the_evaluations_asked_all_models_the_same() -> None:
    for kind in ("evaluate", "curve"):
        found = [
            load_results(ROOT / "records" / f"{kind}-{name}.jsonl") for name in ("construction", "export", "trained")
        ]
        assert len({one.header["prompts_sha256"] for one in found}) == 1
        assert [one.model for one in found] == ["construction", "export", "trained"]
        built, exported, trained = (superposition_index(one.sample(len(one.cells) // 2)).value for one in found)
        assert built == pytest.approx(exported, abs=1e-3)
        assert trained < 0.5 < 0.98 < built
