"""What a mapped layer amounts to: jobs, cycles and bytes, before anything overlaps.

`lower` emits this work and an estimate composes it; both get it from here, so that "bytes and MACs emitted equal those
of the workload and tiling" is a statement that can be tested. Everything is written in the primitives of `exact`:
the channels of a share may be an int, an integer array or a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, replace
from itertools import groupby, product
from math import prod
from typing import Any

import numpy as np

from cosoc.sim import exact
from cosoc.sim.exact import Num
from cosoc.sim.model.mapping import WEIGHTS_STAY, Dim, Extent, LayerPlan, Part
from cosoc.sim.model.placement import Homes
from cosoc.sim.model.soc import Core, Dma, SoC
from cosoc.sim.model.workload import Layer, Tile
from cosoc.sim.movers.cached_terms import Machine, estimate_nest

# Operators whose output channel reads its own input channel only.
PER_CHANNEL = ("add", "max_pool", "avg_pool", "eltwise", "concat", "softmax", "norm", "resize")


def per_channel(layer: Layer) -> bool:
    """Whether output channel k reads input channel k alone, so that a tile of k needs only that slice."""
    return layer.op in PER_CHANNEL or layer.depthwise


def channels_read(layer: Layer) -> int:
    """Input channels that one output channel reads."""
    return 1 if per_channel(layer) else layer.c // layer.groups


def form(layer: Layer, core: Core) -> Layer:
    """The layer as a core computes it: itself, or its alternative on a core that cannot run it."""
    if layer.alternative is None or not core.fits(make_tile(layer, layer.k, layer.oy, layer.ox)):
        return layer
    return layer.alternative


@dataclass(frozen=True)
class Copy:
    """A copy of a tile's inputs in the cores' memory. layer: the form of the layer that says what is in it. shares:
    those that read it, by number. sliced: whether it holds the channels of one tile of one share, not all of them."""

    layer: Layer
    shares: tuple[int, ...]
    sliced: bool


def copies(layer: Layer, soc: SoC, shares: Sequence[tuple[int, str]]) -> tuple[Copy, ...]:
    """How a layer's shares (number, core) share what they read.

    Shares that need all input channels read one copy; those that need their own channels alone read that too where it
    holds the same window, and else have a slice each.
    """
    if layer.alternative is None:
        if per_channel(layer):
            return tuple(Copy(layer, (i,), True) for i, _ in shares)
        return (Copy(layer, tuple(i for i, _ in shares), False),)
    whole: dict[tuple[object, ...], tuple[Layer, list[int]]] = {}
    forms = [(i, form(layer, soc.cores[core])) for i, core in shares]
    for i, own in forms:
        if not per_channel(own):
            whole.setdefault(_window(own), (own, []))[1].append(i)
    alone = []
    for i, own in forms:
        if per_channel(own):
            if _window(own) in whole:
                whole[_window(own)][1].append(i)
            else:
                alone.append(Copy(own, (i,), True))
    return (*(Copy(own, tuple(sorted(who)), False) for own, who in whole.values()), *alone)


def _window(layer: Layer) -> tuple[object, ...]:
    """What decides which rows and columns of which tensors are read."""
    y = (layer.iy, layer.fy, layer.stride_y, layer.pad_y, layer.dilation_y)
    return layer.inputs, y, (layer.ix, layer.fx, layer.stride_x, layer.pad_x, layer.dilation_x)


def whole(layer: Layer) -> Extent:
    """The tile that is all of a layer."""
    return Extent(layer.k, channels_read(layer), layer.fy, layer.fx, layer.oy, layer.ox, layer.n)


def tiled(
    layer: Layer,
    plan: LayerPlan,
    soc: SoC,
    k: Sequence[Num],
    oy: Num,
    ox: Num,
    order: tuple[Dim, ...] = WEIGHTS_STAY,
    c: int = 0,
    n: int = 0,
) -> LayerPlan:
    """The plan with tiles of k channels (one figure a part), oy x ox pixels, c input channels and n images (0: all)."""

    def tile(part: Part, channels: Num) -> Extent:
        own = form(layer, soc.cores[part.core])
        reads = channels_read(own)
        return Extent(channels, min(c or reads, reads), own.fy, own.fx, oy, ox, n or layer.n)

    parts = tuple(replace(part, tile=tile(part, channels)) for part, channels in zip(plan.parts, k, strict=True))
    return replace(plan, parts=parts, order=order)


def behind_dma(plan: LayerPlan, soc: SoC) -> LayerPlan:
    """The plan without the parts that a cached mover serves."""
    return replace(plan, parts=tuple(part for part in plan.parts if not soc.is_cached(part.core)))


def behind_caches(plan: LayerPlan, soc: SoC) -> list[tuple[int, Part]]:
    """The parts with channels that a cached mover serves, each with the first of its output channels."""
    out, first = [], 0
    for part in plan.parts:
        if part.channels and soc.is_cached(part.core):
            out.append((first, part))
        first += part.channels
    return out


def cut_channels(layer: Layer, soc: SoC, plan: LayerPlan) -> int:
    """Input channels a job where a plan cuts them; 0 where every job reads all of them. Parts behind a DMA only."""
    for part in behind_dma(plan, soc).parts:
        if part.tile is not None and part.tile.c < channels_read(form(layer, soc.cores[part.core])):
            return part.tile.c
    return 0


def make_tile(layer: Layer, k: Num, oy: Num, ox: Num, ox_unroll: int = 0, c: int = 0) -> Tile:
    """The tile of `layer` with k output channels, oy x ox output pixels and c input channels (0: all of them)."""
    return Tile(
        op=layer.op,
        k=k,
        c=c or channels_read(layer),
        oy=oy,
        ox=ox,
        fy=layer.fy,
        fx=layer.fx,
        stride_y=layer.stride_y,
        stride_x=layer.stride_x,
        depthwise=layer.depthwise,
        groups=layer.groups,
        dilation=max(layer.dilation_y, layer.dilation_x),
        operands=len(layer.inputs) if layer.op in ("add", "eltwise") else 1,
        ox_unroll=ox_unroll,
    )


@dataclass(frozen=True)
class Transfer:
    """One tile's way through a DMA: bytes (alignment included), calls (set-ups of the DMA), and pieces: contiguous runs
    of bytes after the first of a call, where the DMA goes through several in one."""

    bytes: Num
    calls: Num
    pieces: Num = 0

    def times(self, n: Num) -> Transfer:
        """So many of them."""
        return self if isinstance(n, int) and n == 1 else Transfer(self.bytes * n, self.calls * n, self.pieces * n)

    def setup_ticks(self, dma: Dma) -> Num:
        """Ticks in which no byte moves."""
        return self.calls * dma.setup_cycles + self.pieces * (dma.piece_cycles or 0)


NOTHING = Transfer(0, 0)


def tile_transfer(channels: Num, rows: Num, cols: Num, all_rows: Any, all_cols: Any, dma: Dma, xp: Any) -> Transfer:
    """Move a tile of a tensor that lies in memory channel by channel, row by row, one byte an element.

    Whole planes are one piece; whole rows are one piece a channel; parts of rows are one a channel and row. Every
    piece is padded to the DMA's alignment, and is a call of its own unless the DMA goes from piece to piece by itself.
    """
    pieces = xp.where(all_cols, xp.where(all_rows, 1, channels), channels * rows)
    piece = xp.where(all_cols, xp.where(all_rows, channels * rows * cols, rows * cols), cols)
    aligned = xp.ceildiv(piece, dma.align_bytes) * dma.align_bytes
    some = xp.used(channels)
    if dma.piece_cycles is None:
        return Transfer(pieces * aligned * some, pieces * some)
    return Transfer(pieces * aligned * some, some, (pieces - 1) * some)


@dataclass(frozen=True)
class Span:
    """`count` consecutive tiles along one spatial dimension: `out` outputs each, reading `inp` inputs that exist, or
    `other` in the layer's alternative form."""

    out: Num
    inp: Num
    count: Num
    other: Num = 0

    def under(self, layer: Layer, read: Layer) -> Span:
        """The same as a form of the layer (`read`) sees it."""
        return Span(self.out, self.other, self.count) if read is layer.alternative else self


