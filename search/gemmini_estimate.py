"""Cycles and energy of nests as the simulator runs them, in closed form, for thousands of mappings in one call.

`cosoc.sim.movers.cached_terms` counts the work; what this module adds is what the measured programs do otherwise, and
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
from dataclasses import dataclass
from typing import Any

from cosoc.sim import exact
from cosoc.sim.exact import Num
from cosoc.sim.model.soc import SoC
from cosoc.sim.movers.cached_terms import (
    ORDERS,
    CachedTerms,
    Machine,
    Reloads,
    Shape,
    Tiles,
    along,
    counts,
    energy_pj,
    every_tile,
    reloads,
    terms,
)


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
    """The figures of a SoC that the nests' closed form needs. l2_sets: of the L2; dram_line_cycles: the time of a line
    of the last-level cache."""

    machine: Machine
    l2_sets: int
    dram_line_cycles: float

    @staticmethod
    def of(soc: SoC) -> Model:
        """InputError unless the SoC has exactly one systolic array."""
        machine = Machine.of(soc)
        sets = machine.l2_bytes // (machine.line_bytes * machine.l2_ways)
        return Model(machine, sets, machine.llc_line_bytes * machine.dram_cycles_per_byte)


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
    n = counts(shape, tiles, xp)
    load, mvins = _load(shape, tiles, near, n, model, theta, xp)
    sizes = _sizes(shape, tiles, n, model, xp)
    n_results = n["k"] * n["oy"] * n["ox"]
    n_tiles = n_results * n["c"] * n["fy"] * n["fx"]
    total: Num = 0
    for weight, loops in zip(order, ORDERS, strict=True):
        lines, stored, fetched = _lines(shape, sizes, reloads(shape, tiles, loops, xp), loops, model, theta, xp)
        late = mvins * machine.setup_cycles + xp.minimum(lines, mvins) * machine.llc_cycles
        loading = load + lines * machine.fill_cycles
        loading = xp.maximum(
            loading,
            (late + loading) / machine.mvins_in_flight,
            (lines + stored) * (machine.outer_cycles_per_byte * machine.line_bytes),
            fetched * model.dram_line_cycles,
        )
        storing = near.store * theta.store + stored * machine.fill_cycles
        software = near.software + machine.loop_cycles * _ended(n, loops, xp)
        chain = loading + near.execute + storing + n_tiles * machine.setup_cycles + n_results * machine.drain_cycles
        parts = (near.execute, loading, storing, software)
        # A convolution's load, execution and store of one tile follow each other; a GEMM's do so by parts.
        most = xp.maximum(*parts, (1 - shape.gemm) * chain / machine.tiles_in_flight)
        rest = xp.maximum(parts[0] + parts[1] + parts[2] + parts[3] - most, 0.0 * most)
        exposed = theta.unhidden + (1 - theta.unhidden) / near.stages
        total = total + weight * (most + rest * exposed)
    return Predicted(total + machine.start_cycles + machine.drain_cycles, energy_pj(near, machine))


def _load(
    shape: Shape, tiles: Tiles, near: CachedTerms, n: dict[str, Num], model: Model, theta: NestTheta, xp: Any
) -> tuple[Num, Num]:
    """Cycles of the load unit where the L2 has everything; mvins. A row that is not aligned takes more beats and
    requests."""
    side, beat = model.machine.side, model.machine.beat_bytes
    spatial, taps = n["oy"] * n["ox"], shape.fy * shape.fx
    k_parts = along(shape.k, tiles.k, lambda x: xp.ceildiv(x, model.machine.mvin_bytes), xp)
    c_parts = along(shape.c, tiles.c, lambda x: xp.ceildiv(x, model.machine.mvin_bytes), xp)
    weights = shape.c * taps * spatial
    inputs = (near.dram_bytes - weights * shape.k - shape.k * shape.oy * shape.ox) / shape.c  # pixels, as often as read
    rows_w, rows_i = weights * k_parts, inputs * c_parts
    cols = (tiles.ox - 1) * shape.stride_x + tiles.fx
    mvins = rows_w / xp.minimum(tiles.c, side + 0 * tiles.c) + rows_i / xp.minimum(cols, side + 0 * cols)
    load = near.load + theta.row_cycles * (
        rows_w * _unaligned(tiles.k, shape.k, shape.gemm, beat, xp)
        + rows_i * _unaligned(tiles.c, shape.c, shape.gemm, beat, xp)
    )
    return load, mvins


def _unaligned(wide: Num, stride: Num, gemm: Num, beat: int, xp: Any) -> Num:
    """How far a row of so many bytes suffers from its address: 0 for a byte, 1 from a beat on; 0 in an aligned GEMM."""
    part = (xp.minimum(wide, beat + 0 * wide) - 1) / max(beat - 1, 1)
    aligned = gemm * xp.where(stride - beat * xp.floordiv(stride, beat) > 0, 0, 1)
    return part * (1 - aligned)


def _over(n_bytes: Num, capacity: Num, xp: Any) -> Num:
    """The part that is missing when so many bytes are gone over again and again under random replacement.

    That is the m with 1 - m = exp(-m n / capacity); the power is within 0.03 of it.
    """
    return xp.maximum(1 - (capacity / n_bytes) ** 2.3, 0.0 * n_bytes)


def _sets(stride: Num, wide: Num, sets: int, line: int, xp: Any) -> Num:
    """The part of a cache's sets that rows of `wide` bytes, `stride` bytes apart, come to lie in."""
    step, lines = 1 + 0 * stride, xp.ceildiv(wide, line)
    while sets > 1:  # the largest power of two that divides the stride in lines
        divides = xp.where(stride - 2 * step * line * xp.floordiv(stride, 2 * step * line) > 0, 0, 1)
        step, sets = step * (1 + divides), sets // 2
    return xp.minimum(lines / step, 1.0 + 0 * lines / step)


