"""Requests and residency of a nest's tiles, against closed forms and a replay in plain Python."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.dosa import Problem, decode
from cosoc.sim.movers.cached_terms import Machine
from cosoc.sim.movers.measured import Nest, Walked, lower, walk_nest
from cosoc.sim.movers.tile_table import LEAVES
from cosoc.sim.movers.touches import (
    BEATS,
    DRAM,
    EX_MVINS,
    EX_PAIRS,
    EX_ROWS,
    EX_TILE,
    LLC,
    REQUESTS,
    ZEROS,
    Caches,
    mvins_at_most,
    row_cycles,
    zero_mvins,
)

CACHES = Caches(l2_sets=1024, l2_ways=8, llc_sets=4096, llc_ways=8)
MACHINE = Machine.of(find_soc("gemmini_firesim"))
ALL = 10**9


def walk(nest: Nest, cap: int = ALL, seed: int = 1, machine: Machine = MACHINE) -> Walked:
    """A nest on the measured machine."""
    return walk_nest(nest, machine, cap, CACHES, seed)


def conv(k: int, c: int, p: int, kernel: int = 1, side: int = 16, tile: tuple[int, ...] | None = None) -> Nest:
    extent = (k, c, kernel, kernel, p, p)
    return Nest("conv", side, extent, tile or extent, tuple(range(6)), 1, kernel // 2, kernel // 2, p, p)


def gemm(k: int, c: int, p: int, side: int = 16, tile: tuple[int, ...] | None = None) -> Nest:
    extent = (k, c, 1, 1, 1, p)
    return Nest("gemm", side, extent, tile or extent, tuple(range(6)))


def requests_of(address: int, n_bytes: int) -> list[tuple[int, int]]:
    """(beats, bytes) of the requests of one row: Gemmini's rule, written down a second time."""
    found = []
    while n_bytes:
        got = {size: min(size - address % size, n_bytes) for size in (16, 32, 64)}
        size = max(got, key=lambda s: (got[s], -s))
        found.append((size // 16, got[size]))
        address, n_bytes = address + got[size], n_bytes - got[size]
    return found


# Cycles by hand from BeatMerger.scala, (side, first address, bytes): a beat comes in a cycle and is in the buffer the
# next; a row of the scratchpad goes out as soon as it is whole, or all that is wanted is there; the next request comes
# with the last row out, but a cycle after the last beat where that one only fills the window.
MERGED = [
    (16, 0, 64, 4),  # four beats, and a row out in the shadow of each
    (16, 0, 32, 2), (16, 0, 16, 1), (16, 0, 8, 1),
    (16, 0, 48, 5),  # 64 asked for: the third row is out with the fourth beat, which is then only waited for
    (16, 8, 16, 2),  # a window of 32 bytes, of which the middle 16 are one row
    (16, 24, 16, 5),  # a window of 64: the row is whole with the third beat, and the fourth is waited for
    (16, 8, 64, 6),  # 56 of a window of 64: a row a cycle late each, five; then 8 of a window of 16
    (16, 56, 64, 5),  # 8 bytes first, which fill half a row; then the rows of the next line come in step
    (4, 0, 16, 4),  # one beat in, four rows of 4 bytes out
    (8, 0, 64, 8),
    (64, 0, 64, 4), (64, 8, 64, 5), (64, 40, 64, 7),  # one row, when all that is wanted is there
    (64, 0, 20, 2), (64, 0, 40, 5),
]  # fmt: skip


@pytest.mark.parametrize(("side", "address", "n_bytes", "cycles"), MERGED)
def test_a_row_takes_the_beat_merger_for_as_long_as_by_hand(side: int, address: int, n_bytes: int, cycles: int) -> None:
    """One row of weights, one byte of input before or after it."""
    machine = replace(MACHINE, conv_offset_bytes=address)
    seen = walk(conv(n_bytes, 1, 1, side=side), machine=machine).seen
    assert seen.mvins[0, BEATS] == cycles
    assert seen.mvins[0, REQUESTS] == len(requests_of(address, n_bytes))
    assert cycles >= sum(max(beats, -(-n // side)) for beats, n in requests_of(address, n_bytes))
    # The table that weighs tiles which are not walked has the same rows, one after the other.
    assert row_cycles(CACHES, side, 64)[address, n_bytes] == cycles


@pytest.mark.parametrize(("c", "k"), [(3, 10), (16, 16), (64, 64), (72, 20), (130, 70)])
def test_requests_of_a_convolution_are_those_of_its_rows(c: int, k: int) -> None:
    """One 1x1 tile with unaligned arrays: weights are c rows a block of 64 outputs, inputs a row a pixel and block."""
    p = 5
    offset = 56
    seen = walk(conv(k, c, p), machine=replace(MACHINE, conv_offset_bytes=offset))
    weights = [(offset + (4 << 20) + ch * k + o, min(64, k - o)) for o in range(0, k, 64) for ch in range(c)]
    inputs = [(offset + pixel * c + ch, min(64, c - ch)) for pixel in range(p * p) for ch in range(0, c, 64)]
    expected = [r for row in weights + inputs for r in requests_of(*row)]
    assert seen.seen.mvins[:, REQUESTS].sum() == len(expected)
    least = sum(max(beats, -(-n // 16)) for beats, n in expected)
    assert least <= seen.seen.mvins[:, BEATS].sum() <= least + 2 * len(expected)


@pytest.mark.parametrize("offset", [0, 8, 56])
def test_a_wider_mvin_asks_for_no_more_than_a_line_at_once(offset: int) -> None:
    """A bus between caches transfers a line at most. Where a narrow mvin cuts a row within a line, both halves ask for
    that line; a wide one asks once. A window of 128 bytes once took 8 beats for 64 bytes across two lines."""
    k, c = 128, 8
    machine = replace(MACHINE, conv_offset_bytes=offset)
    narrow = walk(conv(k, c, 1), machine=machine).seen.mvins
    wide = walk_nest(conv(k, c, 1), replace(machine, mvin_bytes=128), ALL, replace(CACHES, mvin_bytes=128)).seen.mvins
    rows = [offset + (4 << 20) + ch * k for ch in range(c)]
    inputs = requests_of(offset, c)
    assert wide[:, REQUESTS].sum() == len([r for row in rows for r in requests_of(row, k)] + inputs)
    assert wide[:, REQUESTS].sum() <= narrow[:, REQUESTS].sum()
    assert wide[:, BEATS].sum() <= narrow[:, BEATS].sum()


def test_padding_is_written_as_zeros_by_mvins_of_their_own() -> None:
    """5 x 5 pixels of 64 channels in a frame of one, LoopConv.scala: rows of the frame are cut at its corners, three
    mvins each, and every other row has a pixel of it at each end. A pixel is four rows of the scratchpad."""
    seen = walk(conv(16, 64, 5, kernel=3))
    zeros = seen.seen.mvins[:, ZEROS]
    assert zeros[zeros > 0].tolist() == [4, 20, 4] + [4] * 10 + [4, 20, 4]
    assert zero_mvins(seen.tiled, 16, 64).tolist() == [16]
    assert seen.seen.mvins[zeros > 0, REQUESTS].sum() == 0
    program = lower(seen, find_soc("gemmini_firesim")).program
    unmoved = program.rows[(program.rows["unit"] == program.unit_names.index("load")) & (program.rows["bytes"] == 0)]
    assert unmoved["run"].tolist() == [20 * rows for rows in zeros[zeros > 0].tolist()]  # a row a cycle, of 20 ticks
    assert not walk(conv(16, 64, 5)).seen.mvins[:, ZEROS].any()


def test_stores_come_with_the_last_reduction_only() -> None:
    seen = walk(gemm(32, 64, 32, tile=(16, 16, 1, 1, 1, 32)))
    assert seen.tiled.table[:, LEAVES].tolist() == [0, 0, 0, 1] * 2  # och outside, kch inside
    assert seen.seen.tiles[:, REQUESTS].tolist() == [0, 0, 0, 32] * 2


def test_what_fits_the_l2_is_never_missed_and_what_exceeds_it_is() -> None:
    """The programs fill their arrays before they run, so the caches are warm."""
    small = walk(gemm(128, 128, 128))
    assert small.seen.mvins[:, LLC].sum() == small.seen.tiles[:, LLC].sum() == 0
    large = walk(gemm(1024, 1024, 16))  # 1 MB of weights: L2 512 KB, last-level cache 4 MB
    lines = 1024 * 1024 // 64
    assert 0.5 * lines < large.seen.mvins[:, LLC].sum() <= 1.05 * lines
    assert large.seen.mvins[:, DRAM].sum() < 0.02 * lines
    huge = walk(gemm(4096, 4096, 16))  # 16 MB
    assert huge.seen.mvins[:, DRAM].sum() > 0.5 * 4096 * 4096 / 128


def test_what_just_fills_the_l2_does_not_stay_whole() -> None:
    """512 KB of weights through an L2 of 512 KB that was full: random replacement loses 1 - 1/e of them in one sweep,
    fewer in each that follows; a quarter of that fits."""
    lines = 512 * 1024 // 64
    filling = walk(gemm(512, 1024, 16))
    assert 0.05 * lines < filling.seen.mvins[:, LLC].sum() < (1 - np.exp(-1)) * lines
    fitting = walk(gemm(128, 1024, 16))
    assert fitting.seen.mvins[:, LLC].sum() < 0.02 * lines


def test_blocks_of_the_array() -> None:
    """LoopConv: a pair a weight block, input row and chunk of output columns; at least 4 rows stream."""
    seen = walk(conv(32, 32, 18, kernel=3))
    assert (
        seen.seen.groups[0, EX_PAIRS] == 9 * 2 * 2 * 18 * 2
    )  # taps, och blocks, kch blocks, rows, column chunks 16 + 2
    assert seen.seen.groups[0, EX_ROWS] == 9 * 2 * 2 * 18 * (16 + 4)


def test_a_long_nest_is_walked_up_to_the_cap_and_weighed_beyond() -> None:
    nest = gemm(512, 512, 512, tile=(16, 16, 1, 1, 1, 16))
    quick = replace(MACHINE, gemm_tile_cycles=1.0, loop_cycles=0.0)  # software weighs nothing
    seen = walk(nest, 3200, machine=quick)
    assert len(seen.effort) == nest.n_tiles == 32**3
    assert len(seen.seen.tiles) == pytest.approx(100, abs=3)  # 32 requests a tile: 16 rows of A and of B
    last = seen.effort == max(seen.effort)  # equal tiles weigh the same, those more whose results leave
    assert np.ptp(seen.effort[~last]) == 0 and last.sum() == 32**2
    # Tiles cut at the edge weigh less.
    cut = walk(gemm(512, 512, 520, tile=(64, 64, 1, 1, 1, 64)), 3200, machine=quick)
    assert sorted(set(cut.effort))[0] < 0.7 * max(cut.effort)


@pytest.mark.parametrize(
    "nest",
    [
        gemm(50, 70, 37, tile=(32, 16, 1, 1, 1, 16)),
        gemm(40, 40, 200, tile=(16, 40, 1, 1, 1, 50)),
        conv(24, 40, 10, kernel=3, tile=(24, 16, 3, 1, 5, 10)),
    ],
)
def test_rows_are_streamed_by_tiles_that_are_walked_or_left(nest: Nest) -> None:
    """However early the walk ends, its rows through the array and those of the tiles left out are those of the nest."""
    whole = walk(nest)
    assert whole.rows_left == 0 and len(whole.seen.tiles) == nest.n_tiles
    for cap in (1, 100, 400):
        part = walk(nest, cap)
        assert 0 < len(part.seen.tiles) < nest.n_tiles
        assert part.seen.groups[:, EX_ROWS].sum() + part.rows_left == whole.seen.groups[:, EX_ROWS].sum()


def test_bytes_take_as_long_as_the_file_says() -> None:
    """64 bytes in 9 cycles to the last-level cache; 128 in 20 to the DRAM, which is no faster by itself."""
    machine = Machine.of(find_soc("gemmini"))
    assert machine.outer_cycles_per_byte == 9 / 64
    assert machine.dram_cycles_per_byte == 20 / 128


def test_equal_seeds_give_equal_walks() -> None:
    nest = gemm(1024, 1024, 16)
    first, again = walk(nest), walk(nest)
    assert np.array_equal(first.seen.mvins, again.seen.mvins)
    assert not np.array_equal(first.seen.mvins, walk(nest, seed=2).seen.mvins)


def test_a_tile_that_lies_in_the_padding_loads_what_its_counter_wraps_to() -> None:
    """Kernel 7 on stride 2, one row of outputs, one of the kernel: input rows -3 and -2 where the image starts at 0.

    2 rows less 3 of padding are -1, which is 65,535 in 16 bits. Measured rows with such tiles take 10 to 100 times as
    long as their siblings, and no other rows do.
    """
    problem = Problem(k=8, c=3, p=112, q=112, r=7, s=7, stride=2)
    mapping = "L3[WIO] P4 Q112 S7 - L2[WI] K8X - L1[O] R7 C3X - L0[W] P28"
    nest = decode(mapping, problem)
    seen = walk(nest, 200)
    pixels = 65535 * (28 * 2 + 7 - 1 - 3)
    wrapped = seen.seen.mvins[np.argmax(seen.seen.mvins[:, REQUESTS])]
    # They go on through the memory, three bytes each: 21 to a line, two of 64 lie in two lines of 64 bytes.
    assert wrapped[REQUESTS] == pixels * 66 // 64
    assert wrapped[LLC] == pytest.approx(pixels * 3 / 64, rel=0.4)
    assert wrapped[DRAM] == pytest.approx(wrapped[LLC] / 2, rel=0.4)
    unsplit = "L3[WIO] P4 Q112 - L2[WI] K8X - L1[O] R7 S7 C3X - L0[W] P28"
    assert walk(decode(unsplit, problem), 200).seen.mvins[:, REQUESTS].max() < 100
    assert_room(nest, seen)


def test_kernels_keep_within_their_arrays() -> None:
    """Compiled code writes past the end of an array where nothing may be amiss; Python says so."""
    ours = [f"{__file__}::{test.__name__}" for test in (
        test_a_tile_that_lies_in_the_padding_loads_what_its_counter_wraps_to,
        test_padding_is_written_as_zeros_by_mvins_of_their_own, test_stores_come_with_the_last_reduction_only,
    )]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ours], capture_output=True, check=False,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and f"{len(ours)} passed" in done.stdout, done.stdout


def assert_room(nest: Nest, walked: Walked) -> None:
    """Room for mvins is set aside before tiles are walked, by a bound that each tile keeps."""
    groups = walked.seen.groups
    so_far = [groups[groups[:, EX_TILE] == tile, EX_MVINS].max() for tile in range(len(walked.tiled.table))]
    found = np.diff(so_far, prepend=0)
    assert (found <= mvins_at_most(walked.tiled, nest.side, MACHINE.mvin_bytes)).all() and found.any()


@pytest.mark.parametrize(
    "nest", [conv(96, 72, 14, 3, tile=(64, 72, 3, 3, 7, 5)), gemm(100, 130, 60, tile=(64, 40, 1, 1, 1, 33))]
)
def test_no_tile_has_more_mvins_than_there_is_room_for(nest: Nest) -> None:
    assert_room(nest, walk(nest))
