"""Stages of a cluster at their own best tiles: what a device may take for a stage, as ways to choose from.

The tile programme (`cosoc.search.exact.tiles`) knows the front of energy and seconds of any run of layers as sums over
its sections, so of all stages from one cut on in one walk. Behind caches a section costs the same wherever its stage
begins: all come from one space over the whole network. Behind a DMA it depends on what else the stage has (where
tensors live, which weights stay), so that each stage has a space of its own, as the simulator makes a network of it.

Ways of a stage lie so close that each point of its front has one within 1 + WITHIN in energy and seconds.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass

import numpy as np

from cosoc.search.exact.tiles import Ways, front_of, walk
from cosoc.search.spaces.sections import Floats, Options, Section, mapping_of
from cosoc.search.spaces.splits import Cuts, nested
from cosoc.search.spaces.tiles import TileSpace
from cosoc.search.split_costs import DeviceCosts, StageTable
from cosoc.sim.errors import InputError
from cosoc.sim.model.cuts import section
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import CachedMover, SoC
from cosoc.sim.model.workload import Workload, batched
from cosoc.sim.tiler import with_parts

WITHIN = 1e-3  # between ways of a stage, in energy and seconds
Span = tuple[int, int]  # first layer, one past the last


@dataclass(frozen=True)
class _Stage:
    """The ways of one stage: seconds and joules above idle [ways, 2], fastest first, and the sections of each."""

    points: Floats
    sections: tuple[tuple[Section, ...], ...]


class TiledDevice(DeviceCosts):
    """`DeviceCosts` of a device whose stages are at their best tiles. fusion: whether layers may be fused. cuts of the
    table must be in the order of the network (`cuts_in_order`, or articulation points)."""

    def __init__(self, soc: SoC, workload: Workload, mapping: Mapping, fusion: bool) -> None:
        super().__init__(soc, workload, mapping)
        self.fusion = fusion
        self._stages: dict[tuple[int, int, int], _Stage] = {}

    def table(self, cuts: Cuts, items: int) -> StageTable:
        """Of each stage its fastest way, and the others. Weights in memory do not depend on tiles."""
        plain = super().table(cuts, items)
        behind, n = nested(cuts), len(cuts.names)
        at = cuts.done.sum(axis=1).tolist()
        network = batched(self.workload, self.workload.n * items)
        whole = self._space(network) if cached(self.soc) else None
        found: dict[tuple[int, int], _Stage] = {}
        if whole is not None:
            options = _options(whole)
            for i in range(n - 1):
                found |= {(i, j): one for j, one in self._from(whole, options, at[i], at, items) if j > i}
        else:
            for i, j in np.argwhere(behind).tolist():
                inside = section(network, cuts.cut(i), cuts.cut(j))
                space = self._space(inside)
                if space is not None:
                    for _, one in self._from(space, _options(space), 0, [len(inside.layers)], items):
                        found[i, j] = one
        for (i, j), stage in found.items():
            self._stages[items, at[i], at[j]] = stage
        most = max((len(stage.points) for stage in found.values()), default=1)
        ways = np.full((n, n, most, 2), np.inf)
        for (i, j), stage in found.items():
            ways[i, j, : len(stage.points)] = stage.points
        seconds, joules = ways[..., 0], ways[..., 1]
        return StageTable(seconds[..., 0], joules[..., 0], plain.weight_bytes, seconds[..., 1:], joules[..., 1:])

    def _space(self, network: Workload) -> TileSpace | None:
        """The tile space of some layers; None where the device cannot run them."""
        try:
            given = with_parts(self._of(network), network, self.soc)
            return TileSpace(self.soc, network, "edp", given, fusion=self.fusion)
        except InputError:
            return None

    def _of(self, network: Workload) -> Mapping:
        names = {layer.name for layer in network}
        return Mapping(
            self.mapping.name, self.mapping.runtime,
            {name: plan for name, plan in self.mapping.layers.items() if name in names},
            tuple(piece for piece in self.mapping.pieces if set(piece.layers) <= names),
        )  # fmt: skip

    def _from(
        self, space: TileSpace, options: MappingOf[Span, Options], start: int, ends: list[int], items: int
    ) -> list[tuple[int, _Stage]]:
        """Of the stages from a layer on, by the number of the end among `ends`, their ways."""
        idle_w = self.soc.idle_power_mw * 1e-3
        kept, fronts = dict[Span, list[int]](), dict[Span, Floats]()
        for (first, last), own in options.items():
            if first >= start:
                points = own.points - np.stack((idle_w * own.points[:, 1], np.zeros(len(own.points))), axis=1)
                kept[first, last] = front_of(points).tolist()
                fronts[first - start, last - start] = points[kept[first, last]]
        ways = walk(max(ends) - start, fronts)
        out = []
        for j, end in enumerate(ends):
            if end <= start or not len(ways.fronts[end - start]):
                continue
            front = ways.fronts[end - start]
            chosen = sorted({int(np.argmin(front[:, 1])), *front_of(front, WITHIN).tolist()}, key=lambda w: front[w, 1])
            sections = tuple(_sections(ways, end - start, w, start, options, kept) for w in chosen)
            out.append((j, _Stage(front[chosen][:, ::-1], sections)))
        return out

    def inside(self, cuts: Cuts, begin: int, end: int, way: int, items: int) -> Mapping:
        """What a stage computes in a way: its layers with their tiles, and its pieces."""
        at = cuts.done.sum(axis=1)
        stage = self._stages[items, int(at[begin]), int(at[end])]
        part = section(batched(self.workload, self.workload.n * items), cuts.cut(begin), cuts.cut(end))
        return mapping_of(_shifted(stage.sections[way]), with_parts(self._of(part), part, self.soc), part)


def _shifted(sections: tuple[Section, ...]) -> list[Section]:
    """The sections with the first layer as number 0."""
    begin = sections[0].first
    return [Section(one.first - begin, one.plans, one.piece) for one in sections]


def _options(space: TileSpace) -> dict[Span, Options]:
    """All that the layers of a space may be, by section."""
    found = {(first, last + 1): space.options(first, last) for first, last in space.spans()}
    return {span: own for span, own in found.items() if own is not None}


def _sections(
    ways: Ways, end: int, way: int, start: int, options: MappingOf[Span, Options], kept: MappingOf[Span, list[int]]
) -> tuple[Section, ...]:
    """The sections of one point of a front, in order."""
    out: list[Section] = []
    while end:
        begin, before, choice = (int(x) for x in ways.back[end][way])
        span = begin + start, end + start
        out.append(options[span].section(kept[span][choice]))
        end, way = begin, before
    return tuple(reversed(out))


def cached(soc: SoC) -> bool:
    """Whether all that a device moves goes through caches, so that a section costs the same in any stage."""
    movers = [soc.mover_of(name) for name in soc.cores]
    return all(mover is None or isinstance(mover, CachedMover) for mover in movers)


def has_tiles(soc: SoC) -> bool:
    """Whether a device has anything that takes tiles."""
    return any(soc.mover_of(name) is not None for name in soc.cores)
