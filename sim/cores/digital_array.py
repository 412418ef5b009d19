"""A digital PE array that computes `rows` pixels x `cols` output channels at once, as DIANA's 16x16 does.

A *block* is rows x cols outputs. Per block the array takes one cycle for every (input channel, filter tap), refills its
pixel registers at every (input channel, filter row), and starts up once. The law and its constants are MATCH's
digital cost model; ODiMO's leaves refill and start out (tests/oracle/DEVIATIONS.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from cosoc.sim.model.silicon import SUM_BITS, Silicon
from cosoc.sim.model.soc import NO_FEED, ONE_FORMAT, Core, Num
from cosoc.sim.model.units import Parallel, WholeCyclesOr0, WordBytesOr0
from cosoc.sim.model.workload import Tile


class DigitalArray(Core):
    """See the module docstring. Depthwise convolution runs one channel a job, on one column of the array."""

    BY_ARRAYS: ClassVar[bool] = True
    UNUSED: ClassVar[Mapping[str, str]] = NO_FEED | ONE_FORMAT

    model: Literal["digital_array"]
    rows: Parallel  # pixels at once
    cols: Parallel  # output channels at once
    pack_rows: bool = True  # whether a block's pixels may come from several output rows
    refill_cycles: WholeCyclesOr0 = 0  # per input channel and filter row of a block
    block_start_cycles: WholeCyclesOr0 = 0  # per block of rows x cols outputs
    channel_job_cycles: WholeCyclesOr0 = 0  # depthwise: configuration and wait per channel
    bias_bytes: WordBytesOr0 = 4  # per output channel, moved with the weights

    def silicon(self) -> Silicon:
        """A PE has a product, a sum, and registers for its operands and its sum."""
        pes = self.rows * self.cols
        return Silicon(
            multipliers=pes,
            multiplier_bits=(self.act_bits, self.weight_bits),
            register_bits=pes * (self.act_bits + self.weight_bits + SUM_BITS),
            read_bytes=self.rows * self.act_bits / 8,
            weight_bytes=self.cols * self.weight_bits / 8,
        )

    def improvements(self) -> tuple[str, ...]:
        return ("rows=x2",)

    def fits(self, tile: Tile) -> list[str]:
        if tile.op != "conv":
            return [f"runs convolutions, not {tile.op}"]
        reasons = []
        if tile.groups > 1 and not tile.depthwise:
            reasons.append(f"runs no grouped convolution (groups {tile.groups}), only depthwise")
        if tile.dilation > 1:
            reasons.append(f"runs no dilated convolution (dilation {tile.dilation})")
        return reasons

    def _block_cycles(self, tile: Tile) -> Num:
        return tile.c * tile.fy * tile.fx + self.refill_cycles * tile.c * tile.fy + self.block_start_cycles

    def cycles(self, tile: Tile, xp: Any) -> Num:
        if self.pack_rows:
            pixel_blocks = xp.ceildiv(tile.oy * tile.ox, self.rows)
        else:
            pixel_blocks = tile.oy * xp.ceildiv(tile.ox, self.rows)
        per_channel_block = pixel_blocks * self._block_cycles(tile)
        if tile.depthwise:
            return tile.k * (self.channel_job_cycles + per_channel_block)
        return xp.ceildiv(tile.k, self.cols) * per_channel_block

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        padded_k = xp.ceildiv(tile.k, self.cols) * self.cols
        if tile.depthwise:  # every channel's filter is stored as a group of `cols` of which one is used
            return tile.k * self.cols * tile.fy * tile.fx + self.bias_bytes * padded_k
        return padded_k * (tile.c * tile.fy * tile.fx + self.bias_bytes)
