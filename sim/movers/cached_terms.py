"""What a tiled layer costs on Gemmini, in closed form: cycles of every unit, bytes, accesses, rows of memory, energy.

Everything is written once for ints, numpy arrays and tensors (`xp` is `cosoc.sim.exact` or `cosoc.search.relax`) and
broadcasts: a `Shape` may hold an array of layers, a `Tiles` an array of mappings of each.

**One accounting**, for single layers and for layers of a fused group:

- *Traffic.* A tile's operands are loaded when the tile that was there before had others: going outward from the
  innermost software loop, loops that an operand does not depend on are free until the first that it does depend on;
  from there on every loop multiplies. So no mapping is credited two reuses at once. Inputs are loaded with their halo;
  rows and columns of padding are not. Where a reduction (c, fy, fx) is left and come back to, partial sums of
  PARTIAL_BYTES leave and come back. Where the padding is longer than a tile, the hardware's count of rows wraps, and it
  loads some 65,000 of them, which no cache has.
- *Execute.* As `Systolic` has it: per block as many cycles as rows stream, at least `min_rows`; at least
  `pair_cycles` per preload/compute pair; a depthwise layer uses one column of the array.
- *Load, store.* Beats of the bus, and of rows that do not begin at one the cycles lost; of stores what a request costs
  around them; rows of at most a mvin's width; mvins that wait for their first beat, as few are in flight. Lines that
  the L2 misses cross the outer link: of every operand its first reading, and of what is read again, or asked for in
  parts by rows narrower than a line, what lay too far back (times theta). First readings come from the DRAM, at its
  rate.
- *Energy*, per 8-bit word accessed, by the SoC file's table, which is DOSA's (Hong et al., MICRO 2023).
  Registers: a read a MAC, a write a weight that is loaded into the array. Accumulator: a read and a write a partial sum
  (one for every `side` input channels and tap), a read when it is stored. Scratchpad: a read a weight and spatial tile,
  a read an input, `side` output channels and tap; a write of everything that is loaded. L2: every byte that is loaded
  or stored, and each of the lines that it misses, which the last-level cache is read for. DRAM: the bytes over its
  link, which are written into the last-level cache. Both counts of missed bytes are those that loads take time by.
- *Fused layers.* What passes between two layers of a group is written from the accumulator to the scratchpad and
  read there; it costs no DRAM access. A consumer's halo is computed again by its producer, or kept (line buffer).

`CachedTerms` are additive over layers. `cycles` composes them: the slowest of load, execute, store, software, and one
tile after the other with as many in flight as can be; of the others a share that is not hidden (theta), at least that
of one tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from cosoc.sim import exact
from cosoc.sim.cores.systolic import Systolic
from cosoc.sim.errors import InputError
from cosoc.sim.exact import Num
from cosoc.sim.model.mapping import DIMS, PARTIAL_BYTES, Dim, Extent, LayerPlan
from cosoc.sim.model.soc import CachedMover, SoC
from cosoc.sim.model.workload import Layer
from cosoc.sim.theta import Theta

ARRAY_OPS = ("conv", "matmul", "add")  # what Gemmini runs
POOLS = ("max_pool", "avg_pool")  # what goes through its memories only
NEST_DIMS = DIMS[1:]  # images of a batch follow one another
COUNTER = 1 << 16  # of input rows and columns in LoopConv.scala

# The orders that no other beats: the innermost run of loops can leave only one operand where it is.
WS: tuple[Dim, ...] = ("k", "c", "fy", "fx", "oy", "ox")  # weights stay while pixels pass
IS: tuple[Dim, ...] = ("oy", "ox", "c", "fy", "fx", "k")  # inputs stay while output channels pass
OS: tuple[Dim, ...] = ("oy", "ox", "k", "c", "fy", "fx")  # outputs stay while the reduction passes
ORDERS = (WS, IS, OS)
ORDER_NAMES = ("WS", "IS", "OS")


@dataclass(frozen=True)
class Machine:
    """The figures of a systolic array, of its mover and its links that closed form and emission need. Rows: `side`
    bytes of scratchpad, or `side` partial sums of accumulator. *_link_pj: of a byte over the link."""

    side: int
    spad_rows: int
    acc_rows: int
    min_rows: int
    pair_cycles: float
    drain_cycles: float
    setup_cycles: float
    fill_cycles: float
    llc_cycles: float
    dram_cycles: float
    store_request_cycles: float
    conv_tile_cycles: float
    gemm_tile_cycles: float
    loop_cycles: float
    start_cycles: float
    tiles_in_flight: int
    mvins_in_flight: int
    mvin_bytes: int
    beat_bytes: int
    beat_cycles: int
    conv_offset_bytes: int
    gemm_offset_bytes: int
    line_bytes: int
    llc_line_bytes: int
    l2_bytes: int
    l2_ways: int
    llc_bytes: int
    llc_ways: int
    outer_cycles_per_byte: float
    page_bytes: int
    dram_cycles_per_byte: float
    hz: int
    mac_pj: float
    register_pj: float
    accumulator_pj: float
    scratchpad_pj: float
    l2_pj: float
    llc_pj: float
    dram_pj: float
    return_link_pj: float
    outer_link_pj: float
    dram_link_pj: float

    @staticmethod
    def of(soc: SoC, core: str | None = None) -> Machine:
        """The figures of a core, or of the only systolic array there is; InputError unless it is one behind a cached
        mover."""
        _, array, mover = array_and_mover(soc, core)
        access, execute, software = array.access, array.execute, array.software
        spad, acc = soc.memories[array.memory].capacity_bytes, soc.memories[array.accumulator].capacity_bytes
        back, outer, dram = (soc.links[link] for link in (mover.return_link, mover.outer_link, mover.dram_link))
        device = soc.memories[soc.main_memory].dram
        scratchpad_pj, accumulator_pj = access.of(spad / 1024, acc / 1024, array.side)
        return Machine(
            side=array.side,
            spad_rows=spad // array.side,
            acc_rows=acc // (array.side * PARTIAL_BYTES),
            min_rows=execute.min_rows,
            pair_cycles=array.pair_cycles,
            drain_cycles=execute.drain_cycles,
            setup_cycles=mover.setup_cycles,
            fill_cycles=mover.fill_cycles,
            llc_cycles=mover.llc_cycles,
            dram_cycles=mover.dram_cycles,
            store_request_cycles=mover.store_request_cycles,
            conv_tile_cycles=software.conv_tile_cycles,
            gemm_tile_cycles=software.gemm_tile_cycles,
            loop_cycles=software.loop_cycles,
            start_cycles=software.start_cycles,
            tiles_in_flight=software.tiles_in_flight,
            mvins_in_flight=mover.rows_in_flight // array.side + 1,
            mvin_bytes=mover.mvin_bytes,
            beat_bytes=back.bytes_per_period,
            beat_cycles=back.period_cycles,
            conv_offset_bytes=mover.conv_offset_bytes,
            gemm_offset_bytes=mover.gemm_offset_bytes,
            line_bytes=mover.l2_line_bytes,
            llc_line_bytes=mover.llc_line_bytes,
            l2_bytes=soc.memories[mover.l2].capacity_bytes,
            l2_ways=mover.l2_ways,
            llc_bytes=soc.memories[mover.llc].capacity_bytes,
            llc_ways=mover.llc_ways,
            outer_cycles_per_byte=outer.period_cycles / outer.bytes_per_period,
            page_bytes=device.row_bytes if device else mover.llc_line_bytes,
            dram_cycles_per_byte=max(
                dram.period_cycles / dram.bytes_per_period, device.rate[1] / device.rate[0] if device else 0.0
            ),
            hz=soc.tick_hz,
            mac_pj=access.mac_pj,
            register_pj=access.register_pj,
            accumulator_pj=accumulator_pj,
            scratchpad_pj=scratchpad_pj,
            l2_pj=soc.memories[mover.l2].access_pj_per_byte,
            llc_pj=soc.memories[mover.llc].access_pj_per_byte,
            dram_pj=soc.memories[soc.main_memory].access_pj_per_byte,
            return_link_pj=back.energy_pj_per_byte,
            outer_link_pj=outer.energy_pj_per_byte,
            dram_link_pj=dram.energy_pj_per_byte,
        )


def cached_cores(soc: SoC) -> dict[str, tuple[Systolic, CachedMover]]:
    """The cores whose memory a cached mover fills, by name: those that the route from main memory binds to one."""
    found = {}
    for name, core in soc.cores.items():
        mover = soc.mover_of(name)
        if isinstance(mover, CachedMover) and isinstance(core, Systolic):
            found[name] = core, mover
    return found


def array_and_mover(soc: SoC, core: str | None = None) -> tuple[str, Systolic, CachedMover]:
    """A core behind a cached mover, by name, or the only one there is; InputError where there is none, or several."""
    found = cached_cores(soc)
    if core is None and len(found) != 1:
        raise InputError(f"{soc.name} has {len(found)} cores of model systolic; one is needed")
    if core is not None and core not in found:
        raise InputError(f"{soc.name}: {core} is no systolic array behind a cached mover; those are {', '.join(found)}")
    name = core or next(iter(found))
    return name, *found[name]


@dataclass(frozen=True)
class Shape:
    """Extents of a layer, or of an array of layers. c, k: channels of one of `copies` equal products (heads of an
    attention, groups of a convolution, images of a batch). calls: of the library after the first, which configures the
    array anew for each group of a convolution. pad_*: rows and columns outside the input that are asked for. depthwise,
    gemm, add: 1 or 0. An addition is a depthwise layer without weights and without work for the array; `operands` is
    what it reads."""

    k: Num
    c: Num
    fy: Num
    fx: Num
    oy: Num
    ox: Num
    stride_y: Num = 1
    stride_x: Num = 1
    dilation_y: Num = 1
    dilation_x: Num = 1
    pad_top: Num = 0
    pad_bottom: Num = 0
    pad_left: Num = 0
    pad_right: Num = 0
    depthwise: Num = 0
    gemm: Num = 0
    add: Num = 0
    operands: Num = 1
    copies: Num = 1
    calls: Num = 0
    most_pad: int = 0  # the largest padding of any layer in the array

    @staticmethod
    def of(layer: Layer) -> Shape:
        """The extents of one layer; InputError for an operator that Gemmini does not run."""
        if layer.op not in ARRAY_OPS:
            raise InputError(f"layer {layer.name}: Gemmini runs {', '.join(ARRAY_OPS)}, not {layer.op}")
        (stride_y, stride_x), (dilation_y, dilation_x) = layer.strides, layer.dilations
        pads = _pads(layer, stride_y - 1, stride_x - 1)
        add, depthwise = layer.op == "add", layer.depthwise
        copies = layer.groups if layer.op == "matmul" or layer.grouped else 1
        return Shape(
            k=layer.k // copies,
            c=1 if add or depthwise else layer.c // copies,
            fy=1 if add else layer.fy,
            fx=1 if add else layer.fx,
            oy=layer.oy,
            ox=layer.ox,
            stride_y=1 if add else stride_y,
            stride_x=1 if add else stride_x,
            dilation_y=1 if add else dilation_y,
            dilation_x=1 if add else dilation_x,
            pad_top=0 if add else pads[0],
            pad_bottom=0 if add else pads[1],
            pad_left=0 if add else pads[2],
            pad_right=0 if add else pads[3],
            depthwise=int(add or depthwise),
            gemm=int(is_product(layer)),
            add=int(add),
            operands=len(layer.inputs) if add else 1,
            copies=copies * layer.n,
            calls=copies - 1 if layer.grouped else 0,
            most_pad=0 if add else max(pads),
        )

    @property
    def reach_y(self) -> Num:
        """Rows from the first tap of a filter to its last."""
        return _reach(self.fy, self.dilation_y)

    @property
    def reach_x(self) -> Num:
        """Columns from the first tap of a filter to its last."""
        return _reach(self.fx, self.dilation_x)


def _reach(taps: Num, dilation: Num) -> Num:
    """Rows or columns that so many taps lie over."""
    return taps + (dilation - 1) * (taps - 1)


def is_product(layer: Layer) -> bool:
    """Whether a layer runs as a matrix product, its pixels the rows."""
    stride_x = layer.strides[1]
    unlike = layer.op not in ("conv", "matmul") or layer.depthwise or max(_pads(layer, 0, stride_x - 1))
    return not unlike and layer.oy == layer.fy == layer.fx == stride_x == 1


def in_rows(layer: Layer) -> bool:
    """Whether a batch of a layer is one matrix product, its images the rows: a dense layer's."""
    return layer.op == "conv" and layer.n > 1 and layer.groups == layer.iy == layer.ix == layer.oy == layer.ox == 1


