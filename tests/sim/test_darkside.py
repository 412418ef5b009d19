"""Darkside: the cores' laws against the published ones, the peaks, power, refusals, and layers that run at once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosoc.sim import exact
from cosoc.sim.cores.cluster import Cluster
from cosoc.sim.cores.depthwise_engine import DepthwiseEngine
from cosoc.sim.cores.tensor_engine import TensorEngine
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import layer_time
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import dump_mapping, load_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import KINDS
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.soc import Memory, SoC
from cosoc.sim.model.workload import INPUT, Layer, Tile, Workload
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import best_tiling, complete, homes_of, problems, tile_bytes
from cosoc.sim.work import layer_work


@pytest.fixture(scope="module")
def soc() -> SoC:
    return find_soc("darkside")


@pytest.fixture(scope="module")
def cluster(soc: SoC) -> Cluster:
    core = soc.cores["cluster"]
    assert isinstance(core, Cluster)
    return core


@pytest.fixture(scope="module")
def engine(soc: SoC) -> DepthwiseEngine:
    core = soc.cores["depthwise_engine"]
    assert isinstance(core, DepthwiseEngine)
    return core


@pytest.fixture(scope="module")
def tensor(soc: SoC) -> TensorEngine:
    core = soc.cores["tensor"]
    assert isinstance(core, TensorEngine)
    return core


def conv(k: int, c: int, size: int, f: int = 3) -> Tile:
    return Tile("conv", k, c, size, size, f, f)


def depthwise(k: int, size: int, f: int = 3, stride: int = 1, dilation: int = 1) -> Tile:
    steps = {"stride_y": stride, "stride_x": stride, "dilation_y": dilation, "dilation_x": dilation}
    return Tile("conv", k, 1, size, size, f, f, depthwise=True, groups=k, **steps)


# Channels and edge of MobileNetV1's blocks 3, 5, 7..11 and 13 at x0.25 on 32 pixels with a stem of stride 2: those that
# ODiMO's released search space has.
BLOCKS = ((32, 8), (64, 4), *(((128, 2),) * 5), (256, 1))


def test_the_laws_are_odimos_on_the_blocks_that_it_searches(cluster: Cluster, engine: DepthwiseEngine) -> None:
    # Sums of the released formulas (spec-hw-units/odimo/method/cost.py) over those blocks, all of one kind.
    assert sum(cluster.law(conv(n, n, size), exact) for n, size in BLOCKS) == 1_283_040
    assert sum(engine.law(depthwise(n, size), exact) for n, size in BLOCKS) == 3_182


def test_cluster_by_hand(cluster: Cluster) -> None:
    # 3 x 9 outputs: two pairs of rows, two groups of eight columns. 5 inputs, 1x1: gather 2 x 5, and for two groups of
    # four filters two words of the reduction at 14, and 15.
    assert cluster.law(Tile("conv", 7, 5, 3, 9), exact) == 4 * (10 + 2 * (14 * 2 + 15))
    assert cluster.law(Tile("conv", 10, 64, 1, 1), exact) == 32 * 3  # PLiNIO: ceil(c / 2) ceil(k / 4)
    assert cluster.law(depthwise(6, 5), exact) == 4 * 2 * 25 * 9  # PLiNIO: 4 ceil(k / 4) ox oy fx fy
    assert cluster.law(Tile("avg_pool", 16, 16, 1, 1, 4, 4), exact) == 2 * 16 * 16 // 8


def test_twice_the_processors_never_take_longer(cluster: Cluster) -> None:
    """Behind the same 32 bytes a cycle: what is shared among all halves; of rows of 7 columns only 7 processors have
    work, and those without load nothing. Unloaded: array cycles and feed."""

    def alone(core: Cluster, tile: Tile) -> int:
        return int(core.cycles(tile, exact) + exact.ceildiv(core.feed_bytes(tile, exact), 32))

    twice = cluster.model_copy(update={"cores": 16})
    for halved in (depthwise(64, 8), Tile("conv", 64, 64, 1, 1), conv(64, 64, 32)):
        assert twice.law(halved, exact) * 2 == cluster.law(halved, exact)
    seven = conv(64, 64, 7)
    assert twice.feed_bytes(seven, exact) == pytest.approx(cluster.feed_bytes(seven, exact), rel=1e-3)
    pool = Tile("avg_pool", 64, 64, 4, 4, 2, 2)
    for tile in (
        seven,
        pool,
        depthwise(8, 5),
        depthwise(64, 32),
        *(conv(16, 16, n, f) for n in range(1, 40) for f in (1, 3)),
    ):
        assert alone(twice, tile) <= alone(cluster, tile), tile


def test_loads_and_array_cycles_make_up_the_law(cluster: Cluster, engine: DepthwiseEngine, soc: SoC) -> None:
    """With nobody else there a job takes what the law says: simulated in turn over its link and in its array."""
    for layer, name, law in (
        (_conv(16, 64, 16), "cluster", cluster.law(conv(16, 64, 16), exact)),
        (_depthwise(64, 16), "depthwise_engine", engine.law(depthwise(64, 16), exact)),
        (_depthwise(64, 8, 2), "depthwise_engine", engine.law(depthwise(64, 8, stride=2), exact)),
    ):
        workload = _workload(layer)
        program = lower(workload, Mapping("m", "serial", {layer.name: LayerPlan((Part(name, layer.k),))}), soc)
        trace = engine_fast.run(program)
        mine = program.rows["unit"] == program.unit_names.index(name)
        jobs = int((program.rows["macs"] > 0).sum())
        spent = int((trace.end - trace.issue)[mine].sum()) - jobs * soc.cores[name].launch_cycles
        assert jobs == 1
        assert law <= spent <= law + 1  # half cycles of the law round up


def test_depthwise_peak_lies_between_the_measured_30_and_the_36_of_the_law(engine: DepthwiseEngine) -> None:
    # 16 channels x 9 taps in 4 cycles are 36 MAC a cycle; the chip paper's abstract says up to 30.
    rates = [64 * size * size * 9 / engine.law(depthwise(64, size), exact) for size in (4, 16, 32, 256)]
    assert [round(rate, 1) for rate in rates[:3]] == [21.1, 31.3, 33.6]  # of ODiMO's law
    assert 30 < rates[3] < 36


def test_engine_window_moves_on_by_stride_rows(engine: DepthwiseEngine) -> None:
    # A pass of 16 channels, 5 columns of 7 outputs: weights, a window a column, then 3 or 6 loads and a store.
    tall = Tile("conv", 16, 1, 7, 5, 3, 3, depthwise=True, groups=16)
    assert engine.law(tall, exact) == 9 + 9 * 5 + (3 + 1) * 5 * 7
    assert engine.law(replace(tall, stride_y=2, stride_x=2), exact) == 9 + 9 * 5 + (6 + 1) * 5 * 7
    assert engine.law(replace(tall, k=17, groups=17), exact) == 2 * engine.law(tall, exact)


@pytest.mark.parametrize(("bits", "macs"), [(8, 32), (4, 64), (2, 128)])
def test_simd_peaks(bits: int, macs: int) -> None:
    """8 processors x 32 bit of products. Blocking makes 4x2 products of 6 loads: 8 of 14 cycles multiply."""
    settings = {f"cores.cluster.{key}_bits": str(bits) for key in ("weight", "act")}
    core = find_soc("darkside", settings).cores["cluster"]
    assert isinstance(core, Cluster)
    assert core.peak_macs == macs
    big = conv(4096, 4096, 64, 1)
    rate = big.k * big.c * big.oy * big.ox / core.law(big, exact)
    assert 0.97 * macs * 8 / 14 < rate < macs * 8 / 14


def test_two_bit_peak_of_the_chip_needs_loads_beside_products() -> None:
    """Published: 65 GOPS at 2 bit, 112 MAC a cycle at 290 MHz. The law's kernel stops at 73; with a load hidden beside
    every product but one it takes 9 cycles in place of 14 and reaches the figure."""
    two = {"cores.cluster.weight_bits": "2", "cores.cluster.act_bits": "2"}
    hidden = two | {"cores.cluster.inner_cycles": "9", "cores.cluster.inner_loads": "1"}
    published = 65e9 / 2 / 290e6
    tile, rates = conv(4096, 4096, 64, 1), []
    for settings in (two, hidden):
        core = find_soc("darkside", settings).cores["cluster"]
        assert isinstance(core, Cluster)
        rates.append(tile.k * tile.c * tile.oy * tile.ox / core.law(tile, exact))
    assert rates[0] < 0.7 * published
    assert rates[1] == pytest.approx(published, rel=0.02)


def test_tensor_engine_peak(tensor: TensorEngine) -> None:
    # Published: 18.2 GFLOPS; at 290 MHz 31.4 multiply-adds a cycle, of 32.
    big = Tile("matmul", 1024, 1024, 32, 32)
    rate = big.k * big.c * big.oy * big.ox / tensor.law(big, exact)
    assert 18.2e9 / 2 / 290e6 <= rate < tensor.rows * tensor.columns


def test_formulas_agree_on_ints_and_arrays(soc: SoC) -> None:
    ks = np.array([0, 1, 3, 4, 15, 16, 17, 128])
    for core in soc.cores.values():
        for tile in (conv(1, 40, 7), depthwise(1, 7), Tile("conv", 1, 40, 7, 9), Tile("conv", 1, 40, 1, 1)):
            if core.fits(tile):
                continue
            for cost in (core.cycles, core.feed_bytes, core.weight_bytes):
                many = cost(replace(tile, k=ks), exact)
                assert many.tolist() == [cost(replace(tile, k=int(k)), exact) for k in ks]
                assert many[0] == 0


def test_mode_powers_are_odimos(soc: SoC) -> None:
    # ODiMO: cluster 168, engine 118, idle 1.32 mW.
    base = soc.base_power_mw
    assert base == 1.32
    assert base + soc.cores["cluster"].power_mw == pytest.approx(168)
    assert base + soc.cores["depthwise_engine"].power_mw == pytest.approx(118)


def test_refusals(soc: SoC, cluster: Cluster, engine: DepthwiseEngine, tensor: TensorEngine) -> None:
    assert engine.fits(depthwise(16, 8, 5)) == ["has a window of 3x3, not 5x5"]
    assert engine.fits(depthwise(16, 8, 3, 3)) == ["moves by 1 or 2, not by stride 3x3"]
    assert engine.fits(depthwise(16, 8, dilation=2)) == ["runs no dilated convolution (dilation 2)"]
    assert "not conv of all channels" in engine.fits(conv(16, 16, 8))[0]
    assert "not 3x3" in tensor.fits(conv(16, 16, 8))[0]
    assert "groups 2" in cluster.fits(Tile("conv", 8, 4, 4, 4, 3, 3, groups=2))[0]
    wide = find_soc("darkside", {"cores.cluster.act_bits": "16"}).cores["cluster"]
    assert wide.fits(conv(16, 16, 8)) == ["has SIMD of 2, 4, 8 bit, not 16"]
    five = replace(_depthwise(16, 8), fy=5, fx=5, pad_y=2, pad_x=2)
    mapping = Mapping("m", "serial", {"dw": LayerPlan((Part("depthwise_engine", 16),))})
    found = [why for _, why in problems(mapping, _workload(five), soc)]
    assert found == ["layer dw: depthwise_engine has a window of 3x3, not 5x5"]


def test_default_mapping_has_depthwise_on_the_engine_and_the_rest_on_the_cluster(soc: SoC) -> None:
    workload = find_workload("mobilenet_v1_025")
    mapping = named_mapping("all_8bit", workload, soc)
    for layer in workload:
        expected = "depthwise_engine" if layer.depthwise else "cluster"
        assert mapping.layers[layer.name].parts == (Part(expected, layer.k),)


# -- layers that run at once -------------------------------------------------------------------------------------------


def _conv(k: int, c: int, size: int, f: int = 3) -> Layer:
    return Layer("conv", "conv", (INPUT,), k, c, size, size, size, size, f, f, 1, 1, f // 2, f // 2)


def _depthwise(k: int, size: int, stride: int = 1) -> Layer:
    edge = size * stride
    return Layer("dw", "conv", (INPUT,), k, k, size, size, edge, edge, 3, 3, stride, stride, 1, 1, groups=k)


def _workload(*layers: Layer) -> Workload:
    first = layers[0]
    return Workload("block", (first.c, first.iy, first.ix), layers, tuple(layer.name for layer in layers))


AT_ONCE = (Piece(("conv", "dw"), "parallel"),)


def _run(soc: SoC, layers: tuple[Layer, ...], groups: tuple[Piece, ...] = ()) -> Result:
    return simulate(soc, _workload(*layers), Mapping("m", "overlapped", {}, groups))


@pytest.mark.parametrize(("k", "c", "size", "f"), [(4, 64, 16, 3), (32, 64, 16, 1), (8, 128, 8, 1), (16, 16, 32, 1)])
def test_at_once_takes_between_the_longer_and_the_sum(soc: SoC, k: int, c: int, size: int, f: int) -> None:
    layers = (_conv(k, c, size, f), _depthwise(c, size))
    alone = [_run(soc, (layer,)).ticks for layer in layers]
    together, in_turn = _run(soc, layers, AT_ONCE), _run(soc, layers)
    assert max(alone) < together.ticks < min(sum(alone), in_turn.ticks)
    again = engine_reference.run(together.program)
    assert again.makespan == together.ticks


def test_at_once_both_are_slowed_by_conflicts_and_by_no_more_than_the_table(soc: SoC) -> None:
    layers = (_conv(32, 64, 16, 1), _depthwise(64, 16))
    table = soc.links["tcdm"].stretch
    free = soc.links["tcdm"].model_copy(update={"stretch": (1.0,)})
    without = soc.model_copy(update={"links": soc.links | {"tcdm": free}})
    feeding = []
    for machine in (soc, without):
        result = _run(machine, layers, AT_ONCE)
        rows = result.program.rows
        feeds = rows["kind"] == KINDS.index("feed")
        feeding.append([int(result.trace.service[feeds & (rows["unit"] == u)].sum()) for u in range(2)])
    for slowed, unhindered in zip(*feeding, strict=True):
        assert unhindered < slowed < table[2] * unhindered + 1


def test_what_runs_at_once_waits_for_what_was_before_and_is_waited_for(soc: SoC) -> None:
    before, (a, b) = replace(_conv(64, 16, 16, 1), name="before"), (_conv(32, 64, 16, 1), _depthwise(64, 16))
    layers = (before, replace(a, inputs=("before",)), replace(b, inputs=("before",)))
    after = replace(_conv(8, 64, 16, 1), name="after", inputs=("dw",))
    result = _run(soc, (*layers, after), AT_ONCE)
    rows, trace = result.program.rows, result.trace
    kinds = {name: [_times(result, layer, name) for layer in range(4)] for name in ("load", "store", "compute")}
    assert rows["layer"].max() == 3 and trace.makespan == result.ticks
    stored = max(end for _, end in kinds["store"][0])
    assert all(start >= stored for member in (1, 2) for start, _ in kinds["load"][member])
    at_once = [(min(s for s, _ in kinds["compute"][m]), max(e for _, e in kinds["compute"][m])) for m in (1, 2)]
    assert max(s for s, _ in at_once) < min(e for _, e in at_once)
    ready = max(end for member in (1, 2) for _, end in kinds["store"][member])
    assert all(start >= ready for start, _ in kinds["load"][3])


def _times(result: Result, layer: int, kind: str) -> list[tuple[int, int]]:
    of = (result.program.rows["layer"] == layer) & (result.program.rows["kind"] == KINDS.index(kind))
    return list(zip(result.trace.issue[of].tolist(), result.trace.end[of].tolist(), strict=True))


@pytest.mark.parametrize(
    ("layers", "shares", "message"),
    [
        ((_conv(8, 64, 8), replace(_conv(8, 64, 8), name="dw")), {}, "conv and dw both use cluster"),
        ((_conv(64, 64, 8), replace(_depthwise(64, 8), inputs=("conv",))), {}, "dw reads conv, which is not there"),
        (
            (_conv(64, 64, 8), replace(_conv(64, 64, 8), name="x"), _depthwise(64, 8)),
            {},
            "layer x stands between conv and dw",
        ),
    ],
)
def test_what_cannot_run_at_once_is_refused(
    soc: SoC, layers: tuple[Layer, ...], shares: dict[str, LayerPlan], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lower(_workload(*layers), Mapping("m", "overlapped", shares, AT_ONCE), soc)


def test_layers_at_once_are_written_and_read_back(tmp_path: Path, soc: SoC) -> None:
    workload = _workload(_conv(32, 64, 16, 1), _depthwise(64, 16))
    file = tmp_path / "m.yaml"
    mapping = Mapping("m", "overlapped", {}, AT_ONCE)
    file.write_text(dump_mapping(mapping))
    assert load_mapping(file, workload, soc) == mapping
    file.write_text("runtime: overlapped\npieces: [{layers: [conv, dw], how: parallel, keep_rows: false}]\n")
    with pytest.raises(InputError, match="keep_rows and resident are of fused layers"):
        load_mapping(file, workload, soc)


# -- how they share the scratchpad -------------------------------------------------------------------------------------


def _taken(soc: SoC, layers: tuple[Layer, ...], mapping: Mapping) -> list[int]:
    """Bytes of the TCDM that each layer's tiles take."""
    workload = _workload(*layers)
    homes = homes_of(workload, mapping, soc)
    needs = [tile_bytes(la, mapping.layers[la.name], soc, mapping.runtime, homes)["tcdm"] for la in layers]
    return [need.total for need in needs]


