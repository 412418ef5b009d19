"""Any torch module as a Workload: torch.export's undecomposed graph, operator by operator.

What is read from the graph, and what is folded:

- Batch norm after a convolution or linear layer that nobody else reads folds into it (as a bias), and so do ReLU and
  ReLU6; other activations stay as `eltwise`, since not every core has them. A batch norm elsewhere is a `norm`.
- Reshapes, permutations, dropout, fake quantisers and the like cost nothing and vanish. Explicit padding folds
  into the convolution or pool that reads it. Taking part of a tensor is an `eltwise` layer of fn "slice".
- What is computed from weights alone (parametrizations, say) is a weight and costs no operation.
- Tokens are columns: a linear layer on [1, t, f] is a 1x1 convolution on one row of t columns. Heads of an attention
  are the groups of a matmul. 1-D convolutions have one row.
- A module called twice is two layers, and its weights are counted twice.

Layers are named by module path ("layer1.0.conv1"); operators written in a module's forward get that module's path and
the operator ("layer1.0.add"), numbered where that is not unique.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cosoc.sim.errors import InputError
from cosoc.sim.workload import INPUT, Layer, Workload
from cosoc.sim.workload_file import SLICE, faults

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import Node

Shape = tuple[int, ...]

_VIEWS = (
    "view reshape flatten unflatten squeeze unsqueeze permute transpose t movedim swapaxes expand expand_as view_as "
    "reshape_as contiguous clone detach alias lift_fresh_copy to _to_copy type_as float half dropout dropout1d "
    "feature_dropout alpha_dropout feature_alpha_dropout identity channel_shuffle pixel_shuffle pixel_unshuffle "
    "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine chunk split split_with_sizes unbind"
)
_UNARY = (
    "sigmoid hardsigmoid hardswish silu gelu tanh elu selu celu leaky_relu prelu softplus mish log_sigmoid hardtanh "
    "clamp clamp_min clamp_max exp log sqrt rsqrt abs neg square reciprocal pow round floor erf relu relu6"
)
_BINARY = "add sub rsub mul div maximum minimum"


@dataclass(frozen=True)
class _Value:
    """A tensor of the graph: whose output it is, and whether nobody else reads that output up to here.

    `pad` is what explicit padding put (above, below, left, right) of it.
    """

    layer: str
    sole: bool
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)


class _Reader:
    """The graph as read so far: layers, and the value of every node that carries an activation."""

    def __init__(self, module: nn.Module, nodes: list[Node], input_shape: tuple[int, int, int]) -> None:
        self.leaves = {path for path, child in module.named_modules() if _is_leaf(child)}
        live = set(nodes)
        self.users = {node: sum(user in live for user in node.users) for node in nodes}
        self.layers: dict[str, Layer] = {}
        self.values: dict[Node, _Value] = {}
        self.input_shape = input_shape

    def read(self, node: Node) -> None:
        """Take in one call; nodes without activations among their arguments are weights and are passed over."""
        if not any(arg in self.values for arg in node.all_input_nodes):
            return
        op = _operator(node)
        handler = _HANDLERS.get(op)
        if handler is None:
            raise _unsupported(node, "no such operator is known here")
        padded = [arg for arg in node.all_input_nodes if arg in self.values and any(self.values[arg].pad)]
        if padded and handler not in (_conv, _pool, _pad):
            raise _unsupported(node, "it reads a padded tensor; only convolutions and pools can")
        value = handler(self, node)
        self.values[node] = replace(value, sole=value.sole and self.users[node] == 1)
        if str(node.target).split(".")[1:2] == [op + "_"]:  # in place: who reads the argument later sees the result
            self.values[_node(node.args[0])] = self.values[node]

    def add(self, node: Node, op: str, inputs: list[_Value], fields: dict[str, Any], suffix: str = "") -> _Value:
        """Append a layer named after the node's module."""
        layer = Layer(self.name(node, suffix), op, tuple(v.layer for v in inputs), **fields)
        self.layers[layer.name] = layer
        return _Value(layer.name, sole=True)

    def name(self, node: Node, suffix: str = "") -> str:
        path, op = _path(node), _operator(node)
        base = path if path in self.leaves and path not in self.layers and not suffix else ""
        base = base or ".".join(part for part in (path, suffix or op) if part)
        taken = {INPUT, *self.layers}
        names = (base if i == 0 else f"{base}_{i}" for i in range(len(taken) + 1))
        return next(name for name in names if name not in taken)

    def value(self, node: Node, index: int = 0) -> _Value:
        """The activation that a call takes as its argument `index`."""
        arg = node.args[index] if index < len(node.args) else None
        if arg not in self.values:
            raise _unsupported(node, f"operand {index} is constant")
        value = self.values[_node(arg)]
        tensor = _node(arg).meta["val"]
        if not any(value.pad) and hasattr(tensor, "shape") and tensor.numel() != math.prod(self.shape(value)):
            raise _unsupported(node, f"it takes {value.layer} repeated to {tuple(tensor.shape)}")
        return value

    def activations(self, node: Node) -> list[_Value]:
        """All activations among a call's arguments, in order, repeated where an argument is."""
        flat = [a for arg in node.args for a in (arg if isinstance(arg, (list, tuple)) else (arg,))]
        return [self.values[_node(arg)] for arg in flat if arg in self.values]

    def shape(self, value: _Value) -> tuple[int, int, int]:
        """(k, oy, ox) of a value as its layer put it out, or the network's input."""
        if value.layer == INPUT:
            return self.input_shape
        layer = self.layers[value.layer]
        return layer.k, layer.oy, layer.ox

    def grid(self, node: Node, like: _Value) -> tuple[int, int, int]:
        """(k, oy, ox) for a node's result: as `like` where the sizes agree, else read off its dimensions."""
        shape, known = _shape(node), self.shape(like)
        if math.prod(shape) == math.prod(known):
            return known
        if len(shape) == 4 and shape[0] == 1:
            return shape[1], shape[2], shape[3]
        dims = [size for size in shape if size > 1] or [1]
        if len(dims) == 2:  # tokens by features or channels by time: tokens where columns or channels stay as they were
            tokens = dims[1] == known[0] or dims[0] == known[1] * known[2]
            return (dims[1], 1, dims[0]) if tokens else (dims[0], 1, dims[1])
        return dims[0], math.prod(dims[1:-1]), dims[-1] if len(dims) > 1 else 1


