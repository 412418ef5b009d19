"""What the closed forms of time cannot know, as named factors that are fitted to the simulator.

There are two compositions: behind a DMA, transfers and jobs in order (`cosoc.sim.estimate`); behind a cached mover,
controllers that run apart (`cosoc.sim.movers.cached_terms`). Each factor belongs to one of them; a SoC has those of its
movers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cosoc.sim.model.soc import Dma, SoC

Composition = Literal["in-order", "decoupled"]


@dataclass(frozen=True)
class Factor:
    """Where a factor belongs, what it is before any fit, and where it may lie."""

    of: Composition
    default: float
    low: float
    high: float


# prefetch: share of the time in which the DMA is free at a layer's end that the next layer's weights use.
# launch_hidden: share of the transfers before a layer's first job that really hides its launch.
# unhidden: share of the faster units' time that does not overlap with the slowest's.
# reload_miss: on the bytes that the L2 should have lost by the time they are read again.
# split_miss: on the lines that it should have lost by the time rows narrower than a line ask for their next part.
# fetch: of outer link and DRAM, how much of the faster one's time the other's does not hide: few mvins are in flight.
# load, store: factors on the time of these units, for what the request model leaves out (alignment, contention).
# The first two claim an ideal machine before any fit; the others are rounded from a fit to plans of a Gemmini.
FACTORS = {
    "prefetch": Factor("in-order", 1.0, 0.0, 1.0),
    "launch_hidden": Factor("in-order", 1.0, 0.0, 1.0),
    "unhidden": Factor("decoupled", 0.1, 0.0, 1.0),
    "reload_miss": Factor("decoupled", 0.55, 0.0, 2.0),
    "split_miss": Factor("decoupled", 1.3, 0.0, 2.0),
    "fetch": Factor("decoupled", 0.0, 0.0, 1.0),
    "load": Factor("decoupled", 1.2, 0.8, 3.0),
    "store": Factor("decoupled", 1.25, 0.8, 3.0),
}


@dataclass(frozen=True)
class Theta:
    """A value of each factor of `FACTORS`; those that a SoC does not have change nothing of it."""

    prefetch: float = FACTORS["prefetch"].default
    launch_hidden: float = FACTORS["launch_hidden"].default
    unhidden: float = FACTORS["unhidden"].default
    reload_miss: float = FACTORS["reload_miss"].default
    split_miss: float = FACTORS["split_miss"].default
    fetch: float = FACTORS["fetch"].default
    load: float = FACTORS["load"].default
    store: float = FACTORS["store"].default


def factors_of(soc: SoC, cores: Iterable[str] | None = None) -> tuple[str, ...]:
    """The names of the factors that the time of some cores (None: all) depends on, by what brings their operands; none
    for a core that computes from the main memory, without weights of its own and without launches."""
    there = set[Composition]()
    for name in soc.cores if cores is None else cores:
        core = soc.cores[name]
        if soc.is_cached(name):
            there.add("decoupled")
        elif (
            isinstance(soc.mover_of(name), Dma)
            or core.weight_memory is not None
            or core.launch_cycles
            or core.layer_launch_cycles
        ):
            there.add("in-order")
    return tuple(name for name, factor in FACTORS.items() if factor.of in there)
