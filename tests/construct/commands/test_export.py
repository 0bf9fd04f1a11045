"""`construct export`: what is exported and said, and what is refused before anything is written."""

import json
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from construct import memory
from construct.artifact import CERTIFICATE, load, save
from construct.errors import ArtifactError
from construct.export.card import NOT_CERTIFIED
from construct.export.onnx_file import check_graph
from construct.export.plain_model import Transformer
from construct.export.provenance import at_most
from construct.export.readout import readout
from construct.export.torch_file import plain_tensors
from construct.prompts import Layout
from construct.sparse import Sparse
from construct.suites import build_suite
from construct.superpose import superpose
from construct.superpose_tables import table_component
from construct.theorems import Construction, two_layer
from construct.transformer import LayerWeights, forward
from tests.construct.conftest import Command
from verify.certify import judge_folder

M = 4


@pytest.fixture(scope="module")
def plus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small construction; to be read only."""
    directory = tmp_path_factory.mktemp("built") / "plus"
    save(two_layer(build_suite("plus", tasks=2, alphabet_size=7), examples=M), directory)
    return directory


def _altered(construction: Construction) -> Construction:
    """The same with every answer of the second layer halved."""
    last = construction.weights.layers[-1]
    halved = replace(last.mlp, w_out=Sparse((last.mlp.w_out * np.float32(0.5)).tocsr()))
    layers = (*construction.weights.layers[:-1], LayerWeights(last.attention, halved))
    return replace(construction, weights=replace(construction.weights, layers=layers))


def test_an_export_is_certified_and_says_what_it_is(construct: Command, plus: Path, tmp_path: Path) -> None:
    out = tmp_path / "parents" / "out"
    ran = construct("export", plus, "--out", out)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"{out}: two-layer construction of 'plus' as huggingface, 6 layers of 1 head(s), ")
    assert ", scale-down\n" in ran.out
    proof = judge_folder(plus).proof
    assert proof.real is not None
    for name, bound in {"real": proof.real, **proof.rounded}.items():
        assert any(line.split() == [name, at_most(bound or 0)] for line in ran.out.splitlines()), name
    record = json.loads((out / "export.json").read_text())
    assert record["error_bound"] == {"real": proof.real, **proof.rounded}
    assert f"| real | {at_most(proof.real)} |" in (out / "README.md").read_text()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    with torch.inference_mode():
        found = model(**tokenizer("1->2\n2->4\n3->", return_tensors="pt")).logits[0, -1].softmax(-1)
    assert found[[4, 5]].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


def test_the_forms_of_normalization_differ_in_the_configuration(construct: Command, plus: Path, tmp_path: Path) -> None:
    epsilons = []
    for form in ("scale-down", "large-eps"):
        ran = construct("export", plus, "--normalization", form, "--out", tmp_path / form, "--json")
        assert ran.status == 0, ran
        report = json.loads(ran.out)
        assert (report["normalization"], report["directory"]) == (form, str(tmp_path / form))
        assert report["certified"] is True
        epsilons.append(json.loads((tmp_path / form / "config.json").read_text())["layer_norm_epsilon"])
    assert epsilons == [1e-5, 2.0**60]


def test_tasks_of_ones_own_are_exported_in_their_own_format(construct: Command, tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text(
        json.dumps(
            {
                "name": "own",
                "alphabet": ["New York", "New", "<b>", "|"],
                "inputs": 2,
                "format": {"separator": " + ", "arrow": " => "},
                "tasks": [
                    {"name": "first", "reads": [0], "rows": [["New York", "New"], ["<b>", "|"]]},
                    {"name": "both", "reads": [1, 0], "rows": [["New", "New York", "|"], ["|", "<b>", "<b>"]]},
                ],
            }
        )
    )
    ran = construct("build", "--task-file", tmp_path / "tasks.json", "--examples", 3, "--out", tmp_path / "own")
    assert ran.status == 0, ran
    ran = construct("export", tmp_path / "own", "--out", tmp_path / "out")
    assert ran.status == 0, ran
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    # The first example follows the task "first" alone, the second "both" alone.
    text = "<b> + New => |\nNew York + New => |\n<b> + | =>"
    with torch.inference_mode():
        found = model(**tokenizer(text, return_tensors="pt")).logits[0, -1].softmax(-1)
    assert {tokenizer.decode(token): round(found[token].item(), 5) for token in found.argsort()[-2:]} == {
        "|": 0.5, "<b>": 0.5,
    }  # fmt: skip
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`⟨unk⟩`" in card
    assert "<unk>" not in card


def test_plain_torch_is_exported_as_a_file(construct: Command, plus: Path, tmp_path: Path) -> None:
    ran = construct("export", plus, "--format", "torch", "--out", tmp_path / "out")
    assert ran.status == 0, ran
    assert "model.py needs torch and nothing else" in ran.out
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {
        "README.md", "export.json", "model.py", "model.safetensors", "vocabulary.json",
    }  # fmt: skip
    ran = construct("export", plus, "--format", "torch", "--normalization", "large-eps", "--out", tmp_path / "more")
    ran.refused("--normalization large-eps is for --format huggingface", "leave it out")


def _doubled(path: Path) -> bytes:
    """The graph of a file with every float32 tensor and output as float64; there is no cast in it."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(path)
    assert "Cast" not in {node.op_type for node in graph.graph.node}
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(float), tensor.name))
    for output in graph.graph.output:
        output.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    del graph.graph.value_info[:]
    return bytes(graph.SerializeToString())