# ---------------------------------------------------------------------------------------------- the graph's nodes


def _operator(node: Node) -> str:
    """The operator's name without namespace, overload and the underscore of an in-place one: conv2d, add, getitem."""
    parts = str(node.target).split(".")
    name = parts[1] if parts[0] == "aten" and len(parts) > 1 else getattr(node.target, "__name__", str(node.target))
    return name.rstrip("_")


def _full_name(node: Node) -> str:
    return ".".join(str(node.target).split(".")[:2]) if str(node.target).startswith("aten.") else _operator(node)


def _unsupported(node: Node, why: str) -> InputError:
    return InputError(f"operator {_full_name(node)} in {_path(node) or 'the network'} is not supported: {why}")


def _path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]).partition("@")[0] if stack else ""


def _is_leaf(module: nn.Module) -> bool:
    return all(name == "parametrizations" for name, _ in module.named_children())


def _shape(node: Any) -> Shape:
    return tuple(int(size) for size in node.meta["val"].shape)


def _node(arg: Any) -> Node:
    """An argument that is known to be a node, to the type checker."""
    return arg  # type: ignore[no-any-return]


def _arg(node: Node, index: int, default: Any, keyword: str = "") -> Any:
    """An operator's argument by place or keyword; trailing defaults are absent from the graph."""
    return node.args[index] if index < len(node.args) else node.kwargs.get(keyword, default)


def _pair(value: Any, one_d: bool, rows: int) -> tuple[int, int]:
    """(rows, columns) of a size given as one number or two; a 1-D operator's has `rows` rows."""
    sizes = tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)
    return (rows, sizes[-1]) if one_d else (sizes[0], sizes[-1])


