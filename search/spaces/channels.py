"""Channels to cores at training time (ODiMO, incompatible data formats).

Every convolution or fully connected layer that several cores can run becomes a `MixedLayer`: one float master weight, one
quantiser a core, one logit per output channel and core. The effective weight is the sum of the quantised ones weighted
by the gates, so a search step costs one convolution a layer. What each layer reads is quantised to the activation bits of the
cores, once per tensor; residual sums themselves are formed before that.

The cost sees how many channels each core has (`MixedNet.shares`); after the search each channel goes to its likeliest core
(`assignment`) and the channels of a core are made contiguous (`make_contiguous`), since a mapping's shares are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, fx, nn

from cosoc.search.gates import Estimator, draw, gumbel, one_hot, soft
from cosoc.search.quant import (
    ActivationQuantiser,
    adc,
    integer_weight,
    linear_or_conv,
    ste,
    ternary_log_scale,
    ternary_weight,
)
from cosoc.sim.errors import InputError
from cosoc.sim.mapping import LayerMapping, Runtime, Share
from cosoc.sim.mapping import Mapping as NetworkMapping
from cosoc.sim.soc import Core, SoC
from cosoc.sim.tiler import default_core, unsupported
from cosoc.sim.work import PER_CHANNEL
from cosoc.sim.workload import INPUT, Workload

Assignment = dict[str, Tensor]  # by layer, the core (number in the layer's `cores`) of each output channel, int64 [k]


class MixedLayer(nn.Module):
    """A convolution or fully connected layer whose output channels are spread over cores.

    logits: [k, cores]. gates: [k, cores], what the forward pass weighs the cores' weights by.
    """

    def __init__(self, geometry: nn.Conv2d | nn.Linear, cores: Mapping[str, Core], activation: ActivationQuantiser):
        super().__init__()
        self.geometry = geometry  # keeps the float master weight and bias
        self.cores = tuple(cores)
        self.weight_bits = tuple(core.weight_bits for core in cores.values())
        self.ternary = tuple(core.ternary for core in cores.values())
        self.activation = activation
        weight = geometry.weight
        self.logits = nn.Parameter(torch.zeros(weight.shape[0], len(self.cores)), requires_grad=len(self.cores) > 1)
        self.log_scale = nn.Parameter(ternary_log_scale(weight))
        self.adc_bits, self.adc_noise = 0, 0.0
        self.noise_generator: torch.Generator | None = None
        self.gates = soft(self.logits.detach(), 1.0)

    def effective_weight(self) -> Tensor:
        """Sum over cores of gate times quantised weight, [k, ...]; cores without channels are left out."""
        weight = self.geometry.weight
        total: Tensor | None = None
        for i, (bits, ternary) in enumerate(zip(self.weight_bits, self.ternary, strict=True)):
            gate = self.gates[:, i]
            if not gate.requires_grad and not bool(gate.any()):
                continue
            quantised = ternary_weight(weight, self.log_scale) if ternary else integer_weight(weight, bits)
            part = quantised * gate.reshape(-1, *[1] * (weight.dim() - 1))
            total = part if total is None else total + part
        assert total is not None
        return total

    def forward(self, x: Tensor) -> Tensor:
        out = linear_or_conv(self.activation(x), self.effective_weight(), self.geometry.bias, self.geometry)
        if self.adc_bits and any(self.ternary):
            analog = sum(self.gates[:, i] for i, ternary in enumerate(self.ternary) if ternary)
            share = cast(Tensor, analog).reshape(1, -1, *[1] * (out.dim() - 2))
            out = out + share * (adc(out, self.adc_bits, self.adc_noise, self.noise_generator) - out)
        return out


class MixedNet(nn.Module):
    """A network of mixed layers; `layers` by the workload's layer names.

    output_order: [k], where each of the network's output channels lies among what its last layer computes.
    """

    def __init__(self, net: nn.Module, layers: Mapping[str, MixedLayer], outputs: int) -> None:
        super().__init__()
        self.net = net
        self.layers = dict(layers)  # the modules are the net's; this is an index
        self.output_order: Tensor
        self.register_buffer("output_order", torch.arange(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out.index_select(1, self.output_order)

    def searchable(self) -> dict[str, MixedLayer]:
        """The layers that have a choice."""
        return {name: layer for name, layer in self.layers.items() if len(layer.cores) > 1}

    def set_gates(self, estimator: Estimator, temperature: float, generator: torch.Generator) -> None:
        """Make the gates of the next forward pass from the logits."""
        for layer in self.searchable().values():
            if estimator == "expectation":
                layer.gates = soft(layer.logits, temperature)
            elif estimator == "montecarlo":
                layer.gates = gumbel(layer.logits, temperature, generator)
            else:
                probable = soft(layer.logits, 1.0)  # the score's own gradient is of these probabilities
                hard = one_hot(draw(layer.logits, generator), len(layer.cores)).to(probable.dtype)
                layer.gates = ste(hard, probable)

    def shares(self) -> dict[str, dict[str, Tensor]]:
        """Channels on each core by the current gates, differentiable: {layer: {core: scalar}}."""
        return {
            name: dict(zip(layer.cores, layer.gates.sum(0), strict=True)) for name, layer in self.searchable().items()
        }

    def arch_parameters(self) -> list[nn.Parameter]:
        """The logits of the layers that have a choice."""
        return [layer.logits for layer in self.searchable().values()]

    def quant_parameters(self) -> list[nn.Parameter]:
        """Ternary scales and activation clips."""
        scales = [layer.log_scale for layer in self.layers.values() if any(layer.ternary)]
        clips = {id(layer.activation): layer.activation.log_clip for layer in self.layers.values()}
        return [*scales, *clips.values()]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything else that is trained: weights and biases."""
        others = {id(p) for layer in self.layers.values() for p in (layer.logits, layer.log_scale)}
        others |= {id(layer.activation.log_clip) for layer in self.layers.values()}
        return [p for p in self.parameters() if id(p) not in others]

    def set_adc(self, bits: int, noise: float = 0.0, generator: torch.Generator | None = None) -> None:
        """Read analog columns through a converter of so many bits (0: off), with Gaussian noise in its steps."""
        for layer in self.layers.values():
            layer.adc_bits, layer.adc_noise, layer.noise_generator = bits, noise, generator


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """A copy of the network in evaluation mode with every batch norm folded into the layer before it.

    Raises InputError if the network cannot be traced, or a batch norm follows anything else.
    """
    net = copy.deepcopy(net).eval()
    try:
        graph = fx.symbolic_trace(net).graph
    except Exception as error:  # fx raises what the traced code raises
        raise InputError(f"{type(net).__name__} cannot be traced to fold its batch norms: {error}") from error
    modules = dict(net.named_modules())
    for node in graph.nodes:
        bn = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(bn, (nn.BatchNorm1d, nn.BatchNorm2d)):
            continue
        before = node.args[0]
        layer = modules.get(str(before.target)) if before.op == "call_module" else None
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise InputError(f"batch norm {node.target} does not follow a convolution or fully connected layer")
        assert bn.running_mean is not None
        assert bn.running_var is not None
        factor = bn.weight.detach() / (bn.running_var + bn.eps).sqrt()
        bias = layer.bias.detach() if layer.bias is not None else torch.zeros_like(bn.running_mean)
        layer.weight.data = layer.weight.detach() * factor.reshape(-1, *[1] * (layer.weight.dim() - 1))
        layer.bias = nn.Parameter((bias - bn.running_mean) * factor + bn.bias.detach())
        _replace(net, str(node.target), nn.Identity())
    return net


