"""A network as a torch program that computes its integers: image in real numbers in, outputs in real numbers out.

Sums are of float64, which holds integers of 53 bits exactly; rescaling is of int64. So what it gives is what the
integers give, on any device. `torch.export.load` reads it, without cosoc.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cosoc.search.exports.exported import Exported
from cosoc.sim.integers.network import IntegerNetwork, Piece, pieces
from cosoc.sim.model.workload import INPUT, Layer

KEYS = ("multiplier", "offset", "shift")


class IntegerModule(nn.Module):
    """The integers of a network. Takes images [n, c, iy, ix] in real numbers, gives outputs [n, k]."""

    def __init__(self, network: IntegerNetwork, order: Tensor) -> None:
        super().__init__()
        self.workload, self.image = network.workload, network.tensors[INPUT]
        self.pieces = {layer.name: pieces(network, layer) for layer in network.workload}
        for name, each in self.pieces.items():
            for one in each:
                if one.about.weights is not None:
                    self.register_buffer(_key("weights", name, one), torch.from_numpy(one.about.weights))
                for key in KEYS if one.about.rescale is not None else ():
                    values = np.ascontiguousarray(getattr(one.about.rescale, key))
                    self.register_buffer(_key(key, name, one), torch.from_numpy(values))
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
        return real.index_select(1, self.order).flatten(1)

    def _made(self, name: str, one: Piece, tensors: Mapping[str, Tensor]) -> Tensor:
        operands = [tensors[each] for each in one.layer.inputs]
        if one.reads is not None:
            operands = [operands[0][:, slice(*one.reads)]]
        weights = None if one.about.weights is None else getattr(self, _key("weights", name, one)).double()
        sums = _sums(one.layer, operands, weights)
        scaled = one.about.rescale
        if scaled is None:
            return sums[0]
        multiplier, offset, shift = (getattr(self, _key(key, name, one)) for key in KEYS)
        total = offset[:, None, None]
        for i, found in enumerate(sums):
            total = total + multiplier[i][:, None, None] * found.long()
        whole: Tensor = (total >> shift[:, None, None]).clamp(scaled.low, scaled.high).double()
        return whole


def _key(what: str, name: str, one: Piece) -> str:
    """What a piece's buffer is called."""
    return f"{what}_{name.replace('.', '_')}_{one.first}"


def _sums(layer: Layer, operands: Sequence[Tensor], weights: Tensor | None) -> list[Tensor]:
    x, stride, pads = operands[0], (layer.stride_y, layer.stride_x), _pads(layer)
    if layer.op == "add":
        return list(operands)
    if layer.op == "concat":
        return [torch.cat(list(operands), 1)]
    if layer.op == "max_pool":
        padded = functional.pad(x, pads, value=float("-inf"))
        return [functional.max_pool2d(padded, (layer.fy, layer.fx), stride, 0, (layer.dilation_y, layer.dilation_x))]
    if layer.op == "avg_pool":
        found = functional.avg_pool2d(functional.pad(x, pads), (layer.fy, layer.fx), stride)
        return [(found * (layer.fy * layer.fx)).round()]
    assert weights is not None
    if layer.oy == layer.ox == layer.iy == layer.ix == 1:
        x = x.flatten(1)[:, :, None, None]
    dilation = layer.dilation_y, layer.dilation_x
    return [functional.conv2d(functional.pad(x, pads), weights, None, stride, 0, dilation, layer.groups)]


def _pads(layer: Layer) -> list[int]:
    """Left, right, above, below."""
    below = (layer.oy - 1) * layer.stride_y + (layer.fy - 1) * layer.dilation_y + 1 - layer.pad_y - layer.iy
    right = (layer.ox - 1) * layer.stride_x + (layer.fx - 1) * layer.dilation_x + 1 - layer.pad_x - layer.ix
    return [layer.pad_x, max(0, right), layer.pad_y, max(0, below)]


def program(one: Exported) -> bytes:
    """The module as `torch.export.save` writes it, for batches of any size."""
    module = IntegerModule(one.network, torch.from_numpy(one.order))
    c, iy, ix = one.workload.input_shape
    found = torch.export.export(
        module.eval(), (torch.zeros(2, c, iy, ix),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)
    )
    content = io.BytesIO()
    torch.export.save(found, content)
    return content.getvalue()


__all__ = ["IntegerModule", "program"]
