"""The crossbar core: arrays, times, bytes and energies by hand; published peaks, measured points and layers; networks
that fit the chip and networks that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cosoc.search import relax
from cosoc.sim import exact
from cosoc.sim.cores.crossbar import Crossbar, Schedule, peak
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, load_soc, soc_folder
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import INPUT, Layer, Tile, Workload
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate
from cosoc.sim.work import feed_ticks


def crossbar(soc: SoC) -> Crossbar:
    core = soc.cores["cim"]
    assert isinstance(core, Crossbar)
    return core


def small(schedule: Schedule = "stepwise", act_bits: int = 4, most_copies: int = 1, drain_cycles: int = 0) -> Crossbar:
    """64 arrays of 16 x 16 cells, 4 a tile; weights of 4 bits in two cells; a read of 3 cycles, 8 columns an ADC, 2
    cycles a conversion."""
    settle, block = 5 * (schedule == "summed"), 64 * (most_copies > 1)
    return Crossbar(
        model="crossbar", memory="m", weight_memory="w", feed_links=("buffer", "lane"), schedule=schedule, arrays=64,
        tile_arrays=4, tile_inputs=32, rows=16, cols=16, cell_bits=2, weight_bits=4, act_bits=act_bits,
        columns_per_adc=8, read_cycles=3, adc_cycles=2, drain_cycles=drain_cycles, settle_cycles=settle,
        most_copies=most_copies, block_rows=block, block_cols=block, read_pj=7.0, dac_pj=0.5, adc_pj=0.25,
        buffer_pj_per_byte=3.0, network_pj_per_byte=2.0,
    )  # fmt: skip


def conv(k: int, c: int, side: int, f: int = 1) -> Tile:
    return Tile("conv", k, c, side, side, f, f)


def run(soc: SoC, network: Workload, engine: str = "fast") -> Result:
    return simulate(soc, network, named_mapping("all_8bit", network, soc), engine=engine)


# ---------------------------------------------------------------------------------------------------------------------
# By hand


def test_time_of_a_vector_by_schedule() -> None:
    """4 input bits. Stepwise: 4 x (3 + 8 x 2) = 76. Pipelined: the conversions, 16, hide the read: 4 x 16, and what
    drains. Summed: 4 bits with a sign are 7 pulses of 3, one conversion of 16, 5 to settle."""
    tile = conv(8, 16, 3)
    assert small().cycles(tile, exact) == 9 * 76
    assert small("pipelined").cycles(tile, exact) == 9 * 64
    assert small("pipelined", drain_cycles=16).cycles(tile, exact) == 9 * 80
    assert small("summed").cycles(tile, exact) == 9 * (21 + 16 + 5)
    assert small("summed", act_bits=1).cycles(tile, exact) == small("summed", act_bits=2).cycles(tile, exact)


def test_arrays_are_taken_whole_and_work_at_once() -> None:
    """3x3 filters over 8 channels are 72 rows, 5 arrays high; 12 channels of two cells are 24 columns, 2 wide."""
    core = small()
    assert core.blocks(conv(12, 8, 1, 3), exact) == (5, 2)
    assert core.cycles(conv(12, 8, 4, 3), exact) == core.cycles(conv(1, 1, 4), exact)
    assert core.weight_bytes(conv(12, 8, 4, 3), exact) == 10 * 16 * 16 * 2 // 8


def test_small_groups_share_an_array_along_its_diagonal() -> None:
    """A depthwise 3x3 filter is 9 rows x 2 columns: one a 16-row array; 2x2 filters: four of 4 rows. Twelve channels of
    the latter take three arrays."""
    core = small()
    assert core.blocks(Tile("conv", 12, 1, 4, 4, 3, 3, depthwise=True, groups=12), exact) == (1, 12)
    assert core.blocks(Tile("conv", 12, 1, 4, 4, 2, 2, depthwise=True, groups=12), exact) == (1, 3)


def test_copies_fill_a_block_and_share_pixels() -> None:
    """16 rows and 16 columns stand 4 x 4 times in a block of 64 x 64; 8 are allowed. 10 pixels on 8 copies are 2
    reads, and 10 x 8 conversions on 8 converters instead of one: 4 bits x (2 x 3 + 10 x 2)."""
    core = small(most_copies=8)
    tile = Tile("conv", 8, 16, 2, 5)
    assert core.copies(tile, exact) == 8
    assert core.cycles(tile, exact) == 4 * (2 * 3 + 10 * 2)
    assert core.copies(conv(32, 32, 4), exact) == 2
    assert core.copies(conv(64, 128, 4), exact) == 1
    assert small("pipelined", most_copies=8).copies(conv(8, 16, 2), exact) == 4  # no more than there are pixels


def test_bytes_of_the_busiest_tile_and_of_a_lane() -> None:
    """32 inputs, 32 channels on 5x5 pixels: 2 x 4 arrays are 2 tiles, each of which reads all 32 inputs and gives 16
    sums of 4 bytes. 64 bytes a pixel cross the chip, over the two lanes into a square of 2 x 2 tiles."""
    core, tile = small(), conv(32, 32, 5)
    assert core.tiles(tile, exact) == 2
    assert core.buffered(tile, exact) == 25 * (32 + 16 * 4)
    assert core.crossing(tile, exact) == 25 * 64
    assert core.lane_bytes(tile, exact) == 25 * 32
    assert core.feed_bytes(tile, exact) == core.buffered(tile, exact) + core.lane_bytes(tile, exact)


def test_inputs_beyond_a_tile_are_split_and_their_sums_added() -> None:
    """64 inputs into tiles of 32: 4 x 4 arrays are 4 tiles, of 32 inputs each; 32 channels, each summed in two places,
    are 16 sums a tile."""
    core, tile = small(), conv(32, 64, 1)
    assert core.tiles(tile, exact) == 4
    assert core.buffered(tile, exact) == 32 + 16 * 4


def test_energy_is_reads_drivers_conversions_and_bytes() -> None:
    """24 rows, 12 channels on 9 pixels, 4 bits: 2 x 2 arrays read, 24 rows driven in two array columns, 24 columns
    converted in two array rows; 36 bytes a pixel cross, 12 sums of 4 bytes leave."""
    reads = 9 * 4
    arrays = reads * (4 * 7.0 + 48 * 0.5 + 48 * 0.25)
    moved = 9 * (36 * (2.0 + 3.0) + 12 * 4 * 3.0)
    assert small().energy_pj(conv(12, 24, 3), exact) == arrays + moved


def test_summed_columns_are_converted_once_a_vector() -> None:
    """The same layer where pulses are integrated: 4 bits of input are 7 pulses a pixel, which drive and read the
    arrays; of their sums 24 columns in two array rows are converted, once a pixel."""
    arrays = 9 * 7 * (4 * 7.0 + 48 * 0.5) + 9 * 48 * 0.25
    moved = 9 * (36 * (2.0 + 3.0) + 12 * 4 * 3.0)
    assert small("summed").energy_pj(conv(12, 24, 3), exact) == arrays + moved


@pytest.mark.parametrize("chip", ["neurosim_22nm", "isaac", "puma", "neurram"])
def test_ints_arrays_and_tensors_cost_the_same(chip: str) -> None:
    core = crossbar(find_soc(chip))
    ks = [0, 1, 2, 15, 16, 17, 100, 128, 129, 500, 1024, 3000]
    for c, f, side in ((3, 3, 7), (64, 1, 9), (300, 3, 4), (4096, 1, 1)):
        for cost in (core.cycles, core.feed_bytes, core.weight_bytes, core.energy_pj):
            want = [cost(conv(k, c, side, f), exact) for k in ks]
            many = cost(Tile("conv", np.array(ks), c, side, side, f, f), exact)
            assert many.tolist() == want
            assert want[0] == 0
            for k, value in zip(ks, want, strict=True):
                leaf = torch.tensor(float(k), dtype=torch.float64, requires_grad=True)
                soft = cost(Tile("conv", leaf, c, side, side, f, f), relax)
                assert soft.item() == pytest.approx(float(value), rel=1e-12)
                (slope,) = torch.autograd.grad(soft, leaf)
                assert torch.isfinite(slope)


# ---------------------------------------------------------------------------------------------------------------------
# What is published


@pytest.mark.parametrize(
    ("chip", "tops", "watts", "tolerance"),
    [("isaac", 41.3, 65.8, 0.005), ("puma", 52.3, 62.5, 0.06)],
)
def test_peaks_follow_from_the_description(chip: str, tops: float, watts: float, tolerance: float) -> None:
    """16 bit: ISAAC 41.3 TOPS at 65.8 W (627 GOPS/W); PUMA 52.3 TOPS, at a recalled 62.5 W of which our sum of its
    simulator's constants is 5 % off."""
    soc = find_soc(chip)
    found = peak(crossbar(soc), soc.tick_hz, soc.base_power_mw)
    assert found.ops_per_s / 1e12 == pytest.approx(tops, rel=0.01)
    assert found.watts == pytest.approx(watts, rel=tolerance)
    assert found.ops_per_joule / 1e9 == pytest.approx(1e3 * tops / watts, rel=0.07)


