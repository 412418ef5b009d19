"""Costs of channel shares: the closed form of soft ones, the simulation of whole ones, and the refit when they drift.

Channels and operators make shares soft; what they cost is the same for both, and stands here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cosoc.search.baselines.laws import network_estimate as odimo_estimate
from cosoc.search.fit import Made, fit, made_of
from cosoc.search.oracle import Oracle, Pair
from cosoc.search.sampling import random_mapping
from cosoc.search.spaces.inner_tiles import InnerTiles
from cosoc.search.terms import Estimate, network_estimate, network_peak, tilings_for
from cosoc.sim.figures import Figures
from cosoc.sim.model.mapping import Mapping, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.theta import Theta, factors_of

CostModel = Literal["simulator", "odimo"]
Shares = MappingOf[str, MappingOf[str, Tensor]]  # soft channels on each core, by layer
Counts = MappingOf[str, MappingOf[str, int]]  # channels on each core, by layer
Key = tuple[tuple[str, tuple[tuple[str, int], ...]], ...]  # counts as a key, without cores that have none


def key_of(counts: Counts) -> Key:
    """Counts as a key."""
    return tuple((name, tuple((core, k) for core, k in on.items() if k)) for name, on in counts.items())


@dataclass(frozen=True)
class SoftFigures:
    """`Figures` of soft shares: scalars, differentiable in them."""

    latency_s: Tensor
    energy_j: Tensor
    peak_bytes: Tensor
    throughput: Tensor


class ShareCosts:
    """Costs of one network's shares on one SoC under one runtime. oracle: simulates them."""

    def __init__(
        self, workload: Workload, soc: SoC, runtime: Runtime, model: CostModel = "simulator",
        oracle: Oracle | None = None,
    ) -> None:  # fmt: skip
        self.workload, self.soc, self.runtime, self.model = workload, soc, runtime, model
        self.oracle = oracle or Oracle(soc, workload)
        self.theta = Theta()
        self.pairs: list[Pair] = []
        self._tilings = self.oracle.tilings
        self._inner: InnerTiles | None = None
        self._samples: list[tuple[Made, float]] = []  # what theta is fitted to, with simulated ticks: random, visited
        self._kept = 0  # how many of the pairs are among the samples
        self._primed = Theta()  # where a search begins
        self.ahead: Callable[[Key], Figures | None] | None = None  # what somebody else has simulated
        self._simulated: dict[Key, Figures] = {}
        self._took: list[float] = []  # seconds of each simulation here

    def mapping(self, counts: Counts, name: str = "candidate") -> Mapping:
        """The complete mapping of channel counts: in the tiler's tiles, or the best ones (`cut_by`)."""
        found = tilings_for(self.workload, self.soc, counts, self.runtime, self._tilings, name)
        return found if self._inner is None else self._inner.cut(found)

    def cut_by(self, inner: InnerTiles) -> None:
        """From now on, mappings in the best tiles of their shares."""
        self._inner = inner
        self._simulated.clear()

    def estimate(self, shares: Shares, grain: int = 1) -> Estimate:
        """The differentiable cost of soft shares, with the tiles that the tiler takes for the shares rounded to
        multiples of the grain (but for the last core's): coarser is faster, as fewer tilings are looked for."""
        return self._estimate(shares, self._rounded(shares, grain))

    def _rounded(self, shares: Shares, grain: int) -> Mapping:
        return self.mapping({name: _rounded(on_cores, grain) for name, on_cores in shares.items()})

    def _estimate(self, shares: Shares, rounded: Mapping) -> Estimate:
        if self.model == "odimo":
            return odimo_estimate(self.workload, shares)
        return network_estimate(self.workload, self.soc, rounded, shares, self.theta)

    def figures(self, shares: Shares, grain: int = 1) -> SoftFigures:
        """`estimate` as figures that any objective takes."""
        rounded = self._rounded(shares, grain)
        found = self._estimate(shares, rounded)
        seconds = found.ticks / self.soc.tick_hz
        peak = network_peak(self.workload, self.soc, rounded, shares)
        return SoftFigures(seconds, found.energy_j, peak, self.workload.n / seconds)

    def estimated(self, counts: Counts) -> Figures:
        """The estimate at whole channels."""
        with torch.no_grad():
            found = self.figures({n: {c: torch.tensor(float(k)) for c, k in on.items()} for n, on in counts.items()})
        return Figures(
            float(found.latency_s), float(found.energy_j), round(float(found.peak_bytes)), float(found.throughput)
        )

    def simulated(self, counts: Counts) -> Figures:
        """The simulated cost at whole channels."""
        key = key_of(counts)
        if key not in self._simulated:
            found = None if self.ahead is None else self.ahead(key)
            if found is None:
                began = time.perf_counter()
                found = self.oracle.simulate(self.mapping({name: dict(on) for name, on in key}))
                self._took.append(time.perf_counter() - began)
            self._simulated[key] = found
        return self._simulated[key]

    def knows(self, key: Key) -> bool:
        """Whether counts have been simulated."""
        return key in self._simulated

    @property
    def seconds_each(self) -> float:
        """What a simulation takes here: the median, as the first ones make what others share; 0 before any."""
        return median(self._took) if self._took else 0.0

    def compare(self, counts: Counts, tolerance: float) -> Pair:
        """Estimate and simulate a candidate; refit theta if they are further apart than the tolerance."""
        pair = Pair(self.mapping(counts), self.estimated(counts), self.simulated(counts))
        self.pairs.append(pair)
        if pair.drift > tolerance and self.model == "simulator" and self.runtime == "overlapped":
            self.refit()
        return pair

    def start(self, theta: Theta) -> None:
        """Begin from a theta that was fitted before."""
        self.theta = self._primed = theta

    def prime(self, mappings: int, seed: int) -> None:
        """Fit theta to random mappings of this network, simulated."""
        if self.runtime == "serial" or self.model != "simulator":
            return  # nothing to fit: the serial estimate is exact, the other model has no theta
        rng = np.random.default_rng(seed)
        for _ in range(mappings):
            mapping = random_mapping(self.workload, self.soc, self.runtime, rng, self._tilings)
            self._keep(mapping, self.oracle.simulate(mapping))
        self.start(self._fitted())

    def refit(self) -> None:
        """Fit theta again, to the random mappings and to those that the search has visited."""
        for pair in self.pairs[self._kept :]:
            self._keep(pair.mapping, pair.simulated)
        self._kept = len(self.pairs)
        self.theta = self._fitted()

    def _keep(self, mapping: Mapping, found: Figures) -> None:
        made = made_of(self.workload, mapping, self.soc, self._primed)
        self._samples.append((made, found.latency_s * self.soc.tick_hz))

    def _fitted(self) -> Theta:
        made, ticks = zip(*self._samples, strict=True)
        return fit(made, ticks, factors_of(self.soc), self._primed)

    def restart(self, visited: Sequence[Counts] = (), theta: Theta | None = None) -> None:
        """Forget what a search has visited, or take up one that had visited these and had come to this theta."""
        del self._samples[len(self._samples) - self._kept :]
        self.pairs.clear()
        self._kept = 0
        self.theta = theta or self._primed
        for counts in visited:
            self.pairs.append(Pair(self.mapping(counts), self.estimated(counts), self.simulated(counts)))


