"""What is provably best among the tiles and fused pieces of a network, under additive costs.

Pieces are runs of consecutive layers, so a plan is a way along the layers, and the best one is found by dynamic
programming. EDP is no sum, but the plan of least EDP is on the front of (sum of energies, sum of seconds): the
programme keeps, for every prefix of the network, the front of what its plans cost, and merges it with the front of
every section that may come next. Nothing that could still win is dropped, so for any objective that grows with energy
and latency the result is optimal.

Where fronts grow beyond a limit, points within a factor (1 + epsilon) of a kept one in both objectives are dropped
(epsilon-dominance), and the result comes with the bound that this leaves.

The peak of a plan is the largest of its sections'. The programme runs again among sections below the last plan's peak,
until there is no plan: every peak that could pay has had its best plan then.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosoc.search.spaces.sections import Cost, Floats, Ints, Options, Section
from cosoc.sim.figures import Figures, Objective

Span = tuple[int, int]  # first layer, one past the last


def front_of(points: Floats, epsilon: float = 0.0) -> Ints:
    """Indices of the points [n, 2] that no other dominates, by the first objective; with epsilon > 0, of a subset such
    that every point has one in it that is within 1 + epsilon in both objectives."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    second = points[order, 1]
    best = np.minimum.accumulate(second)
    keep = np.ones(len(order), bool)
    keep[1:] = second[1:] < best[:-1]
    out = order[keep]
    if epsilon <= 0 or len(out) < 3:
        return out
    thin, at = [], 0
    while at < len(out):  # of those within 1 + epsilon in the first objective, the last is best in the second
        end = int(np.searchsorted(points[out, 0], points[out[at], 0] * (1 + epsilon), side="right"))
        thin.append(out[end - 1])
        at = end
    return np.array(thin, np.int64)


def value(energy_j: Any, seconds: Any, objective: Objective, peak_bytes: float = 1.0, items: int = 1) -> Any:
    """What an objective makes of energy and seconds of `items` inferences; numbers, arrays or tensors."""
    return objective(Figures(seconds, energy_j, peak_bytes, items / seconds))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Optimum:
    """The best plan. bound: no plan is better than value / bound (1.0: proven optimal)."""

    sections: tuple[Section, ...]
    cost: Cost
    peak_bytes: int
    value: float
    bound: float
    largest_front: int


def best_choice(options: Options, objective: Objective) -> int:
    """The best of some layers' choices by themselves."""
    return int(np.argmin(value(options.points[:, 0], options.points[:, 1], objective)))


def best_plan(
    n: int, options: MappingOf[Span, Options], objective: Objective, peaks: MappingOf[Span, int] | None = None,
    items: int = 1, epsilon: float = 1e-3, largest: int = 20_000, over: Callable[[], bool] = lambda: False,
) -> Optimum:  # fmt: skip
    """The best plan of n layers: one of the options for each of its sections.

    peaks: bytes of the main memory while a section runs; only where the objective has it. items: inferences a run.
    epsilon: what a whole network may lose by thinning fronts of more than `largest` points; 0 never thins. over: asked
    before the programme runs again for a lower peak; True leaves it at the plans found. ValueError where there is none.
    """
    kept = {span: front_of(own.points) for span, own in options.items()}
    fronts = {span: options[span].points[kept[span]] for span in options}
    peaks = peaks if peaks is not None and counts_peak(objective) else dict.fromkeys(options, 1)
    best: Optimum | None = None
    while best is None or not over():
        ways = walk(n, fronts, epsilon, largest)
        if not len(ways.fronts[-1]):
            break
        peak = max(peaks[span] for span in fronts)
        last = ways.fronts[-1]
        spans, choices, found = ways.best(value(last[:, 0], last[:, 1], objective, peak, items))
        reached = max(peaks[span] for span in spans)
        worth = float(value(found.energy_j, found.seconds, objective, reached, items))
        if best is None or worth < best.value:
            sections = tuple(options[s].section(int(kept[s][c])) for s, c in zip(spans, choices, strict=True))
            bound = float(
                value(found.energy_j * ways.factor, found.seconds * ways.factor, objective, reached, items) / worth
            )
            largest_front = max(len(f) for f in ways.fronts)
            best = Optimum(sections, found, reached, worth, bound, largest_front)
        fronts = {span: points for span, points in fronts.items() if peaks[span] < reached}
        if not fronts:
            break
    if best is None:
        raise ValueError("no way along the layers: some layer has no option")
    return best


def counts_peak(objective: Objective) -> bool:
    """Whether an objective, or a target on it, depends on the peak: a bound on the peak does at one size."""
    sizes = [2**power for power in range(64)]
    return len({float(objective(Figures(1.0, 1.0, size, 1.0))) for size in sizes}) > 1


@dataclass(frozen=True)
class Ways:
    """The front of every prefix, and of each of its points the prefix it extends, the point there and the choice of the
    section that extends it. factor: what thinning may have lost in each objective."""

    fronts: list[Floats]
    back: list[Ints]
    factor: float

    def best(self, worth: Floats | float) -> tuple[list[Span], list[int], Cost]:
        """The point of the last front that is worth least: its sections' spans, and the choice in each."""
        last = self.fronts[-1]
        best = at = int(np.argmin(np.broadcast_to(worth, len(last))))
        spans, choices = list[Span](), list[int]()
        end = len(self.fronts) - 1
        while end:
            start, before, choice = (int(x) for x in self.back[end][at])
            spans.append((start, end))
            choices.append(choice)
            end, at = start, before
        return spans[::-1], choices[::-1], Cost(float(last[best, 0]), float(last[best, 1]))


def walk(n: int, sections: MappingOf[Span, Floats], epsilon: float = 0.0, largest: int = 20_000) -> Ways:
    """Fronts of the sums along all ways from 0 to n over sections (start, end) -> points [m, 2]."""
    fronts: list[Floats] = [np.zeros((1, 2))]
    back: list[Ints] = [np.zeros((1, 3), np.int64)]
    step, thinned = (1 + epsilon) ** (1 / n) - 1, 0
    for end in range(1, n + 1):
        points, origin = [], []
        for start in range(end):
            front = sections.get((start, end))
            if front is None or not len(fronts[start]):
                continue
            summed = fronts[start][:, None, :] + front[None, :, :]
            points.append(summed.reshape(-1, 2))
            i, j = np.indices(summed.shape[:2]).reshape(2, -1)
            origin.append(np.stack((np.full(len(i), start), i, j), axis=1))
        if not points:
            fronts.append(np.zeros((0, 2)))
            back.append(np.zeros((0, 3), np.int64))
            continue
        every = np.concatenate(points)
        kept = front_of(every)
        if len(kept) > largest and epsilon > 0:
            kept, thinned = front_of(every, step), thinned + 1
        fronts.append(every[kept])
        back.append(np.concatenate(origin)[kept])
    return Ways(fronts, back, (1 + step) ** thinned)
