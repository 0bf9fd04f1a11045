"""The files of an export: what loads them, what they predict where, and that nothing is half written or overwritten."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast, pipeline

from construct.artifact import describe
from construct.errors import ArtifactError
from construct.export import folder as folders
from construct.export.card import NOT_CERTIFIED, example_prompt
from construct.export.folder import new_folder, save_tensors, write_huggingface
from construct.export.gpt2 import stock_model
from construct.export.provenance import Certified, Source
from construct.export.readout import NEGLIGIBLE, readout
from construct.export.torch_file import write_torch
from construct.oracle import answer
from construct.prompts import Prompt, format_prompt, parse_prompt
from construct.sampling import PromptSampler
from construct.suites import build_suite
from construct.tasks import TaskSet
from construct.theorems import Construction, two_layer

M = 5
FLOAT32 = 1e-5
"""The total variation to the oracle that exports are held to in float32 (tests/construct/test_export_gpt2.py)."""

ROUNDED = 1 + 1e-12
"""What float64 may add to a sum of probabilities."""

BOUNDS = Certified({"real": 2.0**-26, "float32": 2.0**-18, "float16": None}, {"float32": 2.0**-17})


@dataclass(frozen=True)
class Exported:
    """A construction's folder, and what loads from it."""

    construction: Construction
    path: Path
    record: dict[str, Any]
    tokenizer: PreTrainedTokenizerFast
    model: GPT2LMHeadModel

    @property
    def task_set(self) -> TaskSet:
        return self.construction.task_set

    def load(self, dtype: torch.dtype, **options: Any) -> GPT2LMHeadModel:
        return AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype, **options).eval()

    def exact(self, prompt: Prompt) -> np.ndarray:
        """The oracle's distribution over the whole vocabulary at the prompt's last arrow; uniform without evidence."""
        size = len(self.task_set.alphabet)
        shares = np.zeros(size + 4)
        for token, share in answer(self.task_set, prompt).distribution.items():
            shares[token] = float(share)
        if not shares.any():
            shares[:size] = 1 / size
        return shares

    def prompt(self, examples: int, seed: int) -> Prompt:
        return PromptSampler(self.task_set).prompt(examples, np.random.default_rng(seed))


def _words() -> TaskSet:
    """The suite `country`, of which 7 rows are left."""
    whole = build_suite("country")
    kept = [next(iter(whole.tasks[0].rows))[0] + place for place in (59, 84, 112, 29, 174, 208, 41)]
    tokens = list(dict.fromkeys(kept + [task.rows[(token,)] for task in whole.tasks for token in kept]))
    ids = {token: place for place, token in enumerate(tokens)}
    tasks = tuple(
        replace(task, rows={(ids[token],): ids[task.rows[(token,)]] for token in kept}) for task in whole.tasks
    )
    return replace(whole, alphabet=tuple(whole.alphabet[token] for token in tokens), tasks=tasks)


FORMS = {"words": "scale-down", "strings": "large-eps"}


def _built(name: str) -> Construction:
    task_set = _words() if name == "words" else build_suite("retrieval", alphabet_size=11, inputs=4)
    return two_layer(task_set, examples=M)


@pytest.fixture(scope="module")
def all_exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    root, found = tmp_path_factory.mktemp("exports"), {}
    for name, form in FORMS.items():
        construction = _built(name)
        model = stock_model(construction, normalization=form)
        record = write_huggingface(model, Source(construction, "0" * 64, BOUNDS), root / name)
        tokenizer = AutoTokenizer.from_pretrained(root / name)
        loaded = AutoModelForCausalLM.from_pretrained(root / name).eval()
        found[name] = Exported(construction, root / name, record, tokenizer, loaded)
    return found


@pytest.fixture(params=FORMS)
def exported(request: pytest.FixtureRequest, all_exported: dict[str, Exported]) -> Exported:
    return all_exported[request.param]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


# A stock model's folder.