def _replace(net: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)


def prepare(net: nn.Module, workload: Workload, soc: SoC, cores: Sequence[str] = ()) -> MixedNet:
    """The network with its batch norms folded and every weighted layer quantised, mixed where there is a choice.

    cores: the candidates, in the order in which shares are laid out; by default every core with weights of its own.
    workload: the same network's (its names are the module paths).
    """
    candidates = tuple(cores) or tuple(name for name, core in soc.cores.items() if core.weight_memory is not None)
    bits = min(soc.cores[name].act_bits for name in candidates)
    folded = fold_batch_norm(net)
    activations: dict[str, ActivationQuantiser] = {}
    layers: dict[str, MixedLayer] = {}
    signed = _signed_tensors(workload)
    for layer in workload:
        if layer.op != "conv":
            continue
        geometry = folded.get_submodule(layer.name)
        if not isinstance(geometry, (nn.Conv2d, nn.Linear)):
            raise InputError(f"layer {layer.name} is a {type(geometry).__name__}; the search knows Conv2d and Linear")
        able = [name for name in candidates if not unsupported(layer, soc, name)] or [default_core(layer, soc)]
        source = layer.inputs[0]
        if source not in activations:
            activations[source] = ActivationQuantiser(bits, source in signed)
        mixed = MixedLayer(geometry, {name: soc.cores[name] for name in able}, activations[source])
        layers[layer.name] = mixed
        _replace(folded, layer.name, mixed)
    return MixedNet(folded, layers, workload[workload.outputs[0]].k)


def _signed_tensors(workload: Workload) -> set[str]:
    """Tensors that may be negative: the network's input, and what no ReLU bounds."""
    signed = {INPUT}
    for layer in workload:
        passes_on = layer.op in ("max_pool", "avg_pool", "concat", "add")
        from_signed = bool(signed & set(layer.inputs))
        if not layer.activation.startswith("relu") and (not passes_on or from_signed):
            signed.add(layer.name)
    return signed


def assignment(net: MixedNet) -> Assignment:
    """The likeliest core of each channel of every weighted layer; ties go to the first core."""
    return {name: layer.logits.detach().argmax(1) for name, layer in net.layers.items()}