def test_onnx_is_exported_as_a_graph_that_computes_the_same_for_any_batch_and_length(
    construct: Command, plus: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    ran = construct("export", plus, "--format", "onnx", "--out", tmp_path / "out")
    assert (ran.status, ran.err) == (0, "")
    files = {entry.name for entry in (tmp_path / "out").iterdir()}
    assert files == {"README.md", "export.json", "model.onnx", "vocabulary.json"}
    path = tmp_path / "out" / "model.onnx"
    session = onnxruntime.InferenceSession(path)
    assert [(put.name, put.shape) for put in session.get_inputs()] == [("ids", ["batch", "length"])]
    words = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    bos, eq = words["bos"], words["eq"]
    logits, mixture = session.run(None, {"ids": [[bos, 1, eq, 2, 2, eq, 4, 3, eq]]})
    assert logits.dtype == np.float32
    assert mixture[0, -1, [4, 5]].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)

    model, exact = readout(load(plus)), onnxruntime.InferenceSession(_doubled(path))
    generator, token = np.random.default_rng(0), model.stream["token"].coordinates
    for batch, length in ((1, 1), (3, 7), (2, model.construction.layout.positions)):
        ids = generator.integers(model.vocabulary_size, size=(batch, length))
        logits, mixture = exact.run(None, {"ids": ids})
        for row, order in enumerate(ids.tolist()):
            expected = forward(model.weights, order)
            assert np.abs(logits[row] - expected.output).max() <= 1e-12
            assert np.abs(mixture[row] - expected.after_mlp[-1][:, token]).max() <= 1e-12

    made = Transformer({name: torch.from_numpy(tensor) for name, tensor in plain_tensors(model).items()})
    check_graph(made, model, path)
    with torch.no_grad():
        made.layers[1].mlp["w_out"] *= 0.5  # the weights of the tasks' answers
    with pytest.raises(ArtifactError, match=r"the graph's answers differ by \S+ from the model's"):
        check_graph(made, model, path)


# Uncertified.


@pytest.mark.parametrize("kind", ["huggingface", "torch"])
def test_what_is_not_certified_is_exported_on_request_only_and_says_so(
    kind: str, construct: Command, plus: Path, tmp_path: Path
) -> None:
    save(_altered(load(plus)), tmp_path / "altered")
    arguments = ("export", tmp_path / "altered", "--format", kind, "--out", tmp_path / "out")
    construct(*arguments).refused("is not certified", "the claim", "--uncertified exports it all the same")
    assert not (tmp_path / "out").exists()
    ran = construct(*arguments, "--uncertified")
    assert (ran.status, ran.err) == (0, "")
    assert "NOT certified" in ran.out
    assert NOT_CERTIFIED in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "export.json").read_text())["certified"] is False


def test_a_certificate_that_lies_beside_the_weights_proves_nothing(
    construct: Command, plus: Path, tmp_path: Path
) -> None:
    save(_altered(load(plus)), tmp_path / "altered")
    (tmp_path / "altered" / CERTIFICATE).write_text(json.dumps(judge_folder(plus).to_json()))
    construct("export", tmp_path / "altered", "--out", tmp_path / "out").refused("is not certified")


