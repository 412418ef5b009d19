"""What the graph of a quantised network says of its layers: the integers of every tensor that has a quantiser behind
it, and what layers have beside weights (constants, functions of real numbers, which columns they take)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from cosoc.search.spaces.channels import (
    JOINED,
    MAXIMA,
    MEANS,
    PARTS,
    RECTIFIED,
    SUMS,
    VIEWS,
    MixedLayer,
    MixedNet,
    kind_of,
)
from cosoc.search.spaces.products import SIDE_BY_SIDE
from cosoc.search.training.quant import ActivationQuantiser
from cosoc.sim.errors import InputError
from cosoc.sim.integers.network import Floats, Ints, Whole
from cosoc.sim.integers.real import Function
from cosoc.sim.model.workload import INPUT, SLICE, Layer, Workload


@dataclass(frozen=True, eq=False)
class Unweighted:
    """What a layer has beside weights. constant [k, 1, columns]: real numbers, in the format of `quantised` if one is
    behind them; function: of real numbers, with a norm's weight, bias and eps; factor: of a product; from_column, keys:
    as of `IntegerLayer`; heads: whose softmax is over their own channels. table [rows, k]: real numbers, of which an
    input's numbers pick rows."""

    constant: Floats | None = None
    quantised: Whole | None = None
    function: Function | None = None
    weight: Floats | None = None
    bias: Floats | None = None
    eps: float = 0.0
    factor: float = 1.0
    from_column: int = 0
    keys: bool = False
    heads: int = 1
    table: Floats | None = None

    def steps(self, like: Whole) -> Ints:
        """The constant, or the table, as integers of its own format, or of that of the tensor that it stands in."""
        about, real = self.quantised or like, self.constant if self.table is None else self.table
        assert real is not None
        found: Ints = np.clip(np.rint(real / about.step), about.low, about.high).astype(np.int64)
        return found


