"""Training by phases: so many epochs of a step, resumable after every one, the same on every run of a machine."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cosoc.search.runfolder import RunFolder
from cosoc.search.training.batches import Batch, batches, plans
from cosoc.search.training.compute import Compute, Forward, Speed
from cosoc.search.training.optimise import Group, Optimisers
from cosoc.search.training.parallel import agreed, mean, processes, rank, stepping
from cosoc.search.training.parts import Part
from cosoc.search.training.recipe import Recipe
from cosoc.search.training.task import Task
from cosoc.sim.progress import Report, untold

Loss = Callable[[Forward, Batch, torch.Generator, float], Tensor]  # forward, batch, generator, part done 0..1
AfterEpoch = Callable[[int], dict[str, Any]]  # epoch -> figures to log
PhaseKind = Literal["warm_up", "search", "fine_tune"]


def generator(seed: int, *what: object) -> torch.Generator:
    """A generator of its own for each purpose: nothing depends on what was drawn before."""
    digest = hashlib.sha256(repr((seed, what)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class Phase:
    """A phase of a run. name: of its files; kind: which of the recipe's; epochs of it, at most; seed: of the run; task:
    what is trained for; compute: where and how."""

    name: str
    kind: PhaseKind
    epochs: int
    seed: int
    recipe: Recipe
    task: Task
    compute: Compute

    @property
    def patience(self) -> int:
        """Epochs without a better metric of the validation part after which the phase ends; 0: never."""
        out: int = getattr(self.recipe.early_stopping, self.kind)
        return out

    @property
    def average(self) -> float:
        """The decay of the weights' average over steps; 0: weights are as they are."""
        return 0.0 if self.kind == "search" else self.recipe.average

    @property
    def judged_by(self) -> str:
        """What the figure of the validation part is called."""
        return f"val_{self.task.measured.name}"


class Progress:
    """Epochs done of all phases of a run, for the report, which may change from round to round; and what they took."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.report: Report = untold
        self.speed = Speed()

    def advance(self, epochs: int, what: str) -> None:
        self.done += epochs
        self.report(self.done, self.total, what)


def train(
    phase: Phase,
    net: nn.Module,
    groups: Sequence[Group],
    data: Part,
    loss_of: Loss,
    after_epoch: AfterEpoch,
    folder: RunFolder,
    progress: Progress,
    extra: dict[str, Any],
    teacher: nn.Module | None = None,
) -> None:
    """Run a phase, from its checkpoint if there is one; the network is on the CPU before and after.

    extra: plain data that the phase keeps between epochs (a multiplier, say); it is restored with the checkpoint.
    teacher: the float network that teaches, where the recipe has it so.
    """
    compute = phase.compute
    compute.place(net)
    on_device = data if compute.workers else data.to(compute.device)
    optimisers, scaler = Optimisers(groups), compute.scaler()
    watch, average = _Watch(phase), _Average(net, phase.average)
    state = folder.restore(phase.name)
    start = 0
    if state is not None:
        net.load_state_dict(state["net"])
        optimisers.restore(state["optimisers"])
        scaler.load_state_dict(state["scaler"])
        watch.restore(state["watch"])
        average.restore(state["average"])
        extra.update(state["extra"])
        start = state["epoch"]
        progress.advance(start, phase.name)
    step = _Step(net, loss_of, compute)
    called = stepping(step, compute.device)
    with _asked(teacher, compute) as teach, kept_draws(compute.device):
        for epoch in range(start, phase.epochs):
            if watch.over:
                break
            loss = _epoch(phase, epoch, called, optimisers, scaler, on_device, average, progress, teach)
            with average.shown():
                figures = agreed(after_epoch(epoch))
                watch.see(figures.get(phase.judged_by), net)
            kept = {
                "epoch": epoch + 1,
                "net": net.state_dict(),
                "optimisers": optimisers.state(),
                "scaler": scaler.state_dict(),
                "watch": watch.state(),
                "average": average.state(),
                "extra": copy.deepcopy(extra),
            }
            folder.log({"phase": phase.name, "epoch": epoch, "loss": loss, **figures})
            folder.checkpoint(phase.name, kept)
            progress.advance(1, phase.name)
            start = epoch + 1
    progress.advance(phase.epochs - start, phase.name)
    average.keep()
    watch.go_back(net)
    compute.take_back(net)


def _epoch(
    phase: Phase,
    epoch: int,
    called: nn.Module,
    optimisers: Optimisers,
    scaler: torch.amp.GradScaler,
    data: Part,
    average: _Average,
    progress: Progress,
    teach: Forward | None,
) -> float:
    """All steps of an epoch; their mean loss. Nothing of a step is read from the device before the epoch ends."""
    compute = phase.compute
    called.train()
    draws = generator(phase.seed, phase.name, epoch)
    # Modules that draw for themselves (dropout) do so from torch's own generators, each process for its part.
    torch.manual_seed(generator(phase.seed, phase.name, epoch, "modules", rank()).initial_seed())
    order = torch.randperm(len(data), generator=draws)
    for_images = generator(phase.seed, phase.name, epoch, "images")
    todo = plans(order, phase.recipe.batch, phase.recipe.augmentation, for_images)
    steps, began, total = len(todo), time.perf_counter(), compute.zero()
    made = batches(data, todo, compute.accumulate, rank(), processes(), compute.device, compute.workers)
    for number, parts in enumerate(made):
        done = (epoch + number / steps) / phase.epochs
        optimisers.at(done)
        optimisers.zero_grad()
        for i, part in enumerate(parts):
            if teach is not None:
                with torch.no_grad():
                    part = replace(part, taught=teach(part.x))
            last = i == len(parts) - 1
            apart = contextlib.nullcontext() if last else getattr(called, "no_sync", contextlib.nullcontext)()
            with apart:
                loss = called(part, draws, done)
                total += loss.detach()
                scaler.scale(loss / len(parts) if len(parts) > 1 else loss).backward()
        optimisers.step(scaler)
        average.move()
    summed = float(mean(total)) / compute.accumulate
    progress.speed.add(sum(len(plan.index) for plan in todo), time.perf_counter() - began)
    return summed / steps


@contextlib.contextmanager
def kept_draws(device: str) -> Iterator[None]:
    """torch's own generators afterwards are where they are now."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        yield


