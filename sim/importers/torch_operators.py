"""The operators of torch.export's undecomposed graph, one by one: what each becomes stands in `build`.

Of torch's own: reshapes, permutations, dropout, fake quantisers and the like cost nothing and vanish. What is computed
from weights or shapes alone is a weight and costs no operation. A module called twice is two layers with one set of
weights. A buffer into which activations are written in place is a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cosoc.sim.importers.build import Builder, Shape, Site, Unsupported, Value, Window, handed
from cosoc.sim.importers.fused import MOST_MOVED, Range, numbered, partition, taken
from cosoc.sim.importers.recurrent import Layers, recurrent

if TYPE_CHECKING:
    from torch.fx import Node

_VIEWS = (
    "view reshape flatten unflatten squeeze unsqueeze permute transpose t movedim swapaxes expand expand_as view_as "
    "reshape_as contiguous clone detach alias lift_fresh_copy to _to_copy type_as float half dropout dropout1d "
    "feature_dropout alpha_dropout feature_alpha_dropout identity channel_shuffle pixel_shuffle pixel_unshuffle "
    "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine chunk split split_with_sizes unbind "
    "nan_to_num isnan flip repeat repeat_interleave tile numpy_T mT T unsafe_split unsafe_chunk dropout2d dropout3d"
)
_MOVES = (  # hand on elements, all of them or some, each once
    "view reshape flatten unflatten squeeze unsqueeze permute transpose t movedim swapaxes contiguous clone "
    "detach alias dropout identity chunk split split_with_sizes unbind unsafe_split unsafe_chunk getitem slice "
    "select narrow"
)
_UNARY = (
    "sigmoid hardsigmoid hardswish silu gelu tanh elu selu celu leaky_relu prelu softplus mish log_sigmoid hardtanh "
    "clamp clamp_min clamp_max clip exp log sqrt rsqrt abs neg square reciprocal pow round floor ceil erf relu relu6 "
    "sin cos eq ne lt le gt ge logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or tril "
    "triu cumsum sign floor_divide remainder fmod atan2 log1p expm1 softsign threshold lerp addcmul addcdiv log10 log2 "
    "exp2 sinh cosh asin acos atan"
)
_BINARY = "add sub rsub mul div maximum minimum"
_REDUCED = {"mean": 1, "sum": 1, "amax": 1, "amin": 1, "var": 1, "std": 1, "any": 1, "all": 1, "argmax": 1, "argmin": 1,
            "linalg_vector_norm": 2, "norm": 2, "prod": 1, "logsumexp": 1, "max": 1, "min": 1}  # fmt: skip
_OF_SHAPE = (  # read a tensor's shape, not its elements
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty sym_size "
    "sym_numel sym_stride"
)


@dataclass
class Reader:
    """The graph as read so far: layers, and the value of every node that carries an activation. leaves: paths of
    modules without children; users: how many live nodes read a node; weights: what tells one weight from another, by
    the name of its placeholder; states: the placeholders of buffers that are written to; results: nodes that are
    handed out."""

    build: Builder
    leaves: set[str]
    users: dict[Node, int]
    weights: dict[str, object]
    states: dict[Node, str]
    results: set[Node]
    values: dict[Node, Value] = field(default_factory=dict)
    apart: dict[Node, Value] = field(default_factory=dict)  # of a fused product: what takes a part of it, and before
    parts: dict[Node, list[Value]] = field(default_factory=dict)

    def read(self, node: Node) -> None:
        """Take in one call; nodes without activations among their arguments are weights and are passed over."""
        op = operator(node)
        if op in _OF_SHAPE.split() or not any(arg in self.values for arg in node.all_input_nodes):
            return
        try:
            value = self.apart.get(node) or self._handled(node, op)
        except Unsupported as why:
            reads = [self.values[arg] for arg in node.all_input_nodes if arg in self.values]
            value = self.build.stand_in(self.site(node), reads, shape_of(node) or reads[0].shape, why)
        self.values[node] = self.seen(node, value)
        if in_place(node) and not any(value.pad):  # who reads the argument later sees the result
            base = base_of(_node(node.args[0]))
            for changed in {base, _node(node.args[0])}:
                known = replace(value, shape=shape_of(changed), sole=False)
                self.values[changed] = self.values[node] if changed is node.args[0] and base is changed else known

    def _handled(self, node: Node, op: str) -> Value:
        handler = HANDLERS.get(op)
        if handler is None:
            raise self.unsupported(node, "no such operator is known here")
        padded = [arg for arg in node.all_input_nodes if arg in self.values and any(self.values[arg].pad)]
        if padded and handler not in (_conv, _pool, _pad):
            raise self.unsupported(node, "it reads a padded tensor; only convolutions and pools can")
        return handler(self, node)

    def seen(self, node: Node, value: Value) -> Value:
        """A value as the readers of `node` see it."""
        return replace(value, sole=value.sole and self.users.get(node, 0) == 1, shape=shape_of(node))

    def site(self, node: Node) -> Site:
        path = _path(node)
        return Site(_full_name(node), operator(node), path, own=path in self.leaves)

    def unsupported(self, node: Node, why: str) -> Unsupported:
        return self.site(node).unsupported(why)

    def value(self, node: Node, index: int = 0) -> Value:
        """The activation that a call takes as its argument `index`, whole."""
        arg = node.args[index] if index < len(node.args) else None
        if arg not in self.values:
            raise self.unsupported(node, f"operand {index} is constant")
        return self.build.whole(self.site(node), self.values[_node(arg)])

    def activations(self, node: Node) -> list[Value]:
        """All activations among a call's arguments, in order, repeated where an argument is."""
        flat = [a for arg in node.args for a in (arg if isinstance(arg, (list, tuple)) else (arg,))]
        return [self.values[_node(arg)] for arg in flat if arg in self.values]

    def constants(self, node: Node) -> int:
        """Elements of the tensors among a call's arguments that do not depend on the input, but for single numbers."""
        sizes = [math.prod(shape_of(arg)) for arg in node.all_input_nodes if arg not in self.values and shape_of(arg)]
        return sum(size for size in sizes if size > 1)

    def owned(self, made: Value, node: Node) -> Value:
        """A layer with the one constant of a call, which an earlier layer may have had."""
        own = [arg for arg in node.all_input_nodes if arg not in self.values and math.prod(shape_of(arg)) > 1]
        return self.build.owned_constant(made, [self.weight(arg) for arg in own])

    def weight(self, node: Node) -> object:
        """What tells the weights behind a node from others: equal for two that are the same parameter."""
        while node.op == "call_function" and len(node.all_input_nodes) == 1 and operator(node) in _VIEWS.split():
            node = node.all_input_nodes[0]
        return self.weights.get(node.name, node)


