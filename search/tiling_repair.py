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

from cosoc.search.exact.tiles import best_of, value
from cosoc.search.spaces.tiles import (
    Cost,
    Floats,
    Fused,
    Ints,
    Objective,
    Piece,
    Plan,
    Single,
    Space,
    as_fused,
    as_single,
    divisors,
)
from cosoc.search.tiling_relaxed import Choices
from cosoc.sim.movers.cached_terms import Shape

Score = Callable[[Floats, Floats], Floats]


class Pool:
    """Pieces that were met, with their costs, by (first, one past the last) in `space.positions`."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.at = {i: n for n, i in enumerate(space.positions)}
        self.found: dict[tuple[int, int], dict[Piece, Cost]] = {}

    def span(self, piece: Piece) -> tuple[int, int]:
        first, last = (piece.layer, piece.layer) if isinstance(piece, Single) else (piece.first, piece.last)
        return self.at[first], self.at[last] + 1

    def add(self, piece: Piece, cost: Cost) -> None:
        self.found.setdefault(self.span(piece), {})[piece] = cost

    def best(self, objective: Objective) -> tuple[Plan, Cost]:
        """The best plan of all pieces met."""
        pool = {key: list(found.items()) for key, found in self.found.items()}
        optimum = best_of(self.space, objective, pool)
        return optimum.plan, optimum.cost


# ---------------------------------------------------------------------------------------------- projection


def legal(space: Space, choices: Choices, start: int, objective: Objective) -> Plan:
    """The legal plan nearest to what one start says."""
    gates = choices.gates[:, start]
    pieces: list[Piece] = []
    n, at = len(space.positions), 0
    while at < n:
        end = at + 1
        while end < n and gates[end - 1] > 0.5:
            end += 1
        pieces += _cut(space, choices, start, at, end, objective)
        at = end
    return Plan(tuple(pieces))


def _cut(space: Space, choices: Choices, start: int, at: int, end: int, objective: Objective) -> list[Piece]:
    """The layers at .. end (excluded) as a group, or cut at the weakest gate until they are legal."""
    if end - at == 1:
        row = np.array([*choices.tiles[at, :, start], choices.orders[at, start]], np.int64)
        return [shrunk(space, space.positions[at], row, objective)]
    group = fitting(space, choices, start, at, end)
    if group is not None:
        return [group]
    weakest = at + 1 + int(np.argmin(choices.gates[at : end - 1, start]))
    return [p for a, b in ((at, weakest), (weakest, end)) for p in _cut(space, choices, start, a, b, objective)]


def fitting(space: Space, choices: Choices, start: int, at: int, end: int) -> Fused | None:
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
    fits = space.fused_cost(first, last, candidates)[2]
    if not fits.any():
        return None
    far = np.log(oy / candidates[:, 0]) + np.log(ox / candidates[:, 1])
    far = far + (candidates[:, 2] != keep) + (candidates[:, 3:] != np.array(stays)).any(axis=1) * 0.5
    return as_fused(first, last, candidates[int(np.argmin(np.where(fits, far, np.inf)))])


def shrunk(space: Space, i: int, row: Ints, objective: Objective) -> Single:
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
    return as_single(i, row)


# ---------------------------------------------------------------------------------------------- descent


def _singles_near(space: Space, piece: Single) -> Ints:
    """Mappings of a layer that differ from a piece in one or two of tile sizes and order."""
    axes = [*space.divisors[piece.layer], [0, 1, 2]]
    here = [*piece.tile, piece.order]
    out = []
    for a in range(7):
        for b in range(a + 1, 7):
            grid = np.array(np.meshgrid(axes[a], axes[b], indexing="ij")).reshape(2, -1)
            rows = np.tile(np.array(here, np.int64), (grid.shape[1], 1))
            rows[:, a], rows[:, b] = grid
            out.append(rows)
    return np.concatenate(out)


def _heads(sink: Shape) -> list[tuple[int, int, int]]:
    """Tiles of a sink's pixels, with line buffers or without; those go with whole rows."""
    ys, xs = divisors(sink.oy), divisors(sink.ox)
    return [(y, x, keep) for y in ys for x in xs for keep in (0, 1) if not keep or (x == sink.ox and y < sink.oy)]