def spans(outputs: int, tile: int, inputs: int, reach: int, stride: int, pad: int) -> list[tuple[int, int]]:
    """Cut `outputs` into tiles, (outputs, inputs) of each; `reach` inputs lie under one output.

    Padding is not read from memory, so border tiles read less. A single tile reads all of them, also those behind the
    last output (a 1x1 filter of stride 2 leaves one): skipping them would break whole rows and planes into pieces.
    """
    if tile >= outputs:
        return [(outputs, inputs)]
    sizes = []
    for start in range(0, outputs, tile):
        size = min(tile, outputs - start)
        first = start * stride - pad
        sizes.append((size, min(inputs, first + (size - 1) * stride + reach) - max(0, first)))
    return sizes


def _resized_spans(outputs: int, tile: int, inputs: int, taps: int) -> list[tuple[int, int]]:
    """The same where `inputs` are interpolated to `outputs`, each from its `taps` nearest."""
    sizes = []
    for start in range(0, outputs, tile):
        size = min(tile, outputs - start)
        first = start * inputs // outputs - taps // 2
        end = exact.ceildiv((start + size) * inputs, outputs) + taps // 2
        sizes.append((size, min(inputs, end) - max(0, first)))
    return sizes


def _spans(layer: Layer, tile: int, cut: Callable[[Layer, int], list[tuple[int, int]]]) -> tuple[Span, ...]:
    """Tiles of a layer and of its alternative, equal neighbours counted, not repeated."""
    own = cut(layer, tile)
    other = [inp for _, inp in cut(layer.alternative, tile)] if layer.alternative else [0] * len(own)
    both = groupby(zip(own, other, strict=True))
    return tuple(Span(out, inp, len(list(same)), alt) for ((out, inp), alt), same in both)


