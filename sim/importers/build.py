"""Layers out of tensors: what every importer makes of an operator once it knows its kind and its shapes.

What is folded, and how tensors become layers:

- An affine step (batch norm, a bias, a scale a channel) after a convolution or norm that nobody else reads folds into
  it, and so do ReLU and ReLU6, also after a matmul or sum; other activations stay as `eltwise`, since not every core
  has them. A batch norm elsewhere is a `norm`.
- Multiplying by one number changes the scale that a tensor is quantised with, and nothing else: it vanishes.
- A pointwise operator takes in what follows it with one number (erf(x) + 1), and a product with its operand: x times
  sigmoid(x), or the steps of a GELU, are one `eltwise`.
- Tokens are columns: a product of a tensor [1, t, f] with weights is a 1x1 convolution on one row of t columns. Heads
  of an attention are the groups of a matmul. 1-D convolutions have one row.
- Explicit padding folds into the convolution or pool that reads it. Taking part of a tensor is an `eltwise` layer of fn
  "slice".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cosoc.sim.errors import InputError
from cosoc.sim.files.workload_file import faults
from cosoc.sim.model.units import MOST_ALONG
from cosoc.sim.model.workload import INPUT, SLICE, Layer, Workload

Shape = tuple[int, ...]
Pair = tuple[int, int]  # (rows, columns)
_NO_PAD = (0, 0, 0, 0)


@dataclass(frozen=True)
class Site:
    """Where in its source an operator stands.

    fn: the operator's own name ("aten.conv2d", "Conv"). op: what a layer without a name of its own is called after.
    path: the module or node. own: whether `path` names this operator alone.
    """

    fn: str
    op: str
    path: str
    own: bool

    def unsupported(self, why: str) -> InputError:
        return InputError(f"operator {self.fn} in {self.path or 'the network'} is not supported: {why}")

    def names(self, suffix: str) -> Iterator[str]:
        """Names for its layer, the best first."""
        if self.own and not suffix:
            yield self.path
        base = ".".join(part for part in (self.path, suffix or self.op) if part)
        yield base
        number = 0
        while True:
            number += 1
            yield f"{base}_{number}"


@dataclass(frozen=True)
class Value:
    """A tensor of activations: whose output it is, its shape in the source, and whether nobody else reads that output
    up to here. `pad` is what explicit padding put (above, below, left, right) of it."""

    layer: str
    sole: bool
    shape: Shape = ()
    pad: tuple[int, int, int, int] = _NO_PAD


@dataclass(frozen=True)
class Window:
    """Filter, stride, dilation, and the padding above and to the left, each (rows, columns)."""

    filter: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


def grid_of_input(shape: Sequence[int], name: str) -> tuple[int, int, int]:
    """(c, iy, ix) of a network's input of one, two or three sizes, without its batch. Raises InputError."""
    if not 1 <= len(shape) <= 3:
        raise InputError(f"{name}: input shape {tuple(shape)}; one, two or three sizes are needed, without the batch")
    c, *rest = shape
    iy, ix = (1, *rest) if len(rest) == 1 else tuple(rest) or (1, 1)
    return c, iy, ix


def image(shape: Shape, site: Site) -> tuple[int, int, int]:
    """(c, iy, ix) of an image or, with one row, of a sequence."""
    if len(shape) not in (3, 4):
        raise site.unsupported(f"its tensor has {len(shape)} dimensions; 3 or 4 can be read")
    return (shape[-3], shape[-2], shape[-1]) if len(shape) == 4 else (shape[-2], 1, shape[-1])


