"""Nest of tiles -> Program: cpu, load, execute and store of Gemmini as units, its paths to memory as servers.

Per tile, in program order:

- cpu: `software` (the loop nest and the instructions that set the tile up), then `slot`, which waits until fewer than
  tiles_in_flight tiles are under way and starts the tile's loads.
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
from cosoc.sim.gemmini.decode import Nest
from cosoc.sim.gemmini.memory import (
    BEAT_BYTES, BEATS, DRAM, EX_MVINS, EX_PAIRS, EX_ROWS, GROUPS, LINE_BYTES, LLC, LLC_LINE_BYTES, REQUESTS, STORES,
    Accesses, CacheSizes,
)  # fmt: skip
from cosoc.sim.program import AMOUNT, BLOCK, CREDIT, KINDS, ROW, SERVER, UNIT, Program
from cosoc.sim.soc import SoC
from cosoc.sim.trace import Trace

# Constants below one cycle are real (a pair every 7.6 cycles), so a cycle is this many ticks.
TICKS_PER_CYCLE = 20
UNITS = ("cpu", "load", "fill", "fetch", "execute", "store", "store_fill", "store_fetch")
CPU, LOAD, FILL, FETCH, EXECUTE, STORE, STORE_FILL, STORE_FETCH = range(len(UNITS))
RETURN_PATH, OUTER, DRAM_PATH = range(3)


@dataclass(frozen=True)
class Lowered:
    """A program, and how to read its trace. ends [n_tiles]: the op that ends the execution of each tile."""

    program: Program
    ends: npt.NDArray[np.int64]
    effort: npt.NDArray[np.float64]
    start_cycles: int

    @property
    def is_whole(self) -> bool:
        """Whether the program holds all tiles of the nest."""
        return len(self.ends) == len(self.effort)

    def cycles(self, trace: Trace) -> float:
        """Cycles of the whole nest: the makespan, or where tiles were left out, extended linearly.

        The rate, in cycles per unit of effort, is that of the second half of the tiles that were walked.
        """
        if self.is_whole:
            return self.start_cycles + trace.makespan / TICKS_PER_CYCLE
        done = np.concatenate(([0.0], np.cumsum(self.effort)))
        last, half = len(self.ends), len(self.ends) // 2
        first_tick = trace.end[self.ends[half - 1]] if half else 0
        ticks = trace.end[self.ends[last - 1]] - first_tick
        rate = ticks / (done[last] - done[half])
        rest = (done[-1] - done[last]) * rate
        return float(self.start_cycles + (trace.makespan + rest) / TICKS_PER_CYCLE)


def cache_sizes(soc: SoC, core: Systolic) -> CacheSizes:
    """Sets and ways of the caches that the SoC names."""
    l2, llc = soc.memories[core.l2].size_bytes, soc.memories[core.llc].size_bytes
    return CacheSizes(
        l2 // (LINE_BYTES * core.l2_ways), core.l2_ways, llc // (LLC_LINE_BYTES * core.llc_ways), core.llc_ways
    )


def tile_cycles(nest: Nest, core: Systolic) -> float:
    """Cycles of software around one tile."""
    return core.software.gemm_tile_cycles if nest.kind == "gemm" else core.software.conv_tile_cycles


def lower(nest: Nest, accesses: Accesses, soc: SoC, core: Systolic, name: str = "gemmini") -> Lowered:
    """The program of the tiles in `accesses`, which `memory.walk` made of the nest."""
    mvins, groups, tiles = accesses.mvins, accesses.groups, accesses.tiles
    pairs = groups[:, EX_PAIRS] * core.pair_cycles
    figures = {
        "software": _ticks(tile_cycles(nest, core)),
        "run": _ticks(np.maximum(groups[:, EX_ROWS], pairs)),
        "beats": _ticks(mvins[:, BEATS] + mvins[:, REQUESTS] * core.load.request_cycles),
        "setup": _ticks(
            core.load.setup_cycles + core.load.llc_cycles * (mvins[:, LLC] > 0) + core.load.dram_cycles * (mvins[:, DRAM] > 0)
        ),
        "store": _ticks(tiles[:, BEATS] + tiles[:, REQUESTS] * core.store.request_cycles),
        "drain": _ticks(core.execute.drain_cycles + core.store.setup_cycles),
    }  # fmt: skip
    n_ops = 2 * len(tiles) + 3 * len(mvins) + len(groups) + 3 * len(tiles)
    rows = np.zeros((n_ops, len(ROW.names or ())), np.int64)
    deps = np.zeros(4 * n_ops, np.int64)
    ends = np.zeros(len(tiles), np.int64)
    n, n_deps = _emit(
        rows, deps, ends, mvins, groups, tiles, core.mvins_in_flight, nest.kind == "gemm",
        int(figures["software"]), figures["run"], figures["beats"], figures["setup"], figures["store"],
        int(figures["drain"]),
    )  # fmt: skip
    links = [(core.return_link, 1), (core.outer_link, 1), (core.dram_link, 1)]
    program = _program(name, rows[:n], deps[:n_deps], soc, links, core)
    return Lowered(program, ends, accesses.effort, core.software.start_cycles)


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
        rows=rows.reshape(-1).view(ROW), routes=np.arange(len(links), dtype=np.int64), deps=deps,
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
def _emit_mvin(rows, deps, n, n_deps, mvin, beats, setup, slot, last, before):
    """The ops of one mvin; last: the latest op of each unit; before: of each, that of the mvin that must be over."""
    for part in range(3):
        if part == 0:
            n = _op(rows, n, LOAD, _LOADS, setup, 0, beats, beats, RETURN_PATH, n_deps)
        elif part == 1 and mvin[LLC]:
            n = _op(rows, n, FILL, _LOADS, 0, 0, mvin[LLC] * LINE_BYTES, LINE_BYTES, OUTER, n_deps)
        elif part == 2 and mvin[DRAM]:
            n = _op(rows, n, FETCH, _LOADS, 0, 0, mvin[DRAM] * LLC_LINE_BYTES, LLC_LINE_BYTES, DRAM_PATH, n_deps)
        else:
            continue
        n_deps = _dep(rows, deps, n_deps, n - 1, slot)
        for unit in range(3):
            if unit != part:
                n_deps = _dep(rows, deps, n_deps, n - 1, before[unit])
        last[part] = n - 1
    return n, n_deps


@njit(cache=True)
def _emit(rows, deps, ends, mvins, groups, tiles, in_flight, is_gemm, software, run, beats, setup, store, drain):
    n = n_deps = mvin = group = 0
    last = np.full(3, -1, np.int64)
    history = np.full((in_flight, 3), -1, np.int64)  # of mvin i - in_flight, at i % in_flight
    for tile in range(len(tiles)):
        n = _op(rows, n, CPU, _LAUNCH, 0, software, 0, 0, 0, n_deps)
        n = _op(rows, n, CPU, _SYNC, 0, 0, 0, 0, 0, n_deps)
        slot = n - 1
        rows[slot, _TAKE_AT], rows[slot, _TAKE_N] = _BOTH, 1
        stores, end_group = tiles[tile, STORES] > 0, tiles[tile, GROUPS]
        previous = -1
        while group < end_group:
            while mvin < groups[group, EX_MVINS]:
                before = history[mvin % in_flight]
                n, n_deps = _emit_mvin(
                    rows, deps, n, n_deps, mvins[mvin], beats[mvin], setup[mvin], slot, last, before
                )
                history[mvin % in_flight] = last
                mvin += 1
            n = _op(rows, n, EXECUTE, _COMPUTE, 0, run[group], 0, 0, 0, n_deps)
            for unit in range(3):
                n_deps = _dep(rows, deps, n_deps, n - 1, last[unit])
            n_deps = _dep(rows, deps, n_deps, n - 1, slot)
            group += 1
            if group < end_group:
                previous = n - 1
        execute = n - 1
        ends[tile] = execute
        rows[execute, _GIVE_AT], rows[execute, _GIVE_N] = (_ONE if stores else _BOTH), 1
        if stores:
            n, n_deps = _emit_store(
                rows, deps, n, n_deps, tiles[tile], store[tile], drain, execute, previous, is_gemm, last
            )
    return n, n_deps


@njit(cache=True)
def _emit_store(rows, deps, n, n_deps, tile, store, drain, execute, previous, is_gemm, last):
    """The stores of a tile: after its execution, or beside its last k group in a GEMM."""
    for unit in (STORE, STORE_FILL, STORE_FETCH):
        if unit == STORE:
            n = _op(rows, n, unit, _STORES, drain, store, 0, 0, 0, n_deps)
            rows[n - 1, _GIVE_AT], rows[n - 1, _GIVE_N] = _ONE, 1
        elif unit == STORE_FILL and tile[LLC]:
            n = _op(rows, n, unit, _STORES, drain, 0, tile[LLC] * LINE_BYTES, LINE_BYTES, OUTER, n_deps)
        elif unit == STORE_FETCH and tile[DRAM]:
            n = _op(rows, n, unit, _STORES, drain, 0, tile[DRAM] * LLC_LINE_BYTES, LLC_LINE_BYTES, DRAM_PATH, n_deps)
        else:
            continue
        if is_gemm:
            n_deps = _dep(rows, deps, n_deps, n - 1, previous)
            for i in range(3):
                n_deps = _dep(rows, deps, n_deps, n - 1, last[i])
        else:
            n_deps = _dep(rows, deps, n_deps, n - 1, execute)
    return n, n_deps