def uniform(net: MixedNet, mapping: NetworkMapping) -> Assignment:
    """The assignment of a mapping: the first channels to the first core that it names, and so on."""
    out = {}
    for name, layer in net.layers.items():
        parts = []
        for share in mapping.layers[name].shares:
            if share.core not in layer.cores:
                raise InputError(
                    f"layer {name}: mapping {mapping.name} uses {share.core}, the search has {layer.cores}"
                )
            parts.append(torch.full((share.k,), layer.cores.index(share.core)))
        out[name] = torch.cat(parts).long()
    return out


def fix(net: MixedNet, chosen: Assignment) -> None:
    """Make the gates a constant one-hot of the assignment, for fine-tuning and evaluation."""
    for name, layer in net.layers.items():
        layer.gates = one_hot(chosen[name], len(layer.cores)).to(layer.geometry.weight.dtype)


def to_mapping(net: MixedNet, chosen: Assignment, runtime: Runtime, name: str) -> NetworkMapping:
    """The mapping of an assignment: each layer's channels counted by core, in the cores' order; no tiles."""
    layers = {}
    for layer_name, layer in net.layers.items():
        counts = torch.bincount(chosen[layer_name], minlength=len(layer.cores)).tolist()
        shares = tuple(Share(core, int(k)) for core, k in zip(layer.cores, counts, strict=True) if k)
        layers[layer_name] = LayerMapping(shares)
    return NetworkMapping(name, runtime, layers)


# ------------------------------------------------------------------------------------------ contiguous shares


def channel_groups(workload: Workload) -> dict[str, str]:
    """For every tensor the name of its group: tensors of a group have their channels in one common order, since sums,
    pools and depthwise convolutions relate channel to channel. The order of INPUT's group is fixed."""
    parent = {name: name for name in (INPUT, *(layer.name for layer in workload))}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for layer in workload:
        tied = [*layer.inputs, layer.name] if layer.op in PER_CHANNEL or layer.depthwise else []
        if layer.op in ("concat", "matmul", "softmax", "norm") or (layer.groups > 1 and not layer.depthwise):
            tied = [*layer.inputs, layer.name, INPUT]  # channels mix in a way that a permutation would break
        for name in tied[1:]:
            parent[find(name)] = find(tied[0])
    for name in workload.outputs[1:]:  # one output's channels can be put back in order, see MixedNet.output_order
        parent[find(name)] = find(INPUT)
    return {name: find(name) for name in parent}


def make_contiguous(net: MixedNet, workload: Workload, chosen: Assignment) -> tuple[Assignment, dict[str, Tensor]]:
    """Reorder channels, in place, so that each layer's channels on one core lie side by side, in the cores' order.

    All tensors of a group share one order: channels sorted by their preference for the first core, summed over the
    group's layers. Where layers of a group disagree, their counts stay and the channels in between change cores: the
    first n in the common order are the first core's. So counts, and with them the cost, are kept; outputs change only
    by such re-assignments, and are the same where layers agree. Returns the new assignment and the permutation of each group (old index of each new
    channel).
    """
    groups = channel_groups(workload)
    orders: dict[str, Tensor] = {}
    for group in set(groups.values()):
        members = [n for n in net.layers if groups[n] == group and not workload[n].depthwise]
        if members and group != groups[INPUT]:
            orders[group] = torch.sort(_preference(net, chosen, members), stable=True).indices
    out: Assignment = {}
    with torch.no_grad():
        for name, layer in net.layers.items():
            order = orders.get(groups[name])
            if order is not None:
                _permute_outputs(layer, order)
            source = orders.get(groups[workload[name].inputs[0]])
            if source is not None and not workload[name].depthwise:
                _permute_inputs(layer, source)
            counts = torch.bincount(chosen[name], minlength=len(layer.cores))
            out[name] = torch.repeat_interleave(torch.arange(len(layer.cores)), counts)
        last = orders.get(groups[workload.outputs[0]])
        if last is not None:
            net.output_order.copy_(torch.argsort(last)[net.output_order])
    return out, orders


def _preference(net: MixedNet, chosen: Assignment, members: Sequence[str]) -> Tensor:
    """How late each channel of a group belongs in its order: the assigned core, and within it the logits' leaning."""
    total = torch.zeros(len(chosen[members[0]]), dtype=torch.float64)
    for name in members:
        layer = net.layers[name]
        position = torch.arange(len(layer.cores), dtype=torch.float64)
        leaning = torch.softmax(layer.logits.detach().double(), 1) @ position / max(1, len(layer.cores) - 1)
        total += chosen[name].double() + 0.5 * leaning
    return total


def _permute_outputs(layer: MixedLayer, order: Tensor) -> None:
    geometry = layer.geometry
    geometry.weight.copy_(geometry.weight[order].clone())
    if geometry.bias is not None:
        geometry.bias.copy_(geometry.bias[order].clone())
    layer.logits.copy_(layer.logits[order].clone())
    layer.log_scale.copy_(layer.log_scale[order].clone())


def _permute_inputs(layer: MixedLayer, order: Tensor) -> None:
    weight = layer.geometry.weight
    each = weight.shape[1] // len(order)  # pixels a channel, where a flattened map is read
    index = (order[:, None] * each + torch.arange(each)).reshape(-1)
    weight.copy_(weight[:, index].clone())
