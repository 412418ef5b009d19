"""A GPU with tensor cores under a compiling runtime: convolutions as products of matrices, cut into tiles.

A kernel computes outputs (pixels of all images x channels) in tiles of tile_sizes, one a multiprocessor at a time, so
that tiles come in *waves* of as many as there are multiprocessors, and the last wave may be nearly empty:

    cycles = kernel_cycles + waves x inputs of a sum x (products / rate of a multiprocessor + operands / rate of the L2)

with the tile that is fastest (of two sides, each one of tile_sizes), and with the inputs of each pixel filled up to
tensor cores' LEAST_CHANNELS. The plain lanes multiply what has no product of matrices for tensor cores: convolutions in
groups, depthwise ones among them, and a matrix by one vector, whose weights all come from memory once.
What a kernel moves over the memory's link (`feed_links`) is its inputs, weights and outputs once each, and
`fill_bytes`: the link's time that goes until its first operands have come through cold caches and its last results are
out. Arithmetic and memory take turns, in `feed_pieces`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cosoc.sim.cores.roofline import Networks, evidence_of, number_format, over
from cosoc.sim.model.soc import Core, FromList, Name, Num, refuse
from cosoc.sim.model.units import Bits, BytesOr0, Elements, Parallel, PerCycle, Times, WholeCyclesOr0
from cosoc.sim.model.workload import Tile

LEAST_ROWS = 8  # of a product that a tensor core does at once
LEAST_CHANNELS = 8  # recalled: halves in a row of its operands; an image's 3 channels are stored as so many

NO_TILES = {
    "weight_memory": "it reads weights where tensors live",
    "keeps_weights": "it reads weights where tensors live",
    "weight_bits": "number_bits is its format",
    "weight_formats": "number_bits is its format",
    "act_bits": "number_bits is its format",
    "channel_step": "a kernel takes all channels",
}


def plain_bytes(tile: Tile, bits: int, xp: Any, filters: tuple[int, int] | None = None) -> Num:
    """Bytes of a layer's inputs, weights and outputs, once each; filters: rows and columns of a filter as stored."""
    outputs = tile.k * tile.oy * tile.ox
    rows = (tile.oy - 1) * tile.stride_y + tile.fy
    cols = (tile.ox - 1) * tile.stride_x + tile.fx
    weights: Num = 0
    if tile.op in ("conv", "matmul"):
        inputs = tile.k * rows * cols if tile.depthwise else tile.c * tile.groups * rows * cols * xp.used(tile.k)
        fy, fx = filters or (tile.fy, tile.fx)
        weights = tile.k * tile.c * fy * fx
    else:
        inputs = tile.k * rows * cols * tile.operands
    return xp.ceildiv((inputs + outputs + weights) * bits, 8)


def weights_in_main(tile: Tile, bits: int, xp: Any) -> Num:
    """What the main memory must hold of a layer's weights, bytes."""
    if tile.op != "conv":
        return 0 * tile.k
    return xp.ceildiv(tile.k * tile.c * tile.fy * tile.fx * bits, 8)


def folded(tile: Tile) -> bool:
    """Whether a runtime computes it as part of the layer before."""
    return tile.op == "eltwise" and tile.operands == 1


class OnMainMemory(Core):
    """An engine that computes from the main memory, over a link that it shares with others."""

    number_bits: Bits  # of weights and activations in memory
    handover_cycles: WholeCyclesOr0  # until a tensor that it made can be read by another core
    runtime: Name | None = None  # under which its figures were measured, as results say
    # networks that each class's figure was fitted to; left out where the file does not say
    networks: Networks | None = None

    @model_validator(mode="after")
    def _reads_over_a_link(self) -> Self:
        if not self.feed_links:
            what = "name the link of the memory that it computes from"
            refuse("core", {"feed_links": (self.feed_links, what)})
        return self

    @property
    def handover(self) -> int:
        return self.handover_cycles

    def evidence(self, tile: Tile) -> tuple[str, int] | None:
        return evidence_of(tile, self.networks)

    @property
    def basis(self) -> str:
        return f"{self.runtime} {number_format(self.number_bits)}" if self.runtime else ""


