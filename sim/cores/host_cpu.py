"""A scalar processor that launches the other cores' jobs and runs what no other core can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from cosoc.sim.model.silicon import Silicon
from cosoc.sim.model.soc import NO_FEED, ONE_FORMAT, Core, Num
from cosoc.sim.model.units import WholeCycles, WordBytes
from cosoc.sim.model.workload import Tile


class HostCpu(Core):
    """Runs every operator, at so many cycles a multiply-accumulate or an element read.

    What a figure is of compiled code on RI5CY and Rocket: benchmarks/host_kernels.py.
    """

    BY_ARRAYS: ClassVar[bool] = True
    UNUSED: ClassVar[Mapping[str, str]] = NO_FEED | ONE_FORMAT

    model: Literal["host_cpu"]
    cycles_per_mac: WholeCycles  # of a multiply-accumulate
    cycles_per_element: WholeCycles  # of an element read, where nothing is multiplied: sums, pools, functions by table
    cycles_per_row_element: WholeCycles | None = (
        None  # of softmax and norms, which read a row more than once; none: as above
    )
    cycles_per_copied_element: WholeCycles | None = (
        None  # of concatenations, slices, tables' rows; none: as other elements
    )
    bias_bytes: WordBytes = 4  # per output channel, moved with the weights

    def silicon(self) -> Silicon:
        return Silicon(processors=1)

    def improvements(self) -> tuple[str, ...]:
        stated = ("cycles_per_mac", "cycles_per_element", "cycles_per_row_element", "cycles_per_copied_element")
        return tuple(f"{key}=x0.5" for key in stated if getattr(self, key) is not None)

    def fits(self, tile: Tile) -> list[str]:
        return []

    def cycles(self, tile: Tile, xp: Any) -> Num:
        outputs = tile.k * tile.oy * tile.ox
        if tile.op in ("conv", "matmul"):
            return outputs * tile.c * tile.fy * tile.fx * self.cycles_per_mac
        each: int | None = None
        if tile.op in ("softmax", "norm"):
            each = self.cycles_per_row_element
        elif tile.copied:
            each = self.cycles_per_copied_element
        return outputs * tile.fy * tile.fx * tile.operands * (each or self.cycles_per_element)

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        if tile.op != "conv":
            return 0 * tile.k
        return tile.k * (tile.c * tile.fy * tile.fx + self.bias_bytes)
