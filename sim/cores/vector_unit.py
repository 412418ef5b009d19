"""A unit that works through elements in lanes: pooling windows, residual adds.

`lanes` outputs a pass, `taps` inputs of a window (or operands of an add) a pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from cosoc.sim.model.silicon import SUM_BITS, Silicon
from cosoc.sim.model.soc import NO_FEED, NO_WEIGHTS, Core, FromList, Num
from cosoc.sim.model.units import Parallel
from cosoc.sim.model.workload import Tile


class VectorUnit(Core):
    """See the module docstring. `ops` names the operators it runs."""

    BY_ARRAYS: ClassVar[bool] = True
    UNUSED: ClassVar[Mapping[str, str]] = NO_WEIGHTS | NO_FEED

    model: Literal["vector_unit"]
    # operators that it runs
    ops: Annotated[tuple[Literal["add", "max_pool", "avg_pool", "eltwise"], ...], FromList] = Field(min_length=1)
    lanes: Parallel  # outputs a pass
    taps: Parallel  # inputs of a window, or operands of an addition, a pass

    def silicon(self) -> Silicon:
        """An adder or comparator a lane and tap, and a sum a lane."""
        inputs = self.lanes * self.taps
        return Silicon(adders=inputs, register_bits=self.lanes * SUM_BITS + 8 * inputs, read_bytes=inputs)

    def improvements(self) -> tuple[str, ...]:
        return ("lanes=x2",)

    def fits(self, tile: Tile) -> list[str]:
        return [] if tile.op in self.ops else [f"runs {', '.join(self.ops)}, not {tile.op}"]

    def cycles(self, tile: Tile, xp: Any) -> Num:
        passes = xp.ceildiv(tile.fy * tile.fx * tile.operands, self.taps)
        return xp.ceildiv(tile.k * tile.oy * tile.ox, self.lanes) * passes
