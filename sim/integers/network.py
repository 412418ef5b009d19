"""A network in integers: weights, how sums become the integers of the next tensor, and every layer computed whole.

What a layer computes is a sum (of products, of operands, over a window) or a maximum, in whole numbers that are exact.
Then each sum becomes an integer of the tensor that the layer makes, as chips do it (multiply, add, shift, clip):

    out = clip((sum_i multiplier[i, k] x_i + offset[k]) >> shift[k], low, high)

The offset holds bias and half a step, so that the shift rounds to the nearest, halves upwards. Factors are taken to 30
bits, so a sum differs from the real-valued one by less than `Rescale.bound` of a step before it is rounded.

Two things come between. The columns of an analog array are read by converters: each array full of rows becomes an
integer of its own (`Converted`), and these are what adds up. And norms, softmaxes and GELU are of real numbers
(`cosoc.sim.integers.real`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cosoc.sim.errors import InputError
from cosoc.sim.integers.real import Floats, Ints, Real, as_weights
from cosoc.sim.model.workload import INPUT, SLICE, Layer, Workload

MULTIPLIER_BITS = 30  # of a factor: with sums of 32 bits, products of 62
SUM_BITS = 62  # that a sum of products may take before it is shifted
MOST_SHIFT = 46
# That integers are known of; an eltwise is a GELU, a sum with a constant, or a part that is handed on.
OPS = ("conv", "add", "max_pool", "avg_pool", "concat", "matmul", "softmax", "norm", "eltwise", "gather")
WEIGHTED = ("conv", "matmul")  # sums of products over input channels
ELTWISE = ("aten.gelu", "aten.add", SLICE)


@dataclass(frozen=True, eq=False)
class Rescale:
    """See the module docstring. multiplier: int64 [operands, k]; offset, shift: int64 [k]; low, high: of the results.
    Of a concatenation, whose operands share the channels, there is one row of multipliers."""

    multiplier: Ints
    offset: Ints
    shift: Ints
    low: int
    high: int

    def of(self, sums: Sequence[Ints], first: int, end: int) -> Ints:
        """Integers of output channels [first, end). sums: of each operand int64 [n, k, oy, ox]."""
        shape = (1, end - first, 1, 1)
        total = self.offset[first:end].reshape(shape) + np.zeros_like(sums[0])
        for multiplier, one in zip(self.multiplier, sums, strict=True):
            total += multiplier[first:end].reshape(shape) * one
        found: Ints = np.clip(total >> self.shift[first:end].reshape(shape), self.low, self.high)
        return found

    def some(self, first: int, end: int) -> Rescale:
        """That of output channels [first, end) alone."""
        return replace(
            self, multiplier=self.multiplier[:, first:end], offset=self.offset[first:end], shift=self.shift[first:end]
        )

    def bound(self, largest: Sequence[int]) -> float:
        """By how much of a step a sum may be off before it is rounded. largest: magnitude of each operand's sums."""
        return float(((sum(largest) + 1) / 2.0 ** (self.shift + 1)).max())


def rescale(factors: Floats, offsets: Floats, largest: Floats, low: int, high: int) -> Rescale:
    """A rescale from real numbers. factors [operands, k]: what one of a sum is in steps of the result; offsets [k]: in
    such steps; largest [operands, k]: magnitudes of the sums. InputError where 64 bits do not hold the products."""
    most = np.abs(factors).max(0)
    sums = (np.abs(factors) * largest).sum(0) + np.abs(offsets) + 1
    with np.errstate(divide="ignore"):
        room = np.minimum(MULTIPLIER_BITS - np.log2(most), SUM_BITS - np.log2(sums))
    shift = np.minimum(np.floor(room), MOST_SHIFT).astype(np.int64)
    if (shift < 1).any():
        found = f"{float(most.max()):.3g} steps to one of a sum, of up to {float(largest.max()):.3g}"
        raise InputError(f"integers: {found}; products of 64 bits do not hold that")
    scale = 2.0**shift
    offset = np.rint(offsets * scale).astype(np.int64) + (np.int64(1) << (shift - 1))
    return Rescale(np.rint(factors * scale).astype(np.int64), offset, shift, low, high)