@pytest.mark.parametrize(("bits_in", "bits_out", "tops", "tops_w"), [
    (1, 3, 2.12, 43.1), (2, 4, 1.79, 40.3), (3, 5, 1.17, 23.1)
])  # fmt: skip
def test_neurram_meets_its_measurements(bits_in: int, bits_out: int, tops: float, tops_w: float) -> None:
    """Wan et al. 2022, as digitised in CiMLoop: throughput with nothing fitted, efficiency with one power for all."""
    soc = find_soc("neurram", {"cores.cim.act_bits": str(bits_in), "cores.cim.adc_bits": str(bits_out)})
    found = peak(crossbar(soc), soc.tick_hz, soc.base_power_mw)
    assert found.ops_per_s / 1e12 == pytest.approx(tops, rel=0.05)
    assert found.ops_per_joule / 1e12 == pytest.approx(tops_w, rel=0.1)


def test_vgg8_on_the_neurosim_chip() -> None:
    """NeuroSim V1.5's own output: a period of 95.42 us, 56.62 uJ of operations, 5.48 mW of leakage, and buffers and
    network for four fifths of the period. A chip that is a pipeline takes as long as its slowest layer."""
    result = run(find_soc("neurosim_22nm"), find_workload("vgg8"))
    slowest = max(result.by_layer, key=lambda part: part.ticks_critical)
    period = slowest.ticks_critical / result.tick_hz
    assert period == pytest.approx(95.42e-6, rel=0.1)
    assert result.ops_energy_j + 5.48e-3 * period == pytest.approx(57.14e-6, rel=0.1)
    first = result.by_layer[0]
    assert first.causes["feed"] / first.ticks_critical == pytest.approx((59.8 + 19.0) / 95.42, abs=0.05)


