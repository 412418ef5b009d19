"""The roofline of a mapped network: every layer takes the longest of its cores' arithmetic and of its bytes, nothing
more. What is left of a cost model without tiles, set-ups, launches, conflicts and memories that overflow.

A core's peak is what its own law gives an endless layer of the same kind: 512 channels in and out on 64 x 64 outputs.
Bytes are inputs, weights and outputs once each at the slowest link between the main memory and the core; under tiles
that are chosen behind a cached mover inputs come for every tile of channels and weights for every tile of pixels. In
the serial runtime cores are added up, and bytes to them.
"""

from __future__ import annotations

from dataclasses import replace

from cosoc.sim import exact
from cosoc.sim.model.mapping import LayerPlan, Part, Runtime
from cosoc.sim.model.soc import Core, SoC
from cosoc.sim.model.tiles import form, job_form, make_tile, per_channel
from cosoc.sim.model.workload import Layer
from cosoc.sim.tiler import weight_bytes

ENDLESS, EDGE = 512, 64  # channels in and out, outputs along either edge


def layer_ticks(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime) -> float:
    """The roofline's ticks of a layer whose plan has its parts, and its tiles where they are chosen."""
    present = [part for part in plan.parts if part.channels]
    arithmetic = [_work(layer, soc.core_of(p), p.channels) / _peak(layer, soc.core_of(p)) for p in present]
    moved = max((_bytes(layer, plan, part, soc) / _rate(soc, part.core) for part in present), default=0.0)
    if runtime == "serial":
        return sum(arithmetic) + moved
    return max((*arithmetic, moved))


def _work(layer: Layer, core: Core, channels: int) -> float:
    """Products of so many output channels as a core computes them; outputs of layers that multiply nothing."""
    own = form(layer, core)
    return (own.macs or own.outputs) * channels / own.k


def _peak(layer: Layer, core: Core) -> float:
    """Products (or outputs) a tick of a core on an endless layer of the kind."""
    own = job_form(layer, core)
    groups = ENDLESS if own.groups == own.k > 1 else own.groups
    like = replace(own, k=ENDLESS, c=ENDLESS, oy=EDGE, ox=EDGE, groups=groups, iy=EDGE, ix=EDGE, alternative=None)
    cycles = float(core.cycles(make_tile(like, ENDLESS, EDGE, EDGE), exact))
    return (like.macs or like.outputs) / cycles if cycles else float("inf")


def _rate(soc: SoC, core: str) -> float:
    """Bytes a tick of the slowest link between the main memory and a core."""
    memory = soc.cores[core].memory
    links = soc.cores[core].feed_links if memory == soc.main_memory else soc.route(soc.main_memory, memory).links
    rates = [soc.links[name].bytes_per_period / soc.links[name].period_cycles for name in links]
    return min(rates, default=float("inf"))


def _bytes(layer: Layer, plan: LayerPlan, part: Part, soc: SoC) -> float:
    """Bytes of a layer for all its cores; of one that computes from the main memory, those that it asks for itself."""
    core = soc.core_of(part)
    own = form(layer, core)
    if core.memory == soc.main_memory:
        return float(core.feed_bytes(make_tile(own, part.channels, own.oy, own.ox), exact)) * own.n
    operands = len(layer.inputs) if layer.op in ("add", "eltwise") else 1
    inputs = operands * (own.k if per_channel(own) else own.c) * own.iy * own.ix * own.n
    weights = float(weight_bytes(layer, soc, plan.parts))
    if soc.is_cached(part.core) and part.tile is not None:
        tile = part.tile
        weights *= exact.ceildiv(own.oy, tile.oy) * exact.ceildiv(own.ox, tile.ox)
        inputs *= 1 if per_channel(own) else exact.ceildiv(own.k, tile.k)
    return inputs + weights + own.outputs


__all__ = ["layer_ticks"]