def _groups_near(space: Space, piece: Fused) -> Ints:
    """Choices of a group that differ from a piece in its tile and line buffers, or in one or two residents."""
    sink = space.shapes[piece.last]
    heads = _heads(sink)
    rows = [(*head, *map(int, piece.resident)) for head in heads]
    rows += [(*head, *([0] * len(piece.resident))) for head in heads]
    weighty = [j for j in range(len(piece.resident)) if not space.shapes[piece.first + j].add]
    for a in weighty:
        for b in weighty:
            resident = list(map(int, piece.resident))
            resident[a] = 1 - resident[a]
            if a != b:
                resident[b] = 1 - resident[b]
            rows.append((piece.oy, piece.ox, int(piece.keep), *resident))
    return np.array(rows, np.int64)


def descend(space: Space, piece: Piece, cost: Cost, score: Score, pool: Pool) -> tuple[Piece, Cost]:
    """The piece after steepest descent of score(energy, cycles) over its neighbours."""
    while True:
        if isinstance(piece, Single):
            rows = _singles_near(space, piece)
            rows = rows[space.single_fits(piece.layer, rows)]
            energy, cycles = space.cost_of(space.single_terms(piece.layer, rows))
        else:
            rows = _groups_near(space, piece)
            energy, cycles, fits = space.fused_cost(piece.first, piece.last, rows)
            rows, energy, cycles = rows[fits], energy[fits], cycles[fits]
        found = score(energy, cycles)
        at = int(np.argmin(found))
        if found[at] >= score(np.array([cost.energy_pj]), np.array([cost.cycles]))[0] * (1 - 1e-9):
            pool.add(piece, cost)
            return piece, cost
        cost = Cost(float(energy[at]), float(cycles[at]))
        piece = (
            as_single(piece.layer, rows[at])
            if isinstance(piece, Single)
            else as_fused(piece.first, piece.last, rows[at])
        )


def alternatives(space: Space, piece: Piece, score: Score, n: int) -> list[Piece]:
    """The n best of a piece's legal neighbours by score(energy, cycles), itself left out. Orders of the same tile that
    cost the same are one."""
    if isinstance(piece, Single):
        rows = _singles_near(space, piece)
        rows = np.unique(rows[space.single_fits(piece.layer, rows)], axis=0)
        energy, cycles = space.cost_of(space.single_terms(piece.layer, rows))
        _, first = np.unique(np.column_stack((rows[:, :-1], energy, cycles)), axis=0, return_index=True)
        rows, energy, cycles = rows[first], energy[first], cycles[first]
    else:
        rows = np.unique(_groups_near(space, piece), axis=0)
        energy, cycles, fits = space.fused_cost(piece.first, piece.last, rows)
        rows, energy, cycles = rows[fits], energy[fits], cycles[fits]
    order = np.argsort(score(energy, cycles), kind="stable")[: n + 1]
    found: list[Piece] = [
        as_single(piece.layer, row) if isinstance(piece, Single) else as_fused(piece.first, piece.last, row)
        for row in rows[order]
    ]
    return [other for other in found if other != piece][:n]


