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

from cosoc.search.exact.limit import NO_LIMIT, Limit, OutOfTime
from cosoc.search.exact.split_classes import optimistic
from cosoc.search.exact.splits import Pair, Point, Programme, floor, too_many
from cosoc.search.spaces.splits import Problem
from cosoc.search.split_costs import Case
from cosoc.search.targets import Target
from cosoc.sim.figures import Figures, Objective


def named(objective: str, targets: Sequence[Target]) -> set[str]:
    """What an objective and its targets are made of: latency, energy, peak, throughput."""
    words = {word.partition("^")[0].strip() for word in objective.split("*")} | {one.objective for one in targets}
    return words - {"edp"} | ({"latency", "energy"} if "edp" in words else set())


def least_latency(problem: Problem, limit: Limit = NO_LIMIT) -> Point:
    """The plan of the least latency, or of a problem that bounds it where devices are too many. OutOfTime once the
    limit is over."""
    return Programme(optimistic(problem)[0] if too_many(problem) else problem, limit=limit).least_latency()


def least_peak(case: Case, limit: Limit = NO_LIMIT) -> tuple[Point, float]:
    """A plan whose fullest device holds least, or that of a problem which bounds it, and the bytes. OutOfTime once the
    limit is over."""
    bytes_only = _bytes_only(case)
    asked = optimistic(bytes_only)[0] if too_many(bytes_only) else bytes_only
    point = Programme(asked, limit=limit).least_period()
    return point, point.costs.period_s * case.problem.items


def _bytes_only(case: Case) -> Problem:
    """The problem whose seconds are bytes."""
    problem = case.problem
    possible = np.isfinite(problem.ways_s).any(axis=3)
    return replace(
        problem, occupancy_s=np.where(possible, case.needs, np.inf), slower_s=None, slower_j=None,
        hop_s=np.where(np.isfinite(problem.hop_s), 0.0, np.inf), medium_s=np.zeros_like(problem.medium_s),
    )  # fmt: skip


def _latency_s(case: Case, limit: Limit) -> float:
    try:
        found = least_latency(case.problem, limit).costs.latency_s
    except OutOfTime:
        found = floor(case.problem).latency_s
    alone = 0.0 if case.everyone is None else floor(case.everyone).latency_s
    return max(found / (1 + case.left_out[1]), alone)


def _peak_bytes(case: Case, limit: Limit) -> float:
    try:
        return least_peak(case, limit)[1]
    except OutOfTime:
        return floor(_bytes_only(case)).period_s * case.problem.items


def with_left_out(case: Case, pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs such that each plan of the case has at least as much of both as one of them, with the devices, too, that
    were left out."""
    if case.everyone is None:
        return list(pairs)
    slower, above = (1 + part for part in case.left_out)
    least = min(period for period, _ in pairs) / slower
    out = []
    for period, joules in pairs:
        period_s = max(period / above, least)
        alone = floor(case.everyone, period_s=period_s * case.problem.items)
        out.append((period_s, max(joules / above**2, alone.energy_j)))
    return out


def bound(
    cases: Sequence[Case],
    fronts: Sequence[tuple[int, Sequence[Pair]]],
    aim: Objective,
    names: set[str],
    limit: Limit = NO_LIMIT,
) -> float:
    """A value of the objective that no plan of the cases goes below. fronts: of each, the number of the case and such
    pairs that every plan has at least as much of both as one of them. After the limit with looser bounds."""
    out = np.inf
    for number, pairs in fronts:
        case = cases[number]
        latency = _latency_s(case, limit) if "latency" in names else 0.0
        peak = _peak_bytes(case, limit) if "peak" in names else 0.0
        least = (Figures(latency, joules, math.floor(peak), 1 / period) for period, joules in pairs)
        out = min([out, *(float(aim(one)) for one in least)])
    return float(out)