def as_rows(layer: Layer) -> Layer:
    """A layer with the images of its batch as rows, where it is `in_rows`."""
    return replace(layer, n=1, ox=layer.n, ix=layer.n) if in_rows(layer) else layer


def tile_in_rows(layer: Layer, tile: Extent) -> Extent:
    """A tile of such a layer in the same terms."""
    return replace(tile, n=1, ox=tile.n) if in_rows(layer) else tile


def shape_of(layer: Layer) -> Shape:
    """The extents of a layer that goes through the array's memories, poolings included: these work as additions do,
    in accumulator and store controller, but on windows."""
    layer = as_rows(layer)
    if layer.op not in POOLS:
        return Shape.of(layer)
    as_conv = replace(layer, op="conv", c=layer.k, groups=layer.k)
    top, bottom, left, right = pads = _pads(layer, 0, 0)
    return replace(
        Shape.of(as_conv), depthwise=1, gemm=0, c=1, add=1, pad_top=top, pad_bottom=bottom, pad_left=left,
        pad_right=right, most_pad=max(pads),
    )  # fmt: skip


def _pads(layer: Layer, spare_y: int, spare_x: int) -> tuple[int, int, int, int]:
    """Rows above and below and columns left and right of the input that windows reach; spare: that they are longer."""
    down = layer.input_rows(layer.oy) + spare_y - layer.pad_y - layer.iy
    right = layer.input_cols(layer.ox) + spare_x - layer.pad_x - layer.ix
    return layer.pad_y, max(0, down), layer.pad_x, max(0, right)


