"""The differentiable estimate of a network: latency and energy as functions of soft channel shares.

Shares are soft, tilings are not: they are fixed data, chosen by the tiler for the shares rounded to whole channels
(`tilings_for`). Every layer's terms are computed in forward mode with respect to its own shares (`relax.Soft`), joined
into one tensor, and composed for all layers at once.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from cosoc.search import relax
from cosoc.sim.estimate import Before, Terms, compose, group_terms, starting, stream_ticks, streamed
from cosoc.sim.exact import Num
from cosoc.sim.model.energy import power_energy_j
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Piece, Runtime
from cosoc.sim.model.placement import Homes, handovers, lifetimes, tensor_bytes
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import c_parts, cut_channels
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import TilingCache, complete, homes_of, living, weight_bytes, weights_held
from cosoc.sim.work import LayerWork, layer_work

TERMS = tuple(f.name for f in fields(Terms))


@dataclass(frozen=True)
class Estimate:
    """ticks, energy_j: scalars; by_layer: ticks of each layer that is computed [layers], in the workload's order, those
    of a parallel piece at its first and 0 at the others."""

    ticks: Tensor
    energy_j: Tensor
    by_layer: Tensor


def tilings_for(
    workload: Workload,
    soc: SoC,
    shares: MappingOf[str, MappingOf[str, int]],
    runtime: Runtime,
    cache: TilingCache,
    name: str = "shares",
    pieces: tuple[Piece, ...] = (),
) -> Mapping:
    """The complete mapping with so many output channels of each layer on each core: {layer: {core: channels}}.

    Layers not named run on their default core. A core with 0 channels keeps its place, so that a gradient can reach it.
    pieces: of layers that run at once. Raises InputError where a layer can run nowhere or no tile of it fits.
    """
    layers = {
        layer: LayerPlan(tuple(Part(core, int(k)) for core, k in given.items())) for layer, given in shares.items()
    }
    return complete(Mapping(name, runtime, layers, pieces), workload, soc, cache)


def emitted(workload: Workload, mapping: Mapping, soc: SoC) -> Workload:
    """The workload without the layers that the mapping makes needless (`tiler.living`)."""
    names = {layer.name for layer in living(workload, mapping, soc)}
    return replace(workload, layers=tuple(layer for layer in workload if layer.name in names))


def turns(workload: Workload, mapping: Mapping) -> list[tuple[Layer, ...]]:
    """What runs one after the other: layers, or the layers of a parallel piece, in the piece's order."""
    together = {name: piece for piece in mapping.pieces for name in piece.layers if mapping.runtime == "overlapped"}
    out: list[tuple[Layer, ...]] = []
    for layer in workload:
        piece = together.get(layer.name)
        if piece is None or piece.how == "fused":
            out.append((layer,))
        elif not out or layer not in out[-1]:
            out.append(tuple(workload[name] for name in piece.layers))
    return out


def network_terms(
    workload: Workload,
    soc: SoC,
    mapping: Mapping,
    shares: MappingOf[str, MappingOf[str, Tensor]],
    homes: Homes,
    theta: Theta,
) -> Terms:
    """The terms of all `turns`, each a float64 tensor [turns] that is differentiable in the shares.

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
    passed = handovers(living(workload, mapping, soc), mapping, soc)
    for turn in turns(workload, mapping):
        soft = [(layer.name, core) for layer in turn for core in shares.get(layer.name, {})]
        columns = [column[pair] for pair in soft]
        given = dict(zip(soft, relax.inputs([values[c] for c in columns]), strict=True))
        works = [(layer, _work(layer, soc, mapping.layers[layer.name], given, homes, theta)) for layer in turn]
        handed = [
            (one.core, relax.used(most) * soc.cores[one.core].handover)
            for layer in turn
            for one in passed[layer.name]
            for most in [relax.maximum(0, *_channels(layer, mapping, given, one.readers))]
        ]
        terms, _ = group_terms(works, soc, homes, relax, before, handed)
        before = {p.core for layer in turn for p in mapping.layers[layer.name].parts if p.channels}
        for term in (getattr(terms, name) for name in TERMS):
            slopes = [0.0] * len(values)
            if isinstance(term, relax.Soft):
                for c, slope in zip(columns, term.grad, strict=True):
                    slopes[c] = slope
            table.append(term.value if isinstance(term, relax.Soft) else term)
            jacobian.append(slopes)
    joined = relax.pull(torch.tensor(table, dtype=torch.float64), torch.tensor(jacobian, dtype=torch.float64), xs)
    return Terms(*joined.reshape(-1, len(TERMS)).unbind(1))


def _work(
    layer: Layer, soc: SoC, given: LayerPlan, soft: MappingOf[tuple[str, str], Num], homes: Homes, theta: Theta
) -> LayerWork:
    """A layer's work with the soft shares {(layer, core): channels} in place of the mapping's own."""
    mine = {core: k for (name, core), k in soft.items() if name == layer.name}
    unknown = set(mine) - {part.core for part in given.parts}
    if unknown:
        raise ValueError(f"layer {layer.name}: the mapping has no part on {', '.join(sorted(unknown))}")
    ks = [(part.core, mine.get(part.core, part.channels)) for part in given.parts]
    return layer_work(layer, soc, ks, given, homes, relax, theta)


def _channels(layer: Layer, mapping: Mapping, soft: MappingOf[tuple[str, str], Num], cores: Sequence[str]) -> list[Num]:
    """Channels of a layer on each of the cores, the soft ones {(layer, core): channels} where there are."""
    plan = mapping.layers[layer.name]
    return [soft.get((layer.name, core), plan.channels_on(core)) for core in cores]


def prefetchable(workload: Workload, soc: SoC, mapping: Mapping) -> list[bool]:
    """For each turn whether its first weights find room while the one before computes its last tile: [turns]."""
    out: list[bool] = []
    before: dict[str, int] = {}
    for turn in turns(workload, mapping):
        first, _ = held_weights(turn[0], soc, mapping.layers[turn[0].name])
        room = (soc.memories[m].capacity_bytes >= n + before.get(m, 0) for m, n in first.items())
        out.append(bool(out) and all(room))
        before = {}
        for layer in turn:
            before |= held_weights(layer, soc, mapping.layers[layer.name])[1]
    return out


def held_weights(layer: Layer, soc: SoC, given: LayerPlan) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of each weight memory that the first weights of a layer under a plan take, and its last."""
    first, last = dict[str, int](), dict[str, int]()
    c = c_parts(layer, cut_channels(layer, soc, given))[0][0]
    for part in given.parts:
        core, k = soc.core_of(part), part.channels
        if core.weight_memory is None or not k or part.tile is None:
            continue
        rest = k % part.tile.k or part.tile.k
        n = min(part.tile.n, layer.n)
        first[core.weight_memory] = int(weights_held(layer, soc, core, min(part.tile.k, k), c, n)[1])
        last[core.weight_memory] = int(weights_held(layer, soc, core, min(rest, k), c, n)[1])
    return first, last


