"""The whole arrow: does the machine do the work that there is, no more, and no faster than its parts allow?"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import layer_time
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Piece, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.report.result import Result, to_json
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import complete, homes_of
from cosoc.sim.work import LayerWork, layer_work

# Small and large, depthwise, fully connected, with residual adds, and one whose weights stream from off-chip.
NETWORKS = ("digits_cnn", "resnet8", "resnet20", "dscnn", "autoencoder", "mobilenet_v1_025", "resnet18_cifar")
RUNTIMES: tuple[Runtime, ...] = ("serial", "overlapped")


@pytest.fixture(scope="module")
def soc() -> SoC:
    return find_soc("diana")


def split(workload: Workload, runtime: Runtime, seed: int) -> Mapping:
    """Every convolution cut at random between the two arrays, one in four left whole on either."""
    g = np.random.default_rng(seed)
    layers = {}
    for layer in workload:
        if layer.op == "conv" and not layer.depthwise:
            k = int(g.choice([0, layer.k, *g.integers(0, layer.k + 1, 6)]))
            layers[layer.name] = LayerPlan((Part("digital", k), Part("analog", layer.k - k)))
    return Mapping(f"split{seed}", runtime, layers)


def cases(seeds: int = 2) -> list[tuple[str, int | None]]:
    """Network and seed of a split mapping; no seed: what the tiler makes of an empty mapping."""
    splits = [(network, seed) for network in NETWORKS if network != "resnet18_cifar" for seed in range(seeds)]
    return [*((network, None) for network in NETWORKS), *splits]


def mapped(soc: SoC, network: str, seed: int | None, runtime: Runtime) -> tuple[Workload, Mapping]:
    workload = find_workload(network)
    mapping = Mapping("empty", runtime) if seed is None else split(workload, runtime, seed)
    return workload, complete(mapping, workload, soc)


def works(soc: SoC, workload: Workload, mapping: Mapping) -> dict[str, LayerWork]:
    homes = homes_of(workload, mapping, soc)
    out = {}
    for layer in workload:
        given = mapping.layers[layer.name]
        shares = [(part.core, part.channels) for part in given.parts]
        out[layer.name] = layer_work(layer, soc, shares, given, homes, exact)
    return out


def fused_segment(soc: SoC) -> tuple[Workload, Mapping]:
    """ResNet-18's first segment, its four 3x3 convolutions on the analog array, all layers fused row by row."""
    workload = find_workload("resnet18_segment")
    analog = [layer for layer in workload if layer.op == "conv" and layer.fx == 3]
    layers = {layer.name: LayerPlan((Part("analog", layer.k),), unroll=1) for layer in analog}
    group = Piece(tuple(layer.name for layer in workload))
    return workload, complete(Mapping("fused", "overlapped", layers, (group,)), workload, soc)


# One convolution, small enough for one job: 3 channels of 32x32 in, 16 out, 3x3 filters.
CONV = Layer("conv", "conv", (INPUT,), k=16, c=3, oy=32, ox=32, iy=32, ix=32, fy=3, fx=3, pad_y=1, pad_x=1)
ONE = Workload("one", (3, 32, 32), (CONV,), ("conv",))


