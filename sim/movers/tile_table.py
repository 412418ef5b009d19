"""Tiles as rows of a table: what each spans, which operands come for it, and how its results leave.

A layer by itself is cut and ordered as its mapping says; `walk` tells which operands differ from the tile before and
which partial sums leave and come back. A fused group goes step by step (a tile of its last layer), in a step layer by
layer, and in a layer by its channels: inputs come once a step, weights once a tile, or once for all where they stay.

A table holds integers only, so that one kernel walks all of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cosoc.sim.lower import walk
from cosoc.sim.model.mapping import DIMS, PARTIAL_BYTES, Extent
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import (
    ARRAY_OPS,
    COUNTER,
    POOLS,
    Machine,
    as_rows,
    in_rows,
    is_product,
    shape_of,
    tile_in_rows,
)
from cosoc.sim.movers.fused_steps import Chain, Stretch, step_spans

Ints = npt.NDArray[np.int64]

# Columns of a table. MEMBER: row of the members' figures. N0 .. OX: first index and size along each dimension. ROW ..
# COL_END: input rows and columns that exist, [first, end). WRAPPED: pixels of a window that lies in the padding (see
# `window`). WEIGHTS, INPUTS, SUMS: 1 where weights, inputs from memory and partial sums come for the tile; INSIDE:
# operands that lie in the scratchpad. BEGINS: 1 where it takes another part of the accumulator than the tile before.
# LEAVES: bytes of each result that goes to memory (0: none does); MOVES: 1 where results go to the scratchpad. ENDED:
# software loops that end before it. AFTER: the tile whose results must be in the scratchpad, or -1. TOP .. RIGHT: rows
# and columns of its windows in the padding around the input, which are written as zeros. CALL: 1 where the library is
# called anew for it, after the layer's first call.
(
    MEMBER, N0, N, K0, K, C0, C, FY0, FY, FX0, FX, OY0, OY, OX0, OX, ROW, ROW_END, COL, COL_END, WRAPPED, WEIGHTS,
    INPUTS, INSIDE, SUMS, BEGINS, LEAVES, MOVES, ENDED, AFTER, TOP, BOTTOM, LEFT, RIGHT,
    CALL,
) = range(34)  # fmt: skip
COLUMNS = 34
_AT = {"n": (N0, N), "k": (K0, K), "c": (C0, C), "fy": (FY0, FY), "fx": (FX0, FX), "oy": (OY0, OY), "ox": (OX0, OX)}

# Columns of the members' figures. Pitches are bytes from one pixel of inputs or outputs, or one input channel of the
# weights, to the next; *_IMAGE: from one image to the next. *_AT: addresses. C_ALL, FX_ALL, IX, OX_ALL: extents of the
# layer. OPERAND, OPERANDS: where the addresses of its inputs from memory begin, and how many they are.
(
    GEMM, OWN, ADDS, K_PITCH, C_ALL, FX_ALL, IX, IN_PITCH, OX_ALL, OUT_PITCH, IN_IMAGE, OUT_IMAGE, WEIGHTS_AT, OUT_AT,
    SUMS_AT, OPERAND, OPERANDS, TAPS, W_IMAGE,
) = range(19)  # fmt: skip
FIGURES = 19


@dataclass(frozen=True)
class Tiled:
    """Tiles in the order in which they run: table [tiles, COLUMNS], members [members, FIGURES], operands: addresses of
    inputs, which the members number."""

    table: Ints
    members: Ints
    operands: Ints


class Addresses:
    """Where the tensors of a network lie in main memory: one after another, each a number of bytes behind a line; last
    of all the partial sums of whichever layer has some."""

    def __init__(
        self, tensors: Mapping[str, tuple[int, int]], weights: Mapping[str, tuple[int, int]], line_bytes: int
    ) -> None:
        """tensors, weights: bytes, and how far behind a line they begin, by the name of a tensor, and of a layer."""
        self.tensor: dict[str, int] = {}
        self.weights: dict[str, int] = {}
        at = 0
        for where, sizes in ((self.tensor, tensors), (self.weights, weights)):
            for name, (size, offset) in sizes.items():
                where[name] = at + offset
                at += -(-max(offset + size, 1) // line_bytes) * line_bytes
        self.sums = at

    @staticmethod
    def of(workload: Workload, machine: Machine) -> Addresses:
        """Those of a network. A tensor lies as those of convolutions do, unless only products read it, or, where
        nothing of the array reads it, a product makes it."""
        offsets = machine.conv_offset_bytes, machine.gemm_offset_bytes
        mine = [layer for layer in workload if layer.op in (*ARRAY_OPS, *POOLS)]
        products = {layer.name: is_product(layer) for layer in mine}
        read = {source: True for layer in mine for source in layer.inputs}
        for layer in mine:
            for source in layer.inputs:
                read[source] &= products[layer.name]
        tensors = workload.incoming | {layer.name: layer.outputs for layer in workload if not layer.into}
        out = Addresses(
            {name: (size, offsets[read.get(name, products.get(name, False))]) for name, size in tensors.items()},
            {
                layer.name: (layer.weights, offsets[products.get(layer.name, False)])
                for layer in workload
                if not layer.weights_of
            },
            machine.line_bytes,
        )
        out.tensor |= {layer.name: out.tensor[layer.into] for layer in workload if layer.into}
        out.weights |= {layer.name: out.weights[layer.weights_of] for layer in workload if layer.weights_of}
        return out


def figures_of(layer: Layer, addresses: Addresses, copy: int = 0, inputs: Sequence[str] = ()) -> list[int]:
    """A member's figures but for OPERAND and OPERANDS. copy: of a product's heads, or a convolution's groups, whose
    weights lie group after group."""
    shape = shape_of(layer)
    second = addresses.tensor[layer.inputs[1]] if layer.op == "matmul" else addresses.weights[layer.name]
    first_out, taps = copy * shape.k, layer.fy * layer.fx
    return [
        shape.gemm, shape.depthwise, shape.add, shape.k, shape.c, shape.fx, layer.ix, layer.c, layer.ox, layer.k,
        layer.c * layer.iy * layer.ix, layer.k * layer.oy * layer.ox, second + copy * shape.k * shape.c * taps,
        addresses.tensor[layer.name] + first_out, addresses.sums + first_out * PARTIAL_BYTES, 0, len(inputs),
        taps if shape.add else 1, layer.k * shape.c if layer.op == "matmul" else 0,
    ]  # fmt: skip


def of_layer(
    layer: Layer, tile: Extent, order: Sequence[str], reuse: bool, addresses: Addresses, first: int = 0,
    channels: int | None = None,
) -> Tiled:  # fmt: skip
    """A layer by itself, or `channels` of its output channels from `first` on; its heads or groups one after the other.

    order: the loops around the tiles, outermost first; images come outside of it where it does not name them. reuse:
    whether weights and inputs that the tile before had stay.
    """
    if in_rows(layer):
        tile, layer = tile_in_rows(layer, tile), as_rows(layer)
        order = tuple({"n": "ox", "ox": "n"}.get(d, d) for d in order)
    shape = shape_of(layer)
    k, end = int(shape.k), first + (layer.k if channels is None else channels)
    names = layer.inputs if shape.add else layer.inputs[:1]
    members: list[list[int]] = []
    operands: list[int] = []
    tables: list[Ints] = []
    made: dict[tuple[int, int], Ints] = {}  # by the first and last output channel of the head
    for number, head in enumerate(range(first // k, -(-end // k))):
        figures = figures_of(layer, addresses, head, names)
        figures[OPERAND] = len(operands)
        members.append(figures)
        operands += [addresses.tensor[name] + head * shape.c for name in names]
        start, stop = max(first - head * k, 0), min(end - head * k, k)
        if (start, stop) not in made:
            extents = {d: int(getattr(shape, d)) for d in DIMS if d != "n"} | {"n": layer.n, "k": stop - start}
            made[start, stop] = plain_table(layer, extents, tile, order, reuse, {"k": start})
        mine = made[start, stop].copy()
        mine[:, MEMBER] = number
        mine[0, CALL] = int(layer.grouped and number > 0)
        tables.append(mine)
    return Tiled(np.concatenate(tables), np.array(members, np.int64), np.array(operands, np.int64))


def plain_table(
    layer: Layer, extents: Mapping[str, int], tile: Extent, order: Sequence[str], reuse: bool, start: Mapping[str, int]
) -> Ints:  # fmt: skip
    """The table of one head."""
    shape = shape_of(layer)
    loops = tuple(order) if "n" in order else ("n", *order)
    sizes = {d: min(tile.along(d), extents[d]) for d in loops}
    if layer.op == "matmul":
        sizes["n"] = 1  # each image has a second operand of its own
    at = walk.positions({d: -(-extents[d] // sizes[d]) for d in loops}, loops)
    table = spans_of(at, extents, sizes, start)
    fill_windows(table, *windows_of(layer), bool(shape.add))
    ends = [table[:, _AT[d][0]] + table[:, _AT[d][1]] == extents[d] for d in ("c", "fy", "fx")]
    complete = ends[0] & ends[1] & ends[2]
    own = walk.OWN_INPUTS if shape.depthwise else walk.INPUTS
    weights = walk.SECOND if layer.op == "matmul" else walk.WEIGHTS
    table[:, WEIGHTS] = 0 if shape.add else walk.fresh(at, weights) if reuse else 1
    table[:, INPUTS] = walk.fresh(at, own) if reuse else 1
    table[:, SUMS] = walk.returning(at, walk.OUTPUTS)
    table[:, BEGINS] = walk.fresh(at, walk.OUTPUTS)
    table[:, LEAVES] = np.where(complete, 1, np.where(walk.final(at, walk.OUTPUTS), PARTIAL_BYTES, 0))
    table[:, ENDED] = walk.ended(at, loops)
    return table


def spans_of(
    at: walk.Positions, extents: Mapping[str, int], sizes: Mapping[str, int], start: Mapping[str, int]
) -> Ints:
    """A table with first index and size of every tile; nothing comes for it, nothing leaves."""
    table = np.zeros((len(next(iter(at.values()))), COLUMNS), np.int64)
    table[:, N] = 1
    for d, index in at.items():
        first, size = _AT[d]
        begin = index * sizes[d]
        table[:, first] = begin + start.get(d, 0)
        table[:, size] = np.minimum(sizes[d], extents[d] - begin)
    table[:, AFTER] = -1
    return table


Windows = tuple[int, int, int, int]  # along rows or columns: stride, dilation, padding before, size of the input


def windows_of(layer: Layer) -> tuple[Windows, Windows]:
    """Those of a layer, along rows and along columns."""
    strides, dilations = layer.strides, layer.dilations
    return (strides[0], dilations[0], layer.pad_y, layer.iy), (strides[1], dilations[1], layer.pad_x, layer.ix)


def fill_windows(table: Ints, down: Windows, along: Windows, exact: bool = False) -> None:
    """Set ROW .. COL_END, WRAPPED and TOP .. RIGHT. exact: windows as they are, not as the hardware's loop counts
    them."""
    y0, y, fy0, fy, x0, x, fx0, fx = (table[:, i] for i in (OY0, OY, FY0, FY, OX0, OX, FX0, FX))
    row, row_end, n_rows, table[:, TOP], table[:, BOTTOM] = window(y0, y, fy0, fy, *down, exact)
    col, col_end, n_cols, table[:, LEFT], table[:, RIGHT] = window(x0, x, fx0, fx, *along, exact)
    beside = (row > row_end) | (col > col_end)
    table[:, ROW], table[:, ROW_END], table[:, COL], table[:, COL_END] = row, row_end, col, col_end
    table[:, WRAPPED] = 0 if exact else np.where(beside, n_rows * n_cols, 0)


def window(
    out: Any, n_out: Any, tap: Any, taps: Any, stride: int, dilation: int, pad: int, size: int, exact: bool = False
) -> tuple[Any, Any, Any, Any, Any]:
    """First input row (or column) of a tile that exists, the end of them, how many the hardware counts, and how many of
    its windows lie before and behind those that exist.

    What lies in the padding is left out. The hardware's loop brings stride - 1 rows more than the last window needs
    (LoopConv.scala: rows x stride + taps - 1, where taps of dilated filters count with the rows between them). Its
    counter has 16 bits and no sign: where the padding on one side is longer than the tile (as with one output row of a
    kernel of 7), it wraps around: the tile loads some 65,000 rows.
    """
    first = out * stride + tap * dilation - pad
    end = first + n_out * stride + (taps - 1) * dilation - (stride - 1 if exact else 0)
    before, behind = np.maximum(-first, 0), np.maximum(end - size, 0)
    counted = (end - first - before - behind) % COUNTER
    return np.maximum(first, 0), np.minimum(end, size), counted, before, behind


def of_group(
    group: Chain, tiles: Sequence[Extent], keep_rows: bool, resident: Sequence[bool], addresses: Addresses
) -> Tiled:
    """A fused group. tiles: of every layer, of which k and c count, and of the last oy and ox too. resident: of every
    layer, whether its weights stay."""
    sink = group.layers[-1]
    ys = step_spans(group, cuts(sink.oy, tiles[-1].oy), keep_rows, True)
    xs = step_spans(group, cuts(sink.ox, tiles[-1].ox), False, False)
    inside = [{group.layers[p].name for p, c in group.edges if c == i} for i in range(len(group.layers))]
    members, operands = _group_members(group, inside, addresses)
    ready: dict[str, int] = {}  # layer -> the row that ends what it leaves in the scratchpad
    arrived = [0] * len(group.layers)  # input rows that were kept
    there: set[tuple[int, int, int]] = set()  # weights that stay and have come
    parts: list[Ints] = []
    n_rows = before = 0
    for step, (rows, cols) in enumerate(itertools.product(ys, xs)):
        for i, layer in enumerate(group.layers):
            if not (rows[i][0] < rows[i][1] and cols[i][0] < cols[i][1]):
                continue
            part, loops = _member_tiles(group, i, tiles[i], rows[i], cols[i])
            part[0, ENDED] = before + (step > 0 and i == 0 and len(xs) > 1 and step % len(xs) == 0)
            before = loops
            if resident[i]:
                for row in part:
                    key = (i, int(row[K0]), int(row[C0]))
                    row[WEIGHTS] &= key not in there
                    there.add(key)
            if keep_rows and not members[i, ADDS]:
                part[:, ROW] = np.maximum(part[:, ROW], arrived[i])
                part[:, ROW_END] = np.maximum(part[:, ROW_END], part[:, ROW])
            arrived[i] = max(arrived[i], int(part[:, ROW_END].max()))
            part[:, INPUTS] &= int(members[i, OPERANDS] > 0)
            part[:, INSIDE] = len(inside[i]) if members[i, ADDS] else 0
            part[0, AFTER] = max((ready[name] for name in inside[i]), default=-1)
            n_rows += len(part)
            ready[layer.name] = n_rows - 1
            parts.append(part)
    return Tiled(np.concatenate(parts), members, operands)


def _group_members(group: Chain, inside: Sequence[set[str]], addresses: Addresses) -> tuple[Ints, Ints]:
    members: list[list[int]] = []
    operands: list[int] = []
    for layer, near in zip(group.layers, inside, strict=True):
        names = [name for name in (layer.inputs if layer.op == "add" else layer.inputs[:1]) if name not in near]
        figures = figures_of(layer, addresses, inputs=names)
        figures[OPERAND] = len(operands)
        operands += [addresses.tensor[name] for name in names]
        members.append(figures)
    return np.array(members, np.int64), np.array(operands or [0], np.int64)


def _member_tiles(
    group: Chain, i: int, tile: Extent, rows: Stretch, cols: Stretch
) -> tuple[Ints, int]:  # fmt: skip
    """A layer's tiles within a step, output channels outside, and how many loops end with the last of them."""
    layer, shape = group.layers[i], group.shapes[i]
    extents = {"k": int(shape.k), "c": int(shape.c)}
    sizes = {d: min(tile.along(d), extents[d]) for d in extents}
    counts = {d: -(-extents[d] // sizes[d]) for d in extents}
    at = walk.positions(counts, ("k", "c"))
    part = spans_of(at, extents, sizes, {})
    part[:, MEMBER] = i
    part[:, FY], part[:, FX] = shape.fy, shape.fx
    part[:, OY0], part[:, OY], part[:, OX0], part[:, OX] = rows[0], rows[1] - rows[0], cols[0], cols[1] - cols[0]
    fill_windows(part, *windows_of(layer), bool(shape.add))
    complete = at["c"] == counts["c"] - 1
    part[:, WEIGHTS] = 1 - shape.add
    part[:, INPUTS] = 1 if shape.depthwise else at["k"] == 0
    part[:, BEGINS] = at["c"] == 0
    part[:, LEAVES] = complete & group.leaves[i]
    part[:, MOVES] = complete & bool(group.readers(i))
    part[:, ENDED] = walk.ended(at, ("k", "c"))
    return part, sum(n > 1 for n in counts.values())


def cuts(extent: int, tile: int) -> list[Stretch]:
    """[first, end) of the tiles along one dimension."""
    return [(at, min(at + tile, extent)) for at in range(0, extent, tile)]
