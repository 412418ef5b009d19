"""A cluster of small processors with packed SIMD, running PULP-NN style kernels out of a shared scratchpad.

Convolution: every processor gathers the inputs under two pixels (im2col) and multiplies them with four filters at a
time; `im2col_cycles` a byte, `inner_cycles` a word of the reduction, `group_cycles` for the outputs of four filters.
A kernel divides that among its processors in one of two ways (`shares`). By `columns`, two rows of pixels by as many
columns as there are processors are worked on at once:

    it = ceil(oy / 2) ceil(ox / cores),  n = fy fx c
    it (im2col n + ceil(k / 4) (inner ceil(n / lanes) + group))

That law is the one that ODiMO and PLiNIO use for this family; lanes = 4 at 8 bit, 8 at 4 bit, 16 at 2 bit is ours. By
`blocks`, each processor takes its share of all blocks of two pixels and four filters, as kernels do that multiply
matrices; what lies under a window of one pixel is read where it is:

    ceil(ceil(oy ox / 2) ceil(k / 4) / cores) (inner ceil(n / lanes) + group)
    + ceil(ceil(oy ox / 2) / cores) im2col n  if fy fx > 1

Which of the two, and the cycles, are the kernels' of a library, not a chip's. Of the inner cycles `inner_loads` are
loads. Loads and stores are fed over the links to the scratchpad (4 bytes in a cycle for each processor that has a
column), the rest is array cycles; unloaded, both together are the law where the links carry `law_feed_bytes` a cycle.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from cosoc.sim.model.silicon import Silicon
from cosoc.sim.model.soc import Core, Num
from cosoc.sim.model.units import BeatBytes, Elements, ElementsOr0, Parallel, WholeCycles, WholeCyclesOr0, WordBytesOr0
from cosoc.sim.model.workload import Tile

WORD_BYTES, WORD_BITS = 4, 32
FILTERS, PIXELS = 4, 2  # of the blocked matrix product
SIMD_BITS = (2, 4, 8)


class Cluster(Core):
    """See the module docstring. Runs every operator but grouped convolution; what is no product goes element by
    element, `element_cycles` each, on all processors."""

    BY_ARRAYS: ClassVar[bool] = True

    model: Literal["cluster"]
    cores: Parallel  # processors
    shares: Literal["columns", "blocks"] = "columns"  # what of a product each processor takes
    im2col_cycles: WholeCycles  # per byte gathered
    inner_cycles: WholeCycles  # per word of the reduction, four filters and two pixels
    inner_loads: ElementsOr0  # of these, loads
    law_feed_bytes: BeatBytes  # what the links carry in a cycle where the law's cycles were counted
    group_cycles: WholeCyclesOr0  # per four filters and two pixels: scale, clip and store
    depthwise_cycles: WholeCycles  # per four channels of a pixel and filter tap, one processor
    linear_inputs: Elements  # inputs of a step of a fully connected layer, for four outputs, at 8 bit
    linear_cycles: WholeCycles  # of such a step, one processor
    element_cycles: WholeCycles  # per element read, one processor
    takes_alternatives: bool = False  # of layers that have one it computes the alternative, though it can run the layer
    bias_bytes: WordBytesOr0 = 4  # per output channel, moved with the weights

    @property
    def prefers_alternatives(self) -> bool:
        return self.takes_alternatives

    @property
    def simd_bits(self) -> int:
        """The format that both operands are unpacked to."""
        return max(self.weight_bits, self.act_bits)

    @property
    def lanes(self) -> int:
        """Multiply-accumulates of one instruction."""
        return WORD_BITS // self.simd_bits

    @property
    def peak_macs(self) -> int:
        """Multiply-accumulates a cycle if every processor issued nothing else."""
        return self.cores * self.lanes

    def silicon(self) -> Silicon:
        """Each processor has the products of a word of 8-bit numbers, and loads one."""
        products = self.cores * WORD_BITS // 8
        return Silicon(processors=self.cores, multipliers=products, read_bytes=self.cores * WORD_BYTES)

    def improvements(self) -> tuple[str, ...]:
        return ("cores=x2",)

    def fits(self, tile: Tile) -> list[str]:
        if self.simd_bits not in SIMD_BITS:
            return [f"has SIMD of {', '.join(map(str, SIMD_BITS))} bit, not {self.simd_bits}"]
        if tile.op == "conv" and tile.groups > 1 and not tile.depthwise:
            return [f"runs no grouped convolution (groups {tile.groups}), only depthwise"]
        return []

    def _work(self, tile: Tile, processors: int, xp: Any) -> tuple[Num, Num]:
        """Gatherings of two pixels and blocks of two pixels and four filters, one after the other, that so many
        processors do, or 1: all of them."""
        groups, once = xp.ceildiv(tile.k, FILTERS), xp.used(tile.k)
        if self.shares == "columns":
            turns = xp.ceildiv(tile.oy, PIXELS) * xp.ceildiv(tile.ox, processors)
            return turns * once, turns * groups
        pairs = xp.ceildiv(tile.oy * tile.ox, PIXELS)
        gathered = xp.where(tile.fy * tile.fx > 1, xp.ceildiv(pairs, processors) * once, 0 * pairs)
        return gathered, xp.ceildiv(pairs * groups, processors)

    def law(self, tile: Tile, xp: Any) -> Num:
        """Cycles of a job with nobody else at the scratchpad."""
        if tile.op not in ("conv", "matmul"):
            touched = tile.k * tile.oy * tile.ox * tile.fy * tile.fx * tile.operands
            return xp.ceildiv(touched, self.cores) * self.element_cycles
        groups = xp.ceildiv(tile.k, FILTERS)
        taps = tile.fy * tile.fx
        if tile.depthwise:
            return xp.ceildiv(self.depthwise_cycles * groups * tile.oy * tile.ox * taps, self.cores)
        reduction = taps * tile.c
        steps = xp.ceildiv(reduction, self.linear_inputs * self.lanes // 4) * groups
        linear = xp.ceildiv(steps * self.linear_cycles, self.cores)
        gathers, blocks = self._work(tile, self.cores, xp)
        gathered = self.im2col_cycles * xp.ceildiv(reduction * self.simd_bits, 8)
        blocked = gathers * gathered + blocks * (
            self.inner_cycles * xp.ceildiv(reduction, self.lanes) + self.group_cycles
        )
        return xp.where(_linear(tile), linear, blocked)

    def accesses(self, tile: Tile, xp: Any) -> Num:
        """Of these, cycles in which processors load or store: half of gathering, the inner loads, a store for four
        outputs; where there is no blocked product, half of all cycles."""
        return self._access(tile, self._work(tile, self.cores, xp), 1, xp)

    def feed_bytes(self, tile: Tile, xp: Any) -> Num:
        """A word for each processor that has work in a cycle of accesses."""
        if not self.feed_links:
            return 0 * tile.k
        return self._access(tile, self._work(tile, 1, xp), self.cores, xp) * WORD_BYTES

    def _access(self, tile: Tile, work: tuple[Num, Num], processors: int, xp: Any) -> Num:
        """Accesses of so many processors in the cycles of a law without blocks, or of so many gatherings and blocks."""
        half = xp.ceildiv(self.law(tile, xp), 2) * processors
        if (tile.op != "conv" and tile.op != "matmul") or tile.depthwise:
            return half
        reduction = tile.fy * tile.fx * tile.c
        gathered = xp.ceildiv(xp.ceildiv(reduction * self.simd_bits, 8) * self.im2col_cycles, 2)
        product = self.inner_loads * xp.ceildiv(reduction, self.lanes) + PIXELS
        return xp.where(_linear(tile), half, work[0] * gathered + work[1] * product)

    def cycles(self, tile: Tile, xp: Any) -> Num:
        if not self.feed_links:
            return self.law(tile, xp)
        fed = xp.ceildiv(self.feed_bytes(tile, xp), self.law_feed_bytes)
        return self.law(tile, xp) - xp.minimum(self.accesses(tile, xp), fed)

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        if tile.op != "conv":
            return 0 * tile.k
        return xp.ceildiv(tile.k * tile.c * tile.fy * tile.fx * self.weight_bits, 8) + self.bias_bytes * tile.k


def _linear(tile: Tile) -> Num:
    """Whether a tile is of a fully connected layer: one pixel of one tap."""
    return tile.op == "conv" and tile.oy * tile.ox * tile.fy * tile.fx == 1
