"""A network as a torch program that computes its integers: image in real numbers in, outputs in real numbers out.

Sums are of float64, which holds integers of 53 bits exactly; rescaling is of int64; norms, softmaxes and GELU are of
float64, as in `cosoc.sim.integers.real`. So what it gives is what the integers give, on any device.
`torch.export.load` reads it, without cosoc.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from cosoc.search.exports.exported import Exported
from cosoc.sim.integers.network import Converted, IntegerLayer, IntegerNetwork, Piece, Rescale, joined_along, pieces
from cosoc.sim.integers.real import Real
from cosoc.sim.model.workload import INPUT, SLICE, Layer

KEYS = ("multiplier", "offset", "shift")


class IntegerModule(nn.Module):
    """The integers of a network. Takes images [n, c, iy, ix] in real numbers, gives outputs [n, k]."""

    def __init__(self, network: IntegerNetwork, order: Tensor, rows: bool) -> None:
        super().__init__()
        self.rows, self.workload, self.image = rows, network.workload, network.tensors[INPUT]
        self.pieces = {layer.name: pieces(network, layer) for layer in network.workload}
        for name, each in self.pieces.items():
            for one in each:
                for what, values in _values(one.about):
                    self.register_buffer(_key(what, name, one), torch.from_numpy(np.ascontiguousarray(values)))
        last = network.layers[network.workload.outputs[0]]
        assert last.step is not None and last.bias is not None
        self.order: Tensor
        self.step: Tensor
        self.bias: Tensor
        self.register_buffer("order", order)
        self.register_buffer("step", torch.from_numpy(last.step))
        self.register_buffer("bias", torch.from_numpy(last.bias))

    def forward(self, x: Tensor) -> Tensor:
        image = self.image
        found = {INPUT: (x.double() / image.step).round().clamp(image.low, image.high)}
        for layer in self.workload:
            found[layer.name] = torch.cat([self._made(layer.name, one, found) for one in self.pieces[layer.name]], 1)
        sums = found[self.workload.outputs[0]]
        real = sums.flatten(2) * self.step[:, None] + self.bias[:, None]
        real = real.index_select(1, self.order)
        return (real.transpose(1, 2) if self.rows else real).flatten(1)

    def _made(self, name: str, one: Piece, tensors: Mapping[str, Tensor]) -> Tensor:
        layer, about = one.layer, one.about

        def held(what: str) -> Tensor:
            found: Tensor = getattr(self, _key(what, name, one))
            return found

        operands = [tensors[each] for each in layer.inputs]
        if about.table is not None:
            found = held("table")[operands[0].long().flatten(1)]
            return found.transpose(1, 2).reshape(-1, layer.k, layer.oy, layer.ox)
        if one.reads is not None:
            operands = [operands[0][:, slice(*one.reads)]]
        elif layer.op not in ("add", "concat") or about.constant is not None:
            operands[0] = operands[0].reshape(-1, layer.c, layer.iy, layer.ix)
        if about.real is not None:
            return _real(layer, about.real, operands[0], held)
        if about.constant is not None:
            beside = held("constant").expand(operands[0].shape[0], -1, -1, -1)
            operands = [torch.cat([beside, operands[0]], 3)] if layer.op == "concat" else [operands[0], beside]
        if about.converted is None:
            weights = None if about.weights is None else held("weights").double()
            sums = _sums(layer, about, operands, weights)
        else:
            sums = [_converted(layer, about.converted, operands[0], held)]
        scaled = about.rescale
        if scaled is None:
            return sums[0]
        return _rescaled(sums, scaled, *(held(key) for key in KEYS))


def _rescaled(sums: Sequence[Tensor], about: Rescale, multiplier: Tensor, offset: Tensor, shift: Tensor) -> Tensor:
    total = offset[:, None, None]
    for i, found in enumerate(sums):
        total = total + multiplier[i][:, None, None] * found.long()
    whole: Tensor = (total >> shift[:, None, None]).clamp(about.low, about.high).double()
    return whole


def _values(about: IntegerLayer) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The arrays of a form, by what they are."""
    if about.weights is not None:
        yield "weights", about.weights
    if about.table is not None:
        yield "table", about.table.astype(np.float64)
    if about.constant is not None:
        yield "constant", about.constant[None].astype(np.float64)
    if about.real is not None and about.real.weight is not None and about.real.bias is not None:
        yield "scales", about.real.weight
        yield "shifts", about.real.bias
    for before, scaled in (("", about.rescale), ("adc_", about.converted.by if about.converted else None)):
        for key in KEYS if scaled is not None else ():
            yield before + key, getattr(scaled, key)
    if about.converted is not None:
        yield "adc_on", about.converted.on


