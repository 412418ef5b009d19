"""A network as a torch program that computes its integers: image in real numbers in, outputs in real numbers out.

Sums are of float64, which holds integers of 53 bits exactly; rescaling is of int64. So what it gives is what the
integers give, on any device. `torch.export.load` reads it, without cosoc.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosoc.search.exports.exported import Exported
from cosoc.sim.integers.network import IntegerLayer, IntegerNetwork
from cosoc.sim.model.workload import INPUT, Layer


class IntegerModule(nn.Module):
    """The integers of a network. Takes images [n, c, iy, ix] in real numbers, gives outputs [n, k]."""

    def __init__(self, network: IntegerNetwork, order: Tensor) -> None:
        super().__init__()
        self.workload, self.image = network.workload, network.tensors[INPUT]
        self.about = network.layers
        self.number = {layer.name: n for n, layer in enumerate(network.workload)}
        for name, n in self.number.items():
            one = network.layers[name]
            if one.weights is not None:
                self.register_buffer(f"weights{n}", torch.from_numpy(one.weights).to(torch.int8))
            if one.rescale is not None:
                for key in ("multiplier", "offset", "shift"):
                    self.register_buffer(f"{key}{n}", torch.from_numpy(getattr(one.rescale, key)))
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
            operands = [found[name] for name in layer.inputs]
            found[layer.name] = self._layer(layer, self.about[layer.name], operands)
        sums = found[self.workload.outputs[0]]
        real = sums.flatten(2) * self.step[:, None] + self.bias[:, None]
        return real.index_select(1, self.order).flatten(1)

    def _layer(self, layer: Layer, about: IntegerLayer, operands: Sequence[Tensor]) -> Tensor:
        sums = self._sums(layer, operands)
        scaled = about.rescale
        if scaled is None:
            return sums[0]
        n = self.number[layer.name]
        multiplier, offset, shift = (getattr(self, f"{key}{n}") for key in ("multiplier", "offset", "shift"))
        total = offset[:, None, None]
        for i, one in enumerate(sums):
            total = total + multiplier[i][:, None, None] * one.long()
        found: Tensor = (total >> shift[:, None, None]).clamp(scaled.low, scaled.high).double()
        return found

    def _sums(self, layer: Layer, operands: Sequence[Tensor]) -> list[Tensor]:
        x, stride, pads = operands[0], (layer.stride_y, layer.stride_x), _pads(layer)
        if layer.op == "add":
            return list(operands)
        if layer.op == "concat":
            return [torch.cat(list(operands), 1)]
        if layer.op == "max_pool":
            padded = functional.pad(x, pads, value=float("-inf"))
            return [
                functional.max_pool2d(padded, (layer.fy, layer.fx), stride, 0, (layer.dilation_y, layer.dilation_x))
            ]
        if layer.op == "avg_pool":
            found = functional.avg_pool2d(functional.pad(x, pads), (layer.fy, layer.fx), stride)
            return [(found * (layer.fy * layer.fx)).round()]
        weights = getattr(self, f"weights{self.number[layer.name]}").double()
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
