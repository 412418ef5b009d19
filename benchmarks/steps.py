"""Steps of training as cosoc does them, one at a time, with their seconds and memory: for what is too large, or too
long, to be trained here (full_size.py, full_training.py)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cosoc.search.spaces.channels import MixedNet
from cosoc.search.spaces.shares import Tangent
from cosoc.search.training.batches import made, plans
from cosoc.search.training.compute import Compute, peak_bytes
from cosoc.search.training.losses import loss_of
from cosoc.search.training.optimise import Group, Optimisers
from cosoc.search.training.parts import Part
from cosoc.search.training.recipe import Recipe
from cosoc.search.training.task import Task
from cosoc.search.training.train import PhaseKind

Draw = Callable[[torch.Generator | None], None]  # what a float network is before each of its steps
MARKS = Path("/proc/self/clear_refs")  # where Linux forgets a process's highest mark


@dataclass
class Took:
    """What something took: seconds, of the processor, or of the clock where a device computes; the most memory while it
    did, bytes, or since the process began where the system does not tell the one from the other."""

    seconds: float = 0.0
    peak_bytes: int = 0


def clock(device: str) -> float:
    """Seconds; of the clock once a device has done all that it was asked."""
    if device == "cpu":
        return time.process_time()
    (torch.cuda if device == "cuda" else torch.mps).synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def watched(device: str) -> Iterator[Took]:
    """What is done inside."""
    took = Took()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif MARKS.exists():
        MARKS.write_text("5")
    began = clock(device)
    yield took
    took.seconds, took.peak_bytes = clock(device) - began, _highest(device)


def _highest(device: str) -> int:
    if device == "cpu" and MARKS.exists():
        for line in MARKS.with_name("status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return peak_bytes(device)


def step_of(
    net: nn.Module, data: Part, task: Task, recipe: Recipe, kind: PhaseKind, batch: int, compute: Compute,
    cost: Tangent | None = None, draw: Draw | None = None,
) -> Callable[[], None]:  # fmt: skip
    """A step of a phase of a recipe, from the batch to the weights. cost: of a search, in its loss."""
    rates, gates, ranges = recipe.weights.rates, recipe.gates, recipe.quantisers
    if isinstance(net, MixedNet):
        rate, other = (rates.search, ranges.rates.search) if cost else (rates.fine_tune, ranges.rates.fine_tune)
        groups = [Group(net.weight_parameters(), recipe.weights, rate or 0.0)]
        groups.append(Group(net.quant_parameters(), ranges, other or 0.0))
        if cost is not None and gates is not None:
            groups.append(Group(net.arch_parameters(), gates, gates.rate))
    else:
        groups = [Group(list(net.parameters()), recipe.weights, rates.warm_up or 0.0)]
    compute.place(net.train())
    forward, scaler, draws = compute.forward(net), compute.scaler(), torch.Generator().manual_seed(0)
    optimisers, held = Optimisers(groups), data.to(compute.device)

    def step() -> None:
        (plan,) = plans(torch.randint(len(data), (batch,), generator=draws), batch, recipe.augmentation, draws)
        items = made(held, plan, compute.device)
        optimisers.at(0.5)
        optimisers.zero_grad()
        if draw is not None:
            draw(draws)
        if isinstance(net, MixedNet) and cost is not None:
            net.set_gates("expectation", 0.5, draws)
        loss = loss_of(task, recipe, forward(items.x), items)
        if isinstance(net, MixedNet) and cost is not None:
            loss = loss + 0.1 * cost(net.shares()).to(loss)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        optimisers.step(scaler)

    return step


def timed(step: Callable[[], None], count: int, device: str) -> tuple[Took, Took]:
    """What the first step took, in which ranges are found and memory is had, and each of the others on average."""
    with watched(device) as first:
        step()
    with watched(device) as others:
        for _ in range(count):
            step()
    return first, Took(others.seconds / max(1, count), others.peak_bytes)