@dataclass(frozen=True)
class Tiles:
    """Extents of a tile along the dimensions of a nest; arrays or tensors broadcast against a Shape's."""

    k: Num
    c: Num
    fy: Num
    fx: Num
    oy: Num
    ox: Num

    @staticmethod
    def of(tile: Extent) -> Tiles:
        return Tiles(tile.k, tile.c, tile.fy, tile.fx, tile.oy, tile.ox)


def nest_order(plan: LayerPlan) -> tuple[str, ...]:
    """The loops around the tiles of one image, outermost first."""
    return tuple(d for d in plan.loops if d in NEST_DIMS)


@dataclass(frozen=True)
class Reloads:
    """How often each byte of weights, of inputs and each partial sum comes to the scratchpad or accumulator.

    at_once: of the times that weights come, those in which the tile before had the same. k_outside, k_innermost: 1
    where the loop over output channels stands outside those over pixels, or inside all others, else 0: on that depends
    how much lies between two uses of a byte. beside: bytes of other layers that come between two uses of weights,
    in a fused group."""

    weights: Num
    inputs: Num
    outputs: Num
    at_once: Num = 0
    k_outside: Num = 0
    k_innermost: Num = 0
    beside: Num = 0


@dataclass(frozen=True)
class Flow:
    """Where a layer's tensors come from and go to. dram_in: operands that come from DRAM (1; of an addition up to 2;
    0 within a group); spad_in: operands of an addition that come from the scratchpad. dram_out, spad_out: 1 where
    the result goes there. keep: 1 where rows that the next tile reads again stay (a line buffer), else 0."""

    dram_in: Num = 1
    spad_in: Num = 0
    dram_out: Num = 1
    spad_out: Num = 0
    keep: Num = 0


@dataclass(frozen=True)
class CachedTerms:
    """What a layer costs, before composition; all fields are sums. Cycles of the units (`array`: of an ideal array),
    bytes, 8-bit words accessed. stages: pieces of work that can overlap; mvins: loads of up to `side` rows;
    latency: what a tile waits for its first load and for its last sums, over all tiles."""

    array: Num
    execute: Num
    load: Num
    store: Num
    software: Num
    first_bytes: Num  # loaded or stored for the first time ...
    again_bytes: Num  # ... and read or written again
    lost_bytes: Num  # of these what the L2 should have lost by then
    split_bytes: Num  # the same of lines that are asked for in parts: what a part brings besides itself
    stages: Num
    mvins: Num
    latency: Num
    macs: Num
    register_words: Num
    accumulator_words: Num
    scratchpad_words: Num
    moved_bytes: Num  # between the L2 and the array's memories

    def __add__(self, other: CachedTerms) -> CachedTerms:
        return CachedTerms(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(CachedTerms)))

    def scaled(self, factor: Num) -> CachedTerms:
        return CachedTerms(*(getattr(self, f.name) * factor for f in fields(CachedTerms)))


