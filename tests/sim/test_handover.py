"""Mappings of other tools, in and out: what comes back is what left, and what cannot be kept is refused at its line."""

from __future__ import annotations

import itertools
import re
from math import prod
from pathlib import Path

import pytest
import yaml

from cosoc.cli import main
from cosoc.inputs import mapping_of, network_of, soc_of
from cosoc.sim.importers.timeloop_file import from_files, to_files
from cosoc.sim.importers.zigzag_file import _after, to_zigzag
from cosoc.sim.model.mapping import DIMS, Extent, LayerPlan, Mapping, Part
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import complete

NETWORK = network_of("resnet8", None, 1)
# layer1.0.conv1 has k = c = 16, 32 x 32 outputs, 3 x 3 filters; fc has 64 inputs and 10 outputs.
DIANA = {
    "layer1.0.conv1": LayerPlan(
        (Part("digital", 16, Extent(8, 16, 3, 3, 8, 32)),), ("n", "k", "oy", "ox", "c", "fy", "fx")
    ),
    "fc": LayerPlan((Part("digital", 10, Extent(5, 64, 1, 1, 1, 1)),), ("k", "n", "oy", "ox", "c", "fy", "fx")),
}
GEMMINI = {
    "layer1.0.conv1": LayerPlan(
        (Part("gemmini", 16, Extent(16, 8, 3, 3, 8, 16)),), ("n", "oy", "k", "ox", "c", "fy", "fx")
    ),
    "fc": LayerPlan((Part("gemmini", 10, Extent(5, 16, 1, 1, 1, 1)),), ("n", "c", "k", "oy", "ox", "fy", "fx")),
}


def written(folder: Path, texts: dict[str, str]) -> dict[str, Path]:
    out = {}
    for i, (name, text) in enumerate(texts.items()):
        out[name] = folder / f"{i}.map.yaml"
        out[name].write_text(text)
    return out


@pytest.mark.parametrize(("soc", "layers"), [("diana", DIANA), ("gemmini", GEMMINI)], ids=["diana", "gemmini"])
def test_what_goes_out_to_timeloop_comes_back(soc: str, layers: dict[str, LayerPlan], tmp_path: Path) -> None:
    """Tiles, cores, and the order of all loops; so the run is the same to the tick."""
    machine, mapping = soc_of(soc, None), Mapping("mine", "overlapped", layers)
    texts, _ = to_files(mapping, NETWORK, machine)
    mine = {name: text for name, text in texts.items() if name in layers}
    back, inside = from_files(written(tmp_path, mine), NETWORK, machine)
    assert set(back.layers) == set(layers) and inside
    for name, plan in layers.items():
        again = back.layers[name]
        assert [(p.core, p.channels, p.tile) for p in again.parts] == [(p.core, p.channels, p.tile) for p in plan.parts]
        assert again.loops == plan.loops and again.reuse
    assert simulate(machine, NETWORK, back).ticks == simulate(machine, NETWORK, mapping).ticks


def test_a_written_nest_multiplies_to_the_layer_s_macs() -> None:
    """All factors of all levels: each multiplication once, as Timeloop counts them."""
    texts, left = to_files(Mapping("mine", "overlapped", DIANA), NETWORK, soc_of("diana", None))
    assert set(texts) | set(left) == {layer.name for layer in NETWORK}
    for name, text in texts.items():
        file = yaml.safe_load(text)["mapping"]
        factors = [int(n) for one in file if one["type"] == "temporal" for n in re.findall(r"\d+", one["factors"])]
        assert prod(factors) == NETWORK[name].macs
        assert all(len(one["permutation"]) == len(DIMS) for one in file if one["type"] == "temporal")
    assert all("no nest of multiplications" in why for why in left.values())


