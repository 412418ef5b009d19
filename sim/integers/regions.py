"""Parts of tensors: where operands of tiles lie, whether they are there when they are read, and sums of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from cosoc.sim.integers.network import WEIGHTED, Converted, Ints
from cosoc.sim.model.workload import SLICE, Layer

NEVER = np.iinfo(np.int64).max
Stretch = tuple[int, int]  # [first, end)
Box = tuple[Stretch, Stretch, Stretch, Stretch]  # along n, channels, rows, columns
Ranges = Mapping[str, Stretch]  # of a tile, along DIMS


class TileFault(Exception):
    """A tile reads what is not there, or leaves something out: the schedule does not compute the network."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor in a memory. values [n, c, y, x]; ready, of the same shape: the tick from which each element is there.
    Both are written in place."""

    name: str
    values: Ints
    ready: Ints

    @staticmethod
    def empty(name: str, shape: Sequence[int]) -> Tensor:
        return Tensor(name, np.zeros(shape, np.int64), np.full(shape, NEVER))

    def as_read(self, layer: Layer) -> Tensor:
        """The same tensor as a layer reads it, flattened for a dense layer."""
        shape = layer.n, layer.c, layer.iy, layer.ix
        return Tensor(self.name, self.values.reshape(shape), self.ready.reshape(shape))

    def read(self, box: Box, tick: int, who: str) -> Ints:
        """The elements of a box at a tick."""
        at = slices(box)
        late = self.ready[at] > tick
        if late.any():
            where = np.argwhere(late)[0] + [first for first, _ in box]
            since = int(self.ready[tuple(where)])
            known = "is never made before" if since == NEVER else f"is there from tick {since} on"
            raise TileFault(f"{who}, tick {tick}: reads {self.name}{where.tolist()}, which {known}")
        return self.values[at]

    def write(self, box: Box, values: Ints, tick: int, who: str) -> None:
        """Elements of a box, there from a tick on. What is made twice must be the same."""
        at = slices(box)
        there = self.ready[at] < NEVER
        if (there & (self.values[at] != values)).any():
            raise TileFault(f"{who}: makes other elements of {self.name} than were made before")
        self.values[at] = values
        self.ready[at] = np.where(there, self.ready[at], tick)


@dataclass(frozen=True, eq=False)
class Region:
    """A box of a tensor in a core's memory, from a tick on."""

    box: Box
    values: Ints
    ready: int

    def part(self, box: Box, tick: int, who: str) -> Ints:
        """The elements of a box within it, at a tick."""
        if tick < self.ready:
            raise TileFault(f"{who}, tick {tick}: reads what is there from tick {self.ready} on")
        if not elements(box):
            return np.zeros([end - first for first, end in box], np.int64)
        if any(a < c or b > d for (a, b), (c, d) in zip(box, self.box, strict=True)):
            raise TileFault(f"{who}: reads {box} where {self.box} was brought (images, channels, rows, columns)")
        return self.values[tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(box, self.box, strict=True))]


def slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(*one) for one in box)


def elements(box: Box) -> int:
    return prod(end - first for first, end in box)


def outputs(tile: Ranges) -> Box:
    """Where a tile's results lie."""
    return tile["n"], tile["k"], tile["oy"], tile["ox"]


def channels_under(layer: Layer, tile: Ranges, own: bool = True) -> Stretch:
    """The input channels that a tile reads; own: those of its own output channels alone, where they have some. tile:
    its `c` counts within the channels that one output channel reads."""
    if layer.op not in WEIGHTED:
        return tile["k"] if own else (0, layer.c)
    if layer.groups == 1:
        return tile["c"]
    if not own:
        return 0, layer.c
    k, c = layer.k // layer.groups, layer.c // layer.groups
    first, end = tile["k"][0] // k, -(-tile["k"][1] // k)
    if end - first == 1:
        return first * c + tile["c"][0], first * c + tile["c"][1]
    return first * c, end * c


def _under(out: Stretch, taps: Stretch, stride: int, dilation: int, pad: int) -> Stretch:
    """Rows (or columns) under outputs, those in the padding among them."""
    first = out[0] * stride - pad + taps[0] * dilation
    return first, (out[1] - 1) * stride - pad + (taps[1] - 1) * dilation + 1


def inputs_under(layer: Layer, tile: Ranges, own: bool = True, before: int = 0) -> Box:
    """The inputs that a tile reads, without the padding; empty where it reads padding alone. before: columns by which
    outputs lie behind what they are of (`IntegerLayer.columns_before`)."""
    spans = [tile["n"], channels_under(layer, tile, own)]
    if layer.op in ("add", "concat") or layer.fn == SLICE:
        first, end = (max(column - before, 0) for column in tile["ox"])
        return spans[0], spans[1], tile["oy"], (first, max(first, end))
    for (first, end), size in zip(_windows(layer, tile), (layer.iy, layer.ix), strict=True):
        low, high = max(first, 0), min(end, size)
        spans.append((low, max(low, high)))
    return spans[0], spans[1], spans[2], spans[3]