def along(extent: Num, tile: Num, f: Callable[[Num], Num], xp: Any) -> Num:
    """The sum of f over the tiles along one dimension, the last one smaller where need be; f(0) must be 0."""
    whole = xp.floordiv(extent, tile)
    return whole * f(tile) + f(extent - whole * tile)


def counts(shape: Shape, tiles: Tiles, xp: Any) -> dict[str, Num]:
    """Tiles along each dimension."""
    return {d: xp.ceildiv(getattr(shape, d), getattr(tiles, d)) for d in NEST_DIMS}


def _again(loops: Sequence[str], n: dict[str, Num], relevant: frozenset[str], xp: Any) -> Num:
    """How often an operand comes: the product of the loops it does not depend on and that have one inside that it does.

    loops: outermost first.
    """
    out: Num = 1
    inner: Num = 1
    for d in reversed(loops):
        if d in relevant:
            inner = inner * n[d]
        else:
            out = out * xp.where(inner > 1, n[d], 1 + 0 * n[d])
    return out


_OF_WEIGHTS = frozenset(("k", "c", "fy", "fx"))
_OF_INPUTS = frozenset(("c", "fy", "fx", "oy", "ox"))
_OF_OUTPUTS = frozenset(("k", "oy", "ox"))


def reloads(shape: Shape, tiles: Tiles, order: Sequence[str], xp: Any) -> Reloads:
    """How often the operands come under one order of the software loops."""
    n = counts(shape, tiles, xp)
    inputs = _again(order, n, _OF_INPUTS, xp)
    return Reloads(
        _again(order, n, _OF_WEIGHTS, xp),
        xp.where(shape.depthwise > 0, 1 + 0 * inputs, inputs),  # there inputs depend on every loop
        _again(order, n, _OF_OUTPUTS, xp),
        k_outside=int(order.index("k") < order.index("oy")),
        k_innermost=int(order[-1] == "k"),
    )


def every_tile(shape: Shape, tiles: Tiles, xp: Any) -> Reloads:
    """How often the operands come where every tile loads its own, whatever the tile before had, as Gemmini's library
    and the programs of the RTL measurements do; partial sums stay."""
    n = counts(shape, tiles, xp)
    inputs = n["k"]
    return Reloads(n["oy"] * n["ox"], xp.where(shape.depthwise > 0, 1 + 0 * inputs, inputs), 1 + 0 * inputs)


def plan_reloads(plan: LayerPlan, shape: Shape, tiles: Tiles, xp: Any) -> Reloads:
    """How often the operands come under a plan, by its order or, without reuse, for every tile."""
    again = reloads(shape, tiles, nest_order(plan), xp)
    if plan.reuse:
        return again
    each = every_tile(shape, tiles, xp)
    return replace(again, weights=each.weights, inputs=each.inputs, at_once=each.weights - again.weights)


def mixed(parts: Sequence[Reloads], weights: Sequence[Num]) -> Reloads:
    """Reloads under a soft choice of orders."""

    def mix(name: str) -> Num:
        return sum(w * getattr(r, name) for r, w in zip(parts, weights, strict=True))

    return Reloads(*(mix(f.name) for f in fields(Reloads)))


def _span(out: Num, stride: Num, taps: Num, dilation: Num, add: Num) -> Num:
    """Input rows that come for `out` output rows and so many filter rows: the hardware's loop brings stride - 1 more
    than a window needs, and the library counts with them; a pooling has no such loop. Of dilated filters the rows
    between taps come too."""
    return (out - 1) * stride + _reach(taps, dilation) + _spare(stride, add)


def _spare(stride: Num, add: Num) -> Num:
    return (stride - 1) * (1 - add)


@dataclass(frozen=True)
class _Axis:
    """One direction of a layer and its tiles: outputs, taps, and how many of each a tile has; how far windows are
    apart, and the taps of one. spare: rows (or columns) that come beyond a window. pads: rows before and behind the
    input that are asked for."""

    out: Num
    tile: Num
    taps: Num
    tap_tile: Num
    stride: Num
    dilation: Num
    spare: Num
    pads: tuple[Num, Num]
    most_pad: int

    def tiles(self, xp: Any) -> tuple[Num, Num]:
        """Tiles along outputs and along taps."""
        return xp.ceildiv(self.out, self.tile), xp.ceildiv(self.taps, self.tap_tile)


def _axes(shape: Shape, tiles: Tiles) -> tuple[_Axis, _Axis]:
    """Rows and columns."""
    return (
        _Axis(
            shape.oy, tiles.oy, shape.fy, tiles.fy, shape.stride_y, shape.dilation_y,
            _spare(shape.stride_y, shape.add), (shape.pad_top, shape.pad_bottom), shape.most_pad,
        ),
        _Axis(
            shape.ox, tiles.ox, shape.fx, tiles.fx, shape.stride_x, shape.dilation_x,
            _spare(shape.stride_x, shape.add), (shape.pad_left, shape.pad_right), shape.most_pad,
        ),
    )  # fmt: skip


