"""Networks with random weights, ranges and cores, as a search leaves them, but not trained."""

from __future__ import annotations

import torch
from torch import nn

from cosoc.search.spaces import operators
from cosoc.search.spaces.channels import MixedNet, assignment, fix, make_contiguous, prepare
from cosoc.search.training.nets import build
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.workload import Workload

SHAPE = {"digits_cnn": (1, 8, 8), "resnet8": (3, 16, 16), "mobilenet_v1_025": (3, 32, 32), "dscnn": (1, 49, 10)}


def warmed(net: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """With batch norms that have something to fold, so that signals do not vanish."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    net.train()(torch.randn(16, *shape))
    return net


def decided(name: str, soc: str, seed: int) -> tuple[MixedNet, Workload, dict[str, torch.Tensor]]:
    """A network with random weights and ranges, each channel on a random core, contiguous; not trained."""
    torch.manual_seed(seed)
    shape = SHAPE[name]
    net = warmed(build(name, shape[0]), shape)
    workload = from_module(net.eval(), shape, name)
    mixed = prepare(net, workload, find_soc(soc))
    for layer in mixed.searchable().values():
        layer.logits.data.normal_()
    fix(mixed, assignment(mixed))
    with torch.no_grad():
        mixed.train()(torch.randn(16, *shape))
    chosen, _ = make_contiguous(mixed.eval(), workload, assignment(mixed))
    fix(mixed, chosen)
    return mixed, workload, chosen


def cut(name: str, soc: str, template: operators.Template, seed: int) -> tuple[MixedNet, Workload, Mapping]:
    """The same by operators: every block's channels cut somewhere between its two."""
    torch.manual_seed(seed)
    shape, machine = SHAPE[name], find_soc(soc)
    supernet = operators.with_choices(build(name, shape[0]), shape, machine, template, name)
    warmed(supernet.net, shape)
    first = {n: operators.cut_steps(supernet.workload[n].k)[(i + 1) % 2] for i, n in enumerate(supernet.pairs)}
    first |= {n: supernet.workload[n].k // 2 for n in list(supernet.pairs)[:1]}
    mixed = operators.prepare(supernet, machine)
    chosen = assignment(mixed)
    chosen |= {n: (torch.arange(len(chosen[n])) >= k).long() for n, k in first.items()}
    fix(mixed, chosen)
    with torch.no_grad():
        mixed.train()(torch.randn(16, *shape))
    mapping = operators.mapping_of(supernet, first, "overlapped", machine, "point")
    return mixed.eval(), supernet.workload, mapping
