"""A network as ONNX with QuantizeLinear and DequantizeLinear around every tensor, as quantising compilers read it.

Weights are int8 with a scale for each output channel, tensors int8 or uint8 with one; a range that is narrower than its
type (7 bits, the three levels of an analog core) is clipped before it is quantised. Operators stand between in
floating point: a runtime that fuses them with their neighbours computes the integers, one that does not computes what
they are worth. Biases are added behind, as floats: those of a convolution itself runtimes round to steps of its sums,
which with three levels of weights are coarse. Needs the package onnx.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from cosoc.search.exports.exported import Exported
from cosoc.sim.errors import InputError
from cosoc.sim.integers.network import Converted, IntegerLayer, Piece, Whole, joined_along
from cosoc.sim.integers.real import Floats, Ints, Real
from cosoc.sim.model.workload import INPUT, SLICE, Layer

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
    if not any(about.table is not None for about in one.network.layers.values()):  # else it is of numbers
        writer.quantised(INPUT, INPUT, one.network.tensors[INPUT])
    for layer in one.workload:
        writer.layer(layer)
    outputs = one.workload[one.workload.outputs[0]]
    order = writer.constant("order", one.order)
    last = writer.node("Gather", [f"{outputs.name}.real", order], axis=1)
    if one.rows:
        last = writer.node("Transpose", [last], perm=[0, 2, 3, 1])
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
        kind: Any = _kind(name, about)
        limits = np.iinfo(kind)
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

    def _read(self, layer: Layer, name: str) -> str:
        """What a layer's first operand is worth, in the shape in which it is read."""
        if self._shape(name) == (layer.c, layer.iy, layer.ix):
            return f"{name}.real"
        return self._reshaped(f"{name}.real", layer.c, layer.iy, layer.ix)

    def _shape(self, name: str) -> tuple[int, int, int]:
        if name == INPUT:
            return self.one.workload.input_shape
        layer = self.one.workload[name]
        return layer.k, layer.oy, layer.ox

    def _reshaped(self, x: str, *shape: int) -> str:
        """A batch in another shape each."""
        return self.node("Reshape", [x, self._sizes(-1, *shape)])

    def _sizes(self, *shape: int) -> str:
        return self.constant(f"shape_{len(self.constants)}", np.array(shape))

    def _slice(self, x: str, first: int, end: int, axis: int) -> str:
        at = len(self.nodes)
        ends = [self.constant(f"slice_{at}.{key}", np.array([value]))
                for key, value in (("from", first), ("to", end), ("axis", axis))]  # fmt: skip
        return self.node("Slice", [x, *ends])

    def _number(self, value: Any) -> str:
        return self.constant(f"number_{len(self.constants)}", np.asarray(value, np.float32))

    def _piece(self, piece: Piece) -> str:
        layer, about = piece.layer, piece.about
        if layer.op == "add":
            return self.node("Add", [f"{name}.real" for name in layer.inputs])
        if layer.op == "concat" and about.constant is None:
            made = [self._shape(name) for name in layer.inputs]
            axis = joined_along(layer, [k for k, _, _ in made])
            return self.node("Concat", [f"{name}.real" for name in layer.inputs], axis=axis)
        if about.table is not None:
            return self._rows(layer, about.table)
        if piece.reads is not None:
            return self._convolution(layer, about, self._slice(f"{layer.inputs[0]}.real", *piece.reads, 1), piece.first)
        x = self._read(layer, layer.inputs[0])
        if layer.op == "conv":
            return self._convolution(layer, about, x, piece.first)
        if layer.op == "matmul":
            return self._product(layer, about, x)
        if about.real is not None:
            return self._real(layer, about.real, x)
        if about.constant is not None:
            return self._constant(layer, about, x)
        if layer.fn == SLICE:
            return self._slice(x, about.from_column, about.from_column + layer.ox, 3)
        return self._pool(layer, x)

    def _rows(self, layer: Layer, table: Ints) -> str:
        """Rows of a table, which is there in integers, by the numbers that the input is."""
        about = self.one.network.tensors[layer.name]
        kind: Any = _kind(layer.name, about)
        scale = self._number(about.step)
        zero = self.constant(f"{layer.name}.table.zero", kind(0))
        real = self.node("DequantizeLinear", [self.constant(f"{layer.name}.table", table.astype(kind)), scale, zero])
        to = self.onnx.TensorProto.INT64
        numbers = self.node("Cast", [self.node("Reshape", [INPUT, self._sizes(-1, layer.oy * layer.ox)])], to=to)
        last = self.node("Transpose", [self.node("Gather", [real, numbers], axis=0)], perm=[0, 2, 1])
        return self._reshaped(last, layer.k, layer.oy, layer.ox)

    def _product(self, layer: Layer, about: IntegerLayer, x: str) -> str:
        """Of each head, of what stands in the place of weights [k, c] and x [c, columns]."""
        k, c = layer.k // layer.groups, layer.c // layer.groups
        second = f"{layer.second}.real"
        if about.keys:
            second = self.node("Transpose", [self._reshaped(second, layer.groups, c, k)], perm=[0, 1, 3, 2])
        else:
            second = self._reshaped(second, layer.groups, k, c)
        made = self.node("MatMul", [second, self._reshaped(x, layer.groups, c, layer.oy * layer.ox)])
        made = self._reshaped(made, layer.k, layer.oy, layer.ox)
        factor = np.float32((self._unit(about, layer) / self._step(layer.inputs[0]) / self._step(layer.second))[0])
        return made if factor == 1 else self.node("Mul", [made, self._number(factor)])

    def _real(self, layer: Layer, about: Real, x: str) -> str:
        if about.function == "softmax":
            heads = self._reshaped(x, about.groups, layer.k // about.groups, layer.oy * layer.ox)
            # Between integers alone, ONNX Runtime takes a softmax by tables, which are off by a step now and then.
            made = self.node("Max", [self.node("Softmax", [heads], axis=2), self._number(0.0)])
            return self._reshaped(made, layer.k, layer.oy, layer.ox)
        if about.function == "layer_norm":
            last = self.node("Transpose", [x], perm=[0, 2, 3, 1])
            parameters = [self._number(about.weight), self._number(about.bias)]
            made = self.node("LayerNormalization", [last, *parameters], axis=-1, epsilon=about.eps)
            return self.node("Transpose", [made], perm=[0, 3, 1, 2])
        if about.function == "gelu":
            part = self.node("Erf", [self.node("Mul", [x, self._number(2**-0.5)])])
        else:
            cube = self.node("Mul", [self.node("Mul", [x, x]), self.node("Mul", [x, self._number(0.044715)])])
            part = self.node(
                "Tanh", [self.node("Mul", [self.node("Add", [x, cube]), self._number((2 / np.pi) ** 0.5)])]
            )
        half = self.node("Mul", [x, self._number(0.5)])
        return self.node("Mul", [half, self.node("Add", [part, self._number(1.0)])])

    def _constant(self, layer: Layer, about: IntegerLayer, x: str) -> str:
        """A sum with a constant, or a constant before the columns of x: both are sums, of x with nothing before it."""
        assert about.constant is not None
        if layer.op != "concat":
            return self.node(
                "Add", [x, self._number((about.constant * self._unit(about, layer, 1)[:, None, None])[None])]
            )
        before = about.constant.shape[2]
        pads = self.constant(f"pads_{len(self.nodes)}", np.array([0, 0, 0, before, 0, 0, 0, 0]))
        real = np.pad(about.constant * self._step(layer.name), ((0, 0), (0, 0), (0, layer.ox - before)))
        return self.node("Add", [self.node("Pad", [x, pads]), self._number(real[None])])

    def _convolution(self, layer: Layer, about: IntegerLayer, x: str, first: int) -> str:
        assert about.weights is not None
        name = f"{layer.name}.{first}"
        unit, bias = self._unit(about, layer), self._bias(about, layer)
        reads = self._step(layer.inputs[0])
        if about.converted is None:
            made = self._conv(layer, x, name, about.weights, unit / reads)
        else:
            made = self._converted(layer, about, about.converted, x, name, unit)
        beside = self.constant(f"{name}.bias", bias.astype(np.float32).reshape(1, -1, 1, 1))
        return self.node("Add", [made, beside])

    def _conv(self, layer: Layer, x: str, name: str, weights: Ints, worth: Floats) -> str:
        """A convolution of weights [k, c/groups, fy, fx] that are worth so much each, by channel."""
        whole = self.constant(f"{name}.weights", weights.astype(np.int8))
        scale = self.constant(f"{name}.weights.scale", worth.astype(np.float32))
        zero = self.constant(f"{name}.weights.zero", np.zeros(len(weights), np.int8))
        real = self.node("DequantizeLinear", [whole, scale, zero], axis=0)
        return self.node(
            "Conv", [x, real], kernel_shape=[layer.fy, layer.fx], strides=[layer.stride_y, layer.stride_x],
            pads=_pads(layer), dilations=[layer.dilation_y, layer.dilation_x], group=layer.groups,
        )  # fmt: skip

    def _converted(self, layer: Layer, about: IntegerLayer, by: Converted, x: str, name: str, unit: Floats) -> str:
        """Sums of all channels; those on analog cores array by array, each read by a converter. unit: what one of a
        channel's sums, or of its converter's integers, is worth."""
        assert about.weights is not None
        reads, factor = self._step(layer.inputs[0]), by.by.multiplier[0] * 2.0 ** -by.by.shift.astype(np.float64)
        cuts = [0, *(np.flatnonzero(np.diff(by.on.astype(int))) + 1).tolist(), layer.k]
        each = layer.k // layer.groups
        parts = []
        for first, end in pairwise(cuts):
            if layer.groups > 1 and (first % each or end % each):
                raise InputError(f"layer {layer.name}: cores share a group of channels; onnx-qdq has whole groups")
            groups = layer.groups if layer.groups == 1 else (end - first) // each
            own = replace(layer, k=end - first, groups=groups, c=layer.c // layer.groups * groups)
            reach = [i // each * (layer.c // layer.groups) for i in (first, end)]
            mine = x if groups == layer.groups else self._slice(x, reach[0], reach[1], 1)
            weights = about.weights[first:end]
            if not by.on[first]:
                parts.append(self._conv(own, mine, f"{name}.{first}", weights, unit[first:end] / reads))
                continue
            worth, total = factor[first:end] * unit[first:end] / reads, ""
            for c0, c1 in by.blocks(0, layer.c // layer.groups):
                of = mine
                if c1 - c0 < layer.c // layer.groups:
                    at = np.add.outer(np.arange(groups) * (layer.c // layer.groups), np.arange(c0, c1)).reshape(-1)
                    of = self.node("Gather", [mine, self.constant(f"{name}.{first}.{c0}.channels", at)], axis=1)
                block = replace(own, c=groups * (c1 - c0))
                sums = self._conv(block, of, f"{name}.{first}.{c0}", weights[:, c0:c1], worth)
                about_it = Whole(by.by.low, by.by.high, float(unit[first]))
                self.quantised(f"{name}.{first}.{c0}.sums", sums, about_it)
                sums = f"{name}.{first}.{c0}.sums.real"
                total = self.node("Add", [total, sums]) if total else sums
            parts.append(total)
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=1)

    def _step(self, name: str) -> float:
        return self.one.network.tensors[name].step

    def _unit(self, about: IntegerLayer, layer: Layer, operand: int = 0) -> Floats:
        """What one of each output channel's sums of an operand is worth."""
        if about.rescale is None:
            assert about.step is not None
            return about.step
        made: Floats = about.rescale.multiplier[operand] * 2.0 ** -about.rescale.shift.astype(np.float64)
        return made * self._step(layer.name)

    def _bias(self, about: IntegerLayer, layer: Layer) -> Floats:
        if about.rescale is None:
            assert about.bias is not None
            return about.bias
        scaled = about.rescale
        unit: Floats = 2.0 ** -scaled.shift.astype(np.float64) * self._step(layer.name)
        return (scaled.offset - 2.0 ** (scaled.shift - 1)) * unit

    def _pool(self, layer: Layer, x: str) -> str:
        about: dict[str, Any] = {"kernel_shape": [layer.fy, layer.fx], "strides": [layer.stride_y, layer.stride_x]}
        if layer.op == "avg_pool":
            return self.node("AveragePool", [x], pads=_pads(layer), count_include_pad=1, **about)
        return self.node("MaxPool", [x], pads=_pads(layer), dilations=[layer.dilation_y, layer.dilation_x], **about)


def _kind(name: str, about: Whole) -> type[np.int8] | type[np.uint8]:
    """The type that a tensor's integers have."""
    kind: type[np.int8] | type[np.uint8] = np.int8 if about.low < 0 else np.uint8
    if about.low < np.iinfo(kind).min or about.high > np.iinfo(kind).max:
        raise InputError(f"{name}: integers of {about.low} .. {about.high}; onnx-qdq has 8 bits")
    return kind


def _pads(layer: Layer) -> list[int]:
    """Above, left, below, right."""
    below = (layer.oy - 1) * layer.stride_y + (layer.fy - 1) * layer.dilation_y + 1 - layer.pad_y - layer.iy
    right = (layer.ox - 1) * layer.stride_x + (layer.fx - 1) * layer.dilation_x + 1 - layer.pad_x - layer.ix
    return [layer.pad_y, layer.pad_x, max(0, below), max(0, right)]


__all__ = ["OPSET", "model"]