@dataclass(frozen=True)
class _Sizes:
    """What decides on misses whatever the order. Bytes: of all arrays, of weights, inputs and outputs; region: of the
    inputs under a tile, all channels; column, plane, results: of the lines that one tile's channels take a part of, in
    all weights, inputs and outputs. k_split, c_split: lines of a row that its parts ask for on top of what the row has;
    k_fetched: the same of lines of the last-level cache, in all. k_sets, c_sets: bytes of the L2 that rows so far apart
    can use. held: lines of weights that miss as the next tile loads the same ones again. spatial: tiles of pixels."""

    total: Num
    weights: Num
    inputs: Num
    outputs: Num
    region: Num
    column: Num
    plane: Num
    results: Num
    k_split: Num
    c_split: Num
    k_fetched: Num
    k_sets: Num
    c_sets: Num
    held: Num
    spatial: Num


def _sizes(shape: Shape, tiles: Tiles, n: dict[str, Num], model: Model, xp: Any) -> _Sizes:
    line, llc_line = model.machine.line_bytes, model.machine.llc_line_bytes
    reduction, pixels = shape.c * shape.fy * shape.fx, shape.oy * shape.ox
    in_pixels = shape.oy * shape.stride_y * shape.ox * shape.stride_x
    rows, cols = (tiles.oy - 1) * shape.stride_y + tiles.fy, (tiles.ox - 1) * shape.stride_x + tiles.fx
    wide, deep = _lines_of(tiles.k, shape.k, line, xp), _lines_of(tiles.c, shape.c, line, xp)
    k_lines = along(shape.k, tiles.k, lambda x: _lines_of(x, shape.k, line, xp), xp)
    c_lines = along(shape.c, tiles.c, lambda x: _lines_of(x, shape.c, line, xp), xp)
    k_sets = model.machine.l2_bytes * _sets(shape.k, tiles.k, model.l2_sets, line, xp)
    held = _over(tiles.c * tiles.fy * tiles.fx * wide * line, k_sets, xp)
    return _Sizes(
        total=reduction * shape.k + in_pixels * shape.c + shape.k * pixels,
        weights=reduction * shape.k,
        inputs=in_pixels * shape.c,
        outputs=shape.k * pixels,
        region=rows * cols * shape.c,
        column=reduction * wide * line,
        plane=in_pixels * deep * line,
        results=pixels * wide * line,
        k_split=k_lines - shape.k / line,
        c_split=c_lines - shape.c / line,
        k_fetched=along(shape.k, tiles.k, lambda x: xp.ceildiv(x, llc_line), xp),
        k_sets=k_sets,
        c_sets=model.machine.l2_bytes * _sets(shape.c, tiles.c, model.l2_sets, line, xp),
        held=reduction * k_lines * held,
        spatial=n["oy"] * n["ox"],
    )


