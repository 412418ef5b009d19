"""Cycles of a nest on Gemmini: walk, lower, run, extend."""

from __future__ import annotations

from dataclasses import dataclass

from cosoc.sim.cores.systolic import Systolic
from cosoc.sim.errors import InputError
from cosoc.sim.gemmini.decode import Nest
from cosoc.sim.gemmini.lower import Lowered, cache_sizes, lower, tile_cycles
from cosoc.sim.gemmini.memory import Accesses, walk
from cosoc.sim.machine import engine_fast
from cosoc.sim.model.soc import SoC

# Requests of a nest that are simulated one by one; of a longer nest the rest is extended linearly.
CAP = 100_000


@dataclass(frozen=True)
class NestRun:
    """What a run of a nest gave. `tiles_run` of `tiles` were simulated; `cycles` is for all of them."""

    cycles: float
    bursts: int
    tiles: int
    tiles_run: int


def gemmini_of(soc: SoC) -> Systolic:
    """The systolic array of a SoC; InputError unless there is exactly one."""
    found = [core for core in soc.cores.values() if isinstance(core, Systolic)]
    if len(found) != 1:
        raise InputError(f"{soc.name} has {len(found)} cores of model systolic; one is needed")
    return found[0]


def walk_nest(nest: Nest, soc: SoC, core: Systolic, cap: int = CAP) -> Accesses:
    """What the first tiles of a nest touch, up to `cap` requests."""
    loop_cycles = core.software.loop_cycles
    return walk(
        nest, cache_sizes(soc, core), cap, tile_cycles(nest, core), loop_cycles=loop_cycles,
        pair_cycles=core.pair_cycles,
    )  # fmt: skip


def lower_nest(nest: Nest, soc: SoC, cap: int = CAP) -> Lowered:
    """The program of a nest, its addresses walked first."""
    core = gemmini_of(soc)
    if nest.side != core.side:
        raise InputError(f"the nest is for an array of side {nest.side}, {soc.name} has side {core.side}")
    accesses = walk_nest(nest, soc, core, cap)
    return lower(nest, accesses, soc, core)


def run_nest(nest: Nest, soc: SoC, cap: int = CAP) -> NestRun:
    """Simulate a nest on the fast engine."""
    lowered = lower_nest(nest, soc, cap)
    trace = engine_fast.run(lowered.program)
    return NestRun(lowered.cycles(trace), trace.bursts, nest.n_tiles, len(lowered.ends))
