"""What is provably best in the space of `cosoc.search.spaces.tiles`, and what nothing can be better than.

- One layer: all its mappings, enumerated.
- A network: groups are runs of consecutive layers, so a plan is a way along the layers, and the best one is found by
  dynamic programming. EDP is no sum, but the plan of least EDP is on the front of (sum of energies, sum of cycles): the
  program keeps, for every prefix of the network, the front of what its plans cost, and merges it with the front of
  every single layer or group that may come next. Nothing that could still win is dropped, so the result is optimal.
- Where fronts grow beyond a limit, points within a factor (1 + epsilon) of a kept one in both objectives are dropped
  (epsilon-dominance), and the result comes with the bound that this leaves.
- Lower bounds that hold for every mapping, in this space or not: operations, and bytes that must be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cosoc.search.spaces.tiles import Cost, Objective, Piece, Plan, Single, Space, as_fused, as_single
from cosoc.sim.errors import InputError
from cosoc.sim.model.workload import Workload

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Front:
    """Non-dominated (energy in pJ, cycles), by energy ascending; rows: what gives each, in the arrays of its maker."""

    points: Floats
    rows: Ints

    def __len__(self) -> int:
        return len(self.points)


def front_of(points: Floats, epsilon: float = 0.0) -> Ints:
    """Indices of the points [n, 2] that no other dominates, by the first objective; with epsilon > 0, of a subset such
    that every point has one in it that is within 1 + epsilon in both objectives."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    second = points[order, 1]
    best = np.minimum.accumulate(second)
    keep = np.ones(len(order), bool)
    keep[1:] = second[1:] < best[:-1]
    out = order[keep]
    if epsilon <= 0 or len(out) < 3:
        return out
    thin, at = [], 0
    while at < len(out):  # of those within 1 + epsilon in the first objective, the last is best in the second
        end = int(np.searchsorted(points[out, 0], points[out[at], 0] * (1 + epsilon), side="right"))
        thin.append(out[end - 1])
        at = end
    return np.array(thin, np.int64)


@dataclass(frozen=True)
class LayerOptimum:
    """The best mapping of one layer, and how many were looked at."""

    piece: Single
    cost: Cost
    points: int


def value(energy: Any, cycles: Any, objective: Objective) -> Any:
    """What an objective makes of energy and cycles."""
    return energy * cycles if objective == "edp" else cycles if objective == "latency" else energy


def best_single(space: Space, layer: int, objective: Objective) -> LayerOptimum:
    """The best mapping of one layer by itself, by enumeration."""
    rows, found = space.singles(layer)
    energy, cycles = (np.broadcast_to(x, len(rows)) for x in space.cost_of(found))
    at = int(np.argmin(value(energy, cycles, objective)))
    return LayerOptimum(as_single(layer, rows[at]), Cost(float(energy[at]), float(cycles[at])), len(rows))


def single_front(space: Space, layer: int) -> Front:
    """The front of one layer's mappings; rows are positions in `space.singles(layer)`."""
    rows, found = space.singles(layer)
    energy, cycles = space.cost_of(found)
    points = np.stack((np.broadcast_to(energy, len(rows)), np.broadcast_to(cycles, len(rows))), axis=1)
    kept = front_of(points)
    return Front(points[kept], kept)


def fused_front(space: Space, first: int, last: int) -> tuple[Front, Ints] | None:
    """The front of one group's choices, and all of them; None where the layers cannot be fused, or nothing fits."""
    rows = space.fused_candidates(first, last)
    if not len(rows):
        return None
    energy, cycles, fits = space.fused_cost(first, last, rows)
    at = np.flatnonzero(fits)
    if not len(at):
        return None
    points = np.stack((energy[at], cycles[at]), axis=1)
    kept = front_of(points)
    return Front(points[kept], at[kept]), rows


@dataclass(frozen=True)
class Optimum:
    """The best plan. bound: no plan of the space is better than value / bound (1.0: proven optimal)."""

    plan: Plan
    cost: Cost
    value: float
    bound: float
    largest_front: int


def best_plan(
    space: Space, objective: Objective, fusion: bool = True, epsilon: float = 1e-3, largest: int = 20_000
) -> Optimum:
    """The best plan of a network, by dynamic programming over the prefixes of its layers.

    epsilon: what a whole network may lose by thinning fronts of more than `largest` points; 0 never thins.
    """
    pieces = _pieces(space, fusion)
    ways = walk(len(space.positions), {key: front.points for key, front in pieces.items()}, epsilon, largest)
    return ways.optimum(objective, lambda start, end, choice: _piece(space, pieces[start, end], start, end, choice))


def best_of(
    space: Space, objective: Objective, pool: MappingOf[tuple[int, int], Sequence[tuple[Piece, Cost]]]
) -> Optimum:
    """The best plan of given pieces, by (first, one past the last) in `space.positions`."""
    points = {key: np.array([(c.energy_pj, c.cycles) for _, c in found]) for key, found in pool.items()}
    kept = {key: front_of(p) for key, p in points.items()}
    ways = walk(len(space.positions), {key: points[key][at] for key, at in kept.items()})
    return ways.optimum(objective, lambda start, end, choice: pool[start, end][kept[start, end][choice]][0])


