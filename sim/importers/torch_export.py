"""Any torch module as a Workload: torch.export's undecomposed graph, operator by operator.

How tensors become layers, and what folds, stands in `build`. Of torch's own:

- Reshapes, permutations, dropout, fake quantisers and the like cost nothing and vanish.
- What is computed from weights alone (parametrizations, say) is a weight and costs no operation.
- A module called twice is two layers, and its weights are counted twice.

Layers are named by module path ("layer1.0.conv1"); operators written in a module's forward get that module's path and
the operator ("layer1.0.add"), numbered where that is not unique.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cosoc.sim.errors import InputError
from cosoc.sim.importers.build import Builder, Shape, Site, Value, Window, grid_of_input
from cosoc.sim.model.workload import INPUT, Workload

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import Node

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


class _Reader:
    """The graph as read so far: layers, and the value of every node that carries an activation."""

    def __init__(self, module: nn.Module, nodes: list[Node], input_shape: tuple[int, int, int]) -> None:
        self.leaves = {path for path, child in module.named_modules() if _is_leaf(child)}
        live = set(nodes)
        self.users = {node: sum(user in live for user in node.users) for node in nodes}
        self.build = Builder(input_shape)
        self.values: dict[Node, Value] = {}

    def read(self, node: Node) -> None:
        """Take in one call; nodes without activations among their arguments are weights and are passed over."""
        if not any(arg in self.values for arg in node.all_input_nodes):
            return
        op = _operator(node)
        handler = _HANDLERS.get(op)
        if handler is None:
            raise self.unsupported(node, "no such operator is known here")
        padded = [arg for arg in node.all_input_nodes if arg in self.values and any(self.values[arg].pad)]
        if padded and handler not in (_conv, _pool, _pad):
            raise self.unsupported(node, "it reads a padded tensor; only convolutions and pools can")
        value = handler(self, node)
        self.values[node] = self.seen(node, value)
        if str(node.target).split(".")[1:2] == [op + "_"]:  # in place: who reads the argument later sees the result
            self.values[_node(node.args[0])] = self.values[node]

    def seen(self, node: Node, value: Value) -> Value:
        """A value as the readers of `node` see it."""
        shape = _shape(node) if hasattr(node.meta["val"], "shape") else ()
        return replace(value, sole=value.sole and self.users[node] == 1, shape=shape)

    def site(self, node: Node) -> Site:
        path = _path(node)
        return Site(_full_name(node), _operator(node), path, own=path in self.leaves)

    def unsupported(self, node: Node, why: str) -> InputError:
        return self.site(node).unsupported(why)

    def value(self, node: Node, index: int = 0) -> Value:
        """The activation that a call takes as its argument `index`."""
        arg = node.args[index] if index < len(node.args) else None
        if arg not in self.values:
            raise self.unsupported(node, f"operand {index} is constant")
        value = self.values[_node(arg)]
        if hasattr(_node(arg).meta["val"], "shape"):
            self.build.check_whole(self.site(node), value)
        return value

    def activations(self, node: Node) -> list[Value]:
        """All activations among a call's arguments, in order, repeated where an argument is."""
        flat = [a for arg in node.args for a in (arg if isinstance(arg, (list, tuple)) else (arg,))]
        return [self.values[_node(arg)] for arg in flat if arg in self.values]


# ---------------------------------------------------------------------------------------------- the graph's nodes


def _operator(node: Node) -> str:
    """The operator's name without namespace, overload and the underscore of an in-place one: conv2d, add, getitem."""
    parts = str(node.target).split(".")
    name = parts[1] if parts[0] == "aten" and len(parts) > 1 else getattr(node.target, "__name__", str(node.target))
    return name.rstrip("_")


def _full_name(node: Node) -> str:
    return ".".join(str(node.target).split(".")[:2]) if str(node.target).startswith("aten.") else _operator(node)


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


# ---------------------------------------------------------------------------------------------- operators


