"""What the banks of a dynamic memory make of bursts: hand-drawn timelines, closed forms, and the walk's addresses.

A burst of 64 bytes holds the bus for 4 cycles; a bank whose row changes is held for 47; the bus rests for 3 when its
direction changes. A cycle is one tick here, and refresh takes nothing unless a test says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import Builder, Program
from cosoc.sim.machine.trace import Run
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part
from cosoc.sim.model.soc import Dram
from cosoc.sim.movers.links import banks_of, told_as
from cosoc.sim.simulate import simulate

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from sharing import dram

ENGINES = {"reference": engine_reference.run, "fast": engine_fast.run}
BURST, DATA, ROW, TURN = 64, 4, 47, 3  # bytes, cycles
BANKS, PAGE = 4, 1024  # bytes of a row
MEMORY = Dram(
    bytes_per_period=BURST, period_cycles=DATA, banks=BANKS, row_bytes=PAGE, row_cycles=ROW, turnaround_cycles=TURN,
    batch_bursts=1, refresh_cycles=0, refresh_interval_cycles=7800,
)  # fmt: skip


def test_a_memory_moves_its_bytes_every_cycle_unless_it_says_otherwise() -> None:
    stated = MEMORY.model_dump() | {"period_cycles": 1}
    assert Dram(**{key: stated[key] for key in stated if key != "period_cycles"}) == Dram(**stated)


@pytest.fixture(params=ENGINES)
def run(request: pytest.FixtureRequest) -> Run:
    return ENGINES[request.param]


def bursts(addresses: Sequence[int], out: Sequence[bool] = (), memory: Dram = MEMORY, lanes: int = 1) -> Program:
    """One burst after the other, so many under way at once."""
    b = Builder("bursts", 1)
    servers, unit = banks_of(b, "memory", memory, 1), b.unit("u", lanes=lanes)
    for address, written in zip(addresses, out or [False] * len(addresses), strict=True):
        route, tag = servers.over(address // PAGE, written)
        b.op(unit, bytes=BURST, burst=BURST, route=route, tag=tag)
    return b.build()


@pytest.mark.parametrize(
    ("addresses", "out", "ends"),
    [
        ((0, 64, 128), (), (47, 51, 55)),  # the row is opened once
        ((0, PAGE, 64, PAGE + 64), (), (47, 94, 98, 102)),  # two banks keep a row open each
        ((0, BANKS * PAGE, 0), (), (47, 94, 141)),  # two rows of one bank close each other
        ((0, 64, 128, 192), (False, True, True, False), (47, 54, 58, 65)),  # the bus turns twice, the row stays open
    ],
)
def test_one_burst_at_a_time(
    run: Run, addresses: tuple[int, ...], out: tuple[bool, ...], ends: tuple[int, ...]
) -> None:
    """Drawn by hand. The first burst on the bus turns it, too, which the opening of its row hides."""
    assert tuple(run(bursts(addresses, out), ()).end.tolist()) == ends


def test_rows_are_opened_side_by_side(run: Run) -> None:
    """Four bursts for four banks at once: the bus is theirs in turn, at 4, 8, 12 and 16 and 3 for its first direction,
    while all four rows open from 0 to 47. Then each bank has a row open: 4 cycles a burst."""
    addresses = [PAGE * i for i in range(BANKS)] + [PAGE * i + BURST for i in range(BANKS)]
    assert run(bursts(addresses, lanes=BANKS), ()).end.tolist() == [47, 47, 47, 47, 51, 55, 59, 63]


def test_refresh_is_taken_off_the_rate() -> None:
    """160 of 7,800 cycles: 62.68 of 64 bytes in four; and the rest of a stream's bytes take so much longer."""
    memory = MEMORY.model_copy(update={"refresh_cycles": 160})
    assert memory.rate[0] / memory.rate[1] == pytest.approx(16 * (1 - 160 / 7800))
    n = 2000
    ends = engine_fast.run(bursts([0] * n, memory=memory)).makespan
    assert (
        ends == ROW + (n - 1) * 5
    )  # in ticks of a cycle 4.08 are 5, which is why programs with such memories have more


def test_streams_strides_and_random_rows_are_as_the_datasheets_have_them() -> None:
    """Within 2 % of the bus, or of what the banks' row cycles leave (benchmarks/sharing.py has the closed forms)."""
    for name, case in dram().items():
        assert case["ours"] == pytest.approx(case["closed_form"], rel=0.02), name


