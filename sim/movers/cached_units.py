"""What programs of a cached mover call their units, tags and ticks, for those who write them and who read them."""

from __future__ import annotations

from cosoc.sim.model.soc import SoC
from cosoc.sim.movers.cached_terms import cached_cores

# Constants below one cycle are real (a pair every 7.6 cycles), so a cycle is this many ticks of a program.
TICKS_PER_CYCLE = 20

UNITS = ("control", "load", "fill", "fetch", "execute", "store", "store_port", "store_fill", "store_fetch")
CONTROL, LOAD, FILL, FETCH, EXECUTE, STORE, STORE_PORT, STORE_FILL, STORE_FETCH = range(len(UNITS))
# What energy inside of the array is told under; that of its memories is told under their names.
MACS_LEVEL, REGISTERS_LEVEL = "multipliers", "registers"
# Tags of the traffic, by which links know that its direction changes.
INTO_SCRATCHPAD, INTO_ACCUMULATOR, OUT = range(3)


def ticks_per_cycle(soc: SoC) -> int:
    """Ticks in a cycle of the SoC: one, but where something is finer than that: a cached mover's constants, and the
    bursts of a dynamic memory, of whose rate refresh takes a few per cent."""
    return TICKS_PER_CYCLE if cached_cores(soc) or any(memory.dram for memory in soc.memories.values()) else 1


def name_of(soc: SoC, core: str, part: str) -> str:
    """What a unit or pool is called: the array by the core's own name, the others by their part, which has the core's
    name in front where the SoC has several such cores."""
    if part == UNITS[EXECUTE]:
        return core
    return f"{core}.{part}" if len(cached_cores(soc)) > 1 else part


def core_of_unit(soc: SoC) -> dict[str, str]:
    """The core whose operands a unit brings or takes, by the unit's name."""
    return {name_of(soc, core, part): core for core in cached_cores(soc) for part in UNITS if part != UNITS[EXECUTE]}
