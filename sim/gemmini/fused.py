"""Layers and fused groups -> Program, tile by tile, with operands that stay where the next tile needs them again.

The machine is that of `cosoc.sim.gemmini.lower`: cpu, load, execute and store as units, the return path, the outer link
and the DRAM's as servers, two tiles in flight. What differs is the grain and the reuse. An op loads one operand of a
tile, in columns as wide as a mvin; what its mvins lose to latency, as many in flight as the load controller has, is in
its ticks. An operand that the
tile before had is not loaded again. The lines that an operand touches are looked up in L2 and last-level cache at
their addresses, in program order, from cold caches.

A fused group goes step by step (a tile of its last layer) and in a step layer by layer. Results go from the accumulator
to the scratchpad at a row a cycle (assumed: the store controller's reading and scaling, without its DMA); a layer's
first tile waits for the last row of what it reads. Loads of later tiles run beside, as far as tiles are in flight. Rows
of a step are exact: windows are followed back, cut at the borders.

The cycles of execution are the closed form's, for the tile alone. Operators that the array does not run are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit

from cosoc.sim import exact
from cosoc.sim.cores.systolic import Systolic
from cosoc.sim.errors import InputError
from cosoc.sim.gemmini.decode import Nest
from cosoc.sim.gemmini.estimate import (
    BEAT_BYTES,
    LINE_BYTES,
    MVIN_BYTES,
    NEST_DIMS,
    Machine,
    Reloads,
    Shape,
    Tiles,
    estimate_nest,
    nest_order,
    shape_of,
    terms,
)
from cosoc.sim.gemmini.groups import Chain, chain, misfits, why_not
from cosoc.sim.gemmini.lower import TICKS_PER_CYCLE, cache_sizes, rows_of
from cosoc.sim.gemmini.memory import LLC_LINE_BYTES, _miss, walk_on
from cosoc.sim.gemmini.run import gemmini_of
from cosoc.sim.machine.program import ROW, Builder, Program
from cosoc.sim.model.mapping import PARTIAL_BYTES, Extent, LayerPlan, Mapping, Piece
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.work import make_tile

Span = tuple[int, int]  # first, one past the last
PARTS = 8  # pieces that a GEMM's tile is cut into at most, whose execution starts as they arrive
_TILE_MVIN_ROWS = 16
MOST_FJ = 1 << 62  # energies are 64-bit integers


@dataclass(frozen=True)
class Moved:
    """Bytes that a program moves between DRAM and scratchpad, and rows that stay on the chip."""

    loaded_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Rect:
    """Rows x columns of `wide` bytes each, at an address; strides in bytes."""

    address: int
    rows: int
    row_stride: int
    cols: int
    col_stride: int
    wide: int

    @property
    def bytes(self) -> int:
        return self.rows * self.cols * self.wide


@njit(cache=True)  # type: ignore[misc, unused-ignore]
def _touched(l2: Any, llc: Any, rng: Any, address: int, rows: Any, cols: Any, wide: int) -> Any:
    """Lines that a rectangle brings into the L2, and into the last-level cache; rows, cols: (count, stride)."""
    from_llc = from_dram = 0
    for i in range(rows[0]):
        for j in range(cols[0]):
            at = address + i * rows[1] + j * cols[1]
            for line in range(at // LINE_BYTES, (at + wide - 1) // LINE_BYTES + 1):
                if _miss(l2, line, rng):
                    from_llc += 1
                    from_dram += _miss(llc, line * LINE_BYTES // LLC_LINE_BYTES, rng)
    return from_llc, from_dram


class _Memory:
    """Where tensors lie in DRAM, and what the caches have of them."""

    def __init__(self, workload: Workload, soc: SoC, core: Systolic) -> None:
        sizes = cache_sizes(soc, core)
        self.l2 = np.full((sizes.l2_sets, sizes.l2_ways), -1, np.int64)
        self.llc = np.full((sizes.llc_sets, sizes.llc_ways), -1, np.int64)
        self.rng = np.array([1], np.int64)  # the state of the random replacement: its seed
        self.base: dict[str, int] = {}
        at = 0
        tensors = [*workload.incoming.items()] + [(layer.name, layer.outputs) for layer in workload]
        tensors += [(f"{layer.name} weights", max(layer.weights, 1)) for layer in workload]
        for name, size in tensors:
            self.base[name] = at
            at += -(-size // LINE_BYTES) * LINE_BYTES

    def touch(self, rect: Rect) -> tuple[int, int]:
        """Lines that the L2 and the last-level cache miss."""
        found = _touched(
            self.l2, self.llc, self.rng, rect.address, (rect.rows, rect.row_stride), (rect.cols, rect.col_stride),
            rect.wide,
        )  # fmt: skip
        return int(found[0]), int(found[1])


def lower_plan(workload: Workload, mapping: Mapping, soc: SoC) -> tuple[Program, Moved]:
    """The program of all layers of the mapping that have a nest, in network order, fused as its groups say.

    InputError for a group that cannot be, or a layer that the array does not run.
    """
    emitter = Emitter(workload, soc)
    lower_layers(emitter, workload, mapping)
    return emitter.built()


def lower_network(workload: Workload, mapping: Mapping, soc: SoC, inferences: int = 1) -> Program:
    """The program of `inferences` of a network, one after the other, under a complete mapping without problems.

    Layers follow each other, as the library fences after each; caches keep what they have from one to the next.
    """
    emitter = Emitter(workload, soc)
    for _ in range(inferences):
        lower_layers(emitter, workload, mapping)
    return emitter.built()[0]


def lower_layers(emitter: Emitter, workload: Workload, mapping: Mapping) -> None:
    """Emit one inference: groups, layers with a nest, and layers that the mapping puts on the host, in their order."""
    positions = {layer.name: i for i, layer in enumerate(workload.layers)}
    group_at = {group.layers[0]: group for group in mapping.pieces}
    members = {name for group in mapping.pieces for name in group.layers}
    for layer in workload.layers:
        entry = mapping.layers.get(layer.name)
        if layer.name in group_at:
            group = group_at[layer.name]
            first, last = positions[group.layers[0]], positions[group.layers[-1]]
            reason = why_not(workload, first, last) if last - first + 1 == len(group.layers) else "has gaps"
            if reason:
                raise InputError(f"group {', '.join(group.layers)}: {reason}")
            nests = [_nest(mapping, name) for name in group.layers]
            fused = chain(workload, first, last)
            reasons = misfits(fused, group, nests, emitter.machine)
            if reasons:
                raise InputError(f"group {', '.join(group.layers)}: {'; '.join(reasons)}")
            emitter.group(fused, group, nests)
        elif entry is None or layer.name in members:
            continue
        elif entry.is_tiled and not _is_walked(layer, entry):
            emitter.single(layer, entry)
        elif entry.is_tiled:
            emitter.walked(layer, entry)
        elif any(part.core == emitter.soc.host for part in entry.parts):
            emitter.hosted(layer)


def _is_walked(layer: Layer, plan: LayerPlan) -> bool:
    """Whether a layer is run as the library runs it, every tile with operands of its own, depthwise channel by
    channel."""
    return not plan.reuse and layer.op in ("conv", "matmul") and (not layer.depthwise or plan.tile.k == 1)


def _nest(mapping: Mapping, name: str) -> Extent:
    entry = mapping.layers.get(name)
    if entry is None or not entry.is_tiled:
        raise InputError(f"layer {name}: has no tile; a fused piece on a systolic array needs one for each layer")
    return entry.tile


@dataclass(frozen=True)
class _Operand:
    """One operand of a tile. rect: None where it lies in the scratchpad. pixels: rows of at most `wide` bytes.
    each: bytes of an element, PARTIAL_BYTES of a partial sum, which goes to the accumulator."""

    rect: Rect | None
    pixels: int
    wide: int
    each: int = 1

    @property
    def beats(self) -> int:
        return self.pixels * -(-self.wide // BEAT_BYTES)

    def slabs(self) -> list[_Operand]:
        """The operand in columns as wide as a mvin, which come one after another: few mvins are in flight."""
        if self.rect is None or self.wide <= MVIN_BYTES:
            return [self]
        out = []
        for at, end in _spans(self.wide, MVIN_BYTES):
            rect = replace(self.rect, address=self.rect.address + at, wide=end - at)
            out.append(_Operand(rect, self.pixels, end - at, self.each))
        return out

    def requests(self, block: int = MVIN_BYTES) -> int:
        return self.pixels * -(-self.wide // block)


Tile = dict[str, Span]  # along NEST_DIMS


class Emitter:
    """The program as it grows."""

    def __init__(self, workload: Workload, soc: SoC) -> None:
        self.workload, self.soc, self.core = workload, soc, gemmini_of(soc)
        self.machine, self.memory = Machine.of(soc), _Memory(workload, soc, self.core)
        b = self.b = Builder(workload.name, soc.tick_hz * TICKS_PER_CYCLE)
        core = self.core
        array = next(name for name, core in soc.cores.items() if core is self.core)
        self.cpu, self.load, self.fill, self.fetch = (b.unit(n) for n in (soc.host, "load", "fill", "fetch"))
        self.execute, self.store = b.unit(array), b.unit("store")
        self.store_port, self.store_fill, self.store_fetch = (
            b.unit(n) for n in ("store_port", "store_fill", "store_fetch")
        )
        self.path = b.server(core.return_link, rate_bytes=1, rate_ticks=1)  # counts ticks
        outer, dram = soc.links[core.outer_link], soc.links[core.dram_link]
        self.outer, self.dram = (
            b.server(name, rate_bytes=link.bytes_per_period, rate_ticks=link.period_cycles * TICKS_PER_CYCLE)
            for name, link in ((core.outer_link, outer), (core.dram_link, dram))
        )
        self.slots = b.credit("tile_slots", 2 * core.software.tiles_in_flight)
        self.loaded = self.stored = 0
        self.label = -1
        self.ends: list[int] = []  # the last op of each unit that works on the layer, for the next one to wait for
        self._work: dict[tuple[Any, ...], tuple[float, int, int]] = {}

    def built(self) -> tuple[Program, Moved]:
        return self.b.build_for(f"{self.workload.name} on {self.soc.name}"), Moved(self.loaded, self.stored)

    def begin(self, layer: Layer) -> None:
        """A layer or group starts when the one before has ended, and is configured first."""
        self.label = self.b.layer(layer.name)
        start = _ticks(self.core.software.start_cycles)
        self.b.op(self.cpu, run=start, deps=self.ends, kind="launch", layer=self.label)
        self.ends = []

    # ------------------------------------------------------------------------------------------ pieces

    def single(self, layer: Layer, plan: LayerPlan) -> None:
        """A layer by itself: the tiles of its nest in order, operands loaded where the tile before had others."""
        shape = shape_of(layer)
        self.begin(layer)
        for copy in range(shape.copies):
            before: dict[str, Any] = {}
            started: set[Any] = set()
            for at, following in itertools.pairwise([*_tiles(shape, plan.tile, nest_order(plan)), None]):
                assert at is not None
                if not plan.reuse:
                    before = {"outputs": before.get("outputs")}
                loads, store = self._nest_tile(layer, shape, at, following, copy, before, started)
                self.tile(shape, at, loads, store)

    def _nest_tile(
        self, layer: Layer, shape: Shape, at: Tile, following: Tile | None, copy: int, before: dict[str, Any],
        started: set[Any],
    ) -> tuple[list[_Operand], _Operand | None]:  # fmt: skip
        """What a tile of a nest loads, and what it stores."""
        inputs_of = ("k", "oy", "ox") if shape.depthwise else ("c", "fy", "fx", "oy", "ox")
        inputs_of = (*inputs_of, "fy", "fx") if shape.depthwise else inputs_of
        weights, inputs = _key(at, ("k", "c", "fy", "fx")), _key(at, inputs_of)
        outputs = _key(at, ("k", "oy", "ox"))
        loads = []
        if weights != before.get("weights") and not shape.add:
            loads.append(self._weights(layer, shape, at, copy))
        if inputs != before.get("inputs"):
            names = layer.inputs if shape.add else layer.inputs[:1]
            loads += [self._inputs(layer, shape, at, copy, name) for name in names]
        if outputs != before.get("outputs") and outputs in started:
            loads.append(self._outputs(layer, at, copy, PARTIAL_BYTES))
        started.add(outputs)
        before |= {"weights": weights, "inputs": inputs, "outputs": outputs}
        if following is not None and _key(following, ("k", "oy", "ox")) == outputs:
            return loads, None
        complete = all(at[d][1] == getattr(shape, d) for d in ("c", "fy", "fx"))
        return loads, self._outputs(layer, at, copy, 1 if complete else PARTIAL_BYTES)

    def walked(self, layer: Layer, plan: LayerPlan) -> None:
        """A layer by itself, mvin by mvin, every tile with operands of its own: as the library runs it."""
        shape = Shape.of(layer)
        self.begin(layer)
        nest = Nest(
            "gemm" if shape.gemm else "conv", self.core.side, tuple(int(getattr(shape, d)) for d in NEST_DIMS),
            tuple(plan.tile.along(d) for d in NEST_DIMS), tuple(NEST_DIMS.index(d) for d in nest_order(plan)),
            layer.stride_y, layer.pad_y, layer.pad_x, layer.iy, layer.ix, bool(shape.depthwise),
        )  # fmt: skip
        base = self.memory.base
        second = base[layer.inputs[1]] if layer.op == "matmul" else base[f"{layer.name} weights"]
        spent = _energies(layer, plan, self.machine)
        for copy in range(shape.copies):
            where = (
                base[layer.inputs[0]] + copy * shape.c * shape.ox,
                second + copy * shape.k * shape.c,
                base[layer.name] + copy * shape.k * shape.ox,
            )
            accesses = walk_on(nest, (self.memory.l2, self.memory.llc, self.memory.rng), where)
            rows, deps, _ = rows_of(nest, accesses, self.core)
            self._splice(
                rows.reshape(-1).view(ROW), deps, layer.macs // shape.copies, [e / shape.copies for e in spent]
            )

    def _splice(self, rows: Any, deps: Any, macs: int, spent_pj: Sequence[float]) -> None:
        """Append rows as `gemmini.lower` makes them. macs, spent_pj: of all of them; the latter's execution, loads,
        stores."""
        b = self.b
        routes = np.array([b.slice_of("route", [server]) for server in (self.path, self.outer, self.dram)])
        amounts = {key: np.array([b.slice_of(key, [(self.slots, n)]) for n in (2, 1)]) for key in ("take", "give")}
        rows["route_at"] = np.where(rows["route_n"] > 0, routes[rows["route_at"]], 0)
        for key, at in amounts.items():
            rows[f"{key}_at"] = np.where(rows[f"{key}_n"] > 0, at[rows[f"{key}_at"]], 0)
        rows["layer"] = self.label
        unit = rows["unit"]
        execute, load, store = (np.flatnonzero(unit == u) for u in (self.execute, self.load, self.store))
        rows["macs"][execute] = _shares(macs, rows["run"][execute])
        for ops, weights, pj in zip(
            (execute, load, store),
            (rows["run"][execute], rows["bytes"][load], rows["run"][store]),
            spent_pj,
            strict=True,
        ):
            rows["energy_fj"][ops] = _shares(_fj(pj), weights)
        first = b.splice(rows, deps)
        self.ends = [first + int(np.flatnonzero(unit == u)[-1]) for u in np.unique(unit)]

    def hosted(self, layer: Layer) -> None:
        """A layer on the host, its operands in DRAM."""
        self.label = self.b.layer(layer.name)
        host = self.soc.cores[self.soc.host]
        cycles = host.cycles(make_tile(layer, layer.k, layer.oy, layer.ox), exact)
        op = self.b.op(
            self.cpu, run=_ticks(float(cycles)), deps=self.ends, kind="compute", layer=self.label, macs=layer.macs,
            energy_fj=_fj(layer.outputs * (1 + len(layer.inputs)) * self.machine.dram_pj),
        )  # fmt: skip
        self.ends = [op]

    def group(self, group: Chain, about: Piece, nests: Sequence[Extent]) -> None:
        """A fused group, step by step."""
        self.begin(group.layers[-1])
        sink, tile = group.layers[-1], nests[-1]
        ys = step_spans(group, _spans(sink.oy, tile.oy), about.keep_rows, True)
        xs = step_spans(group, _spans(sink.ox, tile.ox), False, False)
        ready: dict[int, int] = {}  # layer -> the op that ends what it leaves in the scratchpad
        there: set[Any] = set()  # weights that stay and have come
        arrived: dict[tuple[int, str], int] = {}  # input rows that were kept
        for rows, cols in itertools.product(ys, xs):
            for i in range(len(group.layers)):
                if rows[i][0] < rows[i][1] and cols[i][0] < cols[i][1]:
                    self._group_layer(group, about, i, nests[i], rows[i], cols[i], ready, there, arrived)

    def _group_layer(
        self, group: Chain, about: Piece, i: int, nest: Extent, rows: Span, cols: Span, ready: dict[int, int],
        there: set[Any], arrived: dict[tuple[int, str], int],
    ) -> None:  # fmt: skip
        """One layer's share of a step: its channel tiles, inputs once, weights as they stay or not."""
        layer, shape = group.layers[i], group.shapes[i]
        self.label = self.b.layer(layer.name)
        producers = [p for p, c in group.edges if c == i]
        inside = {group.layers[p].name for p in producers}
        waits = [ready[p] for p in producers]
        names = layer.inputs if shape.add else layer.inputs[:1]
        for at in _channel_tiles(shape, nest, rows, cols):
            is_first = at["k"][0] == at["c"][0] == 0
            loads = []
            key = (i, at["k"], at["c"])
            if not shape.add and key not in there:
                loads.append(self._weights(layer, shape, at, 0))
                if about.stays(layer.name):
                    there.add(key)
            for name in names:
                if shape.add and name in inside:
                    pixels = (rows[1] - rows[0]) * (cols[1] - cols[0])
                    loads.append(_Operand(None, pixels, at["k"][1] - at["k"][0]))
                elif name not in inside and (is_first or shape.depthwise):
                    whole = at if shape.depthwise else at | {"c": (0, shape.c)}
                    since = arrived.get((i, name), 0) if about.keep_rows and not shape.add else 0
                    loads.append(self._inputs(layer, shape, whole, 0, name, since))
            complete = at["c"][1] == shape.c
            store = self._outputs(layer, at, 0, 1) if complete and group.leaves[i] else None
            moves = complete and bool(group.readers(i))
            ready[i] = self.tile(shape, at, loads, store, waits if is_first else (), moves)
        for name in names:
            end = _window(rows, (0, shape.fy), shape.stride_y, layer.pad_y, layer.iy)[1]
            arrived[i, name] = max(arrived.get((i, name), 0), end)

    # ------------------------------------------------------------------------------------------ operands

    def _weights(self, layer: Layer, shape: Shape, at: Tile, copy: int) -> _Operand:
        (k0, k1), (c0, c1), (y0, y1), (x0, x1) = (at[d] for d in ("k", "c", "fy", "fx"))
        if layer.op == "matmul":
            base = self.memory.base[layer.inputs[1]] + copy * shape.k * shape.c
        else:
            base = self.memory.base[f"{layer.name} weights"]
        tap = shape.c * shape.k
        address = base + (y0 * shape.fx + x0) * tap + c0 * shape.k + k0
        n = (y1 - y0) * (x1 - x0)
        return _Operand(Rect(address, n, tap, c1 - c0, shape.k, k1 - k0), n * (c1 - c0), k1 - k0)

    def _inputs(self, layer: Layer, shape: Shape, at: Tile, copy: int, name: str, since: int = 0) -> _Operand:
        """since: rows before this one are there already."""
        first, last = at["k"] if shape.depthwise else at["c"]
        rows = _window(at["oy"], at["fy"], shape.stride_y, layer.pad_y, layer.iy)
        cols = _window(at["ox"], at["fx"], shape.stride_x, layer.pad_x, layer.ix)
        rows = (max(rows[0], since), max(rows[1], since))
        n_rows, n_cols = rows[1] - rows[0], cols[1] - cols[0]
        address = self.memory.base[name] + (rows[0] * layer.ix + cols[0]) * layer.c + first + copy * shape.c
        rect = Rect(address, n_rows, layer.ix * layer.c, n_cols, layer.c, last - first)
        return _Operand(rect, n_rows * n_cols, last - first)

    def _outputs(self, layer: Layer, at: Tile, copy: int, each: int) -> _Operand:
        """each: bytes of a result."""
        (k0, k1), (y0, y1), (x0, x1) = (at[d] for d in ("k", "oy", "ox"))
        first = copy * (layer.k // layer.groups) if layer.op == "matmul" else 0
        address = self.memory.base[layer.name] + ((y0 * layer.ox + x0) * layer.k + first + k0) * each
        rect = Rect(address, y1 - y0, layer.ox * layer.k * each, x1 - x0, layer.k * each, (k1 - k0) * each)
        return _Operand(rect, (y1 - y0) * (x1 - x0), (k1 - k0) * each, each)

    # ------------------------------------------------------------------------------------------ ops

    def tile(
        self, shape: Shape, at: Tile, loads: Sequence[_Operand], store: _Operand | None, waits: Sequence[int] = (),
        moves: bool = False,
    ) -> int:  # fmt: skip
        """One tile. waits: ops that its execution waits for; moves: its result goes to the scratchpad. The op that ends
        it is returned."""
        b, core, label = self.b, self.core, self.label
        software = core.software.gemm_tile_cycles if shape.gemm else core.software.conv_tile_cycles
        b.op(self.cpu, run=_ticks(software), kind="launch", layer=label)
        slot = b.op(self.cpu, take=[(self.slots, 2)], kind="sync", layer=label)
        parts = min(PARTS, -(-(at["c"][1] - at["c"][0]) // MVIN_BYTES)) if shape.gemm else 1
        figures = [[self._figures(slab, bool(shape.add)) for slab in operand.slabs()] for operand in loads]
        cycles, macs, spent_fj = self._execution(shape, at)
        run = _ticks(cycles)
        leaves = store is not None or moves
        taps = int(shape.fy * shape.fx) if shape.add else 1  # a pooling reads so many sums for each that it stores
        pooled = _pixels(at) * -(-(at["k"][1] - at["k"][0]) // core.side) * (taps - 1)
        begun = execute = -1
        for part in range(parts):
            deps = [slot] if part else [slot, *waits]
            for slabs in figures:
                before = [slot]
                for ticks, setup, lines, dram_lines, burst, fj in slabs:
                    amounts = [_share(n, part, parts) for n in (ticks, lines, dram_lines, fj)]
                    before = self._load_ops(before, amounts, setup, burst) or before
                deps += [op for op in before if op != slot]
            last = part == parts - 1
            begun = execute if part else slot
            execute = b.op(
                self.execute, run=_share(run, part, parts), deps=deps, layer=label,
                macs=_share(macs, part, parts), energy_fj=_share(spent_fj, part, parts),
                give=[(self.slots, 1 if leaves else 2)] if last else (),
            )  # fmt: skip
        self.ends = [execute]
        done = execute
        if moves:
            rows = _pixels(at) * -(-(at["k"][1] - at["k"][0]) // core.side)
            give = () if store is not None else [(self.slots, 1)]
            done = self._store_op(execute, rows, give, _pixels(at) * (at["k"][1] - at["k"][0]))
            self.ends.append(done)
        if store is not None:
            after = begun if shape.gemm and not waits else execute
            self.ends += self._leave(store, shape, [after], execute, pooled)
        return done

    def _figures(self, operand: _Operand, into_sums: bool) -> tuple[int, int, int, int, int, int]:
        """Ticks that an operand's mvins take, those before the first beat, lines, lines from DRAM, ticks of a mvin, and
        fJ. into_sums: it goes into the accumulator."""
        load, machine = self.core.load, self.machine
        if operand.rect is None:
            spent = operand.pixels * operand.wide * machine.scratchpad_pj
            return _ticks(operand.pixels * -(-operand.wide // self.core.side)), 0, 0, 0, 0, _fj(spent)
        self.loaded += operand.rect.bytes
        into_sums = into_sums or operand.each > 1
        written = machine.accumulator_pj / operand.each if into_sums else machine.scratchpad_pj
        spent = operand.rect.bytes * (machine.dram_pj + written)
        lines, dram_lines = self.memory.touch(operand.rect)
        mvins = -(-operand.pixels // _TILE_MVIN_ROWS) * -(-operand.wide // MVIN_BYTES)
        if mvins == 0:
            return 0, 0, 0, 0, 0, 0
        held = operand.beats + operand.requests() * load.request_cycles + lines * load.fill_cycles
        setup = load.setup_cycles
        setup += load.llc_cycles * min(1.0, lines / mvins) + load.dram_cycles * min(1.0, dram_lines / mvins)
        late = (mvins * setup + held) / self.core.mvins_in_flight
        return _ticks(max(held, late)), _ticks(setup), lines, dram_lines, max(1, _ticks(held / mvins)), _fj(spent)

    def _load_ops(self, before: Sequence[int], amounts: Sequence[int], setup: int, burst: int) -> list[int]:
        """The ops that load a part of a slab, after the ops `before`."""
        ticks, lines, dram_lines, fj = amounts
        b, label, out = self.b, self.label, []
        if ticks and not burst:  # from the scratchpad
            return [b.op(self.load, run=ticks, deps=before, kind="load", layer=label, energy_fj=fj)]
        if ticks:
            out.append(
                b.op(self.load, setup=setup, bytes=ticks, burst=burst, route=[self.path], deps=before, kind="load",
                     layer=label, energy_fj=fj)
            )  # fmt: skip
        for unit, server, n, size in (
            (self.fill, self.outer, lines, LINE_BYTES), (self.fetch, self.dram, dram_lines, LLC_LINE_BYTES),
        ):  # fmt: skip
            if n:
                out.append(
                    b.op(unit, bytes=n * size, burst=size, route=[server], deps=before, kind="load", layer=label)
                )
        return out

    def _store_op(self, execute: int, rows: int, give: Any, words: int) -> int:
        """Results go from the accumulator to the scratchpad."""
        setup = _ticks(self.core.execute.drain_cycles)
        return self.b.op(
            self.store, setup=setup, run=_ticks(rows), deps=[execute], kind="store", layer=self.label, give=give,
            energy_fj=_fj(words * (self.machine.accumulator_pj + self.machine.scratchpad_pj)),
        )  # fmt: skip

    def _leave(
        self, operand: _Operand, shape: Shape, after: Sequence[int], execute: int, pooled: int
    ) -> list[int]:  # fmt: skip
        """The ops that store a tile's result to DRAM. pooled: rows that are read besides those that are stored."""
        assert operand.rect is not None
        b, core, label = self.b, self.core, self.label
        self.stored += operand.rect.bytes
        lines, dram_lines = self.memory.touch(operand.rect)
        requests = operand.requests(MVIN_BYTES if shape.gemm else core.side)
        cycles = operand.beats + requests * core.store.request_cycles + pooled
        spent = operand.rect.bytes * (self.machine.dram_pj + self.machine.accumulator_pj / operand.each)
        setup = _ticks(core.execute.drain_cycles)
        deps = list(after)
        out = [
            b.op(self.store, setup=setup, run=_ticks(cycles), deps=[execute], kind="store", layer=label,
                 give=[(self.slots, 1)], energy_fj=_fj(spent))
        ]  # fmt: skip
        port = _ticks(operand.beats + lines * core.load.fill_cycles)
        for unit, server, n, size in (
            (self.store_port, self.path, port, max(1, port // max(1, operand.pixels // _TILE_MVIN_ROWS))),
            (self.store_fill, self.outer, lines * LINE_BYTES, LINE_BYTES),
            (self.store_fetch, self.dram, dram_lines * LLC_LINE_BYTES, LLC_LINE_BYTES),
        ):
            if n:
                out.append(
                    b.op(unit, setup=setup, bytes=n, burst=size, route=[server], deps=deps, kind="store", layer=label)
                )
        return out

    def _execution(self, shape: Shape, at: Tile) -> tuple[float, int, int]:
        """One tile's execution, by the closed form: cycles, products, fJ of these and of what they read and add up."""
        sizes = tuple(at[d][1] - at[d][0] for d in NEST_DIMS)
        key = (shape.add, shape.depthwise, shape.gemm, *sizes)
        if key not in self._work:
            one = replace(shape, **dict(zip(NEST_DIMS, sizes, strict=True)), copies=1)
            found, machine = terms(one, Tiles(*sizes), Reloads(1, 1, 1), self.machine, exact), self.machine
            outputs = one.k * one.oy * one.ox
            loaded = found.dram_bytes - outputs  # written into the scratchpad by loads, which count that
            words = 0 if shape.add else found.scratchpad_words - loaded
            sums = 0 if shape.add else found.accumulator_words - outputs
            spent = found.macs * machine.mac_pj + found.register_words * machine.register_pj
            spent += words * machine.scratchpad_pj + sums * machine.accumulator_pj
            self._work[key] = (float(found.execute), int(found.macs), _fj(float(spent)))
        return self._work[key]


# ---------------------------------------------------------------------------------------------- spans


def _ticks(cycles: float) -> int:
    return round(cycles * TICKS_PER_CYCLE)


def _fj(picojoules: float) -> int:
    if not 1000 * picojoules < MOST_FJ:
        raise InputError(f"an energy of {picojoules:.3g} pJ is more than can be counted, {MOST_FJ / 1000:.3g}")
    return round(1000 * picojoules)


def _shares(total: int, weights: Any) -> Any:
    """Whole parts of a total, in proportion to the weights."""
    reached = np.rint(np.cumsum(weights) / max(1, int(weights.sum())) * total).astype(np.int64)
    return np.diff(reached, prepend=0)


def _energies(layer: Layer, plan: LayerPlan, machine: Machine) -> tuple[float, float, float]:
    """Energy of a layer's execution, loads and stores, pJ, by the closed form."""
    cost = estimate_nest(layer, plan, machine)
    stored = layer.outputs * (machine.dram_pj + machine.accumulator_pj)
    loaded = (cost.terms.dram_bytes - layer.outputs) * (machine.dram_pj + machine.scratchpad_pj)
    return float(cost.energy_pj - loaded - stored), float(loaded), float(stored)


def _share(n: int, part: int, parts: int) -> int:
    """The part of n things that falls to one of `parts`."""
    return n * (part + 1) // parts - n * part // parts


def _spans(extent: int, tile: int) -> list[Span]:
    return [(at, min(at + tile, extent)) for at in range(0, extent, tile)]


def _key(at: Tile, dims: Sequence[str]) -> tuple[Span, ...]:
    return tuple(at[d] for d in dims)


def _pixels(at: Tile) -> int:
    return (at["oy"][1] - at["oy"][0]) * (at["ox"][1] - at["ox"][0])


def _tiles(shape: Shape, tile: Extent, order: Sequence[str]) -> Iterator[Tile]:
    """The tiles of a nest, in the order of its loops."""
    loops = [_spans(getattr(shape, d), tile.along(d)) for d in order]
    for spans in itertools.product(*loops):
        yield dict(zip(order, spans, strict=True))


def _channel_tiles(shape: Shape, nest: Extent, rows: Span, cols: Span) -> Iterator[Tile]:
    """The tiles of a layer within a step: output channels outside, input channels inside."""
    for k, c in itertools.product(_spans(shape.k, nest.k), _spans(shape.c, nest.c)):
        yield {"k": k, "c": c, "fy": (0, shape.fy), "fx": (0, shape.fx), "oy": rows, "ox": cols}


def _window(out: Span, taps: Span, stride: int, pad: int, size: int) -> Span:
    """Input rows (or columns) under output rows and filter rows, without those in the padding."""
    first, end = out[0] * stride + taps[0] - pad, (out[1] - 1) * stride + taps[1] - pad
    return max(first, 0), min(max(end, 0), size)


def step_spans(group: Chain, steps: Sequence[Span], keep: bool, rows: bool) -> list[list[Span]]:
    """Of every step and layer, the rows (or columns) that it computes: all that the step needs, or, where rows are
    kept, those that no step before has computed."""
    n = len(group.layers)
    done = [0] * n
    out = []
    for step in steps:
        now: list[Span] = [step] * n
        for p in range(n - 2, -1, -1):
            layer = group.layers[p]
            size = layer.oy if rows else layer.ox
            windows = []
            for q in group.readers(p):
                s, reader = group.shapes[q], group.layers[q]
                if now[q][0] < now[q][1]:
                    figures = (s.fy, s.stride_y, reader.pad_y) if rows else (s.fx, s.stride_x, reader.pad_x)
                    windows.append(_window(now[q], (0, figures[0]), figures[1], figures[2], size))
            first, end = min((w[0] for w in windows), default=0), max((w[1] for w in windows), default=0)
            if keep:
                first, end = done[p], max(done[p], end if step is not steps[-1] or not group.leaves[p] else size)
                done[p] = end
            now[p] = (first, end)
        out.append(now)
    return out
