"""Where tensors and weights live between layers: in the main memory while they fit, else in the backing memory."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field

import numpy as np

from cosoc.sim.errors import InputError
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer, Workload


@dataclass(frozen=True)
class Homes:
    """tensors: the memory that each layer's output (and what comes from outside) lives in. weights_in_main: whether all
    weights stay in the main memory; if not they are fetched from the backing memory, through `stream_bytes` of the main
    one. pinned: layers whose weights stay in their cores' weight memories from one inference to the next. pinned_bytes:
    what they take of each of those memories. room: bytes of the main memory that are free while a layer runs, by layer:
    for tiles of what lies elsewhere, where its core computes from the main memory. weights: the memory that all weights
    are stored in; '' where it is the main one."""

    main: str
    tensors: MappingOf[str, str]
    weights_in_main: bool
    stream_bytes: int
    pinned: frozenset[str] = frozenset()
    pinned_bytes: MappingOf[str, int] = field(default_factory=dict)
    room: MappingOf[str, int] = field(default_factory=dict)
    weights: str = ""

    def inputs(self, layer: Layer) -> str:
        """The memory that a layer's inputs are loaded from: the farthest of theirs, but for what it has in place of
        weights."""
        homes = [self.tensors[name] for name in (layer.inputs[:1] if layer.second else layer.reads)]
        if layer.op == "gather":  # what it loads are rows of its table
            homes = [self.weights or self.main]
        return next((h for h in homes if h != self.main), self.main)

    def output(self, layer: Layer) -> str:
        """The memory that a layer's output is stored to."""
        return self.tensors[layer.name]

    def weights_of(self, layer: Layer) -> str:
        """The memory that a layer's weights are brought from, or what it has in their place."""
        return self.tensors[layer.second] if layer.second else self.weights or self.main

    def ends(self, layer: Layer) -> tuple[str, ...]:
        """The memories of a layer's tensors: what is loaded, multiplied by or read beside, and stored."""
        beside = (self.weights_of(layer),) if layer.second or layer.constants else ()
        return self.inputs(layer), *beside, self.output(layer)

    def weight_room(self, soc: SoC, memory: str) -> int:
        """Bytes of a weight memory in which weights come and go."""
        return max(soc.memories[memory].capacity_bytes - self.pinned_bytes.get(memory, 0), 1)


def tensor_bytes(workload: Workload, name: str) -> int:
    """Bytes of a layer's output, or of a tensor that is there before, at 8 bit an element; of what is written into a
    state none beside the state's."""
    incoming = workload.incoming
    if name in incoming:
        return incoming[name]
    return 0 if workload[name].into else workload[name].outputs


def lifetimes(workload: Workload) -> dict[str, tuple[int, int]]:
    """For every tensor the first and last layer (by number) at which it must exist; -1 before the first."""
    last = dict.fromkeys(workload.incoming, -1) | {layer.name: i for i, layer in enumerate(workload)}
    first = dict(last)
    for i, layer in enumerate(workload):
        for name in layer.reads:
            last[name] = i
    for name in (*workload.outputs, *(name for name, _ in workload.states)):
        last[name] = len(workload.layers)
    return {name: (first[name], last[name]) for name in first}


@dataclass(frozen=True)
class Handover:
    """A tensor that a core made and that other cores which a layer names (with channels or without) cannot read yet."""

    tensor: str
    core: str
    readers: tuple[str, ...]


def handovers(workload: Workload, mapping: Mapping, soc: SoC) -> dict[str, tuple[Handover, ...]]:
    """What has to be handed over before each layer, if one of the readers has channels of it: each tensor once by each
    core that made it. mapping: with parts for every layer."""
    done = set[tuple[str, str]]()
    out = {}
    for layer in workload:
        plan, found = mapping.layers[layer.name], list[Handover]()
        present = {part.core for part in plan.parts if part.channels}
        for tensor in layer.reads:
            made = mapping.layers.get(tensor)
            for core in dict.fromkeys(part.core for part in made.parts if part.channels) if made else ():
                readers = tuple(part.core for part in plan.parts if part.core != core)
                if not soc.cores[core].handover or (tensor, core) in done or not readers:
                    continue
                found.append(Handover(tensor, core, readers))
                if present.intersection(readers):
                    done.add((tensor, core))
        out[layer.name] = tuple(found)
    return out