class TensorGpu(OnMainMemory):
    """See the module docstring."""

    UNUSED: ClassVar[Mapping[str, str]] = NO_TILES | {"launch_cycles": "kernel_cycles is the start of a kernel"}

    model: Literal["tensor_gpu"]
    peak_macs_per_cycle: PerCycle  # of the tensor cores of all multiprocessors
    lane_macs_per_cycle: PerCycle  # of the plain lanes of all multiprocessors
    multiprocessors: Parallel  # each with one tile of outputs at a time
    tile_sizes: Annotated[tuple[Elements, ...], FromList] = Field(min_length=1)  # sides that a tile of outputs may have
    l2_bytes_per_cycle: PerCycle  # of operands from the L2, to all multiprocessors
    kernel_cycles: WholeCyclesOr0  # start and end of a kernel
    fill_bytes: BytesOr0  # of the memory link's time, until first operands are there and last results out
    norm_passes: Times  # over its bytes, of a normalisation or softmax

    @property
    def peak(self) -> float:
        return self.peak_macs_per_cycle

    @property
    def numbers(self) -> tuple[str, int, int]:
        return "float" if self.number_bits > 8 else "integer", self.number_bits, self.number_bits

    @property
    def step(self) -> int:
        return self.tile_sizes[0]

    def improvements(self) -> tuple[str, ...]:
        return "peak_macs_per_cycle=x2", "l2_bytes_per_cycle=x2", "kernel_cycles=x0.5"

    def fits(self, tile: Tile) -> list[str]:
        return []

    def cycles(self, tile: Tile, xp: Any) -> Num:
        return self.batch_cycles(tile, 1, xp)

    def batch_cycles(self, tile: Tile, batch: int, xp: Any) -> Num:
        """Cycles of one kernel that computes the tile for each image of a batch."""
        if folded(tile):
            return 0 * tile.k
        spent: Num = 0
        if tile.op in ("conv", "matmul"):
            spent = self._lanes(tile, batch, xp)
            if tile.op == "matmul" or tile.groups == 1:  # groups of a matmul are products of matrices, one a head
                vector = batch * tile.oy * tile.ox == 1
                spent = xp.where(vector, spent, self._tensor_cores(tile, batch, xp))
        return (self.kernel_cycles + spent) * xp.used(tile.k)

    def _lanes(self, tile: Tile, batch: int, xp: Any) -> Num:
        macs = batch * tile.k * tile.c * tile.fy * tile.fx * tile.oy * tile.ox
        return over(macs, self.lane_macs_per_cycle, xp)

    def _tensor_cores(self, tile: Tile, batch: int, xp: Any) -> Num:
        pixels = batch * tile.oy * tile.ox
        sums = xp.ceildiv(tile.c, LEAST_CHANNELS) * LEAST_CHANNELS * tile.fy * tile.fx
        channels = xp.ceildiv(tile.k, tile.groups)
        found = []
        whole = xp.ceildiv(pixels, LEAST_ROWS) * LEAST_ROWS
        for side in self.tile_sizes:
            rows = xp.minimum(side, whole)
            for cols in self.tile_sizes:
                tiles = xp.ceildiv(pixels, rows) * xp.ceildiv(channels, cols) * tile.groups
                waves = xp.ceildiv(tiles, self.multiprocessors)
                products = over(waves * sums * (rows * cols * self.multiprocessors), self.peak_macs_per_cycle, xp)
                operands = waves * sums * ((rows + cols) * self.multiprocessors * self.number_bits)
                found.append(products + over(operands, 8 * self.l2_bytes_per_cycle, xp))
        return xp.minimum(*found) if len(found) > 1 else found[0]

    def feed_bytes(self, tile: Tile, xp: Any) -> Num:
        if folded(tile):
            return 0 * tile.k
        moved = plain_bytes(tile, self.number_bits, xp)
        if tile.op in ("norm", "softmax"):
            moved = moved * self.norm_passes
        fill = self.fill_bytes if tile.op in ("conv", "matmul") else 0
        return moved + fill * xp.used(tile.k)

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        return weights_in_main(tile, self.number_bits, xp)


__all__ = ["NO_TILES", "TensorGpu", "folded", "plain_bytes", "weights_in_main"]
