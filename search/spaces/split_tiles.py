"""Stages of a cluster at their own best tiles: what a device may take for a stage, as ways to choose from.

The tile programme (`cosoc.search.exact.tiles`) knows the front of energy and seconds of any run of layers as sums over
its sections, so of all stages from one cut on in one walk. Behind caches a section costs the same wherever its stage
begins: all come from one space over the whole network. Behind a DMA it depends on what else the stage has (where
tensors live, which weights stay), so that each stage has a space of its own, as the simulator makes a network of it.

Ways of a stage lie so close that each point of its front has one within 1 + WITHIN in energy and seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass

import numpy as np

from cosoc.search.exact.tiles import Ways, front_of, walk
from cosoc.search.spaces.sections import Floats, Options, Section, mapping_of
from cosoc.search.spaces.share_tiles import ShareTiles, Tiles
from cosoc.search.spaces.splits import Cuts, nested
from cosoc.search.spaces.tiles import TileSpace
from cosoc.search.split_costs import DeviceCosts, StageTable
from cosoc.sim.errors import InputError
from cosoc.sim.model.cuts import section
from cosoc.sim.model.mapping import LayerPlan, Mapping
from cosoc.sim.model.soc import CachedMover, SoC
from cosoc.sim.model.workload import Workload, multiplied
from cosoc.sim.tiler import homes_of, with_parts
from cosoc.sim.ways import able

WITHIN = 1e-3  # between ways of a stage, in energy and seconds
Span = tuple[int, int]  # first layer, one past the last


@dataclass(frozen=True)
class _Stage:
    """The ways of one stage: seconds and joules above idle [ways, 2], fastest first; sections: of a way."""

    points: Floats
    sections: Callable[[int], tuple[Section, ...]]


class TiledDevice(DeviceCosts):
    """`DeviceCosts` of a device whose stages are at their best tiles. inner: what is chosen for a stage: tiles, fusion,
    and channels, which are then divided over the device's cores with their tiles, layer by layer (`share_tiles`). cuts
    of the table must be in the order of the network (`cuts_in_order`, or articulation points)."""

    def __init__(self, soc: SoC, workload: Workload, mapping: Mapping, inner: tuple[str, ...]) -> None:
        super().__init__(soc, workload, mapping)
        self.inner = inner
        self._stages: dict[tuple[int, int, int], _Stage] = {}

    def table(self, cuts: Cuts, items: int) -> StageTable:
        """Of each stage its fastest way, and the others. Weights in memory do not depend on tiles."""
        behind, n = nested(cuts), len(cuts.names)
        at = cuts.done.sum(axis=1).tolist()
        network = multiplied(self.workload, items)
        whole = self._space(network) if cached(self.soc) else None
        found: dict[tuple[int, int], _Stage] = {}
        if whole is not None:
            options = self._options(whole)
            for i in range(n - 1):
                found |= {(i, j): one for j, one in self._from(options, at[i], at) if j > i}
        else:
            for i, j in np.argwhere(behind).tolist():
                inside = section(network, cuts.cut(i), cuts.cut(j))
                space = self._space(inside)
                if space is not None:
                    for _, one in self._from(self._options(space), 0, [len(inside.layers)]):
                        found[i, j] = one
        for (i, j), stage in found.items():
            self._stages[items, at[i], at[j]] = stage
        most = max((len(stage.points) for stage in found.values()), default=1)
        ways = np.full((n, n, most, 2), np.inf)
        for (i, j), stage in found.items():
            ways[i, j, : len(stage.points)] = stage.points
        seconds, joules = ways[..., 0], ways[..., 1]
        return StageTable(seconds[..., 0], joules[..., 0], self.weight_bytes(cuts), seconds[..., 1:], joules[..., 1:])

    def _space(self, network: Workload) -> TileSpace | None:
        """The tile space of some layers; None where the device cannot run them."""
        try:
            given = with_parts(self._of(network), network, self.soc)
            return TileSpace(self.soc, network, "edp", given, fusion="fusion" in self.inner)
        except InputError:
            return None

    def _of(self, network: Workload) -> Mapping:
        names = {layer.name for layer in network}
        return Mapping(
            self.mapping.name, self.mapping.runtime,
            {name: plan for name, plan in self.mapping.layers.items() if name in names},
            tuple(piece for piece in self.mapping.pieces if set(piece.layers) <= names),
        )  # fmt: skip

    def _options(self, space: TileSpace) -> dict[Span, Options]:
        """All that the layers of a space may be, by section."""
        network, out = space.workload, dict[Span, Options]()
        for first, last in space.spans():
            found = space.options(first, last)
            if found is not None:
                out[first, last + 1] = found
        open_layers = {one.name for one in network if one.op == "conv" and len(able(one, self.soc)) > 1}
        if "channels" not in self.inner or not open_layers:
            return out
        homes = homes_of(network, space.given, self.soc)
        tiles: Tiles = "searched" if "tiles" in self.inner else "tiler"
        table = ShareTiles(network, self.soc, space.given, homes, open_layers, tiles)
        for i in (i for i, one in enumerate(network) if one.name in open_layers and (i, i + 1) in out):
            own = table.choices(i)
            out[i, i + 1] = Options(own.points, functools.partial(_alone, i, own.plans))
        return out

    def _from(self, options: MappingOf[Span, Options], start: int, ends: list[int]) -> list[tuple[int, _Stage]]:
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
            sections = functools.partial(_sections, ways, end - start, chosen, start, options, kept)
            out.append((j, _Stage(front[chosen][:, ::-1], sections)))
        return out

    def inside(self, cuts: Cuts, begin: int, end: int, way: int, items: int) -> Mapping:
        """What a stage computes in a way: its layers with their tiles, and its pieces."""
        at = cuts.done.sum(axis=1)
        stage = self._stages[items, int(at[begin]), int(at[end])]
        part = section(multiplied(self.workload, items), cuts.cut(begin), cuts.cut(end))
        return mapping_of(_shifted(stage.sections(way)), with_parts(self._of(part), part, self.soc), part)


def _shifted(sections: tuple[Section, ...]) -> list[Section]:
    """The sections with the first layer as number 0."""
    begin = sections[0].first
    return [Section(one.first - begin, one.plans, one.piece) for one in sections]


def _alone(i: int, plans: Sequence[LayerPlan], choice: int) -> Section:
    """A layer by itself under one of its plans."""
    return Section(i, (plans[choice],))


def _sections(
    ways: Ways, end: int, chosen: list[int], start: int, options: MappingOf[Span, Options],
    kept: MappingOf[Span, list[int]], number: int,
) -> tuple[Section, ...]:  # fmt: skip
    """The sections of one of the chosen points of a front, in order."""
    way = chosen[number]
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


def has_choice(soc: SoC, workload: Workload, inner: tuple[str, ...]) -> bool:
    """Whether a device leaves anything to choose: tiles, or layers that several of its cores can run."""
    if not any(soc.mover_of(name) is not None for name in soc.cores):
        return False
    return "tiles" in inner or any(one.op == "conv" and len(able(one, soc)) > 1 for one in workload)