class Tangent:
    """A cost as its tangent plane, taken anew every so many evaluations: value and gradient at next to no cost between.

    Soft shares move little from step to step, the gradient of the cost even less.
    """

    def __init__(self, cost: Callable[[Shares], Tensor], every: int) -> None:
        self._cost, self._every, self._age = cost, every, 0
        self._keys: list[tuple[str, str]] = []
        self._value = self._at = self._slopes = torch.zeros(())  # where the plane touches: cost, shares, slopes

    def __call__(self, shares: Shares) -> Tensor:
        """The cost of soft shares, differentiable, on their device, from which nothing is read between touches."""
        if self._age % self._every == 0:
            self._touch(shares)
        self._age += 1
        now = torch.stack([shares[n][c] for n, c in self._keys]).to(self._at)
        return self._value + (self._slopes * (now - self._at)).sum()

    def renew(self) -> None:
        """Take the plane anew at the next evaluation."""
        self._age = 0

    def _touch(self, shares: Shares) -> None:
        leaves = {n: {c: k.detach().cpu().double().requires_grad_() for c, k in on.items()} for n, on in shares.items()}
        value = self._cost(leaves)
        self._keys = [(n, c) for n, on in leaves.items() for c in on]
        at = [leaves[n][c] for n, c in self._keys]
        slopes = torch.autograd.grad(value, at, allow_unused=True)
        kept = [torch.zeros((), dtype=torch.float64) if slope is None else slope for slope in slopes]
        device = shares[self._keys[0][0]][self._keys[0][1]].device
        precise = torch.float32 if device.type == "mps" else torch.float64
        self._value, self._at, self._slopes = (
            one.to(device, precise) for one in (value.detach(), torch.stack(at).detach(), torch.stack(kept))
        )


def _rounded(on_cores: MappingOf[str, Tensor], grain: int) -> dict[str, int]:
    """Whole channels nearest to soft ones, with the same sum."""
    values = {core: float(k.detach()) for core, k in on_cores.items()}
    total = round(sum(values.values()))
    if grain > 1:
        *first, last = values
        coarse, left = {}, total
        for core in first:
            coarse[core] = min(round(values[core] / grain) * grain, left)
            left -= coarse[core]
        return coarse | {last: left}
    out = {core: int(k) for core, k in values.items()}
    for core in sorted(values, key=lambda c: out[c] - values[c])[: total - sum(out.values())]:
        out[core] += 1
    return out