class Improver:
    """Coordinate descent of a whole plan. over: whether it is to stop where it is. fusion: whether
    layers may be joined."""

    def __init__(
        self,
        space: Space,
        objective: Objective,
        pool: Pool,
        over: Callable[[], bool] = lambda: False,
        fusion: bool = True,
    ) -> None:
        self.fusion = fusion
        self.space, self.objective, self.pool, self.over = space, objective, pool, over
        self._tried: dict[tuple[int, int], tuple[Piece, Cost] | None] = {}

    def improve(self, plan: Plan, sweeps: int = 6) -> tuple[Plan, Cost]:
        """Better until nothing is, or for so many sweeps over the pieces and the borders between them."""
        pieces = [(piece, self.space.piece_cost(piece)) for piece in plan.pieces]
        for _ in range(sweeps):
            before = self._value(pieces)
            self._pieces(pieces)
            if self.fusion:
                pieces = self._borders(pieces)
            if self._value(pieces) >= before * (1 - 1e-6) or self.over():
                break
        total = _sum(pieces)
        return Plan(tuple(piece for piece, _ in pieces)), total

    def _value(self, pieces: list[tuple[Piece, Cost]]) -> float:
        return _sum(pieces).of(self.objective)

    def _score(self, rest: Cost) -> Score:
        """What energy and cycles of one piece make of the whole, the rest given."""

        def score(energy: Floats, cycles: Floats) -> Floats:
            found: Floats = value(rest.energy_pj + energy, rest.cycles + cycles, self.objective)
            return found

        return score

    def _pieces(self, pieces: list[tuple[Piece, Cost]]) -> None:
        total = _sum(pieces)
        for at, (piece, cost) in enumerate(pieces):
            if self.over():
                return
            rest = Cost(total.energy_pj - cost.energy_pj, total.cycles - cost.cycles)
            found = descend(self.space, piece, cost, self._score(rest), self.pool)
            fresh = self._piece(*_layers(piece), rest)  # from elsewhere, or from another start
            options = [found] if fresh is None else [found, fresh]
            pieces[at] = min(options, key=lambda o: (rest + o[1]).of(self.objective))
            total = rest + pieces[at][1]

    def _borders(self, pieces: list[tuple[Piece, Cost]]) -> list[tuple[Piece, Cost]]:
        """Merge, split and shift, each time the one move at a place that gains most, from left to right."""
        at = 0
        while at < len(pieces):
            if self.over():
                break
            total = _sum(pieces)
            best, gain = None, total.of(self.objective) * (1 - 1e-9)
            for width, spans in self._moves(pieces, at):
                old = _sum(pieces[at : at + width])
                rest = Cost(total.energy_pj - old.energy_pj, total.cycles - old.cycles)
                new = [self._piece(first, last, rest) for first, last in spans]
                if all(new):
                    made = [x for x in new if x is not None]
                    now = (rest + _sum(made)).of(self.objective)
                    if now < gain:
                        best, gain = (width, made), now
            if best is None:
                at += 1
            else:
                pieces[at : at + best[0]] = best[1]
        return pieces

    def _moves(self, pieces: list[tuple[Piece, Cost]], at: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Ways to cut one, two or three pieces from `at` on anew: (pieces replaced, spans of layers)."""
        for width in (1, 2, 3):
            if at + width > len(pieces):
                return
            first, last = _layers(pieces[at][0])[0], _layers(pieces[at + width - 1][0])[1]
            if last - first + 1 > 2 * self.space.max_group:
                continue
            now = [_layers(piece) for piece, _ in pieces[at : at + width]]
            cuts = [[(first, last)]] + [[(first, c), (c + 1, last)] for c in range(first, last)]
            if width == 1:
                cuts += [
                    [(first, a), (a + 1, b), (b + 1, last)]
                    for a, b in pairwise(range(first, last))
                ]  # fmt: skip
            for spans in cuts:
                if spans != now:
                    yield width, spans

    def _piece(self, first: int, last: int, rest: Cost) -> tuple[Piece, Cost] | None:
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
        return min(options, key=lambda o: (rest + o[1]).of(self.objective))

    def _fresh(self, first: int, last: int, score: Score) -> tuple[Piece, Cost] | None:
        space = self.space
        if first == last:
            shape = space.shapes[first]
            whole = np.array([shape.k, shape.c, shape.fy, shape.fx, shape.oy, shape.ox, 1], np.int64)
            piece: Piece = shrunk(space, first, whole, self.objective)
            return descend(space, piece, space.piece_cost(piece), score, self.pool)
        if space.chain(first, last) is None:
            return None
        n, sink = last - first + 1, space.shapes[last]
        heads = _heads(sink)
        rows = np.array([(*head, *([0] * n)) for head in heads], np.int64)
        energy, cycles, fits = space.fused_cost(first, last, rows)
        if not fits.any():
            return None
        at = int(np.argmin(np.where(fits, score(energy, cycles), np.inf)))
        piece = as_fused(first, last, rows[at])
        return descend(space, piece, Cost(float(energy[at]), float(cycles[at])), score, self.pool)


def _layers(piece: Piece) -> tuple[int, int]:
    return (piece.layer, piece.layer) if isinstance(piece, Single) else (piece.first, piece.last)


def _sum(pieces: list[tuple[Piece, Cost]]) -> Cost:
    total = Cost(0.0, 0.0)
    for _, cost in pieces:
        total = total + cost
    return total