def _converted(layer: Layer, by: Converted, x: Tensor, held: Callable[[str], Tensor]) -> Tensor:
    """Sums of all channels, those on analog cores array by array as converters read them."""
    groups = x.reshape(-1, layer.groups, layer.c // layer.groups, layer.iy, layer.ix)
    weights, on = held("weights").double(), held("adc_on")[:, None, None]
    total = torch.zeros((), dtype=torch.float64)
    for first, end in by.blocks(0, layer.c // layer.groups):
        own = replace(layer, c=layer.groups * (end - first))
        (sums,) = _sums(own, IntegerLayer(), [groups[:, :, first:end].flatten(1, 2)], weights[:, first:end])
        read = _rescaled([sums], by.by, *(held(f"adc_{key}") for key in KEYS))
        total = total + torch.where(on, read, sums)
    return total


def _real(layer: Layer, about: Real, x: Tensor, held: Callable[[str], Tensor]) -> Tensor:
    """A function of real numbers, in double precision, as integers."""
    x = x * about.reads
    if about.function == "softmax":
        made = x.reshape(-1, about.groups, layer.k // about.groups, layer.oy * layer.ox).softmax(2)
    elif about.function == "layer_norm":
        last = functional.layer_norm(x.movedim(1, -1), (layer.k,), held("scales"), held("shifts"), about.eps)
        made = last.movedim(-1, 1)
    else:
        made = functional.gelu(x, approximate="tanh" if about.function == "gelu_tanh" else "none")
    made = made.reshape(-1, layer.k, layer.oy, layer.ox) / about.makes
    return made.round().clamp(about.low, about.high)


def _key(what: str, name: str, one: Piece) -> str:
    """What a piece's buffer is called."""
    return f"{what}_{name.replace('.', '_')}_{one.first}"


def _sums(layer: Layer, about: IntegerLayer, operands: Sequence[Tensor], weights: Tensor | None) -> list[Tensor]:
    x, stride, pads = operands[0], (layer.stride_y, layer.stride_x), _pads(layer)
    if layer.op == "concat":
        return [torch.cat(list(operands), joined_along(layer, [one.shape[1] for one in operands]))]
    if layer.op == "matmul":
        k, c = layer.k // layer.groups, layer.c // layer.groups
        second = operands[1].reshape(-1, layer.groups, *((c, k) if about.keys else (k, c)))
        second = second.transpose(2, 3) if about.keys else second
        return [(second @ x.reshape(-1, layer.groups, c, layer.ox)).reshape(-1, layer.k, layer.oy, layer.ox)]
    if layer.fn == SLICE:
        return [x[:, :, : layer.oy, about.from_column : about.from_column + layer.ox]]
    if layer.op in ("add", "eltwise"):
        return list(operands)
    if layer.op == "max_pool":
        padded = functional.pad(x, pads, value=float("-inf"))
        return [functional.max_pool2d(padded, (layer.fy, layer.fx), stride, 0, (layer.dilation_y, layer.dilation_x))]
    if layer.op == "avg_pool":
        found = functional.avg_pool2d(functional.pad(x, pads), (layer.fy, layer.fx), stride)
        return [(found * (layer.fy * layer.fx)).round()]
    assert weights is not None
    dilation = layer.dilation_y, layer.dilation_x
    return [functional.conv2d(functional.pad(x, pads), weights, None, stride, 0, dilation, layer.groups)]


def _pads(layer: Layer) -> list[int]:
    """Left, right, above, below."""
    below = (layer.oy - 1) * layer.stride_y + (layer.fy - 1) * layer.dilation_y + 1 - layer.pad_y - layer.iy
    right = (layer.ox - 1) * layer.stride_x + (layer.fx - 1) * layer.dilation_x + 1 - layer.pad_x - layer.ix
    return [layer.pad_x, max(0, right), layer.pad_y, max(0, below)]


def program(one: Exported) -> bytes:
    """The module as `torch.export.save` writes it, for batches of any size."""
    module = IntegerModule(one.network, torch.from_numpy(one.order), one.rows)
    c, iy, ix = one.workload.input_shape
    found = torch.export.export(
        module.eval(), (torch.zeros(2, c, iy, ix),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)
    )
    content = io.BytesIO()
    torch.export.save(found, content)
    return content.getvalue()


__all__ = ["IntegerModule", "program"]
