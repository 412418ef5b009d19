"""Many share vectors of one network at once: drawn, estimated as a table, checked against the simulator.

The estimate of a network is a composition of its layers' terms (`search.terms`). What a layer's terms are depends on
its own shares, on the cores of the layer before, and on where its tensors live: few things, of which a table of many
mappings has each again and again. So each is tiled and priced once, and what is left is to gather terms and to compose
them, for all mappings at once, as tensors on whatever device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosoc.search.fit import Floats
from cosoc.search.oracle import Oracle
from cosoc.search.terms import TERMS, held_weights, network_ticks
from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import Terms, group_terms, stream_ticks
from cosoc.sim.figures import Figures
from cosoc.sim.model.energy import power_energy_j
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.placement import Homes, lifetimes, tensor_bytes
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.progress import Report, untold
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import (
    TilingCache,
    as_stored,
    default_core,
    homes_of,
    living,
    refusals,
    tiled_once,
    weight_bytes,
)
from cosoc.sim.ways import able
from cosoc.sim.work import layer_work

Ints = npt.NDArray[np.int64]
Column = tuple[str, str]  # layer, core
AT_ONCE = 1 << 13  # mappings that are composed in one go: their terms fit the caches of a core


@dataclass(frozen=True)
class Shares:
    """Share vectors. columns: layer and core of each; channels [vectors, columns]. Layers that are not named run on
    their default core. source: the file that they come from, a line each below its head."""

    columns: tuple[Column, ...]
    channels: Ints
    source: str = ""

    def mapping(self, row: int, runtime: Runtime, name: str = "shares") -> Mapping:
        """One of the vectors, without tiles."""
        plans: dict[str, tuple[Part, ...]] = {}
        for (layer, core), k in zip(self.columns, self.channels[row].tolist(), strict=True):
            plans[layer] = plans.get(layer, ()) + ((Part(core, k),) if k else ())
        return Mapping(name, runtime, {layer: LayerPlan(parts) for layer, parts in plans.items()})


@dataclass(frozen=True)
class Table:
    """Estimated figures of share vectors, [vectors] each; NaN where the machine cannot run one. why: of the first of
    these, the reason."""

    latency_s: Floats
    energy_j: Floats
    peak_bytes: Floats
    why: str = ""

    @property
    def none_runs(self) -> bool:
        """Whether the machine can run none of them."""
        return bool(np.isnan(self.latency_s).all())


def columns_of(workload: Workload, soc: SoC) -> tuple[Column, ...]:
    """The layers whose channels several cores can take, the host aside, each with its cores."""
    choices = [(layer, able(layer, soc)) for layer in workload if layer.op == "conv"]
    return tuple((layer.name, core) for layer, cores in choices if len(cores) > 1 for core in cores)


def random_vectors(workload: Workload, soc: SoC, number: int, seed: int) -> Shares:
    """So many share vectors, drawn as `sampling.random_shares` draws those of one network. InputError where no layer
    has a choice."""
    columns, rng = columns_of(workload, soc), np.random.default_rng(seed)
    if not columns:
        raise InputError(f"{workload.name} on {soc.name}: no layer's channels can go to several cores")
    names, parts = list(soc.cores), list[Ints]()
    bias = rng.dirichlet(np.ones(len(names)), number) + 1e-3
    for layer in dict.fromkeys(layer for layer, _ in columns):
        cores, k = [core for name, core in columns if name == layer], workload[layer].k
        weight = bias[:, [names.index(core) for core in cores]]
        weight = weight / weight.sum(axis=1, keepdims=True)
        drawn = rng.standard_gamma(0.2 + 3 * weight) + 1e-300
        ends = np.floor(np.cumsum(drawn / drawn.sum(axis=1, keepdims=True), axis=1) * k + 0.5).astype(np.int64)
        step = min(soc.cores[core].channel_step for core in cores)
        stepped = rng.random((number, 1)) < 0.5
        ends = np.where(stepped, np.minimum(-(-ends // step) * step, k), ends)
        ends[:, -1] = k
        chosen = (rng.random((number, 1)) > np.cumsum(weight, axis=1)[:, :-1]).sum(axis=1)
        alone = k * (np.arange(len(cores)) == chosen[:, None])
        parts.append(np.where(rng.random((number, 1)) < 0.3, alone, np.diff(ends, axis=1, prepend=0)))
    return Shares(columns, np.concatenate(parts, axis=1))


def estimated(
    workload: Workload, soc: SoC, shares: Shares, runtime: Runtime = "overlapped", theta: Theta | None = None,
    device: str = "cpu", progress: Report = untold,
) -> Table:  # fmt: skip
    """The estimate of each share vector, as `terms.network_estimate` has it at whole channels.

    device: of torch, on which terms are composed. InputError for shares that are none: a layer or core that is not
    there or cannot, sums that are not the layer's channels.
    """
    check(workload, soc, shares)
    return _Tables(workload, soc, shares, runtime, theta or Theta(), torch.device(device), progress).table()


def check_device(device: str) -> None:
    """InputError for a device of torch that is not there."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split(chr(10), maxsplit=1)[0]
        raise InputError(f"device {device}: {reason}; without one, take cpu") from None


