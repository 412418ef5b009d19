"""The ways in which a chip's cores may compute a layer, or several independent layers at once, priced in closed form.

A layer may go to one core, or its output channels to several, in hardware steps of each. Which cores: by default those
that compute in the same numbers (`Core.numbers`) as the layer's default core, so that accuracy is the same whatever is
chosen. Cores that are equal in all figures are twins: of them only how many take part is a choice. What each way costs
comes from `sim.work` and `sim.estimate`, for the tiles that the tiler would choose.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import compose, group_terms, layer_time, stream_ticks, streamed
from cosoc.sim.model.mapping import LayerPlan, Part, Runtime
from cosoc.sim.model.placement import Homes
from cosoc.sim.model.soc import Core, SoC
from cosoc.sim.model.tiles import form
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import TilingCache, as_stored, default_core, shape_of_layer, tiled_once, unsupported
from cosoc.sim.work import layer_work

FEW = 12  # shares of two cores that are all looked at; of more, SPREAD over all of the range and those near the best
SPREAD = 5
SETS = 32  # sets of cores of a layer; where there are more, one, two and all of the cores
REFINED = 10  # shares of a set of cores that are tried on the way down from the proportional ones
JOINT = 3  # ways of layers at once that are priced: those whose slowest layer is fastest
AT_ONCE = 4  # layers at once, at most


@dataclass(frozen=True)
class Way:
    """One way for some layers that follow each other in the list: of each, the parts. More than one layer: all at once.
    ticks: by themselves, estimated; unit_j: energy of units while busy, of links and jobs, J."""

    parts: tuple[tuple[Part, ...], ...]
    ticks: float
    unit_j: float

    @property
    def cores(self) -> frozenset[str]:
        """All cores that take part."""
        return frozenset(part.core for own in self.parts for part in own)


Worth = Callable[[float, float], float]  # of ticks and J


def able(layer: Layer, soc: SoC) -> list[str]:
    """The cores that can run a layer; the host only where no other can."""
    return [name for name in soc.cores if name != soc.host and not unsupported(layer, soc, name)] or [soc.host]


def twins(soc: SoC, one: str, other: str) -> bool:
    """Whether two cores are equal in all figures, whatever memories and links they use."""
    return one == other or (
        type(soc.cores[one]) is type(soc.cores[other]) and _figures(soc.cores[one]) == _figures(soc.cores[other])
    )


def _figures(core: Core) -> Any:
    places = {"memory", "weight_memory", "feed_links", *core.own_memories(), *core.own_links()}
    return core.model_dump(exclude=places)


def has_twins(soc: SoC) -> bool:
    """Whether a chip has a core twice, the host aside."""
    return any(twins(soc, *pair) for pair in itertools.combinations([n for n in soc.cores if n != soc.host], 2))


def whole_part(layer: Layer, soc: SoC, core: str) -> Part:
    """The layer on one core, in the format in which the network has its weights where the core has it."""
    (part,) = as_stored(layer, LayerPlan((Part(core, layer.k),)), soc).parts
    return part


def cores_for(layer: Layer, soc: SoC, any_format: bool) -> tuple[Part, ...]:
    """The cores that may take part in a layer, its default core first, each as a part with all channels. any_format:
    those of other numbers, too. A layer with an alternative stays where it is: its operator is not this choice's."""
    first = default_core(layer, soc)
    own = whole_part(layer, soc, first)
    out = [own]
    for name in able(layer, soc):
        if name in (first, soc.host) or layer.alternative is not None or form(layer, soc.cores[name]) is not layer:
            continue
        part = whole_part(layer, soc, name)
        wanted = soc.core_of(own).numbers
        if layer.op in ("conv", "matmul") and not any_format and soc.core_of(part).numbers != wanted:
            part = replace(part, bits=wanted[1]) if wanted[1] in soc.cores[name].weight_formats else part
            if soc.core_of(part).numbers != wanted:
                continue
        out.append(part)
    return tuple(out) if first != soc.host else (own,)


def shares(k: int, steps: Sequence[int], weights: Sequence[float]) -> tuple[int, ...]:
    """k channels over cores in steps of each, as nearly by weight as steps allow; what is over goes to the last."""
    left, weight, out = k, sum(weights), []
    for step, own in zip(steps[:-1], weights[:-1], strict=True):
        mine = min(max(round(left * own / weight / step) * step, 0), left)
        out.append(mine)
        left, weight = left - mine, weight - own
    return (*out, left)


def splits(layer: Layer, soc: SoC, cores: tuple[str, str]) -> tuple[tuple[int, int], ...]:
    """The splits of a layer's channels between two cores at which a cost can change: multiples of the first's step,
    and of the second's from the other end; all on one of them, too."""
    first, second = (soc.cores[core].step for core in cores)
    on_first = {0, layer.k, *range(0, layer.k, first), *(layer.k - n for n in range(0, layer.k, second))}
    return tuple((n, layer.k - n) for n in sorted(on_first))