def _lines(
    shape: Shape, sizes: _Sizes, far: Reloads, loops: Sequence[str], model: Model, theta: NestTheta, xp: Any
) -> tuple[Num, Num, Num]:
    """Lines that loads miss in the L2, that stores miss, and lines of the last-level cache that come from DRAM.

    What misses is what lay too far back: the layer, when its arrays are gone over the first time; what a software loop
    goes over, when it brings an operand again; the lines of a column, when rows narrower than a line ask for their next
    part; the tile, when the next one loads the same.
    """
    l2, s = model.machine.l2_bytes, sizes
    line, llc_line = model.machine.line_bytes, model.machine.llc_line_bytes
    k_outside, k_innermost = loops.index("k") < loops.index("oy"), loops[-1] == "k"
    zero = 0.0 * s.total
    beyond = theta.lost * _over(s.total, l2, xp)
    rows = s.weights / shape.k  # of weights

    back = s.column + s.inputs if k_outside else s.column
    between = zero if k_innermost else theta.split * _over(back, s.k_sets, xp)
    again = theta.lost * _over(s.weights + s.region, l2, xp)
    lines = s.weights / line * (beyond + (far.weights - 1) * again) + rows * far.weights * s.k_split * between
    lines = lines + (s.spatial - far.weights) * s.held

    again = theta.lost * _over(s.total if k_outside else s.region + s.column, l2, xp)
    apart = theta.split * _over(s.plane, s.c_sets, xp) if k_outside else zero
    lines = lines + s.inputs / line * (beyond + (far.inputs - 1) * again)
    lines = lines + s.inputs / shape.c * far.inputs * s.c_split * apart

    left = theta.split * _over(s.results + s.inputs, l2, xp) if k_outside else zero
    stored = s.outputs / line * beyond + s.outputs / shape.k * s.k_split * left

    lost = xp.where(between > 0, 1.0 + zero, zero)  # what a narrow row leaves of its line is gone when asked for
    fetched = rows * far.weights * (shape.k / llc_line * (1 - lost) + s.k_fetched * lost)
    fetched = fetched + (s.inputs * far.inputs + s.outputs) / llc_line
    return lines, stored, fetched * _over(s.total, model.machine.llc_bytes, xp)


def _lines_of(wide: Num, stride: Num, line: int, xp: Any) -> Num:
    """Lines that a row of so many bytes takes a part of; neighbours share one where the stride is less than a line."""
    return xp.minimum(xp.ceildiv(wide, line) * 1.0, stride / line + 0.0 * wide)


def _ended(n: dict[str, Num], loops: Sequence[str], xp: Any) -> Num:
    """Software loops of more than one iteration that end before another tile, over all tiles."""
    ended, outer = 0 * n["k"], 1 + 0 * n["k"]
    for d in loops:
        ended = ended + (outer - 1) * xp.where(n[d] > 1, 1.0 + 0 * n[d], 0.0 * n[d])
        outer = outer * n[d]
    return ended
