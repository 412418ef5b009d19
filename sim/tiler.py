"""Fill in what a mapping leaves open, and say what is wrong with what it states.

Tiles are chosen by enumeration: every sensible cut of rows, columns and channels that the memories admit, under
both orders, is priced with `layer_work` and `layer_time`; the cheapest wins, ties go to fewer and larger tiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import layer_time
from cosoc.sim.exact import Num
from cosoc.sim.lower.fusion import buffer_bytes
from cosoc.sim.model.mapping import (
    DIMS,
    INPUTS_STAY,
    PARTIAL_BYTES,
    WEIGHTS_STAY,
    Dim,
    Extent,
    LayerPlan,
    Mapping,
    Part,
    Piece,
    Runtime,
)
from cosoc.sim.model.placement import Homes, place
from cosoc.sim.model.soc import Core, Memory, SoC
from cosoc.sim.model.tiles import (
    behind_caches,
    behind_dma,
    by_groups,
    channel_slice,
    channels_read,
    cut_channels,
    form,
    group_sizes,
    job_form,
    job_sizes,
    make_tile,
    most_channels,
    pixel_loops,
    reasons_against,
    tile_counts,
    tiled,
    whole,
)
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import NEST_DIMS, Machine, Tiles, in_rows, rows_needed, shape_of, tile_in_rows
from cosoc.sim.movers.dma_terms import (
    Span,
    Window,
    constant_transfer,
    copies,
    input_transfer,
    output_transfer,
    weight_hops,
    weight_transfer_of,
    weights_at,
    windows,
)
from cosoc.sim.movers.fused_steps import chain, misfits, why_not
from cosoc.sim.movers.library_tiles import default_nest
from cosoc.sim.theta import Theta
from cosoc.sim.work import layer_work


def unsupported(layer: Layer, soc: SoC, core: str) -> list[str]:
    """Why `core` cannot run `layer` at all, in any form."""
    return refusals(layer, Part(core, layer.k), soc)


def refusals(layer: Layer, part: Part, soc: SoC, unroll: int = 0) -> list[str]:
    """Why the core of a part cannot run it, in any of the layer's forms."""
    core = soc.core_of(part)
    reasons = reasons_against(layer, core, part.channels, unroll)
    other = layer.alternative
    if not reasons or other is None:
        return reasons
    others = reasons_against(other, core, part.channels, unroll)
    return others and [*reasons, *(f"and in place of it {reason}" for reason in others)]


def default_core(layer: Layer, soc: SoC) -> str:
    """The core that runs a layer which a mapping is silent about: the first that can, in the layer's own form rather
    than its alternative, ternary ones and the host last."""
    able = [name for name in soc.cores if not unsupported(layer, soc, name)]
    if not able:
        reasons = "; ".join(f"{name} {', '.join(unsupported(layer, soc, name))}" for name in soc.cores)
        raise InputError(f"layer {layer.name} ({layer.fn or layer.op}): no core of {soc.name} can run it: {reasons}")
    return min(able, key=lambda n: (form(layer, soc.cores[n]) is not layer, n == soc.host, soc.cores[n].ternary))


