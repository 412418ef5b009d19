"""From a layer's work to its time in closed form: what a tiler minimises and a search differentiates.

`layer_terms` reduces a layer's work to a handful of times; `compose` makes a layer's ticks of them. The composition is
the machine's, simplified. In the serial runtime everything follows everything, and the sum is the simulated time, to
the tick. In the overlapped runtime

    [weights of the first tile] [first load] [ steps ................................. ] [last store]
      hidden while the layer                  the slowest of cores, host and DMA paces
      before computes its last tile

What this leaves out is in named factors (`cosoc.sim.theta`), which `cosoc calibrate` fits to the simulator.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cosoc.sim import exact
from cosoc.sim.exact import Num
from cosoc.sim.model.energy import power_energy_j
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.model.placement import Homes
from cosoc.sim.model.soc import Link, SoC
from cosoc.sim.model.workload import Layer
from cosoc.sim.movers.dma_terms import Transfer, weight_hops
from cosoc.sim.theta import Theta
from cosoc.sim.work import LayerWork

FEED_PERIODS = 8  # of its narrowest link, in a burst of a core's own traffic


@dataclass(frozen=True)
class Terms:
    """What `compose` needs to know of a layer, or of many at once (arrays, tensors). Ticks, but for the last two.

    total: everything one after the other. load, store, weights: the first load, last store and first weights, which
    nothing of the same layer hides. fetch, queued: weights from the backing memory, with what they wait until others
    have left the main memory, and how much of `weights` is in that. spill: what else their DMA moves.
    moving: the busiest DMA, with all of these but fetch. pace: the slowest core (or the host) with all launches but the
    first, as far as it waits for others, and for weights where their memory does not hold two tiles of them.
    launch: the first launches, one after the other. tile: the last tile on the slowest core. free: how long the DMA is
    free while that tile is computed. single: 1 if there is one tile only, else 0. handed: until cores have handed over
    what they made and others read. unit_j: energy of units while busy and of links, J.
    """

    total: Num
    load: Num
    store: Num
    weights: Num
    fetch: Num
    queued: Num
    spill: Num
    moving: Num
    pace: Num
    launch: Num
    tile: Num
    free: Num
    single: Num
    handed: Num
    unit_j: Num


@dataclass(frozen=True)
class Before:
    """What of the layer before hides the start of a layer. free: the ticks in which the DMA is free for its weights (0
    if they find no room beside those in use). store: its last store."""

    free: Num = 0
    store: Num = 0


@dataclass(frozen=True)
class LayerTime:
    """A layer's estimated time, and how long each unit of the machine is busy in it; ticks. unit_j: energy of units
    while busy, of links and jobs, J."""

    ticks: Num
    busy: dict[str, Num]
    unit_j: Num


def transfer_ticks(moved: Transfer, soc: SoC, source: str, target: str, xp: Any) -> Num:
    """Unloaded time of transfers along the route from source to target: set-up of each call, then its bursts."""
    if source == target:
        return 0 * moved.calls
    route = soc.route(source, target)
    dma = soc.dma(route.dma)
    links = (_burst_ticks(soc.links[name], dma.burst_bytes) for name in route.links)
    per_burst = max(*links, _bus_cycles(soc, (source, target), dma.burst_bytes))
    return moved.setup_ticks(dma) + xp.ceildiv(moved.bytes, dma.burst_bytes) * per_burst


def _burst_ticks(link: Link, burst_bytes: int) -> int:
    """Ticks for which a burst holds a link."""
    return -(-burst_bytes * link.period_cycles // link.bytes_per_period)


def _bus_cycles(soc: SoC, memories: Sequence[str], burst_bytes: int) -> Num:
    """Cycles for which a burst holds the data bus of the dynamic memory among these; 0 where none is."""
    drams = [soc.memories[name].dram for name in memories]
    return max((burst_bytes * dram.rate[1] / dram.rate[0] for dram in drams if dram is not None), default=0)


def _mean_stretch(soc: SoC, links: Sequence[str], link: str, others: Sequence[Num]) -> Num:
    """Mean factor on a core's bursts over `links`, one of which is `link`, where other units are at that link for such
    shares of the time, independently. As the engines have it, the ticks of a burst are rounded down."""
    table = soc.links[link].stretch
    burst = min(soc.links[name].bytes_per_period for name in links) * FEED_PERIODS
    ticks = _burst_ticks(soc.links[link], burst)
    odds: list[Num] = [1.0]  # of so many others at once
    for share in others:
        odds = [stay * (1 - share) + come * share for stay, come in zip([*odds, 0.0], [0.0, *odds], strict=True)]
    entries = [table[min(n, len(table) - 1)] for n in range(len(odds))]
    return sum(odd * ((ticks * round(256 * entry)) >> 8) for odd, entry in zip(odds, entries, strict=True)) / ticks


def _link_pj(soc: SoC, links: Sequence[str]) -> float:
    return sum(soc.links[name].energy_pj_per_byte for name in links)


class _Account:
    """Adds up how long units are busy, and what links and jobs spend. held: how long DMAs are at links that stretch."""

    def __init__(self, soc: SoC, xp: Any) -> None:
        self.soc, self.xp = soc, xp
        self.busy: dict[str, Num] = {}
        self.held: dict[str, Num] = {}
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
        accessed = sum(self.soc.memories[name].access_pj_per_byte for name in (source, target))
        self.pj = self.pj + moved.bytes * accessed
        burst = self.soc.dma(route.dma).burst_bytes
        for name in (name for name in route.links if self.soc.links[name].stretch):
            bursts = self.xp.ceildiv(moved.bytes, burst)  # each at this link for as long as its own rate needs
            self.held[name] = self.held.get(name, 0) + bursts * _burst_ticks(self.soc.links[name], burst)
        return self.occupy(route.dma, transfer_ticks(moved, self.soc, source, target, self.xp))

    def spend(self, moved_bytes: Num, links: Sequence[str]) -> None:
        rate = _link_pj(self.soc, links)
        if rate:
            self.pj = self.pj + moved_bytes * rate


@dataclass(frozen=True)
class _Chain:
    """One core's part of a layer as jobs one after the other; ticks. own: arrays and feeds; fed: of these the feeds;
    streamed: of bytes that move beside the arrays, ahead of need.
    refill: later weights that wait until the ones before are used up, because their memory does not hold both. last:
    the last job. first, later: launches, the first and the others. offset: how much later than the group's first chain
    it starts. stored: whether the DMA takes its results away."""

    core: str
    jobs: Num
    own: Num
    fed: Num
    streamed: Num
    refill: Num
    last: Num
    first: Num
    later: Num
    offset: Num
    stored: bool

    @property
    def ticks(self) -> Num:
        """All of it."""
        return self.own + self.refill + self.later


@dataclass(frozen=True)
class _Part:
    """A layer's chains, and the transfers that nothing of the same layer hides, as in `Terms`. waits, queued: as in
    `_queued`."""

    chains: tuple[_Chain, ...]
    load: Num
    store: Num
    weights: Num
    fetch: Num
    waits: Num
    queued: Num


def layer_terms(
    layer: Layer, work: LayerWork, soc: SoC, homes: Homes, xp: Any, before: Collection[str] | None = None
) -> tuple[Terms, dict[str, Num]]:
    """The terms of a layer's work, and the ticks for which each unit is busy. Ints in, ints out, but for the energy and
    for what other than a sum of works paces the layer.

    before: the cores that the layer before runs on, None for all; others are launched long before they are needed.
    """
    return group_terms(((layer, work),), soc, homes, xp, before)


def group_terms(
    members: Sequence[tuple[Layer, LayerWork]],
    soc: SoC,
    homes: Homes,
    xp: Any,
    before: Collection[str] | None = None,
    handed: Sequence[tuple[str, Num]] = (),
) -> tuple[Terms, dict[str, Num]]:
    """The same of layers that run at once, each on cores of its own: chains side by side, and DMAs that they share.

    handed: cores that hand over what the layers read, and for how many ticks.
    """
    account = _Account(soc, xp)
    handed_ticks = sum(account.occupy(core, ticks) for core, ticks in handed)
    parts = [_part(layer, work, account, homes) for layer, work in members]
    store = xp.maximum(0, *(part.store for part in parts))
    fetch = sum(part.fetch for part in parts)
    waits = sum(part.waits for part in parts)
    fetching = soc.route(soc.backing_memory, soc.main_memory).dma if soc.backing_memory is not None else ""
    moving = {unit: t - fetch if unit == fetching else t for unit, t in account.busy.items() if unit in soc.dmas}
    busiest = xp.maximum(0, *moving.values())
    offset: Num = 0
    sides = list[list[_Chain]]()
    for n, part in enumerate(parts):  # the weights and loads of the others are brought after those of the first
        offset = offset + (part.load + part.weights if n else 0)
        sides.append([replace(chain, offset=offset) for chain in part.chains])
    sides = _stretched(sides, busiest, account)
    chains = [chain for side in sides for chain in side]
    last = [(chain, _last(chain, side, xp)) for side in sides for chain in side]
    tile = xp.maximum(*(ticks for _, ticks in last))
    single: Num = 1
    for _, work in members:
        single = single * xp.where(work.steps > 1, 0, 1)
    terms = Terms(
        total=sum(account.busy.values()),
        load=parts[0].load,
        store=store,
        weights=parts[0].weights,
        fetch=fetch + waits,
        queued=sum(part.queued for part in parts),
        spill=moving.get(fetching, 0),
        moving=busiest,
        pace=xp.maximum(sum(chain.later for chain in chains), *(_pace(side, xp) for side in sides)),
        launch=sum(chain.first for chain in chains if before is None or chain.core in before),
        tile=tile,
        free=xp.where(
            single > 0, tile, xp.maximum(xp.maximum(*(ticks + chain.first for chain, ticks in last)) - store, 0)
        ),
        single=single,
        handed=handed_ticks,
        unit_j=power_energy_j(soc, 0, account.busy) + account.pj * 1e-12,
    )
    return terms, account.busy


def _part(layer: Layer, work: LayerWork, account: _Account, homes: Homes) -> _Part:
    """A layer's chains, with all that it does accounted for.

    Weights that wait until others are used up hold up the loads behind them, since the DMA is in order; not so where
    weights come for a part of the input channels each, more often than inputs.
    """
    soc, xp = account.soc, account.xp
    source, target = homes.inputs(layer), homes.output(layer)
    load: Num = 0 * work.steps
    store: Num = 0 * work.steps
    loads: Num = 0 * work.steps
    by_dma = [part.core for part in work.cores if not soc.is_cached(part.core)]
    if by_dma:
        memory = soc.cores[by_dma[0]].memory
        load = transfer_ticks(work.first_load, soc, source, memory, xp)
        store = transfer_ticks(work.last_store, soc, memory, target, xp)
        brought = account.move(work.loads, source, memory)
        if layer.constants:
            beside = homes.weights_of(layer)
            load = load + transfer_ticks(work.first_constants, soc, beside, memory, xp)
            brought = brought + account.move(work.constants, beside, memory)
        loads = (brought - load) / xp.maximum(work.steps - 1, 1)
    chains, weights, fetch = list[_Chain](), 0 * work.steps, 0 * work.steps
    streams = list[_Stream]()
    for part in work.cores:
        core = soc.cores[part.core]
        refill: Num = 0
        if part.core in by_dma and (hops := weight_hops(layer, soc, core, homes)):
            fetched: Num = 0 * work.steps
            for hop in hops[:-1]:
                fetched = account.move(part.weights, *hop)
            brought = account.move(part.weights, *hops[-1])
            first = transfer_ticks(part.first_weights, soc, *hops[-1], xp)
            if layer.second:  # made by the layer before, so that nothing hides them
                load = load + sum(transfer_ticks(part.first_weights, soc, *hop, xp) for hop in hops)
            else:
                fetch, weights = fetch + fetched, weights + first
            held_up = xp.where(part.weights.calls > work.steps, 0, part.weights.calls - part.first_weights.calls)
            width = core.element_bytes if layer.second else 1
            tight = 2 * part.first_weights.bytes * width > soc.memories[hops[-1][1]].capacity_bytes
            refill = xp.where(tight, brought - first + held_up * loads, 0)
            moved = part.weights.calls, part.first_weights.bytes
            streams.append(_Stream(len(chains), *moved, fetched, brought, first, part.last, tight))
        if not soc.is_cached(part.core):
            account.move(part.stores, core.memory, target)
        account.spend(part.feed, core.feed_links)
        account.pj = account.pj + part.energy_pj
        own = account.occupy(part.core, part.array + part.fed)
        first_launch = xp.used(part.jobs) * (core.launch_cycles + core.layer_launch_cycles)
        launch = part.jobs * core.launch_cycles + xp.used(part.jobs) * core.layer_launch_cycles
        if core.launch_cycles or core.layer_launch_cycles:
            account.occupy(soc.host, launch)
        stored = core.memory != target and not soc.is_cached(part.core)
        chains.append(
            _Chain(
                part.core,
                part.jobs,
                own,
                part.fed,
                part.streamed,
                refill,
                part.last,
                first_launch,
                launch - first_launch,
                0,
                stored,
            )
        )
    for one in streams:
        chain, between = chains[one.chain], _between(one, streams, homes.stream_bytes, xp)
        chains[one.chain] = replace(chain, refill=chain.refill + xp.where(one.tight, between, 0))
    queues = not (homes.weights_in_main or layer.second)
    waits, queued = _queued(streams, homes.stream_bytes, xp) if queues else (0, 0)
    return _Part(tuple(chains), load, store, weights, fetch, waits, queued)


@dataclass(frozen=True)
class _Stream:
    """Weights of one core. chain: its number. tiles: how often they come; tile_bytes: of the first time. fetched,
    brought: ticks of all fetches from the backing memory, and of all transfers to the core's memory; first: the first
    of the latter. job: ticks of one job. tight: whether the core's memory does not hold two tiles."""

    chain: int
    tiles: Num
    tile_bytes: Num
    fetched: Num
    brought: Num
    first: Num
    job: Num
    tight: Any


