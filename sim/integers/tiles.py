"""A run's schedule, carried out on integers: every transfer brings what its tile says, every job computes with that.

The ops of a run are gone through with what each is for (`movers.notes`) and when it starts and ends. A transfer copies
the box of a tensor that its tile reads, which must be there, into a buffer; a job computes from the buffers that its
transfers filled, or from rows of a fused piece that lie in a line buffer; partial sums of cut input channels add up;
a store takes results home. So what comes out says whether tiles, halos, channels of each core, partial sums and the
order of fused rows are those of the network. `TileFault` where a tile reads what no op has made yet, or what another
row has taken the place of, where a transfer has fewer bytes than its tile, or where a result is incomplete.

Each job computes in the formats of its core: weights that it cannot hold, or inputs that it cannot read, are faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cosoc.sim.errors import InputError
from cosoc.sim.integers.network import (
    WEIGHTED,
    IntegerLayer,
    IntegerNetwork,
    Ints,
    check_known,
    joined_along,
    rows_of,
)
from cosoc.sim.integers.real import as_weights
from cosoc.sim.integers.regions import (
    NEVER,
    Box,
    Ranges,
    Region,
    Tensor,
    TileFault,
    elements,
    inputs_under,
    outputs,
    tile_sums,
)
from cosoc.sim.lower.fusion import line_buffers
from cosoc.sim.machine.program import KINDS
from cosoc.sim.model.mapping import DIMS, Part
from cosoc.sim.model.soc import Core
from cosoc.sim.model.tiles import channels_read, form
from cosoc.sim.model.workload import INPUT, Layer
from cosoc.sim.movers.notes import NONE
from cosoc.sim.report.held_at import ACTIVATION, held
from cosoc.sim.report.result import Result
from cosoc.sim.report.schedule import with_notes
from cosoc.sim.tiler import living

LOAD, WEIGHTS, STORE = (KINDS.index(kind) for kind in ("load", "weights", "store"))
LAUNCH = KINDS.index("launch")
JOBS = tuple(KINDS.index(kind) for kind in ("launch", "feed", "compute", "sync"))


@dataclass
class Sums:
    """Sums of a tile so far, of each operand, and how many products, or taps, of each are in them."""

    tile: Ranges
    sums: list[Ints]
    counted: int
    ready: int = 0

    def add(self, other: Sequence[Ints], counted: int) -> None:
        self.sums = [a + b for a, b in zip(self.sums, other, strict=True)]
        self.counted += counted


@dataclass(frozen=True)
class Rows:
    """The line buffer of a fused layer: so many rows, each in the place of its number modulo them. there: the row in
    each place; values [places, n, k, ox]; ready: from when on; read_until: when its last reader so far ends."""

    there: list[int]
    values: list[Ints]
    ready: list[int]
    read_until: list[int]


class TiledRun:
    """Tensors at home while a run is gone through. computed: what layers have made so far, wherever it lies."""

    def __init__(self, result: Result, network: IntegerNetwork, image: Ints) -> None:
        if result.inferences != 1:
            raise InputError(f"{result.inferences} inferences; integers are computed of a run of one")
        check_known(result.at.workload)
        self.at, self.network, self.trace = result.at, network, result.trace
        self.workload, self.soc, self.mapping = result.at.workload, result.at.soc, result.at.mapping
        self.program, self.notes, self.tiles = with_notes(result)
        self.alive = {layer.name for layer in living(self.workload, self.mapping, self.soc)}
        self.memories = tuple(self.soc.memories)
        about = held(self.program, self.trace, self.at, 1, self.notes)
        self.stays = {name: one for (what, name), one in about.lasting.items() if what == ACTIVATION}
        c, iy, ix = self.workload.input_shape
        if image.shape != (self.workload.n, c, iy, ix):
            raise InputError(f"image {image.shape}; {self.workload.name} takes {(self.workload.n, c, iy, ix)}")
        self.home = {INPUT: Tensor(INPUT, image.astype(np.int64), np.zeros(image.shape, np.int64))}
        shapes = {layer.name: (layer.n, layer.k, layer.oy, layer.ox) for layer in self.workload}
        self.home |= {name: Tensor.empty(name, shape) for name, shape in shapes.items() if name in self.alive}
        self.computed = {name: Tensor.empty(name, shapes[name]) for name in self.alive}
        self.fused = {name: piece for piece in self.mapping.pieces if piece.how == "fused" for name in piece.layers}
        self._check_formats()

    def end(self) -> dict[str, Tensor]:
        """What every layer has computed. TileFault where an element was computed by nobody, but for rows of a fused
        piece that no window reads."""
        for name, tensor in self.computed.items():
            if name not in self.fused or self.workload.leaves(name):
                tensor.read(whole_box(tensor), NEVER - 1, "the end")
            if self.workload.leaves(name):
                self.home[name].read(whole_box(tensor), NEVER - 1, "the end")
        return self.computed

    # -- what layers are on cores --------------------------------------------------------------------------

    def part(self, name: str, number: int) -> tuple[Part, Core]:
        part = self.mapping.layers[name].parts[number]
        return part, self.soc.core_of(part)

    def form(self, name: str, core: Core) -> tuple[Layer, IntegerLayer]:
        """A layer in the form that a core computes, and its integers."""
        layer, about = self.workload[name], self.network.layers[name]
        own = form(layer, core)
        if own is layer:
            return layer, about
        assert about.alternative is not None, f"layer {name} has no integers of its other form"
        return own, about.alternative

    def _check_formats(self) -> None:
        for name in self.alive:
            for number, part in enumerate(self.mapping.layers[name].parts):
                own, about = self.form(name, self.part(name, number)[1])
                core = self.soc.core_of(part)
                # Numbers of rows are no operands; a host reads what there is, and so do cores whose files cannot say.
                any_width = part.core == self.soc.host or "act_bits" in core.UNUSED
                for tensor in own.inputs if about.table is None else ():
                    if tensor not in self.network.tensors:
                        raise TileFault(f"layer {name} reads {tensor}, which leaves the network as sums")
                    one = self.network.tensors[tensor]
                    most = 2 ** (core.act_bits - 1) - 1 if one.low < 0 else 2**core.act_bits - 1
                    if max(-one.low, one.high) > most and not any_width:
                        said = f"{tensor} is of {one.low} .. {one.high}"
                        raise TileFault(f"layer {name}: {said}, and {part.core} reads {core.act_bits} bits")
                first = sum(one.channels for one in self.mapping.layers[name].parts[:number])
                if about.weights is not None and part.channels:
                    mine = about.weights[first : first + part.channels]
                    top = 1 if core.ternary else 2 ** ((part.bits or core.weight_bits) - 1) - 1
                    if np.abs(mine).max() > top:
                        said = f"weights up to {np.abs(mine).max()} on {part.core}"
                        raise TileFault(f"layer {name}: {said}, which holds -{top} .. {top}")

    # -- tensors -------------------------------------------------------------------------------------------

    def read_home(self, own: Layer, box: Box, op: int, end: int, names: Sequence[str] | None = None) -> list[Ints]:
        """A box of the tensors that a layer reads (of some of them) at home, while op .. end run."""
        issue, until, out = int(self.trace.issue[op]), int(self.trace.end[end]), []
        if not elements(box):
            return [np.zeros([b - a for a, b in box], np.int64) for _ in (names or operands(own))]
        if own.op == "concat" and names is None and not own.constants:
            first, parts, axis = 0, [], self.joined_along(own)
            for name in own.inputs:
                tensor = self._lying(name, issue, until, own.name)
                size = tensor.values.shape[axis]
                low, high = max(box[axis][0] - first, 0), min(box[axis][1] - first, size)
                if low < high:
                    n, k, rows, columns = box
                    mine: Box = (n, (low, high), rows, columns) if axis == 1 else (n, k, rows, (low, high))
                    parts.append(tensor.read(mine, issue, f"{own.name}, op {op}"))
                first += size
            return [np.concatenate(parts, axis)]
        for name in names or operands(own):
            tensor = self._as_read(own, self._lying(name, issue, until, own.name))
            out.append(tensor.read(box, issue, f"{own.name}, op {op}"))
        return out

    def _as_read(self, own: Layer, tensor: Tensor) -> Tensor:
        """A tensor in the shape in which a layer reads it: of numbers, the rows of its table that they pick."""
        if own.op == "gather":
            table = self.network.layers[own.name].table
            assert table is not None
            found = rows_of(table, tensor.values, own)
            return Tensor(
                tensor.name, found, np.broadcast_to(tensor.ready.reshape(own.n, 1, own.oy, own.ox), found.shape)
            )
        return tensor if own.op in ("add", "concat") and not own.constants else tensor.as_read(own)

    def joined_along(self, own: Layer) -> int:
        """The axis along which a concatenation puts its tensors side by side."""
        return joined_along(own, [self.home[name].values.shape[1] for name in own.inputs])

    def read_second(self, own: Layer, about: IntegerLayer, ranges: Ranges, op: int, end: int) -> Region:
        """What a tile of a product of two tensors multiplies by, at home, while op .. end run: [n, k, c, 1]."""
        issue, until = int(self.trace.issue[op]), int(self.trace.end[end])
        tensor = self._lying(own.second, issue, until, own.name)
        seen = (as_weights(own, one, about.keys) for one in (tensor.values, tensor.ready))
        box = weights_box(own, ranges)
        return Region(box, Tensor(own.second, *seen).read(box, issue, f"{own.name}, op {op}"), until)

    def _lying(self, name: str, issue: int, until: int, who: str) -> Tensor:
        """A tensor, while it lies at home."""
        stays = self.stays.get(name)
        if stays is not None and not (stays.since[0] <= issue and until <= stays.until[0]):
            lies = f"lies in {stays.memory} from tick {stays.since[0]} to {stays.until[0]}"
            raise TileFault(f"{who}, ticks {issue} to {until}: reads {name}, which {lies}")
        return self.home[name]

    def done(self, name: str, about: IntegerLayer, one: Sums, own: Layer) -> Ints:
        """The results of a tile whose sums are complete."""
        needed = products(own)
        if one.counted != needed:
            raise TileFault(f"{name}, {dict(one.tile)}: {one.counted} of {needed} products are in its sums")
        first, end = one.tile["k"]
        if about.real is not None and not about.real.whole(first, end, own):
            raise TileFault(
                f"{name}, {dict(one.tile)}: has a part of the channels that its {about.real.function} needs"
            )
        out = about.finished(one.sums, first, end)
        self.computed[name].write(outputs(one.tile), out, one.ready, name)
        return out

    def range_of(self, tile: int) -> Ranges:
        row = self.tiles[tile]
        return {d: (int(row[f"{d}0"]), int(row[f"{d}1"])) for d in DIMS}


def operands(own: Layer) -> tuple[str, ...]:
    """The tensors that come side by side: of a sum all, else the first."""
    return own.inputs if own.op in ("add", "concat") else own.inputs[:1]


def products(own: Layer) -> int:
    """Products, or taps, that each result is summed up of."""
    return channels_read(own) * own.fy * own.fx if own.op in WEIGHTED else own.fy * own.fx


def counted(tile: Ranges, own: Layer) -> int:
    """How many of those a tile has."""
    size = {d: end - first for d, (first, end) in tile.items()}
    return (size["c"] if own.op in WEIGHTED else 1) * size["fy"] * size["fx"]


def constants_of(about: IntegerLayer, own: Layer, tile: Ranges) -> int:
    """Elements of a layer's constants that a tile needs."""
    (k0, k1), (y0, y1), (x0, x1) = tile["k"], tile["oy"], tile["ox"]
    if about.constant is not None:
        length: int = about.constant.shape[2]
        return (k1 - k0) * (y1 - y0) * max(0, min(x1, length) - x0)
    return 2 * (k1 - k0)  # scales and shifts of a norm


