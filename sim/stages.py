"""What the stages of a pipeline cost on the devices of a cluster, and why a mapping over a cluster cannot be.

A stage is the layers between two cuts of the network (`model.cuts`), simulated under the mapping on its device's SoC as
a network of its own: tensors of other stages come from outside, what others need leaves. A micro-batch is a batch: each
layer runs for all its inferences, weights come once. On a board of one `roofline` core, whose kernels are in sequence,
layers that are not cut into tiles cost what the core's formula says, which is what the engines find.

To that comes what the device's processor spends on messages. A stage must fit its device: weights, its largest layer's
inputs and outputs, items that wait at its input, and one at its output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from cosoc.sim import exact
from cosoc.sim.cores.roofline import Roofline
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import device_soc
from cosoc.sim.files.mending import Place
from cosoc.sim.lower.emit import lowered
from cosoc.sim.lower.pipeline import TICK_HZ, PipelineHop, PipelineStage
from cosoc.sim.machine.trace import Run
from cosoc.sim.model.cluster import Cluster, Device
from cosoc.sim.model.cuts import Done, crossing, done_behind, elements, last_layers, section
from cosoc.sim.model.mapping import Mapping, Stage
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import Workload, multiplied
from cosoc.sim.price import time_and_energy
from cosoc.sim.tiler import (
    Problem,
    TilingCache,
    default_core,
    pinned_weights,
    placed,
    problems,
    stored_bytes,
    weight_bytes,
    with_parts,
)

NS = 1e-9
PJ = 1e-12
NAMED = 4  # layers that a message names


# ---------------------------------------------------------------------------------------------------------------------
# Devices


@dataclass(frozen=True)
class DeviceFigures:
    """Of a device, whatever it computes. act_bits: of an activation in memory and on links. idle_w, busy_w: drawn
    always, and on top while its host works. memory_bytes: of the memory for tensors, the backing one included."""

    act_bits: int
    idle_w: float
    busy_w: float
    memory_bytes: int


def lone_roofline(soc: SoC) -> Roofline | None:
    """The core of a CPU or GPU board, whose kernels follow one another."""
    host = soc.cores[soc.host]
    return host if isinstance(host, Roofline) and len(soc.cores) == 1 else None


def device_figures(soc: SoC, carrier_w: float = 0.0) -> DeviceFigures:
    """What is known of a device, on a board that draws so much, before it has work."""
    board = lone_roofline(soc)
    bits = max(core.act_bits for core in soc.cores.values())
    if board is not None:
        bits = board.runtimes[board.runtime].number_bits
    memory = soc.memories[soc.main_memory].capacity_bytes
    if board is None and soc.backing_memory:
        memory += soc.memories[soc.backing_memory].capacity_bytes
    return DeviceFigures(bits, soc.idle_power_mw * 1e-3 + carrier_w, soc.cores[soc.host].power_mw * 1e-3, memory)


def elements_across(workload: Workload, cut: Done) -> int:
    """Elements of all tensors that cross a cut."""
    size = elements(workload)
    return sum(size[name] for name in crossing(workload, cut))


def message_seconds(device: Device, size_bytes: Any) -> Any:
    """What a device's processor spends on a message of so many bytes (a number or an array)."""
    copies = size_bytes / device.copy_bytes_per_s if device.copy_bytes_per_s else 0.0 * size_bytes
    return device.message_ns * NS + copies


