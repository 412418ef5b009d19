"""GAP8 and GAP9: kernels and NE16 by hand, operating points, MobileNets by their rule, and silicon."""

from dataclasses import replace

import pytest

from cosoc.sim import exact
from cosoc.sim.cores.cluster import Cluster
from cosoc.sim.cores.ne16 import Ne16
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.names import list_workloads
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part
from cosoc.sim.model.mobilenets import mobilenet
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Tile, Workload
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate
from cosoc.sim.truth import gap8_mobilenets, gap9_mlperf_tiny, redmule_rtl

FASTER = {"voltage_v": "0.8", "clock_hz": "370000000"}  # GAP9's other published point


@pytest.fixture(scope="module")
def gap9() -> SoC:
    return find_soc("gap9")


@pytest.fixture(scope="module")
def ne16(gap9: SoC) -> Ne16:
    core = gap9.cores["ne16"]
    assert isinstance(core, Ne16)
    return core


@pytest.fixture(scope="module")
def blocks() -> Cluster:
    core = find_soc("gap8").cores["cluster"]
    assert isinstance(core, Cluster) and core.shares == "blocks"
    return core


def conv(k: int, c: int, size: int, f: int = 3, stride: int = 1) -> Tile:
    return Tile("conv", k, c, size, size, f, f, stride, stride)


def depthwise(k: int, size: int, stride: int = 1) -> Tile:
    return Tile("conv", k, 1, size, size, 3, 3, stride, stride, depthwise=True, groups=k)


