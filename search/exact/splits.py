"""Exact optima of a split problem: the least period, the whole energy-throughput front, and the one with latency.

A state is (cut reached, devices used of each type, type and replicas of the last stage), so the programmes are exact
for any number of types; their time grows with the product of (count + 1) over the types, that is 2^devices where all
are distinct.

`least_energy` first lets plans use a device any number of times, at prices that make it pay not to (Lagrange
multipliers, by subgradients): a shortest way over cuts alone, whose cost bounds the true one from below. States that
cannot end below a known plan by that bound are not looked at, which leaves few of the 2^devices.

`least_period` is a bottleneck programme. `front` finds every non-dominated (period, energy): among plans whose period
lies between two candidates p <= q, none takes less than the least sum of joules and idle watts x p that a programme
finds which forbids stages and hops slower than q. Where a known point as fast as p takes no more than that, or the plan
found is as fast as p, the whole interval is done; else it is halved. On one candidate the sum is the energy itself.
`front_labels` carries sets of non-dominated (period, joules, latency, medium seconds) through the states instead:
slower, but it knows latency and a shared medium, whose load is a sum. More distinct devices: `split_classes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cosoc.search.exact.limit import NO_LIMIT, Limit, OutOfTime
from cosoc.search.exact.split_loops import labels, least_states, priced_ways, relaxed_ways
from cosoc.search.spaces.splits import Costs, Floats, Plan, PlanStage, Problem, evaluate, no_plan

Ints = np.ndarray[Any, np.dtype[np.int64]]
Pair = tuple[float, float]  # seconds of the period and joules, of an inference

MOST_STATES = 20_000_000  # cuts x used x options of one table
LARGEST = float(np.finfo(float).max)
CLOSE = 1e-12  # relative: sums of the same figures in another order
ABOVE = (0.003, 0.01, 0.03, 0.1, 0.2, 0.5)  # parts above a bound below which a plan is looked for first


@dataclass(frozen=True)
class Point:
    """A plan and its costs."""

    plan: Plan
    costs: Costs


@dataclass(frozen=True)
class _Tables:
    """The problem by option: K options are (type, replicas). weight [K]: what an option adds to the code of the used
    devices; digits [K]: the place of its type in it (radix: count + 1)."""

    types: Ints
    replicas: Ints
    weight: Ints
    place: Ints
    counts: Ints
    n_used: int
    stage_s: Floats  # [K, N, N], by replicas
    stage_j: Floats
    latency_s: Floats
    hop_s: Floats  # [K, K, N]
    hop_j: Floats
    medium_s: Floats
    delay_s: Floats
    idle_w: Floats  # [K]
    ways_s: Floats  # [K, N, N, ways]
    ways_j: Floats


def _places(problem: Problem) -> Ints:
    """[T]: what a device of a type adds to the code of the used ones."""
    out: Ints = np.concatenate(([1], np.cumprod(np.array(problem.counts, dtype=np.int64) + 1)))[:-1]
    return out


def _tables(problem: Problem, replicate: bool) -> _Tables:
    options = [(t, r) for t, n in enumerate(problem.counts) for r in range(1, (n if replicate else min(n, 1)) + 1)]
    types = np.array([t for t, _ in options], dtype=np.int64)
    replicas = np.array([r for _, r in options], dtype=np.int64)
    places = _places(problem)
    fewer = np.minimum(replicas[:, None], replicas[None, :])[:, :, None]
    pairs = np.ix_(types, types)
    ways_s = problem.ways_s[types] / replicas[:, None, None, None]
    return _Tables(
        types,
        replicas,
        places[types] * replicas,
        places[types],
        np.array(problem.counts, dtype=np.int64)[types],
        math.prod(n + 1 for n in problem.counts),
        np.ascontiguousarray(ways_s.min(axis=3)),
        np.ascontiguousarray(problem.busy_j[types]),
        np.ascontiguousarray(problem.occupancy_s[types]),
        np.ascontiguousarray(problem.hop_s[pairs] / fewer),
        np.ascontiguousarray(problem.hop_j[pairs]),
        np.ascontiguousarray(problem.medium_s[pairs]),
        np.ascontiguousarray(problem.delay_s[pairs]),
        problem.idle_w[types] * replicas,
        ways_s,
        problem.ways_j[types],
    )


def _plan(tables: _Tables, rows: Ints, ways: Ints | None = None) -> Plan:
    """Rows (option, begin, end), the last stage first, as a plan; ways [K, N, N]: of each stage, else the fastest."""
    out = []
    for k, i, j in rows[::-1].tolist():
        way = int(np.argmin(tables.ways_s[k, i, j]) if ways is None else ways[k, i, j])
        out.append(PlanStage(int(tables.types[k]), int(i), int(j), int(tables.replicas[k]), way))
    return tuple(out)


def counted(problem: Problem) -> tuple[Problem, tuple[tuple[int, ...], ...]]:
    """The problem with types that are equal in all they cost as one, with the sum of their counts; and of each type
    there the types here."""
    tables = (problem.occupancy_s, problem.busy_j, problem.idle_w, problem.slower_s, problem.slower_j)
    across = (problem.hop_s, problem.hop_j, problem.medium_s, problem.delay_s)

    def equal(a: int, b: int) -> bool:
        if not all(table is None or np.array_equal(table[a], table[b]) for table in tables):
            return False
        swapped = list(range(len(problem.types)))
        swapped[a], swapped[b] = b, a
        inner = np.ix_((a, b), (a, b))
        return all(
            np.array_equal(table[a], table[b][swapped]) and np.array_equal(table[:, a], table[swapped, b])
            and bool((table[inner] == table[a, a]).all())
            for table in across
        )  # fmt: skip

    members: list[list[int]] = []
    alike: dict[int, list[list[int]]] = {}  # by their own costs, so that few are compared
    for t in range(len(problem.types)):
        known = alike.setdefault(hash(b"".join(table[t].tobytes() for table in tables if table is not None)), [])
        found = next((own for own in known if equal(own[0], t)), None)
        if found is None:
            members.append([t])
            known.append(members[-1])
        else:
            found.append(t)
    if len(members) == len(problem.types):
        return problem, tuple((t,) for t in range(len(problem.types)))
    return as_good_as_best(problem, members), tuple(map(tuple, members))


def as_good_as_best(problem: Problem, groups: Sequence[Sequence[int]]) -> Problem:
    """Each group of types as one, at each stage and hop as good as its best member, way by way."""

    def least(table: Floats) -> Floats:
        return np.stack([table[list(g)].min(axis=0) for g in groups])

    def hops(table: Floats) -> Floats:
        return np.array([[table[np.ix_(a, b)].min(axis=(0, 1)) for b in groups] for a in groups])

    return Problem(
        tuple("+".join(problem.types[t] for t in g) for g in groups),
        tuple(sum(problem.counts[t] for t in g) for g in groups),
        np.array([problem.idle_w[list(g)].min() for g in groups]),
        least(problem.occupancy_s),
        least(problem.busy_j),
        hops(problem.hop_s),
        hops(problem.hop_j),
        hops(problem.medium_s),
        hops(problem.delay_s),
        problem.items,
        problem.cuts,
        None if problem.slower_s is None else least(problem.slower_s),
        None if problem.slower_j is None else least(problem.slower_j),
    )


def _enough(problem: Problem) -> Problem:
    """The problem with no more devices of a type than a plan without replicas has stages."""
    return replace(problem, counts=tuple(min(n, problem.n_cuts - 1) for n in problem.counts))


def too_many(problem: Problem, replicate: bool = False, most: int = MOST_STATES) -> bool:
    """Whether the programme's tables would have more than `most` entries. Equal devices are counted, unless several
    of them may take turns in a stage, which is of one name."""
    counts = (problem if replicate else _enough(counted(problem)[0])).counts
    options = sum(n if replicate else min(n, 1) for n in counts)
    return math.prod(n + 1 for n in counts) * options * problem.n_cuts > most


class Programme:
    """The tables of one problem, to be asked with several limits and prices. OutOfTime, of any of them, once the limit
    is over."""

    def __init__(self, problem: Problem, replicate: bool = False, limit: Limit = NO_LIMIT) -> None:
        self.problem, self.replicate, self.limit = problem, replicate, limit
        alone = tuple((t,) for t in range(len(problem.types)))
        small, self._members = (problem, alone) if replicate else counted(problem)
        small = small if replicate else _enough(small)
        self._counts = np.array(small.counts)
        if too_many(small, replicate):
            raise ValueError("too many states for the exact programme: ask too_many first, and use bounded")
        self.tables = t = _tables(small, replicate)
        shape = problem.n_cuts, t.n_used, len(t.types)
        self._best = np.full(shape, np.inf)
        self._start, self._before = np.empty(shape, np.int32), np.empty(shape, np.int16)
        self._prices = np.zeros(len(small.types))
        left = self._counts - (np.arange(t.n_used)[:, None] // _places(small)) % (self._counts + 1)
        self._left = left.astype(float)  # devices of each type that are left, by used
        self.solves = 0

    def _solved(
        self, limit_s: float, stage_c: Floats, hop_c: Floats, bottleneck: bool, begin: Floats, end: Floats,
        spare: Floats, ceiling: float,
    ) -> tuple[float, Ints]:  # fmt: skip
        t = self.tables
        with self.limit.flag() as stop:
            cost, rows = least_states(
                t.stage_s, stage_c, t.hop_s, hop_c, limit_s, bottleneck, begin, end, spare, ceiling,
                t.weight, t.place, t.counts, t.replicas, self._best, self._start, self._before, stop,
            )  # fmt: skip
        if stop[0]:
            raise OutOfTime
        return float(cost), rows

    def least_period(self) -> Point:
        """The plan of the least period. With a shared medium, of the least period without it: a lower bound."""
        t = self.tables
        nothing = np.zeros((self.problem.n_cuts, len(t.types)))
        cost, rows = self._solved(np.inf, t.stage_s, t.hop_s, True, nothing, nothing, np.zeros(t.n_used), np.inf)
        if cost == np.inf:
            raise no_plan("no chain of stages on these devices reaches from the first layer to the last")
        return self.point(rows)

    def point(self, rows: Ints, ways: Ints | None = None) -> Point:
        """Rows of the tables as a plan of the problem, see `_plan`."""
        left = [[t for t in own for _ in range(self.problem.counts[t])] for own in self._members]
        plan = _plan(self.tables, rows, ways)
        if not self.replicate:
            plan = tuple(replace(stage, type=left[stage.type].pop(0)) for stage in plan)
        return Point(plan, evaluate(self.problem, plan))

    def least_energy(self, limit_s: float, price_s: float, ceiling_j: float = np.inf) -> tuple[float, Point | None]:
        """The least joules of an item + idle watts x price_s over plans with no stage or hop above limit_s, and the
        plan; (inf, None) where there is none below ceiling_j.

        First of plans that may use a device any number of times, at prices that make it pay not to: where that bound
        reaches the ceiling, or its plan is a plan, it is the answer; else it says which states need no look."""
        t = self.tables
        joules = np.where(t.ways_s <= min(limit_s, LARGEST), t.ways_j, np.inf)
        ways = joules.argmin(axis=3)
        stage_c = np.take_along_axis(joules, ways[..., None], axis=3)[..., 0] + (t.idle_w * price_s)[:, None, None]
        cost, rows = self._least_sum(stage_c, t.hop_j, limit_s, ceiling_j)
        if cost == np.inf:
            return math.inf, None
        return cost, self.point(rows, ways)

    def least_latency(self) -> Point:
        """The plan of the least latency in an empty pipeline."""
        t = self.tables
        ways = t.ways_s.argmin(axis=3)
        stage_c = np.take_along_axis(t.ways_s, ways[..., None], axis=3)[..., 0] * t.replicas[:, None, None]
        _, rows = self._least_sum(stage_c, t.delay_s, np.inf, np.inf)
        return self.point(rows, ways)

    def _least_sum(self, stage_c: Floats, hop_c: Floats, limit_s: float, ceiling: float) -> tuple[float, Ints]:
        """The least sum of stage_c [K, N, N] and hop_c [K, K, N] of a plan with no stage or hop above limit_s, and its
        rows; (inf, none) where there is none below the ceiling."""
        t = self.tables
        self.solves += 1
        bound, prices, cost, rows = priced_ways(
            stage_c, t.hop_s, hop_c, limit_s, ceiling, t.types, self._counts, t.replicas, self._prices
        )
        none = np.empty((0, 3), np.int64)
        if bound >= ceiling:
            return math.inf, none
        self._prices = prices
        rows = rows[::-1]
        if cost > bound * (1 + CLOSE):
            begin, end, _ = relaxed_ways(stage_c, t.hop_s, hop_c, limit_s, prices[t.types] * t.replicas)
            spare = self._left @ prices
            most = min(cost, ceiling)
            for part in (*ABOVE, math.inf):  # few states lie close above the bound, mostly the answer among them
                below = min(bound + part * abs(bound), most)
                other, other_rows = self._solved(limit_s, stage_c, hop_c, False, begin, end, spare, below)
                if other < cost:
                    cost, rows = other, other_rows
                if other < below or below == most:
                    break
        return (float(cost), rows) if cost < ceiling else (math.inf, none)

    def candidates(self) -> Floats:
        """Every value that a period can take without a shared medium, ascending."""
        t = self.tables
        values = np.concatenate([t.ways_s.ravel(), t.hop_s[:, :, 1:-1].ravel()])
        out: Floats = np.unique(values[np.isfinite(values) & (values > 0)])
        return out


def least_period(problem: Problem, replicate: bool = False) -> Point:
    """The plan of the least period: see `Programme.least_period`."""
    return Programme(problem, replicate).least_period()


def front(problem: Problem, replicate: bool = False, within: float = 0.0) -> list[Point]:
    """Every non-dominated (period, energy), each with one plan, fastest first. within: so many that each plan has one
    that is as fast and takes at most 1 + within times its energy; the fastest is among them."""
    return front_until(NO_LIMIT, problem, replicate, within)[0]


def front_until(
    limit: Limit, problem: Problem, replicate: bool = False, within: float = 0.0
) -> tuple[list[Point], list[Pair]]:
    """`front`, or as much of it as is found before the limit is over, and (period, energy) such that each plan has at
    least as much of both as one of them: those of the front less `within`, and bounds on what was not looked at."""
    try:
        if problem.shared:
            known = front_labels(problem, replicate, latency=False, limit=limit)
            return known, [(one.costs.period_s, one.costs.energy_j) for one in known]
        programme = Programme(problem, replicate, limit)
        fastest = programme.least_period()
    except OutOfTime:
        least = floor(problem, replicate)
        return [], [(least.period_s, least.energy_j)]
    items = problem.items
    least_s = fastest.costs.period_s * items
    periods = programme.candidates()
    periods = periods[periods >= least_s * (1 - CLOSE)]
    known = [fastest]
    stack = [(0, len(periods) - 1, 0.0)]  # of candidates, and joules that plans between them take at least
    open_: list[Pair] = []
    while stack:
        low, high, bound = stack.pop()
        p, q = float(periods[low]), float(periods[high])
        as_fast = [k.costs.energy_j for k in known if k.costs.period_s <= p / items * (1 + CLOSE)]
        try:
            cost, point = programme.least_energy(q, p, min(as_fast, default=np.inf) * items / (1 + within))
        except OutOfTime:
            least = floor(problem, replicate, p)
            open_ += [(float(periods[at]) / items, max(below / items, least.energy_j)) for at, _, below in
                      [*stack, (low, high, bound)]]  # fmt: skip
            break
        if point is None:
            continue
        known = merged([*known, point])
        if low < high and point.costs.period_s > p / items * (1 + CLOSE):
            middle = (low + high) // 2
            stack += [(middle + 1, high, cost), (low, middle, cost)]
    return known, [*((one.costs.period_s, one.costs.energy_j / (1 + within)) for one in known), *open_]


def floor(problem: Problem, replicate: bool = False, period_s: float = 0.0) -> Costs:
    """What no plan goes below, each figure by itself, where any device may be used any number of times: period (of an
    inference), energy at that period or a longer one (period_s, of an item), latency."""
    copies = np.array(problem.counts if replicate else [1] * len(problem.counts), dtype=float)
    fastest = (problem.ways_s.min(axis=3) / copies[:, None, None]).min(axis=0)
    n = problem.n_cuts
    worst = np.full(n, np.inf)  # the least longest stage from a cut to the end
    worst[-1] = 0.0
    for i in range(n - 2, -1, -1):
        worst[i] = np.min(np.maximum(fastest[i, i + 1 :], worst[i + 1 :]))
    period = max(float(worst[0]), period_s)
    ways_j = np.where(problem.ways_s < np.inf, problem.ways_j, np.inf).min(axis=3)
    joules = _rest(ways_j, problem.idle_w * period)[0]
    return Costs(period / problem.items, float(joules) / problem.items, float(_rest(problem.ways_s.min(axis=3))[0]))


def merged(points: Sequence[Point], latency: bool = False) -> list[Point]:
    """The points that none beats or equals in period, energy (and latency), fastest first."""
    out: list[Point] = []
    order = sorted(points, key=lambda p: (p.costs.period_s, p.costs.energy_j, p.costs.latency_s))
    for point in order:
        mine = point.costs
        if not any(
            k.costs.energy_j <= mine.energy_j * (1 + CLOSE)
            and (not latency or k.costs.latency_s <= mine.latency_s * (1 + CLOSE))
            for k in out
        ):
            out.append(point)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Label setting


def front_labels(
    problem: Problem, replicate: bool = False, latency: bool = True, known: Sequence[Point] = (),
    limit: Limit = NO_LIMIT,
) -> list[Point]:  # fmt: skip
    """Every non-dominated (period, energy, latency), or (period, energy) without `latency`, fastest first. A shared
    medium's load is part of the period. `known` plans bound the search; they are not needed. OutOfTime once the limit
    is over."""
    programme = Programme(problem, replicate, limit)
    t = programme.tables
    programme.least_period()  # says why where there is no plan
    ceilings = [(p.costs.period_s, p.costs.energy_j, p.costs.latency_s) for p in known]
    bounds = np.array(ceilings, dtype=float).reshape(-1, 3) * (problem.items, problem.items, 1)
    rest_j, rest_s = _rest(t.stage_j), _rest(t.latency_s)
    if not latency:
        rest_s = np.zeros_like(rest_s)
    with limit.flag() as stop:
        pool, last = labels(
            t.stage_s, t.stage_j, t.latency_s, t.hop_s, t.hop_j, t.medium_s, t.delay_s, t.idle_w, latency, bounds,
            rest_j, rest_s, t.weight, t.place, t.counts, t.replicas, t.n_used, stop,
        )  # fmt: skip
    if stop[0]:
        raise OutOfTime
    ends = pool[last]
    period = np.maximum(ends[:, 0], ends[:, 3])
    values = np.column_stack([period, ends[:, 1] + ends[:, 4] * period, ends[:, 2]])
    points = []
    for number in _front_rows(values, 3 if latency else 2):
        points.append(programme.point(_walk(pool, int(last[number]), problem.n_cuts - 1)))
    return merged([*points, *known], latency)


def _front_rows(values: Floats, dims: int) -> list[int]:
    """Rows of `values` that no other beats, by the first column."""
    order = np.lexsort(values[:, ::-1].T)
    kept: list[int] = []
    for row in order.tolist():
        best = values[kept, 1:dims]
        if not kept or not np.any(np.all(best <= values[row, 1:dims], axis=1)):
            kept.append(row)
    return kept


def _rest(stage: Floats, fixed: Floats | float = 0.0) -> Floats:
    """[N]: the least sum of `stage` [K, N, N] and `fixed` [K] from each cut to the last, any option at every stage,
    hops for nothing."""
    least = (stage + np.reshape(fixed, (-1, 1, 1))).min(axis=0)
    n = len(least)
    out = np.full(n, np.inf)
    out[-1] = 0.0
    for i in range(n - 2, -1, -1):
        out[i] = np.min(least[i, i + 1 :] + out[i + 1 :])
    return out


def _walk(pool: Floats, number: int, end: int) -> Ints:
    """Rows (option, begin, end) of a label, the last stage first."""
    rows = []
    while number >= 0:
        k, begin, before = (int(v) for v in pool[number, 5:])
        rows.append((k, begin, end))
        end, number = begin, before
    return np.array(rows, dtype=np.int64)
