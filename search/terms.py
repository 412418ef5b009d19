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
from cosoc.sim.estimate import Before, Terms, Theta, compose, layer_terms, starting, stream_ticks, streamed
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
            cache.tilings[key] = best_tiling(layer, layers[layer.name], soc, runtime, homes)
        layers[layer.name] = replace(layers[layer.name], tiling=cache.tilings[key])
    return replace(mapping, layers=layers)


def _key(layer: Layer, mapping: LayerMapping, runtime: Runtime, homes: Homes) -> tuple[object, ...]:
    geometry = replace(layer, name="", inputs=("",) * len(layer.inputs), fn="", activation="")
    at = (homes.inputs(layer), homes.output(layer), homes.weights_in_main, homes.stream_bytes)
    return geometry, mapping.shares, mapping.ox_unroll, runtime, at


def network_terms(
    workload: Workload, soc: SoC, mapping: Mapping, shares: MappingOf[str, MappingOf[str, Tensor]], homes: Homes
) -> Terms:
    """The terms of all layers, each a float64 tensor [layers] that is differentiable in the shares.

    mapping: complete, homes: of it; a layer's shares are replaced by those given, core by core. Raises ValueError
    where a core is given that the mapping's layer does not name.
    """
    wanted = [(name, core) for name, on_cores in shares.items() for core in on_cores]
    flat = [shares[name][core] for name, core in wanted]
    xs = torch.stack([x.reshape(()) for x in flat]).double() if flat else torch.zeros(0, dtype=torch.float64)
    values = xs.detach().tolist()
    column = {pair: i for i, pair in enumerate(wanted)}
    table: list[float] = []
    jacobian: list[list[float]] = []
    before: set[str] | None = None
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
        terms, _ = layer_terms(layer, work, soc, homes, relax, before)
        before = {s.core for s in given.shares if s.k}
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
    out: list[bool] = []
    before: dict[str, int] = {}
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


def unstreamed_ticks(terms: Terms, room: Tensor, theta: Theta, starts: Sequence[int] = (0,)) -> Tensor:
    """Ticks of each layer within its network in the overlapped runtime, [layers], if all weights are in the main
    memory. room: `prefetchable`, as 0 and 1. starts: where networks begin, if there are several in a row."""
    follows = torch.ones_like(room)
    follows[list(starts)] = 0
    first = Before(terms.tile.roll(1) * room * follows, terms.store.roll(1) * follows)
    _, launch = starting(terms, theta, relax, first)
    free = terms.free + terms.single * launch
    before = replace(first, free=free.roll(1) * room * follows)
    ticks: Tensor = compose(terms, "overlapped", theta, relax, before)
    return ticks


def network_ticks(terms: Terms, room: Tensor, ahead: int, runtime: Runtime, theta: Theta) -> Tensor:
    """Ticks of each layer within its network, [layers]. ahead: `stream_ticks`."""
    if runtime == "serial":
        total: Tensor = terms.total
        return total
    ticks = unstreamed_ticks(terms, room, theta)
    if not ahead:
        return ticks
    return torch.stack(streamed(ticks.unbind(), by_layer(terms), ahead, relax))


def by_layer(terms: Terms) -> list[Terms]:
    """The terms of many layers, layer by layer."""
    return [Terms(*row) for row in zip(*(getattr(terms, name).unbind() for name in TERMS), strict=True)]


def network_estimate(
    workload: Workload,
    soc: SoC,
    mapping: Mapping,
    shares: MappingOf[str, MappingOf[str, Tensor]],
    theta: Theta,
) -> Estimate:
    """Estimated latency and energy of a network, differentiable in the shares {layer: {core: channels}}.

    mapping: complete (`tilings_for` at the rounded shares); layers without given shares keep the mapping's own. At
    whole channels the terms are exactly the simulator's work, and the ticks of the serial runtime the simulated ones.
    """
    homes = homes_of(workload, mapping, soc)
    terms = network_terms(workload, soc, mapping, shares, homes)
    room = torch.tensor(prefetchable(workload, soc, mapping), dtype=torch.float64)
    ticks = network_ticks(terms, room, stream_ticks(homes, soc), mapping.runtime, theta)
    total = ticks.sum()
    return Estimate(total, power_energy_j(soc, total, {}) + terms.unit_j.sum(), ticks)
