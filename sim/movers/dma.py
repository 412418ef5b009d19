"""Operands of tiles -> ops of a DMA: one op a tile of a tensor, with the set-ups, pieces and bytes of `dma_terms`.

In the overlapped runtime weights take their bytes of the weight memory until `free` gives them back, and what comes
from the backing memory takes those of the part of the main memory that it passes through.
"""

from __future__ import annotations

from collections.abc import Sequence

from cosoc.sim import exact
from cosoc.sim.model.placement import Homes
from cosoc.sim.model.soc import Core
from cosoc.sim.model.workload import Layer
from cosoc.sim.movers.dma_terms import (
    Transfer,
    Window,
    constant_transfer,
    input_transfer,
    output_transfer,
    weight_hops,
    weight_transfer_of,
)
from cosoc.sim.movers.notes import NONE
from cosoc.sim.movers.writer import Amounts, Op, Writer

SLOTS = 2  # tiles of inputs, and of outputs, that a core has room for in the overlapped runtime

# Those of a SoC that have been counted: by layer, core's memory, channels, window, the tensor's home, and whether in.
Transfers = dict[tuple[Layer, str, int, Window, str, bool], Transfer]


class DmaEmitter:
    """Writes the transfers of a network's operands. held: what weights take of a pool, as (name, capacity,
    amount), by layer and part. known: transfers that need no counting."""

    def __init__(self, ops: Writer, homes: Homes, known: Transfers) -> None:
        self.ops, self.soc, self.homes, self.known = ops, ops.soc, homes, known
        self.held: dict[tuple[int, int], tuple[str, int, int]] = {}

    def load(
        self, layer: Layer, memory: str, k: int, at: Window, home: str, after: Sequence[Op | None], take: Amounts = ()
    ) -> tuple[Op | None, int]:
        """Bring the inputs under a tile of k channels from `home` into a core's memory: the op, None where nothing
        moves, and its bytes."""
        key = layer, memory, k, at, home, True
        moved = self.known.get(key)
        if moved is None:
            moved = self.known[key] = input_transfer(layer, self.soc, memory, k, at, home, exact)
        return self._move(home, memory, moved, "load", after, take), int(moved.bytes)

    def constants(
        self, layer: Layer, memory: str, k: int, at: Window, after: Sequence[Op | None], take: Amounts = ()
    ) -> tuple[Op | None, int]:
        """Bring what a tile of k channels reads of a layer's constants into a core's memory: the op, None where nothing
        moves, and its bytes."""
        home = self.homes.weights_of(layer)
        moved = constant_transfer(layer, self.soc, memory, k, at, home, exact)
        return self._move(home, memory, moved, "load", after, take), int(moved.bytes)

    def weights(
        self, layer: Layer, part: int, name: str, core: Core, k: int, c: int = 0, n: int = 1,
        after: Sequence[Op | None] = (),
    ) -> tuple[Op | None, int]:  # fmt: skip
        """Bring the weights of k output channels, for c input channels (0: all), to where a core, of that name, has
        them, or what n images are multiplied by in their place, once it is there (`after`): the op, None where nothing
        moves, and its bytes."""
        moved = weight_transfer_of(layer, self.soc, core, k, exact, c, self.homes)
        moved = moved.times(n) if layer.second else moved
        if not moved.bytes:
            return None, 0
        *before, (source, target) = weight_hops(layer, self.soc, core, self.homes)
        stream = [(f"{self.soc.main_memory}.stream", self.homes.stream_bytes, int(moved.bytes))] * len(before)
        for hop in before:
            after = (self._move(*hop, moved, "weights", after, take=stream),)
        held = int(moved.bytes) * (core.element_bytes if layer.second else 1)
        room = (target, self.homes.weight_room(self.soc, target), held)
        if target != core.weight_memory:  # beside the inputs, of whose buffers there are two
            room = (f"{name}.second", SLOTS, 1)
        self.held[self.ops.layer, part] = room
        kind = "weights" if target == core.weight_memory else "load"
        brought = self._move(source, target, moved, kind, after, take=[room], give=stream)
        if self.ops.notes is not None and brought is not None:
            self.ops.notes.weights[self.ops.layer, part] = brought
        return brought, int(moved.bytes)

    def free(self, part: int, name: str) -> None:
        """Give back what a part's weights take once its last job has ended: an op of no duration behind it."""
        held = self.held.pop((self.ops.layer, part), None)
        if held and not self.ops.serial:
            notes = self.ops.notes
            before = None if notes is None else notes.now
            if notes is not None:
                notes.now = (NONE, NONE, notes.weights[self.ops.layer, part], NONE)
            self.ops.op(name, "sync", give=[held])
            if notes is not None and before is not None:  # a store may be noted yet for the job before
                notes.now = before

    def store(self, layer: Layer, memory: str, k: int, at: Window, computed: Op, give: Amounts) -> Op:
        """Take a tile's results home; the op after which they are there."""
        home = self.homes.output(layer)
        key = layer, memory, k, at, home, False
        moved = self.known.get(key)
        if moved is None:
            moved = self.known[key] = output_transfer(layer, self.soc, memory, k, at, home, exact)
        out = self._move(memory, home, moved, "store", (computed,), give=give)
        return computed if out is None else out

    def _move(
        self,
        source: str,
        target: str,
        moved: Transfer,
        kind: str,
        deps: Sequence[Op | None] = (),
        take: Amounts = (),
        give: Amounts = (),
    ) -> Op | None:
        """Write a transfer; nothing if there is nothing to move."""
        if source == target or not moved.bytes:
            return None
        route, n_bytes = self.soc.route(source, target), int(moved.bytes)
        dma = self.soc.dma(route.dma)
        return self.ops.op(
            route.dma,
            kind,
            deps,
            take,
            give,
            setup=int(moved.setup_ticks(dma)),
            moved=n_bytes,
            burst=dma.burst_bytes,
            links=route.links,
            memories=(source, target),
            energy_fj=self.ops.over(route.links, n_bytes)
            | {name: self.ops.access_fj(name, n_bytes) for name in (source, target)},
        )
