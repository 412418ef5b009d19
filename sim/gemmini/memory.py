"""What the tiles of a nest touch: requests, beats on the return path, and lines missed in L2 and last-level cache.

Residency is decided here and timing by the engine. Both are exact for what they see: a mvin is split into requests as
the DMA splits it (aligned windows of 16, 32 or 64 bytes), and every line that a request touches is looked up in two
set-associative caches with random replacement. The approximation is in the order of look-ups: the tiles come one after
another, in a tile all loads in the order of the load controller and then all stores, while in the machine stores of
one tile overlap loads of the next. Caches start warm: full of other data, through which the measured programs went
over their arrays twice, to fill them and in a run that was not timed. Pages lie one after another.

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

from cosoc.sim.gemmini.decode import Nest

Ints = npt.NDArray[np.int64]

MVIN_BYTES = 64  # widest row of a mvin, and largest request of the DMA
BEAT_BYTES = 16
LINE_BYTES = 64
LLC_LINE_BYTES = 128

# Columns of the records: of a mvin; of an execute group (a whole tile of a convolution, some k blocks of a GEMM;
# EX_MVINS counts all mvins up to and with its own); and of a tile.
REQUESTS, BEATS, LLC, DRAM = range(4)  # of mvins and, for its stores, of tiles
EX_TILE, EX_MVINS, EX_ROWS, EX_PAIRS = range(4)
STORES, GROUPS = 4, 5  # of tiles: whether it stores, and execute groups up to and with its own
ENDED = 6  # of tiles: software loops that ended right before it

NO_CAP = 1 << 60
_SWEEPS = 2  # over the arrays before the run that is timed
_COUNTER = 1 << 16  # of input rows and columns in LoopConv.scala

# Where the arrays of the measured programs lie. A convolution's are plain byte arrays, which the compiler aligns to 8
# bytes; a GEMM's are aligned to rows (inferred from the data: see tests/oracle/GEMMINI.md).
_CONV_BASES = (56, (4 << 20) + 56, (16 << 20) + 56)
_GEMM_BASES = (0, 100_000_000, 200_000_000)


@dataclass(frozen=True)
class CacheSizes:
    """Sets and ways of the L2 (64-byte lines) and of the last-level cache (128-byte lines)."""

    l2_sets: int
    l2_ways: int
    llc_sets: int
    llc_ways: int


@dataclass(frozen=True)
class Accesses:
    """The first `n_tiles` tiles of a nest.

    mvins [n, 4]: requests, beats, lines from the last-level cache, lines from DRAM. groups [n, 4]: tile, mvins so far,
    rows streamed through the array, preload/compute pairs. tiles [n_tiles, 7]: as mvins for its stores; whether it
    stores; groups so far; software loops that ended before it. effort [nest tiles]: a rough cost of every tile of the
    nest, in cycles, to weigh those that were not walked; rows_left: what those stream through the array.
    """

    mvins: Ints
    groups: Ints
    tiles: Ints
    effort: npt.NDArray[np.float64]
    rows_left: int


def walk(
    nest: Nest, caches: CacheSizes, cap: int, tile_cycles: float, seed: int = 1, loop_cycles: float = 0.0,
    pair_cycles: float = 0.0,
) -> Accesses:  # fmt: skip
    """Walk the tiles of `nest` until `cap` requests have been made, and the last of these tiles to its end.

    tile_cycles, loop_cycles, pair_cycles: least cost of a tile, of a software loop that ends, and of a preload/compute
    pair, for `effort`. seed: of the random replacement.
    """
    figures = np.array(_figures(nest), dtype=np.int64)
    dims = np.array([nest.extent, nest.tile, nest.counts], dtype=np.int64)
    order = np.array(nest.order, dtype=np.int64)
    least = np.array([tile_cycles, loop_cycles, pair_cycles])
    state = caches_of(caches, seed)
    bases = np.array(_GEMM_BASES if nest.kind == "gemm" else _CONV_BASES, dtype=np.int64)
    for _ in range(_SWEEPS):
        _sweep(state, bases, _sizes(nest))
    return _accesses(dims, order, figures, least, bases, state, cap)


def walk_on(nest: Nest, state: Any, bases: Sequence[int]) -> Accesses:
    """Walk all tiles of a nest of a network.

    state: the caches (`caches_of`) as the layers before left them. bases: where inputs, weights and outputs lie, bytes.
    """
    figures = np.array(_figures(nest), dtype=np.int64)
    dims = np.array([nest.extent, nest.tile, nest.counts], dtype=np.int64)
    order, where = np.array(nest.order, dtype=np.int64), np.array(bases, dtype=np.int64)
    return _accesses(dims, order, figures, np.zeros(3), where, state, NO_CAP)


def _figures(nest: Nest) -> tuple[int, ...]:
    """What the kernels ask of a nest besides its extents."""
    return (nest.side, nest.stride, nest.pad_y, nest.pad_x, nest.kind == "gemm", nest.in_rows, nest.in_cols,
            nest.depthwise)  # fmt: skip


def _accesses(dims: Ints, order: Ints, figures: Ints, least: Any, bases: Ints, state: Any, cap: int) -> Accesses:
    effort, n_mvins, n_groups, n_requests, streamed = _efforts(dims, order, figures, least)
    n_tiles = max(1, int(np.searchsorted(np.cumsum(n_requests), cap)) + 1)
    n_tiles = min(n_tiles, len(effort))
    mvins = np.zeros((int(n_mvins[:n_tiles].sum()), 4), np.int64)
    groups = np.zeros((int(n_groups[:n_tiles].sum()), 4), np.int64)
    tiles = np.zeros((n_tiles, 7), np.int64)
    n_mvins_made, n_groups_made = _walk(dims, order, figures, bases, state, mvins, groups, tiles)
    return Accesses(mvins[:n_mvins_made], groups[:n_groups_made], tiles, effort, int(streamed[n_tiles:].sum()))


def _sizes(nest: Nest) -> Ints:
    """Bytes of the input, weight and output arrays."""
    och, kch, krow, kcol, orow, ocol = nest.extent
    pixels = ocol if nest.kind == "gemm" else nest.in_rows * nest.in_cols
    outputs = ocol if nest.kind == "gemm" else orow * ocol
    return np.array([pixels * kch, krow * kcol * kch * och, outputs * och], dtype=np.int64)


def caches_of(sizes: CacheSizes, seed: int = 1) -> Any:
    """Tags of L2 and last-level cache, full of what nobody asks for, and the state of the random replacement."""
    l2 = np.full((sizes.l2_sets, sizes.l2_ways), -1, np.int64)
    llc = np.full((sizes.llc_sets, sizes.llc_ways), -1, np.int64)
    return l2, llc, np.array([seed], np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# Kernels


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
def _touch(state, address, record):
    l2, llc, rng = state
    if _miss(l2, address // LINE_BYTES, rng):
        record[LLC] += 1
        record[DRAM] += _miss(llc, address // LLC_LINE_BYTES, rng)


@njit(cache=True)
def _sweep(state, bases, sizes):
    """Touch output, input and weights once, as the programs do that fill them."""
    record = np.zeros(4, np.int64)
    for array in (2, 0, 1):
        for address in range(bases[array], bases[array] + sizes[array], LINE_BYTES):
            _touch(state, address, record)


@njit(cache=True)
def _row(state, address, n_bytes, row_bytes, record):
    """One row of a mvin or mvout: of the aligned windows at its address the one with most bytes, smaller on a tie."""
    left = n_bytes
    while left > 0:
        best = window = 0
        for size in (16, 32, 64):
            got = min(size - address % size, left)
            if got > best:
                best, window = got, size
        _touch(state, address, record)
        record[REQUESTS] += 1
        # A beat brings 16 bytes, and one scratchpad row (of as many bytes as the array has columns) leaves a cycle.
        record[BEATS] += max(window // BEAT_BYTES, -(-best // row_bytes))
        address += best
        left -= best


@njit(cache=True)
def _position(tile, dims, order, start, size):
    """First index and extent of a tile in each dimension; whether it is the last along all reductions."""
    rest = tile
    for i in range(len(order) - 1, -1, -1):
        d = order[i]
        digit = rest % dims[2, d]
        rest //= dims[2, d]
        start[d] = digit * dims[1, d]
        size[d] = min(dims[1, d], dims[0, d] - start[d])
    last = True
    for d in (1, 2, 3):
        last = last and start[d] + size[d] == dims[0, d]
    return last


@njit(cache=True)
def _ended(tile, dims, order):
    """Software loops of more than one iteration that ended right before a tile."""
    ended = 0
    for i in range(len(order) - 1, -1, -1):
        count = dims[2, order[i]]
        if tile == 0 or tile % count:
            break
        tile //= count
        ended += count > 1
    return ended


@njit(cache=True)
def _span(start, tile, kernel_start, kernel_tile, stride, pad, in_size):
    """First input row (or column) of a tile that exists, the end of them, and how many the hardware counts.

    What lies in the padding is left out. The counter has 16 bits and no sign: where the padding on one side is longer
    than the tile (as with one output row of a kernel of 7), it wraps around, and the tile loads some 65,000 rows.
    """
    first = start * stride + kernel_start - pad
    end = first + tile * stride + kernel_tile - 1
    counted = end - first - max(-first, 0) - max(end - in_size, 0)
    return max(first, 0), min(end, in_size), counted % _COUNTER


@njit(cache=True)
def _conv_rows(start, size, figures):
    """(first and end of input rows, first and end of input columns, pixels of a counter that wrapped) of a tile."""
    _, stride, pad_y, pad_x, _, in_rows, in_cols, _ = figures
    row, row_end, rows = _span(start[4], size[4], start[2], size[2], stride, pad_y, in_rows)
    col, col_end, cols = _span(start[5], size[5], start[3], size[3], stride, pad_x, in_cols)
    wrapped = rows * cols if row > row_end or col > col_end else 0
    return row, row_end, col, col_end, wrapped


@njit(cache=True)
def _conv_work(size, side):
    """Rows streamed through the array and preload/compute pairs of a tile: ExecuteController.scala, LoopConv.scala."""
    chunks = 0
    for col in range(0, size[5], side):
        chunks += max(min(side, size[5] - col), 4)
    first = max(min(side, size[5]), 4)
    rows = pairs = 0
    for ch in range(0, size[1], side):
        rows += size[4] * chunks + max(0, min(side, size[1] - ch) - first)
        pairs += size[4] * (-(-size[5] // side))
    weight_blocks = size[2] * size[3] * (-(-size[0] // side))
    return weight_blocks * rows, weight_blocks * pairs


@njit(cache=True)
def _conv_tile(start, size, stores, dims, figures, bases, state, mvins, at, groups, group, tile_record):
    side = figures[0]
    och, kch, kernel = dims[0, 0], dims[0, 1], dims[0, 3]
    in_cols, depthwise = figures[6], figures[7]
    pitch, first = (och, start[0]) if depthwise else (kch, start[1])  # of input pixels, and the first channel
    for oc in range(0, size[0], MVIN_BYTES):
        wide = min(MVIN_BYTES, size[0] - oc)
        for krow in range(start[2], start[2] + size[2]):
            for kcol in range(start[3], start[3] + size[3]):
                for ch in range(0, size[1], side):
                    address = bases[1] + ((krow * kernel + kcol) * kch + start[1] + ch) * och + start[0] + oc
                    for _ in range(min(side, size[1] - ch)):
                        _row(state, address, wide, side, mvins[at])
                        address += och
                    at += 1
    row, row_end, col, col_end, wrapped = _conv_rows(start, size, figures)
    for irow in range(row, row_end):
        for icol in range(col, col_end, side):
            for ch in range(0, size[1], MVIN_BYTES):
                wide = min(MVIN_BYTES, size[1] - ch)
                address = bases[0] + (irow * in_cols + icol) * pitch + first + ch
                for _ in range(icol, min(icol + side, col_end)):
                    _row(state, address, wide, side, mvins[at])
                    address += pitch
                at += 1
    if wrapped:  # one record for all of them, from lines that the L2 has
        mvins[at, REQUESTS] = wrapped * _ceil(size[1], MVIN_BYTES)
        mvins[at, BEATS] = wrapped * _ceil(size[1], min(BEAT_BYTES, side))
        at += 1
    groups[group, EX_MVINS] = at
    groups[group, EX_ROWS], groups[group, EX_PAIRS] = _conv_work(size, side)
    if stores:
        for orow in range(start[4], start[4] + size[4]):
            for ocol in range(start[5], start[5] + size[5]):
                address = bases[2] + (orow * dims[0, 5] + ocol) * och + start[0]
                for oc in range(0, size[0], side):
                    _row(state, address + oc, min(side, size[0] - oc), MVIN_BYTES, tile_record)
    return at, group + 1


@njit(cache=True)
def _gemm_tile(start, size, stores, dims, figures, bases, state, mvins, at, groups, group, tile_record):
    side, och, kch = figures[0], dims[0, 0], dims[0, 1]
    group_channels = max(MVIN_BYTES // side, 1) * side
    for k in range(0, size[1], group_channels):
        wide = min(group_channels, size[1] - k)
        for i in range(0, size[5], side):
            for part in range(0, wide, MVIN_BYTES):
                for r in range(i, min(i + side, size[5])):
                    address = bases[0] + (start[5] + r) * kch + start[1] + k + part
                    _row(state, address, min(MVIN_BYTES, wide - part), side, mvins[at])
                at += 1
        for kb in range(k, k + wide, side):
            for j in range(0, size[0], MVIN_BYTES):
                for r in range(kb, min(kb + side, k + wide)):
                    address = bases[1] + (start[1] + r) * och + start[0] + j
                    _row(state, address, min(MVIN_BYTES, size[0] - j), side, mvins[at])
                at += 1
        groups[group, EX_MVINS] = at
        blocks = (-(-wide // side)) * (-(-size[0] // side)) * (-(-size[5] // side))
        groups[group, EX_ROWS] = blocks * max(min(side, size[5]), 4)
        groups[group, EX_PAIRS] = blocks
        group += 1
    if stores:
        for j in range(0, size[0], MVIN_BYTES):
            for i in range(size[5]):
                address = bases[2] + (start[5] + i) * och + start[0] + j
                _row(state, address, min(MVIN_BYTES, size[0] - j), MVIN_BYTES, tile_record)
    return at, group


@njit(cache=True)
def _walk(dims, order, figures, bases, state, mvins, groups, tiles):
    start, size = np.zeros(6, np.int64), np.zeros(6, np.int64)
    at = group = 0
    for tile in range(len(tiles)):
        stores = _position(tile, dims, order, start, size)
        first = group
        if figures[4]:
            at, group = _gemm_tile(
                start, size, stores, dims, figures, bases, state, mvins, at, groups, group, tiles[tile]
            )
        else:
            at, group = _conv_tile(
                start, size, stores, dims, figures, bases, state, mvins, at, groups, group, tiles[tile]
            )
        for g in range(first, group):
            groups[g, EX_TILE] = tile
        tiles[tile, STORES] = stores
        tiles[tile, ENDED] = _ended(tile, dims, order)
        tiles[tile, GROUPS] = group
    return at, group


@njit(cache=True)
def _counts(start, size, figures):
    """(mvins, their rows, bytes, execute groups, rows streamed, pairs, rows of a wrapped counter) of a tile."""
    side = figures[0]
    och, kch, krow, kcol, _, ocol = size
    och_parts, kch_parts = _ceil(och, MVIN_BYTES), _ceil(kch, MVIN_BYTES)
    if figures[4]:
        groups = _ceil(kch, max(MVIN_BYTES // side, 1) * side)
        mvins = _ceil(ocol, side) * max(kch_parts, groups) + _ceil(kch, side) * och_parts
        rows = ocol * kch_parts + kch * och_parts
        pairs = _ceil(kch, side) * _ceil(och, side) * _ceil(ocol, side)
        return mvins, rows, ocol * kch + kch * och, groups, pairs * max(min(side, ocol), 4), pairs, 0
    row, row_end, col, col_end, wrapped = _conv_rows(start, size, figures)
    n_rows, n_cols = max(0, row_end - row), max(0, col_end - col)
    mvins = (wrapped > 0) + och_parts * krow * kcol * _ceil(kch, side) + n_rows * _ceil(n_cols, side) * kch_parts
    rows = och_parts * krow * kcol * kch + n_rows * n_cols * kch_parts
    streamed, pairs = _conv_work(size, side)
    return mvins, rows, krow * kcol * kch * och + n_rows * n_cols * kch, 1, streamed, pairs, wrapped * kch_parts


@njit(cache=True)
def _efforts(dims, order, figures, least):
    """Per tile: effort in cycles, mvins, execute groups, requests (loads and stores, about), rows streamed."""
    n = 1
    for d in range(6):
        n *= dims[2, d]
    effort = np.zeros(n)
    counts = np.zeros((4, n), np.int64)
    start, size = np.zeros(6, np.int64), np.zeros(6, np.int64)
    side = figures[0]
    for tile in range(n):
        stores = _position(tile, dims, order, start, size)
        mvins, rows, n_bytes, groups, streamed, pairs, wrapped = _counts(start, size, figures)
        loading = n_bytes / min(BEAT_BYTES, side) + 1.5 * (rows + wrapped)
        stored = 0
        if stores:
            stored = size[4] * size[5] * _ceil(size[0], MVIN_BYTES if figures[4] else side)
        software = least[0] + least[1] * _ended(tile, dims, order)
        effort[tile] = max(loading, streamed, pairs * least[2], 3.0 * stored, software)
        counts[0, tile] = mvins
        counts[1, tile] = groups
        counts[2, tile] = rows + stored
        counts[3, tile] = streamed
    return effort, counts[0], counts[1], counts[2], counts[3]
