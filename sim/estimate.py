"""From a layer's work to its time in closed form: what a tiler minimises and a search differentiates.

The composition is the machine's, simplified: in the serial runtime everything follows everything, and the sum is the
simulated time. In the overlapped runtime the first load and the last store of a layer are exposed, and between them the
slowest of cores, DMA and host sets the pace. `Theta` holds what this leaves out, as named factors that
`cosoc calibrate` fits to the simulator; its defaults claim an ideal machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cosoc.sim.exact import Num
from cosoc.sim.mapping import Runtime
from cosoc.sim.soc import SoC
from cosoc.sim.work import LayerWork, Transfer
from cosoc.sim.workload import Layer


@dataclass(frozen=True)
class Theta:
    """Factors of the overlapped composition; the serial one has none.

    weights_exposed: share of a layer's first weight load that the layer before does not hide (0..1).
    launch_exposed: share of a job's launch that the load before it does not hide (0..1).
    contention: cycles lost per cycle in which DMA and cores both would be busy (0..1).
    layer_cycles: fixed cost a layer, cycles.
    """

    weights_exposed: float = 1.0
    launch_exposed: float = 1.0
    contention: float = 0.0
    layer_cycles: float = 0.0


@dataclass(frozen=True)
class LayerTime:
    """A layer's estimated time, and how long each unit of the machine is busy in it; ticks."""

    ticks: Num
    busy: dict[str, Num]


def transfer_ticks(moved: Transfer, soc: SoC, source: str, target: str, xp: Any) -> Num:
    """Unloaded time of transfers along the route from source to target: set-up of each call, then its bursts."""
    if source == target:
        return 0 * moved.calls
    route = soc.route(source, target)
    dma = soc.dmas[route.dma]
    per_burst = max(-(-dma.burst_bytes * soc.links[n].period_cycles // soc.links[n].bytes_per_period) for n in route.links)  # noqa: E501
    return moved.calls * dma.setup_cycles + xp.ceildiv(moved.bytes, dma.burst_bytes) * per_burst


def feed_ticks(feed_bytes: Num, soc: SoC, core: str, xp: Any) -> Num:
    """Unloaded time of a core's own reads and writes over its feed links."""
    links = [soc.links[name] for name in soc.cores[core].feed_links]
    if not links:
        return 0 * feed_bytes
    slowest = max(links, key=lambda link: link.period_cycles / link.bytes_per_period)
    return xp.ceildiv(feed_bytes * slowest.period_cycles, slowest.bytes_per_period)


def layer_time(
    layer: Layer, work: LayerWork, soc: SoC, runtime: Runtime, homes: Any, theta: Theta, xp: Any
) -> LayerTime:
    """Compose a layer's work into its time. homes: `placement.Homes`. Ints in, ints out for the serial runtime."""
    source, target, main = homes.inputs(layer), homes.output(layer), soc.main_memory
    memory = soc.cores[work.cores[0].core].memory
    busy: dict[str, Num] = {}

    def occupy(unit: str, ticks: Num) -> Num:
        busy[unit] = busy.get(unit, 0) + ticks
        return ticks

    def dma(a: str, b: str) -> str:
        return soc.route(a, b).dma if a != b else soc.host

    occupy(dma(source, memory), transfer_ticks(work.loads, soc, source, memory, xp))
    chains, launches = [], []
    for part in work.cores:
        core = soc.cores[part.core]
        if core.weight_memory is not None:
            occupy(dma(main, core.weight_memory), transfer_ticks(part.weights, soc, main, core.weight_memory, xp))
            if not homes.weights_in_main and soc.backing_memory is not None:
                fetched = transfer_ticks(part.weights, soc, soc.backing_memory, main, xp)
                occupy(dma(soc.backing_memory, main), fetched)
        occupy(dma(core.memory, target), transfer_ticks(part.stores, soc, core.memory, target, xp))
        compute = occupy(part.core, part.array + feed_ticks(part.feed, soc, part.core, xp))
        launch = part.jobs * core.launch_cycles
        if core.launch_cycles:
            occupy(soc.host, launch)
        chains.append((compute, launch))
        launches.append(launch)
    if runtime == "serial":
        return LayerTime(sum(busy.values()), busy)
    steps = xp.maximum(work.steps, 1)
    pace = xp.maximum(*(c + launch * theta.launch_exposed for c, launch in chains), sum(launches))
    exposed = transfer_ticks(work.first_load, soc, source, memory, xp)
    exposed = exposed + transfer_ticks(work.last_store, soc, memory, target, xp)
    weight_core = next((soc.cores[p.core] for p in work.cores if soc.cores[p.core].weight_memory), None)
    first_weights: Num = 0
    if weight_core is not None and weight_core.weight_memory is not None:
        first_weights = transfer_ticks(work.first_weights, soc, main, weight_core.weight_memory, xp)
    core_names = {part.core for part in work.cores} | {soc.host}
    movers = [ticks for unit, ticks in busy.items() if unit not in core_names]
    moving = xp.maximum(0, *movers) if movers else 0
    hidden = moving - exposed - first_weights
    inner = xp.maximum(pace, hidden + pace / steps)
    both = pace + hidden - inner
    ticks = exposed + first_weights * theta.weights_exposed + inner + theta.contention * both + theta.layer_cycles
    return LayerTime(ticks, busy)
