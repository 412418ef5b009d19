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

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cosoc.sim import exact
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

    prefetch: share of the time in which the DMA is free at a layer's end that the next layer's weights use (0..1).
    launch_hidden: share of the transfers before a layer's first job that really hides its launch (0..1).
    """

    prefetch: float = 1.0
    launch_hidden: float = 1.0


@dataclass(frozen=True)
class Terms:
    """What `compose` needs to know of a layer, or of many at once (arrays, tensors). Ticks, but for the last two.

    total: everything one after the other. load, store, weights: the first load, last store and first weights, which
    nothing of the same layer hides. refill: later weights that wait until the ones before are used up, because their
    memory does not hold both. fetch, spill: weights from the backing memory, and what else their DMA moves. moving: the
    busiest DMA, with all of these but fetch. pace: the slowest core (or the host) with all launches but the first.
    launch: the first launches, one after the other. tile: the last tile on the slowest core. free: how long the DMA is
    free while that tile is computed. single: 1 if there is one tile only, else 0. unit_j: energy of units while busy
    and of links, J.
    """

    total: Num
    load: Num
    store: Num
    weights: Num
    refill: Num
    fetch: Num
    spill: Num
    moving: Num
    pace: Num
    launch: Num
    tile: Num
    free: Num
    single: Num
    unit_j: Num


@dataclass(frozen=True)
class Before:
    """What of the layer before hides the start of a layer. free: the ticks in which the DMA is free for its weights (0
    if they find no room beside those in use). store: its last store."""

    free: Num = 0
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


def layer_terms(
    layer: Layer, work: LayerWork, soc: SoC, homes: Homes, xp: Any, before: Collection[str] | None = None
) -> tuple[Terms, dict[str, Num]]:
    """The terms of a layer's work, and the ticks for which each unit is busy. Ints in, ints out, but for the energy.

    before: the cores that the layer before runs on, None for all; others are launched long before they are needed.
    """
    source, target, main = homes.inputs(layer), homes.output(layer), soc.main_memory
    memory = soc.cores[work.cores[0].core].memory
    account = _Account(soc, xp)
    account.move(work.loads, source, memory)
    chains, tiles, paces = [], [], []
    weights: Num = 0
    refill: Num = 0
    fetch: Num = 0
    host: Num = 0
    launches: Num = 0
    for part in work.cores:
        core = soc.cores[part.core]
        if core.weight_memory is not None:
            if not homes.weights_in_main and soc.backing_memory is not None:
                fetch = fetch + account.move(part.weights, soc.backing_memory, main)
            brought = account.move(part.weights, main, core.weight_memory)
            first = transfer_ticks(part.first_weights, soc, main, core.weight_memory, xp)
            weights = weights + first
            if 2 * part.first_weights.bytes > soc.memories[core.weight_memory].capacity_bytes:
                refill = refill + brought - first
        account.move(part.stores, core.memory, target)
        account.spend(part.feed, core.feed_links)
        account.pj = account.pj + part.energy_pj
        compute = account.occupy(part.core, part.array + part.fed)
        launch, first_launch = part.jobs * core.launch_cycles, xp.used(part.jobs) * core.launch_cycles
        if core.launch_cycles:
            account.occupy(soc.host, launch)
        if before is None or part.core in before:
            launches = launches + first_launch
        host = host + launch - first_launch
        chains.append(compute + launch - first_launch)
        tiles.append(part.last)
        paces.append(part.last + first_launch)
    single = int(not work.steps > 1)
    store = transfer_ticks(work.last_store, soc, memory, target, xp)
    fetching = soc.route(soc.backing_memory, main).dma if soc.backing_memory is not None else ""
    moving = {unit: t - fetch if unit == fetching else t for unit, t in account.busy.items() if unit in soc.dmas}
    terms = Terms(
        total=sum(account.busy.values()),
        load=transfer_ticks(work.first_load, soc, source, memory, xp),
        store=store,
        weights=weights,
        refill=refill,
        fetch=fetch,
        spill=moving.get(fetching, 0),
        moving=xp.maximum(0, *moving.values()),
        pace=xp.maximum(*chains, host),
        launch=launches,
        tile=xp.maximum(*tiles),
        free=xp.maximum(*tiles) if single else xp.maximum(xp.maximum(*paces) - store, 0),
        single=single,
        unit_j=power_energy_j(soc, 0, account.busy) + account.pj * 1e-12,
    )
    return terms, account.busy


def starting(terms: Terms, theta: Theta, xp: Any, before: Before) -> tuple[Num, Num]:
    """Ticks before a layer's first job that nothing hides: of its first weights, and of its launch."""
    weights = xp.maximum(terms.weights - before.free * theta.prefetch, 0)
    return weights, xp.maximum(terms.launch - (weights + terms.load + before.store) * theta.launch_hidden, 0)


def compose(terms: Terms, runtime: Runtime, theta: Theta, xp: Any, before: Before | None = None) -> Num:
    """Ticks of a layer, but for what it waits for weights from the backing memory. before: what hides its start; by
    default nothing does."""
    if runtime == "serial":
        return terms.total
    weights, launch = starting(terms, theta, xp, before or Before())
    hidden = terms.moving - terms.weights - terms.load - terms.store - terms.refill
    inner = xp.maximum(terms.pace, hidden + terms.tile)
    return weights + terms.load + launch + terms.refill + inner + terms.store


def stream_ticks(homes: Homes, soc: SoC) -> int:
    """How far, in ticks, the fetching of weights from the backing memory can run ahead of their use: as far as there is
    room for them in the main memory. 0 where weights need no fetching."""
    if homes.weights_in_main or soc.backing_memory is None:
        return 0
    return int(transfer_ticks(Transfer(homes.stream_bytes, 0), soc, soc.backing_memory, soc.main_memory, exact))


def streamed(ticks: Sequence[Num], terms: Sequence[Terms], ahead: int, xp: Any) -> list[Num]:
    """Ticks of successive layers whose weights come from the backing memory, one fetch after the other.

    ticks: of the layers if their weights were in place. A layer lasts until its last weights are there and used; what
    fetching is left time for meanwhile is for the next layer, up to `ahead` ticks of it (`stream_ticks`).
    """
    out: list[Num] = []
    credit: Num = 0
    for own, layer in zip(ticks, terms, strict=True):
        after = xp.maximum(layer.spill, layer.weights + layer.store) + layer.tile
        spent = xp.maximum(own, layer.fetch - credit + after)
        out.append(xp.where(layer.fetch > 0, spent, own))
        credit = xp.minimum(credit + out[-1] - layer.fetch - layer.spill, ahead)
    return out


def layer_time(
    layer: Layer, work: LayerWork, soc: SoC, runtime: Runtime, homes: Homes, theta: Theta, xp: Any
) -> LayerTime:
    """Compose a layer's work into its time, on its own. Ints in, ints out for the serial runtime."""
    terms, busy = layer_terms(layer, work, soc, homes, xp)
    ticks = compose(terms, runtime, theta, xp)
    if runtime == "overlapped":
        (ticks,) = streamed([ticks], [terms], stream_ticks(homes, soc), xp)
    return LayerTime(ticks, busy)
