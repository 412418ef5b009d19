"""From a layer's work to its time in closed form: what a tiler minimises and a search differentiates.

`layer_terms` reduces a layer's work to a handful of times; `compose` makes a layer's ticks of them. The composition is
the machine's, simplified. In the serial runtime everything follows everything, and the sum is the simulated time, to
the tick. In the overlapped runtime

    [weights of the first tile] [first load] [ steps ................................. ] [last store]
      hidden while the layer                  the slowest of cores, host and DMA paces
      before computes its last tile

`Theta` holds what this leaves out, as named factors that `cosoc calibrate` fits to the simulator; its defaults claim
an ideal machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cosoc.sim.energy import power_energy_j
from cosoc.sim.exact import Num
from cosoc.sim.mapping import Runtime
from cosoc.sim.placement import Homes
from cosoc.sim.soc import SoC
from cosoc.sim.work import LayerWork, Transfer
from cosoc.sim.workload import Layer


@dataclass(frozen=True)
class Theta:
    """Factors of the overlapped composition, fitted by `cosoc calibrate`; the serial one has none.

    prefetch: share of a layer's last tile during which the next layer's first weights really come in (0..1).
    launch_hidden: share of the first load, and of the store before it, that really hides the first launch (0..1).
    contention: ticks lost per tick in which both the cores and the DMA have work (0..1).
    layer_ticks: fixed cost a layer.
    """

    prefetch: float = 1.0
    launch_hidden: float = 1.0
    contention: float = 0.0
    layer_ticks: float = 0.0


@dataclass(frozen=True)
class Terms:
    """What `compose` needs to know of a layer, or of many at once (arrays, tensors). Ticks, but for the last two.

    total: everything one after the other. load, store, weights: the first load, last store and first weights, which
    nothing of the same layer hides. refill: later weights that wait until the ones before are used up, because their
    memory does not hold both. moving: the busiest DMA, with all of these. pace: the slowest core (or the host) with
    all launches but the first. launch: the first launches, one after the other. tile: the last tile on the slowest
    core. unit_j: energy of units while busy and of links, J.
    """

    total: Num
    load: Num
    store: Num
    weights: Num
    refill: Num
    moving: Num
    pace: Num
    launch: Num
    tile: Num
    unit_j: Num


@dataclass(frozen=True)
class Before:
    """What of the layer before can hide the start of a layer: the ticks of its last tile on the cores (0 if this
    layer's weights find no room beside its own), and of its last store."""

    tile: Num = 0
    store: Num = 0


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
    links = [soc.links[name] for name in route.links]
    per_burst = max(-(-dma.burst_bytes * link.period_cycles // link.bytes_per_period) for link in links)
    return moved.calls * dma.setup_cycles + xp.ceildiv(moved.bytes, dma.burst_bytes) * per_burst


def feed_ticks(feed_bytes: Num, soc: SoC, core: str, xp: Any) -> Num:
    """Unloaded time of a core's own reads and writes over its feed links."""
    links = [soc.links[name] for name in soc.cores[core].feed_links]
    if not links:
        return 0 * feed_bytes
    slowest = max(links, key=lambda link: link.period_cycles / link.bytes_per_period)
    return xp.ceildiv(feed_bytes * slowest.period_cycles, slowest.bytes_per_period)


def _link_pj(soc: SoC, links: Sequence[str]) -> float:
    return sum(soc.links[name].energy_pj_per_byte for name in links)


class _Account:
    """Adds up how long units are busy, and what links and jobs spend."""

    def __init__(self, soc: SoC, xp: Any) -> None:
        self.soc, self.xp = soc, xp
        self.busy: dict[str, Num] = {}
        self.pj: Num = 0.0

    def occupy(self, unit: str, ticks: Num) -> Num:
        self.busy[unit] = self.busy.get(unit, 0) + ticks
        return ticks

    def move(self, moved: Transfer, source: str, target: str) -> Num:
        """Transfers from one memory to another, on the DMA of that route; their ticks."""
        if source == target:
            return 0
        route = self.soc.route(source, target)
        self.spend(moved.bytes, route.links)
        return self.occupy(route.dma, transfer_ticks(moved, self.soc, source, target, self.xp))

    def spend(self, moved_bytes: Num, links: Sequence[str]) -> None:
        rate = _link_pj(self.soc, links)
        if rate:
            self.pj = self.pj + moved_bytes * rate


def layer_terms(layer: Layer, work: LayerWork, soc: SoC, homes: Homes, xp: Any) -> tuple[Terms, dict[str, Num]]:
    """The terms of a layer's work, and the ticks for which each unit is busy. Ints in, ints out, but for the energy."""
    source, target, main = homes.inputs(layer), homes.output(layer), soc.main_memory
    memory = soc.cores[work.cores[0].core].memory
    account = _Account(soc, xp)
    account.move(work.loads, source, memory)
    chains, tiles, launches, first_launches = [], [], [], []
    first_weights: Num = 0
    refill: Num = 0
    for part in work.cores:
        core = soc.cores[part.core]
        if core.weight_memory is not None:
            if not homes.weights_in_main and soc.backing_memory is not None:
                account.move(part.weights, soc.backing_memory, main)
            brought = account.move(part.weights, main, core.weight_memory)
            first = transfer_ticks(part.first_weights, soc, main, core.weight_memory, xp)
            first_weights = first_weights + first
            if 2 * part.first_weights.bytes > soc.memories[core.weight_memory].capacity_bytes:
                refill = refill + brought - first
        account.move(part.stores, core.memory, target)
        account.spend(part.feed, core.feed_links)
        account.pj = account.pj + part.energy_pj
        compute = account.occupy(part.core, part.array + feed_ticks(part.feed, soc, part.core, xp))
        tiles.append(part.last_array + feed_ticks(part.last_feed, soc, part.core, xp))
        launch = part.jobs * core.launch_cycles
        first_launch = xp.used(part.jobs) * core.launch_cycles
        if core.launch_cycles:
            account.occupy(soc.host, launch)
        chains.append(compute + launch - first_launch)
        launches.append(launch)
        first_launches.append(first_launch)
    movers = [ticks for unit, ticks in account.busy.items() if unit in soc.dmas]
    host, first_host = sum(launches), sum(first_launches)
    terms = Terms(
        total=sum(account.busy.values()),
        load=transfer_ticks(work.first_load, soc, source, memory, xp),
        store=transfer_ticks(work.last_store, soc, memory, target, xp),
        weights=first_weights,
        refill=refill,
        moving=xp.maximum(*movers) if len(movers) > 1 else sum(movers),
        pace=xp.maximum(*chains, host - first_host),
        launch=first_host,
        tile=xp.maximum(*tiles),
        unit_j=power_energy_j(soc, 0, account.busy) + account.pj * 1e-12,
    )
    return terms, account.busy


def compose(terms: Terms, runtime: Runtime, theta: Theta, xp: Any, before: Before | None = None) -> Num:
    """Ticks of a layer. before: what hides its start; by default nothing does."""
    if runtime == "serial":
        return terms.total
    before = before or Before()
    weights = xp.maximum(terms.weights - before.tile * theta.prefetch, 0)
    launch = xp.maximum(terms.launch - (weights + terms.load + before.store) * theta.launch_hidden, 0)
    hidden = terms.moving - terms.weights - terms.load - terms.store - terms.refill
    inner = xp.maximum(terms.pace, hidden + terms.tile)
    lost = theta.contention * xp.minimum(terms.pace, hidden)
    return weights + terms.load + launch + terms.refill + inner + lost + terms.store + theta.layer_ticks


def layer_time(
    layer: Layer, work: LayerWork, soc: SoC, runtime: Runtime, homes: Homes, theta: Theta, xp: Any
) -> LayerTime:
    """Compose a layer's work into its time, on its own. Ints in, ints out for the serial runtime."""
    terms, busy = layer_terms(layer, work, soc, homes, xp)
    return LayerTime(compose(terms, runtime, theta, xp), busy)