# The fully connected layer on an array of 16: two steps of 5 outputs around four of 16 inputs. Once as version 3 has
# it, with three levels inside and spatial loops; once as lists, as later ones do, the levels in another order.
V3 = """\
mapping:
  - target: registers
    type: datatype
    keep:
      - Weights
    bypass:
      - Inputs
      - Outputs
  - target: registers
    type: temporal
    factors: C1 M1 R1 S1 N1 P1 Q1
    permutation: CMRSNPQ
  - target: array
    type: spatial
    factors: C16 M5 R1 S1 N1 P1 Q1
    permutation: CMRSNPQ
    split: 1
  - target: scratchpad
    type: temporal
    factors: C1 M1 R1 S1 N1 P1 Q1
    permutation: CMRSNPQ
  - target: DRAM
    type: temporal
    factors: C4 M2 R1 S1 N1 P1 Q1
    permutation: CMRSNPQ
"""
V4 = """\
mapping:
- {target: MainMemory, type: temporal, factors: [K=2, C=4], permutation: [C, K]}
- {target: MainMemory, type: dataspace, keep: [Weights, Inputs, Outputs], bypass: []}
- {target: scratchpad, type: temporal, factors: "C=16, K=5", permutation: K C}
- {target: scratchpad, type: dataspace, keep: [Inputs, Outputs], bypass: [Weights]}
"""


