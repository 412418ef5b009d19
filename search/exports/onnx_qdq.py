"""A network as ONNX with QuantizeLinear and DequantizeLinear around every tensor, as quantising compilers read it.

Weights are int8 with a scale for each output channel, tensors int8 or uint8 with one; a range that is narrower than its
type (7 bits, the three levels of an analog core) is clipped before it is quantised. Operators stand between in
floating point: a runtime that fuses them with their neighbours computes the integers, one that does not computes what
they are worth. Biases are added behind, as floats: those of a convolution itself runtimes round to steps of its sums,
which with three levels of weights are coarse. Needs the package onnx.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cosoc.search.exports.exported import Exported
from cosoc.sim.errors import InputError
from cosoc.sim.integers.network import IntegerLayer, Piece, Whole
from cosoc.sim.model.workload import INPUT, Layer

OPSET = 17
PRODUCER = "cosoc"


def model(one: Exported) -> bytes:
    """The ONNX file, for batches of any size."""
    try:
        import onnx
    except ImportError:
        raise InputError("--format onnx-qdq needs the package onnx: pip install 'cosoc[onnx]'") from None
    from onnx import TensorProto, helper

    c, iy, ix = one.workload.input_shape
    writer = _Writer(one, onnx)
    writer.quantised(INPUT, INPUT, one.network.tensors[INPUT])
    for layer in one.workload:
        writer.layer(layer)
    outputs = one.workload[one.workload.outputs[0]]
    order = writer.constant("order", one.order)
    last = writer.node("Gather", [f"{outputs.name}.real", order], axis=1)
    writer.node("Flatten", [last], "output", axis=1)
    sizes: list[str | int | None] = ["n", len(one.order) * outputs.oy * outputs.ox]
    graph = helper.make_graph(
        writer.nodes, one.workload.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", c, iy, ix])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, sizes)], writer.constants,
    )  # fmt: skip
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name=PRODUCER)
    found.ir_version = 8  # of that opset's time: what runtimes of today read
    onnx.checker.check_model(found)
    content: bytes = found.SerializeToString()
    return content


class _Writer:
    """Nodes and constants so far. A tensor NAME is there as `NAME.real`, what its integers are worth."""

    def __init__(self, one: Exported, onnx: Any) -> None:
        self.one, self.onnx = one, onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, values: Any) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        output = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [output], f"{op}_{len(self.nodes)}", **attributes))
        return output

    def quantised(self, name: str, real: str, about: Whole) -> None:
        """Round a tensor to its integers, as `NAME.integers`."""
        kind: Any = np.int8 if about.low < 0 else np.uint8
        limits = np.iinfo(kind)
        if about.low < limits.min or about.high > limits.max:
            raise InputError(f"{name}: integers of {about.low} .. {about.high}; onnx-qdq has 8 bits")
        if about.low > limits.min or about.high < limits.max:
            ends = [self.constant(f"{name}.{end}", np.float32(value * about.step))
                    for end, value in (("low", about.low), ("high", about.high))]  # fmt: skip
            real = self.node("Clip", [real, *ends])
        scale = self.constant(f"{name}.scale", np.float32(about.step))
        zero = self.constant(f"{name}.zero", kind(0))
        integers = self.node("QuantizeLinear", [real, scale, zero], f"{name}.integers")
        self.node("DequantizeLinear", [integers, scale, zero], f"{name}.real")

    def layer(self, layer: Layer) -> None:
        parts = [self._piece(piece) for piece in self.one.pieces(layer)]
        made = parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=1)
        to = self.one.network.tensors.get(layer.name)
        if to is None:
            self.node("Identity", [made], f"{layer.name}.real")
        else:
            self.quantised(layer.name, made, to)

    def _piece(self, piece: Piece) -> str:
        layer = piece.layer
        inputs = [f"{name}.real" for name in layer.inputs]
        if layer.op == "add":
            return self.node("Add", inputs)
        if layer.op == "concat":
            return self.node("Concat", inputs, axis=1)
        if layer.op != "conv":
            return self._pool(layer, inputs[0])
        x, name = inputs[0], f"{layer.name}.{piece.first}"
        if piece.reads is not None:
            ends = [self.constant(f"{name}.{key}", np.array([at]))
                    for key, at in (("from", piece.reads[0]), ("to", piece.reads[1]), ("axis", 1))]  # fmt: skip
            x = self.node("Slice", [x, *ends])
        return self._convolution(layer, piece.about, x, name)

    def _convolution(self, layer: Layer, about: IntegerLayer, x: str, name: str) -> str:
        assert about.weights is not None
        step, bias = self._worth(layer, about)
        weights = self.constant(f"{name}.weights", about.weights.astype(np.int8))
        scale = self.constant(f"{name}.weights.scale", step.astype(np.float32))
        zero = self.constant(f"{name}.weights.zero", np.zeros(layer.k, np.int8))
        real = self.node("DequantizeLinear", [weights, scale, zero], axis=0)
        if layer.oy == layer.ox == layer.iy == layer.ix == 1:  # what it reads may be a map, which is flattened
            x = self.node("Reshape", [x, self.constant(f"{name}.shape", np.array([-1, layer.c, 1, 1]))])
        made = self.node(
            "Conv", [x, real], kernel_shape=[layer.fy, layer.fx], strides=[layer.stride_y, layer.stride_x],
            pads=_pads(layer), dilations=[layer.dilation_y, layer.dilation_x], group=layer.groups,
        )  # fmt: skip
        beside = self.constant(f"{name}.bias", bias.astype(np.float32).reshape(1, -1, 1, 1))
        return self.node("Add", [made, beside])

    def _worth(self, layer: Layer, about: IntegerLayer) -> tuple[Any, Any]:
        """What a weight of each output channel is worth, and the biases."""
        reads = self.one.network.tensors[layer.inputs[0]].step
        if about.rescale is None:
            assert about.step is not None and about.bias is not None
            return about.step / reads, about.bias
        to, scaled = self.one.network.tensors[layer.name].step, about.rescale
        unit = 2.0 ** -scaled.shift.astype(np.float64)
        half = 2.0 ** (scaled.shift - 1)
        return scaled.multiplier[0] * unit * to / reads, (scaled.offset - half) * unit * to

    def _pool(self, layer: Layer, x: str) -> str:
        about: dict[str, Any] = {"kernel_shape": [layer.fy, layer.fx], "strides": [layer.stride_y, layer.stride_x]}
        if layer.op == "avg_pool":
            return self.node("AveragePool", [x], pads=_pads(layer), count_include_pad=1, **about)
        return self.node("MaxPool", [x], pads=_pads(layer), dilations=[layer.dilation_y, layer.dilation_x], **about)


def _pads(layer: Layer) -> list[int]:
    """Above, left, below, right."""
    below = (layer.oy - 1) * layer.stride_y + (layer.fy - 1) * layer.dilation_y + 1 - layer.pad_y - layer.iy
    right = (layer.ox - 1) * layer.stride_x + (layer.fx - 1) * layer.dilation_x + 1 - layer.pad_x - layer.ix
    return [layer.pad_y, layer.pad_x, max(0, below), max(0, right)]


__all__ = ["OPSET", "model"]
