"""The differentiable estimate of a network: latency and energy as functions of soft channel shares.

Shares are soft, tilings are not: they are fixed data, chosen by the tiler for the shares rounded to whole channels
(`tilings_for`). Every layer's terms are computed in forward mode with respect to its own shares (`relax.Soft`), joined
into one tensor, and composed for all layers at once.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from cosoc.search import relax
from cosoc.sim import exact
from cosoc.sim.energy import power_energy_j
from cosoc.sim.estimate import Before, Terms, Theta, compose, layer_terms
from cosoc.sim.exact import Num
from cosoc.sim.mapping import LayerMapping, Mapping, Runtime, Share, Tiling
from cosoc.sim.placement import Homes
from cosoc.sim.soc import SoC
from cosoc.sim.tiler import best_tiling, default_core, homes_of
from cosoc.sim.work import c_parts, layer_work, weight_transfer_of
from cosoc.sim.workload import Layer, Workload

TERMS = tuple(f.name for f in fields(Terms))


@dataclass(frozen=True)
class Estimate:
    """ticks, energy_j: scalars; by_layer: ticks of each layer [layers], in the order of the workload."""

    ticks: Tensor
    energy_j: Tensor
    by_layer: Tensor


@dataclass
class TilingCache:
    """Tilings already chosen, for one SoC. A layer is known by its geometry, so that equal ones share an entry."""

    tilings: dict[tuple[object, ...], Tiling] = field(default_factory=dict)


def tilings_for(
    workload: Workload,
    soc: SoC,
    shares: MappingOf[str, MappingOf[str, int]],
    runtime: Runtime,
    cache: TilingCache,
    name: str = "shares",
) -> Mapping:
    """The complete mapping with so many output channels of each layer on each core: {layer: {core: channels}}.

    Layers not named run on their default core. A core with 0 channels keeps its place, so that a gradient can reach it.
    Raises InputError where a layer can run nowhere or no tile of it fits.
    """
    layers = {}
    for layer in workload:
        given = shares.get(layer.name) or {default_core(layer, soc): layer.k}
        layers[layer.name] = LayerMapping(tuple(Share(core, int(k)) for core, k in given.items()))
    mapping = Mapping(name, runtime, layers)
    homes = homes_of(workload, mapping, soc)
    for layer in workload:
        key = _key(layer, layers[layer.name], runtime, homes)
        if key not in cache.tilings:
            best = best_tiling(layer, layers[layer.name], soc, runtime, homes)
            cache.tilings[key] = replace(best, k=_uncut(layer, layers[layer.name], best))
        layers[layer.name] = replace(layers[layer.name], tiling=cache.tilings[key])
    return replace(mapping, layers=layers)


def _key(layer: Layer, mapping: LayerMapping, runtime: Runtime, homes: Homes) -> tuple[object, ...]:
    geometry = replace(layer, name="", inputs=("",) * len(layer.inputs), fn="", activation="")
    at = (homes.inputs(layer), homes.output(layer), homes.weights_in_main, homes.stream_bytes)
    return geometry, mapping.shares, mapping.ox_unroll, runtime, at


def _uncut(layer: Layer, mapping: LayerMapping, tiling: Tiling) -> tuple[int, ...]:
    """Tile sizes of which those that hold the whole share hold the whole layer: a soft share that is a little larger
    than the rounded one then stays one tile."""
    return tuple(layer.k if k >= share.k else k for k, share in zip(tiling.k, mapping.shares, strict=True))


def network_terms(
    workload: Workload, soc: SoC, mapping: Mapping, shares: MappingOf[str, MappingOf[str, Tensor]]
) -> Terms:
    """The terms of all layers, each a float64 tensor [layers] that is differentiable in the shares.

    mapping: complete; a layer's shares are replaced by those given, core by core. Raises ValueError where a core
    is given that the mapping's layer does not name.
    """
    homes = homes_of(workload, mapping, soc)
    wanted = [(name, core) for name, on_cores in shares.items() for core in on_cores]
    flat = [shares[name][core] for name, core in wanted]
    xs = torch.stack([x.reshape(()) for x in flat]).double() if flat else torch.zeros(0, dtype=torch.float64)
    values = xs.detach().tolist()
    column = {pair: i for i, pair in enumerate(wanted)}
    table: list[float] = []
    jacobian: list[list[float]] = []
    for layer in workload:
        given = mapping.layers[layer.name]
        soft = list(shares.get(layer.name, {}))
        unknown = set(soft) - {s.core for s in given.shares}
        if unknown:
            raise ValueError(f"layer {layer.name}: the mapping has no share on {', '.join(sorted(unknown))}")
        columns = [column[layer.name, core] for core in soft]
        ks: dict[str, Num] = {s.core: s.k for s in given.shares}
        ks |= dict(zip(soft, relax.inputs([values[c] for c in columns]), strict=True))
        work = layer_work(layer, soc, tuple(ks.items()), given, homes, relax)
        terms, _ = layer_terms(layer, work, soc, homes, relax)
        for term in (getattr(terms, name) for name in TERMS):
            slopes = [0.0] * len(values)
            if isinstance(term, relax.Soft):
                for c, slope in zip(columns, term.grad, strict=True):
                    slopes[c] = slope
            table.append(term.value if isinstance(term, relax.Soft) else term)
            jacobian.append(slopes)
    joined = relax.pull(torch.tensor(table, dtype=torch.float64), torch.tensor(jacobian, dtype=torch.float64), xs)
    return Terms(*joined.reshape(-1, len(TERMS)).unbind(1))


def prefetchable(workload: Workload, soc: SoC, mapping: Mapping) -> list[bool]:
    """For each layer whether its first weights find room while the layer before computes its last tile: [layers]."""
    out, before = [], dict[str, int]()
    for layer in workload:
        given = mapping.layers[layer.name]
        assert given.tiling is not None
        first, last = dict[str, int](), dict[str, int]()
        for share, kt in zip(given.shares, given.tiling.k, strict=True):
            core = soc.cores[share.core]
            if core.weight_memory is None or not share.k:
                continue
            c = c_parts(layer, given.tiling)[0][0]
            rest = share.k % kt or kt
            first[core.weight_memory] = weight_transfer_of(layer, soc, core, min(kt, share.k), exact, c).bytes
            last[core.weight_memory] = weight_transfer_of(layer, soc, core, min(rest, share.k), exact, c).bytes
        room = (soc.memories[m].capacity_bytes >= n + before.get(m, 0) for m, n in first.items())
        out.append(bool(out) and all(room))
        before = last
    return out


def network_ticks(terms: Terms, room: Tensor, runtime: Runtime, theta: Theta, starts: Sequence[int] = (0,)) -> Tensor:
    """Ticks of each layer within its network, [layers]. room: `prefetchable`, as 0 and 1. starts: where networks begin,
    if the terms are those of several, one after the other."""
    follows = torch.ones_like(room)
    follows[list(starts)] = 0
    before = Before(tile=torch.roll(terms.tile, 1) * room * follows, store=torch.roll(terms.store, 1) * follows)
    return compose(terms, runtime, theta, relax, before)


def network_estimate(
    workload: Workload,
    soc: SoC,
    mapping: Mapping,
    shares: MappingOf[str, MappingOf[str, Tensor]],
    theta: Theta,
) -> Estimate:
    """Estimated latency and energy of a network, differentiable in the shares {layer: {core: channels}}.

    mapping: complete (`tilings_for` at the rounded shares); layers without given shares keep the mapping's own. At whole
    channels the terms are exactly the simulator's work, and in the serial runtime the ticks are the simulated ones.
    """
    terms = network_terms(workload, soc, mapping, shares)
    room = torch.tensor(prefetchable(workload, soc, mapping), dtype=torch.float64)
    by_layer = network_ticks(terms, room, mapping.runtime, theta)
    ticks = by_layer.sum()
    return Estimate(ticks, power_energy_j(soc, ticks, {}) + terms.unit_j.sum(), by_layer)