class _Step(nn.Module):
    """A step's forward pass, to its loss, as one module."""

    def __init__(self, net: nn.Module, loss_of: Loss, compute: Compute) -> None:
        super().__init__()
        self.net, self.loss_of, self.through = net, loss_of, compute.forward(net)

    def forward(self, batch: Batch, draws: torch.Generator, done: float) -> Tensor:
        return self.loss_of(self.through, batch, draws, done)


class _Average:
    """The average of a network's weights over steps; off where decay is 0. It begins with the weights behind the first
    step, as quantisers find their ranges in that one."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay = net, decay
        self.values: dict[str, Tensor] = {}

    def _now(self) -> dict[str, Tensor]:
        if not self.decay:
            return {}
        return {n: t for n, t in self.net.state_dict(keep_vars=False).items() if t.is_floating_point()}

    def move(self) -> None:
        """A step towards the weights as they are."""
        now = self._now()
        if not self.values:
            self.values = {n: t.detach().clone() for n, t in now.items()}
        elif now:
            torch._foreach_lerp_([self.values[n] for n in now], list(now.values()), 1 - self.decay)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The network with the average in the place of its weights."""
        held = {n: t.clone() for n, t in self._now().items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(held)

    def keep(self) -> None:
        """Give the network the average for good."""
        self._put(self.values)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        now = self._now()
        for n, t in values.items():
            now[n].copy_(t)

    def state(self) -> dict[str, Tensor]:
        return dict(self.values)

    def restore(self, state: dict[str, Tensor]) -> None:
        now = self._now()
        self.values = {n: torch.empty_like(now[n]).copy_(t) for n, t in state.items()}


class _Watch:
    """Which epoch was best by the validation part, and whether to go on; off where the phase has no patience."""

    def __init__(self, phase: Phase) -> None:
        self.patience, self.keeps = phase.patience, phase.kind != "search"
        self.sign = 1.0 if phase.task.higher_is_better else -1.0
        self.best, self.since = -math.inf, 0
        self.weights: dict[str, Tensor] = {}

    @property
    def over(self) -> bool:
        """Whether the phase ends."""
        return bool(self.patience) and self.since >= self.patience

    def see(self, figure: float | None, net: nn.Module) -> None:
        """An epoch has this figure."""
        if not self.patience or figure is None:
            return
        if self.sign * figure > self.best:
            self.best, self.since = self.sign * figure, 0
            if self.keeps:
                self.weights = {n: t.detach().clone() for n, t in net.state_dict().items()}
        else:
            self.since += 1

    def go_back(self, net: nn.Module) -> None:
        """Give the network its weights of the best epoch, where they are kept."""
        if self.weights:
            net.load_state_dict(self.weights)

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "since": self.since, "weights": dict(self.weights)}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.since, self.weights = state["best"], state["since"], dict(state["weights"])


@contextlib.contextmanager
def _asked(net: nn.Module | None, compute: Compute) -> Iterator[Forward | None]:
    """A network that is only asked, on the device."""
    if net is None:
        yield None
        return
    compute.place(net.eval())
    try:
        yield compute.forward(net)
    finally:
        compute.take_back(net)
