"""Networks with random weights, ranges and cores, as a search leaves them, but not trained."""

from __future__ import annotations

import torch

from cosoc.search.spaces.channels import MixedNet, assignment, fix, make_contiguous, prepare
from cosoc.search.training.nets import build
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.workload import Workload

SHAPE = {"digits_cnn": (1, 8, 8), "resnet8": (3, 16, 16), "mobilenet_v1_025": (3, 32, 32), "dscnn": (1, 49, 10)}


def decided(name: str, soc: str, seed: int) -> tuple[MixedNet, Workload, dict[str, torch.Tensor]]:
    """A network with random weights and ranges, each channel on a random core, contiguous; not trained."""
    torch.manual_seed(seed)
    shape = SHAPE[name]
    net = build(name, shape[0])
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # so that they have something to fold, and signals do not vanish
            module.momentum = 1.0
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    net.train()(torch.randn(16, *shape))
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
