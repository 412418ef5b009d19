"""A trained network as integers: what quantisers and gates decide, taken out of the module that was trained with them.

The fake-quantised network rounds real numbers to whole steps of a range; here the steps are counted. In double
precision both round the same numbers, but for what `Rescale.bound` allows (some 1e-7 of a step), so their integers are
equal, and outputs are as near as floating point has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosoc.search.spaces.channels import MixedLayer, MixedNet
from cosoc.search.spaces.operators import OperatorLayer
from cosoc.search.training.quant import TINY, integer_weight, per_channel, ternary_weight
from cosoc.search.training.traced import Unweighted, traced, whole
from cosoc.sim.errors import InputError
from cosoc.sim.integers.network import (
    Converted,
    Floats,
    IntegerLayer,
    IntegerNetwork,
    Ints,
    Whole,
    check_known,
    joined_along,
    rescale,
)
from cosoc.sim.integers.real import Real
from cosoc.sim.model.workload import INPUT, SLICE, Layer, Workload


def integers(net: MixedNet, workload: Workload) -> IntegerNetwork:
    """The integers of a network whose gates are fixed. workload: its layers. InputError for a network that has
    operators of which integers are not known, or reads a tensor in two formats."""
    check_known(workload)
    found = traced(net, workload)
    known = _Known(workload, _inherited(workload, found.formats), found.beside)
    layers = {layer.name: _layer(layer, net.layers.get(layer.name), known) for layer in workload}
    first = {name: int((net.layers[name].gates[:, 0] > 0.5).sum()) for name, one in layers.items() if one.alternative}
    return IntegerNetwork(workload, layers, known.formats, first)


def quantised_image(network: IntegerNetwork, x: Tensor) -> Ints:
    """Images [n, c, iy, ix], or vectors [n, c], as integers of the network's input, halves to even, as torch rounds."""
    about = network.tensors[INPUT]
    x = x[:, :, None, None] if x.dim() == 2 else x
    found: Ints = np.clip(np.rint(x.double().numpy() / about.step), about.low, about.high).astype(np.int64)
    return found


def scores(network: IntegerNetwork, made: dict[str, Ints], order: Tensor, rows: bool = False) -> Floats:
    """Outputs [n, k x pixels] as real numbers, in the order of the network that was trained. made: its tensors. rows:
    it gives vectors side by side, whose channels come last."""
    name = network.workload.outputs[0]
    about = network.layers[name]
    assert about.step is not None and about.bias is not None
    flat = made[name].reshape(len(made[name]), len(about.step), -1)
    real: Floats = (flat * about.step[:, None] + about.bias[:, None])[:, order.numpy()]
    return (real.swapaxes(1, 2) if rows else real).reshape(len(flat), -1)


# ------------------------------------------------------------------------------------------------ formats of tensors


def _inherited(workload: Workload, known: dict[str, Whole]) -> dict[str, Whole]:
    """The same of tensors without a quantiser of their own: maxima, parts, and what is put side by side, are quantised
    alike before and after, so what they read has their format, or they have that of what they read."""
    formats = dict(known)
    through = [layer for layer in workload if layer.op in ("max_pool", "concat") or layer.fn == SLICE]
    for layer in reversed(through):
        if layer.name in formats:
            for name in layer.inputs:
                formats.setdefault(name, formats[layer.name])
    for layer in through:
        of = {formats[name] for name in layer.inputs if name in formats}
        if layer.name not in formats and len(of) == 1 and layer.name not in workload.outputs:
            formats[layer.name] = of.pop()
    for layer in workload:
        for name in layer.reads:
            if name not in formats:
                raise InputError(f"{workload.name}: {layer.name} reads {name}, which nothing quantises")
        formats = _rectified(layer, formats)
    return formats


def _rectified(layer: Layer, formats: dict[str, Whole]) -> dict[str, Whole]:
    """With the range of a layer's results cut by its activation."""
    one = formats.get(layer.name)
    if one is None or not layer.activation:
        return formats
    high = min(one.high, round(6 / one.step)) if layer.activation == "relu6" else one.high
    return formats | {layer.name: replace(one, low=max(one.low, 0), high=high)}


