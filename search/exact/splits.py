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
slower, but it knows latency and a shared medium, whose load is a sum. `bounded` is for more distinct devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from cosoc.search.spaces.splits import Costs, Floats, Plan, PlanStage, Problem, evaluate, no_plan

Ints = np.ndarray[Any, np.dtype[np.int64]]

MOST_STATES = 20_000_000  # cuts x used x options of one table
LARGEST = float(np.finfo(float).max)
CLOSE = 1e-12  # relative: sums of the same figures in another order
ABOVE = (0.003, 0.01, 0.03, 0.1, 0.2, 0.5)  # parts above a bound below which a plan is looked for first
PRICE_STEPS = 60  # of subgradients, for the prices of devices


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


@njit(cache=True)
def _relaxed(stage_c, hop_s, hop_c, limit, prices):  # type: ignore[no-untyped-def]
    """The least cost from each cut to the end where every device may be used any number of times, at a price a use:
    [N, K] of ways that begin with a stage on option k, [N, K] of those behind a stage that ended there on option k, and
    of the best way the rows (option, begin, end), the first stage first. prices [K]."""
    n_options, n_cuts = stage_c.shape[0], stage_c.shape[1]
    begin = np.full((n_cuts, n_options), np.inf)
    end = np.full((n_cuts, n_options), np.inf)
    to = np.zeros((n_cuts, n_options), np.int64)  # where the stage that begins here ends
    following = np.zeros((n_cuts, n_options), np.int64)  # the option behind the one that ends here
    for k in range(n_options):
        end[n_cuts - 1, k] = 0.0
    for i in range(n_cuts - 2, -1, -1):
        for k in range(n_options):
            for j in range(i + 1, n_cuts):
                cost = stage_c[k, i, j] + prices[k] + end[j, k]
                if cost < begin[i, k]:
                    begin[i, k] = cost
                    to[i, k] = j
        if i > 0:
            for k in range(n_options):
                for q in range(n_options):
                    if hop_s[k, q, i] <= limit:
                        cost = hop_c[k, q, i] + begin[i, q]
                        if cost < end[i, k]:
                            end[i, k] = cost
                            following[i, k] = q
    rows = np.empty((n_cuts, 3), np.int64)
    n_rows, at = 0, 0
    k = int(np.argmin(begin[0]))
    if begin[0, k] < np.inf:
        while at < n_cuts - 1:
            rows[n_rows, 0], rows[n_rows, 1], rows[n_rows, 2] = k, at, to[at, k]
            n_rows += 1
            at = to[at, k]
            k = following[at, k]
    return begin, end, rows[:n_rows]


@njit(cache=True)
def _priced(  # type: ignore[no-untyped-def]
    stage_c, hop_s, hop_c, limit, ceiling, types, type_counts, replicas, prices,
):  # fmt: skip
    """Prices of devices [T] that make a relaxed plan use no more of them than there are, by subgradients from `prices`
    on; with them the relaxed plan bounds the cost of every plan from below. Returns that bound, the prices, the cost of
    the best plan met which uses no device too often (inf: none), and its rows. Ends where the bound reaches `ceiling`
    or that cost."""
    n_types, n_options = len(type_counts), len(types)
    best_prices, best_bound = prices.copy(), -np.inf
    found, found_rows = np.inf, np.empty((0, 3), np.int64)
    step = 1.0
    now = prices.copy()
    of_option = np.empty(n_options)
    for _ in range(PRICE_STEPS):
        for k in range(n_options):
            of_option[k] = now[types[k]] * replicas[k]
        begin, _, rows = _relaxed(stage_c, hop_s, hop_c, limit, of_option)
        total = begin[0].min()
        if total == np.inf:
            return np.inf, now, np.inf, found_rows
        bound = total - (now * type_counts).sum()
        over = -type_counts.astype(np.float64)
        cost = total
        for r in range(len(rows)):
            k = rows[r, 0]
            over[types[k]] += replicas[k]
            cost -= of_option[k]
        if bound > best_bound:
            if bound < best_bound + 1e-4 * abs(best_bound):
                step *= 0.7
            best_bound, best_prices = bound, now.copy()
        else:
            step *= 0.7
        if (over <= 0).all() and cost < found:
            found, found_rows = cost, rows
        if best_bound >= min(ceiling, found) * (1 - 1e-12) or step < 1e-3:
            break
        goal = min(ceiling, found)
        if goal == np.inf:
            goal = best_bound + 0.05 * abs(best_bound) + 1e-30
        norm = 0.0
        for t in range(n_types):
            if over[t] < 0 and now[t] == 0:
                over[t] = 0.0
            norm += over[t] * over[t]
        if norm == 0:
            break
        for t in range(n_types):
            now[t] = max(0.0, now[t] + step * max(goal - bound, 1e-4 * abs(bound)) * over[t] / norm)
    return best_bound, best_prices, found, found_rows


