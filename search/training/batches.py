"""Batches of a training part: which items, what is done to them, and in which parts they go through a network.

A batch follows from the recipe, the seed, the phase, the epoch and the step alone, so it is the same whoever makes it:
the device, worker processes, or each process of a distributed run its part.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cosoc.search.training.parts import Part
from cosoc.search.training.recipe import Augmentation
from cosoc.sim.errors import InputError

AHEAD = 4  # batches that a worker has made before they are asked for


@dataclass(frozen=True)
class Batch:
    """A part of a step's batch. x: items [n, ...]; y: their targets; other_y: targets of what each was mixed with,
    whose part in it is 1 - share; taught: the float network's outputs for x, where it teaches."""

    x: Tensor
    y: Tensor
    other_y: Tensor | None = None
    share: float = 1.0
    taught: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """What a batch is made of. index: [n], items; moved: [n, 2], rows and columns by which images are moved; flipped:
    [n]; partner: [n], items that each is mixed with, share: its own part in that."""

    index: Tensor
    moved: Tensor | None = None
    flipped: Tensor | None = None
    partner: Tensor | None = None
    share: float = 1.0

    def part(self, number: int, of: int) -> Plan:
        """One of so many equal parts."""
        n = len(self.index) // of
        at = slice(number * n, (number + 1) * n)
        moved, flipped, partner = (None if one is None else one[at] for one in (self.moved, self.flipped, self.partner))
        return Plan(self.index[at], moved, flipped, partner, self.share)


def plans(order: Tensor, batch: int, change: Augmentation, draws: torch.Generator) -> list[Plan]:
    """The batches of an epoch; what is left over at the end is left out. order: [n], items as they are drawn; draws:
    for what is done to them."""
    found = []
    for step in range(max(1, len(order) // batch)):
        index = order[step * batch : (step + 1) * batch]
        n, most = len(index), change.crop_pixels
        moved = torch.randint(-most, most + 1, (n, 2), generator=draws) if most else None
        flipped = torch.rand(n, generator=draws) < 0.5 if change.flip else None
        partner, share = None, 1.0
        if change.mixup:
            partner, share = index[torch.randperm(n, generator=draws)], _beta(change.mixup, draws)
        found.append(Plan(index, moved, flipped, partner, share))
    return found


def _beta(parameter: float, draws: torch.Generator) -> float:
    """A draw of Beta(parameter, parameter): the first of two of a Dirichlet distribution."""
    both = torch._sample_dirichlet(torch.full((2,), parameter, dtype=torch.float64), generator=draws)
    return float(both[0])


def made(data: Part, plan: Plan, device: str) -> Batch:
    """A batch on a device, of data that lies there or on the CPU."""
    x, y = _items(data, plan.index, device)
    x = _changed(x, plan)
    if plan.partner is None:
        return Batch(x, y)
    other_x, other_y = _items(data, plan.partner, device)
    return Batch(plan.share * x + (1 - plan.share) * _changed(other_x, plan), y, other_y, plan.share)


def _items(data: Part, index: Tensor, device: str) -> tuple[Tensor, Tensor]:
    x, y = data.items(index)
    return x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def _changed(x: Tensor, plan: Plan) -> Tensor:
    """Images [n, c, h, w], moved with zeros (the mean) coming in, and flipped."""
    if plan.flipped is not None:
        x = torch.where(plan.flipped.to(x.device)[:, None, None, None], x.flip(3), x)
    if plan.moved is None:
        return x
    n, _, h, w = x.shape
    most = int(plan.moved.abs().max())
    padded = torch.nn.functional.pad(x, (most,) * 4)
    moved = plan.moved.to(x.device) + most
    rows = moved[:, :1] + torch.arange(h, device=x.device)
    columns = moved[:, 1:] + torch.arange(w, device=x.device)
    items = torch.arange(n, device=x.device)
    return padded.permute(0, 2, 3, 1)[items[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class _Made(torch.utils.data.Dataset["Batch | str"]):
    """Batches by number, for workers; or why one cannot be made."""

    def __init__(self, data: Part, todo: Sequence[Plan]) -> None:
        self.data, self.todo = data, todo

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, at: int) -> Batch | str:
        try:
            return made(self.data, self.todo[at], "cpu")
        except InputError as error:  # raised here it would come with the worker's whole story
            return str(error)


def _calm(worker: int) -> None:
    """A worker leaves Ctrl-C to the process that it works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _itself(one: Any) -> Any:
    return one


def batches(
    data: Part, todo: Sequence[Plan], parts: int, rank: int, processes: int, device: str, workers: int
) -> Iterator[list[Batch]]:
    """Step by step this process's parts of the batch, on its device. parts: that each process takes its share in; data:
    on the device where there are no workers."""
    mine = [plan.part(rank, processes).part(i, parts) for plan in todo for i in range(parts)]
    if not workers:
        for at in range(0, len(mine), parts):
            yield [made(data, plan, device) for plan in mine[at : at + parts]]
        return
    seeds = torch.Generator().manual_seed(torch.initial_seed())  # torch's own would be at another draw than without
    loader = torch.utils.data.DataLoader(
        _Made(data, mine), batch_size=None, num_workers=workers, prefetch_factor=AHEAD, worker_init_fn=_calm,
        collate_fn=_itself, generator=seeds,
    )  # fmt: skip
    ready: list[Batch] = []
    for one in loader:
        if isinstance(one, str):
            raise InputError(one)
        other = None if one.other_y is None else one.other_y.to(device, non_blocking=True)
        on = Batch(one.x.to(device, non_blocking=True), one.y.to(device, non_blocking=True), other, one.share)
        ready.append(on)
        if len(ready) == parts:
            yield ready
            ready = []
