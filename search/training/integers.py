"""A trained network as integers: what quantisers and gates decide, taken out of the module that was trained with them.

The fake-quantised network rounds real numbers to whole steps of a range; here the steps are counted. In double
precision both round the same numbers, but for what `Rescale.bound` allows (some 1e-7 of a step), so their integers are
equal, and outputs are as near as floating point has them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from cosoc.search.spaces.channels import MAXIMA, MEANS, PASSING, RECTIFIED, SUMS, MixedLayer, MixedNet, kind_of
from cosoc.search.spaces.operators import OperatorLayer
from cosoc.search.training.quant import TINY, ActivationQuantiser, integer_weight, ternary_weight
from cosoc.sim.errors import InputError
from cosoc.sim.integers.network import Floats, IntegerLayer, IntegerNetwork, Ints, Whole, check_known, rescale
from cosoc.sim.model.workload import INPUT, Layer, Workload

JOINED = ("cat", "concat")


def integers(net: MixedNet, workload: Workload) -> IntegerNetwork:
    """The integers of a network whose gates are fixed. workload: its layers. InputError for a network that has
    operators of which integers are not known, or reads a tensor in two formats."""
    check_known(workload)
    formats = _inherited(workload, _formats(net, workload))
    layers = {layer.name: _layer(layer, net.layers.get(layer.name), workload, formats) for layer in workload}
    first = {name: int((net.layers[name].gates[:, 0] > 0.5).sum()) for name, one in layers.items() if one.alternative}
    return IntegerNetwork(workload, layers, formats, first)


def quantised_image(network: IntegerNetwork, x: Tensor) -> Ints:
    """Images [n, c, iy, ix] as integers of the network's input, halves to even, as torch rounds."""
    about = network.tensors[INPUT]
    found: Ints = np.clip(np.rint(x.double().numpy() / about.step), about.low, about.high).astype(np.int64)
    return found


def scores(network: IntegerNetwork, made: dict[str, Ints], order: Tensor) -> Floats:
    """Outputs [n, k] as real numbers, in the order of the network that was trained. made: its tensors."""
    name = network.workload.outputs[0]
    about = network.layers[name]
    assert about.step is not None and about.bias is not None
    flat = made[name].reshape(len(made[name]), len(about.step), -1)
    real: Floats = flat * about.step[:, None] + about.bias[:, None]
    return real[:, order.numpy()].reshape(len(flat), -1)


# ------------------------------------------------------------------------------------------------ formats of tensors


def _formats(net: MixedNet, workload: Workload) -> dict[str, Whole]:
    """The integers of every tensor that has a quantiser behind it."""
    graph_net = net.net
    assert isinstance(graph_net, fx.GraphModule)
    modules, found = dict(graph_net.named_modules()), dict[str, Whole]()
    names: dict[fx.Node, str] = {}
    taken: set[str] = set()

    def layer_of(ops: tuple[str, ...], inputs: tuple[str, ...]) -> str | None:
        for layer in workload:
            if layer.op in ops and layer.name not in taken and sorted(layer.inputs) == sorted(inputs):
                taken.add(layer.name)
                return layer.name
        return None

    for node in graph_net.graph.nodes:
        kind = kind_of(node, modules)
        read = tuple(names[arg] for arg in node.all_input_nodes)
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if node.op == "placeholder":
            names[node] = INPUT
        elif node.op == "output":
            if read != workload.outputs:
                raise InputError(f"{workload.name}: gives {', '.join(read)}, its layers {', '.join(workload.outputs)}")
        elif isinstance(module, MixedLayer):
            names[node] = str(node.target)
        elif isinstance(module, ActivationQuantiser):
            names[node] = read[0]
            one = _whole(module, bool(node.args[1]))
            if found.setdefault(read[0], one) != one:
                raise InputError(f"{workload.name}: {read[0]} is read in two formats, so it has no one in memory")
        elif kind in SUMS and len(read) > 1:
            names[node] = layer_of(("add",), read) or _unknown(workload, node, kind)
        elif kind in JOINED:
            names[node] = layer_of(("concat",), read) or _unknown(workload, node, kind)
        elif kind in MEANS or kind in MAXIMA:
            names[node] = layer_of(("avg_pool", "max_pool"), read) or read[0]  # of one pixel nothing is left to pool
            _check_pool(module)
        elif kind in (*RECTIFIED, *PASSING) and len(read) == 1:
            names[node] = read[0]
        else:
            _unknown(workload, node, kind)
    return found


def _unknown(workload: Workload, node: fx.Node, kind: str) -> str:
    raise InputError(f"{workload.name}: {node.name} ({kind or node.op}) has no integers that are known")


def _check_pool(module: nn.Module | None) -> None:
    """InputError for means over more or fewer elements than the window has."""
    if isinstance(module, nn.AvgPool2d) and (module.padding not in (0, (0, 0)) or module.ceil_mode):
        raise InputError("an average pool with padding, or of rounded-up size, has means of several divisors")