def place(
    workload: Workload,
    soc: SoC,
    weight_bytes: int,
    inside: frozenset[str] = frozenset(),
    staged: MappingOf[str, int] | None = None,
) -> Homes:
    """Decide where everything lives.

    weight_bytes: all weights as the mapping stores them. inside: tensors that a fused group never brings out. staged:
    the least bytes that a layer whose core computes from the main memory needs there where its tensors lie elsewhere.
    Weights leave the main memory first, then tensors, largest first among those alive where it overflows.
    Raises InputError if there is no backing memory to overflow to, or it is too small.
    """
    main = soc.memories[soc.main_memory]
    alive = {name: span for name, span in lifetimes(workload).items() if name not in inside}
    sizes = {name: tensor_bytes(workload, name) for name in alive}

    steps = range(len(workload.layers))
    loads = np.zeros(len(steps), dtype=np.int64)  # bytes of the tensors in the main memory while each layer runs
    for name, (first, last) in alive.items():
        loads[max(first, 0) : last + 1] += sizes[name]

    def free(held: int) -> dict[str, int]:
        room = (main.capacity_bytes - held - loads).tolist()
        return {layer.name: here for layer, here in zip(workload, room, strict=True)}

    peak = int(loads.max(initial=0))
    homes = dict.fromkeys(sizes, soc.main_memory) | dict.fromkeys(inside, soc.main_memory)
    if weight_bytes + peak <= main.capacity_bytes:
        return Homes(soc.main_memory, homes, True, 0, room=free(weight_bytes))
    backing = soc.backing_memory
    if backing is None:
        raise InputError(
            f"{workload.name} on {soc.name}: weights ({weight_bytes} bytes) and live tensors ({peak} bytes) exceed "
            f"{soc.main_memory} ({main.capacity_bytes} bytes), and the SoC names no backing_memory"
        )
    room = soc.memories[backing].capacity_bytes - weight_bytes
    if room < peak:
        raise InputError(
            f"{workload.name} on {soc.name}: weights ({weight_bytes} bytes) and tensors ({peak} bytes) exceed "
            f"{backing} ({soc.memories[backing].capacity_bytes} bytes) by {peak - room} bytes"
        )
    stream = main.capacity_bytes // 3  # weights pass through a third of the main memory, tensors get the rest
    spilled: set[str] = set()
    during: list[list[str]] = [[] for _ in steps]  # the tensors that exist while each layer runs
    for name, (first, last) in alive.items():
        for step in range(max(first, 0), min(last + 1, len(steps))):
            during[step].append(name)

    def overflows(step: int) -> bool:
        layer = workload.layers[step]
        away = spilled & {layer.name, *layer.reads}
        tiles = (staged or {}).get(layer.name, 0) if away else 0
        return int(loads[step]) + tiles > main.capacity_bytes - stream

    while True:
        before = len(spilled)
        for step in steps:
            while overflows(step):
                here = [name for name in during[step] if name not in spilled and sizes[name]]
                if not here:
                    break
                largest = max(here, key=lambda n: (sizes[n], n))
                spilled.add(largest)
                first, last = alive[largest]
                loads[max(first, 0) : last + 1] -= sizes[largest]
        if len(spilled) == before:  # else layers before may have become those whose tensors lie elsewhere
            break
    homes |= dict.fromkeys(spilled, backing)
    homes |= {layer.name: homes[layer.into] for layer in workload if layer.into}
    return Homes(soc.main_memory, homes, False, stream, room=free(stream), weights=backing)