def test_a_construction_that_claims_nothing_is_exported_on_request_only(construct: Command, tmp_path: Path) -> None:
    save(two_layer(build_suite("plus", tasks=2, alphabet_size=7), examples=M, sharpness=0.5), tmp_path / "made")
    construct("export", tmp_path / "made", "--out", tmp_path / "out").refused("no error bound", "--uncertified")
    ran = construct("export", tmp_path / "made", "--out", tmp_path / "out", "--uncertified")
    assert ran.status == 0, ran


def test_damaged_files_are_refused_even_on_request(construct: Command, plus: Path, tmp_path: Path) -> None:
    save(load(plus), tmp_path / "made")
    path = tmp_path / "made" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    ran = construct("export", tmp_path / "made", "--out", tmp_path / "out", "--uncertified")
    ran.refused("weights.safetensors was altered after it was built", "build the construction again")
    assert not (tmp_path / "out").exists()


# Refused.


def test_an_existing_folder_is_refused_before_anything_else(construct: Command, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    ran = construct("export", tmp_path / "absent", "--out", tmp_path / "out")
    ran.refused("out exists, and an export overwrites nothing: choose another --out")
    construct("export", tmp_path / "absent", "--out", tmp_path / "new").refused("absent is no folder")
    construct("export", tmp_path / "absent").refused("--out")
    construct("export", tmp_path, "--out", tmp_path / "new").refused("construction.json", "construct build")


def test_a_place_that_cannot_be_written_is_refused(construct: Command, plus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    construct("export", plus, "--out", tmp_path / "file" / "out").refused("cannot write", "choose another --out")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unknown_format_is_refused(construct: Command, plus: Path, tmp_path: Path) -> None:
    construct("export", plus, "--format", "gguf", "--out", tmp_path / "out").refused("gguf", "huggingface")
    construct("export", plus, "--normalization", "none", "--out", tmp_path / "out").refused("none", "scale-down")


def test_a_construction_on_vectors_is_refused_with_the_reason(construct: Command, tmp_path: Path) -> None:
    made = construct(
        "build", "--theorem", "vectors", "--tasks", 2, "--dim", 3, "--examples", 2, "--no-verify",
        "--out", tmp_path / "made",
    )  # fmt: skip
    assert made.status == 0, made
    ran = construct("export", tmp_path / "made", "--out", tmp_path / "out")
    ran.refused("a construction on vectors: an export predicts tokens, and it has none", "construct build --theorem")


def test_a_composition_is_refused_with_the_reason(construct: Command, tmp_path: Path) -> None:
    layout = Layout(5, 1, 3)
    components = [table_component(task, layout) for task in build_suite("plus", tasks=2, alphabet_size=5).tasks]
    save(superpose(components, layout).construction(alphabet="abcde"), tmp_path / "made")
    ran = construct("export", tmp_path / "made", "--out", tmp_path / "out", "--uncertified")
    ran.refused("holds a composition", "construct predict")


@pytest.mark.parametrize(
    ("kind", "words"), [("huggingface", "a stock model of "), ("torch", "a plain model of "), ("onnx", "a plain")]
)
def test_what_memory_cannot_hold_is_refused_with_the_figure(
    kind: str, words: str, construct: Command, plus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = namedtuple("free", "available")
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free(10_000))
    ran = construct("export", plus, "--format", kind, "--out", tmp_path / "out")
    ran.refused(words, "parameters", "GiB are free")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [("huggingface", "transformers", "pretrained"), ("huggingface", "tokenizers", "pretrained"),
     ("onnx", "onnxruntime", "onnx"), ("onnx", "onnxscript", "onnx")],
)  # fmt: skip
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    kind: str, package: str, extra: str, construct: Command, plus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    ran = construct("export", plus, "--format", kind, "--out", tmp_path / "out")
    ran.refused(f"needs the package {package}", f"pip install 'task-superposition[{extra}]'")
    assert not (tmp_path / "out").exists()


def test_plain_torch_needs_neither_transformers_nor_onnx(
    construct: Command, plus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("transformers", "tokenizers", "onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    assert construct("export", plus, "--format", "torch", "--out", tmp_path / "out").status == 0