@pytest.mark.parametrize("text", [V3, V4], ids=["3", "4"])
def test_files_of_timeloop_are_read(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DRAM's loops go around tiles, K outside of C (permutations stand innermost first); the rest is the tile."""
    (tmp_path / "fc.yaml").write_text(text)
    assert main(["import-mapping", str(tmp_path / "fc.yaml"), "--layer", "fc", "--workload", "resnet8"]) == 0
    out = capsys.readouterr().out
    plan = yaml.safe_load(out)["layers"]["fc"]
    assert plan["tile"] == {"k": 5, "c": 16, "fy": 1, "fx": 1, "oy": 1, "ox": 1}
    order = [d for d in plan["order"] if d in "kc"]
    assert order == ["k", "c"]
    assert out.startswith("# Kept of ") and "scratchpad" in out.splitlines()[0]


def test_loops_in_space_inside_of_a_tile_are_its_own_whatever_the_level_is_called(tmp_path: Path) -> None:
    """All of 16 inputs in space, in a level whose name comes before and one whose name comes behind DRAM's."""
    machine = soc_of("diana", None)
    for name in ("Array", "array"):
        texts = {"fc": V3.replace("target: array", f"target: {name}")}
        mapping, inside = from_files(written(tmp_path, texts), NETWORK, machine)
        assert mapping.layers["fc"].tile == Extent(5, 16, 1, 1, 1, 1) and name in inside


def test_a_level_of_another_name_may_be_the_one_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fc.yaml"
    path.write_text(V3.replace("DRAM", "HBM"))
    words = ["import-mapping", str(path), "--layer", "fc", "--workload", "resnet8"]
    assert main(words) == 2
    assert "name the level outside of the tiles with --outside: registers, array, scratchpad, HBM" in (
        capsys.readouterr().err
    )
    assert main([*words, "--outside", "HBM"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("C4 M2", "C4 M3", 22, "factors of K multiply to 15, fc has 10"),
        ("C4 M2", "C4 M2,1", 24, "found '1'"),
        ("C4 M2", "C0 M2", 24, "'C0', which is a constraint; a mapping has whole factors from 1"),
        ("C4 M2", "C4 X2", 24, "found 'X2'; a whole factor of one of N, K, M, C"),
        ("C4 M2", "C4 C1 M2", 24, "names C twice"),
        ("C16 M5", "C16 K5", 2, "has both K and M"),
        ("split: 1", "splits: 1", 17, "split"),
        ("type: spatial", "type: spacial", 14, "should be 'temporal', 'spatial'"),
        ("type: spatial", "type: temporal", 17, "goes with spatial loops"),
        ("target: scratchpad", "target: registers", 18, "a second temporal directive of registers"),
        ("      - Weights", "      - Weight", 5, "found 'Weight'; operands are Weights, Inputs, Outputs"),
        ("      - Inputs", "      - Weights", 7, "Weights is kept, and bypasses it"),
        ("keep:", "factors: C1\n    keep:", 4, "goes with loops, not with datatype"),
        ("target: array", "target: DRAM", 15, "loops in space around tiles"),
        ("    permutation: CMRSNPQ\n  - target: array", "  - target: array", 0, ""),  # one iteration each: no order
        ("N1 P1 Q1\n    permutation: CMRSNPQ\n", "", 22, "says not where the loop of K, C stands"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_its_line(
    old: str, new: str, line: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fc.yaml"
    at = V3.rindex(old)
    path.write_text(V3[:at] + new + V3[at + len(old) :])
    status = main(["import-mapping", str(path), "--layer", "fc", "--workload", "resnet8"])
    error = capsys.readouterr().err
    if not line:
        assert status == 0
        return
    assert status == 2 and error.count("\n") == 1
    assert error.startswith(f"{path}:") and message in error, error
    found = int(error.removeprefix(f"{path}:").split(":")[0])
    assert found == line, error


def test_a_tile_that_does_not_fit_is_refused_at_the_loops_around_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole layer as one tile: 16 kB of inputs and 16 kB of outputs, where 8 kB are left to mappings."""
    path = tmp_path / "conv.yaml"
    path.write_text(
        "mapping:\n- {target: L1, type: temporal, factors: K16 C16 R3 S3 P32 Q32, permutation: KCRSPQ}\n"
        "- {target: DRAM, type: temporal}\n"
    )
    words = ["import-mapping", str(path), "--layer", "layer1.0.conv1", "--workload", "resnet8", "--soc", "diana"]
    assert main(words) == 0
    capsys.readouterr()
    assert main([*words, "--set", "memories.l1.size_bytes=16384"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{path}:3:3: mapping.1: ") and "bytes of l1" in error, error
    assert main([*words, "--core", "nobody"]) == 2
    assert "--core nobody: diana has no such core; it has" in capsys.readouterr().err


def test_layers_that_have_no_nest_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tiles that do not divide, operands that never stay, several cores: none is bent into a file."""
    halves = LayerPlan((Part("digital", 8), Part("analog", 8)))
    uneven = LayerPlan((Part("digital", 16, Extent(5, 16, 3, 3, 32, 32)),), ("n", "k", "oy", "ox", "c", "fy", "fx"))
    mapping = Mapping("m", "overlapped", {"layer1.0.conv1": halves, "layer1.0.conv2": uneven})
    _, left = to_files(mapping, NETWORK, soc_of("diana", None))
    assert left["layer1.0.conv1"] == "it is on several cores: digital, analog"
    assert left["layer1.0.conv2"] == "tiles of 5 along k do not divide its 16"
    gemmini = soc_of("gemmini", None)
    default = complete(mapping_of("default", NETWORK, gemmini, None, None), NETWORK, gemmini)
    _, left = to_files(default, NETWORK, gemmini)
    assert left["conv1"] == "every tile loads its own operands (reuse: false)"
    words = ["export-mapping", "gemmini", "resnet8", "--to", "timeloop"]
    assert main([*words, "--layer", "conv1"]) == 2
    assert main([*words, "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
    assert capsys.readouterr().err.count("reuse: false") >= 2


@pytest.mark.parametrize("runtime", ["serial", "overlapped"])
def test_a_folder_goes_out_and_comes_back(runtime: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file, out = tmp_path / "nests", tmp_path / "m.yaml", tmp_path / "r.json"
    words = ["diana", "resnet8", "--mapping", "all_8bit", "--runtime", runtime]
    assert main(["export-mapping", *words, "--to", "timeloop", "--out", str(folder)]) == 0
    assert "left out: layer1.0.add: add is no nest" in capsys.readouterr().err
    back = ["import-mapping", str(folder), "--workload", "resnet8", "--soc", "diana", "--runtime", runtime]
    assert main([*back, "--out", str(file)]) == 0
    assert "# Kept of l1" in file.read_text() and f"runtime: {runtime}" in file.read_text()
    ticks = []
    for mapping in (words, ["diana", "resnet8", "--mapping", str(file)]):
        assert main(["simulate", *mapping, "--json", str(out), "-q"]) == 0
        ticks.append(yaml.safe_load(out.read_text())["ticks"])
    assert ticks[0] == ticks[1]


# -- ZigZag ------------------------------------------------------------------------------------------------------------


def test_padding_behind_an_input_is_what_windows_reach_beyond_it() -> None:
    """By hand: 4 outputs at steps of 2 under 3 taps reach over 9 rows, one of them before 7, so one behind; with taps
    two apart over 11, three behind; 3 outputs over 7 rows, none."""
    assert [_after(*sizes) for sizes in ((4, 2, 3, 1, 1, 7), (4, 2, 3, 2, 1, 7), (3, 2, 3, 1, 1, 7))] == [1, 3, 0]


def test_zigzag_is_told_the_widths_that_a_mapping_states() -> None:
    """GAP9's engine takes weights of 2 to 8 bits: of 4 where the mapping says so, of what the core has else."""
    soc = soc_of("gap9", None)
    net = Workload("n", (32, 8, 8), (Layer("l", "conv", (INPUT,), 32, 32, 8, 8, 8, 8, 3, 3, pad_y=1, pad_x=1),), ("l",))
    for bits, told in ((4, 4), (None, soc.cores["ne16"].weight_bits)):
        plan = LayerPlan((Part("ne16", 32, bits=bits),))
        _, layers, _ = to_zigzag(Mapping("m", "overlapped", {"l": plan}), net, soc, [("k", 16)])
        (one,) = yaml.safe_load(layers)
        assert one["operand_precision"]["W"] == told


def test_zigzag_s_loops_are_all_of_a_layer_in_the_mapping_s_order() -> None:
    """What is unrolled times what is not is each dimension, and the loops around tiles stand last (outermost)."""
    placed, layers, left = to_zigzag(
        Mapping("mine", "overlapped", DIANA), NETWORK, soc_of("diana", None), [("k", 16), ("c", 16)]
    )
    entries = {one["name"]: one for one in yaml.safe_load(placed)}
    sizes = {one["name"]: dict(zip(one["loop_dims"], one["loop_sizes"], strict=True)) for one in yaml.safe_load(layers)}
    assert set(entries) == {"default", *sizes} and set(sizes) | set(left) == {layer.name for layer in NETWORK}
    for name, wanted in sizes.items():
        assert prod(wanted.values()) == NETWORK[name].macs
        found = dict.fromkeys(wanted, 1)
        axes = [one.split(", ") for axis in entries[name]["spatial_mapping"].values() for one in axis]
        for dim, n in itertools.chain(axes, entries[name]["temporal_ordering"]):
            found[dim] *= int(n)
        assert found == wanted
    assert entries["layer1.0.conv1"]["spatial_mapping"] == {"D1": ["K, 8"], "D2": ["C, 16"]}  # a tile has 8 of k
    assert entries["layer1.0.conv1"]["temporal_ordering"][-2:] == [["OY", 4], ["K", 2]]  # n k oy ...: k is outside


@pytest.mark.parametrize("unroll", [None, "K", "K=0", "K=4,K=4", "Z=2"])
def test_zigzag_s_array_must_be_told(unroll: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export-mapping", "diana", "resnet8", "--to", "zigzag", "--out", str(tmp_path / "z")]
    assert main([*words, *(["--unroll", unroll] if unroll else [])]) == 2
    assert "DIM=SIZE of each axis of ZigZag's array is needed" in capsys.readouterr().err
    assert not (tmp_path / "z").exists()