def _between(one: _Stream, streams: Sequence[_Stream], room: int, xp: Any) -> Num:
    """Ticks for which a core that has used up its weights waits while those of others are brought, which come before
    its next ones; and fetched before, where both do not find room on their way. One job hides some of each."""
    out: Num = 0
    for other in streams:
        if other is not one:
            fetched = xp.where(one.tile_bytes + other.tile_bytes > room, other.fetched, 0)
            lane = (other.brought + fetched) / xp.maximum(other.tiles, 1)
            out = out + xp.minimum(one.tiles, other.tiles) * xp.maximum(lane - one.job, 0)
    return out


def _queued(streams: Sequence[_Stream], room: int, xp: Any) -> tuple[Num, Num]:
    """Ticks in which nothing is fetched, since the room that weights pass through does not hold the tile that is on its
    way to a core's memory and the next one beside it; and what first tiles have of these. Tiles of two cores take
    turns, as far as both have some."""
    waits: Num = 0
    firsts: Num = 0
    for one in streams:
        alone, crowded = one.tiles, 0 * one.tiles
        for other in streams:
            if other is not one:
                pairs = xp.minimum(alone, other.tiles)
                crowded = crowded + xp.where(one.tile_bytes + other.tile_bytes > room, pairs, 0)
                alone = alone - pairs
        share = (crowded + xp.where(2 * one.tile_bytes > room, alone, 0)) / xp.maximum(one.tiles, 1)
        waits, firsts = waits + one.brought * share, firsts + one.first * share
    return waits, firsts


