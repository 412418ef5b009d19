"""What a mapped layer amounts to: jobs, cycles and bytes, before anything overlaps.

`lower` emits this work and an estimate composes it; both get it from here, so that "bytes and MACs emitted equal those
of the workload and tiling" is a statement that can be tested. Everything is written in the primitives of `exact`:
the channels of a share may be an int, an integer array or a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cosoc.sim.exact import Num
from cosoc.sim.model.mapping import LayerPlan, Part
from cosoc.sim.model.placement import Homes
from cosoc.sim.model.soc import Core, SoC
from cosoc.sim.model.tiles import (
    c_parts,
    channel_slice,
    cut_channels,
    group_sizes,
    job_form,
    job_sizes,
    make_tile,
    per_channel,
    pixel_loops,
    tile_counts,
)
from cosoc.sim.model.workload import Layer, Tile
from cosoc.sim.movers.cached_terms import Machine, estimate_nest
from cosoc.sim.movers.dma_terms import (
    NOTHING,
    Transfer,
    Window,
    constant_transfer,
    copies,
    input_transfer,
    output_transfer,
    weight_transfer_of,
    windows,
)
from cosoc.sim.theta import Theta


@dataclass(frozen=True)
class CoreWork:
    """One core's part of a layer, summed over its jobs.

    jobs: count. array: array cycles, or what is streamed beside them where that takes longer. fed: ticks of its feeds,
    those that bring loaded inputs into its own format included; streamed: of what moves beside its array cycles. feed:
    the bytes of both. weights: transfers to its weight memory. stores: transfers of its results. first_weights: those
    of its first job. last: array and feed of the last job of the first channels, ticks.
    """

    core: str
    jobs: Num
    array: Num
    fed: Num
    streamed: Num
    feed: Num
    weights: Transfer
    stores: Transfer
    energy_pj: Num
    first_weights: Transfer
    last: Num


@dataclass(frozen=True)
class LayerWork:
    """A mapped layer's whole work: the cores' parts, the loads of its inputs, and the tiles that it goes through.

    first_load, last_store: the transfers that nothing of the same layer can hide. constants, first_constants: those of
    its constants, all and the first.
    """

    cores: tuple[CoreWork, ...]
    loads: Transfer
    steps: Num
    first_load: Transfer
    last_store: Transfer
    constants: Transfer = NOTHING
    first_constants: Transfer = NOTHING


def feed_ticks(tile: Tile, soc: SoC, core: Core, xp: Any, n: int = 1) -> Num:
    """Unloaded time of one job's own reads and writes, over n images, over its core's feed links."""
    ticks: Num = 0 * tile.k
    for names, moved in core.feeds(tile, xp):
        if names:
            ticks = ticks + link_ticks(moved * n, names, soc, xp)
    return ticks


def link_ticks(moved: Num, names: Sequence[str], soc: SoC, xp: Any) -> Num:
    """Unloaded time of so many bytes over all of the links at once."""
    links = [soc.links[name] for name in names]
    slowest = max(links, key=lambda link: link.period_cycles / link.bytes_per_period)
    return xp.ceildiv(moved * slowest.period_cycles, slowest.bytes_per_period)


def access_pj(tile: Tile, soc: SoC, core: Core) -> Num:
    """Energy of a job's accesses to the memory that its core computes from, where that states one: reading its inputs,
    with what they are multiplied by, and writing its results, at the memory that serves them."""
    served = soc.memories[soc.serves(core)]
    second = tile.k * tile.c if tile.op == "matmul" else 0
    return (tile.k * tile.oy * tile.ox * (1 + tile.operands) + second) * served.access_pj_per_byte


def core_cycles(core: Core, tile: Tile, n: int, xp: Any) -> Num:
    """Array cycles of one job over n images."""
    return core.cycles(tile, xp) if n == 1 else core.batch_cycles(tile, n, xp)


def stream_ticks(tile: Tile, soc: SoC, core: Core, xp: Any, n: int = 1) -> Num:
    """Unloaded time of what one job moves beside its array cycles, over n images."""
    return link_ticks(core.stream_bytes(tile, xp) * n, core.feed_links, soc, xp) if core.streams else 0 * tile.k


def job_cycles(core: Core, tile: Tile, soc: SoC, xp: Any, n: int = 1) -> Num:
    """Unloaded time of one job over n images but for its feeds: array cycles, or what moves beside them."""
    cycles = core_cycles(core, tile, n, xp)
    return xp.maximum(cycles, stream_ticks(tile, soc, core, xp, n)) if core.streams else cycles


def _total(parts: Sequence[tuple[Transfer, Num]]) -> Transfer:
    return Transfer(
        sum(t.bytes * n for t, n in parts), sum(t.calls * n for t, n in parts), sum(t.pieces * n for t, n in parts)
    )


def _cached_work(layer: Layer, soc: SoC, part: Part, k: Num, plan: LayerPlan, xp: Any, theta: Theta | None) -> CoreWork:
    """A part behind a cached mover, with k channels: how its loads, jobs and stores overlap is in its own closed form,
    so that to the others it is one job without transfers."""
    none = Transfer(0 * k, 0 * k)
    if not part.channels and not xp.used(k):
        return CoreWork(part.core, 0 * k, 0 * k, 0 * k, 0 * k, 0 * k, none, none, 0.0 * k, none, 0 * k)
    own, machine = channel_slice(layer, max(part.channels, 1)), Machine.of(soc, part.core)
    found = estimate_nest(own, replace(plan, parts=(part,)), machine, theta, xp, channels=k)
    return CoreWork(part.core, xp.used(k), found.cycles, 0 * k, 0 * k, 0 * k, none, none, found.energy_pj, none, 0 * k)


def layer_work(
    layer: Layer,
    soc: SoC,
    shares: Sequence[tuple[str, Num]],
    plan: LayerPlan,
    homes: Homes,
    xp: Any,
    theta: Theta | None = None,
    loops: tuple[Num, Num, Num] | None = None,
) -> LayerWork:
    """The work of `layer` under a plan, with `shares` (core, output channels) in place of the plan's own.

    Shares may be ints, integer arrays or tensors, core by core as in the plan; with the plan's own and `xp = exact`
    this is, to the byte, what `lower` emits. The plan must be tiled. Operands are loaded again as `lower.walk` has it.
    Parts behind a cached mover run beside the others, by a closed form of their own (`movers.cached_terms`), which is
    where theta comes in.
    k, oy and ox of the tiles may be integer arrays of equal length: the work of so many tilings at once. loops: what
    `pixel_loops` says of each where their orders differ, in place of that of the plan's.
    """
    cached = [i for i, part in enumerate(plan.parts) if soc.is_cached(part.core)]
    if cached:
        by_number = {i: _cached_work(layer, soc, plan.parts[i], shares[i][1], plan, xp, theta) for i in cached}
        rest = [i for i in range(len(plan.parts)) if i not in by_number]
        if not rest:
            some = xp.maximum(0, *(work.jobs for work in by_number.values()))
            return LayerWork(tuple(by_number.values()), NOTHING, some, NOTHING, NOTHING)
        beside = replace(plan, parts=tuple(plan.parts[i] for i in rest))
        work = layer_work(layer, soc, [shares[i] for i in rest], beside, homes, xp, loops=loops)
        by_number |= dict(zip(rest, work.cores, strict=True))
        return replace(work, cores=tuple(by_number[i] for i in range(len(plan.parts))))
    cut = windows(layer, plan.tile)
    tiles = sum(at.count for at in cut)
    counts = tile_counts(layer, plan.tile)
    outside, pixels_inside, images = loops or pixel_loops(plan, counts)
    once, again, by_part = 1, outside, tiles
    if layer.second:  # each image has its own
        once, again, by_part = (n // counts["n"] for n in (images, xp.maximum(outside, images), tiles))
    source, target = homes.inputs(layer), homes.output(layer)
    cores, loads, firsts, lasts = [], [], [], []
    constants, first_constants = list[tuple[Transfer, Num]](), list[tuple[Transfer, Num]]()
    groups = [
        group_sizes(layer, part, soc.core_of(part), k, xp)
        for (_, k), part in zip(shares, plan.parts, strict=True)
        if part.tile is not None
    ]
    sizes = [job_sizes(own) for own in groups]
    k_steps = [sum(count * xp.used(size) for size, count in own) for own in sizes]
    for (name, _), own, part in zip(shares, sizes, plan.parts, strict=True):
        assert part.tile is not None
        often = xp.where(part.tile.k >= part.channels, once, again), by_part
        cores.append(_core_work(layer, soc, part, own, often, cut, plan, homes, xp))
        lasts.append((output_transfer(layer, soc, soc.cores[name].memory, own[0][0], cut[-1], target, xp), 1))
    # A core without channels has its place in the work, so that a gradient can reach it; it takes no part in deciding
    # which form of the layer the inputs are loaded for.
    there = [i for i, part in enumerate(plan.parts) if part.channels or layer.alternative is None]
    for copy in copies(layer, soc, [(i, shares[i][0]) for i in there]):
        memory, read = soc.cores[shares[copy.shares[0]][0]].memory, copy.layer
        seen = [at.under(layer, read) for at in cut]
        if copy.sliced:
            i, own = copy.shares[0], sizes[copy.shares[0]]
            if per_channel(read):
                slices = [(size, count) for size, count in own]
            else:  # a group's, which stay while its tiles follow each other
                each = [(times, sum(n * xp.used(size) for size, n in tiles)) for times, tiles in groups[i]]
                slices = [(read.c, sum(times * xp.where(pixels_inside, n, 1) for times, n in each))]
            mine = [
                (input_transfer(read, soc, memory, size, at, source, xp), at.count * count)
                for size, count in slices
                for at in seen
            ]
            loads += mine
            if read.constants:
                more = [
                    (constant_transfer(read, soc, memory, size, at, homes.weights_of(read), xp), at.count * count)
                    for size, count in slices
                    for at in seen
                ]
                constants, first_constants = [*constants, *more], [*first_constants, (more[0][0], 1)]
                mine = [*mine, *more]
            cores[i] = _rewriting(cores[i], mine, soc, xp)
            firsts.append((input_transfer(read, soc, memory, own[0][0], seen[0], source, xp), 1))
        else:
            most = xp.maximum(0, *(k_steps[i] for i in copy.shares))
            again = xp.where(pixels_inside, most, 1)
            one = [input_transfer(read, soc, memory, read.c, at, source, xp) for at in seen]
            all_of_it = [(t, at.count) for t, at in zip(one, seen, strict=True)]
            loads += [(t, n * again) for t, n in all_of_it]
            for i in copy.shares:
                times = xp.where(pixels_inside, k_steps[i], xp.used(k_steps[i]))
                cores[i] = _rewriting(cores[i], [(t, n * times) for t, n in all_of_it], soc, xp)
            firsts.append((one[0], 1))
    beside_all = (_total(constants), _total(first_constants)) if constants else ()
    steps = tiles * xp.maximum(0, *k_steps)
    return LayerWork(tuple(cores), _total(loads), steps, _total(firsts), _total(lasts), *beside_all)


def _rewriting(work: CoreWork, loads: Sequence[tuple[Transfer, Num]], soc: SoC, xp: Any) -> CoreWork:
    """A core's work with that of bringing its loaded inputs, (transfer, times), into its own format."""
    core = soc.cores[work.core]
    if type(core).rewritten_bytes is Core.rewritten_bytes or not core.feed_links:
        return work
    moved = [(core.rewritten_bytes(load.bytes, xp), times) for load, times in loads]
    ticks = sum(link_ticks(one, core.feed_links, soc, xp) * times for one, times in moved)
    return replace(work, fed=work.fed + ticks, feed=work.feed + sum(one * times for one, times in moved))


