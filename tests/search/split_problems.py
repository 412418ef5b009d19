"""Small problems of splits, and all their plans, for what is held against enumeration."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cosoc.search.exact.splits import Point
from cosoc.search.spaces.splits import Floats, Plan, PlanStage, Problem


def random_problem(rng: np.random.Generator, counts: list[int], n_cuts: int, medium: bool, idle: float) -> Problem:
    """Small integers, so that ties are common; a tenth of all stages and hops cannot be."""
    n_types = len(counts)

    def draw(*shape: int) -> Floats:
        return rng.integers(1, 15, shape).astype(float)

    seconds, joules = draw(n_types, n_cuts - 1), draw(n_types, n_cuts - 1)
    occupancy, busy = np.full((2, n_types, n_cuts, n_cuts), np.inf)
    for i in range(n_cuts):
        for j in range(i + 1, n_cuts):
            occupancy[:, i, j] = seconds[:, i:j].sum(1) + rng.integers(0, 3, n_types)
            busy[:, i, j] = joules[:, i:j].sum(1)
    cannot = rng.random(occupancy.shape) < 0.1
    cannot[:, 0, -1] = False
    occupancy[cannot] = np.inf
    hop = np.where(rng.random((n_types, n_types, n_cuts)) < 0.1, np.inf, draw(n_types, n_types, n_cuts))
    return Problem(
        tuple(f"d{t}" for t in range(n_types)),
        tuple(counts),
        idle * rng.integers(0, 4, n_types),
        occupancy,
        busy,
        hop,
        draw(*hop.shape) / 3,
        draw(*hop.shape) / 3 if medium else np.zeros(hop.shape),
        draw(*hop.shape),
    )


def all_plans(problem: Problem, replicate: bool) -> Iterator[Plan]:
    def rest(at: int, left: list[int], plan: Plan) -> Iterator[Plan]:
        if at == problem.n_cuts - 1:
            yield plan
            return
        for t, n in enumerate(left):
            for r in range(1, (n if replicate else min(n, 1)) + 1):
                fewer = [m - r * (u == t) for u, m in enumerate(left)]
                for j in range(at + 1, problem.n_cuts):
                    yield from rest(j, fewer, (*plan, PlanStage(t, at, j, r)))

    yield from rest(0, list(problem.counts), ())


def figures(points: list[Point], latency: bool = False) -> Floats:
    """[points, 2 or 3], ascending."""
    rows = [(p.costs.period_s, p.costs.energy_j, p.costs.latency_s) for p in points]
    return np.array(sorted(row if latency else row[:2] for row in rows))
