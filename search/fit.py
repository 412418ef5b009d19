"""The one fit: factors of the closed form under which it predicts simulated ticks best.

`Made` keeps what an estimate is made of, so that its ticks can be had again under another theta in no time. `fit` is
for calibration, and for every search whose estimate drifts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cosoc.search.terms import TERMS, emitted, network_terms, prefetchable, unstreamed_ticks
from cosoc.sim import exact
from cosoc.sim.estimate import Terms, stream_ticks, streamed
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.cached_terms import CachedTerms, Machine, cycles
from cosoc.sim.theta import FACTORS, Theta, factors_of
from cosoc.sim.tiler import homes_of

Floats = npt.NDArray[np.float64]

SCALE = 0.05  # of the logarithm of an error, beyond which one counts less than by its square
STRAY = 0.02  # a factor's way across its whole range costs as much as a sample that is so far off
STEP = 1e-3  # of a factor, for the slopes of terms


@dataclass(frozen=True)
class Run:
    """Layers one after the other in the in-order composition. terms [turns, TERMS]; room [turns]: `prefetchable`;
    ahead: `stream_ticks`. slopes: how the terms change with factors that take part in them, those of parts behind
    caches, from `at` on."""

    terms: Floats
    room: Floats
    ahead: int
    slopes: Mapping[str, Floats] = field(default_factory=dict)
    at: Theta = field(default_factory=Theta)

    def under(self, theta: Theta) -> Floats:
        """The terms under a theta, to first order."""
        out = self.terms
        for name, slope in self.slopes.items():
            out = out + slope * (getattr(theta, name) - getattr(self.at, name))
        return out


@dataclass(frozen=True)
class Made:
    """What the ticks of a mapping are made of. runs: in order, one after the other; cached: layers and groups behind
    caches, with their machine; fixed_ticks: what is known without a closed form. unit_j: energy but for the base
    power, J."""

    runtime: Runtime = "overlapped"
    runs: tuple[Run, ...] = ()
    cached: tuple[tuple[Machine, CachedTerms], ...] = ()
    fixed_ticks: float = 0.0
    unit_j: float = 0.0

    def __add__(self, other: Made) -> Made:
        return Made(
            self.runtime, self.runs + other.runs, self.cached + other.cached,
            self.fixed_ticks + other.fixed_ticks, self.unit_j + other.unit_j,
        )  # fmt: skip


def made_of(workload: Workload, mapping: NetworkMapping, soc: SoC, theta: Theta | None = None) -> Made:
    """A network under a complete mapping, as `search.terms` composes it. theta: near which parts behind caches are
    taken."""
    at, homes = theta or Theta(), homes_of(workload, mapping, soc)
    alive = emitted(workload, mapping, soc)

    def table(theta: Theta) -> Floats:
        terms = network_terms(alive, soc, mapping, {}, homes, theta)
        found: Floats = torch.stack([getattr(terms, name) for name in TERMS], 1).numpy()
        return found

    terms, slopes = table(at), dict[str, Floats]()
    if any(soc.is_cached(part.core) for layer in alive for part in mapping.layers[layer.name].parts):
        for name in (name for name in factors_of(soc) if FACTORS[name].of == "decoupled"):
            slopes[name] = (table(replace(at, **{name: getattr(at, name) + STEP})) - terms) / STEP
    room = np.array(prefetchable(alive, soc, mapping), dtype=np.float64)
    run = Run(terms, room, stream_ticks(homes, soc), slopes, at)
    return Made(mapping.runtime, (run,), unit_j=float(terms[:, TERMS.index("unit_j")].sum()))


def ticks_of(made: Sequence[Made], theta: Theta) -> Floats:
    """The estimated ticks of each, under a theta."""
    out = np.array([one.fixed_ticks for one in made], dtype=np.float64)
    for serial in (True, False):
        runs = [(i, run) for i, one in enumerate(made) for run in one.runs if (one.runtime == "serial") == serial]
        if runs:
            np.add.at(out, [i for i, _ in runs], _in_order([run for _, run in runs], theta, serial))
    behind: dict[Machine, list[tuple[int, CachedTerms]]] = {}
    for i, one in enumerate(made):
        for machine, terms in one.cached:
            behind.setdefault(machine, []).append((i, terms))
    for machine, found in behind.items():
        terms = CachedTerms(*np.array([astuple(terms) for _, terms in found]).T)
        np.add.at(out, [i for i, _ in found], cycles(terms, machine, theta, exact))
    return out


def _in_order(runs: Sequence[Run], theta: Theta, serial: bool) -> Floats:
    terms = Terms(*torch.from_numpy(np.concatenate([run.under(theta) for run in runs])).unbind(1))
    starts = np.cumsum([0, *(len(run.terms) for run in runs[:-1])]).astype(np.int64)
    if serial:
        return _sums(terms.total, starts)
    room = torch.from_numpy(np.concatenate([run.room for run in runs]))
    ticks = unstreamed_ticks(terms, room, theta, starts.tolist())
    out = _sums(ticks, starts)
    for i, run in enumerate(runs):
        if run.ahead:
            own = ticks[starts[i] : starts[i] + len(run.terms)].tolist()
            layers = [Terms(*row) for row in run.under(theta).tolist()]
            out[i] = sum(streamed(own, layers, run.ahead, exact))
    return out


def _sums(by_layer: torch.Tensor, starts: npt.NDArray[np.int64]) -> Floats:
    out: Floats = np.add.reduceat(by_layer.numpy(), starts)
    return out


def fit(
    made: Sequence[Made],
    simulated: Floats | Sequence[float],
    names: Sequence[str],
    near: Theta,
    weights: Floats | None = None,
) -> Theta:
    """The factors (those in `names`; the others stay) under which the estimates are nearest to the simulated ticks, in
    the logarithm; near to where they were where samples say little. weights: of the samples, 1 each by default."""
    from scipy.optimize import least_squares

    if not names or not made:
        return near
    low, high = (np.array([getattr(FACTORS[name], side) for name in names]) for side in ("low", "high"))
    now = (np.array([getattr(near, name) for name in names]) - low) / (high - low)
    truth, heavy = np.log(np.asarray(simulated, float)), np.sqrt(np.ones(len(made)) if weights is None else weights)

    def theta(x: npt.NDArray[Any]) -> Theta:
        return replace(near, **dict(zip(names, (low + x * (high - low)).tolist(), strict=True)))

    def residuals(x: npt.NDArray[Any]) -> Floats:
        return np.concatenate((heavy * (np.log(ticks_of(made, theta(x))) - truth), STRAY * (x - now)))

    # The loss is robust, since what the form misses should not bend the rest.
    best = least_squares(residuals, np.clip(now, 0.02, 0.98), bounds=(0, 1), loss="soft_l1", f_scale=SCALE)
    return theta(best.x)
