"""NE16: an engine for convolutions with weights of 2 to 8 bits, edge x edge pixels of `outputs` channels at a time.

Its units multiply an 8-bit activation by one bit of a weight: edge^2 taps x edge^2 pixels x `channels` input channels a
cycle, 1,296 in all. A window of edge x edge spends a cycle on every bit and output channel; 1x1 has the bits of a
weight side by side where a window has its taps, and spends a cycle on every output channel, whatever their width;
depthwise works like a window, with `channels` channels in and out. A block is edge x edge pixels of `outputs` channels:

    parts (load + fill + steps + index) + normalise + store,  parts = ceil(c / channels)

load: fill, and a pixel a cycle of the input buffer (1x1: a few more to set out, and only the pixels of the block).
steps: fill, and a cycle for every output channel (and bit). normalise: a word of partial sums of `multipliers` a cycle,
biases of `adders`. store: a pixel a cycle. The law is that of NE16's published performance model (PLiNIO, MATCH, DORY
use it). With stride 2 the input buffer, edge + 2 pixels wide, holds half as many outputs along an edge: ours, as it
says nothing of strides. Reads and writes go through a wide port of its own at the scratchpad, and are in these cycles.

A window of other sizes can be made of windows of edge x edge and of 1x1; here it is refused (assumed: the cluster
beside the engine runs those layers, and those of fewer than `least_channels` input channels).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from cosoc.sim.model.silicon import SUM_BITS, Silicon
from cosoc.sim.model.soc import NO_FEED, Core, Num
from cosoc.sim.model.units import Elements, Parallel, WholeCyclesOr0, WordBytesOr0
from cosoc.sim.model.workload import Tile


class Ne16(Core):
    """See the module docstring."""

    BY_ARRAYS: ClassVar[bool] = True
    UNUSED: ClassVar[Mapping[str, str]] = NO_FEED

    model: Literal["ne16"]
    edge: Parallel  # pixels of a block along an edge, and taps of a window
    channels: Parallel  # input channels at once
    outputs: Parallel  # output channels of a block
    least_channels: Elements = 1  # of inputs, for which it is used
    fill_cycles: WholeCyclesOr0  # of its FIFOs and pipeline
    point_load_cycles: WholeCyclesOr0  # before the pixels of a 1x1 block come
    index_cycles: WholeCyclesOr0  # between parts of a block
    normalise_start_cycles: WholeCyclesOr0  # before partial sums of a block are scaled
    multipliers: Parallel  # results scaled in a cycle
    bias_start_cycles: WholeCyclesOr0  # before biases of a block are added
    adders: Parallel  # biases added in a cycle
    store_start_cycles: WholeCyclesOr0  # before results of a block are stored
    bias_bytes: WordBytesOr0 = 4  # per output channel, moved with the weights

    @property
    def macs_per_cycle(self) -> float:
        """Products a cycle of a window, if all its units had work."""
        return self.edge**4 * self.channels / self.weight_bits

    def silicon(self) -> Silicon:
        """Its units add activations that a bit of a weight selects; sums of a block, and its inputs."""
        bits = self.edge**2 * self.outputs * SUM_BITS + (self.edge + 2) ** 2 * self.channels * 8
        return Silicon(
            adders=self.edge**4 * self.channels, adder_bits=12, register_bits=bits, read_bytes=self.channels,
            weight_bytes=self.edge**2 * self.channels / 8,
        )  # fmt: skip

    def improvements(self) -> tuple[str, ...]:
        return ("outputs=x2",)

    def fits(self, tile: Tile) -> list[str]:
        if tile.op != "conv":
            return [f"runs convolutions, not {tile.op}"]
        reasons = []
        if tile.groups > 1 and not tile.depthwise:
            reasons.append(f"runs no grouped convolution (groups {tile.groups}), only depthwise")
        windows = [(self.edge, self.edge)] + [(1, 1)] * (not tile.depthwise)
        if (tile.fy, tile.fx) not in windows:
            names = " or ".join(f"{fy}x{fx}" for fy, fx in windows)
            reasons.append(f"has a window of {names}, not {tile.fy}x{tile.fx}")
        if tile.stride_y not in (1, 2) or tile.stride_x not in (1, 2):
            reasons.append(f"moves by 1 or 2, not by stride {tile.stride_y}x{tile.stride_x}")
        if tile.dilation > 1:
            reasons.append(f"runs no dilated convolution (dilation {tile.dilation})")
        if not tile.depthwise and tile.c < self.least_channels:
            reasons.append(f"is used from {self.least_channels} input channels on, not {tile.c}")
        return reasons

    def _along(self, outputs: Num, stride: int, xp: Any) -> Num:
        """Blocks along one dimension."""
        return xp.ceildiv(outputs, (self.edge + stride - 1) // stride)

    def _block(self, tile: Tile, k: Num, xp: Any) -> Num:
        """Cycles of a block of k output channels; 0 of none."""
        point = tile.fy * tile.fx == 1
        if point:
            load, steps = self.point_load_cycles + self.edge**2, k
        else:
            load, steps = self.fill_cycles + (self.edge + 2) ** 2, k * self.weight_bits
        offset = self.fill_cycles + (k if tile.depthwise else 0)  # sums of activations, for the weights' offset
        parts = 1 if tile.depthwise else xp.ceildiv(tile.c, self.channels)
        part = load + offset + self.fill_cycles + steps + self.index_cycles
        scaled = self.normalise_start_cycles + xp.ceildiv(4 * k, self.multipliers)
        biased = self.bias_start_cycles + xp.ceildiv(k, self.adders)
        return (parts * part + scaled + biased + self.store_start_cycles + self.edge**2) * xp.used(k)

    def cycles(self, tile: Tile, xp: Any) -> Num:
        at_once = self.channels if tile.depthwise else self.outputs
        pixels = self._along(tile.oy, tile.stride_y, xp) * self._along(tile.ox, tile.stride_x, xp)
        whole = xp.floordiv(tile.k, at_once)
        rest = self._block(tile, tile.k - whole * at_once, xp)
        return pixels * (whole * self._block(tile, at_once, xp) + rest)

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        if tile.op != "conv":
            return 0 * tile.k
        filters = xp.ceildiv(tile.k, self.channels) * self.channels if tile.depthwise else tile.k
        padded = 1 if tile.depthwise else xp.ceildiv(tile.c, self.channels) * self.channels
        stored = xp.ceildiv(filters * padded * tile.fy * tile.fx * self.weight_bits, 8)
        return stored + self.bias_bytes * tile.k
