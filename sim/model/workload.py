"""Layers, workloads and tiles: what is to be computed, in shapes and bits, with no hardware in sight.

Dimension names are the field's: k output channels, c input channels, oy ox output rows and columns, iy ix input
rows and columns, fy fx filter rows and columns, n images of a batch (or sequences). A fully connected layer is a conv
with oy = ox = fy = fx = 1. A stream of inferences, each by itself, is the simulator's business (`--inferences`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cosoc.sim.errors import InputError

# What a layer can be. `conv` covers fully connected (1x1 on one pixel), grouped and depthwise convolution;
# `matmul` multiplies two activations (attention); `resize` interpolates rows and columns from fy x fx neighbours;
# `eltwise` is any other pointwise operator, named by `fn`; `gather` picks rows of a table by numbers (an embedding).
OPS = ("conv", "matmul", "add", "max_pool", "avg_pool", "concat", "softmax", "norm", "eltwise", "resize", "gather")

INPUT = "input"  # the name under which layers read the network's input
SLICE = "slice"  # an eltwise layer of this fn hands on part of its input


@dataclass(frozen=True)
class Plane:
    """What a row is made of where it is a plane of a volume: rows and columns of a plane of inputs and of outputs, one
    row behind the other, and the window over them."""

    iy: int
    ix: int
    oy: int
    ox: int
    fy: int = 1
    fx: int = 1
    stride_y: int = 1
    stride_x: int = 1
    pad_y: int = 0
    pad_x: int = 0
    dilation_y: int = 1
    dilation_x: int = 1


@dataclass(frozen=True)
class Layer:
    """One operator, with batch norm and activation folded into it.

    Sizes are elements. `inputs` names the layers (or INPUT) whose outputs it reads, in operator order.
    `pad_y`, `pad_x` are the rows above and columns left of the input (the others follow from iy, ix, oy, ox).

    alternative: another operator that may compute any of the same output channels, on cores that cannot run this one (a
    depthwise convolution in place of a full one, say). Which channels it computes is the mapping's to say, so the
    network is complete only with one; `macs` and `params` are those of this operator alone.

    rows: of the table of a gather, each of k elements; the rows that it picks are its columns. weights_of: an earlier
    layer whose weights it uses too, which are stored once. into: a state of the network that it writes its results
    into, in place; who reads the layer reads all of that state. plane: what its rows are, if they are planes.
    constants: elements that an operator without weights reads beside its inputs, the same for all images: a position
    embedding, a norm's scales and shifts, a class token. They are stored with the weights, a byte each.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    k: int
    c: int
    oy: int = 1
    ox: int = 1
    iy: int = 1
    ix: int = 1
    fy: int = 1
    fx: int = 1
    stride_y: int = 1
    stride_x: int = 1
    pad_y: int = 0
    pad_x: int = 0
    dilation_y: int = 1
    dilation_x: int = 1
    groups: int = 1
    fn: str = ""  # the source operator's own name, for messages ("aten.conv2d", "Sigmoid")
    activation: str = ""  # folded: "", "relu", "relu6", ...
    bias: bool = True
    weight_bits: int | None = None  # as the network has its weights; a core without that format takes its own
    alternative: Layer | None = None
    n: int = 1
    rows: int = 0
    weights_of: str = ""
    into: str = ""
    constants: int = 0
    plane: Plane | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The tensors that it may read, those of its alternative included, each once."""
        other = self.alternative.inputs if self.alternative else ()
        return tuple(dict.fromkeys((*self.inputs, *other)))

    @property
    def depthwise(self) -> bool:
        return self.op == "conv" and self.groups > 1 and self.groups == self.c

    @property
    def strides(self) -> tuple[int, int]:
        """Steps of its windows along rows and columns; along an axis with one output, where none is made, as along the
        other, so that one in one dimension has one stride."""
        if self.stride_y == self.stride_x or (self.oy > 1 and self.ox > 1):
            return self.stride_y, self.stride_x
        one = self.stride_y if self.oy > 1 else self.stride_x if self.ox > 1 else 1
        return one, one

    @property
    def dilations(self) -> tuple[int, int]:
        """Steps between taps along rows and columns; along an axis with one tap, where there is none, as along the
        other, and 1 where neither has any."""
        y, x = (self.dilation_y if self.fy > 1 else 0), (self.dilation_x if self.fx > 1 else 0)
        return y or x or 1, x or y or 1

    @property
    def hands_on(self) -> bool:
        """Whether it only hands elements on, in whatever shape: each output is one input, or a constant put beside."""
        return self.op == "concat" or self.fn == SLICE

    @property
    def by_vectors(self) -> bool:
        """Whether each result needs all channels of its pixel, or of a head of them: a softmax, or a norm of tokens."""
        return self.op == "softmax" or (self.op == "norm" and self.oy == 1)

    @property
    def grouped(self) -> bool:
        """Whether it is a convolution of several groups that are more than a channel each."""
        return self.op == "conv" and self.groups > 1 and not self.depthwise

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the batch; 0 for what multiplies nothing by weights."""
        if self.op not in ("conv", "matmul"):
            return 0
        return self.n * self.k * (self.c // self.groups) * self.fy * self.fx * self.oy * self.ox

    @property
    def weights(self) -> int:
        """Weight elements, without biases; those of a table; constants."""
        if self.op == "gather":
            return self.rows * self.k
        return self.k * (self.c // self.groups) * self.fy * self.fx if self.op == "conv" else self.constants

    @property
    def second(self) -> str:
        """The tensor that it multiplies its input by, in place of weights; '' where none is."""
        return self.inputs[1] if self.op == "matmul" else ""

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self.weights + (self.k if self.op == "conv" and self.bias else 0)

    @property
    def outputs(self) -> int:
        """Output elements of the batch."""
        return self.n * self.k * self.oy * self.ox

    def input_rows(self, oy: Any) -> Any:
        """Input rows under `oy` consecutive output rows, padding included."""
        return (oy - 1) * self.stride_y + (self.fy - 1) * self.dilation_y + 1

    def input_cols(self, ox: Any) -> Any:
        """Input columns under `ox` consecutive output columns, padding included."""
        return (ox - 1) * self.stride_x + (self.fx - 1) * self.dilation_x + 1


@dataclass(frozen=True)
class Workload:
    """A network: layers in an order in which every input precedes its readers.

    `input_shape` is (c, iy, ix); `outputs` names the layers whose results leave the network. received: tensors that
    come from outside beside the input, as (name, elements of an image): further inputs and, where the layers are a part
    of a network (`cuts.section`), what other parts make. states: tensors that live from one inference to the next (a
    key-value cache), as (name, elements of an image): they take memory throughout, and a layer may write `into` one.
    """

    name: str
    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]
    source: str = ""
    received: tuple[tuple[str, int], ...] = ()
    states: tuple[tuple[str, int], ...] = ()

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> Layer:
        try:
            return self._named[name]
        except KeyError:
            raise KeyError(f"workload {self.name} has no layer {name!r}") from None

    @cached_property
    def _named(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def _readers(self) -> dict[str, tuple[str, ...]]:
        out: dict[str, list[str]] = {}
        for layer in self.layers:
            for name in layer.reads:
                out.setdefault(name, []).append(layer.name)
        return {name: tuple(readers) for name, readers in out.items()}

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def params(self) -> int:
        """Weights and biases, those that several layers use once."""
        return sum(layer.params for layer in self.layers if not layer.weights_of)

    @property
    def n(self) -> int:
        """Images of a batch: the same for every layer."""
        return self.layers[0].n if self.layers else 1

    @property
    def inputs(self) -> int:
        """Elements of the input of the batch."""
        c, iy, ix = self.input_shape
        return self.n * c * iy * ix

    @property
    def incoming(self) -> dict[str, int]:
        """Elements of every tensor of the batch that is there before: INPUT, what is received, states."""
        return {INPUT: self.inputs} | {name: self.n * size for name, size in (*self.received, *self.states)}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Elements of the batch that a reader of each tensor finds: of a layer that writes into a state, all of it."""
        known = self.incoming
        return known | {layer.name: known.get(layer.into, layer.outputs) for layer in self.layers}

    def leaves(self, name: str) -> bool:
        """Whether a layer's results must be in memory at the end, whoever reads them: an output, or part of a state."""
        return name in self.outputs or bool(self[name].into)

    def readers(self, name: str) -> tuple[str, ...]:
        """Names of the layers that read the output of `name`."""
        return self._readers.get(name, ())


# What can be counted of one layer, wherever its sizes come from: beyond it sums of 64 bits would end.
_WEIGHTS = {"gather": "rows*k", "conv": "k*c/groups*fy*fx"}  # what makes them up, of the others constants
MOST_ELEMENTS = 1 << 40
MOST_MACS = 1 << 50


def beyond_counting(layer: Layer) -> str:
    """Which product of a layer's sizes is beyond counting, as a message; '' if none is."""
    products = (
        ("n*c*iy*ix", "inputs", layer.n * layer.c * layer.iy * layer.ix, MOST_ELEMENTS),
        ("n*k*oy*ox", "outputs", layer.outputs, MOST_ELEMENTS),
        (_WEIGHTS.get(layer.op, "constants"), "weights", layer.weights, MOST_ELEMENTS),
        ("n*k*oy*ox*c/groups*fy*fx", "multiply-accumulates", layer.macs, MOST_MACS),
    )
    for keys, what, found, most in products:
        if found > most:
            return f"{keys} = {found} {what}; at most 2^{most.bit_length() - 1} can be counted"
    return ""


def batched(workload: Workload, n: int) -> Workload:
    """The same network over a batch of n images (or sequences), which go through each layer together. InputError
    where that is beyond counting."""
    for layer in workload:
        if wrong := beyond_counting(replace(layer, n=n)):
            raise InputError(f"{workload.name}: a batch of {n}: layer {layer.name}: {wrong}")

    def over(layer: Layer) -> Layer:
        return replace(layer, n=n, alternative=over(layer.alternative) if layer.alternative else None)

    return replace(workload, layers=tuple(over(layer) for layer in workload.layers))


def multiplied(workload: Workload, times: int) -> Workload:
    """The same network over so many times the batch that it has: that of its file, or of the input it was read with."""
    return workload if times == 1 else batched(workload, workload.n * times)


@dataclass(frozen=True)
class Tile:
    """A piece of one layer as one core executes it in one job.

    Every size may be an int, an integer array or a tensor: `k` is what a search makes soft. `c` counts the input
    channels that one output channel reads (c/groups for a grouped convolution, 1 for depthwise).
    """

    op: str
    k: Any
    c: Any
    oy: Any
    ox: Any
    fy: int = 1
    fx: int = 1
    stride_y: int = 1
    stride_x: int = 1
    depthwise: bool = False
    groups: int = 1
    dilation_y: int = 1
    dilation_x: int = 1
    operands: int = 1  # inputs of an elementwise operator
    copied: bool = False  # whether its outputs are inputs, as they are
    ox_unroll: int = 0  # most pixels an analog operation computes at once, 0: as many as fit

    @property
    def dilation(self) -> int:
        """The larger of both."""
        return max(self.dilation_y, self.dilation_x)
