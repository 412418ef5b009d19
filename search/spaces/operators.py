"""Operators to engines at training time (ODiMO, specialised units).

A block computes each output channel by one of two operators, each on the core that can run it:

    conv-dw    a full 3x3 convolution, or a depthwise one
    dws-dw     a depthwise and a pointwise convolution, or a depthwise one alone
    conv-dws   a full 3x3 convolution, or a depthwise and a pointwise one

The first so many channels are computed by the first operator, the others by the second: contiguous by construction, so
what is searched is where to cut. `cumulative` gates are those of a distribution over all cuts, channel i being computed
by the first operator with the probability that the cut lies behind it; `point` is a single cut, softened.

Neither operator is computed for channels that are surely the other's, in training too: warm-up draws a cut per block
and step and computes each channel once; the search computes twice only what lies between sure and sure.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from cosoc.search.spaces.channels import MixedLayer, MixedNet, fold, fold_batch_norm, quantised, replace_module, traced
from cosoc.search.spaces.shares import Counts
from cosoc.search.training.gates import Estimator
from cosoc.search.training.parallel import batch_norm
from cosoc.search.training.quant import integer_weight, per_channel, ste
from cosoc.sim.errors import InputError
from cosoc.sim.importers.build import Input, Shape
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.mapping import LayerPlan, Part, Runtime
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import form
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.tiler import default_core, unsupported

Template = Literal["conv-dw", "dws-dw", "conv-dws"]
TEMPLATES: tuple[Template, ...] = get_args(Template)
Cut = Literal["cumulative", "point"]
CUTS: tuple[Cut, ...] = get_args(Cut)

STEP = 16  # channels that a cut moves by when it is repaired: those of a pass of the depthwise engine
SURE = 1e-3  # a gate that is so near to 0 or 1 is taken for it
SOFTEST = 1 / 8  # of the channels: the width of a point cut at temperature 1


# ------------------------------------------------------------------------------------------ float network


class ChoiceBlock(nn.Module):
    """A block in floating point, with batch norms of its own behind either operator.

    stem: the depthwise convolution that comes before a pointwise one, with batch norm and activation, read by the
    pointwise operator. first: how many channels the first operator computes; plain data, set from outside.
    """

    def __init__(self, template: Template, conv: nn.Conv2d, other: nn.Conv2d, stem: nn.Conv2d | None) -> None:
        super().__init__()
        self.template = template
        self.channels = conv.out_channels
        self.first = self.channels // 2
        self.dw, self.dw_bn = stem, None if stem is None else nn.BatchNorm2d(stem.out_channels)
        self.conv, self.conv_bn = conv, nn.BatchNorm2d(self.channels)
        self.other, self.other_bn = other, nn.BatchNorm2d(self.channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        n, k = self.channels, self.first
        mid = x
        if self.dw is not None and self.dw_bn is not None and k != (n if self.template == "conv-dws" else 0):
            mid = self.act(self.dw_bn(self.dw(x)))
        parts = []
        if k:
            parts.append(_branch(self.conv, self.conv_bn, mid if self.template == "dws-dw" else x, 0, k))
        if k < n:
            parts.append(_branch(self.other, self.other_bn, mid if self.template == "conv-dws" else x, k, n))
        out: Tensor = self.act(torch.cat(parts, 1))
        return out

    def first_alone(self) -> nn.Module:
        """The block with all channels computed by the first operator, for export."""
        named: list[tuple[str, nn.Module]] = [("conv", self.conv), ("conv_bn", self.conv_bn), ("act", self.act)]
        if self.template == "dws-dw" and self.dw is not None and self.dw_bn is not None:
            named = [("dw", self.dw), ("dw_bn", self.dw_bn), ("dw_act", nn.ReLU()), *named]
        return nn.Sequential(OrderedDict(named))


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: nn.Conv2d, low: int, high: int) -> Tensor:
    """The output channels [low, high) of a convolution; those of a depthwise one read theirs of the input alone."""
    own = geometry.groups > 1
    padding: Any = geometry.padding
    return functional.conv2d(
        x[:, low:high] if own and high - low < x.shape[1] else x,
        weight,
        bias,
        geometry.stride,
        padding,
        geometry.dilation,
        high - low if own else 1,
    )


def _branch(conv: nn.Conv2d, bn: nn.BatchNorm2d, x: Tensor, low: int, high: int) -> Tensor:
    """Channels [low, high) of a convolution and its batch norm, whose other statistics stay as they are."""
    y = _convolved(x, conv.weight[low:high], None, conv, low, high)
    assert bn.running_mean is not None and bn.running_var is not None and bn.momentum is not None
    mean, var = bn.running_mean[low:high], bn.running_var[low:high]
    return batch_norm(y, mean, var, bn.weight[low:high], bn.bias[low:high], bn.training, bn.momentum, bn.eps)


@dataclass(frozen=True)
class Found:
    """A place in a network for a choice. path: where it will stand; nodes: what it takes the place of, in order; conv:
    the last convolution; stem: the depthwise one before it, if any."""

    path: str
    nodes: tuple[fx.Node, ...]
    conv: nn.Conv2d
    stem: nn.Conv2d | None


def _chain(node: fx.Node, modules: Mapping[str, nn.Module]) -> list[fx.Node]:
    """A convolution with the batch norm and ReLU behind it, where nobody else reads what is between them."""
    out = [node]
    for kind in (nn.BatchNorm2d, (nn.ReLU, nn.ReLU6)):
        users = list(out[-1].users)
        if len(users) != 1 or users[0].op != "call_module":
            break
        if not isinstance(modules.get(str(users[0].target)), kind):
            break
        out.append(users[0])
    return out


def _pointwise_of(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.groups == 1 and conv.stride == (1, 1)


def _window_of(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (3, 3) and conv.groups == 1


def find_blocks(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> list[Found]:
    """3x3 convolutions, and depthwise ones of any window followed by pointwise ones, each with batch norm and ReLU."""
    out, taken = list[Found](), set[fx.Node]()
    for node in graph.nodes:
        conv = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or node in taken:
            continue
        chain = _chain(node, modules)
        if len(chain) < 3:
            continue
        if _window_of(conv):
            out.append(Found(f"{node.target}", tuple(chain), conv, None))
            taken.update(chain)
        elif conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1:
            users = list(chain[-1].users)
            after = modules.get(str(users[0].target)) if len(users) == 1 and users[0].op == "call_module" else None
            if isinstance(after, nn.Conv2d) and _pointwise_of(after):
                rest = _chain(users[0], modules)
                if len(rest) == 3:
                    out.append(Found(_common_path(node, users[0]), (*chain, *rest), after, conv))
                    taken.update((*chain, *rest))
    return out


def _common_path(depthwise: fx.Node, pointwise: fx.Node) -> str:
    """A path for the block of two modules: in the module that holds both, if there is one."""
    shared = []
    for a, b in zip(str(depthwise.target).split("."), str(pointwise.target).split("."), strict=False):
        if a != b:
            break
        shared.append(a)
    return ".".join([*shared, "choice"]) if shared else f"{pointwise.target}_choice"


def _new_block(found: Found, template: Template) -> ChoiceBlock | str:
    """The block for a place, or why there is none."""
    c = found.stem.in_channels if found.stem is not None else found.conv.in_channels
    n = found.conv.out_channels
    geometry = found.stem or found.conv
    if template != "conv-dws" and c != n:
        return f"has {c} channels in and {n} out; a depthwise convolution keeps their number"
    if c == 1:
        return "reads one channel, of which no depthwise convolution can be made"
    stride: Any = geometry.stride
    padding: Any = geometry.padding
    window: Any = geometry.kernel_size
    dilation: Any = geometry.dilation

    def windowed(outputs: int, groups: int) -> nn.Conv2d:
        return nn.Conv2d(c, outputs, window, stride, padding, dilation, groups, bias=False)

    point = nn.Conv2d(c, n, 1, bias=False)
    if template == "conv-dw":
        return ChoiceBlock(template, windowed(n, 1), windowed(n, n), None)
    if template == "dws-dw":
        return ChoiceBlock(template, point, windowed(n, n), windowed(c, c))
    return ChoiceBlock(template, windowed(n, 1), point, windowed(c, c))


@dataclass(frozen=True)
class Supernet:
    """net: with a ChoiceBlock wherever the machine can serve one; blocks: their paths, by the name of the layer that
    has the choice. workload: the same, each choice a layer with an alternative. pairs: the cores of either operator,
    by layer. refused: places that keep their operator, and why."""

    net: nn.Module
    workload: Workload
    blocks: Mapping[str, str]
    pairs: Mapping[str, tuple[str, str]]
    refused: Mapping[str, str]

    def choices(self) -> dict[str, ChoiceBlock]:
        """The blocks, by the name of the layer that has the choice."""
        found = {name: self.net.get_submodule(path) for name, path in self.blocks.items()}
        return {name: block for name, block in found.items() if isinstance(block, ChoiceBlock)}

    def split(self, counts: Mapping[str, int]) -> None:
        """Let the first operator compute so many channels of each block that is named."""
        blocks = self.choices()
        for name, k in counts.items():
            blocks[name].first = k

    def draw(self, generator: torch.Generator) -> None:
        """Random cuts, each from none to all channels."""
        for block in self.choices().values():
            cuts = cut_steps(block.channels)  # few shapes: what a library prepares for one is used again
            block.first = cuts[int(torch.randint(len(cuts), (1,), generator=generator))]


def with_choices(
    net: nn.Module, inputs: Shape | Sequence[Input], soc: SoC, template: Template, name: str = "network"
) -> Supernet:
    """A network with choices in place of its blocks; weights that are new are drawn from torch's default generator.

    net: in floating point, with batch norms; inputs: as of `from_module`. Raises InputError where no block is served,
    with the reason for each.
    """
    net = copy.deepcopy(net)
    graph = traced(net)
    modules = dict(net.named_modules())
    places = find_blocks(graph, modules)
    refused: dict[str, str] = {}
    # What a machine cannot serve is known from the layers, so all places become blocks first, and some are taken back.
    for _ in range(2):
        blocks: dict[str, ChoiceBlock] = {}
        for place in places:
            made = refused.get(place.path) or _new_block(place, template)
            if isinstance(made, str):
                refused[place.path] = made
            else:
                blocks[place.path] = made
        whole = _rewritten(net, places, blocks)
        workload = _workload(whole, blocks, inputs, name)
        pairs = {path: _pair(workload[f"{path}.conv"], soc) for path in blocks}
        unserved = {path: pair for path, pair in pairs.items() if isinstance(pair, str)}
        if not unserved:
            break
        refused |= unserved
    if not blocks:
        why = "; ".join(f"{path} {reason}" for path, reason in refused.items()) or "it has no 3x3 or separable block"
        raise InputError(f"{name}: nothing to choose for template {template} on {soc.name}: {why}")
    named = {f"{path}.conv": path for path in blocks}
    cores = {f"{path}.conv": pair for path, pair in pairs.items() if not isinstance(pair, str)}
    return Supernet(whole, workload, named, cores, refused)


def _rewritten(net: nn.Module, places: Sequence[Found], blocks: Mapping[str, ChoiceBlock]) -> fx.GraphModule:
    """The network with blocks in their places."""
    whole = fx.GraphModule(copy.deepcopy(net), traced(net))
    by_name = {node.name: node for node in whole.graph.nodes}
    for place in places:
        if place.path not in blocks:
            continue
        nodes = [by_name[node.name] for node in place.nodes]
        whole.add_submodule(f"{place.path}__new", blocks[place.path])
        with whole.graph.inserting_before(nodes[0]):
            new = whole.graph.call_module(f"{place.path}__new", (nodes[0].args[0],))
        nodes[-1].replace_all_uses_with(new)
        for node in reversed(nodes):
            whole.graph.erase_node(node)
    whole.delete_all_unused_submodules()
    for node in whole.graph.nodes:
        path = str(node.target).removesuffix("__new")
        if node.op == "call_module" and path in blocks:
            whole.delete_submodule(str(node.target))
            whole.add_submodule(path, blocks[path])
            node.target = path
    whole.recompile()
    return whole


def _workload(
    net: fx.GraphModule, blocks: Mapping[str, ChoiceBlock], inputs: Shape | Sequence[Input], name: str
) -> Workload:
    plain = copy.deepcopy(net)
    for path, block in blocks.items():
        replace_module(plain, path, block.first_alone())
    layers: list[Layer] = []
    exported = from_module(plain.eval(), inputs, name)
    for layer in exported:
        chooses = blocks.get(layer.name.removesuffix(".conv"))
        layers += [layer] if chooses is None else _alternatives(layer, chooses, exported)
    return replace(exported, layers=tuple(layers))


def _alternatives(layer: Layer, block: ChoiceBlock, exported: Workload) -> list[Layer]:
    """The layer of a block's first operator with the second as its alternative, behind what that reads."""
    path = layer.name.removesuffix(".conv")
    if block.template == "conv-dws":
        stem = replace(layer, name=f"{path}.dw", k=layer.c, groups=layer.c)
        point = replace(
            layer, name=f"{path}.other", inputs=(stem.name,), iy=layer.oy, ix=layer.ox, fy=1, fx=1,
            stride_y=1, stride_x=1, pad_y=0, pad_x=0, dilation_y=1, dilation_x=1,
        )  # fmt: skip
        return [stem, replace(layer, alternative=point)]
    window = exported[f"{path}.dw"] if block.template == "dws-dw" else layer
    return [replace(layer, alternative=replace(window, name=f"{path}.other", k=layer.k, groups=layer.k))]