class Builder:
    """A workload as read so far."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        self.layers: dict[str, Layer] = {}
        self.input_shape = input_shape

    def add(self, site: Site, op: str, inputs: Sequence[Value], fields: dict[str, Any], suffix: str = "") -> Value:
        """Append a layer named after its site."""
        taken = {INPUT, *self.layers}
        name = next(name for name in site.names(suffix) if name not in taken)
        layer = Layer(name, op, tuple(v.layer for v in inputs), **fields)
        self.layers[name] = layer
        return Value(name, sole=True)

    def finish(self, name: str, outputs: Sequence[Value], source: str) -> Workload:
        """The workload of all layers. Raises InputError where they do not fit together."""
        names = tuple(dict.fromkeys(value.layer for value in outputs if value.layer != INPUT))
        if not names:
            raise InputError(f"{name}: its output does not depend on its input through any operator")
        workload = Workload(name, self.input_shape, tuple(self.layers.values()), names, source)
        for _, what in faults(workload):
            raise InputError(f"{name}: its graph cannot be read as layers: {what}")
        for layer in workload:
            largest = max(layer.k, layer.c, layer.oy, layer.ox, layer.iy, layer.ix)
            if largest > MOST_ALONG:
                what = f"has a size of {largest}; at most {MOST_ALONG} can be simulated"
                raise InputError(f"{name}: layer {layer.name} {what}")
        return workload

    # ------------------------------------------------------------------------------------------ shapes

    def shape(self, value: Value) -> tuple[int, int, int]:
        """(k, oy, ox) of a value as its layer put it out, or the network's input."""
        if value.layer == INPUT:
            return self.input_shape
        layer = self.layers[value.layer]
        return layer.k, layer.oy, layer.ox

    def check_whole(self, site: Site, value: Value) -> None:
        """InputError if the source repeats a tensor along a dimension: layers read what there is."""
        if not any(value.pad) and math.prod(value.shape) != math.prod(self.shape(value)):
            raise site.unsupported(f"it takes {value.layer} repeated to {value.shape}")

    def grid(self, shape: Shape, like: Value) -> tuple[int, int, int]:
        """(k, oy, ox) for a result of `shape`: as `like` where the sizes agree, else read off its dimensions."""
        known = self.shape(like)
        if math.prod(shape) == math.prod(known):
            return known
        if len(shape) == 4 and shape[0] == 1:
            return shape[1], shape[2], shape[3]
        dims = [size for size in shape if size > 1] or [1]
        if len(dims) == 2:  # tokens by features or channels by time: tokens where columns or channels stay as they were
            tokens = dims[1] == known[0] or dims[0] == known[1] * known[2]
            return (dims[1], 1, dims[0]) if tokens else (dims[0], 1, dims[1])
        return dims[0], math.prod(dims[1:-1]), dims[-1] if len(dims) > 1 else 1

    # ------------------------------------------------------------------------------------------ windows

    def windowed(self, site: Site, op: str, x: Value, out: Shape, window: Window, more: dict[str, Any]) -> Value:
        """A convolution or pool with a result of shape `out`; a pool of one element each is nothing."""
        if op != "conv" and window == Window((1, 1)) and out == x.shape:
            return x
        (c, iy, ix), (k, oy, ox) = image(x.shape, site), image(out, site)
        above, below, left, right = x.pad
        (fy, fx), (pad_y, pad_x) = window.filter, window.padding
        sizes = {"k": k, "c": c, "oy": oy, "ox": ox, "iy": iy - above - below, "ix": ix - left - right}
        steps = {"stride_y": window.stride[0], "stride_x": window.stride[1]}
        steps |= {"dilation_y": window.dilation[0], "dilation_x": window.dilation[1]}
        pads = {"pad_y": pad_y + above, "pad_x": pad_x + left}
        return self.add(site, op, [x], {**sizes, "fy": fy, "fx": fx, **steps, **pads, **more})

    def transposed(self, site: Site, x: Value, out: Shape, filter_and_stride: tuple[Pair, Pair], more: Any) -> Value:
        """A transposed convolution: for each of the stride's positions a convolution with its share of the taps, whose
        results stand side by side as channels. Where the stride does not divide the filter, zeros are taps too."""
        (c, iy, ix), (k, oy, ox) = image(x.shape, site), image(out, site)
        (fy, fx), (sy, sx) = filter_and_stride
        if oy % sy or ox % sx:
            raise site.unsupported(f"its stride {sy}x{sx} does not divide its result's {oy}x{ox}")
        fy, fx = -(-fy // sy), -(-fx // sx)
        sizes = {"k": k * sy * sx, "c": c, "oy": oy // sy, "ox": ox // sx, "iy": iy, "ix": ix, "fy": fy, "fx": fx}
        return self.add(site, "conv", [x], {**sizes, "pad_y": fy - 1, "pad_x": fx - 1, **more})

    def padded(self, site: Site, x: Value, added: Sequence[int]) -> Value:
        """Explicit padding (above, below, left, right), remembered until a convolution or pool reads it."""
        if min(added) < 0:
            raise site.unsupported(f"padding {tuple(added)} takes away; at least 0 is needed")
        return replace(x, pad=tuple(a + b for a, b in zip(x.pad, added, strict=True)))  # type: ignore[arg-type]

    def adaptive_pool(self, site: Site, op: str, x: Value, out: Shape) -> Value:
        """A pool given by its output size: equal windows side by side, nothing where the size stays."""
        (_, iy, ix), (_, oy, ox) = image(x.shape, site), image(out, site)
        if iy % oy or ix % ox:
            raise site.unsupported(f"{iy}x{ix} to {oy}x{ox} takes unequal windows; give it a multiple")
        if (iy, ix) == (oy, ox):
            return x
        size = iy // oy, ix // ox
        stride = size[0] if oy > 1 else 1, size[1] if ox > 1 else 1
        return self.windowed(site, op, x, out, Window(size, stride), {})

    def reduced(self, site: Site, op: str, x: Value, axes: set[int]) -> Value:
        """A mean or maximum over rows and columns, or over the tokens, is a pool over all of them."""
        shape = x.shape
        kept = [i for i in range(len(shape)) if i not in axes and shape[i] > 1]
        if len(shape) not in (3, 4) or len(kept) > 1 or (len(shape) == 4 and axes != {2, 3} and axes != {1, 2}):
            return self._reduced_block(site, op, x, axes)
        k, iy, ix = self.shape(x)
        k = shape[kept[0]] if kept else 1
        if k * iy * ix != math.prod(shape):
            iy, ix = 1, math.prod(shape) // k
        return self.add(site, op, [x], {"k": k, "c": k, "iy": iy, "ix": ix, "fy": iy, "fx": ix})

    def _reduced_block(self, site: Site, op: str, x: Value, axes: set[int]) -> Value:
        """Over neighbouring dimensions: what stands before them as channels, they as rows, what follows as columns."""
        first, last = min(axes), max(axes)
        if any(x.shape[i] > 1 for i in range(first, last) if i not in axes):
            raise site.unsupported(f"over dimensions {sorted(axes)} of {x.shape}, which are not neighbours")
        k, ix = math.prod(x.shape[:first]), math.prod(x.shape[last + 1 :])
        iy = math.prod(x.shape[first : last + 1])
        return self.add(site, op, [x], {"k": k, "c": k, "ox": ix, "iy": iy, "ix": ix, "fy": iy, "fx": 1})

    def resized(self, site: Site, x: Value, out: Shape, taps: Pair) -> Value:
        """Rows and columns interpolated from `taps` neighbours each way."""
        (c, iy, ix), (k, oy, ox) = image(x.shape, site), image(out, site)
        if (iy, ix) == (oy, ox):
            return x
        if k != c:
            raise site.unsupported(f"it changes the channels, {c} to {k}; rows and columns can be read")
        sizes = {"k": k, "c": c, "oy": oy, "ox": ox, "iy": iy, "ix": ix, "fy": taps[0], "fx": taps[1]}
        return self.add(site, "resize", [x], {**sizes, "fn": site.fn})

    # ------------------------------------------------------------------------------------------ products

    def dense(self, site: Site, x: Value, weight: Shape, out: Shape, bias: bool) -> Value:
        """All of x's vectors times weights of (k, c): a 1x1 convolution on one row."""
        k, c = weight
        rows = math.prod(out) // k
        return self.add(site, "conv", [x], {"k": k, "c": c, "ox": rows, "ix": rows, "bias": bias})

    def matmul(self, site: Site, a: Value, b: Value, out: Shape) -> Value:
        """A product of two activations, batched alike."""
        heads = math.prod(out[:-2])
        if math.prod(a.shape[:-2]) != heads or math.prod(b.shape[:-2]) != heads:
            raise site.unsupported(f"its operands {a.shape} and {b.shape} are broadcast")
        return self.product(site, a, b, a.shape[-2], heads)

    def product(self, site: Site, a: Value, b: Value, rows: int, heads: int, suffix: str = "") -> Value:
        """`heads` products of a's `rows` vectors with b, as one grouped matmul."""
        c = math.prod(self.shape(a)) // rows
        k = math.prod(self.shape(b)) * heads // c
        return self.add(site, "matmul", [a, b], {"k": k, "c": c, "ox": rows, "ix": rows, "groups": heads}, suffix)

    def attention(self, site: Site, q: Value, k: Value, v: Value) -> Value:
        """Scaled dot products: two matmuls with a softmax between."""
        *batch, rows, _ = q.shape
        heads = math.prod(batch)
        if math.prod(k.shape[:-2]) != heads:
            raise site.unsupported("queries and keys differ in heads")
        scores = self.product(site, q, k, rows, heads, "scores")
        width, _, _ = self.shape(scores)
        fields = {"k": width, "c": width, "ox": rows, "ix": rows}
        weights = self.add(site, "softmax", [scores], fields, "softmax")
        return self.product(site, weights, v, rows, heads, "attend")

    # ------------------------------------------------------------------------------------------ folded, pointwise

    def pointwise(self, site: Site, op: str, operands: Sequence[Value], out: Shape) -> Value:
        """An `eltwise`, `norm` or `softmax` over all elements."""
        largest = max(operands, key=lambda v: math.prod(self.shape(v)))
        k, y, x = self.grid(out, largest)
        fields = {"k": k, "c": k, "oy": y, "ox": x, "iy": y, "ix": x}
        return self.add(site, op, operands, fields if op == "softmax" else {**fields, "fn": site.fn})

    def batch_norm(self, site: Site, x: Value, out: Shape) -> Value:
        layer = self._open(x, "conv")
        if layer and len(out) > 1 and out[1] == layer.k:
            self.layers[layer.name] = replace(layer, bias=True)
            return x
        return self.pointwise(site, "norm", [x], out)

    def activation(self, site: Site, x: Value, out: Shape, kind: str) -> Value:
        """`kind` is "relu" or "relu6", which fold, or anything else."""
        layer = self._open(x, "conv", "matmul", "add", "norm")
        if kind in ("relu", "relu6") and layer:
            self.layers[layer.name] = replace(layer, activation=kind)
            return x
        return self.pointwise(site, "eltwise", [x], out)

    def with_constant(self, site: Site, x: Value, constant: Shape, out: Shape) -> Value:
        """A sum, difference, product or quotient of an activation (on the left of a quotient) and a weight."""
        size = math.prod(constant)
        if size == 1 and site.op in ("mul", "div") and math.prod(out) == math.prod(x.shape):
            return x
        if size == 1 and self._unary(x):
            return x
        layer = self._open(x, "conv", "norm")
        if layer and size in (1, layer.k) and max(constant, default=1) == size and math.prod(out) == layer.outputs:
            if site.op in ("add", "sub", "rsub") and layer.op == "conv":
                self.layers[layer.name] = replace(layer, bias=True)
            return x
        return self.pointwise(site, "eltwise", [x], out)

    def binary(self, site: Site, operands: Sequence[Value], out: Shape) -> Value:
        """A sum of equal shapes is an `add`; broadcast, and any other operator of activations: `eltwise`.

        x * f(x), as gates are written out, is one operator on x.
        """
        for gate, gated in (operands, operands[::-1]) if site.op == "mul" and len(operands) == 2 else ():
            layer = self._unary(gate)
            if layer and layer.inputs == (gated.layer,) and gate.shape == gated.shape:
                return gate
        if site.op != "add" or len({v.shape for v in operands}) > 1:
            return self.pointwise(site, "eltwise", operands, out)
        k, y, x = self.grid(out, operands[0])
        return self.add(site, "add", operands, {"k": k, "c": k, "oy": y, "ox": x, "iy": y, "ix": x})

    def concat(self, site: Site, parts: Sequence[Value], out: Shape) -> Value:
        """Concatenation; constant parts (a class token) are no inputs, but are put out with the others."""
        k, oy, ox = self.grid(out, parts[0])
        grids = [self.shape(part) for part in parts]
        read = sum(math.prod(grid) for grid in grids)
        c, iy, ix = (k, oy, ox) if read == k * oy * ox else (grids[0][0], 1, read // grids[0][0])
        return self.add(site, "concat", parts, {"k": k, "c": c, "oy": oy, "ox": ox, "iy": iy, "ix": ix})

    def slice(self, site: Site, x: Value, out: Shape) -> Value:
        """Part of a tensor, or all of it."""
        if math.prod(out) == math.prod(self.shape(x)):
            return x
        (c, iy, ix), (k, oy, ox) = self.shape(x), self.grid(out, x)
        fields = {"k": k, "c": c, "oy": oy, "ox": ox, "iy": iy, "ix": ix, "fn": SLICE}
        return self.add(site, "eltwise", [x], fields, SLICE)

    def _unary(self, x: Value) -> Layer | None:
        """The operator behind a value, if it maps each element of one tensor and nobody else reads it."""
        layer = self._open(x, "eltwise")
        return layer if layer and len(layer.inputs) == 1 and layer.fn != SLICE else None

    def _open(self, x: Value, *ops: str) -> Layer | None:
        """The layer behind a value, if it is one of `ops` that more can still be folded into."""
        layer = self.layers.get(x.layer)
        return layer if layer and x.sole and layer.op in ops and not layer.activation else None
