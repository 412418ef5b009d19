"""An engine for matrix products in FP16: `rows` x `cols` outputs a block, on `fmas` fused multiply-adds.

A block takes rows cols / fmas cycles for every term of the reduction and starts up once. Pointwise convolutions are
such products (pixels x channels); larger filters would have to be gathered first and are refused. A block reads its
pixels and weights and writes its results, two bytes each, while it computes: these cycles at the scratchpad are fed
over the links, the rest of the law is array cycles. The law and its start-up are ours; published is the peak.

With a datamover inputs are widened from 8 to 16 bit after each load of them and results narrowed after each job;
without one they are said to come and go in FP16 at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from cosoc.sim.cores.datamover import Datamover
from cosoc.sim.model.soc import ONE_FORMAT, Core, Count, Num, Positive
from cosoc.sim.model.workload import Tile

FP16_BYTES = 2


class TensorEngine(Core):
    """See the module docstring."""

    UNUSED: ClassVar[Mapping[str, str]] = ONE_FORMAT
    FORMER: ClassVar[Mapping[str, str]] = {"port_bytes": "write law_feed_bytes"}

    model: Literal["tensor_engine"]
    rows: Positive
    cols: Positive
    fmas: Positive
    block_start_cycles: Count  # filling the pipeline of multiply-adds
    law_feed_bytes: Positive  # what its feed links carry in a cycle where the law's cycles were counted
    datamover: Datamover | None = None

    def improvements(self) -> tuple[str, ...]:
        return ("fmas=x2",)

    def fits(self, tile: Tile) -> list[str]:
        if tile.op == "matmul":
            return []
        if tile.op != "conv" or tile.groups > 1:
            return [f"runs matrix products, not {'depthwise or grouped convolution' if tile.op == 'conv' else tile.op}"]
        if tile.fy * tile.fx > 1:
            return [f"multiplies matrices and gathers no windows: 1x1, not {tile.fy}x{tile.fx}"]
        return []

    def _blocks(self, tile: Tile, xp: Any) -> Num:
        return xp.ceildiv(tile.oy * tile.ox, self.rows) * xp.ceildiv(tile.k, self.cols)

    def law(self, tile: Tile, xp: Any) -> Num:
        """Cycles of a job with nobody else at the scratchpad."""
        per_term = -(-self.rows * self.cols // self.fmas)
        return self._blocks(tile, xp) * (per_term * tile.c + self.block_start_cycles)

    def _fed(self, tile: Tile, xp: Any) -> Num:
        return xp.ceildiv(self._traffic(tile, xp), self.law_feed_bytes)

    def _traffic(self, tile: Tile, xp: Any) -> Num:
        block = (self.rows + self.cols) * tile.c + self.rows * self.cols
        return self._blocks(tile, xp) * block * FP16_BYTES

    def cycles(self, tile: Tile, xp: Any) -> Num:
        if not self.feed_links:
            return self.law(tile, xp)
        return xp.maximum(self.law(tile, xp) - self._fed(tile, xp), 0)

    def feed_bytes(self, tile: Tile, xp: Any) -> Num:
        if not self.feed_links:
            return 0 * tile.k
        return self._traffic(tile, xp) + self.rewritten_bytes(tile.k * tile.oy * tile.ox, xp)

    def rewritten_bytes(self, loaded: Num, xp: Any) -> Num:
        if self.datamover is None or not self.feed_links:
            return 0 * loaded
        return self.datamover.cycles(loaded, self.act_bits, xp) * self.law_feed_bytes

    @property
    def element_bytes(self) -> int:
        return FP16_BYTES if self.datamover else 1

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        return tile.k * tile.c * FP16_BYTES if tile.op == "conv" else 0 * tile.k