def v14_layer(inp: int, out: int, c: int, k: int, f: int) -> Workload:
    return Workload("x", (c, inp, inp), (Layer("x", "conv", (INPUT,), k, c, out, out, inp, inp, f, f),), ("x",))


@pytest.mark.parametrize(
    ("shape", "us"),
    [
        ((32, 30, 3, 128, 3), 133.91), ((32, 30, 128, 128, 3), 133.23), ((16, 14, 128, 256, 3), 31.13),
        ((16, 14, 256, 256, 3), 53.07), ((8, 6, 256, 512, 3), 10.22), ((8, 6, 512, 512, 3), 18.68),
        ((1, 1, 8192, 1024, 1), 0.682), ((1, 1, 1024, 10, 1), 0.355),
    ],
)  # fmt: skip
def test_layers_of_a_neurosim_run(shape: tuple[int, int, int, int, int], us: float) -> None:
    """VGG-8 layer by layer (NeuroSim V1.4, clock 1.663 ns, no padding). Two bandwidths were fitted to these eight
    latencies, 9.5 and 7.5 bytes a cycle; benchmarks/cim.py fits them, also without each layer."""
    rates = {"links.tile_buffer": "19", "links.h_tree_lane": "15"}
    settings = {f"{name}.bytes_per_period": rate for name, rate in rates.items()}
    settings |= {f"{name}.period_cycles": "2" for name in rates}
    soc = find_soc("neurosim_22nm", settings | {"tick_hz": str(round(1e9 / 1.663))})
    assert 1e6 * run(soc, v14_layer(*shape)).seconds == pytest.approx(us, rel=0.25)


def test_copies_are_those_of_neurosims_floor_plan() -> None:
    core = crossbar(find_soc("neurosim_22nm"))
    tiles = [make_tile(layer, layer.k, layer.oy, layer.ox) for layer in find_workload("vgg8") if layer.op == "conv"]
    assert [core.copies(tile, exact) for tile in tiles] == [8, 4, 4, 2, 2, 1, 1, 8]


