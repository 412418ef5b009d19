"""Layers out of tensors: what every importer makes of an operator once it knows its kind and its shapes.

What is folded, and how tensors become layers:

- An affine step (batch norm, a bias, a scale a channel) after a convolution or norm that nobody else reads folds into
  it, and so do ReLU and ReLU6, also after a matmul or sum; other activations stay as `eltwise`, since not every core
  has them. A batch norm elsewhere is a `norm`.
- A constant added to a product before a softmax (a mask, a bias by place) is part of the softmax. Of a mask, the same
  for all heads, nothing is stored; every other constant of more than one element is counted (`constants`).
- Multiplying by one number changes the scale that a tensor is quantised with, and nothing else: it vanishes.
- A pointwise operator takes in what follows it with one number (erf(x) + 1), and a product with its operand: x times
  sigmoid(x), or the steps of a GELU, are one `eltwise`.
- Tokens are columns: a product of a tensor [1, t, f] with weights is a 1x1 convolution on one row of t columns. Heads
  of an attention are the groups of a matmul. 1-D convolutions have one row.
- A 3-D convolution has its planes as rows, each plane in one row of all its pixels, and the taps of a plane side by
  side (`plane_window`), and says in `plane` what lies under part of one; pools alike. One whose filter is a plane deep
  has the planes one below another.
- Rows of a table picked by numbers are a `gather`. A recurrent layer is unfolded: the products of its inputs at once,
  those of its state step by step, with the same weights.
- A second operand that is repeated over heads is read once, by the rows of all of them.
- Weights that an earlier layer has had are that layer's (`weights_of`).
- A tensor that comes in, is written to in place or appended to, and is handed out again, is a state.
- An operator that cannot be read is noted, and stands as a pointwise one until all are known.
- Explicit padding folds into the convolution or pool that reads it. Taking part of a tensor is an `eltwise` layer of fn
  "slice".
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cosoc.sim.errors import InputError
from cosoc.sim.files.workload_file import faults
from cosoc.sim.importers.fused import Range
from cosoc.sim.model.units import MOST_ALONG
from cosoc.sim.model.workload import INPUT, SLICE, Layer, Plane, Workload

Key = TypeVar("Key", bound=Hashable)  # what an importer knows a tensor by
Shape = tuple[int, ...]
Pair = tuple[int, int]  # (rows, columns)
_NO_PAD = (0, 0, 0, 0)
MOST_COPIES = 64  # of a tensor that is written out repeatedly


class Unsupported(InputError):
    """An operator that no layer stands for. fn: its own name; path: where it stands; why: what is in the way."""

    def __init__(self, fn: str, path: str, why: str) -> None:
        super().__init__(f"operator {fn} in {path or 'the network'} is not supported: {why}")
        self.fn, self.path, self.why = fn, path, why


@dataclass(frozen=True)
class Input:
    """A tensor that a network takes. name: '' where its place says which; shape: without the batch; dtype: torch's word
    for it (int64), '' that of the network's weights."""

    name: str
    shape: Shape
    dtype: str = ""


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

    def unsupported(self, why: str) -> Unsupported:
        return Unsupported(self.fn, self.path, why)

    def names(self, suffix: str) -> Iterator[str]:
        """Names for its layer, the best first."""
        if self.own and self.path and not suffix:
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
    """(c, iy, ix) of a network's input of one to four sizes, without its batch; of four (channels, planes, rows,
    columns) a plane is a row. Raises InputError."""
    if not 1 <= len(shape) <= 4:
        raise InputError(f"{name}: input shape {tuple(shape)}; one to four sizes are needed, without the batch")
    c, *rest = shape
    if len(rest) == 3:
        return c, rest[0], rest[1] * rest[2]
    iy, ix = (1, *rest) if len(rest) == 1 else tuple(rest) or (1, 1)
    return c, iy, ix


def plane_window(taps: Sequence[int], stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int]) -> Window:
    """The window of a 3-D filter (planes, rows, columns) over planes as rows: taps of a plane are columns side by side.
    Weights, multiplications, inputs and outputs are those of the filter; what lies under part of a plane is the layer's
    `plane` to say."""
    side = max(taps[1] * taps[2] - stride[1] * stride[2], 0) // 2
    return Window((taps[0], taps[1] * taps[2]), (stride[0], stride[1] * stride[2]), (pad[0], side), (dilation[0], 1))