def check(workload: Workload, soc: SoC, shares: Shares) -> None:
    """InputError where shares are none of this network on this SoC, by the first vector that is not."""
    layers = {layer.name: layer for layer in workload}
    for i, (name, core) in enumerate(shares.columns):
        where = f"{shares.source}:1:{i + 1}: {name}:{core}" if shares.source else f"{name}:{core}"
        if name not in layers:
            raise InputError(f"{where}: {workload.name} has no layer {name}")
        if core not in soc.cores:
            raise InputError(f"{where}: {soc.name} has no core {core}; it has {', '.join(soc.cores)}")
        if (name, core) in shares.columns[:i]:
            raise InputError(f"{where}: stands in two columns")
        if reasons := refusals(layers[name], Part(core, layers[name].k), soc):
            raise InputError(f"{where}: {'; '.join(reasons)}")
    for name in dict.fromkeys(name for name, _ in shares.columns):
        mine = shares.channels[:, [layer == name for layer, _ in shares.columns]]
        wrong = np.flatnonzero((mine.sum(axis=1) != layers[name].k) | (mine < 0).any(axis=1))
        if len(wrong):
            found = " + ".join(map(str, mine[wrong[0]].tolist()))
            where = f"{shares.source}:{wrong[0] + 2}" if shares.source else f"vector {wrong[0] + 1}"
            raise InputError(f"{where}: {name} has {layers[name].k} output channels, the shares are {found}")


