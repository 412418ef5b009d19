"""The roofline core: times by hand, whole devices through the simulator, the fit to published latencies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosoc.search import measured
from cosoc.search.measured import Measured
from cosoc.sim import exact
from cosoc.sim.cores.roofline import OP_CLASSES, Efficiency, InferenceRuntime, Roofline, op_class
from cosoc.sim.cores.tensor_gpu import TensorGpu
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import INPUT, Layer, batched
from cosoc.sim.report.render import summary
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import complete

LATENCIES = Path(__file__).parents[2] / "sim" / "truth" / "boards.csv"


def core(number_bits: int = 16, winograd_tile: int = 1, sum_macs: int = 0) -> Roofline:
    """10 MACs a cycle at most, 4 bytes a cycle, 100 cycles a kernel; 1x1 filters reach a half of the peak."""
    efficiency = Efficiency(conv3x3=2.0, conv1x1=0.5, depthwise=0.1, fc=0.5, attention=0.25, other=0.4)
    used = InferenceRuntime(
        peak_macs_per_cycle=10.0, number_bits=number_bits, kernel_cycles=100, winograd_tile=winograd_tile,
        sum_macs=sum_macs, efficiency=efficiency,
    )  # fmt: skip
    return Roofline(
        model="roofline", memory="dram", kind="cpu", memory_bytes_per_cycle=4.0, runtime="r", runtimes={"r": used}
    )


def cycles(layer: Layer, on: Roofline) -> int:
    return int(on.cycles(make_tile(layer, layer.k, layer.oy, layer.ox), exact))


def conv(k: int, c: int, side: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Layer:
    i = side * stride
    return Layer("x", "conv", (INPUT,), k, c, side, side, i, i, kernel, kernel, stride, stride, groups=groups)


def test_a_layer_is_bound_by_arithmetic_or_by_memory() -> None:
    """By hand. 64 -> 64 channels on 8x8: 262,144 MACs at 5 a cycle = 52,429 cycles. 2 -> 2 channels on 64x64: 16,384
    MACs are 3,277 cycles, but 16,384 numbers in and out and 4 weights, of 2 bytes at 4 a cycle, are 8,194."""
    assert cycles(conv(64, 64, 8), core()) == 100 + 52_429
    assert cycles(conv(2, 2, 64), core()) == 100 + 8_194


def test_a_sum_is_bound_by_memory_and_a_lone_pointwise_operator_is_free() -> None:
    """Two operands of 32x8x8 read, one written: 6,144 numbers of 2 bytes at 4 a cycle; a SiLU adds nothing."""
    shape = {"k": 32, "c": 32, "oy": 8, "ox": 8, "iy": 8, "ix": 8}
    assert cycles(Layer("s", "add", ("a", "b"), **shape), core()) == 100 + 3_072
    assert cycles(Layer("s", "eltwise", ("a",), **shape, fn="silu"), core()) == 0


def test_winograd_counts_whole_tiles_and_larger_filters() -> None:
    """7x7 outputs take 2x2 tiles of 4x4: 64 pixels instead of 49; a 3x3 filter is kept as 6x6. By hand, as above."""
    layer = conv(32, 32, 7, kernel=3)
    assert cycles(layer, core()) == 100 + -(-9 * 32 * 32 * 49 // 20)
    assert cycles(layer, core(winograd_tile=4)) == 100 + -(-9 * 32 * 32 * 64 // 20)
    moved = core(winograd_tile=4).moved_bytes(make_tile(layer, 32, 7, 7), exact)
    assert moved == 2 * (32 * 9 * 9 + 32 * 7 * 7 + 36 * 32 * 32)
    assert cycles(conv(32, 32, 7, kernel=3, stride=2), core()) == cycles(
        conv(32, 32, 7, kernel=3, stride=2), core(winograd_tile=4)
    )


def test_short_sums_are_slower() -> None:
    """With 64 MACs a sum to start and end it, 64 input channels run at half speed."""
    layer = conv(64, 64, 32)
    assert cycles(layer, core(sum_macs=64)) - 100 == pytest.approx(2 * (cycles(layer, core()) - 100), abs=1)


def test_few_outputs_leave_lanes_idle() -> None:
    """10 lanes that wait 3 cycles for a sum's next term do 30 MACs in that time: 16 channels on one pixel over 64
    inputs take 64 x (16 + 30) MACs at 5 a cycle. On 32x32 pixels, or in a batch of eight, the 30 count once all the
    same."""
    used = core().runtimes["r"].model_copy(update={"chain_cycles": 3})
    gpu = core().model_copy(update={"runtimes": {"r": used}})
    assert cycles(conv(16, 64, 1), gpu) == 100 + -(-64 * (16 + 30) // 5)
    assert cycles(conv(16, 64, 32), gpu) == 100 + -(-64 * (16 * 1024 + 30) // 5)
    tile = make_tile(conv(16, 64, 32), 16, 32, 32)
    assert gpu.batch_cycles(tile, 8, exact) == 100 + -(-64 * (8 * 16 * 1024 + 30) // 5)


def filled(**figures: float) -> Roofline:
    """10 MACs a cycle, and what a test is about of what a GPU needs in flight."""
    used = core().runtimes["r"].model_copy(update=figures)
    return core().model_copy(update={"runtimes": {"r": used}})


def test_multiprocessors_without_a_tile_wait() -> None:
    """By hand: with 500 outputs to fill it, 16 channels on 4x4 pixels over 64 inputs take 64 x (256 + 500) MACs at 5 a
    cycle, and four images 64 x (1,024 + 500); the 30 that hide a chain of 3 cycles are among the 500."""
    gpu = filled(chain_cycles=3, fill_outputs=500)
    tile = make_tile(conv(16, 64, 4), 16, 4, 4)
    assert gpu.cycles(tile, exact) == 100 + -(-64 * (256 + 500) // 5)
    assert gpu.batch_cycles(tile, 4, exact) == 100 + -(-64 * (1_024 + 500) // 5)
    assert gpu.cycles(make_tile(conv(16, 64, 8), 16, 8, 8), exact) == gpu.batch_cycles(tile, 4, exact)  # as many pixels


KERNELS = [
    conv(64, 64, 14, kernel=3), conv(256, 64, 14), conv(128, 64, 14, stride=2), conv(1000, 512, 1),
    conv(64, 3, 14, kernel=7, stride=2), conv(96, 96, 14, kernel=3, groups=96),
]  # fmt: skip


@pytest.mark.parametrize("layer", KERNELS, ids=str)
@pytest.mark.parametrize("bandwidth", [0.05, 4.0, 1000.0])
def test_cutting_a_kernel_never_pays(layer: Layer, bandwidth: float) -> None:
    """A kernel moves its operands once and fills the processor once: two that do its work together do either twice.
    Along channels, rows, columns and images, at a memory that bounds all of these kernels, some, and none."""
    gpu = filled(chain_cycles=3, fill_outputs=20_000, winograd_tile=4, kernel_cycles=0)
    gpu = gpu.model_copy(update={"memory_bytes_per_cycle": bandwidth})

    def cost(k: int, oy: int, ox: int, n: int) -> int:
        return int(gpu.batch_cycles(make_tile(layer, k, oy, ox), n, exact))

    whole = (layer.k, layer.oy, layer.ox, 8)
    for dim in range(4):
        for part in {1, whole[dim] // 3, whole[dim] // 2} - {0, whole[dim]}:
            one, other = ((*whole[:dim], size, *whole[dim + 1 :]) for size in (part, whole[dim] - part))
            assert cost(*one) + cost(*other) >= cost(*whole), (dim, part)


@pytest.mark.parametrize("layer", KERNELS, ids=str)
def test_images_together_are_never_slower_than_one_by_one(layer: Layer) -> None:
    """And each image costs no more in a larger batch; where a processor is not full, less."""
    gpu = filled(chain_cycles=3, fill_outputs=20_000)
    tile = make_tile(layer, layer.k, layer.oy, layer.ox)
    each = [gpu.batch_cycles(tile, n, exact) / n for n in (1, 2, 8, 64)]
    assert gpu.batch_cycles(tile, 1, exact) == gpu.cycles(tile, exact)
    assert each == sorted(each, reverse=True)
    assert each[-1] < 0.9 * each[0]


@pytest.mark.parametrize("device", ["xavier_nx", "orin_nx", "agx_orin"])
def test_kernels_of_a_batch_are_left_whole(device: str) -> None:
    """Nothing is gained by cutting them, so that ResNet-18 in a batch of 8 is the sum of its whole kernels."""
    soc = find_soc(device, {"cores.gpu.runtime": "tensorrt_int8"})
    network, model = batched(find_workload("resnet18"), 8), measured.roofline(soc)
    ticks = sum(int(model.batch_cycles(make_tile(x, x.k, x.oy, x.ox), 8, exact)) for x in network)
    assert simulate(soc, network, named_mapping("default", network, soc)).ticks == ticks


def test_numbers_of_twice_the_width_move_at_half_the_speed() -> None:
    layer = conv(2, 2, 64)
    assert cycles(layer, core(number_bits=32)) - 100 == 2 * (cycles(layer, core(number_bits=16)) - 100)


def test_every_class_is_what_its_name_says() -> None:
    """Counts by hand: ResNet-18 has 13 3x3 filters that do not stride, 3 strided 1x1 ones, a stem and 3 strided 3x3
    ones; a ViT-Base block has six linear layers and two products; the patches stride; the head is on one token."""

    def count(name: str) -> dict[str, int]:
        found = [op_class(make_tile(x, x.k, x.oy, x.ox)) for x in find_workload(name) if x.macs]
        return {c: found.count(c) for c in OP_CLASSES if c in found}

    assert count("resnet18") == {"conv3x3": 13, "conv1x1": 3, "fc": 1, "other": 4}
    assert count("vit_base") == {"fc": 1, "attention": 96, "other": 1}
    assert count("mobilenet_v1") == {"conv1x1": 13, "depthwise": 13, "fc": 1, "other": 1}


def test_cycles_of_arrays_are_those_of_their_elements() -> None:
    layer = conv(64, 32, 8, kernel=3)
    ks = np.arange(0, 65, 8)
    many = core(winograd_tile=4).cycles(make_tile(layer, ks, 8, 8), exact)
    assert many.tolist() == [int(core(winograd_tile=4).cycles(make_tile(layer, int(k), 8, 8), exact)) for k in ks]
    assert many[0] == 0


def test_an_unknown_runtime_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match=r"rk3399\.yaml:\d+:\d+: cores\.cpu.*runtime onnx is not one of ncnn, tvm"):
        find_soc("rk3399", {"cores.cpu.runtime": "onnx"})


@pytest.mark.parametrize("device", measured.devices())
def test_a_whole_network_takes_the_sum_of_its_kernels(device: str) -> None:
    """Through lowering and engine: no DMA, one job a kernel, energy = (idle + busy) power x time."""
    soc, network = find_soc(device), find_workload("mobilenet_v2")
    mapping = complete(named_mapping("all_8bit", network, soc), network, soc)
    assert all(m.is_tiled and m.tile.oy == network[n].oy for n, m in mapping.layers.items() if network[n].macs)
    result = simulate(soc, network, mapping)
    model = measured.roofline(soc)
    ticks = sum(cycles(layer, model) for layer in network)
    assert result.ticks == ticks
    assert result.energy_j == pytest.approx((soc.base_power_mw + model.power_mw) * 1e-3 * ticks / soc.tick_hz)


def test_the_wall_energy_of_a_published_run_is_met() -> None:
    """MLPerf Inference v1.1, Xavier NX MaxQ, ResNet-50 single stream: 3.078 ms and 32.6 mJ an image at the wall."""
    soc, network = find_soc("xavier_nx"), find_workload("resnet50")
    result = simulate(soc, network, named_mapping("all_8bit", network, soc))
    assert result.energy_j == pytest.approx(32.6e-3, rel=0.05)


# ---------------------------------------------------------------------------------------------------------------------
# The fit

HEAD = "device,runtime,network,ms,source,evidence"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (f"{HEAD}\nrpi4,ncnn,vgg16,1,x,measured\nrpi9,ncnn,vgg16,1,x,measured", 3, "device: found 'rpi9'"),
        (f"{HEAD}\ndiana,ncnn,vgg16,1,x,measured", 2, "device: found 'diana'"),
        (f"{HEAD}\nrpi4,tflite,vgg16,1,x,measured", 2, "runtime: found 'tflite'; rpi4 has ncnn"),
        (f"{HEAD}\nrpi4,ncnn,vgg61,1,x,measured", 2, "network: found 'vgg61'"),
        (f"{HEAD}\nrpi4,ncnn,vgg16,-1,x,measured", 2, "ms: found '-1'; a positive number"),
        (f"{HEAD}\nrpi4,ncnn,vgg16,nan,x,measured", 2, "ms: found 'nan'; a positive number"),
        (f"{HEAD}\nrpi4,ncnn,vgg16,fast,x,measured", 2, "ms: found 'fast'; a positive number"),
        (f"{HEAD}\nrpi4,ncnn,vgg16,1,x", 2, "found 5 values"),
        (f"{HEAD}\nrpi4,ncnn,vgg16,1,,measured", 2, "say who published it"),
        (f"{HEAD}\nrpi4,ncnn,vgg16,1,x,m\nrpi4,ncnn,vgg16,2,x,m", 3, "stands in line 2 already"),
        (HEAD.replace("ms", "fortnights"), 1, "unknown column or unit 'fortnights'"),
        (HEAD.replace("ms", "ms,us"), 1, "one of s, ms, us"),
        (HEAD.replace("source,", ""), 1, "no column 'source'"),
        (HEAD, 1, "no latency in it"),
        ("", 1, "nothing there"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, place: int, message: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        measured.load(file)
    assert str(error.value).startswith(f"{file}:{place}: ")
    assert message in str(error.value)


def test_units_are_seconds_inside(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(HEAD.replace("ms", "us") + "\nrpi4,ncnn,vgg16,547100,x,measured\n")
    assert measured.load(file)[0].seconds == pytest.approx(0.5471)


def synthetic() -> tuple[list[Measured], dict[measured.Key, measured.Fitted]]:
    """Latencies that the core itself gives three devices, with efficiencies of our choosing."""
    networks = ("squeezenet", "mobilenet_v2", "resnet18", "alexnet", "vgg16", "vit_base", "googlenet")
    rows, truth = [], {}
    for device, factor in (("rpi4", 1.0), ("rpi5", 0.6), ("rk3399", 1.3)):
        efficiency = dict(zip(OP_CLASSES, (0.9 * factor, 0.6 * factor, 0.15, 0.4, 0.3 * factor, 0.5), strict=True))
        truth[device, "ncnn"] = measured.Fitted(efficiency, 40_000)
        soc = find_soc(device)
        model = measured.apply(measured.roofline(soc), "ncnn", truth[device, "ncnn"])
        for name in networks:
            ticks = sum(cycles(layer, model) for layer in find_workload(name))
            rows.append(Measured(device, "ncnn", name, ticks / soc.tick_hz, "synthetic", "model"))
    return rows, truth


def test_the_fit_finds_what_made_the_latencies() -> None:
    """Recovered from times alone: latencies to 5 %, what they depend on most (3x3 filters in VGG-16) to 15 %."""
    rows, truth = synthetic()
    fitted = measured.fit(rows)
    for row in rows:
        model = measured.apply(measured.roofline(find_soc(row.device)), "ncnn", fitted[row.key])
        ticks = sum(cycles(layer, model) for layer in find_workload(row.network))
        assert ticks * 1e-9 == pytest.approx(row.seconds, rel=0.05)
    for key, was in truth.items():
        assert fitted[key].efficiency["conv3x3"] == pytest.approx(was.efficiency["conv3x3"], rel=0.15)


def test_what_is_left_out_is_not_seen() -> None:
    """A latency a thousand times too long leaves the prediction of itself alone, and spoils others'."""
    rows, _ = synthetic()
    spoilt = [replace(rows[0], seconds=1000 * rows[0].seconds), *rows[1:]]
    clean, other = measured.cross_validate(rows), measured.cross_validate(spoilt)
    assert other[0].left_out_s == pytest.approx(clean[0].left_out_s, rel=0.05)
    assert other[1].left_out_s > 1.05 * clean[1].left_out_s