def _conv(reader: _Reader, node: Node) -> Value:
    op, weight = _operator(node), _node(node.args[1])
    if weight in reader.values:
        raise reader.unsupported(node, "its weights are computed from the input")
    *_, fy, fx = (1, *_shape(weight)[2:])
    one_d = len(_shape(weight)) == 3
    stride = _pair(_arg(node, 3, 1, "stride"), one_d, 1)
    bias = _arg(node, 2, None, "bias") is not None
    if op.startswith("conv_transpose"):
        more = {"groups": _arg(node, 6, 1, "groups"), "bias": bias}
        return reader.build.transposed(reader.site(node), reader.value(node), _shape(node), ((fy, fx), stride), more)
    padding = _arg(node, 4, 0, "padding")
    dilation = _pair(_arg(node, 5, 1, "dilation"), one_d, 1)
    if isinstance(padding, str):
        reach = (fy - 1) * dilation[0], (fx - 1) * dilation[1]
        padding = (reach[0] // 2, reach[1] // 2) if padding == "same" else (0, 0)
    groups = _arg(node, 6, 1, "groups")
    window = Window((fy, fx), stride, _pair(padding, one_d, 0), dilation)
    more = {"groups": groups, "bias": bias}
    return reader.build.windowed(reader.site(node), "conv", reader.value(node), _shape(node), window, more)


def _linear(reader: _Reader, node: Node) -> Value:
    """x @ W.T."""
    x, site = reader.value(node), reader.site(node)
    if node.args[1] in reader.values:
        return reader.build.product(site, x, reader.value(node, 1), rows=_shape(node)[-2], heads=1)
    bias = _arg(node, 2, None, "bias") is not None
    return reader.build.dense(site, x, _shape(node.args[1]), _shape(node), bias)


def _matmul(reader: _Reader, node: Node) -> Value:
    """A product of activations, or of an activation with a weight on either side."""
    left, right = (_node(arg) for arg in node.args[:2])
    a, b = (_shape(arg) for arg in (left, right))
    site = reader.site(node)
    if right not in reader.values:
        return reader.build.dense(site, reader.value(node), (b[-1], b[-2]), _shape(node), bias=False)
    if left not in reader.values:
        return reader.build.dense(site, reader.value(node, 1), (a[-2], a[-1]), _shape(node), bias=False)
    return reader.build.matmul(site, reader.values[left], reader.values[right], _shape(node))


def _attention(reader: _Reader, node: Node) -> Value:
    q, k, v = (reader.value(node, i) for i in range(3))
    return reader.build.attention(reader.site(node), q, k, v)


def _batch_norm(reader: _Reader, node: Node) -> Value:
    return reader.build.batch_norm(reader.site(node), reader.value(node), _shape(node))


def _relu(reader: _Reader, node: Node) -> Value:
    """ReLU and ReLU6 by any name; another clamp does not fold."""
    op = _operator(node)
    if op in ("clamp", "clamp_min", "hardtanh") and "Tensor" not in str(node.target):
        bounds = _arg(node, 1, -1.0 if op == "hardtanh" else None, "min"), _arg(node, 2, None, "max")
        op = {(0, 6): "relu6", (0, None): "relu"}.get(bounds, op)
    return reader.build.activation(reader.site(node), reader.value(node), _shape(node), op)


def _unary(reader: _Reader, node: Node) -> Value:
    return reader.build.pointwise(reader.site(node), "eltwise", reader.activations(node), _shape(node))


def _norm(reader: _Reader, node: Node) -> Value:
    return reader.build.pointwise(reader.site(node), "norm", reader.activations(node), _shape(node))


def _softmax(reader: _Reader, node: Node) -> Value:
    return reader.build.pointwise(reader.site(node), "softmax", reader.activations(node), _shape(node))


def _binary(reader: _Reader, node: Node) -> Value:
    operands, site = reader.activations(node), reader.site(node)
    if len(operands) > 1:
        return reader.build.binary(site, operands, _shape(node))
    constant = next((arg for arg in node.args[:2] if arg not in reader.values), None)
    if site.op == "div" and constant is node.args[0]:
        return reader.build.pointwise(site, "eltwise", operands, _shape(node))
    size = _shape(constant) if hasattr(constant, "meta") else ()
    return reader.build.with_constant(site, operands[0], size, _shape(node))


def _pool(reader: _Reader, node: Node) -> Value:
    op = _operator(node)
    one_d, kernel = op.endswith("1d"), _arg(node, 1, None, "kernel_size")
    stride = _arg(node, 2, None, "stride") or kernel
    dilation = _arg(node, 4, 1, "dilation") if op.startswith("max") else 1
    padding = _arg(node, 3, 0, "padding")
    sizes = (kernel, one_d, 1), (stride, one_d, 1), (padding, one_d, 0), (dilation, one_d, 1)
    window = Window(*(_pair(*size) for size in sizes))
    return reader.build.windowed(reader.site(node), op[:3] + "_pool", reader.value(node), _shape(node), window, {})


def _adaptive_pool(reader: _Reader, node: Node) -> Value:
    op = _operator(node).removeprefix("adaptive_")[:3] + "_pool"
    return reader.build.adaptive_pool(reader.site(node), op, reader.value(node), _shape(node))


def _mean(reader: _Reader, node: Node) -> Value:
    x, rank = reader.value(node), len(_shape(node.args[0]))
    given = _arg(node, 1, None, "dim")
    axes = {a % rank for a in (range(rank) if given is None else given)}
    return reader.build.reduced(reader.site(node), "avg_pool", x, axes)


def _pad(reader: _Reader, node: Node) -> Value:
    """torch lists the last dimension first."""
    x, sizes = reader.value(node), [int(s) for s in node.args[1]]  # type: ignore[union-attr, arg-type]
    left, right, above, below = [*sizes, 0, 0, 0, 0][:4]
    if min(sizes) < 0 or any(sizes[4:]):
        raise reader.unsupported(node, f"padding {sizes} is not of rows and columns alone")
    return reader.build.padded(reader.site(node), x, (above, below, left, right))


def _concat(reader: _Reader, node: Node) -> Value:
    return reader.build.concat(reader.site(node), reader.activations(node), _shape(node))


def _slice(reader: _Reader, node: Node) -> Value:
    return reader.build.slice(reader.site(node), reader.value(node), _shape(node))


def _upsample(reader: _Reader, node: Node) -> Value:
    """Nearest reads one neighbour, linear two each way, cubic four."""
    op = _operator(node)
    taps = 4 if "cubic" in op else 2 if "linear" in op else 1
    rows = 1 if op.endswith(("1d", "linear1d")) else taps
    return reader.build.resized(reader.site(node), reader.value(node), _shape(node), (rows, taps))


def _view(reader: _Reader, node: Node) -> Value:
    return reader.value(node)


_Handler = Callable[[_Reader, "Node"], Value]
_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(_VIEWS.split(), _view),
    **dict.fromkeys(_UNARY.split(), _unary),
    **dict.fromkeys(_BINARY.split(), _binary),
    **dict.fromkeys(["relu", "relu6", "hardtanh", "clamp", "clamp_min"], _relu),
    **dict.fromkeys(["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"], _conv),
    **dict.fromkeys(["matmul", "bmm", "mm"], _matmul),
    **dict.fromkeys(["layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm"], _norm),
    **dict.fromkeys(["max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d"], _pool),
    **dict.fromkeys(["adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d"], _adaptive_pool),
    **dict.fromkeys(["cat", "concat", "concatenate"], _concat),
    **dict.fromkeys(["slice", "select", "narrow", "getitem"], _slice),
    **dict.fromkeys(["pad", "constant_pad_nd"], _pad),
    **dict.fromkeys(["upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact2d"], _upsample),
    **dict.fromkeys(["upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d"], _upsample),
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
    grid = grid_of_input(input_shape, name)
    program = _export(module, input_shape, name)
    live = _live_nodes(program.graph)
    reader = _Reader(module, live, grid)
    for node in live:
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            reader.values[node] = reader.seen(node, Value(INPUT, sole=True))
        elif node.op == "call_function":
            reader.read(node)
    outputs = [reader.values[node] for node in live[-1].all_input_nodes if node in reader.values]
    return reader.build.finish(name, outputs, source)


def _export(module: nn.Module, input_shape: Shape, name: str) -> Any:
    import torch

    like = next(module.parameters(), torch.zeros(()))
    probe = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    with _evaluating(module), _unlogged():
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


@contextmanager
def _unlogged() -> Iterator[None]:
    """Nothing is logged for a while: what torch cannot export it would log as a traceback, and it raises as well."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _live_nodes(graph: Any) -> list[Node]:
    """Nodes on which the outputs depend, in the graph's order."""
    todo, live = [node for node in graph.nodes if node.op == "output"], set()
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo += node.all_input_nodes
    return [node for node in graph.nodes if node in live]


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
