"""What the stages of a network cost on the devices of a cluster, as tables for a search; or by published profiles.

What a stage costs is `cosoc.sim.stages`'s to say, which simulates it. A search needs it for every pair of cuts on every
device, and takes estimates: the sum of what its layers took in a simulation of the whole network. On a core that keeps
the weights which fit it, a stage is charged for bringing those that do not, which depends on the whole stage. Boards of
one `roofline` core have the exact figures here, too. The stages that a search chooses are priced anew, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from cosoc.search.exact.limit import NO_LIMIT, Limit, OutOfTime
from cosoc.search.exact.split_classes import bounded
from cosoc.search.exact.splits import MOST_STATES, Programme, too_many
from cosoc.search.spaces.splits import Bools, Cuts, Floats, Plan, Problem, cuts_of, nested, no_plan
from cosoc.search.split_devices import states, within
from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import device_soc
from cosoc.sim.files.names import DEFAULT
from cosoc.sim.mapper import usual_runtime
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.cuts import elements, last_layers
from cosoc.sim.model.mapping import LayerPlan, Mapping, Piece, Runtime, Stage
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.units import MOST_BYTES
from cosoc.sim.model.workload import Workload, multiplied
from cosoc.sim.simulate import simulate
from cosoc.sim.stages import (
    NS,
    PJ,
    bytes_needed,
    device_figures,
    lone_roofline,
    message_bytes,
    message_seconds,
    runs_whole,
)
from cosoc.sim.tiler import kept, kept_bytes, weight_bytes, with_parts


@dataclass(frozen=True)
class StageTable:
    """Of one device, for a micro-batch, by stage from cut to cut [N, N] (anything where no stage is): seconds, joules
    above idle, and bytes of weights in the memory for tensors. inf seconds where the mapping fuses layers that the
    stage has a part of. slower_s, slower_j [N, N, W]: of other ways to compute it; None: it has one."""

    seconds: Floats
    joules: Floats
    weight_bytes: Floats
    slower_s: Floats | None = None
    slower_j: Floats | None = None


class DeviceCosts:
    """Estimated costs of the stages of a workload on one device under a mapping."""

    def __init__(self, soc: SoC, workload: Workload, mapping: Mapping) -> None:
        self.soc, self.workload, self.mapping = soc, workload, mapping
        self._layers: dict[int, _Layers] = {}

    def table(self, cuts: Cuts, items: int) -> StageTable:
        """Estimates of all stages, `items` inferences at a time; exact on boards of one roofline core."""
        board = lone_roofline(self.soc)
        if board is None or not runs_whole(self.mapping):
            return self._summed(cuts, items)
        tiles = [make_tile(layer, layer.k, layer.oy, layer.ox) for layer in self.workload]
        cycles = np.array([board.batch_cycles(tile, items, exact) for tile in tiles], dtype=float)
        weights = np.array([board.weight_bytes(tile, exact) for tile in tiles], dtype=float)
        seconds = between(cuts, cycles) / self.soc.tick_hz
        return StageTable(seconds, seconds * board.power_mw * 1e-3, between(cuts, weights))

    def inside(self, cuts: Cuts, begin: int, end: int, way: int, items: int) -> Mapping:
        """What the mapping says of a stage, by its only way."""
        done = cuts.done[end] & ~cuts.done[begin]
        names = {layer.name for layer, here in zip(self.workload, done, strict=True) if here}
        layers = {layer: one for layer, one in self.mapping.layers.items() if layer in names}
        pieces = tuple(piece for piece in self.mapping.pieces if set(piece.layers) <= names)
        return replace(self.mapping, layers=layers, pieces=pieces)

    def _summed(self, cuts: Cuts, items: int) -> StageTable:
        """From simulations of the whole network. Weights that do not stay are brought once for all items."""
        if items not in self._layers:
            self._layers[items] = _simulated(self.soc, multiplied(self.workload, items), self.mapping)
        layers = self._layers[items]
        full = with_parts(self.mapping, self.workload, self.soc)
        leaving = ~_staying(self.soc, self.workload, full, cuts)
        seconds, joules = (
            between(cuts, kept) + np.einsum("ijl,l->ij", leaving, np.maximum(moved - kept, 0.0))
            for kept, moved in ((layers.kept_s, layers.moved_s), (layers.kept_j, layers.moved_j))
        )
        seconds = np.where(_cut_through(self.workload, cuts, self.mapping), np.inf, seconds)
        return StageTable(seconds, joules, self._moving(leaving))

    def weight_bytes(self, cuts: Cuts) -> Floats:
        """[N, N]: bytes of a stage's weights in the memory for tensors: of those that do not stay in a core."""
        return self._moving(~_staying(self.soc, self.workload, with_parts(self.mapping, self.workload, self.soc), cuts))

    def _moving(self, leaving: Bools) -> Floats:
        full = with_parts(self.mapping, self.workload, self.soc)
        weights = [weight_bytes(layer, self.soc, full.layers[layer.name].parts) for layer in self.workload]
        out: Floats = np.einsum("ijl,l->ij", leaving, np.array(weights, dtype=float))
        return out


