"""Gemmini: a weight-stationary systolic array with a scratchpad, an accumulator and three decoupled controllers.

A *block* is side x side weights and up to side rows of inputs that stream past them. Per preload/compute pair the array
takes as many cycles as rows stream, and at least `min_rows`; as `pairs_in_flight` pairs are in flight at most, a pair
also costs at least its latency divided by their number, which is what blocks of few rows are bound by.

Constants that name a mechanism of the hardware are its RTL's; those marked `fitted` in the SoC file are effective
values, chosen on measured cycles, and are not to be read as latencies of single parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from cosoc.sim.model.silicon import SUM_BITS, Silicon
from cosoc.sim.model.soc import NO_FEED, Core, Model, Name, Num
from cosoc.sim.model.units import Cycles, Elements, InFlight, Parallel, Picojoules, WholeCyclesOr0
from cosoc.sim.model.workload import Tile


class Execute(Model):
    """The execute controller and the mesh."""

    min_rows: Elements  # cycles between two writes to the accumulator
    pairs_in_flight: InFlight  # of preloads and computes
    pair_latency_cycles: Cycles  # of a preload/compute pair, from its entry to its completion ...
    pair_latency_cycles_per_pe: Cycles  # ... and what each PE along the side adds
    drain_cycles: Cycles  # from the last row in to the first result that can be stored


class Software(Model):
    """What the processor does around every tile: a loop nest and six or seven instructions to Gemmini."""

    conv_tile_cycles: Cycles  # of a tile of a convolution
    gemm_tile_cycles: Cycles  # of a tile of a matrix product
    loop_cycles: Cycles  # when a loop of the nest ends and the next one out moves on: on top, for each
    tiles_in_flight: InFlight  # whose instructions have been given
    start_cycles: WholeCyclesOr0  # once a layer: configuration, and the fence at the end


class AccessEnergy(Model):
    """Energy of a multiply-accumulate and of an access to an 8-bit word of each memory. Those of accumulator and
    scratchpad grow with their size: by KB and PE along the side, and by KB; beyond linear_kb, where it is stated, with
    the root of the size, as wires of a square do."""

    mac_pj: Picojoules  # of an 8-bit multiply-accumulate
    register_pj: Picojoules  # of a register's 8 bits
    accumulator_pj: Picojoules  # of the accumulator's 8 bits, whatever its size
    accumulator_pj_per_kb_and_pe: Picojoules  # on top of it, by the accumulator's KB over PEs along the side
    scratchpad_pj: Picojoules  # of the scratchpad's 8 bits, whatever its size
    scratchpad_pj_per_kb: Picojoules  # on top of it, by the scratchpad's KB
    linear_kb: Elements | None = None  # up to which an access grows with the size; beyond, with its root

    def of(self, scratchpad_kb: float, accumulator_kb: float, side: int) -> tuple[float, float]:
        """pJ of an access to scratchpad and accumulator of these sizes."""
        return (
            self._grown(self.scratchpad_pj, self.scratchpad_pj_per_kb, scratchpad_kb),
            self._grown(self.accumulator_pj, self.accumulator_pj_per_kb_and_pe / side, accumulator_kb),
        )

    def _grown(self, fixed: float, per_kb: float, kb: float) -> float:
        if self.linear_kb is None or kb <= self.linear_kb:
            return fixed + per_kb * kb
        return (fixed + per_kb * self.linear_kb) * math.sqrt(kb / self.linear_kb)


class Systolic(Core):
    """See the module docstring. Its mover is a cached one."""

    UNUSED: ClassVar[Mapping[str, str]] = NO_FEED | {
        "weight_memory": "its weights lie in its memory",
        "keeps_weights": "its weights lie in its memory",
        "weight_bits": "it computes in 8 bits",
        "weight_formats": "it computes in 8 bits",
        "act_bits": "it computes in 8 bits",
        "channel_step": "side is its step",
        "launch_cycles": "software has what the host does for it",
        "layer_launch_cycles": "software has what the host does for it",
    }

    model: Literal["systolic"]
    side: Parallel  # PEs along an edge
    accumulator: Name  # memory of partial sums
    kernel_dilation: bool = False  # its convolutions take filters whose taps lie apart, by one distance along both axes
    execute: Execute
    software: Software
    access: AccessEnergy

    @property
    def takes_rows(self) -> bool:
        return True

    @property
    def step(self) -> int:
        return self.side

    def own_memories(self) -> tuple[str, ...]:
        return ("accumulator",)

    def silicon(self) -> Silicon:
        """A PE has a product, a sum, and registers for two weights, an input and a partial sum."""
        pes = self.side**2
        return Silicon(multipliers=pes, register_bits=pes * (2 * 8 + 8 + SUM_BITS), read_bytes=self.side)

    def own_energies(self) -> bool:
        return True

    def improvements(self) -> tuple[str, ...]:
        return ("execute.pair_latency_cycles=x0.5",)

    def fits(self, tile: Tile) -> list[str]:
        if tile.op in ("add", "max_pool", "avg_pool"):
            return []  # through its memories and controllers
        if tile.op not in ("conv", "matmul"):
            return [f"runs convolutions, matmuls, additions and poolings, not {tile.op}"]
        reasons = []
        if tile.op == "conv" and tile.stride_y != tile.stride_x:
            reasons.append(f"has one stride, not {tile.stride_y} x {tile.stride_x}")
        if tile.op == "conv" and tile.groups > 1 and not tile.depthwise:
            reasons.append(f"runs no grouped convolution (groups {tile.groups}), only depthwise")
        if tile.dilation > 1 and not self.kernel_dilation:
            reasons.append(f"runs no dilated convolution (dilation {tile.dilation})")
        if tile.dilation_y != tile.dilation_x:
            reasons.append(f"has one dilation, not {tile.dilation_y} x {tile.dilation_x}")
        return reasons

    @property
    def pair_cycles(self) -> float:
        """Least cycles a preload/compute pair: Little's law over the pairs in flight."""
        execute = self.execute
        latency = execute.pair_latency_cycles + execute.pair_latency_cycles_per_pe * self.side
        return latency / execute.pairs_in_flight

    def cycles(self, tile: Tile, xp: Any) -> Num:
        """Rows streamed: the law of the module docstring with full pixel blocks, channel blocks and taps."""
        blocks = xp.ceildiv(tile.k, self.side) * tile.fy * tile.fx
        rows = tile.oy * xp.maximum(tile.ox, self.execute.min_rows)
        if tile.depthwise:
            return tile.k * tile.fy * tile.fx * rows
        return blocks * xp.ceildiv(tile.c, self.side) * rows

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        if tile.depthwise:
            return tile.k * tile.fy * tile.fx
        return tile.k * tile.c * tile.fy * tile.fx

    def work(self, k: Num, c: Num, taps: Num, pixels: Num, own: Num, xp: Any) -> tuple[Num, Num, Num, Num]:
        """What a tile makes the array do: (MACs, accesses to registers, to the scratchpad, to the accumulator), in
        8-bit words. Registers: a read a MAC, a write a weight. Scratchpad: a read a weight, a read an input, `side`
        output channels and tap. Accumulator: a read and a write a partial sum, one for every `side` input channels and
        tap. own: 1 where output channel k reads input channel k alone."""
        outputs, weights = k * pixels, k * c * taps
        macs = outputs * c * taps
        reads = xp.where(own > 0, k, c * xp.ceildiv(k, self.side)) * pixels * taps
        return macs, macs + weights, reads + weights, 2 * outputs * taps * xp.ceildiv(c, self.side)