def _windows(layer: Layer, tile: Ranges) -> tuple[Stretch, Stretch]:
    return (
        _under(tile["oy"], tile["fy"], layer.stride_y, layer.dilation_y, layer.pad_y),
        _under(tile["ox"], tile["fx"], layer.stride_x, layer.dilation_x, layer.pad_x),
    )


def tile_sums(
    layer: Layer, tile: Ranges, operands: Sequence[Ints], weights: Ints | None, converted: Converted | None = None
) -> list[Ints]:
    """The sums of a tile, of each operand; maxima of a maximum pool. operands: what `inputs_under` says; weights: of
    the tile's own ranges, of a product of two tensors of each image. converted: by what an analog core reads columns.
    TileFault for a tile that has a part of an array's rows."""
    if layer.op in ("add", "concat", "softmax", "norm", "eltwise"):
        return list(operands)
    if layer.op == "matmul":
        assert weights is not None
        made = [_products(layer, tile, x[None], w[:, :, 0]) for x, w in zip(operands[0], weights, strict=True)]
        return [np.concatenate(made)]
    if converted is not None and converted.on[slice(*tile["k"])].any():
        return [_converted(layer, tile, operands[0], weights, converted)]
    box, (y, x) = inputs_under(layer, tile), _windows(layer, tile)
    least = np.iinfo(np.int64).min if layer.op == "max_pool" else 0
    padded = np.full((*operands[0].shape[:2], y[1] - y[0], x[1] - x[0]), least, np.int64)
    if elements(box):
        padded[:, :, box[2][0] - y[0] : box[2][1] - y[0], box[3][0] - x[0] : box[3][1] - x[0]] = operands[0]
    total: Ints | None = None
    rows, cols = tile["oy"][1] - tile["oy"][0], tile["ox"][1] - tile["ox"][0]
    for fy in range(tile["fy"][1] - tile["fy"][0]):
        for fx in range(tile["fx"][1] - tile["fx"][0]):
            top, left = fy * layer.dilation_y, fx * layer.dilation_x
            under = padded[:, :, top :: layer.stride_y, left :: layer.stride_x][:, :, :rows, :cols]
            if layer.op == "max_pool":
                total = under.copy() if total is None else np.maximum(total, under)
                continue
            found = under if weights is None else _products(layer, tile, under, weights[:, :, fy, fx])
            total = found.copy() if total is None else total + found
    assert total is not None
    return [total]


def _converted(layer: Layer, tile: Ranges, x: Ints, weights: npt.NDArray[np.int64] | None, by: Converted) -> Ints:
    """The converters' sums of a tile, array by array."""
    assert weights is not None
    (c0, c1), k = tile["c"], tile["k"]
    read, total = layer.c // layer.groups, np.zeros((), np.int64)
    if c0 % by.block or (c1 % by.block and c1 < read) or tile["fy"] != (0, layer.fy) or tile["fx"] != (0, layer.fx):
        raise TileFault(
            f"layer {layer.name}: a tile of input channels {c0} to {c1}; converters read {by.block} of them at a time"
        )
    groups = x.reshape(len(x), -1, c1 - c0, *x.shape[2:])
    for first, end in by.blocks(c0, c1):
        mine = groups[:, :, first - c0 : end - c0].reshape(len(x), -1, *x.shape[2:])
        (sums,) = tile_sums(layer, {**tile, "c": (first, end)}, [mine], weights[:, first - c0 : end - c0])
        total = total + by.of(sums, *k)
    return total


def _products(layer: Layer, tile: Ranges, x: Ints, weights: npt.NDArray[np.int64]) -> Ints:
    """One tap's products, summed over the tile's input channels: [n, k, rows, columns]. x: [n, c, rows, columns]."""
    each, c = layer.k // layer.groups, weights.shape[1]
    out = np.empty((len(x), len(weights), *x.shape[2:]), np.int64)
    (k0, k1), first = tile["k"], tile["k"][0] // each
    for group in range(first, -(-k1 // each)):
        low, high = max(k0, group * each) - k0, min(k1, (group + 1) * each) - k0
        at = (group - first) * c
        flat = x[:, at : at + c].reshape(len(x), c, -1).astype(np.float64)  # exact below 2^53
        found = np.matmul(weights[low:high].astype(np.float64), flat)
        out[:, low:high] = found.astype(np.int64).reshape(len(x), high - low, *x.shape[2:])
    return out


__all__ = [
    "NEVER", "Box", "Ranges", "Region", "Stretch", "Tensor", "TileFault", "channels_under", "elements", "inputs_under",
    "outputs", "slices", "tile_sums",
]  # fmt: skip
