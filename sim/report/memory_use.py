"""How full each memory is over time, in bytes, of a simulated run.

A program knows ops, bytes and tokens, not addresses. What lies where from when to when follows from these and from what
the lowering was given (mapping, tiles, homes):

- *Weights at home* lie in the main memory, or the backing one, all the time; pinned ones in their core's weight memory.
- *Tensors at home* (`placement.Homes`) lie there from the first op of the layer that makes them, weights that come
  early aside, until the last op of the last layer that reads them: as `placement` counts them, but in ticks.
- *Weights that come and go* take bytes of the weight memory (and of the part of the main memory that they pass
  through) in the program itself, as credits: exact. A serial program has no credits: there they lie from the start of
  their transfer to the end of the last job before the next weights come to that memory.
- *Input tiles* lie from the start of their load to the end of the last job before the layer's next load, the bytes
  being those of the transfer. *Output tiles* lie from the start of the job, or of the first job since the store
  before in a serial program, to the end of their store.
- *Line buffers* of a fused group lie in full for as long as the group runs.
- *A systolic array's tiles* are as large as the whole tiles of their layer (those at a border are counted as whole
  ones): in the scratchpad from the tile's start to the end of its execution or, where that is earlier, of its store,
  which gives back the tile's credit; in the accumulator to the end of its store; what a fused group keeps in the
  scratchpad, for as long as the group runs. Caches are not shown: they are full.

Cores that read a tensor where it lies need no tiles. Padding of transfers is counted, alignment of buffers is not.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cosoc.sim.lower.fusion import buffer_bytes
from cosoc.sim.machine.program import CHUNK, KINDS, Ints, Program, Records, entries_of, row_of
from cosoc.sim.machine.trace import Trace
from cosoc.sim.model.mapping import PARTIAL_BYTES, Extent, Mapping, Part, Piece
from cosoc.sim.model.placement import lifetimes, tensor_bytes
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import behind_caches, channel_slice
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.cached_terms import Machine, Tiles, cached_cores, rows_needed, shape_of, tile_in_rows
from cosoc.sim.movers.cached_units import INTO_ACCUMULATOR, core_of_unit, name_of
from cosoc.sim.movers.fused_steps import Chain, chain, reach, rows_held
from cosoc.sim.report.result import Result, route_ends
from cosoc.sim.tiler import Placed, living, placed, stored_bytes

COMPUTE, WEIGHTS, LOAD, STORE, FEED = (KINDS.index(k) for k in ("compute", "weights", "load", "store", "feed"))


@dataclass(frozen=True)
class MemoryUse:
    """One memory. ticks [n], bytes [n]: from ticks[i] on it holds bytes[i]; ticks[0] is 0."""

    memory: str
    capacity_bytes: int
    ticks: Ints
    bytes: Ints


@dataclass(frozen=True)
class _Held:
    """Pieces of a memory: bytes[i] from since[i] to until[i], ticks."""

    memory: str
    since: Ints
    until: Ints
    bytes: Ints


def memory_use(result: Result, soc: SoC, workload: Workload, mapping: Mapping) -> tuple[MemoryUse, ...]:
    """The memories of a run that hold anything, in the SoC's order; see the module docstring."""
    run = RunInTime(result.program, result.trace, placed(mapping, workload, soc), result.inferences)
    held = list(run.pieces())
    out = []
    for name, memory in soc.memories.items():
        mine = [piece for piece in held if piece.memory == name]
        if mine:
            ticks, level = _levels(mine)
            out.append(MemoryUse(name, memory.capacity_bytes, ticks, level))
    return tuple(out)


def peak_bytes(program: Program, trace: Trace, at: Placed) -> int:
    """The most that the main memory holds at once in one simulated inference. at: what was lowered."""
    held = [piece for piece in RunInTime(program, trace, at, 1).in_main() if piece.memory == at.soc.main_memory]
    return int(_levels(held)[1].max()) if held else 0


def _levels(held: list[_Held]) -> tuple[Ints, Ints]:
    """The steps of a sum of pieces: (ticks, bytes from then on). What ends at a tick is gone when others start."""
    when = np.concatenate([np.zeros(1, np.int64), *(p.since for p in held), *(p.until for p in held)])
    change = np.concatenate([np.zeros(1, np.int64), *(p.bytes for p in held), *(-p.bytes for p in held)])
    ticks, at = np.unique(when, return_inverse=True)
    sums = np.zeros(len(ticks), np.int64)
    np.add.at(sums, at, change)
    return ticks, np.cumsum(sums)