@dataclass(frozen=True)
class _Layers:
    """Of each layer of a network on a device: seconds and joules above idle where every core that keeps weights has
    room for all (kept) and where none keeps any (moved)."""

    kept_s: Floats
    kept_j: Floats
    moved_s: Floats
    moved_j: Floats


def _simulated(soc: SoC, workload: Workload, mapping: Mapping) -> _Layers:
    kept = moved = _by_layer(_with_room(soc), workload, mapping)
    if any(core.keeps_weights for core in soc.cores.values()):
        moved = _by_layer(_without_keeping(soc), workload, mapping)
    return _Layers(*kept, *moved)


def _cut_through(workload: Workload, cuts: Cuts, mapping: Mapping) -> Bools:
    """[N, N]: whether a stage has some of a piece's layers, but not all."""
    out = np.zeros((len(cuts.done),) * 2, dtype=bool)
    for piece in mapping.pieces:
        members = between(cuts, np.array([layer.name in piece.layers for layer in workload], dtype=float))
        out |= (members > 0) & (members < len(piece.layers))
    return out


def _staying(soc: SoC, workload: Workload, mapping: Mapping, cuts: Cuts) -> Bools:
    """[N, N, layers]: whether a layer's weights stay in its core during a stage, by the simulator's own rule; true for
    layers outside of the stage."""
    n, n_layers = len(cuts.done), len(workload.layers)
    out = np.ones((n, n, n_layers), dtype=bool)
    keeping = [
        (soc.memories[core.weight_memory].capacity_bytes, [kept_bytes(one, mapping, soc, name) for one in workload])
        for name, core in soc.cores.items() if core.keeps_weights and core.weight_memory
    ]  # fmt: skip
    for i, before in enumerate(cuts.done):
        inside = cuts.done & ~before
        out[i] = ~inside
        for room, held in keeping:
            sizes = np.array(held, np.int64)
            out[i] |= inside & (sizes > 0) & kept(np.where(inside, sizes, 0), room)
    return out


def _with_room(soc: SoC) -> SoC:
    """The SoC with room for any weights in the memories of cores that keep theirs."""
    roomy = {core.weight_memory for core in soc.cores.values() if core.keeps_weights and core.weight_memory}
    memories = {
        name: memory.model_copy(update={"size_bytes": MOST_BYTES, "reserved_bytes": 0}) if name in roomy else memory
        for name, memory in soc.memories.items()
    }
    return soc.model_copy(update={"memories": memories})


def _without_keeping(soc: SoC) -> SoC:
    """The SoC with no core that keeps its weights."""
    cores = {name: core.model_copy(update={"keeps_weights": False}) for name, core in soc.cores.items()}
    return soc.model_copy(update={"cores": cores})


def _by_layer(soc: SoC, workload: Workload, mapping: Mapping) -> tuple[Floats, Floats]:
    """Seconds and joules above idle of each layer of a simulated inference."""
    parts = {part.layer: part for part in simulate(soc, workload, mapping).by_layer}
    seconds = np.array([parts[layer.name].seconds_critical if layer.name in parts else 0.0 for layer in workload])
    joules = np.array([parts[layer.name].energy_j if layer.name in parts else 0.0 for layer in workload])
    return seconds, joules - seconds * soc.idle_power_mw * 1e-3


# ---------------------------------------------------------------------------------------------------------------------
# Tensors


def crossing_elements(workload: Workload, cuts: Cuts) -> list[int]:
    """[N]: elements that cross each cut."""
    size = elements(workload)
    return [sum(size[name] for name in names) for names in cuts.crossing]


def between(cuts: Cuts, by_layer: Floats) -> Floats:
    """[N, N]: the sum of a figure over the layers from cut to cut."""
    total = cuts.done.astype(float) @ by_layer
    out: Floats = total[None, :] - total[:, None]
    return out


def _largest_between(cuts: Cuts, by_layer: Floats) -> Floats:
    """[N, N]: the largest figure of a layer from cut to cut."""
    return np.stack([np.where(cuts.done & ~before, by_layer, 0.0).max(axis=1) for before in cuts.done])