def _image(shape: Shape, node: Node) -> tuple[int, int, int]:
    """(c, iy, ix) of an image or, with one row, of a sequence."""
    if len(shape) not in (3, 4):
        raise _unsupported(node, f"its tensor has {len(shape)} dimensions; 3 or 4 can be read")
    return (shape[-3], shape[-2], shape[-1]) if len(shape) == 4 else (shape[-2], 1, shape[-1])


# ---------------------------------------------------------------------------------------------- operators


_Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]


def _windowed(reader: _Reader, node: Node, op: str, window: _Window, more: dict[str, Any]) -> _Value:
    """A convolution or pool; `window` is filter, stride, padding, dilation, each (rows, columns)."""
    x = reader.value(node)
    (c, iy, ix), (k, oy, ox) = _image(_shape(node.args[0]), node), _image(_shape(node), node)
    above, below, left, right = x.pad
    (fy, fx), (stride_y, stride_x), (pad_y, pad_x), (dilation_y, dilation_x) = window
    sizes = {"k": k, "c": c, "oy": oy, "ox": ox, "iy": iy - above - below, "ix": ix - left - right, "fy": fy, "fx": fx}
    steps = {"stride_y": stride_y, "stride_x": stride_x, "dilation_y": dilation_y, "dilation_x": dilation_x}
    pads = {"pad_y": pad_y + above, "pad_x": pad_x + left}
    return reader.add(node, op, [x], {**sizes, **steps, **pads, **more})