def _plane(inputs: Shape, outputs: Shape, sizes: Mapping[str, Sequence[int]]) -> Plane:
    """A plane of a volume. sizes: filter, stride, padding and dilation along its rows (y) and columns (x)."""
    (iy, ix), (oy, ox) = inputs[-2:], outputs[-2:]
    of_window = {f"{key}{axis}": int(size) for axis, own in sizes.items() for key, size in
                 zip(("f", "stride_", "pad_", "dilation_"), own, strict=True)}  # fmt: skip
    return Plane(iy, ix, oy, ox, **of_window)


def _outputs(size: Pair, window: Window) -> list[Pair]:
    """The fewest and most outputs along rows and columns that a window gives, its end padded or not."""
    out = []
    for i in range(2):
        reach = (window.filter[i] - 1) * window.dilation[i] + 1
        end = max(window.padding[i], reach - 1)
        out.append(tuple((size[i] + window.padding[i] + e - reach) // window.stride[i] + 1 for e in (0, end)))
    return out  # type: ignore[return-value]


def image(shape: Shape, site: Site) -> tuple[int, int, int]:
    """(c, iy, ix) of an image or, with one row, of a sequence."""
    if len(shape) not in (3, 4):
        raise site.unsupported(f"its tensor has {len(shape)} dimensions; 3 or 4 can be read")
    return (shape[-3], shape[-2], shape[-1]) if len(shape) == 4 else (shape[-2], 1, shape[-1])


def handed(made: Mapping[Range, Value], cuts: Mapping[Key, Range], between: Iterable[Key]) -> dict[Key, Value]:
    """What takes parts of a fused product, each with its layer; and what is between, of which nobody reads more than
    that it depends on the input, with the first."""
    readers = Counter(cuts.values())
    values = {cut: replace(made[own], sole=readers[own] == 1) for cut, own in cuts.items()}
    return dict.fromkeys(between, replace(made[min(made)], sole=False)) | values


class Builder:
    """A workload as read so far."""

    def __init__(self, inputs: Mapping[str, tuple[int, int, int]]) -> None:
        """inputs: (c, iy, ix) of each by name, the first of them under INPUT."""
        self.layers: dict[str, Layer] = {}
        self.inputs = dict(inputs)
        self.states: dict[str, tuple[int, int, int]] = {}
        self.standing: dict[str, Unsupported] = {}  # layers in place of what cannot be read
        self.at_loss = 0  # layers that were there when the first operator was lost
        self.owners: dict[Hashable, str] = {}  # the first layer with certain weights
        self.constant_of: dict[str, Hashable] = {}  # what a layer's one constant is, by its name

    def add(self, site: Site, op: str, inputs: Sequence[Value], fields: dict[str, Any], suffix: str = "") -> Value:
        """Append a layer named after its site."""
        taken = {*self.inputs, *self.states, *self.layers}
        name = next(name for name in site.names(suffix) if name not in taken)
        layer = Layer(name, op, tuple(v.layer for v in inputs), **fields)
        self.layers[name] = layer
        return Value(name, sole=True)

    def stand_in(self, site: Site, inputs: Sequence[Value], out: Shape, why: Unsupported) -> Value:
        """A layer in place of an operator that cannot be read, so that what follows can be."""
        k, y, x = self.grid(out, inputs[0]) if inputs and out else (math.prod(out), 1, 1)
        value = self.add(site, "eltwise", inputs, {"k": k, "c": k, "oy": y, "ox": x, "iy": y, "ix": x, "fn": site.fn})
        self.standing[value.layer] = why
        return value

    def finish(
        self, name: str, outputs: Sequence[Value], source: str, cut_at: str = "", lost: Sequence[Unsupported] = ()
    ) -> Workload:
        """The workload of all layers, or of those up to `cut_at`, a layer or a module. lost: operators on which outputs
        depend that are not there. Raises InputError where layers do not fit together, and names all that cannot be
        read."""
        found = [self.layers[value.layer] for value in outputs if value.layer in self.layers]
        ends = dict.fromkeys(layer.name for layer in found if not layer.into or all(one.into for one in found))
        if cut_at:
            ends = {self._cut(name, cut_at): None}
        elif lost:
            self._refuse(name, tuple(self.layers.values()), lost)
        elif not ends:
            raise InputError(f"{name}: its output does not depend on its input through any operator")
        layers = self._needed(ends, keep_states=not cut_at)
        self._refuse(name, layers)
        read = {source for layer in layers for source in (*layer.inputs, layer.into)}
        more = tuple((key, math.prod(grid)) for key, grid in self.inputs.items() if key != INPUT and key in read)
        states = tuple((key, math.prod(grid)) for key, grid in self.states.items() if key in read)
        workload = Workload(name, self.inputs[INPUT], layers, tuple(ends), source, more, states)
        for _, what in faults(workload):
            raise InputError(f"{name}: its graph cannot be read as layers: {what}")
        for layer in workload:
            largest = max(layer.k, layer.c, layer.oy, layer.ox, layer.iy, layer.ix)
            if largest > MOST_ALONG:
                what = f"has a size of {largest}; at most {MOST_ALONG} can be simulated"
                raise InputError(f"{name}: layer {layer.name} {what}")
        return workload

    def _cut(self, name: str, cut_at: str) -> str:
        """The layer that the network is to end with: of a module, its last."""
        if cut_at in self.layers:
            return cut_at
        inside = [layer for layer in self.layers if layer.startswith(f"{cut_at}.")]
        if inside:
            return inside[-1]
        near = difflib.get_close_matches(cut_at, self.layers, 4, 0.3)
        raise InputError(f"{name}: no layer or module {cut_at!r} to cut at; there is {', '.join(near or self.layers)}")

    def _needed(self, ends: Iterable[str], keep_states: bool) -> tuple[Layer, ...]:
        """The layers that some results depend on, and those that write into states."""
        needed = {*ends, *(n for n, layer in self.layers.items() if layer.into and keep_states)}
        for layer in reversed(self.layers.values()):
            if layer.name in needed:
                needed.update((*layer.inputs, *([layer.weights_of] if layer.weights_of else [])))
        return tuple(layer for layer in self.layers.values() if layer.name in needed)

    def _refuse(self, name: str, layers: Sequence[Layer], lost: Sequence[Unsupported] = ()) -> None:
        """One InputError for everything among the layers that cannot be read, with what can be done about it."""
        standing = [i for i, layer in enumerate(layers) if layer.name in self.standing]
        found = [*(self.standing[layers[i].name] for i in standing), *lost]
        if not found:
            return
        kinds: dict[tuple[str, str], list[Unsupported]] = {}
        for one in found:
            kinds.setdefault((one.fn, one.why), []).append(one)
        said = []
        for (fn, why), each in kinds.items():
            times = f" ({len(each)} times)" if len(each) > 1 else ""
            said.append(f"operator {fn} in {each[0].path or 'the network'}{times} is not supported: {why}")
        first = min([*standing, *([self.at_loss] if lost else [])])
        before = [layer.name for layer in layers[:first]]
        cut = f", or end it before with --cut-at {before[-1]}" if before else ""
        raise InputError(f"{name}: {'; '.join(said)}; take a part of the network without it{cut}")

    # ------------------------------------------------------------------------------------------ shapes

    def shape(self, value: Value) -> tuple[int, int, int]:
        """(k, oy, ox) of a value as its layer put it out, or the network's input."""
        known = self.inputs.get(value.layer) or self.states.get(value.layer)
        if known is not None:
            return known
        layer = self.layers[value.layer]
        return self.states[layer.into] if layer.into else (layer.k, layer.oy, layer.ox)

    def whole(self, site: Site, value: Value) -> Value:
        """A value as its source has it: one that is repeated along a dimension is written out."""
        own, asked = math.prod(self.shape(value)), math.prod(value.shape)
        if not value.shape or any(value.pad) or own == asked:
            return value
        times = asked // own
        if times * own != asked or times > MOST_COPIES:
            raise site.unsupported(f"it takes {value.layer} repeated to {value.shape}")
        copies = self.concat(site, [value] * times, value.shape)
        return replace(copies, shape=value.shape)

    def grid(self, shape: Shape, like: Value) -> tuple[int, int, int]:
        """(k, oy, ox) for a result of `shape`: as `like` where the sizes agree, else read off its dimensions."""
        known = self.shape(like)
        if math.prod(shape) == math.prod(known):
            return known
        if len(shape) == 4 and shape[0] == 1:
            return shape[1], shape[2], shape[3]
        if len(shape) == 5 and shape[0] == 1:
            return shape[1], shape[2], shape[3] * shape[4]
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

    def volume(self, site: Site, op: str, x: Value, out: Shape, sizes: Sequence[Sequence[int]], more: Any) -> Value:
        """A 3-D convolution or pool: filter, stride, padding and dilation, each (planes, rows, columns)."""
        taps, stride, padding, dilation = sizes
        (c, *ins), (k, *outs) = x.shape[-4:], out[-4:]
        if any(x.pad):
            raise site.unsupported("it reads a padded tensor; 1-D and 2-D convolutions and pools can")
        if taps[0] == stride[0] == 1:  # one plane deep: planes one below another
            ins, outs = [1, ins[0] * ins[1], ins[2]], [1, outs[0] * outs[1], outs[2]]
            sizes_2d = [(size[1], size[2]) for size in sizes]
            window = Window(*sizes_2d)
        else:
            window = plane_window(taps, stride, padding, dilation)
            ins, outs = [1, ins[0], ins[1] * ins[2]], [1, outs[0], outs[1] * outs[2]]
            if taps[1] * taps[2] * stride[1] * stride[2] > 1:  # else a pixel lies under a pixel
                along = zip(("y", "x"), zip(*(size[1:] for size in sizes), strict=True), strict=True)
                more = {**more, "plane": _plane(x.shape, out, dict(along))}
        (_, iy, ix), (_, oy, ox) = ins, outs
        for found, (least, most) in zip((oy, ox), _outputs((iy, ix), window), strict=True):
            if not least <= found <= most:
                why = f"planes of {x.shape[-2]}x{x.shape[-1]} become {out[-2]}x{out[-1]}"
                raise site.unsupported(f"{why}; a filter of several planes can be read where padding keeps their size")
        if op != "conv" and tuple(taps) == (1, 1, 1) and out == x.shape:
            return x
        return self.windowed(site, op, replace(x, shape=(1, c, iy, ix)), (1, k, oy, ox), window, more)

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

    def owned(self, value: Value, key: Hashable) -> Value:
        """A layer whose weights are those of `key`: an earlier one's if that has as many, else its own."""
        layer = self.layers[value.layer]
        if self.owners.get(key) not in self.layers:
            self.owners[key] = layer.name
        owner = self.owners[key]
        if owner != layer.name and self.layers[owner].weights == layer.weights:
            self.layers[layer.name] = replace(layer, weights_of=owner)
        return value

    def owned_constant(self, value: Value, keys: Sequence[Hashable]) -> Value:
        """A layer whose constants are those of one key, where they are; of several constants nothing is told apart."""
        layer = self.layers.get(value.layer)
        if layer is None or not layer.constants or len(keys) != 1:
            return value
        self.constant_of[layer.name] = keys[0]
        return self.owned(value, keys[0])

    def dense(self, site: Site, x: Value, weight: Shape, out: Shape, bias: bool, suffix: str = "") -> Value:
        """All of x's vectors times weights of (k, c): a 1x1 convolution on one row."""
        k, c = weight
        rows = math.prod(out) // k
        return self.add(site, "conv", [x], {"k": k, "c": c, "ox": rows, "ix": rows, "bias": bias}, suffix)

    def dense_parts(
        self, site: Site, x: Value, weight: Shape, out: Shape, bias: bool, ranges: Sequence[Range]
    ) -> dict[Range, Value]:
        """The same, a layer for each range of channels: the parts of a fused product, or one of all channels."""
        made = {}
        for number, (first, behind) in enumerate(ranges):
            suffix = "" if len(ranges) == 1 else str(number) if site.own else f"{site.op}.{number}"
            size = behind - first
            own = (*out[:-1], size) if len(ranges) > 1 else out
            made[first, behind] = self.dense(site, x, (size, weight[1]), own, bias, suffix)
        return made

    def gather(self, site: Site, numbers: Value, table: Shape, out: Shape) -> Value:
        """Rows of a table [rows, k] at the places that an input says: an embedding."""
        rows, k = table[0], math.prod(table[1:])
        columns = math.prod(out) // k
        return self.add(site, "gather", [numbers], {"k": k, "c": k, "ox": columns, "ix": columns, "rows": rows})

    def matmul(self, site: Site, a: Value, b: Value, out: Shape) -> Value:
        """A product of two activations. One that several heads read stands once, with the rows of all of them."""
        heads, rows = math.prod(out[:-2]), out[-2]
        own = [math.prod(self.shape(v)) // math.prod(v.shape[-2:]) for v in (a, b)]
        if own[0] != heads or not own[1] or heads % own[1]:
            raise site.unsupported(f"its operands {a.shape} and {b.shape} are broadcast")
        return self.product(site, a, b, rows * heads // own[1], own[1])

    def product(self, site: Site, a: Value, b: Value, rows: int, heads: int, suffix: str = "") -> Value:
        """`heads` products of a's `rows` vectors with b, as one grouped matmul."""
        c = math.prod(self.shape(a)) // rows
        k = math.prod(self.shape(b)) * heads // c
        return self.add(site, "matmul", [a, b], {"k": k, "c": c, "ox": rows, "ix": rows, "groups": heads}, suffix)

    def attention(self, site: Site, q: Value, k: Value, v: Value, mask: Value | None = None, bias: int = 0) -> Value:
        """Scaled dot products: two matmuls with a softmax between, and a mask that is computed from the input added
        before it. Keys and values of several queries' heads stand once. bias: elements of a constant added there."""
        *batch, rows, _ = q.shape
        heads = math.prod(batch)
        own = math.prod(self.shape(k)) // math.prod(k.shape[-2:])
        if not own or heads % own:
            raise site.unsupported("queries and keys differ in heads")
        scores = self.product(site, q, k, rows * heads // own, own, "scores")
        width, _, tokens = self.shape(scores)
        fields = {"k": width, "c": width, "ox": tokens, "ix": tokens}
        if mask is not None:
            scores = self.add(site, "eltwise", [scores, mask], {**fields, "fn": site.fn}, "mask")
        of_heads = bias if bias * own > width * tokens else 0  # one for all heads is a mask
        weights = self.add(site, "softmax", [scores], {**fields, "constants": of_heads}, "softmax")
        return self.product(site, weights, v, tokens, own, "attend")

    def einsum(self, site: Site, equation: str, operands: Sequence[Value | Shape], out: Shape) -> Value:
        """A product of two operands, at least one of them an activation: labels of both that stay are heads, those that
        go are summed over. A shape is that of weights."""
        left, arrow, result = equation.replace(" ", "").partition("->")
        terms = left.split(",")
        if "." in equation or not arrow or any(len(set(term)) != len(term) for term in terms):
            raise site.unsupported(f"its equation {equation} has no result, dots or a label twice in an operand")
        if len(operands) == 1 and isinstance(operands[0], Value) and set(terms[0]) == set(result):
            return operands[0]
        if len(operands) != 2:
            raise site.unsupported(f"its equation {equation} has {len(operands)} operands; two can be read")
        size: dict[str, int] = {}
        for term, operand in zip(terms, operands, strict=True):
            size |= zip(term, operand.shape if isinstance(operand, Value) else operand, strict=True)
        first, second = (set(term) for term in terms)
        if (first ^ second) - set(result):
            raise site.unsupported(f"its equation {equation} sums over a label of one operand")
        heads = math.prod(size[label] for label in first & second & set(result))
        a, b = operands
        if not isinstance(a, Value):
            (a, b), (first, second) = (b, a), (second, first)
        rows, width = (math.prod(size[label] for label in own) for own in (first - second, second - first))
        inner = math.prod(size[label] for label in first & second - set(result))
        assert isinstance(a, Value)
        if isinstance(b, Value):
            return self.product(site, a, b, rows, heads)
        fields = {"k": heads * width, "c": heads * inner, "ox": rows, "ix": rows, "groups": heads, "bias": False}
        return self.add(site, "conv", [a], fields)

    def rolled(self, site: Site, x: Value, shifts: Sequence[tuple[int, int]]) -> Value:
        """Shifted round, by (dimension, places): the two parts of each dimension change places."""
        for dim, places in shifts:
            size = x.shape[dim]
            if not places % size:
                continue
            ends = size - places % size, places % size
            shapes = [(*x.shape[:dim], n, *x.shape[dim + 1 :]) for n in ends[::-1]]
            parts = [replace(self.slice(site, x, shape), shape=shape) for shape in shapes]
            x = replace(self.concat(site, parts, x.shape), shape=x.shape)
        return x

    # ------------------------------------------------------------------------------------------ states

    def may_live_on(self, value: Value) -> bool:
        """Whether a value is a further input of the network, as a key-value cache is."""
        return value.layer in self.inputs and value.layer != INPUT

    def appended(self, site: Site, past: Value, new: Value, out: Shape) -> Value:
        """An input that lives on, with a tensor behind it."""
        del self.inputs[past.layer]
        self.states[past.layer] = self.grid(out, new)
        return self.written(site, past.layer, new)

    def written(self, site: Site, state: str, new: Value) -> Value:
        """A state after a tensor was written into a part of it, or all: by the layer that makes it, if it is the only
        reader; else by a copy."""
        layer = self.layers.get(new.layer)
        if layer is None or not new.sole or layer.into or math.prod(new.shape) != layer.outputs:
            k, y, x = self.grid(new.shape, new)
            fields = {"k": k, "c": k, "oy": y, "ox": x, "iy": y, "ix": x, "fn": site.fn}
            new = self.add(site, "eltwise", [new], fields)
            layer = self.layers[new.layer]
        self.layers[layer.name] = replace(layer, into=state)
        return Value(layer.name, sole=False, shape=())

    # ------------------------------------------------------------------------------------------ folded, pointwise

    def pointwise(self, site: Site, op: str, operands: Sequence[Value], out: Shape, constants: int = 0) -> Value:
        """An `eltwise`, `norm` or `softmax` over all elements. A softmax takes in a constant mask or bias that is added
        to a product before it, as fused attention does. constants: elements that it reads beside."""
        keys: list[Hashable] = []
        if op == "softmax" and len(operands) == 1:
            value, constants = self._unmasked(operands[0])
            keys = [self.constant_of[operands[0].layer]] if operands[0].layer in self.constant_of else []
            operands = [value]
        largest = max(operands, key=lambda v: math.prod(self.shape(v)))
        k, y, x = self.grid(out, largest)
        fields = {"k": k, "c": k, "oy": y, "ox": x, "iy": y, "ix": x, "constants": constants}
        made = self.add(site, op, operands, fields if op == "softmax" else {**fields, "fn": site.fn})
        return self.owned_constant(made, keys)

    def batch_norm(self, site: Site, x: Value, out: Shape) -> Value:
        layer = self._open(x, "conv")
        if layer and len(out) > 1 and out[1] == layer.k:
            self.layers[layer.name] = replace(layer, bias=True)
            return x
        return self.pointwise(site, "norm", [x], out, 2 * out[1] if len(out) > 1 else 0)

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
            if layer.op == "norm":
                self.layers[layer.name] = replace(layer, constants=layer.constants + (size if size > 1 else 0))
            elif site.op in ("add", "sub", "rsub"):
                self.layers[layer.name] = replace(layer, bias=True)
            return x
        return self.pointwise(site, "eltwise", [x], out, size if size > 1 else 0)

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
        fields = {"k": k, "c": c, "oy": oy, "ox": ox, "iy": iy, "ix": ix}
        return self.add(site, "concat", parts, {**fields, "constants": k * oy * ox - read})

    def slice(self, site: Site, x: Value, out: Shape) -> Value:
        """Part of a tensor, or all of it."""
        if math.prod(out) == math.prod(self.shape(x)):
            return x
        (c, iy, ix), (k, oy, ox) = self.shape(x), self.grid(out, x)
        fields = {"k": k, "c": c, "oy": oy, "ox": ox, "iy": iy, "ix": ix, "fn": SLICE}
        return self.add(site, "eltwise", [x], fields, SLICE)

    def _unmasked(self, x: Value) -> tuple[Value, int]:
        """What a constant was added to, if that is a product of activations, and the elements of the constant; else the
        value itself. A constant that is the same for all heads is a mask, which says what counts by its place: none."""
        layer = self._unary(x)
        added = layer is not None and layer.fn.lower().rpartition(".")[2] in ("add", "sub")
        source = self.layers.get(layer.inputs[0]) if layer and added else None
        if source is None or source.op != "matmul" or layer is None:
            return x, 0
        del self.layers[x.layer]
        beside = layer.constants if layer.constants * source.groups > source.outputs else 0
        return Value(source.name, sole=False, shape=x.shape), beside

    def _unary(self, x: Value) -> Layer | None:
        """The operator behind a value, if it maps each element of one tensor and nobody else reads it."""
        layer = self._open(x, "eltwise")
        return layer if layer and len(layer.inputs) == 1 and layer.fn != SLICE else None

    def _open(self, x: Value, *ops: str) -> Layer | None:
        """The layer behind a value, if it is one of `ops` that more can still be folded into."""
        layer = self.layers.get(x.layer)
        return layer if layer and x.sole and layer.op in ops and not layer.activation else None
