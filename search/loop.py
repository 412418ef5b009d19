"""The simulator in the loop: costs of a mapping, estimated and simulated, and the estimate refitted when they drift.

Spaces differ in what they make soft; what a candidate costs, how the pair of estimate and simulation is kept, and when
theta is refitted is the same for all, and stands here.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from cosoc.search.odimo_cost import network_estimate as odimo_estimate
from cosoc.search.terms import Estimate, TilingCache, network_estimate, tilings_for
from cosoc.sim import engine_fast
from cosoc.sim.estimate import Theta
from cosoc.sim.lower import lower
from cosoc.sim.mapping import Mapping, Runtime
from cosoc.sim.report import energy_j
from cosoc.sim.soc import SoC
from cosoc.sim.workload import Workload

Objective = Literal["latency", "energy"]
CostModel = Literal["simulator", "odimo"]
Counts = MappingOf[str, MappingOf[str, int]]  # channels on each core, by layer


@dataclass(frozen=True)
class Cost:
    """What a mapping costs."""

    seconds: float
    energy_j: float

    def of(self, objective: Objective) -> float:
        return self.seconds if objective == "latency" else self.energy_j


@dataclass(frozen=True)
class Pair:
    """An estimate and the simulation of the same mapping."""

    mapping: Mapping
    estimated: Cost
    simulated: Cost


class Oracle:
    """Costs of one network on one SoC under one runtime; remembers what it has simulated."""

    def __init__(self, workload: Workload, soc: SoC, runtime: Runtime, model: CostModel = "simulator") -> None:
        self.workload, self.soc, self.runtime, self.model = workload, soc, runtime, model
        self.theta = Theta()
        self.pairs: list[Pair] = []
        self._tilings = TilingCache()
        self._simulated: dict[tuple[tuple[str, tuple[tuple[str, int], ...]], ...], Cost] = {}

    def mapping(self, counts: Counts, name: str = "candidate") -> Mapping:
        """The complete mapping of channel counts."""
        return tilings_for(self.workload, self.soc, counts, self.runtime, self._tilings, name)

    def estimate(self, shares: MappingOf[str, MappingOf[str, Tensor]]) -> Estimate:
        """The differentiable cost of soft shares, with the tiles that the tiler takes for the shares rounded."""
        if self.model == "odimo":
            return odimo_estimate(self.workload, shares)
        mapping = self.mapping({name: _rounded(on_cores) for name, on_cores in shares.items()})
        return network_estimate(self.workload, self.soc, mapping, shares, self.theta)

    def estimated(self, counts: Counts) -> Cost:
        """The estimate at whole channels."""
        with torch.no_grad():
            shares = {n: {c: torch.tensor(float(k)) for c, k in on.items()} for n, on in counts.items()}
            found = self.estimate(shares)
        return Cost(float(found.ticks) / self.soc.tick_hz, float(found.energy_j))

    def simulated(self, counts: Counts) -> Cost:
        """The simulated cost at whole channels."""
        key = tuple((name, tuple((c, k) for c, k in on.items() if k)) for name, on in counts.items())
        if key not in self._simulated:
            present = {name: {c: k for c, k in on.items() if k} for name, on in counts.items()}
            program = lower(self.workload, self.mapping(present), self.soc)
            trace = engine_fast.run(program)
            spent = energy_j(program, trace, self.soc)
            self._simulated[key] = Cost(trace.makespan / self.soc.tick_hz, spent)
        return self._simulated[key]

    def compare(self, counts: Counts, tolerance: float) -> Pair:
        """Estimate and simulate a candidate; refit theta if they are further apart than the tolerance."""
        pair = Pair(self.mapping(counts), self.estimated(counts), self.simulated(counts))
        self.pairs.append(pair)
        drift = abs(pair.estimated.seconds / pair.simulated.seconds - 1)
        if drift > tolerance and self.model == "simulator" and self.runtime == "overlapped":
            self.refit()
        return pair

    def refit(self) -> None:
        """Fit theta to the mappings that the search has visited: least squares of the relative error, in 0..1."""
        recent = self.pairs[-12:]
        ticks = np.array([p.simulated.seconds * self.soc.tick_hz for p in recent])

        def error(values: np.ndarray) -> np.ndarray:
            theta = Theta(*values.tolist())
            with torch.no_grad():
                found = [network_estimate(self.workload, self.soc, p.mapping, {}, theta).ticks for p in recent]
            return np.array([float(t) for t in found]) / ticks - 1

        start = np.clip(np.array([getattr(self.theta, f.name) for f in fields(Theta)]), 0, 1)
        found = least_squares(error, start, bounds=(0, 1), diff_step=0.05, max_nfev=8)
        self.theta = Theta(*found.x.tolist())


def _rounded(on_cores: MappingOf[str, Tensor]) -> dict[str, int]:
    """Whole channels nearest to soft ones, with the same sum."""
    values = {core: float(k.detach()) for core, k in on_cores.items()}
    total = round(sum(values.values()))
    out = {core: int(k) for core, k in values.items()}
    for core in sorted(values, key=lambda c: out[c] - values[c])[: total - sum(out.values())]:
        out[core] += 1
    return out