# What ends a block of k channels: scaling, biases, nine pixels to store.
ENDS = {k: (9 + k) + (8 + k // 8) + (4 + 9) for k in (16, 32)}


def test_a_block_of_ne16_by_hand(ne16: Ne16) -> None:
    """3x3 pixels of 32 channels, of 16: a window of 5x5 comes, a pixel a cycle; 32 channels by 8 bits. The FIFOs of
    the input, the weights and the products fill in 6 cycles each, and 2 pass between parts."""
    window = (6 + 25) + 6 + (6 + 32 * 8) + 2
    assert ne16.cycles(conv(32, 16, 3), exact) == window + ENDS[32]
    assert ne16.cycles(conv(32, 32, 3), exact) == 2 * window + ENDS[32]
    assert ne16.cycles(conv(48, 16, 3), exact) == window + ENDS[32] + (6 + 25) + 6 + (6 + 16 * 8) + 2 + ENDS[16]
    assert ne16.cycles(conv(32, 16, 3, f=1), exact) == (10 + 9) + 6 + (6 + 32) + 2 + ENDS[32]
    assert ne16.cycles(depthwise(16, 3), exact) == (6 + 25) + (6 + 16) + (6 + 16 * 8) + 2 + ENDS[16]
    assert ne16.cycles(conv(32, 16, 4), exact) == 4 * ne16.cycles(conv(32, 16, 3), exact)


def test_a_stride_of_two_leaves_two_by_two_outputs_under_a_window(ne16: Ne16) -> None:
    """Under 5x5 inputs lie 3x3 outputs, or 2x2 where the window moves by two."""
    assert ne16.cycles(conv(32, 16, 6, stride=2), exact) == 9 * ne16.cycles(conv(32, 16, 3), exact)


def test_fewer_bits_shorten_windows_and_weights_and_no_points(ne16: Ne16) -> None:
    """A window takes a cycle for each bit and channel; 1x1 has the bits side by side."""
    for bits in ne16.weight_formats:
        narrow = ne16.with_bits(bits)
        saved = 32 * (8 - bits)
        assert ne16.cycles(conv(32, 16, 3), exact) - narrow.cycles(conv(32, 16, 3), exact) == saved
        assert ne16.cycles(conv(32, 16, 3, f=1), exact) == narrow.cycles(conv(32, 16, 3, f=1), exact)
        assert narrow.weight_bytes(conv(32, 16, 3), exact) == 32 * 16 * 9 * bits // 8 + 4 * 32


def test_what_ne16_refuses(ne16: Ne16) -> None:
    assert ne16.fits(Tile("conv", 64, 16, 25, 5, 10, 4)) == ["has a window of 3x3 or 1x1, not 10x4"]
    assert ne16.fits(conv(16, 3, 32)) == ["is used from 8 input channels on, not 3"]
    assert ne16.fits(conv(16, 16, 32, stride=3)) == ["moves by 1 or 2, not by stride 3x3"]
    assert ne16.fits(depthwise(64, 8)) == []


def test_blocks_are_divided_among_the_processors(blocks: Cluster) -> None:
    """3 x 3 pixels and 8 filters: 5 pairs by 2 groups are 10 blocks, two for the slowest of 8 processors; 5 inputs are
    two words. A window of 3x3 is gathered first, 45 bytes for each of 5 pairs, one a processor."""
    each = blocks.inner_cycles * 2 + blocks.group_cycles
    assert blocks.law(conv(8, 5, 3, f=1), exact) == 2 * each
    window = blocks.inner_cycles * 12 + blocks.group_cycles
    assert blocks.law(conv(8, 5, 3), exact) == 2 * window + blocks.im2col_cycles * 45


@pytest.mark.parametrize("shares", ["columns", "blocks"])
def test_twice_the_processors_never_take_longer(blocks: Cluster, shares: str) -> None:
    one = blocks.model_copy(update={"shares": shares})
    two = one.model_copy(update={"cores": 16})
    tiles = [conv(k, 24, n, f) for k in (3, 16, 64) for n in range(1, 33) for f in (1, 3)]
    tiles += [depthwise(24, n) for n in range(1, 33)]
    assert all(two.law(tile, exact) <= one.law(tile, exact) for tile in tiles)
    # A layer with work for all: half the time.
    assert 2 * two.law(conv(64, 64, 32), exact) == one.law(conv(64, 64, 32), exact)


@pytest.mark.parametrize("chip", ["gap8", "gap9"])
def test_networks_are_never_slower_on_twice_the_processors(chip: str) -> None:
    for name in ("mobilenet_v1_96_0.25", "dscnn"):
        workload, ticks = find_workload(name), []
        for cores in ("8", "16"):
            soc = find_soc(chip, {"cores.cluster.cores": cores})
            ticks.append(simulate(soc, workload, named_mapping("all_8bit", workload, soc, "overlapped")).ticks)
        assert ticks[1] < ticks[0]


def run(soc: SoC, name: str) -> Result:
    workload = find_workload(name)
    return simulate(soc, workload, named_mapping("all_8bit", workload, soc, "overlapped"))


def test_both_operating_points_come_from_one_file(gap9: SoC) -> None:
    """Measured: the same cycles to 0.1 %. By the laws: what leaks goes with the voltage and the time, all else with the
    square of the voltage."""
    slow, fast = run(gap9, "dscnn"), run(find_soc("gap9", FASTER), "dscnn")
    assert fast.ticks == slow.ticks
    assert fast.seconds == pytest.approx(slow.seconds * 240 / 370)
    leaked = 1e-3 * gap9.static_power_mw * slow.seconds
    v = 0.8 / 0.65
    expected = leaked * v * 240 / 370 + (slow.energy_j - leaked) * v**2
    assert fast.energy_j == pytest.approx(expected, rel=1e-9)


def test_a_clock_needs_a_voltage_and_may_be_given_at_the_nominal_one(gap9: SoC) -> None:
    """At the same voltage and half the clock: twice the time, the same energy but for what leaks."""
    half = run(find_soc("gap9", {"clock_hz": "120000000"}), "dscnn")
    full = run(gap9, "dscnn")
    leaked = 1e-3 * gap9.static_power_mw * full.seconds
    assert half.seconds == pytest.approx(2 * full.seconds)
    assert half.energy_j == pytest.approx(full.energy_j + leaked)
    silent = gap9.model_copy(update={"voltage_v": None, "nominal_voltage_v": None, "clock_hz": 120_000_000})
    assert silent.problems() == [(("clock_hz",), "is the clock at voltage_v; give that, too")]


@pytest.mark.parametrize("runtime", ["serial", "overlapped"])
def test_the_start_of_a_layer_is_paid_once(gap9: SoC, runtime: str) -> None:
    """A layer of four jobs, and another: their launches, one after the other on the host, are longer by two starts."""
    first = Layer("a", "conv", (INPUT,), 64, 16, 12, 12, 12, 12)
    second = replace(first, name="b", inputs=("a",), c=64)
    workload = Workload("two", (16, 12, 12), (first, second), ("b",))
    plans = {name: LayerPlan((Part("ne16", 64),)) for name in "ab"}
    spent = []
    for cycles in ("0", "1000"):
        soc = find_soc("gap9", {"cores.ne16.layer_launch_cycles": cycles})
        result = simulate(soc, workload, Mapping("m", runtime, plans))  # type: ignore[arg-type]
        spent.append((result.ticks, sum(layer.cores["ne16"].launch_ticks for layer in result.by_layer)))
    jobs = spent[0][1] // gap9.cores["ne16"].launch_cycles
    assert spent[1][1] == jobs * gap9.cores["ne16"].launch_cycles + 2 * 1000
    if runtime == "serial":
        assert spent[1][0] - spent[0][0] == 2 * 1000


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        # Published: arXiv 1704.04861 table 4 and 1801.04381 table 4; millions, rounded there.
        ("mobilenet_v1_224_1.0", 569, 4.2),
        ("mobilenet_v1_224_0.5", 149, 1.3),
        ("mobilenet_v2_224_1.0", 300, 3.4),
        ("mobilenet_v2_224_1.4", 585, 6.9),
    ],
)
def test_mobilenets_have_the_published_size(name: str, macs: float, params: float) -> None:
    found = find_workload(name)
    assert found.macs / 1e6 == pytest.approx(macs, rel=0.01)
    assert found.params / 1e6 == pytest.approx(params, rel=0.13 if name.endswith("1.4") else 0.04)


