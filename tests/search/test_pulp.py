"""ODiMO's two spaces on a chip whose cores can both run full convolutions: GAP9."""

from pathlib import Path

import pytest

from cosoc.cli import main
from cosoc.search.spaces.operators import with_choices
from cosoc.search.training.nets import mobilenet_v1_025
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.files.workload_file import load_workload
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part
from cosoc.sim.model.tiles import form
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.simulate import simulate

SOC = find_soc("gap9")


def test_full_convolutions_go_to_ne16_and_depthwise_ones_to_the_cluster() -> None:
    """Both run both, so the file says who takes alternatives. Only blocks that keep their channels and do not stride
    can choose, as on Darkside."""
    net = with_choices(mobilenet_v1_025(3, 10), (3, 32, 32), SOC, "conv-dw")
    assert set(net.pairs.values()) == {("ne16", "cluster")}
    assert [net.workload[name].k for name in net.pairs] == [32, 64, *[128] * 5, 256]
    layer = net.workload[next(iter(net.pairs))]
    assert form(layer, SOC.cores["ne16"]) is layer
    assert form(layer, SOC.cores["cluster"]) is layer.alternative


def test_a_layer_split_over_both_is_faster_than_on_either() -> None:
    """Of 48 channels NE16 takes 32 in a block, for 131 cycles, and 16 in another, for 101: 256 times on 48 x 48 pixels.
    The cluster takes those sixteen in 45,504 at the same time, which is less than both blocks one after the other."""
    layer = Layer("one", "conv", (INPUT,), 48, 16, 48, 48, 48, 48)
    workload = Workload("one", (16, 48, 48), (layer,), ("one",))
    ticks = {}
    for on_cluster in (0, 16, 48):
        parts = tuple(Part(core, k) for core, k in (("ne16", 48 - on_cluster), ("cluster", on_cluster)) if k)
        ticks[on_cluster] = simulate(SOC, workload, Mapping("m", "overlapped", {"one": LayerPlan(parts)})).ticks
    assert ticks[0] > 256 * (131 + 101) > ticks[16] > 45_504
    assert ticks[16] < ticks[48]


@pytest.mark.parametrize("space", ["channels", "operators"])
def test_the_smallest_search_reports_what_its_mapping_takes(tmp_path: Path, space: str) -> None:
    out = tmp_path / "run"
    run = ["search", "gap9", "digits_cnn", "--data", "digits", "--strengths", "1", "--epochs", "3", "--space", space]
    assert main([*run, "--out", str(out), "--quiet"]) == 0
    workload = load_workload(out / "workload.yaml")
    mapping = load_mapping(out / "mappings" / "strength_1.yaml", workload, SOC)
    assert simulate(SOC, workload, mapping).seconds > 0
    assert any(layer.alternative for layer in workload) == (space == "operators")
