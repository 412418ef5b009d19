"""From soft choices to legal plans, and from these to better ones: projection, coordinate descent, recombination.

`legal` cuts groups that cannot be at their weakest gate and shrinks what does not fit. `improve` moves along one or two
choices of a piece at a time, and merges, splits and shifts groups, for as long as the objective of the whole network
falls, all scored exactly. `Pool` remembers the pieces that were met on the way: the best plan that can be made of them
is better than any of the plans they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from cosoc.search.exact.tiles import best_plan, value
from cosoc.search.spaces.sections import Cost, Floats, Ints, Section, listed, total
from cosoc.search.spaces.tiles_cached import CachedTiles, divisors, heads
from cosoc.search.spaces.tiles_soft import Choices
from cosoc.sim.figures import Objective

Plan = tuple[Section, ...]
Priced = tuple[Section, Cost]
Score = Callable[[Floats], Floats]  # of points [n, 2]: J and s


class Pool:
    """Sections that were met, with their costs, by (first, one past the last) in `space.positions`."""

    def __init__(self, space: CachedTiles) -> None:
        self.space = space
        self.at = {i: n for n, i in enumerate(space.positions)}
        self.found: dict[tuple[int, int], dict[Section, Cost]] = {}

    def span(self, section: Section) -> tuple[int, int]:
        return self.at[section.first], self.at[section.last] + 1

    def add(self, section: Section, cost: Cost) -> None:
        self.found.setdefault(self.span(section), {})[section] = cost

    def best(self, objective: Objective) -> tuple[Plan, Cost]:
        """The best plan of all sections met."""
        options = {span: listed(found) for span, found in self.found.items()}
        optimum = best_plan(len(self.at), options, objective)
        return optimum.sections, optimum.cost


# ---------------------------------------------------------------------------------------------- projection


def legal(space: CachedTiles, choices: Choices, start: int, objective: Objective) -> Plan:
    """The legal plan nearest to what one start says."""
    gates = choices.gates[:, start]
    pieces: list[Section] = []
    n, at = len(space.positions), 0
    while at < n:
        end = at + 1
        while end < n and gates[end - 1] > 0.5:
            end += 1
        pieces += _cut(space, choices, start, at, end, objective)
        at = end
    return tuple(pieces)


def _cut(space: CachedTiles, choices: Choices, start: int, at: int, end: int, objective: Objective) -> list[Section]:
    """The layers at .. end (excluded) as a group, or cut at the weakest gate until they are legal."""
    if end - at == 1:
        row = np.array([*choices.tiles[at, :, start], choices.orders[at, start]], np.int64)
        return [shrunk(space, space.positions[at], row, objective)]
    group = fitting(space, choices, start, at, end)
    if group is not None:
        return [group]
    weakest = at + 1 + int(np.argmin(choices.gates[at : end - 1, start]))
    return [p for a, b in ((at, weakest), (weakest, end)) for p in _cut(space, choices, start, a, b, objective)]


def fitting(space: CachedTiles, choices: Choices, start: int, at: int, end: int) -> Section | None:
    """The group of the layers at .. end that is nearest to the choices and fits; None where there is none."""
    first, last = space.positions[at], space.positions[end - 1]
    if last - first != end - 1 - at or space.chain(first, last) is None:
        return None
    oy, ox = (int(choices.tiles[end - 1, d, start]) for d in (4, 5))
    sink = space.shapes[last]
    keep = int(choices.keep[end - 1, start] > 0.5 and ox == sink.ox)
    stays = [int(choices.resident[r, start] > 0.5) * (1 - space.shapes[i].add) for r, i in enumerate(
        range(first, last + 1), at)]  # fmt: skip
    heads = [
        (y, x, k) for y in divisors(sink.oy) if y <= oy for x in divisors(sink.ox) if x <= ox
        for k in {0, keep * (x == sink.ox) * (y < sink.oy)}
    ]  # fmt: skip
    rows = [(*head, *r) for head in heads for r in (stays, [0] * len(stays))]
    candidates = np.array(rows, np.int64)
    fits = space.fused_fits(first, last, candidates)
    if not fits.any():
        return None
    far = np.log(oy / candidates[:, 0]) + np.log(ox / candidates[:, 1])
    far = far + (candidates[:, 2] != keep) + (candidates[:, 3:] != np.array(stays)).any(axis=1) * 0.5
    return space.as_fused(first, last, candidates[int(np.argmin(np.where(fits, far, np.inf)))])


def shrunk(space: CachedTiles, i: int, row: Ints, objective: Objective) -> Section:
    """The mapping [7] of layer i, one dimension after the other taken down to its next divisor until it fits."""
    while not space.single_fits(i, row[None])[0]:
        lower = []
        for d in range(6):
            below = [x for x in space.divisors[i][d] if x < row[d]]
            if below:
                lower.append(row.copy())
                lower[-1][d] = below[-1]
        rows = np.stack(lower)
        fits = space.single_fits(i, rows)
        if fits.any():
            rows = rows[fits]
        energy, cycles = space.cost_of(space.single_terms(i, rows))
        row = rows[int(np.argmin(value(energy, cycles, objective)))]
    return space.as_single(i, row)


# ---------------------------------------------------------------------------------------------- descent


def descend(space: CachedTiles, section: Section, cost: Cost, score: Score, pool: Pool) -> Priced:
    """The section after steepest descent of the score over its neighbours."""
    while True:
        rows, points = space.near(section)
        found = score(points)
        at = int(np.argmin(found))
        if found[at] >= score(np.array([[cost.energy_j, cost.seconds]]))[0] * (1 - 1e-9):
            pool.add(section, cost)
            return section, cost
        cost = Cost(float(points[at, 0]), float(points[at, 1]))
        section = space.read(section, rows[at])


class Improver:
    """Coordinate descent of a whole plan. over: whether it is to stop where it is. fusion: whether
    layers may be joined."""

    def __init__(
        self,
        space: CachedTiles,
        objective: Objective,
        pool: Pool,
        over: Callable[[], bool] = lambda: False,
        fusion: bool = True,
    ) -> None:
        self.fusion = fusion
        self.space, self.objective, self.pool, self.over = space, objective, pool, over
        self._tried: dict[tuple[int, int], Priced | None] = {}

    def improve(self, plan: Plan, sweeps: int = 6) -> tuple[Plan, Cost]:
        """Better until nothing is, or for so many sweeps over the pieces and the borders between them."""
        pieces = [(section, self.space.cost(section)) for section in plan]
        for _ in range(sweeps):
            before = self._value(pieces)
            self._pieces(pieces)
            if self.fusion:
                pieces = self._borders(pieces)
            if self._value(pieces) >= before * (1 - 1e-6) or self.over():
                break
        return tuple(section for section, _ in pieces), _sum(pieces)

    def _value(self, pieces: list[Priced]) -> float:
        return self._worth(_sum(pieces))

    def _score(self, rest: Cost) -> Score:
        """What energy and cycles of one piece make of the whole, the rest given."""

        def score(points: Floats) -> Floats:
            found: Floats = value(rest.energy_j + points[:, 0], rest.seconds + points[:, 1], self.objective)
            return found

        return score

    def _worth(self, cost: Cost) -> float:
        return float(value(cost.energy_j, cost.seconds, self.objective))

    def _pieces(self, pieces: list[Priced]) -> None:
        whole = _sum(pieces)
        for at, (piece, cost) in enumerate(pieces):
            if self.over():
                return
            rest = whole - cost
            found = descend(self.space, piece, cost, self._score(rest), self.pool)
            fresh = self._piece(piece.first, piece.last, rest)  # from elsewhere, or from another start
            options = [found] if fresh is None else [found, fresh]
            pieces[at] = min(options, key=lambda o: self._worth(rest + o[1]))
            whole = rest + pieces[at][1]

    def _borders(self, pieces: list[Priced]) -> list[Priced]:
        """Merge, split and shift, each time the one move at a place that gains most, from left to right."""
        at = 0
        while at < len(pieces):
            if self.over():
                break
            whole = _sum(pieces)
            best, gain = None, self._worth(whole) * (1 - 1e-9)
            for width, spans in self._moves(pieces, at):
                old = _sum(pieces[at : at + width])
                rest = whole - old
                new = [self._piece(first, last, rest) for first, last in spans]
                if all(new):
                    made = [x for x in new if x is not None]
                    now = self._worth(rest + _sum(made))
                    if now < gain:
                        best, gain = (width, made), now
            if best is None:
                at += 1
            else:
                pieces[at : at + best[0]] = best[1]
        return pieces

    def _moves(self, pieces: list[Priced], at: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Ways to cut one, two or three pieces from `at` on anew: (pieces replaced, spans of layers)."""
        for width in (1, 2, 3):
            if at + width > len(pieces):
                return
            first, last = pieces[at][0].first, pieces[at + width - 1][0].last
            if last - first + 1 > 2 * self.space.max_group:
                continue
            now = [(section.first, section.last) for section, _ in pieces[at : at + width]]
            cuts = [[(first, last)]] + [[(first, c), (c + 1, last)] for c in range(first, last)]
            if width == 1:
                cuts += [
                    [(first, a), (a + 1, b), (b + 1, last)]
                    for a, b in pairwise(range(first, last))
                ]  # fmt: skip
            for spans in cuts:
                if spans != now:
                    yield width, spans

    def _piece(self, first: int, last: int, rest: Cost) -> Priced | None:
        """A good piece of the layers first .. last: the best one met or a descent from a whole map; None where none is
        legal."""
        if first not in self.pool.at or last not in self.pool.at:
            return None
        key = (first, last)
        if key not in self._tried:
            self._tried[key] = self._fresh(first, last, self._score(rest))
        found = self._tried[key]
        span = (self.pool.at[first], self.pool.at[last] + 1)
        known = self.pool.found.get(span, {})
        if found is None and not known:
            return None
        options = list(known.items()) + ([found] if found else [])
        return min(options, key=lambda o: self._worth(rest + o[1]))

    def _fresh(self, first: int, last: int, score: Score) -> Priced | None:
        space = self.space
        if first == last:
            shape = space.shapes[first]
            whole = np.array([shape.k, shape.c, shape.fy, shape.fx, shape.oy, shape.ox, 1], np.int64)
            section = shrunk(space, first, whole, self.objective)
            return descend(space, section, space.cost(section), score, self.pool)
        if space.chain(first, last) is None:
            return None
        n = last - first + 1
        rows = np.array([(*head, *([0] * n)) for head in heads(space.shapes[last])], np.int64)
        rows = rows[space.fused_fits(first, last, rows)]
        if not len(rows):
            return None
        points = space.points(*space.fused_cost(first, last, rows))
        at = int(np.argmin(score(points)))
        section = space.as_fused(first, last, rows[at])
        return descend(space, section, Cost(float(points[at, 0]), float(points[at, 1])), score, self.pool)


def _sum(pieces: list[Priced]) -> Cost:
    return total([cost for _, cost in pieces])