@dataclass(frozen=True)
class Ways:
    """The front of every prefix, and of each of its points the prefix it extends, the point there and the choice of the
    piece that extends it. factor: what thinning may have lost in each objective."""

    fronts: list[Floats]
    back: list[Ints]
    factor: float

    def optimum(self, objective: Objective, piece: Callable[[int, int, int], Piece]) -> Optimum:
        """The best point of the last front, and its pieces: piece(start, end, choice)."""
        energy, cycles = self.fronts[-1][:, 0], self.fronts[-1][:, 1]
        found = value(energy, cycles, objective)
        best = at = int(np.argmin(found))
        out: list[Piece] = []
        end = len(self.fronts) - 1
        while end:
            start, before, choice = (int(x) for x in self.back[end][at])
            out.append(piece(start, end, choice))
            end, at = start, before
        bound = self.factor**2 if objective == "edp" else self.factor
        largest = max(len(f) for f in self.fronts)
        cost = Cost(float(energy[best]), float(cycles[best]))
        return Optimum(Plan(tuple(reversed(out))), cost, float(found[best]), bound, largest)


def walk(n: int, pieces: MappingOf[tuple[int, int], Floats], epsilon: float = 0.0, largest: int = 20_000) -> Ways:
    """Fronts of the sums along all ways from 0 to n over pieces (start, end) -> points [m, 2]."""
    fronts: list[Floats] = [np.zeros((1, 2))]
    back: list[Ints] = [np.zeros((1, 3), np.int64)]
    step, thinned = (1 + epsilon) ** (1 / n) - 1, 0
    for end in range(1, n + 1):
        points, origin = [], []
        for start in range(end):
            front = pieces.get((start, end))
            if front is None or not len(fronts[start]):
                continue
            summed = fronts[start][:, None, :] + front[None, :, :]
            points.append(summed.reshape(-1, 2))
            i, j = np.indices(summed.shape[:2]).reshape(2, -1)
            origin.append(np.stack((np.full(len(i), start), i, j), axis=1))
        if not points:
            fronts.append(np.zeros((0, 2)))
            back.append(np.zeros((0, 3), np.int64))
            continue
        every = np.concatenate(points)
        kept = front_of(every)
        if len(kept) > largest and epsilon > 0:
            kept, thinned = front_of(every, step), thinned + 1
        fronts.append(every[kept])
        back.append(np.concatenate(origin)[kept])
    return Ways(fronts, back, (1 + step) ** thinned)


def _pieces(space: Space, fusion: bool) -> dict[tuple[int, int], Front]:
    """The front of every single layer and group, by (first, one past the last) in `space.positions`."""
    positions = space.positions
    out = {(at, at + 1): single_front(space, i) for at, i in enumerate(positions)}
    if fusion:
        for start in range(len(positions)):
            for end in range(start + 2, min(start + space.max_group, len(positions)) + 1):
                if positions[end - 1] - positions[start] != end - 1 - start:
                    break  # a layer of the host stands between
                found = fused_front(space, positions[start], positions[end - 1])
                if found is not None:
                    out[start, end] = found[0]
    return out


def _piece(space: Space, front: Front, start: int, end: int, choice: int) -> Piece:
    """The piece that gives a point of a front."""
    row, first, last = int(front.rows[choice]), space.positions[start], space.positions[end - 1]
    if first == last:
        return as_single(first, space.singles(first)[0][row])
    return as_fused(first, last, space.fused_candidates(first, last)[row])


def lower_bound(space: Space, fusion: bool = True) -> Cost:
    """Energy and cycles that no mapping can go below, each by itself.

    Energy: every MAC and its register read; every input to the array and every partial sum read and written once for
    `side` operations; and the DRAM bytes that cannot be avoided: weights, and of the activations the network's inputs
    and outputs (without fusion those of every layer). Cycles: operations on an ideal array, and those bytes over the
    outer link.
    """
    machine, workload = space.machine, space.workload
    energy = total_bytes = array = 0.0
    for i in space.positions:
        layer, shape = workload.layers[i], space.shapes[i]
        lanes = 1 if shape.depthwise else machine.side
        macs = shape.k * shape.c * shape.fy * shape.fx * shape.oy * shape.ox * shape.copies * (1 - shape.add)
        weights = layer.weights + (shape.k * shape.c * shape.copies if layer.op == "matmul" else 0)
        moved = weights + _must_move(workload, i, fusion)
        array += macs / lanes**2  # depthwise layers are one channel after another, a product a cycle
        total_bytes += moved
        energy += macs * (machine.mac_pj + machine.register_pj)
        energy += macs / lanes * (machine.scratchpad_pj + 2 * machine.accumulator_pj) + moved * machine.dram_pj
    return Cost(energy, max(array, total_bytes * machine.outer_cycles_per_byte))


def _must_move(workload: Workload, i: int, fusion: bool) -> int:
    """Bytes of activations that layer i moves from and to DRAM under any mapping."""
    layer = workload.layers[i]
    if not fusion:
        inputs = layer.c * layer.iy * layer.ix * (len(layer.inputs) if layer.op == "add" else 1)
        read_once = (layer.stride_y <= layer.fy or layer.oy == 1) and (layer.stride_x <= layer.fx or layer.ox == 1)
        return layer.outputs + (inputs if read_once else layer.k)
    return layer.outputs if layer.name in workload.outputs else 0


def check_objective(objective: str) -> Objective:
    """InputError unless it is one of the objectives."""
    if objective in ("edp", "latency", "energy"):
        return objective  # type: ignore[return-value]
    raise InputError(f"objective {objective!r}: edp, latency or energy is needed")
