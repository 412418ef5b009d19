"""Gemmini's programs: hand-drawn timelines, bounds, and the measured rows where a file of them is at hand."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.machine import engine_fast, engine_reference, program
from cosoc.sim.machine.program import validate
from cosoc.sim.movers import cached
from cosoc.sim.movers.cached_terms import Machine
from cosoc.sim.movers.cached_units import TICKS_PER_CYCLE
from cosoc.sim.movers.measured import Nest, lower_nest, run_nest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def execute_bound(nest: Nest) -> int:
    """Cycles in which rows stream through the array, if nothing ever waits: per block the rows of A, at least 4.

    A product over the dimensions, as tiles are cut along each of them alone. ExecuteController.scala, lines 285-301.
    """

    def tiles(d: int) -> list[int]:
        return [min(nest.tile[d], nest.extent[d] - i) for i in range(0, nest.extent[d], nest.tile[d])]

    def rows(columns: int) -> int:
        return sum(max(min(nest.side, columns - i), 4) for i in range(0, columns, nest.side))

    blocks = [sum(-(-size // nest.side) for size in tiles(d)) for d in (0, 1)]
    if nest.kind == "gemm":
        row_blocks = sum(-(-size // nest.side) * max(min(nest.side, size), 4) for size in tiles(5))
        return blocks[0] * blocks[1] * min(row_blocks, sum(map(rows, tiles(5))))
    return math.prod(blocks) * nest.extent[2] ** 2 * nest.extent[4] * sum(map(rows, tiles(5)))


def random_nest(seed: int) -> Nest:
    g = np.random.default_rng(seed)
    side = int(g.choice([4, 8, 16, 32]))
    if g.random() < 0.4:
        extent = (int(g.integers(1, 200)), int(g.integers(1, 300)), 1, 1, 1, int(g.integers(1, 100)))
        tile = tuple(side * int(g.integers(1, 4)) if d in (0, 1, 5) else 1 for d in range(6))
        return Nest("gemm", side, extent, tile, tuple(int(d) for d in g.permutation(6)))
    kernel = int(g.choice([1, 3]))
    size = int(g.integers(4, 20))
    extent = (int(g.integers(1, 40)), int(g.integers(1, 90)), kernel, kernel, size, size)
    tile = tuple(int(g.integers(1, n + 1)) for n in extent)
    return Nest(
        "conv", side, extent, tile, tuple(int(d) for d in g.permutation(6)), 1, kernel // 2, kernel // 2, size, size
    )


def soc_of(side: int):  # type: ignore[no-untyped-def]
    return find_soc("gemmini_firesim", {"cores.gemmini.side": str(side)})


@pytest.mark.parametrize("seed", range(30))
def test_no_nest_is_faster_than_its_array(seed: int) -> None:
    nest = random_nest(seed)
    assert run_nest(nest, soc_of(nest.side), cap=20_000).cycles >= execute_bound(nest)


@pytest.mark.parametrize("seed", range(8))
def test_programs_are_sound_and_engines_agree_on_them(seed: int) -> None:
    nest = random_nest(100 + seed)
    program = lower_nest(nest, soc_of(nest.side), 300).program
    assert validate(program) == []
    fast, reference = engine_fast.run(program), engine_reference.run(program)
    assert np.array_equal(fast.end, reference.end)


def test_one_tile_by_hand() -> None:
    """A 16x16x16 GEMM: software, a mvin of A, one of B, 16 rows through the array, one store.

    mvin: setup, then 16 requests of one beat each; the second's setup runs beside the first. The execution has one
    pair; it lasts 16 cycles, longer than an eighth of a pair's latency. The store starts beside it, after the drain.
    """
    soc = soc_of(16)
    machine = Machine.of(soc)
    lowered = lower_nest(Nest("gemm", 16, (16, 16, 1, 1, 1, 16), (16, 16, 1, 1, 1, 16), tuple(range(6))), soc)
    trace = engine_fast.run(lowered.program)
    mvin = 16
    loaded = machine.gemm_tile_cycles + machine.setup_cycles + 2 * mvin
    store = machine.drain_cycles + 16 * (1 + machine.store_request_cycles)
    assert machine.pair_cycles < 16
    assert trace.makespan / TICKS_PER_CYCLE == pytest.approx(loaded + max(16, store), abs=0.5)
    assert lowered.cycles(trace) == machine.start_cycles + trace.makespan / TICKS_PER_CYCLE


def test_a_convolution_executes_when_all_its_loads_are_in_and_the_next_tile_loads_meanwhile() -> None:
    extent = (16, 16, 3, 3, 16, 64)
    lowered = lower_nest(Nest("conv", 16, extent, (16, 16, 3, 3, 16, 16), tuple(range(6)), 1, 1, 1, 64, 64), soc_of(16))
    trace, unit = engine_fast.run(lowered.program), lowered.program.rows["unit"]
    names = lowered.program.unit_names
    execute = np.flatnonzero(unit == names.index("gemmini"))
    loads = np.flatnonzero(unit == names.index("load"))
    assert len(execute) == 4
    for before, op in zip((-1, *execute), execute, strict=False):
        own = loads[(loads > before) & (loads < op)]
        assert trace.issue[op] >= trace.end[own].max()
    assert trace.issue[loads[loads > execute[0]][0]] < trace.end[execute[0]]


def test_at_most_two_tiles_are_under_way() -> None:
    lowered = lower_nest(Nest("gemm", 16, (64, 64, 1, 1, 1, 64), (16, 64, 1, 1, 1, 16), tuple(range(6))), soc_of(16))
    trace, rows = engine_fast.run(lowered.program), lowered.program.rows
    starts = trace.issue[rows["take_n"] > 0]
    gives = np.flatnonzero(rows["give_n"] > 0)
    tile_of = np.searchsorted(np.flatnonzero(rows["take_n"] > 0), gives) - 1
    ends = np.array([trace.end[gives[tile_of == tile]].max() for tile in range(len(starts))])
    for tile in range(2, len(starts)):
        assert starts[tile] >= ends[tile - 2]


def test_a_cut_trace_extends_to_what_the_whole_one_gives() -> None:
    """Equal tiles in a steady state: the extension is linear in them, so a tenth of the tiles tells the whole."""
    nest = Nest("conv", 16, (64, 64, 1, 1, 56, 56), (16, 16, 1, 1, 4, 28), (5, 4, 0, 1, 2, 3), 1, 0, 0, 56, 56)
    whole, cut = run_nest(nest, soc_of(16), 10**7), run_nest(nest, soc_of(16), 4_000)
    assert whole.tiles_run == nest.n_tiles > 5 * cut.tiles_run
    assert cut.cycles == pytest.approx(whole.cycles, rel=0.05)


def test_a_nest_for_another_array_is_refused() -> None:
    with pytest.raises(InputError, match="side 4, gemmini_firesim has side 16"):
        run_nest(Nest("gemm", 4, (4, 4, 1, 1, 1, 4), (4, 4, 1, 1, 1, 4), tuple(range(6))), soc_of(16))


def measured_rows():  # type: ignore[no-untyped-def]
    path = os.environ.get("COSOC_GEMMINI_RTL")
    if not path:
        pytest.skip("set COSOC_GEMMINI_RTL to DOSA's firesim_results.csv to check the model against it")
    from gemmini_rtl import read

    return read(Path(path))["mapped"]


def test_no_measured_row_is_faster_than_its_array() -> None:
    """1,567 rows decoded as they were executed: a wrong reading would put some below the bound."""
    rows = measured_rows()
    assert sum(len(row.repeats) for row in rows) == 1567
    assert [row.number for row in rows if row.cycles < execute_bound(row.nest)] == []


def test_simulated_rows_are_close_to_measured_ones() -> None:
    """Every 13th row; the full comparison is benchmarks/gemmini_rtl.py."""
    rows = measured_rows()[::13]
    ratio = np.array([run_nest(row.nest, soc_of(row.nest.side), 20_000).cycles / row.cycles for row in rows])
    assert (ratio * [row.cycles for row in rows] >= [execute_bound(row.nest) for row in rows]).all()
    assert np.median(abs(ratio - 1)) < 0.10


@pytest.mark.parametrize("seed", range(8))
def test_a_program_does_not_depend_on_how_much_of_it_is_written_at_a_time(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random nests, three tiles or 500 rows at a time and all at once: the same digest, and what is wrong is found."""
    nest = random_nest(seed)
    soc = soc_of(nest.side)
    whole = lower_nest(nest, soc).program
    monkeypatch.setattr(cached, "TILES", 3)
    monkeypatch.setattr(program, "CHUNK", 500)
    parts = lower_nest(nest, soc).program
    assert len(whole.rows) > 3
    assert program.digest(parts) == program.digest(whole)
    wrong = whole.rows.copy()
    twice = replace(whole, rows=wrong, deps=np.concatenate([whole.deps, [1, 1]]))
    twice.rows["dep_at"][-1], twice.rows["dep_n"][-1] = len(whole.deps), 2
    assert validate(twice) == [f"row {len(wrong) - 1}: its dep list names 1 twice"]