class Ways:
    """Ways of one network's layers on one SoC under one runtime, for one placement of tensors, each priced once."""

    def __init__(
        self, workload: Workload, soc: SoC, runtime: Runtime, homes: Homes, any_format: bool, tilings: TilingCache
    ) -> None:
        self.workload, self.soc, self.runtime, self.homes, self.tilings = workload, soc, runtime, homes, tilings
        self.open = [cores_for(layer, soc, any_format) for layer in workload]
        self._priced: dict[tuple[object, ...], tuple[float, float, dict[str, float]] | None] = {}

    # ------------------------------------------------------------------------------------------ prices

    def _key(self, layer: Layer) -> tuple[object, ...]:
        homes = self.homes
        pinned = layer.name in homes.pinned
        return shape_of_layer(layer), homes.ends(layer), homes.room[layer.name], pinned

    def price(self, layer: Layer, parts: tuple[Part, ...]) -> tuple[float, float, dict[str, float]] | None:
        """Ticks, J and busy ticks by unit of a layer by itself; None where no tile fits."""
        key = (*self._key(layer), parts)
        if key not in self._priced:
            self._priced[key] = self._price(layer, parts)
        return self._priced[key]

    def _tiled(self, layer: Layer, parts: tuple[Part, ...]) -> LayerPlan:
        return tiled_once(layer, LayerPlan(parts), self.soc, self.runtime, self.homes, self.tilings)

    def _price(self, layer: Layer, parts: tuple[Part, ...]) -> tuple[float, float, dict[str, float]] | None:
        try:
            plan = self._tiled(layer, parts)
        except InputError:
            return None
        on = [(part.core, part.channels) for part in parts]
        work = layer_work(layer, self.soc, on, plan, self.homes, exact, Theta())
        time = layer_time(layer, work, self.soc, self.runtime, self.homes, Theta(), exact)
        return float(time.ticks), float(time.unit_j), {unit: float(t) for unit, t in time.busy.items()}

    def _way(self, layer: Layer, cores: Sequence[Part], channels: Sequence[int]) -> Way | None:
        parts = tuple(replace(core, channels=n) for core, n in zip(cores, channels, strict=True) if n)
        found = self.price(layer, parts)
        return None if found is None else Way((parts,), found[0], found[1])

    # ------------------------------------------------------------------------------------------ ways of a layer

    def of(self, at: int, worth: Worth) -> list[Way]:
        """Ways of a layer, most channels on its default core first. worth: what decides where channels are moved to
        and fro until nothing gains."""
        layer, cores = self.workload.layers[at], self.open[at]
        out = dict.fromkeys(way for core in cores if (way := self._way(layer, [core], [layer.k])) is not None)
        alone = {core.core: found for core in cores if (found := self.price(layer, (core,))) is not None}
        for some in self.sets([core for core in cores if core.core in alone]):
            if len(some) == 1 or self._loses(layer, some, min(found[0] for found in alone.values())):
                continue
            speeds = [1 / max(alone[core.core][2].get(core.core, 0.0), 1.0) for core in some]
            out |= dict.fromkeys(self._split(layer, some, speeds, worth))
        rank = {core.core: n for n, core in enumerate(cores)}

        def order(way: Way) -> tuple[int, ...]:
            on = {part.core: part.channels for part in way.parts[0]}
            return tuple(-on.get(core, 0) for core in rank)

        return sorted(out, key=order)

    def _loses(self, layer: Layer, cores: Sequence[Part], alone: float) -> bool:
        """Whether parts of a layer on several cores cost more than the layer by itself, `alone` ticks: each core but
        one at least has to hand over what it made, where it does so by an op of its own."""
        handovers = [self.soc.cores[core.core].handover for core in cores]
        return layer.name not in self.workload.outputs and sum(handovers) - max(handovers) >= alone

    def sets(self, cores: Sequence[Part]) -> list[list[Part]]:
        """Sets of cores to look at: of twins the first ones."""
        classes: list[list[Part]] = []
        for core in cores:
            mine = next((own for own in classes if twins(self.soc, own[0].core, core.core)), None)
            if mine is None:
                classes.append([core])
            else:
                mine.append(core)
        counts = [c for c in itertools.product(*(range(len(own) + 1) for own in classes)) if sum(c)]
        if len(counts) > SETS:
            counts = [c for c in counts if sum(c) <= 2 or sum(c) == len(cores)]
        return [[core for own, n in zip(classes, c, strict=True) for core in own[:n]] for c in counts]

    def _split(self, layer: Layer, cores: Sequence[Part], speeds: Sequence[float], worth: Worth) -> Iterator[Way]:
        """Ways that give each of the cores some channels."""
        steps = [self.soc.cores[core.core].step for core in cores]
        if self.runtime == "serial" and len(cores) > 2:
            return  # one after the other: more cores are more steps that are not full
        if any(step >= layer.k for step in steps) and layer.k < 2 * min(steps):
            return  # no core would have a step of its own
        found: dict[tuple[int, ...], Way | None] = {}

        def price(channels: tuple[int, ...]) -> float:
            if min(channels) <= 0:
                return float("inf")
            if channels not in found:
                found[channels] = self._way(layer, cores, channels)
            way = found[channels]
            return float("inf") if way is None else worth(way.ticks, way.unit_j)

        if len(cores) == 2:
            every = [n for n, rest in splits(layer, self.soc, (cores[0].core, cores[1].core)) if n and rest]
            if len(every) > FEW:
                every = [every[i * (len(every) - 1) // (SPREAD - 1)] for i in range(SPREAD)]
            elif twins(self.soc, cores[0].core, cores[1].core):
                every = [n for n in every if 2 * n >= layer.k]
            for n in every:
                price((n, layer.k - n))
        if self.runtime == "serial":
            yield from (way for way in found.values() if way is not None)
            return
        start = shares(layer.k, steps, speeds)
        price(start)
        known = {channels: price(channels) for channels in found}
        now = min(known, key=lambda c: known[c], default=start)
        value, tried, stride = price(now), 0, 4
        while stride and tried < REFINED:
            moved = False
            for a, b in itertools.permutations(range(len(cores)), 2):
                by = stride * max(steps[a], steps[b])
                other = tuple(n - by * (i == a) + by * (i == b) for i, n in enumerate(now))
                if other in found or min(other) <= 0:
                    continue
                tried += 1
                if (new := price(other)) < value:
                    now, value, moved = other, new, True
            stride = stride if moved else stride // 2
        yield from (way for way in found.values() if way is not None)

    # ------------------------------------------------------------------------------------------ layers at once

    def windows(self) -> list[tuple[int, int]]:
        """Runs of layers (first, one past the last) that read nothing of one another and could have cores of their own
        each; none in the serial runtime, where nothing runs at once."""
        out, layers = list[tuple[int, int]](), self.workload.layers
        if self.runtime == "serial":
            return out
        for first in range(len(layers)):
            inside, cores = {layers[first].name}, {core.core for core in self.open[first]}
            for end in range(first + 2, min(first + AT_ONCE, len(layers)) + 1):
                last = layers[end - 1]
                cores |= {core.core for core in self.open[end - 1]}
                if inside.intersection(last.reads) or len(cores) < end - first or last.alternative is not None:
                    break
                inside.add(last.name)
                out.append((first, end))
        return out

    def at_once(self, first: int, end: int, each: Sequence[Sequence[Way]]) -> list[Way]:
        """Ways of the layers of a window at once, on cores of their own. each: the ways of each by itself."""
        layers = self.workload.layers[first:end]
        best: list[list[Way]] = []
        for own in each:  # the fastest on each set of cores
            fastest: dict[frozenset[str], Way] = {}
            for way in own:
                if way.cores not in fastest or way.ticks < fastest[way.cores].ticks:
                    fastest[way.cores] = way
            best.append(list(fastest.values()))
        ranked = list[tuple[float, int, tuple[tuple[Part, ...], ...]]]()
        for n, ways in enumerate(itertools.product(*best)):
            together = max(way.ticks for way in ways)
            if together < sum(way.ticks for way in ways) and (parts := self._apart(ways)) is not None:
                ranked.append((together, n, parts))
        out = list[Way]()
        for _, _, parts in sorted(ranked)[:JOINT]:
            try:
                out.append(self._together(layers, parts))
            except InputError:  # no tile fits on the twins
                continue
        return out

    def _apart(self, ways: Sequence[Way]) -> tuple[tuple[Part, ...], ...] | None:
        """The parts of several layers on cores and weight memories of their own, a twin in a core's place where that is
        taken; None where there are too few."""
        taken, out = set[str](), list[tuple[Part, ...]]()
        for way in ways:
            mine = list[Part]()
            for part in way.parts[0]:
                free = next(
                    (n for n in self.soc.cores if twins(self.soc, part.core, n) and not self._units(n) & taken), None
                )
                if free is None:
                    return None
                mine.append(replace(part, core=free))
                taken.add(free)
            taken |= {unit for part in mine for unit in self._units(part.core)}
            out.append(tuple(mine))
        return tuple(out)

    def _units(self, core: str) -> set[str]:
        memory = self.soc.cores[core].weight_memory
        return {core} if memory is None else {core, memory}

    def _together(self, layers: Sequence[Layer], parts: Sequence[tuple[Part, ...]]) -> Way:
        members = []
        for layer, own in zip(layers, parts, strict=True):
            on = [(part.core, part.channels) for part in own]
            plan = self._tiled(layer, own)
            members.append((layer, layer_work(layer, self.soc, on, plan, self.homes, exact, Theta())))
        terms, _ = group_terms(members, self.soc, self.homes, exact)
        ticks = compose(terms, self.runtime, Theta(), exact)
        (ticks,) = streamed([ticks], [terms], stream_ticks(self.homes, self.soc), exact)
        return Way(tuple(parts), float(ticks), float(terms.unit_j))
