"""Training by phases: so many epochs of a step, resumable after every one, the same on every run of a machine."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cosoc.search.runfolder import RunFolder
from cosoc.search.training.parts import Part
from cosoc.sim.progress import Report, untold

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator, float], Tensor]  # net, x, y, generator, part done 0..1
AfterEpoch = Callable[[int], dict[str, Any]]  # epoch -> figures to log

# Of Adam, by what is trained.
RATES = {"warm-up": 3e-3, "weights": 1e-3, "quantisers": 1e-3, "logits": 5e-2, "fine-tune": 1e-3}


def generator(seed: int, *what: object) -> torch.Generator:
    """A generator of its own for each purpose: nothing depends on what was drawn before."""
    digest = hashlib.sha256(repr((seed, what)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class Phase:
    """A phase of a run. name: of its files; epochs of it; batch: images a step; seed: of the run; device: torch's, on
    which it trains."""

    name: str
    epochs: int
    batch: int
    seed: int
    device: str = "cpu"


class Progress:
    """Epochs done of all phases of a run, for the report, which may change from round to round."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.report: Report = untold

    def advance(self, epochs: int, what: str) -> None:
        self.done += epochs
        self.report(self.done, self.total, what)


def train(
    phase: Phase,
    net: nn.Module,
    groups: Sequence[tuple[list[nn.Parameter], float]],
    data: Part,
    loss_of: Loss,
    after_epoch: AfterEpoch,
    folder: RunFolder,
    progress: Progress,
    extra: dict[str, Any],
) -> None:
    """Run a phase, from its checkpoint if there is one; the network is on the CPU before and after.

    groups: (parameters, learning rate); Adam, the rates falling to a tenth along a cosine. extra: plain data that the
    phase keeps between epochs (a multiplier, say); it is restored with the checkpoint.
    """
    net.to(phase.device)
    data = data.to(phase.device)
    optimizer = torch.optim.Adam([{"params": p, "lr": rate} for p, rate in groups if p])
    rates = [group["lr"] for group in optimizer.param_groups]
    state = folder.restore(phase.name)
    start = 0
    if state is not None:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        extra.update(state["extra"])
        start = state["epoch"]
        progress.advance(start, phase.name)
    n, steps = len(data), max(1, len(data) // phase.batch)
    for epoch in range(start, phase.epochs):
        net.train()
        draws = generator(phase.seed, phase.name, epoch)
        order = torch.randperm(n, generator=draws)
        total = 0.0
        for step in range(steps):
            done = (epoch + step / steps) / phase.epochs
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (0.1 + 0.45 * (1 + float(torch.cos(torch.tensor(torch.pi * done)))))
            x, y = data.items(order[step * phase.batch : (step + 1) * phase.batch])
            loss = loss_of(net, x.to(phase.device), y.to(phase.device), draws, done)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach())
        figures = after_epoch(epoch)
        kept = {
            "epoch": epoch + 1,
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "extra": copy.deepcopy(extra),
        }
        folder.log({"phase": phase.name, "epoch": epoch, "loss": total / steps, **figures})
        folder.checkpoint(phase.name, kept)
        progress.advance(1, phase.name)
    net.cpu()