def test_the_rule_makes_the_network_that_comes_with_cosoc() -> None:
    ours, kept = mobilenet(2, 224, 1.0), find_workload("mobilenet_v2")
    shapes = [[(n.op, n.k, n.c, n.oy, n.iy, n.fy, n.groups) for n in net if n.op in ("conv", "add")]
              for net in (ours, kept)]  # fmt: skip
    assert shapes[0] == shapes[1]
    assert "mobilenet_v2_224_1" not in list_workloads()


def test_gap9_takes_what_silicon_takes() -> None:
    """MLPerf Tiny v1.0, the two networks and points that its figures were fitted on."""
    truth = gap9_mlperf_tiny.SET
    for row in truth.compare(truth.built_in):
        assert row.ours == pytest.approx(row.measured, rel=0.05), row.label
        assert row.energy_ours_j == pytest.approx(row.energy_measured_j, rel=0.1), row.label


def test_gap8_takes_what_silicon_takes() -> None:
    """Six rows of GreenWaves' table: 10 % on average, and none a fifth off."""
    truth = gap8_mobilenets.SET
    found = list(truth.compare(truth.built_in))
    errors = [abs(row.ours / row.measured - 1) for row in found]
    assert sum(errors) / len(errors) <= 0.1 and max(errors) < 0.2
    assert all(row.energy_ours_j == pytest.approx(row.energy_measured_j, rel=0.2) for row in found)


def test_rows_that_name_nothing_known_are_refused() -> None:
    for truth, row, message in (
        (gap8_mobilenets.SET, {"network": "ResNet 224", "fps": "1", "energy_mj": "1"}, "column network must read"),
        (gap9_mlperf_tiny.SET, {"operating_point": "gap9_650_240", "benchmark": "x"}, "column benchmark is none of"),
        (gap9_mlperf_tiny.SET, {"operating_point": "fast", "benchmark": "keyword_spotting"}, "column operating_point"),
        (gap8_mobilenets.SET, {"network": "MobileNet V1 128 0.25", "fps": "fast", "energy_mj": "1"},
         "row 1, fps: found 'fast'; a positive number is needed"),
        (gap9_mlperf_tiny.SET, {"operating_point": "gap9_650_240", "benchmark": "keyword_spotting",
                                "inferences_per_s": "1", "energy_uj": "0"}, "row 1, energy_uj: found '0'"),
        (redmule_rtl.SET, {"m_rows": "0", "n_reduction": "8", "k_cols": "8", "stall_probability": "0", "cycles": "1"},
         "row 0x8x8: column m_rows is '0', must be 1 to 4096"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            list(truth.compare([row]))