@dataclass(frozen=True, eq=False)
class Converted:
    """The converters of analog channels. block: input channels whose products one array adds up, of each group. by:
    what makes each array's sums the converter's integers, of all output channels; on [k]: which of them are analog."""

    block: int
    by: Rescale
    on: npt.NDArray[np.bool_]

    def blocks(self, first: int, end: int) -> list[tuple[int, int]]:
        """Input channels [first, end) by arrays."""
        cuts = [first, *range((first // self.block + 1) * self.block, end, self.block), end]
        return list(pairwise(cuts))

    def of(self, sums: Ints, first: int, end: int) -> Ints:
        """What adds up of one array's sums [n, k, oy, ox] of output channels [first, end)."""
        on = self.on[first:end].reshape(1, -1, 1, 1)
        return np.where(on, self.by.of([sums], first, end), sums) if on.any() else sums


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """What one form of a layer is in integers. weights: int64 [k, c/groups, fy, fx] of a convolution, None of others;
    rescale: None where its sums leave the network as they are, of rows of a table, and of what is real. step, bias [k]:
    of the layer whose results leave the network: what one of them is worth by channel, and what is added to that.
    alternative: of the layer's other form, for all output channels as well.

    converted: of a convolution with analog channels that are read by converters. real: of a function of real numbers.
    constant [k, oy, columns]: what an eltwise sum adds, or what a concatenation puts before what it reads. from_column:
    of what a slice reads, the column of its first. keys: whether a product of two tensors is with keys (`as_weights`).
    table [rows, k]: of a gather, in integers of the tensor that it makes.
    """

    weights: Ints | None = None
    rescale: Rescale | None = None
    step: Floats | None = None
    bias: Floats | None = None
    alternative: IntegerLayer | None = None
    converted: Converted | None = None
    real: Real | None = None
    constant: Ints | None = None
    from_column: int = 0
    keys: bool = False
    table: Ints | None = None

    def finished(self, sums: Sequence[Ints], first: int, end: int) -> Ints:
        """What output channels [first, end) make of their sums, of each operand [n, k, oy, ox]."""
        if self.real is not None:
            return self.real.of(sums[0])
        return sums[0] if self.rescale is None else self.rescale.of(sums, first, end)

    def columns_before(self, layer: Layer) -> int:
        """By how many columns outputs lie behind what they are of: the constant ones of a concatenation."""
        before = self.constant.shape[2] if self.constant is not None and layer.op == "concat" else 0
        return before - self.from_column

    def beside(self, layer: Layer, operands: Sequence[Ints], tile: Mapping[str, tuple[int, int]]) -> list[Ints]:
        """The operands [n, k, oy, ox] of a tile's outputs with the constant's part in them."""
        if self.constant is None:
            return list(operands)
        (k0, k1), (y0, y1), (x0, x1) = tile["k"], tile["oy"], tile["ox"]
        part = self.constant[k0:k1, y0:y1, x0:x1]
        part = np.broadcast_to(part, (len(operands[0]), *part.shape))
        return [np.concatenate([part, operands[0]], 3)] if layer.op == "concat" else [*operands, part]


@dataclass(frozen=True)
class Whole:
    """The integers that a tensor may have, and what one of them is worth."""

    low: int
    high: int
    step: float


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """layers: by name. tensors: what the integers of each tensor are, INPUT among them; those that leave the network as
    sums are not among them. first: of layers with an alternative, how many output channels are computed as the layer
    itself is; those behind them are computed in its other form."""

    workload: Workload
    layers: Mapping[str, IntegerLayer]
    tensors: Mapping[str, Whole]
    first: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Piece:
    """The output channels [first, end) of a layer that are computed in one form, as a layer of its own: layer: that,
    with its own channels alone; reads: the input channels that it takes, None for all."""

    layer: Layer
    about: IntegerLayer
    first: int
    end: int
    reads: tuple[int, int] | None = None

    def operands(self, tensors: Mapping[str, Ints]) -> list[Ints]:
        """The tensors that it reads, as it reads them."""
        layer = self.layer
        if layer.op in ("add", "concat") and self.about.constant is None:
            return [tensors[name] for name in layer.inputs]
        if self.reads is not None:
            return [tensors[layer.inputs[0]][:, slice(*self.reads)]]
        if self.about.table is not None:
            return [rows_of(self.about.table, tensors[layer.inputs[0]], layer)]
        first = as_read(tensors[layer.inputs[0]], layer)
        if layer.op == "matmul":
            return [first, as_weights(layer, tensors[layer.second], self.about.keys)]
        whole = {"k": (0, layer.k), "oy": (0, layer.oy), "ox": (0, layer.ox)}
        if layer.fn == SLICE:
            first = first[:, :, : layer.oy, self.about.from_column : self.about.from_column + layer.ox]
        return self.about.beside(layer, [first], whole)


def pieces(network: IntegerNetwork, layer: Layer) -> list[Piece]:
    """A layer by its forms: one piece where it has one."""
    about, cut = network.layers[layer.name], network.first.get(layer.name, layer.k)
    forms = [(layer, about, 0, cut), (layer.alternative, about.alternative, cut, layer.k)]
    out = []
    for form, own, first, end in forms:
        if form is None or own is None or first == end:
            continue
        mine, reads = replace(form, name=layer.name, k=end - first, alternative=None), None
        if form.depthwise and end - first < layer.k:
            mine, reads = replace(mine, c=mine.k, groups=mine.k), (first, end)
        out.append(Piece(mine, _channels(own, first, end), first, end, reads))
    return out


def _channels(about: IntegerLayer, first: int, end: int) -> IntegerLayer:
    """Some output channels of a layer's integers."""

    def some(values: Any) -> Any:
        return None if values is None else values[..., first:end]

    weights = None if about.weights is None else about.weights[first:end]
    scaled = None if about.rescale is None else about.rescale.some(first, end)
    converted = about.converted
    if converted is not None:
        converted = replace(converted, by=converted.by.some(first, end), on=some(converted.on))
    return replace(
        about, weights=weights, rescale=scaled, step=some(about.step), bias=some(about.bias), alternative=None,
        converted=converted,
    )  # fmt: skip


def check_known(workload: Workload) -> None:
    """InputError for layers whose integers are not known, with the first."""
    if workload.received or workload.states:
        raise InputError(f"{workload.name}: has inputs beside the image, or states; integers of such are not known")
    shape = {INPUT: workload.input_shape} | {layer.name: (layer.k, layer.oy, layer.ox) for layer in workload}
    for layer in (form for one in workload for form in (one, one.alternative) if form is not None):
        found = layer.fn or layer.op
        beside = layer.constants and layer.op not in ("concat", "norm", "eltwise")
        other = layer.op == "eltwise" and (layer.fn not in ELTWISE or len(layer.inputs) != 1)
        if layer.op not in OPS or layer.plane is not None or beside or layer.into or other:
            raise InputError(f"layer {layer.name} ({found}): integers are known of {', '.join(OPS)}, with no constants")
        if layer.activation not in ("", "relu", "relu6"):
            raise InputError(f"layer {layer.name}: activation {layer.activation}; integers know relu and relu6")
        of = [shape[name] for name in layer.inputs]
        if layer.op == "add" and any(one != (layer.k, layer.oy, layer.ox) for one in of):
            raise InputError(f"layer {layer.name}: adds tensors of other shapes; integers know equal ones")
        pixels = all(one[1:] == (layer.oy, layer.ox) for one in of)
        columns = layer.oy == 1 and all(one[:2] == (layer.k, 1) for one in of) and sum(one[2] for one in of) == layer.ox
        if layer.constants and layer.op == "concat" and (len(of) > 1 or layer.oy != 1 or layer.k != of[0][0]):
            raise InputError(f"layer {layer.name}: integers know constants before the columns of one tensor")
        if layer.constants:
            continue
        if layer.op == "concat" and not columns and (not pixels or sum(one[0] for one in of) != layer.k):
            raise InputError(
                f"layer {layer.name}: puts tensors side by side; integers know channels, and columns of a row"
            )
        if layer.op == "gather" and (layer.inputs != (INPUT,) or len(workload.readers(INPUT)) > 1):
            raise InputError(f"layer {layer.name}: integers know rows of a table by the numbers that an input is")
        table = layer.op == "gather" or (layer.weights_of and workload[layer.weights_of].op == "gather")
        if layer.weights_of and table:
            raise InputError(f"layer {layer.name}: shares its weights with {layer.weights_of}, whose steps are others")


def as_read(tensor: npt.NDArray[np.int64], layer: Layer) -> npt.NDArray[np.int64]:
    """A tensor [n, k, oy, ox] as a layer reads it, [n, c, iy, ix]: a view, flattened for a dense layer."""
    return tensor.reshape(layer.n, layer.c, layer.iy, layer.ix)


def rows_of(table: Ints, numbers: Ints, layer: Layer) -> Ints:
    """The rows of a table [rows, k] that a gather picks: [n, k, 1, columns], one a number."""
    return table[numbers.reshape(layer.n, layer.oy, layer.ox)].transpose(0, 3, 1, 2)


def joined_along(layer: Layer, channels: Sequence[int]) -> int:
    """The axis of [n, k, oy, ox] that a concatenation puts tensors of so many channels side by side on."""
    return 1 if sum(channels) == layer.k else 3


# ------------------------------------------------------------------------------------------------------ whole layers


def windows(x: Ints, layer: Layer, fill: int) -> Ints:
    """Inputs [n, c, iy, ix] under every output: [n, c, oy, ox, fy, fx], a view of the padded tensor."""
    (sy, sx), (dy, dx) = (layer.stride_y, layer.stride_x), (layer.dilation_y, layer.dilation_x)
    below = max(0, (layer.oy - 1) * sy + (layer.fy - 1) * dy + 1 - layer.pad_y - layer.iy)
    right = max(0, (layer.ox - 1) * sx + (layer.fx - 1) * dx + 1 - layer.pad_x - layer.ix)
    padded = np.pad(x, ((0, 0), (0, 0), (layer.pad_y, below), (layer.pad_x, right)), constant_values=fill)
    n, c, y, x_ = padded.strides
    shape = (*x.shape[:2], layer.oy, layer.ox, layer.fy, layer.fx)
    return np.lib.stride_tricks.as_strided(padded, shape, (n, c, y * sy, x_ * sx, y * dy, x_ * dx))


def sums_of(layer: Layer, weights: Ints | None, operands: Sequence[Ints]) -> list[Ints]:
    """The sums of a whole layer, of each operand [n, k, oy, ox]; maxima of a maximum pool. operands: [n, c, iy, ix]."""
    if layer.op == "concat":
        return [np.concatenate(operands, joined_along(layer, [one.shape[1] for one in operands]))]
    if layer.op == "matmul":
        x, second = (one.reshape(layer.n, layer.groups, -1, last).astype(np.float64)  # as below
                     for one, last in zip(operands, (layer.ox, layer.c // layer.groups), strict=True))  # fmt: skip
        return [np.matmul(second, x).astype(np.int64).reshape(layer.n, layer.k, layer.oy, layer.ox)]
    if layer.op not in ("conv", "max_pool", "avg_pool"):
        return list(operands)
    if layer.op == "max_pool":
        return [windows(operands[0], layer, np.iinfo(np.int64).min).max((4, 5))]
    if layer.op == "avg_pool":
        return [windows(operands[0], layer, 0).sum((4, 5))]
    assert weights is not None
    under, g = windows(operands[0], layer, 0), layer.groups
    out = np.empty((layer.n, layer.k, layer.oy, layer.ox), np.int64)
    k, c = layer.k // g, layer.c // g
    for group in range(g):
        mine = weights[group * k : (group + 1) * k].astype(np.float64)  # exact below 2^53, and fast
        found = np.tensordot(under[:, group * c : (group + 1) * c].astype(np.float64), mine, ((1, 4, 5), (1, 2, 3)))
        out[:, group * k : (group + 1) * k] = found.transpose(0, 3, 1, 2).astype(np.int64)
    return [out]


def whole_layer(layer: Layer, about: IntegerLayer, operands: Sequence[Ints]) -> Ints:
    """What a layer makes of its operands [n, c, iy, ix]: [n, k, oy, ox]."""
    if about.converted is None:
        return about.finished(sums_of(layer, about.weights, operands), 0, layer.k)
    assert about.weights is not None
    read = operands[0].reshape(layer.n, layer.groups, -1, layer.iy, layer.ix)
    total = np.zeros((layer.n, layer.k, layer.oy, layer.ox), np.int64)
    for first, end in about.converted.blocks(0, layer.c // layer.groups):
        own = replace(layer, c=layer.groups * (end - first))
        mine = read[:, :, first:end].reshape(layer.n, own.c, layer.iy, layer.ix)
        (sums,) = sums_of(own, about.weights[:, first:end], [mine])
        total += about.converted.of(sums, 0, layer.k)
    return about.finished([total], 0, layer.k)


def run_whole(network: IntegerNetwork, image: Ints) -> dict[str, Ints]:
    """All tensors of the network for a batch of images [n, c, iy, ix], every layer computed whole."""
    tensors = {INPUT: image}
    for layer in network.workload:
        made = [whole_layer(one.layer, one.about, one.operands(tensors)) for one in pieces(network, layer)]
        tensors[layer.name] = np.concatenate(made, 1)
    return tensors


__all__ = [
    "OPS", "WEIGHTED", "Converted", "Floats", "IntegerLayer", "IntegerNetwork", "Ints", "Piece", "Rescale", "Whole",
    "as_read", "check_known", "joined_along", "pieces", "rescale", "rows_of", "run_whole", "sums_of", "whole_layer",
    "windows",
]  # fmt: skip
