"""`construct show`: the circuit as a table, and as JSON."""

import json
import re
from pathlib import Path

from construct.artifact import load, save
from construct.ground_truth import ground_truth
from construct.suites import build_suite
from construct.theorems import two_layer
from tests.construct.conftest import Command


def test_the_table_lists_every_part_of_every_layer(construct: Command, country: Path) -> None:
    ran = construct("show", country)
    assert (ran.status, ran.err) == (0, "")
    built = load(country)
    assert f"K=3, V={built.layout.alphabet_size}, n=1, m=7" in ran.out
    for section in ("residual stream, d_model =", "layer 1, attention: 1 head(s)", "layer 2, mlp: "):
        assert section in ran.out
    for name in built.stream:
        assert re.search(rf"^  {re.escape(name)} ", ran.out, re.MULTILINE), name
    for circuit in built.circuits:
        found = rf"^  {re.escape(circuit.name)} +{circuit.units} .* {circuit.margin:g} +{re.escape(circuit.says)}$"
        line = re.search(found, ran.out, re.MULTILINE)
        assert line is not None, circuit.name
        assert all(space in line[0] for space in circuit.reads + circuit.writes)


def test_many_circuits_are_counted_unless_all_are_asked_for(construct: Command, tmp_path: Path) -> None:
    save(two_layer(build_suite("lookup", tasks=15, alphabet_size=3, inputs=13), examples=2), tmp_path / "made")
    short, long = construct("show", tmp_path / "made").out, construct("show", tmp_path / "made", "--all").out
    assert "  and 1 more: --all lists them\n" in short  # 13 heads
    assert short.count("and 3 more: --all lists them") == 2  # 15 tasks in each MLP
    assert "more: --all" not in long
    assert "evidence[lookup_15]" in long
    assert "evidence[lookup_15]" not in short


def test_json_holds_sizes_subspaces_and_circuits(construct: Command, country: Path) -> None:
    ran = construct("show", country, "--json")
    data = json.loads(ran.out)
    built = load(country)
    assert data["theorem"] == "two-layer"
    assert data["heads"] == [1, 1]
    assert data["sharpness"] == built.sharpness
    assert data["error_bound"] == built.error_bound
    assert data["subspaces"]["token"] == [0, built.layout.alphabet_size]
    assert [circuit["name"] for circuit in data["circuits"]] == [circuit.name for circuit in built.circuits]
    assert sum(c["units"] for c in data["circuits"] if (c["layer"], c["kind"]) == (2, "mlp")) == data["mlp_width"][1]


def test_a_sharpness_without_a_bound_is_shown_as_such(construct: Command, tmp_path: Path) -> None:
    save(two_layer(build_suite("plus"), examples=2, sharpness=0.5), tmp_path / "made")
    assert "sharpness 0.5, no error bound\n" in construct("show", tmp_path / "made").out


def test_a_folder_that_is_no_construction_is_refused(construct: Command, tmp_path: Path) -> None:
    construct("show", tmp_path / "absent").refused("absent", "is no folder", "construct build")
    construct("show", tmp_path).refused("construction.json", "construct build")
    construct("show").refused("DIRECTORY")


def test_the_ground_truth_is_one_json_object_on_the_screen_or_in_a_file(
    construct: Command, country: Path, tmp_path: Path
) -> None:
    printed = json.loads(construct("show", country, "--ground-truth").out)
    assert printed == ground_truth(load(country))
    ran = construct("show", country, "--ground-truth", "--out", tmp_path / "key.json")
    assert (ran.status, ran.err) == (0, "")
    assert json.loads((tmp_path / "key.json").read_text(encoding="utf-8")) == printed


def test_a_ground_truth_that_cannot_be_given_is_refused(construct: Command, country: Path, tmp_path: Path) -> None:
    construct("show", country, "--out", tmp_path / "key.json").refused("--out goes with --ground-truth")
    construct("show", country, "--ground-truth", "--out", tmp_path / "absent" / "key.json").refused("cannot write")
    construct("build", "--theorem", "vectors", "--dim", 3, "--tasks", 2, "--out", tmp_path / "vectors", "--no-verify")
    construct("show", tmp_path / "vectors", "--ground-truth").refused("on vectors", "on tokens")
