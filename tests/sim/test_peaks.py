"""No unit computes faster than its published peak, on any layer of any network here, in any runtime."""

from __future__ import annotations

import pytest

from cosoc.sim.cores.crossbar import Crossbar, peak
from cosoc.sim.cores.roofline import Roofline
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import RUNTIMES, LayerPlan, Mapping, Part
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import unsupported

NETWORKS = ("resnet18_64", "mobilenet_v1_025", "autoencoder")

# Multiply-accumulates a cycle: where the figure is from.
PEAKS = {
    ("diana", "digital"): 16 * 16,  # published: 16 x 16 PEs
    ("diana", "analog"): 1152 * 512 / 4,  # published: 1152 x 512 cells; model: ODiMO, an operation every 4 cycles
    ("darkside", "depthwise_engine"): 16 * 9 / 4,  # ODiMO's law; the abstract says up to 30
    ("darkside", "cluster"): 8 * 4,  # published: 8 processors with SIMD of 32 bits, at 8 bit
    ("darkside", "tensor"): 32,  # published: 18.2 GFLOPS at 290 MHz, of 32 multiply-adds
    ("gap8", "cluster"): 8 * 4,  # published: as Darkside's
    ("gap9", "ne16"): 1296 / 8,  # published: 1,296 units of a bit of a weight each
    ("gap9", "cluster"): 8 * 4,  # published: as Darkside's
    ("gemmini", "gemmini"): 16 * 16,
    ("gemmini_large", "gemmini"): 32 * 32,
    ("agx_xavier_dla", "gpu"): 5500,  # published: 11 TFLOP/s fp16 at a cycle of a nanosecond
    # Published: 2.5 TFLOP/s fp16; of 3 x 3 filters Winograd's algorithm on 2 x 2 outputs does 16 of 36 products.
    ("agx_xavier_dla", "dla0"): 1250 * 36 / 16,
    ("agx_orin_dla", "gpu"): 21250,  # derived: 170 TOPS sparse int8, a quarter of it dense fp16
    ("agx_orin_dla", "dla0"): 13125 / 2 * 36 / 16,  # derived: 26.25 TOPS dense int8, half of it fp16; as above
    ("hetero", "digital"): 16 * 16,
    ("hetero", "gemmini"): 16 * 16,
}


def runs(soc: SoC, workload: Workload, core: str) -> list[Result]:
    """All that a core can run of a network on that core, under both runtimes."""
    able = {n.name: LayerPlan((Part(core, n.k),)) for n in workload if not unsupported(n, soc, core)}
    out = []
    for runtime in RUNTIMES:
        try:
            out.append(simulate(soc, workload, Mapping("m", runtime, able)))
        except InputError:  # a layer that fits no memory of it
            continue
    return out


@pytest.mark.parametrize(("name", "core"), PEAKS)
def test_no_layer_is_faster_than_the_peak(name: str, core: str) -> None:
    soc, best = find_soc(name), 0.0
    for network in NETWORKS:
        for result in runs(soc, find_workload(network), core):
            for layer in result.by_layer:
                part = layer.cores.get(core)
                if part is not None and part.macs:
                    best = max(best, part.macs * result.ticks_per_cycle / part.busy_ticks)
    assert 0.01 * PEAKS[name, core] < best <= PEAKS[name, core]


@pytest.mark.parametrize(("name", "tops"), [("isaac", 41.3), ("puma", 52.3)])
def test_no_network_exceeds_a_crossbar_chips_published_peak(name: str, tops: float) -> None:
    """TOPS as published (docs/cim.md), and as the model's own `peak` has them."""
    soc = find_soc(name)
    core = soc.cores["cim"]
    assert isinstance(core, Crossbar)
    assert peak(core, soc.tick_hz, soc.base_power_mw).ops_per_s == pytest.approx(tops * 1e12, rel=0.02)
    for network in NETWORKS:
        workload = find_workload(network)
        result = simulate(soc, workload, find_mapping("default", workload, soc))
        assert 2 * sum(layer.macs for layer in workload) / result.seconds < tops * 1e12


@pytest.mark.parametrize("name", ["rpi4", "rpi5", "v100", "agx_orin", "jetson_nano"])
def test_a_board_is_no_faster_than_its_arithmetic(name: str) -> None:
    """The runtime's peak; of 3 x 3 convolutions Winograd's algorithm leaves out at most as many products as its tile
    saves: m^2 9 of (m + 2)^2."""
    soc = find_soc(name)
    (core,) = (core for core in soc.cores.values() if isinstance(core, Roofline))
    used = core.runtimes[core.runtime]
    for network in ("resnet18", "mobilenet_v2"):
        workload = find_workload(network)
        result = simulate(soc, workload, find_mapping("default", workload, soc))
        for layer in result.by_layer:
            own, m = workload[layer.layer], used.winograd_tile
            saved = m * m * 9 / (m + 2) ** 2 if (own.fy, own.fx) == (3, 3) and m > 1 and not own.depthwise else 1.0
            for part in layer.cores.values():
                assert part.macs <= saved * used.peak_macs_per_cycle * max(part.busy_ticks, 1)
