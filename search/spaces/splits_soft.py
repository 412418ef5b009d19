"""Splits made soft: cuts at real positions, devices by degrees, and the gradient of their costs.

The exact programmes need no gradient. This is for what they cannot do: a cost that depends on more than the split
(channel shares, bits), which enters as tensors in place of the tables. On splits alone it is held against the exact
front.

A candidate has as many slots as the cluster has devices. Each slot has a share of the chain of cuts (softmax, so that
positions are sums of shares) and a distribution over device types, balanced to their counts (Sinkhorn). Tables are read
between cuts by linear interpolation; the period is a smooth maximum that hardens; idle power is paid by slots as far as
they have work. Hardened candidates are repaired by moving single cuts and by swapping, adding and dropping devices
while that helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from cosoc.search.baselines.heuristics import longest_chain
from cosoc.search.exact.splits import Point, merged
from cosoc.search.spaces.splits import Plan, PlanStage, Problem, evaluate

SINKHORN = 12
STEPS = 150
RATE = 0.08
HARD = (8.0, 80.0)  # of the smooth maximum, from the first to the last step
SPREAD = (0.5, 2.0, 6.0, 20.0)  # of the first shares: from all devices alike to one that has nearly all
USED = 0.35  # of a step between cuts: from about here on a slot counts as in use


def chain_tables(problem: Problem) -> tuple[Problem, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """The problem on a longest chain of its cuts, and which cuts those are."""
    chain = np.array(longest_chain(problem))
    inner = np.ix_(np.arange(len(problem.types)), chain, chain)
    return (
        replace(
            problem,
            occupancy_s=problem.occupancy_s[inner],
            busy_j=problem.busy_j[inner],
            hop_s=problem.hop_s[:, :, chain],
            hop_j=problem.hop_j[:, :, chain],
            medium_s=problem.medium_s[:, :, chain],
            delay_s=problem.delay_s[:, :, chain],
        ),
        chain,
    )


class SoftSplit:
    """`batch` candidates of one problem, which is a chain."""

    def __init__(self, problem: Problem, batch: int, seed: int) -> None:
        self.problem = problem
        self.slots = min(sum(problem.counts), problem.n_cuts - 1)
        generator = torch.Generator().manual_seed(seed)
        spread = torch.tensor(SPREAD, dtype=torch.float64).repeat(-(-batch // len(SPREAD)))[:batch, None]
        shares = spread * torch.randn(batch, self.slots, generator=generator, dtype=torch.float64)
        self.shares = shares.requires_grad_()
        shape = (batch, self.slots, len(problem.types))
        self.places = (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        self.occupancy, self.busy = _finite(problem.occupancy_s), _finite(problem.busy_j)
        self.hop_s, self.hop_j = _finite(problem.hop_s), _finite(problem.hop_j)
        self.medium = torch.tensor(problem.medium_s)
        self.idle = torch.tensor(problem.idle_w)

    def placement(self) -> Tensor:
        """[batch, slots, types]: rows sum to one, columns to at most the counts."""
        counts = torch.tensor(self.problem.counts, dtype=torch.float64)
        p = self.places
        for _ in range(SINKHORN):
            p = p - torch.logsumexp(p, 2, keepdim=True)
            p = p - torch.clamp(torch.logsumexp(p, 1, keepdim=True) - counts.log(), min=0.0)
        return (p - torch.logsumexp(p, 2, keepdim=True)).exp()

    def positions(self) -> Tensor:
        """[batch, slots + 1]: where each slot begins, in cuts; the last one ends at the end."""
        inner = torch.cumsum(torch.softmax(self.shares, 1), 1) * (self.problem.n_cuts - 1)
        return torch.cat([torch.zeros_like(inner[:, :1]), inner], 1).clamp(max=self.problem.n_cuts - 1)

    def costs(self, hard: float) -> tuple[Tensor, Tensor]:
        """[batch] period and energy of an item, smooth."""
        placed, at = self.placement(), self.positions()
        stage_s = (placed * _read2(self.occupancy, at)).sum(2)
        stage_j = (placed * _read2(self.busy, at)).sum(2)
        pairs = placed[:, :-1, :, None] * placed[:, 1:, None, :]
        hop_s, hop_j, medium = (
            (pairs * _read1(table, at[:, 1:-1])).sum((2, 3)) for table in (self.hop_s, self.hop_j, self.medium)
        )
        parts = torch.cat([stage_s, hop_s, medium.sum(1, keepdim=True)], 1)
        scale = parts.max(1, keepdim=True).values.detach()
        period = (torch.softmax(hard * parts / scale, 1) * parts).sum(1)
        width = at[:, 1:] - at[:, :-1]
        in_use = 1 - torch.exp(-width / USED)
        idle = (in_use * (placed @ self.idle)).sum(1)
        return period, stage_j.sum(1) + hop_j.sum(1) + idle * period

    def harden(self) -> Iterator[Plan]:
        """The plan nearest to each candidate."""
        with torch.no_grad():
            placed, at = self.placement().numpy(), self.positions().numpy()
        for places, positions in zip(placed, at, strict=True):
            yield _plan(self.problem, places, np.rint(positions).astype(int).tolist())


def _finite(table: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
    """The table with what cannot be at ten times the largest figure, and empty stages at nothing."""
    most = table[np.isfinite(table)].max(initial=0.0)
    out = np.where(np.isfinite(table), table, 10 * most)
    if table.shape[1] == table.shape[2] and table.ndim == 3 and not np.isfinite(table[0, 0, 0]):
        out[:, np.tri(table.shape[1], dtype=bool)] = 0.0
    return torch.tensor(out)


def _read2(table: Tensor, at: Tensor) -> Tensor:
    """[batch, slots, types]: table [types, N, N] between consecutive positions [batch, slots + 1], interpolated."""
    n = table.shape[1]
    low = at.detach().floor().long().clamp(max=n - 2)
    part = at - low
    i, j, a, b = low[:, :-1], low[:, 1:], part[:, :-1, None], part[:, 1:, None]

    def value(di: int, dj: int) -> Tensor:
        return table[:, i + di, j + dj].permute(1, 2, 0)

    before = value(0, 0) * (1 - b) + value(0, 1) * b
    return before * (1 - a) + (value(1, 0) * (1 - b) + value(1, 1) * b) * a


def _read1(table: Tensor, at: Tensor) -> Tensor:
    """[batch, cuts, types, types]: table [types, types, N] at positions [batch, cuts], interpolated."""
    low = at.detach().floor().long().clamp(max=table.shape[2] - 2)
    part = (at - low)[..., None, None]
    return table[:, :, low].permute(2, 3, 0, 1) * (1 - part) + table[:, :, low + 1].permute(2, 3, 0, 1) * part


def _plan(
    problem: Problem, places: np.ndarray[tuple[int, ...], np.dtype[np.float64]], positions: Sequence[int]
) -> Plan:
    """Slots with work get the most probable types that are left, the surest slots first."""
    left = list(problem.counts)
    working = [s for s, (a, b) in enumerate(pairwise(positions)) if b > a]
    chosen: dict[int, int] = {}
    for slot in sorted(working, key=lambda s: -float(places[s].max())):
        t = max((t for t in range(len(left)) if left[t]), key=lambda t: float(places[slot, t]))
        chosen[slot] = t
        left[t] -= 1
    return tuple(PlanStage(chosen[s], positions[s], positions[s + 1]) for s in working)


def repaired(problem: Problem, plan: Plan, weight: float, known: list[Point]) -> Point | None:
    """Descent over single moves in the weighted logarithms of period and energy; what it meets is kept in `known`."""

    def score(p: Plan) -> float:
        costs = evaluate(problem, p)
        if not (np.isfinite(costs.period_s) and np.isfinite(costs.energy_j)):
            return float("inf")
        known.append(Point(p, costs))
        return float(weight * np.log(costs.period_s) + (1 - weight) * np.log(costs.energy_j))

    best = score(plan)
    while True:
        scored = [(score(p), p) for p in _neighbours(problem, plan)]
        value, following = min(scored, key=lambda s: s[0], default=(best, plan))
        if value >= best - 1e-12:
            break
        best, plan = value, following
    return Point(plan, evaluate(problem, plan)) if np.isfinite(best) else None


def _neighbours(problem: Problem, plan: Plan) -> Iterator[Plan]:
    """Plans with a cut moved, two stages' devices swapped, a device exchanged for an idle one, a stage dropped or
    divided."""
    left = [n - sum(s.type == t for s in plan) for t, n in enumerate(problem.counts)]
    idle = [t for t, n in enumerate(left) if n]
    for s, stage in enumerate(plan):
        before, after = plan[:s], plan[s + 1 :]
        if after:
            for step in (-8, -4, -2, -1, 1, 2, 4, 8):
                end = stage.end + step
                if stage.begin < end < after[0].end:
                    yield (*before, replace(stage, end=end), replace(after[0], begin=end), *after[1:])
            yield (*before, replace(stage, end=after[0].end), *after[1:])
            yield (*before, replace(after[0], begin=stage.begin), *after[1:])
        for other in range(s + 1, len(plan)):
            if plan[other].type != stage.type:
                swapped = list(plan)
                swapped[s] = replace(stage, type=plan[other].type)
                swapped[other] = replace(plan[other], type=stage.type)
                yield tuple(swapped)
        for t in idle:
            yield (*before, replace(stage, type=t), *after)
            middle = (stage.begin + stage.end) // 2
            if stage.begin < middle:
                yield (*before, replace(stage, end=middle), PlanStage(t, middle, stage.end), *after)
                yield (*before, PlanStage(t, stage.begin, middle), replace(stage, begin=middle), *after)


def relaxed_front(problem: Problem, seed: int, weights: int = 9, starts: int = 4) -> list[Point]:
    """Non-dominated plans by gradient, hardening and repair: `starts` candidates for each of `weights` weightings of
    the logarithms of period and energy, all at once. Stages are not replicated."""
    chained, chain = chain_tables(problem)
    weighting = torch.linspace(0, 1, weights, dtype=torch.float64).repeat_interleave(starts)
    soft = SoftSplit(chained, len(weighting), seed)
    optimiser = torch.optim.Adam([soft.shares, soft.places], lr=RATE)
    for step in range(STEPS):
        period, energy = soft.costs(HARD[0] * (HARD[1] / HARD[0]) ** (step / (STEPS - 1)))
        loss = (weighting * period.log() + (1 - weighting) * energy.clamp(min=1e-30).log()).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    known: list[Point] = []
    for plan, weight in zip(soft.harden(), weighting.tolist(), strict=True):
        repaired(chained, plan, weight, known)
    found = [tuple(replace(s, begin=int(chain[s.begin]), end=int(chain[s.end])) for s in p.plan) for p in merged(known)]
    return merged([Point(plan, evaluate(problem, plan)) for plan in found])
