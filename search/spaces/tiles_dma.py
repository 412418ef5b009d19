"""Tiles behind a DMA: every cut of a layer along n, k, c, oy and ox that the memories admit, and what each costs.

A tile's size is one that cuts a dimension into 1, 2, 3, ... nearly equal parts: others take as many jobs and more
memory. Of the orders of the loops, those are told apart that load other bytes: which of n, oy and ox stand outside k.
Costs are those of `cosoc.sim.work` and `cosoc.sim.estimate`, the tiler's own, for all tilings of a layer in few calls.
Layers split over cores go side by side; their channels are cut in as many parts on each.

A fused piece goes row by row, all weights resident: it leaves nothing to choose, and has no closed form here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, product

import numpy as np
import numpy.typing as npt

from cosoc.search.exact.tiles import front_of
from cosoc.search.fit import Made, Run
from cosoc.search.spaces.sections import Cost, Floats, Ints, Options, Section
from cosoc.search.terms import TERMS
from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import layer_terms, layer_time, stream_ticks
from cosoc.sim.model.energy import power_energy_j
from cosoc.sim.model.mapping import REDUCTION, Dim, LayerPlan, Mapping
from cosoc.sim.model.placement import Homes
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import channels_read, tiled
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import cuts, fits, homes_of, part_tiles, tile_problems
from cosoc.sim.work import LayerWork, layer_work

MOST = 1 << 16  # tilings in one call


@dataclass
class DmaTiles:
    """The choices of the layers of a completed mapping, each on the cores that the mapping gives it."""

    workload: Workload
    soc: SoC
    given: Mapping
    theta: Theta = field(default_factory=Theta)

    def __post_init__(self) -> None:
        self.homes: Homes = homes_of(self.workload, self.given, self.soc)
        self._known: dict[tuple[object, ...], tuple[Floats, list[LayerPlan]]] = {}

    def options(self, i: int) -> Options:
        """What is not dominated among all tilings of a layer."""
        layer = self.workload.layers[i]
        given = self.given.layers[layer.name]
        key = self._key(layer, given)
        if key not in self._known:
            self._known[key] = self._enumerated(layer, given)
        points, plans = self._known[key]
        return Options(points, lambda choice: Section(i, (plans[choice],)))

    def _key(self, layer: Layer, given: LayerPlan) -> tuple[object, ...]:
        """Layers with an equal key have equal choices."""
        cores = tuple((part.core, part.channels, part.bits) for part in given.parts), given.unroll
        alike = replace(layer, name="", inputs=("",) * len(layer.inputs), alternative=None)
        own = layer.name if layer.alternative is not None else ""
        at = self.homes.ends(layer), layer.name in self.homes.pinned
        return cores, alike, own, at

    def _enumerated(self, layer: Layer, given: LayerPlan) -> tuple[Floats, list[LayerPlan]]:
        """The front of a layer's tilings: points by energy, and plans."""
        points, found = [np.zeros((0, 2))], list[LayerPlan]()
        for plans, many in self.tilings(layer, given):
            costs = self.points(layer, plans, many)
            for choice in front_of(costs):
                found.append(self.chosen(plans, int(choice)))
                points.append(costs[choice][None])
        if not found:
            smallest = tiled(layer, given, self.soc, (1,) * len(given.parts), 1, 1, c=1, n=1)
            raise InputError("; ".join(tile_problems(layer, smallest, self.soc, self.given.runtime, self.homes)))
        every = np.concatenate(points)
        kept = front_of(every)
        return every[kept], [found[i] for i in kept]

    def tilings(self, layer: Layer, given: LayerPlan) -> Iterator[tuple[LayerPlan, int]]:
        """Every legal tiling, many in one plan whose k, oy and ox are arrays, and how many. Where whole vectors fit,
        what needs them is not cut through them."""
        steps = [part_tiles(layer, part, self.soc) for part in given.parts]
        most = max(len(own) for own in steps)
        k_choices = np.array([[own[min(i, len(own) - 1)] for own in steps] for i in range(most)], np.int64)
        grid = (np.arange(most), np.array(cuts(layer.oy), np.int64), np.array(cuts(layer.ox), np.int64))
        at, oy, ox = (axis.reshape(-1) for axis in np.meshgrid(*grid, indexing="ij"))
        reads = channels_read(layer)
        if layer.by_vectors and self._fits(layer, given, k_choices, at, oy, ox, 0, 1)[at == 0].any():
            at, oy, ox = at[at == 0], oy[at == 0], ox[at == 0]
        for n, c in product(cuts(layer.n), cuts(reads)):
            cut_c = 0 if c == reads else c
            legal = self._fits(layer, given, k_choices, at, oy, ox, cut_c, n)
            for some in np.array_split(np.flatnonzero(legal), -(-int(legal.sum()) // MOST) or 1):
                if len(some):
                    k = k_choices[at[some]]
                    plan = tiled(layer, given, self.soc, list(k.T), oy[some], ox[some], c=cut_c, n=n)
                    yield from ((replace(plan, order=order), len(some)) for order in orders(layer))

    def _fits(
        self, layer: Layer, given: LayerPlan, k_choices: Ints, at: Ints, oy: Ints, ox: Ints, cut_c: int, n: int
    ) -> npt.NDArray[np.bool_]:
        """Which of the tilings fit all memories. Each is asked for: a small tile can need more than a large one, as
        its rows are aligned one by one."""
        plan = tiled(layer, given, self.soc, list(k_choices[at].T), oy, ox, c=cut_c, n=n)
        return np.broadcast_to(fits(layer, plan, self.soc, self.given.runtime, self.homes), len(at))

    def points(self, layer: Layer, plan: LayerPlan, many: int = 1) -> Floats:
        """J and s [many, 2] of a plan, or of the many tilings in one."""
        work = self._work(layer, plan)
        found = layer_time(layer, work, self.soc, self.given.runtime, self.homes, self.theta, exact)
        energy = found.unit_j + power_energy_j(self.soc, found.ticks, {})
        both = [np.broadcast_to(np.asarray(x, float), many) for x in (energy, found.ticks / self.soc.tick_hz)]
        return np.stack(both, axis=1)

    def _work(self, layer: Layer, plan: LayerPlan) -> LayerWork:
        shares = [(part.core, part.channels) for part in plan.parts]
        return layer_work(layer, self.soc, shares, plan, self.homes, exact, self.theta)

    def made(self, section: Section) -> Made:
        """What the estimate of a layer by itself is made of."""
        layer = self.workload.layers[section.first]
        terms, _ = layer_terms(layer, self._work(layer, section.plan), self.soc, self.homes, exact)
        table = np.array([[float(getattr(terms, name)) for name in TERMS]])
        run = Run(table, np.zeros(1), stream_ticks(self.homes, self.soc))
        return Made(self.given.runtime, (run,), unit_j=float(terms.unit_j))

    @staticmethod
    def chosen(plan: LayerPlan, choice: int) -> LayerPlan:
        """One of the tilings in a plan of many."""

        def one(size: object) -> int:
            return int(size[choice]) if isinstance(size, np.ndarray) else int(size)  # type: ignore[call-overload]

        parts = []
        for part in plan.parts:
            tile = part.tile
            assert tile is not None
            parts.append(replace(part, tile=replace(tile, k=one(tile.k), oy=one(tile.oy), ox=one(tile.ox))))
        return replace(plan, parts=tuple(parts))

    def learn(self, theta: Theta) -> None:
        """Take another theta."""
        self.theta = theta
        self._known.clear()

    def cost(self, section: Section) -> Cost:
        """What a layer by itself costs under a tiled plan, legal or not."""
        energy, seconds = self.points(self.workload.layers[section.first], section.plan)[0]
        return Cost(float(energy), float(seconds))

    def neighbours(self, section: Section) -> Options:
        """Legal tilings a step away: the next coarser or finer cut along one dimension, or another order; the section
        itself first."""
        layer, plan = self.workload.layers[section.first], section.plan
        found = [plan]
        for other in (*self._steps(layer, plan), *(replace(plan, order=order) for order in orders(layer))):
            if other not in found and not tile_problems(layer, other, self.soc, self.given.runtime, self.homes):
                found.append(other)
        points = np.concatenate([self.points(layer, other) for other in found])
        return Options(points, lambda choice: Section(section.first, (found[choice],)))

    def _steps(self, layer: Layer, plan: LayerPlan) -> Iterator[LayerPlan]:
        tile, reads = plan.tile, channels_read(layer)
        ks = [part.tile.k for part in plan.parts if part.tile is not None]

        def cut(k: list[int], oy: int, ox: int, c: int, n: int) -> LayerPlan:
            return tiled(layer, plan, self.soc, k, oy, ox, plan.loops, c if c < reads else 0, n)

        for oy in _beside(cuts(layer.oy), tile.oy):
            yield cut(ks, oy, tile.ox, tile.c, tile.n)
        for ox in _beside(cuts(layer.ox), tile.ox):
            yield cut(ks, tile.oy, ox, tile.c, tile.n)
        for c in _beside(cuts(reads), min(tile.c, reads)):
            yield cut(ks, tile.oy, tile.ox, c, tile.n)
        for n in _beside(cuts(layer.n), tile.n):
            yield cut(ks, tile.oy, tile.ox, tile.c, n)
        for at, part in enumerate(() if layer.by_vectors else plan.parts):
            for k in _beside(part_tiles(layer, part, self.soc), ks[at]):
                yield cut([*ks[:at], k, *ks[at + 1 :]], tile.oy, tile.ox, tile.c, tile.n)


def orders(layer: Layer) -> list[tuple[Dim, ...]]:
    """The orders of the loops that differ in what they load: of n, oy and ox, those of more than one step that stand
    outside k."""
    pixels: tuple[Dim, ...] = ("n", "oy", "ox")
    moving = [d for d in pixels if (layer.n if d == "n" else getattr(layer, d)) > 1]
    out = list[tuple[Dim, ...]]()
    for outside in chain.from_iterable(combinations(moving, r) for r in range(len(moving) + 1)):
        out.append((*outside, "k", *(d for d in pixels if d not in outside), *REDUCTION))
    return out


def _beside(sizes: tuple[int, ...], size: int) -> list[int]:
    """The next larger and the next smaller of some sizes."""
    larger = [s for s in sizes if s > size]
    smaller = [s for s in sizes if s < size]
    return ([min(larger)] if larger else []) + ([max(smaller)] if smaller else [])
