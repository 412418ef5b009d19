"""Which keys of a SoC file make what the ops of a unit have: for messages about figures that cannot be counted."""

from __future__ import annotations

from cosoc.sim.model.soc import CachedMover, Core, SoC
from cosoc.sim.movers.cached_units import core_of_unit
from cosoc.sim.movers.links import HOST_TIME, told_as


def keys_behind(soc: SoC, unit: str, made: str) -> str:
    """The keys that make what the ops of a unit have too much of (`machine.program.largest`: energy_fj, macs, bytes,
    setup, run, or the name of a server), beside the sizes of the layer."""
    if made in soc.links:
        found = f"links.{made}: bytes_per_period, period_cycles, stretch"
        return found + (f"; dmas.{unit}: burst_bytes, align_bytes" if unit in soc.dmas else "")
    memory = told_as(made).partition(".")[0]
    if memory in soc.memories:
        return f"memories.{memory}.dram: bytes_per_period, period_cycles, row_cycles, turnaround_cycles"
    if made == HOST_TIME:
        return f"cores.{unit}: launch_cycles, layer_launch_cycles"
    if made == "energy_fj":
        return f"energies of {unit}, and of links and memories that its bytes pass: the keys in pj and pj_per_byte"
    mover = soc.dmas.get(unit)
    if mover is not None:
        return f"dmas.{unit}: setup_cycles, piece_cycles" if made == "setup" else f"dmas.{unit}: align_bytes"
    core = core_of_unit(soc).get(unit, unit)
    if core in soc.cores:
        own = [key for key in type(soc.cores[core]).model_fields if key not in Core.model_fields]
        beside = "; cycles of its mover" if isinstance(soc.mover_of(core), CachedMover) else ""
        return f"cores.{core}: {', '.join(own)}{beside}"
    return "sizes of the layers"


__all__ = ["keys_behind"]