# ------------------------------------------------------------------------------------------------------------ layers


@dataclass(frozen=True)
class _Known:
    """What is known of a network's tensors, and of its layers beside weights."""

    workload: Workload
    formats: Mapping[str, Whole]
    beside: Mapping[str, Unweighted]

    def of(self, layer: Layer) -> Unweighted:
        return self.beside.get(layer.name, Unweighted())


def _layer(layer: Layer, mixed: MixedLayer | None, known: _Known) -> IntegerLayer:
    """The integers of a layer, in each of its forms."""
    made, other = known.formats.get(layer.name), layer.alternative
    sums = layer.op not in ("add", "norm", "softmax", "eltwise", "gather") and not layer.activation
    if made is None and (layer.name not in known.workload.outputs or not sums):
        what = "an activation" if layer.activation else layer.op
        raise InputError(f"layer {layer.name}: the network ends with {what}, whose sums have no one scale")
    own = None if mixed is None else integer_weights(mixed, layer)
    about = _form(layer, own, mixed, known, made)
    if made is not None and layer.name in known.workload.outputs:
        about = replace(about, step=np.full(layer.k, made.step), bias=np.zeros(layer.k))
    if other is None:
        return about
    assert isinstance(mixed, OperatorLayer)
    weights = _steps(mixed.other.weight, other, mixed.weight_bits[1])
    return replace(about, alternative=_form(other, weights, mixed.other, known, made))


