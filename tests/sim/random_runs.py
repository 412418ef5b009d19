"""Runs of random networks under random shares, tiles and orders; mappings of ResNet-8 on DIANA as files have them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cosoc.search.sampling import random_shares
from cosoc.sim.model.mapping import DIMS, Extent, LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import channels_read
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import placed, problems

SMALL_L1 = {"memories.l1.size_bytes": "16384"}  # so that layers have tiles and halos on DIANA
# Channels of two layers on both cores; a block row by row.
SHARED = """\
name: shared
runtime: overlapped
layers:
  layer1.0.conv1: {parts: {digital: 5, analog: 11}}
  layer2.0.conv2: {parts: {digital: 20, analog: 12}}
"""
FUSED = """\
name: fused
runtime: overlapped
pieces: [[layer1.0.conv1, layer1.0.conv2, layer1.0.add]]
"""


def random_plan(layer: Layer, plan: LayerPlan, rng: np.random.Generator) -> LayerPlan:
    """The plan with smaller tiles, in another order."""
    assert plan.parts[0].tile is not None
    first = plan.parts[0].tile
    cut = {d: int(rng.integers(1, first.along(d) + 1)) for d in ("oy", "ox") if rng.random() < 0.7}
    if rng.random() < 0.4:
        cut["c"] = -(-channels_read(layer) // int(rng.integers(2, 4)))

    def tile(part: Part) -> Extent:
        assert part.tile is not None
        return replace(part.tile, k=int(rng.integers(1, part.tile.k + 1)), **cut)

    parts = tuple(replace(part, tile=tile(part) if part.channels else part.tile) for part in plan.parts)
    order: Any = tuple(rng.permutation(DIMS).tolist())
    return replace(plan, parts=parts, order=order, reuse=bool(rng.random() < 0.8))


def random_run(soc: SoC, workload: Workload, rng: np.random.Generator, runtime: Runtime) -> Result:
    """Of random shares and tiles; layers whose tiles the chip refuses, as the tiler cuts them."""
    bias = rng.dirichlet(np.ones(len(soc.cores))) + 1e-3
    plans = dict[str, LayerPlan]()
    for layer in (layer for layer in workload if layer.op == "conv"):
        shares = random_shares(layer, soc, rng, bias)
        plans[layer.name] = LayerPlan(tuple(Part(core, int(k)) for core, k in shares.items() if k))
    given = Mapping("random", runtime, plans)
    full = placed(given, workload, soc).mapping
    for layer in workload:
        tried = replace(given, layers=plans | {layer.name: random_plan(layer, full.layers[layer.name], rng)})
        if not problems(tried, workload, soc):
            plans = dict(tried.layers)
    return simulate(soc, workload, replace(given, layers=plans))
