"""Channels to cores at training time (ODiMO, incompatible data formats).

Every convolution or fully connected layer that several cores can run becomes a `MixedLayer`: one float master weight,
one quantiser a core, one logit per output channel and core. The effective weight is the sum of the quantised ones
weighted by the gates, so a search step costs one convolution a layer. What each layer reads is quantised to the
activation bits of the cores, once per tensor; residual sums themselves are formed before that.

The cost sees how many channels each core has (`MixedNet.shares`); after the search each channel goes to its likeliest
core (`assignment`) and the channels of a core are made contiguous (`make_contiguous`), since a mapping's shares are.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn

from cosoc.search.spaces.heads import Unit, attentions, head_orders, units
from cosoc.search.spaces.products import SIDE_BY_SIDE, spell_out, take_apart
from cosoc.search.training.gates import Estimator, gates_of, one_hot, soft
from cosoc.search.training.quant import (
    ActivationQuantiser,
    Converter,
    integer_weight,
    linear_or_conv,
    per_channel,
    ternary_log_scale,
    ternary_weight,
)
from cosoc.sim.cores.analog_array import AnalogArray
from cosoc.sim.errors import InputError
from cosoc.sim.model.mapping import LayerPlan, Part, Runtime
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.soc import Core, SoC
from cosoc.sim.model.tiles import PER_CHANNEL
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.tiler import default_core, unsupported

Assignment = dict[str, Tensor]  # by layer, the core (number in the layer's `cores`) of each output channel, int64 [k]


class MixedLayer(nn.Module):
    """A convolution or fully connected layer whose output channels are spread over cores.

    logits: [k, cores]. gates: [k, cores], what the forward pass weighs the cores' weights by. decided: how many
    channels each core has, where gates are constant; None where they are not.
    """

    def __init__(self, geometry: nn.Conv2d | nn.Linear, cores: Mapping[str, Core]) -> None:
        super().__init__()
        self.geometry = geometry  # keeps the float master weight and bias
        self.cores = tuple(cores)
        self.weight_bits = tuple(core.weight_bits for core in cores.values())
        self.ternary = tuple(core.ternary for core in cores.values())
        self.analog = tuple(isinstance(core, AnalogArray) for core in cores.values())
        self.array_rows = max((core.rows for core in cores.values() if isinstance(core, AnalogArray)), default=0)
        weight = geometry.weight
        self.logits = nn.Parameter(torch.zeros(weight.shape[0], len(self.cores)), requires_grad=len(self.cores) > 1)
        self.log_scale = nn.Parameter(ternary_log_scale(weight))
        self.converter: Converter | None = None
        self.errors: Tensor | None = None  # [k, ...], of analog cells, in full scales of their columns
        self.gain = 1.0  # of analog column sums
        self.gates: Tensor
        self.register_buffer("gates", soft(self.logits.detach(), 1.0), persistent=False)
        self.decided: tuple[int, ...] | None = None

    def settle(self, chosen: Tensor) -> None:
        """Make the gates a constant one-hot of the cores [k] that are chosen, int64 on the CPU."""
        self.gates = one_hot(chosen, len(self.cores)).to(self.geometry.weight)
        self.decided = tuple(torch.bincount(chosen, minlength=len(self.cores)).tolist())

    def soften(self, estimator: Estimator, temperature: float, generator: torch.Generator) -> None:
        """Make the gates of the next forward pass."""
        self.gates, self.decided = gates_of(self.logits, estimator, temperature, generator), None

    def edges(self) -> Tensor | None:
        """Whole numbers that the forward pass follows from the gates by; None: it needs none."""
        return None

    def tell(self, edges: Sequence[int]) -> None:
        """What `edges` are of the gates as they stand."""

    def decisions(self) -> list[nn.Parameter]:
        """What decides on the cores."""
        return [self.logits]

    def on_cores(self, only: Sequence[int] | None = None) -> Iterator[tuple[int, Tensor]]:
        """The weights [k, ...] in the format of each core, or of some by their numbers, with that number."""
        weight = self.geometry.weight
        for i in range(len(self.cores)) if only is None else only:
            bits, ternary = self.weight_bits[i], self.ternary[i]
            yield i, ternary_weight(weight, self.log_scale) if ternary else integer_weight(weight, bits)

    @torch.no_grad()
    def prefer(self) -> None:
        """Let each channel lean towards the cores that keep its weights best: logits are the energies of what their
        formats lose of it, relative and negative."""
        weight = self.geometry.weight
        for i, kept in self.on_cores():
            lost, whole = ((x.flatten(1) ** 2).sum(1) for x in (weight - kept, weight))
            self.logits[:, i] = -lost / whole.clamp_min(1e-12)

    @torch.no_grad()
    def lean(self, chosen: Tensor, by: float) -> None:
        """Begin a search near an assignment: the logits of its cores [k] are so much larger."""
        self.logits.add_(one_hot(chosen, len(self.cores)).to(self.logits), alpha=by)

    def effective_weight(self) -> Tensor:
        """Sum over cores of gate times quantised weight, [k, ...]; cores without channels are left out."""
        total: Tensor | None = None
        used = None if self.decided is None else [i for i, k in enumerate(self.decided) if k]
        for i, quantised in self.on_cores(used):
            has = self._inexact(quantised) if self.analog[i] else quantised
            part = has * per_channel(self.gates[:, i], has)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _inexact(self, weight: Tensor) -> Tensor:
        """Weights as an analog array has them."""
        if self.errors is not None:
            weight = weight + self.errors * per_channel(self.log_scale.exp(), weight)
        return weight if self.gain == 1.0 else weight * self.gain

    def on_analog(self) -> Tensor:
        """The gate of each channel's analog cores together, [k]."""
        return self.gates[:, list(self.analog)].sum(1)

    def row_blocks(self) -> list[slice]:
        """The input channels of each array full of rows, whose sums are converted on their own."""
        if not self.array_rows:
            return [slice(None)]
        c, *taps = self.geometry.weight.shape[1:]
        step = max(1, self.array_rows // math.prod(taps))
        return [slice(first, min(first + step, c)) for first in range(0, c, step)]

    def column_sums(self, x: Tensor) -> Iterator[Tensor]:
        """What each array full of rows adds up, without the bias."""
        weight, geometry = self.effective_weight(), self.geometry
        for block in self.row_blocks():
            if isinstance(geometry, nn.Linear):
                read = x[..., block]
            else:  # so many of each group, which has arrays of its own
                read = torch.unflatten(x, 1, (geometry.groups, -1))[:, :, block].flatten(1, 2)
            yield linear_or_conv(read, weight[:, block], None, geometry)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.geometry.bias
        # What has no analog channel is computed as without converters, to the bit.
        none = self.decided is not None and not any(k for k, on in zip(self.decided, self.analog, strict=True) if on)
        if self.converter is None or none:
            return linear_or_conv(x, self.effective_weight(), bias, self.geometry)
        shape = (-1,) if isinstance(self.geometry, nn.Linear) else (-1, 1, 1)
        analog = self.on_analog().reshape(shape)
        total = torch.zeros((), dtype=x.dtype, device=x.device) if bias is None else bias.reshape(shape)
        for part in self.column_sums(x):
            total = total + part + analog * (self.converter(part) - part)
        return total


class MixedNet(nn.Module):
    """A network of mixed layers; `layers` by the workload's layer names. units: of those that have a choice, what is
    decided together; None: each layer by itself.

    output_order: [k], where each of the network's output channels lies among what its last layer computes. rows: the
    outputs are rows of vectors, whose channels may come last; they keep their order (see `channel_groups`).
    """

    def __init__(
        self, net: nn.Module, layers: Mapping[str, MixedLayer], outputs: int, rows: bool = False,
        units: Sequence[Unit] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.rows = rows
        self.net = net
        self.layers = dict(layers)  # the modules are the net's; this is an index
        self.units = tuple(Unit((name,)) for name in self.searchable()) if units is None else tuple(units)
        self.output_order: Tensor
        self.register_buffer("output_order", torch.arange(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        if self.rows:
            return out
        order = self.output_order
        each = out.shape[1] // len(order)  # pixels a channel, where the output is a flattened map
        return out.index_select(1, order if each == 1 else _spread(order, each))

    def searchable(self) -> dict[str, MixedLayer]:
        """The layers that have a choice."""
        return {name: layer for name, layer in self.layers.items() if len(layer.cores) > 1}

    def set_gates(self, estimator: Estimator, temperature: float, generator: torch.Generator) -> None:
        """Make the gates of the next forward pass from the logits."""
        layers = list(self.searchable().values())
        for unit in self.units:
            if len(unit.layers) == 1:
                self.layers[unit.layers[0]].soften(estimator, temperature, generator)
                continue
            gates = gates_of(self.leaning(unit), estimator, temperature, generator).repeat_interleave(unit.size, 0)
            for layer in (self.layers[name] for name in unit.layers):
                layer.gates, layer.decided = gates, None
        # What forward passes must know of gates on a device is read there at once, not layer by layer.
        asking = [(layer, edges) for layer in layers if (edges := layer.edges()) is not None]
        if asking:
            for (layer, _), found in zip(asking, torch.stack([edges for _, edges in asking]).tolist(), strict=True):
                layer.tell(found)

    def leaning(self, unit: Unit) -> Tensor:
        """What decides on the cores of a unit, [k / size, cores]: logits, of channels that go together their mean."""
        if unit.size == len(unit.layers) == 1:
            return self.layers[unit.layers[0]].logits
        logits = torch.stack([self.layers[name].logits for name in unit.layers])
        return torch.unflatten(logits, 1, (-1, unit.size)).mean((0, 2))

    def shares(self) -> dict[str, dict[str, Tensor]]:
        """Channels on each core by the current gates, differentiable: {layer: {core: scalar}}."""
        return {
            name: dict(zip(layer.cores, layer.gates.sum(0).unbind(), strict=True))
            for name, layer in self.searchable().items()
        }

    @contextmanager
    def held(self) -> Iterator[None]:
        """The gates afterwards are what they are now, without their gradient, whatever is done to them."""
        held = {name: (layer.gates, layer.decided) for name, layer in self.layers.items()}
        try:
            yield
        finally:
            for name, layer in self.layers.items():
                gates, layer.decided = held[name]
                layer.gates = gates.detach()

    def arch_parameters(self) -> list[nn.Parameter]:
        """What decides in the layers that have a choice."""
        return [parameter for layer in self.searchable().values() for parameter in layer.decisions()]

    def quant_parameters(self) -> list[nn.Parameter]:
        """Ternary scales, and the ranges of activations and converters."""
        scales = [layer.log_scale for layer in self.layers.values() if any(layer.ternary)]
        return [*scales, *(m.log_clip for m in self.modules() if isinstance(m, ActivationQuantiser))]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything else that is trained: weights and biases."""
        others = {id(p) for layer in self.layers.values() for p in (*layer.decisions(), layer.log_scale)}
        others |= {id(p) for p in self.quant_parameters()}
        return [p for p in self.parameters() if id(p) not in others]

    def set_adc(self, bits: int) -> None:
        """Read analog columns through a converter of so many bits (0: off).

        To be called before training: a converter's range is trained, and part of the state.
        """
        for layer in self.layers.values():
            layer.converter = Converter(bits, len(layer.row_blocks())) if bits > 0 and any(layer.analog) else None


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """A copy of the network in evaluation mode with every batch norm folded into the layer before it.

    Raises InputError if the network cannot be traced, or a batch norm follows anything else.
    """
    net = copy.deepcopy(net).eval()
    graph = traced(net)
    modules = dict(net.named_modules())
    for node in graph.nodes:
        bn = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(bn, (nn.BatchNorm1d, nn.BatchNorm2d)):
            continue
        before = node.args[0]
        layer = modules.get(str(before.target)) if before.op == "call_module" else None
        if not isinstance(layer, (nn.Conv2d, nn.Linear)) or len(before.users) > 1:
            raise InputError(f"batch norm {node.target} must be the only reader of a convolution or linear layer")
        if bn.running_mean is None or bn.running_var is None:
            raise InputError(f"batch norm {node.target} keeps no running statistics, so it cannot be folded")
        fold(layer, bn)
        replace_module(net, str(node.target), nn.Identity())
    return net


@torch.no_grad()
def fold(layer: nn.Conv2d | nn.Linear, bn: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Put a batch norm with running statistics into the layer before it."""
    assert bn.running_mean is not None and bn.running_var is not None
    factor = (bn.running_var + bn.eps).rsqrt() * (1 if bn.weight is None else bn.weight)
    bias = layer.bias if layer.bias is not None else torch.zeros_like(bn.running_mean)
    shift = torch.zeros_like(bias) if bn.bias is None else bn.bias
    layer.weight.copy_(layer.weight * factor.reshape(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias = nn.Parameter((bias - bn.running_mean) * factor + shift)


class _Tracer(fx.Tracer):
    """Takes mixed layers and batch norms as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (MixedLayer, nn.BatchNorm1d, nn.BatchNorm2d)) or super().is_leaf_module(
            m, module_qualified_name
        )


def traced(net: nn.Module) -> fx.Graph:
    """The graph of a network's forward pass, arguments that may be left out being left out; InputError where it has
    none."""
    given = inspect.signature(net.forward).parameters.values()
    left_out = {one.name: one.default for one in given if isinstance(one.default, (type(None), bool, int, float, str))}
    try:
        graph = _Tracer().trace(net, left_out)
    except Exception as error:  # fx raises what the traced code raises
        raise InputError(f"{type(net).__name__} cannot be traced, so it cannot be quantised: {error}") from error
    called = {f"{name}_{number}" for number, name in enumerate(left_out, 1)}  # as fx calls them
    for node in [node for node in graph.nodes if node.op == "placeholder" and node.target in called]:
        for check in reversed(_behind(node)):  # that it is what it was traced with
            graph.erase_node(check)
        graph.erase_node(node)
    return graph


def _behind(node: fx.Node) -> list[fx.Node]:
    """What depends on a node, in the graph's order."""
    found = dict.fromkeys([node])
    for later in node.graph.nodes:
        if any(arg in found for arg in later.all_input_nodes):
            found[later] = None
    return list(found)[1:]


def replace_module(net: nn.Module, path: str, module: nn.Module) -> None:
    """Put another module into a module's place."""
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)


def cores_of(layer: Layer, soc: SoC, cores: Sequence[str] = ()) -> list[str]:
    """The cores that a layer's channels can be spread over: of `cores` (by default all but a host without weights of
    its own, which is there for what the others cannot do) those that can run it, or its default core."""
    candidates = tuple(cores) or tuple(
        name for name, core in soc.cores.items() if name != soc.host or core.weight_memory is not None
    )
    return [name for name in candidates if not unsupported(layer, soc, name)] or [default_core(layer, soc)]


def prepare(net: nn.Module, workload: Workload, soc: SoC, cores: Sequence[str] = ()) -> MixedNet:
    """The network with its batch norms folded and every weighted layer quantised, mixed where there is a choice.

    cores: the candidates, in the order in which shares are laid out; see `cores_of`.
    workload: the same network's (its names are the module paths). Raises InputError where the network cannot be read.
    """
    return quantised(fold_batch_norm(net), workload, soc, lambda layer: cores_of(layer, soc, cores))


def quantised(folded: nn.Module, workload: Workload, soc: SoC, able: Callable[[Layer], Sequence[str]]) -> MixedNet:
    """The network with every weighted layer mixed over the cores that `able` names, where it is not a mixed one yet,
    and with quantisers for what they read."""
    take_apart(folded, workload)
    graph = traced(folded)
    modules = dict(folded.named_modules())
    layers: dict[str, MixedLayer] = {}
    for layer in workload:
        if layer.op != "conv":
            continue
        geometry = modules.get(layer.name)
        if isinstance(geometry, MixedLayer):
            layers[layer.name] = geometry
            continue
        if not isinstance(geometry, (nn.Conv2d, nn.Linear)):
            found = "no module" if geometry is None else f"a {type(geometry).__name__}"
            raise InputError(f"layer {layer.name} is {found}; the search knows Conv2d and Linear, each called once")
        if type(geometry).forward not in (nn.Conv2d.forward, nn.Linear.forward):
            kind = f"{type(geometry).__module__}.{type(geometry).__qualname__}"
            raise InputError(f"layer {layer.name} is a {kind}, which computes in a way of its own; torch's are needed")
        if isinstance(geometry, nn.Conv2d) and geometry.padding_mode != "zeros":
            raise InputError(f"layer {layer.name} pads with {geometry.padding_mode}; the search knows zeros")
        layers[layer.name] = MixedLayer(geometry, {name: soc.cores[name] for name in able(layer)})
        replace_module(folded, layer.name, layers[layer.name])
    if not layers:
        raise InputError(f"{workload.name} has no convolution or fully connected layer to search")
    bits = min(soc.cores[name].act_bits for layer in layers.values() for name in layer.cores)
    if bits < 2:
        raise InputError(f"{soc.name} has a core with activations of {bits} bit; the search quantises to 2 and more")
    spell_out(graph)
    _insert_quantisers(folded, graph, bits)
    last = workload[workload.outputs[0]]
    together = units(workload, {name: layer.cores for name, layer in layers.items()})
    return MixedNet(fx.GraphModule(folded, graph), layers, last.k, _is_row(last.oy, last.ox), together)


# Operators by `kind_of`.
SUMS = ("add", "add_", "iadd")
PRODUCTS = ("scaled_scores", "scaled_dot_product_attention", "matmul", "bmm")
HOSTED = ("softmax", "layernorm", "layer_norm", "gelu")  # of real numbers, between tensors in memory
RECTIFIED = ("relu", "relu_", "relu6")
MAXIMA = ("maxpool2d", "max_pool2d")
MEANS = ("avgpool2d", "avg_pool2d", "adaptiveavgpool2d", "adaptive_avg_pool2d", "mean")
PASSING = ("flatten", "view", "reshape", "dropout", "identity")
# Hand a tensor on in another shape, or numbers as integers; whether their channels are still those of the layers, its
# outputs tell.
VIEWS = (*PASSING, "transpose", "permute", "swapaxes", "unflatten", "squeeze", "unsqueeze", "contiguous", "long", "int")
JOINED = ("cat", "concat")
PARTS = ("getitem", "unbind", "chunk", "split")  # of a tensor
# At the end of a network they leave a tensor as it lies in memory; of other layers sums leave.
ENDS = (*SUMS, *HOSTED, *RECTIFIED, *JOINED, "getitem")
_POSITIVE = (*RECTIFIED, "sigmoid", "hardsigmoid", "softmax")
_SIGN_KEEPING = (*MAXIMA, *MEANS, *PASSING, *SUMS)


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """The operator of a node, by the name of its function, method or module, in lower case."""
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__.lower()
    return node.target if node.op == "call_method" else getattr(node.target, "__name__", "")  # type: ignore[return-value]


def _insert_quantisers(net: nn.Module, graph: fx.Graph, bits: int) -> None:
    """Put a quantiser behind every tensor that a mixed layer, a sum, a product, a mean or a function of real numbers
    reads, and behind one of ENDS that leaves the network; one range for the operands of a sum, and for a tensor in all
    of its shapes and parts. Maxima read what is quantised for others."""
    modules = dict(net.named_modules())

    def kind(node: fx.Node) -> str:
        return kind_of(node, modules)

    def signed(node: fx.Node) -> bool:
        if kind(node) in _POSITIVE:
            return False
        return kind(node) not in _SIGN_KEEPING or any(signed(n) for n in node.all_input_nodes)

    def behind(node: fx.Node) -> fx.Node:
        return behind(cast(fx.Node, node.args[0])) if kind(node) == "identity" else node

    def whole_of(node: fx.Node, kinds: Sequence[str]) -> fx.Node:
        """The node whose tensor, or a part of it, comes through nodes of some kinds."""
        source = node.args[0] if kind(node) in kinds and node.args else None
        return whole_of(source, kinds) if isinstance(source, fx.Node) else node

    reads: list[tuple[fx.Node, int, fx.Node]] = []  # reader, its argument, the tensor
    parent: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        operands = [(i, behind(arg)) for i, arg in enumerate(node.args) if isinstance(arg, fx.Node)]
        summed = kind(node) in SUMS and len(operands) > 1
        mixed = node.op == "call_module" and isinstance(modules[str(node.target)], MixedLayer)
        whole = summed or mixed or kind(node) in PRODUCTS
        if whole or (kind(node) in (*MEANS, *HOSTED) and operands):
            operands = operands if whole else operands[:1]
            reads += [(node, i, tensor) for i, tensor in operands]
            for tensors in [[t for _, t in operands]] if summed else [[t] for _, t in operands]:
                _union(parent, tensors)
        elif node.op == "output" and operands and kind(whole_of(operands[0][1], VIEWS)) in ENDS:
            reads.append((node, 0, operands[0][1]))
    lies: dict[fx.Node, fx.Node] = {}
    for tensor in dict.fromkeys(tensor for _, _, tensor in reads):
        # Products side by side are tensors of their own.
        own = kind(whole_of(tensor, (*VIEWS, *PARTS))) == SIDE_BY_SIDE
        _union(parent, [lies.setdefault(whole_of(tensor, VIEWS if own else (*VIEWS, "getitem")), tensor), tensor])
    sign = {tensor: signed(tensor) for _, _, tensor in reads}
    for node in graph.nodes:
        if kind(node) in MAXIMA and isinstance(node.args[0], fx.Node) and behind(node.args[0]) in sign:
            reads.append((node, 0, behind(node.args[0])))
    roots = {tensor: _root(parent, tensor) for tensor in sign}
    names = {root: f"range{i}" for i, root in enumerate(dict.fromkeys(roots.values()))}
    for root, name in names.items():
        net.add_module(name, ActivationQuantiser(bits, uses=list(roots.values()).count(root)))
    for tensor in sign:
        with graph.inserting_after(tensor):
            quantised = graph.call_module(names[roots[tensor]], (tensor, sign[tensor]))
        for reader, i, read in reads:
            if read is tensor:
                reader.update_arg(i, quantised)


def _root(parent: dict[Any, Any], member: Any) -> Any:
    while parent.setdefault(member, member) is not member:
        member = parent[member]
    return member


def _union(parent: dict[Any, Any], members: Sequence[Any]) -> None:
    """Put members into one set; its root is the first's."""
    for member in members[1:]:
        parent[_root(parent, member)] = _root(parent, members[0])


def assignment(net: MixedNet) -> Assignment:
    """The likeliest core of each channel of every weighted layer, of a head's channels together; ties go to the first
    core."""
    out = {name: layer.logits.detach().argmax(1).cpu() for name, layer in net.layers.items()}
    for unit in net.units:
        out |= dict.fromkeys(unit.layers, net.leaning(unit).detach().argmax(1).repeat_interleave(unit.size).cpu())
    return out


def uniform(net: MixedNet, mapping: NetworkMapping) -> Assignment:
    """The assignment of a mapping: the first channels to the first core that it names, and so on."""
    out = {}
    for name, layer in net.layers.items():
        parts = []
        for part in mapping.layers[name].parts:
            if part.core not in layer.cores:
                raise InputError(f"layer {name}: mapping {mapping.name} uses {part.core}, the search has {layer.cores}")
            parts.append(torch.full((part.channels,), layer.cores.index(part.core)))
        out[name] = torch.cat(parts).long()
    return out


def fix(net: MixedNet, chosen: Assignment) -> None:
    """Make the gates a constant one-hot of the assignment, for fine-tuning and evaluation."""
    for name, layer in net.layers.items():
        layer.settle(chosen[name])


def to_mapping(net: MixedNet, chosen: Assignment, runtime: Runtime, name: str) -> NetworkMapping:
    """The mapping of an assignment: each layer's channels counted by core, in the cores' order; no tiles."""
    layers = {}
    for layer_name, layer in net.layers.items():
        counts = torch.bincount(chosen[layer_name], minlength=len(layer.cores)).tolist()
        parts = tuple(Part(core, int(k)) for core, k in zip(layer.cores, counts, strict=True) if k)
        layers[layer_name] = LayerPlan(parts)
    return NetworkMapping(name, runtime, layers)


# ------------------------------------------------------------------------------------------ contiguous shares


def channel_groups(workload: Workload) -> dict[str, str]:
    """For every tensor the name of its group: tensors of a group have their channels in one common order, since sums,
    pools and depthwise convolutions relate channel to channel. The order of INPUT's group is fixed: it holds what is
    concatenated, sliced, normalised, multiplied or otherwise mixed in a way that a permutation would break. Queries and
    keys of an attention have one order, its values and what comes of them another, both with their heads in one order
    (see `heads`)."""
    parent: dict[str, str] = {}
    _union(parent, [INPUT])
    products = dict[str, str]()
    for one in attentions(workload):
        _union(parent, [one.query, one.key])
        _union(parent, [one.value, one.attend])
        products |= {one.scores: INPUT, one.attend: one.value}
    shape = {layer.name: (layer.k, layer.oy, layer.ox) for layer in workload} | {INPUT: workload.input_shape}
    for layer in workload:
        if layer.name in products:
            _union(parent, [products[layer.name], layer.name])
            continue
        tied = [layer.name]
        if layer.op in PER_CHANNEL or layer.depthwise:
            tied += layer.inputs
        one_to_one = all(shape[name][0] == layer.k for name in tied)
        grouped = layer.groups > 1 and not layer.depthwise
        parameters = layer.op == "eltwise" and len(layer.inputs) < 2 and layer.fn not in _PLAIN
        if not one_to_one or grouped or parameters or layer.op in ("concat", "matmul", "softmax", "norm"):
            tied += [*layer.inputs, INPUT]
        # Vectors in a row may be tokens, whose features come last: flattened, they do not lie channel by channel.
        tokens = [n for n in layer.inputs if layer.op == "conv" and layer.c != shape[n][0] and shape[n][1] == 1]
        _union(parent, [INPUT, *tokens])
        _union(parent, tied)
    first, *others = workload.outputs
    # The first output's channels can be put back in order, see MixedNet.output_order.
    _union(parent, [INPUT, *others, *([first] if _is_row(*shape[first][1:]) else [])])
    return {name: _root(parent, name) for name in (INPUT, *(layer.name for layer in workload))}


# Elementwise operators without parameters of their own.
_PLAIN_NAMES = "relu relu6 sigmoid hardsigmoid hardswish silu gelu tanh hardtanh clamp leaky_relu elu"
_PLAIN = tuple(f"aten.{name}" for name in _PLAIN_NAMES.split())


def _is_row(oy: int, ox: int) -> bool:
    """Whether a tensor may be vectors in a row, tokens say, whose channels come last."""
    return oy == 1 and ox > 1


def make_contiguous(
    net: MixedNet, workload: Workload, chosen: Assignment, input_shape: Sequence[int] | None = None
) -> tuple[Assignment, dict[str, Tensor]]:
    """Reorder channels, in place, so that each layer's channels on one core lie side by side, in the cores' order.

    All tensors of a group share one order, and each layer keeps its number of channels on each core, and so its cost.
    If the layers of a group agree, outputs stay what they are. If they do not, some channels must change cores: of all
    common orders the one is taken that loses least, the loss being the differences of the logits summed over the
    channels that change (an assignment problem of channels to places, solved exactly). Returns the new assignment and
    the permutation of each reordered group (old index of each new channel), by its name in `channel_groups`.
    input_shape: of an item as the network takes it, where that is not the workload's (c, iy, ix).

    Raises InputError if the reordered network computes something else, before any re-assignment: its forward pass then
    mixes channels in a way that the workload does not show.
    """
    groups = channel_groups(workload)
    members: dict[str, list[str]] = {}
    for name in net.layers:
        members.setdefault(groups[name], []).append(name)
    orders = {group: _common_order(net, chosen, names) for group, names in members.items() if group != groups[INPUT]}
    for one in attentions(workload):
        products, values = (_losses(net, chosen, members[groups[name]])[0] for name in (one.query, one.value))
        orders[groups[one.query]], orders[groups[one.value]] = head_orders(products, values, one.heads)
    x = _example(workload, input_shape or workload.input_shape)
    before = _probed(net, chosen, x)
    moved = {name: cores[orders[groups[name]]] if groups[name] in orders else cores for name, cores in chosen.items()}
    with torch.no_grad():
        for name, layer in net.layers.items():
            order = orders.get(groups[name])
            if order is not None:
                _permute_outputs(layer, order)
            source = orders.get(groups[workload[name].inputs[0]])
            if source is not None and not workload[name].depthwise:
                _permute_inputs(layer, source)
        last = orders.get(groups[workload.outputs[0]])
        if last is not None:
            net.output_order.copy_(torch.argsort(last)[net.output_order])
    if not torch.allclose(_probed(net, moved, x), before, rtol=1e-9, atol=1e-9 * float(before.abs().max())):
        raise InputError(f"{workload.name} mixes channels in its forward pass; they cannot be put in another order")
    counts = {name: torch.bincount(cores, minlength=len(net.layers[name].cores)) for name, cores in chosen.items()}
    return {name: torch.repeat_interleave(torch.arange(len(n)), n) for name, n in counts.items()}, orders


HAIR = 1e-6  # loss of a change between cores that a layer is indifferent to: never free


def _losses(net: MixedNet, chosen: Assignment, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """[k, k], what is lost by the changes of core that are forced on layers where a channel is put into a place; and
    [k], the places before which some layer goes on to its next core."""
    k = len(chosen[names[0]])
    loss, border = torch.zeros(k, k, dtype=torch.float64), torch.zeros(k, dtype=torch.bool)
    for name in names:
        logits, cores = net.layers[name].logits.detach().double().cpu(), chosen[name]
        change = (logits.gather(1, cores[:, None]) - logits).clamp_min(0) + HAIR
        change.scatter_(1, cores[:, None], 0.0)
        at = cores.sort().values
        loss += change[:, at]
        border[1:] |= at[1:] != at[:-1]
    return loss, border


def _common_order(net: MixedNet, chosen: Assignment, names: Sequence[str]) -> Tensor:
    """The order of a group's channels that loses least by the changes of core that it forces on its layers."""
    if len(names) == 1:  # what lies side by side anyway; an assignment of thousands of channels takes seconds
        return torch.sort(chosen[names[0]], stable=True).indices
    loss, border = _losses(net, chosen, names)
    _, place = linear_sum_assignment(loss.numpy())
    # Channels keep their order among places that are alike.
    alike = border.cumsum(0).numpy()
    return torch.from_numpy(np.lexsort((np.arange(len(loss)), alike[place])))


def _example(workload: Workload, shape: Sequence[int]) -> Tensor:
    """A random item, batch of one: numbers of rows where tables are looked up by the input."""
    rows = [layer.rows for layer in workload if layer.op == "gather" and INPUT in layer.inputs]
    draws = torch.Generator().manual_seed(0)
    return torch.randint(min(rows), (1, *shape), generator=draws) if rows else torch.randn(1, *shape, generator=draws)


def precise(x: Tensor) -> Tensor:
    """Items in double precision; numbers of rows as they are."""
    return x.double() if x.is_floating_point() else x


def _probed(net: MixedNet, chosen: Assignment, x: Tensor) -> Tensor:
    """The outputs for x under an assignment, in double precision, with nothing else of the network changed."""
    dtype, training = next(net.parameters()).dtype, net.training
    with net.held():
        net.double().eval()
        fix(net, chosen)
        with torch.no_grad():
            out: Tensor = net(precise(x))
        net.to(dtype).train(training)
    return out


def _permute_outputs(layer: MixedLayer, order: Tensor) -> None:
    for parameter in (layer.geometry.weight, layer.geometry.bias, layer.logits, layer.log_scale):
        if parameter is not None:
            parameter.copy_(parameter[order].clone())


def _permute_inputs(layer: MixedLayer, order: Tensor) -> None:
    weight = layer.geometry.weight
    weight.copy_(weight[:, _spread(order, weight.shape[1] // len(order))].clone())


def _spread(order: Tensor, each: int) -> Tensor:
    """The order of a flattened map's elements: `each` pixels a channel."""
    return (order[:, None] * each + torch.arange(each, device=order.device)).reshape(-1)
