"""An ONNX file as a Workload: its graph, operator by operator. Needs the optional package `onnx`.

How tensors become layers, and what folds, stands in `build`. Of ONNX's own:

- Shapes are inferred from the input's shape; weights need not be there (external data are not loaded). What is computed
  from weights and shapes alone is constant and costs nothing. A dynamic first dimension is the batch, which is one.
- Reshapes, transpositions, casts, dropout, quantisers and the like cost nothing and vanish.
- Quantised weights give a layer its weight bits.
- Control flow, recurrent layers and other operators that no layer stands for are refused by name, with their node.

Layers are named after nodes; the names that torch's exporters give are turned back into module paths.
"""

from __future__ import annotations

import ast
import contextlib
import graphlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cosoc.sim.errors import InputError
from cosoc.sim.importers.build import Builder, Shape, Site, Unsupported, Value, Window, grid_of_input, handed
from cosoc.sim.importers.fused import MOST_MOVED, Range, numbered, partition, taken
from cosoc.sim.importers.recurrent import Layers, recurrent
from cosoc.sim.model.workload import INPUT, Workload, batched

MAX_BYTES = 2 << 30  # of a file; protobuf itself reads no more
MOST_NODES = 1_000_000  # once the functions in a file stand where they are called
SMALL = 4096  # elements; larger constants are weights, of which only the shape is looked at
ROUNDS = 200  # of shape inference, each of which needs shapes that the one before has found

_VIEWS = (
    "Reshape Flatten Squeeze Unsqueeze Transpose Identity Dropout Cast CastLike Expand QuantizeLinear DequantizeLinear "
    "DynamicQuantizeLinear DepthToSpace SpaceToDepth IsNaN Tile"
)
_UNARY = (
    "Sigmoid HardSigmoid HardSwish Swish Tanh Elu Selu Celu LeakyRelu PRelu ThresholdedRelu Softplus Softsign Mish "
    "Gelu Erf Exp Log Sqrt Reciprocal Abs Neg Sign Floor Ceil Round Sin Cos Not Shrink FastGelu QuickGelu BiasGelu "
    "QLinearSigmoid QLinearLeakyRelu"
)
_POINTWISE = "Pow Max Min Mean Mod Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Trilu CumSum"
_NORMS = (
    "LRN InstanceNormalization LayerNormalization GroupNormalization LpNormalization MeanVarianceNormalization "
    "RMSNormalization SimplifiedLayerNormalization"
)
_CONTROL = ("If", "Loop", "Scan", "SequenceMap")
_DATA_DEPENDENT = "what it runs is decided while running; export the network without control flow"
_MOVES = ("Identity", "Gather", "Unsqueeze", "Squeeze", "Slice", "Transpose")  # by constants, as `_FOLDS` has them
_SHAPE_ONLY = ("Shape", "Size")  # read a tensor's shape, not its elements
# Operators of com.microsoft whose result has the shape of their first input; ONNX infers none.
_SHAPE_OF_FIRST = (
    *("FastGelu", "QuickGelu", "BiasGelu", "Gelu", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu"),
    *("SimplifiedLayerNormalization", "QuantizeLinear", "DequantizeLinear"),
)
# Names as torch has them, so that layers are called alike.
_CALLED = {"Concat": "cat", "Gemm": "linear", "Conv": "conv2d", "Sum": "add", "QLinearAdd": "add", "QLinearMul": "mul"}
_KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft")


class _Graph:
    """The file's graph: attributes, constants, shapes, and which tensors depend on the input."""

    def __init__(self, model: Any, onnx: Any) -> None:
        self.onnx, self.model = onnx, model
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producer = {out: node for node in model.graph.node for out in node.output if out}
        self.nodes = self._live()
        self.shapes: dict[str, Shape] = {name: tuple(t.dims) for name, t in self.initializers.items()}
        self.active: set[str] = set()
        self._values: dict[str, np.ndarray | None] = {}

    def _live(self) -> list[Any]:
        """Nodes on which the outputs depend, in the file's order."""
        todo, live, seen = [out.name for out in self.model.graph.output], set(), set()
        while todo:
            node = self.producer.get(todo.pop())
            if node is not None and id(node) not in live:
                live.add(id(node))
                todo += [name for name in node.input if name not in seen]
                seen.update(node.input)
        return [node for node in self.model.graph.node if id(node) in live]

    def mark_active(self, names: Sequence[str]) -> None:
        """Find what depends on the elements of the inputs."""
        self.active = set(names)
        for node in self.nodes:
            if node.op_type not in _SHAPE_ONLY and self.active.intersection(node.input):
                self.active.update(out for out in node.output if out)

    def attribute(self, node: Any, name: str, default: Any = None) -> Any:
        for attribute in node.attribute:
            if attribute.name == name:
                value = self.onnx.helper.get_attribute_value(attribute)
                return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return default

    def ints(self, node: Any, name: str, index: int = -1) -> list[int] | None:
        """Whole numbers from an attribute, or in newer files from the input at `index`; None where absent."""
        given = self.attribute(node, name)
        if given is None and 0 <= index < len(node.input) and node.input[index]:
            constant = self.constant(node.input[index])
            if constant is None:
                raise self.malformed(node, f"its {name} are computed from the input or missing")
            given = constant.ravel().tolist()
        return None if given is None else [int(v) for v in (given if isinstance(given, list) else [given])]

    def malformed(self, node: Any, why: str) -> InputError:
        return InputError(f"operator {_title(node)} in {node.name or node.output[0]} cannot be read: {why}")

    # ------------------------------------------------------------------------------------------ constants

    def constant(self, name: str, depth: int = 0) -> np.ndarray | None:
        """The elements of a small tensor that does not depend on the input, None where they are not known."""
        if name not in self._values:
            self._values[name] = None if depth > 100 else self._evaluate(name, depth)
        return self._values[name]

    def _evaluate(self, name: str, depth: int) -> np.ndarray | None:
        if name in self.initializers:
            return self._stored(self.initializers[name])
        node = self.producer.get(name)
        if node is None:
            return None
        if node.op_type == "Shape" and node.input[0] in self.shapes:
            shape = self.shapes[node.input[0]]
            start, end = self.attribute(node, "start", 0), self.attribute(node, "end", None)
            return np.array(shape[start:end], dtype=np.int64)
        if node.op_type == "Constant":
            return self._constant_node(node)
        fold = _FOLDS.get(node.op_type)
        if fold is None or name in self.active:
            return None
        given = [self.constant(source, depth + 1) if source else None for source in node.input]
        if not given or any(v is None for v, source in zip(given, node.input, strict=True) if source):
            return None
        with np.errstate(all="ignore"), contextlib.suppress(ArithmeticError, ValueError, IndexError, TypeError):
            result = np.asarray(fold(self, node, *given))
            return result if result.size <= SMALL and result.dtype != object else None
        return None

    def _constant_node(self, node: Any) -> np.ndarray | None:
        for attribute in node.attribute:
            value = self.onnx.helper.get_attribute_value(attribute)
            if attribute.name == "value":
                return self._stored(value)
            if attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
                return np.array(value)
        return None

    def _stored(self, tensor: Any) -> np.ndarray | None:
        if math.prod(tensor.dims) > SMALL or tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            return None
        try:
            return np.asarray(self.onnx.numpy_helper.to_array(tensor))
        except Exception:  # data shorter than the dimensions say, and other damage: not known
            return None

    def weight_bits(self, name: str) -> int | None:
        """Bits of a weight as quantised; None where it is not."""
        node = self.producer.get(name)
        while node is not None and node.input and node.op_type in (*_VIEWS.split(), "Gather"):
            name = node.input[0]
            node = self.producer.get(name)
        kind = self.initializers[name].data_type if name in self.initializers else 0
        types = self.onnx.TensorProto
        widths = {"INT4": 4, "UINT4": 4, "INT8": 8, "UINT8": 8, "INT16": 16, "UINT16": 16}
        return {getattr(types, key): bits for key, bits in widths.items() if hasattr(types, key)}.get(kind)

    # ------------------------------------------------------------------------------------------ shapes

    def infer(self) -> None:
        """Find all shapes. What inference cannot see, shapes computed from shapes, becomes constant round by round."""
        known = {opset.domain for opset in self.model.opset_import}
        for domain in sorted({node.domain for node in self.model.graph.node} - known):
            self.model.opset_import.append(self.onnx.helper.make_opsetid(domain, 1))  # inference passes over it
        stored: set[str] = set()
        for _ in range(ROUNDS):
            try:
                inferred = self.onnx.shape_inference.infer_shapes(self.model, data_prop=True)
            except Exception as error:  # of its own types, for damage that it sees
                raise InputError(f"its shapes cannot be inferred: {' '.join(str(error).split())}") from None
            for info in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input):
                shape = _static(info)
                if shape is not None and info.name not in self.shapes:
                    self.shapes[info.name] = shape
            self._values = {name: value for name, value in self._values.items() if value is not None}
            if not self._missing(stored):
                return

    def _missing(self, stored: set[str]) -> bool:
        """Give inference what it lacks, if there is any such thing."""
        found = False
        for node in self.nodes:
            lacking = [out for out in node.output if out and out not in self.shapes]
            if not lacking or not all(name in self.shapes or not name or name in stored for name in node.input):
                continue
            if node.domain == "com.microsoft" and node.op_type in _SHAPE_OF_FIRST and node.input[0] in self.shapes:
                self._declare(node.output[0], self.shapes[node.input[0]], node.input[0])
                found = True
            for name in node.input:
                value = None if name in self.initializers or name in stored else self.constant(name)
                if value is not None:
                    self._store(name, value)
                    stored.add(name)
                    found = True
        return found

    def _declare(self, name: str, shape: Shape, like: str) -> None:
        kinds = {info.name: info.type.tensor_type.elem_type for info in self.model.graph.value_info}
        kind = kinds.get(like, self.onnx.TensorProto.FLOAT)
        self.model.graph.value_info.append(self.onnx.helper.make_tensor_value_info(name, kind, shape))
        self.shapes[name] = shape

    def _store(self, name: str, value: np.ndarray) -> None:
        """Put a computed constant in the place of the node that computes it."""
        node = self.producer[name]
        kept = [other for other in self.model.graph.node if other is not node or len(node.output) > 1]
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)
        self.model.graph.initializer.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        self.producer = {out: n for n in self.model.graph.node for out in n.output if out}
        self.initializers[name] = self.model.graph.initializer[-1]
        self.nodes = self._live()


