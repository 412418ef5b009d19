"""A deep-learning accelerator beside a GPU: an array of multipliers fed from a convolution buffer, after NVDLA.

    cycles = start_cycles + products / macs_per_cycle

An atomic operation multiplies atomic_c input channels for atomic_k filters, so that channels count as rounded up to
these; the image that a network begins with has its channels and a row of a filter packed together. Filters of 3x3 with
stride 1 go by Winograd's algorithm, on tiles of winograd_tile outputs a side: fewer products, larger filters. The array
knows no groups: filters of a convolution in groups are filled up with zeros to all input channels, where it is not
depthwise. Layers that the array has no unit for (`fits`) fall back to another core.

What an operator moves over the memory's link (`feed_links`): inputs, filters and outputs; where neither inputs nor
filters fit the convolution buffer, one of them again for every buffer full of the other. A byte takes `access_factor`
of the link's time for a byte: it goes in atoms of 32 bytes, which leave much of a memory's burst unused. `fill_bytes`,
of the link's time too, until the first have come and the last results are out. Array and memory take turns, in
`feed_pieces`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from cosoc.sim.cores.roofline import over
from cosoc.sim.cores.tensor_gpu import NO_TILES, OnMainMemory, folded, plain_bytes, weights_in_main
from cosoc.sim.model.soc import Num
from cosoc.sim.model.units import (
    Bytes,
    BytesOr0,
    Elements,
    Factor,
    Parallel,
    PerCycle,
    TileEdge,
    Times,
    WholeCyclesOr0,
)
from cosoc.sim.model.workload import Tile

RUNS = ("conv", "add", "max_pool", "avg_pool", "concat", "norm", "eltwise")
LARGEST_FILTER = 32  # rows and columns that the array's registers count


def ungrouped(tile: Tile) -> Tile:
    """A convolution in groups as one whose filters have all input channels, most of them zeros."""
    if tile.groups == 1 or tile.depthwise:
        return tile
    return replace(tile, c=tile.c * tile.groups, groups=1)


class Dla(OnMainMemory):
    """See the module docstring."""

    UNUSED: ClassVar[Mapping[str, str]] = NO_TILES | {"launch_cycles": "start_cycles is the start of an operator"}

    model: Literal["dla"]
    macs_per_cycle: PerCycle  # of the array
    atomic_c: Parallel  # input channels of an operation
    atomic_k: Parallel  # filters of an operation
    image_channels: Elements  # that a pixel of an image is stored with
    winograd_tile: TileEdge  # outputs along an edge of what Winograd's algorithm computes at once; 1: not used
    buffer_bytes: Bytes  # of the convolution buffer
    start_cycles: WholeCyclesOr0  # of an operator
    fill_bytes: BytesOr0  # of the memory link's time, until first operands are there and last results out
    access_factor: Factor  # of the link's time for a byte, which a byte takes in its atoms
    norm_passes: Times  # over its bytes, of a normalisation

    @property
    def peak(self) -> float:
        return self.macs_per_cycle

    @property
    def numbers(self) -> tuple[str, int, int]:
        return "float" if self.number_bits > 8 else "integer", self.number_bits, self.number_bits

    @property
    def step(self) -> int:
        return self.atomic_k

    def improvements(self) -> tuple[str, ...]:
        return "macs_per_cycle=x2", "start_cycles=x0.5", "buffer_bytes=x2"

    def fits(self, tile: Tile) -> list[str]:
        if tile.op not in RUNS:
            return [f"runs {', '.join(RUNS)}, not {tile.op}"]
        if tile.op == "norm" and tile.oy == 1:
            return ["normalises feature maps, not rows of tokens"]
        if max(tile.fy, tile.fx) > LARGEST_FILTER:
            return [f"filters of {tile.fy} x {tile.fx} are larger than {LARGEST_FILTER}"]
        return []

    def _winograd(self, tile: Tile) -> bool:
        plain = (tile.fy, tile.fx, tile.stride_y, tile.stride_x, tile.dilation) == (3, 3, 1, 1, 1)
        return tile.op == "conv" and self.winograd_tile > 1 and plain and not tile.depthwise

    def _products(self, tile: Tile, xp: Any) -> Num:
        """Products that the array does, those of channels that are rounded up included."""
        channels = xp.ceildiv(tile.k, self.atomic_k) * self.atomic_k
        if self._winograd(tile):
            edge = self.winograd_tile
            tiles = xp.ceildiv(tile.oy, edge) * xp.ceildiv(tile.ox, edge)
            return channels * xp.ceildiv(tile.c, self.atomic_c) * self.atomic_c * tiles * (edge + 2) ** 2
        sums = xp.ceildiv(tile.c, self.atomic_c) * self.atomic_c * tile.fy * tile.fx
        if not tile.depthwise:
            packed = xp.ceildiv(self.image_channels * tile.fx, self.atomic_c) * self.atomic_c * tile.fy
            sums = xp.where(tile.c <= self.image_channels, xp.minimum(sums, packed), sums)
        return channels * sums * tile.oy * tile.ox

    def cycles(self, tile: Tile, xp: Any) -> Num:
        if folded(tile):
            return 0 * tile.k
        spent = over(self._products(ungrouped(tile), xp), self.macs_per_cycle, xp) if tile.op == "conv" else 0
        return (self.start_cycles + spent) * xp.used(tile.k)

    def feed_bytes(self, tile: Tile, xp: Any) -> Num:
        if folded(tile) or tile.op == "concat":  # its inputs are written to where they belong
            return 0 * tile.k
        tile = ungrouped(tile)
        edge = self.winograd_tile + 2
        filters = (edge, edge) if self._winograd(tile) else (tile.fy, tile.fx)
        moved = plain_bytes(tile, self.number_bits, xp, filters)
        if tile.op == "norm":
            moved = moved * self.norm_passes
        if tile.op == "conv":
            moved = moved + self._again(tile, filters, xp)
        return xp.ceildiv(moved * round(1000 * self.access_factor), 1000) + self.fill_bytes * xp.used(tile.k)

    def feed_burst(self, plain: int) -> int:
        return round(plain * self.access_factor)

    def _again(self, tile: Tile, filters: tuple[int, int], xp: Any) -> Num:
        """Bytes that come again, as neither inputs nor filters fit the buffer."""
        rows = (tile.oy - 1) * tile.stride_y + tile.fy
        cols = (tile.ox - 1) * tile.stride_x + tile.fx
        channels = tile.k if tile.depthwise else tile.c
        inputs = xp.ceildiv(channels * rows * cols * self.number_bits, 8)
        weights = xp.ceildiv(tile.k * tile.c * filters[0] * filters[1] * self.number_bits, 8)
        more = [xp.maximum(xp.ceildiv(one, self.buffer_bytes) - 1, 0) for one in (inputs, weights)]
        return xp.minimum(more[0] * weights, more[1] * inputs)

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        return weights_in_main(ungrouped(tile), self.number_bits, xp)


__all__ = ["LARGEST_FILTER", "RUNS", "Dla"]