# ---------------------------------------------------------------------------------------------------------------------
# The problem


@dataclass(frozen=True)
class Case:
    """A cluster, a workload and the problem that they make. devices: their costs, by name. needs [T, N, N]: bytes that
    a stage takes of its device's memory. left_out: the parts by which the least period, and the least of all figures,
    are above those with the devices that were left out, at most. everyone: with those, and with hops for nothing; None
    where none is left out that a plan could need."""

    cluster: Cluster
    workload: Workload
    cuts: Cuts
    problem: Problem
    devices: MappingOf[str, DeviceCosts]
    needs: Floats
    left_out: tuple[float, float] = (0.0, 0.0)
    everyone: Problem | None = None

    def mapping(self, plan: Plan, name: str = "split") -> Mapping:
        """A plan as a mapping of the cluster."""
        stages, pieces = list[Stage](), list[Piece]()
        layers: dict[str, LayerPlan] = {}
        for stage in plan:
            device = self.problem.types[stage.type]
            inner = self.devices[device].inside(self.cuts, stage.begin, stage.end, stage.way, self.problem.items)
            behind = last_layers(self.workload, self.cuts.cut(stage.end))
            stages.append(Stage(device, behind, stage.replicas))
            layers |= inner.layers
            pieces += inner.pieces
        runtime = next(iter(self.devices.values())).mapping.runtime
        return Mapping(name, runtime, layers, tuple(pieces), tuple(stages), self.problem.items)


@dataclass(frozen=True)
class Factors:
    """What a replay found stages and hops to take, over what was assumed: by (device, cut, cut, way), by (device,
    device, cut), and for the shared medium."""

    stages: MappingOf[tuple[int, int, int, int], float]
    hops: MappingOf[tuple[int, int, int], float]
    medium: float = 1.0


NO_FACTORS = Factors({}, {})


def device_mappings(
    cluster: Cluster, workload: Workload, chosen: MappingOf[str, Mapping] | None = None
) -> dict[str, Mapping]:
    """The mapping inside of each device: the chosen one, or its default. They share a runtime, `overlapped` as soon as
    one of them has it. InputError for a device that is none, or for chosen ones with another runtime."""
    found: dict[str, Mapping] = {}
    chosen = chosen or {}
    for name in chosen:
        if name not in cluster.devices:
            raise InputError(
                f"a mapping for {name}: {cluster.name} has no such device; it has {', '.join(cluster.devices)}"
            )
    defaults: dict[object, Mapping] = {}
    for name, device in cluster.devices.items():
        if name not in chosen and device.kind not in defaults:
            defaults[device.kind] = Mapping(DEFAULT, usual_runtime(device_soc(cluster, name)))
        found[name] = chosen.get(name) or defaults[device.kind]
    together: Runtime = "overlapped" if any(mapping.runtime == "overlapped" for mapping in found.values()) else "serial"
    for name, mapping in chosen.items():
        if mapping.runtime != together:
            raise InputError(
                f"the mapping for {name} is {mapping.runtime}, others are {together}; a cluster has one runtime"
            )
    return {name: replace(mapping, runtime=together) for name, mapping in found.items()}


def device_costs(cluster: Cluster, workload: Workload, mappings: MappingOf[str, Mapping]) -> dict[str, DeviceCosts]:
    """Of each device, whether a plan will use it or not. Entries of one SoC and mapping have them together."""
    made: dict[object, list[DeviceCosts]] = {}
    out = {}
    for name, device in cluster.devices.items():
        known = made.setdefault(device.kind, [])
        mine = next((one for one in known if one.mapping == mappings[name]), None)
        if mine is None:
            mine = DeviceCosts(device_soc(cluster, name), workload, mappings[name])
            known.append(mine)
        out[name] = mine
    return out