def _pair(layer: Layer, soc: SoC) -> tuple[str, str] | str:
    """The cores of a layer's two operators, or why there are none: the second must compute the alternative."""
    other = layer.alternative
    assert other is not None
    try:
        default_core(replace(layer, alternative=None), soc)
    except InputError as error:
        return str(error)
    first = default_core(layer, soc)
    if form(layer, soc.cores[first]) is other:
        return f"has no core of its own for {layer.name}: {first} takes alternatives"
    able = [name for name, core in soc.cores.items() if core.weight_memory is not None]
    fit = [name for name in able if not unsupported(other, soc, name)]
    apart = [name for name in fit if form(layer, soc.cores[name]) is other]
    if not apart:
        reasons = "; ".join(f"{name} {', '.join(unsupported(other, soc, name))}" for name in able if name not in fit)
        return f"has no core of its own for {other.name}" + (f": {reasons}" if reasons else "")
    return first, apart[0]


# ------------------------------------------------------------------------------------------ search network


def _rows(x: Tensor, low: int, high: int) -> Tensor:
    """x[low:high], without the pass that a gradient would take through a slice of all."""
    return x if (low, high) == (0, len(x)) else x[low:high]


def _filters(conv: nn.Conv2d, bits: int, gate: Tensor | None, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Quantised filters [n, c, fy, fx] and biases [n] of the channels [low, high), weighed by their gates [n]. What a
    convolution gives is linear in both, so to weigh them is to weigh it, at a pass over filters in place of several
    over images."""
    assert conv.bias is not None
    weight, bias = integer_weight(_rows(conv.weight, low, high), bits), _rows(conv.bias, low, high)
    return (weight, bias) if gate is None else (weight * per_channel(gate, weight), bias * gate)


def _merged(full: Tensor, depthwise: Tensor, low: int) -> Tensor:
    """Filters [k, c, fy, fx] and depthwise ones [n, 1, fy, fx] of the channels from `low` on as those of one
    convolution: a depthwise filter is a full one that is zero but at the one channel that it reads. Changes `full`."""
    at = torch.arange(low, low + len(depthwise), device=full.device)
    return full.index_put_((at, at), depthwise[:, 0], accumulate=True)


class OperatorLayer(MixedLayer):
    """The layer of a block that has the choice: two quantised convolutions, and where to cut between them.

    cut: [k + 1] for cumulative gates, logits of the first operator's number of channels; [1] for a point.
    gates: [k, 2].
    """

    def __init__(
        self, conv: nn.Conv2d, other: nn.Conv2d, cores: tuple[str, str], bits: tuple[int, int], kind: Cut
    ) -> None:
        nn.Module.__init__(self)
        self.geometry = conv
        self.other = other
        self.cores = cores
        self.weight_bits = bits
        self.ternary = self.analog = (False, False)
        self.array_rows = 0
        self.converter = None
        self.kind = kind
        k = conv.out_channels
        self.cut = nn.Parameter(torch.zeros(k + 1 if kind == "cumulative" else 1))
        self.log_scale = nn.Parameter(torch.zeros(0), requires_grad=False)
        self.gates: Tensor
        self.register_buffer("gates", torch.full((k, 2), 0.5), persistent=False)
        self.decided: tuple[int, ...] | None = None
        self.told: tuple[Tensor, tuple[int, int]] | None = None  # gates, and the edges of these
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(()))

    def _ahead(self, weights: Tensor) -> Tensor:
        """The first operator's gate of each channel, from the weight of each number of channels: [k]."""
        return (1 - weights.cumsum(0)[:-1]).clamp(0, 1)

    def _expected(self, temperature: float) -> Tensor:
        if self.kind == "cumulative":
            return self._ahead(torch.softmax(self.cut / temperature, 0))
        k = self.geometry.weight.shape[0]
        at = torch.arange(k, device=self.cut.device) + 0.5
        return torch.sigmoid((k * torch.sigmoid(self.cut) - at) / max(temperature * SOFTEST * k, 0.5))

    def soften(self, estimator: Estimator, temperature: float, generator: torch.Generator) -> None:
        self.decided = None
        self.temperature.fill_(temperature)
        if estimator == "expectation":
            first = self._expected(temperature)
        elif estimator == "montecarlo" and self.kind == "cumulative":
            uniform = torch.rand(self.cut.shape, generator=generator).clamp(1e-9, 1 - 1e-7).to(self.cut.device)
            relaxed = torch.softmax((self.cut - (-uniform.log()).log()) / temperature, 0)
            drawn = functional.one_hot(relaxed.argmax(), len(relaxed)).to(relaxed.dtype)
            first = self._ahead(ste(drawn, relaxed))
        else:
            other = " or montecarlo" if self.kind == "cumulative" else ""
            raise InputError(f"estimator {estimator}: a cut ({self.kind}) takes expectation{other}")
        self.gates = torch.stack((first, 1 - first), 1)

    def decisions(self) -> list[nn.Parameter]:
        return [self.cut]

    def prefer(self) -> None:
        """Nothing but training tells the operators apart."""

    @torch.no_grad()
    def lean(self, chosen: Tensor, by: float) -> None:
        k, first = len(chosen), int((chosen == 0).sum())
        if self.kind == "point":
            self.cut.copy_(torch.logit(torch.tensor([first / k]).clamp(0.5 / k, 1 - 0.5 / k)))
        else:
            self.cut.copy_(-by * (torch.arange(k + 1) - first).abs() / (SOFTEST * k))

    @property
    def logits(self) -> Tensor:  # type: ignore[override]
        """Log-probabilities of either operator, [k, 2], at the temperature of the last step."""
        first = self._expected(float(self.temperature)).clamp(1e-9, 1 - 1e-7)
        return torch.stack((first.log(), (1 - first).log()), 1)

    def forward(self, x: Tensor, mid: Tensor | None = None, mid_for: str = "") -> Tensor:
        """x: the block's input; mid: what its stem gives, read by the operator that `mid_for` names."""
        gate = self.gates[:, 0]
        low, high = self._undecided()
        k, conv, other = len(gate), self.geometry, self.other
        assert isinstance(conv, nn.Conv2d)
        mine, its = None, None  # what weighs channels [0, high) of the first operator, [low, k) of the other
        if low < high:
            one = torch.ones_like(gate)
            mine = _rows(gate, 0, high) if not low else torch.cat((one[:low], gate[low:high]))
            its = 1 - _rows(gate, low, k) if high == k else torch.cat((1 - gate[low:high], one[high:]))
        parts = []
        if high:
            weight, bias = _filters(conv, self.weight_bits[0], mine, 0, high)
            if mid is None and low < high:
                assert its is not None
                alone, more = _filters(other, self.weight_bits[1], its[: high - low], low, high)
                weight = _merged(weight, alone, low)
                bias = bias + (more if not low else functional.pad(more, (low, 0)))
            read = mid if mid is not None and mid_for == "conv" else x
            parts.append(_convolved(read, weight, bias, conv, 0, high))
        start = high if mid is None else low
        if start < k:
            weight, bias = _filters(other, self.weight_bits[1], its if start == low else None, start, k)
            parts.append(
                _convolved(mid if mid is not None and mid_for == "other" else x, weight, bias, other, start, k)
            )
        if len(parts) == 1:
            return parts[0]
        if start == high:
            return torch.cat(parts, 1)
        if (low, high) == (0, k):
            return parts[0] + parts[1]
        both = parts[0][:, low:] + parts[1][:, : high - low]
        return torch.cat((parts[0][:, :low], both, parts[1][:, high - low :]), 1)

    @torch.no_grad()
    def edges(self) -> Tensor:
        """Channels that are surely the first operator's, and those that may be."""
        first = self.gates[:, 0]
        return torch.stack(((first >= 1 - SURE).sum(), (first > SURE).sum()))

    def tell(self, edges: Sequence[int]) -> None:
        low, high = edges
        self.told = self.gates, (low, high)

    def _undecided(self) -> tuple[int, int]:
        """The channels [low, high) that both operators compute, in whole STEPs, so that shapes recur."""
        if self.decided is not None:
            return self.decided[0], self.decided[0]
        if self.told is None or self.told[0] is not self.gates:
            self.tell(self.edges().tolist())
        assert self.told is not None
        low, high = self.told[1]
        return (low, high) if low == high else (low // STEP * STEP, min(-(-high // STEP) * STEP, len(self.gates)))


class _Decided(nn.Module):
    """A block of the search network: its stem, the layer with the choice, and the activation."""

    def __init__(self, block: ChoiceBlock, layer: OperatorLayer) -> None:
        super().__init__()
        self.mid_for = {"conv-dw": "", "dws-dw": "conv", "conv-dws": "other"}[block.template]
        if block.dw is not None and block.dw_bn is not None:
            self.dw: nn.Conv2d = copy.deepcopy(block.dw)
            fold(self.dw, block.dw_bn)
        self.conv, self.act = layer, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        mid = self.act(self.dw(x)) if self.mid_for else None
        out: Tensor = self.act(self.conv(x) if mid is None else self.conv(x, mid, self.mid_for))
        return out


def prepare(supernet: Supernet, soc: SoC, kind: Cut = "cumulative") -> MixedNet:
    """The supernet with its batch norms folded and everything quantised: every block with its choice open, all other
    layers on their default cores."""
    net = copy.deepcopy(supernet.net).eval()
    for name, path in supernet.blocks.items():
        block, pair = net.get_submodule(path), supernet.pairs[name]
        assert isinstance(block, ChoiceBlock)
        conv, other = copy.deepcopy(block.conv), copy.deepcopy(block.other)
        fold(conv, block.conv_bn)
        fold(other, block.other_bn)
        bits = soc.cores[pair[0]].weight_bits, soc.cores[pair[1]].weight_bits
        replace_module(net, path, _Decided(block, OperatorLayer(conv, other, pair, bits, kind)))

    def able(layer: Layer) -> list[str]:
        return [default_core(layer, soc)]

    return quantised(fold_batch_norm(net), supernet.workload, soc, able)


# ------------------------------------------------------------------------------------------ mappings


def mapping_of(supernet: Supernet, first: Mapping[str, int], runtime: Runtime, soc: SoC, name: str) -> NetworkMapping:
    """The mapping with so many channels of each choice by its first operator, all else on default cores."""
    layers = {}
    for layer in supernet.workload:
        if layer.name in supernet.pairs:
            k = first[layer.name]
            shares = zip(supernet.pairs[layer.name], (k, layer.k - k), strict=True)
            layers[layer.name] = LayerPlan(tuple(Part(core, n) for core, n in shares if n))
        else:
            layers[layer.name] = LayerPlan((Part(default_core(layer, soc), layer.k),))
    return NetworkMapping(name, runtime, layers)


def manual_cuts(supernet: Supernet) -> dict[str, dict[str, int]]:
    """What one would try first: channels by the first operator, by layer. all_first, all_second, half: the same for all
    blocks; half in whole passes of the engine."""
    k = {name: supernet.workload[name].k for name in supernet.pairs}
    return {
        "all_first": dict(k),
        "half": {name: n - -(-(n // 2) // STEP) * STEP if n > STEP else n // 2 for name, n in k.items()},
        "all_second": dict.fromkeys(k, 0),
    }


def choices(supernet: Supernet) -> dict[tuple[str, ...], list[dict[str, int]]]:
    """Channels on each core of each layer that has a choice, at all `cut_steps`; most by the first operator first."""
    out: dict[tuple[str, ...], list[dict[str, int]]] = {}
    for name, pair in supernet.pairs.items():
        k = supernet.workload[name].k
        out[name,] = [dict(zip(pair, (n, k - n), strict=True)) for n in reversed(cut_steps(k))]
    return out


def counts_of(supernet: Supernet, first: Mapping[str, int]) -> Counts:
    """Channels on each core of each layer that has a choice."""
    k = {name: supernet.workload[name].k for name in first}
    return {name: dict(zip(supernet.pairs[name], (n, k[name] - n), strict=True)) for name, n in first.items()}


def cut_steps(k: int) -> tuple[int, ...]:
    """Cuts of k channels at which a cost can change much: whole passes of the engine from the end, and both ends."""
    return tuple(sorted({0, k, *(k - n for n in range(0, k, STEP))}))


def rounded(net: MixedNet, chosen: dict[str, Tensor]) -> dict[str, Tensor]:
    """The assignment with every cut moved to the nearest of `cut_steps`; ties to the first operator."""
    out = dict(chosen)
    for name, layer in net.searchable().items():
        k = len(chosen[name])
        first = int((chosen[name] == 0).sum())
        cut = min(cut_steps(k), key=lambda n: (abs(n - first), -n))
        out[name] = (torch.arange(k) >= cut).long()
        assert len(layer.cores) == 2
    return out