def weight_bytes(layer: Layer, soc: SoC, parts: tuple[Part, ...]) -> int:
    """Bytes of a layer's weights as its cores store them; of a table's rows and of constants as tensors are stored."""
    if layer.op == "gather":
        return -(-layer.weights * (layer.weight_bits or 8) // 8)
    if layer.op != "conv":
        return layer.constants
    total = 0
    for part in (part for part in parts if part.channels):
        core = soc.core_of(part)
        own = job_form(layer, core)
        sizes = job_sizes(group_sizes(layer, replace(part, tile=whole(own)), core, part.channels, exact))
        tiles = ((make_tile(own, k, layer.oy, layer.ox), times) for k, times in sizes if k)
        total += sum(int(core.weight_bytes(tile, exact)) * int(times) for tile, times in tiles)
    return total


def stored_bytes(layers: Iterable[Layer], mapping: Mapping, soc: SoC) -> int:
    """Bytes of the weights of layers with parts: those that several use once, in the largest of their forms."""
    most: dict[str, int] = {}
    for layer in layers:
        owner = layer.weights_of or layer.name
        most[owner] = max(most.get(owner, 0), weight_bytes(layer, soc, mapping.layers[layer.name].parts))
    return sum(most.values())


def living(workload: Workload, mapping: Mapping, soc: SoC) -> Workload:
    """The workload without layers that only an alternative would read which the mapping does not take; layers with an
    alternative read what their parts read."""
    if all(layer.alternative is None for layer in workload):
        return workload
    needed, kept = {n.name for n in workload if workload.leaves(n.name)}, list[Layer]()
    for layer in reversed(workload.layers):
        if layer.name in needed:
            cores = [soc.core_of(part) for part in mapping.layers[layer.name].parts if part.channels]
            reads = tuple(dict.fromkeys(name for core in cores for name in form(layer, core).inputs))
            needed.update(reads)
            kept.append(layer if layer.alternative is None else replace(layer, inputs=reads, alternative=None))
    return replace(workload, layers=tuple(reversed(kept)))


def homes_of(workload: Workload, mapping: Mapping, soc: SoC) -> Homes:
    """Where the tensors of a mapped workload live; every layer must have its parts."""
    names = [*workload.incoming, *(layer.name for layer in workload)]
    alive = living(workload, mapping, soc)
    pinned = pinned_weights(workload, mapping, soc)
    weights = stored_bytes([workload[layer.name] for layer in alive if layer.name not in pinned], mapping, soc)
    inside = set()
    for piece in mapping.pieces:
        members = set(piece.layers) if piece.how == "fused" else set[str]()
        inside |= {n for n in members if not workload.leaves(n) and set(workload.readers(n)) <= members}
    taken: dict[str, int] = {}
    for name in pinned:
        part = next(part for part in mapping.layers[name].parts if part.channels)
        memory = soc.cores[part.core].weight_memory
        assert memory is not None
        taken[memory] = taken.get(memory, 0) + weight_bytes(workload[name], soc, (part,))
    homes = place(alive, soc, weights, frozenset(inside), _staged(alive, mapping, soc))
    tensors = dict.fromkeys(names, soc.main_memory) | dict(homes.tensors)
    room = dict.fromkeys(names, soc.memories[soc.main_memory].capacity_bytes) | dict(homes.room)
    return replace(homes, tensors=tensors, pinned=frozenset(pinned), pinned_bytes=taken, room=room)


def _staged(workload: Workload, mapping: Mapping, soc: SoC) -> dict[str, int]:
    """Bytes of the main memory for tiles of one row and channel of each layer that a core computes from there, if its
    tensors were in the backing memory."""
    main, backing = soc.main_memory, soc.backing_memory
    if backing is None or not (soc.has_route(backing, main) and soc.has_route(main, backing)):
        return {}
    tensors = dict.fromkeys((*workload.incoming, *(layer.name for layer in workload)), backing)
    away = Homes(main, tensors, False, 0, weights=backing)
    out = {}
    for layer in workload:
        plan = mapping.layers[layer.name]
        if any(part.channels and soc.cores[part.core].memory == main for part in plan.parts):
            rows = tiled(layer, plan, soc, (1,) * len(plan.parts), 1, layer.ox, n=1)
            out[layer.name] = tile_bytes(layer, rows, soc, mapping.runtime, away)[main].total
    return out


def pinned_weights(workload: Workload, mapping: Mapping, soc: SoC) -> tuple[str, ...]:
    """Layers whose weights stay in the weight memory of a core that keeps them: all if all fit, else the first ones
    that fill half of it, while the others pass through the other half. Layers on several cores are not kept."""
    out: list[str] = []
    for name, core in soc.cores.items():
        if core.keeps_weights and core.weight_memory is not None:
            sizes = {n.name: n_bytes for n in workload if (n_bytes := kept_bytes(n, mapping, soc, name))}
            stay = kept(np.array(list(sizes.values()), np.int64), soc.memories[core.weight_memory].capacity_bytes)
            out += [layer for layer, stays in zip(sizes, stay.tolist(), strict=True) if stays]
    return tuple(out)


def kept_bytes(layer: Layer, mapping: Mapping, soc: SoC, core: str) -> int:
    """Bytes of a layer's weights that a core may keep: those of a layer that it alone computes, else 0."""
    parts = mapping.layers[layer.name].parts
    return (
        weight_bytes(layer, soc, parts) if layer.op == "conv" and [p.core for p in parts if p.channels] == [core] else 0
    )


def kept(sizes: npt.NDArray[np.int64], room: int) -> npt.NDArray[np.bool_]:
    """[..., layers]: whose weights stay in a memory of so many bytes, of networks whose layers have weights of so many
    [..., layers], in order: all if all fit, else the first ones that fill half of it."""
    left = np.where(sizes.sum(-1) > room, room // 2, room)
    out = np.zeros(sizes.shape, bool)
    for i in range(sizes.shape[-1]):
        out[..., i] = sizes[..., i] <= left
        left = left - np.where(out[..., i], sizes[..., i], 0)
    return out


@dataclass(frozen=True)
class TileBytes:
    """What the largest tiles of a layer take of a memory: so many buffers, each for inputs and outputs."""

    buffers: Num
    inputs: Num
    outputs: Num

    @property
    def total(self) -> Num:
        return self.buffers * (self.inputs + self.outputs)

    def __str__(self) -> str:
        return f"{self.buffers} x ({self.inputs} in + {self.outputs} out) = {self.total} bytes"


def tile_bytes(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> dict[str, TileBytes]:
    """What the largest tiles of a layer take of each memory that its cores compute from, those behind a cached mover
    left out; of the main one where its tensors lie elsewhere. k, oy and ox of the tiles may be arrays."""
    plan = behind_dma(plan, soc)
    if not plan.parts:
        return {}
    cut = windows(layer, plan.tile)
    most = out = Window(max(at.n for at in cut), _largest([at.y for at in cut]), _largest([at.x for at in cut]), 1)
    parts = [(p, exact.minimum(p.tile.k, p.channels)) for p in plan.parts if p.channels and p.tile is not None]
    cut_c = cut_channels(layer, soc, plan)
    taken = {}
    tiles = sum(at.count for at in cut) * exact.maximum(1, *(exact.ceildiv(part.channels, k) for part, k in parts))
    buffers = exact.where(tiles > 1, 2, 1) if runtime == "overlapped" else 1
    read = copies(layer, soc, [(i, part.core) for i, (part, _) in enumerate(parts)])
    for name in {soc.cores[part.core].memory for part, _ in parts}:
        if {name} == {*homes.ends(layer)}:
            continue
        here = [(part, k) for part, k in parts if soc.cores[part.core].memory == name]
        inputs = 0
        for copy in read:
            mine = [parts[i][1] for i in copy.shares if soc.cores[parts[i][0].core].memory == name]
            if mine:
                under = most.under(layer, copy.layer)
                loaded = input_transfer(copy.layer, soc, name, mine[0], under, homes.inputs(layer), exact).bytes
                inputs += loaded * sum({soc.cores[parts[i][0].core].element_bytes for i in copy.shares})
        for part, k in here:
            core = soc.core_of(part)
            beside = constant_transfer(layer, soc, name, k, most, homes.weights_of(layer), exact)
            inputs += beside.bytes * core.element_bytes
            if layer.second and weights_at(layer, core) == name:
                inputs += weights_held(layer, soc, core, k, cut_c, most.n, homes)[1]
        outputs = sum(
            output_transfer(layer, soc, name, k, out, homes.output(layer), exact).bytes
            * (PARTIAL_BYTES if cut_c else soc.cores[part.core].element_bytes)
            for part, k in here
        )
        taken[name] = TileBytes(buffers, inputs, outputs)
    return taken


def weights_held(
    layer: Layer, soc: SoC, core: Core, k: Num, c: int, n: int, homes: Homes | None = None
) -> tuple[Num, Num]:
    """Bytes that the weights of a tile come in, or what its images are multiplied by in their place, and those that
    they take where a core has them while it computes."""
    moved = weight_transfer_of(layer, soc, core, k, exact, c, homes).bytes
    return (moved * n, moved * n * core.element_bytes) if layer.second else (moved, moved)


def room_for(layer: Layer, memory: str, soc: SoC, homes: Homes) -> int:
    """Bytes of a memory that the tiles of a layer may take."""
    return homes.room[layer.name] if memory == homes.main else soc.memories[memory].capacity_bytes


def _largest(spans: Sequence[Span]) -> Span:
    """The most that any of them has, of outputs and of inputs."""
    out, inp, other = (exact.maximum(0, *[getattr(span, key) for span in spans]) for key in ("out", "inp", "other"))
    return Span(out, inp, 1, other)


def tile_problems(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> list[str]:
    """Which memories the largest tiles of a layer overflow, with figure and bound."""
    return [say() for need, bound, say in _needs(layer, plan, soc, runtime, homes) if need > bound]


def fits(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> Num:
    """Whether the tiles of a layer fit all memories; of the many tilings in a plan whose k, oy and ox are arrays, an
    array, or one answer where it is that of all."""
    out: Num = True
    for need, bound, _ in _needs(layer, plan, soc, runtime, homes):
        out = out & (need <= bound)
    return out


Need = tuple[Num, int, Callable[[], str]]  # bytes (or rows) that tiles need, those that there are, what to say of it


def _needs(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> Iterator[Need]:
    """What the largest tiles of a layer need of each memory. k, oy and ox may be arrays behind a DMA."""
    for name, need in tile_bytes(layer, plan, soc, runtime, homes).items():
        bound = room_for(layer, name, soc, homes)
        yield need.total, bound, functools.partial(_overflow, layer, name, need, bound, homes)
    for _, part in behind_caches(plan, soc):
        for rows, half, what in _rows_needed(layer, soc, part):
            yield rows, half, functools.partial(str, f"layer {layer.name}: {what}")
    cut_c = cut_channels(layer, soc, plan)
    for part in behind_dma(plan, soc).parts:
        if not part.channels or part.tile is None:
            continue
        core, k = soc.core_of(part), exact.minimum(part.tile.k, part.channels)
        if core.weight_memory is None:
            continue
        moved, held = weights_held(layer, soc, core, k, cut_c, min(part.tile.n, layer.n), homes)
        named = f"{layer.second}, by which they are multiplied," if layer.second else "weights"
        what = f"layer {layer.name}: {named} of {{}} channels need {{}} bytes"
        bound, ways = homes.weight_room(soc, core.weight_memory), homes.stream_bytes
        say = f"{what} of {core.weight_memory}, which has {bound}"
        yield held, bound, functools.partial(say.format, k, held)
        if len(weight_hops(layer, soc, core, homes)) > 1:
            say = f"{what} to stream through {soc.main_memory}, of which {ways} are set aside"
            yield moved, ways, functools.partial(say.format, k, moved)


def _overflow(layer: Layer, memory: str, need: TileBytes, bound: int, homes: Homes) -> str:
    beside = " free beside what lives there" if memory == homes.main else ""
    return f"layer {layer.name}: tiles need {need} of {memory}, which has {bound}{beside}"


def _rows_needed(layer: Layer, soc: SoC, part: Part) -> list[tuple[int, int, str]]:
    """Rows that a tile needs of an array's memories, of half of each, as tiles are double-buffered; and the words."""
    machine = Machine.of(soc, part.core)
    assert part.tile is not None
    tiles = Tiles.of(tile_in_rows(layer, part.tile))
    spad, acc = rows_needed(shape_of(channel_slice(layer, part.channels)), tiles, machine)
    return [
        (
            need,
            has // 2,
            f"a tile needs {need} rows of the {name}; half of it, as tiles are double-buffered, has {has // 2}",
        )
        for name, need, has in (("scratchpad", spad, machine.spad_rows), ("accumulator", acc, machine.acc_rows))
    ]


MOST_TILES = 1 << 21  # of a layer: some minutes and gigabytes
EVERY = 128  # parts, and sizes, up to which each is among the cuts


def cuts(size: int) -> tuple[int, ...]:
    """The tile sizes that cut `size` into 1, 2, 3, ... nearly equal parts, largest first. Of more than EVERY^2 not all:
    behind the first EVERY parts and before the last EVERY sizes each is some EVERY-th part smaller than the one before,
    as finer steps change little and a dimension of 2^24 has 8,192 of them."""
    middle = math.isqrt(size) + 1
    few = [*range(1, min(middle, EVERY) + 1)]  # parts; small sizes come from as many parts as they need
    while few[-1] < middle:
        few.append(min(few[-1] + few[-1] // EVERY, middle))
    large, small = {-(-size // parts) for parts in few}, {-(-size // -(-size // tile)) for tile in few}
    return tuple(sorted(large | small, reverse=True))


def channel_tiles(k: int, step: int) -> tuple[int, ...]:
    """Tile sizes for k channels: all, multiples of the core's step, and below the step every cut."""
    if k == 0:
        return (1,)
    steps = {-(-c // step) * step for c in cuts(k) if c < k}
    return tuple(sorted({k} | {s for s in steps if s < k} | {c for c in cuts(min(k, step)) if c < step}, reverse=True))


def part_tiles(layer: Layer, part: Part, soc: SoC) -> tuple[int, ...]:
    """Tile sizes for the output channels of a part."""
    core = soc.core_of(part)
    return channel_tiles(most_channels(layer, part, core), core.channel_step)


ENOUGH = 4  # cuts past the first that fits: finer ones only add jobs and calls


def _channel_choices(
    layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes
) -> tuple[list[tuple[int, ...]], int]:
    """Tiles of output channels, one a part, whose weights fit, and the input channels a job (0: all) for that."""
    total = channels_read(layer)
    for c in cuts(total):
        c = 0 if c == total else c
        choices = []
        for part in plan.parts:
            if not part.channels:  # it has a place for a gradient, and no say in how the others are cut
                choices.append([1])
                continue
            alone = replace(plan, parts=(replace(part, tile=None),))
            tiles = part_tiles(layer, part, soc)
            choices.append(_channels_that_fit(layer, alone, np.array(tiles, np.int64), c, soc, runtime, homes))
        if all(choices):
            most = max(len(tiles) for tiles in choices)
            return list(dict.fromkeys(tuple(t[min(i, len(t) - 1)] for t in choices) for i in range(most))), c
    return [], 0


def _channels_that_fit(
    layer: Layer, alone: LayerPlan, tiles: npt.NDArray[np.int64], c: int, soc: SoC, runtime: Runtime, homes: Homes
) -> list[int]:
    """Of the tiles of output channels of a part, largest first, a few that fit with one pixel; and a few of those that
    fit with more pixels alone, as each of the pieces that pixels are of is aligned, and a whole plane is one piece.
    What needs all channels of a pixel has them in one tile, where that fits."""

    def legal(k: npt.NDArray[np.int64], oy: Num, ox: Num) -> npt.NDArray[np.bool_]:
        return np.broadcast_to(
            fits(layer, tiled(layer, alone, soc, (k,), oy, ox, c=c, n=1), soc, runtime, homes), len(k)
        )

    small = legal(tiles, 1, 1)
    fitting, rest = tiles[small][:ENOUGH], tiles[~small]
    rest = rest[rest > fitting.max(initial=0)]
    if len(rest):
        grid = (rest, np.array(cuts(layer.oy), np.int64), np.array(cuts(layer.ox), np.int64))
        k, oy, ox = (axis.reshape(-1) for axis in np.meshgrid(*grid, indexing="ij"))
        large = rest[legal(k, oy, ox).reshape(len(rest), -1).any(axis=1)]
        fitting = np.concatenate([large[:ENOUGH], fitting])
    return [int(k) for k in (fitting[:1] if layer.by_vectors and tiles[0] in fitting else fitting)]


@dataclass(frozen=True)
class _Cut:
    """How a candidate cuts a layer: output channels of each part, pixels, input channels (0: all), images, order."""

    k: tuple[int, ...]
    oy: int
    ox: int
    c: int
    n: int
    order: tuple[Dim, ...]


def _cuts(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> list[_Cut]:
    """The legal cuts of `candidates`, in their order."""
    k_choices, c = _channel_choices(layer, plan, soc, runtime, homes)
    rows, images = cuts(layer.oy), cuts(layer.n)
    found: dict[tuple[int, int], list[_Cut]] = {}
    for n in images:
        left = list(range(len(k_choices)))  # choices of channels for which no tile of so many columns fitted yet
        for ox in cuts(layer.ox):
            if not left:
                break
            every = np.array([(*k_choices[i], oy) for i in left for oy in rows], np.int64).T
            many = tiled(layer, plan, soc, list(every[:-1]), every[-1], ox, c=c, n=n)
            legal = np.broadcast_to(fits(layer, many, soc, runtime, homes), every.shape[1]).reshape(len(left), -1)
            for i, own in zip(left, legal, strict=True):
                k = k_choices[i]
                single = c == 0 and all(part.channels <= tile for part, tile in zip(plan.parts, k, strict=True))
                orders = (WEIGHTS_STAY,) if single else (WEIGHTS_STAY, INPUTS_STAY)
                fitting = np.flatnonzero(own)[:ENOUGH].tolist()
                found[i, n] = [_Cut(k, rows[at], ox, c, n, order) for at in fitting for order in orders]
            left = [i for i in left if not found[i, n]]
    return [cut for i in range(len(k_choices)) for n in images for cut in found[i, n]]


def candidates(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> Iterator[LayerPlan]:
    """The plan under legal tiles, from the largest down: a few cuts past the first that fits, in every dimension.

    Input channels are cut only where no tile of output channels fits otherwise, and columns only as far as they must
    be: cutting them breaks rows into pieces.
    """
    for cut in _cuts(layer, plan, soc, runtime, homes):
        yield tiled(layer, plan, soc, cut.k, cut.oy, cut.ox, cut.order, cut.c, cut.n)


def best_tiling(
    layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes, theta: Theta | None = None
) -> LayerPlan:
    """The plan under the cheapest of its `candidates` by `layer_time`, the first of equals; InputError where no tile
    fits, naming the buffer."""
    every = _cuts(layer, plan, soc, runtime, homes)
    if not every:
        smallest = tiled(layer, plan, soc, (1,) * len(plan.parts), 1, 1, c=1, n=1)
        raise InputError("; ".join(tile_problems(layer, smallest, soc, runtime, homes)))
    ticks = np.empty(len(every))
    if all(soc.cores[part.core].BY_ARRAYS for part in plan.parts):
        for n in dict.fromkeys(cut.n for cut in every):
            at = [i for i, cut in enumerate(every) if cut.n == n]
            ticks[at] = _ticks_of(layer, plan, [every[i] for i in at], soc, runtime, homes, theta)
    else:
        ones = (tiled(layer, plan, soc, cut.k, cut.oy, cut.ox, cut.order, cut.c, cut.n) for cut in every)
        ticks[:] = [planned_ticks(layer, one, soc, runtime, homes, theta) for one in ones]
    best = every[int(np.argmin(ticks))]
    return tiled(layer, plan, soc, best.k, best.oy, best.ox, best.order, best.c, best.n)


def _ticks_of(
    layer: Layer, plan: LayerPlan, some: Sequence[_Cut], soc: SoC, runtime: Runtime, homes: Homes, theta: Theta | None
) -> Num:
    """`planned_ticks` of cuts that differ in channels, pixels and orders, all at once."""
    *k, oy, ox = np.array([(*cut.k, cut.oy, cut.ox) for cut in some], np.int64).T
    many = tiled(layer, plan, soc, k, oy, ox, some[0].order, some[0].c, some[0].n)
    counts = tile_counts(layer, many.tile)
    outside, inside, images = pixel_loops(many, counts)
    for order in dict.fromkeys(cut.order for cut in some[1:]):
        here, own = np.array([cut.order == order for cut in some]), pixel_loops(replace(many, order=order), counts)
        found = zip(own, (outside, inside, images), strict=True)
        outside, inside, images = (np.where(here, new, old) for new, old in found)
    return _ticks(layer, many, soc, runtime, homes, theta, (outside, inside, images))


def planned_ticks(
    layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes, theta: Theta | None = None
) -> float:
    """The estimated ticks of a layer by itself under a tiled plan."""
    return float(_ticks(layer, plan, soc, runtime, homes, theta))


def _ticks(
    layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes, theta: Theta | None,
    loops: tuple[Num, Num, Num] | None = None,
) -> Num:  # fmt: skip
    """The same, of as many tilings as the plan has in arrays. loops: as `layer_work` has it."""
    shares = [(part.core, part.channels) for part in plan.parts]
    work = layer_work(layer, soc, shares, plan, homes, exact, theta, loops)
    return layer_time(layer, work, soc, runtime, homes, theta or Theta(), exact).ticks


def tiled_plan(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> LayerPlan:
    """The plan with tiles: behind a DMA the cheapest; behind a cached mover those that its array's library takes, which
    load their own operands every time. A layer on both has one order of loops, and operands stay."""
    cached = behind_caches(plan, soc)
    if not cached:
        return best_tiling(layer, plan, soc, runtime, homes)
    found = {
        part.core: default_nest(shape_of(channel_slice(layer, part.channels)), Machine.of(soc, part.core))
        for _, part in cached
    }
    tiles = {core: replace(t, n=t.ox, ox=1) if in_rows(layer) else t for core, (t, _) in found.items()}
    order, beside = next(iter(found.values()))[1], behind_dma(plan, soc)
    if beside.parts:
        beside = best_tiling(layer, beside, soc, runtime, homes)
        order = beside.loops
        tiles |= {part.core: part.tile for part in beside.parts if part.tile is not None}
    parts = tuple(replace(part, tile=tiles.get(part.core, whole(layer))) for part in plan.parts)
    return replace(plan, parts=parts, order=order, reuse=plan.reuse and bool(beside.parts))


@dataclass
class TilingCache:
    """What has been chosen and checked before on one SoC, so that it is so once. plans: the tiles of a layer's plan
    without tiles; sound: plans with tiles that fit. Layers are known by their shape and by what their memories hold."""

    plans: dict[tuple[object, ...], LayerPlan] = field(default_factory=dict)
    sound: set[tuple[object, ...]] = field(default_factory=set)


def shape_of_layer(layer: Layer) -> Layer:
    """The layer without what names it: all that tiles and steps depend on."""
    other = layer.alternative
    if other is not None:  # whether it reads the same tensors decides how inputs are shared
        other = replace(other, name="", inputs=("" if other.inputs == layer.inputs else "other",))
    plain = replace(layer, name="", fn="", activation="", weights_of="", into="")
    return replace(plain, inputs=("",) * len(layer.inputs), alternative=other)


def _key(layer: Layer, plan: LayerPlan, runtime: Runtime, homes: Homes) -> tuple[object, ...]:
    """What decides a layer's tiles, and whether they fit: two layers with one key have the same answers."""
    ends = homes.ends(layer)
    room = homes.room[layer.name] if set(ends) != {homes.main} else 0
    held = tuple(homes.pinned_bytes.items()), homes.weights_in_main, homes.stream_bytes
    return shape_of_layer(layer), plan, runtime, ends, room, layer.name in homes.pinned, held


def tiled_once(
    layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes, cache: TilingCache
) -> LayerPlan:
    """`tiled_plan`, remembered."""
    key = _key(layer, plan, runtime, homes)
    if key not in cache.plans:
        cache.plans[key] = tiled_plan(layer, plan, soc, runtime, homes)
    return cache.plans[key]


def complete(mapping: Mapping, workload: Workload, soc: SoC, cache: TilingCache | None = None) -> Mapping:
    """The same mapping with parts for every layer, and tiles for every layer outside fused pieces that go row by row.

    cache: of this SoC. Raises InputError where a layer can run nowhere or no tile of it fits.
    """
    return _completed(mapping, workload, soc, cache or TilingCache())[0]


def _completed(mapping: Mapping, workload: Workload, soc: SoC, cache: TilingCache) -> tuple[Mapping, Homes]:
    mapping = with_parts(mapping, workload, soc)
    layers = dict(mapping.layers)
    homes = homes_of(workload, mapping, soc)
    fused = {name for piece in mapping.pieces if piece.how == "fused" for name in piece.layers}
    by_rows = {name for name in fused if name in layers and behind_dma(layers[name], soc).parts}
    untiled = {name for name, given in layers.items() if not given.is_tiled and name not in by_rows}
    for layer in (layer for layer in workload if layer.name in untiled):
        layers[layer.name] = tiled_once(layer, layers[layer.name], soc, mapping.runtime, homes, cache)
    for piece in at_once(mapping):
        members = [workload[name] for name in piece.layers]
        alone = {name: layers[name] for name in piece.layers}
        layers |= _at_once(alone, members, [layer for layer in members if layer.name in untiled], soc, homes)
    return replace(mapping, layers=layers), homes


def with_parts(mapping: Mapping, workload: Workload, soc: SoC) -> Mapping:
    """The same mapping of the workload's layers with parts for each: on its default core where nothing is said.
    InputError where a layer can run nowhere."""
    layers = {}
    for layer in workload:
        given = mapping.layers.get(layer.name)
        layers[layer.name] = as_stored(layer, given or LayerPlan((Part(default_core(layer, soc), layer.k),)), soc)
    return replace(mapping, layers=layers)


def as_stored(layer: Layer, plan: LayerPlan, soc: SoC) -> LayerPlan:
    """The plan with the format that the network has its weights in, on cores with that format, where it is silent."""
    bits = layer.weight_bits
    if all(part.core not in soc.cores or bits not in soc.cores[part.core].weight_formats for part in plan.parts):
        return plan
    has = [part.bits is None and bits in soc.cores[part.core].weight_formats for part in plan.parts]
    parts = (replace(part, bits=bits) if here else part for part, here in zip(plan.parts, has, strict=True))
    return replace(plan, parts=tuple(parts))


def at_once(mapping: Mapping) -> list[Piece]:
    """The pieces whose layers do run at once."""
    return [piece for piece in mapping.pieces if piece.how == "parallel" and mapping.runtime != "serial"]


Needs = dict[str, int]  # bytes, by memory
Option = tuple[float, Needs, dict[str, LayerPlan]]  # ticks, what it takes of the memories, the plans of some layers

PARTS = 8  # of a memory: the rooms that are tried for a layer which shares it


def _at_once(
    alone: dict[str, LayerPlan], members: list[Layer], untiled: list[Layer], soc: SoC, homes: Homes
) -> dict[str, LayerPlan]:
    """Tiles of layers that run at once, from those that each would have alone; only those of `untiled` may change.

    Where those do not fit together, each is tiled for rooms from its smallest tile up. Of the combinations that fit,
    the one with the least sum of the layers' own times is taken: small tiles keep the DMA busy, and make all wait.
    InputError where not even the smallest tiles fit.
    """
    most = {layer.name: _totals(layer, alone[layer.name], soc, homes) for layer in members}
    bounds = {name: min(room_for(layer, name, soc, homes) for layer in members) for name in soc.memories}
    if not untiled or not _crowded(most, bounds):
        return alone
    least = dict(most)
    for layer in untiled:
        given = alone[layer.name]
        smallest = tiled(layer, given, soc, (1,) * len(given.parts), 1, 1, c=int(channels_read(layer) > 1), n=1)
        need = _totals(layer, smallest, soc, homes)
        least[layer.name] = {name: min(most[layer.name][name], need[name]) for name in need}
    if crowded := _crowded(least, bounds):
        raise InputError("; ".join(crowded))
    found: list[Option] = [(0.0, _sums(most[layer.name] for layer in members if layer not in untiled), {})]
    for n, layer in enumerate(untiled):
        rest = _sums(least[other.name] for other in untiled[n + 1 :])
        options = _options(layer, alone[layer.name], least[layer.name], most[layer.name], soc, homes)
        found = _fitting(found, options, rest, bounds)
    if not found:
        raise InputError("; ".join(_crowded(most, bounds)))
    _, _, plans = min(found, key=lambda option: option[0])
    return alone | plans


def _options(layer: Layer, alone: LayerPlan, least: Needs, most: Needs, soc: SoC, homes: Homes) -> list[Option]:
    """The best tiles of a layer for rooms from its smallest tile to what it takes alone."""
    out: list[Option] = []
    for part in range(PARTS + 1):
        room = {n: min(max(room_for(layer, n, soc, homes) * part // PARTS, least[n]), most[n]) for n in most}
        tight = {name: Memory(size_bytes=max(size, 1)) for name, size in room.items() if name != homes.main}
        small = soc.model_copy(update={"memories": soc.memories | tight})
        beside = replace(homes, room={**homes.room, layer.name: room.get(homes.main, 0)})
        try:
            plan = alone if room == most else best_tiling(layer, alone, small, "overlapped", beside)
        except InputError:  # parts that fit one by one, but not together
            continue
        ticks = planned_ticks(layer, plan, soc, "overlapped", homes)
        out.append((ticks, _totals(layer, plan, soc, homes), {layer.name: plan}))
    return out


def _fitting(found: list[Option], options: list[Option], rest: Needs, bounds: Needs) -> list[Option]:
    """Combinations that leave the rest its room, without those that another beats in time and in every memory."""
    both = [(a + b, _sums((x, y)), s | t) for a, x, s in found for b, y, t in options]
    fit = [o for o in both if not _crowded({"": _sums((o[1], rest))}, bounds)]
    out: list[Option] = []
    for ticks, need, plans in sorted(fit, key=lambda option: option[0]):
        if not any(all(other.get(name, 0) <= size for name, size in need.items()) for _, other, _ in out):
            out.append((ticks, need, plans))
    return out


def _sums(needs: Iterable[Needs]) -> Needs:
    """What several take of each memory together."""
    out: Needs = {}
    for need in needs:
        for name, size in need.items():
            out[name] = out.get(name, 0) + size
    return out


def _totals(layer: Layer, plan: LayerPlan, soc: SoC, homes: Homes) -> Needs:
    """Bytes of each memory that a layer's tiles take while it runs beside others."""
    return {name: need.total for name, need in tile_bytes(layer, plan, soc, "overlapped", homes).items()}


Problem = tuple[tuple[str | int, ...], str]  # where in a mapping file, and what is wrong there


def problems(mapping: Mapping, workload: Workload, soc: SoC) -> list[Problem]:
    """Every reason why the machine cannot run the mapping as stated, each with figure and bound, and every key of it
    that would have no effect; empty if there is none."""
    return _checked(mapping, workload, soc, TilingCache())[2]


@dataclass(frozen=True)
class Placed:
    """A network that a machine can run as mapped: the complete mapping, and where its tensors live."""

    workload: Workload
    soc: SoC
    mapping: Mapping
    homes: Homes


def placed(mapping: Mapping, workload: Workload, soc: SoC, cache: TilingCache | None = None) -> Placed:
    """The network under the completed mapping; InputError listing every reason why the machine cannot run it."""
    full, homes, reasons = _checked(mapping, workload, soc, cache or TilingCache())
    if reasons or homes is None:
        raise InputError(f"mapping {mapping.name} does not fit {soc.name}: " + "; ".join(why for _, why in reasons))
    return Placed(workload, soc, full, homes)


def checked(mapping: Mapping, workload: Workload, soc: SoC) -> Mapping:
    """The completed mapping; InputError listing every reason why the machine cannot run it."""
    return placed(mapping, workload, soc).mapping


def _checked(
    mapping: Mapping, workload: Workload, soc: SoC, cache: TilingCache
) -> tuple[Mapping, Homes | None, list[Problem]]:
    if mapping.stages:
        what = f"{soc.name} is one SoC and has no stages; leave them out, or name a cluster"
        return mapping, None, [(("stages",), what)]
    if mapping.micro_batch != 1:
        what = f"goes with the stages of a cluster, and {soc.name} is one SoC; leave it out"
        return mapping, None, [(("micro_batch",), what)]
    reasons: list[Problem] = []
    names = {layer.name for layer in workload}
    reasons += [
        (("layers", name), f"layer {name}: {workload.name} has no such layer")
        for name in mapping.layers
        if name not in names
    ]
    fused = {name for piece in mapping.pieces if piece.how == "fused" for name in piece.layers}
    for layer in workload:
        given = mapping.layers.get(layer.name)
        if given is not None:
            reasons += _plan_problems(layer, given, soc, layer.name in fused)
    reasons += _piece_names(mapping, workload)
    if reasons:
        return mapping, None, reasons
    try:
        full, homes = _completed(mapping, workload, soc, cache)
    except InputError as error:
        return mapping, None, [((), str(error))]
    for i, piece in enumerate(mapping.pieces):
        why = _parallel_problems if piece.how == "parallel" else fused_problems
        if piece.how == "fused" and any(behind_caches(full.layers[name], soc) for name in piece.layers):
            why = _stepwise_problems
        reasons += [(("pieces", i, *key), reason) for key, reason in why(piece, workload, full, soc)]
    for layer in workload:
        plan = full.layers[layer.name]
        key = _key(layer, plan, mapping.runtime, homes)
        if layer.name not in fused and key not in cache.sound:
            found = tile_problems(layer, plan, soc, mapping.runtime, homes) or _too_many(layer, plan, soc)
            reasons += [(("layers", layer.name, "tile"), reason) for reason in found]
            if not found:
                cache.sound.add(key)
    if not reasons:
        for i, piece in enumerate(mapping.pieces):
            if piece in at_once(full):
                members = [workload[name] for name in piece.layers]
                needs = {layer.name: _totals(layer, full.layers[layer.name], soc, homes) for layer in members}
                bounds = {name: min(room_for(layer, name, soc, homes) for layer in members) for name in soc.memories}
                reasons += [(("pieces", i), reason) for reason in _crowded(needs, bounds)]
    return full, homes, reasons


def _piece_names(mapping: Mapping, workload: Workload) -> list[Problem]:
    """Pieces name layers of the workload, each in one piece only."""
    names, seen, reasons = {layer.name for layer in workload}, set[str](), list[Problem]()
    for i, piece in enumerate(mapping.pieces):
        for j, name in enumerate(piece.layers):
            if name not in names:
                reasons.append((("pieces", i, "layers", j), f"piece: {workload.name} has no layer {name}"))
            elif name in seen:
                reasons.append((("pieces", i, "layers", j), f"piece: layer {name} is named twice"))
            seen.add(name)
    return reasons


def _crowded(needs: dict[str, Needs], bounds: Needs) -> list[str]:
    """Which memories, of so many bytes each, the tiles of layers that run at once overflow together."""
    reasons = []
    for memory, total in _sums(needs.values()).items():
        bound = bounds[memory]
        if total > bound:
            how = " + ".join(f"{need[memory]} of {name}" for name, need in needs.items() if memory in need)
            reasons.append(f"parallel piece: tiles need {how} = {total} bytes of {memory}, which has {bound}")
    return reasons


def fused_problems(piece: Piece, workload: Workload, mapping: Mapping, soc: SoC) -> list[Problem]:
    """Why a fused piece cannot run, under the key to blame: one core a layer, lines and weights resident, and nothing
    in between."""
    out: list[Problem] = []
    if not piece.keep_rows:
        what = f"piece: {soc.name} keeps the rows that two tiles both need; keep_rows: false means nothing here"
        out.append((("keep_rows",), what))
    if piece.resident is not None:
        what = f"piece: on {soc.name} the weights of all layers of a fused piece stay; leave out resident"
        out.append((("resident",), what))
    return out + [(("layers",), reason) for reason in _misfused(piece.layers, workload, mapping, soc)]


def _stepwise_problems(piece: Piece, workload: Workload, mapping: Mapping, soc: SoC) -> list[Problem]:
    """Why layers cannot run fused behind a cached mover: a run of layers that follow each other, all on one array,
    whose tiles fit its memories together."""
    positions = [layer.name for layer in workload]
    at = [positions.index(name) for name in piece.layers]
    cores = {part.core for name in piece.layers for part in mapping.layers[name].parts if part.channels}
    name = f"piece {', '.join(piece.layers)}"
    if len(cores) > 1:
        return [(("layers",), f"{name}: runs on {', '.join(sorted(cores))}; behind a cached mover it runs on one")]
    if at != list(range(at[0], at[0] + len(at))):
        return [(("layers",), f"{name}: its layers do not follow each other in the network")]
    reason = why_not(workload, at[0], at[-1])
    if reason:
        return [(("layers",), f"{name}: {reason}")]
    tiles = [mapping.layers[layer].tile for layer in piece.layers]
    found = misfits(chain(workload, at[0], at[-1]), piece, tiles, Machine.of(soc, cores.pop()))
    return [(("layers",), f"{name}: {reason}") for reason in found]


def _misfused(members: tuple[str, ...], workload: Workload, mapping: Mapping, soc: SoC) -> list[str]:
    inside, between, reasons = set(members), set[str](), []
    for layer in workload:
        reads = set(layer.inputs)
        if layer.name in inside and reads & between:
            reasons.append(f"piece: {layer.name} reads {min(reads & between)}, which waits for the piece; add it")
        if layer.name not in inside and reads & (inside | between):
            between.add(layer.name)
    layers = [workload[name] for name in members]
    for layer in layers:
        if len([part for part in mapping.layers[layer.name].parts if part.channels]) != 1:
            reasons.append(f"piece: layer {layer.name} is split over cores; a fused layer runs on one")
        elif layer.alternative is not None:
            reasons.append(f"piece: layer {layer.name} has an alternative form; it cannot be fused")
        elif layer.second in inside:
            what = f"multiplies by {layer.second}, all of which must be there before its first row"
            reasons.append(f"piece: layer {layer.name} {what}; end the piece before it")
        elif by_groups(layer, soc.core_of(next(p for p in mapping.layers[layer.name].parts if p.channels))):
            reasons.append(f"piece: layer {layer.name} is computed group by group; it cannot be fused")
    if reasons:
        return reasons
    try:
        lines = buffer_bytes(workload, members)
    except InputError as error:
        return [str(error)]
    cores = {layer.name: mapping.layers[layer.name].parts[0].core for layer in layers}
    homes = homes_of(workload, mapping, soc)
    for name in {soc.cores[core].memory for core in cores.values()}:
        need = sum(lines.values())
        for layer in layers:  # two rows each of what comes in and of what goes out
            row = Window(1, Span(1, 1, 1), Span(layer.ox, 1, 1), 1)
            if homes.inputs(layer) != name:
                rows = layer.inputs[:1] if layer.second else layer.inputs
                need += sum(2 * layer.stride_y * layer.ix * layer.c for n in rows if n not in inside)
            core = soc.cores[cores[layer.name]]
            need += 2 * int(constant_transfer(layer, soc, name, layer.k, row, homes.weights_of(layer), exact).bytes)
            if layer.second and weights_at(layer, core) == name:
                need += weights_held(layer, soc, core, layer.k, 0, layer.n, homes)[1]
            need += 2 * layer.ox * layer.k * (layer.name not in lines and homes.output(layer) != name)
        bound = min(room_for(layer, name, soc, homes) for layer in layers)
        if need > bound:
            reasons.append(f"piece: its line buffers need {need} bytes of {name}, which has {bound}")
    for name in dict.fromkeys(cores.values()):
        core = soc.cores[name]
        mine = [layer for layer in layers if cores[layer.name] == name]
        tiles = [make_tile(la, la.k, 1, la.ox, mapping.layers[la.name].unroll) for la in mine]
        reasons += [f"piece: {name} {reason}" for reason in core.resident(tiles)]
        if core.weight_memory is not None:
            models = [soc.core_of(mapping.layers[layer.name].parts[0]) for layer in mine]
            both = [weights_held(la, soc, model, la.k, 0, la.n) for la, model in zip(mine, models, strict=True)]
            held = sum(own for _, own in both)
            passing = [len(weight_hops(la, soc, model, homes)) > 1 for la, model in zip(mine, models, strict=True)]
            most = max(moved * passes for (moved, _), passes in zip(both, passing, strict=True))
            bound = soc.memories[core.weight_memory].capacity_bytes
            if held > bound:
                reasons.append(f"piece: weights need {held} bytes of {core.weight_memory}, which has {bound}")
            if most > homes.stream_bytes:
                what = f"weights of a layer need {most} bytes to stream through {soc.main_memory}"
                reasons.append(f"piece: {what}, of which {homes.stream_bytes} are set aside")
    return reasons


def _parallel_problems(piece: Piece, workload: Workload, mapping: Mapping, soc: SoC) -> list[Problem]:
    """Why layers cannot run at once: what they read must be there before the first, and they must not share a core or
    a weight memory."""
    reasons = []
    names = [layer.name for layer in workload]
    at = sorted(names.index(name) for name in piece.layers)
    first = at[0]
    if at != list(range(first, first + len(at))):
        between = next(name for name in names[first : at[-1]] if name not in piece.layers)
        reasons.append(f"parallel piece: layer {between} stands between {names[first]} and {names[at[-1]]}")
    taken: dict[str, str] = {}
    for name in piece.layers:
        late = [tensor for tensor in workload[name].inputs if tensor in names[first:]]
        if late:
            reasons.append(f"parallel piece: {name} reads {late[0]}, which is not there when the piece starts")
        for core in [part.core for part in mapping.layers[name].parts if part.channels]:
            for unit in dict.fromkeys(u for u in (core, soc.cores[core].weight_memory) if u is not None):
                if unit in taken and taken[unit] != name:
                    reasons.append(f"parallel piece: {taken[unit]} and {name} both use {unit}; give each its own")
                taken[unit] = name
    return [(("layers",), reason) for reason in reasons]


def _either(numbers: Sequence[int]) -> str:
    """Several numbers as a choice."""
    return " or ".join(map(str, sorted(numbers)))


def _plan_problems(layer: Layer, given: LayerPlan, soc: SoC, fused: bool) -> list[Problem]:
    """What is wrong with a layer's plan in itself, and what of it means nothing here."""
    out: list[Problem] = []

    def wrong(what: str, *key: str) -> None:
        out.append((("layers", layer.name, *key), f"layer {layer.name}: {what}"))

    total = sum(part.channels for part in given.parts)
    if total != layer.k:
        wrong(f"parts sum to {total} output channels, the layer has {layer.k}", "parts")
    for part in given.parts:
        if part.core not in soc.cores:
            wrong(f"{soc.name} has no core {part.core!r}; it has {', '.join(soc.cores)}", "parts", part.core)
        elif part.channels:
            core = soc.cores[part.core]
            formats = core.weight_formats or (core.weight_bits,)
            if part.bits is not None and part.bits not in formats:
                what = f"{part.core} has weights of {_either(formats)} bits, not {part.bits}"
                wrong(what, "parts", part.core, "bits")
                continue
            for reason in refusals(layer, part, soc, given.unroll):
                wrong(f"{part.core} {reason}", "parts", part.core)
    if len({part.core for part in given.parts}) != len(given.parts):
        wrong("a core is named twice; give it one contiguous part", "parts")
    if out:
        return out
    if given.unroll and not any(soc.cores[part.core].unrolls for part in given.parts if part.channels):
        wrong("unroll is of arrays that compute several pixels at once, and none of its cores does", "unroll")
    beside = behind_dma(given, soc)
    if beside.parts and not given.reuse:
        wrong("reuse: false means nothing behind a DMA: what a tile has stays until another takes its place", "reuse")
    tiles = [part.tile for part in given.parts if part.tile is not None]
    if fused and beside.parts and (tiles or given.order):
        wrong("goes row by row in its fused piece; leave out tile and order", "tile" if tiles else "order")
    elif tiles or given.order:
        _check_tiles(layer, given, soc, wrong)
    return out


def _too_many(layer: Layer, plan: LayerPlan, soc: SoC) -> list[str]:
    """Which parts of a layer have more tiles than a run can have."""
    out = []
    for part in plan.parts:
        if not part.channels or part.tile is None:
            continue
        own = _spans(channel_slice(layer, part.channels)) if behind_caches(plan, soc) else whole(layer)
        tile, own = part.tile, replace(own, k=part.channels)
        n = math.prod(-(-own.along(d) // min(tile.along(d), own.along(d))) for d in DIMS)
        if n > MOST_TILES:
            what = f"{n} tiles on {part.core}, of {', '.join(f'{d} {tile.along(d)}' for d in DIMS)}"
            out.append(f"layer {layer.name}: {what}; a layer may have 2^{MOST_TILES.bit_length() - 1}: larger ones, in "
                       "larger memories, or a smaller layer")  # fmt: skip
    return out


def _check_tiles(layer: Layer, given: LayerPlan, soc: SoC, wrong: Callable[..., None]) -> None:
    """What is wrong with stated tiles: extents, what the parts have in common, the order."""
    if not given.is_tiled:
        wrong("states a tile or an order, but not both; state both, or leave both to the tiler")
        return
    if sorted(given.loops) != sorted(DIMS):
        found = ", ".join(given.loops)
        wrong(f"its order is {found}; each of {', '.join(DIMS)} must stand there once", "order")
        return
    beside = behind_dma(given, soc)
    for part in given.parts:
        tile, core = part.tile, soc.core_of(part)
        assert tile is not None
        own = (
            whole(job_form(layer, core))
            if part in beside.parts
            else _spans(channel_slice(layer, max(part.channels, 1)))
        )
        for d in DIMS:
            if not 1 <= tile.along(d) <= own.along(d):
                wrong(f"a tile spans {tile.along(d)} of {d}, must be 1 to {own.along(d)}", "tile", d)
        if part in beside.parts and (tile.fy, tile.fx) != (own.fy, own.fx):
            wrong(f"{part.core} takes whole filters, {own.fy} x {own.fx}, not {tile.fy} x {tile.fx}", "tile", "fy")
    if not beside.parts:
        return
    first, cut = beside.tile, cut_channels(layer, soc, given)
    if any((p.tile.oy, p.tile.ox, p.tile.n) != (first.oy, first.ox, first.n) for p in beside.parts if p.tile):
        wrong("parts behind one DMA go side by side, with one tile along n, oy and ox", "tile")
    counts = tile_counts(layer, first) | {"k": max(-(-p.channels // p.tile.k) for p in beside.parts if p.tile)}
    if cut and any(counts.get(d, 1) > 1 for d in given.loops[given.loops.index("c") :]):
        wrong("behind a DMA partial sums stay until they are complete; put c innermost", "order")


def _spans(layer: Layer) -> Extent:
    """What a tile behind a cached mover may span at most."""
    shape = shape_of(layer)
    k, c, fy, fx, oy, ox = (int(getattr(shape, d)) for d in NEST_DIMS)
    return Extent(k, c, fy, fx, oy, 1 if in_rows(layer) else ox, layer.n)