def _rows(layer: Layer, oy: int) -> list[tuple[int, int]]:
    if layer.op == "resize":
        return _resized_spans(layer.oy, oy, layer.iy, layer.fy)
    reach = (layer.fy - 1) * layer.dilation_y + 1
    return spans(layer.oy, oy, layer.iy, reach, layer.stride_y, layer.pad_y)


def _cols(layer: Layer, ox: int) -> list[tuple[int, int]]:
    if layer.op == "resize":
        return _resized_spans(layer.ox, ox, layer.ix, layer.fx)
    reach = (layer.fx - 1) * layer.dilation_x + 1
    return spans(layer.ox, ox, layer.ix, reach, layer.stride_x, layer.pad_x)


def spans_y(layer: Layer, oy: int) -> tuple[Span, ...]:
    """The layer's output rows in tiles of `oy`, equal neighbours as one."""
    return _spans(layer, oy, _rows)


def spans_x(layer: Layer, ox: int) -> tuple[Span, ...]:
    """The layer's output columns in tiles of `ox`, equal neighbours as one."""
    return _spans(layer, ox, _cols)


@dataclass(frozen=True)
class Window:
    """`count` tiles of equal size: n images, rows and columns of outputs."""

    n: int
    y: Span
    x: Span
    count: Num

    def under(self, layer: Layer, read: Layer) -> Window:
        """The same as a form of the layer (`read`) sees it."""
        return replace(self, y=self.y.under(layer, read), x=self.x.under(layer, read))


