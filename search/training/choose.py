"""Of all that a search has come by, what is trained: judged by estimated loss and simulated cost together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cosoc.search.exact.shares import Front, Price, beside, front, table
from cosoc.search.spaces.channels import Assignment, MixedNet, fix
from cosoc.search.spaces.opened import Opened
from cosoc.search.spaces.shares import Counts
from cosoc.search.training.evaluate import mean_loss
from cosoc.search.training.parts import Split
from cosoc.search.training.points import Aim, Visited, key, of_layers, worth_repairing
from cosoc.search.training.quant import ActivationQuantiser
from cosoc.search.training.repair import Move, meet, placed, repair
from cosoc.search.training.task import Task
from cosoc.sim.figures import Figures

IMAGES = 256  # of those for validation, by which a loss is estimated


@dataclass(frozen=True)
class Judge:
    """Estimates losses and simulates costs of assignments. figures: of shares, simulated. images: by which losses
    of the task are estimated, none of those that its metric is reported of."""

    opened: Opened
    figures: Callable[[Counts], Figures]
    images: Split
    task: Task

    def front(self, net: MixedNet, price: Price) -> Front:
        """The front of costs and losses, each layer's options judged beside the reference: the network as it has been
        warmed up, quantised and not trained since."""
        for layer in net.searchable().values():
            layer.prefer()
        base = self.opened.base
        fix(net, placed(net, base))
        net.eval()
        for module in net.modules():
            if isinstance(module, ActivationQuantiser):
                module.train()  # which is when they find their ranges; whatever draws at random (dropout) is left out
        with torch.no_grad():
            net(self.images.x)
        costs = table(self.opened.choices, base, price)
        losses = table(self.opened.choices, base, lambda counts: self.loss(net, placed(net, counts)))
        return front(costs, losses)

    def loss(self, net: MixedNet, chosen: Assignment) -> float:
        """Mean loss of the network as it stands under an assignment."""
        fix(net, self.opened.settled(net, chosen))
        return mean_loss(net, self.images, self.task)

    def best(self, net: MixedNet, aim: Aim, sources: Sequence[tuple[Counts, str]], way_out: Counts) -> dict[str, Any]:
        """The best of what was visited, repaired: its counts, the moves of its repair, by what it was come by, and how
        many were seen. sources: shares, each with what came by it; way_out: holds the bounds where repair cannot."""
        seen: dict[Any, Visited] = {}
        for counts, by in sources:
            chosen = self.opened.settled(net, placed(net, counts))
            whole = counts_of(net, chosen, self.opened.open_layers)
            cost = aim.simulated(self.figures(whole))
            seen.setdefault(key(whole), Visited(whole, by, self.loss(net, chosen), cost))
        found: list[tuple[float, Counts, list[Move], str]] = []
        for one in worth_repairing(list(seen.values()), aim):
            chosen, moves = self.repaired(net, self.opened.settled(net, placed(net, one.counts)), aim, way_out)
            whole = counts_of(net, chosen, self.opened.open_layers)
            worth = aim.worth(self.loss(net, chosen), self.figures(whole))
            found.append((worth, whole, moves, one.by))
        _, counts, moves, by = min(found, key=lambda one: one[0])
        return {"counts": counts, "moves": [asdict(move) for move in moves], "by": by, "seen": len(seen)}

    def repaired(self, net: MixedNet, chosen: Assignment, aim: Aim, way_out: Counts) -> tuple[Assignment, list[Move]]:
        """The assignment with every channel back in 8 bit (or by the first operator) that costs nothing there; with
        bounds, brought within them, then given back what they leave room for."""

        def cost(tried: Assignment) -> float:
            return aim.simulated(self.figures(counts_of(net, tried, self.opened.open_layers)))

        if not aim.bounds:
            return repair(net, chosen, cost, self.opened.steps)
        chosen, moves = meet(net, chosen, cost, 1.0, self.opened.steps)
        if cost(chosen) > 1.0:  # stuck where no layer alone comes nearer
            chosen = self.opened.settled(net, placed(net, way_out))
        chosen, more = repair(net, chosen, lambda tried: max(1.0, cost(tried)), self.opened.steps)
        return chosen, moves + more


def of_first_front(opened: Opened) -> list[Counts]:
    """The shares whose costs `Judge.front` asks for."""
    base = opened.base
    options = beside(opened.choices, base)
    return [
        base,
        *({**base, **dict.fromkeys(layers, option)} for layers, some in options.items() for option in some),
    ]


def counts_of(net: MixedNet, chosen: Assignment, layers: Collection[str]) -> dict[str, dict[str, int]]:
    """Channels on each core of some layers, by an assignment."""
    return of_layers(all_counts(net, chosen), list(layers))


def all_counts(net: MixedNet, chosen: Assignment) -> dict[str, dict[str, int]]:
    """Channels on each core of each weighted layer that is assigned."""
    out = {}
    for name, layer in net.layers.items():
        if name in chosen:
            counts = torch.bincount(chosen[name], minlength=len(layer.cores)).tolist()
            out[name] = dict(zip(layer.cores, counts, strict=True))
    return out
