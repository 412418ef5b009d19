"""What a loss gains when channels go to a narrower format, without training or trying: empirical Fisher.

To second order, a change d of a channel's weights adds d H d / 2 to the loss of a network at its optimum, and the
Hessian H there is the Fisher information, the mean of g g over images, g an image's gradient. So the loss of a channel
on a core is the mean of (g d)^2 / 2, d being the core's quantised weights less the float ones: a pass forward and back
for each image gives it for all channels and all cores at once. Where the bias will be corrected (`post`), the mean
change of the channel's output is no loss, and is left out. Changes of several channels are taken to add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from cosoc.search.exact.shares import Choices, Front, Option, Price, Table, front, table
from cosoc.search.spaces.channels import MixedLayer, MixedNet
from cosoc.search.spaces.shares import Counts
from cosoc.search.training.parts import Split
from cosoc.search.training.post import channel_means, hooked, in_float
from cosoc.search.training.quant import linear_or_conv

Sensitivities = Mapping[str, Tensor]  # by layer that has a choice: loss added by each channel on each core, [k, cores]
Loss = Callable[[Tensor, Tensor], Tensor]  # outputs and targets of a batch -> the mean over its items
Told = Callable[[int, int], None]  # images done, of how many


def sensitivities(net: MixedNet, images: Split, loss: Loss, told: Told = lambda done, total: None) -> Sensitivities:
    """Loss that each channel adds on each core, by the images, one after the other; the network stays as it is."""
    layers = net.searchable()
    changes = {name: changed(layer) for name, layer in layers.items()}
    offsets = _offsets(net, images.x, changes)
    out = {name: torch.zeros(layer.logits.shape, dtype=torch.float64) for name, layer in layers.items()}
    kept = [parameter for layer in layers.values() for parameter in layer.geometry.parameters()]
    net.eval()
    with in_float(net):
        for i in range(len(images)):
            value = loss(net(images.x[i : i + 1]), images.y[i : i + 1])
            gradients = dict(zip(map(id, kept), torch.autograd.grad(value, kept), strict=True))
            for name, layer in layers.items():
                weight, bias = layer.geometry.weight, layer.geometry.bias
                along = torch.einsum("ki,cki->kc", gradients[id(weight)].flatten(1), changes[name])
                if bias is not None:
                    along = along - gradients[id(bias)][:, None] * offsets[name]
                out[name] += along.double().square() / 2
            told(i + 1, len(images))
    return {name: total / len(images) for name, total in out.items()}


@torch.no_grad()
def changed(layer: MixedLayer) -> Tensor:
    """What each core's format changes of each channel's weights: [cores, k, weights of a channel]."""
    weight = layer.geometry.weight
    return torch.stack([(made - weight).flatten(1) for _, made in layer.on_cores()])


@torch.no_grad()
def _offsets(net: MixedNet, images: Tensor, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each change shifts the channel's output by on average, which a bias can take up: [k, cores], by layer.

    A convolution is linear, so its mean over images is that of their mean.
    """
    out: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            assert isinstance(module, MixedLayer)
            mean, geometry = given[0].mean(0, keepdim=True), module.geometry
            shifts = [linear_or_conv(mean, d.reshape(geometry.weight.shape), None, geometry) for d in changes[name]]
            out[name] = torch.stack([channel_means(shift) for shift in shifts], 1)

        return hook

    net.eval()
    with in_float(net), hooked([net.layers[name].register_forward_pre_hook(keep(name)) for name in changes]):
        net(images)
    return out


def added(found: Tensor, cores: tuple[str, ...], option: Option) -> float:
    """The least loss of so many channels on each core: those go to a core that lose least there. found: [k, cores]."""
    used = [i for i, core in enumerate(cores) if option.get(core, 0)]
    if len(used) == 1:
        return float(found[:, used[0]].sum())
    if len(used) == 2:
        more = (found[:, used[1]] - found[:, used[0]]).sort().values  # of going to the second
        return float(found[:, used[0]].sum() + more[: option[cores[used[1]]]].sum())
    slots = [i for i in used for _ in range(option[cores[i]])]
    costs = found[:, slots].numpy()
    return float(costs[linear_sum_assignment(costs)].sum())


def sensitive_front(net: MixedNet, found: Sensitivities, choices: Choices, base: Counts, price: Price) -> Front:
    """The front of costs, each layer's options simulated beside a base, and of losses by sensitivity."""
    costs, sizes = table(choices, base, price), {unit.layers: unit.size for unit in net.units}
    losses = {}
    for layers, options in costs.options.items():
        size, cores = sizes[layers], net.layers[layers[0]].cores
        together = torch.stack([found[name] for name in layers])
        lost = torch.unflatten(together, 1, (-1, size)).sum((0, 2))  # by head, or channel
        losses[layers] = np.array([added(lost, cores, {on: k // size for on, k in one.items()}) for one in options])
    return front(costs, Table(0.0, costs.options, losses))


@torch.no_grad()
def lean(net: MixedNet, found: Sensitivities) -> None:
    """Let each channel lean towards the cores where it loses least: logits are losses, negative."""
    for name, layer in net.searchable().items():
        layer.logits.copy_(-found[name])