def test_it_loads_as_an_unmodified_class_and_holds_no_code(exported: Exported) -> None:
    assert type(exported.model) is GPT2LMHeadModel
    assert exported.model.dtype == torch.float32
    assert {entry.name for entry in exported.path.iterdir()} == {
        "README.md", "config.json", "export.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((exported.path / name).read_text())


def test_the_answer_to_a_text_is_the_oracles_at_every_arrow(exported: Exported) -> None:
    for seed in range(6):
        prompt = exported.prompt(seed % (M + 1), seed)
        inputs = exported.tokenizer(format_prompt(prompt, exported.task_set), return_tensors="pt")
        found = exported.model(**inputs).logits[0].double().softmax(-1).numpy()
        layout = exported.construction.layout
        for seen in range(len(prompt.examples) + 1):
            query = [*(example.inputs for example in prompt.examples), prompt.query][seen]
            expected = exported.exact(Prompt(prompt.examples[:seen], query))
            assert np.abs(found[layout.eq_position(seen)] - expected).sum() / 2 <= FLOAT32


def test_the_code_of_the_card_prints_what_stands_below_it(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (exported.path / "README.md").read_text(encoding="utf-8")
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(exported.path)
    with redirect_stdout(StringIO()) as out:
        exec(code, {})
    assert out.getvalue() == printed
    assert len(printed.splitlines()) > 1
    assert "{" not in re.sub(r"```.*?```", "", card, flags=re.DOTALL)


def test_the_card_and_the_record_hold_the_proofs_figures(exported: Exported) -> None:
    card = (exported.path / "README.md").read_text(encoding="utf-8")
    for row in ("| real | 1.50e-8 |", "| float32 | 3.82e-6 |", "| float16 | no claim |", "| float32 | 7.63e-6 |"):
        assert row in card  # rounded up
    assert "NOT certified" not in card
    assert exported.record["certified"] is True
    assert exported.record["error_bound"] == dict(BOUNDS.construction)
    assert exported.record["total_variation_bound"] == dict(BOUNDS.export)


def test_without_a_proof_the_card_says_so_in_bold(tmp_path: Path) -> None:
    construction = two_layer(build_suite("plus", tasks=2, alphabet_size=5), examples=2)
    record = write_huggingface(stock_model(construction), Source(construction, "0" * 64, None), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert NOT_CERTIFIED in card
    assert NOT_CERTIFIED.startswith("**This model is NOT certified.**")
    assert "is certified" not in card
    assert record["certified"] is False
    assert record["error_bound"] is None
    write_torch(readout(construction), Source(construction, "0" * 64, None), tmp_path / "torch")
    assert NOT_CERTIFIED in (tmp_path / "torch" / "README.md").read_text(encoding="utf-8")


def test_the_record_holds_the_files_hashes_and_the_whole_description(exported: Exported) -> None:
    record = json.loads((exported.path / "export.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(exported.record))
    files = [path for path in exported.path.iterdir() if path.name != "export.json"]
    assert record["sha256"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    expected = json.loads(json.dumps(describe(exported.construction)))
    assert {name: record["source"][name] for name in expected} == expected


# What is predicted where.


def _claimed(exported: Exported, where: str) -> float:
    """The figure of a claim: what all other tokens have together."""
    says = next(claim["what"] for claim in exported.record["predicts"] if claim["where"] == where)
    return float(re.findall(r"together have at most (\S+)$", says)[0])


def test_where_no_answer_is_due_the_prediction_is_what_the_record_says(exported: Exported) -> None:
    layout, size = exported.construction.layout, len(exported.task_set.alphabet)
    model = exported.load(torch.float64)
    prompt = exported.prompt(M, 1)
    found = model(torch.tensor([layout.ids(prompt)])).logits[0].softmax(-1).numpy()
    last = _claimed(exported, "after the last input")
    any_token = _claimed(exported, "after the beginning, after other inputs, after an answer")
    assert 2.0**-30 <= last < 2.0**-29
    for position, shares in enumerate(found):
        place = (position - 1) % (layout.inputs + 2) if position else -1
        if place == layout.inputs - 1:
            assert shares[np.arange(len(shares)) != layout.eq].sum() <= last * ROUNDED
        elif place != layout.inputs:
            assert shares[size:].sum() <= any_token * ROUNDED
            assert np.abs(shares[:size] * size - 1).max() <= any_token + 1e-12
        else:
            assert shares[size:].sum() <= _claimed(exported, "after an arrow")


@pytest.mark.parametrize("shown", [0, 1, 2])
def test_without_evidence_the_distribution_is_uniform_over_the_alphabet(exported: Exported, shown: int) -> None:
    size = len(exported.task_set.alphabet)
    # An example that no task explains: of the last token of the alphabet, its first.
    unexplained = exported.prompt(1, 0).examples[0]
    for token in range(size):
        wrong = replace(unexplained, answer=token)
        if all(task.answer(wrong.inputs) != token for task in exported.task_set.tasks):
            unexplained = wrong
            break
    prompt = Prompt((unexplained,) * shown, exported.prompt(1, 2).query)
    assert not any(answer(exported.task_set, prompt).evidence)
    ids = torch.tensor([exported.construction.layout.ids(prompt)])
    found = exported.load(torch.float64)(ids).logits[0, -1].softmax(-1)
    assert torch.allclose(
        found[:size] * size,
        torch.ones(size, dtype=torch.float64),
        rtol=0,
        atol=size * _claimed(exported, "after an arrow, without evidence"),
    )


def test_an_arrow_out_of_place_predicts_unk(exported: Exported) -> None:
    layout = exported.construction.layout
    ids = layout.ids(exported.prompt(2, 0))
    shifted = [*ids[:-1], 0, ids[-1]]  # one input too many
    found = exported.load(torch.float64)(torch.tensor([shifted])).logits[0].softmax(-1)
    assert 1 - found[-1, exported.tokenizer.unk_token_id] <= _claimed(exported, "after an arrow out of place")
    assert all(found[layout.eq_position(seen), exported.tokenizer.unk_token_id] < NEGLIGIBLE for seen in range(2))


# Generating.


def test_generate_answers_in_the_mixtures_proportions(exported: Exported) -> None:
    prompt = example_prompt(exported.task_set, M)
    expected = exported.exact(prompt)
    possible = np.flatnonzero(expected)
    assert len(possible) > 1
    inputs = exported.tokenizer(format_prompt(prompt, exported.task_set), return_tensors="pt")
    torch.manual_seed(0)
    drawn = exported.model.generate(**inputs, num_return_sequences=400)
    assert drawn.shape == (400, inputs["input_ids"].shape[1] + 1)
    counts = np.bincount(drawn[:, -1].numpy(), minlength=len(expected))[possible]
    assert counts.sum() == 400
    assert chisquare(counts, 400 * expected[possible]).pvalue > 0.001
    wrong = np.roll(expected[possible], 1)
    if not np.allclose(wrong, expected[possible]):
        assert chisquare(counts, 400 * wrong).pvalue < 1e-9, "the test would not notice other proportions"


def test_the_pipeline_answers_a_text(exported: Exported) -> None:
    texts = [format_prompt(exported.prompt(shown, 3), exported.task_set) for shown in (3, 1)]
    generator = pipeline("text-generation", model=exported.model, tokenizer=exported.tokenizer)
    torch.manual_seed(1)
    for text, (found,) in zip(texts, generator(texts, batch_size=2), strict=True):
        given = found["generated_text"]
        assert given.startswith(text)
        prompt = parse_prompt(text, exported.task_set)
        token = exported.task_set.ids[given.removeprefix(text).strip()]
        assert token in answer(exported.task_set, prompt).target


def test_a_batch_of_different_lengths_is_answered_as_each_prompt_alone(exported: Exported) -> None:
    prompts = [exported.prompt(shown, shown) for shown in (0, 3, M, 1)]
    inputs = exported.tokenizer(
        [format_prompt(prompt, exported.task_set) for prompt in prompts], return_tensors="pt", padding=True
    )
    assert inputs["attention_mask"].min() == 0
    made = exported.model.generate(**inputs, return_dict_in_generate=True, output_logits=True)
    for shares, prompt in zip(made.logits[0].double().softmax(-1).numpy(), prompts, strict=True):
        assert np.abs(shares - exported.exact(prompt)).sum() / 2 <= FLOAT32


def test_padding_without_positions_is_not_taken_for_an_answer_and_with_them_it_is_right(exported: Exported) -> None:
    prompt = exported.prompt(3, 5)
    inputs = exported.tokenizer([format_prompt(prompt, exported.task_set)], return_tensors="pt")
    pad, width = exported.tokenizer.pad_token_id, exported.construction.layout.inputs + 2
    for count in range(1, width):
        ids = torch.cat([torch.full((1, count), pad), inputs["input_ids"]], dim=1)
        mask = (ids != pad).long()
        bare = exported.model(input_ids=ids, attention_mask=mask).logits[0, -1].softmax(-1)
        assert bare[exported.tokenizer.unk_token_id] > 1 - 1e-6
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        right = exported.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[0, -1]
        assert np.abs(right.double().softmax(-1).numpy() - exported.exact(prompt)).sum() / 2 <= FLOAT32


def test_generating_goes_on_from_any_place_in_a_prompt(exported: Exported) -> None:
    text = format_prompt(exported.prompt(2, 7), exported.task_set)
    without_arrow = text.removesuffix(exported.task_set.format.arrow)
    inputs = exported.tokenizer(without_arrow, return_tensors="pt")
    made = exported.model.generate(**inputs)
    assert exported.tokenizer.decode(made[0], skip_special_tokens=True) == text


def test_cached_keys_and_values_give_what_no_cache_gives(exported: Exported) -> None:
    model = exported.load(torch.float64)
    ids = torch.tensor([exported.construction.layout.ids(exported.prompt(M, 4))])
    whole = model(ids).logits[0]
    cut, cache, steps = ids.shape[1] // 2, None, []
    for part in (ids[:, :cut], *ids[:, cut:].split(1, dim=1)):
        made = model(part, past_key_values=cache, use_cache=True)
        cache = made.past_key_values
        steps.append(made.logits[0])
    assert (torch.cat(steps) - whole).abs().max() <= 1e-12


def test_every_implementation_of_attention_gives_the_same(exported: Exported) -> None:
    ids = torch.tensor([exported.construction.layout.ids(exported.prompt(M, 6))])
    found = [exported.load(torch.float64, attn_implementation=name)(ids).logits for name in ("sdpa", "eager")]
    assert (found[0] - found[1]).abs().max() <= 1e-12


# Writing.


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "dangling link"])
def test_nothing_is_ever_overwritten(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "mine").write_text("mine")
    with pytest.raises(ArtifactError, match="exists, and an export overwrites nothing"), new_folder(out) as content:
        (content / "file").write_text("theirs")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert kind != "file" or out.read_text() == "mine"
    assert kind != "folder" or [entry.name for entry in out.iterdir()] == ["mine"]


def test_a_folder_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    making = new_folder(tmp_path / "out")
    content = making.__enter__()
    (content / "file").write_text("theirs")
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="exists"):
        making.__exit__(None, None, None)
    assert list((tmp_path / "out").iterdir()) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    construction = two_layer(build_suite("plus", tasks=2, alphabet_size=5), examples=2)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "model_card", full)  # the last file
    with pytest.raises(ArtifactError, match="No space left on device"):
        write_huggingface(stock_model(construction), Source(construction, "", None), tmp_path / "made" / "out")
    assert list((tmp_path / "made").iterdir()) == []


def test_arrays_in_any_order_are_written_as_they_read(tmp_path: Path) -> None:
    matrix = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    save_tensors({"matrix": matrix}, tmp_path / "file")
    assert (load_file(tmp_path / "file")["matrix"] == matrix).all()