def _form(
    layer: Layer, weights: tuple[Ints, Floats] | None, mixed: Any, known: _Known, made: Whole | None
) -> IntegerLayer:
    """The integers of one form of a layer. weights: with what one is worth; mixed: the layer that has them, or its
    module; made: what it makes, None where its sums leave as they are."""
    formats, beside = known.formats, known.of(layer)
    if beside.function is not None:
        return _real(layer, beside, formats)
    if beside.table is not None:
        return IntegerLayer(table=beside.steps(formats[layer.name]))
    steps = [formats[name].step for name in layer.inputs]
    magnitudes = [float(max(formats[name].high, -formats[name].low)) for name in layer.inputs]
    taps, out = layer.fy * layer.fx, IntegerLayer(None if weights is None else weights[0])
    bias = getattr(mixed, "geometry", mixed).bias if mixed is not None else None
    offsets = np.zeros(layer.k) if bias is None else bias.detach().double().numpy()
    if layer.op == "conv":
        assert weights is not None
        factors = (steps[0] * weights[1])[None]
        largest = (np.abs(weights[0]).sum((1, 2, 3)) * magnitudes[0])[None]
        converter = mixed.converter if isinstance(mixed, MixedLayer) else None
        if converter is not None and bool(mixed.on_analog().any()):
            block, by, on = mixed.row_blocks()[0], whole(converter, True), mixed.on_analog().numpy() > 0.5
            width = min(block.stop or weights[0].shape[1], weights[0].shape[1])
            into = rescale(factors / by.step, np.zeros(layer.k), largest, by.low, by.high)
            out = replace(out, converted=Converted(width, into, on))
            arrays = -(-weights[0].shape[1] // width)
            factors, largest = np.where(on, by.step, factors), np.where(on, float(by.high * arrays), largest)
    elif layer.op == "matmul":
        factors = np.full((1, layer.k), steps[0] * steps[1] * beside.factor)
        largest = np.full((1, layer.k), magnitudes[0] * magnitudes[1] * (layer.c // layer.groups))
        out = replace(out, keys=beside.keys)
    elif layer.op == "add" or (layer.op == "eltwise" and beside.constant is not None):
        if beside.constant is not None:
            like = beside.quantised or formats[layer.inputs[0]]
            steps, magnitudes = [*steps, like.step], [*magnitudes, float(max(like.high, -like.low))]
            out = replace(out, constant=beside.steps(like))
        factors = np.repeat(np.array(steps)[:, None], layer.k, 1)
        largest = np.repeat(np.array(magnitudes)[:, None], layer.k, 1)
    elif layer.op == "concat" and beside.constant is None:
        first = known.workload.input_shape[0]
        sizes = [first if n == INPUT else known.workload[n].k for n in layer.inputs]
        if joined_along(layer, sizes) == 1:
            factors, largest = np.repeat(steps, sizes)[None], np.repeat(magnitudes, sizes)[None]
        elif len(set(steps)) > 1:
            raise InputError(f"layer {layer.name}: puts columns side by side that are of several formats")
        else:
            factors, largest = np.full((1, layer.k), steps[0]), np.full((1, layer.k), max(magnitudes))
    elif layer.op == "concat":
        like = formats[layer.inputs[0]]
        if like != made:
            raise InputError(f"layer {layer.name}: puts a constant beside a tensor of another format")
        factors, largest = np.full((1, layer.k), steps[0]), np.full((1, layer.k), magnitudes[0])
        out = replace(out, constant=beside.steps(like))
    else:
        mean = layer.op == "avg_pool"
        if mean and ((layer.oy - 1) * layer.stride_y + layer.fy > layer.iy or layer.pad_y or layer.pad_x):
            raise InputError(f"layer {layer.name}: means over windows of several sizes have no one divisor")
        factors = np.full((1, layer.k), steps[0] / (taps if mean else 1))
        largest = np.full((1, layer.k), magnitudes[0] * (taps if mean else 1))
        out = replace(out, from_column=beside.from_column)
    if made is None:
        return replace(out, step=factors[0], bias=offsets)
    return replace(out, rescale=rescale(factors / made.step, offsets / made.step, largest, made.low, made.high))


def _real(layer: Layer, beside: Unweighted, formats: Mapping[str, Whole]) -> IntegerLayer:
    """A function of real numbers between two tensors."""
    assert beside.function is not None
    makes = formats[layer.name]
    about = Real(
        beside.function, formats[layer.inputs[0]].step, makes.step, makes.low, makes.high, beside.heads,
        beside.weight, beside.bias, beside.eps,
    )  # fmt: skip
    return IntegerLayer(real=about)


@torch.no_grad()
def integer_weights(mixed: MixedLayer, layer: Layer) -> tuple[Ints, Floats]:
    """The weights of a layer in the formats of the cores that its gates choose, [k, c/groups, fy, fx], and what one is
    worth in each output channel [k]."""
    weight = mixed.geometry.weight.detach().double()
    if isinstance(mixed, OperatorLayer):  # its channels behind the cut are the other form's
        return _steps(weight, layer, mixed.weight_bits[0])
    whole, scales = np.zeros((layer.k, layer.c // layer.groups, layer.fy, layer.fx), np.int64), np.zeros(layer.k)
    for i, (bits, ternary) in enumerate(zip(mixed.weight_bits, mixed.ternary, strict=True)):
        mine = mixed.gates[:, i].numpy() > 0.5
        if ternary:
            log_scale = mixed.log_scale.detach().double()
            scale = log_scale.exp()
            steps: Any = (ternary_weight(weight, log_scale) / per_channel(scale, weight)).round()
            whole[mine], scales[mine] = steps.numpy().reshape(whole.shape)[mine], scale.numpy()[mine]
        else:
            found, worth = _steps(weight, layer, bits)
            whole[mine], scales[mine] = found[mine], worth[mine]
    return whole, scales


@torch.no_grad()
def _steps(weight: Tensor, layer: Layer, bits: int) -> tuple[Ints, Floats]:
    """Weights as whole steps of so many bits, and what one is worth in each output channel."""
    weight = weight.detach().double()
    scale = weight.flatten(1).abs().amax(1).clamp_min(TINY) / (2 ** (bits - 1) - 1)
    steps = (integer_weight(weight, bits) / per_channel(scale, weight)).round().numpy().astype(np.int64)
    found: Ints = steps.reshape(layer.k, layer.c // layer.groups, layer.fy, layer.fx)
    return found, scale.numpy()


__all__ = ["integer_weights", "integers", "quantised_image", "scores"]