# ---------------------------------------------------------------------------------------------- the graph's nodes


def operator(node: Node) -> str:
    """The operator's name without namespace, overload and the underscore of an in-place one: conv2d, add, getitem."""
    parts = str(node.target).split(".")
    name = parts[1] if parts[0] == "aten" and len(parts) > 1 else getattr(node.target, "__name__", str(node.target))
    return name.rstrip("_")


def in_place(node: Node) -> bool:
    """Whether a call changes its first argument."""
    name = str(node.target).split(".")[1:2]
    return node.op == "call_function" and bool(name) and name[0].endswith("_") and not name[0].endswith("__")


def base_of(node: Node) -> Node:
    """The node that a view is of."""
    seen = ("slice", "select", "narrow", "view", "transpose", "permute", "unsqueeze", "squeeze", "alias", "expand")
    while node.op == "call_function" and operator(node) in seen and not in_place(node):
        node = _node(node.args[0])
    return node


def _full_name(node: Node) -> str:
    return ".".join(str(node.target).split(".")[:2]) if str(node.target).startswith("aten.") else operator(node)


def _path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]).partition("@")[0] if stack else ""


def shape_of(node: Any) -> Shape:
    """The shape of a node's result, () where it is no tensor, or several."""
    value = node.meta.get("val") if hasattr(node, "meta") else None
    return tuple(int(size) for size in getattr(value, "shape", ()))


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


def _triple(value: Any) -> tuple[int, ...]:
    """(planes, rows, columns) of a size given as one number or three."""
    sizes = tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)
    return sizes * 3 if len(sizes) == 1 else sizes


# ---------------------------------------------------------------------------------------------- operators