def _pace(chains: Sequence[_Chain], xp: Any) -> Num:
    """Ticks of a layer's chains side by side.

    The DMA is in order: it brings a step's inputs after it took away the results of the step before the last. So of
    two cores the one with more jobs is at most one ahead while the other has any, and does the rest alone.
    """
    out = [chain.offset + chain.ticks for chain in chains]
    for slow in chains:
        for fast in chains:
            if fast is not slow and fast.stored and slow.stored:
                rest = xp.maximum(1 - (slow.jobs + 1) / xp.maximum(fast.jobs, 1), 0)
                out.append(slow.offset + slow.ticks + fast.ticks * rest)
    return xp.maximum(*out)


def _last(chain: _Chain, chains: Sequence[_Chain], xp: Any) -> Num:
    """A chain's last job if that may be its layer's last; 0 of a core that has fewer jobs and so ends before."""
    if not chain.stored:
        return chain.last
    return xp.where(chain.jobs >= xp.maximum(*(other.jobs for other in chains)), chain.last, 0)


def _stretched(sides: list[list[_Chain]], moving: Num, account: _Account) -> list[list[_Chain]]:
    """The chains with feeds stretched by conflicts: each unit is at a link for a share of the time, whatever the others
    do, and a burst meets as many as happen to be there. Nothing changes on a SoC without `stretch`."""
    soc, xp = account.soc, account.xp
    stretching = {name for name, link in soc.links.items() if link.stretch}
    if not stretching:
        return sides
    chains = [chain for side in sides for chain in side]
    span = xp.maximum(1, moving, *(chain.offset + chain.ticks for chain in chains))

    def stretched(chain: _Chain) -> _Chain:
        extra: Num = 0
        links = soc.cores[chain.core].feed_links
        for name in stretching.intersection(links):
            held = [c.fed + c.streamed for c in chains if c is not chain and name in soc.cores[c.core].feed_links]
            held += [account.held[name]] if name in account.held else []
            factor = _mean_stretch(soc, links, name, [ticks / span for ticks in held])
            longer = xp.maximum(chain.streamed * factor - (chain.own - chain.fed), 0)
            extra = xp.maximum(extra, chain.fed * (factor - 1) + longer)
        return replace(chain, own=chain.own + extra, last=chain.last * (1 + extra / xp.maximum(chain.own, 1)))

    return [[stretched(chain) for chain in side] for side in sides]


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
    hidden = terms.moving - terms.weights - terms.load - terms.store
    inner = xp.maximum(terms.pace, hidden + terms.tile)
    return terms.handed + weights + terms.load + launch + inner + terms.store


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
        after = xp.maximum(layer.spill, layer.weights - layer.queued + layer.store) + layer.tile
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
    return LayerTime(ticks, busy, terms.unit_j)
