"""Mapping files: in and out, and mistakes named with their place."""

from pathlib import Path

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import dump_mapping, find_mapping, load_mapping
from cosoc.sim.files.names import list_mappings
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import RUNTIMES, LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.tiler import complete


@pytest.fixture(scope="module")
def diana() -> SoC:
    """With the unrolls of DORY's template."""
    return find_soc("diana", {"cores.analog.ox_unrolls": "[1, 2, 4]"})


@pytest.fixture(scope="module")
def resnet8() -> Workload:
    return find_workload("resnet8")


def test_what_is_written_is_read_back(tmp_path: Path, diana: SoC, resnet8: Workload) -> None:
    wide = next(layer for layer in resnet8 if layer.k == 64 and layer.op == "conv")
    layers = {wide.name: LayerPlan((Part("digital", 24), Part("analog", 40)), unroll=2)}
    for runtime in RUNTIMES:
        mapping = complete(Mapping("mine", runtime, layers), resnet8, diana)
        file = tmp_path / "m.yaml"
        file.write_text(dump_mapping(mapping))
        assert load_mapping(file, resnet8, diana) == mapping
    grouped = Mapping("g", "overlapped", {}, (Piece(("conv1",)),))
    file.write_text(dump_mapping(grouped))
    assert load_mapping(file, resnet8, diana) == grouped


@pytest.mark.parametrize(
    ("text", "mark", "message"),
    [
        ("runtim: serial", "runtim", "did you mean runtime?"),
        ("runtime: parallel", "parallel", "found 'parallel'"),
        ("layers:\n  conv9: {parts: {digital: 16}}", "{parts", "resnet8 has no such layer"),
        ("layers:\n  conv1: {parts: {digitl: 16}}", "16}", "no such core; it has host, digital"),
        ("layers:\n  conv1: {parts: {digital: 15}}", "{digital", "sum to 15 output channels; the layer has 16"),
        ("layers:\n  conv1: {parts: {digital: -16}}", "-16", "found -16"),
        ("layers:\n  conv1: {parts: {digital: 16}, tile: {k: {analog: 16}, oy: 1, ox: 1}}", "{analog", "names analog"),
        ("layers:\n  conv1: {parts: {digital: 16}, tile: {k: {digital: 16}, oy: 0, ox: 1}}", "0, ox", "found 0"),
        ("pieces: [[conv1, conv7]]", "[conv1", "no layer conv7"),
        ("layers:\n  conv1: {shares: {digital: 16}}", "shares", "it was replaced: write parts"),
        ("groups: [[conv1]]", "groups", "it was replaced: write pieces"),
        ("pieces: [{layers: [conv1], keep_rows: false}]", "false", "keep_rows: false means nothing here"),
        ("pieces: [{layers: [conv1], resident: []}]", "[]", "leave out resident"),
        ("layers:\n  conv1: {parts: {digital: 16}, unroll: 2}", "2}", "none of its cores does"),
        ("layers:\n  conv1: {parts: {digital: 16}, reuse: false}", "false", "reuse: false means nothing behind a DMA"),
        ("layers:\n  conv1: {parts: {digital: 16}, order: [k, oy, ox, c, fy, fx]}", "[k", "goes with tile"),
        ("layers:\n  conv1: {parts: {digital: 16}, tile: {fy: 1}}", "1}", "takes whole filters, 3 x 3, not 1 x 3"),
        (
            "layers:\n  conv1: {parts: {digital: 16}, tile: {oy: 8, c: 1}, order: [c, k, oy, ox, fy, fx]}",
            "[c",
            "put c innermost",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, diana: SoC, resnet8: Workload, text: str, mark: str, message: str
) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_mapping(file, resnet8, diana)
    before = text[: text.index(mark)]
    place = f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "
    assert str(error.value).startswith(place)
    assert message in str(error.value)


def test_what_the_machine_cannot_run_is_refused_at_reading(tmp_path: Path, diana: SoC) -> None:
    mobilenet = find_workload("mobilenet_v1_025")
    name = next(layer.name for layer in mobilenet if layer.depthwise)
    k = mobilenet[name].k
    file = tmp_path / "m.yaml"
    file.write_text(f"layers:\n  {name}: {{parts: {{analog: {k}}}}}\n")
    with pytest.raises(InputError, match=f"layer {name}: analog runs no grouped or depthwise convolution"):
        load_mapping(file, mobilenet, diana)


def test_names_are_listed_and_unknown_ones_refused(diana: SoC, resnet8: Workload) -> None:
    assert {"all_8bit", "min_cost", "silicon"} <= set(list_mappings("diana"))
    with pytest.raises(InputError, match="no mapping named 'al_8bit'; there is default, all_8bit"):
        find_mapping("al_8bit", resnet8, diana)
