"""Nest of tiles -> Program: cpu, load, execute and store of Gemmini as units, its paths to memory as servers.

Per tile, in program order:

- cpu: `software` (the loop nest and the instructions that set the tile up; a loop that ends costs more), then `slot`,
  which waits until fewer than tiles_in_flight tiles are under way and starts the tile's loads.
- load: one op a mvin, in order, as many in flight as the controller allows. It holds the return path for the
  beats of its requests. What it misses moves beside it: lines over the outer link (unit `fill`) and over that of the
  DRAM (unit `fetch`). A mvin is complete when all of these are; a miss also lengthens its set-up.
- execute: one op a tile of a convolution, whose controller waits for all loads of a tile; of a GEMM, one for each group
  of k blocks that one mvin spans.
- store: one op a tile that ends its reduction; what it misses moves beside it over the same links as the loads' misses,
  and contends with them.

Left out, as they changed nothing on the measured rows: writes of zeros for padding and bias, page walks, dirty
victims. A long nest is walked up to a number of requests; `Lowered.extrapolate` extends what its trace shows.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# (the kernels are typed by numba)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from cosoc.sim.cores.systolic import Systolic
from cosoc.sim.errors import InputError
from cosoc.sim.gemmini.decode import Nest
from cosoc.sim.gemmini.memory import (
    BEATS,
    DRAM,
    ENDED,
    EX_MVINS,
    EX_PAIRS,
    EX_ROWS,
    GROUPS,
    LINE_BYTES,
    LLC,
    LLC_LINE_BYTES,
    REQUESTS,
    STORES,
    Accesses,
    CacheSizes,
)  # fmt: skip
from cosoc.sim.machine.program import AMOUNT, BLOCK, CREDIT, KINDS, ROW, SERVER, UNIT, Program
from cosoc.sim.machine.trace import Trace
from cosoc.sim.model.soc import SoC

# Constants below one cycle are real (a pair every 7.6 cycles), so a cycle is this many ticks.
TICKS_PER_CYCLE = 20
UNITS = ("cpu", "load", "fill", "fetch", "execute", "store", "store_port", "store_fill", "store_fetch")
CPU, LOAD, FILL, FETCH, EXECUTE, STORE, STORE_PORT, STORE_FILL, STORE_FETCH = range(len(UNITS))
RETURN_PATH, OUTER, DRAM_PATH = range(3)


@dataclass(frozen=True)
class Lowered:
    """A program, and how to read its trace. ends [n_tiles]: the op that ends the execution of each tile."""

    program: Program
    ends: npt.NDArray[np.int64]
    effort: npt.NDArray[np.float64]
    rows_left: int
    start_cycles: int

    @property
    def is_whole(self) -> bool:
        """Whether the program holds all tiles of the nest."""
        return len(self.ends) == len(self.effort)

    def cycles(self, trace: Trace) -> float:
        """Cycles of the whole nest: the makespan, or where tiles were left out, extended linearly.

        The rate, in cycles per unit of effort, is that of the second half of the tiles that were walked. What was left
        out takes at least a cycle for each row that it streams through the array.
        """
        if self.is_whole:
            return self.start_cycles + trace.makespan / TICKS_PER_CYCLE
        done = np.concatenate(([0.0], np.cumsum(self.effort)))
        last, half = len(self.ends), len(self.ends) // 2
        first_tick = trace.end[self.ends[half - 1]] if half else 0
        ticks = trace.end[self.ends[last - 1]] - first_tick
        rate = ticks / (done[last] - done[half])
        rest = max((done[-1] - done[last]) * rate, self.rows_left * TICKS_PER_CYCLE)
        return float(self.start_cycles + (trace.makespan + rest) / TICKS_PER_CYCLE)


def cache_sizes(soc: SoC, core: Systolic) -> CacheSizes:
    """Sets and ways of the caches that the SoC names. InputError for one that holds no set."""
    l2, llc = soc.memories[core.l2].size_bytes, soc.memories[core.llc].size_bytes
    sets = ((core.l2, l2, core.l2_ways * LINE_BYTES), (core.llc, llc, core.llc_ways * LLC_LINE_BYTES))
    for name, size_bytes, set_bytes in sets:
        if size_bytes < set_bytes:
            raise InputError(f"{soc.name}: memory {name} has {size_bytes} bytes; a set of its ways needs {set_bytes}")
    return CacheSizes(
        l2 // (LINE_BYTES * core.l2_ways), core.l2_ways, llc // (LLC_LINE_BYTES * core.llc_ways), core.llc_ways
    )


def tile_cycles(nest: Nest, core: Systolic) -> float:
    """Cycles of software around one tile."""
    return core.software.gemm_tile_cycles if nest.kind == "gemm" else core.software.conv_tile_cycles


def lower(nest: Nest, accesses: Accesses, soc: SoC, core: Systolic, name: str = "gemmini") -> Lowered:
    """The program of the tiles in `accesses`, which `memory.walk` made of the nest."""
    rows, deps, ends = rows_of(nest, accesses, core)
    links = [(core.return_link, 1), (core.outer_link, 1), (core.dram_link, 1)]
    program = _program(name, rows, deps, soc, links, core)
    return Lowered(program, ends, accesses.effort, accesses.rows_left, core.software.start_cycles)


def rows_of(nest: Nest, accesses: Accesses, core: Systolic) -> tuple[Any, Any, Any]:
    """Rows [n_ops, fields], their deps, and the op that ends the execution of each tile.

    Units are numbered as in UNITS; routes, takes and gives as `_program` lays them out.
    """
    mvins, groups, tiles = accesses.mvins, accesses.groups, accesses.tiles
    loads = np.stack((_mvin_ticks(mvins, core), *_line_bytes(mvins)), axis=1)
    # A store's beats and fills keep the port of the L2 from the loads.
    port = _ticks(tiles[:, BEATS] + tiles[:, LLC] * core.load.fill_cycles)
    stores = np.stack((port, *_line_bytes(tiles)), axis=1)
    load = core.load
    setup = load.setup_cycles + load.llc_cycles * (mvins[:, LLC] > 0) + load.dram_cycles * (mvins[:, DRAM] > 0)
    run = np.maximum(groups[:, EX_ROWS], groups[:, EX_PAIRS] * core.pair_cycles)
    store_run = tiles[:, BEATS] + tiles[:, REQUESTS] * core.store.request_cycles
    software = tile_cycles(nest, core) + tiles[:, ENDED] * core.software.loop_cycles
    n_ops = 2 * len(tiles) + 3 * len(mvins) + len(groups) + 4 * len(tiles)
    rows = np.zeros((n_ops, len(ROW.names or ())), np.int64)
    deps = np.zeros(4 * n_ops, np.int64)
    ends = np.zeros(len(tiles), np.int64)
    n, n_deps = _emit(
        rows, deps, ends, loads, groups[:, EX_MVINS].copy(), stores, tiles[:, STORES] > 0, tiles[:, GROUPS].copy(),
        core.mvins_in_flight, nest.kind == "gemm", _ticks(software), _ticks(run), _ticks(setup), _ticks(store_run),
        int(_ticks(core.execute.drain_cycles)),
    )  # fmt: skip
    return rows[:n], deps[:n_deps], ends


def _mvin_ticks(mvins: Any, core: Systolic) -> Any:
    """Ticks for which mvins hold the return path: beats, what is lost around them, and lines filled into the L2."""
    load = core.load
    return _ticks(mvins[:, BEATS] + mvins[:, REQUESTS] * load.request_cycles + mvins[:, LLC] * load.fill_cycles)


def _line_bytes(records: Any) -> tuple[Any, Any]:
    """Bytes over the outer link and over that of the DRAM."""
    return records[:, LLC] * LINE_BYTES, records[:, DRAM] * LLC_LINE_BYTES


def _ticks(cycles: Any) -> Any:
    return np.rint(np.asarray(cycles) * TICKS_PER_CYCLE).astype(np.int64)


def _program(name: str, rows: Any, deps: Any, soc: SoC, links: Any, core: Systolic) -> Program:
    units = np.zeros(len(UNITS), UNIT)
    units["lanes"] = 1
    units["lanes"][LOAD] = core.mvins_in_flight
    servers = np.zeros(len(links), SERVER)
    for i, (link, ports) in enumerate(links):
        rate = soc.links[link]
        servers[i] = (rate.bytes_per_period, rate.period_cycles * TICKS_PER_CYCLE, ports, 0, 0, 1)
    # The return path counts ticks, as what a mvin holds it for is no multiple of a byte's time.
    servers["rate_bytes"][RETURN_PATH] = servers["rate_ticks"][RETURN_PATH] = 1
    # A tile in flight is two credits: one that its last execute op gives back, one that its store does.
    slots = 2 * core.software.tiles_in_flight
    amounts = np.array([(0, 2), (0, 1)], AMOUNT)
    return Program(
        name, soc.tick_hz * TICKS_PER_CYCLE, UNITS, tuple(link for link, _ in links), ("tile_slots",), (),
        units=units, servers=servers, credits=np.array([(slots,)], CREDIT), stretch=np.array([256], np.int64),
        rows=rows.reshape(-1).view(ROW), routes=np.array([RETURN_PATH, OUTER, DRAM_PATH], np.int64), deps=deps,
        takes=amounts, gives=amounts, blocks=np.array([(0, len(rows), 1)], BLOCK),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Kernel

_AT = {name: i for i, name in enumerate(ROW.names or ())}
_UNIT, _SETUP, _RUN, _BYTES, _BURST, _TAG = (_AT[k] for k in ("unit", "setup", "run", "bytes", "burst", "tag"))
_ROUTE_AT, _ROUTE_N, _DEP_AT, _DEP_N = (_AT[k] for k in ("route_at", "route_n", "dep_at", "dep_n"))
_TAKE_AT, _TAKE_N, _GIVE_AT, _GIVE_N = (_AT[k] for k in ("take_at", "take_n", "give_at", "give_n"))
_KIND, _LAYER = _AT["kind"], _AT["layer"]
_COMPUTE, _LOADS, _STORES, _LAUNCH, _SYNC = (KINDS.index(k) for k in ("compute", "load", "store", "launch", "sync"))
_BOTH, _ONE = 0, 1  # entries of takes and gives: two tile credits, one


@njit(cache=True)
def _op(rows, n, unit, kind, setup, run, n_bytes, burst, route, dep_at):
    row = rows[n]
    row[_UNIT], row[_KIND], row[_SETUP], row[_RUN] = unit, kind, setup, run
    row[_TAG] = row[_LAYER] = -1
    row[_DEP_AT] = dep_at
    if n_bytes:
        row[_BYTES], row[_BURST], row[_ROUTE_AT], row[_ROUTE_N] = n_bytes, burst, route, 1
    return n + 1


@njit(cache=True)
def _dep(rows, deps, n_deps, n, other):
    """Op n waits for op `other` (-1: none, and an op is named once)."""
    if other < 0:
        return n_deps
    for i in range(rows[n, _DEP_AT], n_deps):
        if deps[i] == n - other:
            return n_deps
    deps[n_deps] = n - other
    rows[n, _DEP_N] += 1
    return n_deps + 1


@njit(cache=True)
def _move(rows, n, unit, kind, setup, link, n_bytes, dep_at):
    """An op that moves bytes over one link: line by line outside the chip, in one go on the return path."""
    burst = n_bytes
    if link == OUTER:
        burst = LINE_BYTES
    if link == DRAM_PATH:
        burst = LLC_LINE_BYTES
    return _op(rows, n, unit, kind, setup, 0, n_bytes, burst, link, dep_at)


@njit(cache=True)
def _emit_mvin(rows, deps, n, n_deps, parts, setup, slot, last, before):
    """The ops of one mvin; last: the latest op of each unit; before: of each, that of the mvin that must be over."""
    for link in range(3):
        if link > 0 and parts[link] == 0:
            continue
        n = _move(rows, n, LOAD + link, _LOADS, setup if link == 0 else 0, link, parts[link], n_deps)
        n_deps = _dep(rows, deps, n_deps, n - 1, slot)
        for other in range(3):
            if other != link:
                n_deps = _dep(rows, deps, n_deps, n - 1, before[other])
        last[link] = n - 1
    return n, n_deps


@njit(cache=True)
def _emit(
    rows, deps, ends, loads, group_mvins, stores, storing, tile_groups, in_flight, is_gemm, software, run, setup,
    store_run, drain,
):  # fmt: skip
    n = n_deps = mvin = group = 0
    last = np.full(3, -1, np.int64)
    history = np.full((in_flight, 3), -1, np.int64)  # of mvin i - in_flight, at i % in_flight
    for tile in range(len(stores)):
        n = _op(rows, n, CPU, _LAUNCH, 0, software[tile], 0, 0, 0, n_deps)
        n = _op(rows, n, CPU, _SYNC, 0, 0, 0, 0, 0, n_deps)
        slot = n - 1
        rows[slot, _TAKE_AT], rows[slot, _TAKE_N] = _BOTH, 1
        previous = slot
        while group < tile_groups[tile]:
            while mvin < group_mvins[group]:
                before = history[mvin % in_flight]
                n, n_deps = _emit_mvin(rows, deps, n, n_deps, loads[mvin], setup[mvin], slot, last, before)
                history[mvin % in_flight] = last
                mvin += 1
            n = _op(rows, n, EXECUTE, _COMPUTE, 0, run[group], 0, 0, 0, n_deps)
            n_deps = _dep(rows, deps, n_deps, n - 1, slot)
            for unit in range(3):
                n_deps = _dep(rows, deps, n_deps, n - 1, last[unit])
            group += 1
            if group < tile_groups[tile]:
                previous = n - 1
        execute = n - 1
        ends[tile] = execute
        rows[execute, _GIVE_AT], rows[execute, _GIVE_N] = (_ONE if storing[tile] else _BOTH), 1
        if storing[tile]:
            n = _op(rows, n, STORE, _STORES, drain, store_run[tile], 0, 0, 0, n_deps)
            rows[n - 1, _GIVE_AT], rows[n - 1, _GIVE_N] = _ONE, 1
            n_deps = _store_deps(rows, deps, n, n_deps, execute, previous, last, is_gemm)
            for link in range(3):
                if stores[tile, link]:
                    n = _move(rows, n, STORE_PORT + link, _STORES, drain, link, stores[tile, link], n_deps)
                    n_deps = _store_deps(rows, deps, n, n_deps, execute, previous, last, is_gemm)
    return n, n_deps


@njit(cache=True)
def _store_deps(rows, deps, n, n_deps, execute, previous, last, is_gemm):
    """A store waits for the execution of its tile; in a GEMM it starts beside that of the last k group."""
    if not is_gemm:
        return _dep(rows, deps, n_deps, n - 1, execute)
    n_deps = _dep(rows, deps, n_deps, n - 1, previous)
    for unit in range(3):
        n_deps = _dep(rows, deps, n_deps, n - 1, last[unit])
    return n_deps
