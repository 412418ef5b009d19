"""What the stages of a network cost on the devices of a cluster: from SoC files, or from published profiles.

A device's layers follow one another, so a stage's time is the sum of its layers'. On a `roofline` core they come from
the core's own formula, which also says what a micro-batch saves (one start of each kernel, weights read once); other
SoCs are simulated, and a micro-batch is its items one after the other. Where a core keeps the weights that fit it, a
stage is charged for bringing those that do not, which depends on the whole stage.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosoc.search.exact.splits import bounded, least_period, too_many
from cosoc.search.spaces.splits import Bools, Cuts, Floats, Problem, cuts_of, nested, no_plan
from cosoc.sim import exact
from cosoc.sim.cores.roofline import Roofline
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import device_soc
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import LARGEST, SoC
from cosoc.sim.model.workload import INPUT, Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import complete, pinned_weights, weight_bytes
from cosoc.sim.work import make_tile

NS = 1e-9
PJ = 1e-12


@dataclass(frozen=True)
class StageCosts:
    """Of one device, for a micro-batch, by stage from cut to cut [N, N] (anything where no stage is): seconds, joules
    above idle, and bytes of weights in the memory for tensors. act_bits: of an activation. idle_w, busy_w: drawn
    always, and on top while the host works. memory_bytes: of the memory for tensors, the backing one included."""

    seconds: Floats
    joules: Floats
    weight_bytes: Floats
    act_bits: int
    idle_w: float
    busy_w: float
    memory_bytes: int


def stage_costs(soc: SoC, workload: Workload, cuts: Cuts, items: int = 1) -> StageCosts:
    """What every stage costs on a SoC, `items` inferences at a time."""
    host = soc.cores[soc.host]
    memory = soc.memories[soc.main_memory].capacity_bytes
    if isinstance(host, Roofline) and len(soc.cores) == 1:
        tiles = [make_tile(layer, layer.k, layer.oy, layer.ox) for layer in workload]
        by_layer = np.array([host.batch_cycles(tile, items, exact) for tile in tiles], dtype=float) / soc.tick_hz
        weights = between(cuts, np.array([host.weight_bytes(tile, exact) for tile in tiles], dtype=float))
        bits = host.runtimes[host.runtime].number_bits
        seconds = between(cuts, by_layer)
        joules = seconds * host.power_mw * 1e-3
    else:
        seconds, joules, weights = _simulated(soc, workload, cuts, items)
        bits = max(core.act_bits for core in soc.cores.values())
        memory += soc.memories[soc.backing_memory].capacity_bytes if soc.backing_memory else 0
    return StageCosts(seconds, joules, weights, bits, soc.base_power_mw * 1e-3, host.power_mw * 1e-3, memory)


def _simulated(soc: SoC, workload: Workload, cuts: Cuts, items: int) -> tuple[Floats, Floats, Floats]:
    """Seconds, joules and bytes of weights by stage, from simulations of the whole network: one in which every core
    that keeps weights has room for all, one in which none does. A stage then has those of its layers' that stay. What
    follows one another for each item are the layers; weights that do not stay are brought once for all items."""
    kept_s, kept_j = _by_layer(_with_room(soc), workload)
    mapping = complete(named_mapping("default", workload, soc), workload, soc)
    weights = np.array([weight_bytes(layer, soc, mapping.layers[layer.name].parts) for layer in workload], dtype=float)
    seconds, joules = items * between(cuts, kept_s), items * between(cuts, kept_j)
    if not any(core.keeps_weights for core in soc.cores.values()):
        return seconds, joules, between(cuts, weights)
    moved_s, moved_j = _by_layer(_without_keeping(soc), workload)
    staying = _staying(soc, workload, mapping, cuts)
    for total, moved, kept in ((seconds, moved_s, kept_s), (joules, moved_j, kept_j)):
        total += np.einsum("ijl,l->ij", ~staying, np.maximum(moved - kept, 0.0))
    return seconds, joules, np.einsum("ijl,l->ij", ~staying, weights)


def _staying(soc: SoC, workload: Workload, mapping: Mapping, cuts: Cuts) -> Bools:
    """[N, N, layers]: whether a layer's weights stay in its core during a stage, by the simulator's own rule; true for
    layers outside of the stage."""
    n, layers = len(cuts.done), np.array(workload.layers, dtype=object)
    out = np.ones((n, n, len(layers)), dtype=bool)
    index = {layer.name: i for i, layer in enumerate(workload)}
    for i, j in np.argwhere(nested(cuts)).tolist():
        inside = cuts.done[j] & ~cuts.done[i]
        part = replace(workload, layers=tuple(layers[inside]))
        out[i, j, inside] = False
        out[i, j, [index[name] for name in pinned_weights(part, mapping, soc)]] = True
    return out


def _with_room(soc: SoC) -> SoC:
    """The SoC with room for any weights in the memories of cores that keep theirs."""
    roomy = {core.weight_memory: LARGEST for core in soc.cores.values() if core.keeps_weights and core.weight_memory}
    memories = {
        name: memory.model_copy(update={"size_bytes": roomy[name], "usable_bytes": None}) if name in roomy else memory
        for name, memory in soc.memories.items()
    }
    return soc.model_copy(update={"memories": memories})


def _without_keeping(soc: SoC) -> SoC:
    """The SoC with no core that keeps its weights."""
    cores = {name: core.model_copy(update={"keeps_weights": False}) for name, core in soc.cores.items()}
    return soc.model_copy(update={"cores": cores})


def _by_layer(soc: SoC, workload: Workload) -> tuple[Floats, Floats]:
    """Seconds and joules above idle of each layer of a simulated inference."""
    result = simulate(soc, workload, named_mapping("default", workload, soc))
    parts = {part.layer: part for part in result.by_layer}
    ticks = np.array([parts[layer.name].ticks_critical if layer.name in parts else 0 for layer in workload])
    joules = np.array([parts[layer.name].energy_j if layer.name in parts else 0.0 for layer in workload])
    seconds = ticks / soc.tick_hz
    return seconds, joules - seconds * soc.base_power_mw * 1e-3


# ---------------------------------------------------------------------------------------------------------------------
# Tensors


def elements(workload: Workload) -> dict[str, int]:
    """Elements of every tensor that can cross a cut."""
    c, y, x = workload.input_shape
    return {INPUT: c * y * x} | {layer.name: layer.outputs for layer in workload}


def crossing_elements(workload: Workload, cuts: Cuts) -> Floats:
    """[N]: elements that cross each cut."""
    size = elements(workload)
    return np.array([sum(size[name] for name in names) for names in cuts.crossing], dtype=float)


def between(cuts: Cuts, by_layer: Floats) -> Floats:
    """[N, N]: the sum of a figure over the layers from cut to cut."""
    total = cuts.done.astype(float) @ by_layer
    out: Floats = total[None, :] - total[:, None]
    return out


def _largest_between(cuts: Cuts, by_layer: Floats) -> Floats:
    """[N, N]: the largest figure of a layer from cut to cut."""
    return np.stack([np.where(cuts.done & ~before, by_layer, 0.0).max(axis=1) for before in cuts.done])


def memory_needs(workload: Workload, cuts: Cuts, costs: StageCosts, items: int, queue_items: int) -> Floats:
    """[N, N]: bytes that a stage from cut to cut needs: weights, the largest layer's inputs and outputs, items that
    wait at its input, and one at its output."""
    size = elements(workload)
    held = np.array([layer.outputs + sum(size[name] for name in layer.inputs) for layer in workload], dtype=float)
    crossing = crossing_elements(workload, cuts)
    waiting = queue_items * crossing[:, None] + crossing[None, :]
    activations = (_largest_between(cuts, held) + waiting) * costs.act_bits / 8 * items
    out: Floats = costs.weight_bytes + activations
    return out


# ---------------------------------------------------------------------------------------------------------------------
# The problem


@dataclass(frozen=True)
class Case:
    """A cluster, a workload and the problem that they make. socs: by device. costs: by device. hop_bytes [T, N]: bytes
    of an item at a cut, in a sender's format."""

    cluster: Cluster
    workload: Workload
    cuts: Cuts
    problem: Problem
    socs: dict[str, SoC]
    costs: dict[str, StageCosts]
    hop_bytes: Floats