def weights_box(own: Layer, tile: Ranges) -> Box:
    """Where a tile's weights lie, or what stands in their place of each image."""
    if own.op == "matmul":
        return tile["n"], tile["k"], tile["c"], (0, 1)
    return tile["k"], tile["c"], tile["fy"], tile["fx"]


def whole_box(tensor: Tensor) -> Box:
    n, k, y, x = tensor.values.shape
    return (0, n), (0, k), (0, y), (0, x)


class DmaRun(TiledRun):
    """The ops of cores behind a DMA, and of their transfers."""

    def __init__(self, result: Result, network: IntegerNetwork, image: Ints) -> None:
        super().__init__(result, network, image)
        self.buffers: dict[int, list[Region]] = {}  # by the op that filled them: a region an operand, or of weights
        self.results: dict[int, tuple[Ints, Box, int]] = {}  # by the first op of the job: values, box, ready
        self.partial: dict[int, Sums] = {}  # by the first op of the first job
        kind, of = self.program.rows["kind"], self.notes["results_of"]
        stores = np.flatnonzero((kind == STORE) & (of != NONE))
        self.taken = set(of[of[stores]].tolist())  # first ops of jobs whose results a store takes
        jobs = np.flatnonzero(np.isin(kind, JOBS) & (of != NONE) & (self.notes["tile"] != NONE))
        self.last = dict(zip(self.notes["tile"][jobs].tolist(), jobs.tolist(), strict=True))
        begin = jobs[kind[jobs] != LAUNCH]
        self.start = dict(zip(self.notes["tile"][begin][::-1].tolist(), begin[::-1].tolist(), strict=True))
        self.used_last: dict[int, int] = {}  # by the op that filled a buffer, the last op of a job that reads it
        for key in ("inputs_by", "weights_by"):
            self.used_last |= dict(zip(self.notes[key][jobs].tolist(), jobs.tolist(), strict=True))
        self.lines: dict[str, Rows] = {}
        self.fetched: dict[tuple[str, str], Tensor] = {}
        for piece in {id(piece): piece for piece in self.fused.values()}.values():
            rows: dict[str, int] = {}
            for (producer, _), count in line_buffers(self.workload, piece.layers).items():
                rows[producer] = max(rows.get(producer, 0), min(count, self.workload[producer].oy))
            for name, count in rows.items():
                self.lines[name] = Rows([NONE] * count, [np.zeros(0, np.int64)] * count, [0] * count, [0] * count)

    def op(self, op: int) -> None:
        """One op of a DMA, or of a core behind one."""
        row, note = self.program.rows[op], self.notes[op]
        kind, tile = int(row["kind"]), int(note["tile"])
        if tile == NONE:
            return
        name = self.program.layers[row["layer"]]
        if kind in (LOAD, WEIGHTS) and note["target"] != NONE:
            self.transfer(op, name, tile, kind)
        elif kind == STORE and note["results_of"] != NONE:
            self.store(op, name)
        elif self.last.get(tile) == op:
            self.job(op, name, tile)

    def transfer(self, op: int, name: str, tile: int, kind: int) -> None:
        row, end = self.tiles[tile], int(self.trace.end[op])
        (part, core), ranges = self.part(name, int(row["part"])), self.range_of(tile)
        own, about = self.form(name, core)
        if own.second and row["operand"] == 1:
            self.buffers[op] = [self.read_second(own, about, ranges, op, op)]
            self._check_bytes(op, name, elements(self.buffers[op][0].box))
            return
        if row["operand"] == len(own.inputs):
            self._check_bytes(op, name, constants_of(about, own, ranges))
            nothing: Box = ((0, 0),) * 4
            self.buffers[op] = [Region(nothing, np.zeros((0, 0, 0, 0), np.int64), end)]
            return
        if kind == WEIGHTS:
            assert about.weights is not None
            box = ranges["k"], ranges["c"], (0, own.fy), (0, own.fx)
            bits = 2 if core.ternary else part.bits or core.weight_bits
            self._check_bytes(op, name, -(-elements(box) * bits // 8))
            self.buffers[op] = [Region(box, about.weights[tuple(slice(*one) for one in box)], end)]
            return
        if row["fused"]:
            self._fetch(op, name, own, ranges, own.inputs[row["operand"]], end)
            return
        box = inputs_under(own, ranges, bool(row["own"]), about.columns_before(own))
        found = self.read_home(own, box, op, op)
        self._check_bytes(op, name, elements(box) * len(found))
        self.buffers[op] = [Region(box, one.copy(), end) for one in found]

    def _check_bytes(self, op: int, name: str, needed: int) -> None:
        moved = int(self.program.rows["bytes"][op])
        if moved < needed:
            raise TileFault(f"{name}, op {op}: moves {moved} bytes for a tile of {needed}")

    def _fetch(self, op: int, name: str, own: Layer, ranges: Ranges, tensor: str, end: int) -> None:
        """Rows of a tensor from outside that a fused layer's row newly needs."""
        like = self._as_read(own, self.home[tensor])
        near = self.fetched.setdefault((name, tensor), Tensor.empty(tensor, like.values.shape))
        box = inputs_under(own, ranges, own=False)
        box = (box[0], (0, like.values.shape[1]), box[2], (0, like.values.shape[3]))
        have = int((near.ready[0, 0, :, 0] <= end).sum())
        box = (box[0], box[1], (have, max(have, box[2][1])), box[3])
        (found,) = self.read_home(own, box, op, op, [tensor])
        self._check_bytes(op, name, elements(box))
        near.write(box, found, end, f"{name}, op {op}")

    def job(self, op: int, name: str, tile: int) -> None:
        """A job, at its last op."""
        row, note, ranges = self.tiles[tile], self.notes[op], self.range_of(tile)
        (_, core), begin = self.part(name, int(row["part"])), int(note["results_of"])
        own, about = self.form(name, core)
        first, end, who = self.start.get(tile, op), int(self.trace.end[op]), f"{name}, op {op}"
        tick, box = int(self.trace.issue[first]), inputs_under(own, ranges, before=about.columns_before(own))
        if row["fused"]:
            inputs = self._rows(own, box, first, op, core)
        elif note["inputs_by"] != NONE:
            inputs = [one.part(box, tick, who) for one in self.buffers[note["inputs_by"]]]
        else:
            inputs = self.read_home(own, box, first, op)
        weights, at = None, weights_box(own, ranges)
        if note["weights_by"] != NONE:
            came = self.buffers[note["weights_by"]][0]
            weights = came.part(at if own.op in WEIGHTED else came.box, tick, who)
        elif own.op == "matmul":
            weights = self.read_second(own, about, ranges, first, op).values
        elif own.op == "conv":
            assert about.weights is not None
            weights = about.weights[tuple(slice(*one) for one in at)]
        for key in ("inputs_by", "weights_by"):
            if self.used_last.get(int(note[key])) == op:
                self.buffers.pop(int(note[key]), None)
        sums = about.beside(own, tile_sums(own, ranges, inputs, weights, about.converted), ranges)
        if begin in self.partial:
            self.partial[begin].add(sums, counted(ranges, own))
        else:
            self.partial[begin] = Sums(ranges, sums, counted(ranges, own))
        one = self.partial[begin]
        one.ready = end
        if one.counted < products(own):
            return
        out = self.done(name, about, self.partial.pop(begin), own)
        if name in self.lines:
            self._keep_row(name, ranges["oy"][0], out[:, :, 0], tick, end)
        if begin in self.taken:
            self.results[begin] = out, outputs(ranges), end
        elif not row["fused"] or self._leaves(name):
            self.home[name].write(outputs(ranges), out, end, who)

    def _leaves(self, name: str) -> bool:
        """Whether somebody outside of a fused layer's piece reads it."""
        inside = set(self.fused[name].layers)
        return self.workload.leaves(name) or bool(set(self.workload.readers(name)) - inside)

    def store(self, op: int, name: str) -> None:
        begin = int(self.notes["results_of"][self.notes["results_of"][op]])
        if begin not in self.results:
            raise TileFault(f"{name}, op {op}: stores results whose sums are incomplete")
        out, box, ready = self.results.pop(begin)
        if int(self.trace.issue[op]) < ready:
            raise TileFault(f"{name}, op {op}, tick {self.trace.issue[op]}: stores what is there from {ready} on")
        self._check_bytes(op, name, elements(box))
        self.home[name].write(box, out, int(self.trace.end[op]), f"{name}, op {op}")

    # -- fused rows ----------------------------------------------------------------------------------------

    def _keep_row(self, name: str, number: int, values: Ints, start: int, end: int) -> None:
        """Put a row [n, k, ox] into its place of the line buffer. start: when its job begins to write."""
        rows, place = self.lines[name], number % len(self.lines[name].there)
        if rows.there[place] != NONE and rows.read_until[place] > start:
            gone = f"the place of row {rows.there[place]}, read until {rows.read_until[place]}"
            raise TileFault(f"{name}, tick {start}: row {number} takes {gone}")
        rows.there[place], rows.values[place], rows.ready[place], rows.read_until[place] = number, values, end, end

    def _rows(self, own: Layer, box: Box, first: int, last: int, core: Core) -> list[Ints]:
        """What a row of a fused layer reads, of each operand."""
        inside, out = set(self.fused[own.name].layers), []
        tick, until = int(self.trace.issue[first]), int(self.trace.end[last])
        axis = self.joined_along(own) if own.op == "concat" else 1
        for name in operands(own):
            _, k, _, columns = self.home[name].values.shape
            mine: Box = (box[0], (0, k), box[2], (0, columns) if axis == 3 else box[3]) if own.op == "concat" else box
            if name in inside:
                out.append(self._from_lines(name, own, mine, tick, until))
            elif (own.name, name) in self.fetched:
                out.append(self.fetched[own.name, name].read(mine, tick, own.name))
            else:
                out += self.read_home(own, mine, first, last, [name])
        if own.op != "concat":
            return out
        whole = np.concatenate(out, axis)
        return [whole[:, slice(*box[1])] if axis == 1 else whole[..., slice(*box[3])]]

    def _from_lines(self, name: str, own: Layer, box: Box, tick: int, until: int) -> Ints:
        rows, made = self.lines[name], self.workload[name]
        alike = own.op in ("add", "concat") or (own.c, own.iy, own.ix) == (made.k, made.oy, made.ox)
        wanted = range(*box[2]) if alike else range(made.oy)
        lines = []
        for number in wanted:
            place = number % len(rows.there)
            if rows.there[place] != number:
                there = "nothing" if rows.there[place] == NONE else f"row {rows.there[place]}"
                raise TileFault(f"{own.name}, tick {tick}: reads row {number} of {name}, where {there} lies")
            if rows.ready[place] > tick:
                raise TileFault(f"{own.name}, tick {tick}: reads row {number} of {name}, made at {rows.ready[place]}")
            rows.read_until[place] = max(rows.read_until[place], until)
            lines.append(rows.values[place])
        if not lines:
            return np.zeros([b - a for a, b in box], np.int64)
        found = np.stack(lines, 2)  # [n, k, rows, ox]
        if not alike:
            found = found.reshape(own.n, own.c, own.iy, own.ix)[:, :, slice(*box[2])]
        return found[slice(*box[0]), slice(*box[1]), :, slice(*box[3])]


__all__ = ["DmaRun", "Sums", "TiledRun", "counted", "operands", "products"]
