"""The cases of `worth.py`: chips, networks, memories and rates; what is chosen in each, and what a choice costs.

A *choice* has one option for every layer that has several: how many channels run on the second core, or which tile it
has. It costs a designer something besides time, which is known without a model and stands in for accuracy: channels in
the coarse format (DIANA), depthwise ones in place of whole convolutions (Darkside, GAP9), channels left on the GPU,
which others want (Xavier), or rows of the scratchpad that a tile fills (Gemmini).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.random import Generator

from cosoc.search.baselines import laws, roofline
from cosoc.search.fit import Floats, Made, fit, made_of, ticks_of
from cosoc.search.spaces import operators
from cosoc.search.spaces.sections import Section, mapping_of
from cosoc.search.spaces.shares import ShareCosts
from cosoc.search.spaces.tiles import LARGEST, TileSpace
from cosoc.search.training.nets import build
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.manual import DEFAULT, named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import Machine, Tiles, rows_needed, shape_of, tile_in_rows
from cosoc.sim.simulate import engine_run
from cosoc.sim.theta import Theta, factors_of
from cosoc.sim.tiler import homes_of, planned_ticks, unsupported
from cosoc.sim.ways import splits

Choice = tuple[int, ...]  # the number of an option, for each layer that has several
Kind = Literal["channels", "operators", "tiles"]

SPLITS = 5  # options of a layer's channels: none, all, and as many steps between
TILES = 8  # of a layer's tiles: the given, the best by the unfitted estimate, and random ones
PRIMING = 24  # random mappings that an estimate is fitted to, as a search does it


@dataclass(frozen=True)
class Case:
    """name: in tables and JSON. kind: what is chosen. pair: the cores between which (first, second). spared: whose
    channels are to be few. set: keys of the SoC's file that are changed. causes: what makes a cost law fail, each as
    keys that switch it off."""

    name: str
    soc: str
    network: str
    kind: Kind = "channels"
    pair: tuple[str, str] = ("digital", "analog")
    spared: str = "analog"
    runtime: Runtime = "overlapped"
    set: MappingOf[str, str] = field(default_factory=dict)
    causes: MappingOf[str, MappingOf[str, str]] = field(default_factory=dict)
    law: bool = False


ENDLESS = str(1 << 30)
WIDE = "4096"
# What the law leaves out, and what it has otherwise than the chip as fitted: an analog array that takes up to eight
# pixels at once, and a digital one that needs no refills and rounds each row of outputs up to 16.
DIANA_CAUSES: dict[str, dict[str, str]] = {
    "spilling": {"memories.l2.size_bytes": ENDLESS},
    "feed": {"links.analog_feed.bytes_per_period": WIDE},
    "transfers": {
        "links.l2_read.bytes_per_period": WIDE, "links.l2_write.bytes_per_period": WIDE,
        "links.weight_port.bytes_per_period": WIDE, "dmas.dma.setup_cycles": "0",
    } | {f"cores.{core}.launch_cycles": "0" for core in ("digital", "analog", "pool", "simd")},
    "unroll": {"cores.analog.ox_unrolls": "[1, 2, 4, 8]"},
    "refills": {"cores.digital.refill_cycles": "0", "cores.digital.block_start_cycles": "0"},
    "packing": {"cores.digital.pack_rows": "false"},
}  # fmt: skip
DARKSIDE_CAUSES: dict[str, dict[str, str]] = {
    "spilling": {"memories.l2.size_bytes": ENDLESS},
    "transfers": {"links.axi.bytes_per_period": WIDE, "dmas.dma.setup_cycles": "0", "dmas.dma.piece_cycles": "0"}
    | {f"cores.{core}.launch_cycles": "0" for core in ("depthwise_engine", "cluster", "tensor")},
    "conflicts": {"links.tcdm.stretch": "[1.0, 1.0, 1.0, 1.0]"},
}

# Cases for which causes are switched off, one by one.
EXPLAINED = (
    "resnet20", "resnet20_serial", "resnet8_l2_64k", "resnet18_64px", "resnet18_64px_off_chip1", "mobilenet_axi2",
)  # fmt: skip


def l2(kilobytes: int) -> dict[str, str]:
    """DIANA with so much L2 for its accelerators; the host has 64 KB of its own besides."""
    return {"memories.l2.size_bytes": str((kilobytes + 64) * 1024)}


def _diana(name: str, network: str, keys: MappingOf[str, str], runtime: Runtime = "overlapped") -> Case:
    causes = DIANA_CAUSES if name in EXPLAINED else {}
    return Case(f"diana_{name}", "diana", network, runtime=runtime, set=keys, causes=causes, law=True)


def _units(soc: str, name: str, keys: MappingOf[str, str]) -> Case:
    pair = ("cluster", "depthwise_engine") if soc == "darkside" else ("ne16", "cluster")
    law = soc == "darkside"
    causes = DARKSIDE_CAUSES if law and name in EXPLAINED else {}
    return Case(f"{soc}_{name}", soc, "mobilenet_v1_025", "operators", pair, pair[1], set=keys, causes=causes, law=law)


def _xavier(name: str, network: str, keys: MappingOf[str, str]) -> Case:
    return Case(f"xavier_{name}", "agx_xavier_dla", network, pair=("gpu", "dla0"), spared="gpu", set=keys)


def _gemmini(name: str, network: str, keys: MappingOf[str, str]) -> Case:
    return Case(f"gemmini_{name}", "gemmini", network, "tiles", set=keys)


FEED = {"links.analog_feed.bytes_per_period": "64"}
CASES = (
    _diana("resnet20", "resnet20", {}),
    _diana("resnet20_serial", "resnet20", {}, "serial"),
    _diana("resnet20_feed64_l2_128k", "resnet20", FEED | l2(128)),
    _diana("resnet20_l2_64k", "resnet20", l2(64)),
    _diana("resnet20_dma4", "resnet20", {f"links.l2_{way}.bytes_per_period": "4" for way in ("read", "write")}),
    _diana("resnet8_l2_64k", "resnet8", l2(64)),
    _diana("resnet8_feed64_l2_64k", "resnet8", FEED | l2(64)),
    _diana("resnet18_64px", "resnet18_64", {}),
    _diana("resnet18_64px_off_chip1", "resnet18_64", {"links.off_chip.bytes_per_period": "1"}),
    _diana("resnet18_64px_l2_1m", "resnet18_64", l2(1024)),
    _units("darkside", "mobilenet", {}),
    _units("darkside", "mobilenet_l2_64k", {"memories.l2.size_bytes": "65536"}),
    _units("darkside", "mobilenet_axi2", {"links.axi.bytes_per_period": "2"}),
    _units("darkside", "mobilenet_off_chip4_l2_64k",
           {"links.off_chip.bytes_per_period": "4", "memories.l2.size_bytes": "65536"}),
    _units("gap9", "mobilenet", {}),
    _units("gap9", "mobilenet_l2_128k", {"memories.l2.size_bytes": "131072"}),
    _xavier("resnet18", "resnet18", {}),
    _xavier("resnet18_emc27", "resnet18", {"links.emc.bytes_per_period": "27"}),
    _gemmini("resnet18_64px", "resnet18_64", {}),
    _gemmini("mobilenet", "mobilenet_v1_cifar", {}),
)  # fmt: skip
QUICK = ("diana_resnet8_l2_64k", "darkside_mobilenet_l2_64k")


class Problem(Protocol):
    """What is chosen in a case. seconds: what each option of each layer costs besides time, and whether a mapping has
    the sum or the largest of them; tables: ticks of each option by the models that add up layers, and of all that has
    no option."""

    soc: SoC
    second: Sequence[Sequence[float]]
    largest: bool
    tables: MappingOf[str, tuple[Sequence[Sequence[float]], float]]

    def simulated(self, choice: Choice) -> int:
        """Simulated ticks."""

    def estimated(self, choices: Sequence[Choice]) -> Floats:
        """Ticks by the estimate, fitted to random mappings."""

    def fitted(self, seed: int) -> None:
        """Fit the estimate."""


def draw(problem: Problem, rng: Generator) -> Choice:
    """A random choice: some lean to the first options, some to the last, and half of the layers are drawn freely."""
    lean = rng.random()
    out = []
    for options in problem.second:
        last = len(options) - 1
        out.append(int(rng.integers(last + 1)) if rng.random() < 0.5 else last * int(rng.random() < lean))
    return tuple(out)


def second(problem: Problem, choice: Choice) -> float:
    """What a choice costs besides time."""
    each = [options[i] for options, i in zip(problem.second, choice, strict=True)]
    return max(each) if problem.largest else sum(each)


def added(problem: Problem, model: str, choice: Choice) -> float:
    """Ticks of a choice by a model that adds up layers."""
    table, rest = problem.tables[model]
    return rest + sum(options[i] for options, i in zip(table, choice, strict=True))


def least(problem: Problem, budget: float, model: str) -> Choice:
    """The choice that is fastest by a model that adds up layers, within a budget: exact where the largest option
    counts; where their sum does, layers are changed while there is room, the most ticks for what they cost first."""
    table, _ = problem.tables[model]
    rows = list(zip(problem.second, table, strict=True))
    if problem.largest:
        inside = [[i for i, cost in enumerate(costs) if cost <= budget] for costs, _ in rows]
        return tuple(min(some, key=lambda i: ticks[i]) for some, (_, ticks) in zip(inside, rows, strict=True))
    choice = [int(np.argmin(costs)) for costs, _ in rows]
    spent = sum(costs[i] for (costs, _), i in zip(rows, choice, strict=True))
    while True:
        moves = [
            ((ticks[at] - ticks[i]) / max(costs[i] - costs[at], 1e-9), layer, i, costs[i] - costs[at])
            for layer, ((costs, ticks), at) in enumerate(zip(rows, choice, strict=True))
            for i in range(len(costs))
            if ticks[i] < ticks[at] and spent + costs[i] - costs[at] <= budget
        ]
        if not moves:
            return tuple(choice)
        _, layer, i, more = max(moves)
        choice[layer], spent = i, spent + more


def problem_of(case: Case, keys: MappingOf[str, str] | None = None) -> Problem:
    """What is chosen in a case; keys: of the SoC's file, changed besides the case's own."""
    soc = find_soc(case.soc, {**case.set, **(keys or {})})
    return TileProblem(case, soc) if case.kind == "tiles" else ShareProblem(case, soc)


def _network(case: Case, soc: SoC) -> tuple[Workload, tuple[str, ...]]:
    """The network, and the layers that have a choice."""
    if case.kind == "operators":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # weights are drawn, and not looked at
            supernet = operators.with_choices(build(case.network, 1, 10), (1, 28, 28), soc, "conv-dw", case.network)
        return supernet.workload, tuple(supernet.pairs)
    workload = find_workload(case.network)
    able = (la.name for la in workload if la.op == "conv" and all(not unsupported(la, soc, core) for core in case.pair))
    return workload, tuple(able)


class ShareProblem:
    """Channels of each layer on the second core of a pair. A `Problem`."""

    largest = False

    def __init__(self, case: Case, soc: SoC) -> None:
        self.case, self.soc = case, soc
        self.workload, self.layers = _network(case, soc)
        self.costs = ShareCosts(self.workload, soc, case.runtime)
        self.options = [_options(self.workload[name], soc, case.pair) for name in self.layers]
        by_second = case.spared == case.pair[1]
        self.second = [
            [float(n if by_second else self.workload[name].k - n) for n in options]
            for name, options in zip(self.layers, self.options, strict=True)
        ]
        self._ticks: dict[Choice, int] = {}
        self.tables = {"roofline": self._table(self._roofline), "alone": self._table(self._alone)}
        if case.law:
            self.tables |= {"law": self._laws()}

    def counts(self, choice: Choice) -> dict[str, dict[str, int]]:
        """Channels on each core of each layer that has a choice; cores without any are left out."""
        out = {}
        for name, options, i in zip(self.layers, self.options, choice, strict=True):
            ks = self.workload[name].k - options[i], options[i]
            out[name] = {core: k for core, k in zip(self.case.pair, ks, strict=True) if k}
        return out

    def simulated(self, choice: Choice) -> int:
        if choice not in self._ticks:
            mapping = self.costs.mapping(self.counts(choice))
            self._ticks[choice] = engine_run("fast")(lower(self.workload, mapping, self.soc), ()).makespan
        return self._ticks[choice]

    def fitted(self, seed: int) -> None:
        self.costs.prime(PRIMING, seed)

    def estimated(self, choices: Sequence[Choice]) -> Floats:
        made = [
            made_of(self.workload, self.costs.mapping(self.counts(one)), self.soc, self.costs.theta) for one in choices
        ]
        return ticks_of(made, self.costs.theta)

    def _table(self, ticks: Callable[[Layer, LayerPlan, Mapping], float]) -> tuple[list[list[float]], float]:
        """A model's ticks of each option, with all layers at that option; and of the rest."""
        table = [[0.0] * len(options) for options in self.options]
        rest = 0.0
        for i in range(SPLITS):
            choice = tuple(min(i, len(options) - 1) for options in self.options)
            mapping = self.costs.mapping(self.counts(choice))
            for row, name in enumerate(self.layers):
                table[row][choice[row]] = ticks(self.workload[name], mapping.layers[name], mapping)
            if i == 0:
                others = (layer for layer in self.workload if layer.name not in self.layers)
                rest = sum(ticks(layer, mapping.layers[layer.name], mapping) for layer in others)
        return table, rest

    def _roofline(self, layer: Layer, plan: LayerPlan, mapping: Mapping) -> float:
        return roofline.layer_ticks(layer, plan, self.soc, self.case.runtime)

    def _alone(self, layer: Layer, plan: LayerPlan, mapping: Mapping) -> float:
        homes = homes_of(self.workload, mapping, self.soc)
        return planned_ticks(layer, plan, self.soc, self.case.runtime, homes)

    def _laws(self) -> tuple[list[list[float]], float]:
        """ODiMO's cycles of each option; layers without a choice cost nothing or the same in all."""
        table = [[0.0] * len(options) for options in self.options]
        numbers = {layer.name: n for n, layer in enumerate(self.workload)}
        for i in range(SPLITS):
            choice = tuple(min(i, len(options) - 1) for options in self.options)
            counts = self.counts(choice)
            soft = {name: {core: torch.tensor(float(k)) for core, k in on.items()} for name, on in counts.items()}
            by_layer = laws.network_estimate(self.workload, soft).by_layer.tolist()
            for row, (name, at) in enumerate(zip(self.layers, choice, strict=True)):
                serial = self.case.kind == "channels" and self.case.runtime == "serial"
                on = [counts[name].get(core, 0) for core in self.case.pair]
                one = laws.layer_cycles(self.workload[name], *on, "serial") if serial else by_layer[numbers[name]]
                table[row][at] = one
        return table, 0.0


