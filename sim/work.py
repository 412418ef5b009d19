"""What a mapped layer amounts to: jobs, cycles and bytes, before anything overlaps.

`lower` emits this work and an estimate composes it; both get it from here, so that "bytes and MACs emitted equal those
of the workload and tiling" is a statement that can be tested. Everything is written in the primitives of `exact`:
the channels of a share may be an int, an integer array or a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cosoc.sim import exact
from cosoc.sim.exact import Num
from cosoc.sim.mapping import LayerMapping, Tiling
from cosoc.sim.placement import Homes
from cosoc.sim.soc import Core, Dma, SoC
from cosoc.sim.workload import Layer, Tile

# Operators whose output channel reads its own input channel only.
PER_CHANNEL = ("add", "max_pool", "avg_pool", "eltwise", "concat", "softmax", "norm", "resize")


def per_channel(layer: Layer) -> bool:
    """Whether output channel k reads input channel k alone, so that a tile of k needs only that slice."""
    return layer.op in PER_CHANNEL or layer.depthwise


def channels_read(layer: Layer) -> int:
    """Input channels that one output channel reads."""
    return 1 if per_channel(layer) else layer.c // layer.groups


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
    """One tile's way through a DMA: bytes (alignment included) and calls (one a contiguous piece)."""

    bytes: Num
    calls: Num


def tile_transfer(channels: Num, rows: Num, cols: Num, all_rows: Any, all_cols: Any, dma: Dma, xp: Any) -> Transfer:
    """Move a tile of a tensor that lies in memory channel by channel, row by row, one byte an element.

    Whole planes are one piece; whole rows are one piece a channel; parts of rows are one a channel and row. Every
    piece is padded to the DMA's alignment.
    """
    calls = xp.where(all_cols, xp.where(all_rows, 1, channels), channels * rows)
    piece = xp.where(all_cols, xp.where(all_rows, channels * rows * cols, rows * cols), cols)
    aligned = xp.ceildiv(piece, dma.align_bytes) * dma.align_bytes
    some = xp.used(channels)
    return Transfer(calls * aligned * some, calls * some)


@dataclass(frozen=True)
class Span:
    """`count` consecutive tiles along one spatial dimension: `out` outputs each, reading `inp` inputs that exist."""

    out: int
    inp: int
    count: int


def spans(outputs: int, tile: int, inputs: int, reach: int, stride: int, pad: int) -> tuple[Span, ...]:
    """Cut `outputs` into tiles; `reach` inputs lie under one output. Equal neighbours are counted, not repeated.

    Padding is not read from memory, so border tiles read less. A single tile reads all of them, also those behind the
    last output (a 1x1 filter of stride 2 leaves one): skipping them would break whole rows and planes into pieces.
    """
    if tile >= outputs:
        return (Span(outputs, inputs, 1),)
    sizes = []
    for start in range(0, outputs, tile):
        size = min(tile, outputs - start)
        first = start * stride - pad
        sizes.append((size, min(inputs, first + (size - 1) * stride + reach) - max(0, first)))
    return _counted(sizes)


def _resized_spans(outputs: int, tile: int, inputs: int, taps: int) -> tuple[Span, ...]:
    """The same where `inputs` are interpolated to `outputs`, each from its `taps` nearest."""
    sizes = []
    for start in range(0, outputs, tile):
        size = min(tile, outputs - start)
        first = start * inputs // outputs - taps // 2
        end = exact.ceildiv((start + size) * inputs, outputs) + taps // 2
        sizes.append((size, min(inputs, end) - max(0, first)))
    return _counted(sizes)


