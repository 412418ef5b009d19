"""An engine for matrix products in FP16: `rows` x `columns` multiply-adds with registers in between, as in RedMulE.

A column works on pipeline_registers + 1 outputs in turn, and the columns of a row stand one behind the other: a block
is rows x cols outputs, cols = columns (pipeline_registers + 1), and takes cols cycles for every `columns` terms of the
reduction. Of m x n by n x k:

    job_start_cycles + first words + max(ceil(m / rows) ceil(k / cols) ceil(n / columns) cols, other words)

A word is cols elements, one access of the engine's port. Every block has its weights (a word a term, padded to whole
columns), its inputs (one a row for cols terms) and `rows` words each that accumulators begin with and results that go.
The first inputs, accumulators and group of weights, and the last results, meet nothing that could hide them; all other
words are ahead of need, in FIFOs, so that refused ones delay the job only where they are too few a cycle altogether.

On the RTL of RedMulE (4 x 8 multiply-adds of 3 registers, ideal memory) this is 0.8 % off on average, and 0.6 % where
grants are refused at random, one in two at most (`docs/pulp.md`): FIFOs deep enough never to run dry by chance say as
much as any finite depth from a dozen words on. Darkside's own engine is RedMulE's ancestor, and may differ.

Pointwise convolutions are such products (pixels x channels); larger filters would have to be gathered first and are
refused. With a datamover inputs are widened from 8 to 16 bit after each load of them and results narrowed after each
job; without one they are said to come and go in FP16 at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from cosoc.sim.cores.datamover import Datamover
from cosoc.sim.model.silicon import Silicon
from cosoc.sim.model.soc import ONE_FORMAT, Core, Num
from cosoc.sim.model.units import BeatBytes, ElementsOr0, Parallel, WholeCyclesOr0
from cosoc.sim.model.workload import Tile

FP16_BYTES = 2


class TensorEngine(Core):
    """See the module docstring."""

    BY_ARRAYS: ClassVar[bool] = True
    UNUSED: ClassVar[Mapping[str, str]] = ONE_FORMAT
    FORMER: ClassVar[Mapping[str, str]] = {
        "port_bytes": "write law_feed_bytes",
        "cols": "write columns and pipeline_registers: a block has columns (pipeline_registers + 1) of them",
        "fmas": "write columns: rows x columns multiply-adds",
        "block_start_cycles": "write job_start_cycles: a job starts once",
    }

    model: Literal["tensor_engine"]
    rows: Parallel  # of multiply-adds, and of outputs of a block
    columns: Parallel  # of multiply-adds, one behind the other: terms of the reduction at once
    pipeline_registers: ElementsOr0  # of a multiply-add
    job_start_cycles: WholeCyclesOr0  # of a job, besides first and last words: configuration, the pipeline's length
    law_feed_bytes: BeatBytes  # what its feed links carry in a cycle where the law's cycles were counted
    # what widens inputs and narrows results, where it computes with other formats than lie in memory
    datamover: Datamover | None = None

    @property
    def cols(self) -> int:
        """Columns of outputs of a block."""
        return self.columns * (self.pipeline_registers + 1)

    @property
    def streams(self) -> bool:
        return bool(self.feed_links)

    @property
    def numbers(self) -> tuple[str, int, int]:
        return "float", self.weight_bits, self.act_bits

    def silicon(self) -> Silicon:
        """A row of multiply-adds with their pipeline, and a sum for each output of a block."""
        units = self.rows * self.columns
        bits = 8 * FP16_BYTES * (2 * units * (self.pipeline_registers + 1) + self.rows * self.cols)
        return Silicon(float_multipliers=units, register_bits=bits, read_bytes=self.law_feed_bytes)

    def improvements(self) -> tuple[str, ...]:
        return ("rows=x2",)

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

    def array(self, tile: Tile, xp: Any) -> Num:
        """Cycles of a job's multiply-adds."""
        return self._blocks(tile, xp) * xp.ceildiv(tile.c, self.columns) * self.cols

    def words(self, tile: Tile, xp: Any) -> Num:
        """Accesses of a job, all of them."""
        inputs = xp.ceildiv(tile.k, self.cols) * tile.oy * tile.ox * xp.ceildiv(tile.c, self.cols)
        each = self.columns * xp.ceildiv(tile.c, self.columns) + 2 * self.rows
        return inputs + self._blocks(tile, xp) * each

    def first_words(self, tile: Tile, xp: Any) -> Num:
        """Accesses that nothing hides: inputs, accumulators and weights that a job begins with, results at its end."""
        return (3 * self.rows + self.columns) * xp.used(tile.k)

    def _cycles_of(self, words: Num, xp: Any) -> Num:
        """Cycles of so many accesses where the law's were counted."""
        return xp.ceildiv(words * self.cols * FP16_BYTES, self.law_feed_bytes)

    def law(self, tile: Tile, xp: Any) -> Num:
        """Cycles of a job with nobody else at the scratchpad."""
        first = self.first_words(tile, xp)
        others = xp.maximum(self.words(tile, xp) - first, 0)
        hidden = xp.maximum(self.array(tile, xp), self._cycles_of(others, xp))
        return self.job_start_cycles * xp.used(tile.k) + self._cycles_of(first, xp) + hidden

    def cycles(self, tile: Tile, xp: Any) -> Num:
        if not self.streams:
            return self.law(tile, xp)
        return self.job_start_cycles * xp.used(tile.k) + self.array(tile, xp)

    def feed_bytes(self, tile: Tile, xp: Any) -> Num:
        if not self.streams:
            return 0 * tile.k
        first = self.first_words(tile, xp) * self.cols * FP16_BYTES
        return first + self.rewritten_bytes(tile.k * tile.oy * tile.ox, xp)

    def stream_bytes(self, tile: Tile, xp: Any) -> Num:
        if not self.streams:
            return 0 * tile.k
        others = xp.maximum(self.words(tile, xp) - self.first_words(tile, xp), 0)
        return others * self.cols * FP16_BYTES

    def rewritten_bytes(self, loaded: Num, xp: Any) -> Num:
        if self.datamover is None or not self.feed_links:
            return 0 * loaded
        return self.datamover.cycles(loaded, self.act_bits, xp) * self.law_feed_bytes

    @property
    def element_bytes(self) -> int:
        return FP16_BYTES if self.datamover else 1

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        return tile.k * tile.c * FP16_BYTES if tile.op == "conv" else 0 * tile.k
