"""An engine for depthwise 3x3 convolution: `channels` at a time, down one output column after the other.

Per pass it loads the weights (a cycle a tap), per column the first window (a cycle a tap), and per output the rows that
the window moves on by, plus the store: 3 + 1 cycles at stride 1.

    ceil(k / channels) (9 + 9 ox + (3 stride + 1) ox oy)

At stride 1 that is ODiMO's law. That its 4 cycles are three loads and a store of `channels` bytes each is our reading,
and stride 2 follows from it. So the engine is at the scratchpad in every cycle, with a byte of each
channel of the `law_feed_bytes` that the link carries: it is fed for that share of the law, the rest is array cycles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from cosoc.sim.model.silicon import SUM_BITS, Silicon
from cosoc.sim.model.soc import ONE_FORMAT, Core, Num
from cosoc.sim.model.units import BeatBytes, Parallel, WordBytesOr0
from cosoc.sim.model.workload import Tile

EDGE = 3
TAPS = EDGE * EDGE
STRIDES = (1, 2)


class DepthwiseEngine(Core):
    """See the module docstring."""

    BY_ARRAYS: ClassVar[bool] = True
    UNUSED: ClassVar[Mapping[str, str]] = ONE_FORMAT
    FORMER: ClassVar[Mapping[str, str]] = {"port_bytes": "write law_feed_bytes"}

    model: Literal["depthwise_engine"]
    channels: Parallel  # at a time
    law_feed_bytes: BeatBytes  # what its feed links carry in a cycle where the law's cycles were counted
    bias_bytes: WordBytesOr0 = 4  # per output channel, moved with the weights

    def silicon(self) -> Silicon:
        """Of each channel the products of a window in the cycles of an output, a window of inputs and of weights, and
        the sum."""
        bits = TAPS * (self.act_bits + self.weight_bits) + SUM_BITS
        return Silicon(
            multipliers=self.channels * TAPS / (EDGE + 1),
            multiplier_bits=(self.act_bits, self.weight_bits),
            register_bits=self.channels * bits,
            read_bytes=self.channels,
        )

    def improvements(self) -> tuple[str, ...]:
        return ("channels=x2",)

    def fits(self, tile: Tile) -> list[str]:
        if tile.op != "conv" or not tile.depthwise:
            return [f"runs depthwise convolution only, not {tile.op}" + " of all channels" * (tile.op == "conv")]
        reasons = []
        if (tile.fy, tile.fx) != (EDGE, EDGE):
            reasons.append(f"has a window of {EDGE}x{EDGE}, not {tile.fy}x{tile.fx}")
        if tile.stride_y not in STRIDES or tile.stride_x not in STRIDES:
            reasons.append(f"moves by {' or '.join(map(str, STRIDES))}, not by stride {tile.stride_y}x{tile.stride_x}")
        if tile.dilation > 1:
            reasons.append(f"runs no dilated convolution (dilation {tile.dilation})")
        return reasons

    def law(self, tile: Tile, xp: Any) -> Num:
        """Cycles of a job with nobody else at the scratchpad."""
        return xp.ceildiv(tile.k, self.channels) * self._pass_cycles(tile)

    def _pass_cycles(self, tile: Tile) -> Num:
        per_output = EDGE * tile.stride_y + 1
        return TAPS + TAPS * tile.ox + per_output * tile.ox * tile.oy

    def cycles(self, tile: Tile, xp: Any) -> Num:
        fed = xp.ceildiv(self.feed_bytes(tile, xp), self.law_feed_bytes)
        return xp.maximum(self.law(tile, xp) - fed, 0)

    def feed_bytes(self, tile: Tile, xp: Any) -> Num:
        """A byte of each of its channels in every cycle of a pass."""
        return self._pass_cycles(tile) * tile.k if self.feed_links else 0 * tile.k

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        padded = xp.ceildiv(tile.k, self.channels) * self.channels
        return padded * (tile.fy * tile.fx + self.bias_bytes)