def _conv(reader: Reader, node: Node) -> Value:
    op, weight = operator(node), _node(node.args[1])
    if weight in reader.values:
        raise reader.unsupported(node, "its weights are computed from the input")
    if len(shape_of(weight)) == 5 and not op.startswith("conv_transpose"):
        return _conv3d(reader, node, weight)
    if len(shape_of(weight)) == 5:
        raise reader.unsupported(node, "transposed convolutions of one or two dimensions can be read")
    *_, fy, fx = (1, *shape_of(weight)[2:])
    one_d = len(shape_of(weight)) == 3
    stride = _pair(_arg(node, 3, 1, "stride"), one_d, 1)
    bias = _arg(node, 2, None, "bias") is not None
    if op.startswith("conv_transpose"):
        more = {"groups": _arg(node, 6, 1, "groups"), "bias": bias}
        sizes = (fy, fx), stride
        up = reader.build.transposed(reader.site(node), reader.value(node), shape_of(node), sizes, more)
        return reader.build.owned(up, reader.weight(weight))
    padding = _arg(node, 4, 0, "padding")
    dilation = _pair(_arg(node, 5, 1, "dilation"), one_d, 1)
    if isinstance(padding, str):
        reach = (fy - 1) * dilation[0], (fx - 1) * dilation[1]
        padding = (reach[0] // 2, reach[1] // 2) if padding == "same" else (0, 0)
    groups = _arg(node, 6, 1, "groups")
    window = Window((fy, fx), stride, _pair(padding, one_d, 0), dilation)
    more = {"groups": groups, "bias": bias}
    made = reader.build.windowed(reader.site(node), "conv", reader.value(node), shape_of(node), window, more)
    return reader.build.owned(made, reader.weight(weight))


def _conv3d(reader: Reader, node: Node, weight: Node) -> Value:
    taps = shape_of(weight)[2:]
    stride, dilation = _triple(_arg(node, 3, 1, "stride")), _triple(_arg(node, 5, 1, "dilation"))
    padding = _arg(node, 4, 0, "padding")
    if isinstance(padding, str):
        reach = [(f - 1) * d // 2 for f, d in zip(taps, dilation, strict=True)]
        padding = reach if padding == "same" else 0
    more = {"groups": _arg(node, 6, 1, "groups"), "bias": _arg(node, 2, None, "bias") is not None}
    sizes = taps, stride, _triple(padding), dilation
    made = reader.build.volume(reader.site(node), "conv", reader.value(node), shape_of(node), sizes, more)
    return reader.build.owned(made, reader.weight(weight))


def _linear(reader: Reader, node: Node) -> Value:
    """x @ W.T."""
    x, site = reader.value(node), reader.site(node)
    if node.args[1] in reader.values:
        return reader.build.product(site, x, reader.value(node, 1), rows=shape_of(node)[-2], heads=1)
    bias = _arg(node, 2, None, "bias") is not None
    k, c = (1, *shape_of(node.args[1]))[-2:]
    return _dense(reader, node, x, (k, c), bias, _node(node.args[1]))


def _dense(reader: Reader, node: Node, x: Value, size: Shape, bias: bool, weight: Node) -> Value:
    """All of x's vectors times weights of (k, c): of a fused product, the first of its parts."""
    key, (cuts, between) = reader.weight(weight), _cuts(reader, node)
    ranges = partition(cuts.values(), size[0])
    made = reader.build.dense_parts(reader.site(node), x, size, shape_of(node), bias, ranges)
    for part, value in made.items():
        reader.build.owned(value, (key, part) if len(made) > 1 else key)
    if len(made) > 1:
        reader.apart |= handed(made, cuts, between)
    return made[ranges[0]]


def _cuts(reader: Reader, node: Node) -> tuple[dict[Node, Range], list[Node]]:
    """What takes a range of a product's channels, behind what only moves all of them; and that. No ranges where any
    reader takes anything else of it."""
    import torch

    shape = shape_of(node)
    if len(shape) < 2 or math.prod(shape) > MOST_MOVED or not all(_moves(user) for user in _readers(reader, node)):
        return {}, []
    cuts: dict[Node, Range] = {}
    between: list[Node] = []
    todo: list[tuple[Node, Any]] = [(node, torch.from_numpy(numbered(shape)))]
    while todo:
        source, channels = todo.pop()
        for user in _readers(reader, source):
            if not _moves(user):
                return {}, []
            moved = user.target(channels, *user.args[1:], **user.kwargs)  # type: ignore[operator]
            if not isinstance(moved, torch.Tensor) or moved.numel() == math.prod(shape):
                between.append(user)
                todo.append((user, moved))
                continue
            own = taken(moved.numpy(), math.prod(shape[:-1]))
            if own is None:
                return {}, []
            cuts[user] = own
    return cuts, between


def _readers(reader: Reader, node: Node) -> list[Node]:
    return [user for user in node.users if user in reader.users]


def _moves(node: Node) -> bool:
    """Whether a call does nothing but move elements of one tensor."""
    known = node.op == "call_function" and operator(node) in _MOVES.split() and not in_place(node)
    return known and len(node.all_input_nodes) == 1


def _matmul(reader: Reader, node: Node, first: int = 0, bias: bool = False, summed: bool = False) -> Value:
    """A product of activations, or of an activation with a weight on either side. first: the left one's place; summed:
    whether the node adds an activation to it."""
    left, right = (_node(arg) for arg in node.args[first : first + 2])
    a, b = (shape_of(arg) for arg in (left, right))
    site, out = reader.site(node), shape_of(node)
    if left in reader.values and right in reader.values:
        if min(len(a), len(b)) < 2:
            return reader.build.product(site, reader.value(node, first), reader.value(node, first + 1), 1, 1)
        return reader.build.matmul(site, reader.values[left], reader.values[right], out)
    of_right = right not in reader.values
    weight, x = (right, reader.value(node, first)) if of_right else (left, reader.value(node, first + 1))
    shape = shape_of(weight)
    heads = 1
    for size in shape[:-2]:
        heads *= size
    if heads > 1:  # a matrix a head
        labels = "abcdefgh"[: len(out) - 2]
        own = labels[len(labels) - len(shape) + 2 :]
        terms = (f"{labels}xy", f"{own}yz") if of_right else (f"{own}xy", f"{labels}yz")
        operands = (x, shape) if of_right else (shape, x)
        made = reader.build.einsum(site, f"{','.join(terms)}->{labels}xz", operands, out)
        return reader.build.owned(made, reader.weight(weight))
    k, c = ((1, *shape[::-1])[-2:][::-1] if len(shape) == 1 else (shape[-1], shape[-2])) if of_right else shape[-2:]
    if of_right and not summed:
        return _dense(reader, node, x, (k, c), bias, weight)
    return reader.build.owned(reader.build.dense(site, x, (k, c), out, bias), reader.weight(weight))


def _addmm(reader: Reader, node: Node) -> Value:
    """A bias and a product; a sum where the first operand is an activation, too."""
    given = node.args[0] in reader.values
    product = _matmul(reader, node, 1, bias=not given, summed=given)
    if not given:
        return product
    shape = shape_of(node)
    return reader.build.binary(
        reader.site(node), [reader.values[_node(node.args[0])], replace(product, shape=shape)], shape
    )


def _einsum(reader: Reader, node: Node) -> Value:
    given = [_node(arg) for arg in node.args[1]]  # type: ignore[union-attr]
    operands = [reader.values.get(arg, shape_of(arg)) for arg in given]
    made = reader.build.einsum(reader.site(node), str(node.args[0]), operands, shape_of(node))
    weights = [arg for arg in given if arg not in reader.values]
    return reader.build.owned(made, reader.weight(weights[0])) if weights else made


def _attention(reader: Reader, node: Node) -> Value:
    q, k, v = (reader.values.get(_node(node.args[i])) for i in range(3))
    if q is None or k is None or v is None:
        raise reader.unsupported(node, "queries, keys or values are constant")
    given = _arg(node, 3, None, "attn_mask")
    mask = reader.values.get(given)
    bias = math.prod(shape_of(given)) if given is not None and mask is None else 0
    return reader.build.attention(reader.site(node), reader.build.whole(reader.site(node), q), k, v, mask, bias)


def _embedding(reader: Reader, node: Node) -> Value:
    table = _node(node.args[0])
    if table in reader.values:
        return _slice(reader, node)
    made = reader.build.gather(reader.site(node), reader.value(node, 1), shape_of(table), shape_of(node))
    return reader.build.owned(made, reader.weight(table))


def _index(reader: Reader, node: Node) -> Value:
    """Part of an activation, whoever says which; rows of a weight at places that are computed."""
    source = _node(node.args[0])
    if source in reader.values:
        return _slice(reader, node)
    where = node.args[1] if operator(node) == "index" else [None] * int(node.args[1]) + [node.args[2]]  # type: ignore[arg-type]
    given = [(i, arg) for i, arg in enumerate(where) if arg is not None]  # type: ignore[arg-type]
    active = [arg for _, arg in given if arg in reader.values]
    dims, shape, rows, k = {i for i, _ in given}, shape_of(source), 1, 1
    for i, size in enumerate(shape):
        rows, k = (rows * size, k) if i in dims else (rows, k * size)
    numbers = max((reader.values[arg] for arg in active), key=lambda v: len(v.shape))
    made = reader.build.gather(
        reader.site(node), reader.build.whole(reader.site(node), numbers), (rows, k), shape_of(node)
    )
    return reader.build.owned(made, reader.weight(source))


def _scatter(reader: Reader, node: Node) -> Value:
    """Part of a tensor replaced: of a state in place, else by a new one, of which a constant part is put out only."""
    base = base_of(_node(node.args[0]))
    site, rest = reader.site(node), [arg for arg in node.all_input_nodes if arg is not node.args[0]]
    new = [reader.values[arg] for arg in rest if arg in reader.values]
    if base in reader.states and in_place(node) and new:
        return reader.build.written(site, reader.states[base], max(new, key=lambda v: len(v.shape)))
    if node.args[0] in reader.values:
        if operator(node) == "copy" and new and new[0].shape == shape_of(node):
            return new[0]
        return reader.build.pointwise(site, "eltwise", reader.activations(node), shape_of(node))
    return reader.build.concat(site, new, shape_of(node))


def _where(reader: Reader, node: Node) -> Value:
    """Guards against a softmax of nothing change nothing."""
    tests = [arg for arg in node.args if getattr(arg, "op", "") == "call_function" and operator(_node(arg)) == "isnan"]
    for test in tests:
        if _node(test).args[0] in node.args:
            return reader.values[_node(_node(test).args[0])]
    return _pointwise(reader, node)


def _glu(reader: Reader, node: Node) -> Value:
    """Half of its input times a gate of the other half."""
    x = reader.value(node)
    return reader.build.pointwise(reader.site(node), "eltwise", [x, x], shape_of(node))


def _roll(reader: Reader, node: Node) -> Value:
    x, (places, dims) = reader.value(node), (_list(node.args[1]), _list(_arg(node, 2, [])))
    if not dims:
        raise reader.unsupported(node, "it rolls a flattened tensor; name the dimensions")
    rank = len(shape_of(node))
    return reader.build.rolled(reader.site(node), x, [(d % rank, p) for d, p in zip(dims, places, strict=True)])


def _list(value: Any) -> list[int]:
    return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]


def _recurrent(reader: Reader, node: Node) -> Value:
    kind = operator(node).partition("_")[0]
    if ".data" in str(node.target):
        raise reader.unsupported(node, "it reads a packed sequence; pass a tensor")
    states = node.args[1] if isinstance(node.args[1], (list, tuple)) else [node.args[1]]
    params = [_node(arg) for arg in node.args[2]]  # type: ignore[union-attr]
    biased, layers, both = bool(node.args[3]), int(node.args[4]), bool(node.args[7])  # type: ignore[arg-type]
    each = len(params) // (layers * (2 if both else 1))
    if each != (4 if biased else 2):
        raise reader.unsupported(node, "it projects its state; without proj_size it can be read")
    keys = tuple(reader.weight(params[i]) for i in range(0, len(params), each))
    hidden = shape_of(params[1])[1]
    first = [reader.values.get(_node(state)) for state in states]
    about = Layers(kind, hidden, keys, both)
    found = recurrent(reader.build, reader.site(node), reader.value(node), about, *first)
    reader.parts[node] = list(found)
    return found[0]


def _batch_norm(reader: Reader, node: Node) -> Value:
    return reader.build.batch_norm(reader.site(node), reader.value(node), shape_of(node))


def _relu(reader: Reader, node: Node) -> Value:
    """ReLU and ReLU6 by any name; another clamp does not fold."""
    op = operator(node)
    if op in ("clamp", "clamp_min", "hardtanh") and "Tensor" not in str(node.target):
        bounds = _arg(node, 1, -1.0 if op == "hardtanh" else None, "min"), _arg(node, 2, None, "max")
        op = {(0, 6): "relu6", (0, None): "relu"}.get(bounds, op)
    return reader.build.activation(reader.site(node), reader.value(node), shape_of(node), op)


def _pointwise(reader: Reader, node: Node, op: str = "eltwise") -> Value:
    made = reader.build.pointwise(
        reader.site(node), op, reader.activations(node), shape_of(node), reader.constants(node)
    )
    return reader.owned(made, node)


def _norm(reader: Reader, node: Node) -> Value:
    return _pointwise(reader, node, "norm")


def _softmax(reader: Reader, node: Node) -> Value:
    return reader.build.pointwise(reader.site(node), "softmax", reader.activations(node), shape_of(node))


def _binary(reader: Reader, node: Node) -> Value:
    operands, site = reader.activations(node), reader.site(node)
    if len(operands) > 1:
        return reader.build.binary(site, operands, shape_of(node))
    constant = next((arg for arg in node.args[:2] if arg not in reader.values), None)
    if site.op == "div" and constant is node.args[0]:
        return _pointwise(reader, node)
    size = shape_of(constant) if hasattr(constant, "meta") else ()
    return reader.owned(reader.build.with_constant(site, operands[0], size, shape_of(node)), node)


def _pool(reader: Reader, node: Node) -> Value:
    op = operator(node)
    if op.endswith("3d"):
        return _pool3d(reader, node)
    one_d, kernel = op.endswith("1d"), _arg(node, 1, None, "kernel_size")
    stride = _arg(node, 2, None, "stride") or kernel
    dilation = _arg(node, 4, 1, "dilation") if op.startswith("max") else 1
    padding = _arg(node, 3, 0, "padding")
    sizes = (kernel, one_d, 1), (stride, one_d, 1), (padding, one_d, 0), (dilation, one_d, 1)
    window = Window(*(_pair(*size) for size in sizes))
    return reader.build.windowed(reader.site(node), op[:3] + "_pool", reader.value(node), shape_of(node), window, {})


def _pool3d(reader: Reader, node: Node) -> Value:
    op, kernel = operator(node), _triple(node.args[1])
    stride = _triple(_arg(node, 2, None, "stride") or kernel)
    dilation = _triple(_arg(node, 4, 1, "dilation") if op.startswith("max") else 1)
    sizes = kernel, stride, _triple(_arg(node, 3, 0, "padding")), dilation
    return reader.build.volume(reader.site(node), op[:3] + "_pool", reader.value(node), shape_of(node), sizes, {})


def _adaptive_pool(reader: Reader, node: Node) -> Value:
    if len(shape_of(node)) == 5:
        if set(shape_of(node)[2:]) != {1}:
            raise reader.unsupported(node, f"to {shape_of(node)[2:]}; 3-D pools of one window can be read")
        op = operator(node).removeprefix("adaptive_")[:3] + "_pool"
        return reader.build.reduced(reader.site(node), op, reader.value(node), {2, 3, 4})
    op = operator(node).removeprefix("adaptive_")[:3] + "_pool"
    return reader.build.adaptive_pool(reader.site(node), op, reader.value(node), shape_of(node))


def _reduce(reader: Reader, node: Node) -> Value:
    """Over the dimensions that are named, or all; between two tensors, an element of each."""
    op = operator(node)
    x = reader.value(node)
    if str(node.target).endswith(".other"):
        return reader.build.pointwise(reader.site(node), "eltwise", reader.activations(node), shape_of(node))
    rank = len(shape_of(node.args[0]))
    given = _arg(node, _REDUCED[op], None, "dim")
    if isinstance(given, (bool, float)):
        given = None
    axes = {a % rank for a in (range(rank) if given is None or given == [] else _list(given))}
    kind = "max_pool" if op in ("amax", "amin", "max", "min", "argmax", "argmin", "any", "all") else "avg_pool"
    return reader.build.reduced(reader.site(node), kind, x, axes)


def _pad(reader: Reader, node: Node) -> Value:
    """torch lists the last dimension first."""
    x, sizes = reader.value(node), [int(s) for s in node.args[1]]  # type: ignore[union-attr, arg-type]
    left, right, above, below = [*sizes, 0, 0, 0, 0][:4]
    if min(sizes) < 0 or any(sizes[4:]):
        raise reader.unsupported(node, f"padding {sizes} is not of rows and columns alone")
    return reader.build.padded(reader.site(node), x, (above, below, left, right))


def _concat(reader: Reader, node: Node) -> Value:
    """An input with something new behind it that is handed out again is a state."""
    site, given = reader.site(node), _node(node.args[0])
    parts = [reader.build.whole(site, value) for value in reader.activations(node)]
    if len(parts) == len(given) == 2 and node in reader.results and reader.build.may_live_on(parts[0]):  # type: ignore[arg-type]
        return reader.build.appended(site, parts[0], parts[1], shape_of(node))
    return reader.build.concat(site, parts, shape_of(node))


def _slice(reader: Reader, node: Node) -> Value:
    if node.args[0] in reader.parts:
        return reader.parts[_node(node.args[0])][int(node.args[1])]  # type: ignore[arg-type]
    return reader.build.slice(reader.site(node), reader.value(node), shape_of(node))


def _upsample(reader: Reader, node: Node) -> Value:
    """Nearest reads one neighbour, linear two each way, cubic four."""
    op = operator(node)
    taps = 4 if "cubic" in op else 2 if "linear" in op else 1
    rows = 1 if op.endswith(("1d", "linear1d")) else taps
    return reader.build.resized(reader.site(node), reader.value(node), shape_of(node), (rows, taps))


def _view(reader: Reader, node: Node) -> Value:
    if node.args[0] not in reader.values:
        raise reader.unsupported(node, "operand 0 is constant")
    return reader.values[_node(node.args[0])]


_Handler = Callable[[Reader, "Node"], Value]
HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(_VIEWS.split(), _view),
    **dict.fromkeys(_UNARY.split(), _pointwise),
    **dict.fromkeys(_BINARY.split(), _binary),
    **dict.fromkeys(_REDUCED, _reduce),
    **dict.fromkeys(["relu", "relu6", "hardtanh", "clamp", "clamp_min"], _relu),
    **dict.fromkeys(["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], _conv),
    **dict.fromkeys(["matmul", "bmm", "mm", "mv"], _matmul),
    **dict.fromkeys(["addmm", "baddbmm"], _addmm),
    **dict.fromkeys(["layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm"], _norm),
    **dict.fromkeys(["max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"], _pool),
    **dict.fromkeys([f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)], _adaptive_pool),
    **dict.fromkeys(["cat", "concat", "concatenate", "stack"], _concat),
    **dict.fromkeys(["slice", "select", "narrow", "getitem"], _slice),
    **dict.fromkeys(["index", "index_select", "gather", "take_along_dim"], _index),
    **dict.fromkeys(["index_copy", "index_put", "scatter", "scatter_add", "slice_scatter", "copy"], _scatter),
    **dict.fromkeys(["select_scatter", "masked_scatter", "index_add"], _scatter),
    **dict.fromkeys(["where", "masked_fill"], _where),
    **dict.fromkeys(["pad", "constant_pad_nd"], _pad),
    **dict.fromkeys(["upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact2d"], _upsample),
    **dict.fromkeys(["upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d"], _upsample),
    **dict.fromkeys(["softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax"], _softmax),
    **dict.fromkeys(["lstm", "gru", "rnn_tanh", "rnn_relu"], _recurrent),
    "linear": _linear,
    "einsum": _einsum,
    "batch_norm": _batch_norm,
    "embedding": _embedding,
    "roll": _roll,
    "glu": _glu,
    "scaled_dot_product_attention": _attention,
}

__all__ = ["Reader", "base_of", "in_place", "operator", "shape_of"]
