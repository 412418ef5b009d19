"""Does a result say which layers only the host can run, why, and how much of the time they take?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.report.hosted import by_reason, host_share, reason_lines
from cosoc.sim.report.render import summary
from cosoc.sim.report.result import to_json
from cosoc.sim.report.run_page import run_data
from cosoc.sim.report.why_host import why_host
from cosoc.sim.simulate import simulate

CONV = Layer("conv", "conv", (INPUT,), 32, 32, oy=12, ox=12, iy=12, ix=12, fy=3, fx=3, pad_y=1, pad_x=1)


def on(core: str, layer: Layer) -> LayerPlan:
    return LayerPlan((Part(core, layer.k),))


@pytest.mark.parametrize(
    ("chip", "layer", "why"),
    [
        ("gemmini", Layer("s", "softmax", (INPUT,), 32, 32), "no other core runs softmax"),
        ("gemmini", Layer("g", "eltwise", (INPUT,), 32, 32, fn="aten.gelu"), "no other core runs aten.gelu"),
        ("gemmini", replace(CONV, stride_y=2, oy=6), "gemmini has one stride, not 2 x 1"),
        ("hetero", replace(CONV, stride_y=2, oy=6), ""),  # its digital array has no such limit
        ("diana", replace(CONV, pad_y=2, pad_x=2, dilation_y=2, dilation_x=2),
         "digital, analog runs no dilated convolution (dilation 2)"),
        ("gap9", replace(CONV, fn="x"), ""),  # others could; the mapping does not let them
        ("rpi4", CONV, ""),  # there is no other core
    ],
)  # fmt: skip
def test_reasons_are_those_of_cores_that_run_the_operator(chip: str, layer: Layer, why: str) -> None:
    soc = find_soc(chip)
    assert why_host(layer, on(soc.host, layer), soc) == why
    others = (name for name in soc.cores if name != soc.host)
    assert all(why_host(layer, on(name, layer), soc) == "" for name in others)


def test_shares_are_those_of_the_layers() -> None:
    """BERT on Gemmini: softmax, norms and GELU, whose parts of the critical path are the host's whole share."""
    soc, net = find_soc("gemmini"), find_workload("bert_base_block")
    mapping = named_mapping("default", net, soc)
    result = simulate(soc, net, mapping)
    found = by_reason(result)
    ops = {layer.name: layer.op for layer in net}
    assert {frozenset(ops[name] for name in names) for _, names in found.values()} == {
        frozenset({"eltwise"}), frozenset({"softmax"}), frozenset({"norm"}),
    }  # fmt: skip
    spent = {part.layer: part.ticks_critical for part in result.by_layer if set(part.cores) == {"host"}}
    assert sum(ticks for ticks, _ in found.values()) == sum(spent.values()) > 0
    share = sum(spent.values()) / result.ticks
    assert f"On the host for {share:.0%} of the time, {max(spent.values()) / result.ticks:.0%} as no" in summary(result)
    assert [part["why_host"] for part in to_json(result)["by_layer"] if part["layer"] in spent] == [
        part.why_host for part in result.by_layer if part.why_host
    ]
    page = run_data(result, soc, net, mapping)
    assert [row[0] for row in page["hosted"]] == list(found)
    assert sum(row[2] for row in page["hosted"]) == pytest.approx(share)
    assert len(reason_lines(result)) == 3 and reason_lines(result)[0].endswith(next(iter(found)))


def test_where_nothing_must_be_on_the_host_nothing_is_said() -> None:
    soc = find_soc("diana")
    workload = Workload("one", (32, 12, 12), (CONV,), ("conv",))
    for core in ("digital", soc.host):
        result = simulate(soc, workload, Mapping("m", "serial", {"conv": on(core, CONV)}))
        assert host_share(result) == "" and not reason_lines(result)
        assert "host" not in summary(result).partition("The bottleneck")[0]