# ---------------------------------------------------------------------------------------------------------------------
# Networks on a chip


def test_a_simulated_layer_takes_its_feeds_and_its_cycles() -> None:
    """One after the other: through the buffers, over the network, in the arrays. Both engines."""
    soc, network = find_soc("neurosim_22nm"), find_workload("vgg8")
    result = run(soc, network)
    assert result.ticks == run(soc, network, "reference").ticks
    for layer, part in zip(network, result.by_layer, strict=True):
        if layer.op == "conv":
            tile = make_tile(layer, layer.k, layer.oy, layer.ox)
            assert part.compute_ticks == crossbar(soc).cycles(tile, exact)
            assert part.ticks_critical == part.compute_ticks + feed_ticks(tile, soc, soc.cores["cim"], exact)
            assert part.feed_bytes == crossbar(soc).feed_bytes(tile, exact)
        else:
            assert list(part.cores) == ["pool"]


def chip_of(arrays: int) -> SoC:
    size = {"cores.cim.arrays": str(arrays), "memories.cells.size_bytes": str(arrays * 128 * 128 // 8)}
    return find_soc(
        "neurosim_22nm",
        size | {f"cores.cim.{key}": n for key, n in (("most_copies", "1"), ("block_rows", "0"), ("block_cols", "0"))},
    )


def test_weights_that_fit_are_written_once_and_others_in_every_inference() -> None:
    """VGG-8 without copies takes 8 + 72 + 144 + 288 + 576 + 1,152 + 4,096 + 8 = 6,344 arrays of 2,048 bytes. On 6,344
    nothing is written. On 4,000 the first layers keep half of the chip; the fully connected layers and the largest
    convolution that finds no more room pass through the other half, in parts."""
    network = find_workload("vgg8")
    assert sum(part.weight_bytes for part in run(chip_of(6344), network).by_layer) == 0
    small_chip = run(chip_of(4000), network)
    written = {part.layer: part.weight_bytes for part in small_chip.by_layer if part.weight_bytes}
    kept = [8, 72, 144, 288, 576]  # and 1,152 would be 2,240 arrays, more than 2,000; the last layer's 8 find room
    assert sum(kept) + 8 <= 2000 < sum(kept) + 1152
    assert written == {"features.12": 1152 * 2048, "classifier.0": 4096 * 2048}
    link = small_chip.program.server_names.index("cell_write")
    rate = small_chip.program.servers[link]
    writing = sum(written.values()) * rate["rate_ticks"] / rate["rate_bytes"]
    assert small_chip.ticks - run(chip_of(6344), network).ticks >= writing


def test_energy_of_writing_is_paid() -> None:
    fits, rewritten = run(chip_of(6344), find_workload("vgg8")), run(chip_of(4000), find_workload("vgg8"))
    per_byte = find_soc("neurosim_22nm").links["cell_write"].energy_pj_per_byte
    written = (1152 + 4096) * 2048 * per_byte * 1e-12
    assert rewritten.ops_energy_j - fits.ops_energy_j >= written


@pytest.mark.parametrize(("chip", "network"), [("puma", "mobilenet_v2"), ("isaac", "alexnet"), ("neurram", "resnet8")])
def test_whole_networks_run(chip: str, network: str) -> None:
    """Depthwise, grouped and larger-than-the-chip networks; every layer with weights in the arrays."""
    workload = find_workload(network)
    result = run(find_soc(chip), workload)
    where = {part.layer: list(part.cores) for part in result.by_layer}
    assert all(where[layer.name] == ["cim"] for layer in workload if layer.op == "conv")
    assert sum(part.macs for part in result.by_layer) == workload.macs


def test_what_no_array_holds_runs_elsewhere() -> None:
    assert "not matmul" in crossbar(find_soc("isaac")).fits(Tile("matmul", 8, 8, 1, 4))[0]


def test_feed_links_are_a_buffer_and_a_lane(tmp_path: Path) -> None:
    text = (soc_folder() / "isaac.yaml").read_text()
    path = tmp_path / "x.yaml"
    path.write_text(text.replace("feed_links: [tile_buffer, mesh_lane]", "feed_links: [tile_buffer]"))
    with pytest.raises(InputError, match=r"x\.yaml:\d+:\d+: .*a tile's buffer and a network lane"):
        load_soc(path)