@njit(cache=True)
def _least(  # type: ignore[no-untyped-def]
    stage_s, stage_c, hop_s, hop_c, limit, bottleneck, begin, end, spare, ceiling, weight, place, counts, replicas,
    best, start, before,
):  # fmt: skip
    """The least cost of a plan without stage or hop slower than `limit`: sums of stage_c and hop_c, or their maximum
    with `bottleneck`. Plans that cost `ceiling` or more are not looked for.

    begin, end [N, K]: bounds on what the way from a cut to the end costs, from before a stage on an option and behind
    one, of which `spare` [used] is to be taken off again for the devices that are left. best, start, before
    [N, used, K]: tables of inf and anything, which are left so. Returns the cost, and the plan as rows (option, begin,
    end), the last stage first."""
    n_options, n_cuts, n_used = stage_s.shape[0], stage_s.shape[1], best.shape[1]
    # best: of a plan to this cut, whose last stage is this option; start, before: where it began, the option before
    entry = np.full((n_used, n_options), np.inf)  # a plan to the cut at hand and over the hop to this next option
    behind = np.full((n_used, n_options), -1, np.int16)  # the option before it
    ends = np.empty(n_cuts, np.int64)
    head = np.full(n_cuts, -1, np.int64)  # states by cut, as chains through `following`
    following, code = np.empty(1 << 12, np.int64), np.empty(1 << 12, np.int64)
    n_states = 0
    fresh = np.empty(n_used * n_options, np.int64)  # entries of the cut at hand
    last, last_cost = -1, ceiling
    for i in range(n_cuts - 1):
        n_fresh = 0
        if i == 0:
            for k in range(n_options):
                entry[0, k] = 0.0
                fresh[n_fresh] = k
                n_fresh += 1
        state = head[i]
        while state >= 0:
            u, k = code[state] // n_options, code[state] % n_options
            state = following[state]
            so_far = best[i, u, k]
            for q in range(n_options):
                if hop_s[k, q, i] <= limit:
                    cost = max(so_far, hop_c[k, q, i]) if bottleneck else so_far + hop_c[k, q, i]
                    at_least = max(cost, begin[i, q]) if bottleneck else cost + begin[i, q] - spare[u]
                    if cost < entry[u, q] and at_least < last_cost:
                        if entry[u, q] == np.inf:
                            fresh[n_fresh] = u * n_options + q
                            n_fresh += 1
                        entry[u, q] = cost
                        behind[u, q] = k
        for k in range(n_options):
            n_ends = 0
            for j in range(i + 1, n_cuts):
                if stage_s[k, i, j] <= limit:
                    ends[n_ends] = j
                    n_ends += 1
            for f in range(n_fresh):
                if fresh[f] % n_options != k:
                    continue
                u = fresh[f] // n_options
                so_far, from_option = entry[u, k], behind[u, k]
                if (u // place[k]) % (counts[k] + 1) + replicas[k] > counts[k]:
                    continue
                to = u + weight[k]
                for e in range(n_ends):
                    j = ends[e]
                    cost = max(so_far, stage_c[k, i, j]) if bottleneck else so_far + stage_c[k, i, j]
                    at_least = max(cost, end[j, k]) if bottleneck else cost + end[j, k] - spare[to]
                    if j == n_cuts - 1:
                        at_least = cost
                    if cost < best[j, to, k] and at_least < last_cost:
                        if best[j, to, k] == np.inf:
                            if n_states == len(code):
                                following, code = _doubled(following), _doubled(code)
                            following[n_states], code[n_states] = head[j], to * n_options + k
                            head[j] = n_states
                            n_states += 1
                        best[j, to, k] = cost
                        start[j, to, k] = i
                        before[j, to, k] = from_option
                        if j == n_cuts - 1:
                            last, last_cost = to * n_options + k, cost
        for f in range(n_fresh):
            entry[fresh[f] // n_options, fresh[f] % n_options] = np.inf
    rows = np.empty((n_cuts, 3), np.int64)
    n_rows, at = 0, n_cuts - 1
    while last >= 0 and at > 0:
        u, k = last // n_options, last % n_options
        rows[n_rows, 0], rows[n_rows, 1], rows[n_rows, 2] = k, start[at, u, k], at
        n_rows += 1
        last = (u - weight[k]) * n_options + before[at, u, k]
        at = start[at, u, k]
    for j in range(n_cuts):
        state = head[j]
        while state >= 0:
            best[j, code[state] // n_options, code[state] % n_options] = np.inf
            state = following[state]
    return (last_cost if n_rows else np.inf), rows[:n_rows]


@njit(cache=True)
def _doubled(values):  # type: ignore[no-untyped-def]
    """An array twice as long."""
    out = np.empty(2 * len(values), values.dtype)
    out[: len(values)] = values
    return out


def _plan(tables: _Tables, rows: Ints, ways: Ints | None = None) -> Plan:
    """Rows (option, begin, end), the last stage first, as a plan; ways [K, N, N]: of each stage, else the fastest."""
    out = []
    for k, i, j in rows[::-1].tolist():
        way = int(np.argmin(tables.ways_s[k, i, j]) if ways is None else ways[k, i, j])
        out.append(PlanStage(int(tables.types[k]), int(i), int(j), int(tables.replicas[k]), way))
    return tuple(out)


def too_many(problem: Problem, replicate: bool = False, most: int = MOST_STATES) -> bool:
    """Whether the programme's tables would have more than `most` entries."""
    options = sum(n if replicate else min(n, 1) for n in problem.counts)
    used = math.prod(n + 1 for n in problem.counts)
    return used * options * problem.n_cuts > most


class Programme:
    """The tables of one problem, to be asked with several limits and prices."""

    def __init__(self, problem: Problem, replicate: bool = False) -> None:
        self.problem, self.replicate = problem, replicate
        if too_many(problem, replicate):
            raise ValueError("too many states for the exact programme: ask too_many first, and use bounded")
        self.tables = t = _tables(problem, replicate)
        shape = problem.n_cuts, t.n_used, len(t.types)
        self._best = np.full(shape, np.inf)
        self._start, self._before = np.empty(shape, np.int32), np.empty(shape, np.int16)
        self._prices = np.zeros(len(problem.types))
        left = np.array(problem.counts) - (np.arange(t.n_used)[:, None] // _places(problem)) % (
            np.array(problem.counts) + 1
        )
        self._left = left.astype(float)  # devices of each type that are left, by used
        self.solves = 0

    def _solved(
        self, limit_s: float, stage_c: Floats, hop_c: Floats, bottleneck: bool, begin: Floats, end: Floats,
        spare: Floats, ceiling: float,
    ) -> tuple[float, Ints]:  # fmt: skip
        t = self.tables
        cost, rows = _least(
            t.stage_s, stage_c, t.hop_s, hop_c, limit_s, bottleneck, begin, end, spare, ceiling,
            t.weight, t.place, t.counts, t.replicas, self._best, self._start, self._before,
        )  # fmt: skip
        return float(cost), rows

    def least_period(self) -> Point:
        """The plan of the least period. With a shared medium, of the least period without it: a lower bound."""
        t = self.tables
        nothing = np.zeros((self.problem.n_cuts, len(t.types)))
        cost, rows = self._solved(np.inf, t.stage_s, t.hop_s, True, nothing, nothing, np.zeros(t.n_used), np.inf)
        if cost == np.inf:
            raise no_plan("no chain of stages on these devices reaches from the first layer to the last")
        plan = _plan(t, rows)
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
        plan = _plan(t, rows, ways)
        return cost, Point(plan, evaluate(self.problem, plan))

    def least_latency(self) -> Point:
        """The plan of the least latency in an empty pipeline."""
        t = self.tables
        ways = t.ways_s.argmin(axis=3)
        stage_c = np.take_along_axis(t.ways_s, ways[..., None], axis=3)[..., 0] * t.replicas[:, None, None]
        _, rows = self._least_sum(stage_c, t.delay_s, np.inf, np.inf)
        plan = _plan(t, rows, ways)
        return Point(plan, evaluate(self.problem, plan))

    def _least_sum(self, stage_c: Floats, hop_c: Floats, limit_s: float, ceiling: float) -> tuple[float, Ints]:
        """The least sum of stage_c [K, N, N] and hop_c [K, K, N] of a plan with no stage or hop above limit_s, and its
        rows; (inf, none) where there is none below the ceiling."""
        t = self.tables
        self.solves += 1
        counts = np.array(self.problem.counts)
        bound, prices, cost, rows = _priced(
            stage_c, t.hop_s, hop_c, limit_s, ceiling, t.types, counts, t.replicas, self._prices
        )
        none = np.empty((0, 3), np.int64)
        if bound >= ceiling:
            return math.inf, none
        self._prices = prices
        rows = rows[::-1]
        if cost > bound * (1 + CLOSE):
            begin, end, _ = _relaxed(stage_c, t.hop_s, hop_c, limit_s, prices[t.types] * t.replicas)
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
    if problem.shared:
        return front_labels(problem, replicate, latency=False)
    programme = Programme(problem, replicate)
    fastest = programme.least_period()
    least = fastest.costs.period_s * problem.items
    periods = programme.candidates()
    periods = periods[periods >= least * (1 - CLOSE)]
    known = [fastest]
    stack = [(0, len(periods) - 1)]
    while stack:
        low, high = stack.pop()
        p, q = float(periods[low]), float(periods[high])
        as_fast = [k.costs.energy_j for k in known if k.costs.period_s <= p / problem.items * (1 + CLOSE)]
        _, point = programme.least_energy(q, p, min(as_fast, default=np.inf) * problem.items / (1 + within))
        if point is None:
            continue
        known = merged([*known, point])
        if low < high and point.costs.period_s > p / problem.items * (1 + CLOSE):
            middle = (low + high) // 2
            stack += [(middle + 1, high), (low, middle)]
    return known


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


@njit(cache=True)
def _keep(labels, n, dims):  # type: ignore[no-untyped-def]
    """Move the non-dominated of the first n labels to the front, in lexicographic order; returns how many."""
    order = np.arange(n)
    for d in range(dims - 1, -1, -1):
        order = order[np.argsort(labels[order, d], kind="mergesort")]
    kept = np.empty((n, labels.shape[1]))
    m = 0
    for a in range(n):
        row = labels[order[a]]
        beaten = False
        for b in range(m - 1, -1, -1):
            beaten = True
            for d in range(1, dims):
                if kept[b, d] > row[d] * (1 + 1e-12):
                    beaten = False
                    break
            if beaten:
                break
        if not beaten:
            kept[m] = row
            m += 1
    labels[:m] = kept[:m]
    return m


@njit(cache=True)
def _grown(pool, n):  # type: ignore[no-untyped-def]
    """A pool with room for n rows."""
    if n <= pool.shape[0]:
        return pool
    larger = np.empty((max(n, 2 * pool.shape[0]), pool.shape[1]))
    larger[: pool.shape[0]] = pool
    return larger


@njit(cache=True)
def _labels(  # type: ignore[no-untyped-def]
    stage_s, stage_j, latency_s, hop_s, hop_j, medium_s, delay_s, idle_w, with_latency, ceilings, rest_j, rest_s,
    weight, place, counts, replicas, n_used,
):  # fmt: skip
    """Label setting. Returns the pool of labels [n, 8]: period, joules, latency, medium seconds, watts, option, begin
    cut, number of the label before (-1: none); and the numbers of those at the last cut.

    ceilings [m, 3]: (period, energy, latency) of known plans; a label that cannot become better is dropped. rest_j,
    rest_s [N]: least joules and seconds from a cut to the end.
    """
    n_options, n_cuts = stage_s.shape[0], stage_s.shape[1]
    dims = 4
    pool = np.empty((1 << 16, 8))
    n_pool = 0
    first = np.zeros((n_cuts, n_used, n_options), np.int64)  # labels over the hop to the option: slices of `ways`
    count = np.zeros((n_cuts, n_used, n_options), np.int64)
    ways = np.empty((1 << 16, 8))  # the first four as in the pool, 7: number of the label before
    n_ways = 0
    buffer = np.empty((1 << 12, 8))
    for k in range(n_options):
        first[0, 0, k], count[0, 0, k] = n_ways, 1
        ways[n_ways, :] = 0.0
        ways[n_ways, 7] = -1
        n_ways += 1
    here = np.zeros((n_used, n_options, 2), np.int64)
    for j in range(1, n_cuts):
        for u in range(n_used):
            for k in range(n_options):
                here[u, k, 0], here[u, k, 1] = n_pool, 0
                if (u // place[k]) % (counts[k] + 1) < replicas[k]:
                    continue
                before = u - weight[k]
                n = 0
                for i in range(j):
                    if stage_s[k, i, j] == np.inf:
                        continue
                    at = first[i, before, k]
                    for w in range(at, at + count[i, before, k]):
                        watts = ways[w, 4] + idle_w[k]
                        period = max(ways[w, 0], stage_s[k, i, j])
                        joules = ways[w, 1] + stage_j[k, i, j]
                        latency = ways[w, 2] + (latency_s[k, i, j] if with_latency else 0.0)
                        at_least = joules + rest_j[j] + watts * max(period, ways[w, 3])
                        slow = latency + rest_s[j]
                        beaten = False
                        for c in range(ceilings.shape[0]):
                            if (
                                ceilings[c, 0] < max(period, ways[w, 3]) * (1 - 1e-12)
                                and ceilings[c, 1] < at_least * (1 - 1e-12)
                                and (not with_latency or ceilings[c, 2] < slow * (1 - 1e-12))
                            ):
                                beaten = True
                                break
                        if beaten:
                            continue
                        buffer = _grown(buffer, n + 1)
                        buffer[n, 0], buffer[n, 1], buffer[n, 2], buffer[n, 3] = period, joules, latency, ways[w, 3]
                        buffer[n, 4], buffer[n, 5], buffer[n, 6], buffer[n, 7] = watts, k, i, ways[w, 7]
                        n += 1
                if n == 0:
                    continue
                n = _keep(buffer, n, dims)
                pool = _grown(pool, n_pool + n)
                pool[n_pool : n_pool + n] = buffer[:n]
                here[u, k, 1] = n
                n_pool += n
        if j == n_cuts - 1:
            break
        for u in range(n_used):
            for q in range(n_options):
                n = 0
                for k in range(n_options):
                    if hop_s[k, q, j] == np.inf:
                        continue
                    for p in range(here[u, k, 0], here[u, k, 0] + here[u, k, 1]):
                        buffer = _grown(buffer, n + 1)
                        buffer[n, 0] = max(pool[p, 0], hop_s[k, q, j])
                        buffer[n, 1] = pool[p, 1] + hop_j[k, q, j]
                        buffer[n, 2] = pool[p, 2] + (delay_s[k, q, j] if with_latency else 0.0)
                        buffer[n, 3] = pool[p, 3] + medium_s[k, q, j]
                        buffer[n, 4], buffer[n, 7] = pool[p, 4], p
                        n += 1
                first[j, u, q] = n_ways
                if n == 0:
                    continue
                n = _keep(buffer, n, dims)
                ways = _grown(ways, n_ways + n)
                ways[n_ways : n_ways + n] = buffer[:n]
                count[j, u, q] = n
                n_ways += n
    n = 0
    for u in range(n_used):
        for k in range(n_options):
            n += here[u, k, 1]
    return pool[:n_pool], np.arange(n_pool - n, n_pool)


def front_labels(
    problem: Problem, replicate: bool = False, latency: bool = True, known: Sequence[Point] = ()
) -> list[Point]:
    """Every non-dominated (period, energy, latency), or (period, energy) without `latency`, fastest first. A shared
    medium's load is part of the period. `known` plans bound the search; they are not needed."""
    programme = Programme(problem, replicate)
    t = programme.tables
    programme.least_period()  # says why where there is no plan
    ceilings = [(p.costs.period_s, p.costs.energy_j, p.costs.latency_s) for p in known]
    bounds = np.array(ceilings, dtype=float).reshape(-1, 3) * (problem.items, problem.items, 1)
    rest_j, rest_s = _rest(t.stage_j), _rest(t.latency_s)
    if not latency:
        rest_s = np.zeros_like(rest_s)
    pool, last = _labels(
        t.stage_s, t.stage_j, t.latency_s, t.hop_s, t.hop_j, t.medium_s, t.delay_s, t.idle_w, latency, bounds,
        rest_j, rest_s, t.weight, t.place, t.counts, t.replicas, t.n_used,
    )  # fmt: skip
    ends = pool[last]
    period = np.maximum(ends[:, 0], ends[:, 3])
    values = np.column_stack([period, ends[:, 1] + ends[:, 4] * period, ends[:, 2]])
    points = []
    for number in _front_rows(values, 3 if latency else 2):
        plan = _walk(t, pool, int(last[number]), problem.n_cuts - 1)
        points.append(Point(plan, evaluate(problem, plan)))
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


def _walk(tables: _Tables, pool: Floats, number: int, end: int) -> Plan:
    rows = []
    while number >= 0:
        k, begin, before = (int(v) for v in pool[number, 5:])
        rows.append((k, begin, end))
        end, number = begin, before
    return _plan(tables, np.array(rows, dtype=np.int64))


# ---------------------------------------------------------------------------------------------------------------------
# Many distinct devices


def bounded(problem: Problem, classes: int = 6, rounds: int = 200, seed: int = 0) -> tuple[Point, float]:
    """For more distinct devices than the programme can tell apart: a plan, and a period that no plan goes below.

    Devices are put into `classes` by speed. With each class as fast as its fastest member at every stage and hop, the
    programme's optimum bounds the true one from below. Its stages, given to the members and cut anew for their order
    (which is exact for a given order), are improved by exchanging devices while that helps.
    """
    groups = _classes(problem, classes)
    relaxed = _optimistic(problem, groups)
    bound = least_period(relaxed)
    waiting = {g: sorted(members, key=lambda t: _speed(problem)[t]) for g, members in enumerate(groups)}
    left = dict(enumerate(problem.counts))
    order = []
    for stage in bound.plan:
        t = next(t for t in waiting[stage.type] if left[t])
        left[t] -= 1
        order.append(t)
    rest = [t for t, n in left.items() for _ in range(n)]
    rng = np.random.default_rng(seed)
    best, plan = _in_order(problem, order)
    for _ in range(rounds):
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


def _optimistic(problem: Problem, groups: Sequence[Sequence[int]]) -> Problem:
    def hops(table: Floats) -> Floats:
        return np.array([[table[np.ix_(a, b)].min(axis=(0, 1)) for b in groups] for a in groups])

    return Problem(
        tuple("+".join(problem.types[t] for t in g) for g in groups),
        tuple(sum(problem.counts[t] for t in g) for g in groups),
        np.array([problem.idle_w[list(g)].min() for g in groups]),
        np.stack([problem.occupancy_s[list(g)].min(axis=0) for g in groups]),
        np.stack([problem.busy_j[list(g)].min(axis=0) for g in groups]),
        hops(problem.hop_s),
        hops(problem.hop_j),
        hops(problem.medium_s),
        hops(problem.delay_s),
        problem.items,
    )


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