def test_device_files_hold_the_fit_to_the_published_latencies() -> None:
    """To the digits kept, and a little for the solver's last step on another machine."""
    for (device, runtime), fitted in measured.fit(measured.load(LATENCIES)).items():
        table = measured.roofline(find_soc(device)).runtimes[runtime]
        assert table.kernel_cycles == pytest.approx(fitted.kernel_cycles, rel=0.02), device
        assert table.efficiency.model_dump() == pytest.approx(fitted.efficiency, rel=0.02), device


@pytest.mark.parametrize(
    ("device", "runtime"), [("rpi5", "ncnn"), ("rk3399", "ncnn"), ("jetson_nano", "ncnn"), ("agx_orin", "ncnn")]
)
def test_a_network_left_out_is_met_within_a_fifth_on_average(device: str, runtime: str) -> None:
    predictions = measured.by_device(measured.cross_validate(measured.load(LATENCIES)))
    assert measured.mape(predictions[device, runtime], "left_out_s") <= 0.2


def test_files_say_on_how_many_networks_a_class_was_measured() -> None:
    """Counted anew from the published rows: networks that have kernels of the class."""
    seen: dict[tuple[str, str], list[set[int]]] = {}
    for row in measured.load(LATENCIES):
        seen.setdefault(row.key, []).append(
            set(measured.kernels(find_workload(row.network), find_soc(row.device), row.runtime).op.tolist())
        )
    tables = {(name, runtime) for name in measured.devices() for runtime in measured.roofline(find_soc(name)).runtimes}
    assert tables == set(seen)
    for (device, runtime), classes in seen.items():
        stated = measured.roofline(find_soc(device)).runtimes[runtime].networks
        counted = {name: sum(i in one for one in classes) for i, name in enumerate(OP_CLASSES)}
        assert stated is not None and stated.model_dump() == counted, (device, runtime)


