"""Optimisers of what is trained, as a recipe has them, with rates that follow schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cosoc.search.training.recipe import Optimiser, Schedule


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike. rate: that the phase begins with."""

    parameters: Sequence[nn.Parameter]
    by: Optimiser
    rate: float


def of_rate(schedule: Schedule, done: float) -> float:
    """The part of its first rate that a schedule has when so much of a phase, 0..1, is done."""
    part = 1.0
    if schedule.kind == "cosine" and schedule.end is not None:
        part = schedule.end + (1 - schedule.end) / 2 * (1 + float(torch.cos(torch.tensor(torch.pi * done))))
    elif schedule.kind == "steps" and schedule.at is not None and schedule.factor is not None:
        part = schedule.factor ** sum(done >= at for at in schedule.at)
    return part * done / schedule.ramp if done < schedule.ramp else part


class Optimisers:
    """One optimiser of torch for each kind among the groups."""

    def __init__(self, groups: Sequence[Group]) -> None:
        by_kind: dict[str, list[Group]] = {}
        for group in groups:
            if group.parameters:
                by_kind.setdefault(group.by.optimiser, []).append(group)
        self.parts = [(_torch_optimiser(mine), mine) for mine in by_kind.values()]

    def at(self, done: float) -> None:
        """Set the rates to what they are when so much of the phase is done."""
        for one, groups in self.parts:
            for record, group in zip(one.param_groups, groups, strict=True):
                record["lr"] = group.rate * of_rate(group.by.schedule, done)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for one, _ in self.parts:
            one.zero_grad()

    def step(self, scaler: torch.amp.GradScaler) -> None:
        """A step of all."""
        for one, _ in self.parts:
            scaler.step(one)
        scaler.update()

    def state(self) -> list[dict[str, Any]]:
        """What they keep, as plain data and tensors."""
        return [one.state_dict() for one, _ in self.parts]

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Take up what they kept, on whatever device."""
        for (one, _), kept in zip(self.parts, state, strict=True):
            one.load_state_dict(kept)


def _torch_optimiser(groups: Sequence[Group]) -> torch.optim.Optimizer:
    """torch's optimiser of groups of one kind, a pass over each parameter a step."""
    kind = groups[0].by.optimiser
    found: list[dict[str, Any]] = []
    for group in groups:
        record = {"params": list(group.parameters), "lr": group.rate, "weight_decay": group.by.weight_decay}
        if kind == "sgd":
            record |= {"momentum": group.by.momentum or 0.0, "nesterov": bool(group.by.nesterov)}
        found.append(record)
    of_kind: Any = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    made: torch.optim.Optimizer = of_kind(found, fused=True)
    if kind == "sgd":
        # A path of a network that a step does not take has no gradient in it; torch's fused step wants momenta of all
        # parameters or of none, so they begin at zero, as they would with their first gradient.
        for parameter in (one for group in groups if group.by.momentum for one in group.parameters):
            made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made