def _conv(reader: _Reader, node: Node) -> _Value:
    op, weight = _operator(node), _node(node.args[1])
    if weight in reader.values:
        raise _unsupported(node, "its weights are computed from the input")
    if op == "convolution" and _arg(node, 6, False):
        raise _unsupported(node, "it is transposed")
    *_, fy, fx = (1, *_shape(weight)[2:])
    one_d = len(_shape(weight)) == 3
    stride = _pair(_arg(node, 3, 1, "stride"), one_d, 1)
    padding = _arg(node, 4, 0, "padding")
    dilation = _pair(_arg(node, 5, 1, "dilation"), one_d, 1)
    if isinstance(padding, str):
        reach = (fy - 1) * dilation[0], (fx - 1) * dilation[1]
        padding = (reach[0] // 2, reach[1] // 2) if padding == "same" else (0, 0)
    groups = _arg(node, 8 if op == "convolution" else 6, 1, "groups")
    window = (fy, fx), stride, _pair(padding, one_d, 0), dilation
    return _windowed(reader, node, "conv", window, {"groups": groups, "bias": _arg(node, 2, None, "bias") is not None})


def _linear(reader: _Reader, node: Node) -> _Value:
    """x @ W.T: a 1x1 convolution on one row of all of x's vectors."""
    x, (k, c) = reader.value(node), _shape(node.args[1])
    if node.args[1] in reader.values:
        return _product(reader, node, x, reader.value(node, 1), rows=_shape(node)[-2], heads=1)
    return _dense(reader, node, x, k, c, bias=_arg(node, 2, None, "bias") is not None)


def _dense(reader: _Reader, node: Node, x: _Value, k: int, c: int, bias: bool) -> _Value:
    rows = math.prod(_shape(node)) // k
    return reader.add(node, "conv", [x], {"k": k, "c": c, "ox": rows, "ix": rows, "bias": bias})


def _matmul(reader: _Reader, node: Node) -> _Value:
    """A product of activations, or of an activation with a weight on either side."""
    left, right = (_node(arg) for arg in node.args[:2])
    a, b = (_shape(arg) for arg in (left, right))
    if right not in reader.values:
        return _dense(reader, node, reader.value(node), b[-1], b[-2], bias=False)
    if left not in reader.values:
        return _dense(reader, node, reader.value(node, 1), a[-2], a[-1], bias=False)
    heads = math.prod(_shape(node)[:-2])
    if math.prod(a[:-2]) != heads or math.prod(b[:-2]) != heads:
        raise _unsupported(node, f"its operands {a} and {b} are broadcast")
    return _product(reader, node, reader.values[left], reader.values[right], a[-2], heads)


def _product(reader: _Reader, node: Node, a: _Value, b: _Value, rows: int, heads: int, suffix: str = "") -> _Value:
    """`heads` products of a's `rows` vectors with b, as one grouped matmul."""
    c = math.prod(reader.shape(a)) // rows
    k = math.prod(reader.shape(b)) * heads // c
    return reader.add(node, "matmul", [a, b], {"k": k, "c": c, "ox": rows, "ix": rows, "groups": heads}, suffix)


def _attention(reader: _Reader, node: Node) -> _Value:
    """scaled_dot_product_attention: two products with a softmax between."""
    q, k, v = (reader.value(node, i) for i in range(3))
    *batch, rows, _ = _shape(node.args[0])
    if math.prod(_shape(node.args[1])[:-2]) != math.prod(batch):
        raise _unsupported(node, "queries and keys differ in heads")
    scores = _product(reader, node, q, k, rows, math.prod(batch), "scores")
    width, _, _ = reader.shape(scores)
    fields = {"k": width, "c": width, "ox": rows, "ix": rows}
    weights = reader.add(node, "softmax", [scores], fields, "softmax")
    return _product(reader, node, weights, v, rows, math.prod(batch), "attend")


def _batch_norm(reader: _Reader, node: Node) -> _Value:
    x = reader.value(node)
    layer = reader.layers.get(x.layer)
    if x.sole and layer and layer.op == "conv" and not layer.activation and _shape(node)[1] == layer.k:
        reader.layers[layer.name] = replace(layer, bias=True)
        return x
    return _pointwise(reader, node, "norm")


def _relu(reader: _Reader, node: Node) -> _Value:
    """ReLU and ReLU6 fold into the convolution, sum or norm before; another clamp does not."""
    x, op = reader.value(node), _operator(node)
    if op in ("clamp", "clamp_min", "hardtanh") and "Tensor" not in str(node.target):
        bounds = _arg(node, 1, -1.0 if op == "hardtanh" else None, "min"), _arg(node, 2, None, "max")
        op = {(0, 6): "relu6", (0, None): "relu"}.get(bounds, op)
    layer = reader.layers.get(x.layer)
    foldable = layer and layer.op in ("conv", "matmul", "add", "norm") and not layer.activation
    if op in ("relu", "relu6") and x.sole and layer and foldable:
        reader.layers[layer.name] = replace(layer, activation=op)
        return x
    return _pointwise(reader, node, "eltwise")


def _unary(reader: _Reader, node: Node) -> _Value:
    return _pointwise(reader, node, "eltwise")


def _norm(reader: _Reader, node: Node) -> _Value:
    return _pointwise(reader, node, "norm")


def _softmax(reader: _Reader, node: Node) -> _Value:
    return _pointwise(reader, node, "softmax")


def _pointwise(reader: _Reader, node: Node, op: str) -> _Value:
    operands = reader.activations(node)
    largest = max(operands, key=lambda v: math.prod(reader.shape(v)))
    k, y, x = reader.grid(node, largest)
    fields = {"k": k, "c": k, "oy": y, "ox": x, "iy": y, "ix": x}
    return reader.add(node, op, operands, fields if op == "softmax" else {**fields, "fn": _full_name(node)})


def _binary(reader: _Reader, node: Node) -> _Value:
    """A sum of equal shapes is an `add`; with a constant, or broadcast, and any other operator: `eltwise`."""
    operands = reader.activations(node)
    shapes = [_shape(arg) for arg in node.args[:2] if arg in reader.values]
    if _operator(node) != "add" or len(operands) < 2 or shapes[0] != shapes[1]:
        return _pointwise(reader, node, "eltwise")
    k, y, x = reader.grid(node, operands[0])
    return reader.add(node, "add", operands, {"k": k, "c": k, "oy": y, "ox": x, "iy": y, "ix": x})


def _pool(reader: _Reader, node: Node) -> _Value:
    op = _operator(node)
    one_d, kernel = op.endswith("1d"), _arg(node, 1, None, "kernel_size")
    stride = _arg(node, 2, None, "stride") or kernel
    dilation = _arg(node, 4, 1, "dilation") if op.startswith("max") else 1
    padding = _arg(node, 3, 0, "padding")
    window = _pair(kernel, one_d, 1), _pair(stride, one_d, 1), _pair(padding, one_d, 0), _pair(dilation, one_d, 1)
    return _windowed(reader, node, op[:3] + "_pool", window, {})


def _adaptive_pool(reader: _Reader, node: Node) -> _Value:
    """A pool given by its output size: equal windows side by side, nothing where the size stays."""
    op = _operator(node).removeprefix("adaptive_")
    (_, iy, ix), (_, oy, ox) = (_image(_shape(node.args[0]), node), _image(_shape(node), node))
    if iy % oy or ix % ox:
        raise _unsupported(node, f"{iy}x{ix} to {oy}x{ox} takes unequal windows; give it a multiple")
    if (iy, ix) == (oy, ox):
        return reader.value(node)
    window = iy // oy, ix // ox
    stride = window[0] if oy > 1 else 1, window[1] if ox > 1 else 1
    return _windowed(reader, node, op[:3] + "_pool", (window, stride, (0, 0), (1, 1)), {})


def _mean(reader: _Reader, node: Node) -> _Value:
    """A mean over rows and columns (or over the tokens) is an average pool over all of them."""
    x, shape = reader.value(node), _shape(node.args[0])
    given = _arg(node, 1, None, "dim")
    axes = {a % len(shape) for a in (range(len(shape)) if given is None else given)}
    kept = [i for i in range(len(shape)) if i not in axes and shape[i] > 1]
    if len(shape) not in (3, 4) or len(kept) > 1 or (len(shape) == 4 and axes != {2, 3} and axes != {1, 2}):
        raise _unsupported(node, f"mean of {shape} over {sorted(axes)}; over all rows and columns can be read")
    k, iy, ix = reader.shape(x)
    k = shape[kept[0]] if kept else 1
    if k * iy * ix != math.prod(shape):
        iy, ix = 1, math.prod(shape) // k
    return reader.add(node, "avg_pool", [x], {"k": k, "c": k, "iy": iy, "ix": ix, "fy": iy, "fx": ix})


def _pad(reader: _Reader, node: Node) -> _Value:
    """Explicit padding, remembered until a convolution or pool reads it. torch lists the last dimension first."""
    x, sizes = reader.value(node), [int(s) for s in node.args[1]]  # type: ignore[union-attr, arg-type]
    left, right, above, below = [*sizes, 0, 0, 0, 0][:4]
    if min(sizes) < 0 or any(sizes[4:]):
        raise _unsupported(node, f"padding {sizes} is not of rows and columns alone")
    added = (above, below, left, right)
    return replace(x, pad=tuple(a + b for a, b in zip(x.pad, added, strict=True)))  # type: ignore[arg-type]


def _concat(reader: _Reader, node: Node) -> _Value:
    """Concatenation; constant parts (a class token) are put out but not read."""
    parts = reader.activations(node)
    k, oy, ox = reader.grid(node, parts[0])
    grids = [reader.shape(part) for part in parts]
    read = sum(math.prod(grid) for grid in grids)
    c, iy, ix = (k, oy, ox) if read == k * oy * ox else (grids[0][0], 1, read // grids[0][0])
    return reader.add(node, "concat", parts, {"k": k, "c": c, "oy": oy, "ox": ox, "iy": iy, "ix": ix})


def _slice(reader: _Reader, node: Node) -> _Value:
    """Part of a tensor, or all of it."""
    x = reader.value(node)
    if math.prod(_shape(node)) == math.prod(reader.shape(x)):
        return x
    (c, iy, ix), (k, oy, ox) = reader.shape(x), reader.grid(node, x)
    fields = {"k": k, "c": c, "oy": oy, "ox": ox, "iy": iy, "ix": ix, "fn": SLICE}
    return reader.add(node, "eltwise", [x], fields, SLICE)


def _view(reader: _Reader, node: Node) -> _Value:
    return reader.value(node)


_Handler = Callable[[_Reader, "Node"], _Value]
_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(_VIEWS.split(), _view),
    **dict.fromkeys(_UNARY.split(), _unary),
    **dict.fromkeys(_BINARY.split(), _binary),
    **dict.fromkeys(["relu", "relu6", "hardtanh", "clamp", "clamp_min"], _relu),
    **dict.fromkeys(["conv1d", "conv2d", "convolution"], _conv),
    **dict.fromkeys(["matmul", "bmm", "mm"], _matmul),
    **dict.fromkeys(["layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm"], _norm),
    **dict.fromkeys(["max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d"], _pool),
    **dict.fromkeys(["adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d"], _adaptive_pool),
    **dict.fromkeys(["cat", "concat", "concatenate"], _concat),
    **dict.fromkeys(["slice", "select", "narrow", "getitem"], _slice),
    **dict.fromkeys(["pad", "constant_pad_nd"], _pad),
    "linear": _linear,
    "batch_norm": _batch_norm,
    "mean": _mean,
    "softmax": _softmax,
    "scaled_dot_product_attention": _attention,
}


# ---------------------------------------------------------------------------------------------- the way in


def from_module(module: nn.Module, input_shape: Shape, name: str, source: str = "") -> Workload:
    """A torch module as a workload, in evaluation mode, for one input of `input_shape` without its batch.

    `input_shape` has one size (features), two (channels, length) or three (channels, rows, columns). The module is
    left as it was. Raises InputError naming the operator and the module that cannot be read.
    """
    if not 1 <= len(input_shape) <= 3:
        raise InputError(f"{name}: input shape {input_shape}; one, two or three sizes are needed, without the batch")
    c, *rest = input_shape
    iy, ix = (1, *rest) if len(rest) == 1 else tuple(rest) or (1, 1)
    program = _export(module, input_shape, name)
    live = _live_nodes(program.graph)
    reader = _Reader(module, live, (c, iy, ix))
    for node in live:
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            reader.values[node] = _Value(INPUT, sole=reader.users[node] == 1)
        elif node.op == "call_function":
            reader.read(node)
    workload = Workload(name, (c, iy, ix), tuple(reader.layers.values()), _outputs(reader, live, name), source)
    for _, what in faults(workload):
        raise InputError(f"{name}: its graph cannot be read as layers: {what}")
    return workload


def _export(module: nn.Module, input_shape: Shape, name: str) -> Any:
    import torch

    like = next(module.parameters(), torch.zeros(()))
    probe = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    with _evaluating(module):
        try:
            return torch.export.export(module, (probe,), strict=False)
        except Exception as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            shown = ",".join(str(size) for size in (1, *input_shape))
            raise InputError(f"{name}: torch.export cannot read it for input {shown}: {reason}") from error


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every submodule is in the mode that it was in."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, training in modes.items():
            child.training = training


def _live_nodes(graph: Any) -> list[Node]:
    """Nodes on which the outputs depend, in the graph's order."""
    todo, live = [node for node in graph.nodes if node.op == "output"], set()
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo += node.all_input_nodes
    return [node for node in graph.nodes if node in live]


def _outputs(reader: _Reader, live: list[Node], name: str) -> tuple[str, ...]:
    values = [reader.values[node] for node in live[-1].all_input_nodes if node in reader.values]
    names = tuple(dict.fromkeys(value.layer for value in values if value.layer != INPUT))
    if not names:
        raise InputError(f"{name}: its output does not depend on its input through any operator")
    return names


def load_module(spec: str) -> nn.Module:
    """The module that `package.module:factory` makes; the working directory is importable meanwhile.

    The factory may be a function or class without arguments, or a module object. Raises InputError.
    """
    from torch import nn

    package, _, attribute = spec.partition(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        try:
            imported = importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise InputError(f"{spec}: no module named {error.name!r} from {folder}") from error
        if not hasattr(imported, attribute):
            raise InputError(f"{spec}: {package} has no {attribute!r}")
        made = getattr(imported, attribute)
        made = made if isinstance(made, nn.Module) else made()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{spec}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.remove(folder)
    if not isinstance(made, nn.Module):
        raise InputError(f"{spec} makes a {type(made).__name__}; a torch.nn.Module is needed")
    return made
