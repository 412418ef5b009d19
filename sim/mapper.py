"""The cheapest mapping of a network over all cores of a chip: layers to cores, channels over several, branches at once.

Three steps. What every layer, and every run of independent layers, would cost in each of its `Ways` comes from the
closed form; the best way through the network is found by dynamic programming over it, tensors that cores hand over to
one another included (objectives that are no sums by their slopes at the best so far). Then what comes out is simulated
beside every layer on its default core and all layers on each core that can take them, so that the result is no worse
than any of these. From the best of them it goes down by simulation, one change at a time, until nothing gains or so
many ops have been lowered; where all combinations are few, all are simulated instead, and the result is exact. In the
serial runtime the closed form is the simulated time, and there is nothing left to go down to. No clock decides
anything: the same files give the same mapping in every process.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures
from cosoc.sim.figures import objective as parsed
from cosoc.sim.model.mapping import LayerPlan, Mapping, Piece, Runtime
from cosoc.sim.model.placement import Homes, handovers
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.price import Simulated
from cosoc.sim.progress import Report
from cosoc.sim.simulate import engine_run
from cosoc.sim.tiler import homes_of, kept_bytes
from cosoc.sim.ways import Way, Ways, cores_for, has_twins, twins, whole_part

MIN_COST = "min_cost"
EXACT = 256  # networks: where there are no more, all are simulated
OPS = 40_000  # that a descent lowers, some seconds' worth, a layer as LAYER_OPS; what must be simulated is not counted
LAYER_OPS = 10
NEAR = 4  # other ways of a layer that a descent looks at, those of least estimate
TURNS = 4  # times that slopes of an objective are taken anew

Chosen = tuple[tuple[int, int, Way], ...]  # first layer, one past the last, how: in order, all layers


def usual_runtime(soc: SoC) -> Runtime:
    """The runtime of a mapping that names none: that of the stacks that run today. overlapped where an array has
    controllers of its own, and where a chip has a core twice, which nobody builds to use one at a time; else serial."""
    return "overlapped" if any(soc.is_cached(core) for core in soc.cores) or has_twins(soc) else "serial"


def has_choice(workload: Workload, soc: SoC, any_format: bool = False) -> bool:
    """Whether some layer can go to several cores (of the same numbers, unless any_format)."""
    return any(len(cores_for(layer, soc, any_format)) > 1 for layer in workload)


def cheapest(
    workload: Workload, soc: SoC, runtime: Runtime, objective: str = "latency", any_format: bool = False,
    report: Report | None = None, exact_up_to: int = EXACT,
) -> Mapping:  # fmt: skip
    """The cheapest mapping that is found by an objective (a name of `OBJECTIVES` or a product); its tiles are the
    tiler's. any_format: cores of other numbers than a layer's default core may take part, whatever accuracy that
    leaves. report: is told how far it is. exact_up_to: networks that are all simulated.

    Simulated, it is no worse than each layer on its default core and all layers on each core that can take them.
    InputError where nothing that was tried can run.
    """
    return _Mapper(workload, soc, runtime, objective, any_format, report).found(exact_up_to)


@dataclass(frozen=True)
class _Estimated:
    ticks: float
    energy_j: float


class _Mapper:
    """One network on one SoC, and what has been simulated of it."""

    def __init__(
        self, workload: Workload, soc: SoC, runtime: Runtime, objective: str, any_format: bool, report: Report | None
    ) -> None:
        self.workload, self.soc, self.runtime, self.any_format = workload, soc, runtime, any_format
        self.objective, self.report = parsed(objective), report
        suffix = re.sub(r"\W+", "_", objective)
        self.name = MIN_COST if objective == "latency" else f"{MIN_COST}_{suffix}"
        self.is_sum = objective in ("latency", "throughput", "energy")
        self.simulated = Simulated(soc, engine_run("fast"))
        self.spent = 0  # on layers, whatever their ops
        self.until = 0  # what a descent may cost in all, ops; 0 before it
        self.values: dict[tuple[object, ...], float] = {}
        self.refused: InputError | None = None

    # ------------------------------------------------------------------------------------------ simulation

    def mapping(self, chosen: Chosen) -> Mapping:
        """As a mapping."""
        names = [layer.name for layer in self.workload]
        plans = {
            name: LayerPlan(own)
            for first, end, way in chosen
            for name, own in zip(names[first:end], way.parts, strict=True)
        }
        pieces = tuple(Piece(tuple(names[first:end]), "parallel") for first, end, _ in chosen if end - first > 1)
        return Mapping(self.name, self.runtime, plans, pieces)

    def value(self, mapping: Mapping) -> float:
        """The objective, simulated; inf where the machine cannot run it."""
        key = (*mapping.layers.values(), mapping.pieces)
        if key not in self.values:
            self.spent += LAYER_OPS * len(self.workload.layers)
            try:
                self.values[key] = float(self.objective(self.simulated.figures(mapping, self.workload)))
            except InputError as error:
                self.refused, self.values[key] = self.refused or error, math.inf
            if self.until:
                self.tell(min(self.cost, self.until), self.until, "simulating")
        return self.values[key]

    @property
    def cost(self) -> int:
        """What has been simulated, in ops."""
        return self.simulated.ops + self.spent

    def tell(self, done: int, total: int, what: str) -> None:
        """Say how far it is."""
        if self.report is not None:
            self.report(done, total, f"{self.name}: {what}")

    # ------------------------------------------------------------------------------------------ the estimate

    def slopes(self, at: _Estimated) -> tuple[float, float]:
        """What a second and a joule are worth to the objective at a point; seconds alone where it asks for neither."""

        def value(seconds: float, joules: float) -> float:
            return float(self.objective(Figures(seconds, joules, 1, self.workload.n / seconds)))

        seconds, joules, small = at.ticks / self.soc.tick_hz, at.energy_j, 1e-6
        if joules <= 0:
            return 1.0, 0.0
        base = value(seconds, joules)
        by_s = (value(seconds * (1 + small), joules) - base) / (seconds * small)
        by_j = (value(seconds, joules * (1 + small)) - base) / (joules * small)
        return (by_s, by_j) if by_s > 0 or by_j > 0 else (1.0, 0.0)

    def estimated(self, chosen: Chosen) -> _Estimated:
        """The sum over layers, with the tensors that are handed over."""
        ticks = sum(way.ticks for _, _, way in chosen)
        if self.hands_over:
            passed = handovers(self.workload, self.mapping(chosen), self.soc)
            on = {la.name: {p.core for p in plan.parts} for la, plan in zip(
                self.workload, self.mapping(chosen).layers.values(), strict=True)}  # fmt: skip
            ticks += sum(
                self.soc.cores[one.core].handover
                for name, every in passed.items() for one in every if on[name].intersection(one.readers)
            )  # fmt: skip
        joules = sum(way.unit_j for _, _, way in chosen) + self.idle_j * ticks
        return _Estimated(ticks, joules)

    @property
    def hands_over(self) -> bool:
        """Whether some core hands over what it made."""
        return any(core.handover for core in self.soc.cores.values())

    @property
    def idle_j(self) -> float:
        """Energy of a tick that passes, J."""
        return self.soc.idle_power_mw * 1e-3 / self.soc.tick_hz

    def handed(self, before: tuple[int, int, Way] | None, here: tuple[int, int, Way]) -> int:
        """Ticks for which the cores of a step hand over to the next one."""
        if before is None or not self.hands_over:
            return 0
        layers, out = self.workload.layers, set[tuple[str, str]]()
        made = {layers[before[0] + i].name: own for i, own in enumerate(before[2].parts)}
        for i, own in enumerate(here[2].parts):
            for tensor in layers[here[0] + i].reads:
                cores = {part.core for part in made.get(tensor, ())}
                out |= {(tensor, core) for core in cores if any(part.core != core for part in own)}
        return sum(self.soc.cores[core].handover for _, core in out)

    def way_through(
        self, steps: dict[int, list[tuple[int, int, Way]]], worth: Callable[[float, float], float]
    ) -> Chosen:
        """The way through the network of least worth, steps by the layer that they begin at: dynamic programming."""
        n, best = len(self.workload.layers), dict[int, list[tuple[float, Chosen]]]()
        best[0] = [(0.0, ())]
        for at in range(n):
            for step in steps.get(at, ()):
                own = worth(step[2].ticks, step[2].unit_j)
                found = min(
                    ((v + worth(self.handed(so_far[-1] if so_far else None, step), 0.0) + own, (*so_far, step))
                     for v, so_far in best.get(at, ())),
                    key=lambda one: one[0], default=None,
                )  # fmt: skip
                if found is not None:
                    best.setdefault(step[1], []).append(found)
            for end in list(best):
                if end > at and not self.hands_over:  # nothing but the sum goes on
                    best[end] = [min(best[end], key=lambda one: one[0])]
        if n not in best:
            raise self.refused or InputError(
                f"{self.workload.name} on {self.soc.name}: some layer fits no core's memory"
            )
        return min(best[n], key=lambda one: one[0])[1]

    # ------------------------------------------------------------------------------------------ the search

    def pure(self) -> list[Mapping]:
        """Each layer on its default core; all that can be on each other core; and with weights that stay where they
        are, over twins in the order of layers as far as each has room."""
        cores = {layer.name: cores_for(layer, self.soc, self.any_format) for layer in self.workload}
        out = [Mapping(self.name, self.runtime, {n: LayerPlan((own[0],)) for n, own in cores.items()})]
        seen = list[str]()
        for core in dict.fromkeys(part.core for own in cores.values() for part in own):
            if any(twins(self.soc, core, other) for other in seen):
                continue
            seen.append(core)
            plans = {n: LayerPlan((next((p for p in own if p.core == core), own[0]),)) for n, own in cores.items()}
            out.append(Mapping(self.name, self.runtime, plans))
            if self.soc.cores[core].keeps_weights:
                out.append(Mapping(self.name, self.runtime, self.filled(plans, core)))
        return out

    def filled(self, plans: dict[str, LayerPlan], core: str) -> dict[str, LayerPlan]:
        """The layers of a core that keeps weights, over its twins."""
        out, left = dict(plans), {n: 0 for n in self.soc.cores if twins(self.soc, core, n)}
        for name in left:
            memory = self.soc.cores[name].weight_memory
            left[name] = self.soc.memories[memory].capacity_bytes if memory else 0
        whole = Mapping(self.name, self.runtime, plans)
        for layer in self.workload:
            size = kept_bytes(layer, whole, self.soc, core)
            room = next((n for n, free in left.items() if free >= size), None)
            if size and room is not None:
                out[layer.name] = LayerPlan((whole_part(layer, self.soc, room),))
                left[room] -= size
        return out

    def found(self, exact_up_to: int) -> Mapping:
        """The cheapest."""
        starts = self.pure()
        if self.runtime == "serial" and not has_choice(self.workload, self.soc, self.any_format):
            return starts[0]
        best = min(starts, key=self.value)
        each = self.cost // max(len(self.values), 1)
        seen = set[tuple[object, ...]]()
        steps: dict[int, list[tuple[int, int, Way]]] = {}
        near = best
        while True:  # once more where what was found has its tensors elsewhere
            homes = self.homes(near)
            if homes is None or _places(homes) in seen:
                break
            seen.add(_places(homes))
            made = self.solved(homes)
            steps = steps or made[0]
            near = self.mapping(made[1])
            if self.value(near) < self.value(best):
                best, steps = near, made[0]
        if self.value(best) == math.inf:
            assert self.refused is not None
            raise self.refused
        if not steps or (self.runtime == "serial" and self.is_sum and not self.hands_over):
            return best  # where everything follows everything, the closed form is the simulated time
        if self.many(steps, exact_up_to) <= exact_up_to and each * self.many(steps, exact_up_to) <= OPS:
            every = (self.mapping(chosen) for chosen in self.every(steps, 0))
            return min(itertools.chain([best], every), key=self.value)
        return self.descended(best, steps)

    def homes(self, mapping: Mapping) -> Homes | None:
        """Where tensors live; None where they find no room."""
        try:
            return homes_of(self.workload, mapping, self.soc)
        except InputError:
            return None

    def solved(self, homes: Homes) -> tuple[dict[int, list[tuple[int, int, Way]]], Chosen]:
        """All steps for a placement, and the best way through them by the estimate."""
        ways = Ways(self.workload, self.soc, self.runtime, homes, self.any_format, self.simulated.tilings)
        seconds, joules = 1.0, 0.0
        if self.objective is not parsed("latency"):  # where its slopes are, to begin with
            alone = list[Way]()
            for i in range(len(ways.open)):
                alone += ways.of(i, lambda ticks, _: ticks)[:1]
                self.tell(i, len(ways.open), "layers in closed form")
            at = self.estimated(tuple((i, i + 1, way) for i, way in enumerate(alone)))
            seconds, joules = self.slopes(at)
        found = list[tuple[float, int, Chosen]]()
        steps: dict[int, list[tuple[int, int, Way]]] = {}
        for turn in range(TURNS):

            def worth(ticks: float, unit_j: float, by: tuple[float, float] = (seconds, joules)) -> float:
                return by[0] * ticks / self.soc.tick_hz + by[1] * (unit_j + self.idle_j * ticks)

            each = []
            for i in range(len(self.workload.layers)):
                each.append(ways.of(i, worth))
                self.tell(i + 1, len(self.workload.layers), "layers in closed form")
            steps = {i: [(i, i + 1, way) for way in own] for i, own in enumerate(each)}
            for first, end in ways.windows():
                steps[first] += [(first, end, way) for way in ways.at_once(first, end, each[first:end])]
            chosen = self.way_through(steps, worth)
            at = self.estimated(chosen)
            figures = Figures(at.ticks / self.soc.tick_hz, at.energy_j, 1, self.soc.tick_hz / at.ticks)
            found.append((float(self.objective(figures)), turn, chosen))
            again = self.slopes(at)
            if math.isclose(again[0] * joules, again[1] * seconds, rel_tol=1e-3):
                break
            seconds, joules = again
        return steps, min(found, key=lambda one: one[:2])[2]

    def many(self, steps: dict[int, list[tuple[int, int, Way]]], most: int) -> int:
        """How many ways there are through the network; beyond `most`, one more."""
        ways = {0: 1}
        for at in range(len(self.workload.layers)):
            for _, end, _ in steps.get(at, ()):
                ways[end] = min(ways.get(end, 0) + ways.get(at, 0), most + 1)
        return ways.get(len(self.workload.layers), 0)

    def every(self, steps: dict[int, list[tuple[int, int, Way]]], at: int) -> Iterator[Chosen]:
        """All ways through the network from a layer on."""
        if at == len(self.workload.layers):
            yield ()
            return
        for step in steps.get(at, ()):
            for rest in self.every(steps, step[1]):
                yield (step, *rest)

    def descended(self, best: Mapping, steps: dict[int, list[tuple[int, int, Way]]]) -> Mapping:
        """From a mapping down by simulation: one change at a time, those first whose estimate promises most."""
        now, tried = self.chosen_of(best, steps), set[tuple[object, ...]]()
        self.until = self.cost + OPS
        settled = False
        while not settled:
            settled = True
            for change in self.changes(now, steps):
                other = self.mapping(change)
                key = (*other.layers.values(), other.pieces)
                if key in tried:
                    continue
                if self.cost >= self.until:
                    return best
                tried.add(key)
                if self.value(other) < self.value(best):
                    best, now, settled = other, change, False
                    break
        return best

    def chosen_of(self, mapping: Mapping, steps: dict[int, list[tuple[int, int, Way]]]) -> Chosen:
        """The steps of a mapping; one that none of them is has a step of its own."""
        out, at, ends = (
            list[tuple[int, int, Way]](),
            0,
            {piece.layers[0]: len(piece.layers) for piece in mapping.pieces},
        )
        layers = self.workload.layers
        while at < len(layers):
            end = at + ends.get(layers[at].name, 1)
            parts = tuple(mapping.layers[layer.name].parts for layer in layers[at:end])
            known = (step for step in steps.get(at, ()) if step[1] == end and step[2].parts == parts)
            out.append(next(known, (at, end, Way(parts, math.inf, math.inf))))
            at = end
        return tuple(out)

    def changes(self, now: Chosen, steps: dict[int, list[tuple[int, int, Way]]]) -> list[Chosen]:
        """The network with one step in another way, several as one at once, or one apart, by estimated ticks."""
        bounds = {first: i for i, (first, _, _) in enumerate(now)} | {len(self.workload.layers): len(now)}
        out = list[tuple[float, int, Chosen]]()

        def add(i: int, j: int, instead: Sequence[tuple[int, int, Way]]) -> None:
            gain = sum(step[2].ticks for step in instead) - sum(step[2].ticks for step in now[i:j])
            out.append((gain if math.isfinite(gain) else -1.0, len(out), (*now[:i], *instead, *now[j:])))

        for i, (first, end, way) in enumerate(now):
            same = [step for step in steps.get(first, ()) if step[1] == end and step[2] != way]
            for step in sorted(same, key=lambda one: one[2].ticks)[:NEAR]:
                add(i, i + 1, [step])
            if end - first > 1:
                alone = [min((s for s in steps[at] if s[1] == at + 1), key=lambda one: one[2].ticks)
                         for at in range(first, end)]  # fmt: skip
                add(i, i + 1, alone)
            for step in steps.get(first, ()):
                if step[1] > end and step[1] in bounds:
                    add(i, bounds[step[1]], [step])
        return [chosen for _, _, chosen in sorted(out, key=lambda one: one[:2])]


def _places(homes: Homes) -> tuple[object, ...]:
    """What tells two placements apart."""
    return tuple(homes.tensors.items()), homes.weights_in_main, homes.pinned


__all__ = ["MIN_COST", "Report", "cheapest", "has_choice", "usual_runtime"]