@dataclass(frozen=True)
class Factors:
    """What a replay found stages and hops to take, over what was assumed: by (device, cut, cut), by (device, device,
    cut), and for the shared medium."""

    stages: MappingOf[tuple[int, int, int], float]
    hops: MappingOf[tuple[int, int, int], float]
    medium: float = 1.0


NO_FACTORS = Factors({}, {})


def make_case(cluster: Cluster, workload: Workload, items: int = 1, branches: bool = True) -> Case:
    """The problem of splitting a workload over a cluster, `items` inferences at a time. With `branches`, cuts across
    branches are among its cuts. InputError where the memories cannot hold it."""
    cuts = cuts_of(workload, branches)
    names = tuple(cluster.devices)
    socs = {name: device_soc(cluster, name) for name in names}
    costs = {name: stage_costs(socs[name], workload, cuts, items) for name in names}
    sent = crossing_elements(workload, cuts) * items
    hop_bytes = np.stack([np.ceil(sent * costs[name].act_bits / 8) for name in names])
    behind = nested(cuts)
    occupancy, busy, needs = [], [], []
    for t, name in enumerate(names):
        device, mine = cluster.devices[name], costs[name]
        host = host_seconds(cluster, name, hop_bytes[t])
        extra = host[:, None] + np.where(np.arange(len(host)) < len(host) - 1, host, 0.0)[None, :]
        occupancy.append(np.where(behind, mine.seconds + extra, np.inf))
        busy.append(np.where(behind, mine.joules + extra * mine.busy_w, np.inf))
        needs.append(memory_needs(workload, cuts, mine, items, device.queue_items))
    hops = _hops(cluster, names, hop_bytes)
    problem = Problem(
        names,
        tuple(cluster.devices[name].count for name in names),
        np.array([costs[name].idle_w for name in names]),
        np.stack(occupancy),
        np.stack(busy),
        *hops,
        items,
        cuts.names,
    )
    free = np.array([costs[name].memory_bytes for name in names], dtype=float)
    problem = _within_memory(problem, np.stack(needs), free)
    return Case(cluster, workload, cuts, problem, socs, costs, hop_bytes)


