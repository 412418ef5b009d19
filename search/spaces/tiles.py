"""The space of tiles and fusion: how each layer is cut and in which order, and which layers run as one fused piece.

The cores of a layer stay as a given mapping has them. What a layer may choose depends on how its operands come: behind
a DMA as `tiles_dma` has it, behind a cached mover as `tiles_cached`; a core that computes from the main memory has
nothing to choose. Fused pieces are runs of consecutive layers: behind a cached mover in closed form, elsewhere row by
row, simulated alone.

The exact programme (`cosoc.search.exact.tiles`) says which plan is best under these costs. A search starts from it:

- known: the given mapping, and the proven optimum of the estimate;
- then rounds. Each takes the optimum under what the estimate has learnt; simulates the best plan's sections, and their
  best neighbours, each alone; puts the best plan of these together; and from the best plan known goes down, one section
  at a time, by simulations of the whole network.

A time budget is asked for before every simulation of a section or a network, so it is overrun by one of them at most,
and by the optimum, which every search has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from cosoc.search.exact import tiles as programme
from cosoc.search.exact.tiles import Span, best_plan, counts_peak, value
from cosoc.search.fit import Made, fit
from cosoc.search.oracle import Oracle
from cosoc.search.runfolder import RunFolder
from cosoc.search.space import Candidate, Optimum
from cosoc.search.spaces.sections import Cost, Options, Section, listed, mapping_of, nameless, sections_of, total
from cosoc.search.spaces.tiles_cached import MAX_GROUP, CachedTiles, runs_on_array
from cosoc.search.spaces.tiles_dma import DmaTiles
from cosoc.search.targets import Target, within
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures, objective
from cosoc.sim.model.cuts import section as part_of
from cosoc.sim.model.energy import power_energy_j
from cosoc.sim.model.mapping import LayerPlan, Piece
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.placement import lifetimes, tensor_bytes
from cosoc.sim.model.soc import CachedMover, Dma, SoC
from cosoc.sim.model.tiles import whole
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.cached_terms import Machine
from cosoc.sim.progress import Report
from cosoc.sim.theta import Theta, factors_of
from cosoc.sim.tiler import checked, fused_problems, weight_bytes

ROUNDS = 2
NEAR, FAR = 8, 12  # neighbours of each section that are simulated; where a time budget says when to stop
TRIES = 24  # whole networks that a round's descent simulates, where no time budget says otherwise
LARGEST = 5_000  # tiles that are simulated in about half a second


class TileSpace:
    """Tiles and fusion of one network on one SoC, by one objective: a `Space`.

    given: whose cores, and whose plans of what has no choice, are taken. time_budget_s: of all rounds together, by
    `clock`; None: the numbers above say when to stop. max_group: layers that may be fused at most. fusion: whether any
    may; if not, the given mapping's pieces stay. targets: what plans have to meet; where none does, the plan is sought
    that misses them least.
    """

    def __init__(
        self, soc: SoC, workload: Workload, aim: str, given: NetworkMapping, time_budget_s: float | None = None,
        rounds: int = ROUNDS, max_group: int = MAX_GROUP, clock: Callable[[], float] = time.monotonic,
        fusion: bool = True, targets: Sequence[Target] = (),
    ) -> None:  # fmt: skip
        if time_budget_s is not None and not (math.isfinite(time_budget_s) and time_budget_s > 0):
            raise InputError(f"time budget {time_budget_s}: a positive number of seconds is needed")
        if rounds < 1 or max_group < 1:
            raise InputError(f"rounds is {rounds}, max_group {max_group}; at least 1 is needed")
        self.soc, self.workload, self.clock = soc, workload, clock
        self.aim = within(objective(aim), targets)
        self.given = checked(given, workload, soc)
        self.fusion, self.max_group = fusion, max_group if fusion else 1
        self.seconds = math.inf if time_budget_s is None else time_budget_s
        self._rounds = ("known", *(f"round_{turn}" for turn in range(rounds)))
        self._spent = 0.0  # seconds of rounds that are done
        self._until = math.inf
        self._dma = DmaTiles(workload, soc, self.given)
        self._fixed = {
            section.span: section for section in sections_of(self.given, workload) if self._is_fixed(section)
        }
        held = {i for start, end in self._fixed for i in range(start, end)}
        movers = [self._movers(i) if i not in held else [] for i in range(len(workload.layers))]
        self._behind_dma = {i for i, own in enumerate(movers) if own and all(isinstance(m, Dma) for m in own)}
        arrays: dict[str, list[int]] = {}
        for i, own in enumerate(movers):
            if len(own) == 1 and isinstance(own[0], CachedMover) and runs_on_array(workload.layers[i]):
                arrays.setdefault(self._core(i), []).append(i)
        self.arrays = {
            core: CachedTiles(workload, Machine.of(soc, core), max_group=max_group, core=core, positions=at)
            for core, at in arrays.items()
        }
        self._array_of = {i: self.arrays[core] for core, at in arrays.items() for i in at}
        if not self._behind_dma and not self._array_of and not counts_peak(self.aim):
            cores = ", ".join(dict.fromkeys(p.core for plan in self.given.layers.values() for p in plan.parts))
            raise InputError(
                f"{workload.name} on {soc.name}: nothing to choose: its layers run on {cores}, which compute from "
                "the main memory and take no tiles; fused pieces would change the objective peak alone"
            )
        self._alone: dict[Section, Cost | None] = {}
        self._alike: dict[Hashable, Cost | None] = {}  # the same, whatever its layers are called
        self.theta = Theta()
        self._networks: dict[tuple[Section, ...], float] = {}
        self._legal: dict[Span, Section | None] = {}
        self._peaks: dict[Span, int] = {}
        self._optima: dict[str, Optimum | None] = {}
        self._whole_space = True
        self._known_best: str | None = None
        self._oracle = Oracle(soc, workload)

    @property
    def name(self) -> str:
        """As `--space` has it."""
        return "tiles+fusion" if self.fusion else "tiles"

    # ------------------------------------------------------------------------------------------ what can be chosen

    def _is_fixed(self, section: Section) -> bool:
        """Whether a section of the given mapping stays as it is: what is in a piece that runs in parallel, or whose
        layers do not follow each other, or in any where fusion is not searched."""
        names = {layer.name for layer in self.workload.layers[section.first : section.last + 1]}
        loose = any(names & set(piece.layers) for piece in self.given.pieces if piece != section.piece)
        return loose or (section.piece is not None and (section.piece.how == "parallel" or not self.fusion))

    def _core(self, i: int) -> str:
        return self.given.layers[self.workload.layers[i].name].parts[0].core

    def _movers(self, i: int) -> list[Dma | CachedMover | None]:
        plan = self.given.layers[self.workload.layers[i].name]
        return [self.soc.mover_of(part.core) for part in plan.parts if part.channels]

    def has_choice(self, i: int) -> bool:
        """Whether there is anything to choose for a layer by itself."""
        return i in self._array_of or i in self._behind_dma

    def options(self, first: int, last: int) -> Options | None:
        """What the layers first .. last may be together; None where they are no section, or where time is over before
        it has been simulated."""
        if fixed := next((own for (start, end), own in self._fixed.items() if start <= first < end), None):
            return self._one(fixed) if fixed.span == (first, last + 1) else None
        if first == last:
            if first in self._array_of:
                return self._array_of[first].options(first, first)
            if first in self._behind_dma:
                return self._dma.options(first)
            return self._one(Section(first, (self.given.layers[self.workload.layers[first].name],)))
        array = self._array_of.get(first)
        if array is not None and all(self._array_of.get(i) is array for i in range(first, last + 1)):
            return array.options(first, last)
        rows = self._by_rows(first, last)
        if rows is None:
            return None
        if rows not in self._alone and self.late:
            self._whole_space = False
            return None
        return self._one(rows)

    def _one(self, section: Section) -> Options | None:
        """A section as the only option, simulated alone; None where the machine cannot run it."""
        cost = self.simulated(section)
        return None if cost is None else Options(np.array([[cost.energy_j, cost.seconds]]), lambda choice: section)

    def _by_rows(self, first: int, last: int) -> Section | None:
        """The layers as a fused piece that goes row by row; None where they cannot be one, or where nothing is moved
        that could stay and no objective asks for the main memory."""
        span = first, last + 1
        if span not in self._legal:
            inside = range(first, last + 1)
            moved = any(i in self._behind_dma for i in inside) or counts_peak(self.aim)
            piece = Piece(tuple(self.workload.layers[i].name for i in inside))
            plans = tuple(self._untiled(self.given.layers[name]) for name in piece.layers)
            held = any(start < last + 1 and first < end for start, end in self._fixed)
            legal = moved and not held and not any(i in self._array_of for i in inside)
            legal = legal and not fused_problems(piece, self.workload, self.given, self.soc)
            self._legal[span] = Section(first, plans, piece) if legal else None
        return self._legal[span]

    def _untiled(self, plan: LayerPlan) -> LayerPlan:
        return replace(plan, parts=tuple(part for part in plan.parts if part.channels)).untiled

    def spans(self) -> Iterator[tuple[int, int]]:
        """First and last layers of all that may be a section, by length, so that what time cuts off is long."""
        n = len(self.workload.layers)
        fixed = [(start, end - 1) for start, end in self._fixed]
        yield from ((first, first + more) for more in range(self.max_group) for first in range(n - more))
        yield from (span for span in fixed if span[1] - span[0] >= self.max_group)

    # ------------------------------------------------------------------------------------------ costs

    def simulated(self, section: Section) -> Cost | None:
        """What a section costs when it runs alone; None where it cannot."""
        if section not in self._alone:
            n = len(self.workload.layers)
            layers = part_of(
                self.workload, tuple(i < section.first for i in range(n)), tuple(i <= section.last for i in range(n))
            )
            names = [layer.name for layer in layers]
            plans = dict(zip(names, section.plans, strict=True))
            pieces = () if section.piece is None else (section.piece,)
            mapping = NetworkMapping("section", self.given.runtime, plans, pieces)
            key = nameless(mapping, layers)
            if key not in self._alike:
                try:
                    found = self._oracle.simulate(mapping, layers)
                    self._alike[key] = Cost(found.energy_j, found.latency_s)
                except InputError:
                    self._alike[key] = None
            self._alone[section] = self._alike[key]
        return self._alone[section]

    def cost(self, section: Section) -> Cost:
        """The estimate of a section: its closed form where it has one, else its simulation alone."""
        array = self._array_of.get(section.first)
        if array is not None and array.prices(section):
            return array.cost(section)
        if section.piece is None and section.first in self._behind_dma:
            return self._dma.cost(section)
        found = self.simulated(section)
        if found is None:
            raise InputError(f"layer {self.workload.layers[section.first].name}: cannot run as mapped")
        return found

    def is_estimated(self, section: Section) -> bool:
        """Whether a section has a closed form."""
        array = self._array_of.get(section.first)
        if array is not None:
            return array.prices(section)
        return section.piece is None and section.first in self._behind_dma

    def made(self, section: Section) -> Made:
        """What the estimate of a section is made of. InputError where it has none, and cannot run."""
        array, hz = self._array_of.get(section.first), self.soc.tick_hz
        if array is not None and array.prices(section):
            terms = array.terms_of(section)
            return Made(cached=((array.machine, terms),), unit_j=float(array.cost_of(terms)[0]) * 1e-12)
        if section.piece is None and section.first in self._behind_dma:
            return self._dma.made(section)
        found = self.cost(section)
        base_j = float(power_energy_j(self.soc, found.seconds * hz, {}))
        return Made(fixed_ticks=found.seconds * hz, unit_j=found.energy_j - base_j)

    def peak(self, first: int, last: int) -> int:
        """Bytes of the main memory while the layers first .. last run as one section: weights that live there, and all
        tensors that must, those left out that pass between layers of the section only."""
        span = first, last + 1
        if span not in self._peaks:
            inside = {layer.name for layer in self.workload.layers[first : last + 1]} if last > first else set[str]()
            gone = {
                name for name in inside
                if name not in self.workload.outputs and set(self.workload.readers(name)) <= inside
            }  # fmt: skip
            homes = self._dma.homes
            alive = [name for name, (a, b) in self._lives.items() if a <= last and b >= first and name not in gone]
            tensors = sum(
                tensor_bytes(self.workload, name) for name in alive if homes.tensors.get(name, homes.main) == homes.main
            )
            self._peaks[span] = tensors + self._weights
        return self._peaks[span]

    @property
    def _lives(self) -> dict[str, tuple[int, int]]:
        return lifetimes(self.workload)

    @property
    def _weights(self) -> int:
        """Bytes of the main memory that weights take, or pass through."""
        homes = self._dma.homes
        if not homes.weights_in_main:
            return homes.stream_bytes
        moving = (layer for layer in self.workload if layer.name not in homes.pinned)
        return sum(weight_bytes(layer, self.soc, self.given.layers[layer.name].parts) for layer in moving)

    def figures(self, sections: Sequence[Section]) -> Figures:
        """The estimate of a plan."""
        cost = total([self.cost(section) for section in sections])
        return self._figures(cost, max(self.peak(section.first, section.last) for section in sections))

    def _figures(self, cost: Cost, peak: int) -> Figures:
        return Figures(cost.seconds, cost.energy_j, peak, self.workload.n / cost.seconds)

    def worth(self, cost: Cost) -> float:
        """What the objective makes of a cost, its peak aside."""
        return float(value(cost.energy_j, cost.seconds, self.aim))

    def optimum_plan(self, until: float | None = None) -> programme.Optimum:
        """The best plan under the estimate; proven where time was enough to price every section. until: when the clock
        says that, no more are priced; None: when the round ends."""
        self._until = self._until if until is None else until
        self._whole_space = True
        options = {}
        for first, last in self.spans():
            found = self.options(first, last)
            if found is not None:
                options[first, last + 1] = found
        peaks = {(start, end): self.peak(start, end - 1) for start, end in options} if counts_peak(self.aim) else None
        n = len(self.workload.layers)
        return best_plan(n, options, self.aim, peaks, self.workload.n, over=lambda: self.late)

    # ------------------------------------------------------------------------------------------ the protocol

    def rounds(self) -> Sequence[str]:
        """What is known, then rounds of simulated improvement."""
        return self._rounds

    @property
    def late(self) -> bool:
        """Whether the time of the round is over."""
        return self.clock() >= self._until

    def propose(self, name: str, oracle: Oracle, folder: RunFolder, report: Report) -> Sequence[Candidate]:
        """Do a round."""
        turn, begun = self._rounds.index(name), self.clock()
        left = max(0.0, self.seconds - self._spent) / (len(self._rounds) - turn)
        self._oracle, self._until = oracle, begun + left

        def step(what: str) -> None:
            report(turn + 1, len(self._rounds), f"{name}: {what}")

        out = list(self._known(step) if turn == 0 else self._improved(name, step))
        self._spent += self.clock() - begun
        return out

    def learn(self, oracle: Oracle) -> None:
        """Fit theta to the sections that were simulated alone, by what they take; to those behind DMAs only where all
        weights have their place in the main memory, as a section alone has them."""
        seen = {
            one: cost.seconds * self.soc.tick_hz for one, cost in self._alone.items()
            if cost is not None and self.is_estimated(one)
            and (one.first in self._array_of or self._dma.homes.weights_in_main)
        }  # fmt: skip
        if seen:
            made, ticks = [self.made(one) for one in seen], np.array(list(seen.values()))
            names = factors_of(self.soc, {part.core for one in seen for plan in one.plans for part in plan.parts})
            self.start(fit(made, ticks, names, self.theta, weights=len(ticks) * ticks / ticks.sum()))

    def start(self, theta: Theta) -> None:
        """Go on with another theta."""
        self.theta = theta
        self._dma.learn(theta)
        for array in self.arrays.values():
            array.learn(theta)

    def state(self) -> dict[str, Any]:
        """Theta, the time spent, the estimate's optimum for each candidate, and which of them is the best."""
        optima = {
            key: own and {"figures": asdict(own.figures), "bound": own.bound} for key, own in self._optima.items()
        }
        return {"theta": asdict(self.theta), "spent_s": self._spent, "optima": optima, "best": self._best_name()}

    def restore(self, name: str, state: Mapping[str, Any]) -> None:
        """Take up the state after a round."""
        self.start(Theta(**state["theta"]))
        self._spent, self._known_best = state["spent_s"], state["best"]
        self._optima = {
            key: own and Optimum(Figures(**own["figures"]), own["bound"]) for key, own in state["optima"].items()
        }

    def optimum(self) -> Optimum | None:
        """That of the estimate which the best candidate was priced by; None where time cut the space."""
        best = self._best_name()
        return self._optima.get(best) if best is not None else None

    def about(self) -> dict[str, Any]:
        """The theta that it ended with."""
        return {"theta": asdict(self.theta)}

    # ------------------------------------------------------------------------------------------ rounds

    def _known(self, step: Callable[[str], None]) -> Iterator[Candidate]:
        """The given mapping and the optimum."""
        step("the optimum of the estimate")
        found, optimum = self._optimum()
        default = sections_of(self.given, self.workload)
        yield self._candidate("default", default, optimum, known=True)
        yield self._candidate("optimum", found.sections, optimum, known=True)

    def _optimum(self) -> tuple[programme.Optimum, Optimum | None]:
        """The best plan under the estimate, and what it proves."""
        found = self.optimum_plan()
        figures = self._figures(found.cost, max(self.peak(s.first, s.last) for s in found.sections))
        proven = self._whole_space and (self.seconds == math.inf or not counts_peak(self.aim))
        return found, Optimum(figures, float(self.aim(figures)) / found.bound) if proven else None

    def _candidate(
        self, name: str, sections: Sequence[Section], optimum: Optimum | None, known: bool = False
    ) -> Candidate:
        self._optima[name] = optimum
        mapping = mapping_of(sections, self.given, self.workload, name)
        fused = [list(one.piece.layers) for one in sections if one.piece is not None]
        return Candidate(name, mapping, self.figures(sections), known=known, about={"fused": fused})

    def _improved(self, name: str, step: Callable[[str], None]) -> Iterator[Candidate]:
        """The optimum under what was learnt, the best plan of sections simulated alone, and where that leads."""
        found, optimum = self._optimum()
        for pair in self._oracle.pairs:
            self._networks[sections_of(pair.mapping, self.workload)] = float(self.aim(pair.simulated))
        seen = list(self._networks)
        plans: list[tuple[str, tuple[Section, ...]]] = [("optimum", found.sections)]
        start = self._best(seen, found.sections)
        step("sections, each alone")
        combined = self._recombined([start, found.sections])
        plans.append(("sections", combined))
        start = self._best([start], combined)
        plans.append(("descent", self._descended(start, step)))
        for what, sections in plans:
            if sections not in seen:
                seen.append(sections)
                yield self._candidate(f"{name}_{what}", sections, optimum)

    def _best_name(self) -> str | None:
        """The best candidate; of a run whose rounds an earlier one has finished, as that has found it."""
        best = self._best_pair()
        return self._known_best if best is None else best[0].name

    def _best_pair(self) -> tuple[NetworkMapping, Figures] | None:
        pairs = [(pair.mapping, pair.simulated) for pair in self._oracle.pairs]
        return min(pairs, key=lambda pair: float(self.aim(pair[1])), default=None)

    def _best(self, seen: Sequence[tuple[Section, ...]], other: tuple[Section, ...]) -> tuple[Section, ...]:
        """The best simulated of some plans; where time is over, of those that have been simulated."""
        plans = [plan for plan in (*seen, other) if plan in self._networks or not self.late]
        return min(plans, key=self._simulated_value, default=other)

    def _simulated_value(self, sections: tuple[Section, ...]) -> float:
        """The objective of a whole plan, simulated; inf where the machine cannot run it."""
        if sections not in self._networks:
            mapping = mapping_of(sections, self.given, self.workload)
            try:
                self._networks[sections] = float(self.aim(self._oracle.simulate(mapping)))
            except InputError:
                self._networks[sections] = math.inf
        return self._networks[sections]

    def _recombined(self, plans: Sequence[tuple[Section, ...]]) -> tuple[Section, ...]:
        """The best plan of sections simulated alone: those of the plans, and what a descent from each of the first
        meets. One that time or size leaves out keeps its estimate if it is of the plans, and is left out if it is
        not."""
        whole_cost = total([self.cost(section) for section in plans[0]])
        pool: dict[Span, dict[Section, Cost]] = {}

        def taken(section: Section, ours: bool) -> Cost | None:
            cost = self._affordable(section)
            if cost is None and ours:
                cost = self.cost(section)
            if cost is not None:
                pool.setdefault(section.span, {})[section] = cost
            return cost

        for section in dict.fromkeys(section for plan in plans for section in plan):
            taken(section, ours=True)
        for here in plans[0]:
            cost = pool[here.span][here]
            rest, better = whole_cost - self.cost(here), True
            while better:
                better = False
                for other in self._near(here, whole_cost):
                    found = pool[here.span].get(other) or taken(other, ours=False)
                    if found is not None and self.worth(rest + found) < self.worth(rest + cost):
                        here, cost, better = other, found, True
        options = {span: listed(found) for span, found in pool.items()}
        peaks = {span: self.peak(span[0], span[1] - 1) for span in options}
        return best_plan(len(self.workload.layers), options, self.aim, peaks, self.workload.n).sections

    def _affordable(self, section: Section) -> Cost | None:
        """A section simulated alone; None where time or its size forbids it."""
        if section not in self._alone and (self.late or self.tiles_of(section) > LARGEST):
            return None
        return self.simulated(section)

    def _near(self, section: Section, whole_cost: Cost) -> list[Section]:
        """The best legal neighbours of a section by what they make of the whole, itself left out; of those that cost
        the same, one: they are orders of loops that do not turn."""
        array = self._array_of.get(section.first)
        if array is not None and array.prices(section):
            options = array.neighbours(section)
        elif section.piece is None and section.first in self._behind_dma and section.span not in self._fixed:
            options = self._dma.neighbours(section)
        else:
            return []
        n = NEAR if self.seconds == math.inf else FAR
        own = self.cost(section)
        rest = whole_cost - own
        points = options.points + np.array([[rest.energy_j, rest.seconds]])
        order = np.argsort(value(points[:, 0], points[:, 1], self.aim), kind="stable")
        kept = {tuple(options.points[choice]): int(choice) for choice in order[::-1]}
        kept.pop((own.energy_j, own.seconds), None)
        return [options.section(choice) for choice in list(kept.values())[::-1][:n]]

    def tiles_of(self, section: Section) -> int:
        """Tiles that a section goes through, or rows."""
        out = 0
        for layer, plan in zip(self.workload.layers[section.first :], section.plans, strict=False):
            if not plan.is_tiled:
                out += layer.oy * layer.n
                continue
            sizes, tile = whole(layer), plan.tile
            dims = ("n", "k", "c", "fy", "fx", "oy", "ox")
            out += math.prod(-(-sizes.along(d) // min(tile.along(d), sizes.along(d))) for d in dims)
        return out

    def _descended(self, start: tuple[Section, ...], step: Callable[[str], None]) -> tuple[Section, ...]:
        """A plan after steps down, each the first move of one section that makes the whole network better, simulated;
        the sections that cost most come first."""
        tries = TRIES if self.seconds == math.inf else 1 << 30
        if self.late:
            return start
        best, least = start, self._simulated_value(start)
        tried, better = {start}, True
        while better:
            better = False
            whole_cost = total([self.cost(section) for section in best])
            for section in sorted(best, key=lambda one: -self.worth(self.cost(one))):
                for new in self._moves(section, whole_cost):
                    at = best.index(section)
                    plan = (*best[:at], *new, *best[at + 1 :])
                    if plan in tried:
                        continue
                    if self.late or not tries:
                        return best
                    tried.add(plan)
                    tries -= 1
                    found = self._simulated_value(plan)
                    step(f"best {min(found, least):.6g}")
                    if found < least:
                        best, least, better = plan, found, True
                        break
        return best

    def _moves(self, section: Section, whole_cost: Cost) -> Iterable[tuple[Section, ...]]:
        """What may stand in place of a section: its neighbours, and of a fused one its layers by themselves. Nothing
        behind a cached mover, where a fence stands around each section: there it is enough to simulate it alone."""
        if section.first in self._array_of:
            return
        yield from ((other,) for other in self._near(section, whole_cost))
        if section.piece is not None and section.span not in self._fixed:
            single = [self.options(i, i) for i in range(*section.span)]
            yield tuple(own.section(programme.best_choice(own, self.aim)) for own in single if own is not None)