class RunInTime:
    """The ops of a run, unrolled, and what may hold a memory."""

    def __init__(self, program: Program, trace: Trace, at: Placed, inferences: int) -> None:
        self.soc, self.workload, self.mapping, self.homes = at.soc, at.workload, at.mapping, at.homes
        self.program, self.issue, self.end = program, trace.issue, trace.end
        self.span = trace.makespan
        # Of long programs, in as few bytes as they need.
        row, rows = row_of(self.program, np.arange(self.program.n_ops)), self.program.rows
        self.kind, self.unit = rows["kind"].astype(np.int8)[row], rows["unit"].astype(np.int16)[row]
        self.layer = rows["layer"].astype(np.int32)[row]
        del row
        self.number = {name: i for i, name in enumerate(self.program.layers)}
        self.arrays = cached_cores(at.soc)
        # What arrays behind caches do is told by their credits, not by what their movers bring.
        others = {*core_of_unit(at.soc), *self.arrays}
        plain = np.array([unit not in others for unit in self.program.unit_names])
        self.plain = plain[self.unit]
        self.job = (self.kind == COMPUTE) | (self.kind == FEED)
        self.busy = np.isin(self.kind, (COMPUTE, FEED, LOAD, STORE))  # launches may come early, like weights
        self.inference = self.inferences_of(inferences)
        self.place = {layer.name: i for i, layer in enumerate(self.workload)}
        self.piece_of = {name: piece for piece in self.mapping.pieces if piece.how == "fused" for name in piece.layers}

    @functools.cached_property
    def ops_of(self) -> list[Ints]:
        """The ops of each layer of the program, ascending."""
        return self.by_layer(np.arange(self.program.n_ops))

    def by_layer(self, ops: Ints) -> list[Ints]:
        """Of some ops, those of each layer of the program, in their order."""
        ops = ops[np.argsort(self.layer[ops], kind="stable")]
        edges = np.searchsorted(self.layer[ops], np.arange(len(self.program.layers) + 1))
        return [ops[a:b] for a, b in itertools.pairwise(edges.tolist())]

    def pieces(self) -> Iterator[_Held]:
        """Everything that lies anywhere."""
        yield from self.weights_at_home()
        yield from self.tensors_at_home()
        for piece in self.mapping.pieces:
            if piece.how == "fused":
                yield from self.fused_piece(piece)
        for array in self.arrays:
            yield from self.array_tiles(array)
        for number in range(len(self.program.layers)):
            yield from self.input_tiles(number)
            if self.mapping.runtime == "serial":
                yield from self.serial_outputs(number)
                yield from self.serial_weights(number)
        yield from self.credits_in_bytes()
        yield from self.outputs_by_credit()

    def in_main(self) -> Iterator[_Held]:
        """What lies in the main memory (and more): homes, and weights that pass through."""
        yield from self.weights_at_home()
        yield from self.tensors_at_home()
        if not self.homes.weights_in_main:
            for number in range(len(self.program.layers)):
                if self.mapping.runtime == "serial":
                    yield from self.serial_weights(number)
            yield from self.credits_in_bytes()

    def always(self, memory: str, size: int) -> Iterator[_Held]:
        if size:
            yield _Held(memory, np.array([0]), np.array([self.span]), np.array([size]))

    # ------------------------------------------------------------------------------------------ at home

    def weights_at_home(self) -> Iterator[_Held]:
        homes, alive = self.homes, living(self.workload, self.mapping, self.soc)
        moving = [layer for layer in alive if layer.name not in homes.pinned]
        total = stored_bytes(moving, self.mapping, self.soc)
        home = homes.main if homes.weights_in_main else self.soc.backing_memory
        assert home is not None
        yield from self.always(home, total)
        for memory, size in homes.pinned_bytes.items():
            yield from self.always(memory, size)

    def tensors_at_home(self) -> Iterator[_Held]:
        """Every tensor that leaves its core, in each inference."""
        yield from (held for _, held in self.homes_in_time())

    def homes_in_time(self) -> Iterator[tuple[str, _Held]]:
        """The same by the name of each tensor; what lives between inferences is there all the time."""
        alive = living(self.workload, self.mapping, self.soc)
        whole, states = self.times_of(self.busy), dict(alive.states)
        readers: dict[str, list[str]] = {name: [] for name in lifetimes(alive)}
        for layer in alive:
            for name in layer.reads:
                readers[name].append(layer.name)
        for name, by in readers.items():
            piece = self.piece_of.get(name)
            if piece is not None and name not in alive.outputs and set(by) <= set(piece.layers):
                continue
            parts = [self.times(number) for number in self.of_layers([name])]
            reads = [self.times(number) for number in self.of_layers(by)]
            ends = whole[1]
            if name in states:
                for held in self.always(self.homes.tensors[name], tensor_bytes(self.workload, name)):
                    yield name, held
                continue
            since = np.min([p[0] for p in parts], axis=0) if parts else np.append(0, ends[:-1])
            until = np.max([p[1] for p in reads or parts or [whole]], axis=0)
            until = ends if name in alive.outputs else until
            size = np.full(len(since), tensor_bytes(self.workload, name))
            yield name, _Held(self.homes.tensors[name], since, np.maximum(until, since), size)

    def of_layers(self, names: list[str]) -> list[int]:
        return [self.number[name] for name in names if name in self.number]

    def inferences_of(self, n: int) -> Ints:
        """The number of the inference that each op belongs to, ascending. Tiled inferences have the same ops. Those of
        an array behind caches do not, as these warm up, but its layers and pieces follow one another: a new one begins
        where an earlier one comes again. Where that cannot be told (a single piece) all ops are of one."""
        n_ops = len(self.issue)
        if n == 1:
            return np.zeros(n_ops, np.int64)
        if not self.arrays:
            return np.asarray(np.arange(n_ops) * n // max(n_ops, 1), dtype=np.int64)
        order = {layer.name: i for i, layer in enumerate(self.workload)}
        order |= {name: order[piece.layers[0]] for piece in self.mapping.pieces for name in piece.layers}
        first = np.array([order[name] for name in self.program.layers])[self.layer]
        found = np.cumsum(np.append(False, first[1:] < first[:-1])[:n_ops])
        return found if found.max(initial=0) == n - 1 else np.zeros(n_ops, np.int64)

    def times(self, number: int) -> tuple[Ints, Ints]:
        """First issue and last end of a layer's jobs and transfers of activations, [inferences]."""
        since, until = self.layer_times
        return since[number], until[number]

    @functools.cached_property
    def layer_times(self) -> tuple[Ints, Ints]:
        """`times` of every layer, [layers, inferences]."""
        shape = (len(self.program.layers), int(self.inference.max(initial=0)) + 1)
        since, until = np.full(shape, self.span, np.int64), np.zeros(shape, np.int64)
        for first in range(0, len(self.busy), CHUNK):
            ops = first + np.flatnonzero(self.busy[first : first + CHUNK])
            np.minimum.at(since, (self.layer[ops], self.inference[ops]), self.issue[ops])
            np.maximum.at(until, (self.layer[ops], self.inference[ops]), self.end[ops])
        return since, until

    def times_of(self, chosen: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """First issue and last end of some ops, [inferences]."""
        n = int(self.inference.max(initial=0)) + 1
        since, until = np.full(n, self.span, np.int64), np.zeros(n, np.int64)
        for first in range(0, len(chosen), CHUNK):
            ops = first + np.flatnonzero(chosen[first : first + CHUNK])
            np.minimum.at(since, self.inference[ops], self.issue[ops])
            np.maximum.at(until, self.inference[ops], self.end[ops])
        return since, until

    # ------------------------------------------------------------------------------------------ tiles

    def ends_of(self, ops: Ints, near: int) -> list[list[str]]:
        """The memories that each transfer goes to (near = 1) or comes from (0), by row: more than one where a split
        layer's weights go to several over the same links."""
        out: list[list[str]] = []
        known: dict[int, list[str]] = {}
        for op, row in zip(ops.tolist(), row_of(self.program, ops).tolist(), strict=True):
            if row not in known:
                layer = self.program.layers[self.layer[op]]
                routes = route_ends(self.program, self.program.rows[row], self.soc, self.mapping, layer)
                known[row] = [route.target if near else route.source for route in routes]
            out.append(known[row])
        return out

    def held(self, ops: Ints, memories: list[list[str]], since: Ints, until: Ints) -> Iterator[_Held]:
        """A piece for each transfer, of its bytes. Of several memories, those of a batch are taken in turns."""
        turn: dict[tuple[str, ...], int] = {}
        names = []
        for choice in memories:
            key = tuple(choice)
            names.append(choice[turn.get(key, 0) % len(choice)])
            turn[key] = turn.get(key, 0) + 1
        each = np.array(names)
        for name in dict.fromkeys(names):
            mine = each == name
            yield _Held(
                name,
                since[mine],
                np.maximum(until, since)[mine],
                self.program.rows["bytes"][row_of(self.program, ops[mine])],
            )

    def windows(self, number: int, kind: int) -> tuple[Ints, Ints]:
        """A layer's transfers of a kind, and for each the end of the last job before the next batch of them."""
        ops = self.ops_of[number]
        ops = ops[(self.job[ops] | (self.kind[ops] == kind)) & self.plain[ops]]
        moves = self.kind[ops] == kind
        batch = np.cumsum(moves & ~np.append(False, moves[:-1])[: len(moves)])
        last = np.zeros(int(batch.max(initial=0)) + 1, np.int64)
        np.maximum.at(last, batch, self.end[ops])
        return ops[moves], last[batch[moves]]

    def input_tiles(self, number: int) -> Iterator[_Held]:
        ops, until = self.windows(number, LOAD)
        if len(ops):
            yield from self.held(ops, self.ends_of(ops, near=1), self.issue[ops], until)

    def serial_outputs(self, number: int) -> Iterator[_Held]:
        """Each batch of stores: from the first job since the batch before."""
        ops = self.ops_of[number]
        ops = ops[(self.job[ops] | (self.kind[ops] == STORE)) & self.plain[ops]]
        stores = self.kind[ops] == STORE
        if not stores.any():
            return
        batch = np.cumsum(~stores & np.append(True, stores[:-1]))  # a new one with the first job behind a store
        since = np.full(int(batch.max()) + 1, self.span, np.int64)
        np.minimum.at(since, batch, self.issue[ops])
        moved = ops[stores]
        yield from self.held(moved, self.ends_of(moved, near=0), since[batch[stores]], self.end[moved])

    def serial_weights(self, number: int) -> Iterator[_Held]:
        """Into weight memories; and through the main memory, until they have left it."""
        ops, until = self.windows(number, WEIGHTS)
        memories = self.ends_of(ops, near=1)
        passing = np.array([self.homes.main in choice for choice in memories], bool)
        for through in (True, False):
            mine = ops[passing == through]
            if len(mine):
                chosen = [choice for choice, p in zip(memories, passing, strict=True) if p == through]
                left = self.end[np.minimum(mine + 1, len(self.end) - 1)] if through else until[passing == through]
                yield from self.held(mine, chosen, self.issue[mine], left)

    # ------------------------------------------------------------------------------------------ credits

    @functools.cached_property
    def takes(self) -> tuple[Ints, Ints, Ints]:
        """Every entry of the ops' takes, in program order: (op, credit, amount)."""
        return self.amounts("take", self.program.takes)

    @functools.cached_property
    def gives(self) -> tuple[Ints, Ints, Ints]:
        """The same of what they give."""
        return self.amounts("give", self.program.gives)

    def amounts(self, key: str, array: Records) -> tuple[Ints, Ints, Ints]:
        row = row_of(self.program, np.arange(self.program.n_ops))
        n = self.program.rows[f"{key}_n"][row]
        entries = array[entries_of(self.program.rows[f"{key}_at"][row], n)]
        return np.repeat(np.arange(len(n)), n), entries["credit"], entries["amount"]

    def credits_in_bytes(self) -> Iterator[_Held]:
        """Weight memories, and the part of the main one that weights pass through."""
        stream = f"{self.homes.main}.stream"
        takes, gives = self.takes, self.gives
        for number, name in enumerate(self.program.credit_names):
            memory = self.homes.main if name == stream else name
            if memory not in self.soc.memories:
                continue
            (taken, size), (given, back) = ((a[0][a[1] == number], a[2][a[1] == number]) for a in (takes, gives))
            forever = np.full(len(taken), self.span), np.full(len(given), self.span)
            yield _Held(memory, self.issue[taken], forever[0], size)
            yield _Held(memory, self.end[given], forever[1], -back)

    def outputs_by_credit(self) -> Iterator[_Held]:
        """A pool that stores give back: first in, first out, each of its store's bytes."""
        takes, gives = self.takes, self.gives
        tiles = {name_of(self.soc, array, "tile_slots") for array in self.arrays}
        for number, name in enumerate(self.program.credit_names):
            given = gives[0][(gives[1] == number)]
            if name in tiles or not len(given) or not (self.kind[given] == STORE).all():
                continue
            taken = takes[0][takes[1] == number]
            yield from self.held(given, self.ends_of(given, near=0), self.issue[taken], self.end[given])

    # ------------------------------------------------------------------------------------------ fused pieces, arrays

    def fused_piece(self, piece: Piece) -> Iterator[_Held]:
        """What a fused piece keeps while it runs."""
        times = [self.times(number) for number in self.of_layers(list(piece.layers))]
        if not times:
            return
        since, until = np.min([t[0] for t in times], axis=0), np.max([t[1] for t in times], axis=0)
        for _, part in behind_caches(self.mapping.layers[piece.layers[-1]], self.soc):
            machine = Machine.of(self.soc, part.core)
            members, tiles = self.chain(piece)
            size = rows_held(members, piece, tiles, machine)[0] * machine.side
            yield _Held(self.soc.cores[part.core].memory, since, until, np.full(len(since), size))
            return
        for producer, size in buffer_bytes(self.workload, piece.layers).items():
            core = next(part.core for part in self.mapping.layers[producer].parts if part.channels)
            yield _Held(self.soc.cores[core].memory, since, until, np.full(len(since), size))

    def chain(self, piece: Piece) -> tuple[Chain, list[Extent]]:
        first = self.place[piece.layers[0]]
        tiles = [self.mapping.layers[name].tile for name in piece.layers]
        return chain(self.workload, first, first + len(piece.layers) - 1), tiles

    def tile_rows(self, name: str, part: Part, piece: Piece | None) -> tuple[int, int]:
        """Rows of scratchpad and accumulator of a part's whole tile; 0 of scratchpad where a piece keeps it."""
        assert part.tile is not None
        machine = Machine.of(self.soc, part.core)
        shape, tiles = (
            shape_of(channel_slice(self.workload[name], part.channels)),
            Tiles.of(tile_in_rows(self.workload[name], part.tile)),
        )
        if piece is not None:
            members, extents = self.chain(piece)
            at, sink, last = piece.layers.index(name), members.shapes[-1], extents[-1]
            steps = -(-sink.oy // last.oy), -(-sink.ox // last.ox)
            ys = reach(members, last.oy, steps[0], int(piece.keep_rows), True)
            xs = reach(members, last.ox, steps[1], 0, False)
            tiles = replace(tiles, oy=ys[at].made, ox=xs[at].made)
        spad, acc = rows_needed(shape, tiles, machine)
        return int(spad) * (piece is None), int(acc)

    def array_tiles(self, array: str) -> Iterator[_Held]:
        """An array's tiles in flight, by the credit that each gives back when it is executed and stored."""
        core, machine = self.arrays[array][0], Machine.of(self.soc, array)
        slots = self.program.credit_names.index(name_of(self.soc, array, "tile_slots"))
        taken, given = (self.by_layer(found[0][found[1] == slots]) for found in (self.takes, self.gives))
        executes = (self.kind == COMPUTE) & (self.unit == self.program.unit_names.index(array))
        # Additions and partial sums are loaded into the accumulator; others come there with their execution.
        tag = self.program.rows["tag"][row_of(self.program, np.arange(self.program.n_ops))]
        summed = executes | ((self.kind == LOAD) & (tag == INTO_ACCUMULATOR))
        for name, number in self.number.items():
            parts = [part for _, part in behind_caches(self.mapping.layers[name], self.soc) if part.core == array]
            starts, back, ops = taken[number], given[number], self.ops_of[number]
            if not parts or not len(starts):
                continue
            spad, acc = self.tile_rows(name, parts[0], self.piece_of.get(name))
            if spad:
                mine = ops[executes[ops]]
                last = mine[np.searchsorted(mine, back, side="right") - 1]  # of the executions of each tile
                size = np.full(len(starts), spad * machine.side)
                # A product's store may end while the last k group is executed. The tile after next then starts in the
                # rows that the groups before have read, so the room is the next tile's from there on.
                until = np.minimum(self.end[last], self.end[back])
                yield _Held(core.memory, self.issue[starts], until, size)
            jobs = ops[summed[ops]]
            since = jobs[np.minimum(np.searchsorted(jobs, starts), len(jobs) - 1)]
            size = np.full(len(starts), acc * machine.side * PARTIAL_BYTES)
            yield _Held(core.accumulator, self.issue[since], self.end[back], size)


__all__ = ["MemoryUse", "RunInTime", "memory_use", "peak_bytes"]