def test_a_stream_has_nearly_the_peak_and_one_bank_a_small_part() -> None:
    """DDR3-2133: 16 bytes a cycle, 97.9 % of it less refresh; a row cycle of 47 for each 64 bytes is 8.5 %."""
    found = {name.split(":")[0]: case["ours"] / 16 for name, case in dram().items() if "DDR3" in name}
    assert found["DDR3-2133, a stream read"] == pytest.approx(1 - 160 / 7800, rel=0.01)
    assert found["DDR3-2133, each in a row of one bank"] == pytest.approx(64 / 47 / 16, rel=0.01)


def test_misses_go_over_the_bank_that_their_address_is_in() -> None:
    """ResNet-8 on Gemmini: every fetch goes over port, data bus and one bank, and there are no more rows than those of
    8 KB that the network's weights and tensors lie in, each of which begins in a row of its own at worst."""
    soc = find_soc("gemmini")
    about = soc.memories["dram"].dram
    assert about is not None
    network = find_workload("resnet8")
    program = lower(network, named_mapping("default", network, soc), soc)
    fetch = program.rows["unit"] == program.unit_names.index("fetch")
    rows = program.rows[fetch]
    assert len(rows) > 100 and (rows["route_n"] == 3).all()
    port, bus, bank = (program.routes[rows["route_at"] + i] for i in range(3))
    assert {program.server_names[s] for s in np.unique([port, bus])} == {"dram_port", "dram.bus"}
    banks = {program.server_names[s] for s in np.unique(bank)}
    assert {told_as(name) for name in banks} == {"dram.banks"}
    opened = {(int(b), int(t)) for b, t in zip(bank, rows["tag"] >> 1, strict=True)}
    held = sum(layer.weights + layer.k * layer.oy * layer.ox for layer in network)
    assert len(banks) <= len(opened) <= held // about.row_bytes + 2 * len(network.layers)
    assert (rows["tag"] % 2 == 0).all()  # read


def test_a_dmas_transfers_go_on_from_row_to_row() -> None:
    """The DMA of hetero knows no addresses: its transfers begin where the one before ended, so that two that follow
    each other never share a row."""
    soc = find_soc("hetero")
    network = find_workload("resnet8")
    mapping = Mapping(
        "digital", "overlapped", {
            layer.name: LayerPlan((Part("digital" if layer.op == "conv" else "vector", layer.k),)) for layer in network
        },
    )  # fmt: skip
    program = lower(network, mapping, soc)
    mine = program.rows[program.rows["unit"] == program.unit_names.index("dma")]
    assert len(mine) > 10
    pages = [
        (row["tag"] >> 1) * 32 + int(program.server_names[program.routes[row["route_at"] + at]].rpartition("bank")[2])
        for row in mine
        for at in range(row["route_n"])
        if "bank" in program.server_names[program.routes[row["route_at"] + at]]
    ]
    assert len(pages) == len(mine) and all(a < b for a, b in pairwise(pages))


def test_a_cores_own_traffic_goes_over_the_bus() -> None:
    """A bus of 20 bytes a cycle behind a link of 109 holds the GPU up as a link of 20 does. It is finer: a link takes
    whole cycles for a burst."""
    soc, network = find_soc("agx_xavier_dla"), find_workload("resnet8")
    slow = MEMORY.model_copy(update={"bytes_per_period": 20, "period_cycles": 1})
    memory = soc.memories["dram"].model_copy(update={"dram": slow})
    link = soc.links["emc"].model_copy(update={"bytes_per_period": 20})
    changes: tuple[dict[str, object], ...] = ({"memories": {"dram": memory}}, {"links": {"emc": link}})
    seconds = [
        simulate(chip, network, named_mapping("gpu", network, chip)).seconds
        for chip in (soc, *(soc.model_copy(update=change) for change in changes))
    ]
    assert seconds[1] == pytest.approx(seconds[2], rel=0.02) and seconds[1] > 1.5 * seconds[0]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("memories.dram.dram.row_bytes", "1000", "must be a power of two"),
        ("memories.dram.dram.refresh_cycles", "7800", "nothing would ever move"),
    ],
)
def test_what_makes_no_memory_is_refused(key: str, value: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_soc("gemmini", {key: value})