@pytest.mark.parametrize(
    ("k", "c", "size", "f"), [(64, 64, 32, 1), (128, 128, 16, 3), (8, 512, 8, 3), (32, 256, 16, 1)]
)
def test_tiles_of_layers_at_once_fit_the_scratchpad_together(soc: SoC, k: int, c: int, size: int, f: int) -> None:
    layers = (_conv(k, c, size, f), _depthwise(c, size))
    full = complete(Mapping("m", "overlapped", {}, AT_ONCE), _workload(*layers), soc)
    assert sum(_taken(soc, layers, full)) <= soc.memories["tcdm"].capacity_bytes
    assert not problems(full, _workload(*layers), soc)


def test_what_fits_together_is_tiled_as_alone(soc: SoC) -> None:
    layers = (_conv(32, 64, 8, 1), _depthwise(64, 8))
    workload = _workload(*layers)
    in_turn = complete(Mapping("m", "overlapped", {}), workload, soc)
    at_once = complete(Mapping("m", "overlapped", {}, AT_ONCE), workload, soc)
    assert sum(_taken(soc, layers, in_turn)) <= soc.memories["tcdm"].capacity_bytes
    assert at_once.layers == in_turn.layers


def test_a_layer_whose_smallest_tile_needs_more_than_half_gets_it(soc: SoC) -> None:
    """A 3x3 convolution of 3000 channels has 9 x 3000 inputs under one output, 12 x 3000 in words, and two such tiles
    for overlap: 72,000 of 81,920 bytes. What is left is enough for a depthwise layer of 16 channels on 8x8."""
    before = replace(_conv(16, 3000, 8, 1), name="before")
    wide, narrow = _conv(4, 3000, 8, 3), replace(_depthwise(16, 8), inputs=("before",))
    layers = (before, wide, narrow)
    full = complete(Mapping("m", "overlapped", {}, AT_ONCE), _workload(*layers), soc)
    _, most, rest = _taken(soc, layers, full)
    assert 72_000 <= most <= 81_920 - rest
    assert simulate(soc, _workload(*layers), full).ticks > 0