def _static(info: Any) -> Shape | None:
    """A tensor's shape if all of it is known."""
    if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
        return None
    dims = info.type.tensor_type.shape.dim
    known = all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims)
    return tuple(int(dim.dim_value) for dim in dims) if known else None


def _title(node: Any) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _cut(graph: _Graph, node: Any, data: np.ndarray, *where: np.ndarray) -> np.ndarray:
    """Slice along its axes, of constants."""
    given = [None if w is None else w.ravel().tolist() for w in where]
    starts, ends, axes, steps = [*given, None, None, None, None][:4]
    starts = graph.attribute(node, "starts") if starts is None else starts
    ends = graph.attribute(node, "ends") if ends is None else ends
    axes = (graph.attribute(node, "axes") or list(range(len(starts)))) if axes is None else axes
    index = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        index[axis] = slice(start, end, step)
    return data[tuple(index)]


def _axes_of(graph: _Graph, node: Any, axes: np.ndarray | None) -> tuple[int, ...]:
    given = graph.attribute(node, "axes") if axes is None else axes.ravel().tolist()
    return tuple(int(axis) for axis in given)


def _filled(graph: _Graph, node: Any, shape: np.ndarray) -> np.ndarray:
    if math.prod(shape.tolist()) > SMALL:
        raise ValueError("a weight, of no interest")
    value = graph.attribute(node, "value")
    fill = graph.onnx.numpy_helper.to_array(value).ravel()[0] if value is not None else np.float32(0)
    return np.asarray(np.full(shape.tolist(), fill))


