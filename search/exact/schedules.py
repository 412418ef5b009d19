"""Exact schedules of two networks on two engines that share a memory: which layers where, with few hand-overs.

A network is a chain of groups, cut where one tensor alone crosses. A choice says on which engine each group runs; where
the engine changes a tensor is handed over. How long two choices take together is a timeline of a few stretches in which
both run at known rates: on one engine each at half of its own; on two, slower by what it waits at the memory,

    1 + wait of its engine x share of its time at the memory x share of the other's

where shares come from runs alone, and waits are calibrated on two runs at once (`calibrated`). `best` looks at all
pairs of choices but those whose bound (the longer network alone; the work of each engine) is no better than what it
has: the optimum of these costs, proven. What is reported is simulated: of the best few, the one that is fastest there.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cosoc.sim.manual import named_mapping
from cosoc.sim.model.cuts import crossing
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.together import Load, while_all_run
from cosoc.sim.simulate import simulate, simulate_together

ENGINES = ("gpu", "dla")
Choice = tuple[str, ...]  # an engine for each group


@dataclass(frozen=True)
class Chain:
    """A network's groups of layers. seconds, held: of each group on each engine, alone: all of its time, and that in
    which it holds the memory's links. handover_s: by the engine that hands over. mappings: all on each engine."""

    workload: Workload
    groups: tuple[tuple[str, ...], ...]
    seconds: MappingOf[str, tuple[float, ...]]
    held: MappingOf[str, tuple[float, ...]]
    handover_s: MappingOf[str, float]
    mappings: MappingOf[str, Mapping]


@dataclass(frozen=True)
class Stretch:
    """Groups one after the other on an engine. share: of its time, at the memory."""

    engine: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Schedule:
    """A choice for each of two networks, and the seconds until both have ended by these costs."""

    choices: tuple[Choice, Choice]
    seconds: float


def chain_of(workload: Workload, soc: SoC, most: int) -> Chain:
    """A network as at most so many groups, its costs simulated alone; neighbours that take least are put together."""
    mappings = {engine: named_mapping(engine, workload, soc, "serial") for engine in ENGINES}
    spent: dict[str, dict[str, float]] = {}
    held: dict[str, dict[str, float]] = {}
    rate = {name: link.bytes_per_period / link.period_cycles * soc.tick_hz for name, link in soc.links.items()}
    slowest = min(rate.values())
    for engine, placed in mappings.items():
        layers = simulate(soc, workload, placed).by_layer
        spent[engine] = {layer.layer: layer.seconds_critical for layer in layers}
        held[engine] = {layer.layer: layer.feed_bytes / slowest for layer in layers}
    groups = _groups(workload)
    while len(groups) > most:
        sums = [sum(spent["gpu"].get(name, 0.0) for name in group) for group in groups]
        at = min(range(len(groups) - 1), key=lambda n: sums[n] + sums[n + 1])
        groups = [*groups[:at], (*groups[at], *groups[at + 1]), *groups[at + 2 :]]

    def of(figures: dict[str, dict[str, float]]) -> dict[str, tuple[float, ...]]:
        return {
            engine: tuple(sum(by_layer.get(name, 0.0) for name in group) for group in groups)
            for engine, by_layer in figures.items()
        }

    over = {
        engine: soc.cores[next(p.core for plan in placed.layers.values() for p in plan.parts if _is(p.core, engine))]
        for engine, placed in mappings.items()
    }
    handover = {engine: core.handover / soc.tick_hz for engine, core in over.items()}
    return Chain(workload, tuple(groups), of(spent), of(held), handover, mappings)


def _is(core: str, engine: str) -> bool:
    return core.startswith(engine)


def _groups(workload: Workload) -> list[tuple[str, ...]]:
    """Layers between neighbouring cuts that one tensor alone crosses."""
    out, group, done = list[tuple[str, ...]](), list[str](), [False] * len(workload.layers)
    for number, layer in enumerate(workload):
        group.append(layer.name)
        done[number] = True
        if len(crossing(workload, done)) == 1:
            out.append(tuple(group))
            group = []
    return [*out, tuple(group)] if group else out


def choices(chain: Chain, most_handovers: int) -> list[Choice]:
    """All choices with at most so many hand-overs, fewest first."""
    n, out = len(chain.groups), list[Choice]()
    for handovers in range(min(most_handovers, n - 1) + 1):
        for cuts in itertools.combinations(range(1, n), handovers):
            edges = (0, *cuts, n)
            for first in range(2):
                out.append(tuple(
                    ENGINES[(first + part) % 2]
                    for part in range(len(edges) - 1)
                    for _ in range(edges[part], edges[part + 1])
                ))  # fmt: skip
    return out


