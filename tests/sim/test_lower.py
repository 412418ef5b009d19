"""Lowering: what the two runtimes promise, the silicon number, and tiles against brute force."""

from dataclasses import replace

import numpy as np
import pytest

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import layer_time
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import unroll
from cosoc.sim.model.mapping import (
    INPUTS_STAY,
    RUNTIMES,
    WEIGHTS_STAY,
    Extent,
    LayerPlan,
    Mapping,
    Part,
    Piece,
    Runtime,
)
from cosoc.sim.model.placement import place
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import k_tiles, tiled
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.movers.dma_terms import spans
from cosoc.sim.simulate import figures
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import best_tiling, complete, cuts, homes_of, problems, tile_problems
from cosoc.sim.work import layer_work


@pytest.fixture(scope="module")
def diana() -> SoC:
    return find_soc("diana")


def one_conv(k: int, c: int, size: int, f: int = 3, stride: int = 1) -> Workload:
    out = (size + 2 * (f // 2) - f) // stride + 1
    layer = Layer("conv", "conv", (INPUT,), k, c, out, out, size, size, f, f, stride, stride, f // 2, f // 2)
    return Workload("one", (c, size, size), (layer,), ("conv",))


def makespan(workload: Workload, mapping: Mapping, soc: SoC) -> int:
    return engine_reference.run(lower(workload, mapping, soc)).makespan


def test_dianas_timings_are_within_ten_per_cent_by_one_set_of_figures(diana: SoC) -> None:
    """Depth first: silicon, by Stream's validation of DIANA. Layer by layer: a magazine's figure. ResNet-20, its first
    layer digital: a second-hand table, 1.26 ms at 250 MHz and 11.6 uJ."""
    segment, net = find_workload("resnet18_segment"), find_workload("resnet20")
    silicon = find_mapping("silicon", segment, diana)
    fused, layers = (makespan(segment, m, diana) for m in (silicon, replace(silicon, pieces=())))
    assert fused == pytest.approx(812_000, rel=0.05)
    assert layers == pytest.approx(1_400_000, rel=0.1)
    assert fused / layers == pytest.approx(1 - 0.4, rel=0.1)
    at_250_mhz = find_soc("diana", {"tick_hz": "250_000_000"})
    whole = figures(at_250_mhz, net, find_mapping("io_8bit_backbone_ternary", net, at_250_mhz, "serial"))
    assert whole.latency_s == pytest.approx(1.26e-3, rel=0.1)
    assert whole.energy_j == pytest.approx(11.6e-6, rel=0.1)


def test_serial_runs_one_thing_at_a_time(diana: SoC) -> None:
    workload = find_workload("resnet8")
    program = lower(workload, Mapping("m", "serial"), diana)
    trace = engine_reference.run(program)
    assert (trace.issue[1:] == trace.end[:-1]).all()


def test_one_serial_layer_by_hand(diana: SoC) -> None:
    # 16 channels 3x3 on 8x8x16: weights 16*144 + 64 bytes padded to 32 at 16 B/cycle behind one call of 70 cycles;
    # inputs and outputs 1,024 bytes each the same way; a launch; 4 blocks of (144 + 2*16*3 + 23) cycles.
    weights, moved, array = 70 + 2368 // 16, 70 + 1024 // 16, 4 * (144 + 96 + 23)
    assert makespan(one_conv(16, 16, 8), Mapping("m", "serial"), diana) == weights + 2 * moved + 500 + array


def test_overlapped_never_loses_to_serial_and_hides_all_but_the_ends(diana: SoC) -> None:
    workload = one_conv(64, 16, 64)
    layers = {"conv": tiled(workload["conv"], LayerPlan((Part("digital", 64),)), diana, (64,), 8, 64)}
    serial, overlapped = (makespan(workload, Mapping("m", r, layers), diana) for r in RUNTIMES)
    # Eight tiles of 512 pixels: a launch and 32 x 4 blocks each. Exposed: the weights (64 x 148 bytes, one call), the
    # first load (16 channels x 9 rows of 64 bytes, one call a channel) and the last store (64 x 8 rows); the first
    # launch goes on behind the first load.
    compute = 8 * (500 + 32 * 4 * (144 + 96 + 23))
    weights, load, store = 70 + 9472 // 16, 16 * 70 + 16 * 576 // 16, 64 * 70 + 64 * 512 // 16
    assert overlapped == weights + load + compute + store - 500
    assert overlapped < serial


def test_two_cores_work_at_once_only_when_overlapped(diana: SoC) -> None:
    workload = one_conv(64, 64, 32)
    split = {"conv": LayerPlan((Part("digital", 32), Part("analog", 32)))}
    traces = {r: engine_reference.run(p) for r in RUNTIMES if (p := lower(workload, Mapping("m", r, split), diana))}
    program = unroll(lower(workload, Mapping("m", "overlapped", split), diana))
    unit, kind = program.rows["unit"], program.rows["kind"]
    digital = (unit == program.unit_names.index("digital")) & (kind == 0)
    analog = (unit == program.unit_names.index("analog")) & (kind == 0)
    trace = traces["overlapped"]
    both = [
        min(trace.end[a], trace.end[d]) - max(trace.issue[a], trace.issue[d])
        for a in np.flatnonzero(analog)
        for d in np.flatnonzero(digital)
    ]
    assert max(both) > 0
    assert traces["overlapped"].makespan < traces["serial"].makespan


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_two_inferences_do_the_work_twice(diana: SoC, runtime: Runtime) -> None:
    workload = find_workload("dscnn")
    once, twice = (unroll(lower(workload, Mapping("m", runtime), diana, n)) for n in (1, 2))
    for column in ("macs", "bytes"):
        assert twice.rows[column].sum() == 2 * once.rows[column].sum()
    if runtime == "serial":
        ends = [engine_reference.run(p).makespan for p in (once, twice)]
        assert ends[1] == 2 * ends[0]


def test_a_fused_group_gives_its_weight_memory_back(diana: SoC) -> None:
    # Two of the segment's weight sets fit the analog array's memory, three do not.
    workload = find_workload("resnet18_segment")
    silicon = find_mapping("silicon", workload, diana)
    program = lower(workload, silicon, diana, 4)
    trace = engine_fast.run(program)
    assert program.rows["macs"].sum() == 4 * workload.macs
    assert trace.makespan > 3 * 812_000


def test_weights_that_do_not_fit_are_fetched_from_off_chip(diana: SoC) -> None:
    workload = find_workload("resnet18_cifar")
    program = unroll(lower(workload, Mapping("m", "serial"), diana))
    off_chip = program.server_names.index("off_chip")
    routes = [program.routes[r["route_at"] : r["route_at"] + r["route_n"]] for r in program.rows]
    fetched = sum(int(r["bytes"]) for r, route in zip(program.rows, routes, strict=True) if off_chip in route)
    assert fetched >= workload.params - 10_000  # every weight at least once
    small = unroll(lower(find_workload("resnet8"), Mapping("m", "serial"), diana))
    assert off_chip not in small.routes


def test_tile_sizes_are_those_of_cuts_into_equal_parts() -> None:
    """By definition ceil(n / parts); what becomes of very large dimensions: test_tilings.py."""
    for n in (1, 2, 3, 16, 48, 97, 1000):
        assert set(cuts(n)) == {-(-n // parts) for parts in range(1, n + 1)}


def test_figures_beyond_what_ticks_can_count_are_an_input_error(diana: SoC) -> None:
    slow = find_soc(
        "diana", {"cores.host.cycles_per_row_element": "1000000000", "memories.flash.size_bytes": str(1 << 44)}
    )
    layer = Layer("soft", "softmax", (INPUT,), 64, 64, 1 << 10, 1 << 10, 1 << 10, 1 << 10)
    message = "one on diana cannot be counted: .*more than 2\\^50.*made by cores.host: .*cycles_per_row_element"
    with pytest.raises(InputError, match=message):  # 2^26 elements of 10^9 cycles
        lower(Workload("one", (64, 1 << 10, 1 << 10), (layer,), ("soft",)), Mapping("m", "serial"), slow)
    # 2^44 multiply-accumulates at the least rate that there is, 2^-20 a cycle: past what 64 bits hold.
    vast = Layer("vast", "conv", (INPUT,), 1 << 12, 1 << 12, 1 << 10, 1 << 10, 1 << 10, 1 << 10)
    crawling = {"cores.cpu.runtimes.ncnn.peak_macs_per_cycle": "0.000001", "memories.dram.size_bytes": str(1 << 44)}
    message = "run of an op is [0-9]+, more than 2\\^63: cores.cpu: .*runtimes"
    with pytest.raises(InputError, match=message):
        lower(Workload("one", (1 << 12, 1 << 10, 1 << 10), (vast,), ("vast",)), Mapping("m", "serial"),
              find_soc("rpi4", crawling))  # fmt: skip


def test_a_small_layer_gets_the_best_tile_there_is(diana: SoC) -> None:
    # Brute force over every tile of rows and channels, and both orders, on a layer that must be tiled.
    workload = one_conv(48, 64, 48)
    layer = workload.layers[0]
    tight = find_soc("diana", {"memories.l1.size_bytes": "66144", "memories.digital_weights.size_bytes": "30000"})
    given = LayerPlan((Part("digital", 48),))
    for runtime in RUNTIMES:
        homes = homes_of(workload, Mapping("m", runtime, {"conv": given}), tight)

        def cost(plan: LayerPlan, runtime: Runtime = runtime, homes=homes) -> float:  # type: ignore[no-untyped-def]
            work = layer_work(layer, tight, [("digital", 48)], plan, homes, exact)
            return float(layer_time(layer, work, tight, runtime, homes, Theta(), exact).ticks)

        plans = [
            tiled(layer, given, tight, (k,), oy, ox, order)
            for k in (16, 32, 48)
            for oy in range(1, 49)
            for ox in (24, 48)
            for order in (WEIGHTS_STAY, INPUTS_STAY)
        ]
        legal = [plan for plan in plans if not tile_problems(layer, plan, tight, runtime, homes)]
        best = min(cost(plan) for plan in legal)
        assert cost(best_tiling(layer, given, tight, runtime, homes)) <= 1.02 * best


def test_input_channels_are_cut_only_where_nothing_else_fits(diana: SoC) -> None:
    fits, too_many = one_conv(64, 256, 4), one_conv(64, 512, 4)
    tiles = [complete(Mapping("m"), w, diana).layers["conv"].tile for w in (fits, too_many)]
    assert tiles[0].c == 256  # all of them
    assert tiles[1].c == 256  # 16 channels x 512 x 9 bytes exceed 64 kB, half of them do not
    program = unroll(lower(too_many, Mapping("m"), diana))
    assert program.rows["macs"].sum() == too_many.macs


def test_every_reason_is_given_with_figure_and_bound(diana: SoC) -> None:
    workload = find_workload("resnet8")
    name = next(layer.name for layer in workload if layer.k == 64 and layer.fy == 3)
    layers = {
        name: LayerPlan((Part("digital", 60), Part("npu", 3))),
        "conv1": LayerPlan((Part("digital", 16, Extent(16, 3, 3, 3, 99, 32)),), WEIGHTS_STAY),
        "nothere": LayerPlan((Part("digital", 16),)),
    }
    reasons = problems(Mapping("m", "serial", layers), workload, diana)
    text = "\n".join(why for _, why in reasons)
    for part in ("no such layer", "sum to 63 output channels, the layer has 64", "no core 'npu'", "must be 1 to 32"):
        assert part in text
    with pytest.raises(InputError, match="sum to 63"):
        lower(workload, Mapping("m", "serial", layers), diana)


def test_a_tile_that_overflows_names_the_memory(diana: SoC) -> None:
    workload = one_conv(64, 64, 64)
    layers = {"conv": tiled(workload["conv"], LayerPlan((Part("digital", 64),)), diana, (64,), 64, 64)}
    ((_, reason),) = problems(Mapping("m", "serial", layers), workload, diana)
    assert reason == ("layer conv: tiles need 1 x (262144 in + 262144 out) = 524288 bytes of l1, which has 256000")


def test_a_group_must_be_whole_unsplit_and_fit_the_cells() -> None:
    diana = find_soc("diana", {"cores.analog.ox_unrolls": "[1, 2, 4]"})  # those of DORY's template
    workload = find_workload("resnet18_segment")
    names = tuple(layer.name for layer in workload)
    gap = problems(Mapping("m", "overlapped", {}, (Piece(("conv1", "layer1.0.conv1")),)), workload, diana)
    assert "reads maxpool, which waits for the piece" in gap[0][1]
    analog = {n: LayerPlan((Part("analog", 64),), unroll=4) for n in names if "conv" in n and n != "conv1"}
    cells = problems(Mapping("m", "overlapped", analog, (Piece(names),)), workload, diana)
    # 64 channels x 3 rows x (3 taps + 3 shifts) x 64 x 4 copies, four layers: twice the array of 1152 x 512.
    assert f"needs {4 * 64 * 3 * 6 * 64 * 4} cells for the filters of the group, and has 589824" in cells[0][1]


def test_tensors_leave_the_main_memory_largest_first(diana: SoC) -> None:
    workload = one_conv(64, 3, 112)  # 37,632 bytes in, 802,816 out: only the output is too large
    homes = place(workload, diana, weight_bytes=1000)
    assert homes.tensors[INPUT] == "l2"
    assert homes.tensors["conv"] == "flash"
    without = diana.model_copy(update={"backing_memory": None})
    with pytest.raises(InputError, match=r"exceed l2 \(458752 bytes\), and the SoC names no backing_memory"):
        place(workload, without, weight_bytes=1000)


def test_spans_cover_the_output_and_read_no_padding() -> None:
    # 8 rows in tiles of 3 under a 3x3 window, pad 1: rows -1..3, 2..6, 5..8 of which 0..7 exist.
    assert spans(8, 3, 8, 3, 1, 1) == [(3, 4, 1), (3, 5, 1), (2, 3, 1)]
    assert spans(8, 2, 8, 1, 1, 0) == [(2, 2, 4)]


def test_channel_tiles_cover_the_channels() -> None:
    assert k_tiles(40, 16, 64, exact) == ((16, 2), (8, 1))
    assert k_tiles(40, 64, 64, exact) == ((40, 1),)
