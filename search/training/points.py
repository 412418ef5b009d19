"""What points of a front are searched for, and which of what a search has visited is trained.

The ends of a front are known before anything is trained: the reference (all 8 bit, all by the first operator) and the
cheapest mapping. Between them, each point is as accurate as can be below a bound on the cost, and the bounds come by
bisection of where the front's points are furthest apart, so that they spread evenly (`next_bound`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from cosoc.search.front import non_dominated
from cosoc.search.spaces.shares import Counts
from cosoc.search.targets import Target
from cosoc.sim.figures import Figures, Objective

FIRST_STRENGTH = 0.1  # of the cost in the loss, where bounds are what is asked for; it follows from whether they hold
STRONGEST, WEAKEST = 100.0, 1e-3
MOST_REPAIRED = 3  # candidates of a point
LEAST_GAP = 0.01  # of a front's width, between points that another is looked for


@dataclass(frozen=True)
class Bound:
    """The most that a product of objectives, or one, may be."""

    value: Objective
    most: float


@dataclass(frozen=True)
class Aim:
    """What a point is searched for: the least loss + strength x cost; or the least loss within bounds.

    value: of the cost; base: its value for the reference, as the search's own model has it, and truth: simulated.
    """

    value: Objective
    base: float
    truth: float
    strength: float | None = None
    bounds: tuple[Bound, ...] = ()

    def cost(self, figures: Any) -> Any:
        """What the loss has of soft figures: relative to the reference, or the worst of what bounds leave."""
        if not self.bounds:
            return self.value(figures) / self.base
        over = [bound.value(figures) / bound.most for bound in self.bounds]
        worst = torch.stack(over).max() if isinstance(over[0], torch.Tensor) else max(over)
        return worst * (self.truth / self.base)

    def simulated(self, figures: Figures) -> float:
        """The same of what was simulated."""
        if not self.bounds:
            return float(self.value(figures)) / self.truth
        return max(float(bound.value(figures)) / bound.most for bound in self.bounds)

    def met(self, figures: Figures) -> bool:
        """Whether all bounds hold."""
        return not self.bounds or self.simulated(figures) <= 1.0

    def worth(self, loss: float, figures: Figures) -> float:
        """What is to be least among candidates: nothing makes up for a bound that does not hold."""
        cost = self.simulated(figures)
        if self.bounds:
            return loss if cost <= 1.0 else 1e9 * cost
        return loss + (self.strength or 0.0) * cost

    def next_strength(self, strength: float, figures: Figures) -> float:
        """A multiplier that rises while a bound does not hold, and falls behind it."""
        if not self.bounds:
            return strength
        missed = self.simulated(figures) - 1.0
        return float(min(STRONGEST, max(WEAKEST, strength * 4.0 ** max(-1.0, min(1.0, 4.0 * missed)))))


def bounds_of(targets: Sequence[Target]) -> tuple[Bound, ...]:
    """Targets as bounds."""

    def value(target: Target) -> Objective:
        return lambda figures: (1.0 + target.excess(figures)) * target.most

    return tuple(Bound(value(target), target.most) for target in targets)


@dataclass(frozen=True)
class Asked:
    """A point of a front that was asked for: the bound on its cost, the cost of what was found, and its accuracy."""

    bound: float
    cost: float
    accuracy: float


def next_bound(asked: Sequence[Asked]) -> float | None:
    """Where a front is looked at next: the middle of the two neighbours that are furthest apart, in parts of the
    front's width and of its height. None where no two are apart.

    asked: all points so far, both ends among them. Between a point's cost and its bound nothing more is looked for.
    """
    points = sorted(asked, key=lambda one: (one.bound, one.cost))
    wide = points[-1].bound - points[0].bound
    accuracies = [one.accuracy for one in points]
    high = (max(accuracies) - min(accuracies)) or 1.0
    gaps = [
        ((b.cost - a.bound) / wide + abs(b.accuracy - a.accuracy) / high, a.bound, b.cost)
        for a, b in pairwise(points)
        if b.cost - a.bound > LEAST_GAP * wide
    ]
    if not gaps:
        return None
    _, low, up = max(gaps)
    return (low + up) / 2


@dataclass(frozen=True)
class Visited:
    """An assignment that a search has come by. by: gradient, descent or another point; loss: estimated for it; cost:
    simulated, as the aim has it."""

    counts: Counts
    by: str
    loss: float
    cost: float


def worth_repairing(visited: Sequence[Visited], aim: Aim) -> list[Visited]:
    """Of what was visited the few from which a point may come: not dominated in estimated loss and simulated cost, the
    best as they are first. Where bounds do not hold yet, repair has to bring them there, so the nearest count, too."""
    kept = [visited[i] for i in non_dominated([(one.cost, one.loss) for one in visited])]
    if not aim.bounds:
        return sorted(kept, key=lambda one: one.loss + (aim.strength or 0.0) * one.cost)[:MOST_REPAIRED]
    inside = sorted((one for one in kept if one.cost <= 1.0), key=lambda one: one.loss)
    outside = sorted((one for one in kept if one.cost > 1.0), key=lambda one: one.cost)
    return [*inside[: MOST_REPAIRED - 1], *outside[: MOST_REPAIRED - min(len(inside), MOST_REPAIRED - 1)]]


def key(counts: Counts) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
    """Equal for equal shares, whatever the order and the cores without channels."""
    return tuple(sorted((name, tuple(sorted((c, k) for c, k in on.items() if k))) for name, on in counts.items()))


def of_layers(counts: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """The counts of some layers alone."""
    return {name: dict(counts[name]) for name in names}