class _Tables:
    """A table in the making. choices: of each layer, the distinct plans without tiles; chosen [vectors]: which of them
    each vector has."""

    def __init__(
        self, workload: Workload, soc: SoC, shares: Shares, runtime: Runtime, theta: Theta, device: torch.device,
        progress: Report,
    ) -> None:  # fmt: skip
        self.workload, self.soc, self.shares, self.runtime = workload, soc, shares, runtime
        self.theta, self.device, self.progress = theta, device, progress
        self.n = len(shares.channels)
        self.figures = np.full((3, self.n), np.nan)
        self.why = ""
        self.cache = TilingCache()
        self.choices: dict[str, list[LayerPlan]] = {}
        self.chosen: dict[str, Ints] = {}
        for layer in workload:
            mine = [i for i, (name, _) in enumerate(shares.columns) if name == layer.name]
            if not mine:
                parts: list[tuple[Part, ...]] = [(Part(default_core(layer, soc), layer.k),)]
                at = np.zeros(self.n, np.int64)
            else:
                cores = [shares.columns[i][1] for i in mine]
                rows, at = np.unique(shares.channels[:, mine], axis=0, return_inverse=True)
                parts = [tuple(Part(core, k) for core, k in zip(cores, row, strict=True) if k) for row in rows.tolist()]
            self.choices[layer.name] = [as_stored(layer, LayerPlan(own), soc) for own in parts]
            self.chosen[layer.name] = at.reshape(-1)

    def mapping(self, row: int) -> Mapping:
        plans = {name: own[self.chosen[name][row]] for name, own in self.choices.items()}
        return Mapping("shares", self.runtime, plans)

    def table(self) -> Table:
        done = 0
        for homes, alive, rows in self.placements():
            self.price(homes, alive, rows, done)
            done += len(rows)
        latency_s, energy_j, peak_bytes = self.figures
        return Table(latency_s, energy_j, peak_bytes, self.why)

    # ------------------------------------------------------------------------------------------ where tensors live

    def placements(self) -> Iterator[tuple[Homes, Workload, Ints]]:
        """Groups of vectors whose tensors live in the same places: the homes, the layers that run, and the vectors.

        Homes depend on which cores have channels, where forms of layers, weights that stay or tiles in the main memory
        do, and on the bytes of all weights, of which more never bring a tensor closer: so within each group the
        vectors are halved until all of a part, in order of their bytes, have the homes of its ends.
        """
        cores = [self.soc.cores[name] for name in {core for _, core in self.shares.columns}]
        by_cores = any(layer.alternative is not None for layer in self.workload) or any(
            core.keeps_weights or core.memory == self.soc.main_memory for core in cores
        )
        present = self.shares.channels > 0 if by_cores else np.zeros((self.n, 1), bool)
        _, group = np.unique(present, axis=0, return_inverse=True)
        group = group.reshape(-1)
        order = np.argsort(group, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            yield from self.halved(rows)

    def halved(self, rows: Ints) -> Iterator[tuple[Homes, Workload, Ints]]:
        first = self.mapping(int(rows[0]))
        alive = living(self.workload, first, self.soc)
        moving = [layer.name for layer in alive]
        total = np.zeros(self.n, np.int64)
        for name in moving:
            layer = self.workload[name]
            total += np.array([weight_bytes(layer, self.soc, own.parts) for own in self.choices[name]])[
                self.chosen[name]
            ]
        rows = rows[np.argsort(total[rows], kind="stable")]
        parts = [(rows, self.homes(int(rows[0])), self.homes(int(rows[-1])))]
        while parts:
            some, low, high = parts.pop()
            if _same(low, high) or len(some) == 1:
                if low is not None:
                    yield low, alive, some
                continue
            half = len(some) // 2
            parts += [
                (some[half:], self.homes(int(some[half])), high), (some[:half], low, self.homes(int(some[half - 1])))
            ]  # fmt: skip

    def homes(self, row: int) -> Homes | None:
        try:
            return homes_of(self.workload, self.mapping(row), self.soc)
        except InputError as error:
            self.why = self.why or str(error)
            return None

    # ------------------------------------------------------------------------------------------ terms

    def price(self, homes: Homes, alive: Workload, rows: Ints, done: int) -> None:
        """Fill in the figures of vectors with the same homes."""
        layers = [self.workload[layer.name] for layer in alive]
        memories = list(dict.fromkeys(core.weight_memory for core in self.soc.cores.values() if core.weight_memory))
        at = np.zeros((len(layers), len(rows)), np.int64)  # of each layer and vector, the row of the layer's terms
        held = np.zeros((2, len(layers), len(rows), len(memories)), np.int64)  # bytes of first and last weights
        tables, sets = list[Tensor](), list[frozenset[str]]()
        before = np.full(len(rows), -1)  # which of the sets of cores the layer before runs on
        weights, possible = np.zeros(len(rows), np.int64), np.ones(len(rows), bool)
        for i, layer in enumerate(layers):
            self.progress(done + len(rows) * i // (len(layers) + 1), self.n, f"terms of {layer.name}")
            chosen, given = self.chosen[layer.name][rows], self.choices[layer.name]
            plans = {int(choice): self.plan(layer, given[choice], homes) for choice in np.unique(chosen)}
            possible &= np.array([plans.get(choice) is not None for choice in range(len(given))])[chosen]
            pairs, which = np.unique(np.stack([chosen, before]), axis=1, return_inverse=True)
            at[i] = which.reshape(-1)
            tables.append(self.terms(layer, plans, homes, [(c, sets[n] if n >= 0 else None) for c, n in pairs.T]))
            sizes = np.zeros((2, len(given), len(memories)), np.int64)
            for choice, plan in plans.items():
                for side, held_bytes in enumerate(held_weights(layer, self.soc, plan) if plan else ()):
                    sizes[side, choice] = [held_bytes.get(memory, 0) for memory in memories]
            held[:, i] = sizes[:, chosen]
            if layer.name not in homes.pinned:
                weights += np.array([weight_bytes(layer, self.soc, own.parts) for own in given])[chosen]
            cores = [frozenset(part.core for part in own.parts if part.channels) for own in given]
            sets += [one for one in dict.fromkeys(cores) if one not in sets]
            before = np.array([sets.index(one) for one in cores])[chosen]
        peak = weights * homes.weights_in_main + homes.stream_bytes + self.tensors(homes, alive)
        capacity = np.array([self.soc.memories[memory].capacity_bytes for memory in memories], np.int64)
        room = np.zeros(at.shape, bool)
        room[1:] = ((held[0, 1:] == 0) | (held[0, 1:] + held[1, :-1] <= capacity)).all(axis=2)
        self.progress(done + len(rows) * len(layers) // (len(layers) + 1), self.n, "composing terms")
        ahead, handed = stream_ticks(homes, self.soc), self.handed(alive, rows)
        for some in np.array_split(np.flatnonzero(possible), -(-int(possible.sum()) // AT_ONCE) or 1):
            waits = {core: ticks[some] for core, ticks in handed.items()}
            seconds, joules = self.composed(at[:, some], tables, room[:, some], ahead, waits)
            self.figures[:, rows[some]] = seconds, joules, peak[some]

    def plan(self, layer: Layer, given: LayerPlan, homes: Homes) -> LayerPlan | None:
        try:
            return tiled_once(layer, given, self.soc, self.runtime, homes, self.cache)
        except InputError as error:
            self.why = self.why or str(error)
            return None

    def terms(
        self, layer: Layer, plans: dict[int, LayerPlan | None], homes: Homes,
        pairs: Sequence[tuple[int, frozenset[str] | None]],
    ) -> Tensor:  # fmt: skip
        """[pairs, TERMS] of pairs of a plan and the cores of the layer before; 0 where there is no plan."""
        works = {}
        for choice, plan in plans.items():
            if plan is not None:
                shares = [(part.core, part.channels) for part in plan.parts]
                works[choice] = layer_work(layer, self.soc, shares, plan, homes, exact, self.theta)
        out = np.zeros((len(pairs), len(TERMS)))
        for row, (choice, before) in enumerate(pairs):
            if choice in works:
                terms, _ = group_terms(((layer, works[choice]),), self.soc, homes, exact, before)
                out[row] = [float(getattr(terms, name)) for name in TERMS]
        return torch.from_numpy(out).to(self.device)

    def handed(self, alive: Workload, rows: Ints) -> dict[str, Ints]:
        """Ticks for which each core hands over what it made, of vectors [rows]: by the rule of
        `placement.handovers`, for all of them at once."""
        out = {name: np.zeros(len(rows), np.int64) for name, core in self.soc.cores.items() if core.handover}
        done: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}
        for layer in alive if out else ():
            for tensor in (name for name in layer.reads if name in self.choices):
                for core in out:
                    others = [name for name in self.soc.cores if name != core]
                    known = done.get((tensor, core), np.zeros(len(rows), bool))
                    now = self.present(tensor, [core], rows) & self.present(layer.name, others, rows) & ~known
                    out[core] += now * self.soc.cores[core].handover
                    done[tensor, core] = known | now
        return out

    def present(self, layer: str, cores: Sequence[str], rows: Ints) -> npt.NDArray[np.bool_]:
        """Whether one of the cores has channels of a layer, of vectors [rows]."""
        has = [any(part.core in cores and part.channels for part in own.parts) for own in self.choices[layer]]
        return np.array(has)[self.chosen[layer][rows]]

    def tensors(self, homes: Homes, alive: Workload) -> int:
        """Bytes of tensors in the main memory at its fullest."""
        here = [span for name, span in lifetimes(alive).items() if homes.tensors[name] == homes.main]
        names = [name for name in lifetimes(alive) if homes.tensors[name] == homes.main]
        sizes = [tensor_bytes(self.workload, name) for name in names]
        steps = range(len(alive.layers))
        return max((sum(n for n, (a, b) in zip(sizes, here, strict=True) if a <= i <= b) for i in steps), default=0)

    def composed(
        self, at: Ints, tables: Sequence[Tensor], room: npt.NDArray[np.bool_], ahead: int, handed: dict[str, Ints]
    ) -> tuple[Floats, Floats]:
        """Seconds and joules of vectors whose layers have these rows of the tables: [layers, vectors]. handed: ticks
        for which cores hand over, [vectors] each."""
        rows = torch.from_numpy(at).to(self.device)
        each = torch.stack([table[index] for table, index in zip(tables, rows, strict=True)])
        terms = Terms(*each.unbind(2))
        there = torch.from_numpy(room.astype(np.float64)).to(self.device)
        ticks = network_ticks(terms, there, ahead, self.runtime, self.theta).sum(0)
        waits = {core: torch.from_numpy(own).double().to(self.device) for core, own in handed.items()}
        ticks = ticks + sum(waits.values())
        joules = power_energy_j(self.soc, ticks, waits) + terms.unit_j.sum(0)
        return (ticks / self.soc.tick_hz).cpu().numpy(), joules.cpu().numpy()


def _same(one: Homes | None, other: Homes | None) -> bool:
    """Whether tiles and terms are the same in two placements. Room in the main memory is asked for where something lies
    elsewhere."""
    if one is None or other is None:
        return one is other
    return replace(one, room={}) == replace(other, room={}) and (one.weights_in_main or one.room == other.room)


@dataclass(frozen=True)
class Check:
    """Estimates against simulations of the same vectors: how many; mean and largest relative error of the latency; mean
    of the energy's; rank correlation of the latencies (NaN of fewer than three)."""

    vectors: int
    latency_mape: float
    latency_worst: float
    energy_mape: float
    spearman: float


def checked_on(
    workload: Workload, soc: SoC, shares: Shares, table: Table, number: int, runtime: Runtime, seed: int,
    progress: Report = untold,
) -> Check:  # fmt: skip
    """Simulate so many of the vectors, drawn among those that can run, and hold the table against it."""
    from scipy import stats

    can = np.flatnonzero(~np.isnan(table.latency_s))
    rng = np.random.default_rng(seed)
    rows = rng.choice(can, min(number, len(can)), replace=False)
    oracle, found = Oracle(soc, workload), list[Figures]()
    for i, row in enumerate(rows.tolist()):
        progress(i, len(rows), "simulating a sample")
        found.append(oracle.simulate(shares.mapping(row, runtime)))
    progress(len(rows), len(rows), "simulating a sample")
    seconds, joules = np.array([[one.latency_s, one.energy_j] for one in found]).reshape(-1, 2).T
    late, energy = np.abs(table.latency_s[rows] / seconds - 1), np.abs(table.energy_j[rows] / joules - 1)
    rank = float(stats.spearmanr(table.latency_s[rows], seconds)[0]) if len(rows) > 2 else float("nan")
    return Check(len(rows), float(late.mean()), float(late.max()), float(energy.mean()), rank)
