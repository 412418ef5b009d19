"""Compute in memory: arrays of resistive cells that hold the weights, inputs bit by bit, converters shared by columns.

A weight is `slices` cells side by side in `rows_per_weight` rows; one output channel is a column of weights, one (input
channel, tap) a row. A layer larger than an array takes blocks of them, all at work at once, and `copies` of the whole
work on several pixels. For each vector of inputs

    schedule    cycles of one vector
    stepwise    input bits x (read_cycles + columns_per_adc x conversion)   one bit is read, then converted
    pipelined   input bits x max(the same two) + drain_cycles               the next bit is read meanwhile
    summed      pulses x read_cycles + one conversion + settle_cycles       bits are summed as charge before

where conversion = adc_cycles + adc_bits x adc_bit_cycles (adc_bits only where bits take time), and b signed input bits
are max(1, 2^(b-1) - 1) pulses. Under `stepwise`, copies that have no vector of their own convert other columns of the
same one.

Arrays stand in tiles of `tile_arrays`. Before they are computed the vectors cross the chip and the tiles' buffers, and
that may well take longer: feed_links has the buffer of a tile and one lane of the network, in that order.

- Through the busiest tile's buffer go, for each vector, the inputs of its copies (each input channel once: every filter
  tap has its own bank) and the partial sums that leave it.
- Over the network go the whole window of inputs and the results. The trunk into a square of tiles is as wide as its
  edge, so that one lane carries one part in ceil(sqrt(tiles)).

Weights are written once where a network fits the chip, and again in every inference where it does not (`placement`).
What each figure was taken from or fitted to stands in the SoC files and in docs/cim.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from cosoc.sim.model.soc import Core, Num, refuse
from cosoc.sim.model.units import (
    Bits,
    BitsOr0,
    Elements,
    ElementsOr0,
    Parallel,
    Picojoules,
    PicojoulesPerByte,
    Times,
    WholeCycles,
    WholeCyclesOr0,
    WordBytes,
)
from cosoc.sim.model.workload import Tile

Schedule = Literal["stepwise", "pipelined", "summed"]


class Crossbar(Core):
    """See the module docstring."""

    BY_ARRAYS: ClassVar[bool] = True

    model: Literal["crossbar"]
    keeps_weights: bool = True  # weights are written once where a network fits the chip, not in every inference
    schedule: Schedule  # how reading and converting follow each other, as the module docstring says
    arrays: Parallel  # of the whole chip
    tile_arrays: Parallel  # that share a buffer
    sum_bytes: WordBytes = 4  # of a partial sum in a tile's buffer
    tile_inputs: Elements  # input channels that a tile can take; more are split over tiles, whose sums are added
    rows: Parallel  # of cells of an array
    cols: Parallel  # of cells of an array
    cell_bits: Bits  # of a weight that a cell holds
    rows_per_weight: Parallel = 1  # 2: a positive and a negative cell
    columns_per_adc: Parallel  # that share a converter, one after the other
    read_cycles: WholeCycles  # to read an array for one input bit or pulse
    adc_bits: BitsOr0 = 0  # of a converter, where each bit takes time
    adc_cycles: WholeCyclesOr0 = 0  # of a conversion, whatever its bits
    adc_bit_cycles: WholeCyclesOr0 = 0  # of a conversion, for each of adc_bits
    drain_cycles: WholeCyclesOr0 = 0  # after the last input bit, pipelined
    settle_cycles: WholeCyclesOr0 = 0  # after the conversion, summed
    most_copies: Times = 1  # of a layer's weights, for several pixels at once
    block_rows: ElementsOr0 = 0  # copies of a layer, where there are several, fill a block of cells ...
    block_cols: ElementsOr0 = 0  # ... that many rows and columns large
    pipelined: bool = False  # layers stand in tiles of their own, with buffers and lanes, and can all work at once
    read_pj: Picojoules = 0.0  # of one array and input bit
    dac_pj: Picojoules = 0.0  # of one row and input bit
    adc_pj: Picojoules = 0.0  # of a conversion, with adding it up
    buffer_pj_per_byte: PicojoulesPerByte = 0.0  # of what goes through a tile's buffer
    network_pj_per_byte: PicojoulesPerByte = 0.0  # of what goes over the network

    @model_validator(mode="after")
    def _has_two_links(self) -> Crossbar:
        if len(self.feed_links) not in (0, 2):
            raise ValueError(f"feed_links names {len(self.feed_links)} links; give a tile's buffer and a network lane")
        return self

    @model_validator(mode="after")
    def _needs_what_it_has(self) -> Crossbar:
        """A figure that nothing reads here is a mistake, and so is one that is missing."""
        several = "most_copies is 1, and one copy fills no block" if self.most_copies == 1 else ""
        timed = "" if self.adc_bit_cycles else "adc_bit_cycles is 0, so that a conversion takes adc_cycles at any width"
        reads = {
            "drain_cycles": "" if self.schedule == "pipelined" else f"only pipelined arrays drain, not {self.schedule}",
            "settle_cycles": "" if self.schedule == "summed" else f"only summed arrays settle, not {self.schedule}",
            "adc_bits": timed,
            "block_rows": several,
            "block_cols": several,
        }
        wrong = {key: f"{why}; remove the key" for key, why in reads.items() if getattr(self, key) and why}
        if self.adc_bit_cycles and not self.adc_bits:
            wrong["adc_bit_cycles"] = "of how many bits? give adc_bits"
        if self.most_copies > 1 and not (self.block_rows and self.block_cols):
            wrong["most_copies"] = "copies fill a block: give block_rows and block_cols"
        if wrong:
            refuse("core", {key: (getattr(self, key), what) for key, what in wrong.items()})
        return self

    @property
    def numbers(self) -> tuple[str, int, int]:
        return f"cells of {self.cell_bits} bits", self.weight_bits, self.act_bits

    @property
    def slices(self) -> int:
        """Cells side by side that hold one weight."""
        return -(-self.weight_bits // self.cell_bits)

    @property
    def input_steps(self) -> int:
        """Reads of an array for one vector of inputs."""
        return max(1, 2 ** (self.act_bits - 1) - 1) if self.schedule == "summed" else self.act_bits

    @property
    def conversion_cycles(self) -> int:
        """Cycles in which an ADC converts one column."""
        return self.adc_cycles + self.adc_bits * self.adc_bit_cycles

    def improvements(self) -> tuple[str, ...]:
        return ("columns_per_adc=x0.5", "read_cycles=x0.5")

    def fits(self, tile: Tile) -> list[str]:
        return [] if tile.op == "conv" else [f"runs convolutions and linear layers, not {tile.op}"]

    # -- arrays --------------------------------------------------------------------------------------------

    def blocks(self, tile: Tile, xp: Any) -> tuple[Num, Num]:
        """Arrays along the rows and along the columns that one copy of the weights takes. Groups that are smaller than
        an array share one along its diagonal, as they share neither inputs nor outputs."""
        rows = tile.c * tile.fy * tile.fx * self.rows_per_weight
        if tile.groups == 1:
            return xp.ceildiv(rows, self.rows), xp.ceildiv(tile.k * self.slices, self.cols)
        groups = tile.k if tile.depthwise else tile.groups
        cols = self.slices if tile.depthwise else xp.ceildiv(tile.k, tile.groups) * self.slices
        high, wide = xp.ceildiv(rows, self.rows), xp.ceildiv(cols, self.cols)
        shared = xp.minimum(xp.floordiv(self.rows, rows), xp.floordiv(self.cols, xp.maximum(cols, 1)))
        return high, xp.ceildiv(groups * wide, xp.maximum(shared, 1))

    def copies(self, tile: Tile, xp: Any) -> Num:
        """Copies of the weights that work at once: what a block holds, rows of one tap or of all if one array does."""
        if self.most_copies == 1:
            return 1
        taps = tile.c * tile.fy * tile.fx * self.rows_per_weight
        rows = xp.where(taps <= self.rows, taps, tile.c * self.rows_per_weight)
        high = xp.maximum(xp.floordiv(self.block_rows, rows), 1)
        wide = xp.maximum(xp.floordiv(self.block_cols, xp.maximum(tile.k * self.slices, 1)), 1)
        useful = tile.oy * tile.ox * (self.columns_per_adc if self.schedule == "stepwise" else 1)
        return xp.minimum(high * wide, self.most_copies, useful)

    def tiles(self, tile: Tile, xp: Any) -> Num:
        """Tiles that the layer with its copies fills; at least one."""
        high, wide = self.blocks(tile, xp)
        return xp.maximum(xp.ceildiv(self.copies(tile, xp) * high * wide, self.tile_arrays), 1)

    # -- time ----------------------------------------------------------------------------------------------

    def cycles(self, tile: Tile, xp: Any) -> Num:
        vectors, copies = tile.oy * tile.ox, self.copies(tile, xp)
        rounds = xp.ceildiv(vectors, copies)
        convert = self.columns_per_adc * self.conversion_cycles
        if self.schedule == "pipelined":
            spent = rounds * (self.input_steps * max(self.read_cycles, convert) + self.drain_cycles)
        elif self.schedule == "summed":
            spent = rounds * (self.input_steps * self.read_cycles + convert + self.settle_cycles)
        else:
            converted = xp.ceildiv(vectors * self.columns_per_adc, copies) * self.conversion_cycles
            spent = self.input_steps * (rounds * self.read_cycles + converted)
        return spent * xp.used(tile.k)

    def batch_cycles(self, tile: Tile, batch: int, xp: Any) -> Num:
        # The copies, their tiles and their feeds are laid out for the pixels of one image.
        return batch * self.cycles(tile, xp)

    def feeds(self, tile: Tile, xp: Any) -> tuple[tuple[tuple[str, ...], Num], ...]:
        if not self.feed_links:
            return ()
        buffer, lane = self.feed_links
        return ((buffer,), self.buffered(tile, xp)), ((lane,), self.lane_bytes(tile, xp))

    def feed_bytes(self, tile: Tile, xp: Any) -> Num:
        return sum((moved for _, moved in self.feeds(tile, xp)), 0 * tile.k)

    def _input_bytes(self) -> int:
        return -(-self.act_bits // 8)

    def buffered(self, tile: Tile, xp: Any) -> Num:
        """Bytes through the buffer of the busiest tile."""
        copies, tiles = self.copies(tile, xp), self.tiles(tile, xp)
        parts = xp.ceildiv(tile.c, self.tile_inputs)
        held = xp.ceildiv(copies * parts, tiles)
        inputs = xp.minimum(tile.c, self.tile_inputs) * held * self._input_bytes()
        sums = xp.ceildiv(copies * tile.k * parts, tiles) * self.sum_bytes
        return xp.ceildiv(tile.oy * tile.ox * (inputs + sums), copies) * xp.used(tile.k)

    def crossing(self, tile: Tile, xp: Any) -> Num:
        """Bytes over the whole network: windows of inputs in, results out."""
        groups = 1 if tile.groups == 1 else tile.k if tile.depthwise else tile.groups
        window = tile.c * tile.fy * tile.fx * groups
        return tile.oy * tile.ox * (window + tile.k) * self._input_bytes() * xp.used(tile.k)

    def lane_bytes(self, tile: Tile, xp: Any) -> Num:
        """Bytes over one lane of the trunk."""
        tiles, edge = self.tiles(tile, xp), 1
        for side in range(1, _edge(-(-self.arrays // self.tile_arrays))):
            edge = edge + xp.used(xp.maximum(tiles - side * side, 0))
        return xp.ceildiv(self.crossing(tile, xp), edge)

    # -- weights and energy --------------------------------------------------------------------------------

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        """Of whole arrays, copies included: what is not used of an array nobody else can use."""
        high, wide = self.blocks(tile, xp)
        cells = self.copies(tile, xp) * high * wide * self.rows * self.cols
        return xp.ceildiv(cells * self.cell_bits, 8) * xp.used(tile.k)

    def energy_pj(self, tile: Tile, xp: Any) -> Num:
        vectors = tile.oy * tile.ox
        high, wide = self.blocks(tile, xp)
        reads = vectors * self.input_steps
        groups = 1 if tile.groups == 1 else tile.k if tile.depthwise else tile.groups
        rows = tile.c * tile.fy * tile.fx * self.rows_per_weight * groups
        driven = rows * (wide if tile.groups == 1 else 1)
        converted = vectors * (1 if self.schedule == "summed" else self.input_steps) * high * tile.k * self.slices
        array = reads * (high * wide * self.read_pj + driven * self.dac_pj) + converted * self.adc_pj
        sums = vectors * tile.k * xp.ceildiv(tile.c, self.tile_inputs) * self.sum_bytes
        crossing = self.crossing(tile, xp)
        moved = crossing * self.network_pj_per_byte + (crossing + sums) * self.buffer_pj_per_byte
        return (array + moved) * xp.used(tile.k)


def _edge(tiles: int) -> int:
    """The edge of the smallest square of so many tiles."""
    edge = 1
    while edge * edge < tiles:
        edge += 1
    return edge


@dataclass(frozen=True)
class Peak:
    """ops_per_s: multiplications and additions, all arrays at work. watts: of the arrays, the core and the base."""

    ops_per_s: float
    watts: float

    @property
    def ops_per_joule(self) -> float:
        return self.ops_per_s / self.watts


def peak(core: Crossbar, tick_hz: int, base_power_mw: float) -> Peak:
    """What the chip would do if every array multiplied full vectors all the time: a layer of one array, `arrays` times.

    Buffers and network are left out, as in published peaks; what they draw stands in the core's power.
    """
    from cosoc.sim import exact

    inputs, outputs = core.rows // core.rows_per_weight, core.cols // core.slices
    full = Tile("conv", outputs, inputs, 1, 1)
    alone = core.model_copy(update={"most_copies": 1, "buffer_pj_per_byte": 0.0, "network_pj_per_byte": 0.0})
    seconds = int(alone.cycles(full, exact)) / tick_hz
    joules = core.arrays * float(alone.energy_pj(full, exact)) * 1e-12
    ops = 2 * inputs * outputs * core.arrays / seconds
    return Peak(ops, joules / seconds + (core.power_mw + base_power_mw) * 1e-3)


__all__ = ["Crossbar", "Peak", "peak"]