def _whole(quantiser: ActivationQuantiser, signed: bool) -> Whole:
    top = 2 ** (quantiser.bits - 1) - 1 if signed else 2**quantiser.bits - 1
    return Whole(-top if signed else 0, top, math.exp(float(quantiser.log_clip.detach().double())) / top)


def _inherited(workload: Workload, known: dict[str, Whole]) -> dict[str, Whole]:
    """The same of tensors without a quantiser of their own: maxima, and what is put side by side, are quantised alike
    before and after, so what they read has their format, or they have that of what they read."""
    formats = dict(known)
    through = [layer for layer in workload if layer.op in ("max_pool", "concat")]
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


def _layer(layer: Layer, mixed: MixedLayer | None, workload: Workload, formats: dict[str, Whole]) -> IntegerLayer:
    """The integers of a layer, in each of its forms."""
    made, other = formats.get(layer.name), layer.alternative
    if made is None and (layer.name not in workload.outputs or layer.op == "add" or layer.activation):
        what = "an activation" if layer.activation else layer.op
        raise InputError(f"layer {layer.name}: the network ends with {what}, whose sums have no one scale")
    own = None if mixed is None else integer_weights(mixed, layer)
    about = _form(layer, own, None if mixed is None else mixed.geometry.bias, workload, formats, made)
    if other is None:
        return about
    assert isinstance(mixed, OperatorLayer)
    weights = _steps(mixed.other.weight, other, mixed.weight_bits[1])
    return replace(about, alternative=_form(other, weights, mixed.other.bias, workload, formats, made))


def _form(
    layer: Layer, weights: tuple[Ints, Floats] | None, bias: Tensor | None, workload: Workload,
    formats: dict[str, Whole], made: Whole | None,
) -> IntegerLayer:  # fmt: skip
    """The integers of one form of a layer. weights: with what one is worth; made: what it makes, None where its sums
    leave as they are."""
    steps = [formats[name].step for name in layer.inputs]
    magnitudes = [float(max(formats[name].high, -formats[name].low)) for name in layer.inputs]
    taps = layer.fy * layer.fx
    offsets = np.zeros(layer.k) if bias is None else bias.detach().double().numpy()
    if layer.op == "conv":
        assert weights is not None
        factors = (steps[0] * weights[1])[None]
        largest = (np.abs(weights[0]).sum((1, 2, 3)) * magnitudes[0])[None]
    elif layer.op == "add":
        factors = np.repeat(np.array(steps)[:, None], layer.k, 1)
        largest = np.repeat(np.array(magnitudes)[:, None], layer.k, 1)
    elif layer.op == "concat":
        sizes = [workload.input_shape[0] if n == INPUT else workload[n].k for n in layer.inputs]
        factors, largest = np.repeat(steps, sizes)[None], np.repeat(magnitudes, sizes)[None]
    else:
        mean = layer.op == "avg_pool"
        if mean and ((layer.oy - 1) * layer.stride_y + layer.fy > layer.iy or layer.pad_y or layer.pad_x):
            raise InputError(f"layer {layer.name}: means over windows of several sizes have no one divisor")
        factors = np.full((1, layer.k), steps[0] / (taps if mean else 1))
        largest = np.full((1, layer.k), magnitudes[0] * (taps if mean else 1))
    found = None if weights is None else weights[0]
    if made is None:
        return IntegerLayer(found, step=factors[0], bias=offsets)
    return IntegerLayer(found, rescale(factors / made.step, offsets / made.step, largest, made.low, made.high))


@torch.no_grad()
def integer_weights(mixed: MixedLayer, layer: Layer) -> tuple[Ints, Floats]:
    """The weights of a layer in the formats of the cores that its gates choose, [k, c/groups, fy, fx], and what one is
    worth in each output channel [k]."""
    if mixed.converter is not None:
        raise InputError(f"layer {layer.name}: sums are read through a converter; integers are known of sums alone")
    weight = mixed.geometry.weight.detach().double()
    if isinstance(mixed, OperatorLayer):  # its channels behind the cut are the other form's
        return _steps(weight, layer, mixed.weight_bits[0])
    whole, scales = np.zeros((layer.k, layer.c // layer.groups, layer.fy, layer.fx), np.int64), np.zeros(layer.k)
    for i, (bits, ternary) in enumerate(zip(mixed.weight_bits, mixed.ternary, strict=True)):
        mine = mixed.gates[:, i].numpy() > 0.5
        if ternary:
            log_scale = mixed.log_scale.detach().double()
            scale = log_scale.exp()
            steps: Any = (ternary_weight(weight, log_scale) / _of_each(scale, weight)).round()
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
    steps = (integer_weight(weight, bits) / _of_each(scale, weight)).round().numpy().astype(np.int64)
    found: Ints = steps.reshape(layer.k, layer.c // layer.groups, layer.fy, layer.fx)
    return found, scale.numpy()


def _of_each(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weight.dim() - 1))


__all__ = ["integer_weights", "integers", "quantised_image", "scores"]