def _rows_read(at: _Axis, keep: Num, xp: Any) -> Num:
    """Input rows (or columns) that all tiles along one direction read, without those in the padding.

    keep: of two tiles that follow each other, whether the second reads the rows under both again (0) or not (1).
    """
    n, taps = at.tiles(xp)
    total = (at.out - n) * at.stride * taps + n * at.taps + n * taps * at.spare
    total = total + n * (at.dilation - 1) * (at.taps - taps)
    both = _reach(at.taps, at.dilation) + at.spare - at.stride
    total = total - keep * (n - 1) * xp.maximum(both, 0 * at.stride)
    for beyond, span in _at_edges(at, xp):
        total = total - xp.minimum(xp.maximum(beyond, 0 * beyond), span)
    return total


def _rows_wrapped(at: _Axis, xp: Any) -> Num:
    """Rows (or columns) that tiles load whose windows lie in the padding alone: the hardware's count of those that are
    not padding is negative there, and has 16 bits."""
    total: Num = 0
    for beyond, span in _at_edges(at, xp):
        total = total + xp.where(beyond > span, COUNTER + span - beyond, 0 * beyond)
    return total


def _at_edges(at: _Axis, xp: Any) -> Iterator[tuple[Num, Num]]:
    """Of the tiles next to an edge: how far their windows reach beyond it (0 or less: not at all, or there is no such
    tile), and how long these are."""
    n, taps = at.tiles(xp)
    tile, stride, dilation = at.tile, at.stride, at.dilation
    last, last_tap = at.out - (n - 1) * tile, at.taps - (taps - 1) * at.tap_tile
    for i in range(_tiles_beyond(at.most_pad, stride)):
        for j in range(_tiles_beyond(at.most_pad, dilation)):
            there = xp.where(n > i, 1, 0) * xp.where(taps > j, 1, 0)
            size, tap = xp.where(n - 1 > i, tile, last), xp.where(taps - 1 > j, at.tap_tile, last_tap)
            before = at.pads[0] - i * tile * stride - j * at.tap_tile * dilation
            yield there * before, (size - 1) * stride + _reach(tap, dilation) + at.spare
            size, tap = (tile if i else last), (at.tap_tile if j else last_tap)
            behind = (last + (i - 1) * tile) * stride if i else 0
            tap_behind = (last_tap + (j - 1) * at.tap_tile) * dilation if j else 0
            yield there * (at.pads[1] - behind - tap_behind), (size - 1) * stride + _reach(tap, dilation) + at.spare


