"""A crossbar chip as a pipeline: every layer at work at once, each on an image of its own.

Cells that hold all of a network's weights let each layer compute by itself, in tiles of its own. What a layer takes is
simulated, layer after layer; then images are streamed through the layers by the same engines. Tiles that the network
leaves are spent on *copies* of the slowest layers, whole layers in further tiles, that take images in turns.

Not in it: how images come to the chip, and anything that layers in tiles of their own might still share. Chips say
whether their layers' tiles have buffers and lanes to themselves: `pipelined` of the core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cosoc.sim import exact
from cosoc.sim.cores.crossbar import Crossbar
from cosoc.sim.errors import InputError
from cosoc.sim.lower.layers_at_once import LayerAtOnce, lower_at_once, places
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.placement import tensor_bytes
from cosoc.sim.model.soc import Boundary, SoC
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import engine_run, simulate
from cosoc.sim.tiler import checked, living, pinned_weights

SKIPPED = 5  # the first of so many parts of a run are left out of its rate: the pipeline fills


@dataclass(frozen=True)
class LayerPart:
    """seconds: that an image takes the layer. copies: of it, that take images in turns. tiles: of all copies.
    utilisation: of a copy, over the whole run."""

    layer: str
    core: str
    seconds: float
    copies: int
    tiles: int
    utilisation: float


@dataclass(frozen=True)
class PipelinedResult:
    """What a stream of images says.

    seconds: the whole run. throughput: images a second in the steady state, by what left after the first fifth.
    most_per_second: what `bottleneck` can do, the layer or the shared unit that sets the rate. latency_s: of an image
    in the stream, mean. layer_after_layer_s: of an image alone, one layer at a time. energy_j: an image's in the steady
    state: its operations, the powers of units while they are busy (a crossbar's all the time), what is always drawn.
    """

    soc: str
    workload: str
    mapping: str
    engine: str
    inferences: int
    seconds: float
    throughput: float
    most_per_second: float
    bottleneck: str
    latency_s: float
    layer_after_layer_s: float
    energy_j: float
    energy_boundary: Boundary | None
    layers: tuple[LayerPart, ...]


def simulate_pipelined(
    soc: SoC, workload: Workload, mapping: Mapping, engine: str = "fast", inferences: int = 1000, copies: bool = True
) -> PipelinedResult:
    """Stream images through a network whose layers stand side by side in the tiles of a crossbar chip.

    copies: whether tiles that are left are spent on copies of the slowest layers. Raises InputError where weights or
    tensors have to come and go, where layers are not whole on one core, and on chips whose layers share their tiles.
    """
    if inferences < 2:
        raise InputError(f"inferences is {inferences}; a pipeline needs a stream, of 2 at least")
    mapping = checked(mapping, workload, soc)
    core = _crossbar(soc, workload, mapping)
    tiles, left = _tiles(soc, workload, mapping, core)
    alone = simulate(soc, workload, mapping, engine)
    _stays_on_chip(alone)
    layers = _layers(soc, workload, mapping, alone)
    _tensors_fit(soc, workload, layers)
    if copies:
        layers = balanced(layers, tiles, left, lambda one: not _too_many(soc, workload, one))
    lowered = lower_at_once(layers, inferences, alone.tick_hz)
    trace = engine_run(engine)(lowered.program, ())
    begun, ended = trace.issue[lowered.ops].min(axis=1), trace.end[lowered.ops].max(axis=1)
    done = np.sort(ended)
    first = len(done) // SKIPPED
    throughput = (len(done) - 1 - first) * alone.tick_hz / max(int(done[-1] - done[first]), 1)
    slowest, ticks = _slowest(layers)
    always_mw = soc.idle_power_mw + soc.cores[core].power_mw
    shared_mw_s = sum(soc.cores[one.shared].power_mw * one.ticks for one in layers if one.shared) / alone.tick_hz
    parts = []
    for one in layers:
        busy = one.ticks * inferences / one.copies / max(trace.makespan, 1)
        room = one.copies * tiles.get(one.name, 0)
        seconds = one.ticks / alone.tick_hz
        parts.append(LayerPart(one.name, _on(mapping, one.name), seconds, one.copies, room, busy))
    return PipelinedResult(
        soc=soc.name,
        workload=workload.name,
        mapping=mapping.name,
        engine=engine,
        inferences=inferences,
        seconds=trace.makespan / alone.tick_hz,
        throughput=throughput,
        most_per_second=alone.tick_hz / max(ticks, 1e-9),
        bottleneck=slowest,
        latency_s=float((ended - begun).mean()) / alone.tick_hz,
        layer_after_layer_s=alone.seconds,
        energy_j=alone.ops_energy_j + (always_mw / throughput + shared_mw_s) * 1e-3,
        energy_boundary=soc.energy_boundary,
        layers=tuple(parts),
    )


def balanced(
    layers: Sequence[LayerAtOnce], tiles: MappingOf[str, int], left: int,
    fits: Callable[[Sequence[LayerAtOnce]], bool] = lambda layers: True,
) -> list[LayerAtOnce]:  # fmt: skip
    """The layers with as many copies as make the slowest as fast as can be: those named in `tiles`, which says what a
    copy takes of the `left` ones, and as long as `fits` says so.

    A shorter period needs one more copy of the layer that is the slowest now, whatever else is done, and more copies
    never take less. So copying the slowest while that can be done is the best that can be had, with the fewest copies.
    """
    out = {one.name: one for one in layers}
    least = max(1, _shared(layers)[1])
    while True:
        name, ticks = _slowest(list(out.values()))
        if name not in tiles or tiles[name] > left or ticks <= least:
            return list(out.values())
        more = out | {name: replace(out[name], copies=out[name].copies + 1)}
        if not fits(list(more.values())):
            return list(out.values())
        out, left = more, left - tiles[name]


def _on(mapping: Mapping, layer: str) -> str:
    """The core that a layer is on."""
    return next(part.core for part in mapping.layers[layer].parts if part.channels)


def _crossbar(soc: SoC, workload: Workload, mapping: Mapping) -> str:
    """The crossbar core that holds all weights; InputError where there is none, or not all."""
    found = [name for name, core in soc.cores.items() if isinstance(core, Crossbar) and core.pipelined]
    if len(found) != 1:
        raise InputError(f"{soc.name} runs layer after layer: it has no crossbar core whose `pipelined` is true")
    if mapping.pieces or living(workload, mapping, soc) is not workload:
        raise InputError(f"mapping {mapping.name}: a pipeline takes layers as they are, without pieces or alternatives")
    for layer in workload:
        parts = [part.core for part in mapping.layers[layer.name].parts if part.channels]
        if len(parts) > 1:
            raise InputError(f"layer {layer.name} is split over {', '.join(parts)}; a pipeline needs it on one core")
    kept = pinned_weights(workload, mapping, soc)
    for layer in workload:
        if layer.op == "conv" and (layer.name not in kept or _on(mapping, layer.name) != found[0]):
            raise InputError(
                f"layer {layer.name}: its weights do not stay in the cells of {found[0]} ({soc.name}); a pipeline "
                "needs room for all of a network"
            )
    return found[0]


def _tiles(soc: SoC, workload: Workload, mapping: Mapping, core: str) -> tuple[dict[str, int], int]:
    """Tiles that each layer with weights takes, and those that are left; InputError where there are not as many."""
    crossbar = soc.cores[core]
    assert isinstance(crossbar, Crossbar)
    taken = {
        layer.name: int(crossbar.tiles(make_tile(layer, layer.k, layer.oy, layer.ox), exact))
        for layer in workload
        if _on(mapping, layer.name) == core
    }
    there = crossbar.arrays // crossbar.tile_arrays
    if sum(taken.values()) > there:
        raise InputError(
            f"{workload.name} on {soc.name}: layers in tiles of their own take {sum(taken.values())} tiles of {core}, "
            f"which has {there}"
        )
    return taken, there - sum(taken.values())


def _stays_on_chip(alone: Result) -> None:
    for part in alone.by_layer:
        if part.bytes:
            raise InputError(
                f"layer {part.layer} moves {part.bytes} bytes to or from {alone.soc}'s other memories; a pipeline "
                "needs its tensors in the one that its cores compute from"
            )


def _layers(soc: SoC, workload: Workload, mapping: Mapping, alone: Result) -> list[LayerAtOnce]:
    """Each layer as long as it takes alone; those without weights on the units that they share."""
    ticks = {part.layer: part.ticks_critical for part in alone.by_layer}
    names = {layer.name for layer in workload}
    out = []
    for layer in workload:
        core = _on(mapping, layer.name)
        reads = tuple(dict.fromkeys(name for name in layer.reads if name in names))
        shared = "" if isinstance(soc.cores[core], Crossbar) else core
        out.append(LayerAtOnce(layer.name, ticks.get(layer.name, 0), reads, shared))
    return out


def _shared(layers: Sequence[LayerAtOnce]) -> tuple[str, int]:
    """The shared unit that works the longest for an image, and how long, in ticks."""
    busy: dict[str, int] = {}
    for one in layers:
        busy[one.shared] = busy.get(one.shared, 0) + (one.ticks if one.shared else 0)
    unit = max(busy, key=lambda name: busy[name], default="")
    return unit, busy.get(unit, 0)


def _slowest(layers: Sequence[LayerAtOnce]) -> tuple[str, float]:
    """The layer or shared unit that sets the rate, and its ticks an image."""
    slowest = max(layers, key=lambda one: one.ticks / one.copies)
    unit, ticks = _shared(layers)
    own = slowest.ticks / slowest.copies
    return (unit, ticks) if ticks > own else (slowest.name, own)


def _too_many(soc: SoC, workload: Workload, layers: Sequence[LayerAtOnce]) -> int:
    """Bytes of tensors, of all images that are under way, if they are more than the memory of tensors has; else 0."""
    held = sum(n * tensor_bytes(workload, name) for name, n in places(layers).items()) + sum(workload.incoming.values())
    return held if held > soc.memories[soc.main_memory].capacity_bytes else 0


def _tensors_fit(soc: SoC, workload: Workload, layers: Sequence[LayerAtOnce]) -> None:
    held = _too_many(soc, workload, layers)
    if held:
        there = soc.memories[soc.main_memory].capacity_bytes
        raise InputError(
            f"{workload.name} on {soc.name}: tensors of all images under way take {held} bytes of {soc.main_memory}, "
            f"which has {there}"
        )


def to_json(result: PipelinedResult) -> dict[str, Any]:
    """The same as plain data; seconds, joules, bytes, images a second."""
    return asdict(result)


__all__ = ["LayerPart", "PipelinedResult", "balanced", "simulate_pipelined", "to_json"]
