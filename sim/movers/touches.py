"""What tiles touch: requests, cycles on the return path, and lines missed in L2 and last-level cache.

Residency is decided here and timing by the engine. Both are exact for what they see: a mvin is split into requests as
the DMA splits it (aligned windows of one beat, two, four .. up to a mvin's width, but no more than a line, which is the
most that a bus between caches transfers at once), and the line that a request lies in is looked up in two
set-associative caches with random replacement. The approximation is in the order of look-ups: the tiles come one after
another, in a tile all loads in the order of the load controller and then all stores, while in the machine stores of one
tile overlap loads of the next.

Sources: LoopConv.scala, LoopMatmul.scala and DMA.scala of Gemmini; LastLevelCache.scala of FASED.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# (the kernels are typed by numba)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from cosoc.sim.model.mapping import PARTIAL_BYTES
from cosoc.sim.movers.tile_table import (
    ADDS,
    BOTTOM,
    C0,
    C_ALL,
    COL,
    COL_END,
    FX,
    FX0,
    FX_ALL,
    FY,
    FY0,
    GEMM,
    IN_IMAGE,
    IN_PITCH,
    INPUTS,
    INSIDE,
    IX,
    K0,
    K_PITCH,
    LEAVES,
    LEFT,
    MEMBER,
    N0,
    OPERAND,
    OPERANDS,
    OUT_AT,
    OUT_IMAGE,
    OUT_PITCH,
    OWN,
    OX,
    OX0,
    OX_ALL,
    OY,
    OY0,
    RIGHT,
    ROW,
    ROW_END,
    SUMS,
    SUMS_AT,
    TAPS,
    TOP,
    W_IMAGE,
    WEIGHTS,
    WEIGHTS_AT,
    WRAPPED,
    C,
    Ints,
    K,
    N,
    Tiled,
)

Floats = npt.NDArray[np.float64]

# Columns of the records: of a mvin and, for its stores, of a tile; of an execute group (a whole tile of a convolution,
# some k blocks of a product; EX_MVINS counts all mvins up to and with its own); and of a tile.
# PAGE: the row of the main memory, counted through all banks, in which the first line that no cache has lies.
REQUESTS, BEATS, LLC, DRAM, BYTES, PAGE = range(6)
WHAT, LOCAL, ZEROS = 6, 7, 8  # of mvins: what it brings; rows that it takes from the scratchpad; rows of zeros
EX_TILE, EX_MVINS, EX_ROWS, EX_PAIRS, EX_C = range(5)  # EX_C: input channels
GROUPS, POOLED = 6, 7  # of tiles: groups up to and with its own; rows that its stores read besides those they store
INPUT, WEIGHT, ADDEND, SUM = range(4)  # what a mvin brings; the last two go into the accumulator


@dataclass(frozen=True)
class Caches:
    """Figures of the mover that decide on requests and lines; bytes of lines and beats are powers of two."""

    l2_sets: int
    l2_ways: int
    llc_sets: int
    llc_ways: int
    l2_line_bytes: int = 64
    llc_line_bytes: int = 128
    beat_bytes: int = 16
    mvin_bytes: int = 64  # widest row of a mvin; its requests are as large, up to a line of the L2
    page_bytes: int = 8192  # of a row of the main memory


@dataclass(frozen=True)
class Touched:
    """mvins [n, 9]: requests, cycles on the return path, lines from the last-level cache, lines from DRAM, bytes, page
    of the first line from DRAM, what, rows from the scratchpad, rows of zeros. groups [n, 5]: tile, mvins so far, rows
    streamed through the array, preload/compute pairs, input channels. tiles [tiles, 8]: as mvins for its stores, with
    beats for cycles; groups so far; rows read besides those stored."""

    mvins: Ints
    groups: Ints
    tiles: Ints


def caches_of(sizes: Caches, seed: int = 1) -> Any:
    """Tags of L2 and last-level cache, full of what nobody asks for, and the state of the random replacement."""
    l2 = np.full((sizes.l2_sets, sizes.l2_ways), -1, np.int64)
    llc = np.full((sizes.llc_sets, sizes.llc_ways), -1, np.int64)
    return l2, llc, np.array([seed], np.int64)


def touch(tiled: Tiled, state: Any, sizes: Caches, side: int, min_rows: int) -> Touched:
    """Walk all tiles. state: of `caches_of`, as what came before left it. side, min_rows: of the array."""
    limits = mvins_at_most(tiled, side, sizes.mvin_bytes), groups_of(tiled, side, sizes.mvin_bytes)
    mvins, groups = (
        np.zeros((int(n.sum()), width), np.int64) for n, width in zip(limits, (ZEROS + 1, EX_C + 1), strict=True)
    )
    tiles = np.zeros((len(tiled.table), POOLED + 1), np.int64)
    figures = (side, min_rows, sizes.mvin_bytes, *_powers(sizes))
    n_mvins = _touch_tiles(tiled.table, tiled.members, tiled.operands, figures, state, mvins, groups, tiles)
    return Touched(mvins[:n_mvins], groups, tiles)


def _powers(sizes: Caches) -> tuple[int, int, int, int]:
    sized = (sizes.beat_bytes, sizes.l2_line_bytes, sizes.llc_line_bytes, sizes.page_bytes)
    beat, line, llc_line, page = (n.bit_length() - 1 for n in sized)
    return beat, line, llc_line, page


def sweep(state: Any, arrays: Sequence[tuple[int, int]], sizes: Caches) -> None:
    """Touch arrays, (address, bytes), once from end to end."""
    bases, lengths = (np.array(each, np.int64) for each in zip(*arrays, strict=True))
    _sweep(state, bases, lengths, (0, 0, 0, *_powers(sizes)))


def groups_of(tiled: Tiled, side: int, mvin_bytes: int) -> Ints:
    """[tiles]: execute groups of each."""
    table = tiled.table
    by_parts = -(-table[:, C] // (max(mvin_bytes // side, 1) * side))
    return np.where(tiled.members[table[:, MEMBER], GEMM] > 0, by_parts, 1).astype(np.int64)


def zero_mvins(tiled: Tiled, side: int, mvin_bytes: int) -> Ints:
    """[tiles]: mvins that write zeros where the windows of each lie in the padding."""
    table, of = tiled.table, tiled.members[tiled.table[:, MEMBER]]
    channels = np.where(of[:, OWN] > 0, table[:, K], table[:, C])
    rows, cols = table[:, ROW_END] - table[:, ROW], table[:, COL_END] - table[:, COL]
    outside, beside = table[:, TOP] + table[:, BOTTOM], -(-table[:, LEFT] // side) + -(-table[:, RIGHT] // side)
    each = (outside * -(-cols // side) + (rows + outside) * beside) * -(-channels // mvin_bytes)
    pads = (of[:, ADDS] + of[:, GEMM] + table[:, WRAPPED] == 0) & (table[:, INPUTS] > 0)
    return np.asarray(pads * table[:, N] * each * of[:, OPERANDS], np.int64)


def mvins_at_most(tiled: Tiled, side: int, mvin_bytes: int) -> Ints:
    """[tiles]: no fewer than the mvins of each."""
    table, of = tiled.table, tiled.members[tiled.table[:, MEMBER]]
    k, c, taps = table[:, K], table[:, C], table[:, FY] * table[:, FX]
    channels = np.where(of[:, OWN] > 0, k, c)
    parts = np.maximum(-(-channels // mvin_bytes), groups_of(tiled, side, mvin_bytes))
    rows, cols = (np.maximum(table[:, end] - table[:, at], 0) for at, end in ((ROW, ROW_END), (COL, COL_END)))
    weights = -(-k // mvin_bytes) * taps * -(-c // side)
    inputs = rows * -(-cols // side) * parts * of[:, OPERANDS] + (table[:, WRAPPED] > 0)
    sums = table[:, OY] * -(-table[:, OX] // side) * -(-k // side)
    images = table[:, N]
    found = table[:, WEIGHTS] * weights + images * (table[:, INPUTS] * inputs + table[:, SUMS] * sums)
    return np.asarray(found + table[:, INSIDE] + zero_mvins(tiled, side, mvin_bytes), np.int64)


def row_cycles(sizes: Caches, row_bytes: int, pitch: int) -> Floats:
    """[phase, bytes]: cycles for which a row of so many bytes keeps the return path, mean of rows `pitch` bytes apart
    of which the first lies so far behind a multiple of mvin_bytes. row_bytes: of the memory that it goes to."""
    wide = sizes.mvin_bytes
    one = np.zeros((wide, wide + 1))
    _fill_row_cycles(one, row_bytes, (0, 0, wide, *_powers(sizes)))
    at = (np.arange(wide)[:, None] + pitch * np.arange(wide)) % wide
    return np.asarray(one[at].mean(axis=1), np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# Kernels. p: side, least rows, mvin bytes, and as powers of two a beat, lines of L2 and last-level cache, and a page.


@njit(cache=True)
def _ceil(a, b):
    return -(-a // b)


@njit(cache=True)
def _victim(rng, ways):
    """A way to replace, by a linear congruential generator."""
    rng[0] = (rng[0] * 1103515245 + 12345) & 0x7FFFFFFF
    return (rng[0] >> 12) % ways


@njit(cache=True)
def _miss(tags, line, rng):
    """Look `line` up and put it in; whether it was missing."""
    at = line % tags.shape[0]
    for way in range(tags.shape[1]):
        if tags[at, way] == line:
            return False
    tags[at, _victim(rng, tags.shape[1])] = line
    return True


@njit(cache=True)
def _look_up(state, address, p, record):
    l2, llc, rng = state
    if _miss(l2, address >> p[4], rng):
        record[LLC] += 1
        if _miss(llc, address >> p[5], rng):
            if record[DRAM] == 0:
                record[PAGE] = address >> p[6]
            record[DRAM] += 1


@njit(cache=True)
def _sweep(state, bases, sizes, p):
    record = np.zeros(6, np.int64)
    for array in range(len(bases)):
        for address in range(bases[array], bases[array] + sizes[array], 1 << p[4]):
            _look_up(state, address, p, record)


@njit(cache=True)
def _merge(size, shift, wanted, row_bytes, filled, beat):
    """Cycles for which a request keeps the BeatMerger, whose input is one beat a cycle (BeatMerger.scala).

    Of `size` bytes that come, `wanted` after the first `shift` go on, a row of the memory a cycle, the first where
    `filled` bytes of its row are there already. A row goes on when it is whole, or all that is wanted is there. The
    next request is accepted with the last row, if all beats have come by then, and else a cycle after the last beat.
    """
    read, sent, cycle = beat, 0, 0
    while True:
        cycle += 1
        ready = min(max(read - shift, 0), wanted)
        sent_before = sent
        if ready > sent and (ready - sent >= row_bytes or ready == wanted):
            sent = min(sent + row_bytes - (filled if sent == 0 else 0), wanted)
            if sent == wanted and read == size:
                return cycle
        read = min(read + beat, size)
        if sent_before == wanted and read == size:
            return cycle + 1


@njit(cache=True)
def _row(state, address, n_bytes, row_bytes, p, record):
    """One row of a mvin or mvout: of the aligned windows at its address the one with most bytes, smaller on a tie.
    row_bytes: of the memory that it goes to; 0: it comes from there."""
    record[BYTES] += n_bytes
    left, most = n_bytes, min(p[2], 1 << p[4])
    while left > 0:
        best = window = 0
        size = 1 << p[3]
        while size <= most or best == 0:
            got = min(size - (address & (size - 1)), left)
            if got > best:
                best, window = got, size
            size *= 2
        _look_up(state, address, p, record)
        record[REQUESTS] += 1
        if row_bytes:
            shift, filled = address & (window - 1), (n_bytes - left) % row_bytes
            record[BEATS] += _merge(window, shift, best, row_bytes, filled, 1 << p[3])
        else:
            record[BEATS] += window >> p[3]
        address += best
        left -= best


@njit(cache=True)
def _fill_row_cycles(table, row_bytes, p):
    state = np.full((1, 1), -1, np.int64), np.full((1, 1), -1, np.int64), np.ones(1, np.int64)
    for phase in range(table.shape[0]):
        for n_bytes in range(1, table.shape[1]):
            record = np.zeros(6, np.int64)
            _row(state, phase, n_bytes, row_bytes, p, record)
            table[phase, n_bytes] = record[BEATS]


@njit(cache=True)
def _conv_work(tile, of, p):
    """Rows streamed through the array and preload/compute pairs of a tile: ExecuteController.scala, LoopConv.scala. A
    depthwise one goes channel by channel; an addition does not use the array."""
    side, least = p[0], p[1]
    if of[ADDS]:
        return 0, 0
    chunks = 0
    for col in range(0, tile[OX], side):
        chunks += max(min(side, tile[OX] - col), least)
    first = max(min(side, tile[OX]), least)
    rows = pairs = 0
    for ch in range(0, tile[C], side):
        rows += tile[OY] * chunks + max(0, min(side, tile[C] - ch) - first)
        pairs += tile[OY] * _ceil(tile[OX], side)
    weight_blocks = tile[N] * tile[FY] * tile[FX] * (tile[K] if of[OWN] else _ceil(tile[K], side))
    return weight_blocks * rows, weight_blocks * pairs


@njit(cache=True)
def _sums(tile, of, p, state, mvins, at):
    """Partial sums that come back: blocks of pixels, as many channels at once as a mvin is wide."""
    side = p[0]
    wide = max(p[2] // PARTIAL_BYTES // side, 1) * side
    for image in range(tile[N0], tile[N0] + tile[N]):
        for orow in range(tile[OY0], tile[OY0] + tile[OY]):
            for ocol in range(tile[OX0], tile[OX0] + tile[OX], side):
                for oc in range(0, tile[K], wide):
                    for col in range(ocol, min(ocol + side, tile[OX0] + tile[OX])):
                        pixel = image * of[OUT_IMAGE] + (orow * of[OX_ALL] + col) * of[OUT_PITCH] + tile[K0] + oc
                        size = min(wide, tile[K] - oc) * PARTIAL_BYTES
                        address = of[SUMS_AT] + pixel * PARTIAL_BYTES
                        _row(state, address, size, side * PARTIAL_BYTES, p, mvins[at])
                    mvins[at, WHAT] = SUM
                    at += 1
    return at


@njit(cache=True)
def _weights(tile, of, p, state, mvins, at):
    side, wide = p[0], p[2]
    for oc in range(0, tile[K], wide):
        for krow in range(tile[FY0], tile[FY0] + tile[FY]):
            for kcol in range(tile[FX0], tile[FX0] + tile[FX]):
                for ch in range(0, tile[C], side):
                    row = (krow * of[FX_ALL] + kcol) * of[C_ALL] + tile[C0] + ch
                    address = of[WEIGHTS_AT] + tile[N0] * of[W_IMAGE] + row * of[K_PITCH] + tile[K0] + oc
                    for _ in range(min(side, tile[C] - ch)):
                        _row(state, address, min(wide, tile[K] - oc), side, p, mvins[at])
                        address += of[K_PITCH]
                    mvins[at, WHAT] = WEIGHT
                    at += 1
    return at


@njit(cache=True)
def _zeros(pixels, channels, p, mvins, at):
    """Pixels of the padding: the ZeroWriter fills a row of the scratchpad in a cycle."""
    side, wide = p[0], p[2]
    for pixel in range(0, pixels, side):
        for ch in range(0, channels, wide):
            mvins[at, ZEROS] = min(side, pixels - pixel) * _ceil(min(wide, channels - ch), side)
            mvins[at, WHAT] = INPUT
            at += 1
    return at


@njit(cache=True)
def _inputs(tile, of, base, p, state, mvins, at):
    """Row by row as LoopConv.scala goes: its padding on the left, its pixels, its padding on the right."""
    side, wide = p[0], p[2]
    first, channels = (tile[K0], tile[K]) if of[OWN] else (tile[C0], tile[C])
    top, bottom, left, right = tile[TOP], tile[BOTTOM], tile[LEFT], tile[RIGHT]
    if of[ADDS] or tile[WRAPPED]:
        top = bottom = left = right = 0
    for image in range(tile[N0], tile[N0] + tile[N]):
        for irow in range(tile[ROW] - top, tile[ROW_END] + bottom):
            at = _zeros(left, channels, p, mvins, at)
            if irow < tile[ROW] or irow >= tile[ROW_END]:
                at = _zeros(tile[COL_END] - tile[COL], channels, p, mvins, at)
            else:
                for icol in range(tile[COL], tile[COL_END], side):
                    for ch in range(0, channels, wide):
                        address = base + image * of[IN_IMAGE] + (irow * of[IX] + icol) * of[IN_PITCH] + first + ch
                        for _ in range(icol, min(icol + side, tile[COL_END])):
                            _row(state, address, min(wide, channels - ch), side, p, mvins[at])
                            address += of[IN_PITCH]
                        mvins[at, WHAT] = ADDEND if of[ADDS] else INPUT
                        at += 1
            at = _zeros(right, channels, p, mvins, at)
    if tile[WRAPPED]:
        _wrapped(tile[WRAPPED], of, base + first, channels, p, mvins[at])
        at += 1
    return at


@njit(cache=True)
def _wrapped(pixels, of, address, channels, p, record):
    """One record for all pixels that a wrapped counter asks for: they go on through the memory, each line a new one.
    As many as begin at all phases of a window stand for the rest."""
    wide = p[2]
    nowhere = np.full((1, 1), -1, np.int64), np.full((1, 1), -1, np.int64), np.ones(1, np.int64)
    some = np.zeros(6, np.int64)
    for pixel in range(wide):
        for ch in range(0, channels, wide):
            _row(nowhere, address + pixel * of[IN_PITCH] + ch, min(wide, channels - ch), p[0], p, some)
    for count in (REQUESTS, BEATS, LLC, DRAM):
        record[count] = pixels * some[count] // wide


@njit(cache=True)
def _conv_tile(tile, of, operands, p, state, mvins, at, groups, group):
    if tile[SUMS]:
        at = _sums(tile, of, p, state, mvins, at)
    if tile[WEIGHTS]:
        at = _weights(tile, of, p, state, mvins, at)
    for _ in range(tile[INSIDE]):
        mvins[at, LOCAL] = tile[N] * tile[OY] * tile[OX] * _ceil(tile[K], p[0])
        mvins[at, WHAT] = ADDEND
        at += 1
    if tile[INPUTS]:
        for i in range(of[OPERANDS]):
            at = _inputs(tile, of, operands[of[OPERAND] + i], p, state, mvins, at)
    groups[group, EX_MVINS], groups[group, EX_C] = at, tile[C]
    groups[group, EX_ROWS], groups[group, EX_PAIRS] = _conv_work(tile, of, p)
    return at, group + 1


@njit(cache=True)
def _gemm_tile(tile, of, operands, p, state, mvins, at, groups, group):
    """A product: k blocks that one mvin spans come and are executed one after the other."""
    side, wide = p[0], p[2]
    group_channels = max(wide // side, 1) * side
    if tile[SUMS]:
        at = _sums(tile, of, p, state, mvins, at)
    for k in range(0, tile[C], group_channels):
        deep = min(group_channels, tile[C] - k)
        if tile[INPUTS] and of[OPERANDS]:
            for image in range(tile[N0], tile[N0] + tile[N]):
                pixels = operands[of[OPERAND]] + image * of[IN_IMAGE] + tile[C0] + k
                for i in range(tile[COL], tile[COL_END], side):
                    for part in range(0, deep, wide):
                        for r in range(i, min(i + side, tile[COL_END])):
                            address = pixels + r * of[IN_PITCH] + part
                            _row(state, address, min(wide, deep - part), side, p, mvins[at])
                        at += 1
        if tile[WEIGHTS]:
            blocks = of[WEIGHTS_AT] + tile[N0] * of[W_IMAGE] + tile[C0] * of[K_PITCH] + tile[K0]
            for kb in range(k, k + deep, side):
                for j in range(0, tile[K], wide):
                    for r in range(kb, min(kb + side, k + deep)):
                        address = blocks + r * of[K_PITCH] + j
                        _row(state, address, min(wide, tile[K] - j), side, p, mvins[at])
                    mvins[at, WHAT] = WEIGHT
                    at += 1
        groups[group, EX_MVINS], groups[group, EX_C] = at, deep
        pairs = tile[N] * _ceil(deep, side) * _ceil(tile[K], side) * _ceil(tile[OX], side)
        groups[group, EX_ROWS] = pairs * max(min(side, tile[OX]), p[1])
        groups[group, EX_PAIRS] = pairs
        group += 1
    return at, group


@njit(cache=True)
def _stores(tile, of, p, state, record):
    """Results pixel by pixel and block by block of the array; those of a product in rows as wide as a mvin."""
    each = tile[LEAVES]
    base = of[OUT_AT] if each == 1 else of[SUMS_AT]
    wide = p[2] if of[GEMM] and each == 1 else p[0]
    for image in range(tile[N0], tile[N0] + tile[N]):
        start = image * of[OUT_IMAGE] + tile[K0]
        if of[GEMM]:
            for oc in range(0, tile[K], wide):
                for col in range(tile[OX0], tile[OX0] + tile[OX]):
                    address = base + (start + col * of[OUT_PITCH] + oc) * each
                    _row(state, address, min(wide, tile[K] - oc) * each, 0, p, record)
            continue
        for orow in range(tile[OY0], tile[OY0] + tile[OY]):
            for ocol in range(tile[OX0], tile[OX0] + tile[OX]):
                address = base + (start + (orow * of[OX_ALL] + ocol) * of[OUT_PITCH]) * each
                for oc in range(0, tile[K], wide):
                    _row(state, address + oc * each, min(wide, tile[K] - oc) * each, 0, p, record)


@njit(cache=True)
def _touch_tiles(table, members, operands, p, state, mvins, groups, tiles):
    at = group = 0
    for i in range(len(table)):
        tile, of = table[i], members[table[i, MEMBER]]
        first = group
        if of[GEMM]:
            at, group = _gemm_tile(tile, of, operands, p, state, mvins, at, groups, group)
        else:
            at, group = _conv_tile(tile, of, operands, p, state, mvins, at, groups, group)
        groups[first:group, EX_TILE] = i
        if tile[LEAVES]:
            _stores(tile, of, p, state, tiles[i])
        tiles[i, POOLED] = tile[N] * tile[OY] * tile[OX] * _ceil(tile[K], p[0]) * (of[TAPS] - 1)
        tiles[i, GROUPS] = group
    return at