def _chosen(graph: _Graph, node: Any, which: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if math.prod(np.broadcast_shapes(which.shape, a.shape, b.shape)) > SMALL:
        raise ValueError("a weight, of no interest")
    return np.asarray(np.where(which, a, b))


def _quotient(graph: _Graph, node: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a // b if a.dtype.kind in "iu" else a / b)


_Fold = Callable[..., Any]
_FOLDS: dict[str, _Fold] = {  # of shapes and numbers: what exporters compute sizes with
    "Identity": lambda g, n, x: x,
    "Cast": lambda g, n, x: x.astype(g.onnx.helper.tensor_dtype_to_np_dtype(g.attribute(n, "to"))),
    "Size": lambda g, n, x: np.int64(x.size),
    "Gather": lambda g, n, x, i: np.take(x, i, axis=g.attribute(n, "axis", 0)),
    "Concat": lambda g, n, *xs: np.concatenate(xs, axis=g.attribute(n, "axis", 0)),
    "Unsqueeze": lambda g, n, x, a=None: np.expand_dims(x, _axes_of(g, n, a)),
    "Squeeze": lambda g, n, x, a=None: np.squeeze(x, None if a is None and not n.attribute else _axes_of(g, n, a)),
    "Slice": _cut,
    "Add": lambda g, n, a, b: a + b,
    "Sub": lambda g, n, a, b: a - b,
    "Mul": lambda g, n, a, b: a * b,
    "Div": _quotient,
    "Mod": lambda g, n, a, b: np.mod(a, b),
    "Pow": lambda g, n, a, b: a**b,
    "Neg": lambda g, n, x: -x,
    "Abs": lambda g, n, x: np.abs(x),
    "Not": lambda g, n, x: ~x,
    "And": lambda g, n, a, b: a & b,
    "Or": lambda g, n, a, b: a | b,
    "Less": lambda g, n, a, b: a < b,
    "Greater": lambda g, n, a, b: a > b,
    "Sqrt": lambda g, n, x: np.sqrt(x),
    "Floor": lambda g, n, x: np.floor(x),
    "Ceil": lambda g, n, x: np.ceil(x),
    "Max": lambda g, n, *xs: np.maximum.reduce(xs),
    "Min": lambda g, n, *xs: np.minimum.reduce(xs),
    "Equal": lambda g, n, a, b: a == b,
    "Where": _chosen,
    "ReduceProd": lambda g, n, x, a=None: np.prod(x),
    "Reshape": lambda g, n, x, shape: x.reshape(shape.tolist()),
    "Transpose": lambda g, n, x: np.transpose(x, g.attribute(n, "perm")),
    "Range": lambda g, n, a, b, c: np.arange(a, b, c) if (b - a) / c <= SMALL else None,
    "ConstantOfShape": _filled,
}


# ---------------------------------------------------------------------------------------------- the graph as layers


class _Reader:
    """Layers as read so far, and the value of every tensor that carries an activation."""

    def __init__(self, graph: _Graph, inputs: dict[str, Shape]) -> None:
        self.graph = graph
        first = next(iter(inputs))
        self.build = Builder({INPUT if n == first else n: grid_of_input(s[1:] or (1,), n) for n, s in inputs.items()})
        self.lost: list[Unsupported] = []
        self.outputs = {out.name for out in graph.model.graph.output}
        self.users = Counter(name for node in graph.nodes for name in dict.fromkeys(node.input))
        self.users.update(out.name for out in graph.model.graph.output)
        self.readers: dict[str, list[Any]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.apart: dict[str, Value] = {}  # of a fused product: what takes a part of it, and what is before that
        self.paths = {id(node): _path(node) for node in graph.nodes}
        self.parents = {path.rpartition(".")[0] for path in _prefixes({p for p, own in self.paths.values() if not own})}
        self.values = {n: Value(INPUT if n == first else n, self.users[n] == 1, s) for n, s in inputs.items()}

    def read(self, node: Any) -> None:
        """Take in one node. One that cannot be read is noted, and a layer stands for it where its shape is known; what
        depends on one without a shape is lost with it."""
        active = self.graph.active.intersection(node.input)
        if not self.graph.active.intersection(node.output):
            return
        if self.lost and not active <= self.values.keys():
            return
        try:
            self._handled(node)
        except Unsupported as why:
            out = next((out for out in node.output if out), "")
            if len(node.output) > 1 or out not in self.graph.shapes:
                self.build.at_loss = self.build.at_loss if self.lost else len(self.build.layers)
                self.lost.append(why)
                return
            reads = [self.values[name] for name in node.input if name in self.values]
            stand_in = self.build.stand_in(self.site(node), reads, self.graph.shapes[out], why)
            self.values[out] = replace(stand_in, shape=self.graph.shapes[out])

    def _handled(self, node: Any) -> None:
        handler = _HANDLERS.get(node.op_type)
        if handler is None or node.domain not in _KNOWN_DOMAINS:
            raise self.unsupported(node, "no such operator is known here")
        for out in node.output[:1]:
            if out and out not in self.graph.shapes:
                raise self.unsupported(node, f"the shape of its result {out} cannot be inferred")
        padded = any(any(self.values[name].pad) for name in node.input if name in self.values)
        if padded and handler not in (_conv, _max_pool, _average_pool, _pad):
            raise self.unsupported(node, "it reads a padded tensor; only convolutions and pools can")
        parts = [self.apart[out] for out in node.output if out in self.apart]
        for out, value in zip(node.output, parts or handler(self, node), strict=False):
            if not out or out not in self.graph.shapes:
                continue
            seen = replace(value, sole=value.sole and self.users[out] == 1, shape=self.graph.shapes[out])
            self.values[out] = seen

    def site(self, node: Any) -> Site:
        path, own = self.paths[id(node)]
        own = own or (path != "" and path not in self.parents)
        return Site(_title(node), _CALLED.get(node.op_type, node.op_type.lower()), path, own)

    def unsupported(self, node: Any, why: str) -> Unsupported:
        return replace(self.site(node), path=node.name or node.output[0]).unsupported(why)

    def value(self, node: Any, index: int = 0) -> Value:
        """The activation that a node takes as its input `index`, whole."""
        return self.build.whole(self.site(node), self.raw(node, index))

    def activations(self, node: Any) -> list[Value]:
        """All activations among a node's inputs, as they are: repeated ones stand once."""
        return [self.raw(node, i) for i, name in enumerate(node.input) if name in self.graph.active]

    def raw(self, node: Any, index: int) -> Value:
        """The activation that a node takes as its input `index`, as it stands."""
        name = node.input[index] if index < len(node.input) else ""
        if name not in self.values:
            what = "comes from nowhere before it" if name in self.graph.active else "is constant"
            raise self.unsupported(node, f"its input {index} ({name or 'absent'}) {what}")
        return self.values[name]

    def is_weight(self, node: Any, index: int) -> bool:
        """Whether there is an input `index`, and it does not depend on the network's input."""
        return index < len(node.input) and bool(node.input[index]) and node.input[index] not in self.graph.active

    def constants(self, node: Any) -> int:
        """Elements of a node's inputs that do not depend on the network's, but for single numbers."""
        mine = [name for i, name in enumerate(node.input) if self.is_weight(node, i) and name in self.graph.shapes]
        sizes = [math.prod(self.graph.shapes[name]) for name in mine]
        return sum(size for size in sizes if size > 1)

    def owned(self, made: Value, node: Any) -> Value:
        """A layer with the one constant of a node, which an earlier layer may have had."""
        shapes = self.graph.shapes
        own = [
            i for i, name in enumerate(node.input) if self.is_weight(node, i) and math.prod(shapes.get(name, ())) > 1
        ]
        return self.build.owned_constant(made, [self.owner(node, i) for i in own])

    def owner(self, node: Any, index: int) -> str:
        """What tells the weights of a node from others': the constant that they are made of."""
        name = str(node.input[index])
        while name in self.graph.producer and self.graph.producer[name].op_type in _VIEWS.split():
            name = str(self.graph.producer[name].input[0])
        return name

    def weight(self, node: Any, index: int) -> Shape:
        """The shape of a weight."""
        if not self.is_weight(node, index):
            raise self.unsupported(node, "its weights are computed from the input")
        if node.input[index] not in self.graph.shapes:
            raise self.unsupported(node, f"the shape of its weights {node.input[index]} cannot be inferred")
        return self.graph.shapes[node.input[index]]

    def out(self, node: Any) -> Shape:
        return self.graph.shapes[node.output[0]]


def _path(node: Any) -> tuple[str, bool]:
    """What a node's layer is called after: (path, whether it names this node alone).

    torch's exporters keep module paths, in the metadata or as "/layer1/layer1.0/conv1/Conv".
    """
    for entry in getattr(node, "metadata_props", ()):
        if entry.key == "pkg.torch.onnx.name_scopes":
            with contextlib.suppress(ValueError, SyntaxError, IndexError, TypeError, MemoryError, RecursionError):
                return str(ast.literal_eval(entry.value)[-2]), False
    if node.name.startswith("/"):
        parts = ["", *node.name.split("/")[1:-1]]
        steps = (part.removeprefix(f"{above}.") for above, part in pairwise(parts))
        return ".".join(steps), False
    return node.name or node.output[0], True


def _prefixes(paths: set[str]) -> set[str]:
    """The paths and all paths above them."""
    found: set[str] = set()
    for path in paths:
        while path and path not in found:
            found.add(path)
            path = path.rpartition(".")[0]
    return found


_Values = list[Value]


def _sides(sizes: list[int] | None, default: int, one_d: bool) -> tuple[int, int]:
    """(rows, columns) of an attribute with one number a dimension."""
    given = sizes or [default, default]
    return (default, given[-1]) if one_d else (given[0], given[1])


def _window(reader: _Reader, node: Any, kernel: list[int], pads_given: list[int] | None) -> Window:
    """Filter, strides, dilations and padding of a convolution or pool, `auto_pad` worked out."""
    graph, one_d = reader.graph, len(kernel) == 1
    size = _sides(kernel, 1, one_d)
    stride = _sides(graph.ints(node, "strides"), 1, one_d)
    dilation = _sides(graph.ints(node, "dilations"), 1, one_d)
    pads, mode = pads_given or [0] * (2 * len(kernel)), graph.attribute(node, "auto_pad", "NOTSET")
    if min(*size, *stride, *dilation) < 1 or min(pads) < 0 or len(pads) != 2 * len(kernel):
        found = f"filter {size}, stride {stride}, dilation {dilation}, pads {pads}"
        raise reader.unsupported(node, f"{found} make no window")
    padding = (0, pads[0]) if one_d else (pads[0], pads[1])
    if mode.startswith("SAME"):
        inputs, outs = reader.value(node).shape[2:], reader.out(node)[2:]
        reach = [(f - 1) * d + 1 for f, d in zip(size, dilation, strict=True)][-len(kernel) :]
        steps = stride[-len(kernel) :]
        totals = [max((o - 1) * s + r - i, 0) for o, s, r, i in zip(outs, steps, reach, inputs, strict=True)]
        begins = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
        padding = (0, begins[0]) if one_d else (begins[0], begins[1])
    return Window(size, stride, padding, dilation)


def _conv(reader: _Reader, node: Any, weight_at: int = 1, bias_at: int = 2) -> _Values:
    weight, x = reader.weight(node, weight_at), reader.value(node)
    if len(weight) not in (3, 4, 5):
        raise reader.unsupported(node, f"its weights have {len(weight)} dimensions; 3 to 5 can be read")
    groups = int(reader.graph.attribute(node, "group", 1))
    bits = reader.graph.weight_bits(node.input[weight_at])
    more = {"groups": groups, "bias": reader.is_weight(node, bias_at), "weight_bits": bits}
    if groups < 1 or weight[1] * groups != x.shape[1]:
        raise reader.unsupported(node, f"{weight[1]} channels a filter in {groups} groups, but its input is {x.shape}")
    made = _over_window(reader, node, "conv", x, list(weight[2:]), more)
    return [reader.build.owned(made, reader.owner(node, weight_at))]


def _over_window(reader: _Reader, node: Any, op: str, x: Value, kernel: list[int], more: dict[str, Any]) -> Value:
    """A convolution or pool of one to three dimensions."""
    graph, pads = reader.graph, reader.graph.ints(node, "pads")
    if len(kernel) < 3:
        window = _window(reader, node, kernel, pads)
        return reader.build.windowed(reader.site(node), op, x, reader.out(node), window, more)
    if str(graph.attribute(node, "auto_pad", "NOTSET")).startswith("SAME"):
        pads = [(size - 1) // 2 for size in kernel]
    sizes = (
        kernel,
        graph.ints(node, "strides") or [1] * 3,
        (pads or [0] * 3)[:3],
        graph.ints(node, "dilations") or [1] * 3,
    )
    return reader.build.volume(reader.site(node), op, x, reader.out(node), sizes, more)


def _conv_transposed(reader: _Reader, node: Any) -> _Values:
    """Its weights are [c, k/groups, ...]."""
    weight, graph = reader.weight(node, 1), reader.graph
    if len(weight) not in (3, 4):
        raise reader.unsupported(node, f"its weights have {len(weight)} dimensions; 3 or 4 can be read")
    window = _window(reader, node, list(weight[2:]), None)
    bits = graph.weight_bits(node.input[1])
    more = {"groups": int(graph.attribute(node, "group", 1)), "bias": reader.is_weight(node, 2), "weight_bits": bits}
    sizes = window.filter, window.stride
    made = reader.build.transposed(reader.site(node), reader.value(node), reader.out(node), sizes, more)
    return [reader.build.owned(made, reader.owner(node, 1))]


def _pool(reader: _Reader, node: Any, op: str) -> _Values:
    kernel = reader.graph.ints(node, "kernel_shape")
    if kernel is None or len(kernel) not in (1, 2, 3):
        raise reader.unsupported(node, f"its kernel_shape is {kernel}; one to three sizes can be read")
    return [_over_window(reader, node, op, reader.value(node), kernel, {})]


def _max_pool(reader: _Reader, node: Any) -> _Values:
    return _pool(reader, node, "max_pool")


def _average_pool(reader: _Reader, node: Any) -> _Values:
    return _pool(reader, node, "avg_pool")


def _global_pool(reader: _Reader, node: Any, op: str) -> _Values:
    x = reader.value(node)
    return [reader.build.reduced(reader.site(node), op, x, set(range(2, len(x.shape))))]


def _reduce(reader: _Reader, node: Any, op: str, key: str = "axes") -> _Values:
    """Over `key` dimensions, by default all."""
    x = reader.value(node)
    rank = len(x.shape)
    given = reader.graph.ints(node, key, 1 if key == "axes" else -1)
    if not given and reader.graph.attribute(node, "noop_with_empty_axes", 0):
        return [x]
    axes = {axis % rank for axis in (given or ([0] if key == "axis" else range(rank)))}
    return [reader.build.reduced(reader.site(node), op, x, axes)]


def _gemm(reader: _Reader, node: Any) -> _Values:
    graph, site = reader.graph, reader.site(node)
    if not reader.is_weight(node, 1):
        a, b = reader.value(node), reader.value(node, 1)
        return [reader.build.product(site, a, b, rows=reader.out(node)[0], heads=1)]
    weight = reader.weight(node, 1)
    if len(weight) != 2:
        raise reader.unsupported(node, f"its weights have {len(weight)} dimensions; 2 can be read")
    k, c = weight if graph.attribute(node, "transB", 0) else weight[::-1]
    return [_dense(reader, node, reader.value(node), 1, (k, c), reader.is_weight(node, 2))]


def _dense(reader: _Reader, node: Any, x: Value, weight_at: int, weight: Shape, bias: bool) -> Value:
    """All of x's vectors times weights of (k, c): of a fused product, the first of its parts."""
    build, key = reader.build, reader.owner(node, weight_at)
    cuts, between, biased = _cuts(reader, node) if weight_at else ({}, [], False)
    ranges = partition(cuts.values(), weight[0])
    fused = len(ranges) > 1
    made = build.dense_parts(reader.site(node), x, weight, reader.out(node), bias or (fused and biased), ranges)
    bits = reader.graph.weight_bits(node.input[weight_at])
    for part, value in made.items():
        build.layers[value.layer] = replace(build.layers[value.layer], weight_bits=bits)
        build.owned(value, (key, part) if fused else key)
    if fused:
        reader.apart |= handed(made, cuts, between)
    return made[ranges[0]]


def _cuts(reader: _Reader, node: Any) -> tuple[dict[str, Range], list[str], bool]:
    """The tensors that take a range of a product's channels, behind what only moves all of them and a bias; what is
    between, and whether a bias is. No ranges where any reader takes anything else of it."""
    shape, none = reader.out(node), (dict[str, Range](), list[str](), False)
    if len(shape) < 2 or math.prod(shape) > MOST_MOVED:
        return none
    cuts: dict[str, Range] = {}
    between: list[str] = []
    biased = False
    todo = [(str(node.output[0]), numbered(shape))]
    while todo:
        source, channels = todo.pop()
        if source in reader.outputs:
            return none
        for user in reader.readers.get(source, ()):
            moved = _moved(reader, user, source, channels)
            if moved is None:
                return none
            biased = biased or user.op_type == "Add"
            for name, found in zip(user.output, moved, strict=False):
                own = taken(found, math.prod(shape[:-1])) if found.size < math.prod(shape) else None
                if found.size == math.prod(shape):
                    between.append(name)
                    todo.append((name, found))
                elif own is None or not name:
                    return none
                else:
                    cuts[name] = own
    return cuts, between, biased


def _moved(reader: _Reader, node: Any, source: str, channels: np.ndarray) -> list[np.ndarray] | None:
    """What a node makes of the channels of a tensor's elements, a result each, if it only moves them or adds a bias."""
    graph, shapes = reader.graph, reader.graph.shapes
    beside = [name for name in node.input if name and name != source]
    if any(out not in shapes for out in node.output) or any(name in graph.active for name in beside):
        return None
    if node.op_type == "Add" and len(beside) == 1:
        last = channels.shape[-1]
        return [channels] if shapes.get(beside[0]) == (last,) == (int(channels.max()) + 1,) else None
    if node.input[0] != source:
        return None
    if node.op_type in ("Reshape", "Flatten"):
        return [channels.reshape(shapes[node.output[0]])]
    if node.op_type == "Split":
        axis = int(graph.attribute(node, "axis", 0))
        ends = np.cumsum([shapes[out][axis] for out in node.output])[:-1]
        return np.split(channels, ends, axis)
    given = [one for name in beside if (one := graph.constant(name)) is not None]
    if node.op_type not in _MOVES or len(given) < len(beside):
        return None
    if node.op_type == "Gather" and len(np.unique(given[0])) < given[0].size:
        return None
    return [np.asarray(_FOLDS[node.op_type](graph, node, channels, *given))]


def _matmul(reader: _Reader, node: Any, b_at: int = 1) -> _Values:
    weights = [i for i in (0, b_at) if reader.is_weight(node, i)]
    if not weights:
        a, b = (reader.values[node.input[i]] for i in (0, b_at))
        if min(len(a.shape), len(b.shape)) < 2:
            return [reader.build.product(reader.site(node), reader.value(node), reader.value(node, b_at), 1, 1)]
        return [reader.build.matmul(reader.site(node), a, b, reader.out(node))]
    shape = reader.weight(node, weights[0])
    if len(shape) < 2:
        raise reader.unsupported(node, f"its weights {shape} are no matrix")
    if math.prod(shape[:-2]) != 1:
        return [_matrices(reader, node, weights[0], shape, b_at)]
    k, c = (shape[-1], shape[-2]) if weights[0] else (shape[-2], shape[-1])
    x = reader.value(node, 0 if weights[0] else b_at)
    return [_dense(reader, node, x, weights[0], (k, c), bias=False)]


def _matrices(reader: _Reader, node: Any, weight_at: int, shape: Shape, b_at: int) -> Value:
    """A product with a matrix of weights a head."""
    out = reader.out(node)
    labels = "abcdefgh"[: len(out) - 2]
    own = labels[len(labels) - len(shape) + 2 :]
    x = reader.value(node, 0 if weight_at else b_at)
    terms, operands = (
        ((f"{labels}xy", f"{own}yz"), (x, shape)) if weight_at else ((f"{own}xy", f"{labels}yz"), (shape, x))
    )
    made = reader.build.einsum(reader.site(node), f"{','.join(terms)}->{labels}xz", operands, out)
    return reader.build.owned(made, reader.owner(node, weight_at))


def _einsum(reader: _Reader, node: Any) -> _Values:
    constant = [i for i in range(len(node.input)) if reader.is_weight(node, i)]
    operands = [reader.weight(node, i) if i in constant else reader.value(node, i) for i in range(len(node.input))]
    equation = str(reader.graph.attribute(node, "equation", ""))
    made = reader.build.einsum(reader.site(node), equation, operands, reader.out(node))
    return [reader.build.owned(made, reader.owner(node, constant[0])) if constant else made]


def _attention(reader: _Reader, node: Any) -> _Values:
    if node.domain == "com.microsoft" or any(len(reader.values[name].shape) != 4 for name in node.input[:3]):
        raise reader.unsupported(node, "it projects or splits heads by itself; export attention as products")
    q, k, v = (reader.values[name] for name in node.input[:3])
    mask = reader.values.get(node.input[3]) if len(node.input) > 3 else None
    bias = math.prod(reader.weight(node, 3)) if reader.is_weight(node, 3) else 0
    return [reader.build.attention(reader.site(node), q, k, v, mask, bias)]


def _recurrent(reader: _Reader, node: Any) -> _Values:
    """[steps, batch, features]; one layer, in one direction or two."""
    kind, graph = node.op_type.lower(), reader.graph
    way, hidden = str(graph.attribute(node, "direction", "forward")), int(graph.attribute(node, "hidden_size", 0))
    weight = reader.weight(node, 1)
    if (
        way == "reverse"
        or hidden < 1
        or len(weight) != 3
        or any(node.input[i : i + 1] not in ([], [""]) for i in (4, 7))
    ):
        raise reader.unsupported(node, "lengths, peepholes and a lone backward direction cannot be read")
    first = [reader.values.get(name) for name in node.input[5:7]]
    keys = tuple((reader.owner(node, 1), number) for number in range(weight[0]))
    about = Layers(kind, hidden, keys, way == "bidirectional")
    return list(recurrent(reader.build, reader.site(node), reader.value(node), about, *first))


def _where(reader: _Reader, node: Any) -> _Values:
    """Guards against a softmax of nothing change nothing."""
    test = reader.graph.producer.get(node.input[0])
    if test is not None and test.op_type == "IsNaN" and test.input[0] in node.input:
        return [reader.values[test.input[0]]]
    return _pointwise(reader, node)


def _scatter(reader: _Reader, node: Any) -> _Values:
    """Part of a tensor replaced; a constant part is put out and not read."""
    site, out, active = reader.site(node), reader.out(node), reader.activations(node)
    if node.input[0] in reader.graph.active:
        return [reader.build.pointwise(site, "eltwise", active, out)]
    return [reader.build.concat(site, active, out)]


def _batch_norm(reader: _Reader, node: Any) -> _Values:
    return [reader.build.batch_norm(reader.site(node), reader.value(node), reader.out(node))]


def _activation(reader: _Reader, node: Any) -> _Values:
    """ReLU and ReLU6, the latter as a clip; another clip does not fold."""
    kind = "relu" if node.op_type == "Relu" else ""
    if node.op_type == "Clip":
        bounds = [_bound(reader, node, key, at) for key, at in (("min", 1), ("max", 2))]
        kind = "relu6" if bounds == [0, 6] else "relu" if bounds == [0, None] else ""
    return [reader.build.activation(reader.site(node), reader.value(node), reader.out(node), kind)]


def _bound(reader: _Reader, node: Any, key: str, index: int) -> float | None:
    """A clip's bound; NaN where it is not known, None where there is none."""
    given = reader.graph.attribute(node, key)
    if given is None and index < len(node.input) and node.input[index]:
        constant = reader.graph.constant(node.input[index])
        given = float("nan") if constant is None or constant.size != 1 else constant.ravel()[0]
    return None if given is None or abs(given) > 1e30 else float(given)


def _pointwise(reader: _Reader, node: Any, op: str = "eltwise") -> _Values:
    beside, site = reader.constants(node), reader.site(node)
    made = reader.build.pointwise(site, op, reader.activations(node), reader.out(node), beside)
    return [reader.owned(made, node)]


def _binary(reader: _Reader, node: Any, operands_at: tuple[int, int] | None = None) -> _Values:
    site, indices = reader.site(node), operands_at or tuple(range(len(node.input)))
    active = [i for i in indices if node.input[i] in reader.graph.active]
    operands = [reader.raw(node, i) for i in active]
    if len(operands) > 1:
        return [reader.build.binary(site, operands, reader.out(node))]
    if len(indices) == 1:
        return operands
    if len(indices) > 2 or (site.op == "div" and active != [0]):
        return [reader.build.pointwise(site, "eltwise", operands, reader.out(node), reader.constants(node))]
    constant = reader.weight(node, next(i for i in indices if i not in active))
    return [reader.owned(reader.build.with_constant(site, operands[0], constant, reader.out(node)), node)]


def _concat(reader: _Reader, node: Any) -> _Values:
    """An input with something new behind it that is handed out again is a state."""
    parts = [reader.build.whole(reader.site(node), part) for part in reader.activations(node)]
    if len(parts) == len(node.input) == 2 and node.output[0] in reader.outputs and reader.build.may_live_on(parts[0]):
        return [reader.build.appended(reader.site(node), parts[0], parts[1], reader.out(node))]
    return [reader.build.concat(reader.site(node), parts, reader.out(node))]


def _slice(reader: _Reader, node: Any) -> _Values:
    return [reader.build.slice(reader.site(node), reader.value(node), reader.out(node))]


def _gather(reader: _Reader, node: Any) -> _Values:
    """Rows of a table at computed places (an embedding), or part of an activation."""
    if node.input[0] in reader.graph.active:
        x, shape = reader.value(node), reader.out(node)
        if math.prod(shape) > math.prod(x.shape):
            raise reader.unsupported(node, f"it repeats {x.layer} to {shape}")
        return _slice(reader, node)
    table, axis = reader.weight(node, 0), int(reader.graph.attribute(node, "axis", 0))
    if axis % len(table) or node.op_type != "Gather":
        raise reader.unsupported(node, "it looks up columns of a table; rows can be read")
    made = reader.build.gather(reader.site(node), reader.value(node, 1), table, reader.out(node))
    return [reader.build.owned(made, reader.owner(node, 0))]


def _split(reader: _Reader, node: Any) -> _Values:
    x = reader.value(node)
    parts = []
    for out in node.output:
        if not out or not reader.users[out]:
            parts.append(x)  # nobody reads it
        elif out not in reader.graph.shapes:
            raise reader.unsupported(node, f"the shape of its result {out} cannot be inferred")
        else:
            parts.append(reader.build.slice(reader.site(node), x, reader.graph.shapes[out]))
    return parts


def _pad(reader: _Reader, node: Any) -> _Values:
    """Before and after each dimension; in the newest files for the dimensions that `axes` names."""
    x, pads, rank = reader.value(node), reader.graph.ints(node, "pads", 1), len(reader.out(node))
    axes = reader.graph.ints(node, "axes", 3) or list(range(rank))
    if pads is None or len(pads) != 2 * len(axes):
        raise reader.unsupported(node, f"its pads {pads} are not two a dimension")
    begin, end = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        begin[axis], end[axis] = pads[i], pads[i + len(axes)]
    if rank < 3 or any(begin[:2]) or any(end[:2]) or rank > 4:
        raise reader.unsupported(node, f"padding {pads} is not of rows and columns alone")
    rows = (begin[2], end[2]) if rank == 4 else (0, 0)
    return [reader.build.padded(reader.site(node), x, (*rows, begin[-1], end[-1]))]


def _resize(reader: _Reader, node: Any) -> _Values:
    """Nearest reads one neighbour, linear two each way, cubic four."""
    mode = str(reader.graph.attribute(node, "mode", "nearest"))
    taps = {"nearest": 1, "linear": 2, "cubic": 4}.get(mode)
    if taps is None:
        raise reader.unsupported(node, f"its mode is {mode}; nearest, linear and cubic can be read")
    rows = taps if len(reader.out(node)) == 4 else 1
    return [reader.build.resized(reader.site(node), reader.value(node), reader.out(node), (rows, taps))]


def _view(reader: _Reader, node: Any) -> _Values:
    return [reader.raw(node, 0)]


_Handler = Callable[[_Reader, Any], _Values]
_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(_VIEWS.split(), _view),
    **dict.fromkeys([*_UNARY.split(), *_POINTWISE.split()], _pointwise),
    **dict.fromkeys(_NORMS.split(), partial(_pointwise, op="norm")),
    **dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax"], partial(_pointwise, op="softmax")),
    **dict.fromkeys(["Relu", "Clip"], _activation),
    **dict.fromkeys(["Add", "Sub", "Mul", "Div", "Sum"], _binary),
    **dict.fromkeys(["QLinearAdd", "QLinearMul"], partial(_binary, operands_at=(0, 3))),
    **dict.fromkeys(["Conv", "ConvInteger"], _conv),
    **dict.fromkeys(["MatMul", "MatMulInteger"], _matmul),
    **dict.fromkeys(["ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2"], partial(_reduce, op="avg_pool")),
    **dict.fromkeys(["ReduceMax", "ReduceMin"], partial(_reduce, op="max_pool")),
    **dict.fromkeys(["ArgMax", "ArgMin"], partial(_reduce, op="max_pool", key="axis")),
    **dict.fromkeys(["Resize", "Upsample"], _resize),
    "ConvTranspose": _conv_transposed,
    "QLinearConv": partial(_conv, weight_at=3, bias_at=8),
    "QLinearMatMul": partial(_matmul, b_at=3),
    "Gemm": _gemm,
    "Attention": _attention,
    "BatchNormalization": _batch_norm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": partial(_global_pool, op="avg_pool"),
    "GlobalMaxPool": partial(_global_pool, op="max_pool"),
    "Concat": _concat,
    "Slice": _slice,
    **dict.fromkeys(["Gather", "GatherElements", "GatherND"], _gather),
    **dict.fromkeys(["ScatterND", "ScatterElements", "Scatter"], _scatter),
    **dict.fromkeys(["LSTM", "GRU", "RNN"], _recurrent),
    "Einsum": _einsum,
    "Where": _where,
    "Split": _split,
    "Pad": _pad,
}


# ---------------------------------------------------------------------------------------------- the way in


def from_onnx(path: Path, shapes: Sequence[tuple[str, Shape]] = (), cut_at: str = "") -> Workload:
    """An ONNX file as a workload, read for one item of the batch that its inputs have.

    shapes: of inputs, batch first, by name or '' for the only one (default: as in the file); also the size of a
    dimension by the name that the file gives it. cut_at: the layer or module to end with. Raises InputError, naming the
    operators and nodes that cannot be read, the dimension that must be given, or the package that is missing.
    """
    onnx = _package(path)
    model = _load(path, onnx)
    graph = _Graph(model, onnx)
    for node in graph.nodes:
        if node.op_type in _CONTROL:
            raise InputError(f"{path}: {_unknown(node, _DATA_DEPENDENT)}")
    infos = _inputs(path, graph)
    asked = _by_name(path, infos, shapes)
    whole = {info.name: _input_shape(path, info, asked) for info in infos}
    sizes = sorted({shape[0] for shape in whole.values()} - {1})
    if len(sizes) > 1:
        raise InputError(f"{path}: batches of {', '.join(map(str, sizes))}; all inputs have one and the same")
    inputs = {name: (1, *shape[1:]) for name, shape in whole.items()}
    _set_shapes(model, infos, inputs)
    graph.mark_active(list(inputs))
    try:
        graph.infer()
        reader = _Reader(graph, inputs)
        for node in graph.nodes:
            with _naming(node):
                reader.read(node)
        outputs = [reader.values[out.name] for out in model.graph.output if out.name in reader.values]
        gone = any(out.name in graph.active and out.name not in reader.values for out in model.graph.output)
        found = reader.build.finish(path.stem, outputs, path.name, cut_at, reader.lost if gone else ())
        return batched(found, sizes[0]) if sizes else found
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _unknown(node: Any, why: str) -> str:
    return f"operator {_title(node)} in {node.name or node.output[0]} is not supported: {why}"


@contextlib.contextmanager
def _naming(node: Any) -> Iterator[None]:
    """What a damaged node trips over, as an error with its name."""
    try:
        yield
    except (ValueError, IndexError, KeyError, TypeError, ArithmeticError, AttributeError, AssertionError) as error:
        where = node.name or next(iter(node.output), "the network")
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"operator {_title(node)} in {where} cannot be read: {what}") from error


def _package(path: Path) -> Any:
    try:
        import onnx
        import onnx.inliner
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError:
        raise InputError(f"{path}: reading ONNX files needs the package onnx: pip install 'cosoc[onnx]'") from None
    return onnx


def _load(path: Path, onnx: Any) -> Any:
    """The model without external data and without the elements of its weights, which nobody here looks at."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        model = onnx.load_model_from_string(content)
        _check_expansion(path, model)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except InputError:
        raise
    except Exception as error:  # protobuf's own, whichever of its implementations is installed, and the inliner's
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: is no ONNX file, or a damaged one: {what}") from None
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{path}: holds no network: {len(model.graph.node)} nodes, {len(model.graph.output)} outputs")
    for node in model.graph.node:
        if not any(node.output):
            raise InputError(f"{path}: operator {node.op_type} in {node.name or 'a node without name'} has no output")
    _check_names(path, model.graph)
    _check_locations(path, model.graph)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "external_data"):
                tensor.ClearField(field)
            tensor.ClearField("data_location")
    return model


def _check_names(path: Path, graph: Any) -> None:
    """InputError for a name that is no text; protobuf hands such ones on as bytes."""
    tensors = [item.name for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)]
    nodes = [text for n in graph.node for text in (n.name, n.op_type, n.domain, *n.input, *n.output)]
    attributes = [attribute.name for node in graph.node for attribute in node.attribute]
    for text in (*tensors, *nodes, *attributes):
        if not isinstance(text, str):
            raise InputError(f"{path}: is a damaged ONNX file: the name {text!r} is not UTF-8")


def _check_expansion(path: Path, model: Any) -> None:
    """InputError where functions that call functions stand for more than MOST_NODES nodes, or for themselves."""
    bodies = {(f.domain, f.name): list(_all_nodes(f.node)) for f in model.functions}
    calls = {key: [n for n in ((node.domain, node.op_type) for node in nodes) if n in bodies]
             for key, nodes in bodies.items()}  # fmt: skip
    sizes: dict[tuple[str, str], int] = {}
    try:
        for key in graphlib.TopologicalSorter(calls).static_order():
            sizes[key] = len(bodies[key]) + sum(sizes[called] for called in calls[key])
    except graphlib.CycleError:
        raise InputError(f"{path}: a function in it calls itself") from None
    nodes = sum(1 + sizes.get((node.domain, node.op_type), 0) for node in _all_nodes(model.graph.node))
    if nodes > MOST_NODES:
        raise InputError(f"{path}: its functions unfolded, it has more than {MOST_NODES:,} nodes; no more are read")


def _all_nodes(nodes: Any) -> Iterator[Any]:
    """Nodes, and those of the graphs inside of them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _all_nodes(graph.node)


def _check_locations(path: Path, graph: Any) -> None:
    """InputError for weights that are said to stand outside of the model's folder. No weights are opened here, but what
    opens them elsewhere would read any file of the user's."""
    inside = path.resolve().parent
    for tensor in graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and not (inside / entry.value).resolve().is_relative_to(inside):
                where = f"{entry.value!r}, outside of {inside}"
                raise InputError(f"{path}: the weights {tensor.name} are said to stand in {where}; move them there")


def _inputs(path: Path, graph: _Graph) -> list[Any]:
    """The tensors that the network reads."""
    read = {source for node in graph.nodes for source in node.input}
    inputs = [i for i in graph.model.graph.input if i.name in read and i.name not in graph.initializers]
    if not inputs:
        raise InputError(f"{path}: the network reads no input")
    return inputs


def _by_name(path: Path, infos: Sequence[Any], shapes: Sequence[tuple[str, Shape]]) -> dict[str, Shape]:
    """Shapes by the name of an input or of a dimension; one without a name is the only input's."""
    names = [info.name for info in infos]
    known = [d.dim_param for info in infos for d in info.type.tensor_type.shape.dim if d.dim_param]
    out = {}
    for name, shape in shapes:
        if not name and len(names) > 1:
            one = ",".join(map(str, shape))
            raise InputError(f"{path}: --input-shape {one}: whose? Its inputs are {', '.join(names)}; say NAME={one}")
        if name and name not in (*names, *known):
            kind = "inputs are" if len(names) > 1 else "input is"
            raise InputError(f"{path}: --input-shape {name}=...: there is no such input; its {kind} {', '.join(names)}")
        out[name or names[0]] = shape
    return out


def _input_shape(path: Path, info: Any, asked: dict[str, Shape]) -> Shape:
    """An input's shape, the batch first; as in the file, or as given. A batch that is left open is one."""
    dims, given = info.type.tensor_type.shape.dim, asked.get(info.name)
    stated = [int(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims]
    shown = ",".join(map(str, stated))
    if given is not None and stated and len(given) != len(stated):
        raise InputError(f"{path}: input {info.name} has {len(stated)} dimensions ({shown}); {len(given)} are given")
    shape = list(given) if given is not None else [asked[d][0] if d in asked else d for d in stated]
    if given is None and shape and (isinstance(shape[0], str) or shape[0] < 1):
        shape[0] = 1
    unknown = [str(size) for size in shape if isinstance(size, str) or size < 1]
    example = ",".join("N" if isinstance(s, str) or s < 1 else str(s) for s in shape) if shape else "1,3,224,224"
    if unknown or not shape:
        which = f"dimension {', '.join(unknown)} of input {info.name} ({shown})" if unknown else f"input {info.name}"
        raise InputError(f"{path}: {which} is not fixed; give it, such as --input-shape {info.name}={example}")
    if not 1 <= len(shape) <= 5:
        raise InputError(f"{path}: input {info.name} has {len(shape)} dimensions ({shown}); one to five can be read")
    return tuple(int(size) for size in shape)


def _set_shapes(model: Any, infos: Sequence[Any], shapes: dict[str, Shape]) -> None:
    """Fix the inputs' shapes; where one was another, what the file says of the shapes behind it is void."""
    if any(_static(info) != shapes[info.name] for info in infos):
        del model.graph.value_info[:]
        for out in model.graph.output:
            out.type.tensor_type.ClearField("shape")
    for info in infos:
        dims = info.type.tensor_type.shape.dim
        del dims[:]
        for size in shapes[info.name]:
            dims.add().dim_value = size


__all__ = ["from_onnx"]
