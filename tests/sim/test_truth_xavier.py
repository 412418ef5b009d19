"""Rows of GPU and DLA, alone and at once: told apart by their columns, and refused by row and column."""

from __future__ import annotations

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.truth.xavier_gpu_dla import ENGINES, GROUPS, SET, group_seconds, layer_seconds, network


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_groups_are_all_of_a_network(name: str) -> None:
    """Each layer is in one group: a network's groups take as long as it does."""
    for layer in network(name):
        assert sum(layer.name.startswith(begins) for begins in GROUPS[name].values()) == 1
    for engine in ENGINES:
        sums = sum(group_seconds(name, layers, engine) for layers in GROUPS[name])
        assert sums == pytest.approx(group_seconds(name, "all", engine))


def test_caffes_networks_have_more_work_than_torchvisions() -> None:
    """GoogLeNet's nine branches of 5x5 in place of 3x3 filters: 25 products where 9 were; two normalisations each."""
    caffe, ours = network("googlenet"), find_workload("googlenet")
    small = sum(layer.macs for layer in ours if ".branch3.1" in layer.name)
    assert caffe.macs - ours.macs == small * 25 // 9 - small
    for name in GROUPS:
        assert len(network(name).layers) == len(find_workload(name).layers) + 2


def test_a_shorter_resnet_is_resnet_101() -> None:
    """Published: 7.80 G multiply-accumulates and 44.5 M parameters, 33 blocks of three convolutions."""
    workload = network("resnet101")
    assert workload.macs == pytest.approx(7.80e9, rel=0.01)
    assert workload.params == pytest.approx(44.5e6, rel=0.01)
    assert sum(layer.op == "conv" for layer in workload) == 1 + 33 * 3 + 4 + 1


def test_rows_of_each_kind() -> None:
    """A group is one row an engine; a mark one; two networks at once are two alone and two at once."""
    group = {"network": "googlenet", "layers": "0-9", "gpu_ms": "1", "dla_ms": "2"}
    mark = {"engine": "dla", "extra_output_after_layer": "10", "mean_ms": "3"}
    plain = mark | {"extra_output_after_layer": "-1"}
    pair = {"a": "alexnet", "on_a": "gpu", "a_alone_ms": "1", "a_together_ms": "2",
            "b": "alexnet", "on_b": "dla", "b_alone_ms": "3", "b_together_ms": "4"}  # fmt: skip
    found = list(SET.compare([group, mark, plain, pair]))
    assert [row.measured for row in found] == pytest.approx([0.001, 0.002, 0.003, 0.003, 0.001, 0.002, 0.003, 0.004])
    assert found[2].ours > found[3].ours  # the hand-over
    assert found[4].ours == pytest.approx(sum(layer_seconds("alexnet", "gpu").values()))
    assert found[5].ours > found[4].ours
    assert found[7].ours > found[6].ours


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"network": "googlenet", "layers": "0-8", "gpu_ms": "1", "dla_ms": "2"}, "row 1, layers: found '0-8'"),
        ({"network": "nobody", "layers": "all", "gpu_ms": "1", "dla_ms": "2"}, "row 1, network: found 'nobody'"),
        ({"network": "resnet18", "layers": "all", "gpu_ms": "x", "dla_ms": "2"}, "row 1, gpu_ms: found 'x'"),
        ({"engine": "cpu", "extra_output_after_layer": "1", "mean_ms": "1"}, "row 1, engine: found 'cpu'"),
        ({"who": "knows"}, "row 1: columns who are none of"),
    ],
)
def test_what_is_not_known_is_refused(row: dict[str, str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        list(SET.compare([row]))
