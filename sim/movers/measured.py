"""Single nests as the measured programs ran them: warm caches, arrays at their addresses, long ones walked in part.

A tile of a measured program loads both operands, whatever the tile before had, and its sums stay wherever the reduction
stands among the loops: where that is not innermost its results are wrong, and its time is what was measured. Caches
start full of other data, through which the programs went over their arrays twice, to fill them and in a run that was
not timed. Pages lie one after another.

A long nest is walked up to a number of requests; `Lowered.cycles` extends what its trace shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.lower import walk
from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.program import Builder, Program
from cosoc.sim.machine.trace import Trace
from cosoc.sim.model.soc import SoC
from cosoc.sim.movers.cached import TileEmitter, caches_in
from cosoc.sim.movers.cached_terms import NEST_DIMS, Machine, array_and_mover
from cosoc.sim.movers.cached_units import TICKS_PER_CYCLE
from cosoc.sim.movers.tile_table import (
    BEGINS,
    C0,
    COL,
    COL_END,
    ENDED,
    FX,
    FY,
    IN_PITCH,
    INPUTS,
    K0,
    K_PITCH,
    LEAVES,
    OX,
    OY,
    ROW,
    ROW_END,
    WEIGHTS,
    WEIGHTS_AT,
    WRAPPED,
    Addresses,
    C,
    Ints,
    K,
    Tiled,
    fill_windows,
    spans_of,
)
from cosoc.sim.movers.touches import Caches, Touched, caches_of, mvins_at_most, row_cycles, sweep, touch, zero_mvins

# Requests of a nest that are simulated one by one; of a longer nest the rest is extended linearly.
CAP = 100_000
_SWEEPS = 2  # over the arrays before the run that is timed

# The lines behind which the arrays of the measured programs lie: inputs, weights, outputs. How far behind, the file of
# the machine says (inferred from the data: see tests/oracle/GEMMINI.md).
_CONV_LINES = (0, 4 << 20, 16 << 20)
_GEMM_LINES = (0, 100_000_000, 200_000_000)


@dataclass(frozen=True)
class Nest:
    """A tiled loop nest as it runs: tile (i, j, ..) spans extent min(tile, extent - i * tile) in each of NEST_DIMS.

    order: indices into NEST_DIMS, outermost first. For a GEMM the rows stand in ox, and fy, fx and oy are 1.
    in_rows, in_cols, pad_y, pad_x: of the input of a convolution. depthwise: output channel k reads input channel k
    alone, and c is 1.
    """

    kind: Literal["conv", "gemm"]
    side: int
    extent: tuple[int, ...]
    tile: tuple[int, ...]
    order: tuple[int, ...]
    stride: int = 1
    pad_y: int = 0
    pad_x: int = 0
    in_rows: int = 1
    in_cols: int = 1
    depthwise: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """Tiles along each dimension."""
        return tuple(-(-extent // tile) for extent, tile in zip(self.extent, self.tile, strict=True))

    @property
    def n_tiles(self) -> int:
        return math.prod(self.counts)


@dataclass(frozen=True)
class Walked:
    """The first tiles of a nest, and what they touch. effort [nest tiles]: a rough cost of every tile of the nest, in
    cycles, to weigh those that were not walked; rows_left: what those stream through the array."""

    tiled: Tiled
    seen: Touched
    effort: npt.NDArray[np.float64]
    rows_left: int


@dataclass(frozen=True)
class Lowered:
    """A program, and how to read its trace. ends [tiles]: the op that ends the execution of each tile."""

    program: Program
    ends: Ints
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


@dataclass(frozen=True)
class NestRun:
    """What a run of a nest gave. `tiles_run` of `tiles` were simulated; `cycles` is for all of them."""

    cycles: float
    bursts: int
    tiles: int
    tiles_run: int


def walk_nest(nest: Nest, machine: Machine, cap: int = CAP, caches: Caches | None = None, seed: int = 1) -> Walked:
    """Walk the tiles of a nest until `cap` requests have been made, and the last of these tiles to its end.

    caches: in place of the machine's. seed: of the random replacement.
    """
    at = _positions(nest)
    effort, requests, streamed = _efforts(nest, at, machine)
    n = min(max(1, int(np.searchsorted(np.cumsum(requests), cap)) + 1), len(effort))
    tiled = _tiled(nest, {d: index[:n] for d, index in at.items()}, machine)
    caches = caches or caches_in(machine)
    state = caches_of(caches, seed)
    for _ in range(_SWEEPS):  # outputs, inputs, weights, as the programs fill them
        sweep(state, [_arrays(nest, machine)[i] for i in (2, 0, 1)], caches)
    seen = touch(tiled, state, caches, nest.side, machine.min_rows)
    return Walked(tiled, seen, effort, int(streamed[n:].sum()))


def lower(walked: Walked, soc: SoC, core: str | None = None, name: str = "gemmini") -> Lowered:
    """The program of the tiles that were walked."""
    core = array_and_mover(soc, core)[0]
    builder = Builder(name, soc.tick_hz * TICKS_PER_CYCLE)
    emitter = TileEmitter(builder, soc, core, Addresses({}, {}, 1), None)
    ends = emitter.emit_seen(walked.tiled, walked.seen, [-1])
    return Lowered(builder.build(), ends, walked.effort, walked.rows_left, int(emitter.machine.start_cycles))


def lower_nest(nest: Nest, soc: SoC, cap: int = CAP) -> Lowered:
    """The program of a nest, its addresses walked first."""
    machine = Machine.of(soc)
    if nest.side != machine.side:
        raise InputError(f"the nest is for an array of side {nest.side}, {soc.name} has side {machine.side}")
    return lower(walk_nest(nest, machine, cap), soc)


def run_nest(nest: Nest, soc: SoC, cap: int = CAP) -> NestRun:
    """Simulate a nest on the fast engine."""
    lowered = lower_nest(nest, soc, cap)
    trace = engine_fast.run(lowered.program)
    return NestRun(lowered.cycles(trace), trace.bursts, nest.n_tiles, len(lowered.ends))


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def _positions(nest: Nest) -> dict[str, Ints]:
    loops = [NEST_DIMS[d] for d in nest.order]
    return walk.positions(dict(zip(NEST_DIMS, nest.counts, strict=True)), loops)


def _arrays(nest: Nest, machine: Machine) -> list[tuple[int, int]]:
    """(address, bytes) of inputs, weights and outputs."""
    k, c, fy, fx, oy, ox = nest.extent
    is_gemm = nest.kind == "gemm"
    pixels = ox if is_gemm else nest.in_rows * nest.in_cols
    sizes = (pixels * c, fy * fx * c * k, (ox if is_gemm else oy * ox) * k)
    lines, offset = (_GEMM_LINES, machine.gemm_offset_bytes) if is_gemm else (_CONV_LINES, machine.conv_offset_bytes)
    return [(line + offset, size) for line, size in zip(lines, sizes, strict=True)]


def _member(nest: Nest, machine: Machine) -> list[int]:
    """Figures of the layer, in the order of `tile_table`."""
    k, c, _, fx, _, ox = nest.extent
    (_, _), (weights, _), (outputs, _) = _arrays(nest, machine)
    pitch = k if nest.depthwise else c
    return [nest.kind == "gemm", nest.depthwise, 0, k, c, fx, nest.in_cols, pitch, ox, k, 0, 0, weights, outputs, 0,
            0, 1, 1, 0]  # fmt: skip


def _table(nest: Nest, at: walk.Positions) -> Ints:
    extents: dict[str, int] = dict(zip(NEST_DIMS, nest.extent, strict=True))
    sizes: dict[str, int] = dict(zip(NEST_DIMS, nest.tile, strict=True))
    table = spans_of(at, extents, sizes, {})
    rows, cols = (1, nest.extent[5]) if nest.kind == "gemm" else (nest.in_rows, nest.in_cols)
    fill_windows(table, (nest.stride, 1, nest.pad_y, rows), (nest.stride, 1, nest.pad_x, cols))
    return table


def _tiled(nest: Nest, at: walk.Positions, machine: Machine) -> Tiled:
    """The tiles of a nest at some positions, from the first on."""
    table = _table(nest, at)
    table[:, LEAVES] = _last(nest, at)
    table[:, WEIGHTS] = table[:, INPUTS] = 1
    table[:, BEGINS] = walk.fresh(at, walk.OUTPUTS)
    table[:, ENDED] = walk.ended(at, [NEST_DIMS[d] for d in nest.order])
    operands = np.array([_arrays(nest, machine)[0][0]], np.int64)
    return Tiled(table, np.array([_member(nest, machine)], np.int64), operands)


def _efforts(nest: Nest, at: walk.Positions, machine: Machine) -> tuple[Any, Ints, Ints]:
    """Of every tile: effort in cycles, requests (loads and stores, about), rows streamed."""
    tiled, side, wide = _tiled(nest, at, machine), nest.side, machine.mvin_bytes
    table, of = tiled.table, tiled.members[0]
    k, c, taps, oy, ox = table[:, K], table[:, C], table[:, FY] * table[:, FX], table[:, OY], table[:, OX]
    k_parts, c_parts = -(-k // wide), -(-c // wide)
    if nest.kind == "gemm":
        pairs = -(-c // side) * -(-k // side) * -(-ox // side)
        pixels, wrapped = ox, 0 * ox
        streamed = pairs * np.maximum(np.minimum(side, ox), machine.min_rows)
        stored = ox * k_parts
    else:
        pixels = np.maximum(table[:, ROW_END] - table[:, ROW], 0) * np.maximum(table[:, COL_END] - table[:, COL], 0)
        wrapped = table[:, WRAPPED]
        blocks = taps * (k if nest.depthwise else -(-k // side))
        rest = ox % side
        chunks = ox - rest + np.where(rest > 0, np.maximum(rest, machine.min_rows), 0)
        first = np.maximum(np.minimum(side, ox), machine.min_rows)
        full, part = c // side, c % side
        preload = full * np.maximum(side - first, 0) + np.maximum(part - first, 0)
        streamed = blocks * (-(-c // side) * oy * chunks + preload)
        pairs = blocks * -(-c // side) * oy * -(-ox // side)
        stored = oy * ox * -(-k // side)
    stored = np.where(tiled.table[:, LEAVES] > 0, stored, 0)
    rows = taps * c * k_parts + pixels * c_parts
    port = _row_cycles(of[WEIGHTS_AT] + table[:, K0], k, of[K_PITCH], machine) * taps * c
    pixel = _row_cycles(tiled.operands[0] + table[:, C0], c, of[IN_PITCH], machine)
    # Pixels that a wrapped counter asks for lie in lines of which no cache has any.
    lines = np.minimum(of[IN_PITCH], -(-c // machine.line_bytes) * machine.line_bytes)
    slowest = lines * max(machine.outer_cycles_per_byte, machine.dram_cycles_per_byte)
    port = port + pixel * pixels + np.maximum(pixel, slowest) * wrapped
    fetching = mvins_at_most(tiled, side, wide) - zero_mvins(tiled, side, wide)
    loading = np.maximum(port, (port + fetching * machine.setup_cycles) / machine.mvins_in_flight)
    tile_cycles = machine.gemm_tile_cycles if nest.kind == "gemm" else machine.conv_tile_cycles
    software = tile_cycles + machine.loop_cycles * table[:, ENDED]
    effort = exact.maximum(loading, streamed, pairs * machine.pair_cycles, 3.0 * stored, software)
    return effort, rows + stored, streamed


def _row_cycles(address: Any, n_bytes: Any, pitch: int, machine: Machine) -> Any:
    """Cycles on the return path of a row of so many bytes, in parts as wide as a mvin: mean of rows a pitch apart."""
    wide = machine.mvin_bytes
    cycles = row_cycles(caches_in(machine), machine.side, int(pitch))
    phase = address % wide
    return n_bytes // wide * cycles[phase, wide] + cycles[phase, n_bytes % wide]


def _last(nest: Nest, at: walk.Positions) -> Any:
    """Whether a tile is the last along all reductions."""
    counts = dict(zip(NEST_DIMS, nest.counts, strict=True))
    last = [at[d] == counts[d] - 1 for d in ("c", "fy", "fx")]
    return last[0] & last[1] & last[2]


__all__ = ["CAP", "Lowered", "Nest", "NestRun", "Walked", "lower", "lower_nest", "run_nest", "walk_nest"]
