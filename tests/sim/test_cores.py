"""Core formulas against hand counts and against the published models that they come from (oracle/DEVIATIONS.md)."""

import numpy as np
import pytest

from cosoc.sim import exact
from cosoc.sim.cores.cluster import Cluster
from cosoc.sim.cores.host_cpu import HostCpu
from cosoc.sim.cores.ne16 import Ne16
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.model.silicon import SUM_BITS, Silicon
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import SLICE, Layer, Tile


@pytest.fixture(scope="module")
def diana() -> SoC:
    """With the unrolls of DORY's template."""
    return find_soc("diana", {"cores.analog.ox_unrolls": "[1, 2, 4]"})


def conv(k: int, c: int, oy: int, ox: int, f: int, stride: int = 1, ox_unroll: int = 0) -> Tile:
    return Tile("conv", k, c, oy, ox, f, f, stride, stride, ox_unroll=ox_unroll)


def test_digital_block_costs_macs_refills_and_a_start(diana: SoC) -> None:
    # One block of 16 pixels x 16 channels, 3x3, 8 input channels: 8*9 MAC cycles, 2*8*3 refills, 23 to start.
    assert diana.cores["digital"].cycles(conv(16, 8, 1, 16, 3), exact) == 72 + 48 + 23


@pytest.mark.parametrize(
    ("layer", "odimo_macs_only"),
    [((64, 64, 16, 16, 3), 36864), ((64, 64, 56, 56, 3), 516096), ((16, 16, 32, 32, 3), 9216)],
)
def test_digital_is_odimo_without_refill_start_and_packing(
    layer: tuple[int, int, int, int, int], odimo_macs_only: int
) -> None:
    # ODiMO's digital law less its load-store term: ceil(K/16) * C * ceil(OX/16) * OY * kx * ky (hw_models.py).
    settings = {"cores.digital.refill_cycles": "0", "cores.digital.block_start_cycles": "0"}
    core = find_soc("diana", settings | {"cores.digital.pack_rows": "false"}).cores["digital"]
    assert core.cycles(conv(*layer), exact) == odimo_macs_only


def test_digital_conv1_is_within_two_per_cent_of_match(diana: SoC) -> None:
    # MATCH's law gives 655,760 for ResNet-18's conv1; it spares filter rows on padding, which ours does not.
    ours = diana.cores["digital"].cycles(conv(64, 3, 112, 112, 7, 2), exact)
    assert ours == 112 * 7 * 4 * (3 * 49 + 2 * 3 * 7 + 23)
    assert 655_760 < ours < 1.02 * 655_760


def test_depthwise_runs_one_channel_a_job(diana: SoC) -> None:
    tile = Tile("conv", 8, 1, 16, 16, 3, 3, depthwise=True, groups=8)
    assert diana.cores["digital"].cycles(tile, exact) == 8 * (200 + 16 * (9 + 2 * 3 + 23))


