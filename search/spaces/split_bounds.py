"""What no split goes below, by the programme's costs: of any objective that grows with period, energy, latency, memory.

A front of period and energy says which pairs of them any plan has at least. Latency and memory are bounded by their own
least plans. So the bound is exact for throughput, energy, their products, and latency or peak alone; where an objective
mixes them it is what no plan reaches that has all of them least at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cosoc.search.exact.splits import Point, Programme, optimistic, too_many
from cosoc.search.spaces.splits import Problem
from cosoc.search.split_costs import Case
from cosoc.search.targets import Target
from cosoc.sim.figures import Figures, Objective

Pair = tuple[float, float]  # seconds of the period and joules, of an inference


def named(objective: str, targets: Sequence[Target]) -> set[str]:
    """What an objective and its targets are made of: latency, energy, peak, throughput."""
    words = {word.partition("^")[0].strip() for word in objective.split("*")} | {one.objective for one in targets}
    return words - {"edp"} | ({"latency", "energy"} if "edp" in words else set())


def least_latency(problem: Problem) -> Point:
    """The plan of the least latency, or of a problem that bounds it where devices are too many."""
    return Programme(optimistic(problem)[0] if too_many(problem) else problem).least_latency()


def least_peak(case: Case) -> tuple[Point, float]:
    """A plan whose fullest device holds least, or that of a problem which bounds it, and the bytes."""
    problem = case.problem
    possible = np.isfinite(problem.ways_s).any(axis=3)
    bytes_only = replace(
        problem, occupancy_s=np.where(possible, case.needs, np.inf), slower_s=None, slower_j=None,
        hop_s=np.where(np.isfinite(problem.hop_s), 0.0, np.inf), medium_s=np.zeros_like(problem.medium_s),
    )  # fmt: skip
    asked = optimistic(bytes_only)[0] if too_many(bytes_only) else bytes_only
    point = Programme(asked).least_period()
    return point, point.costs.period_s * problem.items


def bound(
    cases: Sequence[Case], fronts: Sequence[tuple[int, Sequence[Pair]]], aim: Objective, names: set[str]
) -> float:
    """A value of the objective that no plan of the cases goes below. fronts: of each, the number of the case and such
    pairs that every plan has at least one of them."""
    out = np.inf
    for number, pairs in fronts:
        case = cases[number]
        latency = least_latency(case.problem).costs.latency_s if "latency" in names else 0.0
        peak = least_peak(case)[1] if "peak" in names else 0.0
        least = (Figures(latency, joules, math.floor(peak), 1 / period) for period, joules in pairs)
        out = min([out, *(float(aim(one)) for one in least)])
    return float(out)
