"""Cores, tiles and fusion chosen together by cost: chains such as `channels+tiles`, where nothing is trained.

What a layer may be is every share of its channels in every tiling (`share_tiles`), so what the tiles of a share cost is
never an assumption about them: they are the best ones. Costs of layers add up, and the best plan is found exactly
(`cosoc.search.exact.tiles`) for each placement of tensors and weights, of which there are few: all weights fit the main
memory, or they do not and tensors are elsewhere. Which it is depends on the bytes of all weights together, which the
shares decide; where the best plan is too large for the placement that it was sought for, the programme runs once more
with a bound on these bytes.

A search starts from what is known (the given mapping, all channels on each core, the best plan of each placement), and
then goes down from the best by simulations of the whole network, one layer at a time: to the choices that the estimate
has next, and, with fusion, to neighbouring layers as one piece.

What the estimate calls the bound is that of the layers by themselves, each hidden behind the one before as far as it
can be: no plan of these choices is below it, fused pieces left out. A time budget is asked for before every simulation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from cosoc.search.exact.tiles import best_plan, front_of, value, walk
from cosoc.search.oracle import Oracle
from cosoc.search.runfolder import RunFolder
from cosoc.search.space import Candidate, Optimum
from cosoc.search.spaces.sections import Floats, Ints, Options, Section, mapping_from, mapping_of
from cosoc.search.spaces.share_tiles import ShareTiles, Tiles, placement, shares
from cosoc.search.spaces.tiles import TileSpace
from cosoc.search.targets import Target, within
from cosoc.search.terms import network_estimate, network_peak
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures, objective
from cosoc.sim.model.mapping import LayerPlan, Part, Piece
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.placement import Homes, lifetimes, tensor_bytes
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.progress import Report
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import checked, fused_problems, homes_of, weight_bytes
from cosoc.sim.ways import able

Outer = Literal["channels", "operators", "tiles"]

ROUNDS = 2
NEAR = 8  # choices of a layer that a descent simulates
TRIES = 200  # networks that a round simulates, where no time budget says otherwise
GROUP = 4  # layers that a descent fuses at most
SLOPES = 9  # weightings of energy and time that are tried where weights are bounded
MOST_LABELS, THIN = 2000, 1e-3  # of a front of (cost, bytes of weights), before those nearer than this are dropped


@dataclass(frozen=True)
class Solved:
    """The best plans of a placement by name: each layer by itself (`optimum`), or hidden behind the one before as far
    as it can be (`hidden`); and a value that no estimate of a plan there is below."""

    plans: Mapping[str, NetworkMapping]
    bound: float


class JointSpace:
    """Shares and tiles of one network on one SoC, by one objective: a `Space`.

    outer: whose shares are chosen: `channels`, of layers that several cores can run; `operators`, of those with an
    alternative; `tiles`, none. tiles: which ones go with a share. fusion: whether neighbours may be fused. given: what
    holds where nothing is chosen. targets: what the best plan has to meet. time_budget_s: of all rounds, by `clock`;
    None: a descent simulates `tries` networks.
    """

    def __init__(
        self, soc: SoC, workload: Workload, outer: Outer, aim: str, given: NetworkMapping, tiles: Tiles = "searched",
        fusion: bool = False, targets: Sequence[Target] = (), time_budget_s: float | None = None,
        theta: Theta | None = None, tries: int = TRIES, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        if time_budget_s is not None and not (math.isfinite(time_budget_s) and time_budget_s > 0):
            raise InputError(f"time budget {time_budget_s}: a positive number of seconds is needed")
        self.soc, self.workload, self.outer, self.tiles, self.fusion = soc, workload, outer, tiles, fusion
        self.objective_text, self.objective, self.targets = aim, objective(aim), tuple(targets)
        self.aim = within(self.objective, self.targets)
        self.theta, self.tries, self.clock = theta or Theta(), tries, clock
        self.given = checked(given, workload, soc)
        self.open_layers = frozenset(layer.name for layer in workload if self._is_open(layer))
        if outer != "tiles" and not self.open_layers:
            raise InputError(self._nothing_open())
        self.seconds = math.inf if time_budget_s is None else time_budget_s
        self._spent, self._until = 0.0, math.inf
        self._oracle = Oracle(soc, workload)
        self._tables: dict[str, ShareTiles] = {}
        self._simulated: dict[Hashable, tuple[NetworkMapping, Figures | None]] = {}
        self._best: NetworkMapping | None = None
        self._optimum: Optimum | None = None

    @property
    def name(self) -> str:
        """As `--space` has it."""
        parts = (self.outer, *(["tiles"] if self.tiles == "searched" else []), *(["fusion"] if self.fusion else []))
        return "+".join(dict.fromkeys(parts))

    @property
    def _drops_layers(self) -> bool:
        """Whether some share leaves layers out: those that only an alternative, or only what it stands for, reads. The
        programme counts them all, so that what it finds is a plan, and no bound."""
        other = [(layer.alternative, layer.inputs) for layer in self.workload if layer.alternative is not None]
        return any(one is not None and one.inputs != inputs for one, inputs in other)

    def _is_open(self, layer: Layer) -> bool:
        """Whether the shares of a layer are chosen."""
        if self.outer == "tiles" or layer.op != "conv":
            return False
        return (layer.alternative is not None) == (self.outer == "operators") and len(able(layer, self.soc)) > 1

    def _nothing_open(self) -> str:
        where = f"{self.workload.name} on {self.soc.name}"
        if self.outer == "operators" and all(layer.alternative is None for layer in self.workload):
            return f"{where}: no layer has an alternative, so there are no operators to choose"
        cores = ", ".join(dict.fromkeys(core for layer in self.workload for core in able(layer, self.soc)))
        return (
            f"{where}: no layer has two cores to choose between ({cores} alone can compute them), so there are no "
            f"{self.outer} to search; --space tiles+fusion searches tiles and fusion"
        )

    # ------------------------------------------------------------------------------------------ the exact programme

    def table(self, homes: Homes) -> ShareTiles:
        """The choices for a placement."""
        key = placement(homes)
        if key not in self._tables:
            layers, theta = self.open_layers, self.theta
            self._tables[key] = ShareTiles(self.workload, self.soc, self.given, homes, layers, self.tiles, theta)
        return self._tables[key]

    def placements(self) -> list[Homes]:
        """The placements that shares lead to: those of the least and of the most bytes of weights, as the rule of
        `sim.model.placement` tells no more apart. InputError where not even the least find room."""
        found, refused = dict[bool, Homes](), list[InputError]()
        for pick in (min, max):
            plans = dict(self.given.layers)
            for layer in (layer for layer in self.workload if layer.name in self.open_layers):
                sizes = {parts: weight_bytes(layer, self.soc, parts) for parts in shares(layer, self.soc)}
                plans[layer.name] = LayerPlan(pick(sizes, key=sizes.__getitem__))
            try:
                homes = homes_of(self.workload, replace(self.given, layers=plans), self.soc)
                found.setdefault(homes.weights_in_main, homes)
            except InputError as error:  # more weights than the machine has room for
                refused.append(error)
        if not found:
            raise refused[0]
        return list(found.values())

    def solved(self, homes: Homes) -> Solved | None:
        """The best plans of a placement by the estimate: exact, but where the bytes of weights must be bounded and the
        objective is neither latency nor energy alone (then the best of SLOPES weightings of the two). None where no
        weights are small enough for it."""
        table, n = self.table(homes), len(self.workload.layers)
        choices = [table.choices(i) for i in range(n)]
        tensors = self._tensors(homes)
        lightest, room = sum(int(one.weights.min()) for one in choices), self._room(homes, tensors)
        held = tensors + (lightest if homes.weights_in_main else homes.stream_bytes)
        if lightest > room:
            return None

        def aim(figures: Any) -> Any:
            return self.aim(replace(figures, peak_bytes=held))

        found: dict[str, NetworkMapping] = {}
        bound = math.inf
        for name, costs in (("hidden", [one.floor for one in choices]), ("optimum", [one.points for one in choices])):
            each = {(i, i + 1): Options(own, partial(_choice, i)) for i, own in enumerate(costs)}
            best = best_plan(n, each, aim, items=self.workload.n)
            bound = min(bound, best.value * best.bound)
            at = [section.first for section in best.sections]
            if sum(int(one.weights[k]) for one, k in zip(choices, at, strict=True)) > room:
                at = self._lighter(costs, [one.weights for one in choices], room, aim)
            plans = {la.name: one.plans[k] for la, one, k in zip(self.workload, choices, at, strict=True)}
            found[name] = replace(self.given, name=name, layers=plans)
        return Solved(found, bound)

    def _lighter(
        self, costs: Sequence[Floats], weights: Sequence[Ints], room: float, aim: Callable[[Any], Any]
    ) -> list[int]:
        """The best choices whose weights take so many bytes at most: the front of (cost, bytes) of each weighting of
        energy and time. costs: J and s [n, 2] of each layer's choices."""
        n, found = len(costs), list[tuple[float, list[int]]]()
        scale = np.sum([own.mean(axis=0) for own in costs], axis=0)
        for share in np.linspace(0.0, 1.0, SLOPES):
            weighted = [own @ (np.array([share, 1 - share]) / scale) for own in costs]
            points = [np.stack([cost, held], 1) for cost, held in zip(weighted, weights, strict=True)]
            kept = [front_of(own) for own in points]
            sections = {(i, i + 1): own[k] for i, (own, k) in enumerate(zip(points, kept, strict=True))}
            ways = walk(n, sections, THIN, MOST_LABELS)
            last = ways.fronts[-1]
            if not (last[:, 1] <= room).any():
                continue  # thinned away
            _, at, _ = ways.best(np.where(last[:, 1] <= room, last[:, 0], np.inf))
            chosen = [int(k[c]) for k, c in zip(kept, at, strict=True)]
            energy, seconds = np.sum([own[c] for own, c in zip(costs, chosen, strict=True)], axis=0)
            found.append((float(value(energy, seconds, aim, items=self.workload.n)), chosen))
        return min(found)[1] if found else [int(held.argmin()) for held in weights]

    def _room(self, homes: Homes, tensors: int) -> float:
        """Bytes of weights that a placement, and a target on the peak, leave room for."""
        if not homes.weights_in_main:
            return math.inf
        bounds = [one.most for one in self.targets if one.objective == "peak"]
        return min([self.soc.memories[homes.main].capacity_bytes, *bounds]) - tensors

    def _tensors(self, homes: Homes) -> int:
        """The most that live tensors take of the main memory at once."""
        here = {name: span for name, span in lifetimes(self.workload).items() if homes.tensors[name] == homes.main}
        sizes = {name: tensor_bytes(self.workload, name) for name in here}
        steps = range(len(self.workload.layers))
        return max(sum(sizes[name] for name, (a, b) in here.items() if a <= i <= b) for i in steps)

    def estimated(self, mapping: NetworkMapping) -> Figures | None:
        """The estimate of a network, each layer behind the one before; None with fused pieces, which have none."""
        if mapping.pieces:
            return None
        found = network_estimate(self.workload, self.soc, mapping, {}, self.theta)
        seconds = float(found.ticks) / self.soc.tick_hz
        peak = round(float(network_peak(self.workload, self.soc, mapping)))
        return Figures(seconds, float(found.energy_j), peak, self.workload.n / seconds)

    # ------------------------------------------------------------------------------------------ the protocol

    def rounds(self) -> Sequence[str]:
        """What is known, then what simulations lead to."""
        return ("known", "descent")

    @property
    def late(self) -> bool:
        """Whether the time of the search is over."""
        return self.clock() >= self._until

    def propose(self, name: str, oracle: Oracle, folder: RunFolder, report: Report) -> Sequence[Candidate]:
        """Do a round."""
        begun = self.clock()
        self._oracle, self._until = oracle, begun + max(0.0, self.seconds - self._spent)

        def step(what: str) -> None:
            report(self.rounds().index(name) + 1, len(self.rounds()), f"{name}: {what}")

        out = list(self._known(step) if name == "known" else self._descended(step))
        self._best = min((self._best or self.given, *(one.mapping for one in out)), key=self.worth)
        self._spent += self.clock() - begun
        return out

    def learn(self, oracle: Oracle) -> None:
        """Nothing: the estimate is that of the theta which the search began with."""

    def state(self) -> dict[str, Any]:
        """The time spent, the best mapping, and the estimate's optimum."""
        own = self._optimum
        optimum = own and {"figures": asdict(own.figures), "bound": own.bound}
        return {"spent_s": self._spent, "best": self._best and asdict(self._best), "optimum": optimum}

    def restore(self, name: str, state: Mapping[str, Any]) -> None:
        """Take up the state after a round."""
        own = state["optimum"]
        self._spent, self._best = state["spent_s"], state["best"] and mapping_from(state["best"])
        self._optimum = own and Optimum(Figures(**own["figures"]), own["bound"])

    def optimum(self) -> Optimum | None:
        """The best plan of the estimate and its bound; None with fused pieces, which have no closed form."""
        return self._optimum

    def about(self) -> dict[str, Any]:
        """How many layers' shares were chosen."""
        return {"open_layers": sorted(self.open_layers), "runtime": self.given.runtime}

    # ------------------------------------------------------------------------------------------ rounds

    def _known(self, step: Callable[[str], None]) -> Iterator[Candidate]:
        """The given mapping, all channels on each core, and the best plan of each placement."""
        yield self._candidate("given", self.given)
        for core in self.soc.cores:
            mapping = self.uniform(core)
            if mapping is not None and not self.late:
                yield self._candidate(f"all_{core}", mapping)
        values = list[Optimum]()
        for number, homes in enumerate(self.placements()):
            step("the best plans of a placement")
            solved = self.solved(homes)
            if solved is None:
                continue
            for name, mapping in solved.plans.items():
                if self.simulated(mapping) is None:
                    continue
                candidate = self._candidate(f"{name}_{number}" if number else name, mapping)
                if candidate.estimated is not None:
                    values.append(Optimum(candidate.estimated, solved.bound))
                yield candidate
        if values and not self.fusion and not self._drops_layers:
            best = min(values, key=lambda one: float(self.aim(one.figures)))
            self._optimum = replace(best, bound=min(one.bound for one in values))
        if self.fusion:
            yield from self._fused(step)

    def _fused(self, step: Callable[[str], None]) -> Iterator[Candidate]:
        """Of the cores of each plan so far, the best pieces and tiles."""
        for mapping in [one for one, figures in self._simulated.values() if figures is not None]:
            if self.late:
                return
            step(f"pieces of {mapping.name}")
            space = TileSpace(
                self.soc,
                self.workload,
                self.objective_text,
                mapping,
                max_group=GROUP,
                clock=self.clock,
                targets=self.targets,
            )
            sections = space.optimum_plan(self._until).sections
            fused = mapping_of(sections, space.given, self.workload)
            yield self._candidate(f"{mapping.name}_fused", fused)

    def uniform(self, core: str) -> NetworkMapping | None:
        """All open channels that a core can compute on it; None where it computes none, or they do not fit."""
        layers = {
            layer.name: LayerPlan((Part(core, layer.k),))
            for layer in self.workload
            if layer.name in self.open_layers and core in able(layer, self.soc)
        }
        mapping = replace(self.given, name=f"all_{core}", layers=dict(self.given.layers) | layers)
        try:
            return checked(mapping, self.workload, self.soc) if layers else None
        except InputError:
            return None

    def _candidate(self, name: str, mapping: NetworkMapping, known: bool = True) -> Candidate:
        mapping = replace(mapping, name=name)
        self.simulated(mapping)
        fused = [list(piece.layers) for piece in mapping.pieces]
        return Candidate(name, mapping, self.estimated(mapping), known=known, about={"fused": fused})

    def simulated(self, mapping: NetworkMapping) -> Figures | None:
        """The figures of a whole network; None where the machine cannot run it."""
        key = tuple(mapping.layers[layer.name] for layer in self.workload), mapping.pieces
        if key not in self._simulated:
            try:
                self._simulated[key] = mapping, self._oracle.simulate(mapping)
            except InputError:
                self._simulated[key] = mapping, None
        return self._simulated[key][1]

    def worth(self, mapping: NetworkMapping) -> float:
        """The objective, simulated; inf where the machine cannot run it."""
        figures = self.simulated(mapping)
        return math.inf if figures is None else float(self.aim(figures))

    def _descended(self, step: Callable[[str], None]) -> Iterator[Candidate]:
        """The best so far after moves of one layer, or of a piece, each the first that makes the whole network better,
        simulated; what costs most comes first."""
        best, moved, better = self._best, False, True
        assert best is not None
        least, tries = self.worth(best), self.tries if self.seconds == math.inf else 1 << 30
        step(f"best {least:.6g}")
        while better:
            better = False
            for i in self._by_cost(best):
                for other in self._moves(best, i):
                    if self.late or not tries:
                        break
                    tries -= 1
                    found = self.worth(other)
                    if found < least:
                        best, least, better, moved = other, found, True, True
                        step(f"best {least:.6g}")
                        break
        self._best = best
        if moved:
            yield self._candidate("descent", best, known=False)

    def _by_cost(self, mapping: NetworkMapping) -> list[int]:
        """Layers by what they cost by themselves, the most first."""
        table = self.table(homes_of(self.workload, mapping, self.soc))
        costs = [float(self.objective(_figures(table.cost(i, mapping)))) for i in range(len(self.workload.layers))]
        return sorted(range(len(costs)), key=lambda i: -costs[i])

    def _moves(self, mapping: NetworkMapping, i: int) -> Iterator[NetworkMapping]:
        """What a mapping may become by a step at layer i: another choice of it, or another piece."""
        name = self.workload.layers[i].name
        fused = {layer for piece in mapping.pieces for layer in piece.layers}
        table = self.table(homes_of(self.workload, mapping, self.soc))
        if name not in fused:
            whole = self.simulated(mapping)
            assert whole is not None
            own = table.cost(i, mapping)
            rest = np.array([whole.energy_j - own[0], whole.latency_s - own[1]])
            plans, points = table.near(i, mapping.layers[name])
            energy, seconds = (rest + points).T
            order = np.argsort(value(energy, seconds, self.objective, items=self.workload.n), kind="stable")
            some = [plans[n] for n in order if plans[n] != mapping.layers[name]][:NEAR]
            yield from (replace(mapping, layers=dict(mapping.layers) | {name: plan}) for plan in some)
        if self.fusion:
            yield from self._pieces(mapping, i, table)

    def _pieces(self, mapping: NetworkMapping, i: int, table: ShareTiles) -> Iterator[NetworkMapping]:
        """Other pieces around layer i: none, or a run of layers in one, on the cores that they have or on any one."""
        layers = self.workload.layers
        without = [piece for piece in mapping.pieces if layers[i].name not in piece.layers]
        plain = dict(mapping.layers)
        for piece in mapping.pieces:
            if layers[i].name in piece.layers:
                at = {layer.name: n for n, layer in enumerate(layers)}
                plain |= {name: table.best(at[name], self.objective) for name in piece.layers}
                yield replace(mapping, layers=plain, pieces=tuple(without))
        for first in range(max(0, i - GROUP + 1), i + 1):
            for end in range(max(first + 2, i + 1), min(first + GROUP, len(layers)) + 1):
                names = tuple(layer.name for layer in layers[first:end])
                pieces = tuple(piece for piece in without if not set(piece.layers) & set(names))
                loose = {name for piece in without if piece not in pieces for name in piece.layers} - set(names)
                if loose:
                    continue
                for plans in self._on_one_core(mapping, layers[first:end]):
                    whole = replace(mapping, layers=plain | plans, pieces=pieces)
                    if not fused_problems(Piece(names), self.workload, whole, self.soc):
                        yield replace(whole, pieces=(*pieces, Piece(names)))

    def _on_one_core(self, mapping: NetworkMapping, layers: Sequence[Layer]) -> list[dict[str, LayerPlan]]:
        """Each layer on one core, behind a DMA: the one that it is on, or, core by core, on that if it can."""
        out = list[dict[str, LayerPlan]]()
        for core in (None, *self.soc.cores):
            plans = dict[str, LayerPlan]()
            for layer in layers:
                parts = [part for part in mapping.layers[layer.name].parts if part.channels]
                here = core if core in able(layer, self.soc) and layer.name in self.open_layers else parts[0].core
                plans[layer.name] = LayerPlan((Part(str(here), layer.k),))
            cores = {plan.parts[0].core for plan in plans.values()}
            if plans not in out and not any(self.soc.is_cached(name) for name in cores):
                out.append(plans)
        return out


def _choice(i: int, choice: int) -> Section:
    """A choice of layer i, in place of its section: its number stands where that of a layer would."""
    return Section(choice, ())


def _figures(cost: Floats) -> Figures:
    """J and s of a layer as figures."""
    energy, seconds = (float(x) for x in cost)
    return Figures(seconds, energy, 1, 1 / seconds if seconds else math.inf)
