"""The search of a point by gradient: weights and gates together, with the cost in the loss."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cosoc.search.runfolder import RunFolder
from cosoc.search.spaces.channels import Assignment, MixedNet, assignment, fix
from cosoc.search.spaces.shares import ShareCosts, Tangent
from cosoc.search.training.batches import Batch
from cosoc.search.training.beside import Beside
from cosoc.search.training.choose import all_counts
from cosoc.search.training.compute import Forward
from cosoc.search.training.data import Data
from cosoc.search.training.evaluate import metric
from cosoc.search.training.gates import Estimator, score_loss
from cosoc.search.training.losses import loss_of as task_loss
from cosoc.search.training.noise import Noise, quiet
from cosoc.search.training.optimise import Group
from cosoc.search.training.points import FIRST_STRENGTH, Aim
from cosoc.search.training.train import Phase, Progress, train
from cosoc.sim.theta import Theta

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
    net: MixedNet, aim: Aim, start: Assignment, manner: Manner, phase: Phase, costs: ShareCosts, beside: Beside,
    data: Data, noise: Noise, folder: RunFolder, progress: Progress, teacher: nn.Module | None,
) -> dict[str, Any]:  # fmt: skip
    """Train weights and gates of a network, in place, from near the assignment `start` on, under noise. beside:
    simulates a candidate while it is validated. teacher: as `train`'s. Returns plain data: strength, as it ended;
    visited, the shares of each candidate; theta, of the estimate, as it ended."""
    for name, layer in net.searchable().items():
        layer.prefer()
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

    gates = phase.recipe.gates
    assert gates is not None  # where nothing is searched, nobody comes here
    parts = phase.compute.accumulate  # of a step, at whose first the plane may be taken anew
    tangent = Tangent(relative, parts * COST_EVERY if manner.estimator == "expectation" else 1)

    def loss_of(forward: Forward, batch: Batch, draws: torch.Generator, done: float) -> Tensor:
        net.set_gates(manner.estimator, gates.coolest**done, draws)
        noise.draw(net, draws)
        cost = _scored(net, relative, aim, costs, draws) if manner.estimator == "score" else tangent(net.shares())
        loss = task_loss(data.task, phase.recipe, forward(batch.x), batch)
        out: Tensor = loss + extra["strength"] * cost.to(loss)
        return out

    def after(epoch: int) -> dict[str, Any]:
        quiet(net)
        tangent.renew()  # so that a resumed run goes on as an unbroken one
        chosen = assignment(net)
        last = epoch == phase.epochs - 1
        visits = last or epoch % manner.simulate_every == manner.simulate_every - 1 or bool(aim.bounds)
        if visits:
            beside.ask([all_counts(net, chosen)], (phase.epochs - 1 - epoch) // manner.simulate_every)
        with net.held():
            fix(net, chosen)
            figures: dict[str, Any] = {phase.judged_by: metric(net, data.val, data.task, phase.compute.workers)}
        figures["strength"] = extra["strength"]
        if visits:
            figures |= visit(chosen)
        return figures

    def visit(chosen: Assignment) -> dict[str, Any]:
        """Simulate a candidate, and let the estimate and the multiplier learn from it."""
        counts = all_counts(net, chosen)
        pair = costs.compare(counts, manner.tolerance)
        extra["visited"].append(counts)
        extra["theta"] = asdict(costs.theta)
        extra["strength"] = aim.next_strength(extra["strength"], pair.simulated)
        return {"estimated": pair.estimated.plain(), "simulated": pair.simulated.plain(), "theta": extra["theta"]}

    weights, ranges = phase.recipe.weights, phase.recipe.quantisers
    assert weights.rates.search is not None and ranges.rates.search is not None  # as the recipe's check has it
    groups = [
        Group(net.weight_parameters(), weights, weights.rates.search),
        Group(net.quant_parameters(), ranges, ranges.rates.search),
        Group(net.arch_parameters(), gates, gates.rate),
    ]
    train(phase, net, groups, data.train, loss_of, after, folder, progress, extra, teacher)
    ended = assignment(net)
    if phase.patience and extra["visited"][-1:] != [all_counts(net, ended)]:
        visit(ended)  # it may have ended between two simulations
    return extra


def _scored(net: MixedNet, relative: Any, aim: Aim, costs: ShareCosts, draws: torch.Generator) -> Tensor:
    """The cost term of the score estimator: sampled partitionings are simulated."""
    units = {unit.layers[0]: unit for unit in net.units}

    def whole(choice: MappingOf[str, Tensor]) -> Assignment:
        return {n: cores.repeat_interleave(units[u].size) for u, cores in choice.items() for n in units[u].layers}

    def simulate(choices: Any) -> list[float]:
        return [aim.simulated(costs.simulated(all_counts(net, whole(choice)))) for choice in choices]

    def surrogate(counts: MappingOf[str, Tensor]) -> Tensor:
        named = {
            n: dict(zip(net.layers[n].cores, (units[u].size * k).cpu().unbind(), strict=True))
            for u, k in counts.items()
            for n in units[u].layers
        }
        out: Tensor = relative(named)
        return out

    logits = {name: net.leaning(unit) for name, unit in units.items()}
    return score_loss(logits, simulate, surrogate, SCORE_SAMPLES, draws)