def windows(layer: Layer, tile: Extent) -> list[Window]:
    """The tiles of a layer along images, rows and columns, equal neighbours as one; the last is the last tile's.

    oy and ox may be integer arrays of equal length, of so many tilings at once: so are the spans then, those that a
    tiling does not have counting 0.
    """
    rows, cols = _spans_of(layer, tile.oy, spans_y), _spans_of(layer, tile.ox, spans_x)
    images = [(min(tile.n, layer.n), layer.n // tile.n or 1)]
    if layer.n > tile.n and layer.n % tile.n:
        images.append((layer.n % tile.n, 1))
    return [Window(n, y, x, times * y.count * x.count) for (n, times), y, x in product(images, rows, cols)]


def _spans_of(layer: Layer, tile: Num, cut: Callable[[Layer, int], tuple[Span, ...]]) -> tuple[Span, ...]:
    """Spans of a tile size, or of an array of sizes."""
    if isinstance(tile, int):
        return cut(layer, tile)
    sizes, at = np.unique(tile, return_inverse=True)
    each = [cut(layer, int(size)) for size in sizes]
    most = max(len(own) for own in each)
    # What is missing stands before the last as often as need be, no time: first and last stay where they are.
    full = [(*own[:-1], *[replace(own[-1], count=0)] * (most - len(own)), own[-1]) for own in each]

    def column(values: list[int]) -> Num:
        return np.array(values, np.int64)[at]

    return tuple(
        Span(
            column([own[i].out for own in full]),
            column([own[i].inp for own in full]),
            column([own[i].count for own in full]),
            column([own[i].other for own in full]),
        )
        for i in range(most)
    )


@dataclass(frozen=True)
class CoreWork:
    """One core's part of a layer, summed over its jobs.

    jobs: count. array: array cycles. fed: ticks of its feeds, of `feed` bytes, those that bring loaded inputs into its
    own format included. weights: transfers to its weight memory. stores: transfers of its results. first_weights: those
    of its first job. last: array and feed of the last job of the first channels, ticks.
    """

    core: str
    jobs: Num
    array: Num
    fed: Num
    feed: Num
    weights: Transfer
    stores: Transfer
    energy_pj: Num
    first_weights: Transfer
    last: Num


@dataclass(frozen=True)
class LayerWork:
    """A mapped layer's whole work: the cores' parts, the loads of its inputs, and the tiles that it goes through.

    first_load, last_store: the transfers that nothing of the same layer can hide.
    """

    cores: tuple[CoreWork, ...]
    loads: Transfer
    steps: Num
    first_load: Transfer
    last_store: Transfer


def feed_ticks(tile: Tile, soc: SoC, core: str, xp: Any, n: int = 1) -> Num:
    """Unloaded time of one job's own reads and writes, over n images, over its core's feed links."""
    ticks: Num = 0 * tile.k
    for names, moved in soc.cores[core].feeds(tile, xp):
        if names:
            ticks = ticks + link_ticks(moved * n, names, soc, xp)
    return ticks


def link_ticks(moved: Num, names: Sequence[str], soc: SoC, xp: Any) -> Num:
    """Unloaded time of so many bytes over all of the links at once."""
    links = [soc.links[name] for name in names]
    slowest = max(links, key=lambda link: link.period_cycles / link.bytes_per_period)
    return xp.ceildiv(moved * slowest.period_cycles, slowest.bytes_per_period)


def access_pj(tile: Tile, soc: SoC, core: Core) -> Num:
    """Energy of a job's accesses to the memory that its core computes from, where that states one: reading its inputs
    and writing its results."""
    return tile.k * tile.oy * tile.ox * (1 + tile.operands) * soc.memories[core.memory].access_pj_per_byte


def core_cycles(core: Core, tile: Tile, n: int, xp: Any) -> Num:
    """Array cycles of one job over n images."""
    return core.cycles(tile, xp) if n == 1 else core.batch_cycles(tile, n, xp)


def k_tiles(k: Num, tile: Num, most: int, xp: Any) -> tuple[tuple[Num, Num], ...]:
    """Cut k channels into tiles: ((size, count), ...), of which the last may be empty; into one if it holds `most`.
    tile: a figure, or an array of them."""
    if isinstance(tile, int) and tile >= most:
        return ((k, 1),)
    whole = xp.floordiv(k, tile)
    return ((tile, whole), (k - whole * tile, 1))


def c_parts(layer: Layer, c: int) -> tuple[tuple[int, int], ...]:
    """The parts, of c channels (0: all), that a job's input channels are worked off in: ((channels, count), ...)."""
    total = channels_read(layer)
    tile = c or total
    parts = ((tile, total // tile), (total % tile, 1))
    return tuple((size, count) for size, count in parts if size and count)


def input_transfer(layer: Layer, soc: SoC, memory: str, k: Num, at: Window, home: str, xp: Any) -> Transfer:
    """Load the inputs under one tile, all operands, from `home` to a core's memory; nothing if they lie there."""
    y, x = at.y, at.x
    if home == memory:
        return Transfer(0, 0)
    channels = k if per_channel(layer) else layer.c
    dma = soc.dma(soc.route(home, memory).dma)
    one = tile_transfer(channels, y.inp, x.inp, y.inp == layer.iy, x.inp == layer.ix, dma, xp)
    operands = len(layer.inputs) if layer.op in ("add", "eltwise", "concat") else 1
    if layer.op == "concat":  # its operands share the channels between them
        return Transfer(one.bytes, one.calls + operands - 1, one.pieces).times(at.n)
    return Transfer(one.bytes * operands, one.calls * operands, one.pieces * operands).times(at.n)


def output_transfer(layer: Layer, soc: SoC, memory: str, k: Num, at: Window, home: str, xp: Any) -> Transfer:
    """Store one tile's results from a core's memory to `home`; nothing if they stay there."""
    y, x = at.y, at.x
    if home == memory:
        return Transfer(0 * k, 0 * k)
    dma = soc.dma(soc.route(memory, home).dma)
    return tile_transfer(k, y.out, x.out, y.out == layer.oy, x.out == layer.ox, dma, xp).times(at.n)


def _total(parts: Sequence[tuple[Transfer, Num]]) -> Transfer:
    return Transfer(
        sum(t.bytes * n for t, n in parts), sum(t.calls * n for t, n in parts), sum(t.pieces * n for t, n in parts)
    )


def pixel_loops(plan: LayerPlan, counts: MappingOf[str, Num]) -> tuple[Num, Num]:
    """Of the loops around a layer's tiles: how many tiles of images and pixels stand outside the loop over output
    channels, and whether any stands inside it. counts: tiles along n, oy and ox."""
    at = plan.loops.index("k")
    outside = prod(counts[d] for d in plan.loops[:at] if d in counts)
    return outside, prod(counts[d] for d in plan.loops[at:] if d in counts) > 1


def tile_counts(layer: Layer, tile: Extent) -> dict[str, Num]:
    """Tiles along images, rows and columns."""
    return {"n": -(-layer.n // tile.n), "oy": -(-layer.oy // tile.oy), "ox": -(-layer.ox // tile.ox)}


def channel_slice(layer: Layer, channels: int) -> Layer:
    """The layer that so many of a layer's output channels are."""
    if not per_channel(layer):
        return replace(layer, k=channels)
    return replace(layer, k=channels, c=channels, groups=channels if layer.depthwise else layer.groups)


def _cached_work(layer: Layer, soc: SoC, part: Part, k: Num, plan: LayerPlan, xp: Any) -> CoreWork:
    """A part behind a cached mover, with k channels: how its loads, jobs and stores overlap is in its own closed form,
    so that to the others it is one job without transfers."""
    none = Transfer(0 * k, 0 * k)
    if not part.channels and not xp.used(k):
        return CoreWork(part.core, 0 * k, 0 * k, 0 * k, 0 * k, none, none, 0.0 * k, none, 0 * k)
    own, machine = channel_slice(layer, max(part.channels, 1)), Machine.of(soc, part.core)
    found = estimate_nest(own, replace(plan, parts=(part,)), machine, xp=xp, channels=k)
    return CoreWork(part.core, xp.used(k), found.cycles, 0 * k, 0 * k, none, none, found.energy_pj, none, 0 * k)


def layer_work(
    layer: Layer, soc: SoC, shares: Sequence[tuple[str, Num]], plan: LayerPlan, homes: Homes, xp: Any
) -> LayerWork:
    """The work of `layer` under a plan, with `shares` (core, output channels) in place of the plan's own.

    Shares may be ints, integer arrays or tensors, core by core as in the plan; with the plan's own and `xp = exact`
    this is, to the byte, what `lower` emits. The plan must be tiled. Operands are loaded again as `lower.walk` has it.
    Parts behind a cached mover run beside the others, by a closed form of their own (`movers.cached_terms`).
    k, oy and ox of the tiles may be integer arrays of equal length: the work of so many tilings at once.
    """
    cached = [i for i, part in enumerate(plan.parts) if soc.is_cached(part.core)]
    if cached:
        by_number = {i: _cached_work(layer, soc, plan.parts[i], shares[i][1], plan, xp) for i in cached}
        rest = [i for i in range(len(plan.parts)) if i not in by_number]
        if not rest:
            some = xp.maximum(0, *(work.jobs for work in by_number.values()))
            return LayerWork(tuple(by_number.values()), NOTHING, some, NOTHING, NOTHING)
        beside = replace(plan, parts=tuple(plan.parts[i] for i in rest))
        work = layer_work(layer, soc, [shares[i] for i in rest], beside, homes, xp)
        by_number |= dict(zip(rest, work.cores, strict=True))
        return replace(work, cores=tuple(by_number[i] for i in range(len(plan.parts))))
    cut = windows(layer, plan.tile)
    tiles = sum(at.count for at in cut)
    _, pixels_inside = pixel_loops(plan, tile_counts(layer, plan.tile))
    source, target = homes.inputs(layer), homes.output(layer)
    cores, loads, firsts, lasts = [], [], [], []
    sizes = [
        k_tiles(k, part.tile.k, part.channels, xp)
        for (_, k), part in zip(shares, plan.parts, strict=True)
        if part.tile is not None
    ]
    k_steps = [sum(count * xp.used(size) for size, count in own) for own in sizes]
    for (name, _), own, part in zip(shares, sizes, plan.parts, strict=True):
        assert part.tile is not None
        once = part.tile.k >= part.channels
        cores.append(_core_work(layer, soc, name, own, once, cut, plan, homes, xp))
        lasts.append((output_transfer(layer, soc, soc.cores[name].memory, own[0][0], cut[-1], target, xp), 1))
    # A core without channels has its place in the work, so that a gradient can reach it; it takes no part in deciding
    # which form of the layer the inputs are loaded for.
    there = [i for i, part in enumerate(plan.parts) if part.channels or layer.alternative is None]
    for copy in copies(layer, soc, [(i, shares[i][0]) for i in there]):
        memory, read = soc.cores[shares[copy.shares[0]][0]].memory, copy.layer
        seen = [at.under(layer, read) for at in cut]
        if copy.sliced:
            i, own = copy.shares[0], sizes[copy.shares[0]]
            mine = [
                (input_transfer(read, soc, memory, size, at, source, xp), at.count * count)
                for size, count in own
                for at in seen
            ]
            loads += mine
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
    return LayerWork(tuple(cores), _total(loads), tiles * xp.maximum(0, *k_steps), _total(firsts), _total(lasts))


def _rewriting(work: CoreWork, loads: Sequence[tuple[Transfer, Num]], soc: SoC, xp: Any) -> CoreWork:
    """A core's work with that of bringing its loaded inputs, (transfer, times), into its own format."""
    core = soc.cores[work.core]
    if type(core).rewritten_bytes is Core.rewritten_bytes or not core.feed_links:
        return work
    moved = [(core.rewritten_bytes(load.bytes, xp), times) for load, times in loads]
    ticks = sum(link_ticks(one, core.feed_links, soc, xp) * times for one, times in moved)
    return replace(work, fed=work.fed + ticks, feed=work.feed + sum(one * times for one, times in moved))


def weight_transfer_of(
    layer: Layer, soc: SoC, core: Core, k: Num, xp: Any, c: int = 0, homes: Homes | None = None
) -> Transfer:
    """Bring the weights of k output channels, for c input channels (0: all), into a core's weight memory; nothing
    where there are none, or where `homes` has them there already."""
    if layer.op != "conv" or core.weight_memory is None or (homes is not None and layer.name in homes.pinned):
        return Transfer(0 * k, 0 * k)
    dma = soc.dma(soc.route(soc.main_memory, core.weight_memory).dma)
    size_bytes = core.weight_bytes(make_tile(form(layer, core), k, layer.oy, layer.ox, c=c), xp)
    return Transfer(xp.ceildiv(size_bytes, dma.align_bytes) * dma.align_bytes, xp.used(size_bytes))


def _core_work(
    layer: Layer,
    soc: SoC,
    name: str,
    sizes: Sequence[tuple[Num, Num]],
    once: Num,
    cut: Sequence[Window],
    plan: LayerPlan,
    homes: Homes,
    xp: Any,
) -> CoreWork:
    """once: whether one tile has all of the core's channels, so that its weights come once."""
    core = soc.cores[name]
    own = form(layer, core)
    target = homes.output(layer)
    tiles = sum(at.count for at in cut)
    jobs: Num = 0
    array: Num = 0
    feed: Num = 0
    energy: Num = 0.0
    last: Num = None
    fed: Num = 0
    weights, stores = [], []
    parts = c_parts(own, cut_channels(layer, soc, plan))
    n_parts = sum(n for _, n in parts)
    outside, _ = pixel_loops(plan, tile_counts(layer, plan.tile))
    times_weights = tiles if n_parts > 1 else xp.where(once, 1, outside)
    for size, count in sizes:
        jobs = jobs + xp.used(size) * count * tiles * n_parts
        for c, n in parts:
            moved = weight_transfer_of(layer, soc, core, size, xp, c, homes)
            weights.append((moved, count * n * times_weights))
        for at in cut:
            times = count * at.count
            for c, n in parts:
                tile = make_tile(own, size, at.y.out, at.x.out, plan.unroll, c)
                read = core.feed_bytes(tile, xp) * at.n
                one = core_cycles(core, tile, at.n, xp), feed_ticks(tile, soc, name, xp, at.n)
                array, fed = array + one[0] * times * n, fed + one[1] * times * n
                feed = feed + read * times * n
                energy = energy + (core.energy_pj(tile, xp) + access_pj(tile, soc, core)) * (times * at.n) * n
            stores.append((output_transfer(layer, soc, core.memory, size, at, target, xp), times))
        if last is None:
            last = one[0] + one[1]
    first = weight_transfer_of(layer, soc, core, sizes[0][0], xp, parts[0][0], homes)
    return CoreWork(name, jobs, array, fed, feed, _total(weights), _total(stores), energy, first, last)
