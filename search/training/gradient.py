"""The search of a point by gradient: weights and gates together, with the cost in the loss."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cosoc.search.runfolder import RunFolder
from cosoc.search.spaces.channels import MixedNet, assignment, fix
from cosoc.search.spaces.shares import Counts, ShareCosts, Tangent
from cosoc.search.training.choose import all_counts
from cosoc.search.training.data import Data
from cosoc.search.training.evaluate import metric
from cosoc.search.training.gates import Estimator, score_loss
from cosoc.search.training.noise import Noise, quiet
from cosoc.search.training.points import FIRST_STRENGTH, Aim
from cosoc.search.training.repair import placed
from cosoc.search.training.train import RATES, Phase, Progress, train
from cosoc.sim.theta import Theta

COOLEST = 0.2  # temperature of the gates at the end of a search, from 1
COST_EVERY = 8  # steps between evaluations of the cost's gradient, where gates move slowly
SCORE_SAMPLES = 2  # simulated partitionings a step, for the score estimator
LEAN = 1.0  # of the logits towards the choice that a search begins at: odds of e to 1


@dataclass(frozen=True)
class Manner:
    """How the cost gets its gradient. grain: `Opened.grain`. simulate_every: epochs between simulations of the
    discretised candidate; tolerance: drift of the estimate at which theta is refitted."""

    estimator: Estimator
    grain: int
    simulate_every: int
    tolerance: float


def search_gates(
    net: MixedNet, aim: Aim, begin: Counts, manner: Manner, phase: Phase, costs: ShareCosts, data: Data,
    noise: Noise, folder: RunFolder, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Train weights and gates of a network, in place, from near the shares `begin` on, under noise. Returns plain
    data: strength, as it ended; visited, the shares of each candidate; theta, of the estimate, as it ended."""
    for layer in net.searchable().values():
        layer.prefer()
    start = placed(net, begin)
    for name, layer in net.searchable().items():
        layer.lean(start[name], LEAN)
    extra: dict[str, Any] = {"strength": FIRST_STRENGTH if aim.strength is None else aim.strength, "visited": []}
    extra["theta"] = None
    costs.restart()
    kept = folder.restore(phase.name)
    if kept is not None:
        costs.restart(kept["extra"]["visited"], Theta(**kept["extra"]["theta"]) if kept["extra"]["theta"] else None)

    def relative(shares: MappingOf[str, MappingOf[str, Tensor]]) -> Tensor:
        out: Tensor = aim.cost(costs.figures(shares, manner.grain))
        return out

    tangent = Tangent(relative, COST_EVERY if manner.estimator == "expectation" else 1)

    def loss_of(module: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator, done: float) -> Tensor:
        net.set_gates(manner.estimator, COOLEST**done, draws)
        noise.draw(net, draws)
        cost = _scored(net, relative, aim, costs, draws) if manner.estimator == "score" else tangent(net.shares())
        loss: Tensor = data.task.loss(net(x), y) + extra["strength"] * cost.to(x)
        return loss

    def after(epoch: int) -> dict[str, Any]:
        quiet(net)
        tangent.renew()  # so that a resumed run goes on as an unbroken one
        chosen = assignment(net)
        gates = {n: layer.gates for n, layer in net.layers.items()}
        fix(net, chosen)
        figures: dict[str, Any] = {f"val_{data.task.measured.name}": metric(net, data.val, data.task)}
        figures["strength"] = extra["strength"]
        for n, layer in net.layers.items():
            layer.gates = gates[n].detach()
        last = epoch == phase.epochs - 1
        if last or epoch % manner.simulate_every == manner.simulate_every - 1 or aim.bounds:
            counts = all_counts(net, chosen)
            pair = costs.compare(counts, manner.tolerance)
            extra["visited"].append(counts)
            extra["theta"] = asdict(costs.theta)
            figures |= {"estimated": pair.estimated.plain(), "simulated": pair.simulated.plain()}
            figures["theta"] = asdict(costs.theta)
            extra["strength"] = aim.next_strength(extra["strength"], pair.simulated)
        return figures

    groups = [
        (net.weight_parameters(), RATES["weights"]),
        (net.quant_parameters(), RATES["quantisers"]),
        (net.arch_parameters(), RATES["logits"]),
    ]
    train(phase, net, groups, data.train, loss_of, after, folder, progress, extra)
    return extra


def _scored(net: MixedNet, relative: Any, aim: Aim, costs: ShareCosts, draws: torch.Generator) -> Tensor:
    """The cost term of the score estimator: sampled partitionings are simulated."""
    layers = net.searchable()

    def simulate(choices: Any) -> list[float]:
        return [aim.simulated(costs.simulated(all_counts(net, chosen))) for chosen in choices]

    def surrogate(counts: MappingOf[str, Tensor]) -> Tensor:
        named = {n: dict(zip(layers[n].cores, k.cpu().unbind(), strict=True)) for n, k in counts.items()}
        out: Tensor = relative(named)
        return out

    logits = {n: layer.logits for n, layer in layers.items()}
    return score_loss(logits, simulate, surrogate, SCORE_SAMPLES, draws)