def _counted(sizes: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    return tuple(Span(out, inp, len(list(same))) for (out, inp), same in groupby(sizes))


def spans_y(layer: Layer, oy: int) -> tuple[Span, ...]:
    """The layer's output rows in tiles of `oy`."""
    if layer.op == "resize":
        return _resized_spans(layer.oy, oy, layer.iy, layer.fy)
    reach = (layer.fy - 1) * layer.dilation_y + 1
    return spans(layer.oy, oy, layer.iy, reach, layer.stride_y, layer.pad_y)


def spans_x(layer: Layer, ox: int) -> tuple[Span, ...]:
    """The layer's output columns in tiles of `ox`."""
    if layer.op == "resize":
        return _resized_spans(layer.ox, ox, layer.ix, layer.fx)
    reach = (layer.fx - 1) * layer.dilation_x + 1
    return spans(layer.ox, ox, layer.ix, reach, layer.stride_x, layer.pad_x)


@dataclass(frozen=True)
class CoreWork:
    """One core's part of a layer, summed over its jobs.

    jobs: count. array: array cycles. fed: ticks of its feeds, of `feed` bytes. weights: transfers to its weight memory.
    stores: transfers of its results. first_weights: those of its first job. last: array and feed of the last job of the
    first channels, ticks.
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


def feed_ticks(tile: Tile, soc: SoC, core: str, xp: Any) -> Num:
    """Unloaded time of one job's own reads and writes over its core's feed links."""
    ticks: Num = 0 * tile.k
    for names, moved in soc.cores[core].feeds(tile, xp):
        if names:
            links = [soc.links[name] for name in names]
            slowest = max(links, key=lambda link: link.period_cycles / link.bytes_per_period)
            ticks = ticks + xp.ceildiv(moved * slowest.period_cycles, slowest.bytes_per_period)
    return ticks


def k_tiles(k: Num, tile: int, most: int, xp: Any) -> tuple[tuple[Num, Num], ...]:
    """Cut k channels into tiles: ((size, count), ...), of which the last may be empty; into one if it holds `most`."""
    if tile >= most:
        return ((k, 1),)
    whole = xp.floordiv(k, tile)
    return ((tile, whole), (k - whole * tile, 1))


def c_parts(layer: Layer, tiling: Tiling) -> tuple[tuple[int, int], ...]:
    """The parts that a job's input channels are worked off in: ((channels, count), ...)."""
    total = channels_read(layer)
    tile = tiling.c or total
    parts = ((tile, total // tile), (total % tile, 1))
    return tuple((size, count) for size, count in parts if size and count)


def input_transfer(layer: Layer, soc: SoC, memory: str, k: Num, y: Span, x: Span, home: str, xp: Any) -> Transfer:
    """Load the inputs under one tile, all operands, from `home` to a core's memory; nothing if they lie there."""
    if home == memory:
        return Transfer(0, 0)
    channels = k if per_channel(layer) else layer.c
    dma = soc.dmas[soc.route(home, memory).dma]
    one = tile_transfer(channels, y.inp, x.inp, y.inp == layer.iy, x.inp == layer.ix, dma, xp)
    operands = len(layer.inputs) if layer.op in ("add", "eltwise", "concat") else 1
    if layer.op == "concat":  # its operands share the channels between them
        return Transfer(one.bytes, one.calls + operands - 1)
    return Transfer(one.bytes * operands, one.calls * operands)


def output_transfer(layer: Layer, soc: SoC, memory: str, k: Num, y: Span, x: Span, home: str, xp: Any) -> Transfer:
    """Store one tile's results from a core's memory to `home`; nothing if they stay there."""
    if home == memory:
        return Transfer(0 * k, 0 * k)
    dma = soc.dmas[soc.route(memory, home).dma]
    return tile_transfer(k, y.out, x.out, y.out == layer.oy, x.out == layer.ox, dma, xp)


def _total(parts: Sequence[tuple[Transfer, Num]]) -> Transfer:
    return Transfer(sum(t.bytes * n for t, n in parts), sum(t.calls * n for t, n in parts))


def layer_work(
    layer: Layer, soc: SoC, shares: Sequence[tuple[str, Num]], mapping: LayerMapping, homes: Homes, xp: Any
) -> LayerWork:
    """The work of `layer` under `mapping`, with `shares` (core, output channels) in place of the mapping's own.

    Shares may be ints, integer arrays or tensors, core by core as in the mapping; with the mapping's own and
    `xp = exact` this is, to the byte, what `lower` emits. The mapping must have a tiling, with one tile size a share.
    """
    tiling = mapping.tiling
    assert tiling is not None, "complete the mapping first"
    cut = [(y, x) for y in spans_y(layer, tiling.oy) for x in spans_x(layer, tiling.ox)]
    tiles = sum(y.count * x.count for y, x in cut)
    source, target = homes.inputs(layer), homes.output(layer)
    cores, loads, firsts, lasts = [], [], [], []
    k_steps: Num = 0
    for (name, k), whole, kt in zip(shares, mapping.shares, tiling.k, strict=True):
        core = soc.cores[name]
        sizes = k_tiles(k, kt, whole.k, xp)
        cores.append(_core_work(layer, soc, name, sizes, cut, mapping, homes, xp))
        k_steps = xp.maximum(k_steps, sum(count * xp.used(size) for size, count in sizes))
        lasts.append((output_transfer(layer, soc, core.memory, sizes[0][0], *cut[-1], target, xp), 1))
        if per_channel(layer):
            loads += [
                (input_transfer(layer, soc, core.memory, size, y, x, source, xp), y.count * x.count * count)
                for size, count in sizes
                for y, x in cut
            ]
            firsts.append((input_transfer(layer, soc, core.memory, sizes[0][0], *cut[0], source, xp), 1))
    if not per_channel(layer):
        again = k_steps if tiling.order == "weights" and tiles > 1 else 1
        memory = soc.cores[shares[0][0]].memory
        one = [input_transfer(layer, soc, memory, layer.c, y, x, source, xp) for y, x in cut]
        loads = [(t, y.count * x.count * again) for t, (y, x) in zip(one, cut, strict=True)]
        firsts = [(one[0], 1)]
    return LayerWork(tuple(cores), _total(loads), tiles * k_steps, _total(firsts), _total(lasts))


def weight_transfer_of(
    layer: Layer, soc: SoC, core: Core, k: Num, xp: Any, c: int = 0, homes: Homes | None = None
) -> Transfer:
    """Bring the weights of k output channels, for c input channels (0: all), into a core's weight memory; nothing
    where there are none, or where `homes` has them there already."""
    if layer.op != "conv" or core.weight_memory is None or (homes is not None and layer.name in homes.pinned):
        return Transfer(0 * k, 0 * k)
    dma = soc.dmas[soc.route(soc.main_memory, core.weight_memory).dma]
    size_bytes = core.weight_bytes(make_tile(layer, k, layer.oy, layer.ox, c=c), xp)
    return Transfer(xp.ceildiv(size_bytes, dma.align_bytes) * dma.align_bytes, xp.used(size_bytes))


def _core_work(
    layer: Layer,
    soc: SoC,
    name: str,
    sizes: Sequence[tuple[Num, Num]],
    cut: Sequence[tuple[Span, Span]],
    mapping: LayerMapping,
    homes: Homes,
    xp: Any,
) -> CoreWork:
    core, tiling = soc.cores[name], mapping.tiling
    assert tiling is not None
    target = homes.output(layer)
    tiles = sum(y.count * x.count for y, x in cut)
    jobs: Num = 0
    array: Num = 0
    feed: Num = 0
    energy: Num = 0.0
    last: Num = None
    fed: Num = 0
    weights, stores = [], []
    parts = c_parts(layer, tiling)
    n_parts = sum(n for _, n in parts)
    resident = n_parts == 1 and (tiling.order == "weights" or len(sizes) == 1)
    for size, count in sizes:
        jobs = jobs + xp.used(size) * count * tiles * n_parts
        for c, n in parts:
            moved = weight_transfer_of(layer, soc, core, size, xp, c, homes)
            weights.append((moved, count * n if resident else count * n * tiles))
        for y, x in cut:
            times = count * y.count * x.count
            for c, n in parts:
                tile = make_tile(layer, size, y.out, x.out, mapping.ox_unroll, c)
                read = core.feed_bytes(tile, xp)
                one = core.cycles(tile, xp), feed_ticks(tile, soc, name, xp)
                array, fed = array + one[0] * times * n, fed + one[1] * times * n
                feed = feed + read * times * n
                energy = energy + core.energy_pj(tile, xp) * times * n
            stores.append((output_transfer(layer, soc, core.memory, size, y, x, target, xp), times))
        if last is None:
            last = one[0] + one[1]
    first = weight_transfer_of(layer, soc, core, sizes[0][0], xp, parts[0][0], homes)
    return CoreWork(name, jobs, array, fed, feed, _total(weights), _total(stores), energy, first, last)
