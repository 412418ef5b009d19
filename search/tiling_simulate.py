"""Plans simulated, theta refitted to what the simulator said, and plans put together from simulated pieces.

Layers and groups follow each other with a fence between, so a plan takes about as long as its pieces, each simulated
alone: the best plan of simulated pieces is found as the best plan of estimated ones is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from cosoc.search.spaces.tiles import Cost, Floats, Objective, Piece, Plan, Single, Space, to_mapping
from cosoc.search.tiling_repair import Pool, alternatives
from cosoc.sim import exact
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast
from cosoc.sim.model.cuts import only
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.cached_terms import CachedTerms, CachedTheta, cycles
from cosoc.sim.movers.cached_units import TICKS_PER_CYCLE
from cosoc.sim.report.result import energy_j

# What theta may be: shares are shares, factors stay near one.
BOUNDS = {
    "unhidden": (0.0, 1.0),
    "reload_miss": (0.0, 1.0),
    "split_miss": (0.0, 2.0),
    "fetch": (0.0, 1.0),
    "load": (0.8, 3.0),
    "store": (0.8, 3.0),
}
LARGEST = 5_000  # tiles that are simulated in about half a second
STRAY = 0.01  # weight of the distance from where theta was, against that of logarithms


@dataclass(frozen=True)
class Simulated:
    """A plan, what the simulator says of it, and what the closed form said at the time."""

    plan: Plan
    cost: Cost
    estimated: Cost


def simulated(space: Space, soc: SoC, plan: Plan) -> Simulated:
    """Simulate the layers that the array runs, under a plan."""
    cost = simulated_cost(space.workload, to_mapping(space, plan, soc), soc)
    return Simulated(plan, cost, space.cost(plan))


def simulated_cost(workload: Workload, mapping: Mapping, soc: SoC) -> Cost:
    """What the simulator says of the layers that a mapping names."""
    program = lower(only(workload, mapping.layers), mapping, soc)
    trace = engine_fast.run(program)
    return Cost(energy_j(program, trace, soc) * 1e12, trace.makespan / TICKS_PER_CYCLE)


def piece_terms(space: Space, piece: Piece) -> CachedTerms:
    """The terms of a piece."""
    if isinstance(piece, Single):
        found = space.single_terms(piece.layer, np.array([[*piece.tile, piece.order]], np.int64))
    else:
        found = space.group_terms(piece)
    return CachedTerms(*(float(np.asarray(x).reshape(-1)[0]) for x in astuple(found)))


class Pieces:
    """Simulated costs of pieces, each alone; remembered. largest: tiles of a piece beyond which it is not simulated."""

    def __init__(self, space: Space, soc: SoC, largest: int = LARGEST) -> None:
        self.space, self.soc, self.largest = space, soc, largest
        self.found: dict[Piece, Cost] = {}

    def cost(self, piece: Piece) -> Cost | None:
        """The simulated cost; None where that would take too long."""
        if piece not in self.found:
            if piece_terms(self.space, piece).stages > self.largest:
                return None
            mapping = to_mapping(self.space, Plan((piece,)), self.soc)
            self.found[piece] = simulated_cost(self.space.workload, mapping, self.soc)
        return self.found[piece]

    def best(self, plans: Sequence[Plan], objective: Objective, near: int, deadline: float) -> Plan:
        """The best plan of simulated pieces: those of the given plans, and of the first the `near` best neighbours.

        A piece that is not simulated keeps its estimate. deadline: as time.monotonic() has it.
        """
        space, first = self.space, plans[0]
        total = space.cost(first)

        def score(energy: Floats, cycles: Floats) -> Floats:
            """What a piece adds to the objective of the whole, to first order."""
            by_energy = energy * total.cycles if objective == "edp" else energy * (objective == "energy")
            by_cycles = cycles * total.energy_pj if objective == "edp" else cycles * (objective == "latency")
            out: Floats = by_energy + by_cycles
            return out

        wanted = list(dict.fromkeys(piece for plan in plans for piece in plan.pieces))
        wanted += [other for piece in first.pieces for other in alternatives(space, piece, score, near)]
        pool = Pool(space)
        for piece in dict.fromkeys(wanted):
            late = time.monotonic() > deadline and piece not in self.found
            simulated = None if late else self.cost(piece)
            if simulated is not None or piece in first.pieces:
                pool.add(piece, simulated or space.piece_cost(piece))
        return pool.best(objective)[0]


def predicted(space: Space, parts: Sequence[CachedTerms], theta: CachedTheta) -> float:
    """Cycles of a plan by its pieces' terms."""
    return float(sum(cycles(t, space.machine, theta, exact, int(space.double)) for t in parts))


def refit(space: Space, seen: MappingOf[Piece, Cost]) -> CachedTheta:
    """Theta that predicts the simulated cycles of pieces best (mean squared logarithm), near to where it was."""
    parts = [piece_terms(space, piece) for piece in seen]
    names = [f.name for f in fields(CachedTheta)]
    now = np.array([getattr(space.theta, name) for name in names])
    truth = np.array([cost.cycles for cost in seen.values()])
    weights = np.sqrt(truth / truth.sum())  # of what takes long more than of what does not

    def residuals(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        theta = replace(space.theta, **{name: float(v) for name, v in zip(names, x, strict=True)})
        found = np.array([predicted(space, [p], theta) for p in parts])
        return np.concatenate((weights * np.log(found / truth), STRAY * (x - now)))

    low, high = (np.array([BOUNDS[name][side] for name in names]) for side in (0, 1))
    result = least_squares(residuals, np.clip(now, low + 1e-6, high - 1e-6), bounds=(low, high))
    return replace(space.theta, **{name: float(v) for name, v in zip(names, result.x, strict=True)})
