"""What a network makes of a part of the data: its metric and its loss."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cosoc.search.training.parts import Part
from cosoc.search.training.task import Task
from cosoc.sim.errors import InputError

BATCH = 512  # items at once


def metric(net: nn.Module, data: Part, task: Task, batch: int = BATCH) -> float:
    """The task's metric of a network, over all items. InputError where it is no number."""
    rows = [task.seen(outputs, targets).cpu() for outputs, targets in _outputs(net, data, batch)]
    found = task.figure(torch.cat(rows))
    if not math.isfinite(found):
        raise InputError(f"the network's {task.measured.name} is {found}: its training diverged; lower rates may help")
    return found


def mean_loss(net: nn.Module, data: Part, task: Task, batch: int = BATCH) -> float:
    """The task's loss of a network, its mean over the items."""
    losses = [float(task.loss(outputs, targets)) * len(targets) for outputs, targets in _outputs(net, data, batch)]
    return sum(losses) / len(data)


def _outputs(net: nn.Module, data: Part, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets of the items, batch by batch, where the network is."""
    net.eval()
    device = next(net.parameters()).device
    with torch.no_grad():
        for start in range(0, len(data), batch):
            x, y = data.items(torch.arange(start, min(start + batch, len(data))))
            yield net(x.to(device)), y.to(device)
