"""Tiles inside of a search over shares: the best ones of the estimate for whatever shares it comes to.

A search by gradient takes the slope of the cost at these tiles: since they are the best, moving them changes nothing to
first order, and the slope in the shares at fixed tiles is that of the best cost (the envelope theorem). What is best of
energy and time together is asked for at the objective's own slope at a reference, so that layers can be asked one by
one. Known by layer and shares, since a search comes to the same ones again. At the end the simulator decides between
these, the tiler's, and fused pieces where they may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cosoc.search.oracle import Oracle
from cosoc.search.spaces.sections import mapping_of
from cosoc.search.spaces.share_tiles import ShareTiles, placement
from cosoc.search.spaces.tiles import TileSpace
from cosoc.search.targets import Target, within
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures, objective
from cosoc.sim.model.mapping import LayerPlan, Mapping
from cosoc.sim.model.soc import Dma, SoC
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.tiler import checked, homes_of

STEP = 1e-4  # relative, of the slopes of an objective
GROUP = 4  # layers that are fused at most


def slopes(aim: str, at: Figures) -> tuple[float, float]:
    """What a joule and a second more change an objective by, near some figures; of an objective that knows neither, as
    of latency."""
    value, step = objective(aim), STEP
    joules = (value(replace(at, energy_j=at.energy_j * (1 + step))) - value(at)) / (at.energy_j * step)
    slower = replace(at, latency_s=at.latency_s * (1 + step), throughput=at.throughput / (1 + step))
    seconds = (value(slower) - value(at)) / (at.latency_s * step)
    return (float(joules), float(seconds)) if joules or seconds else (0.0, 1.0)


class InnerTiles:
    """The best tiles of a network's layers by an objective, near the figures of a reference."""

    def __init__(self, workload: Workload, soc: SoC, aim: str, reference: Figures) -> None:
        self.workload, self.soc, self.slopes = workload, soc, np.array(slopes(aim, reference))
        self._tables: dict[str, ShareTiles] = {}
        self._known: dict[object, LayerPlan] = {}

    def cut(self, mapping: Mapping) -> Mapping:
        """A complete mapping with the best tiles of its shares in place of its own, of layers behind a DMA that stand
        in no piece."""
        homes = homes_of(self.workload, mapping, self.soc)
        key = f"{mapping.runtime} {placement(homes)}"
        if key not in self._tables:
            self._tables[key] = ShareTiles(self.workload, self.soc, mapping, homes, ())
        fused = {name for piece in mapping.pieces for name in piece.layers}
        layers = dict(mapping.layers)
        for i, layer in enumerate(self.workload):
            plan = layers[layer.name]
            served = [self.soc.mover_of(part.core) for part in plan.parts]
            if layer.name not in fused and all(isinstance(mover, Dma) for mover in served):
                layers[layer.name] = self._best(i, layer, plan, self._tables[key], key)
        return replace(mapping, layers=layers)

    def _best(self, i: int, layer: Layer, plan: LayerPlan, table: ShareTiles, placed: str) -> LayerPlan:
        bare = plan.untiled
        key = table.alike(layer), bare, placed
        if key not in self._known:
            points, _, plans = table.tilings(i, layer, bare)
            self._known[key] = plans[int(np.argmin(points @ self.slopes))] if plans else plan
        return self._known[key]


def decided(
    tiled: Mapping, soc: SoC, workload: Workload, aim: str, targets: Sequence[Target], fusion: bool, oracle: Oracle
) -> Mapping:
    """Of the same shares in the tiles given, in the tiler's, and with `fusion` in the best pieces and tiles of the
    estimate, what simulates best."""
    value = within(objective(aim), targets)
    bare = {
        name: replace(plan, parts=tuple(part for part in plan.parts if part.channels)).untiled
        for name, plan in tiled.layers.items()
    }
    found = [checked(tiled, workload, soc), checked(replace(tiled, layers=bare), workload, soc)]
    if fusion:
        try:
            space = TileSpace(soc, workload, aim, found[0], max_group=GROUP, targets=targets)
        except InputError:  # nothing that could be cut or fused
            pass
        else:
            found.append(mapping_of(space.optimum_plan().sections, space.given, workload, tiled.name))
    return min(found, key=lambda one: float(value(oracle.simulate(one))))