def test_stated_tiles_that_overflow_only_together_are_refused_with_both_figures(soc: SoC) -> None:
    """Either has 49,152 bytes or less of 81,920; both do not fit. One tile stated, the other gives way."""
    layers = (_conv(64, 64, 32, 1), _depthwise(64, 32))
    workload = _workload(*layers)
    in_turn = complete(Mapping("m", "overlapped", {}), workload, soc)
    a, b = _taken(soc, layers, in_turn)
    bound = soc.memories["tcdm"].capacity_bytes
    assert max(a, b) <= bound < a + b
    stated = replace(in_turn, pieces=AT_ONCE)
    assert [why for _, why in problems(stated, workload, soc)] == [
        f"parallel piece: tiles need {a} of conv + {b} of dw = {a + b} bytes of tcdm, which has {bound}"
    ]
    assert not problems(replace(stated, runtime="serial"), workload, soc)  # there they run in turn
    half = replace(stated, layers={"conv": in_turn.layers["conv"]})
    full = complete(half, workload, soc)
    assert full.layers["conv"] == in_turn.layers["conv"]
    assert _taken(soc, layers, full)[1] <= bound - a


def test_no_division_in_eighths_is_better_by_its_measure(soc: SoC) -> None:
    """By brute force: no division of the scratchpad into eighths has a lower sum of the layers' own times, halves
    included, and all but the best are worse."""
    layers = (_conv(16, 256, 32, 1), _depthwise(256, 32))
    workload, open_ = _workload(*layers), Mapping("m", "overlapped", {}, AT_ONCE)
    full = complete(open_, workload, soc)
    homes = homes_of(workload, full, soc)

    def ticks(layer: Layer, given: LayerPlan) -> float:
        work = layer_work(layer, soc, [(p.core, p.channels) for p in given.parts], given, homes, exact)
        return float(layer_time(layer, work, soc, "overlapped", homes, Theta(), exact).ticks)

    def within(layer: Layer, size: int) -> float:
        small = soc.model_copy(update={"memories": soc.memories | {"tcdm": Memory(size_bytes=size)}})
        given = full.layers[layer.name]
        return ticks(layer, best_tiling(layer, given, small, "overlapped", homes))

    part = soc.memories["tcdm"].capacity_bytes // 8
    sums = sorted(within(layers[0], n * part) + within(layers[1], (8 - n) * part) for n in range(1, 8))
    assert sum(ticks(layer, full.layers[layer.name]) for layer in layers) <= sums[0] < sums[1]