@pytest.mark.parametrize(
    ("layer", "unroll", "odimo_ops_cycles"),
    # ODiMO's analog law less its weight term: ceil(K/512) ceil(C/128) OX OY / u * 18.2 (odimo hw_models.py); the
    # unrolls are those listed for the same layers.
    [((64, 64, 16, 16, 3), 4, 1164.8), ((64, 64, 56, 56, 3), 4, 14268.8), ((128, 128, 16, 16, 3), 1, 4659.2)],
)
def test_analog_array_time_is_odimos(
    diana: SoC, layer: tuple[int, int, int, int, int], unroll: int, odimo_ops_cycles: float
) -> None:
    analog = diana.cores["analog"]
    assert analog.unroll(conv(*layer), exact) == unroll  # type: ignore[attr-defined]
    assert analog.cycles(conv(*layer), exact) == -(-odimo_ops_cycles // 1)


def test_an_array_that_states_no_steps_stores_its_weights_as_they_are(diana: SoC) -> None:
    """5 rows of 3 cells of 2 bits are 4 bytes; in steps of 288 rows and 128 columns they are 9,216."""
    analog = diana.cores["analog"]
    plain = {"store_rows_step", "store_cols_step", "min_channels"}
    stated = analog.model_dump(mode="json", by_alias=True, exclude_unset=True)
    bare = type(analog).model_validate({key: value for key, value in stated.items() if key not in plain})
    assert bare.weight_bytes(conv(3, 5, 1, 1, 1), exact) == -(-5 * 3 * 2 // 8)
    assert analog.weight_bytes(conv(3, 5, 1, 1, 1), exact) == 288 * 128 * 2 // 8


@pytest.mark.parametrize(("c", "f", "stride"), [(16, 3, 1), (64, 3, 1), (24, 5, 2), (3, 7, 2), (100, 1, 1)])
def test_as_many_pixels_share_an_operation_as_have_their_rows(c: int, f: int, stride: int) -> None:
    """By trial: filters shifted by a stride each, of which the array of 1,152 rows holds every column of the image that
    they reach, at 64 input channels at least; and its 512 columns hold 32 outputs of each."""
    every = ", ".join(map(str, range(1, 17)))
    array = find_soc("diana", {"cores.analog.ox_unrolls": f"[{every}]"}).cores["analog"]
    fits = [u for u in range(1, 17) if max(c, 64) * f * (f + (u - 1) * stride) <= 1152 and 32 * u <= 512]
    assert array.unroll(conv(32, c, 8, 8, f, stride), exact) == max(fits, default=1)  # type: ignore[attr-defined]


def test_analog_row_of_pixels_shares_an_operation_up_to_the_unroll(diana: SoC) -> None:
    times = [diana.cores["analog"].cycles(conv(32, 64, 1, ox, 3), exact) for ox in (1, 4, 5, 8)]
    assert times == [19, 19, 37, 37]  # ceil(18.2), ceil(36.4): 1, 1, 2, 2 operations


def test_analog_large_filters_take_one_operation_a_block(diana: SoC) -> None:
    analog = diana.cores["analog"]
    one = analog.cycles(conv(512, 128, 1, 5, 3), exact)  # 1152 rows, 512 columns: exactly the array
    assert one == 91
    assert analog.cycles(conv(512, 256, 1, 5, 3), exact) == 2 * one
    assert analog.cycles(conv(513, 128, 1, 5, 3), exact) == 2 * one


def test_analog_energy_is_that_of_the_cells_at_work(diana: SoC) -> None:
    """16 channels are laid out as 64 a tap (ODiMO); 8 pixels of 3x3, 16 filters, 4 at once: two operations, each of
    64 x 3 x (3 taps + 3 shifts) rows and 16 x 4 columns of 1152 x 512 cells."""
    analog = diana.cores["analog"]
    one = 1966.0 * (64 * 3 * 6) * (16 * 4) / (1152 * 512)
    assert analog.energy_pj(conv(16, 16, 1, 8, 3), exact) == pytest.approx(2 * one)
    assert analog.energy_pj(conv(16, 16, 1, 8, 3, ox_unroll=1), exact) == pytest.approx(8 * 1966.0 * 576 * 16 / 589_824)


def test_analog_feed_reads_each_column_once_a_row_and_writes_each_output(diana: SoC) -> None:
    tile = conv(64, 64, 1, 56, 3)
    assert diana.cores["analog"].feed_bytes(tile, exact) == 58 * 3 * 64 + 56 * 64


def test_analog_weights_are_stored_padded(diana: SoC) -> None:
    # 576 rows are 2 x 288; 64 columns pad to 128; 2 bit a cell.
    assert diana.cores["analog"].weight_bytes(conv(64, 64, 8, 8, 3), exact) == 576 * 128 // 4


def test_digital_weights_pad_channels_and_carry_biases(diana: SoC) -> None:
    # DORY-HAL: (C*K*fx*fy + 4K) bytes with K padded to 16.
    assert diana.cores["digital"].weight_bytes(conv(10, 64, 1, 1, 1), exact) == 16 * 64 + 4 * 16


def test_no_channels_cost_nothing(diana: SoC) -> None:
    for core in diana.cores.values():
        for tile in (conv(0, 64, 8, 8, 3), Tile("conv", 0, 1, 8, 8, 3, 3, depthwise=True, groups=8)):
            assert not core.fits(conv(1, 8, 8, 8, 3)) or core.fits(tile)
            costs = (core.cycles(tile, exact), core.weight_bytes(tile, exact), core.energy_pj(tile, exact))
            assert costs == (0, 0, 0)


def test_the_host_pays_for_every_mac_and_for_every_operand() -> None:
    # 3x3 over 4 channels to 8 x 16 x 16; an addition of two tensors of that size.
    figures = {"cores.host.cycles_per_mac": "3", "cores.host.cycles_per_element": "5"}
    host = find_soc("diana", figures).cores["host"]
    assert host.cycles(conv(8, 4, 16, 16, 3), exact) == 8 * 16 * 16 * 4 * 9 * 3
    assert host.cycles(Tile("add", 8, 1, 16, 16, operands=2), exact) == 8 * 16 * 16 * 2 * 5


def test_the_host_pays_for_each_kind_of_element_by_its_own_figure() -> None:
    """100 pixels of 8 channels: softmax and norms read rows more than once, concatenations and slices only move. What a
    file does not tell apart costs as other elements do."""
    keys = ("cycles_per_element", "cycles_per_row_element", "cycles_per_copied_element")
    figures = {f"cores.host.{key}": value for key, value in zip(keys, ("5", "7", "2"), strict=True)}
    host = find_soc("diana", figures).cores["host"]
    assert isinstance(host, HostCpu)
    plain = host.model_copy(update=dict.fromkeys(keys[1:]))
    for op, fn, each in (
        ("softmax", "", 7),
        ("norm", "", 7),
        ("concat", "", 2),
        ("eltwise", SLICE, 2),
        ("eltwise", "gelu", 5),
    ):
        tile = make_tile(Layer("one", op, ("x",), k=8, c=8, oy=10, ox=10, iy=10, ix=10, fn=fn), 8, 10, 10)
        assert host.cycles(tile, exact) == 800 * each, op
        assert plain.cycles(tile, exact) == 800 * 5, op


def test_a_systolic_array_stores_a_byte_a_weight() -> None:
    core = find_soc("gemmini").cores["gemmini"]
    assert core.weight_bytes(conv(8, 4, 6, 6, 3), exact) == 8 * 4 * 9
    assert core.weight_bytes(Tile("conv", 8, 1, 6, 6, 3, 5, depthwise=True, groups=8), exact) == 8 * 15


def test_pixels_are_gathered_for_a_window_of_two_taps() -> None:
    """A window of 1 x 2 over c channels multiplies as a point over 2 c does, and gathers its pixels first."""
    cluster = find_soc("gap8").cores["cluster"]
    assert isinstance(cluster, Cluster)
    window, point = Tile("conv", 16, 16, 8, 8, 1, 2), Tile("conv", 16, 32, 8, 8)
    core = cluster.model_copy(update={"shares": "blocks"})
    assert core.law(window, exact) > core.law(point, exact)


def test_silicon_of_cores_by_hand() -> None:
    """A processor multiplies a word of four bytes at once. NE16 keeps 3 x 3 pixels of sums of 32 channels, and of its
    16 input channels the 5 x 5 bytes that their windows lie over. What a core does not name it has none of."""
    cluster, ne16 = find_soc("gap8").cores["cluster"], find_soc("gap9").cores["ne16"]
    assert isinstance(cluster, Cluster) and isinstance(ne16, Ne16)
    assert cluster.silicon().multipliers == 4 * cluster.cores
    assert cluster.silicon().adders == Silicon().adders == 0
    assert ne16.silicon().register_bits == 9 * ne16.outputs * SUM_BITS + 25 * ne16.channels * 8


def test_refusals_name_what_is_not_supported(diana: SoC) -> None:
    depthwise = Tile("conv", 8, 1, 4, 4, 3, 3, depthwise=True, groups=8)
    assert "depthwise" in diana.cores["analog"].fits(depthwise)[0]
    assert "ox_unroll 3" in diana.cores["analog"].fits(conv(8, 8, 4, 4, 3, ox_unroll=3))[0]
    assert "grouped" in diana.cores["digital"].fits(Tile("conv", 8, 4, 4, 4, 3, 3, groups=2))[0]
    assert diana.cores["host"].fits(depthwise) == []


def test_formulas_agree_on_ints_and_arrays(diana: SoC) -> None:
    ks = np.array([0, 1, 15, 16, 17, 128, 512, 513])
    for core in diana.cores.values():
        if core.fits(conv(1, 40, 7, 9, 3)):
            continue
        for cost in (core.cycles, core.feed_bytes, core.weight_bytes):
            many = cost(conv(ks, 40, 7, 9, 3), exact)  # type: ignore[arg-type]
            assert many.tolist() == [cost(conv(int(k), 40, 7, 9, 3), exact) for k in ks]
