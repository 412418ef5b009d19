"""Gemmini's own tiling: the tiles that its library takes where a program names none.

What the library does (gemmini.h: tiled_conv_auto, tiled_matmul_auto): tiles are double-buffered, so one may fill half
of the scratchpad and half of the accumulator. A convolution's starts as the whole layer; as long as it does not fit,
its longest extent shrinks, by one, or channels down to the next multiple of the array's side; a row of pixels is kept
as long as the array while there is more than one row. Then what still fits is added back: first pixels of a row, then
whatever can grow, by one each in turn. A matrix product's starts as a square of blocks that fills half the accumulator,
as deep as the scratchpad then allows, and grows in the same way. Every tile loads its own operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

from cosoc.sim.model.mapping import Dim, Extent
from cosoc.sim.movers.cached_terms import NEST_DIMS, Machine, Shape, Tiles, rows_needed

Sizes = dict[str, int]
Tiled = tuple[Extent, tuple[Dim, ...]]  # a tile, and the loops around it, outermost first

# The library's loops around the tiles.
CONV_ORDER: tuple[Dim, ...] = ("n", "oy", "ox", "k", "fy", "fx", "c")
GEMM_ORDER: tuple[Dim, ...] = ("n", "fy", "fx", "oy", "ox", "k", "c")


@lru_cache(maxsize=4096)
def default_nest(shape: Shape, machine: Machine) -> Tiled:
    """The library's tiling of a layer. The shape must be one of ints."""
    if shape.add:
        return _rows_only(shape, machine)
    if shape.gemm:
        return _matmul(shape, machine)
    return _conv(shape, machine)


def _extents(shape: Shape) -> Sizes:
    return {d: int(getattr(shape, d)) for d in NEST_DIMS}


def _fits(shape: Shape, machine: Machine) -> Callable[[Sizes], bool]:
    def fits(sizes: Sizes) -> bool:
        spad, acc = rows_needed(shape, Tiles(**sizes), machine)
        return bool(spad <= machine.spad_rows // 2 and acc <= machine.acc_rows // 2)

    return fits


def _nest(sizes: Mapping[str, int], order: tuple[Dim, ...]) -> Tiled:
    return Extent(**sizes), order


def _conv(shape: Shape, machine: Machine) -> Tiled:
    """A depthwise convolution is done channel by channel."""
    full, fits, side = _extents(shape), _fits(shape, machine), machine.side
    if shape.depthwise:
        full["k"] = 1
    # In the library's order, which decides between equal extents.
    dims = ("oy", "ox", "k", "fy", "fx", "c")
    # A tile with more of anything than this fits nowhere, so that the library comes down to it: begin there.
    most = max(machine.acc_rows // 2 * side, machine.spad_rows // 2, side) // side * side
    sizes = {d: min(n, most) for d, n in full.items()}
    while not fits(sizes):
        able = [d for d in dims if not (d == "ox" and sizes["ox"] <= side and sizes["oy"] > 1)]
        longest = max(able, key=lambda d: sizes[d])
        if sizes[longest] == 1:
            break  # one of everything: refused where the mapping is checked
        if longest in ("k", "c"):
            sizes[longest] = max(1, (sizes[longest] - 1) // side * side)
        else:
            sizes[longest] -= 1
    _grow(sizes, full, ("ox",), fits)
    _grow(sizes, full, dims, fits)
    return _nest(sizes, CONV_ORDER)


def _grow(sizes: Sizes, full: Sizes, dims: tuple[str, ...], fits: Callable[[Sizes], bool]) -> None:
    """Add one to each dimension in turn, as often as the tile still fits."""
    grown = True
    while grown:
        grown = False
        for d in dims:
            if sizes[d] < full[d] and fits(sizes | {d: sizes[d] + 1}):
                sizes[d] += 1
                grown = True


def _matmul(shape: Shape, machine: Machine) -> Tiled:
    """In blocks of the array's side: i of pixels, j of output channels, k of input channels."""
    side = machine.side
    most = {d: math.ceil(n / side) for d, n in (("i", shape.ox), ("j", shape.k), ("k", shape.c))}
    square = max(1, math.isqrt(machine.acc_rows // 2 // side))
    deep = max(1, machine.spad_rows // 4 // side // square)
    tile = {d: min(most[d], deep if d == "k" else square) for d in most}

    def fits(blocks: Sizes) -> bool:
        i, j, k = blocks["i"], blocks["j"], blocks["k"]
        return (i * k + k * j) * side <= machine.spad_rows // 2 and i * j * side <= machine.acc_rows // 2

    _grow(tile, most, ("j", "i", "k"), fits)
    sizes = {"k": min(shape.k, tile["j"] * side), "c": min(shape.c, tile["k"] * side), "fy": 1, "fx": 1, "oy": 1,
             "ox": min(shape.ox, tile["i"] * side)}  # fmt: skip
    return _nest(sizes, GEMM_ORDER)


def _rows_only(shape: Shape, machine: Machine) -> Tiled:
    """An addition or a pooling: as many rows, then pixels of a row, then channels as fit."""
    full, fits = _extents(shape), _fits(shape, machine)
    sizes = dict(full)
    for d in ("oy", "ox", "k"):
        if fits(sizes):
            break
        low, high = 1, sizes[d]
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(sizes | {d: middle}) else (low, middle - 1)
        sizes[d] = low
    return _nest(sizes, CONV_ORDER)
