"""Random networks and random legal mappings: what an estimate of channel shares is fitted to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping as MappingOf
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.random import Generator

from cosoc.search.fit import Floats
from cosoc.search.terms import tilings_for
from cosoc.sim.model.mapping import Mapping, Piece, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import behind_caches
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.tiler import TilingCache, candidates, homes_of
from cosoc.sim.ways import able


def random_layer(rng: Generator) -> Workload:
    """A convolution of a size as networks for such chips have them, on its own."""
    while True:
        f = int(rng.choice([1, 3, 3, 5]))
        out = int(rng.choice([1, 4, 7, 8, 14, 16, 28, 32, 56]))
        stride = int(rng.choice([1, 1, 2]))
        c, k = (round(2 ** rng.uniform(2, 9)) for _ in range(2))
        layer = Layer("conv", "conv", (INPUT,), k, c, out, out, out * stride, out * stride, f, f, stride, stride,
                      f // 2, f // 2)  # fmt: skip
        if layer.macs < 2e8 and layer.inputs and c * (out * stride) ** 2 < 2e6:
            return Workload("random", (c, layer.iy, layer.ix), (layer,), ("conv",))


def random_chain(rng: Generator) -> Workload:
    """A network of three to ten convolutions, each reading the one before, of few or of many weights."""
    c, size = int(rng.choice([1, 3, 16])), int(rng.choice([8, 16, 28, 32, 48]))
    shape, name, layers = (c, size, size), INPUT, []
    widest = rng.uniform(4, 9)
    for i in range(int(rng.integers(3, 11))):
        f, k = int(rng.choice([1, 3, 3, 5])), round(2 ** rng.uniform(widest - 2, widest))
        stride = 2 if size % 2 == 0 and rng.random() < 0.3 else 1
        out = size // stride
        layers.append(Layer(f"conv{i}", "conv", (name,), k, c, out, out, size, size, f, f, stride, stride,
                            f // 2, f // 2))  # fmt: skip
        name, c, size = f"conv{i}", k, out
    return Workload("chain", shape, tuple(layers), (name,))


def random_branches(rng: Generator) -> Workload:
    """A network of two to five blocks, in each of which two convolutions read the same tensor and are added up: a 3x3
    one, whole or depthwise, and a 1x1 one."""
    c, size = int(rng.choice([16, 32, 64])), int(rng.choice([8, 16, 28, 32]))
    shape, name, layers = (c, size, size), INPUT, list[Layer]()
    for i in range(int(rng.integers(2, 6))):
        k = c if rng.random() < 0.5 else round(2 ** rng.uniform(4, 7))
        wide, one, both = f"wide{i}", f"one{i}", f"add{i}"
        depthwise = k == c and rng.random() < 0.7
        area = (size, size, size, size)
        layers.append(Layer(wide, "conv", (name,), k, c, *area, 3, 3, 1, 1, 1, 1, groups=c if depthwise else 1))
        layers.append(Layer(one, "conv", (name,), k, c, *area, 1, 1, 1, 1, 0, 0))
        layers.append(Layer(both, "add", (wide, one), k, k, *area, 1, 1, 1, 1, 0, 0))
        name, c = both, k
    return Workload("branches", shape, tuple(layers), (name,))


def random_shares(layer: Layer, soc: SoC, rng: Generator, bias: Floats) -> dict[str, int]:
    """Channels of a layer on the cores that can run it: on one of them, or split, at hardware steps or anywhere.

    bias: for every core of the SoC how much a whole network leans to it.
    """
    cores = able(layer, soc)
    if cores == [soc.host]:
        return {soc.host: layer.k}
    weight = bias[[list(soc.cores).index(name) for name in cores]]
    if rng.random() < 0.3:
        chosen = rng.choice(len(cores), p=weight / weight.sum())
        return {name: layer.k * (i == chosen) for i, name in enumerate(cores)}
    parts = rng.dirichlet(0.2 + 3 * weight / weight.sum())
    cuts = np.floor(np.cumsum(parts) * layer.k + 0.5).astype(int)
    if rng.random() < 0.5:
        step = min(soc.cores[name].channel_step for name in cores)
        cuts = np.minimum(-(-cuts // step) * step, layer.k)
    cuts[-1] = layer.k
    return dict(zip(cores, np.diff(cuts, prepend=0).tolist(), strict=True))


def random_pieces(
    workload: Workload, soc: SoC, shares: MappingOf[str, dict[str, int]], rng: Generator
) -> tuple[tuple[Piece, ...], dict[str, dict[str, int]]]:
    """Neighbours that read nothing of one another, each pair with even odds in a parallel piece, and the shares for it.

    One of a pair goes to one core as a whole; the other keeps its shares, or goes to a core of its own if they need
    that core or its weight memory too. Pairs for which there are no two such cores stay apart.
    """
    pieces, out, taken = list[Piece](), dict(shares), set[str]()
    for pair in itertools.pairwise(workload.layers):
        names = [layer.name for layer in pair]
        if names[0] in pair[1].inputs or taken.intersection(names) or not all(layer.op == "conv" for layer in pair):
            continue
        here, there = rng.permutation(2).tolist()
        core = str(rng.choice(able(pair[here], soc)))
        apart = [n for n in able(pair[there], soc) if n != core and not _same_weights(soc, n, core)]
        if not apart or rng.random() < 0.5:
            continue
        out[names[here]] = {core: pair[here].k}
        if not {n for n, k in out[names[there]].items() if k} <= set(apart):
            out[names[there]] = {str(rng.choice(apart)): pair[there].k}
        taken.update(names)
        pieces.append(Piece(tuple(names), "parallel"))
    return tuple(pieces), out


def _same_weights(soc: SoC, one: str, other: str) -> bool:
    """Whether two cores have one weight memory."""
    memory = soc.cores[one].weight_memory
    return memory is not None and memory == soc.cores[other].weight_memory


def random_mapping(workload: Workload, soc: SoC, runtime: Runtime, rng: Generator, cache: TilingCache) -> Mapping:
    """A legal mapping; in one of four, tilings behind DMAs are any legal ones in place of the tiler's."""
    bias = rng.dirichlet(np.ones(len(soc.cores))) + 1e-3
    shares = {layer.name: random_shares(layer, soc, rng, bias) for layer in workload if layer.op == "conv"}
    pieces, shares = random_pieces(workload, soc, shares, rng) if runtime == "overlapped" else ((), shares)
    mapping = tilings_for(workload, soc, shares, runtime, cache, pieces=pieces)
    if rng.random() < 0.75:
        return mapping
    homes, layers = homes_of(workload, mapping, soc), dict(mapping.layers)
    at_once = {name for piece in pieces for name in piece.layers}
    for layer in (layer for layer in workload if layer.name not in at_once):
        given = layers[layer.name]
        if rng.random() < 0.5 and not behind_caches(given, soc):  # those have tiles of another kind
            legal = list(islice(candidates(layer, given, soc, runtime, homes), 64))
            layers[layer.name] = legal[int(rng.integers(len(legal)))]
    return replace(mapping, layers=layers)