def _tiles_beyond(most_pad: int, step: Num) -> int:
    """How many tiles, each at least `step` long, may begin in the padding."""
    return -(-most_pad // step) if isinstance(step, int) else most_pad


def _chunk_rows(ox: Num, machine: Machine, gemm: Num, xp: Any) -> Num:
    """Cycles for a row of pixels through the array: chunks of `side`, a short one at least min_rows (a GEMM's short
    one streams as many rows as its first)."""
    side, least = machine.side, machine.min_rows
    rest = ox - xp.floordiv(ox, side) * side
    conv = ox - rest + xp.where(rest > 0, xp.maximum(rest, least + 0 * rest), 0 * rest)
    matmul = xp.ceildiv(ox, side) * xp.maximum(xp.minimum(ox, side + 0 * ox), least + 0 * ox)
    return xp.where(gemm > 0, xp.where(ox > 0, matmul, 0 * ox), conv)


def terms(
    shape: Shape, tiles: Tiles, again: Reloads, machine: Machine, xp: Any = exact, flow: Flow | None = None
) -> CachedTerms:
    """The costs of a layer under tiles and reloads; `flow` for a layer of a fused group."""
    flow = flow or Flow()
    side = machine.side
    n = counts(shape, tiles, xp)
    spatial, reductions = n["oy"] * n["ox"], n["c"] * n["fy"] * n["fx"]
    pixels, taps = shape.oy * shape.ox, shape.fy * shape.fx
    works = 1 - shape.add
    k_blocks = along(shape.k, tiles.k, lambda x: xp.ceildiv(x, side), xp)
    c_blocks = along(shape.c, tiles.c, lambda x: xp.ceildiv(x, side), xp)
    k_parts = along(shape.k, tiles.k, lambda x: xp.ceildiv(x, machine.mvin_bytes), xp)

    # --- execute
    columns = xp.where(shape.depthwise > 0, shape.k, k_blocks)  # of weight blocks
    chunk_rows = along(shape.ox, tiles.ox, lambda x: _chunk_rows(x, machine, shape.gemm, xp), xp)
    chunks = along(shape.ox, tiles.ox, lambda x: xp.ceildiv(x, side), xp)
    first = xp.maximum(xp.minimum(tiles.ox, side + 0 * tiles.ox), machine.min_rows + 0 * tiles.ox)
    preload = _excess(shape, tiles, first, side, xp) * spatial * (1 - shape.gemm) * (1 - shape.depthwise)
    rows = columns * taps * (c_blocks * shape.oy * chunk_rows + preload)
    pairs = columns * taps * c_blocks * shape.oy * chunks
    execute = xp.maximum(rows, pairs * machine.pair_cycles) * works

    # --- traffic
    weights = shape.k * shape.c * taps * works
    channels = xp.where(shape.depthwise > 0, shape.k, shape.c)
    channel_tile = xp.where(shape.depthwise > 0, tiles.k, tiles.c)
    rows, cols = _axes(shape, tiles)
    in_rows, in_cols = _rows_read(rows, flow.keep, xp), _rows_read(cols, 0, xp)
    in_pixels = in_rows * in_cols
    more_y, more_x = _rows_wrapped(rows, xp), _rows_wrapped(cols, xp)
    wrapped = more_y * in_cols + more_x * in_rows + more_y * more_x
    wrapped = wrapped * again.inputs * flow.dram_in * works
    once_y = _span(shape.oy, shape.stride_y, shape.fy, shape.dilation_y, shape.add) - shape.pad_top - shape.pad_bottom
    once_x = _span(shape.ox, shape.stride_x, shape.fx, shape.dilation_x, shape.add) - shape.pad_left - shape.pad_right
    in_once = once_y * once_x * channels
    weight_bytes = weights * again.weights
    input_bytes = in_pixels * channels * again.inputs * flow.dram_in
    outputs = shape.k * pixels
    spilled = outputs * (again.outputs - 1)  # partial sums that leave, and come back
    output_bytes = outputs * flow.dram_out + spilled * PARTIAL_BYTES
    loaded = weight_bytes + input_bytes + spilled * PARTIAL_BYTES
    first_in = xp.minimum(input_bytes, in_once * flow.dram_in)
    first_out = xp.minimum(spilled, outputs) * PARTIAL_BYTES  # where sums are put for the first time
    line_bytes = xp.minimum(channels + 0.0 * wrapped, _line_bytes(channel_tile, channels, machine.line_bytes, xp))
    first_bytes = weights + first_in + outputs * flow.dram_out + first_out + wrapped * line_bytes * n["c"]
    lost = _lost(shape, tiles, again, machine, xp)
    sums_again = 2 * spilled * PARTIAL_BYTES - first_out
    again_bytes = (weight_bytes - weights) + (input_bytes - first_in) + sums_again
    lost_bytes = (weight_bytes - weights * (1 + again.at_once)) * lost.weights + weights * again.at_once * lost.at_once
    lost_bytes = lost_bytes + (input_bytes - first_in) * lost.inputs + sums_again * lost.outputs

    # --- load and store: beats of the bus, and requests
    weight_rows = shape.c * taps * again.weights * works
    w_beats = weight_rows * along(shape.k, tiles.k, lambda x: _row_cycles(x, shape.gemm, machine, xp), xp)
    moved = in_pixels * again.inputs + wrapped
    channel_beats = along(channels, channel_tile, lambda x: _row_cycles(x, shape.gemm, machine, xp), xp)
    i_beats = moved * channel_beats * (flow.dram_in + flow.spad_in)
    i_requests = moved * along(channels, channel_tile, lambda x: xp.ceildiv(x, machine.mvin_bytes), xp) * flow.dram_in
    partial = spilled * PARTIAL_BYTES
    load = w_beats + i_beats + partial / machine.beat_bytes
    cols = _span(tiles.ox, shape.stride_x, tiles.fx, shape.dilation_x, shape.add)
    mvins = taps * k_parts * c_blocks * again.weights * works + i_requests / xp.minimum(cols, side + 0 * cols)
    result_rows = pixels * k_blocks
    request_bytes = min(machine.mvin_bytes, machine.line_bytes)
    k_requests = along(shape.k, tiles.k, lambda x: xp.ceildiv(x, request_bytes), xp)
    st_requests = pixels * xp.where(shape.gemm > 0, k_requests, k_blocks) * flow.dram_out
    store = result_rows * (flow.dram_out + flow.spad_out) + st_requests * machine.store_request_cycles
    store = store + partial * (1 / machine.beat_bytes + machine.store_request_cycles / request_bytes)

    # --- lines that narrow rows take a part of
    k_rest = along(shape.k, tiles.k, lambda x: xp.ceildiv(x, machine.line_bytes), xp) - shape.k / machine.line_bytes
    k_rest = xp.where(tiles.k < shape.k, k_rest, 0 * k_rest)
    channel_rest = along(channels, channel_tile, lambda x: xp.ceildiv(x, machine.line_bytes), xp)
    channel_rest = channel_rest - channels / machine.line_bytes
    channel_rest = xp.where(channel_tile < channels, channel_rest, 0 * channel_rest)
    split = weight_rows * k_rest * lost.weight_parts + moved * channel_rest * flow.dram_in * lost.input_parts
    split = split + pixels * k_rest * flow.dram_out * lost.output_parts
    split_bytes = machine.line_bytes * split

    # --- software and stages
    n_tiles = n["k"] * reductions * spatial
    tile_cycles = xp.where(shape.gemm > 0, machine.gemm_tile_cycles, machine.conv_tile_cycles)
    groups = xp.where(shape.gemm > 0, xp.ceildiv(tiles.c, machine.mvin_bytes), 1)

    # --- accesses
    reads = xp.where(shape.depthwise > 0, shape.k, shape.c * k_blocks) * pixels * taps  # of inputs
    reads = xp.where(shape.add > 0, outputs * flow.spad_in, reads)
    sums = xp.where(shape.add > 0, shape.operands * outputs, 2 * outputs * taps * c_blocks)
    weight_reads = weights * spatial
    macs = outputs * shape.c * taps * works
    one = CachedTerms(
        array=columns * taps * c_blocks * pixels * works,
        execute=execute,
        load=load,
        store=store,
        software=n_tiles * tile_cycles,
        first_bytes=first_bytes,
        again_bytes=again_bytes,
        lost_bytes=lost_bytes,
        split_bytes=split_bytes,
        stages=n_tiles * groups,
        mvins=mvins,
        latency=n_tiles * machine.setup_cycles + n["k"] * spatial * again.outputs * machine.drain_cycles,
        macs=macs,
        register_words=macs + weight_reads,
        accumulator_words=sums + outputs + 2 * spilled,
        scratchpad_words=reads + weight_reads + weight_bytes + input_bytes * works + outputs * flow.spad_out,
        moved_bytes=loaded + output_bytes,
    )
    all_of_them = one.scaled(shape.copies)
    return replace(all_of_them, software=all_of_them.software + shape.calls * machine.start_cycles)


def _row_cycles(n_bytes: Num, gemm: Num, machine: Machine, xp: Any) -> Num:
    """Cycles of a row of a tile on the return path: its beats, and where it does not begin at one, two more for each
    mvin that spans it, a mean over where the windows of its requests begin; of rows narrower than a beat a part."""
    beats, mvins = xp.ceildiv(n_bytes, machine.beat_bytes), xp.ceildiv(n_bytes, machine.mvin_bytes)
    spare = xp.minimum(2.0 * mvins, 2.0 * n_bytes / machine.beat_bytes)
    offsets = machine.gemm_offset_bytes, machine.conv_offset_bytes
    product, other = (float(offset % machine.beat_bytes > 0) for offset in offsets)
    shifted = gemm * product + (1 - gemm) * other
    return beats + spare * shifted


@dataclass(frozen=True)
class _Lost:
    """Shares of what the L2 has lost by the time it is asked for again: of weights, weights that the tile before had,
    inputs and partial sums; and of lines of rows of weights, inputs and outputs, when their next part is."""

    weights: Num
    at_once: Num
    inputs: Num
    outputs: Num
    weight_parts: Num
    input_parts: Num
    output_parts: Num


def _lost(shape: Shape, tiles: Tiles, again: Reloads, machine: Machine, xp: Any) -> _Lost:
    """What is lost is what lay too far back: what the software loops go over between two uses, in all of the L2, or in
    the sets that rows so far apart come to lie in."""
    line, l2 = machine.line_bytes, machine.l2_bytes
    channels = xp.where(shape.depthwise > 0, shape.k, shape.c)
    deep = xp.where(shape.depthwise > 0, tiles.k, tiles.c)
    reduction, pixels = shape.c * shape.fy * shape.fx, shape.oy * shape.ox
    in_pixels = pixels * shape.stride_y * shape.stride_x
    weights, inputs, outputs = reduction * shape.k, in_pixels * channels, pixels * shape.k
    rows = (tiles.oy - 1) * shape.stride_y + _reach(tiles.fy, shape.dilation_y)
    cols = (tiles.ox - 1) * shape.stride_x + _reach(tiles.fx, shape.dilation_x)
    region = rows * cols * channels
    wide, tall = _line_bytes(tiles.k, shape.k, line, xp), _line_bytes(deep, channels, line, xp)
    sets = machine.l2_bytes // (line * machine.l2_ways)
    k_sets = l2 * _sets(shape.k, tiles.k, sets, line, xp)
    c_sets = l2 * _sets(channels, deep, sets, line, xp)
    outside = again.k_outside
    column, part = reduction * wide, tiles.c * tiles.fy * tiles.fx * wide  # lines of a column of tiles, and of one tile
    between = again.k_innermost * part + (1 - again.k_innermost) * (column + outside * inputs)
    return _Lost(
        weights=_over(weights + region + again.beside, l2, xp),
        at_once=_over(part, k_sets, xp),
        inputs=outside * _over(weights + inputs + outputs, l2, xp) + (1 - outside) * _over(region + column, l2, xp),
        outputs=_over(weights + inputs + outputs, l2, xp),
        weight_parts=_over(between, k_sets, xp),
        input_parts=outside * _over(in_pixels * tall, c_sets, xp),
        output_parts=outside * _over(pixels * wide + inputs, l2, xp),
    )


def _over(n_bytes: Num, capacity: Num, xp: Any) -> Num:
    """The part that is missing when so many bytes are gone over again and again under random replacement.

    That is the m with 1 - m = exp(-m n / capacity); the square is within 0.06 of it.
    """
    left = capacity / xp.maximum(n_bytes, capacity, 1)  # a part without channels goes over nothing
    return 1 - left * left


def _sets(stride: Num, wide: Num, sets: int, line: int, xp: Any) -> Num:
    """The part of a cache's sets that rows of `wide` bytes, `stride` bytes apart, come to lie in."""
    step, lines = 1 + 0 * stride, xp.ceildiv(wide, line)
    while sets > 1:  # the largest power of two that divides the stride in lines
        divides = xp.where(stride - 2 * step * line * xp.floordiv(stride, 2 * step * line) > 0, 0, 1)
        step, sets = step * (1 + divides), sets // 2
    return xp.minimum(lines / step, 1.0 + 0 * lines / step)


def _line_bytes(wide: Num, stride: Num, line: int, xp: Any) -> Num:
    """Bytes of the lines that a row of so many bytes takes a part of; neighbours share one where the stride is less
    than a line."""
    return xp.minimum(xp.ceildiv(wide, line) * line * 1.0, stride + 0.0 * wide)


def _excess(shape: Shape, tiles: Tiles, first: Num, side: int, xp: Any) -> Num:
    """Rows that weights take to come in beyond those that the pixels of the block before take, over all c blocks."""

    def of_tile(c: Num) -> Num:
        full = xp.floordiv(c, side)
        rest = c - full * side
        return full * xp.maximum(side - first, 0 * first) + xp.maximum(rest - first, 0 * first)

    return along(shape.c, tiles.c, of_tile, xp)


def rows_needed(shape: Shape, tiles: Tiles, machine: Machine, xp: Any = exact) -> tuple[Num, Num]:
    """Rows of scratchpad and of accumulator that one tile fills. A double-buffered mapping may take half of each."""
    side = machine.side
    channel_tile = xp.where(shape.depthwise > 0, tiles.k, tiles.c)
    rows = _span(tiles.oy, shape.stride_y, tiles.fy, shape.dilation_y, shape.add)
    cols = _span(tiles.ox, shape.stride_x, tiles.fx, shape.dilation_x, shape.add)
    inputs = xp.ceildiv(channel_tile, side) * rows * cols
    weights = xp.ceildiv(tiles.k, side) * tiles.c * tiles.fy * tiles.fx
    works = 1 - shape.add
    return (inputs + weights) * works, xp.ceildiv(tiles.k, side) * tiles.oy * tiles.ox


def outer_bytes(t: CachedTerms, theta: Theta) -> Num:
    """Bytes of lines that the L2 misses."""
    return t.first_bytes + theta.reload_miss * t.lost_bytes + theta.split_miss * t.split_bytes


def _array_pj(t: CachedTerms, machine: Machine) -> Num:
    """Energy of the array and its memories."""
    return (
        t.macs * machine.mac_pj
        + t.register_words * machine.register_pj
        + t.accumulator_words * machine.accumulator_pj
        + t.scratchpad_words * machine.scratchpad_pj
    )


def energy_pj(t: CachedTerms, machine: Machine, theta: Theta) -> Num:
    """Energy of what the terms count, as the module docstring has it."""
    return (
        _array_pj(t, machine)
        + t.moved_bytes * (machine.l2_pj + machine.return_link_pj)
        + outer_bytes(t, theta) * (machine.l2_pj + machine.llc_pj + machine.outer_link_pj)
        + t.first_bytes * (machine.llc_pj + machine.dram_pj + machine.dram_link_pj)
    )


def busy_cycles(t: CachedTerms, machine: Machine, theta: Theta, xp: Any) -> tuple[Num, Num, Num, Num]:
    """Cycles of (execute, load and what it waits for outside, store, software)."""
    outer = outer_bytes(t, theta)
    load = t.load + outer * (machine.fill_cycles / machine.line_bytes)
    load = xp.maximum(load, (load + t.mvins * machine.setup_cycles) / machine.mvins_in_flight) * theta.load
    links = outer * machine.outer_cycles_per_byte, t.first_bytes * machine.dram_cycles_per_byte
    longer = xp.maximum(*links)
    load = xp.maximum(load, longer + theta.fetch * (links[0] + links[1] - longer))
    return t.execute, load, t.store * theta.store, t.software


def cycles(t: CachedTerms, machine: Machine, theta: Theta, xp: Any = exact, double: Num = 1) -> Num:
    """Cycles of one layer, or of a fused group whose terms were summed.

    double: 1 where tiles are double-buffered; 0 where load, execute and store of a tile follow each other.
    """
    parts = busy_cycles(t, machine, theta, xp)
    total = parts[0] + parts[1] + parts[2] + parts[3]
    chain = parts[0] + parts[1] + parts[2] + t.latency  # of one tile after the other
    most = xp.maximum(*parts, chain / machine.tiles_in_flight)
    stages = xp.maximum(t.stages, 1 + 0 * t.stages)
    exposed = theta.unhidden + (1 - theta.unhidden) / stages
    exposed = exposed * double + (1 - double)
    return most + xp.maximum(total - most, 0 * most) * exposed + machine.start_cycles + machine.drain_cycles


def roofline_energy_pj(t: CachedTerms, machine: Machine) -> Num:
    """DOSA's energy: by its table, which knows no caches, so that every byte moved is one of the DRAM."""
    return _array_pj(t, machine) + t.moved_bytes * machine.dram_pj


def roofline_cycles(t: CachedTerms, machine: Machine, xp: Any = exact) -> Num:
    """DOSA's latency: the slowest of an ideal array and of accumulator, scratchpad and DRAM at 2 side, 2 side and 8
    words a cycle."""
    side = machine.side
    return xp.maximum(
        t.array * 1.0, t.accumulator_words / (2 * side), t.scratchpad_words / (2 * side), t.moved_bytes / 8.0
    )


@dataclass(frozen=True)
class NestCost:
    """What one mapped layer costs. cycles and energy as the docstring of the module has them."""

    cycles: Num
    energy_pj: Num
    terms: CachedTerms
    spad_rows: Num
    acc_rows: Num


def estimate_nest(
    layer: Layer, plan: LayerPlan, machine: Machine, theta: Theta | None = None, xp: Any = exact,
    channels: Num = None,
) -> NestCost:  # fmt: skip
    """The cost of one layer of a network under a tiled plan, not fused. channels: in place of the layer's own."""
    shape, tiles = shape_of(layer), Tiles.of(tile_in_rows(layer, plan.tile))
    if channels is not None and layer.grouped:
        groups = channels / shape.k
        shape = replace(shape, copies=groups * layer.n, calls=groups - 1)
    elif channels is not None:
        shape = replace(shape, k=channels * layer.n / shape.copies if layer.op == "matmul" else channels)
    again = plan_reloads(plan, shape, tiles, xp)
    t = terms(shape, tiles, again, machine, xp, Flow(dram_in=shape.operands))
    spad, acc = rows_needed(shape, tiles, machine, xp)
    theta = theta or Theta()
    return NestCost(cycles(t, machine, theta, xp), energy_pj(t, machine, theta), t, spad, acc)


def stacked(shapes: Sequence[Shape], stack: Callable[[Sequence[Any]], Any]) -> Shape:
    """One Shape of many: `stack` makes an array or tensor of each field's figures."""
    fused = {f.name: stack([getattr(s, f.name) for s in shapes]) for f in fields(Shape) if f.name != "most_pad"}
    return replace(shapes[0], **fused, most_pad=max(s.most_pad for s in shapes))
