"""An analog in-memory array of ternary cells: one operation multiplies every stored row by every stored column.

The filters stand in the array, one output channel a column, one (input channel, tap) a row; `ox_unroll` copies of them,
shifted, give that many pixels an operation. A larger filter or more channels take several operations. Before an
operation its new inputs are written to the drivers and after it the results are read, over `feed_links`.

Time of an operation and the unroll rule are ODiMO's. What the feed costs is where public models of DIANA
disagree by 8x on the same layer; the rate stands in the SoC file and can be swept. An operation spends energy by the
cells that it works with: rows of all its taps, laid out as for the unroll, times columns in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cosoc.sim import exact
from cosoc.sim.model.silicon import Silicon
from cosoc.sim.model.soc import Core, FromList, Model, Num, refuse
from cosoc.sim.model.units import (
    Bits,
    ConverterBits,
    ConverterSteps,
    Elements,
    Kelvins,
    OfFullScale,
    Parallel,
    PerKelvin,
    Picojoules,
    Times,
    WholeCycles,
    WordBytesOr0,
)
from cosoc.sim.model.workload import Tile


class AnalogNoise(Model):
    """What is inexact in an analog array: no time or energy follows from it, the accuracy of a trained network does
    (`cosoc evaluate --noise`, `cosoc search --train-noise`)."""

    adc_bits: ConverterBits  # of the converters that read the columns, signed
    adc_noise_lsb: ConverterSteps = 0.0  # standard deviation of a conversion, in steps of the converter
    weight_sigma: OfFullScale = 0.0  # standard deviation of a cell's weight, of the largest weight of its column
    gain_per_k: PerKelvin = 0.0  # by which all column sums change with the temperature
    off_by_k: Kelvins = 0.0  # that a chip is warmer or colder than its converters were set at, at most

    @model_validator(mode="after")
    def _drifts_by_degrees(self) -> AnalogNoise:
        if bool(self.gain_per_k) != bool(self.off_by_k):
            key, other = ("gain_per_k", "off_by_k") if self.gain_per_k else ("off_by_k", "gain_per_k")
            refuse("noise", {key: (getattr(self, key), f"changes nothing where {other} is 0; give both, or neither")})
        return self


class AnalogArray(Core):
    """See the module docstring. An operation takes period_cycles / period_ops cycles."""

    BY_ARRAYS: ClassVar[bool] = True
    UNUSED: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("weight_bits", "weight_formats"), "its weights are ternary, each in a cell of cell_bits"
    )

    model: Literal["analog_array"]
    weight_bits: Bits = 2  # as ternary weights count in its memory
    rows: Parallel  # of cells: input channels and taps at once
    cols: Parallel  # of cells: output channels at once
    period_cycles: WholeCycles  # in which the array does period_ops operations
    period_ops: Times = 1  # operations in period_cycles
    ox_unrolls: Annotated[tuple[Elements, ...], FromList] = Field(
        (1,), min_length=1
    )  # pixels that an operation may give, ascending
    min_channels: Elements = 1  # rows are laid out for at least so many input channels a tap
    store_rows_step: Parallel = 1  # weights are stored, and loaded, in multiples of this many rows ...
    store_cols_step: Parallel = 1  # ... and this many columns
    cell_bits: Bits = 2  # that a weight takes as it is stored and moved
    bias_bytes: WordBytesOr0 = 0  # per output channel, moved with the weights
    operation_pj: Picojoules = 0.0  # of an operation with all cells at work
    noise: AnalogNoise | None = None  # what is inexact in it, on which accuracy alone depends

    @property
    def unrolls(self) -> bool:
        return True

    @property
    def ternary(self) -> bool:
        return True

    def silicon(self) -> Silicon:
        return Silicon(cell_bits=self.rows * self.cols * self.cell_bits)

    def own_energies(self) -> bool:
        return True

    def improvements(self) -> tuple[str, ...]:
        return ("period_ops=x2",)

    def fits(self, tile: Tile) -> list[str]:
        if tile.op != "conv":
            return [f"runs convolutions, not {tile.op}"]
        reasons = []
        if tile.depthwise or tile.groups > 1:
            reasons.append("runs no grouped or depthwise convolution: its columns share their input rows")
        if tile.dilation > 1:
            reasons.append(f"runs no dilated convolution (dilation {tile.dilation})")
        if tile.ox_unroll and tile.ox_unroll not in self.ox_unrolls:
            reasons.append(f"ox_unroll {tile.ox_unroll} is not one of {', '.join(map(str, self.ox_unrolls))}")
        return reasons

    def unroll(self, tile: Tile, xp: Any) -> Num:
        """Pixels an operation: the most whose shifted filter copies fit the rows and the columns."""
        row_tap = xp.maximum(tile.c, self.min_channels) * tile.fy
        by_rows = xp.floordiv(xp.floordiv(self.rows, row_tap) - tile.fx, tile.stride_x) + 1
        by_cols = xp.floordiv(self.cols, xp.maximum(tile.k, 1))
        limit = xp.minimum(by_rows, by_cols)
        if tile.ox_unroll:
            limit = xp.minimum(limit, tile.ox_unroll)
        return xp.largest(self.ox_unrolls, limit)

    def blocks(self, tile: Tile, xp: Any) -> tuple[Num, Num]:
        """Operations along the rows (input channels and taps) and along the columns (output channels)."""
        return xp.ceildiv(tile.c * tile.fy * tile.fx, self.rows), xp.ceildiv(tile.k, self.cols)

    def cycles(self, tile: Tile, xp: Any) -> Num:
        row_blocks, col_blocks = self.blocks(tile, xp)
        ops = row_blocks * col_blocks * tile.oy * xp.ceildiv(tile.ox, self.unroll(tile, xp))
        return xp.ceildiv(ops * self.period_cycles, self.period_ops)

    def feed_bytes(self, tile: Tile, xp: Any) -> Num:
        if not self.feed_links:
            return 0 * tile.k
        row_blocks, col_blocks = self.blocks(tile, xp)
        # A row of outputs reads each input column under it once: the window shifts in the drivers.
        columns = (tile.ox - 1) * tile.stride_x + tile.fx
        inputs = tile.oy * columns * tile.fy * tile.c
        return col_blocks * inputs + row_blocks * tile.k * tile.oy * tile.ox

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        rows = xp.ceildiv(tile.c * tile.fy * tile.fx, self.store_rows_step) * self.store_rows_step
        cols = xp.ceildiv(tile.k, self.store_cols_step) * self.store_cols_step
        return xp.ceildiv(rows * cols * self.cell_bits, 8) + self.bias_bytes * tile.k

    def _cells(self, tile: Tile, unroll: Num, xp: Any) -> Num:
        """Cells that a layer's filters and their shifted copies take, over all of its operations on one place."""
        rows = xp.maximum(tile.c, self.min_channels) * tile.fy * ((unroll - 1) * tile.stride_x + tile.fx)
        return rows * tile.k * unroll

    def energy_pj(self, tile: Tile, xp: Any) -> Num:
        unroll = self.unroll(tile, xp)
        places = tile.oy * xp.ceildiv(tile.ox, unroll)
        return places * self._cells(tile, unroll, xp) * (self.operation_pj / (self.rows * self.cols))

    def resident(self, tiles: Sequence[Tile]) -> list[str]:
        """Cells needed by all filters and their shifted copies, against the cells there are."""
        need = sum(self._cells(tile, self.unroll(tile, exact), exact) for tile in tiles)
        if need <= self.rows * self.cols:
            return []
        return [f"needs {need} cells for the filters of the group, and has {self.rows * self.cols}; lower ox_unroll"]
