"""Cycles and energy of nests as the simulator runs them, in closed form, for thousands of mappings in one call.

`cosoc.sim.gemmini.estimate` counts the work; what this module adds is what the measured programs do otherwise, and
where Gemmini's caches come in:

- a tile loads all its operands, whatever the tile before had (`estimate.every_tile`), and partial sums stay;
- arrays of convolutions are not aligned to lines, so that a row costs more beats and requests;
- which lines the L2 has lost follows from how much lies between two uses, under random replacement;
- mvins of few rows wait for their latency; load, execution and store of one tile follow each other, and two tiles are
  in flight; a software loop that ends costs extra.

Everything is written once for ints, arrays and tensors (`xp`), with five factors to fit (`NestTheta`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cosoc.sim import exact
from cosoc.sim.exact import Num
from cosoc.sim.gemmini.estimate import (
    BEAT_BYTES,
    LINE_BYTES,
    MVIN_BYTES,
    ORDERS,
    Machine,
    Shape,
    Tiles,
    along,
    counts,
    energy_pj,
    every_tile,
    reloads,
    terms,
)
from cosoc.sim.gemmini.lower import cache_sizes
from cosoc.sim.gemmini.memory import LLC_LINE_BYTES
from cosoc.sim.gemmini.run import gemmini_of
from cosoc.sim.soc import SoC


@dataclass(frozen=True)
class NestTheta:
    """unhidden: share of the faster units' time that does not overlap with the slowest's. lost: factor on the lines of
    operands that do not fit the L2; split: on those that narrow rows ask for again, part by part. row_cycles: of a
    row of 16 bytes or more that is not aligned, on top of its beats. store: factor on the time of the store unit."""

    unhidden: float = 0.1
    lost: float = 1.0
    split: float = 1.0
    row_cycles: float = 1.5
    store: float = 1.0


BOUNDS = {
    "unhidden": (0.0, 0.6), "lost": (0.2, 2.0), "split": (0.0, 2.0), "row_cycles": (0.0, 4.0), "store": (0.3, 3.0)
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """The figures of a SoC that the nests' closed form needs besides `estimate.Machine`: sets are those of the caches,
    dram_line_cycles the time of a line of the last-level cache."""

    machine: Machine
    loop_cycles: float
    tiles_in_flight: int
    setup_cycles: float
    llc_cycles: float
    mvins_in_flight: int
    l2_bytes: int
    l2_sets: int
    llc_bytes: int
    dram_line_cycles: float

    @staticmethod
    def of(soc: SoC) -> Model:
        """InputError unless the SoC has exactly one systolic array."""
        core = gemmini_of(soc)
        dram = soc.links[core.dram_link]
        return Model(
            machine=Machine.of(soc),
            loop_cycles=core.software.loop_cycles,
            tiles_in_flight=core.software.tiles_in_flight,
            setup_cycles=core.load.setup_cycles,
            llc_cycles=core.load.llc_cycles,
            mvins_in_flight=core.mvins_in_flight,
            l2_bytes=soc.memories[core.l2].capacity_bytes,
            l2_sets=cache_sizes(soc, core).l2_sets,
            llc_bytes=soc.memories[core.llc].capacity_bytes,
            dram_line_cycles=LLC_LINE_BYTES * dram.period_cycles / dram.bytes_per_period,
        )


@dataclass(frozen=True)
class Predicted:
    """Cycles and energy of nests."""

    cycles: Num
    energy_pj: Num


def predict(
    shape: Shape, tiles: Tiles, order: Sequence[Num], model: Model, theta: NestTheta, xp: Any = exact
) -> Predicted:
    """Cycles and energy of layers under tiles and a choice of order: one weight for each of ORDERS, summing to 1."""
    machine = model.machine
    near = terms(shape, tiles, every_tile(shape, tiles, xp), machine, xp)
    bare = terms(shape, tiles, every_tile(shape, tiles, xp), replace(machine, load_request_cycles=0.0), xp)
    rows = (near.load - bare.load) / machine.load_request_cycles
    load, rows_w, mvins = _load(shape, tiles, near.load, rows, model, theta, xp)
    n = counts(shape, tiles, xp)
    n_results = n["k"] * n["oy"] * n["ox"]
    n_tiles = n_results * n["c"] * n["fy"] * n["fx"]
    total: Num = 0
    for weight, loops in zip(order, ORDERS, strict=True):
        lines, stored, fetched = _lines(shape, tiles, loops, rows_w, model, theta, xp)
        late = mvins * model.setup_cycles + xp.minimum(lines, mvins) * model.llc_cycles
        loading = load + lines * machine.fill_cycles
        loading = xp.maximum(
            loading,
            (late + loading) / model.mvins_in_flight,
            (lines + stored) * (machine.outer_cycles_per_byte * LINE_BYTES),
            fetched * model.dram_line_cycles,
        )
        storing = near.store * theta.store + stored * machine.fill_cycles
        software = near.software + model.loop_cycles * _ended(shape, tiles, loops, xp)
        chain = loading + near.execute + storing + n_tiles * model.setup_cycles + n_results * machine.drain_cycles
        parts = (near.execute, loading, storing, software)
        # A convolution's load, execution and store of one tile follow each other; a GEMM's do so by parts.
        most = xp.maximum(*parts, (1 - shape.gemm) * chain / model.tiles_in_flight)
        rest = xp.maximum(parts[0] + parts[1] + parts[2] + parts[3] - most, 0.0 * most)
        exposed = theta.unhidden + (1 - theta.unhidden) / near.stages
        total = total + weight * (most + rest * exposed)
    return Predicted(total + machine.start_cycles + machine.drain_cycles, energy_pj(near, machine))


def _load(
    shape: Shape, tiles: Tiles, beats: Num, rows: Num, model: Model, theta: NestTheta, xp: Any
) -> tuple[Num, Num, Num]:
    """Cycles of the load unit where the L2 has everything; rows of weights; mvins.

    A row that is not aligned takes more beats and requests.
    """
    n, side = counts(shape, tiles, xp), model.machine.side
    k_parts = along(shape.k, tiles.k, lambda x: xp.ceildiv(x, MVIN_BYTES), xp)
    rows_w = shape.c * shape.fy * shape.fx * n["oy"] * n["ox"] * k_parts
    rows_i = rows - rows_w
    cols = (tiles.ox - 1) * shape.stride_x + tiles.fx
    mvins = rows_w / xp.minimum(tiles.c, side + 0 * tiles.c) + rows_i / xp.minimum(cols, side + 0 * cols)
    load = beats + theta.row_cycles * (
        rows_w * _unaligned(tiles.k, shape.k, shape.gemm, xp) + rows_i * _unaligned(tiles.c, shape.c, shape.gemm, xp)
    )
    return load, rows_w, mvins


def _unaligned(wide: Num, stride: Num, gemm: Num, xp: Any) -> Num:
    """How far a row of so many bytes suffers from its address: 0 for a byte, 1 from a beat on; 0 in an aligned GEMM."""
    part = (xp.minimum(wide, BEAT_BYTES + 0 * wide) - 1) / (BEAT_BYTES - 1)
    aligned = gemm * xp.where(stride - BEAT_BYTES * xp.floordiv(stride, BEAT_BYTES) > 0, 0, 1)
    return part * (1 - aligned)


def _over(n_bytes: Num, capacity: Num, xp: Any) -> Num:
    """The part that is missing when so many bytes are gone over again and again under random replacement.

    That is the m with 1 - m = exp(-m n / capacity); the power is within 0.03 of it.
    """
    return xp.maximum(1 - (capacity / n_bytes) ** 2.3, 0.0 * n_bytes)


def _sets(stride: Num, wide: Num, sets: int, xp: Any) -> Num:
    """The part of a cache's sets that rows of `wide` bytes, `stride` bytes apart, come to lie in."""
    step, lines = 1 + 0 * stride, xp.ceildiv(wide, LINE_BYTES)
    while sets > 1:  # the largest power of two that divides the stride in lines
        divides = xp.where(stride - 2 * step * LINE_BYTES * xp.floordiv(stride, 2 * step * LINE_BYTES) > 0, 0, 1)
        step, sets = step * (1 + divides), sets // 2
    return xp.minimum(lines / step, 1.0 + 0 * lines / step)


