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
from cosoc.sim.movers.dma_terms import Transfer, Window, input_transfer, output_transfer, weight_transfer_of
from cosoc.sim.movers.notes import NONE
from cosoc.sim.movers.writer import Amounts, Op, Writer

# Those of a SoC that have been counted: by layer, core's memory, channels, window, the tensor's home, and whether in.
Transfers = dict[tuple[Layer, str, int, Window, str, bool], Transfer]


class DmaEmitter:
    """Writes the transfers of a network's operands. held: bytes of weight memory in use, by layer and part. known:
    transfers that need no counting."""

    def __init__(self, ops: Writer, homes: Homes, known: Transfers) -> None:
        self.ops, self.soc, self.homes, self.known = ops, ops.soc, homes, known
        self.held: dict[tuple[int, int], int] = {}

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

    def weights(self, layer: Layer, part: int, core: Core, k: int, c: int = 0) -> Op | None:
        """Bring the weights of k output channels, for c input channels (0: all), into a core's weight memory, from the
        backing memory if they live there."""
        moved = weight_transfer_of(layer, self.soc, core, k, exact, c, self.homes)
        if core.weight_memory is None or not moved.bytes:
            return None
        main, fetched, stream = self.soc.main_memory, None, []
        if not self.homes.weights_in_main and self.soc.backing_memory is not None:
            stream = [(f"{main}.stream", self.homes.stream_bytes, int(moved.bytes))]
            fetched = self._move(self.soc.backing_memory, main, moved, "weights", take=stream)
        capacity = self.homes.weight_room(self.soc, core.weight_memory)
        self.held[self.ops.layer, part] = int(moved.bytes)
        room = [(core.weight_memory, capacity, int(moved.bytes))]
        brought = self._move(main, core.weight_memory, moved, "weights", (fetched,), take=room, give=stream)
        if self.ops.notes is not None and brought is not None:
            self.ops.notes.weights[self.ops.layer, part] = brought
        return brought

    def free(self, part: int, name: str, core: Core) -> None:
        """Give a part's weight memory back once its last job has ended: an op of no duration behind it."""
        held = self.held.pop((self.ops.layer, part), 0)
        if held and core.weight_memory is not None and not self.ops.serial:
            capacity = self.homes.weight_room(self.soc, core.weight_memory)
            if self.ops.notes is not None:
                self.ops.notes.now = (NONE, NONE, self.ops.notes.weights[self.ops.layer, part], NONE)
            self.ops.op(name, "sync", give=[(core.weight_memory, capacity, held)])

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
