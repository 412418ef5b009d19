"""Gemmini: a weight-stationary systolic array with a scratchpad, an accumulator and three decoupled controllers.

A *block* is side x side weights and up to side rows of inputs that stream past them. Per preload/compute pair the array
takes as many cycles as rows stream, and at least `min_rows`; as `pairs_in_flight` pairs are in flight at most, a pair
also costs at least its latency divided by their number, which is what blocks of few rows are bound by.

Constants that name a mechanism of the hardware are its RTL's; those marked `fitted` in the SoC file are effective
values, chosen on measured cycles, and are not to be read as latencies of single parts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cosoc.sim.model.soc import Core, Count, Model, Name, Num, Positive
from cosoc.sim.model.workload import Tile

Cycles = Annotated[float, Field(ge=0)]  # of cycles, or of picojoules


class Execute(Model):
    """The execute controller and the mesh."""

    min_rows: Positive  # cycles between two writes to the accumulator
    pairs_in_flight: Positive
    pair_latency_cycles: Cycles  # of a preload/compute pair, from its entry to its completion ...
    pair_latency_cycles_per_pe: Cycles  # ... and what each PE along the side adds
    drain_cycles: Cycles  # from the last row in to the first result that can be stored


class Load(Model):
    """The load controller and its DMA."""

    rows_in_flight: Positive  # a further mvin may start while fewer rows than this are outstanding
    setup_cycles: Cycles  # from a mvin's start to its first beat, where the L2 has it
    request_cycles: Cycles  # on the return path, on top of a request's beats
    fill_cycles: Cycles  # for which a line that comes into the L2 keeps its port from reads and writes
    llc_cycles: Cycles  # until the first beat, where the last-level cache has it; on top of setup_cycles
    dram_cycles: Cycles  # until the first beat, where only the DRAM has it; on top of both


class Store(Model):
    """The store controller and its DMA."""

    request_cycles: Cycles  # per request, on top of its beats


class Software(Model):
    """What the processor does around every tile: a loop nest and six or seven instructions to Gemmini."""

    conv_tile_cycles: Cycles
    gemm_tile_cycles: Cycles
    loop_cycles: Cycles  # when a loop of the nest ends and the next one out moves on: on top, for each
    tiles_in_flight: Positive
    start_cycles: Count  # once a layer: configuration, and the fence at the end


class AccessEnergy(Model):
    """Energy of a multiply-accumulate and of an access to an 8-bit word of each memory. Those of accumulator and
    scratchpad grow with their size: by KB and PE along the side, and by KB."""

    mac_pj: Cycles
    register_pj: Cycles
    accumulator_pj: Cycles
    accumulator_pj_per_kb_and_pe: Cycles
    scratchpad_pj: Cycles
    scratchpad_pj_per_kb: Cycles
    dram_pj: Cycles


class Systolic(Core):
    """See the module docstring. `l2`, `llc` are memories of the SoC; the links are named by what runs over them."""

    model: Literal["systolic"]
    side: Positive  # PEs along an edge
    accumulator: Name
    execute: Execute
    load: Load
    store: Store
    software: Software
    access: AccessEnergy
    l2: Name
    l2_ways: Positive
    llc: Name
    llc_ways: Positive
    return_link: Name  # from the L2 to the scratchpad
    outer_link: Name  # from the last-level cache to the L2
    dram_link: Name  # from the DRAM to the last-level cache

    def own_memories(self) -> tuple[str, ...]:
        return ("accumulator", "l2", "llc")

    def own_links(self) -> tuple[str, ...]:
        return ("return_link", "outer_link", "dram_link")

    def fits(self, tile: Tile) -> list[str]:
        if tile.op not in ("conv", "matmul"):
            return [f"runs convolutions and matmuls, not {tile.op}"]
        reasons = []
        if tile.op == "conv" and tile.groups > 1 and not tile.depthwise:
            reasons.append(f"runs no grouped convolution (groups {tile.groups}), only depthwise")
        if tile.dilation > 1:
            reasons.append(f"runs no dilated convolution (dilation {tile.dilation})")
        return reasons

    @property
    def pair_cycles(self) -> float:
        """Least cycles a preload/compute pair: Little's law over the pairs in flight."""
        execute = self.execute
        latency = execute.pair_latency_cycles + execute.pair_latency_cycles_per_pe * self.side
        return latency / execute.pairs_in_flight

    @property
    def mvins_in_flight(self) -> int:
        """mvins of `side` rows that the load controller has under way."""
        return self.load.rows_in_flight // self.side + 1

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
