"""Which cores compute a layer's channels and in which tiles, together: all that a layer may be, and what each costs.

Shares are those at which a cost can change: multiples of a core's channel step, on one core or on two, of many splits
between two cores so many that lie evenly. For each the tiles are all those of `tiles_dma` (behind a DMA) or
`tiles_cached` (whole on an array behind a cached mover); a layer that is split between both kinds has the tiler's.
What is not dominated among all of them is the layer's choice, for one placement of tensors and weights.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from cosoc.search.exact.tiles import front_of, value
from cosoc.search.spaces.sections import Floats, Ints, Section
from cosoc.search.spaces.tiles_cached import CachedTiles, runs_on_array
from cosoc.search.spaces.tiles_dma import DmaTiles
from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import Before, compose, layer_terms, stream_ticks, streamed
from cosoc.sim.figures import Objective
from cosoc.sim.model.energy import power_energy_j
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part
from cosoc.sim.model.placement import Homes
from cosoc.sim.model.soc import CachedMover, Dma, SoC
from cosoc.sim.model.tiles import tiled
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import Machine
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import refusals, tile_problems, tiled_plan, weight_bytes
from cosoc.sim.ways import able, splits
from cosoc.sim.work import layer_work

Tiles = Literal["searched", "tiler", "kept"]  # all of them; the tiler's for each share; the given mapping's, cut to fit

MOST_SPLITS = 9  # between two cores
HIDDEN = 1 << 60  # ticks: a layer before that hides whatever can be hidden


@dataclass(frozen=True)
class Choices:
    """What is not dominated of a layer. points [n, 2]: J and s, by itself; floor [n, 2]: if the layer before hid all
    that it can; weights [n]: bytes of them; plans: of each."""

    points: Floats
    floor: Floats
    weights: Ints
    plans: tuple[LayerPlan, ...]


def shares(layer: Layer, soc: SoC, most: int = MOST_SPLITS) -> list[tuple[Part, ...]]:
    """Parts of a layer on each core that can run it, and on each two: at most so many splits of them."""
    cores = able(layer, soc)
    found: list[tuple[Part, ...]] = [(Part(core, layer.k),) for core in cores]
    for pair in combinations(cores, 2):
        cut = [ks for ks in splits(layer, soc, pair) if all(ks)]
        if len(cut) > most:
            cut = [cut[round(at * (len(cut) - 1) / (most - 1))] for at in range(most)]
        found += [tuple(Part(core, k) for core, k in zip(pair, ks, strict=True)) for ks in cut]
    return [parts for parts in found if not any(refusals(layer, part, soc) for part in parts)]


def placement(homes: Homes) -> str:
    """Equal for placements under which layers have equal choices."""
    return repr((sorted(homes.tensors.items()), homes.weights_in_main, homes.stream_bytes, sorted(homes.pinned)))


class ShareTiles:
    """The choices of a network's layers for one placement.

    given: complete; whose plans stay where nothing is chosen, and in its pieces. homes: the placement.
    open_layers: names of those whose shares are chosen. tiles: which ones go with a share.
    """

    def __init__(
        self, workload: Workload, soc: SoC, given: Mapping, homes: Homes, open_layers: Collection[str],
        tiles: Tiles = "searched", theta: Theta | None = None,
    ) -> None:  # fmt: skip
        self.workload, self.soc, self.given, self.homes = workload, soc, given, homes
        self.open_layers, self.tiles, self.theta = open_layers, tiles, theta or Theta()
        self.fused = {name for piece in given.pieces for name in piece.layers}
        self.dma = DmaTiles(workload, soc, given, self.theta)
        self.dma.homes = homes
        self._arrays: dict[str, CachedTiles] = {}
        self._known: dict[object, Choices] = {}

    def choices(self, i: int) -> Choices:
        """All that layer i may be. InputError where nothing fits."""
        layer = self.workload.layers[i]
        given = self.given.layers[layer.name]
        key = self.alike(layer), layer.name in self.open_layers, layer.name in self.fused, given, i == 0
        if key not in self._known:
            self._known[key] = self._choices(i, layer, given)
        return self._known[key]

    def alike(self, layer: Layer) -> Hashable:
        """Layers for which this is equal have equal choices."""
        shape = replace(layer, name="", inputs=("",) * len(layer.inputs), alternative=None)
        own = layer.name if layer.alternative is not None else ""
        return shape, own, self.homes.ends(layer), layer.name in self.homes.pinned

    def cost(self, i: int, mapping: Mapping) -> Floats:
        """J and s [2] of layer i as a complete mapping has it; in a fused piece, as if it stood by itself."""
        layer = self.workload.layers[i]
        plan = mapping.layers[layer.name]
        if not plan.is_tiled:
            plan = tiled_plan(layer, plan, self.soc, self.given.runtime, self.homes)
        own: Floats = self.points(i, plan)[0][0]
        return own

    def near(self, i: int, plan: LayerPlan) -> tuple[list[LayerPlan], Floats]:
        """The choices of layer i, and the tilings a step away from a plan where tiles are searched; J and s [n, 2]."""
        own = self.choices(i)
        plans, points = list(own.plans), own.points
        beside = all(isinstance(self.soc.mover_of(part.core), Dma) for part in plan.parts if part.channels)
        if self.tiles == "searched" and beside and plan.is_tiled:
            steps = self.dma.neighbours(Section(i, (plan,)))
            plans += [steps.section(n).plan for n in range(len(steps.points))]
            points = np.concatenate([points, steps.points])
        return plans, points

    def best(self, i: int, objective: Objective) -> LayerPlan:
        """The best choice of layer i by itself."""
        own = self.choices(i)
        return own.plans[int(np.argmin(value(own.points[:, 0], own.points[:, 1], objective)))]

    def _choices(self, i: int, layer: Layer, given: LayerPlan) -> Choices:
        if layer.name in self.fused:  # it goes row by row in its piece: a stand-in for its part of what that costs
            own, least = self.points(i, tiled_plan(layer, given.untiled, self.soc, self.given.runtime, self.homes))
            weights = np.array([weight_bytes(layer, self.soc, given.parts)], np.int64)
            return Choices(own, 0 * least, weights, (given,))
        opened = [given]
        if layer.name in self.open_layers:
            opened = [LayerPlan(parts) for parts in shares(layer, self.soc)]
        found = [self.tilings(i, layer, plan) for plan in opened]
        found = [one for one in found if one[2]]
        if not found:
            raise InputError(f"layer {layer.name}: no tile of it fits {self.soc.name}, however its channels are split")
        plans = [plan for one in found for plan in one[2]]
        points, floor = (np.concatenate([one[at] for one in found]) for at in (0, 1))
        weights = np.array([weight_bytes(layer, self.soc, plan.parts) for plan in plans], np.int64)
        # A choice that takes fewer bytes of weights may leave room for others: it is dropped for a lighter one only.
        kept = {
            int(n) for size in np.unique(weights) for costs in (points, floor)
            for n in _front(costs, np.flatnonzero(weights <= size))
        }  # fmt: skip
        at = sorted(kept)
        return Choices(points[at], floor[at], weights[at], tuple(plans[n] for n in at))

    def tilings(self, i: int, layer: Layer, plan: LayerPlan) -> tuple[Floats, Floats, list[LayerPlan]]:
        """The fronts of a layer's tiles on some cores: points, points where all is hidden that can be, and plans."""
        movers = [self.soc.mover_of(part.core) for part in plan.parts if part.channels]
        searched = self.tiles == "searched"
        if searched and all(isinstance(mover, Dma) for mover in movers):
            return self._behind_dma(i, layer, plan)
        if searched and len(movers) == 1 and isinstance(movers[0], CachedMover) and runs_on_array(layer):
            options = self._array(plan.parts[0].core).options(i, i)
            assert options is not None
            points = options.points
            kept = front_of(points)
            return points[kept], points[kept], [options.section(int(n)).plan for n in kept]
        try:
            fixed = self._tiled(layer, plan)
        except InputError:
            return np.zeros((0, 2)), np.zeros((0, 2)), []
        return *self.points(i, fixed), [fixed]

    def _behind_dma(self, i: int, layer: Layer, plan: LayerPlan) -> tuple[Floats, Floats, list[LayerPlan]]:
        points, floor, found = [np.zeros((0, 2))], [np.zeros((0, 2))], list[LayerPlan]()
        for plans, many in self.dma.tilings(layer, plan):
            own, least = self.points(i, plans, many)
            kept = np.union1d(front_of(own), front_of(least))
            found += [self.dma.chosen(plans, int(choice)) for choice in kept]
            points.append(own[kept])
            floor.append(least[kept])
        every, under = np.concatenate(points), np.concatenate(floor)
        if not found:
            return every, under, found
        at = np.union1d(front_of(every), front_of(under))
        return every[at], under[at], [found[n] for n in at]

    def _tiled(self, layer: Layer, plan: LayerPlan) -> LayerPlan:
        """A plan with tiles that are not searched: the given ones where they are kept and fit, else the tiler's."""
        given = self.given.layers[layer.name]
        if plan.parts == given.parts and given.is_tiled:
            return given
        bare = plan.untiled
        behind_dma = all(isinstance(self.soc.mover_of(part.core), Dma) for part in plan.parts)
        if self.tiles == "kept" and given.is_tiled and behind_dma:
            tile = given.tile
            ks = [min(tile.k, part.channels) for part in plan.parts]
            kept = tiled(layer, bare, self.soc, ks, tile.oy, tile.ox, given.loops, tile.c, tile.n)
            if not tile_problems(layer, kept, self.soc, self.given.runtime, self.homes):
                return kept
        return tiled_plan(layer, bare, self.soc, self.given.runtime, self.homes)

    def _array(self, core: str) -> CachedTiles:
        if core not in self._arrays:
            at = [i for i, layer in enumerate(self.workload.layers) if runs_on_array(layer)]
            machine = Machine.of(self.soc, core)
            self._arrays[core] = CachedTiles(self.workload, machine, self.theta, core=core, positions=at)
        return self._arrays[core]

    def points(self, i: int, plan: LayerPlan, many: int = 1) -> tuple[Floats, Floats]:
        """J and s [many, 2] of layer i under a plan, or the many tilings in one: by itself, and where the layer before
        hides all that it can. Under the runtime serial nothing is hidden, and both are the same."""
        layer, runtime = self.workload.layers[i], self.given.runtime
        parts = [(part.core, part.channels) for part in plan.parts]
        work = layer_work(layer, self.soc, parts, plan, self.homes, exact, self.theta)
        terms, _ = layer_terms(layer, work, self.soc, self.homes, exact)
        ticks = compose(terms, runtime, self.theta, exact)
        least = ticks if i == 0 else compose(terms, runtime, self.theta, exact, Before(HIDDEN, HIDDEN))
        if runtime == "overlapped":
            (ticks,) = streamed([ticks], [terms], stream_ticks(self.homes, self.soc), exact)

        def both(ticks: object) -> Floats:
            energy = terms.unit_j + power_energy_j(self.soc, ticks, {})
            seconds = np.asarray(ticks, float) / self.soc.tick_hz
            return np.stack([np.broadcast_to(np.asarray(x, float), many) for x in (energy, seconds)], axis=1)

        return both(ticks), both(least)


def _front(points: Floats, some: Ints) -> Ints:
    """Which of some points no other of them dominates."""
    return some[front_of(points[some])]