@dataclass
class Traced:
    """formats: by tensor; beside: by layer, of those that have something."""

    workload: Workload
    modules: dict[str, nn.Module]
    net: fx.GraphModule
    formats: dict[str, Whole] = field(default_factory=dict)
    beside: dict[str, Unweighted] = field(default_factory=dict)
    names: dict[fx.Node, str] = field(default_factory=dict)  # the tensor that a node has, in whatever shape
    fused: dict[fx.Node, tuple[str, ...]] = field(default_factory=dict)  # those that it has side by side
    constants: dict[fx.Node, Unweighted] = field(default_factory=dict)
    shapes: set[fx.Node] = field(default_factory=set)  # nodes that have no more than sizes
    taken: set[str] = field(default_factory=set)

    def node(self, node: fx.Node) -> None:
        """Take in one node."""
        kind, read = kind_of(node, self.modules), self.read(node)
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if node.op == "placeholder":
            self.names[node] = INPUT
        elif node.op == "output":
            if read != self.workload.outputs:
                outputs = ", ".join(self.workload.outputs)
                raise InputError(f"{self.workload.name}: gives {', '.join(read)}, its layers {outputs}")
        elif node.op == "get_attr" or (not read and self._constant(node, kind)):
            if node.op == "get_attr":
                self.constants[node] = Unweighted(constant=_columns(_attribute(self.net, str(node.target))))
        elif self._shape(node, kind):
            self.shapes.add(node)
        elif node.args and node.args[0] in self.fused:
            self._apart(node, kind, self.fused[node.args[0]])  # type: ignore[index]
        elif kind == SIDE_BY_SIDE:
            self.fused[node] = read
        elif isinstance(module, MixedLayer):
            self.names[node] = str(node.target)
        elif isinstance(module, ActivationQuantiser):
            self.names[node] = read[0]
            one = whole(module, bool(node.args[1]))
            if self.formats.setdefault(read[0], one) != one:
                what = f"{read[0]} is read in two formats, so it has no one in memory"
                raise InputError(f"{self.workload.name}: {what}")
        elif kind in MEANS or kind in MAXIMA:
            found = self._layer(("avg_pool", "max_pool"), read)
            self.names[node] = found.name if found else read[0]  # of one pixel nothing is left to pool
            _check_pool(module)
        elif kind in (*RECTIFIED, *VIEWS) and len(read) == 1:
            self.names[node] = read[0]
        else:
            self.names[node] = self._computed(node, kind, read, module)

    def read(self, node: fx.Node) -> tuple[str, ...]:
        """The tensors that a node reads."""
        return tuple(self.names[arg] for arg in node.all_input_nodes if arg in self.names)

    def _constant(self, node: fx.Node, kind: str) -> bool:
        """Whether a node hands on a constant."""
        found = [self.constants[arg] for arg in node.all_input_nodes if arg in self.constants]
        if len(found) != 1:
            return False
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, ActivationQuantiser):
            self.constants[node] = replace(found[0], quantised=whole(module, bool(node.args[1])))
        elif kind in ("expand", "identity", "contiguous"):
            self.constants[node] = found[0]
        else:
            self._unknown(node, kind)
        return True

    def _shape(self, node: fx.Node, kind: str) -> bool:
        of_shape = bool(node.all_input_nodes) and all(arg in self.shapes for arg in node.all_input_nodes)
        return of_shape or kind == "size" or (kind == "getattr" and node.args[1] == "shape")

    def _apart(self, node: fx.Node, kind: str, tensors: tuple[str, ...]) -> None:
        """Take in what reads the parts of a fused product side by side: it hands them on, or takes the one of its
        number; whether it is that one, the outputs tell."""
        index = node.args[1] if kind == "getitem" else None
        numbers = [one for one in (index if isinstance(index, tuple) else (index,)) if isinstance(one, int)]
        if len(numbers) == 1 and numbers[0] < len(tensors):
            self.names[node] = tensors[numbers[0]]
        elif kind in (*VIEWS, *PARTS):
            self.fused[node] = tensors
        else:
            self._unknown(node, kind)

    def _computed(self, node: fx.Node, kind: str, read: tuple[str, ...], module: nn.Module | None) -> str:
        """The layer of a node that computes something."""
        beside = [self.constants[arg] for arg in node.all_input_nodes if arg in self.constants]
        found: Layer | None = None
        about = Unweighted()
        if kind in SUMS and len(read) > 1:
            found = self._layer(("add",), read)
        elif kind in SUMS and len(read) == len(beside) == 1:
            found, about = self._layer(("eltwise",), read), beside[0]
        elif kind in JOINED and not beside:
            found = self._layer(("concat",), read)
        elif kind in JOINED and len(read) == len(beside) == 1:
            first = node.args[0]
            if isinstance(first, (tuple, list)) and first[0] in self.constants:
                found, about = self._layer(("concat",), read), beside[0]
        elif kind == "getitem" and len(read) == 1:
            columns = self.workload.input_shape[2] if read[0] == INPUT else self.workload[read[0]].ox
            column = _first_column(node.args[1], columns)
            if column is not None:
                found, about = self._layer(("eltwise",), read, SLICE), Unweighted(from_column=column)
        elif kind in ("scaled_scores", "matmul") and len(read) == 2:
            found = self._layer(("matmul",), read)
            if found is not None and kind == "scaled_scores":
                about = Unweighted(keys=True, factor=(found.c // found.groups) ** -0.5)
        elif kind == "softmax" and len(read) == 1:
            found = self._layer(("softmax",), read)
            heads = self.workload[read[0]].groups if found and read[0] != INPUT else 1
            about = Unweighted(function="softmax", heads=heads)
        elif isinstance(module, nn.LayerNorm):
            found = self._layer(("norm",), read)
            about = _normed(module.normalized_shape, module.weight, module.bias, module.eps)
        elif kind == "layer_norm" and len(read) == 1:
            found = self._layer(("norm",), read)
            about = self._norm_of(*node.args[1:], **node.kwargs)
        elif isinstance(module, nn.Embedding) and module.max_norm is None and read == (INPUT,):
            found, about = self._layer(("gather",), read), Unweighted(table=_real(module.weight))
            self.formats[INPUT] = Whole(0, module.num_embeddings - 1, 1.0)
        elif kind == "gelu" and len(read) == 1:
            how = module.approximate if isinstance(module, nn.GELU) else node.kwargs.get("approximate", "none")
            found = self._layer(("eltwise",), read, "aten.gelu")
            about = Unweighted(function="gelu_tanh" if how == "tanh" else "gelu")
        if found is None:
            return self._unknown(node, kind)
        if about.constant is not None and about.constant.shape[0] != found.k:
            raise InputError(f"layer {found.name}: its constant has {about.constant.shape[0]} channels, not {found.k}")
        if about.constant is not None and found.op == "eltwise" and about.constant.shape[2] != found.ox:
            raise InputError(f"layer {found.name}: its constant has {about.constant.shape[2]} columns, not {found.ox}")
        self.beside[found.name] = about
        return found.name

    def _norm_of(self, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: Any = 1e-5) -> Unweighted:
        """A norm that is called as a function, with torch's arguments behind the first."""
        given = [one and _attribute(self.net, str(one.target)) for one in (weight, bias)]
        return _normed(normalized_shape, given[0], given[1], eps)

    def _layer(self, ops: tuple[str, ...], inputs: tuple[str, ...], fn: str = "") -> Layer | None:
        """The first layer of such operators, and such a function, that reads some tensors, and is no other node's."""
        found = self._stands_for(ops, inputs, fn)
        self.taken |= {found.name} if found else set()
        return found

    def _stands_for(self, ops: tuple[str, ...], inputs: tuple[str, ...], fn: str = "") -> Layer | None:
        for layer in self.workload:
            alike = layer.op in ops and (not fn or layer.fn == fn) and sorted(layer.inputs) == sorted(inputs)
            if alike and layer.name not in self.taken:
                return layer
        return None

    def _unknown(self, node: fx.Node, kind: str) -> str:
        raise InputError(f"{self.workload.name}: {node.name} ({kind or node.op}) has no integers that are known")


def traced(net: MixedNet, workload: Workload) -> Traced:
    """What a network's graph says of its layers. InputError for what has no integers."""
    graph_net = net.net
    assert isinstance(graph_net, fx.GraphModule)
    found = Traced(workload, dict(graph_net.named_modules()), graph_net)
    for node in graph_net.graph.nodes:
        found.node(node)
    return found


def _normed(shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Unweighted:
    """A norm over the channels of each vector."""
    if len(shape) != 1:
        raise InputError(f"a norm over {tuple(shape)} has no integers that are known; one over channels has")
    ones, zeros = np.ones(shape[0]), np.zeros(shape[0])
    return Unweighted(
        function="layer_norm", eps=eps,
        weight=ones if weight is None else _real(weight), bias=zeros if bias is None else _real(bias),
    )  # fmt: skip


def whole(quantiser: ActivationQuantiser, signed: bool) -> Whole:
    """The integers that a quantiser makes, and what one is worth."""
    top = 2 ** (quantiser.bits - 1) - 1 if signed else 2**quantiser.bits - 1
    return Whole(-top if signed else 0, top, math.exp(float(quantiser.log_clip.detach().double())) / top)


def _attribute(module: nn.Module, path: str) -> Tensor:
    parent, _, name = path.rpartition(".")
    found = getattr(module.get_submodule(parent), name)
    if not isinstance(found, Tensor):
        raise InputError(f"{path}: a constant that is no tensor has no integers")
    return found


def _columns(tensor: Tensor) -> Floats:
    """Rows of vectors [1, columns, k], or [columns, k], as [k, 1, columns]."""
    if tensor.dim() == 1:
        return _real(tensor)[:, None, None]
    if tensor.dim() not in (2, 3) or (tensor.dim() == 3 and tensor.shape[0] != 1):
        raise InputError(f"a constant of {tuple(tensor.shape)}; integers know rows of vectors (1, rows, channels)")
    return _real(tensor.reshape(tensor.shape[-2:]).T[:, None])


def _real(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().double().numpy())


def _first_column(index: Any, columns: int) -> int | None:
    """The row of vectors that an index [:, row] takes, or the first of [:, row:end], of so many; None for another."""
    if not isinstance(index, tuple) or len(index) != 2 or index[0] != slice(None):
        return None
    which = index[1]
    if isinstance(which, slice) and which.step is None:
        ends = (which.start, which.stop)
        return which.indices(columns)[0] if all(end is None or isinstance(end, int) for end in ends) else None
    return which % columns if isinstance(which, int) and -columns <= which < columns else None


def _check_pool(module: nn.Module | None) -> None:
    """InputError for means over more or fewer elements than the window has."""
    if isinstance(module, nn.AvgPool2d) and (module.padding not in (0, (0, 0)) or module.ceil_mode):
        raise InputError("an average pool with padding, or of rounded-up size, has means of several divisors")


__all__ = ["Traced", "Unweighted", "traced", "whole"]
