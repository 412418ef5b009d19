"""Energy from powers: a base that is always drawn, and what each unit adds while it is busy.

DIANA's three measured mode powers (digital, analog, both at once) follow from one base and two increments.
"""

from __future__ import annotations

from collections.abc import Mapping

from cosoc.sim.exact import Num
from cosoc.sim.model.soc import Dma, SoC


def unit_power_mw(soc: SoC, unit: str) -> float:
    """What a core or DMA adds to the base power while busy."""
    if unit in soc.cores:
        return soc.cores[unit].power_mw
    mover = soc.dmas.get(unit)
    return mover.power_mw if isinstance(mover, Dma) else 0.0


def power_energy_j(soc: SoC, ticks: Num, busy_ticks: Mapping[str, Num], tick_hz: int = 0) -> Num:
    """Energy of a run of `ticks`, with each unit busy for so many of them; J. Ints, floats or tensors.

    tick_hz: of these ticks, where they are finer than the SoC's cycles; 0 if not.
    """
    mw_ticks = soc.idle_power_mw * ticks
    for unit, busy in busy_ticks.items():
        mw_ticks = mw_ticks + unit_power_mw(soc, unit) * busy
    return mw_ticks * 1e-3 / (tick_hz or soc.tick_hz)