def message_bytes(crossing_elements: int, items: int, act_bits: int) -> int:
    """Bytes of a message with what crosses a cut, for so many items in a sender's format."""
    return -(-crossing_elements * items * act_bits // 8)


def bytes_needed(weights: Any, held: Any, received: Any, sent: Any, act_bits: int, items: int, queue_items: int) -> Any:
    """Bytes that a stage takes of its device's memory: weights (bytes), the largest layer's inputs and outputs, items
    that wait at its input and one at its output (elements); numbers or arrays."""
    return weights + (held + queue_items * received + sent) * act_bits / 8 * items


# ---------------------------------------------------------------------------------------------------------------------
# What a stage costs


@dataclass(frozen=True)
class StageCost:
    """Of a micro-batch on one device, messages aside: seconds, and joules above idle."""

    seconds: float
    joules: float


# A stage on some SoC: cut, later cut, inferences together, what the mapping says inside.
Asked = tuple[Done, Done, int, str]


@dataclass
class Prices:
    """What is known of one SoC, so that it is found out once: what stages cost that it can run, and the tiles that were
    chosen for their layers."""

    costs: dict[Asked, StageCost] = field(default_factory=dict)
    tilings: TilingCache = field(default_factory=TilingCache)


def asked(before: Done, done: Done, items: int, inside: Mapping) -> Asked:
    """By what the cost of a stage is known; inside: what a mapping says of it."""
    return before, done, items, repr((inside.runtime, inside.layers, inside.pieces))


class Pricer:
    """Prices stages of a workload on one SoC under a mapping: each is simulated once, however often it is asked for.
    known: prices that pricers of the same SoC share."""

    def __init__(self, soc: SoC, workload: Workload, mapping: Mapping, run: Run, known: Prices | None = None) -> None:
        self.soc, self.workload, self.mapping, self._run = soc, workload, mapping, run
        self._known = known or Prices()

    def cost(self, before: Done, done: Done, items: int) -> StageCost:
        """Of the layers from a cut to a later one, `items` inferences together. InputError where the device cannot run
        them as mapped."""
        layers = section(self.workload, before, done)
        key = asked(before, done, items, within(self.mapping, layers))
        if key not in self._known.costs:
            self._known.costs[key] = self._cost(multiplied(layers, items))
        return self._known.costs[key]

    def _cost(self, layers: Workload) -> StageCost:
        mapping, board = within(self.mapping, layers), lone_roofline(self.soc)
        if board is not None and runs_whole(mapping):
            return roofline_cost(self.soc, board, layers)
        at = placed(mapping, layers, self.soc, self._known.tilings)
        seconds, joules = time_and_energy(lowered(at), at, self._run)
        return StageCost(seconds, joules - seconds * self.soc.idle_power_mw * 1e-3)


def within(mapping: Mapping, layers: Workload) -> Mapping:
    """What a mapping over a cluster says of one stage."""
    names = {layer.name for layer in layers}
    plans = {name: plan for name, plan in mapping.layers.items() if name in names}
    pieces = tuple(piece for piece in mapping.pieces if names & set(piece.layers))
    return replace(mapping, layers=plans, pieces=pieces, stages=(), micro_batch=1)


def runs_whole(mapping: Mapping) -> bool:
    """Whether a mapping leaves each layer as it is: no tiles, none fused."""
    plans = mapping.layers.values()
    return not mapping.pieces and all(part.tile is None for plan in plans for part in plan.parts)


def roofline_cost(soc: SoC, core: Roofline, layers: Workload) -> StageCost:
    """Kernels that follow one another, each for the whole batch."""
    tiles = [(make_tile(layer, layer.k, layer.oy, layer.ox), layer.n) for layer in layers]
    seconds = sum(int(core.batch_cycles(tile, n, exact)) for tile, n in tiles) / soc.tick_hz
    return StageCost(seconds, seconds * core.power_mw * 1e-3)


def weights_in_memory(soc: SoC, layers: Workload, mapping: Mapping) -> int:
    """Bytes of a stage's weights in the memory for tensors: those that no core keeps."""
    board = lone_roofline(soc)
    if board is not None:
        own = [layer for layer in layers if not layer.weights_of]
        tables = sum(weight_bytes(layer, soc, ()) for layer in own if layer.op != "conv")
        return tables + sum(int(board.weight_bytes(make_tile(la, la.k, la.oy, la.ox), exact)) for la in own)
    full = with_parts(mapping, layers, soc)
    kept = pinned_weights(layers, full, soc)
    return stored_bytes((layer for layer in layers if layer.name not in kept), full, soc)


# ---------------------------------------------------------------------------------------------------------------------
# A mapping's stages


@dataclass(frozen=True)
class StageFigures:
    """A stage of a mapping. layers: how many. seconds, item_j: of an item (a micro-batch) on one of its devices, with
    its messages; item_j above idle. idle_w: of one device. bytes_sent: an item's, to the next stage."""

    device: str
    behind: tuple[str, ...]
    replicas: int
    layers: int
    first_layer: str
    last_layer: str
    seconds: float
    item_j: float
    idle_w: float
    bytes_sent: int


def cuts_between(workload: Workload, stages: Sequence[Stage]) -> list[Done]:
    """The cuts before the first stage, behind it, and so on: one more than there are stages."""
    cuts = [(False,) * len(workload.layers)]
    for stage in stages:
        cuts.append(tuple(a or b for a, b in zip(cuts[-1], done_behind(workload, stage.behind), strict=True)))
    return cuts


def sections_of(workload: Workload, stages: Sequence[Stage]) -> list[Workload]:
    """The layers of each stage, as a workload."""
    return [section(workload, before, done) for before, done in pairwise(cuts_between(workload, stages))]


def pricers(
    cluster: Cluster, workload: Workload, mapping: Mapping, run: Run, known: dict[str, Prices] | None = None
) -> dict[str, Pricer]:
    """One for each device that a mapping uses. known: prices by device, which are added to."""
    used, known = dict.fromkeys(stage.device for stage in mapping.stages), {} if known is None else known
    return {
        name: Pricer(device_soc(cluster, name), workload, mapping, run, known.setdefault(name, Prices()))
        for name in used
    }


def stage_figures(
    cluster: Cluster, workload: Workload, mapping: Mapping, devices: MappingOf[str, Pricer]
) -> tuple[StageFigures, ...]:
    """What a mapping's stages cost. `devices` prices them; InputError where one of them cannot be."""
    cuts, items = cuts_between(workload, mapping.stages), mapping.micro_batch
    crosses = [elements_across(workload, cut) for cut in cuts]
    out = []
    for number, stage in enumerate(mapping.stages):
        before, done = cuts[number], cuts[number + 1]
        device, pricer = cluster.devices[stage.device], devices[stage.device]
        about = device_figures(pricer.soc, device.carrier_w)
        cost = pricer.cost(before, done, items)
        received, sent = (message_bytes(crosses[n], items, about.act_bits) for n in (number, number + 1))
        last = number == len(mapping.stages) - 1
        host_s = message_seconds(device, received) if number else 0.0
        host_s += 0.0 if last else message_seconds(device, sent)
        inside = [layer for layer, was, now in zip(workload, before, done, strict=True) if now and not was]
        out.append(
            StageFigures(
                stage.device, last_layers(workload, done), stage.replicas, len(inside), inside[0].name,
                inside[-1].name, cost.seconds + host_s, cost.joules + host_s * about.busy_w, about.idle_w,
                0 if last else sent,
            )
        )  # fmt: skip
    return tuple(out)


def pipeline_of(cluster: Cluster, figures: Sequence[StageFigures]) -> tuple[list[PipelineStage], list[PipelineHop]]:
    """Stages and hops as the engines run them; a stage's seconds are rounded to ticks of a nanosecond. Devices of an
    entry are numbered in the order in which the stages use them."""
    used = dict.fromkeys(cluster.devices, 0)
    stages, hops = [], []
    for number, stage in enumerate(figures):
        name = stage.device
        devices = tuple(f"{name}[{used[name] + i}]" for i in range(stage.replicas))
        used[name] += stage.replicas
        ticks, queue = max(1, round(stage.seconds * TICK_HZ)), cluster.devices[name].queue_items
        stages.append(PipelineStage(devices, ticks, stage.item_j, stage.idle_w, queue))
        if number + 1 < len(figures):
            hops.append(_hop(cluster, name, figures[number + 1].device, stage.bytes_sent))
    return stages, hops


def _hop(cluster: Cluster, sender: str, receiver: str, size: int) -> PipelineHop:
    name = cluster.joins(sender, receiver)
    if name is None:
        raise InputError(f"no link joins {sender} and {receiver}")
    link = cluster.links[name]
    joules = size * link.energy_pj_per_byte * PJ
    return PipelineHop(
        name, link.shared, size, link.bytes_per_s, link.burst_bytes, link.message_ns, link.latency_ns, joules
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong with a mapping


def stages_example(workload: Workload, cluster: Cluster) -> str:
    """Stages that the cluster may have, as a file says it: the whole network on one device."""
    behind = last_layers(workload, [True] * len(workload.layers))
    names = behind[0] if len(behind) == 1 else f"[{', '.join(behind)}]"
    return f"stages: [{{device: {next(iter(cluster.devices))}, behind: {names}}}]"


def stage_problems(stages: Sequence[Stage], workload: Workload, cluster: Cluster) -> list[Problem]:
    """What is wrong with stages themselves: devices, links, and the cuts between them."""
    if not stages:
        example = stages_example(workload, cluster)
        return [((), f"{cluster.name} is a cluster: the mapping needs stages, such as {example}")]
    out: list[Problem] = []
    names = {layer.name for layer in workload}
    left = {name: device.count for name, device in cluster.devices.items()}
    for i, stage in enumerate(stages):
        at: Place = ("stages", i)
        if stage.device not in left:
            out.append(((*at, "device"), f"no device named {stage.device!r}; there is {', '.join(left)}"))
            continue
        left[stage.device] -= stage.replicas
        if stage.replicas < 1:
            out.append(((*at, "replicas"), f"found {stage.replicas}; a stage is on one device at least"))
        if left[stage.device] < 0:
            has = cluster.devices[stage.device].count
            used = f"{has - left[stage.device]} of {stage.device} are in use with this stage"
            out.append(((*at, "replicas" if stage.replicas > 1 else "device"), f"{used}; {cluster.name} has {has}"))
        for name in (name for name in stage.behind if name not in names):
            text = f"{workload.name} has no layer {name!r}; `cosoc show workload {workload.name}` lists them"
            out.append(((*at, "behind"), text))
        before = stages[i - 1].device if i else None
        if before in cluster.devices and before is not None and cluster.joins(before, stage.device) is None:
            out.append(((*at, "device"), f"no link joins {before} and {stage.device}"))
    if out:
        return out
    cuts = cuts_between(workload, stages)
    for i, stage in enumerate(stages):
        if cuts[i] == cuts[i + 1]:
            text = f"{', '.join(stage.behind)} is done in the stages before; name a later layer"
            out.append((("stages", i, "behind"), text))
    over = [layer.name for layer, done in zip(workload, cuts[-1], strict=True) if not done]
    if over:
        right = ", ".join(last_layers(workload, [True] * len(workload.layers)))
        text = f"leaves {_named(over)} to no stage; the last stage ends behind {right}"
        out.append((("stages", len(stages) - 1, "behind"), text))
    return out


def cluster_problems(
    mapping: Mapping, workload: Workload, cluster: Cluster, known: MappingOf[str, Prices] | None = None
) -> list[Problem]:
    """Why a cluster cannot run a mapping, as (path in its file, what was found and what would be right). known: prices
    by device; a stage that has one can run, and is not looked into again."""
    if mapping.micro_batch < 1:
        return [(("micro_batch",), f"found {mapping.micro_batch}; at least one inference passes at a time")]
    out = stage_problems(mapping.stages, workload, cluster)
    if out:
        return out
    names, sections = {layer.name for layer in workload}, sections_of(workload, mapping.stages)
    out += [(("layers", name), f"{workload.name} has no such layer") for name in mapping.layers if name not in names]
    for i, piece in enumerate(mapping.pieces):
        if not any(set(piece.layers) <= {layer.name for layer in layers} for layers in sections):
            out.append((("pieces", i), f"{', '.join(piece.layers)} are not in one stage"))
    if out:
        return out
    cuts = cuts_between(workload, mapping.stages)
    for i, layers in enumerate(sections):
        priced = (known or {}).get(mapping.stages[i].device, Prices()).costs
        if asked(cuts[i], cuts[i + 1], mapping.micro_batch, within(mapping, layers)) not in priced:
            out += _inside(i, layers, mapping, workload, cluster)
        out = out or _too_large(i, layers, mapping, workload, cluster)
    return out


def _inside(number: int, layers: Workload, mapping: Mapping, workload: Workload, cluster: Cluster) -> list[Problem]:
    """Why a device cannot run its stage."""
    stage, at = mapping.stages[number], ("stages", number)
    soc, inner = device_soc(cluster, stage.device), within(mapping, layers)
    try:
        if lone_roofline(soc) is not None and not inner.layers and not inner.pieces:
            for layer in layers:
                default_core(layer, soc)  # nothing is said, and kernels have no tiles: only what runs nowhere is wrong
            found = list[Problem]()
        else:
            found = problems(inner, multiplied(layers, mapping.micro_batch), soc)
    except InputError as error:
        found = [((), str(error))]
    if found:
        pieces = [i for i, piece in enumerate(mapping.pieces) if piece in inner.pieces]  # as the file counts them
        places = [
            (("pieces", pieces[int(place[1])], *place[2:]) if place[:1] == ("pieces",) and place[1:] else place, why)
            for place, why in found
        ]
        return [(place or at, f"on {stage.device}: {why}") for place, why in places]
    return []


def _too_large(number: int, layers: Workload, mapping: Mapping, workload: Workload, cluster: Cluster) -> list[Problem]:
    """Whether a stage lacks memory on its device, and how much."""
    stage = mapping.stages[number]
    soc, at = device_soc(cluster, stage.device), ("stages", number)
    about, need = device_figures(soc), stage_bytes(number, layers, mapping, workload, cluster)
    if need <= about.memory_bytes:
        return []
    has = f"{stage.device}, which has {about.memory_bytes / 2**20:.1f} MiB"
    return [(at, f"needs {need / 2**20:.1f} MiB of {has}; give it fewer layers, or a smaller micro_batch")]


def stage_bytes(number: int, layers: Workload, mapping: Mapping, workload: Workload, cluster: Cluster) -> int:
    """Bytes that a mapping's stage, of these layers, takes of its device's memory."""
    device = mapping.stages[number].device
    soc, cuts = device_soc(cluster, device), cuts_between(workload, mapping.stages)
    received, sent = (elements_across(workload, cuts[n]) for n in (number, number + 1))
    bits, queue = device_figures(soc).act_bits, cluster.devices[device].queue_items
    weights = weights_in_memory(soc, layers, within(mapping, layers))
    need: float = bytes_needed(weights, most_held(layers), received, sent, bits, mapping.micro_batch, queue)
    return math.ceil(need)


def peak_bytes(cluster: Cluster, workload: Workload, mapping: Mapping) -> int:
    """Bytes that the fullest device's stage takes of its memory."""
    parts = enumerate(sections_of(workload, mapping.stages))
    return max(stage_bytes(number, layers, mapping, workload, cluster) for number, layers in parts)


def most_held(workload: Workload) -> int:
    """Elements of the inputs and outputs of the layer that has most."""
    size = elements(workload)
    return max(layer.outputs + sum(size[name] for name in layer.inputs) for layer in workload)


def _named(names: Sequence[str]) -> str:
    """The first few of some names."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def check_cluster_mapping(mapping: Mapping, workload: Workload, cluster: Cluster) -> None:
    """InputError with every reason why a cluster cannot run a mapping."""
    found = cluster_problems(mapping, workload, cluster)
    if found:
        told = "; ".join(": ".join((".".join(map(str, place)), text)) if place else text for place, text in found)
        raise InputError(f"mapping {mapping.name} does not fit {cluster.name}: {told}")
