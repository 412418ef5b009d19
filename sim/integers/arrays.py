"""The same for arrays behind a cached mover: tile by tile, scratchpad and accumulator as the mover's ops fill them.

The ops of a tile stand together, behind its start. What came for a tile stays for the tiles after it until another
slice comes in its place; sums stay in the accumulator until a tile of other results begins, and what has left as
partial sums is there again only where it was fetched. In a fused piece, rows stay that the next step needs: so many as
`fused_steps.reach` says, and no more. Within a tile, when each row of it comes is the mover's; between tiles, what is
read of the main memory must have been stored by then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from cosoc.sim.integers.network import WEIGHTED, IntegerLayer, Ints
from cosoc.sim.integers.regions import (
    NEVER,
    Ranges,
    Region,
    Stretch,
    Tensor,
    TileFault,
    elements,
    inputs_under,
    outputs,
    slices,
    tile_sums,
)
from cosoc.sim.integers.tiles import (
    LAUNCH,
    LOAD,
    STORE,
    WEIGHTS,
    DmaRun,
    Sums,
    counted,
    operands,
    products,
    weights_box,
)
from cosoc.sim.machine.program import KINDS
from cosoc.sim.model.mapping import Piece
from cosoc.sim.model.workload import Layer
from cosoc.sim.movers.cached_terms import cached_cores
from cosoc.sim.movers.cached_units import CONTROL, INTO_ACCUMULATOR, UNITS, core_of_unit, name_of
from cosoc.sim.movers.cached_units import LOAD as LOADER
from cosoc.sim.movers.fused_steps import Chain, chain, reach
from cosoc.sim.movers.notes import NONE

COMPUTE = KINDS.index("compute")
Key = tuple[Stretch, ...]


@dataclass
class _Near:
    """What an array has of one layer (or part) in its memories: inputs an operand, weights, sums and partial sums that
    have left."""

    inputs: list[Region] = field(default_factory=list)
    weights: Region | None = None
    sums: Sums | None = None
    left: dict[Key, Sums] = field(default_factory=dict)


@dataclass
class _Fused:
    """A fused piece while it is gone through. held: of each layer, the rows that its results may take; outside: of each
    layer that reads from memory, what is there of it; inside: of each layer that the piece reads, likewise. weights:
    of each layer, those that are there. step: of each layer, the rows and columns of the tile before."""

    chain: Chain
    held: dict[str, int]
    outside: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    inside: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    step: dict[str, tuple[Stretch, Stretch]] = field(default_factory=dict)


class ArrayRun:
    """Tiles of arrays, in a run of all cores."""

    def __init__(self, run: DmaRun) -> None:
        self.run = run
        soc = run.soc
        names = run.program.unit_names
        units = core_of_unit(soc) | {name: name for name in cached_cores(soc)}
        self.core_of = {number: units[name] for number, name in enumerate(names) if name in units}
        self.control = {names.index(name_of(soc, core, UNITS[CONTROL])) for core in cached_cores(soc)}
        self.loaders = {names.index(name_of(soc, core, UNITS[LOADER])) for core in cached_cores(soc)}
        self.segment: list[int] = []
        self.near: dict[tuple[str, int], _Near] = {}
        self.fused: dict[int, _Fused] = {}

    def op(self, op: int) -> bool:
        """Whether an op is an array's; its tile is carried out when the next one begins."""
        row = self.run.program.rows[op]
        if int(row["unit"]) not in self.core_of:
            self.flush()
            return False
        if self.run.notes["tile"][op] == NONE:
            return True
        if int(row["unit"]) in self.control and row["kind"] == LAUNCH:
            self.flush()
        self.segment.append(op)
        return True

    def flush(self) -> None:
        """Carry out the tile whose ops have come."""
        if self.segment:
            ops, self.segment = np.array(self.segment), []
            self._tile(ops)

    def _tile(self, ops: Ints) -> None:
        run = self.run
        rows, base = run.program.rows[ops], int(run.notes["tile"][ops[0]])
        name, number = run.program.layers[rows["layer"][0]], int(run.tiles[base]["part"])
        _, core = run.part(name, number)
        own, about = run.form(name, core)
        ranges, piece = run.range_of(base), run.fused.get(name)
        moves = np.isin(rows["unit"], list(self.loaders)) & (rows["payload_bytes"] > 0)
        into_sums = rows["tag"] == INTO_ACCUMULATOR
        loads = ops[moves & (rows["kind"] == LOAD) & ~(into_sums & (own.op in WEIGHTED))]
        fetched = ops[moves & (rows["kind"] == LOAD) & into_sums & (own.op in WEIGHTED)]
        weights = ops[moves & (rows["kind"] == WEIGHTS)]
        near = self.near.setdefault((name, number), _Near())
        place = None if piece is None else self._piece(piece)
        if place is None:
            inputs = self._inputs(near, own, ranges, loads, ops)
        else:
            inputs = self._inputs_of_piece(place, piece, own, ranges, loads, ops)
        found = None
        if own.op in WEIGHTED:
            resident = piece is None or piece.stays(name)
            found = self._weights(near, place, own, about, ranges, weights, resident)
        self._sum(near, own, ranges, ops, inputs, found, fetched)
        stores = ops[(rows["kind"] == STORE) & (rows["payload_bytes"] > 0)]  # others move to the scratchpad
        self._leave(near, place, name, own, ranges, stores, int(run.trace.end[ops[-1]]))

    # -- what comes ----------------------------------------------------------------------------------------

    def _moved(self, ops: Ints) -> int:
        return int(self.run.program.rows["payload_bytes"][ops].sum())

    def _inputs(self, near: _Near, own: Layer, ranges: Ranges, loads: Ints, ops: Ints) -> list[Ints]:
        box, who = inputs_under(own, ranges), f"{own.name}, op {ops[0]}"
        if len(loads):
            found = self.run.read_home(own, box, int(loads[0]), int(loads[-1]))
            self._check_bytes(own, loads, elements(box) * len(found))
            near.inputs = [Region(box, one.copy(), 0) for one in found]
        if not elements(box):
            return [np.zeros([end - first for first, end in box], np.int64) for _ in operands(own)]
        if not near.inputs:
            raise TileFault(f"{who}: reads inputs, and none were brought")
        return [one.part(box, NEVER - 1, who) for one in near.inputs]

    def _check_bytes(self, own: Layer, loads: Ints, needed: int) -> None:
        if self._moved(loads) < needed:
            raise TileFault(f"{own.name}, op {loads[0]}: {self._moved(loads)} bytes come for a tile of {needed}")

    def _weights(
        self, near: _Near, place: _Fused | None, own: Layer, about: IntegerLayer, ranges: Ranges, came: Ints,
        stay: bool,
    ) -> Ints:  # fmt: skip
        name, at = own.name, weights_box(own, ranges)
        if len(came) and self._moved(came) < elements(at):
            raise TileFault(f"{name}, op {came[0]}: {self._moved(came)} bytes come for {elements(at)} weights")
        if own.op == "matmul" and len(came):
            near.weights = replace(self.run.read_second(own, about, ranges, int(came[0]), int(came[-1])), ready=0)
        if place is None or own.op == "matmul":
            if len(came) and own.op == "conv":
                assert about.weights is not None
                near.weights = Region(at, about.weights[slices(at)], 0)
            if near.weights is None:
                raise TileFault(f"{name}: computes, and no weights were brought")
            return near.weights.part(at, NEVER - 1, name)
        assert about.weights is not None
        there = place.weights.setdefault(name, Tensor.empty(f"weights of {name}", about.weights.shape))
        if len(came):
            if not stay:
                there.ready[:] = NEVER
            there.write(at, about.weights[slices(at)], 0, name)
        return there.read(at, NEVER - 1, name)

    # -- what is computed ----------------------------------------------------------------------------------

    def _sum(
        self, near: _Near, own: Layer, ranges: Ranges, ops: Ints, inputs: list[Ints], weights: Ints | None,
        fetched: Ints,
    ) -> None:  # fmt: skip
        key = tuple(outputs(ranges))
        if near.sums is None or tuple(outputs(near.sums.tile)) != key:
            near.sums = near.left.pop(key, None) if len(fetched) else None
            if len(fetched) and near.sums is None:
                raise TileFault(f"{own.name}, op {fetched[0]}: fetches partial sums that have not left")
        if own.op not in WEIGHTED:
            near.sums = Sums(ranges, tile_sums(own, ranges, inputs, None), counted(ranges, own))
            return
        assert weights is not None
        rows = self.run.program.rows[ops]
        first = inputs_under(own, ranges)[1][0]
        for op in ops[(rows["kind"] == COMPUTE) & (rows["macs"] > 0)].tolist():
            mine = self.run.range_of(int(self.run.notes["tile"][op]))
            box, (c0, _) = inputs_under(own, mine), ranges["c"]
            low, high = box[1][0] - first, box[1][1] - first
            along = slice(mine["c"][0] - c0, mine["c"][1] - c0)
            part = weights[:, :, along] if own.op == "matmul" else weights[:, along]
            sums = tile_sums(own, mine, [one[:, low:high] for one in inputs], part)
            if near.sums is None:
                near.sums = Sums(ranges, sums, counted(mine, own))
            else:
                near.sums.add(sums, counted(mine, own))

    def _leave(
        self, near: _Near, place: _Fused | None, name: str, own: Layer, ranges: Ranges, stores: Ints, end: int
    ) -> None:  # fmt: skip
        run, one = self.run, near.sums
        if one is None:
            raise TileFault(f"{name}: a tile without products")
        if one.counted < products(own):
            if len(stores):
                near.left[tuple(outputs(ranges))], near.sums = one, None
            return
        near.sums = None
        one.ready = int(run.trace.end[stores].max()) if len(stores) else end
        _, about = run.form(name, run.part(name, 0)[1])
        out = run.done(name, about, one, own)
        if len(stores):
            if self._moved(stores) < out.size:
                raise TileFault(f"{name}, op {stores[0]}: stores {self._moved(stores)} bytes of {out.size}")
            run.home[name].write(outputs(ranges), out, one.ready, name)
        if place is not None and place.chain.readers([la.name for la in place.chain.layers].index(name)):
            self._keep(place, name, ranges, out)
        elif not len(stores):
            raise TileFault(f"{name}: results of {dict(ranges)} stay in the accumulator")

    # -- fused pieces --------------------------------------------------------------------------------------

    def _piece(self, piece: Piece) -> _Fused:
        if id(piece) not in self.fused:
            names = [layer.name for layer in self.run.workload]
            group = chain(self.run.workload, names.index(piece.layers[0]), names.index(piece.layers[-1]))
            sink, tile = group.layers[-1], self.run.mapping.layers[piece.layers[-1]].tile
            held = reach(group, tile.oy, -(-sink.oy // tile.oy), int(piece.keep_rows), True)
            rows = {layer.name: int(one.held) for layer, one in zip(group.layers, held, strict=True)}
            self.fused[id(piece)] = _Fused(group, rows)
        return self.fused[id(piece)]

    def _inputs_of_piece(
        self, place: _Fused, piece: Piece | None, own: Layer, ranges: Ranges, loads: Ints, ops: Ints
    ) -> list[Ints]:
        assert piece is not None
        box, who, out = inputs_under(own, ranges), f"{own.name}, op {ops[0]}", list[Ints]()
        step = ranges["oy"], ranges["ox"]
        anew = place.step.get(own.name) != step
        place.step[own.name] = step
        if anew and not piece.keep_rows and own.name in place.inside:
            place.inside[own.name].ready[:] = NEVER
        needed = 0
        for name in operands(own):
            if name in piece.layers:
                tensor = place.inside.get(name)
                if tensor is None:
                    raise TileFault(f"{who}: reads {name}, of which nothing is in the scratchpad")
                out.append(tensor.read(box, NEVER - 1, who))
                continue
            home = self.run.home[name] if own.op == "add" else self.run.home[name].as_read(own)
            there = place.outside.setdefault((own.name, name), Tensor.empty(name, home.values.shape))
            if anew:  # rows before the window make room; without rows that stay, all of them do
                there.ready[:, :, : box[2][0] if piece.keep_rows else None] = NEVER
            if len(loads):
                (values,) = self.run.read_home(own, box, int(loads[0]), int(loads[-1]), [name])
                needed += int((there.ready[slices(box)] == NEVER).sum())
                there.write(box, values, 0, who)
            out.append(there.read(box, NEVER - 1, who))
        if len(loads):
            self._check_bytes(own, loads, needed)
        return out

    def _keep(self, place: _Fused, name: str, ranges: Ranges, out: Ints) -> None:
        """Put results into the scratchpad, and take out the rows that they push out."""
        layer = self.run.workload[name]
        tensor = place.inside.setdefault(name, Tensor.empty(name, (layer.n, layer.k, layer.oy, layer.ox)))
        (_, end), (left, right) = ranges["oy"], ranges["ox"]
        tensor.ready[:, :, : max(0, end - place.held[name])] = NEVER
        tensor.ready[:, :, end:] = NEVER
        tensor.ready[:, :, :, :left], tensor.ready[:, :, :, right:] = NEVER, NEVER
        tensor.write(outputs(ranges), out, 0, name)


__all__ = ["ArrayRun"]