def stretches(chain: Chain, choice: Choice) -> tuple[Stretch, ...]:
    """A choice as stretches; what an engine hands over counts as its time."""
    out = []
    for engine, numbers in itertools.groupby(range(len(choice)), key=choice.__getitem__):
        mine = list(numbers)
        seconds = sum(chain.seconds[engine][n] for n in mine)
        held = sum(chain.held[engine][n] for n in mine)
        seconds += chain.handover_s[engine] if mine[-1] + 1 < len(choice) else 0.0
        out.append(Stretch(engine, seconds, held / seconds if seconds else 0.0))
    return tuple(out)


def together_s(a: Sequence[Stretch], b: Sequence[Stretch], wait: MappingOf[str, float]) -> float:
    """Seconds until both have ended, by the rates of the module's docstring."""
    now, at = 0.0, [0, 0]
    both = (a, b)
    left = [a[0].seconds, b[0].seconds]
    while at[0] < len(a) and at[1] < len(b):
        mine = [both[side][at[side]] for side in range(2)]
        shared = mine[0].share * mine[1].share
        slower = [2.0 if mine[0].engine == mine[1].engine else 1.0 + wait[one.engine] * shared for one in mine]
        step = min(left[side] * slower[side] for side in range(2))
        now += step
        for side in range(2):
            left[side] -= step / slower[side]
            if left[side] <= 1e-12 * now:
                at[side] += 1
                left[side] = both[side][at[side]].seconds if at[side] < len(both[side]) else 0.0
    for side in range(2):
        if at[side] < len(both[side]):
            now += left[side] + sum(one.seconds for one in both[side][at[side] + 1 :])
    return now


def calibrated(a: Chain, b: Chain, soc: SoC) -> dict[str, float]:
    """The wait of each engine, from both networks at once, one on each engine, either way round."""
    found: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for engines in (ENGINES, ENGINES[::-1]):
        whole = [
            stretches(chain, (engine,) * len(chain.groups))[0] for chain, engine in zip((a, b), engines, strict=True)
        ]
        longest = max(one.seconds for one in whole)
        loads = [
            Load(chain.workload, chain.mappings[engine], math.ceil(3 * longest / one.seconds))
            for chain, engine, one in zip((a, b), engines, whole, strict=True)
        ]
        seconds = while_all_run(simulate_together(soc, loads))
        shared = whole[0].share * whole[1].share
        for one, together in zip(whole, seconds, strict=True):
            found[one.engine].append((together / one.seconds - 1.0) / shared if shared else 0.0)
    return {engine: max(sum(waits) / len(waits), 0.0) for engine, waits in found.items()}


def best(a: Chain, b: Chain, wait: MappingOf[str, float], most_handovers: int, keep: int = 1) -> list[Schedule]:
    """The schedules that take least until both have ended, best first: the first is the optimum of these costs."""
    options = [[(one, stretches(chain, one)) for one in choices(chain, most_handovers)] for chain in (a, b)]
    sums = [[{e: sum(s.seconds for s in parts if s.engine == e) for e in ENGINES} for _, parts in side]
            for side in options]  # fmt: skip
    found: list[tuple[float, int, Schedule]] = []  # the worst of those kept first
    number = 0
    for (one, parts), mine in zip(options[0], sums[0], strict=True):
        for (other, others), theirs in zip(options[1], sums[1], strict=True):
            bound = max(sum(mine.values()), sum(theirs.values()), *(mine[e] + theirs[e] for e in ENGINES))
            if len(found) == keep and bound >= -found[0][0]:
                continue
            seconds, number = together_s(parts, others, wait), number + 1
            item = (-seconds, -number, Schedule((one, other), seconds))
            if len(found) < keep:
                heapq.heappush(found, item)
            elif seconds < -found[0][0]:
                heapq.heapreplace(found, item)
    return [schedule for _, _, schedule in sorted(found, reverse=True)]


def mapping_of(chain: Chain, choice: Choice, name: str = "schedule") -> Mapping:
    """The mapping of a choice; what an engine cannot run is on the other."""
    engine_of = {layer: engine for group, engine in zip(chain.groups, choice, strict=True) for layer in group}
    plans = {layer: chain.mappings[engine].layers[layer] for layer, engine in engine_of.items()}
    return replace(chain.mappings[ENGINES[0]], name=name, layers=plans)


def simulated_s(a: Chain, b: Chain, both: tuple[Choice, Choice], soc: SoC) -> float:
    """Seconds until both have ended, simulated."""
    loads = [Load(chain.workload, mapping_of(chain, choice)) for chain, choice in zip((a, b), both, strict=True)]
    return simulate_together(soc, loads).seconds


__all__ = ["ENGINES", "Chain", "Choice", "Schedule", "Stretch", "best", "calibrated", "chain_of", "choices",
           "mapping_of", "simulated_s", "stretches", "together_s"]  # fmt: skip