def test_one_job_takes_what_its_parts_take(soc: SoC) -> None:
    """Closed form from the figures in diana.yaml: bursts of 32 B at 16 B/cycle, 70 cycles a call, 500 a launch."""
    weights = 70 + 16 * 2  # 16 x (27 + 4 of bias) = 496 B, aligned to 512: 16 bursts
    load = 70 + (3 * 32 * 32 // 32) * 2
    launch = 500
    compute = (32 * 32 // 16) * (27 + 2 * 3 * 3 + 23)  # 64 blocks: taps, refill per channel and filter row, start
    store = 70 + (16 * 32 * 32 // 32) * 2
    result = simulate(soc, ONE, Mapping("m", "serial"))
    assert result.ticks == weights + load + launch + compute + store
    assert result.seconds == pytest.approx(result.ticks / 260e6, rel=1e-12)
    causes = result.critical_path.by_cause_ticks
    assert causes == {
        "compute": compute,
        "weights": 32,
        "transfer": load + store - 140,
        "dma_setup": 210,
        "launch": 500,
    }


@pytest.mark.parametrize(("network", "seed"), cases())
def test_serial_time_is_the_sum_of_the_layers(soc: SoC, network: str, seed: int | None) -> None:
    """Nothing overlaps, so the closed form that the tiler minimises is the simulated time, tick for tick."""
    workload, mapping = mapped(soc, network, seed, "serial")
    homes = homes_of(workload, mapping, soc)
    result = simulate(soc, workload, mapping)
    by_layer = {layer.layer: layer.ticks_critical for layer in result.by_layer}
    for name, work in works(soc, workload, mapping).items():
        estimated = layer_time(workload[name], work, soc, "serial", homes, Theta(), exact)
        assert by_layer.pop(name) == estimated.ticks, name
    assert not by_layer


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("network", "seed"), cases())
def test_the_work_emitted_is_the_work_there_is(soc: SoC, network: str, seed: int | None, runtime: Runtime) -> None:
    """MACs are those of the workload, jobs, cycles and bytes those of the mapping, layer by layer, exactly."""
    workload, mapping = mapped(soc, network, seed, runtime)
    passes = 1 if homes_of(workload, mapping, soc).weights_in_main else 2  # from off-chip, weights move twice
    result = simulate(soc, workload, mapping, inferences=2)
    assert sum(layer.macs for layer in result.by_layer) == 2 * workload.macs
    assert sum(unit.macs for unit in result.by_unit) == 2 * workload.macs
    parts = {layer.layer: layer for layer in result.by_layer}
    for name, work in works(soc, workload, mapping).items():
        part = parts[name]
        assert part.macs == 2 * workload[name].macs
        assert part.load_bytes == 2 * work.loads.bytes
        assert part.weight_bytes == 2 * passes * sum(core.weights.bytes for core in work.cores)
        assert part.store_bytes == 2 * sum(core.stores.bytes for core in work.cores)
        assert part.feed_bytes == 2 * sum(core.feed for core in work.cores)
        jobs = {core.core: 2 * core.jobs for core in work.cores if core.jobs}
        assert {core: done.jobs for core, done in part.cores.items()} == jobs
        cycles = {core.core: 2 * core.array for core in work.cores if core.jobs}
        assert {core: done.compute_ticks for core, done in part.cores.items()} == cycles


def check_lower_bounds(soc: SoC, result: Result) -> None:
    """Nobody works more ticks than there are, no server beats its rate and no array one MAC a cell and operation."""
    peak = {"digital": 16 * 16, "analog": 1152 * 512 * 5 // 91}
    for unit in result.by_unit:
        assert unit.busy_ticks <= result.ticks
        assert unit.setup_ticks + unit.run_ticks + unit.service_ticks <= unit.lanes * result.ticks
    for server, part in zip(result.program.servers, result.by_server, strict=True):
        needed = -(-part.bytes * int(server["rate_ticks"]) // (int(server["rate_bytes"]) * max(part.ports, 1)))
        assert needed <= result.ticks, part.server
        assert part.busy_ticks <= max(part.ports, 1) * result.ticks
    for layer in result.by_layer:
        lasted = layer.end_tick - layer.start_tick
        assert max((core.busy_ticks for core in layer.cores.values()), default=0) <= layer.core_busy_ticks
        assert layer.core_busy_ticks <= min(lasted, sum(core.busy_ticks for core in layer.cores.values()))
        assert layer.macs <= layer.core_busy_ticks * sum(peak.get(core, 1) for core in layer.cores)
        assert lasted <= result.ticks


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("network", "seed"), cases(1))
def test_no_run_beats_its_bounds(soc: SoC, network: str, seed: int | None, runtime: Runtime) -> None:
    check_lower_bounds(soc, simulate(soc, *mapped(soc, network, seed, runtime)))


def test_no_fused_run_beats_its_bounds(soc: SoC) -> None:
    workload, mapping = fused_segment(soc)
    result = simulate(soc, workload, mapping)
    check_lower_bounds(soc, result)
    assert sum(layer.macs for layer in result.by_layer) == workload.macs
    # Only what leaves the group is stored: the last layer's output, whole rows of 56 columns x 64 channels.
    assert sum(layer.store_bytes for layer in result.by_layer) == 56 * 64 * 64  # a row and channel: 56 B, aligned to 64


@pytest.mark.parametrize("link", ["l1", "l2_read", "l2_write", "weight_port", "analog_feed", "off_chip"])
@pytest.mark.parametrize(("network", "seed"), [("resnet8", 0), ("dscnn", 1), ("resnet18_cifar", None)])
def test_a_wider_link_never_makes_a_serial_run_longer(soc: SoC, network: str, seed: int | None, link: str) -> None:
    workload, mapping = mapped(soc, network, seed, "serial")
    ticks = []
    for factor in (1, 2, 4):
        wide = str(factor * soc.links[link].bytes_per_period)
        wider = find_soc("diana", {f"links.{link}.bytes_per_period": wide})
        ticks.append(simulate(wider, workload, mapping).ticks)
    assert ticks == sorted(ticks, reverse=True)


@pytest.mark.parametrize(("network", "seed"), cases(1))
def test_overlap_never_costs_time(soc: SoC, network: str, seed: int | None) -> None:
    """With the same tiles an overlapped run is at most the serial sum: in every tick at least one op gets on."""
    workload, mapping = mapped(soc, network, seed, "overlapped")
    overlapped = simulate(soc, workload, mapping)
    serial = simulate(soc, workload, replace(mapping, runtime="serial"))
    assert overlapped.ticks <= serial.ticks


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_inferences_follow_one_another(soc: SoC, runtime: Runtime) -> None:
    """Three serial inferences take three times as long; overlapped ones at most (nothing of the next comes later)."""
    workload, mapping = mapped(soc, "resnet8", 0, runtime)
    one, three = simulate(soc, workload, mapping), simulate(soc, workload, mapping, inferences=3)
    assert three.ops == 3 * one.ops
    if runtime == "serial":
        assert three.ticks == 3 * one.ticks
        assert three.energy_j == pytest.approx(3 * one.energy_j, rel=1e-12)
    else:
        assert one.ticks < three.ticks < 3 * one.ticks


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_both_engines_give_one_result(soc: SoC, runtime: Runtime) -> None:
    workload, mapping = mapped(soc, "digits_cnn", 1, runtime)
    fast, slow = (to_json(simulate(soc, workload, mapping, engine)) for engine in ("fast", "reference"))
    for out in (fast, slow):
        del out["engine"], out["wall_s"]
    assert fast == slow


def test_bad_arguments_are_named(soc: SoC) -> None:
    with pytest.raises(InputError, match="no engine named 'quick'; there is fast, reference"):
        simulate(soc, ONE, Mapping("m"), engine="quick")
    with pytest.raises(InputError, match="inferences is 0"):
        simulate(soc, ONE, Mapping("m"), inferences=0)
    wrong = Mapping("m", "serial", {"conv": LayerPlan((Part("digital", 8), Part("analogue", 9)))})
    with pytest.raises(InputError, match=r"sum to 17 .* the layer has 16.*no core 'analogue'"):
        simulate(soc, ONE, wrong)


def test_heavy_modules_load_when_needed() -> None:
    code = "import sys, cosoc.sim.simulate, cosoc.sim.report.render; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "cosoc.sim.report.render" in loaded
    assert not {"torch", "numba", "simpy", "matplotlib", "scipy"} & set(loaded)
