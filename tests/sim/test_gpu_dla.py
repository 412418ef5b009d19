"""A GPU with tensor cores and a DLA on one memory: kernels by hand, hand-overs, and who waits for whom."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cosoc.sim import exact
from cosoc.sim.cores.dla import Dla
from cosoc.sim.cores.tensor_gpu import TensorGpu
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Tile
from cosoc.sim.report.together import Load
from cosoc.sim.simulate import simulate, simulate_together

NAME = "agx_xavier_dla"


def chip() -> SoC:
    return find_soc(NAME)


def gpu(**changes: object) -> TensorGpu:
    core = chip().cores["gpu"]
    assert isinstance(core, TensorGpu)
    return core.model_copy(update=changes)


def dla(**changes: object) -> Dla:
    core = chip().cores["dla0"]
    assert isinstance(core, Dla)
    return core.model_copy(update=changes)


def conv(k: int, c: int, edge: int, filter: int = 1, **more: int) -> Tile:
    return Tile("conv", k=k, c=c, oy=edge, ox=edge, fy=filter, fx=filter, **more)


# ------------------------------------------------------------------------------------------------------------- kernels


def test_a_wave_of_tiles() -> None:
    """By hand, one size of tiles and an L2 that costs nothing: 16 x 16 pixels and 256 channels are 4 x 4 tiles of 64 x
    64, two waves on 8 multiprocessors; each multiplies 64 x 64 for every one of 104 inputs at an eighth of 5500."""
    core = gpu(tile_sizes=(64,), l2_bytes_per_cycle=1e9, kernel_cycles=0)
    assert core.cycles(conv(256, 104, 16), exact) == pytest.approx(2 * 104 * 64 * 64 * 8 / 5500, abs=2)
    # One channel more is a column of 4 tiles more, and a third wave.
    assert core.cycles(conv(257, 104, 16), exact) == pytest.approx(3 * 104 * 64 * 64 * 8 / 5500, abs=2)
    # Inputs come in rows of 8 channels: 97 take as long as 104, an image's 3 as long as 8.
    assert core.cycles(conv(256, 97, 16), exact) == core.cycles(conv(256, 104, 16), exact)
    assert core.cycles(conv(256, 3, 16, 3), exact) == core.cycles(conv(256, 8, 16, 3), exact)


def test_convolutions_in_groups_run_on_the_lanes() -> None:
    """Two groups of 48 to 128 channels, 5 x 5, on 27 x 27 pixels (AlexNet's second): 224 M products at 1410 a cycle."""
    core = gpu(kernel_cycles=0)
    tile = Tile("conv", k=256, c=48, oy=27, ox=27, fy=5, fx=5, groups=2)
    assert core.cycles(tile, exact) == math.ceil(256 * 48 * 25 * 27 * 27 / 1410)
    depthwise = Tile("conv", k=64, c=1, oy=27, ox=27, fy=3, fx=3, groups=64, depthwise=True)
    assert core.cycles(depthwise, exact) == math.ceil(64 * 9 * 27 * 27 / 1410)
    # Heads of an attention are groups of a product of matrices, which tensor cores do.
    heads = Tile("matmul", k=2364, c=64, oy=1, ox=197, groups=12)
    assert core.cycles(heads, exact) < 2364 * 64 * 197 / 1410


def test_a_batch_fills_the_last_wave() -> None:
    """7 x 7 pixels are one tile of 64 rows, most of whose multiprocessors have none; images of a batch fill them, so
    that 8 take less than 8 times as long; never less than at the peak."""
    core, tile = gpu(), conv(256, 512, 7, 3)
    one, eight = core.cycles(tile, exact), core.batch_cycles(tile, 8, exact)
    assert one < eight < 4 * one
    assert eight >= 8 * 256 * 512 * 9 * 49 / core.peak_macs_per_cycle


def test_a_layer_of_weights_streams_at_the_links_rate() -> None:
    """4096 x 4096 weights of 2 bytes for one row: bytes over the link, beside which products are few."""
    core, soc = gpu(fill_bytes=0, kernel_cycles=0), chip()
    tile = conv(4096, 4096, 1)
    moved = 2 * (4096 * 4096 + 4096 + 4096)
    assert core.feed_bytes(tile, exact) == moved
    assert core.cycles(tile, exact) == math.ceil(4096 * 4096 / 1410)
    assert core.cycles(tile, exact) < 0.05 * moved / soc.links["emc"].bytes_per_period
    # Of 8 images the weights serve each, and tensor cores have rows to multiply.
    assert core.batch_cycles(tile, 8, exact) < 8 * core.cycles(tile, exact)


def test_an_operator_of_the_dla() -> None:
    """48 of 40 channels in atoms of 32 and 16: 64 x 48 products of 10 x 10 pixels, no Winograd for 1 x 1."""
    core = dla(start_cycles=0, macs_per_cycle=1024.0)
    assert core.cycles(conv(40, 48, 10), exact) == math.ceil(64 * 48 * 100 / 1024)
    # 3 x 3: tiles of 2 x 2 outputs take 16 products where they took 36.
    assert core.cycles(conv(40, 48, 10, 3), exact) == math.ceil(64 * 48 * 25 * 16 / 1024)
    assert core.cycles(conv(40, 48, 10, 3, stride_y=2, stride_x=2), exact) == math.ceil(64 * 48 * 100 * 9 / 1024)
    # An image's 3 channels are stored as 4; a row of 7 of them takes one atom of 32 in place of seven.
    assert core.cycles(conv(16, 3, 10, 7), exact) == math.ceil(32 * 7 * 16 * 100 / 1024)


def test_the_array_knows_no_groups() -> None:
    """Two groups are a convolution of all channels, half of whose weights are zeros; a depthwise one stays one."""
    core = dla()
    grouped = Tile("conv", k=256, c=48, oy=27, ox=27, fy=5, fx=5, groups=2)
    whole = Tile("conv", k=256, c=96, oy=27, ox=27, fy=5, fx=5)
    assert core.cycles(grouped, exact) == core.cycles(whole, exact)
    assert core.feed_bytes(grouped, exact) == core.feed_bytes(whole, exact)
    assert core.weight_bytes(grouped, exact) == core.weight_bytes(whole, exact) == 2 * 256 * 96 * 25
    depthwise = Tile("conv", k=64, c=1, oy=27, ox=27, fy=3, fx=3, groups=64, depthwise=True)
    assert core.weight_bytes(depthwise, exact) == 2 * 64 * 9


def test_what_does_not_fit_the_buffer_comes_again() -> None:
    """Inputs of 2 x 1024 x 1024 bytes and weights as large: with a buffer of a quarter of one, three more times."""
    plain = dla(fill_bytes=0, access_factor=1.0, winograd_tile=1, buffer_bytes=1 << 40)
    small = plain.model_copy(update={"buffer_bytes": 1 << 19})
    tile = conv(1024, 1024, 32)
    assert plain.feed_bytes(tile, exact) == 3 * (1 << 21)
    assert small.feed_bytes(tile, exact) == 6 * (1 << 21)
    fits = conv(64, 1024, 32)  # weights of 128 KiB stay while inputs pass
    assert small.feed_bytes(fits, exact) == plain.feed_bytes(fits, exact)


@pytest.mark.parametrize(("network", "falls_back"), [("vit_base", {"matmul", "softmax", "norm"}), ("resnet18", set())])
def test_what_the_dla_has_no_unit_for_is_on_the_gpu(network: str, falls_back: set[str]) -> None:
    workload = find_workload(network)
    placed = named_mapping("dla", workload, chip())
    on_gpu = {layer.op for layer in workload if placed.layers[layer.name].channels_on("gpu")}
    assert falls_back <= on_gpu
    assert not on_gpu & {"conv", "add", "max_pool"}
    assert all(plan.channels_on("gpu") for plan in named_mapping("gpu", workload, chip()).layers.values())


# ---------------------------------------------------------------------------------------------------------- hand-overs


def test_a_tensor_is_handed_over_once_to_each_side() -> None:
    """GPU, DLA, GPU: two tensors change sides, and take what the cores that made them say; on one core none does."""
    soc, workload = chip(), find_workload("resnet8")
    names = [layer.name for layer in workload]
    first, second = names.index("layer1.0.conv1"), names.index("layer1.0.conv2")

    def seconds(machine: SoC, cores: dict[int, str]) -> float:
        plans = {layer.name: LayerPlan((Part(cores.get(n, "gpu"), layer.k),)) for n, layer in enumerate(workload)}
        return simulate(machine, workload, Mapping("m", "serial", plans)).seconds

    free = soc.model_copy(update={
        "cores": {
            name: core.model_copy(update={"handover_cycles": 0}) if name != "cpu" else core
            for name, core in soc.cores.items()
        }
    })  # fmt: skip
    there_and_back = dict.fromkeys((first, second), "dla0")
    extra = seconds(soc, there_and_back) - seconds(free, there_and_back)
    assert extra == pytest.approx((gpu().handover + dla().handover) / soc.tick_hz)
    assert seconds(soc, {}) == seconds(free, {})


def test_a_layer_shared_by_channels_is_faster_than_on_one() -> None:
    """Half of a large layer's channels on the DLA, at once: faster than all on the DLA, and all bytes are there."""
    soc, workload = chip(), find_workload("vgg16")
    layer = next(one for one in workload if one.k == 512 and one.oy == 28)
    shared = LayerPlan((Part("gpu", 448), Part("dla0", 64)))
    plans = {one.name: LayerPlan((Part("gpu", one.k),)) for one in workload}
    run = simulate(soc, workload, Mapping("m", "overlapped", plans | {layer.name: shared}))
    part = next(one for one in run.by_layer if one.layer == layer.name)
    on_dla = simulate(
        soc, workload, Mapping("m", "overlapped", plans | {layer.name: LayerPlan((Part("dla0", layer.k),))})
    )
    other = next(one for one in on_dla.by_layer if one.layer == layer.name)
    assert set(part.cores) == {"gpu", "dla0"}
    assert part.macs == other.macs == layer.macs
    assert part.end_tick - part.start_tick < other.end_tick - other.start_tick


# ------------------------------------------------------------------------------------------------------ one memory


def both(soc: SoC) -> tuple[Load, Load]:
    workload = find_workload("resnet18")
    return Load(workload, named_mapping("gpu", workload, soc)), Load(workload, named_mapping("dla", workload, soc))


def test_who_shares_a_memory_waits_and_no_longer_than_the_other_holds_it() -> None:
    """GPU and DLA at once are each slower than alone, by no more than the time for which the other was at the link;
    on a link with a port for each they do not feel one another."""
    soc = chip()
    found = simulate_together(soc, both(soc))
    on_gpu, on_dla = found.networks.values()
    assert on_gpu.seconds > 1.1 * on_gpu.alone_seconds
    assert on_dla.seconds > 1.02 * on_dla.alone_seconds
    rate = soc.links["emc"].bytes_per_period * soc.tick_hz
    held = {
        name: sum(int(part.feed_bytes) for part in simulate(soc, load.workload, load.mapping).by_layer) / rate
        for name, load in zip(("gpu", "dla"), both(soc), strict=True)
    }
    assert on_gpu.seconds - on_gpu.alone_seconds <= held["dla"] * 1.01
    assert on_dla.seconds - on_dla.alone_seconds <= held["gpu"] * 1.01
    emc = soc.links["emc"].model_copy(update={"ports": 3})
    apart = soc.model_copy(update={"links": {"emc": emc}})
    for one in simulate_together(apart, both(apart)).networks.values():
        assert one.seconds == pytest.approx(one.alone_seconds, rel=1e-6)


def test_two_networks_on_two_dlas_and_a_network_on_one() -> None:
    """The second DLA takes a network off the first: both end sooner than one after the other."""
    soc, workload = chip(), find_workload("resnet18")
    first = named_mapping("dla", workload, soc)
    plans = {name: replace(plan, parts=(replace(plan.parts[0], core="dla1"),)) if plan.channels_on("dla0") else plan
             for name, plan in first.layers.items()}  # fmt: skip
    one_each = simulate_together(soc, [Load(workload, first), Load(workload, replace(first, layers=plans))])
    queued = simulate_together(soc, [Load(workload, first), Load(workload, first)])
    assert max(one.alone_seconds for one in one_each.networks.values()) < one_each.seconds < 0.9 * queued.seconds