def unstreamed_ticks(terms: Terms, room: Tensor, theta: Theta, starts: Sequence[int] = (0,)) -> Tensor:
    """Ticks of each turn within its network in the overlapped runtime, [turns], if all weights are in the main
    memory. room: `prefetchable`, as 0 and 1. starts: where networks begin, if there are several in a row. Terms and
    room may be [turns, mappings]."""
    follows = torch.ones_like(room)
    follows[list(starts)] = 0
    first = Before(terms.tile.roll(1, 0) * room * follows, terms.store.roll(1, 0) * follows)
    _, launch = starting(terms, theta, relax, first)
    free = terms.free + terms.single * launch
    before = replace(first, free=free.roll(1, 0) * room * follows)
    ticks: Tensor = compose(terms, "overlapped", theta, relax, before)
    return ticks


def network_ticks(terms: Terms, room: Tensor, ahead: int, runtime: Runtime, theta: Theta) -> Tensor:
    """Ticks of each turn within its network, [turns], or [turns, mappings]. ahead: `stream_ticks`."""
    if runtime == "serial":
        total: Tensor = terms.total
        return total
    ticks = unstreamed_ticks(terms, room, theta)
    if not ahead:
        return ticks
    return torch.stack(streamed(ticks.unbind(), by_layer(terms), ahead, relax))


def by_layer(terms: Terms) -> list[Terms]:
    """The terms of many turns, one by one."""
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
    workload = emitted(workload, mapping, soc)
    terms = network_terms(workload, soc, mapping, shares, homes, theta)
    room = torch.tensor(prefetchable(workload, soc, mapping), dtype=torch.float64)
    ticks = network_ticks(terms, room, stream_ticks(homes, soc), mapping.runtime, theta)
    total = ticks.sum()
    numbers = {layer.name: n for n, layer in enumerate(workload)}
    at = torch.tensor([min(numbers[layer.name] for layer in turn) for turn in turns(workload, mapping)])
    of_layers = torch.zeros(len(numbers), dtype=torch.float64).index_copy(0, at, ticks)
    return Estimate(total, power_energy_j(soc, total, {}) + terms.unit_j.sum(), of_layers)


def network_peak(
    workload: Workload, soc: SoC, mapping: Mapping, shares: MappingOf[str, MappingOf[str, Tensor]] | None = None
) -> Tensor:
    """Estimated bytes of the main memory at its fullest: weights and tensors that live there, layer by layer, and the
    part that weights pass through. mapping: complete; differentiable in the shares, through their weights."""
    homes, alive = homes_of(workload, mapping, soc), living(workload, mapping, soc)
    here = {name: span for name, span in lifetimes(alive).items() if homes.tensors[name] == homes.main}
    inside = {name for piece in mapping.pieces if piece.how == "fused" for name in piece.layers}
    kept = {n for n in inside if n not in alive.outputs and set(alive.readers(n)) <= inside}
    sizes = {name: tensor_bytes(workload, name) for name in here if name not in kept}
    steps = range(len(alive.layers))
    tensors = max((sum(sizes[n] for n in sizes if here[n][0] <= i <= here[n][1]) for i in steps), default=0)
    peak = torch.tensor(float(tensors + homes.stream_bytes), dtype=torch.float64)
    if not homes.weights_in_main:
        return peak
    for layer in alive:
        if layer.name in homes.pinned:
            continue
        plan = mapping.layers[layer.name]
        peak = peak + weight_bytes(layer, soc, plan.parts)
        for core, k in (shares or {}).get(layer.name, {}).items():
            (own,) = (part for part in plan.parts if part.core == core)
            slope = weight_bytes(layer, soc, (replace(own, channels=layer.k),)) / layer.k
            peak = peak + slope * (k.double() - plan.channels_on(core))
    return peak
