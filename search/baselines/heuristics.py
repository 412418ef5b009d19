"""What others do in place of an exact front: one device, even parts, greedy filling, a genetic search, weighted sums.

The first four make plans; `weighted_sums` says which points of an exact front any weighting of period and energy finds
(those on its convex hull, as DONNA-style searches return) and which none does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from cosoc.search.exact.splits import Point, merged
from cosoc.search.spaces.splits import Bools, Plan, PlanStage, Problem, evaluate


def single_devices(problem: Problem) -> dict[str, Point]:
    """The whole network on one device, by type; types that cannot hold it are left out."""
    out = {}
    for t, name in enumerate(problem.types):
        plan = (PlanStage(t, 0, problem.n_cuts - 1),)
        costs = evaluate(problem, plan)
        if np.isfinite(costs.period_s):
            out[name] = Point(plan, costs)
    return out


def longest_chain(problem: Problem) -> list[int]:
    """A longest chain of cuts, each behind the one before, by any type that can be there."""
    possible: Bools = np.any(np.isfinite(problem.occupancy_s), axis=0)
    n = problem.n_cuts
    length, after = np.full(n, -1), np.full(n, -1)
    length[-1] = 0
    for i in range(n - 2, -1, -1):
        for j in range(i + 1, n):
            if possible[i, j] and length[j] >= 0 and length[j] + 1 > length[i]:
                length[i], after[i] = length[j] + 1, j
    chain = [0]
    while chain[-1] != n - 1:
        chain.append(int(after[chain[-1]]))
    return chain


def even_split(problem: Problem) -> Point | None:
    """All devices, in the order of the file, each with as many steps between cuts as the others. None if that cannot
    be."""
    order = [t for t, n in enumerate(problem.counts) for _ in range(n)]
    chain = longest_chain(problem)
    devices = order[: len(chain) - 1]
    ends = [chain[round((s + 1) * (len(chain) - 1) / len(devices))] for s in range(len(devices))]
    spans = zip(devices, pairwise([0, *ends]), strict=True)
    return _possible(problem, tuple(PlanStage(t, a, b) for t, (a, b) in spans))


def greedy(problem: Problem) -> Point | None:
    """The fastest devices first, each filled as far as it stays below a period; the least period with which this
    reaches the end, by halving."""
    total = problem.occupancy_s[:, 0, -1]
    order = [t for t in np.argsort(total).tolist() for _ in range(problem.counts[t])]
    finite = problem.occupancy_s[np.isfinite(problem.occupancy_s)]
    low, high = 0.0, float(finite.max())
    best: Point | None = None
    for _ in range(40):
        middle = (low + high) / 2
        plan = _filled(problem, order, middle)
        point = _possible(problem, plan) if plan else None
        if point is None:
            low = middle
            continue
        high = middle
        if best is None or point.costs.period_s < best.costs.period_s:
            best = point
    return best


def _filled(problem: Problem, order: Sequence[int], period: float) -> Plan | None:
    plan: list[PlanStage] = []
    at, last = 0, problem.n_cuts - 1
    for t in order:
        if at == last:
            break
        fits = np.flatnonzero(problem.occupancy_s[t, at] <= period)
        if plan and problem.hop_s[plan[-1].type, t, at] > period:
            return None
        fits = fits[fits > at]
        if len(fits) == 0:
            continue
        plan.append(PlanStage(t, at, int(fits[-1])))
        at = int(fits[-1])
    return tuple(plan) if at == last else None


def _possible(problem: Problem, plan: Plan) -> Point | None:
    costs = evaluate(problem, plan)
    return Point(plan, costs) if np.isfinite(costs.period_s) and np.isfinite(costs.energy_j) else None


def genetic(problem: Problem, seed: int, population: int = 60, generations: int = 60) -> list[Point]:
    """Non-dominated plans that a genetic search met: genes are an order of the devices and their shares of a chain of
    cuts (zero: not in use); fitness is a weighting of the logarithms of period and energy, drawn anew in every
    generation."""
    rng = np.random.default_rng(seed)
    devices = np.array([t for t, n in enumerate(problem.counts) for _ in range(n)])
    chain = np.array(longest_chain(problem))
    keys = rng.random((population, 2, len(devices)))
    known: list[Point] = []
    for _ in range(generations):
        points = [_decoded(problem, devices, chain, genes) for genes in keys]
        known = merged([*known, *(p for p in points if p is not None)])
        weight = rng.random()
        fitness = np.array([np.inf if p is None else weight * np.log(p.costs.period_s)
                            + (1 - weight) * np.log(max(p.costs.energy_j, 1e-30)) for p in points])  # fmt: skip
        parents = keys[np.argsort(fitness, kind="stable")[: population // 3]]
        pairs = rng.integers(0, len(parents), (2, population - len(parents)))
        mask = rng.random((population - len(parents), 2, len(devices))) < 0.5
        children = np.where(mask, parents[pairs[0]], parents[pairs[1]])
        changed = rng.random(children.shape) < 0.15
        children = np.where(changed, rng.random(children.shape), children)
        keys = np.concatenate([parents, children])
    return known


def _decoded(
    problem: Problem,
    devices: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    chain: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    genes: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> Point | None:
    order = devices[np.argsort(genes[0], kind="stable")]
    shares = np.where(genes[1] < 0.25, 0.0, genes[1])
    if shares.sum() == 0:
        return None
    ends = np.rint(np.cumsum(shares) / shares.sum() * (len(chain) - 1)).astype(np.int64)
    plan = [
        PlanStage(int(t), int(chain[a]), int(chain[b]))
        for t, (a, b) in zip(order, pairwise([0, *ends]), strict=True)
        if b > a
    ]
    return _possible(problem, tuple(plan))


def weighted_sums(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The points of a front that some weighting of period and energy prefers to all others, and those that none does,
    each fastest first: exact, by the lower convex hull."""
    front = merged(points)
    hull: list[Point] = []
    for point in front:
        while len(hull) > 1 and not _below(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull, [p for p in front if p not in hull]


def _below(a: Point, b: Point, c: Point) -> bool:
    """Whether b lies strictly below the line from a to c."""
    (ax, ay), (bx, by), (cx, cy) = ((p.costs.period_s, p.costs.energy_j) for p in (a, b, c))
    return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) > 0
