"""Plans and bounds for more distinct devices than the exact programme of splits can tell apart.

Devices are put into classes, each as good as its best member: what the programme finds for those bounds every plan from
below, and its plans, given to the members, are where better ones are looked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cosoc.search.exact.limit import NO_LIMIT, Limit
from cosoc.search.exact.splits import (
    Pair,
    Point,
    as_good_as_best,
    front_until,
    least_period,
    merged,
    too_many,
)
from cosoc.search.spaces.splits import Floats, Plan, PlanStage, Problem, evaluate, no_plan

MOST_BOUND_STATES = 3_000_000  # of the problem that only bounds
BOUND_WITHIN = 0.01  # of the energy of a front that only bounds
EXCHANGES = 200  # of devices, that are tried


def optimistic(problem: Problem, classes: int = 6) -> tuple[Problem, list[list[int]]]:
    """For more distinct devices than the programme can tell apart: the problem with devices put into so many classes by
    speed (or as many as the programme takes), each as good as its best member at every stage and hop, so that no plan
    is better than its optimum; and the members of each class."""
    for n in range(min(classes, len(problem.types)), 0, -1):
        groups = _classes(problem, n)
        relaxed = as_good_as_best(problem, groups)
        if n == 1 or not too_many(relaxed, most=MOST_BOUND_STATES):
            break
    return relaxed, groups


def bounded(
    problem: Problem, classes: int = 6, seed: int = 0, enough_s: float = 0.0, limit: Limit = NO_LIMIT
) -> tuple[Point, float]:
    """For more distinct devices than the programme can tell apart: a plan, and a period that no plan goes below.

    The bound is that of `optimistic` classes. The stages of its optimum, given to the members and cut anew for their
    order (which is exact for a given order), are improved by exchanging devices while that helps, or until a plan has a
    period of enough_s (of an item), or the limit is over.
    """
    relaxed, groups = optimistic(problem, classes)
    bound = least_period(relaxed)
    speed = _speed(problem)
    waiting = {g: sorted(members, key=lambda t: speed[t]) for g, members in enumerate(groups)}
    left = dict(enumerate(problem.counts))
    order = []
    for stage in bound.plan:
        t = next(t for t in waiting[stage.type] if left[t])
        left[t] -= 1
        order.append(t)
    rest = [t for t, n in left.items() for _ in range(n)]
    rng = np.random.default_rng(seed)
    best, plan = _in_order(problem, order)
    for _ in range(EXCHANGES):
        if plan and (best <= enough_s or limit.over):
            break
        trial, spare = list(order), list(rest)
        i = int(rng.integers(len(trial)))
        j = int(rng.integers(len(trial) + len(spare)))
        if j < len(trial):
            trial[i], trial[j] = trial[j], trial[i]
        else:
            trial[i], spare[j - len(trial)] = spare[j - len(trial)], trial[i]
        period, found = _in_order(problem, trial)
        if period <= best:
            best, plan, order, rest = period, found, trial, spare
    if not plan:
        raise no_plan("no order of the devices that was tried makes a chain")
    return Point(plan, evaluate(problem, plan)), bound.costs.period_s


def bounded_front(problem: Problem, limit: Limit = NO_LIMIT) -> tuple[list[Point], list[Pair]]:
    """For more distinct devices than the programme can tell apart: plans, none beaten by another in period and energy,
    and (period, energy) such that each plan has at least as much of both as one of them."""
    relaxed, groups = optimistic(problem)
    ideal, pairs = front_until(limit, relaxed, within=BOUND_WITHIN)
    speed = _speed(problem)
    known = [bounded(problem, limit=limit)[0]]
    for point in ideal:
        left = dict(enumerate(problem.counts))
        plan = []
        for stage in point.plan:
            able = [t for t in groups[stage.type] if left[t]]
            t = min(able, key=lambda t: (problem.busy_j[t, stage.begin, stage.end], speed[t]))
            left[t] -= 1
            plan.append(PlanStage(t, stage.begin, stage.end))
        known += [
            Point(p, evaluate(problem, p)) for p in (tuple(plan), _in_order(problem, [s.type for s in plan])[1]) if p
        ]
    return merged([p for p in known if math.isfinite(p.costs.energy_j + p.costs.period_s)]), pairs


def _speed(problem: Problem) -> Floats:
    """[T]: median over stages of a type's seconds over the least of all types'."""
    least = problem.occupancy_s.min(axis=0)
    with np.errstate(invalid="ignore"):
        ratio = problem.occupancy_s / least
    out: Floats = np.array([np.median(r[np.isfinite(r)]) if np.isfinite(r).any() else np.inf for r in ratio])
    return out


def _classes(problem: Problem, classes: int) -> list[list[int]]:
    """Types by speed, cut at the widest gaps."""
    speed = _speed(problem)
    order = np.argsort(speed, kind="stable").tolist()
    gaps = np.diff(np.log(speed[order]))
    ends = sorted(np.argsort(-gaps, kind="stable")[: classes - 1].tolist())
    return [order[a:b] for a, b in zip([0, *(e + 1 for e in ends)], [*(e + 1 for e in ends), len(order)], strict=True)]


def _in_order(problem: Problem, order: Sequence[int]) -> tuple[float, Plan]:
    """The least period of stages on these devices in this order (all or the first of them), by a programme."""
    n = problem.n_cuts
    best = np.full((len(order), n), np.inf)
    start = np.zeros((len(order), n), np.int64)
    best[0] = problem.occupancy_s[order[0], 0]
    for s in range(1, len(order)):
        entry = np.maximum(best[s - 1], problem.hop_s[order[s - 1], order[s]])
        entry[[0, -1]] = np.inf
        through = np.maximum(entry[:, None], problem.occupancy_s[order[s]])
        start[s] = through.argmin(axis=0)
        best[s] = through.min(axis=0)
    last = int(best[:, -1].argmin())
    period = float(best[last, -1])
    if period == np.inf:
        return period, ()
    stages: list[PlanStage] = []
    end = n - 1
    for s in range(last, -1, -1):
        begin = int(start[s, end]) if s else 0
        stages.append(PlanStage(order[s], begin, end))
        end = begin
    return period, tuple(reversed(stages))