def host_seconds(cluster: Cluster, name: str, sizes: Floats) -> Floats:
    """[N]: what a device's processor spends on a message of so many bytes; nothing at cut 0."""
    device = cluster.devices[name]
    copies = sizes / device.copy_bytes_per_s if device.copy_bytes_per_s else np.zeros(len(sizes))
    out: Floats = device.message_ns * NS + copies
    out[0] = 0.0
    return out


def _hops(cluster: Cluster, names: Sequence[str], sizes: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """hop_s, hop_j, medium_s, delay_s of `Problem`."""
    shape = (len(names), len(names), sizes.shape[1])
    seconds, joules, medium, delay = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for a, sender in enumerate(names):
        for b, receiver in enumerate(names):
            found = cluster.joins(sender, receiver)
            if found is None:
                continue
            link = cluster.links[found]
            seconds[a, b] = link.message_ns * NS + sizes[a] / link.bytes_per_s
            joules[a, b] = sizes[a] * link.energy_pj_per_byte * PJ
            delay[a, b] = seconds[a, b] + link.latency_ns * NS
            medium[a, b] = seconds[a, b] if link.shared else 0.0
    return seconds, joules, medium, delay


def _within_memory(problem: Problem, needs: Floats, free: Floats) -> Problem:
    """The problem without the stages that do not fit; InputError that says by how much, where no plan is left."""

    def limited(more: float) -> Problem:
        fits = needs <= free[:, None, None] + more
        return replace(problem, occupancy_s=np.where(fits, problem.occupancy_s, np.inf))

    def possible(more: float) -> bool:
        try:
            (bounded if too_many(problem) else least_period)(limited(more))
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
