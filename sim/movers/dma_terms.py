"""How operands get to a core over a DMA: tiles of tensors as transfers, in bytes, set-ups and contiguous pieces.

`lower` emits these transfers and the closed form adds them up; both get them from here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, product
from typing import Any

import numpy as np
import numpy.typing as npt

from cosoc.sim import exact
from cosoc.sim.exact import Num
from cosoc.sim.model.mapping import Extent
from cosoc.sim.model.placement import Homes
from cosoc.sim.model.soc import Core, Dma, SoC
from cosoc.sim.model.tiles import by_groups, form, job_form, make_tile, per_channel
from cosoc.sim.model.workload import Layer, Plane

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Copy:
    """A copy of a tile's inputs in the cores' memory. layer: the form of the layer that says what is in it. shares:
    those that read it, by number. sliced: whether it holds the channels of one tile of one share, or of its group, not
    all of them."""

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
        apart = {i: job_form(layer, soc.cores[core]) for i, core in shares if by_groups(layer, soc.cores[core])}
        rest = tuple(i for i, _ in shares if i not in apart)
        groups = (Copy(own, (i,), True) for i, own in apart.items())
        return (*([Copy(layer, rest, False)] if rest or not apart else []), *groups)
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


Stretch = tuple[int, int, int]  # outputs and inputs of a tile, and how many such tiles follow one another


def spans(outputs: int, tile: int, inputs: int, reach: int, stride: int, pad: int) -> list[Stretch]:
    """Cut `outputs` into tiles; `reach` inputs lie under one output.

    Padding is not read from memory, so border tiles read less. A single tile reads all of them, also those behind the
    last output (a 1x1 filter of stride 2 leaves one): skipping them would break whole rows and planes into pieces. A
    tile whose windows lie in the padding alone reads none.
    """
    if tile >= outputs:
        return [(outputs, inputs, 1)]

    def one(number: int) -> Stretch:
        size = min(tile, outputs - number * tile)
        first = number * tile * stride - pad
        read = min(inputs, first + (size - 1) * stride + reach) - max(0, first)
        return size, max(read, 0), 1

    # Between the tiles that reach into the padding before and those that reach behind the last input, all are equal.
    n, under = exact.ceildiv(outputs, tile), (tile - 1) * stride + reach
    begin = min(exact.ceildiv(pad, tile * stride), n)
    end = max(begin, min(outputs // tile, (inputs + pad - under) // (tile * stride) + 1))
    alike = [(tile, under, end - begin)] if end > begin else []
    return [*map(one, range(begin)), *alike, *map(one, range(end, n))]


def _handed_on(outputs: int, tile: int) -> list[Stretch]:
    """The same where outputs are inputs, whatever shape those stand in: a tile reads as many as it gives."""
    full, rest = divmod(outputs, tile)
    return [(size, size, count) for size, count in ((tile, full), (rest, 1)) if size and count]


def _resized_spans(outputs: int, tile: int, inputs: int, taps: int) -> list[Stretch]:
    """The same where `inputs` are interpolated to `outputs`, each from its `taps` nearest."""
    start = np.arange(0, outputs, tile)
    size = np.minimum(tile, outputs - start)
    first = start * inputs // outputs - taps // 2
    end = exact.ceildiv((start + size) * inputs, outputs) + taps // 2
    return _run_lengths(size, np.minimum(inputs, end) - np.maximum(0, first))


def _run_lengths(size: Ints, read: Ints) -> list[Stretch]:
    """Outputs and inputs of tile after tile [tiles], equal neighbours as one."""
    new = np.flatnonzero(np.append(True, (size[1:] != size[:-1]) | (read[1:] != read[:-1])))
    count = np.diff(np.append(new, len(size)))
    return list(zip(size[new].tolist(), read[new].tolist(), count.tolist(), strict=True))


def _spans(layer: Layer, tile: int, cut: Callable[[Layer, int], list[Stretch]]) -> tuple[Span, ...]:
    """Tiles of a layer and of its alternative, equal neighbours counted, not repeated."""
    own = cut(layer, tile)
    other = cut(layer.alternative, tile) if layer.alternative else [(0, 0, sum(n for _, _, n in own))]
    ends = [[*accumulate(n for _, _, n in one)] for one in (own, other)]
    found, at = list[Span](), 0
    for end in sorted({*ends[0], *ends[1]}):  # where one of them changes
        (out, inp, _), (_, alt, _) = (one[bisect_left(till, end)] for one, till in zip((own, other), ends, strict=True))
        found.append(Span(out, inp, end - at, alt))
        at = end
    both = groupby(found, lambda span: (span.out, span.inp, span.other))
    return tuple(Span(out, inp, sum(span.count for span in same), alt) for (out, inp, alt), same in both)


def _rows(layer: Layer, oy: int) -> list[Stretch]:
    if layer.hands_on:
        return _handed_on(layer.oy, oy)
    if layer.op == "resize":
        return _resized_spans(layer.oy, oy, layer.iy, layer.fy)
    reach = (layer.fy - 1) * layer.dilation_y + 1
    return spans(layer.oy, oy, layer.iy, reach, layer.stride_y, layer.pad_y)


def _plane_spans(plane: Plane, tile: int) -> list[Stretch]:
    """The same of planes that stand in rows: a tile of consecutive outputs of a plane reads the rows under them, whole,
    as these lie side by side in memory."""
    outputs, inputs = plane.oy * plane.ox, plane.iy * plane.ix
    if tile >= outputs:
        return [(outputs, inputs, 1)]
    start = np.arange(0, outputs, tile)
    size = np.minimum(tile, outputs - start)
    top = start // plane.ox * plane.stride_y - plane.pad_y
    bottom = (start + size - 1) // plane.ox * plane.stride_y - plane.pad_y + (plane.fy - 1) * plane.dilation_y + 1
    read = np.maximum(np.minimum(plane.iy, bottom) - np.maximum(0, top), 0) * plane.ix
    return _run_lengths(size, read)


def _cols(layer: Layer, ox: int) -> list[Stretch]:
    if layer.hands_on:
        return _handed_on(layer.ox, ox)
    if layer.plane is not None:
        return _plane_spans(layer.plane, ox)
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


def constant_transfer(layer: Layer, soc: SoC, memory: str, k: Num, at: Window, home: str, xp: Any) -> Transfer:
    """Load what of a layer's constants one tile reads, once for all its images, in one piece: of its k channels what
    the constants have of each, at most one of them for each of its pixels and each output."""
    if home == memory or not layer.constants:
        return Transfer(0 * k, 0 * k)
    of_channel = exact.ceildiv(layer.constants, layer.k)
    of_pixel = exact.ceildiv(layer.constants, layer.k * layer.oy * layer.ox)
    elements = xp.minimum(k * xp.minimum(of_channel, of_pixel * at.y.out * at.x.out), layer.constants)
    dma = soc.dma(soc.route(home, memory).dma)
    return Transfer(xp.ceildiv(elements, dma.align_bytes) * dma.align_bytes, xp.used(elements))


def output_transfer(layer: Layer, soc: SoC, memory: str, k: Num, at: Window, home: str, xp: Any) -> Transfer:
    """Store one tile's results from a core's memory to `home`; nothing if they stay there."""
    y, x = at.y, at.x
    if home == memory:
        return Transfer(0 * k, 0 * k)
    dma = soc.dma(soc.route(memory, home).dma)
    return tile_transfer(k, y.out, x.out, y.out == layer.oy, x.out == layer.ox, dma, xp).times(at.n)


def weights_at(layer: Layer, core: Core) -> str | None:
    """The memory that a core has a layer's weights in while it computes, or what the layer multiplies by in their
    place: where the core has no weight memory that lies beside its inputs. None where it has neither."""
    if layer.second:
        return core.weight_memory or core.memory
    return core.weight_memory if layer.op == "conv" else None


def weight_hops(layer: Layer, soc: SoC, core: Core, homes: Homes) -> tuple[tuple[str, str], ...]:
    """The ways, (from, to), that weights go one after the other, or what a layer has in their place: to a weight memory
    by the main memory; beside the inputs as these. None where there are none, or where `homes` has them there already.
    """
    source, target, main = homes.weights_of(layer), weights_at(layer, core), soc.main_memory
    if target is None or target == source or layer.name in homes.pinned:
        return ()
    if source == main or target == core.memory:
        return ((source, target),)
    return (source, main), (main, target)


def weight_transfer_of(
    layer: Layer, soc: SoC, core: Core, k: Num, xp: Any, c: int = 0, homes: Homes | None = None
) -> Transfer:
    """Bring the weights of k output channels, for c input channels (0: all), to where a core has them; nothing where
    there are none, or where `homes` has them there already.

    What a product of two activations has in their place lies in memory as weights do, the inputs of an output channel
    side by side, a byte an element; it is one image's.
    """
    target = weights_at(layer, core)
    hops = ((soc.main_memory, target),) if homes is None else weight_hops(layer, soc, core, homes)
    if target is None or not hops:
        return Transfer(0 * k, 0 * k)
    dma = soc.dma(soc.route(hops[-1][0], target).dma)
    tile = make_tile(job_form(layer, core), k, layer.oy, layer.ox, c=c)
    size_bytes = tile.k * tile.c if layer.second else core.weight_bytes(tile, xp)
    return Transfer(xp.ceildiv(size_bytes, dma.align_bytes) * dma.align_bytes, xp.used(size_bytes))