def make_case(
    cluster: Cluster,
    workload: Workload,
    items: int = 1,
    branches: bool = True,
    costs: MappingOf[str, DeviceCosts] | None = None,
    cuts: Cuts | None = None,
    most_bytes: float = math.inf,
    limit: Limit = NO_LIMIT,
) -> Case:
    """The problem of splitting a workload over a cluster, `items` inferences at a time. With `branches`, cuts across
    branches are among its cuts. costs: of the devices; by default under their default mappings. cuts: where to cut, in
    place of those. most_bytes: that a stage may take of its device's memory. Of very many devices those are kept that a
    plan can need. limit: after which it is not looked for better ways to see whether a plan can be at all. InputError
    where the memories cannot hold it."""
    cuts = cuts or cuts_of(workload, branches)
    names = tuple(cluster.devices)
    costs = costs or device_costs(cluster, workload, device_mappings(cluster, workload))
    across = crossing_elements(workload, cuts)
    size = elements(workload)
    held = np.array([layer.outputs + sum(size[name] for name in layer.inputs) for layer in workload], dtype=float)
    most_held, sent = _largest_between(cuts, held), np.array(across, dtype=float)
    behind = nested(cuts)
    occupancy, busy, needs, hop_bytes, about = [], [], [], [], []
    slower: list[tuple[Floats, Floats]] = []
    tables = dict[int, StageTable]()
    for name in names:
        device, own = cluster.devices[name], costs[name]
        if id(own) not in tables:  # several entries of one SoC have one
            tables[id(own)] = own.table(cuts, items)
        mine, table = device_figures(own.soc, device.carrier_w), tables[id(own)]
        sizes = np.array([message_bytes(n, items, mine.act_bits) for n in across], dtype=float)
        host = message_seconds(device, sizes)
        host[0] = 0.0
        extra = host[:, None] + np.where(np.arange(len(host)) < len(host) - 1, host, 0.0)[None, :]
        occupancy.append(np.where(behind, table.seconds + extra, np.inf))
        busy.append(np.where(behind, table.joules + extra * mine.busy_w, np.inf))
        if table.slower_s is not None and table.slower_j is not None:
            slower.append((
                np.where(behind[:, :, None], table.slower_s + extra[:, :, None], np.inf),
                np.where(behind[:, :, None], table.slower_j + extra[:, :, None] * mine.busy_w, np.inf),
            ))  # fmt: skip
        else:
            slower.append((np.empty((*behind.shape, 0)), np.empty((*behind.shape, 0))))
        waiting = sent[:, None], sent[None, :]
        needs.append(bytes_needed(table.weight_bytes, most_held, *waiting, mine.act_bits, items, device.queue_items))
        hop_bytes.append(sizes)
        about.append(mine)
    bytes_free = [min(mine.memory_bytes, most_bytes) for mine in about]
    kept, above, everyone = list(range(len(names))), (0.0, 0.0), None
    if _prunable(cluster, len(cuts.names)) and not any(slow.shape[2] for slow, _ in slower):
        kept, above = within(
            np.stack([np.where(held <= free, spent_s, np.inf)[behind]
                      for spent_s, held, free in zip(occupancy, needs, bytes_free, strict=True)]),
            np.stack([np.append(spent_j[behind], mine.idle_w) for spent_j, mine in zip(busy, about, strict=True)]),
            np.stack([np.append(held[behind], -free) for held, free in zip(needs, bytes_free, strict=True)]),
            [(*_links_of(cluster, name), mine.act_bits) for name, mine in zip(names, about, strict=True)],
            [cluster.devices[name].count for name in names],
            min(len(cuts.names) - 1, len(workload.layers)),
        )  # fmt: skip
        if any(above):
            idle_w = np.array([mine.idle_w for mine in about])
            free = np.array(bytes_free, dtype=float)[:, None, None]
            seconds = np.where(np.stack(needs) <= free, np.stack(occupancy), np.inf)
            nothing = np.broadcast_to(0.0, (len(names), len(names), len(cuts.names)))
            counts = tuple(cluster.devices[name].count for name in names)
            everyone = Problem(
                names, counts, idle_w, seconds, np.stack(busy), nothing, nothing, nothing, nothing, items, cuts.names
            )
            whole_j = everyone.busy_j[:, 0, -1] + idle_w * seconds[:, 0, -1]
            kept = sorted({*kept, int(np.argmin(whole_j))})  # who needs least alone
        cluster = _only(cluster, [names[t] for t in kept])
        names = tuple(cluster.devices)
        costs = {name: costs[name] for name in names}
    occupancy, busy, needs, hop_bytes = ([every[t] for t in kept] for every in (occupancy, busy, needs, hop_bytes))
    slower, about, bytes_free = [slower[t] for t in kept], [about[t] for t in kept], [bytes_free[t] for t in kept]
    hops = _hops(cluster, names, np.stack(hop_bytes))
    problem = Problem(
        names,
        tuple(cluster.devices[name].count for name in names),
        np.array([mine.idle_w for mine in about]),
        np.stack(occupancy),
        np.stack(busy),
        *hops,
        items,
        cuts.names,
        *(_stacked([both[i] for both in slower]) for i in (0, 1)),
    )
    problem = _within_memory(problem, np.stack(needs), np.array(bytes_free, dtype=float), limit)
    return Case(cluster, workload, cuts, problem, costs, np.stack(needs), above, everyone)