def _core_work(
    layer: Layer,
    soc: SoC,
    part: Part,
    sizes: Sequence[tuple[Num, Num]],
    often: tuple[Num, Num],
    cut: Sequence[Window],
    plan: LayerPlan,
    homes: Homes,
    xp: Any,
) -> CoreWork:
    """often: how often weights of a tile of channels come, or what an image is multiplied by in their place: where all
    input channels are one job's, and where they are cut."""
    core = soc.core_of(part)
    own = job_form(layer, core)
    target = homes.output(layer)
    tiles = sum(at.count for at in cut)
    jobs: Num = 0
    array: Num = 0
    feed: Num = 0
    energy: Num = 0.0
    last: Num = None
    fed: Num = 0
    streamed: Num = 0
    weights, stores = [], []
    parts = c_parts(own, cut_channels(layer, soc, plan))
    n_parts = sum(n for _, n in parts)
    images = [(1, 1)]  # at once, and how often, that have weights of their own
    if layer.second:
        images = [(cut[0].n, layer.n // cut[0].n), (layer.n % cut[0].n, 1)]
    for size, count in sizes:
        jobs = jobs + xp.used(size) * count * tiles * n_parts
        for c, n in parts:
            moved = weight_transfer_of(layer, soc, core, size, xp, c, homes)
            weights += [(moved.times(of), count * n * often[n_parts > 1] * times) for of, times in images if of]
        for at in cut:
            times = count * at.count
            for c, n in parts:
                tile = make_tile(own, size, at.y.out, at.x.out, plan.unroll, c)
                read = (core.feed_bytes(tile, xp) + core.stream_bytes(tile, xp)) * at.n
                one = job_cycles(core, tile, soc, xp, at.n), feed_ticks(tile, soc, core, xp, at.n)
                streamed = streamed + stream_ticks(tile, soc, core, xp, at.n) * times * n
                array, fed = array + one[0] * times * n, fed + one[1] * times * n
                feed = feed + read * times * n
                energy = energy + (core.energy_pj(tile, xp) + access_pj(tile, soc, core)) * (times * at.n) * n
            stores.append((output_transfer(layer, soc, core.memory, size, at, target, xp), times))
        if last is None:
            last = one[0] + one[1]
    first = weight_transfer_of(layer, soc, core, sizes[0][0], xp, parts[0][0], homes).times(images[0][0])
    work = CoreWork(part.core, jobs, array, fed, streamed, feed, _total(weights), _total(stores), energy, first, last)
    return _rewriting(work, weights, soc, xp) if layer.second else work