def _lines(
    shape: Shape, tiles: Tiles, loops: Sequence[str], rows_w: Num, model: Model, theta: NestTheta, xp: Any
) -> tuple[Num, Num, Num]:
    """Lines that loads miss in the L2, that stores miss, and lines of the last-level cache that come from DRAM.

    What misses is what lay too far back: the layer, when its arrays are gone over the first time; what a software loop
    goes over, when it brings an operand again; the lines of a column, when rows narrower than a line ask for their next
    part; the tile, when the next one loads the same.
    """
    far, n = reloads(shape, tiles, loops, xp), counts(shape, tiles, xp)
    l2, taps = model.l2_bytes, shape.fy * shape.fx
    pixels, inputs = shape.oy * shape.ox, shape.oy * shape.stride_y * shape.ox * shape.stride_x
    in_bytes, out_bytes, reduction = inputs * shape.c, shape.k * pixels, shape.c * taps
    weight_bytes = reduction * shape.k
    outside = loops.index("k") < loops.index("oy")  # whether output channels are the outer loop
    rows, cols = (tiles.oy - 1) * shape.stride_y + tiles.fy, (tiles.ox - 1) * shape.stride_x + tiles.fx
    region = rows * cols * shape.c
    total = weight_bytes + in_bytes + out_bytes
    beyond = theta.lost * _over(total, l2, xp)

    # --- weights
    wide = _lines_of(tiles.k, shape.k, xp)
    sets = _sets(shape.k, tiles.k, model.l2_sets, xp)
    column = reduction * wide * LINE_BYTES
    split = along(shape.k, tiles.k, lambda x: _lines_of(x, shape.k, xp), xp) - shape.k / LINE_BYTES
    back = column + in_bytes if outside else column
    between = 0 * column if loops[-1] == "k" else theta.split * _over(back, sets * l2, xp)
    again = theta.lost * _over(weight_bytes + region, l2, xp)
    weights = reduction * shape.k / LINE_BYTES * (beyond + (far.weights - 1) * again)
    weights = weights + reduction * far.weights * split * between
    held = tiles.c * tiles.fy * tiles.fx * wide * LINE_BYTES
    weights = weights + reduction * (n["oy"] * n["ox"] - far.weights) * (split + shape.k / LINE_BYTES) * _over(
        held, sets * l2, xp
    )

    # --- inputs
    sets = _sets(shape.c, tiles.c, model.l2_sets, xp)
    split = along(shape.c, tiles.c, lambda x: _lines_of(x, shape.c, xp), xp) - shape.c / LINE_BYTES
    again = theta.lost * _over(total if outside else region + column, l2, xp)
    plane = inputs * _lines_of(tiles.c, shape.c, xp) * LINE_BYTES
    apart = theta.split * _over(plane, sets * l2, xp) if outside else 0 * plane
    images = in_bytes / LINE_BYTES * (beyond + (far.inputs - 1) * again) + inputs * far.inputs * split * apart

    # --- results, and lines from DRAM
    split = along(shape.k, tiles.k, lambda x: _lines_of(x, shape.k, xp), xp) - shape.k / LINE_BYTES
    results = pixels * wide * LINE_BYTES
    left = theta.split * _over(results + in_bytes, l2, xp) if outside else 0 * results
    stored = out_bytes / LINE_BYTES * beyond + pixels * split * left
    out = _over(total, model.llc_bytes, xp)
    narrow = along(shape.k, tiles.k, lambda x: xp.ceildiv(x, LLC_LINE_BYTES), xp)
    lost = xp.where(between > 0, 1.0 + 0 * between, 0 * between)
    fetched = out * reduction * far.weights * (shape.k / LLC_LINE_BYTES * (1 - lost) + narrow * lost)
    fetched = fetched + out * (in_bytes * far.inputs + out_bytes) / LLC_LINE_BYTES
    return weights + images, stored, fetched


def _lines_of(wide: Num, stride: Num, xp: Any) -> Num:
    """Lines that a row of so many bytes takes a part of; neighbours share one where the stride is less than a line."""
    return xp.minimum(xp.ceildiv(wide, LINE_BYTES) * 1.0, stride / LINE_BYTES + 0.0 * wide)


def _ended(shape: Shape, tiles: Tiles, order: Sequence[str], xp: Any) -> Num:
    """Software loops of more than one iteration that end, over all tiles."""
    n, ended, outer = counts(shape, tiles, xp), 0 * tiles.k, 1 + 0 * tiles.k
    for d in order:
        ended = ended + outer * xp.where(n[d] > 1, 1.0 + 0 * n[d], 0.0 * n[d])
        outer = outer * n[d]
    return ended