@pytest.mark.parametrize("name", [*measured.devices(), "agx_xavier_dla", "agx_orin_dla"])
def test_every_boards_result_says_its_runtime_and_its_share_of_the_peak(name: str) -> None:
    """The MACs of the network over what the stated peak would do in its time; the runtime and the number format."""
    soc, network = find_soc(name), find_workload("resnet18")
    result = simulate(soc, network, named_mapping("default", network, soc))
    (one,) = (part for part in result.evidence if part.core in ("cpu", "gpu"))
    core = soc.cores[one.core]
    table = core.runtimes[core.runtime] if isinstance(core, Roofline) else core
    assert isinstance(table, InferenceRuntime | TensorGpu)
    rate = table.peak_macs_per_cycle * soc.tick_hz
    assert one.of_peak == pytest.approx(sum(layer.macs for layer in network) / result.seconds / rate, rel=1e-9)
    assert one.basis in summary(result) and one.basis.split()[1] in ("fp16", "fp32", "int8")
    assert one.basis.split()[0] in ("ncnn", "tvm", "pytorch", "tensorrt")


def test_figures_of_one_network_are_said_to_be() -> None:
    """Attention on a V100: one ViT under ncnn. The share of the peak tells how far that is from what others reach."""
    soc, block = find_soc("v100"), find_workload("bert_base_block")
    said = summary(simulate(soc, block, named_mapping("default", block, soc)))
    assert said.endswith("gpu is ncnn fp16, 0.13% of its peak; attention (99% of the time) from one network.")
    plain = find_workload("resnet18")
    assert "from" not in summary(simulate(soc, plain, named_mapping("default", plain, soc)))


def test_a_result_says_what_no_measurement_covers() -> None:
    """Attention on Jetson Nano: no measured network has any, so a transformer's result says so, and a network of
    convolutions has nothing to say."""
    soc = find_soc("jetson_nano")
    vit, plain = find_workload("vit_base"), find_workload("resnet18")
    (note,) = simulate(soc, vit, named_mapping("default", vit, soc)).unmeasured
    assert note.startswith("no measurement of jetson_nano covers attention on gpu")
    assert simulate(soc, plain, named_mapping("default", plain, soc)).unmeasured == ()