def _prunable(cluster: Cluster, n_cuts: int) -> bool:
    """Whether devices are too many for stages with replicas, and for all of them to be told apart."""
    return states([device.count for device in cluster.devices.values()], n_cuts) > MOST_STATES


def _links_of(cluster: Cluster, device: str) -> tuple[str, ...]:
    return tuple(name for name, link in cluster.links.items() if device in link.between)


def _only(cluster: Cluster, names: Sequence[str]) -> Cluster:
    """The cluster with some of its devices."""
    there = set(names)
    links = {
        name: link.model_copy(update={"between": tuple(one for one in link.between if one in there)})
        for name, link in cluster.links.items()
    }
    devices = {name: device for name, device in cluster.devices.items() if name in there}
    return cluster.model_copy(update={"devices": devices, "links": links})


def _stacked(tables: Sequence[Floats]) -> Floats | None:
    """[T, N, N, W] of tables [N, N, ways], filled up with inf; None where none has any."""
    most = max(table.shape[2] for table in tables)
    out = [np.pad(table, ((0, 0), (0, 0), (0, most - table.shape[2])), constant_values=np.inf) for table in tables]
    return np.stack(out) if most else None


def _hops(cluster: Cluster, names: Sequence[str], sizes: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """hop_s, hop_j, medium_s, delay_s of `Problem`."""
    shape = (len(names), len(names), sizes.shape[1])
    seconds, joules, medium, delay = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for link in reversed(cluster.links.values()):  # the first that joins two devices is theirs
        there = set(link.between)
        joined = np.array([name in there for name in names])
        mine = np.flatnonzero(joined)
        both = np.ix_(mine, mine)
        held = np.repeat((link.message_ns * NS + sizes[mine] / link.bytes_per_s)[:, None], len(mine), axis=1)
        seconds[both] = held
        joules[both] = (sizes[mine] * link.energy_pj_per_byte * PJ)[:, None]
        delay[both] = held + link.latency_ns * NS
        medium[both] = held if link.shared else 0.0
    return seconds, joules, medium, delay


def _within_memory(problem: Problem, needs: Floats, free: Floats, limit: Limit) -> Problem:
    """The problem without the stages that do not fit; InputError that says by how much, where no plan is left."""

    def limited(more: float) -> Problem:
        fits = needs <= free[:, None, None] + more
        slower = None if problem.slower_s is None else np.where(fits[..., None], problem.slower_s, np.inf)
        return replace(problem, occupancy_s=np.where(fits, problem.occupancy_s, np.inf), slower_s=slower)

    def possible(more: float) -> bool:
        asked = limited(more)
        try:
            if not too_many(problem):
                with suppress(OutOfTime):
                    Programme(asked, limit=limit).least_period()
                    return True
            bounded(asked, enough_s=math.inf)
        except InputError:
            return False
        return True

    if possible(0):
        return limited(0)
    if not possible(float(needs.max())):
        raise no_plan("no chain of devices that links join reaches through the network")
    low, high = 0.0, float(needs.max())
    while high - low > max(1.0, 1e-4 * high):
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    largest = ", ".join(f"{n} x {name} {f / 2**20:.1f} MiB" for name, n, f in
                        zip(problem.types, problem.counts, free, strict=True))  # fmt: skip
    raise no_plan(f"the memories ({largest}) are too small: every device lacks {high / 2**20:.1f} MiB")


# ---------------------------------------------------------------------------------------------------------------------
# Profiles


def profile_problem(
    types: Sequence[str],
    counts: Sequence[int],
    seconds: Floats,
    sizes: Sequence[float],
    bytes_per_s: float,
    items: int = 1,
) -> Problem:
    """The problem of a chain whose layers were measured, as PipeEdge has it: seconds [T, layers] of an item, and the
    bytes of an item at each cut [layers + 1], over one link for all; no energy, no memory."""
    n = seconds.shape[1] + 1
    done = np.concatenate([np.zeros((len(types), 1)), np.cumsum(seconds, axis=1)], axis=1)
    behind = np.triu(np.ones((n, n), dtype=bool), 1)
    occupancy = np.where(behind, done[:, None, :] - done[:, :, None], np.inf)
    hop = np.broadcast_to(np.asarray(sizes, dtype=float) / bytes_per_s, (len(types), len(types), n)).copy()
    return Problem(
        tuple(types),
        tuple(counts),
        np.zeros(len(types)),
        occupancy,
        np.where(behind, 0.0, np.inf) * np.ones((len(types), 1, 1)),
        hop,
        np.zeros_like(hop),
        np.zeros_like(hop),
        hop,
        items,
    )
