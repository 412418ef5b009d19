"""What network.json says (`cosoc export --format json`): its keys, from which its schema is made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cosoc.sim.model.soc import Model

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


class RescaleFile(Model):
    """What makes sums integers: out = clip((sum of multiplier x sums + offset) >> shift, low, high), by output channel;
    the shift rounds downwards, and half a step is in the offset."""

    multiplier: tuple[tuple[int, ...], ...]  # of each operand of a sum (else of one), and of each output channel
    offset: tuple[int, ...]  # of 64 bits, with the bias in it
    shift: tuple[Count, ...]  # bits that go


class ConvertedFile(Model):
    """Converters that read the columns of an analog array: each `block` of input channels adds up on its own, and
    becomes an integer of the converter; these add up."""

    block: Size  # input channels of each group that an array has rows for
    low: int  # of the converter's integers
    high: int  # of the same
    rescale: RescaleFile  # from an array's sums to the converter's integers
    on: tuple[bool, ...]  # which output channels are read so; the sums of the others are taken as they are


class RealFile(Model):
    """A function of real numbers: out = clip(round(f(x * reads) / step), low, high), halves to even."""

    function: Literal["layer_norm", "softmax", "gelu", "gelu_tanh"]  # of a pixel's channels, those of a head, or one
    reads: float  # what one of the integers is worth that it reads
    heads: Size = 1  # of a softmax, whose channels are those of so many heads side by side
    weight: tuple[float, ...] = ()  # of a norm, by channel
    bias: tuple[float, ...] = ()  # of a norm, by channel
    eps: float = 0.0  # of a norm, added to the variance


class NetworkPartFile(Model):
    """Output channels that are on one core."""

    core: str  # that computes them
    first: Count  # of the layer's output channels
    channels: Size  # side by side
    bits: Size | None = None  # of the weights, where it has some: 2 of three levels
    weights: tuple[int, ...] = ()  # [channels, c/groups, fy, fx], flattened


class FormFile(Model):
    """Output channels of a layer that are computed by one operator, in sizes of its own channels alone."""

    # what it computes: sums of products with weights, or of two tensors; sums and maxima of windows; an eltwise is a
    # GELU, a sum with a constant, or a slice; a concat puts channels side by side, or columns where all have its k
    op: Literal["conv", "add", "max_pool", "avg_pool", "concat", "matmul", "softmax", "norm", "eltwise", "gather"]
    inputs: tuple[str, ...]  # tensors that it reads, by the layers that make them
    first: Count  # of the layer's output channels
    k: Size  # output channels
    c: Size  # input channels
    oy: Size  # output rows
    ox: Size  # output columns
    iy: Size  # input rows
    ix: Size  # input columns
    fy: Size  # filter rows
    fx: Size  # filter columns
    stride_y: Size  # rows between windows
    stride_x: Size  # columns between windows
    pad_y: Count  # rows of zeros above the input
    pad_x: Count  # columns of zeros left of the input
    dilation_y: Size  # rows between taps
    dilation_x: Size  # columns between taps
    groups: Size  # of channels, or heads of a product of two tensors
    reads: tuple[Count, Count] | None = None  # input channels that it takes, first and end; left out: all
    # left out of a last layer whose sums leave as they are, of real numbers, and of rows of a table
    rescale: RescaleFile | None = None
    converted: ConvertedFile | None = None  # of channels on analog arrays that are read by converters
    real: RealFile | None = None  # of norms, softmaxes and GELU, in place of sums and rescale
    # [k, oy, columns], flattened: what an eltwise adds, its second operand; or columns before those of a concatenation
    constant: tuple[int, ...] = ()
    table: tuple[int, ...] = ()  # of a gather: [rows, k], flattened, of which the numbers that it reads pick rows
    from_column: Count | None = None  # of a slice: the input column of its first output column
    # of a product of two tensors: whether the second has [c, k] elements of each head, each key a column; else [k, c]
    keys: bool | None = None
    parts: tuple[NetworkPartFile, ...]  # by core


class MakesFile(Model):
    """What the integers of a tensor are; empty for the one that leaves the network as sums."""

    low: int | None = None  # the least
    high: int | None = None  # the largest
    step: float | None = None  # what one is worth


class NetworkLayerFile(Model):
    """A layer: one form, or two where it was searched by operator."""

    layer: str  # its name, and that of the tensor that it makes
    k: Size  # output channels
    oy: Size  # output rows
    ox: Size  # output columns
    makes: MakesFile  # the integers of its results
    forms: Annotated[tuple[FormFile, ...], Field(min_length=1)]  # in the order of their channels


class InputFile(Model):
    """The image: integers round(x / step) of real numbers x, clipped."""

    tensor: Literal["input"]  # its name
    c: Size  # channels of an image
    iy: Size  # rows of an image
    ix: Size  # columns of an image
    low: int  # the least integer
    high: int  # the largest
    step: float  # what one is worth


class OutputFile(Model):
    """What the network gives: output i is step[k] * sums[k] + bias[k] with k = order[i]."""

    tensor: str  # the layer whose sums they are
    order: tuple[Count, ...]  # where each output is among the layer's channels
    step: tuple[float, ...]  # what one of a channel's sums is worth
    bias: tuple[float, ...]  # of each channel
    rows: bool = False  # the channels of a column side by side, column by column; else the pixels of a channel


class NetworkFile(Model):
    """A trained network as it runs on a chip, in integers; channels stand in the order in which they are computed."""

    cosoc_network: Literal[1]  # the version of this format
    soc: str  # the chip
    workload: str  # the network
    point: str  # the mapping, by its name in result.json
    metric: str  # that accuracies are of
    accuracy: float  # of the test part, as the run measured it
    integer_accuracy: float  # of as many test images by the integers
    images: Size  # that the integers were tried on
    data: str  # that it was trained with
    classes: tuple[str, ...]  # by number
    mean: tuple[float, ...]  # of pixels, by channel, that were taken away before training
    std: tuple[float, ...]  # that they were divided by
    input: InputFile  # what it reads
    output: OutputFile  # what it gives
    layers: tuple[NetworkLayerFile, ...]  # in the order in which they run


__all__ = ["NetworkFile"]