def _options(layer: Layer, soc: SoC, pair: tuple[str, str]) -> tuple[int, ...]:
    """Channels on the second core: none, all, and hardware's steps nearest to even parts between."""
    steps = sorted(on_second for _, on_second in splits(layer, soc, pair))
    wanted = (layer.k * i / (SPLITS - 1) for i in range(SPLITS))
    return tuple(sorted({min(steps, key=lambda n: (abs(n - aim), n)) for aim in wanted}))


class TileProblem:
    """Tiles and order of each layer behind caches. A `Problem`."""

    largest = True

    def __init__(self, case: Case, soc: SoC) -> None:
        self.case, self.soc, self.workload = case, soc, find_workload(case.network)
        given = named_mapping(DEFAULT, self.workload, soc, case.runtime)
        self.space = TileSpace(soc, self.workload, "latency", given)
        self.given = self.space.given
        rng = np.random.default_rng(0)
        numbers = range(len(self.workload.layers))
        self.at = tuple(i for i in numbers if self.space.has_choice(i) and self.workload.layers[i].op == "conv")
        self.sections = [self._sections(i, rng) for i in self.at]
        self.rest = [self._given(i) for i in numbers if i not in self.at]
        self.second = [[self._rows(i, one) for one in own] for i, own in zip(self.at, self.sections, strict=True)]
        self._ticks: dict[Choice, int] = {}
        alone = [[self.space.cost(one).seconds * soc.tick_hz for one in own] for own in self.sections]
        self.tables = {"roofline": self._table(), "alone": (alone, 0.0)}

    def _given(self, i: int) -> Section:
        return Section(i, (self.given.layers[self.workload.layers[i].name],))

    def _sections(self, i: int, rng: Generator) -> list[Section]:
        """The given tiles, the fastest by the estimate, and random ones that are simulated in a moment."""
        out, options = [self._given(i)], self.space.options(i, i)
        assert options is not None
        best = np.argsort(options.points[:, 1])[: TILES // 2]
        drawn = rng.permutation(len(options.points))
        for number in (*best, *drawn):
            section = options.section(int(number))
            if len(out) < TILES and section not in out and self.space.tiles_of(section) <= LARGEST // 10:
                out.append(section)
        return out

    def _rows(self, i: int, section: Section) -> float:
        """Rows of the scratchpad that a tile of a layer fills."""
        layer, plan = self.workload.layers[i], section.plan
        machine = Machine.of(self.soc, plan.parts[0].core)
        return float(rows_needed(shape_of(layer), Tiles.of(tile_in_rows(layer, plan.tile)), machine)[0])

    def _table(self) -> tuple[list[list[float]], float]:
        def ticks(section: Section) -> float:
            layer = self.workload.layers[section.first]
            return roofline.layer_ticks(layer, section.plan, self.soc, self.case.runtime)

        return [[ticks(one) for one in own] for own in self.sections], sum(ticks(one) for one in self.rest)

    def _chosen(self, choice: Choice) -> list[Section]:
        return [own[i] for own, i in zip(self.sections, choice, strict=True)]

    def simulated(self, choice: Choice) -> int:
        if choice not in self._ticks:
            mapping = mapping_of(self._chosen(choice), self.given, self.workload)
            program = lower(self.workload, mapping, self.soc)
            seconds = engine_run("fast")(program, ()).makespan / program.tick_hz
            self._ticks[choice] = round(seconds * self.soc.tick_hz)
        return self._ticks[choice]

    def fitted(self, seed: int) -> None:
        rng = np.random.default_rng((seed, 1))
        drawn = [draw(self, rng) for _ in range(PRIMING)]
        ticks = [self.simulated(one) for one in drawn]
        self.theta = fit([self._made(one) for one in drawn], ticks, factors_of(self.soc), Theta())

    def estimated(self, choices: Sequence[Choice]) -> Floats:
        return ticks_of([self._made(one) for one in choices], self.theta)

    def _made(self, choice: Choice) -> Made:
        return sum((self.space.made(one) for one in [*self._chosen(choice), *self.rest]), Made())


__all__ = ["CASES", "QUICK", "Case", "Choice", "Problem", "added", "draw", "least", "problem_of", "second"]
