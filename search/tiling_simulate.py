"""Plans simulated, and theta refitted to what the simulator said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from cosoc.search.spaces.tiling_fusion import Cost, Plan, Single, Space, to_mapping
from cosoc.sim import engine_fast, exact
from cosoc.sim.gemmini.estimate import Terms, Theta, cycles
from cosoc.sim.gemmini.fused import lower_plan
from cosoc.sim.gemmini.lower import TICKS_PER_CYCLE
from cosoc.sim.mapping import Mapping
from cosoc.sim.report import energy_j
from cosoc.sim.soc import SoC
from cosoc.sim.workload import Workload

# What theta may be: shares are shares, factors stay near one.
BOUNDS = {
    "unhidden": (0.0, 1.0),
    "reload_miss": (0.0, 1.0),
    "split_miss": (0.0, 2.0),
    "load": (0.8, 3.0),
    "store": (0.8, 3.0),
}
STRAY = 1e-3  # weight of the squared distance from where theta was


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
    program, _ = lower_plan(workload, mapping, soc)
    trace = engine_fast.run(program)
    return Cost(energy_j(program, trace, soc) * 1e12, trace.makespan / TICKS_PER_CYCLE)


def piece_terms(space: Space, plan: Plan) -> list[Terms]:
    """The terms of every piece of a plan."""
    out = []
    for piece in plan.pieces:
        if isinstance(piece, Single):
            found = space.single_terms(piece.layer, np.array([[*piece.tile, piece.order]], np.int64))
        else:
            found = space.group_terms(piece)
        out.append(Terms(*(float(np.asarray(x).reshape(-1)[0]) for x in astuple(found))))
    return out


def predicted(space: Space, parts: Sequence[Terms], theta: Theta) -> float:
    """Cycles of a plan by its pieces' terms."""
    return float(sum(cycles(t, space.machine, theta, exact, int(space.double)) for t in parts))


def refit(space: Space, seen: Sequence[Simulated]) -> Theta:
    """Theta that predicts the simulated plans best (mean squared logarithm), near to where it was."""
    parts = [piece_terms(space, s.plan) for s in seen]
    names = [f.name for f in fields(Theta)]
    now = np.array([getattr(space.theta, name) for name in names])
    truth = np.log([s.cost.cycles for s in seen])

    def loss(x: npt.NDArray[np.float64]) -> float:
        theta = replace(space.theta, **{name: float(v) for name, v in zip(names, x, strict=True)})
        found = np.log([predicted(space, p, theta) for p in parts])
        return float(((found - truth) ** 2).mean() + STRAY * ((x - now) ** 2).mean())

    result = minimize(loss, now, method="Nelder-Mead", bounds=[BOUNDS[name] for name in names],
                      options={"maxfev": 400, "xatol": 1e-3, "fatol": 1e-7})  # fmt: skip
    return replace(space.theta, **{name: float(v) for name, v in zip(names, result.x, strict=True)})
