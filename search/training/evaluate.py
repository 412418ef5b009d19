"""What a network makes of a part of the data: its metric and its loss."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cosoc.search.training.batches import Plan, batches
from cosoc.search.training.parts import Part, Stored
from cosoc.search.training.task import Task
from cosoc.sim.errors import InputError

BATCH = 512  # items at once
AT_ONCE_BYTES = 1 << 25  # of items that are read, as float32: workers have several batches ready


def metric(net: nn.Module, data: Part, task: Task, workers: int = 0, batch: int = BATCH) -> float:
    """The task's metric of a network, over all items. workers: processes that read what is not held in memory.
    InputError where it, or an output, is no number: a class can be the likeliest of scores that are none."""
    rows, none = list[Tensor](), list[Tensor]()
    for outputs, targets in _outputs(net, data, workers, batch):
        rows.append(task.seen(outputs, targets).cpu())
        none.append(outputs.isnan().any())
    found = math.nan if bool(torch.stack(none).any()) else task.figure(torch.cat(rows))
    if not math.isfinite(found):
        raise InputError(f"the network's {task.measured.name} is {found}: its training diverged; lower rates may help")
    return found


def mean_loss(net: nn.Module, data: Part, task: Task, batch: int = BATCH) -> float:
    """The task's loss of a network, its mean over the items."""
    losses = [float(task.loss(outputs, targets)) * len(targets) for outputs, targets in _outputs(net, data, 0, batch)]
    return sum(losses) / len(data)


def at_once(data: Part) -> int:
    """Items that go through a network at once: of what is read when it is asked for, which may be large, fewer."""
    return max(1, min(BATCH, AT_ONCE_BYTES // (4 * math.prod(data.shape)))) if isinstance(data, Stored) else BATCH


def _outputs(net: nn.Module, data: Part, workers: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets of the items, batch by batch, where the network is."""
    net.eval()
    batch = min(batch, at_once(data))
    if not isinstance(data, Stored):
        workers = 0
    todo = [Plan(index) for index in torch.split(torch.arange(len(data)), batch)]
    with torch.no_grad():
        for (one,) in batches(data, todo, 1, 0, 1, str(next(net.parameters()).device), workers):
            yield net(one.x), one.y
